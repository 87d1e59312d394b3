//! What an operator asks for, written into schema `pgsegue` and picked up by the running engine.
//! Needs only a connection to the database: it works while the proxy hangs.

use super::journal::{self, NewEvent};
use super::leadership::OF_LOCK;
use super::runtime::CHANNEL;
use super::{Error, Event, Phase, Status, install};
use crate::manifest::{DualWrite, Percent};
use crate::pg::{self, Connection};
use serde_json::Value;
use tokio::sync::Mutex;
use tokio_postgres::{Client, Row};

/// A connection to the control schema.
#[derive(Debug)]
pub struct Control {
    // For the one thing that needs a transaction; the rest are single statements.
    connection: Mutex<Connection>,
}

/// A change of routing levers in the control schema; `None` leaves a lever as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteChange {
    /// Share of reads.
    pub reads: Option<Percent>,
    /// Share of dark reads.
    pub dark_reads: Option<Percent>,
    /// The dual-write lever.
    pub dual_write: Option<DualWrite>,
}

/// What has become of an abort.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Abort {
    /// The running engine does it.
    Asked,
    /// It is in force, no engine runs.
    Done {
        /// The functions that are there yet, as DROP FUNCTION takes them.
        left: Vec<String>,
    },
}

/// One lever, which is in two places: the lower counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lever<T> {
    /// In the control schema.
    pub control: T,
    /// In the config file, as the last process has read it.
    pub file: T,
}

/// Every lever, in both places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BothLevers {
    /// Share of reads.
    pub reads: Lever<Percent>,
    /// Share of dark reads.
    pub dark_reads: Lever<Percent>,
    /// Whether writes go to both.
    pub dual_write: Lever<bool>,
}

impl<T: Copy + Ord> Lever<T> {
    /// What they allow together.
    pub fn lower(&self) -> T {
        self.control.min(self.file)
    }
}

