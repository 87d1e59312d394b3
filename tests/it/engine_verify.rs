//! What verify must catch, and what it must not take for a divergence.

use super::engine_support::*;
use pgsegue::engine::shape::Shape;
use pgsegue::engine::{Compared, repair, verify};
use tokio_postgres::Client;

async fn pass(client: &Client, shape: &Shape, limit: u32) -> Compared {
    let mut all = Compared::default();
    let mut after: Option<Vec<String>> = None;
    loop {
        let (one, next) = verify::chunk(client, shape, after.as_deref(), limit).await.unwrap();
        all.rows += one.rows;
        all.missing += one.missing;
        all.orphaned += one.orphaned;
        all.different += one.different;
        all.sample.extend(one.sample);
        if next.is_none() {
            return all;
        }
        after = next;
    }
}

#[tokio::test]
async fn missing_orphaned_and_different_rows_are_found_named_and_repaired() {
    let db = database().await;
    let migration = orders(&db, 100).await;
    let shape = install(&db, &migration).await;
    let sql = "SELECT pgsegue.sync_orders_v2(array_agg(id), 3) FROM orders; \
         DELETE FROM orders_v2 WHERE id IN (1, 50); \
         INSERT INTO orders_v2 VALUES (-5, 0, 0, '', ''), (9999, 0, 0, '', ''); \
         UPDATE orders_v2 SET note = NULL WHERE id = 60; \
         UPDATE orders_v2 SET currency = 'EUR', total_minor = 0 WHERE id = 100; \
         UPDATE orders_v2 SET note = 'dirty' WHERE id = 61; \
         SELECT pgsegue.sync_orders_v2('{61}', 2)";
    db.client.batch_execute(sql).await.unwrap();
    let mut client = db.engine_client().await;
    let found = pass(&client, &shape, 7).await;
    assert_eq!((found.rows, found.missing, found.orphaned, found.different), (102, 2, 2, 2));
    let mut sample = found.sample;
    sample.sort_unstable();
    assert_eq!(
        sample,
        [
            "different (100) in total_minor, currency",
            "different (60) in note",
            "missing (1)",
            "missing (50)",
            "orphaned (-5)",
            "orphaned (9999)",
        ]
    );
    assert_eq!(db.dirty().await.len(), 7);
    assert_eq!(pass(&client, &shape, 1_000).await.differences(), 0, "dirty keys are left out");
    while repair::batch(&mut client, &shape).await.unwrap().done > 0 {}
    assert_eq!(db.dirty().await, []);
    assert_in_step(&db, &migration).await;
    assert_eq!(pass(&client, &shape, 10).await.differences(), 0);
}

#[tokio::test]
async fn values_that_type_equality_calls_equal_are_different() {
    let db = database().await;
    let columns = "n numeric, f float8, i interval, j jsonb, b box, c circle, x json, p point, \
                   v tsvector, d date, a int[], t timestamptz";
    let sql = format!(
        "CREATE TABLE orders (id int4 PRIMARY KEY, {columns}); \
         CREATE TABLE orders_v2 (id int8 PRIMARY KEY, {columns}); \
         INSERT INTO orders SELECT i, 1.0, 0, '1 mon', '{{\"a\": 1.0}}', '(1,1),(0,0)', \
             '<(0,0),1>', '{{\"a\":1}}', '(1,1)', 'a b', '2020-01-01', '{{1}}', '2020-01-01' \
             FROM generate_series(1, 13) i"
    );
    db.client.batch_execute(&sql).await.unwrap();
    let names = ["id", "n", "f", "i", "j", "b", "c", "x", "p", "v", "d", "a", "t"];
    let migration = migration(&names.map(|c| (c, c)));
    let shape = install(&db, &migration).await;
    let fill = "SELECT pgsegue.sync_orders_v2(array_agg(id), 3) FROM orders";
    db.client.batch_execute(fill).await.unwrap();
    let client = db.engine_client().await;
    assert_eq!(pass(&client, &shape, 100).await.differences(), 0);
    let changes = [
        ("n", "'1.00'"),
        ("f", "'-0'"),
        ("i", "'30 days'"),
        ("j", "'{\"a\": 1.00}'"),
        ("b", "'(2,2),(1,1)'"),
        ("c", "'<(5,5),1>'"),
        ("x", "'{\"a\": 1}'"),
        ("p", "'(1,2)'"),
        ("v", "'a b c'"),
        ("d", "'2020-01-02'"),
        ("a", "'[0:0]={1}'"),
        ("t", "NULL"),
    ];
    for (n, (column, value)) in changes.iter().enumerate() {
        let sql = format!("UPDATE orders_v2 SET {column} = {value} WHERE id = {}", n + 1);
        db.client.batch_execute(&sql).await.unwrap();
    }
    let found = pass(&client, &shape, 100).await;
    let expected: Vec<String> = changes
        .iter()
        .enumerate()
        .map(|(n, (c, _))| format!("different ({}) in {c}", n + 1))
        .collect();
    let mut sample = found.sample;
    sample.sort_by_key(|s| s.split(['(', ')']).nth(1).unwrap().parse::<u32>().unwrap());
    assert_eq!(sample, expected);
}

