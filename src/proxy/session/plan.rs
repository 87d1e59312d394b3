//! What is sent for the text of a simple query: every statement decided, the rewritten ones and the
//! marks put into their places.

use super::Session;
use super::copy::Copied;
use super::decide::{Case, Decision};
use super::expect::{Form, Rows, ServedBy};
use super::named::Change;
use super::portal::Marks;
use super::prepared::FormKey;
use super::query::Text;
use super::steps::Steps;
use super::watch::Watch;
use crate::proxy::context::Counted;
use crate::routing::Route;
use crate::sql::reason::Reason;
use crate::sql::splice::Spliced;
use crate::sql::statement::{Class, Effect, Keeps, Statement};
use crate::wire::build::Report;
use crate::workload::Taken;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// What is sent for a text.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) rows: VecDeque<Rows>,
    /// Of a text of one statement: what is marked before it. A second statement in the text would
    /// take from it what it may do only when it is alone (a procedure that commits).
    pub(super) before: Option<Marks>,
    /// Of a text of several: the marks within it, each before its statement. So it is in that
    /// one's transaction, whichever the text ends and begins.
    pub(super) within: Vec<Marks>,
    pub(super) on_shadow: bool,
    /// Of a text of one statement: the COPY that it is.
    pub(super) copied: Option<(Copied, Option<Watch>)>,
    pub(super) form: Option<Arc<Form>>,
    placeholder: Arc<Form>,
    /// Pieces of the text that are replaced, in order.
    forms: Vec<(Range<usize>, Spliced)>,
    /// What is marked already where the next statement will be.
    marked: Vec<Arc<Route>>,
    /// What the names in its next statement mean.
    meanings: Meanings,
    /// Names of statements of ours, and the client's for them.
    pub(super) renamed: Vec<(String, String)>,
    /// What its statements do to the names of prepared ones.
    pub(super) changes: Vec<Arc<Change>>,
    /// What they do to the session.
    pub(super) effects: Vec<Effect>,
}

/// What names mean at a place in the text.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Meanings {
    /// What the session's facts say.
    #[default]
    Facts,
    /// What these say, if that is a migrated table; else it may have been dropped.
    Uncovered,
    /// Anything.
    Unknown,
}

impl Default for Plan {
    fn default() -> Self {
        let nothing = Form {
            spliced: Spliced::default(),
            original: Arc::from(""),
            layout: None,
            renamed: Vec::new(),
            native: None,
        };
        Self {
            rows: VecDeque::new(),
            before: None,
            within: Vec::new(),
            on_shadow: false,
            copied: None,
            form: None,
            placeholder: Arc::new(nothing),
            forms: Vec::new(),
            marked: Vec::new(),
            meanings: Meanings::default(),
            renamed: Vec::new(),
            changes: Vec::new(),
            effects: Vec::new(),
        }
    }
}

impl Session {
    /// Decides every statement of the text.
    pub(super) fn plan(
        &mut self,
        query: &Text<'_>,
        u: &Counted,
        plan: &mut Plan,
    ) -> Result<(), Box<Report>> {
        let alone = u.statements.len() == 1;
        if Self::has_to_be_first(self.status, query, u) {
            plan.meanings = Meanings::Unknown;
        }
        for (index, statement) in u.statements.iter().enumerate() {
            let effect = self.effect_of(query.routes, statement, &plan.changes);
            plan.effects.push(effect);
            if alone && self.retry.forces_source() {
                let watch = self.watch(&query.case(statement), u.tallies(index), Taken::Source);
                plan.rows.push_back(Rows::Plain.watched(watch));
                continue;
            }
            if matches!(statement.class, Class::Passthrough | Class::Ddl(_)) {
                // It may end what has been marked, or undo it.
                plan.marked.clear();
            }
            let decision = match &statement.class {
                Class::Execute(execute) => self.plan_execute(query, (statement, execute), plan),
                Class::Prepare(_) | Class::Deallocate(_) => {
                    self.plan_change(&query.case(statement), statement.at.end, plan);
                    None
                }
                // Its mark is written: whatever would be decided by now, it runs behind that, as it is.
                _ if alone && self.hold == Some(super::Hold::Marked) => {
                    let marked = Marks { routes: Vec::new(), why: Reason::Through };
                    let watch = self.watch(&query.case(statement), u.tallies(index), Taken::Marked);
                    Some((Decision::Marked(marked), watch))
                }
                _ => {
                    let decision = self.decide_planned(query, statement, alone, plan);
                    let taken = super::watch::taken(&decision);
                    let watch = self.watch(&query.case(statement), u.tallies(index), taken);
                    Some((decision, watch))
                }
            };
            if let Some((decision, watch)) = decision {
                self.plan_statement(query, statement, alone, (decision, watch, &mut *plan))?;
            }
            plan.meanings = plan.meanings.max(self.meanings_behind(effect));
        }
        plan.splice(query.text, |spliced| self.as_read_here(spliced));
        Ok(())
    }

