//! What becomes of one statement, by what is known of the migrations. Runs nothing.

use super::said::{Explained, Said};
use super::setting::Setting;
use crate::manifest::Unclassified;
use crate::sql::indirect;
use crate::sql::layout::pretty;
use crate::sql::lex::{identifier, tokens};
use crate::sql::mention::{Spelling, Table};
use crate::sql::prepare::Prepare;
use crate::sql::reason::Reason;
use crate::sql::statement::{
    Class, Defined, Effect, Keeps, Name, Place, Statement, main_verb, understand,
};
use crate::sql::target::{Functions, SyncMode, Target};
use crate::sql::truncate::{Extent, Reach, Truncate};
use crate::sql::write::{Feed, Modes, Write};
use std::sync::Arc;
use tokio_postgres::Client;

/// The declared migrations, as they are or as they were asked to be taken for.
pub(super) struct Known {
    pub(super) targets: Vec<Arc<Target>>,
    pub(super) settings: Vec<Setting>,
    pub(super) functions: Functions,
    /// Those whose source does not exist.
    pub(super) missing: Vec<String>,
}

/// What names without a schema mean at a place in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    /// What they mean now.
    AsNow,
    /// What nobody knows before it has run.
    Unknown,
}

impl Names {
    /// Behind a statement that does this.
    pub(super) fn behind(self, effect: Effect) -> Self {
        match effect {
            Effect::State
            | Effect::Discard
            | Effect::Renames
            | Effect::Anything
            | Effect::Defines(_, _, Keeps::Nothing) => Self::Unknown,
            _ => self,
        }
    }
}

/// A statement where it stands.
pub(super) struct At<'a> {
    pub(super) text: &'a str,
    pub(super) statement: &'a Statement,
    pub(super) place: Place,
    pub(super) names: Names,
}

impl At<'_> {
    /// Whether it may write a table without a schema that is another by then.
    fn may_write_another(&self) -> bool {
        let mut names = self.statement.names.iter();
        self.names == Names::Unknown
            && matches!(self.statement.class, Class::Write(_))
            && names.any(|name| name.spelling == Spelling::Unqualified)
    }
}

impl Known {
    pub(super) async fn explain(&self, client: &mut Client, at: &At<'_>) -> Explained {
        let At { text, statement, place, .. } = *at;
        let sql = text.get(statement.at.clone()).unwrap_or_default();
        let tables = self.tables(text, statement);
        let named = !tables.is_empty();
        let mut said = Said::new(sql, tables);
        self.missing.iter().for_each(|why| said.note(why.clone()));
        match &statement.class {
            Class::Passthrough | Class::Cascade => {
                self.passed(text, statement, &mut said);
                // Nothing else has looked at whether it is SQL at all.
                if named && let Err(error) = client.prepare(sql).await {
                    said.refused(&error);
                }
            }
            Class::Prepare(prepare) => self.prepared(text, prepare, &mut said),
            Class::Execute(_) => {
                let why = "EXECUTE is what it executes: explain that statement";
                said.route("prepared", "by the statement that the name stands for", why);
                said.unchanged();
            }
            Class::Deallocate(_) => {
                let why = "it drops prepared statements, and changes no table";
                said.route("passthrough", "as it is", why);
                said.unchanged();
            }
            Class::Ddl(targets) => self.ddl(targets, &mut said),
            Class::Truncate(truncate) => self.truncate(sql, truncate, &mut said),
            Class::Unclassified(why) => self.unclassified(statement, *why, &mut said),
            _ if at.may_write_another() => {
                self.unclassified(statement, Reason::NamesChanged, &mut said);
            }
            Class::CopyFrom(..) if place == Place::Among => {
                self.unclassified(statement, Reason::CopyAmong, &mut said);
            }
            Class::CopyFrom(names, _) => self.copied(names, &mut said),
            Class::Write(write) => {
                self.write(text, write, &mut said);
                said.describe(client, sql, tag_of(sql).to_owned()).await;
            }
            Class::Read(read) => {
                self.read(client, (text, statement, place), read, &mut said).await;
                said.describe(client, sql, "SELECT n".to_owned()).await;
            }
        }
        if named && statement.names.iter().any(|name| name.spelling == Spelling::Unqualified) {
            said.note(
                "names without a schema are taken for the migrated tables; in a session, \
                 search_path and temporary tables decide"
                    .to_owned(),
            );
        }
        said.done()
    }

