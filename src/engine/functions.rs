//! What the catalog says about functions: whether a read may run twice, and what may write unseen.

use super::{Error, ways};
use crate::sql::target::{Functions, Target};
use std::sync::Arc;
use tokio_postgres::GenericClient;

/// Aggregates whose result does not hang on the order of their input.
const ORDER_FREE: [&str; 10] =
    ["count", "sum", "min", "max", "avg", "bool_and", "bool_or", "every", "bit_and", "bit_or"];

/// They tell how a value is stored: of the shadow, not of the source.
const PHYSICAL: [&str; 3] = ["pg_column_size", "pg_column_compression", "pg_column_toast_chunk_id"];

/// Reads the names that qualify in every overload and every schema, and the ways to these tables.
///
/// # Errors
/// When the database fails.
pub async fn load(
    client: &impl GenericClient,
    targets: &[Arc<Target>],
) -> Result<Functions, Error> {
    let order_free: Vec<&str> = ORDER_FREE.to_vec();
    let rows = client
        .query(
            "SELECT lower(proname), bool_and(CASE prokind WHEN 'f' THEN provolatile = 'i' \
             WHEN 'a' THEN proname = ANY ($1::text[]) AND pronamespace = 'pg_catalog'::regnamespace \
             ELSE false END) FROM pg_proc WHERE lower(proname) <> ALL ($2::text[]) \
             GROUP BY 1 HAVING bool_and(provolatile <> 'v')",
            &[&order_free, &PHYSICAL.as_slice()],
        )
        .await?;
    let mut functions =
        Functions { ways: ways::load(client, targets).await?, ..Functions::default() };
    for row in rows {
        let name: String = row.try_get(0)?;
        if row.try_get(1)? {
            functions.deterministic.insert(name.clone());
        }
        functions.non_volatile.insert(name);
    }
    Ok(functions)
}
