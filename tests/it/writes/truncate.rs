//! TRUNCATE: the shadow is emptied behind it in the same transaction, or the migration is marked;
//! the client sees its own statement and nothing else.

use super::marked::OWN_MARKS;
use crate::live::raw::{bind, execute, parse, query, sync};
use crate::live::{Live, ORDERS, ORDERS_TABLE, ORDERS_V2, Pair, orders_toml, outcome, text};

const FORMS: &[&str] = &[
    "TRUNCATE orders",
    "TRUNCATE TABLE ONLY public.orders RESTART IDENTITY",
    "TRUNCATE orders *, other CONTINUE IDENTITY RESTRICT",
    "TRUNCATE other, \"orders\" CASCADE",
    "TRUNCATE other CASCADE",
    "TRUNCATE other",
    "TRUNCATE orders, nowhere",
    "TRUNCATE orders, orders",
    "/* a */ TRUNCATE /* b */ orders -- the end",
    "TRUNCATE orders;",
];

const TEXTS: &[&str] = &[
    ";; TRUNCATE orders ; -- the end",
    "TRUNCATE orders; INSERT INTO orders VALUES (1, 1, 1); SELECT count(*) FROM orders",
    "BEGIN; TRUNCATE orders; ROLLBACK; SELECT count(*) FROM orders",
    "BEGIN; TRUNCATE orders; INSERT INTO orders VALUES (1, 1, 1); COMMIT; TRUNCATE other",
    "SELECT 1; TRUNCATE orders; SELECT 1 / 0",
    "TRUNCATE orders; TRUNCATE other; TRUNCATE orders",
    "BEGIN READ ONLY; TRUNCATE orders",
    "ROLLBACK; TRUNCATE orders; SELECT nowhere",
    "ROLLBACK",
];

const REFILL: &str = "INSERT INTO orders SELECT i, 1, i, 'again' FROM generate_series(1, 5) i \
                      ON CONFLICT DO NOTHING";

#[tokio::test]
async fn every_form_looks_the_same_as_without_the_proxy_and_needs_no_mark() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    for sql in FORMS {
        pair.every_way(sql).await;
        pair.simple(REFILL).await;
        pair.simple("BEGIN").await;
        pair.simple(sql).await;
        if !sql.contains("nowhere") {
            assert_eq!(pair.live.rows(OWN_MARKS).await.concat(), [Some("0".to_owned())], "{sql}");
            pair.plain.run("SELECT 1").await;
        }
        pair.simple(REFILL).await;
        pair.simple("COMMIT").await;
    }
    for sql in TEXTS {
        pair.simple(sql).await;
        pair.simple(REFILL).await;
    }
    let frames: Vec<u8> = ["TRUNCATE orders", REFILL, "TRUNCATE other, orders", "SELECT 1"]
        .iter()
        .flat_map(|sql| query(sql))
        .collect();
    pair.exchange("a pipeline of texts", &frames, 4).await;
    assert!(live.statements("recorded", "write") < 0.5);
    assert_eq!(live.dirty().await, []);
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn prepared_once_it_is_followed_at_every_execute() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    let prepare = [parse("t", "TRUNCATE orders", &[]), parse("r", REFILL, &[]), sync()];
    pair.exchange("prepare", &prepare.concat(), 1).await;
    let run = |name: &str| [bind("", name, 0, &[], 0), execute("", 0)].concat();
    pair.exchange("alone", &[run("t"), sync()].concat(), 1).await;
    let several =
        [run("r"), run("t"), run("r"), sync(), run("t"), run("t"), sync(), run("r"), sync()];
    pair.exchange("a pipeline", &several.concat(), 3).await;
    let again = [bind("p", "t", 0, &[], 0), execute("p", 0), execute("p", 0), run("r"), sync()];
    pair.exchange("a portal twice", &again.concat(), 1).await;
    pair.simple("BEGIN").await;
    pair.exchange("in a block", &[run("t"), run("r"), sync()].concat(), 1).await;
    pair.simple("COMMIT").await;
    assert_eq!(live.dirty().await, []);
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn what_foreign_keys_lead_to_is_followed_whatever_its_name() {
    let live = Live::orders("unclassified = \"refuse\"", "").await;
    let ddl = "CREATE TABLE parent AS SELECT DISTINCT user_id AS id FROM orders; \
               ALTER TABLE parent ADD PRIMARY KEY (id); \
               CREATE TABLE unrelated (id int PRIMARY KEY); \
               ALTER TABLE orders ADD FOREIGN KEY (user_id) REFERENCES parent";
    live.direct().await.batch_execute(ddl).await.unwrap();
    let client = live.client().await;
    let refused = outcome(&client, "TRUNCATE orders, orders_v2").await.unwrap_err();
    assert!(refused.starts_with("0A000"), "{refused}");
    client.batch_execute("TRUNCATE unrelated CASCADE").await.unwrap();
    assert_eq!(text(&client, "SELECT count(*) FROM orders_v2").await, "10");
    client.batch_execute("BEGIN; TRUNCATE parent CASCADE").await.unwrap();
    assert_eq!(text(&client, OWN_MARKS).await, "0");
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(text(&client, "SELECT count(*) FROM orders_v2").await, "0");
    live.orders_in_step().await;
}

