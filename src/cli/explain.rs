//! `pgsegue explain`: what the proxy would make of a text.

use super::failure::Failure;
use super::{connect, output};
use crate::config;
use crate::explain::{self, Explained, Question};
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
    /// The SQL; several statements are explained one by one, as sent in one text
    #[arg(allow_hyphen_values = true)]
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
        let explained = asked.map_err(|error| match error.is_of_the_question() {
            true => Failure::from_error(&error),
            false => connect::unreachable(error, database),
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
            print(one);
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn print(one: &Explained) {
    let text = one.statement.replace("\r\n", "\n").replace('\t', "    ");
    let mut text = text.split('\n');
    output::line(text.next().unwrap_or_default());
    // Farther in than what is said of it.
    text.for_each(|line| output::line(&format!("    {line}")));
    let item = |what: &str, value: &str| output::line(&format!("  {what:9}{value}"));
    item("class", &one.class);
    if !one.tables.is_empty() {
        item("tables", &one.tables.join(", "));
    }
    item("route", &one.route);
    item("why", &one.why);
    if let Some(what) = &one.not_understood {
        item("unknown", &format!("not understood: {what}"));
    }
    if let Some(way_out) = &one.way_out {
        item("way out", way_out);
    }
    if let Some(vetting) = &one.vetting {
        item("vetting", vetting);
    }
    if !one.client.is_empty() {
        item("client", &one.client.join(" "));
    }
    one.notes.iter().for_each(|note| item("note", note));
    if let Some(sql) = &one.sql {
        if sql.split(['\n', '\t']).any(|line| output::safe(line) != line) {
            item(
                "note",
                "characters that a terminal obeys are spelled out; --json has the SQL as it runs",
            );
        }
        output::line("");
        print_sql(sql, &one.parameters);
    }
}

/// SQL that psql runs; with parameters, it prepares it.
fn print_sql(sql: &str, parameters: &[String]) {
    if parameters.is_empty() {
        return output::lines(sql);
    }
    output::line(&format!("PREPARE pgsegue_try ({}) AS", parameters.join(", ")));
    output::lines(sql);
    let values: Vec<_> = (1..=parameters.len()).map(|n| format!("<${n}>")).collect();
    output::line(&format!("-- then: EXECUTE pgsegue_try ({});", values.join(", ")));
}
