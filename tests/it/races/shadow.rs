//! A shadow that fails, is locked or is gone: the client's write succeeds, and its keys are on
//! record in the same transaction.

use super::run;
use crate::live::{Live, ORDERS, ORDERS_V2, orders_toml, outcome, text};
use crate::support::eventually;

const DIRTY: &str = "SELECT key::text || ' ' || split_part(reason, ' ', 1) FROM pgsegue.dirty_keys \
     WHERE reason NOT LIKE 'divergence%' ORDER BY at, ctid";

#[tokio::test]
async fn a_locked_shadow_row_holds_a_write_for_the_budget_only_and_the_transaction_once() {
    let live = Live::orders("", "").await;
    let (client, locker) = (live.client().await, live.direct().await);
    run(&locker, "BEGIN; SELECT FROM orders_v2 WHERE id < 6 FOR UPDATE").await;
    run(&client, "BEGIN").await;
    for id in 1..6 {
        let sql = format!("UPDATE orders SET total = 1 WHERE id = {id} RETURNING id");
        assert_eq!(outcome(&client, &sql).await, Ok(vec![1]));
    }
    // The first one has waited; the others have not tried.
    let seen = text(&client, DIRTY).await;
    assert_eq!(seen, "{1} 55P03 {2} recorded {3} recorded {4} recorded {5} recorded");
    run(&client, "ROLLBACK").await;
    assert_eq!(live.dirty().await, []);
    assert_eq!(outcome(&client, "UPDATE orders SET total = 2 WHERE id < 8").await, Ok(vec![7]));
    assert_eq!(live.dirty().await.len(), 7);
    assert_eq!(text(&locker, "SELECT count(*) FROM orders WHERE total = 2").await, "7");
    run(&locker, "ROLLBACK").await;
    live.orders_in_step().await;
}

#[tokio::test]
async fn a_shadow_table_locked_as_a_whole_holds_no_write() {
    let live = Live::orders("", "").await;
    let (client, locker) = (live.client().await, live.direct().await);
    run(&locker, "BEGIN; LOCK TABLE orders_v2").await;
    run(&client, "UPDATE orders SET total = 2 WHERE id = 1").await;
    run(&client, "INSERT INTO orders VALUES (11, 1, 1)").await;
    run(&client, "DELETE FROM orders WHERE id = 2").await;
    let keys: Vec<_> = live.dirty().await.into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["{1}", "{11}", "{2}"]);
    run(&locker, "ROLLBACK").await;
    live.orders_in_step().await;
}

/// What is done to the shadow, a write that it cannot take, the SQLSTATE on record, and how it is
/// put right.
const FAILURES: &[(&str, &str, &str, &str)] = &[
    (
        "ALTER TABLE orders_v2 RENAME TO away",
        "UPDATE orders SET total = 3 WHERE id = 1",
        "42P01",
        "ALTER TABLE away RENAME TO orders_v2",
    ),
    (
        "ALTER TABLE orders_v2 RENAME note TO away",
        "INSERT INTO orders VALUES (11, 1, 1, 'x')",
        "42703",
        "ALTER TABLE orders_v2 RENAME away TO note",
    ),
    (
        "ALTER TABLE orders_v2 ADD CONSTRAINT c CHECK (total_minor < 100000)",
        "UPDATE orders SET total = 5000 WHERE id = 1",
        "23514",
        "ALTER TABLE orders_v2 DROP CONSTRAINT c",
    ),
    (
        "ALTER TABLE orders_v2 ALTER note SET NOT NULL",
        "UPDATE orders SET note = NULL WHERE id = 3",
        "23502",
        "ALTER TABLE orders_v2 ALTER note DROP NOT NULL",
    ),
    (
        "CREATE UNIQUE INDEX u ON orders_v2 (note)",
        "UPDATE orders SET note = 'note 5' WHERE id = 4",
        "23505",
        "DROP INDEX u",
    ),
    (
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN ASSERT false; END $$; \
         CREATE TRIGGER t AFTER INSERT OR UPDATE OR DELETE ON orders_v2 FOR EACH ROW EXECUTE FUNCTION f()",
        "DELETE FROM orders WHERE id = 5",
        "P0004",
        "DROP FUNCTION f() CASCADE",
    ),
    (
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM 1 / 0; END $$; \
         CREATE TRIGGER t BEFORE INSERT ON orders_v2 FOR EACH ROW EXECUTE FUNCTION f()",
        "UPDATE orders SET total = 12 WHERE id = 6 RETURNING total",
        "22012",
        "DROP FUNCTION f() CASCADE",
    ),
    (
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$; \
         CREATE TRIGGER t BEFORE INSERT OR UPDATE OR DELETE ON orders_v2 FOR EACH ROW EXECUTE FUNCTION f()",
        "UPDATE orders SET total = 13 WHERE id = 7",
        "fewer",
        "DROP FUNCTION f() CASCADE",
    ),
    (
        "CREATE RULE r AS ON DELETE TO orders_v2 DO INSTEAD NOTHING",
        "DELETE FROM orders WHERE id = 8",
        "fewer",
        "DROP RULE r ON orders_v2",
    ),
    (
        "UPDATE orders_v2 SET total_minor = 0; ALTER TABLE orders_v2 ALTER total_minor TYPE int",
        "UPDATE orders SET total = 2147483 * 100 WHERE id = 9",
        "22003",
        "ALTER TABLE orders_v2 ALTER total_minor TYPE bigint",
    ),
];

