//! What a text of SQL means for the migrated tables: per statement a class, and what it does to
//! the session. Fails closed: what is not recognised is [`Class::Unclassified`], never guessed.

use super::copy::{self, CopyFrom};
use super::cursor::Cursor;
use super::ddl::{self, Ddl};
use super::lex::{Kind, Token, identifier, is_keyword, tokens};
use super::mention::{
    Mention, Spelling, Table, has_unreadable_identifier, mention_at, mentions, mentions_at,
};
use super::prepare::{self, Deallocate, Execute, Prepare};
use super::read::{Read, read};
use super::reason::Reason;
use super::target::{Functions, Target};
use super::truncate::{self, Truncate};
use super::write::with::with_list;
use super::write::{Around, Write};
use std::ops::Range;
use std::sync::Arc;

/// A text, understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Understanding {
    /// Its statements, without their semicolons; none for a text of blanks.
    pub statements: Vec<Statement>,
}

/// Where a statement stands in its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// It is the only one.
    Alone,
    /// It is one of several.
    Among,
}

impl Understanding {
    /// Where each of its statements stands.
    pub fn place(&self) -> Place {
        if self.statements.len() > 1 { Place::Among } else { Place::Alone }
    }
}

/// One statement of a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    /// Its bytes in the text, from its first token to its last.
    pub at: Range<usize>,
    /// What it means for the migrated tables.
    pub class: Class,
    /// What it does to the session.
    pub effect: Effect,
    /// The migrated tables that it may name.
    pub names: Vec<Name>,
}

/// A migrated table that a statement may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Name {
    /// Index of the target.
    pub target: usize,
    /// Source or shadow.
    pub table: Table,
    /// With or without the schema.
    pub spelling: Spelling,
}

/// What a statement means for the migrated tables.
#[derive(Debug, Clone, PartialEq)]
pub enum Class {
    /// It changes none of them, and none of its reads can be sent elsewhere.
    Passthrough,
    /// A query on a migrated source.
    Read(Box<Read>),
    /// A write on sources.
    Write(Box<Write>),
    /// It may empty migrated tables: what it has emptied is to be found out behind it.
    Truncate(Truncate),
    /// It gives a name to a statement.
    Prepare(Prepare),
    /// It executes what a name stands for: what it means, the session knows.
    Execute(Execute),
    /// It drops prepared statements.
    Deallocate(Deallocate),
    /// A COPY … FROM STDIN into a source, which these names may mean.
    CopyFrom(Arc<[Name]>, Arc<CopyFrom>),
    /// It takes away what depends on what it names: whether that is a migrated table, or a column of one, is
    /// found out behind it.
    Cascade,
    /// A change of the definition of these tables of these targets.
    Ddl(Vec<(usize, Table)>),
    /// It may change a migrated table in a way that is not understood; says why.
    Unclassified(Reason),
}

/// What a statement does to the session, as far as routing has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing of interest.
    None,
    /// Begins a transaction block.
    Begin(Isolation),
    /// SET TRANSACTION: the isolation level of the open transaction.
    SetTransaction(Isolation),
    /// Ends a transaction block.
    End,
    /// May change what names, roles or defaults mean.
    State,
    /// As `State`, but what the names of migrated tables mean.
    KeepsNames,
    /// Defines another name for the tables of these targets; as `KeepsNames`, unless that is a migrated
    /// table's.
    Defines(Defined, Targets, Keeps),
    /// As `State`, but a name that means a migrated table means it still.
    Uncovers,
    /// As `State`, and drops prepared statements.
    Discard,
    /// All of these, perhaps.
    Anything,
    /// The same, and it may have given the names of prepared statements to others.
    Renames,
    /// SQL-level PREPARE of a write on a migrated table: EXECUTE will not name it.
    PreparesWrite,
}

/// What stands for a migrated table under another name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defined {
    /// A table that holds rows of it; a type that its values may be of.
    Part,
    /// A view, function, procedure, rule or trigger by which it may be written.
    Way,
}

/// Whether names of migrated tables mean what they meant before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeps {
    /// They do.
    Names,
    /// Not for certain.
    Nothing,
}

/// Some of the targets, by index.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Targets(u64);

impl Targets {
    /// The last bit stands for all from there on.
    const LAST: usize = 63;

