//! The fuzz targets on stable: the stored corpus, a bounded number of mutations of it, always the
//! same ones, and texts that are deep or long. `fuzz/` has the same targets under libFuzzer.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "a test fails by panicking with the cause"
)]

mod bombs;
mod corpus;
mod targets;
