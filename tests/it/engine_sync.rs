//! The sync function by itself: each way a write could leave the shadow behind without a record,
//! or fail a client who would have succeeded alone.

use super::engine_support::*;
use std::time::{Duration, Instant};
use tokio_postgres::error::SqlState;

async fn ready(rows: u32) -> (Db, pgsegue::manifest::Migration) {
    let db = database().await;
    let migration = orders(&db, rows).await;
    install(&db, &migration).await;
    fill(&db, rows).await;
    (db, migration)
}

/// Brings the whole shadow in step, by the function itself.
async fn fill(db: &Db, rows: u32) {
    let sql =
        format!("SELECT pgsegue.sync_orders_v2(array_agg(i), 3) FROM generate_series(1, {rows}) i");
    db.client.batch_execute(&sql).await.unwrap();
}

fn keys(of: &[(Option<Vec<String>>, String)]) -> Vec<String> {
    let mut keys: Vec<String> =
        of.iter().flat_map(|(k, _)| k.clone().unwrap_or_default()).collect();
    keys.sort_unstable();
    keys
}

#[tokio::test]
async fn insert_update_delete_and_nothing_follow_the_source() {
    let (db, migration) = ready(10).await;
    let c = &db.client;
    assert_eq!(write(c, "INSERT INTO orders VALUES (11, 1, 5, 'x'), (12, 1, 6, NULL)", 0).await, 0);
    assert_eq!(write(c, "UPDATE orders SET total = total + 1 WHERE id < 5", 0).await, 0);
    assert_eq!(write(c, "DELETE FROM orders WHERE id IN (3, 12)", 0).await, 0);
    assert_eq!(write(c, "DELETE FROM orders WHERE id = 999", 0).await, 0);
    assert_in_step(&db, &migration).await;
    assert_eq!(db.dirty().await, []);
}

#[tokio::test]
async fn a_row_written_under_a_savepoint_or_by_somebody_else_is_locked_first() {
    let (db, migration) = ready(10).await;
    let c = &db.client;
    c.batch_execute("BEGIN; SAVEPOINT a").await.unwrap();
    assert_eq!(write(c, "UPDATE orders SET total = 70 WHERE id = 5", 0).await, 0);
    c.batch_execute("RELEASE a").await.unwrap();
    assert_eq!(write(c, "UPDATE orders SET note = 'both' WHERE id = 5", 0).await, 0);
    assert_eq!(write(c, "UPDATE orders SET note = NULL WHERE id = 6", 0).await, 0);
    let other = db.another().await;
    let start = Instant::now();
    let sql = "SELECT pgsegue.sync_orders_v2('{5}', 0), pgsegue.sync_orders_v2('{6}', 0)";
    let row = other.query_one(sql, &[]).await.unwrap();
    assert_eq!((row.get(0), row.get(1)), (2, 2), "it waits for the writer, then gives up");
    assert!(start.elapsed() >= Duration::from_millis(300));
    c.batch_execute("COMMIT").await.unwrap();
    assert_in_step(&db, &migration).await;
    assert_eq!(keys(&db.dirty().await), ["5", "6"]);
}

#[tokio::test]
async fn keys_given_twice_count_once() {
    let (db, migration) = ready(10).await;
    let sql = "UPDATE orders SET total = 0 WHERE id = 1; DELETE FROM orders WHERE id = 2";
    db.client.batch_execute(sql).await.unwrap();
    let row = db
        .client
        .query_one(
            "SELECT pgsegue.sync_orders_v2('{1,1,2,2,1}', 0), \
             pgsegue.sync_orders_v2('{}', 0), pgsegue.sync_orders_v2(NULL, 1)",
            &[],
        )
        .await
        .unwrap();
    assert_eq!((row.get(0), row.get(1), row.get(2)), (0, 0, 0));
    assert_in_step(&db, &migration).await;
    assert_eq!(db.dirty().await, []);
}

