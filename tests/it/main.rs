//! The integration tests: one binary, one real Postgres, one database per test.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test fails by panicking with the cause"
)]
#![allow(
    unreachable_pub,
    dead_code,
    unused_imports,
    reason = "support is written like a library: for the tests to come too"
)]

mod admin;
mod bombs;
mod cancel;
mod check;
mod cli;
mod config;
mod crash;
mod demo;
mod drivers;
mod engine_drift;
mod engine_repair;
mod engine_reverse;
mod engine_run;
mod engine_several;
mod engine_support;
mod engine_sync;
mod engine_verify;
mod explain;
mod explain_places;
mod faults;
mod flips;
mod gone;
mod history;
mod hostile;
mod hostile_ways;
mod limits;
mod live;
mod operator;
mod pgbench;
mod pgbouncer;
mod privileges;
mod pump;
mod races;
mod reads;
mod scram;
mod size;
mod steer;
mod support;
mod takeover;
mod throwaway;
mod tls;
mod unix;
mod versions;
mod wire;
mod wire_whole;
mod workload;
mod writes;
