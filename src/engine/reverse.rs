//! The way back from the shadow: whether the rows it gives in the old shape are the source's rows.
//! A mapping that loses something (trims, rounds, folds case) keeps both tables in step, so no
//! comparison through the mapping finds it; a read on the shadow would.

use super::Error;
use super::mapping::{Form, form};
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
            Unproven { name: old.name.clone(), back: format!("CAST(({sql}) AS {})", old.type_sql) }
        })
        .collect()
}

/// A column that is mapped as it is or under an integer widening, and comes back from there.
fn is_proven(shape: &Shape, old: &OldColumn) -> bool {
    let from = match &old.reverse {
        Reverse::Bare(column) => column.clone(),
        Reverse::Expression(sql) => match form(sql) {
            Form::Column(column) => column,
            Form::Cast(..) | Form::Other => return false,
        },
    };
    let (Some(mapped), Some(source)) = (
        shape.mapped.iter().find(|mapped| mapped.column.name == from),
        shape.source.column(&old.name),
    ) else {
        return false;
    };
    match form(&mapped.expression) {
        Form::Column(name) => {
            name == old.name && (same(source, &mapped.column) || widens(source, &mapped.column))
        }
        Form::Cast(name, kind) => {
            let whole = ["int", "int4", "integer", "int8", "bigint"].contains(&kind.as_str());
            name == old.name && whole && widens(source, &mapped.column)
        }
        Form::Other => false,
    }
}

fn same(a: &Column, b: &Column) -> bool {
    (a.type_oid, a.typmod) == (b.type_oid, b.typmod)
}

/// `int2` or `int4` into a wider integer; an integer cast in between keeps the value or fails.
fn widens(from: &Column, to: &Column) -> bool {
    const INT2: u32 = 21;
    const INT4: u32 = 23;
    const INT8: u32 = 20;
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
