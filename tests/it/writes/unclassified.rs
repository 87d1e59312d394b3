//! Writes that cannot be mirrored: they run and mark the migration in their own transaction, or
//! are refused.

use crate::live::raw::{frame, query};
use crate::live::{Live, ORDERS, ORDERS_TABLE, Pair, outcome, text};
use tokio_postgres::Client;

const SEEN: &str = "SELECT count(*) FROM pgsegue.dirty_keys WHERE key IS NULL";

const FORMS: &[&str] = &[
    "MERGE INTO orders o USING other s ON o.id = s.id WHEN MATCHED THEN UPDATE SET total = 1 \
     WHEN NOT MATCHED THEN INSERT (id, user_id) VALUES (s.id + (random() * 0)::int, 1)",
    "DO $$ BEGIN UPDATE orders SET total = 4; END $$",
    "DO 'BEGIN EXECUTE ''DELETE FROM or'' || ''ders -- orders''; END'",
    "INSERT INTO orders AS o VALUES (2, 1, 1) ON CONFLICT (id) DO UPDATE SET id = o.id + 5000",
    "UPDATE orders SET id = id + 3000 WHERE id = 3 AND random() < 2",
    "EXPLAIN (ANALYZE, TIMING OFF, SUMMARY OFF, COSTS OFF) UPDATE orders SET total = 8",
    "CREATE TABLE copied AS WITH u AS (SELECT * FROM orders) SELECT * FROM u",
    "WITH x AS (WITH y AS (SELECT 1) UPDATE orders SET id = id + 4000 WHERE id = 7 RETURNING id) \
     SELECT count(*) FROM x",
    "WITH x AS (DELETE FROM orders WHERE id = 8 RETURNING id::text) SELECT count(*) FROM x",
    "EXPLAIN (\"analyze\", TIMING OFF, SUMMARY OFF, COSTS OFF) DELETE FROM orders WHERE id = 10",
    "LOCK TABLE orders IN SHARE MODE",
    "COPY orders (id, user_id) FROM PROGRAM 'echo 900,1' CSV",
];

/// Those that this version of Postgres knows and that cannot be mirrored there.
async fn forms(client: &Client) -> Vec<&'static str> {
    let version: i32 = text(client, "SHOW server_version_num").await.parse().unwrap();
    let old_row = |sql: &str| sql.contains("SET id =") && version >= 180_000;
    let merge = |sql: &str| sql.starts_with("MERGE") && !(150_000..170_000).contains(&version);
    FORMS.iter().copied().filter(|sql| !old_row(sql) && !merge(sql)).collect()
}

