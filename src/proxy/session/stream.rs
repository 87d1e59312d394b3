//! Frames that are too long to be held: they go on as they come, so that a session's memory has a
//! bound. What they mean is decided by their heads; a text that is not read counts as not
//! understood.
//!
//! What is decided must not depend on how the bytes were cut: only on the header, and on a head of
//! fixed length.

use super::client::malformed;
use super::decide::{Case, Decision, mark_or_refuse};
use super::expect::{Expect, Reply, Rows};
use super::gone::Happens;
use super::parse::one;
use super::portal::Portal;
use super::prepared::{Acts, FormKey, Prepared, Undo};
use super::server::TOLD_BYTES_MAX;
use super::watch::Watch;
use super::{Fatal, Flow, Hold, Out, Protocol, Session};
use crate::proxy::context::{Counted, Known, Readable};
use crate::routing::Routes;
use crate::sql::reason::Reason;
use crate::sql::statement::{Class, Effect};
use crate::sql::write::Layout;
use crate::wire::frame::{HEADER_BYTES, Header};
use crate::wire::frontend;
use crate::wire::reader::Reader;
use std::sync::Arc;

/// As in the server: frames of these types that are longer end the session.
const SMALL_BYTES_MAX: usize = 10_001;
/// What of a long frame is looked at: its names are in there.
const HEAD_BYTES: usize = 4 * 1024;
/// Longer errors of statements as the client wrote them go on as they come.
const ERROR_BYTES_MAX: usize = 64 * 1024;

/// What became of the head of a frame.
pub(super) enum Streamed {
    /// The frame is not too long: it is to be held until it is complete.
    No,
    /// More of it is needed, or the server's answer.
    Wait,
    /// That many bytes are dealt with; the rest of the frame goes on as it comes, or nowhere.
    Head(usize),
}

impl Session {
    /// Lets a frame go on that is too long to be held.
    pub(super) fn stream(
        &mut self,
        header: Header,
        rest: &[u8],
        out: &mut Out,
    ) -> Result<Streamed, Fatal> {
        let bytes_max = match header.tag {
            b'D' | b'E' | b'C' | b'S' => SMALL_BYTES_MAX,
            _ => self.context.options.sql_buffer_bytes_max,
        };
        if header.frame_bytes <= bytes_max {
            return Ok(Streamed::No);
        }
        let Some(head) = rest.get(HEADER_BYTES..HEAD_BYTES) else { return Ok(Streamed::Wait) };
        match header.tag {
            b'Q' => Ok(self.stream_query(header, head, out)),
            b'P' => self.stream_parse(header, head),
            b'B' => self.stream_bind(header, head, out),
            // The server will not have it, and say so.
            _ => Ok(self.rest_passes(header, 0)),
        }
    }

    fn rest_passes(&mut self, header: Header, done: usize) -> Streamed {
        self.client_pass = header.frame_bytes - done;
        Streamed::Head(done)
    }

    fn rest_is_dropped(&mut self, header: Header) -> Streamed {
        self.client_drop = header.frame_bytes;
        Streamed::Head(0)
    }

    fn stream_query(&mut self, header: Header, head: &[u8], out: &mut Out) -> Streamed {
        if self.hold == Some(Hold::Failed) {
            self.hold = None;
            self.in_group = false;
            return self.rest_is_dropped(header);
        }
        let fails = self.is_surely_failed();
        let routes = self.routes();
        if routes.routes.is_empty() {
            let understander = self.context.understander(&routes);
            // It hides a write from the migrations to come.
            let plain = understander.know(head, Readable::Always, HEAD_BYTES);
            if !matches!(plain, Known::Plain) {
                self.names.may_have_changed();
            }
        }
        self.retry.give_up();
        self.facts = None;
        match self.query_unseen((&[], head, fails), &routes, Reason::SqlBufferBytesMax, out) {
            Flow::Hold => Streamed::Wait,
            Flow::Done => match self.replies.back() {
                Some(Expect::Query(rows)) if matches!(rows.front(), Some(Rows::Refused(_))) => {
                    self.rest_is_dropped(header)
                }
                _ => self.rest_passes(header, 0),
            },
        }
    }

