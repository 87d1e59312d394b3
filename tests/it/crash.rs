//! The proxy or Postgres ends in the middle of everything: nothing acknowledged is lost, and the
//! migration goes on by itself.

use crate::history::{MIGRATION, Random, Writers, create_tables, sessions_of_proxy};
use crate::steer;
use crate::support::{
    Proxy, TestDb, assert_same, connect, database, database_on, eventually, rows,
};
use pgsegue::throwaway::{Auth, Options, Postgres};

/// Kills happen up to this many acknowledged transactions after their moment.
const SOON: u64 = 300;

async fn assert_in_step(db: &TestDb) {
    let source = "SELECT id, v * 100 FROM stock ORDER BY id";
    assert_same(&db.client, source, "SELECT id, amount FROM stock_v2 ORDER BY id").await;
}

/// The phase as the journal has it: also when no proxy runs.
async fn journaled_phase(db: &TestDb) -> String {
    let sql = "SELECT phase ->> 'phase' FROM pgsegue.migrations WHERE name = 'stock'";
    rows(&db.client, sql).await.remove(0).remove(0).unwrap()
}

/// Waits until the migration is in one of these phases.
async fn until(db: &TestDb, phases: &[&str]) {
    eventually(&format!("{phases:?}"), async || {
        let now = journaled_phase(db).await;
        if phases.contains(&now.as_str()) { Ok(()) } else { Err(now) }
    })
    .await;
}

/// Kills the proxy; its sessions vanish from the server; then it is started again.
async fn kill_and_start_again(proxy: &mut Proxy, db: &TestDb) {
    let phase = journaled_phase(db).await;
    let sessions = sessions_of_proxy(db).await;
    proxy.kill_9();
    proxy.start_again().await;
    eventually(&format!("the sessions of the proxy killed in {phase} are gone"), async || {
        let mut left = sessions_of_proxy(db).await;
        left.retain(|session| sessions.contains(session));
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_of_the_proxy_at_random_points_loses_nothing() {
    let mut random = Random::seeded();
    let db = database().await;
    create_tables(&db).await;
    let mut proxy = Proxy::start(&db, MIGRATION).await;
    let writers = Writers::start(&proxy.conninfo(), &random, &[]);
    writers.more(100).await;
    steer::run(&proxy, &["migration", "start", "stock", "--no-wait"]);
    kill_and_start_again(&mut proxy, &db).await;
    let later = ["repair", "verify", "ready"];
    for phases in [["backfill"].as_slice(), &["backfill"], &["backfill"], &later] {
        until(&db, &[phases, &later].concat()).await;
        writers.more(random.below(SOON)).await;
        kill_and_start_again(&mut proxy, &db).await;
    }
    for _ in 0..2 {
        until(&db, &["ready"]).await;
        writers.more(random.below(SOON)).await;
        kill_and_start_again(&mut proxy, &db).await;
        until(&db, &["ready"]).await;
        steer::run(&proxy, &["migration", "verify", "stock"]);
        kill_and_start_again(&mut proxy, &db).await;
    }
    steer::phase(&proxy, "stock", "ready").await;
    writers.more(SOON).await;
    writers.assert_nothing_lost(&db).await;
    steer::settled(&proxy, &db, "stock").await;
    assert_in_step(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn immediate_stop_of_postgres_loses_nothing_and_everything_recovers() {
    let mut random = Random::seeded();
    // Acknowledged means written down, here.
    let settings = vec![("synchronous_commit".to_owned(), "on".to_owned())];
    let server = Postgres::start(&Options { settings, auth: Auth::Trust }).unwrap();
    let mut db = database_on(&server).await;
    create_tables(&db).await;
    let proxy = Proxy::start(&db, MIGRATION).await;
    let expected = ["57P01", "57P02", "57P03", "08006", "08001"];
    let writers = Writers::start(&proxy.conninfo(), &random, &expected);
    writers.more(100).await;
    steer::run(&proxy, &["migration", "start", "stock", "--no-wait"]);
    for phases in [["backfill", "repair", "verify", "ready"].as_slice(), &["ready"]] {
        until(&db, phases).await;
        writers.more(random.below(SOON)).await;
        server.stop_immediate().unwrap();
        server.start_again().unwrap();
        db.client = connect(&db.conninfo).await;
        writers.more(SOON).await;
    }
    steer::phase(&proxy, "stock", "ready").await;
    steer::levers(&proxy, "stock", 50.0).await;
    steer::more(&proxy, "shadow/read", 20).await;
    writers.assert_nothing_lost(&db).await;
    steer::settled(&proxy, &db, "stock").await;
    assert_in_step(&db).await;
}
