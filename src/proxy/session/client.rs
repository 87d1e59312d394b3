//! Frames from the client.

use super::call::Call;
use super::expect::{Expect, Reply, Rows};
use super::marked::Copying;
use super::portal::{Closed, Portal};
use super::prepared::Acts;
use super::stream::Streamed;
use super::transaction::Block;
use super::{Fatal, Flow, Hold, Out, Session, Takes};
use crate::wire::build::{Report, Severity};
use crate::wire::frame::{HEADER_BYTES, Header};
use crate::wire::frontend;
use std::collections::VecDeque;
use std::sync::Arc;

impl Session {
    /// Takes bytes from the client; returns how many it has dealt with. The rest is an incomplete
    /// frame, or waits for the server ([`Session::is_held`]).
    pub(in crate::proxy) fn on_client(
        &mut self,
        data: &[u8],
        out: &mut Out,
    ) -> Result<usize, Fatal> {
        let mut at = 0;
        loop {
            let rest = data.get(at..).unwrap_or_default();
            if self.client_pass > 0 {
                let n = self.client_pass.min(rest.len());
                let passing = rest.get(..n).unwrap_or_default();
                out.to_server.extend_from_slice(passing);
                if let Some(copying) = &mut self.copying {
                    copying.read(passing);
                }
                self.client_pass -= n;
                at += n;
                if self.client_pass > 0 {
                    return Ok(at);
                }
                out.to_server.append(&mut self.behind_frame);
                continue;
            }
            if self.client_drop > 0 {
                let n = self.client_drop.min(rest.len());
                self.client_drop -= n;
                at += n;
                if self.client_drop > 0 {
                    return Ok(at);
                }
                continue;
            }
            if self.is_held() {
                return Ok(at);
            }
            let Some(header) = Header::read(rest).map_err(|e| malformed(&e.to_string()))? else {
                return Ok(at);
            };
            if self.is_out_of_place(header, rest, out)? {
                if self.client_drop > 0 {
                    continue;
                }
                return Ok(at);
            }
            if header.tag == b'F' && !self.skipping {
                match self.on_call(header, rest, out) {
                    Call::Waits => return Ok(at),
                    Call::Passes | Call::Answered => {
                        self.frame_is_over(header.tag);
                        continue;
                    }
                }
            }
            if self.passes(header, rest) {
                self.frame_is_over(header.tag);
                continue;
            }
            match self.stream(header, rest, out)? {
                Streamed::No => {}
                Streamed::Wait => return Ok(at),
                Streamed::Head(done) => {
                    at += done;
                    self.frame_is_over(header.tag);
                    continue;
                }
            }
            let Some(frame) = rest.get(..header.frame_bytes) else { return Ok(at) };
            match self.frame(header.tag, frame, out) {
                Flow::Done => {
                    at += header.frame_bytes;
                    self.frame_is_over(header.tag);
                }
                Flow::Hold => return Ok(at),
            }
        }
    }

    /// Whether a frame comes where the server takes none of its kind: then it waits.
    fn is_out_of_place(
        &mut self,
        header: Header,
        rest: &[u8],
        out: &mut Out,
    ) -> Result<bool, Fatal> {
        let tag = header.tag;
        if self.is_starting() && !matches!(tag, b'p' | b'X') {
            // It would pass unseen.
            self.hold = Some(Hold::Startup);
            return Ok(true);
        }
        if self.takes == Takes::Nothing {
            let what = format!("unexpected message type 0x{tag:02X} during COPY from stdin");
            return Err(malformed(&what));
        }
        Ok(self.is_out_of_copy(tag, out)
            || self.is_skipped_perhaps(header, out)
            || self.waits_for_read(header, rest, out))
    }

    /// A frame is on its way, or as good as. A Flush does nothing.
    fn frame_is_over(&mut self, tag: u8) {
        if tag != b'H' {
            self.retry.frame_is_over(self.in_group);
        }
    }

    /// Lets a frame pass without waiting for its end, if nothing has to be read in it.
    fn passes(&mut self, header: Header, rest: &[u8]) -> bool {
        let pass = match header.tag {
            _ if let Some(passes) = self.passes_in_copy(header) => passes,
            b'S' => self.syncs_in_copy(),
            b'Q' | b'P' | b'D' | b'E' | b'C' | b'F' if self.skipping => true,
            b'Q' | b'P' | b'D' | b'E' | b'C' => false,
            b'B' => self.passes_bind(header, rest),
            b'c' | b'f' => {
                self.marked_copy(Copying::Ends);
                self.data_have_ended();
                // Stray ones are ignored by the server: they must not pile up here.
                if !matches!(self.replies.back(), Some(Expect::CopyEnd)) {
                    self.replies.push_back(Expect::CopyEnd);
                }
                true
            }
            _ => true,
        };
        if pass {
            self.client_pass = header.frame_bytes;
        }
        pass
    }

    /// A Bind of a statement that concerns no migrated table needs only its names.
    fn passes_bind(&mut self, header: Header, rest: &[u8]) -> bool {
        if self.skipping {
            return true;
        }
        let body = rest.get(5..rest.len().min(header.frame_bytes)).unwrap_or_default();
        let Some(bind) = frontend::bind(body) else { return false };
        let Some(generation) = self.plain_by(bind.statement) else { return false };
        if self.retry.is_awaited() {
            return false;
        }
        // Its epoch first, then the look: a barrier between the two would not wait for it.
        if self.routes().generation != generation {
            return false;
        }
        self.transaction.takes_snapshot();
        let bound = self.names.put_portal(bind.portal, Portal::plain(), self.groups);
        self.replies.push_back(Expect::Bind(Reply::Forward, bound));
        self.retry.give_up();
        true
    }

