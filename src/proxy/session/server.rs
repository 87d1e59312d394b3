//! Frames from the server.

use super::expect::{Expect, ReadRows, Reply, Rows, ServedBy};
use super::marked::Kept;
use super::portal::Closed;
use super::prepared::Undo;
use super::skipped::Given;
use super::{Hold, Out, Protocol, Said, Session};
use crate::proxy::context::Understander;
use crate::sql::read::MOVED;
use crate::sql::write::Layout;
use crate::wire::backend::{self, Called, TransactionStatus};
use crate::wire::build::{self, Report, Severity};
use crate::wire::frame::{BadLength, Header};
use std::sync::Arc;

/// A notice that tells an outcome is shorter: it has a migration's name and a place in the server.
pub(super) const TOLD_BYTES_MAX: usize = 4096;

/// What to do with one frame.
pub(super) enum Fate {
    /// As it is.
    Forward,
    /// Not at all.
    Swallow,
    /// Already written, in another form.
    Written,
}

impl Session {
    /// Takes bytes from the server; returns how many it has dealt with.
    ///
    /// # Errors
    /// When a length makes no sense: nothing that follows can be read.
    pub(in crate::proxy) fn on_server(
        &mut self,
        data: &[u8],
        out: &mut Out,
    ) -> Result<usize, BadLength> {
        let sent = out.to_server.len();
        let dealt_with = self.take_from_server(data, out)?;
        if self.client_pass > 0 {
            self.behind_frame.extend(out.to_server.drain(sent..));
        }
        Ok(dealt_with)
    }

    fn take_from_server(&mut self, data: &[u8], out: &mut Out) -> Result<usize, BadLength> {
        let mut at = 0;
        let mut run = 0;
        loop {
            let rest = data.get(at..).unwrap_or_default();
            if self.server_pass > 0 {
                let n = self.server_pass.min(rest.len());
                self.server_pass -= n;
                at += n;
                if self.server_pass > 0 {
                    break;
                }
                continue;
            }
            if self.server_drop > 0 {
                let n = self.server_drop.min(rest.len());
                self.server_drop -= n;
                at += n;
                run = at;
                if self.server_drop > 0 {
                    break;
                }
                continue;
            }
            let Some(header) = Header::read(rest)? else { break };
            let is_void = self.is_void(header.tag, out);
            if is_void && header.tag == b'D' {
                out.to_client.extend_from_slice(data.get(run..at).unwrap_or_default());
                run = at;
                self.server_drop = header.frame_bytes;
                continue;
            }
            if !matches!(header.tag, b'Z' | b'N' | b'A' | b'S') {
                self.said = Said::Something;
            }
            if self.passes_to_client(header, out) {
                let end = out.to_client.len();
                self.retry.give(header.tag, &mut out.to_client, end);
                self.server_pass = header.frame_bytes;
                continue;
            }
            let Some(frame) = rest.get(..header.frame_bytes) else {
                // What is before the row has to be before it.
                let before = data.get(run..at).unwrap_or_default();
                if let Some(done) = self.stream_row((header, before), rest, out) {
                    self.server_pass = header.frame_bytes - done;
                    at += done;
                    run = at;
                    continue;
                }
                break;
            };
            out.to_client.extend_from_slice(data.get(run..at).unwrap_or_default());
            let body = frame.get(5..).unwrap_or_default();
            let from = out.to_client.len();
            if matches!(self.reply(header.tag, body, out), Fate::Forward) {
                out.to_client.extend_from_slice(frame);
            }
            self.all_is_answered(out);
            if is_void {
                out.to_client.truncate(from);
            }
            self.retry.hold_or_give(header.tag, &mut out.to_client, from);
            at += header.frame_bytes;
            run = at;
        }
        out.to_client.extend_from_slice(data.get(run..at).unwrap_or_default());
        Ok(at)
    }

