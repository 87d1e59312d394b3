//! A control connection on which the proxy tries queries as a client would run them.

use crate::sql::ident::{Ident, literal};
use tokio_postgres::types::{Kind, Type};
use tokio_postgres::{Client, NoTls};

/// How long a query of the proxy's own may run, in milliseconds.
const STATEMENT_TIMEOUT_MS: u32 = 5_000;

/// Connects, and drives the connection until it ends.
pub(super) async fn connect(
    control: &tokio_postgres::Config,
    name: &str,
) -> Result<Client, tokio_postgres::Error> {
    let mut control = control.clone();
    control.application_name(name);
    let (client, connection) = control.connect(NoTls).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a side connection ended");
        }
    });
    Ok(client)
}

/// The statements that make a transaction see what the client's session sees.
pub(super) fn as_session(user: &str, search_path: &str) -> String {
    format!(
        "SET LOCAL statement_timeout = {STATEMENT_TIMEOUT_MS}; SET LOCAL lock_timeout = '50ms'; \
         SET LOCAL ROLE {}; SELECT pg_catalog.set_config('search_path', {}, true)",
        Ident::new(user).quoted(),
        literal(search_path)
    )
}

/// A type by its object id alone; 0 is left to the server.
pub(super) fn type_of(oid: u32) -> Type {
    match oid {
        0 => Type::UNKNOWN,
        oid => Type::from_oid(oid)
            .unwrap_or_else(|| Type::new(format!("oid {oid}"), oid, Kind::Simple, String::new())),
    }
}
