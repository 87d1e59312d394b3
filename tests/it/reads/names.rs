//! What a table's name means changes without the proxy seeing it: no read is answered from the
//! shadow of another table.

use crate::live::raw::query;
use crate::live::{Live, Raw, outcome, text};
use tokio_postgres::Client;

/// A second table of the name, and functions that hide what they do from whoever reads their text.
const UNSEEN: &str = "
    CREATE SCHEMA tenant;
    CREATE TABLE tenant.orders (LIKE public.orders);
    INSERT INTO tenant.orders VALUES (5, 1, 555, 'tenant', 'x');
    CREATE FUNCTION tenant_is(name text) RETURNS void LANGUAGE plpgsql AS $$
        BEGIN EXECUTE 'SET search' || '_path = ' || name || ', public'; END $$;
    CREATE FUNCTION make_one() RETURNS void LANGUAGE plpgsql AS $$
        BEGIN EXECUTE 'CREATE TE' || 'MP TABLE orders (id int, total int)';
        EXECUTE 'INSERT INTO pg_te' || 'mp.orders VALUES (5, 777)'; END $$;
    CREATE FUNCTION drop_it() RETURNS void LANGUAGE plpgsql AS $$
        BEGIN EXECUTE 'DROP TABLE pg_te' || 'mp.orders'; END $$";

const READ: &str = "SELECT total FROM orders WHERE id = 5";

async fn live() -> Live {
    let live = Live::orders("", "reads = 100").await;
    // `check` would find the functions.
    live.db.client.batch_execute(UNSEEN).await.unwrap();
    live
}

