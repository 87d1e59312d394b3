//! `pgsegue migration list | status`.

use super::workload;
use crate::cli::failure::Failure;
use crate::cli::{connect, output};
use crate::config;
use crate::engine::{Phase, Status};
use serde::Serialize;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

/// List the migrations that the control schema knows
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct List {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Show where a migration is
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Show {
    /// The migration
    name: String,
    /// Show what statements on the table the running proxy has seen, and what of them is understood
    #[arg(long)]
    workload: bool,
    /// The admin address of a proxy to ask, where it is not the config file's; may be repeated
    #[arg(long, value_name = "ADDRESS", requires = "workload")]
    admin: Vec<SocketAddr>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Answer {
    #[serde(flatten)]
    status: Status,
    /// Of each proxy that was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    workload: Option<Vec<workload::Seen>>,
}

impl List {
    pub(super) async fn run(self, config: &Path) -> Result<ExitCode, Failure> {
        let all = connect::control(config).await?.list().await?;
        if self.json {
            output::json(&all)?;
            return Ok(ExitCode::SUCCESS);
        }
        let rows: Vec<[String; 6]> = all
            .into_iter()
            .map(|status| {
                let phase = short(&status.phase);
                let reads = format!("{} %", status.reads);
                let dirty = status.dirty_keys.to_string();
                [status.name, status.source, status.shadow, phase, reads, dirty]
            })
            .collect();
        output::table(["NAME", "SOURCE", "SHADOW", "PHASE", "READS", "DIRTY KEYS"], &rows);
        Ok(ExitCode::SUCCESS)
    }
}

impl Show {
    pub(super) async fn run(self, config: &Path) -> Result<ExitCode, Failure> {
        let control = connect::control(config).await?;
        let status = connect::status(&control, &self.name).await?;
        let workload = match self.workload {
            false => None,
            true if self.admin.is_empty() => {
                let own = config::load(config)?.process.admin;
                Some(workload::ask(&self.name, &[own]).await?)
            }
            true => Some(workload::ask(&self.name, &self.admin).await?),
        };
        if self.json {
            output::json(&Answer { status, workload })?;
        } else {
            print(&status);
            workload::print(&workload.unwrap_or_default());
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn print(status: &Status) {
    let dual_write = if status.dual_write { "on" } else { "off" };
    let verified = status.verified_at.as_deref().unwrap_or("never");
    let lines = [
        ("tables", format!("{} → {}", status.source, status.shadow)),
        ("phase", phase(&status.phase)),
        ("dual write", dual_write.to_owned()),
        ("reads", format!("{} % from the shadow", status.reads)),
        ("dark reads", format!("{} %", status.dark_reads)),
        ("rows", format!("about {}", status.rows_estimate)),
        ("dirty keys", status.dirty_keys.to_string()),
        ("verified", format!("{verified}, {} passes", status.verify_passes)),
        ("differences", status.differences_found.to_string()),
    ];
    output::line(&status.name);
    for (what, value) in lines {
        let mut rest = value.split('\n');
        output::line(&format!("  {what:12}{}", rest.next().unwrap_or_default()));
        rest.for_each(|line| output::line(&format!("  {:12}{line}", "")));
    }
    if let Some(reason) = &status.reads_blocked {
        output::line(&format!("  no reads    {reason}"));
    }
    for key in &status.poison_keys {
        output::line(&format!("  poison key  {key}"));
    }
}

/// The phase in a column: why it is blocked takes hundreds of characters, and is in `status`.
fn short(phase: &Phase) -> String {
    match phase {
        Phase::Blocked { .. } => "blocked".to_owned(),
        Phase::Paused { from } => format!("paused in: {}", short(from)),
        other => self::phase(other),
    }
}

/// A phase in words, with what is known about its progress.
pub(super) fn phase(phase: &Phase) -> String {
    match phase {
        Phase::Observe => "observe (not started)".to_owned(),
        Phase::Prepare => "prepare".to_owned(),
        Phase::DualWrite => "dual write (waiting for writers from before)".to_owned(),
        Phase::Backfill { rows, .. } => format!("backfill, {rows} rows copied"),
        Phase::Repair => "repair".to_owned(),
        Phase::Verify { rows, differences, .. } => {
            format!("verify, {rows} rows compared, {differences} different")
        }
        Phase::Ready => "ready".to_owned(),
        Phase::Paused { from } => format!("paused in: {}", self::phase(from)),
        Phase::Blocked { reason, .. } => format!("blocked: {reason}"),
        Phase::Aborted => "aborted".to_owned(),
    }
}
