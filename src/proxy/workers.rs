//! The threads that sessions run on: one runtime per core, a session stays on its own. A session
//! is two sockets and little work per byte; waking it on another core would cost more than it
//! does.

use super::ending::Ends;
use super::listener::{self, Contexts};
use super::socket::Socket;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

/// Accepted connections that may wait for a worker.
const QUEUE: usize = 1_024;

type Accepted = (std::net::TcpStream, SocketAddr);

/// The workers; connections are dealt out in turn.
pub(super) struct Workers {
    senders: Vec<mpsc::Sender<Accepted>>,
    threads: Vec<JoinHandle<()>>,
    next: usize,
}

impl Workers {
    /// Starts one worker per core.
    pub(super) fn start(contexts: &Arc<Contexts>, ends: &Ends) -> io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut workers = Self { senders: Vec::new(), threads: Vec::new(), next: 0 };
        for number in 0..cores {
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
    pub(super) async fn take(&mut self, client: TcpStream, address: SocketAddr) -> io::Result<()> {
        let client = client.into_std()?;
        self.next = (self.next + 1) % self.senders.len().max(1);
        if let Some(worker) = self.senders.get(self.next) {
            worker.send((client, address)).await.map_err(|_ended| io::ErrorKind::BrokenPipe)?;
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
    while let Some((client, address)) = accepted.recv().await {
        let (contexts, ends) = (Arc::clone(&contexts), ends.clone());
        sessions.spawn(async move {
            let ended = match TcpStream::from_std(client) {
                Ok(client) => serve(client, contexts, ends).await,
                Err(error) => Err(error),
            };
            if let Err(error) = ended {
                tracing::debug!(%address, %error, "a session ended");
            }
        });
    }
    sessions.close();
    sessions.wait().await;
}

async fn serve(client: TcpStream, contexts: Arc<Contexts>, ends: Ends) -> io::Result<()> {
    client.set_nodelay(true)?;
    listener::serve_client(Socket::from(client), contexts, ends).await
}
