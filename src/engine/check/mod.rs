//! Preflight: what the catalog says about a migration before it is started.

use super::Error;
use crate::manifest::Migration;
use serde::Serialize;

/// One thing that is in the way, or that an operator should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Short and stable: what `accepted` in the config file names.
    pub id: String,
    /// Whether it stops the migration.
    pub severity: Severity,
    /// What was found, with names.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

/// Whether a finding stops the migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The migration cannot be started.
    Blocker,
    /// It works, less well.
    Warning,
    /// Worth knowing, or accepted by the SRE.
    Info,
}

impl Finding {
    /// Whether it keeps the migration from starting.
    pub fn is_blocker(&self) -> bool {
        self.severity == Severity::Blocker
    }
}

/// Looks at the real database.
///
/// # Errors
/// When the database fails.
pub async fn check(
    _client: &tokio_postgres::Client,
    _migration: &Migration,
) -> Result<Vec<Finding>, Error> {
    Ok(Vec::new())
}