    fn stream_parse(&mut self, header: Header, head: &[u8]) -> Result<Streamed, Fatal> {
        let name = Reader::new(head).cstr().ok_or_else(name_too_long)?;
        let routes = self.routes();
        self.retry.give_up();
        let id = self.names.next_id();
        let statement = Prepared {
            id,
            touched: self.groups,
            sql: Arc::from(&b""[..]),
            acts: Acts::Copies,
            types: Box::default(),
            known: (routes.generation, Known::Unreadable(Reason::SqlBufferBytesMax)),
            own: (FormKey::Original, None),
            meant: None,
            readable: self.readable(),
            extra: Vec::new(),
        };
        let previous = self.names.put(name, statement).map(Box::new);
        let undo = Undo::Client { name: name.into(), id, previous, form: None };
        self.replies.push_back(Expect::Parse(Reply::Forward, Some(Box::new(undo))));
        Ok(self.rest_passes(header, 0))
    }

    fn stream_bind(
        &mut self,
        header: Header,
        head: &[u8],
        out: &mut Out,
    ) -> Result<Streamed, Fatal> {
        let bind = frontend::bind(head).ok_or_else(name_too_long)?;
        let routes = self.routes();
        if self.waits_to_bind(&bind, out) {
            return Ok(Streamed::Wait);
        }
        let happens = self.happens_before(bind.statement);
        self.retry.give_up();
        let known = self.refresh(bind.statement, &routes);
        let mut portal = Portal::plain();
        let unseen = match &known {
            // To be refused by the server.
            _ if happens == Some(Happens::Dropped) => None,
            _ if happens.is_some() || self.may_be_hidden(bind.statement) => {
                Some(Reason::PreparedInSql)
            }
            None if self.binds_a_hidden_write(&routes, bind.statement) => {
                Some(Reason::PreparedInSql)
            }
            Some(Known::Unreadable(why)) => Some(*why),
            _ => None,
        };
        let decision = match (unseen, known.filter(|_| happens.is_none())) {
            (Some(why), _) => {
                let decision = mark_or_refuse(routes.mirrored(), why);
                let taken = super::watch::taken(&decision);
                portal.watch = self.watch_unread(&routes, (b"", why), taken);
                decision
            }
            (None, Some(Known::Understood(u))) => {
                match self.decide_long(bind.statement, &u, &routes, out) {
                    None => return Ok(Streamed::Wait),
                    Some((decision, watch)) => {
                        portal.effect = one(&u).map_or(Effect::None, |s| s.effect);
                        portal.watch = watch;
                        decision
                    }
                }
            }
            (None, _) => Decision::Original(None),
        };
        match decision {
            Decision::Refused(report) => {
                self.refuse_bind(report, out);
                return Ok(self.rest_is_dropped(header));
            }
            Decision::Marked(marks) => {
                self.inject_mark_inline(&marks, self.lasts(bind.statement), out);
            }
            _ => {}
        }
        let bound = self.names.put_portal(bind.portal, portal, self.groups);
        let target = self.original_form(bind.statement, out);
        let target = target.unwrap_or_else(|| bind.statement.into());
        self.replies.push_back(Expect::Bind(Reply::Forward, bound));
        let done = HEADER_BYTES + bind.portal.len() + bind.statement.len() + 2;
        push_bind_head(&mut out.to_server, (header, bind), &target);
        Ok(self.rest_passes(header, done))
    }

    /// What is done with a statement whose values are not read: it runs as the client wrote it.
    /// `None`: the server has to be asked first.
    fn decide_long(
        &mut self,
        name: &[u8],
        u: &Counted,
        routes: &Arc<Routes>,
        out: &mut Out,
    ) -> Option<(Decision, Option<Watch>)> {
        let statement = self.names.statement(name).map(|s| (Arc::clone(&s.sql), s.types.clone()));
        let (Some((sql, types)), Some(statement)) = (statement, one(u)) else {
            return Some((Decision::Original(None), None));
        };
        let understander = self.context.understander(routes);
        let case = Case {
            routes,
            understander: &understander,
            text: std::str::from_utf8(&sql).unwrap_or_default(),
            statement,
            types: &types,
        };
        if self.lacks_facts(&case) {
            self.inject_facts(&understander, Protocol::Extended, out);
            return None;
        }
        let decision = match &statement.class {
            Class::Read(_) => Decision::Original(None),
            _ => match self.decide(&case) {
                Decision::Mirrored(mirrors, _) => {
                    let routes = mirrors.in_rows.iter().chain(&mirrors.by_notice).cloned();
                    mark_or_refuse(routes.collect(), Reason::LongValues)
                }
                Decision::Copied(copied) => mark_or_refuse(copied.routes(), Reason::LongValues),
                Decision::Followed(steps) => mark_or_refuse(steps.mirrored(), Reason::LongValues),
                other => other,
            },
        };
        let watch = self.watch(&case, u.tallies(0), super::watch::taken(&decision));
        self.facts_used();
        Some((decision, watch))
    }

