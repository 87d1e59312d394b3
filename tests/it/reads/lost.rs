//! Rows written while the shadow serves that do not come back from it as they are in the source: nobody
//! reads them there, from the moment on that they are committed.

use crate::live::{Live, text};
use crate::support::eventually;

const DDL: &str = "
    CREATE TABLE stock (id int PRIMARY KEY, amount numeric, note text);
    INSERT INTO stock SELECT i, i, 'note' FROM generate_series(1, 10) AS i; ANALYZE;
    CREATE TABLE stock_v2 (id int PRIMARY KEY, amount int, u text);";

const TOML: &str = r#"
[[migration]]
name = "stock_v2"
source = "public.stock"
shadow = "public.stock_v2"
key = ["id"]
[migration.columns]
id = "id"
amount = "amount"
u = "lower(note)"
[migration.reverse]
amount = "amount"
note = "u"
[migration.routing]
reads = 100
"#;

const READ: &str = "SELECT amount || ' ' || note FROM stock WHERE id = 5";

/// Writes of such a row.
const WRITES: &[&str] = &[
    "UPDATE stock SET amount = 5.5 WHERE id = 5",
    "UPDATE stock SET note = 'Note' WHERE id = 5",
    "UPDATE stock SET amount = id + 0.5 WHERE id IN (4, 5, 6)",
    "DELETE FROM stock WHERE id = 5; INSERT INTO stock VALUES (5, 0.5, 'note')",
    "INSERT INTO stock VALUES (5, 1, '') ON CONFLICT (id) DO UPDATE SET amount = 7.25",
    "BEGIN; SAVEPOINT a; UPDATE stock SET amount = 5.5 WHERE id = 5; RELEASE a; COMMIT",
    "BEGIN; UPDATE stock SET amount = 6 WHERE id = 5; UPDATE stock SET amount = 6.5 WHERE id = 5; COMMIT",
];

#[tokio::test]
async fn a_row_that_does_not_come_back_is_the_sources_from_its_commit_on() {
    let live = Live::ready(DDL, TOML, &["stock_v2"]).await;
    let (writer, other, direct) = (live.client().await, live.client().await, live.direct().await);
    for sql in WRITES {
        live.until_shadow_serves(&other, READ).await;
        writer.batch_execute(sql).await.unwrap();
        let (own, others) = (text(&writer, READ).await, text(&other, READ).await);
        let right = text(&direct, READ).await;
        assert_eq!((&own, &others), (&right, &right), "{sql}");
        let differs = "SELECT count(*) FROM stock AS s JOIN stock_v2 AS t USING (id) \
                       WHERE (t.amount, t.u) IS DISTINCT FROM (s.amount, s.note)";
        assert_ne!(text(&direct, differs).await, "0", "it does come back: {sql}");
        let mend = "UPDATE stock SET amount = id, note = 'note'";
        writer.batch_execute(mend).await.unwrap();
    }
    live.until_shadow_serves(&other, READ).await;
}

/// The write is only recorded; what repair brings in step then does not come back, either.
#[tokio::test]
async fn a_row_that_does_not_come_back_behind_its_repair_is_the_sources() {
    let live = Live::ready(DDL, TOML, &["stock_v2"]).await;
    let (writer, other, locker) = (live.client().await, live.client().await, live.direct().await);
    live.until_shadow_serves(&other, READ).await;
    locker.batch_execute("BEGIN; SELECT FROM stock_v2 WHERE id = 5 FOR UPDATE").await.unwrap();
    writer.batch_execute("UPDATE stock SET amount = 5.5 WHERE id = 5").await.unwrap();
    assert_eq!(text(&other, READ).await, "5.5 note");
    locker.batch_execute("ROLLBACK").await.unwrap();
    eventually("it is found", async || {
        let sql = "SELECT coalesce(reads_blocked, '') FROM pgsegue.migrations";
        let seen = text(&live.db.client, sql).await;
        if seen.contains("(5) in amount") { Ok(()) } else { Err(seen) }
    })
    .await;
    assert_eq!(text(&other, READ).await, "5.5 note");
    writer.batch_execute("UPDATE stock SET amount = 6 WHERE id = 5").await.unwrap();
    live.until_shadow_serves(&other, READ).await;
    assert_eq!(text(&other, READ).await, "6 note");
}

/// Ways back that look like those that need not be tried.
#[tokio::test]
async fn a_cast_that_does_not_take_every_value_is_no_way_back() {
    const DDL: &str = "
        CREATE TABLE v (id int PRIMARY KEY, n numeric, b bigint, t text, i int);
        INSERT INTO v SELECT i, i, i, i::text, i FROM generate_series(1, 10) AS i; ANALYZE;
        CREATE TABLE v_v2 (id int PRIMARY KEY, n numeric, b numeric, t text, i bigint);";
    const TOML: &str = r#"
[[migration]]
name = "v_v2"
source = "public.v"
shadow = "public.v_v2"
key = ["id"]
[migration.columns]
id = "id"
n = "n"
b = "b"
t = "t"
i = "i::bigint * 100"
[migration.reverse]
n = "n::int"
b = "b::int"
t = "t::int"
i = "i::int / 100"
[migration.routing]
reads = 100
"#;
    let live = Live::ready(DDL, TOML, &["v_v2"]).await;
    let (writer, other) = (live.client().await, live.client().await);
    for (column, value) in [("n", "2.75"), ("b", "3000000000"), ("t", "007"), ("i", "30000000")] {
        let read = format!("SELECT {column} FROM v WHERE id = 5");
        live.until_shadow_serves(&other, &read).await;
        writer
            .batch_execute(&format!("UPDATE v SET {column} = '{value}' WHERE id = 5"))
            .await
            .unwrap();
        writer.batch_execute("BEGIN").await.unwrap();
        assert_eq!(text(&writer, &read).await, value);
        writer.batch_execute("COMMIT").await.unwrap();
        assert_eq!(text(&other, &read).await, value);
        let mend = format!("UPDATE v SET {column} = '5' WHERE id = 5");
        writer.batch_execute(&mend).await.unwrap();
    }
}