    /// The migrated tables that a statement concerns.
    fn tables(&self, text: &str, statement: &Statement) -> Vec<String> {
        let mut within = indirect::with_names(text, statement);
        if let Class::Prepare(prepare) = &statement.class {
            let body = text.get(prepare.body.clone()).unwrap_or_default();
            let inner = understand(body, &self.targets, &self.functions);
            within =
                inner.statements.first().map(|s| indirect::with_names(body, s)).unwrap_or_default();
        }
        let table = |name: &Name| {
            let target = self.targets.get(name.target)?;
            let hides = name.spelling == Spelling::Unqualified
                && within.contains(target.source.name.as_str());
            match name.table {
                Table::Source if hides => None,
                Table::Source | Table::Through => Some(target.source.spelled()),
                Table::Shadow => Some(target.shadow.spelled()),
                Table::Part(oid) => {
                    let mut parts = target.parts.values().flatten();
                    Some(parts.find(|part| part.oid == oid)?.name.spelled())
                }
            }
        };
        let source = |index: &usize| Some(self.targets.get(*index)?.source.spelled());
        let mut tables: Vec<String> = statement.names.iter().filter_map(table).collect();
        tables.extend(match &statement.class {
            Class::Unclassified(_) if statement.names.is_empty() => {
                self.targets.iter().map(|target| target.source.spelled()).collect()
            }
            Class::Truncate(truncate) => {
                self.reached(truncate).filter_map(|i| source(&i)).collect()
            }
            Class::Passthrough => {
                self.through(text, statement).1.iter().filter_map(source).collect()
            }
            _ => Vec::new(),
        });
        tables.sort();
        tables.dedup();
        tables
    }

    /// The views that a statement reads the tables through, and these tables' targets.
    fn through(&self, text: &str, statement: &Statement) -> (Vec<String>, Vec<usize>) {
        let ways = &self.functions.ways;
        let views = indirect::views(text, statement, ways);
        let behind = |target: &Target| {
            let all = views.iter().filter_map(|view| ways.relations.get(view));
            all.flatten().any(|migration| *migration == target.migration)
        };
        let all = self.targets.iter().enumerate();
        let targets = all.filter(|(_, target)| behind(target)).map(|(index, _)| index).collect();
        (views, targets)
    }

    fn passed(&self, text: &str, statement: &Statement, said: &mut Said) {
        let (views, _) = self.through(text, statement);
        if !views.is_empty() {
            let why = format!(
                "it reads the table through {}: views are the source's",
                views.iter().map(|view| format!("\"{view}\"")).collect::<Vec<_>>().join(", ")
            );
            said.route("passthrough", "source", &why);
        } else if statement.names.is_empty() {
            let why = "it names no migrated table, and no view on one";
            said.route("passthrough", "as it is", why);
            let sql = text.get(statement.at.clone()).unwrap_or_default();
            if let Some(function) = self.calls_unknown(sql) {
                said.note(format!("whatever {function}() reads, it reads of the source"));
            }
        } else {
            let unmoved = "it changes no migrated table, and reads none that could be another";
            let why = indirect::reads(text, statement).unwrap_or(unmoved);
            said.route("passthrough", "source", why);
        }
        said.unchanged();
        if statement.class == Class::Cascade {
            said.note(
                "while the migration runs, it fails with SQLSTATE 55006 where a migrated table, or a \
                 column of one, depends on what it names"
                    .to_owned(),
            );
        }
        if matches!(statement.effect, Effect::Defines(Defined::Way, ..)) {
            said.note(
                "while the migration runs, it is recorded in the same transaction that any row may \
                 be stale: by what it defines the table may be written unseen"
                    .to_owned(),
            );
        }
    }

    /// PREPARE goes as it is; what EXECUTE sends follows from the statement in it.
    fn prepared(&self, text: &str, prepare: &Prepare, said: &mut Said) {
        let body = text.get(prepare.body.clone()).unwrap_or_default();
        let types = text.get(prepare.types.clone()).unwrap_or_default();
        let inner = understand(body, &self.targets, &self.functions);
        said.unchanged();
        let Some(statement) = inner.statements.first() else { return };
        let mut of = Said::new(body, Vec::new());
        match &statement.class {
            Class::Read(_) => of.route("read", "source", "it is read by EXECUTE"),
            Class::Write(write) => self.write(body, write, &mut of),
            Class::Truncate(truncate) => self.truncate(body, truncate, &mut of),
            Class::CopyFrom(names, _) => self.copied(names, &mut of),
            Class::Ddl(targets) => self.ddl(targets, &mut of),
            Class::Unclassified(why) => self.unclassified(statement, *why, &mut of),
            Class::Passthrough
            | Class::Cascade
            | Class::Prepare(_)
            | Class::Execute(_)
            | Class::Deallocate(_) => {
                self.passed(body, statement, &mut of);
            }
        }
        let name = crate::sql::ident::Ident::new(&*prepare.name).spelled();
        said.prepared((&name, types), of.done());
    }

