//! The SQL of a migration's functions. Pure text, so that a DBA can be shown it before it runs.
//!
//! * `sync_…` makes the shadow rows of any number of keys follow the source,
//! * `follow_…` does so for one row that the calling statement has just written: the usual write of
//!   an app, so it does without what that write does not need, and leaves the rest to `sync_…`,
//! * `mark_…` records that any row may be stale,
//! * `hold_…` does so for a statement that may commit on its way and go on behind that (CALL, DO): what it
//!   records is not worked off while its session has not called `release_…`, and is there.
//!
//! What follows a TRUNCATE is in `truncate`.

use super::mapping::{self, Needs};
use super::reverse::{self, Given};
use super::shape::{Mapped, Shape, Storage};
use crate::pg;
use crate::sql::ident::literal;
use crate::sql::target::Hold;

/// `"pgsegue"."sync_…"`.
pub(crate) fn sync_name(migration: &str) -> String {
    format!("\"pgsegue\".\"sync_{migration}\"")
}

/// `"pgsegue"."follow_…"`.
pub(crate) fn follow_name(migration: &str) -> String {
    format!("\"pgsegue\".\"follow_{migration}\"")
}

/// `"pgsegue"."mark_…"`.
pub(crate) fn mark_name(migration: &str) -> String {
    format!("\"pgsegue\".\"mark_{migration}\"")
}

/// `"pgsegue"."hold_…"` and `"pgsegue"."release_…"`.
pub(crate) fn hold(migration: &str) -> Hold {
    let named = |what| format!("\"pgsegue\".\"{what}_{migration}\"");
    Hold { function: named("hold"), release: named("release") }
}

/// The functions that record that any row of the shadow may be stale, until the end of the transaction and
/// until the end of a statement.
pub fn mark_sql(migration: &str) -> String {
    let name = mark_name(migration);
    let Hold { function: hold, release } = hold(migration);
    let migration = literal(migration);
    let class = super::install::HOLD_LOCK_CLASS;
    let lock = format!("{class}, hashtext({migration})");
    // It is taken once, so that it can be given back by whoever knows no more than that.
    let own = format!(
        "pg_locks AS l WHERE l.locktype = 'advisory' AND l.pid = pg_backend_pid()
        AND l.classid = {class} AND l.objid = hashtext({migration})::oid AND l.objsubid = 2
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    );
    format!(
        "CREATE OR REPLACE FUNCTION {name}(reason text) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $pgsegue$
    INSERT INTO pgsegue.dirty_keys (migration, reason)
    VALUES ({migration}, pg_catalog.\"left\"(coalesce($1, ''), 500));
$pgsegue$;
GRANT EXECUTE ON FUNCTION {name}(text) TO PUBLIC;
CREATE OR REPLACE FUNCTION {hold}(reason text) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $pgsegue$
    SELECT {name}($1);
    SELECT pg_advisory_lock_shared({lock}) WHERE NOT EXISTS (SELECT FROM {own});
$pgsegue$;
GRANT EXECUTE ON FUNCTION {hold}(text) TO PUBLIC;
CREATE OR REPLACE FUNCTION {release}() RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $pgsegue$
    INSERT INTO pgsegue.dirty_keys (migration, reason)
    SELECT {migration}, 'its lock was given back by somebody else' WHERE NOT EXISTS (SELECT FROM {own});
    SELECT pg_advisory_unlock_shared({lock}) FROM {own};
$pgsegue$;
GRANT EXECUTE ON FUNCTION {release}() TO PUBLIC;
"
    )
}

/// The pieces of SQL that the sync function is put together from.
struct Parts {
    /// Parameters of the key arrays with their types.
    parameters: String,
    /// `unnest` of the arrays as a table expression `u(k1, …)`.
    keys: String,
    /// The same under an alias that no table has, with a comma behind it.
    given: String,
    /// A source row is one of the given keys.
    source_is_given: String,
    /// A source row is the only given key, and this transaction has written it: nobody else can
    /// change it before the end, so it needs no lock. By the array arguments, and by the single
    /// ones of `follow_…`.
    source_is_ours: String,
    source_is_followed: String,
    /// A source row is one of the given keys, and this transaction has written it.
    source_is_given_and_ours: String,
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
    let given = format!("unnest({arrays}) AS \"pgsegue u\" ({names}), ");
    let source_key = join(shape.key.iter().map(|p| p.source.name.quoted()), ", ");
    let source_is_given = if single {
        format!("{source_key} = ANY ($1)")
    } else {
        format!("({source_key}) IN (SELECT {names} FROM {keys})")
    };
    Parts {
        parameters: join(numbered().map(|(i, p)| format!("k{i} {}[]", p.source.type_sql)), ", "),
        source_is_given_and_ours: format!("{source_is_given} AND {}", is_our_row(shape)),
        source_is_given,
        source_is_ours: written_by_us(shape, |i| format!("(${i})[1]")),
        source_is_followed: written_by_us(shape, |i| format!("${i}")),
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
        given,
    }
}

/// The source row with this key, if this transaction has written it.
fn written_by_us(shape: &Shape, key: impl Fn(usize) -> String) -> String {
    let keys = shape.key.iter().enumerate();
    let keys = keys.map(|(i, pair)| format!("{} = {}", pair.source.name.quoted(), key(i + 1)));
    format!("{} AND {}", join(keys, " AND "), is_our_row(shape))
}

/// This transaction has written the source row, not in a savepoint.
fn is_our_row(shape: &Shape) -> String {
    let source = shape.source.name.name.quoted();
    format!("{source}.xmin = pg_current_xact_id_if_assigned()::xid")
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

/// A function in PL/pgSQL that any role may call, and that runs as its owner.
pub(super) struct Function<'a> {
    pub(super) name: &'a str,
    /// With their names and defaults, and their types alone.
    pub(super) parameters: (&'a str, &'a str),
    pub(super) returns: &'a str,
    /// What it runs under, one SET in a line.
    pub(super) settings: &'a str,
    pub(super) body: &'a str,
    pub(super) comment: &'a str,
}

impl Function<'_> {
    pub(super) fn sql(&self) -> String {
        let Self { name, parameters: (parameters, types), returns, settings, body, comment } = self;
        let quote = dollar_quote(body);
        format!(
            "CREATE OR REPLACE FUNCTION {name}({parameters})
RETURNS {returns}
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
{settings}
AS {quote}
{body}{quote};
REVOKE ALL ON FUNCTION {name}({types}) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION {name}({types}) TO PUBLIC;
COMMENT ON FUNCTION {name}({types}) IS
    '{comment}';
"
        )
    }
}

