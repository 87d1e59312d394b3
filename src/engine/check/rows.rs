//! The rows that are there already: whether they can be mapped, whether the shadow's constraints
//! take them, and whether they come back as they are.

use super::mappings::Broken;
use super::scan::{Answer, Question, Scan};
use super::{Finding, Kind, Subject, mappings, refused, settings, size, unique};
use crate::engine::Error;
use crate::engine::mapping::{Form, form};
use crate::engine::shape::{Column, Mapped};
use tokio_postgres::error::SqlState;

/// All of them.
pub(super) async fn check(
    subject: &Subject<'_>,
    broken: &Broken,
    found_before: &mut [Finding],
) -> Result<Vec<Finding>, Error> {
    let limit = match subject.effort.extent {
        super::Extent::Sampled => subject.effort.look.as_millis(),
        super::Extent::Full => 0,
    };
    // The first rows of a table are then the same rows each time.
    let set = format!(
        "SET statement_timeout = {limit}; SET row_security = on; SET synchronize_seqscans = off; \
         SET default_transaction_read_only = on"
    );
    subject.client.batch_execute(&set).await?;
    count_nulls(subject, found_before).await?;
    unique::count_duplicates(subject, found_before).await?;
    let looked = Box::pin(looks(subject, broken)).await;
    subject.client.batch_execute("RESET synchronize_seqscans").await?;
    looked
}

/// Says how many rows have no key, where the key may be null.
async fn count_nulls(subject: &Subject<'_>, findings: &mut [Finding]) -> Result<(), Error> {
    let nullable = subject.shape.key.iter().filter(|pair| !pair.source.not_null);
    for column in nullable.map(|pair| &pair.source.name) {
        let object = format!("{}.{}", subject.source(), column.spelled());
        let sql = format!(
            "SELECT count(*)::text FROM {} WHERE {} IS NULL",
            subject.shape.source.name.quoted(),
            column.quoted()
        );
        let of_key = |f: &&mut Finding| f.kind == Kind::Key && f.object == object;
        let Some(finding) = findings.iter_mut().find(of_key) else { continue };
        let rows = match subject.rows(&sql, &[]).await {
            Ok(rows) => rows.concat().concat(),
            Err(Error::Postgres(error)) if error.code() == Some(&SqlState::QUERY_CANCELED) => {
                finding.message.push_str("; how many rows it is null in was too slow to count");
                continue;
            }
            Err(error) => return Err(error),
        };
        if rows != "0" {
            finding.message.push_str(&format!("; it is null in {rows} rows"));
            "give these rows a key or delete them, then declare it NOT NULL; or choose a key whose \
             columns are"
                .clone_into(&mut finding.remedy);
            finding.sql.clear();
        }
    }
    Ok(())
}

async fn looks(subject: &Subject<'_>, broken: &Broken) -> Result<Vec<Finding>, Error> {
    let mut scan = Scan::new(subject, broken).await?;
    let mut findings: Vec<Finding> = casts(&mut scan).await?.into_iter().collect();
    findings.extend(refused::check(&mut scan).await?);
    findings.extend(lossy(&mut scan).await?);
    findings.extend(way_back(&mut scan).await?);
    let tried = settings::check(&scan).await?;
    findings.extend(tried.findings);
    if let Some(reason) = tried.failed {
        scan.skip(format!("settings ({reason})"));
    }
    findings.extend(size::check(&scan, tried.pace).await?);
    findings.extend(scan.left_out());
    Ok(findings)
}

/// The mapped source as a table expression under the shadow's name, for `FROM source <clause>`: the
/// key as text, the shadow's columns by their names, and more.
pub(super) fn mapped(subject: &Subject<'_>, more: &str, clause: &str) -> String {
    mapped_as(subject, more, clause, &subject.shape.shadow.name.name.quoted())
}

/// The same under another name.
pub(super) fn mapped_as(subject: &Subject<'_>, more: &str, clause: &str, name: &str) -> String {
    let (shape, own) = (subject.shape, &subject.own);
    let key: Vec<String> =
        shape.key.iter().map(|pair| format!("{}::text", pair.source.name.quoted())).collect();
    let columns: Vec<String> = shape
        .mapped
        .iter()
        .map(|m| format!("({})::{} AS {}", m.expression, m.column.type_sql, m.column.name.quoted()))
        .collect();
    format!(
        "(SELECT '(' || concat_ws(', ', {}) || ')' AS \"{own}k\", {}{more} FROM {}{clause}) AS {name}",
        key.join(", "),
        columns.join(", "),
        shape.source.name.quoted(),
    )
}

/// A question for the keys of rows that a predicate holds for; `shown` follows the key.
pub(super) fn holds(
    subject: &Subject<'_>,
    what: &str,
    more: &str,
    predicate: &str,
    shown: &str,
) -> Question {
    let own = &subject.own;
    let head = format!("SELECT \"{own}k\"{shown} FROM ");
    let tail = format!(" WHERE {predicate}");
    // Split once, so that the closure needs no reference to the subject.
    let place = "\u{1}";
    let table = mapped(subject, more, place);
    let (before, after) = table.split_once(place).unwrap_or((&table, ""));
    let (before, after) = (before.to_owned(), after.to_owned());
    Question {
        what: what.to_owned(),
        sql: Box::new(move |clause| format!("{head}{before}{clause}{after}{tail}")),
        by_row: true,
    }
}

