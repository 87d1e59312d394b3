//! Forms that came with Postgres 15, 17 and 18: MERGE, its RETURNING, and RETURNING of the old row.
//! On an older server they are errors, or marked, and look the same as without the proxy all the same.

use crate::live::{Live, ORDERS, ORDERS_TABLE, Pair, text};

/// The first Postgres that has MERGE, the first whose MERGE returns, and the first that returns old rows.
const MERGES_AT_ALL: i32 = 15;
const MERGE_RETURNS: i32 = 17;
const RETURNS_OLD: i32 = 18;

const MERGES: &[&str] = &[
    "MERGE INTO orders o USING other s ON o.id = s.id WHEN MATCHED THEN UPDATE SET total = s.id, note = s.note \
     WHEN NOT MATCHED THEN INSERT (id, user_id) VALUES (s.id, 1)",
    "MERGE INTO orders USING (VALUES (3, 'three'), (30, 'thirty')) AS v (id, note) ON orders.id = v.id \
     WHEN MATCHED AND v.id > 100 THEN DELETE WHEN MATCHED THEN UPDATE SET (note, total) = (v.note, 3) \
     WHEN NOT MATCHED THEN INSERT (id, user_id, note) VALUES (v.id, CASE WHEN v.id = 30 THEN 1 ELSE 2 END, v.note)",
    "MERGE INTO ONLY orders AS o USING generate_series(1, 4) AS g ON o.id = g WHEN MATCHED THEN DELETE",
    "MERGE INTO orders o USING other s ON o.id = s.id WHEN MATCHED THEN DO NOTHING",
    "MERGE INTO orders o USING other s ON o.id = s.id WHEN MATCHED THEN UPDATE SET total = 1 / (s.id - 2)",
    "MERGE INTO orders o USING other s ON o.id = s.id WHEN MATCHED THEN UPDATE SET nowhere = 1",
    "MERGE INTO orders o USING other s ON true WHEN MATCHED THEN UPDATE SET total = s.id",
    "MERGE INTO orders o USING (SELECT * FROM orders) AS s ON o.id = s.id + 1 AND CASE WHEN s.id > 7 THEN false ELSE true END \
     WHEN MATCHED AND s.total / (s.id - 12) > 5 OR o.id = 2 THEN UPDATE SET note = s.note, user_id = CASE WHEN o.id = 2 THEN 9 ELSE 8 END \
     WHEN MATCHED AND o.id = 6 THEN DELETE WHEN NOT MATCHED AND s.id = 10 THEN DO NOTHING \
     WHEN NOT MATCHED THEN INSERT (note, id, user_id) VALUES ('n', s.id + 300, 1)",
    "MERGE INTO orders o USING (VALUES (7::numeric), (600.4)) AS v (k) ON o.id = v.k WHEN MATCHED THEN UPDATE SET total = v.k \
     WHEN NOT MATCHED THEN INSERT VALUES (v.k, 1, DEFAULT, -- note\n DEFAULT)",
    "MERGE INTO orders o USING (VALUES (7), (601)) AS v (k) ON o.id = v.k WHEN NOT MATCHED THEN INSERT VALUES ('x' || v.k, 1)",
    "MERGE INTO orders o USING (VALUES (3), (602)) AS v (k) ON o.id = v.k WHEN NOT MATCHED THEN INSERT VALUES (3, v.k)",
    "MERGE INTO orders o USING other s ON o.id = s.id WHEN MATCHED AND nowhere THEN DELETE",
    "WITH d AS (DELETE FROM orders WHERE id = 8 RETURNING id) MERGE INTO orders o USING d ON o.id = d.id + 1 \
     WHEN MATCHED THEN UPDATE SET total = 8 WHEN NOT MATCHED THEN INSERT VALUES (d.id, 1)",
    "WITH v AS (SELECT 7 AS id) MERGE INTO orders o USING v ON o.id = v.id WHEN MATCHED THEN UPDATE SET total = 7",
];

const RETURNING_MERGES: &[&str] = &[
    "MERGE INTO orders o USING (VALUES (3), (40)) AS v (k) ON o.id = v.k WHEN MATCHED THEN UPDATE SET total = 5 \
     WHEN NOT MATCHED THEN INSERT VALUES (v.k, 1) RETURNING merge_action(), o.*, v.k, o",
    "MERGE INTO orders o USING (VALUES (3), (4)) AS v (k) ON o.id = v.k WHEN MATCHED THEN DELETE RETURNING *",
    "MERGE INTO orders o USING (VALUES (3), (4)) AS v (k) ON o.id = v.k WHEN NOT MATCHED BY SOURCE THEN DELETE \
     RETURNING merge_action(), o.id",
    "MERGE INTO orders o USING (VALUES (3)) AS v (k) ON o.id = v.k WHEN MATCHED THEN DELETE RETURNING nowhere",
    "WITH m AS (MERGE INTO orders o USING (VALUES (5), (50)) AS v (k) ON o.id = v.k WHEN MATCHED THEN DELETE \
     WHEN NOT MATCHED THEN INSERT VALUES (v.k, 1) RETURNING merge_action() AS did, o.*, v.k) \
     SELECT * FROM m ORDER BY k",
    "WITH m AS (MERGE INTO orders o USING (VALUES (6)) AS v (k) ON o.id = v.k WHEN MATCHED THEN DELETE) SELECT 1",
    "WITH d AS (DELETE FROM orders WHERE id = 7 RETURNING id) MERGE INTO orders o USING d ON o.id = d.id + 1 \
     WHEN MATCHED THEN UPDATE SET total = 8 RETURNING o.id, d.id",
    "COPY (MERGE INTO orders o USING (VALUES (6)) AS v (k) ON o.id = v.k WHEN MATCHED THEN DELETE \
     RETURNING merge_action(), o.id) TO STDOUT CSV HEADER",
];

