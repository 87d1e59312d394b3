//! `pgsegue migration …`: the work itself, through the control schema.

mod ask;
mod events;
mod rollback;
mod show;
mod start;
mod workload;

use super::failure::Failure;
use std::path::Path;
use std::process::ExitCode;

/// Start, watch, hold, verify or end a migration
#[derive(Debug, clap::Subcommand)]
pub(super) enum Migration {
    List(show::List),
    Status(show::Show),
    Start(start::Start),
    /// Hold the work; writes are still mirrored
    Pause(ask::Ask),
    /// Go on after a pause or a block
    Resume(ask::Ask),
    Abort(ask::AbortFor),
    /// Ask for a full verify now: every row of both tables is compared
    Verify(ask::Ask),
    /// Let repair try every dirty key again now, those it gave up on included
    Repair(ask::Ask),
    Rollback(rollback::Rollback),
    Events(events::Events),
}

impl Migration {
    pub(super) async fn run(self, config: &Path) -> Result<ExitCode, Failure> {
        match self {
            Self::List(command) => command.run(config).await,
            Self::Status(command) => command.run(config).await,
            Self::Start(command) => command.run(config).await,
            Self::Pause(command) => command.pause(config).await,
            Self::Resume(command) => command.resume(config).await,
            Self::Abort(command) => command.run(config).await,
            Self::Verify(command) => command.verify(config).await,
            Self::Repair(command) => command.repair(config).await,
            Self::Rollback(command) => command.run(config).await,
            Self::Events(command) => command.run(config).await,
        }
    }
}
