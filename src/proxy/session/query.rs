//! Simple queries: one text, any number of statements.

use super::decide::{Case, Decision};
use super::expect::{Form, Mirrored, ReadRows, Rows, ServedBy};
use super::prepared::{FormKey, Marks};
use super::transaction::Block;
use super::{Flow, Hold, Out, Protocol, Session};
use crate::proxy::context::{Known, Understander};
use crate::routing::Routes;
use crate::sql::splice::Spliced;
use crate::sql::statement::{Class, Effect, Understanding};
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
        let routes = self.routes();
        let Some(sql) = frontend::query(body) else {
            self.forward_query(frame, VecDeque::new(), out);
            return Flow::Done;
        };
        let understander = self.context.understander(&routes);
        let bytes_max = self.context.options.sql_bytes_max;
        let known = understander.know(sql, self.readable(), bytes_max);
        match known {
            _ if self.may_execute_hidden(sql) || prepares_and_executes(&known) => {
                let why = "EXECUTE of a prepared write";
                self.query_unseen((frame, sql), &routes, why, out)
            }
            Known::Plain => {
                self.forward_query(frame, VecDeque::new(), out);
                Flow::Done
            }
            Known::Unreadable(why) => {
                self.facts = None;
                self.query_unseen((frame, sql), &routes, why, out)
            }
            Known::Understood(u) => {
                let text = std::str::from_utf8(sql).unwrap_or_default();
                let query = Text { frame, text, routes: &routes, understander: &understander };
                self.query_understood(&query, &u, out)
            }
        }
    }

    /// Whether a text may run a write that SQL-level PREPARE has hidden.
    pub(super) fn may_execute_hidden(&self, sql: &[u8]) -> bool {
        self.names.hidden_writes && sql.windows(7).any(|w| w.eq_ignore_ascii_case(b"execute"))
    }

    /// A text that may write any migrated table, in a way that cannot be read.
    pub(super) fn query_unseen(
        &mut self,
        (frame, sql): (&[u8], &[u8]),
        routes: &Arc<Routes>,
        why: &'static str,
        out: &mut Out,
    ) -> Flow {
        let mirrored = |r: &&Arc<crate::routing::Route>| r.mirror != crate::routing::Mirror::Off;
        let concerned = routes.routes.iter().filter(mirrored).cloned().collect();
        match super::decide::mark_or_refuse(concerned, why) {
            Decision::Marked(marks) if !self.take_marked() => {
                let isolated = if begins(sql) { Isolated::Yes } else { Isolated::No };
                self.inject_mark(&marks, isolated, out)
            }
            Decision::Refused(report) => {
                self.refuse_query(report, out);
                Flow::Done
            }
            _ => {
                if !routes.routes.is_empty() {
                    // It may have done anything to the session.
                    self.apply(Effect::State, routes);
                    self.names.hidden_writes = true;
                }
                self.forward_query(frame, VecDeque::new(), out);
                Flow::Done
            }
        }
    }

    fn query_understood(&mut self, query: &Text<'_>, u: &Understanding, out: &mut Out) -> Flow {
        if self.wants_facts(query, u) {
            self.inject_facts(query.understander, Protocol::Simple, out);
            return Flow::Hold;
        }
        let mut plan = Plan::default();
        if let Err(report) = self.plan(query, u, &mut plan) {
            self.refuse_query(report, out);
            return Flow::Done;
        }
        if let Some(marks) = plan.marks.take()
            && !self.take_marked()
        {
            return self.inject_mark(&marks, plan.isolated, out);
        }
        self.query_has_run(query, u);
        self.facts_used();
        match plan.form {
            None => self.forward_query(query.frame, plan.rows, out),
            Some(form) => {
                if plan.on_shadow && matches!(self.transaction.block, Block::None) {
                    self.retry.of_query(query.frame);
                }
                let mut sql = Vec::new();
                build::query(&mut sql, form.spliced.text());
                self.forward_query(&sql, plan.rows, out);
            }
        }
        Flow::Done
    }

    fn wants_facts(&self, query: &Text<'_>, u: &Understanding) -> bool {
        let failed = self.status == crate::wire::backend::TransactionStatus::Failed;
        let asks = !failed && !self.retry.forces_source();
        let stale = |s| {
            let case = query.case(s);
            case.needs_facts() && self.facts_are_stale(&case)
        };
        asks && u.statements.iter().any(stale)
    }

    /// Decides every statement of the text.
    fn plan(
        &mut self,
        query: &Text<'_>,
        u: &Understanding,
        plan: &mut Plan,
    ) -> Result<(), Box<build::Report>> {
        let alone = u.statements.len() == 1;
        let mut forms: Vec<(std::ops::Range<usize>, Spliced)> = Vec::new();
        let mut meanings_changed = false;
        for statement in &u.statements {
            let case = query.case(statement);
            if alone && self.retry.forces_source() {
                plan.rows.push_back(self.retry.rows_again());
                continue;
            }
            let decision = match &statement.class {
                Class::Read(_) if !alone => Decision::Original(None),
                Class::Write(..) if meanings_changed && case.needs_facts() => {
                    self.decide_unclassified(&case, "a write after a change of what names mean")
                }
                _ => self.decide(&case),
            };
            match statement.effect {
                Effect::State | Effect::Discard | Effect::Anything => meanings_changed = true,
                Effect::Begin(_) | Effect::SetTransaction(_) | Effect::End => {
                    plan.isolated = Isolated::Yes;
                }
                Effect::None | Effect::PreparesWrite => {}
            }
            let rows = match decision {
                Decision::Original(route) => self.count_original(&case, route),
                Decision::Mirrored(route, mode) => {
                    self.count("mirrored", "write");
                    let key = FormKey::Mirrored(query.routes.generation, mode);
                    if let Some(form) = case.form(key) {
                        forms.push((statement.at.clone(), form));
                    }
                    let form = Arc::clone(&plan.placeholder);
                    self.mirrored_rows(&case, route, form)
                }
                Decision::Shadow(route, native) => {
                    self.count("shadow", "read");
                    let key = FormKey::Shadow(query.routes.generation);
                    if let Some(form) = case.form(key) {
                        forms.push((statement.at.clone(), form));
                    }
                    plan.on_shadow = true;
                    let form = Arc::clone(&plan.placeholder);
                    Self::read_rows(route, ServedBy::Shadow(form, native))
                }
                Decision::Marked(marks) => {
                    // The text is looked at twice: before its mark and after.
                    if self.hold == Some(Hold::Marked) {
                        self.count("recorded", "write");
                    }
                    plan.add_marks(marks);
                    Rows::Plain
                }
                Decision::Refused(report) => return Err(report),
            };
            plan.rows.push_back(rows);
        }
        plan.splice(query.text, forms);
        Ok(())
    }

    /// Applies the effects of a text that is about to be sent, and offers its dark read.
    fn query_has_run(&mut self, query: &Text<'_>, u: &Understanding) {
        if let [only] = u.statements.as_slice()
            && !self.retry.forces_source()
        {
            self.offer_dark_read(&query.case(only));
        }
        for statement in &u.statements {
            self.apply(statement.effect, query.routes);
        }
    }

    /// Applies what a statement does to the session.
    pub(super) fn apply(&mut self, effect: Effect, routes: &Arc<Routes>) {
        self.transaction.apply(effect, routes);
        match effect {
            Effect::State => self.facts = None,
            Effect::Discard | Effect::Anything => {
                self.facts = None;
                self.names.forget_extra();
            }
            Effect::PreparesWrite => self.names.hidden_writes = true,
            Effect::None | Effect::Begin(_) | Effect::SetTransaction(_) | Effect::End => {}
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
            (Class::Read(_), Some(route)) => {
                self.count("source", "read");
                Self::read_rows(route, ServedBy::Source)
            }
            (Class::Read(_), None) => {
                self.count("passthrough", "read");
                Rows::Plain
            }
            (Class::Write(..), _) => {
                self.count("source", "write");
                Rows::Plain
            }
            (Class::Passthrough | Class::Ddl(_) | Class::Unclassified(_), _) => {
                self.count("passthrough", "other");
                Rows::Plain
            }
        }
    }

    pub(super) fn read_rows(route: Arc<crate::routing::Route>, served_by: ServedBy) -> Rows {
        Rows::Read(Box::new(ReadRows { route, began: Instant::now(), served_by }))
    }

    pub(super) fn mirrored_rows(
        &self,
        case: &Case<'_>,
        route: Arc<crate::routing::Route>,
        form: Arc<Form>,
    ) -> Rows {
        let Class::Write(_, write) = &case.statement.class else { return Rows::Plain };
        let Some(layout) = case.layout() else { return Rows::Plain };
        Rows::Mirrored(Box::new(Mirrored { route, verb: write.verb, layout, form, rows: 0 }))
    }

    fn refuse_query(&mut self, report: Box<build::Report>, out: &mut Out) {
        self.count("refused", "other");
        let mut frame = Vec::new();
        build::query(&mut frame, super::inject::REFUSED_SQL);
        self.forward_query(&frame, VecDeque::from([Rows::Refused(report)]), out);
    }
}

