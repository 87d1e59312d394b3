//! Comparing both tables. One statement per chunk compares a range of keys in one snapshot, minus
//! the keys that are dirty in that same snapshot: since every sync commits together with its
//! write, a row that differs there is a divergence, not a race.
//!
//! Rows are compared as text, after casts to the shadow's exact types, under the pinned settings:
//! type equality calls 1.0 and 1.00 the same. Every difference becomes a dirty key in the same
//! statement.
//!
//! The way back is compared along with it: a row that the shadow gives in the old shape must be
//! the source's row. One that is not is in step, so it is no dirty key; it stops the reads.

use super::Error;
use super::range::{Range, nth_key_sql};
use super::reverse::{self, Unproven};
use super::shape::Shape;
use crate::pg;
use crate::sql::ident::literal;
use tokio_postgres::Client;

/// Named in events and logs, at most.
const SAMPLE: usize = 20;

/// What one chunk found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Compared {
    /// Pairs of rows compared.
    pub rows: u64,
    /// Keys that the source has and the shadow has not.
    pub missing: u64,
    /// Keys that the shadow has and the source has not.
    pub orphaned: u64,
    /// Keys whose rows differ.
    pub different: u64,
    /// Some of them: kind, key, columns.
    pub sample: Vec<String>,
    /// Whether an unseen write was on record: then differences were to be expected.
    pub unseen: bool,
    /// Keys in step whose rows do not come back from the shadow as they are in the source.
    pub irreversible: u64,
    /// Some of them: key, columns.
    pub irreversible_sample: Vec<String>,
}

impl Compared {
    /// All rows that are not the same.
    pub fn differences(&self) -> u64 {
        self.missing + self.orphaned + self.different
    }
}

/// Compares the rows after `after`: `limit` rows of the source, and what the shadow has in the
/// same range. Returns the key to go on after; none: that was the last chunk.
///
/// # Errors
/// When the database fails, or a mapping does on one of the rows.
pub async fn chunk(
    client: &Client,
    shape: &Shape,
    after: Option<&[String]>,
    limit: u32,
) -> Result<(Compared, Option<Vec<String>>), Error> {
    let open = Range { after, upper: None };
    let upper: Option<Vec<String>> = client
        .query_opt(&nth_key_sql(shape, open, limit), &[])
        .await?
        .map(|row| row.try_get(0))
        .transpose()?;
    // The last chunk is open above, the first one below: orphans may lie outside the source's keys.
    let range = Range { after, upper: upper.as_deref() };
    let unproven = reverse::unproven(shape);
    match compare(client, shape, range, &unproven).await {
        Ok(compared) => Ok((compared, upper)),
        Err(Error::Postgres(error)) if !unproven.is_empty() && pg::is_about_data(&error) => {
            // Without the ways back: an error of the mapping comes again, and is the caller's.
            let mut compared = compare(client, shape, range, &[]).await?;
            let found = reverse::first_failure(client, shape, &unproven, after, limit).await?;
            compared.irreversible += 1;
            compared.irreversible_sample.push(found.unwrap_or_else(|| pg::reason(&error)));
            Ok((compared, upper))
        }
        Err(error) => Err(error),
    }
}

/// Records the single row after `after` as dirty, unless it is already: comparing it fails.
/// Returns what that amounts to, and the row's key.
///
/// # Errors
/// When the database fails.
pub async fn record_incomparable(
    client: &Client,
    shape: &Shape,
    after: Option<&[String]>,
    reason: &str,
) -> Result<(Compared, Option<Vec<String>>), Error> {
    let open = Range { after, upper: None };
    let row = client.query_opt(&nth_key_sql(shape, open, 1), &[]).await?;
    let Some(key) = row.map(|row| row.try_get::<_, Vec<String>>(0)).transpose()? else {
        return Ok((Compared::default(), None));
    };
    let recorded = client
        .execute(
            "INSERT INTO pgsegue.dirty_keys (migration, key, reason) \
             SELECT $1, $2, left('not comparable: ' || $3::text, 500) WHERE NOT EXISTS \
             (SELECT FROM pgsegue.dirty_keys WHERE migration = $1::text AND key = $2::text[])",
            &[&shape.migration.name, &key, &reason],
        )
        .await?;
    let sample = vec![format!("not comparable ({}): {reason}", key.join(", "))];
    let compared = Compared { rows: 1, different: recorded, sample, ..Compared::default() };
    Ok((compared, Some(key)))
}

async fn compare(
    client: &Client,
    shape: &Shape,
    range: Range<'_>,
    unproven: &[Unproven],
) -> Result<Compared, Error> {
    let row = client.query_one(&compare_sql(shape, range, unproven), &[]).await?;
    let number = |i: usize| -> Result<u64, Error> {
        Ok(u64::try_from(row.try_get::<_, i64>(i)?).unwrap_or(0))
    };
    Ok(Compared {
        rows: number(0)?,
        missing: number(1)?,
        orphaned: number(2)?,
        different: number(3)?,
        sample: row.try_get(4)?,
        unseen: row.try_get(5)?,
        irreversible: number(6)?,
        irreversible_sample: row.try_get(7)?,
    })
}

/// The pieces that compare the ways back; all empty or constant where there is none to compare.
struct Back {
    /// Columns `o1, …` of the source, and of the shadow.
    source: String,
    shadow: String,
    /// The columns that do not come back, as `text[]`; null where all do.
    lost: String,
}