/// A dollar quote that does not occur in the body: a name may spell any.
fn dollar_quote(body: &str) -> String {
    let mut quote = "$pgsegue$".to_owned();
    while body.contains(&quote) {
        quote.insert(quote.len() - 1, '_');
    }
    quote
}

/// Marks the migration where a row that is in step does not come back from the shadow as it is in the source:
/// a verify finds it and stops the reads, which must not see it before. Empty where no way back has to be
/// tried. Trying may fail; the row is in step nevertheless.
/// `keys` are table expressions with a comma behind them, by which `key` has the columns of the key.
fn mark_lost(shape: &Shape, keys: &str, key: impl Fn(usize) -> String) -> String {
    let numbered = || shape.key.iter().enumerate().map(|(i, pair)| (key(i + 1), pair));
    let source = numbered().map(|(k, p)| format!("s.{} = {k}", p.source.name.quoted()));
    let shadow =
        numbered().map(|(k, p)| format!("{} = {k}::{}", p.shadow.name.quoted(), p.shadow.type_sql));
    let (source, shadow) = (&join(source, " AND "), &join(shadow, " AND "));
    let given = Given { keys, source, shadow };
    let Some(is_lost) = reverse::is_lost(shape, &given) else { return String::new() };
    let migration = literal(&shape.migration.name);
    format!(
        "BEGIN
            v_lost := {is_lost};
        EXCEPTION WHEN OTHERS THEN
            v_lost := true;
        END;
        IF v_lost THEN
            INSERT INTO pgsegue.dirty_keys (migration, reason)
            VALUES ({migration}, 'a row does not come back from the shadow as it is in the source');
            RETURN 1;
        END IF;
        "
    )
}

/// The function that brings the shadow rows of given keys in step with the source. It is used by
/// every path: proxied writes, and repair.
pub fn sync_sql(shape: &Shape) -> String {
    let name = sync_name(&shape.migration.name);
    let p = parts(shape);
    let budget = u64::try_from(shape.migration.lock_budget.as_millis()).unwrap_or(1).max(1);
    let settings = settings(pg::PINNED.iter());
    let types = join(shape.key.iter().map(|k| format!("{}[]", k.source.type_sql)), ", ");
    let body = body(shape, &p, budget);
    let parameters = &p.parameters;
    Function {
        name: &name,
        parameters: (
            &format!(
                "{parameters}, mode int4,
    client_lock_timeout text DEFAULT pg_catalog.current_setting('lock_timeout')"
            ),
            &format!("{types}, int4, text"),
        ),
        returns: "int4",
        settings: &format!(
            "{settings}
SET lock_timeout = '{budget}ms'
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET jit = off"
        ),
        body: &body,
        comment: "Makes the shadow rows of these keys follow the source. 0: in step; 1: keys recorded as \
                  dirty; 2: recorded because of a lock",
    }
    .sql()
}

