//! What a case runs on: two databases of one server, one of them with an engine and a proxy in
//! this process.

use crate::case::{Begin, Case, Plans};
use crate::raw::Raw;
use crate::sessions::TRANSACTION;
use arc_swap::{ArcSwap, ArcSwapOption};
use pgsegue::engine::{Control, Declared, Engine, Phase};
use pgsegue::manifest::{DualWrite, Levers, Percent, Scans, Sticky};
use pgsegue::pg;
use pgsegue::proxy::{self, Address, Keepalive, Limits, Listener, ReusePort, Server};
use pgsegue::routing::{Handle, Mirror, Routes};
use pgsegue::telemetry::Metrics;
use pgsegue::throwaway::{Options, Postgres};
use pgsegue::tls;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, OnceCell};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};
use tokio_util::sync::CancellationToken;

/// Longer than anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Remembers that somebody marked a migration: then a verify may find what nothing else has on record.
const MARKS: &str = "CREATE SCHEMA twin; CREATE TABLE twin.marks (reason text);
CREATE FUNCTION twin.remember() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
    $$ BEGIN INSERT INTO twin.marks VALUES (NEW.reason); RETURN NULL; END $$;
CREATE TRIGGER remember AFTER INSERT ON pgsegue.dirty_keys FOR EACH ROW WHEN (NEW.key IS NULL)
    EXECUTE FUNCTION twin.remember()";

// Never dropped; the server's own supervisor ends it with this process.
static SERVER: LazyLock<Postgres> = LazyLock::new(|| {
    let settings = [("autovacuum", "off"), ("jit", "off")];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let options = Options { settings, ..Options::default() };
    Postgres::start(&options).unwrap_or_else(|error| panic!("{error}"))
});
/// The role that apps take on with SET ROLE.
static ROLE: OnceCell<()> = OnceCell::const_new();
static NEXT: AtomicU32 = AtomicU32::new(1);

pub struct Stand {
    pub plain: String,
    pub live: String,
    pub engine: Arc<Engine>,
    pub routes: Arc<Handle>,
    pub metrics: Metrics,
    pub proxy_port: u16,
    /// What of the time went where.
    pub spent: Spent,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

/// Making databases takes longer than anything else, so they are used again.
static FREE: Mutex<Vec<Databases>> = Mutex::const_new(Vec::new());

struct Databases {
    plain: String,
    live: String,
}

impl Databases {
    /// Two that are empty.
    async fn take(case: &Case) -> Result<Self, String> {
        let admin = connect("postgres").await;
        let role = async || admin.batch_execute("CREATE ROLE twin_app").await.unwrap();
        ROLE.get_or_init(role).await;
        let free = FREE.lock().await.pop();
        let databases = match free {
            Some(databases) => databases,
            None => {
                let number = NEXT.fetch_add(1, Ordering::Relaxed);
                Self { plain: format!("plain_{number}"), live: format!("live_{number}") }
            }
        };
        for name in [&databases.plain, &databases.live] {
            let exists = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)";
            let exists: bool = admin.query_one(exists, &[name]).await.unwrap().get(0);
            let begin = match exists {
                true => format!("ALTER DATABASE {name} RESET ALL"),
                false => format!("CREATE DATABASE {name}"),
            };
            let settings: &[&str] = match case.plans {
                Plans::AsUsual => &[],
                Plans::Scans => &["enable_indexscan", "enable_indexonlyscan", "enable_bitmapscan"],
            };
            let settings = settings.iter().map(|s| format!("ALTER DATABASE {name} SET {s} = off"));
            for sql in std::iter::once(begin).chain(settings) {
                admin.batch_execute(&sql).await.map_err(|e| e.to_string())?;
            }
        }
        Ok(databases)
    }

    /// Empties them for the next; what cannot be emptied is left where it is.
    async fn put(self) {
        const EMPTY: &str = "DO $$ DECLARE s text; BEGIN
            PERFORM pg_terminate_backend(pid, 10000) FROM pg_stat_activity
                WHERE datname = current_database() AND pid <> pg_backend_pid();
            FOR s IN SELECT nspname FROM pg_namespace
                WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
            LOOP EXECUTE format('DROP SCHEMA %I CASCADE', s); END LOOP; END $$;
            CREATE SCHEMA public; GRANT USAGE ON SCHEMA public TO PUBLIC";
        for name in [&self.plain, &self.live] {
            let client = connect(name).await;
            let left = "SELECT 'ROLLBACK PREPARED ' || quote_literal(gid) FROM pg_prepared_xacts \
                 WHERE database = current_database()";
            for row in client.query(left, &[]).await.unwrap() {
                client.batch_execute(row.get(0)).await.unwrap();
            }
            if client.batch_execute(EMPTY).await.is_err() {
                return;
            }
        }
        FREE.lock().await.push(self);
    }
}