fn back(unproven: &[Unproven], forward_differs: &str) -> Back {
    if unproven.is_empty() {
        let (source, shadow) = (String::new(), String::new());
        return Back { source, shadow, lost: "NULL::text[]".to_owned() };
    }
    let each = |f: &dyn Fn(usize, &Unproven) -> String| -> Vec<String> {
        unproven.iter().enumerate().map(|(i, one)| f(i + 1, one)).collect()
    };
    let row = |side: &str| each(&|i, _| format!("{side}.o{i}")).join(", ");
    let lost = each(&|i, one| {
        let name = literal(one.name.as_str());
        format!("CASE WHEN ROW(s.o{i})::text IS DISTINCT FROM ROW(t.o{i})::text THEN {name} END")
    });
    Back {
        source: each(&|i, one| format!(", {} AS o{i}", one.name.quoted())).concat(),
        shadow: each(&|i, one| format!(", {} AS o{i}", one.back)).concat(),
        lost: format!(
            "CASE WHEN NOT ({forward_differs}) AND ROW({})::text <> ROW({})::text \
             THEN array_remove(ARRAY[{}]::text[], NULL) END",
            row("s"),
            row("t"),
            lost.join(", ")
        ),
    }
}

/// The statement that compares a range.
fn compare_sql(shape: &Shape, range: Range<'_>, unproven: &[Unproven]) -> String {
    let migration = literal(&shape.migration.name);
    let numbered = || shape.mapped.iter().enumerate().map(|(i, m)| (i + 1, m));
    let list = |parts: Vec<String>| parts.join(", ");
    let mapped = list(
        numbered()
            .map(|(i, m)| format!("({})::{} AS c{i}", m.expression, m.column.type_sql))
            .collect(),
    );
    let present =
        list(numbered().map(|(i, m)| format!("{} AS c{i}", m.column.name.quoted())).collect());
    let row = |side: &str| list(numbered().map(|(i, _)| format!("{side}.c{i}")).collect());
    let differing = list(
        numbered()
            .map(|(i, m)| {
                let name = literal(m.column.name.as_str());
                format!(
                    "CASE WHEN ROW(s.c{i})::text IS DISTINCT FROM ROW(t.c{i})::text THEN {name} END"
                )
            })
            .collect(),
    );
    let key_columns: Vec<String> = shape
        .key
        .iter()
        .filter_map(|pair| {
            numbered()
                .find(|(_, m)| m.column.name == pair.shadow.name)
                .map(|(i, _)| format!("c{i}"))
        })
        .collect();
    let same_key: Vec<String> = key_columns.iter().map(|c| format!("s.{c} = t.{c}")).collect();
    let shadow_images: Vec<String> = key_columns.iter().map(|c| format!("t.{c}::text")).collect();
    let first = key_columns.first().map_or("c1", String::as_str);
    let differs = format!("ROW({})::text <> ROW({})::text", row("s"), row("t"));
    let here = format!("s.{first} IS NOT NULL AND t.{first} IS NOT NULL");
    let back = back(unproven, &format!("{differs} OR NOT ({here})"));
    format!(
        "WITH compared AS MATERIALIZED (
            SELECT coalesce(s.image, ARRAY[{shadow_images}]) AS key,
                CASE WHEN t.{first} IS NULL THEN 'missing' WHEN s.{first} IS NULL THEN 'orphaned'
                    WHEN {differs} THEN 'different' END AS kind,
                CASE WHEN {here} AND {differs}
                    THEN array_remove(ARRAY[{differing}]::text[], NULL) END AS columns,
                {lost} AS lost
            FROM (SELECT {images} AS image, {mapped}{source_old} FROM {source}
                WHERE {source_range}) AS s
            FULL JOIN (SELECT {present}{shadow_old} FROM {shadow} WHERE {shadow_range}) AS t
                ON {same_key}),
        found AS MATERIALIZED (
            SELECT c.* FROM compared c WHERE c.kind IS NOT NULL AND NOT EXISTS (
                SELECT FROM pgsegue.dirty_keys d
                WHERE d.migration = {migration} AND d.key = c.key)),
        recorded AS (
            INSERT INTO pgsegue.dirty_keys (migration, key, reason)
            SELECT {migration}, key, \"left\"('divergence: ' || kind
                || coalesce(' ' || array_to_string(columns, ', '), ''), 500) FROM found)
        {summary}",
        shadow_images = shadow_images.join(", "),
        lost = back.lost,
        summary = summary(&migration),
        source_old = back.source,
        shadow_old = back.shadow,
        images = super::range::source_images(shape),
        source = shape.source.name.quoted(),
        shadow = shape.shadow.name.quoted(),
        source_range = range.of_source(shape),
        shadow_range = range.of_shadow(shape),
        same_key = same_key.join(" AND "),
    )
}

/// What the statement returns of what it has compared, found and recorded.
fn summary(migration: &str) -> String {
    format!(
        "SELECT (SELECT count(*) FROM compared),
            (SELECT count(*) FROM found WHERE kind = 'missing'),
            (SELECT count(*) FROM found WHERE kind = 'orphaned'),
            (SELECT count(*) FROM found WHERE kind = 'different'),
            coalesce((SELECT array_agg(kind || ' (' || array_to_string(key, ', ') || ')'
                || coalesce(' in ' || array_to_string(columns, ', '), ''))
                FROM (SELECT * FROM found LIMIT {SAMPLE}) AS f), '{{}}'),
            EXISTS (SELECT FROM pgsegue.dirty_keys WHERE migration = {migration} AND key IS NULL),
            (SELECT count(*) FROM compared WHERE lost IS NOT NULL),
            coalesce((SELECT array_agg('(' || array_to_string(key, ', ') || ') in '
                || array_to_string(lost, ', '))
                FROM (SELECT * FROM compared WHERE lost IS NOT NULL LIMIT {SAMPLE}) AS l), '{{}}')"
    )
}