pub(super) fn settings<'a>(pinned: impl Iterator<Item = &'a (&'a str, &'a str)>) -> String {
    join(pinned.map(|(name, value)| format!("SET {name} = {value}")), "\n")
}

/// The function for the usual write: one row, just written by the calling statement. Each setting
/// costs it as much as a hundredth of the whole statement, so it pins those alone that can change
/// what is stored: where the mapping, the key's image or a trigger could read one, all of them.
/// Generic plans are forced for partitioned tables only; elsewhere they are chosen by themselves,
/// being as good as custom ones for a key.
///
/// It records its own failures, as `sync_…` does; a row that is not there, or was written by a
/// savepoint, is left to `sync_…`, as are other modes.
pub fn follow_sql(shape: &Shape) -> String {
    let (name, sync) = (follow_name(&shape.migration.name), sync_name(&shape.migration.name));
    let p = parts(shape);
    let budget = u64::try_from(shape.migration.lock_budget.as_millis()).unwrap_or(1).max(1);
    let numbered = || shape.key.iter().enumerate().map(|(i, pair)| (i + 1, pair));
    let parameters = join(numbered().map(|(i, p)| format!("k{i} {}", p.source.type_sql)), ", ");
    let types = join(numbered().map(|(_, p)| p.source.type_sql.clone()), ", ");
    let arrays = join(numbered().map(|(i, _)| format!("ARRAY[${i}]")), ", ");
    let images = join(numbered().map(|(i, _)| format!("${i}::text")), ", ");
    let mode = shape.key.len() + 1;
    let settings = match needs(shape) {
        Needs::Path => settings(pg::PINNED.iter().filter(|(name, _)| *name == "search_path")),
        Needs::Everything => settings(pg::PINNED.iter()),
    };
    let partitioned = [&shape.source, &shape.shadow].iter().any(|table| table.kind == "p");
    let generic = if partitioned { "SET plan_cache_mode = force_generic_plan\n" } else { "" };
    // A part without an index for the key is scanned though that is off, at a cost that calls for jit.
    let jit = if shape.parts.is_empty() { "" } else { "SET jit = off\n" };
    let upsert = upsert(shape, &p, &p.source_is_followed);
    let mark_lost = mark_lost(shape, "", |i| format!("${i}"));
    let migration = literal(&shape.migration.name);
    let body = format!(
        "#variable_conflict use_column
DECLARE
    v_state text;
    v_reason text;
    v_lost bool;
BEGIN
    IF ${mode} < 2 THEN
        BEGIN
            {upsert}
            IF FOUND THEN
                {mark_lost}RETURN 0;
            END IF;
        EXCEPTION WHEN OTHERS OR assert_failure THEN
            v_state := SQLSTATE;
            v_reason := \"left\"(SQLSTATE || ' ' || SQLERRM, 500);
        END;
        IF v_state IS NOT NULL THEN
            PERFORM set_config('lock_timeout', '0', true);
            INSERT INTO pgsegue.dirty_keys (migration, key, reason)
            VALUES ({migration}, ARRAY[{images}], v_reason);
            RETURN CASE WHEN v_state IN ('55P03', '40P01') THEN 2 ELSE 1 END;
        END IF;
    END IF;
    RETURN {sync}({arrays}, ${mode}, '0');
END
"
    );
    Function {
        name: &name,
        parameters: (&format!("{parameters}, mode int4"), &format!("{types}, int4")),
        returns: "int4",
        settings: &format!(
            "{settings}
SET lock_timeout = '{budget}ms'
{generic}{jit}SET enable_seqscan = off"
        ),
        body: &body,
        comment: "Makes the shadow row of a key that the calling statement has written follow the source. \
                  0: in step; 1: key recorded as dirty; 2: recorded because of a lock",
    }
    .sql()
}

