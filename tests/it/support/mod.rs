//! What every integration test stands on: one Postgres per run, one database per test, the real
//! binary as a child, waiting without sleeping, comparing tables row by row.

mod database;
mod drivers;
mod pgbouncer;
mod proxy;
mod tls;
mod wait;

pub use database::{TestDb, database, database_on, server};
pub use drivers::{node, python};
pub use pgbouncer::Pgbouncer;
pub use proxy::{Proxy, pgsegue};
pub use tls::{Authority, Signed, connect_tls, connector, raw_tls, show_certificate, tls_server};
pub use wait::eventually;

use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// A migration that renames a column and changes the unit of another.
pub const ORDERS_V2: &str = r#"
[[migration]]
name = "orders_v2"
source = "public.orders"
shadow = "public.orders_v2"
key = ["id"]
[migration.columns]
id = "id"
customer_id = "user_id"
total_minor = "total::bigint * 100"
[migration.reverse]
user_id = "customer_id"
total = "(total_minor / 100)::int"
"#;

/// A connection; its driver ends with the test's runtime.
pub async fn connect(conninfo: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(conninfo, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// The rows of a query as text, `None` for null.
pub async fn rows(client: &Client, sql: &str) -> Vec<Vec<Option<String>>> {
    let messages = client.simple_query(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    messages
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect())
            }
            _ => None,
        })
        .collect()
}

/// Asserts that two queries give the same rows in the same order, as text: the source through
/// the mapping and the shadow. Both should order by the key.
pub async fn assert_same(client: &Client, left: &str, right: &str) {
    let (left_rows, right_rows) = (rows(client, left).await, rows(client, right).await);
    for (number, (l, r)) in left_rows.iter().zip(&right_rows).enumerate() {
        assert_eq!(l, r, "row {number} differs\n  left:  {left}\n  right: {right}");
    }
    assert_eq!(left_rows.len(), right_rows.len(), "row counts differ\n{left}\n{right}");
}
