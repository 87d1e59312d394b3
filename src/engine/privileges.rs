//! Who may do what with the tables, as far as statements are decided by it.
//!
//! A role may write a source without seeing what it wrote: it may not read the key, or policies hide the
//! row. A mirrored form returns the key, so the server would refuse it where it takes the client's own
//! statement; sessions of such roles are asked, and their writes marked.
//!
//! Looked at about once a second, by a fingerprint: GRANT and CREATE POLICY change no table's
//! definition, and what sessions know of their role is good until the routes change.

use super::entry::Entry;
use super::runtime::Engine;
use super::{Error, journal};
use crate::pg::Connection;
use crate::sql::ident::Ident;
use crate::sql::target::{Part, Privileges, Target};
use std::sync::Arc;
use tokio_postgres::GenericClient;

/// Changes when privileges on these tables, on our functions, or policies do. Not when roles come and go,
/// which some databases have every minute: they have what is granted to others, who are looked at.
const FINGERPRINT: &str = "SELECT concat_ws(' ', $1::oid[]::text, \
    (SELECT md5(string_agg(concat_ws(' ', oid, relowner, relacl, relrowsecurity, \
            relforcerowsecurity), ',' ORDER BY oid)) \
        FROM pg_class WHERE oid = ANY ($1)), \
    (SELECT md5(string_agg(concat_ws(' ', attrelid, attnum, attacl), ',' ORDER BY attrelid, attnum)) \
        FROM pg_attribute WHERE attrelid = ANY ($1) AND attacl IS NOT NULL), \
    (SELECT concat_ws(' ', count(*), sum(hashtext(p.oid || ' ' || p.xmin::text)::int8)) \
        FROM pg_policy p WHERE polrelid = ANY ($1)), \
    (SELECT nspacl FROM pg_namespace WHERE nspname = 'pgsegue'), \
    (SELECT md5(string_agg(concat_ws(' ', p.oid, p.proacl), ',' ORDER BY p.oid)) \
        FROM unnest($2::text[]) AS f JOIN pg_proc p ON p.oid = to_regproc(f)))";

/// Whether all functions of `$2` are there, and can be called by every role that may write a table of
/// `$1`.
const CALLABLE: &str = "SELECT NOT EXISTS (SELECT FROM unnest($2::text[]) AS f \
    WHERE to_regproc(f) IS NULL OR EXISTS (SELECT FROM pg_roles r, unnest($1::oid[]) AS t \
        WHERE (has_table_privilege(r.oid, t, 'DELETE, TRUNCATE') \
            OR has_any_column_privilege(r.oid, t, 'INSERT, UPDATE')) \
        AND NOT (has_schema_privilege(r.oid, 'pgsegue', 'USAGE') \
            AND has_function_privilege(r.oid, to_regproc(f)::oid, 'EXECUTE'))))";

/// The tables of `$1` that some role may write and not read the key columns `$2` of, each with those
/// roles. One whose privileges were never touched is its owner's alone, who may do both; but for the
/// first, which counts as touched.
const WRITERS: &str = "SELECT c.oid, c.oid::regclass::text, \
        string_agg(quote_ident(r.rolname), ', ' ORDER BY r.rolname) \
    FROM pg_class c CROSS JOIN pg_roles r \
    WHERE c.oid = ANY ($1::oid[]) AND NOT r.rolsuper AND r.rolname NOT LIKE 'pg\\_%' \
    AND (c.oid = ($1::oid[])[1] OR c.relacl IS NOT NULL OR EXISTS (SELECT FROM pg_attribute a \
        WHERE a.attrelid = c.oid AND a.attacl IS NOT NULL)) \
    AND (has_table_privilege(r.oid, c.oid, 'DELETE') \
        OR has_any_column_privilege(r.oid, c.oid, 'INSERT') \
        OR has_any_column_privilege(r.oid, c.oid, 'UPDATE')) \
    AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = ANY ($2::text[]) \
        AND NOT a.attisdropped AND NOT has_column_privilege(r.oid, c.oid, a.attnum, 'SELECT')) \
    GROUP BY c.oid ORDER BY c.oid <> ($1::oid[])[1], 2";

/// The tables of `$1` whose policies may let a role write a row that they do not let it read: not where
/// what each policy for writes asks for is what one for reads asks for, of the same roles or of all, and
/// what a restrictive one for reads asks for is asked for by one for each kind of write.
const HIDING: &str = "WITH p AS (SELECT polrelid, polpermissive AS permissive, polcmd AS cmd, \
        (SELECT array_agg(r ORDER BY r) FROM unnest(polroles) r) AS roles, \
        pg_get_expr(polqual, polrelid) AS qual, coalesce(pg_get_expr(polwithcheck, polrelid), \
            pg_get_expr(polqual, polrelid)) AS with_check \
        FROM pg_policy WHERE polrelid = ANY ($1::oid[])) \
    SELECT c.oid FROM pg_class c WHERE c.oid = ANY ($1) AND c.relrowsecurity AND ( \
        EXISTS (SELECT FROM p w CROSS JOIN LATERAL (VALUES (w.qual), (w.with_check)) AS e (said) \
            WHERE w.polrelid = c.oid AND w.permissive AND w.cmd <> 'r' AND e.said IS NOT NULL \
            AND NOT EXISTS (SELECT FROM p s WHERE s.polrelid = c.oid AND s.permissive \
                AND s.cmd IN ('r', '*') AND (s.roles = w.roles OR s.roles = '{0}') \
                AND s.qual = e.said)) \
        OR EXISTS (SELECT FROM p s CROSS JOIN (VALUES ('a'), ('w'), ('d')) AS v (cmd) \
            WHERE s.polrelid = c.oid AND NOT s.permissive AND s.cmd IN ('r', '*') \
            AND NOT EXISTS (SELECT FROM p w WHERE w.polrelid = c.oid AND NOT w.permissive \
                AND w.cmd IN ('*', v.cmd::\"char\") AND (w.roles = s.roles OR w.roles = '{0}') \
                AND s.qual = CASE v.cmd WHEN 'd' THEN w.qual ELSE w.with_check END))) \
    ORDER BY c.oid";

