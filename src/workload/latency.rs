//! How long something took, many times: counts in buckets whose width grows with the time, eight to
//! a doubling. Anybody adds at any time, without a lock.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Buckets to a doubling: a quantile is at most an eighth too high.
const STEPS: u64 = 8;
const STEPS_LOG2: u32 = 3;
/// Up to two minutes in microseconds; longer is the last bucket.
const BUCKETS: usize = 200;

/// The counts.
#[derive(Debug)]
pub(super) struct Latency([AtomicU64; BUCKETS]);

/// The counts at one moment.
#[derive(Debug, Clone)]
pub(super) struct Counts([u64; BUCKETS]);

impl Default for Latency {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Latency {
    pub(super) fn add(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        if let Some(count) = self.0.get(bucket(micros)) {
            count.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn counts(&self) -> Counts {
        let mut counts = [0; BUCKETS];
        for (to, from) in counts.iter_mut().zip(&self.0) {
            *to = from.load(Relaxed);
        }
        Counts(counts)
    }
}

impl Counts {
    /// Takes in the counts of another.
    pub(super) fn merge(&mut self, other: &Self) {
        for (to, from) in self.0.iter_mut().zip(&other.0) {
            *to += from;
        }
    }

    /// The time in milliseconds that so many of a thousand stayed below; none without any.
    pub(super) fn quantile_ms(&self, of_thousand: u64) -> Option<f64> {
        let all: u64 = self.0.iter().sum();
        let rank = all.saturating_mul(of_thousand).div_ceil(1_000).max(1);
        let mut below = 0;
        for (index, count) in self.0.iter().enumerate() {
            below += count;
            if below >= rank {
                let micros = u32::try_from(upper(index)).unwrap_or(u32::MAX);
                return Some(f64::from(micros) / 1_000.0);
            }
        }
        None
    }
}

/// Times below `STEPS` have a bucket each.
fn bucket(micros: u64) -> usize {
    let index = match micros.checked_ilog2() {
        Some(log) if log >= STEPS_LOG2 => {
            let shift = log - STEPS_LOG2;
            (u64::from(shift) + 1) * STEPS + ((micros >> shift) & (STEPS - 1))
        }
        _ => micros,
    };
    usize::try_from(index).unwrap_or(BUCKETS).min(BUCKETS - 1)
}

/// The least time that is above a bucket.
fn upper(index: usize) -> u64 {
    let index = u64::try_from(index).unwrap_or(0);
    match index / STEPS {
        0 => index + 1,
        doubling => (STEPS + index % STEPS + 1) << (doubling - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_a_bucket_that_is_at_most_an_eighth_wider() {
        let mut before = 0;
        for micros in (0..5_000).chain((5_000..60_000_000).step_by(9_973)) {
            let bucket = bucket(micros);
            assert!(bucket >= before, "{micros}");
            before = bucket;
            let upper = upper(bucket);
            assert!(upper > micros && (upper - 1) * 8 <= micros * 9 + 8, "{micros}: {upper}");
        }
        assert_eq!(super::bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_of_what_was_added() {
        let latency = Latency::default();
        assert_eq!(latency.counts().quantile_ms(500), None);
        for ms in 1..=1_000 {
            latency.add(Duration::from_millis(ms));
        }
        let counts = latency.counts();
        let (p50, p99) = (counts.quantile_ms(500).unwrap(), counts.quantile_ms(990).unwrap());
        assert!((500.0..=563.0).contains(&p50), "{p50}");
        assert!((990.0..=1_120.0).contains(&p99), "{p99}");
    }
}
