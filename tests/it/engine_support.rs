//! What most of the engine's tests need: tables, a declaration, a comparison of source and
//! shadow, a running engine.

use super::support::{self, TestDb, connect};
use pgsegue::engine::shape::{self, Shape};
use pgsegue::engine::{Control, Declared, Engine, Status, install, sync, truncate, whole};
use pgsegue::manifest::{DualWrite, Levers, Migration, Percent, Scans, Sticky, Unclassified};
use pgsegue::pg;
use pgsegue::routing::{Handle, Mirror, Routes};
use pgsegue::sql::ident::{Ident, QualifiedName};
use pgsegue::telemetry::Metrics;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

/// A fresh database.
pub(crate) struct Db {
    pub(crate) conninfo: String,
    pub(crate) client: Client,
}

pub(crate) async fn database() -> Db {
    let TestDb { conninfo, client, .. } = support::database().await;
    Db { conninfo, client }
}

impl Db {
    /// The name of the database: for roles of one test, as all databases share them.
    pub(crate) async fn name(&self) -> String {
        let sql = "SELECT current_database()::text";
        self.client.query_one(sql, &[]).await.unwrap().get(0)
    }

    pub(crate) async fn another(&self) -> Client {
        connect(&self.conninfo).await
    }

    pub(crate) fn config(&self) -> pg::Database {
        self.conninfo.parse::<tokio_postgres::Config>().unwrap().into()
    }

    /// A connection as the engine opens it.
    pub(crate) async fn engine_client(&self) -> Client {
        let connection = pg::connect(&self.config(), "pgsegue engine").await.unwrap();
        connection.client
    }

    pub(crate) async fn count(&self, sql: &str) -> i64 {
        self.client.query_one(sql, &[]).await.unwrap().get(0)
    }

