//! The text format: fields between delimiters, bytes escaped by backslashes.

use super::keys::Keys;
use super::rows::{Quoted, Rows};
use super::{LineByte, LineEnd};
use crate::sql::reason::Reason;

/// Reads it.
#[derive(Debug)]
pub(super) struct Text {
    delimiter: u8,
    rows: Rows,
    line_end: LineEnd,
    state: State,
    /// Whether this line has begun.
    line: Line,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Empty,
    Begun,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Plain,
    /// Behind a carriage return that may be half of a line's end.
    Return,
    Backslash,
    /// A byte by its number in this base, with that many digits so far.
    Octal(u8, u8),
    Hexadecimal(u8, u8),
    /// Behind `\.`: the rest is ignored.
    Ended,
}

impl Text {
    pub(super) fn new(delimiter: u8, rows: Rows) -> Self {
        let (line_end, state) = (LineEnd::Unknown, State::Plain);
        Self { delimiter, rows, line_end, state, line: Line::Empty }
    }

    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.rows.has_failed() {
            if self.state == State::Plain {
                let special = |b: &u8| matches!(*b, b'\\' | b'\n' | b'\r') || *b == self.delimiter;
                let run = bytes.iter().position(special).unwrap_or(bytes.len());
                let (plain, rest) = bytes.split_at(run);
                if !plain.is_empty() {
                    self.line = Line::Begun;
                    self.rows.plain(plain);
                }
                bytes = rest;
            }
            let Some((byte, rest)) = bytes.split_first() else { break };
            self.byte(*byte);
            bytes = rest;
        }
    }

    fn byte(&mut self, b: u8) {
        match self.state {
            State::Plain => self.plain(b),
            State::Return if b == b'\n' => {
                self.line_end = LineEnd::Both;
                self.end_line();
            }
            State::Return => {
                self.end_return();
                self.plain(b);
            }
            State::Backslash => self.escaped(b),
            State::Octal(value, digits) => match b {
                b'0'..=b'7' => {
                    let value = value.wrapping_mul(8).wrapping_add(b - b'0');
                    self.number(&[b], State::Octal(value, digits + 1));
                }
                _ => self.end_number(b),
            },
            State::Hexadecimal(value, digits) => match char::from(b).to_digit(16) {
                Some(digit) => {
                    let digit = u8::try_from(digit).unwrap_or(0);
                    let value = value.wrapping_mul(16).wrapping_add(digit);
                    self.number(&[b], State::Hexadecimal(value, digits + 1));
                }
                None => self.end_number(b),
            },
            State::Ended => {}
        }
    }

    fn plain(&mut self, b: u8) {
        match self.line_end.byte(b) {
            LineByte::Ends => self.end_line(),
            LineByte::Returns => self.state = State::Return,
            LineByte::Refused => self.rows.fail(Reason::CopyData),
            LineByte::Other if b == b'\\' => self.state = State::Backslash,
            _ if b == self.delimiter => {
                self.line = Line::Begun;
                self.rows.end_field(Quoted::No);
            }
            _ => {
                self.line = Line::Begun;
                self.rows.plain(&[b]);
            }
        }
    }

    /// The byte behind a backslash.
    fn escaped(&mut self, b: u8) {
        self.state = State::Plain;
        if b == b'.' {
            // What is before it on its line was a row, up to Postgres 17.
            if self.line == Line::Begun {
                self.end_line();
            }
            self.state = State::Ended;
            return;
        }
        self.line = Line::Begun;
        self.rows.spelled(&[b'\\', b]);
        match b {
            b'0'..=b'7' => self.state = State::Octal(b - b'0', 1),
            b'x' => self.state = State::Hexadecimal(0, 0),
            b'b' => self.rows.meant(&[8]),
            b'f' => self.rows.meant(&[12]),
            b'n' => self.rows.meant(b"\n"),
            b'r' => self.rows.meant(b"\r"),
            b't' => self.rows.meant(b"\t"),
            b'v' => self.rows.meant(&[11]),
            other => self.rows.meant(&[other]),
        }
    }

    fn number(&mut self, spelled: &[u8], state: State) {
        self.rows.spelled(spelled);
        self.state = match state {
            State::Octal(value, 3) | State::Hexadecimal(value, 2) => {
                self.rows.numbered(value);
                State::Plain
            }
            more => more,
        };
    }

    fn end_number(&mut self, b: u8) {
        self.number_is_complete();
        self.plain(b);
    }

    fn number_is_complete(&mut self) {
        match self.state {
            State::Hexadecimal(_, 0) => self.rows.meant(b"x"),
            State::Octal(value, _) | State::Hexadecimal(value, _) => self.rows.numbered(value),
            _ => {}
        }
        self.state = State::Plain;
    }

    /// A carriage return alone.
    fn end_return(&mut self) {
        if self.line_end.return_alone() == LineByte::Refused {
            self.rows.fail(Reason::CopyData);
        }
        self.end_line();
    }

    fn end_line(&mut self) {
        self.rows.end_line(Quoted::No);
        self.line = Line::Empty;
        self.state = State::Plain;
    }

    pub(super) fn finish(mut self) -> Result<Keys, Reason> {
        match self.state {
            State::Return => self.end_return(),
            // The last line of all may end in a backslash that means nothing.
            State::Backslash => self.line = Line::Begun,
            State::Octal(..) | State::Hexadecimal(..) => self.number_is_complete(),
            State::Plain | State::Ended => {}
        }
        if self.line == Line::Begun && self.state != State::Ended {
            self.end_line();
        }
        self.rows.finish()
    }
}
