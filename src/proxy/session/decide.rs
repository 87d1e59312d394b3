//! Class × route × session → what is sent. One place, no I/O.

use super::Session;
use super::copy::Copied;
use super::expect::Mirrors;
use super::portal::Marks;
use super::prepared::FormKey;
use super::steps::Steps;
use super::transaction::Block;
use crate::manifest::{Scans, Sticky, Unclassified};
use crate::proxy::context::Understander;
use crate::proxy::vet::{Native, Vetted};
use crate::routing::{Mirror, Route, Routes};
use crate::sql::mention::Table;
use crate::sql::read::Fit;
use crate::sql::reason::Reason;
use crate::sql::splice::Spliced;
use crate::sql::statement::{Class, Defined, Effect, Isolation, Name, Statement};
use crate::sql::target::{SyncMode, Target};
use crate::sql::write::{Layout, Modes, Told, Write};
use crate::wire::build::{Report, Severity};
use std::sync::Arc;

/// What is sent for a statement.
#[derive(Debug)]
pub(super) enum Decision {
    /// The client's text; for a query on a migrated table, which one.
    Original(Option<Arc<Route>>),
    /// The mirrored form.
    Mirrored(Arc<Mirrors>, Modes),
    /// The client's text, and these behind it.
    Followed(Arc<Steps>),
    /// The client's text; the keys of its data are read along.
    Copied(Copied),
    /// The form on the shadow.
    Shadow(Arc<Route>, Arc<Native>),
    /// The client's text, after marking these migrations.
    Marked(Marks),
    /// An error.
    Refused(Box<Report>),
}

/// A statement in its surroundings.
#[derive(Clone, Copy)]
pub(super) struct Case<'a> {
    pub(super) routes: &'a Arc<Routes>,
    pub(super) understander: &'a Understander,
    pub(super) text: &'a str,
    pub(super) statement: &'a Statement,
    /// Declared parameter types: count and object ids.
    pub(super) types: &'a [u8],
}

impl Case<'_> {
    pub(super) fn route(&self, target: usize) -> Option<&Arc<Route>> {
        self.routes.routes.get(target)
    }

    /// Whether deciding needs the session's facts: what unqualified names mean, and for queries
    /// who asks in which default isolation.
    pub(super) fn needs_facts(&self) -> bool {
        let concerned = |target: usize| self.route(target).is_some_and(|r| r.mirror != Mirror::Off);
        let unqualified = self.statement.names.iter().any(|n| {
            n.spelling == crate::sql::mention::Spelling::Unqualified && concerned(n.target)
        });
        match &self.statement.class {
            Class::Passthrough
            | Class::Truncate(_)
            | Class::Cascade
            | Class::Prepare(_)
            | Class::Execute(_)
            | Class::Deallocate(_) => false,
            Class::Write(write) => unqualified || self.may_be_blind(write),
            Class::CopyFrom(..) | Class::Ddl(_) | Class::Unclassified(_) => unqualified,
            Class::Read(read) => read.fit.as_ref().is_ok_and(|f| {
                f.targets().any(|t| self.route(t).is_some_and(|r| may_leave_source(r)))
            }),
        }
    }

    /// Whether some role would not see what this writes.
    fn may_be_blind(&self, write: &Write) -> bool {
        let mirrored = |target| self.route(target).filter(|r| r.mirror != Mirror::Off);
        write.feeds().filter_map(|feed| mirrored(feed.name.target)).any(|route| {
            let privileges = &route.target.privileges;
            !privileges.keyless.is_empty() || !privileges.hiding.is_empty()
        })
    }

    /// What the rows of its mirrored form are.
    pub(super) fn layout(&self, key: FormKey) -> Option<Layout> {
        match (&self.statement.class, key) {
            (Class::Write(write), FormKey::Mirrored(_, modes)) => {
                Some(write.layout(&self.understander.targets, modes))
            }
            _ => None,
        }
    }

    /// The routes of the feeds that have a mode.
    pub(super) fn mirrors(&self, write: &Write, modes: Modes) -> Mirrors {
        let mut mirrors = Mirrors::default();
        for (target, told) in write.told(modes) {
            let Some(route) = self.route(target) else { continue };
            let routes = match told {
                Told::InRows => &mut mirrors.in_rows,
                Told::ByNotice => &mut mirrors.by_notice,
            };
            routes.push(Arc::clone(route));
        }
        mirrors
    }

    /// The text of a form of this statement.
    pub(super) fn form(&self, key: FormKey) -> Option<Spliced> {
        let targets = &self.understander.targets;
        match (&self.statement.class, key) {
            (Class::Write(write), FormKey::Mirrored(_, modes)) => {
                Some(write.mirrored(self.text, targets, modes))
            }
            (Class::Read(read), FormKey::Shadow(_)) => {
                let fit = read.fit.as_ref().ok()?;
                let declared =
                    crate::wire::frontend::Parse { name: b"", sql: b"", types: self.types };
                let at = self.statement.at.clone();
                fit.on_shadow(self.text, at, targets, |n| declared.type_of(n))
            }
            _ => {
                let mut same = Spliced::default();
                same.client(self.text, 0..self.text.len());
                Some(same)
            }
        }
    }
}

