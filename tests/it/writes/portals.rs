//! What the server says of the portals and statements that a client has made: errors of their Bind,
//! portals that are executed again or fetched from in SQL, and none that the client has not made.

use crate::live::raw::{bind, call, close, describe, execute, frame, one, parse, query, sync};
use crate::live::{Live, ORDERS, ORDERS_TABLE, Pair};
use crate::support::eventually;

async fn pair() -> (Live, Pair) {
    let live = Live::orders("", "").await;
    let pair = Pair::new(&live, ORDERS).await;
    (live, pair)
}

/// A Bind without parameters that asks for these formats.
fn bind_in(portal: &str, name: &str, formats: &[u16]) -> Vec<u8> {
    let mut body = [portal.as_bytes(), b"\0", name.as_bytes(), b"\0\0\0\0\0"].concat();
    body.extend(u16::try_from(formats.len()).unwrap().to_be_bytes());
    body.extend(formats.iter().flat_map(|f| f.to_be_bytes()));
    frame(b'B', &body)
}

#[tokio::test]
async fn fetch_from_a_portal_of_a_write_gives_the_clients_columns() {
    let (live, mut pair) = pair().await;
    for sql in [
        "UPDATE orders SET total = total + 1 RETURNING id, total",
        "UPDATE orders SET total = total + 1 WHERE id = 3 RETURNING *",
        "UPDATE orders SET id = id + 100 RETURNING note",
        "WITH w AS (DELETE FROM orders WHERE id > 108 RETURNING note) TABLE w",
        "UPDATE orders SET note = note",
        "UPDATE orders SET note = note WHERE id = 104",
        "SELECT id, note FROM orders ORDER BY id",
    ] {
        for has_run in [false, true] {
            pair.simple("BEGIN").await;
            let bound = [parse("", sql, &[]), bind("p", "", 0, &[], 0)].concat();
            let run = if has_run { execute("p", 1) } else { Vec::new() };
            pair.exchange(sql, &[bound, run, sync()].concat(), 1).await;
            for fetch in [
                "FETCH 2 FROM p",
                "MOVE 1 IN P",
                "/* */ FETCH p;",
                "SELECT 1; FETCH 2 FROM \"p\"; FETCH NEXT FROM p; UPDATE orders SET total = 1 WHERE id = 2",
                "FETCH ALL FROM p",
                "FETCH p",
                "CLOSE p",
                "FETCH p",
            ] {
                pair.simple(fetch).await;
            }
            pair.simple("COMMIT").await;
        }
    }
    pair.simple("BEGIN").await;
    let sql = "UPDATE orders SET total = total + 1 RETURNING id";
    let bound = [parse("", sql, &[]), bind("p", "", 0, &[], 0), execute("p", 1), sync()];
    pair.exchange(sql, &bound.concat(), 1).await;
    pair.simple("CLOSE p; DECLARE p CURSOR FOR SELECT id, total FROM orders ORDER BY id").await;
    pair.simple("FETCH 2 FROM p").await;
    pair.simple("COMMIT").await;
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn errors_of_bind_have_the_places_and_the_numbers_of_the_clients_statement() {
    let (live, mut pair) = pair().await;
    let own = "UPDATE public.orders SET total = 1 /* é */ WHERE id IN (SELECT id FROM other) AND note <> 'é'";
    let sql = format!("{own} RETURNING id, note, total, email");
    let parsed = [parse("w", &sql, &[]), parse("o", own, &[]), sync()];
    pair.exchange("parsed", &parsed.concat(), 1).await;
    for formats in
        [&[][..], &[0], &[1, 0], &[0, 1, 0], &[0, 1, 1, 0], &[0, 0, 0, 0, 0], &[7, 0, 0, 0]]
    {
        for (name, portal) in [("w", ""), ("w", "p"), ("o", ""), ("o", "p")] {
            let frames = [bind_in(portal, name, formats), execute(portal, 0), sync()];
            pair.exchange(&format!("{name} in {formats:?}"), &frames.concat(), 1).await;
        }
    }
    pair.simple("SET search_path = ''").await;
    for (name, portal) in [("w", ""), ("w", "p"), ("o", ""), ("o", "p")] {
        let frames = [bind_in(portal, name, &[]), execute(portal, 0), sync()];
        pair.exchange(&format!("{name} elsewhere"), &frames.concat(), 1).await;
    }
    pair.simple("RESET search_path").await;
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn a_portal_that_is_done_says_so_in_the_servers_words() {
    let (live, mut pair) = pair().await;
    for (sql, portal) in [
        ("UPDATE orders SET note = note", ""),
        ("UPDATE orders SET note = note WHERE id = 1", "p"),
        ("DELETE FROM orders WHERE id > 9", "P é"),
    ] {
        for block in [false, true] {
            let first = if block { query("BEGIN") } else { Vec::new() };
            let last = if block { query("COMMIT") } else { Vec::new() };
            let twice = [execute(portal, 0), execute(portal, 0), sync()].concat();
            let frames =
                [first, parse("", sql, &[]), bind(portal, "", 0, &[], 0), twice, last].concat();
            let mut said = Vec::new();
            for raw in [&mut pair.plain, &mut pair.live] {
                let messages = raw.pipeline(&frames, if block { 3 } else { 1 }).await;
                said.push(messages.iter().map(|m| raw.show_without(m, b"")).collect::<Vec<_>>());
            }
            assert_eq!(said[1], said[0], "{sql}");
            assert!(said[0].iter().any(|m| m.contains("cannot be run")), "{said:?}");
        }
    }
    // In the transaction that has failed by it the portal is there still.
    let again = [describe(b'P', "p"), execute("p", 0), sync()].concat();
    let close = [execute("p", 0), close(b'P', "p"), sync()].concat();
    pair.simple("BEGIN").await;
    let sql = "DELETE FROM orders WHERE id = 8";
    let bound = [parse("", sql, &[]), bind("p", "", 0, &[], 0), execute("p", 0), sync()].concat();
    let groups = [bound, [execute("p", 0), sync()].concat(), again, close];
    let mut said = [Vec::new(), Vec::new()];
    for (raw, said) in [&mut pair.plain, &mut pair.live].into_iter().zip(&mut said) {
        for group in &groups {
            let messages = raw.pipeline(group, 1).await;
            said.extend(messages.iter().map(|m| raw.show_without(m, b"")));
        }
    }
    assert_eq!(said[1], said[0]);
    pair.simple("ROLLBACK").await;
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn what_is_prepared_and_dropped_leaves_nothing_at_the_server() {
    let (live, mut pair) = pair().await;
    let prepare = "PREPARE lk (int) AS UPDATE orders SET total = total + $1 WHERE id = 1";
    let run = |sql: &str| [parse("", sql, &[]), bind("", "", 0, &[], 0), execute("", 0)].concat();
    let texts = [prepare, "EXECUTE lk (1)", "DEALLOCATE lk"];
    let simple: Vec<u8> = texts.iter().flat_map(|sql| query(sql)).collect();
    let extended: Vec<u8> = texts.iter().flat_map(|sql| run(sql)).collect();
    let synced: Vec<u8> = texts.iter().flat_map(|sql| [run(sql), sync()].concat()).collect();
    for (what, frames, readies) in [
        ("one text", query(&texts.join("; ")), 1),
        (
            "executed twice",
            query(&format!("{prepare}; EXECUTE lk (1); EXECUTE lk (2); DEALLOCATE lk")),
            1,
        ),
        ("texts in a pipeline", simple, 3),
        ("one group", [extended, sync()].concat(), 1),
        ("groups in a pipeline", synced, 3),
    ] {
        for _ in 0..2 {
            pair.exchange(what, &frames, readies).await;
            pair.simple("SELECT name FROM pg_prepared_statements WHERE name <> 'pgsegue executes'")
                .await;
        }
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

/// The error of the first is read when the second is bound, and not executed yet.
#[tokio::test]
async fn a_bind_that_fails_leaves_the_portal_that_a_later_group_has_bound_under_its_name() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    let adds = "CREATE FUNCTION adds(int) RETURNS int LANGUAGE sql \
                AS 'UPDATE orders SET total = total + 1 WHERE id = $1 RETURNING 1'";
    pair.simple(adds).await;
    eventually("the function is known", async || {
        let before = live.statements("recorded", "write");
        pair.simple("SELECT adds(3) WHERE false").await;
        if live.statements("recorded", "write") > before + 0.5 { Ok(()) } else { Err(()) }
    })
    .await;
    live.until_clean("orders_v2").await;
    let fails: [(&str, &[Option<&[u8]>]); 2] = [
        ("SELECT $1::int", &[Some(b"x")]),
        ("UPDATE orders SET total = 1 / ($1 - 1)", &[Some(b"1")]),
    ];
    for (first, value) in fails {
        pair.exchange(first, &[parse("f", first, &[23]), sync()].concat(), 1).await;
        for then in [
            "SELECT adds(3)",
            "UPDATE orders SET total = 5 WHERE id = 4",
            "TRUNCATE orders",
            "TABLE orders",
        ] {
            for portal in ["p", ""] {
                let failed = [bind(portal, "f", 0, value, 0), execute(portal, 0), sync()].concat();
                let bound = [parse("", then, &[]), bind(portal, "", 0, &[], 0)].concat();
                let mut said = Vec::new();
                for raw in [&mut pair.plain, &mut pair.live] {
                    raw.send(&[&failed[..], &bound, &crate::live::raw::flush()].concat()).await;
                    let mut lines = Vec::new();
                    while lines.last().is_none_or(|line| line != "2") {
                        let message = raw.next().await.unwrap();
                        lines.push(raw.show(&message));
                    }
                    lines.extend(raw.exchange(&[execute(portal, 0), sync()].concat(), 1).await);
                    said.push(lines);
                }
                assert_eq!(said[0], said[1], "{first}, then {then} as {portal:?}");
                live.orders_in_step().await;
            }
        }
        pair.simple("INSERT INTO orders SELECT i, 1, 1 FROM generate_series(1, 9) AS i").await;
        pair.exchange("closed", &[close(b'S', "f"), sync()].concat(), 1).await;
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

/// A function that writes, known to the proxy.
async fn writing() -> (Live, Pair) {
    let (live, mut pair) = pair().await;
    let writes = "CREATE FUNCTION writes(k int, v int) RETURNS int LANGUAGE plpgsql AS \
                  'BEGIN UPDATE orders SET total = v WHERE id = k; RETURN v; END'";
    pair.simple(writes).await;
    live.until_clean("orders_v2").await;
    (live, pair)
}

#[tokio::test]
async fn what_a_fetch_runs_of_a_portal_that_is_marked_is_recorded() {
    let (live, mut pair) = writing().await;
    let named = "PREPARE w (int) AS UPDATE orders SET total = $1 WHERE id = 4 RETURNING id, total";
    pair.simple(named).await;
    for (n, fetch) in
        ["FETCH ALL FROM p1", "MOVE 1 IN p1", "SELECT 1; FETCH NEXT FROM p1"].iter().enumerate()
    {
        for extended in [false, true] {
            let of_function = parse("", &format!("SELECT writes(5, {})", 70 + n), &[]);
            let before = live.statements("recorded", "write");
            pair.simple("BEGIN").await;
            pair.exchange("bound", &[of_function, bind("p1", "", 0, &[], 0), sync()].concat(), 1)
                .await;
            match extended && !fetch.contains(';') {
                true => pair.extended(fetch, &[], 0).await,
                false => pair.simple(fetch).await,
            }
            pair.simple("COMMIT").await;
            assert!(live.statements("recorded", "write") > before, "nothing is marked: {fetch}");
            live.orders_in_step().await;
        }
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn a_portal_whose_close_or_execute_was_skipped_is_what_it_was() {
    let (live, mut pair) = writing().await;
    for sql in [
        "SELECT writes(5, 77)",
        "UPDATE orders SET total = total + 1 WHERE id = 3",
        "UPDATE orders SET total = total + 1 WHERE id < 3 RETURNING id, total",
        "SELECT id, total FROM orders WHERE id = 2",
        "TRUNCATE orders",
    ] {
        for (what, skipped) in [
            ("close", close(b'P', "p1")),
            ("execute", execute("p1", 0)),
            ("both", [execute("p1", 0), close(b'P', "p1")].concat()),
            (
                "bind",
                [close(b'P', "p1"), parse("", "SELECT 1", &[]), bind("p1", "", 0, &[], 0)].concat(),
            ),
        ] {
            pair.simple("BEGIN").await;
            let bound = [parse("", sql, &[]), bind("p1", "", 0, &[], 0), sync()].concat();
            pair.exchange("bound", &bound, 1).await;
            pair.simple("SAVEPOINT a").await;
            let fails = [one("SELECT 1 / 0"), skipped, sync()].concat();
            pair.exchange(&format!("{sql}: {what} skipped"), &fails, 1).await;
            pair.simple("ROLLBACK TO a").await;
            let runs = [describe(b'P', "p1"), execute("p1", 0), sync()].concat();
            pair.exchange(&format!("{sql} behind a skipped {what}"), &runs, 1).await;
            pair.simple("COMMIT").await;
            live.orders_in_step().await;
        }
    }
    pair.simple(
        "INSERT INTO orders (id, user_id, total) SELECT i, 1, i FROM generate_series(1, 5) AS i",
    )
    .await;
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn the_portal_without_a_name_is_what_it_was_where_a_later_bind_of_it_fails() {
    let (live, mut pair) = writing().await;
    let prepared = [
        parse("sp", "SAVEPOINT a", &[]),
        parse("rb", "ROLLBACK TO a", &[]),
        parse("m", "UPDATE orders SET total = 78 WHERE id = 5", &[]),
        parse("r", "UPDATE orders SET total = 79 WHERE id = 6 RETURNING id", &[]),
        parse("f", "SELECT writes(7, 80)", &[]),
        sync(),
    ];
    pair.exchange("prepared", &prepared.concat(), 1).await;
    for name in ["m", "r", "f"] {
        pair.simple("BEGIN").await;
        let failing = [
            bind("", name, 0, &[], 0),
            bind("x", "sp", 0, &[], 0),
            execute("x", 0),
            bind("", "nope", 0, &[], 0),
            sync(),
        ];
        pair.exchange("fails", &failing.concat(), 1).await;
        let back = [bind("y", "rb", 0, &[], 0), execute("y", 0), sync()].concat();
        pair.exchange("back", &back, 1).await;
        pair.exchange(name, &[execute("", 0), sync()].concat(), 1).await;
        pair.simple("COMMIT").await;
        live.orders_in_step().await;
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn the_statement_without_a_name_outlives_a_function_call_and_deallocate_all() {
    const ABS: u32 = 1397;
    let (live, mut pair) = writing().await;
    let drops =
        [parse("d", "DEALLOCATE ALL", &[]), parse("e", "DISCARD ALL", &[]), sync()].concat();
    for sql in [
        "SELECT writes(5, 77)",
        "UPDATE orders SET total = total + 1 WHERE id = 3 RETURNING total",
        "UPDATE orders SET total = total + 1 WHERE id = 4",
    ] {
        let run = [bind("", "", 0, &[], 0), describe(b'P', ""), execute("", 0), sync()].concat();
        pair.exchange("parsed", &[parse("", sql, &[]), sync()].concat(), 1).await;
        pair.exchange("called", &call(ABS, &["-3"]), 1).await;
        pair.exchange(sql, &run, 1).await;
        live.orders_in_step().await;
        pair.exchange("prepared", &drops, 1).await;
        let dropped =
            [parse("", sql, &[]), bind("x", "d", 0, &[], 0), execute("x", 0), run.clone()];
        pair.exchange(&format!("{sql} behind DEALLOCATE ALL"), &dropped.concat(), 1).await;
        pair.exchange(&format!("{sql} again"), &run, 1).await;
        live.orders_in_step().await;
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

/// What ends a portal by the name of p1.
const ENDS: &[&str] = &[
    "ROLLBACK TO a",
    "CLOSE p1",
    "CLOSE ALL",
    "close \"p1\"; SELECT 1",
    "EXECUTE ends",
    "ROLLBACK AND CHAIN",
    "COMMIT AND CHAIN",
];

#[tokio::test]
async fn a_cursor_of_sql_under_the_name_of_a_portal_that_is_gone_shows_its_own_rows() {
    let (live, mut pair) = pair().await;
    let declare = "DECLARE p1 CURSOR FOR SELECT id, total, note FROM orders ORDER BY id";
    pair.exchange("prepared", &[parse("ends", "CLOSE p1", &[]), sync()].concat(), 1).await;
    for sql in [
        "UPDATE orders SET total = total + 1 WHERE id < 4 RETURNING id, total",
        "UPDATE orders SET total = total + 1 WHERE id < 4",
        "SELECT id FROM orders",
    ] {
        for ends in ENDS {
            for described in [true, false] {
                for extended in [true, false] {
                    pair.simple("BEGIN").await;
                    pair.simple("SAVEPOINT a").await;
                    let bound = [parse("", sql, &[]), bind("p1", "", 0, &[], 0), sync()].concat();
                    pair.exchange(sql, &bound, 1).await;
                    let shows = if described { describe(b'P', "p1") } else { Vec::new() };
                    let shows = [shows, execute("p1", 1), sync()].concat();
                    let packet = match extended && !ends.contains(';') {
                        true => [one(ends), one(declare), shows].concat(),
                        false => {
                            pair.simple(ends).await;
                            pair.simple(declare).await;
                            shows
                        }
                    };
                    pair.exchange(&format!("{sql}: {ends}"), &packet, 1).await;
                    pair.simple("FETCH 2 FROM p1").await;
                    pair.simple("COMMIT").await;
                }
            }
        }
        for ends in ["ROLLBACK AND CHAIN", "COMMIT AND CHAIN"] {
            pair.simple("BEGIN").await;
            let bound = [parse("", sql, &[]), bind("p1", "", 0, &[], 0), sync()].concat();
            pair.exchange(sql, &bound, 1).await;
            pair.simple(ends).await;
            pair.simple("FETCH ALL FROM p1").await;
            pair.simple("COMMIT").await;
        }
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn a_fetch_pipelined_behind_a_skipped_close_is_from_the_portal_that_is_there_still() {
    let (live, mut pair) = pair().await;
    let back = [parse("rb", "ROLLBACK TO a", &[]), sync()].concat();
    pair.exchange("prepared", &back, 1).await;
    for sql in [
        "UPDATE orders SET total = 78 WHERE id = 5 RETURNING id, total",
        "UPDATE orders SET total = 79 WHERE id = 5",
    ] {
        pair.simple("BEGIN").await;
        let bound = [parse("", sql, &[]), bind("p1", "", 0, &[], 0), sync()].concat();
        pair.exchange("bound", &bound, 1).await;
        pair.simple("SAVEPOINT a").await;
        let packet = [
            [one("SELECT 1 / 0"), close(b'P', "p1"), sync()].concat(),
            [bind("", "rb", 0, &[], 0), execute("", 0), sync()].concat(),
            query("FETCH ALL FROM p1"),
        ];
        pair.exchange(sql, &packet.concat(), 3).await;
        pair.simple("COMMIT").await;
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn a_portal_that_has_ended_with_its_group_is_not_run_by_what_is_pipelined_behind_it() {
    let (live, mut pair) = pair().await;
    let sql = "UPDATE orders SET total = total + 1 WHERE id = 3";
    let bound = [parse("", sql, &[]), bind("p1", "", 0, &[], 0), execute("p1", 0), sync()].concat();
    let packet = [&bound[..], &query("BEGIN"), &execute("p1", 0), &sync()].concat();
    pair.exchange("no block", &packet, 3).await;
    pair.simple("COMMIT").await;
    let packet = [
        &query("BEGIN")[..],
        &bound,
        &query("COMMIT"),
        &query("BEGIN"),
        &execute("p1", 0),
        &sync(),
    ];
    pair.exchange("another block", &packet.concat(), 5).await;
    pair.simple("COMMIT").await;
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

/// A name in a text is not yet what the text closes or declares.
#[tokio::test]
async fn a_portal_that_a_text_about_other_cursors_spells_is_there_still() {
    let (live, mut pair) = pair().await;
    let back =
        "INSERT INTO orders (id, user_id, total) SELECT i, 1, i FROM generate_series(1, 9) AS i";
    for sql in [
        "UPDATE orders SET total = 78 WHERE id = 5 RETURNING id, total",
        "UPDATE orders SET total = 79 WHERE id = 5",
        "TRUNCATE orders",
    ] {
        for other in [
            "DECLARE c CURSOR FOR SELECT 1 AS small",
            "DECLARE p11 CURSOR FOR SELECT 1",
            "DECLARE c CURSOR FOR SELECT 1; CLOSE c -- of p1",
            "DECLARE c CURSOR FOR SELECT 'CLOSE p1'; CLOSE \"c\"",
            "SELECT 1 AS close, 2 AS p1",
        ] {
            pair.simple("BEGIN").await;
            let bound = [parse("", sql, &[]), bind("p1", "", 0, &[], 0), sync()].concat();
            pair.exchange("bound", &bound, 1).await;
            pair.simple(other).await;
            let runs = [describe(b'P', "p1"), execute("p1", 0), sync()].concat();
            pair.exchange(&format!("{sql} behind {other}"), &runs, 1).await;
            pair.simple("COMMIT").await;
            live.orders_in_step().await;
            pair.simple(back).await;
        }
        // One that fails leaves the portal.
        pair.simple("BEGIN").await;
        let bound = [parse("", sql, &[]), bind("p1", "", 0, &[], 0), sync()].concat();
        pair.exchange("bound", &bound, 1).await;
        pair.simple("SAVEPOINT a").await;
        pair.simple("DECLARE p1 CURSOR FOR SELECT 1").await;
        pair.simple("ROLLBACK TO a").await;
        pair.simple("DECLARE c CURSOR FOR SELECT 1").await;
        pair.exchange(sql, &[execute("p1", 0), sync()].concat(), 1).await;
        pair.simple("COMMIT").await;
        pair.simple(back).await;
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

/// What is still unanswered when such a text is sent has an end of its own.
#[tokio::test]
async fn a_cursor_under_a_portals_name_shows_its_own_rows_though_it_is_pipelined() {
    let (live, mut pair) = pair().await;
    let declare = "DECLARE p1 CURSOR FOR SELECT id, total, note FROM orders ORDER BY id";
    let both = format!("CLOSE p1; {declare}");
    let runs = [execute("p1", 2), sync()].concat();
    for sql in [
        "UPDATE orders SET total = 78 WHERE id = 5 RETURNING id, total",
        "UPDATE orders SET total = 79 WHERE id = 5",
        "SELECT id FROM orders",
    ] {
        let groups = |texts: &[&str]| -> Vec<u8> {
            texts.iter().flat_map(|sql| [one(sql), sync()].concat()).collect()
        };
        for (packet, readies) in [
            ([query("SELECT 1"), query(&both), runs.clone()].concat(), 3),
            ([query("SELECT 1"), query("CLOSE p1"), query(declare), runs.clone()].concat(), 4),
            ([groups(&["SELECT 1", "CLOSE p1", declare]), runs.clone()].concat(), 4),
            ([groups(&["SELECT 1"]), one("CLOSE p1"), one(declare), runs.clone()].concat(), 2),
            ([query("ROLLBACK TO a"), query(declare), runs.clone()].concat(), 3),
        ] {
            pair.simple("BEGIN").await;
            pair.simple("SAVEPOINT a").await;
            let bound = [parse("", sql, &[]), bind("p1", "", 0, &[], 0), sync()].concat();
            pair.exchange(sql, &bound, 1).await;
            pair.exchange(&format!("{sql} {readies}"), &packet, readies).await;
            pair.simple("COMMIT").await;
        }
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

/// One text, in which an EXECUTE closes another portal before the cursor cannot be declared.
#[tokio::test]
async fn a_portal_is_there_still_though_its_text_has_closed_another_by_execute() {
    let (live, mut pair) = pair().await;
    let closes = [parse("cl", "CLOSE p2", &[]), parse("cl2", "EXECUTE cl", &[]), sync()].concat();
    pair.exchange("prepared", &closes, 1).await;
    for sql in [
        "UPDATE orders SET total = 78 WHERE id = 5 RETURNING id, total",
        "UPDATE orders SET total = 79 WHERE id = 5",
    ] {
        for closes in ["EXECUTE cl", "EXECUTE cl2"] {
            pair.simple("BEGIN; DECLARE p2 CURSOR FOR SELECT 1").await;
            let bound = [parse("", sql, &[]), bind("p1", "", 0, &[], 0), sync()].concat();
            pair.exchange(sql, &bound, 1).await;
            pair.simple("SAVEPOINT a").await;
            pair.simple(&format!("{closes}; DECLARE p1 CURSOR FOR SELECT 1")).await;
            pair.simple("ROLLBACK TO a").await;
            pair.exchange(closes, &[execute("p1", 0), sync()].concat(), 1).await;
            pair.simple("COMMIT").await;
            live.orders_in_step().await;
        }
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

/// A text of `bytes` where `sql` has a question mark.
fn in_bytes(sql: &str, bytes: &[u8]) -> Vec<u8> {
    let (before, behind) = sql.split_once('?').unwrap();
    frame(b'Q', &[before.as_bytes(), bytes, behind.as_bytes(), b"\0"].concat())
}

#[tokio::test]
async fn texts_in_another_encoding_fetch_from_portals_and_close_them_as_direct() {
    let (live, mut pair) = pair().await;
    pair.simple("SET client_encoding = latin1").await;
    let declare =
        in_bytes("DECLARE p1 CURSOR FOR SELECT id, total FROM orders WHERE note <> '?'", b"\xe9");
    for sql in [
        "UPDATE orders SET total = 78 WHERE id = 5 RETURNING id, total",
        "UPDATE orders SET total = 79 WHERE id = 5",
    ] {
        pair.simple("BEGIN").await;
        let bound = [parse("", sql, &[]), bind("p1", "", 0, &[], 0), sync()].concat();
        pair.exchange(sql, &bound, 1).await;
        pair.exchange(sql, &in_bytes("FETCH ALL FROM p1 -- ?", b"\xe9"), 1).await;
        pair.simple("COMMIT").await;
        pair.simple("BEGIN").await;
        pair.exchange(sql, &bound, 1).await;
        pair.exchange(sql, &in_bytes("CLOSE p1 -- ?", b"\xe9"), 1).await;
        pair.exchange(sql, &declare, 1).await;
        pair.exchange(sql, &[execute("p1", 2), sync()].concat(), 1).await;
        pair.simple("COMMIT").await;
    }
    pair.simple("RESET client_encoding").await;
    pair.finish(&live, &[ORDERS_TABLE]).await;
}