#[tokio::test]
async fn delete_of_a_found_row_is_recorded_during_backfill() {
    let (db, migration) = ready(10).await;
    assert_eq!(write(&db.client, "DELETE FROM orders WHERE id = 5", 1).await, 1);
    assert_eq!(keys(&db.dirty().await), ["5"]);
    assert_eq!(write(&db.client, "UPDATE orders SET total = 1 WHERE id = 6", 1).await, 0);
    assert_eq!(keys(&db.dirty().await), ["5"]);
    assert_in_step(&db, &migration).await;
}

#[tokio::test]
async fn repeatable_read_delete_of_a_row_copied_after_its_snapshot_is_recorded() {
    let db = database().await;
    let migration = orders(&db, 10).await;
    install(&db, &migration).await;
    let old = db.another().await;
    old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").await.unwrap();
    fill(&db, 10).await;
    assert_eq!(write(&old, "DELETE FROM orders WHERE id = 5", 0).await, 1);
    old.batch_execute("COMMIT").await.unwrap();
    assert_eq!(keys(&db.dirty().await), ["5"]);
    assert_eq!(db.count("SELECT count(*) FROM orders_v2 WHERE id = 5").await, 1);
}

#[tokio::test]
async fn repeatable_read_update_of_a_row_copied_after_its_snapshot_is_recorded() {
    let db = database().await;
    let migration = orders(&db, 10).await;
    install(&db, &migration).await;
    let old = db.another().await;
    old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").await.unwrap();
    fill(&db, 10).await;
    assert_eq!(write(&old, "UPDATE orders SET total = 0 WHERE id = 5", 0).await, 1);
    old.batch_execute("COMMIT").await.unwrap();
    let dirty = db.dirty().await;
    assert_eq!(keys(&dirty), ["5"]);
    assert!(dirty[0].1.starts_with("40001"), "{dirty:?}");
}

#[tokio::test]
async fn delete_and_insert_of_one_key_in_one_statement_keeps_the_row() {
    let (db, migration) = ready(10).await;
    let c = &db.client;
    c.batch_execute("BEGIN").await.unwrap();
    c.batch_execute("DELETE FROM orders WHERE id = 5").await.unwrap();
    assert_eq!(write(c, "INSERT INTO orders VALUES (5, 7, 8, 'again')", 0).await, 0);
    c.batch_execute("COMMIT").await.unwrap();
    let shift = "WITH old AS (SELECT array_agg(id) AS k FROM orders), \
         w AS (UPDATE orders SET id = id + 100 RETURNING id AS k) \
         SELECT pgsegue.sync_orders_v2((SELECT k FROM old) || array_agg(k), 0) FROM w";
    let result: i32 = c.query_one(shift, &[]).await.unwrap().get(0);
    assert_eq!(result, 0);
    assert_in_step(&db, &migration).await;
    assert_eq!(db.dirty().await, []);
}

#[tokio::test]
async fn a_swallowed_shadow_row_is_recorded() {
    let (db, _) = ready(10).await;
    db.client
        .batch_execute(
            "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; \
             CREATE TRIGGER t BEFORE INSERT OR UPDATE ON orders_v2 FOR EACH ROW \
             WHEN (new.id = 5) EXECUTE FUNCTION swallow()",
        )
        .await
        .unwrap();
    assert_eq!(write(&db.client, "UPDATE orders SET total = 0 WHERE id = 5", 0).await, 1);
    assert_eq!(keys(&db.dirty().await), ["5"]);
}

#[tokio::test]
async fn any_error_of_the_shadow_leaves_the_clients_write_alone() {
    let (db, _) = ready(10).await;
    let breaks = [
        "ALTER TABLE orders_v2 ADD CONSTRAINT small CHECK (total_minor < 100000) NOT VALID",
        "ALTER TABLE orders_v2 RENAME COLUMN currency TO money",
        "ALTER TABLE orders RENAME COLUMN note TO remark",
        "DROP TABLE orders_v2",
    ];
    for (n, sql) in breaks.iter().enumerate() {
        db.client.batch_execute(sql).await.unwrap();
        assert_eq!(write(&db.client, "UPDATE orders SET total = 999999 WHERE id = 5", 0).await, 1);
        assert_eq!(db.dirty().await.len(), n + 1, "{sql}");
    }
    assert_eq!(db.count("SELECT total::int8 FROM orders WHERE id = 5").await, 999_999);
}

