//! Accepting clients, up to the StartupMessage:
//! <https://www.postgresql.org/docs/15/protocol-flow.html#id-1.10.6.7.3>.

use super::context::Context;
use super::driver;
use super::session::Session;
use super::socket::Socket;
use crate::wire::build::{self, Report, Severity};
use crate::wire::startup::{self as wire, BadPacket, Packet};
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
    let startup = tokio::time::timeout(STARTUP_TIMEOUT, startup(&mut client)).await;
    let Some(startup) = startup.map_err(|_elapsed| io::ErrorKind::TimedOut)?? else {
        return Ok(());
    };
    let address = &contexts.migrated.options.server;
    let server = match TcpStream::connect(address).await {
        Ok(server) => server,
        Err(error) => return refuse(client, &unreachable(address, &error)).await,
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

struct Startup {
    packet: Vec<u8>,
    user: String,
    database: String,
    is_cancel: bool,
    is_replication: bool,
}

/// Reads packets up to the StartupMessage or CancelRequest; `None` when the client went away or
/// was refused.
async fn startup(client: &mut Socket) -> io::Result<Option<Startup>> {
    loop {
        let Some(packet) = packet(client).await? else { return Ok(None) };
        let (user, database, is_cancel, is_replication) = match wire::read(&packet) {
            // Not here: the client goes on without, or gives up.
            Ok(Packet::SslRequest | Packet::GssencRequest) => {
                client.write_all(b"N").await?;
                continue;
            }
            Ok(Packet::Cancel(_)) => (String::new(), String::new(), true, false),
            Ok(Packet::Startup(s)) => {
                (text(s.user()), text(s.database()), false, s.is_replication())
            }
            Err(bad) => {
                build_and_send(client, &bad_startup(bad)).await?;
                return Ok(None);
            }
        };
        return Ok(Some(Startup { packet, user, database, is_cancel, is_replication }));
    }
}

fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

async fn packet(client: &mut Socket) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; wire::LENGTH_BYTES];
    if client.read_exact(&mut length).await.is_err() {
        return Ok(None);
    }
    let bytes = match wire::packet_bytes(length) {
        Ok(bytes) => bytes,
        Err(bad) => {
            build_and_send(client, &bad_startup(bad)).await?;
            return Ok(None);
        }
    };
    let mut packet = vec![0; bytes];
    let (head, rest) = packet.split_at_mut(wire::LENGTH_BYTES);
    head.copy_from_slice(&length);
    client.read_exact(rest).await?;
    Ok(Some(packet))
}

async fn refuse(mut client: Socket, report: &Report) -> io::Result<()> {
    build_and_send(&mut client, report).await
}

async fn build_and_send(client: &mut Socket, report: &Report) -> io::Result<()> {
    let mut out = Vec::new();
    build::error(&mut out, report);
    client.write_all(&out).await
}

fn bad_startup(bad: BadPacket) -> Report {
    Report {
        severity: Severity::Fatal,
        code: "08P01",
        message: bad.to_string(),
        hint: "The client does not speak the Postgres protocol.".to_owned(),
    }
}

fn unreachable(address: &str, error: &io::Error) -> Report {
    Report {
        severity: Severity::Fatal,
        code: "08006",
        message: format!("the proxy cannot reach the server at {address}: {error}"),
        hint: "Is Postgres running there? See [server] address in the proxy's config.".to_owned(),
    }
}
