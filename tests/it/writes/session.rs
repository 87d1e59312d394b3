//! What a session brings along decides what its names mean: its login, its role's and its database's
//! settings, its startup packet; and what a statement hides or names in other ways.

use crate::live::raw::{bind, describe, execute, parse, query, sync};
use crate::live::{Live, ORDERS, ORDERS_TABLE, ORDERS_V2, Pair, Raw, Table, orders_toml};
use crate::support::{assert_same, database, rows};

const ELSEWHERE: &str = "CREATE SCHEMA elsewhere; \
    CREATE TABLE elsewhere.orders (id int PRIMARY KEY, total int, note text); \
    INSERT INTO elsewhere.orders VALUES (1, 1, 'elsewhere')";

/// What is done before a login, its startup parameters, and what undoes the former.
type Login = (&'static str, &'static [(&'static str, &'static str)], &'static str);

/// Settings of the session, of the role, of the database: each by itself.
const LOGINS: &[Login] = &[
    ("SELECT 1", &[("search_path", "elsewhere")], "SELECT 1"),
    ("SELECT 1", &[("search_path", "elsewhere, public")], "SELECT 1"),
    ("SELECT 1", &[("options", "-c search_path=elsewhere,public")], "SELECT 1"),
    ("SELECT 1", &[("options", "--search_path=elsewhere")], "SELECT 1"),
    ("SELECT 1", &[("options", "-csearch_path=public")], "SELECT 1"),
    ("ALTER ROLE {role} SET search_path = elsewhere", &[], "ALTER ROLE {role} RESET ALL"),
    (
        "ALTER ROLE {role} SET search_path = elsewhere",
        &[("options", "-c search_path=public")],
        "ALTER ROLE {role} RESET ALL",
    ),
    (
        "ALTER DATABASE {database} SET search_path = elsewhere",
        &[],
        "ALTER DATABASE {database} RESET ALL",
    ),
    (
        "ALTER ROLE {role} IN DATABASE {database} SET search_path = elsewhere, public",
        &[],
        "ALTER ROLE {role} IN DATABASE {database} RESET ALL",
    ),
    ("ALTER SCHEMA elsewhere RENAME TO {role}", &[], "ALTER SCHEMA {role} RENAME TO elsewhere"),
    (
        "ALTER SCHEMA elsewhere RENAME TO {role}",
        &[("search_path", "public, \"$user\"")],
        "ALTER SCHEMA {role} RENAME TO elsewhere",
    ),
];

#[tokio::test]
async fn what_a_session_logs_in_with_decides_what_its_names_mean() {
    let ddl = format!("{ORDERS};{ELSEWHERE}");
    let live =
        Live::ready(&format!("{ddl};{ORDERS_V2}"), &orders_toml("", "reads = 100"), &["orders_v2"])
            .await;
    let plain = database().await;
    plain.client.batch_execute(&ddl).await.unwrap();
    let role = format!("tenant_{}", live.db.name);
    let create = format!("CREATE ROLE {role} SUPERUSER LOGIN");
    live.db.client.batch_execute(&create).await.unwrap();
    let other = format!("{role}_plain");
    let create = format!("CREATE ROLE {other} SUPERUSER LOGIN");
    plain.client.batch_execute(&create).await.unwrap();
    let sides = [(&live.db, live.proxy.port, &role), (&plain, plain.port, &other)];
    for (before, options, after) in LOGINS {
        let mut said = Vec::new();
        for (db, port, role) in sides {
            let of = |sql: &str| sql.replace("{role}", role).replace("{database}", &db.name);
            db.client.batch_execute(&of(before)).await.unwrap();
            let mut raw = Raw::connect_with(port, role, &db.name, options).await;
            let sql = "UPDATE orders SET total = total + 1 WHERE id = 1 RETURNING total, note";
            let frames = [
                query(sql),
                query("SELECT note FROM orders WHERE id = 1"),
                parse("", sql, &[]),
                describe(b'S', ""),
                bind("", "", 0, &[], 0),
                execute("", 0),
                sync(),
                query("RESET ALL"),
                query(sql),
                query("DISCARD ALL"),
                query(sql),
            ];
            said.push(raw.exchange(&frames.concat(), 7).await);
            db.client.batch_execute(&of(after)).await.unwrap();
        }
        let (got, expected) = (&said[0], &said[1]);
        assert_eq!(got, expected, "{before} {options:?}");
        live.orders_in_step().await;
    }
    assert_eq!(live.dirty().await, []);
    let table = ORDERS_TABLE.source;
    assert_eq!(rows(&live.db.client, table).await, rows(&plain.client, table).await);
    assert_same(&live.db.client, ORDERS_TABLE.mapped, ORDERS_TABLE.shadow).await;
}

/// Names that mean the migrated table beside names of its spelling that do not.
const SPELLED: &[&str] = &[
    "UPDATE public.orders SET total = total + 1 WHERE id = 1 RETURNING total",
    "UPDATE U&\"\\006frders\" SET total = total + 1 WHERE id = 2 RETURNING total",
    "UPDATE public.U&\"!006frders\" UESCAPE '!' SET U&\"t\\006ftal\" = 3 WHERE id = 2 RETURNING U&\"\\0069d\"",
    "INSERT INTO U&\"\\006f\\0072ders\" AS U&\"\\0078\" (id, user_id) VALUES (50, 1) RETURNING x.id, U&\"\\0078\".total",
    "UPDATE U&\"other\" SET note = U&'\\0078' RETURNING U&\"\\0069d\"",
    "SELECT U&\"t\\006ftal\" FROM U&\"\\006frders\" WHERE id = 2",
    "UPDATE U&\"\\00\" SET total = 1",
    "WITH orders AS (SELECT 1 AS id) UPDATE public.orders o SET total = 0 FROM orders WHERE o.id = orders.id RETURNING o",
    "WITH orders AS (SELECT 3 AS id) UPDATE orders SET total = 9 WHERE id IN (SELECT id FROM orders) RETURNING id",
    "WITH orders AS (SELECT 3 AS id, 4 AS total) SELECT * FROM orders",
    "WITH orders AS (SELECT 3 AS id) DELETE FROM other USING orders WHERE other.id = orders.id RETURNING *",
    "UPDATE other AS orders SET note = 'alias' WHERE orders.id = 1 RETURNING orders.*",
    "UPDATE other SET note = orders.note FROM public.orders WHERE orders.id = other.orders_id RETURNING other.*",
    "UPDATE ONLY (public.orders) SET total = 5 WHERE id = 5",
    "UPDATE ONLY public.orders AS o SET total = 6 WHERE id = 6 RETURNING o, o.*",
];

#[tokio::test]
async fn what_hides_the_table_and_what_names_it_in_escapes_is_told_apart() {
    let toml = orders_toml("", "reads = 100");
    let live = Live::declared(&format!("{ORDERS};{ORDERS_V2}"), &toml).await;
    live.start("orders_v2");
    live.until_phase("orders_v2", "ready").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    for sql in SPELLED {
        pair.every_way(sql).await;
    }
    pair.simple("CREATE TEMP TABLE orders (id int, total int, note text)").await;
    pair.simple("INSERT INTO orders VALUES (1, 100, 'temporary'), (2, 200, 'temporary')").await;
    for sql in [
        "UPDATE orders SET total = p.total FROM public.orders p WHERE p.id = orders.id RETURNING *",
        "UPDATE public.orders SET total = t.total FROM orders t WHERE t.id = orders.id RETURNING t.note",
        "DELETE FROM orders USING public.orders p WHERE p.id = orders.id AND p.id = 2 RETURNING p.*",
        "INSERT INTO orders SELECT id, total, note FROM public.orders WHERE id = 4 RETURNING *",
        "INSERT INTO public.orders (id, user_id, total) SELECT id + 70, 1, total FROM orders RETURNING *",
        "WITH a AS (UPDATE orders SET total = 1 RETURNING id), b AS (UPDATE public.orders SET total = 2 \
         WHERE id = 5 RETURNING id) SELECT a.id, b.id FROM a, b",
        "TABLE orders",
    ] {
        pair.every_way(sql).await;
    }
    assert_eq!(live.dirty().await, []);
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn what_shows_or_locks_and_reads_by_cursors_is_not_marked() {
    let live = Live::orders("unclassified = \"refuse\"", "reads = 100").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    for sql in [
        "EXPLAIN (COSTS OFF) UPDATE orders SET total = 1 WHERE id = 1",
        "EXPLAIN (COSTS OFF, ANALYZE OFF) SELECT 1 FROM orders",
        "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) SELECT total FROM orders WHERE id = 1",
        "EXPLAIN (COSTS OFF) DELETE FROM orders USING other WHERE other.orders_id = orders.id",
        "BEGIN",
        "LOCK TABLE orders IN SHARE ROW EXCLUSIVE MODE",
        "LOCK orders, other",
        "DECLARE c SCROLL CURSOR FOR SELECT id, total FROM orders ORDER BY id",
        "FETCH 2 FROM c",
        "UPDATE orders SET total = total + 1 WHERE CURRENT OF c RETURNING id",
        "FETCH BACKWARD 1 FROM c",
        "DECLARE d CURSOR WITH HOLD FOR SELECT id, total FROM orders ORDER BY id",
        "COMMIT",
        "FETCH 2 FROM d",
        "MOVE 1 FROM d",
        "CLOSE d",
        "DECLARE e CURSOR WITH HOLD FOR SELECT o.*, o FROM ONLY orders AS o ORDER BY id",
        "FETCH 2 FROM e",
        "UPDATE orders SET total = 0 WHERE CURRENT OF e",
        "CLOSE ALL",
        "DO $$ BEGIN PERFORM 1; END $$",
    ] {
        pair.simple(sql).await;
        pair.extended(sql, &[], 0).await;
    }
    assert_eq!(live.dirty().await, []);
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

/// What a transaction records is none of the session's sequences.
#[tokio::test]
async fn the_last_value_of_a_sequence_is_the_clients() {
    const JOBS: &str = "CREATE TABLE jobs (id serial PRIMARY KEY, q text)";
    const TOML: &str = r#"
[[migration]]
name = "jobs_v2"
source = "public.jobs"
shadow = "public.jobs_v2"
key = ["id"]
[migration.columns]
id = "id"
q = "q"
"#;
    let shadow = "CREATE TABLE jobs_v2 (id bigint PRIMARY KEY, q text)";
    let live = Live::ready(&format!("{JOBS};{shadow}"), TOML, &["jobs_v2"]).await;
    let mut pair = Pair::new(&live, JOBS).await;
    pair.simple("DO $$ BEGIN UPDATE jobs SET q = 'a'; END $$").await;
    pair.simple("SELECT lastval()").await;
    pair.simple("BEGIN").await;
    for _ in 0..70 {
        pair.simple("INSERT INTO jobs (q) VALUES ('b')").await;
    }
    pair.simple("SELECT lastval(), currval('jobs_id_seq')").await;
    pair.simple("DO $$ BEGIN UPDATE jobs SET q = 'c' WHERE id = 1; END $$").await;
    pair.simple("SELECT lastval()").await;
    pair.simple("COMMIT").await;
    assert!(live.statements("recorded", "write") > 1.5);
    let table = Table {
        migration: "jobs_v2",
        source: "TABLE jobs ORDER BY id",
        mapped: "TABLE jobs ORDER BY id",
        shadow: "TABLE jobs_v2 ORDER BY id",
    };
    pair.finish(&live, &[table]).await;
}
