//! `pgsegue explain`: what the proxy would make of a text.

use super::failure::Failure;
use super::{connect, output};
use crate::config;
use crate::explain::{self, Error, Question};
use std::path::Path;
use std::process::ExitCode;

/// Show what the proxy makes of a statement: its class, its route and the SQL that is sent
///
/// Reads the catalog and the control schema, runs nothing. Names without a schema are taken for
/// the migrated tables; in a session, search_path and temporary tables decide. POST /explain on
/// the admin server answers the same.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  pgsegue explain \"UPDATE orders SET total = 5 WHERE id = 7 RETURNING total\"
  pgsegue explain --reads 10 \"SELECT * FROM orders WHERE id = $1\"")]
pub(super) struct Explain {
    /// The SQL; several statements are explained one by one
    sql: String,
    /// As if the migrations were ready and the shadow served so many percent of the reads
    #[arg(long, value_name = "PERCENT")]
    reads: Option<f64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Explain {
    pub(super) async fn run(self, config: &Path) -> Result<ExitCode, Failure> {
        let settings = config::load(config)?;
        let database = connect::database(&settings)?;
        let question = Question { sql: self.sql, reads: self.reads };
        let asked = explain::explain(database, &settings.migrations, &question).await;
        let explained = asked.map_err(|error| match error {
            Error::Percent(_) => Failure::from_error(&error),
            Error::Engine(_) | Error::Database(_) => connect::unreachable(error, database),
        })?;
        if self.json {
            output::json(&explained)?;
            return Ok(ExitCode::SUCCESS);
        }
        if explained.is_empty() {
            output::line("there is no statement in it: it is sent as it is");
        }
        for (index, one) in explained.iter().enumerate() {
            if index > 0 {
                output::line("");
            }
            output::line(one.to_string().trim_end());
        }
        Ok(ExitCode::SUCCESS)
    }
}
