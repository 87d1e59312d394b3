//! Sessions whose texts the proxy cannot read, and marks where nothing can be written: the client
//! sees what it would see without the proxy. Found with Postgres's own regression suite.

use crate::live::raw::{bind, execute, frame, one, parse, query, sync};
use crate::live::{Live, ORDERS, ORDERS_TABLE, ORDERS_V2, Pair, orders_toml, outcome, text};

#[tokio::test]
async fn a_text_that_cannot_be_read_and_names_no_migrated_table_passes_unmarked() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    for (on, off) in [
        ("SET standard_conforming_strings = off", "SET standard_conforming_strings = on"),
        ("SET client_encoding = LATIN1", "SET client_encoding = UTF8"),
    ] {
        pair.simple(on).await;
        for sql in [
            "BEGIN ISOLATION LEVEL SERIALIZABLE",
            "SELECT 1 / 0",
            "ROLLBACK",
            "CREATE INDEX CONCURRENTLY ON other (note)",
            "BEGIN",
            "SAVEPOINT a",
            "CREATE TABLE more (a text)",
            "DO 'BEGIN NULL; END'",
            "COMMIT",
            "SELECT 1; SELECT 2",
            "BEGIN READ ONLY; SELECT 1; DROP TABLE more; SELECT 2",
            "ROLLBACK",
            "SET search_path = pg_catalog",
            "RESET search_path",
            "DROP TABLE more",
        ] {
            // Neither ASCII nor UTF-8.
            let sql = [sql.as_bytes(), b" -- \xe9\0"].concat();
            let mut frame = vec![b'Q'];
            frame.extend(u32::try_from(sql.len() + 4).unwrap().to_be_bytes());
            frame.extend(&sql);
            pair.exchange(&String::from_utf8_lossy(&sql), &frame, 1).await;
            if !on.contains("LATIN1") {
                // The server refuses that as UTF-8; what it takes has no such letter.
                let sql = String::from_utf8_lossy(&sql[..sql.len() - 6]).into_owned();
                pair.simple(&sql).await;
            }
        }
        assert_eq!(live.dirty().await, [], "{on}");
        pair.simple("UPDATE orders SET total = 3 WHERE id = 3").await;
        pair.simple(off).await;
        pair.extended("UPDATE orders SET total = 5 WHERE id = 4", &[], 0).await;
        live.until_clean("orders_v2").await;
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn a_text_that_cannot_be_read_and_names_the_table_is_marked() {
    let live = Live::orders("", "").await;
    let client = live.client().await;
    client.batch_execute("SET standard_conforming_strings = off").await.unwrap();
    client.batch_execute("VACUUM orders").await.unwrap();
    assert_eq!(live.dirty().await, []);
    let begin = "BEGIN ISOLATION LEVEL SERIALIZABLE; UPDATE orders SET total = 4";
    client.batch_execute(begin).await.unwrap();
    let seen = "SELECT count(*) FROM pgsegue.dirty_keys WHERE key IS NULL";
    assert_ne!(text(&client, seen).await, "0");
    assert!(live.statements("recorded", "write") > 0.5);
    client.batch_execute("COMMIT").await.unwrap();
    live.orders_in_step().await;
}

#[tokio::test]
async fn a_table_whose_name_is_not_ascii_is_known_in_every_client_encoding() {
    let rename = |sql: &str| sql.replace("orders", "größe");
    let toml = orders_toml("", "").replace("public.orders", "public.größe");
    let ddl = format!("{};{}", ORDERS, crate::live::ORDERS_V2);
    let live = Live::ready(&rename(&ddl), &toml, &["orders_v2"]).await;
    let mut raw = live.raw().await;
    raw.query("SET client_encoding = LATIN1").await;
    let sql: Vec<u8> = "UPDATE größe SET total = 4".chars().map(|c| c as u8).collect();
    let mut frame = vec![b'Q'];
    frame.extend(u32::try_from(sql.len() + 5).unwrap().to_be_bytes());
    frame.extend(&sql);
    frame.push(0);
    let said = raw.exchange(&frame, 1).await;
    assert!(said.iter().any(|m| m.contains("UPDATE 10")), "{said:?}");
    live.until_clean("orders_v2").await;
    let minor = text(&live.db.client, "SELECT DISTINCT total_minor FROM größe_v2").await;
    assert_eq!(minor, "400");
}

#[tokio::test]
async fn a_statement_that_would_be_marked_says_in_a_read_only_transaction_what_the_server_says() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    pair.simple("PREPARE w AS UPDATE orders SET total = 0").await;
    for sql in ["EXECUTE w", "TRUNCATE orders", "DO $$ BEGIN UPDATE orders SET total = 4; END $$"] {
        pair.simple("BEGIN READ ONLY").await;
        pair.simple(sql).await;
        pair.simple("ROLLBACK").await;
        pair.simple("BEGIN READ ONLY").await;
        pair.extended(sql, &[], 0).await;
        pair.simple("ROLLBACK").await;
        pair.simple("SET default_transaction_read_only = on").await;
        pair.simple(sql).await;
        pair.extended(sql, &[], 0).await;
        pair.simple("BEGIN READ WRITE").await;
        pair.simple(sql).await;
        pair.simple("COMMIT").await;
        pair.simple("SET default_transaction_read_only = off").await;
        live.orders_in_step().await;
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn a_function_body_that_names_no_migrated_table_hides_no_write() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    for sql in [
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT 2; END",
        "PREPARE one AS SELECT 1",
        "EXECUTE one",
    ] {
        pair.exchange(sql, &query(sql), 1).await;
    }
    assert_eq!(live.dirty().await, []);
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

/// A text that cannot be read and gives no name to a statement leaves those that are prepared as they are.
#[tokio::test]
async fn prepared_writes_go_on_behind_a_text_that_cannot_be_read() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    let texts = [
        ("w", "UPDATE orders SET total = total + 1 WHERE id > $1"),
        ("r", "DELETE FROM orders WHERE id = $1 RETURNING id, total"),
        ("k", "UPDATE orders SET id = id + 100 WHERE id = $1"),
    ];
    for (name, sql) in texts {
        pair.exchange(sql, &[parse(name, sql, &[23]), sync()].concat(), 1).await;
    }
    let bound = |name: &str, value: &'static str| {
        [bind("", name, 0, &[Some(value.as_bytes())], 1), execute("", 1), execute("", 0), sync()]
            .concat()
    };
    pair.simple("SET client_encoding = LATIN1").await;
    for (n, sql) in [
        &b"INSERT INTO orders (id, user_id, note) VALUES (70, 1, '\xe9')"[..],
        b"UPDATE orders SET note = '\xe9\xe8' WHERE id = 2",
        b"PREPARE p AS UPDATE orders SET note = '\xe9' WHERE id = 3",
        b"EXECUTE p -- \xe9",
    ]
    .into_iter()
    .enumerate()
    {
        let unread = frame(b'Q', &[sql, b"\0"].concat());
        pair.exchange(&format!("unread {n}"), &unread, 1).await;
        let value = ["1", "2", "3", "4"][n];
        if n < 2 {
            for (name, sql) in texts {
                pair.exchange(sql, &bound(name, value), 1).await;
            }
        }
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

const OTHERS: &str =
    "CREATE TABLE ec (id int PRIMARY KEY, note text); INSERT INTO ec VALUES (1, 'a');
    CREATE TABLE ec_v2 (id bigint PRIMARY KEY, note text)";

const OTHERS_TOML: &str = r#"
[[migration]]
name = "ec_v2"
source = "public.ec"
shadow = "public.ec_v2"
key = ["id"]
unclassified = "refuse"
[migration.columns]
id = "id"
note = "note"
"#;

/// A text that is too long to be read concerns the tables that it spells, each as a word: `ec` is in SELECT.
#[tokio::test]
async fn a_long_text_concerns_the_tables_that_it_spells_alone() {
    let ddl = format!("{ORDERS};{ORDERS_V2};{OTHERS}");
    let toml = format!("{}{OTHERS_TOML}", orders_toml("", ""));
    let live = Live::ready(&ddl, &toml, &["orders_v2", "ec_v2"]).await;
    let client = live.client().await;
    let long = "x".repeat(1_100_000);
    let marked = async || {
        let sql =
            "SELECT count(*) FROM pgsegue.events WHERE migration = 'ec_v2' AND what = 'divergence'";
        (live.statements("recorded", "write"), text(&client, sql).await)
    };
    let before = marked().await;
    for sql in [
        format!("UPDATE orders SET note = '{long}' WHERE id = 1"),
        format!("INSERT INTO orders (id, user_id, note) VALUES (70, 1, '{long}')"),
        format!("SELECT '{long}' AS preorders_ec"),
    ] {
        outcome(&client, &sql).await.unwrap();
        let mut raw = live.raw().await;
        let frames = [parse("", &sql.replace("70", "71"), &[]), bind("", "", 0, &[], 0)].concat();
        let said = raw.exchange(&[frames, execute("", 0), sync()].concat(), 1).await;
        assert!(!said.iter().any(|line| line.starts_with("E ")), "{said:?}");
    }
    let after = marked().await;
    assert!(after.0 > before.0 + 1.5 && after.1 == before.1, "{before:?} {after:?}");
    for sql in [
        format!("UPDATE ec SET note = '{long}' WHERE id = 1"),
        format!("UPDATE public.\"ec\" SET note = '{long}' WHERE id = 1"),
        format!(
            "DO $$ BEGIN EXECUTE 'UPDATE e' || 'c SET note = 1'; PERFORM '{long}', 'orders'; END $$"
        ),
        format!("UPDATE orders SET note = '{long}' WHERE id = 1; SELECT 1"),
    ] {
        let refused = outcome(&client, &sql).await.unwrap_err();
        assert!(refused.starts_with("0A000"), "{refused}");
        assert!(refused.contains("public.ec"), "{refused}");
    }
    live.until_clean("orders_v2").await;
}

/// What the server says of its settings comes when it is ready: by then it has read more.
#[tokio::test]
async fn a_text_behind_a_setting_that_is_not_answered_yet_is_read_as_the_server_will_read_it() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    let off = "SET standard_conforming_strings = off";
    let texts = "SELECT 'a\\' || '; UPDATE orders SET total = 5 WHERE id = 1; SELECT 1 --'";
    let alone = "SELECT 'a\\' || ', total), note = $$x$$ FROM orders --'";
    let writes = "WITH w AS (SELECT 'a\\' || '), u AS (UPDATE orders SET total = total + 5 \
                  WHERE id = 1 RETURNING 1) SELECT * FROM u --'";
    for sql in [texts, alone, writes] {
        for (packet, readies) in [
            ([query(off), query(sql)].concat(), 2),
            ([one(off), sync(), one(sql), sync()].concat(), 2),
            ([one(off), one(sql), sync()].concat(), 1),
            ([one(off), sync(), query(sql)].concat(), 2),
        ] {
            pair.exchange(sql, &packet, readies).await;
            pair.simple("RESET standard_conforming_strings").await;
            live.orders_in_step().await;
        }
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}
