//! Schema `pgsegue` with its tables, and the functions of a migration: installed, replaced, dropped.

use super::Error;
use super::counted::counted_sql;
use super::shape::Shape;
use super::sync::{follow_sql, mark_sql, sync_sql};
use super::truncate::truncated_sql;
use super::whole::whole_sql;
use crate::pg;
use tokio_postgres::{GenericClient, Transaction};

/// The advisory lock under which the schema is brought up to date (class, object).
pub(crate) const INSTALL_LOCK: (i32, i32) = (0x7067_7365, 1);
/// The advisory lock of the process that runs the engine of this database.
pub(crate) const ENGINE_LOCK: (i32, i32) = (0x7067_7365, 2);
/// The advisory lock of those that serve clients of this database: shared, or alone.
pub(crate) const SERVING_LOCK: (i32, i32) = (0x7067_7365, 3);
/// The class of the lock between the chunks and the repair of one migration; the object is the
/// hash of its name.
pub(crate) const REPAIR_LOCK_CLASS: i32 = 0x7067_7366;
/// The class of the lock that a session holds, shared, while a statement of it may go on behind the commit
/// of its mark; the object is the hash of the migration's name. Nobody waits for it.
pub(crate) const HOLD_LOCK_CLASS: i32 = 0x7067_7367;

/// Of the tables, and of how processes share them.
const VERSION: i32 = 6;

/// What the functions of a migration do: another number, and those in place are replaced.
pub(crate) const FUNCTIONS: i32 = 5;

