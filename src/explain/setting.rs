//! Where a migration is, as far as it decides what becomes of a statement.

use crate::engine::{Declared, Phase, Status};
use crate::manifest::{Percent, Scans, Unclassified};

/// Where a migration is.
pub(super) struct Setting {
    pub(super) name: String,
    /// What stands behind its name.
    phase: String,
    pub(super) dual_write: bool,
    pub(super) filled: Filled,
    pub(super) reads: Percent,
    pub(super) dark_reads: Percent,
    pub(super) scans: Scans,
    pub(super) unclassified: Unclassified,
}

/// Whether the shadow holds what it will hold. Before that its plan is that of another table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filled {
    Yes,
    NotYet,
}

impl Filled {
    fn in_phase(phase: &Phase) -> Self {
        match phase {
            Phase::Observe
            | Phase::Prepare
            | Phase::DualWrite
            | Phase::Backfill { .. }
            | Phase::Aborted => Self::NotYet,
            Phase::Repair | Phase::Verify { .. } | Phase::Ready => Self::Yes,
            Phase::Paused { from } | Phase::Blocked { from, .. } => Self::in_phase(from),
        }
    }
}

impl Setting {
    pub(super) fn of(
        Declared { migration, levers }: &Declared,
        status: Option<Status>,
        as_if: Option<Percent>,
    ) -> Self {
        let phase = status.as_ref().map_or("observe", |s| s.phase.name());
        let filled = status.as_ref().map_or(Filled::NotYet, |s| Filled::in_phase(&s.phase));
        let reads = status.as_ref().and_then(|s| Percent::new(s.reads)).unwrap_or(Percent::ZERO);
        let dark = status.as_ref().and_then(|s| Percent::new(s.dark_reads));
        let dark_reads = dark.unwrap_or(Percent::ZERO);
        let (phase, dual_write, reads) = match as_if {
            Some(reads) if phase == "ready" => ("ready, as if so routed".to_owned(), true, reads),
            Some(reads) => (format!("as if ready; in fact {phase}"), true, reads),
            None => (phase.to_owned(), status.is_some_and(|s| s.dual_write), reads),
        };
        let (name, unclassified) = (migration.name.clone(), migration.unclassified);
        let scans = levers.scans;
        Self { name, phase, dual_write, filled, reads, dark_reads, scans, unclassified }
    }

    /// The migration, and where it is.
    pub(super) fn at(&self) -> String {
        format!("{} ({})", self.name, self.phase)
    }
}
