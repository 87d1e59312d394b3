//! The two forms of a mapping that mean more than "some expression": a bare column, and a column
//! under one cast. Everything else is opaque here; Postgres alone understands it.

use crate::sql::ident::Ident;

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
        return (!inner.is_empty() && !inner.contains('"')).then(|| Ident::new(inner));
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
}