/// Behind more unanswered frames than these a read is the source's: each would be looked at for each read.
const REPLIES_LOOKED_AT_MAX: usize = 1_000;

/// The shadows that a query may scan.
fn may_scan(case: &Case<'_>, fit: &Fit) -> Box<[u32]> {
    let routes = fit.targets().filter_map(|target| case.route(target));
    routes.filter(|r| r.scans == Scans::Shadow).map(|r| r.target.shadow_oid).collect()
}

fn may_leave_source(route: &Route) -> bool {
    (route.reads > crate::manifest::Percent::ZERO && route.gate.is_open())
        || route.dark_reads > crate::manifest::Percent::ZERO
}

impl Session {
    /// Decides one statement. The session's facts are known, or not needed.
    pub(super) fn decide(&mut self, case: &Case<'_>) -> Decision {
        let unsure = |why| Self::decide_unsure(case, why);
        match &case.statement.class {
            Class::Write(..) | Class::CopyFrom(..) if self.cannot_ask(case) => {
                unsure(Reason::FailedTransaction)
            }
            Class::Unclassified(why) if self.cannot_ask(case) => unsure(*why),
            Class::Passthrough => Self::decide_passed(case),
            Class::Prepare(_) | Class::Deallocate(_) => Decision::Original(None),
            // Where it is known what that is, this has been asked of it.
            Class::Execute(_) => unsure(Reason::ExecuteOfWrite),
            Class::Truncate(truncate) => self.decide_truncate(case, truncate),
            Class::Cascade => Self::decide_cascade(case),
            Class::Write(write) => self.decide_write(case, write),
            Class::CopyFrom(names, copy) => self.decide_copy(case, names, copy),
            Class::Read(read) => {
                let route = self.first_named(case);
                match &read.fit {
                    Ok(fit) => match self.shadow_for(case, fit) {
                        Some((route, native)) => Decision::Shadow(route, native),
                        None => Decision::Original(route),
                    },
                    Err(_) => Decision::Original(route),
                }
            }
            Class::Ddl(changed) => {
                let mut meant = changed.iter().filter(|(t, _)| self.concerns(case, *t));
                let migrated = meant.find_map(|(target, table)| {
                    let route = case.route(*target).filter(|route| route.mirror != Mirror::Off)?;
                    Some((route, *table))
                });
                match migrated {
                    Some((route, table)) => Decision::Refused(Box::new(ddl_refused(route, table))),
                    None => Decision::Original(None),
                }
            }
            Class::Unclassified(why) => self.decide_unclassified(case, *why),
        }
    }

    /// What a statement defines may be used, and be gone again, before the catalog has been looked at: it is
    /// marked in the same transaction. It is none that could be refused.
    fn decide_passed(case: &Case<'_>) -> Decision {
        let Effect::Defines(Defined::Way, targets, _) = case.statement.effect else {
            return Decision::Original(None);
        };
        let routes = case.routes.mirrored_of(|target| targets.has(target));
        match routes.is_empty() {
            true => Decision::Original(None),
            false => Decision::Marked(Marks { routes, why: Reason::Defines }),
        }
    }

