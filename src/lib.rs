//! pgsegue: a Postgres proxy that moves live traffic from a table to its shadow.
//!
//! # Layout, in reading order
//!
//! A module imports only modules of a lower rank (`tests/tidy.rs` checks it).
//!
//! | rank | module | what it is |
//! |---|---|---|
//! | 0 | [`causes`], [`clock`], [`wire`], [`sql`] | pure: frames as bytes, SQL as text; no I/O |
//! | 1 | [`manifest`], [`telemetry`], [`throwaway`], [`workload`] | what an SRE declares; metrics; a Postgres for tests and the demo; what statements were seen |
//! | 2 | [`routing`], [`pg`] | the routing snapshot every statement is decided by; the control connections |
//! | 3 | [`proxy`], [`engine`] | the two actors: client sessions; the migration itself |
//! | 4 | [`config`], [`explain`] | the file and its reload; what becomes of a statement |
//! | 5 | [`admin`] | HTTP |
//! | 6 | [`app`] | puts the parts together and runs them |
//! | 7 | [`demo`] | a whole migration on a throwaway Postgres, under load |
//! | 8 | [`cli`] | commands |

pub mod causes;
pub mod clock;
pub mod sql;
pub mod wire;

pub mod manifest;
pub mod telemetry;
pub mod throwaway;
pub mod tls;
pub mod workload;

pub mod pg;
pub mod routing;

pub mod engine;
pub mod proxy;

pub mod config;
pub mod explain;

pub mod admin;

pub mod app;

pub mod demo;

pub mod cli;
