//! How hard the preflight looks at the rows, and where it is.

use std::time::Duration;

/// What the looks at the rows may cost.
#[derive(Debug, Clone)]
pub struct Effort {
    /// A sample of big tables, or every row.
    pub extent: Extent,
    /// What one look may take, where it is not a full one.
    pub look: Duration,
    /// What all looks together may take, where they are not full ones.
    pub looks: Duration,
    /// What one look at the catalog may take.
    pub catalog: Duration,
    /// Tables of up to so many rows are looked at whole.
    pub whole_rows: u64,
    /// Rows that are sampled of bigger ones.
    pub sample_rows: u32,
    /// Rows of one step of a full look.
    pub step_rows: u32,
    /// From so many rows on, size and room are worth a line.
    pub big_rows: u64,
    /// From this age on, a transaction is long: a barrier would be noticed to wait for it.
    pub long_transaction: Duration,
}

/// Which rows are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// All of a small table, a sample of a big one.
    Sampled,
    /// All, however long it takes.
    Full,
}

impl Default for Effort {
    fn default() -> Self {
        Self {
            extent: Extent::Sampled,
            look: Duration::from_secs(3),
            looks: Duration::from_mins(1),
            catalog: Duration::from_secs(30),
            whole_rows: 200_000,
            sample_rows: 10_000,
            step_rows: 50_000,
            big_rows: 1_000_000,
            long_transaction: Duration::from_mins(1),
        }
    }
}

/// Where a full look is.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// What is looked at.
    pub what: &'a str,
    /// Rows so far.
    pub rows: u64,
    /// About so many there are.
    pub of: u64,
}
