//! `pgsegue serve`: the proxy, the engine and the admin server.

use super::failure::Failure;
use crate::app;
use std::path::Path;
use std::process::ExitCode;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Run the proxy, the engine and the admin server
///
/// SIGHUP reads the config file again (a change of the file does as well). SIGTERM or Ctrl-C
/// takes no new clients and lets the sessions end; a second one ends at once.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  pgsegue serve --config /etc/pgsegue.toml
  psql 'host=127.0.0.1 port=6432 ...'     as the apps connect
  curl http://127.0.0.1:9632/readyz       200 when it takes clients")]
pub(super) struct Serve {
    /// How log lines on standard error are written
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(super) enum LogFormat {
    Text,
    Json,
}

impl Serve {
    pub(super) async fn run(self, config: &Path) -> Result<ExitCode, Failure> {
        log(self.log_format);
        let mut signals = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let shutdown = CancellationToken::new();
        let served = app::serve(config, shutdown.clone());
        let twice = async {
            next(&mut signals).await;
            shutdown.cancel();
            next(&mut signals).await;
            tracing::warn!("second signal: ending at once");
        };
        tokio::select! {
            served = served => served?,
            () = twice => {}
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn next((terminate, interrupt): &mut (Signal, Signal)) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Logs to standard error; PGSEGUE_LOG says what.
pub(super) fn log(format: LogFormat) {
    let filter = EnvFilter::try_from_env("PGSEGUE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let set = match format {
        LogFormat::Text => {
            let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
            builder.with_ansi(colours).with_target(false).try_init()
        }
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    // Only a test that calls this twice has a logger already.
    set.ok();
}
