//! Which table a name means: quoted identifiers of every kind, temporary tables, search_path.

use crate::live::raw::{bind, execute, one, parse, query, sync};
use crate::live::{Live, ORDERS, ORDERS_TABLE, Pair, Table};

const ODD: &str = r#"
    CREATE SCHEMA "my.schema";
    CREATE TABLE "my.schema"."Sel ect %1$s ""q"" ü" (
        "Key 'k' %s" int PRIMARY KEY, "total.x" int, "returning" text, "pgsegue 1" text
    ) WITH (autovacuum_enabled = off);
    INSERT INTO "my.schema"."Sel ect %1$s ""q"" ü" SELECT i, i, 'r' || i FROM generate_series(1, 5) i;
    ANALYZE"#;

const ODD_SHADOW: &str = r#"
    CREATE TABLE "my.schema"."Shadow $$ %" ("Néw 'key'" bigint PRIMARY KEY, "t ""x""" bigint, r text, "p" text)"#;

const ODD_TOML: &str = r#"
[[migration]]
name = "odd"
source = '"my.schema"."Sel ect %1$s ""q"" ü"'
shadow = '"my.schema"."Shadow $$ %"'
key = ["Key 'k' %s"]
[migration.columns]
"Néw 'key'" = "\"Key 'k' %s\""
't "x"' = '"total.x" * 100'
r = '"returning"'
p = '"pgsegue 1"'
[migration.reverse]
"Key 'k' %s" = "\"Néw 'key'\""
"total.x" = '("t ""x""" / 100)::int'
returning = "r"
"pgsegue 1" = "p"
"#;

const ODD_TABLE: Table = Table {
    migration: "odd",
    source: r#"TABLE "my.schema"."Sel ect %1$s ""q"" ü" ORDER BY 1"#,
    mapped: r#"SELECT "Key 'k' %s", "total.x" * 100, "returning", "pgsegue 1"
               FROM "my.schema"."Sel ect %1$s ""q"" ü" ORDER BY 1"#,
    shadow: r#"TABLE "my.schema"."Shadow $$ %" ORDER BY 1"#,
};

