//! The story, scene by scene.

use super::Options;
use super::error::Error;
use super::incident;
use super::load::Load;
use super::narrator::Narrator;
use super::probe::{Counters, Probe, as_f64};
use super::report::Report;
use super::scene::{Board, Scene};
use super::stage::Stage;
use super::tables::{self, NAME, Shares};
use crate::engine::Phase;
use crate::manifest::Percent;
use crate::throwaway::Postgres;
use indicatif::HumanCount;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

const POLL: Duration = Duration::from_millis(50);
/// What takes longer is not going to happen.
const PATIENCE: Duration = Duration::from_secs(120);
pub(super) const WHO: &str = "the demo";

/// The story so far.
pub(super) struct Story {
    pub(super) stage: Stage,
    pub(super) load: Load,
    pub(super) narrator: Narrator,
    pub(super) probe: Probe,
    pub(super) report: Report,
    /// Measured shares of shadow reads.
    shares: Vec<(Scene, Option<f64>)>,
    /// How long a watched scene lasts.
    pub(super) watched: Duration,
}

/// Tells all of it.
pub(super) async fn tell(
    options: Options,
    narrator: Narrator,
    postgres: Postgres,
    began: Instant,
) -> Result<(Report, Stage), Error> {
    let mut story = Story::open(options, narrator, postgres).await?;
    story.watch(Scene::Source, "the app at work: 8 clients, reads and writes on orders").await?;
    story.migrate().await?;
    story.compare_reads().await?;
    for (scene, percent) in [
        (Scene::Canary1, 1.0),
        (Scene::Canary10, 10.0),
        (Scene::Canary50, 50.0),
        (Scene::Canary100, 100.0),
    ] {
        story.serve_from_shadow(scene, percent).await?;
    }
    incident::drill(&mut story).await?;
    incident::play(&mut story).await?;
    story.serve_from_shadow(Scene::Again, 100.0).await?;
    story.close(began).await
}

impl Story {
    async fn open(options: Options, narrator: Narrator, postgres: Postgres) -> Result<Self, Error> {
        narrator.begins("filling orders");
        let stage = Stage::build(postgres).await?;
        let rows = HumanCount(u64::try_from(tables::ROWS).unwrap_or(0));
        narrator
            .says(&format!("orders holds {rows} rows, orders_v2 none; the proxy takes clients"));
        let load = Load::start(&stage.conninfo(), Arc::new(Board::default())).await?;
        let probe = stage.probe();
        let watched = Duration::from_secs(options.seconds.into()) / Scene::WATCHED;
        let report = Report::default();
        Ok(Self { stage, load, narrator, probe, report, shares: Vec::new(), watched })
    }

    /// A scene that nothing but the audience waits for. Returns the counters at its end.
    async fn watch(&mut self, scene: Scene, what: &str) -> Result<(Counters, Counters), Error> {
        let before = self.probe.counters().await?;
        self.load.board().set_scene(scene);
        self.narrator.begins_for(what, self.watched);
        let began = Instant::now();
        while began.elapsed() < self.watched {
            sleep(POLL).await;
            let passed = u64::try_from(began.elapsed().as_millis()).unwrap_or(0);
            self.narrator.at(passed, u64::try_from(self.watched.as_millis()).unwrap_or(0));
            self.narrator.traffic(self.load.board());
        }
        let after = self.probe.counters().await?;
        self.shares.push((scene, after.shadow_share_since(&before)));
        self.stage.status().await?;
        Ok((before, after))
    }

    /// From declared to ready.
    async fn migrate(&mut self) -> Result<(), Error> {
        self.load.board().set_scene(Scene::DualWrite);
        self.narrator.begins("dual write");
        self.stage.control().start(NAME, WHO).await?;
        let began = Instant::now();
        let mut shown = Scene::DualWrite;
        loop {
            let status = self.stage.status().await?;
            let (scene, rows) = match &status.phase {
                Phase::Observe | Phase::Prepare | Phase::DualWrite => (Scene::DualWrite, 0),
                Phase::Backfill { rows, .. } => (Scene::Backfill, *rows),
                Phase::Repair => (Scene::Verify, 0),
                Phase::Verify { rows, .. } => (Scene::Verify, *rows),
                Phase::Ready => break,
                Phase::Paused { .. } | Phase::Blocked { .. } | Phase::Aborted => {
                    return Err(Error::Stopped(format!("{:?}", status.phase)));
                }
            };
            if scene != shown {
                shown = scene;
                self.load.board().set_scene(scene);
                self.narrator.begins_rows(scene.name());
            }
            self.narrator.at(rows, status.rows_estimate);
            self.narrator.traffic(self.load.board());
            late(began, "the migration is ready")?;
            sleep(POLL).await;
        }
        self.measure_migration().await
    }

