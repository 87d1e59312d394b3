//! The open transaction and the session's facts, as far as routing has to know.

use crate::proxy::context::Understander;
use crate::routing::{GateTicket, KeptClosed, Mirror, Routes, Unlooked};
use crate::sql::ident::literal;
use crate::sql::mention::{Spelling, Table};
use crate::sql::reason::Reason;
use crate::sql::statement::{Defined, Effect, Isolation, Name, Targets};
use crate::sql::target::Target;
use crate::sql::write::{Returns, Written};
use std::fmt::Write as _;
use std::sync::Arc;

/// Guarded calls of one transaction before its writes only record keys: each is a
/// subtransaction, and beyond 64 of them every snapshot of the server gets slow.
const MIRRORED_MAX: u32 = 60;

/// The open transaction; between transactions, the next one.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    pub(super) block: Block,
    /// Mirrored statements so far.
    mirrored: u32,
    /// A write of it ran into the lock budget, or there may be no subtransaction: the rest only record keys.
    /// In which group that was, at the latest.
    budget_spent: Option<u64>,
    /// It ran a statement that may change what names mean; a rollback changes it back.
    stateful: bool,
    /// It has recorded dirty keys, not committed yet: in which group, at the latest.
    dirty: Vec<(u64, KeptClosed)>,
    /// It has defined other names for the tables of these gates: at most two of each.
    defined: Vec<KeptClosed>,
    sight: Sight,
    /// The blocks begun since nothing was in flight.
    begun: u64,
}

/// What the open transaction sees of the migrated tables and their shadows.
#[derive(Debug, Default)]
enum Sight {
    /// Nothing is known of its snapshot, if it has one.
    #[default]
    Unknown,
    /// A statement of it has been answered: it has a snapshot, if it has one for all its statements.
    /// Of each route, whether the two tables are the same in it.
    Snapshot(Vec<bool>),
    /// Only the source shows it what it is to see: it has defined something by which a migrated table may
    /// be written, which nobody else knows yet; or it may have a level of its own though it is no block.
    Source,
}

/// Whether a transaction block is open, as far as the statements sent say.
#[derive(Debug, Default, Clone)]
pub(super) enum Block {
    /// None: each statement is its own transaction.
    #[default]
    None,
    /// One at one of these levels.
    Open(Levels, Arc<Start>),
}

/// The levels that a block may be at: more than one where a SET TRANSACTION may have failed, or been undone
/// with its savepoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Levels(u8);

impl Levels {
    fn only(level: Isolation) -> Self {
        Self(1 << level as u8)
    }

    fn has(self, level: Isolation) -> bool {
        self.0 & Self::only(level).0 != 0
    }

    fn or(self, level: Isolation) -> Self {
        Self(self.0 | Self::only(level).0)
    }

    /// The same where the default has become known.
    fn where_default_is(self, level: Isolation) -> Self {
        match self.has(Isolation::Default) {
            true => Self(self.0 & !Self::only(Isolation::Default).0).or(level),
            false => self,
        }
    }

    /// The one that asks the most, by the session's default. What is done for it is right for the others.
    pub(super) fn strictest(self, default: Isolation) -> Isolation {
        let known = self.where_default_is(default);
        let order = [Isolation::Serializable, Isolation::RepeatableRead, Isolation::ReadCommitted];
        order.into_iter().find(|level| known.has(*level)).unwrap_or(Isolation::Serializable)
    }
}

/// What a transaction block began under.
///
/// REPEATABLE READ reads what was there when the first of its statements began that reads or writes,
/// whichever that is. Of that the shadow is as good as the source if no key was dirty from the
/// beginning of the block until a statement that certainly had its snapshot was answered: whoever
/// commits a dirty key has closed the gate before. So the first read goes to the source, and the shadow
/// serves those behind it if the gate was open all the while.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) routes: Arc<Routes>,
    /// Of each route whose gate was open: what closing it makes void.
    tickets: Vec<Option<GateTicket>>,
}

