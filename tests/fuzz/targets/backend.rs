//! The server's messages that the proxy reads or rewrites, by `postgres-protocol`.

use super::{asked, frame};
use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use pgsegue::wire::backend::{self, Called, TransactionStatus};
use postgres_protocol::message::backend::Message;
use std::ops::Range;

/// The data are a type byte, the number of columns to leave out, and a body.
pub fn run(data: &[u8]) {
    let [tag, n, body @ ..] = data else { return };
    let n = usize::from(n % 4);
    match tag {
        b'Z' => ready(body),
        b'S' => parameter(body),
        b'C' => complete(body),
        b'T' => description(body, n),
        b'D' => row(body, n),
        b'E' => error(body, n),
        _ => {
            ready(body);
            parameter(body);
            complete(body);
            description(body, n);
            row(body, n);
            error(body, n);
            let _number = backend::outcome(Some(body));
        }
    }
}

fn theirs(frame: &[u8]) -> Option<Message> {
    asked(|| Message::parse(&mut BytesMut::from(frame)).ok().flatten())?
}

fn ready(body: &[u8]) {
    let ours = backend::ready_for_query(body);
    let expected = match theirs(&frame(b'Z', body)) {
        Some(Message::ReadyForQuery(theirs)) => match theirs.status() {
            b'I' => Some(TransactionStatus::Idle),
            b'T' => Some(TransactionStatus::InTransaction),
            b'E' => Some(TransactionStatus::Failed),
            _ => None,
        },
        _ => None,
    };
    assert_eq!(ours, expected);
}

fn parameter(body: &[u8]) {
    let Some(Message::ParameterStatus(theirs)) = theirs(&frame(b'S', body)) else { return };
    if let (Ok(name), Ok(value)) = (theirs.name(), theirs.value()) {
        assert_eq!(backend::parameter_status(body), Some((name.as_bytes(), value.as_bytes())));
    }
}

fn complete(body: &[u8]) {
    let ours = backend::command_rows(body);
    let Some(Message::CommandComplete(theirs)) = theirs(&frame(b'C', body)) else { return };
    if let Ok(tag) = theirs.tag() {
        assert_eq!(ours, tag.rsplit(' ').next().and_then(|n| n.parse().ok()));
    }
}

type Fields = Vec<(String, (u32, i16, u32, i16, i32, i16))>;

fn fields(frame: &[u8]) -> Option<Fields> {
    let Some(Message::RowDescription(theirs)) = theirs(frame) else { return None };
    let fields = theirs.fields().map(|f| {
        let numbers = (
            f.table_oid(),
            f.column_id(),
            f.type_oid(),
            f.type_size(),
            f.type_modifier(),
            f.format(),
        );
        Ok((f.name().to_owned(), numbers))
    });
    asked(|| fields.collect().ok())?
}

fn description(body: &[u8], n: usize) {
    let ours = backend::row_description(body);
    let mut out = vec![b'x'];
    let written = backend::push_description_without(&mut out, body, n);
    let Some(theirs) = fields(&frame(b'T', body)) else { return };
    let own = ours.expect("postgres-protocol accepts it").into_iter().map(|(name, f)| {
        let oid = |n: i32| u32::from_be_bytes(n.to_be_bytes());
        let numbers = (oid(f.table), f.column, oid(f.type_oid), f.size, f.modifier, f.format);
        (String::from_utf8(name.to_vec()).expect("as theirs"), numbers)
    });
    assert_eq!(own.collect::<Fields>(), theirs);
    match written {
        None => assert!(theirs.len() < n && out == b"x"),
        Some(()) => assert_eq!(fields(&out[1..]), Some(theirs[n..].to_vec())),
    }
}

/// The values of a row; `postgres-protocol` takes every negative length for NULL, the server
/// writes -1 only.
fn values(frame: &[u8]) -> Option<Vec<Option<Vec<u8>>>> {
    let Some(Message::DataRow(theirs)) = theirs(frame) else { return None };
    let ranges: Vec<_> = asked(|| theirs.ranges().collect().ok())??;
    let value = |r: Option<Range<usize>>| r.map(|r| theirs.buffer()[r].to_vec());
    let values: Vec<_> = ranges.into_iter().map(value).collect();
    let mut nulls = 0;
    let mut lengths = theirs.buffer();
    for value in &values {
        let (length, rest) = lengths.split_first_chunk()?;
        nulls += usize::from(i32::from_be_bytes(*length) == -1);
        lengths = rest.get(value.as_ref().map_or(0, Vec::len)..)?;
    }
    (nulls == values.iter().filter(|v| v.is_none()).count()).then_some(values)
}

fn row(body: &[u8], n: usize) {
    let ours: Vec<_> = backend::Values::of(body).map(|v| v.map(<[u8]>::to_vec)).collect();
    let mut out = vec![b'x'];
    let written = backend::push_row_without(&mut out, body, n);
    let Some(theirs) = values(&frame(b'D', body)) else { return };
    assert_eq!(ours, theirs);
    match written {
        None => assert!(theirs.len() < n && out == b"x"),
        Some(()) => assert_eq!(values(&out[1..]), Some(theirs[n..].to_vec())),
    }
}

fn errors(frame: &[u8]) -> Option<Vec<(u8, Vec<u8>)>> {
    let Some(Message::ErrorResponse(theirs)) = theirs(frame) else { return None };
    let fields = theirs.fields().map(|f| Ok((f.type_(), f.value_bytes().to_vec())));
    asked(|| fields.collect().ok())?
}

fn error(body: &[u8], shift: usize) {
    let code = backend::sqlstate(body);
    let mut out = vec![b'x'];
    let called = Called { verb: Some("UPDATE"), waits: Some("UPDATE") };
    backend::push_error(&mut out, body, called, |p| p.checked_add(shift));
    let rewritten = errors(&out[1..]).expect("what we write is well formed");
    let Some(theirs) = errors(&frame(b'E', body)) else { return };
    let expected = theirs.iter().find(|(kind, _)| *kind == b'C').map(|(_, value)| &value[..]);
    assert_eq!(code, expected);
    let kept = |(kind, value): &&(u8, Vec<u8>)| {
        *kind != b'W' || !value.windows(8).any(|w| w == b"pgsegue.")
    };
    let kinds: Vec<_> = theirs.iter().filter(kept).map(|(kind, _)| *kind).collect();
    assert_eq!(rewritten.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), kinds);
    for ((kind, value), (_, was)) in rewritten.iter().zip(theirs.iter().filter(kept)) {
        assert!(matches!(kind, b'P' | b'M' | b'W') || value == was, "field {kind} has changed");
    }
}
