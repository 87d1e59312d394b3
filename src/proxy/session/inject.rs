//! What the proxy asks the server on the client's connection: the session's facts, marks.

use super::expect::{Expect, Reply, Rows};
use super::marked::End;
use super::portal::Marks;
use super::transaction::Facts;
use super::{Hold, Out, Protocol, Session};
use crate::proxy::context::Understander;
use crate::routing::Route;
use crate::sql::ident::literal;
use crate::sql::lex::{first_word, spells};
use crate::sql::target::Target;
use crate::wire::build;
use std::sync::Arc;

/// Fails in the server's parser: the client's transaction fails as by any error, and the error is
/// replaced on its way back.
pub(super) const REFUSED_SQL: &str = "refused by pgsegue";

/// First in a transaction of a mark alone: by default it may be read only. It is no SET LOCAL, which
/// the server would give a warning for; it lasts for the transaction nevertheless.
pub(super) const WRITABLE: &str = "SET transaction_read_only = off";

const FACTS: &str = "pgsegue facts";
pub(super) const MARK: &str = "pgsegue mark";

/// A text that is marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Text {
    /// One statement.
    Statement(Lasts),
    /// It may be several, and any.
    Unread,
}

impl Text {
    fn lasts(self) -> Lasts {
        match self {
            Self::Statement(lasts) => lasts,
            Self::Unread => Lasts::Statement,
        }
    }
}

/// Whether a mark goes in a transaction of its own, before the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isolated {
    No,
    Yes,
}

/// How long a mark has to stay, whatever a verify finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lasts {
    /// No longer than until it is committed: then the statement is.
    Transaction,
    /// Until the statement is over: it may commit on its way, its mark with it, and go on.
    Statement,
}

impl Lasts {
    /// Of a text of one statement. Among others it ends no transaction on its way. Code does so by these words, in
    /// every language of the server's, or by a procedure that it calls.
    pub(super) fn of(sql: &[u8]) -> Self {
        let mut buffer = [0; 16];
        let ends = ["commit", "rollback", "call"];
        match first_word(sql, &mut buffer) {
            Some("do") if !ends.iter().any(|word| spells(sql, word)) => Self::Transaction,
            // Of what is not known it may be one of these.
            Some("call" | "do") | None => Self::Statement,
            Some(_) => Self::Transaction,
        }
    }
}

impl Session {
    /// Asks for the session's facts; the client's frames wait.
    ///
    /// Before a simple query it is a transaction of its own (the text may begin one); within an
    /// extended group it is part of the group's transaction, which the waiting frame continues.
    pub(super) fn inject_facts(
        &mut self,
        understander: &Arc<Understander>,
        protocol: Protocol,
        out: &mut Out,
    ) {
        let facts = self.ours_as_read(Facts::query(understander));
        build::run_once(&mut out.to_server, FACTS, &facts);
        self.expect_run_once(Expect::Probe(Arc::clone(understander)));
        self.hold = Some(Hold::Facts);
        match protocol {
            Protocol::Simple => self.sync_of_ours(out),
            Protocol::Extended => {
                self.transaction.takes_snapshot();
                build::flush(&mut out.to_server);
            }
        }
    }

    /// Marks migrations before a simple query; the query waits, so that an error of the mark is
    /// its error. Without a Sync between them both are one transaction.
    pub(super) fn inject_mark(&mut self, marks: &Marks, text: Text, out: &mut Out) -> super::Flow {
        self.close_gates(marks);
        let lasts = text.lasts();
        let held = lasts == Lasts::Statement && self.holds(marks);
        let isolated = self.isolation_of(text);
        if isolated == Isolated::Yes {
            build::run_once(&mut out.to_server, MARK, WRITABLE);
            self.expect_run_once(Expect::Execute(Reply::Swallow, Rows::Undescribed));
        }
        let mark = self.ours_as_read(mark_sql(marks, isolated, lasts));
        build::run_once(&mut out.to_server, MARK, &mark);
        self.expect_run_once(Expect::Execute(Reply::Swallow, Rows::Plain));
        self.hold = Some(Hold::Mark);
        match (isolated, text) {
            (Isolated::Yes, _) if held => {}
            (Isolated::Yes, _) | (Isolated::No, Text::Unread) => self.mark_behind(marks, text),
            (Isolated::No, Text::Statement(lasts)) => {
                if lasts == Lasts::Statement {
                    self.owes_mark(marks);
                }
                self.will_be_marked(End::Commit);
            }
        }
        match isolated {
            Isolated::Yes => self.sync_of_ours(out),
            Isolated::No => build::flush(&mut out.to_server),
        }
        super::Flow::Hold
    }

