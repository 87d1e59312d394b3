//! The protocol at its edges, byte by byte: what Postgres answers is what comes through, and what
//! is not the protocol ends the connection, not the process.

use crate::live::raw::{bind, execute, flush, frame, parse, query, startup, sync};
use crate::live::{Live, ORDERS, Pair, Raw, text};
use crate::support::{connect, eventually};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

async fn socket(live: &Live) -> TcpStream {
    TcpStream::connect(("127.0.0.1", live.proxy.port)).await.unwrap()
}

fn request(code: u32) -> Vec<u8> {
    [8u32.to_be_bytes(), code.to_be_bytes()].concat()
}

const SSL: u32 = 80_877_103;
const GSS: u32 = 80_877_104;
const CANCEL: u32 = 80_877_102;

/// Everything up to the end of the stream.
async fn to_the_end(mut stream: TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.ok();
    all
}

#[tokio::test]
async fn encryption_is_declined_and_the_session_goes_on_in_the_clear() {
    let live = Live::orders("", "").await;
    for requests in [&[SSL][..], &[GSS], &[GSS, SSL], &[SSL, GSS]] {
        let mut stream = socket(&live).await;
        for code in requests {
            stream.write_all(&request(*code)).await.unwrap();
            assert_eq!(stream.read_u8().await.unwrap(), b'N');
        }
        stream.write_all(&startup("postgres", &live.db.name, &[])).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'R');
    }
}

#[tokio::test]
async fn a_cancel_request_cancels_the_statement_of_its_session_only() {
    let live = Live::orders("", "").await;
    let (mut one, mut two) = (live.raw().await, live.raw().await);
    for sql in ["SELECT pg_sleep(600)", "UPDATE orders SET note = pg_sleep(600)::text WHERE id = 1"]
    {
        one.send(&query(sql)).await;
        eventually("it runs", async || {
            let running = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                           AND state = 'active' AND wait_event = 'PgSleep'";
            let count = text(&live.db.client, running).await;
            if count == "1" { Ok(()) } else { Err(count) }
        })
        .await;
        let cancel = |key: (u32, u32)| {
            let key = [key.0.to_be_bytes(), key.1.to_be_bytes()].concat();
            [16u32.to_be_bytes().to_vec(), CANCEL.to_be_bytes().to_vec(), key].concat()
        };
        for key in [(one.key.0, one.key.1 ^ 1), two.key] {
            let mut stream = socket(&live).await;
            stream.write_all(&cancel(key)).await.unwrap();
            assert_eq!(to_the_end(stream).await, b"");
        }
        assert_eq!(two.query("SELECT 2").await[1], "D 2");
        let mut stream = socket(&live).await;
        stream.write_all(&cancel(one.key)).await.unwrap();
        assert_eq!(to_the_end(stream).await, b"");
        let messages = one.until_ready(1).await;
        let said = one.shown(&messages).join("\n");
        assert!(said.contains("C57014"), "{said}");
    }
    assert_eq!(one.query("SELECT 1").await[1], "D 1");
    live.orders_in_step().await;
}

