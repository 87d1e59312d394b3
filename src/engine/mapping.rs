//! What can be told of a mapping from its text: the two forms that mean more than "some
//! expression" (a bare column, and a column under one cast), and whether a session's settings can
//! change its result. Everything else is opaque here; Postgres alone understands it.

use crate::sql::ident::Ident;
use crate::sql::lex::{self, Kind, Token};

/// What a mapping expression is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Form {
    /// A column, nothing else.
    Column(Ident),
    /// `column::type` or `CAST(column AS type)`; the type as written.
    Cast(Ident, String),
    /// Anything else.
    Other,
}

/// Reads the form of an expression. What is not certainly one of the two forms is `Other`.
pub(crate) fn form(expression: &str) -> Form {
    let text = strip_parentheses(expression.trim());
    if let Some(column) = whole_identifier(text) {
        return Form::Column(column);
    }
    if let Some((column, kind)) = text.split_once("::") {
        return cast(column, kind);
    }
    let inside = text
        .get(..4)
        .filter(|word| word.eq_ignore_ascii_case("cast"))
        .and_then(|_| text.get(4..))
        .map(str::trim)
        .and_then(|rest| rest.strip_prefix('('))
        .and_then(|rest| rest.strip_suffix(')'));
    let lower = inside.map(str::to_ascii_lowercase);
    match (inside, lower.as_ref().and_then(|l| l.find(" as "))) {
        (Some(inside), Some(at)) => match (inside.get(..at), inside.get(at + 4..)) {
            (Some(column), Some(kind)) => cast(column, kind),
            _ => Form::Other,
        },
        _ => Form::Other,
    }
}

fn cast(column: &str, kind: &str) -> Form {
    let kind = kind.trim();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ' ' | '(' | ')' | '.');
    match whole_identifier(strip_parentheses(column.trim())) {
        Some(column) if !kind.is_empty() && kind.chars().all(plain) => {
            Form::Cast(column, kind.to_owned())
        }
        _ => Form::Other,
    }
}

fn strip_parentheses(text: &str) -> &str {
    match text.strip_prefix('(').and_then(|t| t.strip_suffix(')')) {
        Some(inner) if !inner.contains(['(', ')']) => inner.trim(),
        _ => text,
    }
}

fn whole_identifier(text: &str) -> Option<Ident> {
    if let Some(inner) = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')) {
        // Two quotes are one; one alone ends the identifier, and more follows it.
        let name = inner.replace("\"\"", "\0");
        let whole = !name.is_empty() && !name.contains('"') && !inner.contains('\0');
        return whole.then(|| Ident::new(name.replace('\0', "\"")));
    }
    let mut chars = text.chars();
    let first = chars.next()?;
    let starts = first == '_' || first.is_ascii_alphabetic();
    let goes_on = chars.all(|c| c == '_' || c == '$' || c.is_ascii_alphanumeric());
    // A few keywords are values, not columns.
    let value = ["null", "true", "false", "default", "current_date", "current_user", "user"];
    let lower = text.to_ascii_lowercase();
    (starts && goes_on && !value.contains(&lower.as_str())).then(|| Ident::new(lower))
}

/// Which settings have to be pinned for an expression to mean the same in every session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Needs {
    /// What names and operators are found by.
    Path,
    /// All of them: it may print or read a date, a float, bytes, call a function, …
    Everything,
}

/// Whether values of a type are printed and read the same under all settings.
pub(crate) fn is_plain(type_oid: u32) -> bool {
    // bool, int8, int2, int4, text, bpchar, varchar, numeric, uuid
    [16, 20, 21, 23, 25, 1042, 1043, 1700, 2950].contains(&type_oid)
}

/// What an expression that is stored in a column of type `stored_as` needs. `type_of` knows the
/// source's columns. Only what is certain counts: columns, numbers, strings and arithmetic over
/// plain types.
pub(crate) fn needs(
    expression: &str,
    stored_as: u32,
    type_of: impl Fn(&Ident) -> Option<u32>,
) -> Needs {
    let plain = match form(expression) {
        Form::Column(name) if type_of(&name) == Some(stored_as) => true,
        _ => is_plain(stored_as) && is_plain_arithmetic(expression, &type_of),
    };
    if plain { Needs::Path } else { Needs::Everything }
}

