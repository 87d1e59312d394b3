//! Puts the parts together and runs them: the only file that sees all of them.

use crate::admin::{self, Admin};
use crate::causes;
use crate::config::{self, Reloader, Settings};
use crate::engine::{self, Engine};
use crate::proxy::{self, Listener, Local, LocalListener, ReusePort, SharedLimits};
use crate::routing::{Handle, Routes};
use crate::telemetry::Metrics;
use crate::tls::Acceptor;
use crate::workload::Workload;
use arc_swap::{ArcSwap, ArcSwapOption};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};
use tokio_postgres::error::SqlState;
use tokio_util::sync::CancellationToken;

/// How long the engine may take to end its step.
const ENGINE_END: Duration = Duration::from_secs(30);
/// Between looks whether the admin address is free.
const ADMIN_RETRY: Duration = Duration::from_millis(100);
const CONNECT_RETRY: Duration = Duration::from_secs(1);

/// Why the process cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The config file.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The engine.
    #[error("the engine cannot start")]
    Engine(#[from] engine::Error),
    /// A listener.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The listener of the Unix socket.
    #[error("cannot listen on a Unix socket in {folder}")]
    ListenLocal {
        /// In which folder.
        folder: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The operating system.
    #[error("a listener or signal failed")]
    Io(#[from] std::io::Error),
    /// A mistake in the metrics themselves.
    #[error("the metrics cannot be set up")]
    Metrics(#[from] prometheus::Error),
}

/// Runs the proxy, the engine and the admin server until `shutdown`, then lets the sessions end.
/// The admin server answers from the start; clients are accepted when the routes are published.
///
/// # Errors
/// When the config file is invalid, an address is taken, or the engine refuses the migrations. A
/// database that is down is waited for.
pub async fn serve(config: &Path, shutdown: CancellationToken) -> Result<(), Error> {
    let metrics = Metrics::new()?;
    let (reloader, settings) = Reloader::load(config, metrics.clone())?;
    let process = &settings.process;
    let routes = Handle::new(Routes::none());
    let workload = Arc::new(Workload::default());
    let shown = admin::Shown {
        metrics: metrics.clone(),
        control: process.control.clone(),
        workload: Arc::clone(&workload),
        declared: Arc::new(ArcSwap::from_pointee(settings.migrations.clone())),
    };
    let declared = Arc::clone(&shown.declared);
    let admin = Admin::new(shown);
    let admin_shutdown = CancellationToken::new();
    let first = match process.reuse_port {
        ReusePort::No => Some(listen(process.admin).await?),
        ReusePort::Yes => None,
    };
    let served = serve_admin(&admin, first, process.admin, admin_shutdown.clone());
    let work = async {
        let started = start_engine(&settings, (&routes, &workload), &metrics);
        let engine = tokio::select! {
            engine = started => engine?,
            () = shutdown.cancelled() => return Ok(()),
        };
        let listener = clients(process)?;
        let local = process.local.as_ref().map(|local| listen_local(local, process.listen.port()));
        let local = local.transpose()?;
        admin.set_ready(true);
        tracing::info!(listen = %listener.address()?, admin = %process.admin, "ready");
        allow_open_files(settings.limits.clients_max);
        let options = Arc::new(options(&settings, &workload));
        let hot = Hot::of(&options, declared);
        let parts = Parts { engine, hot, reloader, admin: &admin };
        let proxied = proxy::serve(listener, local, options, routes, metrics, shutdown.clone());
        run(parts, proxied, &shutdown).await
    };
    tokio::select! {
        done = work => {
            admin_shutdown.cancel();
            done
        }
        failed = served => failed,
    }
}

/// A session is two sockets; the soft limit of most systems is for programs with less to do.
fn allow_open_files(clients_max: usize) {
    const OTHERS: u64 = 100;
    let needed = u64::try_from(clients_max).unwrap_or(u64::MAX).saturating_mul(2);
    match rlimit::increase_nofile_limit(needed.saturating_add(OTHERS)) {
        Ok(limit) if limit >= needed.saturating_add(OTHERS) => {}
        Ok(limit) => tracing::warn!(
            "the system allows {limit} open files, enough for {} clients, not for \
             proxy.clients_max = {clients_max}; raise the hard limit (LimitNOFILE, ulimit -Hn)",
            limit.saturating_sub(OTHERS) / 2
        ),
        Err(error) => tracing::warn!(%error, "the limit of open files could not be raised"),
    }
}

/// What of the proxy's options is hot.
struct Hot {
    /// What clients are offered by way of TLS.
    clients: Arc<ArcSwapOption<Acceptor>>,
    limits: SharedLimits,
    /// What the admin server explains by.
    declared: Arc<ArcSwap<Vec<engine::Declared>>>,
}

impl Hot {
    fn of(options: &proxy::Options, declared: Arc<ArcSwap<Vec<engine::Declared>>>) -> Self {
        let (clients, limits) = (Arc::clone(&options.clients), Arc::clone(&options.limits));
        Self { clients, limits, declared }
    }
}

/// Where clients on this machine connect. After the port, so that two processes that share it by
/// mistake are found there.
fn listen_local(local: &Local, port: u16) -> Result<LocalListener, Error> {
    let listener = LocalListener::bind(local, port)
        .map_err(|source| Error::ListenLocal { folder: local.folder.clone(), source })?;
    tracing::info!(path = %listener.path().display(), "listening");
    Ok(listener)
}

/// Where clients connect: what the process was given, or the config file's address.
fn clients(process: &config::Process) -> Result<Listener, Error> {
    if let Some(inherited) = Listener::inherited()? {
        return Ok(inherited);
    }
    let address = process.listen;
    Listener::bind(address, process.reuse_port).map_err(|source| Error::Listen { address, source })
}

/// Serves the admin address until `shutdown`. Without a listener it waits for the address: a
/// process that is about to end may have it, and clients need not wait for that.
async fn serve_admin(
    admin: &Admin,
    first: Option<TcpListener>,
    address: SocketAddr,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let mut listener = first;
    let mut told = false;
    let listener = loop {
        match listener.take() {
            Some(listener) => break listener,
            None => match listen(address).await {
                Ok(free) => listener = Some(free),
                Err(error) => {
                    if !told {
                        tracing::warn!("waiting for it: {}", causes::in_one_line(&error));
                    }
                    told = true;
                    sleep(ADMIN_RETRY).await;
                }
            },
        }
    };
    Ok(admin.clone().serve(listener, shutdown).await?)
}

/// What runs beside the client sessions.
struct Parts<'a> {
    engine: Option<Arc<Engine>>,
    hot: Hot,
    reloader: Reloader,
    admin: &'a Admin,
}

async fn run(
    parts: Parts<'_>,
    proxied: impl Future<Output = std::io::Result<()>>,
    shutdown: &CancellationToken,
) -> Result<(), Error> {
    let engine = parts.engine;
    // Ends with this function, however it ends.
    let stop = shutdown.child_token();
    let _stop_at_the_end = stop.clone().drop_guard();
    let running = engine.clone().map(|e| tokio::spawn(e.run(stop.clone())));
    let reloading = reload(parts.reloader, engine.clone(), parts.hot, shutdown.clone());
    let serving = async {
        proxied.await?;
        shutdown.cancelled().await;
        Ok::<(), Error>(())
    };
    let unready = async {
        shutdown.cancelled().await;
        parts.admin.set_ready(false);
        std::future::pending().await
    };
    tokio::select! {
        served = serving => served?,
        never = unready => match never {},
        never = reloading => match never {},
    }
    stop.cancel();
    if let Some(running) = running
        && timeout(ENGINE_END, running).await.is_err()
    {
        tracing::warn!("the engine has not ended in time");
    }
    Ok(())
}

/// Follows the config file; goes on waiting after `shutdown`, when others decide about the end.
async fn reload(
    reloader: Reloader,
    engine: Option<Arc<Engine>>,
    hot: Hot,
    shutdown: CancellationToken,
) -> Infallible {
    let apply = async |settings: Settings| {
        match &engine {
            Some(engine) => {
                let declared = settings.migrations.clone();
                engine.apply(settings.migrations).await.map_err(ApplyError::Engine)?;
                hot.declared.store(Arc::new(declared));
            }
            None if settings.migrations.is_empty() => {}
            None => return Err(ApplyError::NoEngine),
        }
        hot.clients.store(settings.clients.map(Arc::new));
        hot.limits.store(Arc::new(settings.limits));
        Ok(())
    };
    reloader.run(apply, shutdown).await;
    std::future::pending().await
}

#[derive(Debug, thiserror::Error)]
enum ApplyError {
    #[error("the engine refuses it")]
    Engine(#[source] engine::Error),
    #[error("this process was started without [control]; restart it to begin with migrations")]
    NoEngine,
}

fn options(settings: &Settings, workload: &Arc<Workload>) -> proxy::Options {
    proxy::Options {
        server: settings.process.server.clone(),
        clients: Arc::new(ArcSwapOption::from_pointee(settings.clients.clone())),
        control: settings.process.control.clone(),
        verifier_query: settings.process.verifier_query.clone(),
        dark_reads_max: settings.process.dark_reads_max,
        workers: settings.process.workers,
        sql_bytes_max: settings.process.sql_bytes_max,
        sql_buffer_bytes_max: settings.process.sql_buffer_bytes_max,
        limits: Arc::new(ArcSwap::from_pointee(settings.limits)),
        workload: Arc::clone(workload),
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })
}

/// An engine that has published the routes of the config file; none without `[control]`.
async fn start_engine(
    settings: &Settings,
    (routes, workload): (&Arc<Handle>, &Arc<Workload>),
    metrics: &Metrics,
) -> Result<Option<Arc<Engine>>, Error> {
    let Some(control) = &settings.process.control else { return Ok(None) };
    loop {
        let started = async {
            let (routes, workload) = (Arc::clone(routes), Arc::clone(workload));
            let engine =
                Engine::connect(control.clone(), routes, workload, metrics.clone()).await?;
            engine.apply(settings.migrations.clone()).await?;
            Ok(engine)
        };
        match started.await {
            Ok(engine) => return Ok(Some(engine)),
            Err(error) if is_database_down(&error) => {
                tracing::warn!("waiting for the database: {}", causes::in_one_line(&error));
                sleep(CONNECT_RETRY).await;
            }
            Err(error) => return Err(Error::Engine(error)),
        }
    }
}

/// Whether it is worth to try again: not reached, starting up, ending, or full.
fn is_database_down(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source())
        .find_map(|error| error.downcast_ref::<tokio_postgres::Error>())
        .is_some_and(|error| match error.code() {
            Some(code) => [
                SqlState::CANNOT_CONNECT_NOW,
                SqlState::ADMIN_SHUTDOWN,
                SqlState::CRASH_SHUTDOWN,
                SqlState::TOO_MANY_CONNECTIONS,
            ]
            .contains(code),
            None => error.is_closed() || has_io_cause(error),
        })
}

fn has_io_cause(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source())
        .any(|error| error.is::<std::io::Error>())
}
