//! A statement that writes sources: the shape of each of its writes, read from its tokens, and the
//! mirrored form built from them ([`form`]).
//!
//! The statement itself may be a write on a source, and so may items of its WITH list. Whatever of
//! it is none stays as the client wrote it: a SELECT over such items keeps its tag and its rows.
//! Each write is fed to every migration of its table.

mod clauses;
mod columns;
mod form;
mod merge;
mod returns;
mod shape;
pub(super) mod with;

use super::cursor::Cursor;
use super::lex::{Kind, identifier};
use super::mention::Table;
use super::reason::Reason;
use super::splice::Spliced;
use super::statement::{Name, Reader};
use super::target::{SyncMode, Target};
use shape::{List, Reach, Shape};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use with::{Item, with_list};

/// Which verb; decides the command tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// `INSERT 0 n`
    Insert,
    /// `UPDATE n`
    Update,
    /// `DELETE n`
    Delete,
    /// `MERGE n`
    Merge,
}

impl Verb {
    /// As the server spells it in tags and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "INSERT",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Merge => "MERGE",
        }
    }
}

/// What the rows of a mirrored form are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// The client's, with its tag: the outcomes come as notices.
    Own,
    /// `(rows int8, outcome int4, …)`, any number of them; the tag says nothing.
    Counted,
    /// `(outcome int4, …)` for each row that was touched; the tag is the client's.
    Outcome,
    /// The client's rows after this many columns of ours, which begin with the outcomes; the tag
    /// ends in their number.
    Leading(usize),
}

/// One migration that a write is fed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feed {
    /// The source as the write spells it.
    pub name: Name,
    reach: Reach,
    /// Whether the write may change key columns.
    vacates: bool,
}

/// The mode of each feed of a write, in order; none where its table is not the source in this
/// session, or the migration is not mirrored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Modes(u64);

/// As many as [`Modes`] holds.
const FEEDS_MAX: usize = 32;

impl Modes {
    /// With one more mode.
    #[must_use]
    pub fn with(self, feed: usize, mode: SyncMode) -> Self {
        let bits: u64 = match mode {
            // Inserted is a COPY's, and no less than that.
            SyncMode::Sync | SyncMode::Inserted => 1,
            SyncMode::SyncRecordDeletes => 2,
            // Repair is no client's.
            SyncMode::RecordOnly | SyncMode::Repair => 3,
        };
        Self(self.0 | bits << (2 * feed.min(FEEDS_MAX - 1)))
    }

    /// The same mode for every feed.
    pub fn all(mode: SyncMode) -> Self {
        (0..FEEDS_MAX).fold(Self::default(), |modes, feed| modes.with(feed, mode))
    }

    /// Whether nothing is to be mirrored.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn of(self, feed: usize) -> Option<SyncMode> {
        match self.0 >> (2 * feed) & 3 {
            0 => None,
            1 => Some(SyncMode::Sync),
            2 => Some(SyncMode::SyncRecordDeletes),
            _ => Some(SyncMode::RecordOnly),
        }
    }
}

impl std::fmt::LowerHex for Modes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::LowerHex::fmt(&self.0, f)
    }
}

/// A source that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// As the write spells it.
    pub name: Name,
    /// Whether the client asks for the rows.
    pub returns: Returns,
}

/// Whether a write of the client's returns something of its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Returns {
    /// It does not, or not for certain: the server may let it write rows that it does not see.
    Nothing,
    /// It does: the server lets it see its rows, or refuses it.
    Rows,
}

/// How the outcome of a sync comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// In a leading column of the rows.
    InRows,
    /// As a notice of SQLSTATE [`TOLD`], if it is not 0.
    ByNotice,
}

/// What tells an outcome: `migration outcome` is its message.
pub const TOLD: &str = "PGSG1";

/// An understood statement: byte positions in its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    whole: Range<usize>,
    /// In the order of the text: items of the WITH list, then the statement itself.
    parts: Vec<Part>,
}

/// One write on a source.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    place: Place,
    shape: Shape,
}

/// Where a write stands in its statement.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// It is the statement.
    Main { with: Before },
    /// It is what COPY sends; the names of its columns.
    Copied { with: Before, columns: Vec<String> },
    /// It is an item of the WITH list: from its name to its closing bracket.
    Item { at: Range<usize>, name: String, columns: Option<Vec<String>> },
}

/// Whether a WITH list stands before a verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    List,
}

/// What a query stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Around {
    /// Nothing that gives its rows another form.
    Nothing,
    /// `COPY (…) TO`
    Copy,
}

