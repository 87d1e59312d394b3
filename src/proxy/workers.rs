//! The threads that sessions run on: one runtime each, a session stays on its own. A session is two
//! sockets and little work per byte; waking it on another core would cost more than it does.

use super::ending::Ends;
use super::listener::{self, Contexts};
use super::socket::Socket;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

/// Accepted connections that may wait for a worker.
const QUEUE: usize = 1_024;

/// A connection that was accepted.
pub(super) enum Client {
    /// Over TCP, from this address.
    Tcp(TcpStream, SocketAddr),
    /// Over the Unix socket.
    Unix(UnixStream),
}

/// The same on its way to another runtime.
enum Accepted {
    Tcp(std::net::TcpStream, SocketAddr),
    Unix(std::os::unix::net::UnixStream),
}

impl From<(TcpStream, SocketAddr)> for Client {
    fn from((stream, address): (TcpStream, SocketAddr)) -> Self {
        Self::Tcp(stream, address)
    }
}

impl From<UnixStream> for Client {
    fn from(stream: UnixStream) -> Self {
        Self::Unix(stream)
    }
}

/// The workers; connections are dealt out in turn.
pub(super) struct Workers {
    senders: Vec<mpsc::Sender<Accepted>>,
    threads: Vec<JoinHandle<()>>,
    next: usize,
}

impl Workers {
    /// Starts the workers.
    pub(super) fn start(contexts: &Arc<Contexts>, ends: &Ends) -> io::Result<Self> {
        let count = contexts.migrated.options.workers.max(1);
        let mut workers = Self { senders: Vec::new(), threads: Vec::new(), next: 0 };
        for number in 0..count {
            let (send, receive) = mpsc::channel(QUEUE);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let work = work(receive, Arc::clone(contexts), ends.clone());
            let thread = std::thread::Builder::new().name(format!("sessions-{number}"));
            workers.threads.push(thread.spawn(move || runtime.block_on(work))?);
            workers.senders.push(send);
        }
        Ok(workers)
    }

    /// Hands a connection to the next worker.
    pub(super) async fn take(&mut self, client: Client) -> io::Result<()> {
        let client = match client {
            Client::Tcp(stream, address) => Accepted::Tcp(stream.into_std()?, address),
            Client::Unix(stream) => Accepted::Unix(stream.into_std()?),
        };
        self.next = (self.next + 1) % self.senders.len().max(1);
        if let Some(worker) = self.senders.get(self.next) {
            worker.send(client).await.map_err(|_ended| io::ErrorKind::BrokenPipe)?;
        }
        Ok(())
    }

    /// Waits until every session has ended.
    pub(super) async fn end(self) {
        drop(self.senders);
        let threads = self.threads;
        let joined = tokio::task::spawn_blocking(move || {
            threads.into_iter().filter_map(|t| t.join().err()).count()
        });
        if joined.await.is_ok_and(|panicked| panicked > 0) {
            tracing::error!("a worker has panicked");
        }
    }
}

async fn work(mut accepted: mpsc::Receiver<Accepted>, contexts: Arc<Contexts>, ends: Ends) {
    let sessions = TaskTracker::new();
    while let Some(client) = accepted.recv().await {
        let (contexts, ends) = (Arc::clone(&contexts), ends.clone());
        sessions.spawn(async move {
            let address = match &client {
                Accepted::Tcp(_, address) => Some(*address),
                Accepted::Unix(_) => None,
            };
            let ended = match unpack(client) {
                Ok(client) => listener::serve_client(client, contexts, ends).await,
                Err(error) => Err(error),
            };
            if let Err(error) = ended {
                tracing::debug!(?address, %error, "a session ended");
            }
        });
    }
    sessions.close();
    sessions.wait().await;
}

fn unpack(client: Accepted) -> io::Result<Socket> {
    match client {
        Accepted::Tcp(stream, _) => {
            stream.set_nodelay(true)?;
            TcpStream::from_std(stream).map(Socket::from)
        }
        Accepted::Unix(stream) => UnixStream::from_std(stream).map(Socket::from),
    }
}