    /// With one more.
    #[must_use]
    pub fn with(self, target: usize) -> Self {
        Self(self.0 | 1 << target.min(Self::LAST))
    }

    /// Whether this is one of them, or may be.
    pub fn has(self, target: usize) -> bool {
        self.0 >> target.min(Self::LAST) & 1 == 1
    }
}

/// An isolation level, as a statement asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// The session's default.
    Default,
    /// READ UNCOMMITTED or READ COMMITTED.
    ReadCommitted,
    /// REPEATABLE READ.
    RepeatableRead,
    /// SERIALIZABLE, or one that is not understood.
    Serializable,
}

/// Understands a text that passed the prefilter (it may name a migrated table, or has an effect).
pub fn understand(text: &str, targets: &[Arc<Target>], functions: &Functions) -> Understanding {
    let Ok(all) = tokens(text) else {
        // The server will refuse it too; if it does not, it must not pass unseen.
        return Understanding { statements: vec![opaque(text, Reason::NotSql)] };
    };
    let mut statements: Vec<Statement> = all
        .split(|t| t.kind == Kind::Semicolon && t.depth == 0)
        .filter(|tokens| !tokens.is_empty())
        .map(|tokens| statement(text, tokens, targets, functions))
        .collect();
    if statements.len() > 1 && all.iter().any(|t| is_keyword(text, t, "atomic")) {
        // The body of CREATE FUNCTION … BEGIN ATOMIC has semicolons of its own.
        let harmless = |s: &Statement| {
            let passes = !matches!(s.class, Class::Unclassified(_));
            passes && s.names.is_empty() && s.effect != Effect::PreparesWrite
        };
        let mut whole = opaque(text, Reason::BodyAmongSeveral);
        if statements.iter().all(harmless) {
            whole.class = Class::Passthrough;
            whole.effect = Effect::Anything;
        }
        statements = vec![whole];
    }
    Understanding { statements }
}

/// What can be said of a text that cannot be read, but spells the name of no migrated table: it
/// changes none of them.
pub fn unread(text: &[u8]) -> Understanding {
    let statement = Statement {
        at: 0..text.len(),
        class: Class::Passthrough,
        effect: if drops_names(text) { Effect::Renames } else { Effect::Anything },
        names: Vec::new(),
    };
    Understanding { statements: vec![statement] }
}

/// Whether a text is one statement, of a kind that changes no row, whatever it names. It says so in
/// letters that are the same in every encoding.
pub fn changes_no_row(text: &[u8]) -> bool {
    const KINDS: [&str; 14] = [
        "abort",
        "analyze",
        "begin",
        "cluster",
        "commit",
        "end",
        "fetch",
        "listen",
        "reindex",
        "release",
        "rollback",
        "savepoint",
        "start",
        "vacuum",
    ];
    let mut buffer = [0; 16];
    let first = super::lex::first_word(text, &mut buffer).unwrap_or_default();
    KINDS.contains(&first) && !super::prefilter::has_second_statement(text)
}

fn opaque(text: &str, why: Reason) -> Statement {
    Statement {
        at: 0..text.len(),
        class: Class::Unclassified(why),
        effect: Effect::State,
        names: Vec::new(),
    }
}

