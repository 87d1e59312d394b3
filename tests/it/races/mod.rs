//! Interleavings of two or three connections, each driven step by step: no write of a client is
//! lost or refused, and what the shadow misses is on record.

mod backfill;
mod begun;
mod code;
mod reading;
mod shadow;
mod truncate;

use crate::live::{Live, ORDERS, ORDERS_V2, orders_toml, outcome, text};
use crate::support::rows;
use tokio_postgres::Client;

async fn run(client: &Client, sql: &str) {
    client.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
}

/// A statement that runs while the test goes on.
fn in_background(
    client: Client,
    sql: &str,
) -> tokio::task::JoinHandle<(Client, Result<Vec<u64>, String>)> {
    let sql = sql.to_owned();
    tokio::spawn(async move {
        let outcome = outcome(&client, &sql).await;
        (client, outcome)
    })
}

#[tokio::test]
async fn an_update_of_a_key_that_another_client_is_changing_is_not_lost() {
    let live = Live::orders("", "").await;
    let plain = live.direct().await;
    run(&plain, "CREATE TABLE twin AS TABLE orders; ALTER TABLE twin ADD PRIMARY KEY (id)").await;
    // What Postgres itself makes of it, on a table without a migration.
    for (table, first, second) in [
        ("twin", live.direct().await, live.direct().await),
        ("orders", live.client().await, live.client().await),
    ] {
        for (n, condition) in ["email = 'e5'", "total = 60", "id = 7"].iter().enumerate() {
            let moved = 105 + n;
            let was = 5 + n;
            run(&first, &format!("BEGIN; UPDATE {table} SET id = {moved} WHERE id = {was}")).await;
            let sql = format!("UPDATE {table} SET id = id + 1000 WHERE {condition} RETURNING id");
            let waiting = in_background(live_client(&live, table).await, &sql);
            live.until_blocked(&format!("UPDATE {table}")).await;
            run(&first, "COMMIT").await;
            let (_, outcome) = waiting.await.unwrap();
            let expected = if *condition == "id = 7" { 0 } else { 1 };
            assert_eq!(outcome, Ok(vec![expected]), "{sql}");
        }
        run(&second, &format!("UPDATE {table} SET note = 'after'")).await;
    }
    let both = rows(&plain, "TABLE twin ORDER BY id").await;
    assert_eq!(rows(&plain, "TABLE orders ORDER BY id").await, both);
    assert_eq!(text(&plain, "SELECT count(*) FROM orders WHERE id > 1000").await, "2");
    live.orders_in_step().await;
}

async fn live_client(live: &Live, table: &str) -> Client {
    if table == "twin" { live.direct().await } else { live.client().await }
}

#[tokio::test]
async fn keys_that_trade_places_in_several_transactions_at_once_end_in_step() {
    let live = Live::orders("", "").await;
    let (a, b) = (live.client().await, live.client().await);
    run(&a, "BEGIN; UPDATE orders SET id = 100 WHERE id = 1").await;
    run(&b, "BEGIN; UPDATE orders SET id = 200 WHERE id = 2").await;
    let insert = "INSERT INTO orders VALUES (1, 9, 9, 'new 1')";
    let waiting = in_background(b, insert);
    live.until_blocked("INSERT INTO orders").await;
    run(&a, "UPDATE orders SET id = 3000 WHERE id = 3; COMMIT").await;
    let (b, outcome) = waiting.await.unwrap();
    assert_eq!(outcome, Ok(vec![1]));
    run(&a, "BEGIN; DELETE FROM orders WHERE id = 100; INSERT INTO orders VALUES (100, 8, 8)")
        .await;
    run(&b, "COMMIT").await;
    run(&a, "COMMIT").await;
    let ids = text(&a, "SELECT id FROM orders ORDER BY id").await;
    assert_eq!(ids, "1 4 5 6 7 8 9 10 100 200 3000");
    live.orders_in_step().await;
}

