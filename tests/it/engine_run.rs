//! A whole migration through the engine, with writers that mirror as the proxy does.

use super::engine_support::*;
use pgsegue::engine::{Control, Engine, Phase, RouteChange, Status};
use pgsegue::manifest::{DualWrite, Migration, Percent};
use pgsegue::routing::{Handle, Mirror, Routes};
use pgsegue::telemetry::Metrics;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A running engine.
struct Running {
    routes: Arc<Handle>,
    engine: Arc<Engine>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

async fn run(db: &Db, migration: &Migration, reads: f64) -> Running {
    let routes = Handle::new(Routes::none());
    let metrics = Metrics::new().unwrap();
    let engine = Engine::connect(db.config(), Arc::clone(&routes), metrics).await.unwrap();
    engine.apply(vec![declared(migration, reads)]).await.unwrap();
    let stop = CancellationToken::new();
    let task = tokio::spawn(Arc::clone(&engine).run(stop.clone()));
    Running { routes, engine, stop, task }
}

impl Running {
    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }

    fn is_open(&self) -> bool {
        self.routes.load().routes.first().is_some_and(|route| route.gate.is_open())
    }

    fn mirror(&self) -> Mirror {
        self.routes.load().routes.first().map_or(Mirror::Off, |route| route.mirror)
    }

    fn reads(&self) -> f64 {
        self.routes.load().routes.first().map_or(0.0, |route| route.reads.as_f64())
    }
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < Duration::from_secs(30), "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn status(control: &Control) -> Status {
    control.status("orders_v2").await.unwrap().unwrap()
}

async fn until_phase(control: &Control, name: &str) {
    let start = Instant::now();
    loop {
        let status = status(control).await;
        if status.phase.name() == name {
            return;
        }
        let waited = start.elapsed();
        assert!(waited < Duration::from_secs(30), "not {name} but {status:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

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