fn statement(
    text: &str,
    tokens: &[Token],
    targets: &[Arc<Target>],
    functions: &Functions,
) -> Statement {
    let at = tokens.first().map_or(0, |t| t.at.start)..tokens.last().map_or(0, |t| t.at.end);
    let found = mentions(text, tokens, targets);
    let reader = Reader { text, tokens, targets, functions, found: &found };
    let (class, effect) = if has_unreadable_identifier(text, tokens) {
        (Class::Unclassified(Reason::UnicodeIdentifier), Effect::State)
    } else {
        reader.classify()
    };
    let mut names: Vec<Name> = Vec::new();
    for m in &found {
        let name = Name { target: m.target, table: m.table, spelling: m.spelling };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let mut statement = Statement { at, class, effect, names };
    super::ways::follow(&mut statement, text, tokens, targets, &functions.ways);
    statement
}

/// Index of the token of the main verb: the first, or the one behind a WITH list.
pub fn main_verb(text: &str, tokens: &[Token]) -> Option<usize> {
    with_list(text, tokens).map(|list| list.end)
}

/// Index of the first INSERT, UPDATE, DELETE or MERGE that begins a bracketed group, or follows the WITH
/// list of one.
pub(super) fn nested_write(text: &str, tokens: &[Token], from: usize) -> Option<usize> {
    (from..tokens.len()).find(|i| {
        let before = i.checked_sub(1).and_then(|before| tokens.get(before));
        let opened = before.is_some_and(|t| matches!(t.kind, Kind::Open | Kind::Close));
        opened && tokens.get(*i).is_some_and(|t| t.depth > 0 && is_write_verb(text, t))
    })
}

pub(super) fn is_write_verb(text: &str, token: &Token) -> bool {
    ["insert", "update", "delete", "merge"].iter().any(|verb| is_keyword(text, token, verb))
}

/// One statement in its surroundings.
pub(super) struct Reader<'a> {
    pub(super) text: &'a str,
    pub(super) tokens: &'a [Token],
    pub(super) targets: &'a [Arc<Target>],
    pub(super) functions: &'a Functions,
    pub(super) found: &'a [Mention],
}

