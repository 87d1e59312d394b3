//! Parse and Describe: preparing a statement in the form that is current.

use super::decide::Case;
use super::expect::{Expect, Form, Reply, Rows, ServedBy};
use super::prepared::{Acts, FormKey, Meant, Prepared, Undo};
use super::{Flow, Out, Protocol, Session};
use crate::proxy::context::{Known, Readable};
use crate::proxy::vet::Native;
use crate::routing::Routes;
use crate::sql::statement::{Class, Effect, Understanding};
use crate::wire::{build, frontend};
use std::sync::Arc;

impl Session {
    pub(super) fn on_parse(&mut self, frame: &[u8], body: &[u8], out: &mut Out) -> Flow {
        let routes = self.routes();
        let Some(view) = frontend::parse(body) else {
            // The server refuses it; the statement of that name stays as it is.
            out.to_server.extend_from_slice(frame);
            self.replies.push_back(Expect::Parse(Reply::Forward, None));
            return Flow::Done;
        };
        if self.is_parsed_again(&view, &routes) {
            let group = self.groups;
            if let Some(unnamed) = self.names.statement_mut(view.name).filter(|_| view.name == b"")
            {
                unnamed.touched = group;
            }
            self.retry.give_up();
            out.to_server.extend_from_slice(frame);
            self.replies.push_back(Expect::Parse(Reply::Forward, None));
            return Flow::Done;
        }
        if self.waits_for_status(out) || self.waits_to_read(view.sql, out) {
            return Flow::Hold;
        }
        let known = self.know_as(&routes, view.sql, self.readable_as(view.sql));
        let mut own = (FormKey::Original, None);
        let mut meant = None;
        if let Known::Understood(u) = &known
            && let Some(statement) = one(u)
        {
            let understander = self.context.understander(&routes);
            let text = std::str::from_utf8(view.sql).unwrap_or_default();
            let case = Case {
                routes: &routes,
                understander: &understander,
                text,
                statement,
                types: view.types,
            };
            if self.lacks_facts(&case) {
                self.inject_facts(&understander, Protocol::Extended, out);
                return Flow::Hold;
            }
            own = self.parsed_form(view.name, &case);
            meant = self.meant_now(&case);
            self.facts_used();
        }
        self.note_for_retry(&known, own.0, frame);
        let has_effect = |u: &Understanding| u.statements.iter().any(|s| s.effect != Effect::None);
        if !matches!(&known, Known::Understood(u) if has_effect(u)) {
            self.transaction.takes_snapshot();
        }
        match &own.1 {
            None => out.to_server.extend_from_slice(frame),
            Some(form) => {
                build::parse(&mut out.to_server, view.name, form.spliced.text(), view.types);
            }
        }
        self.put_statement(&view, (routes.generation, known), (own, meant));
        Flow::Done
    }

    /// Whether the name stands for this very text, which concerns no migrated table. Then nothing
    /// is new: were the server to reject it, there is nothing else that the name could mean.
    fn is_parsed_again(&self, view: &frontend::Parse<'_>, routes: &Routes) -> bool {
        let same = |s: &Prepared| {
            s.readable == self.readable()
                && !self.may_be_read_otherwise(view.sql)
                && *s.sql == *view.sql
                && *s.types == *view.types
        };
        self.names.statement(view.name).is_some_and(same)
            && self.plain_by(view.name) == Some(routes.generation)
    }

    fn put_statement(
        &mut self,
        view: &frontend::Parse<'_>,
        known: (u64, Known),
        (own, meant): ((FormKey, Option<Arc<Form>>), Option<Meant>),
    ) {
        let id = self.names.next_id();
        let form = own.1.clone();
        let statement = Prepared {
            id,
            touched: self.groups,
            sql: Arc::from(view.sql),
            acts: Acts::of(view.sql),
            readable: self.readable_as(view.sql),
            types: view.types.into(),
            known,
            own,
            meant,
            extra: Vec::new(),
        };
        let previous = self.names.put(view.name, statement).map(Box::new);
        let undo = Undo::Client { name: view.name.into(), id, previous, form };
        self.replies.push_back(Expect::Parse(Reply::Forward, Some(Box::new(undo))));
    }

    pub(super) fn know(&self, routes: &Routes, sql: &[u8]) -> Known {
        self.know_as(routes, sql, self.readable())
    }

    /// The same for a text that the server has read so.
    pub(super) fn know_as(&self, routes: &Routes, sql: &[u8], readable: Readable) -> Known {
        let understander = self.context.understander(routes);
        let known = understander.know(sql, readable, self.context.options.sql_bytes_max);
        match known {
            known if self.may_execute_hidden(sql, routes) => {
                super::hidden::executes(sql, &known, &understander)
            }
            known => known,
        }
    }

    /// Whether the facts that this statement needs have to be asked for first.
    pub(super) fn lacks_facts(&self, case: &Case<'_>) -> bool {
        let stale = self.facts_are_stale(case);
        stale
            && !self.finds_a_failed_transaction()
            && !self.retry.forces_source()
            && case.needs_facts()
    }

