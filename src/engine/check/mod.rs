//! Preflight against the real database: everything in the catalog that would let a write go by
//! unseen, a sync fail, or a read differ. Changes nothing; what it creates to prove something is
//! temporary and rolled back.

mod access;
mod finding;
mod mappings;
mod rows;
mod tables;
mod writers;

pub use finding::{Finding, Severity};

use super::Error;
use super::shape::{self, Shape};
use crate::manifest::Migration;
use crate::pg;
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

/// What the groups of checks look at.
struct Subject<'a> {
    client: &'a Client,
    migration: &'a Migration,
    shape: &'a Shape,
}

/// Checks one migration. Pins the session's settings as those of the engine.
///
/// # Errors
/// When the database fails; what is wrong with the migration is a finding.
pub async fn check(client: &Client, migration: &Migration) -> Result<Vec<Finding>, Error> {
    client.batch_execute(&pg::pin_sql()).await?;
    let mut findings = tables::existence(client, migration).await?;
    if findings.is_empty() {
        match shape::read(client, migration).await {
            Ok(Some(shape)) => {
                let subject = Subject { client, migration, shape: &shape };
                findings.extend(tables::check(&subject).await?);
                findings.extend(mappings::check(&subject).await?);
                // With a mapping that does not work, no row can be looked at.
                if !findings.iter().any(Finding::is_blocker) {
                    findings.extend(rows::check(&subject).await?);
                }
                findings.extend(writers::check(&subject).await?);
                findings.extend(access::check(&subject).await?);
            }
            Ok(None) => {}
            Err(Error::Shape(reason)) => findings.push(Finding::blocker(
                format!("declaration {}", migration.name),
                reason,
                "correct the declaration in the config file",
            )),
            Err(error) => return Err(error),
        }
    }
    for finding in &mut findings {
        if migration.accepted.contains(&finding.id) {
            finding.severity = Severity::Info;
        }
    }
    Ok(findings)
}

impl Subject<'_> {
    /// The rows of a catalog query, each as its text columns.
    async fn rows(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Vec<String>>, Error> {
        let rows = self.client.query(sql, parameters).await?;
        rows.iter().map(|row| (0..row.len()).map(|i| Ok(row.try_get(i)?)).collect()).collect()
    }

    /// One finding per row of a query whose first column names the object.
    async fn each(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
        finding: impl Fn(&str, &str) -> Finding,
    ) -> Result<Vec<Finding>, Error> {
        let rows = self.rows(sql, parameters).await?;
        let text = |row: &[String], i: usize| row.get(i).cloned().unwrap_or_default();
        Ok(rows.iter().map(|row| finding(&text(row, 0), &text(row, 1))).collect())
    }

    async fn holds(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<bool, Error> {
        Ok(self.client.query_one(sql, parameters).await?.try_get(0)?)
    }
}
