//! Rows of the source that the shadow, or the partition that they belong to, would refuse.

use super::rows::{holds, mapped, mapped_as};
use super::scan::{Answer, Question, Scan};
use super::{Finding, Kind, Subject, mappings};
use crate::engine::Error;
use crate::engine::mapping::{Form, form};
use crate::engine::shape::{Column, Filled};
use crate::sql::ident::Ident;

/// All of them.
pub(super) async fn check(scan: &mut Scan<'_>) -> Result<Vec<Finding>, Error> {
    let mut findings = not_null(scan).await?;
    findings.extend(lengths(scan).await?);
    findings.extend(constraints(scan).await?);
    findings.extend(unique(scan).await?);
    findings.extend(exclusions(scan).await?);
    findings.extend(foreign_keys(scan).await?);
    findings.extend(partitions(scan).await?);
    Ok(findings)
}

/// The shadow, `$1`, and its partitions at every level, for IN. What only inherits gets no rows.
const MEMBERS: &str = "(SELECT $1::oid UNION SELECT relid::oid FROM pg_partition_tree($1::oid))";

/// Two columns of a catalog query for the table of this object id: its name, empty for the shadow
/// itself, and what holds for the rows that belong to it.
fn place(oid: &str) -> String {
    format!(
        "CASE WHEN {oid} = $1 THEN '' ELSE {oid}::regclass::text END, CASE WHEN {oid} = $1 THEN 'true' \
         ELSE coalesce(pg_get_partition_constraintdef({oid}), 'true') END"
    )
}

/// A table that rows of the shadow are in: itself, or a partition.
struct Place<'a> {
    subject: &'a Subject<'a>,
    /// The partition, as SQL spells it; empty for the shadow itself.
    partition: &'a str,
}

impl Place<'_> {
    fn table(&self) -> String {
        match self.partition {
            "" => self.subject.shape.shadow.name.quoted(),
            partition => partition.to_owned(),
        }
    }

    /// What a question is called.
    fn what(&self, what: &str) -> String {
        match self.partition {
            "" => what.to_owned(),
            partition => format!("{what} of {partition}"),
        }
    }

    fn object(&self, what: &str) -> String {
        match self.partition {
            "" => format!("{}.{what}", self.subject.shadow()),
            partition => format!("{partition}.{what}"),
        }
    }

    fn drop_constraint(&self, name: &str) -> String {
        format!("ALTER TABLE {} DROP CONSTRAINT {name}", self.table())
    }
}

/// Asks for rows of the source that something of the shadow refuses.
async fn refused(
    scan: &mut Scan<'_>,
    question: Question,
    object: String,
    relax: Option<String>,
) -> Result<Option<Finding>, Error> {
    let what = question.what.clone();
    Ok(match scan.ask(&question).await? {
        Answer::None => None,
        Answer::Rows(keys, within) => {
            let keys = keys.join(", ");
            let message = format!("the shadow's {what} refuses rows of the source{within}: {keys}");
            let remedy = "correct the rows or the mapping, or relax the shadow";
            let found = Finding::blocker(Kind::Rows, object, message, remedy);
            Some(relax.into_iter().fold(found, Finding::run))
        }
        Answer::Failed(_, error) => {
            scan.skip(format!("{what} ({})", mappings::server_error(error)?));
            None
        }
    })
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
        findings.extend(nulls(scan, &one.column, ("", "true")).await?);
    }
    findings.extend(not_null_of_partitions(scan).await?);
    Ok(findings)
}

/// Rows of which a column would be null, where a partition or the whole forbids it.
async fn nulls(
    scan: &mut Scan<'_>,
    column: &Column,
    (partition, fits): (&str, &str),
) -> Result<Option<Finding>, Error> {
    let place = Place { subject: scan.subject, partition };
    let (table, name) = (place.table(), column.name.quoted());
    let what = format!("NOT NULL {}", column.name.spelled());
    // `IS NULL` is true of a composite value whose fields are all null; the constraint takes it.
    let predicate = format!("{name} IS NOT DISTINCT FROM NULL AND ({fits})");
    let question = holds(scan.subject, &place.what(&what), "", &predicate, "");
    let relax = format!("ALTER TABLE {table} ALTER COLUMN {name} DROP NOT NULL");
    refused(scan, question, place.object(&what), Some(relax)).await
}

