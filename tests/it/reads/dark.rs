//! Dark reads compare only what has one right answer, and only where the client's session can be
//! made again.

use crate::live::{Live, text};
use crate::support::eventually;

const READINGS: &str = "
    CREATE TABLE readings (id int PRIMARY KEY, f float8, n numeric, p numeric(8, 2), t text);
    INSERT INTO readings SELECT i, i / 3.0, CASE WHEN i % 2 = 0 THEN 1.0 ELSE 1.00 END, i, 't' || i % 3
        FROM generate_series(1, 20) i;
    CREATE TABLE plain (id int PRIMARY KEY, p numeric(8, 2), t text);
    INSERT INTO plain SELECT i, i, 't' || i % 3 FROM generate_series(1, 20) i;
    CREATE TABLE own (id int PRIMARY KEY);
    ALTER TABLE own ENABLE ROW LEVEL SECURITY;
    CREATE POLICY own ON own USING (id::text = current_setting('app.tenant_id', true));
    CREATE VIEW any_two AS SELECT id AS plain_id FROM plain LIMIT 2;
    CREATE TABLE readings_v2 (id bigint PRIMARY KEY, f float8, n numeric, p numeric(8, 2), t text);
    CREATE TABLE plain_v2 (id bigint PRIMARY KEY, p numeric(8, 2), t text);
    ANALYZE";

fn toml(routing: &str) -> String {
    let migration = |name: &str, columns: &str| {
        format!(
            "[[migration]]\nname = \"{name}_v2\"\nsource = \"public.{name}\"\n\
             shadow = \"public.{name}_v2\"\nkey = [\"id\"]\n[migration.columns]\nid = \"id\"\n\
             p = \"p\"\nt = \"t\"\n{columns}\n[migration.routing]\n{routing}\n"
        )
    };
    migration("readings", "f = \"f\"\nn = \"n\"") + &migration("plain", "")
}

/// One right answer each.
const COMPARED: &[&str] = &[
    "SELECT * FROM plain WHERE id = 3",
    "SELECT f, n FROM readings WHERE id = 3",
    "SELECT count(*), sum(p), avg(id) FROM plain",
    "SELECT t, count(*), max(p) FROM plain GROUP BY t",
    "SELECT DISTINCT t FROM plain",
    "SELECT id, t FROM plain ORDER BY id LIMIT 4",
    "SELECT r.f FROM readings r JOIN plain USING (id)",
    "SELECT count(*) FROM readings",
    "WITH few AS (SELECT id FROM plain WHERE id < 4) SELECT * FROM few",
];

/// None, or one that hangs on what is not made again.
const NEVER: &[&str] = &[
    "SELECT sum(f) FROM readings",
    "SELECT avg(f) FROM readings WHERE id < 9",
    "SELECT sum(id::float8) FROM plain",
    "SELECT DISTINCT n FROM readings",
    "SELECT max(n) FROM readings",
    "SELECT n, count(*) FROM readings GROUP BY n",
    "SELECT n FROM readings UNION SELECT 1.0",
    "SELECT id FROM plain LIMIT 3",
    "SELECT id FROM plain ORDER BY t LIMIT 3",
    "SELECT array_agg(id) FROM plain",
    "SELECT string_agg(t, ',') FROM plain",
    "SELECT ARRAY(SELECT id FROM plain)",
    "SELECT row_number() OVER (ORDER BY t) FROM plain",
    "SELECT DISTINCT ON (t) id FROM plain ORDER BY t",
    "SELECT id, now() FROM plain WHERE id = 1",
    "SELECT id FROM plain WHERE t = current_setting('app.tenant_id', true)",
    "SELECT id FROM plain WHERE t = session_user",
    "SELECT id FROM plain WHERE id IN (SELECT plain_id FROM any_two)",
    "SELECT p.id FROM plain p JOIN own ON own.id = p.id",
    "SELECT id, generate_series(1, 2) FROM plain WHERE id = 1",
    // What is summed up or picked is worked out.
    "SELECT sum(sqrt(id)) FROM plain",
    "SELECT t, avg(ln(id + 1)) FROM plain GROUP BY t",
    "SELECT DISTINCT right(t, 1)::numeric FROM plain",
    "SELECT max(right(t, 1)::numeric) FROM plain",
    "SELECT DISTINCT id % 2 * interval '1 day' + (1 - id % 2) * interval '24 hours' FROM plain",
    "SELECT DISTINCT t COLLATE \"C\" FROM plain",
    // What may be another value each time, or changes something.
    "SELECT id, txid_current() FROM plain WHERE id = 1",
    "SELECT id, pg_notify('x', t) FROM plain WHERE id = 1",
];