    /// The settings of the migrations that a statement names; of all if it may concern any.
    fn concerned(&self, statement: &Statement) -> Vec<&Setting> {
        let named = |index: usize| statement.names.iter().any(|name| name.target == index);
        let all = self.settings.iter().enumerate();
        let concerned = all.filter(|(index, _)| statement.names.is_empty() || named(*index));
        concerned.map(|(_, setting)| setting).collect()
    }

    fn ddl(&self, changed: &[(usize, Table)], said: &mut Said) {
        let settings = || changed.iter().filter_map(|(target, _)| self.settings.get(*target));
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

    /// The targets that a TRUNCATE may reach.
    fn reached(&self, truncate: &Truncate) -> impl Iterator<Item = usize> {
        let cascades = truncate.reach == Reach::Cascade;
        (0..self.targets.len()).filter(move |index| cascades || truncate.named.contains(index))
    }

    fn truncate(&self, sql: &str, truncate: &Truncate, said: &mut Said) {
        let reached: Vec<_> = self
            .reached(truncate)
            .filter_map(|i| self.targets.get(i).zip(self.settings.get(i)))
            .collect();
        let (mirrored, others): (Vec<&(&Arc<Target>, &Setting)>, Vec<_>) =
            reached.iter().partition(|(_, s)| s.dual_write);
        let at = |all: &[&(&Arc<Target>, &Setting)]| {
            all.iter().map(|(_, setting)| setting.at()).collect::<Vec<_>>().join(", ")
        };
        if truncate.extent == Extent::Part {
            let concerned: Vec<_> = reached.iter().map(|(_, setting)| *setting).collect();
            Self::not_understood(&concerned, Reason::TruncatePart, said);
            if mirrored.iter().any(|(_, s)| s.unclassified == Unclassified::Refuse) {
                return;
            }
        } else {
            match mirrored.is_empty() {
                true => {
                    let why = format!("not mirrored: {}", at(&others));
                    said.route("truncate", "source", &why);
                }
                false => said.route("truncate", "source, then the shadow", &at(&mirrored)),
            }
            said.client("TRUNCATE TABLE".to_owned());
            said.note(
                "once dual write is on, the shadow is emptied behind it, in the same transaction; \
                 where only a part of the source is empty then, the migration is marked for a full \
                 verify"
                    .to_owned(),
            );
        }
        let functions = mirrored.iter().filter_map(|(target, _)| target.truncate_function.as_ref());
        let calls: Vec<_> =
            functions.map(|name| format!("{name}({})", SyncMode::Sync.as_sql())).collect();
        if !calls.is_empty() {
            said.sql(format!("BEGIN;\n{sql};\nSELECT {};\nCOMMIT", calls.join(", ")));
        }
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
        Self::not_understood(&self.concerned(statement), reason, said);
    }

    fn not_understood(concerned: &[&Setting], reason: Reason, said: &mut Said) {
        let mirrored: Vec<_> = concerned.iter().copied().filter(|s| s.dual_write).collect();
        let refuse: Vec<_> =
            mirrored.iter().copied().filter(|s| s.unclassified == Unclassified::Refuse).collect();
        if !refuse.is_empty() {
            return Self::refused(&refuse, reason, said);
        }
        if mirrored.is_empty() {
            let why = match concerned.is_empty() {
                true => "there is no migration".to_owned(),
                false => format!("not mirrored: {}", all_at(concerned)),
            };
            said.route("unclassified", "source", &why);
            said.unchanged();
            said.note(
                "while the migration runs: recorded and followed by a full verify, or refused \
                 with SQLSTATE 0A000, as `unclassified` says"
                    .to_owned(),
            );
        } else {
            let why = format!("{} unclassified = \"record\"", have(&mirrored));
            // What a TRUNCATE has left is looked at behind it.
            let (route, unless) = match reason {
                Reason::TruncatePart => {
                    ("source, then a mark", ", unless the whole source is empty behind it")
                }
                _ => ("source, behind a mark", ""),
            };
            said.route("unclassified", route, &why);
            said.unchanged();
            said.note(format!(
                "in the same transaction it is recorded that any row may be stale{unless}: the \
                 source answers all reads until a full verify has passed"
            ));
        }
        said.not_understood(reason);
    }

    fn refused(by: &[&Setting], reason: Reason, said: &mut Said) {
        let why = format!("{} unclassified = \"refuse\"", have(by));
        said.route("unclassified", "refused", &why);
        said.client("SQLSTATE 0A000; nothing is changed".to_owned());
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
}

fn all_at(settings: &[&Setting]) -> String {
    settings.iter().map(|setting| setting.at()).collect::<Vec<_>>().join(", ")
}

/// The migrations, and the verb that goes with so many.
fn have(settings: &[&Setting]) -> String {
    let verb = if settings.len() == 1 { "has" } else { "have" };
    format!("{} {verb}", all_at(settings))
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
