//! What a transaction has done and how it was begun decide who answers its reads; what they see is
//! the same.

use crate::live::{Live, text};
use tokio_postgres::Client;

const READ: &str = "SELECT total FROM orders WHERE id = 5";

/// What a transaction is begun with, what it reads then, and whether the shadow may answer.
const CASES: &[(&str, &str, bool)] = &[
    ("BEGIN", "50", true),
    ("BEGIN READ ONLY", "50", true),
    ("BEGIN ISOLATION LEVEL REPEATABLE READ", "50", true),
    ("START TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY", "50", true),
    ("BEGIN; SET TRANSACTION READ ONLY", "50", true),
    ("BEGIN; UPDATE orders SET total = 1 WHERE id = 6", "50", true),
    ("BEGIN; UPDATE orders SET total = 51 WHERE id = 5", "51", true),
    ("BEGIN; SAVEPOINT a; UPDATE orders SET total = 51 WHERE id = 5; ROLLBACK TO a", "50", true),
    ("BEGIN; LOCK TABLE orders IN SHARE MODE", "50", true),
    ("BEGIN; SELECT FROM orders WHERE id = 5 FOR UPDATE", "50", true),
    ("BEGIN; BEGIN", "50", true),
    // The source's alone.
    ("BEGIN ISOLATION LEVEL SERIALIZABLE; BEGIN", "50", false),
    ("BEGIN; START TRANSACTION ISOLATION LEVEL SERIALIZABLE", "50", false),
    (
        "SET default_transaction_isolation = serializable; BEGIN; TABLE orders; \
         SET default_transaction_isolation = 'read committed'",
        "50",
        false,
    ),
    ("BEGIN ISOLATION LEVEL SERIALIZABLE", "50", false),
    ("BEGIN ISOLATION LEVEL SERIALIZABLE, READ ONLY", "50", false),
    ("BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE", "50", false),
    ("BEGIN; SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", "50", false),
    ("SET default_transaction_isolation = serializable; BEGIN", "50", false),
    ("BEGIN; DO $$BEGIN UPDATE orders SET total = 77 WHERE id = 5; END$$", "77", false),
    (
        "BEGIN; SAVEPOINT a; DO $$BEGIN UPDATE orders SET total = 77 WHERE id = 5; END$$; SAVEPOINT b",
        "77",
        false,
    ),
];

async fn served(live: &Live, client: &Client, sql: &str) -> (String, bool) {
    let before = live.shadow_reads();
    let seen = text(client, sql).await;
    (seen, live.shadow_reads() > before + 0.5)
}

#[tokio::test]
async fn how_a_transaction_began_and_what_it_did_decide_who_answers_its_reads() {
    let live = Live::orders("", "reads = 100").await;
    let usual = live.client().await;
    live.until_shadow_serves(&usual, READ).await;
    for (begin, expected, shadow) in CASES {
        // A mark closes the gate for everybody until a verify has passed.
        live.until_clean("orders_v2").await;
        live.until_shadow_serves(&usual, READ).await;
        let client = live.client().await;
        for statement in begin.split_inclusive("; ").filter(|_| !begin.contains("DO ")) {
            client.batch_execute(statement).await.unwrap();
        }
        if begin.contains("DO ") {
            client.batch_execute(begin).await.unwrap();
        }
        if begin.contains("REPEATABLE READ") {
            // Until it is answered nothing is known of the snapshot.
            let first = served(&live, &client, READ).await;
            assert_eq!(first, ((*expected).to_owned(), false), "{begin}");
        }
        let (seen, by_shadow) = served(&live, &client, READ).await;
        assert_eq!(&seen, expected, "{begin}");
        assert!(!by_shadow || *shadow, "the shadow answered: {begin}");
        if *shadow && !begin.contains("UPDATE") && !begin.contains("LOCK") {
            assert!(by_shadow, "the source answered: {begin}");
        }
        // The next one in it, too.
        assert_eq!(&text(&client, READ).await, expected, "{begin}");
        client.batch_execute("ROLLBACK").await.unwrap();
        assert_eq!(text(&client, READ).await, "50", "after {begin}");
    }
}

#[tokio::test]
async fn a_begin_within_a_block_changes_nothing_of_what_its_snapshot_shows() {
    let live = Live::orders("", "reads = 100").await;
    let (client, other) = (live.client().await, live.client().await);
    live.until_shadow_serves(&other, READ).await;
    for (n, again) in ["BEGIN", "START TRANSACTION", "begin work"].iter().enumerate() {
        let total = (300 + n).to_string();
        let marked = format!("DO $$BEGIN UPDATE orders SET total = {total} WHERE id = 5; END$$");
        other.batch_execute(&marked).await.unwrap();
        // What it sees of the shadow is what it was before it is repaired.
        client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await.unwrap();
        assert_eq!(text(&client, READ).await, total);
        live.until_shadow_serves(&other, READ).await;
        client.batch_execute(again).await.unwrap();
        assert_eq!(text(&client, READ).await, total, "{again}");
        client.batch_execute("COMMIT").await.unwrap();
    }
}

#[tokio::test]
async fn reads_behind_a_function_or_a_view_stay_on_the_source() {
    let live = Live::orders("", "reads = 100").await;
    let ddl = "CREATE VIEW seen AS SELECT id AS n, total FROM orders; CREATE FUNCTION total_of(n int) RETURNS int \
               STABLE LANGUAGE sql AS 'SELECT total FROM orders WHERE id = $1'";
    live.db.client.batch_execute(ddl).await.unwrap();
    let client = live.client().await;
    live.until_shadow_serves(&client, READ).await;
    for sql in ["SELECT total FROM seen WHERE n = 5", "SELECT total_of(5)"] {
        for _ in 0..3 {
            assert_eq!(served(&live, &client, sql).await, ("50".to_owned(), false), "{sql}");
        }
    }
}
