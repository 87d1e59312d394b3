//! What the ways back are made of means the same in every session: types that a temporary table of
//! their name hides, and functions and operators that another schema has, too.

use crate::live::{Live, text};
use crate::support::eventually;

const NOTES: &str = "
    CREATE TABLE notes (id int PRIMARY KEY, day date, amount int, ref uuid);
    INSERT INTO notes SELECT i, date '2024-01-01' + i, i * 7, md5(i::text)::uuid FROM generate_series(1, 20) i;
    CREATE TABLE notes_v2 (id bigint PRIMARY KEY, at timestamp, minor bigint, ref text);
    CREATE SCHEMA other;
    ANALYZE";

const TOML: &str = r#"
[[migration]]
name = "notes_v2"
source = "public.notes"
shadow = "public.notes_v2"
key = ["id"]
[migration.columns]
id = "id"
at = "day"
minor = "amount::bigint * 100"
ref = "ref::text"
[migration.reverse]
amount = "round(minor / 100)"
ref = "ref::uuid"
[migration.routing]
reads = 100
"#;

const READ: &str = "SELECT day, amount, ref FROM public.notes WHERE id = 3";
const ROW: &str = "2024-01-04 21 eccbc87e-4b5c-e2fe-2830-8fd9f2a7baf3";

async fn live() -> Live {
    Live::ready(NOTES, TOML, &["notes_v2"]).await
}

#[tokio::test]
async fn a_temporary_table_named_like_a_type_changes_no_read() {
    let live = live().await;
    let client = live.client().await;
    live.until_shadow_serves(&client, READ).await;
    client
        .batch_execute("CREATE TEMP TABLE date (x int); CREATE TEMP TABLE uuid (x int)")
        .await
        .unwrap();
    client.batch_execute("BEGIN").await.unwrap();
    let before = live.shadow_reads();
    assert_eq!(text(&client, READ).await, ROW);
    assert!(live.shadow_reads() > before + 0.5, "{}", live.proxy.log());
    client.batch_execute("COMMIT").await.unwrap();
}

#[tokio::test]
async fn a_function_or_operator_that_a_way_back_may_mean_keeps_reads_on_the_source() {
    for (other, name) in [
        (
            "CREATE FUNCTION other.round(bigint) RETURNS bigint LANGUAGE sql AS 'SELECT 999'",
            "round",
        ),
        (
            "CREATE FUNCTION other.f(bigint, int) RETURNS bigint LANGUAGE sql AS 'SELECT 999'; \
             CREATE OPERATOR other./ (leftarg = bigint, rightarg = int, function = other.f)",
            "/",
        ),
    ] {
        let live = live().await;
        live.db.client.batch_execute(other).await.unwrap();
        let (client, usual) = (live.client().await, live.client().await);
        client.batch_execute("SET search_path = public, other").await.unwrap();
        let said = format!("search_path has other.{name}, which a way back may mean");
        eventually("the log says why it stays", async || {
            assert_eq!(text(&client, READ).await, ROW);
            let log = live.proxy.log();
            if log.contains(&said) { Ok(()) } else { Err(log) }
        })
        .await;
        let before = live.shadow_reads();
        assert_eq!(text(&client, READ).await, ROW);
        assert!(live.shadow_reads() - before < 0.5, "on the shadow");
        live.until_shadow_serves(&usual, READ).await;
        assert_eq!(text(&usual, READ).await, ROW);
    }
}
