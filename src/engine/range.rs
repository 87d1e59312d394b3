//! Key ranges as SQL: `after < key <= upper` over the source, and the same rows over the shadow.

use super::shape::{Column, Shape};
use crate::sql::ident::literal;

/// A range of keys, by the text images of the source's key columns.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Range<'a> {
    /// Exclusive lower end; none: open.
    pub(crate) after: Option<&'a [String]>,
    /// Inclusive upper end; none: open.
    pub(crate) upper: Option<&'a [String]>,
}

impl Range<'_> {
    /// The predicate over the source.
    pub(crate) fn of_source(&self, shape: &Shape) -> String {
        self.predicate(shape.key.iter().map(|pair| &pair.source))
    }

    /// The predicate over the shadow: its key holds the same values in an order-preserving type.
    pub(crate) fn of_shadow(&self, shape: &Shape) -> String {
        self.predicate(shape.key.iter().map(|pair| &pair.shadow))
    }

    fn predicate<'c>(&self, columns: impl Iterator<Item = &'c Column> + Clone) -> String {
        let names: Vec<String> = columns.clone().map(|c| c.name.quoted()).collect();
        let side = |operator: &str, images: &[String]| {
            let values: Vec<String> = columns
                .clone()
                .zip(images)
                .map(|(column, image)| format!("{}::{}", literal(image), column.type_sql))
                .collect();
            if names.len() == 1 {
                format!("{} {operator} {}", names.concat(), values.concat())
            } else {
                format!("({}) {operator} ({})", names.join(", "), values.join(", "))
            }
        };
        match (self.after, self.upper) {
            (None, None) => "true".to_owned(),
            (Some(after), None) => side(">", after),
            (None, Some(upper)) => side("<=", upper),
            (Some(after), Some(upper)) => {
                format!("{} AND {}", side(">", after), side("<=", upper))
            }
        }
    }
}

/// The key columns of the source, comma-separated.
pub(crate) fn source_key(shape: &Shape) -> String {
    let names: Vec<String> = shape.key.iter().map(|pair| pair.source.name.quoted()).collect();
    names.join(", ")
}

/// The text images of the source's key as one `text[]`.
pub(crate) fn source_images(shape: &Shape) -> String {
    let images: Vec<String> =
        shape.key.iter().map(|pair| format!("{}::text", pair.source.name.quoted())).collect();
    format!("ARRAY[{}]", images.join(", "))
}

/// A query for the key (`text[]`) of the `rows`-th row of a range of the source.
pub(crate) fn nth_key_sql(shape: &Shape, range: Range<'_>, rows: u32) -> String {
    format!(
        "SELECT {} FROM {} WHERE {} ORDER BY {} OFFSET {} LIMIT 1",
        source_images(shape),
        shape.source.name.quoted(),
        range.of_source(shape),
        source_key(shape),
        rows.saturating_sub(1),
    )
}
