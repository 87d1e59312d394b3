//! The open transaction and the session's facts, as far as routing has to know.

use crate::proxy::context::Understander;
use crate::routing::{OpenDirty, Routes};
use crate::sql::ident::literal;
use crate::sql::mention::{Spelling, Table};
use crate::sql::statement::{Effect, Isolation, Name};
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
    /// A write of it ran into the lock budget: the rest only record keys.
    budget_spent: bool,
    /// It ran a statement that may change what names mean; a rollback changes it back.
    stateful: bool,
    /// It has recorded dirty keys, not committed yet.
    dirty: Vec<OpenDirty>,
}

/// Whether a transaction block is open, as far as the statements sent say.
#[derive(Debug, Default, Clone)]
pub(super) enum Block {
    /// None: each statement is its own transaction.
    #[default]
    None,
    /// One at this level.
    Open(Isolation, Arc<Start>),
}

/// What a transaction block began under: REPEATABLE READ reads what was there then, so its reads
/// may go to the shadow only if the shadow was as good then.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) routes: Arc<Routes>,
    /// Whether each route's gate was open.
    pub(super) open: Vec<bool>,
}

impl Transaction {
    /// Applies what a statement does when it runs.
    pub(super) fn apply(&mut self, effect: Effect, routes: &Arc<Routes>) {
        match effect {
            Effect::None | Effect::PreparesWrite => {}
            Effect::Begin(level) => self.begin(level, routes),
            Effect::Anything => {
                self.stateful = true;
                self.begin(Isolation::Serializable, routes);
            }
            Effect::SetTransaction(level) => {
                if let Block::Open(open, _) = &mut self.block {
                    *open = level;
                }
            }
            Effect::End => self.block = Block::None,
            Effect::State | Effect::KeepsNames | Effect::Uncovers | Effect::Discard => {
                self.stateful = true;
            }
        }
    }

    fn begin(&mut self, level: Isolation, routes: &Arc<Routes>) {
        let open = routes.routes.iter().map(|r| r.gate.is_open()).collect();
        let start = Start { routes: Arc::clone(routes), open };
        self.block = Block::Open(level, Arc::new(start));
    }

    /// The server says that no transaction is open: what was recorded is committed or gone.
    pub(super) fn is_over(&mut self) {
        self.dirty.clear();
        self.mirrored = 0;
        self.budget_spent = false;
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
        self.mirrored <= MIRRORED_MAX && !self.budget_spent
    }

    pub(super) fn spent_its_budget(&mut self) {
        self.budget_spent = true;
    }

    pub(super) fn has_recorded(&mut self, dirty: OpenDirty) {
        // One is enough to hold the gate; keep the queue short in long transactions.
        if self.dirty.len() < 16 {
            self.dirty.push(dirty);
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
}

impl Facts {
    /// The query that asks: one row of texts.
    pub(super) fn query(understander: &Understander) -> String {
        let mut sql = String::from(
            "SELECT pg_catalog.current_setting('default_transaction_isolation'), \
             pg_catalog.current_setting('search_path'), CURRENT_USER, \
             pg_catalog.current_schemas(true)::pg_catalog.text",
        );
        for target in &understander.targets {
            for name in [&target.source.name, &target.shadow.name] {
                let name = literal(&name.quoted());
                let _infallible = write!(
                    sql,
                    ", pg_catalog.to_regclass({name})::pg_catalog.oid::pg_catalog.text"
                );
            }
            // Policies of the source hide rows from this role: a shadow without any would show them.
            let _infallible = write!(
                sql,
                ", (pg_catalog.has_table_privilege({shadow}::pg_catalog.oid, 'SELECT') AND (pg_catalog.row_security_active({shadow}::pg_catalog.oid) OR NOT pg_catalog.row_security_active({source}::pg_catalog.oid)))::pg_catalog.text",
                shadow = target.shadow_oid,
                source = target.source_oid
            );
            let _infallible = write!(
                sql,
                ", (SELECT c.relpersistence::pg_catalog.text FROM pg_catalog.pg_class AS c WHERE c.oid \
                 OPERATOR(pg_catalog.=) pg_catalog.to_regclass({}))",
                literal(&target.source.name.quoted())
            );
            let parts = target.parts.values().flatten().map(|p| p.oid.to_string());
            let parts = parts.collect::<Vec<_>>().join(",");
            let _infallible = match parts.is_empty() {
                true => write!(sql, ", ''"),
                false => write!(
                    sql,
                    ", (SELECT pg_catalog.string_agg(p::pg_catalog.text, ',') FROM \
                     pg_catalog.unnest('{{{parts}}}'::pg_catalog.oid[]) AS p \
                     WHERE pg_catalog.pg_table_is_visible(p) IS NOT TRUE)"
                ),
            };
        }
        sql
    }

    /// Reads the answer. `None` when it is not one.
    pub(super) fn read(understander: &Understander, row: &[Option<&[u8]>]) -> Option<Self> {
        let text = |i: usize| {
            let value = row.get(i).copied().flatten();
            value.and_then(|v| std::str::from_utf8(v).ok())
        };
        let default_isolation = match text(0)? {
            "read committed" | "read uncommitted" => Isolation::ReadCommitted,
            "repeatable read" => Isolation::RepeatableRead,
            _ => Isolation::Serializable,
        };
        let oid = |i: usize| text(i).and_then(|t| t.parse::<u32>().ok());
        let targets = understander.targets.iter().enumerate().map(|(n, target)| TargetFacts {
            visible: (oid(4 + 5 * n), oid(5 + 5 * n)),
            meant: (target.source_oid, target.shadow_oid),
            may_read_shadow: text(6 + 5 * n) == Some("true"),
            is_temporary: text(7 + 5 * n) == Some("t"),
            hidden: text(8 + 5 * n)
                .map(|list| list.split(',').filter_map(|oid| oid.parse().ok()).collect())
                .unwrap_or_default(),
        });
        Some(Self {
            generation: understander.generation,
            default_isolation,
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

    /// Whether the source's name means a temporary table in this session.
    pub(super) fn is_temporary(&self, target: usize) -> bool {
        self.targets.get(target).is_some_and(|f| f.is_temporary)
    }

    pub(super) fn may_read_shadow(&self, target: usize) -> bool {
        self.targets.get(target).is_some_and(|f| f.may_read_shadow)
    }
}