#[tokio::test]
async fn what_is_not_the_protocol_ends_its_own_connection_and_nothing_else() {
    let live = Live::orders("", "").await;
    let name = live.db.name.clone();
    let begun = startup("postgres", &name, &[]);
    let after = |bytes: &[u8]| [begun.as_slice(), bytes].concat();
    let raw = |tag: u8, length: u32| [vec![tag], length.to_be_bytes().to_vec()].concat();
    let streams: Vec<Vec<u8>> = vec![
        vec![],
        vec![0],
        vec![0, 0, 0, 0, 0, 0, 0, 0],
        vec![0, 0, 0, 8, 0, 0, 0, 0],
        vec![0xff; 64],
        vec![0x7f, 0xff, 0xff, 0xff, 0, 3, 0, 0],
        b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec(),
        [vec![0x16, 3, 1, 2, 0], vec![1; 200]].concat(),
        request(CANCEL),
        begun[..begun.len() - 1].to_vec(),
        [9u32.to_be_bytes().to_vec(), 196_608u32.to_be_bytes().to_vec(), vec![0]].concat(),
        after(&raw(b'Q', 0)),
        after(&raw(b'Q', 3)),
        after(&raw(b'Q', u32::MAX)),
        after(&raw(b'Q', 0x8000_0000)),
        after(&raw(b'Q', 0x7fff_ffff)),
        after(&raw(b'P', 4)),
        after(&raw(b'B', 4)),
        after(&raw(b'X', 100)),
        after(&raw(0, 4)),
        after(&raw(0xff, 4)),
        after(&raw(b'y', 8)),
        after(&frame(b'Q', b"SELECT 1 -- no zero at the end")),
        after(&frame(b'P', b"a\0UPDATE orders SET total = 1")),
        after(&frame(b'P', b"\0UPDATE orders SET total = 1\0\xff\xff")),
        after(&frame(b'P', b"\0UPDATE orders SET total = 1\0\0\x05\0\0")),
        after(&frame(b'B', b"\0\0\0\x01\0\x07\xff\xff")),
        after(&frame(b'B', b"\0\0\0\0\0\x01\x7f\xff\xff\xff1")),
        after(&frame(b'E', b"")),
        after(&frame(b'D', b"")),
        after(&frame(b'D', b"Z\0")),
        after(&frame(b'C', b"\0")),
        after(&frame(b'F', b"\0\0")),
        after(&frame(b'd', b"stray copy data")),
        after(&frame(b'S', b"trailing")),
    ];
    let mut open = Vec::new();
    for bytes in streams {
        let mut stream = socket(&live).await;
        stream.write_all(&bytes).await.ok();
        stream.shutdown().await.ok();
        // Ends, whatever is said before.
        let ended = timeout(Duration::from_secs(5), to_the_end(stream)).await;
        if ended.is_err() {
            open.push(bytes.get(begun.len()..).unwrap_or(&bytes).to_vec());
        }
        let mut other = live.raw().await;
        assert_eq!(other.query("SELECT 1").await[1], "D 1", "after {bytes:?}");
    }
    assert_eq!(open, Vec::<Vec<u8>>::new(), "the connection stays open after these");
    eventually("every session has ended", async || {
        let left = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                    AND application_name = '' AND pid <> pg_backend_pid() AND backend_type = 'client backend'";
        let count = text(&live.db.client, left).await;
        if count == "0" { Ok(()) } else { Err(count) }
    })
    .await;
    assert!(!live.proxy.log().contains("panicked"));
    assert_eq!(text(&live.db.client, "SELECT sum(total) FROM orders").await, "550");
}

#[tokio::test]
async fn frames_may_come_byte_by_byte_or_many_at_once() {
    let live = Live::orders("", "").await;
    let sql = "UPDATE orders SET total = total + 1 WHERE id = $1 RETURNING total, note";
    let one: &[Option<&[u8]>] = &[Some(b"3")];
    let batch = [
        parse("s", sql, &[]),
        bind("", "s", 0, one, 0),
        execute("", 0),
        bind("", "s", 0, one, 0),
        execute("", 0),
        sync(),
        query("SELECT count(*) FROM orders"),
        query("INSERT INTO orders VALUES (20, 1, 1) RETURNING id"),
    ]
    .concat();
    let mut stream = socket(&live).await;
    stream.set_nodelay(true).unwrap();
    for byte in startup("postgres", &live.db.name, &[("application_name", "slow")]) {
        stream.write_all(&[byte]).await.unwrap();
    }
    let mut slow = Raw::of(stream);
    slow.until_ready(1).await;
    for byte in &batch {
        slow.send(&[*byte]).await;
    }
    let messages = slow.until_ready(3).await;
    let first = slow.shown(&messages);
    assert_eq!(first[2], "D 31 | note 3");
    assert_eq!(first[5], "D 32 | note 3");
    slow.query("DELETE FROM orders WHERE id = 20").await;
    slow.query("DEALLOCATE s").await;
    slow.query("UPDATE orders SET total = 30 WHERE id = 3").await;
    // The startup message and all of it in one segment.
    let mut stream = socket(&live).await;
    let all = [startup("postgres", &live.db.name, &[]), batch].concat();
    stream.write_all(&all).await.unwrap();
    let mut fast = Raw::of(stream);
    fast.until_ready(1).await;
    let messages = fast.until_ready(3).await;
    assert_eq!(fast.shown(&messages), first);
    live.orders_in_step().await;
}

