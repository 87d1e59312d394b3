//! What a client says before frames begin, up to its StartupMessage or CancelRequest:
//! <https://www.postgresql.org/docs/15/protocol-flow.html#id-1.10.6.7.3>.

use super::socket::Socket;
use crate::wire::build::{self, Report, Severity};
use crate::wire::startup::{self as wire, BadPacket, Packet};
use std::io;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A StartupMessage or CancelRequest.
pub(super) struct Startup {
    /// As it came.
    pub(super) packet: Vec<u8>,
    pub(super) user: String,
    pub(super) database: String,
    pub(super) is_cancel: bool,
    pub(super) is_replication: bool,
}

/// Reads packets up to the StartupMessage or CancelRequest; `None` when the client went away or
/// was refused.
pub(super) async fn read(client: &mut Socket) -> io::Result<Option<Startup>> {
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
                tell(client, &bad_startup(bad)).await?;
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
            tell(client, &bad_startup(bad)).await?;
            return Ok(None);
        }
    };
    let mut packet = vec![0; bytes];
    let (head, rest) = packet.split_at_mut(wire::LENGTH_BYTES);
    head.copy_from_slice(&length);
    client.read_exact(rest).await?;
    Ok(Some(packet))
}

/// Tells the client why it cannot go on.
pub(super) async fn tell(client: &mut Socket, report: &Report) -> io::Result<()> {
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
