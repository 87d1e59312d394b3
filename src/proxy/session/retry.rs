//! A read that the shadow was chosen for is answered by the source after all: the client's frames are sent again
//! in their own form.
//!
//! * If a gate was closed before the server took the read's snapshot: it may have waited, for a lock, or for what runs
//!   before it. The server has it when it says that it has bound the read (simple protocol: when it describes the
//!   rows). The shadow is chosen only for a read of which that can be told, and which can be sent again by itself: what
//!   is not a part of it waits for that. The transaction that it is in, if any, goes on.
//! * If it fails, and is alone in its transaction. The error undoes all that the server has run since it was ready
//!   last. So that is done only for a group that is known from its first frame on, has nothing in it but what reads,
//!   and was sent when nothing else was unanswered. What the client would get before the first row is held back until
//!   that comes: of what failed, it gets nothing.

use super::prepared::Prepared;
use crate::routing::{Gate, GateTicket};
use crate::wire::frame::HEADER_BYTES;
use crate::wire::frontend;
use std::collections::VecDeque;
use std::sync::Arc;

/// More than this is not kept of what comes before a Bind; and behind reads of more, further ones wait. A Bind, or a
/// query, is kept however long it is.
pub(super) const FRAMES_BYTES_MAX: usize = 64 * 1024;

/// Of more than this the client gets what there is, and the group is not sent again: a function may raise
/// notices without end.
const HELD_BYTES_MAX: usize = 64 * 1024;

const BIND_COMPLETE: &[u8] = b"2\0\0\0\x04";

/// The group of frames that could be sent again.
#[derive(Debug, Default)]
pub(super) struct Retry {
    pub(super) frames: Vec<Vec<u8>>,
    pub(super) bytes: usize,
    pub(super) state: State,
    pub(super) scope: Scope,
    /// The frame at hand is among them.
    noted: bool,
    /// Some frame of the group has been sent.
    mid_group: bool,
    /// Replies that wait for the first row, or the end.
    pub(super) held: Vec<u8>,
    /// The gates that were open when the shadow was chosen for the frame at hand, or for the query.
    pub(super) gates: Gates,
    /// What is bound on the shadow, and has no snapshot yet.
    binds: VecDeque<OnShadow>,
    /// The portal that was bound last.
    pub(super) last: Option<u64>,
    /// How many frames have been taken from before those that are left.
    taken: usize,
    /// The statement that the group drops.
    pub(super) closed: Option<(Box<[u8]>, Prepared)>,
}

pub(super) type Gates = Vec<(Arc<Gate>, GateTicket)>;

/// A read that is bound on the shadow.
#[derive(Debug)]
struct OnShadow {
    portal: u64,
    /// Where its Bind is among the frames.
    at: usize,
    gates: Gates,
}

/// What is sent again.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// The whole group: after an error, too.
    #[default]
    Group,
    /// A read, from its Bind on, and further ones behind it in its group.
    Read,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing to repeat.
    #[default]
    Idle,
    /// Frames of a group that reads a migrated table, and whether a Bind chose the shadow.
    Recording { on_shadow: bool },
    /// Sent whole; this many of its frames the server has answered, and the client has no answer yet.
    Armed { answered: usize },
    /// It failed; waiting for the server to be ready.
    Failed { answered: usize },
    /// Being sent again.
    Replaying,
    /// Sent again; what comes now is final.
    Replayed,
}

impl Retry {
    /// A simple query on the shadow.
    pub(super) fn of_query(&mut self, scope: Scope, frame: &[u8], gates: Gates) {
        self.gates = gates;
        self.frames = vec![frame.to_vec()];
        self.state = State::Armed { answered: 0 };
        self.scope = scope;
    }

    /// One more frame of the group that is recorded, if any.
    pub(super) fn record(&mut self, frame: &[u8]) {
        match self.state {
            State::Recording { .. } => {
                self.noted = true;
                self.bytes += frame.len();
                self.frames.push(frame.to_vec());
                if self.bytes > FRAMES_BYTES_MAX && self.only_parses() {
                    self.give_up();
                }
            }
            State::Armed { .. } => self.give_up(),
            State::Idle | State::Failed { .. } | State::Replaying | State::Replayed => {}
        }
    }

