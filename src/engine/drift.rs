//! Changes of a table's definition that were made outside the proxy, while writes are mirrored.
//!
//! A fingerprint of both tables is journaled when a migration is prepared, and compared about once
//! a second: so a change is noticed though this process was down when it was made. First the gate
//! closes; then the shape is read anew, checked, the functions follow it, and a verify has to pass
//! again. Where the tables do not fit any more the migration is blocked: the functions in place
//! go on mirroring, or record the keys of what they cannot.

use super::entry::{Definition, Entry};
use super::runtime::Engine;
use super::worker::Worker;
use super::{Error, Phase, check, install, journal, partitions};
use crate::manifest::Migration;
use crate::pg::Connection;
use crate::routing::{self, Unlooked};
use crate::sql::ident::Ident;
use crate::sql::reason::Reason;
use crate::sql::target::{Target, by_name};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_postgres::GenericClient;

/// How long a look waits for statements that were decided by what was known before.
const JOIN_WAIT: Duration = Duration::from_millis(100);
const JOIN_POLL: Duration = Duration::from_millis(5);

/// Between two looks.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// Both tables: their oids, then a hash of columns and what their types are made of, unique indexes, constraints that reach further,
/// triggers, rules and policies. A table that does not exist is left out. Of partitions and what
/// inherits it has what is their own: what they have from the table comes and goes with them, and
/// a partition that joins is to change nothing but the names.
const FINGERPRINT: &str = "SELECT concat_ws(' ', \
    coalesce(max(c.oid::text) FILTER (WHERE side = 0), '-'), \
    coalesce(max(c.oid::text) FILTER (WHERE side = 1), '-'), \
    md5(coalesce(string_agg(d.definition, E'\\n\\n' ORDER BY side), ''))) \
  FROM (VALUES (0, $1::text, $2::text), (1, $3, $4)) AS named (side, of_schema, of_name) \
  JOIN pg_namespace n ON n.nspname = of_schema \
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = of_name \
  CROSS JOIN LATERAL (WITH RECURSIVE tree (oid) AS (SELECT c.oid UNION SELECT inhrelid FROM pg_inherits i \
      JOIN tree ON i.inhparent = tree.oid) SELECT array_agg(oid) AS oids FROM tree) AS whole \
  CROSS JOIN LATERAL (SELECT concat_ws(E'\\n', c.relkind, c.relrowsecurity, \
    (SELECT string_agg(concat_ws(' ', a.attnum, quote_ident(a.attname), \
        format_type(a.atttypid, a.atttypmod), a.attcollation, a.attnotnull, a.attidentity, \
        a.attgenerated, CASE WHEN a.attgenerated <> '' THEN d.adbin::text END), E'\\n' ORDER BY a.attnum) \
      FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
      WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), \
    (SELECT string_agg(concat_ws(' ', made.of, labels.list, attributes.list), ',' ORDER BY made.of) \
      FROM (SELECT DISTINCT unnest(ARRAY[t.oid, t.typelem, t.typbasetype]) FROM pg_attribute a \
          JOIN pg_type t ON t.oid = a.atttypid WHERE a.attrelid = c.oid AND a.attnum > 0) AS made (of) \
      CROSS JOIN LATERAL (SELECT string_agg(quote_ident(enumlabel), ' ' ORDER BY enumsortorder) \
          FROM pg_enum WHERE enumtypid = made.of) AS labels (list) \
      CROSS JOIN LATERAL (SELECT string_agg(concat_ws(' ', quote_ident(p.attname), p.atttypid), ' ' \
              ORDER BY p.attnum) FROM pg_type t JOIN pg_attribute p ON p.attrelid = t.typrelid \
          WHERE t.oid = made.of AND t.typtype = 'c' AND NOT p.attisdropped) AS attributes (list) \
      WHERE labels.list IS NOT NULL OR attributes.list IS NOT NULL), \
    (SELECT string_agg(DISTINCT i.indkey::text, ',') FROM pg_index i WHERE i.indrelid = c.oid \
      AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL \
      AND i.indexprs IS NULL), \
    (SELECT string_agg(concat_ws(' ', nullif(conrelid, c.oid), quote_ident(conname), contype, condeferrable, \
        confdeltype, confupdtype), ',' ORDER BY conrelid <> c.oid, conrelid, conname) \
      FROM unnest(oids) AS t JOIN pg_constraint ON conrelid = t \
      WHERE conparentid = 0 AND (contype = 'f' OR condeferrable)), \
    (SELECT string_agg(concat_ws(' ', conrelid, quote_ident(conname), nullif(confrelid, c.oid), \
        condeferrable, confdeltype, confupdtype), ',' ORDER BY conrelid, conname) \
      FROM unnest(oids) AS t JOIN pg_constraint ON confrelid = t WHERE conparentid = 0 AND side = 1), \
    (SELECT string_agg(concat_ws(' ', quote_ident(polname), polcmd, polpermissive, polroles::text, \
        md5(concat_ws(' ', polqual, '|', polwithcheck))), ',' ORDER BY polname) \
      FROM pg_policy WHERE polrelid = c.oid), \
    (SELECT string_agg(concat_ws(' ', tgrelid, quote_ident(tgname), tgenabled, tgtype, tgfoid, \
        tgdeferrable, CASE WHEN tgtype & 3 = 3 THEN md5(p.prosrc) END), ',' ORDER BY tgrelid, tgname) \
      FROM unnest(oids) AS t JOIN pg_trigger ON tgrelid = t JOIN pg_proc p ON p.oid = tgfoid \
      WHERE NOT tgisinternal AND tgparentid = 0), \
    (SELECT string_agg(concat_ws(' ', nullif(ev_class, c.oid), quote_ident(rulename), ev_enabled), ',' \
        ORDER BY ev_class <> c.oid, ev_class, rulename) \
      FROM unnest(oids) AS t JOIN pg_rewrite ON ev_class = t)) AS definition) AS d";

