//! What the plan of a prepared statement goes by. The server keeps to the table that a name meant when
//! it last looked the name up: a temporary table of that name made since then, in a session that had
//! one already, does not make it look again. A change of the path does, and so does dropping a table.
//!
//! So a write that is bound as the client wrote it, because its table's name means another one now, may
//! yet write the migrated one. A form that was prepared while the name meant the other table, and is
//! bound only while it does ([`FormKey::Elsewhere`]), never does. What may is mirrored or marked.

use super::Session;
use super::decide::{Case, Decision};
use super::portal::Marks;
use super::prepared::{FormKey, Meant};
use crate::routing::Mirror;
use crate::sql::mention::Spelling;
use crate::sql::reason::Reason;
use crate::sql::statement::{Class, Name};
use std::sync::Arc;

/// What may be bound for a statement whose names mean other tables now.
pub(super) struct Moved {
    pub(super) decision: Decision,
    /// The client's own text goes by this form.
    pub(super) as_written: FormKey,
    /// What has to be marked before it besides.
    pub(super) marks: Option<Marks>,
}

/// Which table a plan writes, as far as it is known.
enum Plan {
    /// That which the name means now.
    Current,
    /// The migrated one, which the name meant before.
    Older,
    /// One of the two.
    Either,
}

impl Session {
    /// Whether the name of a table that the statement may write means another than the migrated one,
    /// by the facts.
    pub(super) fn writes_elsewhere(&self, case: &Case<'_>) -> bool {
        let Some(facts) = &self.facts else { return false };
        let mirrored = |n: &Name| case.route(n.target).is_some_and(|r| r.mirror != Mirror::Off);
        let moved =
            |n: &Name| n.spelling == Spelling::Unqualified && mirrored(n) && !facts.means(*n);
        match &case.statement.class {
            Class::Write(write) => write.feeds().any(|feed| moved(&feed.name)),
            Class::Unclassified(_) => case.statement.names.iter().any(moved),
            _ => false,
        }
    }

    /// Whether the names of all tables that it may write mean nothing at all, by facts asked for it.
    pub(super) fn names_mean_nothing(&self, case: &Case<'_>) -> bool {
        let Some(facts) = self.facts.as_ref().filter(|facts| facts.is_fresh) else { return false };
        let mut names = case.statement.names.iter();
        names.all(|n| facts.mean_nothing(*n))
    }

    /// The form of a statement that is parsed as the client wrote it.
    pub(super) fn form_as_written(&self, case: &Case<'_>) -> FormKey {
        match self.writes_elsewhere(case) {
            true => FormKey::Elsewhere(case.routes.generation),
            false => FormKey::Original,
        }
    }

    /// A Describe of a statement: the server may look up its names. In the group of its Parse they mean
    /// what they meant then.
    pub(super) fn is_looked_up(&mut self, name: &[u8]) {
        let group = self.groups;
        let Some(statement) = self.names.statement_mut(name) else { return };
        if matches!(statement.own.0, FormKey::Elsewhere(_)) && statement.touched != group {
            statement.own.0 = FormKey::Original;
            statement.meant = None;
        }
    }

    /// What the names of a statement that is parsed mean to the server.
    pub(super) fn meant_now(&self, case: &Case<'_>) -> Option<Meant> {
        let facts = self.facts.as_ref().filter(|_| case.needs_facts())?;
        Some(Meant { path: Arc::clone(&facts.path), elsewhere: self.writes_elsewhere(case) })
    }

