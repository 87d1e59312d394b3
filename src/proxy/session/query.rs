//! Simple queries: one text, any number of statements.

use super::decide::{Case, Decision};
use super::expect::{Expect, Form, Mirrored, Mirrors, ReadRows, Rows, ServedBy, Waits};
use super::hidden;
use super::inject::{self, Lasts};
use super::plan::Plan;
use super::watch::Watch;
use super::{Flow, Hold, Out, Protocol, Session};
use crate::proxy::context::{Counted, Known, Understander};
use crate::routing::Routes;
use crate::sql::lex::first_word;
use crate::sql::prefilter::has_second_statement;
use crate::sql::reason::Reason;
use crate::sql::statement::{Class, Effect, Statement, Understanding, drops_names};
use crate::sql::write::{Layout, Write};
use crate::wire::backend::TransactionStatus;
use crate::wire::{build, frontend};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

impl Session {
    pub(super) fn on_query(&mut self, frame: &[u8], body: &[u8], out: &mut Out) -> Flow {
        if self.hold == Some(Hold::Failed) {
            self.hold = None;
            self.in_group = false;
            return Flow::Done;
        }
        let fails = self.is_surely_failed();
        let routes = self.routes();
        let Some(sql) = frontend::query(body) else {
            self.forward_query(frame, VecDeque::new(), out);
            return Flow::Done;
        };
        let understander = self.context.understander(&routes);
        let bytes_max = self.context.options.sql_bytes_max;
        if self.waits_to_read(sql, out) {
            return Flow::Hold;
        }
        let mut known = understander.know(sql, self.readable_as(sql), bytes_max);
        if self.may_execute_hidden(sql, &routes) || hidden::prepares_and_executes(&known) {
            known = hidden::executes(sql, &known, &understander);
        }
        match known {
            Known::Plain if self.waits_to_fetch(sql, out) => Flow::Hold,
            Known::Plain => {
                if self.fetches_an_effect(sql) {
                    self.apply(Effect::State, &routes);
                }
                match self.fetched(sql) {
                    Ok(Rows::Plain) => self.forward_query(frame, VecDeque::new(), out),
                    Ok(fetched) => self.forward_query(frame, VecDeque::from([fetched]), out),
                    Err(report) => self.refuse_query(report, out),
                }
                Flow::Done
            }
            Known::Unreadable(_) | Known::Understood(_) if self.waits_for_block(sql, out) => {
                Flow::Hold
            }
            Known::Unreadable(why) => {
                self.facts = None;
                self.query_unseen((frame, sql, fails), &routes, why, out)
            }
            Known::Understood(u) => {
                let text = std::str::from_utf8(sql).unwrap_or_default();
                let (routes, understander) = (&routes, &understander);
                let query = Text { frame, text, routes, understander, fails };
                self.query_understood(&query, &u, out)
            }
        }
    }

    /// Whether a text has to wait for what is sent before. It leaves the transaction, and if that has failed
    /// nothing of ours can run before it. Or queries stand between it and frames without a Sync: if these
    /// fail the server skips them all, up to a Sync, which is not to be ours.
    fn waits_for_block(&mut self, sql: &[u8], out: &mut Out) -> bool {
        let mut buffer = [0; 16];
        let mut leaves = || {
            let first = first_word(sql, &mut buffer);
            matches!(first, Some("abort" | "commit" | "end" | "rollback"))
        };
        let mut waits = |s: &Self| leaves() || s.has_unsynced() || s.has_failed();
        self.epochs.len() > 1 && waits(self) && self.drains(out)
    }

    /// Whether frames without a Sync are not answered.
    fn has_unsynced(&self) -> bool {
        let mut sent = self.replies.iter().rev().take_while(|e| !matches!(e, Expect::Sync(_)));
        sent.any(Expect::is_the_clients)
    }

