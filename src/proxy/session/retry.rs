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

use super::decide::Case;
use super::expect::{Expect, Reply, Rows};
use super::portal::Portal;
use super::prepared::{FormKey, Prepared};
use super::query::Text;
use super::transaction::Block;
use super::{Hold, Out, Session};
use crate::proxy::context::Known;
use crate::routing::{Gate, GateTicket};
use crate::sql::statement::{Class, Understanding};
use crate::wire::backend::TransactionStatus;
use crate::wire::frame::{HEADER_BYTES, Header};
use crate::wire::{build, frontend};
use std::sync::Arc;

/// Groups larger than this are not kept for a second attempt.
const FRAMES_BYTES_MAX: usize = 64 * 1024;

/// Of more than this the client gets what there is, and the group is not sent again: a function may raise
/// notices without end.
const HELD_BYTES_MAX: usize = 64 * 1024;

const PARSE_COMPLETE: &[u8] = b"1\0\0\0\x04";
const CLOSE_COMPLETE: &[u8] = b"3\0\0\0\x04";

/// The group of frames that could be sent again.
#[derive(Debug, Default)]
pub(super) struct Retry {
    frames: Vec<Vec<u8>>,
    bytes: usize,
    state: State,
    scope: Scope,
    /// The frame at hand is among them.
    noted: bool,
    /// Some frame of the group has been sent.
    mid_group: bool,
    /// Replies that wait for the first row, or the end.
    held: Vec<u8>,
    /// The gates that were open when the shadow was chosen.
    gates: Vec<(Arc<Gate>, GateTicket)>,
    /// The number of the portal that is bound on the shadow.
    bound: Option<u64>,
    /// The statement that the group drops.
    closed: Option<(Box<[u8]>, Prepared)>,
}