/// What is NOT NULL in a partition and may be null in the table that it is a partition of.
async fn not_null_of_partitions(scan: &mut Scan<'_>) -> Result<Vec<Finding>, Error> {
    let subject = scan.subject;
    let sql = format!(
        "SELECT a.attname::text, {} FROM pg_partition_tree($1::oid) t \
         JOIN pg_attribute a ON a.attrelid = t.relid AND a.attnum > 0 AND a.attnotnull AND NOT a.attisdropped \
         JOIN pg_attribute p ON p.attrelid = t.parentrelid AND p.attname = a.attname AND NOT p.attnotnull \
         WHERE t.relid <> $1 ORDER BY 2, a.attnum",
        place("t.relid")
    );
    let mut findings = Vec::new();
    for row in subject.rows(&sql, &[&subject.shape.shadow.oid]).await? {
        let [name, partition, fits] = row.as_slice() else { continue };
        let Some(column) = subject.shape.shadow.column(&Ident::new(name)) else { continue };
        if subject.shape.mapped.iter().any(|mapped| mapped.column.name == column.name) {
            findings.extend(nulls(scan, column, (partition, fits)).await?);
        } else if column.filled == Filled::Null {
            let (name, spelled) = (column.name.quoted(), column.name.spelled());
            findings.push(
                Finding::blocker(
                    Kind::Column,
                    format!("{partition}.{spelled}"),
                    format!("the column {spelled} of {partition} is NOT NULL, and the shadow's is not mapped, without default"),
                    "map it in [migration.columns], or let it be null",
                )
                .run(format!("ALTER TABLE {partition} ALTER COLUMN {name} DROP NOT NULL")),
            );
        }
    }
    Ok(findings)
}

/// Values that are too long for the column: a cast cuts them, an INSERT refuses them. A partition
/// has the lengths of its table.
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
        let what = format!("length {}", column.name.spelled());
        let question = holds(subject, &what, &more, &too_long, "");
        let wide = if matches!(column.type_oid, BIT | VARBIT) { "bit varying" } else { "text" };
        let table = subject.shape.shadow.name.quoted();
        let relax =
            format!("ALTER TABLE {table} ALTER COLUMN {} TYPE {wide}", column.name.quoted());
        let object = format!("{}.{what}", subject.shadow());
        findings.extend(refused(scan, question, object, Some(relax)).await?);
    }
    Ok(findings)
}

async fn constraints(scan: &mut Scan<'_>) -> Result<Vec<Finding>, Error> {
    let subject = scan.subject;
    let sql = format!(
        "SELECT quote_ident(conname), pg_get_expr(conbin, conrelid), {} FROM pg_constraint c \
         WHERE conrelid IN {MEMBERS} AND contype = 'c' AND (conrelid = $1 OR coninhcount = 0) \
         AND coalesce((to_jsonb(c) ->> 'conenforced')::bool, true) ORDER BY conrelid <> $1, 3, 1",
        place("conrelid")
    );
    let mut findings = Vec::new();
    for row in subject.rows(&sql, &[&subject.shape.shadow.oid]).await? {
        let [name, expression, partition, fits] = row.as_slice() else { continue };
        let place = Place { subject, partition };
        let predicate = format!("NOT ({expression}) AND ({fits})");
        let question = holds(subject, &place.what(name), "", &predicate, "");
        let drop = place.drop_constraint(name);
        findings.extend(refused(scan, question, place.object(name), Some(drop)).await?);
    }
    Ok(findings)
}

/// Of `pg_index i`: the name, the values, that none is null if nulls are distinct, the predicate, the
/// constraint, and the name with its schema.
const INDEX: &str = "(SELECT quote_ident(relname) FROM pg_class WHERE oid = i.indexrelid), e.columns, \
    CASE WHEN coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::bool, false) THEN 'true' ELSE e.present END, \
    coalesce(pg_get_expr(i.indpred, i.indrelid), 'true'), \
    (SELECT quote_ident(conname) FROM pg_constraint c WHERE c.conindid = i.indexrelid AND c.contype IN ('u', 'p')), \
    i.indexrelid::regclass::text";

