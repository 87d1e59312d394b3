//! Transactions that read while the routes change.

use super::run;
use crate::live::raw::{bind, execute, flush, one, parse, query, sync};
use crate::live::{Live, ORDERS, ORDERS_V2, orders_toml, text};
use crate::support::eventually;
use tokio::io::AsyncWriteExt as _;

const READ: &str = "SELECT total FROM orders WHERE id = 5";

#[tokio::test]
async fn repeatable_read_begun_before_reads_were_raised_stays_on_the_source() {
    let live =
        Live::declared(&format!("{ORDERS};{ORDERS_V2}"), &orders_toml("", "reads = 100")).await;
    let (before_start, fresh) = (live.client().await, live.client().await);
    run(&before_start, "BEGIN ISOLATION LEVEL REPEATABLE READ").await;
    assert_eq!(text(&before_start, READ).await, "50");
    live.start("orders_v2");
    live.until_phase("orders_v2", "ready").await;
    live.until_shadow_serves(&fresh, READ).await;
    let before = live.shadow_reads();
    // On the shadow it would see no row at all.
    assert_eq!(text(&before_start, READ).await, "50");
    assert_eq!(text(&before_start, "SELECT count(*) FROM orders").await, "10");
    assert!((live.shadow_reads() - before).abs() < 0.5);
    run(&before_start, "COMMIT; BEGIN ISOLATION LEVEL REPEATABLE READ").await;
    assert_eq!(text(&before_start, READ).await, "50");
    run(&before_start, "COMMIT").await;
    // Lowered in the middle: the rest of the transaction reads the source, and is right.
    run(&fresh, "BEGIN ISOLATION LEVEL REPEATABLE READ").await;
    assert_eq!(text(&fresh, READ).await, "50");
    live.cli(&["route", "orders_v2", "--reads", "0", "--why", "down"]);
    live.until_source_serves(&before_start, READ).await;
    let lowered = live.shadow_reads();
    assert_eq!(text(&fresh, READ).await, "50");
    assert!((live.shadow_reads() - lowered).abs() < 0.5);
    live.cli(&["route", "orders_v2", "--reads", "100", "--why", "up"]);
    assert_eq!(text(&fresh, READ).await, "50");
    run(&fresh, "COMMIT").await;
}

/// What is sent before key 5 is dirty, and behind its snapshot, which is taken then: in all of them what it is
/// to read is what the source has in that snapshot.
const BEFORE_THE_SNAPSHOT: &[(&[&str], &[&str])] = &[
    // It fails, as in every savepoint: the level is what it was.
    (
        &["BEGIN ISOLATION LEVEL REPEATABLE READ"],
        &["SAVEPOINT a", "SET TRANSACTION ISOLATION LEVEL READ COMMITTED", "ROLLBACK TO a"],
    ),
    // The server does not come to what would begin another block.
    (
        &["BEGIN ISOLATION LEVEL REPEATABLE READ"],
        &[
            "SAVEPOINT a",
            "SELECT 1 / 0; COMMIT; BEGIN ISOLATION LEVEL READ COMMITTED",
            "ROLLBACK TO a",
        ],
    ),
    // One packet: the read is answered when the block has been sent.
    (&["SELECT ctid FROM orders WHERE id = 5; BEGIN ISOLATION LEVEL REPEATABLE READ"], &[]),
    (
        &[
            "BEGIN ISOLATION LEVEL REPEATABLE READ",
            "TABLE orders; COMMIT; \
           BEGIN ISOLATION LEVEL REPEATABLE READ",
        ],
        &[],
    ),
];

