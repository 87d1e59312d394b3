//! The process's own connections to Postgres: one way to open them, with every setting that can
//! change what a query returns pinned. Knows no migration.

use crate::tls;
use futures_util::{Stream, StreamExt as _};
use std::pin::Pin;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio_postgres::config::{Host, SslMode, SslNegotiation};
use tokio_postgres::{AsyncMessage, Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::sync::CancellationToken;

/// The settings under which rows are mapped, copied and compared, everywhere the same: the sync
/// functions carry them, and every connection of the engine has them. A mapping that reads
/// `extra_float_digits` by way of `float8::text` then gives one answer, whoever runs it.
pub const PINNED: [(&str, &str); 9] = [
    ("search_path", "pg_catalog, pg_temp"),
    ("row_security", "off"),
    ("extra_float_digits", "1"),
    ("bytea_output", "hex"),
    ("DateStyle", "'ISO, MDY'"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "'UTC'"),
    ("transform_null_equals", "off"),
    ("client_min_messages", "error"),
];

/// What a role or a database may have set and what would stop or skew long work, or lose in a crash
/// what clients go by already: functions and the journal. Standbys are not waited for.
const SESSION: &str = "SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; \
     SET default_transaction_isolation = 'read committed'; SET default_transaction_read_only = off; \
     SET default_transaction_deferrable = off; SET plan_cache_mode = force_custom_plan; \
     SET standard_conforming_strings = on; SET synchronous_commit = local; \
     SET jit = off";

/// A connection with the pinned settings. It ends when the value is dropped.
#[derive(Debug)]
pub struct Connection {
    /// For queries.
    pub client: Client,
    /// Woken by every notification; a notification that nobody waits for is remembered as one.
    pub notified: Arc<Notify>,
    /// Cancelled when the connection is gone.
    pub closed: CancellationToken,
}

/// Where the process's own connections go, and how they are encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    config: Config,
    tls: tls::Dialer,
}

impl Database {
    /// A database that is reached as the server is, unless its `sslmode` says `disable` or
    /// `require`. As in libpq, connections over a Unix socket are not encrypted.
    pub fn new(mut config: Config, tls: tls::Dialer) -> Self {
        let local = config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_)));
        let mode = match (config.get_ssl_mode(), tls.mode()) {
            (_, _) if local || tls.config().is_none() => SslMode::Disable,
            (SslMode::Prefer, tls::Mode::Disable) => SslMode::Disable,
            (SslMode::Prefer, tls::Mode::Prefer) => SslMode::Prefer,
            (SslMode::Prefer, _) => SslMode::Require,
            (said, _) => said,
        };
        config.ssl_mode(mode);
        if mode == SslMode::Require && tls.negotiation() == tls::Negotiation::Direct {
            config.ssl_negotiation(SslNegotiation::Direct);
        }
        Self { config, tls }
    }

    /// Host, user, name and the like.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// A connection that is driven until the client is dropped.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub async fn client(&self, application_name: &str) -> Result<Client, tokio_postgres::Error> {
        let (client, mut messages) = self.open(application_name).await?;
        tokio::spawn(async move {
            while let Some(message) = messages.next().await {
                if let Err(error) = message {
                    tracing::debug!(%error, "a connection of the process's own ended");
                    break;
                }
            }
        });
        Ok(client)
    }

    async fn open(
        &self,
        application_name: &str,
    ) -> Result<(Client, Messages), tokio_postgres::Error> {
        let mut config = self.config.clone();
        config.application_name(application_name);
        match self.tls.config() {
            Some(tls) => {
                let tls = MakeRustlsConnect::new(tls.as_ref().clone());
                let (client, connection) = config.connect(tls).await?;
                Ok((client, messages(connection)))
            }
            None => {
                let (client, connection) = config.connect(NoTls).await?;
                Ok((client, messages(connection)))
            }
        }
    }
}

impl From<Config> for Database {
    fn from(config: Config) -> Self {
        Self::new(config, tls::Dialer::disabled())
    }
}

/// What drives a connection, and gives what the server says without being asked.
type Messages = Pin<Box<dyn Stream<Item = Result<AsyncMessage, tokio_postgres::Error>> + Send>>;

fn messages<S, T>(mut connection: tokio_postgres::Connection<S, T>) -> Messages
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    Box::pin(futures_util::stream::poll_fn(move |cx| connection.poll_message(cx)))
}

/// Connects and pins the settings.
///
/// # Errors
/// When the server cannot be reached or refuses.
pub async fn connect(
    database: &Database,
    application_name: &str,
) -> Result<Connection, tokio_postgres::Error> {
    let (client, mut messages) = database.open(application_name).await?;
    let notified = Arc::new(Notify::new());
    let closed = CancellationToken::new();
    let (wake, gone) = (Arc::clone(&notified), closed.clone().drop_guard());
    let task = tokio::spawn(async move {
        let _gone = gone;
        while let Some(Ok(message)) = messages.next().await {
            if matches!(message, AsyncMessage::Notification(_)) {
                wake.notify_one();
            }
        }
    });
    drop(task); // detached: it ends with the client
    client.batch_execute(&pin_sql()).await?;
    Ok(Connection { client, notified, closed })
}

/// The statements that pin the settings of a session.
pub fn pin_sql() -> String {
    let pinned: Vec<String> =
        PINNED.iter().map(|(name, value)| format!("SET {name} = {value}")).collect();
    format!("{}; {SESSION}", pinned.join("; "))
}

/// Whether the server said no for a reason that passes: a lock, a deadlock, a cancel, a shortage.
pub fn is_passing(error: &tokio_postgres::Error) -> bool {
    const CLASSES: [&str; 6] = ["25", "40", "53", "55", "57", "58"];
    let state = error.as_db_error().map_or("", |db| db.code().code());
    CLASSES.iter().any(|class| state.starts_with(class))
}

/// Whether the server said no for a reason in the statement or its rows, so that it comes again.
pub fn is_about_data(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_some() && !is_passing(error)
}

/// What the server said, on one line: SQLSTATE and message. Without the detail, which quotes rows.
pub fn reason(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{} {}", db.code().code(), db.message()),
        None => {
            let mut text = error.to_string();
            let mut source = std::error::Error::source(error);
            while let Some(cause) = source {
                text = format!("{text}: {cause}");
                source = cause.source();
            }
            text
        }
    }
}