impl Write {
    /// Reads what the tokens of this range write to sources; nothing: `None`.
    ///
    /// # Errors
    /// Says what is not understood.
    pub(super) fn read(
        reader: &Reader<'_>,
        query: Range<usize>,
        around: Around,
    ) -> Result<Option<Self>, Reason> {
        let bracketed = query.len();
        let query = unbracketed(reader, query);
        let is_bracketed = query.len() < bracketed;
        let tokens = reader.tokens.get(query.clone()).unwrap_or_default();
        let list = with_list(reader.text, tokens).ok_or(Reason::WithList)?;
        let mut parts = Vec::new();
        for item in &list.items {
            let body = query.start + item.body.start..query.start + item.body.end;
            let Some(shape) = Shape::read(reader, body, List::Own)? else { continue };
            if list.is_recursive && item.names_itself(reader.text, tokens) {
                return Err(Reason::WithItself);
            }
            parts.push(Part { place: Place::item(reader, item, tokens, &shape)?, shape });
        }
        let with = if list.items.is_empty() { Before::Nothing } else { Before::List };
        if let Some(shape) = Shape::read(reader, query, List::Statements)? {
            let place = match around {
                // No statement but a SELECT may stand in brackets.
                _ if is_bracketed => return Err(Reason::WriteShape),
                Around::Nothing => Place::Main { with },
                Around::Copy => {
                    let columns = names(reader, &shape)?.ok_or(Reason::WriteShape)?;
                    Place::Copied { with, columns }
                }
            };
            parts.push(Part { place, shape });
        }
        let Some((first, last)) = reader.tokens.first().zip(reader.tokens.last()) else {
            return Ok(None);
        };
        let write = Self { whole: first.at.start..last.at.end, parts };
        write.audit(reader)?;
        Ok((!write.parts.is_empty()).then_some(write))
    }

    /// Whether nothing stands in the way of the mirrored form.
    fn audit(&self, reader: &Reader<'_>) -> Result<(), Reason> {
        if self.parts.is_empty() {
            return Ok(());
        }
        // Of this statement alone: a text may have thousands.
        if reader.text.get(self.whole.clone()).is_none_or(|sql| sql.contains("\"pgsegue ")) {
            return Err(Reason::OurNames);
        }
        let unicode = reader.tokens.iter().filter(|t| t.kind == Kind::UnicodeQuoted);
        let mut unicode = unicode.filter_map(|t| identifier(reader.text, t));
        if unicode.any(|name| name.starts_with("pgsegue ")) {
            return Err(Reason::OurNames);
        }
        if self.feeds().count() > FEEDS_MAX {
            return Err(Reason::ManyMigrations);
        }
        let silent = self.parts.iter().filter_map(|p| match &p.place {
            Place::Item { name, columns: None, .. } => Some(name),
            Place::Item { .. } | Place::Main { .. } | Place::Copied { .. } => None,
        });
        let silent: Vec<_> = silent.collect();
        if !silent.is_empty() {
            let mut spelled = HashMap::<_, u32>::new();
            for name in reader.tokens.iter().filter_map(|t| identifier(reader.text, t)) {
                *spelled.entry(name).or_default() += 1;
            }
            // The server refuses a reference to an item that returns nothing; ours returns keys.
            if silent.iter().any(|name| spelled.get(*name) != Some(&1)) {
                return Err(Reason::WithoutReturning);
            }
        }
        Ok(())
    }

