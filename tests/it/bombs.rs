//! Statements about a migrated table that are deep, long or many, through the proxy: each is
//! answered as without it, is forwarded or mirrored, and the session goes on.

use crate::live::{Live, ORDERS, ORDERS_TABLE, Pair};

/// By both protocols, and the session still answers.
async fn both_ways(pair: &mut Pair, sql: &str) {
    pair.long(sql).await;
    pair.simple("SELECT count(*), sum(total) FROM orders").await;
}

async fn live() -> (Live, Pair) {
    let live = Live::orders("", "reads = 100").await;
    let pair = Pair::new(&live, ORDERS).await;
    (live, pair)
}

#[tokio::test]
async fn a_hundred_thousand_conditions() {
    let (live, mut pair) = live().await;
    let terms = |of: &str| format!("id = -1{}", format!(" OR {of}").repeat(100_000));
    for of in ["id = 7", "total < 0"] {
        both_ways(&mut pair, &format!("SELECT * FROM orders WHERE {}", terms(of))).await;
        both_ways(&mut pair, &format!("UPDATE orders SET total = 8 WHERE {}", terms(of))).await;
        both_ways(&mut pair, &format!("DELETE FROM orders WHERE {}", terms(of))).await;
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn a_union_of_ten_thousand_branches() {
    let (live, mut pair) = live().await;
    for n in [1_000, 10_000] {
        let branch = "SELECT id, total FROM orders WHERE id = 3";
        let union = format!("{branch}{}", format!(" UNION ALL {branch}").repeat(n));
        both_ways(&mut pair, &union).await;
        let insert = format!("INSERT INTO orders (user_id, id) {union} ON CONFLICT DO NOTHING");
        both_ways(&mut pair, &insert).await;
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn ten_thousand_brackets() {
    let (live, mut pair) = live().await;
    for n in [100, 1_000, 10_000, 50_000] {
        for (open, close) in [("(", ")"), ("(SELECT ", ")"), ("abs(", ")"), ("- ", "")] {
            let deep = format!("{}4{}", open.repeat(n), close.repeat(n));
            for sql in [
                format!("SELECT total FROM orders WHERE id = {deep}"),
                format!("UPDATE orders SET total = total + 1 WHERE id = {deep}"),
                format!(
                    "INSERT INTO orders (id, user_id) VALUES ({deep} + 100, 1) ON CONFLICT DO NOTHING"
                ),
            ] {
                both_ways(&mut pair, &sql).await;
            }
        }
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn literals_of_sixteen_megabytes() {
    let (live, mut pair) = live().await;
    let long = "é".repeat(8 << 20);
    for sql in [
        format!("SELECT id FROM orders WHERE note = '{long}'"),
        format!("UPDATE orders SET note = E'{long}' WHERE id = 3"),
        format!("INSERT INTO orders (id, user_id, note) VALUES (50, 1, $t${long}$t$)"),
        format!("DELETE FROM orders WHERE note = '{long}' /* {long} */"),
        format!("SELECT \"{long}\" FROM orders"),
        format!("UPDATE orders SET total = {} WHERE id = 4", "1".repeat(16 << 20)),
    ] {
        both_ways(&mut pair, &sql).await;
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}
