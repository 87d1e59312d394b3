//! Code that commits on its way, and writes on behind that: what it does later is on record until it is over,
//! whatever a verify has found meanwhile.

use super::run;
use crate::live::raw::{bind, execute, flush, frame, one, parse, query, sync};
use crate::live::{Live, ORDERS, ORDERS_TABLE, Pair, text};
use crate::support::eventually;

/// Waits for the row that somebody else has locked, behind a commit.
const CODE: &str = "DO $$ BEGIN UPDATE orders SET total = 777 WHERE id = 3; COMMIT; \
                    UPDATE orders SET total = 777 WHERE id = 4; END $$";
const PROCEDURE: &str = "CREATE PROCEDURE in_two() LANGUAGE plpgsql AS $$ BEGIN \
                         UPDATE orders SET total = 777 WHERE id = 3; COMMIT; \
                         UPDATE orders SET total = 777 WHERE id = 4; END $$";
const MARKS: &str = "SELECT count(*) FROM pgsegue.dirty_keys WHERE key IS NULL";
const READ: &str = "SELECT total FROM orders WHERE id = 4";

/// Sessions that hold a mark.
const HOLDERS: &str = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' \
    AND classid = x'70677367'::int AND database = \
    (SELECT oid FROM pg_database WHERE datname = current_database())";

/// Nobody holds a mark any more, and what was recorded is worked off.
async fn until_over(live: &Live) {
    let direct = live.direct().await;
    eventually("the marks are released", async || {
        let held = text(&direct, HOLDERS).await;
        if held == "0" { Ok(()) } else { Err(held) }
    })
    .await;
    live.orders_in_step().await;
}

fn extended(sql: &str) -> Vec<u8> {
    [parse("", sql, &[]), bind("", "", 0, &[], 0), execute("", 0), sync()].concat()
}

#[tokio::test]
async fn a_mark_of_code_that_goes_on_behind_a_commit_is_not_worked_off_before_its_end() {
    let live = Live::orders("", "reads = 100").await;
    let direct = live.direct().await;
    run(&direct, PROCEDURE).await;
    let client = live.client().await;
    live.until_clean("orders_v2").await;
    let call = "CALL in_two()";
    for (frames, waits) in
        [(query(CODE), CODE), (extended(CODE), CODE), (query(call), call), (extended(call), call)]
    {
        live.until_shadow_serves(&client, READ).await;
        run(&direct, "BEGIN; SELECT FROM orders WHERE id = 4 FOR UPDATE").await;
        let mut raw = live.raw().await;
        raw.send(&frames).await;
        live.until_blocked(waits).await;
        // All that it has written by now is found, and repaired.
        live.verified("orders_v2").await;
        live.verified("orders_v2").await;
        assert_eq!(text(&live.db.client, MARKS).await, "1");
        run(&direct, "COMMIT").await;
        raw.until_ready(1).await;
        assert_eq!(text(&client, READ).await, "777");
        until_over(&live).await;
        run(&client, "UPDATE orders SET total = 1").await;
    }
}

#[tokio::test]
async fn a_mark_of_code_whose_client_is_gone_is_worked_off_when_the_server_has_ended_it() {
    let live = Live::orders("", "reads = 100").await;
    let direct = live.direct().await;
    run(&direct, "BEGIN; SELECT FROM orders WHERE id = 4 FOR UPDATE").await;
    let mut raw = live.raw().await;
    raw.send(&query(CODE)).await;
    live.until_blocked(CODE).await;
    drop(raw);
    live.verified("orders_v2").await;
    live.verified("orders_v2").await;
    assert_eq!(text(&live.db.client, MARKS).await, "1");
    run(&direct, "COMMIT").await;
    until_over(&live).await;
}

