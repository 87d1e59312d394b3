//! COPY … FROM STDIN into a migrated table: its keys are read along, and the shadow follows in its
//! own transaction.

mod counted;
mod drivers;
mod ends;
mod keys;
mod options;
mod unsure;

use crate::live::raw::{bind, describe, execute, frame, parse, query, sync};
use crate::live::{Live, ORDERS, ORDERS_TABLE, Pair, Table, text};
use crate::support::rows;

/// A table whose key is of several types, and its shadow.
const PARTS: &str = "
    CREATE TABLE parts (
        doc text, id uuid, name varchar(8), n numeric(6, 2), at timestamptz, v int,
        twice int GENERATED ALWAYS AS (v * 2) STORED, PRIMARY KEY (id, name, n, at)
    );
    INSERT INTO parts VALUES ('d', gen_random_uuid(), 'x', 1.5, '2020-01-01 00:00 UTC', 1)";

const PARTS_V2: &str = "
    CREATE TABLE parts_v2 (
        id uuid, name varchar(8), n numeric(6, 2), at timestamptz, doc text, v bigint,
        PRIMARY KEY (id, name, n, at)
    )";

const PARTS_TOML: &str = r#"
[[migration]]
name = "parts_v2"
source = "public.parts"
shadow = "public.parts_v2"
key = ["id", "name", "n", "at"]
[migration.columns]
id = "id"
name = "name"
n = "n"
at = "at"
doc = "doc"
v = "v::bigint"
"#;

const PARTS_TABLE: Table = Table {
    migration: "parts_v2",
    source: "SELECT id, name, n, at, doc, v FROM parts WHERE doc IS DISTINCT FROM 'd' ORDER BY 1, 2, 3, 4",
    mapped: "SELECT id, name, n, at, doc, v::bigint FROM parts ORDER BY 1, 2, 3, 4",
    shadow: "SELECT id, name, n, at, doc, v FROM parts_v2 ORDER BY 1, 2, 3, 4",
};

/// The frames of a COPY's data, in pieces of that many bytes.
pub(super) fn data(bytes: &[u8], piece: usize) -> Vec<u8> {
    let pieces = bytes.chunks(piece.max(1)).map(|piece| frame(b'd', piece));
    [pieces.collect::<Vec<_>>().concat(), frame(b'c', b"")].concat()
}

/// A COPY by the extended protocol, as libpq sends it: a Sync before the data, which the server
/// ignores, and one behind them.
fn extended(sql: &str, data: &[u8]) -> Vec<u8> {
    let asked =
        [parse("", sql, &[]), bind("", "", 0, &[], 0), describe(b'P', ""), execute("", 0), sync()];
    [asked.concat(), data.to_vec(), sync()].concat()
}

/// The same COPY by every protocol, alone, in blocks, and undone; each time into no rows of these. A COPY that
/// fails before its data are read has both Syncs answered, and else one of them.
async fn every_way(pair: &mut Pair, sql: &str, bytes: &[u8], undo: &str) {
    for piece in [1, 7, 1000] {
        let data = data(bytes, piece);
        let simple = [query(sql), data.clone()].concat();
        let extended = extended(sql, &data);
        for (frames, protocol) in [(&simple, "simple"), (&extended, "extended")] {
            let what = format!("{protocol}, {piece}: {sql}");
            pair.exchange_all(&what, frames).await;
            pair.simple(undo).await;
            for begin in ["BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM other"] {
                pair.simple(begin).await;
                pair.simple("SAVEPOINT a").await;
                pair.exchange_all(&what, frames).await;
                pair.simple("SELECT count(*) FROM orders").await;
                pair.simple("ROLLBACK TO a").await;
                pair.exchange_all(&what, frames).await;
                pair.simple("COMMIT").await;
                pair.simple(undo).await;
            }
            pair.simple("BEGIN").await;
            pair.exchange_all(&what, frames).await;
            pair.simple("ROLLBACK").await;
        }
    }
    let simple = [query(sql), data(bytes, 5)].concat();
    pair.exchange(sql, &simple, 1).await;
}