/// Whether one text prepares a write in SQL and goes on: what follows may execute it.
fn prepares_and_executes(known: &Known) -> bool {
    match known {
        Known::Understood(u) => {
            u.statements.len() > 1 && u.statements.iter().any(|s| s.effect == Effect::PreparesWrite)
        }
        Known::Plain | Known::Unreadable(_) => false,
    }
}

/// Whether a text begins a transaction block before anything else.
fn begins(sql: &[u8]) -> bool {
    let mut buffer = [0; 16];
    matches!(crate::sql::lex::first_word(sql, &mut buffer), Some("begin" | "start"))
}

/// A simple query in its surroundings.
struct Text<'a> {
    frame: &'a [u8],
    text: &'a str,
    routes: &'a Arc<Routes>,
    understander: &'a Arc<Understander>,
}

impl<'a> Text<'a> {
    fn case(&self, statement: &'a crate::sql::statement::Statement) -> Case<'a> {
        Case {
            routes: self.routes,
            understander: self.understander,
            text: self.text,
            statement,
            types: &[],
        }
    }
}

/// Whether a mark goes in a transaction of its own, before the text: a text with transaction
/// control must not begin behind another statement of ours.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isolated {
    #[default]
    No,
    Yes,
}

/// What is sent for a text.
#[derive(Debug)]
struct Plan {
    rows: VecDeque<Rows>,
    marks: Option<Marks>,
    isolated: Isolated,
    on_shadow: bool,
    placeholder: Arc<Form>,
    form: Option<Arc<Form>>,
}

