//! `pgsegue check`: what is in the way of a migration, before it is started.

use super::failure::Failure;
use super::{connect, output};
use crate::config;
use crate::engine::check::{
    Effort, Extent, Finding, Progress, Severity, accept_line, check_with, leads_elsewhere,
};
use crate::engine::{Control, Status};
use crate::manifest::Migration;
use crate::pg::Database;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;

/// What a line of text may take.
const COLUMNS: usize = 100;

/// Look for what is in the way of a migration, in the real database
///
/// Reads the catalog and the rows, changes nothing, holds up no write, needs no running proxy. Of a
/// big table it reads a sample, within a minute or two. Exit code 0: nothing is in the way, warnings
/// or not; 1: there is a blocker; 2: it could not be checked, and standard error says why.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  pgsegue check
  pgsegue check orders_v2 --full
  pgsegue check orders_v2 --json | jq '.[].findings[].id'
A finding that you have read and accept goes into `accepted` in the config file, by its id.
docs/check.md explains each, and the fields of --json.")]
pub(super) struct Check {
    /// Only this migration [default: all of the config file]
    name: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Look at every row, however long it takes
    #[arg(long)]
    full: bool,
}

/// What was found about one migration.
#[derive(Debug, Serialize)]
struct Report {
    migration: String,
    source: String,
    shadow: String,
    /// `blocked` or `clear`.
    verdict: &'static str,
    blockers: usize,
    warnings: usize,
    infos: usize,
    findings: Vec<Finding>,
}

impl Report {
    fn new(migration: &Migration, findings: Vec<Finding>) -> Self {
        let count = |severity| findings.iter().filter(|f| f.severity == severity).count();
        let blockers = count(Severity::Blocker);
        Self {
            migration: migration.name.clone(),
            source: migration.source.spelled(),
            shadow: migration.shadow.spelled(),
            verdict: if blockers > 0 { "blocked" } else { "clear" },
            blockers,
            warnings: count(Severity::Warning),
            infos: count(Severity::Info),
            findings,
        }
    }
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
        let extent = if self.full { Extent::Full } else { Extent::Sampled };
        let effort = Effort { extent, ..Effort::default() };
        let bar = Bar::default();
        let mut reports = Vec::new();
        let server = &settings.process.server;
        let reached = connect::server(database, server).client("pgsegue check").await;
        let address = server.address.to_string();
        let elsewhere = leads_elsewhere(&client, &reached, &address).await;
        drop(reached);
        for migration in declared {
            let findings =
                check_with(&client, migration, &effort, &|at| bar.show(&migration.name, at)).await;
            bar.clear();
            let mut findings = findings?;
            findings.extend(elsewhere.clone());
            findings.sort_by_key(|finding| finding.severity);
            reports.push(Report::new(migration, findings));
        }
        if self.json {
            output::json(&reports)?;
        } else {
            let started = started(database).await;
            for report in &reports {
                print(report, started.iter().find(|status| status.name == report.migration));
            }
        }
        Ok(ExitCode::from(u8::from(reports.iter().any(|report| report.blockers > 0))))
    }
}

/// The migrations that are past the start, as far as the control schema is there and may be read: a check
/// needs neither.
async fn started(database: &Database) -> Vec<Status> {
    let Ok(control) = Control::connect(database).await else { return Vec::new() };
    let all = control.list().await.unwrap_or_default();
    all.into_iter().filter(|status| status.phase.is_started()).collect()
}

/// Where a full look is, on a terminal.
#[derive(Default)]
struct Bar(Mutex<Option<(String, ProgressBar)>>);

