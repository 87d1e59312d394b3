//! Statements that are prepared and executed in SQL: replies are the client's own, writes are
//! mirrored by what is true when they are executed, and what is not known is marked.

use crate::live::raw::{bind, close, describe, execute, one, parse, query, sync};
use crate::live::{Live, ORDERS, ORDERS_TABLE, ORDERS_V2, Pair, orders_toml, text};
use crate::support::eventually;

/// Everything that is prepared, and how it is executed.
const PREPARED: &[(&str, &[&str])] = &[
    ("(int) AS UPDATE orders SET total = total + 1 WHERE id = $1", &["(1)", "('2')", "(1 + 2)"]),
    ("AS UPDATE orders SET total = $2 WHERE id = $1 RETURNING *", &["(1, 5)", "(99, 1)", "(1)"]),
    ("(int, text) AS INSERT INTO orders (id, user_id, note) VALUES ($1, 1, $2)", &["(70, 'é')"]),
    ("(int) AS INSERT INTO orders VALUES ($1, 1, 1) RETURNING id, note", &["(71)", "(NULL)"]),
    (
        "AS INSERT INTO orders VALUES ($1, 1, 1) ON CONFLICT (id) DO UPDATE SET note = $2",
        &["(71, 'again')", "(72, 'new')"],
    ),
    (
        "(bigint) AS DELETE FROM orders WHERE id = $1",
        &["(3)", "(3)", "((SELECT max(id) FROM orders))"],
    ),
    ("AS DELETE FROM orders WHERE id > $1 RETURNING id, total", &["(8)"]),
    ("AS UPDATE orders SET id = id + 1000 WHERE id = 4 RETURNING id", &["", "()"]),
    ("AS UPDATE orders SET total = total / $1", &["(0)", "(2)", "('x')"]),
    ("(int) AS WITH d AS (DELETE FROM orders WHERE id = $1 RETURNING *) SELECT * FROM d", &["(5)"]),
    ("AS SELECT id, total FROM orders WHERE id = $1", &["(1)"]),
    ("AS UPDATE other SET note = $1", &["('elsewhere')"]),
    ("AS UPDATE orders SET nothing = 1", &[""]),
    ("AS UPDATE orders SET total = ", &[""]),
    ("(nothing) AS UPDATE orders SET total = $1", &["(1)"]),
];

async fn pair() -> (Live, Pair) {
    let live = Live::orders("", "").await;
    let pair = Pair::new(&live, ORDERS).await;
    (live, pair)
}

