//! The way back: a rollback by the flag while the shadow serves everything, and a shadow that
//! somebody corrupts behind the proxy's back.

use super::error::Error;
use super::probe::Counters;
use super::scene::Scene;
use super::story::{Story, WHO, dark, late, ms};
use super::tables::{self, NAME, Shares};
use crate::manifest::Percent;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Between two looks at the metrics while something is timed.
const LOOK: Duration = Duration::from_millis(1);
/// So long without a shadow read, under load: there is none left.
const QUIET: Duration = Duration::from_millis(300);
const POLL: Duration = Duration::from_millis(50);

/// `reads = 0` in the file at 100 %, then 100 % again.
pub(super) async fn drill(story: &mut Story) -> Result<(), Error> {
    story.load.board().set_scene(Scene::Drill);
    story.narrator.begins("drill: reads = 0 in the file while the shadow serves everything");
    until_shadow_serves(story).await?;
    let none = Shares { reads: Percent::ZERO, dark_reads: dark() };
    let flag = story.stage.set_shares(none)?;
    let last = last_shadow_read(story, flag).await?;
    story.report.rollback_ms = Some(ms(last));
    let after = ms(last);
    story.narrator.says(&format!("drill: reads = 0 saved; last shadow read after {after:.1} ms"));
    story.stage.set_shares(Shares { reads: Percent::FULL, dark_reads: dark() })?;
    until_shadow_serves(story).await
}

/// Corruption, detection, rollback, repair, verify.
pub(super) async fn play(story: &mut Story) -> Result<(), Error> {
    until_shadow_serves(story).await?;
    let before = story.probe.counters().await?;
    story.load.board().set_scene(Scene::Incident);
    story.narrator.begins("somebody corrupts the shadow");
    let began = Instant::now();
    let row = story.stage.direct().query_one(tables::CORRUPT, &[]).await?;
    let counts: [i64; 3] = [row.try_get(0)?, row.try_get(1)?, row.try_get(2)?];
    let [changed, removed, invented] = counts;
    story.narrator.warns(&format!(
        "somebody changes {changed} shadow rows, removes {removed} and invents {invented}, past the proxy"
    ));
    let by = detected(story, &before, began).await?;
    let detected = began.elapsed();
    let flag = story.stage.set_shares(Shares { reads: Percent::ZERO, dark_reads: dark() })?;
    story.report.detect_ms = Some(ms(detected));
    story.report.detected_by = Some(by);
    story.narrator.says(&format!(
        "detected after {:.0} ms by {by}; the shadow is closed to reads by itself",
        ms(detected)
    ));
    let closed = flag - began + last_shadow_read(story, flag).await?;
    story.report.shadow_closed_ms = Some(ms(closed));
    story.load.board().set_scene(Scene::RolledBack);
    story.narrator.says(&format!(
        "rolled back by the flag, reads = 0; last shadow read {:.0} ms after the corruption",
        ms(closed)
    ));
    recover(story, &before).await
}

/// Waits until repair has nothing left and a verify that began after that was clean.
async fn recover(story: &mut Story, before: &Counters) -> Result<(), Error> {
    let began = Instant::now();
    let mut asked = story.stage.status().await?;
    let mut from = story.probe.counters().await?;
    story.stage.control().verify(NAME, WHO).await?;
    story.narrator.begins_rows("repair and verify");
    loop {
        sleep(POLL).await;
        let status = story.stage.status().await?;
        let now = story.probe.counters().await?;
        let compared = now.verify_rows - from.verify_rows;
        story.narrator.at(compared, status.rows_estimate);
        story.narrator.traffic(story.load.board());
        late(began, "the shadow is repaired and verified")?;
        if status.verify_passes == asked.verify_passes {
            continue;
        }
        // A pass that was under way when this one was asked for has not seen every row since.
        let all = compared >= u64::try_from(tables::ROWS).unwrap_or(0) * 9 / 10;
        if all && status.verified_at != asked.verified_at && status.dirty_keys == 0 {
            let repaired = now.repaired_keys - before.repaired_keys;
            story.narrator.says(&format!(
                "repaired and verified after {:.1} s: {repaired} keys repaired, then a verify of \
                 every row without a difference",
                began.elapsed().as_secs_f64()
            ));
            return Ok(());
        }
        // It found something, which is repaired by now, or it was the older one: another one.
        (asked, from) = (status, now);
        story.stage.control().verify(NAME, WHO).await?;
    }
}

/// Waits until the shadow answers reads.
async fn until_shadow_serves(story: &Story) -> Result<(), Error> {
    let began = Instant::now();
    let before = story.probe.counters().await?.shadow_answered;
    while story.probe.counters().await?.shadow_answered < before + 20 {
        late(began, "the shadow answers reads")?;
        story.narrator.traffic(story.load.board());
        sleep(LOOK).await;
    }
    Ok(())
}

/// Waits until something has noticed; says what.
async fn detected(story: &Story, before: &Counters, began: Instant) -> Result<&'static str, Error> {
    loop {
        let now = story.probe.counters().await?;
        let by_dark_read = now.dark_mismatched > before.dark_mismatched;
        let by_verify = now.verify_differences > before.verify_differences;
        match (by_dark_read, by_verify) {
            (true, true) => return Ok("a dark read and the continuous verify"),
            (true, false) => return Ok("a dark read"),
            (false, true) => return Ok("the continuous verify"),
            (false, false) => {}
        }
        story.narrator.traffic(story.load.board());
        late(began, "the corruption is detected")?;
        sleep(LOOK).await;
    }
}

/// When, after `since`, the last read went to the shadow or was answered by it: an upper bound,
/// the time at which the metrics showed it.
async fn last_shadow_read(story: &Story, since: Instant) -> Result<Duration, Error> {
    let mut seen = None;
    let mut last = Duration::ZERO;
    loop {
        let now = story.probe.counters().await?.shadow_reads();
        let at = since.elapsed();
        if seen != Some(now) {
            seen = Some(now);
            last = at;
        }
        if at > last + QUIET {
            return Ok(last);
        }
        late(since, "the shadow answers no read any more")?;
        sleep(LOOK).await;
    }
}
