//! Serving one client connection: its startup, its server connection, its session.

use super::auth::{self, Outcome};
use super::context::Context;
use super::dial;
use super::driver;
use super::ending::Ends;
use super::limits::{Clients, Place, too_many_clients};
use super::session::Session;
use super::socket::Socket;
use super::startup::{self, Opened};
use super::verifiers::Verifiers;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

/// The contexts of a process: the migrations live in one database, sessions in others know none.
pub(super) struct Contexts {
    pub(super) migrated: Arc<Context>,
    pub(super) other: Arc<Context>,
    /// The database of the migrations.
    pub(super) database: Option<String>,
    pub(super) clients: Arc<Clients>,
    /// Where SCRAM verifiers come from.
    pub(super) verifiers: Option<Verifiers>,
}

/// Serves one client connection.
pub(super) async fn serve_client(
    client: Socket,
    contexts: Arc<Contexts>,
    ends: Ends,
) -> io::Result<()> {
    // In a box of its own: sessions are many and long, and none needs this room later.
    let begun = tokio::select! {
        begun = Box::pin(begin(client, &contexts, &ends)) => begun?,
        () = ends.deadline.cancelled() => None,
    };
    let Some(Begun { session, mut client, mut server, gauge, place: _until_the_end }) = begun
    else {
        return Ok(());
    };
    gauge.inc();
    driver::run(session, &mut client, &mut server, &ends).await;
    gauge.dec();
    client.farewell().await;
    Ok(())
}

/// A session with its sockets, up to where frames pass.
struct Begun {
    session: Session,
    client: Socket,
    server: Socket,
    gauge: prometheus::IntGauge,
    place: Place,
}

/// From the first byte to the session; `None` when there is none to come.
async fn begin(client: Socket, contexts: &Contexts, ends: &Ends) -> io::Result<Option<Begun>> {
    let limits = **ends.limits.load();
    limits.keepalive.set(&client)?;
    let options = &contexts.migrated.options;
    let acceptor = options.clients.load_full();
    let opened = timeout(limits.startup_timeout, startup::open(client, acceptor.as_deref())).await;
    let Some(opened) = opened.map_err(|_elapsed| io::ErrorKind::TimedOut)?? else {
        return Ok(None);
    };
    let Opened { socket: mut client, leg: client_leg, startup } = opened;
    // A cancel request takes no place: who wants to cancel must not have to wait.
    let place = match startup.is_cancel {
        true => None,
        false => match contexts.clients.admit(limits.clients_max) {
            Some(place) => Some(place),
            None => {
                startup::tell(&mut client, &too_many_clients()).await?;
                return Ok(None);
            }
        },
    };
    let dialled = dial::dial(&options.server, limits.connect_timeout).await;
    let (mut server, server_leg) = match dialled {
        Ok(dialled) => dialled,
        Err(report) => {
            startup::tell(&mut client, &report).await?;
            return Ok(None);
        }
    };
    limits.keepalive.set(&server)?;
    server.write_all(&startup.packet).await?;
    server.flush().await?;
    let Some(place) = place else {
        // The server answers a CancelRequest by closing; so do we, after it has read it.
        let _end = server.read(&mut [0; 1]).await?;
        client.farewell().await;
        return Ok(None);
    };
    let ends = auth::Ends {
        client: &mut client,
        server: &mut server,
        client_leg: &client_leg,
        server_leg: &server_leg,
    };
    let authenticated = auth::authenticate(ends, &startup.user, contexts.verifiers.as_ref());
    let outcome = timeout(limits.startup_timeout, authenticated).await;
    if outcome.map_err(|_elapsed| io::ErrorKind::TimedOut)?? == Outcome::Ended {
        client.farewell().await;
        return Ok(None);
    }
    let migrated =
        !startup.is_replication && contexts.database.as_deref() == Some(startup.database.as_str());
    let context = if migrated { &contexts.migrated } else { &contexts.other };
    let gauge = context.metrics.sessions.clone();
    let session = Session::new(Arc::clone(context), startup.user, startup.database);
    Ok(Some(Begun { session, client, server, gauge, place }))
}
