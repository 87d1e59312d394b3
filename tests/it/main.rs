//! The integration tests: one binary, one real Postgres, one database per test.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking with the cause"
)]

mod engine_check;
mod engine_repair;
mod engine_run;
mod engine_support;
mod engine_sync;
mod engine_verify;
