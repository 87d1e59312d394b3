//! What the proxy would make of a text: for `pgsegue explain` and for the admin server, which
//! therefore say the same. Reads the catalog and the control schema, and prepares statements to
//! learn what they return; runs nothing of them.

mod said;

pub use said::Explained;

use crate::engine::{self, Control, Declared, Found, Status, functions};
use crate::manifest::{Migration, Percent, Unclassified};
use crate::pg::Database;
use crate::proxy;
use crate::sql::indirect;
use crate::sql::layout::pretty;
use crate::sql::lex::{Kind, identifier, tokens};
use crate::sql::mention::Table;
use crate::sql::read::Read;
use crate::sql::reason::Reason;
use crate::sql::statement::{Class, Name, Statement, main_verb, understand};
use crate::sql::target::{Functions, SyncMode, Target};
use crate::sql::truncate::{Reach, Truncate};
use crate::sql::write::{Feed, Modes, Write};
use said::{Said, Vetting};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio_postgres::Client;

/// Words before a parenthesis that call nothing.
const NO_CALLS: [&str; 38] = [
    "all",
    "and",
    "any",
    "array",
    "as",
    "between",
    "by",
    "case",
    "coalesce",
    "distinct",
    "else",
    "except",
    "exists",
    "extract",
    "filter",
    "from",
    "greatest",
    "having",
    "in",
    "intersect",
    "join",
    "lateral",
    "least",
    "limit",
    "materialized",
    "not",
    "nullif",
    "numeric",
    "on",
    "or",
    "over",
    "select",
    "then",
    "union",
    "using",
    "values",
    "varchar",
    "where",
];
/// Functions that are not immutable and see nothing but their arguments and settings.
const BLIND: [&str; 8] =
    ["now", "to_char", "to_date", "to_timestamp", "date_trunc", "date_part", "age", "concat"];

/// What is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// The text; several statements are explained one by one.
    pub sql: String,
    /// As if the migrations were ready and so many percent of the reads allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reads: Option<f64>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The question.
    #[error("reads = {0} is no percentage: it is between 0 and 100")]
    Percent(f64),
    /// The database.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// The database.
    #[error(transparent)]
    Database(#[from] tokio_postgres::Error),
}

/// Explains every statement of a text.
///
/// # Errors
/// When the question makes no sense, or the database cannot be asked.
pub async fn explain(
    database: &Database,
    declared: &[Declared],
    question: &Question,
) -> Result<Vec<Explained>, Error> {
    let reads = match question.reads {
        None => None,
        Some(reads) => Some(Percent::new(reads).ok_or(Error::Percent(reads))?),
    };
    let mut client = database.client("pgsegue explain").await.map_err(engine::Error::from)?;
    let control = Control::connect(database).await?;
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for one in declared {
        let migration = &one.migration;
        let target = match engine::look(&client, migration).await? {
            Found::Fit(target) | Found::SourceOnly(target, _) => target,
            Found::Nothing(why) => {
                missing.push(format!("{}: {why}", migration.name));
                continue;
            }
        };
        let status = control.status(&migration.name).await?;
        found.push((target, Setting::of(migration, status, reads)));
    }
    // As the routes are: a query goes by the first of its table.
    found.sort_by(|(a, _), (b, _)| a.migration.cmp(&b.migration));
    found.sort_by_key(|(target, setting)| {
        std::cmp::Reverse((target.old_shape.is_ok(), setting.reads, setting.dark_reads))
    });
    let (targets, settings): (Vec<_>, _) = found.into_iter().unzip();
    let functions = functions::load(&client, &targets).await?;
    let known = Known { targets, settings, functions, missing };
    let understanding = understand(&question.sql, &known.targets, &known.functions);
    let mut explained = Vec::with_capacity(understanding.statements.len());
    for statement in &understanding.statements {
        let said = known.explain(&mut client, &question.sql, statement).await?;
        explained.push(said);
    }
    Ok(explained)
}

/// The declared migrations, as they are or as they were asked to be taken for.
struct Known {
    targets: Vec<Arc<Target>>,
    settings: Vec<Setting>,
    functions: Functions,
    /// Those whose source does not exist.
    missing: Vec<String>,
}

