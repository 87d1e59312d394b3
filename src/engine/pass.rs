//! A verify pass, chunk by chunk: what it found, and what follows when it is over.

use super::shape::Shape;
use super::verify::{self, Compared};
use super::worker::Worker;
use super::{Error, Phase, journal, repair};
use crate::pg;
use std::time::Duration;

/// Rows of a chunk, at most: some 100 ms of comparing.
const VERIFY_ROWS: u32 = 10_000;
/// Rows that do not come back, named in the reason.
const KEYS_NAMED: usize = 5;
/// Before a chunk that met a lock is tried again.
const PASSING: Duration = Duration::from_millis(50);

/// One verify pass.
#[derive(Debug)]
pub(super) struct Pass {
    /// Key of the last row compared.
    pub(super) after: Option<Vec<String>>,
    pub(super) rows: u64,
    pub(super) differences: u64,
    pub(super) limit: u32,
    /// Records of unseen writes that were there when the pass began.
    pub(super) unseen: Vec<i64>,
    /// Somebody waits for it.
    pub(super) urgent: bool,
    pub(super) sample: Vec<String>,
    /// Rows that do not come back from the shadow as they are in the source, and some of them.
    pub(super) irreversible: u64,
    irreversible_sample: Vec<String>,
}

/// Whether a pass goes on.
pub(super) enum Flow {
    /// There are rows left.
    Continue,
    /// That was the last chunk.
    Done(Pass),
}

/// Whether somebody waits for a pass.
#[derive(Debug, Clone, Copy)]
pub(super) enum Urgency {
    /// At full speed.
    Waited,
    /// At the low rate.
    Background,
}

impl Worker {
    /// Starts a pass over, from the first row.
    pub(super) async fn begin_pass(
        &mut self,
        shape: &Shape,
        urgency: Urgency,
    ) -> Result<(), Error> {
        let backlog = repair::backlog(self.client().await?, shape).await?;
        self.pass = Some(Pass {
            after: None,
            rows: 0,
            differences: 0,
            limit: VERIFY_ROWS,
            unseen: backlog.unseen,
            urgent: matches!(urgency, Urgency::Waited),
            sample: Vec::new(),
            irreversible: 0,
            irreversible_sample: Vec::new(),
        });
        if let Err(reason) = shape.target().old_shape {
            self.block_reads(&reason).await?;
        }
        Ok(())
    }

    /// Asks for a full pass now (an operator waits for it).
    pub(super) async fn verify_now(&mut self, phase: &Phase) -> Result<(), Error> {
        if let Some(shape) = self.shape_or_block(phase).await? {
            self.begin_pass(&shape, Urgency::Waited).await?;
        }
        Ok(())
    }

    /// Compares the next chunk of the pass.
    pub(super) async fn verify_chunk(&mut self, shape: &Shape) -> Result<Flow, Error> {
        let Some(mut pass) = self.pass.take() else { return Ok(Flow::Continue) };
        let client = self.client().await?;
        let (compared, next) =
            match verify::chunk(client, shape, pass.after.as_deref(), pass.limit).await {
                Ok(done) => done,
                Err(Error::Postgres(error)) if pg::is_passing(&error) => {
                    self.pass = Some(pass);
                    tokio::time::sleep(PASSING).await;
                    return Ok(Flow::Continue);
                }
                Err(Error::Postgres(error)) if error.as_db_error().is_some() && pass.limit > 1 => {
                    // Some row cannot be compared (its mapping fails): close in on it.
                    pass.limit /= 2;
                    self.pass = Some(pass);
                    return Ok(Flow::Continue);
                }
                Err(Error::Postgres(error)) if error.as_db_error().is_some() => {
                    let (after, reason) = (pass.after.as_deref(), pg::reason(&error));
                    verify::record_incomparable(client, shape, after, &reason).await?
                }
                Err(error) => return Err(error),
            };
        pass.limit = pass.limit.saturating_mul(2).min(VERIFY_ROWS);
        self.found(&compared).await?;
        self.found_irreversible(&mut pass, &compared).await?;
        pass.rows += compared.rows;
        pass.differences += compared.differences();
        pass.sample.extend(compared.sample);
        pass.sample.truncate(100);
        pass.after = next;
        if pass.after.is_some() {
            self.pass = Some(pass);
            return Ok(Flow::Continue);
        }
        self.finish(shape, &pass).await?;
        Ok(Flow::Done(pass))
    }

