//! The SQL of the step behind a TRUNCATE: text, as in `sync`.
//!
//! `truncated_…` empties the shadow if the source is empty, and records that any row may be stale
//! if it cannot. Any role may call it at any time, since it can only make shadow = source:
//!
//! * It does nothing unless the calling transaction holds the lock that TRUNCATE takes on all that it
//!   empties, and keeps to its end. So it can be called behind a TRUNCATE … CASCADE for every
//!   migration: those that foreign keys did not lead to are left alone.
//! * What it asks is whether the files of the source are empty, not whether a snapshot sees no row:
//!   TRUNCATE is not undone for old snapshots, a DELETE is.
//! * It looks with the shadow locked. Whoever writes the source has to get at the shadow afterwards:
//!   a row that came before the look is seen, one that comes after it waits, and is mirrored then.
//!
//! Rows that are copied meanwhile do not come back. A chunk of the backfill holds locks on both
//! tables from its first look at the source to its commit. If it was first, the client's TRUNCATE waits
//! for it, and empties what it has brought. If TRUNCATE was first, the chunk waits, and then reads the
//! new files of the source, which have no row for any snapshot, however old. If they meet half way (the
//! chunk has the shadow and waits for the source), this step gives up after the lock budget, before
//! the server looks for a deadlock, and records.

use super::shape::Shape;
use super::sync::{Function, settings};
use crate::pg;
use crate::sql::ident::literal;

/// `"pgsegue"."truncated_…"`.
pub(crate) fn truncated_name(migration: &str) -> String {
    format!("\"pgsegue\".\"truncated_{migration}\"")
}

/// A table with all that inherits from it, as `tree (relid)`.
pub(super) fn tree(table: &str) -> String {
    let table = literal(table);
    format!(
        "SELECT {table}::regclass::oid
            UNION SELECT i.inhrelid FROM pg_inherits AS i JOIN tree ON i.inhparent = tree.relid"
    )
}

/// The function that follows a TRUNCATE.
pub fn truncated_sql(shape: &Shape) -> String {
    let name = truncated_name(&shape.migration.name);
    let migration = literal(&shape.migration.name);
    let budget = u64::try_from(shape.migration.lock_budget.as_millis()).unwrap_or(1).max(1);
    let settings = settings(pg::PINNED.iter());
    let (source, shadow) = (shape.source.name.quoted(), shape.shadow.name.quoted());
    let both = format!(
        "SELECT t::regclass::oid FROM unnest(ARRAY[{}, {}]) AS t
            UNION SELECT i.inhrelid FROM pg_inherits AS i JOIN tree ON i.inhparent = tree.relid",
        literal(&source),
        literal(&shadow)
    );
    let source = tree(&source);
    let body = format!(
        "DECLARE
    v_reason text := 'TRUNCATE: recorded only';
    v_state text := '';
BEGIN
    -- A block with EXCEPTION is a subtransaction, which cannot begin everywhere.
    IF $1 < 2 THEN
    BEGIN
        IF NOT EXISTS (
            WITH RECURSIVE tree (relid) AS ({both})
            SELECT FROM pg_locks AS l JOIN tree ON l.relation = tree.relid
            WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.granted
                AND l.mode = 'AccessExclusiveLock'
                AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        ) THEN
            RETURN 0;
        END IF;
        LOCK TABLE {shadow} IN ACCESS EXCLUSIVE MODE;
        IF EXISTS (
            WITH RECURSIVE tree (relid) AS ({source})
            SELECT FROM tree JOIN pg_class AS c ON c.oid = tree.relid
            WHERE c.relkind = 'f' OR pg_relation_size(c.oid) > 0
        ) THEN
            v_reason := 'TRUNCATE, but not of the whole source';
        ELSE
            TRUNCATE {shadow};
            RETURN 0;
        END IF;
    EXCEPTION WHEN OTHERS OR assert_failure THEN
        v_state := SQLSTATE;
        v_reason := \"left\"('TRUNCATE: ' || SQLSTATE || ' ' || SQLERRM, 500);
    END;
    END IF;
    PERFORM set_config('lock_timeout', '0', true);
    INSERT INTO pgsegue.dirty_keys (migration, reason) VALUES ({migration}, v_reason);
    RETURN CASE WHEN v_state IN ('55P03', '40P01') THEN 2 ELSE 1 END;
END
"
    );
    Function {
        name: &name,
        parameters: ("mode int4", "int4"),
        returns: "int4",
        settings: &format!("{settings}\nSET lock_timeout = '{budget}ms'"),
        body: &body,
        comment: "Behind a TRUNCATE: empties the shadow if the source is empty. 0: in step; 1: recorded that \
                  any row may be stale; 2: so because of a lock",
    }
    .sql()
}
