//! The replies to mirrored writes: turned back into those that the client expects, and the outcomes
//! of the sync functions taken out of them.
//!
//! An outcome is in the rows, or comes as a notice that never reaches the client. A client's own
//! code may raise one of the same words; it then closes the gate of a migration that its own
//! statement writes, for as long as it takes to see that no key is dirty.

use super::expect::{Expect, Form, Mirrored, Mirrors, Rows};
use super::server::Fate;
use super::{Out, Protocol, Session};
use crate::routing::Route;
use crate::sql::write::{Layout, TOLD, Verb};
use crate::wire::{backend, build};
use std::sync::Arc;

impl Session {
    /// Whether a frame was one of those that tell an outcome, which the client is not to see.
    pub(super) fn is_told(&mut self, body: &[u8]) -> bool {
        let rows = match self.replies.front() {
            Some(Expect::Query(rows)) => rows.front(),
            Some(Expect::Execute(_, rows)) => Some(rows),
            _ => None,
        };
        let Some(mirrored) = rows.and_then(Rows::mirrored) else { return false };
        if mirrored.mirrors.by_notice.is_empty()
            || backend::field(body, b'C') != Some(TOLD.as_bytes())
        {
            return false;
        }
        let message = backend::field(body, b'M').and_then(|m| std::str::from_utf8(m).ok());
        let Some((migration, outcome)) = message.and_then(|m| m.split_once(' ')) else {
            return false;
        };
        let mut routes = mirrored.mirrors.by_notice.iter();
        let route = routes.find(|r| r.target.migration == migration).cloned();
        match (route, outcome.parse()) {
            (Some(route), Ok(outcome)) => self.outcome(&route, outcome),
            _ => return false,
        }
        true
    }

    pub(super) fn mirrored_reply(
        &mut self,
        m: &mut Mirrored,
        (protocol, tag): (Protocol, u8),
        body: &[u8],
        out: &mut Out,
    ) -> Fate {
        match tag {
            // The portal is gone, and a cursor of SQL has its name.
            b'T' if matches!(m.layout, Layout::Leading(_))
                && !backend::first_field_begins(body, b"pgsegue ") =>
            {
                m.layout = Layout::Own;
                let form = Arc::clone(&m.form);
                self.is_no_portal_of(&form);
                Fate::Forward
            }
            b'T' => Self::mirrored_description(m.layout, protocol, body, out),
            b'D' => self.mirrored_row(m, body, out),
            b'C' => {
                let rows = match m.layout {
                    Layout::Own => return Fate::Forward,
                    Layout::Leading(_) | Layout::Outcome => {
                        backend::command_rows(body).unwrap_or(0)
                    }
                    Layout::Counted => m.rows,
                };
                for route in &m.mirrors.in_rows {
                    let migration = [route.target.migration.as_str()];
                    self.context.metrics.mirrored_rows.with_label_values(&migration).inc_by(rows);
                }
                let tag = match (m.layout, m.verb) {
                    (Layout::Outcome, _) | (_, None) => return Fate::Forward,
                    (_, Some(Verb::Insert)) => format!("INSERT 0 {rows}"),
                    (_, Some(verb)) => format!("{} {rows}", verb.as_str()),
                };
                build::command_complete(&mut out.to_client, tag);
                Fate::Written
            }
            _ => Fate::Forward,
        }
    }

    /// What a name gives is not what a portal of this form would: neither is what is sent of it already.
    fn is_no_portal_of(&mut self, form: &Arc<Form>) {
        let sent = self.replies.iter_mut().filter_map(|reply| match reply {
            Expect::Execute(_, rows) | Expect::Describe(_, rows) => Some(rows),
            _ => None,
        });
        for rows in sent.chain(self.names.rows_of_portals()) {
            if let Rows::Mirrored(m) = rows.bare_mut()
                && Arc::ptr_eq(&m.form, form)
            {
                m.layout = Layout::Own;
            }
        }
    }

    fn mirrored_description(
        layout: Layout,
        protocol: Protocol,
        body: &[u8],
        out: &mut Out,
    ) -> Fate {
        match (layout, protocol) {
            (Layout::Own, _) => Fate::Forward,
            (Layout::Leading(n), _) => {
                let done = backend::push_description_without(&mut out.to_client, body, n);
                done.map_or(Fate::Forward, |()| Fate::Written)
            }
            // Only a Describe gets an answer when there are no rows to describe.
            (Layout::Counted | Layout::Outcome, Protocol::Simple) => Fate::Swallow,
            (Layout::Counted | Layout::Outcome, Protocol::Extended) => {
                build::no_data(&mut out.to_client);
                Fate::Written
            }
        }
    }

    pub(super) fn mirrored_row(&mut self, m: &mut Mirrored, body: &[u8], out: &mut Out) -> Fate {
        let mut values = backend::Values::of(body);
        match m.layout {
            Layout::Own => Fate::Forward,
            Layout::Leading(n) => {
                self.outcomes(&m.mirrors, values);
                let done = backend::push_row_without(&mut out.to_client, body, n);
                done.map_or(Fate::Forward, |()| Fate::Written)
            }
            Layout::Outcome => {
                self.outcomes(&m.mirrors, values);
                Fate::Swallow
            }
            Layout::Counted => {
                let first = values.next().flatten();
                let rows = first.and_then(|rows| std::str::from_utf8(rows).ok()?.parse().ok());
                m.rows += rows.unwrap_or(0_u64);
                self.outcomes(&m.mirrors, values);
                Fate::Swallow
            }
        }
    }

    /// The outcomes in the first columns of a row.
    pub(super) fn outcomes<'a>(
        &mut self,
        mirrors: &Mirrors,
        values: impl Iterator<Item = Option<&'a [u8]>>,
    ) {
        for (route, value) in mirrors.in_rows.iter().zip(values) {
            self.outcome(route, backend::outcome(value));
        }
    }

    /// The sync function's outcome: 0 in step, 1 keys recorded as dirty, 2 so because of a lock.
    pub(super) fn outcome(&mut self, route: &Route, outcome: i32) {
        if outcome == 0 {
            return;
        }
        let migration = [route.target.migration.as_str()];
        self.context.metrics.dirty_statements.with_label_values(&migration).inc();
        self.transaction.has_recorded(route.gate.dirty_in_transaction(), self.answered_now());
        if outcome == 2 {
            self.transaction.spent_its_budget(self.answered_now());
            route.gate.shadow_is_locked();
        }
    }
}
