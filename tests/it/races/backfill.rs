//! Writers against chunks, and transactions that are open while the migration moves on.

use super::run;
use crate::live::raw::{bind, execute, one, parse, query, sync};
use crate::live::{Live, ORDERS, ORDERS_V2, orders_toml, outcome, text};
use crate::support::eventually;
use tokio_postgres::Client;

/// A backfill whose first chunk has copied all rows but 10, and waits: `holder` has written row 10
/// in an open transaction.
pub struct Held {
    pub live: Live,
    holder: Client,
}

pub async fn held() -> Held {
    let toml = orders_toml("", "");
    let live = Live::declared(&format!("{ORDERS};{ORDERS_V2}"), &toml).await;
    let (old, holder) = (live.direct().await, live.client().await);
    run(&old, "BEGIN; UPDATE orders SET note = 'old' WHERE id = 1").await;
    live.start("orders_v2");
    eventually("the barrier waits for the old writer", async || {
        let log = live.proxy.log();
        if log.contains("obstacle=Writer") { Ok(()) } else { Err("no") }
    })
    .await;
    run(&holder, "BEGIN; UPDATE orders SET note = 'held' WHERE id = 10").await;
    run(&old, "COMMIT").await;
    live.until_blocked("orders_v2").await;
    live.until_phase("orders_v2", "backfill").await;
    Held { live, holder }
}

impl Held {
    pub async fn release(self) -> Live {
        run(&self.holder, "COMMIT").await;
        self.live.until_phase("orders_v2", "ready").await;
        self.live.orders_in_step().await;
        self.live
    }
}

#[tokio::test]
async fn a_row_deleted_while_its_copy_is_uncommitted_does_not_come_back() {
    let held = held().await;
    let client = held.live.client().await;
    assert_eq!(outcome(&client, "DELETE FROM orders WHERE id = 5").await, Ok(vec![1]));
    assert_eq!(outcome(&client, "DELETE FROM orders WHERE id = 6 RETURNING id").await, Ok(vec![1]));
    assert_eq!(outcome(&client, "UPDATE orders SET id = 77 WHERE id = 7").await, Ok(vec![1]));
    let live = held.release().await;
    let ids = text(&live.db.client, "SELECT id FROM orders_v2 ORDER BY id").await;
    assert_eq!(ids, "1 2 3 4 8 9 10 77");
}

#[tokio::test]
async fn a_row_updated_while_its_copy_is_uncommitted_ends_with_the_update() {
    let held = held().await;
    let client = held.live.client().await;
    run(&client, "UPDATE orders SET total = 1 WHERE id = 4").await;
    run(&client, "BEGIN; UPDATE orders SET total = 2 WHERE id = 5; ROLLBACK").await;
    run(&client, "UPDATE orders SET total = 3 WHERE id < 10").await;
    held.release().await;
}

#[tokio::test]
async fn inserts_while_a_chunk_is_copied_keep_their_own_meaning() {
    let held = held().await;
    let client = held.live.client().await;
    run(&client, "INSERT INTO orders VALUES (11, 1, 1), (-3, 1, 1)").await;
    let twice = outcome(&client, "INSERT INTO orders VALUES (5, 1, 1)").await.unwrap_err();
    assert_eq!(twice, "23505 duplicate key value violates unique constraint \"orders_pkey\"");
    let upsert = "INSERT INTO orders VALUES (5, 1, 1) ON CONFLICT (id) DO UPDATE SET total = 6";
    assert_eq!(outcome(&client, upsert).await, Ok(vec![1]));
    run(
        &client,
        "BEGIN; DELETE FROM orders WHERE id = 6; INSERT INTO orders VALUES (6, 1, 1); COMMIT",
    )
    .await;
    held.release().await;
}

