//! What the recorded clients say: a list of batches, each sent at once; the client waits for its
//! answers before the next.

use super::super::tests::{frame, frames, prepare};

type Batches = fn() -> Vec<Vec<u8>>;

/// Every recording, by name.
pub(super) const ALL: [(&str, Batches); 7] = [
    ("simple", simple),
    ("extended", extended),
    ("pipelined", pipelined),
    ("mirrored", mirrored),
    ("copy", copy),
    ("errors", errors),
    ("transactions", transactions),
];

/// Before each of them.
pub(super) const DDL: &str = "
    DROP SCHEMA IF EXISTS pgsegue CASCADE; DROP TABLE IF EXISTS orders, orders_v2, other;
    CREATE TABLE orders (id int PRIMARY KEY, user_id int, total int, note text);
    CREATE TABLE orders_v2 (id int8 PRIMARY KEY, user_id int, total int, note text);
    CREATE TABLE other (id int PRIMARY KEY, note text);
    INSERT INTO orders SELECT i, i % 3, 10 * i, 'note ' || i FROM generate_series(1, 5) AS i;
    INSERT INTO other SELECT i, 'other ' || i FROM generate_series(1, 5) AS i;
    CREATE SCHEMA pgsegue;
    CREATE FUNCTION pgsegue.sync_m(int[], int) RETURNS int LANGUAGE sql AS 'SELECT 0';
    CREATE FUNCTION pgsegue.mark_m(text) RETURNS void LANGUAGE sql AS 'SELECT'";

fn query(sql: &str) -> Vec<u8> {
    frame(b'Q', &[sql.as_bytes(), b"\0"].concat())
}

/// Bind of the statement `s` with this value.
fn bind(value: &str) -> Vec<u8> {
    let length = u32::try_from(value.len()).unwrap().to_be_bytes();
    let body = [&b"\0s\0\0\0\0\x01"[..], &length, value.as_bytes(), b"\0\0"].concat();
    frame(b'B', &body)
}

const SYNC: (u8, &[u8]) = (b'S', b"");
const EXECUTE: (u8, &[u8]) = (b'E', b"\0\0\0\0\0");
const DESCRIBE: (u8, &[u8]) = (b'D', b"Ss\0");
const CLOSE: (u8, &[u8]) = (b'C', b"Ss\0");

/// Parse of `s`, Describe, Bind, Execute, Close, Sync.
fn once(sql: &str, value: &str) -> Vec<u8> {
    let (describe, rest) = (frames(&[DESCRIBE]), frames(&[EXECUTE, CLOSE, SYNC]));
    [prepare(sql), describe, bind(value), rest].concat()
}

fn simple() -> Vec<Vec<u8>> {
    [
        "SELECT 1",
        "SELECT id, note FROM other ORDER BY id",
        "",
        "SELECT 1; SELECT 2; INSERT INTO other VALUES (9, 'x')",
        "DO $$ BEGIN RAISE NOTICE 'noted'; END $$",
        "SET TimeZone = 'UTC'",
        "LISTEN a; NOTIFY a, 'b'",
        "SELECT repeat('x', 10000)",
        "SELECT * FROM orders ORDER BY id",
    ]
    .map(query)
    .into()
}

fn extended() -> Vec<Vec<u8>> {
    vec![
        once("SELECT id, note FROM other WHERE id >= $1 ORDER BY id", "2"),
        once("SELECT id, note FROM orders WHERE id = $1", "3"),
        [prepare("SELECT note FROM other WHERE id > $1"), frames(&[DESCRIBE, SYNC])].concat(),
        // Two rows at a time.
        [bind("0"), frames(&[(b'E', b"\0\0\0\0\x02"), (b'E', b"\0\0\0\0\x02"), EXECUTE, SYNC])]
            .concat(),
        frames(&[(b'D', b"P\0"), SYNC]),
        frames(&[CLOSE, SYNC]),
    ]
}

