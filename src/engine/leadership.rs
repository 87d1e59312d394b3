//! The advisory lock that makes one process the engine of a database.

use super::{Error, install};
use crate::pg::Connection;
use std::time::Duration;
use tokio::time::Instant;

/// Takes the engine's advisory lock, for the life of the connection.
pub(super) async fn lock(connection: &Connection, patience: Duration) -> Result<(), Error> {
    let (class, object) = install::ENGINE_LOCK;
    let until = Instant::now() + patience;
    loop {
        let row = connection
            .client
            .query_one("SELECT pg_try_advisory_lock($1, $2)", &[&class, &object])
            .await?;
        if row.try_get(0)? {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(Error::Busy { holder: holder(connection).await? });
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn holder(connection: &Connection) -> Result<String, Error> {
    let (class, object) = install::ENGINE_LOCK;
    let row = connection
        .client
        .query_opt(
            "SELECT format('server process %s, %s, from %s, since %s', l.pid, \
             coalesce(a.application_name, '?'), coalesce(a.client_addr::text, 'a local socket'), \
             coalesce(to_char(a.backend_start, 'YYYY-MM-DD HH24:MI:SS'), '?')) FROM pg_locks l \
             LEFT JOIN pg_stat_activity a USING (pid) WHERE l.locktype = 'advisory' \
             AND l.classid::int8 = $1::int4 AND l.objid::int8 = $2::int4 AND l.granted \
             AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            &[&class, &object],
        )
        .await?;
    Ok(row.map(|row| row.try_get(0)).transpose()?.unwrap_or_else(|| "it has just ended".to_owned()))
}
