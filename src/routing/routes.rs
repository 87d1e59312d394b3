//! The immutable routing snapshot.

use super::gate::Gate;
use crate::manifest::{Percent, Scans, Sticky, Unclassified};
use crate::sql::target::{Functions, SyncMode, Target};
use std::sync::Arc;

/// Everything a statement is decided by. One snapshot per statement.
#[derive(Debug)]
pub struct Routes {
    /// Grows with every publication of this process.
    pub epoch: u64,
    /// Changes only when the set of targets or functions changes: what a cached understanding of
    /// a statement hangs on.
    pub generation: u64,
    /// One entry per migration that concerns statements (mirrored, or at least declared).
    pub routes: Vec<Arc<Route>>,
    /// What the catalog says about functions.
    pub functions: Arc<Functions>,
}

/// One migration's routing.
#[derive(Debug, Clone)]
pub struct Route {
    /// Names and shapes.
    pub target: Arc<Target>,
    /// What happens to writes.
    pub mirror: Mirror,
    /// Share of reads that the shadow serves; 0 unless a verify has passed.
    pub reads: Percent,
    /// Share of reads that are compared; 0 unless a verify has passed.
    pub dark_reads: Percent,
    /// What keeps a reader on its side.
    pub sticky: Sticky,
    /// Which table answers a read that would scan the shadow.
    pub scans: Scans,
    /// What happens to statements that are not understood.
    pub unclassified: Unclassified,
    /// Closed while keys of this migration are dirty: then the source serves everybody.
    pub gate: Arc<Gate>,
}

/// What happens to a write on the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mirror {
    /// It goes to the source alone: dual write is not on.
    Off,
    /// The keys it touched feed the sync function in this mode.
    On(SyncMode),
}

impl Routes {
    /// The routes whose writes are mirrored.
    pub fn mirrored(&self) -> Vec<Arc<Route>> {
        self.mirrored_of(|_| true)
    }

    /// Of these targets, by index, the routes whose writes are mirrored.
    pub fn mirrored_of(&self, these: impl Fn(usize) -> bool) -> Vec<Arc<Route>> {
        let all = self.routes.iter().enumerate();
        let mirrored = all.filter(|(target, r)| r.mirror != Mirror::Off && these(*target));
        mirrored.map(|(_, route)| Arc::clone(route)).collect()
    }

    /// No migration at all.
    pub fn none() -> Self {
        Self { epoch: 0, generation: 0, routes: Vec::new(), functions: Arc::default() }
    }
}
