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
    let Ok(tokens) = lex::tokens(expression) else { return Form::Other };
    let tokens = without_parentheses(expression, &tokens);
    let spelled = |token: &Token| expression.get(token.at.clone()).unwrap_or_default();
    if let Some(column) = column(expression, tokens) {
        return Form::Column(column);
    }
    let (from, to) = match tokens {
        [cast, open, inside @ .., close]
            if lex::is_keyword(expression, cast, "cast")
                && spelled(open) == "("
                && spelled(close) == ")" =>
        {
            let at = inside.iter().position(|token| lex::is_keyword(expression, token, "as"));
            (at.and_then(|at| inside.get(..at)), at.and_then(|at| inside.get(at + 1..)))
        }
        _ => {
            let at = tokens.iter().position(|token| spelled(token) == "::");
            (at.and_then(|at| tokens.get(..at)), at.and_then(|at| tokens.get(at + 1..)))
        }
    };
    let from = from.and_then(|tokens| column(expression, without_parentheses(expression, tokens)));
    let kind = to.filter(|tokens| is_type(expression, tokens));
    let kind = kind.and_then(|tokens| Some(tokens.first()?.at.start..tokens.last()?.at.end));
    let kind = kind.and_then(|at| expression.get(at)).unwrap_or_default();
    let plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ' ' | '(' | ')' | '.' | ',');
    match from {
        Some(column) if !kind.is_empty() && kind.chars().all(plain) => {
            Form::Cast(column, kind.to_owned())
        }
        _ => Form::Other,
    }
}

/// Types of whole numbers from 32 bits on, by all their names.
const WHOLE: [&str; 5] = ["int", "int4", "integer", "int8", "bigint"];

/// Whether a cast is to one of these.
pub(crate) fn is_whole(kind: &str) -> bool {
    WHOLE.contains(&kind)
}

/// `column * number`, or with another operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scaled {
    pub(crate) column: Ident,
    /// Above zero.
    pub(crate) by: u32,
    /// The whole number that the column is cast to, before.
    pub(crate) column_as: Option<String>,
    /// The same of the result.
    pub(crate) result_as: Option<String>,
}

/// Reads `column * number` (or another operator), the column or the whole perhaps under a cast to a whole
/// number.
pub(crate) fn scaled(expression: &str, operator: &str) -> Option<Scaled> {
    let all = lex::tokens(expression).ok()?;
    let spelled = |token: &Token| expression.get(token.at.clone()).unwrap_or_default();
    let uncast = |tokens| match without_parentheses(expression, tokens) {
        [inner @ .., cast, kind]
            if spelled(cast) == "::"
                && WHOLE.iter().any(|k| lex::is_keyword(expression, kind, k)) =>
        {
            (without_parentheses(expression, inner), Some(spelled(kind).to_ascii_lowercase()))
        }
        other => (other, None),
    };
    // The cast binds more tightly than the operator: the whole is cast only in parentheses.
    let (whole, result_as) = match without_parentheses(expression, &all) {
        tokens @ [open, ..] if spelled(open) == "(" => uncast(tokens),
        tokens => (tokens, None),
    };
    let [from @ .., sign, number] = whole else { return None };
    let by = spelled(number).parse().ok().filter(|by| *by > 0)?;
    (spelled(sign) == operator).then_some(())?;
    let (from, column_as) = uncast(from);
    Some(Scaled { column: column(expression, from)?, by, column_as, result_as })
}

/// Whether the words after a cast can be a type's: not those of an operator that follows it, and
/// with commas between the numbers behind it only.
fn is_type(text: &str, tokens: &[Token]) -> bool {
    const OPERATORS: [&str; 13] = [
        "and", "at", "between", "collate", "ilike", "in", "is", "isnull", "like", "not", "notnull",
        "or", "similar",
    ];
    let base = tokens.first().map_or(0, |token| token.depth);
    tokens.iter().all(|token| {
        !OPERATORS.iter().any(|word| lex::is_keyword(text, token, word))
            && (token.kind != Kind::Comma || token.depth > base)
    })
}

