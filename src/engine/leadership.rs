//! Which part this process has among those that serve the same database: there may be several,
//! so that one can take over from another without refusing a client.
//!
//! Two advisory locks, held by the control connection:
//! * `ENGINE_LOCK`, exclusive: who has it leads.
//! * `SERVING_LOCK`, shared: everybody who serves clients. Exclusive in addition: nobody else does.
//!
//! Only a process that is alone moves phases, copies, repairs, verifies, and lets the shadow serve
//! reads. For a gate lives in memory: a session of another process could record a dirty key that
//! this one would not know of in time; and a barrier waits for this process's statements only.
//! While there are several, each mirrors by the journal, which nobody moves meanwhile.
//!
//! Who comes takes the shared lock *before* it reads the journal, so it waits until the one that is
//! alone has closed its gates, ended its step and given the exclusive lock back. Who goes keeps the
//! shared lock until its last session has ended.

use super::entry::Definition;
use super::journal;
use super::runtime::{CHANNEL, Engine};
use super::{Error, install};
use crate::pg::{self, Connection};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_postgres::error::SqlState;
use tokio_util::sync::CancellationToken;

/// Entries `l` of `pg_locks` for the advisory lock `$1`, `$2` of this database.
pub(super) const OF_LOCK: &str = "l.locktype = 'advisory' AND l.classid::int8 = $1::int4 \
     AND l.objid::int8 = $2::int4 \
     AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())";
/// How long a process that begins waits for another one to install the schema.
const INSTALL_PATIENCE: Duration = Duration::from_secs(5);
/// How long the one that is alone may take to end its step and make room.
const ROOM_PATIENCE_MS: u32 = 30_000;

/// What this process may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Role {
    /// Without a control connection: mirror as before, nothing else.
    #[default]
    Lost,
    /// Another process leads: mirror by the journal.
    Following,
    /// This process leads, and others serve clients, too: mirror by the journal.
    Leading,
    /// No other process serves clients: everything.
    Alone,
}

