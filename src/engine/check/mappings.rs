//! The mappings: each runs, fits its column, and gives one answer for one row.

use super::{Finding, Kind, Subject};
use crate::engine::Error;
use crate::engine::shape::Mapped;
use crate::pg;

/// Every mapping by itself, so that a finding names it.
pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    // Planning alone would fail for a role that is subject to policies; that is another finding.
    let set = format!(
        "SET row_security = on; SET statement_timeout = {}",
        subject.effort.catalog.as_millis()
    );
    subject.client.batch_execute(&set).await?;
    let mut findings = Vec::new();
    for mapped in &subject.shape.mapped {
        findings.extend(one(subject, mapped).await?);
    }
    findings.extend(reverses(subject).await?);
    Ok(findings)
}

async fn one(subject: &Subject<'_>, mapped: &Mapped) -> Result<Option<Finding>, Error> {
    let (expression, column) = (&mapped.expression, mapped.column.name.spelled());
    let object = format!("{}.{column}", subject.shadow());
    let source = subject.shape.source.name.quoted();
    let fitting =
        format!("SELECT ({expression})::{} FROM {source} LIMIT 0", mapped.column.type_sql);
    if let Err(error) = subject.client.prepare(&fitting).await {
        let reason = server_error(error)?;
        return Ok(Some(Finding::blocker(
            Kind::Mapping,
            object,
            format!("the mapping of {column} does not work: {reason}"),
            "it is SQL over the source's columns; write functions of other schemas with their schema",
        )));
    }
    // Postgres itself knows what is immutable: it takes nothing else as a generated column. The
    // temporary table has the source's name, so that the mapping may name it, too.
    let columns: Vec<String> = subject
        .shape
        .source
        .columns
        .iter()
        .map(|column| format!("{} {}", column.name.quoted(), column.type_sql))
        .collect();
    let probe = format!(
        "CREATE TEMPORARY TABLE {} ({}, \"{}m\" {} GENERATED ALWAYS AS ({expression}) STORED)",
        subject.shape.source.name.name.quoted(),
        columns.join(", "),
        subject.own,
        mapped.column.type_sql,
    );
    subject.client.batch_execute("BEGIN").await?;
    let probed = subject.client.batch_execute(&probe).await;
    subject.client.batch_execute("ROLLBACK").await?;
    let Err(error) = probed else { return Ok(None) };
    let denied = error.code().is_some_and(|code| code.code() == "42501");
    let reason = server_error(error)?;
    if denied {
        return Ok(Some(Finding::warning(
            Kind::Mapping,
            object,
            format!("it cannot be proved that the mapping of {column} is deterministic: {reason}"),
            "give the control role TEMPORARY on the database",
        )));
    }
    Ok(Some(Finding::blocker(
        Kind::Mapping,
        object,
        format!("the mapping of {column} may give another result each time: {reason}"),
        "use immutable expressions over the row's own columns only",
    )))
}

/// The ways back must at least be valid SQL over the shadow.
async fn reverses(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    let shadow = subject.shape.shadow.name.quoted();
    for (name, expression) in &subject.migration.reverse {
        let spelled = name.spelled();
        let object = format!("{}.{spelled}", subject.source());
        let Some(column) = subject.shape.source.column(name) else {
            findings.push(Finding::blocker(
                Kind::Reverse,
                object,
                format!("[migration.reverse] has {spelled}, which is no column of the source"),
                "correct or remove the line",
            ));
            continue;
        };
        let sql = format!("SELECT ({expression})::{} FROM {shadow} LIMIT 0", column.type_sql);
        if let Err(error) = subject.client.prepare(&sql).await {
            let reason = server_error(error)?;
            findings.push(Finding::blocker(
                Kind::Reverse,
                object,
                format!("the way back for {spelled} does not work: {reason}"),
                "it is SQL over the shadow's columns",
            ));
        }
    }
    Ok(findings)
}

/// What the server said of a statement; the error itself when the connection failed.
pub(super) fn server_error(error: tokio_postgres::Error) -> Result<String, Error> {
    if error.as_db_error().is_some() { Ok(pg::reason(&error)) } else { Err(error.into()) }
}
