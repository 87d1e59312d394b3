//! EXECUTE: what it executes is decided when it is executed, and a mirrored write goes by a form of ours,
//! prepared where that has not happened.
//!
//! The protocol can give a name to what SQL's PREPARE refuses: to PREPARE, DEALLOCATE and transaction
//! control themselves. EXECUTE runs them, too.

use super::decide::{Case, Decision, mark_or_refuse};
use super::expect::{Expect, Form, Mirrors, Reply, Rows};
use super::inject::Lasts;
use super::named::{Change, Missing, Named, may_write_one};
use super::parse::one;
use super::plan::Plan;
use super::portal::{Marks, Portal};
use super::prepared::{FormKey, Names, form_name};
use super::query::Text;
use super::watch::Watch;
use super::{Flow, Out, Protocol, Session};
use crate::proxy::context::Known;
use crate::sql::ident::Ident;
use crate::sql::lex::first_word;
use crate::sql::prepare::Execute;
use crate::sql::reason::Reason;
use crate::sql::splice::Spliced;
use crate::sql::statement::{Class, Effect, Statement};
use crate::wire::{build, frontend};
use std::sync::Arc;

/// What runs a PREPARE of ours, and the statement that an EXECUTE is bound from.
const PREPARES: &str = "pgsegue prepares";
const EXECUTES: &str = "pgsegue executes";

/// What an EXECUTE executes, as far as it is known.
pub(super) struct Executed {
    pub(super) named: Arc<Named>,
    pub(super) known: Known,
}

impl Executed {
    /// The statement, as if it were sent by itself.
    pub(super) fn case<'a>(&'a self, outer: &Case<'a>) -> Option<Case<'a>> {
        let Known::Understood(u) = &self.known else { return None };
        Some(Case { text: &self.named.sql, statement: one(u)?, types: &[], ..*outer })
    }

    fn form(&self, case: &Case<'_>, key: FormKey) -> Option<(String, String)> {
        let name = form_name(self.named.id, key);
        let prepare = format!(
            "PREPARE {}{} AS {}",
            Ident::new(&*name).quoted(),
            self.named.types,
            self.case(case)?.form(key)?.text()
        );
        Some((name, prepare))
    }
}

impl Session {
    /// Decides what an EXECUTE executes, and the form that the client's own text goes by.
    fn decide_executed(
        &mut self,
        outer: &Case<'_>,
        executed: &Result<Executed, Missing>,
        planned: &[Arc<Change>],
    ) -> (Decision, FormKey) {
        let unknown = |why| mark_or_refuse(outer.routes.mirrored(), why);
        let executed = match executed {
            Ok(executed) => executed,
            Err(Missing::Dropped) => return (Decision::Original(None), FormKey::Original),
            Err(Missing::Unknown) => return (self.decide_unknown(outer), FormKey::Original),
        };
        let decision = match (&executed.known, executed.case(outer)) {
            (Known::Plain, _) => Decision::Original(None),
            (Known::Unreadable(why), _) => unknown(*why),
            (Known::Understood(_), None) => unknown(Reason::ExecuteOfWrite),
            (Known::Understood(_), Some(case)) => match case.statement.class {
                Class::Read(_) => Decision::Original(None),
                // What is run behind them, or asked for before, has no place here.
                Class::Truncate(_) | Class::CopyFrom(..) => unknown(Reason::ExecuteOfWrite),
                Class::Cascade => Decision::Original(None),
                // PREPARE takes no form of these.
                Class::Write(_) if is_utility(&executed.named.sql) => {
                    unknown(Reason::ExecuteOfWrite)
                }
                _ if self.writes_elsewhere(&case) => {
                    return self.decide_moved_name(executed.named.id, &case, planned);
                }
                _ => {
                    if let Some(meant) = self.meant_now(&case) {
                        self.names.in_sql.meant.insert(executed.named.id, meant);
                    }
                    self.decide(&case)
                }
            },
        };
        (decision, FormKey::Original)
    }