/// The base schema. Each statement may run again over its own result.
const BASE: &str = r#"
CREATE SCHEMA IF NOT EXISTS pgsegue;
COMMENT ON SCHEMA pgsegue IS 'pgsegue: journal and functions of table migrations';
CREATE TABLE IF NOT EXISTS pgsegue.schema_version (version int4 NOT NULL);
-- One row per migration: what it was started with, where it is, and the levers of the control side.
CREATE TABLE IF NOT EXISTS pgsegue.migrations (
    name text PRIMARY KEY,
    definition jsonb NOT NULL,
    phase jsonb NOT NULL DEFAULT '{"phase": "observe"}',
    declared bool NOT NULL DEFAULT true,
    -- Writes went to the source alone since dual write was last on: needs a barrier and a verify.
    gap bool NOT NULL DEFAULT false,
    backfill_until text[],
    reads float8 NOT NULL DEFAULT 100,
    dark_reads float8 NOT NULL DEFAULT 100,
    dual_write bool NOT NULL DEFAULT true,
    file_reads float8 NOT NULL DEFAULT 0,
    file_dark_reads float8 NOT NULL DEFAULT 0,
    file_dual_write bool NOT NULL DEFAULT true,
    verified_at timestamptz,
    verify_passes int8 NOT NULL DEFAULT 0,
    differences_found int8 NOT NULL DEFAULT 0
);
-- Why the shadow serves no reads though it is in step: rows that do not come back the same.
ALTER TABLE pgsegue.migrations ADD COLUMN IF NOT EXISTS reads_blocked text;
-- How both tables were defined when the functions were installed.
ALTER TABLE pgsegue.migrations ADD COLUMN IF NOT EXISTS fingerprint text;
-- The phase before the start had another name up to version 4.
ALTER TABLE pgsegue.migrations ALTER COLUMN phase SET DEFAULT '{"phase": "observe"}';
UPDATE pgsegue.migrations SET phase = '{"phase": "observe"}' WHERE phase->>'phase' = 'declared';
-- Whatever may be stale. Append-only, and without a unique index on purpose: a writer never waits
-- for another one's row, and a newer record is never absorbed by one that is being removed.
CREATE TABLE IF NOT EXISTS pgsegue.dirty_keys (
    seq int8 NOT NULL,
    migration text NOT NULL,
    key text[],
    reason text NOT NULL,
    at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    attempts int4 NOT NULL DEFAULT 0,
    retry_at timestamptz,
    last_error text
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
-- A name that no other record has, by chance: a sequence would be the client's lastval(). It was one up to
-- version 5.
ALTER TABLE pgsegue.dirty_keys ALTER COLUMN seq DROP IDENTITY IF EXISTS;
ALTER TABLE pgsegue.dirty_keys ALTER COLUMN seq
    SET DEFAULT pg_catalog.hashtextextended(pg_catalog.gen_random_uuid()::pg_catalog.text, 0);
CREATE INDEX IF NOT EXISTS dirty_keys_seq ON pgsegue.dirty_keys (migration, seq);
CREATE INDEX IF NOT EXISTS dirty_keys_key ON pgsegue.dirty_keys (migration, key);
CREATE TABLE IF NOT EXISTS pgsegue.requests (
    id int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    migration text NOT NULL,
    what text NOT NULL,
    who text NOT NULL,
    why text NOT NULL,
    at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
CREATE TABLE IF NOT EXISTS pgsegue.events (
    id int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    migration text NOT NULL,
    who text NOT NULL,
    what text NOT NULL,
    value_before text NOT NULL,
    value_after text NOT NULL,
    why text NOT NULL
);
CREATE INDEX IF NOT EXISTS events_migration ON pgsegue.events (migration, id);
-- Stores nothing: a mirrored write within a WITH list calls its sync function in an INSERT into it,
-- which the server runs to its end whoever refers to it.
CREATE TABLE IF NOT EXISTS pgsegue.sink (n int4 CHECK (false));
-- Says the outcome of such a call to the proxy, which keeps it from the client.
CREATE OR REPLACE FUNCTION pgsegue.tell(migration text, outcome int4) RETURNS bool
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET client_min_messages = notice
AS $$
BEGIN
    RAISE NOTICE '% %', migration, outcome USING ERRCODE = 'PGSG1';
    RETURN false;
END
$$;
REVOKE ALL ON ALL TABLES IN SCHEMA pgsegue FROM PUBLIC;
"#;

/// Whether every role has it.
const GRANTED: &str = "SELECT has_schema_privilege('public', 'pgsegue', 'USAGE') \
    AND has_table_privilege('public', 'pgsegue.sink', 'INSERT') \
    AND has_function_privilege('public', 'pgsegue.tell(text, int4)', 'EXECUTE')";

/// What every role needs beside the functions of a migration.
const GRANTS: &str = "GRANT USAGE ON SCHEMA pgsegue TO PUBLIC; GRANT INSERT ON pgsegue.sink TO PUBLIC; \
     GRANT EXECUTE ON FUNCTION pgsegue.tell(text, int4) TO PUBLIC";

/// The statements that bring schema `pgsegue` up to date.
pub fn base_sql() -> String {
    format!("{BASE}{GRANTS}")
}

/// Brings the base schema up to date, under a lock, in one transaction.
pub(crate) async fn base(client: &mut tokio_postgres::Client) -> Result<(), Error> {
    let tx = locked(client).await?;
    let there = tx
        .query_one("SELECT to_regclass('pgsegue.schema_version') IS NOT NULL", &[])
        .await?
        .try_get(0)?;
    let version: Option<i32> = if there {
        tx.query_one("SELECT max(version) FROM pgsegue.schema_version", &[]).await?.try_get(0)?
    } else {
        None
    };
    match version {
        Some(version) if version == VERSION => return Ok(tx.commit().await?),
        Some(version) if version > VERSION => {
            return Err(Error::Install {
                reason: format!(
                    "it has version {version}, this pgsegue knows {VERSION}: use the newer one"
                ),
            });
        }
        Some(_) | None => {}
    }
    let sql = format!(
        "{}; DELETE FROM pgsegue.schema_version; \
         INSERT INTO pgsegue.schema_version VALUES ({VERSION})",
        base_sql()
    );
    tx.batch_execute(&sql).await.map_err(|error| Error::Install { reason: pg::reason(&error) })?;
    Ok(tx.commit().await?)
}

/// Whether the base schema is there in this version.
pub(crate) async fn is_current(client: &tokio_postgres::Client) -> Result<bool, Error> {
    let there = "SELECT to_regclass('pgsegue.schema_version') IS NOT NULL";
    if !client.query_one(there, &[]).await?.try_get::<_, bool>(0)? {
        return Ok(false);
    }
    let version = "SELECT max(version) FROM pgsegue.schema_version";
    let version: Option<i32> = client.query_one(version, &[]).await?.try_get(0)?;
    Ok(version == Some(VERSION))
}

/// Installs the functions of a migration, in one transaction.
pub(crate) async fn functions(
    client: &mut tokio_postgres::Client,
    shape: &Shape,
) -> Result<(), Error> {
    let tx = locked(client).await?;
    drop_all(&tx, &shape.migration.name).await?;
    create(tx, shape).await
}

/// Puts the functions of a changed shape in the place of those that writers call now: the same
/// object where the key has kept its types, so that no call in flight misses it.
pub(crate) async fn replace(
    client: &mut tokio_postgres::Client,
    shape: &Shape,
) -> Result<(), Error> {
    let tx = locked(client).await?;
    create(tx, shape).await
}

/// A transaction in which nobody else installs.
async fn locked(client: &mut tokio_postgres::Client) -> Result<Transaction<'_>, Error> {
    let tx = client.transaction().await?;
    let (class, object) = INSTALL_LOCK;
    tx.execute("SELECT pg_advisory_xact_lock($1, $2)", &[&class, &object]).await?;
    Ok(tx)
}

async fn create(tx: Transaction<'_>, shape: &Shape) -> Result<(), Error> {
    tx.batch_execute(&sync_sql(shape)).await?;
    tx.batch_execute(&follow_sql(shape)).await?;
    tx.batch_execute(&truncated_sql(shape)).await?;
    tx.batch_execute(&whole_sql(shape)).await?;
    tx.batch_execute(&counted_sql(shape)).await?;
    tx.batch_execute(&mark_sql(&shape.migration.name)).await?;
    // Granted again it would have the server look up the names in every prepared statement anew.
    if !tx.query_one(GRANTED, &[]).await?.try_get::<_, bool>(0)? {
        tx.batch_execute(GRANTS).await?;
    }
    Ok(tx.commit().await?)
}

/// The functions of a migration that are there, whatever their arguments.
pub(crate) async fn installed(
    client: &impl GenericClient,
    name: &str,
) -> Result<Vec<String>, Error> {
    let rows = client
        .query(
            "SELECT p.oid::regprocedure::text FROM pg_proc p JOIN pg_namespace n \
             ON n.oid = p.pronamespace WHERE n.nspname = 'pgsegue' \
             AND p.proname IN ('sync_' || $1::text, 'follow_' || $1::text, \
             'truncated_' || $1::text, 'before_copy_' || $1::text, 'after_copy_' || $1::text, \
             'mark_' || $1::text, 'hold_' || $1::text, 'release_' || $1::text, \
             'whole_' || $1::text)",
            &[&name],
        )
        .await?;
    Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
}

/// Drops the functions of a migration; says how many there were.
pub(crate) async fn drop_all(client: &impl GenericClient, name: &str) -> Result<usize, Error> {
    let all = installed(client, name).await?;
    for signature in &all {
        client.batch_execute(&format!("DROP FUNCTION {signature}")).await?;
    }
    Ok(all.len())
}
