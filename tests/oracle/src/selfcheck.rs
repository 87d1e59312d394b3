//! An oracle that finds nothing wrong says nothing: forms that are, and must be found.

use crate::ast::statement;
use crate::tables::Catalog;
use crate::{hidden, read, write};
use pgsegue::sql::statement::{Class, understand};
use pgsegue::sql::target::{Functions, SyncMode, Target};
use pgsegue::sql::write::Modes;
use serde_json::Value;
use std::sync::Arc;

/// A statement, and what is changed in its right form.
const WRITES: [(&str, &str, &str); 9] = [
    ("DELETE FROM t WHERE a > 1", "a > 1", "a > 2"),
    ("DELETE FROM t WHERE a > 1 RETURNING b", ",  b)", ")"),
    ("DELETE FROM t WHERE a > 1", "\"t\".\"id\" AS", "\"t\".\"f1\" AS"),
    ("DELETE FROM t WHERE a > 1", "\"sync_public t\"", "\"sync_public u\""),
    ("DELETE FROM t WHERE a > 1", "FROM \"pgsegue w\"", "FROM \"pgsegue w\", z"),
    ("INSERT INTO t VALUES (1)", "VALUES (1)", "VALUES (2)"),
    ("INSERT INTO t VALUES (1)", "\"t\".\"id\", 0", "\"t\".\"f1\", 0"),
    ("UPDATE t SET id = 2 WHERE a = 1", "WHERE a = 1 FOR", "WHERE a = 2 FOR"),
    ("WITH w AS (DELETE FROM t RETURNING a) SELECT * FROM w", "\"sink\"", "\"other\""),
];
const READS: [(&str, &str, &str); 5] = [
    ("SELECT * FROM t WHERE b = 1", "b = 1", "b = 2"),
    ("SELECT * FROM t x WHERE b = 1", " x ", " y "),
    ("SELECT * FROM t WHERE id = 1", "\"id v2\" = 1", "\"id v2\" = 2"),
    ("SELECT * FROM t", "AS \"f1\"", "AS \"f2\""),
    ("SELECT * FROM t", "\"t v2\"", "\"u v2\""),
];

/// # Panics
/// When something wrong is not found, or something right is.
pub fn run() {
    for (sql, from, to) in WRITES {
        let (targets, Class::Write(write)) = understood(sql) else { panic!("{sql}: not a write") };
        let form = write.mirrored(sql, &targets, Modes::all(SyncMode::Sync)).text().to_owned();
        let original = statement(sql).unwrap();
        judged(sql, &form, (from, to), &|form| write::compare(&original, form, &targets));
    }
    for (sql, from, to) in READS {
        let (targets, Class::Read(read)) = understood(sql) else { panic!("{sql}: not a read") };
        let fit = read.fit.unwrap();
        let form = fit.on_shadow(sql, 0..sql.len(), &targets, |_| 0).unwrap().text().to_owned();
        let original = statement(sql).unwrap();
        judged(sql, &form, (from, to), &|form| {
            let mut form = form.clone();
            read::without_twins(&mut form, &Value::Null)?;
            let same = hidden::is_same(&form, &read::expected(&original, &targets)?);
            same.then_some(()).ok_or_else(|| "another tree".to_owned())
        });
    }
}

fn understood(sql: &str) -> (Vec<Arc<Target>>, Class) {
    let targets = vec![Catalog::default().target(&(String::new(), "t".to_owned()))];
    let mut statements = understand(sql, &targets, &Functions::default()).statements;
    (targets, statements.remove(0).class)
}

fn judged(
    sql: &str,
    form: &str,
    (from, to): (&str, &str),
    judge: &dyn Fn(&Value) -> Result<(), String>,
) {
    judge(&statement(form).unwrap()).unwrap_or_else(|why| panic!("{sql}: {why}: {form}"));
    let wrong = form.replace(from, to);
    assert_ne!(wrong, form, "{sql}: there is no {from}");
    assert!(judge(&statement(&wrong).unwrap()).is_err(), "{sql} is taken for {wrong}");
}
