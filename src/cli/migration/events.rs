//! `pgsegue migration events`: the audit trail.

use crate::cli::failure::Failure;
use crate::cli::{connect, output};
use crate::engine::Event;
use std::path::Path;
use std::process::ExitCode;

/// Print the audit trail: who changed what, when, from, to and why
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Events {
    /// The migration
    name: String,
    /// How many, the newest
    #[arg(long, default_value_t = 100)]
    limit: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Events {
    pub(super) async fn run(self, config: &Path) -> Result<ExitCode, Failure> {
        let control = connect::control(config).await?;
        connect::status(&control, &self.name).await?;
        let events = control.events(&self.name, self.limit).await?;
        if self.json {
            output::json(&events)?;
        } else {
            let rows: Vec<[String; 6]> = events.into_iter().map(row).collect();
            output::table(["AT", "WHO", "WHAT", "FROM", "TO", "WHY"], &rows);
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn row(event: Event) -> [String; 6] {
    [event.at, event.who, event.what, event.from, event.to, event.why]
}