    /// Rows by the metrics, time by the server's own record of the phases.
    async fn measure_migration(&mut self) -> Result<(), Error> {
        let counters = self.probe.counters().await?;
        let rows = self.stage.direct().query(tables::PHASES, &[&NAME]).await?;
        let mut times: Vec<(String, f64)> = Vec::new();
        for row in rows {
            times.push((row.try_get(0)?, row.try_get(1)?));
        }
        let spent = |phase: &str| -> f64 {
            let next = times.iter().zip(times.iter().skip(1));
            next.filter(|((of, _), _)| of == phase).map(|((_, from), (_, to))| to - from).sum()
        };
        let rate = |rows: u64, time: f64| (rows > 0 && time > 0.0).then(|| as_f64(rows) / time);
        let (copying, comparing) = (spent("backfill"), spent("verify"));
        self.report.backfill_rows_per_s = rate(counters.backfill_rows, copying);
        self.report.verify_rows_per_s = rate(counters.verify_rows, comparing);
        let barrier = spent("dual_write") * 1000.0;
        self.narrator.says(&format!("dual write: every write is mirrored after {barrier:.0} ms"));
        let (copied, compared) = (HumanCount(counters.backfill_rows), counters.verify_rows);
        self.narrator.says(&format!("backfill: {copied} rows copied in {copying:.1} s"));
        self.narrator.says(&format!(
            "verify: {} rows compared in {comparing:.1} s, {} different",
            HumanCount(compared),
            counters.verify_differences
        ));
        Ok(())
    }

    async fn compare_reads(&mut self) -> Result<(), Error> {
        self.stage.set_shares(Shares { reads: Percent::ZERO, dark_reads: dark() })?;
        let what = "dark reads: a sample runs on both tables, the source answers";
        let (before, after) = self.watch(Scene::DarkReads, what).await?;
        self.narrator.says(&format!(
            "dark reads: {} answers compared, {} different",
            after.dark_compared - before.dark_compared,
            after.dark_mismatched - before.dark_mismatched
        ));
        Ok(())
    }

    async fn serve_from_shadow(&mut self, scene: Scene, percent: f64) -> Result<(), Error> {
        let reads = Percent::new(percent).unwrap_or(Percent::ZERO);
        self.stage.set_shares(Shares { reads, dark_reads: dark() })?;
        let what = format!("{}: the shadow serves", scene.name());
        let (before, after) = self.watch(scene, &what).await?;
        let served = HumanCount(after.shadow_answered - before.shadow_answered);
        let share = after.shadow_share_since(&before).unwrap_or(0.0);
        self.narrator.says(&format!(
            "{}: {served} reads answered by orders_v2 ({share:.1} % of all)",
            scene.name()
        ));
        Ok(())
    }

    /// Ends the load and compares everything, past the proxy.
    async fn close(self, began: Instant) -> Result<(Report, Stage), Error> {
        self.narrator.begins("the load ends; comparing every row");
        let Self { stage, load, narrator, mut report, shares, .. } = self;
        let seen = load.end().await?;
        settle(&stage).await?;
        let direct = stage.direct();
        let divergent: i64 = direct.query_one(tables::DIVERGENT, &[]).await?.try_get(0)?;
        report.divergent = u64::try_from(divergent).ok();
        let ledger = &seen.ledger;
        let lost: i64 = direct
            .query_one(
                tables::LOST,
                &[&ledger.ids, &ledger.users, &ledger.totals, &ledger.statuses],
            )
            .await?
            .try_get(0)?;
        let sums = direct.query_one(tables::SUMS, &[&tables::SHARED_ROWS]).await?;
        let (shared, rows): (i64, i64) = (sums.try_get(0)?, sums.try_get(1)?);
        let first: i64 =
            (1..=tables::SHARED_ROWS).map(|id| i64::from(tables::first_total(id))).sum();
        let added = i64::try_from(ledger.added).unwrap_or(i64::MAX);
        let expected_rows = i64::from(tables::ROWS) + ledger.grown;
        let all = lost.unsigned_abs()
            + (shared - first - added).unsigned_abs()
            + (rows - expected_rows).unsigned_abs();
        report.lost_writes = Some(all);
        narrator.says(&format!(
            "{} rows compared one by one with orders_v2, {} acknowledged writes with orders",
            HumanCount(rows.unsigned_abs()),
            HumanCount(u64::try_from(ledger.ids.len()).unwrap_or(0) + ledger.added)
        ));
        report.add(seen, &shares);
        report.seconds = began.elapsed().as_secs_f64();
        report.judge();
        Ok((report, stage))
    }
}

/// Waits until no key is dirty: nothing writes any more, so none will be.
async fn settle(stage: &Stage) -> Result<(), Error> {
    let began = Instant::now();
    while stage.status().await?.dirty_keys > 0 {
        late(began, "the last dirty keys are repaired")?;
        sleep(POLL).await;
    }
    Ok(())
}

pub(super) fn late(began: Instant, what: &str) -> Result<(), Error> {
    if began.elapsed() < PATIENCE {
        return Ok(());
    }
    Err(Error::Late { what: what.to_owned(), seconds: PATIENCE.as_secs() })
}

/// The share of reads that is compared from the first dark read on.
pub(super) fn dark() -> Percent {
    Percent::new(10.0).unwrap_or(Percent::ZERO)
}

/// A time in milliseconds.
pub(super) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