impl Bar {
    fn show(&self, migration: &str, at: Progress<'_>) {
        let Ok(mut shown) = self.0.lock() else { return };
        let what = format!("{migration}: {}", at.what);
        if shown.as_ref().is_none_or(|(of, _)| *of != what) {
            let template = "{msg} {wide_bar} {human_pos} of about {human_len} rows, {eta} left";
            let style = ProgressStyle::with_template(template);
            let bar = ProgressBar::new(at.of).with_message(output::safe(&what).into_owned());
            let bar = if let Ok(style) = style { bar.with_style(style) } else { bar };
            if let Some((_, old)) = shown.replace((what, bar)) {
                old.finish_and_clear();
            }
        }
        if let Some((_, bar)) = shown.as_ref() {
            bar.set_position(at.rows);
        }
    }

    fn clear(&self) {
        if let Ok(mut shown) = self.0.lock()
            && let Some((_, bar)) = shown.take()
        {
            bar.finish_and_clear();
        }
    }
}

fn print(report: &Report, started: Option<&Status>) {
    let name = &report.migration;
    output::line(&format!("{name}: {} to {}", report.source, report.shadow));
    let blockers = match started {
        Some(_) => "BLOCKERS: the migration is started, and would not be once more",
        None => "BLOCKERS: the migration is not started",
    };
    for (severity, title) in [
        (Severity::Blocker, blockers),
        (Severity::Warning, "Warnings: it works, less well"),
        (Severity::Info, "To know"),
    ] {
        let mut findings =
            report.findings.iter().filter(|finding| finding.severity == severity).peekable();
        if findings.peek().is_some() {
            output::line("");
            output::line(title);
            findings.for_each(print_one);
        }
    }
    if report.findings.iter().any(|finding| finding.may_be_accepted() && !finding.accepted) {
        let all = report.findings.iter().filter(|f| f.may_be_accepted() || f.accepted);
        output::line("");
        output::line("Accept what you have made sure of; this line accepts all that may be:");
        output::line(&format!("    config: {}", accept_line(all)));
    }
    let counted = |count: usize, one: &str| match count {
        1 => format!("1 {one}"),
        count => format!("{count} {one}s"),
    };
    let rest = format!("{}, {} to know", counted(report.warnings, "warning"), report.infos);
    let blockers = counted(report.blockers, "blocker");
    let phase = started.map(|status| status.phase.name().replace('_', " "));
    let verdict = match (report.blockers, report.findings.len(), phase) {
        (0, 0, _) => "nothing is in the way".to_owned(),
        (0, _, None) => format!("can be started: {rest}"),
        (0, _, Some(phase)) => format!("is started ({phase}): {rest}"),
        (_, _, None) => format!("cannot be started: {blockers}, {rest}"),
        (_, _, Some(phase)) => {
            format!("is started ({phase}), and would not be once more: {blockers}, {rest}")
        }
    };
    output::line("");
    output::line(&format!("{name}: {verdict}"));
}

fn print_one(finding: &Finding) {
    let accepted = if finding.accepted { " (accepted)" } else { "" };
    output::line("");
    output::line(&format!("  {}{accepted}", finding.id));
    for (head, text) in
        [("", finding.message.as_str()), ("why: ", finding.why), ("do: ", finding.remedy.as_str())]
    {
        for line in wrapped(&output::safe(&format!("{head}{text}")), COLUMNS - 4) {
            output::line(&format!("    {line}"));
        }
    }
    for statement in &finding.sql {
        output::line(&format!("    sql: {};", statement));
    }
    if finding.may_be_accepted() {
        if !finding.accepted {
            output::line("    or accept it: the line is at the end");
        }
    } else if let Some(line) = &finding.config {
        output::line(&format!("    config: {}", line));
    }
}

/// Lines of at most `width` characters where words allow; the second and later ones indented.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    for word in text.split(' ') {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(std::mem::replace(&mut line, "  ".to_owned()));
        } else if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_wrapped_between_words_and_lose_nothing() {
        let text = "one two three four five";
        assert_eq!(wrapped(text, 9), ["one two", "  three", "  four", "  five"]);
        assert_eq!(wrapped("averyverylongword", 5), ["averyverylongword"]);
        assert_eq!(wrapped("", 5), [""]);
    }
}
