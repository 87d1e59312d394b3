//! Connections that break in the middle of everything: the client gets a part of the right answer
//! and then an error or the end of the stream, never a wrong answer and never nothing; afterwards
//! source and shadow agree, and a new session works.

use crate::live::raw::{Message, bind, execute, frame, parse, query, startup, sync};
use crate::live::{Live, ORDERS, ORDERS_V2, Raw, orders_toml, text};
use crate::pump::{Connection, Direction, Fault, Pump};
use crate::support::{Proxy, connect, database_on, eventually, server};
use pgsegue::throwaway::{Options, Postgres};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// What a client says, and how many ReadyForQuery end the answer. The answer is the same however
/// often it is asked.
struct Operation {
    name: &'static str,
    frames: Vec<u8>,
    readies: usize,
}

fn operations() -> Vec<Operation> {
    let operation =
        |name, frames: &[Vec<u8>], readies| Operation { name, frames: frames.concat(), readies };
    let run = |sql: &str, value: &[u8]| {
        [parse("", sql, &[]), bind("", "", 0, &[Some(value)], 0), execute("", 0), sync()].concat()
    };
    let data = |n: u32| frame(b'd', format!("{n}\tcopied\n").as_bytes());
    vec![
        operation("simple", &[query("SELECT id, note FROM other ORDER BY id")], 1),
        operation(
            "pipeline",
            &[
                run("SELECT note FROM other WHERE id = $1", b"2"),
                run("UPDATE orders SET note = 'p' WHERE id = $1", b"3"),
                run("SELECT 1 / $1::int", b"0"),
                run("DELETE FROM orders WHERE id = $1", b"99"),
            ],
            4,
        ),
        operation(
            "copy in",
            &[query("COPY sink FROM STDIN"), data(1), data(2), data(3), frame(b'c', b"")],
            1,
        ),
        operation(
            "copy in, mirrored",
            &[
                query("COPY orders (user_id, note) FROM STDIN"),
                data(1),
                data(2),
                data(3),
                frame(b'c', b""),
            ],
            1,
        ),
        operation(
            "copy in with keys, mirrored in a transaction",
            &[
                query("BEGIN"),
                query("COPY orders (id, note, user_id) FROM STDIN CSV"),
                frame(b'd', b"60,a,1\n61,b,2\n"),
                frame(b'c', b""),
                query("DELETE FROM orders WHERE id IN (60, 61)"),
                query("COMMIT"),
            ],
            4,
        ),
        operation("copy out", &[query("COPY other TO STDOUT")], 1),
        operation(
            "mirrored",
            &[query("UPDATE orders SET total = 5 WHERE id IN (1, 2) RETURNING id, total")],
            1,
        ),
        operation(
            "mirrored transaction",
            &[
                query("BEGIN"),
                query("UPDATE orders SET note = 't' WHERE id = 4"),
                query("INSERT INTO orders VALUES (50, 1, 1)"),
                query("DELETE FROM orders WHERE id = 50"),
                query("COMMIT"),
            ],
            5,
        ),
        operation("read", &[query(READ)], 1),
    ]
}

/// Served by the shadow, and compared in the dark.
const READ: &str = "SELECT * FROM orders WHERE id = 5";

/// A client, a pump, the proxy, a pump, the server.
struct Line {
    live: Live,
    near: Pump,
    far: Pump,
}

async fn line() -> Line {
    let far = Pump::to(server().port()).await;
    let toml = orders_toml("", "reads = 100\ndark_reads = 100");
    let toml = format!("server.address = \"127.0.0.1:{}\"\n{toml}", far.port);
    let counted = "CREATE SEQUENCE counted START 10000;
        ALTER TABLE orders ALTER id SET DEFAULT nextval('counted')";
    let sink = "CREATE TABLE sink (id int, note text)";
    let ddl = format!("{ORDERS};{counted};{ORDERS_V2};{sink}");
    let live = Live::ready(&ddl, &toml, &["orders_v2"]).await;
    let near = Pump::to(live.proxy.port).await;
    Line { live, near, far }
}