impl Transaction {
    /// Applies what a statement does when it runs.
    pub(super) fn apply(&mut self, effect: Effect, routes: &Arc<Routes>) {
        match effect {
            Effect::None | Effect::PreparesWrite => {}
            Effect::Begin(level) => self.begin(level, routes),
            Effect::Anything | Effect::Renames => {
                self.stateful = true;
                self.begin(Isolation::Serializable, routes);
            }
            Effect::SetTransaction(level) => {
                match &mut self.block {
                    Block::Open(levels, _) => *levels = levels.or(level),
                    // The server gives a warning, and those behind it in its group have that level.
                    Block::None => self.sight = Sight::Source,
                }
            }
            Effect::End => {
                self.block = Block::None;
                self.sight = Sight::Unknown;
            }
            Effect::Defines(defined, targets, _) => {
                self.stateful = true;
                self.sight = Sight::Source;
                self.defines(defined, targets, routes);
            }
            Effect::State | Effect::KeepsNames | Effect::Uncovers | Effect::Discard => {
                self.stateful = true;
            }
        }
    }

    /// Whatever is in flight, the gates stay closed until all of it has been answered and no transaction
    /// is open, and the engine has looked at the catalog behind that.
    fn defines(&mut self, defined: Defined, targets: Targets, routes: &Routes) {
        let leaves = match defined {
            Defined::Part => Unlooked::Part,
            Defined::Way => Unlooked::Way,
        };
        let routes = routes.routes.iter().enumerate().filter(|(target, _)| targets.has(*target));
        for (_, route) in routes.filter(|(_, route)| route.mirror != Mirror::Off) {
            if !self.defined.iter().any(|guard| guard.covers(&route.gate, leaves)) {
                self.defined.push(route.gate.defined_in_transaction(leaves));
            }
        }
    }

    /// A block that is open already stays open, and what is known of its beginning holds: the server gives
    /// a warning. By AND CHAIN another begins, of which that is true as well: it began no earlier.
    fn begin(&mut self, level: Isolation, routes: &Arc<Routes>) {
        self.begun += 1;
        if let Block::Open(levels, _) = &mut self.block {
            if *levels != Levels::only(level) {
                *levels = Levels::only(Isolation::Serializable);
            }
            if !matches!(self.sight, Sight::Source) {
                self.sight = Sight::Unknown;
            }
            return;
        }
        // It goes on with the level of the statements before it in its group.
        let level = match self.sight {
            Sight::Source => Isolation::Serializable,
            Sight::Unknown | Sight::Snapshot(_) => level,
        };
        let tickets = routes.routes.iter().map(|r| {
            let ticket = r.gate.ticket();
            r.gate.is_open().then_some(ticket)
        });
        let start = Start { routes: Arc::clone(routes), tickets: tickets.collect() };
        self.block = Block::Open(Levels::only(level), Arc::new(start));
        // It goes on with the snapshot of the statements before it in its group, too.
        self.sight = match self.sight {
            Sight::Snapshot(_) => Sight::Snapshot(Vec::new()),
            Sight::Unknown | Sight::Source => Sight::Unknown,
        };
    }

    /// Statements of it were skipped, which may have ended it, begun it or set its level.
    pub(super) fn is_unsure(&mut self) {
        if let Block::Open(levels, _) = &mut self.block {
            *levels = levels.or(Isolation::Serializable);
        }
    }

    /// The server has said the level of the open block: what is the default now may not have been when it
    /// began.
    pub(super) fn is_at_level(&mut self, level: Isolation) {
        if let Block::Open(levels, _) = &mut self.block {
            *levels = levels.where_default_is(level);
        }
    }

    /// A statement that is none of a block is parsed, bound or executed; those behind it in its group share
    /// its snapshot, if there is one for all.
    pub(super) fn takes_snapshot(&mut self) {
        if matches!((&self.block, &self.sight), (Block::None, Sight::Unknown)) {
            self.sight = Sight::Snapshot(Vec::new());
        }
    }

