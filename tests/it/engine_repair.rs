//! Chunks, repair and writers against each other, each interleaving forced by locks.

use super::engine_support::*;
use pgsegue::engine::backfill::Backfill;
use pgsegue::engine::shape::Shape;
use pgsegue::engine::{Phase, repair};
use pgsegue::manifest::Migration;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

const START: Phase = Phase::Backfill { after: None, rows: 0 };

/// Tables with rows, functions, and a journal row in the backfill phase. The budget is long, so
/// that only the test decides who waits.
async fn backfilling(rows: u32) -> (Db, Migration, Shape) {
    let db = database().await;
    let mut migration = orders(&db, rows).await;
    migration.lock_budget = Duration::from_secs(20);
    let shape = install(&db, &migration).await;
    let phase = serde_json::to_value(&START).unwrap();
    let sql =
        "INSERT INTO pgsegue.migrations (name, definition, phase) VALUES ('orders_v2', '{}', $1)";
    db.client.execute(sql, &[&phase]).await.unwrap();
    (db, migration, shape)
}

async fn chunks(mut client: Client, shape: Shape) -> Phase {
    let mut backfill = Backfill::new(&shape);
    let mut phase = START;
    while matches!(phase, Phase::Backfill { .. }) {
        phase = backfill.chunk(&mut client, &shape, &phase).await.unwrap().phase;
    }
    phase
}

async fn start_chunks(db: &Db, shape: &Shape) -> JoinHandle<Phase> {
    tokio::spawn(chunks(db.engine_client().await, shape.clone()))
}

async fn start_repair(db: &Db, shape: &Shape) -> JoinHandle<repair::Repaired> {
    let (mut client, shape) = (db.engine_client().await, shape.clone());
    tokio::spawn(async move { repair::batch(&mut client, &shape).await.unwrap() })
}

async fn repair_all(db: &Db, shape: &Shape) {
    let mut client = db.engine_client().await;
    while repair::batch(&mut client, shape).await.unwrap().done > 0 {}
    assert_eq!(db.dirty().await, []);
}

async fn assert_converged(db: &Db, migration: &Migration, shape: &Shape) {
    repair_all(db, shape).await;
    assert_in_step(db, migration).await;
}

#[tokio::test]
async fn repair_cannot_eat_a_key_before_the_chunk_that_resurrects_it_commits() {
    let (db, migration, shape) = backfilling(10).await;
    // Somebody's uncommitted row 8 in the shadow stops the chunk after it has copied row 5.
    let stopper = db.another().await;
    let row = "INSERT INTO orders_v2 VALUES (8, 0, 0, '', '')";
    stopper.batch_execute(&format!("BEGIN; {row}")).await.unwrap();
    let chunk = start_chunks(&db, &shape).await;
    db.until_blocked("INSERT INTO \"public\".\"orders_v2\"").await;
    assert_eq!(write_without_waiting(&db, "DELETE FROM orders WHERE id = 5").await, 1);
    let repairing = start_repair(&db, &shape).await;
    db.until_blocked("pg_advisory_xact_lock(").await;
    assert_eq!(db.dirty().await.len(), 1, "the record is still there");
    stopper.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(chunk.await.unwrap(), Phase::Repair);
    repairing.await.unwrap();
    assert_converged(&db, &migration, &shape).await;
}

/// A delete whose sync does not meet the chunk's uncommitted row: it does not see it.
async fn write_without_waiting(db: &Db, statement: &str) -> i32 {
    write(&db.another().await, statement, 1).await
}

