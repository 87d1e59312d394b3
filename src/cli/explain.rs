//! `pgsegue explain`: what the proxy would make of one statement.

use super::failure::Failure;
use super::{connect, output};
use crate::config;
use crate::engine::{Control, Phase, functions, shape};
use crate::sql::splice::Spliced;
use crate::sql::statement::{Class, Statement, understand};
use crate::sql::target::{SyncMode, Target};
use crate::sql::write::Modes;
use serde::Serialize;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

/// Show what the proxy makes of a statement: its class, its route and the SQL that is sent
///
/// Reads the catalog and the control schema, runs nothing. Names without a schema are taken for
/// the migrated tables; in a session, search_path and temporary tables decide.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  pgsegue explain \"UPDATE orders SET total = 5 WHERE id = 7 RETURNING total\"
  pgsegue explain --json \"SELECT * FROM orders WHERE id = 7\"")]
pub(super) struct Explain {
    /// The SQL; several statements are explained one by one
    sql: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What is said of one statement.
#[derive(Debug, Serialize)]
struct Explained {
    statement: String,
    class: &'static str,
    tables: Vec<String>,
    route: String,
    /// The form for the route that dual write or reads would take.
    sql: Option<String>,
    /// What the client sees, and what to know.
    notes: Vec<String>,
}

struct Known {
    targets: Vec<Arc<Target>>,
    phases: Vec<Option<Phase>>,
}

impl Explain {
    pub(super) async fn run(self, config: &Path) -> Result<ExitCode, Failure> {
        let settings = config::load(config)?;
        let database = connect::database(&settings)?;
        let client = database
            .client("pgsegue explain")
            .await
            .map_err(|error| connect::unreachable(error, database))?;
        let control = Control::connect(database).await?;
        let mut known = Known { targets: Vec::new(), phases: Vec::new() };
        for declared in &settings.migrations {
            if let Some(shape) = shape::read(&client, &declared.migration).await? {
                known.targets.push(Arc::new(shape.target()));
                // Before the first start there is no control schema: then nothing is mirrored.
                let status = control.status(&declared.migration.name).await.ok().flatten();
                known.phases.push(status.map(|s| s.phase));
            }
        }
        let functions = functions::load(&client).await?;
        let understanding = understand(&self.sql, &known.targets, &functions);
        let explained: Vec<_> =
            understanding.statements.iter().map(|s| known.explain(&self.sql, s)).collect();
        if self.json {
            output::json(&explained)?;
        } else {
            explained.iter().for_each(print);
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Known {
    fn explain(&self, text: &str, statement: &Statement) -> Explained {
        let mut tables: Vec<String> = Vec::new();
        for name in &statement.names {
            if let Some(target) = self.targets.get(name.target) {
                let table = match name.table {
                    crate::sql::mention::Table::Source => &target.source,
                    crate::sql::mention::Table::Shadow => &target.shadow,
                };
                tables.push(table.to_string());
            }
        }
        tables.sort();
        tables.dedup();
        let (class, route, sql, notes) = self.class(text, statement);
        Explained {
            statement: text.get(statement.at.clone()).unwrap_or_default().to_owned(),
            class,
            tables,
            route,
            sql: sql.map(|s| s.text().to_owned()),
            notes,
        }
    }

    fn class(
        &self,
        text: &str,
        statement: &Statement,
    ) -> (&'static str, String, Option<Spliced>, Vec<String>) {
        match &statement.class {
            Class::Passthrough => {
                ("passthrough", "forwarded as it is".to_owned(), None, Vec::new())
            }
            Class::Truncate(truncate) => {
                let note = "the shadow is emptied behind it, in the same transaction; where only a \
                            part of the source is empty then, the migration is marked for a full verify";
                let at = truncate.named.first().map(|t| self.at(*t)).unwrap_or_default();
                ("truncate", format!("source, then the shadow{at}"), None, vec![note.to_owned()])
            }
            Class::Ddl(target) => {
                let note = "while dual write is on: SQLSTATE 55006, nothing changed".to_owned();
                (
                    "ddl",
                    format!("refused during the migration{}", self.at(*target)),
                    None,
                    vec![note],
                )
            }
            Class::Unclassified(why) => {
                let note = format!("not understood: {why}");
                let policy = "by `unclassified`: \"record\" lets it run and marks the migration for \
                              a full verify in the same transaction, \"refuse\" gives SQLSTATE 0A000";
                let way_out = format!("way out: {}", why.way_out());
                ("unclassified", "source".to_owned(), None, vec![note, way_out, policy.to_owned()])
            }
            Class::Write(write) => {
                let modes = Modes::all(SyncMode::Sync);
                let sql = Some(write.mirrored(text, &self.targets, modes));
                let note = "the client sees the tag, rows and errors of its own statement";
                let shadows: Vec<_> = write.feeds().map(|f| self.at(f.name.target)).collect();
                let route = format!("source, mirrored to the shadow{}", shadows.join(","));
                ("write", route, sql, vec![note.to_owned()])
            }
            Class::Read(read) => match &read.fit {
                Err(why) => ("read", "source".to_owned(), None, vec![format!("unfit: {why}")]),
                Ok(fit) => {
                    let sql = fit.on_shadow(text, statement.at.clone(), &self.targets, |_| 0);
                    let mut notes = vec![
                        "served by the shadow for the share `reads`, once it is vetted: same \
                         columns and types, no sequential scan that the source does not need"
                            .to_owned(),
                    ];
                    if let Err(why) = fit.comparable {
                        notes.push(format!("never a dark read: {why}"));
                    }
                    let at = fit.targets().next().map(|t| self.at(t)).unwrap_or_default();
                    ("read", format!("source or shadow{at}"), sql, notes)
                }
            },
        }
    }

    fn at(&self, target: usize) -> String {
        let name = self.targets.get(target).map_or("", |t| t.migration.as_str());
        let phase = self.phases.get(target).and_then(Option::as_ref);
        let phase = phase
            .and_then(|p| serde_json::to_value(p).ok())
            .and_then(|v| v.get("phase").and_then(|p| p.as_str()).map(str::to_owned));
        format!(" ({name}: {})", phase.as_deref().unwrap_or("not started"))
    }
}

fn print(explained: &Explained) {
    output::line(&explained.statement);
    output::line(&format!("  class   {}", explained.class));
    if !explained.tables.is_empty() {
        output::line(&format!("  tables  {}", explained.tables.join(", ")));
    }
    output::line(&format!("  route   {}", explained.route));
    for note in &explained.notes {
        output::line(&format!("  note    {note}"));
    }
    if let Some(sql) = &explained.sql {
        output::line(&format!("  sql     {sql}"));
    }
}
