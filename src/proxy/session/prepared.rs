//! Prepared statements and portals as the client knows them.
//!
//! A statement is remembered by its original text. At the server it may exist in several forms
//! (as written, mirrored in some mode, on the shadow): under the client's own name it is as written,
//! others get names of ours and are prepared when a Bind first needs them. So a routing change reaches
//! statements that were prepared hours ago. The unnamed statement is only one: it is parsed in the
//! form that is current.

use super::expect::{Form, Rows};
use super::fetch::Ends;
use super::portal::{Bound, Portal, Ran};
use super::spelled::{Spelled, Words};
use super::watch::Watch;
use crate::proxy::context::{Known, Readable};
use crate::sql::lex::{first_word, spells};
use crate::sql::statement::Effect;
use crate::sql::write::Modes;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Names of statements and portals end here (`NAMEDATALEN - 1`): the server looks no further, so
/// longer ones that begin alike are one.
const NAME_BYTES_MAX: usize = 63;

/// As much of a name as counts.
pub(super) fn counting(name: &[u8]) -> &[u8] {
    name.get(..NAME_BYTES_MAX).unwrap_or(name)
}

/// A form that a statement can be sent in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum FormKey {
    /// As the client wrote it.
    Original,
    /// As the client wrote it, prepared while a table's name in it meant another than the migrated one,
    /// and bound only while it does, for the targets of this generation.
    Elsewhere(u64),
    /// Mirrored in these modes, for the targets of this generation.
    Mirrored(u64, Modes),
    /// On the shadow, for the targets of this generation.
    Shadow(u64),
}

/// A statement at the server: its name there, and its form unless it is the client's own text.
pub(super) type AtServer = (Box<[u8]>, Option<Arc<Form>>);

/// What the names of tables that a statement may write meant.
#[derive(Debug, Clone)]
pub(super) struct Meant {
    /// The path that they were looked up by.
    pub(super) path: Arc<str>,
    /// One meant another table than the migrated one.
    pub(super) elsewhere: bool,
}

/// What a statement may do that is of no table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Acts {
    /// Nothing that matters.
    Otherwise,
    /// A COPY from the client.
    Copies,
    /// A cursor of SQL gets a name that is of no portal any more, or loses it; or a transaction ends, and
    /// the next one begins at once.
    EndsPortals,
    /// The query of a cursor, of which nothing is known.
    Fetches,
    /// What another statement does.
    Executes,
}

impl Acts {
    /// By its first word.
    pub(super) fn of(sql: &[u8]) -> Self {
        let mut buffer = [0; 16];
        match first_word(sql, &mut buffer) {
            Some("copy") => Self::Copies,
            Some("close" | "declare") => Self::EndsPortals,
            Some("commit" | "end" | "rollback" | "abort") if spells(sql, "chain") => {
                Self::EndsPortals
            }
            Some("fetch" | "move") => Self::Fetches,
            Some("execute") => Self::Executes,
            _ => Self::Otherwise,
        }
    }
}

/// Statements that execute one another, at most: a server has no more of a stack, either.
const EXECUTES_MAX: usize = 8;

/// A prepared statement.
#[derive(Debug, Clone)]
pub(super) struct Prepared {
    /// Unique in the session: tells a statement from another of the same name.
    pub(super) id: u64,
    /// The last group of frames with a Parse or Close of it.
    pub(super) touched: u64,
    pub(super) sql: Arc<[u8]>,
    /// What it may do that is of no table.
    pub(super) acts: Acts,
    /// How the server has read it.
    pub(super) readable: Readable,
    /// Declared parameter types, as in the Parse.
    pub(super) types: Box<[u8]>,
    /// What the text means, for one generation of targets.
    pub(super) known: (u64, Known),
    /// The form that was parsed.
    pub(super) own: (FormKey, Option<Arc<Form>>),
    /// What its names meant when the server last looked them up, if that is known.
    pub(super) meant: Option<Meant>,
    /// Further forms, under names of ours.
    pub(super) extra: Vec<(FormKey, Box<[u8]>, Arc<Form>)>,
}