/// The fingerprint of both tables now, and of what the functions do: a migration that was started by
/// another version of this program gets the functions of this one as if its tables had changed. Takes no
/// lock on either.
pub(super) async fn fingerprint(
    client: &impl GenericClient,
    migration: &Migration,
) -> Result<String, Error> {
    let Migration { source, shadow, .. } = migration;
    let names = [&source.schema, &source.name, &shadow.schema, &shadow.name].map(|n| n.as_str());
    let [a, b, c, d] = &names;
    let tables: String = client.query_one(FINGERPRINT, &[a, b, c, d]).await?.try_get(0)?;
    let parts = partitions::read(client, source).await?;
    Ok(format!("{tables}.{} {}", install::FUNCTIONS, partitions::word(&parts)))
}

/// Whether two fingerprints are of the same two tables, however they were altered.
fn same_tables(a: &str, b: &str) -> bool {
    a.split(' ').take(2).eq(b.split(' ').take(2))
}

/// Compares with what is known.
fn noticed(entry: &mut Entry, now: &str) -> Noticed {
    match &entry.definition {
        Definition::Unknown => {
            entry.definition = Definition::Known(now.to_owned());
            return Noticed::First;
        }
        Definition::Known(known) if known == now => {}
        Definition::Known(known) if let Some(oids) = partitions::joined(known, now) => {
            return Noticed::Joined(oids);
        }
        Definition::Known(known) => {
            let migration = &entry.declared.migration.name;
            tracing::warn!(migration, "a table's definition has changed");
            entry.definition = Definition::Changed(known.clone());
            entry.gate.close();
            entry.wake.notify_one();
        }
        Definition::Changed(_) => entry.wake.notify_one(),
    }
    Noticed::Nothing
}

/// What a look has found.
enum Noticed {
    /// All is as it was, or a change that the worker knows of.
    Nothing,
    /// Nothing was known: this is it from now on.
    First,
    /// These have become parts of the source.
    Joined(Vec<u32>),
}

/// Waits for statements that were decided by older routes; whether all have been answered.
pub(super) async fn until_reached(routes: &routing::Handle, epoch: u64) -> bool {
    let until = Instant::now() + JOIN_WAIT;
    while !routes.all_reached(epoch) {
        if Instant::now() > until {
            return false;
        }
        tokio::time::sleep(JOIN_POLL).await;
    }
    true
}

impl Engine {
    /// Compares every mirrored migration's tables with what is journaled. The gates close here;
    /// the rest is the worker's.
    pub(super) async fn look_for_drift(&self, control: &Connection) -> Result<(), Error> {
        for migration in self.mirrored() {
            let now = fingerprint(&control.client, &migration).await?;
            match self.with_entry(&migration.name, |entry| noticed(entry, &now)) {
                Some(Noticed::First) => {
                    journal::save_fingerprint(&control.client, &migration.name, &now).await?;
                }
                Some(Noticed::Joined(oids)) => {
                    self.parts_joined(control, &migration, (&now, &oids)).await?;
                }
                Some(Noticed::Nothing) | None => {}
            }
            self.follow_columns(control, &migration.name).await?;
        }
        if self.is_behind_drift() {
            self.publish();
        }
        Ok(())
    }
}

impl Engine {
    /// Where the tables are not as they were, writes are still mirrored, be the migration blocked: what `*`
    /// stands for is what the source has now.
    async fn follow_columns(&self, control: &Connection, name: &str) -> Result<(), Error> {
        let changed = |entry: &mut Entry| match entry.definition {
            Definition::Changed(_) => entry.target.clone(),
            Definition::Unknown | Definition::Known(_) => None,
        };
        let Some(target) = self.with_entry(name, changed).flatten() else { return Ok(()) };
        let sql = "SELECT attname::text FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 \
                   AND NOT attisdropped ORDER BY attnum";
        let rows = control.client.query(sql, &[&target.source_oid]).await?;
        let columns = rows.iter().map(|row| row.try_get::<_, String>(0).map(Ident::new));
        let columns: Vec<Ident> = columns.collect::<Result<_, _>>()?;
        let parts = by_name(&partitions::read(&control.client, &target.source).await?);
        if columns == target.columns && parts == target.parts || columns.is_empty() {
            return Ok(());
        }
        self.with_entry(name, |entry| {
            if entry.target.as_ref().is_some_and(|known| Arc::ptr_eq(known, &target)) {
                let old_shape = Err("the source has other columns than before".to_owned());
                let copy = Err(Reason::CopyColumns);
                let now = Target { columns, parts, old_shape, copy, ..Target::clone(&target) };
                entry.target = Some(Arc::new(now));
            }
        });
        self.publish_anew();
        Ok(())
    }