    /// Decides a statement that is bound, and the form that the client's own text goes by; notes what its
    /// names mean to the server.
    pub(super) fn decide_bound(&mut self, name: &[u8], case: &Case<'_>) -> Moved {
        let decision =
            if self.retry.forces_source() { Decision::Original(None) } else { self.decide(case) };
        let now = self.meant_now(case);
        if !now.as_ref().is_some_and(|meant| meant.elsewhere) {
            if let (Some(statement), Some(_)) = (self.names.statement_mut(name), &now) {
                statement.meant = now;
            }
            return Moved { decision, as_written: FormKey::Original, marks: None };
        }
        let parsed_now = self.names.statement(name).is_some_and(|s| s.touched == self.groups);
        let is_as_now = parsed_now || matches!(self.plan_of(name, case), Plan::Current);
        if let (Decision::Mirrored(..), false) = (&decision, is_as_now) {
            // What it was parsed for is all of them: no form of now does the same.
            let decision = Self::decide_unsure(case, Reason::NamesChanged);
            return Moved { decision, as_written: FormKey::Original, marks: None };
        }
        if let Decision::Mirrored(..) = decision {
            // Some of its tables are migrated ones, some are not: those may be, by an older plan.
            let marks = (!parsed_now).then(|| self.marks_elsewhere(case)).flatten();
            return Moved { decision, as_written: FormKey::Original, marks };
        }
        let moved = self.decide_moved(name, case, decision);
        let stays = matches!(moved.as_written, FormKey::Original)
            || matches!(moved.decision, Decision::Mirrored(..));
        if let Some(statement) = self.names.statement_mut(name).filter(|_| !stays) {
            statement.meant = now;
        }
        moved
    }

    fn decide_moved(&self, name: &[u8], case: &Case<'_>, decision: Decision) -> Moved {
        let elsewhere = FormKey::Elsewhere(case.routes.generation);
        let as_written = |decision, as_written| Moved { decision, as_written, marks: None };
        let plan = self.plan_of(name, case);
        let mirrored = matches!(plan, Plan::Older).then(|| self.mirrored_before(name, case));
        let own = self.names.statement(name).map(|s| s.own.0);
        match (plan, mirrored.flatten(), own) {
            (Plan::Current, ..) => as_written(decision, elsewhere),
            (_, Some(mirrored), _) => as_written(mirrored, FormKey::Original),
            // It is what the server has under the client's name: nothing but that does the same.
            (_, None, Some(FormKey::Original)) => {
                as_written(Self::decide_unsure(case, Reason::NamesChanged), FormKey::Original)
            }
            (_, None, _) => as_written(decision, elsewhere),
        }
    }

    /// The mirrored form that was prepared while the names meant migrated tables: its plan is as old as
    /// that of the client's own text would be.
    fn mirrored_before(&self, name: &[u8], case: &Case<'_>) -> Option<Decision> {
        let Class::Write(write) = &case.statement.class else { return None };
        let modes = Self::modes_where(case, write, |_| true);
        let key = FormKey::Mirrored(case.routes.generation, modes);
        self.names.statement(name)?.prepared_as(key, name)?;
        Some(Decision::Mirrored(Arc::new(case.mirrors(write, modes)), modes))
    }

    fn plan_of(&self, name: &[u8], case: &Case<'_>) -> Plan {
        let meant = self.names.statement(name).and_then(|s| s.meant.as_ref());
        let Some(facts) = &self.facts else { return Plan::Either };
        match meant {
            Some(meant) if meant.elsewhere || meant.path != facts.path => Plan::Current,
            Some(_) => Plan::Older,
            // A table that is there for all was there before as a rule. One that was not is not missed:
            // what is prepared anew writes it for certain.
            None if !case.statement.names.iter().any(|n| facts.is_temporary(n.target)) => {
                Plan::Current
            }
            None => Plan::Either,
        }
    }

    /// The migrations whose tables' names mean others now.
    fn marks_elsewhere(&self, case: &Case<'_>) -> Option<Marks> {
        let facts = self.facts.as_ref()?;
        let Class::Write(write) = &case.statement.class else { return None };
        let moved = write.feeds().filter(|feed| !facts.means(feed.name));
        let routes = moved.filter_map(|feed| case.route(feed.name.target));
        let routes: Vec<_> = routes.filter(|r| r.mirror != Mirror::Off).cloned().collect();
        (!routes.is_empty()).then_some(Marks { routes, why: Reason::NamesChanged })
    }
}