#[tokio::test]
async fn a_deleted_row_that_another_client_inserts_anew_stays() {
    let live = Live::orders("", "").await;
    let (a, b) = (live.client().await, live.client().await);
    run(&a, "BEGIN; DELETE FROM orders WHERE id = 5").await;
    let waiting = in_background(b, "INSERT INTO orders VALUES (5, 1, 1, 'anew')");
    live.until_blocked("INSERT INTO orders").await;
    run(&a, "COMMIT").await;
    assert_eq!(waiting.await.unwrap().1, Ok(vec![1]));
    assert_eq!(text(&a, "SELECT note FROM orders WHERE id = 5").await, "anew");
    live.orders_in_step().await;
}

#[tokio::test]
async fn a_savepoint_rolled_back_takes_its_mirrored_write_and_its_records_along() {
    let live = Live::orders("", "").await;
    let (client, locker) = (live.client().await, live.direct().await);
    run(&client, "BEGIN; UPDATE orders SET total = 1 WHERE id = 1; SAVEPOINT a").await;
    run(&client, "UPDATE orders SET total = 2 WHERE id IN (1, 2); ROLLBACK TO a").await;
    run(&client, "UPDATE orders SET note = 'kept' WHERE id = 3; SAVEPOINT b").await;
    run(&locker, "BEGIN; SELECT FROM orders_v2 WHERE id = 4 FOR UPDATE").await;
    run(&client, "UPDATE orders SET total = 3 WHERE id = 4").await;
    let dirty = "SELECT key FROM pgsegue.dirty_keys ORDER BY at, ctid";
    assert_eq!(text(&client, dirty).await, "{4}");
    run(&client, "ROLLBACK TO b").await;
    assert_eq!(text(&client, dirty).await, "");
    run(&client, "INSERT INTO orders VALUES (20, 1, 1); RELEASE b; COMMIT").await;
    run(&locker, "ROLLBACK").await;
    let totals = text(&client, "SELECT total FROM orders WHERE id < 5 ORDER BY id").await;
    assert_eq!(totals, "1 20 30 40");
    live.orders_in_step().await;
}

#[tokio::test]
async fn a_repeatable_read_writer_behind_newer_shadow_rows_commits_and_is_followed() {
    let live = Live::orders("", "").await;
    let (old, other) = (live.client().await, live.client().await);
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        run(&old, &format!("BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM orders")).await;
        // A shadow row that the old snapshot does not see; its source row is as it was.
        run(&other, "UPDATE orders_v2 SET note = note WHERE id IN (1, 2)").await;
        run(&old, "UPDATE orders SET total = total + 1 WHERE id = 1").await;
        run(&old, "DELETE FROM orders WHERE id = 2 RETURNING id").await;
        run(&old, "COMMIT").await;
        live.orders_in_step().await;
        run(&other, "INSERT INTO orders VALUES (2, 2, 2)").await;
        // The client's own conflict stays the client's.
        run(&old, &format!("BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM orders")).await;
        run(&other, "UPDATE orders SET total = 5 WHERE id = 3").await;
        let failed = outcome(&old, "UPDATE orders SET total = 6 WHERE id = 3").await.unwrap_err();
        assert_eq!(failed, "40001 could not serialize access due to concurrent update");
        run(&old, "ROLLBACK").await;
    }
    live.orders_in_step().await;
}

#[tokio::test]
async fn write_skew_is_still_refused_to_serializable_clients_while_mirrors_fail() {
    let live = Live::orders("", "reads = 100").await;
    let (a, b) = (live.client().await, live.client().await);
    live.until_shadow_serves(&a, "SELECT total FROM orders WHERE id = 1").await;
    run(&live.db.client, "ALTER TABLE orders_v2 ADD CHECK (total_minor < 5000000)").await;
    let before = live.shadow_reads();
    run(&a, "BEGIN ISOLATION LEVEL SERIALIZABLE").await;
    run(&b, "SET default_transaction_isolation = serializable").await;
    run(&b, "BEGIN").await;
    assert_eq!(text(&a, "SELECT total FROM orders WHERE id = 2").await, "20");
    assert_eq!(text(&b, "SELECT total FROM orders WHERE id = 1").await, "10");
    let first = outcome(&a, "UPDATE orders SET total = 90000 WHERE id = 1").await;
    let second = outcome(&b, "UPDATE orders SET total = 90000 WHERE id = 2").await;
    let ends = [outcome(&a, "COMMIT").await, outcome(&b, "COMMIT").await];
    let failed: Vec<_> = [first, second].into_iter().chain(ends).filter_map(Result::err).collect();
    assert!(failed.len() == 1 && failed[0].starts_with("40001"), "{failed:?}");
    assert!((live.shadow_reads() - before).abs() < 0.5, "a serializable read left the source");
}

