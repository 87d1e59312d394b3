//! Statements that the client has prepared in SQL, by name, and their EXECUTE.
//!
//! The client's PREPARE goes to the server as it is; when that has taken it, the name stands for its
//! text here. EXECUTE of a mirrored write is sent as EXECUTE of a statement of ours: the same write
//! in its mirrored form, prepared by PREPARE with the client's own types. So the server reads the
//! arguments, and what is decided is decided when it is executed.
//!
//! PREPARE is no part of a transaction, and neither is what is remembered here. What is not answered
//! yet counts as done for what is sent behind it up to the next Sync: if it fails, so does that.

use super::decide::Case;
use super::executed::Executed;
use super::expect::{Expect, Rows};
use super::parse::one;
use super::prepared::{FormKey, Meant, Prepared, counting, form_name};
use super::{Out, Session};
use crate::proxy::context::Known;
use crate::routing::{Route, Routes};
use crate::sql::prepare::Deallocate;
use crate::sql::statement::drops_names;
use crate::sql::statement::{Class, Effect, Statement};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// A statement prepared in SQL.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) id: u64,
    pub(super) name: String,
    pub(super) sql: Arc<str>,
    /// The types of its parameters, in brackets; empty where they are not declared.
    pub(super) types: String,
    /// What its names meant when it was prepared, if that is known.
    pub(super) meant: Option<Meant>,
}

/// What a statement does to the names when it is done.
#[derive(Debug)]
pub(super) enum Change {
    /// The name stands for this.
    Prepared(Arc<Named>),
    /// It stands for nothing.
    Dropped(String),
    /// None does.
    AllDropped,
    /// One of ours is there: a form of the statement with this number.
    Form(u64, FormKey),
}

impl Change {
    /// What the name stands for behind it, if that is another than before.
    pub(super) fn says_of(&self, name: &[u8]) -> Option<Result<Arc<Named>, Missing>> {
        match self {
            Self::Prepared(named) if named.name.as_bytes() == name => Some(Ok(Arc::clone(named))),
            Self::Dropped(dropped) if dropped.as_bytes() == name => Some(Err(Missing::Dropped)),
            // But the one without a name.
            Self::AllDropped if !name.is_empty() => Some(Err(Missing::Dropped)),
            Self::Prepared(_) | Self::Dropped(_) | Self::AllDropped | Self::Form(..) => None,
        }
    }
}

/// Everything that was prepared in SQL.
#[derive(Debug, Default)]
pub(super) struct Statements {
    named: HashMap<String, Arc<Named>>,
    forms: HashSet<(u64, FormKey)>,
    /// What their names meant when the server last looked them up, as far as it is known.
    pub(super) meant: HashMap<u64, Meant>,
    /// The server's names of forms that nothing stands for any more; the next Close takes them along.
    pub(super) orphans: Vec<String>,
    /// A text that was not read may have prepared others.
    pub(super) has_unseen: bool,
    /// How often what is known was forgotten.
    pub(super) times_forgotten: u64,
    /// The session has used PREPARE or DEALLOCATE.
    pub(super) used: bool,
}

