//! Bind: where a prepared statement meets the routes of now.

use super::decide::{Case, Decision};
use super::expect::{Expect, Form, Reply, Rows, ServedBy};
use super::gone::Happens;
use super::inject::Lasts;
use super::parse::one;
use super::planned::Moved;
use super::portal::{Marks, Portal};
use super::prepared::{Acts, AtServer, FormKey, Names, Undo};
use super::{Flow, Hold, Out, Protocol, Session};
use crate::proxy::context::{Counted, Known};
use crate::routing::Routes;
use crate::sql::reason::Reason;
use crate::sql::statement::{Class, Effect};
use crate::sql::write::Layout;
use crate::wire::{build, frontend};
use std::sync::Arc;

impl Session {
    /// By the targets of which generation a statement concerns no migrated table.
    pub(super) fn plain_by(&self, name: &[u8]) -> Option<u64> {
        let hides = self.names.hidden_writes || !name.is_ascii();
        if hides || self.is_uncertain(name) || self.names_are_uncertain() {
            return None;
        }
        let statement = self.names.statement(name)?;
        let is_plain = self.happens_before(name).is_none()
            && statement.acts == Acts::Otherwise
            && matches!(statement.known.1, Known::Plain)
            && statement.own.0 == FormKey::Original;
        is_plain.then_some(statement.known.0)
    }

    /// Whether a Parse or Close of this name in an earlier group is not answered yet: if the server
    /// rejects or skips it, the name stands for something else than it seems. One in the same group
    /// is no matter: if it fails, so does what follows it.
    pub(super) fn is_uncertain(&self, name: &[u8]) -> bool {
        let Some(statement) = self.names.statement(name) else { return false };
        let current = self.groups + u64::from(!self.in_group);
        let unanswered = u64::try_from(self.epochs.len()).unwrap_or(u64::MAX);
        statement.touched < current && statement.touched > self.groups.saturating_sub(unanswered)
    }

    pub(super) fn on_bind(&mut self, frame: &[u8], body: &[u8], out: &mut Out) -> Flow {
        let routes = self.routes();
        let Some(bind) = frontend::bind(body) else {
            return self.pass_bind(frame, b"", Portal::plain(), out);
        };
        let flow = self.bind(frame, &bind, &routes, out);
        if matches!(flow, Flow::Done) {
            self.bind_goes_on();
            self.names.binds_acts(bind.portal, bind.statement);
            if self.names.is_of_no_effect(bind.portal) {
                self.transaction.takes_snapshot();
            }
        }
        flow
    }

    fn bind(
        &mut self,
        frame: &[u8],
        bind: &frontend::Bind<'_>,
        routes: &Arc<Routes>,
        out: &mut Out,
    ) -> Flow {
        if self.waits_to_bind(bind, out) || self.waits_for_reads(bind, routes, out) {
            return Flow::Hold;
        }
        match self.happens_before(bind.statement) {
            // To be refused by the server, whatever form a Bind would ask for.
            Some(Happens::Dropped) => {
                return self.pass_bind(frame, bind.portal, Portal::plain(), out);
            }
            Some(Happens::PreparedInSql) => {
                return self.bind_unseen(frame, bind, Reason::PreparedInSql, routes, out);
            }
            None => {}
        }
        match self.refresh(bind.statement, routes) {
            _ if self.may_be_hidden(bind.statement) => {
                self.bind_unseen(frame, bind, Reason::PreparedInSql, routes, out)
            }
            None if self.binds_a_hidden_write(routes, bind.statement) => {
                self.bind_unseen(frame, bind, Reason::PreparedInSql, routes, out)
            }
            None => {
                let effect = self.effect_of_name(routes, bind.statement);
                self.pass_bind(frame, bind.portal, Portal { effect, ..Portal::plain() }, out)
            }
            Some(Known::Unreadable(why)) => self.bind_unseen(frame, bind, why, routes, out),
            Some(Known::Plain) => {
                self.bind_form(frame, bind, (None, FormKey::Original), Portal::plain(), out)
            }
            Some(Known::Understood(u)) => self.bind_understood(frame, bind, &u, routes, out),
        }
    }

    /// Whether a name may stand for a write that is not known of. In another encoding, which may be on its way,
    /// the same letters are other bytes.
    pub(super) fn may_be_hidden(&self, name: &[u8]) -> bool {
        self.names.may_be_hidden(name) || !name.is_ascii() && self.transaction.is_stateful()
    }