    /// How many blocks were begun before the statement at hand.
    pub(super) fn begun(&self) -> u64 {
        self.begun
    }

    /// A read that was sent behind so many has been answered by the source: from here on there is a
    /// snapshot, unless another block has been begun meanwhile.
    pub(super) fn has_read(&mut self, begun: u64) {
        if begun != self.begun {
            return;
        }
        if let (Block::Open(_, start), Sight::Unknown) = (&self.block, &self.sight) {
            let tickets = start.tickets.iter().zip(&start.routes.routes);
            let same = tickets.map(|(ticket, route)| *ticket == Some(route.gate.ticket()));
            self.sight = Sight::Snapshot(same.collect());
        }
    }

    /// Whether a snapshot for all its statements may have been taken before the next.
    pub(super) fn may_have_snapshot(&self) -> bool {
        !matches!(self.sight, Sight::Unknown)
    }

    /// Whether source and shadow are known to be the same in its snapshot.
    pub(super) fn sees_the_same(&self, target: usize) -> bool {
        match &self.sight {
            Sight::Snapshot(same) => same.get(target) == Some(&true),
            Sight::Unknown | Sight::Source => false,
        }
    }

    /// Whether only the source shows it what it is to see.
    pub(super) fn sees_source_alone(&self) -> bool {
        matches!(self.sight, Sight::Source)
    }

    /// The server says that no transaction is open behind a group: what was recorded in it and before it is
    /// committed or gone. What was sent behind it is in flight.
    pub(super) fn is_over(&mut self, answered: u64) {
        self.dirty.retain(|(group, _)| *group > answered);
        self.mirrored = 0;
        self.budget_spent = self.budget_spent.filter(|group| *group > answered);
    }

    /// The server says that no transaction is open and nothing is in flight. Returns whether the
    /// transaction may have changed what names mean.
    pub(super) fn ended(&mut self) -> bool {
        let stateful = self.stateful;
        *self = Self::default();
        stateful
    }

    /// Whether its end may change what names mean.
    pub(super) fn is_stateful(&self) -> bool {
        self.stateful
    }

    /// The server says that a block is open; if no statement seen has opened it, nothing is known
    /// of it.
    pub(super) fn is_open(&mut self, routes: &Arc<Routes>) {
        if matches!(self.block, Block::None) {
            self.apply(Effect::Begin(Isolation::Serializable), routes);
        }
    }

    /// One more mirrored write; whether it may still call the sync function in full.
    pub(super) fn may_sync(&mut self) -> bool {
        self.mirrored += 1;
        self.mirrored <= MIRRORED_MAX && self.budget_spent.is_none()
    }

    pub(super) fn spent_its_budget(&mut self, group: u64) {
        self.budget_spent = self.budget_spent.max(Some(group));
    }

    pub(super) fn has_recorded(&mut self, dirty: KeptClosed, group: u64) {
        // One holds its gate to the end, however long the transaction is: of each gate, the first.
        match self.dirty.iter_mut().find(|(_, held)| held.is_of_the_gate_of(&dirty)) {
            Some((last, _)) => *last = group.max(*last),
            None => self.dirty.push((group, dirty)),
        }
    }

    pub(super) fn has_written(&self) -> bool {
        self.mirrored > 0 || !self.dirty.is_empty()
    }
}

/// What the server said about this session when asked.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) generation: u64,
    pub(super) default_isolation: Isolation,
    /// Of the transaction that it was asked in.
    pub(super) isolation: Isolation,
    pub(super) search_path: Arc<str>,
    /// The schemas that names are looked up in, as the server has made them of it.
    pub(super) path: Arc<str>,
    pub(super) user: Arc<str>,
    targets: Vec<TargetFacts>,
    /// Asked for the statement at hand, not an earlier one.
    pub(super) is_fresh: bool,
}