impl Statements {
    /// A change has happened.
    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::Prepared(named) => {
                if let Some(meant) = &named.meant {
                    self.meant.insert(named.id, meant.clone());
                }
                self.named.insert(named.name.clone(), Arc::clone(named));
            }
            Change::Dropped(name) => {
                if let Some(named) = self.named.remove(name) {
                    self.forms.retain(|(id, _)| *id != named.id);
                    self.meant.remove(&named.id);
                }
            }
            Change::AllDropped => {
                self.forget();
                self.orphans.clear();
                self.has_unseen = false;
            }
            Change::Form(id, key) => {
                self.forms.insert((*id, *key));
            }
        }
    }

    /// Whether a name is spelled in other bytes in other encodings.
    pub(super) fn has_foreign_name(&self) -> bool {
        self.named.keys().any(|name| !name.is_ascii())
    }

    /// A text that was not read may have changed what any name stands for.
    pub(super) fn forget(&mut self) {
        self.named.clear();
        // They may be there still: what is prepared anew has other names.
        let left: Vec<_> = self.forms.drain().map(|(id, key)| form_name(id, key)).collect();
        self.orphans.extend(left);
        self.times_forgotten += 1;
        self.meant.clear();
        self.has_unseen = true;
    }

    /// The protocol has given the name to another statement, or closed it; returns the server's names
    /// of the forms that are left.
    pub(super) fn lose(&mut self, name: &[u8]) -> Vec<String> {
        let name = std::str::from_utf8(counting(name)).ok();
        let Some(name) = name.filter(|_| !self.named.is_empty()) else {
            return Vec::new();
        };
        let forms = self.forms_of(name);
        self.apply(&Change::Dropped(name.to_owned()));
        forms
    }

    /// The server's names of the forms of what the protocol names so.
    pub(super) fn forms_named(&self, name: &[u8]) -> Vec<String> {
        let name = std::str::from_utf8(counting(name)).ok();
        name.map(|name| self.forms_of(name)).unwrap_or_default()
    }

    /// Whether none is known.
    pub(super) fn is_empty(&self) -> bool {
        self.named.is_empty()
    }

    /// The server's names of the forms of a statement.
    fn forms_of(&self, name: &str) -> Vec<String> {
        self.named.get(name).map(|named| self.forms_with(named.id)).unwrap_or_default()
    }

    /// The statement with this number is gone.
    pub(super) fn lose_forms(&mut self, id: u64) {
        let forms = self.forms_with(id);
        self.forms.retain(|(of, _)| *of != id);
        self.meant.remove(&id);
        self.orphans.extend(forms);
    }

    /// Those of the statement with this number.
    pub(super) fn forms_with(&self, id: u64) -> Vec<String> {
        let of = |(of, key): &(u64, FormKey)| (*of == id).then(|| form_name(id, *key));
        self.forms.iter().filter_map(of).collect()
    }
}

/// Why it is not known what a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// What is sent before drops it: to execute it fails.
    Dropped,
    /// It was not prepared here.
    Unknown,
}

impl Session {
    /// What a PREPARE, DEALLOCATE or DISCARD does to the names.
    pub(super) fn change_of(&mut self, case: &Case<'_>) -> Option<Arc<Change>> {
        let meant = self.inner_of_prepare(case).and_then(|executed| {
            let inner = executed.case(case)?;
            if self.facts_are_stale(&inner) { None } else { self.meant_now(&inner) }
        });
        let text = |at: &std::ops::Range<usize>| case.text.get(at.clone()).unwrap_or_default();
        Some(Arc::new(match &case.statement.class {
            Class::Prepare(prepare) => Change::Prepared(Arc::new(Named {
                id: self.names.next_id(),
                name: prepare.name.clone(),
                sql: Arc::from(text(&prepare.body)),
                types: text(&prepare.types).to_owned(),
                meant,
            })),
            Class::Deallocate(Deallocate::One(name)) => Change::Dropped(name.clone()),
            Class::Deallocate(Deallocate::All) => Change::AllDropped,
            _ => return None,
        }))
    }

    /// The replies of a statement that is bound as the client wrote it.
    pub(super) fn original_rows(&mut self, case: &Case<'_>, route: Option<Arc<Route>>) -> Rows {
        let rows = self.count_original(case, route);
        let Some(change) = self.change_of(case) else { return rows };
        self.names.in_sql.used = true;
        Rows::Names(change, None)
    }

    /// What was sent since the last Sync, and changes names when it is done.
    pub(super) fn changes_sent(&self) -> impl DoubleEndedIterator<Item = &Arc<Change>> {
        let first = self.last_sync().map_or(0, |at| at + 1);
        self.replies.range(first..).filter_map(|reply| match reply {
            Expect::Execute(_, rows) => rows.change(),
            _ => None,
        })
    }

    fn last_sync(&self) -> Option<usize> {
        self.replies.iter().rposition(|r| matches!(r, Expect::Sync(_) | Expect::Query(_)))
    }