    fn first_named(&self, case: &Case<'_>) -> Option<Arc<Route>> {
        let name = case.statement.names.iter().find(|n| self.facts_mean(**n))?;
        case.route(name.target).cloned()
    }

    /// Whether the facts are not good enough to decide by. That a name means another table may
    /// have changed unseen (a function that sets search_path, another session's DROP TABLE), and
    /// believing it would leave a write unmirrored: such an answer is good for one statement.
    pub(super) fn facts_are_stale(&self, case: &Case<'_>) -> bool {
        let Some(facts) = &self.facts else { return true };
        let elsewhere = || case.statement.names.iter().any(|n| !facts.means(*n));
        facts.generation != case.routes.generation || (!facts.is_fresh && elsewhere())
    }

    /// The facts have served their statement.
    pub(super) fn facts_used(&mut self) {
        if let Some(facts) = &mut self.facts {
            facts.is_fresh = false;
        }
    }

    /// Whether the facts are not good enough, and cannot be asked for: a failed transaction answers
    /// nothing. What is not known to end it may.
    fn cannot_ask(&self, case: &Case<'_>) -> bool {
        self.has_failed() && case.needs_facts() && self.facts_are_stale(case)
    }

    pub(super) fn facts_mean(&self, name: crate::sql::statement::Name) -> bool {
        self.facts.as_ref().is_none_or(|f| f.means(name))
    }

    /// The modes that the routes ask for: of the feeds whose table is the source in this session.
    pub(super) fn modes(&self, case: &Case<'_>, write: &Write) -> Modes {
        Self::modes_where(case, write, |name| self.facts_mean(name))
    }

    /// The modes that the routes ask for, of the feeds of these names.
    pub(super) fn modes_where(
        case: &Case<'_>,
        write: &Write,
        is_meant: impl Fn(Name) -> bool,
    ) -> Modes {
        let mut modes = Modes::default();
        for (n, feed) in write.feeds().enumerate() {
            let mirror = case.route(feed.name.target).map(|r| r.mirror);
            if let Some(Mirror::On(mode)) = mirror.filter(|_| is_meant(feed.name)) {
                modes = modes.with(n, mode);
            }
        }
        modes
    }

    /// Whether a query would go to the shadow right now.
    pub(super) fn reads_shadow_now(&mut self, case: &Case<'_>) -> bool {
        let Class::Read(read) = &case.statement.class else { return false };
        let fit = read.fit.as_ref().ok().filter(|_| !self.retry.forces_source());
        fit.is_some_and(|fit| self.shadow_for(case, fit).is_some())
    }

    /// Whether a definition statement is about this migration: it names one of its tables, or, as
    /// for a whole schema, none.
    fn concerns(&self, case: &Case<'_>, target: usize) -> bool {
        case.statement.names.is_empty() || self.names_mean_it(case, target)
    }

    fn names_mean_it(&self, case: &Case<'_>, target: usize) -> bool {
        case.statement.names.iter().any(|n| n.target == target && self.facts_mean(*n))
    }

    /// Whether a target is meant wherever a statement may name it. One text may name the migrated
    /// table with its schema, and a temporary one without: its query is not the shadow's.
    fn all_names_mean_it(&self, case: &Case<'_>, target: usize) -> bool {
        case.statement.names.iter().all(|n| n.target != target || self.facts_mean(*n))
    }

    fn decide_write(&mut self, case: &Case<'_>, write: &Write) -> Decision {
        if let Some(why) = self.is_blind(case, write) {
            return self.decide_unclassified(case, why);
        }
        let mut modes = Modes::default();
        for (n, feed) in write.feeds().enumerate() {
            let Some(route) = case.route(feed.name.target) else { continue };
            let Mirror::On(mode) = route.mirror else { continue };
            if !self.facts_mean(feed.name) {
                continue;
            }
            modes = modes.with(n, self.mode_now(route, mode));
        }
        if modes.is_empty() {
            return Decision::Original(None);
        }
        Decision::Mirrored(Arc::new(case.mirrors(write, modes)), modes)
    }