    /// Whether a text may run a write that a name hides.
    pub(super) fn may_execute_hidden(&self, sql: &[u8], routes: &Routes) -> bool {
        let in_sql = &self.names.in_sql;
        let any_name = in_sql.used || in_sql.has_unseen || self.names.has_named();
        if !self.names.hidden_writes && !any_name {
            return false;
        }
        hidden::may_execute(sql) && (self.names.hidden_writes || self.has_hidden_writes(routes))
    }

    /// Whether the next frame finds a failed transaction: nothing is in flight that could end it.
    pub(super) fn is_surely_failed(&self) -> bool {
        let nothing = self.replies.iter().all(|reply| matches!(reply, Expect::CopyEnd));
        self.has_failed() && nothing && !self.in_group
    }

    /// The same for the frame at hand, behind others of its group that run nothing.
    pub(super) fn finds_a_failed_transaction(&self) -> bool {
        let runs_nothing = |reply: &Expect| {
            matches!(
                reply,
                Expect::Parse(..)
                    | Expect::Bind(..)
                    | Expect::Describe(..)
                    | Expect::Close(..)
                    | Expect::CopyEnd
            )
        };
        self.has_failed() && self.replies.iter().all(runs_nothing)
    }

    /// Whether the transaction had failed when the server was last ready.
    pub(super) fn has_failed(&self) -> bool {
        self.status == TransactionStatus::Failed
    }

    /// A text that may write any migrated table, in a way that cannot be read.
    pub(super) fn query_unseen(
        &mut self,
        (frame, sql, fails): (&[u8], &[u8], bool),
        routes: &Arc<Routes>,
        why: Reason,
        out: &mut Out,
    ) -> Flow {
        let decision = super::decide::mark_or_refuse(self.unseen(routes, (sql, why)), why);
        let taken = super::watch::taken(&decision);
        match decision {
            Decision::Marked(marks) if fails => {
                // Nothing of ours can run before it; what it then does if it ends the transaction
                // is not seen by the client before it is marked.
                self.close_gates(&marks);
                self.mark_behind(&marks, unread(frame, sql));
                self.count("recorded", "write");
            }
            Decision::Marked(marks) if !self.take_marked() => {
                let text = unread(frame, sql);
                // Whether a block is open has to be known.
                if text == inject::Text::Unread && self.epochs.len() > 1 && self.drains(out) {
                    return Flow::Hold;
                }
                // Looked at twice: before its mark and after.
                self.count("recorded", "write");
                return self.inject_mark(&marks, text, out);
            }
            Decision::Refused(report) => {
                self.watch_unread(routes, (sql, why), taken);
                self.refuse_query(report, out);
                return Flow::Done;
            }
            _ => {}
        }
        // Whatever was decided now: its mark is written.
        self.take_marked();
        let watch = self.watch_unread(routes, (sql, why), taken);
        self.forward_unseen(frame, routes, watch, out);
        Flow::Done
    }

    fn forward_unseen(
        &mut self,
        frame: &[u8],
        routes: &Arc<Routes>,
        watch: Option<Watch>,
        out: &mut Out,
    ) {
        if !routes.routes.is_empty() {
            // It may have done anything to the session.
            self.apply(Effect::State, routes);
            // Of a long one only the beginning is known.
            if frame.is_empty() || hidden::may_prepare(frame) {
                self.names.may_have_changed();
            }
            if drops_names(frame) {
                self.names_may_be_others();
            }
        }
        // Of a text that is not read, the first statement stands for all.
        let rows = watch.map(|watch| Rows::Plain.watched(Some(watch)));
        self.forward_query(frame, rows.into_iter().collect(), out);
    }