impl Control {
    /// Connects.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn connect(control: &pg::Database) -> Result<Self, Error> {
        Ok(Self { connection: Mutex::new(pg::connect(control, "pgsegue control").await?) })
    }

    /// Asks the running engine to start (or go on with) a migration.
    ///
    /// # Errors
    /// When no proxy has the migration declared, or it cannot be started from where it is.
    pub async fn start(&self, name: &str, who: &str) -> Result<(), Error> {
        let connection = self.connection.lock().await;
        let phase = phase(&connection.client, name).await.map_err(|error| match error {
            Error::Unknown { name } => Error::NotDeclared { name },
            other => other,
        })?;
        needs_engine(&connection.client, name).await?;
        match phase {
            Phase::Observe | Phase::Aborted | Phase::Paused { .. } | Phase::Blocked { .. } => {
                request(&connection.client, name, "start", who, "start").await
            }
            Phase::Prepare
            | Phase::DualWrite
            | Phase::Backfill { .. }
            | Phase::Repair
            | Phase::Verify { .. }
            | Phase::Ready => {
                Err(not_now(name, &phase, "start", "it is running; look at its status"))
            }
        }
    }

    /// Holds the work; writes are still mirrored.
    ///
    /// # Errors
    /// When there is no such migration.
    pub async fn pause(&self, name: &str, who: &str) -> Result<(), Error> {
        let connection = self.connection.lock().await;
        let phase = phase(&connection.client, name).await?;
        match phase {
            Phase::Observe | Phase::Aborted => {
                Err(not_now(name, &phase, "be paused", "it is not running"))
            }
            Phase::Paused { .. } | Phase::Blocked { .. } => Ok(()),
            Phase::Prepare
            | Phase::DualWrite
            | Phase::Backfill { .. }
            | Phase::Repair
            | Phase::Verify { .. }
            | Phase::Ready => request(&connection.client, name, "pause", who, "pause").await,
        }
    }

    /// Goes on after a pause or a block.
    ///
    /// # Errors
    /// When there is no such migration.
    pub async fn resume(&self, name: &str, who: &str) -> Result<(), Error> {
        let connection = self.connection.lock().await;
        let phase = phase(&connection.client, name).await?;
        match phase {
            Phase::Paused { .. } | Phase::Blocked { .. } => {
                request(&connection.client, name, "resume", who, "resume").await
            }
            Phase::Observe
            | Phase::Prepare
            | Phase::DualWrite
            | Phase::Backfill { .. }
            | Phase::Repair
            | Phase::Verify { .. }
            | Phase::Ready
            | Phase::Aborted => {
                Err(not_now(name, &phase, "be resumed", "only a paused or blocked one can"))
            }
        }
    }

    /// Ends the migration: mirroring stops, the functions are dropped; the shadow table stays.
    ///
    /// # Errors
    /// When there is no such migration.
    pub async fn abort(&self, name: &str, who: &str, why: &str) -> Result<Abort, Error> {
        let connection = self.connection.lock().await;
        let client = &connection.client;
        let phase = phase(client, name).await?;
        if phase != Phase::Aborted {
            if is_engine_running(client).await? {
                request(client, name, "abort", who, why).await?;
                return Ok(Abort::Asked);
            }
            // Nobody routes by it: it can be ended here. A process that has lost its connection for
            // a moment may mirror yet: its statements would fail without the functions.
            journal::advance(client, name, (&phase, &Phase::Aborted), who, why).await?;
            let sql = "UPDATE pgsegue.migrations SET gap = false, verified_at = NULL, \
                       backfill_until = NULL, reads_blocked = NULL WHERE name = $1";
            client.execute(sql, &[&name]).await?;
        }
        Ok(Abort::Done { left: install::installed(client, name).await? })
    }

    /// The levers of a migration, in both places.
    ///
    /// # Errors
    /// When there is no such migration.
    pub async fn levers(&self, name: &str) -> Result<BothLevers, Error> {
        let connection = self.connection.lock().await;
        let sql = "SELECT reads, file_reads, dark_reads, file_dark_reads, dual_write, \
                   file_dual_write FROM pgsegue.migrations WHERE name = $1";
        let row = connection.client.query_opt(sql, &[&name]).await?;
        let row = row.ok_or_else(|| Error::Unknown { name: name.to_owned() })?;
        let percent = |index: usize| row.try_get(index).map(journal::percent);
        Ok(BothLevers {
            reads: Lever { control: percent(0)?, file: percent(1)? },
            dark_reads: Lever { control: percent(2)?, file: percent(3)? },
            dual_write: Lever { control: row.try_get(4)?, file: row.try_get(5)? },
        })
    }

    /// Asks for a full verify now. Progress: `Status::verify_passes` grows by one when it is done.
    ///
    /// # Errors
    /// When there is no such migration, or it is not that far.
    pub async fn verify(&self, name: &str, who: &str) -> Result<(), Error> {
        let connection = self.connection.lock().await;
        let phase = phase(&connection.client, name).await?;
        match phase {
            Phase::Ready | Phase::Verify { .. } => {
                request(&connection.client, name, "verify", who, "verify").await
            }
            Phase::Observe
            | Phase::Prepare
            | Phase::DualWrite
            | Phase::Backfill { .. }
            | Phase::Repair
            | Phase::Paused { .. }
            | Phase::Blocked { .. }
            | Phase::Aborted => Err(not_now(
                name,
                &phase,
                "be verified",
                "a verify needs a finished backfill; one follows by itself",
            )),
        }
    }

    /// Lets repair try every dirty key again now, poison keys included.
    ///
    /// # Errors
    /// When there is no such migration.
    pub async fn repair(&self, name: &str, who: &str) -> Result<(), Error> {
        let connection = self.connection.lock().await;
        phase(&connection.client, name).await?;
        request(&connection.client, name, "repair", who, "repair").await
    }

    /// Changes levers in the control schema, with an event row, and notifies every proxy.
    ///
    /// # Errors
    /// When there is no such migration.
    pub async fn route(
        &self,
        name: &str,
        change: RouteChange,
        who: &str,
        why: &str,
    ) -> Result<(), Error> {
        let mut connection = self.connection.lock().await;
        let tx = connection.client.transaction().await?;
        let before = tx
            .query_opt(
                "SELECT reads, dark_reads, dual_write FROM pgsegue.migrations WHERE name = $1 \
                 FOR UPDATE",
                &[&name],
            )
            .await?
            .ok_or_else(|| Error::Unknown { name: name.to_owned() })?;
        let (reads, dark): (f64, f64) = (before.try_get(0)?, before.try_get(1)?);
        let dual: bool = before.try_get(2)?;
        let to_reads = change.reads.map_or(reads, Percent::as_f64);
        let to_dark = change.dark_reads.map_or(dark, Percent::as_f64);
        let to_dual = change.dual_write.map_or(dual, |lever| lever == DualWrite::On);
        // The gap is on record before any proxy stops mirroring.
        tx.execute(
            "UPDATE pgsegue.migrations SET reads = $2, dark_reads = $3, dual_write = $4, \
             gap = gap OR NOT $4 WHERE name = $1",
            &[&name, &to_reads, &to_dark, &to_dual],
        )
        .await?;
        let on = |on: bool| if on { "on".to_owned() } else { "off".to_owned() };
        let percent = |value: f64| journal::percent(value).to_string();
        for (what, from, to) in [
            ("reads", percent(reads), percent(to_reads)),
            ("dark_reads", percent(dark), percent(to_dark)),
            ("dual_write", on(dual), on(to_dual)),
        ] {
            if from != to {
                let (from, to) = (&from, &to);
                let event = NewEvent { migration: name, who, what, from, to, why };
                journal::event(&tx, &event).await?;
            }
        }
        tx.execute("SELECT pg_notify($1, $2)", &[&CHANNEL, &name]).await?;
        Ok(tx.commit().await?)
    }

    /// One migration.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn status(&self, name: &str) -> Result<Option<Status>, Error> {
        Ok(self.statuses(Some(name)).await?.pop())
    }

    /// All migrations the control schema knows.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list(&self) -> Result<Vec<Status>, Error> {
        self.statuses(None).await
    }

    async fn statuses(&self, name: Option<&str>) -> Result<Vec<Status>, Error> {
        let connection = self.connection.lock().await;
        if !is_installed(&connection.client).await? {
            return Ok(Vec::new());
        }
        let (class, object) = install::SERVING_LOCK;
        let rows = connection.client.query(STATUS, &[&name, &class, &object]).await?;
        rows.iter().map(status).collect()
    }

    /// The audit trail of one migration, oldest first, at most `limit` newest rows.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn events(&self, name: &str, limit: u32) -> Result<Vec<Event>, Error> {
        let connection = self.connection.lock().await;
        if !is_installed(&connection.client).await? {
            return Ok(Vec::new());
        }
        let rows = connection
            .client
            .query(
                "SELECT * FROM (SELECT id, to_char(at AT TIME ZONE 'UTC', \
                 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'), who, what, value_before, value_after, why \
                 FROM pgsegue.events WHERE migration = $1 ORDER BY id DESC LIMIT $2) e ORDER BY id",
                &[&name, &i64::from(limit)],
            )
            .await?;
        rows.iter().map(event).collect()
    }
}

