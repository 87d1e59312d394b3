//! A whole migration through the engine, with writers that mirror as the proxy does.

use super::engine_support::*;
use pgsegue::engine::{Control, Engine, Phase, RouteChange};
use pgsegue::manifest::{DualWrite, Percent};
use pgsegue::routing::{Handle, Mirror, Routes};
use pgsegue::telemetry::Metrics;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Writers that follow the routes as sessions do, until told to stop.
struct Writers {
    stop: Arc<AtomicBool>,
    writes: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<()>>,
}

impl Writers {
    async fn start(db: &Db, routes: &Arc<Handle>, count: u32, keys: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let writes = Arc::new(AtomicU64::new(0));
        let mut tasks = Vec::new();
        for n in 0..count {
            let client = db.another().await;
            let in_flight = routes.register();
            let (stop, writes) = (Arc::clone(&stop), Arc::clone(&writes));
            tasks.push(tokio::spawn(async move {
                let mut seed = u64::from(n) + 1;
                let mut random = |below: u32| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    u32::try_from((seed >> 33) % u64::from(below)).unwrap()
                };
                while !stop.load(Ordering::SeqCst) {
                    let key = random(keys) + 1;
                    let statement = match random(4) {
                        0 => format!("DELETE FROM orders WHERE id = {key}"),
                        1 => format!(
                            "INSERT INTO orders VALUES ({key}, 1, 2, 'new') \
                             ON CONFLICT (id) DO UPDATE SET total = 3"
                        ),
                        _ => format!("UPDATE orders SET total = total + 1 WHERE id = {key}"),
                    };
                    let begin =
                        ["BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ"][random(5) as usize / 4];
                    let end = if random(10) == 0 { "ROLLBACK" } else { "COMMIT" };
                    client.batch_execute(begin).await.unwrap();
                    let now = in_flight.begin();
                    let statement = match now.routes.first().map_or(Mirror::Off, |r| r.mirror) {
                        Mirror::Off => statement,
                        Mirror::On(mode) => mirrored(&statement, mode.as_sql()),
                    };
                    let done = client.batch_execute(&statement).await;
                    in_flight.idle();
                    client
                        .batch_execute(if done.is_ok() { end } else { "ROLLBACK" })
                        .await
                        .unwrap();
                    writes.fetch_add(1, Ordering::SeqCst);
                }
            }));
        }
        Self { stop, writes, tasks }
    }

    async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await.unwrap();
        }
        self.writes.load(Ordering::SeqCst)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_runs_from_declared_to_ready_while_everybody_writes() {
    let db = database().await;
    let migration = orders(&db, 20_000).await;
    let running = run(&db, &migration, 50.0).await;
    let control = Control::connect(&db.config()).await.unwrap();
    assert_eq!(running.mirror(), Mirror::Off);
    let writers = Writers::start(&db, &running.routes, 4, 20_500).await;
    control.start("orders_v2", "a test").await.unwrap();
    until_phase(&control, "ready").await;
    let writes = writers.stop().await;
    assert!(writes > 100, "only {writes} writes");
    until("gate open", async || running.is_open()).await;
    assert!((running.reads() - 50.0).abs() < f64::EPSILON);
    let status = status(&control).await;
    assert_eq!((status.dirty_keys, status.differences_found), (0, 0), "{status:?}");
    assert_in_step(&db, &migration).await;
    let events = control.events("orders_v2", 100).await.unwrap();
    let path: Vec<&str> =
        events.iter().filter(|e| e.what == "phase").map(|e| e.to.as_str()).collect();
    let expected = ["prepare", "dual_write", "backfill", "repair", "verify", "ready"];
    assert_eq!(path, expected);
    running.stop().await;
}

const DUAL_OFF: RouteChange =
    RouteChange { reads: None, dark_reads: None, dual_write: Some(DualWrite::Off) };