/// Where a migration is.
struct Setting {
    name: String,
    /// What stands behind its name.
    phase: String,
    dual_write: bool,
    /// Before the backfill the shadow's plan is that of another table than it will be.
    is_filled: bool,
    reads: Percent,
    dark_reads: Percent,
    unclassified: Unclassified,
}

impl Setting {
    fn of(migration: &Migration, status: Option<Status>, as_if: Option<Percent>) -> Self {
        let phase = status.as_ref().map_or("observe", |s| s.phase.name());
        let is_filled = !["observe", "prepare", "dual_write", "backfill"].contains(&phase);
        let reads = status.as_ref().and_then(|s| Percent::new(s.reads)).unwrap_or(Percent::ZERO);
        let dark = status.as_ref().and_then(|s| Percent::new(s.dark_reads));
        let dark_reads = dark.unwrap_or(Percent::ZERO);
        let (phase, dual_write, reads) = match as_if {
            Some(reads) => (format!("as if ready; in fact {phase}"), true, reads),
            None => (phase.to_owned(), status.is_some_and(|s| s.dual_write), reads),
        };
        let (name, unclassified) = (migration.name.clone(), migration.unclassified);
        Self { name, phase, dual_write, is_filled, reads, dark_reads, unclassified }
    }
}

impl Known {
    async fn explain(
        &self,
        client: &mut Client,
        text: &str,
        statement: &Statement,
    ) -> Result<Explained, Error> {
        let sql = text.get(statement.at.clone()).unwrap_or_default();
        let mut said = Said::new(sql, self.tables(statement));
        self.missing.iter().for_each(|why| said.note(why.clone()));
        match &statement.class {
            Class::Passthrough if statement.names.is_empty() => {
                said.route("passthrough", "as it is", "it names no migrated table");
                said.unchanged();
            }
            Class::Passthrough => {
                let unmoved = "it changes no migrated table, and reads none that could be another";
                let why = indirect::reads(text, statement).unwrap_or(unmoved);
                said.route("passthrough", "source", why);
                said.unchanged();
            }
            Class::Prepare(_) | Class::Execute(_) | Class::Deallocate(_) => {
                let why = "EXECUTE is what it executes: explain that statement";
                said.route("prepared", "by the statement that the name stands for", why);
                said.unchanged();
            }
            Class::Ddl(targets) => self.ddl(targets, &mut said),
            Class::Truncate(truncate) => self.truncate(truncate, &mut said),
            Class::Unclassified(why) => self.unclassified(statement, *why, &mut said),
            Class::CopyFrom(names, _) => self.copied(names, &mut said),
            Class::Write(write) => {
                self.write(text, write, &mut said);
                said.describe(client, sql, tag_of(sql).to_owned()).await;
            }
            Class::Read(read) => {
                self.read(client, (text, statement), read, &mut said).await;
                said.describe(client, sql, "SELECT n".to_owned()).await;
            }
        }
        let unqualified = crate::sql::mention::Spelling::Unqualified;
        if statement.names.iter().any(|name| name.spelling == unqualified) {
            said.note(
                "names without a schema are taken for the migrated tables; in a session, \
                 search_path and temporary tables decide"
                    .to_owned(),
            );
        }
        Ok(said.done())
    }

    fn tables(&self, statement: &Statement) -> Vec<String> {
        let table = |name: &crate::sql::statement::Name| {
            let target = self.targets.get(name.target)?;
            Some(match name.table {
                Table::Source | Table::Through => target.source.to_string(),
                Table::Shadow => target.shadow.to_string(),
                Table::Part(oid) => {
                    let mut parts = target.parts.values().flatten();
                    parts.find(|part| part.oid == oid)?.name.to_string()
                }
            })
        };
        let mut tables: Vec<String> = statement.names.iter().filter_map(table).collect();
        tables.sort();
        tables.dedup();
        tables
    }

    /// A function that a query calls and that may look at data: the planner works out what hangs on
    /// constants alone, as the control role, and the admin server asks nobody who he is.
    fn calls_unknown(&self, sql: &str) -> Option<String> {
        let all = tokens(sql).unwrap_or_default();
        let called = all.windows(2).filter(|pair| {
            matches!(pair, [name, open] if matches!(name.kind, Kind::Word | Kind::Quoted)
                && open.kind == Kind::Open && sql.get(open.at.clone()) == Some("("))
        });
        let mut names = called.filter_map(|pair| identifier(sql, pair.first()?));
        names.find(|name| {
            let harmless = NO_CALLS.contains(&name.as_str()) || BLIND.contains(&name.as_str());
            !harmless && !self.functions.deterministic.contains(name)
        })
    }

