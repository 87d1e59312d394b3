//! Statements of the protocol that the server has no more, by DEALLOCATE, DISCARD, Close, a Parse of the
//! unnamed one, or a simple query, which drops that. Were they kept here, a later Bind would have a form
//! prepared of what the client is to be told does not exist.
//!
//! What is answered is forgotten. What is not yet, but would be at the server's turn, is to be refused by
//! the server: such a Bind goes on as it came.

use super::Session;
use super::expect::Expect;
use super::named::Change;
use super::portal::{Bound, Skipped};
use super::prepared::{Undo, counting};
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
            Change::AllDropped => self.all_are_gone(),
            Change::Form(..) => {}
        }
        self.names.in_sql.apply(change);
    }

    /// The server has dropped all statements that have a name. What has been sent behind may have given a name to another one.
    fn all_are_gone(&mut self) {
        let later: HashSet<u64> = self.replies.iter().filter_map(Expect::parsed).collect();
        for reply in &mut self.replies {
            if let Expect::Parse(_, Some(undo)) = reply
                && let Undo::Client { name, previous, .. } = &mut **undo
                && !name.is_empty()
                && previous.as_ref().is_some_and(|p| !later.contains(&p.id))
            {
                let left = previous.take();
                self.names.in_sql.orphans.extend(left.iter().flat_map(|p| p.forms()));
            }
        }
        let left = self.names.keep(|id| later.contains(&id));
        self.names.in_sql.orphans.extend(left);
    }

    /// The server has dropped the statement of this name: the one before the first Parse in flight of that
    /// name, if there is one.
    pub(super) fn is_gone(&mut self, name: &[u8]) {
        if self.names.statement(name).is_none() {
            return;
        }
        for reply in &mut self.replies {
            if let Expect::Parse(_, Some(undo)) = reply
                && let Undo::Client { name: other, previous, .. } = &mut **undo
                && counting(other) == counting(name)
            {
                let left = previous.take();
                return self.names.in_sql.orphans.extend(left.iter().flat_map(|p| p.forms()));
            }
        }
        self.names.forget(name);
    }

    /// The same by a Close, of the statement with this number. If the name stands for it still, no Parse is in
    /// flight.
    pub(super) fn is_closed(&mut self, name: &[u8], id: u64) {
        match self.names.statement(name) {
            Some(statement) if statement.id == id => self.names.forget(name),
            _ => self.is_gone(name),
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

    /// A frame has failed, and those behind it were skipped: portals are as they were before. A Bind of a later
    /// group may have given the name of one to another, or would bring it back.
    pub(super) fn put_back(&mut self, skipped: Vec<Skipped>) {
        for skipped in skipped.into_iter().rev() {
            match skipped {
                Skipped::Bind(bound) => {
                    let Some(mut bound) = self.names.unbind(bound) else { continue };
                    self.later_binds().any(|later| later.correct(bound.id, &mut bound.previous));
                }
                Skipped::Execute(ran) => self.names.has_not_run(&ran),
                Skipped::ClosePortal(name, portal) => {
                    let Some(portal) = self.names.reopen(&name, portal) else { continue };
                    if let Some(later) = self.later_binds().find(|later| later.is_of(&name)) {
                        later.previous = Some(portal);
                    }
                }
            }
        }
    }

    fn later_binds(&mut self) -> impl Iterator<Item = &mut Box<Bound>> {
        self.replies.iter_mut().filter_map(|reply| match reply {
            Expect::Bind(_, Some(later)) => Some(later),
            _ => None,
        })
    }

    /// What was sent in the same group and is to happen to the statement before what is sent behind that.
    pub(super) fn happens_before(&self, name: &[u8]) -> Option<Happens> {
        if self.names.changed_in != self.groups {
            return None;
        }
        let statement = self.names.statement(name)?;
        for reply in self.replies.iter().rev() {
            match reply {
                Expect::Sync(_) | Expect::Query(_) => return None,
                Expect::Close(_, Some(closed)) if closed.statement() == Some(statement.id) => {
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
        let answered = self.answered_now();
        if self.names.statement(b"").is_some_and(|s| s.touched <= answered) {
            self.is_gone(b"");
        }
    }
}
