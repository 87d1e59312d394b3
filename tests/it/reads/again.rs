//! A group that fails on the shadow is sent again, to the source: the client gets one answer, whole.

use super::{extended, served, text};
use crate::live::raw::{bind, describe, execute, parse, query, sync};
use crate::live::{Live, ORDERS, Pair};
use crate::support::eventually;

fn retries(live: &Live) -> f64 {
    live.proxy.metric("pgsegue_shadow_retries_total").unwrap_or(0.0)
}

/// Its Parse has the shadow's form, its Bind the source's, or the other way round: each is drawn anew.
#[tokio::test]
async fn a_group_bound_on_the_source_that_fails_behind_its_first_rows_is_answered_once() {
    let live = Live::orders("", "reads = 50\nsticky = \"statement\"").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    let fails = "SELECT id, 10 / (5 - id) FROM orders ORDER BY id";
    let none = "SELECT id FROM orders WHERE id > $1 AND 1 / (id - 3) < 0";
    served(&live, &mut pair.live, &extended("SELECT id FROM orders ORDER BY id", 0), fails).await;
    let group = |sql: &str, values: &[Option<&[u8]>], rows: u32| {
        let parts = [execute("", rows), execute("", rows), execute("", rows), sync()];
        [parse("", sql, &[]), bind("", "", 0, values, 0), describe(b'P', ""), parts.concat()]
            .concat()
    };
    let before = live.shadow_reads();
    for _ in 0..40 {
        for rows in [0, 2, 100] {
            pair.exchange(fails, &group(fails, &[], rows), 1).await;
        }
        pair.exchange(none, &group(none, &[Some(b"1")], 0), 1).await;
    }
    assert!(live.shadow_reads() - before > 10.0, "hardly any was on the shadow");
    assert!(retries(&live) > 0.5, "none was sent again");
    pair.same();
}

#[tokio::test]
async fn notices_of_an_attempt_that_fails_are_not_seen() {
    let told = "CREATE FUNCTION told(int) RETURNS int STABLE LANGUAGE plpgsql AS $$ BEGIN \
                RAISE NOTICE 'row %', $1; RETURN $1; END $$";
    let live = Live::orders("", "reads = 100").await;
    let direct = live.direct().await;
    direct.batch_execute(told).await.unwrap();
    let mut pair = Pair::new(&live, &format!("{ORDERS}; {told}")).await;
    let read = "SELECT told(id), total FROM orders WHERE id = 5";
    served(&live, &mut pair.live, &extended(read, 0), read).await;
    let spoil = "UPDATE orders_v2 SET total_minor = 9e15 WHERE id = 5";
    direct.batch_execute(spoil).await.unwrap();
    let before = retries(&live);
    pair.exchange(read, &extended(read, 0), 1).await;
    pair.simple(read).await;
    assert!(retries(&live) > before, "it was not sent again");
    pair.same();
    let mend = "UPDATE orders_v2 SET total_minor = 5000 WHERE id = 5";
    direct.batch_execute(mend).await.unwrap();
    eventually("the shadow serves", async || {
        let before = live.shadow_reads();
        assert_eq!(text(&live.client().await, "SELECT total FROM orders WHERE id = 5").await, "50");
        if live.shadow_reads() > before { Ok(()) } else { Err(before) }
    })
    .await;
}

/// Within a transaction nothing is sent again. The client has its error, and what it read is looked into.
#[tokio::test]
async fn a_read_that_fails_within_a_transaction_on_the_shadow_alone_is_found_out() {
    let live = Live::orders("", "reads = 100").await;
    let direct = live.direct().await;
    let mut raw = live.raw().await;
    let of = "SELECT total FROM orders WHERE id = $1";
    let bound = |sql: &str| {
        let values: &[Option<&[u8]>] = &[Some(b"5")];
        [parse("", sql, &[]), bind("", "", 0, values, 0), execute("", 0), sync()].concat()
    };
    // It fails on both tables.
    let own = "SELECT 1 / (id - id) FROM orders WHERE id = $1";
    for sql in [of, own] {
        served(&live, &mut raw, &bound(sql), sql).await;
    }
    for (n, frames) in
        [query("SELECT total FROM orders WHERE id = 5"), bound(of)].iter().enumerate()
    {
        served(&live, &mut raw, frames, of).await;
        eventually("it is found out", async || {
            // Again and again, for the continuous verify repairs it within a second.
            let spoil = "UPDATE orders_v2 SET total_minor = 9e15 WHERE id = 5";
            direct.batch_execute(spoil).await.unwrap();
            for (sql, frames) in [(own, &bound(own)), (of, frames)] {
                raw.run("BEGIN").await;
                let said = raw.exchange(frames, 1).await;
                raw.run("ROLLBACK").await;
                let own_error = said.iter().any(|line| line.contains("C22012"));
                assert_eq!(own_error, sql == own, "{said:?}");
            }
            let log = live.proxy.log();
            let found = log.matches("a read fails on the shadow alone").count();
            if found > n { Ok(()) } else { Err(log) }
        })
        .await;
        eventually("the row is repaired", async || {
            let row = "SELECT total_minor FROM orders_v2 WHERE id = 5";
            let seen = text(&direct, row).await;
            if seen == "5000" { Ok(()) } else { Err(seen) }
        })
        .await;
        live.verified("orders_v2").await;
    }
    let log = live.proxy.log();
    let of_own = |line: &&str| line.contains("on the shadow alone") && line.contains("1 / (id");
    assert_eq!(log.lines().filter(of_own).count(), 0, "{log}");
    live.orders_in_step().await;
}