    /// Whether a description is among what is recorded.
    pub(super) fn describes(&self) -> bool {
        self.frames.iter().any(|frame| frame.first() == Some(&b'D'))
    }

    /// Whether no Bind is among what is recorded.
    pub(super) fn only_parses(&self) -> bool {
        self.frames.iter().all(|frame| frame.first() != Some(&b'B'))
    }

    /// Whether the shadow may be chosen for the read of the frame at hand.
    pub(super) fn may_begin(&self) -> bool {
        match self.state {
            State::Idle => true,
            State::Recording { .. } => self.only_parses() || self.is_awaited(),
            State::Armed { .. } | State::Failed { .. } | State::Replaying | State::Replayed => {
                false
            }
        }
    }

    /// Whether a read has been sent of which it is not known yet whether the shadow answers it.
    pub(super) fn is_awaited(&self) -> bool {
        matches!(self.state, State::Recording { .. }) && !self.binds.is_empty()
    }

    /// The read of the frame at hand is bound.
    pub(super) fn is_bound(&mut self, portal: u64, on_shadow: bool) {
        if !self.noted {
            return;
        }
        self.last = Some(portal);
        if on_shadow {
            let at = self.taken + self.frames.len() - 1;
            self.binds.push_back(OnShadow { portal, at, gates: std::mem::take(&mut self.gates) });
        }
    }

    /// Whether the statement is that of the only read.
    pub(super) fn may_close(&self, name: &[u8]) -> bool {
        let bind = |frame: &Vec<u8>| frame.first() == Some(&b'B');
        let bound = self.frames.iter().find(|frame| bind(frame));
        let bound = bound.and_then(|frame| frontend::bind(frame.get(HEADER_BYTES..)?));
        self.scope == Scope::Group
            && self.closed.is_none()
            && bound.is_some_and(|bind| bind.statement == name)
    }

    /// The frames before this one are not sent again.
    fn take_before(&mut self, at: usize) {
        drop(self.frames.drain(..(at - self.taken).min(self.frames.len())));
        self.taken = at;
    }

    /// More than one read is sent before the first is answered: an error is none's alone.
    pub(super) fn is_one_of_several(&mut self) {
        self.scope = Scope::Read;
        if let Some(at) = self.binds.front().map(|bind| bind.at) {
            self.take_before(at);
        }
    }

    /// Whether frames of the group at hand have been sent before.
    pub(super) fn is_mid_group(&self) -> bool {
        self.mid_group
    }

    /// A frame has been dealt with: one that is not among those recorded cannot be repeated.
    pub(super) fn frame_is_over(&mut self, in_group: bool) {
        self.mid_group = in_group;
        let noted = std::mem::take(&mut self.noted);
        if matches!(self.state, State::Recording { .. }) && !noted {
            self.give_up();
        }
    }

    /// The group has something in it that must not be sent twice.
    pub(super) fn give_up(&mut self) {
        if !matches!(self.state, State::Replaying | State::Replayed | State::Failed { .. }) {
            self.forget();
        }
    }

    /// What is held is still owed to the client.
    fn forget(&mut self) {
        let held = std::mem::take(&mut self.held);
        *self = Self { held, mid_group: self.mid_group, ..Self::default() };
    }

    /// Whether the client gets a reply of this kind only when it is certain that the group is not sent
    /// again.
    fn holds(&self, tag: u8) -> bool {
        matches!(self.state, State::Armed { .. })
            && self.scope == Scope::Group
            && matches!(tag, b'1' | b'2' | b'3' | b'T' | b't' | b'n' | b'N')
            && self.held.len() <= HELD_BYTES_MAX
    }

    /// Holds back what was written for the client from here on, the reply to a frame; or gives it what was
    /// held, before that. Whatever it gets, whichever table it is from, would come twice if the group
    /// were sent again.
    pub(super) fn hold_or_give(&mut self, tag: u8, to_client: &mut Vec<u8>, from: usize) {
        if self.holds(tag) {
            self.held.extend(to_client.drain(from..));
        } else if to_client.len() > from {
            self.give(tag, to_client, from);
        }
    }