impl Default for Plan {
    fn default() -> Self {
        let nothing = Form { spliced: Spliced::default(), original: Arc::from(""), layout: None };
        Self {
            rows: VecDeque::new(),
            marks: None,
            isolated: Isolated::No,
            on_shadow: false,
            placeholder: Arc::new(nothing),
            form: None,
        }
    }
}

impl Plan {
    fn add_marks(&mut self, more: Marks) {
        let marks = self.marks.get_or_insert_with(|| Marks { routes: Vec::new(), why: more.why });
        for route in more.routes {
            if !marks.routes.iter().any(|r| r.target.migration == route.target.migration) {
                marks.routes.push(route);
            }
        }
    }

    /// Puts the rewritten statements into the text, and the whole into every plan of rows.
    fn splice(&mut self, text: &str, forms: Vec<(std::ops::Range<usize>, Spliced)>) {
        if forms.is_empty() {
            return;
        }
        let mut spliced = Spliced::default();
        let mut done = 0;
        for (at, form) in forms {
            spliced.client(text, done..at.start).append(&form);
            done = at.end;
        }
        spliced.client(text, done..text.len());
        let form = Arc::new(Form { spliced, original: Arc::from(text), layout: None });
        for rows in &mut self.rows {
            match rows {
                Rows::Mirrored(m) => m.form = Arc::clone(&form),
                Rows::Read(r) => {
                    if let ServedBy::Shadow(slot, _) = &mut r.served_by {
                        *slot = Arc::clone(&form);
                    }
                }
                Rows::Plain | Rows::Undescribed | Rows::Refused(_) => {}
            }
        }
        self.form = Some(form);
    }
}
