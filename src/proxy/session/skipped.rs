//! What an error undoes: the server skips the frames behind it, up to a Sync. What was noted of them when they
//! were sent never happens.

use super::expect::{Expect, Reply, Rows};
use super::portal::{Closed, Skipped};
use super::{Hold, Out, Session};
use crate::wire::build;

/// Whether the client got the error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Given {
    Yes,
    No,
}

impl Session {
    /// After an error the server ignores frames up to the next Sync (a simple query just ends).
    pub(super) fn skip_to_sync(&mut self, out: &mut Out, given: Given) {
        let synced = self.copy_is_over();
        self.ends_no_more();
        if given == Given::Yes {
            self.watched_fails();
        }
        match self.replies.front_mut() {
            Some(Expect::Query(rows)) => {
                let alone = rows.len() == 1;
                rows.retain(|rows| matches!(rows, Rows::Called));
                if !alone {
                    self.transaction.is_unsure();
                }
                return;
            }
            Some(Expect::Completion(completion)) => return completion.clear(),
            None | Some(Expect::Startup | Expect::Sync(_) | Expect::Commit) => return,
            Some(_) => {}
        }
        self.unnamed_is_gone();
        let waits = matches!(self.hold, Some(Hold::Facts | Hold::Mark));
        let (mut skipped, mut is_the_clients) = (Vec::new(), false);
        let mut fails = true;
        while let Some(front) = self.replies.front_mut() {
            if let Expect::Sync(reply) = front {
                // The client has the error of what it waits for; the Sync of ours ends its query.
                if given == Given::Yes && *reply == Reply::Swallow && waits {
                    *reply = Reply::Forward;
                    self.hold = Some(Hold::Failed);
                }
                return self.put_back(skipped);
            }
            if let Expect::Completion(completion) = front {
                completion.clear();
                return self.put_back(skipped);
            }
            is_the_clients |= front.is_the_clients();
            skipped
                .extend(self.replies.pop_front().and_then(|front| self.is_skipped(front, fails)));
            fails = false;
        }
        self.put_back(skipped);
        if self.copy_has_failed(synced, out) {
            return;
        }
        match self.hold.take() {
            // The server skips the query, too.
            Some(Hold::Mark) if is_the_clients => {
                self.marked = None;
                self.skipping = true;
            }
            Some(Hold::Mark) => {
                self.marked = None;
                // A simple query waited for the mark: end the transaction in its place.
                build::sync(&mut out.to_server);
                self.replies.push_back(Expect::Sync(Reply::Forward));
                self.in_group = false;
                self.hold = Some(Hold::Failed);
            }
            Some(Hold::Facts | Hold::Drain | Hold::Copy | Hold::CopyFails) | None => {
                self.skips(synced);
            }
            other => self.hold = other,
        }
    }

    /// A frame has failed, or was skipped; what is to be put back of portals.
    fn is_skipped(&mut self, reply: Expect, fails: bool) -> Option<Skipped> {
        match reply {
            Expect::Parse(_, Some(undo)) => self.take_back(*undo),
            Expect::Bind(_, Some(bound)) => return Some(Skipped::Bind(*bound)),
            Expect::Close(_, Some(closed)) => {
                if let Closed::Portal(name, portal) = *closed {
                    return Some(Skipped::ClosePortal(name, portal));
                }
            }
            // The portal of one that has failed cannot be run again.
            Expect::Execute(reply, rows) if !fails => {
                if reply == Reply::Forward {
                    self.transaction.is_unsure();
                }
                let ran = rows.mirrored().and_then(|mirrored| mirrored.ran.clone());
                return ran.map(Skipped::Execute);
            }
            // Behind frames without a Sync: the server skips it, and is ready once for both. What comes
            // next is of the same group, whether it is sent already or not.
            Expect::Query(_) => {
                self.transaction.is_unsure();
                self.in_group |= self.epochs.remove(1).is_none();
            }
            _ => {}
        }
        None
    }
}