#[tokio::test]
async fn executed_writes_look_the_same_as_without_the_proxy_and_are_mirrored() {
    let (live, mut pair) = pair().await;
    for (prepared, executed) in PREPARED {
        for how in ["simple", "extended"] {
            let prepare = format!("PREPARE \"p é\" {prepared}");
            match how {
                "simple" => pair.simple(&prepare).await,
                _ => pair.extended(&prepare, &[], 0).await,
            }
            pair.simple(&prepare).await;
            for arguments in *executed {
                let execute = format!("EXECUTE /* it */ \"p é\" {arguments} ; -- the end");
                pair.every_way(&execute).await;
                live.orders_in_step().await;
            }
            pair.simple("DEALLOCATE \"p é\"").await;
        }
    }
    let mirrored = live.statements("mirrored", "write");
    assert!(mirrored > 100.0, "only {mirrored} mirrored");
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn what_is_prepared_in_sql_is_not_marked() {
    let live = Live::orders("unclassified = \"refuse\"", "").await;
    let client = live.client().await;
    let update = "PREPARE w (int) AS UPDATE orders SET total = total + 1 WHERE id = $1";
    client.batch_execute(update).await.unwrap();
    for sql in ["EXECUTE w(1)", "BEGIN; EXECUTE w(2); EXECUTE w(3); COMMIT", "EXECUTE w(4)"] {
        client.batch_execute(sql).await.unwrap();
    }
    client.execute("EXECUTE w(5)", &[]).await.unwrap();
    client.batch_execute("DEALLOCATE w").await.unwrap();
    client.batch_execute("PREPARE w AS DELETE FROM orders; EXECUTE w").await.unwrap();
    assert!(live.dirty().await.is_empty());
    assert_eq!(text(&live.db.client, "SELECT count(*) FROM orders_v2").await, "0");
    live.orders_in_step().await;
}

#[tokio::test]
async fn names_come_and_go_as_they_do_without_the_proxy() {
    let (live, mut pair) = pair().await;
    let update = "AS UPDATE orders SET total = total + 1 WHERE id";
    for sql in [
        format!("PREPARE p {update} = 1; EXECUTE p; EXECUTE p; DEALLOCATE p; EXECUTE p"),
        "EXECUTE p".to_owned(),
        format!("BEGIN; PREPARE p {update} = 2; ROLLBACK"),
        "EXECUTE p".to_owned(),
        format!("PREPARE p {update} = 3"),
        "EXECUTE P; EXECUTE \"P\"".to_owned(),
        "BEGIN; EXECUTE p; SELECT 1 / 0".to_owned(),
        "EXECUTE p".to_owned(),
        "ROLLBACK; EXECUTE p".to_owned(),
        format!("DEALLOCATE PREPARE p; PREPARE p {update} = 4; EXECUTE p; SELECT 1; EXECUTE p"),
        "DEALLOCATE p; SELECT 1 / 0".to_owned(),
        "EXECUTE p".to_owned(),
        format!("PREPARE p {update} = 5; SELECT 1 / 0"),
        "EXECUTE p".to_owned(),
        "DEALLOCATE ALL; EXECUTE p".to_owned(),
        format!("PREPARE q {update} = 6"),
        "EXECUTE q".to_owned(),
        "DISCARD ALL".to_owned(),
        "EXECUTE q".to_owned(),
        format!("PREPARE q {update} = 7; PREPARE r {update} = 8"),
        "EXECUTE q; EXECUTE r; EXECUTE q".to_owned(),
        "DEALLOCATE nothing".to_owned(),
        "DO $$ BEGIN EXECUTE 'DEALLOCATE q'; END $$".to_owned(),
        "EXECUTE q".to_owned(),
        format!("PREPARE q {update} = 9"),
        "EXECUTE q; EXECUTE r".to_owned(),
        "DEALLOCATE ALL".to_owned(),
        "SELECT name FROM pg_prepared_statements".to_owned(),
    ] {
        pair.simple(&sql).await;
        live.orders_in_step().await;
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn names_are_known_in_pipelines_too() {
    let (live, mut pair) = pair().await;
    let prepare = one("PREPARE p (int) AS UPDATE orders SET total = total + 1 WHERE id = $1");
    let (run, drop) = (one("EXECUTE p (1)"), one("DEALLOCATE p"));
    let fails = one("SELECT 1 / 0");
    for (frames, readies) in [
        (vec![prepare.clone(), run.clone(), sync()], 1),
        (vec![drop.clone(), run.clone(), sync()], 1),
        (vec![prepare.clone(), sync(), run.clone(), sync(), query("EXECUTE p (2)")], 3),
        (vec![fails.clone(), drop.clone(), sync(), run.clone(), sync()], 2),
        (vec![query("DEALLOCATE p"), run.clone(), sync(), prepare.clone(), sync()], 3),
        (vec![query("EXECUTE p (3)"), drop.clone(), sync(), query("EXECUTE p (3)")], 3),
        (vec![fails, prepare.clone(), sync(), run.clone(), sync()], 2),
        (
            vec![
                prepare,
                run,
                describe(b'S', "p"),
                close(b'S', "p"),
                sync(),
                one("EXECUTE p (4)"),
                sync(),
            ],
            2,
        ),
    ] {
        pair.pipeline("a pipeline", &frames.concat(), readies).await;
        live.orders_in_step().await;
    }
    let named = [
        query("PREPARE p (int) AS DELETE FROM orders WHERE id = $1 RETURNING *"),
        parse("e", "EXECUTE p (7)", &[]),
        describe(b'S', "e"),
        sync(),
        bind("", "e", 0, &[], 1),
        describe(b'P', ""),
        execute("", 0),
        bind("c", "e", 0, &[], 0),
        execute("c", 0),
        sync(),
    ];
    pair.exchange("a named EXECUTE", &named.concat(), 3).await;
    let wire = [parse("w", "DELETE FROM orders WHERE id = 8", &[]), sync()].concat();
    pair.exchange("prepared by the protocol", &wire, 1).await;
    pair.simple("DEALLOCATE w").await;
    let bound = [bind("", "p", 0, &[Some(b"9")], 0), execute("", 0), sync()].concat();
    pair.exchange("bound by the protocol", &bound, 1).await;
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn errors_say_the_names_that_the_client_gave() {
    let (live, mut pair) = pair().await;
    pair.simple("PREPARE p (int) AS UPDATE orders SET total = total / $1 WHERE id = 1").await;
    let prepare = [
        parse("e", "EXECUTE p (1)", &[]),
        parse("w", "UPDATE orders SET total = $1 WHERE id = 1", &[23]),
        sync(),
    ];
    pair.exchange("prepare", &prepare.concat(), 1).await;
    live.cli(&["migration", "pause", "orders_v2"]);
    let values: &[&[Option<&[u8]>]] =
        &[&[], &[Some(b"1")], &[Some(b"1"), Some(b"2")], &[Some(b"x")]];
    for name in ["e", "w", ""] {
        for values in values {
            let unnamed = parse("", "EXECUTE p (2)", &[]);
            for portal in ["", "portal"] {
                let bound = [bind(portal, name, 0, values, 0), execute(portal, 0)].concat();
                let first = if name.is_empty() { unnamed.clone() } else { Vec::new() };
                let frames = [first.clone(), bound.clone(), sync(), first, bound, sync()].concat();
                pair.exchange(&format!("{name} with {values:?}"), &frames, 2).await;
            }
        }
    }
    for sql in [
        "EXECUTE p (0)",
        "EXECUTE p",
        "EXECUTE p (1, 2)",
        "EXECUTE p ('x')",
        "SELECT 1; EXECUTE p (1); EXECUTE p (1, 2)",
        "PREPARE q AS DELETE FROM orders WHERE id = $1; EXECUTE p (1); EXECUTE q",
    ] {
        pair.simple(sql).await;
        pair.extended(sql, &[], 0).await;
    }
    pair.same();
}

#[tokio::test]
async fn a_table_that_has_left_the_path_is_missing_where_the_client_named_it() {
    let (live, mut pair) = pair().await;
    pair.simple("SELECT 'é'; PREPARE p (int) AS UPDATE orders SET total = $1 WHERE id = 1").await;
    pair.simple("PREPARE q AS DELETE FROM orders WHERE id = 2 RETURNING *").await;
    for execute in ["EXECUTE p (7)", "EXECUTE q", "SELECT 1; EXECUTE p (8); SELECT 2"] {
        for path in ["''", "pg_catalog", "public", "''", "elsewhere, public"] {
            pair.simple(&format!("SET search_path = {path}")).await;
            pair.simple(execute).await;
            pair.extended(execute, &[], 1).await;
            pair.simple("BEGIN").await;
            pair.extended(execute, &[], 0).await;
            pair.simple("ROLLBACK").await;
        }
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn what_is_not_prepared_is_the_servers_to_say() {
    let live = Live::orders("unclassified = \"refuse\"", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    let update = "AS UPDATE orders SET total = total + 1 WHERE id";
    for sql in [
        "EXECUTE nothing".to_owned(),
        "EXECUTE nothing (1, 'x')".to_owned(),
        format!("PREPARE p {update} = 1; EXECUTE p; DEALLOCATE p; EXECUTE p"),
        format!("PREPARE p {update} = 1"),
        "DEALLOCATE p; EXECUTE p".to_owned(),
        "EXECUTE p".to_owned(),
        "DEALLOCATE ALL; EXECUTE p".to_owned(),
        "EXECUTE p".to_owned(),
        "DISCARD ALL".to_owned(),
        "EXECUTE p".to_owned(),
        "EXPLAIN EXECUTE p".to_owned(),
    ] {
        pair.simple(&sql).await;
        pair.extended(&sql, &[], 0).await;
    }
    assert_eq!(live.dirty().await, []);
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn names_are_known_behind_what_executes_one_within_something_else() {
    let (live, mut pair) = pair().await;
    pair.simple("PREPARE w (int) AS UPDATE orders SET total = total + 1 WHERE id = $1").await;
    pair.simple("PREPARE r AS SELECT id, total FROM orders ORDER BY id").await;
    let mut marked = live.statements("recorded", "write");
    for (sql, marks) in [
        ("EXPLAIN (COSTS OFF) EXECUTE w(1)", 0.0),
        ("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) EXECUTE w(1)", 1.0),
        ("EXECUTE w(2)", 0.0),
        ("CREATE TABLE kept AS EXECUTE r", 1.0),
        ("BEGIN; EXECUTE w(2); EXECUTE w(3); COMMIT", 0.0),
    ] {
        pair.simple(sql).await;
        let now = live.statements("recorded", "write");
        assert!((now - marked - marks).abs() < 0.1, "{sql}: {marked} to {now}");
        marked = now;
        pair.extended(sql, &[], 0).await;
        marked += if sql.starts_with("BEGIN") { 0.0 } else { marks };
        live.orders_in_step().await;
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn executed_statements_are_in_the_workload() {
    let (live, mut pair) = pair().await;
    pair.simple("PREPARE w (int) AS UPDATE orders SET total = total + 1 WHERE id = $1").await;
    pair.simple("EXECUTE w(1)").await;
    pair.extended("EXECUTE w(2)", &[], 0).await;
    pair.simple("SELECT 1; EXECUTE w(3)").await;
    eventually("three calls are counted", async || {
        let (_, body) = live.proxy.get("/migrations/orders_v2/workload");
        let report: serde_json::Value = serde_json::from_str(&body).unwrap();
        let mut lines = report["statements"].as_array().unwrap().iter();
        let text = "update orders set total = total + ? where id = $1";
        let calls = lines.find(|l| l["text"] == text).map(|line| line["calls"].clone());
        if calls == Some(3.into()) { Ok(()) } else { Err(body) }
    })
    .await;
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn what_executes_a_name_within_something_else_is_marked() {
    let (live, mut pair) = pair().await;
    for sql in [
        "PREPARE w (int) AS UPDATE orders SET total = total + 1 WHERE id = $1",
        "PREPARE r AS SELECT id, total FROM orders ORDER BY id",
        "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) EXECUTE w(3)",
        "EXPLAIN (COSTS OFF) EXECUTE w(3)",
        "CREATE TABLE kept AS EXECUTE r",
        "BEGIN; EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) EXECUTE w(4); EXECUTE w(5); COMMIT",
        "EXECUTE r",
    ] {
        pair.simple(sql).await;
        live.orders_in_step().await;
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn what_was_prepared_before_the_migration_is_mirrored_during_it() {
    let toml = orders_toml("unclassified = \"refuse\"", "");
    let live = Live::declared(&format!("{ORDERS};{ORDERS_V2}"), &toml).await;
    let mut pair = Pair::new(&live, ORDERS).await;
    pair.simple("PREPARE w (int) AS UPDATE orders SET total = total + 1 WHERE id = $1").await;
    pair.simple("PREPARE d AS DELETE FROM orders WHERE id = 3 RETURNING *; SELECT 1").await;
    pair.simple("EXECUTE w(1)").await;
    live.start("orders_v2");
    live.until_phase("orders_v2", "ready").await;
    for sql in ["EXECUTE w(2)", "EXECUTE d", "BEGIN; EXECUTE w(4); COMMIT"] {
        pair.simple(sql).await;
        assert_eq!(live.dirty().await, []);
        live.orders_in_step().await;
    }
    pair.extended("EXECUTE w(5)", &[], 0).await;
    live.orders_in_step().await;
    live.cli(&["migration", "abort", "orders_v2", "--why", "a test"]);
    pair.simple("EXECUTE w(6)").await;
    pair.extended("EXECUTE w(7)", &[], 0).await;
    pair.same();
}

#[tokio::test]
async fn what_was_prepared_before_the_migration_was_declared_is_not_missed() {
    let ddl = format!("{ORDERS};{ORDERS_V2}; CREATE TABLE other_v2 (LIKE other INCLUDING ALL)");
    for before in ["", OTHER] {
        let live = Live::declared(&ddl, before).await;
        let mut pair = Pair::new(&live, ORDERS).await;
        pair.simple("PREPARE w (int) AS UPDATE orders SET total = total + 1 WHERE id = $1").await;
        pair.simple("SELECT 1; PREPARE v AS DELETE FROM orders WHERE id = 9").await;
        pair.simple("EXECUTE w(1)").await;
        live.proxy.rewrite_config(&format!("{}{before}", orders_toml("", "")));
        live.proxy.signal("HUP");
        eventually("the migration is declared", async || {
            let said = live.proxy.pgsegue(&["migration", "start", "orders_v2", "--no-wait"]);
            match said.status.success() {
                true => Ok(()),
                false => Err(String::from_utf8_lossy(&said.stderr).into_owned()),
            }
        })
        .await;
        live.until_phase("orders_v2", "ready").await;
        for sql in ["EXECUTE w(2)", "EXECUTE v"] {
            pair.simple(sql).await;
            live.orders_in_step().await;
        }
        pair.extended("EXECUTE w(5)", &[], 0).await;
        pair.finish(&live, &[ORDERS_TABLE]).await;
    }
}

/// A migration of another table.
const OTHER: &str = r#"
[[migration]]
name = "other_v2"
source = "public.other"
shadow = "public.other_v2"
key = ["id"]
[migration.columns]
id = "id"
orders_id = "orders_id"
note = "note"
"#;

/// libpq's PQexecPrepared takes names of PREPARE, too.
#[tokio::test]
async fn every_bind_of_what_sql_has_prepared_is_on_record() {
    let live = Live::orders("", "reads = 100").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    let long = "m".repeat(70);
    let insert = "INSERT INTO orders (id, user_id) VALUES ($1, 1)";
    for name in ["s1", "s2", &long] {
        pair.simple(&format!("PREPARE {name} (int) AS {insert}")).await;
    }
    let mut id = 100;
    for name in ["s1", "s1", "s2", "s1", &long, &long[..63]] {
        id += 1;
        let value = id.to_string();
        let bound = bind("", name, 0, &[Some(value.as_bytes())], 0);
        let before = text(&live.db.client, "SELECT count(*) FROM orders_v2").await;
        pair.exchange(name, &[bound, execute("", 0), sync()].concat(), 1).await;
        // It is not mirrored: the verify that its mark asks for brings it over.
        let after: i64 = before.parse::<i64>().unwrap() + 1;
        eventually("it is found", async || {
            let seen = text(&live.db.client, "SELECT count(*) FROM orders_v2").await;
            if seen == after.to_string() { Ok(()) } else { Err(seen) }
        })
        .await;
        live.until_clean("orders_v2").await;
    }
    let log = live.proxy.log();
    assert!(!log.contains("differ: divergence"), "{log}");
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn what_the_protocol_prepared_is_executed_in_sql_behind_code_that_may_prepare() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    let update = "UPDATE orders SET total = total + 1 WHERE id = $1";
    pair.exchange(update, &[parse("s", update, &[]), sync()].concat(), 1).await;
    for _ in 0..3 {
        pair.simple("EXECUTE s (1)").await;
        pair.simple("DO $$ BEGIN EXECUTE 'SELECT 1'; END $$").await;
        pair.simple("EXECUTE s (2)").await;
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

/// One of its tables is hidden by a temporary one by now, the other is not.
#[tokio::test]
async fn an_execute_of_a_write_on_two_tables_is_mirrored_where_one_means_another_now() {
    let live = Live::orders("", "reads = 100").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    let text = "PREPARE p AS WITH a AS (UPDATE orders SET total = 1 WHERE id = 3 RETURNING id), \
                b AS (DELETE FROM public.orders WHERE id = $1 RETURNING id) \
                SELECT (SELECT count(*) FROM a), (SELECT count(*) FROM b)";
    pair.simple(text).await;
    pair.simple("CREATE TEMP TABLE orders (LIKE public.orders INCLUDING ALL)").await;
    pair.simple("EXECUTE p(4)").await;
    pair.simple("INSERT INTO orders VALUES (3, 1, 1)").await;
    pair.extended("EXECUTE p(5)", &[], 0).await;
    pair.simple("SELECT 1; EXECUTE p(6); SELECT 2").await;
    pair.finish(&live, &[ORDERS_TABLE]).await;
    live.orders_in_step().await;
    let log = live.proxy.log();
    assert!(!log.contains("rows that differ: divergence"), "{log}");
}
