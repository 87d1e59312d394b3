//! Writes by the name of a table that inherits from the source: its rows are the source's, too.

use super::copy::data;
use crate::live::raw::query;
use crate::live::{Live, ORDERS, ORDERS_TABLE, ORDERS_V2, Pair, orders_toml};

/// A child with a column of its own, and one of that in another schema. Keys differ between all of them.
const CHILDREN: &str = "
    CREATE SCHEMA attic;
    CREATE TABLE old_orders (PRIMARY KEY (id), reason text) INHERITS (orders);
    CREATE TABLE attic.\"Older %\" (PRIMARY KEY (id)) INHERITS (old_orders);
    INSERT INTO old_orders SELECT i, 1, i, 'old', NULL, 'r' FROM generate_series(100, 110) i;
    INSERT INTO attic.\"Older %\" SELECT i, 1, i, 'older' FROM generate_series(200, 210) i;
    ANALYZE";

const FORMS: &[&str] = &[
    "INSERT INTO old_orders VALUES (120, 1, 5, 'x', 'e120', 'why') RETURNING *, tableoid::regclass::text",
    "INSERT INTO old_orders (reason, user_id, id) VALUES ('a', 1, 121), ('b', 2, 122)",
    "INSERT INTO old_orders VALUES (100, 1), (123, 1) ON CONFLICT (id) DO UPDATE SET total = excluded.total + 1",
    "INSERT INTO attic.\"Older %\" SELECT id + 20, user_id, total, note FROM attic.\"Older %\" WHERE id < 203",
    "INSERT INTO old_orders VALUES (101, 1)",
    "UPDATE old_orders SET total = total + 1",
    "UPDATE old_orders SET total = total + 1, reason = 'changed' WHERE id = 103 RETURNING id, reason",
    "UPDATE ONLY old_orders SET total = 5 WHERE id > 100 RETURNING total",
    "UPDATE attic.\"Older %\" AS o SET note = upper(o.note) FROM other WHERE other.id + 200 = o.id",
    "UPDATE old_orders SET id = id + 300 WHERE id = 105 RETURNING id",
    "UPDATE old_orders SET id = id + 300 WHERE id > 204 AND id < 207",
    "UPDATE orders SET total = total + 1 WHERE id IN (1, 104, 204) RETURNING id, total",
    "UPDATE ONLY orders SET total = total + 1",
    "UPDATE orders SET id = id + 1000 WHERE id IN (2, 108, 208) RETURNING id",
    "WITH d AS (DELETE FROM old_orders WHERE id IN (102, 202) RETURNING *) \
     INSERT INTO attic.\"Older %\" (id, user_id, reason) SELECT id + 400, 1, note FROM d RETURNING *",
    "DELETE FROM old_orders WHERE id = 106 RETURNING *",
    "DELETE FROM ONLY old_orders WHERE id > 200",
    "DELETE FROM old_orders USING other WHERE other.id + 206 = old_orders.id",
    "DELETE FROM orders WHERE id IN (3, 107, 207)",
    "SELECT * FROM old_orders ORDER BY id",
    "SELECT count(*), sum(total) FROM orders",
    "SELECT count(*) FROM ONLY orders",
    "SELECT id, total FROM orders WHERE id IN (1, 103, 203) ORDER BY id",
];

#[tokio::test]
async fn a_write_by_the_name_of_an_inheritance_child_is_followed() {
    let ddl = format!("{ORDERS};{CHILDREN}");
    let toml = orders_toml("", "reads = 100");
    let live = Live::ready(&format!("{ddl};{ORDERS_V2}"), &toml, &["orders_v2"]).await;
    let mut pair = Pair::new(&live, &ddl).await;
    for sql in FORMS {
        pair.every_way(sql).await;
        live.orders_in_step().await;
    }
    for (sql, lines) in [
        ("COPY old_orders (id, user_id, reason) FROM STDIN", "130\t1\ta\n131\t2\tb\n"),
        ("COPY attic.\"Older %\" (user_id, id) FROM STDIN CSV", "1,230\n2,231\n"),
        ("COPY old_orders (id, user_id) FROM STDIN", "130\t1\n"),
    ] {
        let copy = [query(sql), data(lines.as_bytes(), 5)].concat();
        for end in ["ROLLBACK", "COMMIT"] {
            pair.simple("BEGIN").await;
            pair.exchange(sql, &copy, 1).await;
            pair.simple(end).await;
            live.orders_in_step().await;
        }
    }
    assert_eq!(live.dirty().await, []);
    pair.simple("TRUNCATE attic.\"Older %\"").await;
    pair.simple("SELECT count(*) FROM orders").await;
    live.orders_in_step().await;
    pair.simple("TRUNCATE ONLY orders").await;
    pair.simple("SELECT count(*) FROM orders").await;
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn a_child_that_comes_and_goes_takes_its_rows_along() {
    let live = Live::orders("", "reads = 100").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    let reader = live.client().await;
    let count = "SELECT count(*), sum(total) FROM orders";
    for sql in [
        "CREATE TABLE late (PRIMARY KEY (id)) INHERITS (orders)",
        "INSERT INTO late VALUES (500, 1), (501, 1)",
        "UPDATE late SET total = 9 WHERE id = 500",
        "DELETE FROM late WHERE id = 501",
        "UPDATE orders SET total = 12 WHERE id IN (1, 500)",
        "DROP TABLE late",
    ] {
        live.until_shadow_serves(&reader, count).await;
        pair.simple(sql).await;
        for _ in 0..3 {
            pair.simple(count).await;
            pair.extended(count, &[], 0).await;
        }
        live.orders_in_step().await;
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}