#[tokio::test]
async fn what_was_sent_around_the_beginning_of_a_repeatable_read_does_not_make_its_snapshot_good() {
    let live = Live::orders("", "reads = 100").await;
    let (writer, locker, mut raw) = (live.client().await, live.direct().await, live.raw().await);
    let packet = |texts: &str| texts.split("; ").flat_map(query).collect::<Vec<_>>();
    for (n, (before, behind)) in BEFORE_THE_SNAPSHOT.iter().enumerate() {
        live.until_shadow_serves(&writer, READ).await;
        for texts in *before {
            raw.exchange(&packet(texts), texts.split("; ").count()).await;
        }
        let total = (500 + n).to_string();
        run(&locker, "BEGIN; SELECT FROM orders_v2 WHERE id = 5 FOR UPDATE").await;
        run(&writer, &format!("UPDATE orders SET total = {total} WHERE id = 5")).await;
        raw.exchange(&query("SELECT 1"), 1).await;
        for text in *behind {
            raw.exchange(&query(text), 1).await;
        }
        run(&locker, "ROLLBACK").await;
        live.orders_in_step().await;
        live.until_shadow_serves(&writer, READ).await;
        for _ in 0..2 {
            assert_eq!(raw.rows(READ).await, [[Some(total.clone())]], "{before:?}");
        }
        raw.run("COMMIT").await;
    }
}

/// By default each group has one snapshot, which what is parsed or bound takes as well as what runs.
#[tokio::test]
async fn what_is_parsed_or_bound_has_the_snapshot_that_what_is_read_behind_it_has_by_default() {
    let live = Live::orders("", "reads = 100").await;
    let (writer, locker, mut raw) = (live.client().await, live.direct().await, live.raw().await);
    raw.run("SET default_transaction_isolation = 'repeatable read'").await;
    let prepared = [parse("r", READ, &[]), parse("w", "SELECT 1", &[]), sync()].concat();
    raw.exchange(&prepared, 1).await;
    let read = [bind("", "r", 0, &[], 0), execute("", 0)].concat();
    let first = [parse("", "SELECT 1", &[]), bind("p", "w", 0, &[], 0), bind("p", "r", 0, &[], 0)];
    for (n, first) in first.iter().enumerate() {
        live.until_shadow_serves(&writer, READ).await;
        let total = (800 + n).to_string();
        run(&locker, "BEGIN; SELECT FROM orders_v2 WHERE id = 5 FOR UPDATE").await;
        run(&writer, &format!("UPDATE orders SET total = {total} WHERE id = 5")).await;
        raw.send(&[&first[..], &flush()].concat()).await;
        raw.next().await.unwrap();
        run(&locker, "ROLLBACK").await;
        live.orders_in_step().await;
        live.until_shadow_serves(&writer, READ).await;
        let behind = raw.exchange(&[&read[..], &sync()].concat(), 1).await;
        assert!(behind.contains(&format!("D {total}")), "{n}: {behind:?}");
    }
}

/// The level of a group without a block, and of one that a BEGIN within it opens.
#[tokio::test]
async fn a_level_that_is_set_outside_of_a_block_is_that_of_what_its_group_reads() {
    let live = Live::orders("", "reads = 100").await;
    let (writer, locker, mut raw) = (live.client().await, live.direct().await, live.raw().await);
    let set = one("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ");
    for (n, begin) in [Vec::new(), one("BEGIN")].iter().enumerate() {
        live.until_shadow_serves(&writer, READ).await;
        let total = (600 + n).to_string();
        run(&locker, "BEGIN; SELECT FROM orders_v2 WHERE id = 5 FOR UPDATE").await;
        run(&writer, &format!("UPDATE orders SET total = {total} WHERE id = 5")).await;
        raw.send(&[&set[..], begin, &one("SELECT 1"), &flush()].concat()).await;
        while raw.next().await.unwrap().tag != b'D' {}
        run(&locker, "ROLLBACK").await;
        live.orders_in_step().await;
        live.until_shadow_serves(&writer, READ).await;
        let behind = raw.exchange(&[one(READ), one("COMMIT"), sync()].concat(), 1).await;
        assert!(behind.iter().any(|line| line.contains(&total)), "{behind:?}");
    }
}

