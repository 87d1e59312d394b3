//! Tells the story on standard error: bars on a terminal, plain lines elsewhere.

use super::scene::Board;
use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::Write;
use std::time::Duration;

const SPINNER: &str = "{spinner} {msg}  {elapsed}  {prefix}";
const ROWS: &str = "{spinner} {msg}  {wide_bar} {human_pos}/{human_len} rows  {prefix}";
const TIME: &str = "{spinner} {msg}  {wide_bar} {elapsed}  {prefix}";
const STEADY: Duration = Duration::from_millis(100);

/// How the story is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Voice {
    /// With progress bars.
    Bars,
    /// In plain lines.
    Lines,
}

/// The teller.
#[derive(Debug)]
pub(super) struct Narrator {
    bar: ProgressBar,
    voice: Voice,
}

impl Narrator {
    /// Bars need a terminal on standard error.
    pub(super) fn new(voice: Voice) -> Self {
        let target = match voice {
            Voice::Bars => ProgressDrawTarget::stderr(),
            Voice::Lines => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(None, target);
        if voice == Voice::Bars {
            bar.enable_steady_tick(STEADY);
        }
        Self { bar, voice }
    }

    /// Something begins that has no measure.
    pub(super) fn begins(&self, what: &str) {
        self.shows(what, SPINNER);
    }

    /// Something begins that is counted in rows.
    pub(super) fn begins_rows(&self, what: &str) {
        self.shows(what, ROWS);
    }

    /// Something begins that lasts this long.
    pub(super) fn begins_for(&self, what: &str, time: Duration) {
        self.shows(what, TIME);
        self.bar.set_length(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    }

    fn shows(&self, what: &str, template: &str) {
        self.bar.reset();
        self.bar.unset_length();
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style);
        }
        self.bar.set_message(what.to_owned());
    }

    /// How far it is.
    pub(super) fn at(&self, position: u64, length: u64) {
        self.bar.set_length(length.max(position));
        self.bar.set_position(position);
    }

    /// How the traffic does meanwhile.
    pub(super) fn traffic(&self, board: &Board) {
        let (statements, failed, _) = board.counts();
        self.bar.set_prefix(format!("{} statements, {failed} failed", HumanCount(statements)));
    }

    /// Something is over; the line stays.
    pub(super) fn says(&self, text: &str) {
        self.line(&format!("  ✓ {text}"));
    }

    /// Something happens that is not the migration's doing.
    pub(super) fn warns(&self, text: &str) {
        self.line(&format!("  ! {text}"));
    }

    fn line(&self, text: &str) {
        match self.voice {
            Voice::Bars => self.bar.suspend(|| to_stderr(text)),
            Voice::Lines => to_stderr(text),
        }
    }
}

impl Drop for Narrator {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A reader that has gone is not an error.
fn to_stderr(text: &str) {
    writeln!(std::io::stderr().lock(), "{text}").ok();
}
