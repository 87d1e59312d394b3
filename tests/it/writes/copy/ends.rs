//! How a mirrored COPY may end: as it ends without the proxy.

use super::{data, extended};
use crate::live::raw::{bind, execute, flush, frame, parse, query, sync};
use crate::live::{Live, ORDERS, ORDERS_TABLE, Pair, text};
use crate::support::eventually;

const SQL: &str = "COPY orders FROM STDIN";

#[tokio::test]
async fn errors_in_the_data_say_the_line_as_postgres_does() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    for bytes in [
        "60\t1\t1\ta\n",
        "60\t1\t1\ta\tb\tc\n",
        "60\t1\t1\ta\tb\nsixty\t1\t1\ta\tc\n",
        "60\t1\t1\ta\tb\n\\N\t1\t1\ta\tc\n",
        "60\t1\t1\ta\tb\n61\t1\t1\ta\tb\n",
        "1\t1\t1\ta\tb\n",
        "60\t1\t1\ta\tb\n61\t1\t1\ta\tc\r\n",
        "60\t1\t1\ta\tb\n\\.x",
        "60\t1\t1\t\\xff\tb\n",
        "99999999999\t1\t1\ta\tb\n",
        "\n",
    ] {
        for piece in [3, 100] {
            let data = data(bytes.as_bytes(), piece);
            pair.exchange(bytes, &[query(SQL), data.clone()].concat(), 1).await;
            pair.exchange(bytes, &extended(SQL, &data), 1).await;
            pair.simple("BEGIN").await;
            pair.exchange(bytes, &[query(SQL), data.clone()].concat(), 1).await;
            pair.simple("SELECT 1").await;
            pair.exchange(bytes, &[query(SQL), data.clone()].concat(), 1).await;
            pair.simple("ROLLBACK").await;
        }
    }
    assert_eq!(live.dirty().await, []);
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn a_copy_that_the_server_refuses_or_the_client_gives_up_ends_as_without_the_proxy() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    let fail = [frame(b'd', b"60\t1\t1\ta\tb\n"), frame(b'f', b"changed my mind\0")].concat();
    pair.exchange("CopyFail", &[query(SQL), fail.clone()].concat(), 1).await;
    pair.exchange("CopyFail", &extended(SQL, &fail), 1).await;
    for sql in [
        "COPY orders (id, nowhere) FROM STDIN",
        "COPY orders (id, id) FROM STDIN",
        "COPY orders FROM STDIN (DELIMITER 'ab')",
        "COPY orders FROM STDIN (FORMAT csv, QUOTE ',')",
        "COPY orders FROM STDIN (FORMAT csv, FORCE_NULL (nowhere))",
        "COPY orders FROM STDIN (NULL E'\\n')",
        "COPY orders FROM STDIN (FREEZE)",
        "COPY orders FROM STDIN WHERE nowhere",
        "COPY orders FROM STDIN (ENCODING 'nowhere')",
        "COPY orders FROM STDIN (what)",
        "COPY orders FROM STDIN WHERE",
    ] {
        pair.simple(sql).await;
        let asked = [parse("", sql, &[]), bind("", "", 0, &[], 0), execute("", 0), sync()];
        pair.exchange(sql, &asked.concat(), 1).await;
        pair.simple("BEGIN").await;
        pair.simple(sql).await;
        pair.simple(sql).await;
        pair.simple("COMMIT").await;
        pair.simple("BEGIN READ ONLY").await;
        pair.simple(SQL).await;
        pair.simple("COMMIT").await;
    }
    assert_eq!(live.dirty().await, []);
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn what_fails_at_the_commit_takes_the_completion_with_it() {
    let deferred = "ALTER TABLE orders ADD UNIQUE (note) DEFERRABLE INITIALLY DEFERRED";
    let ddl = format!("{ORDERS};{};{deferred}", crate::live::ORDERS_V2);
    let live = Live::ready(&ddl, &crate::live::orders_toml("", ""), &["orders_v2"]).await;
    let mut pair = Pair::new(&live, &format!("{ORDERS};{deferred}")).await;
    let lines = data(b"60\t1\t1\tsame\ta\n61\t1\t1\tsame\tb\n", 50);
    pair.exchange("simple", &[query(SQL), lines.clone()].concat(), 1).await;
    pair.exchange("extended", &extended(SQL, &lines), 1).await;
    pair.simple("BEGIN").await;
    pair.exchange("in a block", &[query(SQL), lines.clone()].concat(), 1).await;
    pair.simple("COMMIT").await;
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn frames_around_a_copy_are_answered_in_their_order() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    let lines = |id: u32| data(format!("{id}\t1\t1\ta\t\\N\n").as_bytes(), 4);
    let simple = |id: u32| [query(SQL), lines(id)].concat();
    let all =
        [query("BEGIN"), simple(60), query("SELECT 1"), simple(61), query("COMMIT"), simple(62)];
    pair.exchange("pipelined queries", &all.concat(), 6).await;
    let insert = [
        parse("", "INSERT INTO orders VALUES (70, 1)", &[]),
        bind("", "", 0, &[], 0),
        execute("", 0),
    ];
    let named = [parse("s", SQL, &[]), sync()].concat();
    pair.exchange("a named statement", &named, 1).await;
    for id in [71, 72] {
        let run = [bind("", "s", 0, &[], 0), execute("", 0), flush(), lines(id), sync()];
        pair.exchange("a named statement", &run.concat(), 1).await;
    }
    let copy = [parse("", SQL, &[]), bind("", "", 0, &[], 0), execute("", 0), lines(80)].concat();
    let again = parse("", "UPDATE orders SET total = total + 1 WHERE id IN (70, 80)", &[]);
    let update = [again, bind("", "", 0, &[], 0), execute("", 0), sync()].concat();
    pair.exchange("in one group", &[insert.concat(), copy, update].concat(), 1).await;
    let portal = [
        query("BEGIN"),
        parse("", SQL, &[]),
        bind("p", "", 0, &[], 0),
        execute("p", 0),
        lines(81),
        execute("p", 0),
        sync(),
        query("ROLLBACK"),
    ];
    pair.exchange("a portal that has run", &portal.concat(), 3).await;
    let failed = [
        parse("", "SELECT 1/0", &[]),
        bind("", "", 0, &[], 0),
        execute("", 0),
        parse("", SQL, &[]),
        bind("", "", 0, &[], 0),
        execute("", 0),
        sync(),
    ];
    pair.exchange("behind an error", &failed.concat(), 1).await;
    pair.exchange("behind that", &simple(82), 1).await;
    pair.exchange("stray data", &[lines(83), query("SELECT 2")].concat(), 1).await;
    assert_eq!(live.dirty().await, []);
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn a_copy_that_is_cancelled_or_left_leaves_nothing() {
    let live = Live::orders("", "").await;
    for protocol in ["simple", "extended"] {
        let mut raw = live.raw().await;
        let asked = match protocol {
            "simple" => query(SQL),
            _ => [parse("", SQL, &[]), bind("", "", 0, &[], 0), execute("", 0)].concat(),
        };
        raw.send(&[asked.clone(), frame(b'd', b"60\t1\t1\ta\t\\N\n61\t1")].concat()).await;
        assert_eq!(next_tag(&mut raw, b'G').await, 'G');
        let cancel = format!(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query = '{SQL}' \
             AND state = 'active' AND datname = current_database()"
        );
        assert_eq!(text(&live.db.client, &cancel).await, "t", "{protocol}");
        // In the midst of a line, and of what was a row.
        raw.send(&[frame(b'd', b"\t1\ta\t\\N\n"), frame(b'c', b""), sync()].concat()).await;
        let said = raw.until_ready(1).await;
        assert_eq!(said[0].tag, b'E', "{protocol}");
        assert!(raw.show(&said[0]).contains("57014"), "{protocol}");
        if protocol == "simple" {
            raw.until_ready(1).await;
        }
        raw.run("SELECT 1").await;
        raw.send(&[asked, frame(b'd', b"60\t1\t1\ta\t\\N\n")].concat()).await;
        next_tag(&mut raw, b'G').await;
        if protocol == "simple" {
            raw.send(&frame(b'X', b"")).await;
        }
        drop(raw);
    }
    eventually("all sessions are gone", async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY orders%'";
        let seen = text(&live.db.client, sql).await;
        if seen == "0" { Ok(()) } else { Err(seen) }
    })
    .await;
    assert_eq!(live.dirty().await, []);
    assert_eq!(text(&live.db.client, "SELECT count(*) FROM orders").await, "10");
    live.orders_in_step().await;
}