/// The mark of the second group is there from when it is sent: that the first is over says nothing of it.
#[tokio::test]
async fn a_gate_stays_closed_for_a_mark_behind_another_group_until_it_is_committed() {
    let live = Live::orders("", "reads = 100").await;
    let writes = "CREATE FUNCTION writes(total int) RETURNS void LANGUAGE plpgsql AS \
                  'BEGIN UPDATE orders SET total = $1 WHERE id = 5; END'";
    let (reader, locker, mut raw) = (live.client().await, live.direct().await, live.raw().await);
    run(&reader, writes).await;
    for total in 700..703 {
        live.until_clean("orders_v2").await;
        live.until_shadow_serves(&reader, READ).await;
        run(&locker, "BEGIN; LOCK TABLE other").await;
        let writes = one(&format!("SELECT writes({total}) FROM (SELECT FROM other) AS waits"));
        let groups = [one("SELECT 1"), sync(), writes, sync()].concat();
        raw.send(&groups).await;
        raw.until_ready(1).await;
        // So long that a closed gate would have opened.
        live.verified("orders_v2").await;
        run(&locker, "COMMIT").await;
        raw.until_ready(1).await;
        assert_eq!(text(&reader, READ).await, total.to_string());
    }
}

#[tokio::test]
async fn a_repeatable_read_snapshot_from_before_a_repair_never_sees_the_stale_shadow() {
    let live = Live::orders("", "reads = 100").await;
    let (old, writer, fresh) = (live.client().await, live.client().await, live.client().await);
    let locker = live.direct().await;
    live.until_shadow_serves(&fresh, READ).await;
    run(&locker, "BEGIN; SELECT FROM orders_v2 WHERE id = 5 FOR UPDATE").await;
    run(&writer, "UPDATE orders SET total = 500 WHERE id = 5").await;
    run(&old, "BEGIN ISOLATION LEVEL REPEATABLE READ").await;
    assert_eq!(text(&old, READ).await, "500");
    run(&locker, "ROLLBACK").await;
    live.orders_in_step().await;
    live.until_shadow_serves(&fresh, READ).await;
    for _ in 0..3 {
        assert_eq!(text(&old, READ).await, "500");
    }
    run(&old, "COMMIT").await;
}

/// Its snapshot is not of when it began, but of its first statement that reads.
#[tokio::test]
async fn repeatable_read_that_begins_before_a_key_is_dirty_and_reads_while_it_is_stays_on_the_source()
 {
    let live = Live::orders("", "reads = 100").await;
    let (writer, fresh) = (live.client().await, live.client().await);
    let locker = live.direct().await;
    live.until_shadow_serves(&fresh, READ).await;
    let begins = [
        "BEGIN ISOLATION LEVEL REPEATABLE READ",
        "BEGIN; SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        "SET default_transaction_isolation = 'repeatable read'; BEGIN",
    ];
    for (n, begin) in begins.into_iter().enumerate() {
        let reader = live.client().await;
        // In one text with it, BEGIN has the level from before the SET.
        for statement in begin.split("; ") {
            run(&reader, statement).await;
        }
        run(&locker, "BEGIN; SELECT FROM orders_v2 WHERE id = 5 FOR UPDATE").await;
        let now = (500 + n).to_string();
        run(&writer, &format!("UPDATE orders SET total = {now} WHERE id = 5")).await;
        // What takes the snapshot is looked into no more than any statement that names no migrated table.
        if n == 1 {
            assert_eq!(text(&reader, "SELECT count(*) FROM other").await, "5");
        } else {
            assert_eq!(text(&reader, READ).await, now);
        }
        run(&locker, "ROLLBACK").await;
        live.orders_in_step().await;
        live.until_shadow_serves(&fresh, READ).await;
        let before = live.shadow_reads();
        for _ in 0..3 {
            assert_eq!(text(&reader, READ).await, now, "{begin}");
        }
        assert!((live.shadow_reads() - before).abs() < 0.5, "{begin}");
        run(&reader, "COMMIT").await;
    }
}

