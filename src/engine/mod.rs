//! The migration itself: install, barrier, backfill, repair, verify, and the journal that lets a
//! killed process go on where it was. Publishes routes; knows no client session.

pub mod check;
mod control;
mod error;
mod state;

pub use control::{Control, RouteChange};
pub use error::Error;
pub use state::{Event, Phase, Status};

use crate::manifest::{Levers, Migration};
use crate::routing;
use crate::telemetry::Metrics;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// One migration as the config file has it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// The part that is fixed once started.
    pub migration: Migration,
    /// The hot part.
    pub levers: Levers,
}

/// The engine of one process.
#[derive(Debug)]
pub struct Engine {}

impl Engine {
    /// Connects, takes the engine's advisory lock, brings schema `pgsegue` up to date, reads the
    /// journal. Publishes nothing yet.
    ///
    /// # Errors
    /// When the database cannot be reached, another process holds the lock, or the schema cannot
    /// be installed.
    pub async fn connect(
        _control: tokio_postgres::Config,
        _routes: Arc<routing::Handle>,
        _metrics: Metrics,
    ) -> Result<Arc<Self>, Error> {
        Ok(Arc::new(Self {}))
    }

    /// Puts a set of declarations in force as a whole: validates them against the journal, then
    /// publishes routes. Called before the first client is accepted and at every reload. A change
    /// of levers alone is published before any round trip to the database.
    ///
    /// # Errors
    /// When a started migration is no longer declared or declared differently; nothing changes.
    pub async fn apply(&self, _declared: Vec<Declared>) -> Result<(), Error> {
        Ok(())
    }

    /// Works until `shutdown`: listens for requests, polls dirty keys, runs the migrations.
    pub async fn run(self: Arc<Self>, _shutdown: CancellationToken) {}
}
