//! Expressions that depend on the session: each is worked out twice over a sample, under the
//! pinned settings and under opposite ones. A generated column does not find these: Postgres calls
//! the output of a float immutable, whatever `extra_float_digits` says.

use super::scan::{Part, Scan};
use super::{Finding, Kind, Subject};
use crate::engine::Error;
use crate::engine::mapping::{Needs, needs};
use crate::pg;
use std::time::{Duration, Instant};

/// Settings that an expression may depend on, with a value that is not the pinned or usual one.
const OPPOSITE: [(&str, &str); 10] = [
    ("extra_float_digits", "0"),
    ("bytea_output", "escape"),
    ("DateStyle", "'SQL, DMY'"),
    ("IntervalStyle", "sql_standard"),
    ("TimeZone", "'Asia/Kathmandu'"),
    ("transform_null_equals", "on"),
    ("xmlbinary", "hex"),
    ("xmloption", "document"),
    ("array_nulls", "off"),
    ("quote_all_identifiers", "on"),
];

/// What came of it.
pub(super) struct Tried {
    pub(super) findings: Vec<Finding>,
    /// How many rows were mapped in which time, if there were any.
    pub(super) pace: Option<(u64, Duration)>,
    /// Why nothing was tried.
    pub(super) failed: Option<String>,
}

/// Tries all expressions that may depend on something.
pub(super) async fn check(scan: &Scan<'_>) -> Result<Tried, Error> {
    let client = scan.subject.client;
    client.batch_execute("BEGIN READ WRITE").await?;
    let tried = Box::pin(within(scan)).await;
    client.batch_execute("ROLLBACK").await?;
    match tried {
        Ok(tried) => Ok(tried),
        // Rows that cannot be mapped, or no right to a temporary table: both are other findings.
        Err(Error::Postgres(error)) if error.as_db_error().is_some() => {
            Ok(Tried { findings: Vec::new(), pace: None, failed: Some(pg::reason(&error)) })
        }
        Err(error) => Err(error),
    }
}

async fn within(scan: &Scan<'_>) -> Result<Tried, Error> {
    let Subject { client, shape, own, .. } = scan.subject;
    let source = shape.source.name.name.quoted();
    let (sample, forward) = (format!("\"{own}s\""), format!("\"{own}f\""));
    client
        .batch_execute(&format!(
            "CREATE TEMPORARY TABLE {sample} AS SELECT row_number() OVER () AS \"{own}r\", t.* \
             FROM (SELECT * FROM {}{}) AS t",
            shape.source.name.quoted(),
            scan.clause(&Part::Sample, Some(scan.sample_rows())),
        ))
        .await?;
    let columns: Vec<String> = shape
        .mapped
        .iter()
        .map(|m| format!("({})::{} AS {}", m.expression, m.column.type_sql, m.column.name.quoted()))
        .collect();
    let started = Instant::now();
    let map = format!(
        "CREATE TEMPORARY TABLE {forward} AS SELECT \"{own}r\", {} FROM pg_temp.{sample} AS {source}",
        columns.join(", ")
    );
    let rows = client.execute(&map, &[]).await?;
    let pace = (rows > 0).then(|| (rows, started.elapsed()));
    let mut findings = Vec::new();
    for mapped in &shape.mapped {
        let type_of = |name: &_| shape.source.column(name).map(|column| column.type_oid);
        if needs(&mapped.expression, mapped.column.type_oid, type_of) == Needs::Path {
            continue;
        }
        let expression = format!("({})::{}", mapped.expression, mapped.column.type_sql);
        let by =
            depends(scan.subject, &format!("pg_temp.{sample} AS {source}"), &expression).await?;
        findings.extend(of_mapping(scan.subject, &mapped.column.name.spelled(), &by));
    }
    let shadow = shape.shadow.name.name.quoted();
    for one in scan.unproven() {
        let from = format!("pg_temp.{forward} AS {shadow}");
        let by = depends(scan.subject, &from, &one.back).await?;
        findings.extend(of_reverse(scan.subject, &one.name.spelled(), &by));
    }
    Ok(Tried { findings, pace, failed: None })
}