/// What is sent again.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// The whole group: after an error, too.
    #[default]
    Group,
    /// The read, from its Bind on.
    Read,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
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
    fn of_query(&mut self, scope: Scope, frame: &[u8], gates: Vec<(Arc<Gate>, GateTicket)>) {
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

    /// Whether no Bind is among what is recorded.
    fn only_parses(&self) -> bool {
        self.frames.iter().all(|frame| frame.first() != Some(&b'B'))
    }

    /// Whether the shadow may be chosen for the read of the frame at hand.
    fn may_begin(&self) -> bool {
        match self.state {
            State::Idle => true,
            State::Recording { .. } => self.only_parses(),
            State::Armed { .. } | State::Failed { .. } | State::Replaying | State::Replayed => {
                false
            }
        }
    }

    /// A read is bound on the shadow.
    pub(super) fn is_bound(&mut self, portal: u64) {
        if matches!(self.state, State::Recording { .. }) {
            self.bound = Some(portal);
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

    /// The read has its snapshot: what the shadow says counts if no gate was closed since it was chosen. Whoever
    /// commits what is not on the shadow has closed the gate before, except for what is committed as it is written,
    /// of which nobody here knows before its reply.
    fn has_begun(&mut self) {
        let is_closed =
            |(gate, then): &(Arc<Gate>, GateTicket)| !gate.is_open() || gate.ticket() != *then;
        let is_closed = self.gates.iter().any(is_closed);
        match self.state {
            State::Recording { .. } if is_closed => self.state = State::Failed { answered: 0 },
            State::Armed { answered } if is_closed => self.state = State::Failed { answered },
            State::Recording { .. } | State::Armed { .. } if self.scope == Scope::Read => {
                self.forget();
            }
            _ => {}
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

impl Session {
    /// A Parse of a query on a migrated table may begin a group that can be sent again. In the shadow's
    /// form it may be what fails, whatever a Bind then asks for.
    pub(super) fn note_for_retry(&mut self, known: &Known, own: FormKey, frame: &[u8]) {
        let parses_shadow = matches!(own, FormKey::Shadow(_));
        match is_read(known) {
            true if self.begins_retry(0) => self.record_from(parses_shadow, frame),
            true => self.retry.record(frame),
            false => self.retry.give_up(),
        }
    }

    /// A Close is as good the second time. Drivers drop what they need no more in the group of the next.
    pub(super) fn note_close_for_retry(
        &mut self,
        named: Option<frontend::Named<'_>>,
        frame: &[u8],
    ) {
        match self.begins_retry(0) {
            true => self.record_from(false, frame),
            false => self.retry.record(frame),
        }
        if let (Some(_), Some(frontend::Named::Statement(name))) = (self.retry.bound, named) {
            self.retry.closed = self.names.statement(name).map(|s| (name.into(), s.clone()));
        }
    }

    fn record_from(&mut self, on_shadow: bool, frame: &[u8]) {
        self.retry.state = State::Recording { on_shadow };
        self.retry.record(frame);
    }

    /// Whether the frame at hand is the first of its group, and nothing is unanswered but so many frames of
    /// ours for it.
    pub(super) fn begins_retry(&self, ours: usize) -> bool {
        self.retry.state == State::Idle
            && !self.retry.is_mid_group()
            && self.replies.len() == ours
            && self.only_own_replies()
            && self.status == TransactionStatus::Idle
    }

    /// So may a Bind; a second one in a group ends the recording.
    pub(super) fn note_bind_for_retry(&mut self, case: &Case<'_>, portal: &Portal, frame: &[u8]) {
        let on_shadow = portal.rows.is_on_shadow();
        let reads = matches!(&portal.rows, Rows::Read(_));
        match self.retry.state {
            State::Idle if on_shadow => {
                self.retry.scope = self.scope(self.replies.len());
                self.record_from(true, frame);
            }
            State::Recording { on_shadow: false } if on_shadow => {
                self.retry.state = State::Recording { on_shadow: true };
                self.retry.record(frame);
            }
            State::Recording { on_shadow: true } if reads && self.retry.only_parses() => {
                self.retry.record(frame);
            }
            _ => self.retry.give_up(),
        }
        if on_shadow {
            self.retry.gates = gates(case);
        }
    }

    /// A simple query goes to the shadow.
    pub(super) fn note_query_for_retry(&mut self, query: &Text<'_>, u: &Understanding) {
        let scope = self.scope(0);
        let gates = u.statements.iter().flat_map(|s| gates(&query.case(s))).collect();
        self.retry.of_query(scope, query.frame, gates);
    }

    /// What is sent again of a read that the frame at hand begins, before which so many frames of ours for it are
    /// unanswered.
    fn scope(&self, ours: usize) -> Scope {
        let in_block = !matches!(self.transaction.block, Block::None);
        match !in_block && self.begins_retry(ours) {
            true => Scope::Group,
            false => Scope::Read,
        }
    }

    /// Whether a read of the frame at hand can be sent again by itself. Behind groups that are not answered it
    /// cannot.
    pub(super) fn may_begin_retry(&self) -> bool {
        self.epochs.len() <= 1 && self.retry.may_begin()
    }

    /// Whether a frame waits until a read on the shadow before it has been answered: it is not to be sent again
    /// with it.
    pub(super) fn waits_for_read(&mut self, header: Header, rest: &[u8], out: &mut Out) -> bool {
        let Some(bound) = self.retry.bound else { return false };
        let State::Recording { .. } = self.retry.state else { return false };
        let body = rest.get(HEADER_BYTES..rest.len().min(header.frame_bytes)).unwrap_or_default();
        let portal = match header.tag {
            b'S' | b'H' | b'D' => return false,
            b'E' => frontend::execute(body),
            b'C' => match frontend::named(body) {
                Some(frontend::Named::Portal(name)) => Some(name),
                // It is prepared anew before.
                Some(_) if self.retry.scope == Scope::Group => return false,
                _ => None,
            },
            _ => None,
        };
        let portal = portal.and_then(|name| self.names.portal(name));
        portal.is_none_or(|portal| portal.id != bound) && self.drains(out)
    }

    /// Whether a frame from the server goes nowhere: it is of an answer that the source is to give. A row
    /// is dropped as it comes, what else there is when it has been looked at.
    pub(super) fn is_void(&mut self, tag: u8) -> bool {
        let begins = match (tag, self.replies.front()) {
            (b'2', Some(Expect::Bind(_, Some(bound)))) => self.retry.bound == Some(bound.id),
            (b'T', Some(Expect::Query(rows))) => rows.front().is_some_and(Rows::is_on_shadow),
            _ => false,
        };
        if begins {
            self.retry.has_begun();
        }
        self.retry.has_failed()
            && matches!(tag, b'1' | b'2' | b'3' | b'C' | b'D' | b'N' | b'T' | b'n' | b's' | b't')
    }

    /// Prepares a statement anew that the group has dropped behind its read.
    fn prepare_closed(&mut self, out: &mut Out) {
        let Some((name, statement)) = self.retry.closed.take() else { return };
        if self.names.statement(&name).is_some() {
            return;
        }
        let (sql, types) = (String::from_utf8_lossy(&statement.sql), statement.types.clone());
        build::parse(&mut out.to_server, &name, &sql, &types);
        self.replies.push_back(Expect::Parse(Reply::Swallow, None));
        let own = (FormKey::Original, None);
        self.names
            .put(&name, Prepared { own, extra: Vec::new(), touched: self.groups, ..statement });
    }

    fn only_own_replies(&self) -> bool {
        self.replies.iter().all(|e| {
            matches!(e, Expect::Parse(Reply::Swallow, _) | Expect::Close(Reply::Swallow, _))
        })
    }

    /// All that was sent is answered: what waited for that may go on, or is sent again before.
    pub(super) fn all_is_answered(&mut self, out: &mut Out) {
        if !self.nothing_is_unanswered() {
            return;
        }
        if self.retry.has_failed() {
            self.replay(out);
            build::flush(&mut out.to_server);
            return;
        }
        self.retry.all_is_answered();
        if self.hold == Some(Hold::Drain) {
            self.hold = None;
        }
    }

    /// Sends what has failed again; called when the server is ready, or waits for more of the group.
    pub(super) fn replay(&mut self, out: &mut Out) {
        let State::Failed { answered } = self.retry.state else { return };
        self.context.metrics.shadow_retries.inc();
        self.retry.state = State::Replaying;
        self.retry.held.clear();
        self.prepare_closed(out);
        let frames = std::mem::take(&mut self.retry.frames);
        for (index, frame) in frames.iter().enumerate() {
            let tag = frame.first().copied().unwrap_or_default();
            // The server has done what outlives the error: the statement is there, or not.
            match tag {
                b'P' if index < answered => out.to_client.extend_from_slice(PARSE_COMPLETE),
                b'C' if index < answered => out.to_client.extend_from_slice(CLOSE_COMPLETE),
                _ => {
                    let body = frame.get(HEADER_BYTES..).unwrap_or_default();
                    if let (b'B', Some(bind)) = (tag, frontend::bind(body)) {
                        // Within a transaction it is there still.
                        build::close_portal(&mut out.to_server, bind.portal);
                        self.replies.push_back(Expect::Close(Reply::Swallow, None));
                    }
                    let _flow = self.frame(tag, frame, out);
                }
            }
        }
        self.retry.state = State::Replayed;
    }
}

/// The gates that a read on the shadow is chosen by.
fn gates(case: &Case<'_>) -> Vec<(Arc<Gate>, GateTicket)> {
    let Class::Read(read) = &case.statement.class else { return Vec::new() };
    let routes = read.fit.iter().flat_map(|fit| fit.targets()).filter_map(|t| case.route(t));
    routes.map(|route| (Arc::clone(&route.gate), route.gate.ticket())).collect()
}

fn is_read(known: &Known) -> bool {
    match known {
        Known::Understood(u) => {
            super::parse::one(u).is_some_and(|s| matches!(s.class, Class::Read(_)))
        }
        Known::Plain | Known::Unreadable(_) => false,
    }
}
