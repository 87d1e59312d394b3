//! One statement, judged.

use crate::ast::{self, Facts, TableName, items, kind, node, table_name};
use crate::corpus::File;
use crate::hidden;
use crate::kept::{self, Borne, VOLATILE};
use crate::read;
use crate::report::{Report, Verdict};
use crate::tables::{Catalog, PUBLIC};
use pgsegue::sql::copy::CopyFrom;
use pgsegue::sql::prefilter::{Prefilter, Verdict as Looked};
use pgsegue::sql::read::Read;
use pgsegue::sql::statement::{Class, Name, Statement, understand};
use pgsegue::sql::target::{Functions, SyncMode, Target};
use pgsegue::sql::truncate::{Extent, Reach, Truncate};
use pgsegue::sql::ways::Ways;
use pgsegue::sql::write::{Modes, Write};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

/// Trees are as deep as the suite's deepest statement.
const STACK_BYTES: usize = 512 << 20;

/// One statement, and the migrations that it is judged with.
struct Case<'a> {
    kind: &'static str,
    file: &'a str,
    sql: &'a str,
    tree: Value,
    facts: Facts,
    /// Of every table that it names.
    targets: Vec<Arc<Target>>,
    /// Of one of them alone, or of a name that it gives to something else.
    apart: Vec<Arc<Target>>,
}

/// Judges all statements of the files, as said to servers of these major versions.
pub fn all<const N: usize>(files: &[File], versions: [u32; N]) -> [Report; N] {
    let work = || {
        let cases = cases(files);
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let parts = cases.chunks(cases.len().div_ceil(threads).max(1));
        let reports = Mutex::new(versions.map(|_| Report::default()));
        std::thread::scope(|scope| {
            for part in parts {
                let reports = &reports;
                let judge = move || {
                    for case in part {
                        let verdicts = case.judge(versions);
                        for (report, verdict) in reports.lock().unwrap().iter_mut().zip(verdicts) {
                            report.add(case.kind, case.file, case.sql, verdict);
                        }
                    }
                };
                let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
                drop(thread.spawn_scoped(scope, judge).unwrap());
            }
        });
        reports.into_inner().unwrap()
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
        thread.spawn_scoped(scope, work).unwrap().join().unwrap()
    })
}

fn cases(files: &[File]) -> Vec<Case<'_>> {
    let mut catalog = Catalog::default();
    let mut cases = Vec::new();
    for file in files {
        for sql in &file.statements {
            let Ok(tree) = ast::statement(sql) else { continue };
            catalog.learn(&tree);
            let Some(kind) = kind_of(&tree) else { continue };
            let facts = ast::facts(&tree);
            let targets = targets_of(facts.reads.iter().chain(&facts.writes), &catalog);
            let mut apart = if targets.len() > 1 { targets.clone() } else { Vec::new() };
            apart.extend(namesakes(&tree, &facts, &catalog));
            cases.push(Case { kind, file: &file.name, sql, tree, facts, targets, apart });
        }
    }
    cases
}

/// Of the names of columns so many are tried.
const COLUMNS_TRIED: usize = 2;

/// Migrations of tables whose names the statement gives to something else.
fn namesakes(tree: &Value, facts: &Facts, catalog: &Catalog) -> Vec<Arc<Target>> {
    let (mut aliases, mut columns) = (BTreeSet::new(), BTreeSet::new());
    ast::each_node(tree, &mut |kind, fields| {
        for field in ["aliasname", "ctename", "name"] {
            aliases.insert(ast::string(fields, field));
        }
        if kind == "ColumnRef" {
            let parts = items(&fields["fields"]).iter().filter_map(|p| node(p, "String"));
            columns.extend(parts.map(|p| ast::string(p, "sval")));
        }
    });
    aliases.extend(columns.into_iter().take(COLUMNS_TRIED));
    let names = aliases.into_iter().map(|name| (String::new(), name.to_owned()));
    let is_other = |name: &TableName| {
        !name.1.is_empty() && !facts.reads.contains(name) && !facts.writes.contains(name)
    };
    targets_of(&names.filter(is_other).collect::<Vec<_>>(), catalog)
}

impl Case<'_> {
    fn judge<const N: usize>(&self, versions: [u32; N]) -> [Verdict; N] {
        let first = self.judge_for(versions[0]);
        versions.map(|version| match self.facts.writes.is_empty() || version == versions[0] {
            true => first.clone(),
            false => self.judge_for(version),
        })
    }

    fn judge_for(&self, version: u32) -> Verdict {
        let on_server = |target: &Arc<Target>| {
            Arc::new(Target { server_version: version, ..Target::clone(target) })
        };
        for target in &self.apart {
            let alone = [on_server(target)];
            if let Verdict::Wrong(why) = judge(self.sql, &self.tree, &self.facts, &alone) {
                return Verdict::Wrong(format!("with {} alone: {why}", target.source));
            }
        }
        let targets = self.targets.iter().map(on_server).collect::<Vec<_>>();
        let looked = Prefilter::new(&targets, &Ways::default()).look(self.sql.as_bytes());
        if !targets.is_empty() && looked == Looked::Plain {
            return Verdict::Wrong("not looked at".to_owned());
        }
        judge(self.sql, &self.tree, &self.facts, &targets)
    }
}

