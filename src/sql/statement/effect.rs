//! What a statement does to the session: whether it begins or ends a transaction, and whether it may
//! change what names mean.
//!
//! A name is looked up by search_path, by the role that `"$user"` in it stands for, and by which tables,
//! views and schemas there are. A relation that cannot be written is of no interest: if a migrated
//! table's name comes to mean one, a write of it fails, mirrored or not.

use super::{Defined, Effect, Isolation, Keeps, Reader, Targets};
use crate::sql::body::Spelled;
use crate::sql::cursor::Cursor;
use crate::sql::lex::{Token, identifier, is_keyword, spells};
use crate::sql::prepare::{self, Deallocate};
use crate::sql::statement::main_verb;
use crate::sql::target::Target;

/// Settings that decide what names mean, SET SCHEMA and SESSION AUTHORIZATION among them, and ALL.
const NAMING: [&str; 7] =
    ["search_path", "role", "session_authorization", "schema", "session", "authorization", "all"];

/// Kinds of what CREATE makes that is nothing to be written.
const UNWRITTEN: [&str; 24] = [
    "aggregate",
    "cast",
    "collation",
    "database",
    "domain",
    "function",
    "group",
    "index",
    "materialized",
    "operator",
    "policy",
    "procedure",
    "publication",
    "role",
    "rule",
    "sequence",
    "server",
    "statistics",
    "subscription",
    "tablespace",
    "text",
    "trigger",
    "type",
    "user",
];

/// Kinds of what ALTER changes that have names of tables, or none that matters.
const ALTERED: [&str; 12] = [
    "aggregate",
    "default",
    "domain",
    "foreign",
    "function",
    "index",
    "materialized",
    "policy",
    "procedure",
    "sequence",
    "table",
    "view",
];

/// Whether a text has the words of what drops prepared statements.
pub fn drops_names(sql: &[u8]) -> bool {
    spells(sql, "deallocate") || spells(sql, "discard")
}

