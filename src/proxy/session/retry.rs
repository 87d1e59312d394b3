//! A shadow read outside a transaction that fails is answered by the source: the client's frames
//! are sent again in their own form, and replies it already has are not given twice.

use super::expect::{Expect, Reply};
use super::prepared::Portal;
use super::{Out, Session};
use crate::proxy::context::Known;
use crate::sql::statement::Class;

/// Groups larger than this are not kept for a second attempt.
const FRAMES_BYTES_MAX: usize = 64 * 1024;

/// The group of frames that could be sent again.
#[derive(Debug, Default)]
pub(super) struct Retry {
    frames: Vec<Vec<u8>>,
    bytes: usize,
    /// The client of a simple query has the description of its rows.
    has_description: bool,
    state: State,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing to repeat.
    #[default]
    Idle,
    /// Frames of a group that reads a migrated table, and whether a Bind chose the shadow.
    Recording { on_shadow: bool },
    /// Sent whole; this many replies have been given to the client.
    Armed { answered: usize },
    /// It failed; waiting for the server to be ready.
    Failed { answered: usize },
    /// Being sent again.
    Replaying,
    /// Sent again; what comes now is final.
    Replayed,
}

impl Retry {
    /// A simple query on the shadow, outside a transaction.
    pub(super) fn of_query(&mut self, frame: &[u8]) {
        if frame.len() <= FRAMES_BYTES_MAX {
            self.frames = vec![frame.to_vec()];
            self.state = State::Armed { answered: 0 };
        }
    }

    /// One more frame of the group that is recorded, if any.
    pub(super) fn record(&mut self, frame: &[u8]) {
        match self.state {
            State::Recording { .. } => {
                self.bytes += frame.len();
                self.frames.push(frame.to_vec());
                if self.bytes > FRAMES_BYTES_MAX {
                    self.give_up();
                }
            }
            State::Armed { .. } => self.give_up(),
            State::Idle | State::Failed { .. } | State::Replaying | State::Replayed => {}
        }
    }

    /// The group has something in it that must not be sent twice.
    pub(super) fn give_up(&mut self) {
        if !matches!(self.state, State::Replaying | State::Replayed | State::Failed { .. }) {
            *self = Self::default();
        }
    }

    /// The group is complete.
    pub(super) fn sync(&mut self) {
        match self.state {
            State::Recording { on_shadow: true } => {
                self.frames.push(b"S\0\0\0\x04".to_vec());
                self.state = State::Armed { answered: 0 };
            }
            State::Recording { on_shadow: false } | State::Armed { .. } => self.give_up(),
            State::Idle | State::Failed { .. } | State::Replaying | State::Replayed => {}
        }
    }

    /// Whether a statement must go to the source now.
    pub(super) fn forces_source(&self) -> bool {
        matches!(self.state, State::Replaying)
    }

    /// Whether the client's frames have to wait.
    pub(super) fn is_pending(&self) -> bool {
        matches!(self.state, State::Failed { .. } | State::Replaying)
    }

    /// The description of a simple query's rows was given to the client.
    pub(super) fn described(&mut self) {
        self.has_description = matches!(self.state, State::Armed { .. });
    }

    /// What is done with the replies of a simple query that is sent again.
    pub(super) fn rows_again(&self) -> super::expect::Rows {
        match self.has_description {
            true => super::expect::Rows::Undescribed,
            false => super::expect::Rows::Plain,
        }
    }

    /// A new group begins before the last one was answered: it is too late to repeat that one.
    pub(super) fn next_group(&mut self) {
        if matches!(self.state, State::Armed { .. }) {
            self.give_up();
        }
    }

    /// A reply was given to the client.
    pub(super) fn answered(&mut self) {
        if let State::Armed { answered } = &mut self.state {
            *answered += 1;
        }
    }

    /// An error came; whether it starts a second attempt.
    pub(super) fn on_error(&mut self, sqlstate: &[u8]) -> bool {
        // Cancel, timeout, shutdown: the client's or the server's will.
        if sqlstate.starts_with(b"57") {
            self.give_up();
            return false;
        }
        match self.state {
            State::Armed { answered } => {
                self.state = State::Failed { answered };
                true
            }
            _ => {
                self.give_up();
                false
            }
        }
    }

    pub(super) fn has_failed(&self) -> bool {
        matches!(self.state, State::Failed { .. })
    }

    /// A group has been answered.
    pub(super) fn done(&mut self) {
        if !matches!(self.state, State::Recording { .. } | State::Failed { .. }) {
            *self = Self::default();
        }
    }
}

impl Session {
    /// A Parse of a query on a migrated table may begin a group that can be sent again.
    pub(super) fn note_for_retry(&mut self, known: &Known, frame: &[u8]) {
        let begins = self.replies.is_empty() && self.retry.state == State::Idle;
        match is_read(known) {
            true if begins => {
                self.retry.state = State::Recording { on_shadow: false };
                self.retry.record(frame);
            }
            true => self.retry.record(frame),
            false => self.retry.give_up(),
        }
    }

    /// So may a Bind; a second one in a group ends the recording.
    pub(super) fn note_bind_for_retry(&mut self, portal: &Portal, frame: &[u8]) {
        use super::expect::{Rows, ServedBy};
        let on_shadow = match &portal.rows {
            Rows::Read(read) => matches!(read.served_by, ServedBy::Shadow(..)),
            _ => false,
        };
        let in_block = !matches!(self.transaction.block, super::transaction::Block::None);
        match self.retry.state {
            State::Idle if on_shadow && !in_block && self.only_own_replies() => {
                self.retry.state = State::Recording { on_shadow: true };
                self.retry.record(frame);
            }
            State::Recording { on_shadow: false } if on_shadow && !in_block => {
                self.retry.state = State::Recording { on_shadow: true };
                self.retry.record(frame);
            }
            _ => self.retry.give_up(),
        }
    }

    fn only_own_replies(&self) -> bool {
        self.replies.iter().all(|e| {
            matches!(e, Expect::Parse(Reply::Swallow, _) | Expect::Close(Reply::Swallow, _))
        })
    }

    /// Sends the failed group again; called when the server is ready.
    pub(super) fn replay(&mut self, out: &mut Out) {
        let State::Failed { answered } = self.retry.state else { return };
        self.context.metrics.shadow_retries.inc();
        self.retry.state = State::Replaying;
        let frames = std::mem::take(&mut self.retry.frames);
        for (index, frame) in frames.iter().enumerate() {
            let tag = frame.first().copied().unwrap_or_default();
            if index < answered && tag == b'P' {
                continue;
            }
            let before = self.replies.len();
            let _flow = self.frame(tag, frame, out);
            if index < answered {
                self.replies.iter_mut().skip(before).for_each(Expect::swallow);
            }
        }
        self.retry.state = State::Replayed;
    }
}

fn is_read(known: &Known) -> bool {
    match known {
        Known::Understood(u) => {
            super::parse::one(u).is_some_and(|s| matches!(s.class, Class::Read(_)))
        }
        Known::Plain | Known::Unreadable(_) => false,
    }
}