fn kind_of(tree: &Value) -> Option<&'static str> {
    Some(match kind(tree) {
        ("SelectStmt", fields) if !items(&fields["values_lists"]).is_empty() => "VALUES",
        ("SelectStmt", _) => "SELECT",
        ("InsertStmt", _) => "INSERT",
        ("UpdateStmt", _) => "UPDATE",
        ("DeleteStmt", _) => "DELETE",
        ("MergeStmt", _) => "MERGE",
        ("CopyStmt", _) => "COPY",
        ("TruncateStmt", _) => "TRUNCATE",
        _ => return None,
    })
}

/// What is made of a statement if these tables are the migrated ones.
fn judge(sql: &str, tree: &Value, facts: &Facts, targets: &[Arc<Target>]) -> Verdict {
    let stable = facts.functions.iter().filter(|f| !VOLATILE.contains(&f.as_str())).cloned();
    let functions = Functions { non_volatile: stable.collect(), ..Functions::default() };
    let writes = |t: &Arc<Target>| facts.writes.iter().any(|name| is_name_of(name, t));
    let written = targets.iter().filter(|t| writes(t)).count();
    let statements = understand(sql, targets, &functions).statements;
    let [statement] = statements.as_slice() else {
        return Verdict::Wrong(format!("{} statements", statements.len()));
    };
    let understood = |what: &str| Verdict::Understood(what.to_owned());
    match &statement.class {
        Class::Unclassified(why) => Verdict::NotUnderstood(why.text().to_owned()),
        Class::Ddl(_) | Class::Cascade => Verdict::Wrong("a change of definition".to_owned()),
        Class::Prepare(_) | Class::Execute(_) | Class::Deallocate(_) => {
            Verdict::Wrong("a statement by its name".to_owned())
        }
        Class::Passthrough if targets.is_empty() => understood("no table"),
        Class::Passthrough if written == 0 => understood("no write"),
        Class::Passthrough if is_refused_copy(tree) => understood("refused by the server"),
        Class::Passthrough => Verdict::Wrong("a write that passes".to_owned()),
        Class::Read(_) if !facts.writes.is_empty() => Verdict::Wrong("a write as read".to_owned()),
        Class::Read(read) => judge_read(sql, tree, statement, read, targets),
        Class::CopyFrom(names, copy) => judge_copy(tree, names, copy, targets),
        Class::Truncate(truncate) => judge_truncate(tree, truncate, targets),
        Class::Write(write) => judge_write(sql, tree, facts, write, targets),
    }
}

/// A COPY of a write without RETURNING, of which the server runs nothing.
fn is_refused_copy(tree: &Value) -> bool {
    let ("CopyStmt", fields) = kind(tree) else { return false };
    let (verb, query) = kind(&fields["query"]["node"]);
    let writes = ["InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"];
    writes.contains(&verb) && items(&query["returning_clause"]["exprs"]).is_empty()
}

fn is_name_of((schema, name): &TableName, target: &Target) -> bool {
    let schema = if schema.is_empty() { PUBLIC } else { schema };
    target.source.schema.as_str() == schema && target.source.name.as_str() == name
}

/// One migration for each of the tables.
fn targets_of<'n>(
    names: impl IntoIterator<Item = &'n TableName>,
    catalog: &Catalog,
) -> Vec<Arc<Target>> {
    let mut targets: Vec<Arc<Target>> = Vec::new();
    for name in names {
        let target = catalog.target(name);
        if !targets.iter().any(|t| t.source == target.source) {
            targets.push(target);
        }
    }
    targets
}

fn judge_read(
    sql: &str,
    tree: &Value,
    statement: &Statement,
    read: &Read,
    targets: &[Arc<Target>],
) -> Verdict {
    let fit = match &read.fit {
        Err(why) if is_unread(why) => return Verdict::NotUnderstood(unread(why)),
        Err(why) => return judge_kept(why, sql, tree, targets),
        Ok(fit) => fit,
    };
    if let Some(why) = kept::all(tree, targets).keys().next() {
        return Verdict::Wrong(format!("fit, but: {why}"));
    }
    let Some(form) = fit.on_shadow(sql, statement.at.clone(), targets, |_| 0) else {
        return Verdict::Wrong("fit, but has no form".to_owned());
    };
    let compared = (|| {
        let mut actual = ast::statement(form.text())?;
        let twins = read::without_twins(&mut actual, &Value::Null)?;
        let expected = read::expected(tree, targets)?;
        if !hidden::is_same(&actual, &expected) {
            return Err(format!("the shadow form is another: {}", form.text()));
        }
        Ok::<_, String>(twins)
    })();
    match compared {
        Ok(0) => Verdict::Understood("fit".to_owned()),
        Ok(_) => Verdict::Understood("fit, with conditions repeated".to_owned()),
        Err(why) => Verdict::Wrong(why),
    }
}

