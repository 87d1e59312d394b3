//! The indexes over the key: one that makes it unique, on both sides, and one in its order.

use super::{Finding, Kind, Subject, finding};
use crate::engine::Error;
use crate::engine::shape::{Column, Relation, Shape};
use tokio_postgres::error::SqlState;

/// Both tables.
pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    for (relation, key) in keys(subject.shape) {
        let indexes = indexes(subject, relation).await?;
        let names: Vec<&str> = key.iter().map(|column| column.name.as_str()).collect();
        if !indexes.iter().any(|index| index.is_over(&names) && index.flaws.is_empty()) {
            let mut found = not_unique(relation, &key, &indexes);
            if let Some(missing) = missing_of_partitions(subject, relation, &names).await? {
                found.sql.clear();
                found.remedy = missing;
            }
            findings.push(found);
        } else if !indexes.iter().any(|index| index.in_order && index.starts_with(&names)) {
            findings.push(no_order(relation, &key));
        }
    }
    Ok(findings)
}

/// Why a partitioned table takes no unique index over the key: by what it is partitioned is not in it.
async fn missing_of_partitions(
    subject: &Subject<'_>,
    relation: &Relation,
    key: &[&str],
) -> Result<Option<String>, Error> {
    let sql = "SELECT coalesce(a.attname::text, '') FROM pg_partitioned_table p \
               CROSS JOIN unnest(p.partattrs::int2[]) AS k (n) LEFT JOIN pg_attribute a \
               ON a.attrelid = p.partrelid AND a.attnum = k.n WHERE p.partrelid = $1";
    let rows = subject.rows(sql, &[&relation.oid]).await?.concat();
    let missing: Vec<&str> =
        rows.iter().map(String::as_str).filter(|column| !key.contains(column)).collect();
    let named = || {
        let names = missing.iter().map(|name| match *name {
            "" => "an expression".to_owned(),
            name => crate::sql::ident::Ident::new(name).spelled(),
        });
        names.collect::<Vec<_>>().join(", ")
    };
    Ok((!missing.is_empty()).then(|| {
        format!(
            "it is partitioned by {}, which every unique index of it has to contain: take a key with \
             that, or a table that is not partitioned so",
            named()
        )
    }))
}

/// The two tables with the columns of the key.
fn keys(shape: &Shape) -> [(&Relation, Vec<&Column>); 2] {
    let source = shape.key.iter().map(|pair| &pair.source).collect();
    let shadow = shape.key.iter().map(|pair| &pair.shadow).collect();
    [(&shape.source, source), (&shape.shadow, shadow)]
}

/// Says which keys several rows have, where no index makes them unique: none can be created before
/// these rows are gone.
pub(super) async fn count_duplicates(
    subject: &Subject<'_>,
    findings: &mut [Finding],
) -> Result<(), Error> {
    for (relation, key) in keys(subject.shape) {
        let object = relation.name.spelled();
        let of_table = |f: &&mut Finding| f.kind == Kind::Unique && f.object == object;
        let Some(finding) = findings.iter_mut().find(of_table) else { continue };
        let (table, columns) = (relation.name.quoted(), quoted(&key, ""));
        let texts: Vec<String> =
            key.iter().map(|column| format!("{}::text", column.name.quoted())).collect();
        let sql = format!(
            "SELECT count(*)::text, min(k) FROM (SELECT '(' || concat_ws(', ', {}) || ')' FROM {table} \
             WHERE ({columns}) IS NOT NULL GROUP BY {columns} HAVING count(*) > 1) AS several (k)",
            texts.join(", ")
        );
        let rows = match subject.rows(&sql, &[]).await {
            Ok(rows) => rows.concat(),
            Err(Error::Postgres(error)) if error.code() == Some(&SqlState::QUERY_CANCELED) => {
                finding.message.push_str("; whether several rows have one key was too slow to see");
                continue;
            }
            Err(error) => return Err(error),
        };
        let [several, one] = rows.as_slice() else { continue };
        if several == "0" {
            continue;
        }
        finding
            .message
            .push_str(&format!("; several rows have one key: {several} times, such as {one}"));
        let first = if relation.oid == subject.shape.shadow.oid {
            let delete = format!(
                "DELETE FROM {table} a USING {table} b WHERE ({}) = ({}) \
                 AND (a.tableoid, a.ctid) < (b.tableoid, b.ctid)",
                quoted(&key, "a."),
                quoted(&key, "b.")
            );
            finding.sql.insert(0, delete);
            "delete all but one of these rows, which the backfill corrects, then "
        } else {
            finding.sql.clear();
            "give these rows other keys or delete them, then "
        };
        finding.remedy.insert_str(0, first);
    }
    Ok(())
}

/// The columns of a key, each behind a prefix.
fn quoted(key: &[&Column], prefix: &str) -> String {
    let names: Vec<String> =
        key.iter().map(|column| format!("{prefix}{}", column.name.quoted())).collect();
    names.join(", ")
}

