//! What the proxy itself says, encoded by `pgwire`.

use bytes::BytesMut;
use pgwire::messages::Message;
use pgwire::messages::extendedquery::{
    Bind, Close, Execute, Flush, Parse, Sync, TARGET_TYPE_BYTE_PORTAL, TARGET_TYPE_BYTE_STATEMENT,
};
use pgwire::messages::response::{CommandComplete, ErrorResponse};
use pgwire::messages::simplequery::Query;

use super::backend::push_frame;
use super::frontend::BindValues;

/// An error or a fatal one, as the proxy reports it. Message grammar: Postgres's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Whether the session ends with it.
    pub severity: Severity,
    /// SQLSTATE.
    pub code: &'static str,
    /// Primary message.
    pub message: String,
    /// What to do; empty where there is nothing to say.
    pub hint: String,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The statement failed.
    Error,
    /// The session ends.
    Fatal,
}

fn append(out: &mut Vec<u8>, message: &impl Message) {
    let mut buffer = BytesMut::new();
    // Encoding into memory fails only for a message that pgwire cannot express; nothing is sent
    // then, and every message here is a constant shape.
    if message.encode(&mut buffer).is_ok() {
        out.extend_from_slice(&buffer);
    }
}

/// Appends an ErrorResponse.
pub fn error(out: &mut Vec<u8>, report: &Report) {
    let severity = match report.severity {
        Severity::Error => "ERROR",
        Severity::Fatal => "FATAL",
    };
    let mut fields = vec![
        (b'S', severity.to_owned()),
        (b'V', severity.to_owned()),
        (b'C', report.code.to_owned()),
        (b'M', report.message.clone()),
    ];
    if !report.hint.is_empty() {
        fields.push((b'H', report.hint.clone()));
    }
    append(out, &ErrorResponse::new(fields));
}

/// Appends a `Q`.
pub fn query(out: &mut Vec<u8>, sql: &str) {
    append(out, &Query::new(sql.to_owned()));
}

/// Appends a `P` with raw parameter types (`count oids…`).
pub fn parse(out: &mut Vec<u8>, name: &[u8], sql: &str, types: &[u8]) {
    push_frame(out, b'P', |out| {
        out.extend_from_slice(name);
        out.push(0);
        out.extend_from_slice(sql.as_bytes());
        out.push(0);
        out.extend_from_slice(if types.is_empty() { &[0, 0] } else { types });
    });
}

/// Appends a `B` on another statement: the client's parameters as they came, result formats as
/// given.
pub fn rebind(
    out: &mut Vec<u8>,
    portal: &[u8],
    statement: &[u8],
    values: &BindValues<'_>,
    result_formats: &[i16],
) {
    push_frame(out, b'B', |out| {
        out.extend_from_slice(portal);
        out.push(0);
        out.extend_from_slice(statement);
        out.push(0);
        out.extend_from_slice(values.parameters);
        let count = u16::try_from(result_formats.len()).unwrap_or(u16::MAX);
        out.extend_from_slice(&count.to_be_bytes());
        for format in result_formats {
            out.extend_from_slice(&format.to_be_bytes());
        }
    });
}

/// Appends a `B` without parameters.
pub fn bind(out: &mut Vec<u8>, portal: &[u8], statement: &[u8]) {
    push_frame(out, b'B', |out| {
        out.extend_from_slice(portal);
        out.push(0);
        out.extend_from_slice(statement);
        out.extend_from_slice(&[0; 7]);
    });
}

/// Appends `C` of a statement.
pub fn close_statement(out: &mut Vec<u8>, name: &[u8]) {
    append(out, &Close::new(TARGET_TYPE_BYTE_STATEMENT, text(name)));
}

/// Appends `C` of a portal.
pub fn close_portal(out: &mut Vec<u8>, name: &[u8]) {
    append(out, &Close::new(TARGET_TYPE_BYTE_PORTAL, text(name)));
}