impl Line {
    async fn client(&self) -> Raw {
        Raw::connect(self.near.port, "postgres", &self.live.db.name).await
    }

    fn pump(&self, leg: Leg) -> &Pump {
        match leg {
            Leg::Near => &self.near,
            Leg::Far => &self.far,
        }
    }

    /// Fails unless a new session works, nobody is left, and source and shadow agree.
    async fn is_well(&self) {
        let mut raw = self.client().await;
        assert_eq!(raw.query("SELECT 1").await[1], "D 1");
        drop(raw);
        eventually("every session of a client has ended", async || {
            let left = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                        AND application_name = '' AND pid <> pg_backend_pid() \
                        AND backend_type = 'client backend'";
            let count = text(&self.live.db.client, left).await;
            if count == "0" { Ok(()) } else { Err(count) }
        })
        .await;
        self.live.orders_in_step().await;
        let copied = "SELECT count(*) % 3 FROM orders WHERE id >= 10000";
        assert_eq!(text(&self.live.db.client, copied).await, "0", "a part of a COPY");
        assert!(!self.live.proxy.log().contains("panicked"));
    }
}

#[derive(Debug, Clone, Copy)]
enum Leg {
    Near,
    Far,
}

const LEGS: [(Leg, Direction); 4] = [
    (Leg::Near, Direction::Up),
    (Leg::Near, Direction::Down),
    (Leg::Far, Direction::Up),
    (Leg::Far, Direction::Down),
];

/// What comes up to that many ReadyForQuery, or to the end of the stream. Hanging fails the test.
async fn heard(raw: &mut Raw, readies: usize) -> (Vec<Message>, bool) {
    let mut messages = Vec::new();
    let mut left = readies;
    while left > 0 {
        let next = timeout(Duration::from_secs(30), raw.next()).await;
        let Some(message) = next.expect("an answer or the end of the stream") else {
            return (messages, false);
        };
        left -= usize::from(message.tag == b'Z');
        messages.push(message);
    }
    (messages, true)
}

/// Whether the answer is the right one as far as it goes, and then at most reasons for its end
/// (a server that misses the end of a COPY has two).
fn is_right(clean: &[Message], seen: &[Message], complete: bool) -> bool {
    const REASONS: [&str; 4] = ["C57P01", "C57P02", "C08P01", "C08006"];
    if complete {
        return seen == clean;
    }
    let is_reason = |message: &Message| {
        let said = String::from_utf8_lossy(&message.body);
        matches!(message.tag, b'E' | b'N') && REASONS.iter().any(|code| said.contains(code))
    };
    let reasons = seen.iter().rev().take_while(|m| is_reason(m)).count();
    clean.starts_with(&seen[..seen.len() - reasons])
}