/// Where the time of a case goes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent {
    pub databases: Duration,
    pub engine: Duration,
    pub ready: Duration,
    pub statements: Duration,
    pub settling: Duration,
    /// Times that no gate opened.
    pub unsettled: u64,
    pub ending: Duration,
}

/// A connection; its driver ends with it.
pub async fn connect(database: &str) -> Client {
    let conninfo = SERVER.conninfo(database);
    let (client, connection) = tokio_postgres::connect(&conninfo, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// A connection as the engine has it.
pub async fn pinned(database: &str) -> Client {
    let config: tokio_postgres::Config = SERVER.conninfo(database).parse().unwrap();
    pg::connect(&config.into(), "twin").await.unwrap().client
}

impl Stand {
    /// Both databases, and the migrations as far as the case wants them.
    ///
    /// # Errors
    /// When a migration cannot be brought there.
    pub async fn build(case: &Case) -> Result<Self, String> {
        let began = Instant::now();
        let mut spent = Spent::default();
        let Databases { plain, live } = Databases::take(case).await?;
        let ddl = case.schema.ddl();
        for (name, ddl) in [(&plain, ddl.clone()), (&live, ddl + &case.plan.ddl)] {
            let client = connect(name).await;
            client.batch_execute(&ddl).await.map_err(|e| format!("schema: {e:?}"))?;
        }
        spent.databases = began.elapsed();
        let metrics = Metrics::new().unwrap();
        let routes = Handle::new(Routes::none());
        let config: tokio_postgres::Config = SERVER.conninfo(&live).parse().unwrap();
        let control = pg::Database::from(config);
        let engine =
            Engine::connect(control.clone(), Arc::clone(&routes), Arc::default(), metrics.clone())
                .await
                .map_err(|e| e.to_string())?;
        engine.apply(declared(case, 0.0)).await.map_err(|e| e.to_string())?;
        let stop = CancellationToken::new();
        let mut tasks = vec![tokio::spawn(Arc::clone(&engine).run(stop.clone()))];
        let (proxy_port, serving) = serve(&control, &routes, &metrics, &stop);
        tasks.push(serving);
        let mut stand =
            Self { plain, live, engine, routes, metrics, proxy_port, spent, stop, tasks };
        stand.spent.engine = began.elapsed() - spent.databases;
        let started = Instant::now();
        let control = Control::connect(&control).await.map_err(|e| e.to_string())?;
        for migration in &case.plan.migrations {
            control.start(&migration.name, "twin").await.map_err(|e| e.to_string())?;
        }
        match case.begin {
            Begin::Ready => stand.until_ready(case, &control).await?,
            Begin::Mirrored => stand.until_mirrored(case, &control).await?,
        }
        let client = connect(&stand.live).await;
        client.batch_execute(MARKS).await.map_err(|e| e.to_string())?;
        stand.spent.ready = started.elapsed();
        Ok(stand)
    }

    /// # Errors
    /// When one is blocked, or it takes too long.
    pub async fn until_ready(&self, case: &Case, control: &Control) -> Result<(), String> {
        self.until(case, control, |phase| *phase == Phase::Ready).await
    }

    async fn until_mirrored(&self, case: &Case, control: &Control) -> Result<(), String> {
        let routed = || {
            let routes = self.routes.load();
            routes.routes.len() == case.plan.migrations.len()
                && routes.routes.iter().all(|r| r.mirror != Mirror::Off)
        };
        self.until(case, control, |_| routed()).await
    }

    async fn until(
        &self,
        case: &Case,
        control: &Control,
        holds: impl Fn(&Phase) -> bool,
    ) -> Result<(), String> {
        let began = Instant::now();
        for migration in &case.plan.migrations {
            loop {
                let status = control.status(&migration.name).await.map_err(|e| e.to_string())?;
                let phase = status.ok_or("no such migration")?.phase;
                if let Phase::Blocked { reason, .. } = &phase {
                    return Err(format!("{} is blocked: {reason}", migration.name));
                }
                if holds(&phase) {
                    break;
                }
                if began.elapsed() > PATIENCE {
                    return Err(format!("{} is {phase:?} for ever", migration.name));
                }
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
        }
        Ok(())
    }

    /// # Errors
    /// When the database cannot be reached.
    pub async fn control(&self) -> Result<Control, String> {
        let config: tokio_postgres::Config = SERVER.conninfo(&self.live).parse().unwrap();
        Control::connect(&config.into()).await.map_err(|e| e.to_string())
    }

    /// # Errors
    /// When the engine refuses.
    pub async fn set_reads(&self, case: &Case, percent: f64) -> Result<(), String> {
        self.engine.apply(declared(case, percent)).await.map_err(|e| e.to_string())
    }

    /// Whether the shadows of all migrations that can serve reads may do so now.
    pub fn is_open(&self) -> bool {
        self.routes.load().routes.iter().all(|r| r.gate.is_open() || r.target.old_shape.is_err())
    }

    /// Statements so far by route and kind.
    pub fn counted(&self, route: &str, kind: &str) -> u64 {
        self.metrics.statements.with_label_values(&[route, kind]).get()
    }

    /// A session on each side.
    pub async fn pair(&self, case: &Case) -> (Raw, Raw) {
        let mut options =
            vec![("search_path", case.schema.search_path.as_str()), ("lock_timeout", "400")];
        if case.in_role {
            options.push(("role", "twin_app"));
        }
        let plain = Raw::connect_with(SERVER.port(), "postgres", &self.plain, &options).await;
        let live = Raw::connect_with(self.proxy_port, "postgres", &self.live, &options).await;
        (plain, live)
    }

    /// What a prepared transaction is called in a database.
    pub fn transaction(&self, database: &str) -> String {
        format!("{database:_<width$}", width = TRANSACTION.len())
    }

    /// The port behind each side, for cancel requests.
    pub fn ports(&self) -> (u16, u16) {
        (SERVER.port(), self.proxy_port)
    }

    /// Ends engine and proxy, and leaves the databases to another case.
    pub async fn end(self) {
        self.stop.cancel();
        for task in self.tasks {
            task.await.unwrap();
        }
        Databases { plain: self.plain, live: self.live }.put().await;
    }
}

fn declared(case: &Case, reads: f64) -> Vec<Declared> {
    let scans = if case.seed.is_multiple_of(2) { Scans::Source } else { Scans::Shadow };
    case.plan
        .migrations
        .iter()
        .map(|migration| Declared {
            migration: migration.clone(),
            levers: Levers {
                dual_write: DualWrite::On,
                reads: Percent::new(reads).unwrap(),
                dark_reads: Percent::ZERO,
                sticky: Sticky::Statement,
                scans,
            },
        })
        .collect()
}

fn serve(
    control: &pg::Database,
    routes: &Arc<Handle>,
    metrics: &Metrics,
    stop: &CancellationToken,
) -> (u16, JoinHandle<()>) {
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), ReusePort::No).unwrap();
    let port = listener.address().unwrap().port();
    let limits = Limits {
        clients_max: 100,
        startup_timeout: PATIENCE,
        idle_timeout: None,
        drain_timeout: Duration::ZERO,
        connect_timeout: PATIENCE,
        keepalive: Keepalive { idle: Duration::ZERO, interval: Duration::ZERO, count: 0 },
    };
    let address: std::net::SocketAddr = ([127, 0, 0, 1], SERVER.port()).into();
    let options = proxy::Options {
        server: Server {
            address: Address::of_host(&address.to_string()).unwrap(),
            tls: tls::Dialer::disabled(),
        },
        clients: Arc::new(ArcSwapOption::empty()),
        control: Some(control.clone()),
        verifier_query: String::new(),
        dark_reads_max: 0,
        workers: 1,
        sql_bytes_max: 1 << 20,
        sql_buffer_bytes_max: 1 << 26,
        limits: Arc::new(ArcSwap::from_pointee(limits)),
        workload: Arc::default(),
    };
    let serving = proxy::serve(
        listener,
        None,
        Arc::new(options),
        Arc::clone(routes),
        metrics.clone(),
        stop.clone(),
    );
    (port, tokio::spawn(async move { serving.await.unwrap() }))
}