impl<'a> Reader<'a> {
    fn cursor(&self) -> Cursor<'a> {
        Cursor::new(self.text, self.tokens)
    }

    fn classify(&self) -> (Class, Effect) {
        let mut buffer = [0; 16];
        let start = self.tokens.first().map_or(0, |t| t.at.start);
        let rest = self.text.as_bytes().get(start..).unwrap_or_default();
        let effect = self.effect(super::lex::first_word(rest, &mut buffer).unwrap_or_default());
        (self.class(super::lex::first_word(rest, &mut buffer).unwrap_or_default()), effect)
    }

    fn class(&self, word: &str) -> Class {
        match word {
            "prepare" => prepare::prepare(self.text, self.tokens)
                .map_or_else(|| self.unless_nested_write(0, Reason::PreparedInSql), Class::Prepare),
            "execute" => prepare::execute(self.text, self.tokens)
                .map_or(Class::Unclassified(Reason::ExecuteOfWrite), Class::Execute),
            "deallocate" | "discard" => prepare::deallocate(self.text, self.tokens)
                .map_or(Class::Passthrough, Class::Deallocate),
            "truncate" => self.truncate(),
            "alter" | "drop" => self.ddl(),
            // What their code may write is looked at for itself.
            "do" | "call" => Class::Passthrough,
            _ if self.found.is_empty() => Class::Passthrough,
            "create" if self.writes_migrated(0) => self.create_as(),
            "select" | "with" | "values" | "table" | "insert" | "update" | "delete" | "merge" => {
                self.dml()
            }
            "copy" => self.copy(),
            "explain" => self.explain(),
            "create" => self.ddl(),
            // They change no row of a table, or only by a statement seen on its own.
            "declare" | "lock" | "vacuum" | "analyze" | "comment" | "grant" | "revoke" | "show"
            | "fetch" | "move" | "close" | "cluster" | "reindex" | "set" | "reset" | "security"
            | "checkpoint" | "begin" | "start" | "commit" | "end" | "rollback" | "abort"
            | "savepoint" | "release" | "listen" | "notify" | "unlisten" | "refresh" | "import"
            | "load" => Class::Passthrough,
            _ => Class::Unclassified(Reason::UnknownKind),
        }
    }

    fn dml(&self) -> Class {
        match self.write(0..self.tokens.len(), Around::Nothing) {
            Some(class) => class,
            None if self.nested_write(0).is_some() || self.writes() => Class::Passthrough,
            None if self.found.iter().any(|m| m.table == Table::Source) => {
                let (text, tokens) = (self.text, self.tokens);
                Class::Read(Box::new(read(text, tokens, self.targets, self.functions)))
            }
            None => Class::Passthrough,
        }
    }

    /// Whether the main verb is that of a write.
    fn writes(&self) -> bool {
        let verb = main_verb(self.text, self.tokens).and_then(|verb| self.tokens.get(verb));
        verb.is_some_and(|t| self.is_write_verb(t))
    }

    /// The class of a statement by what a query in it writes; `None`: nothing of a migrated table.
    fn write(&self, query: Range<usize>, around: Around) -> Option<Class> {
        match Write::read(self, query.clone(), around) {
            // The server refuses it, in words that ours must not change.
            Ok(Some(_)) if self.is_incomplete() => Some(Class::Passthrough),
            Ok(Some(write)) => Some(match self.is_hidden(&write, &query) {
                true => Class::Unclassified(Reason::DataModifyingWith),
                false => Class::Write(Box::new(write)),
            }),
            Ok(None) => {
                self.writes_migrated(0).then_some(Class::Unclassified(Reason::DataModifyingWith))
            }
            Err(Reason::WithList) => Some(self.unless_nested_write(0, Reason::WithList)),
            Err(why) => Some(Class::Unclassified(why)),
        }
    }

    /// Whether a write on a migrated table is none of those that were read.
    fn is_hidden(&self, write: &Write, query: &Range<usize>) -> bool {
        let known: Vec<_> = write.verb_tokens().collect();
        let main = main_verb(self.text, self.tokens.get(query.clone()).unwrap_or_default());
        let main = main.map(|verb| query.start + verb);
        let own = main.filter(|verb| known.contains(verb));
        let mut from = 0;
        while let Some(verb) = self.nested_write(from) {
            let within = own.is_some_and(|own| verb > own);
            if !known.contains(&verb) && (within || self.write_target(verb).is_some()) {
                return true;
            }
            from = verb + 1;
        }
        false
    }

    /// Whether the last token cannot be the last of any statement.
    fn is_incomplete(&self) -> bool {
        const OPENING: [&str; 17] = [
            "where",
            "set",
            "and",
            "or",
            "not",
            "returning",
            "from",
            "using",
            "select",
            "in",
            "as",
            "on",
            "into",
            "case",
            "when",
            "then",
            "else",
        ];
        let Some(last) = self.tokens.last() else { return true };
        let before = self.tokens.len().checked_sub(2).and_then(|i| self.tokens.get(i));
        match last.kind {
            Kind::Comma | Kind::Dot => true,
            Kind::Operator => {
                let star = self.text.get(last.at.clone()) == Some("*");
                let all = before.is_some_and(|t| {
                    matches!(t.kind, Kind::Comma | Kind::Dot)
                        || is_keyword(self.text, t, "returning")
                });
                !(star && all)
            }
            Kind::Word => OPENING.iter().any(|k| is_keyword(self.text, last, k)),
            _ => false,
        }
    }

    /// The mention that is the table of the write whose verb is at `verb`.
    fn write_target(&self, verb: usize) -> Option<Mention> {
        let mut c = self.cursor();
        c.at = verb + 1;
        while c.is("into") || c.is("from") || c.is("only") || c.is_kind(Kind::Open) {
            c.skip();
        }
        let (_, token) = c.qualified_name()?;
        mention_at(self.found, token).copied()
    }

    fn nested_write(&self, from: usize) -> Option<usize> {
        nested_write(self.text, self.tokens, from)
    }

    fn is_write_verb(&self, token: &Token) -> bool {
        is_write_verb(self.text, token)
    }

    /// Whether a nested write names a migrated table.
    fn writes_migrated(&self, from: usize) -> bool {
        let mut from = from;
        while let Some(verb) = self.nested_write(from) {
            if self.write_target(verb).is_some() {
                return true;
            }
            from = verb + 1;
        }
        false
    }

    fn unless_nested_write(&self, from: usize, why: Reason) -> Class {
        let any_write = self.tokens.get(from..).unwrap_or_default().iter();
        match any_write.into_iter().any(|t| self.is_write_verb(t)) {
            true => Class::Unclassified(why),
            false => Class::Passthrough,
        }
    }

    /// CREATE TABLE … AS a query that writes.
    fn create_as(&self) -> Class {
        let c = self.cursor();
        let query = c.find_top("as").map_or(self.tokens.len(), |found| found + 1);
        let class = self.write(query..self.tokens.len(), Around::Nothing);
        class.unwrap_or(Class::Unclassified(Reason::DataModifyingWith))
    }

    fn truncate(&self) -> Class {
        match truncate::read(self.text, self.tokens, self.found) {
            Some(truncate::Read::Source(truncate)) => Class::Truncate(truncate),
            Some(truncate::Read::Shadow) => Class::Unclassified(Reason::ShadowWrite),
            Some(truncate::Read::Elsewhere) => Class::Passthrough,
            // The server refuses it, too; if it does not, it must not pass unseen.
            None => Class::Unclassified(Reason::TruncateUnclear),
        }
    }

    fn copy(&self) -> Class {
        let mut c = self.cursor();
        c.skip();
        // COPY BINARY t, the syntax of before 9.0, is still understood.
        c.eat("binary");
        let open = c.at;
        if c.eat_group() {
            let query = open + 1..c.at - 1;
            if self.returns_nothing(query.clone()) {
                return Class::Passthrough;
            }
            return self.write(query, Around::Copy).unwrap_or(Class::Passthrough);
        }
        let Some((_, token)) = c.qualified_name() else {
            return Class::Unclassified(Reason::CopyUnclear);
        };
        c.eat_group();
        let named = mentions_at(self.found, token);
        if named.is_empty() || c.is("to") {
            return Class::Passthrough;
        }
        let name = |m: &Mention| Name { target: m.target, table: m.table, spelling: m.spelling };
        let is_part = |m: &Mention| matches!(m.table, Table::Part(_));
        match copy::read(self.text, self.tokens) {
            _ if named.iter().any(|m| m.table == Table::Shadow) => {
                Class::Unclassified(Reason::ShadowWrite)
            }
            // A part has its columns in an order of its own.
            Ok(copy) if copy.columns().is_none() && named.iter().any(is_part) => {
                Class::Unclassified(Reason::CopyColumns)
            }
            Ok(copy) => {
                let mut targets = named.iter().filter_map(|m| self.targets.get(m.target));
                match targets.find_map(|target| copy.way(target, copy::ANY_DIALECT).err()) {
                    Some(why) => Class::Unclassified(why),
                    None => Class::CopyFrom(named.iter().map(name).collect(), Arc::new(copy)),
                }
            }
            Err(why) => Class::Unclassified(why),
        }
    }

    /// Whether a query is a write without RETURNING: COPY of one is refused by the server, before
    /// anything of it runs.
    fn returns_nothing(&self, query: Range<usize>) -> bool {
        let tokens = self.tokens.get(query).unwrap_or_default();
        let verb = main_verb(self.text, tokens).and_then(|verb| tokens.get(verb));
        verb.is_some_and(|verb| {
            let returns =
                |t: &Token| t.depth == verb.depth && is_keyword(self.text, t, "returning");
            self.is_write_verb(verb) && !tokens.iter().any(returns)
        })
    }

    fn explain(&self) -> Class {
        if !self.explains_by_running() {
            return Class::Passthrough;
        }
        self.unless_nested_write(0, Reason::ExplainAnalyze)
    }

    /// Whether ANALYZE is among the words behind EXPLAIN, or in its list of options is not switched off by the last
    /// that says so.
    fn explains_by_running(&self) -> bool {
        const OFF: [&str; 3] = ["off", "false", "0"];
        let is_analyze =
            |t: &Token| matches!(identifier(self.text, t).as_deref(), Some("analyze" | "analyse"));
        let Some(second) = self.tokens.get(1) else { return false };
        if second.kind != Kind::Open {
            return is_analyze(second);
        }
        let options = self.tokens.get(2..).unwrap_or_default();
        let options = options.split(|t| t.kind == Kind::Close).next().unwrap_or_default();
        let mut runs = false;
        for option in options.split(|t| t.kind == Kind::Comma) {
            if let Some((name, value)) = option.split_first()
                && is_analyze(name)
            {
                let value = value.first().and_then(|t| self.text.get(t.at.clone()));
                let value = value.unwrap_or_default().trim_matches(|c| c == '\'' || c == '"');
                runs = !OFF.iter().any(|off| value.eq_ignore_ascii_case(off));
            }
        }
        runs
    }

    fn ddl(&self) -> Class {
        match ddl::read(self.text, self.tokens, self.targets, self.found) {
            Ddl::Harmless => Class::Passthrough,
            Ddl::Cascades => Class::Cascade,
            Ddl::Changes(targets) => Class::Ddl(targets),
            Ddl::MovesRows => Class::Unclassified(Reason::MovesRows),
        }
    }
}

mod effect;
pub use effect::drops_names;
#[cfg(test)]
mod tests;
