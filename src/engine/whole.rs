//! The SQL of the step behind what takes away more than it names (DROP … CASCADE, DROP OWNED): text, as in
//! `sync`.
//!
//! `whole_…` fails where the calling transaction has taken away a table of the migration, or a column of
//! one: so the statement fails as one that names them. Any role may call it at any time: it changes
//! nothing.
//!
//! * That it was this transaction is seen by the lock that it holds on what it has dropped or altered, to
//!   its end, whether the table is there still or not; and a dropped column by who has written its row of the
//!   catalog. Savepoints have later numbers than their transaction.
//! * Where it has taken away a partition of the source, with its rows, that is recorded: whether it has is known
//!   only as far as it has taken away a table, and holds the lock by which a partitioned table loses a partition.
//! * What another transaction has done is the engine's to notice.

use super::shape::Shape;
use super::sync::Function;
use super::truncate::tree;
use crate::sql::ident::literal;

/// `"pgsegue"."whole_…"`.
pub(crate) fn whole_name(migration: &str) -> String {
    format!("\"pgsegue\".\"whole_{migration}\"")
}

/// The function that looks whether both tables are whole.
pub fn whole_sql(shape: &Shape) -> String {
    let name = whole_name(&shape.migration.name);
    let oids = format!("{}, {}", shape.source.oid, shape.shadow.oid);
    let message = literal(&format!("\"{}\" is being migrated", shape.source.name));
    let hint = literal(&format!(
        "The statement takes away one of its tables, or a column. Finish the migration first, or abort it: \
         pgsegue migration abort {}.",
        shape.migration.name
    ));
    let migration = literal(&shape.migration.name);
    let tree = tree(&shape.source.name.quoted());
    let locked =
        "pg_locks AS l WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.granted
            AND l.mode = 'AccessExclusiveLock'
            AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let body = format!(
        "BEGIN
    IF EXISTS (
        SELECT FROM {locked} AND l.relation IN ({oids})
            AND (NOT EXISTS (SELECT FROM pg_class AS c WHERE c.oid = l.relation)
                OR EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = l.relation AND a.attnum > 0
                    AND a.attisdropped AND age(a.xmin) <= age(pg_current_xact_id_if_assigned()::xid)))
    ) THEN
        RAISE EXCEPTION USING ERRCODE = 'object_in_use', MESSAGE = {message}, HINT = {hint};
    END IF;
    IF EXISTS (
        WITH RECURSIVE tree (relid) AS ({tree})
        SELECT FROM {locked} AND EXISTS (SELECT FROM tree JOIN pg_class AS c ON c.oid = tree.relid
            WHERE c.relkind = 'p' AND c.oid = l.relation)
    ) AND EXISTS (
        SELECT FROM {locked} AND NOT EXISTS (SELECT FROM pg_class AS c WHERE c.oid = l.relation)
    ) THEN
        INSERT INTO pgsegue.dirty_keys (migration, reason)
        VALUES ({migration}, 'a partition may have been dropped');
        RETURN 1;
    END IF;
    RETURN 0;
END
"
    );
    Function {
        name: &name,
        parameters: ("", ""),
        returns: "int4",
        settings: "SET search_path = pg_catalog, pg_temp",
        body: &body,
        comment: "Behind what takes away more than it names: fails if that is a table of the migration, or a \
                  column of one; 0: nothing of it; 1: recorded, since it may be a partition",
    }
    .sql()
}
