//! The SQL that is installed: schema `pgsegue`, and two functions per migration. Pure text, so
//! that a DBA can be shown it before it runs.

use super::Error;
use super::shape::{Mapped, Shape, Storage};
use crate::pg;
use crate::sql::ident::literal;
use tokio_postgres::GenericClient;

/// The advisory lock under which the schema is brought up to date (class, object).
pub(crate) const INSTALL_LOCK: (i32, i32) = (0x7067_7365, 1);
/// The advisory lock of the process that runs the engine of this database.
pub(crate) const ENGINE_LOCK: (i32, i32) = (0x7067_7365, 2);
/// The advisory lock of those that serve clients of this database: shared, or alone.
pub(crate) const SERVING_LOCK: (i32, i32) = (0x7067_7365, 3);
/// The class of the lock between the chunks and the repair of one migration; the object is the
/// hash of its name.
pub(crate) const REPAIR_LOCK_CLASS: i32 = 0x7067_7366;

/// Of the tables, and of how processes share them.
const VERSION: i32 = 4;

/// The base schema. Each statement may run again over its own result.
const BASE: &str = r#"
CREATE SCHEMA IF NOT EXISTS pgsegue;
COMMENT ON SCHEMA pgsegue IS 'pgsegue: journal and functions of table migrations';
CREATE TABLE IF NOT EXISTS pgsegue.schema_version (version int4 NOT NULL);
-- One row per migration: what it was started with, where it is, and the levers of the control side.
CREATE TABLE IF NOT EXISTS pgsegue.migrations (
    name text PRIMARY KEY,
    definition jsonb NOT NULL,
    phase jsonb NOT NULL DEFAULT '{"phase": "declared"}',
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
-- Whatever may be stale. Append-only, and without a unique index on purpose: a writer never waits
-- for another one's row, and a newer record is never absorbed by one that is being removed.
CREATE TABLE IF NOT EXISTS pgsegue.dirty_keys (
    seq int8 GENERATED ALWAYS AS IDENTITY,
    migration text NOT NULL,
    key text[],
    reason text NOT NULL,
    at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    attempts int4 NOT NULL DEFAULT 0,
    retry_at timestamptz,
    last_error text
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
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
REVOKE ALL ON ALL TABLES IN SCHEMA pgsegue FROM PUBLIC;
GRANT USAGE ON SCHEMA pgsegue TO PUBLIC;
"#;

/// The statements that bring schema `pgsegue` up to date.
pub fn base_sql() -> &'static str {
    BASE
}

/// `"pgsegue"."sync_…"`.
pub(crate) fn sync_name(migration: &str) -> String {
    format!("\"pgsegue\".\"sync_{migration}\"")
}

/// `"pgsegue"."mark_…"`.
pub(crate) fn mark_name(migration: &str) -> String {
    format!("\"pgsegue\".\"mark_{migration}\"")
}

/// Brings the base schema up to date, under a lock, in one transaction.
pub(crate) async fn base(client: &mut tokio_postgres::Client) -> Result<(), Error> {
    let tx = client.transaction().await?;
    let (class, object) = INSTALL_LOCK;
    tx.execute("SELECT pg_advisory_xact_lock($1, $2)", &[&class, &object]).await?;
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
    let tx = client.transaction().await?;
    let (class, object) = INSTALL_LOCK;
    tx.execute("SELECT pg_advisory_xact_lock($1, $2)", &[&class, &object]).await?;
    drop_all(&tx, &shape.migration.name).await?;
    tx.batch_execute(&sync_sql(shape)).await?;
    tx.batch_execute(&mark_sql(&shape.migration.name)).await?;
    Ok(tx.commit().await?)
}

/// Puts the functions of a changed shape in the place of those that writers call now: the same
/// object where the key has kept its types, so that no call in flight misses it.
pub(crate) async fn replace(
    client: &mut tokio_postgres::Client,
    shape: &Shape,
) -> Result<(), Error> {
    let tx = client.transaction().await?;
    let (class, object) = INSTALL_LOCK;
    tx.execute("SELECT pg_advisory_xact_lock($1, $2)", &[&class, &object]).await?;
    tx.batch_execute(&sync_sql(shape)).await?;
    tx.batch_execute(&mark_sql(&shape.migration.name)).await?;
    Ok(tx.commit().await?)
}

/// Drops the functions of a migration, whatever their arguments.
pub(crate) async fn drop_all(client: &impl GenericClient, name: &str) -> Result<(), Error> {
    let rows = client
        .query(
            "SELECT p.oid::regprocedure::text FROM pg_proc p JOIN pg_namespace n \
             ON n.oid = p.pronamespace WHERE n.nspname = 'pgsegue' \
             AND p.proname IN ('sync_' || $1::text, 'mark_' || $1::text)",
            &[&name],
        )
        .await?;
    for row in rows {
        let signature: String = row.try_get(0)?;
        client.batch_execute(&format!("DROP FUNCTION {signature}")).await?;
    }
    Ok(())
}

/// The function that records that any row of the shadow may be stale.
pub fn mark_sql(migration: &str) -> String {
    let name = mark_name(migration);
    let migration = literal(migration);
    format!(
        "CREATE OR REPLACE FUNCTION {name}(reason text) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $pgsegue$
    INSERT INTO pgsegue.dirty_keys (migration, reason)
    VALUES ({migration}, pg_catalog.\"left\"(coalesce($1, ''), 500));
$pgsegue$;
GRANT EXECUTE ON FUNCTION {name}(text) TO PUBLIC;
"
    )
}

/// The pieces of SQL that the sync function is put together from.
struct Parts {
    /// Parameters of the key arrays with their types.
    parameters: String,
    /// `unnest` of the arrays as a table expression `u(k1, …)`.
    keys: String,
    /// A source row is one of the given keys.
    source_is_given: String,
    /// A source row is the only given key, and this transaction has written it: nobody else can
    /// change it before the end, so it needs no lock.
    source_is_ours: String,
    /// The source row of `u`, for an EXISTS.
    source_of_u: String,
    /// The shadow row of `u` as a predicate over alias `t`.
    shadow_is_u: String,
    /// The key columns of the shadow, under alias `t` and bare.
    shadow_key_t: String,
    shadow_key: String,
    /// The text images of `u`'s key.
    images: String,
}

fn join(parts: impl Iterator<Item = String>, separator: &str) -> String {
    parts.collect::<Vec<_>>().join(separator)
}

fn parts(shape: &Shape) -> Parts {
    let numbered = || shape.key.iter().enumerate().map(|(i, pair)| (i + 1, pair));
    let source = shape.source.name.quoted();
    let names = join(numbered().map(|(i, _)| format!("k{i}")), ", ");
    let arrays = join(numbered().map(|(i, _)| format!("${i}")), ", ");
    let single = shape.key.len() == 1;
    let keys = format!("unnest({arrays}) AS u ({names})");
    let source_key = join(shape.key.iter().map(|p| p.source.name.quoted()), ", ");
    Parts {
        parameters: join(numbered().map(|(i, p)| format!("k{i} {}[]", p.source.type_sql)), ", "),
        source_is_given: if single {
            format!("{source_key} = ANY ($1)")
        } else {
            format!("({source_key}) IN (SELECT {names} FROM {keys})")
        },
        source_is_ours: format!(
            "{} AND {}.xmin = pg_current_xact_id_if_assigned()::xid",
            join(
                numbered().map(|(i, p)| format!("{} = (${i})[1]", p.source.name.quoted())),
                " AND "
            ),
            shape.source.name.name.quoted(),
        ),
        source_of_u: format!(
            "SELECT FROM {source} AS s WHERE {}",
            join(
                numbered().map(|(i, p)| format!("s.{} = u.k{i}", p.source.name.quoted())),
                " AND "
            )
        ),
        shadow_is_u: join(
            numbered().map(|(i, p)| {
                format!("t.{} = u.k{i}::{}", p.shadow.name.quoted(), p.shadow.type_sql)
            }),
            " AND ",
        ),
        shadow_key_t: join(shape.key.iter().map(|p| format!("t.{}", p.shadow.name.quoted())), ", "),
        shadow_key: join(shape.key.iter().map(|p| p.shadow.name.quoted()), ", "),
        images: join(numbered().map(|(i, _)| format!("u.k{i}::text")), ", "),
        keys,
    }
}

/// The assignments of the upsert. The key itself is left alone where equal keys are identical: it
/// then takes the weaker row lock. A value that may be stored out of line is kept when its bytes
/// are the same: writing it again would copy the whole of it. The comparison is of images, since
/// type equality calls 1.0 and 1.00 the same.
fn assignments(shape: &Shape) -> String {
    let is_key = |mapped: &Mapped| {
        shape.key.iter().any(|pair| pair.shadow.name == mapped.column.name)
            && mapped.column.equal_is_identical()
    };
    let assigned: Vec<String> = shape
        .mapped
        .iter()
        .filter(|mapped| !is_key(mapped))
        .map(|mapped| {
            let c = mapped.column.name.quoted();
            if mapped.column.storage == Storage::Toastable {
                format!(
                    "{c} = CASE WHEN ROW(t.{c})::record OPERATOR(pg_catalog.*<>) ROW(excluded.{c})::record \
                     THEN excluded.{c} ELSE t.{c} END"
                )
            } else {
                format!("{c} = excluded.{c}")
            }
        })
        .collect();
    if !assigned.is_empty() {
        return assigned.join(",\n            ");
    }
    let mut key = shape.key.iter().map(|pair| pair.shadow.name.quoted());
    key.next().map(|c| format!("{c} = excluded.{c}")).unwrap_or_default()
}

/// A dollar quote that does not occur in the body: a name may spell any.
fn dollar_quote(body: &str) -> String {
    let mut quote = "$pgsegue$".to_owned();
    while body.contains(&quote) {
        quote.insert(quote.len() - 1, '_');
    }
    quote
}

/// The function that brings the shadow rows of given keys in step with the source. It is used by
/// every path: proxied writes, and repair.
pub fn sync_sql(shape: &Shape) -> String {
    let name = sync_name(&shape.migration.name);
    let p = parts(shape);
    let budget = u64::try_from(shape.migration.lock_budget.as_millis()).unwrap_or(1).max(1);
    let settings =
        join(pg::PINNED.iter().map(|(name, value)| format!("SET {name} = {value}")), "\n");
    let types = join(shape.key.iter().map(|k| format!("{}[]", k.source.type_sql)), ", ");
    let body = body(shape, &p, budget);
    let parameters = &p.parameters;
    let quote = dollar_quote(&body);
    format!(
        "CREATE OR REPLACE FUNCTION {name}({parameters}, mode int4,
    client_lock_timeout text DEFAULT pg_catalog.current_setting('lock_timeout'))
RETURNS int4
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
{settings}
SET lock_timeout = '{budget}ms'
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS {quote}
{body}{quote};
REVOKE ALL ON FUNCTION {name}({types}, int4, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION {name}({types}, int4, text) TO PUBLIC;
COMMENT ON FUNCTION {name}({types}, int4, text) IS
    'Makes the shadow rows of these keys follow the source. 0: in step; 1: keys recorded as dirty; 2: recorded because of a lock';
"
    )
}

/// The upsert of the source rows that a condition chooses.
fn upsert(shape: &Shape, p: &Parts, given: &str) -> String {
    let columns = join(shape.mapped.iter().map(|m| m.column.name.quoted()), ", ");
    let expressions = join(shape.mapped.iter().map(|m| format!("({})", m.expression)), ", ");
    format!(
        "INSERT INTO {shadow} AS t ({columns}){overriding}
        SELECT {expressions}
        FROM {source} WHERE {given}
        ON CONFLICT ({shadow_key}) DO UPDATE SET
            {assignments};
        GET DIAGNOSTICS v_up = ROW_COUNT;",
        shadow = shape.shadow.name.quoted(),
        overriding = shape.overriding(),
        source = shape.source.name.quoted(),
        shadow_key = p.shadow_key,
        assignments = assignments(shape),
    )
}

/// The upserts of all given keys: without a lock where one row is this transaction's own.
fn upserts(shape: &Shape, p: &Parts, budget: u64) -> String {
    let mode = shape.key.len() + 1;
    let locked = format!("{} FOR SHARE OF {}", p.source_is_given, shape.source.name.name.quoted());
    let upsert_own = upsert(shape, p, &p.source_is_ours);
    let upsert = upsert(shape, p, &locked);
    format!(
        "IF v_want = 1 THEN
            -- the usual write: one row, just written by this very transaction
            {upsert_own}
            IF v_up = 1 THEN
                RETURN 0;
            END IF;
        END IF;
        IF v_want > 1 AND ${mode} <> 3 THEN
            -- lock_timeout is per wait: many locked rows must not add up
            PERFORM set_config('lock_timeout', greatest({budget} / v_want, 1)::text, true);
        END IF;
        {upsert}"
    )
}

/// The removal of every given key that has no source row.
fn remove(shape: &Shape, p: &Parts) -> String {
    let Parts { keys, source_of_u, shadow_is_u, shadow_key_t, .. } = p;
    let shadow = shape.shadow.name.quoted();
    format!(
        "-- Keys without a source row. First the lock, then the look again in a new statement: a
        -- writer may have created the row anew while this one waited.
        PERFORM 1 FROM {shadow} AS t, {keys}
        WHERE {shadow_is_u} AND NOT EXISTS ({source_of_u})
        ORDER BY {shadow_key_t} FOR UPDATE OF t;
        DELETE FROM {shadow} AS t USING {keys}
        WHERE {shadow_is_u} AND NOT EXISTS ({source_of_u});
        GET DIAGNOSTICS v_gone = ROW_COUNT;"
    )
}

const DECLARATIONS: &str = "#variable_conflict use_column
DECLARE
    v_want int8 := cardinality($1);
    v_up int8;
    v_gone int8;
    v_reason text;
    v_state text;
";

fn body(shape: &Shape, p: &Parts, budget: u64) -> String {
    let migration = literal(&shape.migration.name);
    let (mode, client_timeout) = (shape.key.len() + 1, shape.key.len() + 2);
    let Parts { keys, source_of_u, images, .. } = p;
    let record = |reason: &str, filter: &str| {
        format!(
            "INSERT INTO pgsegue.dirty_keys (migration, key, reason)
        SELECT {migration}, ARRAY[{images}], {reason}
        FROM (SELECT DISTINCT u.* FROM {keys}) AS u{filter};"
        )
    };
    let record_only = record("'recorded only'", "");
    let record_short = record("'fewer rows than keys'", "");
    let without_source = format!("\n        WHERE NOT EXISTS ({source_of_u})");
    let record_gone = record("'deleted while rows are copied'", &without_source);
    let record_failed = record("v_reason", "");
    let (upserts, remove) = (upserts(shape, p, budget), remove(shape, p));
    format!(
        "{DECLARATIONS}BEGIN
    IF v_want IS NULL OR v_want = 0 THEN
        RETURN 0;
    END IF;
    IF ${mode} = 2 THEN
        PERFORM set_config('lock_timeout', ${client_timeout}, true);
        {record_only}
        RETURN 1;
    END IF;
    BEGIN
        {upserts}
        IF v_up = v_want THEN
            RETURN 0;
        END IF;
        SELECT count(*) INTO v_want FROM (SELECT DISTINCT u.* FROM {keys}) AS d;
        IF v_up = v_want THEN
            RETURN 0;
        END IF;
        {remove}
        IF ${mode} = 3 THEN
            RETURN 0;
        END IF;
        IF v_up + v_gone < v_want THEN
            -- an old snapshot or a trigger on the shadow: not provably in step
            {record_short}
            RETURN 1;
        END IF;
        IF ${mode} = 1 THEN
            -- found or not: a chunk in flight may bring the row back
            {record_gone}
            GET DIAGNOSTICS v_gone = ROW_COUNT;
            RETURN CASE WHEN v_gone > 0 THEN 1 ELSE 0 END;
        END IF;
        RETURN 0;
    EXCEPTION WHEN OTHERS OR assert_failure THEN
        IF ${mode} = 3 THEN
            RAISE;
        END IF;
        v_state := SQLSTATE;
        v_reason := \"left\"(SQLSTATE || ' ' || SQLERRM, 500);
    END;
    PERFORM set_config('lock_timeout', ${client_timeout}, true);
    {record_failed}
    RETURN CASE WHEN v_state IN ('55P03', '40P01') THEN 2 ELSE 1 END;
END
"
    )
}
