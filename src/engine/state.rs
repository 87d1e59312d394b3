//! Phases and what `status` shows of a migration.

use crate::routing::Mirror;
use crate::sql::target::SyncMode;
use serde::{Deserialize, Serialize};

/// Where a migration is. Journaled as JSON; matched exhaustively, never compared by order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum Phase {
    /// In the file, not started: nothing is installed or mirrored; statements on the source are
    /// counted, and what is understood of them.
    Observe,
    /// `start` was asked for: check, then install.
    Prepare,
    /// Writes are mirrored; waiting until nobody writes unmirrored any more.
    DualWrite,
    /// Copying the rows that existed before.
    Backfill {
        /// Key (text images) of the last row of the last committed chunk.
        after: Option<Vec<String>>,
        /// Rows copied so far.
        rows: u64,
    },
    /// Working off dirty keys before a verify.
    Repair,
    /// Comparing every row.
    Verify {
        /// Key of the last row compared.
        after: Option<Vec<String>>,
        /// Rows compared in this pass.
        rows: u64,
        /// Rows found different in this pass.
        differences: u64,
    },
    /// A verify has passed: dark reads and canary follow the levers; verify goes on at a low rate.
    Ready,
    /// Held by an operator; writes are still mirrored.
    Paused {
        /// Where to go on.
        from: Box<Phase>,
    },
    /// Needs an operator: says why; writes are still mirrored, reads go to the source.
    Blocked {
        /// What is in the way, and what to do.
        reason: String,
        /// Where to go on after `resume`.
        from: Box<Phase>,
    },
    /// Ended by an operator: writes go to the source alone, functions are dropped.
    Aborted,
}

impl Phase {
    /// The phase's name, as the journal and `status` write it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Prepare => "prepare",
            Self::DualWrite => "dual_write",
            Self::Backfill { .. } => "backfill",
            Self::Repair => "repair",
            Self::Verify { .. } => "verify",
            Self::Ready => "ready",
            Self::Paused { .. } => "paused",
            Self::Blocked { .. } => "blocked",
            Self::Aborted => "aborted",
        }
    }

    /// What happens to writes. Until a verify is over, a chunk or an old snapshot may bring back a
    /// row that a writer deletes, so deletes are recorded.
    pub(crate) fn mirror(&self) -> Mirror {
        match self {
            Self::Observe | Self::Prepare | Self::Aborted => Mirror::Off,
            Self::DualWrite | Self::Backfill { .. } | Self::Repair | Self::Verify { .. } => {
                Mirror::On(SyncMode::SyncRecordDeletes)
            }
            Self::Ready => Mirror::On(SyncMode::Sync),
            Self::Paused { from } | Self::Blocked { from, .. } => from.mirror(),
        }
    }

    /// Whether it is past what keeps it from starting: writes are mirrored.
    pub fn is_started(&self) -> bool {
        self.mirror() != Mirror::Off
    }

    /// Whether the declaration is bound: changing it needs an abort first.
    pub(crate) fn is_bound(&self) -> bool {
        match self {
            Self::Observe | Self::Aborted => false,
            Self::Prepare
            | Self::DualWrite
            | Self::Backfill { .. }
            | Self::Repair
            | Self::Verify { .. }
            | Self::Ready
            | Self::Paused { .. }
            | Self::Blocked { .. } => true,
        }
    }

    /// Whether the shadow may serve reads at all.
    pub(crate) fn serves_reads(&self) -> bool {
        match self {
            Self::Ready => true,
            Self::Observe
            | Self::Prepare
            | Self::DualWrite
            | Self::Backfill { .. }
            | Self::Repair
            | Self::Verify { .. }
            | Self::Paused { .. }
            | Self::Blocked { .. }
            | Self::Aborted => false,
        }
    }

    /// Where to go on after a table's definition has changed: before the verify.
    pub(crate) fn after_drift(&self) -> Self {
        match self {
            Self::Observe
            | Self::Prepare
            | Self::Aborted
            | Self::DualWrite
            | Self::Backfill { .. }
            | Self::Repair => self.clone(),
            Self::Verify { .. } | Self::Ready => Self::Repair,
            Self::Paused { from } => Self::Paused { from: Box::new(from.after_drift()) },
            Self::Blocked { reason, from } => {
                Self::Blocked { reason: reason.clone(), from: Box::new(from.after_drift()) }
            }
        }
    }

    /// Where to go on after a time in which writes were not mirrored: all over again, from the
    /// barrier. Phases before the first mirrored write stay.
    pub(crate) fn after_gap(&self) -> Self {
        match self {
            Self::Observe | Self::Prepare | Self::Aborted => self.clone(),
            Self::DualWrite
            | Self::Backfill { .. }
            | Self::Repair
            | Self::Verify { .. }
            | Self::Ready => Self::DualWrite,
            Self::Paused { from } => Self::Paused { from: Box::new(from.after_gap()) },
            Self::Blocked { reason, from } => {
                Self::Blocked { reason: reason.clone(), from: Box::new(from.after_gap()) }
            }
        }
    }
}

/// One migration as the CLI, the HTTP API and the demo show it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The migration.
    pub name: String,
    /// `schema.table`.
    pub source: String,
    /// `schema.table`.
    pub shadow: String,
    /// Where it is.
    #[serde(flatten)]
    pub phase: Phase,
    /// Percent of reads that the shadow is allowed to serve (lower of file and control schema;
    /// 0 unless ready).
    pub reads: f64,
    /// Percent of reads that are compared.
    pub dark_reads: f64,
    /// Whether writes are mirrored.
    pub dual_write: bool,
    /// Estimated rows of the source.
    pub rows_estimate: u64,
    /// Dirty keys now.
    pub dirty_keys: u64,
    /// Keys that repair tried and could not bring in step, with the error, at most ten.
    pub poison_keys: Vec<String>,
    /// When the last full verify passed, RFC 3339; none while there is none.
    pub verified_at: Option<String>,
    /// Full verify passes finished since the start, clean or not.
    pub verify_passes: u64,
    /// Rows found different by all verifies.
    pub differences_found: u64,
    /// Why the shadow serves no reads though both tables are in step: rows that do not come back
    /// from it as they are in the source, or a column without a way back. None: nothing is known
    /// against it.
    #[serde(default)]
    pub reads_blocked: Option<String>,
}

/// One row of the audit trail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Grows with every event.
    pub id: i64,
    /// When, RFC 3339.
    pub at: String,
    /// Who asked for it: an OS user and database role, the file, or the engine itself.
    pub who: String,
    /// What changed: phase, reads, dark_reads, dual_write, divergence, …
    pub what: String,
    /// Its value before.
    pub from: String,
    /// Its value after.
    pub to: String,
    /// Why.
    pub why: String,
}
