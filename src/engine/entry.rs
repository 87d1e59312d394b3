//! One migration as this process has it in memory, and the routes that follow from it. Pure: no
//! database here, so that a lever can be published without a round trip.

use super::journal::{ControlLevers, Journaled};
use super::{Declared, Phase};
use crate::manifest::{DualWrite, Levers, Percent};
use crate::routing::{Gate, Mirror, Route, Routes};
use crate::sql::target::{Functions, SyncMode, Target};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use tokio::sync::Notify;

/// What an operator asked for.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) id: i64,
    pub(crate) what: String,
    pub(crate) who: String,
    pub(crate) why: String,
}

/// What is known of the definition of both tables, by its fingerprint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Definition {
    /// Nothing yet.
    Unknown,
    /// As the functions were made for.
    Known(String),
    /// It was this, and a look has found another one.
    Changed(String),
}

impl Definition {
    /// As the journal has it.
    pub(crate) fn journaled(fingerprint: Option<String>) -> Self {
        fingerprint.map_or(Self::Unknown, Self::Known)
    }

    /// Whether the functions and the routes are behind.
    pub(crate) fn has_changed(&self) -> bool {
        match self {
            Self::Changed(_) => true,
            Self::Unknown | Self::Known(_) => false,
        }
    }

    /// What the functions were made for.
    pub(crate) fn known(&self) -> Option<&str> {
        match self {
            Self::Known(known) | Self::Changed(known) => Some(known),
            Self::Unknown => None,
        }
    }
}

/// What runs since dual write began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begun {
    /// Perhaps statements that were decided before.
    Mixed,
    /// Mirrored ones alone.
    Mirrored,
}

/// One declared migration.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) declared: Declared,
    pub(crate) phase: Phase,
    pub(crate) control: ControlLevers,
    /// A full verify has passed.
    pub(crate) verified: bool,
    /// Writes went to the source alone since dual write was last on.
    pub(crate) gap: bool,
    /// Of dual write.
    pub(crate) begun: Begun,
    /// Why the shadow serves no reads though it is in step.
    pub(crate) reads_blocked: Option<String>,
    pub(crate) definition: Definition,
    pub(crate) target: Option<Arc<Target>>,
    /// Of a migration that is not started and has no target: what its statements are understood by.
    pub(crate) observed: Option<Arc<Target>>,
    pub(crate) gate: Arc<Gate>,
    /// Wakes the worker.
    pub(crate) wake: Arc<Notify>,
    pub(crate) requests: VecDeque<Request>,
}

impl Entry {
    pub(crate) fn new(declared: Declared, journaled: Option<&Journaled>) -> Self {
        let mut entry = Self {
            declared,
            phase: journaled.map_or(Phase::Observe, |j| j.phase.clone()),
            control: journaled.map_or(ControlLevers::OPEN, |j| j.control),
            verified: journaled.is_some_and(|j| j.verified),
            gap: journaled.is_some_and(|j| j.gap),
            begun: Begun::Mixed,
            reads_blocked: journaled.and_then(|j| j.reads_blocked.clone()),
            definition: Definition::journaled(journaled.and_then(|j| j.fingerprint.clone())),
            target: None,
            observed: None,
            gate: Arc::default(),
            wake: Arc::default(),
            requests: VecDeque::new(),
        };
        entry.note_gap();
        entry
    }

    /// The levers in force: either side can lower, both must agree to raise.
    pub(crate) fn levers(&self) -> Levers {
        let c = self.control;
        self.declared.levers.lower(c.reads, c.dark_reads, c.dual_write)
    }

    /// Whether the dual-write levers are on.
    pub(crate) fn is_dual(&self) -> bool {
        self.levers().dual_write == DualWrite::On
    }

    /// Remembers that mirroring is interrupted; to be called after every change of levers or phase.
    pub(crate) fn note_gap(&mut self) {
        if !self.is_dual() && self.phase.mirror() != Mirror::Off {
            self.gap = true;
            self.gate.close();
        }
    }

    /// Puts a phase in force. The journal has it already.
    pub(crate) fn enter(&mut self, phase: Phase) {
        self.begun = Begun::Mixed;
        self.phase = phase;
        if !self.phase.serves_reads() {
            self.gate.close();
        }
        self.note_gap();
    }

    /// Whether the gate may open when no key is dirty.
    pub(crate) fn may_open(&self) -> bool {
        let in_doubt = self.gap || self.definition.has_changed() || self.reads_blocked.is_some();
        self.phase.serves_reads() && self.verified && !in_doubt
    }

    /// What happens to writes. While statements may run that are not mirrored, in any order with those that are, the
    /// shadow gets no row: a later one of the source's would be kept from it, since copying overwrites none. A pause
    /// then, or a block, leaves that to the verify.
    fn mirror(&self) -> Mirror {
        match self.phase {
            Phase::DualWrite if self.begun == Begun::Mixed => Mirror::On(SyncMode::RecordOnly),
            _ => self.phase.mirror(),
        }
    }

    fn route(&self) -> Option<Arc<Route>> {
        let observed = self.observed.as_ref().filter(|_| !self.phase.is_bound());
        let target = Arc::clone(self.target.as_ref().or(observed)?);
        let levers = self.levers();
        let observed = self.target.is_none();
        let interrupted = self.gap || observed || levers.dual_write == DualWrite::Off;
        let (reads, dark_reads) = if self.may_open() && !interrupted {
            (levers.reads, levers.dark_reads)
        } else {
            (Percent::ZERO, Percent::ZERO)
        };
        Some(Arc::new(Route {
            target,
            mirror: if interrupted { Mirror::Off } else { self.mirror() },
            reads,
            dark_reads,
            sticky: levers.sticky,
            scans: levers.scans,
            unclassified: self.declared.migration.unclassified,
            gate: Arc::clone(&self.gate),
        }))
    }
}

/// The routes of a set of migrations, as the successor of `now`.
pub(crate) fn routes(
    entries: &BTreeMap<String, Entry>,
    functions: &Arc<Functions>,
    now: &Routes,
    epoch: u64,
) -> Routes {
    let mut routes: Vec<Arc<Route>> = entries.values().filter_map(Entry::route).collect();
    let shared = |route: &Arc<Route>| {
        routes.iter().filter(|r| r.target.source == route.target.source).count() > 1
    };
    if routes.iter().any(shared) {
        // A query goes by the first migration of its table: the one that serves most reads, of
        // those that have the way back.
        routes.sort_by_key(|route| {
            let can = route.target.old_shape.is_ok();
            std::cmp::Reverse((can, route.reads, route.dark_reads))
        });
    }
    let same_targets = routes.len() == now.routes.len()
        && routes.iter().zip(&now.routes).all(|(a, b)| a.target == b.target);
    let same = same_targets && *functions == now.functions;
    Routes {
        epoch,
        generation: if same { now.generation } else { now.generation + 1 },
        routes,
        functions: Arc::clone(functions),
    }
}
