//! Client sessions: listener, startup, relay, rewriting, dark reads. Knows routes, not phases.

mod auth;
mod context;
mod dark;
mod dial;
mod driver;
mod listener;
mod session;
mod side;
mod socket;
mod startup;
mod verifiers;
mod vet;
mod workers;

pub use dial::{Address, Server};

use crate::pg::Database;
use crate::routing::{self, Routes};
use crate::telemetry::Metrics;
use crate::tls::Acceptor;
use arc_swap::ArcSwapOption;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

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
    /// Statements longer than this many bytes are not parsed.
    pub sql_bytes_max: usize,
}

/// How long after a failed accept (too many open files) the next one is tried.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves clients until `shutdown`; returns when the listener is closed and sessions have ended:
/// idle ones at once, others when their transaction has.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve(
    listener: TcpListener,
    options: Arc<Options>,
    routes: Arc<routing::Handle>,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let other = routing::Handle::new(Routes::none());
    let contexts = Arc::new(listener::Contexts {
        verifiers: verifiers::Verifiers::new(&options),
        database: options.control.as_ref().and_then(database_of),
        migrated: context::Context::new(Arc::clone(&options), routes, metrics.clone()),
        other: context::Context::new(options, other, metrics),
    });
    let mut workers = workers::Workers::start(&contexts, &shutdown)?;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        let taken = match accepted {
            Ok((client, address)) => workers.take(client, address).await,
            Err(error) => Err(error),
        };
        if let Err(error) = taken {
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
    drop(listener);
    workers.end().await;
    Ok(())
}

/// The database that a connection goes to.
fn database_of(database: &Database) -> Option<String> {
    let config = database.config();
    config.get_dbname().or_else(|| config.get_user()).map(str::to_owned)
}