#[tokio::test]
async fn a_client_that_goes_away_in_a_transaction_has_it_rolled_back() {
    let live = Live::orders("", "").await;
    for end in ["drop", "terminate", "half a frame"] {
        let mut raw = live.raw().await;
        raw.query("BEGIN").await;
        raw.query("UPDATE orders SET total = 0").await;
        match end {
            "terminate" => raw.send(&frame(b'X', b"")).await,
            "half a frame" => raw.send(&query("COMMIT")[..6]).await,
            _ => {}
        }
        drop(raw);
        eventually("the lock is gone", async || {
            let sql = "SELECT count(*) FROM pg_locks WHERE relation = 'orders'::regclass \
                       AND mode = 'RowExclusiveLock'";
            let count = text(&live.db.client, sql).await;
            if count == "0" { Ok(()) } else { Err(count) }
        })
        .await;
        assert_eq!(text(&live.db.client, "SELECT sum(total) FROM orders").await, "550", "{end}");
    }
    assert_eq!(live.dirty().await, []);
    live.orders_in_step().await;
}

#[tokio::test]
async fn a_sync_among_the_data_of_a_copy_has_no_answer() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    let (one, end) = (|n: usize| frame(b'd', format!("{n}\t1\tx\n").as_bytes()), frame(b'c', b""));
    let begin = query("COPY other FROM STDIN");
    let among = [&begin, &sync(), &one(80), &sync(), &flush(), &sync(), &one(81), &sync(), &end];
    let among = [&among.map(Vec::as_slice).concat(), &query("SELECT 1")[..], &sync()].concat();
    pair.exchange("Sync among the data", &among, 3).await;
    let asked =
        [parse("", "COPY other FROM STDIN", &[]), bind("", "", 0, &[], 0), execute("", 0), flush()];
    for (begin, readies) in [(begin, 3), (asked.concat(), 2)] {
        let mut said = Vec::new();
        for raw in [&mut pair.plain, &mut pair.live] {
            raw.send(&begin).await;
            while raw.next().await.unwrap().tag != b'G' {}
            raw.send(&[sync(), one(90 + readies), flush(), sync()].concat()).await;
            let rest = [end.clone(), sync(), query("SELECT 1"), sync()].concat();
            raw.send(&rest).await;
            let messages = raw.until_ready(readies + 1).await;
            said.push(raw.shown(&messages));
        }
        assert_eq!(said[1], said[0], "Sync among the data, when the server takes them");
    }
    pair.simple("SELECT * FROM other ORDER BY id").await;
    pair.same();
}

