//! Reads that would scan the shadow where the source's rows are looked up: not unasked, and when asked.

use super::served;
use crate::live::raw::query;
use crate::live::{Live, ORDERS, ORDERS_V2, Pair, orders_toml, text};
use crate::support::eventually;
use serde_json::Value;

const NAMES: [&str; 1] = ["orders_v2"];
const READ: &str = "SELECT id, note FROM orders WHERE user_id = 2 AND total = 23 ORDER BY id";

fn routing(scans: &str) -> String {
    orders_toml("", &format!("reads = 100\n{scans}"))
}

/// The source has an index that the shadow has not, and enough rows that it is used.
async fn live(scans: &str) -> (Live, Pair) {
    let filled = format!(
        "{ORDERS}; INSERT INTO orders (id, user_id, total) \
         SELECT i, i % 500, i FROM generate_series(100, 9000) AS i; \
         CREATE INDEX orders_user ON orders (user_id, total); ANALYZE orders"
    );
    let live = Live::ready(&format!("{filled}; {ORDERS_V2}"), &routing(scans), &NAMES).await;
    let pair = Pair::new(&live, &filled).await;
    (live, pair)
}

/// What `pgsegue explain` says of the vetting.
fn vetting(live: &Live) -> String {
    let explained: Value = serde_json::from_str(&live.cli(&["explain", "--json", READ])).unwrap();
    explained[0]["vetting"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_read_that_would_scan_is_sent_when_the_file_asks_for_it_and_no_longer_when_it_does_not() {
    let (live, mut pair) = live("").await;
    let stays = async |pair: &mut Pair| {
        eventually("the log says why it stays", async || {
            let before = live.shadow_reads();
            pair.simple(READ).await;
            assert!((live.shadow_reads() - before).abs() < 0.5, "on the shadow");
            let log = live.proxy.log();
            let advice = "an index like the source's helps: CREATE INDEX ON ";
            let asked = "scans = \"shadow\" in [migration.routing] sends it all the same";
            assert!(!log.contains(advice) || log.contains(asked), "{log}");
            if log.contains(advice) { Ok(()) } else { Err(log) }
        })
        .await;
    };
    stays(&mut pair).await;
    for _ in 0..2 {
        live.proxy.rewrite_config(&routing("scans = \"shadow\""));
        served(&live, &mut pair.live, &query(READ), READ).await;
        pair.simple(READ).await;
        live.proxy.rewrite_config(&routing("scans = \"source\""));
        eventually("no read goes to the shadow", async || {
            let before = live.shadow_reads();
            pair.simple(READ).await;
            let more = live.shadow_reads() - before;
            if more < 0.5 { Ok(()) } else { Err(more) }
        })
        .await;
    }
    let direct = live.direct().await;
    let events = "SELECT string_agg(value_before || '>' || value_after, ' ' ORDER BY id) \
                  FROM pgsegue.events WHERE what = 'scans'";
    let all = "source>shadow shadow>source source>shadow shadow>source";
    // Routes are published before the event is written.
    eventually("each change is on record", async || {
        let recorded = text(&direct, events).await;
        if recorded == all { Ok(()) } else { Err(recorded) }
    })
    .await;
    pair.same();
}

#[tokio::test]
async fn the_index_that_explain_names_sends_the_read_to_the_shadow() {
    let (live, mut pair) = live("").await;
    let said = vetting(&live);
    let (_, advice) = said.split_once("helps: ").expect("an advice");
    let (index, rest) = advice.split_once("; ").unwrap();
    assert_eq!(rest, "scans = \"shadow\" in [migration.routing] sends it all the same");
    let direct = live.direct().await;
    direct.batch_execute(&format!("{index}; ANALYZE orders_v2")).await.unwrap();
    assert_eq!(
        vetting(&live),
        "same parameters, columns and types; no scan that the source spares"
    );
    served(&live, &mut pair.live, &query(READ), READ).await;
    pair.simple(READ).await;
    pair.same();
}

#[tokio::test]
async fn explain_says_that_a_scan_is_asked_for() {
    let (live, _) = live("scans = \"shadow\"").await;
    let said = vetting(&live);
    assert!(
        said.ends_with(
            "the shadow is scanned where the source's rows are looked up, as `scans` says"
        )
    );
    let explained: Value = serde_json::from_str(&live.cli(&["explain", "--json", READ])).unwrap();
    assert_eq!(explained[0]["route"], "shadow", "{explained}");
}
