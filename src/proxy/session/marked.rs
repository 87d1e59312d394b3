//! The end of a simple query that runs in the transaction of its mark. Up to Postgres 17 the query
//! ends that transaction; from 18 on only a Sync does. The client is to see neither: its
//! completion waits for the commit, as it does without us, and nothing of its own comes between.

use super::expect::Expect;
use super::server::Fate;
use super::{Hold, Out, Session};
use crate::wire::backend::{self, TransactionStatus};
use crate::wire::build;

/// The name of a statement that does nothing.
const END: &str = "pgsegue end";

/// What is done with a frame that the server sent.
pub(super) enum Kept {
    /// What is always done.
    No,
    /// It is dealt with.
    Yes,
}

impl Session {
    /// A simple query is sent: behind its mark, the transaction of both is to be ended.
    pub(super) fn marked_query_is_sent(&mut self) {
        if self.status != TransactionStatus::Idle {
            self.in_marks_transaction = None;
        }
        if self.in_marks_transaction.is_some() {
            self.hold = Some(Hold::Commit);
        }
    }

    /// Not before it was sent: until then, what comes answers earlier queries.
    fn marked_query_runs(&self) -> bool {
        self.in_marks_transaction.is_some() && !matches!(self.hold, Some(Hold::Mark | Hold::Marked))
    }

    /// Whether a completion is kept back which the next frame may have to follow.
    pub(super) fn keeps_completion(&self) -> bool {
        self.in_marks_transaction.as_ref().is_some_and(|kept| !kept.is_empty())
            && matches!(self.replies.front(), Some(Expect::Query(_)))
    }

    /// The data of a COPY come from the client while everything else of it waits.
    pub(super) fn marked_copy(&mut self, now: Copying) {
        if self.in_marks_transaction.is_some() && matches!(self.hold, None | Some(Hold::Commit)) {
            self.hold = match now {
                Copying::Begins => None,
                Copying::Ends => Some(Hold::Commit),
            };
        }
    }

    /// Looks at a frame from the server before anything else does.
    pub(super) fn before_marked(&mut self, tag: u8, body: &[u8], out: &mut Out) -> Kept {
        if !self.marked_query_runs() {
            return Kept::No;
        }
        let Some(kept) = &mut self.in_marks_transaction else { return Kept::No };
        let commits = match self.replies.front() {
            Some(Expect::Query(_)) => false,
            Some(Expect::Commit) => true,
            _ => return Kept::No,
        };
        match (tag, commits) {
            (b'Z', false) if still_open(body) => {
                self.replies.pop_front();
                self.replies.push_front(Expect::Commit);
                // A Sync alone would not do: the server commits with it only what some message
                // since the last ReadyForQuery has taken up.
                build::run_once(&mut out.to_server, END, "");
                build::sync(&mut out.to_server);
                return Kept::Yes;
            }
            (b'1' | b'2' | b'3' | b'I', true) => return Kept::Yes,
            (b'Z', _) => {
                out.to_client.append(kept);
                self.in_marks_transaction = None;
                if self.hold == Some(Hold::Commit) {
                    self.hold = None;
                }
            }
            // The commit failed.
            (b'E', true) => kept.clear(),
            (_, true) => {}
            (b'G', false) => self.marked_copy(Copying::Begins),
            // Another statement of the text.
            (_, false) => out.to_client.append(kept),
        }
        Kept::No
    }

    /// Keeps back the completion of a marked query: what was written for it, or it as it came.
    pub(super) fn keep_completion(
        &mut self,
        fate: Fate,
        body: &[u8],
        from: usize,
        out: &mut Out,
    ) -> Fate {
        if !self.marked_query_runs() {
            return fate;
        }
        let Some(kept) = &mut self.in_marks_transaction else { return fate };
        match fate {
            Fate::Forward => {
                backend::push_frame(kept, b'C', |frame| frame.extend_from_slice(body));
            }
            Fate::Written => *kept = out.to_client.split_off(from),
            Fate::Swallow => {}
        }
        Fate::Swallow
    }
}

/// Which end of a COPY from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Copying {
    Begins,
    Ends,
}

fn still_open(ready: &[u8]) -> bool {
    backend::ready_for_query(ready) == Some(TransactionStatus::InTransaction)
}
