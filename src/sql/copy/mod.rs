//! COPY … FROM STDIN into a migrated table: the keys of its rows, read along in the client's data
//! on their way to the server. Pure and streaming: bytes in, in pieces of any size; memory is
//! bounded by [`KEYS_BYTES_MAX`].
//!
//! What counts is a COPY that succeeds. Then every key that it has inserted is among those
//! collected, or [`Reader::finish`] says why that is not sure. Of data that the server refuses
//! anything may be collected: it inserts none of them. Keys of rows that it skips (WHERE, ON_ERROR)
//! do no harm: a key can only make the shadow follow the source.
//!
//! The server's reading is described in <https://www.postgresql.org/docs/18/sql-copy.html>.

mod binary;
mod csv;
mod encoding;
mod keys;
mod options;
mod rows;
mod text;

pub use keys::{KEYS_BYTES_MAX, Keys, Values};
pub(super) use options::read;

use super::target::{Counted, Filled, Target};
use crate::sql::reason::Reason;
use rows::{Rows, Wanted};

/// A COPY … FROM STDIN, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyFrom {
    /// The columns that it lists.
    columns: Option<Vec<String>>,
    format: Format,
    on_error: OnError,
    /// The encoding of its data, if not the client's.
    encoding: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Format {
    Text(Lines),
    Csv(Lines, Quotes),
    Binary,
}

/// What text and CSV have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Lines {
    delimiter: u8,
    null: Vec<u8>,
    default: Option<Vec<u8>>,
    header: Header,
}

/// What only CSV has.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Quotes {
    quote: u8,
    escape: u8,
    force_null: Columns,
    force_not_null: Columns,
}

/// Whether the first line is none of the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Header {
    #[default]
    None,
    Line,
}

/// What becomes of rows with values that their types do not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum OnError {
    #[default]
    Stop,
    Ignore,
}

/// Columns that an option is for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum Columns {
    #[default]
    None,
    These(Vec<String>),
    All,
}

impl Columns {
    fn contain(&self, name: &str) -> bool {
        match self {
            Self::None => false,
            Self::These(names) => names.iter().any(|n| n == name),
            Self::All => true,
        }
    }
}

/// What has to be known of a session to read its data.
#[derive(Debug, Clone, Copy)]
pub struct Dialect<'a> {
    /// `client_encoding`, as the server reports it.
    pub client_encoding: &'a str,
    /// The server's major version; 0: unknown.
    pub server_version: u32,
}

/// One that nothing hangs on that a text says.
pub(super) const ANY_DIALECT: Dialect<'_> =
    Dialect { client_encoding: "UTF8", server_version: u32::MAX };

/// How the keys of a COPY become known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// They are in its data.
    Read,
    /// A sequence makes them up: they lie between what it stands at before and behind the COPY.
    Counted,
}

/// Collects the keys of one COPY.
#[derive(Debug)]
pub struct Reader {
    /// Fields of a row.
    columns: usize,
    data: Data,
}

#[derive(Debug)]
enum Data {
    Text(text::Text),
    Csv(csv::Csv),
    Binary(binary::Binary),
}

impl CopyFrom {
    /// The columns that it lists.
    pub fn columns(&self) -> Option<&[String]> {
        self.columns.as_deref()
    }

    /// How its keys become known.
    ///
    /// # Errors
    /// Says why they do not.
    pub fn way(&self, target: &Target, dialect: Dialect<'_>) -> Result<Way, Reason> {
        let lists =
            |column: &str| self.columns.as_ref().is_none_or(|c| c.iter().any(|c| c == column));
        match &target.counted {
            Some(Counted { column, filled: Filled::BySequence, .. }) if !lists(column.as_str()) => {
                Ok(Way::Counted)
            }
            _ => self.reader(target, dialect).map(|_| Way::Read),
        }
    }

