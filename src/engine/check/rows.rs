//! The rows that are there already: whether they can be mapped, whether the shadow's constraints
//! take them, and whether they come back as they are.

use super::scan::{Answer, Question, Scan};
use super::{Finding, Kind, Subject, mappings, settings};
use crate::engine::Error;
use crate::engine::mapping::{Form, form};
use crate::engine::reverse;
use crate::engine::shape::{Column, Mapped};
use std::time::Duration;

/// All of them.
pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
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
    let looked = Box::pin(looks(subject)).await;
    subject.client.batch_execute("RESET synchronize_seqscans").await?;
    looked
}

async fn looks(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let mut scan = Scan::new(subject).await?;
    let mut findings: Vec<Finding> = casts(&mut scan).await?.into_iter().collect();
    findings.extend(not_null(&mut scan).await?);
    findings.extend(lengths(&mut scan).await?);
    findings.extend(constraints(&mut scan).await?);
    findings.extend(unique(&mut scan).await?);
    findings.extend(exclusions(&mut scan).await?);
    findings.extend(foreign_keys(&mut scan).await?);
    findings.extend(partitions(&mut scan).await?);
    findings.extend(lossy(&mut scan).await?);
    findings.extend(way_back(&mut scan).await?);
    let tried = settings::check(&scan).await?;
    findings.extend(tried.findings);
    findings.extend(size(&scan, tried.pace));
    findings.extend(scan.left_out());
    Ok(findings)
}

/// The mapped source as a table expression under the shadow's name, for `FROM source <clause>`: the
/// key as text, the shadow's columns by their names, and more.
fn mapped(subject: &Subject<'_>, more: &str, clause: &str) -> String {
    mapped_as(subject, more, clause, &subject.shape.shadow.name.name.quoted())
}

