//! A group that fails on the shadow is sent again, to the source: the client gets one answer, whole.

use super::{extended, served, text};
use crate::live::raw::{bind, close, describe, execute, flush, parse, query, sync};
use crate::live::{Live, ORDERS, ORDERS_TABLE, Pair};
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

const R: &str = "SELECT total FROM orders WHERE id = 5";
const OTHER: &str = "SELECT total FROM orders WHERE id = 6";

fn group(name: &str, sql: &str) -> Vec<u8> {
    [parse(name, sql, &[]), bind("", name, 0, &[], 0), execute("", 0)].concat()
}

/// Groups and pipelines around a read that fails on the shadow, the number of ReadyForQuery, and whether it
/// is sent again.
fn around() -> Vec<(&'static str, Vec<Vec<u8>>, usize, bool)> {
    let insert = "INSERT INTO other VALUES (100, 1, 'x')";
    let fails = "INSERT INTO other VALUES (1, 1, NULL)";
    let one = |frames: Vec<Vec<u8>>| vec![frames.concat()];
    vec![
        ("behind a write", one(vec![group("", insert), group("", R), sync()]), 1, false),
        (
            "behind a write and a Flush",
            vec![[group("", insert), flush()].concat(), [group("", R), sync()].concat()],
            1,
            false,
        ),
        (
            "a query behind a write and a Flush",
            vec![[group("", insert), flush()].concat(), query(R), sync()],
            2,
            false,
        ),
        ("two queries", one(vec![query(R), query(OTHER)]), 2, true),
        ("three queries", one(vec![query(R), query(OTHER), query(R)]), 3, true),
        ("a query that fails before", one(vec![query(fails), query(OTHER)]), 2, false),
        ("a query that fails, and this", one(vec![query(fails), query(R)]), 2, false),
        ("a query behind another that works", one(vec![query("SELECT 1"), query(R)]), 2, false),
        ("a group that fails before", one(vec![group("", fails), query(OTHER), sync()]), 1, false),
        (
            "a Parse that fails before",
            vec![[parse("", "SELECT nope", &[]), query(OTHER)].concat(), sync()],
            1,
            false,
        ),
        ("a Close before", one(vec![close(b'S', "zz"), query(R), sync()]), 2, false),
        (
            "a portal of another before",
            one(vec![
                parse("a", "SELECT 1", &[]),
                bind("p", "a", 0, &[], 0),
                describe(b'P', "p"),
                query(R),
                sync(),
            ]),
            2,
            false,
        ),
        ("two Syncs", one(vec![group("", R), sync(), sync()]), 2, true),
        ("dropping the last one", one(vec![close(b'S', "s"), group("s", R), sync()]), 1, true),
        ("dropping it behind", one(vec![group("s", R), close(b'S', "s"), sync()]), 1, true),
        (
            "described and dropped",
            one(vec![
                parse("s", R, &[]),
                describe(b'S', "s"),
                bind("", "s", 0, &[], 0),
                describe(b'P', ""),
                execute("", 0),
                close(b'S', "s"),
                sync(),
            ]),
            1,
            true,
        ),
        ("two groups", one(vec![group("", R), sync(), group("", OTHER), sync()]), 2, true),
        ("a group and a query", one(vec![group("", R), sync(), query(R), query(OTHER)]), 3, true),
    ]
}

