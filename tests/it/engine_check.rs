//! The preflight: each hazard in the catalog has its finding, and a clean pair of tables has none.

use super::engine_support::*;
use pgsegue::engine::check::{Finding, Severity, check};
use pgsegue::sql::ident::Ident;
use std::time::Duration;

async fn blockers(db: &Db, migration: &pgsegue::manifest::Migration) -> Vec<String> {
    let findings = check(&db.engine_client().await, migration).await.unwrap();
    assert!(findings.iter().all(|f| !f.remedy.is_empty() && !f.message.is_empty()));
    findings.into_iter().filter(Finding::is_blocker).map(|f| f.id).collect()
}

#[tokio::test]
async fn tables_without_hazards_have_no_finding() {
    let db = database().await;
    let migration = orders(&db, 10).await;
    assert_eq!(check(&db.engine_client().await, &migration).await.unwrap(), []);
}

#[tokio::test]
async fn names_every_hazard_it_finds() {
    let cases: &[(&str, &str)] = &[
        ("DROP TABLE orders_v2", "table public.orders_v2"),
        ("DROP TABLE orders; CREATE VIEW orders AS SELECT 1 AS id", "table public.orders"),
        ("ALTER TABLE orders DROP CONSTRAINT orders_pkey", "unique public.orders"),
        (
            "ALTER TABLE orders DROP CONSTRAINT orders_pkey; ALTER TABLE orders ALTER id DROP NOT NULL; \
             CREATE UNIQUE INDEX ON orders (id)",
            "key public.orders.id",
        ),
        ("ALTER TABLE orders_v2 DROP CONSTRAINT orders_v2_pkey", "unique public.orders_v2"),
        ("ALTER TABLE orders_v2 ADD x int NOT NULL", "column public.orders_v2.x"),
        ("ALTER TABLE orders DROP COLUMN note", "mapping public.orders_v2.note"),
        (
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; \
             CREATE TRIGGER audit AFTER UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION f()",
            "trigger public.orders.audit",
        ),
        (
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; \
             CREATE TRIGGER t BEFORE INSERT ON orders_v2 FOR EACH ROW EXECUTE FUNCTION f()",
            "trigger public.orders_v2.t",
        ),
        (
            "CREATE TABLE users (id int4 PRIMARY KEY); ALTER TABLE orders ADD CONSTRAINT fk \
             FOREIGN KEY (user_id) REFERENCES users ON DELETE CASCADE NOT VALID",
            "foreign key public.orders.fk",
        ),
        (
            "CREATE TABLE items (o int8 REFERENCES orders_v2 ON DELETE CASCADE)",
            "foreign key public.items.items_o_fkey",
        ),
        ("CREATE RULE r AS ON DELETE TO orders DO INSTEAD NOTHING", "rule public.orders.r"),
        ("CREATE RULE r AS ON INSERT TO orders_v2 DO INSTEAD NOTHING", "rule public.orders_v2.r"),
        (
            "ALTER TABLE orders_v2 ADD CONSTRAINT u UNIQUE (note) DEFERRABLE",
            "constraint public.orders_v2.u",
        ),
        ("CREATE VIEW ov AS SELECT * FROM orders", "view public.ov"),
        (
            "CREATE FUNCTION touch() RETURNS void LANGUAGE sql AS 'UPDATE orders SET total = 0'",
            "function public.touch()",
        ),
        (
            "CREATE FUNCTION touch(i int) RETURNS void LANGUAGE sql \
             BEGIN ATOMIC UPDATE orders SET total = 0 WHERE id = i; END",
            "function public.touch(integer)",
        ),
        (
            "ALTER TABLE orders_v2 ALTER note SET NOT NULL; UPDATE orders SET note = NULL WHERE id = 2",
            "rows public.orders_v2.NOT NULL note",
        ),
        (
            "ALTER TABLE orders_v2 ADD CONSTRAINT small CHECK (total_minor < 250)",
            "rows public.orders_v2.small",
        ),
        (
            "CREATE UNIQUE INDEX alone ON orders_v2 (customer_id, currency); \
             UPDATE orders SET user_id = 7 WHERE id < 3",
            "rows public.orders_v2.alone",
        ),
    ];
    for (sql, id) in cases {
        let db = database().await;
        let migration = orders(&db, 3).await;
        db.client.batch_execute(sql).await.unwrap();
        assert_eq!(blockers(&db, &migration).await, [*id], "{sql}");
    }
}

#[tokio::test]
async fn a_composite_of_nulls_is_not_null() {
    let db = database().await;
    let mut migration = orders(&db, 3).await;
    db.client
        .batch_execute(
            "CREATE TYPE pair AS (a int, b text); ALTER TABLE orders ADD p pair; \
             ALTER TABLE orders_v2 ADD q pair NOT NULL; UPDATE orders SET p = ROW(NULL, 'b')",
        )
        .await
        .unwrap();
    migration.columns.push((Ident::new("q"), "p".to_owned()));
    migration.reverse.push((Ident::new("p"), "q".to_owned()));
    assert!(blockers(&db, &migration).await.is_empty());
    db.client.batch_execute("UPDATE orders SET p = NULL WHERE id = 2").await.unwrap();
    assert_eq!(blockers(&db, &migration).await, ["rows public.orders_v2.NOT NULL q"]);
}

