//! The mark of a Bind whose statement may end its own transaction (CALL, DO): a transaction of its own before it. In
//! that of the statement it would be undone by a ROLLBACK on the way; and from Postgres 18 on, a procedure cannot
//! commit behind another statement without a Sync between them.
//!
//! Our Sync is not to end what the client has begun: so only where nothing of its group is bound or has run, and
//! what is parsed has been answered. Else the mark is in the group, and another one is owed.

use super::decide::Decision;
use super::expect::Expect;
use super::inject::{Isolated, Lasts, MARK, WRITABLE, mark_sql};
use super::portal::Marks;
use super::settle::{CANCELED, Ours};
use super::transaction::Block;
use super::{Flow, Hold, Out, Session};
use crate::wire::backend::TransactionStatus;
use crate::wire::build::{self, Report, Severity};

impl Session {
    /// Marks migrations before a Bind, if that is what was decided; what becomes of the Bind if it does not go on.
    /// When it has waited it is looked at again.
    pub(super) fn mark_bind(
        &mut self,
        decision: &Decision,
        name: &[u8],
        out: &mut Out,
    ) -> Option<Flow> {
        let Decision::Marked(marks) = decision else { return None };
        let lasts = self.lasts(name);
        match self.hold {
            Some(Hold::Marked) => {
                self.hold = None;
                return None;
            }
            Some(Hold::Unmarked { canceled }) => {
                self.hold = None;
                if canceled {
                    return Some(self.refuse_bind(canceled_by_user(), out));
                }
            }
            _ if lasts == Lasts::Statement && self.may_mark_apart() => {
                self.mark_apart(marks, out);
                return Some(Flow::Hold);
            }
            _ => {}
        }
        self.inject_mark_inline(marks, lasts, out);
        None
    }

    /// How long a mark has to stay for the statement of this name. One that the protocol has not prepared is SQL's,
    /// whose PREPARE takes neither CALL nor DO; unless the name was spelled in other bytes.
    pub(super) fn lasts(&self, name: &[u8]) -> Lasts {
        match self.names.statement(name) {
            Some(statement) => Lasts::of(&statement.sql),
            None if name.is_ascii() => Lasts::Transaction,
            None => Lasts::Statement,
        }
    }

    fn may_mark_apart(&self) -> bool {
        matches!(self.transaction.block, Block::None)
            && self.status == TransactionStatus::Idle
            && !self.names.has_bound_in(self.groups)
    }

    fn mark_apart(&mut self, marks: &Marks, out: &mut Out) {
        if !self.nothing_is_unanswered() && self.drains(out) {
            return;
        }
        self.count("recorded", "write");
        self.close_gates(marks);
        self.holds(marks);
        build::run_once(&mut out.to_server, MARK, WRITABLE);
        let mark = self.ours_as_read(mark_sql(marks, Isolated::Yes, Lasts::Statement));
        build::run_once(&mut out.to_server, MARK, &mark);
        build::sync(&mut out.to_server);
        self.replies.push_back(Expect::Apart { failed: None });
        self.hold = Some(Hold::Apart);
    }

    /// Whether this frame answers such a group of ours.
    pub(super) fn answers_mark_apart(&mut self, tag: u8, body: &[u8]) -> bool {
        let Some(Expect::Apart { failed }) = self.replies.front_mut() else { return false };
        match Ours::of(tag, body) {
            Ours::NoAnswer => return false,
            Ours::Part => {}
            Ours::Fails { sqlstate } => *failed = Some(sqlstate == CANCELED),
            Ours::Over => {
                self.hold = Some(match *failed {
                    None => Hold::Marked,
                    // In the client's group it fails as a statement of it.
                    Some(canceled) => Hold::Unmarked { canceled },
                });
                self.replies.pop_front();
            }
        }
        true
    }

    /// The end of data is no frame that is answered.
    pub(super) fn nothing_is_unanswered(&self) -> bool {
        self.replies.iter().all(|reply| matches!(reply, Expect::CopyEnd))
    }

    /// A Bind goes on, whatever was decided of it in the end: what was written for it is for no other.
    pub(super) fn bind_goes_on(&mut self) {
        if matches!(self.hold, Some(Hold::Marked | Hold::Unmarked { .. })) {
            self.hold = None;
        }
    }
}

/// In the server's words.
fn canceled_by_user() -> Box<Report> {
    Box::new(Report {
        severity: Severity::Error,
        code: "57014",
        message: "canceling statement due to user request".to_owned(),
        hint: String::new(),
    })
}
