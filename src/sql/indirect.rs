//! Statements that read a source and are no query of the client's: their reads stay on the source. It is
//! said where a team looks for what the shadow will serve.

use super::lex::{first_word, is_keyword, tokens};
use super::mention::Table;
use super::statement::{Class, Statement};

/// Why what a statement reads of a migrated table stays on the source, though it is no query.
pub fn reads(text: &str, statement: &Statement) -> Option<&'static str> {
    let names = || statement.names.iter().any(|name| name.table != Table::Shadow);
    if !matches!(statement.class, Class::Passthrough) || !names() {
        return None;
    }
    let text = text.get(statement.at.clone())?;
    let mut buffer = [0; 16];
    match first_word(text.as_bytes(), &mut buffer)? {
        "declare" => Some("it is read by a cursor"),
        "copy" => Some("it is read by COPY"),
        "explain" => Some("the plan that EXPLAIN shows is the source's"),
        "insert" | "update" | "delete" | "merge" | "with" | "select" => {
            Some("it is read by a statement that writes another table")
        }
        "create" if is_filled(text) => Some("it is read to fill another table"),
        _ => None,
    }
}

/// Whether a CREATE has a query that it runs.
fn is_filled(text: &str) -> bool {
    let tokens = tokens(text).unwrap_or_default();
    let has = |word: &str| tokens.iter().any(|t| t.depth == 0 && is_keyword(text, t, word));
    has("as") && (has("table") || has("materialized"))
}
