//! What a migration has installed is dropped, or kept from the apps' roles, by somebody else: writes go to
//! the source alone rather than fail, and nothing of them is missing on the shadow afterwards.

use crate::live::{Live, outcome, text};
use crate::support::{connect, eventually};
use tokio_postgres::Client;

/// Writes until the server takes it: what was sent before the engine's look may be refused.
async fn until_written(client: &Client, id: u32) {
    let sql = format!("INSERT INTO orders VALUES ({id}, 1, 1)");
    eventually("a write succeeds", async || outcome(client, &sql).await.map(|_| ())).await;
}

#[tokio::test]
async fn functions_that_are_dropped_or_denied_are_put_back_and_everything_is_copied_again() {
    let live = Live::orders("", "reads = 100").await;
    let sql = "DROP ROLE IF EXISTS app_gone; CREATE ROLE app_gone LOGIN; \
               GRANT SELECT, INSERT, UPDATE, DELETE ON orders TO app_gone";
    live.db.client.batch_execute(sql).await.unwrap();
    let app = connect(&format!("{} user=app_gone", live.proxy.conninfo())).await;
    let drop = |function: &str| {
        format!(
            "DO $$ DECLARE f text; BEGIN FOR f IN SELECT oid::regprocedure FROM pg_proc \
             WHERE proname = '{function}_orders_v2' LOOP EXECUTE 'DROP FUNCTION ' || f; END LOOP; END $$"
        )
    };
    let changes = [
        drop("sync"),
        drop("follow"),
        drop("mark"),
        "REVOKE USAGE ON SCHEMA pgsegue FROM PUBLIC".to_owned(),
        "REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA pgsegue FROM PUBLIC".to_owned(),
    ];
    let admin = live.client().await;
    let copied = "SELECT count(*) FROM pgsegue.events WHERE value_after = 'backfill'";
    for (number, change) in changes.iter().enumerate() {
        live.db.client.batch_execute(change).await.unwrap();
        let id = 100 + 10 * u32::try_from(number).unwrap();
        until_written(&app, id).await;
        eventually("everything is copied again", async || {
            let copied = text(&live.db.client, copied).await;
            if copied == (number + 2).to_string() { Ok(()) } else { Err(copied) }
        })
        .await;
        until_written(&app, id + 1).await;
        // Whatever was written while nothing was mirrored is there when reads are.
        live.until_shadow_serves(&admin, "SELECT count(*) FROM orders").await;
        live.orders_in_step().await;
        until_written(&app, id + 2).await;
        live.orders_in_step().await;
    }
}

#[tokio::test]
async fn a_schema_of_ours_that_is_dropped_leaves_the_apps_their_writes() {
    let live = Live::orders("", "reads = 100").await;
    let client = live.client().await;
    live.until_shadow_serves(&client, "SELECT count(*) FROM orders").await;
    live.db.client.batch_execute("DROP SCHEMA pgsegue CASCADE").await.unwrap();
    for id in 100..120 {
        until_written(&client, id).await;
    }
    for id in 120..140 {
        let sql = format!("INSERT INTO public.orders VALUES ({id}, 1, 1)");
        assert_eq!(outcome(&client, &sql).await, Ok(vec![1]));
    }
    let before = live.shadow_reads();
    assert_eq!(text(&client, "SELECT count(*) FROM orders").await, "50");
    assert!(live.shadow_reads() < before + 0.5, "the shadow has not those rows");
}
