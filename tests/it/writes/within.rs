//! Writes within WITH, COPY (…) TO and CREATE TABLE AS: the rows, the tag and the errors are the
//! client's own, and the shadow follows every one of them.

use crate::live::raw::{bind, describe, execute, parse, query, sync};
use crate::live::{Live, ORDERS, ORDERS_TABLE, Pair, text};

const FORMS: &[&str] = &[
    "WITH d AS (DELETE FROM orders WHERE id = 5 RETURNING *), \
     i AS (INSERT INTO orders SELECT id, 1, 5, 'back' FROM d RETURNING id) SELECT * FROM i",
    "WITH d AS (DELETE FROM orders WHERE id = 6 RETURNING *), i AS (INSERT INTO orders \
     SELECT * FROM d RETURNING *) SELECT d.*, i.id, d IS NULL, i FROM d, i",
    "WITH d AS (DELETE FROM orders WHERE id = 6 RETURNING *) \
     INSERT INTO other SELECT id + 100, id FROM d RETURNING id",
    "WITH u AS (UPDATE orders SET total = 1 WHERE id = 1 RETURNING id) \
     UPDATE orders SET total = 2 FROM u WHERE orders.id = 2",
    "WITH u AS (UPDATE orders SET total = 1 WHERE id = 1 RETURNING id) \
     UPDATE orders SET total = total + u.id FROM u WHERE orders.id = 2 RETURNING orders.*, u.*",
    "WITH u AS (UPDATE orders SET total = 1 WHERE id = 1) DELETE FROM orders WHERE id = 4",
    "WITH u AS (UPDATE orders SET total = 1 WHERE id = 1) DELETE FROM other WHERE id = 4",
    "WITH u AS (UPDATE orders SET total = total + 1) SELECT count(*), sum(total) FROM orders",
    "WITH u AS (UPDATE orders SET total = total + 1 RETURNING total) SELECT count(*), sum(total) FROM u",
    "WITH u AS (UPDATE orders SET total = 5 WHERE id < 9 RETURNING id) SELECT id FROM u LIMIT 2",
    "WITH u AS (UPDATE orders SET total = 5 WHERE id < 9 RETURNING id) SELECT id FROM u ORDER BY id DESC",
    "WITH u AS (UPDATE orders SET total = 5 WHERE false RETURNING id) SELECT id FROM u",
    "WITH a AS (UPDATE orders SET total = 1 WHERE id = 1), b AS (UPDATE orders SET total = 2 WHERE id = 2), \
     c AS (INSERT INTO other VALUES (90, 1)), d AS (DELETE FROM orders WHERE id = 3) SELECT 'x'",
    "WITH a AS (INSERT INTO orders VALUES (800, 1), (801, 1) RETURNING *), \
     b AS (UPDATE other SET note = 'b' RETURNING id) SELECT a.id, b.id FROM a, b ORDER BY 1, 2",
    "WITH a AS (INSERT INTO orders VALUES (1, 1, 1) ON CONFLICT (id) DO UPDATE SET total = 99 RETURNING xmax <> 0) \
     SELECT 1 FROM a",
    "WITH a AS (INSERT INTO orders VALUES (1, 1, 1) ON CONFLICT DO NOTHING RETURNING id) SELECT count(*) FROM a",
    "WITH a (x, y) AS (DELETE FROM orders WHERE id IN (3, 4) RETURNING id, note) SELECT y, x FROM a ORDER BY 2",
    "WITH a (x) AS (DELETE FROM orders WHERE id IN (3, 4) RETURNING *) SELECT * FROM a ORDER BY 1",
    "WITH a (x, y, z) AS (DELETE FROM orders RETURNING id) SELECT 1",
    "WITH a AS MATERIALIZED (DELETE FROM orders WHERE id = 3 RETURNING id) SELECT * FROM a, a AS b",
    "WITH a AS NOT MATERIALIZED (DELETE FROM orders WHERE id = 3 RETURNING id) SELECT * FROM a, a AS b",
    "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 4), \
     a AS (UPDATE orders SET total = n.i FROM n WHERE n.i = orders.id RETURNING id, orders.total, n.i) \
     SELECT * FROM a ORDER BY id",
    "WITH RECURSIVE a AS (INSERT INTO orders SELECT i + 810, i FROM n RETURNING id), \
     n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 4) \
     SEARCH BREADTH FIRST BY i SET o CYCLE i SET is_cycle USING path SELECT * FROM a",
    "WITH x AS (WITH y AS (SELECT 7 AS id) DELETE FROM orders USING y WHERE orders.id = y.id \
     RETURNING orders.id, note) SELECT * FROM x",
    "WITH x AS (WITH y AS (SELECT 1) DELETE FROM orders WHERE id = 8 RETURNING id) \
     UPDATE other SET note = 'n' WHERE orders_id IN (SELECT id FROM x) RETURNING *",
    "WITH o AS (SELECT 3 AS id), x AS (UPDATE orders SET id = orders.id + 3000 FROM o WHERE o.id = orders.id \
     RETURNING orders.id, o.id AS was) SELECT * FROM x",
    "WITH x AS (UPDATE orders SET id = id + 4000 WHERE id > 8 RETURNING id), \
     y AS (DELETE FROM orders WHERE id = 7 RETURNING id) SELECT id FROM x UNION ALL SELECT id FROM y ORDER BY 1",
    "WITH x AS (UPDATE orders SET id = id + 5000 WHERE id = 1) UPDATE orders SET id = id + 6000 WHERE id = 2 \
     RETURNING id",
    "WITH orders AS (SELECT 1 AS id), d AS (DELETE FROM orders RETURNING id) SELECT * FROM d",
    "WITH d AS (DELETE FROM orders WHERE id = 2 RETURNING id, id, total AS id, 'lit' AS t, NULL AS n, 1.50 x, \
     upper(note), id + 1, 'c') SELECT * FROM d",
    "WITH d AS (DELETE FROM orders WHERE id = 2 RETURNING note COLLATE \"C\" AS n, email) \
     SELECT n < email, n, pg_typeof(n) FROM d",
    "WITH d AS (DELETE FROM orders AS k WHERE k.id = 2 RETURNING k.*, k, (SELECT max(id) FROM other) AS m) \
     SELECT row_to_json(d) FROM d",
    "WITH d AS (DELETE FROM orders WHERE id = 2 RETURNING *) SELECT * FROM d JOIN orders USING (user_id) ORDER BY 2, 6",
    "(WITH d AS (DELETE FROM orders WHERE id = 2 RETURNING id) SELECT id FROM d) ORDER BY 1",
    "WITH d AS (DELETE FROM orders WHERE id = 2 RETURNING id) SELECT id FROM d UNION SELECT 5 ORDER BY 1",
    "(WITH d AS (DELETE FROM orders WHERE id = 2 RETURNING id) SELECT id FROM d) UNION SELECT 1",
    "WITH d AS (DELETE FROM orders WHERE id = 2 RETURNING id) VALUES (1), (2)",
    "WITH d AS (DELETE FROM orders WHERE id = 2 RETURNING id) TABLE d",
    "WITH d AS (DELETE FROM orders WHERE id = 2 RETURNING id) INSERT INTO orders SELECT id + 900, 1 FROM d",
    "WITH d AS (DELETE FROM orders WHERE id IN (2, 3) RETURNING id) \
     INSERT INTO orders SELECT id + 900, 1 FROM d RETURNING id",
    "WITH d AS (INSERT INTO orders VALUES (2, 1)) SELECT 1",
    "WITH d AS (DELETE FROM orders WHERE id = 2) SELECT * FROM d",
    "WITH d AS (DELETE FROM orders WHERE id = 2), d AS (SELECT 1) SELECT 1",
    "WITH d (a) AS (DELETE FROM orders WHERE id = 2) SELECT 1",
    "WITH d AS (DELETE FROM orders WHERE id = 2 RETURNING id) SELECT nowhere FROM d",
    "WITH d AS (DELETE FROM orders WHERE id = 2 RETURNING id) SELECT d.note FROM d",
    "WITH d AS (DELETE FROM orders WHERE nowhere = 2 RETURNING id) SELECT * FROM d",
    "WITH d AS (DELETE FROM orders WHERE id = 2 RETURNING nowhere) SELECT * FROM d",
    "WITH d AS (DELETE FROM orders WHERE id = 2 RETURNING id), e AS (SELECT 1 / 0 AS x) SELECT * FROM d, e",
    "WITH d AS (UPDATE orders SET total = 1 / (id - 5) RETURNING id) SELECT id FROM d",
    "WITH d AS (DELETE FROM orders RETURNING id::text) SELECT * FROM d",
    "WITH d AS (DELETE FROM orders USING other WHERE orders.id = other.id RETURNING *) SELECT * FROM d",
    "SELECT 1 FROM (WITH d AS (DELETE FROM orders RETURNING id) SELECT 1 FROM d) AS x",
    "INSERT INTO other WITH d AS (DELETE FROM orders RETURNING id) SELECT id FROM d",
    "CREATE TABLE gone AS WITH d AS (DELETE FROM orders WHERE id = 9 RETURNING *) SELECT * FROM d",
    "CREATE TABLE away (k) AS (WITH d AS (DELETE FROM orders WHERE id = 9 RETURNING id) SELECT id FROM d) WITH DATA",
    "CREATE TABLE empty AS WITH d AS (DELETE FROM orders WHERE id = 9 RETURNING id) SELECT id FROM d WITH NO DATA",
    "WITH d AS (DELETE FROM orders WHERE id = 9 RETURNING id) SELECT id INTO into_it FROM d",
    "CREATE VIEW v AS WITH d AS (DELETE FROM orders RETURNING id) SELECT id FROM d",
    "UPDATE ONLY (orders) SET total = 3 WHERE id = 3",
    "DELETE FROM ONLY (orders) AS o WHERE o.id = 3 RETURNING o.*",
    "INSERT INTO orders AS o VALUES (2, 1, 1) ON CONFLICT (id) DO UPDATE SET id = EXCLUDED.id, total = o.total + 1",
];