/// Which settings can change what is stored.
fn needs(shape: &Shape) -> Needs {
    let plain_keys = shape.key.iter().all(|pair| mapping::is_plain(pair.source.type_oid));
    if shape.shadow.has_triggers || !plain_keys {
        return Needs::Everything;
    }
    let types = |name: &_| shape.source.column(name).map(|column| column.type_oid);
    let of_all =
        shape.mapped.iter().map(|m| mapping::needs(&m.expression, m.column.type_oid, types));
    of_all.chain([reverse::needs(shape)]).max().unwrap_or(Needs::Path)
}

/// The upsert of the source rows that a condition chooses.
fn upsert(shape: &Shape, p: &Parts, given: &str) -> String {
    let columns = join(shape.mapped.iter().map(|m| m.column.name.quoted()), ", ");
    let expressions = join(shape.mapped.iter().map(Mapped::stored), ", ");
    format!(
        "INSERT INTO {shadow} AS t ({columns}){overriding}
        SELECT {expressions}
        FROM {source} WHERE {given}
        ON CONFLICT ({shadow_key}) DO UPDATE SET
            {assignments};",
        shadow = shape.shadow.name.quoted(),
        overriding = shape.overriding(),
        source = shape.source.name.quoted(),
        shadow_key = p.shadow_key,
        assignments = assignments(shape),
    )
}

/// The upserts of all given keys: without locks where the rows are this transaction's own.
fn upserts(shape: &Shape, p: &Parts, budget: u64) -> String {
    let mode = shape.key.len() + 1;
    let locked = format!("{} FOR SHARE OF {}", p.source_is_given, shape.source.name.name.quoted());
    let upsert_own = upsert(shape, p, &p.source_is_ours);
    let upsert_all_own = upsert(shape, p, &p.source_is_given_and_ours);
    let upsert = upsert(shape, p, &locked);
    let (source, source_is_ours) = (shape.source.name.quoted(), &p.source_is_ours);
    format!(
        "IF v_want = 1 THEN
            -- one row, just written by this very transaction
            {upsert_own}
            IF FOUND THEN
                EXIT mirrored;
            END IF;
        ELSIF ${mode} <> 3 THEN
            -- lock_timeout is per wait: many locked rows must not add up
            PERFORM set_config('lock_timeout', greatest({budget} / v_want, 1)::text, true);
            IF EXISTS (SELECT FROM {source} WHERE {source_is_ours}) THEN
                -- many, the first of which it has written: the others, too, most likely
                {upsert_all_own}
                GET DIAGNOSTICS v_up = ROW_COUNT;
                IF v_up = v_want THEN
                    EXIT mirrored;
                END IF;
            END IF;
        END IF;
        {upsert}
        GET DIAGNOSTICS v_up = ROW_COUNT;"
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

/// Keys that were inserted, if at all: a COPY may have left rows out.
fn inserted(Parts { keys, source_of_u, .. }: &Parts, mode: usize) -> String {
    format!(
        "IF ${mode} = 4 THEN
            SELECT count(*) INTO v_want FROM (SELECT DISTINCT u.* FROM {keys}) AS u
            WHERE EXISTS ({source_of_u});
            IF v_up = v_want THEN
                EXIT mirrored;
            END IF;
        END IF;"
    )
}

const DECLARATIONS: &str = "#variable_conflict use_column
DECLARE
    v_want int8 := cardinality($1);
    v_up int8;
    v_gone int8;
    v_reason text;
    v_state text;
    v_lost bool;
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
    let (upserts, remove, inserted) =
        (upserts(shape, p, budget), remove(shape, p), inserted(p, mode));
    let mark_lost = mark_lost(shape, &p.given, |i| format!("\"pgsegue u\".k{i}"));
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
    <<mirrored>>
    BEGIN
        {upserts}
        IF v_up = v_want THEN
            EXIT mirrored;
        END IF;
        SELECT count(*) INTO v_want FROM (SELECT DISTINCT u.* FROM {keys}) AS d;
        IF v_up = v_want THEN
            EXIT mirrored;
        END IF;
        {inserted}
        {remove}
        IF ${mode} = 3 THEN
            EXIT mirrored;
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
    EXCEPTION WHEN OTHERS OR assert_failure THEN
        IF ${mode} = 3 THEN
            RAISE;
        END IF;
        v_state := SQLSTATE;
        v_reason := \"left\"(SQLSTATE || ' ' || SQLERRM, 500);
    END;
    IF v_state IS NULL THEN
        {mark_lost}RETURN 0;
    END IF;
    PERFORM set_config('lock_timeout', ${client_timeout}, true);
    {record_failed}
    RETURN CASE WHEN v_state IN ('55P03', '40P01') THEN 2 ELSE 1 END;
END
"
    )
}
