//! A TCP pump between two ends that breaks when it is told to: after so many bytes of one
//! direction of the connection that was made last.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// RST to both ends.
    Reset,
    /// Both ends see the end of the stream.
    Close,
    /// The receiving end sees the end of the stream; what else comes for it is lost.
    HalfClose,
    /// Nothing moves in this direction until [`Pump::resume`].
    Stall,
    /// From here on, one byte at a time.
    Trickle,
}

/// Whose bytes are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From whoever has connected.
    Up,
    /// To it.
    Down,
}

#[derive(Debug, Clone, Copy)]
struct Armed {
    direction: Direction,
    after: u64,
    fault: Fault,
}

/// One connection's fault, if it has one, and the bytes that passed in each direction.
#[derive(Default)]
pub struct Connection {
    armed: Mutex<Option<Armed>>,
    passed: [AtomicU64; 2],
}

impl Connection {
    /// Bytes that were passed on so far.
    pub fn passed(&self, direction: Direction) -> u64 {
        self.passed[direction as usize].load(Ordering::SeqCst)
    }
}

/// A listener that connects everybody to the same port.
pub struct Pump {
    /// Where it listens.
    pub port: u16,
    last: Arc<Mutex<Arc<Connection>>>,
    stalled: watch::Sender<bool>,
}

impl Pump {
    /// A pump to a port of this machine; it ends with the test's runtime.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let last: Arc<Mutex<Arc<Connection>>> = Arc::default();
        let stalled = watch::Sender::new(true);
        let pump = Self {
            port: listener.local_addr().unwrap().port(),
            last: Arc::clone(&last),
            stalled: stalled.clone(),
        };
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
                let connection = Arc::new(Connection::default());
                *lock(&last) = Arc::clone(&connection);
                connect(near, far, &connection, &stalled);
            }
        });
        pump
    }

    /// Breaks the newest connection after so many more bytes of one direction.
    pub fn arm(&self, direction: Direction, more: u64, fault: Fault) {
        let connection = self.last();
        self.stalled.send_replace(true);
        let after = connection.passed(direction) + more;
        *lock(&connection.armed) = Some(Armed { direction, after, fault });
    }

    /// Bytes of the newest connection so far.
    pub fn passed(&self, direction: Direction) -> u64 {
        self.last().passed(direction)
    }

    /// Ends every stall.
    pub fn resume(&self) {
        self.stalled.send_replace(false);
    }

    /// The newest connection.
    pub fn last(&self) -> Arc<Connection> {
        Arc::clone(&lock(&self.last))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn connect(
    near: TcpStream,
    far: TcpStream,
    connection: &Arc<Connection>,
    stalled: &watch::Sender<bool>,
) {
    near.set_nodelay(true).unwrap();
    far.set_nodelay(true).unwrap();
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    let ended = watch::Sender::new(None);
    for (direction, from, to) in
        [(Direction::Up, near_read, far_write), (Direction::Down, far_read, near_write)]
    {
        let way = Way { direction, from, to, connection: Arc::clone(connection) };
        tokio::spawn(way.run(stalled.subscribe(), ended.clone()));
    }
}

/// One direction of one connection.
struct Way {
    direction: Direction,
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    connection: Arc<Connection>,
}

impl Way {
    async fn run(mut self, stalled: watch::Receiver<bool>, ended: watch::Sender<Option<Fault>>) {
        let mut other = ended.subscribe();
        let fault = tokio::select! {
            fault = self.pump(stalled) => fault,
            fault = other.wait_for(Option::is_some) => fault.ok().and_then(|f| *f),
        };
        match fault {
            None => {
                // The end of one direction, as it came; the other goes on.
                self.to.shutdown().await.ok();
            }
            Some(fault) => {
                if fault == Fault::Reset {
                    self.from.as_ref().set_zero_linger().ok();
                    self.to.as_ref().set_zero_linger().ok();
                    self.to.forget();
                }
                ended.send_replace(Some(fault));
            }
        }
    }

    /// Moves bytes to the end of the stream (`None`), or to a fault that ends the connection.
    async fn pump(&mut self, mut stalled: watch::Receiver<bool>) -> Option<Fault> {
        let mut buffer = vec![0; 16 * 1024];
        let mut most = buffer.len();
        loop {
            let read = self.from.read(&mut buffer[..most]).await.unwrap_or(0);
            let mut bytes = &buffer[..read];
            if let Some(armed) = self.due(read as u64) {
                let before = armed.after - self.connection.passed(self.direction);
                let (head, rest) = bytes.split_at(usize::try_from(before).unwrap());
                self.write(head).await.ok()?;
                bytes = rest;
                match armed.fault {
                    Fault::Reset | Fault::Close => return Some(armed.fault),
                    Fault::HalfClose => {
                        self.to.shutdown().await.ok();
                        while self.from.read(&mut buffer).await.unwrap_or(0) > 0 {}
                        return None;
                    }
                    Fault::Stall => {
                        stalled.wait_for(|stalled| !stalled).await.ok()?;
                    }
                    Fault::Trickle => most = 1,
                }
            }
            if read == 0 {
                return None;
            }
            for piece in bytes.chunks(most) {
                self.write(piece).await.ok()?;
            }
        }
    }

    /// The fault that these next bytes reach; it happens once.
    fn due(&self, bytes: u64) -> Option<Armed> {
        let mut armed = lock(&self.connection.armed);
        let reached = self.connection.passed(self.direction) + bytes;
        armed.take_if(|a| a.direction == self.direction && a.after <= reached)
    }

    async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        // Before they are passed on: whoever has seen them finds them counted.
        let passed = &self.connection.passed[self.direction as usize];
        passed.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        self.to.write_all(bytes).await
    }
}
