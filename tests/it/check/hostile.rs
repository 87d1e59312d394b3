//! Names of every kind in every place: the remedies are quoted right, run, and remove what they are
//! for.

use super::{found, ids, remedy};
use crate::engine_support::*;
use pgsegue::manifest::Migration;
use pgsegue::sql::ident::{Ident, QualifiedName};

/// One for each way to break out of a statement, a format string, a pattern, a line.
const NAMES: [&str; 12] = [
    "with \"quotes\"",
    "it's",
    "a.b",
    " spaced  out ",
    "100%s %1$I %",
    "back\\slash",
    "größe日本",
    "$$x$1",
    "semi; DROP TABLE orders --",
    "/* comment",
    "Select",
    "new\nline\ttab",
];

fn quoted(name: &str) -> String {
    Ident::new(name).quoted()
}

/// The tables of `orders`, all of whose names are this one.
fn hostile(base: &Migration, name: &str) -> Migration {
    let qualified =
        |table: String| QualifiedName { schema: Ident::new(name), name: Ident::new(table) };
    let column = |of: &str| Ident::new(format!("{of}{name}"));
    Migration {
        source: qualified(name.to_owned()),
        shadow: qualified(format!("{name} v2")),
        key: vec![column("k")],
        columns: vec![
            (column("k"), format!("{}::bigint", quoted(&format!("k{name}")))),
            (column("n"), format!("upper({})", quoted(&format!("n{name}")))),
        ],
        reverse: vec![(column("n"), column("n").quoted())],
        ..base.clone()
    }
}

fn tables(name: &str) -> String {
    let (table, shadow) = (quoted(name), quoted(&format!("{name} v2")));
    let (k, n) = (quoted(&format!("k{name}")), quoted(&format!("n{name}")));
    format!(
        "CREATE SCHEMA {table}; CREATE TABLE {table}.{table} ({k} int PRIMARY KEY, {n} text); \
         CREATE TABLE {table}.{shadow} ({k} int8 PRIMARY KEY, {n} text); \
         INSERT INTO {table}.{table} SELECT i, 'X' || i FROM generate_series(1, 20) i"
    )
}

#[tokio::test]
async fn clean_tables_of_any_name_have_no_finding() {
    for name in NAMES {
        let db = database().await;
        let migration = hostile(&migration(&[]), name);
        db.client.batch_execute(&tables(name)).await.unwrap();
        assert_eq!(found(&db, &migration).await, [], "{name}");
    }
}

#[tokio::test]
async fn remedies_name_objects_of_any_name() {
    for (number, name) in NAMES.into_iter().enumerate() {
        let db = database().await;
        let migration = hostile(&migration(&[]), name);
        db.client.batch_execute(&tables(name)).await.unwrap();
        let (table, shadow) = (quoted(name), quoted(&format!("{name} v2")));
        let (k, n) = (quoted(&format!("k{name}")), quoted(&format!("n{name}")));
        let view = quoted(&format!("v{name}"));
        let role = quoted(&format!("{name}{}{number}", db.name().await));
        let hazards = format!(
            "CREATE ROLE {role}; GRANT USAGE ON SCHEMA {table} TO {role}; \
             GRANT UPDATE ON {table}.{table} TO {role}; \
             ALTER TABLE {table}.{shadow} ALTER {n} SET NOT NULL; \
             UPDATE {table}.{table} SET {n} = NULL WHERE {k} = 3; \
             ALTER TABLE {table}.{shadow} ADD {table} int NOT NULL; \
             ALTER TABLE {table}.{shadow} ADD CONSTRAINT {table} CHECK ({k} < 20); \
             CREATE UNIQUE INDEX {n} ON {table}.{shadow} (({k} / 10)); \
             CREATE TABLE {table}.{k} ({n} int8 REFERENCES {table}.{shadow} ON DELETE CASCADE); \
             CREATE RULE {table} AS ON DELETE TO {table}.{table} DO INSTEAD NOTHING; \
             CREATE FUNCTION {table}.{n}() RETURNS trigger LANGUAGE plpgsql AS \
                 'BEGIN EXECUTE ''x''; RETURN NULL; END'; \
             CREATE TRIGGER {table} AFTER UPDATE ON {table}.{table} FOR EACH ROW EXECUTE FUNCTION {table}.{n}(); \
             CREATE TRIGGER {table} AFTER UPDATE ON {table}.{shadow} FOR EACH ROW EXECUTE FUNCTION {table}.{n}(); \
             CREATE FUNCTION {table}.{k}() RETURNS void LANGUAGE sql AS \
                 $hostile$DELETE FROM {table}.{table}$hostile$; \
             CREATE VIEW {table}.{view} AS TABLE {table}.{table}; \
             CREATE TABLE {table}.\"child {number}\" () INHERITS ({table}.{table})"
        );
        db.client.batch_execute(&hazards).await.unwrap_or_else(|e| panic!("{hazards}: {e:?}"));
        let findings = found(&db, &migration).await;
        let mut kinds: Vec<&str> = findings.iter().map(|finding| finding.kind.word()).collect();
        kinds.sort_unstable();
        let expected = [
            "child",
            "column",
            "foreign key",
            "function",
            "privileges",
            "reads",
            "rows",
            "rows",
            "rows",
            "rule",
            "trigger",
            "trigger",
            "view",
        ];
        assert_eq!(kinds, expected, "{name}: {findings:?}");
        remedy(&db, &findings).await;
        let left = found(&db, &migration).await;
        let mut kinds: Vec<&str> = left.iter().map(|finding| finding.kind.word()).collect();
        kinds.sort_unstable();
        let expected = ["extra column", "function", "reads", "view"];
        assert_eq!(kinds, expected, "{name}: {left:?}");
        // What is left is accepted by the line that it gives.
        let mut migration = migration;
        for finding in found(&db, &migration.clone()).await {
            if let Some(line) = &finding.config {
                let table: toml::Table = line.parse().unwrap();
                let id = table["accepted"][0].as_str().unwrap().to_owned();
                assert_eq!(id, finding.id);
                migration.accepted.push(id);
            }
        }
        let accepted = found(&db, &migration).await;
        let mut kinds: Vec<&str> = accepted.iter().map(|finding| finding.kind.word()).collect();
        kinds.sort_unstable();
        assert_eq!(kinds, expected, "{name}: {accepted:?}");
        assert!(ids(&accepted).iter().all(|id| id.starts_with("I ")), "{accepted:?}");
        db.client.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await.unwrap();
    }
}
