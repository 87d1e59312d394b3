//! ALTER, DROP and CREATE: what they do to the tables of a migration. What can neither change a row
//! nor make the functions or the names wrong passes; the rest is refused, or, where partitions
//! come and go, marked.

use super::cursor::Cursor;
use super::lex::{Kind, Token, is_keyword};
use super::mention::{Mention, Table, mention_at, mentions_at};
use super::target::Target;
use std::sync::Arc;

/// What a definition statement does to the migrated tables.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ddl {
    /// Nothing that matters.
    Harmless,
    /// What it takes away without naming it may be a table of a migration, or a column of one.
    Cascades,
    /// It changes what these migrations go by.
    Changes(Vec<(usize, Table)>),
    /// It may bring rows to a source, or take some away.
    MovesRows,
}

/// Reads an ALTER, DROP or CREATE.
pub(super) fn read(
    text: &str,
    tokens: &[Token],
    targets: &[Arc<Target>],
    found: &[Mention],
) -> Ddl {
    let c = Cursor::new(text, tokens);
    let reader = Reader { text, tokens, targets, found };
    match reader.named_in(c) {
        Ddl::Harmless if reader.cascades(c) => Ddl::Cascades,
        does => does,
    }
}

/// What depends on one of these is no column: besides, some of them cannot be dropped in a transaction.
const OF_NO_COLUMN: [&str; 4] = ["database", "index", "subscription", "tablespace"];

struct Reader<'a> {
    text: &'a str,
    tokens: &'a [Token],
    targets: &'a [Arc<Target>],
    found: &'a [Mention],
}

