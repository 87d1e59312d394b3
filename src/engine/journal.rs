//! The journal: what is durable about a migration, and the audit trail. Every change of phase is
//! a compare-and-set, so that a process that lost the engine's lock cannot overwrite its
//! successor's progress.

use super::{Declared, Error, Phase};
use crate::manifest::{DualWrite, Levers, Migration, Percent};
use serde_json::{Value, json};
use tokio_postgres::{GenericClient, Row};

/// One migration as the journal has it.
#[derive(Debug, Clone)]
pub(crate) struct Journaled {
    pub(crate) name: String,
    pub(crate) definition: Value,
    pub(crate) phase: Phase,
    pub(crate) gap: bool,
    pub(crate) control: ControlLevers,
    pub(crate) verified: bool,
    pub(crate) reads_blocked: Option<String>,
    pub(crate) fingerprint: Option<String>,
}

/// The levers of the control side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ControlLevers {
    pub(crate) reads: Percent,
    pub(crate) dark_reads: Percent,
    pub(crate) dual_write: DualWrite,
}

impl ControlLevers {
    /// What a migration starts with: the file alone decides.
    pub(crate) const OPEN: Self =
        Self { reads: Percent::FULL, dark_reads: Percent::FULL, dual_write: DualWrite::On };
}

/// A line of the audit trail, to be written.
#[derive(Debug)]
pub(crate) struct NewEvent<'a> {
    pub(crate) migration: &'a str,
    pub(crate) who: &'a str,
    pub(crate) what: &'a str,
    pub(crate) from: &'a str,
    pub(crate) to: &'a str,
    pub(crate) why: &'a str,
}

/// Who the engine signs as.
pub(crate) const ENGINE: &str = "engine";
/// Who a change of the file is signed as.
pub(crate) const FILE: &str = "config file";

/// The part of a declaration that a started migration is bound to.
pub(crate) fn definition(migration: &Migration) -> Value {
    let pairs = |of: &[(crate::sql::ident::Ident, String)]| -> Vec<Value> {
        of.iter().map(|(name, expression)| json!([name.as_str(), expression])).collect()
    };
    json!({
        "source": migration.source.quoted(),
        "shadow": migration.shadow.quoted(),
        "key": migration.key.iter().map(crate::sql::ident::Ident::as_str).collect::<Vec<_>>(),
        "columns": pairs(&migration.columns),
        "reverse": pairs(&migration.reverse),
        "lock_budget_ms": u64::try_from(migration.lock_budget.as_millis()).unwrap_or(u64::MAX),
    })
}

/// Which part of two definitions differs.
pub(crate) fn difference(journaled: &Value, declared: &Value) -> Option<String> {
    let object = declared.as_object()?;
    object
        .iter()
        .find(|(part, value)| journaled.get(part) != Some(value))
        .map(|(part, _)| part.clone())
}

/// Every migration in the journal.
pub(crate) async fn load(client: &impl GenericClient) -> Result<Vec<Journaled>, Error> {
    let rows = client
        .query(
            "SELECT name, definition, phase, gap, reads, dark_reads, dual_write, \
             verified_at IS NOT NULL, reads_blocked, fingerprint FROM pgsegue.migrations ORDER BY name",
            &[],
        )
        .await?;
    rows.iter().map(journaled).collect()
}

fn journaled(row: &Row) -> Result<Journaled, Error> {
    let name: String = row.try_get(0)?;
    let phase: Value = row.try_get(2)?;
    let phase = serde_json::from_value(phase)
        .map_err(|error| Error::Journal { name: name.clone(), reason: error.to_string() })?;
    let on: bool = row.try_get(6)?;
    Ok(Journaled {
        definition: row.try_get(1)?,
        phase,
        gap: row.try_get(3)?,
        control: ControlLevers {
            reads: percent(row.try_get(4)?),
            dark_reads: percent(row.try_get(5)?),
            dual_write: if on { DualWrite::On } else { DualWrite::Off },
        },
        verified: row.try_get(7)?,
        reads_blocked: row.try_get(8)?,
        fingerprint: row.try_get(9)?,
        name,
    })
}