    fn reply(&mut self, tag: u8, body: &[u8], out: &mut Out) -> Fate {
        while matches!(self.replies.front(), Some(Expect::CopyEnd)) {
            self.replies.pop_front();
        }
        if self.answers_settling(tag, body, out) || self.answers_mark_apart(tag, body) {
            return Fate::Swallow;
        }
        if self.says_if_synced(tag, body, out) {
            return Fate::Swallow;
        }
        if tag == b'Z' && self.answers_sync_of_copy() {
            self.status = backend::ready_for_query(body).unwrap_or(TransactionStatus::Idle);
            self.copy_is_settled();
            return Fate::Forward;
        }
        if matches!(self.before_marked(tag, body, out), Kept::Yes) {
            return Fate::Swallow;
        }
        match tag {
            b'S' => {
                self.parameter(body);
                Fate::Forward
            }
            b'N' if self.is_told(body) => Fate::Swallow,
            b'N' | b'A' => Fate::Forward,
            b'E' => self.on_error(body, out),
            b'Z' => self.on_ready(body, out),
            _ => match self.replies.front() {
                None | Some(Expect::Startup) => Fate::Forward,
                Some(Expect::Query(_)) => {
                    let from = out.to_client.len();
                    let fate = self.query_reply(tag, body, out);
                    if tag == b'C' { self.keep_completion(fate, body, from, out) } else { fate }
                }
                Some(_) => self.extended_reply(tag, body, out),
            },
        }
    }

    fn parameter(&mut self, body: &[u8]) {
        let Some((name, value)) = backend::parameter_status(body) else { return };
        let value = String::from_utf8_lossy(value).into_owned();
        let parameters = &mut self.parameters;
        match name {
            b"client_encoding" => {
                parameters.client_encoding = value;
                self.names.are_respelled();
            }
            b"standard_conforming_strings" => parameters.escapes_in_strings = value == "off",
            b"application_name" => parameters.application_name = value,
            b"server_version" => {
                let major = value.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
                parameters.server_version = major.parse().unwrap_or(0);
            }
            b"TimeZone" => parameters.output.time_zone = value,
            b"DateStyle" => parameters.output.date_style = value,
            b"IntervalStyle" => parameters.output.interval_style = value,
            _ => {}
        }
    }

    fn query_reply(&mut self, tag: u8, body: &[u8], out: &mut Out) -> Fate {
        if tag == b'G' {
            self.copy_begins();
        }
        // C, or I for a text of blanks, ends a statement.
        let ends = matches!(tag, b'C' | b'I');
        if ends {
            self.has_taken_data();
            self.ends_portals(body);
        }
        let Some(Expect::Query(rows)) = self.replies.front_mut() else { return Fate::Forward };
        let Some(mut first) = rows.pop_front() else { return Fate::Forward };
        let fate = self.rows_reply(&mut first, (Protocol::Simple, tag), body, out);
        match self.replies.front_mut() {
            Some(Expect::Query(rows)) if !ends => rows.push_front(first),
            Some(front) => front.watch_next(),
            None => {}
        }
        fate
    }