#[tokio::test]
async fn repeatable_read_is_served_by_the_shadow_behind_its_first_read() {
    let live = Live::orders("", "reads = 100").await;
    let (reader, writer) = (live.client().await, live.client().await);
    live.until_shadow_serves(&writer, READ).await;
    run(&reader, "BEGIN ISOLATION LEVEL REPEATABLE READ").await;
    let before = live.shadow_reads();
    assert_eq!(text(&reader, READ).await, "50");
    assert!((live.shadow_reads() - before).abs() < 0.5, "its snapshot is not known yet");
    for total in 51..55 {
        run(&writer, &format!("UPDATE orders SET total = {total} WHERE id = 5")).await;
        assert_eq!(text(&reader, READ).await, "50");
    }
    assert!(live.shadow_reads() > before + 3.5, "{before} {}", live.shadow_reads());
    run(&reader, "COMMIT").await;
}

#[tokio::test]
async fn a_snapshot_that_another_transaction_took_while_a_key_was_dirty_is_read_on_the_source() {
    let live = Live::orders("", "reads = 100").await;
    let (first, second) = (live.client().await, live.client().await);
    let (writer, locker) = (live.client().await, live.direct().await);
    live.until_shadow_serves(&writer, READ).await;
    run(&locker, "BEGIN; SELECT FROM orders_v2 WHERE id = 5 FOR UPDATE").await;
    run(&writer, "UPDATE orders SET total = 500 WHERE id = 5").await;
    run(&first, "BEGIN ISOLATION LEVEL REPEATABLE READ").await;
    let snapshot = text(&first, "SELECT pg_export_snapshot()").await;
    run(&locker, "ROLLBACK").await;
    live.orders_in_step().await;
    live.until_shadow_serves(&writer, READ).await;
    run(&second, "BEGIN ISOLATION LEVEL REPEATABLE READ").await;
    run(&second, &format!("SET TRANSACTION SNAPSHOT '{snapshot}'")).await;
    for _ in 0..3 {
        assert_eq!(text(&second, READ).await, "500");
        assert_eq!(text(&first, READ).await, "500");
    }
    run(&first, "COMMIT").await;
    run(&second, "COMMIT").await;
}

#[tokio::test]
async fn a_reader_sees_its_own_writes_whatever_the_route() {
    let live = Live::orders("", "reads = 100").await;
    let (client, locker) = (live.client().await, live.direct().await);
    live.until_shadow_serves(&client, READ).await;
    for level in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        run(&client, &format!("BEGIN ISOLATION LEVEL {level}")).await;
        run(&client, "UPDATE orders SET total = 51 WHERE id = 5").await;
        assert_eq!(text(&client, READ).await, "51");
        run(&client, "SAVEPOINT a; UPDATE orders SET total = 52 WHERE id = 5").await;
        assert_eq!(text(&client, READ).await, "52");
        run(&client, "ROLLBACK TO a").await;
        assert_eq!(text(&client, READ).await, "51");
        run(&client, "ROLLBACK").await;
        assert_eq!(text(&client, READ).await, "50");
    }
    // The mirror fails in the middle of the transaction.
    run(&locker, "BEGIN; SELECT FROM orders_v2 WHERE id = 5 FOR UPDATE").await;
    run(&client, "BEGIN").await;
    assert_eq!(text(&client, READ).await, "50");
    run(&client, "UPDATE orders SET total = 53 WHERE id = 5").await;
    assert_eq!(text(&client, READ).await, "53");
    run(&client, "COMMIT").await;
    assert_eq!(text(&client, READ).await, "53");
    run(&locker, "ROLLBACK").await;
    live.orders_in_step().await;
}

