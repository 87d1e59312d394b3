//! The keys of one COPY, kept as the arrays that they will be sent as. Of more than that, only the
//! span is kept in which those of an integer column lie: if they fill it, the server finds the rows.

use crate::sql::reason::Reason;
use crate::sql::target::{Copyable, SyncMode, Target};
use std::fmt::Write as _;

/// Bytes of keys that are kept of one COPY. Of more of them only their span is.
pub const KEYS_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How much wider that may be than the keys are many: all rows in it are looked at.
const SPARSE_MAX: i128 = 4;

/// Keys per call of the sync function: bounds its arrays.
const BATCH_KEYS: u32 = 5_000;

/// What the values of keys are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// Text, which the types of the key take.
    Text,
    /// Text, which they may not take: such rows are skipped.
    Unchecked,
    /// What the receive functions of the types take.
    Binary,
}

/// The keys of the rows so far.
#[derive(Debug)]
pub struct Keys {
    values: Values,
    /// Object ids of the types.
    types: Vec<u32>,
    /// Elements of an array per key column.
    columns: Vec<Vec<u8>>,
    rows: i32,
    bytes: usize,
    span: Span,
    kept: Kept,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    All,
    /// The span alone: they were too many.
    Span,
}

/// Where the keys lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Span {
    /// It cannot be told.
    Unknown,
    /// By this column of the key; nothing before the first one.
    Of { column: usize, bounds: Option<(i64, i64)> },
}

impl Span {
    fn with(self, values: Values, key: &[Vec<u8>]) -> Self {
        let Self::Of { column, bounds } = self else { return Self::Unknown };
        let Some(value) = key.get(column).and_then(|value| integer(values, value)) else {
            return Self::Unknown;
        };
        let (low, high) = bounds.unwrap_or((value, value));
        Self::Of { column, bounds: Some((low.min(value), high.max(value))) }
    }
}

/// An integer as the server reads it; `None`: it may read one all the same.
fn integer(values: Values, value: &[u8]) -> Option<i64> {
    match values {
        Values::Text | Values::Unchecked => {
            std::str::from_utf8(value).ok()?.trim_ascii().parse().ok()
        }
        Values::Binary => match value.len() {
            2 => Some(i16::from_be_bytes(value.try_into().ok()?).into()),
            4 => Some(i32::from_be_bytes(value.try_into().ok()?).into()),
            8 => Some(i64::from_be_bytes(value.try_into().ok()?)),
            _ => None,
        },
    }
}

impl Keys {
    /// `spanned`: which column of the key is an integer by which rows can be found.
    pub(super) fn new(copyable: &Copyable, values: Values, spanned: Option<usize>) -> Self {
        let types: Vec<u32> = copyable.key_types.iter().map(|t| t.oid).collect();
        let columns = types.iter().map(|_| Vec::new()).collect();
        let span = spanned.map_or(Span::Unknown, |column| Span::Of { column, bounds: None });
        Self { values, types, columns, rows: 0, bytes: 0, span, kept: Kept::All }
    }

    pub(super) fn have_room_for(&self, bytes: usize) -> bool {
        bytes <= KEYS_BYTES_MAX
    }

    pub(super) fn clear(&mut self) {
        self.columns.iter_mut().for_each(|c| *c = Vec::new());
        self.bytes = 0;
    }

    /// One more.
    pub(super) fn push(&mut self, key: &[Vec<u8>]) -> Result<(), Reason> {
        self.rows = self.rows.checked_add(1).ok_or(Reason::CopyManyKeys)?;
        self.span = self.span.with(self.values, key);
        if self.kept == Kept::Span {
            return match self.span {
                Span::Of { .. } => Ok(()),
                Span::Unknown => Err(Reason::CopyManyKeys),
            };
        }
        for (column, value) in self.columns.iter_mut().zip(key) {
            let before = column.len();
            match self.values {
                Values::Binary => {
                    let length =
                        i32::try_from(value.len()).map_err(|_too_long| Reason::CopyManyKeys)?;
                    column.extend_from_slice(&length.to_be_bytes());
                    column.extend_from_slice(value);
                }
                Values::Text | Values::Unchecked => push_element(column, value),
            }
            self.bytes += column.len() - before;
        }
        if self.bytes <= KEYS_BYTES_MAX {
            return Ok(());
        }
        self.kept = Kept::Span;
        self.clear();
        match self.span {
            Span::Of { .. } => Ok(()),
            Span::Unknown => Err(Reason::CopyManyKeys),
        }
    }

