//! Whether a query has one right answer, so that a dark read of it is a test.

use super::Unfit;
use crate::sql::read::LeansOn;
use tokio_postgres::types::Type;
use tokio_postgres::{Statement, Transaction};

const PICKED: Option<&str> = Some("one of several values that are equal, perhaps");

/// Why the rows of a query are not one right answer, as far as the catalog tells: a view may hide
/// what its text does not say, a policy may read settings of the client's session, floating-point
/// sums hang on their order, and of equal values that look different any may be taken. A name that
/// means nothing is that of a WITH query.
pub(super) async fn incomparable(
    transaction: &Transaction<'_>,
    leans_on: &LeansOn,
) -> Result<Option<&'static str>, Unfit> {
    let row = transaction
        .query_one(
            "WITH c AS (SELECT oid, relkind, relrowsecurity FROM pg_catalog.pg_class WHERE oid IN \
                 (SELECT pg_catalog.to_regclass(n) FROM pg_catalog.unnest($1::text[]) AS n)), \
             t AS (SELECT coalesce(nullif(t.typelem, 0), nullif(t.typbasetype, 0), t.oid) AS oid, \
                 t.typtype, a.atttypmod, NOT coalesce(l.collisdeterministic, true) AS loose \
                 FROM c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 \
                 JOIN pg_catalog.pg_type t ON t.oid = a.atttypid \
                 LEFT JOIN pg_catalog.pg_collation l ON l.oid = a.attcollation) \
             SELECT coalesce(bool_or(relkind NOT IN ('r', 'p', 'm')), false), \
                 coalesce(bool_or(relrowsecurity), false), \
                 EXISTS (SELECT FROM t WHERE oid IN ('float4'::regtype, 'float8'::regtype)), \
                 EXISTS (SELECT FROM t WHERE loose OR typtype IN ('c', 'r', 'm') \
                     OR oid = 'numeric'::regtype AND atttypmod = -1 \
                     OR oid::regtype::text IN ('real', 'double precision', 'interval', 'jsonb', \
                         'time with time zone', 'character') \
                     OR oid::regtype::text LIKE '%citext') FROM c",
            &[&leans_on.tables],
        )
        .await?;
    let found = |i: usize| row.try_get::<_, bool>(i);
    Ok(match () {
        () if found(0)? => Some("a view or a foreign table"),
        () if found(1)? => Some("row security"),
        () if found(2)? && leans_on.sums => Some("a sum of floating-point numbers, perhaps"),
        () if found(3)? && leans_on.picks => PICKED,
        () => None,
    })
}

/// Why the rows of a query are not one right answer, as far as their types tell: what is summed up or
/// picked may be no column of the tables, but worked out.
pub(super) fn unsure_outputs(
    source: &Statement,
    leans_on: &LeansOn,
    text: &str,
) -> Option<&'static str> {
    const LOOSE: [Type; 6] =
        [Type::FLOAT4, Type::FLOAT8, Type::INTERVAL, Type::JSONB, Type::TIMETZ, Type::BPCHAR];
    let of = |types: &[Type]| source.columns().iter().any(|c| types.contains(c.type_()));
    let says = |word: &str| text.to_ascii_lowercase().contains(word);
    match () {
        () if leans_on.sums && of(&[Type::FLOAT4, Type::FLOAT8]) => {
            Some("a sum of floating-point numbers, perhaps")
        }
        () if leans_on.picks && of(&LOOSE) => PICKED,
        // Numbers of columns that bound their digits are as good as integers, unless they are cast.
        () if leans_on.picks && of(&[Type::NUMERIC]) && (says("::") || says("cast")) => PICKED,
        () if leans_on.picks && says("collate") => PICKED,
        () => None,
    }
}
