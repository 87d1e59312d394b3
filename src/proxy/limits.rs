//! What bounds client sessions: how many, how long they may keep quiet, how a dead peer is
//! noticed. Hot: a connection goes by the limits of the moment.

use super::socket::Socket;
use crate::wire::build::{Report, Severity};
use arc_swap::ArcSwap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The limits in force; shared, and replaced as a whole.
pub type SharedLimits = Arc<ArcSwap<Limits>>;

/// What bounds client sessions. Defaults and meaning are explained in `config/pgsegue.toml`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Client sessions at once.
    pub clients_max: usize,
    /// How long a client may take to say who it is.
    pub startup_timeout: Duration,
    /// How long a session may be idle outside a transaction.
    pub idle_timeout: Option<Duration>,
    /// How long sessions may take to end after a shutdown was asked for.
    pub drain_timeout: Duration,
    /// How long the server may take to accept a connection.
    pub connect_timeout: Duration,
    /// How a peer that is gone without a word is noticed.
    pub keepalive: Keepalive,
}

/// TCP keepalive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Quiet time before the first probe; zero: no probes.
    pub idle: Duration,
    /// Between probes.
    pub interval: Duration,
    /// Probes without an answer that end the connection.
    pub count: u32,
}

impl Keepalive {
    /// Puts it on a connection; Unix sockets need none.
    pub(super) fn set(&self, socket: &Socket) -> io::Result<()> {
        let Some(socket) = socket.tcp() else { return Ok(()) };
        if self.idle.is_zero() {
            return Ok(());
        }
        let keepalive = socket2::TcpKeepalive::new()
            .with_time(self.idle)
            .with_interval(self.interval)
            .with_retries(self.count);
        socket2::SockRef::from(socket).set_tcp_keepalive(&keepalive)
    }
}

/// Counts the sessions there are.
#[derive(Debug, Default)]
pub(super) struct Clients(AtomicUsize);

/// One session's place; given back when it is dropped, however the session ends.
#[derive(Debug)]
pub(super) struct Place(Arc<Clients>);

impl Clients {
    /// A place for one more session, unless there are `max`.
    pub(super) fn admit(self: &Arc<Self>, max: usize) -> Option<Place> {
        // Taken first, so that two that come at once cannot both have the last place.
        let place = Place(Arc::clone(self));
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        (before < max).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a client is told that finds no place: the words of Postgres, so that drivers know them.
pub(super) fn too_many_clients() -> Report {
    Report {
        severity: Severity::Fatal,
        code: "53300",
        message: "sorry, too many clients already".to_owned(),
        hint: "The proxy's limit is [proxy] clients_max.".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_session_has_ended() {
        let clients = Arc::new(Clients::default());
        let (one, two) = (clients.admit(2), clients.admit(2));
        assert!(one.is_some() && two.is_some() && clients.admit(2).is_none());
        drop(one);
        let three = clients.admit(2);
        assert!(three.is_some() && clients.admit(2).is_none());
        // A lower limit holds for those to come.
        drop(two);
        assert!(clients.admit(1).is_none());
        drop(three);
        assert!(clients.admit(1).is_some());
    }
}
