//! The client listener, and how it is left to a successor without refusing anybody: by
//! SO_REUSEPORT, or by inheriting it (socket activation).

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout_at};

/// Connections that the kernel holds for a process that is busy.
const BACKLOG: i32 = 1_024;
/// How long a handshake that had begun may take to end before the listener closes.
const HANDSHAKES: Duration = Duration::from_millis(200);

/// A connection with the client's address.
pub(super) type Accepted = (TcpStream, SocketAddr);

/// Where clients connect.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    heir: Heir,
}

/// Who accepts connections once this process does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heir {
    /// Nobody.
    None,
    /// Another listener on the same port; the kernel does not hand over what waits in this one.
    SamePort,
    /// Whoever has this same socket: nothing is lost with our closing it.
    SameSocket,
}

/// Whether other processes may listen on the same port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReusePort {
    /// They may, if they say so as well and run as the same user.
    Yes,
    /// The port is this process's own.
    No,
}

impl Listener {
    /// Listens on an address.
    ///
    /// # Errors
    /// When the address is taken or not there.
    pub fn bind(address: SocketAddr, reuse: ReusePort) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if reuse == ReusePort::Yes {
            socket.set_reuse_port(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let heir = match reuse {
            ReusePort::Yes => Heir::SamePort,
            ReusePort::No => Heir::None,
        };
        Ok(Self { socket: TcpListener::from_std(socket.into())?, heir })
    }

    /// The first listener that the process was started with (LISTEN_FDS), if it was.
    ///
    /// # Errors
    /// When what was handed over is not a TCP listener.
    pub fn inherited() -> io::Result<Option<Self>> {
        let Some(socket) = listenfd::ListenFd::from_env().take_tcp_listener(0)? else {
            return Ok(None);
        };
        socket.set_nonblocking(true)?;
        Ok(Some(Self { socket: TcpListener::from_std(socket)?, heir: Heir::SameSocket }))
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the operating system does not know.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    pub(super) async fn accept(&self) -> io::Result<Accepted> {
        self.socket.accept().await
    }

    /// Begins to close: what has come, or is about to, is still to be taken.
    pub(super) fn close(self) -> Closing {
        let patience = match self.heir {
            Heir::SamePort => {
                if let Err(error) = ignore_new(&self.socket) {
                    tracing::debug!(%error, "connections that come now may be reset");
                }
                HANDSHAKES
            }
            Heir::None | Heir::SameSocket => Duration::ZERO,
        };
        Closing { listener: self, until: Instant::now() + patience }
    }
}

/// A listener that is about to close.
pub(super) struct Closing {
    listener: Listener,
    until: Instant,
}

impl Closing {
    /// The next connection that was waiting; `None`: nothing waits any more.
    pub(super) async fn next(&self) -> Option<io::Result<Accepted>> {
        if self.listener.heir != Heir::SamePort {
            return None;
        }
        timeout_at(self.until, self.listener.accept()).await.ok()
    }
}

/// Has the kernel drop the first packet of every new connection: the client's kernel sends it
/// again after a second, and by then the other listener is the only one. What is half way goes on.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn ignore_new(socket: &TcpListener) -> io::Result<()> {
    use socket2::SockFilter;
    const LOAD_BYTE: u16 = 0x30;
    const AND: u16 = 0x54;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    /// Where a TCP header has its flags, and the two that make a first packet: SYN without ACK.
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    const SYN_ACK: u32 = 0x12;
    SockRef::from(socket).attach_filter(&[
        SockFilter::new(LOAD_BYTE, 0, 0, FLAGS),
        SockFilter::new(AND, 0, 0, SYN_ACK),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ])
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn ignore_new(_socket: &TcpListener) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