/// Everything `status` shows, in one statement.
const STATUS: &str = "SELECT m.name, m.definition, m.phase, \
    least(m.reads, m.file_reads), least(m.dark_reads, m.file_dark_reads), \
    m.dual_write AND m.file_dual_write, m.gap, m.verified_at IS NOT NULL, \
    coalesce((SELECT sum(greatest(c.reltuples, 0))::int8 FROM pg_class c WHERE c.relkind = 'r' \
        AND c.oid IN (SELECT to_regclass(m.definition->>'source') UNION \
            SELECT relid FROM pg_partition_tree(to_regclass(m.definition->>'source')))), 0), \
    (SELECT count(*) FROM pgsegue.dirty_keys d WHERE d.migration = m.name), \
    coalesce((SELECT array_agg('(' || array_to_string(p.key, ', ') || '): ' || p.last_error) \
        FROM (SELECT key, max(coalesce(last_error, '')) AS last_error FROM pgsegue.dirty_keys d \
            WHERE d.migration = m.name AND key IS NOT NULL AND attempts > 0 \
            GROUP BY key ORDER BY key LIMIT 10) p), '{}'), \
    to_char(m.verified_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'), \
    m.verify_passes, m.differences_found, coalesce(m.reads_blocked, (SELECT \
        format('%s pgsegue processes serve this database: phases and shadow reads wait until one \
is left', count(DISTINCT pid)) FROM pg_locks WHERE locktype = 'advisory' AND granted \
        AND classid::int8 = $2::int4 AND objid::int8 = $3::int4 AND database = \
        (SELECT oid FROM pg_database WHERE datname = current_database()) \
        HAVING count(DISTINCT pid) > 1)) \
    FROM pgsegue.migrations m WHERE $1::text IS NULL OR m.name = $1 ORDER BY m.name";

