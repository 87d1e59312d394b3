//! Where SCRAM verifiers come from: a query on a control connection, for every login that needs
//! one, so that a changed password counts at once. Nothing is kept, and nothing shown.

use super::Options;
use crate::pg::{self, Database};
use crate::wire::scram::Keys;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

/// How long a login may wait for its verifier.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The source of verifiers.
#[derive(Debug)]
pub(super) struct Verifiers {
    database: Database,
    query: String,
    client: Mutex<Option<Arc<Client>>>,
}

impl Verifiers {
    /// The source that the config file names; `None` without a control connection.
    pub(super) fn new(options: &Options) -> Option<Self> {
        let database = options.control.clone()?;
        let query = options.verifier_query.clone();
        Some(Self { database, query, client: Mutex::new(None) })
    }

    /// The keys of a role: `None` when that cannot be found out, `Some(None)` when it has none.
    pub(super) async fn get(&self, user: &str) -> Option<Option<Keys>> {
        let why = match timeout(TIMEOUT, self.ask(user)).await {
            Ok(Ok(verifier)) => return Some(verifier.as_deref().and_then(Keys::of_verifier)),
            Ok(Err(error)) => pg::reason(&error),
            Err(_late) => format!("no answer in {} s", TIMEOUT.as_secs()),
        };
        tracing::warn!(why, "SCRAM verifiers cannot be read; see verifier_query");
        None
    }

    async fn ask(&self, user: &str) -> Result<Option<String>, tokio_postgres::Error> {
        let client = self.client().await?;
        let rows = client.query_typed(&self.query, &[(&user, Type::TEXT)]).await?;
        match rows.first() {
            Some(row) => row.try_get(0),
            None => Ok(None),
        }
    }

    /// The connection, made anew when it was lost.
    async fn client(&self) -> Result<Arc<Client>, tokio_postgres::Error> {
        let mut kept = self.client.lock().await;
        if let Some(client) = kept.as_ref().filter(|client| !client.is_closed()) {
            return Ok(Arc::clone(client));
        }
        let client = Arc::new(self.database.client("pgsegue verifiers").await?);
        *kept = Some(Arc::clone(&client));
        Ok(client)
    }
}
