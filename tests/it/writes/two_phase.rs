//! Mirrored writes in transactions that are prepared and ended later, by whomever: the shadow follows with
//! the commit, and answers nobody as long as a key is on record in one of them.

use crate::live::raw::{bind, describe, execute, frame, parse, query, sync};
use crate::live::{Live, ORDERS, ORDERS_TABLE, Pair};

const READ: &str = "SELECT * FROM orders ORDER BY id";

const PREPARE: &str = "PREPARE TRANSACTION '<db>'";

/// A write, the data of a COPY, and what takes the table back to where it was.
const WRITES: &[(&str, &str, &str)] = &[
    (
        "UPDATE orders SET total = total + 1 WHERE id = 5",
        "",
        "UPDATE orders SET total = 50 WHERE id = 5",
    ),
    (
        "UPDATE orders SET total = total + 1 RETURNING id, total",
        "",
        "UPDATE orders SET total = id * 10",
    ),
    (
        "UPDATE orders SET id = id + 100 WHERE id IN (2, 3)",
        "",
        "UPDATE orders SET id = id - 100 WHERE id > 100",
    ),
    (
        "INSERT INTO orders VALUES (5, 1), (60, 1) ON CONFLICT (id) DO UPDATE SET total = 6",
        "",
        "DELETE FROM orders WHERE id = 60; UPDATE orders SET total = 50 WHERE id = 5",
    ),
    (
        "WITH d AS (DELETE FROM orders WHERE id = 4 RETURNING *) INSERT INTO orders SELECT id + 100, \
         user_id, total, note, email FROM d RETURNING id",
        "",
        "UPDATE orders SET id = 4 WHERE id = 104",
    ),
    ("COPY orders (id, user_id) FROM STDIN", "60\t1\n61\t2\n", "DELETE FROM orders WHERE id >= 60"),
    (
        "COPY orders (note, user_id, id) FROM STDIN (FORMAT csv) WHERE id > 60",
        "a,1,60\n\"b\n\",2,61\n",
        "DELETE FROM orders WHERE id >= 60",
    ),
    (
        "UPDATE orders SET id = id + 100 WHERE id = 7 AND random() < 2",
        "",
        "UPDATE orders SET id = 7 WHERE id = 107",
    ),
];

/// Who ends a prepared transaction.
#[derive(Clone, Copy, Debug)]
enum By {
    TheSame,
    Another,
    SomebodyPastTheProxy,
}

const EVERYBODY: [By; 3] = [By::TheSame, By::Another, By::SomebodyPastTheProxy];

fn extended(sql: &str) -> Vec<u8> {
    let bound = [bind("", "", 0, &[], 0), describe(b'P', ""), execute("", 0), sync()];
    [parse("", sql, &[]), bound.concat()].concat()
}

/// One statement, by the extended protocol in every other case.
async fn run(pair: &mut Pair, n: usize, sql: &str) {
    if n.is_multiple_of(2) {
        pair.own(sql, query).await;
    } else {
        pair.own(sql, extended).await;
    }
}

/// Ends it, and reads at once.
async fn end(live: &Live, pair: &mut Pair, by: By, n: usize, sql: &str) {
    let mut old = None;
    match by {
        By::TheSame => run(pair, n, sql).await,
        By::Another => {
            old = Some(pair.another(live).await);
            run(pair, n, sql).await;
        }
        By::SomebodyPastTheProxy => pair.elsewhere(live, sql).await,
    }
    for _ in 0..3 {
        pair.simple(READ).await;
    }
    drop(old);
}

#[tokio::test]
async fn prepared_transactions_are_followed_when_they_are_committed_and_when_not() {
    let live = Live::orders("", "reads = 100").await;
    let reader = live.client().await;
    let mut pair = Pair::new(&live, ORDERS).await;
    let mut n = 0;
    for (sql, data, undo) in WRITES {
        for by in EVERYBODY {
            for ended in ["ROLLBACK PREPARED '<db>'", "COMMIT PREPARED '<db>'"] {
                n += 1;
                live.until_shadow_serves(&reader, READ).await;
                run(&mut pair, n, "BEGIN").await;
                if data.is_empty() {
                    run(&mut pair, n, sql).await;
                } else {
                    let data = [frame(b'd', data.as_bytes()), frame(b'c', b"")].concat();
                    pair.exchange(sql, &[query(sql), data].concat(), 1).await;
                }
                pair.simple(READ).await;
                run(&mut pair, n, PREPARE).await;
                pair.simple(READ).await;
                end(&live, &mut pair, by, n, ended).await;
                pair.same();
                live.orders_in_step().await;
                if ended.starts_with("COMMIT") {
                    pair.simple(undo).await;
                }
            }
        }
    }
    pair.own("COMMIT PREPARED '<db>'", query).await;
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

/// Somebody has locked the shadow's row, so that its key is on record in the prepared transaction alone, which
/// nobody sees before it is committed.
#[tokio::test]
async fn no_row_is_stale_behind_a_prepared_transaction_whose_mirror_failed() {
    let live = Live::orders("", "reads = 100").await;
    let (reader, direct) = (live.client().await, live.direct().await);
    let mut pair = Pair::new(&live, ORDERS).await;
    let copy = [query("COPY orders (id, user_id) FROM STDIN"), frame(b'd', b"20\t1\n")].concat();
    let copy = [copy, frame(b'c', b"")].concat();
    for (n, by) in EVERYBODY.into_iter().enumerate() {
        for ended in ["ROLLBACK PREPARED '<db>'", "COMMIT PREPARED '<db>'"] {
            pair.simple("DELETE FROM orders WHERE id = 20").await;
            live.orders_in_step().await;
            live.until_shadow_serves(&reader, READ).await;
            // A row that is not there is locked by its key.
            let lock = "BEGIN; SELECT FROM orders_v2 WHERE id = 5 FOR UPDATE; \
                        INSERT INTO orders_v2 VALUES (20, 0, 0, '')";
            direct.batch_execute(lock).await.unwrap();
            pair.simple("BEGIN").await;
            run(&mut pair, n, "UPDATE orders SET total = total + 1 WHERE id = 5").await;
            pair.exchange("COPY", &copy, 1).await;
            run(&mut pair, n, PREPARE).await;
            assert_eq!(live.dirty().await, [], "nobody sees it");
            pair.simple(READ).await;
            end(&live, &mut pair, by, n, ended).await;
            pair.same();
            direct.batch_execute("ROLLBACK").await.unwrap();
            pair.simple(READ).await;
        }
    }
    live.orders_in_step().await;
    live.until_shadow_serves(&reader, READ).await;
    pair.simple(READ).await;
    pair.finish(&live, &[ORDERS_TABLE]).await;
}
