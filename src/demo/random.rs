//! Random numbers for the load: SplitMix64, so that a client's choices can be repeated by its seed.

/// A sequence of numbers.
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to `bound` - 1; 0 for a bound of 0 or less.
    pub(super) fn below(&mut self, bound: i32) -> i32 {
        let bound = u64::try_from(bound).unwrap_or(0).max(1);
        i32::try_from(self.next() % bound).unwrap_or(0)
    }
}