fn pipelined() -> Vec<Vec<u8>> {
    let many: Vec<u8> =
        (1..6).flat_map(|n| [bind(&n.to_string()), frames(&[EXECUTE, SYNC])].concat()).collect();
    vec![
        [prepare("UPDATE orders SET total = 0 WHERE id = $1"), frames(&[SYNC]), many].concat(),
        [frames(&[CLOSE, SYNC]), once("DELETE FROM orders WHERE id = $1", "1")].concat(),
        [query("SELECT 1"), query("UPDATE orders SET note = 'n'"), query("SELECT 2")].concat(),
        [once("INSERT INTO orders VALUES ($1, 1, 1)", "8"), once("SELECT $1::int", "1")].concat(),
    ]
}

fn mirrored() -> Vec<Vec<u8>> {
    vec![
        query("UPDATE orders SET total = 1 WHERE id = 1"),
        query("UPDATE orders SET total = total + 1 RETURNING id, total"),
        query("UPDATE orders SET id = 50 WHERE id = 5 RETURNING *"),
        query("INSERT INTO orders VALUES (6, 1, 1, 'é'); DELETE FROM orders WHERE id = 6"),
        once("UPDATE public.orders SET note = 'b' WHERE id = $1 RETURNING note", "2"),
        once("DELETE FROM orders WHERE id < $1", "2"),
        query("TRUNCATE orders"),
        once("WITH w AS (DELETE FROM orders RETURNING id) SELECT $1::int FROM w", "2"),
    ]
}

fn copy() -> Vec<Vec<u8>> {
    let begin =
        |sql: &str| [prepare(sql), frames(&[(b'B', b"\0s\0\0\0\0\0\0\0"), EXECUTE])].concat();
    vec![
        [query("COPY other FROM STDIN"), frames(&[(b'd', b"11\ta\n12\tb\n"), (b'd', b"13\tc\n")])]
            .concat(),
        frames(&[(b'c', b"")]),
        query("COPY other TO STDOUT"),
        [query("COPY other FROM STDIN"), frames(&[(b'd', b"x\n"), (b'c', b"")])].concat(),
        [query("COPY other FROM STDIN"), frames(&[(b'f', b"no\0")])].concat(),
        [begin("COPY other FROM STDIN"), frames(&[(b'd', b"14\td\n"), (b'c', b""), CLOSE, SYNC])]
            .concat(),
        query("COPY orders FROM STDIN"),
        frames(&[(b'd', b"30\t1\t1\tx\n"), (b'c', b"")]),
        query("SELECT count(*) FROM orders"),
    ]
}

fn errors() -> Vec<Vec<u8>> {
    vec![
        query("SELECT nowhere FROM orders"),
        query("UPDATE orders SET nowhere = 1"),
        query("UPDATE orders SET total = 1; SELECT 1/0; DELETE FROM orders"),
        once("UPDATE orders SET total = $1 / 0", "1"),
        once("UPDATE orders SET total = $1", "one"),
        [once("SELECT 1 / $1", "0"), once("DELETE FROM orders WHERE id = $1", "3")].concat(),
        [prepare("SELECT 1"), prepare("DELETE FROM orders"), bind("1"), frames(&[SYNC])].concat(),
        frames(&[(b'E', b"nowhere\0\0\0\0\0"), SYNC, (b'B', b""), SYNC, CLOSE, SYNC]),
        query("ALTER TABLE orders ADD x int"),
        query("SELECT 1"),
    ]
}

fn transactions() -> Vec<Vec<u8>> {
    vec![
        query("BEGIN"),
        query("UPDATE orders SET total = 3 WHERE id = 3"),
        once("UPDATE orders SET total = 4 WHERE id = $1", "4"),
        query("SAVEPOINT a"),
        query("INSERT INTO orders VALUES (1)"),
        query("DELETE FROM orders"),
        query("ROLLBACK TO a"),
        query("COMMIT"),
        [query("BEGIN"), query("DELETE FROM orders WHERE id = 1"), query("ROLLBACK")].concat(),
        query("BEGIN; SET LOCAL search_path = pg_catalog; SELECT 1; COMMIT"),
        once("SELECT count(*) FROM orders WHERE id > $1", "0"),
    ]
}
