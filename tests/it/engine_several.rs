//! Several processes on one database: all mirror, only one that is alone does more.

use super::engine_support::*;
use pgsegue::engine::{Control, Engine};
use pgsegue::routing::Mirror;
use std::sync::Arc;

const ALLOW: &str = "SELECT format('ALTER DATABASE %I ALLOW_CONNECTIONS ', current_database())";
const KILL: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
     WHERE datname = current_database() AND application_name LIKE 'pgsegue engine%'";

async fn one(db: &Db, sql: &str) -> String {
    db.client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_mirrors_and_closes_the_gate_of_the_first_before_it_serves() {
    let db = database().await;
    let migration = orders(&db, 100).await;
    let first = run(&db, &migration, 100.0).await;
    let control = Control::connect(&db.config()).await.unwrap();
    control.start("orders_v2", "a test").await.unwrap();
    until_open(&first, &control).await;
    let second = run(&db, &migration, 100.0).await;
    // It has not served anybody yet, and the first one knows of it.
    assert!(!first.is_open() && !second.is_open());
    assert_ne!(second.mirror(), Mirror::Off);
    let said = status(&control).await;
    assert_eq!(
        (said.reads_blocked.as_deref(), said.reads),
        (
            Some(
                "2 pgsegue processes serve this database: phases and shadow reads wait until one \
                 is left"
            ),
            0.0
        )
    );
    second.stop().await;
    until_open(&first, &control).await;
    first.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_phase_is_left_while_another_process_serves() {
    let db = database().await;
    let migration = orders(&db, 100).await;
    let first = run(&db, &migration, 100.0).await;
    let second = run(&db, &migration, 100.0).await;
    let control = Control::connect(&db.config()).await.unwrap();
    control.start("orders_v2", "a test").await.unwrap();
    let asked: String = one(&db, "SELECT clock_timestamp()::text").await;
    // The leader has pulled the request, and looked twice whether it is alone.
    let looked = format!(
        "SELECT (count(*) > 0)::text FROM pg_stat_activity WHERE datname = current_database() \
         AND application_name = 'pgsegue engine' AND query LIKE '%pg_try_advisory_lock%' \
         AND query_start > '{asked}'::timestamptz + interval '500 ms'"
    );
    until("the leader has looked again", async || one(&db, &looked).await == "true").await;
    assert_eq!(status(&control).await.phase.name(), "observe");
    assert_eq!((first.mirror(), second.mirror()), (Mirror::Off, Mirror::Off));
    first.stop().await;
    // The second one leads now, and is alone.
    until_open(&second, &control).await;
    assert_in_step(&db, &migration).await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_is_alone_only_when_the_last_session_of_its_predecessor_has_ended() {
    let db = database().await;
    let migration = orders(&db, 100).await;
    let first = run(&db, &migration, 100.0).await;
    let control = Control::connect(&db.config()).await.unwrap();
    control.start("orders_v2", "a test").await.unwrap();
    until_open(&first, &control).await;
    let second = run(&db, &migration, 100.0).await;
    let draining = Arc::clone(&first.engine);
    first.stop().await;
    // The engine's lock changes hands; the clients of the first one are still served by it.
    let leads = "SELECT count(DISTINCT pid) FILTER (WHERE objid = 2), \
                 count(DISTINCT pid) FILTER (WHERE objid = 3 AND mode = 'ShareLock'), \
                 count(*) FILTER (WHERE objid = 3 AND mode = 'ExclusiveLock') FROM pg_locks \
                 WHERE locktype = 'advisory' AND classid = 1885827941 AND database = \
                 (SELECT oid FROM pg_database WHERE datname = current_database())";
    let locks = async || {
        let row = db.client.query_one(leads, &[]).await.unwrap();
        (row.get::<_, i64>(0), row.get::<_, i64>(1), row.get::<_, i64>(2))
    };
    until("the second one leads", async || locks().await == (1, 2, 0)).await;
    assert!(!second.is_open());
    drop(draining);
    until_open(&second, &control).await;
    assert_eq!(locks().await, (1, 1, 1));
    assert_in_step(&db, &migration).await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_phase_that_moved_while_the_control_connection_was_lost_leaves_a_gap() {
    let db = database().await;
    let migration = orders(&db, 100).await;
    let running = run(&db, &migration, 100.0).await;
    let before = running.routes.load().routes[0].gate.ticket();
    let allow = one(&db, ALLOW).await;
    let mut elsewhere = db.config().config().clone();
    elsewhere.dbname("postgres");
    let (elsewhere, connection) = elsewhere.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    elsewhere.batch_execute(&format!("{allow} false")).await.unwrap();
    db.client.batch_execute(KILL).await.unwrap();
    until("it is lost", async || running.routes.load().routes[0].gate.ticket() != before).await;
    // What another process would leave behind.
    let moved =
        "UPDATE pgsegue.migrations SET phase = '{\"phase\": \"ready\"}', verified_at = now()";
    db.client.batch_execute(moved).await.unwrap();
    elsewhere.batch_execute(&format!("{allow} true")).await.unwrap();
    let bridged = async || {
        let sql = "SELECT count(*) FROM pgsegue.events WHERE why = 'dual write is on again'";
        db.client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 1
    };
    until("everything starts from the barrier", bridged).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_does_not_join_one_whose_schema_it_does_not_know() {
    let db = database().await;
    let migration = orders(&db, 10).await;
    let running = run(&db, &migration, 0.0).await;
    db.client.batch_execute("UPDATE pgsegue.schema_version SET version = 3").await.unwrap();
    let routes = pgsegue::routing::Handle::new(pgsegue::routing::Routes::none());
    let metrics = pgsegue::telemetry::Metrics::new().unwrap();
    let error = Engine::connect(db.config(), routes, Arc::default(), metrics)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("pgsegue engine") && error.contains("stop it"), "{error}");
    running.stop().await;
}