impl Prepared {
    /// The server's name of a form that is prepared, with the form.
    pub(super) fn prepared_as(&self, key: FormKey, own_name: &[u8]) -> Option<AtServer> {
        if self.own.0 == key {
            return Some((own_name.into(), self.own.1.clone()));
        }
        let (_, name, form) = self.extra.iter().find(|(k, _, _)| *k == key)?;
        Some((name.clone(), Some(Arc::clone(form))))
    }

    /// The server's names of the further forms.
    pub(super) fn forms(&self) -> impl Iterator<Item = String> {
        self.extra.iter().map(|(key, ..)| form_name(self.id, *key))
    }

    /// A name of ours for one more form.
    pub(super) fn name_for(&self, key: FormKey) -> Box<[u8]> {
        form_name(self.id, key).into_bytes().into()
    }
}

/// The server's name of a form of the statement with this number.
pub(super) fn form_name(id: u64, key: FormKey) -> String {
    let form = match key {
        FormKey::Original => "original".to_owned(),
        FormKey::Elsewhere(generation) => format!("elsewhere {generation}"),
        FormKey::Mirrored(generation, modes) => format!("mirrored {generation} {modes:x}"),
        FormKey::Shadow(generation) => format!("shadow {generation}"),
    };
    format!("pgsegue {id} {form}")
}

/// What to take back when a Parse is answered by an error or skipped.
#[derive(Debug)]
pub(super) enum Undo {
    /// The client's own Parse: the statement that the name stood for before.
    Client { name: Box<[u8]>, id: u64, previous: Option<Box<Prepared>>, form: Option<Arc<Form>> },
    /// A form that the proxy prepared.
    Form { statement: Box<[u8]>, id: u64, key: FormKey },
}

impl Undo {
    /// Puts `before` where this would restore a statement that has turned out never to have been;
    /// gives it back where it would not.
    pub(super) fn correct(
        &mut self,
        id: u64,
        before: Option<Box<Prepared>>,
    ) -> Result<(), Option<Box<Prepared>>> {
        match self {
            Self::Client { previous, .. } if previous.as_ref().is_some_and(|p| p.id == id) => {
                *previous = before;
                Ok(())
            }
            Self::Client { .. } | Self::Form { .. } => Err(before),
        }
    }

    /// The server does not have this form of a statement that this would restore.
    pub(super) fn lose_form(&mut self, id: u64, key: FormKey) {
        if let Self::Client { previous: Some(previous), .. } = self
            && previous.id == id
        {
            previous.extra.retain(|(k, _, _)| *k != key);
        }
    }

    /// Whether it is of the client's own Parse of such a name.
    pub(super) fn is_of_the_client(&self, is_it: impl Fn(&[u8]) -> bool) -> bool {
        matches!(self, Self::Client { name, .. } if is_it(name))
    }

    /// The form that was to be prepared.
    pub(super) fn form(&self) -> Option<&Form> {
        match self {
            Self::Client { form, .. } => form.as_deref(),
            Self::Form { .. } => None,
        }
    }
}

/// Things by name. The one without a name has a place of its own: most drivers use it for every
/// statement, and finding it by its hash would be a good part of what a frame costs.
#[derive(Debug)]
struct ByName<T> {
    unnamed: Option<T>,
    named: HashMap<Box<[u8]>, T, foldhash::fast::RandomState>,
}

impl<T> Default for ByName<T> {
    fn default() -> Self {
        Self { unnamed: None, named: HashMap::default() }
    }
}

impl<T> ByName<T> {
    fn get(&self, name: &[u8]) -> Option<&T> {
        match counting(name) {
            [] => self.unnamed.as_ref(),
            name => self.named.get(name),
        }
    }

    fn get_mut(&mut self, name: &[u8]) -> Option<&mut T> {
        match counting(name) {
            [] => self.unnamed.as_mut(),
            name => self.named.get_mut(name),
        }
    }

    fn put(&mut self, name: &[u8], value: T) -> Option<T> {
        match self.get_mut(name) {
            Some(slot) => Some(std::mem::replace(slot, value)),
            None if name.is_empty() => self.unnamed.replace(value),
            None => self.named.insert(counting(name).into(), value),
        }
    }

