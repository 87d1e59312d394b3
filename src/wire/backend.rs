//! Views of the server's messages, and the few that are rewritten on the way to the client.

use super::reader::Reader;

/// The transaction status of `Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionStatus {
    /// `I`
    Idle,
    /// `T`
    InTransaction,
    /// `E`
    Failed,
}

/// Reads a `Z` body.
pub fn ready_for_query(body: &[u8]) -> Option<TransactionStatus> {
    match body {
        b"I" => Some(TransactionStatus::Idle),
        b"T" => Some(TransactionStatus::InTransaction),
        b"E" => Some(TransactionStatus::Failed),
        _ => None,
    }
}

/// Reads an `S` body: name and value.
pub fn parameter_status(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut r = Reader::new(body);
    Some((r.cstr()?, r.cstr()?))
}

/// The number at the end of a `C` tag (`SELECT 5`).
pub fn command_rows(body: &[u8]) -> Option<u64> {
    let tag = Reader::new(body).cstr()?;
    let number = tag.rsplit(|b| *b == b' ').next()?;
    std::str::from_utf8(number).ok()?.parse().ok()
}

/// Reads a `G` body: the format code of the whole, and the number of columns.
pub fn copy_in(body: &[u8]) -> Option<(u8, usize)> {
    let mut r = Reader::new(body);
    Some((r.u8()?, r.count()?))
}

/// One field of a `T` body, without its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// `pg_class.oid`, or 0.
    pub table: i32,
    /// Attribute number, or 0.
    pub column: i16,
    /// Type object id.
    pub type_oid: i32,
    /// Type size.
    pub size: i16,
    /// Type modifier.
    pub modifier: i32,
    /// Format code.
    pub format: i16,
}

/// Reads a `T` body.
pub fn row_description(body: &[u8]) -> Option<Vec<(&[u8], Field)>> {
    let mut r = Reader::new(body);
    let count = r.count()?;
    let mut fields = Vec::with_capacity(count.min(body.len()));
    for _ in 0..count {
        let name = r.cstr()?;
        let field = Field {
            table: r.i32()?,
            column: r.i16()?,
            type_oid: r.i32()?,
            size: r.i16()?,
            modifier: r.i32()?,
            format: r.i16()?,
        };
        fields.push((name, field));
    }
    r.rest().is_empty().then_some(fields)
}

/// The values of a `D` body, read as they are asked for; malformed ones end it.
#[derive(Debug)]
pub struct Values<'a> {
    reader: Reader<'a>,
    left: usize,
}

impl<'a> Values<'a> {
    /// Of this body.
    pub fn of(body: &'a [u8]) -> Self {
        let mut reader = Reader::new(body);
        let left = reader.count().unwrap_or(0);
        Self { reader, left }
    }
}

impl<'a> Iterator for Values<'a> {
    type Item = Option<&'a [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        self.reader.value()
    }
}

/// A number in a `D`, in text or (4 or 8 bytes) in binary. Texts of a sync function's outcome are
/// one byte, counts in text come from statements whose results are all text.
pub fn outcome(value: Option<&[u8]>) -> i32 {
    match value {
        Some(&[a, b, c, d]) => i32::from_be_bytes([a, b, c, d]),
        Some(text) => std::str::from_utf8(text).ok().and_then(|t| t.parse().ok()).unwrap_or(0),
        None => 0,
    }
}

/// Appends a `D` without its first `n` values. `None`: malformed.
pub fn push_row_without(out: &mut Vec<u8>, body: &[u8], n: usize) -> Option<()> {
    let mut r = Reader::new(body);
    let count = r.count()?.checked_sub(n)?;
    for _ in 0..n {
        r.value()?;
    }
    push_frame(out, b'D', |out| {
        out.extend_from_slice(&u16::try_from(count).unwrap_or(u16::MAX).to_be_bytes());
        out.extend_from_slice(r.rest());
    });
    Some(())
}

