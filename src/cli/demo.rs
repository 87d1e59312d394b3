//! `pgsegue demo`: plays the demo and shows what it measured.

use super::failure::Failure;
use super::output;
use super::serve::{LogFormat, log};
use crate::demo::{self, Options, Stage, Voice};
use std::io::IsTerminal;
use std::pin::pin;
use std::process::ExitCode;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// As a shell reports the end by Ctrl-C.
const INTERRUPTED: u8 = 130;

/// Watch a whole migration on a throwaway Postgres, under load
///
/// Needs no config file and no database: it starts a Postgres of its own in a temporary folder,
/// moves a table of 200,000 rows to another shape under live traffic, breaks the shadow, and comes
/// back. Everything is gone at the end. Exit code 0: no statement failed and no row diverged.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  pgsegue demo
  pgsegue demo --json | jq .failed,.divergent
  pgsegue demo --keep                     look around afterwards, with psql
  PGSEGUE_LOG=info pgsegue demo           with the log of the proxy")]
pub(super) struct Demo {
    /// How long the app is watched in the phases that end when they are told to, together
    #[arg(long, value_name = "N", default_value_t = 28, value_parser = clap::value_parser!(u32).range(7..=3600))]
    seconds: u32,
    /// Leave Postgres and the proxy running until Ctrl-C, and say how to connect
    #[arg(long)]
    keep: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl Demo {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let logged = std::env::var_os("PGSEGUE_LOG").is_some();
        if logged {
            log(LogFormat::Text);
        }
        let mut signals = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let bars = std::io::stderr().is_terminal() && !logged;
        let voice = if bars { Voice::Bars } else { Voice::Lines };
        let stop = CancellationToken::new();
        let mut playing = pin!(demo::play(Options { seconds: self.seconds, voice }, stop.clone()));
        let played = tokio::select! {
            played = &mut playing => played,
            () = next(&mut signals) => {
                stop.cancel();
                playing.await
            }
        };
        let played = played.map_err(|error| {
            let hint = "PGSEGUE_LOG=info pgsegue demo shows the log of the proxy";
            Failure::from_error(&error).hint(if logged { "" } else { hint }).code(1)
        })?;
        let Some((report, stage)) = played else {
            output::remark("ended early; nothing is left behind");
            return Ok(ExitCode::from(INTERRUPTED));
        };
        if self.json {
            output::json(&report)?;
        } else {
            output::lines(&report.table());
        }
        if self.keep {
            show_doors(&stage);
            next(&mut signals).await;
        }
        stage.close().await.map_err(|error| Failure::from_error(&error).code(1))?;
        Ok(ExitCode::from(u8::from(!report.has_passed())))
    }
}

fn show_doors(stage: &Stage) {
    for (what, door) in stage.doors() {
        output::remark(&format!("{what:18} {door}"));
    }
    output::remark("everything runs until Ctrl-C");
}

async fn next((terminate, interrupt): &mut (Signal, Signal)) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