#[tokio::test]
async fn a_shadow_that_cannot_be_emptied_is_recorded_in_the_same_transaction() {
    let live = Live::orders("", "").await;
    let (client, direct) = (live.client().await, live.direct().await);
    direct.batch_execute("CREATE TABLE child (id bigint REFERENCES orders_v2)").await.unwrap();
    client.batch_execute(REFILL).await.unwrap();
    client.batch_execute("BEGIN; TRUNCATE orders").await.unwrap();
    let reason = "SELECT reason FROM pgsegue.dirty_keys WHERE key IS NULL";
    let reason = text(&client, reason).await;
    assert!(reason.starts_with("TRUNCATE: 0A000"), "{reason}");
    client.batch_execute("COMMIT").await.unwrap();
    live.orders_in_step().await;
    direct.batch_execute("DROP TABLE child").await.unwrap();

    client.batch_execute("BEGIN; TRUNCATE orders_v2").await.unwrap();
    assert_eq!(text(&client, OWN_MARKS).await, "1");
    client.batch_execute("COMMIT").await.unwrap();
    live.orders_in_step().await;

    // Neither repair nor verify gets past this lock.
    let lock = "BEGIN; LOCK TABLE orders_v2 IN SHARE ROW EXCLUSIVE MODE";
    direct.batch_execute(lock).await.unwrap();
    assert_eq!(outcome(&client, "TRUNCATE orders").await, Ok(vec![0]));
    let dirty = live.dirty().await;
    assert!(dirty.len() == 1 && dirty[0].1.starts_with("TRUNCATE: 55P03"), "{dirty:?}");
    direct.batch_execute("COMMIT").await.unwrap();
    live.orders_in_step().await;
}

#[tokio::test]
async fn a_source_that_a_trigger_fills_again_is_marked() {
    let trigger = "CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS \
                   $$ BEGIN INSERT INTO orders VALUES (99, 1, 1); RETURN NULL; END $$; \
                   CREATE TRIGGER again AFTER TRUNCATE ON orders EXECUTE FUNCTION again()";
    let accepted = "accepted = [\"trigger public.orders.again\", \"function public.again()\"]";
    let ddl = format!("{ORDERS};{ORDERS_V2};{trigger}");
    let live = Live::ready(&ddl, &orders_toml(accepted, ""), &["orders_v2"]).await;
    let client = live.client().await;
    client.batch_execute("BEGIN; TRUNCATE orders").await.unwrap();
    assert_eq!(text(&client, OWN_MARKS).await, "1");
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(text(&client, "SELECT id FROM orders").await, "99");
    live.orders_in_step().await;
}

#[tokio::test]
async fn whoever_calls_the_step_can_only_make_the_shadow_follow() {
    let live = Live::orders("", "").await;
    let (client, other) = (live.client().await, live.direct().await);
    let call = "SELECT pgsegue.truncated_orders_v2(0)";
    assert_eq!(text(&other, call).await, "0");
    assert_eq!(text(&other, "SELECT count(*) FROM orders_v2").await, "10");
    client.batch_execute("TRUNCATE orders").await.unwrap();
    // A snapshot that sees no row, of a table that has some.
    other.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; TABLE orders").await.unwrap();
    client.batch_execute("INSERT INTO orders VALUES (1, 1, 1)").await.unwrap();
    other.batch_execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE").await.unwrap();
    assert_eq!(text(&other, "SELECT count(*) FROM orders").await, "0");
    assert_eq!(text(&other, call).await, "1");
    other.batch_execute("COMMIT").await.unwrap();
    assert_eq!(text(&other, "SELECT count(*) FROM orders_v2").await, "1");
    live.orders_in_step().await;
}