/// Appends a `T` without its first `n` fields. `None`: malformed.
pub fn push_description_without(out: &mut Vec<u8>, body: &[u8], n: usize) -> Option<()> {
    let mut r = Reader::new(body);
    let count = r.count()?.checked_sub(n)?;
    for _ in 0..n {
        r.cstr()?;
        r.bytes(18)?;
    }
    push_frame(out, b'T', |out| {
        out.extend_from_slice(&u16::try_from(count).unwrap_or(u16::MAX).to_be_bytes());
        out.extend_from_slice(r.rest());
    });
    Some(())
}

/// How the client's own statement is called, where the server reports on one of ours around it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Called {
    /// Its verb.
    pub verb: Option<&'static str>,
    /// Its verb, where ours locks the rows before it.
    pub waits: Option<&'static str>,
}

/// Appends an `E` with its position field changed, our own context lines left out, and the client's
/// statement called by its own verb.
pub fn push_error(
    out: &mut Vec<u8>,
    body: &[u8],
    called: Called,
    position: impl Fn(usize) -> Option<usize>,
) {
    let mut r = Reader::new(body);
    push_frame(out, b'E', |out| {
        while let Some(code) = r.u8().filter(|c| *c != 0) {
            let Some(value) = r.cstr() else { break };
            if code == b'W' && contains(value, b"pgsegue.") {
                continue;
            }
            out.push(code);
            let moved = || std::str::from_utf8(value).ok()?.parse().ok().and_then(&position);
            let said = match code {
                b'P' => moved().map(|p| p.to_string().into_bytes()),
                b'M' => called.verb.and_then(|verb| refused_command(value, verb)),
                b'W' => called.waits.and_then(|verb| waited_for_row(value, verb)),
                _ => None,
            };
            out.extend_from_slice(said.as_deref().unwrap_or(value));
            out.push(0);
        }
        out.push(0);
    });
}

/// A statement refused in a read-only transaction or during recovery, by the client's verb: the
/// server names the outermost command, with its row lock (`SELECT FOR UPDATE`).
fn refused_command(message: &[u8], verb: &str) -> Option<Vec<u8>> {
    const LOCKS: [&[u8]; 4] =
        [b"FOR UPDATE ", b"FOR NO KEY UPDATE ", b"FOR SHARE ", b"FOR KEY SHARE "];
    let rest = message.strip_prefix(b"cannot execute SELECT ")?;
    let rest = LOCKS.iter().find_map(|lock| rest.strip_prefix(*lock)).unwrap_or(rest);
    Some([b"cannot execute ", verb.as_bytes(), b" ", rest].concat())
}

/// The context of a row that could not be had, by the client's verb: a form that locks its rows
/// first waits there. Further lines are of a lock within a function, which is not ours.
fn waited_for_row(context: &[u8], verb: &str) -> Option<Vec<u8>> {
    let rest = context.strip_prefix(b"while locking tuple ").filter(|r| !r.contains(&b'\n'))?;
    let doing: &[u8] = match verb {
        "UPDATE" => b"while updating tuple ",
        "DELETE" => b"while deleting tuple ",
        _ => return None,
    };
    Some([doing, rest].concat())
}

