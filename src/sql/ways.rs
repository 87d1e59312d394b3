//! How a statement may write a migrated table without naming it: through a view, a rule or a function
//! that the catalog is known to have, or by code. Names are all that counts: where one is written or
//! called, the migrations behind it are concerned; what may write anything concerns all.

use super::body::{self, Spelled};
use super::cursor::Cursor;
use super::lex::{Kind, Token, first_word, identifier, is_keyword, tokens};
use super::mention::{Spelling, Table};
use super::reason::Reason;
use super::statement::{Class, Name, Statement};
use super::target::Target;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Names, each with the migrations that may be written by it.
pub type Named = BTreeMap<String, BTreeSet<String>>;

/// What the catalog has, by unqualified names: a name counts for every schema.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ways {
    /// Views on the tables, over several steps, and what else has a rule that names one.
    pub relations: Named,
    /// Which of these names are views': what is read through one, is read of the tables.
    pub views: BTreeSet<String>,
    /// Functions and procedures that may write the tables, themselves or by what they call.
    pub functions: Named,
    /// Functions of triggers that may write the tables.
    pub triggers: Named,
    /// Functions and procedures by object id, as the protocol's FunctionCall has them.
    pub called: BTreeMap<u32, String>,
    /// Functions and procedures that run statements that cannot be read in them, or call one that
    /// does: they may write any table.
    pub building: BTreeSet<String>,
    /// All procedures.
    pub procedures: BTreeSet<String>,
}

impl Ways {
    /// The names that a statement has to be looked at for.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let named = [&self.relations, &self.functions, &self.triggers];
        named.into_iter().flat_map(|named| named.keys()).map(String::as_str)
    }

    /// Whether this says the name of something by which a migration may be written.
    pub(super) fn has_one(&self, migration: &str, says: impl Fn(&str) -> bool) -> bool {
        let named = [&self.relations, &self.functions, &self.triggers];
        let mut all = named.into_iter().flatten();
        all.any(|(name, migrations)| migrations.contains(migration) && says(name))
    }

    /// Whether a migration may be written by something by which it could not before.
    pub fn has_grown(&self, before: &Self, migration: &str) -> bool {
        let of = |ways: &Self| {
            let named = |named: &Named| {
                let concerned = named.iter().filter(|(_, all)| all.contains(migration));
                concerned.map(|(name, _)| name.clone()).collect::<BTreeSet<_>>()
            };
            (named(&ways.relations), named(&ways.functions))
        };
        let (now, before) = (of(self), of(before));
        !now.0.is_subset(&before.0) || !now.1.is_subset(&before.1)
    }
}

/// What a statement may write by ways that it does not show.
enum Reached {
    Nothing,
    These(BTreeSet<usize>, Reason),
    Anything(Reason),
}

/// Says of a statement what it may write through something else.
pub(super) fn follow(
    statement: &mut Statement,
    text: &str,
    tokens: &[Token],
    targets: &[Arc<Target>],
    ways: &Ways,
) {
    if targets.is_empty() {
        return;
    }
    let whole = matches!(&statement.class, Class::Unclassified(_)) && statement.names.is_empty();
    let look = Look { text, tokens, targets, ways };
    match look.reached() {
        // It counts for all already, or is refused.
        _ if whole || matches!(&statement.class, Class::Ddl(_)) => {}
        Reached::Nothing => {}
        Reached::Anything(why) => {
            statement.class = Class::Unclassified(why);
            statement.names.clear();
        }
        Reached::These(reached, why) => {
            match &statement.class {
                // What it names it only reads.
                Class::Passthrough | Class::Read(_) => statement.names.clear(),
                // What it executes is not known here, and not looked for any more.
                Class::Execute(_) => {
                    statement.class = Class::Unclassified(why);
                    statement.names.clear();
                    return;
                }
                _ => {}
            }
            statement.class = Class::Unclassified(why);
            let through =
                |target| Name { target, table: Table::Through, spelling: Spelling::Qualified };
            statement.names.extend(reached.into_iter().map(through));
        }
    }
}

struct Look<'a> {
    text: &'a str,
    tokens: &'a [Token],
    targets: &'a [Arc<Target>],
    ways: &'a Ways,
}

