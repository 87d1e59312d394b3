//! What can go wrong in the engine, and what to do about it.

/// An error of the engine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The control connection failed.
    #[error("the control connection failed")]
    Postgres(#[from] tokio_postgres::Error),
}
