//! Transactions that read while the routes change.

use super::run;
use crate::live::{Live, ORDERS, ORDERS_V2, orders_toml, text};
use crate::support::eventually;

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
