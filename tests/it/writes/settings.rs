//! Statements that the server has read under one setting and that run under another: what they say
//! stays what it was, in every form that they are sent in.

use crate::live::raw::{bind, close, describe, execute, frame, parse, sync};
use crate::live::{Live, ORDERS, ORDERS_TABLE, ORDERS_V2, Pair, orders_toml};

const ELSEWHERE: &str = "CREATE SCHEMA elsewhere; \
    CREATE TABLE elsewhere.orders (LIKE orders INCLUDING ALL); \
    INSERT INTO elsewhere.orders VALUES (1, 1, 1, 'elsewhere')";

/// What changes how a text is read, and what makes other forms of it needed.
const CHANGES: &[&str] = &[
    "SET standard_conforming_strings = off",
    "SET escape_string_warning = off",
    "SET search_path = elsewhere, public",
    "SET standard_conforming_strings = on",
    "SET client_encoding = LATIN1",
    "RESET search_path",
    "SET standard_conforming_strings = off",
    "SET search_path = elsewhere, public",
    "RESET client_encoding",
    "SET backslash_quote = off",
    "RESET search_path",
    "SET standard_conforming_strings = on",
    "RESET ALL",
];

const UPDATE: &str = r#"UPDATE orders /* é */ SET note = 'a\b''é\' || U&'\0041!0042' || U&'!0043' UESCAPE '!'
    || E'it\'s \\ é' || N'\' || $é$'\é$é$ || 'con' -- é
    'tinued\' || $1, total = total + 1 WHERE id = 1 RETURNING note AS "né\", U&"\0074otal""#;

const READ: &str =
    r"SELECT id, 'a\b' AS é, U&'\00e9', note, E'\'' FROM orders WHERE id < 3 AND note <> 'a\'";

fn run(name: &str, values: &[&str]) -> Vec<u8> {
    let values: Vec<_> = values.iter().map(|v| Some(v.as_bytes())).collect();
    [bind("", name, 0, &values, 0), describe(b'P', ""), execute("", 0), sync()].concat()
}

async fn before_the_migration() -> (Live, Pair) {
    let ddl = format!("{ORDERS};{ELSEWHERE}");
    let toml = orders_toml("", "reads = 100");
    let live = Live::declared(&format!("{ddl};{ORDERS_V2}"), &toml).await;
    let pair = Pair::new(&live, &ddl).await;
    (live, pair)
}

async fn ready(live: &Live) {
    live.start("orders_v2");
    live.until_phase("orders_v2", "ready").await;
}

#[tokio::test]
async fn what_was_read_under_standard_strings_stays_so_in_every_form() {
    let (live, mut pair) = before_the_migration().await;
    let prepare = [
        parse("u", UPDATE, &[25]),
        parse("r", READ, &[]),
        parse("e", r"EXECUTE p ('\x')", &[]),
        sync(),
    ];
    pair.exchange("prepare", &prepare.concat(), 1).await;
    pair.simple(&format!("PREPARE p (text) AS {UPDATE}")).await;
    ready(&live).await;
    for change in CHANGES {
        pair.simple(change).await;
        for (name, values) in [("u", &["x"][..]), ("r", &[]), ("e", &[]), ("u", &["y"])] {
            pair.exchange(&format!("{name} after {change}"), &run(name, values), 1).await;
        }
        pair.simple("EXECUTE p ('simple')").await;
        pair.simple("SELECT note, total FROM orders WHERE id = 1").await;
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn what_was_read_during_the_migration_stays_so_too() {
    let (live, mut pair) = before_the_migration().await;
    ready(&live).await;
    live.until_shadow_serves(&live.client().await, "SELECT id FROM orders WHERE id = 1").await;
    for change in CHANGES {
        let prepare = [parse("u", UPDATE, &[25]), parse("r", READ, &[]), sync()];
        pair.exchange("prepare", &prepare.concat(), 1).await;
        pair.simple(change).await;
        for (name, values) in [("u", &["x"][..]), ("r", &[]), ("u", &["y"])] {
            pair.exchange(&format!("{name} after {change}"), &run(name, values), 1).await;
        }
        pair.simple("RESET ALL").await;
        let forget = [close(b'S', "u"), close(b'S', "r"), sync()];
        pair.exchange("forget", &forget.concat(), 1).await;
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn what_was_read_otherwise_is_not_read_anew() {
    let (live, mut pair) = before_the_migration().await;
    let escapes = [
        // Under standard strings they would be another statement: nothing, and a comment.
        parse("u", r"UPDATE orders SET note = 'it\'s' /* ', total = 0 -- '*/ WHERE id = 2", &[]),
        parse(
            "i",
            r"INSERT INTO other (id, note) VALUES (100, '\'); DELETE FROM orders; --')",
            &[],
        ),
        sync(),
    ];
    pair.simple("SET standard_conforming_strings = off").await;
    pair.exchange("with escapes", &escapes.concat(), 1).await;
    pair.simple("SET standard_conforming_strings = on").await;
    pair.simple("SET client_encoding = LATIN1").await;
    // In UTF-8 it would be none at all.
    let latin1 = b"l\0UPDATE orders SET note = '\xe9\xc3\xa9' WHERE id = 3\0\0\0";
    pair.exchange("in LATIN1", &[frame(b'P', latin1), sync()].concat(), 1).await;
    pair.simple("RESET client_encoding").await;
    ready(&live).await;
    for name in ["u", "i", "l"] {
        pair.exchange(name, &run(name, &[]), 1).await;
        pair.simple("TABLE orders ORDER BY id").await;
    }
    pair.simple("TABLE other ORDER BY id").await;
    pair.finish(&live, &[ORDERS_TABLE]).await;
}