    /// Says what a chunk found. The keys are dirty already; reads stop before they are repaired.
    async fn found(&mut self, compared: &Compared) -> Result<(), Error> {
        let name = self.name.clone();
        let metrics = self.engine.metrics();
        metrics.verify_rows.with_label_values(&[&name]).inc_by(compared.rows);
        let kinds = [
            ("missing", compared.missing),
            ("orphaned", compared.orphaned),
            ("different", compared.different),
        ];
        for (kind, count) in kinds {
            if count > 0 {
                metrics.verify_differences.with_label_values(&[&name, kind]).inc_by(count);
            }
        }
        let count = compared.differences();
        if count == 0 {
            return Ok(());
        }
        self.engine.with_entry(&name, |entry| entry.gate.close());
        let keys = compared.sample.join("; ");
        // A mark: a statement that was not mirrored, or a dark read that gave another answer.
        let what = if compared.unseen { "difference after a mark" } else { "divergence" };
        tracing::warn!(migration = name, count, keys, "verify found rows that differ: {what}");
        let sql = "UPDATE pgsegue.migrations SET differences_found = differences_found + $2 \
                   WHERE name = $1";
        let added = i64::try_from(count).unwrap_or(i64::MAX);
        let client = self.client().await?;
        client.execute(sql, &[&name, &added]).await?;
        let event = journal::NewEvent {
            migration: &name,
            who: journal::ENGINE,
            what,
            from: "",
            to: &count.to_string(),
            why: &keys,
        };
        journal::event(client, &event).await
    }

    /// A pass is over. A clean one has compared every row after the unseen writes that were on
    /// record when it began: they are accounted for. Later ones have later records.
    async fn finish(&mut self, shape: &Shape, pass: &Pass) -> Result<(), Error> {
        let name = self.name.clone();
        let clean = pass.differences == 0;
        let tx = self.client().await?.transaction().await?;
        tx.execute(
            "UPDATE pgsegue.migrations SET verify_passes = verify_passes + 1, \
             verified_at = CASE WHEN $2 THEN clock_timestamp() ELSE verified_at END \
             WHERE name = $1",
            &[&name, &clean],
        )
        .await?;
        if clean && !pass.unseen.is_empty() {
            tx.execute(
                "DELETE FROM pgsegue.dirty_keys WHERE migration = $1 AND seq = ANY ($2)",
                &[&name, &pass.unseen],
            )
            .await?;
        }
        tx.commit().await?;
        if clean {
            self.engine.with_entry(&name, |entry| entry.verified = true);
        }
        if clean && pass.irreversible == 0 && shape.target().old_shape.is_ok() {
            self.unblock_reads().await?;
        }
        Ok(())
    }

    /// Rows that do not come back stop the reads before anything else is done about them.
    async fn found_irreversible(
        &mut self,
        pass: &mut Pass,
        compared: &Compared,
    ) -> Result<(), Error> {
        if compared.irreversible == 0 {
            return Ok(());
        }
        let metrics = self.engine.metrics();
        let labels = [self.name.as_str(), "irreversible"];
        metrics.verify_differences.with_label_values(&labels).inc_by(compared.irreversible);
        pass.irreversible += compared.irreversible;
        pass.irreversible_sample.extend_from_slice(&compared.irreversible_sample);
        pass.irreversible_sample.truncate(KEYS_NAMED);
        let reason = format!(
            "rows that the shadow does not give back as they are in the source: {}; correct \
             [migration.reverse] or the mapping (this needs an abort first), or the rows; reads go \
             on after a full verify without such a row",
            pass.irreversible_sample.join("; ")
        );
        self.block_reads(&reason).await
    }

    /// Lets no shadow read pass, at once; then puts it on record.
    async fn block_reads(&mut self, reason: &str) -> Result<(), Error> {
        let changed = self.engine.with_entry(&self.name, |entry| {
            entry.gate.close();
            entry.reads_blocked.replace(reason.to_owned()).as_deref() != Some(reason)
        });
        if changed == Some(true) {
            self.engine.publish();
            tracing::warn!(migration = self.name, reason, "the shadow serves no reads");
        }
        self.record_reads_blocked(Some(reason)).await
    }

    /// Puts on record that reads may pass, then lets them.
    async fn unblock_reads(&mut self) -> Result<(), Error> {
        self.record_reads_blocked(None).await?;
        let blocked = self.engine.with_entry(&self.name, |entry| entry.reads_blocked.take());
        if let Some(Some(_)) = blocked {
            self.engine.publish();
            tracing::info!(migration = self.name, "every row comes back from the shadow");
        }
        Ok(())
    }

    async fn record_reads_blocked(&mut self, reason: Option<&str>) -> Result<(), Error> {
        let name = self.name.clone();
        let tx = self.client().await?.transaction().await?;
        let sql = "SELECT reads_blocked FROM pgsegue.migrations WHERE name = $1 FOR UPDATE";
        let before: Option<String> = tx.query_one(sql, &[&name]).await?.try_get(0)?;
        if before.as_deref() == reason {
            return Ok(tx.rollback().await?);
        }
        let sql = "UPDATE pgsegue.migrations SET reads_blocked = $2 WHERE name = $1";
        tx.execute(sql, &[&name, &reason]).await?;
        if before.is_some() != reason.is_some() {
            let on = |blocked: bool| if blocked { "yes" } else { "no" };
            let event = journal::NewEvent {
                migration: &name,
                who: journal::ENGINE,
                what: "reads_blocked",
                from: on(before.is_some()),
                to: on(reason.is_some()),
                why: reason
                    .unwrap_or("every row comes back from the shadow as it is in the source"),
            };
            journal::event(&tx, &event).await?;
        }
        Ok(tx.commit().await?)
    }
}