#[tokio::test]
async fn writes_in_flight_and_rolled_back_are_no_divergence() {
    let db = database().await;
    let migration = orders(&db, 500).await;
    let shape = install(&db, &migration).await;
    let fill = "SELECT pgsegue.sync_orders_v2(array_agg(id), 3) FROM orders";
    db.client.batch_execute(fill).await.unwrap();
    let writer = db.another().await;
    let writing = tokio::spawn(async move {
        for n in 0..300 {
            let end = if n % 3 == 0 { "ROLLBACK" } else { "COMMIT" };
            let key = n % 40;
            writer.batch_execute("BEGIN").await.unwrap();
            let sql = match n % 4 {
                0 => format!("DELETE FROM orders WHERE id = {key}"),
                1 => {
                    format!("INSERT INTO orders VALUES ({key}, 0, {n}, '') ON CONFLICT DO NOTHING")
                }
                _ => format!("UPDATE orders SET total = {n} WHERE id BETWEEN {key} AND {key} + 9"),
            };
            write(&writer, &sql, 0).await;
            writer.batch_execute(end).await.unwrap();
        }
    });
    let client = db.engine_client().await;
    let mut passes = 0;
    while !writing.is_finished() || passes < 3 {
        let found = pass(&client, &shape, 64).await;
        assert_eq!(found.differences(), 0, "{found:?}");
        passes += 1;
    }
    writing.await.unwrap();
    assert_eq!(db.dirty().await, []);
    assert_in_step(&db, &migration).await;
}

#[tokio::test]
async fn mapping_results_do_not_hang_on_the_session() {
    let db = database().await;
    let sql = "CREATE TABLE orders (id int4 PRIMARY KEY, f float8, b bytea, t timestamptz, i interval); \
         CREATE TABLE orders_v2 (id int4 PRIMARY KEY, f text, b text, t text, i text); \
         INSERT INTO orders VALUES (1, 0.1::float8 + 0.2, '\\x00ff', '2020-01-02', '1 day 2:00')";
    db.client.batch_execute(sql).await.unwrap();
    let migration = migration(&[
        ("id", "id"),
        ("f", "f::text"),
        ("b", "b::text"),
        ("t", "t::text"),
        ("i", "i::text"),
    ]);
    let shape = install(&db, &migration).await;
    let writer = db.another().await;
    let odd = "SET extra_float_digits = 0; SET bytea_output = escape; SET DateStyle = 'SQL, DMY'; \
               SET TimeZone = 'Asia/Tokyo'; SET IntervalStyle = sql_standard; SET search_path = ''; \
               SET enable_indexscan = off";
    writer.batch_execute(odd).await.unwrap();
    let sql = "SELECT pgsegue.sync_orders_v2('{1}', 0), current_setting('TimeZone')";
    let row = writer.query_one(sql, &[]).await.unwrap();
    assert_eq!((row.get::<_, i32>(0), row.get::<_, &str>(1)), (0, "Asia/Tokyo"));
    let client = db.engine_client().await;
    assert_eq!(pass(&client, &shape, 100).await.differences(), 0);
    assert_in_step(&db, &migration).await;
}
