//! What is said of statements whose route hangs on what stands beside them, or on the part of the source
//! that they name: what the proxy does, and what the workload says of it.

use crate::explain::{explained, field, proxy, said};
use crate::support::{ORDERS_V2, Proxy, TestDb, connect, database, eventually};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_read_among_other_statements_of_one_text_stays_on_the_source_and_says_what_to_do() {
    let (_db, proxy) = proxy().await;
    said(&proxy.pgsegue(&["migration", "start", "orders_v2"]));
    let text = "SELECT total FROM orders WHERE id = 7";
    let alone = explained(&proxy, &[&format!("{text};")]);
    assert_eq!((field(&alone[0], "route"), &alone[0]["way_out"]), ("shadow", &json!(null)));
    let among = explained(&proxy, &[&format!("{text}; SELECT 1; SELECT ctid FROM orders")]);
    assert_eq!(field(&among[0], "class"), "read");
    assert_eq!(field(&among[0], "route"), "source");
    assert_eq!(field(&among[0], "why"), "it is one of several statements of one text");
    assert_eq!(field(&among[0], "way_out"), "send it as a text of its own");
    // Alone it stays just as well.
    let unfit = "the shadow cannot answer it: a system column";
    assert_eq!((field(&among[2], "why"), &among[2]["way_out"]), (unfit, &json!(null)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_among_other_statements_is_not_understood_and_one_by_itself_is() {
    let (_db, proxy) = proxy().await;
    said(&proxy.pgsegue(&["migration", "start", "orders_v2"]));
    let alone = explained(&proxy, &["COPY orders FROM STDIN;"]);
    assert_eq!(field(&alone[0], "route"), "source, mirrored to the shadow");
    let among = explained(&proxy, &["BEGIN; COPY orders FROM STDIN; COMMIT"]);
    assert_eq!(field(&among[1], "class"), "unclassified");
    assert_eq!(field(&among[1], "route"), "source, behind a mark");
    assert_eq!(field(&among[1], "not_understood"), "COPY FROM among other statements");
    assert_eq!(field(&among[1], "way_out"), "send COPY FROM STDIN as a text of its own");
    let refused = explained(&proxy, &["--reads", "0", "SELECT 1; COPY items FROM STDIN"]);
    assert_eq!(field(&refused[1], "route"), "refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_behind_a_change_of_what_names_mean_is_marked_and_one_that_says_its_schema_is_not()
{
    let (_db, proxy) = proxy().await;
    said(&proxy.pgsegue(&["migration", "start", "orders_v2"]));
    let update = "UPDATE orders SET total = 1 WHERE id = 7";
    let whole = "UPDATE public.orders SET total = 1 WHERE id = 7";
    for (before, marked) in [
        ("SET search_path = public", true),
        ("CREATE TEMP TABLE orders (id int)", true),
        ("SET work_mem = '1MB'", false),
        ("BEGIN", false),
    ] {
        let all = explained(&proxy, &[&format!("{before}; {update}; SELECT 1; {whole}")]);
        let route = if marked { "source, behind a mark" } else { "source, mirrored to the shadow" };
        assert_eq!(field(&all[1], "route"), route, "{before}");
        assert_eq!(field(&all[3], "route"), "source, mirrored to the shadow", "{before}");
        if marked {
            let why = "a write after a change of what names mean";
            assert_eq!(field(&all[1], "not_understood"), why);
        }
    }
}

/// A proxy for a source with two partitions, both with rows.
async fn parted() -> (TestDb, Proxy) {
    let db = database().await;
    let tables = "CREATE TABLE orders (id int PRIMARY KEY, user_id int NOT NULL, total int) \
            PARTITION BY RANGE (id); \
        CREATE TABLE orders_low PARTITION OF orders FOR VALUES FROM (0) TO (50); \
        CREATE TABLE orders_high PARTITION OF orders FOR VALUES FROM (50) TO (100); \
        CREATE TABLE orders_v2 (id int PRIMARY KEY, customer_id int NOT NULL, total_minor bigint); \
        CREATE TABLE words (word text); \
        INSERT INTO orders SELECT i, i % 7, i FROM generate_series(1, 99) AS i";
    db.client.batch_execute(tables).await.unwrap();
    let proxy = Proxy::start(&db, &format!("{ORDERS_V2}[migration.routing]\nreads = 100\n")).await;
    said(&proxy.pgsegue(&["migration", "start", "orders_v2"]));
    (db, proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_of_a_partition_by_its_name_is_the_sources() {
    let (_db, proxy) = parted().await;
    let (parts, writes) = (
        "partitions by their names are the source's",
        "it is read by a statement that writes another table",
    );
    for (text, why) in [
        ("SELECT * FROM orders_low WHERE id = 8", parts),
        ("SELECT * FROM orders_low WHERE id = 8 FOR UPDATE", parts),
        ("WITH o AS (SELECT id FROM orders_high) SELECT * FROM o", parts),
        ("TABLE public.orders_low", parts),
        ("INSERT INTO words SELECT id FROM orders_low", writes),
        ("WITH d AS (DELETE FROM words RETURNING word) SELECT * FROM orders_low, d", writes),
        ("WITH d AS (DELETE FROM words RETURNING word) SELECT * FROM orders, d", writes),
    ] {
        let of = explained(&proxy, &[text]);
        assert_eq!((field(&of[0], "route"), field(&of[0], "why")), ("source", why), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncate_of_a_partition_is_not_understood_and_the_workload_says_the_same() {
    let (_db, proxy) = parted().await;
    let text = "TRUNCATE orders_low";
    let of = explained(&proxy, &[text]);
    let said_of = ["class", "route", "not_understood"].map(|name| field(&of[0], name).to_owned());
    let why = "TRUNCATE of a part of the table";
    assert_eq!(said_of, ["unclassified", "source, then a mark", why]);
    assert!(field(&of[0], "sql").contains("truncated_orders_v2"), "{of:?}");
    let whole = explained(&proxy, &["TRUNCATE orders"]);
    assert_eq!(field(&whole[0], "route"), "source, then the shadow");
    connect(&proxy.conninfo()).await.batch_execute(text).await.unwrap();
    let line = eventually("it is counted", async || {
        let (_, body) = proxy.get("/migrations/orders_v2/workload");
        let report: Value = serde_json::from_str(&body).unwrap_or_default();
        if report["calls"] == 1 { Ok(report["statements"][0].clone()) } else { Err(body) }
    })
    .await;
    assert_eq!((field(&line, "class"), field(&line, "why")), ("unclassified", why));
    assert_eq!((&line["routes"]["marked"], &line["routes"]["mirrored"]), (&json!(1), &json!(0)));
    assert_eq!(line["way_out"], of[0]["way_out"]);
}
