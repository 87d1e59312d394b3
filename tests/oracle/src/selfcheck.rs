//! An oracle that finds nothing wrong says nothing: forms that are, and must be found.

use crate::ast::statement;
use crate::kept::{self, Borne};
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

/// A reason for which a read is kept, a statement that has it, and one that has not.
const REASONS: [(&str, &str, &str); 19] = [
    (kept::SYSTEM_COLUMN, "SELECT ctid FROM t", "SELECT 'ctid' AS ctid FROM t"),
    (kept::SYSTEM_COLUMN, "SELECT x.tableoid FROM t x", "SELECT x.oid FROM t x"),
    (kept::WHOLE_ROW, "SELECT t FROM t", "SELECT t.* FROM t"),
    (kept::WHOLE_ROW, "SELECT x FROM t x", "SELECT f1 FROM t f1"),
    (kept::WHOLE_ROW, "SELECT count(t.*) FROM t", "SELECT count(*) FROM t"),
    (kept::WHOLE_ROW, "SELECT (SELECT x) FROM t x", "SELECT x FROM (SELECT 1 FROM t x) y"),
    (kept::RENAMES, "SELECT a FROM t x(a)", "SELECT a FROM t x, (SELECT 1) y(a)"),
    (kept::ONLY, "SELECT * FROM ONLY t", "SELECT * FROM t FETCH FIRST ROW ONLY"),
    (kept::LOCKS, "SELECT * FROM t FOR UPDATE", "SELECT substring(f1 FOR 2) FROM t"),
    (kept::SAMPLE, "SELECT * FROM t TABLESAMPLE system (1)", "SELECT f1 AS tablesample FROM t"),
    (kept::INTO, "SELECT * INTO x FROM t", "SELECT f1 AS \"into\" FROM t"),
    (kept::XML_SYNTAX, "SELECT xmlforest(f1) FROM t", "SELECT xmlcomment(f1) FROM t"),
    (kept::JSON_SYNTAX, "SELECT json_scalar(f1) FROM t", "SELECT json_typeof(f1) FROM t"),
    (kept::NAMED_JOIN, "SELECT 1 FROM (t JOIN x ON true) y", "SELECT 1 FROM t JOIN x y ON true"),
    (
        kept::NESTED_SETS,
        "SELECT 1 FROM t GROUP BY GROUPING SETS (id, GROUPING SETS (f1))",
        "SELECT 1 FROM t GROUP BY GROUPING SETS (id, rollup (f1))",
    ),
    (
        kept::WITH_NAME,
        "WITH t AS (SELECT 1) SELECT * FROM t",
        "WITH x AS (SELECT 1) SELECT 2 FROM t",
    ),
    (kept::STAR, "SELECT 1 FROM t /**/ *", "SELECT 2 FROM t WHERE id * id = 1"),
    (kept::UNICODE, "SELECT U&\"id\" FROM t", "SELECT 'U&\"id\"' FROM t"),
    (
        "it calls random(), which may be volatile",
        "SELECT random() FROM t",
        "SELECT 'random()', id AS random FROM t",
    ),
];
/// What has the reason, but not of a migrated table.
const OF_ANOTHER: [(&str, &str); 4] = [
    (kept::SYSTEM_COLUMN, "SELECT x.ctid FROM t, x"),
    (kept::WHOLE_ROW, "SELECT count(x.*) FROM (SELECT id FROM t) x"),
    (kept::WHOLE_ROW, "SELECT ROW(t.*) FROM t"),
    (kept::ONLY, "SELECT 1 FROM t, ONLY x"),
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
    reasons();
}

/// That pgsegue keeps a read for a reason that is borne out, and that a false one is not.
fn reasons() {
    let borne =
        |why: &str, sql: &str| kept::borne(why, sql, &statement(sql).unwrap(), &understood(sql).0);
    let why_kept = |sql: &str| match understood(sql).1 {
        Class::Read(read) => read.fit.err(),
        _ => panic!("{sql}: not a read"),
    };
    for (why, has, has_not) in REASONS {
        assert_eq!(why_kept(has).as_deref(), Some(why), "{has}");
        assert_eq!(borne(why, has), Borne::Out, "{has}: {why}");
        assert_eq!(borne(why, has_not), Borne::No, "{has_not} is taken to have {why}");
    }
    for (why, sql) in OF_ANOTHER {
        assert_eq!(why_kept(sql).as_deref(), Some(why), "{sql}");
        assert_eq!(borne(why, sql), Borne::OfAnother, "{sql}: {why}");
    }
    let made_up = "a reason that nobody knows";
    assert_eq!(borne(made_up, "SELECT * FROM t"), Borne::No, "{made_up}");
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
