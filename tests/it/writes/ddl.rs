//! Definitions of migrated tables: what would make the functions or the rows wrong is refused, the
//! rest is the client's own affair.

use crate::live::{Live, ORDERS, ORDERS_TABLE, Pair, outcome, text};

const REFUSED: &[&str] = &[
    "ALTER TABLE orders ADD COLUMN more int",
    "ALTER TABLE public.orders_v2 DROP COLUMN note",
    "ALTER TABLE IF EXISTS ONLY orders RENAME TO gone",
    "ALTER TABLE orders RENAME note TO remark",
    "ALTER TABLE orders SET (fillfactor = 70), ALTER total TYPE bigint",
    "ALTER TABLE orders DISABLE TRIGGER ALL",
    "ALTER INDEX orders RENAME TO gone",
    "DROP TABLE orders",
    "DROP TABLE IF EXISTS other, \"orders_v2\" CASCADE",
    "DROP SCHEMA public CASCADE",
    "DROP SCHEMA IF EXISTS nowhere, pgsegue CASCADE",
    "ALTER SCHEMA public RENAME TO private",
    "CREATE TRIGGER t BEFORE UPDATE OF note ON orders FOR EACH ROW EXECUTE FUNCTION nothing()",
    "CREATE POLICY p ON orders USING (user_id = 1)",
    "CREATE POLICY orders ON public.orders_v2 AS RESTRICTIVE FOR SELECT TO PUBLIC USING (true)",
    "ALTER POLICY p ON orders USING (true)",
    "ALTER TABLE orders_v2 ADD FOREIGN KEY (id) REFERENCES orders (id)",
    "DROP POLICY IF EXISTS p ON orders",
    "ALTER TABLE orders ENABLE ROW LEVEL SECURITY",
    "CREATE OR REPLACE RULE r AS ON DELETE TO orders DO INSTEAD NOTHING",
    "SELECT 1; ALTER TABLE orders ADD COLUMN more int",
];

const ALLOWED: &[&str] = &[
    "CREATE INDEX totals ON orders (total)",
    "ALTER INDEX totals RENAME TO totals_too",
    "DROP INDEX totals_too",
    "CREATE STATISTICS both_of ON id, total FROM orders",
    "ALTER TABLE orders ALTER COLUMN note SET STATISTICS 300, SET (fillfactor = 80)",
    "ALTER TABLE orders ALTER note SET STORAGE EXTERNAL",
    "ALTER TABLE orders RESET (fillfactor)",
    "ALTER TABLE orders REPLICA IDENTITY FULL",
    "ALTER TABLE orders CLUSTER ON orders_pkey",
    "COMMENT ON TABLE orders IS 'being moved'",
    "GRANT SELECT ON orders TO PUBLIC",
    "REVOKE SELECT ON orders FROM PUBLIC",
    "ANALYZE orders",
    "VACUUM orders",
    "REINDEX TABLE orders",
    "CREATE VIEW seen AS SELECT * FROM orders",
    "DROP VIEW seen",
    "CREATE POLICY orders ON other USING (EXISTS (SELECT FROM orders))",
    "ALTER POLICY orders ON other TO PUBLIC",
    "DROP POLICY orders ON other",
    "CREATE TABLE orders.nowhere (id int)",
    "CREATE TABLE copied (LIKE orders)",
    "ALTER TABLE copied ADD COLUMN orders int, DROP COLUMN note",
    "ALTER TABLE copied RENAME TO orders_copied",
    "DROP TABLE orders_copied",
    "CREATE TEMP TABLE orders (id int)",
    "ALTER TABLE orders ADD COLUMN mine int",
    "DROP TABLE orders",
    "BEGIN; LOCK TABLE orders IN SHARE MODE; SELECT count(*) FROM orders; COMMIT",
    "LOCK TABLE orders",
    "BEGIN; LOCK orders, ONLY other IN ROW EXCLUSIVE MODE NOWAIT; UPDATE orders SET total = 1; COMMIT",
    "DROP SCHEMA IF EXISTS nowhere CASCADE",
    "DROP TRIGGER IF EXISTS t ON orders",
];