    /// Whether a mark goes in a transaction of its own, before the text. One that may begin with transaction
    /// control must not begin behind another statement of ours; one that may roll back on its way would undo its
    /// mark. From Postgres 18 on, a simple query behind frames without a Sync is in an implicit block, where a
    /// procedure cannot commit.
    fn isolation_of(&self, text: Text) -> Isolated {
        let ends = text.lasts() == Lasts::Statement;
        match ends && self.is_idle() && !self.retry.is_mid_group() {
            true => Isolated::Yes,
            false => Isolated::No,
        }
    }

    /// Marks migrations right before a Bind, in the same transaction: whatever runs its portal, an Execute or a
    /// FETCH in SQL, does so behind it, and a portal outlives no savepoint that its mark does not.
    pub(super) fn inject_mark_inline(&mut self, marks: &Marks, lasts: Lasts, out: &mut Out) {
        if self.finds_a_failed_transaction() {
            // Nothing runs in it but what ends it, and that writes nothing.
            return;
        }
        self.count("recorded", "write");
        self.close_gates(marks);
        if lasts == Lasts::Statement {
            self.holds(marks);
            // It may roll back on its way.
            self.owes_mark(marks);
        }
        let mark = self.ours_as_read(mark_sql(marks, Isolated::No, lasts));
        build::run_once(&mut out.to_server, MARK, &mark);
        self.expect_run_once(Expect::Execute(Reply::Swallow, Rows::Undescribed));
    }

    /// Marks migrations behind a simple query, if it has ended the transaction that it was sent in, and when
    /// the one that it has left open is over.
    pub(super) fn mark_behind(&mut self, marks: &Marks, text: Text) {
        if text == Text::Unread {
            self.owes_mark(marks);
        }
        self.will_be_marked(End::Mark(mark_alone(marks)));
    }

    pub(super) fn close_gates(&mut self, marks: &Marks) {
        for route in &marks.routes {
            self.transaction.has_recorded(route.gate.dirty_in_transaction(), self.groups);
            tracing::warn!(
                migration = route.target.migration,
                reason = %marks.why,
                "a statement that may change the table cannot be mirrored: full verify needed"
            );
        }
    }

    pub(super) fn expect_run_once(&mut self, run: Expect) {
        self.replies.push_back(Expect::Close(Reply::Swallow, None));
        self.replies.push_back(Expect::Parse(Reply::Swallow, None));
        self.replies.push_back(Expect::Bind(Reply::Swallow, None));
        self.replies.push_back(run);
        self.replies.push_back(Expect::Close(Reply::Swallow, None));
        self.replies.push_back(Expect::Close(Reply::Swallow, None));
    }

    fn sync_of_ours(&mut self, out: &mut Out) {
        build::sync(&mut out.to_server);
        self.replies.push_back(Expect::Sync(Reply::Swallow));
    }
}

/// The mark as a statement of its own, for its place before a statement of the client's.
pub(super) fn mark_before(marks: &Marks) -> String {
    format!("{}; ", mark_alone(marks))
}

/// The mark as the only statement of a text.
pub(super) fn mark_alone(marks: &Marks) -> String {
    mark_sql(marks, Isolated::No, Lasts::Transaction)
}

/// In the transaction of the statement itself there is nothing to mark if it is read only: the
/// server refuses the write, and is to do so in its own words.
pub(super) fn mark_sql(marks: &Marks, isolated: Isolated, lasts: Lasts) -> String {
    let call = |route: &Arc<Route>| {
        let Target { mark_function, hold, .. } = &*route.target;
        let hold = hold.as_ref().filter(|_| lasts == Lasts::Statement);
        let function = hold.map_or(mark_function, |hold| &hold.function);
        format!("{function}({})", literal(marks.why.text()))
    };
    let calls = marks.routes.iter().map(call).collect::<Vec<_>>();
    let when = match isolated {
        Isolated::Yes => "",
        Isolated::No => {
            " WHERE pg_catalog.current_setting('transaction_read_only') OPERATOR(pg_catalog.=) 'off'"
        }
    };
    format!("SELECT {}{when}", calls.join(", "))
}