#[tokio::test]
async fn copies_notices_notifications_and_large_rows_pass() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    let data: Vec<u8> = (100..3100)
        .flat_map(|i| frame(b'd', format!("{i}\t{i}\t{}\n", "x".repeat(i % 700)).as_bytes()))
        .collect();
    let copy = [query("COPY other FROM STDIN"), data, frame(b'c', b"")].concat();
    pair.exchange("copy in", &copy, 1).await;
    let failed = [query("COPY other FROM STDIN"), frame(b'd', b"x\n"), frame(b'c', b"")].concat();
    pair.exchange("copy in fails", &failed, 1).await;
    let extended = [
        parse("", "COPY other FROM STDIN", &[]),
        bind("", "", 0, &[], 0),
        execute("", 0),
        sync(),
        frame(b'd', b"9000\t1\tx\n"),
        frame(b'c', b""),
        sync(),
    ];
    pair.exchange("copy in, extended", &extended.concat(), 1).await;
    for sql in [
        "COPY other TO STDOUT",
        "COPY (SELECT id FROM other ORDER BY id) TO STDOUT WITH (FORMAT binary)",
        "SELECT * FROM other ORDER BY id",
        "DO $$ BEGIN RAISE NOTICE 'noted %', 1; RAISE WARNING 'warned'; END $$",
        "SELECT repeat('x', 3000000)",
        "SELECT i, repeat('y', 100) FROM generate_series(1, 20000) i",
        "SET TimeZone = 'Asia/Kolkata'",
        "",
        " ; ",
        "SELECT",
        "LISTEN a",
    ] {
        pair.simple(sql).await;
    }
    let big =
        format!("UPDATE orders SET note = '{}' WHERE id = 1 RETURNING note", "z".repeat(2_000_000));
    pair.simple(&big).await;
    let many = format!("SELECT 1 FROM other WHERE id IN ({}0)", "1,".repeat(100_000));
    pair.simple(&many).await;
    let terms = format!("UPDATE orders SET total = 1 WHERE id = 1{}", " OR id = 2".repeat(3_000));
    pair.simple(&terms).await;
    let deep = format!(
        "UPDATE orders SET total = {}1{} WHERE id = 1",
        "(".repeat(2_000),
        ")".repeat(2_000)
    );
    pair.simple(&deep).await;
    pair.same();
    live.orders_in_step().await;
    // A notification comes to an idle session.
    let other = connect(&live.db.conninfo).await;
    other.batch_execute("NOTIFY a, 'hello'").await.unwrap();
    let message = pair.live.next().await.unwrap();
    assert_eq!((message.tag, message.body.ends_with(b"a\0hello\0")), (b'A', true));
}

#[tokio::test]
async fn a_server_that_ends_a_session_ends_it_for_the_client_with_its_reason() {
    let live = Live::orders("", "").await;
    let mut raw = live.raw().await;
    let pid = raw.rows("SELECT pg_backend_pid()").await.concat()[0].clone().unwrap();
    text(&live.db.client, &format!("SELECT pg_terminate_backend({pid})")).await;
    let message = raw.next().await.unwrap();
    assert!(raw.show(&message).contains("C57P01"), "{}", raw.show(&message));
    assert_eq!(raw.next().await, None);
    // A database that does not exist, a user that may not: in Postgres's words.
    let mut stream = socket(&live).await;
    stream.write_all(&startup("postgres", "nowhere", &[])).await.unwrap();
    let mut refused = Raw::of(stream);
    let message = loop {
        let message = refused.next().await.unwrap();
        if message.tag == b'E' {
            break message;
        }
    };
    assert!(refused.show(&message).contains("C3D000"), "{}", refused.show(&message));
}

#[tokio::test]
async fn a_query_that_is_skipped_before_its_sync_is_sent_leaves_the_session_in_step() {
    let live = Live::orders("", "").await;
    let direct = Raw::connect(live.db.port, "postgres", &live.db.name).await;
    let mut said = Vec::new();
    for mut raw in [direct, live.raw().await] {
        let mut lines = Vec::new();
        for skipped in [1, 2, 3] {
            let queries = query("SELECT 1").repeat(skipped);
            raw.send(&[bind("", "none", 0, &[], 0), queries].concat()).await;
            let error = raw.next().await.unwrap();
            lines.push(raw.show(&error));
            let ends = match skipped {
                1 => sync(),
                2 => [query("SELECT 2"), sync()].concat(),
                _ => [parse("", "SELECT 3", &[]), sync()].concat(),
            };
            lines.extend(raw.exchange(&ends, 1).await);
            let sql = "SELECT id FROM orders WHERE id = 1";
            let run = [bind("", "s", 0, &[], 0), execute("", 0), sync()].concat();
            let named = [&parse("s", sql, &[])[..], &sync(), &run, &run].concat();
            lines.extend(raw.exchange(&named, 3).await);
            lines.extend(raw.exchange(&query("DEALLOCATE s"), 1).await);
        }
        said.push(lines);
    }
    assert_eq!(said[0], said[1]);
}