#[tokio::test]
async fn a_cancel_or_timeout_while_the_shadow_holds_the_write_is_the_clients_own() {
    let live = Live::orders("lock_budget_ms = 900", "").await;
    let (client, locker) = (live.client().await, live.direct().await);
    run(&locker, "BEGIN; SELECT FROM orders_v2 WHERE id = 1 FOR UPDATE").await;
    run(&client, "SET statement_timeout = 100").await;
    let failed = outcome(&client, "UPDATE orders SET total = 1 WHERE id = 1").await.unwrap_err();
    assert_eq!(failed, "57014 canceling statement due to statement timeout");
    assert_eq!(live.dirty().await, []);
    run(&locker, "ROLLBACK").await;
    run(&client, "UPDATE orders SET total = 2 WHERE id = 1").await;
    live.orders_in_step().await;
}

/// A save of the whole row, its key included, holds back no row that refers to it.
#[tokio::test]
async fn an_update_that_names_its_key_and_keeps_it_does_not_wait_for_foreign_keys() {
    let live = Live::orders("", "").await;
    let plain = live.direct().await;
    run(&plain, "CREATE TABLE lines (orders_id int REFERENCES orders, n int)").await;
    let (first, second) = (live.client().await, live.client().await);
    run(&first, "BEGIN; INSERT INTO lines VALUES (9, 1)").await;
    run(&second, "SET statement_timeout = '20s'; BEGIN; INSERT INTO lines VALUES (9, 2)").await;
    let saved = "UPDATE orders SET id = 9, total = total + 1 WHERE id = 9";
    assert_eq!(outcome(&first, saved).await, Ok(vec![1]));
    let waits = in_background(second, saved);
    live.until_blocked("UPDATE orders").await;
    run(&first, "COMMIT").await;
    let (second, outcome) = waits.await.unwrap();
    assert_eq!(outcome, Ok(vec![1]), "no deadlock");
    run(&second, "COMMIT").await;
    assert_eq!(text(&plain, "SELECT total FROM orders WHERE id = 9").await, "92");
    live.orders_in_step().await;
}

/// Where the server will take the stronger lock, a weaker one before it makes a deadlock of two waits:
/// before a row trigger, and where the key does change.
#[tokio::test]
async fn a_save_of_all_columns_behind_the_insert_of_a_child_waits_and_is_no_deadlock() {
    const TOUCHES: &str = "CREATE FUNCTION touches() RETURNS trigger LANGUAGE plpgsql \
        AS 'BEGIN NEW.note := now()::text; RETURN NEW; END'; \
        CREATE TRIGGER touches BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION touches()";
    const UNTOUCHED: &str = "SELECT";
    for (trigger, save, end) in [
        (TOUCHES, "UPDATE orders SET id = 9, total = 1 WHERE id = 9", "COMMIT"),
        (UNTOUCHED, "UPDATE orders SET id = id + 100, total = 1 WHERE id = 9", "ROLLBACK"),
    ] {
        let children = "CREATE TABLE lines (orders_id int REFERENCES orders, n int)";
        let ddl = format!("{ORDERS};{ORDERS_V2};{children};{trigger}");
        let live = Live::ready(&ddl, &orders_toml("", ""), &["orders_v2"]).await;
        let (child, parent) = (live.client().await, live.client().await);
        run(&child, "BEGIN; INSERT INTO lines VALUES (9, 1)").await;
        run(&parent, "SET statement_timeout = '20s'").await;
        let waits = in_background(parent, save);
        live.until_blocked("UPDATE orders").await;
        let counted = "UPDATE orders SET total = total + 1 WHERE id = 9";
        assert_eq!(outcome(&child, counted).await, Ok(vec![1]), "{save}");
        run(&child, end).await;
        let (_parent, outcome) = waits.await.unwrap();
        assert_eq!(outcome, Ok(vec![1]), "{save}");
        live.orders_in_step().await;
    }
}
