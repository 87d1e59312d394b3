//! The sockets of one session: moves bytes between them and [`Session`], with room for both
//! directions at once, so that neither side can block the other.

use super::session::{Out, Session};
use crate::wire::build::{self, Report, Severity};
use std::cell::RefCell;
use std::io;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// Bytes read at once.
const READ_BYTES: usize = 64 * 1024;
/// A side is not read while more than this waits for the other.
const BACKLOG_BYTES_MAX: usize = 256 * 1024;
/// A buffer that is empty keeps this much; 5,000 idle sessions are to be cheap.
const KEPT_BYTES: usize = 4 * 1024;

thread_local! {
    /// What was just read, until it is dealt with: within one poll, so one per thread will do.
    static READ: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// What was read and not dealt with, what waits to be written, of one socket.
#[derive(Debug, Default)]
struct Side {
    unread: Vec<u8>,
    unsent: Vec<u8>,
    sent: usize,
    closed: bool,
}

impl Side {
    fn wants_write(&self) -> bool {
        self.sent < self.unsent.len()
    }

    fn has_room(&self) -> bool {
        self.unsent.len() - self.sent < BACKLOG_BYTES_MAX
    }

    fn write(&mut self, socket: &TcpStream) -> io::Result<()> {
        while let Some(rest) = self.unsent.get(self.sent..).filter(|r| !r.is_empty()) {
            match socket.try_write(rest) {
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        self.sent = 0;
        emptied(&mut self.unsent);
        Ok(())
    }
}

fn emptied(buffer: &mut Vec<u8>) {
    if buffer.capacity() > KEPT_BYTES {
        *buffer = Vec::new();
    } else {
        buffer.clear();
    }
}

/// Runs a session until the server's side is at its end: even when the client is gone, the server
/// works off what it was sent, and only then is nothing in flight any more.
pub(super) async fn run(
    mut session: Session,
    client_socket: &TcpStream,
    server_socket: &TcpStream,
    shutdown: &CancellationToken,
) -> io::Result<()> {
    let mut client = Side::default();
    let mut server = Side::default();
    loop {
        // What was held back may go on by what the server has said.
        if !client.unread.is_empty() && !session.is_held() {
            step_client(&mut session, &mut client, &mut server, &[]);
        }
        // A client that cannot be written to is gone; the server still has to end.
        if client.write(client_socket).is_err() {
            leave(&mut client, &mut server);
        }
        if server.write(server_socket).is_err() {
            server.closed = true;
        }
        if server.closed && (!client.wants_write() || client.closed) {
            return Ok(());
        }
        let read_client = !client.closed && !session.is_held() && server.has_room();
        let read_server = !server.closed && (client.has_room() || client.closed);
        tokio::select! {
            _ready = client_socket.writable(), if client.wants_write() && !client.closed => {}
            _ready = server_socket.writable(), if server.wants_write() => {}
            _ready = client_socket.readable(), if read_client => {
                let open = receive(client_socket, |bytes| {
                    step_client(&mut session, &mut client, &mut server, bytes);
                });
                if !open {
                    leave(&mut client, &mut server);
                }
            }
            _ready = server_socket.readable(), if read_server => {
                let open = receive(server_socket, |bytes| {
                    step_server(&mut session, &mut client, &mut server, bytes);
                });
                server.closed |= !open;
            }
            () = shutdown.cancelled(), if session.is_idle() && !client.closed => {
                build::error(&mut client.unsent, &going_down());
                let _gone = client.write(client_socket);
                leave(&mut client, &mut server);
            }
            else => return Ok(()),
        }
    }
}

/// The client is gone: a Terminate behind everything it sent.
fn leave(client: &mut Side, server: &mut Side) {
    if !client.closed {
        client.closed = true;
        client.unsent = Vec::new();
        client.sent = 0;
        server.unsent.extend_from_slice(b"X\0\0\0\x04");
    }
}

/// Reads once; false at the end of the stream.
fn receive(socket: &TcpStream, mut step: impl FnMut(&[u8])) -> bool {
    READ.with_borrow_mut(|buffer| match socket.try_read(buffer) {
        Ok(0) => false,
        Ok(n) => {
            step(buffer.get(..n).unwrap_or_default());
            true
        }
        Err(e) => e.kind() == io::ErrorKind::WouldBlock,
    })
}

fn step_client(session: &mut Session, client: &mut Side, server: &mut Side, bytes: &[u8]) {
    if client.closed {
        return;
    }
    let mut out = Out {
        to_server: std::mem::take(&mut server.unsent),
        to_client: std::mem::take(&mut client.unsent),
    };
    let done = feed(&mut client.unread, bytes, |data| session.on_client(data, &mut out));
    server.unsent = out.to_server;
    client.unsent = out.to_client;
    if let Err(report) = done {
        build::error(&mut client.unsent, &report);
        client.unread = Vec::new();
        server.unsent.extend_from_slice(b"X\0\0\0\x04");
    }
}

fn step_server(session: &mut Session, client: &mut Side, server: &mut Side, bytes: &[u8]) {
    let mut out = Out {
        to_server: std::mem::take(&mut server.unsent),
        to_client: std::mem::take(&mut client.unsent),
    };
    let done = feed(&mut server.unread, bytes, |data| session.on_server(data, &mut out));
    server.unsent = out.to_server;
    client.unsent = if client.closed { Vec::new() } else { out.to_client };
    if let Err(error) = done {
        tracing::error!(%error, "the server's stream cannot be read");
        server.closed = true;
    }
}

/// Gives what is left of earlier reads and what was just read to `take`; keeps what it leaves.
fn feed<E>(
    unread: &mut Vec<u8>,
    bytes: &[u8],
    take: impl FnOnce(&[u8]) -> Result<usize, E>,
) -> Result<(), E> {
    if unread.is_empty() {
        let taken = take(bytes)?;
        unread.extend_from_slice(bytes.get(taken..).unwrap_or_default());
        return Ok(());
    }
    unread.extend_from_slice(bytes);
    let taken = take(unread)?;
    if taken == unread.len() {
        emptied(unread);
    } else if taken > 0 {
        unread.drain(..taken);
    }
    Ok(())
}

fn going_down() -> Report {
    Report {
        severity: Severity::Fatal,
        code: "57P01",
        message: "terminating connection because the proxy is shutting down".to_owned(),
        hint: "Connect again.".to_owned(),
    }
}
