//! What the proxy runs behind a statement of the client's, in the same transaction, of every migration that it
//! may have reached: for TRUNCATE, the step that empties the shadow; for what takes away more than it names,
//! the look whether both tables are whole.
//!
//! The statement is complete for the client when the steps are: should they fail or be cancelled, it has
//! failed, as it is without us.

use super::decide::{Case, Decision};
use super::expect::{Expect, Form, Reply, Rows};
use super::server::Fate;
use super::{Out, Session};
use crate::manifest::Unclassified;
use crate::routing::{Mirror, Route};
use crate::sql::reason::Reason;
use crate::sql::target::SyncMode;
use crate::sql::truncate::{Extent, Reach, Truncate};
use crate::wire::{backend, build};
use crate::workload::Taken;
use std::sync::Arc;

const STEPS: &str = "pgsegue steps";

/// The steps behind one statement.
#[derive(Debug)]
pub(super) enum Steps {
    /// Behind a TRUNCATE, as each migration is mirrored.
    Truncate(Vec<(Arc<Route>, SyncMode)>, Extent),
    /// Behind what may take away a table, or a column.
    Cascade(Vec<Arc<Route>>),
}

impl Steps {
    /// One statement that gives a row with an outcome per step.
    pub(super) fn sql(&self) -> String {
        let calls: Vec<_> = match self {
            Self::Truncate(calls, _) => calls
                .iter()
                .filter_map(|(route, mode)| {
                    let function = route.target.truncate_function.as_ref()?;
                    Some(format!("{function}({})", mode.as_sql()))
                })
                .collect(),
            Self::Cascade(routes) => {
                let functions = routes.iter().filter_map(|r| r.target.whole_function.as_ref());
                functions.map(|function| format!("{function}()")).collect()
            }
        };
        format!("SELECT {}", calls.join(", "))
    }

    /// What becomes of the statement: the steps mark what they cannot mirror, as a rule a part.
    pub(super) fn taken(&self) -> Taken {
        match self {
            Self::Truncate(_, Extent::Whole) => Taken::Mirrored,
            Self::Truncate(_, Extent::Part) => Taken::Marked,
            Self::Cascade(_) => Taken::Source,
        }
    }

    /// Where the statement is counted, and as what.
    pub(super) fn counted(&self) -> (&'static str, &'static str) {
        match self {
            Self::Truncate(..) => ("mirrored", "write"),
            Self::Cascade(_) => ("passthrough", "other"),
        }
    }

    /// The migrations whose rows are lost to the shadow without them.
    pub(super) fn mirrored(&self) -> Vec<Arc<Route>> {
        match self {
            Self::Truncate(calls, _) => calls.iter().map(|(route, _)| Arc::clone(route)).collect(),
            Self::Cascade(_) => Vec::new(),
        }
    }
}

impl Session {
    /// What is to be done about a TRUNCATE. Names need not be looked up: a step finds out whether
    /// its source was emptied.
    pub(super) fn decide_truncate(&mut self, case: &Case<'_>, truncate: &Truncate) -> Decision {
        let reached =
            |target: &usize| truncate.reach == Reach::Cascade || truncate.named.contains(target);
        let routes = case.routes.routes.iter().enumerate();
        let routes: Vec<_> = routes
            .filter(|(target, route)| reached(target) && route.mirror != Mirror::Off)
            .map(|(_, route)| Arc::clone(route))
            .collect();
        if routes.is_empty() {
            return Decision::Original(None);
        }
        let old = routes.iter().any(|r| r.target.truncate_function.is_none());
        let refused = |r: &Arc<Route>| r.unclassified == Unclassified::Refuse;
        if old {
            return super::decide::mark_or_refuse(routes, Reason::TruncateUnclear);
        }
        if truncate.extent == Extent::Part && routes.iter().any(refused) {
            return super::decide::mark_or_refuse(routes, Reason::TruncatePart);
        }
        let calls = routes.into_iter().filter_map(|route| {
            let Mirror::On(mode) = route.mirror else { return None };
            let mode = self.mode_now(&route, mode);
            Some((route, mode))
        });
        Decision::Followed(Arc::new(Steps::Truncate(calls.collect(), truncate.extent)))
    }

    /// What is to be done about a statement that may take away a migrated table, or a column of one.
    pub(super) fn decide_cascade(case: &Case<'_>) -> Decision {
        let mut routes = case.routes.mirrored_of(|_| true);
        routes.retain(|route| route.target.whole_function.is_some());
        match routes.is_empty() {
            true => Decision::Original(None),
            false => Decision::Followed(Arc::new(Steps::Cascade(routes))),
        }
    }

    /// Sends the steps behind an Execute.
    pub(super) fn inject_steps(&mut self, steps: &Arc<Steps>, out: &mut Out) {
        let sql = self.ours_as_read(steps.sql());
        build::run_once(&mut out.to_server, STEPS, &sql);
        let rows = Rows::Steps(Arc::clone(steps), None);
        self.expect_run_once(Expect::Execute(Reply::Forward, rows));
    }

    /// A reply of the steps.
    pub(super) fn steps_reply(
        &mut self,
        steps: &Steps,
        tag: u8,
        body: &[u8],
        out: &mut Out,
    ) -> Fate {
        match tag {
            b'D' => {
                let routes: Vec<_> = match steps {
                    Steps::Truncate(calls, _) => calls.iter().map(|(route, _)| route).collect(),
                    Steps::Cascade(routes) => routes.iter().collect(),
                };
                for (route, value) in routes.into_iter().zip(backend::Values::of(body)) {
                    self.outcome(route, backend::outcome(value));
                }
                Fate::Swallow
            }
            b'C' => {
                let tag = std::mem::take(&mut self.completed);
                backend::push_frame(&mut out.to_client, b'C', |frame| frame.extend(tag));
                Fate::Written
            }
            _ => Fate::Swallow,
        }
    }
}

/// The steps as a statement of its own, for its place behind a statement of the client's.
pub(super) fn behind(steps: &Steps) -> String {
    format!("; {}", steps.sql())
}

/// What is done with the replies of both.
pub(super) fn rows(steps: &Arc<Steps>, form: &Arc<Form>) -> [Rows; 2] {
    let form = || Some(Arc::clone(form));
    [Rows::Followed(form()), Rows::Steps(Arc::clone(steps), form())]
}