fn status(row: &Row) -> Result<Status, Error> {
    let name: String = row.try_get(0)?;
    let definition: Value = row.try_get(1)?;
    let phase = decode(&name, row.try_get(2)?)?;
    let named =
        |part: &str| definition.get(part).and_then(Value::as_str).map(plain).unwrap_or_default();
    let reads_blocked: Option<String> = row.try_get(14)?;
    let serving = phase.serves_reads()
        && reads_blocked.is_none()
        && row.try_get(7)?
        && !row.try_get::<_, bool>(6)?;
    let levers_on: bool = row.try_get(5)?;
    let mirrored = phase.mirror() != crate::routing::Mirror::Off;
    let share = |value: f64| if serving && levers_on { value } else { 0.0 };
    let count = |value: i64| u64::try_from(value).unwrap_or(0);
    Ok(Status {
        source: named("source"),
        shadow: named("shadow"),
        reads: share(row.try_get(3)?),
        dark_reads: share(row.try_get(4)?),
        dual_write: levers_on && mirrored,
        rows_estimate: count(row.try_get(8)?),
        dirty_keys: count(row.try_get(9)?),
        poison_keys: row.try_get(10)?,
        verified_at: row.try_get(11)?,
        verify_passes: count(row.try_get(12)?),
        differences_found: count(row.try_get(13)?),
        reads_blocked,
        name,
        phase,
    })
}

/// `schema.table` with the quotes that it needs, and no others.
fn plain(quoted: &str) -> String {
    crate::sql::ident::QualifiedName::parse(quoted)
        .map_or_else(|_| quoted.to_owned(), |name| name.spelled())
}

fn event(row: &Row) -> Result<Event, Error> {
    Ok(Event {
        id: row.try_get(0)?,
        at: row.try_get(1)?,
        who: row.try_get(2)?,
        what: row.try_get(3)?,
        from: row.try_get(4)?,
        to: row.try_get(5)?,
        why: row.try_get(6)?,
    })
}

fn decode(name: &str, phase: Value) -> Result<Phase, Error> {
    serde_json::from_value(phase)
        .map_err(|error| Error::Journal { name: name.to_owned(), reason: error.to_string() })
}

async fn is_installed(client: &Client) -> Result<bool, Error> {
    let row = client.query_one("SELECT to_regclass('pgsegue.events') IS NOT NULL", &[]).await?;
    Ok(row.try_get(0)?)
}

async fn phase(client: &Client, name: &str) -> Result<Phase, Error> {
    let unknown = || Error::Unknown { name: name.to_owned() };
    if !is_installed(client).await? {
        return Err(unknown());
    }
    let row = client
        .query_opt("SELECT phase FROM pgsegue.migrations WHERE name = $1", &[&name])
        .await?
        .ok_or_else(unknown)?;
    decode(name, row.try_get(0)?)
}

/// Whether some process holds the engine's lock of this database.
async fn is_engine_running(client: &Client) -> Result<bool, Error> {
    let (class, object) = install::ENGINE_LOCK;
    let row = client
        .query_one(
            &format!("SELECT EXISTS (SELECT FROM pg_locks l WHERE granted AND {OF_LOCK})"),
            &[&class, &object],
        )
        .await?;
    Ok(row.try_get(0)?)
}

async fn needs_engine(client: &Client, name: &str) -> Result<(), Error> {
    let row = client
        .query_one("SELECT declared FROM pgsegue.migrations WHERE name = $1", &[&name])
        .await?;
    if row.try_get(0)? && is_engine_running(client).await? {
        return Ok(());
    }
    Err(Error::NotDeclared { name: name.to_owned() })
}

async fn request(
    client: &Client,
    name: &str,
    what: &str,
    who: &str,
    why: &str,
) -> Result<(), Error> {
    client
        .execute(
            "WITH r AS (INSERT INTO pgsegue.requests (migration, what, who, why) \
             VALUES ($1, $2, $3, $4)) SELECT pg_notify($5, $1)",
            &[&name, &what, &who, &why, &CHANNEL],
        )
        .await?;
    Ok(())
}

fn not_now(name: &str, phase: &Phase, asked: &'static str, hint: &'static str) -> Error {
    Error::NotNow { name: name.to_owned(), phase: phase.name(), asked, hint }
}
