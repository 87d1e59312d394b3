//! Copying the rows that existed before, chunk by chunk in key order.
//!
//! A chunk is one READ COMMITTED transaction: the shared chunk lock as a statement of its own,
//! then `INSERT … SELECT … ON CONFLICT DO NOTHING`, then the watermark. Why it is safe:
//! * It never overwrites: a row that is in the shadow already was written by a sync, which is
//!   newer than, or equal to, what the chunk's snapshot sees. (The barrier lets no sync begin while an unmirrored
//!   statement may run behind it.)
//! * A row that the chunk copies stale (its writer commits after the chunk's snapshot) is synced
//!   by that writer: its upsert meets the chunk's row, waits for it, and overwrites it.
//! * A row that the chunk resurrects (deleted after the snapshot) was recorded dirty by its writer,
//!   whether or not the writer found it in the shadow. The lock keeps repair from consuming that
//!   record before the chunk has committed: repair holds it exclusively, so it sees every
//!   committed chunk and none with an older snapshot is left.
//! * Killed at any point, the watermark is that of the last chunk that committed.

use super::journal;
use super::pace::{ChunkSize, rest};
use super::range::{Range, nth_key_sql};
use super::shape::Shape;
use super::{Error, Phase};
use crate::pg;
use std::time::Duration;
use tokio::time::Instant;
use tokio_postgres::{Client, IsolationLevel, Transaction};

/// How often a chunk that met a lock is tried again before it is halved.
const LOCK_RETRIES: u32 = 3;

/// The copying of one migration.
#[derive(Debug)]
pub struct Backfill {
    size: ChunkSize,
    failures: u32,
}

/// What one chunk did.
#[derive(Debug)]
pub struct Progress {
    /// Where the migration is now.
    pub phase: Phase,
    /// Rows copied by this chunk (rows that were there already are not counted).
    pub copied: u64,
    /// How long to wait before the next one.
    pub rest: Duration,
}

impl Backfill {
    /// From the first chunk size.
    pub fn new(shape: &Shape) -> Self {
        Self { size: ChunkSize::new(shape.migration.backfill_rows_per_second), failures: 0 }
    }

    /// Copies the next chunk and journals the watermark with it. After the last one the phase is
    /// `Repair`.
    ///
    /// # Errors
    /// When the connection is lost or the journal moved on; a row that cannot be copied is
    /// recorded as dirty instead.
    pub async fn chunk(
        &mut self,
        client: &mut Client,
        shape: &Shape,
        phase: &Phase,
    ) -> Result<Progress, Error> {
        let started = Instant::now();
        match copy(client, shape, phase, self.size.rows()).await {
            Ok((next, seen, copied)) => {
                self.failures = 0;
                self.size.took(started.elapsed());
                let rate = shape.migration.backfill_rows_per_second;
                let rest = rest(seen, started.elapsed(), rate);
                Ok(Progress { phase: next, copied, rest })
            }
            Err(Error::Postgres(error)) if error.as_db_error().is_some() && !client.is_closed() => {
                self.failed(client, shape, phase, &error).await
            }
            Err(error) => Err(error),
        }
    }

    /// A lock: the same again, later. Anything else, or too often: half of it, down to the one
    /// row that cannot be copied; that one is recorded and left to repair.
    async fn failed(
        &mut self,
        client: &mut Client,
        shape: &Shape,
        phase: &Phase,
        error: &tokio_postgres::Error,
    ) -> Result<Progress, Error> {
        let state = error.code().map_or("", |code| code.code());
        self.failures += 1;
        let locked = matches!(state, "55P03" | "40P01" | "40001");
        if locked && self.failures <= LOCK_RETRIES {
            let rest = Duration::from_millis(20) * self.failures;
            return Ok(Progress { phase: phase.clone(), copied: 0, rest });
        }
        if self.size.halve() {
            return Ok(Progress { phase: phase.clone(), copied: 0, rest: Duration::ZERO });
        }
        self.failures = 0;
        let next = skip_one(client, shape, phase, &pg::reason(error)).await?;
        Ok(Progress { phase: next, copied: 0, rest: Duration::ZERO })
    }
}

/// Takes the chunk lock shared, as the transaction's first statement.
async fn begin<'c>(client: &'c mut Client, shape: &Shape) -> Result<Transaction<'c>, Error> {
    let tx =
        client.build_transaction().isolation_level(IsolationLevel::ReadCommitted).start().await?;
    tx.execute(
        "SELECT pg_advisory_xact_lock_shared($1, hashtext($2::text))",
        &[&super::install::REPAIR_LOCK_CLASS, &shape.migration.name],
    )
    .await?;
    Ok(tx)
}

