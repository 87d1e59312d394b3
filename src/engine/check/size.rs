//! How long the backfill may take, and the room that it needs.

use super::scan::Scan;
use super::{Finding, Kind};
use std::time::Duration;

/// Of what rows take that are only read and mapped, what a copy takes with its indexes and WAL.
const COPY_FACTOR: u64 = 4;

/// Of a big source; `pace` is how many rows were mapped in which time.
pub(super) fn check(scan: &Scan<'_>, pace: Option<(u64, Duration)>) -> Vec<Finding> {
    let subject = scan.subject;
    let (rows, bytes) = (scan.rows, scan.bytes);
    if rows < subject.effort.big_rows {
        return Vec::new();
    }
    let Some((mapped, took)) = pace else { return Vec::new() };
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
    let possible = (mapped.saturating_mul(1_000_000) / micros / COPY_FACTOR).max(1);
    let limit = subject.migration.backfill_rows_per_second.map(u64::from);
    let (pace, from) = match limit {
        Some(limit) if limit < possible => (limit, "backfill_rows_per_second".to_owned()),
        _ => (
            possible,
            format!("a quarter of what {mapped} rows took to be mapped, {} ms", micros / 1000),
        ),
    };
    let megabytes = bytes >> 20;
    let needed = (bytes + bytes / 2) >> 20;
    let found = Finding::info(
        Kind::Size,
        subject.source(),
        format!(
            "about {rows} rows, {megabytes} MB: the backfill takes some {} at {pace} rows/s ({from})",
            lasting(rows / pace)
        ),
        "bound it if the disks have other work",
    );
    vec![
        if limit.is_none() { found.write("backfill_rows_per_second = 20000") } else { found },
        Finding::info(
            Kind::Disk,
            "",
            format!(
                "the shadow needs about {needed} MB with its indexes, and the backfill as much again for WAL; \
                 Postgres does not say how much is free"
            ),
            "compare with df on the server, for its data_directory and pg_wal",
        ),
    ]
}

/// Seconds for people.
fn lasting(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        _ => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
    }
}