    /// Decides an EXECUTE of a name that was not prepared here. The server knows it no better, unless
    /// something that was not read has prepared it; what is marked in vain is undone by the error.
    fn decide_unknown(&self, outer: &Case<'_>) -> Decision {
        let routes = outer.routes.mirrored();
        let is_of_the_protocol = match &outer.statement.class {
            Class::Execute(execute) => self.names.statement(execute.name.as_bytes()).is_some(),
            _ => true,
        };
        match self.names.in_sql.has_unseen || is_of_the_protocol || routes.is_empty() {
            true => mark_or_refuse(routes, Reason::ExecuteOfWrite),
            false => Decision::Marked(Marks { routes, why: Reason::ExecuteOfWrite }),
        }
    }

    /// Decides an EXECUTE of a write whose tables' names mean others now: see [`super::planned`].
    fn decide_moved_name(
        &mut self,
        id: u64,
        case: &Case<'_>,
        planned: &[Arc<Change>],
    ) -> (Decision, FormKey) {
        let Some(now) = self.meant_now(case) else {
            return (Self::decide_unsure(case, Reason::NamesChanged), FormKey::Original);
        };
        let before = self.names.in_sql.meant.get(&id);
        // The server looks the names up anew, and finds nothing: the client's own fails as it does.
        let looked_up = before.is_some_and(|before| before.elsewhere || before.path != now.path);
        if looked_up && self.names_mean_nothing(case) {
            return (Decision::Original(None), FormKey::Original);
        }
        if looked_up {
            self.names.in_sql.meant.insert(id, now);
            // Others of its tables may be migrated ones still.
            return match self.decide(case) {
                Decision::Original(_) => {
                    (Decision::Original(None), FormKey::Elsewhere(case.routes.generation))
                }
                decision => (decision, FormKey::Original),
            };
        }
        if let (Some(_), Class::Write(write)) = (before, &case.statement.class) {
            let modes = Self::modes_where(case, write, |_| true);
            if self.has_form(id, FormKey::Mirrored(case.routes.generation, modes), planned) {
                let mirrors = Arc::new(case.mirrors(write, modes));
                return (Decision::Mirrored(mirrors, modes), FormKey::Original);
            }
        }
        (Self::decide_unsure(case, Reason::NamesChanged), FormKey::Original)
    }

    /// Plans an EXECUTE within a simple query.
    pub(super) fn plan_execute(
        &mut self,
        query: &Text<'_>,
        (statement, execute): (&Statement, &Execute),
        plan: &mut Plan,
    ) -> Option<(Decision, Option<Watch>)> {
        let outer = query.case(statement);
        let executed = self.executed(query.routes, &execute.name, &plan.changes);
        let inner = executed.as_ref().ok().and_then(|e| e.case(&outer));
        if let Some(inner) = inner.as_ref().filter(|inner| changes_names(inner)) {
            self.plan_change(inner, statement.at.end, plan);
            return None;
        }
        self.may_leave_a_block_half_done(executed.as_ref().ok());
        let unsure = inner.is_some_and(|c| self.meanings_are_lost(&c, plan));
        let (decision, as_written) = match inner {
            Some(inner) if unsure && may_write_one(&inner.statement.class) => {
                (Self::decide_unsure(&inner, Reason::NamesChanged), FormKey::Original)
            }
            _ => self.decide_executed(&outer, &executed, &plan.changes),
        };
        let watch = self.watch_executed(executed.as_ref().ok(), inner.as_ref(), &decision);
        let (key, mirrors) = match (decision, as_written) {
            (Decision::Mirrored(mirrors, modes), _) => {
                (FormKey::Mirrored(query.routes.generation, modes), Some(mirrors))
            }
            (Decision::Original(_), key @ FormKey::Elsewhere(_)) => (key, None),
            (decision, _) => return Some((decision, watch)),
        };
        let (executed, inner) = (executed.as_ref().ok()?, inner?);
        let (name, prepare) = executed.form(&outer, key)?;
        let mut spliced = Spliced::default();
        if !self.has_form(executed.named.id, key, &plan.changes) {
            spliced.ours(&prepare).ours("; ");
            self.names.in_sql.used = true;
            plan.change(Arc::new(Change::Form(executed.named.id, key)));
        }
        let at = &statement.at;
        spliced
            .client(query.text, at.start..execute.named.start)
            .ours(&Ident::new(&*name).quoted())
            .client(query.text, execute.named.end..at.end);
        plan.replace(at.clone(), spliced);
        plan.renamed.push((name, execute.name.clone()));
        let form = plan.placeholder();
        let rows = match mirrors {
            Some(mirrors) => {
                self.count("mirrored", "write");
                executed_rows(&inner, key, mirrors, form)
            }
            None => Rows::Plain,
        };
        plan.rows.push_back(rows.watched(watch));
        None
    }