/// A body with one text in the place of another, wherever it is.
pub fn replaced(body: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len());
    let mut rest = body;
    while let Some(at) = rest.windows(from.len().max(1)).position(|w| w == from) {
        out.extend_from_slice(rest.get(..at).unwrap_or_default());
        out.extend_from_slice(to);
        rest = rest.get(at + from.len()..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
    out
}

/// An `E` about the number of a Bind's result formats, by the numbers that it has without `n` columns of
/// ours. `None`: another error.
pub fn fewer_formats(body: &[u8], n: usize) -> Option<Vec<u8>> {
    if field(body, b'R') != Some(b"PortalSetResultFormat") {
        return None;
    }
    let message = std::str::from_utf8(field(body, b'M')?).ok()?;
    let mut fewer = String::new();
    for piece in message.split_inclusive(' ') {
        match piece.trim_end().parse::<usize>() {
            Ok(number) => {
                fewer.push_str(&number.saturating_sub(n).to_string());
                fewer.push_str(piece.get(piece.trim_end().len()..).unwrap_or_default());
            }
            Err(_) => fewer.push_str(piece),
        }
    }
    Some(replaced(body, message.as_bytes(), fewer.as_bytes()))
}

/// Whether the name of the first field of a `T` begins so.
pub fn first_field_begins(body: &[u8], start: &[u8]) -> bool {
    let mut r = Reader::new(body);
    r.count().is_some_and(|n| n > 0) && r.cstr().is_some_and(|name| name.starts_with(start))
}

/// The SQLSTATE of an `E` body.
pub fn sqlstate(body: &[u8]) -> Option<&[u8]> {
    field(body, b'C')
}

/// A field of an `E` or `N` body.
pub fn field(body: &[u8], wanted: u8) -> Option<&[u8]> {
    let mut r = Reader::new(body);
    while let Some(code) = r.u8().filter(|c| *c != 0) {
        let value = r.cstr()?;
        if code == wanted {
            return Some(value);
        }
    }
    None
}

/// Appends a frame whose body `write` appends.
pub fn push_frame(out: &mut Vec<u8>, tag: u8, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[tag, 0, 0, 0, 0]);
    write(out);
    let length = i32::try_from(out.len() - start - 1).unwrap_or(i32::MAX);
    if let Some(field) = out.get_mut(start + 1..start + 5) {
        field.copy_from_slice(&length.to_be_bytes());
    }
}

/// Whether these bytes stand somewhere in those.
pub fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|w| w == needle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use pgwire::messages::Message;
    use pgwire::messages::data::{DataRow, FieldDescription, RowDescription};
    use pgwire::messages::response::ErrorResponse;

    fn frame(message: &impl Message) -> Vec<u8> {
        let mut out = BytesMut::new();
        message.encode(&mut out).unwrap();
        out.to_vec()
    }

    fn description(names: &[&str]) -> RowDescription {
        let field = |n: &&str| FieldDescription::new((*n).to_owned(), 7, 1, 23, 4, -1, 0);
        RowDescription::new(names.iter().map(field).collect())
    }

    #[test]
    fn leading_columns_are_left_out() {
        let mut out = Vec::new();
        push_description_without(&mut out, &frame(&description(&["d", "k", "a", "b"]))[5..], 2);
        assert_eq!(out, frame(&description(&["a", "b"])));
        let row = |values: &[u8]| DataRow::new(BytesMut::from(values), 2);
        let full = [0, 0, 0, 1, b'1', 0, 0, 0, 1, b'x'];
        out.clear();
        push_row_without(&mut out, &frame(&row(&full))[5..], 1);
        assert_eq!(out, frame(&DataRow::new(BytesMut::from(&full[5..]), 1)));
        assert_eq!(push_row_without(&mut out, &[0, 1, 0], 1), None);
        assert_eq!(push_description_without(&mut out, &[0, 1, b'a'], 1), None);
    }

    #[test]
    fn errors_keep_all_but_position_and_our_context() {
        let fields = vec![
            (b'S', "ERROR".to_owned()),
            (b'C', "42703".to_owned()),
            (b'P', "30".to_owned()),
            (b'W', "PL/pgSQL function pgsegue.sync_m(integer[]) line 3".to_owned()),
        ];
        let mut out = Vec::new();
        let error = frame(&ErrorResponse::new(fields));
        push_error(&mut out, &error[5..], Called::default(), |p| Some(p - 20));
        let expected =
            vec![(b'S', "ERROR".to_owned()), (b'C', "42703".to_owned()), (b'P', "10".to_owned())];
        assert_eq!(out, frame(&ErrorResponse::new(expected)));
        assert_eq!(sqlstate(&out[5..]), Some(&b"42703"[..]));
    }

    #[test]
    fn numbers_and_statuses() {
        assert_eq!(command_rows(b"SELECT 12\0"), Some(12));
        assert_eq!(command_rows(b"BEGIN\0"), None);
        assert_eq!((outcome(Some(b"2")), outcome(Some(&[0, 0, 0, 1])), outcome(None)), (2, 1, 0));
        assert_eq!(ready_for_query(b"T"), Some(TransactionStatus::InTransaction));
        assert_eq!(ready_for_query(b"x"), None);
    }
}
