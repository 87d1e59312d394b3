//! What a reload of the file changed about the levers, for the audit trail.

use super::Error;
use super::journal::{self, NewEvent};
use crate::manifest::{DualWrite, Levers, Scans};

/// A lever that the file changed.
pub(super) struct LeverChange {
    /// The migration.
    pub(super) migration: String,
    what: &'static str,
    from: String,
    to: String,
}

impl LeverChange {
    /// The levers that differ.
    pub(super) fn between(migration: &str, from: &Levers, to: &Levers) -> Vec<Self> {
        let on = |levers: &Levers| match levers.dual_write {
            DualWrite::On => "on".to_owned(),
            DualWrite::Off => "off".to_owned(),
        };
        let scans = |levers: &Levers| match levers.scans {
            Scans::Source => "source".to_owned(),
            Scans::Shadow => "shadow".to_owned(),
        };
        [
            ("reads", from.reads.to_string(), to.reads.to_string()),
            ("dark_reads", from.dark_reads.to_string(), to.dark_reads.to_string()),
            ("dual_write", on(from), on(to)),
            ("scans", scans(from), scans(to)),
        ]
        .into_iter()
        .filter(|(_, from, to)| from != to)
        .map(|(what, from, to)| Self { migration: migration.to_owned(), what, from, to })
        .collect()
    }

    /// Writes the event.
    pub(super) async fn record(&self, client: &tokio_postgres::Client) -> Result<(), Error> {
        let Self { migration, what, from, to } = self;
        let event =
            NewEvent { migration, who: journal::FILE, what, from, to, why: "the file was changed" };
        journal::event(client, &event).await
    }
}