const COPIES: &[&str] = &[
    "COPY (WITH d AS (DELETE FROM orders WHERE id < 3 RETURNING *) SELECT * FROM d ORDER BY id) TO STDOUT",
    "COPY (DELETE FROM orders WHERE id < 3 RETURNING *) TO STDOUT (FORMAT csv, HEADER)",
    "COPY (DELETE FROM orders WHERE id < 3 RETURNING id AS \"the key\", note n, 1 + 1) TO STDOUT CSV HEADER",
    "COPY (UPDATE orders SET id = id + 100 WHERE id < 3 RETURNING id) TO STDOUT (FORMAT binary)",
    "COPY (WITH u AS (UPDATE orders SET note = 'u' WHERE id = 4 RETURNING id) \
     INSERT INTO orders SELECT id + 500, 1 FROM u RETURNING id) TO STDOUT",
    "COPY (WITH u AS (DELETE FROM orders WHERE id = 4) SELECT 1) TO STDOUT",
    "COPY (DELETE FROM orders WHERE id = 4) TO STDOUT",
    "COPY (INSERT INTO orders VALUES (1, 1) RETURNING id) TO STDOUT",
    "COPY (INSERT INTO orders VALUES (700, 1) RETURNING nowhere) TO STDOUT",
];

#[tokio::test]
async fn writes_within_other_statements_look_the_same_as_without_the_proxy() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    for sql in FORMS {
        pair.every_way(sql).await;
        pair.simple("DROP TABLE IF EXISTS gone, away, empty, into_it").await;
        live.orders_in_step().await;
    }
    for sql in COPIES {
        pair.simple("BEGIN").await;
        pair.simple(sql).await;
        pair.simple("ROLLBACK").await;
        pair.simple(sql).await;
        let batch =
            [parse("", sql, &[]), describe(b'S', ""), bind("", "", 0, &[], 0), execute("", 0)];
        pair.exchange(sql, &[batch.concat(), sync()].concat(), 1).await;
        live.orders_in_step().await;
    }
    let mirrored = live.statements("mirrored", "write");
    assert!(mirrored > 250.0, "only {mirrored} mirrored");
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn what_is_understood_is_not_marked() {
    let live = Live::orders("unclassified = \"refuse\"", "").await;
    let client = live.client().await;
    for sql in FORMS.iter().take(16) {
        client.batch_execute(&format!("BEGIN; {sql}; ROLLBACK")).await.unwrap_or_else(|error| {
            panic!("{sql}: {error:?}");
        });
    }
    live.orders_in_step().await;
}

