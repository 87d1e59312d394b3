//! Statements that read a source and are no query of the client's, or none by itself: their reads stay on
//! the source. It is said where a team looks for what the shadow will serve.

use super::lex::{Kind, Token, first_word, identifier, is_keyword, tokens};
use super::mention::Table;
use super::statement::{Class, Statement, is_write_verb, main_verb, nested_write};
use super::ways::Ways;
use super::write::with::with_list;
use std::collections::BTreeSet;

/// Why a query that the shadow could answer stays on the source when its text has other statements.
pub const AMONG: &str = "it is one of several statements of one text";
/// What to do about that.
pub const AMONG_WAY_OUT: &str = "send it as a text of its own";

/// Why what a statement reads of a migrated table stays on the source, though it is no query.
pub fn reads(text: &str, statement: &Statement) -> Option<&'static str> {
    let names = || statement.names.iter().any(|name| name.table != Table::Shadow);
    if !matches!(statement.class, Class::Passthrough) || !names() {
        return None;
    }
    let text = text.get(statement.at.clone())?;
    // A query of the source itself is passed on only for what it writes besides.
    let names_source = || statement.names.iter().any(|name| name.table == Table::Source);
    let mut buffer = [0; 16];
    match first_word(text.as_bytes(), &mut buffer)? {
        "declare" => Some("it is read by a cursor"),
        "copy" => Some("it is read by COPY"),
        "explain" => Some("the plan that EXPLAIN shows is the source's"),
        "select" | "with" | "values" | "table" if !names_source() && !writes(text) => {
            Some("partitions by their names are the source's")
        }
        "insert" | "update" | "delete" | "merge" | "select" | "with" | "values" | "table" => {
            Some("it is read by a statement that writes another table")
        }
        "create" if is_filled(text) => Some("it is read to fill another table"),
        _ => None,
    }
}

/// Whether it is a write, be it in its WITH list.
fn writes(text: &str) -> bool {
    let tokens = tokens(text).unwrap_or_default();
    let main = main_verb(text, &tokens).and_then(|verb| tokens.get(verb));
    main.is_some_and(|verb| is_write_verb(text, verb)) || nested_write(text, &tokens, 0).is_some()
}

/// The views by which a statement that names no migrated table reads some.
pub fn views(text: &str, statement: &Statement, ways: &Ways) -> Vec<String> {
    const READS: [&str; 13] = [
        "select", "with", "values", "table", "insert", "update", "delete", "merge", "copy",
        "declare", "explain", "create", "execute",
    ];
    let passes = matches!(statement.class, Class::Passthrough) && statement.names.is_empty();
    if !passes || ways.views.is_empty() {
        return Vec::new();
    }
    let Some(text) = text.get(statement.at.clone()) else { return Vec::new() };
    let mut buffer = [0; 16];
    if !first_word(text.as_bytes(), &mut buffer).is_some_and(|word| READS.contains(&word)) {
        return Vec::new();
    }
    let tokens = tokens(text).unwrap_or_default();
    let mut found = BTreeSet::new();
    for (at, token) in tokens.iter().enumerate() {
        let Some(name) = identifier(text, token) else { continue };
        let is_way = ways.views.contains(&name) && ways.relations.contains_key(&name);
        if is_way && is_read(text, &tokens, at) {
            found.insert(name);
        }
    }
    found.into_iter().collect()
}

/// Whether the name that ends at this token is that of a relation in a FROM list, or the like.
fn is_read(text: &str, tokens: &[Token], at: usize) -> bool {
    const BEFORE: [&str; 6] = ["from", "join", "table", "only", "using", "copy"];
    const CLAUSES: [&str; 14] = [
        "select",
        "from",
        "using",
        "join",
        "on",
        "where",
        "set",
        "values",
        "returning",
        "by",
        "having",
        "limit",
        "into",
        "as",
    ];
    let mut start = at;
    while let Some(dot) = start.checked_sub(1).filter(|d| tokens.get(*d).is_some_and(is_dot)) {
        start = dot.saturating_sub(1);
    }
    let before = tokens.get(..start).unwrap_or_default();
    let Some(last) = before.last() else { return false };
    let is_one = |token: &Token, words: &[&str]| words.iter().any(|w| is_keyword(text, token, w));
    if last.kind != Kind::Comma {
        return is_one(last, &BEFORE);
    }
    let clause = before.iter().rev().find(|t| t.depth == last.depth && is_one(t, &CLAUSES));
    clause.is_some_and(|clause| is_one(clause, &["from", "using", "join", "on", "as"]))
}

fn is_dot(token: &Token) -> bool {
    token.kind == Kind::Dot
}

/// The names that mean a WITH query of the statement wherever it says them.
pub fn with_names(text: &str, statement: &Statement) -> BTreeSet<String> {
    let text = text.get(statement.at.clone()).unwrap_or_default();
    let tokens = tokens(text).unwrap_or_default();
    let Some(list) = with_list(text, &tokens) else { return BTreeSet::new() };
    let named = |item: &super::write::with::Item| {
        // Until its own end, it may mean a table.
        let before = tokens.get(..item.at.end).unwrap_or_default();
        let said = before.iter().filter(|t| identifier(text, t).as_deref() == Some(&*item.name));
        list.is_recursive || said.count() == 1
    };
    list.items.iter().filter(|item| named(item)).map(|item| item.name.clone()).collect()
}

/// Whether a CREATE has a query that it runs.
fn is_filled(text: &str) -> bool {
    let tokens = tokens(text).unwrap_or_default();
    let has = |word: &str| tokens.iter().any(|t| t.depth == 0 && is_keyword(text, t, word));
    has("as") && (has("table") || has("materialized"))
}
