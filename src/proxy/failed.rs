//! Reads that have failed on the shadow: when each is looked into, and which of them the source answers.
//!
//! It may be no row's fault: conditions are worked out in another order on the shadow, and one may guard
//! another (`total = 50 AND 100 / user_id > 1`). No verify mends that, and within a transaction the client
//! has the error. So what fails on the shadow alone is the source's for a while, whatever its constants.

use quick_cache::sync::Cache;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, Instant};

/// A read that has failed is looked into again after this time at the earliest.
const EVERY: Duration = Duration::from_secs(10);
/// The same where the shadow alone has failed: each look costs a verify.
const FOUND_EVERY: Duration = Duration::from_secs(3600);
/// So long is a kind of read that has failed on the shadow alone the source's.
const ALONE_FOR: Duration = Duration::from_secs(600);
/// Texts and kinds that are told apart.
const KEPT: usize = 100;

#[derive(Debug, Clone, Copy)]
struct Look {
    next: Instant,
    alone: bool,
}

/// By the hashes of texts, and of texts without their constants.
#[derive(Debug)]
pub(super) struct Failed {
    looks: Cache<u64, Look>,
    alone: Cache<u64, Instant>,
}

fn hash(text: &str) -> u64 {
    let mut hash = DefaultHasher::new();
    text.hash(&mut hash);
    hash.finish()
}

impl Failed {
    pub(super) fn new() -> Self {
        Self { looks: Cache::new(KEPT), alone: Cache::new(KEPT) }
    }

    /// A read has failed. Whether it is to be looked into; what has failed on the shadow alone before, and does
    /// not have to be, is the source's again.
    pub(super) fn is_due(&self, text: &str, kind: &str) -> bool {
        match self.looks.get(&hash(text)) {
            Some(look) if look.next > Instant::now() => {
                if look.alone {
                    self.alone.insert(hash(kind), Instant::now() + ALONE_FOR);
                }
                false
            }
            _ => true,
        }
    }

    pub(super) fn is_looked_into(&self, text: &str) {
        self.looks.insert(hash(text), Look { next: Instant::now() + EVERY, alone: false });
    }

    /// It fails on the shadow alone.
    pub(super) fn fails_alone(&self, text: &str, kind: &str) {
        self.looks.insert(hash(text), Look { next: Instant::now() + FOUND_EVERY, alone: true });
        self.alone.insert(hash(kind), Instant::now() + ALONE_FOR);
    }

    /// Whether reads of this kind have failed on the shadow alone of late.
    pub(super) fn alone(&self, kind: &str) -> bool {
        !self.alone.is_empty()
            && self.alone.get(&hash(kind)).is_some_and(|until| until > Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_on_the_shadow_alone_is_the_sources_whatever_its_constants() {
        let failed = Failed::new();
        assert!(!failed.alone("a = ?") && failed.is_due("a = 1", "a = ?"));
        failed.is_looked_into("a = 1");
        assert!(!failed.is_due("a = 1", "a = ?") && !failed.alone("a = ?"));
        assert!(failed.is_due("a = 2", "a = ?"));
        failed.fails_alone("a = 1", "a = ?");
        assert!(
            failed.alone("a = ?") && !failed.alone("b = ?") && !failed.is_due("a = 1", "a = ?")
        );
    }
}