#[tokio::test]
async fn a_delete_that_a_waiting_chunk_undoes_is_repaired() {
    let (db, migration, shape) = backfilling(10).await;
    let sql = "SELECT pgsegue.sync_orders_v2('{5}', 3)";
    db.client.batch_execute(sql).await.unwrap();
    let writer = db.another().await;
    writer.batch_execute("BEGIN").await.unwrap();
    assert_eq!(write(&writer, "DELETE FROM orders WHERE id = 5", 1).await, 1);
    let chunk = start_chunks(&db, &shape).await;
    db.until_blocked("INSERT INTO \"public\".\"orders_v2\"").await;
    writer.batch_execute("COMMIT").await.unwrap();
    chunk.await.unwrap();
    let orphans = db.count("SELECT count(*) FROM orders_v2 WHERE id = 5").await;
    assert_eq!(orphans, 1, "the chunk has brought the row back");
    assert_converged(&db, &migration, &shape).await;
}

#[tokio::test]
async fn repair_of_an_orphan_does_not_delete_the_row_that_a_writer_creates_meanwhile() {
    let (db, migration, shape) = backfilling(0).await;
    let sql = "INSERT INTO orders_v2 VALUES (50, 0, 0, '', ''); \
               SELECT pgsegue.sync_orders_v2('{50}', 2)";
    db.client.batch_execute(sql).await.unwrap();
    let writer = db.another().await;
    writer.batch_execute("BEGIN").await.unwrap();
    assert_eq!(write(&writer, "INSERT INTO orders VALUES (50, 1, 2, 'x')", 0).await, 0);
    let repairing = start_repair(&db, &shape).await;
    db.until_blocked("sync_orders_v2").await;
    writer.batch_execute("COMMIT").await.unwrap();
    repairing.await.unwrap();
    assert_eq!(db.count("SELECT count(*) FROM orders_v2 WHERE id = 50").await, 1);
    assert_converged(&db, &migration, &shape).await;
}

#[tokio::test]
async fn repair_removes_only_the_records_it_has_read() {
    let (db, migration, shape) = backfilling(10).await;
    repair_shadow(&db).await;
    db.client.batch_execute("SELECT pgsegue.sync_orders_v2('{5}', 2)").await.unwrap();
    // The repair has read the record and waits for row 5, whose writer records the key anew.
    let writer = db.another().await;
    writer.batch_execute("BEGIN; UPDATE orders SET total = 77 WHERE id = 5").await.unwrap();
    let repairing = start_repair(&db, &shape).await;
    db.until_blocked("sync_orders_v2").await;
    writer.batch_execute("SELECT pgsegue.sync_orders_v2('{5}', 2); COMMIT").await.unwrap();
    assert_eq!(repairing.await.unwrap().done, 1);
    assert_eq!(db.dirty().await.len(), 1, "the newer record stays");
    assert_converged(&db, &migration, &shape).await;
}

async fn repair_shadow(db: &Db) {
    let sql = "SELECT pgsegue.sync_orders_v2(array_agg(id), 3) FROM orders";
    db.client.batch_execute(sql).await.unwrap();
}

#[tokio::test]
async fn an_update_during_the_copy_of_its_chunk_wins() {
    let (db, migration, shape) = backfilling(10).await;
    let stopper = db.another().await;
    let row = "INSERT INTO orders_v2 VALUES (8, 0, 0, '', '')";
    stopper.batch_execute(&format!("BEGIN; {row}")).await.unwrap();
    let chunk = start_chunks(&db, &shape).await;
    db.until_blocked("INSERT INTO \"public\".\"orders_v2\"").await;
    let writer = db.another().await;
    let writing =
        tokio::spawn(
            async move { write(&writer, "UPDATE orders SET total = 9 WHERE id = 5", 1).await },
        );
    db.until_blocked("WITH w AS").await;
    stopper.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(writing.await.unwrap(), 0);
    chunk.await.unwrap();
    assert_eq!(db.dirty().await, []);
    assert_in_step(&db, &migration).await;
}

#[tokio::test]
async fn an_insert_that_meets_its_backfilled_row_overwrites_it() {
    let (db, migration, shape) = backfilling(10).await;
    chunks(db.engine_client().await, shape.clone()).await;
    let sql = "INSERT INTO orders VALUES (5, 9, 9, 'z') ON CONFLICT (id) DO UPDATE SET total = 12";
    assert_eq!(write(&db.client, sql, 1).await, 0);
    assert_converged(&db, &migration, &shape).await;
}