    /// EXECUTE of transaction control leaves a block begun or ended by half until the group or text is
    /// over. No subtransaction can begin there, the server breaks the connection off: keys are recorded.
    fn may_leave_a_block_half_done(&mut self, executed: Option<&Executed>) {
        const CONTROL: [&str; 9] = [
            "abort",
            "begin",
            "commit",
            "end",
            "prepare",
            "release",
            "rollback",
            "savepoint",
            "start",
        ];
        let mut buffer = [0; 16];
        let first = executed.and_then(|e| first_word(e.named.sql.as_bytes(), &mut buffer));
        if first.is_some_and(|word| CONTROL.contains(&word)) {
            self.transaction.spent_its_budget(self.groups);
        }
    }

    /// What counts an EXECUTE: it is the statement that it executes.
    fn watch_executed(
        &self,
        executed: Option<&Executed>,
        inner: Option<&Case<'_>>,
        decision: &Decision,
    ) -> Option<Watch> {
        let Known::Understood(u) = &executed?.known else { return None };
        self.watch(inner?, u.tallies(0), super::watch::taken(decision))
    }

    /// Binds an EXECUTE.
    pub(super) fn bind_execute(
        &mut self,
        (frame, bind): (&[u8], &frontend::Bind<'_>),
        outer: &Case<'_>,
        execute: &Execute,
        out: &mut Out,
    ) -> Flow {
        if self.waits_for_name(execute.name.as_bytes(), out) || self.waits_for_names(out) {
            return Flow::Hold;
        }
        let executed = self.executed(outer.routes, &execute.name, &[]);
        let inner = executed.as_ref().ok().and_then(|e| e.case(outer));
        if inner.is_some_and(|inner| self.lacks_facts(&inner)) {
            let understander = self.context.understander(outer.routes);
            self.inject_facts(&understander, Protocol::Extended, out);
            return Flow::Hold;
        }
        let (decision, as_written) = self.decide_executed(outer, &executed, &[]);
        self.facts_used();
        let watch = self.watch_executed(executed.as_ref().ok(), inner.as_ref(), &decision);
        let effect = inner.map_or(Effect::State, |inner| inner.statement.effect);
        let mut portal = Portal { effect, watch, ..Portal::plain() };
        if let Some(inner) = inner.as_ref().filter(|inner| changes_names(inner)) {
            portal.rows = self.original_rows(inner, None);
            return self.pass_bind(frame, bind.portal, portal, out);
        }
        self.may_leave_a_block_half_done(executed.as_ref().ok());
        let key = match (decision, as_written) {
            (Decision::Refused(report), _) => return self.refuse_bind(report, out),
            (Decision::Mirrored(mirrors, modes), _) => {
                (FormKey::Mirrored(outer.routes.generation, modes), Some(mirrors))
            }
            (Decision::Original(_), key @ FormKey::Elsewhere(_)) => (key, None),
            (Decision::Marked(marks), _) => {
                self.inject_mark_inline(&marks, Lasts::Transaction, out);
                return self.pass_bind(frame, bind.portal, portal, out);
            }
            _ => return self.pass_bind(frame, bind.portal, portal, out),
        };
        match (&executed, inner) {
            (Ok(executed), Some(inner)) => {
                let form = (outer, execute, executed, &inner);
                self.bind_executed_form((frame, bind), form, key, portal, out)
            }
            _ => self.pass_bind(frame, bind.portal, portal, out),
        }
    }

    fn bind_executed_form(
        &mut self,
        (frame, bind): (&[u8], &frontend::Bind<'_>),
        (outer, execute, executed, inner): (&Case<'_>, &Execute, &Executed, &Case<'_>),
        (key, mirrors): (FormKey, Option<Arc<Mirrors>>),
        mut portal: Portal,
        out: &mut Out,
    ) -> Flow {
        let id = executed.named.id;
        let (Some((name, prepare)), Some(values)) = (executed.form(outer, key), bind.values())
        else {
            return self.pass_bind(frame, bind.portal, portal, out);
        };
        self.retry.give_up();
        if !self.has_form(id, key, &[]) {
            let mut ours = Spliced::default();
            ours.ours(&prepare);
            build::run_once(&mut out.to_server, PREPARES, self.as_read_here(ours).text());
            self.names.in_sql.used = true;
            let rows = Rows::Names(Arc::new(Change::Form(id, key)), None);
            self.expect_run_once(Expect::Execute(Reply::Forward, rows));
        }
        let mut spliced = Spliced::default();
        spliced
            .client(outer.text, 0..execute.named.start)
            .ours(&Ident::new(&*name).quoted())
            .client(outer.text, execute.named.end..outer.text.len());
        let spliced = self.as_read_here(spliced);
        build::close_statement(&mut out.to_server, EXECUTES.as_bytes());
        self.replies.push_back(Expect::Close(Reply::Swallow, None));
        build::parse(&mut out.to_server, EXECUTES.as_bytes(), spliced.text(), outer.types);
        self.replies.push_back(Expect::Parse(Reply::Swallow, None));
        let renamed = vec![(name, execute.name.clone())];
        let (original, layout) = (Arc::from(outer.text), inner.layout(key));
        let form = Arc::new(Form { spliced, original, layout, renamed, native: None });
        portal.rows = match mirrors {
            Some(mirrors) => executed_rows(inner, key, mirrors, form),
            None => Rows::Among(form),
        };
        let bound = self.names.put_portal(bind.portal, portal, self.groups);
        let formats = self.result_formats(bind.portal, &values.result_formats);
        build::rebind(&mut out.to_server, bind.portal, EXECUTES.as_bytes(), &values, &formats);
        let ours = EXECUTES.as_bytes().into();
        let bound = Names::asked(bound, bind.portal, (ours, bind.statement));
        self.replies.push_back(Expect::Bind(Reply::Forward, bound));
        Flow::Done
    }
}

/// The replies of an EXECUTE of a mirrored form.
fn executed_rows(inner: &Case<'_>, key: FormKey, mirrors: Arc<Mirrors>, form: Arc<Form>) -> Rows {
    match &inner.statement.class {
        Class::Write(write) => Session::mirrored_rows(write, mirrors, (inner.layout(key), form)),
        _ => Rows::Plain,
    }
}

/// Whether it is PREPARE or DEALLOCATE.
fn changes_names(inner: &Case<'_>) -> bool {
    matches!(inner.statement.class, Class::Prepare(_) | Class::Deallocate(_))
}

/// Whether a write is within a statement that PREPARE does not prepare.
fn is_utility(sql: &str) -> bool {
    let mut buffer = [0; 16];
    matches!(first_word(sql.as_bytes(), &mut buffer), Some("copy" | "create"))
}
