//! `pgsegue migration start`: asks for it, then shows how it goes.

use super::show;
use crate::cli::failure::Failure;
use crate::cli::{connect, output};
use crate::engine::{Control, Lever, Phase, Status};
use crate::manifest::Percent;
use indicatif::{HumanDuration, ProgressBar, ProgressState, ProgressStyle};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval};

const POLL: Duration = Duration::from_millis(200);
/// A running engine picks a request up at once; after this long without a move nobody does.
const STILL: Duration = Duration::from_secs(5);
const BAR: &str = "{msg:10} {wide_bar} {human_pos}/{human_len} rows{speed}{prefix}";
const SPINNER: &str = "{msg:10} {spinner} {elapsed}{prefix}";

/// Start a migration: check, dual write, backfill, repair, verify
///
/// The work is done by the running `pgsegue serve`; this command asks for it and shows how it
/// goes until reads can be routed. Ending this command (Ctrl-C) does not end the work; running it
/// again shows it again.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  pgsegue migration start orders_v2
  pgsegue migration start orders_v2 --no-wait && pgsegue migration status orders_v2")]
pub(in crate::cli) struct Start {
    /// The migration
    name: String,
    /// Only ask for it
    #[arg(long)]
    no_wait: bool,
}

/// Whether there is more to wait for.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Going,
    Ready,
    Stopped,
}

impl Start {
    pub(super) async fn run(self, config: &Path) -> Result<ExitCode, Failure> {
        let control = connect::control(config).await?;
        let before = connect::status(&control, &self.name).await?;
        if let Err(error) = control.start(&self.name, &connect::who("migration start")).await {
            // Whoever was disconnected wants to see how it goes on.
            let now = connect::status(&control, &self.name).await?;
            if now.phase == Phase::Observe || step(&now.phase) != Step::Going {
                return Err(error.into());
            }
            output::remark("it has been started already");
        }
        if self.no_wait {
            output::line(&format!("{}: asked to start", self.name));
            return Ok(ExitCode::SUCCESS);
        }
        follow(&control, &self.name, before.phase).await
    }
}

async fn follow(control: &Control, name: &str, before: Phase) -> Result<ExitCode, Failure> {
    let mut tick = interval(POLL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut progress = Progress::new();
    let mut last = before.clone();
    let mut moved = false;
    let mut still_since = Some(Instant::now());
    loop {
        tick.tick().await;
        let status = connect::status(control, name).await?;
        if status.phase != last {
            moved = true;
            still_since = Some(Instant::now());
        }
        last = status.phase.clone();
        progress.show(&status);
        let is_still = still_since.is_some_and(|since| since.elapsed() >= STILL);
        match step(&status.phase) {
            Step::Ready => {
                progress.clear();
                output::line(&format!("{name}: ready; every row is verified"));
                next(control, name).await?;
                return Ok(ExitCode::SUCCESS);
            }
            // A phase from before the request counts only when nobody takes the request up.
            Step::Stopped if moved || is_still => {
                progress.clear();
                return Err(stopped(name, &status.phase));
            }
            Step::Stopped | Step::Going => {}
        }
        if is_still && !moved {
            still_since = None;
            output::remark(
                "nothing has moved for 5 s: is `pgsegue serve` running with this config file? \
                 The request stays; it is taken up as soon as one runs.",
            );
        }
    }
}

/// What README's next step is, and what is in its way.
async fn next(control: &Control, name: &str) -> Result<(), Failure> {
    let levers = control.levers(name).await?;
    let held = |lever: Lever<Percent>| lever.control == Percent::ZERO;
    if held(levers.reads) || held(levers.dark_reads) {
        output::remark(&format!(
            "the levers of `pgsegue route` are at 0: pgsegue route {name} --reads 100 --dark 100 \
             --why '…' leaves the rest to the config file"
        ));
    }
    output::remark(
        "next: dark_reads = 5 in [migration.routing] of the config file, then reads = 1, 10, 50, 100",
    );
    Ok(())
}

fn step(phase: &Phase) -> Step {
    match phase {
        Phase::Ready => Step::Ready,
        Phase::Paused { .. } | Phase::Blocked { .. } | Phase::Aborted => Step::Stopped,
        Phase::Observe
        | Phase::Prepare
        | Phase::DualWrite
        | Phase::Backfill { .. }
        | Phase::Repair
        | Phase::Verify { .. } => Step::Going,
    }
}

fn stopped(name: &str, phase: &Phase) -> Failure {
    let hint = match phase {
        Phase::Blocked { .. } => format!("then go on with `pgsegue migration resume {name}`"),
        Phase::Paused { .. } => format!("go on with `pgsegue migration resume {name}`"),
        Phase::Observe
        | Phase::Prepare
        | Phase::DualWrite
        | Phase::Backfill { .. }
        | Phase::Repair
        | Phase::Verify { .. }
        | Phase::Ready
        | Phase::Aborted => format!("`pgsegue migration events {name}` says who did it and why"),
    };
    // Every blocker on a line of its own.
    let phase = show::phase(phase).replace('\n', "\n  ");
    Failure::in_lines(format!("{name} is {phase}"), hint).code(1)
}

/// A bar on a terminal; one line per phase elsewhere.
struct Progress {
    bar: ProgressBar,
    phase: &'static str,
}

impl Progress {
    fn new() -> Self {
        Self { bar: ProgressBar::hidden(), phase: "" }
    }

    fn show(&mut self, status: &Status) {
        let (phase, rows) = match &status.phase {
            Phase::Observe => ("waiting", None),
            Phase::Prepare => ("prepare", None),
            Phase::DualWrite => ("dual write", None),
            Phase::Backfill { rows, .. } => ("backfill", Some(*rows)),
            Phase::Repair => ("repair", None),
            Phase::Verify { rows, .. } => ("verify", Some(*rows)),
            Phase::Ready => ("ready", None),
            Phase::Paused { .. } => ("paused", None),
            Phase::Blocked { .. } => ("blocked", None),
            Phase::Aborted => ("aborted", None),
        };
        if phase != self.phase {
            self.phase = phase;
            self.begin(rows);
        }
        if let Some(rows) = rows {
            self.bar.set_length(status.rows_estimate.max(rows));
            self.bar.set_position(rows);
        } else {
            self.bar.tick();
        }
        let dirty = match status.dirty_keys {
            0 => String::new(),
            keys => format!(", {keys} dirty keys"),
        };
        self.bar.set_prefix(dirty);
    }

    /// A bar of its own per phase, with its own clock.
    fn begin(&mut self, rows: Option<u64>) {
        self.bar.finish_and_clear();
        let template = if rows.is_some() { BAR } else { SPINNER };
        self.bar = ProgressBar::new(0).with_message(self.phase).with_position(rows.unwrap_or(0));
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style.with_key("speed", speed));
        }
        if self.bar.is_hidden() {
            output::remark(self.phase);
        }
    }

    fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// Nothing for the first second: rows that were done before would count as done in no time.
fn speed(state: &ProgressState, out: &mut dyn std::fmt::Write) {
    if state.elapsed() >= Duration::from_secs(1) {
        let (speed, left) = (state.per_sec(), HumanDuration(state.eta()));
        // A line of a progress bar is not worth an error.
        write!(out, ", {speed:.0} rows/s, {left:#} left").ok();
    }
}