const FORMS: &[(&str, &str)] = &[
    ("COPY orders FROM STDIN", "60\t1\t1\tcopied\tx60\n61\t1\t1\t\\N\t\\N\n6\\62\t1\t1\t\\.x\tz\n"),
    ("COPY orders FROM STDIN", "60\t1\t1\tno end\tx60\n61\t1\t1\tof line\t\\N"),
    ("COPY orders FROM STDIN", "60\t1\t1\ta\\\nb\tx60\n\\x36\\061\t1\t1\t\t\\N\n\\.\nrest"),
    ("COPY orders FROM STDIN", "60\t1\t1\ta\tx60\r\n61\t1\t1\t\t\\N\r\n"),
    ("COPY orders FROM STDIN;", ""),
    ("copy \"orders\" (total, id, user_id) from stdin", "1\t60\t2\n3\t 61 \t4\n"),
    ("COPY public.orders (user_id, id) FROM STDIN WITH DELIMITER '|' NULL 'x'", "1|60\n2|061\n"),
    ("COPY orders (user_id, id) FROM STDIN USING DELIMITERS '|'", "1|60\n2|61\n"),
    (
        "COPY orders (id, user_id, note) FROM STDIN CSV",
        "60,1,\"a\nb\"\n61,1,\"q\"\"q\"\n\"62\",1,\n",
    ),
    (
        "COPY orders (note, id, user_id) FROM STDIN CSV HEADER",
        "note,\"i\nd\",x\n\"a,b\",60,1\n,\"61\",1\n",
    ),
    (
        "COPY orders (note, id, user_id) FROM STDIN (FORMAT csv, HEADER true, DELIMITER ';', NULL 'n', \
         QUOTE '''', ESCAPE E'\\\\', FORCE_NOT_NULL (note), ENCODING 'utf8')",
        "x\n'a\\'b;';60;1\r\n",
    ),
    (
        "COPY orders (note, id, user_id) FROM STDIN (FORMAT csv, HEADER, QUOTE '''', FORCE_NULL (note, id))",
        "x\n'a,b',60,1\n'','61',1\n",
    ),
    ("COPY orders (id, user_id) FROM STDIN (FORMAT csv) WHERE id > 60", "60,1\n61,2\n62,3\n"),
    ("COPY orders (id, user_id) FROM STDIN WITH CSV WHERE (id <> 61)", "60,1\n61,2\n62,3\n"),
    ("COPY orders (id, user_id) FROM STDIN (FREEZE off, FORMAT 'csv')", "60,1\n61,2\n"),
    ("/* a */ COPY orders (id, user_id) /* b */ FROM STDIN -- c", "60\t1\n61\t2\n"),
];

#[tokio::test]
async fn rows_copied_in_are_mirrored_in_every_format_by_every_protocol() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    let before = live.statements("recorded", "write");
    for (sql, bytes) in FORMS {
        every_way(&mut pair, sql, bytes.as_bytes(), "DELETE FROM orders WHERE id >= 60").await;
        assert_eq!(live.dirty().await, [], "{sql}");
        pair.same();
        pair.simple("DELETE FROM orders WHERE id >= 60").await;
    }
    assert!((live.statements("recorded", "write") - before).abs() < 0.5);
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn keys_of_several_columns_and_any_type_are_mirrored_as_text_and_binary() {
    let ddl = format!("{ORDERS};{PARTS};{PARTS_V2}");
    let live = Live::ready(&ddl, PARTS_TOML, &["parts_v2"]).await;
    let mut pair = Pair::new(&live, &format!("{ORDERS};{PARTS}")).await;
    let undo = "DELETE FROM parts WHERE doc IS DISTINCT FROM 'd'";
    let uuid = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1";
    let line = |n: u32, name: &str, number: &str, at: &str| {
        format!("doc\t{uuid}{n}\t{name}\t{number}\t{at}\t{n}\n")
    };
    let lines = [
        line(1, "a\"b", "1.005", "2020-01-01 00:00 UTC"),
        line(2, "", "1.00", "now"),
        line(3, "{é,\\\\}", "-0.1", "Jan 1 2020 12:00 Europe/Berlin"),
        line(4, "NULL", "1e2", "infinity"),
        line(5, "\\t\\n", "1", "2020-01-01 00:00+02"),
    ];
    for (sql, bytes) in [
        ("COPY parts FROM STDIN", lines.concat()),
        (
            "COPY parts (n, at, id, name) FROM STDIN CSV",
            format!("1.5,2020-01-01,{uuid}1,\"a\"\"b,\"\n"),
        ),
    ] {
        for style in ["ISO, DMY", "German"] {
            pair.simple(&format!("SET datestyle = '{style}'")).await;
            every_way(&mut pair, sql, bytes.as_bytes(), undo).await;
            assert_eq!(live.dirty().await, [], "{sql}");
            if style == "German" {
                pair.simple("TABLE parts EXCEPT TABLE parts").await;
            }
            pair.simple(undo).await;
        }
    }
    // A value that the column's type rounds, and every value in binary.
    let kept = "CREATE TABLE kept AS SELECT doc, id, name, n, at, v FROM parts";
    pair.exchange(
        "COPY",
        &[query("COPY parts FROM STDIN"), data(lines.concat().as_bytes(), 9)].concat(),
        1,
    )
    .await;
    pair.simple("UPDATE parts SET at = '2021-02-03 04:05:06.789012' WHERE at = now()").await;
    pair.simple("DELETE FROM parts WHERE at > '2022-01-01' AND at < 'infinity'").await;
    pair.simple(kept).await;
    pair.simple("DELETE FROM parts").await;
    let mut raw = live.raw().await;
    raw.send(&query("COPY kept TO STDOUT BINARY")).await;
    let said = raw.until_ready(1).await;
    let bytes: Vec<u8> =
        said.iter().filter(|m| m.tag == b'd').flat_map(|m| m.body.clone()).collect();
    for sql in [
        "COPY parts FROM STDIN BINARY",
        "COPY BINARY parts FROM STDIN",
        "COPY parts FROM STDIN (FORMAT binary)",
    ] {
        pair.simple("DELETE FROM parts").await;
        every_way(&mut pair, sql, &bytes, "DELETE FROM parts").await;
    }
    assert_eq!(live.dirty().await, []);
    assert_eq!(rows(&live.db.client, "SELECT count(*) FROM parts_v2").await.concat().len(), 1);
    pair.finish(&live, &[PARTS_TABLE]).await;
}