/// The same read by the extended protocol, prepared before.
async fn prepared(client: &Client, statement: &tokio_postgres::Statement) -> i32 {
    client.query_one(statement, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_function_that_changes_search_path_is_noticed_by_the_next_read() {
    let live = live().await;
    let client = live.client().await;
    let statement = client.prepare(READ).await.unwrap();
    for _ in 0..3 {
        live.until_shadow_serves(&client, READ).await;
        assert_eq!(text(&client, READ).await, "50");
        assert_eq!(prepared(&client, &statement).await, 50);
        client.batch_execute("SELECT tenant_is('tenant')").await.unwrap();
        assert_eq!(text(&client, READ).await, "555");
        assert_eq!(text(&client, "SELECT count(*) FROM orders").await, "1");
        assert_eq!(prepared(&client, &statement).await, 555);
        client.batch_execute("SELECT tenant_is('public')").await.unwrap();
        assert_eq!(prepared(&client, &statement).await, 50);
        assert_eq!(text(&client, READ).await, "50");
        live.until_shadow_serves(&client, READ).await;
        client.batch_execute("SELECT tenant_is('tenant')").await.unwrap();
        assert_eq!(prepared(&client, &statement).await, 555);
        client.batch_execute("SELECT tenant_is('public')").await.unwrap();
    }
}

#[tokio::test]
async fn a_temporary_table_made_by_a_function_hides_the_source_from_reads() {
    let live = live().await;
    let client = live.client().await;
    live.until_shadow_serves(&client, READ).await;
    client.batch_execute("SELECT make_one()").await.unwrap();
    assert_eq!(text(&client, READ).await, "777");
    assert_eq!(text(&client, "SELECT * FROM orders").await, "5 777");
    assert_eq!(text(&client, "SELECT total FROM public.orders WHERE id = 5").await, "50");
    client.batch_execute("SELECT drop_it()").await.unwrap();
    assert_eq!(text(&client, READ).await, "50");
    live.until_shadow_serves(&client, READ).await;
}

#[tokio::test]
async fn a_table_that_another_session_makes_earlier_in_the_path_is_read() {
    let live = live().await;
    let (client, other) = (live.client().await, live.direct().await);
    client.batch_execute("CREATE SCHEMA first; SET search_path = first, public").await.unwrap();
    live.until_shadow_serves(&client, READ).await;
    other.batch_execute("CREATE TABLE first.orders AS SELECT 5 AS id, 999 AS total").await.unwrap();
    assert_eq!(text(&client, READ).await, "999");
    other.batch_execute("DROP TABLE first.orders").await.unwrap();
    live.until_shadow_serves(&client, READ).await;
    assert_eq!(text(&client, READ).await, "50");
}

#[tokio::test]
async fn within_a_transaction_a_name_that_moved_is_a_serialization_failure_never_another_tables_row()
 {
    let live = live().await;
    let client = live.client().await;
    live.until_shadow_serves(&client, READ).await;
    client.batch_execute("SELECT tenant_is('tenant')").await.unwrap();
    client.batch_execute("BEGIN").await.unwrap();
    let error = outcome(&client, READ).await.unwrap_err();
    assert!(error.starts_with("40001 "), "{error}");
    client.batch_execute("ROLLBACK").await.unwrap();
    for end in ["COMMIT", "ROLLBACK"] {
        client.batch_execute("BEGIN").await.unwrap();
        assert_eq!(text(&client, READ).await, "555");
        client.batch_execute(end).await.unwrap();
    }
}

/// Tables of the name whose columns are others than the source's.
const OTHER_SHAPES: &str = "
    CREATE SCHEMA few; CREATE TABLE few.orders (id int, note text);
    INSERT INTO few.orders VALUES (5, 'few');
    CREATE SCHEMA texts;
    CREATE TABLE texts.orders (id int, user_id text, total text, note int, email int);
    INSERT INTO texts.orders VALUES (5, 'abcd', 'efgh', 7, 8)";

/// A description that the client has is of the rows that it gets.
#[tokio::test]
async fn a_read_that_moves_to_a_table_of_another_shape_is_described_and_answered_as_direct() {
    use crate::live::raw::{bind, describe, execute, parse, sync};
    let live = live().await;
    live.db.client.batch_execute(OTHER_SHAPES).await.unwrap();
    let warm = live.client().await;
    let sql = "SELECT * FROM orders WHERE id = 5";
    live.until_shadow_serves(&warm, sql).await;
    let mut direct = Raw::connect(live.db.port, "postgres", &live.db.name).await;
    let mut session = live.raw().await;
    let extended = |format| {
        let frames = [
            parse("", sql, &[]),
            bind("", "", 0, &[], format),
            describe(b'P', ""),
            execute("", 0),
            sync(),
        ];
        frames.concat()
    };
    let forms = [query(sql), extended(0), extended(1)];
    for schema in ["few", "texts", "tenant", "public"] {
        for form in &forms {
            for _ in 0..2 {
                let moves = query(&format!("SELECT tenant_is('{schema}')"));
                assert_eq!(session.exchange(&moves, 1).await, direct.exchange(&moves, 1).await);
                let expected = direct.exchange(form, 1).await;
                assert_eq!(session.exchange(form, 1).await, expected, "{schema}");
                let back = query("SELECT tenant_is('public')");
                assert_eq!(session.exchange(&back, 1).await, direct.exchange(&back, 1).await);
                assert_eq!(session.exchange(form, 1).await, direct.exchange(form, 1).await);
            }
        }
    }
}

/// A role that a function takes on is asked by every read of the shadow.
#[tokio::test]
async fn a_role_taken_on_in_a_function_reads_nothing_that_it_may_not() {
    let live = live().await;
    let name = &live.db.name;
    live.db
        .client
        .batch_execute(&format!(
            "CREATE ROLE {name}_low; GRANT SELECT ON orders_v2 TO {name}_low; \
             CREATE FUNCTION become(name text) RETURNS void LANGUAGE plpgsql AS $$ \
             BEGIN EXECUTE 'SET RO' || 'LE ' || name; END $$"
        ))
        .await
        .unwrap();
    let client = live.client().await;
    for sql in [READ, "SELECT total FROM public.orders WHERE id = 5"] {
        let statement = client.prepare(sql).await.unwrap();
        live.until_shadow_serves(&client, sql).await;
        client.batch_execute(&format!("SELECT become('{name}_low')")).await.unwrap();
        let denied = "42501 permission denied for table orders";
        assert_eq!(outcome(&client, sql).await.unwrap_err(), denied);
        client.batch_execute("SELECT become('postgres')").await.unwrap();
        live.until_shadow_serves(&client, sql).await;
        client.batch_execute(&format!("SELECT become('{name}_low')")).await.unwrap();
        let error = client.query(&statement, &[]).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "42501");
        client.batch_execute("SELECT become('postgres')").await.unwrap();
        live.until_shadow_serves(&client, sql).await;
        client.batch_execute("BEGIN").await.unwrap();
        client.batch_execute(&format!("SELECT become('{name}_low')")).await.unwrap();
        let error = outcome(&client, sql).await.unwrap_err();
        assert!(error.starts_with("40001 ") || error == denied, "{error}");
        client.batch_execute("ROLLBACK").await.unwrap();
    }
    live.db
        .client
        .batch_execute(&format!("DROP OWNED BY {name}_low; DROP ROLE {name}_low"))
        .await
        .unwrap();
}
