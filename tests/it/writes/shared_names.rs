//! Names that the protocol and SQL share: what one has prepared the other runs, drops, or replaces, in one
//! group or several of one packet.

use crate::live::raw::{bind, close, describe, execute, frame, one, parse, query, sync};
use crate::live::{Live, ORDERS, ORDERS_TABLE, Pair};

const WRITE: &str = "UPDATE orders SET total = total + 1 WHERE id = $1";
const UPDATE: &str = "UPDATE orders SET total = $2 WHERE id = $1";

fn run(name: &str, values: &[Option<&[u8]>]) -> Vec<u8> {
    [bind("", name, 0, values, 0), execute("", 0)].concat()
}

async fn pair() -> (Live, Pair) {
    let live = Live::orders("", "").await;
    let pair = Pair::new(&live, ORDERS).await;
    (live, pair)
}

#[tokio::test]
async fn a_name_that_a_group_drops_and_sql_prepares_anew_is_marked_when_the_group_binds_it() {
    let (live, mut pair) = pair().await;
    let prepare = one(&format!("PREPARE s AS {UPDATE}"));
    let bound = run("s", &[Some(b"2"), Some(b"77")]);
    let update = "UPDATE orders SET total = 5 WHERE id = 3";
    for first in ["SELECT 1", update] {
        for drop in [close(b'S', "s"), one("DEALLOCATE s"), one("DEALLOCATE ALL")] {
            let before = live.statements("recorded", "write");
            let named = [parse("s", first, &[]), sync(), run("s", &[]), sync()].concat();
            pair.exchange(first, &named, 2).await;
            let group = [&drop[..], &prepare, &bound, &bound, &sync()].concat();
            pair.exchange("dropped, prepared and bound", &group, 1).await;
            assert!(live.statements("recorded", "write") > before, "nothing is marked");
            live.orders_in_step().await;
            pair.exchange("dropped", &[close(b'S', "s"), sync()].concat(), 1).await;
        }
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn what_executes_a_prepare_or_a_deallocate_of_the_protocol_changes_names() {
    let (live, mut pair) = pair().await;
    let by_protocol = [
        parse("prepares", &format!("PREPARE s AS {UPDATE}"), &[]),
        parse("drops", "DEALLOCATE s", &[]),
        parse("drops all", "DEALLOCATE ALL", &[]),
        sync(),
    ];
    for drop in ["EXECUTE drops", "EXECUTE \"drops all\""] {
        pair.exchange("prepared", &by_protocol.concat(), 1).await;
        for sql in [
            "PREPARE s (int, int) AS SELECT $1 + $2",
            "EXECUTE s(2, 77)",
            "EXECUTE drops",
            "EXECUTE prepares",
            "EXECUTE s(2, 77)",
            "EXECUTE s(3, 78); EXECUTE drops; SELECT 1",
            "EXECUTE s(2, 79)",
            "EXECUTE prepares; EXECUTE s(4, 80)",
        ] {
            pair.simple(sql).await;
            live.orders_in_step().await;
        }
        // Its form is there, and is not to be executed any more.
        pair.simple(drop).await;
        pair.simple("EXECUTE s(5, 81)").await;
        pair.simple("DEALLOCATE ALL").await;
        pair.exchange("prepared", &by_protocol.concat(), 1).await;
        let groups = [
            one("EXECUTE prepares"),
            one("EXECUTE s(6, 82)"),
            sync(),
            one("EXECUTE s(7, 83)"),
            one(drop),
            sync(),
            one("EXECUTE s(8, 84)"),
            sync(),
        ];
        pair.exchange("in groups", &groups.concat(), 3).await;
        pair.simple("DEALLOCATE ALL").await;
        live.orders_in_step().await;
    }
    assert!(live.dirty().await.is_empty());
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn an_execute_in_flight_that_fails_leaves_its_form_to_the_next() {
    let (live, mut pair) = pair().await;
    let sql = "INSERT INTO orders (id, user_id) VALUES ($1, $1)";
    pair.exchange("parsed", &[parse("s", sql, &[23]), sync()].concat(), 1).await;
    for fails in ["EXECUTE s(1)", "EXECUTE s('x')", "EXECUTE s(1, 2)"] {
        let packet = [query(fails), query(fails), query("EXECUTE s(50)")];
        pair.exchange(fails, &packet.concat(), 3).await;
        pair.simple("DELETE FROM orders WHERE id = 50").await;
        let packet = [one(fails), sync(), one(fails), sync(), one("EXECUTE s(51)"), sync()];
        pair.exchange(fails, &packet.concat(), 3).await;
        pair.simple("DELETE FROM orders WHERE id = 51").await;
        pair.simple("DEALLOCATE s").await;
        pair.exchange("parsed", &[parse("s", sql, &[23]), sync()].concat(), 1).await;
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn the_unnamed_statement_is_bound_behind_a_query_that_is_not_answered() {
    let (live, mut pair) = pair().await;
    for sql in ["UPDATE orders SET total = total + 1 WHERE id = 3", "TABLE orders", "SELECT 1"] {
        for between in ["SELECT 2", "PREPARE s AS SELECT 1", "SELECT 1 / 0", ""] {
            let parsed = [parse("", sql, &[]), sync()].concat();
            let bound = [run("", &[]), sync(), describe(b'S', ""), sync()].concat();
            pair.exchange(sql, &parsed, 1).await;
            let packet = [&query(between)[..], &bound].concat();
            pair.exchange(&format!("{sql}, then {between}"), &packet, 3).await;
            pair.exchange(sql, &parsed, 1).await;
            let packet = [&query(between)[..], &parsed, &bound].concat();
            pair.exchange(&format!("{sql}, {between} and again"), &packet, 4).await;
            // Skipped, so it drops nothing.
            pair.exchange(sql, &parsed, 1).await;
            let skipped = [&one("SELECT 1 / 0")[..], &query(between), &sync(), &bound].concat();
            pair.exchange(&format!("{sql}, {between} skipped"), &skipped, 3).await;
            pair.simple("DEALLOCATE ALL").await;
        }
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn a_write_behind_an_execute_of_transaction_control_does_not_end_the_connection() {
    let (live, mut pair) = pair().await;
    // Outside a block the server itself breaks off where a savepoint is begun so.
    let words = ["BEGIN", "COMMIT", "ROLLBACK", "ABORT", "END", "SAVEPOINT a", "ROLLBACK TO a"];
    let named: Vec<Vec<u8>> = words.iter().map(|word| parse(word, word, &[])).collect();
    pair.exchange("named", &[named.concat(), sync()].concat(), 1).await;
    let mut id = 100;
    for before in ["", "BEGIN", "BEGIN; SAVEPOINT a"] {
        for word in if before.is_empty() { &words[..5] } else { &words[..] } {
            for simple in [true, false] {
                pair.simple(before).await;
                id += 1;
                let write = match id % 3 {
                    // The server itself leaves a lock behind that is taken behind half a savepoint.
                    0 if !word.starts_with("SAVEPOINT") => "TRUNCATE orders".to_owned(),
                    _ => format!("INSERT INTO orders (id, user_id) VALUES ({id}, 1)"),
                };
                let control = format!("EXECUTE \"{word}\"");
                let frames = match simple {
                    true => query(&format!("{control}; {write}")),
                    false => [one(&control), one(&write), sync()].concat(),
                };
                pair.exchange(&format!("{before}; {control}"), &frames, 1).await;
                pair.simple("COMMIT").await;
                live.orders_in_step().await;
            }
        }
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn a_form_that_was_skipped_is_prepared_anew_where_a_parse_of_its_name_was_skipped_behind_it()
{
    let (live, mut pair) = pair().await;
    let insert = "INSERT INTO orders (id, user_id) VALUES ($1, 1) ON CONFLICT DO NOTHING";
    let again = parse("s", "DELETE FROM orders WHERE id = $1", &[23]);
    for (n, read) in [insert, "SELECT total FROM orders WHERE id = $1"].iter().enumerate() {
        let name = format!("s{n}");
        let bound = run(&name, &[Some(b"70")]);
        pair.exchange(read, &[parse(&name, read, &[23]), sync()].concat(), 1).await;
        let fails =
            [&one("SELECT 1 / 0")[..], &bound, &parse(&name, "DELETE FROM orders", &[]), &sync()];
        pair.exchange("skipped", &fails.concat(), 1).await;
        pair.exchange("bound", &[&bound[..], &again, &sync()].concat(), 1).await;
        // Both in a transaction that has failed.
        pair.simple("BEGIN").await;
        let packet = [&one("SELECT 1 / 0")[..], &sync(), &bound, &again, &sync()];
        pair.exchange("failed", &packet.concat(), 2).await;
        pair.simple("COMMIT").await;
        pair.exchange("bound", &[&bound[..], &sync()].concat(), 1).await;
        pair.exchange("closed", &[close(b'S', "s"), sync()].concat(), 1).await;
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn a_name_that_its_group_has_closed_is_not_executed_by_sql_either() {
    let (live, mut pair) = pair().await;
    let named =
        [parse("s", "DELETE FROM orders WHERE id = 4", &[]), parse("e", "EXECUTE s", &[]), sync()];
    for drop in [close(b'S', "s"), one("DEALLOCATE s"), one("DEALLOCATE ALL")] {
        for executes in [run("e", &[]), one("EXECUTE s"), [sync(), query("EXECUTE s")].concat()] {
            for warm in [false, true] {
                pair.exchange("named", &named.concat(), 1).await;
                if warm {
                    pair.simple("BEGIN").await;
                    pair.simple("EXECUTE s").await;
                    pair.simple("ROLLBACK").await;
                }
                let packet = [&drop[..], &executes, &sync()].concat();
                let readies = if executes.contains(&b'Q') { 3 } else { 1 };
                pair.exchange("closed and executed", &packet, readies).await;
                pair.exchange("closed", &[close(b'S', "s"), close(b'S', "e"), sync()].concat(), 1)
                    .await;
            }
        }
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn a_name_prepared_by_sql_closed_and_parsed_anew_stands_for_the_last() {
    let (live, mut pair) = pair().await;
    let prepare = "PREPARE s (int, int) AS DELETE FROM orders WHERE id = $1 AND $2 > 0";
    let again = [close(b'S', "s"), parse("s", UPDATE, &[])].concat();
    let mut id = 1;
    for warm in [false, true] {
        for (begins, readies) in [(query(prepare), 1), (one(prepare), 0)] {
            for (executes, more) in [(one("EXECUTE s(ID, 77)"), 1), (query("EXECUTE s(ID, 78)"), 2)]
            {
                id += 1;
                let (from, to) = (b"ID".as_slice(), format!("{id:2}"));
                let mut executes = executes;
                let at = executes.windows(2).position(|w| w == from).unwrap();
                executes[at..at + 2].copy_from_slice(to.as_bytes());
                if warm {
                    pair.simple("PREPARE s (int, int) AS DELETE FROM orders WHERE id = $1 + $2")
                        .await;
                    pair.simple("EXECUTE s(1000, 0)").await;
                    pair.simple("DEALLOCATE s").await;
                }
                let is_query = more == 2;
                let between = if is_query { sync() } else { Vec::new() };
                let end = if is_query { Vec::new() } else { sync() };
                let packet = [&begins[..], &again, &between, &executes, &end].concat();
                pair.exchange("prepared, closed, parsed, executed", &packet, readies + more).await;
                live.orders_in_step().await;
                pair.exchange("closed", &[close(b'S', "s"), sync()].concat(), 1).await;
                // Closed, and not parsed anew.
                let packet = [&begins[..], &close(b'S', "s"), &between, &executes, &end].concat();
                pair.exchange("prepared, closed, executed", &packet, readies + more).await;
                live.orders_in_step().await;
                pair.simple("DEALLOCATE ALL").await;
            }
        }
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn what_executes_a_truncate_or_a_copy_of_the_protocol_is_marked() {
    let (live, mut pair) = pair().await;
    let named =
        [parse("t", "TRUNCATE orders", &[]), parse("c", "COPY orders FROM STDIN", &[]), sync()];
    pair.exchange("named", &named.concat(), 1).await;
    for simple in [true, false] {
        let executes = |name: &str| match simple {
            true => query(&format!("EXECUTE {name}")),
            false => [one(&format!("EXECUTE {name}")), sync()].concat(),
        };
        let before = live.statements("recorded", "write");
        pair.exchange("truncate", &executes("t"), 1).await;
        live.orders_in_step().await;
        pair.simple("INSERT INTO orders VALUES (1, 1, 1), (2, 2, 2)").await;
        assert!(live.statements("recorded", "write") > before, "nothing is marked");
        let data = [frame(b'd', b"70\t1\t1\tn\tx70\n"), frame(b'c', b"")].concat();
        let end = if simple { Vec::new() } else { sync() };
        let copied = match simple {
            true => query("EXECUTE c"),
            false => one("EXECUTE c"),
        };
        let readies = 1;
        pair.exchange("copy", &[copied, data, end].concat(), readies).await;
        pair.simple("SELECT 1").await;
        live.orders_in_step().await;
        pair.simple("DELETE FROM orders").await;
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn a_close_that_is_skipped_leaves_the_statement_of_sql_and_its_writes_are_followed() {
    let (live, mut pair) = pair().await;
    pair.simple(&format!("PREPARE s (int, int) AS {UPDATE}")).await;
    let values: [Option<&[u8]>; 2] = [Some(b"2"), Some(b"91")];
    let skipped = [&one("SELECT 1 / 0")[..], &close(b'S', "s"), &sync()].concat();
    for (n, then) in [run("s", &values), one("EXECUTE s(3, 92)")].iter().enumerate() {
        for packets in [true, false] {
            let before =
                live.statements("recorded", "write") + live.statements("mirrored", "write");
            if packets {
                pair.exchange("skipped", &skipped, 1).await;
                pair.exchange("then", &[&then[..], &sync()].concat(), 1).await;
            } else {
                pair.exchange("at once", &[&skipped[..], then, &sync()].concat(), 2).await;
            }
            let after = live.statements("recorded", "write") + live.statements("mirrored", "write");
            assert!(after > before + 0.5, "{n} is not followed");
            live.orders_in_step().await;
        }
    }
    pair.exchange("closed", &[close(b'S', "s"), sync(), run("s", &values), sync()].concat(), 2)
        .await;
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

/// A letter as two clients' encodings spell it.
const UTF8: &[u8] = b"\xc3\xa9";
const LATIN1: &[u8] = b"\xe9";

#[tokio::test]
async fn a_name_that_another_encoding_spells_in_other_bytes_is_marked() {
    let (live, mut pair) = pair().await;
    let update = b"UPDATE orders SET total = total + 1 WHERE id = 2";
    let parse = |name: &[u8]| frame(b'P', &[name, b"\0", &update[..], b"\0\0\0"].concat());
    let bind = |name: &[u8]| frame(b'B', &[b"\0", name, b"\0\0\0\0\0\0\0"].concat());
    let query = |parts: &[&[u8]]| frame(b'Q', &[&parts.concat(), &b"\0"[..]].concat());
    let set = |to: &str| query(&[format!("SET client_encoding = {to}").as_bytes()]);
    let run = |name: &[u8]| [bind(name), execute("", 0), sync()].concat();
    let parsed = |name: &[u8]| [parse(name), sync()].concat();
    let in_sql = |name: &[u8]| query(&[b"PREPARE ", name, b" AS ", update]);
    let one = |sql: &str| [crate::live::raw::one(sql), sync()].concat();
    for (begins, prepared, ends, bound) in [
        ("UTF8", parsed(UTF8), set("LATIN1"), LATIN1),
        ("UTF8", parsed(UTF8), one("SET client_encoding = LATIN1"), LATIN1),
        ("LATIN1", parsed(LATIN1), set("UTF8"), UTF8),
        ("UTF8", in_sql(&[b"\"", UTF8, b"\""].concat()), set("LATIN1"), LATIN1),
        ("LATIN1", in_sql(b"U&\"\\00e9\""), set("LATIN1"), LATIN1),
    ] {
        let before = live.statements("recorded", "write");
        pair.exchange("begins", &set(begins), 1).await;
        pair.exchange("prepared", &prepared, 1).await;
        // The second time it is on its way when the name is bound.
        pair.exchange("bound", &[ends, run(bound)].concat(), 2).await;
        pair.exchange("bound again", &run(bound), 1).await;
        assert!(live.statements("recorded", "write") > before, "nothing is marked");
        live.orders_in_step().await;
        pair.exchange("dropped", &query(&[b"DEALLOCATE ALL"]), 1).await;
    }
    pair.exchange("ends", &set("UTF8"), 1).await;
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn a_write_behind_an_unsynced_savepoint_records_though_a_group_before_is_over() {
    let (live, mut pair) = pair().await;
    let prepared = [parse("s", "SAVEPOINT a", &[]), sync()].concat();
    pair.exchange("prepared", &prepared, 1).await;
    let groups = [one("SELECT 1"), sync(), one("BEGIN"), one("EXECUTE s")].concat();
    // TRUNCATE would leave an index without a page here, also without the proxy.
    let write = query("UPDATE orders SET total = 77 WHERE id = 3");
    pair.exchange("the block is half done", &[&groups[..], &write].concat(), 2).await;
    pair.exchange("over", &query("COMMIT"), 1).await;
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn a_name_that_code_or_a_text_too_long_to_read_gives_to_a_write_is_marked() {
    let (live, mut pair) = pair().await;
    let long = "x".repeat(1 << 20);
    let redefines = [
        format!("DO $$BEGIN EXECUTE 'DEALLOCATE a'; EXECUTE 'PREPARE a (int) AS {WRITE}'; END$$"),
        format!("DEALLOCATE a; PREPARE a (int) AS {WRITE} /* {long} */"),
    ];
    let in_sql = query("PREPARE a (int) AS SELECT $1");
    let by_protocol = [parse("a", "SELECT $1::int", &[]), sync()].concat();
    for prepared in [&in_sql, &by_protocol] {
        for redefines in &redefines {
            for run in [query("EXECUTE a (2)"), [run("a", &[Some(b"3")]), sync()].concat()] {
                pair.exchange("prepared", prepared, 1).await;
                pair.simple("EXECUTE a (1)").await;
                pair.exchange("redefined", &query(redefines), 1).await;
                live.until_clean("orders_v2").await;
                let before = live.statements("recorded", "write");
                pair.exchange("run", &run, 1).await;
                assert!(live.statements("recorded", "write") > before, "nothing is marked");
                live.orders_in_step().await;
                pair.simple("DEALLOCATE ALL").await;
            }
        }
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn a_transaction_that_has_failed_is_left_by_a_name_that_is_not_sure() {
    let (live, mut pair) = pair().await;
    let prepared =
        [parse("rb", "ROLLBACK", &[]), parse("to", "ROLLBACK TO a", &[]), sync()].concat();
    pair.exchange("prepared", &prepared, 1).await;
    // From here on any name may stand for something else.
    pair.simple("DO $$BEGIN EXECUTE 'DEALLOCATE nothing'; EXCEPTION WHEN OTHERS THEN END$$").await;
    for name in ["to", "rb"] {
        pair.simple("BEGIN").await;
        pair.simple("SAVEPOINT a").await;
        pair.simple("SELECT 1 / 0").await;
        pair.exchange(name, &[run(name, &[]), sync()].concat(), 1).await;
        pair.simple("ROLLBACK").await;
    }
    live.orders_in_step().await;
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn what_drops_a_name_unread_counts_for_what_prepares_it_before_and_is_not_answered() {
    let (live, mut pair) = pair().await;
    let long = format!("/* {} */", "x".repeat(1 << 20));
    let code =
        format!("DO $$BEGIN EXECUTE 'DEALLOCATE a'; EXECUTE 'PREPARE a (int) AS {WRITE}'; END$$");
    let packets = [
        // By the extended protocol, of texts that are too long to read.
        vec![
            [parse("a", "SELECT $1::int", &[]), sync()].concat(),
            [
                one(&format!("DEALLOCATE a {long}")),
                one(&format!("PREPARE a (int) AS {WRITE} {long}")),
                sync(),
            ]
            .concat(),
        ],
        // By names.
        vec![
            [
                parse("a", "SELECT $1::int", &[]),
                parse("d", &format!("DEALLOCATE a {long}"), &[]),
                parse("p", &format!("PREPARE a (int) AS {WRITE} {long}"), &[]),
                sync(),
            ]
            .concat(),
            query("EXECUTE d"),
            query("EXECUTE p"),
        ],
        // One packet.
        vec![
            [query("PREPARE a (int) AS SELECT $1"), query(&format!("BEGIN; {code}; COMMIT"))]
                .concat(),
        ],
    ];
    for (n, packets) in packets.iter().enumerate() {
        for bound in [true, false] {
            for packet in packets {
                pair.exchange_all("redefined", packet).await;
            }
            live.until_clean("orders_v2").await;
            let before = live.statements("recorded", "write");
            let run = if bound {
                [run("a", &[Some(b"3")]), sync()].concat()
            } else {
                query("EXECUTE a (2)")
            };
            pair.exchange("run", &run, 1).await;
            assert!(
                live.statements("recorded", "write") > before,
                "nothing is marked: {n}, bound: {bound}"
            );
            live.orders_in_step().await;
            pair.simple("DEALLOCATE ALL").await;
        }
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

/// Nothing of ours runs in a transaction that has failed: what the server says of a name is what it says first.
#[tokio::test]
async fn a_name_that_nothing_has_is_refused_in_a_failed_transaction_in_the_servers_words() {
    let (live, mut pair) = pair().await;
    let bound =
        [bind("", "nothing", 0, &[], 0), describe(b'P', ""), execute("", 0), sync()].concat();
    pair.simple("BEGIN").await;
    pair.exchange("before", &bound, 1).await;
    pair.simple(&format!("PREPARE p (int) AS {WRITE}")).await;
    let copy =
        [query("COPY orders (id, user_id) FROM STDIN"), frame(b'd', b"60\t1\n"), frame(b'c', b"")];
    pair.exchange("COPY", &copy.concat(), 1).await;
    pair.exchange("behind", &bound, 1).await;
    pair.simple("ROLLBACK").await;
    pair.finish(&live, &[ORDERS_TABLE]).await;
}