/// The session goes on, whatever became of what it was held for.
#[tokio::test]
async fn a_mark_is_released_where_its_code_fails_or_stands_in_a_block() {
    let live = Live::orders("", "").await;
    let client = live.client().await;
    let fails = "DO $$ BEGIN UPDATE orders SET total = 5; PERFORM 1 / 0; END $$";
    for texts in [
        vec![fails],
        vec!["BEGIN", CODE, "ROLLBACK"],
        vec!["BEGIN", fails, "COMMIT"],
        vec![
            "DO $$ BEGIN PERFORM count(*) FROM orders; END $$",
            CODE,
            "BEGIN READ ONLY",
            CODE,
            "END",
        ],
    ] {
        for sql in texts {
            drop(client.simple_query(sql).await);
        }
        until_over(&live).await;
    }
    assert_eq!(text(&client, "SELECT sum(total) FROM orders WHERE id IN (3, 4)").await, "1554");
}

/// A text that is not read: in this encoding, and with this letter.
fn unread(sql: &str) -> Vec<u8> {
    let bytes: Vec<u8> = sql.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
    frame(b'Q', &[&bytes[..], b"\0"].concat())
}

/// What is unread may be several transactions, and end in one that undoes its mark.
#[tokio::test]
async fn a_text_that_is_not_read_is_on_record_whatever_transactions_it_begins_and_ends() {
    let live = Live::orders("", "reads = 100").await;
    let (direct, other) = (live.direct().await, live.client().await);
    let first = "UPDATE orders SET total = 7, note = 'é' WHERE id = 3";
    let second = "UPDATE orders SET total = 8, note = 'é' WHERE id = 4";
    for (before, text, behind) in [
        ("", "SET work_mem = '4MB'; BEGIN; {1}; COMMIT; BEGIN; {2}; COMMIT", ""),
        ("", "{1}; COMMIT; {2}", ""),
        ("", "BEGIN; {1}; COMMIT; BEGIN; {2}; COMMIT; BEGIN", "ROLLBACK"),
        ("", "BEGIN; {1}; COMMIT; {2}; BEGIN READ ONLY", "COMMIT"),
        ("", "BEGIN; {1}; COMMIT; {2}; BEGIN; SELECT 1 / 0", "ROLLBACK"),
        ("", "SELECT 1; ROLLBACK; {1}; {2}", ""),
        ("BEGIN", "ROLLBACK; {1}; {2}; BEGIN", "ROLLBACK"),
        ("BEGIN", "{1}; COMMIT; {2}", ""),
        ("BEGIN; SELECT 1 / 0", "ROLLBACK; BEGIN; {1}; {2}; COMMIT; BEGIN", "ROLLBACK"),
        ("BEGIN; SELECT 1 / 0", "ROLLBACK; {1}; {2}; BEGIN READ ONLY", "COMMIT"),
        ("BEGIN; SELECT 1 / 0", "ROLLBACK; {1}; {2}; BEGIN; SELECT 1 / 0", "ROLLBACK"),
    ] {
        let mut raw = live.raw().await;
        raw.exchange(&query("SET client_encoding = latin1"), 1).await;
        for sql in before.split("; ").filter(|sql| !sql.is_empty()) {
            raw.exchange(&query(sql), 1).await;
        }
        // The second one waits behind the commit of the first.
        run(&direct, "BEGIN; SELECT FROM orders WHERE id = 4 FOR UPDATE").await;
        raw.send(&unread(&text.replace("{1}", first).replace("{2}", second))).await;
        live.until_blocked("UPDATE orders SET total = 8").await;
        live.verified("orders_v2").await;
        live.verified("orders_v2").await;
        run(&direct, "COMMIT").await;
        raw.until_ready(1).await;
        assert_eq!(text_of(&other).await, text_of(&direct).await, "{text}");
        if !behind.is_empty() {
            live.verified("orders_v2").await;
            raw.exchange(&query(behind), 1).await;
        }
        assert_eq!(text_of(&other).await, text_of(&direct).await, "{text}, {behind}");
        until_over(&live).await;
        run(&other, "UPDATE orders SET total = 1 WHERE id IN (3, 4)").await;
        live.until_shadow_serves(&other, READ).await;
    }
}

async fn text_of(client: &tokio_postgres::Client) -> String {
    text(client, READ).await
}