    /// What names mean behind a statement of the same text.
    fn meanings_behind(&self, effect: Effect) -> Meanings {
        match effect {
            Effect::State
            | Effect::Defines(_, _, Keeps::Nothing)
            | Effect::Discard
            | Effect::Renames
            | Effect::Anything => Meanings::Unknown,
            // What the transaction has changed may end with it.
            Effect::Begin(_) | Effect::End if self.transaction.is_stateful() => Meanings::Unknown,
            Effect::Uncovers => Meanings::Uncovered,
            Effect::Begin(_)
            | Effect::End
            | Effect::None
            | Effect::KeepsNames
            | Effect::Defines(_, _, Keeps::Names)
            | Effect::SetTransaction(_)
            | Effect::PreparesWrite => Meanings::Facts,
        }
    }

    /// Whether what the names in a statement mean cannot be told by the facts any more.
    pub(super) fn meanings_are_lost(&self, case: &Case<'_>, plan: &Plan) -> bool {
        case.needs_facts()
            && match plan.meanings {
                Meanings::Facts => false,
                Meanings::Uncovered => case.statement.names.iter().any(|n| !self.facts_mean(*n)),
                Meanings::Unknown => true,
            }
    }

    fn decide_planned(
        &mut self,
        query: &Text<'_>,
        statement: &Statement,
        alone: bool,
        plan: &Plan,
    ) -> Decision {
        let case = query.case(statement);
        match &statement.class {
            Class::Read(_) if !alone => Decision::Original(None),
            // It cannot run, and is to be refused by the server.
            Class::Write(..) | Class::CopyFrom(..) if alone && query.fails => {
                Decision::Original(None)
            }
            Class::CopyFrom(..) if !alone || !self.is_between_groups() => {
                Self::decide_unsure(&case, Reason::CopyAmong)
            }
            Class::Write(..) if self.meanings_are_lost(&case, plan) => {
                Self::decide_unsure(&case, Reason::NamesChanged)
            }
            Class::Unclassified(why) if self.meanings_are_lost(&case, plan) => {
                Self::decide_unsure(&case, *why)
            }
            // Of a table that the same text may have made. If it is the migrated one after all, the
            // engine sees that its definition has changed.
            Class::Ddl(_) if self.meanings_are_lost(&case, plan) => {
                Self::decide_unsure(&case, Reason::NamesChanged)
            }
            _ => self.decide(&case),
        }
    }

    fn plan_statement(
        &mut self,
        query: &Text<'_>,
        statement: &Statement,
        alone: bool,
        (decision, watch, plan): (Decision, Option<Watch>, &mut Plan),
    ) -> Result<(), Box<Report>> {
        let case = query.case(statement);
        let rows = match decision {
            Decision::Original(route) => {
                let text = query.text.get(statement.at.clone()).unwrap_or_default();
                match self.fetched(text.as_bytes())? {
                    Rows::Plain => self.count_original(&case, route),
                    fetched => fetched,
                }
            }
            Decision::Mirrored(mirrors, modes) => {
                self.count("mirrored", "write");
                let key = FormKey::Mirrored(query.routes.generation, modes);
                if let Some(form) = case.form(key) {
                    plan.forms.push((statement.at.clone(), form));
                }
                let form = Arc::clone(&plan.placeholder);
                match &statement.class {
                    Class::Write(write) => {
                        Self::mirrored_rows(write, mirrors, (case.layout(key), form))
                    }
                    _ => Rows::Plain,
                }
            }
            Decision::Shadow(route, native) => {
                self.count("shadow", "read");
                let key = FormKey::Shadow(query.routes.generation);
                if let Some(form) = case.form(key) {
                    plan.forms.push((statement.at.clone(), form));
                }
                plan.on_shadow = true;
                let form = Arc::clone(&plan.placeholder);
                self.read_rows(route, ServedBy::Shadow(form, native))
            }
            Decision::Copied(copied) => {
                plan.copied = Some((copied, watch));
                return Ok(());
            }
            Decision::Marked(marks) => {
                // Alone it is looked at twice: before its mark and after.
                if !alone || self.hold == Some(super::Hold::Marked) {
                    self.count("recorded", "write");
                }
                match alone {
                    true => plan.before = Some(marks),
                    false => plan.mark_within(marks, statement),
                }
                Rows::Plain
            }
            Decision::Followed(steps) => {
                let (route, class) = steps.counted();
                self.count(route, class);
                plan.follow(&steps, statement, watch);
                return Ok(());
            }
            Decision::Refused(report) => return Err(report),
        };
        plan.rows.push_back(rows.watched(watch));
        Ok(())
    }
}

