//! The preflight: each hazard in the catalog and in the rows has its finding and its remedy, and a
//! clean pair of tables has none.

mod access;
mod catalog;
mod command;
mod hostile;
mod keys;
mod page;
mod parts;
mod rows;

use crate::engine_support::{Db, orders};
use pgsegue::engine::check::{Finding, Severity, check};
use pgsegue::manifest::Migration;

/// What is found, with every text that a finding must have.
async fn found(db: &Db, migration: &Migration) -> Vec<Finding> {
    let findings = check(&db.engine_client().await, migration).await.unwrap();
    for finding in &findings {
        assert!(!finding.message.is_empty() && !finding.remedy.is_empty(), "{finding:?}");
        assert!(finding.why.ends_with('.'), "{finding:?}");
        assert!(finding.id.starts_with(finding.kind.word()), "{finding:?}");
    }
    findings
}

/// `B`, `W` or `I`, and the id.
fn ids(findings: &[Finding]) -> Vec<String> {
    findings
        .iter()
        .map(|finding| {
            let severity = match finding.severity {
                Severity::Blocker => 'B',
                Severity::Warning => 'W',
                Severity::Info => 'I',
            };
            format!("{severity} {}", finding.id)
        })
        .collect()
}

/// Runs every statement of the findings, as an operator would copy them.
async fn remedy(db: &Db, findings: &[Finding]) {
    for statement in findings.iter().flat_map(|finding| &finding.sql) {
        let done = db.client.batch_execute(statement).await;
        done.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
}

/// With this done to a clean pair of tables, exactly `expected` is found; with every statement of
/// the remedies run, exactly `left`.
async fn case(sql: &str, expected: &[&str], left: &[&str]) {
    let db = crate::engine_support::database().await;
    let migration = orders(&db, 3).await;
    db.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let findings = found(&db, &migration).await;
    assert_eq!(ids(&findings), expected, "{sql}: {findings:?}");
    remedy(&db, &findings).await;
    let findings = found(&db, &migration).await;
    assert_eq!(ids(&findings), left, "after the remedies of {sql}: {findings:?}");
}