    /// Something has become a part of the source: its name counts from now on. If it is empty then,
    /// and no statement is in flight that was decided before, nothing was written unseen.
    async fn parts_joined(
        &self,
        control: &Connection,
        migration: &Migration,
        (now, oids): (&str, &[u32]),
    ) -> Result<(), Error> {
        let name = &migration.name;
        let parts = by_name(&partitions::read(&control.client, &migration.source).await?);
        let renamed = self.with_entry(name, |entry| {
            let target = entry.target.as_ref().filter(|t| t.parts != parts)?;
            entry.target = Some(Arc::new(Target { parts, ..Target::clone(target) }));
            Some(())
        });
        if renamed.flatten().is_some() {
            self.publish();
        }
        let epoch = self.routes().load().epoch;
        if !until_reached(self.routes(), epoch).await {
            // The next look goes on.
            self.with_entry(name, |entry| {
                entry.gate.is_still_unlooked(Unlooked::Part);
                entry.gate.close();
            });
            return Ok(());
        }
        let empty = partitions::are_empty(&control.client, oids).await?;
        if empty {
            journal::save_fingerprint(&control.client, name, now).await?;
        }
        self.with_entry(name, |entry| {
            let Definition::Known(known) = &entry.definition else { return };
            entry.definition = match empty {
                true => Definition::Known(now.to_owned()),
                false => Definition::Changed(known.clone()),
            };
            if !empty {
                tracing::warn!(
                    migration = name,
                    "a table that may hold rows has joined the source"
                );
                entry.gate.close();
                entry.wake.notify_one();
            }
        });
        Ok(())
    }
}

impl Worker {
    /// The tables are not as they were. Ends in a phase that verifies again, or blocked.
    pub(super) async fn follow_drift(&mut self, phase: &Phase) -> Result<Duration, Error> {
        self.reset();
        let name = self.name.clone();
        let seen =
            self.engine.with_entry(&name, |e| (e.declared.migration.clone(), e.definition.clone()));
        let Some((migration, before)) = seen else { return Ok(Duration::ZERO) };
        // Before the shape: a change in between is noticed by the next look.
        let now = fingerprint(self.client().await?, &migration).await?;
        let same = before.known().is_none_or(|before| same_tables(before, &now));
        let to = if same { phase.after_drift() } else { phase.after_gap() };
        let shape = match self.read_shape().await {
            Ok(shape) => shape,
            Err(Error::Shape(reason)) => return self.no_fit(phase, to, reason).await,
            Err(error) => return Err(error),
        };
        let findings = check::check(self.client().await?, &migration).await?;
        let blockers: Vec<String> =
            findings.iter().filter(|f| f.is_blocker()).map(ToString::to_string).collect();
        if !blockers.is_empty() {
            return self.no_fit(phase, to, blockers.join("\n")).await;
        }
        if let Err(error) = install::replace(self.client().await?, &shape).await {
            if !error.is_verdict() {
                return Err(error);
            }
            let reason = format!("the functions cannot be installed: {error}");
            return self.no_fit(phase, to, reason).await;
        }
        let follows = super::shape::Shape { follows: true, ..shape };
        let tx = self.client().await?.transaction().await?;
        journal::save_fingerprint(&tx, &name, &now).await?;
        journal::retry_all(&tx, &name).await?;
        let why = "a table's definition has changed; everything is verified again";
        journal::advance(&tx, &name, (phase, &to), journal::ENGINE, why).await?;
        tx.commit().await?;
        tracing::info!(migration = name, from = phase.name(), to = to.name(), why);
        self.engine.with_entry(&name, |entry| {
            entry.target = Some(Arc::new(follows.target()));
            entry.definition = Definition::Known(now);
            entry.enter(to);
        });
        self.engine.publish_anew();
        Ok(Duration::ZERO)
    }

    /// Blocked, to go on in `to`: never where reads could be served without another verify.
    async fn no_fit(
        &mut self,
        phase: &Phase,
        to: Phase,
        reason: String,
    ) -> Result<Duration, Error> {
        let reason = format!("a table's definition was changed: {reason}");
        let blocked = Phase::Blocked { reason: reason.clone(), from: Box::new(to) };
        self.advance(phase, blocked, &reason).await?;
        Ok(Duration::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recreated_table_is_another_one() {
        assert!(same_tables("1 2 abc", "1 2 def"));
        assert!(!same_tables("1 2 abc", "1 3 abc"));
        assert!(!same_tables("1 2 abc", "1 - def"));
    }
}
