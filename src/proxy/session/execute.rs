//! Execute, and offering dark reads.

use super::decide::Case;
use super::expect::{Expect, ReadRows, Reply, Rows, ServedBy};
use super::portal::Portal;
use super::prepared::{Acts, FormKey};
use super::transaction::Block;
use super::{Flow, Out, Protocol, Session};
use crate::proxy::dark::{Job, Question, is_of_rows};
use crate::proxy::vet::Native;
use crate::routing::Route;
use crate::sql::statement::{Class, Effect};
use crate::sql::write::Layout;
use crate::wire::{backend, build, frontend};
use std::sync::Arc;

/// A statement that does nothing.
const DONE: &[u8] = b"pgsegue done";

impl Session {
    pub(super) fn on_execute(&mut self, frame: &[u8], body: &[u8], out: &mut Out) -> Flow {
        let routes = self.routes();
        let name = frontend::execute(body);
        if name.is_some_and(|name| self.waits_for_portal(name, out)) {
            return Flow::Hold;
        }
        let portal = name.and_then(|n| self.names.portal(n)).cloned().unwrap_or_else(Portal::plain);
        if let Rows::Copied(copied) = &portal.rows {
            self.ask_before(copied, out);
        }
        if portal.effect != Effect::None {
            self.apply(portal.effect, &routes);
        }
        if let Some(job) = &portal.dark {
            self.context.dark_reads.offer(Arc::clone(job));
        }
        self.transaction.takes_snapshot();
        self.count_execute(&portal.rows);
        self.retry.record(frame);
        let mut ran = None;
        match (&portal.rows, name) {
            // Some drivers ask a write for one row only: ours would then never be complete.
            (Rows::Mirrored(m), Some(name))
                if matches!(m.layout, Layout::Counted | Layout::Outcome) =>
            {
                if portal.ran_in.is_some_and(|group| self.portals_outlive(group)) {
                    return self.refuse_again((frame, name), out);
                }
                ran = self.names.portal_has_run(name, self.groups);
                backend::push_frame(&mut out.to_server, b'E', |out| {
                    out.extend_from_slice(name);
                    out.extend_from_slice(&[0; 5]);
                });
            }
            _ => out.to_server.extend_from_slice(frame),
        }
        if name == Some(b"") && body.ends_with(&[0; 4]) {
            self.names.unnamed_is_run();
        }
        let watch = name.and_then(|name| self.names.take_watch(name));
        if portal.rows.change().is_some() {
            self.names.changed_in = self.groups;
        }
        let dropped = self.forms_dropped(&portal.rows);
        let mut rows = Rows::of_portal(&portal).watched(watch);
        if let Rows::Mirrored(mirrored) = rows.bare_mut() {
            mirrored.ran = ran;
        }
        self.replies.push_back(Expect::Execute(Reply::Forward, rows));
        self.drop_forms(dropped, out);
        if let Some(steps) = &portal.steps {
            let (route, class) = steps.counted();
            self.count(route, class);
            self.inject_steps(steps, out);
        }
        if let Rows::Copied(copied) = portal.rows {
            self.copy_is_asked(*copied, Protocol::Extended);
        }
        if portal.acts != Acts::Otherwise {
            self.may_act(portal.acts, portal.text.as_deref().unwrap_or_default(), out);
        }
        Flow::Done
    }

    /// Whether a portal of this group is there still: a Sync ends those that are of no block.
    fn portals_outlive(&self, group: u64) -> bool {
        group == self.groups || !matches!(self.transaction.block, Block::None)
    }