#[tokio::test]
async fn a_failed_assertion_in_a_shadow_trigger_is_recorded() {
    let (db, _) = ready(10).await;
    db.client
        .batch_execute(
            "CREATE FUNCTION assert_no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN ASSERT false; END'; \
             CREATE TRIGGER t BEFORE UPDATE ON orders_v2 FOR EACH ROW EXECUTE FUNCTION assert_no()",
        )
        .await
        .unwrap();
    assert_eq!(write(&db.client, "UPDATE orders SET total = 0 WHERE id = 5", 0).await, 1);
    assert!(db.dirty().await[0].1.starts_with("P0004"));
}

#[tokio::test]
async fn a_locked_shadow_row_holds_a_writer_no_longer_than_the_budget_and_says_2() {
    let (db, _) = ready(10).await;
    let holder = db.another().await;
    holder.batch_execute("BEGIN; SELECT FROM orders_v2 FOR UPDATE").await.unwrap();
    for statement in
        ["UPDATE orders SET total = 0 WHERE id = 5", "UPDATE orders SET total = 0 WHERE id < 9"]
    {
        let start = Instant::now();
        assert_eq!(write(&db.client, statement, 0).await, 2);
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    }
    let dirty = db.dirty().await;
    assert_eq!(dirty.len(), 9);
    assert!(dirty.iter().all(|(_, reason)| reason.starts_with("55P03")), "{dirty:?}");
}

#[tokio::test]
async fn a_cycle_through_the_sync_never_makes_the_client_the_deadlock_victim() {
    let (db, _) = ready(10).await;
    let other = db.another().await;
    other.batch_execute("BEGIN; SELECT FROM orders_v2 WHERE id = 5 FOR UPDATE").await.unwrap();
    let client = db.another().await;
    client.batch_execute("BEGIN; UPDATE orders SET total = 1 WHERE id = 5").await.unwrap();
    let waiting = tokio::spawn(async move {
        other.batch_execute("UPDATE orders SET note = 'other' WHERE id = 5; COMMIT").await.unwrap();
    });
    db.until_blocked("SET note = ''other''").await;
    assert_eq!(write(&client, "UPDATE orders SET total = 2 WHERE id = 5", 0).await, 2);
    client.batch_execute("COMMIT").await.unwrap();
    waiting.await.unwrap();
    assert_eq!(keys(&db.dirty().await), ["5"]);
}

#[tokio::test]
async fn many_locks_released_in_turn_do_not_add_up() {
    let (db, _) = ready(10).await;
    let mut holders = Vec::new();
    for key in 1..=8 {
        let holder = db.another().await;
        let sql = format!("BEGIN; SELECT FROM orders_v2 WHERE id = {key} FOR UPDATE");
        holder.batch_execute(&sql).await.unwrap();
        holders.push(holder);
    }
    // Each lock is given back after 100 ms: below the budget of 150 ms, together far above it.
    let release = tokio::spawn(async move {
        for holder in &holders {
            holder.batch_execute("SELECT pg_sleep(0.1); ROLLBACK").await.unwrap();
        }
    });
    let start = Instant::now();
    let result = write(&db.client, "UPDATE orders SET total = 0 WHERE id <= 8", 0).await;
    assert_eq!(result, 2);
    assert!(start.elapsed() < Duration::from_millis(400), "{:?}", start.elapsed());
    release.await.unwrap();
}

