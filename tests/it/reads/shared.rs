//! Two shadows of one source: a query goes by one of them, as the levers say, and the other one takes
//! over when that is rolled back.

use crate::live::{Live, ORDERS, ORDERS_V2, orders_toml, text};
use crate::support::eventually;
use tokio_postgres::Client;

const LEAN: &str =
    "CREATE TABLE orders_lean (id bigint PRIMARY KEY, buyer int, total int, note text, email text)";

fn toml(fat: &str, lean: &str) -> String {
    format!(
        "{}\n[[migration]]\nname = \"lean\"\nsource = \"public.orders\"\nshadow = \"public.orders_lean\"\n\
         key = [\"id\"]\n[migration.columns]\nid = \"id\"\nbuyer = \"user_id\"\ntotal = \"total\"\nnote = \"note\"\n\
         email = \"email\"\n[migration.routing]\n{lean}\n",
        orders_toml("", fat)
    )
}

async fn live(fat: &str, lean: &str) -> Live {
    let ddl = format!("{ORDERS};{ORDERS_V2};{LEAN}");
    Live::ready(&ddl, &toml(fat, lean), &["orders_v2", "lean"]).await
}

const READ: &str = "SELECT user_id FROM orders WHERE id = 5";

/// Of so many reads, those that a shadow answered.
async fn share(live: &Live, client: &Client, reads: u32) -> f64 {
    let before = live.shadow_reads();
    for _ in 0..reads {
        assert_eq!(text(client, READ).await, "2");
    }
    live.shadow_reads() - before
}

/// Waits until all of them are answered by a shadow.
async fn until_all(live: &Live, client: &Client) {
    eventually("a shadow answers all reads", async || {
        let share = share(live, client, 20).await;
        if share > 19.5 { Ok(()) } else { Err(share) }
    })
    .await;
}

#[tokio::test]
async fn the_highest_share_serves_and_the_other_takes_over_after_a_rollback() {
    let live = live("reads = 100", "reads = 50\nsticky = \"statement\"").await;
    let client = live.client().await;
    until_all(&live, &client).await;
    let explained = || live.cli(&["explain", READ]);
    assert!(explained().contains("\"orders_v2\""), "{}", explained());
    let prepared = client.prepare(READ).await.unwrap();
    live.cli(&["migration", "rollback", "orders_v2", "--why", "a test"]);
    // Now by half of the statements, which is the other one's lever.
    eventually("the other shadow answers its share", async || {
        let share = share(&live, &client, 100).await;
        if (15.0..85.0).contains(&share) { Ok(()) } else { Err(share) }
    })
    .await;
    assert!(explained().contains("\"orders_lean\""), "{}", explained());
    for _ in 0..20 {
        assert_eq!(client.query_one(&prepared, &[]).await.unwrap().get::<_, i32>(0), 2);
    }
    client.batch_execute("UPDATE orders SET total = 1 WHERE id = 5").await.unwrap();
    live.cli(&["migration", "rollback", "lean", "--why", "a test"]);
    eventually("the source answers", async || {
        let share = share(&live, &client, 20).await;
        if share < 0.5 { Ok(()) } else { Err(share) }
    })
    .await;
    live.cli(&["route", "orders_v2", "--reads", "100", "--why", "again"]);
    until_all(&live, &client).await;
    assert_eq!(client.query_one(&prepared, &[]).await.unwrap().get::<_, i32>(0), 2);
}

#[tokio::test]
async fn a_session_keeps_its_side_whichever_shadow_is_the_highest() {
    let live = live("reads = 30", "reads = 60").await;
    let mut clients = Vec::new();
    for _ in 0..12 {
        clients.push(live.client().await);
    }
    eventually("some session is served", async || {
        let mut served = 0.0;
        for client in &clients {
            served += share(&live, client, 1).await;
        }
        if served > 0.5 { Ok(()) } else { Err(served) }
    })
    .await;
    for client in &clients {
        let share = share(&live, client, 8).await;
        assert!(!(0.5..7.5).contains(&share), "{share} of 8");
    }
}

#[tokio::test]
async fn a_shadow_without_a_way_back_leaves_reads_to_the_other() {
    let lossy = "CREATE TABLE orders_short (id bigint PRIMARY KEY, note text)";
    let toml = format!(
        "{}\n[[migration]]\nname = \"a_short\"\nsource = \"public.orders\"\nshadow = \"public.orders_short\"\n\
         key = [\"id\"]\n[migration.columns]\nid = \"id\"\nnote = \"note\"\n[migration.routing]\nreads = 100\n",
        orders_toml("", "reads = 50\nsticky = \"statement\"")
    );
    let ddl = format!("{ORDERS};{ORDERS_V2};{lossy}");
    let live = Live::ready(&ddl, &toml, &["orders_v2", "a_short"]).await;
    let client = live.client().await;
    live.until_shadow_serves(&client, READ).await;
    assert_eq!(text(&client, READ).await, "2");
}