    /// Whether a Bind has to wait until the groups before its own are answered.
    pub(super) fn waits_to_bind(&mut self, bind: &frontend::Bind<'_>, out: &mut Out) -> bool {
        self.waits_for_name(bind.statement, out)
            || self.waits_for_names(out)
            || self.waits_for_status(out)
            || !bind.portal.is_empty() && self.waits_for_portal(bind.portal, out)
    }

    /// Whether a frame has to wait: what its name stands for is known when the earlier groups are
    /// answered.
    pub(super) fn waits_for_name(&mut self, name: &[u8], out: &mut Out) -> bool {
        self.is_uncertain(name) && self.drains(out)
    }

    /// Whether a frame has to wait for what an earlier group does with a portal: it is not of its own group,
    /// and what is skipped of the earlier ones is not known.
    pub(super) fn waits_for_portal(&mut self, name: &[u8], out: &mut Out) -> bool {
        let group = self.groups;
        let is_of_this = self.names.portal(name).is_some_and(|portal| portal.bound_in == group);
        !is_of_this && self.epochs.len() > 1 && self.drains(out)
    }

    /// Whether a frame has to wait: the transaction has failed, and what is in flight may end it.
    pub(super) fn waits_for_status(&mut self, out: &mut Out) -> bool {
        self.has_failed() && self.epochs.len() > 1 && self.drains(out)
    }

    /// Has the frame at hand wait until the groups before its own are answered.
    pub(super) fn drains(&mut self, out: &mut Out) -> bool {
        build::flush(&mut out.to_server);
        self.hold = Some(Hold::Drain);
        true
    }

    /// What a statement means by the targets of now.
    pub(super) fn refresh(&mut self, name: &[u8], routes: &Routes) -> Option<Known> {
        let statement = self.names.statement(name)?;
        if statement.known.0 == routes.generation {
            return Some(statement.known.1.clone());
        }
        let known = match &statement.known.1 {
            long if super::stream::was_too_long(long) => long.clone(),
            _ => {
                let (sql, readable) = (Arc::clone(&statement.sql), statement.readable);
                self.know_as(routes, &sql, readable)
            }
        };
        if let Some(statement) = self.names.statement_mut(name) {
            statement.known = (routes.generation, known.clone());
        }
        Some(known)
    }

    pub(super) fn pass_bind(
        &mut self,
        frame: &[u8],
        portal: &[u8],
        what: Portal,
        out: &mut Out,
    ) -> Flow {
        self.retry.give_up();
        let bound = self.names.put_portal(portal, what, self.groups);
        out.to_server.extend_from_slice(frame);
        self.replies.push_back(Expect::Bind(Reply::Forward, bound));
        Flow::Done
    }

    fn bind_unseen(
        &mut self,
        frame: &[u8],
        bind: &frontend::Bind<'_>,
        why: Reason,
        routes: &Routes,
        out: &mut Out,
    ) -> Flow {
        let name = std::str::from_utf8(bind.statement).unwrap_or_default();
        let sql = self.names.statement(bind.statement).map(|s| Arc::clone(&s.sql));
        let unseen = (sql.as_deref().unwrap_or_default(), why);
        let concerned = self.unseen(routes, unseen);
        let is_known = why == Reason::PreparedInSql && self.executed(routes, name, &[]).is_ok();
        let may_be_there = sql.is_some() || is_known || self.names.in_sql.has_unseen;
        let decision = match may_be_there || concerned.is_empty() {
            true => super::decide::mark_or_refuse(concerned, why),
            false => Decision::Marked(Marks { routes: concerned, why }),
        };
        if let Some(flow) = self.mark_bind(&decision, bind.statement, out) {
            return flow;
        }
        if !is_known && may_be_there {
            // It may give names to other statements.
            self.names.in_sql.forget();
            if sql.as_deref().is_some_and(crate::sql::statement::drops_names) {
                self.names_may_be_others();
            }
        }
        let watch = self.watch_unread(routes, unseen, super::watch::taken(&decision));
        let portal = Portal { watch, effect: Effect::State, ..Portal::plain() };
        match decision {
            Decision::Refused(report) => self.refuse_bind(report, out),
            _ => self.bind_as_written(frame, bind, portal, out),
        }
    }

    /// Binds what is under the name, of which the unnamed one may be a form of ours.
    fn bind_as_written(
        &mut self,
        frame: &[u8],
        bind: &frontend::Bind<'_>,
        portal: Portal,
        out: &mut Out,
    ) -> Flow {
        match bind.statement {
            [] => {
                self.retry.give_up();
                self.bind_form(frame, bind, (None, FormKey::Original), portal, out)
            }
            _ => self.pass_bind(frame, bind.portal, portal, out),
        }
    }

