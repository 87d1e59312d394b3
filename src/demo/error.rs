//! Why the demo could not be played to its end.

use crate::{app, engine, throwaway};
use std::path::PathBuf;

/// The demo stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no Postgres to play on.
    #[error(transparent)]
    Throwaway(#[from] throwaway::Error),
    /// A statement of the demo's own, past the proxy, failed.
    #[error("a statement of the demo itself failed")]
    Database(#[from] tokio_postgres::Error),
    /// The control schema.
    #[error("the control schema cannot be used")]
    Engine(#[from] engine::Error),
    /// The proxy ended.
    #[error("the proxy ended")]
    Proxy(#[source] Option<app::Error>),
    /// The file system.
    #[error("cannot write {}", .path.display())]
    File {
        /// What.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The operating system.
    #[error("a connection to the admin server failed")]
    Admin(#[source] std::io::Error),
    /// Something did not happen in time.
    #[error("not in {seconds} s: {what}")]
    Late {
        /// What was waited for.
        what: String,
        /// How long.
        seconds: u64,
    },
    /// The engine stopped.
    #[error("the migration stopped: {0}")]
    Stopped(String),
    /// A task of the demo ended by a panic.
    #[error("a task of the demo ended early")]
    Task(#[from] tokio::task::JoinError),
}
