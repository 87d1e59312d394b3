//! The binary format: a header, then rows of values with their lengths before them.

use super::keys::Keys;
use crate::sql::reason::Reason;

const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";

/// Reads it.
#[derive(Debug)]
pub(super) struct Binary {
    positions: Vec<usize>,
    columns: usize,
    keys: Keys,
    values: Vec<Vec<u8>>,
    state: State,
    /// The number that is being read.
    number: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Signature and flags.
    Signature,
    /// The length of the header's extension.
    Extension,
    /// That many bytes go by.
    Skip(usize),
    /// The number of fields of a row.
    Row,
    /// The length of a field.
    Field(usize),
    /// A key column, with that many bytes to come, of this field.
    Key {
        column: usize,
        left: usize,
        field: usize,
    },
    /// A field that is no key, with that many bytes to come.
    Other {
        left: usize,
        field: usize,
    },
    Ended,
    Unsure(Reason),
}

impl Binary {
    pub(super) fn new(positions: Vec<usize>, columns: usize, keys: Keys) -> Self {
        let values = positions.iter().map(|_| Vec::new()).collect();
        Self { positions, columns, keys, values, state: State::Signature, number: Vec::new() }
    }

    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let used = self.step(bytes);
            bytes = bytes.get(used..).unwrap_or_default();
        }
    }

    /// Reads on by at least one byte; says by how many.
    fn step(&mut self, bytes: &[u8]) -> usize {
        match self.state {
            State::Signature => self.collect(bytes, SIGNATURE.len() + 4, |binary, read| {
                let signed = read.starts_with(SIGNATURE);
                binary.state =
                    if signed { State::Extension } else { State::Unsure(Reason::CopyData) };
            }),
            State::Extension => self.collect(bytes, 4, |binary, read| {
                binary.state = match usize::try_from(number(read)) {
                    Ok(0) => State::Row,
                    Ok(length) => State::Skip(length),
                    Err(_negative) => State::Unsure(Reason::CopyData),
                };
            }),
            State::Skip(left) => {
                let used = left.min(bytes.len());
                self.state = if used == left { State::Row } else { State::Skip(left - used) };
                used
            }
            State::Row => self.collect(bytes, 2, |binary, read| {
                let fields = i16::try_from(number(read)).unwrap_or(0);
                binary.state = match usize::try_from(fields) {
                    Ok(fields) if fields == binary.columns => State::Field(0),
                    Err(_negative) if fields == -1 => State::Ended,
                    _ => State::Unsure(Reason::CopyData),
                };
            }),
            State::Field(field) => {
                self.collect(bytes, 4, |binary, read| binary.begin(field, number(read)))
            }
            State::Key { column, left, field } => {
                let used = left.min(bytes.len());
                if let Some(value) = self.values.get_mut(column) {
                    value.extend_from_slice(bytes.get(..used).unwrap_or_default());
                }
                match left - used {
                    0 => self.end_field(field),
                    left => self.state = State::Key { column, left, field },
                }
                used
            }
            State::Other { left, field } => {
                let used = left.min(bytes.len());
                match left - used {
                    0 => self.end_field(field),
                    left => self.state = State::Other { left, field },
                }
                used
            }
            State::Ended | State::Unsure(_) => bytes.len(),
        }
    }

    /// Reads a number of this many bytes, which may come in pieces.
    fn collect(
        &mut self,
        bytes: &[u8],
        length: usize,
        then: impl FnOnce(&mut Self, &[u8]),
    ) -> usize {
        let used = (length - self.number.len()).min(bytes.len());
        self.number.extend_from_slice(bytes.get(..used).unwrap_or_default());
        if self.number.len() == length {
            let mut read = std::mem::take(&mut self.number);
            then(self, &read);
            read.clear();
            self.number = read;
        }
        used
    }

    fn begin(&mut self, field: usize, length: i32) {
        let column = self.positions.iter().position(|at| *at == field);
        let length = match usize::try_from(length) {
            Ok(length) => length,
            Err(_negative) if length != -1 => return self.fail(Reason::CopyData),
            Err(_null) if column.is_some() => return self.fail(Reason::CopyKeyNull),
            Err(_null) => return self.end_field(field),
        };
        if let Some(value) = column.and_then(|c| self.values.get_mut(c)) {
            value.clear();
            if !self.keys.have_room_for(length) {
                return self.fail(Reason::CopyManyKeys);
            }
        }
        match (length, column) {
            (0, _) => self.end_field(field),
            (left, Some(column)) => self.state = State::Key { column, left, field },
            (left, None) => self.state = State::Other { left, field },
        }
    }

    fn end_field(&mut self, field: usize) {
        if field + 1 < self.columns {
            self.state = State::Field(field + 1);
            return;
        }
        self.state = State::Row;
        if let Err(why) = self.keys.push(&self.values) {
            self.fail(why);
        }
    }

    fn fail(&mut self, why: Reason) {
        self.keys.clear();
        self.state = State::Unsure(why);
    }

    pub(super) fn finish(self) -> Result<Keys, Reason> {
        match self.state {
            State::Ended => self.keys.complete(),
            // The server takes the end of the data for the end of the rows.
            State::Row if self.number.is_empty() => self.keys.complete(),
            State::Unsure(why) => Err(why),
            _ => Err(Reason::CopyData),
        }
    }
}

/// A big-endian number with its sign.
fn number(bytes: &[u8]) -> i32 {
    match *bytes {
        [a, b] => i32::from(i16::from_be_bytes([a, b])),
        [a, b, c, d] => i32::from_be_bytes([a, b, c, d]),
        _ => 0,
    }
}