    /// Whether a frame goes on without waiting for its end: rows and the like of statements that
    /// nothing is done with.
    pub(super) fn passes_to_client(&mut self, header: Header, out: &mut Out) -> bool {
        if self.keeps_completion() {
            return false;
        }
        match header.tag {
            b'D' | b'd' => {
                let rows = match self.replies.front() {
                    Some(Expect::Query(rows)) => rows.front(),
                    Some(Expect::Execute(Reply::Forward, rows)) => Some(rows),
                    _ => return false,
                };
                rows.is_none_or(|rows| rows.is_on_shadow() || rows.rows_pass())
            }
            // Of a function call.
            b'V' => matches!(self.replies.front(), Some(Expect::Query(rows)) if rows.is_empty()),
            b'E' => self.passes_error(header, out),
            b'N' => header.frame_bytes > TOLD_BYTES_MAX,
            b'A' => true,
            _ => false,
        }
    }

    /// Whether an error goes on without being held: nothing is done with it, and it is long.
    pub(super) fn passes_error(&mut self, header: Header, out: &mut Out) -> bool {
        let plain = self.marked.is_none() && self.error_is_plain();
        if header.frame_bytes <= ERROR_BYTES_MAX || !plain || self.retry.has_failed() {
            return false;
        }
        self.retry.give_up();
        while matches!(self.replies.front(), Some(Expect::CopyEnd)) {
            self.replies.pop_front();
        }
        self.skip_after_error(out);
        true
    }

    /// The head of a long row of a mirrored write, without our columns: how much of the frame that
    /// is. `None`: not such a row, or there is not enough of it.
    pub(super) fn stream_row(
        &mut self,
        (header, before): (Header, &[u8]),
        rest: &[u8],
        out: &mut Out,
    ) -> Option<usize> {
        let rows = match self.replies.front() {
            Some(Expect::Query(rows)) => rows.front(),
            Some(Expect::Execute(Reply::Forward, rows)) => Some(rows),
            _ => None,
        };
        let mirrored = rows.filter(|_| header.tag == b'D').and_then(Rows::mirrored)?;
        let Layout::Leading(ours) = mirrored.layout else { return None };
        let mut reader = Reader::new(rest.get(HEADER_BYTES..)?);
        let count = reader.count()?.checked_sub(ours)?;
        let values = (0..ours).map(|_| reader.value()).collect::<Option<Vec<_>>>()?;
        let mirrors = Arc::clone(&mirrored.mirrors);
        self.outcomes(&mirrors, values.into_iter());
        let done = rest.len() - reader.rest().len();
        // The count stays, shorter; what was before the client's values does not.
        let length = i32::try_from(header.frame_bytes - done + 6).ok()?;
        let count = i16::try_from(count).ok()?;
        out.to_client.extend_from_slice(before);
        out.to_client.push(b'D');
        out.to_client.extend_from_slice(&length.to_be_bytes());
        out.to_client.extend_from_slice(&count.to_be_bytes());
        Some(done)
    }
}

/// Whether a text was too long to be kept.
pub(super) fn was_too_long(known: &Known) -> bool {
    matches!(known, Known::Unreadable(Reason::SqlBufferBytesMax))
}

/// The head of a Bind on another statement.
fn push_bind_head(out: &mut Vec<u8>, (header, bind): (Header, frontend::Bind<'_>), target: &[u8]) {
    let length = header.frame_bytes - 1 + target.len() - bind.statement.len();
    out.push(b'B');
    out.extend_from_slice(&i32::try_from(length).unwrap_or(i32::MAX).to_be_bytes());
    for name in [bind.portal, target] {
        out.extend_from_slice(name);
        out.push(0);
    }
}

fn name_too_long() -> Fatal {
    malformed("a name is too long for a frame that is not held")
}
