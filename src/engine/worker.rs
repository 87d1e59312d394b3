//! One migration's worker: looks at the phase, does one bounded step, journals it, looks again.
//! Requests are taken between steps, so pause and abort wait for one chunk at most.

use super::backfill::Backfill;
use super::entry::{Begun, Definition};
use super::pass::{Flow, Pass, Urgency};
use super::runtime::Engine;
use super::shape::{self, Shape};
use super::{Error, Phase, barrier, check, drift, install, journal, repair, requests};
use crate::pg::{self, Connection};
use crate::routing::Mirror;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

/// Nothing to do until somebody wakes the worker; looked at anyway now and then.
const IDLE: Duration = Duration::from_secs(5);
/// Between two passes of the continuous verify.
const BETWEEN_PASSES: Duration = Duration::from_secs(1);
/// The continuous verify rests this many times as long as it works: a tenth of one core at most.
const VERIFY_REST: u32 = 9;
/// Passes in a row that may find differences before an operator is asked.
const PASSES_MAX: u32 = 3;
/// Dirty keys that do not keep a verify from starting: it leaves them out.
const BACKLOG_SMALL: i64 = 200;

/// The worker of one migration.
pub(super) struct Worker {
    pub(super) engine: Arc<Engine>,
    pub(super) name: String,
    pub(super) connection: Option<Connection>,
    shape: Option<Arc<Shape>>,
    backfill: Option<Backfill>,
    pub(super) pass: Option<Pass>,
    not_before: Instant,
    next_pass: Instant,
    dirty_passes: u32,
    last_sample: Vec<String>,
    gap_saved: bool,
}

/// Runs until `stop`.
pub(super) async fn run(engine: Arc<Engine>, name: String, stop: CancellationToken) {
    let Some(wake) = engine.with_entry(&name, |entry| Arc::clone(&entry.wake)) else { return };
    let now = Instant::now();
    let mut worker = Worker {
        engine,
        name,
        connection: None,
        shape: None,
        backfill: None,
        pass: None,
        not_before: now,
        next_pass: now,
        dirty_passes: 0,
        last_sample: Vec::new(),
        gap_saved: false,
    };
    let mut patience = Duration::from_millis(100);
    loop {
        let step = tokio::select! {
            () = stop.cancelled() => return,
            step = Box::pin(worker.step(&wake)) => step,
        };
        let rest = match step {
            Ok(rest) => {
                patience = Duration::from_millis(100);
                rest
            }
            Err(error) => {
                let wait = patience;
                patience = (patience * 2).min(Duration::from_secs(5));
                worker.recover(&error).await;
                wait
            }
        };
        if rest.is_zero() {
            tokio::task::yield_now().await;
            continue;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = wake.notified() => {}
            () = tokio::time::sleep(rest) => {}
        }
    }
}

impl Worker {
    async fn step(&mut self, wake: &Notify) -> Result<Duration, Error> {
        let engine = Arc::clone(&self.engine);
        let _step = engine.steps().read().await;
        if !engine.may_work() {
            return Ok(Duration::from_millis(100));
        }
        let seen = self.engine.with_entry(&self.name, |entry| {
            let request = entry.requests.front().cloned();
            (
                entry.phase.clone(),
                request,
                entry.gap,
                entry.is_dual(),
                entry.definition.has_changed(),
            )
        });
        let Some((phase, request, gap, dual, drifted)) = seen else { return Ok(IDLE) };
        if let Some(request) = request {
            requests::handle(self, &phase, &request).await?;
            self.engine.with_entry(&self.name, |entry| entry.requests.pop_front());
            return Ok(Duration::ZERO);
        }
        if gap {
            return self.bridge_gap(&phase, dual).await;
        }
        match phase {
            Phase::Observe | Phase::Paused { .. } | Phase::Blocked { .. } => {
                self.shape = None;
                Ok(IDLE)
            }
            Phase::Aborted => {
                self.shape = None;
                requests::clean_up_now(self).await?;
                Ok(IDLE)
            }
            Phase::Prepare => self.prepare(&phase).await,
            Phase::DualWrite
            | Phase::Backfill { .. }
            | Phase::Repair
            | Phase::Verify { .. }
            | Phase::Ready
                if drifted =>
            {
                self.follow_drift(&phase).await
            }
            Phase::DualWrite => self.pass_barrier(&phase, wake).await,
            Phase::Backfill { .. } => self.copy(&phase).await,
            Phase::Repair => self.repair(&phase).await,
            Phase::Verify { .. } => self.verify(&phase).await,
            Phase::Ready => self.watch(&phase).await,
        }
    }

