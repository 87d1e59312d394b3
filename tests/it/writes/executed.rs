//! SQL's EXECUTE of what the protocol has prepared: under that name the server may have a form of ours.

use crate::live::raw::{bind, close, describe, execute, parse, sync};
use crate::live::{Live, ORDERS, ORDERS_TABLE, Pair};

/// Texts, declared types of their parameters, and what EXECUTE is given.
const TEXTS: &[(&str, &[u32], &[&str])] = &[
    ("UPDATE orders SET total = $1 WHERE id = $2", &[], &["(5, 2)", "(5, 99)", "(1)"]),
    ("UPDATE orders SET total = $1::int WHERE id = $2", &[23, 23], &["(6, '2')", "(1 + 2, 3)"]),
    (
        "INSERT INTO orders (id, user_id, note) VALUES ($1, 1, $2) RETURNING id, note",
        &[23, 25],
        &["(70, 'é')"],
    ),
    ("UPDATE orders SET total = $1 RETURNING note LIKE '%'", &[0], &["(7)"]),
    ("UPDATE orders SET id = id + $1 WHERE id = 4 RETURNING *", &[], &["(100)"]),
    ("WITH d AS (DELETE FROM orders WHERE id = $1 RETURNING id) SELECT * FROM d", &[20], &["(5)"]),
    (
        "INSERT INTO orders VALUES ($1, 1, 1) ON CONFLICT (id) DO UPDATE SET note = 'again'",
        &[],
        &["(1)"],
    ),
    ("DELETE FROM orders WHERE id = ANY ($1)", &[1007], &["('{6,7}')"]),
    ("SELECT id, total FROM orders WHERE id = $1", &[], &["(1)", "('x')"]),
    ("SELECT note FROM other WHERE id = $1", &[23], &["(1)"]),
    ("DELETE FROM other WHERE id = $1", &[], &["(1)"]),
];

#[tokio::test]
async fn what_the_protocol_prepared_is_executed_in_sql_as_the_client_wrote_it_and_mirrored() {
    let live = Live::orders("", "reads = 100").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    for (n, (sql, types, calls)) in TEXTS.iter().enumerate() {
        let name = format!("p{n}");
        pair.exchange(sql, &[parse(&name, sql, types), sync()].concat(), 1).await;
        for arguments in *calls {
            let execute_it = format!("EXECUTE {name}{arguments}");
            pair.simple(&execute_it).await;
            pair.simple("BEGIN").await;
            pair.simple(&execute_it).await;
            pair.simple("ROLLBACK").await;
            for format in [0, 1] {
                let bound = bind("", "", 0, &[], format);
                let frames = [
                    parse("", &execute_it, &[]),
                    bound,
                    describe(b'P', ""),
                    execute("", 0),
                    sync(),
                ];
                pair.exchange(&execute_it, &frames.concat(), 1).await;
            }
            pair.simple(&format!("SELECT 1; {execute_it}; SELECT 2")).await;
        }
        // The protocol goes on with it.
        let values = vec![None; sql.matches('$').count()];
        let frames = [
            bind("", &name, 0, &values, 0),
            describe(b'P', ""),
            execute("", 0),
            close(b'S', &name),
            sync(),
        ];
        pair.exchange(sql, &frames.concat(), 1).await;
    }
    assert!(live.statements("recorded", "write") < 0.5, "nothing was to be marked");
    for (n, (_, _, calls)) in TEXTS.iter().enumerate() {
        pair.simple(&format!("EXECUTE p{n}{}", calls[0])).await;
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

/// What is bound is on the shadow, which may not answer any more.
#[tokio::test]
async fn a_read_that_was_prepared_on_the_shadow_is_executed_in_sql_on_the_source() {
    let sql = "SELECT total FROM orders WHERE id = 5";
    let live = Live::orders("", "reads = 100").await;
    let warm = live.client().await;
    live.until_shadow_serves(&warm, sql).await;
    let mut pair = Pair::new(&live, ORDERS).await;
    pair.exchange(sql, &[parse("r", sql, &[]), sync()].concat(), 1).await;
    pair.simple("EXECUTE r").await;
    // Nobody has closed the gate for it: what the shadow says is not what is to be answered.
    live.db
        .client
        .batch_execute("UPDATE orders_v2 SET total_minor = 1 WHERE id = 5")
        .await
        .unwrap();
    pair.simple("EXECUTE r").await;
    let frames = [parse("", "EXECUTE r", &[]), bind("", "", 0, &[], 1), execute("", 0), sync()];
    pair.exchange("EXECUTE r, extended", &frames.concat(), 1).await;
    pair.same();
}

/// What is closed in the group of a Bind is not to be had, in whatever form.
#[tokio::test]
async fn a_bind_behind_the_close_of_its_statement_is_refused_whatever_form_it_asks_for() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    let sql = "UPDATE orders SET total = 1 WHERE id = 1";
    let bound = [bind("", "w", 0, &[], 0), execute("", 0)].concat();
    let parsed = [parse("w", sql, &[]), sync()].concat();
    for lock in [false, true] {
        pair.exchange("parsed", &parsed, 1).await;
        if lock {
            // From here on writes only record: another form.
            live.db.client.batch_execute("BEGIN; LOCK TABLE orders_v2").await.unwrap();
            pair.simple("UPDATE orders SET total = 2 WHERE id = 2").await;
        }
        pair.exchange("closed", &[close(b'S', "w"), bound.clone(), sync()].concat(), 1).await;
        pair.exchange("again", &[bound.clone(), sync()].concat(), 1).await;
        let anew =
            [close(b'S', "w"), parse("w", sql, &[]), bound.clone(), close(b'S', "w"), sync()];
        pair.exchange("closed and parsed", &anew.concat(), 1).await;
    }
    live.db.client.batch_execute("ROLLBACK").await.unwrap();
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

/// PREPARE takes none of these: there is no form of ours to be executed in its place.
#[tokio::test]
async fn a_write_within_a_utility_statement_that_the_protocol_prepared_is_executed_and_marked() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    for (n, sql) in [
        "CREATE TABLE gone AS WITH d AS (DELETE FROM orders WHERE id = 1 RETURNING *) SELECT * FROM d",
        "COPY (DELETE FROM orders WHERE id = 3 RETURNING id) TO STDOUT",
    ]
    .iter()
    .enumerate()
    {
        let before = live.statements("recorded", "write");
        let name = format!("s{n}");
        pair.exchange(sql, &[parse(&name, sql, &[]), sync()].concat(), 1).await;
        match n {
            0 => pair.simple("EXECUTE s0").await,
            _ => pair.extended("EXECUTE s1", &[], 0).await,
        }
        assert!(live.statements("recorded", "write") > before, "nothing is marked: {sql}");
        live.orders_in_step().await;
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}