/// An operation without a fault: its answer, and the bytes of each leg.
async fn clean(line: &Line, operation: &Operation) -> (Vec<Message>, Vec<u64>) {
    let mut raw = line.client().await;
    let passed = || LEGS.map(|(leg, direction)| line.pump(leg).passed(direction));
    let before = passed();
    raw.send(&operation.frames).await;
    let (messages, complete) = heard(&mut raw, operation.readies).await;
    assert!(complete);
    let bytes = passed().iter().zip(before).map(|(now, before)| now - before).collect();
    (messages, bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_anywhere_ends_its_session_and_nothing_else() {
    let line = line().await;
    let (mut wrong, mut tries, mut broken) = (Vec::new(), 0, 0);
    for operation in operations() {
        // Names are asked for once, and reads are vetted.
        clean(&line, &operation).await;
        let (answer, bytes) = clean(&line, &operation).await;
        for (index, (leg, direction)) in LEGS.into_iter().enumerate() {
            for fault in [Fault::Reset, Fault::Close, Fault::HalfClose] {
                let mut places = vec![1, bytes[index] / 2, bytes[index] - 1];
                if operation.name.starts_with("copy in") {
                    places.extend([1, 2, 3, 5, 6, 7].map(|eighth| bytes[index] * eighth / 8));
                }
                for after in places {
                    let mut raw = line.client().await;
                    line.pump(leg).arm(direction, after, fault);
                    raw.stream.write_all(&operation.frames).await.ok();
                    let (seen, complete) = heard(&mut raw, operation.readies).await;
                    tries += 1;
                    broken += usize::from(!complete);
                    if !is_right(&answer, &seen, complete) {
                        wrong.push(format!(
                            "{} {leg:?} {direction:?} {fault:?} after {after} of {}: {:?}",
                            operation.name,
                            bytes[index],
                            raw.shown(&seen)
                        ));
                    }
                }
            }
        }
        line.is_well().await;
    }
    // A few bytes less than measured may be enough: what the shadow serves may change meanwhile.
    assert!(broken * 10 > tries * 9, "{broken} of {tries} broke");
    assert!(wrong.is_empty(), "{} wrong answers:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_come_late_or_one_by_one_change_no_answer() {
    let line = line().await;
    for operation in operations() {
        clean(&line, &operation).await;
        let (answer, bytes) = clean(&line, &operation).await;
        for (index, (leg, direction)) in LEGS.into_iter().enumerate() {
            for fault in [Fault::Stall, Fault::Trickle] {
                let mut raw = line.client().await;
                line.pump(leg).arm(direction, bytes[index] / 2, fault);
                raw.send(&operation.frames).await;
                // Others go on meanwhile.
                if fault == Fault::Stall {
                    let mut other =
                        Raw::connect(line.live.proxy.port, "postgres", &line.live.db.name).await;
                    assert_eq!(other.query("SELECT 1").await[1], "D 1");
                    line.pump(leg).resume();
                }
                let (seen, complete) = heard(&mut raw, operation.readies).await;
                assert!(
                    complete && seen == answer,
                    "{} {leg:?} {direction:?} {fault:?}",
                    operation.name
                );
            }
        }
    }
    line.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_in_a_transaction_ends_it_with_its_mirrored_write() {
    let server = Postgres::start(&Options::default()).unwrap();
    let mut db = database_on(&server).await;
    db.client.batch_execute(&format!("{ORDERS};{ORDERS_V2}")).await.unwrap();
    let proxy = Proxy::start(&db, &orders_toml("", "")).await;
    db.client = connect(&db.conninfo).await;
    let mut live = Live { db, proxy };
    live.start("orders_v2");
    live.until_phase("orders_v2", "ready").await;
    for pending in [false, true] {
        let mut raw = live.raw().await;
        raw.run("BEGIN; UPDATE orders SET total = 0").await;
        let mut idle = live.raw().await;
        if pending {
            raw.send(&query("UPDATE orders SET note = pg_sleep(600)::text WHERE id = 1")).await;
            eventually("it runs", async || {
                let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
                let count = text(&live.db.client, sql).await;
                if count == "1" { Ok(()) } else { Err(count) }
            })
            .await;
        }
        server.stop_immediate().unwrap();
        for raw in [&mut raw, &mut idle] {
            let (seen, complete) = heard(raw, 1).await;
            assert!(!complete && is_right(&[], &seen, false), "{:?}", raw.shown(&seen));
        }
        // While there is no server, the client is told so.
        let mut refused =
            Raw::of(TcpStream::connect(("127.0.0.1", live.proxy.port)).await.unwrap());
        refused.send(&startup("postgres", &live.db.name, &[])).await;
        let (seen, _) = heard(&mut refused, 1).await;
        assert!(refused.shown(&seen).concat().contains("C08006"), "{:?}", refused.shown(&seen));
        server.start_again().unwrap();
        live.db.client = connect(&live.db.conninfo).await;
        let mut raw = live.raw().await;
        assert_eq!(raw.query("SELECT sum(total) FROM orders").await[1], "D 550");
        raw.run("UPDATE orders SET note = 'after' WHERE id = 2").await;
        live.until_phase("orders_v2", "ready").await;
        live.orders_in_step().await;
    }
    // Only this session's process is ended.
    let mut raw = live.raw().await;
    raw.run("BEGIN; UPDATE orders SET total = 0").await;
    let pid = raw.rows("SELECT pg_backend_pid()").await.concat()[0].clone().unwrap();
    text(&live.db.client, &format!("SELECT pg_terminate_backend({pid})")).await;
    let (seen, _) = heard(&mut raw, 1).await;
    assert!(raw.shown(&seen).concat().contains("C57P01"), "{:?}", raw.shown(&seen));
    assert_eq!(text(&live.db.client, "SELECT sum(total) FROM orders").await, "550");
    live.orders_in_step().await;
}

/// Enough for one session on each thread of the proxy.
const OTHERS: usize = 8;
/// What may be under way to a side that does not read: buffers of the proxy, the pumps and the
/// system.
const UNDER_WAY_MAX: u64 = 48 << 20;

/// Waits until nothing moves any more there.
async fn until_still(connection: &Connection, direction: Direction) -> u64 {
    let mut seen = Vec::new();
    eventually("nothing moves", async || {
        seen.push(connection.passed(direction));
        match seen.as_slice() {
            [.., first, _, _, _, _, _, _, _, _, last] if *last > 1 << 20 && first == last => {
                Ok(*last)
            }
            _ => Err(()),
        }
    })
    .await
}

async fn others_are_served(line: &Line) {
    for _ in 0..OTHERS {
        let mut other = Raw::connect(line.live.proxy.port, "postgres", &line.live.db.name).await;
        assert_eq!(other.query("SELECT 1").await[1], "D 1");
        other.run("UPDATE orders SET note = 'o' WHERE id = 6").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_reading_stops_its_client_and_no_other() {
    let line = line().await;
    let raw = line.client().await;
    line.far.arm(Direction::Up, 1, Fault::Stall);
    const QUERIES: usize = 100_000;
    let near = line.near.last();
    let (mut from, mut to) = raw.stream.into_split();
    let batch = query(&format!("SELECT 1 -- {}", "x".repeat(1_000))).repeat(1_000);
    let total = batch.len() as u64 * (QUERIES / 1_000) as u64;
    let writer = tokio::spawn(async move {
        for _ in 0..QUERIES / 1_000 {
            to.write_all(&batch).await.unwrap();
        }
        to
    });
    let taken = until_still(&near, Direction::Up).await;
    assert!(taken < UNDER_WAY_MAX && taken < total, "{taken} bytes are held somewhere");
    others_are_served(&line).await;
    assert!(near.passed(Direction::Up) < UNDER_WAY_MAX.min(total));
    line.far.resume();
    let mut readies = 0;
    let mut tail = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    while readies < QUERIES {
        let n = timeout(Duration::from_secs(30), from.read(&mut buffer)).await.unwrap().unwrap();
        assert!(n > 0, "closed after {readies}");
        tail.extend_from_slice(&buffer[..n]);
        let mut at = 0;
        while let Some(head) = tail.get(at..at + 5) {
            let bytes = u32::from_be_bytes(head[1..].try_into().unwrap()) as usize + 1;
            if tail.len() < at + bytes {
                break;
            }
            readies += usize::from(head[0] == b'Z');
            assert_ne!(head[0], b'E');
            at += bytes;
        }
        tail.drain(..at);
    }
    drop(writer.await.unwrap());
    drop(from);
    line.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_slows_its_own_session_only() {
    let line = line().await;
    let mut raw = line.client().await;
    let far = line.far.last();
    let rows = 200_000;
    raw.send(&query(&format!("SELECT repeat('x', 1000) FROM generate_series(1, {rows})"))).await;
    let taken = until_still(&far, Direction::Down).await;
    assert!(taken < UNDER_WAY_MAX, "{taken} bytes are held somewhere");
    others_are_served(&line).await;
    let mut seen = 0;
    while let Some(message) = raw.next().await {
        match message.tag {
            b'D' => seen += 1,
            b'Z' => break,
            tag => assert!(matches!(tag, b'T' | b'C')),
        }
    }
    assert_eq!(seen, rows);
    drop(raw);
    line.is_well().await;
}
