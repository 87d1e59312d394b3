//! The way to the server: TCP or a Unix socket, encrypted or not.

use super::socket::{Leg, Socket};
use crate::causes;
use crate::tls::{Dialer, Mode, Negotiation, end_point};
use crate::wire::build::{Report, Severity};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// `length:i32 code:i32`, as libpq sends it.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
/// How long a server that is connected may take to agree on TLS.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// Where a folder is given without a port.
const PORT: u16 = 5432;

/// Where the server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// Host and port.
    Tcp {
        /// Name or address, without the brackets of IPv6.
        host: String,
        /// Port.
        port: u16,
    },
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// Reads `host:port`; an IPv6 address is in brackets.
    pub fn of_host(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let port = port.parse().ok().filter(|port| *port > 0)?;
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let valid = !host.is_empty() && (bare.is_some() || !host.contains(':'));
        valid.then(|| Self::Tcp { host: bare.unwrap_or(host).to_owned(), port })
    }

    /// Reads `/folder` or `/folder:port`: the socket that a server of this port makes in there.
    pub fn in_folder(text: &str) -> Option<Self> {
        let (folder, port) = match text.rsplit_once(':') {
            Some((folder, port)) => (folder, port.parse().ok().filter(|port| *port > 0)?),
            None => (text, PORT),
        };
        Some(Self::Unix(socket_in(Path::new(folder), port)))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// The Unix socket of a port, as Postgres names it.
pub(super) fn socket_in(folder: &Path, port: u16) -> PathBuf {
    folder.join(format!(".s.PGSQL.{port}"))
}

/// The server and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Where it listens.
    pub address: Address,
    /// Whether connections to it are encrypted; those over a Unix socket are not.
    pub tls: Dialer,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("cannot reach the server")]
    Unreachable(#[source] io::Error),
    #[error("cannot agree with the server on TLS")]
    Handshake(#[source] io::Error),
    #[error("cannot encrypt: the server does not support TLS")]
    Declined,
}

/// Connects to the server, ready for the startup packet.
pub(super) async fn dial(server: &Server, patience: Duration) -> Result<(Socket, Leg), Report> {
    connect(server, patience).await.map_err(|failure| report(&server.address, &failure))
}

async fn connect(server: &Server, patience: Duration) -> Result<(Socket, Leg), Failure> {
    let (host, port) = match &server.address {
        Address::Tcp { host, port } => (host.as_str(), *port),
        Address::Unix(path) => {
            let stream = within(patience, UnixStream::connect(path)).await;
            let stream = stream.map_err(Failure::Unreachable)?;
            return Ok((Socket::from(stream), Leg::Plain));
        }
    };
    let tcp = async || {
        let stream = within(patience, TcpStream::connect((host, port))).await?;
        stream.set_nodelay(true)?;
        io::Result::Ok(stream)
    };
    let stream = tcp().await.map_err(Failure::Unreachable)?;
    if server.tls.mode() == Mode::Disable {
        return Ok((Socket::from(stream), Leg::Plain));
    }
    let encrypted = timeout(HANDSHAKE_TIMEOUT, encrypt(&server.tls, host, stream)).await;
    let encrypted = encrypted.unwrap_or_else(|_late| {
        Err(Failure::Handshake(io::Error::new(io::ErrorKind::TimedOut, "timed out")))
    });
    match encrypted {
        Err(failure) if server.tls.mode() == Mode::Prefer => {
            tracing::debug!("not encrypted: {}", causes::in_one_line(&failure));
            let stream = tcp().await.map_err(Failure::Unreachable)?;
            Ok((Socket::from(stream), Leg::Plain))
        }
        done => done,
    }
}

async fn within<T>(
    patience: Duration,
    connected: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, "timed out");
    timeout(patience, connected).await.unwrap_or_else(|_late| Err(late()))
}

/// Nothing but the answer is read before the handshake: what somebody put behind it in the clear
/// meets the handshake, and fails it.
async fn encrypt(
    tls: &Dialer,
    host: &str,
    mut stream: TcpStream,
) -> Result<(Socket, Leg), Failure> {
    if tls.negotiation() == Negotiation::Postgres {
        stream.write_all(&SSL_REQUEST).await.map_err(Failure::Unreachable)?;
        match stream.read_u8().await.map_err(Failure::Unreachable)? {
            b'S' => {}
            b'N' if tls.mode() == Mode::Prefer => {
                return Ok((Socket::from(stream), Leg::Plain));
            }
            b'N' => return Err(Failure::Declined),
            other => {
                let message = format!("it answers with {:?}", char::from(other));
                let error = io::Error::new(io::ErrorKind::InvalidData, message);
                return Err(Failure::Handshake(error));
            }
        }
    }
    let stream = tls.connect(host, stream).await.map_err(Failure::Handshake)?;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let end_point = certificates.first().and_then(|own| end_point(own)).map(Arc::from);
    Ok((Socket::from(tokio_rustls::TlsStream::from(stream)), Leg::Tls { end_point }))
}

fn report(address: &Address, failure: &Failure) -> Report {
    let hint = match failure {
        Failure::Unreachable(_) => {
            "Is Postgres running there? See [server] address in the proxy's config."
        }
        Failure::Handshake(_) | Failure::Declined => {
            "See [server.tls] in the proxy's config, and ssl in the server's."
        }
    };
    Report {
        severity: Severity::Fatal,
        code: "08006",
        message: format!("the proxy {} at {address}", causes::in_one_line(failure)),
        hint: hint.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for text in ["127.0.0.1:5432", "db:1", "[::1]:5432"] {
            assert_eq!(Address::of_host(text).unwrap().to_string(), text);
        }
        for text in ["127.0.0.1", "db:0", "db:", ":5432", "::1:5432", "db:65536", ""] {
            assert_eq!(Address::of_host(text), None, "{text}");
        }
        let local = |text| Address::in_folder(text).map(|a| a.to_string());
        assert_eq!(local("/run/pg").as_deref(), Some("/run/pg/.s.PGSQL.5432"));
        assert_eq!(local("/run/pg:77").as_deref(), Some("/run/pg/.s.PGSQL.77"));
        assert_eq!(local("/run/pg:x"), None);
    }
}
