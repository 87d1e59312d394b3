//! Preflight against the real database: everything in the catalog and in the rows that would let a
//! write go by unseen, a sync fail, or a read differ. Changes nothing and locks nothing against
//! writers: the catalog is read in one read-only snapshot, rows in read-only statements that are
//! bounded in time; what is created to prove something is temporary and rolled back.

mod access;
mod effort;
mod family;
mod finding;
mod kind;
mod mappings;
mod policies;
mod refused;
mod rows;
mod scan;
mod server;
mod settings;
mod size;
mod tables;
mod unique;
mod writers;

pub use effort::{Effort, Extent, Progress};
pub use finding::{Finding, Severity, accept_line};
pub use kind::Kind;
pub use server::leads_elsewhere;

use super::Error;
use super::shape::{self, Shape};
use crate::manifest::Migration;
use crate::pg;
use std::collections::BTreeMap;
use std::time::Instant;
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

/// Names that one finding lists.
const NAMES_MAX: usize = 10;

/// What the groups of checks look at.
struct Subject<'a> {
    client: &'a Client,
    migration: &'a Migration,
    shape: &'a Shape,
    effort: &'a Effort,
    progress: &'a (dyn Fn(Progress<'_>) + Sync),
    started: Instant,
    /// A prefix that no column of the two tables has.
    own: &'a str,
}

/// Checks one migration as the engine does before it starts one: bounded in time.
///
/// # Errors
/// When the database fails; what is wrong with the migration is a finding.
pub async fn check(client: &Client, migration: &Migration) -> Result<Vec<Finding>, Error> {
    check_with(client, migration, &Effort::default(), &|_| ()).await
}

