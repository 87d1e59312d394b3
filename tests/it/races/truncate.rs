//! TRUNCATE against chunks and writers.

use super::backfill::held;
use super::{in_background, run};
use crate::live::{Live, text};

/// What a chunk of the backfill does.
const CHUNK: &str = "INSERT INTO orders_v2 SELECT id, user_id, total::bigint * 100, 'EUR', note, email \
                     FROM orders ON CONFLICT (id) DO NOTHING";

#[tokio::test]
async fn a_truncate_that_waits_for_a_chunk_empties_what_that_has_copied() {
    let held = held().await;
    let client = held.live.client().await;
    let waiting = in_background(client, "TRUNCATE orders");
    held.live.until_blocked("TRUNCATE").await;
    let live = held.release().await;
    waiting.await.unwrap().1.unwrap();
    assert_eq!(text(&live.db.client, "SELECT count(*) FROM orders_v2").await, "0");
    live.orders_in_step().await;
}

#[tokio::test]
async fn a_chunk_that_waits_for_a_truncate_brings_no_row_whatever_its_snapshot() {
    let live = Live::orders("", "").await;
    for begin in ["BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM other"] {
        let (client, chunk) = (live.client().await, live.direct().await);
        run(&chunk, begin).await;
        run(&client, "BEGIN; TRUNCATE orders").await;
        let waiting = in_background(chunk, CHUNK);
        live.until_blocked("INSERT INTO orders_v2").await;
        run(&client, "COMMIT").await;
        let (chunk, copied) = waiting.await.unwrap();
        assert_eq!(copied, Ok(vec![0]), "{begin}");
        run(&chunk, "COMMIT").await;
        assert_eq!(live.dirty().await, []);
        live.orders_in_step().await;
        run(&client, "INSERT INTO orders SELECT i, 1, 1 FROM generate_series(1, 5) i").await;
    }
}

#[tokio::test]
async fn a_truncate_that_meets_a_chunk_half_way_gives_up_its_step_and_records() {
    let live = Live::orders("", "").await;
    let (client, chunk) = (live.client().await, live.direct().await);
    run(&chunk, "BEGIN; LOCK TABLE orders_v2 IN ROW EXCLUSIVE MODE").await;
    run(&client, "BEGIN; TRUNCATE orders").await;
    let reason = text(&client, "SELECT reason FROM pgsegue.dirty_keys").await;
    assert!(reason.contains("55P03"), "{reason}");
    let waiting = in_background(chunk, CHUNK);
    live.until_blocked("INSERT INTO orders_v2").await;
    run(&client, "COMMIT").await;
    let (chunk, copied) = waiting.await.unwrap();
    assert_eq!(copied, Ok(vec![0]));
    run(&chunk, "COMMIT").await;
    live.orders_in_step().await;
    assert_eq!(text(&live.db.client, "SELECT count(*) FROM orders_v2").await, "0");
}

#[tokio::test]
async fn writers_before_and_behind_a_truncate_are_followed() {
    let live = Live::orders("", "").await;
    let (before, client, behind) = (live.client().await, live.client().await, live.client().await);
    run(&before, "BEGIN; INSERT INTO orders VALUES (20, 1, 1)").await;
    run(&behind, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM orders").await;
    run(&behind, "COMMIT; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM other").await;
    let truncate = in_background(client, "TRUNCATE orders");
    live.until_blocked("TRUNCATE").await;
    let insert = in_background(behind, "INSERT INTO orders VALUES (21, 1, 1)");
    live.until_blocked("INSERT INTO orders").await;
    run(&before, "COMMIT").await;
    assert_eq!(truncate.await.unwrap().1, Ok(vec![0]));
    let (behind, inserted) = insert.await.unwrap();
    assert_eq!(inserted, Ok(vec![1]));
    run(&behind, "COMMIT").await;
    assert_eq!(text(&live.db.client, "SELECT id FROM orders_v2").await, "21");
    live.orders_in_step().await;
}

#[tokio::test]
async fn a_truncate_rolled_back_leaves_both_tables_as_they_were() {
    let live = Live::orders("", "").await;
    let client = live.client().await;
    run(&client, "BEGIN; SAVEPOINT a; TRUNCATE orders; ROLLBACK TO a").await;
    run(&client, "INSERT INTO orders VALUES (30, 1, 1); COMMIT").await;
    run(&client, "BEGIN; TRUNCATE orders; ROLLBACK").await;
    assert_eq!(text(&client, "SELECT count(*) FROM orders_v2").await, "11");
    assert_eq!(live.dirty().await, []);
    live.orders_in_step().await;
}