    fn bind_understood(
        &mut self,
        frame: &[u8],
        bind: &frontend::Bind<'_>,
        u: &Counted,
        routes: &Arc<Routes>,
        out: &mut Out,
    ) -> Flow {
        let Some((sql, types)) =
            self.names.statement(bind.statement).map(|s| (Arc::clone(&s.sql), s.types.clone()))
        else {
            return self.pass_bind(frame, bind.portal, Portal::plain(), out);
        };
        let Some(statement) = one(u) else {
            return self.pass_bind(frame, bind.portal, Portal::plain(), out);
        };
        let understander = self.context.understander(routes);
        let case = Case {
            routes,
            understander: &understander,
            text: std::str::from_utf8(&sql).unwrap_or_default(),
            statement,
            types: &types,
        };
        if let Class::Execute(execute) = &statement.class {
            return self.bind_execute((frame, bind), &case, execute, out);
        }
        if self.lacks_facts(&case) {
            self.inject_facts(&understander, Protocol::Extended, out);
            return Flow::Hold;
        }
        let Moved { decision, as_written, marks } = self.decide_bound(bind.statement, &case);
        if let Some(flow) = self.mark_bind(&decision, bind.statement, out) {
            return flow;
        }
        let dark = self.dark_job(&case, bind);
        self.facts_used();
        let watch = self.watch(&case, u.tallies(0), super::watch::taken(&decision));
        let mut portal = Portal { effect: statement.effect, dark, watch, ..Portal::plain() };
        if let Some(marks) = marks.filter(|_| !matches!(decision, Decision::Refused(_))) {
            self.inject_mark_inline(&marks, Lasts::Transaction, out);
        }
        let key = match decision {
            Decision::Refused(report) => return self.refuse_bind(report, out),
            Decision::Copied(copied) => {
                portal.rows = Rows::Copied(Box::new(copied));
                FormKey::Original
            }
            Decision::Marked(_) => as_written,
            Decision::Followed(steps) => {
                portal.rows = Rows::Followed(None);
                portal.steps = Some(steps);
                FormKey::Original
            }
            Decision::Original(route) => {
                portal.rows = self.original_rows(&case, route);
                as_written
            }
            Decision::Mirrored(mirrors, modes) => {
                let key = FormKey::Mirrored(routes.generation, modes);
                let Some(form) = self.bound_form(bind.statement, &case, key, out) else {
                    return self.pass_bind(frame, bind.portal, portal, out);
                };
                portal.rows = Self::rows_of_form(&case, mirrors, form);
                key
            }
            Decision::Shadow(route, native) => {
                let key = FormKey::Shadow(routes.generation);
                let Some(form) = self.bound_form(bind.statement, &case, key, out) else {
                    return self.pass_bind(frame, bind.portal, portal, out);
                };
                let rows = self.read_rows(route, ServedBy::Shadow(form, native));
                portal.rows = rows.bound_by(frame.get(5..).unwrap_or_default());
                key
            }
        };
        self.note_bind_for_retry(&case, &portal, frame);
        self.bind_form(frame, bind, (Some(&case), key), portal, out)
    }

    /// The server's name of a statement as the client wrote it, prepared if it is not yet.
    pub(super) fn original_form(&mut self, name: &[u8], out: &mut Out) -> Option<Box<[u8]>> {
        self.prepare_form(name, None, FormKey::Original, out).map(|(name, _)| name)
    }

    /// The form, prepared at the server if it is not yet.
    fn bound_form(
        &mut self,
        name: &[u8],
        case: &Case<'_>,
        key: FormKey,
        out: &mut Out,
    ) -> Option<Arc<Form>> {
        let (_, form) = self.prepare_form(name, Some(case), key, out)?;
        form
    }

