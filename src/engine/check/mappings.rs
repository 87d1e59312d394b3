//! The mappings and the ways back: each runs, fits its column, and gives one answer for one row.

use super::{Finding, Kind, Subject};
use crate::engine::Error;
use crate::engine::shape::{Column, Mapped, Relation};
use crate::pg;
use crate::sql::target::{OldColumn, Reverse};

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
    let proof = prove(subject, &subject.shape.source, expression, &mapped.column.type_sql).await?;
    Ok(match proof {
        Proof::Immutable => None,
        Proof::Denied(reason) => Some(Finding::warning(
            Kind::Mapping,
            object,
            format!("it cannot be proved that the mapping of {column} is deterministic: {reason}"),
            TEMPORARY,
        )),
        Proof::Refused(reason) => Some(Finding::blocker(
            Kind::Mapping,
            object,
            format!("the mapping of {column} may give another result each time: {reason}"),
            "use immutable expressions over the row's own columns only",
        )),
    })
}

const TEMPORARY: &str = "give the control role TEMPORARY on the database";

/// What the server says of an expression over a table's columns.
enum Proof {
    Immutable,
    Refused(String),
    /// It cannot be asked.
    Denied(String),
}

/// Postgres itself knows what is immutable: it takes nothing else as a generated column. The
/// temporary table has the table's name, so that the expression may name it, too.
async fn prove(
    subject: &Subject<'_>,
    table: &Relation,
    expression: &str,
    type_sql: &str,
) -> Result<Proof, Error> {
    let columns = table.columns.iter().map(|c| format!("{} {}", c.name.quoted(), c.type_sql));
    let probe = format!(
        "CREATE TEMPORARY TABLE {} ({}, \"{}m\" {} GENERATED ALWAYS AS ({expression}) STORED)",
        table.name.name.quoted(),
        columns.collect::<Vec<_>>().join(", "),
        subject.own,
        type_sql,
    );
    subject.client.batch_execute("BEGIN").await?;
    let probed = subject.client.batch_execute(&probe).await;
    subject.client.batch_execute("ROLLBACK").await?;
    let Err(error) = probed else { return Ok(Proof::Immutable) };
    let denied = error.code().is_some_and(|code| code.code() == "42501");
    let reason = server_error(error)?;
    Ok(if denied { Proof::Denied(reason) } else { Proof::Refused(reason) })
}

/// The ways back: each is SQL over the shadow that gives the same in every session. They run with
/// the settings of the clients' sessions.
async fn reverses(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    for (name, _) in &subject.migration.reverse {
        if subject.shape.source.column(name).is_none() {
            let spelled = name.spelled();
            findings.push(Finding::blocker(
                Kind::Reverse,
                format!("{}.{spelled}", subject.source()),
                format!("[migration.reverse] has {spelled}, which is no column of the source"),
                "correct or remove the line",
            ));
        }
    }
    for column in &subject.shape.source.columns {
        if let Ok(OldColumn { reverse: Reverse::Expression(sql), .. }) =
            subject.shape.way_back(column)
        {
            findings.extend(reverse(subject, column, &sql).await?);
        }
    }
    Ok(findings)
}

async fn reverse(
    subject: &Subject<'_>,
    column: &Column,
    expression: &str,
) -> Result<Option<Finding>, Error> {
    let (spelled, shadow) = (column.name.spelled(), &subject.shape.shadow);
    let object = format!("{}.{spelled}", subject.source());
    let cast = format!("CAST(({expression}) AS {})", column.type_sql);
    let sql = format!("SELECT {cast} FROM {} LIMIT 0", shadow.name.quoted());
    if let Err(error) = subject.client.prepare(&sql).await {
        let reason = server_error(error)?;
        return Ok(Some(Finding::blocker(
            Kind::Reverse,
            object,
            format!("the way back for {spelled} does not work: {reason}"),
            "it is SQL over the shadow's columns",
        )));
    }
    let mut proof = prove(subject, shadow, &cast, &column.type_sql).await?;
    // A label of an enum is what it is in every session, whatever the catalog says of the cast.
    let is_enum = "SELECT typtype = 'e' FROM pg_type WHERE oid = $1";
    if matches!(proof, Proof::Refused(_)) && subject.holds(is_enum, &[&column.type_oid]).await? {
        let without = format!("({expression})::text");
        proof = prove(subject, shadow, &without, "text").await?;
    }
    Ok(match proof {
        Proof::Immutable => None,
        Proof::Denied(reason) => Some(Finding::warning(
            Kind::MutableWayBack,
            object,
            format!("it cannot be proved that the way back for {spelled} is immutable: {reason}"),
            TEMPORARY,
        )),
        Proof::Refused(reason) => Some(
            Finding::blocker(
                Kind::MutableWayBack,
                object,
                format!("the way back for {spelled} may hang on the session: {reason}"),
                "use immutable functions and casts only, for example AT TIME ZONE; leave out the cast \
                 to an enum, which is added; or accept it when all sessions have the same settings",
            )
            .or_accept(),
        ),
    })
}

/// What the server said of a statement; the error itself when the connection failed.
pub(super) fn server_error(error: tokio_postgres::Error) -> Result<String, Error> {
    if error.as_db_error().is_some() { Ok(pg::reason(&error)) } else { Err(error.into()) }
}
