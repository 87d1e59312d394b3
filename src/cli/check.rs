//! `pgsegue check`: what is in the way of a migration, before it is started.

use super::failure::Failure;
use super::{connect, output};
use crate::config;
use crate::engine::check::{Finding, Severity, check};
use serde::Serialize;
use std::path::Path;
use std::process::ExitCode;

/// Look for what is in the way of a migration, in the real database
///
/// Reads the catalog, changes nothing, needs no running proxy. Exit code 0: nothing is in the way;
/// 1: there is a blocker; 2: it could not be checked.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  pgsegue check
  pgsegue check orders_v2 --json | jq '.[].findings[].id'
A warning that you have read and accept goes into `accepted` in the config file.")]
pub(super) struct Check {
    /// Only this migration [default: all of the config file]
    name: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What was found about one migration.
#[derive(Debug, Serialize)]
struct Report {
    migration: String,
    findings: Vec<Finding>,
}

impl Check {
    pub(super) async fn run(self, config: &Path) -> Result<ExitCode, Failure> {
        let settings = config::load(config)?;
        let declared: Vec<_> = settings
            .migrations
            .iter()
            .map(|declared| &declared.migration)
            .filter(|migration| self.name.as_ref().is_none_or(|name| *name == migration.name))
            .collect();
        if declared.is_empty() {
            return Err(match self.name {
                Some(name) => {
                    let names = settings.migrations.iter().map(|d| d.migration.name.as_str());
                    let names: Vec<&str> = names.collect();
                    Failure::new(
                        format!("the config file declares no migration \"{name}\""),
                        format!("it declares: {}", names.join(", ")),
                    )
                }
                None => Failure::new(
                    "the config file declares no migration",
                    "config/pgsegue.toml in the source tree shows a [[migration]]",
                ),
            });
        }
        let database = connect::database(&settings)?;
        let client = database
            .client("pgsegue check")
            .await
            .map_err(|error| connect::unreachable(error, database))?;
        let mut reports = Vec::new();
        for migration in declared {
            let findings = check(&client, migration).await?;
            reports.push(Report { migration: migration.name.clone(), findings });
        }
        if self.json {
            output::json(&reports)?;
        } else {
            reports.iter().for_each(print);
        }
        let blocked = reports.iter().flat_map(|report| &report.findings).any(Finding::is_blocker);
        Ok(ExitCode::from(u8::from(blocked)))
    }
}

fn print(report: &Report) {
    let blockers = report.findings.iter().filter(|finding| finding.is_blocker()).count();
    let verdict = match (blockers, report.findings.len()) {
        (0, 0) => "nothing is in the way".to_owned(),
        (0, others) => format!("can be started, {others} to know"),
        (blockers, all) => {
            format!("cannot be started: {blockers} in the way, {} to know", all - blockers)
        }
    };
    output::line(&format!("{}: {verdict}", report.migration));
    for finding in &report.findings {
        let word = match finding.severity {
            Severity::Blocker => "BLOCKER",
            Severity::Warning => "warning",
            Severity::Info => "info",
        };
        output::line(&format!("  {word:7}  {}: {}", finding.id, finding.message));
        if !finding.remedy.is_empty() {
            output::line(&format!("           do: {}", finding.remedy));
        }
    }
}