impl Reader<'_> {
    /// What it does to the tables that it names.
    fn named_in(&self, mut c: Cursor<'_>) -> Ddl {
        if c.eat("create") {
            return self.create(c);
        }
        let dropped = c.is("drop");
        c.skip();
        if c.eat("policy") {
            return self.named_behind(c, "on");
        }
        if c.eat("schema") {
            return self.schema(c, dropped);
        }
        let foreign = c.eat("foreign");
        if c.eat("index") && !dropped && !foreign {
            // It renames tables, too.
            return self.index(c);
        }
        if !c.eat("table") {
            return Ddl::Harmless;
        }
        if c.eat("if") {
            c.eat("exists");
        }
        if dropped { self.drop(c) } else { self.alter(c) }
    }

    /// DROP … CASCADE, DROP OWNED, and ALTER TYPE … CASCADE.
    fn cascades(&self, c: Cursor<'_>) -> bool {
        let mut of = c;
        of.skip();
        let drops = c.is("drop") && !OF_NO_COLUMN.iter().any(|kind| of.is(kind));
        let cascade = c.find_top("cascade").is_some();
        drops && (cascade || of.is("owned")) || c.is("alter") && of.is("type") && cascade
    }

    /// The migrated table that is named next.
    fn named(&self, c: &mut Cursor<'_>) -> Option<&Mention> {
        let (_, token) = c.qualified_name()?;
        mention_at(self.found, token)
    }

    /// What changes the table at a mention: of every migration that it may be in.
    fn changes(&self, mention: &Mention) -> Ddl {
        Ddl::Changes(self.meant(mention).collect())
    }

    /// The migrations that a mention may speak of, and the table of each.
    fn meant(&self, mention: &Mention) -> impl Iterator<Item = (usize, Table)> {
        mentions_at(self.found, mention.token).iter().map(|m| (m.target, m.table))
    }

    /// Triggers and rules would write behind our back; by policies a table shows other rows than the
    /// other one.
    fn create(&self, mut c: Cursor<'_>) -> Ddl {
        if c.eat("or") {
            c.eat("replace");
        }
        c.eat("constraint");
        let before_table = match () {
            () if c.eat("trigger") || c.eat("policy") => "on",
            () if c.eat("rule") => "to",
            () => return Ddl::Harmless,
        };
        self.named_behind(c, before_table)
    }

    /// What changes the migrated table that is named behind this keyword.
    fn named_behind(&self, mut c: Cursor<'_>, before_table: &str) -> Ddl {
        while let Some(found) = c.find_top(before_table) {
            c.at = found + 1;
            if let Some(mention) = self.named(&mut c.clone()) {
                return self.changes(mention);
            }
        }
        Ddl::Harmless
    }

    fn schema(&self, mut c: Cursor<'_>, dropped: bool) -> Ddl {
        if dropped && c.find_top("cascade").is_none() {
            // The server refuses to drop one that is not empty.
            return Ddl::Harmless;
        }
        if !dropped && c.find_top("rename").is_none() {
            return Ddl::Harmless;
        }
        if c.eat("if") {
            c.eat("exists");
        }
        let mut changed = Vec::new();
        while let Some(name) = c.name() {
            let holds = |t: &Arc<Target>| {
                let parts = t.parts.values().flatten().map(|p| &p.name);
                let mut of_source = std::iter::once(&t.source).chain(parts);
                if name == "pgsegue" || of_source.any(|table| table.schema.as_str() == name) {
                    return Some(Table::Source);
                }
                (t.shadow.schema.as_str() == name).then_some(Table::Shadow)
            };
            let all = self.targets.iter().enumerate();
            changed.extend(all.filter_map(|(target, t)| Some((target, holds(t)?))));
            if !c.eat_kind(Kind::Comma) {
                break;
            }
        }
        if changed.is_empty() { Ddl::Harmless } else { Ddl::Changes(changed) }
    }

    fn index(&self, mut c: Cursor<'_>) -> Ddl {
        if c.eat("if") {
            c.eat("exists");
        }
        self.named(&mut c).map_or(Ddl::Harmless, |m| self.changes(m))
    }

    fn drop(&self, mut c: Cursor<'_>) -> Ddl {
        let (mut does, mut changed) = (Ddl::Harmless, Vec::new());
        loop {
            match self.named(&mut c) {
                Some(Mention { table: Table::Part(_), .. }) => does = Ddl::MovesRows,
                Some(mention) => changed.extend(self.meant(mention)),
                None => {}
            }
            if !c.eat_kind(Kind::Comma) {
                break;
            }
        }
        if changed.is_empty() { does } else { Ddl::Changes(changed) }
    }

    fn alter(&self, mut c: Cursor<'_>) -> Ddl {
        c.eat("only");
        let altered = self.named(&mut c).copied();
        if c.is_text("*") {
            c.skip();
        }
        let changes = |m: Mention| self.changes(&m);
        if c.eat("attach") || c.eat("detach") {
            c.eat("partition");
            let part = self.named(&mut c).copied();
            let concurrently = c.find_top("concurrently").is_some();
            return match (altered, part) {
                // Neither a part of the shadow, nor the migrated table as a part of another.
                (Some(m @ Mention { table: Table::Shadow, .. }), _) => changes(m),
                (_, Some(m @ Mention { table: Table::Source | Table::Shadow, .. })) => changes(m),
                // It ends after a mark, which would be worked off by then.
                (Some(m), _) | (None, Some(m)) if concurrently => changes(m),
                (Some(_), _) | (_, Some(_)) => Ddl::MovesRows,
                (None, None) => Ddl::Harmless,
            };
        }
        if let Some(altered) = altered {
            return if self.is_harmless(c) { Ddl::Harmless } else { changes(altered) };
        }
        // Another table becomes one that inherits from it, or is one no more.
        let inherits = c.find_top("inherit").and_then(|at| {
            let mut c = c;
            c.at = at + 1;
            self.named(&mut c)
        });
        if inherits.is_some() { Ddl::MovesRows } else { Ddl::Harmless }
    }

    /// Whether all actions of an ALTER TABLE leave rows, columns, constraints, triggers and names as
    /// they are.
    fn is_harmless(&self, c: Cursor<'_>) -> bool {
        let rest = self.tokens.get(c.at..).unwrap_or_default();
        let mut actions = rest.split(|t| t.kind == Kind::Comma && t.depth == 0);
        actions.all(|action| self.is_harmless_action(action))
    }

    fn is_harmless_action(&self, action: &[Token]) -> bool {
        let mut c = Cursor::new(self.text, action);
        let options = |c: &Cursor<'_>| c.is_kind(Kind::Open);
        if c.eat("alter") {
            c.eat("column");
            if c.name().is_none() {
                return false;
            }
            let set = c.eat("set");
            let reset = c.eat("reset");
            let word = ["statistics", "storage", "compression"];
            return (set && word.iter().any(|w| c.is(w))) || ((set || reset) && options(&c));
        }
        if c.eat("set") {
            return options(&c) || c.is("tablespace") || c.is("without");
        }
        let first = action.first();
        let harmless = ["validate", "cluster", "replica"];
        (c.eat("reset") && options(&c))
            || first.is_some_and(|t| harmless.iter().any(|w| is_keyword(self.text, t, w)))
    }
}