#[derive(Debug, Clone)]
struct TargetFacts {
    /// What the unqualified names of source and shadow mean: object ids, if anything.
    visible: (Option<u32>, Option<u32>),
    /// Those of the migrated tables.
    meant: (u32, u32),
    may_read_shadow: bool,
    /// What the unqualified name of the source means is a temporary table.
    is_temporary: bool,
    /// The parts of the source whose unqualified names mean something else.
    hidden: Vec<u32>,
    /// The tables of the source whose key this role may not read.
    keyless: Vec<u32>,
    /// The tables of the source whose policies may hide from this role what it writes.
    filtered: Vec<u32>,
}

/// Columns of the answer: those of the session, and those of each target.
const OF_SESSION: usize = 5;
const PER_TARGET: usize = 7;

impl Facts {
    /// The query that asks: one row of texts.
    pub(super) fn query(understander: &Understander) -> String {
        let mut sql = String::from(
            "SELECT pg_catalog.current_setting('default_transaction_isolation'), \
             pg_catalog.current_setting('search_path'), CURRENT_USER, \
             pg_catalog.current_schemas(true)::pg_catalog.text, \
             pg_catalog.current_setting('transaction_isolation')",
        );
        for target in &understander.targets {
            for name in [&target.source.name, &target.shadow.name] {
                let name = literal(&name.quoted());
                let _infallible = write!(
                    sql,
                    ", pg_catalog.to_regclass({name})::pg_catalog.oid::pg_catalog.text"
                );
            }
            // What it may not read of the source it is not to have from the shadow. Policies of the source
            // hide rows from this role: a shadow without any would show them.
            let _infallible = write!(
                sql,
                ", (pg_catalog.has_table_privilege({shadow}::pg_catalog.oid, 'SELECT') AND pg_catalog.has_table_privilege({source}::pg_catalog.oid, 'SELECT') AND (pg_catalog.row_security_active({shadow}::pg_catalog.oid) OR NOT pg_catalog.row_security_active({source}::pg_catalog.oid)))::pg_catalog.text",
                shadow = target.shadow_oid,
                source = target.source_oid
            );
            let _infallible = write!(
                sql,
                ", (SELECT c.relpersistence::pg_catalog.text FROM pg_catalog.pg_class AS c WHERE c.oid \
                 OPERATOR(pg_catalog.=) pg_catalog.to_regclass({}))",
                literal(&target.source.name.quoted())
            );
            let parts: Vec<u32> = target.parts.values().flatten().map(|part| part.oid).collect();
            let hidden = those(&parts, "pg_catalog.pg_table_is_visible(t) IS NOT TRUE");
            let _infallible = write!(sql, ", {hidden}, {}, {}", keyless(target), filtered(target));
        }
        sql
    }

    /// Reads the answer. `None` when it is not one.
    pub(super) fn read(understander: &Understander, row: &[Option<&[u8]>]) -> Option<Self> {
        let text = |i: usize| {
            let value = row.get(i).copied().flatten();
            value.and_then(|v| std::str::from_utf8(v).ok())
        };
        let level = |i: usize| {
            Some(match text(i)? {
                "read committed" | "read uncommitted" => Isolation::ReadCommitted,
                "repeatable read" => Isolation::RepeatableRead,
                _ => Isolation::Serializable,
            })
        };
        let oid = |i: usize| text(i).and_then(|t| t.parse::<u32>().ok());
        let oids = |i: usize| {
            let list = text(i).unwrap_or_default();
            list.split(',').filter_map(|oid| oid.parse().ok()).collect::<Vec<u32>>()
        };
        let targets = understander.targets.iter().enumerate().map(|(n, target)| {
            let at = OF_SESSION + PER_TARGET * n;
            TargetFacts {
                visible: (oid(at), oid(at + 1)),
                meant: (target.source_oid, target.shadow_oid),
                may_read_shadow: text(at + 2) == Some("true"),
                is_temporary: text(at + 3) == Some("t"),
                hidden: oids(at + 4),
                keyless: oids(at + 5),
                filtered: oids(at + 6),
            }
        });
        Some(Self {
            generation: understander.generation,
            default_isolation: level(0)?,
            isolation: level(4)?,
            search_path: text(1)?.into(),
            user: text(2)?.into(),
            path: text(3)?.into(),
            targets: targets.collect(),
            is_fresh: true,
        })
    }