#[tokio::test]
async fn a_write_that_cannot_be_mirrored_runs_and_marks_the_migration_in_its_transaction() {
    let ddl = format!("{ORDERS}; CREATE SEQUENCE numbers START 7000");
    let live = Live::orders("", "").await;
    live.db.client.batch_execute("CREATE SEQUENCE numbers START 7000").await.unwrap();
    let mut pair = Pair::new(&live, &ddl).await;
    for sql in forms(&live.db.client).await {
        for end in ["ROLLBACK", "COMMIT"] {
            live.until_clean("orders_v2").await;
            pair.simple("BEGIN").await;
            pair.simple(sql).await;
            let writes = !sql.starts_with("CREATE TABLE copied") && !sql.starts_with("LOCK");
            let seen = pair.live.rows(SEEN).await.concat();
            if writes {
                assert_eq!(seen, [Some("1".to_owned())], "{sql}");
            }
            assert_eq!(text(&live.db.client, SEEN).await, "0", "{sql}");
            pair.simple(end).await;
            live.orders_in_step().await;
        }
        if !sql.starts_with("LOCK") {
            pair.extended(sql, &[], 0).await;
        }
        live.orders_in_step().await;
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn rows_copied_in_are_marked_and_rows_copied_out_come_through() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    let line = |text: &str| frame(b'd', text.as_bytes());
    let copies = [
        vec![
            line("60\t1\t1\tcopied\tx60\n"),
            line("61\t1\t1\t"),
            line("\\N\t\\N\n"),
            frame(b'c', b""),
        ],
        vec![line("62\t1\t1\tx\tx62\n"), frame(b'f', b"changed my mind\0")],
        vec![line("63\tx\n"), frame(b'c', b"")],
        vec![frame(b'c', b"")],
    ];
    for data in &copies {
        for options in ["", " WITH (FORMAT text)"] {
            let sql = format!("COPY orders FROM STDIN{options}");
            pair.exchange(&sql, &[query(&sql), data.concat()].concat(), 1).await;
            pair.simple("DELETE FROM orders WHERE id = 60").await;
        }
        pair.simple("DELETE FROM orders WHERE id IN (60, 61)").await;
        live.orders_in_step().await;
    }
    pair.exchange("COPY TO", &query("COPY (SELECT id FROM orders ORDER BY id) TO STDOUT"), 1).await;
    pair.exchange("COPY TO", &query("COPY orders TO STDOUT"), 1).await;
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn reads_leave_the_shadow_from_the_mark_until_a_full_verify_has_passed() {
    let live = Live::orders("", "reads = 100").await;
    let (client, reader, direct) = (live.client().await, live.client().await, live.direct().await);
    let read = "SELECT total FROM orders WHERE id = 5";
    live.until_shadow_serves(&reader, read).await;
    // Neither repair nor a shadow read gets past this lock.
    direct.batch_execute("BEGIN; LOCK TABLE orders_v2").await.unwrap();
    client.batch_execute("BEGIN").await.unwrap();
    client.batch_execute("DO $$ BEGIN UPDATE orders SET total = 4; END $$").await.unwrap();
    let before = live.shadow_reads();
    assert_eq!(text(&reader, read).await, "50");
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(text(&reader, read).await, "4");
    assert!((live.shadow_reads() - before).abs() < 0.5, "a shadow read was served");
    direct.batch_execute("COMMIT").await.unwrap();
    live.orders_in_step().await;
    live.until_shadow_serves(&reader, read).await;
    assert_eq!(text(&reader, read).await, "4");
}

#[tokio::test]
async fn unclassified_refuse_changes_nothing_and_says_what_to_do() {
    let live = Live::orders("unclassified = \"refuse\"", "").await;
    live.db.client.batch_execute("CREATE SEQUENCE numbers START 7000").await.unwrap();
    let client = live.client().await;
    for sql in forms(&client).await {
        if sql.starts_with("CREATE") || sql.starts_with("LOCK") {
            continue;
        }
        let refused = outcome(&client, sql).await.unwrap_err();
        assert!(
            refused.starts_with("0A000 this statement on \"public.orders\" cannot be mirrored"),
            "{refused}"
        );
        let Err(error) = client.prepare(sql).await else {
            let error = client.execute(sql, &[]).await.unwrap_err();
            assert_eq!(error.code().unwrap().code(), "0A000", "{sql}");
            continue;
        };
        assert_eq!(error.code().unwrap().code(), "0A000", "{sql}");
    }
    for sql in
        ["SELECT count(*) FROM orders", "ANALYZE orders", "EXPLAIN UPDATE orders SET total = 1"]
    {
        outcome(&client, sql).await.unwrap();
    }
    client.batch_execute("BEGIN; UPDATE orders SET total = 1").await.unwrap();
    assert!(outcome(&client, "TRUNCATE orders_v2").await.unwrap_err().starts_with("0A000"));
    let aborted = outcome(&client, "SELECT 1").await.unwrap_err();
    assert!(aborted.starts_with("25P02"), "{aborted}");
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(text(&client, "SELECT count(*), sum(total) FROM orders").await, "10 550");
    assert!(live.dirty().await.is_empty());
    live.orders_in_step().await;
}

#[tokio::test]
async fn a_name_that_another_session_gives_back_to_the_table_is_asked_for_again() {
    let live = Live::orders("", "").await;
    let direct = live.direct().await;
    direct.batch_execute("CREATE SCHEMA oth; CREATE TABLE oth.orders (LIKE orders)").await.unwrap();
    let client = live.client().await;
    client.batch_execute("SET search_path = oth, public").await.unwrap();
    client.batch_execute("UPDATE orders SET total = 1").await.unwrap();
    direct.batch_execute("DROP TABLE oth.orders").await.unwrap();
    client.batch_execute("UPDATE orders SET total = 4321 WHERE id = 1").await.unwrap();
    assert_eq!(text(&client, "SELECT total FROM orders WHERE id = 1").await, "4321");
    live.orders_in_step().await;
}