    /// Why the role may not see what it writes, and the server would refuse the mirrored form.
    fn is_blind(&self, case: &Case<'_>, write: &Write) -> Option<Reason> {
        let facts = self.facts.as_ref()?;
        let mirrored = |target| case.route(target).is_some_and(|r| r.mirror != Mirror::Off);
        let meant = |name: Name| mirrored(name.target) && facts.means(name);
        write.written().filter(|w| meant(w.name)).find_map(|w| facts.is_blind(w))
    }

    /// The mode of one more call of a guarded function.
    pub(super) fn mode_now(&mut self, route: &Arc<Route>, mode: SyncMode) -> SyncMode {
        if self.transaction.may_sync() && !route.gate.is_record_only() {
            return mode;
        }
        // What it will answer is known: its keys are dirty from here on.
        self.transaction.has_recorded(route.gate.dirty_in_transaction(), self.groups);
        SyncMode::RecordOnly
    }

    fn decide_unclassified(&self, case: &Case<'_>, why: Reason) -> Decision {
        Self::decide_named(case, why, |target| self.names_mean_it(case, target))
    }

    /// As for a statement that is not understood, where it is not known what names mean.
    pub(super) fn decide_unsure(case: &Case<'_>, why: Reason) -> Decision {
        let spelled = |target| case.statement.names.iter().any(|n| n.target == target);
        Self::decide_named(case, why, spelled)
    }

    fn decide_named(case: &Case<'_>, why: Reason, means: impl Fn(usize) -> bool) -> Decision {
        let named = |target: usize| case.statement.names.is_empty() || means(target);
        mark_or_refuse(case.routes.mirrored_of(named), why)
    }

    /// The route by which the shadow may answer a query now, or `None`: the source does.
    fn shadow_for(&mut self, case: &Case<'_>, fit: &Fit) -> Option<(Arc<Route>, Arc<Native>)> {
        self.draws = self.draws.wrapping_add(1);
        if self.transaction.sees_source_alone() || !self.may_begin_retry() {
            return None;
        }
        // A write that is not answered yet may turn out to have recorded dirty keys. While another
        // statement waits, another session may record some, and be told that it has committed them:
        // what is read behind that is as new as they are.
        let few = self.replies.len() <= REPLIES_LOOKED_AT_MAX;
        if !few || self.replies.iter().any(super::expect::Expect::may_wait) {
            return None;
        }
        for target in fit.targets() {
            let route = case.route(target)?;
            let served = route.reads.covers(self.sticky_draw(route.sticky));
            if !served || !route.gate.is_open() || !self.level_allows(case, target) {
                return None;
            }
            let facts = self.facts.as_ref()?;
            if !facts.may_read_shadow(target) || !self.all_names_mean_it(case, target) {
                return None;
            }
        }
        let route = case.route(fit.targets().next()?)?;
        let native = self.vetted(case, fit)?;
        Some((Arc::clone(route), native))
    }

    /// READ COMMITTED decides per statement. REPEATABLE READ sees what was there at its first:
    /// the shadow must have been as good then ([`super::transaction::Start`]). SERIALIZABLE reads the source always: a conflict
    /// that a failed mirror swallowed would not be detected on the shadow.
    fn level_allows(&self, case: &Case<'_>, target: usize) -> bool {
        let default = self.facts.as_ref().map_or(Isolation::Serializable, |f| f.default_isolation);
        let (level, start) = match &self.transaction.block {
            Block::None => (default, None),
            Block::Open(levels, start) => (levels.strictest(default), Some(start)),
        };
        match (level, start) {
            (Isolation::ReadCommitted, _) => true,
            // Alone in its transaction: its snapshot is yet to be taken.
            (Isolation::RepeatableRead, None) => {
                self.replies.is_empty() && !self.transaction.may_have_snapshot()
            }
            (Isolation::RepeatableRead, Some(start)) => {
                let then = start.routes.routes.get(target);
                let same = start.routes.generation == case.routes.generation;
                same && self.transaction.sees_the_same(target)
                    && then.is_some_and(|r| r.reads.covers(self.sticky_draw(r.sticky)))
            }
            (Isolation::Default | Isolation::Serializable, _) => false,
        }
    }

