//! How fast the engine works: chunks that aim at a duration, and a bound in rows per second.
//! Pure arithmetic.

use std::time::Duration;

/// Rows of a chunk, at least and at most. Below, the round trips cost more than the rows; above,
/// one failing row makes too many be tried again.
const ROWS_MIN: u32 = 100;
const ROWS_MAX: u32 = 20_000;
/// What a chunk should take: short enough that a writer who waits for it keeps its lock budget.
const CHUNK: Duration = Duration::from_millis(100);

/// The size of the next chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChunkSize {
    rows: u32,
    most: u32,
}

impl ChunkSize {
    /// The first size, under a bound of rows per second.
    pub(crate) fn new(rows_per_second: Option<u32>) -> Self {
        let most = rows_per_second.map_or(ROWS_MAX, |rate| (rate / 5).clamp(1, ROWS_MAX));
        Self { rows: 1_000.min(most), most }
    }

    /// Rows to take next.
    pub(crate) fn rows(self) -> u32 {
        self.rows
    }

    /// A chunk went through: the next one aims at the target duration, at most twice as large.
    pub(crate) fn took(&mut self, elapsed: Duration) {
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX).max(1);
        let target = u64::try_from(CHUNK.as_micros()).unwrap_or(u64::MAX);
        let fitting = u64::from(self.rows).saturating_mul(target) / micros;
        let doubled = u64::from(self.rows).saturating_mul(2);
        let floor = u64::from(ROWS_MIN.min(self.most)).min(doubled);
        let next = fitting.min(doubled).clamp(floor, u64::from(self.most).max(floor));
        self.rows = u32::try_from(next).unwrap_or(self.most);
    }

    /// A chunk failed: half of it next, to find the row. False when it was a single row already.
    pub(crate) fn halve(&mut self) -> bool {
        let was = self.rows;
        self.rows = (was / 2).max(1);
        was > 1
    }
}

/// How long to wait after `rows` rows that took `elapsed`, under a bound of rows per second.
pub(crate) fn rest(rows: u64, elapsed: Duration, rows_per_second: Option<u32>) -> Duration {
    match rows_per_second {
        Some(rate) if rate > 0 => {
            let micros = rows.saturating_mul(1_000_000) / u64::from(rate);
            Duration::from_micros(micros).saturating_sub(elapsed)
        }
        Some(_) | None => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_grows_slowly_shrinks_at_once_and_stays_in_bounds() {
        let mut size = ChunkSize::new(None);
        size.took(Duration::from_millis(1));
        assert_eq!(size.rows(), 2_000);
        size.took(Duration::from_millis(400));
        assert_eq!(size.rows(), 500);
        for _ in 0..10 {
            size.took(Duration::from_secs(10));
        }
        assert_eq!(size.rows(), ROWS_MIN);
        while size.halve() {}
        assert_eq!(size.rows(), 1);
        size.took(Duration::from_millis(1));
        assert_eq!(size.rows(), 2);
    }

    #[test]
    fn a_rate_bounds_both_the_chunk_and_the_pace() {
        let size = ChunkSize::new(Some(50));
        assert_eq!(size.rows(), 10);
        let rest = rest(10, Duration::from_millis(50), Some(50));
        assert_eq!(rest, Duration::from_millis(150));
    }
}
