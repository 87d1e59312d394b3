//! MERGE before Postgres 17, which can neither return what it did nor stand within WITH. Its keys are
//! noted on the way: each WHEN that acts gets one more condition, which records the key of its row as
//! dirty, in the same transaction, and holds.
//!
//! The server works a condition out for the row that it then acts on, again if another session has
//! changed that row meanwhile. So at least the keys that are touched are noted; a key too many makes
//! the shadow follow the source once more. The key of a new row is what INSERT says, if that is the
//! same each time it is worked out, and no trigger changes it.

use super::clauses::{Clauses, calls_only};
use crate::sql::cursor::Cursor;
use crate::sql::lex::{Kind, Token, is_keyword};
use crate::sql::mention::{Mention, Table};
use crate::sql::target::{Functions, Target};
use std::ops::Range;

/// A WHEN that acts: byte positions in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct When {
    /// From behind MATCHED up to THEN.
    pub(super) at: Range<usize>,
    /// What the client asks for behind AND.
    pub(super) condition: Option<Range<usize>>,
    pub(super) keys: Keys,
}

/// The keys of the rows that a WHEN acts on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Keys {
    /// Those that the rows have.
    Matched,
    /// These values of each feed.
    Inserted(Vec<Vec<Range<usize>>>),
}

/// Tokens of one `WHEN [NOT] MATCHED [AND condition] THEN action`.
struct Clause {
    when: usize,
    then: usize,
}

/// Reads where the keys of one more feed are noted; `false`: not understood.
pub(super) fn note(
    clauses: &Clauses<'_>,
    c: &Cursor<'_>,
    of: (&Functions, &Mention, &Target),
    noted: &mut Vec<When>,
) -> bool {
    let is_first = noted.is_empty();
    let Some(found) = split(clauses, c) else { return false };
    if has_unreachable(c, &found) {
        return false;
    }
    let mut number = 0;
    for clause in found {
        let Some(read) = read(clauses, c, &clause, of) else { return false };
        let Some(when) = read else { continue };
        match (noted.get_mut(number).map(|w| &mut w.keys), when.keys) {
            (Some(Keys::Inserted(all)), Keys::Inserted(more)) if !is_first => all.extend(more),
            (_, keys) if is_first => noted.push(When { keys, ..when }),
            _ => {}
        }
        number += 1;
    }
    of.2.copy.is_ok()
}

/// The WHEN clauses: CASE has such words of its own.
fn split(clauses: &Clauses<'_>, c: &Cursor<'_>) -> Option<Vec<Clause>> {
    let top = clauses.tokens.get(c.at)?.depth;
    let (mut cases, mut when) = (0_u32, None);
    let mut found = Vec::new();
    for at in c.at..clauses.end {
        let token = clauses.tokens.get(at)?;
        let after_dot = at.checked_sub(1).and_then(|b| clauses.tokens.get(b));
        if token.depth != top || after_dot.is_some_and(|t| t.kind == Kind::Dot) {
            continue;
        }
        let is = |word| is_keyword(clauses.text, token, word);
        if is("case") {
            cases += 1;
        } else if cases > 0 {
            cases -= u32::from(is("end"));
        } else if is("when") && when.replace(at).is_some() {
            return None;
        } else if is("then") {
            found.push(Clause { when: when.take()?, then: at });
        }
    }
    (when.is_none() && !found.is_empty()).then_some(found)
}

/// Whether a clause follows one of its kind that has no condition: the server refuses that, and would
/// not if ours gave it one.
fn has_unreachable(c: &Cursor<'_>, found: &[Clause]) -> bool {
    let (mut matched_ends, mut new_ends) = (false, false);
    found.iter().any(|clause| {
        let mut c = *c;
        c.at = clause.when + 1;
        let ends = if c.eat("not") { &mut new_ends } else { &mut matched_ends };
        c.eat("matched");
        std::mem::replace(ends, *ends || c.at == clause.then)
    })
}

/// `Some(None)`: it does nothing.
fn read(
    clauses: &Clauses<'_>,
    c: &Cursor<'_>,
    clause: &Clause,
    of: (&Functions, &Mention, &Target),
) -> Option<Option<When>> {
    let mut c = *c;
    c.at = clause.when + 1;
    let is_new = c.eat("not");
    if !c.eat("matched") {
        return None;
    }
    let start = clauses.tokens.get(c.at - 1)?.at.end;
    let condition = match c.eat("and") {
        true => Some(clauses.span(c.at, clause.then)?),
        false if c.at == clause.then => None,
        false => return None,
    };
    c.at = clause.then + 1;
    let keys = match is_new {
        _ if c.eat("do") => return Some(None),
        true if c.eat("insert") => Keys::Inserted(vec![inserted(clauses, &mut c, of)?]),
        false if c.eat("update") || c.eat("delete") => Keys::Matched,
        _ => return None,
    };
    let at = start..clauses.tokens.get(clause.then)?.at.start;
    Some(Some(When { at, condition, keys }))
}

/// The values of the key columns in `INSERT [(columns)] [OVERRIDING SYSTEM VALUE] VALUES (…)`.
fn inserted(
    clauses: &Clauses<'_>,
    c: &mut Cursor<'_>,
    (functions, mention, target): (&Functions, &Mention, &Target),
) -> Option<Vec<Range<usize>>> {
    let open = c.at;
    let columns: Vec<String> = if c.eat_group() {
        let name = |item: Range<usize>| Cursor::new(clauses.text, clauses.tokens.get(item)?).name();
        items(clauses.tokens, open, c.at)?.into_iter().map(name).collect::<Option<_>>()?
    } else if mention.table == Table::Source {
        target.columns.iter().map(|column| column.as_str().to_owned()).collect()
    } else {
        // A part has its columns in an order of its own.
        return None;
    };
    if c.eat("overriding") && !(c.eat("system") && c.eat("value")) {
        return None;
    }
    let values = c.eat("values").then_some(c.at)?;
    if !c.eat_group() {
        return None;
    }
    let values = items(clauses.tokens, values, c.at)?;
    let value = |key: &crate::sql::ident::Ident| {
        let at = columns.iter().position(|column| column == key.as_str())?;
        let item = values.get(at)?.clone();
        let tokens = clauses.tokens.get(item.clone())?;
        let is_default = tokens.iter().any(|t| is_keyword(clauses.text, t, "default"));
        let same_each_time = !is_default && calls_only(clauses.text, tokens, functions);
        same_each_time.then(|| clauses.span(item.start, item.end)).flatten()
    };
    target.key.iter().map(value).collect()
}

/// What the commas of a bracketed list part; its first token is at `open`, `end` is behind it.
fn items(tokens: &[Token], open: usize, end: usize) -> Option<Vec<Range<usize>>> {
    let inside = open + 1..end.checked_sub(1)?;
    let top = tokens.get(inside.start)?.depth;
    let mut found = Vec::new();
    let mut start = inside.start;
    for at in inside.clone() {
        let token = tokens.get(at)?;
        if token.kind == Kind::Comma && token.depth == top {
            found.push(start..at);
            start = at + 1;
        }
    }
    found.push(start..inside.end);
    found.iter().all(|item| !item.is_empty()).then_some(found)
}