    fn sticky_draw(&self, sticky: Sticky) -> u16 {
        match sticky {
            Sticky::Session => Self::draw(self.flight.session_id()),
            Sticky::Statement => Self::draw((self.flight.session_id(), self.draws)),
            Sticky::ApplicationName => Self::draw(&self.parameters.application_name),
            Sticky::User => Self::draw(&self.parameters.user),
        }
    }

    /// The source's description of a query whose shadow form is known to answer the same; the
    /// first look at a query only starts the vetting.
    pub(super) fn vetted(&self, case: &Case<'_>, fit: &Fit) -> Option<Arc<Native>> {
        let Class::Read(read) = &case.statement.class else { return None };
        let facts = self.facts.as_ref()?;
        let query = crate::proxy::vet::Query {
            generation: case.routes.generation,
            database: &self.parameters.database,
            user: &facts.user,
            search_path: &facts.search_path,
            text: case.text.get(case.statement.at.clone())?,
            fingerprint: &read.fingerprint,
            types: case.types,
            leans_on: &fit.leans_on,
            may_scan: may_scan(case, fit),
        };
        let targets = || fit.targets().filter_map(|t| case.route(t)).map(|r| Arc::clone(&r.target));
        let shadow =
            || case.form(FormKey::Shadow(case.routes.generation)).map(|s| s.text().to_owned());
        match self.context.vetting.look(query, shadow, || targets().collect()) {
            Vetted::Fit(native) => Some(native),
            Vetted::Unfit | Vetted::Unknown => None,
        }
    }

    /// Whether a comparison of this query is to be made, by the share of dark reads.
    pub(super) fn dark_read_of(&mut self, case: &Case<'_>) -> Option<Arc<Native>> {
        let Class::Read(read) = &case.statement.class else { return None };
        let fit = read.fit.as_ref().ok().filter(|f| f.comparable.is_ok())?;
        let target = fit.targets().next()?;
        let share = case.route(target)?.dark_reads;
        self.draws = self.draws.wrapping_add(1);
        let drawn = Self::draw((self.flight.session_id(), self.draws, "dark"));
        let alone =
            matches!(self.transaction.block, Block::None) && !self.transaction.has_written();
        let known = self.facts.is_some() && self.all_names_mean_it(case, target);
        // While a key is dirty, a difference is no news.
        let open = fit.targets().all(|t| case.route(t).is_some_and(|r| r.gate.is_open()));
        if !share.covers(drawn) || !alone || !known || !open {
            return None;
        }
        self.vetted(case, fit).filter(|n| n.incomparable.is_none())
    }
}

/// What the policy says about a statement that may change these migrations unseen.
pub(super) fn mark_or_refuse(routes: Vec<Arc<Route>>, why: Reason) -> Decision {
    match routes.iter().find(|r| r.unclassified == Unclassified::Refuse) {
        _ if routes.is_empty() => Decision::Original(None),
        Some(route) => Decision::Refused(Box::new(Report {
            severity: Severity::Error,
            code: "0A000",
            message: format!(
                "this statement on \"{}\" cannot be mirrored: {why}",
                route.target.source
            ),
            hint: format!(
                "The table is being migrated ({}) with unclassified = \"refuse\". What helps: {}; \
                 or set unclassified = \"record\".",
                route.target.migration,
                why.way_out()
            ),
        })),
        None => Decision::Marked(Marks { routes, why }),
    }
}

fn ddl_refused(route: &Route, table: Table) -> Report {
    let Target { source, shadow, .. } = &*route.target;
    Report {
        severity: Severity::Error,
        code: "55006",
        message: match table {
            Table::Shadow => {
                format!("\"{shadow}\" is the shadow of \"{source}\", which is being migrated")
            }
            Table::Source | Table::Part(_) | Table::Through => {
                format!("\"{source}\" is being migrated")
            }
        },
        hint: format!(
            "Finish the migration first, or abort it: pgsegue migration abort {}.",
            route.target.migration
        ),
    }
}