/// A read for which only the source is asked: for a reason that it has.
fn judge_kept(why: &str, sql: &str, tree: &Value, targets: &[Arc<Target>]) -> Verdict {
    match kept::borne(why, sql, tree, targets) {
        Borne::Out => Verdict::Understood(format!("stays on the source: {why}")),
        Borne::OfAnother => {
            Verdict::Understood(format!("stays on the source, perhaps of no need: {why}"))
        }
        Borne::Unknown => Verdict::Understood(format!("stays on the source, unchecked: {why}")),
        Borne::No => Verdict::Wrong(format!("stays on the source for {why}, which it has not")),
    }
}

fn is_unread(why: &str) -> bool {
    why.contains("not understood") || why.contains("cannot be placed") || why.starts_with("not ")
}

fn unread(why: &str) -> String {
    why.split(" at Line").next().unwrap_or(why).to_owned()
}

fn judge_write(
    sql: &str,
    tree: &Value,
    facts: &Facts,
    write: &Write,
    targets: &[Arc<Target>],
) -> Verdict {
    let written = |t: &&Arc<Target>| facts.writes.iter().any(|name| is_name_of(name, t));
    let wanted: BTreeSet<_> = targets.iter().filter(written).map(|t| &t.migration).collect();
    let fed = write.feeds().filter_map(|feed| targets.get(feed.name.target));
    let fed: BTreeSet<_> = fed.map(|t| &t.migration).collect();
    if fed != wanted {
        return Verdict::Wrong(format!("it feeds {fed:?}, not {wanted:?}"));
    }
    let form = write.mirrored(sql, targets, Modes::all(SyncMode::Sync));
    let compared = ast::statement(form.text())
        .and_then(|actual| crate::write::compare(tree, &actual, targets));
    match compared {
        Ok(()) => Verdict::Understood("mirrored".to_owned()),
        Err(why) => Verdict::Wrong(format!("{why}: {}", form.text())),
    }
}

fn judge_copy(tree: &Value, names: &[Name], copy: &CopyFrom, targets: &[Arc<Target>]) -> Verdict {
    let ("CopyStmt", fields) = kind(tree) else {
        return Verdict::Wrong("a COPY of something else".to_owned());
    };
    let table = table_name(&fields["relation"]["RangeVar"]);
    let table = if table.1.is_empty() { table_name(&fields["relation"]) } else { table };
    let said = |name: &Name| targets.get(name.target).is_some_and(|t| is_name_of(&table, t));
    let listed: Vec<_> = items(&fields["attlist"])
        .iter()
        .filter_map(|column| node(column, "String")?["sval"].as_str())
        .collect();
    let columns = copy.columns().unwrap_or_default();
    if fields["is_from"].as_bool() != Some(true) || fields["is_program"].as_bool() == Some(true) {
        Verdict::Wrong("a COPY that is not from the client".to_owned())
    } else if fields["filename"].as_str().is_some_and(|name| !name.is_empty()) {
        Verdict::Wrong("a COPY from a file".to_owned())
    } else if !names.iter().all(said) {
        Verdict::Wrong(format!("a COPY of {names:?}"))
    } else if !columns.iter().eq(listed.iter()) {
        Verdict::Wrong(format!("a COPY of {columns:?}, not {listed:?}"))
    } else {
        Verdict::Understood("read along".to_owned())
    }
}

fn judge_truncate(tree: &Value, truncate: &Truncate, targets: &[Arc<Target>]) -> Verdict {
    const CASCADE: i64 = pg_query::protobuf::DropBehavior::DropCascade as i64;
    let ("TruncateStmt", fields) = kind(tree) else {
        return Verdict::Wrong("a TRUNCATE of something else".to_owned());
    };
    let tables = items(&fields["relations"]).iter().filter_map(|r| node(r, "RangeVar"));
    let emptied: Vec<_> =
        tables.filter_map(|t| Some((read::target_of(t, targets)?, &t["inh"]))).collect();
    let named: BTreeSet<_> = emptied.iter().map(|(target, _)| &target.migration).collect();
    let said = truncate.named.iter().filter_map(|n| targets.get(*n));
    let said: BTreeSet<_> = said.map(|t| &t.migration).collect();
    let part = emptied.iter().any(|(_, inherited)| inherited.as_bool() != Some(true));
    let cascades = fields["behavior"].as_i64() == Some(CASCADE);
    if named != said {
        Verdict::Wrong(format!("a TRUNCATE of {said:?}, not {named:?}"))
    } else if part != (truncate.extent == Extent::Part) {
        Verdict::Wrong("a TRUNCATE of another extent".to_owned())
    } else if cascades != (truncate.reach == Reach::Cascade) {
        Verdict::Wrong("a TRUNCATE of another reach".to_owned())
    } else {
        Verdict::Understood("found out behind it".to_owned())
    }
}
