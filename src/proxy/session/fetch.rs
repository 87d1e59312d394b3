//! FETCH, in SQL, from a portal that the protocol has made of a mirrored write: the first columns of
//! what it gives are ours.

use super::expect::{Mirrored, Rows};
use super::prepared::spells;
use super::server::Fate;
use super::{Out, Session};
use crate::sql::lex::{Kind, Token, first_word, identifier, is_keyword, tokens};
use crate::sql::statement::Effect;
use crate::sql::write::Layout;
use crate::wire::backend;
use crate::wire::build::{Report, Severity};
use std::collections::VecDeque;

/// Which portals there are no more when a statement has run.
#[derive(Debug)]
pub(super) enum Ends {
    None,
    One(String),
    All,
}

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

    /// A text is sent that closes portals, or declares cursors under their names, one after the other. What
    /// follows waits: whether it does is known when it is answered.
    pub(super) fn may_end_portals(&mut self, sql: &[u8], out: &mut Out) {
        let ends = |word: &&str| spells(sql, word.as_bytes());
        if self.names.has_named_portals() && ["close", "declare", "chain"].iter().any(ends) {
            self.ending = ended_by(sql);
            if !self.ending.is_empty() {
                self.may_take_data(out);
            }
        }
    }

    /// A FETCH or MOVE is sent. If the transaction has run what may change names, that may have been the
    /// declaration of this cursor, and it is now that it does.
    pub(super) fn runs_a_cursor(&mut self) {
        if self.transaction.is_stateful() {
            self.facts = None;
        }
    }

    /// A statement is complete: the next of these, if it is one. Of the name there is no portal of the protocol
    /// any more.
    pub(super) fn ends_portals(&mut self, tag: &[u8]) {
        if self.ending.is_empty() {
            return;
        }
        let cursor = tag.starts_with(b"CLOSE ") || tag.starts_with(b"DECLARE ");
        if !cursor && !matches!(tag, b"COMMIT\0" | b"ROLLBACK\0") {
            return;
        }
        match self.ending.pop_front() {
            Some(Ends::One(name)) => drop(self.names.close_portal(name.as_bytes())),
            Some(Ends::All) => self.names.end_transaction(),
            Some(Ends::None) | None => {}
        }
    }

    /// Whether a FETCH has to wait for what earlier groups do with its portal.
    pub(super) fn waits_to_fetch(&mut self, sql: &[u8], out: &mut Out) -> bool {
        let mut buffer = [0; 16];
        matches!(first_word(sql, &mut buffer), Some("fetch" | "move"))
            && fetched_from(sql).is_some_and(|name| self.waits_for_portal(name.as_bytes(), out))
    }

    /// Whether what is run by a FETCH from a portal of the protocol does something to the session.
    pub(super) fn fetches_an_effect(&self, sql: &[u8]) -> bool {
        let mut buffer = [0; 16];
        matches!(first_word(sql, &mut buffer), Some("fetch" | "move"))
            && fetched_from(sql)
                .and_then(|name| self.names.portal(name.as_bytes()))
                .is_some_and(|portal| portal.effect != Effect::None)
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

/// What the statements of a text end that close or declare a name, or end a transaction, in their order.
fn ended_by(sql: &[u8]) -> VecDeque<Ends> {
    let text = std::str::from_utf8(sql).unwrap_or_default();
    let tokens = tokens(text).unwrap_or_default();
    let statements = tokens.split(|token| token.kind == Kind::Semicolon);
    let ended = |statement: &[Token]| {
        let (verb, behind) = statement.split_first()?;
        let is = |words: &[&str]| words.iter().any(|word| is_keyword(text, verb, word));
        let says = |word| behind.iter().any(|token| is_keyword(text, token, word));
        if is(&["commit", "end", "rollback", "abort"]) {
            return match () {
                () if says("to") => Some(Ends::None),
                () if says("prepared") => None,
                () => Some(Ends::All),
            };
        }
        let name = behind.first().filter(|_| is(&["close", "declare"]))?;
        let all = is(&["close"]) && is_keyword(text, name, "all");
        if all { Some(Ends::All) } else { identifier(text, name).map(Ends::One) }
    };
    statements.filter_map(ended).collect()
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