async fn copy(
    client: &mut Client,
    shape: &Shape,
    phase: &Phase,
    limit: u32,
) -> Result<(Phase, u64, u64), Error> {
    let tx = begin(client, shape).await?;
    let Some(bounds) = bounds(&tx, shape, phase, limit).await? else {
        journal::advance(
            &tx,
            &shape.migration.name,
            (phase, &Phase::Repair),
            journal::ENGINE,
            "all rows are copied",
        )
        .await?;
        tx.commit().await?;
        return Ok((Phase::Repair, 0, 0));
    };
    let range = Range { after: bounds.after, upper: Some(&bounds.upper) };
    let copied = tx.execute(&copy_sql(shape, range), &[]).await?;
    let next = if bounds.last {
        Phase::Repair
    } else {
        Phase::Backfill { after: Some(bounds.upper.clone()), rows: bounds.rows + copied }
    };
    journal::advance(
        &tx,
        &shape.migration.name,
        (phase, &next),
        journal::ENGINE,
        "all rows are copied",
    )
    .await?;
    tx.commit().await?;
    Ok((next, u64::from(limit), copied))
}

struct Bounds<'a> {
    after: Option<&'a [String]>,
    upper: Vec<String>,
    last: bool,
    rows: u64,
}

/// The next range: `limit` rows, or all that is left up to the key that was the last one when the
/// backfill began (rows beyond it are mirrored by their writers). None: there is nothing to copy.
async fn bounds<'a>(
    tx: &Transaction<'_>,
    shape: &Shape,
    phase: &'a Phase,
    limit: u32,
) -> Result<Option<Bounds<'a>>, Error> {
    let (after, rows) = match phase {
        Phase::Backfill { after, rows } => (after.as_deref(), *rows),
        Phase::Observe
        | Phase::Prepare
        | Phase::DualWrite
        | Phase::Repair
        | Phase::Verify { .. }
        | Phase::Ready
        | Phase::Paused { .. }
        | Phase::Blocked { .. }
        | Phase::Aborted => (None, 0),
    };
    let name = &shape.migration.name;
    let until: Option<Vec<String>> = tx
        .query_one("SELECT backfill_until FROM pgsegue.migrations WHERE name = $1", &[name])
        .await?
        .try_get(0)?;
    let until = match (until, after) {
        (Some(until), Some(_)) => until,
        (Some(_) | None, _) => {
            let Some(last) = last_key(tx, shape).await? else { return Ok(None) };
            tx.execute(
                "UPDATE pgsegue.migrations SET backfill_until = $2 WHERE name = $1",
                &[name, &last],
            )
            .await?;
            last
        }
    };
    let range = Range { after, upper: Some(&until) };
    let upper = tx.query_opt(&nth_key_sql(shape, range, limit), &[]).await?;
    Ok(Some(match upper {
        Some(row) => {
            let upper: Vec<String> = row.try_get(0)?;
            let last = upper == until;
            Bounds { after, upper, last, rows }
        }
        None => Bounds { after, upper: until, last: true, rows },
    }))
}

async fn last_key(tx: &Transaction<'_>, shape: &Shape) -> Result<Option<Vec<String>>, Error> {
    let descending: Vec<String> =
        shape.key.iter().map(|pair| format!("{} DESC", pair.source.name.quoted())).collect();
    let row = tx
        .query_opt(
            &format!(
                "SELECT {} FROM {} ORDER BY {} LIMIT 1",
                super::range::source_images(shape),
                shape.source.name.quoted(),
                descending.join(", ")
            ),
            &[],
        )
        .await?;
    Ok(row.map(|row| row.try_get(0)).transpose()?)
}

/// The statement that copies one range.
pub(crate) fn copy_sql(shape: &Shape, range: Range<'_>) -> String {
    let columns: Vec<String> = shape.mapped.iter().map(|m| m.column.name.quoted()).collect();
    let expressions: Vec<String> = shape.mapped.iter().map(super::shape::Mapped::stored).collect();
    let key: Vec<String> = shape.key.iter().map(|pair| pair.shadow.name.quoted()).collect();
    let overriding = shape.overriding();
    format!(
        "INSERT INTO {} ({}){overriding} SELECT {} FROM {} WHERE {} ON CONFLICT ({}) DO NOTHING",
        shape.shadow.name.quoted(),
        columns.join(", "),
        expressions.join(", "),
        shape.source.name.quoted(),
        range.of_source(shape),
        key.join(", "),
    )
}

/// Records the first row after the watermark as dirty and moves the watermark over it.
async fn skip_one(
    client: &mut Client,
    shape: &Shape,
    phase: &Phase,
    reason: &str,
) -> Result<Phase, Error> {
    let tx = begin(client, shape).await?;
    let Some(bounds) = bounds(&tx, shape, phase, 1).await? else {
        tx.commit().await?;
        return Ok(phase.clone());
    };
    let reason: String = format!("backfill: {reason}").chars().take(500).collect();
    tx.execute(
        "INSERT INTO pgsegue.dirty_keys (migration, key, reason) VALUES ($1, $2, $3)",
        &[&shape.migration.name, &bounds.upper, &reason],
    )
    .await?;
    let next = if bounds.last {
        Phase::Repair
    } else {
        Phase::Backfill { after: Some(bounds.upper.clone()), rows: bounds.rows }
    };
    journal::advance(
        &tx,
        &shape.migration.name,
        (phase, &next),
        journal::ENGINE,
        "all rows are copied",
    )
    .await?;
    tx.commit().await?;
    Ok(next)
}