#[tokio::test]
async fn identifiers_with_spaces_quotes_dots_percents_and_unicode_are_followed() {
    let live = Live::ready(&format!("{ODD};{ODD_SHADOW}"), ODD_TOML, &["odd"]).await;
    let mut pair = Pair::new(&live, ODD).await;
    let table = r#""my.schema"."Sel ect %1$s ""q"" ü""#;
    for sql in [
        "INSERT INTO T VALUES (10, 1, 'x') RETURNING *",
        "UPDATE T SET \"total.x\" = 5 WHERE \"Key 'k' %s\" = 2",
        "UPDATE T AS \"as\" SET \"returning\" = 'y' RETURNING \"as\".\"returning\", \"pgsegue 1\"",
        "UPDATE T t SET \"Key 'k' %s\" = \"Key 'k' %s\" + 100 WHERE t.\"total.x\" > 3 RETURNING t.*",
        "UPDATE T AS \"w \"\" %\" SET \"pgsegue 1\" = 'z' RETURNING \"w \"\" %\".\"pgsegue 1\"",
        "DELETE FROM T WHERE \"returning\" = 'x' RETURNING \"returning\", \"Key 'k' %s\"",
        "SELECT * FROM T ORDER BY 1",
    ] {
        pair.every_way(&sql.replace('T', table)).await;
    }
    pair.simple(r#"SET search_path = "my.schema""#).await;
    pair.every_way(r#"UPDATE "Sel ect %1$s ""q"" ü" SET "total.x" = 8 WHERE "total.x" = 5"#).await;
    pair.finish(&live, &[ODD_TABLE]).await;
}

#[tokio::test]
async fn a_temporary_table_or_another_schema_takes_the_name() {
    let more = "CREATE SCHEMA elsewhere; \
                CREATE TABLE elsewhere.orders (id int PRIMARY KEY, total int, note text); \
                INSERT INTO elsewhere.orders VALUES (1, 1, 'elsewhere')";
    let ddl = format!("{ORDERS};{more}");
    let shadow = crate::live::ORDERS_V2;
    let toml = crate::live::orders_toml("", "reads = 100");
    let live = Live::ready(&format!("{ddl};{shadow}"), &toml, &["orders_v2"]).await;
    let client = live.client().await;
    live.until_shadow_serves(&client, "SELECT note FROM orders WHERE id = 1").await;
    let mut pair = Pair::new(&live, &ddl).await;
    let again = [
        "UPDATE orders SET total = total + 1 WHERE id = 1 RETURNING total, note",
        "SELECT note FROM orders WHERE id = 1",
        "SELECT count(*), sum(total) FROM orders",
        "UPDATE public.orders SET total = total + 1 WHERE id = 2 RETURNING total",
        "SELECT note FROM public.orders WHERE id = 2",
    ];
    let switches: &[&str] = &[
        "SELECT 1",
        "SET search_path = elsewhere, public",
        "SET search_path TO DEFAULT",
        "CREATE TEMP TABLE orders (id int PRIMARY KEY, total int, note text)",
        "INSERT INTO orders VALUES (1, 5, 'temporary')",
        "SET search_path = public, pg_temp",
        "RESET search_path",
        "DROP TABLE pg_temp.orders",
        "SELECT set_config('search_path', 'elsewhere', false)",
        "BEGIN; SET LOCAL search_path = public",
        "ROLLBACK",
        "DISCARD ALL",
        "BEGIN; CREATE TEMP TABLE orders ON COMMIT DROP AS SELECT 1 AS id, 2 AS total, 'in it' AS note",
        "COMMIT",
        "DO $$ BEGIN CREATE TEMP TABLE orders (id int, total int, note text); END $$",
        "DISCARD TEMP",
        "SAVEPOINT a",
        "BEGIN; SAVEPOINT a; SET search_path = elsewhere",
        "ROLLBACK TO a",
        "COMMIT",
        "SET ROLE pg_monitor",
        "RESET ROLE",
    ];
    for switch in switches {
        pair.simple(switch).await;
        for sql in again {
            if sql.starts_with("UPDATE orders") || !sql.starts_with("UPDATE") {
                pair.simple(sql).await;
            }
            pair.extended(sql, &[], 0).await;
        }
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn a_query_of_the_migrated_and_of_a_temporary_table_of_its_name_stays_on_the_source() {
    let shadow = crate::live::ORDERS_V2;
    let toml = crate::live::orders_toml("", "reads = 100");
    let live = Live::ready(&format!("{ORDERS};{shadow}"), &toml, &["orders_v2"]).await;
    let sql = "SELECT x.total, y.note FROM orders x JOIN public.orders y USING (id)";
    live.until_shadow_serves(&live.client().await, sql).await;
    let mut pair = Pair::new(&live, ORDERS).await;
    pair.simple("CREATE TEMP TABLE orders (LIKE public.orders INCLUDING ALL)").await;
    pair.simple("INSERT INTO orders VALUES (3, 5, 6, 'temporary')").await;
    pair.every_way(sql).await;
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn a_prepared_statement_follows_the_name_as_postgres_does() {
    use crate::live::raw::{bind, execute, parse, sync};
    let more = "CREATE SCHEMA elsewhere; \
                CREATE TABLE elsewhere.orders (LIKE orders INCLUDING ALL); \
                INSERT INTO elsewhere.orders VALUES (1, 1, 1, 'elsewhere')";
    let ddl = format!("{ORDERS};{more}");
    let shadow = crate::live::ORDERS_V2;
    let toml = crate::live::orders_toml("", "reads = 100");
    let live = Live::ready(&format!("{ddl};{shadow}"), &toml, &["orders_v2"]).await;
    let mut pair = Pair::new(&live, &ddl).await;
    let named = [
        parse("w", "UPDATE orders SET total = total + 1 WHERE id = $1 RETURNING note", &[]),
        parse("r", "SELECT note, total FROM orders WHERE id = $1", &[]),
        sync(),
    ];
    pair.exchange("prepare", &named.concat(), 1).await;
    for switch in [
        "SELECT 1",
        "SET search_path = elsewhere",
        "SET search_path = public",
        "CREATE TEMP TABLE orders (LIKE public.orders INCLUDING ALL)",
        "DROP TABLE pg_temp.orders",
    ] {
        pair.simple(switch).await;
        for name in ["w", "r", "w", "r"] {
            let run = [bind("", name, 0, &[Some(b"1")], 0), execute("", 0), sync()];
            pair.exchange(&format!("{name} after {switch}"), &run.concat(), 1).await;
        }
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

/// Statements of one text or group that name another schema for a while, and whether the server keeps it.
const FOR_A_WHILE: &[&[&str]] = &[
    &["SET search_path = elsewhere", "SELECT 1 / 0"],
    &[
        "SET search_path = elsewhere",
        "UPDATE orders SET total = total + 1 WHERE id = 1",
        "SELECT 1 / 0",
    ],
    &["SELECT set_config('search_path', 'elsewhere', false)", "SELECT 1 / 0"],
    &["BEGIN", "SET search_path = elsewhere", "SELECT 1 / 0", "COMMIT"],
    &["SET LOCAL search_path = elsewhere"],
    &["SET LOCAL search_path = elsewhere", "UPDATE orders SET total = total + 1 WHERE id = 1"],
    &["SET LOCAL search_path = elsewhere", "SELECT note, total FROM orders WHERE id = 1"],
    &["SET LOCAL search_path = elsewhere", "SELECT 1 / 0"],
    &[
        "SET search_path = elsewhere",
        "SET LOCAL search_path = public",
        "DELETE FROM orders WHERE id = 2",
    ],
    &["RESET search_path"],
    &["SET search_path = elsewhere", "RESET search_path", "SELECT 1 / 0"],
];

#[tokio::test]
async fn a_search_path_that_is_undone_or_local_names_the_other_table_no_longer() {
    use crate::live::raw::{bind, execute, parse, query, sync};
    let more = "CREATE SCHEMA elsewhere; \
                CREATE TABLE elsewhere.orders (id int PRIMARY KEY, total int, note text); \
                INSERT INTO elsewhere.orders SELECT i, 1, 'elsewhere' FROM generate_series(1, 9) i";
    let ddl = format!("{ORDERS};{more}");
    let shadow = crate::live::ORDERS_V2;
    let toml = crate::live::orders_toml("", "reads = 100");
    let live = Live::ready(&format!("{ddl};{shadow}"), &toml, &["orders_v2"]).await;
    let read = "SELECT note, total FROM orders WHERE id = 1";
    live.until_shadow_serves(&live.client().await, read).await;
    let mut pair = Pair::new(&live, &ddl).await;
    let write = "UPDATE orders SET total = total + 1 WHERE id = 1 RETURNING note, total";
    for statements in FOR_A_WHILE {
        let one =
            |sql: &&str| [parse("", sql, &[]), bind("", "", 0, &[], 0), execute("", 0)].concat();
        let group = [statements.iter().map(one).collect::<Vec<_>>().concat(), sync()].concat();
        for (protocol, frames) in [("text", query(&statements.join("; "))), ("group", group)] {
            pair.exchange(&format!("{protocol}: {statements:?}"), &frames, 1).await;
            for sql in [write, read, "SELECT count(*), sum(total) FROM orders"] {
                pair.simple(sql).await;
                pair.extended(sql, &[], 0).await;
            }
            pair.simple("SHOW search_path").await;
            pair.simple("ROLLBACK").await;
            pair.extended(write, &[], 0).await;
            pair.simple(read).await;
            pair.simple("TABLE elsewhere.orders ORDER BY id").await;
        }
        pair.same();
        live.orders_in_step().await;
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn a_table_by_the_name_of_its_database_is_followed() {
    use crate::live::raw::{bind, execute, frame, parse, query, sync};
    let live = Live::orders("", "reads = 100").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    let extended =
        |sql: &str| [parse("", sql, &[]), bind("", "", 0, &[], 0), execute("", 0), sync()].concat();
    for sql in [
        "UPDATE <db>.public.orders SET total = total + 1 WHERE id = 5",
        "UPDATE \"<db>\" . public . \"orders\" SET total = total + 1",
        "UPDATE <db>.public.orders AS o SET total = 8 WHERE o.id = 4 RETURNING o.id, total",
        "UPDATE <db>.public.orders SET total = 9 WHERE <db>.public.orders.id = 4 RETURNING orders.total",
        "INSERT INTO <db>.public.orders VALUES (60, 1), (61, 1) ON CONFLICT (id) DO NOTHING",
        "SELECT note, total FROM <db>.public.orders WHERE id = 5",
        "SELECT count(*), sum(total) FROM <db>.public.orders",
        "TABLE <db>.public.orders ORDER BY id",
        "DELETE FROM <db>.public.orders WHERE id = 60 RETURNING id",
        "WITH d AS (DELETE FROM <db>.public.orders WHERE id = 61 RETURNING id) SELECT * FROM d",
        "UPDATE nowhere.public.orders SET total = 0",
        "SELECT * FROM nowhere.public.orders",
        "UPDATE <db>.elsewhere.orders SET total = 0",
    ] {
        // A read comes to the shadow when it has been looked at.
        for _ in 0..3 {
            pair.own(sql, query).await;
            pair.own(sql, extended).await;
        }
        live.orders_in_step().await;
    }
    let lines = [frame(b'd', b"70\t1\n"), frame(b'c', b"")].concat();
    pair.own("COPY <db>.public.orders (id, user_id) FROM STDIN", |sql| {
        [query(sql), lines.clone()].concat()
    })
    .await;
    live.orders_in_step().await;
    pair.own("TRUNCATE <db>.public.orders", query).await;
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

const ELSEWHERE: &str = "CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.orders (k text, total int); \
                         INSERT INTO elsewhere.orders VALUES ('x', 999)";

const LOCAL: &str = "SET LOCAL search_path = public";
/// Of the migrated table, and of the one of another shape that has its name elsewhere.
const HERE: &str = "UPDATE orders SET total = total + 1 WHERE id = 5";
const THERE: &str = "UPDATE orders SET total = total + 1";

async fn elsewhere() -> (Live, Pair) {
    let live = Live::orders("", "reads = 100").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    pair.simple(ELSEWHERE).await;
    (live, pair)
}

/// What was asked while the path was another is not believed behind the transaction that had set it.
#[tokio::test]
async fn a_path_that_ends_with_its_transaction_is_not_that_of_what_is_sent_behind_it() {
    let (live, mut pair) = elsewhere().await;
    pair.simple("SET search_path = elsewhere").await;
    for end in ["COMMIT", "ROLLBACK", "COMMIT AND CHAIN", "ROLLBACK AND CHAIN"] {
        let texts = ["BEGIN", LOCAL, HERE, end, THERE, "SELECT total FROM orders"];
        for sql in texts {
            pair.simple(sql).await;
        }
        pair.simple("COMMIT").await;
        let packet: Vec<u8> = texts.iter().flat_map(|sql| query(sql)).collect();
        pair.exchange(&format!("{end}, one packet"), &packet, texts.len()).await;
        pair.simple("COMMIT").await;
        let group: Vec<u8> = texts.iter().flat_map(|sql| one(sql)).collect();
        pair.exchange(&format!("{end}, one group"), &[group, sync()].concat(), 1).await;
        pair.simple("COMMIT").await;
        live.orders_in_step().await;
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

/// The query of a cursor is run when it is fetched from.
#[tokio::test]
async fn a_path_that_a_cursor_sets_is_that_of_what_is_sent_behind_its_fetch() {
    let (live, mut pair) = elsewhere().await;
    let set = "SELECT set_config('search_path', 'elsewhere', false)";
    let declare = format!("DECLARE c CURSOR FOR {set}");
    pair.exchange("prepared", &[parse("f", "FETCH ALL FROM c", &[]), sync()].concat(), 1).await;
    pair.simple(&format!("PREPARE s AS {set}")).await;
    let run_f = [bind("", "f", 0, &[], 0), execute("", 0), sync()].concat();
    let explain = "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) EXECUTE s";
    for runs in
        [query("FETCH ALL FROM c"), query("MOVE c"), query("EXECUTE f"), run_f, query(explain)]
    {
        pair.simple("BEGIN").await;
        pair.simple(&declare).await;
        pair.simple(HERE).await;
        pair.exchange("runs", &runs, 1).await;
        pair.simple(THERE).await;
        pair.simple("SELECT total FROM orders").await;
        pair.simple("ROLLBACK").await;
        pair.simple("RESET search_path").await;
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

/// SET LOCAL without a block ends with its group.
#[tokio::test]
async fn a_local_path_without_a_block_ends_with_its_group() {
    let (live, mut pair) = elsewhere().await;
    pair.simple("SET search_path = elsewhere").await;
    let groups = [one(LOCAL), one(HERE), sync(), one(THERE), sync()].concat();
    pair.exchange("groups", &groups, 2).await;
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn a_path_that_a_portal_or_a_statement_of_sql_sets_is_asked_for_again() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    pair.simple(ELSEWHERE).await;
    let sets = "SELECT set_config('search_path', 'elsewhere', false)";
    let update = "UPDATE orders SET total = total + 1";
    pair.simple(&format!("PREPARE s AS {sets}")).await;
    pair.simple("UPDATE orders SET total = 3 WHERE id = 3").await;
    let by_name = [bind("", "s", 0, &[], 0), execute("", 0), sync()].concat();
    pair.exchange("by the name", &by_name, 1).await;
    pair.simple(update).await;
    pair.simple("SET search_path = public").await;
    pair.simple("UPDATE orders SET total = 4 WHERE id = 3").await;
    pair.simple("BEGIN").await;
    pair.exchange("bound", &[parse("", sets, &[]), bind("p1", "", 0, &[], 0), sync()].concat(), 1)
        .await;
    pair.simple("UPDATE orders SET total = 5 WHERE id = 3").await;
    pair.simple("FETCH ALL FROM p1").await;
    pair.simple(update).await;
    pair.simple("COMMIT").await;
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

/// What is asked first would take the snapshot that these are to come before.
#[tokio::test]
async fn nothing_is_asked_before_a_text_that_sets_the_level_of_its_block_or_locks_for_it() {
    let live = Live::orders("", "").await;
    for first in [
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE READ WRITE",
        "LOCK TABLE orders IN EXCLUSIVE MODE",
    ] {
        let mut pair = Pair::new(&live, ORDERS).await;
        live.db.client.batch_execute("UPDATE orders SET total = id * 10").await.unwrap();
        live.verified("orders_v2").await;
        pair.simple("BEGIN").await;
        pair.simple(&format!("{first}; UPDATE orders SET total = total + 1 WHERE id = 5")).await;
        pair.simple("SHOW transaction_isolation").await;
        pair.simple("COMMIT").await;
        live.orders_in_step().await;
        pair.same();
    }
}
