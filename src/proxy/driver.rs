//! The sockets of one session: moves bytes between them and [`Session`], with room for both
//! directions at once, so that neither side can block the other.

use super::ending::{Due, Ends, State, Watch};
use super::session::{Out, Session};
use super::socket::Socket;
use crate::wire::build::{self, Report};
use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

/// Bytes read at once.
const READ_BYTES: usize = 64 * 1024;
/// A side is not read while more than this waits for the other.
const BACKLOG_BYTES_MAX: usize = 256 * 1024;
/// Empty buffers that a thread keeps for whichever session needs one next: a session at rest holds
/// none, and one at work asks the allocator for none.
const SPARE_BUFFERS: usize = 4;
/// A buffer that has grown larger is given back to the allocator.
const SPARE_BYTES_MAX: usize = 512 * 1024;

thread_local! {
    /// What was just read, until it is dealt with: within one poll, so one per thread will do.
    static READ: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// The buffer, or a spare one in the place of one without memory.
fn with_memory(buffer: Vec<u8>) -> Vec<u8> {
    if buffer.capacity() > 0 {
        return buffer;
    }
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Leaves an empty buffer without memory behind.
fn emptied(buffer: &mut Vec<u8>) {
    let mut used = std::mem::take(buffer);
    if (1..=SPARE_BYTES_MAX).contains(&used.capacity()) {
        used.clear();
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < SPARE_BUFFERS {
                spare.push(used);
            }
        });
    }
}

/// Whether a socket may hold back something of what was written to it: TLS does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Flushed {
    #[default]
    Yes,
    No,
}

/// What was read and not dealt with, what waits to be written, of one socket.
#[derive(Debug, Default)]
struct Side {
    unread: Vec<u8>,
    unsent: Vec<u8>,
    sent: usize,
    closed: bool,
    flushed: Flushed,
    /// Of the client: nothing more will come. Of the server: it has been told so.
    ended: bool,
}

impl Side {
    fn wants_write(&self) -> bool {
        self.sent < self.unsent.len() || self.flushed == Flushed::No
    }

    fn has_room(&self) -> bool {
        self.unsent.len() - self.sent < BACKLOG_BYTES_MAX
    }

    /// Writes as much as the socket takes; false when the other end is gone.
    fn poll_write(&mut self, socket: &mut Socket, cx: &mut Context<'_>) -> bool {
        while let Some(rest) = self.unsent.get(self.sent..).filter(|r| !r.is_empty()) {
            match Pin::new(&mut *socket).poll_write(cx, rest) {
                Poll::Ready(Ok(n)) => {
                    self.sent += n;
                    self.flushed = Flushed::No;
                }
                Poll::Ready(Err(_gone)) => return false,
                Poll::Pending => return true,
            }
        }
        self.sent = 0;
        emptied(&mut self.unsent);
        if self.flushed == Flushed::No {
            match Pin::new(socket).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.flushed = Flushed::Yes,
                Poll::Ready(Err(_gone)) => return false,
                Poll::Pending => {}
            }
        }
        true
    }
}

/// One session with its sockets.
struct Pump<'a> {
    session: Session,
    client: Side,
    server: Side,
    client_socket: &'a mut Socket,
    server_socket: &'a mut Socket,
    /// The client does not speak the protocol: once it has been told, it is left.
    refused: bool,
    /// Reads of the client since its session has begun.
    statements: u64,
}

/// Runs a session until the server's side is at its end: even when the client is gone, the server
/// works off what it was sent, and only then is nothing in flight any more.
pub(super) async fn run(
    session: Session,
    client_socket: &mut Socket,
    server_socket: &mut Socket,
    ends: &Ends,
) {
    let (client, server) = (Side::default(), Side::default());
    let (refused, statements) = (false, 0);
    let mut pump =
        Pump { session, client, server, client_socket, server_socket, refused, statements };
    let drain = pin!(ends.drain.cancelled());
    let mut watch = Watch::new(ends, drain);
    poll_fn(|cx| {
        while pump.poll(cx).is_pending() {
            match watch.poll(pump.state(), cx) {
                None => return Poll::Pending,
                Some(Due::Leave(report)) => pump.dismiss(&report, cx),
                Some(Due::Drop(report)) => {
                    pump.dismiss(&report, cx);
                    break;
                }
            }
        }
        Poll::Ready(())
    })
    .await;
}

