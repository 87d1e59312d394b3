//! Large things: they go through the proxy as they come, in memory that has a bound, and what is
//! too long to be read is not lost for a migration.

use crate::live::raw::{Raw, bind, execute, frame, one, parse, query, sync};
use crate::live::{Live, text};
use crate::support::{Proxy, database};
use std::fs;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What the process may grow by, whatever goes through it.
const GROWTH_KIB_MAX: u64 = 16 * 1024;
const CHUNK: usize = 64 * 1024;
const ROW: usize = 200_000_000;

/// The most memory that the process had resident so far.
fn high_water_kib(proxy: &Proxy) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", proxy.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Sends the head of a frame whose body goes on with this many `x`, and then with a tail.
async fn send_long(raw: &mut Raw, tag: u8, head: &[u8], xs: usize, tail: &[u8]) {
    let length = u32::try_from(4 + head.len() + xs + tail.len()).unwrap();
    let chunk = vec![b'x'; CHUNK];
    raw.send(&[&[tag], &length.to_be_bytes()[..], head].concat()).await;
    for _ in 0..xs / CHUNK {
        raw.send(&chunk).await;
    }
    raw.send(&chunk[..xs % CHUNK]).await;
    raw.send(tail).await;
}

/// Reads messages without keeping them: tags in order, runs of one tag as one, and all bytes.
async fn drained(raw: &mut Raw) -> (String, u64) {
    let (mut tags, mut bytes) = (String::new(), 0);
    let mut buffer = vec![0; CHUNK];
    loop {
        let mut head = [0; 5];
        raw.stream.read_exact(&mut head).await.unwrap();
        let mut left = u64::from(u32::from_be_bytes(head[1..].try_into().unwrap())) - 4;
        bytes += left;
        while left > 0 {
            let n = usize::try_from(left.min(CHUNK as u64)).unwrap();
            left -= raw.stream.read(&mut buffer[..n]).await.unwrap() as u64;
        }
        let tag = char::from(head[0]);
        if !tags.ends_with(tag) {
            tags.push(tag);
        }
        if tag == 'Z' {
            return (tags, bytes);
        }
    }
}

