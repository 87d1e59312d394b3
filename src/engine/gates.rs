//! Opens the gates of shadow reads, and closes them by what `dirty_keys` says.

use super::Error;
use super::entry::Entry;
use super::leadership::Role;
use super::runtime::{Engine, POLL_CLOSED, POLL_OPEN};
use crate::pg::Connection;
use crate::routing::{Gate, Unlooked};
use crate::sql::target::Target;
use std::sync::Arc;
use std::time::Duration;
use tokio_postgres::Client;

/// Why a migration is marked.
const WAY_DEFINED: &str = "something was defined by which the table may be written";

impl Engine {
    pub(super) fn poll_interval(&self) -> Duration {
        let waiting = self.state().entries.values().any(|e| e.may_open() && !e.gate.is_open());
        if waiting { POLL_CLOSED } else { POLL_OPEN }
    }

    /// Whether a session has defined something that the catalog has not been looked at for.
    pub(super) fn is_unlooked(&self) -> bool {
        self.state().entries.values().any(|entry| entry.gate.is_unlooked())
    }

    /// Looks at the catalog, for what was defined until now. What may have written a table is marked,
    /// though it may be gone by now: what it wrote is not. Whether it was looked at.
    pub(super) async fn look(&self, control: &Connection) -> bool {
        let unlooked: Vec<(Arc<Gate>, Unlooked, Option<Arc<Target>>)> = {
            let state = self.state();
            let taken = |e: &Entry| (Arc::clone(&e.gate), e.gate.take_unlooked(), e.target.clone());
            state.entries.values().map(taken).collect()
        };
        let looked = async {
            self.look_for_drift(control).await?;
            self.look_for_ways(control).await?;
            self.look_for_privileges(control).await?;
            for (_, unlooked, target) in &unlooked {
                if let (Unlooked::Way, Some(target)) = (unlooked, target) {
                    let mark = format!("SELECT {}($1)", target.mark_function);
                    control.client.execute(&mark, &[&WAY_DEFINED]).await?;
                }
            }
            Ok(())
        };
        let looked = self.succeeded(looked.await);
        if !looked {
            unlooked.iter().for_each(|(gate, unlooked, _)| gate.is_still_unlooked(*unlooked));
        }
        looked
    }

    /// Counts dirty keys and opens or closes the gates. The tickets are taken before the query: a
    /// session that closed a gate in between keeps it closed.
    pub(super) async fn poll_gates(&self, control: &Connection) -> Result<(), Error> {
        let (tickets, tables): (Vec<_>, Vec<_>) = {
            let state = self.state();
            let of = |(name, entry): (&String, &Entry)| {
                let tables = entry.target.as_ref().map(|t| [t.source_oid, t.shadow_oid]);
                ((name.clone(), entry.gate.ticket()), tables)
            };
            state.entries.iter().map(of).unzip()
        };
        let tables: Vec<u32> = tables.into_iter().flatten().flatten().collect();
        let (is_prepared, locked) = held(&control.client, &tables).await?;
        let names: Vec<&str> = tickets.iter().map(|(name, _)| name.as_str()).collect();
        let rows = control
            .client
            .query(
                "SELECT n, (SELECT count(*) FROM (SELECT FROM pgsegue.dirty_keys \
                 WHERE migration = n LIMIT 100000) d) FROM unnest($1::text[]) AS n",
                &[&names],
            )
            .await?;
        let mut state = self.state();
        let alone = state.role == Role::Alone;
        for row in rows {
            let name: String = row.try_get(0)?;
            let dirty: i64 = row.try_get(1)?;
            self.metrics().dirty_keys.with_label_values(&[&name]).set(dirty);
            let ticket = tickets.iter().find(|(of, _)| *of == name).map(|(_, ticket)| *ticket);
            let (Some(entry), Some(ticket)) = (state.entries.get_mut(&name), ticket) else {
                continue;
            };
            let is_locked = entry.target.as_ref().is_some_and(|target| {
                locked.contains(&target.source_oid) || locked.contains(&target.shadow_oid)
            });
            let clean = dirty == 0 && !is_prepared && !is_locked;
            if clean && entry.may_open() && alone {
                entry.gate.open_if(ticket);
            } else if entry.gate.is_open() {
                tracing::debug!(
                    migration = name,
                    dirty,
                    is_prepared,
                    is_locked,
                    alone,
                    "gate closed"
                );
                entry.gate.close();
            }
            if dirty > 0 && entry.phase.serves_reads() {
                entry.wake.notify_one();
            }
        }
        Ok(())
    }

    pub(super) fn close_gates(&self) {
        for entry in self.state().entries.values() {
            entry.gate.close();
        }
    }
}

/// Whether a prepared transaction has recorded dirty keys, of whatever migration: nobody is told when they
/// are committed. To be asked before they are counted: one that ends in between is counted then. And which
/// of the tables are locked against every read, or are to be: of a shadow, reads go on at the source; of a
/// source, they are to wait as they do without us.
async fn held(client: &Client, tables: &[u32]) -> Result<(bool, Vec<u32>), Error> {
    let sql = "SELECT EXISTS (SELECT FROM pg_prepared_xacts WHERE database = current_database()) \
         AND EXISTS (SELECT FROM pg_locks WHERE pid IS NULL AND mode = 'RowExclusiveLock' \
             AND relation = 'pgsegue.dirty_keys'::regclass), \
         ARRAY(SELECT relation FROM pg_locks WHERE mode = 'AccessExclusiveLock' \
             AND relation = ANY ($1) AND database = (SELECT oid FROM pg_database \
                 WHERE datname = current_database()))";
    let row = client.query_one(sql, &[&tables]).await?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}