const OLD_ROWS: &[&str] = &[
    "UPDATE orders SET total = total + 1 WHERE id = 3 RETURNING old.total, new.total, old.*, total, old, new",
    "UPDATE orders SET total = total + 1 WHERE id < 4 RETURNING WITH (OLD AS o, NEW AS n) o.id, n.total, o.total",
    "UPDATE orders SET total = total + 1 WHERE id = 4 RETURNING WITH (NEW AS n) n.total, old.total",
    "INSERT INTO orders VALUES (900, 1) RETURNING old.id, new.id, id",
    "INSERT INTO orders VALUES (3, 1, 5), (901, 1, 5) ON CONFLICT (id) DO UPDATE SET total = 6 \
     RETURNING old.total, new.total, old IS NULL",
    "DELETE FROM orders WHERE id = 3 RETURNING old.id, new.id, new",
    "UPDATE orders SET id = id + 100 WHERE id < 3 RETURNING old.id, new.id",
    "UPDATE orders SET id = id + 100 WHERE id < 3 AND random() < 2 RETURNING id",
    "UPDATE orders SET id = id + 100 WHERE id < 3 AND random() < 2 RETURNING WITH (OLD AS was) was.id, id",
    "UPDATE orders SET id = id + 100 WHERE id < 3 AND random() < 2",
    "INSERT INTO orders AS o VALUES (2, 1, 1), (902, 1, 1) ON CONFLICT (id) DO UPDATE SET id = o.id + 5000",
    "INSERT INTO orders AS o VALUES (2, 1, 1), (903, 1, 1) ON CONFLICT (id) DO UPDATE SET id = o.id + 5000 RETURNING *",
    "MERGE INTO orders o USING (VALUES (3), (41)) AS v (k) ON o.id = v.k WHEN MATCHED THEN UPDATE SET id = o.id + 700 \
     WHEN NOT MATCHED THEN INSERT VALUES (v.k, 1)",
    "MERGE INTO orders o USING (VALUES (3), (42)) AS v (k) ON o.id = v.k WHEN MATCHED THEN UPDATE SET id = o.id + 700 \
     WHEN NOT MATCHED THEN INSERT VALUES (v.k, 1) RETURNING merge_action(), o.id, v.k",
    "WITH x AS (WITH y AS (SELECT 1) UPDATE orders SET id = id + 4000 WHERE id = 7 RETURNING id) SELECT id FROM x",
    "WITH x AS (UPDATE orders SET total = 1 WHERE id = 7 RETURNING WITH (OLD AS o) o.total AS was, total) SELECT * FROM x",
];

async fn version(live: &Live) -> i32 {
    let number: i32 = text(&live.db.client, "SHOW server_version_num").await.parse().unwrap();
    number / 10_000
}

async fn look_the_same(forms: &[&str], since: i32) {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    for sql in forms {
        let before = live.statements("recorded", "write");
        if sql.starts_with("COPY") {
            pair.simple(sql).await;
        } else {
            pair.every_way(sql).await;
        }
        let marked = live.statements("recorded", "write") - before;
        assert!(version(&live).await < since || marked < 0.5, "it was marked: {sql}");
        live.orders_in_step().await;
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn merge_looks_the_same_as_without_the_proxy() {
    look_the_same(MERGES, MERGES_AT_ALL).await;
}

#[tokio::test]
async fn merge_returning_looks_the_same_as_without_the_proxy() {
    look_the_same(RETURNING_MERGES, MERGE_RETURNS).await;
}

#[tokio::test]
async fn returning_old_rows_looks_the_same_as_without_the_proxy() {
    look_the_same(OLD_ROWS, RETURNS_OLD).await;
}

#[tokio::test]
async fn a_cursor_moves_a_key_where_the_old_row_is_returned() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    for sql in [
        "BEGIN",
        "DECLARE c CURSOR FOR SELECT * FROM orders WHERE id = 4 FOR UPDATE",
        "FETCH c",
        "UPDATE orders SET id = 444 WHERE CURRENT OF c RETURNING id",
        "UPDATE orders SET total = 1 WHERE CURRENT OF c",
        "COMMIT",
    ] {
        pair.simple(sql).await;
    }
    live.orders_in_step().await;
    pair.finish(&live, &[ORDERS_TABLE]).await;
}