/// The tag of the message up to which all is read: this one, or an error.
async fn next_tag(raw: &mut crate::live::Raw, wanted: u8) -> char {
    loop {
        let message = raw.next().await.unwrap();
        if message.tag == wanted || message.tag == b'E' {
            return char::from(message.tag);
        }
    }
}

/// A trigger before the statement that waits, then fails: the server has asked for the data, and read none.
const FAILS_AT_ONCE: &str = "
    CREATE FUNCTION fails_at_once() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_advisory_xact_lock(5); RAISE ''not today''; END';
    CREATE TRIGGER fails_at_once BEFORE INSERT ON other EXECUTE FUNCTION fails_at_once();
    CREATE TRIGGER fails_at_once BEFORE INSERT ON orders EXECUTE FUNCTION fails_at_once()";

/// Only while it reads the data does the server ignore a Sync; libpq sends one right behind the Execute.
#[tokio::test]
async fn a_sync_behind_a_copy_that_fails_before_its_data_are_read_is_answered() {
    let ddl = format!("{ORDERS};{FAILS_AT_ONCE}");
    let live = Live::ready(
        &format!("{ddl};{}", crate::live::ORDERS_V2),
        &crate::live::orders_toml("", ""),
        &["orders_v2"],
    )
    .await;
    let mut pair = Pair::new(&live, &ddl).await;
    let write = "UPDATE orders SET total = total + 1 WHERE id = 5";
    let lines = data(b"60\t1\t1\ta\tb\n", 4);
    let piped = [lines.clone(), sync(), query(write), query("SELECT 5")].concat();
    for sql in [SQL, "COPY other FROM STDIN"] {
        let asked = [parse("", sql, &[]), bind("", "", 0, &[], 0), execute("", 0), sync()].concat();
        let then: [(&[u8], usize); 4] =
            [(b"", 1), (&[lines.clone(), sync()].concat(), 2), (&piped, 4), (&sync(), 2)];
        for (more, readies) in then {
            for begin in ["SELECT 1", "BEGIN"] {
                let what = format!("{begin}; {sql}, then {readies} of ReadyForQuery");
                pair.simple(begin).await;
                pair.elsewhere(&live, "SELECT pg_advisory_lock(5)").await;
                for raw in [&mut pair.plain, &mut pair.live] {
                    raw.send(&asked).await;
                    assert_eq!(next_tag(raw, b'G').await, 'G');
                    raw.send(more).await;
                }
                pair.elsewhere(&live, "SELECT pg_advisory_unlock(5)").await;
                pair.exchange(&what, b"", readies).await;
                pair.simple("ROLLBACK").await;
                pair.simple(write).await;
                pair.extended(write, &[], 0).await;
                pair.simple("SELECT total FROM orders WHERE id = 5").await;
                assert_eq!(live.dirty().await, [], "{what}");
                pair.same();
            }
        }
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}