    /// The server's name of a form of a statement; prepares it first where that has not happened.
    fn prepare_form(
        &mut self,
        name: &[u8],
        case: Option<&Case<'_>>,
        key: FormKey,
        out: &mut Out,
    ) -> Option<AtServer> {
        let group = self.groups;
        let statement = self.names.statement_mut(name)?;
        if let Some(found) = statement.prepared_as(key, name) {
            return Some(found);
        }
        statement.touched = group;
        let spliced = match case {
            Some(case) => case.form(key)?,
            None => {
                let mut same = crate::sql::splice::Spliced::default();
                let text = std::str::from_utf8(&statement.sql).ok()?;
                same.client(text, 0..text.len());
                same
            }
        };
        let original = std::str::from_utf8(&statement.sql).map(Arc::from).ok()?;
        let layout = case.and_then(|case| case.layout(key));
        let spliced = self.as_read_here(spliced);
        let next = self.names.next_id();
        // A Describe may come behind it, or again.
        let native = case.and_then(|case| self.native_of(case, key));
        let statement = self.names.statement_mut(name)?;
        let form = Arc::new(Form { spliced, original, layout, renamed: Vec::new(), native });
        let id = statement.id;
        let (server_name, undo): (Box<[u8]>, _) = if name.is_empty() {
            // The unnamed statement is replaced by the next Parse of it anyway. If this one is skipped, the
            // server has the one before.
            let previous = Some(Box::new(statement.clone()));
            (statement.id, statement.own) = (next, (key, Some(Arc::clone(&form))));
            let form = Some(Arc::clone(&form));
            (name.into(), Undo::Client { name: name.into(), id: next, previous, form })
        } else {
            let own = statement.name_for(key);
            statement.extra.push((key, own.clone(), Arc::clone(&form)));
            // DEALLOCATE may have left it, or not: closing what is not there is no error.
            build::close_statement(&mut out.to_server, &own);
            self.replies.push_back(Expect::Close(Reply::Swallow, None));
            (own, Undo::Form { statement: name.into(), id, key })
        };
        let types = self.names.statement(name).map(|s| s.types.clone()).unwrap_or_default();
        build::parse(&mut out.to_server, &server_name, form.spliced.text(), &types);
        self.replies.push_back(Expect::Parse(Reply::Swallow, Some(Box::new(undo))));
        Some((server_name, Some(form)))
    }

    /// Sends the Bind on the right form.
    fn bind_form(
        &mut self,
        frame: &[u8],
        bind: &frontend::Bind<'_>,
        (case, key): (Option<&Case<'_>>, FormKey),
        portal: Portal,
        out: &mut Out,
    ) -> Flow {
        let bound = self.names.put_portal(bind.portal, portal, self.groups);
        let target = self.prepare_form(bind.statement, case, key, out).map(|(name, _)| name);
        let name = target.unwrap_or_else(|| bind.statement.into());
        let mirrored = matches!(key, FormKey::Mirrored(..));
        self.read_is_bound(bind.portal);
        match bind.values().filter(|_| mirrored || *name != *bind.statement) {
            None => out.to_server.extend_from_slice(frame),
            Some(values) => {
                let formats = self.result_formats(bind.portal, &values.result_formats);
                build::rebind(&mut out.to_server, bind.portal, &name, &values, &formats);
            }
        }
        let bound = Names::asked(bound, bind.portal, (name, bind.statement));
        self.replies.push_back(Expect::Bind(Reply::Forward, bound));
        Flow::Done
    }

    /// The client's result formats, with room for our leading columns; what we read ourselves is
    /// text.
    pub(super) fn result_formats(&self, portal: &[u8], formats: &[i16]) -> Vec<i16> {
        match self.names.portal(portal).map(|p| &p.rows) {
            Some(Rows::Mirrored(m)) => match (m.layout, formats) {
                (Layout::Counted | Layout::Outcome, _) => Vec::new(),
                (Layout::Own, _) | (Layout::Leading(_), [] | [_]) => formats.to_vec(),
                (Layout::Leading(n), _) => {
                    std::iter::repeat_n(0, n).chain(formats.iter().copied()).collect()
                }
            },
            _ => formats.to_vec(),
        }
    }

    pub(super) fn refuse_bind(&mut self, report: Box<build::Report>, out: &mut Out) -> Flow {
        self.count("refused", "other");
        self.retry.give_up();
        build::parse(&mut out.to_server, b"pgsegue refused", super::inject::REFUSED_SQL, &[]);
        self.replies.push_back(Expect::Refusal(report));
        Flow::Done
    }

    fn dark_job(
        &mut self,
        case: &Case<'_>,
        bind: &frontend::Bind<'_>,
    ) -> Option<Arc<crate::proxy::dark::Job>> {
        if self.retry.forces_source() {
            return None;
        }
        let native = self.dark_read_of(case)?;
        let values = bind.values()?;
        let values = values.values.iter().map(|(f, v)| (*f, v.map(<[u8]>::to_vec))).collect();
        self.job(case, &native, values).map(Arc::new)
    }
}
