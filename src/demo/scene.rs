//! The scenes of the demo: every statement of the load belongs to the scene in which it began.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// What the migration is doing while the load runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scene {
    Source,
    DualWrite,
    Backfill,
    Verify,
    DarkReads,
    Canary1,
    Canary10,
    Canary50,
    Canary100,
    Drill,
    Incident,
    RolledBack,
    Again,
}

impl Scene {
    pub(super) const ALL: [Self; 13] = [
        Self::Source,
        Self::DualWrite,
        Self::Backfill,
        Self::Verify,
        Self::DarkReads,
        Self::Canary1,
        Self::Canary10,
        Self::Canary50,
        Self::Canary100,
        Self::Drill,
        Self::Incident,
        Self::RolledBack,
        Self::Again,
    ];
    /// Those that last as long as they are told to.
    pub(super) const WATCHED: u32 = 7;

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Source => "source only",
            Self::DualWrite => "dual write",
            Self::Backfill => "backfill",
            Self::Verify => "verify",
            Self::DarkReads => "dark reads",
            Self::Canary1 => "canary 1 %",
            Self::Canary10 => "canary 10 %",
            Self::Canary50 => "canary 50 %",
            Self::Canary100 => "canary 100 %",
            Self::Drill => "rollback drill",
            Self::Incident => "shadow corrupted",
            Self::RolledBack => "rolled back",
            Self::Again => "100 % again",
        }
    }

    /// Whether the shadow may have served a wrong row: only while it is corrupted and that has not
    /// been found out.
    pub(super) fn may_be_wrong(self) -> bool {
        self == Self::Incident
    }
}

/// What the load and the story share.
#[derive(Debug, Default)]
pub(super) struct Board {
    scene: AtomicUsize,
    statements: AtomicU64,
    failed: AtomicU64,
    wrong: AtomicU64,
}

impl Board {
    pub(super) fn set_scene(&self, scene: Scene) {
        let place = Scene::ALL.iter().position(|s| *s == scene);
        self.scene.store(place.unwrap_or(0), Relaxed);
    }

    pub(super) fn scene(&self) -> Scene {
        Scene::ALL.get(self.scene.load(Relaxed)).copied().unwrap_or(Scene::Source)
    }

    pub(super) fn ran(&self) {
        self.statements.fetch_add(1, Relaxed);
    }

    pub(super) fn failed(&self) {
        self.failed.fetch_add(1, Relaxed);
    }

    pub(super) fn read_wrong(&self) {
        self.wrong.fetch_add(1, Relaxed);
    }

    /// Statements run, statements failed, wrong answers that the incident explains.
    pub(super) fn counts(&self) -> (u64, u64, u64) {
        (self.statements.load(Relaxed), self.failed.load(Relaxed), self.wrong.load(Relaxed))
    }
}
