//! Client sessions: listener, startup, relay, rewriting, dark reads. Knows routes, not phases.

use crate::routing;
use crate::telemetry::Metrics;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What the proxy needs to know.
#[derive(Debug, Clone)]
pub struct Options {
    /// The Postgres behind it: `host:port`.
    pub server: String,
    /// Connections of the control role for dark reads and for vetting shadow reads.
    pub control: Option<tokio_postgres::Config>,
    /// Dark reads that may be queued or running; more are dropped and counted.
    pub dark_reads_max: usize,
    /// Statements longer than this many bytes are not parsed.
    pub sql_bytes_max: usize,
}

/// Serves clients until `shutdown`; returns when the listener is closed and sessions have ended.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    _listener: TcpListener,
    _options: Arc<Options>,
    _routes: Arc<routing::Handle>,
    _metrics: Metrics,
    _shutdown: CancellationToken,
) -> std::io::Result<()> {
    Ok(())
}

/// The address a listener is bound to, for logs.
pub type ListenAddress = SocketAddr;