/// The settings that change what an expression gives for some row.
async fn depends(
    subject: &Subject<'_>,
    from: &str,
    expression: &str,
) -> Result<Vec<&'static str>, Error> {
    // An expression that does not work at all is another finding; so is one that gives something
    // else each time.
    if !differs(subject, from, expression, &OPPOSITE).await?
        || differs(subject, from, expression, &[]).await?
    {
        return Ok(Vec::new());
    }
    let mut by = Vec::new();
    for one in OPPOSITE {
        if differs(subject, from, expression, &[one]).await? {
            by.push(one.0);
        }
    }
    Ok(by)
}

/// Whether an expression gives something else for some row, or fails, under other settings.
async fn differs(
    subject: &Subject<'_>,
    from: &str,
    expression: &str,
    settings: &[(&str, &str)],
) -> Result<bool, Error> {
    let Subject { client, own, .. } = subject;
    let make = |table: &str| {
        format!(
            "CREATE TEMPORARY TABLE \"{own}{table}\" AS SELECT \"{own}r\" AS r, {expression} AS v FROM {from}"
        )
    };
    let set: Vec<String> =
        settings.iter().map(|(name, value)| format!("SET LOCAL {name} = {value}")).collect();
    client.batch_execute("SAVEPOINT tried").await?;
    let pinned = client.batch_execute(&make("p")).await;
    let different = if pinned.is_ok() {
        client.batch_execute("SAVEPOINT other").await?;
        client.batch_execute(&set.join("; ")).await?;
        match client.batch_execute(&make("o")).await {
            Ok(()) => {
                // The settings of before, with the table.
                let back: Vec<String> = pg::PINNED
                    .iter()
                    .map(|(name, value)| format!("SET LOCAL {name} = {value}"))
                    .collect();
                client
                    .batch_execute(&format!("{}; SET LOCAL row_security = on", back.join("; ")))
                    .await?;
                let compare = format!(
                    "SELECT EXISTS (SELECT FROM pg_temp.\"{own}p\" p JOIN pg_temp.\"{own}o\" o USING (r) \
                     WHERE p.v::text IS DISTINCT FROM o.v::text)"
                );
                subject.holds(&compare, &[]).await?
            }
            Err(error) if pg::is_about_data(&error) => true,
            Err(error) => return Err(error.into()),
        }
    } else {
        false
    };
    client.batch_execute("ROLLBACK TO tried").await?;
    Ok(different)
}

fn of_mapping(subject: &Subject<'_>, column: &str, by: &[&str]) -> Option<Finding> {
    if by.is_empty() {
        return None;
    }
    let object = format!("{}.{column}", subject.shadow());
    let message =
        format!("the mapping of {column} gives something else under another {}", by.join(", "));
    let pinned = |name: &&str| pg::PINNED.iter().any(|(pinned, _)| pinned == name);
    Some(if by.iter().all(pinned) {
        let remedy = "nothing for the migration: pgsegue pins it; apps that write the shadow later must set the same";
        Finding::info(Kind::Settings, object, message, remedy)
    } else {
        let remedy = "write the mapping so that it does not depend on a setting";
        Finding::blocker(Kind::Settings, object, message, remedy)
    })
}

fn of_reverse(subject: &Subject<'_>, column: &str, by: &[&str]) -> Option<Finding> {
    if by.is_empty() {
        return None;
    }
    Some(
        Finding::warning(
            Kind::Settings,
            format!("{}.{column}", subject.source()),
            format!(
                "the way back for {column} gives something else in a session with another {}",
                by.join(", ")
            ),
            "write it so that it does not depend on a setting, for example with AT TIME ZONE; \
             accept it when all sessions have the usual ones",
        )
        .or_accept(),
    )
}