    fn take(&mut self, name: &[u8]) -> Option<T> {
        match counting(name) {
            [] => self.unnamed.take(),
            name => self.named.remove(name),
        }
    }

    fn is_empty(&self) -> bool {
        self.unnamed.is_none() && self.named.is_empty()
    }

    fn retain(&mut self, stays: impl Fn(&T) -> bool) {
        self.unnamed = self.unnamed.take().filter(&stays);
        self.named.retain(|_, value| stays(value));
    }

    fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.unnamed.iter_mut().chain(self.named.values_mut())
    }

    fn clear(&mut self) {
        self.unnamed = None;
        if !self.named.is_empty() {
            self.named.clear();
        }
    }
}

/// All statements and portals of a session.
#[derive(Debug, Default)]
pub(super) struct Names {
    statements: ByName<Prepared>,
    portals: ByName<Portal>,
    next_id: u64,
    /// A text that was not read may have hidden a write behind a name.
    pub(super) hidden_writes: bool,
    /// The last group that closes a statement, or changes names in SQL.
    pub(super) changed_in: u64,
    /// The last group that binds a portal.
    bound_in: u64,
    /// What was prepared in SQL.
    pub(super) in_sql: super::named::Statements,
    /// Statements up to this id may have been dropped by DISCARD or DEALLOCATE.
    discarded: u64,
}

impl Names {
    pub(super) fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(super) fn statement(&self, name: &[u8]) -> Option<&Prepared> {
        self.statements.get(name)
    }

    pub(super) fn statement_mut(&mut self, name: &[u8]) -> Option<&mut Prepared> {
        self.statements.get_mut(name)
    }

    pub(super) fn put(&mut self, name: &[u8], statement: Prepared) -> Option<Prepared> {
        self.statements.put(name, statement)
    }

    /// Whether any statement has a name.
    pub(super) fn has_named(&self) -> bool {
        !self.statements.named.is_empty()
    }

    /// Those that have a name.
    pub(super) fn named(&self) -> impl Iterator<Item = &Prepared> {
        self.statements.named.values()
    }

    /// Forgets the statements with a name and a number for which this says no; returns the server's names of
    /// what is left of them.
    pub(super) fn keep(&mut self, keeps: impl Fn(u64) -> bool) -> Vec<String> {
        let mut left = Vec::new();
        self.statements.named.retain(|_, statement| {
            let stays = keeps(statement.id);
            if !stays {
                left.extend(statement.forms());
            }
            stays
        });
        left
    }

    /// Forgets a statement that the server has no more; what is left of it is closed with the next Close.
    pub(super) fn forget(&mut self, name: &[u8]) {
        let left = self.statements.take(name);
        self.in_sql.orphans.extend(left.iter().flat_map(Prepared::forms));
    }

    /// A text that was not read may have given names to other statements.
    pub(super) fn may_have_changed(&mut self) {
        self.hidden_writes = true;
        self.in_sql.forget();
    }

    /// The client's encoding is another: in it a name that is not ASCII is spelled in other bytes, and its
    /// bytes may spell another name.
    pub(super) fn are_respelled(&mut self) {
        let mut all = self.statements.named.keys();
        if all.any(|name| !name.is_ascii()) || self.in_sql.has_foreign_name() {
            self.may_have_changed();
            self.forget_extra();
        }
    }

    /// Forgets a statement, unless the name stands for another by now.
    pub(super) fn close(&mut self, name: &[u8], id: u64) {
        if self.statement(name).is_some_and(|s| s.id == id) {
            drop(self.statements.take(name));
        }
    }

