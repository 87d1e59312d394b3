//! Statements on migrated tables are counted when they are answered: how often, where they were
//! sent, how long it took. It changes nothing of what is sent.

use super::Session;
use super::decide::{Case, Decision};
use super::expect::{Expect, Rows};
use crate::routing::{Route, Routes};
use crate::sql::reason::Reason;
use crate::sql::statement::Name;
use crate::workload::{Ended, Taken, Tallies};
use std::sync::Arc;
use std::time::Instant;

/// A statement in flight that is counted.
#[derive(Debug, Clone)]
pub(super) struct Watch {
    tallies: Tallies,
    taken: Taken,
    began: Instant,
}

impl Watch {
    fn of(tallies: &Tallies, taken: Taken) -> Option<Self> {
        let tallies = Tallies::clone(tallies);
        (!tallies.is_empty()).then(|| Self { tallies, taken, began: Instant::now() })
    }

    /// It is sent now.
    pub(super) fn begins(&mut self) {
        self.began = Instant::now();
    }

    /// A reply of it: the last one ends it.
    pub(super) fn sees(&self, tag: u8) {
        if matches!(tag, b'C' | b'I' | b's') {
            self.ends(Ended::Well);
        }
    }

    fn ends(&self, ended: Ended) {
        let after = self.began.elapsed();
        for (_, tally) in self.tallies.iter() {
            tally.answered(self.taken, ended, after);
        }
    }
}

/// Where a decision sends a statement.
pub(super) fn taken(decision: &Decision) -> Taken {
    match decision {
        Decision::Original(_) => Taken::Source,
        Decision::Mirrored(..) | Decision::Copied(_) => Taken::Mirrored,
        Decision::Followed(steps) => steps.taken(),
        Decision::Shadow(..) => Taken::Shadow,
        Decision::Marked(_) => Taken::Marked,
        Decision::Refused(_) => Taken::Refused,
    }
}

impl Expect {
    /// What counts the statement that is answered next.
    fn watch(&mut self) -> Option<&mut Watch> {
        let rows = match self {
            Self::Query(rows) => rows.front_mut(),
            Self::Execute(_, rows) => Some(rows),
            _ => None,
        };
        match rows {
            Some(Rows::Watched(watched)) => Some(&mut watched.0),
            _ => None,
        }
    }

    /// The next statement of a text begins where the one before has ended.
    pub(super) fn watch_next(&mut self) {
        if let Some(next) = self.watch() {
            next.begins();
        }
    }
}

impl Session {
    /// The statement that is answered next is answered by an error.
    pub(super) fn watched_fails(&mut self) {
        if let Some(failed) = self.replies.front_mut().and_then(Expect::watch) {
            failed.ends(Ended::Badly);
        }
    }

    /// Counts a statement, or lets it be counted: one that is refused is answered by us.
    pub(super) fn watch(
        &self,
        case: &Case<'_>,
        tallies: Option<&Tallies>,
        taken: Taken,
    ) -> Option<Watch> {
        let meant = self.meant(case, tallies?);
        if taken == Taken::Refused {
            meant.iter().for_each(|(_, tally)| tally.refused());
            return None;
        }
        Watch::of(&meant, taken)
    }

    /// The same for a text that is not read.
    pub(super) fn watch_unread(
        &self,
        routes: &Routes,
        (sql, why): (&[u8], Reason),
        taken: Taken,
    ) -> Option<Watch> {
        if routes.routes.is_empty() {
            return None;
        }
        let tallies = self.context.understander(routes).unread(sql, why);
        if taken == Taken::Refused {
            tallies.iter().for_each(|(_, tally)| tally.refused());
            return None;
        }
        Watch::of(&tallies, taken)
    }

    /// The migrations that a text that is not read may write.
    pub(super) fn unseen(&self, routes: &Routes, (sql, why): (&[u8], Reason)) -> Vec<Arc<Route>> {
        let understander = self.context.understander(routes);
        routes.mirrored_of(|target| understander.may_concern(target, sql, why))
    }

    /// Those of the tables that the statement means, as far as this session has asked: it is not
    /// asked for counting.
    fn meant(&self, case: &Case<'_>, tallies: &Tallies) -> Tallies {
        let names = &case.statement.names;
        let Some(facts) = self.facts.as_ref().filter(|f| f.generation == case.routes.generation)
        else {
            return Tallies::clone(tallies);
        };
        let means = |target: usize| {
            let named = |name: &Name| name.target == target && facts.means(*name);
            names.is_empty() || names.iter().any(named)
        };
        if tallies.iter().all(|(target, _)| means(*target)) {
            return Tallies::clone(tallies);
        }
        tallies.iter().filter(|(target, _)| means(*target)).cloned().collect()
    }
}