/// The error undoes all that ran since the server was ready last: only what is known whole is sent again.
#[tokio::test]
async fn a_read_that_fails_on_the_shadow_among_other_frames_undoes_none_and_answers_each_once() {
    let live = Live::orders("", "reads = 100").await;
    let direct = live.direct().await;
    let mut pair = Pair::new(&live, ORDERS).await;
    let spoil = "UPDATE orders_v2 SET total_minor = 9e15 WHERE id = 5";
    let mend = "UPDATE orders_v2 SET total_minor = 5000 WHERE id = 5";
    for (what, parts, readies, again) in around() {
        for fresh in [false, true] {
            live.until_clean("orders_v2").await;
            for sql in [R, OTHER] {
                served(&live, &mut pair.live, &query(sql), sql).await;
                served(&live, &mut pair.live, &extended(sql, 0), sql).await;
            }
            if fresh {
                // The session's facts have to be asked for anew.
                pair.simple("SET work_mem = '5MB'").await;
            }
            let before = retries(&live);
            direct.batch_execute(spoil).await.unwrap();
            let mut said = Vec::new();
            for raw in [&mut pair.plain, &mut pair.live] {
                for part in &parts {
                    raw.send(part).await;
                }
                let messages = raw.until_ready(readies).await;
                said.push(raw.shown(&messages));
            }
            direct.batch_execute(mend).await.unwrap();
            match again {
                true => assert_eq!(said[0], said[1], "{what}, fresh {fresh}"),
                // It may be the server's error: then all of its group is undone, and the client knows.
                false if said[0] == said[1] => {}
                false => {
                    let errors = said[1].iter().filter(|line| line.starts_with("E C22003")).count();
                    assert_eq!(errors, 1, "{what}, fresh {fresh}: {said:?}");
                }
            }
            if again && !fresh {
                assert!(retries(&live) > before, "{what}: not sent again");
            }
            let failed = said[1].iter().any(|line| line.starts_with("E C22003"));
            let rows = "SELECT count(*) FROM other WHERE id = 100";
            let seen = (pair.plain.rows(rows).await, pair.live.rows(rows).await);
            assert!(failed || seen.0 == seen.1, "{what}, fresh {fresh}: {seen:?}");
            pair.simple("DELETE FROM other WHERE id = 100; DEALLOCATE ALL").await;
        }
    }
    live.orders_in_step().await;
}

#[tokio::test]
async fn a_read_parsed_on_the_shadow_is_described_as_the_sources_behind_a_group_that_failed() {
    let live = Live::orders("", "reads = 100").await;
    let sql = "SELECT * FROM orders WHERE id = $1";
    let warm = live.client().await;
    live.until_shadow_serves(&warm, "SELECT * FROM orders WHERE id = 3").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    let run = [bind("", "", 0, &[Some(b"3")], 0), execute("", 0)].concat();
    eventually("the shadow serves it", async || {
        let before = live.shadow_reads();
        pair.exchange(sql, &[&parse("", sql, &[])[..], &run, &sync()].concat(), 1).await;
        if live.shadow_reads() > before + 0.5 { Ok(()) } else { Err(()) }
    })
    .await;
    let described = [describe(b'S', ""), sync()].concat();
    for fails in [bind("p", "none", 0, &[], 0), execute("none", 0), describe(b'P', "none")] {
        let group = [&parse("", sql, &[])[..], &fails, &run, &described].concat();
        pair.exchange("fails", &group, 1).await;
        pair.exchange("described", &described, 1).await;
        pair.exchange("bound", &[&run[..], &described].concat(), 1).await;
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

/// Parse may choose the source, and Bind the shadow: what is described again then is the shadow's form.
#[tokio::test]
async fn what_is_described_before_a_bind_that_fails_is_described_as_the_source_does() {
    let live = Live::orders("", "reads = 50\nsticky = \"statement\"").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    let sql = "SELECT * FROM orders WHERE id = $1";
    let group = |value: &[u8]| {
        let run = [describe(b'P', ""), execute("", 0), sync()].concat();
        let bound = bind("", "", 0, &[Some(value)], 0);
        [parse("", sql, &[]), describe(b'S', ""), bound, run].concat()
    };
    served(&live, &mut pair.live, &group(b"1"), "SELECT * FROM orders WHERE id = 5").await;
    let before = retries(&live);
    for _ in 0..60 {
        pair.exchange(sql, &group(b"2147483648"), 1).await;
    }
    assert!(retries(&live) > before + 5.5, "hardly any was sent again");
    pair.same();
}
