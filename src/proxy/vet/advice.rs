//! What helps where the shadow would be scanned: the index by which the source's rows are looked up, in
//! the shadow's columns.

use super::Unfit;
use crate::sql::ident::Ident;
use crate::sql::target::{Reverse, Target};
use serde_json::Value;
use std::collections::BTreeSet;
use tokio_postgres::Transaction;

/// Indexes that are named for one read.
const INDEXES_NAMED_MAX: usize = 3;

/// Statements that make the indexes which the shadow lacks, as far as the source's plan tells.
pub(super) async fn indexes(
    transaction: &Transaction<'_>,
    on_source: &Value,
    target: &Target,
) -> Result<Vec<String>, Unfit> {
    let mut names = BTreeSet::new();
    named(on_source, &mut names);
    let names = names.into_iter().collect::<Vec<_>>();
    // Of a partitioned table the plan names the partitions' indexes, which are alike.
    let rows = transaction
        .query(
            "SELECT DISTINCT m.amname::text, ARRAY(SELECT a.attname::text \
                 FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS k(number, place) \
                 LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number \
                     AND k.number > 0 WHERE k.place <= i.indnkeyatts ORDER BY k.place) \
             FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
             JOIN pg_catalog.pg_am m ON m.oid = c.relam \
             WHERE c.relname = ANY ($2::text[]) AND (i.indrelid = $1 \
                 OR i.indrelid IN (SELECT relid FROM pg_catalog.pg_partition_tree($1))) ORDER BY 1, 2",
            &[&target.source_oid, &names],
        )
        .await?;
    let mut found = Vec::new();
    for row in rows.iter().take(INDEXES_NAMED_MAX) {
        let method: String = row.try_get(0)?;
        let columns: Vec<Option<String>> = row.try_get(1)?;
        found.extend(on_shadow(target, &method, &columns));
    }
    Ok(found)
}

/// The names of all indexes of a plan.
fn named(plan: &Value, names: &mut BTreeSet<String>) {
    match plan {
        Value::Array(items) => items.iter().for_each(|item| named(item, names)),
        Value::Object(node) => {
            names.extend(node.get("Index Name").and_then(Value::as_str).map(str::to_owned));
            node.values().for_each(|value| named(value, names));
        }
        _ => {}
    }
}

/// The same index on the shadow; none for one on an expression, which may mean another there.
fn on_shadow(target: &Target, method: &str, columns: &[Option<String>]) -> Option<String> {
    let old_shape = target.old_shape.as_ref().ok()?;
    let part = |name: &Option<String>| {
        let name = Ident::new(name.clone()?);
        let column = old_shape.iter().find(|column| column.name == name)?;
        Some(match &column.reverse {
            Reverse::Bare(shadow) => shadow.quoted(),
            Reverse::Expression(sql) => format!("(CAST(({sql}) AS {}))", column.type_sql),
        })
    };
    let parts = columns.iter().map(part).collect::<Option<Vec<_>>>()?;
    let method = if method == "btree" { String::new() } else { format!("USING {method} ") };
    Some(format!("CREATE INDEX ON {} {method}({})", target.shadow.quoted(), parts.join(", ")))
}