    /// The settings of the migrations that a statement names; of all if it may concern any.
    fn concerned(&self, statement: &Statement) -> Vec<&Setting> {
        let named = |index: usize| statement.names.iter().any(|name| name.target == index);
        let all = self.settings.iter().enumerate();
        let concerned = all.filter(|(index, _)| statement.names.is_empty() || named(*index));
        concerned.map(|(_, setting)| setting).collect()
    }

    fn ddl(&self, targets: &[usize], said: &mut Said) {
        let settings = || targets.iter().filter_map(|target| self.settings.get(*target));
        let mirrored = settings().find(|setting| setting.dual_write);
        let Some(setting) = mirrored.or_else(|| settings().next()) else { return };
        if setting.dual_write {
            said.route("ddl", "refused", &format!("{} is under way", setting.at()));
            said.client("SQLSTATE 55006; nothing is changed".to_owned());
        } else {
            said.route("ddl", "source", &format!("{} is not mirrored", setting.at()));
            said.unchanged();
            said.note("refused with SQLSTATE 55006 while the migration runs".to_owned());
        }
    }

    fn truncate(&self, truncate: &Truncate, said: &mut Said) {
        let reached =
            |index: usize| truncate.named.contains(&index) || truncate.reach == Reach::Cascade;
        let all = self.settings.iter().enumerate().filter(|(index, _)| reached(*index));
        let at: Vec<String> = all.clone().map(|(_, setting)| setting.at()).collect();
        if all.clone().any(|(_, setting)| setting.dual_write) {
            said.route("truncate", "source, then the shadow", &at.join(", "));
        } else {
            said.route("truncate", "source", &format!("not mirrored: {}", at.join(", ")));
        }
        said.client("TRUNCATE TABLE".to_owned());
        said.note(
            "once dual write is on, the shadow is emptied behind it, in the same transaction; \
             where only a part of the source is empty then, the migration is marked for a full \
             verify"
                .to_owned(),
        );
    }

    fn copied(&self, names: &[Name], said: &mut Said) {
        self.fed(names.iter().filter_map(|name| self.settings.get(name.target)).collect(), said);
        said.client("COPY n".to_owned());
        said.note(
            "while dual write is on, the keys are read along in the data, or found by the sequence \
             that makes them up, and synced when the data are complete"
                .to_owned(),
        );
    }

    fn unclassified(&self, statement: &Statement, reason: Reason, said: &mut Said) {
        let concerned = self.concerned(statement);
        let mirrored: Vec<_> = concerned.iter().filter(|s| s.dual_write).collect();
        let refuses = mirrored.iter().find(|s| s.unclassified == Unclassified::Refuse);
        match (mirrored.first(), refuses) {
            (_, Some(setting)) => {
                let why = format!("{} has unclassified = \"refuse\"", setting.at());
                said.route("unclassified", "refused", &why);
                said.client("SQLSTATE 0A000; nothing is changed".to_owned());
            }
            (Some(setting), None) => {
                let why = format!("{} has unclassified = \"record\"", setting.at());
                said.route("unclassified", "source, behind a mark", &why);
                said.unchanged();
                said.note(
                    "in the same transaction it is recorded that any row may be stale: the \
                     source answers all reads until a full verify has passed"
                        .to_owned(),
                );
            }
            (None, None) => {
                let all: Vec<String> = concerned.iter().map(|s| s.at()).collect();
                let why = match all.is_empty() {
                    true => "there is no migration".to_owned(),
                    false => format!("not mirrored: {}", all.join(", ")),
                };
                said.route("unclassified", "source", &why);
                said.unchanged();
                said.note(
                    "while the migration runs: recorded and followed by a full verify, or refused \
                     with SQLSTATE 0A000, as `unclassified` says"
                        .to_owned(),
                );
            }
        }
        said.not_understood(reason);
    }

