//! FETCH, in SQL, from a portal that the protocol has made of a mirrored write: the first columns of
//! what it gives are ours.

use super::expect::{Mirrored, Rows};
use super::prepared::Acts;
use super::server::Fate;
use super::spelled::Spelled;
use super::{Out, Session};
use crate::sql::lex::spells;
use crate::sql::statement::Effect;
use crate::sql::write::Layout;
use crate::wire::backend;
use crate::wire::build::{Report, Severity};
use std::collections::VecDeque;

/// Which portals there are no more when a statement has run.
#[derive(Debug)]
pub(super) enum Ends {
    None,
    One(Vec<u8>),
    All,
}

/// What a group of frames ends: of its statements that do so, in their order.
#[derive(Debug, Default)]
pub(super) struct Ending {
    group: u64,
    ends: VecDeque<Ends>,
}

impl Session {
    /// What is done with the replies of a statement that may FETCH from such a portal.
    pub(super) fn fetched(&self, sql: &[u8]) -> Result<Rows, Box<Report>> {
        if self.finds_a_failed_transaction() {
            return Ok(Rows::Plain);
        }
        let portal = fetched_from(sql).and_then(|name| Some((self.names.portal(&name)?, name)));
        let Some((portal, name)) = portal else { return Ok(Rows::Plain) };
        let Rows::Mirrored(mirrored) = portal.rows.bare() else { return Ok(Rows::Plain) };
        match mirrored.layout {
            Layout::Own => Ok(Rows::Plain),
            Layout::Leading(_) => Ok(Rows::Fetched(mirrored.clone())),
            // Ours would give rows; the client's own has none to give.
            Layout::Counted | Layout::Outcome => {
                Err(no_rows(&String::from_utf8_lossy(&name), portal.ran_in.is_some()))
            }
        }
    }

    /// A text is sent that closes portals, or declares cursors under their names, one after the other. What
    /// follows waits: whether it does is known when it is answered.
    pub(super) fn may_end_portals(&mut self, sql: &[u8], out: &mut Out) {
        let ends = ["close", "declare", "chain", "execute"];
        if self.names.has_named_portals() && ends.iter().any(|word| spells(sql, word)) {
            let ends = self.names.ended_by(sql);
            if !ends.is_empty() {
                self.ending = Ending { group: self.groups, ends };
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
        self.keeps_a_cursor(tag);
        if self.ending.ends.is_empty() || self.ending.group != self.answered_now() {
            return;
        }
        let cursor = tag.starts_with(b"CLOSE ") || tag.starts_with(b"DECLARE ");
        if !cursor && !matches!(tag, b"COMMIT\0" | b"ROLLBACK\0") {
            return;
        }
        match self.ending.ends.pop_front() {
            Some(Ends::One(name)) => drop(self.names.close_portal(&name)),
            Some(Ends::All) => self.names.end_transaction(),
            Some(Ends::None) | None => {}
        }
    }

    /// The group that the server answers has failed, or is over.
    pub(super) fn ends_no_more(&mut self) {
        if self.ending.group == self.answered_now() {
            self.ending.ends.clear();
        }
    }

    /// Whether a FETCH has to wait for what earlier groups do with its portal.
    pub(super) fn waits_to_fetch(&mut self, sql: &[u8], out: &mut Out) -> bool {
        fetched_from(sql).is_some_and(|name| self.waits_for_portal(&name, out))
    }

    /// Whether what is run by a FETCH from a portal of the protocol does something to the session.
    pub(super) fn fetches_an_effect(&self, sql: &[u8]) -> bool {
        fetched_from(sql)
            .and_then(|name| self.names.portal(&name))
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

/// What a FETCH or MOVE fetches from: its last name. `None` of anything else.
fn fetched_from(sql: &[u8]) -> Option<Vec<u8>> {
    if Acts::of(sql) != Acts::Fetches {
        return None;
    }
    Spelled::of(sql)?.statements().next()?.last_name()
}

/// What the server says of a portal of a statement without rows.
fn no_rows(name: &str, has_run: bool) -> Box<Report> {
    let (code, message) = match has_run {
        true => ("55000", format!("portal \"{name}\" cannot be run")),
        false => ("XX000", "unsupported portal strategy".to_owned()),
    };
    Box::new(Report { severity: Severity::Error, code, message, hint: String::new() })
}