#[tokio::test]
async fn what_would_break_the_migration_is_refused_and_nothing_changes() {
    let live = Live::orders("", "").await;
    let ddl =
        "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'";
    live.db.client.batch_execute(ddl).await.unwrap();
    let client = live.client().await;
    for sql in REFUSED {
        let error = client.simple_query(sql).await.unwrap_err();
        let hint = error.as_db_error().unwrap().hint().unwrap_or_default();
        assert!(hint.contains("pgsegue"), "{sql}: {hint}");
        let refused = outcome(&client, sql).await.unwrap_err();
        // What the statement changes, whatever else it names.
        let said = match sql.contains("orders_v2") {
            true => {
                "\"public.orders_v2\" is the shadow of \"public.orders\", which is being migrated"
            }
            false => "\"public.orders\" is being migrated",
        };
        assert_eq!(refused, format!("55006 {said}"), "{sql}");
        if !sql.starts_with("SELECT") {
            let prepared = client.prepare(sql).await;
            let error = match prepared {
                Ok(statement) => client.execute(&statement, &[]).await.unwrap_err(),
                Err(error) => error,
            };
            assert_eq!(error.code().unwrap().code(), "55006", "{sql}");
        }
    }
    client.batch_execute("BEGIN").await.unwrap();
    outcome(&client, "DROP TABLE orders").await.unwrap_err();
    assert!(outcome(&client, "SELECT 1").await.unwrap_err().starts_with("25P02"));
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(text(&client, "SELECT count(*) FROM orders").await, "10");
    live.orders_in_step().await;
}

#[tokio::test]
async fn what_changes_neither_rows_nor_functions_comes_through() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    for sql in ALLOWED {
        pair.simple(sql).await;
    }
    pair.simple("UPDATE orders SET total = total + 1").await;
    // By the view the table may be written before it is known.
    let recorded = live.statements("recorded", "write");
    assert!((recorded - 1.0).abs() < 0.5, "{recorded}");
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

/// Definitions of tables that the same text has made.
const OWN: &[&str] = &[
    "CREATE TEMP TABLE orders (k text); DROP TABLE orders",
    "BEGIN; CREATE TEMP TABLE orders (k text); ALTER TABLE orders ADD x int; DROP TABLE orders; COMMIT",
    "CREATE SCHEMA aside; SET search_path = aside; CREATE TABLE orders (a int); \
     ALTER TABLE orders ADD b int; DROP TABLE orders; RESET search_path; DROP SCHEMA aside",
];

#[tokio::test]
async fn definitions_of_tables_of_the_name_that_the_same_text_has_made_come_through() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    for sql in OWN {
        pair.simple(sql).await;
    }
    pair.simple("UPDATE orders SET total = total + 1").await;
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

const MOODS: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'ok');
    CREATE TYPE pair AS (a int, b text);
    CREATE TABLE days (id int PRIMARY KEY, m mood, p pair);
    INSERT INTO days SELECT i, 'ok', '(1,b)' FROM generate_series(1, 10) AS i; ANALYZE;
    CREATE TABLE days_v2 (id int PRIMARY KEY, state text, p pair)";

const MOODS_TOML: &str = r#"
[[migration]]
name = "days_v2"
source = "public.days"
shadow = "public.days_v2"
key = ["id"]
[migration.columns]
id = "id"
state = "m"
p = "p"
[migration.reverse]
m = "state"
[migration.routing]
reads = 100
"#;

/// The shadow has the old name of a value until it is compared again.
#[tokio::test]
async fn behind_a_change_of_what_a_value_is_called_the_source_is_read() {
    const READ: &str = "SELECT m FROM days WHERE id = 5";
    let live = Live::ready(MOODS, MOODS_TOML, &["days_v2"]).await;
    let (client, other, direct) = (live.client().await, live.client().await, live.direct().await);
    let mut now = "ok".to_owned();
    for (n, begins) in [false, true, false].into_iter().enumerate() {
        live.until_shadow_serves(&other, READ).await;
        let next = format!("fine {n}");
        let rename = format!("ALTER TYPE mood RENAME VALUE '{now}' TO '{next}'");
        if begins {
            client.batch_execute(&format!("BEGIN; {rename}")).await.unwrap();
            assert_eq!(text(&client, READ).await, next);
            client.batch_execute("COMMIT").await.unwrap();
        } else {
            client.batch_execute(&rename).await.unwrap();
        }
        for _ in 0..3 {
            assert_eq!(text(&client, READ).await, next);
            assert_eq!(text(&other, READ).await, next);
        }
        now = next;
    }
    // Past the proxy it is noticed by the look.
    live.until_shadow_serves(&other, READ).await;
    direct.batch_execute("ALTER TYPE mood RENAME VALUE 'fine 2' TO 'well'").await.unwrap();
    live.until_source_serves(&other, READ).await;
    assert_eq!(text(&other, READ).await, "well");
    live.until_shadow_serves(&other, READ).await;
    assert_eq!(text(&other, READ).await, "well");
    let shadow = "SELECT DISTINCT state FROM days_v2";
    assert_eq!(text(&direct, shadow).await, "well");
}