/// The head of a Bind with one value of that many bytes, and what follows the value.
fn bind_head(statement: &str, xs: usize) -> (Vec<u8>, Vec<u8>) {
    let whole = bind("", statement, 0, &[Some(b"")], 0);
    let at = whole.len() - 4;
    let mut head = whole[5..at].to_vec();
    let length = head.len() - 4;
    head[length..].copy_from_slice(&u32::try_from(xs).unwrap().to_be_bytes());
    (head, whole[at..].to_vec())
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_gigabyte_and_rows_of_200_mb_take_no_memory() {
    let live = Live::orders("", "").await;
    live.db.client.batch_execute("CREATE UNLOGGED TABLE big (t text)").await.unwrap();
    live.db.client.batch_execute("ALTER TABLE big ALTER t SET STORAGE EXTERNAL").await.unwrap();
    let mut raw = live.raw().await;
    raw.run("SELECT 1").await;
    let before = high_water_kib(&live.proxy);
    let grown = |what: &str| {
        let grown = high_water_kib(&live.proxy) - before;
        assert!(grown < GROWTH_KIB_MAX, "{what}: {grown} KiB more");
    };
    // In: a gigabyte that the server throws away. Out: as much.
    raw.send(&query("COPY big FROM STDIN WHERE t IS NULL")).await;
    let line = frame(b'd', &[&vec![b'x'; CHUNK - 1][..], b"\n"].concat());
    for _ in 0..16_384 {
        raw.send(&line).await;
    }
    raw.send(&frame(b'c', b"")).await;
    assert_eq!(drained(&mut raw).await.0, "GCZ");
    grown("COPY in");
    raw.send(&query("COPY (SELECT repeat('x', 65535) FROM generate_series(1, 16384)) TO STDOUT"))
        .await;
    let (tags, bytes) = drained(&mut raw).await;
    assert!(tags == "HdcCZ" && bytes > 1 << 30, "{tags} {bytes}");
    grown("COPY out");
    // Rows out, by either protocol, and an error as long as a row.
    let sql = format!("SELECT repeat('x', {ROW})");
    raw.send(&query(&sql)).await;
    let (tags, bytes) = drained(&mut raw).await;
    assert!(tags == "TDCZ" && bytes > ROW as u64, "{tags} {bytes}");
    raw.send(&[parse("", &sql, &[]), bind("", "", 0, &[], 0), execute("", 0), sync()].concat())
        .await;
    let (tags, bytes) = drained(&mut raw).await;
    assert!(tags == "12DCZ" && bytes > ROW as u64, "{tags} {bytes}");
    raw.send(&query(&format!("SELECT repeat('x', {ROW})::int"))).await;
    let (tags, bytes) = drained(&mut raw).await;
    assert!(tags == "EZ" && bytes > ROW as u64, "{tags} {bytes}");
    grown("rows");
    // A value in, of another table: it needs no look.
    raw.send(&parse("", "INSERT INTO big VALUES ($1)", &[])).await;
    let (head, tail) = bind_head("", ROW);
    send_long(&mut raw, b'B', &head, ROW, &tail).await;
    raw.send(&[execute("", 0), sync()].concat()).await;
    assert_eq!(drained(&mut raw).await.0, "12CZ");
    grown("a value in");
    let stored = text(&live.db.client, "SELECT max(length(t)) FROM big").await;
    assert_eq!(stored, ROW.to_string());
    assert_eq!(live.dirty().await, []);
    // Of the migrated table: marked, not held. A row of a mirrored write, on its way back, neither.
    for (statement, name) in [("UPDATE orders SET note = left($1, 3) WHERE id = 1", "s"), ("", "s")]
    {
        if !statement.is_empty() {
            raw.send(&parse(name, statement, &[])).await;
        }
        let (head, tail) = bind_head(name, ROW);
        send_long(&mut raw, b'B', &head, ROW, &tail).await;
        raw.send(&[execute("", 0), sync()].concat()).await;
        let (tags, _) = drained(&mut raw).await;
        assert!(tags.ends_with("2CZ"), "{tags}");
    }
    grown("a value for the migrated table");
    let sql = format!("UPDATE orders SET total = 5 WHERE id = 2 RETURNING repeat('x', {ROW}), id");
    raw.send(&query(&sql)).await;
    let (tags, bytes) = drained(&mut raw).await;
    assert!(tags == "TDCZ" && bytes > ROW as u64, "{tags} {bytes}");
    grown("RETURNING");
    // A text that is longer than the bound.
    let head = b"INSERT INTO orders VALUES (300, 1, 1, left('";
    send_long(&mut raw, b'Q', head, ROW, b"', 5))\0").await;
    assert_eq!(drained(&mut raw).await.0, "CZ");
    grown("a text");
    assert_eq!(
        raw.query("SELECT note FROM orders WHERE id IN (1, 300) ORDER BY id").await[1..3],
        ["D xxx", "D xxxxx"]
    );
    live.orders_in_step().await;
}

/// What the keys of a COPY may take: those that are kept, and their place while it grows.
#[cfg(target_os = "linux")]
const KEYS_KIB_MAX: u64 = 64 * 1024;

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_more_keys_than_are_kept_is_mirrored_if_they_lie_close() {
    const ROWS: u32 = 200_000;
    let live = Live::orders("", "").await;
    let mut raw = live.raw().await;
    raw.run("SELECT 1").await;
    let before = high_water_kib(&live.proxy);
    // Of 100 digits each, the largest first, every other one left out.
    let lines = |far: &str| {
        let keys = (100..100 + ROWS).rev().map(|n| format!("{:0>100}\t1\n", n * 2));
        let lines: String = keys.chain([far.to_owned()]).collect();
        let data = lines.as_bytes().chunks(CHUNK).flat_map(|piece| frame(b'd', piece));
        let copy = query("COPY orders (id, user_id) FROM STDIN");
        [copy, data.collect(), frame(b'c', b"")].concat()
    };
    raw.run("BEGIN").await;
    let said = raw.pipeline(&lines("2000000000\t1\n"), 1).await;
    assert_eq!(raw.shown(&said)[1..], ["C COPY 200001", "Z T"]);
    let reasons = raw.rows("SELECT reason FROM pgsegue.dirty_keys").await.concat();
    assert_eq!(reasons, [Some("COPY FROM of more keys than are kept".to_owned())]);
    raw.run("ROLLBACK").await;
    let said = raw.pipeline(&lines(""), 1).await;
    assert_eq!(raw.shown(&said)[1..], ["C COPY 200000", "Z I"]);
    assert_eq!(live.dirty().await, []);
    assert_eq!(text(&live.db.client, "SELECT count(*) FROM orders_v2").await, "200010");
    let grown = high_water_kib(&live.proxy) - before;
    assert!(grown < KEYS_KIB_MAX, "{grown} KiB more");
    live.orders_in_step().await;
}

#[tokio::test]
async fn what_is_too_long_to_be_held_is_marked_or_refused() {
    let toml = crate::live::orders_toml("", "");
    let live = Live::orders("", "").await;
    live.proxy.rewrite_config(&format!("proxy.sql_buffer_bytes_max = 65536\n{toml}"));
    let mut live = live;
    live.proxy.restart().await;
    let mut raw = live.raw().await;
    let pad = "x".repeat(70_000);
    let insert = |id: u32| format!("INSERT INTO orders VALUES ({id}, 1, 1, '{pad}')");
    let reasons = async || {
        let sql = "SELECT string_agg(DISTINCT reason, '; ') FROM pgsegue.dirty_keys";
        text(&live.db.client, sql).await
    };
    // The engine's verify takes a mark away: hold it back.
    live.cli(&["migration", "pause", "orders_v2"]);
    live.until_phase("orders_v2", "paused").await;
    let done = |said: &[String]| said.iter().any(|m| m == "C INSERT 0 1");
    assert!(done(&raw.exchange(&query(&insert(101)), 1).await));
    assert_eq!(reasons().await, "it is longer than sql_buffer_bytes_max");
    let run = |id| {
        let sql = insert(id);
        [parse("long", &sql, &[]), bind("", "long", 0, &[], 0), execute("", 0), sync()].concat()
    };
    assert!(done(&raw.exchange(&run(102), 1).await));
    raw.query("BEGIN").await;
    assert!(done(&raw.exchange(&query(&insert(103)), 1).await));
    raw.query("ROLLBACK").await;
    live.cli(&["migration", "resume", "orders_v2"]);
    live.orders_in_step().await;
    assert_eq!(text(&live.db.client, "SELECT count(*) FROM orders WHERE id > 100").await, "2");
    let refusing = Live::orders("unclassified = \"refuse\"", "").await;
    let toml = crate::live::orders_toml("unclassified = \"refuse\"", "");
    let mut refusing = refusing;
    refusing.proxy.rewrite_config(&format!("proxy.sql_buffer_bytes_max = 65536\n{toml}"));
    refusing.proxy.restart().await;
    let mut raw = refusing.raw().await;
    for frames in [query(&insert(101)), run(102)] {
        let said = raw.exchange(&frames, 1).await;
        let refused = said.iter().filter(|m| m.contains("C0A000")).count();
        assert!(refused == 1 && !done(&said), "{said:?}");
        assert_eq!(raw.query("SELECT 1").await[1], "D 1");
    }
    let value = pad.as_bytes();
    let update = "UPDATE orders SET note = $1 WHERE id = 1";
    let frames =
        [parse("u", update, &[]), bind("", "u", 0, &[Some(value)], 0), execute("", 0), sync()];
    let said = raw.exchange(&frames.concat(), 1).await;
    assert!(said.iter().any(|m| m.contains("C0A000")), "{said:?}");
    let short = [bind("", "u", 0, &[Some(b"short")], 0), execute("", 0), sync()].concat();
    assert_eq!(raw.exchange(&short, 1).await, ["2", "C UPDATE 1", "Z I"]);
    refusing.orders_in_step().await;
}

/// What names stand for counts for long values as for short ones.
#[tokio::test]
async fn a_long_value_for_a_name_that_its_group_has_given_to_a_write_is_marked() {
    let mut live = Live::orders("", "").await;
    let toml = crate::live::orders_toml("", "");
    live.proxy.rewrite_config(&format!("proxy.sql_buffer_bytes_max = 65536\n{toml}"));
    live.proxy.restart().await;
    let mut raw = live.raw().await;
    live.cli(&["migration", "pause", "orders_v2"]);
    live.until_phase("orders_v2", "paused").await;
    let long = "x".repeat(70_000);
    let write = "PREPARE s (text) AS UPDATE orders SET total = 77 WHERE id = 5 AND $1 IS NOT NULL";
    for (n, between) in [Vec::new(), sync()].iter().enumerate() {
        raw.exchange(&[parse("s", "SELECT $1::text", &[]), sync()].concat(), 1).await;
        let redefined = [one("DEALLOCATE s"), one(write), between.clone()].concat();
        let run = [bind("", "s", 0, &[Some(long.as_bytes())], 0), execute("", 0), sync()].concat();
        let said = raw.exchange(&[redefined, run].concat(), 1 + n).await;
        assert!(said.iter().any(|line| line == "C UPDATE 1"), "{said:?}");
        assert_eq!(live.dirty().await.len(), n + 1, "not recorded");
        raw.run("DEALLOCATE s").await;
        assert_eq!(live.dirty().await.len(), n + 1, "recorded twice");
    }
    live.cli(&["migration", "resume", "orders_v2"]);
    live.orders_in_step().await;
}

#[tokio::test]
async fn a_frame_longer_than_the_server_takes_ends_the_session_as_without_the_proxy() {
    let db = database().await;
    let proxy = Proxy::start(&db, "").await;
    for tag in [b'S', b'E', b'D', b'C'] {
        let mut said = Vec::new();
        for port in [db.port, proxy.port] {
            let mut raw = Raw::connect(port, "postgres", &db.name).await;
            let (mut read, mut write) = raw.stream.into_split();
            write.write_all(&frame(tag, &vec![0; 300_000])).await.ok();
            let mut bytes = Vec::new();
            read.read_to_end(&mut bytes).await.ok();
            raw = Raw::connect(port, "postgres", &db.name).await;
            assert_eq!(raw.query("SELECT 1").await[1], "D 1");
            said.push(String::from_utf8_lossy(&bytes).contains("08P01"));
        }
        assert_eq!(said[0], said[1], "{}", char::from(tag));
    }
}