    /// Whether it is not known yet what names stand for: an earlier group that changes some is not
    /// answered.
    pub(super) fn names_are_uncertain(&self) -> bool {
        if !self.names.in_sql.used {
            return false;
        }
        let Some(last) = self.last_sync() else { return false };
        let changes = |rows: &Rows| rows.change().is_some();
        self.replies.range(..=last).any(|reply| match reply {
            Expect::Query(rows) => rows.iter().any(changes),
            Expect::Execute(_, rows) => changes(rows),
            // Of one of SQL's, if there is one.
            Expect::Close(_, Some(closed)) => closed.statement() == Some(0),
            _ => false,
        })
    }

    /// Whether the frame has to wait until it is known what names stand for.
    pub(super) fn waits_for_names(&mut self, out: &mut Out) -> bool {
        self.names_are_uncertain() && self.drains(out)
    }

    /// What a name stands for behind what is sent, and behind `planned`.
    pub(super) fn find(&self, name: &str, planned: &[Arc<Change>]) -> Result<Arc<Named>, Missing> {
        let by_protocol = || self.named_by_protocol(name).ok_or(Missing::Unknown);
        let is_it = |other: &[u8]| counting(other) == name.as_bytes();
        if let Some(found) = planned.iter().rev().find_map(|change| change.says_of(name.as_bytes()))
        {
            return found;
        }
        let first = self.last_sync().map_or(0, |at| at + 1);
        for reply in self.replies.range(first..).rev() {
            match reply {
                Expect::Execute(_, rows) => {
                    if let Some(found) =
                        rows.change().and_then(|change| change.says_of(name.as_bytes()))
                    {
                        return found;
                    }
                }
                Expect::Close(_, Some(closed)) if closed.is_of_statement(is_it) => {
                    return Err(Missing::Dropped);
                }
                Expect::Parse(_, Some(undo)) if undo.is_of_the_client(is_it) => {
                    return by_protocol();
                }
                _ => {}
            }
        }
        self.names.in_sql.named.get(name).cloned().map_or_else(by_protocol, Ok)
    }

    pub(super) fn has_form(&self, id: u64, key: FormKey, planned: &[Arc<Change>]) -> bool {
        let prepares = |c: &Arc<Change>| matches!(**c, Change::Form(i, k) if (i, k) == (id, key));
        self.names.in_sql.forms.contains(&(id, key))
            || self.changes_sent().chain(planned).any(prepares)
    }

    /// What an EXECUTE executes.
    pub(super) fn executed(
        &self,
        routes: &Routes,
        name: &str,
        planned: &[Arc<Change>],
    ) -> Result<Executed, Missing> {
        let named = self.find(name, planned)?;
        let known = self.know(routes, named.sql.as_bytes());
        Ok(Executed { named, known })
    }

    /// Whether the name of a Bind stands for a statement of SQL that may write a migrated table.
    pub(super) fn binds_a_hidden_write(&self, routes: &Routes, name: &[u8]) -> bool {
        let known = std::str::from_utf8(counting(name)).ok().ok_or(Missing::Unknown);
        match known.and_then(|name| self.executed(routes, name, &[])) {
            Ok(executed) => may_write(&executed.known),
            Err(Missing::Dropped) => false,
            // The server knows it no better, as a rule: then it says so, and what is marked is undone.
            Err(Missing::Unknown) => self.names.in_sql.has_unseen || self.names.in_sql.used,
        }
    }

    /// Whether the text that a name stands for drops names.
    fn drops_names(&self, name: &str) -> bool {
        let text = self.find(name, &[]);
        text.is_ok_and(|named| drops_names(named.sql.as_bytes()))
    }

    /// What names stand for may be something else behind what is sent.
    pub(super) fn names_may_be_others(&mut self) {
        self.names.forget_extra();
        self.names.may_have_changed();
        self.names_sent_are_forgotten();
    }

    /// What prepares names, and is not answered yet, comes before what has them forgotten.
    pub(super) fn names_sent_are_forgotten(&mut self) {
        let sent = self.replies.iter_mut().flat_map(|reply| match reply {
            Expect::Query(rows) => rows.iter_mut().collect(),
            Expect::Execute(_, rows) => vec![rows],
            _ => Vec::new(),
        });
        for rows in sent {
            let rows = rows.bare_mut();
            if let Rows::Names(change, form) = rows
                && matches!(**change, Change::Prepared(_))
            {
                *rows = form.take().map_or(Rows::Plain, Rows::Among);
            }
        }
    }