#[tokio::test]
async fn a_copy_into_a_partitioned_table_is_mirrored() {
    let ddl = "
        CREATE TABLE measures (id int, day date, v int, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
        CREATE TABLE measures_1 PARTITION OF measures FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
        CREATE TABLE measures_2 PARTITION OF measures FOR VALUES FROM ('2021-01-01') TO ('2022-01-01');
        CREATE TABLE measures_v2 (id bigint, day date, v int, PRIMARY KEY (id, day))";
    let toml = r#"
[[migration]]
name = "measures_v2"
source = "public.measures"
shadow = "public.measures_v2"
key = ["id", "day"]
[migration.columns]
id = "id"
day = "day"
v = "v"
"#;
    let live = Live::ready(ddl, toml, &["measures_v2"]).await;
    let mut raw = live.raw().await;
    let lines = "1\t2020-05-05\t1\n2\t2021-05-05\t2\n3\t2020-12-31\t3\n";
    let sql = "COPY measures FROM STDIN";
    let said = raw.exchange(&[query(sql), data(lines.as_bytes(), 4)].concat(), 1).await;
    assert_eq!(said[1..], ["C COPY 3", "Z I"]);
    assert_eq!(live.dirty().await, []);
    let sql = "COPY measures_2 (v, day, id) FROM STDIN";
    let part = [query(sql), data(b"4\t2021-06-06\t4\n", 4)].concat();
    assert_eq!(raw.exchange(&part, 1).await[1..], ["C COPY 1", "Z I"]);
    assert_eq!(live.dirty().await, []);
    let stored = "SELECT id, day, v FROM measures ORDER BY 1";
    let shadow = "SELECT id, day, v FROM measures_v2 ORDER BY 1";
    assert_eq!(rows(&live.db.client, shadow).await, rows(&live.db.client, stored).await);
}

#[tokio::test]
async fn many_rows_are_mirrored_in_batches() {
    let live = Live::orders("", "").await;
    let mut raw = live.raw().await;
    let lines: String = (1000..41_000).map(|id| format!("{id}\t1\t2\tnote {id}\t\\N\n")).collect();
    let sql = "COPY orders FROM STDIN";
    let said = raw.exchange(&[query(sql), data(lines.as_bytes(), 8192)].concat(), 1).await;
    assert_eq!(said[1..], ["C COPY 40000", "Z I"]);
    assert_eq!(live.dirty().await, []);
    assert_eq!(text(&live.db.client, "SELECT count(*) FROM orders_v2").await, "40010");
    live.orders_in_step().await;
}
