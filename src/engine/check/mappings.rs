//! The mappings and the ways back: each runs, fits its column, and gives one answer for one row.

use super::{Finding, Kind, Subject};
use crate::engine::Error;
use crate::engine::mapping::{Form, form};
use crate::engine::shape::{Column, Mapped, Relation};
use crate::pg;
use crate::sql::ident::Ident;
use crate::sql::target::{OldColumn, Reverse};
use tokio_postgres::error::SqlState;

/// What came of it.
#[derive(Default)]
pub(super) struct Tried {
    pub(super) findings: Vec<Finding>,
    pub(super) broken: Broken,
}

/// What no row can be looked at through.
#[derive(Default)]
pub(super) struct Broken {
    /// Shadow columns whose mapping is not worked out from one row.
    pub(super) mappings: Vec<Ident>,
    /// Source columns whose way back is no SQL over the shadow.
    pub(super) ways: Vec<Ident>,
}

/// Every mapping by itself, so that a finding names it.
pub(super) async fn check(subject: &Subject<'_>) -> Result<Tried, Error> {
    // Planning alone would fail for a role that is subject to policies; that is another finding.
    let set = format!(
        "SET row_security = on; SET statement_timeout = {}",
        subject.effort.catalog.as_millis()
    );
    subject.client.batch_execute(&set).await?;
    let mut tried = Tried::default();
    for mapped in &subject.shape.mapped {
        match broken(subject, mapped).await? {
            Some(finding) => {
                tried.broken.mappings.push(mapped.column.name.clone());
                tried.findings.push(finding);
            }
            None => tried.findings.extend(unproven(subject, mapped).await?),
        }
    }
    reverses(subject, &mut tried).await?;
    Ok(tried)
}

/// A mapping that cannot be worked out from a row at all.
async fn broken(subject: &Subject<'_>, mapped: &Mapped) -> Result<Option<Finding>, Error> {
    let (expression, column) = (&mapped.expression, mapped.column.name.spelled());
    // A WHERE takes what is worked out from one row: no aggregate, no set.
    let fitting = format!(
        "SELECT FROM {} WHERE ({expression})::{} IS NULL LIMIT 0",
        subject.shape.source.name.quoted(),
        mapped.column.type_sql
    );
    let object = format!("{}.{column}", subject.shadow());
    let error = match subject.client.prepare(&fitting).await {
        Ok(statement) if statement.params().is_empty() => return Ok(None),
        Ok(_) => {
            let message = format!("the mapping of {column} has a parameter, such as $1");
            let remedy = parameter("source");
            return Ok(Some(Finding::blocker(Kind::Mapping, object, message, remedy)));
        }
        Err(error) => error,
    };
    let hint = schema_hint(subject, &error).await?;
    let of_rows = error.code().is_some_and(|code| {
        [SqlState::GROUPING_ERROR, SqlState::WINDOWING_ERROR, SqlState::FEATURE_NOT_SUPPORTED]
            .contains(code)
    });
    let reason = server_error(error)?;
    let (message, remedy) = match of_rows {
        true => (
            format!("the mapping of {column} is not worked out from one row: {reason}"),
            "use expressions over the row's own columns: no aggregates, window functions or functions \
             that return sets"
                .to_owned(),
        ),
        false => (
            format!("the mapping of {column} does not work: {reason}"),
            format!("it is SQL over the source's columns; {hint}"),
        ),
    };
    Ok(Some(Finding::blocker(Kind::Mapping, object, message, remedy)))
}

/// A mapping that works, and may not give the same each time.
async fn unproven(subject: &Subject<'_>, mapped: &Mapped) -> Result<Option<Finding>, Error> {
    let column = mapped.column.name.spelled();
    let object = format!("{}.{column}", subject.shadow());
    let proof = prove_mapping(subject, &mapped.expression, &mapped.column).await?;
    Ok(match proof {
        Proof::Immutable => None,
        Proof::Denied(reason) => Some(Finding::warning(
            Kind::Mapping,
            object,
            format!("it cannot be proved that the mapping of {column} is deterministic: {reason}"),
            TEMPORARY,
        )),
        Proof::Refused(reason) => {
            let message =
                format!("the mapping of {column} may give another result each time: {reason}");
            let remedy = "use immutable expressions over the row's own columns only";
            let found = Finding::blocker(Kind::Mapping, object, message, remedy);
            Some(match without_cast(subject, mapped).await? {
                Some(bare) => {
                    let line = super::finding::toml_string(mapped.column.name.as_str());
                    let mut found =
                        found.write(format!("{line} = {}", super::finding::toml_string(&bare)));
                    "leave out the cast, which is added as the shadow's column needs it"
                        .clone_into(&mut found.remedy);
                    found
                }
                None => found,
            })
        }
    })
}

/// The column alone, where a mapping casts it to the type of the shadow's column and would do
/// without: the cast that is added is the same.
async fn without_cast(subject: &Subject<'_>, mapped: &Mapped) -> Result<Option<String>, Error> {
    let Form::Cast(name, kind) = form(&mapped.expression) else { return Ok(None) };
    let Some(source) = subject.shape.source.column(&name) else { return Ok(None) };
    let column = &mapped.column;
    let same = "SELECT coalesce(to_regtype($1::text)::oid = $2, false)";
    if kind.contains('(') || !subject.holds(same, &[&kind, &column.type_oid]).await? {
        return Ok(None);
    }
    let bare = source.name.spelled();
    if form(&bare) != Form::Column(name) {
        return Ok(None);
    }
    let proof = prove_mapping(subject, &bare, column).await?;
    Ok(matches!(proof, Proof::Immutable).then_some(bare))
}