/// The same under another name.
fn mapped_as(subject: &Subject<'_>, more: &str, clause: &str, name: &str) -> String {
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
fn holds(subject: &Subject<'_>, what: &str, more: &str, predicate: &str, shown: &str) -> Question {
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

/// Asks for rows of the source that something of the shadow refuses.
async fn refused(
    scan: &mut Scan<'_>,
    question: Question,
    relax: Option<String>,
) -> Result<Option<Finding>, Error> {
    let what = question.what.clone();
    Ok(match scan.ask(&question).await? {
        Answer::None => None,
        Answer::Rows(keys, within) => {
            let found = Finding::blocker(
                Kind::Rows,
                format!("{}.{what}", scan.subject.shadow()),
                format!(
                    "the shadow's {what} refuses rows of the source{within}: {}",
                    keys.join(", ")
                ),
                "correct the rows or the mapping, or relax the shadow",
            );
            Some(relax.into_iter().fold(found, Finding::run))
        }
        Answer::Failed(_, error) => {
            scan.skip(format!("{what} ({})", mappings::server_error(error)?));
            None
        }
    })
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

async fn not_null(scan: &mut Scan<'_>) -> Result<Vec<Finding>, Error> {
    let subject = scan.subject;
    let mut findings = Vec::new();
    for one in subject.shape.mapped.iter().filter(|m| m.column.not_null) {
        let same = |c: &Column| c.not_null && form(&one.expression) == Form::Column(c.name.clone());
        let in_key = subject.shape.key.iter().any(|pair| pair.shadow.name == one.column.name);
        if in_key || subject.shape.source.columns.iter().any(same) {
            continue;
        }
        let (table, name) = (subject.shape.shadow.name.quoted(), one.column.name.quoted());
        let what = format!("NOT NULL {}", one.column.name.spelled());
        let question = holds(subject, &what, "", &is_null(&name), "");
        let relax = format!("ALTER TABLE {table} ALTER COLUMN {name} DROP NOT NULL");
        findings.extend(refused(scan, question, Some(relax)).await?);
    }
    Ok(findings)
}

/// `IS NULL` is true of a composite value whose fields are all null; the constraint takes it.
fn is_null(column: &str) -> String {
    format!("{column} IS NOT DISTINCT FROM NULL")
}

/// Values that are too long for the column: a cast cuts them, an INSERT refuses them.
async fn lengths(scan: &mut Scan<'_>) -> Result<Vec<Finding>, Error> {
    const BPCHAR: u32 = 1042;
    const VARCHAR: u32 = 1043;
    const BIT: u32 = 1560;
    const VARBIT: u32 = 1562;
    let subject = scan.subject;
    let mut findings = Vec::new();
    for one in &subject.shape.mapped {
        let (column, typmod) = (&one.column, one.column.typmod);
        let raw = format!("\"{}v\"", subject.own);
        let too_long = match column.type_oid {
            BPCHAR | VARCHAR if typmod > 4 => {
                format!("char_length(rtrim({raw}::text, ' ')) > {}", typmod - 4)
            }
            BIT if typmod > 0 => format!("length({raw}::text) <> {typmod}"),
            VARBIT if typmod > 0 => format!("length({raw}::text) > {typmod}"),
            _ => continue,
        };
        let is_it = |c: &Column| form(&one.expression) == Form::Column(c.name.clone());
        let same = |c: &Column| (c.type_oid, c.typmod) == (column.type_oid, typmod);
        if subject.shape.source.columns.iter().any(|c| is_it(c) && same(c)) {
            continue;
        }
        let more = format!(", ({}) AS {raw}", one.expression);
        let question =
            holds(subject, &format!("length {}", column.name.spelled()), &more, &too_long, "");
        let wide = if matches!(column.type_oid, BIT | VARBIT) { "bit varying" } else { "text" };
        let table = subject.shape.shadow.name.quoted();
        let relax =
            format!("ALTER TABLE {table} ALTER COLUMN {} TYPE {wide}", column.name.quoted());
        findings.extend(refused(scan, question, Some(relax)).await?);
    }
    Ok(findings)
}

async fn constraints(scan: &mut Scan<'_>) -> Result<Vec<Finding>, Error> {
    let subject = scan.subject;
    let checks = subject
        .rows(
            "SELECT quote_ident(conname), pg_get_expr(conbin, conrelid) FROM pg_constraint \
             WHERE conrelid = $1 AND contype = 'c' ORDER BY 1",
            &[&subject.shape.shadow.oid],
        )
        .await?;
    let mut findings = Vec::new();
    for row in checks {
        let [name, expression] = row.as_slice() else { continue };
        let question = holds(subject, name, "", &format!("NOT ({expression})"), "");
        findings.extend(refused(scan, question, Some(drop_constraint(subject, name))).await?);
    }
    Ok(findings)
}

fn drop_constraint(subject: &Subject<'_>, name: &str) -> String {
    format!("ALTER TABLE {} DROP CONSTRAINT {name}", subject.shape.shadow.name.quoted())
}

/// Unique indexes but the key's own: partial ones and ones over expressions as well.
async fn unique(scan: &mut Scan<'_>) -> Result<Vec<Finding>, Error> {
    let subject = scan.subject;
    let mut key: Vec<&str> =
        subject.shape.key.iter().map(|pair| pair.shadow.name.as_str()).collect();
    key.sort_unstable();
    let indexes = subject
        .rows(
            "SELECT (SELECT quote_ident(relname) FROM pg_class WHERE oid = i.indexrelid), e.columns, \
             CASE WHEN coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::bool, false) THEN 'true' ELSE e.present END, \
             coalesce(pg_get_expr(i.indpred, i.indrelid), 'true'), \
             (SELECT quote_ident(conname) FROM pg_constraint c WHERE c.conindid = i.indexrelid AND c.contype IN ('u', 'p')), \
             i.indexrelid::regclass::text \
             FROM pg_index i CROSS JOIN LATERAL (SELECT string_agg(x.value || x.collated, ', ' ORDER BY n) AS columns, \
                 string_agg(x.value || ' IS DISTINCT FROM NULL', ' AND ' ORDER BY n) AS present \
                 FROM generate_series(1, i.indnkeyatts) AS n CROSS JOIN LATERAL (SELECT \
                     '(' || pg_get_indexdef(i.indexrelid, n, false) || ')' AS value, \
                     coalesce((SELECT ' COLLATE ' || l.oid::regcollation FROM pg_collation l \
                         WHERE l.oid = (i.indcollation::oid[])[n - 1] AND l.collname <> 'default'), '') AS collated) AS x) AS e \
             WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND NOT i.indisexclusion \
             AND (i.indpred IS NOT NULL OR i.indexprs IS NOT NULL \
                 OR (SELECT array_agg(a.attname::text ORDER BY a.attname::text COLLATE \"C\") \
                     FROM unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) AS k \
                     JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k) <> $2::text[]) \
             ORDER BY 1",
            &[&subject.shape.shadow.oid, &key],
        )
        .await?;
    let mut findings = Vec::new();
    for row in indexes {
        let [name, columns, present, only, constraint, index] = row.as_slice() else { continue };
        let (own, place) = (&subject.own, "\u{1}");
        let sql = format!(
            "SELECT min(\"{own}k\") || ' and ' || max(\"{own}k\") FROM {} WHERE ({only}) AND {present} \
             GROUP BY {columns} HAVING count(*) > 1",
            mapped(subject, "", place)
        );
        let question = Question {
            what: name.clone(),
            sql: Box::new(move |clause| sql.replacen(place, clause, 1)),
            by_row: false,
        };
        let relax = if constraint.is_empty() {
            format!("DROP INDEX {index}")
        } else {
            drop_constraint(subject, constraint)
        };
        findings.extend(refused(scan, question, Some(relax)).await?);
    }
    Ok(findings)
}

/// Rows of which an exclusion constraint, or a key WITHOUT OVERLAPS, takes only one.
async fn exclusions(scan: &mut Scan<'_>) -> Result<Vec<Finding>, Error> {
    let subject = scan.subject;
    let own = &subject.own;
    let constraints = subject
        .rows(
            "SELECT quote_ident(c.conname), \
             string_agg(format('(%s) AS \"%s%s\"', pg_get_indexdef(i.indexrelid, n::int, false), $2::text, n), ', ' ORDER BY n), \
             string_agg(format('a.\"%1$s%2$s\" OPERATOR(%3$s.%4$s) b.\"%1$s%2$s\"', $2::text, n, \
                 o.oprnamespace::regnamespace, o.oprname), ' AND ' ORDER BY n), \
             coalesce(pg_get_expr(i.indpred, i.indrelid), 'true') \
             FROM pg_constraint c JOIN pg_index i ON i.indexrelid = c.conindid \
             CROSS JOIN LATERAL unnest(c.conexclop) WITH ORDINALITY AS x (op, n) \
             JOIN pg_operator o ON o.oid = x.op WHERE c.conrelid = $1 \
             GROUP BY c.oid, c.conname, i.indexrelid, i.indpred, i.indrelid ORDER BY 1",
            &[&subject.shape.shadow.oid, own],
        )
        .await?;
    let mut findings = Vec::new();
    for row in constraints {
        let [name, elements, conflict, only] = row.as_slice() else { continue };
        let place = "\u{1}";
        let rows = mapped(subject, "", place);
        let sql = format!(
            "WITH \"{own}rows\" AS MATERIALIZED (SELECT \"{own}k\" AS k, {elements} FROM {rows} WHERE {only}) \
             SELECT a.k || ' and ' || b.k FROM \"{own}rows\" AS a JOIN \"{own}rows\" AS b ON a.k < b.k AND {conflict}"
        );
        let question = Question {
            what: name.clone(),
            sql: Box::new(move |clause| sql.replacen(place, clause, 1)),
            by_row: false,
        };
        let drop = drop_constraint(subject, name);
        findings.extend(refused(scan, question, Some(drop)).await?);
    }
    Ok(findings)
}

/// Rows whose mapped columns refer to nothing. What refers to the shadow itself is looked for among
/// the rows that it will have.
async fn foreign_keys(scan: &mut Scan<'_>) -> Result<Vec<Finding>, Error> {
    let subject = scan.subject;
    let alias = subject.shape.shadow.name.name.quoted();
    let keys = subject
        .rows(
            "SELECT quote_ident(c.conname), c.confrelid::regclass::text, \
             string_agg(format('%1$s.%2$I IS NOT NULL', $2::text, a.attname), ' AND '), \
             string_agg(format('\"pgsegue ref\".%2$I = %1$s.%3$I', $2::text, b.attname, a.attname), ' AND '), \
             (c.confrelid = $1)::text \
             FROM pg_constraint c CROSS JOIN LATERAL unnest(c.conkey, c.confkey) AS k (here, there) \
             JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.here \
             JOIN pg_attribute b ON b.attrelid = c.confrelid AND b.attnum = k.there \
             WHERE c.conrelid = $1 AND c.contype = 'f' AND c.conparentid = 0 \
             GROUP BY c.oid, c.conname, c.confrelid ORDER BY 1",
            &[&subject.shape.shadow.oid, &alias],
        )
        .await?;
    let mut findings = Vec::new();
    for row in keys {
        let [name, table, present, same, to_itself] = row.as_slice() else { continue };
        let referred = match to_itself.as_str() {
            "true" => mapped_as(subject, "", "", "\"pgsegue ref\""),
            _ => format!("{table} AS \"pgsegue ref\""),
        };
        let predicate = format!("{present} AND NOT EXISTS (SELECT FROM {referred} WHERE {same})");
        let question = holds(subject, name, "", &predicate, "");
        findings.extend(refused(scan, question, Some(drop_constraint(subject, name))).await?);
    }
    Ok(findings)
}

/// Rows that belong to no partition of the shadow.
async fn partitions(scan: &mut Scan<'_>) -> Result<Option<Finding>, Error> {
    let subject = scan.subject;
    let shadow = &subject.shape.shadow;
    if shadow.kind != "p" {
        return Ok(None);
    }
    let sql = "SELECT coalesce(string_agg('(' || coalesce(pg_get_partition_constraintdef(relid), 'true') || ')', ' OR '), 'false'), \
               quote_ident($2::text) || '.' || quote_ident(left($3::text, 40) || '_default') \
               FROM pg_partition_tree($1::oid) WHERE isleaf AND relid <> $1::oid";
    let (schema, name) = (shadow.name.schema.as_str(), shadow.name.name.as_str());
    let rows = subject.rows(sql, &[&shadow.oid, &schema, &name]).await?.concat();
    let [fits, default] = rows.as_slice() else { return Ok(None) };
    let question = holds(subject, "partitions", "", &format!("({fits}) IS NOT TRUE"), "");
    let make = format!("CREATE TABLE {default} PARTITION OF {} DEFAULT", shadow.name.quoted());
    refused(scan, question, Some(make)).await
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
    for one in reverse::unproven(subject.shape) {
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

/// How long the backfill may take, and the room that it needs.
fn size(scan: &Scan<'_>, pace: Option<(u64, Duration)>) -> Vec<Finding> {
    /// Of what rows take that are only read and mapped, what a copy takes with its indexes and WAL.
    const COPY_FACTOR: u64 = 4;
    let subject = scan.subject;
    let (rows, bytes) = (scan.rows, scan.bytes);
    if rows < subject.effort.big_rows {
        return Vec::new();
    }
    let Some((mapped, took)) = pace else { return Vec::new() };
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
    let possible = (mapped.saturating_mul(1_000_000) / micros / COPY_FACTOR).max(1);
    let limit = subject.migration.backfill_rows_per_second.map(u64::from);
    let (pace, from) = match limit {
        Some(limit) if limit < possible => (limit, "backfill_rows_per_second".to_owned()),
        _ => (
            possible,
            format!("a quarter of what {mapped} rows took to be mapped, {} ms", micros / 1000),
        ),
    };
    let megabytes = bytes >> 20;
    let needed = (bytes + bytes / 2) >> 20;
    let found = Finding::info(
        Kind::Size,
        subject.source(),
        format!(
            "about {rows} rows, {megabytes} MB: the backfill takes some {} at {pace} rows/s ({from})",
            lasting(rows / pace)
        ),
        "bound it if the disks have other work",
    );
    vec![
        if limit.is_none() { found.write("backfill_rows_per_second = 20000") } else { found },
        Finding::info(
            Kind::Disk,
            "",
            format!(
                "the shadow needs about {needed} MB with its indexes, and the backfill as much again for WAL; \
                 Postgres does not say how much is free"
            ),
            "compare with df on the server, for its data_directory and pg_wal",
        ),
    ]
}

/// Seconds for people.
fn lasting(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        _ => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
    }
}