#[tokio::test]
async fn writes_within_with_take_parameters_limits_and_portals() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    let sql = "WITH d AS (UPDATE orders SET total = $1, note = $2 WHERE id > $3 RETURNING id, $2, note || $4 AS n) \
               SELECT *, $5 FROM d ORDER BY id";
    let values: Vec<_> = ["5", "n", "2", "m", "x"].iter().map(|v| Some(v.as_bytes())).collect();
    for limit in [0, 1, 3, 8] {
        let frames = [
            parse("p", sql, &[]),
            describe(b'S', "p"),
            bind("c", "p", 0, &values, 1),
            describe(b'P', "c"),
            execute("c", limit),
            execute("c", limit),
            execute("c", 0),
            sync(),
            crate::live::raw::close(b'S', "p"),
            sync(),
        ];
        pair.exchange(&format!("limit {limit}"), &frames.concat(), 2).await;
    }
    let texts = "UPDATE orders SET total = 8 WHERE id = 8; WITH d AS (DELETE FROM orders WHERE id = 1 RETURNING id) \
                 SELECT * FROM d; SELECT 5; WITH d AS (DELETE FROM orders WHERE id = 2) SELECT 6";
    pair.exchange("several", &query(texts), 1).await;
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn the_outcome_of_a_write_within_with_closes_the_gate_and_no_notice_of_it_is_seen() {
    let live = Live::orders("", "reads = 100").await;
    let (reader, direct) = (live.client().await, live.direct().await);
    let mut pair = Pair::new(&live, ORDERS).await;
    let read = "SELECT total FROM orders WHERE id = 5";
    for way in ["simple", "extended"] {
        live.until_shadow_serves(&reader, read).await;
        // What the shadow refuses is recorded, and repair cannot mend it either.
        let refuse = "ALTER TABLE orders_v2 ADD CHECK (total_minor < 100000) NOT VALID";
        direct.batch_execute(refuse).await.unwrap();
        let sql = "WITH d AS (UPDATE orders SET total = 123456 WHERE id = 5 RETURNING id) SELECT * FROM d";
        for quiet in
            ["SET client_min_messages = error", "SET client_min_messages = debug1", "RESET ALL"]
        {
            pair.simple(quiet).await;
            pair.simple("BEGIN").await;
            match way {
                "simple" => pair.simple(sql).await,
                _ => pair.extended(sql, &[], 0).await,
            }
            pair.simple("COMMIT").await;
        }
        let before = live.shadow_reads();
        assert_eq!(text(&reader, read).await, "123456", "{way}");
        assert!((live.shadow_reads() - before).abs() < 0.5, "a shadow read was served");
        pair.simple("UPDATE orders SET total = 50 WHERE id = 5").await;
        let allow = "ALTER TABLE orders_v2 DROP CONSTRAINT orders_v2_total_minor_check";
        direct.batch_execute(allow).await.unwrap();
        live.orders_in_step().await;
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}
