//! What a client says before frames begin, up to its StartupMessage or CancelRequest:
//! <https://www.postgresql.org/docs/15/protocol-flow.html#id-1.10.6.7.3>.
//!
//! Invariant: nothing is read ahead of what is dealt with, so that no byte from before a handshake
//! is taken for one from after it (CVE-2021-23214).

use super::socket::{Leg, Socket};
use crate::tls::{Acceptor, Encryption};
use crate::wire::build::{self, Report, Severity};
use crate::wire::startup::{self as wire, BadPacket, Packet};
use std::future::poll_fn;
use std::io;
use std::task::Poll;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;

/// The first byte of a TLS handshake. A startup packet that began with it would be too long.
const HANDSHAKE: u8 = 0x16;

/// A client that has said what it wants.
pub(super) struct Opened {
    pub(super) socket: Socket,
    pub(super) leg: Leg,
    pub(super) startup: Startup,
}

/// A StartupMessage or CancelRequest.
pub(super) struct Startup {
    /// As it came.
    pub(super) packet: Vec<u8>,
    pub(super) user: String,
    pub(super) database: String,
    pub(super) is_cancel: bool,
    pub(super) is_replication: bool,
}

/// Reads packets up to the StartupMessage or CancelRequest, and encrypts the connection if the
/// client wants that; `None` when the client went away or was refused.
pub(super) async fn open(
    socket: Socket,
    acceptor: Option<&Acceptor>,
) -> io::Result<Option<Opened>> {
    let (mut socket, mut leg) = direct(socket, acceptor).await?;
    let is_local = matches!(socket, Socket::Unix(_));
    let (mut tls_asked, mut gss_asked) = (leg != Leg::Plain, leg != Leg::Plain);
    loop {
        let Some(packet) = packet(&mut socket).await? else { return Ok(None) };
        let (user, database, is_cancel, is_replication) = match wire::read(&packet) {
            Ok(Packet::SslRequest) if !tls_asked => {
                tls_asked = true;
                let Some(next) = answer(socket, acceptor).await? else { return Ok(None) };
                (socket, leg) = next;
                gss_asked |= leg != Leg::Plain;
                continue;
            }
            Ok(Packet::GssencRequest) if !gss_asked => {
                gss_asked = true;
                // Not here: the client goes on without, or gives up.
                socket.write_all(b"N").await?;
                continue;
            }
            Ok(Packet::SslRequest | Packet::GssencRequest) => {
                tell(&mut socket, &asked_again()).await?;
                return Ok(None);
            }
            Ok(Packet::Cancel(_)) => (String::new(), String::new(), true, false),
            Ok(Packet::Startup(s)) => {
                (text(s.user()), text(s.database()), false, s.is_replication())
            }
            Err(bad) => {
                tell(&mut socket, &bad_startup(bad)).await?;
                return Ok(None);
            }
        };
        let required = acceptor.is_some_and(|a| a.encryption() == Encryption::Required);
        // Clients cancel in the clear up to libpq 16, whatever their session does.
        if required && leg == Leg::Plain && !is_local && !is_cancel {
            tell(&mut socket, &encryption_required()).await?;
            return Ok(None);
        }
        let startup = Startup { packet, user, database, is_cancel, is_replication };
        return Ok(Some(Opened { socket, leg, startup }));
    }
}

/// A client of Postgres 17 may begin with the handshake.
async fn direct(socket: Socket, acceptor: Option<&Acceptor>) -> io::Result<(Socket, Leg)> {
    let (stream, acceptor) = match (socket, acceptor) {
        (Socket::Tcp(stream), Some(acceptor)) => (stream, acceptor),
        (other, _) => return Ok((other, Leg::Plain)),
    };
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 || first != [HANDSHAKE] {
        return Ok((Socket::from(stream), Leg::Plain));
    }
    let stream = acceptor.accept_direct(stream).await?;
    let leg = Leg::Tls { end_point: acceptor.end_point() };
    Ok((Socket::from(tokio_rustls::TlsStream::from(stream)), leg))
}

/// Answers an SSLRequest.
async fn answer(socket: Socket, acceptor: Option<&Acceptor>) -> io::Result<Option<(Socket, Leg)>> {
    let (mut stream, acceptor) = match (socket, acceptor) {
        (Socket::Tcp(stream), Some(acceptor)) => (stream, acceptor),
        (mut other, _) => {
            other.write_all(b"N").await?;
            return Ok(Some((other, Leg::Plain)));
        }
    };
    if has_more(&stream).await {
        tell(&mut Socket::from(stream), &unencrypted()).await?;
        return Ok(None);
    }
    stream.write_all(b"S").await?;
    let stream = acceptor.accept(stream).await?;
    let leg = Leg::Tls { end_point: acceptor.end_point() };
    Ok(Some((Socket::from(tokio_rustls::TlsStream::from(stream)), leg)))
}

/// Whether the client has sent more without waiting for an answer. What comes later than this look
/// meets the handshake, which it fails.
async fn has_more(stream: &TcpStream) -> bool {
    let mut byte = [0];
    poll_fn(|cx| {
        let seen = stream.poll_peek(cx, &mut ReadBuf::new(&mut byte));
        Poll::Ready(matches!(seen, Poll::Ready(Ok(1..))))
    })
    .await
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
    client.write_all(&out).await?;
    client.flush().await?;
    client.farewell().await;
    Ok(())
}

fn fatal(code: &'static str, message: &str, hint: &str) -> Report {
    let (message, hint) = (message.to_owned(), hint.to_owned());
    Report { severity: Severity::Fatal, code, message, hint }
}

fn bad_startup(bad: BadPacket) -> Report {
    fatal("08P01", &bad.to_string(), "The client does not speak the Postgres protocol.")
}

fn unencrypted() -> Report {
    let hint = "This is a bug of the client, or somebody between it and the proxy.";
    fatal("08P01", "received unencrypted data after SSL request", hint)
}

/// To the server the code of a second request is a version that it does not know.
fn asked_again() -> Report {
    fatal("0A000", "encryption was asked for twice", "The client does not speak the protocol.")
}

fn encryption_required() -> Report {
    fatal("28000", "the proxy takes encrypted connections only", "Connect with sslmode=require.")
}
