//! Reads on the shadow and what is sent again of them ([`super::retry`]), as the client's frames and the server's go by.

use super::decide::Case;
use super::expect::{Expect, Reply, Rows};
use super::portal::Portal;
use super::prepared::{FormKey, Prepared};
use super::query::Text;
use super::retry::{FRAMES_BYTES_MAX, Gates, Scope, State};
use super::transaction::Block;
use super::{Hold, Out, Session};
use crate::proxy::context::Known;
use crate::routing::Routes;
use crate::sql::statement::{Class, Understanding};
use crate::wire::backend::TransactionStatus;
use crate::wire::frame::{HEADER_BYTES, Header};
use crate::wire::{build, frontend};
use std::sync::Arc;

const PARSE_COMPLETE: &[u8] = b"1\0\0\0\x04";
const CLOSE_COMPLETE: &[u8] = b"3\0\0\0\x04";

impl Session {
    /// A Parse of a query on a migrated table may begin a group that can be sent again. In the shadow's
    /// form it may be what fails, whatever a Bind then asks for.
    pub(super) fn note_for_retry(&mut self, known: &Known, own: FormKey, frame: &[u8]) {
        let parses_shadow = matches!(own, FormKey::Shadow(_));
        match is_read(known) {
            true if self.begins_retry(0) => self.record_from(parses_shadow, frame),
            // Its completion would come before that.
            true if self.retry.describes() => self.retry.give_up(),
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
        if let (true, Some(frontend::Named::Statement(name))) = (self.retry.is_awaited(), named) {
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

    /// So may a Bind. Further reads may be bound behind one on the shadow.
    pub(super) fn note_bind_for_retry(&mut self, case: &Case<'_>, portal: &Portal, frame: &[u8]) {
        let on_shadow = portal.rows.is_on_shadow();
        let reads = matches!(case.statement.class, Class::Read(_));
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
            State::Recording { .. } if reads && self.retry.is_awaited() => {
                self.retry.is_one_of_several();
                self.retry.record(frame);
            }
            _ => self.retry.give_up(),
        }
        self.retry.gates = if on_shadow { gates(case) } else { Gates::new() };
    }

    /// The portal of the frame at hand stands for what is bound.
    pub(super) fn read_is_bound(&mut self, portal: &[u8]) {
        if let Some(portal) = self.names.portal(portal) {
            self.retry.is_bound(portal.id, portal.rows.is_on_shadow());
        }
    }

    /// Whether a Bind waits until reads on the shadow before it have been answered: all but that of another read. An
    /// unnamed statement is another one by then.
    pub(super) fn waits_for_reads(
        &mut self,
        bind: &frontend::Bind<'_>,
        routes: &Routes,
        out: &mut Out,
    ) -> bool {
        if !self.retry.is_awaited() {
            return false;
        }
        let is_other = self.happens_before(bind.statement).is_some()
            || self.may_be_hidden(bind.statement)
            || bind.statement.is_empty()
            || self.retry.closed.is_some()
            || self.retry.bytes > FRAMES_BYTES_MAX;
        let reads = !is_other && self.refresh(bind.statement, routes).is_some_and(|k| is_read(&k));
        !reads && self.drains(out)
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

    /// Whether a frame waits until reads on the shadow before it have been answered: it is not to be sent again
    /// with them. A Bind is looked at when its statement is known.
    pub(super) fn waits_for_read(&mut self, header: Header, rest: &[u8], out: &mut Out) -> bool {
        if !self.retry.is_awaited() {
            return false;
        }
        let body = rest.get(HEADER_BYTES..rest.len().min(header.frame_bytes)).unwrap_or_default();
        let is_whole = rest.len() >= header.frame_bytes;
        let portal = match header.tag {
            b'S' | b'H' => return false,
            b'E' | b'C' | b'D' if !is_whole => return true,
            b'B' if header.frame_bytes <= FRAMES_BYTES_MAX => return false,
            b'E' => frontend::execute(body),
            b'C' | b'D' => match frontend::named(body) {
                Some(frontend::Named::Portal(name)) => Some(name),
                // It is prepared anew before.
                Some(frontend::Named::Statement(name))
                    if header.tag == b'C' && self.retry.may_close(name) =>
                {
                    return false;
                }
                _ => None,
            },
            _ => None,
        };
        let portal = portal.and_then(|name| self.names.portal(name)).map(|portal| portal.id);
        (portal.is_none() || portal != self.retry.last) && self.drains(out)
    }

    /// Whether a frame from the server goes nowhere: it is of an answer that the source is to give. A row
    /// is dropped as it comes, what else there is when it has been looked at.
    pub(super) fn is_void(&mut self, tag: u8, out: &mut Out) -> bool {
        let has_failed = self.retry.has_failed();
        match (tag, self.replies.front()) {
            (b'2', Some(Expect::Bind(_, Some(bound)))) => self.retry.has_begun(bound.id),
            (b'T', Some(Expect::Query(rows))) if rows.front().is_some_and(Rows::is_on_shadow) => {
                self.retry.query_has_begun();
            }
            _ => {}
        }
        if self.retry.has_failed() && !has_failed {
            // Nothing more of the group is sent before all of it is answered.
            build::flush(&mut out.to_server);
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
fn gates(case: &Case<'_>) -> Gates {
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