#[tokio::test]
async fn statements_prepared_before_the_start_follow_every_flip() {
    let live =
        Live::declared(&format!("{ORDERS};{ORDERS_V2}"), &orders_toml("", "reads = 100")).await;
    let client = live.client().await;
    let write = client.prepare("UPDATE orders SET total = total + 1 WHERE id = $1").await.unwrap();
    let returning = "DELETE FROM orders WHERE id = $1 RETURNING note";
    let returning = client.prepare(returning).await.unwrap();
    let read = client.prepare("SELECT total, note FROM orders WHERE id = $1").await.unwrap();
    let mut total = 10;
    let mut gone = 10;
    let mut step = async |what: &str| {
        assert_eq!(client.execute(&write, &[&1i32]).await.unwrap(), 1, "{what}");
        total += 1;
        let row = client.query_one(&read, &[&1i32]).await.unwrap();
        assert_eq!(row.get::<_, i32>(0), total, "{what}");
        let rows = client.query(&returning, &[&gone]).await.unwrap();
        let notes: Vec<String> = rows.iter().map(|r| r.get(0)).collect();
        assert_eq!(notes, [format!("note {gone}")], "{what}");
        gone -= 1;
    };
    step("declared").await;
    live.start("orders_v2");
    live.until_phase("orders_v2", "ready").await;
    live.until_clean("orders_v2").await;
    step("ready").await;
    eventually("the prepared read is on the shadow", async || {
        let before = live.shadow_reads();
        client.query_one(&read, &[&2i32]).await.unwrap();
        if live.shadow_reads() > before { Ok(()) } else { Err(before) }
    })
    .await;
    step("on the shadow").await;
    live.orders_in_step().await;
    for (reads, expected) in [("0", 0.0), ("100", 1.0), ("0", 0.0), ("100", 1.0)] {
        live.cli(&["route", "orders_v2", "--reads", reads, "--why", "flip"]);
        eventually("the prepared read has followed", async || {
            let before = live.shadow_reads();
            client.query_one(&read, &[&2i32]).await.unwrap();
            let served = live.shadow_reads() - before;
            if (served - expected).abs() < 0.5 { Ok(()) } else { Err(served) }
        })
        .await;
        step(reads).await;
    }
    live.orders_in_step().await;
    live.cli(&["migration", "abort", "orders_v2", "--why", "over"]);
    live.until_phase("orders_v2", "aborted").await;
    step("aborted").await;
    assert_eq!(text(&client, "SELECT total FROM orders WHERE id = 1").await, total.to_string());
}

#[tokio::test]
async fn a_read_pipelined_behind_writes_that_only_record_sees_them() {
    let live = Live::orders("", "reads = 100").await;
    let client = live.client().await;
    live.until_shadow_serves(&client, READ).await;
    let write = client.prepare("UPDATE orders SET total = total + 1 WHERE id = 5").await.unwrap();
    let read = client.prepare(READ).await.unwrap();
    run(&client, "BEGIN").await;
    // More writes than one transaction may sync, all in flight before the first is answered.
    let writes = futures_util::future::join_all((0..70).map(|_| client.execute(&write, &[])));
    let (written, seen) = futures_util::future::join(writes, client.query_one(&read, &[])).await;
    assert!(written.into_iter().all(|n| n.unwrap() == 1));
    assert_eq!(seen.unwrap().get::<_, i32>(0), 120);
    run(&client, "COMMIT").await;
    live.orders_in_step().await;
}

