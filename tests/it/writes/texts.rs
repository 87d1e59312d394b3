//! A write behind other statements of the same text: it is marked where these may change what its
//! table's name means, and mirrored where they cannot.

use crate::live::{Live, ORDERS, ORDERS_TABLE, ORDERS_V2, Pair, orders_toml};

const ELSEWHERE: &str = "CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.orders (LIKE orders)";

/// None of these makes the name mean another table.
const KEEPS: &[&str] = &[
    "SET timezone = 'Asia/Tokyo'",
    "SET TIME ZONE 'UTC'",
    "SET LOCAL statement_timeout = 100000",
    "SET app.tenant = 'orders'",
    "SET SESSION CHARACTERISTICS AS TRANSACTION NOT DEFERRABLE",
    "RESET timezone",
    "CREATE TABLE made (orders int, id serial UNIQUE)",
    "CREATE TEMP TABLE snapshot AS SELECT * FROM orders",
    "SELECT id INTO TEMP kept FROM orders",
    "CREATE OR REPLACE VIEW seen AS SELECT * FROM orders",
    "CREATE INDEX ON other (note)",
    "CREATE SCHEMA empty CREATE TABLE some (a int)",
    "ALTER TABLE other ADD COLUMN orders int",
    "ALTER TABLE orders SET (fillfactor = 90)",
    "DROP TABLE made, snapshot",
    "DROP SCHEMA empty CASCADE",
    "BEGIN; SAVEPOINT a; SET LOCAL enable_seqscan = off; RELEASE a",
];

/// Each of these may, or does.
const CHANGES: &[&str] = &[
    "SET search_path = elsewhere, public",
    "RESET ALL",
    "SET SCHEMA 'elsewhere'",
    "RESET search_path",
    "SET ROLE postgres",
    "SET SESSION AUTHORIZATION postgres",
    "SELECT set_config('search_path', 'public', false)",
    "CREATE TEMP TABLE orders (LIKE public.orders)",
    "DROP TABLE IF EXISTS nothing",
    "DROP TABLE orders",
    "CREATE TEMP VIEW orders AS TABLE elsewhere.orders",
    "DROP VIEW pg_temp.orders",
    "ALTER TABLE elsewhere.orders RENAME TO orders_too",
    "ALTER SCHEMA elsewhere RENAME TO postgres",
];

#[tokio::test]
async fn only_what_may_change_the_meaning_of_a_name_marks_the_writes_behind_it() {
    let ddl = format!("{ORDERS};{ELSEWHERE}");
    let toml = orders_toml("", "");
    let live = Live::ready(&format!("{ddl};{ORDERS_V2}"), &toml, &["orders_v2"]).await;
    let mut pair = Pair::new(&live, &ddl).await;
    let update = "UPDATE orders SET total = total + 1 WHERE id < 4 RETURNING total";
    let mut seen = live.statements("recorded", "write");
    for (statements, marks) in [(KEEPS, 0.0), (CHANGES, 1.0)] {
        for sql in statements {
            pair.simple(&format!("{sql}; {update}; UPDATE public.orders SET note = note")).await;
            pair.simple("COMMIT").await;
            let now = live.statements("recorded", "write");
            // By a view the table may be written: it is marked itself.
            let defines = sql.starts_with("CREATE") && sql.contains(" VIEW ");
            let marks = marks + f64::from(u8::from(defines));
            assert!((now - seen - marks).abs() < 0.1, "{sql}: {seen} to {now}");
            seen = now;
        }
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}