    /// The keys on record, with their reasons.
    pub(crate) async fn dirty(&self) -> Vec<(Option<Vec<String>>, String)> {
        let sql = "SELECT key, reason FROM pgsegue.dirty_keys ORDER BY at, ctid";
        let rows = self.client.query(sql, &[]).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    /// Waits until a query over `pg_stat_activity` or `pg_locks` says true.
    pub(crate) async fn until(&self, sql: &str) {
        let start = Instant::now();
        loop {
            if self.client.query_one(sql, &[]).await.unwrap().get(0) {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "never true: {sql}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until some backend waits for a lock with a query that contains `text`.
    pub(crate) async fn until_blocked(&self, text: &str) {
        self.until(&format!(
            "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() \
             AND wait_event_type = 'Lock' AND pid <> pg_backend_pid() AND query LIKE '%{text}%'"
        ))
        .await;
    }
}

/// `orders(id, user_id, total, note)` with `rows` rows, and its shadow in a new shape.
pub(crate) async fn orders(db: &Db, rows: u32) -> Migration {
    db.client
        .batch_execute(&format!(
            "CREATE TABLE orders (id int4 PRIMARY KEY, user_id int4 NOT NULL, \
                total int4 NOT NULL, note text); \
             CREATE TABLE orders_v2 (id int8 PRIMARY KEY, customer_id int4 NOT NULL, \
                total_minor int8 NOT NULL, currency text NOT NULL, note text); \
             INSERT INTO orders SELECT i, i % 100, i, 'note ' || i FROM generate_series(1, {rows}) i"
        ))
        .await
        .unwrap();
    migration(&[
        ("id", "id"),
        ("customer_id", "user_id"),
        ("total_minor", "total::bigint * 100"),
        ("currency", "'USD'"),
        ("note", "note"),
    ])
}

pub(crate) fn migration(columns: &[(&str, &str)]) -> Migration {
    let pairs = |of: &[(&str, &str)]| {
        of.iter().map(|(name, sql)| (Ident::new(*name), (*sql).to_owned())).collect()
    };
    Migration {
        name: "orders_v2".to_owned(),
        source: QualifiedName::parse("public.orders").unwrap(),
        shadow: QualifiedName::parse("public.orders_v2").unwrap(),
        key: vec![Ident::new("id")],
        columns: pairs(columns),
        reverse: pairs(&[("total", "(total_minor / 100)::int")])
            .into_iter()
            .filter(|_: &(Ident, String)| columns.iter().any(|(name, _)| *name == "total_minor"))
            .collect(),
        unclassified: Unclassified::Record,
        lock_budget: Duration::from_millis(150),
        backfill_rows_per_second: None,
        accepted: Vec::new(),
    }
}

pub(crate) fn declared(migration: &Migration, reads: f64) -> Declared {
    let percent = |value| Percent::new(value).unwrap();
    Declared {
        migration: migration.clone(),
        levers: Levers {
            dual_write: DualWrite::On,
            reads: percent(reads),
            dark_reads: percent(0.0),
            sticky: Sticky::Session,
            scans: Scans::Source,
        },
    }
}

/// Installs schema and functions without an engine.
pub(crate) async fn install(db: &Db, migration: &Migration) -> Shape {
    let client = db.engine_client().await;
    client.batch_execute(&install::base_sql()).await.unwrap();
    let shape = shape::read(&client, migration).await.unwrap().unwrap();
    client.batch_execute(&sync::sync_sql(&shape)).await.unwrap();
    client.batch_execute(&sync::follow_sql(&shape)).await.unwrap();
    client.batch_execute(&truncate::truncated_sql(&shape)).await.unwrap();
    client.batch_execute(&whole::whole_sql(&shape)).await.unwrap();
    client.batch_execute(&sync::mark_sql(&migration.name)).await.unwrap();
    shape
}

/// Asserts that the shadow holds exactly the mapped source, row by row, as text.
pub(crate) async fn assert_in_step(db: &Db, migration: &Migration) {
    let names: Vec<String> = migration.columns.iter().map(|(name, _)| name.quoted()).collect();
    let client = db.engine_client().await;
    let shape = shape::read(&client, migration).await.unwrap().unwrap();
    let mapped: Vec<String> =
        shape.mapped.iter().map(|m| format!("({})::{}", m.expression, m.column.type_sql)).collect();
    let sql = format!(
        "WITH s AS (SELECT ROW({mapped})::text AS r FROM {source}), \
         t AS (SELECT ROW({names})::text AS r FROM {shadow}) \
         SELECT coalesce((SELECT string_agg('source ' || r, '; ') FROM \
             (TABLE s EXCEPT ALL TABLE t LIMIT 5) a), '') \
         || coalesce((SELECT string_agg('shadow ' || r, '; ') FROM \
             (TABLE t EXCEPT ALL TABLE s LIMIT 5) b), '')",
        mapped = mapped.join(", "),
        names = names.join(", "),
        source = migration.source.quoted(),
        shadow = migration.shadow.quoted(),
    );
    let difference: String = client.query_one(&sql, &[]).await.unwrap().get(0);
    assert_eq!(difference, "", "source and shadow differ");
}

/// Writes as the proxy does: the statement's keys feed the sync function.
pub(crate) fn mirrored(statement: &str, mode: i32) -> String {
    format!(
        "WITH w AS ({statement} RETURNING id AS k) \
         SELECT count(*), pgsegue.sync_orders_v2(array_agg(k), {mode}) FROM w"
    )
}

/// Runs a mirrored write; returns what the sync function said.
pub(crate) async fn write(client: &Client, statement: &str, mode: i32) -> i32 {
    client.query_one(&mirrored(statement, mode), &[]).await.unwrap().get(1)
}

/// A running engine.
pub(crate) struct Running {
    pub(crate) routes: Arc<Handle>,
    pub(crate) engine: Arc<Engine>,
    pub(crate) stop: CancellationToken,
    pub(crate) task: JoinHandle<()>,
}

pub(crate) async fn run(db: &Db, migration: &Migration, reads: f64) -> Running {
    let routes = Handle::new(Routes::none());
    let metrics = Metrics::new().unwrap();
    let engine =
        Engine::connect(db.config(), Arc::clone(&routes), Arc::default(), metrics).await.unwrap();
    engine.apply(vec![declared(migration, reads)]).await.unwrap();
    let stop = CancellationToken::new();
    let task = tokio::spawn(Arc::clone(&engine).run(stop.clone()));
    Running { routes, engine, stop, task }
}

impl Running {
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }

    pub(crate) fn is_open(&self) -> bool {
        self.routes.load().routes.first().is_some_and(|route| route.gate.is_open())
    }

    pub(crate) fn mirror(&self) -> Mirror {
        self.routes.load().routes.first().map_or(Mirror::Off, |route| route.mirror)
    }

    pub(crate) fn reads(&self) -> f64 {
        self.routes.load().routes.first().map_or(0.0, |route| route.reads.as_f64())
    }
}

pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < Duration::from_secs(30), "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) async fn status(control: &Control) -> Status {
    control.status("orders_v2").await.unwrap().unwrap()
}

pub(crate) async fn until_phase(control: &Control, name: &str) {
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

/// Ready with the gate open.
pub(crate) async fn until_open(running: &Running, control: &Control) {
    until_phase(control, "ready").await;
    until("the gate opens", async || running.is_open()).await;
}