/// What a session sends behind a statement that waits is read when that goes on: what was committed and
/// acknowledged until then, the shadow may lack.
#[tokio::test]
async fn a_read_sent_behind_a_statement_that_waits_sees_what_is_committed_meanwhile() {
    let live = Live::orders("", "reads = 100").await;
    let (writer, fresh) = (live.client().await, live.client().await);
    let (locker, holder) = (live.direct().await, live.direct().await);
    let run_it =
        |sql: &str| [parse("", sql, &[]), bind("", "", 0, &[], 0), execute("", 0)].concat();
    for (n, (begin, waits)) in [
        ("", "SELECT pg_advisory_lock(1)"),
        ("", "SELECT id FROM orders WHERE id = 7 FOR UPDATE"),
        ("BEGIN", "SELECT id FROM orders WHERE id = 7 FOR UPDATE"),
        ("BEGIN", "UPDATE other SET note = 'x' WHERE id = 1"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut reader = live.raw().await;
        live.until_shadow_serves(&fresh, READ).await;
        // What its names mean is known: it is not asked for behind what waits.
        reader.exchange(&[run_it(READ), sync()].concat(), 1).await;
        run(&holder, "BEGIN; SELECT pg_advisory_xact_lock(1); SELECT FROM other FOR UPDATE").await;
        run(&holder, "SELECT FROM orders WHERE id = 7 FOR UPDATE").await;
        let group = [run_it(waits), run_it(READ), sync()].concat();
        let frames = match begin {
            "" => group,
            begin => [run_it(begin), group].concat(),
        };
        reader.stream.write_all(&frames).await.unwrap();
        eventually("it waits", async || {
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
                       AND datname = current_database()";
            let waiting = text(&locker, sql).await;
            if waiting == "0" { Err(waiting) } else { Ok(()) }
        })
        .await;
        run(&locker, "BEGIN; SELECT FROM orders_v2 WHERE id = 5 FOR UPDATE").await;
        let total = 700 + i32::try_from(n).unwrap();
        run(&writer, &format!("UPDATE orders SET total = {total} WHERE id = 5")).await;
        run(&holder, "COMMIT").await;
        let said = reader.until_ready(1).await;
        let said: Vec<_> = said.iter().map(|message| reader.show(message)).collect();
        assert!(said.iter().any(|line| *line == format!("D {total}")), "{waits}: {said:?}");
        run(&locker, "ROLLBACK").await;
        drop(reader);
        live.orders_in_step().await;
    }
    // Behind BEGIN and reads the shadow answers.
    live.until_shadow_serves(&fresh, READ).await;
    let mut reader = live.raw().await;
    let before = live.shadow_reads();
    let group = [run_it("BEGIN"), run_it(READ), run_it(READ), run_it("COMMIT"), sync()].concat();
    reader.exchange(&group, 1).await;
    reader.exchange(&group, 1).await;
    assert!(live.shadow_reads() > before + 2.5, "{before} {}", live.shadow_reads());
}

const COUNTS: &str = "CREATE TABLE counts (id int PRIMARY KEY, n int NOT NULL);
    INSERT INTO counts SELECT i, i FROM generate_series(1, 10) AS i; ANALYZE counts;
    CREATE TABLE counts_v2 (id int PRIMARY KEY, n bigint NOT NULL)";

const COUNTS_TOML: &str = r#"
[[migration]]
name = "counts_v2"
source = "public.counts"
shadow = "public.counts_v2"
key = ["id"]
[migration.columns]
id = "id"
n = "n"
[migration.routing]
reads = 100
"#;

/// Behind its first sixty mirrored writes a transaction only records keys: each of its tables is the
/// source's to its end, however many writes there were on the others.
#[tokio::test]
async fn a_write_behind_many_on_another_table_is_read_where_it_was_written() {
    let toml = format!("{}{COUNTS_TOML}", orders_toml("", "reads = 100"));
    let ddl = format!("{ORDERS};{ORDERS_V2};{COUNTS}");
    let live = Live::ready(&ddl, &toml, &["orders_v2", "counts_v2"]).await;
    let (client, other) = (live.client().await, live.client().await);
    let of = "SELECT n FROM counts WHERE id = 5";
    live.until_shadow_serves(&other, of).await;
    run(&client, "BEGIN").await;
    for _ in 0..80 {
        run(&client, "UPDATE orders SET total = total + 1 WHERE id = 9").await;
    }
    run(&client, "UPDATE counts SET n = 500 WHERE id = 5").await;
    // The engine looks for dirty keys in the meantime, and sees none that is committed.
    let gates = || live.proxy.metric("pgsegue_dirty_keys{migration=\"counts_v2\"}");
    assert!(gates().is_some_and(|keys| keys < 0.5));
    let orders = "SELECT total FROM orders WHERE id = 9";
    let mut seen = Vec::new();
    eventually("many reads", async || {
        seen.push(text(&client, of).await);
        assert_eq!(text(&client, orders).await, "170");
        if seen.len() > 300 { Ok(()) } else { Err(seen.len()) }
    })
    .await;
    assert!(seen.iter().all(|n| n == "500"), "{seen:?}");
    run(&client, "COMMIT").await;
    assert_eq!(text(&other, of).await, "500");
    live.until_shadow_serves(&other, of).await;
    assert_eq!(text(&other, of).await, "500");
}