/// The code of an expression of another type than the column's: `datatype_mismatch`.
const MISMATCH: &str = "42804 ";

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

/// A generated column takes an expression as an INSERT does; the functions cast it.
async fn prove_mapping(
    subject: &Subject<'_>,
    expression: &str,
    column: &Column,
) -> Result<Proof, Error> {
    let source = &subject.shape.source;
    let mut proof = prove(subject, source, expression, &column.type_sql).await?;
    if matches!(&proof, Proof::Refused(reason) if reason.starts_with(MISMATCH)) {
        let cast = format!("({expression})::{}", column.type_sql);
        proof = prove(subject, source, &cast, &column.type_sql).await?;
    }
    prove_label(subject, source, proof, (expression, column)).await
}

/// A label of an enum is what it is in every session, whatever the catalog says of the cast.
async fn prove_label(
    subject: &Subject<'_>,
    table: &Relation,
    proof: Proof,
    (expression, column): (&str, &Column),
) -> Result<Proof, Error> {
    let is_enum = "SELECT typtype = 'e' FROM pg_type WHERE oid = $1";
    if !matches!(proof, Proof::Refused(_)) || !subject.holds(is_enum, &[&column.type_oid]).await? {
        return Ok(proof);
    }
    Ok(match prove(subject, table, &format!("({expression})::text"), "text").await? {
        Proof::Refused(_) => proof,
        proved => proved,
    })
}

/// The other direction: an enum of the shadow that comes back as the text of its label, the column alone or
/// under a cast. The probe has text in its place, so that all that is done to the label is asked of.
async fn prove_spelled(
    subject: &Subject<'_>,
    proof: Proof,
    (expression, column): (&str, &Column),
) -> Result<Proof, Error> {
    // A cast that somebody has made for the enum may do anything.
    let by_label = "SELECT typtype = 'e' AND NOT EXISTS (SELECT FROM pg_cast WHERE castsource = t.oid) \
                    FROM pg_type t WHERE oid = $1";
    let (Form::Column(name) | Form::Cast(name, _)) = form(expression) else { return Ok(proof) };
    let mut shadow = subject.shape.shadow.clone();
    let Some(label) = shadow.columns.iter_mut().find(|column| column.name == name) else {
        return Ok(proof);
    };
    if !matches!(proof, Proof::Refused(_)) || !subject.holds(by_label, &[&label.type_oid]).await? {
        return Ok(proof);
    }
    "text".clone_into(&mut label.type_sql);
    let cast = format!("CAST(({expression}) AS {})", column.type_sql);
    Ok(match prove(subject, &shadow, &cast, &column.type_sql).await? {
        Proof::Refused(_) => proof,
        proved => proved,
    })
}

/// The ways back: each is SQL over the shadow that gives the same in every session. They run with
/// the settings of the clients' sessions.
async fn reverses(subject: &Subject<'_>, tried: &mut Tried) -> Result<(), Error> {
    for (name, _) in &subject.migration.reverse {
        if subject.shape.source.column(name).is_none() {
            let spelled = name.spelled();
            tried.findings.push(Finding::blocker(
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
            let found = reverse(subject, column, &sql).await?;
            if found.as_ref().is_some_and(|finding| finding.kind == Kind::Reverse) {
                tried.broken.ways.push(column.name.clone());
            }
            tried.findings.extend(found);
        }
    }
    Ok(())
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
    let broken = match subject.client.prepare(&sql).await {
        Ok(statement) if statement.params().is_empty() => None,
        Ok(_) => Some(("has a parameter, such as $1".to_owned(), parameter("shadow"))),
        Err(error) => {
            let hint = schema_hint(subject, &error).await?;
            let message = format!("does not work: {}", server_error(error)?);
            Some((message, format!("it is SQL over the shadow's columns; {hint}")))
        }
    };
    if let Some((message, remedy)) = broken {
        let message = format!("the way back for {spelled} {message}");
        return Ok(Some(Finding::blocker(Kind::Reverse, object, message, remedy)));
    }
    let proof = prove(subject, shadow, &cast, &column.type_sql).await?;
    let proof = prove_label(subject, shadow, proof, (expression, column)).await?;
    let proof = prove_spelled(subject, proof, (expression, column)).await?;
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

/// What to do about an expression to which nobody would give a value.
fn parameter(side: &str) -> String {
    format!("a parameter is not SQL over the {side}'s columns: write the value itself")
}

/// How types and functions are written, with the name of the type that was not found.
async fn schema_hint(
    subject: &Subject<'_>,
    error: &tokio_postgres::Error,
) -> Result<String, Error> {
    const HINT: &str = "write types and functions of other schemas with their schema";
    let message = error.as_db_error().map_or("", |error| error.message());
    // Names stand in quotes in every language; a type of pg_catalog would have been found.
    let name = message.split('"').nth(1).unwrap_or_default();
    let name = name.rsplit('.').next().unwrap_or_default();
    let sql = "SELECT oid::regtype::text FROM pg_type WHERE typname = $1::text \
               AND typnamespace <> 'pg_catalog'::regnamespace ORDER BY oid LIMIT 1";
    let undefined = error.code() == Some(&SqlState::UNDEFINED_OBJECT);
    let found = match undefined {
        true => subject.rows(sql, &[&name]).await?.concat().concat(),
        false => String::new(),
    };
    Ok(match found.as_str() {
        "" => HINT.to_owned(),
        found => format!("{HINT}: {found}"),
    })
}

/// What the server said of a statement; the error itself when the connection failed.
pub(super) fn server_error(error: tokio_postgres::Error) -> Result<String, Error> {
    if error.as_db_error().is_some() { Ok(pg::reason(&error)) } else { Err(error.into()) }
}