    /// Index of the verb's token of each write.
    pub(super) fn verb_tokens(&self) -> impl Iterator<Item = usize> + '_ {
        self.parts.iter().map(|p| p.shape.verb_token)
    }

    /// The migrations that its writes are fed to, as [`Modes`] counts them.
    pub fn feeds(&self) -> impl Iterator<Item = &Feed> {
        self.parts.iter().flat_map(|p| &p.shape.feeds)
    }

    /// What each of its writes is on, and whether the client asks for rows of it.
    pub fn written(&self) -> impl Iterator<Item = Written> + '_ {
        self.parts.iter().flat_map(|part| {
            let returns = part.shape.returns;
            part.shape.feeds.iter().map(move |feed| Written { name: feed.name, returns })
        })
    }

    /// The write that the statement itself is, with the number of its first feed.
    fn main(&self) -> Option<(usize, &Part)> {
        let last = self.parts.last().filter(|p| matches!(p.place, Place::Main { .. }))?;
        Some((self.feeds().count() - last.shape.feeds.len(), last))
    }

    /// The write that the server calls the statement by: itself, or what COPY sends.
    fn called(&self) -> Option<&Shape> {
        let last = self.parts.last().filter(|p| !matches!(p.place, Place::Item { .. }))?;
        Some(&last.shape)
    }

    /// The verb that the server calls it by, where that is a write on a source.
    pub fn verb(&self) -> Option<Verb> {
        self.called().map(|shape| shape.verb)
    }

    /// The same, where its mirrored form locks the rows before it.
    pub fn locked_for(&self) -> Option<Verb> {
        self.called().and_then(|shape| shape.locked_for)
    }

    /// The targets that are fed, each with how its outcome comes; those in the rows in the order of
    /// their columns.
    pub fn told(&self, modes: Modes) -> impl Iterator<Item = (usize, Told)> {
        let first = match self.main() {
            Some((first, main)) if main.shape.noted.is_none() => first,
            _ => usize::MAX,
        };
        let fed = self.feeds().enumerate().filter(move |(n, _)| modes.of(*n).is_some());
        fed.map(move |(n, feed)| {
            (feed.name.target, if n >= first { Told::InRows } else { Told::ByNotice })
        })
    }

    /// What the rows of the mirrored form are.
    pub fn layout(&self, targets: &[Arc<Target>], modes: Modes) -> Layout {
        let Some((first, main)) = self.main() else { return Layout::Own };
        form::layout(main, &form::fed(main, first, targets, modes))
    }

    /// The statement that does the same and feeds the keys to the sync functions. Its rows are as
    /// [`Self::layout`] says.
    pub fn mirrored(&self, text: &str, targets: &[Arc<Target>], modes: Modes) -> Spliced {
        form::mirrored(self, text, targets, modes)
    }
}

impl Place {
    fn item(
        reader: &Reader<'_>,
        item: &Item,
        tokens: &[super::lex::Token],
        shape: &Shape,
    ) -> Result<Self, Reason> {
        let columns = names(reader, shape)?;
        if columns.is_none() && item.has_columns {
            return Err(Reason::WithoutReturning);
        }
        let first = tokens.get(item.at.start).ok_or(Reason::WriteShape)?;
        let last = tokens.get(item.at.end - 1).ok_or(Reason::WriteShape)?;
        Ok(Self::Item { at: first.at.start..last.at.end, name: item.name.clone(), columns })
    }
}

impl Item {
    fn names_itself(&self, text: &str, tokens: &[super::lex::Token]) -> bool {
        let body = tokens.get(self.body.clone()).unwrap_or_default();
        body.iter().any(|t| identifier(text, t).as_ref() == Some(&self.name))
    }
}

/// The names of the columns that a write returns, if it returns any.
fn names(reader: &Reader<'_>, shape: &Shape) -> Result<Option<Vec<String>>, Reason> {
    let Some(returning) = &shape.returning else { return Ok(None) };
    let mut of = shape.feeds.iter().filter_map(|f| reader.targets.get(f.name.target));
    let first = of.next().ok_or(Reason::WriteShape)?;
    let table = shape.feeds.first().ok_or(Reason::WriteShape)?.name.table;
    let same = shape.feeds.iter().all(|f| f.name.table == table);
    let columns = match table {
        Table::Source => Some(first.columns.as_slice()),
        // A partition may have its columns in another order.
        Table::Part(oid) => {
            let mut parts = first.parts.values().flatten();
            parts.find(|part| part.oid == oid).map(|part| part.columns.as_slice())
        }
        Table::Shadow | Table::Through => None,
    };
    let returned = columns::Returned {
        refname: &shape.refname,
        columns: columns.filter(|_| same && of.all(|t| t.source == first.source)),
        is_alone: shape.is_alone,
    };
    let tokens = reader.tokens.get(returning.tokens.clone()).unwrap_or_default();
    columns::names(reader.text, tokens, &returned).map(Some)
}

/// The tokens of a query in brackets, without those brackets and what follows them.
fn unbracketed(reader: &Reader<'_>, mut query: Range<usize>) -> Range<usize> {
    loop {
        let tokens = reader.tokens.get(query.clone()).unwrap_or_default();
        let mut c = Cursor::new(reader.text, tokens);
        if !c.is_text("(") || !c.eat_group() {
            return query;
        }
        if ["union", "intersect", "except"].iter().any(|k| c.find_top(k).is_some()) {
            return query;
        }
        query = query.start + 1..query.start + c.at - 1;
    }
}

#[cfg(test)]
pub(in crate::sql) mod tests;