/// The same with a chosen effort; `progress` is told where a full look is. Pins the session's
/// settings as those of the engine.
///
/// # Errors
/// When the database fails; what is wrong with the migration is a finding.
pub async fn check_with(
    client: &Client,
    migration: &Migration,
    effort: &Effort,
    progress: &(dyn Fn(Progress<'_>) + Sync),
) -> Result<Vec<Finding>, Error> {
    // The catalog is small, whatever the planner fears: compiling takes longer than the looks.
    client.batch_execute(&format!("{}; SET jit = off", pg::pin_sql())).await?;
    let looked = Box::pin(all(client, migration, effort, progress)).await;
    // However it ended, no transaction is left open, and the settings are the engine's again.
    let restored = client.batch_execute(&format!("ROLLBACK; RESET jit; {}", pg::pin_sql())).await;
    let mut findings = looked?;
    restored?;
    accept(migration, &mut findings);
    findings.sort_by_key(|finding| finding.severity);
    drop_once(&mut findings);
    Ok(findings)
}

/// What two findings would drop is dropped by the first: the statement of the second would fail.
fn drop_once(findings: &mut [Finding]) {
    let mut dropped: BTreeMap<String, String> = BTreeMap::new();
    for finding in findings {
        let (id, mut before) = (&finding.id, None);
        finding.sql.retain(|statement| {
            if !statement.contains("DROP ") {
                return true;
            }
            // Names are quoted everywhere, or where they have to be.
            let words = statement.replace('"', "");
            before = dropped.get(&words).cloned();
            dropped.entry(words).or_insert_with(|| id.clone());
            before.is_none()
        });
        if let Some(before) = before {
            finding.remedy.push_str(&format!("; the statement is that of: {before}"));
        }
    }
}

/// What the SRE accepts is for information only; what there is nothing of is said.
fn accept(migration: &Migration, findings: &mut Vec<Finding>) {
    for finding in findings.iter_mut() {
        if migration.accepted.contains(&finding.id) {
            finding.severity = Severity::Info;
            finding.accepted = true;
        }
    }
    let stale: Vec<Finding> = migration
        .accepted
        .iter()
        .filter(|id| findings.iter().all(|finding| finding.id != **id))
        .map(|id| {
            let message = format!("accepted names {id}, and nothing of that id is found");
            Finding::info(Kind::Accepted, id, message, "remove it from accepted")
        })
        .collect();
    findings.extend(stale);
}

async fn all(
    client: &Client,
    migration: &Migration,
    effort: &Effort,
    progress: &(dyn Fn(Progress<'_>) + Sync),
) -> Result<Vec<Finding>, Error> {
    let standby = server::standby(client).await?;
    if !standby.is_empty() {
        return Ok(standby);
    }
    let catalog = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET LOCAL statement_timeout = {}",
        effort.catalog.as_millis()
    );
    client.batch_execute(&catalog).await?;
    let mut findings = tables::existence(client, migration).await?;
    if !findings.is_empty() {
        return Ok(findings);
    }
    let shape = match shape::read(client, migration).await {
        Ok(Some(shape)) => shape,
        Ok(None) => return Ok(findings),
        Err(Error::Shape(reason)) => {
            let remedy = "correct the declaration in the config file";
            findings.push(Finding::blocker(Kind::Declaration, &migration.name, reason, remedy));
            return Ok(findings);
        }
        Err(error) => return Err(error),
    };
    let own = own_prefix(&shape);
    let subject = Subject {
        client,
        migration,
        shape: &shape,
        effort,
        progress,
        started: Instant::now(),
        own: &own,
    };
    findings.extend(tables::check(&subject).await?);
    findings.extend(unique::check(&subject).await?);
    let lacks = access::control_role(&subject).await?;
    findings.extend(writers::check(&subject).await?);
    findings.extend(family::check(&subject).await?);
    findings.extend(policies::check(&subject).await?);
    findings.extend(access::check(&subject).await?);
    findings.extend(server::check(&subject).await?);
    client.batch_execute("COMMIT").await?;
    if lacks.iter().any(Finding::is_blocker) {
        let message =
            "neither the mappings nor the rows were looked at: the control role lacks privileges";
        let remedy = "give it what it lacks, and check again";
        findings.push(Finding::info(Kind::Sampled, subject.source(), message, remedy));
    } else {
        rows_and_mappings(&subject, &mut findings).await?;
    }
    findings.extend(lacks);
    Ok(findings)
}

/// The mappings, and the rows through those that work at all. What was found of the key is completed
/// by how many rows have none.
async fn rows_and_mappings(
    subject: &Subject<'_>,
    findings: &mut Vec<Finding>,
) -> Result<(), Error> {
    let mappings::Tried { findings: of_mappings, broken } = mappings::check(subject).await?;
    findings.extend(of_mappings);
    let mut shape = subject.shape.clone();
    shape.mapped.retain(|mapped| !broken.mappings.contains(&mapped.column.name));
    let subject = Subject { shape: &shape, ..*subject };
    let of_rows = rows::check(&subject, &broken, findings).await?;
    findings.extend(of_rows);
    Ok(())
}

/// A table, the parameter of this number, and what holds rows of it: partitions at every level, and
/// what inherits. As a list for IN.
fn tree(parameter: u8) -> String {
    format!(
        "(WITH RECURSIVE tree (oid) AS (SELECT ${parameter}::oid UNION SELECT i.inhrelid \
         FROM pg_inherits i JOIN tree ON i.inhparent = tree.oid) SELECT oid FROM tree)"
    )
}

/// A prefix for columns of our own that no column of the two tables starts with.
fn own_prefix(shape: &Shape) -> String {
    let mut own = "pgsegue ".to_owned();
    let columns = || shape.source.columns.iter().chain(&shape.shadow.columns);
    while columns().any(|column| column.name.as_str().starts_with(&own)) {
        own.insert(own.len() - 1, '_');
    }
    own
}

impl Subject<'_> {
    /// The rows of a catalog query, each as its text columns.
    async fn rows(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Vec<String>>, Error> {
        let rows = self.client.query(sql, parameters).await?;
        rows.iter()
            .map(|row| {
                let text = |i| Ok(row.try_get::<_, Option<String>>(i)?.unwrap_or_default());
                (0..row.len()).map(text).collect()
            })
            .collect()
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

    fn source(&self) -> String {
        self.shape.source.name.spelled()
    }

    fn shadow(&self) -> String {
        self.shape.shadow.name.spelled()
    }

    /// The role of `[control]`, quoted where it has to be.
    async fn role(&self) -> Result<String, Error> {
        let row = self.client.query_one("SELECT quote_ident(current_user)", &[]).await?;
        Ok(row.try_get(0)?)
    }
}
