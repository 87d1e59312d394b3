//! `pgsegue migration pause | resume | abort | verify | repair`: one request each.

use crate::cli::failure::Failure;
use crate::cli::{connect, output};
use crate::engine::Abort;
use std::path::Path;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Ask {
    /// The migration
    name: String,
}

/// End a migration for good: mirroring stops, its functions are dropped, the shadow table stays
///
/// Reads go to the source at once. Where no proxy runs, the functions are dropped by the next one
/// that declares the migration. To only take the reads back, use `migration rollback`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct AbortFor {
    /// The migration
    name: String,
    /// Why, for the audit trail
    #[arg(long)]
    why: String,
}

impl Ask {
    pub(super) async fn pause(self, config: &Path) -> Result<ExitCode, Failure> {
        let control = connect::control(config).await?;
        connect::status(&control, &self.name).await?;
        control.pause(&self.name, &connect::who("migration pause")).await?;
        self.done("will pause; writes are still mirrored")
    }

    pub(super) async fn resume(self, config: &Path) -> Result<ExitCode, Failure> {
        let control = connect::control(config).await?;
        connect::status(&control, &self.name).await?;
        control.resume(&self.name, &connect::who("migration resume")).await?;
        self.done("will go on")
    }

    pub(super) async fn verify(self, config: &Path) -> Result<ExitCode, Failure> {
        let control = connect::control(config).await?;
        connect::status(&control, &self.name).await?;
        control.verify(&self.name, &connect::who("migration verify")).await?;
        self.done("a full verify is asked for; `pgsegue migration status` shows its result")
    }

    pub(super) async fn repair(self, config: &Path) -> Result<ExitCode, Failure> {
        let control = connect::control(config).await?;
        connect::status(&control, &self.name).await?;
        control.repair(&self.name, &connect::who("migration repair")).await?;
        self.done("repair will try every dirty key again")
    }

    fn done(&self, what: &str) -> Result<ExitCode, Failure> {
        output::line(&format!("{}: {what}", self.name));
        Ok(ExitCode::SUCCESS)
    }
}

impl AbortFor {
    pub(super) async fn run(self, config: &Path) -> Result<ExitCode, Failure> {
        let control = connect::control(config).await?;
        connect::status(&control, &self.name).await?;
        let name = &self.name;
        match control.abort(name, &connect::who("migration abort"), &self.why).await? {
            Abort::Asked => {
                output::line(&format!("{name}: will be aborted; the shadow table stays"));
            }
            Abort::Done { left } => {
                output::line(&format!("{name}: aborted; the shadow table stays"));
                still_there(name, &left);
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn still_there(name: &str, functions: &[String]) {
    if functions.is_empty() {
        return;
    }
    output::remark(&format!(
        "hint: no proxy has dropped its functions; the next one does whose config file declares \
         {name}. By hand, when no proxy of this database is left:"
    ));
    output::remark(&format!("DROP FUNCTION {};", functions.join(", ")));
}
