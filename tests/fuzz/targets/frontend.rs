//! The client's messages that the proxy looks into, by `pgwire`.

use super::{asked, frame};
use bytes::BytesMut;
use pgsegue::wire::frontend::{self, Named};
use pgwire::messages::{DecodeContext, PgWireFrontendMessage as Theirs, ProtocolVersion};

/// `pgwire` refuses longer ones of small messages.
const BODY_BYTES_MAX: usize = 9_000;

/// The data are a type byte and a body.
pub fn run(data: &[u8]) {
    let Some((&tag, body)) = data.split_first() else { return };
    if body.len() > BODY_BYTES_MAX {
        return;
    }
    match tag {
        b'Q' => query(body),
        b'P' => parse(body),
        b'B' => bind(body),
        b'D' | b'C' => named(tag, body),
        b'E' => execute(body),
        _ => all(body),
    }
}

/// Every reader, whatever the body is.
fn all(body: &[u8]) {
    query(body);
    parse(body);
    bind(body);
    named(b'D', body);
    named(b'C', body);
    execute(body);
}

/// What `pgwire` reads, if it is what the bytes say.
fn theirs(tag: u8, body: &[u8]) -> Option<Theirs> {
    let frame = frame(tag, body);
    asked(|| {
        let mut context = DecodeContext::new(ProtocolVersion::PROTOCOL3_0);
        context.awaiting_frontend_ssl = false;
        context.awaiting_frontend_startup = false;
        let mut buffer = BytesMut::from(&frame[..]);
        let message = Theirs::decode(&mut buffer, &context).ok()??;
        let mut again = BytesMut::new();
        message.encode(&mut again).ok()?;
        (buffer.is_empty() && again[..] == frame[..]).then_some(message)
    })?
}

fn name(name: &Option<String>) -> &[u8] {
    name.as_deref().unwrap_or_default().as_bytes()
}

fn is_text(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok()
}

fn query(body: &[u8]) {
    match (theirs(b'Q', body), frontend::query(body)) {
        (Some(Theirs::Query(theirs)), ours) => assert_eq!(ours, Some(theirs.query.as_bytes())),
        (_, Some(ours)) => assert!(!is_text(ours), "only we accept {body:?}"),
        (_, None) => {}
    }
}

fn parse(body: &[u8]) {
    match (theirs(b'P', body), frontend::parse(body)) {
        (Some(Theirs::Parse(theirs)), ours) => {
            let ours = ours.expect("pgwire accepts it");
            assert_eq!((ours.name, ours.sql), (name(&theirs.name), theirs.query.as_bytes()));
            for (index, oid) in theirs.type_oids.iter().enumerate() {
                let number = u16::try_from(index + 1).expect("a parameter's number");
                assert_eq!(ours.type_of(number), *oid);
            }
        }
        (_, Some(ours)) => assert!(!is_text(ours.name) || !is_text(ours.sql), "{body:?}"),
        (_, None) => {}
    }
}

fn bind(body: &[u8]) {
    let ours = frontend::bind(body);
    let values = ours.as_ref().and_then(frontend::Bind::values);
    match (theirs(b'B', body), ours, values) {
        (Some(Theirs::Bind(theirs)), ours, values) => {
            let ours = ours.expect("pgwire accepts it");
            let names = (name(&theirs.portal_name), name(&theirs.statement_name));
            assert_eq!((ours.portal, ours.statement), names);
            let codes = &theirs.parameter_format_codes;
            let count = theirs.parameters.len();
            // The server refuses other counts, too.
            if codes.len() > 1 && codes.len() < count {
                assert_eq!(values, None);
                return;
            }
            let values = values.expect("pgwire accepts it");
            let expected: Vec<_> = theirs.parameters.iter().map(Option::as_deref).collect();
            let seen: Vec<_> = values.values.iter().map(|(_, value)| *value).collect();
            assert_eq!(seen, expected);
            assert_eq!(values.result_formats, theirs.result_column_format_codes);
            for (index, (format, _)) in values.values.iter().enumerate() {
                let at = if codes.len() == 1 { 0 } else { index };
                assert_eq!(*format, codes.get(at).copied().unwrap_or_default());
            }
        }
        (_, Some(ours), Some(_)) => {
            assert!(!is_text(ours.portal) || !is_text(ours.statement), "{body:?}");
        }
        _ => {}
    }
}

fn named(tag: u8, body: &[u8]) {
    let (kind, theirs) = match theirs(tag, body) {
        Some(Theirs::Describe(m)) => (m.target_type, m.name),
        Some(Theirs::Close(m)) => (m.target_type, m.name),
        _ => {
            let unknown = match frontend::named(body) {
                Some(Named::Statement(name) | Named::Portal(name)) => !is_text(name),
                None => true,
            };
            assert!(unknown, "only we accept {body:?}");
            return;
        }
    };
    let expected = match kind {
        b'S' => Some(Named::Statement(name(&theirs))),
        b'P' => Some(Named::Portal(name(&theirs))),
        _ => None,
    };
    assert_eq!(frontend::named(body), expected);
}

fn execute(body: &[u8]) {
    match (theirs(b'E', body), frontend::execute(body)) {
        (Some(Theirs::Execute(theirs)), ours) => assert_eq!(ours, Some(name(&theirs.name))),
        (_, Some(ours)) => assert!(!is_text(ours), "only we accept {body:?}"),
        (_, None) => {}
    }
}
