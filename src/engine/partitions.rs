//! The tables that hold rows of the source: its partitions at every level, and what inherits from
//! it. Their names are names of the source: a write by one of them is mirrored like any other.
//!
//! A table that joins empty is only a new name. Whatever else happens to them may have brought or
//! taken rows unseen, and counts as a change of the table's definition (`drift`).

use super::Error;
use crate::sql::ident::{Ident, QualifiedName};
use crate::sql::target::Part;
use std::collections::BTreeSet;
use tokio_postgres::GenericClient;

const TREE: &str = "WITH RECURSIVE tree (relid) AS ( \
      SELECT i.inhrelid FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhparent \
        JOIN pg_namespace n ON n.oid = c.relnamespace \
        WHERE n.nspname = $1::text AND c.relname = $2::text \
      UNION SELECT i.inhrelid FROM pg_inherits i JOIN tree ON i.inhparent = tree.relid) \
    SELECT c.oid, n.nspname, c.relname, coalesce((SELECT array_agg(a.attname::text ORDER BY a.attnum) \
      FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '{}') \
    FROM tree JOIN pg_class c ON c.oid = tree.relid \
    JOIN pg_namespace n ON n.oid = c.relnamespace ORDER BY c.oid";

/// What holds rows of a table besides itself.
pub(super) async fn read(
    client: &impl GenericClient,
    table: &QualifiedName,
) -> Result<Vec<Part>, Error> {
    let rows = client.query(TREE, &[&table.schema.as_str(), &table.name.as_str()]).await?;
    let part = |row: &tokio_postgres::Row| {
        let (schema, name): (String, String) = (row.try_get(1)?, row.try_get(2)?);
        let name = QualifiedName { schema: Ident::new(schema), name: Ident::new(name) };
        let columns = row.try_get::<_, Vec<String>>(3)?.into_iter().map(Ident::new).collect();
        Ok(Part { oid: row.try_get(0)?, name, columns })
    };
    rows.iter().map(part).collect()
}

/// They as one word of a fingerprint.
pub(super) fn word(parts: &[Part]) -> String {
    let words = parts.iter().map(|p| {
        // An inner blank would be the end of the word.
        let name = p.name.quoted().replace('%', "%25").replace(' ', "%20").replace(',', "%2c");
        format!("{}:{name}", p.oid)
    });
    format!("[{}]", words.collect::<Vec<_>>().join(","))
}

/// The object ids of what has joined, if that is all that differs between two fingerprints.
pub(super) fn joined(before: &str, now: &str) -> Option<Vec<u32>> {
    let (before, parts_before) = before.rsplit_once(' ')?;
    let (now, parts_now) = now.rsplit_once(' ')?;
    let set = |word: &str| -> Option<BTreeSet<String>> {
        let inner = word.strip_prefix('[')?.strip_suffix(']')?;
        Some(inner.split(',').filter(|p| !p.is_empty()).map(str::to_owned).collect())
    };
    let (parts_before, parts_now) = (set(parts_before)?, set(parts_now)?);
    if before != now || !parts_before.is_subset(&parts_now) {
        return None;
    }
    parts_now.difference(&parts_before).map(|p| p.split(':').next()?.parse().ok()).collect()
}

/// Whether none of these holds a row, or has held one lately, and all have the indexes of the table: what
/// inherits it has none of them.
pub(super) async fn are_empty(client: &impl GenericClient, oids: &[u32]) -> Result<bool, Error> {
    let sql = "SELECT coalesce(bool_and(c.relkind IN ('r', 'p') AND c.relispartition AND pg_relation_size(c.oid) = 0), true) \
               FROM pg_class c WHERE c.oid = ANY ($1)";
    Ok(client.query_one(sql, &[&oids]).await?.try_get(0)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_joined_is_told_from_any_other_change() {
        let part = |oid, name: &str| Part {
            oid,
            name: QualifiedName::parse(name).unwrap(),
            columns: Vec::new(),
        };
        let (a, b) = (part(7, "public.\"a b,c\""), part(8, "public.b"));
        let of = |definition: &str, parts: &[Part]| format!("1 2 {definition} {}", word(parts));
        let (none, one) = (of("x", &[]), of("x", std::slice::from_ref(&a)));
        let both = of("x", &[a.clone(), b.clone()]);
        assert_eq!(joined(&none, &one), Some(vec![7]));
        assert_eq!(joined(&one, &both), Some(vec![8]));
        assert_eq!(joined(&one, &one), Some(vec![]));
        for (before, now) in [
            (both.as_str(), one.as_str()),
            (&one, &of("y", &[a, b.clone()])),
            (&one, &of("x", &[part(7, "public.renamed"), b])),
            ("1 2 x", &one),
        ] {
            assert_eq!(joined(before, now), None, "{before} {now}");
        }
    }
}