    /// A reader of its data.
    ///
    /// # Errors
    /// Says why the keys cannot be read along.
    pub fn reader(&self, target: &Target, dialect: Dialect<'_>) -> Result<Reader, Reason> {
        let copyable = target.copy.as_ref().map_err(|why| *why)?;
        let all = || copyable.columns.iter().map(|c| c.as_str().to_owned()).collect();
        let columns: Vec<String> = self.columns.clone().unwrap_or_else(all);
        let positions = target
            .key
            .iter()
            .map(|key| columns.iter().position(|c| c == key.as_str()))
            .collect::<Option<Vec<usize>>>()
            .ok_or(Reason::CopyWithoutKey)?;
        let alphabet = encoding::alphabet(self.encoding.as_deref(), dialect.client_encoding)?;
        let spanned = target.counted.as_ref().filter(|counted| counted.functions.is_some());
        let spanned = spanned.and_then(|c| target.key.iter().position(|key| *key == c.column));
        let keys = Keys::new(copyable, self.values(), spanned);
        let wanted = |rules: &dyn Fn(&str) -> rows::Null| {
            let name = |at: usize| columns.get(at).map(String::as_str).unwrap_or_default();
            positions.iter().map(|at| Wanted { position: *at, null: rules(name(*at)) }).collect()
        };
        let data = match &self.format {
            Format::Binary => Data::Binary(binary::Binary::new(positions, columns.len(), keys)),
            Format::Text(lines) => {
                let wanted = wanted(&|_| rows::Null::Spelled);
                let rows = Rows::new(wanted, columns.len(), lines, alphabet, keys);
                Data::Text(text::Text::new(lines.delimiter, rows))
            }
            Format::Csv(lines, quotes) => {
                let wanted = wanted(&|name| quotes.null_of(name));
                let rows = Rows::new(wanted, columns.len(), lines, alphabet, keys);
                let end = csv::EndMark::of_version(dialect.server_version);
                Data::Csv(csv::Csv::new(lines.delimiter, quotes, end, rows))
            }
        };
        Ok(Reader { columns: columns.len(), data })
    }

    fn values(&self) -> Values {
        match (&self.format, self.on_error) {
            (Format::Binary, _) => Values::Binary,
            (_, OnError::Stop) => Values::Text,
            (_, OnError::Ignore) => Values::Unchecked,
        }
    }
}

impl Quotes {
    fn null_of(&self, column: &str) -> rows::Null {
        match (self.force_null.contain(column), self.force_not_null.contain(column)) {
            (true, true) => rows::Null::Quoted,
            (true, false) => rows::Null::Meant,
            (false, true) => rows::Null::Never,
            (false, false) => rows::Null::Spelled,
        }
    }
}

impl Reader {
    /// Format code and number of columns that the server is to ask for.
    pub fn expects(&self) -> (u8, usize) {
        (u8::from(matches!(self.data, Data::Binary(_))), self.columns)
    }

    /// Reads on.
    pub fn feed(&mut self, bytes: &[u8]) {
        match &mut self.data {
            Data::Text(text) => text.feed(bytes),
            Data::Csv(csv) => csv.feed(bytes),
            Data::Binary(binary) => binary.feed(bytes),
        }
    }

    /// The data are complete.
    ///
    /// # Errors
    /// Says why the keys are not surely all.
    pub fn finish(self) -> Result<Keys, Reason> {
        match self.data {
            Data::Text(text) => text.finish(),
            Data::Csv(csv) => csv.finish(),
            Data::Binary(binary) => binary.finish(),
        }
    }
}

/// How lines end, as the server has found out from the first of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum LineEnd {
    #[default]
    Unknown,
    Newline,
    Return,
    Both,
}

/// What a byte that is no part of a value does to its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LineByte {
    /// Nothing: it is no end of a line.
    Other,
    Ends,
    /// It ends the line, alone or with the newline behind it.
    Returns,
    /// The server refuses it: the lines before it ended otherwise.
    Refused,
}

impl LineEnd {
    fn byte(&mut self, b: u8) -> LineByte {
        match (b, *self) {
            (b'\n', Self::Unknown | Self::Newline) => {
                *self = Self::Newline;
                LineByte::Ends
            }
            (b'\r', Self::Unknown | Self::Both) => LineByte::Returns,
            (b'\r', Self::Return) => LineByte::Ends,
            (b'\n' | b'\r', _) => LineByte::Refused,
            _ => LineByte::Other,
        }
    }

    /// A carriage return ends a line alone; where both end lines, the server refuses that.
    fn return_alone(&mut self) -> LineByte {
        match std::mem::replace(self, Self::Return) {
            Self::Both => LineByte::Refused,
            Self::Unknown | Self::Newline | Self::Return => LineByte::Ends,
        }
    }
}
