//! What makes a control connection run queries as a client would.

use crate::sql::ident::{Ident, literal};
use tokio_postgres::types::{Kind, Type};

/// How long a query of the proxy's own may run, in milliseconds.
const STATEMENT_TIMEOUT_MS: u32 = 5_000;

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