    fn extended_reply(&mut self, tag: u8, body: &[u8], out: &mut Out) -> Fate {
        let ends = match self.replies.front() {
            Some(Expect::Describe(..)) => matches!(tag, b'T' | b'n'),
            Some(
                Expect::Execute(..) | Expect::Probe(_) | Expect::Before(_) | Expect::Behind(_),
            ) => matches!(tag, b'C' | b'I' | b's'),
            _ => true,
        };
        if tag == b'G' {
            self.copy_begins();
            self.copy_is_answered(body);
        }
        let Some(mut front) = self.replies.pop_front() else { return Fate::Forward };
        let fate = match &mut front {
            Expect::Parse(reply, undo) => {
                if let Some(Undo::Client { name, .. }) = undo.as_deref()
                    && !self.names.in_sql.is_empty()
                {
                    // The server had no statement of that name.
                    drop(self.names.in_sql.lose(name));
                }
                Self::fate(*reply)
            }
            Expect::Bind(reply, _) => Self::fate(*reply),
            Expect::Close(reply, closed) => {
                if let Some(Closed::Statement(name, id)) = closed.take().map(|closed| *closed) {
                    self.is_closed(&name, id);
                    self.lose_executed(id);
                    // Its forms were closed behind it.
                    drop(self.names.in_sql.lose(&name));
                }
                Self::fate(*reply)
            }
            // One that a query waits for.
            Expect::Execute(Reply::Swallow, Rows::Plain) => {
                self.mark_is_written(tag);
                Fate::Swallow
            }
            Expect::Describe(Reply::Swallow, _) | Expect::Execute(Reply::Swallow, _) => {
                Fate::Swallow
            }
            Expect::Describe(_, rows) | Expect::Execute(_, rows) => {
                self.rows_reply(rows, (Protocol::Extended, tag), body, out)
            }
            Expect::Before(feed) => {
                self.before_reply(*feed, tag, body);
                Fate::Swallow
            }
            Expect::Behind(behind) => {
                self.behind_reply(behind, tag, body, out);
                Fate::Swallow
            }
            Expect::Probe(understander) => {
                let understander = Arc::clone(understander);
                self.probe_reply(&understander, tag, body)
            }
            _ => Fate::Forward,
        };
        if tag == b'C' {
            self.ends_portals(body);
        }
        if ends && matches!(front, Expect::Execute(..)) {
            self.is_executed();
        }
        if !ends {
            self.replies.push_front(front);
        } else if !matches!(fate, Fate::Swallow) {
            self.retry.answered();
        }
        fate
    }

    fn fate(reply: Reply) -> Fate {
        match reply {
            Reply::Forward => Fate::Forward,
            Reply::Swallow => Fate::Swallow,
        }
    }

    fn mark_is_written(&mut self, tag: u8) {
        if tag == b'C' && matches!(self.hold, Some(Hold::Mark)) {
            self.hold = Some(Hold::Marked);
        }
    }

    fn probe_reply(&mut self, understander: &Understander, tag: u8, body: &[u8]) -> Fate {
        match tag {
            b'D' => {
                let row: Vec<_> = backend::Values::of(body).collect();
                self.facts = super::transaction::Facts::read(understander, &row);
                if let Some(facts) = &self.facts {
                    self.transaction.is_at_level(facts.isolation);
                }
            }
            b'C' => {
                if matches!(self.hold, Some(Hold::Facts)) {
                    self.hold = None;
                }
            }
            _ => {}
        }
        Fate::Swallow
    }

    /// A reply of a statement's execution or description.
    fn rows_reply(
        &mut self,
        rows: &mut Rows,
        (protocol, tag): (Protocol, u8),
        body: &[u8],
        out: &mut Out,
    ) -> Fate {
        match rows {
            Rows::Watched(watched) => {
                watched.0.sees(tag);
                self.rows_reply(&mut watched.1, (protocol, tag), body, out)
            }
            Rows::Undescribed if tag == b'T' => Fate::Swallow,
            Rows::Mark(_) => Fate::Swallow,
            Rows::Plain
            | Rows::Called
            | Rows::Begins
            | Rows::Undescribed
            | Rows::Refused(_)
            | Rows::Among(_) => Fate::Forward,
            Rows::Names(change, _) => {
                let change = Arc::clone(change);
                if tag == b'C' {
                    self.names_changed(&change);
                }
                match *change {
                    super::named::Change::Form(..) => Fate::Swallow,
                    _ => Fate::Forward,
                }
            }
            Rows::Followed(_) if tag == b'C' => {
                self.completed = body.to_vec();
                Fate::Swallow
            }
            Rows::Followed(_) => Fate::Forward,
            Rows::Steps(steps, _) => {
                let steps = Arc::clone(steps);
                self.steps_reply(&steps, tag, body, out)
            }
            Rows::Copied(_) if tag == b'C' => self.is_copied(body, out),
            Rows::Copied(_) => Fate::Forward,
            Rows::Mirrored(mirrored) => self.mirrored_reply(mirrored, (protocol, tag), body, out),
            Rows::Fetched(fetched) => self.fetched_reply(fetched, tag, body, out),
            Rows::Read(read) => self.read_reply(read, tag, body, out),
        }
    }

