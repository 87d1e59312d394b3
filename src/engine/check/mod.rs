//! Preflight against the real database: everything in the catalog that would let a write go by
//! unseen, a sync fail, or a read differ.

mod finding;

pub use finding::{Finding, Severity};

use super::{Error, shape};
use crate::manifest::Migration;
use tokio_postgres::Client;

/// Checks one migration. Changes nothing.
///
/// # Errors
/// When the database fails; what is wrong with the migration is a finding.
pub async fn check(client: &Client, migration: &Migration) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    match shape::read(client, migration).await {
        Ok(_) => {}
        Err(Error::Shape(reason)) => findings.push(Finding::blocker("shape", reason, "")),
        Err(error) => return Err(error),
    }
    Ok(findings)
}
