//! What statements are understood by before a migration is started: the tables as they are. The
//! shadow may be missing or unfit yet; then reads have nothing to go to, and writes are understood
//! all the same. Nothing is installed for it.

use super::shape::{self, KeyPair, Relation, Shape};
use super::triggers::{KeyChanges, key_changes};
use super::{Error, counted, partitions, runtime::Engine};
use crate::manifest::Migration;
use crate::pg::Connection;
use crate::sql::target::{Part, Privileges, Target};
use std::sync::Arc;
use tokio_postgres::GenericClient;

/// What is known of the tables of a migration.
#[derive(Debug, Clone)]
pub enum Found {
    /// They fit.
    Fit(Arc<Target>),
    /// The source is there; the old shape of the target says what is missing.
    SourceOnly(Arc<Target>, String),
    /// Not even that.
    Nothing(String),
}

/// Looks at the tables.
///
/// # Errors
/// When the database fails.
pub async fn look(client: &impl GenericClient, migration: &Migration) -> Result<Found, Error> {
    let why = match shape::read(client, migration).await {
        Ok(Some(shape)) => return Ok(Found::Fit(Arc::new(shape.target()))),
        Ok(None) => None,
        Err(Error::Shape(reason)) => Some(reason),
        Err(error) => return Err(error),
    };
    let Some(source) = shape::relation(client, &migration.source).await? else {
        return Ok(Found::Nothing(format!("the source {} does not exist", migration.source)));
    };
    let why = why.unwrap_or_else(|| format!("the shadow {} does not exist yet", migration.shadow));
    let version = shape::server_version(client).await?;
    let parts = partitions::read(client, &migration.source).await?;
    let key: Vec<_> = migration.key.iter().filter_map(|name| source.column(name)).collect();
    let key_changes = key_changes(client, (source.oid, &parts), &key).await?;
    let counted = counted::read(client, &source, &migration.key).await?;
    let target = of_source(migration, (source, parts), (key_changes, counted), version, &why);
    Ok(Found::SourceOnly(Arc::new(target), why))
}

/// A target that nothing is ever sent to.
fn of_source(
    migration: &Migration,
    (source, parts): (Relation, Vec<Part>),
    (key_changes, counted): (KeyChanges, Option<counted::Counting>),
    version: u32,
    why: &str,
) -> Target {
    let key = migration
        .key
        .iter()
        .filter_map(|name| source.column(name))
        .map(|column| KeyPair { source: column.clone(), shadow: column.clone() });
    let shape = Shape {
        migration: migration.clone(),
        key: key.collect(),
        shadow: Relation {
            name: migration.shadow.clone(),
            oid: 0,
            kind: source.kind.clone(),
            has_triggers: false,
            columns: Vec::new(),
        },
        source,
        mapped: Vec::new(),
        parts,
        key_changes,
        counted,
        // Nothing is mirrored of it.
        privileges: Privileges::default(),
        follows: false,
        server_version: version,
    };
    Target { old_shape: Err(why.to_owned()), ..shape.target() }
}

impl Engine {
    /// Looks at the tables of every migration that is only observed, or has no target. Tables that
    /// do not exist (or do not fit) leave a started one out of the routes; it is tried again.
    pub(super) async fn find_targets(&self) -> Result<(), Error> {
        let wanted = self.without_target();
        if wanted.is_empty() {
            return Ok(());
        }
        let Some(control) = self.control().await else { return Ok(()) };
        let mut changed = false;
        for migration in wanted {
            changed |= self.find_target(&control, &migration).await?;
        }
        if changed {
            // No statement is to be decided by the tables before it is known what else writes them.
            self.look_for_ways(&control).await?;
            self.publish();
        }
        Ok(())
    }

    /// Whether the routes change.
    async fn find_target(
        &self,
        control: &Connection,
        migration: &Migration,
    ) -> Result<bool, Error> {
        let name = &migration.name;
        let found = look(&control.client, migration).await?;
        let set = |target: Option<Arc<Target>>, observed: Option<Arc<Target>>| {
            self.with_entry(name, |entry| {
                let same = (&entry.target, &entry.observed) == (&target, &observed);
                // A worker that has started it meanwhile knows better.
                let late = entry.phase.is_bound() && entry.target.is_some();
                if same || late || entry.declared.migration != *migration {
                    return false;
                }
                (entry.target, entry.observed) = (target, observed);
                true
            })
        };
        let changed = match found {
            Found::Fit(target) => set(Some(target), None),
            Found::SourceOnly(target, why) => {
                self.not_routed(name, &why);
                set(None, Some(target))
            }
            Found::Nothing(why) => {
                self.not_routed(name, &why);
                set(None, None)
            }
        };
        Ok(changed.unwrap_or(false))
    }
}