    fn write(&self, text: &str, write: &Write, said: &mut Said) {
        let of = |feed: &Feed| self.settings.get(feed.name.target);
        let off = self.fed(write.feeds().filter_map(of).collect(), said);
        if !off.is_empty() {
            said.note(
                "the form below is sent once dual write is on; then its functions are installed, \
                 too"
                .to_owned(),
            );
        }
        let modes = Modes::all(SyncMode::Sync);
        said.sql(pretty(write.mirrored(text, &self.targets, modes).text()));
    }

    /// Where a write goes that is fed to these; says which of them are not mirrored.
    fn fed(&self, mut feeds: Vec<&Setting>, said: &mut Said) -> String {
        feeds.sort_by(|a, b| a.name.cmp(&b.name));
        feeds.dedup_by(|a, b| a.name == b.name);
        let dual = |on: bool| {
            let of = feeds.iter().filter(|setting| setting.dual_write == on);
            of.map(|setting| setting.at()).collect::<Vec<_>>().join(", ")
        };
        let (on, off) = (dual(true), dual(false));
        let why = match (on.is_empty(), off.is_empty()) {
            (true, _) => format!("{off}: dual write is off"),
            (false, true) => format!("{on}: dual write is on"),
            (false, false) => format!("{on}: dual write is on; {off}: off"),
        };
        let route = if on.is_empty() { "source" } else { "source, mirrored to the shadow" };
        said.route("write", route, &why);
        off
    }

    async fn read(
        &self,
        client: &mut Client,
        (text, statement): (&str, &Statement),
        read: &Read,
        said: &mut Said,
    ) {
        let fit = match &read.fit {
            Ok(fit) => fit,
            Err(why) => {
                return said.route(
                    "read",
                    "source",
                    &format!("the shadow cannot answer it: {why}"),
                );
            }
        };
        let at = statement.at.clone();
        let Some(form) = fit.on_shadow(text, at.clone(), &self.targets, |_| 0) else {
            return said.route("read", "source", "the shadow has no form of it");
        };
        let targets = fit.targets().filter_map(|t| self.targets.get(t)).cloned().collect();
        let sql = text.get(at).unwrap_or_default();
        let vetted = match self.calls_unknown(sql) {
            Some(function) => Vetting::NotAsked(function),
            None => match proxy::vet_once(client, sql, form.text(), targets).await {
                Ok(()) => Vetting::Fit,
                Err(why) => Vetting::Unfit(why),
            },
        };
        let settings: Vec<&Setting> = fit.targets().filter_map(|t| self.settings.get(t)).collect();
        let least = settings.iter().min_by_key(|setting| setting.reads);
        let (Some(least), share) = (least, least.map_or(Percent::ZERO, |s| s.reads)) else {
            return;
        };
        let levers = format!("{}: reads is {share}", least.at());
        match &vetted {
            Vetting::Unfit(why) => {
                said.route("read", "source", &format!("the shadow's form is not as good: {why}"));
            }
            _ if share == Percent::ZERO => said.route("read", "source", &levers),
            _ if share == Percent::FULL => said.route("read", "shadow", &levers),
            _ => said.route("read", &format!("shadow for {share}, else source"), &levers),
        }
        said.vetted(vetted);
        if settings.iter().any(|setting| !setting.is_filled) {
            said.note(
                "the shadow is not filled yet: by then it may be reached in another way".to_owned(),
            );
        }
        if let Err(why) = fit.comparable {
            said.note(format!("never a dark read: {why}"));
        }
        said.sql(pretty(form.text()));
    }
}

/// The tag of a statement that writes somewhere, be it in WITH.
fn tag_of(sql: &str) -> &'static str {
    let all = tokens(sql).unwrap_or_default();
    let verb = main_verb(sql, &all).and_then(|verb| all.get(verb));
    match verb.and_then(|verb| identifier(sql, verb)).unwrap_or_default().as_str() {
        "insert" => "INSERT 0 n",
        "update" => "UPDATE n",
        "delete" => "DELETE n",
        "merge" => "MERGE n",
        "copy" => "COPY n",
        // CREATE TABLE … AS, too.
        _ => "SELECT n",
    }
}

impl Setting {
    /// The migration, and where it is.
    fn at(&self) -> String {
        format!("{} ({})", self.name, self.phase)
    }
}
