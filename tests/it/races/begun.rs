//! Reads that the shadow is chosen for, and a gate that is closed before they have begun: by what it waits for, a lock
//! on another table or what runs before it, a read has its snapshot long after that.

use super::run;
use crate::live::Live;
use crate::live::raw::{Raw, bind, close, describe, execute, flush, one, parse, query, sync};
use crate::support::server;

const JOINED: &str = "SELECT o.id, o.total FROM orders o LEFT JOIN other x ON x.id = o.id \
                      WHERE o.id IN (5, 6) ORDER BY o.id";
const SECOND: &str = "SELECT total FROM orders WHERE id IN (5, 6) ORDER BY id";
const FAILS: &str = "SELECT 1 / (o.total - o.total) FROM orders o LEFT JOIN other x ON x.id = o.id \
                     WHERE o.id IN (5, 6)";

/// What has been answered before, what waits, and what is sent when it has been read.
type Case = (&'static str, Vec<u8>, Vec<u8>);

/// Of both of its rows one is mirrored and one is not, while it waits. It is answered as the server answers behind
/// that.
async fn answered(live: &Live, n: usize, (before, waits, behind): Case) -> Vec<String> {
    let names = [("j", JOINED), ("t", SECOND), ("u", "SELECT 1"), ("n", "SELECT 1 / 0")];
    let named: Vec<u8> = names.iter().flat_map(|(name, sql)| parse(name, sql, &[])).collect();
    let writer = live.client().await;
    let mut reader = live.raw().await;
    let mut direct = Raw::connect(server().port(), "postgres", &live.db.name).await;
    live.until_shadow_serves(&writer, JOINED).await;
    for raw in [&mut reader, &mut direct] {
        raw.run(SECOND).await; // what its names mean is known: it is not asked for
        raw.exchange(&[&*named, &sync()].concat(), 1).await;
        raw.run(before).await;
    }
    let total = 600 + n;
    let mirrored = format!("UPDATE orders SET total = {total} WHERE id = 5");
    run(&writer, &format!("BEGIN; LOCK TABLE other IN ACCESS EXCLUSIVE MODE; {mirrored}")).await;
    let again = retries(live);
    reader.send(&waits).await;
    live.until_blocked("JOIN").await;
    let marked = format!("DO $$ BEGIN UPDATE orders SET total = {total} WHERE id = 6; END $$");
    run(&writer, &format!("{marked}; COMMIT")).await;
    let said = reader.exchange_all(&behind).await;
    let as_direct = direct.exchange_all(&[waits, behind].concat()).await;
    assert_eq!(said, as_direct, "{n}: {before}");
    let fails = said.iter().any(|line| line.starts_with("E "));
    assert!(fails || retries(live) > again, "{n}: the shadow was not chosen");
    said
}

fn retries(live: &Live) -> f64 {
    live.proxy.metric("pgsegue_shadow_retries_total").unwrap_or(0.0)
}

/// Whatever is committed by the time of its snapshot a read shows as a whole.
#[tokio::test]
async fn a_read_that_waits_while_a_write_is_marked_is_answered_by_the_source() {
    let live = Live::orders("", "reads = 100").await;
    let joined = one(JOINED);
    let described = [parse("", JOINED, &[]), bind("", "", 0, &[], 0), describe(b'P', "")].concat();
    let cursor = [parse("k", JOINED, &[]), bind("c", "k", 0, &[], 0), execute("c", 1)].concat();
    let read = |sql: &str| [one(sql), sync()].concat();
    let bound =
        |name: &str, portal: &str| [bind(portal, name, 0, &[], 0), execute(portal, 0)].concat();
    let closed = |name| close(b'S', name);
    let dropped = [bound("u", ""), sync()].concat();
    let cases: [Case; 19] = [
        ("", query(JOINED), vec![]),
        ("", [&*joined, &sync()].concat(), vec![]),
        ("", [&*described, &execute("", 0), &sync()].concat(), vec![]),
        ("", [&*described, &flush()].concat(), [execute("", 0), sync()].concat()),
        ("", [&*joined, &one(SECOND), &sync()].concat(), vec![]),
        ("", [&*joined, &sync(), &read(SECOND), &query(SECOND)].concat(), vec![]),
        ("BEGIN", query(JOINED), vec![]),
        ("BEGIN", [&*joined, &sync()].concat(), vec![]),
        ("BEGIN", [&*described, &execute("", 0), &sync()].concat(), vec![]),
        ("BEGIN", [&*cursor, &sync()].concat(), [execute("c", 0), sync()].concat()),
        ("BEGIN", [&*joined, &one("SAVEPOINT s"), &one(SECOND), &sync()].concat(), vec![]),
        ("", [&*one("BEGIN"), &joined, &close(b'P', ""), &sync()].concat(), read(SECOND)),
        ("", [&*bound("j", ""), &bound("t", ""), &bound("j", ""), &sync()].concat(), vec![]),
        (
            "BEGIN",
            [&*bound("t", "a"), &bound("j", "b"), &bound("t", "c"), &sync()].concat(),
            vec![],
        ),
        ("BEGIN", [&*bound("j", ""), &bound("u", ""), &bound("t", ""), &sync()].concat(), vec![]),
        ("", [&*bound("j", ""), &bound("t", ""), &closed("t"), &sync()].concat(), vec![]),
        ("", [&*bound("j", ""), &closed("j"), &closed("u"), &sync()].concat(), dropped),
        ("", [&*bound("j", ""), &closed("t"), &bound("u", ""), &sync()].concat(), vec![]),
        ("", [&*bound("j", ""), &bound("n", ""), &bound("t", ""), &sync()].concat(), vec![]),
    ];
    for (n, case) in cases.into_iter().enumerate() {
        let said = answered(&live, n, case).await;
        let row = |id| said.contains(&format!("D {id} | {}", 600 + n));
        assert!(row(5) && row(6), "{n}: {said:?}");
        live.orders_in_step().await;
    }
}

/// The rows that it would fail for are not those of its snapshot, but it does with those, too. Nothing that was sent
/// behind it waits for ever.
#[tokio::test]
async fn a_read_that_waits_while_a_write_is_marked_and_fails_then_is_answered_once() {
    let live = Live::orders("", "reads = 100").await;
    let fails = one(FAILS);
    let cases: [Case; 5] = [
        ("", [&*fails, &sync()].concat(), vec![]),
        ("", [&*fails, &one("SELECT 1"), &sync()].concat(), vec![]),
        ("", [&*fails, &flush()].concat(), sync()),
        ("", [&*fails, &query("SELECT 1")].concat(), sync()),
        ("", [&*one(JOINED), &describe(b'P', "nope"), &one("SELECT 1"), &sync()].concat(), vec![]),
    ];
    for (n, case) in cases.into_iter().enumerate() {
        answered(&live, n, case).await;
        live.orders_in_step().await;
    }
}
