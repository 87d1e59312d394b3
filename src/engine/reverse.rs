//! The way back from the shadow: whether the rows it gives in the old shape are the source's rows.
//! A mapping that loses something (trims, rounds, folds case) keeps both tables in step, so no
//! comparison through the mapping finds it; a read on the shadow would.

use super::Error;
use super::mapping::{self, Form, Scaled, form, is_whole};
use super::range::{Range, nth_key_sql};
use super::shape::{Column, Shape};
use crate::pg;
use crate::sql::ident::Ident;
use crate::sql::target::{OldColumn, Reverse};
use tokio_postgres::Client;

/// A source column whose way back has to be tried on every row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unproven {
    /// The source column.
    pub(crate) name: Ident,
    /// The way back as it is declared.
    sql: String,
    /// The column over the shadow, of the source's exact type.
    pub(crate) back: String,
}

/// The columns for which equal mapped values do not prove equal values. None where the migration
/// has no old shape: then it serves no reads anyway.
pub(crate) fn unproven(shape: &Shape) -> Vec<Unproven> {
    let Ok(old_shape) = shape.target().old_shape else { return Vec::new() };
    old_shape
        .iter()
        .filter(|old| !is_proven(shape, old))
        .map(|old| {
            let sql = match &old.reverse {
                Reverse::Bare(column) => column.quoted(),
                Reverse::Expression(sql) => sql.clone(),
            };
            let back = format!("CAST(({sql}) AS {})", old.type_sql);
            Unproven { name: old.name.clone(), sql, back }
        })
        .collect()
}

/// Of keys whose rows a function has just brought in step.
pub(crate) struct Given<'a> {
    /// Table expressions of the keys, each with a comma behind it.
    pub(crate) keys: &'a str,
    /// Conditions on the source as `s`, and on the shadow by the bare names of its columns.
    pub(crate) source: &'a str,
    pub(crate) shadow: &'a str,
}

/// Whether a row of given keys does not come back as it is in the source, as a condition; none where
/// all ways back are proven.
pub(crate) fn is_lost(shape: &Shape, given: &Given<'_>) -> Option<String> {
    let unproven = unproven(shape);
    if unproven.is_empty() {
        return None;
    }
    let each = |f: &dyn Fn(usize, &Unproven) -> String| {
        let parts: Vec<_> = unproven.iter().enumerate().map(|(i, one)| f(i, one)).collect();
        parts.join(", ")
    };
    let row = |side: &str| each(&|i, _| format!("{side}.o{i}"));
    let (source, shadow) = (shape.source.name.quoted(), shape.shadow.name.quoted());
    Some(format!(
        "EXISTS (SELECT FROM {keys}
                LATERAL (SELECT {old} FROM {source} AS s WHERE {of_source}) AS s,
                LATERAL (SELECT {back} FROM {shadow} WHERE {of_shadow}) AS t
            WHERE ROW({s})::text IS DISTINCT FROM ROW({t})::text)",
        keys = given.keys,
        old = each(&|i, one| format!("s.{} AS o{i}", one.name.quoted())),
        of_source = given.source,
        back = each(&|i, one| format!("{} AS o{i}", one.back)),
        of_shadow = given.shadow,
        s = row("s"),
        t = row("t"),
    ))
}

/// Which settings the ways back need that are tried.
pub(crate) fn needs(shape: &Shape) -> mapping::Needs {
    let types = |name: &_| shape.shadow.column(name).map(|column| column.type_oid);
    let of = |one: &Unproven| match shape.source.column(&one.name) {
        Some(column) if mapping::is_plain(column.type_oid) => {
            mapping::needs(&one.sql, column.type_oid, types)
        }
        _ => mapping::Needs::Everything,
    };
    unproven(shape).iter().map(of).max().unwrap_or(mapping::Needs::Path)
}