/// Finds this process its place. Ends with the shared lock taken, listening, and with a schema of
/// this version; the journal is to be read after this.
pub(super) async fn join(connection: &mut Connection) -> Result<Role, Error> {
    let until = Instant::now() + INSTALL_PATIENCE;
    let role = loop {
        if try_lock(connection, install::ENGINE_LOCK).await? {
            install::base(&mut connection.client).await?;
            break Role::Leading;
        }
        if install::is_current(&connection.client).await? {
            break Role::Following;
        }
        if Instant::now() >= until {
            return Err(Error::Busy { holder: holder(connection).await? });
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    connection.client.batch_execute(&format!("LISTEN {CHANNEL}")).await?;
    make_room(connection).await?;
    Ok(role)
}

/// Takes the shared lock; who is alone is told that it is not any more.
async fn make_room(connection: &Connection) -> Result<(), Error> {
    let (class, object) = install::SERVING_LOCK;
    let client = &connection.client;
    client.execute("SELECT pg_notify($1, 'room')", &[&CHANNEL]).await?;
    let sql = format!(
        "SET lock_timeout = {ROOM_PATIENCE_MS}; \
         SELECT pg_advisory_lock_shared({class}, {object}); RESET lock_timeout"
    );
    match client.batch_execute(&sql).await {
        Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
            Err(Error::Busy { holder: holder(connection).await? })
        }
        other => Ok(other?),
    }
}

async fn try_lock(connection: &Connection, lock: (i32, i32)) -> Result<bool, Error> {
    let sql = "SELECT pg_try_advisory_lock($1, $2)";
    Ok(connection.client.query_one(sql, &[&lock.0, &lock.1]).await?.try_get(0)?)
}

async fn unlock(connection: &Connection, lock: (i32, i32)) -> Result<(), Error> {
    connection.client.execute("SELECT pg_advisory_unlock($1, $2)", &[&lock.0, &lock.1]).await?;
    Ok(())
}

/// Whether another process waits to serve clients.
async fn is_room_wanted(connection: &Connection) -> Result<bool, Error> {
    let (class, object) = install::SERVING_LOCK;
    let sql = format!("SELECT EXISTS (SELECT FROM pg_locks l WHERE NOT granted AND {OF_LOCK})");
    Ok(connection.client.query_one(&sql, &[&class, &object]).await?.try_get(0)?)
}

async fn now(connection: &Connection) -> Result<String, Error> {
    let row = connection.client.query_one("SELECT clock_timestamp()::text", &[]).await?;
    Ok(row.try_get(0)?)
}

async fn holder(connection: &Connection) -> Result<String, Error> {
    let (class, object) = install::ENGINE_LOCK;
    let row = connection
        .client
        .query_opt(
            &format!(
                "SELECT format('server process %s, %s, from %s, since %s', l.pid, \
                 coalesce(a.application_name, '?'), coalesce(a.client_addr::text, 'a local socket'), \
                 coalesce(to_char(a.backend_start, 'YYYY-MM-DD HH24:MI:SS'), '?')) FROM pg_locks l \
                 LEFT JOIN pg_stat_activity a USING (pid) WHERE l.granted AND {OF_LOCK}"
            ),
            &[&class, &object],
        )
        .await?;
    Ok(row.map(|row| row.try_get(0)).transpose()?.unwrap_or_else(|| "it has just ended".to_owned()))
}

impl Engine {
    /// Takes the next step towards being alone, or away from it when another process comes.
    pub(super) async fn settle(&self, control: &Connection) -> Result<(), Error> {
        match self.role() {
            Role::Lost => {}
            Role::Following => {
                if try_lock(control, install::ENGINE_LOCK).await? {
                    self.refresh(control).await?;
                    self.record_declarations(control).await?;
                    self.set_role(Role::Leading);
                    tracing::info!("this process leads now");
                }
            }
            Role::Leading => {
                if try_lock(control, install::SERVING_LOCK).await? {
                    // What others have noted of themselves until now, gaps above all.
                    self.refresh(control).await?;
                    self.alone_since(now(control).await?);
                }
            }
            Role::Alone => {
                if is_room_wanted(control).await? {
                    tracing::info!(
                        "another process begins to serve; the shadow serves no reads until one is left"
                    );
                    self.give_way(control, Role::Leading).await?;
                }
            }
        }
        Ok(())
    }

    /// Stops being alone: gates closed, no step under way, and only then the lock.
    async fn give_way(&self, control: &Connection, role: Role) -> Result<(), Error> {
        self.set_role(role);
        // Who is within a step has looked at the role before; who waits for this looks after.
        let _no_step = self.steps().write().await;
        unlock(control, install::SERVING_LOCK).await
    }

    /// Gives the lead away and goes on mirroring: sessions may still be there. The shared lock
    /// stays until the engine is dropped.
    pub(super) async fn resign(&self) {
        let was = self.role();
        self.set_role(Role::Following);
        let Some(control) = self.control().await else { return };
        let resigned = async {
            if was == Role::Alone {
                self.give_way(&control, Role::Following).await?;
            }
            unlock(&control, install::ENGINE_LOCK).await
        };
        if let Err(error) = resigned.await {
            tracing::warn!(%error, "the engine's lock is given back by the end of its connection");
            self.drop_control().await;
        }
    }

    /// The control connection, made anew when it was lost. While it is lost every gate is closed
    /// and no worker goes on: another process may lead by then.
    pub(super) async fn keep_control(
        &self,
        shutdown: &CancellationToken,
    ) -> Option<Arc<Connection>> {
        let mut patience = Duration::from_millis(100);
        loop {
            if let Some(control) = self.control().await {
                return Some(control);
            }
            match self.reconnect().await {
                Ok(()) => continue,
                Err(error) => tracing::warn!(%error, "no control connection; trying again"),
            }
            tokio::select! {
                () = shutdown.cancelled() => return None,
                () = tokio::time::sleep(patience) => {}
            }
            patience = (patience * 2).min(Duration::from_secs(5));
        }
    }

    async fn reconnect(&self) -> Result<(), Error> {
        let mut connection = pg::connect(self.config(), "pgsegue engine").await?;
        let role = join(&mut connection).await?;
        // Another process may have been alone meanwhile, and have moved a phase that this one's
        // sessions did not follow.
        self.refresh(&connection).await?;
        journal::save_gaps(&connection.client, &self.gaps()).await?;
        self.put_control(connection).await;
        self.set_role(role);
        self.publish();
        Ok(())
    }

    /// Reads the journal anew. A migration that was mirrored in another way than the journal asks
    /// for has a gap.
    async fn refresh(&self, connection: &Connection) -> Result<(), Error> {
        for journaled in journal::load(&connection.client).await? {
            self.with_entry(&journaled.name.clone(), |entry| {
                let moved = entry.phase.mirror() != journaled.phase.mirror();
                entry.gap |= journaled.gap || (moved && journaled.phase.is_bound());
                entry.control = journaled.control;
                entry.verified = journaled.verified;
                entry.reads_blocked.clone_from(&journaled.reads_blocked);
                entry.definition = Definition::journaled(journaled.fingerprint.clone());
                entry.enter(journaled.phase.clone());
                entry.wake.notify_one();
            });
            self.remember(journaled);
        }
        Ok(())
    }

    fn alone_since(&self, when: String) {
        self.started_now(when);
        self.set_role(Role::Alone);
        tracing::debug!("no other process serves this database");
    }
}