/// The tokens inside of parentheses around all of them.
fn without_parentheses<'t>(text: &str, mut tokens: &'t [Token]) -> &'t [Token] {
    let spelled = |token: &Token| text.get(token.at.clone()).unwrap_or_default();
    while let [open, inside @ .., close] = tokens
        && spelled(open) == "("
        && spelled(close) == ")"
        && inside.iter().all(|token| token.depth > open.depth)
    {
        tokens = inside;
    }
    tokens
}

/// The column that these tokens are, if they are nothing else.
fn column(text: &str, tokens: &[Token]) -> Option<Ident> {
    // A few keywords are values, not columns.
    const VALUES: [&str; 15] = [
        "null",
        "true",
        "false",
        "default",
        "user",
        "current_date",
        "current_time",
        "current_timestamp",
        "current_user",
        "current_role",
        "current_catalog",
        "current_schema",
        "session_user",
        "localtime",
        "localtimestamp",
    ];
    let [token] = tokens else { return None };
    let name = lex::identifier(text, token).filter(|name| !name.is_empty())?;
    match token.kind {
        Kind::Quoted => Some(Ident::new(name)),
        Kind::Word => (!VALUES.contains(&name.as_str())).then(|| Ident::new(name)),
        _ => None,
    }
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
            ("id::bigint", Form::Cast(id(), "bigint".into())),
            ("(id)::numeric(10)", Form::Cast(id(), "numeric(10)".into())),
            ("CAST(id AS bigint)", Form::Cast(id(), "bigint".into())),
            ("cast ((id) as numeric(10, 2))", Form::Cast(id(), "numeric(10, 2)".into())),
            ("id::numeric(10,1)", Form::Cast(id(), "numeric(10,1)".into())),
            ("(id::numeric(10,1))", Form::Cast(id(), "numeric(10,1)".into())),
            ("id::int, id", Form::Other),
            ("cast(id as int, id)", Form::Other),
            ("id::numeric(10,1) + 1", Form::Other),
            ("((id))", Form::Column(id())),
            ("\"a \"\"b\"\" as c::d\"", Form::Column(Ident::new("a \"b\" as c::d"))),
            ("\"a::b\" :: bigint", Form::Cast(Ident::new("a::b"), "bigint".into())),
            ("CAST(\"x as y\" AS bigint)", Form::Cast(Ident::new("x as y"), "bigint".into())),
            ("(\"(\")::int8", Form::Cast(Ident::new("("), "int8".into())),
            ("id -- the key", Form::Column(id())),
            ("(id) + (id)", Form::Other),
            ("f(id)::int", Form::Other),
            ("id::int[]", Form::Other),
            ("id::int AT TIME ZONE x", Form::Other),
            ("id::int IS NULL", Form::Other),
            ("\"\"", Form::Other),
            ("\"a\" \"b\"", Form::Other),
            ("\"a\"\"", Form::Other),
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
    fn a_column_times_a_number_is_read_and_nothing_that_only_looks_like_it() {
        for (text, operator, expected) in [
            ("total * 100", "*", Some(100)),
            ("total::bigint * 100", "*", Some(100)),
            ("(total)::int8*100", "*", Some(100)),
            ("((total * 100))", "*", Some(100)),
            ("(total * 100)::bigint", "*", Some(100)),
            ("(total / 100)::int", "/", Some(100)),
            ("total / 7", "/", Some(7)),
            ("total * 100", "/", None),
            ("total * 0", "*", None),
            ("total * -1", "*", None),
            ("total * 1.5", "*", None),
            ("total::numeric * 100", "*", None),
            ("(total / 100)::numeric", "/", None),
            ("total + 1 * 100", "*", None),
            ("(total + 1) * 100", "*", None),
            ("total / 100::int", "/", None),
            ("(total)::int / 100 + 1", "/", None),
            ("f(total) * 100", "*", None),
            ("(total) * (100)::int", "*", None),
            ("100 * total", "*", None),
            ("*", "*", None),
            ("", "*", None),
        ] {
            let read = scaled(text, operator).map(|read| (read.column, read.by));
            assert_eq!(read, expected.map(|by| (Ident::new("total"), by)), "{text}");
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