impl Plan {
    fn mark_within(&mut self, mut marks: Marks, statement: &Statement) {
        let marked = |r: &Arc<Route>| self.marked.iter().any(|m| Arc::ptr_eq(m, r));
        marks.routes.retain(|r| !marked(r));
        if marks.routes.is_empty() {
            return;
        }
        let mut mark = Spliced::default();
        mark.ours(&super::inject::mark_before(&marks));
        self.forms.push((statement.at.start..statement.at.start, mark));
        self.rows.push_back(Rows::Mark(Arc::clone(&self.placeholder)));
        self.marked.extend(marks.routes.iter().cloned());
        self.within.push(marks);
    }

    /// A statement that changes what names stand for is next.
    pub(super) fn change(&mut self, change: Arc<Change>) {
        self.rows.push_back(Rows::Names(Arc::clone(&change), Some(self.placeholder())));
        self.changes.push(change);
    }

    /// Puts another text in the place of a piece of the client's, behind those before.
    pub(super) fn replace(&mut self, at: Range<usize>, with: Spliced) {
        self.forms.push((at, with));
    }

    /// Stands for the whole rewritten text until there is one.
    pub(super) fn placeholder(&self) -> Arc<Form> {
        Arc::clone(&self.placeholder)
    }

    fn follow(&mut self, steps: &Arc<Steps>, statement: &Statement, watch: Option<Watch>) {
        let mut behind = Spliced::default();
        behind.ours(&super::steps::behind(steps));
        self.forms.push((statement.at.end..statement.at.end, behind));
        let [own, ours] = super::steps::rows(steps, &self.placeholder);
        self.rows.extend([own.watched(watch), ours]);
    }

    /// Puts the rewritten statements into the text, and the whole into every plan of rows.
    fn splice(&mut self, text: &str, as_read: impl Fn(Spliced) -> Spliced) {
        if self.forms.is_empty() {
            return;
        }
        let mut spliced = Spliced::default();
        let mut done = 0;
        for (at, form) in self.forms.drain(..) {
            spliced.client(text, done..at.start).append(&form);
            done = at.end;
        }
        spliced.client(text, done..text.len());
        let renamed = std::mem::take(&mut self.renamed);
        let original = Arc::from(text);
        let form =
            Form { spliced: as_read(spliced), original, layout: None, renamed, native: None };
        let form = Arc::new(form);
        for rows in &mut self.rows {
            let rows = rows.bare_mut();
            match rows {
                Rows::Mirrored(m) => m.form = Arc::clone(&form),
                Rows::Read(r) => {
                    if let ServedBy::Shadow(slot, _) = &mut r.served_by {
                        *slot = Arc::clone(&form);
                    }
                }
                Rows::Mark(slot)
                | Rows::Followed(Some(slot))
                | Rows::Steps(_, Some(slot))
                | Rows::Names(_, Some(slot)) => {
                    *slot = Arc::clone(&form);
                }
                Rows::Plain => *rows = Rows::Among(Arc::clone(&form)),
                Rows::Begins
                | Rows::Called
                | Rows::Undescribed
                | Rows::Fetched(_)
                | Rows::Copied(_)
                | Rows::Refused(_)
                | Rows::Followed(None)
                | Rows::Steps(_, None)
                | Rows::Names(_, None)
                | Rows::Among(_)
                | Rows::Watched(_) => {}
            }
        }
        self.form = Some(form);
    }
}