impl Pump<'_> {
    /// Moves bytes until both sockets have to wait, or the session is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            // What was held back may go on by what the server has said.
            if !self.client.unread.is_empty() && !self.session.is_held() {
                self.step_client(&[]);
            }
            if !self.client.closed {
                let open = self.client.poll_write(self.client_socket, cx);
                if !open || (self.refused && !self.client.wants_write()) {
                    leave(&mut self.client);
                }
            }
            if !self.server.closed && !self.server.poll_write(self.server_socket, cx) {
                self.server.closed = true;
            }
            self.end_server(cx);
            if self.server.closed && (!self.client.wants_write() || self.client.closed) {
                return Poll::Ready(());
            }
            let from_server = self.poll_server(cx);
            let from_client = self.poll_client(cx);
            if from_server.is_pending() && from_client.is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn state(&self) -> State {
        let nothing_waits = self.client.unread.is_empty() && !self.client.closed;
        let is_idle = nothing_waits && self.session.is_idle() && self.session.is_between_frames();
        State { is_idle, statements: self.statements }
    }

    /// Tells the client why it is left, unless that would end up within a frame, and leaves it.
    fn dismiss(&mut self, report: &Report, cx: &mut Context<'_>) {
        if !self.client.closed && self.session.is_between_frames() {
            build::error(&mut self.client.unsent, report);
            let _gone = self.client.poll_write(self.client_socket, cx);
        }
        leave(&mut self.client);
    }

    /// The client is gone and the server has all it sent: the end of the stream, as the client gave
    /// it, so that a frame it left unfinished is not finished by us.
    fn end_server(&mut self, cx: &mut Context<'_>) {
        let due = (self.client.closed || self.client.ended) && !self.server.wants_write();
        if due && !self.server.ended && !self.server.closed {
            let done = Pin::new(&mut *self.server_socket).poll_shutdown(cx);
            self.server.ended = done.is_ready();
        }
    }

    fn poll_client(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.client.closed
            || self.client.ended
            || self.refused
            || self.session.is_held()
            || !self.server.has_room()
        {
            return Poll::Pending;
        }
        READ.with_borrow_mut(|buffer| {
            let mut read = ReadBuf::new(buffer);
            let done = ready!(Pin::new(&mut *self.client_socket).poll_read(cx, &mut read));
            match done {
                Ok(()) if !read.filled().is_empty() => self.step_client(read.filled()),
                // It says no more, but may still listen.
                Ok(()) => self.client.ended = true,
                Err(_gone) => leave(&mut self.client),
            }
            Poll::Ready(())
        })
    }

    fn poll_server(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.server.closed || !(self.client.has_room() || self.client.closed) {
            return Poll::Pending;
        }
        READ.with_borrow_mut(|buffer| {
            let mut read = ReadBuf::new(buffer);
            let done = ready!(Pin::new(&mut *self.server_socket).poll_read(cx, &mut read));
            match done {
                Ok(()) if !read.filled().is_empty() => self.step_server(read.filled()),
                Ok(()) | Err(_) => self.server.closed = true,
            }
            Poll::Ready(())
        })
    }

    fn step_client(&mut self, bytes: &[u8]) {
        if self.client.closed {
            return;
        }
        if !self.session.is_starting() {
            self.statements += 1;
        }
        let mut out = self.take_out();
        let session = &mut self.session;
        let done = feed(&mut self.client.unread, bytes, |data| session.on_client(data, &mut out));
        self.put_back(out);
        if let Err(report) = done {
            build::error(&mut self.client.unsent, &report);
            self.client.unread = Vec::new();
            self.refused = true;
        }
    }

    fn step_server(&mut self, bytes: &[u8]) {
        let mut out = self.take_out();
        let session = &mut self.session;
        let done = feed(&mut self.server.unread, bytes, |data| session.on_server(data, &mut out));
        self.put_back(out);
        if let Err(error) = done {
            tracing::error!(%error, "the server's stream cannot be read");
            self.server.closed = true;
        }
    }

    fn take_out(&mut self) -> Out {
        Out {
            to_server: with_memory(std::mem::take(&mut self.server.unsent)),
            to_client: with_memory(std::mem::take(&mut self.client.unsent)),
        }
    }

    fn put_back(&mut self, out: Out) {
        self.server.unsent = out.to_server;
        self.client.unsent = out.to_client;
        if self.client.closed {
            emptied(&mut self.client.unsent);
        }
        for side in [&mut self.server, &mut self.client] {
            if side.unsent.is_empty() {
                emptied(&mut side.unsent);
            }
        }
    }
}

/// The client is gone, or has been told to go.
fn leave(client: &mut Side) {
    client.closed = true;
    client.unsent = Vec::new();
    client.flushed = Flushed::Yes;
    client.sent = 0;
}

/// Gives what is left of earlier reads and what was just read to `take`; keeps what it leaves.
fn feed<E>(
    unread: &mut Vec<u8>,
    bytes: &[u8],
    take: impl FnOnce(&[u8]) -> Result<usize, E>,
) -> Result<(), E> {
    if unread.is_empty() {
        let taken = take(bytes)?;
        if let Some(rest) = bytes.get(taken..).filter(|rest| !rest.is_empty()) {
            *unread = with_memory(std::mem::take(unread));
            unread.extend_from_slice(rest);
        }
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
