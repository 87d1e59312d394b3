//! Statements that the server has dropped: what is bound behind that is refused by it, and what has been
//! parsed anew under the name is another.

use crate::live::raw::{bind, close, describe, execute, parse, query, sync};
use crate::live::{Live, ORDERS, ORDERS_TABLE, Pair};

const UPDATE: &str = "UPDATE orders SET total = total + 1 WHERE id = 3";
const OTHER: &str = "DELETE FROM orders WHERE id = 9";

fn run(name: &str) -> Vec<u8> {
    [bind("", name, 0, &[], 0), execute("", 0)].concat()
}

fn extended(sql: &str) -> Vec<u8> {
    [parse("", sql, &[]), bind("", "", 0, &[], 0), execute("", 0)].concat()
}

/// Frames that drop `s`, and how often the server is ready for them. The last has no Sync: what is bound
/// may be in its group.
fn ways() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("DEALLOCATE s", extended("DEALLOCATE s")),
        ("DEALLOCATE ALL", extended("DEALLOCATE ALL")),
        ("DISCARD ALL", extended("DISCARD ALL")),
        ("Close", close(b'S', "s")),
        ("Close twice", [close(b'S', "s"), close(b'S', "s")].concat()),
    ]
}

#[tokio::test]
async fn a_bind_behind_what_drops_its_statement_is_refused_by_the_server() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    for mirrored_before in [false, true] {
        for (what, frames) in ways() {
            let prepared = match mirrored_before {
                true => [parse("s", UPDATE, &[]), run("s"), sync()].concat(),
                false => [parse("s", UPDATE, &[]), sync()].concat(),
            };
            let dropped = [&frames[..], &sync()].concat();
            let bound = [run("s"), sync()].concat();
            pair.exchange(what, &prepared, 1).await;
            pair.exchange(what, &dropped, 1).await;
            pair.exchange(&format!("{what}, and then"), &bound, 1).await;

            pair.exchange(what, &prepared, 1).await;
            let both = [&dropped[..], &bound].concat();
            pair.exchange(&format!("{what}, in a pipeline"), &both, 2).await;

            pair.exchange(what, &prepared, 1).await;
            let within = [&frames[..], &bound].concat();
            // DISCARD ALL cannot run within a transaction: it is alone, or fails.
            pair.exchange(&format!("{what}, in one group"), &within, 1).await;
            pair.exchange(what, &[close(b'S', "s"), sync()].concat(), 1).await;
        }
        for text in ["DEALLOCATE s", "DISCARD ALL", "SELECT 1; DEALLOCATE ALL; SELECT 2"] {
            pair.exchange(text, &[parse("s", UPDATE, &[]), sync()].concat(), 1).await;
            pair.simple(text).await;
            pair.exchange(text, &[run("s"), sync()].concat(), 1).await;
            pair.exchange(text, &[parse("s", UPDATE, &[]), sync()].concat(), 1).await;
            let both = [query(text), run("s"), sync()].concat();
            pair.exchange(&format!("{text}, in a pipeline"), &both, 2).await;
        }
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn what_fails_to_drop_a_statement_leaves_it_and_its_writes_are_mirrored() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    pair.exchange(UPDATE, &[parse("s", UPDATE, &[]), sync()].concat(), 1).await;
    for text in ["DISCARD ALL", "DEALLOCATE nothing", "SELECT 1 / 0; DEALLOCATE s"] {
        pair.simple("BEGIN").await;
        pair.simple(text).await;
        pair.simple("ROLLBACK").await;
        pair.exchange(text, &[run("s"), sync()].concat(), 1).await;
    }
    // Skipped by the server.
    let skipped = [extended("SELECT 1 / 0"), close(b'S', "s"), sync()].concat();
    pair.exchange("skipped", &skipped, 1).await;
    pair.exchange("skipped", &[run("s"), sync()].concat(), 1).await;
    // What a transaction drops stays dropped.
    pair.simple("BEGIN; DEALLOCATE s; ROLLBACK").await;
    pair.exchange("rolled back", &[run("s"), sync()].concat(), 1).await;
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

/// As drivers do it that keep the statements of the protocol few: the forms of these go with them, and no
/// others do.
#[tokio::test]
async fn forms_of_statements_that_sql_drops_one_by_one_do_not_pile_up_at_the_server() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    let kept = [parse("kept", UPDATE, &[]), run("kept"), sync()].concat();
    pair.exchange("kept", &kept, 1).await;
    for n in 0..12 {
        let used = [parse("s", UPDATE, &[]), run("s"), sync(), run("kept"), sync()].concat();
        pair.exchange("used", &used, 2).await;
        let drops = if n % 2 == 0 { query("DEALLOCATE s") } else { extended("DEALLOCATE s") };
        let drops = if n % 2 == 0 { drops } else { [drops, sync()].concat() };
        pair.exchange("dropped", &drops, 1).await;
    }
    let names = "SELECT string_agg(left(statement, 30), ' ') FROM pg_prepared_statements";
    let left = pair.live.rows(names).await.concat();
    let count = "SELECT count(*) FROM pg_prepared_statements";
    // The one that is kept and its form, and what the last one has left.
    assert_eq!(pair.live.rows(count).await.concat(), [Some("2".to_owned())], "{left:?}");
    assert_eq!(pair.plain.rows(count).await.concat(), [Some("1".to_owned())]);
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn a_close_and_a_parse_that_fails_leave_nothing_of_the_name() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    for fails in ["SELEC 1", "UPDATE orders SET nowhere = 1"] {
        pair.exchange(UPDATE, &[parse("s", UPDATE, &[]), sync()].concat(), 1).await;
        let closed = [close(b'S', "s"), parse("s", fails, &[]), sync()].concat();
        pair.exchange(fails, &closed, 1).await;
        pair.exchange(fails, &[run("s"), sync()].concat(), 1).await;

        pair.exchange(UPDATE, &[parse("s", UPDATE, &[]), sync()].concat(), 1).await;
        let both = [&closed[..], &run("s"), &sync()].concat();
        pair.exchange(&format!("{fails}, in a pipeline"), &both, 2).await;
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn a_statement_of_the_name_that_is_parsed_behind_is_another() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    for (what, frames) in ways() {
        pair.exchange(what, &[parse("s", UPDATE, &[]), run("s"), sync()].concat(), 1).await;
        for sql in [OTHER, UPDATE] {
            let dropped = [&frames[..], &sync()].concat();
            let anew = [parse("s", sql, &[]), sync()].concat();
            pair.exchange(what, &[dropped, anew].concat(), 2).await;
            pair.exchange(what, &[run("s"), sync()].concat(), 1).await;
        }
        pair.exchange(what, &[close(b'S', "s"), sync()].concat(), 1).await;
    }
    // The same text of no migrated table: it is another nevertheless.
    let plain = "UPDATE other SET note = 'x' WHERE id = 1";
    let again = [close(b'S', "s"), parse("s", plain, &[]), sync()].concat();
    pair.exchange(plain, &[parse("s", plain, &[]), sync()].concat(), 1).await;
    pair.exchange(plain, &again.repeat(3), 3).await;
    pair.exchange(plain, &[run("s"), sync()].concat(), 1).await;
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn the_unnamed_statement_ends_with_a_simple_query_and_with_a_parse_that_fails() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    let parsed = |sql| [parse("", sql, &[]), sync()].concat();
    let bound = [run(""), sync()].concat();
    for sql in [UPDATE, "UPDATE other SET note = 'x' WHERE id = 1"] {
        for ends in [query("SELECT 1"), query("SELECT 1 / 0"), query(""), parsed("SELEC")] {
            pair.exchange(sql, &parsed(sql), 1).await;
            pair.exchange(sql, &ends, 1).await;
            pair.exchange(&format!("{sql}, and then"), &bound, 1).await;
            // Parsed anew before the end is answered: it is there again.
            pair.exchange(sql, &parsed(sql), 1).await;
            pair.exchange(sql, &[&ends[..], &parsed(sql)].concat(), 2).await;
            pair.exchange(&format!("{sql}, parsed again"), &bound, 1).await;
        }
        // It is skipped: the statement stays.
        pair.exchange(sql, &parsed(sql), 1).await;
        let skipped = [execute("nowhere", 0), parse("", "SELEC", &[]), sync()].concat();
        pair.exchange(sql, &skipped, 1).await;
        pair.exchange(&format!("{sql}, not dropped"), &bound, 1).await;
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

/// Under the client's name the server has the client's own text, whoever asks.
#[tokio::test]
async fn sql_sees_a_prepared_statement_as_the_client_wrote_it() {
    let live = Live::orders("", "reads = 100").await;
    let read = "SELECT id, total, note FROM orders WHERE id = 3";
    live.until_shadow_serves(&live.client().await, read).await;
    let mut pair = Pair::new(&live, ORDERS).await;
    let prepared = |name, sql| [parse(name, sql, &[]), run(name), sync()].concat();
    pair.exchange(read, &prepared("r", read), 1).await;
    for text in [
        "EXPLAIN (COSTS OFF) EXECUTE r",
        "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF, BUFFERS OFF) EXECUTE r",
        "CREATE TEMP TABLE made AS EXECUTE r",
        "TABLE made",
    ] {
        pair.simple(text).await;
    }
    assert!(live.statements("recorded", "write") < 0.5, "a read is not marked");
    pair.exchange(UPDATE, &prepared("w", UPDATE), 1).await;
    pair.simple("EXPLAIN (COSTS OFF) EXECUTE w").await;
    let shown = "SELECT name, statement, parameter_types FROM pg_prepared_statements \
                 WHERE name NOT LIKE 'pgsegue %' ORDER BY name";
    pair.simple(shown).await;
    for change in ["SELECT 1", "SET search_path = public", "CREATE TEMP TABLE t (id int)"] {
        pair.simple(change).await;
        for name in ["r", "w"] {
            let asked = [describe(b'S', name), sync()].concat();
            pair.exchange(&format!("Describe behind {change}"), &asked, 1).await;
        }
    }
    pair.simple("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) EXECUTE w").await;
    assert!(live.statements("recorded", "write") > 0.5, "what was executed is not mirrored");
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn the_unnamed_statement_is_described_behind_a_parse_of_it_that_was_skipped_or_failed() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    let described = [describe(b'S', ""), sync()].concat();
    let (skipped, failed) = (extended("SELECT 1 / 0"), parse("", "nonsense", &[]));
    for first in [UPDATE, "UPDATE orders SET total = 1 WHERE id = 4 RETURNING id", "TABLE orders"] {
        for then in [OTHER, "SELECT 1", "INSERT INTO orders VALUES (70, 1, 1) RETURNING *"] {
            let group = [parse("", first, &[]), sync()].concat();
            pair.exchange(first, &group, 1).await;
            let others = [&skipped[..], &parse("", then, &[]), &sync(), &described].concat();
            pair.exchange(&format!("{then}, skipped"), &others, 2).await;
            pair.exchange(
                then,
                &[&group[..], &parse("", then, &[]), &sync(), &described].concat(),
                3,
            )
            .await;
            pair.exchange(first, &group, 1).await;
            pair.exchange("failed", &[&failed[..], &sync(), &described].concat(), 2).await;
        }
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}