/// A share as the table has it; what is no share is none.
pub(crate) fn percent(value: f64) -> Percent {
    Percent::new(value).unwrap_or(Percent::ZERO)
}

/// Puts a declaration where the control side sees it. Binds nothing that has been started.
pub(crate) async fn declare(client: &impl GenericClient, declared: &Declared) -> Result<(), Error> {
    let Levers { dual_write, reads, dark_reads, .. } = &declared.levers;
    client
        .execute(
            "INSERT INTO pgsegue.migrations AS m (name, definition, file_reads, file_dark_reads, \
             file_dual_write) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (name) DO UPDATE SET \
             declared = true, file_reads = $3, file_dark_reads = $4, file_dual_write = $5, \
             definition = CASE WHEN m.phase->>'phase' IN ('observe', 'aborted') THEN $2 \
             ELSE m.definition END",
            &[
                &declared.migration.name,
                &definition(&declared.migration),
                &reads.as_f64(),
                &dark_reads.as_f64(),
                &(*dual_write == DualWrite::On),
            ],
        )
        .await?;
    Ok(())
}

/// Marks every migration that is not in the list as not declared.
pub(crate) async fn undeclare_others(
    client: &impl GenericClient,
    names: &[String],
) -> Result<(), Error> {
    client
        .execute(
            "UPDATE pgsegue.migrations SET declared = false WHERE declared AND name <> ALL ($1)",
            &[&names],
        )
        .await?;
    Ok(())
}

/// Remembers that migrations are not mirrored though they were: they need a barrier again.
pub(crate) async fn save_gaps(client: &impl GenericClient, names: &[String]) -> Result<(), Error> {
    if !names.is_empty() {
        client
            .execute("UPDATE pgsegue.migrations SET gap = true WHERE name = ANY ($1)", &[&names])
            .await?;
    }
    Ok(())
}

/// Remembers how both tables were defined when the functions were installed.
pub(crate) async fn save_fingerprint(
    client: &impl GenericClient,
    name: &str,
    fingerprint: &str,
) -> Result<(), Error> {
    let sql = "UPDATE pgsegue.migrations SET fingerprint = $2 WHERE name = $1";
    client.execute(sql, &[&name, &fingerprint]).await?;
    Ok(())
}

/// Has keys that repair put off tried again at once.
pub(crate) async fn retry_all(client: &impl GenericClient, name: &str) -> Result<(), Error> {
    let sql = "UPDATE pgsegue.dirty_keys SET retry_at = NULL, attempts = 0 \
               WHERE migration = $1 AND attempts > 0";
    client.execute(sql, &[&name]).await?;
    Ok(())
}

/// Writes a line of the audit trail.
pub(crate) async fn event(client: &impl GenericClient, event: &NewEvent<'_>) -> Result<(), Error> {
    client
        .execute(
            "INSERT INTO pgsegue.events (migration, who, what, value_before, value_after, why) \
             VALUES ($1, $2, $3, $4, $5, $6)",
            &[&event.migration, &event.who, &event.what, &event.from, &event.to, &event.why],
        )
        .await?;
    Ok(())
}

/// Moves a migration from one phase to another, with an event when the name changes.
///
/// # Errors
/// `Error::Overtaken` when it is not in `from` any more.
pub(crate) async fn advance(
    client: &impl GenericClient,
    name: &str,
    (from, to): (&Phase, &Phase),
    who: &str,
    why: &str,
) -> Result<(), Error> {
    let moved = client
        .execute(
            "UPDATE pgsegue.migrations SET phase = $3 WHERE name = $1 AND phase = $2",
            &[&name, &as_json(name, from)?, &as_json(name, to)?],
        )
        .await?;
    if moved == 0 {
        return Err(Error::Overtaken { name: name.to_owned() });
    }
    if from.name() != to.name() {
        let (from, to) = (from.name(), to.name());
        event(client, &NewEvent { migration: name, who, what: "phase", from, to, why }).await?;
    }
    Ok(())
}

fn as_json(name: &str, phase: &Phase) -> Result<Value, Error> {
    serde_json::to_value(phase)
        .map_err(|error| Error::Journal { name: name.to_owned(), reason: error.to_string() })
}