    /// The form that a statement is parsed in. Under a name it is the client's own text: SQL may say the
    /// name, and show or describe what it stands for. The one without a name is bound at once as a rule:
    /// it is parsed in the form that a Bind right now would ask for. Which form is bound, the Bind decides.
    fn parsed_form(&mut self, name: &[u8], case: &Case<'_>) -> (FormKey, Option<Arc<Form>>) {
        match name {
            [] => self.current_form(case),
            _ => (self.form_as_written(case), None),
        }
    }

    fn current_form(&mut self, case: &Case<'_>) -> (FormKey, Option<Arc<Form>>) {
        let generation = case.routes.generation;
        let key = match &case.statement.class {
            Class::Write(write) => match self.modes(case, write) {
                modes if modes.is_empty() => self.form_as_written(case),
                modes => FormKey::Mirrored(generation, modes),
            },
            Class::Read(_) if self.reads_shadow_now(case) => FormKey::Shadow(generation),
            Class::Unclassified(_) => self.form_as_written(case),
            _ => FormKey::Original,
        };
        (key, self.form_of(case, key))
    }

    pub(super) fn form_of(&self, case: &Case<'_>, key: FormKey) -> Option<Arc<Form>> {
        if matches!(key, FormKey::Original | FormKey::Elsewhere(_)) {
            return None;
        }
        let spliced = self.as_read_here(case.form(key)?);
        let (original, layout) = (Arc::from(case.text), case.layout(key));
        let native = self.native_of(case, key);
        Some(Arc::new(Form { spliced, original, layout, renamed: Vec::new(), native }))
    }

    /// How the source describes what a form reads on the shadow.
    pub(super) fn native_of(&self, case: &Case<'_>, key: FormKey) -> Option<Arc<Native>> {
        match (&case.statement.class, key) {
            (Class::Read(read), FormKey::Shadow(_)) => {
                read.fit.as_ref().ok().and_then(|fit| self.vetted(case, fit))
            }
            _ => None,
        }
    }

    pub(super) fn on_describe(&mut self, frame: &[u8], body: &[u8], out: &mut Out) -> Flow {
        let routes = self.routes();
        let rows = match frontend::named(body) {
            // Only the statement without a name may be a form of ours at the server: which of two it is, the
            // server says that answers the groups before this one.
            Some(frontend::Named::Statement(b"")) if self.waits_for_name(b"", out) => {
                return Flow::Hold;
            }
            Some(frontend::Named::Statement(name)) => {
                self.is_looked_up(name);
                self.statement_rows(name, &routes)
            }
            Some(frontend::Named::Portal(name)) if self.waits_for_portal(name, out) => {
                return Flow::Hold;
            }
            Some(frontend::Named::Portal(name)) => {
                self.names.portal(name).map_or(Rows::Plain, |p| p.rows.clone())
            }
            None => Rows::Plain,
        };
        self.retry.record(frame);
        out.to_server.extend_from_slice(frame);
        self.replies.push_back(Expect::Describe(Reply::Forward, rows));
        Flow::Done
    }

    /// What is done with the description of a statement: it is that of the form that was parsed.
    fn statement_rows(&mut self, name: &[u8], routes: &Arc<Routes>) -> Rows {
        let Some(statement) = self.names.statement(name) else { return Rows::Plain };
        let (key, Some(form)) = statement.own.clone() else { return Rows::Plain };
        let (generation, Known::Understood(u)) = statement.known.clone() else {
            return Rows::Plain;
        };
        let (Some(only), true) = (one(&u), generation == routes.generation) else {
            return Self::rows_of_old_form(&u, form);
        };
        let (sql, types) = (Arc::clone(&statement.sql), statement.types.clone());
        let understander = self.context.understander(routes);
        let case = Case {
            routes,
            understander: &understander,
            text: std::str::from_utf8(&sql).unwrap_or_default(),
            statement: only,
            types: &types,
        };
        match (&only.class, key) {
            (Class::Write(write), FormKey::Mirrored(_, modes)) => {
                let mirrors = Arc::new(case.mirrors(write, modes));
                Self::mirrored_rows(write, mirrors, (form.layout, form))
            }
            (Class::Read(read), FormKey::Shadow(_)) => {
                let fit = read.fit.as_ref().ok();
                let native = form.native.clone();
                let route = fit.and_then(|f| f.targets().next()).and_then(|t| case.route(t));
                match (native, route) {
                    (Some(native), Some(route)) => {
                        self.read_rows(Arc::clone(route), ServedBy::Shadow(form, native))
                    }
                    _ => Rows::Plain,
                }
            }
            _ => Rows::Plain,
        }
    }

    /// A mirrored form of an older generation: the columns of ours still have to go.
    fn rows_of_old_form(u: &Understanding, form: Arc<Form>) -> Rows {
        match one(u).map(|statement| &statement.class) {
            Some(Class::Write(write)) => {
                Self::mirrored_rows(write, Arc::default(), (form.layout, form))
            }
            _ => Rows::Plain,
        }
    }
}

/// The statement of a text that has just one; the extended protocol allows no more.
pub(super) fn one(u: &Understanding) -> Option<&crate::sql::statement::Statement> {
    match u.statements.as_slice() {
        [only] => Some(only),
        _ => None,
    }
}