    /// What a statement does to the session that the protocol has not prepared.
    pub(super) fn effect_of_name(&self, routes: &Routes, name: &[u8]) -> Effect {
        let name = std::str::from_utf8(counting(name)).ok().ok_or(Missing::Unknown);
        match name.and_then(|name| self.executed(routes, name, &[])).map(|e| e.known) {
            Ok(Known::Plain) | Err(Missing::Dropped) => Effect::None,
            Ok(Known::Understood(u)) => one(&u).map_or(Effect::State, |s| s.effect),
            Err(Missing::Unknown) if !self.names.in_sql.used => Effect::None,
            Ok(Known::Unreadable(_)) | Err(Missing::Unknown) => Effect::State,
        }
    }

    /// Whether any statement that SQL can name may write a migrated table.
    pub(super) fn has_hidden_writes(&self, routes: &Routes) -> bool {
        let named = self.names.in_sql.named.values();
        let sent = self.replies.iter().any(|reply| match reply {
            Expect::Query(rows) => rows.iter().any(|r| r.change().is_some()),
            Expect::Execute(_, rows) => rows.change().is_some(),
            _ => false,
        });
        let understander = self.context.understander(routes);
        let bytes_max = self.context.options.sql_bytes_max;
        let know =
            |named: &Named| understander.know(named.sql.as_bytes(), self.readable(), bytes_max);
        let text = |s: &Prepared| understander.know(&s.sql, s.readable, bytes_max);
        sent || self.names.in_sql.has_unseen
            || named.into_iter().any(|named| may_write(&know(named)))
            || self.names.named().any(|statement| may_write(&text(statement)))
    }

    /// What an EXECUTE does to the session.
    pub(super) fn effect_of(
        &self,
        routes: &Routes,
        statement: &Statement,
        planned: &[Arc<Change>],
    ) -> Effect {
        let Class::Execute(execute) = &statement.class else { return statement.effect };
        match self.executed(routes, &execute.name, planned).map(|e| e.known) {
            Ok(Known::Plain) => Effect::None,
            Ok(Known::Understood(u)) => one(&u).map_or(statement.effect, |s| s.effect),
            Ok(Known::Unreadable(_)) if self.drops_names(&execute.name) => Effect::Renames,
            Ok(Known::Unreadable(_)) | Err(_) => statement.effect,
        }
    }

    /// Whether an EXECUTE, or what it may find prepared in the same text, needs the session's facts.
    pub(super) fn executed_needs_facts(&self, case: &Case<'_>) -> bool {
        let executed = match &case.statement.class {
            Class::Execute(execute) => self.executed(case.routes, &execute.name, &[]).ok(),
            _ => self.inner_of_prepare(case),
        };
        let inner = executed.as_ref().and_then(|e| e.case(case));
        inner.is_some_and(|c| c.needs_facts() && self.facts_are_stale(&c))
    }

    /// What a PREPARE prepares, as if it were executed.
    fn inner_of_prepare(&self, case: &Case<'_>) -> Option<Executed> {
        let Class::Prepare(prepare) = &case.statement.class else { return None };
        let sql = case.text.get(prepare.body.clone()).unwrap_or_default();
        let (id, name, types) = (0, String::new(), String::new());
        let named = Arc::new(Named { id, name, sql: Arc::from(sql), types, meant: None });
        let known = self.know(case.routes, sql.as_bytes());
        Some(Executed { named, known })
    }
}

fn may_write(known: &Known) -> bool {
    match known {
        Known::Plain => false,
        Known::Unreadable(_) => true,
        Known::Understood(u) => one(u).is_none_or(|s| may_write_one(&s.class)),
    }
}

pub(super) fn may_write_one(class: &Class) -> bool {
    !matches!(class, Class::Passthrough | Class::Read(_))
}
