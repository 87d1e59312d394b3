//! The rows that are there already: whether the shadow's constraints take them, and whether they
//! come back as they are. Each look is bounded in time: what it does not get to is said.

use super::{Finding, Subject};
use crate::engine::Error;
use crate::engine::reverse::{self, Unproven};
use crate::pg;
use tokio_postgres::error::SqlState;

/// What one look may take.
const TIMEOUT: &str = "3s";
/// Rows that are tried for the way back; the verify tries all of them.
const SAMPLE: u32 = 10_000;
/// Long enough that a barrier would be noticed to wait for it.
const LONG_TRANSACTION: &str = "1 minute";

/// All of them.
pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let set = format!("SET statement_timeout = '{TIMEOUT}'; SET row_security = on");
    subject.client.batch_execute(&set).await?;
    let looked = bounded(subject).await;
    subject.client.batch_execute("SET statement_timeout = 0; SET row_security = off").await?;
    let mut findings = looked?;
    findings.extend(size(subject).await?);
    findings.extend(transactions(subject).await?);
    Ok(findings)
}

/// Those that read the table itself.
async fn bounded(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let mut findings = not_null(subject).await?;
    findings.extend(constraints(subject).await?);
    findings.extend(unique(subject).await?);
    findings.extend(way_back(subject).await?);
    Ok(findings)
}

/// The mapped source as a table expression: `"pgsegue k"`, and the shadow's columns by their names.
fn mapped(subject: &Subject<'_>, more: &str, limit: &str) -> String {
    let shape = subject.shape;
    let key: Vec<String> =
        shape.key.iter().map(|pair| format!("{}::text", pair.source.name.quoted())).collect();
    let columns: Vec<String> = shape
        .mapped
        .iter()
        .map(|m| format!("({})::{} AS {}", m.expression, m.column.type_sql, m.column.name.quoted()))
        .collect();
    format!(
        "(SELECT concat_ws(', ', {}) AS \"pgsegue k\", {}{more} FROM {}{limit}) AS m",
        key.join(", "),
        columns.join(", "),
        shape.source.name.quoted()
    )
}

/// What a look at the rows came to.
enum Looked {
    /// The keys of rows that are in the way.
    Keys(Vec<String>),
    /// It could not be done, and why.
    Not(String),
}

/// The first keys (one text column) that a query finds.
async fn look(subject: &Subject<'_>, sql: &str) -> Result<Looked, Error> {
    match subject.rows(sql, &[]).await {
        Ok(rows) => Ok(Looked::Keys(rows.concat())),
        Err(Error::Postgres(error)) if error.code() == Some(&SqlState::QUERY_CANCELED) => {
            Ok(Looked::Not(format!("not within {TIMEOUT}")))
        }
        Err(Error::Postgres(error)) if error.as_db_error().is_some() => {
            Ok(Looked::Not(pg::reason(&error)))
        }
        Err(error) => Err(error),
    }
}

/// Rows of the source that a constraint of the shadow refuses: each would stay dirty for ever.
async fn refused(subject: &Subject<'_>, object: &str, sql: &str) -> Result<Option<Finding>, Error> {
    let id = format!("rows {}.{object}", subject.shape.shadow.name);
    Ok(match look(subject, sql).await? {
        Looked::Keys(keys) if keys.is_empty() => None,
        Looked::Keys(keys) => Some(Finding::blocker(
            id,
            format!("the shadow's {object} refuses rows of the source: ({})", keys.join("), (")),
            "correct the rows or the mapping, or relax the shadow's constraint",
        )),
        Looked::Not(why) => Some(Finding::info(
            id,
            format!("whether the source's rows fit {object} was not checked: {why}"),
            "the backfill names a row that does not",
        )),
    })
}

async fn not_null(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    for one in subject.shape.mapped.iter().filter(|m| m.column.not_null) {
        let known = subject.shape.key.iter().any(|pair| pair.shadow.name == one.column.name)
            || subject
                .shape
                .source
                .columns
                .iter()
                .any(|c| c.not_null && c.name.as_str() == one.expression);
        if known {
            continue;
        }
        let (table, name) = (mapped(subject, "", ""), one.column.name.quoted());
        // `IS NULL` is true of a composite value whose fields are all null; the constraint takes it.
        let sql = format!(
            "SELECT \"pgsegue k\" FROM {table} WHERE {name} IS NOT DISTINCT FROM NULL LIMIT 5"
        );
        let object = format!("NOT NULL {}", one.column.name);
        findings.extend(refused(subject, &object, &sql).await?);
    }
    Ok(findings)
}

async fn constraints(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let checks = subject
        .rows(
            "SELECT conname::text, pg_get_expr(conbin, conrelid) FROM pg_constraint \
             WHERE conrelid = $1 AND contype = 'c' ORDER BY 1",
            &[&subject.shape.shadow.oid],
        )
        .await?;
    let mut findings = Vec::new();
    for row in checks {
        let [name, expression] = row.as_slice() else { continue };
        let table = mapped(subject, "", "");
        let sql = format!("SELECT \"pgsegue k\" FROM {table} WHERE NOT ({expression}) LIMIT 5");
        findings.extend(refused(subject, name, &sql).await?);
    }
    Ok(findings)
}