    /// The client gets a frame of this kind, behind what is written for it up to here.
    pub(super) fn give(&mut self, tag: u8, to_client: &mut Vec<u8>, at: usize) {
        // These come at any time, between any two replies.
        if matches!(tag, b'A' | b'S') || self.has_failed() {
            return;
        }
        if matches!(self.state, State::Armed { .. }) && self.scope == Scope::Group {
            self.give_up();
        }
        if !self.held.is_empty() {
            to_client.splice(at..at, self.held.drain(..));
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

    /// Whether the client's frames have to wait: what is sent behind a group that fails would be answered
    /// before that is sent again.
    pub(super) fn is_pending(&self) -> bool {
        !matches!(self.state, State::Idle | State::Recording { .. })
    }

    /// A frame of the client's was answered.
    pub(super) fn answered(&mut self) {
        if self.scope == Scope::Read {
            return;
        }
        match &mut self.state {
            State::Armed { answered } => *answered += 1,
            // The client has the reply, before it has sent all: that frame is not sent again. Nor can
            // what it has bound be executed again.
            State::Recording { .. } if !self.frames.is_empty() => {
                let frame = self.frames.remove(0);
                self.taken += 1;
                if frame.first() == Some(&b'B') {
                    self.give_up();
                }
            }
            _ => {}
        }
    }

    /// An error came; whether it starts a second attempt.
    pub(super) fn on_error(&mut self, sqlstate: &[u8]) -> bool {
        if self.scope == Scope::Read {
            self.forget();
            return false;
        }
        // Cancel, timeout, shutdown: the client's or the server's will.
        if sqlstate.starts_with(b"57") {
            if self.has_failed() {
                self.forget()
            } else {
                self.give_up()
            }
            return false;
        }
        match self.state {
            State::Failed { .. } => true,
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

    /// A read has its snapshot: what the shadow says counts if no gate was closed since it was chosen. Whoever
    /// commits what is not on the shadow has closed the gate before, except for what is committed as it is written,
    /// of which nobody here knows before its reply.
    pub(super) fn has_begun(&mut self, portal: u64) {
        if self.has_failed() {
            return;
        }
        let Some(which) = self.binds.iter().position(|bind| bind.portal == portal) else { return };
        let Some(bind) = self.binds.drain(..=which).next_back() else { return };
        match (is_closed(&bind.gates), self.scope) {
            (true, Scope::Group) => self.fails(),
            (true, Scope::Read) => {
                self.take_before(bind.at);
                self.fails();
            }
            (false, Scope::Group) => {}
            (false, Scope::Read) => match self.binds.front().map(|next| next.at) {
                Some(next) => self.take_before(next),
                None => self.forget(),
            },
        }
    }

    /// The same for a simple query.
    pub(super) fn query_has_begun(&mut self) {
        match (is_closed(&self.gates), self.scope) {
            (true, _) => self.fails(),
            (false, Scope::Group) => {}
            (false, Scope::Read) => self.forget(),
        }
    }

    /// What comes of it from here on goes nowhere.
    fn fails(&mut self) {
        match self.state {
            // It is not sent whole: behind an error the server would skip it.
            State::Recording { .. } => {
                self.scope = Scope::Read;
                self.state = State::Failed { answered: 0 };
            }
            State::Armed { answered } => self.state = State::Failed { answered },
            State::Idle | State::Failed { .. } | State::Replaying | State::Replayed => {}
        }
        if self.scope == Scope::Read && !self.only_parses() {
            // Before an error.
            self.held = BIND_COMPLETE.to_vec();
        }
    }

    pub(super) fn has_failed(&self) -> bool {
        matches!(self.state, State::Failed { .. })
    }

    /// A group has been answered.
    pub(super) fn done(&mut self) {
        if !matches!(self.state, State::Recording { .. } | State::Failed { .. }) {
            self.forget();
        }
    }

    /// All that was sent is answered, of what was sent again, too.
    pub(super) fn all_is_answered(&mut self) {
        if self.state == State::Replayed {
            self.forget();
        }
    }
}

fn is_closed(gates: &Gates) -> bool {
    gates.iter().any(|(gate, then)| !gate.is_open() || gate.ticket() != *then)
}