    pub(super) fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Client { name, id, previous, .. } => {
                self.close(&name, id);
                if let Some(previous) = previous
                    && self.statement(&name).is_none()
                {
                    self.put(&name, *previous);
                }
            }
            Undo::Form { statement, id, key } => {
                if let Some(s) = self.statement_mut(&statement).filter(|s| s.id == id) {
                    s.extra.retain(|(k, _, _)| *k != key);
                }
            }
        }
    }

    /// DISCARD or DEALLOCATE may have dropped the forms that the proxy prepared; the client's own
    /// names are its own affair.
    pub(super) fn forget_extra(&mut self) {
        self.discarded = self.next_id;
        for statement in self.statements.values_mut() {
            statement.extra.clear();
        }
    }

    /// Whether a name may stand for a write that SQL-level PREPARE has hidden: it is unknown here,
    /// or what was known of it may have been dropped in SQL.
    pub(super) fn may_be_hidden(&self, name: &[u8]) -> bool {
        let known = self.statement(name);
        self.hidden_writes && known.is_none_or(|s| s.id <= self.discarded)
    }

    pub(super) fn portal(&self, name: &[u8]) -> Option<&Portal> {
        self.portals.get(name)
    }

    /// A Bind is sent; returns what to do if it fails. The unnamed portal is only one, and as a rule
    /// not worth keeping what it was, unless something is done with it.
    pub(super) fn put_portal(
        &mut self,
        name: &[u8],
        portal: Portal,
        group: u64,
    ) -> Option<Box<Bound>> {
        let form = portal.rows.bound_form();
        let id = self.next_id();
        self.bound_in = group;
        let portal = Portal { id, bound_in: group, ..portal };
        let previous = self.portals.put(name, portal);
        let kept = previous.as_ref().is_some_and(|previous| !previous.is_plain());
        (kept || form.is_some() || !name.is_empty())
            .then(|| Box::new(Bound { name: name.into(), id, previous, asked: None, form }))
    }

    /// The same for a Bind on a statement that has this name at the server, and another at the client.
    pub(super) fn asked(
        bound: Option<Box<Bound>>,
        portal: &[u8],
        (ours, theirs): (Box<[u8]>, &[u8]),
    ) -> Option<Box<Bound>> {
        if *ours == *theirs {
            return bound;
        }
        let (name, id) = (portal.into(), 0);
        let unnamed = || Box::new(Bound { name, id, previous: None, asked: None, form: None });
        let mut bound = bound.unwrap_or_else(unnamed);
        bound.asked = Some((ours, theirs.into()));
        Some(bound)
    }

    /// A Bind has failed or was skipped. Gives it back where its portal is not what the name stands for.
    pub(super) fn unbind(&mut self, bound: Bound) -> Option<Bound> {
        if self.portals.get(&bound.name).is_none_or(|portal| portal.id != bound.id) {
            return Some(bound);
        }
        match bound.previous {
            Some(previous) => drop(self.portals.put(&bound.name, previous)),
            None => drop(self.portals.take(&bound.name)),
        }
        None
    }

    /// Whether a portal may be executed that is bound by now. One with a name may have more to give.
    pub(super) fn leaves_a_portal(&self) -> bool {
        self.has_named_portals() || self.portal(b"").is_some_and(|portal| !portal.is_run)
    }

    /// The unnamed portal is sent to be run to its end.
    pub(super) fn unnamed_is_run(&mut self) {
        if let Some(portal) = self.portals.get_mut(b"") {
            portal.is_run = true;
        }
    }

    /// Whether any portal has a name.
    pub(super) fn has_named_portals(&self) -> bool {
        !self.portals.named.is_empty()
    }

    /// What each portal gives.
    pub(super) fn rows_of_portals(&mut self) -> impl Iterator<Item = &mut Rows> {
        self.portals.values_mut().map(|portal| &mut portal.rows)
    }

    /// How many portals there are.
    #[cfg(test)]
    pub(super) fn portals(&mut self) -> usize {
        self.portals.values_mut().count()
    }

    /// What counts a portal: once, however often it is executed.
    pub(super) fn take_watch(&mut self, name: &[u8]) -> Option<Watch> {
        let mut watch = self.portals.get_mut(name)?.watch.take()?;
        watch.begins();
        Some(watch)
    }

    /// A portal has what its statement may do.
    pub(super) fn binds_acts(&mut self, portal: &[u8], statement: &[u8]) {
        let Some(statement) = self.statements.get(statement) else { return };
        let acts = statement.acts;
        let text = matches!(acts, Acts::EndsPortals | Acts::Executes);
        let text = text.then(|| Arc::clone(&statement.sql));
        if let Some(portal) = self.portals.get_mut(portal) {
            (portal.acts, portal.text) = (acts, text);
        }
    }

    /// What runs by a text: of an EXECUTE, the statement of the protocol that it names, or that this one
    /// executes in turn. `None`: nobody knows.
    pub(super) fn run_by<'a>(&'a self, sql: &'a [u8]) -> Option<&'a [u8]> {
        let mut sql = sql;
        for _ in 0..EXECUTES_MAX {
            if Acts::of(sql) != Acts::Executes {
                return Some(sql);
            }
            let named = Spelled::of(sql).and_then(|text| text.statements().next()?.name(1));
            let Some(executed) = named.and_then(|name| self.statements.get(&name)) else {
                return Some(sql);
            };
            sql = &executed.sql;
        }
        None
    }

    /// What the statements of a text end that close or declare a name, or end a transaction, in their order.
    pub(super) fn ended_by(&self, sql: &[u8]) -> VecDeque<Ends> {
        let Some(text) = Spelled::of(sql) else { return VecDeque::new() };
        text.statements().filter_map(|statement| self.ended_by_one(statement, 0)).collect()
    }

    fn ended_by_one(&self, statement: Words<'_>, depth: usize) -> Option<Ends> {
        if statement.is(0, &["commit", "end", "rollback", "abort"]) {
            return match () {
                () if statement.says("to") => Some(Ends::None),
                () if statement.says("prepared") => None,
                () => Some(Ends::All),
            };
        }
        if statement.is(0, &["execute"]) && depth < EXECUTES_MAX {
            let executed = self.statements.get(&statement.name(1)?)?;
            let text = Spelled::of(&executed.sql)?;
            let inner = text.statements().next()?;
            return self.ended_by_one(inner, depth + 1);
        }
        if statement.is(0, &["close"]) && statement.is(1, &["all"]) {
            return Some(Ends::All);
        }
        let ends = statement.is(0, &["close", "declare"]);
        statement.name(1).filter(|_| ends).map(Ends::One)
    }

    /// Whether a portal was bound in this group, the last one.
    pub(super) fn has_bound_in(&self, group: u64) -> bool {
        self.bound_in == group
    }

    /// Whether what a portal runs does nothing to the session.
    pub(super) fn is_of_no_effect(&self, portal: &[u8]) -> bool {
        self.portals.get(portal).is_none_or(|portal| portal.effect == Effect::None)
    }

    /// It is sent to be run; returns what to do if the server skips that.
    pub(super) fn portal_has_run(&mut self, name: &[u8], group: u64) -> Option<Ran> {
        let portal = self.portals.get_mut(name)?;
        portal.ran_in = Some(group);
        Some(Ran { name: name.into(), id: portal.id })
    }

    /// The server has skipped it.
    pub(super) fn has_not_run(&mut self, ran: &Ran) {
        if let Some(portal) = self.portals.get_mut(&ran.name).filter(|p| p.id == ran.id) {
            portal.ran_in = None;
        }
    }

    /// Its Close is sent; returns it, should the server skip that.
    pub(super) fn close_portal(&mut self, name: &[u8]) -> Option<Portal> {
        self.portals.take(name)
    }

    /// The Close of a portal was skipped. Gives it back where the name stands for another.
    pub(super) fn reopen(&mut self, name: &[u8], portal: Portal) -> Option<Portal> {
        if self.portals.get(name).is_some() {
            return Some(portal);
        }
        self.portals.put(name, portal)
    }

    /// No transaction is open behind a group: what was bound in it and before it is gone.
    pub(super) fn portals_end(&mut self, answered: u64) {
        if !self.portals.is_empty() {
            self.portals.retain(|portal| portal.bound_in > answered);
        }
    }

    /// A transaction has ended: its portals are gone.
    pub(super) fn end_transaction(&mut self) {
        self.portals.clear();
    }
}
