//! Accepting clients, up to the StartupMessage:
//! <https://www.postgresql.org/docs/15/protocol-flow.html#id-1.10.6.7.3>.

use super::context::Context;
use super::driver;
use super::session::Session;
use super::socket::Socket;
use crate::wire::build::{self, Report, Severity};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

const SSL_REQUEST: i32 = 80_877_103;
const GSSENC_REQUEST: i32 = 80_877_104;
const CANCEL_REQUEST: i32 = 80_877_102;
/// As in the server: longer ones are refused.
const STARTUP_BYTES_MAX: usize = 10_000;
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

/// Reads packets up to the StartupMessage or CancelRequest; `None` when the client went away.
async fn startup(client: &mut Socket) -> io::Result<Option<Startup>> {
    loop {
        let Some(packet) = packet(client).await? else { return Ok(None) };
        let code = packet.get(4..8).and_then(|b| <[u8; 4]>::try_from(b).ok());
        match code.map(i32::from_be_bytes) {
            // Not here: the client goes on without, or gives up.
            Some(SSL_REQUEST | GSSENC_REQUEST) => client.write_all(b"N").await?,
            Some(CANCEL_REQUEST) => {
                return Ok(Some(Startup {
                    packet,
                    user: String::new(),
                    database: String::new(),
                    is_cancel: true,
                    is_replication: false,
                }));
            }
            _ => return Ok(Some(parameters(packet))),
        }
    }
}

async fn packet(client: &mut Socket) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    if client.read_exact(&mut length).await.is_err() {
        return Ok(None);
    }
    let bytes = usize::try_from(i32::from_be_bytes(length)).unwrap_or(0);
    if !(8..=STARTUP_BYTES_MAX).contains(&bytes) {
        build_and_send(client, &bad_startup()).await?;
        return Ok(None);
    }
    let mut packet = vec![0; bytes];
    let (head, rest) = packet.split_at_mut(4);
    head.copy_from_slice(&length);
    client.read_exact(rest).await?;
    Ok(Some(packet))
}

fn parameters(packet: Vec<u8>) -> Startup {
    let mut reader = crate::wire::reader::Reader::new(packet.get(8..).unwrap_or_default());
    let (mut user, mut database, mut replication) = (String::new(), None, false);
    while let Some(name) = reader.cstr().filter(|n| !n.is_empty()) {
        let Some(value) = reader.cstr() else { break };
        let value = String::from_utf8_lossy(value).into_owned();
        match name {
            b"user" => user = value,
            b"database" => database = Some(value),
            b"replication" => replication = !matches!(value.as_str(), "false" | "off" | "0" | "no"),
            _ => {}
        }
    }
    let database = database.filter(|d| !d.is_empty()).unwrap_or_else(|| user.clone());
    Startup { packet, user, database, is_cancel: false, is_replication: replication }
}

async fn refuse(mut client: Socket, report: &Report) -> io::Result<()> {
    build_and_send(&mut client, report).await
}

async fn build_and_send(client: &mut Socket, report: &Report) -> io::Result<()> {
    let mut out = Vec::new();
    build::error(&mut out, report);
    client.write_all(&out).await
}

fn bad_startup() -> Report {
    Report {
        severity: Severity::Fatal,
        code: "08P01",
        message: "invalid length of startup packet".to_owned(),
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