    /// The server would run our form again and give no rows; the client's own it would not. So the
    /// portal becomes one that is done, too: the server says what it says of one.
    fn refuse_again(&mut self, (frame, name): (&[u8], &[u8]), out: &mut Out) -> Flow {
        if !self.finds_a_failed_transaction() {
            build::close_portal(&mut out.to_server, name);
            build::close_statement(&mut out.to_server, DONE);
            build::parse(&mut out.to_server, DONE, "UNLISTEN \"pgsegue\"", &[]);
            build::bind(&mut out.to_server, name, DONE);
            out.to_server.extend_from_slice(frame);
            self.replies.extend([
                Expect::Close(Reply::Swallow, None),
                Expect::Close(Reply::Swallow, None),
                Expect::Parse(Reply::Swallow, None),
                Expect::Bind(Reply::Swallow, None),
                Expect::Execute(Reply::Swallow, Rows::Undescribed),
            ]);
        }
        out.to_server.extend_from_slice(frame);
        self.replies.push_back(Expect::Execute(Reply::Forward, Rows::Plain));
        Flow::Done
    }

    fn count_execute(&self, rows: &Rows) {
        match rows {
            Rows::Mirrored(_) | Rows::Copied(_) => self.count("mirrored", "write"),
            Rows::Read(read) => match read.served_by {
                ServedBy::Shadow(..) => self.count("shadow", "read"),
                ServedBy::Source(_) => {}
            },
            _ => {}
        }
    }

    /// Offers the dark read of a simple query.
    pub(super) fn offer_dark_read(&mut self, case: &Case<'_>) {
        if let Some(native) = self.dark_read_of(case)
            && let Some(job) = self.job(case, &native, Vec::new())
        {
            self.context.dark_reads.offer(Arc::new(job));
        }
    }

    pub(super) fn job(
        &self,
        case: &Case<'_>,
        native: &Arc<Native>,
        values: Vec<(i16, Option<Vec<u8>>)>,
    ) -> Option<Job> {
        let facts = self.facts.as_ref()?;
        let Class::Read(read) = &case.statement.class else { return None };
        let routes = read.fit.as_ref().ok()?.targets().filter_map(|target| case.route(target));
        Some(Job {
            question: Question::Same,
            routes: routes.map(|r| (Arc::clone(r), r.gate.ticket())).collect(),
            user: Arc::clone(&facts.user),
            search_path: Arc::clone(&facts.search_path),
            output: self.parameters.output.clone(),
            source_sql: case.text.get(case.statement.at.clone())?.to_owned(),
            shadow_sql: case.form(FormKey::Shadow(case.routes.generation))?.text().to_owned(),
            native: Arc::clone(native),
            values,
        })
    }

    /// A read has failed: whether on the shadow alone is looked into. Within a transaction nobody else
    /// finds out, and outside the source answers it, each time anew.
    pub(super) fn look_into_failed(&self, rows: &Rows, sqlstate: &[u8]) {
        let Rows::Read(read) = rows.bare() else { return };
        let ServedBy::Shadow(form, _) = &read.served_by else { return };
        if is_of_rows(sqlstate) && read.route.gate.is_open() {
            self.context.dark_reads.offer_failed(&form.original, || self.job_of_failed(read));
        }
    }

    fn job_of_failed(&self, read: &ReadRows) -> Option<Job> {
        let ServedBy::Shadow(form, native) = &read.served_by else { return None };
        let facts = self.facts.as_ref()?;
        let routes = self.context.routes.load();
        let of = |r: &&Arc<Route>| native.shadows.contains(&r.target.shadow_oid);
        let bound = frontend::bind(read.bound.as_deref()?);
        let values = bound.and_then(|bind| bind.values()).map(|values| values.values);
        let values = values.unwrap_or_default();
        Some(Job {
            question: Question::Fails,
            routes: routes
                .routes
                .iter()
                .filter(of)
                .map(|r| (Arc::clone(r), r.gate.ticket()))
                .collect(),
            user: Arc::clone(&facts.user),
            search_path: Arc::clone(&facts.search_path),
            output: self.parameters.output.clone(),
            source_sql: form.original.to_string(),
            shadow_sql: form.spliced.text().to_owned(),
            native: Arc::clone(native),
            values: values.iter().map(|(f, v)| (*f, v.map(<[u8]>::to_vec))).collect(),
        })
    }
}
