//! CSV: fields between delimiters, quoted where they have to be.

use super::keys::Keys;
use super::rows::{Quoted, Rows};
use super::{LineByte, LineEnd, Quotes};
use crate::sql::reason::Reason;

/// Reads it.
#[derive(Debug)]
pub(super) struct Csv {
    delimiter: u8,
    quote: u8,
    escape: u8,
    end_mark: EndMark,
    rows: Rows,
    line_end: LineEnd,
    state: State,
    /// Whether the current field has a part in quotes.
    quoted: Quoted,
    /// The beginning of a line that may be the end mark.
    begins: Vec<u8>,
}

/// What a line `\.` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndMark {
    /// The end of the data.
    Ends,
    /// A row like others.
    Row,
    /// The version is not known.
    Unknown,
}

impl EndMark {
    pub(super) fn of_version(major: u32) -> Self {
        match major {
            0 => Self::Unknown,
            1..=17 => Self::Ends,
            _ => Self::Row,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// At the beginning of a line.
    Line,
    /// Behind what may be the beginning of the end mark.
    MayEnd,
    Plain,
    /// Behind a carriage return that may be half of a line's end.
    Return,
    InQuotes,
    /// Behind what ends the quotes, or escapes the next one.
    QuoteInQuotes,
    /// Behind an escape that is no quote.
    EscapeInQuotes,
    /// Behind the end mark: the rest is ignored.
    Ended,
}

impl Csv {
    pub(super) fn new(delimiter: u8, quotes: &Quotes, end_mark: EndMark, rows: Rows) -> Self {
        Self {
            delimiter,
            quote: quotes.quote,
            escape: quotes.escape,
            end_mark,
            rows,
            line_end: LineEnd::Unknown,
            state: State::Line,
            quoted: Quoted::No,
            begins: Vec::new(),
        }
    }

    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.rows.has_failed() {
            let (delimiter, quote, escape) = (self.delimiter, self.quote, self.escape);
            let run = match self.state {
                State::Plain => bytes
                    .iter()
                    .position(|b| matches!(*b, b'\n' | b'\r') || *b == delimiter || *b == quote),
                State::InQuotes => bytes.iter().position(|b| *b == quote || *b == escape),
                _ => Some(0),
            };
            let (plain, rest) = bytes.split_at(run.unwrap_or(bytes.len()));
            self.rows.plain(plain);
            let Some((byte, rest)) = rest.split_first() else { break };
            self.byte(*byte);
            bytes = rest;
        }
    }

    fn byte(&mut self, b: u8) {
        match self.state {
            State::Line if b == b'\\' && self.end_mark != EndMark::Row => {
                self.begins.push(b);
                self.state = State::MayEnd;
            }
            State::Line | State::Plain => self.plain(b),
            State::MayEnd => self.may_end(b),
            State::Return if b == b'\n' => {
                self.line_end = LineEnd::Both;
                self.end_line();
            }
            State::Return => {
                self.end_return();
                self.byte(b);
            }
            State::InQuotes => self.in_quotes(b),
            State::QuoteInQuotes if b == self.quote => {
                self.rows.plain(&[b]);
                self.state = State::InQuotes;
            }
            State::QuoteInQuotes => self.plain(b),
            State::EscapeInQuotes if b == self.quote || b == self.escape => {
                self.rows.plain(&[b]);
                self.state = State::InQuotes;
            }
            State::EscapeInQuotes => {
                self.rows.meant(&[self.escape]);
                self.in_quotes(b);
            }
            State::Ended => {}
        }
    }

    /// A byte outside quotes.
    fn plain(&mut self, b: u8) {
        self.state = State::Plain;
        match self.line_end.byte(b) {
            LineByte::Ends => self.end_line(),
            LineByte::Returns => self.state = State::Return,
            LineByte::Refused => self.rows.fail(Reason::CopyData),
            LineByte::Other if b == self.delimiter => {
                self.rows.end_field(self.quoted);
                self.quoted = Quoted::No;
            }
            LineByte::Other if b == self.quote => {
                self.rows.spelled(&[b]);
                self.quoted = Quoted::Yes;
                self.state = State::InQuotes;
            }
            LineByte::Other => self.rows.plain(&[b]),
        }
    }

    fn in_quotes(&mut self, b: u8) {
        self.state = State::InQuotes;
        if b == self.escape && self.escape != self.quote {
            self.rows.spelled(&[b]);
            self.state = State::EscapeInQuotes;
        } else if b == self.quote {
            self.rows.spelled(&[b]);
            let doubled = self.escape == self.quote;
            self.state = if doubled { State::QuoteInQuotes } else { State::Plain };
        } else {
            self.rows.plain(&[b]);
        }
    }

    /// `\.` ends the data if it is a whole line, with the same end as the lines before.
    fn may_end(&mut self, b: u8) {
        let ends = match (self.begins.as_slice(), b, self.line_end) {
            (br"\", b'.', _) | (br"\.", b'\r', LineEnd::Both) => None,
            (br"\.", b'\r' | b'\n', LineEnd::Unknown)
            | (br"\.", b'\n', LineEnd::Newline)
            | (br"\.", b'\r', LineEnd::Return)
            | (b"\\.\r", b'\n', LineEnd::Both) => Some(true),
            _ => Some(false),
        };
        match ends {
            None => self.begins.push(b),
            Some(true) => {
                self.state = State::Ended;
                if self.end_mark == EndMark::Unknown {
                    self.rows.fail(Reason::CopyData);
                }
            }
            Some(false) => {
                self.is_no_end();
                self.byte(b);
            }
        }
    }

    /// The line that begins like the end mark is a row.
    fn is_no_end(&mut self) {
        self.state = State::Plain;
        for b in std::mem::take(&mut self.begins) {
            self.byte(b);
        }
    }

    /// A carriage return alone.
    fn end_return(&mut self) {
        if self.line_end.return_alone() == LineByte::Refused {
            self.rows.fail(Reason::CopyData);
        }
        self.end_line();
    }

    fn end_line(&mut self) {
        self.rows.end_line(self.quoted);
        self.quoted = Quoted::No;
        self.state = State::Line;
    }

    pub(super) fn finish(mut self) -> Result<Keys, Reason> {
        if self.state == State::MayEnd {
            self.is_no_end();
        }
        match self.state {
            State::Line | State::Ended => {}
            State::Return => self.end_return(),
            _ if self.rows.is_in_header() => {}
            State::Plain | State::QuoteInQuotes => self.end_line(),
            State::InQuotes | State::EscapeInQuotes | State::MayEnd => {
                self.rows.fail(Reason::CopyData)
            }
        }
        self.rows.finish()
    }
}