fn offered(live: &Live) -> f64 {
    let count = |outcome: &str| {
        let of = |name: &str| {
            let labels = format!("{{migration=\"{name}_v2\",outcome=\"{outcome}\"}}");
            live.proxy.metric(&format!("pgsegue_dark_reads_total{labels}")).unwrap_or(0.0)
        };
        of("plain") + of("readings")
    };
    count("compared") + count("dropped")
}

#[tokio::test]
async fn only_queries_of_one_right_answer_are_compared_in_the_dark() {
    let names = ["readings_v2", "plain_v2"];
    let live = Live::ready(READINGS, &toml("reads = 100\ndark_reads = 100"), &names).await;
    let client = live.client().await;
    for sql in COMPARED {
        eventually(&format!("a dark read of {sql}"), async || {
            let before = offered(&live);
            text(&client, sql).await;
            if offered(&live) > before { Ok(()) } else { Err(before) }
        })
        .await;
    }
    let known = COMPARED[0];
    let settled = async || {
        let before = offered(&live);
        text(&client, known).await;
        eventually("the queue is worked off", async || {
            let now = offered(&live) - before;
            if now > 0.5 { Ok(()) } else { Err(now) }
        })
        .await;
        // What was offered before it has been counted before it.
        offered(&live)
    };
    for sql in NEVER {
        let stays = ["generate_series", "own", "txid_current", "pg_notify"];
        if !stays.iter().any(|word| sql.contains(word)) {
            live.until_shadow_serves(&client, sql).await;
        }
        let before = settled().await;
        for _ in 0..3 {
            text(&client, sql).await;
        }
        assert!((settled().await - before - 1.0).abs() < 0.5, "compared: {sql}");
    }
    // Not behind a write of the transaction, whatever the query.
    let before = settled().await;
    client.batch_execute("BEGIN; UPDATE plain SET t = t WHERE id = 1").await.unwrap();
    text(&client, known).await;
    client.batch_execute("ROLLBACK").await.unwrap();
    assert!((settled().await - before - 1.0).abs() < 0.5, "compared within a transaction");
    for name in names {
        let labels = format!("{{migration=\"{name}\",outcome=\"mismatched\"}}");
        let wrong = live.proxy.metric(&format!("pgsegue_dark_reads_total{labels}"));
        assert!(wrong.unwrap_or(0.0) < 0.5, "{}", live.proxy.log());
    }
}

/// What the shadow lacks is on record: that is no news, and no alarm.
#[tokio::test]
async fn a_dirty_key_is_no_mismatch_of_a_dark_read() {
    let names = ["readings_v2", "plain_v2"];
    let live = Live::ready(READINGS, &toml("reads = 0\ndark_reads = 100"), &names).await;
    let (client, locker) = (live.client().await, live.direct().await);
    let sql = "SELECT id, t FROM plain WHERE id = 7";
    let compared = || {
        let line = "pgsegue_dark_reads_total{migration=\"plain_v2\",outcome=\"compared\"}";
        live.proxy.metric(line).unwrap_or(0.0)
    };
    let until_compared = async || {
        eventually("a dark read", async || {
            let before = compared();
            text(&client, sql).await;
            if compared() > before { Ok(()) } else { Err(before) }
        })
        .await;
    };
    until_compared().await;
    locker.batch_execute("BEGIN; SELECT FROM plain_v2 WHERE id = 7 FOR UPDATE").await.unwrap();
    for n in 0..5 {
        client
            .batch_execute(&format!("UPDATE plain SET t = 'dirty {n}' WHERE id = 7"))
            .await
            .unwrap();
        for _ in 0..3 {
            assert_eq!(text(&client, sql).await, format!("7 dirty {n}"));
        }
    }
    locker.batch_execute("ROLLBACK").await.unwrap();
    live.until_clean("plain_v2").await;
    until_compared().await;
    let line = "pgsegue_dark_reads_total{migration=\"plain_v2\",outcome=\"mismatched\"}";
    assert!(live.proxy.metric(line).unwrap_or(0.0) < 0.5, "{}", live.proxy.log());
}
