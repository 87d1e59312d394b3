//! The process's own connections to Postgres: one way to open them, with every setting that can
//! change what a query returns pinned. Knows no migration.

use futures_util::StreamExt;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls};
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

/// What a role or a database may have set and what would stop or skew long work.
const SESSION: &str = "SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; \
     SET default_transaction_isolation = 'read committed'; SET default_transaction_read_only = off; \
     SET default_transaction_deferrable = off; SET plan_cache_mode = force_custom_plan; \
     SET standard_conforming_strings = on";

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

/// Connects and pins the settings.
///
/// # Errors
/// When the server cannot be reached or refuses.
pub async fn connect(
    config: &Config,
    application_name: &str,
) -> Result<Connection, tokio_postgres::Error> {
    let mut config = config.clone();
    config.application_name(application_name);
    let (client, mut driver) = config.connect(NoTls).await?;
    let notified = Arc::new(Notify::new());
    let closed = CancellationToken::new();
    let (wake, gone) = (Arc::clone(&notified), closed.clone().drop_guard());
    let task = tokio::spawn(async move {
        let _gone = gone;
        let mut messages = futures_util::stream::poll_fn(move |cx| driver.poll_message(cx));
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
