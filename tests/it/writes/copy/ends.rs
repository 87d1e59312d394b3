//! How a mirrored COPY may end: as it ends without the proxy.

use super::{data, extended};
use crate::live::raw::{Message, bind, close, execute, flush, frame, one, parse, query, sync};
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

/// The rest of the data is on its way when the server has failed; what is sent to it then must not come into
/// the middle of a frame, where the client's data would be read as frames.
#[tokio::test]
async fn a_copy_that_fails_while_a_frame_of_its_data_is_half_way_ends_as_without_the_proxy() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    let bad = frame(b'd', b"bad\t1\t1\n");
    let hidden = [frame(b'S', b""), query("UPDATE orders SET total = 666"), b"1\t1\t1\n".to_vec()];
    let rest = frame(b'd', &[b"xxxxxxxxxxxxxxxxxxxx".to_vec(), hidden.concat()].concat());
    for begin in ["", "BEGIN"] {
        for (marks, columns) in
            [(false, "(id, user_id, total)"), (true, "(id, user_id, total) FROM STDIN --")]
        {
            let copy = query(&format!("COPY orders {columns} FROM STDIN"));
            let text =
                if marks { query("SELECT 1; COPY orders (id, user_id) FROM STDIN") } else { copy };
            for cut in [3, 6, 10, 31] {
                let mut said = Vec::new();
                for raw in [&mut pair.plain, &mut pair.live] {
                    raw.run(begin).await;
                    raw.send(&[&text[..], &bad, &rest[..cut]].concat()).await;
                    let mut messages = Vec::new();
                    while messages.last().is_none_or(|m: &Message| m.tag != b'E') {
                        messages.push(raw.next().await.unwrap());
                    }
                    raw.send(&[&rest[cut..], &frame(b'c', b"")[..]].concat()).await;
                    messages.extend(raw.until_ready(1).await);
                    let mut lines = raw.shown(&messages);
                    lines.extend(raw.query("ROLLBACK").await);
                    lines.extend(raw.query("SELECT max(total) FROM orders").await);
                    said.push(lines);
                }
                assert_eq!(said[0], said[1], "{begin} {marks} cut at {cut}");
            }
        }
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

/// It fails before it has read any data, or by the first: its Sync was on its way, and ends its group.
#[tokio::test]
async fn a_group_behind_a_copy_that_fails_and_its_sync_runs_as_without_the_proxy() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    pair.simple("CREATE VIEW summed AS SELECT count(*) AS n FROM orders").await;
    live.until_clean("orders_v2").await;
    let update = "UPDATE orders SET total = total + 1 WHERE id = 3";
    let behind = [
        ([one(update), sync()].concat(), 2),
        (query(update), 2),
        ([one("SELECT 1"), sync()].concat(), 2),
        ([query("SELECT 1"), query(update)].concat(), 3),
        ([execute("nope", 0), sync(), query(update)].concat(), 3),
    ];
    let bad = frame(b'd', b"bad\n");
    for (copy, data) in [
        ("COPY summed FROM STDIN", Vec::new()),
        ("COPY orders (id, user_id) FROM STDIN (FREEZE)", Vec::new()),
        ("COPY orders (id, nope) FROM STDIN", Vec::new()),
        ("COPY other FROM STDIN", bad.clone()),
        ("COPY other FROM STDIN", [bad.clone(), frame(b'c', b"")].concat()),
        ("COPY orders (id, user_id) FROM STDIN", bad.clone()),
    ] {
        for (behind, readies) in &behind {
            for simple in [false, true] {
                let frames = match simple {
                    true => [&query(copy)[..], &data, behind].concat(),
                    false => [&one(copy)[..], &data, &sync(), behind].concat(),
                };
                pair.exchange(&format!("{copy}, simple: {simple}"), &frames, *readies).await;
                pair.simple("SELECT 1").await;
                live.orders_in_step().await;
            }
            // A Sync before the data is ignored if the server comes to read it.
            let named = [parse("c", copy, &[]), parse("e", "EXECUTE c", &[]), sync()].concat();
            pair.exchange(copy, &named, 1).await;
            for (end, begin) in [
                (Vec::new(), one(copy)),
                (frame(b'c', b""), one(copy)),
                (frame(b'c', b""), one("EXECUTE c")),
                (frame(b'f', b"no\0"), one("EXECUTE c")),
                (frame(b'f', b"no\0"), one("EXECUTE e")),
            ] {
                let frames = [&begin[..], &sync(), &bad, &end, behind, &sync()].concat();
                pair.exchange_all(&format!("{copy}, its Sync first"), &frames).await;
                pair.simple("SELECT 1").await;
                live.orders_in_step().await;
            }
            pair.simple("DEALLOCATE c").await;
            pair.simple("DEALLOCATE e").await;
        }
    }
    // What it executes is what the name stands for when it does.
    let bound = [parse("e", "EXECUTE c", &[]), parse("c", "SELECT 1", &[]), sync()].concat();
    pair.exchange("prepared", &bound, 1).await;
    pair.simple("BEGIN").await;
    pair.exchange("bound", &[bind("x", "e", 0, &[], 0), sync()].concat(), 1).await;
    let anew = [close(b'S', "c"), parse("c", "COPY other FROM STDIN", &[]), sync()].concat();
    pair.exchange("anew", &anew, 1).await;
    let (fails, behind) = (frame(b'f', b"no\0"), &behind[0].0);
    let frames = [execute("x", 0), sync(), bad, fails, behind.clone(), sync()].concat();
    pair.exchange_all("what a name stands for by then", &frames).await;
    pair.simple("ROLLBACK").await;
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

/// The rest of its frame comes later than its head.
#[tokio::test]
async fn the_end_of_the_data_of_a_copy_may_come_in_pieces() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    let fails = frame(b'f', b"stop\0");
    for table in ["orders (id, user_id)", "other (id)"] {
        let copy = format!("COPY {table} FROM STDIN");
        for begin in [query(&copy), [one(&copy), flush()].concat()] {
            for cut in 1..fails.len() {
                let mut said = Vec::new();
                for raw in [&mut pair.plain, &mut pair.live] {
                    raw.send(&begin).await;
                    while raw.next().await.unwrap().tag != b'G' {}
                    raw.send(&fails[..cut]).await;
                    // The piece has arrived, as a rule, when another session is answered.
                    text(&live.db.client, "SELECT 1").await;
                    raw.send(&fails[cut..]).await;
                    let end = if begin[0] == b'P' { sync() } else { Vec::new() };
                    said.push(raw.exchange(&end, 1).await);
                }
                assert_eq!(said[0], said[1], "{copy}, cut at {cut}");
            }
        }
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn what_is_no_data_ends_the_session_where_the_server_takes_data() {
    let live = Live::orders("", "").await;
    for copy in ["COPY orders (id, user_id) FROM STDIN", "COPY other FROM STDIN"] {
        for behind in [query("SELECT 1"), one("UPDATE orders SET total = 5 WHERE id = 3")] {
            for frames in [query(copy), one(copy), [one(copy), sync()].concat()] {
                let mut raw = live.raw().await;
                raw.send(&[frames, behind.clone(), sync()].concat()).await;
                let mut last = String::new();
                while let Some(message) = raw.next().await {
                    last = raw.show(&message);
                }
                assert!(
                    last.contains("C08P01") && last.contains("during COPY from stdin"),
                    "{last}"
                );
            }
        }
    }
    assert_eq!(text(&live.db.client, "SELECT total FROM orders WHERE id = 3").await, "30");
    live.orders_in_step().await;
}

/// The first of them looks like a write in a transaction that has failed, and is marked.
#[tokio::test]
async fn a_copy_behind_a_rollback_and_stray_ends_of_data_are_answered() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    let done = frame(b'c', b"");
    let packets = [
        [
            query("BEGIN; SELECT 1 / 0"),
            query("ROLLBACK"),
            query("COPY orders (id, nope) FROM STDIN"),
            done.clone(),
        ],
        [
            [parse("", "SELECT 1", &[]), bind("", "", 0, &[], 0)].concat(),
            query("COPY orders (id, user_id, total) FROM STDIN CSV"),
            done.clone(),
            [execute("nope", 0), query("SELECT 1")].concat(),
        ],
    ];
    for (packet, readies) in packets.iter().zip([3, 1]) {
        pair.exchange("packet", &packet.concat(), readies).await;
        pair.exchange("a Sync", &sync(), 1).await;
        pair.exchange("stray", &[done.clone(), query("SELECT 2")].concat(), 1).await;
        live.orders_in_step().await;
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

/// What begins alike, and takes no data: nothing of it waits for a Sync that waits for it.
#[tokio::test]
async fn a_copy_to_the_client_does_not_wait_for_what_is_behind_it() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    let update = "UPDATE orders SET total = total + 1 WHERE id = 3";
    for copy in [
        "COPY other TO STDOUT",
        "COPY (SELECT id, total FROM orders ORDER BY id) TO STDOUT",
        "COPY (UPDATE orders SET total = total + 1 WHERE id = 4 RETURNING id) TO STDOUT",
        "COPY nothing TO STDOUT",
    ] {
        for behind in [one(update), query(update), one("SELECT 1")] {
            for simple in [false, true] {
                let first = if simple { query(copy) } else { [one(copy), sync()].concat() };
                let readies = if behind[0] == b'Q' { 2 } else { 3 };
                let groups = [&first[..], &behind, &sync(), &sync()].concat();
                let groups =
                    if behind[0] == b'Q' { [&first[..], &behind].concat() } else { groups };
                pair.exchange(copy, &groups, readies).await;
                let group = [one(copy), one(update), sync()].concat();
                pair.exchange(&format!("{copy}, one group"), &group, 1).await;
            }
        }
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}