#[tokio::test]
async fn the_handler_waits_for_dirty_keys_as_long_as_the_client_would() {
    let (db, _) = ready(10).await;
    let holder = db.another().await;
    holder
        .batch_execute("BEGIN; LOCK TABLE pgsegue.dirty_keys IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let writer = db.another().await;
    let task = tokio::spawn(async move {
        // No lock_timeout of the client's own: it waits beyond the function's 150 ms.
        write(&writer, "UPDATE orders SET total = 0 WHERE id = 5", 2).await
    });
    db.until_blocked("sync_orders_v2").await;
    db.until(
        "SELECT bool_and(clock_timestamp() - query_start > interval '400 ms') \
         FROM pg_stat_activity WHERE query LIKE '%sync_orders_v2%' AND pid <> pg_backend_pid()",
    )
    .await;
    holder.batch_execute("COMMIT").await.unwrap();
    assert_eq!(task.await.unwrap(), 1);
    let client = db.another().await;
    holder
        .batch_execute("BEGIN; LOCK TABLE pgsegue.dirty_keys IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    client.batch_execute("SET lock_timeout = '50ms'").await.unwrap();
    let error = client
        .query(&mirrored("UPDATE orders SET total = 0 WHERE id = 5", 2), &[])
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::LOCK_NOT_AVAILABLE));
}

#[tokio::test]
async fn two_writers_of_one_dirty_key_do_not_wait_for_each_other() {
    let (db, _) = ready(10).await;
    let other = db.another().await;
    for client in [&db.client, &other] {
        client.batch_execute("BEGIN").await.unwrap();
        let sql = "SELECT pgsegue.sync_orders_v2('{5}', 2)";
        assert_eq!(client.query_one(sql, &[]).await.unwrap().get::<_, i32>(0), 1);
    }
    for client in [&db.client, &other] {
        client.batch_execute("COMMIT").await.unwrap();
    }
    assert_eq!(keys(&db.dirty().await), ["5", "5"]);
}

#[tokio::test]
async fn a_hostile_role_can_call_the_functions_and_change_nothing() {
    let (db, migration) = ready(10).await;
    db.client.batch_execute("CREATE ROLE hostile").await.unwrap();
    let hostile = db.another().await;
    hostile.batch_execute("SET ROLE hostile").await.unwrap();
    for mode in 0..=4 {
        let sql = format!("SELECT pgsegue.sync_orders_v2('{{1, 5, 777}}', {mode})");
        hostile.batch_execute(&sql).await.unwrap();
    }
    hostile.batch_execute("SELECT pgsegue.mark_orders_v2('x')").await.unwrap();
    for denied in [
        "SELECT * FROM pgsegue.dirty_keys",
        "INSERT INTO pgsegue.dirty_keys (migration, reason) VALUES ('orders_v2', '')",
        "UPDATE pgsegue.migrations SET reads = 100",
        "DELETE FROM pgsegue.events",
        "SELECT * FROM orders_v2",
        "CREATE TABLE pgsegue.x (a int)",
    ] {
        let error = hostile.batch_execute(denied).await.unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{denied}");
    }
    assert_in_step(&db, &migration).await;
    // A call in the middle of somebody's update waits for it instead of writing the old value.
    let writer = db.another().await;
    writer.batch_execute("BEGIN; UPDATE orders SET total = 50 WHERE id = 5").await.unwrap();
    let call = tokio::spawn(async move {
        hostile.query_one("SELECT pgsegue.sync_orders_v2('{5}', 0)", &[]).await.unwrap();
        hostile
    });
    db.until_blocked("sync_orders_v2").await;
    let sql = "SELECT pgsegue.sync_orders_v2('{5}', 0)";
    writer.batch_execute(&format!("{sql}; COMMIT")).await.unwrap();
    call.await.unwrap();
    assert_in_step(&db, &migration).await;
    db.client.batch_execute("DROP OWNED BY hostile; DROP ROLE hostile").await.unwrap();
}