/// Appends the whole life of a statement without parameters, but for the Sync: `C P B E C C`. The
/// first closes what an earlier run has left that failed half way (was cancelled, for example).
pub fn run_once(out: &mut Vec<u8>, name: &str, sql: &str) {
    let name = Some(name.to_owned());
    append(out, &Close::new(TARGET_TYPE_BYTE_STATEMENT, name.clone()));
    append(out, &Parse::new(name.clone(), sql.to_owned(), Vec::new()));
    append(out, &Bind::new(name.clone(), name.clone(), Vec::new(), Vec::new(), Vec::new()));
    append(out, &Execute::new(name.clone(), 0));
    append(out, &Close::new(TARGET_TYPE_BYTE_PORTAL, name.clone()));
    append(out, &Close::new(TARGET_TYPE_BYTE_STATEMENT, name));
}

/// As [`run_once`], with parameters: their number, and each with its length before it, all in this
/// format.
pub fn run_once_with(
    out: &mut Vec<u8>,
    name: &str,
    sql: &str,
    (format, count, values): (i16, u16, &[u8]),
) {
    let named = Some(name.to_owned());
    append(out, &Close::new(TARGET_TYPE_BYTE_STATEMENT, named.clone()));
    append(out, &Parse::new(named.clone(), sql.to_owned(), Vec::new()));
    push_frame(out, b'B', |out| {
        for name in [name, name] {
            out.extend_from_slice(name.as_bytes());
            out.push(0);
        }
        out.extend_from_slice(&1i16.to_be_bytes());
        out.extend_from_slice(&format.to_be_bytes());
        out.extend_from_slice(&count.to_be_bytes());
        out.extend_from_slice(values);
        out.extend_from_slice(&0i16.to_be_bytes());
    });
    append(out, &Execute::new(named.clone(), 0));
    append(out, &Close::new(TARGET_TYPE_BYTE_PORTAL, named.clone()));
    append(out, &Close::new(TARGET_TYPE_BYTE_STATEMENT, named));
}

/// Appends what runs a text of one statement without parameters, but for the Sync: `C C P B E`. As
/// a simple query does, it drops the unnamed statement.
pub fn run(out: &mut Vec<u8>, name: &str, sql: &[u8]) {
    close_statement(out, b"");
    close_statement(out, name.as_bytes());
    push_frame(out, b'P', |out| {
        out.extend_from_slice(name.as_bytes());
        out.push(0);
        out.extend_from_slice(sql);
        out.extend_from_slice(&[0, 0, 0]);
    });
    let name = Some(name.to_owned());
    append(out, &Bind::new(name.clone(), name.clone(), Vec::new(), Vec::new(), Vec::new()));
    append(out, &Execute::new(name, 0));
}

/// Appends an `S`.
pub fn sync(out: &mut Vec<u8>) {
    append(out, &Sync::new());
}

/// Appends an `f`.
pub fn copy_fail(out: &mut Vec<u8>, why: &str) {
    push_frame(out, b'f', |frame| {
        frame.extend_from_slice(why.as_bytes());
        frame.push(0);
    });
}

/// Appends an `H`.
pub fn flush(out: &mut Vec<u8>) {
    append(out, &Flush::new());
}

/// Appends an `n`.
pub fn no_data(out: &mut Vec<u8>) {
    push_frame(out, b'n', |_| {});
}

/// Appends a `C` with this tag.
pub fn command_complete(out: &mut Vec<u8>, tag: String) {
    append(out, &CommandComplete::new(tag));
}

/// Appends a `Z`.
pub fn ready_for_query(out: &mut Vec<u8>, status: u8) {
    push_frame(out, b'Z', |out| out.push(status));
}

fn text(name: &[u8]) -> Option<String> {
    Some(String::from_utf8_lossy(name).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_parse_frames_equal_pgwires() {
        let mut ours = Vec::new();
        parse(&mut ours, b"s", "select $1", &[0, 1, 0, 0, 0, 23]);
        let mut theirs = Vec::new();
        append(&mut theirs, &Parse::new(Some("s".into()), "select $1".into(), vec![23]));
        assert_eq!(ours, theirs);
    }
}