#[tokio::test]
async fn a_shadow_that_fails_is_on_record_in_the_writers_transaction_and_never_the_writers_error() {
    let live = Live::orders("", "").await;
    let (client, direct) = (live.client().await, live.direct().await);
    for (break_it, write, state, mend) in FAILURES {
        // Repair may not take the records away while the test looks.
        run(&direct, break_it).await;
        run(&client, "BEGIN").await;
        assert_eq!(outcome(&client, write).await, Ok(vec![1]), "{break_it}");
        let seen = text(&client, DIRTY).await;
        assert!(seen.ends_with(state), "{break_it}: {seen}");
        run(&client, "ROLLBACK").await;
        assert_eq!(
            // What the continuous verify finds meanwhile of the broken shadow is its own record.
            text(&direct, DIRTY).await,
            "",
            "{break_it}"
        );
        assert_eq!(outcome(&client, write).await, Ok(vec![1]), "{break_it}");
        run(&direct, mend).await;
        // Where the engine has looked at the tables in between, it was blocked by what it saw.
        eventually("it is not blocked any more", async || {
            let sql = "SELECT phase ->> 'phase' FROM pgsegue.migrations";
            let phase = text(&direct, sql).await;
            if phase != "blocked" {
                return Ok(());
            }
            live.proxy.pgsegue(&["migration", "resume", "orders_v2"]);
            Err(phase)
        })
        .await;
        live.verified("orders_v2").await;
        live.cli(&["migration", "repair", "orders_v2"]);
        live.orders_in_step().await;
    }
}

#[tokio::test]
async fn deferrable_constraints_on_the_shadow_are_refused_before_they_can_fail_a_commit() {
    for constraint in [
        "UNIQUE (email) DEFERRABLE INITIALLY DEFERRED",
        "UNIQUE (email) DEFERRABLE",
        "FOREIGN KEY (customer_id) REFERENCES customers DEFERRABLE INITIALLY DEFERRED",
    ] {
        let ddl = format!(
            "{ORDERS};{ORDERS_V2}; CREATE TABLE customers (id int PRIMARY KEY); \
             INSERT INTO customers VALUES (0), (1), (2); ALTER TABLE orders_v2 ADD {constraint}"
        );
        let live = Live::declared(&ddl, &orders_toml("", "")).await;
        live.start("orders_v2");
        live.until_phase("orders_v2", "blocked").await;
        let client = live.client().await;
        run(&client, "UPDATE orders SET total = 1").await;
    }
}

#[tokio::test]
async fn a_failed_mirror_sends_everybodys_reads_to_the_source_before_any_repair() {
    let live = Live::orders("", "reads = 100").await;
    let (writer, reader) = (live.client().await, live.client().await);
    let locker = live.direct().await;
    let read = "SELECT total FROM orders WHERE id = 5";
    live.until_shadow_serves(&reader, read).await;
    let prepared = reader.prepare("SELECT total FROM orders WHERE id = $1").await.unwrap();
    run(&locker, "BEGIN; SELECT FROM orders_v2 WHERE id = 5 FOR UPDATE").await;
    run(&writer, "BEGIN; UPDATE orders SET total = 500 WHERE id = 5").await;
    let before = live.shadow_reads();
    assert_eq!(text(&reader, read).await, "50");
    run(&writer, "COMMIT").await;
    assert_eq!(text(&reader, read).await, "500");
    let row = reader.query_one(&prepared, &[&5i32]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 500);
    assert_eq!(live.dirty().await.len(), 1, "nothing could be repaired yet");
    assert!((live.shadow_reads() - before).abs() < 0.5, "the shadow answered");
    run(&locker, "ROLLBACK").await;
    live.orders_in_step().await;
    live.until_shadow_serves(&reader, read).await;
    assert_eq!(text(&reader, read).await, "500");
}

#[tokio::test]
async fn many_writes_in_one_transaction_are_all_mirrored_or_on_record() {
    let live = Live::orders("", "").await;
    let client = live.client().await;
    run(&client, "BEGIN").await;
    for n in 0..100 {
        run(&client, &format!("INSERT INTO orders VALUES ({}, 1, {n})", 1000 + n)).await;
    }
    let recorded: i64 =
        text(&client, "SELECT count(*) FROM pgsegue.dirty_keys").await.parse().unwrap();
    assert!((20..60).contains(&recorded), "{recorded}");
    run(&client, "COMMIT").await;
    live.orders_in_step().await;
}

/// Nobody writes, so that nobody's lock budget says so.
#[tokio::test]
async fn reads_do_not_wait_for_a_lock_on_the_shadow_and_do_for_one_on_the_source() {
    const READ: &str = "SELECT total FROM orders WHERE id = 5";
    let live = Live::orders("", "reads = 100").await;
    let (client, locker) = (live.client().await, live.direct().await);
    run(&client, "SET lock_timeout = 50").await;
    live.until_shadow_serves(&client, READ).await;
    run(&locker, "BEGIN; LOCK TABLE orders_v2").await;
    eventually("the source answers", async || outcome(&client, READ).await.map(|_| ())).await;
    for _ in 0..20 {
        assert_eq!(text(&client, READ).await, "50");
    }
    run(&locker, "ROLLBACK").await;
    live.until_shadow_serves(&client, READ).await;
    run(&locker, "BEGIN; LOCK TABLE orders").await;
    eventually("it waits as it does without the proxy", async || {
        match outcome(&client, READ).await {
            Err(said) if said.starts_with("55P03") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    run(&locker, "ROLLBACK").await;
    live.until_shadow_serves(&client, READ).await;
}