    /// There are no more of them.
    pub(super) fn complete(self) -> Result<Self, Reason> {
        let Some((low, high)) = self.span() else { return Ok(self) };
        let width = i128::from(high) - i128::from(low);
        match width <= i128::from(self.rows).saturating_mul(SPARSE_MAX) {
            true => Ok(self),
            false => Err(Reason::CopyManyKeys),
        }
    }

    /// Where they lie, if they were too many to be kept.
    pub fn span(&self) -> Option<(i64, i64)> {
        match (self.kept, self.span) {
            (Kept::Span, Span::Of { bounds, .. }) => bounds,
            _ => None,
        }
    }

    /// How many there are.
    pub fn rows(&self) -> u64 {
        u64::try_from(self.rows).unwrap_or(0)
    }

    /// The statement that feeds them to the sync function: one row, its outcome. Its parameters
    /// are [`Self::parameters`].
    pub fn statement(&self, target: &Target, mode: SyncMode) -> String {
        let types = target.copy.as_ref().map(|c| c.key_types.as_slice()).unwrap_or_default();
        let (mut arrays, mut names, mut calls) = (String::new(), String::new(), String::new());
        let (mut checked, mut known) = (String::new(), String::new());
        for (index, kind) in types.iter().enumerate() {
            let (n, kind) = (index + 1, &kind.sql);
            let comma = if index == 0 { "" } else { ", " };
            let sent = if self.values == Values::Unchecked { "pg_catalog.text" } else { kind };
            let _infallible = write!(arrays, "{comma}pg_catalog.unnest(${n}::{sent}[])");
            let _infallible = write!(names, "{comma}k{n}");
            let _infallible = write!(calls, "pg_catalog.array_agg(k{n}), ");
            let quoted = crate::sql::ident::literal(kind);
            let _infallible = write!(
                checked,
                "{comma}CASE WHEN pg_catalog.pg_input_is_valid(k{n}, {quoted}) \
                 THEN k{n}::{kind} END AS k{n}"
            );
            let and = if index == 0 { "" } else { " AND " };
            let _infallible = write!(known, "{and}k{n} IS NOT NULL");
        }
        let given = format!("ROWS FROM ({arrays}) AS u ({names})");
        let given = match self.values {
            Values::Text | Values::Binary => given,
            Values::Unchecked => {
                format!("(SELECT {checked} FROM {given}) AS v WHERE {known}")
            }
        };
        format!(
            "SELECT pg_catalog.max(d) FROM (SELECT {}({calls}{}) AS d FROM (SELECT {names}, \
             (pg_catalog.row_number() OVER () - 1) / {BATCH_KEYS} AS b FROM {given}) AS x \
             GROUP BY b) AS c",
            target.sync_function,
            mode.as_sql()
        )
    }

    /// Format code and values of its parameters, each with its length before it.
    pub fn parameters(&self) -> (i16, Vec<u8>) {
        let mut out = Vec::with_capacity(self.bytes + 32 * self.columns.len());
        let format = match self.values {
            Values::Text | Values::Unchecked => 0,
            Values::Binary => 1,
        };
        for (column, kind) in self.columns.iter().zip(&self.types) {
            let mut head = Vec::new();
            let mut tail: &[u8] = b"";
            if format == 0 {
                head.push(b'{');
                tail = b"}";
            } else {
                let dimensions = i32::from(self.rows > 0);
                head.extend_from_slice(&dimensions.to_be_bytes());
                head.extend_from_slice(&0i32.to_be_bytes());
                head.extend_from_slice(&kind.to_be_bytes());
                if self.rows > 0 {
                    head.extend_from_slice(&self.rows.to_be_bytes());
                    head.extend_from_slice(&1i32.to_be_bytes());
                }
            }
            // A text has a comma behind each element, but for the last.
            let ends = column.len() - usize::from(format == 0 && !column.is_empty());
            let elements = column.get(..ends).unwrap_or_default();
            let length = head.len() + elements.len() + tail.len();
            out.extend_from_slice(&i32::try_from(length).unwrap_or(i32::MAX).to_be_bytes());
            out.extend_from_slice(&head);
            out.extend_from_slice(elements);
            out.extend_from_slice(tail);
        }
        (format, out)
    }
}

/// Appends an element of an array's text, and a comma.
fn push_element(column: &mut Vec<u8>, value: &[u8]) {
    if !value.is_empty() && value.iter().all(u8::is_ascii_digit) {
        column.extend_from_slice(value);
    } else {
        column.push(b'"');
        for byte in value {
            if matches!(byte, b'"' | b'\\') {
                column.push(b'\\');
            }
            column.push(*byte);
        }
        column.push(b'"');
    }
    column.push(b',');
}