#[tokio::test]
async fn rows_that_do_not_fit_or_come_back_are_named() {
    let db = database().await;
    let mut migration = orders(&db, 2_000).await;
    migration.columns[4].1 = "btrim(note)".to_owned();
    migration.reverse.push((pgsegue::sql::ident::Ident::new("note"), "note".to_owned()));
    db.client
        .batch_execute(
            "UPDATE orders SET note = ' x' WHERE id IN (7, 9); \
             CREATE UNIQUE INDEX alone ON orders_v2 (note); ALTER TABLE orders_v2 \
             ADD CONSTRAINT small CHECK (total_minor < 199900), \
             ADD CONSTRAINT more CHECK (currency = 'USD' OR note IS NULL)",
        )
        .await
        .unwrap();
    let findings = check(&db.engine_client().await, &migration).await.unwrap();
    let seen: Vec<(&str, Severity, bool)> =
        findings.iter().map(|f| (f.id.as_str(), f.severity, f.message.contains('('))).collect();
    let expected = [
        ("rows public.orders_v2.small", Severity::Blocker, true),
        ("rows public.orders_v2.alone", Severity::Blocker, true),
        ("way back orders_v2", Severity::Warning, true),
    ];
    assert_eq!(seen, expected, "{findings:?}");
    assert!(findings[0].message.ends_with("(1999), (2000)"), "{findings:?}");
    assert!(findings[1].message.ends_with("(7) and (9)"), "{findings:?}");
    assert!(findings[2].message.ends_with("(7), (9)"), "{findings:?}");
}

#[tokio::test]
async fn refuses_mappings_that_fail_or_give_another_result_each_time() {
    let db = database().await;
    let base = orders(&db, 3).await;
    for bad in
        ["nothing", "note || now()::text", "random()::text", "max(note)", "note +", "(SELECT 'x')"]
    {
        let mut migration = base.clone();
        migration.columns[4].1 = bad.to_owned();
        assert_eq!(blockers(&db, &migration).await, ["mapping public.orders_v2.note"], "{bad}");
    }
    for bad in ["id % 10", "-id", "id::text::int", "total"] {
        let mut migration = base.clone();
        migration.columns[0].1 = bad.to_owned();
        assert_eq!(blockers(&db, &migration).await, ["declaration orders_v2"], "{bad}");
    }
}

#[tokio::test]
async fn settings_roles_and_acceptance_count() {
    let db = database().await;
    let mut migration = orders(&db, 3).await;
    migration.lock_budget = Duration::from_secs(1);
    db.client
        .batch_execute(
            "CREATE ROLE blind; GRANT UPDATE ON orders TO blind; CREATE ROLE reader; \
             GRANT SELECT ON orders TO reader; CREATE VIEW ov AS TABLE orders",
        )
        .await
        .unwrap();
    assert_eq!(
        blockers(&db, &migration).await,
        ["view public.ov", "privileges public.orders", "lock budget"]
    );
    migration.lock_budget = Duration::from_millis(100);
    migration.accepted = vec!["view public.ov".to_owned(), "privileges public.orders".to_owned()];
    migration.reverse.clear();
    let findings = check(&db.engine_client().await, &migration).await.unwrap();
    let seen: Vec<(&str, Severity)> =
        findings.iter().map(|f| (f.id.as_str(), f.severity)).collect();
    assert_eq!(
        seen,
        [
            ("reverse orders_v2", Severity::Warning),
            ("view public.ov", Severity::Info),
            ("privileges public.orders", Severity::Info),
            ("privileges public.orders_v2", Severity::Warning),
        ]
    );
    assert!(findings[3].message.contains("reader"), "{findings:?}");
    db.client.batch_execute("DROP OWNED BY blind, reader; DROP ROLE blind, reader").await.unwrap();
}

#[tokio::test]
async fn a_control_role_that_policies_hide_rows_from_is_refused() {
    let db = database().await;
    let migration = orders(&db, 3).await;
    let database: String =
        db.client.query_one("SELECT current_database()::text", &[]).await.unwrap().get(0);
    db.client
        .batch_execute(&format!(
            "CREATE ROLE {database}_control LOGIN; \
             GRANT ALL ON orders, orders_v2 TO {database}_control; \
             GRANT pg_read_all_stats TO {database}_control; \
             GRANT CREATE ON DATABASE {database} TO {database}_control; \
             ALTER TABLE orders ENABLE ROW LEVEL SECURITY"
        ))
        .await
        .unwrap();
    let client = db.engine_client().await;
    client.batch_execute(&format!("SET ROLE {database}_control")).await.unwrap();
    let findings = check(&client, &migration).await.unwrap();
    let ids: Vec<&str> =
        findings.iter().filter(|f| f.is_blocker()).map(|f| f.id.as_str()).collect();
    assert_eq!(ids, ["row security public.orders"]);
    let grant = format!("RESET ROLE; ALTER ROLE {database}_control BYPASSRLS");
    client.batch_execute(&grant).await.unwrap();
    client.batch_execute(&format!("SET ROLE {database}_control")).await.unwrap();
    let findings = check(&client, &migration).await.unwrap();
    assert!(!findings.iter().any(Finding::is_blocker), "{findings:?}");
    let drop =
        format!("RESET ROLE; DROP OWNED BY {database}_control; DROP ROLE {database}_control");
    client.batch_execute(&drop).await.unwrap();
}
