//! What the server says of the portals and statements that a client has made: errors of their Bind,
//! portals that are executed again or fetched from in SQL, and none that the client has not made.

use crate::live::raw::{bind, close, describe, execute, frame, parse, query, sync};
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
