//! How long the backfill may take, and the room that it needs.

use super::scan::Scan;
use super::{Finding, Kind, Subject};
use crate::engine::Error;
use std::time::Duration;

/// What a row of a copy with the key's index takes, in times of what it takes to be read and mapped.
const COPY_FACTOR: u64 = 4;
/// What every further index adds to it: 1.5 million rows with two of them took 7.8 s, where 2 s were
/// to be expected without.
const INDEX_FACTOR: u64 = 5;

/// Of a big source; `pace` is how many rows were mapped in which time.
pub(super) async fn check(
    scan: &Scan<'_>,
    pace: Option<(u64, Duration)>,
) -> Result<Vec<Finding>, Error> {
    let subject = scan.subject;
    let (rows, bytes) = (scan.rows, scan.bytes);
    if rows < subject.effort.big_rows {
        return Ok(Vec::new());
    }
    let (megabytes, needed) = (bytes >> 20, (bytes + bytes / 2) >> 20);
    let size = |lasts: String| {
        let message = format!("about {rows} rows, {megabytes} MB: {lasts}");
        Finding::info(
            Kind::Size,
            subject.source(),
            message,
            "bound it if the disks have other work",
        )
    };
    let size = match pace {
        None => size("how long the backfill takes is seen once the mappings work".to_owned()),
        Some(pace) => {
            let (possible, from) = possible(subject, pace).await?;
            let limit = subject.migration.backfill_rows_per_second.map(u64::from);
            let (pace, from) = match limit {
                Some(limit) if limit < possible => (limit, "backfill_rows_per_second".to_owned()),
                _ => (possible, from),
            };
            let lasts = lasting(rows.div_ceil(pace));
            let found =
                size(format!("the backfill takes {lasts} or more, at {pace} rows/s ({from})"));
            if limit.is_none() { found.write("backfill_rows_per_second = 20000") } else { found }
        }
    };
    let disk = format!(
        "the shadow needs about {needed} MB with its indexes, and the backfill as much again for WAL; \
         Postgres does not say how much is free"
    );
    let df = "compare with df on the server, for its data_directory and pg_wal";
    Ok(vec![size, Finding::info(Kind::Disk, "", disk, df)])
}

/// Rows per second that a backfill may copy, and by what.
async fn possible(
    subject: &Subject<'_>,
    (mapped, took): (u64, Duration),
) -> Result<(u64, String), Error> {
    let sql = "SELECT count(*) FROM pg_index WHERE indrelid = $1";
    let row = subject.client.query_one(sql, &[&subject.shape.shadow.oid]).await?;
    let indexes = u64::try_from(row.try_get::<_, i64>(0)?).unwrap_or_default().max(1);
    let factor = COPY_FACTOR + INDEX_FACTOR * (indexes - 1);
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
    let rows = (mapped.saturating_mul(1_000_000) / micros / factor).max(1);
    let from = format!(
        "1/{factor} of what {mapped} rows took to be mapped, {} ms, for {indexes} indexes",
        micros / 1000
    );
    Ok((rows, from))
}

/// Seconds for people.
fn lasting(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        _ => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
    }
}
