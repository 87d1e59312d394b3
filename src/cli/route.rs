//! `pgsegue route`: the levers in the control schema.

use super::failure::Failure;
use super::{connect, output};
use crate::engine::{BothLevers, Control, Lever, RouteChange, Status};
use crate::manifest::{DualWrite, Percent};
use std::path::Path;
use std::process::ExitCode;

/// Change the levers of a migration, on every proxy, within milliseconds
///
/// The config file has the same levers. The lower of the two counts: either can lower, both must
/// agree to raise.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  pgsegue route orders_v2 --dark 5 --why 'first comparison'
  pgsegue route orders_v2 --reads 10 --why 'canary, CHG-1234'
  pgsegue route orders_v2 --reads 0 --why 'p99 went up'")]
pub(super) struct Route {
    /// The migration
    name: String,
    /// Percent of reads that the shadow serves, 0 to 100
    #[arg(long, value_name = "PCT", value_parser = percent)]
    reads: Option<Percent>,
    /// Percent of reads that are run on both tables and compared, 0 to 100
    #[arg(long, value_name = "PCT", value_parser = percent)]
    dark: Option<Percent>,
    /// Whether writes go to both tables; off needs a full verify before reads can come back
    #[arg(long, value_name = "on|off", value_parser = dual_write)]
    dual_write: Option<DualWrite>,
    /// Why, for the audit trail
    #[arg(long)]
    why: String,
}

impl Route {
    pub(super) async fn run(self, config: &Path) -> Result<ExitCode, Failure> {
        let change =
            RouteChange { reads: self.reads, dark_reads: self.dark, dual_write: self.dual_write };
        if change == (RouteChange { reads: None, dark_reads: None, dual_write: None }) {
            return Err(Failure::new("nothing to change", "add --reads, --dark or --dual-write"));
        }
        let control = connect::control(config).await?;
        apply(&control, &self.name, change, "route", &self.why).await?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Changes levers and prints what is in force then.
pub(super) async fn apply(
    control: &Control,
    name: &str,
    change: RouteChange,
    command: &str,
    why: &str,
) -> Result<(), Failure> {
    connect::status(control, name).await?;
    control.route(name, change, &connect::who(command), why).await?;
    let status = connect::status(control, name).await?;
    output::line(&describe(&status));
    let levers = control.levers(name).await?;
    held_down(&change, &levers).iter().for_each(|hint| output::remark(hint));
    let shares = [(status.reads, levers.reads), (status.dark_reads, levers.dark_reads)];
    let raised = [change.reads, change.dark_reads].into_iter().flatten().any(|p| p > Percent::ZERO);
    if raised && shares.iter().any(|(now, allowed)| *now < allowed.lower().as_f64()) {
        let why = match &status.reads_blocked {
            Some(why) => why.clone(),
            None => format!("{name} is in phase {}", status.phase.name()),
        };
        output::remark(&format!(
            "hint: the levers count once the migration is ready: {why}; see `pgsegue migration \
             status {name}`"
        ));
    }
    Ok(())
}

/// What was asked for and the config file does not allow.
fn held_down(change: &RouteChange, levers: &BothLevers) -> Vec<String> {
    let share = |what: &str, asked: Option<Percent>, lever: Lever<Percent>| {
        let asked = asked.filter(|asked| lever.file < *asked)?;
        let file = lever.file;
        Some(format!(
            "hint: {what} is {asked} here and {file} in the config file: the lower counts; raise \
             it there"
        ))
    };
    let dual_write = (change.dual_write == Some(DualWrite::On) && !levers.dual_write.file)
        .then(|| "hint: dual_write is off in the config file: turn it on there".to_owned());
    let reads = share("reads", change.reads, levers.reads);
    let dark_reads = share("dark_reads", change.dark_reads, levers.dark_reads);
    [reads, dark_reads, dual_write].into_iter().flatten().collect()
}

fn describe(status: &Status) -> String {
    let dual_write = if status.dual_write { "on" } else { "off" };
    format!(
        "{}: reads {} %, dark reads {} %, dual write {dual_write}",
        status.name, status.reads, status.dark_reads
    )
}

fn percent(text: &str) -> Result<Percent, String> {
    let number = text.trim_end_matches('%').parse().ok();
    number.and_then(Percent::new).ok_or_else(|| "must be between 0 and 100".to_owned())
}

fn dual_write(text: &str) -> Result<DualWrite, String> {
    match text {
        "on" => Ok(DualWrite::On),
        "off" => Ok(DualWrite::Off),
        _ => Err("must be on or off".to_owned()),
    }
}