impl Look<'_> {
    fn reached(&self) -> Reached {
        let mut buffer = [0; 16];
        let start = self.tokens.first().map_or(0, |t| t.at.start);
        let rest = self.text.as_bytes().get(start..).unwrap_or_default();
        let has = |word: &str| self.tokens.iter().any(|t| is_keyword(self.text, t, word));
        match first_word(rest, &mut buffer).unwrap_or_default() {
            "do" => self.code(),
            "call" => self.call(),
            "select" | "with" | "values" | "table" | "insert" | "update" | "delete" | "merge"
            | "copy" | "declare" | "execute" => self.spelled(),
            "explain" if self.analyzes() => self.spelled(),
            "create" if has("as") && (has("table") || has("materialized")) && !has("function") => {
                self.spelled()
            }
            "alter" if has("table") => self.spelled(),
            _ => Reached::Nothing,
        }
    }

    fn analyzes(&self) -> bool {
        let mut names = self.tokens.iter().filter_map(|t| identifier(self.text, t));
        names.any(|name| name == "analyze" || name == "analyse")
    }

    /// What the functions that are called and the relations that are written stand for.
    fn spelled(&self) -> Reached {
        if self.ways.relations.is_empty() && self.ways.functions.is_empty() {
            return Reached::Nothing;
        }
        let mut reached = BTreeSet::new();
        for (at, token) in self.tokens.iter().enumerate() {
            if self.is_called(at) {
                let name = identifier(self.text, token);
                self.add(&mut reached, &self.ways.functions, name.as_deref());
            }
            if let Some(name) = self.written(at, token) {
                self.add(&mut reached, &self.ways.relations, Some(&name));
            }
        }
        match reached.is_empty() {
            true => Reached::Nothing,
            false => Reached::These(reached, Reason::Through),
        }
    }

    fn add(&self, reached: &mut BTreeSet<usize>, named: &Named, name: Option<&str>) {
        let Some(migrations) = name.and_then(|name| named.get(name)) else { return };
        let targets = self.targets.iter().enumerate();
        reached.extend(targets.filter(|(_, t)| migrations.contains(&t.migration)).map(|(n, _)| n));
    }

    fn is_called(&self, at: usize) -> bool {
        let open = |t: &Token| t.kind == Kind::Open && self.text.get(t.at.clone()) == Some("(");
        self.tokens.get(at + 1).is_some_and(open)
    }

    /// The relation behind a verb that writes.
    fn written(&self, at: usize, token: &Token) -> Option<String> {
        let verb = |word: &str| is_keyword(self.text, token, word);
        let verbs = ["insert", "update", "delete", "merge", "copy"];
        verbs.iter().any(|word| verb(word)).then_some(())?;
        let mut c = Cursor::new(self.text, self.tokens);
        c.at = at + 1;
        while c.is("into") || c.is("from") || c.is("only") || c.is_kind(Kind::Open) {
            c.skip();
        }
        c.qualified_name().map(|(name, _)| name)
    }

    /// A CALL: what is known of the procedure, and of the functions among its arguments.
    fn call(&self) -> Reached {
        let mut c = Cursor::new(self.text, self.tokens);
        c.skip();
        let procedure = c.qualified_name().map(|(name, _)| name);
        let known = procedure.is_some_and(|name| self.ways.procedures.contains(&name));
        let called = (0..self.tokens.len()).filter(|at| self.is_called(*at));
        let mut called = called.filter_map(|at| identifier(self.text, self.tokens.get(at)?));
        match !known || called.any(|name| self.ways.building.contains(&name)) {
            true => Reached::Anything(Reason::CodeUnknown),
            false => self.spelled(),
        }
    }

    /// A DO: the names that its code spells, wherever, unless it may run what it does not spell.
    fn code(&self) -> Reached {
        let sql = self.tokens.first().zip(self.tokens.last());
        let sql = sql.and_then(|(a, b)| self.text.get(a.at.start..b.at.end)).unwrap_or_default();
        let folded = sql.to_ascii_lowercase();
        let spelled = Spelled::of(sql);
        let through = |migration: &str| self.ways.has_one(migration, |name| spelled.has(name));
        let targets = self.targets.iter().enumerate();
        let reached: BTreeSet<usize> = targets
            .filter(|(_, t)| t.names().any(|name| spelled.has(name)) || through(&t.migration))
            .map(|(n, _)| n)
            .collect();
        let why = if reached.is_empty() { Reason::CodeUnknown } else { Reason::Code };
        let builds = self.ways.building.iter().any(|name| spelled.calls(name));
        match builds || folded.contains("u&\"") || !self.code_is_read() {
            true => Reached::Anything(why),
            false if reached.is_empty() => Reached::Nothing,
            false => Reached::These(reached, why),
        }
    }

    /// Whether all that the code runs can be read in it.
    fn code_is_read(&self) -> bool {
        let (mut language, mut texts) = (false, 0);
        self.tokens.iter().skip(1).all(|token| {
            let spelling = self.text.get(token.at.clone()).unwrap_or_default();
            if std::mem::take(&mut language) {
                return spelling.trim_matches(['\'', '"']).eq_ignore_ascii_case("plpgsql");
            }
            if token.kind != Kind::Text {
                language = is_keyword(self.text, token, "language");
                return language;
            }
            // A constant may go on in a further one: its words would be torn.
            texts += 1;
            texts == 1 && constant(spelling).is_some_and(|code| self.runs_what_it_says(&code))
        })
    }

    fn runs_what_it_says(&self, code: &str) -> bool {
        let Ok(all) = tokens(code) else { return false };
        let calls_known = all.iter().enumerate().all(|(at, token)| {
            if !is_keyword(code, token, "call") {
                return true;
            }
            let mut c = Cursor::new(code, &all);
            c.at = at + 1;
            c.qualified_name().is_some_and(|(name, _)| self.ways.procedures.contains(&name))
        });
        calls_known && !body::builds(code)
    }
}

/// What a plain string constant holds.
fn constant(spelling: &str) -> Option<String> {
    if let Some(rest) = spelling.strip_prefix('$') {
        let tag = rest.find('$')? + 2;
        return spelling.get(tag..spelling.len().checked_sub(tag)?).map(str::to_owned);
    }
    let inner = spelling.strip_prefix('\'')?.strip_suffix('\'')?;
    Some(inner.replace("''", "'"))
}