    fn read_reply(&mut self, read: &mut ReadRows, tag: u8, body: &[u8], out: &mut Out) -> Fate {
        match (tag, &read.served_by) {
            (b'T', ServedBy::Shadow(_, native)) => {
                let written = native.push_description(&mut out.to_client, body);
                written.map_or(Fate::Forward, |()| Fate::Written)
            }
            (b'D', ServedBy::Shadow(..)) => Fate::Forward,
            (b'C' | b's', served_by) => {
                let route = match served_by {
                    ServedBy::Source(_) => {
                        self.transaction.has_read(read.begun);
                        "source"
                    }
                    ServedBy::Shadow(..) => "shadow",
                };
                let labels = [read.route.target.migration.as_str(), route];
                let seconds = read.began.elapsed().as_secs_f64();
                self.context.metrics.read_seconds.with_label_values(&labels).observe(seconds);
                Fate::Forward
            }
            _ => Fate::Forward,
        }
    }

    /// Whether nothing is done with an error but to pass it on.
    pub(super) fn error_is_plain(&self) -> bool {
        match self.replies.front() {
            Some(Expect::Refusal(_) | Expect::Settled(_) | Expect::Apart { .. }) => false,
            Some(Expect::Query(rows)) => {
                rows.iter().all(|r| r.form().is_none() && r.rows_pass())
                    && !matches!(rows.front(), Some(Rows::Refused(_)))
            }
            Some(Expect::Execute(_, rows) | Expect::Describe(_, rows)) => rows.form().is_none(),
            Some(Expect::Parse(_, Some(undo))) => undo.form().is_none(),
            Some(Expect::Bind(_, Some(bound))) => bound.asked.is_none() && bound.form.is_none(),
            _ => true,
        }
    }

    pub(super) fn skip_after_error(&mut self, out: &mut Out) {
        self.skip_to_sync(out, Given::Yes);
    }

    /// The replies of the statement that the server runs.
    fn running(&self) -> Option<&Rows> {
        match self.replies.front() {
            Some(Expect::Query(rows)) => rows.front(),
            Some(Expect::Execute(_, rows)) => Some(rows),
            _ => None,
        }
    }

    fn on_error(&mut self, body: &[u8], out: &mut Out) -> Fate {
        let sqlstate = backend::sqlstate(body).unwrap_or_default();
        if self.copy_was_failed(body) {
            return Fate::Swallow;
        }
        let moved = self.has_moved(body);
        if let (Some(rows), None) = (self.running(), &moved) {
            self.look_into_failed(rows, sqlstate);
        }
        if self.retry.on_error(sqlstate) {
            self.skip_to_sync(out, Given::No);
            return Fate::Swallow;
        }
        let replacement = match self.replies.front() {
            Some(Expect::Refusal(report)) => Some(report.clone()),
            Some(Expect::Query(rows)) => match rows.front() {
                Some(Rows::Refused(report)) => Some(report.clone()),
                _ => moved,
            },
            _ => moved,
        };
        let form = match self.replies.front() {
            Some(Expect::Query(rows)) => rows.iter().find_map(Rows::form),
            Some(Expect::Execute(_, rows) | Expect::Describe(_, rows)) => rows.form(),
            Some(Expect::Parse(_, Some(undo))) => undo.form(),
            Some(Expect::Bind(_, Some(bound))) => bound.form.as_deref(),
            _ => None,
        };
        let called = self.running().map(Rows::called).unwrap_or_default();
        let mut renamed = None;
        for (ours, theirs) in form.map(|form| form.renamed.as_slice()).unwrap_or_default() {
            let body = renamed.as_deref().unwrap_or(body);
            renamed = Some(backend::replaced(body, ours.as_bytes(), theirs.as_bytes()));
        }
        if let Some(Expect::Bind(_, Some(bound))) = self.replies.front()
            && let Some((ours, theirs)) = &bound.asked
        {
            renamed = Some(backend::replaced(body, ours, theirs));
        }
        if let (Some(Layout::Leading(ours)), Some(Expect::Bind(..))) =
            (form.and_then(|form| form.layout), self.replies.front())
            && let Some(fewer) = backend::fewer_formats(renamed.as_deref().unwrap_or(body), ours)
        {
            renamed = Some(fewer);
        }
        let body = renamed.as_deref().unwrap_or(body);
        match (replacement, form) {
            (Some(report), _) => build::error(&mut out.to_client, &report),
            (None, Some(form)) => {
                backend::push_error(&mut out.to_client, body, called, |p| form.original_position(p))
            }
            (None, None)
                if matches!(self.replies.front(), Some(Expect::Execute(_, Rows::Steps(..)))) =>
            {
                backend::push_error(&mut out.to_client, body, Called::default(), |_| None)
            }
            (None, None) => out.to_client.extend_from_slice(&frame_of(b'E', body)),
        }
        self.skip_to_sync(out, Given::Yes);
        Fate::Written
    }

