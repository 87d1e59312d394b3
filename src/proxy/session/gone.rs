//! Statements of the protocol that the server has no more, by DEALLOCATE, DISCARD, Close, a Parse of the
//! unnamed one, or a simple query, which drops that. Were they kept here, a later Bind would have a form
//! prepared of what the client is to be told does not exist.
//!
//! What is answered is forgotten. What is not yet, but would be at the server's turn, is to be refused by
//! the server: such a Bind goes on as it came.

use super::Session;
use super::expect::Expect;
use super::named::Change;
use super::prepared::{Bound, Undo, counting};
use std::collections::HashSet;

/// What happens to a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Happens {
    /// The server has it no more.
    Dropped,
    /// Its name stands for one of SQL's PREPARE.
    PreparedInSql,
}

impl Session {
    /// A change has happened at the server.
    pub(super) fn names_changed(&mut self, change: &Change) {
        match change {
            // The server had no statement of the name that is prepared.
            Change::Prepared(named) => self.is_gone(named.name.as_bytes()),
            Change::Dropped(name) => self.is_gone(name.as_bytes()),
            Change::AllDropped => self.are_gone(|_| true),
            Change::Form(..) => {}
        }
        self.names.in_sql.apply(change);
    }

    /// The server has dropped the statements of these names. What has been sent behind may have given a
    /// name to another one.
    fn are_gone(&mut self, gone: impl Fn(&[u8]) -> bool) {
        let later: HashSet<u64> = self.replies.iter().filter_map(Expect::parsed).collect();
        for reply in &mut self.replies {
            if let Expect::Parse(_, Some(undo)) = reply
                && let Undo::Client { name, previous, .. } = &mut **undo
                && gone(name)
                && previous.as_ref().is_some_and(|p| !later.contains(&p.id))
            {
                let left = previous.take();
                self.names.in_sql.orphans.extend(left.iter().flat_map(|p| p.forms()));
            }
        }
        let left = self.names.keep(|name, id| !gone(name) || later.contains(&id));
        self.names.in_sql.orphans.extend(left);
    }

    /// The same of one name.
    pub(super) fn is_gone(&mut self, name: &[u8]) {
        if self.names.statement(name).is_some() {
            let name = counting(name);
            self.are_gone(|other| counting(other) == name);
        }
    }

    /// A Parse of the unnamed statement has failed: the one before is gone, too.
    pub(super) fn unnamed_is_gone(&mut self) {
        if let Some(Expect::Parse(_, Some(undo))) = self.replies.front_mut()
            && let Undo::Client { name, previous, .. } = &mut **undo
            && name.is_empty()
        {
            *previous = None;
        }
    }

    /// A Parse has failed or was skipped. Those behind it in the queue may count on its statement, or would
    /// bring back one that counts on its form.
    pub(super) fn take_back(&mut self, undo: Undo) {
        let later = self.replies.iter_mut().filter_map(|reply| match reply {
            Expect::Parse(_, Some(later)) => Some(later),
            _ => None,
        });
        match undo {
            Undo::Form { id, key, .. } => {
                later.for_each(|later| later.lose_form(id, key));
                self.names.undo(undo);
            }
            Undo::Client { name, id, mut previous, form } => {
                if self.names.statement(&name).is_some_and(|s| s.id != id) {
                    for later in later {
                        match later.correct(id, previous) {
                            Ok(()) => return,
                            Err(same) => previous = same,
                        }
                    }
                }
                self.names.undo(Undo::Client { name, id, previous, form });
            }
        }
    }

    /// A Bind has failed, and those behind it were skipped. One of a later group may have given the portal's
    /// name to another, or would bring it back.
    pub(super) fn unbind(&mut self, failed: Vec<Bound>) {
        for bound in failed.into_iter().rev() {
            let Some(mut bound) = self.names.unbind(bound) else { continue };
            let mut later = self.replies.iter_mut().filter_map(|reply| match reply {
                Expect::Bind(_, Some(later)) => Some(later),
                _ => None,
            });
            later.any(|later| later.correct(bound.id, &mut bound.previous));
        }
    }

    /// What was sent in the same group and is to happen to the statement before what is sent behind that.
    pub(super) fn happens_before(&self, name: &[u8]) -> Option<Happens> {
        let statement = self.names.statement(name)?;
        if statement.touched != self.groups && !self.names.in_sql.used {
            return None;
        }
        for reply in self.replies.iter().rev() {
            match reply {
                Expect::Sync(_) | Expect::Query(_) => return None,
                Expect::Close(_, Some(closed)) if closed.1 == statement.id => {
                    return Some(Happens::Dropped);
                }
                Expect::Execute(_, rows) => {
                    match rows.change().and_then(|change| change.says_of(counting(name))) {
                        Some(Ok(_)) => return Some(Happens::PreparedInSql),
                        Some(Err(_)) => return Some(Happens::Dropped),
                        None => {}
                    }
                }
                reply if reply.parsed() == Some(statement.id) => return None,
                _ => {}
            }
        }
        None
    }

    /// A simple query is sent, which drops the unnamed statement, unless it is skipped: which of both is
    /// known when it is answered.
    pub(super) fn unnamed_may_be_dropped(&mut self) {
        let group = self.groups;
        if let Some(unnamed) = self.names.statement_mut(b"") {
            unnamed.touched = group;
        }
    }

    /// A simple query has been answered. A Parse behind it has made the unnamed statement anew, be it of the
    /// same text.
    pub(super) fn unnamed_is_dropped(&mut self) {
        let unanswered = u64::try_from(self.epochs.len()).unwrap_or(u64::MAX);
        let answered = (self.groups + 1).saturating_sub(unanswered);
        if self.names.statement(b"").is_some_and(|s| s.touched <= answered) {
            self.is_gone(b"");
        }
    }
}