#[tokio::test]
async fn composite_keys_of_several_types_follow_the_source() {
    let db = database().await;
    db.client
        .batch_execute(
            "CREATE TABLE orders (tenant text, id int4, at timestamptz, v numeric(9,2), \
                PRIMARY KEY (tenant, id, at)); \
             CREATE TABLE orders_v2 (LIKE orders INCLUDING ALL)",
        )
        .await
        .unwrap();
    let mut migration =
        migration(&[("tenant", "tenant"), ("id", "id"), ("at", "at"), ("v", "v * 2")]);
    let ident = pgsegue::sql::ident::Ident::new;
    migration.key = vec![ident("tenant"), ident("id"), ident("at")];
    install(&db, &migration).await;
    let write = async |statement: &str| -> i32 {
        let sql = format!(
            "WITH w AS ({statement} RETURNING tenant AS a, id AS b, at AS c) SELECT \
             pgsegue.sync_orders_v2(array_agg(a), array_agg(b), array_agg(c), 1) FROM w"
        );
        db.client.query_one(&sql, &[]).await.unwrap().get(0)
    };
    let insert =
        "INSERT INTO orders SELECT 't' || i % 3, i, 'epoch', i FROM generate_series(1, 50) i";
    assert_eq!(write(insert).await, 0);
    assert_eq!(write("UPDATE orders SET v = v + 1 WHERE id % 2 = 0").await, 0);
    assert_in_step(&db, &migration).await;
    assert_eq!(write("DELETE FROM orders WHERE id = 7").await, 1);
    assert_eq!(
        db.dirty().await[0].0,
        Some(vec!["t1".to_owned(), "7".to_owned(), "1970-01-01 00:00:00+00".to_owned()])
    );
    assert_in_step(&db, &migration).await;
}

#[tokio::test]
async fn long_values_that_do_not_change_are_not_written_again() {
    let db = database().await;
    let migration = {
        let sql = "CREATE TABLE orders (id int4 PRIMARY KEY, n int4, doc text); \
             ALTER TABLE orders ALTER doc SET STORAGE EXTERNAL; \
             CREATE TABLE orders_v2 (LIKE orders INCLUDING ALL); \
             INSERT INTO orders VALUES (1, 0, repeat('x', 1000000))";
        db.client.batch_execute(sql).await.unwrap();
        migration(&[("id", "id"), ("n", "n"), ("doc", "doc")])
    };
    install(&db, &migration).await;
    fill(&db, 1).await;
    let toast = "SELECT pg_relation_size(reltoastrelid) FROM pg_class WHERE relname = 'orders_v2'";
    let before = db.count(toast).await;
    for _ in 0..5 {
        assert_eq!(write(&db.client, "UPDATE orders SET n = n + 1", 0).await, 0);
    }
    assert_eq!(db.count(toast).await, before);
    assert_eq!(write(&db.client, "UPDATE orders SET doc = doc || 'y'", 0).await, 0);
    assert!(db.count(toast).await > before);
    assert_in_step(&db, &migration).await;
}

#[tokio::test]
async fn a_numeric_that_changes_only_its_scale_reaches_the_shadow() {
    let db = database().await;
    let sql = "CREATE TABLE orders (id int4 PRIMARY KEY, v numeric, f float8, j jsonb, i interval, b box); \
         CREATE TABLE orders_v2 (LIKE orders INCLUDING ALL); \
         INSERT INTO orders VALUES (1, 1.0, 0, '{\"a\": 1.0}', '1 mon', '(1,1),(0,0)')";
    db.client.batch_execute(sql).await.unwrap();
    let migration = migration(&["id", "v", "f", "j", "i", "b"].map(|c| (c, c)));
    install(&db, &migration).await;
    fill(&db, 1).await;
    let sql = "UPDATE orders SET v = 1.00, f = '-0', j = '{\"a\": 1.00}', i = '30 days', b = '(2,2),(1,1)'";
    assert_eq!(write(&db.client, sql, 0).await, 0);
    assert_in_step(&db, &migration).await;
}
