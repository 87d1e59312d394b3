//! Statements that the client has prepared in SQL, and drops: what is ours of them goes, too, whether it
//! is there already or only will be when what is sent has run.

use super::decide::Case;
use super::expect::{Expect, Reply, Rows};
use super::named::Change;
use super::plan::Plan;
use super::prepared::form_name;
use super::{Out, Session};
use crate::sql::ident::Ident;
use crate::sql::splice::Spliced;
use crate::wire::build;
use std::sync::Arc;

impl Session {
    /// The server's names of the forms that there are of what a name stands for, behind what is sent and
    /// behind `planned`.
    fn forms_behind(&self, name: &str, planned: &[Arc<Change>]) -> Vec<String> {
        let Ok(named) = self.find(name, planned) else { return Vec::new() };
        let of = |change: &Arc<Change>| match **change {
            Change::Form(id, key) if id == named.id => Some(form_name(id, key)),
            _ => None,
        };
        let sent = self.changes_sent().chain(planned).filter_map(of);
        let mut forms: Vec<_> =
            self.names.in_sql.forms_with(named.id).into_iter().chain(sent).collect();
        forms.sort();
        forms.dedup();
        forms
    }

    /// Plans a statement that changes what names stand for; `end` is where it ends in the text.
    pub(super) fn plan_change(&mut self, case: &Case<'_>, end: usize, plan: &mut Plan) {
        let Some(change) = self.change_of(case) else { return };
        let forms = match &*change {
            Change::Dropped(name) => self.forms_behind(name, &plan.changes),
            Change::Prepared(_) | Change::AllDropped | Change::Form(..) => Vec::new(),
        };
        self.names.in_sql.used = true;
        plan.change(change);
        for form in forms {
            let mut drop = Spliced::default();
            drop.ours(&format!("; DEALLOCATE {}", Ident::new(form).quoted()));
            plan.replace(end..end, drop);
            plan.rows.push_back(Rows::Mark(plan.placeholder()));
        }
    }

    /// What is ours of the statement that an Execute drops.
    pub(super) fn forms_dropped(&self, rows: &Rows) -> Vec<String> {
        match rows.change().map(|change| &**change) {
            Some(Change::Dropped(name)) => self.forms_behind(name, &[]),
            _ => Vec::new(),
        }
    }

    /// Behind the Execute of a DEALLOCATE: what was ours of its statement goes, too.
    pub(super) fn drop_forms(&mut self, forms: Vec<String>, out: &mut Out) {
        for form in forms {
            build::close_statement(&mut out.to_server, form.as_bytes());
            self.replies.push_back(Expect::Close(Reply::Swallow, None));
        }
    }
}
