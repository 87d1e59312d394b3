//! The end of a simple query that was marked. What is still to be done before the client may have
//! its answer is done when the server has given it; nothing of the client's comes between, and the
//! query's completion waits, so that an error of the commit is seen as it is without us.
//!
//! * The query runs in the transaction of its mark. Up to Postgres 17 the query ends that
//!   transaction; from 18 on only a Sync does.
//! * The mark was a transaction of its own, before a text with transaction control. It may have
//!   been worked off by now, so there has to be another: in the transaction that the text has left
//!   open, or after the one that it has committed.
//! * There was no mark, since the transaction had failed, and the text was not read: if it has left
//!   that transaction, the mark comes behind it.

use super::expect::Expect;
use super::server::Fate;
use super::{Hold, Out, Session};
use crate::wire::backend::{self, TransactionStatus};
use crate::wire::build;

/// The name of a statement that does nothing.
const END: &str = "pgsegue end";

/// A marked query, up to its end.
#[derive(Debug)]
pub(super) struct MarkedQuery {
    /// Its completion, as far as the server has given it.
    kept: Vec<u8>,
    end: End,
    /// Its mark is a transaction of its own, behind it.
    is_settled: bool,
}

/// What ends it.
#[derive(Debug)]
pub(super) enum End {
    /// Nothing, if the server has ended the transaction; else a Sync.
    Commit,
    /// This mark.
    Mark(String),
}

/// What is done with a frame that the server sent.
pub(super) enum Kept {
    /// What is always done.
    No,
    /// It is dealt with.
    Yes,
}

/// Which end of a COPY from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Copying {
    Begins,
    Ends,
}

impl Session {
    /// A mark is sent; its query will follow.
    pub(super) fn will_be_marked(&mut self, end: End) {
        self.marked = Some(MarkedQuery { kept: Vec::new(), end, is_settled: false });
    }

    /// A simple query is sent.
    pub(super) fn marked_query_is_sent(&mut self) {
        let in_block = self.status != TransactionStatus::Idle;
        if in_block && matches!(&self.marked, Some(MarkedQuery { end: End::Commit, .. })) {
            self.marked = None;
        }
        if self.marked.is_some() {
            self.hold = Some(Hold::Commit);
        }
    }

    /// Not before it was sent: until then, what comes answers earlier queries.
    fn marked_query_runs(&self) -> bool {
        self.marked.is_some() && !matches!(self.hold, Some(Hold::Mark | Hold::Marked))
    }

    /// Whether a completion is kept back which the next frame may have to follow.
    pub(super) fn keeps_completion(&self) -> bool {
        self.marked.as_ref().is_some_and(|marked| !marked.kept.is_empty())
            && matches!(self.replies.front(), Some(Expect::Query(_)))
    }

    /// The data of a COPY come from the client while everything else of it waits.
    pub(super) fn marked_copy(&mut self, now: Copying) {
        if self.marked.is_some() && matches!(self.hold, None | Some(Hold::Commit)) {
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
        let Some(marked) = &mut self.marked else { return Kept::No };
        match (tag, self.replies.front()) {
            (b'Z', Some(Expect::Query(_))) => {
                if let Some(statements) = marked.last_statements(body) {
                    for sql in statements {
                        build::run_once(&mut out.to_server, END, &sql);
                    }
                    build::sync(&mut out.to_server);
                    self.replies.pop_front();
                    self.replies.push_front(Expect::Commit);
                    return Kept::Yes;
                }
                self.marked_query_ends(out);
            }
            (b'Z', Some(Expect::Commit)) => {
                if marked.is_settled {
                    self.owes_no_mark();
                }
                self.marked_query_ends(out);
            }
            (b'1' | b'2' | b'3' | b'D' | b'C' | b'I', Some(Expect::Commit)) => return Kept::Yes,
            // The commit failed.
            (b'E', Some(Expect::Commit)) => {
                marked.kept.clear();
                marked.is_settled = false;
            }
            (b'G', Some(Expect::Query(_))) => {
                out.to_client.append(&mut marked.kept);
                self.marked_copy(Copying::Begins);
            }
            // Another statement of the text.
            (_, Some(Expect::Query(_))) => out.to_client.append(&mut marked.kept),
            _ => {}
        }
        Kept::No
    }

    fn marked_query_ends(&mut self, out: &mut Out) {
        if let Some(mut marked) = self.marked.take() {
            out.to_client.append(&mut marked.kept);
        }
        if self.hold == Some(Hold::Commit) {
            self.hold = None;
        }
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
        let Some(marked) = &mut self.marked else { return fate };
        match fate {
            Fate::Forward => {
                let kept = &mut marked.kept;
                backend::push_frame(kept, b'C', |frame| frame.extend_from_slice(body));
            }
            Fate::Written => marked.kept = out.to_client.split_off(from),
            Fate::Swallow => {}
        }
        Fate::Swallow
    }
}

impl MarkedQuery {
    /// What is to be run before the client gets this ReadyForQuery.
    fn last_statements(&mut self, ready: &[u8]) -> Option<Vec<String>> {
        match (std::mem::replace(&mut self.end, End::Commit), backend::ready_for_query(ready)?) {
            // A Sync alone would not do: the server commits with it only what some message since
            // the last ReadyForQuery has taken up.
            (End::Commit, TransactionStatus::InTransaction) => Some(vec![String::new()]),
            // What the text has done is undone.
            (End::Commit, _) | (End::Mark(_), TransactionStatus::Failed) => None,
            (End::Mark(sql), TransactionStatus::InTransaction) => Some(vec![sql]),
            (End::Mark(sql), TransactionStatus::Idle) => {
                self.is_settled = true;
                Some(vec![super::inject::WRITABLE.to_owned(), sql])
            }
        }
    }
}
