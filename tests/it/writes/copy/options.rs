//! Options of COPY … FROM that change what a value means, which lines are rows and what is said of them: as
//! the server has them, and the keys are still those of the rows. Options of later servers are errors before.

use super::counted::TOML;
use super::{data, every_way, extended};
use crate::live::raw::{frame, query};
use crate::live::{Live, ORDERS, ORDERS_TABLE, Pair, Table, text};

/// The first Postgres that takes it, the statement, and its data.
type Form = (i32, &'static str, &'static [u8]);

const FORMS: &[Form] = &[
    (15, "COPY orders (id, user_id) FROM STDIN (HEADER match)", b"id\tuser_id\n60\t1\n"),
    (15, "COPY orders (id, user_id) FROM STDIN (HEADER match)", b"user_id\tid\n60\t1\n"),
    (15, "COPY orders (id, user_id) FROM STDIN (HEADER match)", b"id\n60\t1\n"),
    (
        15,
        "COPY orders FROM STDIN (FORMAT csv, HEADER 'MATCH')",
        b"\"id\",user_id,total,note,\"email\"\n60,1,2,\"a\nb\",x\n61,1,2,,\n",
    ),
    (15, "COPY orders (id, user_id) FROM STDIN (HEADER)", b"60\t1\n61\t1\n"),
    (14, "COPY orders (id, user_id, note) FROM STDIN (NULL 'none')", b"60\t1\tnone\n61\t1\t\\N\n"),
    (14, "COPY orders (id, user_id, note) FROM STDIN (NULL '')", b"60\t1\t\n61\t1\tx\n"),
    (14, "COPY orders (note, user_id, id) FROM STDIN (NULL '60')", b"60\t1\t61\na\t1\t62\n"),
    (
        14,
        "COPY orders (id, user_id, note, email) FROM STDIN (FORMAT csv, NULL 'none', FORCE_NULL (note))",
        b"60,1,\"none\",\"none\"\n61,1,none,none\n",
    ),
    (
        14,
        "COPY orders (id, user_id, note) FROM STDIN (FORMAT csv, FORCE_NOT_NULL (note, id))",
        b"60,1,\n\"61\",1,\"\"\n",
    ),
    (17, "COPY orders (id, user_id, note) FROM STDIN (FORMAT csv, FORCE_NULL *)", b"60,1,\"\"\n"),
    (17, "COPY orders (id, user_id, note) FROM STDIN (FORMAT csv, FORCE_NOT_NULL *)", b"60,1,\n"),
    (
        16,
        "COPY orders (id, user_id, total, note) FROM STDIN (DEFAULT '\\D')",
        b"60\t1\t\\D\ta\n61\t1\t8\t\\D\n",
    ),
    (
        16,
        "COPY orders (total, id, user_id) FROM STDIN (FORMAT csv, DEFAULT '60')",
        b"60,61,1\n\"60\",62,1\n",
    ),
    (
        17,
        "COPY orders (id, user_id) FROM STDIN (ON_ERROR ignore)",
        b"60\t1\nsixty\t1\n61\tx\n62\t1\n99999999999\t1\n",
    ),
    (17, "COPY orders (id, user_id) FROM STDIN (ON_ERROR stop)", b"60\t1\nsixty\t1\n"),
    (
        17,
        "COPY orders (id, user_id) FROM STDIN (FORMAT csv, ON_ERROR ignore, LOG_VERBOSITY verbose)",
        b"60,1\nsixty,1\n61,x\n\"62\",1\n",
    ),
    (17, "COPY orders (id, user_id) FROM STDIN (LOG_VERBOSITY default)", b"60\t1\n"),
    (
        18,
        "COPY orders (id, user_id) FROM STDIN (ON_ERROR ignore, LOG_VERBOSITY silent, REJECT_LIMIT 2)",
        b"60\t1\nsixty\t1\n61\tx\n62\t1\n",
    ),
    (
        18,
        "COPY orders (id, user_id) FROM STDIN (ON_ERROR ignore, REJECT_LIMIT 1)",
        b"60\t1\nsixty\t1\n61\tx\n62\t1\n",
    ),
    (14, "COPY orders (id, user_id) FROM STDIN (FREEZE)", b"60\t1\n"),
    (14, "COPY orders (id, user_id) FROM STDIN FREEZE", b"60\t1\n"),
    (
        14,
        "COPY orders (id, user_id, note) FROM STDIN WHERE note LIKE 'a%' AND id % 2 = 0 OR id = 61",
        b"60\t1\tab\n61\t1\tb\n62\t1\t\\N\n63\t1\tac\n",
    ),
    (14, "COPY orders (id, user_id) FROM STDIN (FORMAT csv) WHERE total = 7", b"60,1\n61,1\n"),
    (14, "COPY orders (id, user_id) FROM STDIN WHERE 1 / (id - 61) < 9", b"60\t1\n61\t1\n"),
    (
        14,
        "COPY orders (id, user_id, note) FROM STDIN (ENCODING 'latin1')",
        b"60\t1\tgr\xf6\xdfe\n61\t1\t\\N\n",
    ),
    (
        14,
        "COPY orders (id, user_id, note) FROM STDIN CSV ENCODING 'WIN1252'",
        b"60,1,\x80\n61,1,\"\x93\n\x94\"\n",
    ),
    (14, "COPY orders (id, user_id, note) FROM STDIN (ENCODING 'utf8')", b"60\t1\tgr\xf6\xdfe\n"),
];

