//! Marks in texts that begin and end transactions themselves: each is in the transaction of its
//! statement, so a text succeeds where it would without the proxy, and what is undone is not marked.

use crate::live::raw::{bind, execute, frame, parse, query, sync};
use crate::live::{Live, ORDERS, ORDERS_TABLE, Pair};

/// Marks that this session sees; those of others are worked off before it looks.
const SEEN: &str = "SELECT count(*) FROM pgsegue.dirty_keys WHERE key IS NULL";

const CODE: &str = "DO $$ BEGIN UPDATE orders SET total = total + 1; END $$";

/// Leaves a failed transaction with two savepoints.
async fn fail(pair: &mut Pair) {
    pair.simple("BEGIN; SAVEPOINT execute_it; SAVEPOINT a").await;
    pair.simple("SELECT 1 / 0").await;
}

#[tokio::test]
async fn a_text_that_leaves_a_failed_transaction_and_writes_succeeds_and_is_marked() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    pair.simple("PREPARE w (int) AS UPDATE orders SET total = total + 1 WHERE id = $1").await;
    for sql in [
        "ROLLBACK TO a; UPDATE orders SET total = total + 1 WHERE id = 2 RETURNING total",
        "ROLLBACK TO execute_it",
        "ROLLBACK TO a; EXECUTE w(3)",
        "ROLLBACK TO a; SELECT 1; EXECUTE w(3); SELECT 'executed'; ROLLBACK TO a; EXECUTE w(4)",
        "/* é */ ROLLBACK TO a; /* é */ {code} /* é */ ; SELECT 'é', 2",
        "ROLLBACK; {code}",
        "ROLLBACK; UPDATE orders SET id = id + 3000 WHERE id = 3 AND random() < 2",
        "ROLLBACK; BEGIN; {code}",
        "ROLLBACK AND CHAIN; {code}; {code}",
        "COMMIT; {code}; BEGIN; {code}; COMMIT; {code}",
        "ROLLBACK; INSERT INTO orders (id, user_id) VALUES (70, 1) RETURNING id; {code}",
        "ROLLBACK; EXPLAIN (ANALYZE, TIMING OFF, SUMMARY OFF, COSTS OFF) EXECUTE w(1)",
        "ROLLBACK; TRUNCATE other CASCADE",
        "ROLLBACK; TRUNCATE orders CASCADE",
    ] {
        fail(&mut pair).await;
        let sql = sql.replace("{code}", CODE);
        pair.simple(&sql).await;
        pair.simple("SELECT sum(total), max(id) FROM orders").await;
        pair.simple("COMMIT").await;
        live.orders_in_step().await;
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

/// All in one packet: whether the block has failed is not known yet.
#[tokio::test]
async fn a_text_that_begins_with_a_semicolon_leaves_a_failed_transaction_all_the_same() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    for ends in [";ROLLBACK", " ; /* ; */ ;commit"] {
        let update = format!("{ends}; UPDATE orders SET total = 1 WHERE id = 1");
        let packet = [query("BEGIN"), query("SELECT 1 / 0"), query(&update)].concat();
        pair.exchange(&update, &packet, 3).await;
        pair.simple("UPDATE orders SET total = 2 WHERE id = 2").await;
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn a_text_with_a_mark_that_fails_says_what_it_would_and_marks_nothing() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    pair.simple("PREPARE w (int) AS UPDATE orders SET total = total / $1").await;
    for sql in [
        "{code}",
        "SELECT",
        "SELEC 1",
        "TRUNCATE orders, wrong syntax",
        "SELECT 1; {code}",
        "{code}; ROLLBACK TO a",
        "ROLLBACK TO a; {code}; SELEC 1",
        "ROLLBACK TO a; SELEC 1; {code}",
        "ROLLBACK TO a; {code}; SELECT 'é', nowhere",
        "ROLLBACK TO a; SELECT 'é', nowhere; {code}",
        "ROLLBACK TO a; {code}; SELECT 1 / 0; {code}",
        "ROLLBACK TO a; SELECT 'é'; TRUNCATE orders, nowhere",
        "ROLLBACK TO a; EXECUTE w(0); SELECT 1",
        "ROLLBACK TO a; EXECUTE w(1, 2); SELECT 1",
        "ROLLBACK TO nothing; {code}",
        "ROLLBACK TO a; {code}; INSERT INTO orders (id, nowhere) VALUES (1, 1)",
        "ROLLBACK; UPDATE orders SET total = total; {code}; SELECT 'é', nowhere",
        "ROLLBACK; {code}; SELECT 1 / 0",
        "ROLLBACK TO a; UPDATE orders SET total = 1 WHERE id = 1 RETURNING 'é', nowhere",
        "ROLLBACK; {code}; VACUUM",
        "ROLLBACK; {code}; SELECT",
    ] {
        let sql = sql.replace("{code}", CODE);
        fail(&mut pair).await;
        pair.simple(&sql).await;
        pair.simple("SELECT 1").await;
        pair.simple("ROLLBACK").await;
        if !sql.ends_with("; SELECT") {
            assert_eq!(live.dirty().await, [], "{sql}");
        }
        fail(&mut pair).await;
        pair.extended(&sql, &[], 0).await;
        pair.simple("ROLLBACK").await;
        live.orders_in_step().await;
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn a_text_that_begins_a_transaction_may_write_where_the_default_is_read_only() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    pair.simple("PREPARE w AS UPDATE orders SET total = total + 1").await;
    pair.simple("SET default_transaction_read_only = on").await;
    for write in [CODE, "EXECUTE w", "TRUNCATE orders"] {
        for sql in [
            "BEGIN READ WRITE; {write}",
            "START TRANSACTION READ WRITE; SELECT 1; {write}; COMMIT; SELECT 2",
            "BEGIN; SET TRANSACTION READ WRITE; {write}; COMMIT; {write}",
            "BEGIN; {write}",
            "SELECT 1; {write}",
            "BEGIN READ WRITE; {write}; SELECT 1 / 0",
        ] {
            pair.simple(&sql.replace("{write}", write)).await;
            pair.simple("COMMIT").await;
            live.orders_in_step().await;
        }
    }
    // What is not read at all is marked before and behind.
    pair.simple("SET standard_conforming_strings = off").await;
    for sql in
        ["BEGIN READ WRITE; INSERT INTO orders VALUES (1, 1, 1)", "SHOW transaction_read_only"]
    {
        pair.simple(sql).await;
        pair.simple("COMMIT").await;
        live.orders_in_step().await;
    }
    let sql = "BEGIN READ WRITE; UPDATE orders SET total = 4; COMMIT";
    pair.simple(sql).await;
    live.orders_in_step().await;
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn a_text_that_is_not_read_leaves_a_failed_transaction_and_is_marked() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    pair.simple("SET standard_conforming_strings = off").await;
    for sql in [
        "ROLLBACK TO a; UPDATE orders SET total = 4 WHERE id = 1 RETURNING id",
        "ROLLBACK; UPDATE orders SET total = 5 WHERE id = 1",
        "ROLLBACK; UPDATE orders SET total = 6 WHERE id = 1; COMMIT; UPDATE orders SET total = 7",
        "ROLLBACK; COPY orders FROM STDIN",
        "ROLLBACK; UPDATE orders SET total = 'é' || nowhere",
        "UPDATE orders SET total = 8",
        "UPDAT orders SET total = 8",
    ] {
        fail(&mut pair).await;
        let data = match sql.contains("COPY") {
            true => [frame(b'd', b"60\t1\t1\tcopied\tx60\n"), frame(b'c', b"")].concat(),
            false => Vec::new(),
        };
        pair.exchange(sql, &[query(sql), data].concat(), 1).await;
        if sql.contains("TO a") {
            assert_eq!(pair.live.rows(SEEN).await.concat(), [Some("1".to_owned())], "{sql}");
            pair.plain.run("SELECT 1").await;
        }
        pair.simple("COMMIT").await;
        live.orders_in_step().await;
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn a_write_on_what_a_name_means_again_in_the_same_text_is_marked() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    let update = "UPDATE orders SET total = total + 1";
    for failing in ["SELECT 1", "SELECT 1 / 0"] {
        for sql in [
            "ROLLBACK TO a; {update}",
            "ROLLBACK TO a; {code}",
            "ROLLBACK; {update}",
            "ROLLBACK; {code}",
            "DROP TABLE pg_temp.orders; {update}",
            "DROP TABLE pg_temp.orders; TRUNCATE orders",
        ] {
            pair.simple("BEGIN; SAVEPOINT a").await;
            pair.simple("CREATE TEMP TABLE orders (total int)").await;
            pair.simple(update).await;
            pair.simple(failing).await;
            pair.simple(&sql.replace("{update}", update).replace("{code}", CODE)).await;
            pair.simple("COMMIT").await;
            live.orders_in_step().await;
        }
        // All at once, so that nothing is known of the end of the transaction.
        for extended in [false, true] {
            pair.simple("BEGIN").await;
            pair.simple("CREATE TEMP TABLE orders (total int)").await;
            pair.simple(update).await;
            pair.simple(failing).await;
            let write = match extended {
                true => {
                    let (bind, execute) = (bind("", "", 0, &[], 0), execute("", 0));
                    [parse("", update, &[]), bind, execute, sync()].concat()
                }
                false => query(update),
            };
            pair.exchange("a pipeline", &[query("ROLLBACK"), write].concat(), 2).await;
            live.orders_in_step().await;
        }
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn a_portal_outlives_a_bind_that_fails_with_its_mark() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    let first = [
        query("BEGIN"),
        parse("s", CODE, &[]),
        parse("r", "SELECT 1", &[]),
        bind("p", "s", 0, &[], 0),
        sync(),
        query("SAVEPOINT a"),
    ];
    pair.exchange("a portal", &first.concat(), 3).await;
    // The name is taken; what follows is skipped.
    let again = [bind("p", "r", 0, &[], 0), bind("p", "r", 0, &[], 0), sync()];
    pair.exchange("another of its name", &again.concat(), 1).await;
    let end = [query("ROLLBACK TO a"), execute("p", 0), sync()];
    pair.exchange("the first", &end.concat(), 2).await;
    assert_eq!(pair.live.rows(SEEN).await.concat(), [Some("1".to_owned())]);
    pair.plain.run("SELECT 1").await;
    pair.simple("COMMIT").await;
    live.orders_in_step().await;
    pair.finish(&live, &[ORDERS_TABLE]).await;
}
