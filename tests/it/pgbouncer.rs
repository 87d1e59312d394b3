//! pgbouncer in front of the proxy and behind it, in session and in transaction mode: simple and
//! extended statements, prepared ones, mirrored writes, reads on the shadow, flips.

use crate::live::raw::{bind, describe, execute, parse, query, sync};
use crate::live::{Live, Raw, orders_toml};
use crate::support::{Pgbouncer, connect};

const ROUTING: &str = "reads = 100\nsticky = \"statement\"";

/// Runs everything that an app does, on one connection of it.
async fn statements(raw: &mut Raw, first: u32, named: &str) {
    let id = first.to_string();
    let value = Some(id.as_bytes());
    raw.run(&format!("INSERT INTO orders VALUES ({first}, 1, 1)")).await;
    assert_eq!(raw.query(&format!("SELECT total FROM orders WHERE id = {first}")).await[1], "D 1");
    for turn in 0..6 {
        let sql = "UPDATE orders SET total = total + 1 WHERE id = $1 RETURNING total";
        let update = [
            parse(named, sql, &[]),
            describe(b'S', named),
            bind("", named, 0, &[value], 0),
            execute("", 0),
            sync(),
        ];
        let mut said = raw.exchange(&update.concat(), 1).await;
        said.retain(|m| m.starts_with("D ") || m.starts_with("C ") || m.starts_with("E "));
        assert_eq!(said, [format!("D {}", turn + 2), "C UPDATE 1".to_owned()]);
        let read = "SELECT total FROM orders WHERE id = $1";
        let read =
            [parse("", read, &[23]), bind("", "", 0, &[value], 0), execute("", 0), sync()].concat();
        let said = raw.exchange(&read, 1).await;
        assert!(said.contains(&format!("D {}", turn + 2)), "{said:?}");
        if !named.is_empty() {
            raw.run(&format!("DEALLOCATE {named}")).await;
        }
    }
    raw.run("BEGIN").await;
    raw.run(&format!("DELETE FROM orders WHERE id = {first}")).await;
    raw.run("ROLLBACK").await;
    raw.run("BEGIN; SAVEPOINT a").await;
    raw.exchange(&query("UPDATE orders SET user_id = NULL"), 1).await;
    raw.run("ROLLBACK TO a").await;
    raw.run(&format!("UPDATE orders SET note = 'kept' WHERE id = {first}")).await;
    raw.run("COMMIT").await;
    // Not understood: marked.
    let unseen =
        format!("DO $$ BEGIN UPDATE orders SET note = 'unseen' WHERE id = {first}; END $$");
    raw.run(&unseen).await;
    raw.exchange(
        &[parse("", &unseen, &[]), bind("", "", 0, &[], 0), execute("", 0), sync()].concat(),
        1,
    )
    .await;
}

async fn all(live: &Live, port: u16, names: &[&str]) {
    let mut sessions = Vec::new();
    for _ in 0..3 {
        sessions.push(Raw::connect(port, "postgres", &live.db.name).await);
    }
    let before = (live.statements("mirrored", "write"), live.shadow_reads());
    let mut first = 1000;
    for named in names {
        for raw in &mut sessions {
            statements(raw, first, named).await;
            first += 1;
        }
    }
    live.orders_in_step().await;
    assert!(live.statements("mirrored", "write") > before.0 + 20.0);
    // A flip reaches open connections.
    let sql = "SELECT note FROM orders WHERE id = 3";
    let client =
        connect(&format!("host=127.0.0.1 port={port} user=postgres dbname={}", live.db.name)).await;
    live.until_shadow_serves(&client, sql).await;
    assert!(live.shadow_reads() > before.1);
    live.cli(&["route", "orders_v2", "--reads", "0", "--why", "a test"]);
    live.until_source_serves(&client, sql).await;
    live.cli(&["route", "orders_v2", "--reads", "100", "--why", "a test"]);
    live.until_shadow_serves(&client, sql).await;
    live.orders_in_step().await;
}

#[tokio::test]
async fn in_front_of_the_proxy() {
    for mode in ["session", "transaction"] {
        let live = Live::orders("", ROUTING).await;
        let bouncer = Pgbouncer::start(live.proxy.port, mode).await;
        // Names of the protocol do not outlive a transaction there: an old pgbouncer's own limit.
        let names: &[&str] = if mode == "session" { &["", "named"] } else { &[""] };
        all(&live, bouncer.port, names).await;
    }
}

#[tokio::test]
async fn behind_the_proxy() {
    for mode in ["session", "transaction"] {
        let mut live = Live::orders("", ROUTING).await;
        let bouncer = Pgbouncer::start(live.db.port, mode).await;
        let toml = orders_toml("", ROUTING);
        // The control connection goes past it: it holds locks and listens.
        live.proxy
            .rewrite_config(&format!("server.address = \"127.0.0.1:{}\"\n{toml}", bouncer.port));
        live.proxy.restart().await;
        live.until_clean("orders_v2").await;
        let names: &[&str] = if mode == "session" { &["", "named"] } else { &[""] };
        all(&live, live.proxy.port, names).await;
    }
}