const DUAL_ON: RouteChange =
    RouteChange { reads: None, dark_reads: None, dual_write: Some(DualWrite::On) };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_ends_in_the_middle_of_the_backfill_goes_on_from_the_watermark() {
    let db = database().await;
    let mut migration = orders(&db, 3_000).await;
    migration.backfill_rows_per_second = Some(2_000);
    let running = run(&db, &migration, 0.0).await;
    let control = Control::connect(&db.config()).await.unwrap();
    control.start("orders_v2", "a test").await.unwrap();
    let copied = async || match status(&control).await.phase {
        Phase::Backfill { rows, .. } => rows,
        _ => 0,
    };
    until("a chunk", async || copied().await > 0).await;
    running.task.abort();
    drop(running);
    until("the lock is free", async || {
        db.count("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").await == 0
    })
    .await;
    let before = copied().await;
    assert!(before > 0);
    migration.backfill_rows_per_second = None;
    let running = run(&db, &migration, 0.0).await;
    assert_eq!(
        running.mirror().clone(),
        Mirror::On(pgsegue::sql::target::SyncMode::SyncRecordDeletes)
    );
    until_phase(&control, "ready").await;
    let copied_again =
        db.count("SELECT count(*) FROM pgsegue.events WHERE value_after = 'backfill'").await;
    assert_eq!(copied_again, 1, "it did not start over");
    assert_in_step(&db, &migration).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dual_write_off_stops_mirroring_at_once_and_on_goes_back_to_the_barrier() {
    let db = database().await;
    let migration = orders(&db, 2_000).await;
    let running = run(&db, &migration, 100.0).await;
    let control = Control::connect(&db.config()).await.unwrap();
    control.start("orders_v2", "a test").await.unwrap();
    until_open(&running, &control).await;
    let start = Instant::now();
    control.route("orders_v2", DUAL_OFF, "a test", "trouble").await.unwrap();
    until("off", async || running.mirror() == Mirror::Off).await;
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    assert!(!running.is_open() && running.reads() == 0.0);
    let sql = "UPDATE orders SET total = 0 WHERE id < 100; DELETE FROM orders WHERE id > 1900";
    db.client.batch_execute(sql).await.unwrap();
    let writers = Writers::start(&db, &running.routes, 2, 2_000).await;
    control.route("orders_v2", DUAL_ON, "a test", "over").await.unwrap();
    until("on again", async || running.mirror() != Mirror::Off).await;
    until_open(&running, &control).await;
    writers.stop().await;
    until("nothing dirty", async || status(&control).await.dirty_keys == 0).await;
    assert_in_step(&db, &migration).await;
    let events = control.events("orders_v2", 1_000).await.unwrap();
    let levers: Vec<(&str, &str)> = events
        .iter()
        .filter(|e| e.what == "dual_write")
        .map(|e| (e.to.as_str(), e.why.as_str()))
        .collect();
    assert_eq!(levers, [("off", "trouble"), ("on", "over")]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_file_turns_dual_write_off_without_the_database_and_the_journal_remembers() {
    let db = database().await;
    let migration = orders(&db, 500).await;
    let running = run(&db, &migration, 100.0).await;
    let control = Control::connect(&db.config()).await.unwrap();
    control.start("orders_v2", "a test").await.unwrap();
    until_open(&running, &control).await;
    let mut off = declared(&migration, 100.0);
    off.levers.dual_write = DualWrite::Off;
    running.engine.apply(vec![off]).await.unwrap();
    assert_eq!(running.mirror(), Mirror::Off);
    db.client.batch_execute("UPDATE orders SET total = 0").await.unwrap();
    running.stop().await;
    let running = run(&db, &migration, 100.0).await;
    assert!(running.reads() == 0.0, "the gap is in the journal");
    until("it has gone back", async || {
        db.count("SELECT count(*) FROM pgsegue.events WHERE value_after = 'dual_write'").await == 2
    })
    .await;
    until_open(&running, &control).await;
    assert_in_step(&db, &migration).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_continuous_verify_finds_and_repairs_what_somebody_else_did() {
    let db = database().await;
    let migration = orders(&db, 5_000).await;
    let running = run(&db, &migration, 100.0).await;
    let control = Control::connect(&db.config()).await.unwrap();
    control.start("orders_v2", "a test").await.unwrap();
    until_open(&running, &control).await;
    let sql = "DELETE FROM orders_v2 WHERE id = 10; UPDATE orders_v2 SET note = 'x' WHERE id = 20; \
               INSERT INTO orders_v2 VALUES (-1, 0, 0, '', '')";
    db.client.batch_execute(sql).await.unwrap();
    until("found", async || status(&control).await.differences_found == 3).await;
    until_open(&running, &control).await;
    assert_in_step(&db, &migration).await;
    let events = control.events("orders_v2", 100).await.unwrap();
    let divergence: Vec<&str> =
        events.iter().filter(|e| e.what == "divergence").map(|e| e.why.as_str()).collect();
    let text = divergence.join("; ");
    for part in ["missing (10)", "different (20) in note", "orphaned (-1)"] {
        assert!(text.contains(part), "{text}");
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unseen_write_closes_the_gate_until_a_full_verify_is_clean() {
    let db = database().await;
    let migration = orders(&db, 3_000).await;
    let running = run(&db, &migration, 100.0).await;
    let control = Control::connect(&db.config()).await.unwrap();
    control.start("orders_v2", "a test").await.unwrap();
    until_open(&running, &control).await;
    let sql = "BEGIN; UPDATE orders SET total = -1 WHERE id % 7 = 0; \
               SELECT pgsegue.mark_orders_v2('a DO block'); COMMIT";
    db.client.batch_execute(sql).await.unwrap();
    until("closed", async || !running.is_open()).await;
    until("the record is gone", async || db.dirty().await.is_empty()).await;
    until_open(&running, &control).await;
    assert_in_step(&db, &migration).await;
    let found = db
        .count("SELECT count(*) FROM pgsegue.events WHERE what = 'difference after a mark'")
        .await;
    assert!(found > 0);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pause_resume_verify_abort_and_start_again_do_what_they_say() {
    let db = database().await;
    let mut migration = orders(&db, 2_000).await;
    migration.backfill_rows_per_second = Some(500);
    let running = run(&db, &migration, 100.0).await;
    let control = Control::connect(&db.config()).await.unwrap();
    control.start("orders_v2", "a test").await.unwrap();
    until_phase(&control, "backfill").await;
    control.pause("orders_v2", "a test").await.unwrap();
    until_phase(&control, "paused").await;
    let rows = db.count("SELECT count(*) FROM orders_v2").await;
    assert!(rows < 2_000, "{rows}");
    assert_ne!(running.mirror(), Mirror::Off, "writes are still mirrored");
    assert!(control.verify("orders_v2", "a test").await.is_err());
    control.resume("orders_v2", "a test").await.unwrap();
    until_open(&running, &control).await;
    assert!(control.start("orders_v2", "a test").await.is_err());
    let passes = status(&control).await.verify_passes;
    control.verify("orders_v2", "a test").await.unwrap();
    until("one more pass", async || status(&control).await.verify_passes > passes).await;
    control.abort("orders_v2", "a test", "no more").await.unwrap();
    until_phase(&control, "aborted").await;
    until("off", async || running.mirror() == Mirror::Off && !running.is_open()).await;
    let functions = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'pgsegue'::regnamespace \
                     AND proname LIKE '%orders_v2'";
    until("the functions are gone", async || db.count(functions).await == 0).await;
    db.client.batch_execute("UPDATE orders SET total = 5").await.unwrap();
    control.start("orders_v2", "a test").await.unwrap();
    until_open(&running, &control).await;
    assert_in_step(&db, &migration).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_started_migration_must_stay_declared_as_it_was() {
    let db = database().await;
    let migration = orders(&db, 10).await;
    let control = Control::connect(&db.config()).await.unwrap();
    let error = control.start("orders_v2", "a test").await.unwrap_err().to_string();
    assert!(error.contains("no running proxy has migration orders_v2 declared"), "{error}");
    let running = run(&db, &migration, 0.0).await;
    control.start("orders_v2", "a test").await.unwrap();
    until_phase(&control, "ready").await;
    let error = running.engine.apply(Vec::new()).await.unwrap_err().to_string();
    assert!(error.contains("migration abort orders_v2"), "{error}");
    let mut changed = migration.clone();
    changed.columns[3].1 = "'EUR'".to_owned();
    let error = running.engine.apply(vec![declared(&changed, 0.0)]).await.unwrap_err().to_string();
    assert!(error.contains("columns"), "{error}");
    assert_ne!(running.mirror(), Mirror::Off, "nothing has changed");
    running.stop().await;
    let routes = Handle::new(Routes::none());
    let engine = Engine::connect(db.config(), routes, Arc::default(), Metrics::new().unwrap())
        .await
        .unwrap();
    assert!(engine.apply(Vec::new()).await.is_err());
    assert!(engine.apply(vec![declared(&changed, 0.0)]).await.is_err());
    let error = control.start("orders_v2", "a test").await.unwrap_err().to_string();
    assert!(error.contains("is in phase ready"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocker_says_what_to_do_and_resume_goes_on() {
    let db = database().await;
    let migration = orders(&db, 10).await;
    db.client.batch_execute("CREATE VIEW ov AS SELECT * FROM orders").await.unwrap();
    let running = run(&db, &migration, 0.0).await;
    let control = Control::connect(&db.config()).await.unwrap();
    control.start("orders_v2", "a test").await.unwrap();
    until_phase(&control, "blocked").await;
    match status(&control).await.phase {
        Phase::Blocked { reason, from } => {
            assert!(reason.contains("view public.ov"), "{reason}");
            assert_eq!(*from, Phase::Prepare);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(running.mirror(), Mirror::Off);
    db.client.batch_execute("DROP VIEW ov").await.unwrap();
    control.resume("orders_v2", "a test").await.unwrap();
    until_phase(&control, "ready").await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parameter_in_a_mapping_blocks_the_start() {
    let db = database().await;
    let mut migration = orders(&db, 10).await;
    migration.columns[4].1 = "$1".to_owned();
    let running = run(&db, &migration, 0.0).await;
    let control = Control::connect(&db.config()).await.unwrap();
    control.start("orders_v2", "a test").await.unwrap();
    until_phase(&control, "blocked").await;
    let said = "mapping public.orders_v2.note: the mapping of note has a parameter, such as $1";
    match status(&control).await.phase {
        Phase::Blocked { reason, .. } => assert!(reason.contains(said), "{reason}"),
        other => panic!("{other:?}"),
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_install_that_waits_for_another_one_is_tried_again() {
    let db = database().await;
    let migration = orders(&db, 10).await;
    let running = run(&db, &migration, 0.0).await;
    let control = Control::connect(&db.config()).await.unwrap();
    let other = db.another().await;
    other.batch_execute("SELECT pg_advisory_lock(1885827941, 1)").await.unwrap();
    control.start("orders_v2", "a test").await.unwrap();
    let mut waits = std::collections::BTreeSet::new();
    until("the worker has waited twice", async || {
        let sql = "SELECT a.xact_start::text FROM pg_locks l JOIN pg_stat_activity a USING (pid) \
                   WHERE l.locktype = 'advisory' AND NOT l.granted AND l.objid = 1 \
                   AND a.datname = current_database()";
        let rows = db.client.query(sql, &[]).await.unwrap();
        waits.extend(rows.iter().filter_map(|row| row.get::<_, Option<String>>(0)));
        waits.len() > 1
    })
    .await;
    other.batch_execute("SELECT pg_advisory_unlock_all()").await.unwrap();
    until_phase(&control, "ready").await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poison_key_blocks_the_first_verify_and_is_named() {
    let db = database().await;
    let mut migration = orders(&db, 50).await;
    migration.accepted = vec!["rows public.orders_v2.orders_v2_id_check".to_owned()];
    db.client.batch_execute("ALTER TABLE orders_v2 ADD CHECK (id <> 33)").await.unwrap();
    let running = run(&db, &migration, 0.0).await;
    let control = Control::connect(&db.config()).await.unwrap();
    control.start("orders_v2", "a test").await.unwrap();
    until_phase(&control, "blocked").await;
    let seen = status(&control).await;
    assert_eq!(seen.poison_keys.len(), 1);
    assert!(seen.poison_keys[0].starts_with("(33): 23514"), "{seen:?}");
    let fix = "ALTER TABLE orders_v2 DROP CONSTRAINT orders_v2_id_check";
    db.client.batch_execute(fix).await.unwrap();
    control.resume("orders_v2", "a test").await.unwrap();
    until_phase(&control, "ready").await;
    assert_in_step(&db, &migration).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_backfill_waits_for_open_and_prepared_writes_that_were_not_mirrored() {
    let db = database().await;
    let migration = orders(&db, 10).await;
    let running = run(&db, &migration, 0.0).await;
    let control = Control::connect(&db.config()).await.unwrap();
    let open = db.another().await;
    open.batch_execute("BEGIN; UPDATE orders SET total = 100 WHERE id = 1").await.unwrap();
    let prepared = db.another().await;
    let sql = "BEGIN; UPDATE orders SET total = 200 WHERE id = 2; PREPARE TRANSACTION 'later'";
    prepared.batch_execute(sql).await.unwrap();
    let in_flight = running.routes.register();
    let _routes = in_flight.begin();
    control.start("orders_v2", "a test").await.unwrap();
    until_phase(&control, "dual_write").await;
    let still = async || {
        let polls = db.count("SELECT count(*) FROM pg_stat_activity").await;
        assert!(polls > 0);
        assert_eq!(status(&control).await.phase, Phase::DualWrite);
    };
    still().await;
    in_flight.idle();
    still().await;
    open.batch_execute("COMMIT").await.unwrap();
    db.until("SELECT count(*) > 0 FROM pg_stat_activity WHERE query LIKE '%FROM pg_locks WHERE locktype%' \
              AND pid <> pg_backend_pid()").await;
    still().await;
    db.client.batch_execute("COMMIT PREPARED 'later'").await.unwrap();
    until_phase(&control, "ready").await;
    assert_in_step(&db, &migration).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_control_connection_closes_the_gate_until_it_is_back() {
    let db = database().await;
    let migration = orders(&db, 100).await;
    let running = run(&db, &migration, 100.0).await;
    let control = Control::connect(&db.config()).await.unwrap();
    control.start("orders_v2", "a test").await.unwrap();
    until_open(&running, &control).await;
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                WHERE datname = current_database() AND application_name LIKE 'pgsegue engine%'";
    let closed = running.routes.load().routes[0].gate.ticket();
    db.client.batch_execute(kill).await.unwrap();
    until("the gate was closed", async || running.routes.load().routes[0].gate.ticket() != closed)
        .await;
    until_open(&running, &control).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn levers_of_either_side_lower_and_both_must_agree_to_raise() {
    let db = database().await;
    let migration = orders(&db, 10).await;
    let running = run(&db, &migration, 30.0).await;
    let control = Control::connect(&db.config()).await.unwrap();
    control.start("orders_v2", "a test").await.unwrap();
    until_open(&running, &control).await;
    let reads =
        |value| RouteChange { reads: Percent::new(value), dark_reads: None, dual_write: None };
    for (change, expected) in [(10.0, 10.0), (0.0, 0.0), (100.0, 30.0)] {
        control.route("orders_v2", reads(change), "a test", "ramp").await.unwrap();
        until("reads follow", async || running.reads() == expected).await;
        assert!((status(&control).await.reads - expected).abs() < f64::EPSILON);
    }
    let before = running.routes.load();
    running.engine.apply(vec![declared(&migration, 70.0)]).await.unwrap();
    let after = running.routes.load();
    assert!((running.reads() - 70.0).abs() < f64::EPSILON);
    assert_eq!(before.generation, after.generation, "levers do not void understood statements");
    running.stop().await;
}
