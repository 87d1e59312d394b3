//! TRUNCATE: which migrated tables it may empty.

use super::cursor::Cursor;
use super::lex::{Kind, Token};
use super::mention::{Mention, Table};

/// A TRUNCATE that may empty a migrated table. What it has emptied is found out behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Truncate {
    /// The migrations whose sources it names.
    pub named: Vec<usize>,
    /// What else it may reach.
    pub reach: Reach,
    /// Some source is surely not emptied as a whole.
    pub extent: Extent,
}

/// What a TRUNCATE reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The tables that it names.
    Named,
    /// CASCADE: those that foreign keys lead to as well, whatever their names.
    Cascade,
}

/// How much of the named sources a TRUNCATE empties.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// All of them.
    Whole,
    /// Perhaps only a part: ONLY, which leaves what inherits, or a partition.
    Part,
}

/// What is to be done about a TRUNCATE.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// Nothing: it reaches no migrated table.
    Elsewhere,
    /// It names the shadow.
    Shadow,
    /// It may empty a source.
    Source(Truncate),
}

/// Reads a TRUNCATE. `None`: it is not understood.
pub(super) fn read(text: &str, tokens: &[Token], found: &[Mention]) -> Option<Read> {
    let mut c = Cursor::new(text, tokens);
    c.skip();
    c.eat("table");
    let (mut named, mut extent, mut shadow) = (Vec::new(), Extent::Whole, false);
    loop {
        let only = c.eat("only");
        let grouped = only && c.eat_kind(Kind::Open);
        let (_, token) = c.qualified_name()?;
        if grouped && !c.eat_kind(Kind::Close) {
            return None;
        }
        if c.is_text("*") {
            c.skip();
        }
        for mention in found.iter().filter(|m| m.token == token) {
            match mention.table {
                Table::Source | Table::Part(_) if !named.contains(&mention.target) => {
                    named.push(mention.target);
                }
                Table::Source | Table::Part(_) | Table::Through => {}
                Table::Shadow => shadow = true,
            }
            if only || matches!(mention.table, Table::Part(_)) {
                extent = Extent::Part;
            }
        }
        if !c.eat_kind(Kind::Comma) {
            break;
        }
    }
    if c.eat("restart") || c.eat("continue") {
        c.eat("identity").then_some(())?;
    }
    let reach = if c.eat("cascade") { Reach::Cascade } else { Reach::Named };
    c.eat("restrict");
    if c.peek().is_some() {
        return None;
    }
    Some(match (shadow, &reach) {
        (true, _) => Read::Shadow,
        (false, Reach::Named) if named.is_empty() => Read::Elsewhere,
        (false, _) => Read::Source(Truncate { named, reach, extent }),
    })
}