async fn version(live: &Live) -> i32 {
    let number: i32 = text(&live.db.client, "SHOW server_version_num").await.parse().unwrap();
    number / 10_000
}

#[tokio::test]
async fn options_of_every_version_are_followed_or_refused_as_the_server_does() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    for (since, sql, bytes) in FORMS {
        every_way(&mut pair, sql, bytes, "DELETE FROM orders WHERE id >= 60").await;
        if version(&live).await >= *since {
            assert_eq!(live.dirty().await, [], "{sql}");
        }
        pair.same();
        pair.simple("SELECT * FROM orders WHERE id >= 60 ORDER BY id").await;
        pair.simple("DELETE FROM orders WHERE id >= 60").await;
        live.orders_in_step().await;
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn frozen_rows_are_mirrored_behind_the_truncate_that_allows_them() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    let lines = data(b"60\t1\n61\t1\n", 4);
    let sql = "COPY orders (id, user_id) FROM STDIN (FREEZE)";
    for frames in [[query(sql), lines.clone()].concat(), extended(sql, &lines)] {
        for end in ["ROLLBACK", "COMMIT"] {
            pair.simple("BEGIN").await;
            pair.simple("TRUNCATE orders").await;
            pair.exchange_all(sql, &frames).await;
            pair.simple("SELECT * FROM orders ORDER BY id").await;
            pair.simple(end).await;
            live.orders_in_step().await;
        }
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

const ITEMS: Table = Table {
    migration: "items_v2",
    source: "TABLE items ORDER BY id",
    mapped: "SELECT id, note FROM items ORDER BY id",
    shadow: "SELECT id, note FROM items_v2 ORDER BY id",
};

async fn items(key: &str) -> (Live, Pair) {
    let ddl = format!(
        "CREATE TABLE items (id {key} PRIMARY KEY, note text); \
         INSERT INTO items OVERRIDING SYSTEM VALUE VALUES ('-3', 'given')"
    );
    let kind = if key.starts_with("text") { "text" } else { "bigint" };
    let shadow = format!("CREATE TABLE items_v2 (id {kind} PRIMARY KEY, note text)");
    let live = Live::ready(&format!("{ddl};{shadow}"), TOML, &["items_v2"]).await;
    let pair = Pair::new(&live, &ddl).await;
    (live, pair)
}

/// A key that the server fills in for a word in the data.
#[tokio::test]
async fn a_key_that_is_its_default_in_some_lines_is_never_missed() {
    for key in [
        "text DEFAULT 'made up'",
        "int DEFAULT 77",
        "serial",
        "int GENERATED BY DEFAULT AS IDENTITY",
        "int GENERATED ALWAYS AS IDENTITY",
    ] {
        let (live, mut pair) = items(key).await;
        let lines: [(&str, &[u8]); 4] = [
            ("COPY items (id, note) FROM STDIN (DEFAULT '\\D')", b"\\D\ta\n60\tb\n"),
            ("COPY items (id, note) FROM STDIN (DEFAULT '\\D')", b"60\tb\n61\t\\D\n"),
            ("COPY items (note, id) FROM STDIN (FORMAT csv, DEFAULT 'd')", b"\"d\",d\nd,60\n"),
            ("COPY items FROM STDIN (DEFAULT '60')", b"60\ta\n61\tb\n"),
        ];
        for (sql, bytes) in lines {
            let what = format!("{key}: {sql}");
            let bytes = data(bytes, 3);
            for frames in [[query(sql), bytes.clone()].concat(), extended(sql, &bytes)] {
                for (begin, end) in [("BEGIN", "ROLLBACK"), ("BEGIN", "COMMIT"), ("SELECT 1", "")] {
                    pair.simple(begin).await;
                    pair.exchange_all(&what, &frames).await;
                    pair.simple("SELECT * FROM items ORDER BY id").await;
                    if !end.is_empty() {
                        pair.simple(end).await;
                    }
                    live.until_clean("items_v2").await;
                    pair.simple("DELETE FROM items WHERE note <> 'given'").await;
                }
                pair.exchange_all(&what, &frames).await;
                pair.simple("UPDATE items SET note = note || '!' WHERE note <> 'given'").await;
                pair.simple("DELETE FROM items WHERE note <> 'given'").await;
            }
            // The rows of the last one stay, for what is compared in the end.
            pair.exchange_all(&what, &[query(sql), bytes].concat()).await;
        }
        pair.finish(&live, &[ITEMS]).await;
    }
}

#[tokio::test]
async fn a_key_that_is_given_into_an_identity_is_read_along() {
    let (live, mut pair) = items("int GENERATED ALWAYS AS IDENTITY").await;
    for (sql, lines) in [
        ("COPY items FROM STDIN", "60\ta\n61\tb\n"),
        ("COPY items (note, id) FROM STDIN CSV HEADER", "note,id\na,62\n"),
        ("COPY items (id) FROM STDIN", "63\n\\.\n"),
        ("COPY items FROM STDIN", "60\tagain\n"),
        ("COPY items (note) FROM STDIN", "counted\n"),
    ] {
        let bytes = data(lines.as_bytes(), 5);
        for frames in [[query(sql), bytes.clone()].concat(), extended(sql, &bytes)] {
            pair.simple("BEGIN").await;
            pair.exchange_all(sql, &frames).await;
            pair.simple("ROLLBACK").await;
            pair.exchange_all(sql, &frames).await;
            pair.simple("DELETE FROM items WHERE note IS NULL").await;
        }
    }
    assert_eq!(live.dirty().await, []);
    pair.finish(&live, &[ITEMS]).await;
}

#[tokio::test]
async fn a_key_that_is_null_is_the_servers_error() {
    let binary = [
        b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".as_slice(),
        b"\0\x02\xff\xff\xff\xff\0\0\0\x01b\xff\xff",
    ];
    let binary = binary.concat();
    for key in ["int", "serial", "int GENERATED ALWAYS AS IDENTITY", "text DEFAULT 'made up'"] {
        let (live, mut pair) = items(key).await;
        let forms: [(&str, &[u8]); 6] = [
            ("COPY items FROM STDIN", b"60\ta\n\\N\tb\n"),
            ("COPY items FROM STDIN (NULL '60')", b"61\ta\n60\tb\n"),
            ("COPY items (note, id) FROM STDIN CSV", b"a,60\nb,\n"),
            ("COPY items (note, id) FROM STDIN (FORMAT csv, FORCE_NULL (id))", b"a,\"\"\n"),
            ("COPY items FROM STDIN (FORMAT csv, FORCE_NOT_NULL (id), NULL '60')", b"60,b\n"),
            ("COPY items FROM STDIN BINARY", &binary),
        ];
        for (sql, bytes) in forms {
            let what = format!("{key}: {sql}");
            let bytes = data(bytes, 4);
            for frames in [[query(sql), bytes.clone()].concat(), extended(sql, &bytes)] {
                pair.exchange_all(&what, &frames).await;
                pair.simple("BEGIN").await;
                pair.exchange_all(&what, &frames).await;
                pair.simple("ROLLBACK").await;
                pair.simple("DELETE FROM items WHERE note <> 'given'").await;
            }
        }
        let alone = [query("COPY items (id) FROM STDIN"), frame(b'd', b"\\N\n"), frame(b'c', b"")];
        pair.exchange(key, &alone.concat(), 1).await;
        assert_eq!(live.dirty().await, [], "{key}");
        pair.finish(&live, &[ITEMS]).await;
    }
}