/// The mark of such a text is no transaction of its own there: if what is before it fails, the server skips both.
#[tokio::test]
async fn a_text_that_is_not_read_is_skipped_behind_a_frame_without_a_sync_that_fails() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    pair.simple("SET client_encoding = latin1").await;
    let text = unread("BEGIN; UPDATE orders SET total = 8, note = 'é' WHERE id = 8; COMMIT");
    let update = query("UPDATE orders SET total = 6 WHERE id = 6");
    for before in [
        execute("nope", 0),
        parse("", "SELECT 1 / 0", &[]),
        [parse("", "SELECT 1", &[]), bind("", "", 0, &[], 0), execute("", 0)].concat(),
    ] {
        let frames = [&before[..], &text, &update, &sync()].concat();
        pair.exchange_all("skipped", &frames).await;
        pair.simple("ROLLBACK").await;
    }
    pair.simple("RESET client_encoding").await;
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

/// What is undone with the first transaction of code is not its mark.
#[tokio::test]
async fn code_that_rolls_back_on_its_way_or_begins_read_only_is_on_record_all_the_same() {
    let live = Live::orders("", "reads = 100").await;
    let (direct, other) = (live.direct().await, live.client().await);
    let procedure = "CREATE PROCEDURE in_two_undone() LANGUAGE plpgsql AS $$ BEGIN \
                     UPDATE orders SET total = 777 WHERE id = 3; ROLLBACK; \
                     UPDATE orders SET total = 777 WHERE id = 4; END $$";
    run(&direct, procedure).await;
    live.until_clean("orders_v2").await;
    let read_only = "SET default_transaction_read_only = on";
    for (before, code) in [
        (
            "",
            "DO $$ BEGIN UPDATE orders SET total = 777 WHERE id = 3; ROLLBACK; \
             UPDATE orders SET total = 777 WHERE id = 4; END $$",
        ),
        ("", "CALL in_two_undone()"),
        (
            read_only,
            "DO $$ BEGIN COMMIT; SET TRANSACTION READ WRITE; \
             UPDATE orders SET total = 777 WHERE id = 4; END $$",
        ),
    ] {
        for frames in [query(code), extended(code)] {
            live.until_shadow_serves(&other, READ).await;
            let mut raw = live.raw().await;
            raw.exchange(&query(before), 1).await;
            raw.exchange(&frames, 1).await;
            assert_eq!(text_of(&other).await, "777", "{code}");
            until_over(&live).await;
            run(&other, "UPDATE orders SET total = 1 WHERE id IN (3, 4)").await;
        }
    }
}

/// It is marked anew when that is seen.
#[tokio::test]
async fn code_that_gives_back_the_lock_of_its_mark_is_on_record_when_it_is_over() {
    let live = Live::orders("", "reads = 100").await;
    let (direct, other) = (live.direct().await, live.client().await);
    let code = "DO $$ BEGIN PERFORM pg_advisory_unlock_all(); COMMIT; \
                UPDATE orders SET total = 777 WHERE id = 4; END $$";
    for frames in [query(code), extended(code)] {
        live.until_shadow_serves(&other, READ).await;
        run(&direct, "BEGIN; SELECT FROM orders WHERE id = 4 FOR UPDATE").await;
        let mut raw = live.raw().await;
        raw.send(&frames).await;
        live.until_blocked("pg_advisory_unlock_all").await;
        live.verified("orders_v2").await;
        live.verified("orders_v2").await;
        run(&direct, "COMMIT").await;
        raw.until_ready(1).await;
        // Behind what is owed, on the same connection.
        raw.exchange(&query("SELECT 1"), 1).await;
        until_over(&live).await;
        run(&other, "UPDATE orders SET total = 1 WHERE id = 4").await;
    }
}