impl Reader<'_> {
    pub(super) fn effect(&self, word: &str) -> Effect {
        match word {
            "begin" | "start" => Effect::Begin(self.isolation()),
            "commit" | "end" | "rollback" | "abort" => self.ending(),
            "deallocate" if self.deallocates_one() => Effect::None,
            "discard" | "deallocate" => Effect::Discard,
            "do" if self.spells_a_drop() => Effect::Renames,
            "do" | "call" | "execute" | "import" | "load" => Effect::State,
            "prepare" if self.behind_first().is("transaction") => Effect::End,
            "prepare" if self.prepares_write() => Effect::PreparesWrite,
            // What it executes may do anything.
            "explain" if self.says("execute") => Effect::State,
            _ if self.sets_config() => Effect::State,
            "set" => self.set(),
            "reset" => self.setting(self.behind_first()),
            "create" => self.create(),
            "alter" => self.alter(),
            "drop" => self.drops(),
            _ => self.select_into(),
        }
    }

    fn deallocates_one(&self) -> bool {
        matches!(prepare::deallocate(self.text, self.tokens), Some(Deallocate::One(_)))
    }

    /// Whether code drops prepared statements, as far as it says so.
    fn spells_a_drop(&self) -> bool {
        let spells = |sql: &str| drops_names(sql.as_bytes());
        self.tokens.iter().any(|token| self.text.get(token.at.clone()).is_some_and(spells))
    }

    fn says(&self, word: &str) -> bool {
        self.tokens.iter().any(|t| is_keyword(self.text, t, word))
    }

    fn behind_first(&self) -> Cursor<'_> {
        let mut c = self.cursor();
        c.skip();
        c
    }

    fn ending(&self) -> Effect {
        let mut c = self.cursor();
        c.skip();
        let _either = c.eat("work") || c.eat("transaction");
        if c.eat("to") {
            // A SET or a temporary table since the savepoint is undone.
            return Effect::State;
        }
        if c.eat("and") && !c.is("no") {
            // AND CHAIN begins the next transaction at once, at the same level.
            return Effect::Begin(Isolation::Serializable);
        }
        // COMMIT PREPARED, ROLLBACK PREPARED end none.
        if c.is("prepared") { Effect::None } else { Effect::End }
    }

    fn set(&self) -> Effect {
        let mut c = self.behind_first();
        let _either = c.eat("local") || c.eat("session");
        if c.is("transaction") && c.find_top("isolation").is_some() {
            return Effect::SetTransaction(self.isolation());
        }
        if c.is("transaction") && c.then_is("snapshot") {
            // Another transaction's: nothing is known of what it was taken under.
            return Effect::SetTransaction(Isolation::Serializable);
        }
        if c.is("transaction") || c.is("constraints") { Effect::None } else { self.setting(c) }
    }

    /// SET or RESET of what comes next.
    fn setting(&self, mut c: Cursor<'_>) -> Effect {
        if c.is("session") && c.then_is("characteristics") {
            return Effect::KeepsNames;
        }
        // Names of settings are the same in every case, quoted or not.
        let names = |name: &String| NAMING.iter().any(|n| name.eq_ignore_ascii_case(n));
        match c.name() {
            Some(name) if name.eq_ignore_ascii_case("transaction_isolation") => {
                Effect::SetTransaction(Isolation::Serializable)
            }
            Some(name) if !names(&name) => Effect::KeepsNames,
            _ => Effect::State,
        }
    }

    fn create(&self) -> Effect {
        defining(self.defined(), self.creates())
    }

    fn creates(&self) -> Effect {
        let mut c = self.behind_first();
        if c.eat("or") {
            c.eat("replace");
        }
        for word in ["global", "local", "temp", "temporary", "unlogged", "unique", "constraint"] {
            c.eat(word);
        }
        for word in ["event", "recursive", "foreign"] {
            c.eat(word);
        }
        if c.eat("table") || c.eat("view") {
            if c.eat("if") {
                c.eat("not");
                c.eat("exists");
            }
            let created = c.qualified_name();
            // What a name stands for may do anything.
            return match created {
                Some((name, _)) if !self.is_migrated(&name) && !self.says("execute") => {
                    Effect::KeepsNames
                }
                _ => Effect::State,
            };
        }
        let keeps = UNWRITTEN.iter().any(|kind| c.is(kind))
            || (c.is("schema") && !self.has_migrated_name());
        if keeps { Effect::KeepsNames } else { Effect::State }
    }

    /// What it defines that may write a migrated table, or hold its rows, under another name, where it
    /// spells that table's, if only in a body.
    fn defined(&self) -> Option<(Defined, Targets)> {
        let says = |words: &[&str]| words.iter().any(|word| self.says(word));
        let way = says(&["view", "function", "procedure", "rule", "trigger"]);
        let part = says(&["table"]) && says(&["partition", "inherits"]);
        let defined = match () {
            () if way => Defined::Way,
            () if part => Defined::Part,
            () => return None,
        };
        let named = self.spelled(|target, says| {
            let ways = &self.functions.ways;
            target.names().any(says) || way && ways.has_one(&target.migration, says)
        })?;
        Some((defined, named))
    }

    /// The targets for which this holds of what the statement spells; `None` if there is none.
    fn spelled(&self, holds: impl Fn(&Target, &dyn Fn(&str) -> bool) -> bool) -> Option<Targets> {
        let sql = self.text.get(self.tokens.first()?.at.start..self.tokens.last()?.at.end)?;
        let spelled = Spelled::of(sql);
        let says = |name: &str| spelled.has(name);
        let targets = self.targets.iter().enumerate();
        let named = targets.filter(|(_, target)| holds(target, &says));
        let named = named.fold(Targets::default(), |all, (index, _)| all.with(index));
        (named != Targets::default()).then_some(named)
    }

    fn alter(&self) -> Effect {
        let c = self.behind_first();
        let renames = self.says("rename") || self.says("schema");
        let moves = renames && self.has_migrated_name();
        if c.is("type") {
            // What a value of it is called, and which attributes it has, may be another: of whichever
            // table's columns.
            let all = (0..self.targets.len()).fold(Targets::default(), Targets::with);
            let keeps = if moves { Keeps::Nothing } else { Keeps::Names };
            return Effect::Defines(Defined::Part, all, keeps);
        }
        let ways = &self.functions.ways;
        let renamed =
            |target: &Target, says: &dyn Fn(&str) -> bool| ways.has_one(&target.migration, says);
        // It may be used by its other name, and have its own again, before that is known.
        let targets = renames.then(|| self.spelled(renamed)).flatten();
        let keeps = ALTERED.iter().any(|kind| c.is(kind)) && !moves;
        let effect = if keeps { Effect::KeepsNames } else { Effect::State };
        defining(targets.map(|targets| (Defined::Way, targets)), effect)
    }

    /// DROP takes away what may have hidden a migrated table. DROP OWNED takes privileges, too: then a
    /// schema is looked at no more.
    fn drops(&self) -> Effect {
        if self.behind_first().is("owned") { Effect::State } else { Effect::Uncovers }
    }

    /// SELECT … INTO, which may be a temporary table of a migrated table's name.
    fn select_into(&self) -> Effect {
        let mut c = self.cursor();
        c.at = main_verb(self.text, self.tokens).unwrap_or(0);
        let into = c.is("select").then(|| c.find_top("into")).flatten();
        let Some(into) = into else { return Effect::None };
        c.at = into + 1;
        for word in ["local", "global", "temp", "temporary", "unlogged", "table"] {
            c.eat(word);
        }
        match c.qualified_name() {
            Some((name, _)) if !self.is_migrated(&name) => Effect::KeepsNames,
            _ => Effect::State,
        }
    }

    fn is_migrated(&self, name: &str) -> bool {
        self.targets.iter().flat_map(|t| t.names()).any(|n| n == name)
    }

    /// Whether an identifier anywhere in it is the name of a migrated table, in whatever schema.
    fn has_migrated_name(&self) -> bool {
        let is_one = |t: &Token| identifier(self.text, t).is_some_and(|n| self.is_migrated(&n));
        self.tokens.iter().any(is_one)
    }

    fn isolation(&self) -> Isolation {
        let mut c = self.cursor();
        let Some(found) = c.find_top("isolation") else { return Isolation::Default };
        c.at = found + 2;
        if c.is("read") {
            Isolation::ReadCommitted
        } else if c.is("repeatable") {
            Isolation::RepeatableRead
        } else {
            Isolation::Serializable
        }
    }

    fn prepares_write(&self) -> bool {
        let any_table = self.targets.is_empty() || !self.found.is_empty();
        any_table && self.tokens.iter().any(|t| self.is_write_verb(t))
    }

    fn sets_config(&self) -> bool {
        self.tokens
            .iter()
            .filter_map(|t| identifier(self.text, t))
            .any(|name| name == "set_config" || name == "pg_settings")
    }
}

/// What a statement does that defines something besides.
fn defining(defined: Option<(Defined, Targets)>, effect: Effect) -> Effect {
    let Some((defined, targets)) = defined else { return effect };
    let keeps = if effect == Effect::KeepsNames { Keeps::Names } else { Keeps::Nothing };
    Effect::Defines(defined, targets, keeps)
}