#[tokio::test]
async fn a_repeatable_read_writer_that_does_not_see_the_copy_commits() {
    let held = held().await;
    let (updates, deletes) = (held.live.client().await, held.live.client().await);
    for client in [&updates, &deletes] {
        run(client, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM orders").await;
    }
    let live = held.release().await;
    run(&updates, "UPDATE orders SET total = 8 WHERE id = 3; COMMIT").await;
    run(&deletes, "DELETE FROM orders WHERE id = 4; COMMIT").await;
    live.orders_in_step().await;
    let seen = text(&live.db.client, "SELECT total_minor FROM orders_v2 WHERE id IN (3, 4)").await;
    assert_eq!(seen, "800");
}

#[tokio::test]
async fn a_shadow_row_deleted_while_the_chunk_waits_for_it_does_not_come_back() {
    let held = held().await;
    // The chunk waits for row 10, which the holder now deletes.
    run(&held.holder, "DELETE FROM orders WHERE id = 10").await;
    let live = held.release().await;
    assert_eq!(text(&live.db.client, "SELECT count(*) FROM orders_v2 WHERE id = 10").await, "0");
}

#[tokio::test]
async fn a_transaction_open_across_the_start_is_waited_for_and_none_of_its_writes_is_lost() {
    let toml = orders_toml("", "");
    let live = Live::declared(&format!("{ORDERS};{ORDERS_V2}"), &toml).await;
    let (long, reader, other) = (live.client().await, live.client().await, live.client().await);
    let write = "UPDATE orders SET total = total + 1 WHERE id = $1 RETURNING total";
    let prepared = long.prepare(write).await.unwrap();
    run(&long, "BEGIN; DELETE FROM orders WHERE id = 1").await;
    long.query_one(&prepared, &[&2i32]).await.unwrap();
    run(&reader, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM orders").await;
    live.start("orders_v2");
    eventually("the barrier waits for it", async || {
        if live.proxy.log().contains("obstacle=Writer") { Ok(()) } else { Err("no") }
    })
    .await;
    run(&other, "UPDATE orders SET total = 0 WHERE id = 8").await;
    let row = long.query_one(&prepared, &[&3i32]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 31);
    run(&long, "INSERT INTO orders VALUES (12, 1, 1); DELETE FROM orders WHERE id = 4").await;
    let phase = "SELECT phase ->> 'phase' FROM pgsegue.migrations";
    assert_eq!(text(&live.db.client, phase).await, "dual_write");
    run(&long, "COMMIT").await;
    live.until_phase("orders_v2", "ready").await;
    live.orders_in_step().await;
    // The old snapshot wakes up long after the copy.
    run(&reader, "DELETE FROM orders WHERE id = 6; UPDATE orders SET note = 'late' WHERE id = 7")
        .await;
    run(&reader, "COMMIT").await;
    live.orders_in_step().await;
}

/// Decided before the start it is not mirrored, and it runs last: what the mirrored one leaves on the shadow is older
/// than the row that is to be copied.
#[tokio::test]
async fn a_write_decided_before_the_start_that_runs_behind_a_mirrored_one_is_copied() {
    let toml = orders_toml("", "");
    let live = Live::declared(&format!("{ORDERS};{ORDERS_V2}"), &toml).await;
    let (early, late, holder) = (live.client().await, live.client().await, live.direct().await);
    run(&holder, "SELECT pg_advisory_lock(7)").await;
    let waits = "pg_advisory_xact_lock_shared(7)::text IS NOT NULL";
    let update = format!("UPDATE orders SET total = 2 WHERE id = 5 AND {waits}");
    let delete = format!("DELETE FROM orders WHERE id = 6 AND {waits}");
    let other = live.client().await;
    let (updated, deleted, ()) =
        tokio::join!(outcome(&early, &update), outcome(&other, &delete), async {
            live.until_blocked("UPDATE orders").await;
            live.until_blocked("DELETE FROM orders").await;
            live.start("orders_v2");
            live.until_phase("orders_v2", "dual_write").await;
            let before = live.statements("mirrored", "write");
            for mirrored in [
                "UPDATE orders SET total = 1 WHERE id IN (5, 6)",
                "INSERT INTO orders VALUES (12, 1, 1) ON CONFLICT (id) DO NOTHING",
            ] {
                run(&late, mirrored).await;
            }
            assert!(live.statements("mirrored", "write") > before + 1.5);
            run(&holder, "SELECT pg_advisory_unlock(7)").await;
        });
    assert_eq!((updated, deleted), (Ok(vec![1]), Ok(vec![1])));
    live.until_phase("orders_v2", "ready").await;
    let log = live.proxy.log();
    assert!(!log.contains("rows that differ"), "{log}");
    live.orders_in_step().await;
}

/// What is bound is executed as it was decided, and a cursor runs what it calls when it is read from.
#[tokio::test]
async fn what_is_bound_or_declared_before_the_start_is_waited_for() {
    const WRITES: &str = "CREATE FUNCTION writes(n int) RETURNS int LANGUAGE plpgsql AS \
         'BEGIN UPDATE orders SET total = n WHERE id = 7; RETURN n; END'";
    let toml = orders_toml("accepted = [\"function public.writes(integer)\"]", "");
    let live = Live::declared(&format!("{ORDERS};{ORDERS_V2};{WRITES}"), &toml).await;
    let late = live.client().await;
    let update = "UPDATE orders SET total = 2 WHERE id = 5";
    let calls = "SELECT writes(i) FROM generate_series(71, 73) AS i";
    let declare = format!("DECLARE c CURSOR FOR {calls}");
    let mut sessions = Vec::new();
    for (begins, ends) in [
        ([parse("", update, &[]), bind("", "", 0, &[], 0), sync()].concat(), execute("", 0)),
        ([parse("", calls, &[]), bind("p", "", 0, &[], 0), sync()].concat(), execute("p", 1)),
        (query(&declare), one("FETCH 2 FROM c")),
    ] {
        let mut raw = live.raw().await;
        raw.run("BEGIN").await;
        raw.exchange(&begins, 1).await;
        sessions.push((raw, ends));
    }
    live.start("orders_v2");
    live.until_phase("orders_v2", "dual_write").await;
    let before = live.statements("mirrored", "write");
    for mirrored in ["UPDATE orders SET total = 1 WHERE id = 7", "DELETE FROM orders WHERE id = 8"]
    {
        run(&late, mirrored).await;
    }
    assert!(live.statements("mirrored", "write") > before + 1.5);
    for (raw, ends) in &mut sessions {
        let said = raw.exchange(&[&**ends, &sync()].concat(), 1).await;
        assert!(said.iter().all(|line| !line.starts_with("E ")), "{said:?}");
        raw.run("COMMIT").await;
    }
    live.until_phase("orders_v2", "ready").await;
    let log = live.proxy.log();
    assert!(!log.contains("rows that differ"), "{log}");
    live.orders_in_step().await;
    assert_eq!(
        text(&late, "SELECT total FROM orders WHERE id IN (5, 7) ORDER BY id").await,
        "2 72"
    );
}

#[tokio::test]
async fn a_prepared_transaction_from_before_the_start_is_waited_for() {
    let toml = orders_toml("", "");
    let live = Live::declared(&format!("{ORDERS};{ORDERS_V2}"), &toml).await;
    let client = live.client().await;
    run(&client, "BEGIN; UPDATE orders SET total = 1 WHERE id = 1; PREPARE TRANSACTION 'old'")
        .await;
    live.start("orders_v2");
    eventually("the barrier waits for it", async || {
        if live.proxy.log().contains("obstacle=Writer") { Ok(()) } else { Err("no") }
    })
    .await;
    run(&client, "COMMIT PREPARED 'old'").await;
    live.until_phase("orders_v2", "ready").await;
    live.orders_in_step().await;
}