#[tokio::test]
async fn repeatable_read_writer_against_a_backfilled_row_converges() {
    let (db, migration, shape) = backfilling(10).await;
    let old = db.another().await;
    old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").await.unwrap();
    chunks(db.engine_client().await, shape.clone()).await;
    assert_eq!(write(&old, "UPDATE orders SET total = 1 WHERE id = 3", 1).await, 1);
    assert_eq!(write(&old, "DELETE FROM orders WHERE id = 4", 1).await, 1);
    old.batch_execute("COMMIT").await.unwrap();
    assert_converged(&db, &migration, &shape).await;
}

#[tokio::test]
async fn a_row_that_cannot_be_copied_is_recorded_and_the_rest_is_copied() {
    let (db, migration, shape) = backfilling(3_000).await;
    let sql = "ALTER TABLE orders_v2 ADD CHECK (id <> 1234)";
    db.client.batch_execute(sql).await.unwrap();
    assert_eq!(chunks(db.engine_client().await, shape.clone()).await, Phase::Repair);
    let dirty = db.dirty().await;
    assert_eq!(dirty.len(), 1);
    assert_eq!(dirty[0].0, Some(vec!["1234".to_owned()]));
    assert!(dirty[0].1.starts_with("backfill: 23514"), "{dirty:?}");
    assert_eq!(db.count("SELECT count(*) FROM orders_v2").await, 2_999);
    let mut client = db.engine_client().await;
    assert_eq!(repair::batch(&mut client, &shape).await.unwrap().failed, 1);
    db.client
        .batch_execute(
            "ALTER TABLE orders_v2 DROP CONSTRAINT orders_v2_id_check; \
         UPDATE pgsegue.dirty_keys SET retry_at = NULL",
        )
        .await
        .unwrap();
    assert_converged(&db, &migration, &shape).await;
}

#[tokio::test]
async fn rows_that_swapped_a_unique_value_converge() {
    let (db, migration, shape) = backfilling(0).await;
    let sql = "CREATE UNIQUE INDEX ON orders_v2 (customer_id); \
         INSERT INTO orders SELECT i, i, i, NULL FROM generate_series(1, 6) i; \
         SELECT pgsegue.sync_orders_v2('{1,2,3,4,5,6}', 3); \
         UPDATE orders SET user_id = 7 - user_id; \
         SELECT pgsegue.sync_orders_v2('{1,2,3,4,5,6}', 2)";
    db.client.batch_execute(sql).await.unwrap();
    assert_converged(&db, &migration, &shape).await;
}

#[tokio::test]
async fn one_poison_key_is_named_and_keeps_nobody_else_dirty() {
    let (db, _, shape) = backfilling(100).await;
    let sql = "ALTER TABLE orders_v2 ADD CONSTRAINT no_66 CHECK (id <> 66); \
               SELECT pgsegue.sync_orders_v2(array_agg(id), 2) FROM orders";
    db.client.batch_execute(sql).await.unwrap();
    let mut client = db.engine_client().await;
    let repaired = repair::batch(&mut client, &shape).await.unwrap();
    assert_eq!((repaired.done, repaired.failed), (99, 1));
    for _ in 0..5 {
        let again = "UPDATE pgsegue.dirty_keys SET retry_at = NULL";
        db.client.batch_execute(again).await.unwrap();
        assert_eq!(repair::batch(&mut client, &shape).await.unwrap().failed, 1);
    }
    let backlog = repair::backlog(&client, &shape).await.unwrap();
    assert_eq!((backlog.keys, backlog.tried), (1, 1));
    assert_eq!(backlog.poison.len(), 1);
    assert!(backlog.poison[0].starts_with("(66): 23514"), "{:?}", backlog.poison);
    assert_eq!(repair::batch(&mut client, &shape).await.unwrap(), repair::Repaired::default());
}
