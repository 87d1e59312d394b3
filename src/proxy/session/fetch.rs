//! FETCH, in SQL, from a portal that the protocol has made of a mirrored write: the first columns of
//! what it gives are ours.

use super::expect::{Mirrored, Rows};
use super::server::Fate;
use super::{Out, Session};
use crate::sql::lex::{first_word, identifier, tokens};
use crate::sql::write::Layout;
use crate::wire::backend;
use crate::wire::build::{Report, Severity};

impl Session {
    /// What is done with the replies of a statement that may FETCH from such a portal.
    pub(super) fn fetched(&self, sql: &[u8]) -> Result<Rows, Box<Report>> {
        let mut buffer = [0; 16];
        let fetches = matches!(first_word(sql, &mut buffer), Some("fetch" | "move"));
        if !fetches || self.finds_a_failed_transaction() {
            return Ok(Rows::Plain);
        }
        let portal =
            fetched_from(sql).and_then(|name| Some((self.names.portal(name.as_bytes())?, name)));
        let Some((portal, name)) = portal else { return Ok(Rows::Plain) };
        let Rows::Mirrored(mirrored) = portal.rows.bare() else { return Ok(Rows::Plain) };
        match mirrored.layout {
            Layout::Own => Ok(Rows::Plain),
            Layout::Leading(_) => Ok(Rows::Fetched(mirrored.clone())),
            // Ours would give rows; the client's own has none to give.
            Layout::Counted | Layout::Outcome => Err(no_rows(&name, portal.ran_in.is_some())),
        }
    }

    /// A reply of such a FETCH.
    pub(super) fn fetched_reply(
        &mut self,
        fetched: &mut Mirrored,
        tag: u8,
        body: &[u8],
        out: &mut Out,
    ) -> Fate {
        match (tag, fetched.layout) {
            (b'T', Layout::Leading(n)) if backend::first_field_begins(body, b"pgsegue ") => {
                let done = backend::push_description_without(&mut out.to_client, body, n);
                done.map_or(Fate::Forward, |()| Fate::Written)
            }
            (b'T', _) => {
                // The portal was closed in SQL, and another has its name.
                fetched.layout = Layout::Own;
                Fate::Forward
            }
            (b'D', _) => self.mirrored_row(fetched, body, out),
            _ => Fate::Forward,
        }
    }
}

/// What a FETCH or MOVE fetches from: its last name.
fn fetched_from(sql: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(sql).ok()?;
    let tokens = tokens(text).ok()?;
    let last = tokens.iter().rev().find_map(|token| identifier(text, token));
    last.filter(|_| tokens.len() > 1)
}

/// What the server says of a portal of a statement without rows.
fn no_rows(name: &str, has_run: bool) -> Box<Report> {
    let (code, message) = match has_run {
        true => ("55000", format!("portal \"{name}\" cannot be run")),
        false => ("XX000", "unsupported portal strategy".to_owned()),
    };
    Box::new(Report { severity: Severity::Error, code, message, hint: String::new() })
}