/// Rows that a mapping cannot be worked out for: out of range, not a number, a zero divisor.
async fn casts(scan: &mut Scan<'_>) -> Result<Option<Finding>, Error> {
    let subject = scan.subject;
    let row: Vec<String> = subject.shape.mapped.iter().map(|m| m.column.name.quoted()).collect();
    let all = format!("ROW({})::text = ''", row.join(", "));
    let question = holds(subject, "mappings", "", &all, "");
    let Answer::Failed(part, error) = scan.ask(&question).await? else { return Ok(None) };
    let Some((key, column, reason)) = scan.first_failure(&part).await? else {
        scan.skip(format!("mappings ({})", mappings::server_error(error)?));
        return Ok(None);
    };
    Ok(Some(Finding::blocker(
        Kind::Rows,
        format!("{}.{column}", subject.shadow()),
        format!("the mapping of {column} fails for the row ({key}) and perhaps others: {reason}"),
        "correct the rows or the mapping, or give the shadow's column a wider type",
    )))
}

/// A column and what it would be after the way there and back, for people.
fn there_and_back(was: &str, is: &str) -> String {
    let short = |value: &str| format!("quote_nullable(left(({value})::text, 40))");
    format!(" || ': ' || {} || ' comes back as ' || {}", short(was), short(is))
}

/// Casts in the mapping that do not keep the value.
async fn lossy(scan: &mut Scan<'_>) -> Result<Vec<Finding>, Error> {
    let subject = scan.subject;
    let mut findings = Vec::new();
    for one in &subject.shape.mapped {
        let Some(source) = cast_column(subject, one) else { continue };
        let (was, column) = (format!("\"{}o\"", subject.own), one.column.name.quoted());
        let back = format!("({column})::{}", source.type_sql);
        let more = format!(", {} AS {was}", source.name.quoted());
        let predicate = format!("{was}::text IS DISTINCT FROM ({back})::text");
        let name = one.column.name.spelled();
        let shown = there_and_back(&was, &back);
        let question = holds(subject, &format!("cast of {name}"), &more, &predicate, &shown);
        match scan.ask(&question).await? {
            Answer::Rows(rows, within) => findings.push(
                Finding::warning(
                    Kind::Lossy,
                    format!("{}.{name}", subject.shadow()),
                    format!(
                        "{} becomes {}, which does not keep rows of the source{within}: {}",
                        source.type_sql, one.column.type_sql, rows.join(", ")
                    ),
                    "give the shadow's column a type that holds the source's values, or accept the loss",
                )
                .or_accept(),
            ),
            // Without a cast back, the way back has to be declared, and is tried.
            Answer::None | Answer::Failed(..) => {}
        }
    }
    Ok(findings)
}

/// The source column that a mapping only casts, into a type that may not hold it.
fn cast_column<'s>(subject: &'s Subject<'_>, one: &Mapped) -> Option<&'s Column> {
    let name = match form(&one.expression) {
        Form::Column(name) | Form::Cast(name, _) => name,
        Form::Other => return None,
    };
    let source = subject.shape.source.column(&name)?;
    let same = source.type_oid == one.column.type_oid
        && (one.column.typmod == -1 || one.column.typmod == source.typmod);
    let in_key = subject.shape.key.iter().any(|pair| pair.shadow.name == one.column.name);
    let cut = matches!(form(&one.expression), Form::Cast(_, kind) if kind.contains('('));
    (!in_key && (cut || !same)).then_some(source)
}

/// Columns that the shadow would not give back as they are.
async fn way_back(scan: &mut Scan<'_>) -> Result<Vec<Finding>, Error> {
    let subject = scan.subject;
    let mut findings = Vec::new();
    for one in scan.unproven() {
        let (was, column) = (format!("\"{}o\"", subject.own), one.name.spelled());
        let more = format!(", {} AS {was}", one.name.quoted());
        let predicate = format!("{was}::text IS DISTINCT FROM ({})::text", one.back);
        let shown = there_and_back(&was, &one.back);
        let question = holds(subject, &format!("way back of {column}"), &more, &predicate, &shown);
        let object = format!("{}.{column}", subject.source());
        let remedy =
            "correct [migration.reverse] or the mapping; until then the shadow serves no reads";
        match scan.ask(&question).await? {
            Answer::None => {}
            Answer::Rows(rows, within) => findings.push(Finding::warning(
                Kind::WayBack,
                object,
                format!("{column} does not come back from the shadow as it is in the source{within}: {}", rows.join(", ")),
                remedy,
            )),
            Answer::Failed(_, error) => findings.push(Finding::warning(
                Kind::WayBack,
                object,
                format!("the way back of {column} could not be tried: {}", mappings::server_error(error)?),
                remedy,
            )),
        }
    }
    Ok(findings)
}