/// Unique indexes but the key's own: partial ones and ones over expressions as well. A partition's
/// are those that no index of its table has made.
async fn unique(scan: &mut Scan<'_>) -> Result<Vec<Finding>, Error> {
    let subject = scan.subject;
    let mut key: Vec<&str> =
        subject.shape.key.iter().map(|pair| pair.shadow.name.as_str()).collect();
    key.sort_unstable();
    let sql = format!(
        "SELECT {INDEX}, {} FROM pg_index i \
         CROSS JOIN LATERAL (SELECT string_agg(x.value || x.collated, ', ' ORDER BY n) AS columns, \
             string_agg(x.value || ' IS DISTINCT FROM NULL', ' AND ' ORDER BY n) AS present \
             FROM generate_series(1, i.indnkeyatts) AS n CROSS JOIN LATERAL (SELECT \
                 '(' || pg_get_indexdef(i.indexrelid, n, false) || ')' AS value, \
                 coalesce((SELECT ' COLLATE ' || l.oid::regcollation FROM pg_collation l \
                     WHERE l.oid = (i.indcollation::oid[])[n - 1] AND l.collname <> 'default'), '') AS collated) AS x) AS e \
         WHERE i.indrelid IN {MEMBERS} AND i.indisunique AND i.indisvalid AND NOT i.indisexclusion \
         AND (i.indrelid = $1 OR NOT EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = i.indexrelid)) \
         AND (i.indpred IS NOT NULL OR i.indexprs IS NOT NULL \
             OR (SELECT array_agg(a.attname::text ORDER BY a.attname::text COLLATE \"C\") \
                 FROM unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) AS k \
                 JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k) <> $2::text[]) \
         ORDER BY i.indrelid <> $1, 7, 1",
        place("i.indrelid")
    );
    let mut findings = Vec::new();
    for row in subject.rows(&sql, &[&subject.shape.shadow.oid, &key]).await? {
        let [name, columns, present, only, constraint, index, partition, fits] = row.as_slice()
        else {
            continue;
        };
        let table = Place { subject, partition };
        let (own, place) = (&subject.own, "\u{1}");
        let sql = format!(
            "SELECT min(\"{own}k\") || ' and ' || max(\"{own}k\") FROM {} \
             WHERE ({fits}) AND ({only}) AND {present} GROUP BY {columns} HAVING count(*) > 1",
            mapped(subject, "", place)
        );
        let question = Question {
            what: table.what(name),
            sql: Box::new(move |clause| sql.replacen(place, clause, 1)),
            by_row: false,
        };
        let relax = match constraint.as_str() {
            "" => format!("DROP INDEX {index}"),
            constraint => table.drop_constraint(constraint),
        };
        findings.extend(refused(scan, question, table.object(name), Some(relax)).await?);
    }
    Ok(findings)
}

/// Rows of which an exclusion constraint, or a key WITHOUT OVERLAPS, takes only one.
async fn exclusions(scan: &mut Scan<'_>) -> Result<Vec<Finding>, Error> {
    let subject = scan.subject;
    let own = &subject.own;
    let sql = format!(
        "SELECT quote_ident(c.conname), \
         string_agg(format('(%s) AS \"%s%s\"', pg_get_indexdef(i.indexrelid, n::int, false), $2::text, n), ', ' ORDER BY n), \
         string_agg(format('a.\"%1$s%2$s\" OPERATOR(%3$s.%4$s) b.\"%1$s%2$s\"', $2::text, n, \
             o.oprnamespace::regnamespace, o.oprname), ' AND ' ORDER BY n), \
         coalesce(pg_get_expr(i.indpred, i.indrelid), 'true'), {} \
         FROM pg_constraint c JOIN pg_index i ON i.indexrelid = c.conindid \
         CROSS JOIN LATERAL unnest(c.conexclop) WITH ORDINALITY AS x (op, n) \
         JOIN pg_operator o ON o.oid = x.op WHERE c.conrelid IN {MEMBERS} \
         AND (c.conrelid = $1 OR c.conparentid = 0) \
         GROUP BY c.oid, c.conname, c.conrelid, i.indexrelid, i.indpred, i.indrelid \
         ORDER BY c.conrelid <> $1, 5, 1",
        place("c.conrelid")
    );
    let mut findings = Vec::new();
    for row in subject.rows(&sql, &[&subject.shape.shadow.oid, own]).await? {
        let [name, elements, conflict, only, partition, fits] = row.as_slice() else { continue };
        let table = Place { subject, partition };
        let place = "\u{1}";
        let rows = mapped(subject, "", place);
        let sql = format!(
            "WITH \"{own}rows\" AS MATERIALIZED (SELECT \"{own}k\" AS k, {elements} FROM {rows} \
             WHERE ({fits}) AND ({only})) \
             SELECT a.k || ' and ' || b.k FROM \"{own}rows\" AS a JOIN \"{own}rows\" AS b ON a.k < b.k AND {conflict}"
        );
        let question = Question {
            what: table.what(name),
            sql: Box::new(move |clause| sql.replacen(place, clause, 1)),
            by_row: false,
        };
        let drop = table.drop_constraint(name);
        findings.extend(refused(scan, question, table.object(name), Some(drop)).await?);
    }
    Ok(findings)
}

