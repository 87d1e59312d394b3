//! `pgsegue migration rollback`: all reads back on the source.

use crate::cli::failure::Failure;
use crate::cli::{connect, route};
use crate::engine::RouteChange;
use crate::manifest::Percent;
use std::path::Path;
use std::process::ExitCode;

/// Put all reads back on the source, on every proxy, within milliseconds
///
/// Writes are still mirrored, so the reads can go back to the shadow at any time with
/// `pgsegue route`. To end the migration, use `migration abort`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Rollback {
    /// The migration
    name: String,
    /// Why, for the audit trail
    #[arg(long)]
    why: String,
}

impl Rollback {
    pub(super) async fn run(self, config: &Path) -> Result<ExitCode, Failure> {
        let control = connect::control(config).await?;
        let change = RouteChange {
            reads: Some(Percent::ZERO),
            dark_reads: Some(Percent::ZERO),
            dual_write: None,
        };
        route::apply(&control, &self.name, change, "migration rollback", &self.why).await?;
        Ok(ExitCode::SUCCESS)
    }
}