/// The session ends in the block that a text has left open, which was several transactions.
#[tokio::test]
async fn a_text_that_is_not_read_is_on_record_though_its_session_ends_within_another_block() {
    let live = Live::orders("", "reads = 100").await;
    let (direct, other) = (live.direct().await, live.client().await);
    for (before, text) in [
        (vec!["BEGIN", "SELECT 1 / 0"], "ROLLBACK; BEGIN; {}; COMMIT; BEGIN"),
        (vec!["BEGIN"], "ROLLBACK; BEGIN; {}; COMMIT; BEGIN"),
        (vec!["BEGIN READ ONLY"], "COMMIT; BEGIN; {}; COMMIT; BEGIN READ ONLY"),
    ] {
        live.until_shadow_serves(&other, READ).await;
        let mut raw = live.raw().await;
        raw.exchange(&query("SET client_encoding = latin1"), 1).await;
        for sql in before {
            raw.exchange(&query(sql), 1).await;
        }
        let update = "UPDATE orders SET total = 8, note = 'é' WHERE id = 4";
        raw.exchange(&unread(&text.replace("{}", update)), 1).await;
        assert_eq!(text_of(&other).await, text_of(&direct).await, "{text}");
        drop(raw);
        assert_eq!(text_of(&other).await, text_of(&direct).await, "{text}");
        eventually("it is verified", async || {
            let sql = "SELECT total_minor FROM orders_v2 WHERE id = 4";
            let shadow = crate::live::text(&direct, sql).await;
            if shadow == "800" { Ok(()) } else { Err(shadow) }
        })
        .await;
        until_over(&live).await;
        run(&other, "UPDATE orders SET total = 1 WHERE id = 4").await;
    }
}

/// Its mark is before the Bind, in a transaction of its own where that ends nothing of the client's.
#[tokio::test]
async fn code_in_groups_of_frames_runs_and_fails_as_direct() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    let commits = "DO $$ BEGIN UPDATE orders SET total = total + 1 WHERE id = 3; COMMIT; \
                   UPDATE orders SET total = total + 1 WHERE id = 4; END $$";
    let fails = "DO $$ BEGIN UPDATE orders SET total = 5 WHERE id = 3; COMMIT; \
                 UPDATE orders SET total = 5 WHERE id = 4; PERFORM 1 / 0; END $$";
    let update = "UPDATE orders SET total = total + 1 WHERE id = 5";
    let named = [parse("c", commits, &[]), sync()].concat();
    pair.exchange("named", &named, 1).await;
    let bound = [bind("", "c", 0, &[], 0), execute("", 0)].concat();
    for (what, frames, readies) in [
        ("alone", [one(commits), sync()].concat(), 1),
        ("named", [bound.clone(), sync()].concat(), 1),
        ("before another", [one(commits), one(update), sync()].concat(), 1),
        ("behind a group", [one(update), sync(), one(commits), sync()].concat(), 2),
        ("behind a query", [query(update), one(commits), sync(), query(update)].concat(), 3),
        ("that fails", [one(fails), one(update), sync(), one(update), sync()].concat(), 2),
        ("no SQL", [parse("", "DO COMMIT ROLLBACK", &[]), bound.clone(), sync()].concat(), 1),
        ("no such name", [bind("", "nope", 0, &[], 0), bound.clone(), sync()].concat(), 1),
        ("behind a failed Parse", [parse("", "SELEC", &[]), one(commits), sync()].concat(), 1),
        ("undone", [one("SELECT 1 / 0"), one(commits), sync(), bound.clone(), sync()].concat(), 2),
        ("in a block", [query("BEGIN"), one(commits), sync(), query("ROLLBACK")].concat(), 3),
        (
            "behind a stray end of data",
            [parse("", commits, &[]), frame(b'c', b""), bound.clone(), sync()].concat(),
            1,
        ),
        ("with a Flush", [one(commits), flush(), sync(), bound, sync()].concat(), 2),
    ] {
        pair.exchange(what, &frames, readies).await;
        pair.simple("SELECT sum(total) FROM orders").await;
        live.orders_in_step().await;
    }
    // What is owed of one is on its way when the next comes.
    for _ in 0..20 {
        pair.exchange("again", &[one(commits), sync()].concat(), 1).await;
    }
    live.orders_in_step().await;
    pair.finish(&live, &[ORDERS_TABLE]).await;
}
