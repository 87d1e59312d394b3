//! What an SRE declares: one migration and its routing levers. Domain types; the TOML form is in
//! `config`.

use crate::sql::ident::{Ident, QualifiedName};
use std::fmt;
use std::time::Duration;

/// One declared migration; levers are apart. Once it is started, `accepted`, `unclassified` and
/// `backfill_rows_per_second` may change at any time; the rest needs an abort first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    /// `[a-z][a-z0-9_]{0,39}`: part of the names of the functions that are installed.
    pub name: String,
    /// The table that the apps name.
    pub source: QualifiedName,
    /// The table of the new shape.
    pub shadow: QualifiedName,
    /// Source columns, unique and not null together, that pair a source row with its shadow row.
    pub key: Vec<Ident>,
    /// Shadow column = SQL over the source's columns, in the file's order.
    pub columns: Vec<(Ident, String)>,
    /// Source column = SQL over the shadow's columns, where the name alone does not say it.
    pub reverse: Vec<(Ident, String)>,
    /// What happens to a statement that is not understood.
    pub unclassified: Unclassified,
    /// How long a locked shadow may hold one client statement.
    pub lock_budget: Duration,
    /// Upper bound of the backfill, rows per second; `None`: as fast as the chunks go.
    pub backfill_rows_per_second: Option<u32>,
    /// Findings of `check` that the SRE accepts, by their id.
    pub accepted: Vec<String>,
}

/// What happens to a statement that names a migrated table and is not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unclassified {
    /// It runs; the migration is marked in the same transaction as needing a full verify, and
    /// reads go to the source until that is done.
    Record,
    /// It is refused with SQLSTATE 0A000; nothing changes.
    Refuse,
}

/// The hot part: applied within milliseconds of saving the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Levers {
    /// Writes go to both tables (from the start of the migration on).
    pub dual_write: DualWrite,
    /// Share of reads that the shadow serves.
    pub reads: Percent,
    /// Share of reads that are run on both tables and compared.
    pub dark_reads: Percent,
    /// What keeps one reader on one side of the canary.
    pub sticky: Sticky,
    /// Which table answers a read that would scan the shadow.
    pub scans: Scans,
}

/// The dual-write lever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DualWrite {
    /// Writes are mirrored.
    On,
    /// Writes go to the source only; turning it on again needs a barrier and a full verify.
    Off,
}

/// What keeps one reader on one side of the canary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sticky {
    /// One client connection.
    Session,
    /// Nothing: each statement is drawn anew.
    Statement,
    /// All sessions with the same `application_name`.
    ApplicationName,
    /// All sessions of the same user.
    User,
}

/// Which table answers a read whose plan would scan the shadow where the source's rows are looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scans {
    /// The source, whatever the share of reads is.
    Source,
    /// The shadow, as any other read.
    Shadow,
}

/// 0 to 100 %, in hundredths of a percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percent(u16);

impl Percent {
    /// No reads.
    pub const ZERO: Self = Self(0);
    /// All reads.
    pub const FULL: Self = Self(10_000);

    /// From a number of percent; `None` outside 0 to 100.
    pub fn new(percent: f64) -> Option<Self> {
        if !(0.0..=100.0).contains(&percent) {
            return None;
        }
        let hundredths = (percent * 100.0).round();
        (0u16..=10_000).find(|n| f64::from(*n) >= hundredths).map(Self)
    }

    /// The number of percent.
    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / 100.0
    }

    /// Whether a draw from 0 to 9,999 falls under this share; raising the share only adds draws.
    pub fn covers(self, draw: u16) -> bool {
        draw < self.0
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", self.as_f64())
    }
}

impl Levers {
    /// The lower of two settings, lever by lever: either can lower, both must agree to raise.
    #[must_use]
    pub fn lower(&self, reads: Percent, dark_reads: Percent, dual_write: DualWrite) -> Self {
        let both_on = self.dual_write == DualWrite::On && dual_write == DualWrite::On;
        Self {
            dual_write: if both_on { DualWrite::On } else { DualWrite::Off },
            reads: self.reads.min(reads),
            dark_reads: self.dark_reads.min(dark_reads),
            sticky: self.sticky,
            scans: self.scans,
        }
    }
}
