//! The demo: a whole migration on a throwaway Postgres, under live traffic through the real proxy.
//!
//! Invariant: nothing is said that was not measured. What could not be measured is a problem in the
//! report, and a demo with a problem has failed.

mod error;
mod history;
mod incident;
mod load;
mod narrator;
mod operations;
mod probe;
mod random;
mod report;
mod scene;
mod speaker;
mod stage;
mod story;
mod tables;

pub use error::Error;
pub use narrator::Voice;
pub use report::Report;
pub use stage::Stage;

use narrator::Narrator;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How the demo runs.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How long the scenes last that nothing but the audience waits for, together.
    pub seconds: u32,
    /// How it is told.
    pub voice: Voice,
}

/// Plays the demo from the first to the last scene; none when it was stopped before. The stage that
/// is returned still stands (server and proxy run) until it is closed or dropped.
///
/// # Errors
/// When no Postgres can be started, the proxy does not come up, or a scene does not come to its end.
pub async fn play(
    options: Options,
    stop: CancellationToken,
) -> Result<Option<(Report, Stage)>, Error> {
    let began = Instant::now();
    let narrator = Narrator::new(options.voice);
    narrator.begins("starting a throwaway Postgres");
    // Not interrupted: it takes a second or two, and half a server could not be cleaned up.
    let postgres = Stage::server().await?;
    narrator.says("a throwaway Postgres runs");
    tokio::select! {
        told = Box::pin(story::tell(options, narrator, postgres, began)) => told.map(Some),
        () = stop.cancelled() => Ok(None),
    }
}