    /// The shadow's form found that what the session's facts say does not hold any more. The next
    /// statement asks again; what cannot be sent again now fails as it does when two
    /// transactions get into each other's way, so that clients run it anew.
    fn has_moved(&mut self, body: &[u8]) -> Option<Box<Report>> {
        if !backend::contains(body, MOVED.as_bytes()) {
            return None;
        }
        self.facts = None;
        Some(Box::new(Report {
            severity: Severity::Error,
            code: "40001",
            message: "could not serialize access: what a table's name means, or who reads it, has \
                      changed unseen"
                .to_owned(),
            hint: "Run the transaction again. A function changed search_path or the role, or made a \
                   temporary table; or somebody changed privileges. Write the schema with the table's \
                   name, or use SET."
                .to_owned(),
        }))
    }

    pub(super) fn on_ready(&mut self, body: &[u8], out: &mut Out) -> Fate {
        self.status = backend::ready_for_query(body).unwrap_or(TransactionStatus::Idle);
        let front = self.replies.pop_front();
        while matches!(self.replies.front(), Some(Expect::CopyEnd)) {
            self.replies.pop_front();
        }
        self.copy_is_settled();
        match front {
            Some(Expect::Startup) => {
                self.hold = None;
                return Fate::Forward;
            }
            Some(Expect::Sync(Reply::Swallow)) => return Fate::Swallow,
            Some(Expect::Query(rows)) if !matches!(rows.front(), Some(Rows::Called)) => {
                self.unnamed_is_dropped();
            }
            Some(Expect::Completion(mut completion)) => out.to_client.append(&mut completion),
            _ => {}
        }
        if self.status == TransactionStatus::Idle {
            self.transaction.is_over(self.answered_now());
            self.names.portals_end(self.answered_now());
        }
        if self.retry.has_failed() {
            self.group_answered();
            self.replay(out);
            return Fate::Swallow;
        }
        self.group_answered();
        if self.hold == Some(Hold::Drain) && self.epochs.len() <= 1 {
            self.hold = None;
        }
        let failed = self.hold == Some(Hold::Failed);
        // The group of a query that was not sent has ended with this, too.
        if self.replies.is_empty() && (failed || !self.in_group) {
            self.reconcile();
        }
        self.retry.done();
        self.settles(out);
        Fate::Forward
    }

    /// Nothing is in flight: what the server says of the transaction is the truth.
    fn reconcile(&mut self) {
        match self.status {
            TransactionStatus::Idle => {
                if self.transaction.ended() {
                    self.facts = None;
                }
                self.names.end_transaction();
            }
            TransactionStatus::InTransaction | TransactionStatus::Failed => {
                let routes = self.context.routes.load();
                self.transaction.is_open(&routes);
            }
        }
    }
}

fn frame_of(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 5);
    backend::push_frame(&mut out, tag, |out| out.extend_from_slice(body));
    out
}
