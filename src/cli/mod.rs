//! The commands: what they take, what they print, how they end.
//!
//! Invariant: a command of an operator needs the config file and the database, never the running
//! proxy: it works while the proxy hangs. Only what a proxy has seen is asked of it (`admin`).

mod admin;
mod check;
mod connect;
mod demo;
mod explain;
mod failure;
mod migration;
mod output;
mod route;
mod serve;

use clap::{Parser, Subcommand};
use failure::Failure;
use std::path::PathBuf;
use std::process::ExitCode;

/// A Postgres proxy that moves live traffic from a table to its shadow.
#[derive(Debug, Parser)]
#[command(
    version,
    arg_required_else_help = true,
    after_help = "\
See it work, without a database of your own:
  pgsegue demo

A migration from the first look to the last:
  pgsegue check                           is the database ready for what the file declares?
  pgsegue serve                           run the proxy; point the apps at it
  pgsegue migration status orders_v2 --workload
                                          what the apps send, and what of it is understood
  pgsegue migration start orders_v2       dual write, backfill, repair, verify
  pgsegue route orders_v2 --reads 10 --why 'canary'
                                          the shadow serves 10 % of the reads, if the
                                          config file allows as many
  pgsegue migration rollback orders_v2 --why 'p99 went up'
                                          all reads on the source, within milliseconds

The config file explains every key: config/pgsegue.toml.
PGSEGUE_LOG sets what is logged, for example PGSEGUE_LOG=pgsegue=debug."
)]
struct Arguments {
    /// The config file
    #[arg(
        long,
        short,
        global = true,
        env = "PGSEGUE_CONFIG",
        default_value = "config/pgsegue.toml",
        value_name = "FILE"
    )]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Check(check::Check),
    Explain(explain::Explain),
    #[command(subcommand)]
    Migration(migration::Migration),
    Route(route::Route),
    Demo(demo::Demo),
}

/// Runs the command that the process was started with.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::from_error(&error).report(),
    };
    let done = runtime.block_on(async {
        let config = &arguments.config;
        match arguments.command {
            Command::Serve(command) => Box::pin(command.run(config)).await,
            Command::Check(command) => command.run(config).await,
            Command::Explain(command) => command.run(config).await,
            Command::Migration(command) => command.run(config).await,
            Command::Route(command) => command.run(config).await,
            Command::Demo(command) => command.run().await,
        }
    });
    // Sessions that are left after a second signal must not hold the process.
    runtime.shutdown_background();
    done.unwrap_or_else(Failure::report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_commands_are_consistent() {
        Arguments::command().debug_assert();
    }
}
