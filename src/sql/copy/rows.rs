//! Where the fields of text and CSV go: those of key columns are kept, the others only counted.

use super::encoding::Alphabet;
use super::keys::Keys;
use super::{Header, Lines};
use crate::sql::reason::Reason;

/// A key column among the fields of a row.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) position: usize,
    pub(super) null: Null,
}

/// When a field that reads like NULL is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Null {
    /// When it is spelled so, without quotes.
    Spelled,
    /// When its value is so, quotes or not.
    Meant,
    /// When its value is so, and it is not spelled so.
    Quoted,
    Never,
}

/// Whether a field is in quotes, or partly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quoted {
    No,
    Yes,
}

/// The rows of one COPY.
#[derive(Debug)]
pub(super) struct Rows {
    wanted: Vec<Wanted>,
    columns: usize,
    null: Vec<u8>,
    default: Option<Vec<u8>>,
    alphabet: Alphabet,
    /// The next line is a header.
    header: Header,
    /// Which field this is.
    field: usize,
    /// Which key column it is.
    current: Option<usize>,
    /// The key of this row, as far as it is known.
    values: Vec<Vec<u8>>,
    /// The field as it is spelled, as far as that matters.
    spelled: Vec<u8>,
    spelled_max: usize,
    keys: Keys,
    /// Why not all keys are known.
    unsure: Option<Reason>,
}

impl Rows {
    pub(super) fn new(
        wanted: Vec<Wanted>,
        columns: usize,
        lines: &Lines,
        alphabet: Alphabet,
        keys: Keys,
    ) -> Self {
        let (null, default) = (lines.null.clone(), lines.default.clone());
        let spelled_max = null.len().max(default.as_ref().map_or(0, Vec::len)) + 1;
        let values = wanted.iter().map(|_| Vec::new()).collect();
        let mut rows = Self {
            wanted,
            columns,
            null,
            default,
            alphabet,
            header: lines.header,
            field: 0,
            current: None,
            values,
            spelled: Vec::new(),
            spelled_max,
            keys,
            unsure: None,
        };
        rows.begin(0);
        rows
    }

    fn begin(&mut self, field: usize) {
        self.field = field;
        self.current = match self.header {
            Header::None => self.wanted.iter().position(|w| w.position == field),
            Header::Line => None,
        };
        self.spelled.clear();
        if let Some(value) = self.current.and_then(|c| self.values.get_mut(c)) {
            value.clear();
        }
    }

    /// Bytes of the current field that mean themselves.
    pub(super) fn plain(&mut self, bytes: &[u8]) {
        self.spelled(bytes);
        self.meant(bytes);
    }

    /// Bytes that the current field is spelled with.
    pub(super) fn spelled(&mut self, bytes: &[u8]) {
        if self.current.is_some() {
            let room = self.spelled_max.saturating_sub(self.spelled.len());
            self.spelled.extend(bytes.iter().take(room));
        }
    }

    /// Bytes that the current field means.
    pub(super) fn meant(&mut self, bytes: &[u8]) {
        let Some(value) = self.current.and_then(|c| self.values.get_mut(c)) else { return };
        if !self.keys.have_room_for(value.len() + bytes.len()) {
            self.fail(Reason::CopyManyKeys);
            return;
        }
        value.extend_from_slice(bytes);
    }

    /// A byte that the current field means, by its number: it is one of the server's encoding.
    pub(super) fn numbered(&mut self, byte: u8) {
        if self.current.is_some() && (byte == 0 || !byte.is_ascii()) {
            self.fail(Reason::CopyKeyEscaped);
        }
        self.meant(&[byte]);
    }

    pub(super) fn end_field(&mut self, quoted: Quoted) {
        if let Some(current) = self.current {
            self.end_key(current, quoted);
        }
        self.begin(self.field + 1);
    }

    fn end_key(&mut self, current: usize, quoted: Quoted) {
        let (Some(wanted), Some(value)) = (self.wanted.get(current), self.values.get(current))
        else {
            return;
        };
        let reads_null = quoted == Quoted::No && self.spelled == self.null;
        let is_null = match wanted.null {
            Null::Spelled => reads_null,
            Null::Meant => reads_null || *value == self.null,
            Null::Quoted => !reads_null && *value == self.null,
            Null::Never => false,
        };
        let foreign = self.alphabet == Alphabet::Ascii && !value.is_ascii();
        if is_null {
            self.fail(Reason::CopyKeyNull);
        } else if self.default.as_ref() == Some(&self.spelled) {
            self.fail(Reason::CopyKeyDefault);
        } else if foreign {
            self.fail(Reason::CopyKeyEncoding);
        }
    }

    /// The last field of a line has ended with it.
    pub(super) fn end_line(&mut self, quoted: Quoted) {
        if self.header == Header::Line {
            self.header = Header::None;
            self.begin(0);
            return;
        }
        self.end_field(quoted);
        if self.field != self.columns {
            self.fail(Reason::CopyData);
        } else if self.unsure.is_none()
            && let Err(why) = self.keys.push(&self.values)
        {
            self.fail(why);
        }
        self.begin(0);
    }

    /// Not all keys will be known: none has to be kept.
    pub(super) fn fail(&mut self, why: Reason) {
        if self.unsure.is_none() {
            self.unsure = Some(why);
            self.keys.clear();
        }
    }

    /// Whether the line at hand is the header, which nobody parses.
    pub(super) fn is_in_header(&self) -> bool {
        self.header == Header::Line
    }

    pub(super) fn has_failed(&self) -> bool {
        self.unsure.is_some()
    }

    pub(super) fn finish(self) -> Result<Keys, Reason> {
        match self.unsure {
            None => self.keys.complete(),
            Some(why) => Err(why),
        }
    }
}
