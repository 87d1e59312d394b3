//! Client sessions: listener, startup, relay, rewriting, dark reads. Knows routes, not phases.

mod auth;
mod context;
mod dark;
mod dial;
mod driver;
mod ending;
mod limits;
mod listen;
mod listener;
mod local;
mod reach;
mod session;
mod side;
mod socket;
mod startup;
mod verifiers;
mod vet;
mod workers;

pub use dial::{Address, Server};
pub use limits::{Keepalive, Limits, SharedLimits};
pub use listen::{Listener, ReusePort};
pub use local::{Local, LocalListener};
pub use vet::{Plan, Unfit, vet_once};

use crate::pg::Database;
use crate::routing::{self, Routes};
use crate::telemetry::Metrics;
use crate::tls::Acceptor;
use crate::workload::Workload;
use arc_swap::ArcSwapOption;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use workers::Client;

/// What the proxy needs to know.
#[derive(Debug, Clone)]
pub struct Options {
    /// The Postgres behind it.
    pub server: Server,
    /// What clients are offered by way of TLS; may change at any time, for connections to come.
    pub clients: Arc<ArcSwapOption<Acceptor>>,
    /// Connections of the control role for dark reads and for vetting shadow reads.
    pub control: Option<Database>,
    /// On such a connection: the SCRAM verifier of the role `$1`.
    pub verifier_query: String,
    /// Dark reads that may be queued or running; more are dropped and counted.
    pub dark_reads_max: usize,
    /// Threads that sessions run on.
    pub workers: usize,
    /// Statements longer than this many bytes are not parsed.
    pub sql_bytes_max: usize,
    /// Longer frames of statements that may concern a migrated table are not held.
    pub sql_buffer_bytes_max: usize,
    /// What bounds sessions.
    pub limits: SharedLimits,
    /// Where statements on migrated tables are counted.
    pub workload: Arc<Workload>,
}

/// How long after a failed accept (too many open files) the next one is tried.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long sessions that were ended may take to notice.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Serves clients until `shutdown`; returns when the listener is closed and sessions have ended:
/// idle ones at once, others when their transaction has, the rest at the limit for that.
///
/// # Errors
/// When the workers cannot be started.
pub async fn serve(
    listener: Listener,
    local: Option<LocalListener>,
    options: Arc<Options>,
    routes: Arc<routing::Handle>,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let other = routing::Handle::new(Routes::none());
    let limits = Arc::clone(&options.limits);
    let contexts = Arc::new(listener::Contexts {
        verifiers: verifiers::Verifiers::new(&options),
        database: options.control.as_ref().and_then(database_of),
        migrated: context::Context::new(Arc::clone(&options), routes, metrics.clone()),
        other: context::Context::new(options, other, metrics),
        clients: Arc::default(),
    });
    let ends = ending::Ends {
        drain: CancellationToken::new(),
        deadline: CancellationToken::new(),
        limits: Arc::clone(&limits),
    };
    // However this ends, sessions do.
    let _deadline = ends.deadline.clone().drop_guard();
    let mut workers = workers::Workers::start(&contexts, &ends)?;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted.map(Client::from),
            accepted = accept(local.as_ref()) => accepted.map(Client::from),
            () = shutdown.cancelled() => break,
        };
        take(&mut workers, accepted).await;
    }
    if let Some(local) = local {
        local.withdraw();
        while let Some(accepted) = local.waiting().await {
            take(&mut workers, Ok(Client::from(accepted))).await;
        }
    }
    let last = listener.close();
    while let Some(accepted) = last.next().await {
        take(&mut workers, accepted.map(Client::from)).await;
    }
    drop(last);
    ends.drain.cancel();
    drain(workers, &ends).await;
    Ok(())
}

/// The next client of the Unix socket, where there is one.
async fn accept(local: Option<&LocalListener>) -> std::io::Result<tokio::net::UnixStream> {
    match local {
        Some(local) => local.accept().await,
        None => std::future::pending().await,
    }
}

async fn take(workers: &mut workers::Workers, accepted: std::io::Result<Client>) {
    let taken = match accepted {
        Ok(client) => workers.take(client).await,
        Err(error) => Err(error),
    };
    if let Err(error) = taken {
        tracing::warn!(%error, "a connection could not be accepted");
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

/// Waits until the sessions have ended; ends those that are left when their time is over.
async fn drain(workers: workers::Workers, ends: &ending::Ends) {
    let patience = ends.limits.load().drain_timeout;
    tracing::info!("shutting down: sessions have {} ms to end", patience.as_millis());
    let mut ended = std::pin::pin!(workers.end());
    if tokio::time::timeout(patience, ended.as_mut()).await.is_ok() {
        return;
    }
    tracing::warn!("sessions are left, ending them");
    ends.deadline.cancel();
    if tokio::time::timeout(LAST_WORDS, ended).await.is_err() {
        tracing::warn!("sessions are left, ending anyway");
    }
}

/// The database that a connection goes to.
fn database_of(database: &Database) -> Option<String> {
    let config = database.config();
    config.get_dbname().or_else(|| config.get_user()).map(str::to_owned)
}
