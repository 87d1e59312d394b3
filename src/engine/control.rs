//! What an operator asks for, written into schema `pgsegue` and picked up by the running engine.
//! Needs only a connection to the database: it works while the proxy hangs.

use super::{Error, Event, Status};
use crate::manifest::{DualWrite, Percent};

/// A connection to the control schema.
#[derive(Debug)]
pub struct Control {}

/// A change of routing levers in the control schema; `None` leaves a lever as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteChange {
    /// Share of reads.
    pub reads: Option<Percent>,
    /// Share of dark reads.
    pub dark_reads: Option<Percent>,
    /// The dual-write lever.
    pub dual_write: Option<DualWrite>,
}

impl Control {
    /// Connects.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn connect(_control: &tokio_postgres::Config) -> Result<Self, Error> {
        Ok(Self {})
    }

    /// Asks the running engine to start (or go on with) a migration.
    ///
    /// # Errors
    /// When no proxy has the migration declared, or it cannot be started from where it is.
    pub async fn start(&self, _name: &str, _who: &str) -> Result<(), Error> {
        Ok(())
    }

    /// Holds the work; writes are still mirrored.
    ///
    /// # Errors
    /// When there is no such migration.
    pub async fn pause(&self, _name: &str, _who: &str) -> Result<(), Error> {
        Ok(())
    }

    /// Goes on after a pause or a block.
    ///
    /// # Errors
    /// When there is no such migration.
    pub async fn resume(&self, _name: &str, _who: &str) -> Result<(), Error> {
        Ok(())
    }

    /// Ends the migration: mirroring stops, the functions are dropped; the shadow table stays.
    ///
    /// # Errors
    /// When there is no such migration.
    pub async fn abort(&self, _name: &str, _who: &str, _why: &str) -> Result<(), Error> {
        Ok(())
    }

    /// Asks for a full verify now. Progress: `Status::verify_passes` grows by one when it is done.
    ///
    /// # Errors
    /// When there is no such migration, or it is not that far.
    pub async fn verify(&self, _name: &str, _who: &str) -> Result<(), Error> {
        Ok(())
    }

    /// Lets repair try every dirty key again now, poison keys included.
    ///
    /// # Errors
    /// When there is no such migration.
    pub async fn repair(&self, _name: &str, _who: &str) -> Result<(), Error> {
        Ok(())
    }

    /// Changes levers in the control schema, with an event row, and notifies every proxy.
    ///
    /// # Errors
    /// When there is no such migration.
    pub async fn route(
        &self,
        _name: &str,
        _change: RouteChange,
        _who: &str,
        _why: &str,
    ) -> Result<(), Error> {
        Ok(())
    }

    /// One migration.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn status(&self, _name: &str) -> Result<Option<Status>, Error> {
        Ok(None)
    }

    /// All migrations the control schema knows.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list(&self) -> Result<Vec<Status>, Error> {
        Ok(Vec::new())
    }

    /// The audit trail of one migration, oldest first, at most `limit` newest rows.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn events(&self, _name: &str, _limit: u32) -> Result<Vec<Event>, Error> {
        Ok(Vec::new())
    }
}