/// A table, and who may write it and not read its key.
pub(super) struct Writers {
    pub(super) table: u32,
    /// As SQL spells it.
    pub(super) spelled: String,
    /// The roles, quoted.
    pub(super) roles: String,
}

/// The tables, the source first, that some role may write and not read the key of.
pub(super) async fn writers(
    client: &impl GenericClient,
    tables: &[u32],
    key: impl Iterator<Item = &Ident>,
) -> Result<Vec<Writers>, Error> {
    let key: Vec<&str> = key.map(Ident::as_str).collect();
    let rows = client.query(WRITERS, &[&tables, &key]).await?;
    let writers = |row: &tokio_postgres::Row| {
        Ok(Writers { table: row.try_get(0)?, spelled: row.try_get(1)?, roles: row.try_get(2)? })
    };
    rows.iter().map(writers).collect()
}

/// The tables whose policies may hide from a role what it wrote.
async fn hiding(client: &impl GenericClient, tables: &[u32]) -> Result<Vec<u32>, Error> {
    let rows = client.query(HIDING, &[&tables]).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

async fn fingerprint(client: &impl GenericClient, target: &Target) -> Result<String, Error> {
    let mut tables = tables(target.source_oid, target.parts.values().flatten());
    tables.push(target.shadow_oid);
    let functions: Vec<&str> = target.functions().collect();
    Ok(client.query_one(FINGERPRINT, &[&tables, &functions]).await?.try_get(0)?)
}

/// Reads it for a migration of which everything else is known.
pub(super) async fn read(
    client: &impl GenericClient,
    target: &Target,
) -> Result<Privileges, Error> {
    let tables = tables(target.source_oid, target.parts.values().flatten());
    // Before the rest: a change in between is noticed by the next look.
    let fingerprint = fingerprint(client, target).await?;
    let writers = writers(client, &tables, target.key.iter()).await?;
    let hiding = hiding(client, &tables).await?;
    let keyless = writers.iter().map(|writers| writers.table).collect();
    let functions: Vec<&str> = target.functions().collect();
    let callable = client.query_one(CALLABLE, &[&tables, &functions]).await?.try_get(0)?;
    Ok(Privileges { keyless, hiding, callable, fingerprint })
}

/// A source and what else holds its rows.
pub(super) fn tables<'a>(source: u32, parts: impl Iterator<Item = &'a Part>) -> Vec<u32> {
    let mut parts: Vec<u32> = parts.map(|part| part.oid).collect();
    parts.sort_unstable();
    [vec![source], parts].concat()
}

impl Engine {
    /// Looks whether others may read or write the tables than before: sessions ask anew then. Where a
    /// mirrored form could not call what it calls, writes go to the source alone from here on, as when
    /// dual write is off, rather than fail; the worker puts the functions back and begins anew.
    pub(super) async fn look_for_privileges(&self, control: &Connection) -> Result<(), Error> {
        let mut lost = Vec::new();
        let mut changed = false;
        for migration in self.mirrored() {
            let target = self.with_entry(&migration.name, |entry| entry.target.clone());
            let Some(target) = target.flatten() else { continue };
            let now = fingerprint(&control.client, &target).await?;
            let privileges = match now == target.privileges.fingerprint {
                true => target.privileges.clone(),
                false => read(&control.client, &target).await?,
            };
            let put = |entry: &mut Entry| {
                // A worker may have put another one there meanwhile.
                let known = entry.target.as_ref().filter(|known| **known == target)?;
                let same = known.privileges == privileges;
                let gap = !privileges.callable && !entry.gap;
                if gap {
                    entry.gap = true;
                    entry.gate.close();
                    entry.wake.notify_one();
                }
                entry.target = Some(Arc::new(Target { privileges, ..Target::clone(known) }));
                (!same || gap).then_some(gap)
            };
            if let Some(gap) = self.with_entry(&migration.name, put).flatten() {
                changed = true;
                lost.extend(gap.then_some(migration.name));
            }
        }
        if changed {
            self.publish();
        }
        for name in &lost {
            tracing::error!(
                migration = name,
                "its functions are gone, or roles that write may not call them: writes are not mirrored \
                 until they are back; everything is copied and verified again then"
            );
        }
        journal::save_gaps(&control.client, &lost).await
    }
}