/// Rows whose mapped columns refer to nothing. What refers to the shadow itself is looked for among
/// the rows that it will have.
async fn foreign_keys(scan: &mut Scan<'_>) -> Result<Vec<Finding>, Error> {
    let subject = scan.subject;
    let alias = subject.shape.shadow.name.name.quoted();
    let sql = format!(
        "SELECT quote_ident(c.conname), c.confrelid::regclass::text, \
         string_agg(format('%1$s.%2$I IS NOT NULL', $2::text, a.attname), ' AND '), \
         string_agg(format('\"pgsegue ref\".%2$I = %1$s.%3$I', $2::text, b.attname, a.attname), ' AND '), \
         (c.confrelid IN {MEMBERS})::text, {}, {} \
         FROM pg_constraint c CROSS JOIN LATERAL unnest(c.conkey, c.confkey) AS k (here, there) \
         JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.here \
         JOIN pg_attribute b ON b.attrelid = c.confrelid AND b.attnum = k.there \
         WHERE c.conrelid IN {MEMBERS} AND c.contype = 'f' AND c.conparentid = 0 \
         AND coalesce((to_jsonb(c) ->> 'conenforced')::bool, true) \
         GROUP BY c.oid, c.conname, c.conrelid, c.confrelid ORDER BY c.conrelid <> $1, 6, 1",
        place("c.conrelid"),
        place("c.confrelid")
    );
    let mut findings = Vec::new();
    for row in subject.rows(&sql, &[&subject.shape.shadow.oid, &alias]).await? {
        let [name, other, present, same, to_itself, partition, fits, _, referred] = row.as_slice()
        else {
            continue;
        };
        let place = Place { subject, partition };
        // A name without a table is that of the innermost query that has it.
        let referred = match to_itself.as_str() {
            "true" => format!(
                "{} WHERE ({referred}) AND {same}",
                mapped_as(subject, "", "", "\"pgsegue ref\"")
            ),
            _ => format!("{other} AS \"pgsegue ref\" WHERE {same}"),
        };
        let predicate = format!("({fits}) AND {present} AND NOT EXISTS (SELECT FROM {referred})");
        let question = holds(subject, &place.what(name), "", &predicate, "");
        let drop = place.drop_constraint(name);
        findings.extend(refused(scan, question, place.object(name), Some(drop)).await?);
    }
    Ok(findings)
}

/// Rows that belong to no partition of the shadow, or not into a shadow that is one itself.
async fn partitions(scan: &mut Scan<'_>) -> Result<Option<Finding>, Error> {
    let subject = scan.subject;
    let shadow = &subject.shape.shadow;
    let sql = "SELECT coalesce(string_agg('(' || coalesce(pg_get_partition_constraintdef(relid), 'true') || ')', ' OR '), 'false'), \
               quote_ident($2::text) || '.' || quote_ident(left($3::text, 40) || '_default'), \
               (SELECT relispartition FROM pg_class WHERE oid = $1)::text \
               FROM pg_partition_tree($1::oid) WHERE isleaf AND (relid <> $1::oid OR $4)";
    let (schema, name) = (shadow.name.schema.as_str(), shadow.name.name.as_str());
    let plain = shadow.kind != "p";
    let rows = subject.rows(sql, &[&shadow.oid, &schema, &name, &plain]).await?.concat();
    let [fits, default, is_partition] = rows.as_slice() else { return Ok(None) };
    let is_partition = is_partition == "true";
    if plain && !is_partition {
        return Ok(None);
    }
    let question = holds(subject, "partitions", "", &format!("({fits}) IS NOT TRUE"), "");
    let make = format!("CREATE TABLE {default} PARTITION OF {} DEFAULT", shadow.name.quoted());
    let object = format!("{}.partitions", subject.shadow());
    // No partition makes room for what the shadow's own bounds keep out; its parent is a finding.
    refused(scan, question, object, (!is_partition).then_some(make)).await
}
