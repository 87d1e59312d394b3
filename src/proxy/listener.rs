//! Serving one client connection: its startup, its server connection, its session.

use super::context::Context;
use super::driver;
use super::session::Session;
use super::socket::Socket;
use super::startup;
use crate::wire::build::{Report, Severity};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// How long a client may take to say who it is.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(60);

/// The contexts of a process: the migrations live in one database, sessions in others know none.
pub(super) struct Contexts {
    pub(super) migrated: Arc<Context>,
    pub(super) other: Arc<Context>,
    /// The database of the migrations.
    pub(super) database: Option<String>,
}

/// Serves one client connection.
pub(super) async fn serve_client(
    client: TcpStream,
    contexts: Arc<Contexts>,
    shutdown: CancellationToken,
) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut client = Socket::from(client);
    let startup = tokio::time::timeout(STARTUP_TIMEOUT, startup::read(&mut client)).await;
    let Some(startup) = startup.map_err(|_elapsed| io::ErrorKind::TimedOut)?? else {
        return Ok(());
    };
    let address = &contexts.migrated.options.server;
    let server = match TcpStream::connect(address).await {
        Ok(server) => server,
        Err(error) => return startup::tell(&mut client, &unreachable(address, &error)).await,
    };
    server.set_nodelay(true)?;
    let mut server = Socket::from(server);
    server.write_all(&startup.packet).await?;
    if startup.is_cancel {
        // The server answers a CancelRequest by closing; so do we, after it has read it.
        let _end = server.read(&mut [0; 1]).await?;
        return Ok(());
    }
    let migrated =
        !startup.is_replication && contexts.database.as_deref() == Some(startup.database.as_str());
    let context = if migrated { &contexts.migrated } else { &contexts.other };
    let gauge = context.metrics.sessions.clone();
    gauge.inc();
    let session = Session::new(Arc::clone(context), startup.user, startup.database);
    driver::run(session, &mut client, &mut server, &shutdown).await;
    gauge.dec();
    Ok(())
}

fn unreachable(address: &str, error: &io::Error) -> Report {
    Report {
        severity: Severity::Fatal,
        code: "08006",
        message: format!("the proxy cannot reach the server at {address}: {error}"),
        hint: "Is Postgres running there? See [server] address in the proxy's config.".to_owned(),
    }
}