    /// Whether a name means the migrated table in this session.
    pub(super) fn means(&self, name: Name) -> bool {
        let facts = self.targets.get(name.target);
        match (name.spelling, name.table) {
            (Spelling::Qualified, _) | (_, Table::Through) => true,
            (Spelling::Unqualified, Table::Source) => {
                facts.is_none_or(|f| f.visible.0 == Some(f.meant.0))
            }
            (Spelling::Unqualified, Table::Shadow) => {
                facts.is_none_or(|f| f.visible.1 == Some(f.meant.1))
            }
            (Spelling::Unqualified, Table::Part(oid)) => {
                facts.is_none_or(|f| !f.hidden.contains(&oid))
            }
        }
    }

    /// Whether a name means nothing at all in this session.
    pub(super) fn mean_nothing(&self, name: Name) -> bool {
        let is_bare = name.spelling == Spelling::Unqualified && name.table == Table::Source;
        is_bare && self.targets.get(name.target).is_some_and(|f| f.visible.0.is_none())
    }

    /// Why this role may not have the key returned of what it writes to a table.
    pub(super) fn is_blind(&self, written: Written) -> Option<Reason> {
        let facts = self.targets.get(written.name.target)?;
        let table = match written.name.table {
            Table::Source => facts.meant.0,
            Table::Part(oid) => oid,
            Table::Shadow | Table::Through => return None,
        };
        match written.returns {
            _ if facts.keyless.contains(&table) => Some(Reason::KeyUnread),
            Returns::Nothing if facts.filtered.contains(&table) => Some(Reason::RowHidden),
            Returns::Nothing | Returns::Rows => None,
        }
    }

    /// Whether the source's name means a temporary table in this session.
    pub(super) fn is_temporary(&self, target: usize) -> bool {
        self.targets.get(target).is_some_and(|f| f.is_temporary)
    }

    pub(super) fn may_read_shadow(&self, target: usize) -> bool {
        self.targets.get(target).is_some_and(|f| f.may_read_shadow)
    }
}

/// The tables whose key the role may not read, of those of which that may be so.
fn keyless(target: &Target) -> String {
    let key = target.key.iter().map(|column| literal(column.as_str())).collect::<Vec<_>>();
    let condition = format!(
        "EXISTS (SELECT FROM pg_catalog.pg_attribute AS a WHERE a.attrelid OPERATOR(pg_catalog.=) t \
         AND a.attname OPERATOR(pg_catalog.=) ANY (ARRAY[{}]::pg_catalog.name[]) \
         AND NOT pg_catalog.has_column_privilege(t, a.attnum, 'SELECT'))",
        key.join(", ")
    );
    those(&target.privileges.keyless, &condition)
}

/// The tables whose policies hold for the role, of those whose policies may hide what it writes.
fn filtered(target: &Target) -> String {
    those(&target.privileges.hiding, "pg_catalog.row_security_active(t)")
}

/// The object ids for which a condition over `t` holds.
fn those(oids: &[u32], condition: &str) -> String {
    if oids.is_empty() {
        return "''".to_owned();
    }
    let oids = oids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    format!(
        "(SELECT pg_catalog.string_agg(t::pg_catalog.text, ',') FROM \
         pg_catalog.unnest('{{{oids}}}'::pg_catalog.oid[]) AS t WHERE {condition})"
    )
}
