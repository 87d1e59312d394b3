//! One statement, judged.

use crate::ast::{self, Facts, TableName, items, kind};
use crate::corpus::File;
use crate::read;
use crate::report::{Report, Verdict};
use crate::tables::{Catalog, PUBLIC};
use pgsegue::sql::read::Read;
use pgsegue::sql::statement::{Class, Statement, understand};
use pgsegue::sql::target::{Functions, Target};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Functions of the suite's statements that are volatile; the others count as stable here, so that
/// what calls them has a shadow form to judge.
const VOLATILE: [&str; 6] =
    ["random", "nextval", "setval", "pg_sleep", "clock_timestamp", "lo_create"];

pub fn all(files: &[File]) -> Report {
    let mut report = Report::default();
    let mut catalog = Catalog::default();
    for file in files {
        for sql in &file.statements {
            let Ok(tree) = ast::statement(sql) else { continue };
            catalog.learn(&tree);
            if let Some(kind) = kind_of(&tree) {
                let verdict = judge(sql, &tree, &catalog);
                report.add(kind, &file.name, sql, verdict);
            }
        }
    }
    report
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

fn judge(sql: &str, tree: &Value, catalog: &Catalog) -> Verdict {
    let facts = ast::facts(tree);
    let names: BTreeSet<&TableName> = facts.reads.iter().chain(&facts.writes).collect();
    let mut targets: Vec<Arc<Target>> = Vec::new();
    for name in names {
        let target = catalog.target(name);
        if !targets.iter().any(|t| t.source == target.source) {
            targets.push(target);
        }
    }
    let stable = facts.functions.iter().filter(|f| !VOLATILE.contains(&f.as_str())).cloned();
    let functions = Functions { non_volatile: stable.collect(), ..Functions::default() };
    let statements = understand(sql, &targets, &functions).statements;
    let [statement] = statements.as_slice() else {
        return Verdict::Wrong(format!("{} statements", statements.len()));
    };
    match &statement.class {
        Class::Unclassified(why) => Verdict::NotUnderstood(why.text().to_owned()),
        Class::Ddl(_) => Verdict::Wrong("a change of definition".to_owned()),
        Class::Passthrough if targets.is_empty() => Verdict::Understood("no table".to_owned()),
        Class::Passthrough if facts.writes.is_empty() => Verdict::Understood("no write".to_owned()),
        Class::Passthrough => Verdict::Wrong("a write that passes".to_owned()),
        Class::Read(_) if !facts.writes.is_empty() => Verdict::Wrong("a write as read".to_owned()),
        Class::Read(read) => judge_read(sql, tree, statement, read, &targets),
        Class::Write(target, _) => judge_write(&facts, &targets, *target),
    }
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
        Err(why) => return Verdict::Understood(format!("stays on the source: {why}")),
        Ok(fit) => fit,
    };
    if let Some(why) = read::unfit(tree, &VOLATILE) {
        return Verdict::Wrong(format!("fit, but has {why}"));
    }
    let Some(form) = fit.on_shadow(sql, statement.at.clone(), targets, |_| 0) else {
        return Verdict::Wrong("fit, but has no form".to_owned());
    };
    let compared = (|| {
        let mut actual = ast::statement(form.text())?;
        let twins = read::without_twins(&mut actual, &Value::Null)?;
        let expected = read::expected(tree, targets)?;
        if actual != expected {
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

fn is_unread(why: &str) -> bool {
    why.contains("not understood") || why.contains("cannot be placed") || why.starts_with("not ")
}

fn unread(why: &str) -> String {
    why.split(" at Line").next().unwrap_or(why).to_owned()
}

fn judge_write(facts: &Facts, targets: &[Arc<Target>], target: usize) -> Verdict {
    let Some(target) = targets.get(target) else { return Verdict::Wrong("no target".to_owned()) };
    let written = facts.writes.iter().any(|(schema, name)| {
        let schema = if schema.is_empty() { PUBLIC } else { schema };
        target.source.schema.as_str() == schema && target.source.name.as_str() == name
    });
    match (written, facts.writes.len()) {
        (true, 1) => Verdict::Understood("mirrored".to_owned()),
        (false, _) => Verdict::Wrong("a write of another table".to_owned()),
        (true, _) => Verdict::Wrong("a write of several tables as one".to_owned()),
    }
}