async fn unique(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let mut key: Vec<&str> =
        subject.shape.key.iter().map(|pair| pair.shadow.name.as_str()).collect();
    key.sort_unstable();
    let indexes = subject
        .rows(
            "SELECT (SELECT relname::text FROM pg_class WHERE oid = i.indexrelid), string_agg(quote_ident(a.attname), ', '), \
             string_agg(quote_ident(a.attname), ' IS DISTINCT FROM NULL AND ') FROM pg_index i \
             CROSS JOIN LATERAL unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) AS k \
             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k \
             WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indpred IS NULL \
             AND i.indexprs IS NULL GROUP BY i.indexrelid \
             HAVING array_agg(a.attname::text ORDER BY a.attname::text COLLATE \"C\") <> $2::text[] \
             ORDER BY 1",
            &[&subject.shape.shadow.oid, &key],
        )
        .await?;
    let mut findings = Vec::new();
    for row in indexes {
        let [name, columns, present] = row.as_slice() else { continue };
        let table = mapped(subject, "", "");
        let sql = format!(
            "SELECT min(\"pgsegue k\") || ') and (' || max(\"pgsegue k\") FROM {table} \
             WHERE {present} IS DISTINCT FROM NULL GROUP BY {columns} HAVING count(*) > 1 LIMIT 5"
        );
        findings.extend(refused(subject, name, &sql).await?);
    }
    Ok(findings)
}

/// Rows of a sample that the shadow would not give back as they are.
async fn way_back(subject: &Subject<'_>) -> Result<Option<Finding>, Error> {
    let unproven: Vec<Unproven> = reverse::unproven(subject.shape);
    if unproven.is_empty() {
        return Ok(None);
    }
    let numbered = || unproven.iter().enumerate();
    let more: String =
        numbered().map(|(i, one)| format!(", {} AS \"pgsegue o{i}\"", one.name.quoted())).collect();
    let was: Vec<String> = numbered().map(|(i, _)| format!("\"pgsegue o{i}\"")).collect();
    let back: Vec<&str> = unproven.iter().map(|one| one.back.as_str()).collect();
    let sql = format!(
        "SELECT \"pgsegue k\" FROM {} WHERE ROW({})::text <> ROW({})::text LIMIT 3",
        mapped(subject, &more, &format!(" LIMIT {SAMPLE}")),
        was.join(", "),
        back.join(", ")
    );
    let id = format!("way back {}", subject.migration.name);
    let remedy =
        "correct [migration.reverse] or the mapping; until then the shadow serves no reads";
    Ok(match look(subject, &sql).await? {
        Looked::Keys(keys) if keys.is_empty() => None,
        Looked::Keys(keys) => Some(Finding::warning(
            id,
            format!(
                "rows do not come back from the shadow as they are in the source: ({})",
                keys.join("), (")
            ),
            remedy,
        )),
        Looked::Not(why) => {
            Some(Finding::warning(id, format!("the way back could not be tried: {why}"), remedy))
        }
    })
}

/// How long the backfill may take.
async fn size(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    /// What one worker copies on ordinary hardware, roughly.
    const ROWS_PER_SECOND: u32 = 30_000;
    /// Below that it is not worth a line.
    const ROWS_MIN: u32 = 1_000_000;
    let rate = subject.migration.backfill_rows_per_second.unwrap_or(ROWS_PER_SECOND);
    subject
        .each(
            "SELECT r.rows::int8::text || ' rows, ' || pg_size_pretty(r.bytes), \
             justify_interval(make_interval(secs => round(r.rows / greatest($2::int8, 1))))::text \
             FROM (SELECT sum(greatest(c.reltuples, 0)) AS rows, sum(pg_table_size(c.oid)) AS bytes \
                 FROM pg_class c WHERE c.relkind = 'r' AND c.oid IN (SELECT $1::oid UNION \
                 SELECT relid FROM pg_partition_tree($1::oid))) AS r WHERE r.rows >= $3::int8",
            &[&subject.shape.source.oid, &i64::from(rate), &i64::from(ROWS_MIN)],
            |rows, time| {
                Finding::info(
                    format!("size {}", subject.shape.source.name),
                    format!("about {rows}: the backfill takes some {time}"),
                    "have room for the shadow, and bound it with backfill_rows_per_second",
                )
            },
        )
        .await
}

/// The barrier waits for a transaction that has written the source.
async fn transactions(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    subject
        .each(
            "SELECT string_agg(format('pid %s of %s for %s', pid, usename, \
                 date_trunc('second', clock_timestamp() - xact_start)), ', ' ORDER BY xact_start) \
             FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() \
             AND xact_start < clock_timestamp() - $1::text::interval HAVING count(*) > 0",
            &[&LONG_TRANSACTION],
            |who, _| {
                Finding::info(
                    "transactions",
                    format!("transactions open for more than {LONG_TRANSACTION}: {who}"),
                    "the start waits for those that have written the source; end them before",
                )
            },
        )
        .await
}