const KEPT: &str = "
    CREATE TYPE elsewhere AS ENUM ('a');
    CREATE TABLE others (id int PRIMARY KEY, e elsewhere, m mood); INSERT INTO others VALUES (1, 'a', 'ok');
    CREATE DOMAIN small AS int; ALTER TABLE others ADD s small DEFAULT 3;
    CREATE SCHEMA aside; CREATE TABLE aside.t (id int)";

/// What takes away more than it names, and of the migrated tables nothing.
const SPARES: &[&str] = &[
    "DROP TYPE elsewhere CASCADE",
    "BEGIN; SAVEPOINT a; DROP DOMAIN small CASCADE; ROLLBACK TO a; SELECT s FROM others; COMMIT",
    "DROP DOMAIN IF EXISTS nothing, small CASCADE",
    "BEGIN; LOCK TABLE days; DROP TABLE aside.t CASCADE; UPDATE days SET m = 'sad'; COMMIT",
    "DROP SCHEMA aside CASCADE",
    "DROP OWNED BY keeper",
    "DROP TABLE others CASCADE",
    "DROP TABLE nothing CASCADE",
];

/// What takes away a column, or a table, without naming it.
const TAKES: &[&str] = &[
    "DROP TYPE mood CASCADE",
    "DROP TYPE IF EXISTS pair CASCADE",
    "ALTER TYPE pair DROP ATTRIBUTE a CASCADE; DROP TYPE pair CASCADE",
    "SELECT 1; DROP TYPE mood CASCADE",
    "DROP OWNED BY owner_of_days",
];

#[tokio::test]
async fn what_takes_away_a_column_without_naming_it_is_refused_and_what_spares_it_is_not() {
    let ddl = format!("{MOODS};{KEPT}; GRANT SELECT ON days TO keeper");
    let roles = "DO $$ BEGIN CREATE ROLE keeper; CREATE ROLE owner_of_days; \
                 EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$";
    let live = Live::ready(&format!("{roles};{ddl}"), MOODS_TOML, &["days_v2"]).await;
    let mut pair = Pair::new(&live, &format!("{ddl}; DROP TABLE days_v2")).await;
    for sql in SPARES {
        for sql in sql.split("; ") {
            pair.simple(sql).await;
        }
    }
    let spares = "CREATE TYPE elsewhere AS ENUM ('a'); CREATE TABLE others (e elsewhere)";
    pair.simple(spares).await;
    pair.extended("DROP TYPE elsewhere CASCADE", &[], 0).await;
    live.direct().await.batch_execute("ALTER TABLE days_v2 OWNER TO owner_of_days").await.unwrap();
    let client = live.client().await;
    let columns = "SELECT string_agg(attname, ' ' ORDER BY attrelid, attnum) FROM pg_attribute \
                   WHERE attrelid IN ('days'::regclass, 'days_v2'::regclass) AND attnum > 0";
    for sql in TAKES {
        let refused = "55006 \"public.days\" is being migrated";
        assert_eq!(outcome(&client, sql).await.unwrap_err(), refused, "{sql}");
        client
            .batch_execute("BEGIN; UPDATE days SET m = 'ok' WHERE id = 3; SAVEPOINT a")
            .await
            .unwrap();
        if !sql.contains(';') {
            let error = client.execute(*sql, &[]).await.unwrap_err();
            let error = error.as_db_error().unwrap();
            assert_eq!((error.code().code(), error.message()), ("55006", &refused[6..]), "{sql}");
            assert!(error.hint().unwrap().contains("pgsegue migration abort days_v2"));
        }
        client.batch_execute("ROLLBACK TO a; COMMIT").await.unwrap();
        assert_eq!(text(&client, columns).await, "id m p id state p", "{sql}");
    }
    live.until_clean("days_v2").await;
    let compared = "SELECT count(*) FROM days JOIN days_v2 USING (id) WHERE m::text = state";
    assert_eq!(text(&live.direct().await, compared).await, "10");
}