fn is_plain_arithmetic(expression: &str, type_of: &impl Fn(&Ident) -> Option<u32>) -> bool {
    const TYPES: [&str; 13] = [
        "bool", "boolean", "int", "integer", "int2", "int4", "int8", "smallint", "bigint",
        "numeric", "decimal", "text", "varchar",
    ];
    const OPERATORS: [&str; 7] = ["+", "-", "*", "/", "%", "||", "::"];
    let Ok(tokens) = lex::tokens(expression) else { return false };
    let text = |token: &Token| expression.get(token.at.clone()).unwrap_or_default();
    let opens = |at: usize| tokens.get(at + 1).is_some_and(|next| next.kind == Kind::Open);
    tokens.iter().enumerate().all(|(at, token)| match token.kind {
        Kind::Word | Kind::Quoted => {
            let Some(name) = lex::identifier(expression, token) else { return false };
            let cast_to = at.checked_sub(1).and_then(|before| tokens.get(before));
            if cast_to.is_some_and(|before| text(before) == "::") {
                return TYPES.contains(&name.as_str());
            }
            // A name before a parenthesis is called.
            !opens(at) && type_of(&Ident::new(name)).is_some_and(is_plain)
        }
        Kind::Number | Kind::Open | Kind::Close | Kind::Comma => text(token) != "[",
        Kind::Text => text(token).starts_with('\''),
        Kind::Operator => OPERATORS.contains(&text(token)),
        Kind::UnicodeQuoted | Kind::Param | Kind::Semicolon | Kind::Dot => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_a_column_and_a_cast_and_nothing_more() {
        let id = || Ident::new("id");
        for (text, expected) in [
            ("id", Form::Column(id())),
            (" (ID) ", Form::Column(id())),
            ("\"Id\"", Form::Column(Ident::new("Id"))),
            ("\"a \"\"b\"\"\"", Form::Column(Ident::new("a \"b\""))),
            ("\"a\" \"b\"", Form::Other),
            ("\"a\"\"", Form::Other),
            ("id::bigint", Form::Cast(id(), "bigint".into())),
            ("(id)::numeric(10)", Form::Cast(id(), "numeric(10)".into())),
            ("CAST(id AS bigint)", Form::Cast(id(), "bigint".into())),
            ("id + 1", Form::Other),
            ("id::text::bigint", Form::Other),
            ("id::bigint * 100", Form::Other),
            ("'id'", Form::Other),
            ("null", Form::Other),
            ("f(id)", Form::Other),
            ("", Form::Other),
        ] {
            assert_eq!(form(text), expected, "{text}");
        }
    }

    #[test]
    fn only_what_is_certain_does_without_the_settings() {
        let columns = [("a", 23), ("t", 25), ("ts", 1184), ("f", 701), ("n", 1700)];
        let type_of = |name: &Ident| {
            columns.iter().find(|(column, _)| *column == name.as_str()).map(|(_, oid)| *oid)
        };
        let (int8, text, timestamptz) = (20, 25, 1184);
        for (expression, stored_as, expected) in [
            ("a", int8, Needs::Path),
            ("a::bigint * 100", int8, Needs::Path),
            ("(a + 1) % 7", int8, Needs::Path),
            ("'USD'", text, Needs::Path),
            ("t || '-' || n::numeric(10, 2)::text", text, Needs::Path),
            ("ts", timestamptz, Needs::Path),
            ("ts", text, Needs::Everything),
            ("t", timestamptz, Needs::Everything),
            ("'2020-01-01'", timestamptz, Needs::Everything),
            ("f::text", text, Needs::Everything),
            ("f::numeric", 1700, Needs::Everything),
            ("t::date::text", text, Needs::Everything),
            ("lower(t)", text, Needs::Everything),
            ("a(t)", text, Needs::Everything),
            ("E'\\x41'", text, Needs::Everything),
            ("a = NULL", 16, Needs::Everything),
            ("CASE WHEN a > 1 THEN 1 END", int8, Needs::Everything),
            ("o.a", int8, Needs::Everything),
            ("a[1]", int8, Needs::Everything),
            ("$1", int8, Needs::Everything),
            ("'", text, Needs::Everything),
        ] {
            assert_eq!(needs(expression, stored_as, type_of), expected, "{expression}");
        }
    }
}
