//! The barrier before a backfill: afterwards no write on the source can commit whose keys were
//! not fed to the sync function.
//!
//! Why its three steps are enough, and in this order:
//! 1. Every session of this process has got the replies of the statements that it decided under
//!    older routes, and has ended the blocks in which such a portal or cursor may yet be executed. From here on
//!    this process sends mirrored writes only.
//! 2. A proxy that died may have left statements in the socket of a backend that still works them
//!    off. Such a backend is older than this engine, and not idle; it is waited for until it is
//!    gone, or has been idle for a while: with an empty socket and no client there is nothing more.
//!    A live client that is simply busy is told from a full socket by how often it is seen idle:
//!    between two frames that are there already a backend is idle for microseconds.
//! 3. Now no unmirrored statement can *begin*. Those that have run belong to transactions that hold
//!    RowExclusiveLock (TRUNCATE: AccessExclusiveLock) on the source or a partition until they end,
//!    prepared transactions included. Each of the holders is waited for, as CREATE INDEX
//!    CONCURRENTLY does. ROLLBACK TO gives the lock back together with the write.
//!
//! Between the second step and the third the shadow gets its first rows ([`super::entry::Begun`]). Until then an unmirrored
//! statement may run behind a mirrored one on the same row, and the chunk that overwrites nothing would keep what is
//! older: so writers only record their keys, which are worked off when all is copied. From then on an unmirrored write
//! has run, and its row's lock, or its key's, is held until its transaction ends: a mirrored write of the row is later.
//!
//! Snapshots do not matter here: a chunk starts after the barrier in READ COMMITTED, so it sees
//! every unmirrored commit, whatever the isolation level of its writer; a REPEATABLE READ writer
//! that began before and writes after it is mirrored, and its sync records what it cannot see.

use super::{Error, shape::Shape};
use crate::routing;
use std::time::Duration;
use tokio_postgres::Client;

const POLL: Duration = Duration::from_millis(20);
/// Times that a busy backend must be seen idle. A socket full of the shortest statements is worked
/// off in some 10 s, or 500 polls, of which a few see it idle.
const SEEN_IDLE: u32 = 20;

/// Waits until every unmirrored write has ended; `all_mirrored` is called when none can begin any more. Reads only,
/// so it may be dropped at any await.
///
/// # Errors
/// When the database fails.
pub(crate) async fn wait(
    client: &Client,
    routes: &routing::Handle,
    shape: &Shape,
    engine_start: &str,
    all_mirrored: impl FnOnce(),
) -> Result<(), Error> {
    let epoch = routes.load().epoch;
    while !routes.all_reached(epoch) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let barrier = Barrier { client, shape, engine_start };
    barrier.pass(Obstacle::OlderBackend).await?;
    all_mirrored();
    barrier.pass(Obstacle::Writer).await
}

#[derive(Debug, Clone, Copy)]
enum Obstacle {
    OlderBackend,
    Writer,
}

struct Barrier<'a> {
    client: &'a Client,
    shape: &'a Shape,
    engine_start: &'a str,
}

impl Barrier<'_> {
    /// Waits until each of those that are there now is gone; later ones do not matter.
    async fn pass(&self, obstacle: Obstacle) -> Result<(), Error> {
        let mut left: Vec<(String, u32)> =
            self.look(obstacle).await?.into_iter().map(|one| (one.name, 0)).collect();
        let mut polls = 0_u32;
        while !left.is_empty() {
            if polls.is_multiple_of(500) {
                let who: Vec<&str> = left.iter().map(|(name, _)| name.as_str()).collect();
                tracing::info!(?obstacle, who = who.join(", "), "the barrier waits");
            }
            polls = polls.wrapping_add(1);
            tokio::time::sleep(POLL).await;
            let now = self.look(obstacle).await?;
            left.retain_mut(|(name, idle)| match now.iter().find(|one| one.name == *name) {
                Some(one) if one.idle => {
                    *idle += 1;
                    *idle < SEEN_IDLE
                }
                Some(_) => true,
                None => false,
            });
        }
        Ok(())
    }

    async fn look(&self, obstacle: Obstacle) -> Result<Vec<Seen>, Error> {
        match obstacle {
            Obstacle::OlderBackend => busy_older_backends(self.client, self.engine_start).await,
            Obstacle::Writer => writers(self.client, self.shape).await,
        }
    }
}

/// Somebody who may be waited for.
struct Seen {
    name: String,
    idle: bool,
}

/// Client backends of this database that started before the engine did and are not idle. Idle for
/// 100 ms means idle: a backend with another frame in its socket goes on at once.
async fn busy_older_backends(client: &Client, engine_start: &str) -> Result<Vec<Seen>, Error> {
    let rows = client
        .query(
            "SELECT format('pid %s since %s', pid, backend_start), coalesce(state = 'idle', false) \
             FROM pg_stat_activity \
             WHERE datname = current_database() AND backend_type = 'client backend' \
             AND pid <> pg_backend_pid() AND application_name NOT LIKE 'pgsegue engine%' \
             AND backend_start < $1::text::timestamptz \
             AND (state IS DISTINCT FROM 'idle' \
                  OR clock_timestamp() - state_change < interval '100 milliseconds')",
            &[&engine_start],
        )
        .await?;
    rows.iter().map(|row| Ok(Seen { name: row.try_get(0)?, idle: row.try_get(1)? })).collect()
}

/// Virtual transactions that hold, or wait for, a lock that a write on the source takes.
async fn writers(client: &Client, shape: &Shape) -> Result<Vec<Seen>, Error> {
    let rows = client
        .query(
            "SELECT DISTINCT virtualtransaction || coalesce(' of pid ' || pid, ' prepared'), false \
             FROM pg_locks WHERE locktype = 'relation' AND pid IS DISTINCT FROM pg_backend_pid() \
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
             AND mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', \
                          'AccessExclusiveLock') \
             AND relation IN (SELECT $1::oid UNION SELECT relid FROM pg_partition_tree($1::oid))",
            &[&shape.source.oid],
        )
        .await?;
    rows.iter().map(|row| Ok(Seen { name: row.try_get(0)?, idle: row.try_get(1)? })).collect()
}
