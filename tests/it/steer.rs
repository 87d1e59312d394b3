//! What the tests under load share: steering a migration as an operator does, and looking at
//! what the proxy says of it.

use crate::support::{Proxy, TestDb, connect, eventually, rows};
use serde_json::Value;
use std::collections::BTreeMap;

/// Runs a command of the CLI that must end with code 0; its standard output.
pub fn run(proxy: &Proxy, arguments: &[&str]) -> String {
    let output = proxy.pgsegue(arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Takes a migration to ready.
pub fn start(proxy: &Proxy, name: &str) {
    let said = run(proxy, &["migration", "start", name]);
    assert_eq!(said, format!("{name}: ready; every row is verified\n"));
}

/// `pgsegue route NAME --reads PERCENT`.
pub fn reads(proxy: &Proxy, name: &str, percent: u32) {
    run(proxy, &["route", name, "--reads", &percent.to_string(), "--why", "a test"]);
}

/// The status of a migration, as the admin server gives it.
pub fn status(proxy: &Proxy, name: &str) -> Value {
    let (code, body) = proxy.get(&format!("/migrations/{name}/status"));
    assert_eq!(code, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// Waits until the migration is in a phase.
pub async fn phase(proxy: &Proxy, name: &str, phase: &str) {
    eventually(&format!("{name} is {phase}"), async || {
        let now = status(proxy, name);
        if now["phase"] == phase { Ok(()) } else { Err(now) }
    })
    .await;
}

/// Waits until the migration is ready and nothing is dirty, in the control schema.
pub async fn settled(proxy: &Proxy, db: &TestDb, name: &str) {
    phase(proxy, name, "ready").await;
    let dirty = "SELECT key, reason FROM pgsegue.dirty_keys ORDER BY at, ctid LIMIT 5";
    eventually("no key is dirty", async || {
        let left = rows(&db.client, dirty).await;
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
}

/// Waits until this share of reads is in force.
pub async fn levers(proxy: &Proxy, name: &str, reads: f64) {
    eventually(&format!("{reads} % of reads"), async || {
        let now = status(proxy, name);
        if now["reads"] == reads { Ok(()) } else { Err(now) }
    })
    .await;
}

/// The statements so far, by `route/kind`.
pub fn statements(proxy: &Proxy) -> BTreeMap<String, u64> {
    let (_, text) = proxy.get("/metrics");
    let lines = text.lines().filter_map(|l| l.strip_prefix("pgsegue_statements_total{kind=\""));
    lines
        .map(|line| {
            let (kind, rest) = line.split_once("\",route=\"").unwrap();
            let (route, count) = rest.split_once("\"} ").unwrap();
            (format!("{route}/{kind}"), count.parse().unwrap())
        })
        .collect()
}

/// The number of statements on one route.
pub fn count(proxy: &Proxy, route: &str) -> u64 {
    statements(proxy).get(route).copied().unwrap_or(0)
}

/// Waits until this many more statements have taken a route.
pub async fn more(proxy: &Proxy, route: &str, wanted: u64) {
    let before = count(proxy, route);
    eventually(&format!("{wanted} more statements are {route}"), async || {
        if count(proxy, route) >= before + wanted { Ok(()) } else { Err(statements(proxy)) }
    })
    .await;
}

/// Waits until the shadow serves a query; nobody else reads meanwhile.
pub async fn served_by_shadow(proxy: &Proxy, conninfo: &str, sql: &str) {
    let client = connect(conninfo).await;
    eventually(&format!("the shadow serves {sql}"), async || {
        let before = count(proxy, "shadow/read");
        client.simple_query(sql).await.unwrap();
        if count(proxy, "shadow/read") > before { Ok(()) } else { Err(statements(proxy)) }
    })
    .await;
}

/// Waits until the shadow serves no read any more: none among many reads of the source.
pub async fn rolled_back(proxy: &Proxy) {
    let mut before = statements(proxy);
    eventually("the shadow serves nothing", async || {
        let now = statements(proxy);
        let of = |all: &BTreeMap<String, u64>, route: &str| all.get(route).copied().unwrap_or(0);
        if of(&now, "shadow/read") > of(&before, "shadow/read") {
            before = now;
            return Err("it served a read".to_owned());
        }
        let more = of(&now, "source/read") - of(&before, "source/read");
        if more > 50 { Ok(()) } else { Err(format!("{more} reads of the source")) }
    })
    .await;
}

/// Nothing in the proxy's log is a warning or an error, but for what it says of the machine.
pub fn assert_no_complaint(proxy: &Proxy) {
    let log = proxy.log();
    let complaints: Vec<&str> = log
        .lines()
        .filter(|l| l.contains(" WARN ") || l.contains(" ERROR "))
        .filter(|l| !l.contains(" open files, enough for "))
        .collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