    pub(super) fn frame(&mut self, tag: u8, frame: &[u8], out: &mut Out) -> Flow {
        if self.skipping && tag != b'S' {
            out.to_server.extend_from_slice(frame);
            return Flow::Done;
        }
        let body = frame.get(5..).unwrap_or_default();
        match tag {
            b'Q' => self.on_query(frame, body, out),
            b'P' => self.on_parse(frame, body, out),
            b'B' => self.on_bind(frame, body, out),
            b'D' => self.on_describe(frame, body, out),
            b'E' => self.on_execute(frame, body, out),
            b'C' => self.on_close(frame, body, out),
            b'c' | b'f' => self.on_copy_end(frame, out),
            _ => self.on_sync(frame, out),
        }
    }

    /// Sends a simple query (or what is answered like one).
    pub(super) fn forward_query(&mut self, frame: &[u8], rows: VecDeque<Rows>, out: &mut Out) {
        out.to_server.extend_from_slice(frame);
        self.replies.push_back(Expect::Query(rows));
        self.unnamed_may_be_dropped();
        self.marked_query_is_sent();
        self.group_is_sent();
        let sql = frame.get(HEADER_BYTES..).and_then(frontend::query).unwrap_or_default();
        // A long text passes without a look.
        let acts = if frame.is_empty() { Acts::Copies } else { Acts::of(sql) };
        self.may_act(acts, sql, out);
    }

    /// A text is sent that may do what is of no table.
    pub(super) fn may_act(&mut self, acts: Acts, sql: &[u8], out: &mut Out) {
        let run = match acts {
            Acts::Executes => self.names.run_by(sql).map(Arc::<[u8]>::from),
            _ => None,
        };
        let (acts, sql) = match (acts, &run) {
            (Acts::Executes, None) => (Acts::Copies, sql),
            (Acts::Executes, Some(sql)) => (Acts::of(sql), &**sql),
            _ => (acts, sql),
        };
        match acts {
            Acts::Copies => self.may_take_data(out),
            Acts::Fetches => self.runs_a_cursor(),
            Acts::Otherwise | Acts::EndsPortals | Acts::Executes => self.may_end_portals(sql, out),
        }
    }

    /// Its last frame is on its way. What was asked within it may have been said of what ends with it.
    fn group_is_sent(&mut self) {
        self.in_group = false;
        if self.transaction.is_stateful() && matches!(self.transaction.block, Block::None) {
            self.facts = None;
        }
    }

    fn on_sync(&mut self, frame: &[u8], out: &mut Out) -> Flow {
        let _epoch = self.routes();
        self.skipping = false;
        self.retry.sync();
        out.to_server.extend_from_slice(frame);
        self.replies.push_back(Expect::Sync(Reply::Forward));
        self.group_is_sent();
        Flow::Done
    }

    fn on_close(&mut self, frame: &[u8], body: &[u8], out: &mut Out) -> Flow {
        let _epoch = self.routes();
        if let Some(frontend::Named::Portal(name)) = frontend::named(body)
            && self.waits_for_portal(name, out)
        {
            return Flow::Hold;
        }
        self.note_close_for_retry(frontend::named(body), frame);
        out.to_server.extend_from_slice(frame);
        let mut closed = None;
        match frontend::named(body) {
            Some(frontend::Named::Statement(name)) => {
                let group = self.groups;
                self.names.changed_in = group;
                let mut extra = Vec::new();
                if let Some(statement) = self.names.statement_mut(name) {
                    statement.touched = group;
                    extra = std::mem::take(&mut statement.extra);
                    closed = Some(Box::new(Closed::Statement(name.into(), statement.id)));
                } else if self.names.in_sql.used {
                    // One of SQL's.
                    closed = Some(Box::new(Closed::Statement(name.into(), 0)));
                }
                self.replies.push_back(Expect::Close(Reply::Forward, closed));
                let orphans = std::mem::take(&mut self.names.in_sql.orphans);
                for form in self.names.in_sql.forms_named(name).into_iter().chain(orphans) {
                    crate::wire::build::close_statement(&mut out.to_server, form.as_bytes());
                    self.replies.push_back(Expect::Close(Reply::Swallow, None));
                }
                for (_, name, _) in extra {
                    crate::wire::build::close_statement(&mut out.to_server, &name);
                    self.replies.push_back(Expect::Close(Reply::Swallow, None));
                }
                return Flow::Done;
            }
            Some(frontend::Named::Portal(name)) => {
                let portal = self.names.close_portal(name);
                closed = portal.map(|portal| Box::new(Closed::Portal(name.into(), portal)));
            }
            None => {}
        }
        self.replies.push_back(Expect::Close(Reply::Forward, closed));
        Flow::Done
    }

    /// Whether the hold for a mark is over; takes it.
    pub(super) fn take_marked(&mut self) -> bool {
        let marked = self.hold == Some(Hold::Marked);
        if marked {
            self.hold = None;
        }
        marked
    }
}

pub(super) fn malformed(what: &str) -> Fatal {
    Box::new(Report {
        severity: Severity::Fatal,
        code: "08P01",
        message: what.to_owned(),
        hint: "The client does not speak the Postgres protocol, or bytes were lost.".to_owned(),
    })
}