    /// After an error: a lost connection is made anew, a journal that moved on is read again.
    async fn recover(&mut self, error: &Error) {
        if error.is_lock_timeout() {
            tracing::info!(migration = self.name, %error, "a step waits for a lock; trying again");
        } else {
            tracing::warn!(migration = self.name, %error, "a step failed; trying again");
        }
        self.pass = None;
        if self.connection.as_ref().is_some_and(|c| c.client.is_closed()) {
            self.connection = None;
        }
        if let Error::Overtaken { .. } = error
            && let Some(control) = self.engine.control().await
            && let Ok(journal) = journal::load(&control.client).await
            && let Some(journaled) = journal.into_iter().find(|j| j.name == self.name)
        {
            self.engine.enter(&self.name, &journaled.phase);
        }
    }

    /// The worker's own connection, with a lock timeout that yields before the server looks for
    /// deadlocks.
    pub(super) async fn client(&mut self) -> Result<&mut Client, Error> {
        if self.connection.as_ref().is_none_or(|c| c.client.is_closed()) {
            let connection = pg::connect(self.engine.config(), "pgsegue engine worker").await?;
            let budget = self
                .engine
                .with_entry(&self.name, |entry| entry.declared.migration.lock_budget)
                .unwrap_or(Duration::from_millis(100));
            let set = format!("SET lock_timeout = {}", budget.as_millis().max(1));
            connection.client.batch_execute(&set).await?;
            self.connection = Some(connection);
        }
        match self.connection.as_mut() {
            Some(connection) => Ok(&mut connection.client),
            None => Err(Error::Unknown { name: self.name.clone() }),
        }
    }

    /// The shape of the tables; an error of the declaration when they do not have it.
    async fn shape(&mut self) -> Result<Arc<Shape>, Error> {
        if let Some(shape) = &self.shape {
            return Ok(Arc::clone(shape));
        }
        let shape = Arc::new(self.read_shape().await?);
        let target = Arc::new(shape.target());
        let changed = self.engine.with_entry(&self.name, |entry| {
            let changed = entry.target.as_ref() != Some(&target);
            entry.target = Some(target);
            changed
        });
        if changed == Some(true) {
            self.engine.publish();
        }
        self.shape = Some(Arc::clone(&shape));
        Ok(shape)
    }

    /// The shape as the catalog has it now; nothing is published.
    pub(super) async fn read_shape(&mut self) -> Result<Shape, Error> {
        let migration = self.engine.with_entry(&self.name, |e| e.declared.migration.clone());
        let Some(migration) = migration else {
            return Err(Error::Unknown { name: self.name.clone() });
        };
        let read = shape::read(self.client().await?, &migration).await?;
        read.ok_or_else(|| {
            Error::Shape(format!(
                "{} or {} does not exist; create it, then resume",
                migration.source, migration.shadow
            ))
        })
    }