    fn query_understood(&mut self, query: &Text<'_>, u: &Counted, out: &mut Out) -> Flow {
        let by_name = |s: &Statement| matches!(s.class, Class::Execute(_) | Class::Deallocate(_));
        let uncertain = |s: &Statement| match &s.class {
            Class::Execute(execute) => self.is_uncertain(execute.name.as_bytes()),
            _ => false,
        };
        if u.statements.iter().any(by_name)
            && (u.statements.iter().any(uncertain) && self.drains(out) || self.waits_for_names(out))
        {
            return Flow::Hold;
        }
        if self.wants_facts(query, u) {
            // Behind frames without a Sync the text is part of their transaction.
            let protocol = match self.retry.is_mid_group() {
                true => Protocol::Extended,
                false => Protocol::Simple,
            };
            self.inject_facts(query.understander, protocol, out);
            return Flow::Hold;
        }
        let mut plan = Plan::default();
        if let Err(report) = self.plan(query, u, &mut plan) {
            self.refuse_query(report, out);
            return Flow::Done;
        }
        if let Some(marks) = plan.before.take()
            && !query.fails
            && !self.take_marked()
        {
            let lasts = Lasts::of(query.text.as_bytes());
            return self.inject_mark(&marks, inject::Text::Statement(lasts), out);
        }
        plan.within.iter().for_each(|marks| self.close_gates(marks));
        self.query_has_run(query, u, &plan.effects);
        self.facts_used();
        if let Some((copied, watch)) = plan.copied.take() {
            return self.copy_by_query(query.text.as_bytes(), (copied, watch), out);
        }
        match plan.form {
            None => self.forward_query(query.frame, plan.rows, out),
            Some(form) => {
                if plan.on_shadow {
                    self.note_query_for_retry(query, u);
                }
                let mut sql = Vec::new();
                build::query(&mut sql, form.spliced.text());
                self.forward_query(&sql, plan.rows, out);
            }
        }
        Flow::Done
    }

    fn wants_facts(&self, query: &Text<'_>, u: &Understanding) -> bool {
        let asks = !self.has_failed() && !self.retry.forces_source();
        let stale = |s| {
            let case = query.case(s);
            (case.needs_facts() && self.facts_are_stale(&case)) || self.executed_needs_facts(&case)
        };
        asks && !Self::has_to_be_first(self.status, query, u) && u.statements.iter().any(stale)
    }

    /// Whether a text within a block begins with what sets the block's snapshot, or has to run before there is
    /// one, and goes on: nothing can be asked before it.
    pub(super) fn has_to_be_first(
        status: TransactionStatus,
        query: &Text<'_>,
        u: &Understanding,
    ) -> bool {
        let [first, _, ..] = u.statements.as_slice() else { return false };
        let mut buffer = [0; 16];
        let mut locks = || {
            let text = query.text.get(first.at.clone()).unwrap_or_default();
            first_word(text.as_bytes(), &mut buffer) == Some("lock")
        };
        status == TransactionStatus::InTransaction
            && (matches!(first.effect, Effect::SetTransaction(_)) || locks())
    }

    /// Applies the effects of a text that is about to be sent, and offers its dark read.
    fn query_has_run(&mut self, query: &Text<'_>, u: &Understanding, effects: &[Effect]) {
        if let [only] = u.statements.as_slice()
            && !self.retry.forces_source()
        {
            self.offer_dark_read(&query.case(only));
        }
        for effect in effects {
            self.apply(*effect, query.routes);
        }
    }

    /// Applies what a statement does to the session.
    pub(super) fn apply(&mut self, effect: Effect, routes: &Arc<Routes>) {
        self.transaction.apply(effect, routes);
        match effect {
            Effect::State | Effect::KeepsNames | Effect::Defines(..) | Effect::Uncovers => {
                self.facts = None;
            }
            Effect::Discard => {
                self.facts = None;
                self.names.forget_extra();
            }
            Effect::Renames => {
                self.facts = None;
                self.names_may_be_others();
            }
            Effect::Anything => {
                self.facts = None;
                self.names.forget_extra();
                self.names.in_sql.forget();
                self.names_sent_are_forgotten();
            }
            // What was asked within the transaction may have been said of what ends with it.
            Effect::Begin(_) | Effect::End if self.transaction.is_stateful() => self.facts = None,
            Effect::PreparesWrite
            | Effect::None
            | Effect::Begin(_)
            | Effect::SetTransaction(_)
            | Effect::End => {}
        }
    }