/// A column that is mapped as it is, into a type that holds all of its values, or as a multiple, and
/// comes back from there.
fn is_proven(shape: &Shape, old: &OldColumn) -> bool {
    let Some(source) = shape.source.column(&old.name) else { return false };
    let (from, divided) = match &old.reverse {
        Reverse::Bare(column) => (column.clone(), None),
        Reverse::Expression(sql) => match form(sql) {
            Form::Column(column) => (column, None),
            Form::Cast(column, kind) if takes(&kind, source) => (column, None),
            Form::Cast(..) => return false,
            Form::Other => match mapping::scaled(sql, "/") {
                // The multiple itself may not fit what the column would be cast to.
                Some(Scaled { column, by, column_as: None, result_as })
                    if result_as.as_ref().is_none_or(|kind| takes(kind, source)) =>
                {
                    (column, Some(by))
                }
                _ => return false,
            },
        },
    };
    let Some(mapped) = shape.mapped.iter().find(|mapped| mapped.column.name == from) else {
        return false;
    };
    let whole = |column: &Column| [INT2, INT4, INT8].contains(&column.type_oid);
    match (form(&mapped.expression), divided) {
        (Form::Column(name), None) => name == old.name && holds(source, &mapped.column),
        (Form::Cast(name, kind), None) => {
            name == old.name && is_whole(&kind) && widens(source, &mapped.column)
        }
        // Whole numbers: a multiple that does not fit is an error.
        (Form::Other, Some(by)) if whole(source) && whole(&mapped.column) => {
            // A cast that does not take the value is an error, too.
            mapping::scaled(&mapped.expression, "*")
                .is_some_and(|read| (read.column, read.by) == (old.name.clone(), by))
        }
        _ => false,
    }
}

const INT2: u32 = 21;
const INT4: u32 = 23;
const INT8: u32 = 20;

/// Whether a cast to this type gives every value of a column of whole numbers as it is.
fn takes(kind: &str, column: &Column) -> bool {
    match column.type_oid {
        INT2 | INT4 => is_whole(kind),
        INT8 => ["int8", "bigint"].contains(&kind),
        _ => false,
    }
}

/// Whether every value of a column is one of another, and is the same again in its own type.
fn holds(from: &Column, to: &Column) -> bool {
    const TEXT: u32 = 25;
    const VARCHAR: u32 = 1043;
    const NUMERIC: u32 = 1700;
    if (from.type_oid, from.typmod) == (to.type_oid, to.typmod) || widens(from, to) {
        return true;
    }
    to.typmod == -1
        && match to.type_oid {
            TEXT => matches!(from.type_oid, TEXT | VARCHAR),
            VARCHAR => from.type_oid == VARCHAR,
            NUMERIC => matches!(from.type_oid, NUMERIC | INT2 | INT4 | INT8),
            _ => false,
        }
}

/// `int2` or `int4` into a wider integer; an integer cast in between keeps the value or fails.
fn widens(from: &Column, to: &Column) -> bool {
    matches!((from.type_oid, to.type_oid), (INT2, INT4 | INT8) | (INT4, INT8))
}

/// Where a way back fails with an error, among the `limit` rows after `after`: key, column and
/// what the server says. Halves the range; none when nothing fails any more.
pub(crate) async fn first_failure(
    client: &Client,
    shape: &Shape,
    unproven: &[Unproven],
    after: Option<&[String]>,
    limit: u32,
) -> Result<Option<String>, Error> {
    let upper = async |rows: u32| -> Result<Option<Vec<String>>, Error> {
        let open = Range { after, upper: None };
        let row = client.query_opt(&nth_key_sql(shape, open, rows), &[]).await?;
        Ok(row.map(|row| row.try_get(0)).transpose()?)
    };
    let (mut good, mut bad) = (0, limit.max(1));
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        let key = upper(middle).await?;
        match failure(client, shape, unproven, Range { after, upper: key.as_deref() }).await? {
            Some(_) => bad = middle,
            None => good = middle,
        }
    }
    let Some(key) = upper(bad).await? else { return Ok(None) };
    let before = if good == 0 { after.map(<[String]>::to_vec) } else { upper(good).await? };
    let only = Range { after: before.as_deref(), upper: Some(&key) };
    for one in unproven {
        if let Some(reason) = failure(client, shape, std::slice::from_ref(one), only).await? {
            return Ok(Some(format!("({}) in {}: {reason}", key.join(", "), one.name)));
        }
    }
    Ok(None)
}

/// What the server says when the ways back are worked out over a range of the shadow.
async fn failure(
    client: &Client,
    shape: &Shape,
    unproven: &[Unproven],
    range: Range<'_>,
) -> Result<Option<String>, Error> {
    let back: Vec<&str> = unproven.iter().map(|one| one.back.as_str()).collect();
    let sql = format!(
        "SELECT count(ROW({})::text) FROM {} WHERE {}",
        back.join(", "),
        shape.shadow.name.quoted(),
        range.of_shadow(shape),
    );
    match client.query_one(&sql, &[]).await {
        Ok(_) => Ok(None),
        Err(error) if pg::is_about_data(&error) => Ok(Some(pg::reason(&error))),
        Err(error) => Err(error.into()),
    }
}