    /// The shape, or a block that says what is wrong with it.
    pub(super) async fn shape_or_block(
        &mut self,
        phase: &Phase,
    ) -> Result<Option<Arc<Shape>>, Error> {
        match self.shape().await {
            Ok(shape) => Ok(Some(shape)),
            Err(Error::Shape(reason)) => {
                self.block(phase, reason).await?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Journals a change of phase, then puts it in force: killed in between, the journal is what
    /// the next process goes by.
    pub(super) async fn advance(
        &mut self,
        from: &Phase,
        to: Phase,
        why: &str,
    ) -> Result<(), Error> {
        let name = self.name.clone();
        let tx = self.client().await?.transaction().await?;
        journal::advance(&tx, &name, (from, &to), journal::ENGINE, why).await?;
        tx.commit().await?;
        if from.name() != to.name() {
            tracing::info!(migration = name, from = from.name(), to = to.name(), "{why}");
        }
        self.engine.enter(&name, &to);
        Ok(())
    }

    async fn block(&mut self, from: &Phase, reason: String) -> Result<(), Error> {
        tracing::warn!(migration = self.name, reason, "blocked");
        let to = Phase::Blocked { reason: reason.clone(), from: Box::new(from.clone()) };
        self.advance(from, to, &reason).await
    }

    /// While dual write is off the journal says so; once it is on again, everything starts anew
    /// from the barrier. Mirroring is published before the barrier looks at the epoch.
    async fn bridge_gap(&mut self, phase: &Phase, dual: bool) -> Result<Duration, Error> {
        let name = self.name.clone();
        self.pass = None;
        if !dual {
            if !self.gap_saved {
                let sql = "UPDATE pgsegue.migrations SET gap = true WHERE name = $1";
                self.client().await?.execute(sql, &[&name]).await?;
                self.gap_saved = true;
            }
            return Ok(IDLE);
        }
        self.gap_saved = false;
        let to = phase.after_gap();
        if to.mirror() != Mirror::Off {
            // That they were gone may be why there is a gap.
            let shape = self.read_shape().await?;
            install::replace(self.client().await?, &shape).await?;
        }
        let tx = self.client().await?.transaction().await?;
        let sql =
            "UPDATE pgsegue.migrations SET gap = false, backfill_until = NULL WHERE name = $1";
        tx.execute(sql, &[&name]).await?;
        journal::advance(&tx, &name, (phase, &to), journal::ENGINE, "dual write is on again")
            .await?;
        tx.commit().await?;
        self.engine.with_entry(&name, |entry| {
            entry.gap = false;
            entry.enter(to);
        });
        self.engine.publish();
        Ok(Duration::ZERO)
    }

    async fn prepare(&mut self, phase: &Phase) -> Result<Duration, Error> {
        let name = self.name.clone();
        let migration = self.engine.with_entry(&name, |e| e.declared.migration.clone());
        let Some(migration) = migration else { return Ok(IDLE) };
        let fingerprint = drift::fingerprint(self.client().await?, &migration).await?;
        self.shape = None;
        let Some(shape) = self.shape_or_block(phase).await? else { return Ok(Duration::ZERO) };
        let findings = check::check(self.client().await?, &shape.migration).await?;
        let blockers: Vec<String> =
            findings.iter().filter(|f| f.is_blocker()).map(ToString::to_string).collect();
        if !blockers.is_empty() {
            self.block(phase, blockers.join("\n")).await?;
            return Ok(Duration::ZERO);
        }
        if let Err(error) = install::functions(self.client().await?, &shape).await {
            if !error.is_verdict() {
                return Err(error);
            }
            self.block(phase, format!("the functions cannot be installed: {error}")).await?;
            return Ok(Duration::ZERO);
        }
        // With the functions that are there now.
        self.shape = None;
        let Some(_) = self.shape_or_block(phase).await? else { return Ok(Duration::ZERO) };
        journal::save_fingerprint(self.client().await?, &name, &fingerprint).await?;
        self.engine.with_entry(&name, |entry| {
            entry.definition = Definition::Known(fingerprint);
        });
        self.advance(phase, Phase::DualWrite, "checked and installed").await?;
        Ok(Duration::ZERO)
    }

    async fn pass_barrier(&mut self, phase: &Phase, wake: &Notify) -> Result<Duration, Error> {
        let Some(shape) = self.shape_or_block(phase).await? else { return Ok(Duration::ZERO) };
        self.client().await?;
        let (engine, name) = (&self.engine, &self.name);
        let started = engine.started();
        let Some(connection) = &self.connection else { return Ok(Duration::ZERO) };
        let interrupted = async {
            loop {
                wake.notified().await;
                let stop = engine.with_entry(name, |e| {
                    e.gap
                        || e.definition.has_changed()
                        || !e.requests.is_empty()
                        || e.phase != *phase
                });
                if stop != Some(false) || !engine.may_work() {
                    return;
                }
            }
        };
        let all_mirrored = || {
            engine.with_entry(name, |entry| entry.begun = Begun::Mirrored);
            engine.publish();
        };
        let passed =
            barrier::wait(&connection.client, engine.routes(), &shape, &started, all_mirrored);
        tokio::select! {
            passed = passed => passed?,
            () = interrupted => return Ok(Duration::ZERO),
        }
        self.backfill = None;
        let to = Phase::Backfill { after: None, rows: 0 };
        self.advance(phase, to, "every write is mirrored").await?;
        Ok(Duration::ZERO)
    }

    async fn copy(&mut self, phase: &Phase) -> Result<Duration, Error> {
        let now = Instant::now();
        if now < self.not_before {
            return Ok(self.not_before - now);
        }
        let Some(shape) = self.shape_or_block(phase).await? else { return Ok(Duration::ZERO) };
        let mut backfill = self.backfill.take().unwrap_or_else(|| Backfill::new(&shape));
        let progress = backfill.chunk(self.client().await?, &shape, phase).await?;
        self.engine
            .metrics()
            .backfill_rows
            .with_label_values(&[&self.name])
            .inc_by(progress.copied);
        self.engine.enter(&self.name, &progress.phase);
        self.not_before = Instant::now() + progress.rest;
        if matches!(progress.phase, Phase::Backfill { .. }) {
            self.backfill = Some(backfill);
            return Ok(progress.rest);
        }
        let analyze = format!("ANALYZE {}", shape.shadow.name.quoted());
        if let Err(error) = self.client().await?.batch_execute(&analyze).await {
            tracing::debug!(migration = self.name, reason = pg::reason(&error), "not analyzed");
        }
        Ok(Duration::ZERO)
    }

    async fn repair(&mut self, phase: &Phase) -> Result<Duration, Error> {
        let Some(shape) = self.shape_or_block(phase).await? else { return Ok(Duration::ZERO) };
        let repaired = self.repair_batch(&shape).await?;
        let backlog = repair::backlog(self.client().await?, &shape).await?;
        if !backlog.poison.is_empty() {
            self.block(phase, poison_reason(&backlog.poison)).await?;
        } else if backlog.keys <= BACKLOG_SMALL && backlog.tried == 0 {
            let to = Phase::Verify { after: None, rows: 0, differences: 0 };
            self.advance(phase, to, "the dirty keys are worked off").await?;
        } else if repaired.done == 0 {
            return Ok(Duration::from_millis(50));
        }
        Ok(Duration::ZERO)
    }

    async fn repair_batch(&mut self, shape: &Shape) -> Result<repair::Repaired, Error> {
        let repaired = repair::batch(self.client().await?, shape).await?;
        self.engine.metrics().repaired_keys.with_label_values(&[&self.name]).inc_by(repaired.done);
        Ok(repaired)
    }

    async fn verify(&mut self, phase: &Phase) -> Result<Duration, Error> {
        let Some(shape) = self.shape_or_block(phase).await? else { return Ok(Duration::ZERO) };
        self.repair_batch(&shape).await?;
        if self.pass.is_none() {
            self.begin_pass(&shape, Urgency::Waited).await?;
        }
        match self.verify_chunk(&shape).await? {
            Flow::Continue => {
                let to = match &self.pass {
                    Some(Pass { after, rows, differences, .. }) => Phase::Verify {
                        after: after.clone(),
                        rows: *rows,
                        differences: *differences,
                    },
                    None => phase.clone(),
                };
                self.advance(phase, to, "").await?;
            }
            Flow::Done(pass) => self.judge(phase, &shape, pass).await?,
        }
        Ok(Duration::ZERO)
    }

    /// A mandatory pass is over: on to `Ready` when it found nothing and nothing is stuck.
    async fn judge(&mut self, phase: &Phase, shape: &Shape, pass: Pass) -> Result<(), Error> {
        let backlog = repair::backlog(self.client().await?, shape).await?;
        if !backlog.poison.is_empty() {
            return self.block(phase, poison_reason(&backlog.poison)).await;
        }
        if pass.differences == 0 {
            self.dirty_passes = 0;
            self.next_pass = Instant::now() + BETWEEN_PASSES;
            let why = format!("{} rows compared, no difference", pass.rows);
            return self.advance(phase, Phase::Ready, &why).await;
        }
        // With a mark on record, differences are the writes' that have made it: more may come.
        let marked = !pass.unseen.is_empty() || !backlog.unseen.is_empty() || backlog.held;
        self.dirty_passes += u32::from(!marked);
        let again: Vec<&String> =
            pass.sample.iter().filter(|one| self.last_sample.contains(one)).collect();
        if self.dirty_passes >= PASSES_MAX && !again.is_empty() {
            let named: Vec<String> = again.into_iter().take(10).cloned().collect();
            self.dirty_passes = 0;
            let reason = format!(
                "{PASSES_MAX} verifies in a row found differences that repair does not remove: {}; \
                 look for something else that writes the shadow or a mapping that is not \
                 deterministic, then resume",
                named.join("; ")
            );
            return self.block(phase, reason).await;
        }
        self.last_sample = pass.sample;
        let why = format!("{} differences found", pass.differences);
        self.advance(phase, Phase::Repair, &why).await
    }

    /// The migration is ready: repair at once, compare at a low rate, for ever.
    async fn watch(&mut self, _phase: &Phase) -> Result<Duration, Error> {
        let Some(shape) = self.shape_or_block(&Phase::Ready).await? else {
            return Ok(Duration::ZERO);
        };
        let repaired = self.repair_batch(&shape).await?;
        if repaired.done > 0 {
            return Ok(Duration::ZERO);
        }
        let backlog = repair::backlog(self.client().await?, &shape).await?;
        let unnoticed = self.pass.as_ref().is_none_or(|pass| pass.unseen.is_empty());
        if !backlog.unseen.is_empty() && unnoticed {
            // Every write of a row that does not come back marks: while reads are stopped by such rows,
            // nobody waits for what a pass would find.
            let blocked = self.engine.with_entry(&self.name, |e| e.reads_blocked.is_some());
            let urgency = match blocked {
                Some(true) => Urgency::Background,
                _ => Urgency::Waited,
            };
            self.begin_pass(&shape, urgency).await?;
        }
        let urgent = self.pass.as_ref().is_some_and(|pass| pass.urgent);
        let now = Instant::now();
        if !urgent && now < self.next_pass {
            return Ok(self.next_pass - now);
        }
        if self.pass.is_none() {
            self.begin_pass(&shape, Urgency::Background).await?;
        }
        let flow = self.verify_chunk(&shape).await?;
        let spent = now.elapsed();
        let rest = match flow {
            Flow::Done(_) => BETWEEN_PASSES,
            Flow::Continue if urgent => Duration::ZERO,
            Flow::Continue => spent * VERIFY_REST,
        };
        self.next_pass = Instant::now() + rest;
        Ok(rest)
    }

    /// Forgets what belongs to the phase that ends.
    pub(super) fn reset(&mut self) {
        self.shape = None;
        self.backfill = None;
        self.pass = None;
        self.dirty_passes = 0;
        self.last_sample.clear();
    }
}

fn poison_reason(poison: &[String]) -> String {
    format!(
        "repair cannot bring these keys in step: {}; correct the rows or the shadow's constraints, \
         then resume",
        poison.join("; ")
    )
}