    pub(super) fn count(&self, route: &str, kind: &str) {
        self.context.metrics.statements.with_label_values(&[route, kind]).inc();
    }

    /// The replies of a statement that goes to the source as the client wrote it.
    pub(super) fn count_original(
        &self,
        case: &Case<'_>,
        route: Option<Arc<crate::routing::Route>>,
    ) -> Rows {
        match (&case.statement.class, route) {
            (Class::Read(read), Some(route)) => {
                self.count("source", "read");
                let waits = if read.fit.is_ok() { Waits::Never } else { Waits::Perhaps };
                self.read_rows(route, ServedBy::Source(waits))
            }
            (Class::Read(_), None) => {
                self.count("passthrough", "read");
                Rows::Plain
            }
            (Class::Write(..) | Class::CopyFrom(..), _) => {
                self.count("source", "write");
                Rows::Plain
            }
            (
                Class::Passthrough
                | Class::Truncate(_)
                | Class::Cascade
                | Class::Prepare(_)
                | Class::Execute(_)
                | Class::Deallocate(_)
                | Class::Ddl(_)
                | Class::Unclassified(_),
                _,
            ) => {
                self.count("passthrough", "other");
                Rows::Plain
            }
        }
    }

    pub(super) fn read_rows(&self, route: Arc<crate::routing::Route>, served_by: ServedBy) -> Rows {
        let begun = self.transaction.begun();
        let bound = Some(Box::default());
        Rows::Read(Box::new(ReadRows { route, began: Instant::now(), begun, bound, served_by }))
    }

    /// The replies of a form of a statement that is mirrored.
    pub(super) fn rows_of_form(case: &Case<'_>, mirrors: Arc<Mirrors>, form: Arc<Form>) -> Rows {
        match &case.statement.class {
            Class::Write(write) => Self::mirrored_rows(write, mirrors, (form.layout, form)),
            _ => Rows::Plain,
        }
    }

    /// The replies of a mirrored form.
    pub(super) fn mirrored_rows(
        write: &Write,
        mirrors: Arc<Mirrors>,
        (layout, form): (Option<Layout>, Arc<Form>),
    ) -> Rows {
        let Some(layout) = layout else { return Rows::Plain };
        let (verb, locked_for) = (write.verb(), write.locked_for());
        Rows::Mirrored(Box::new(Mirrored {
            mirrors,
            verb,
            locked_for,
            layout,
            form,
            rows: 0,
            ran: None,
        }))
    }

    pub(super) fn refuse_query(&mut self, report: Box<build::Report>, out: &mut Out) {
        self.count("refused", "other");
        let mut frame = Vec::new();
        build::query(&mut frame, super::inject::REFUSED_SQL);
        self.forward_query(&frame, VecDeque::from([Rows::Refused(report)]), out);
    }
}

/// How a text is marked that is not read, or of which only the head is there.
fn unread(frame: &[u8], sql: &[u8]) -> inject::Text {
    let mut buffer = [0; 16];
    let begins = matches!(first_word(sql, &mut buffer), Some("begin" | "start"));
    match begins || frame.is_empty() || has_second_statement(sql) {
        true => inject::Text::Unread,
        false => inject::Text::Statement(Lasts::of(sql)),
    }
}

/// A simple query in its surroundings.
pub(super) struct Text<'a> {
    pub(super) frame: &'a [u8],
    pub(super) text: &'a str,
    pub(super) routes: &'a Arc<Routes>,
    understander: &'a Arc<Understander>,
    /// It fails if it is one statement, whatever that is: it runs in a failed transaction.
    pub(super) fails: bool,
}

impl<'a> Text<'a> {
    pub(super) fn case(&self, statement: &'a crate::sql::statement::Statement) -> Case<'a> {
        Case {
            routes: self.routes,
            understander: self.understander,
            text: self.text,
            statement,
            types: &[],
        }
    }
}