/// An index, as far as it could serve a key.
struct Index {
    name: String,
    /// The key columns of the index in their order; empty for an expression.
    columns: Vec<String>,
    /// What keeps it from making its columns unique for ON CONFLICT.
    flaws: Vec<String>,
    /// A valid B-tree in the columns' own order, whole.
    in_order: bool,
    /// Whether all of its columns are NOT NULL.
    not_null: bool,
}

impl Index {
    fn is_over(&self, key: &[&str]) -> bool {
        self.columns.len() == key.len() && key.iter().all(|k| self.columns.iter().any(|c| c == k))
    }

    fn starts_with(&self, key: &[&str]) -> bool {
        self.columns.len() >= key.len() && self.columns.iter().zip(key).all(|(c, k)| c == k)
    }
}

async fn indexes(subject: &Subject<'_>, relation: &Relation) -> Result<Vec<Index>, Error> {
    let rows = subject
        .client
        .query(
            "SELECT i.indexrelid::regclass::text, \
             array(SELECT coalesce(a.attname::text, '') FROM unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) \
                 WITH ORDINALITY AS k (n, o) LEFT JOIN pg_attribute a ON a.attrelid = $1 AND a.attnum = k.n \
                 ORDER BY k.o), \
             array_remove(ARRAY[CASE WHEN NOT i.indisunique THEN 'not unique' END, \
                 CASE WHEN NOT i.indisvalid OR NOT i.indisready THEN 'invalid' END, \
                 CASE WHEN NOT i.indimmediate THEN 'deferrable' END, \
                 CASE WHEN i.indpred IS NOT NULL THEN 'partial' END, \
                 CASE WHEN i.indexprs IS NOT NULL THEN 'over expressions' END], NULL), \
             am.amname = 'btree' AND i.indisvalid AND i.indpred IS NULL \
             AND (SELECT count(DISTINCT o & 1) = 1 FROM unnest(i.indoption::int2[]) AS o) \
             AND (SELECT bool_and(opc.opcdefault) FROM unnest(i.indclass::oid[]) AS c \
                 JOIN pg_opclass opc ON opc.oid = c), \
             (SELECT bool_and(a.attnotnull) FROM unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) AS k \
                 JOIN pg_attribute a ON a.attrelid = $1 AND a.attnum = k) IS TRUE \
             FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am am ON am.oid = c.relam \
             WHERE i.indrelid = $1 ORDER BY 1",
            &[&relation.oid],
        )
        .await?;
    let index = |row: &tokio_postgres::Row| {
        Ok(Index {
            name: row.try_get(0)?,
            columns: row.try_get(1)?,
            flaws: row.try_get(2)?,
            in_order: row.try_get(3)?,
            not_null: row.try_get(4)?,
        })
    };
    rows.iter().map(index).collect()
}

fn spelled(key: &[&Column]) -> String {
    let names: Vec<String> = key.iter().map(|column| column.name.spelled()).collect();
    names.join(", ")
}

fn not_unique(relation: &Relation, key: &[&Column], indexes: &[Index]) -> Finding {
    let table = relation.name.spelled();
    let names: Vec<&str> = key.iter().map(|column| column.name.as_str()).collect();
    let near: Vec<String> = indexes
        .iter()
        .filter(|index| index.is_over(&names) || index.columns.iter().any(String::is_empty))
        .take(3)
        .map(|index| format!("{} is {}", index.name, index.flaws.join(" and ")))
        .collect();
    let mut message = format!("{table} has no unique index over exactly ({})", spelled(key));
    if !near.is_empty() {
        message = format!("{message} ({})", near.join("; "));
    }
    let others: Vec<&Index> = indexes
        .iter()
        .filter(|index| index.flaws.is_empty() && index.not_null && !index.is_over(&names))
        .collect();
    let mut found = Finding::blocker(
        Kind::Unique,
        &table,
        message,
        "create one: valid, not partial, not deferrable, over columns only",
    );
    for index in indexes.iter().filter(|i| i.is_over(&names) && i.flaws == ["invalid"]) {
        found = found.run(format!("DROP INDEX {}", index.name));
    }
    found = found.run(create("UNIQUE INDEX", relation, key));
    if let Some(other) = others.first() {
        let columns: Vec<String> = other.columns.iter().map(|c| finding::toml_string(c)).collect();
        found.remedy.push_str("; or take another key that is unique already");
        found = found.write(format!("key = [{}]", columns.join(", ")));
    }
    found
}

fn no_order(relation: &Relation, key: &[&Column]) -> Finding {
    let table = relation.name.spelled();
    Finding::warning(
        Kind::KeyOrder,
        &table,
        format!("{table} has no B-tree index that starts with ({}) in this order", spelled(key)),
        "create one, or order `key` in the config file as the unique index is",
    )
    .run(create("INDEX", relation, key))
}

/// Concurrently where that can be: writers are not held up.
fn create(what: &str, relation: &Relation, key: &[&Column]) -> String {
    let concurrently = if relation.kind == "p" { "" } else { " CONCURRENTLY" };
    format!("CREATE {what}{concurrently} ON {} ({})", relation.name.quoted(), quoted(key, ""))
}
