//! The names that the columns of a RETURNING list have, where the tokens tell them: what stands in
//! for a WITH item has to have the same.

use crate::sql::cursor::Cursor;
use crate::sql::ident::Ident;
use crate::sql::lex::{Kind, Token, identifier, is_keyword};
use crate::sql::reason::Reason;

/// What the server calls a column that is no column and no function.
const NAMELESS: &str = "?column?";

/// Words that are no name of a column of theirs: constants, and what begins an expression of a
/// grammar of its own.
const NO_COLUMN: [&str; 20] = [
    "null",
    "true",
    "false",
    "default",
    "not",
    "case",
    "select",
    "exists",
    "array",
    "row",
    "interval",
    "cast",
    "date",
    "time",
    "timestamp",
    "values",
    "some",
    "any",
    "all",
    "distinct",
];

/// Functions of a grammar of their own: their names are not always those of their columns.
const NO_FUNCTION: [&str; 34] = [
    "between",
    "bigint",
    "bit",
    "boolean",
    "char",
    "character",
    "dec",
    "decimal",
    "extract",
    "float",
    "grouping",
    "inout",
    "int",
    "integer",
    "national",
    "nchar",
    "none",
    "normalize",
    "numeric",
    "out",
    "overlay",
    "position",
    "precision",
    "real",
    "setof",
    "smallint",
    "substring",
    "treat",
    "trim",
    "varchar",
    "json_query",
    "json_value",
    "in",
    "like",
];

/// What a list is about.
pub(super) struct Returned<'a> {
    /// What the table is called in the statement.
    pub(super) refname: &'a str,
    /// The table's columns, where they are known for sure.
    pub(super) columns: Option<&'a [Ident]>,
    /// Whether `*` is the table's columns and no more.
    pub(super) is_alone: bool,
}

/// The names of the columns of a list, in order.
pub(super) fn names(
    text: &str,
    tokens: &[Token],
    returned: &Returned<'_>,
) -> Result<Vec<String>, Reason> {
    let top = tokens.first().ok_or(Reason::WriteShape)?.depth;
    let mut names = Vec::new();
    for item in tokens.split(|t| t.kind == Kind::Comma && t.depth == top) {
        if let Some(whole) = returned.star(text, item)? {
            names.extend(whole.iter().map(|c| c.as_str().to_owned()));
        } else {
            names.push(name(text, item).ok_or(Reason::ReturningNames)?);
        }
    }
    Ok(names)
}

impl<'a> Returned<'a> {
    /// The columns that `*` or `t.*` stands for, if the item is one.
    fn star(&self, text: &str, item: &[Token]) -> Result<Option<&'a [Ident]>, Reason> {
        let is_star = |t: &Token| text.get(t.at.clone()) == Some("*");
        let of_table = match item {
            [star] if is_star(star) => self.is_alone,
            [table, dot, star] if dot.kind == Kind::Dot && is_star(star) => {
                identifier(text, table).as_deref() == Some(self.refname)
            }
            [.., dot, star] if dot.kind == Kind::Dot && is_star(star) => false,
            _ => return Ok(None),
        };
        self.columns.filter(|_| of_table).map(Some).ok_or(Reason::ReturningNames)
    }
}

fn name(text: &str, item: &[Token]) -> Option<String> {
    let (last, before) = item.split_last()?;
    if let Some((word, expression)) = before.split_last()
        && is_keyword(text, word, "as")
        && !expression.is_empty()
    {
        return identifier(text, last);
    }
    if let Some(label) = bare_label(text, last, before) {
        return Some(label);
    }
    column(text, item).or_else(|| call(text, item)).or_else(|| nameless(text, item))
}

/// `expression label`, where the expression is one that cannot go on with a word.
fn bare_label(text: &str, last: &Token, before: &[Token]) -> Option<String> {
    const GO_ON: [&str; 2] = ["isnull", "notnull"];
    if last.kind == Kind::Word && GO_ON.iter().any(|w| is_keyword(text, last, w)) {
        return None;
    }
    let ends = column(text, before).or_else(|| call(text, before));
    ends.or_else(|| nameless(text, before)).and_then(|_| identifier(text, last))
}

fn is_constant(token: &Token) -> bool {
    matches!(token.kind, Kind::Number | Kind::Text | Kind::Param)
}

/// `a.b.c`.
fn column(text: &str, item: &[Token]) -> Option<String> {
    let first = item.first()?;
    if first.kind == Kind::Word && NO_COLUMN.iter().any(|w| is_keyword(text, first, w)) {
        return None;
    }
    let mut c = Cursor::new(text, item);
    let (name, _) = c.qualified_name()?;
    (c.at == item.len()).then_some(name)
}

/// `f(…)`.
fn call(text: &str, item: &[Token]) -> Option<String> {
    let first = item.first()?;
    let of_its_own = |words: &[&str]| words.iter().any(|w| is_keyword(text, first, w));
    if first.kind == Kind::Word && (of_its_own(&NO_COLUMN) || of_its_own(&NO_FUNCTION)) {
        return None;
    }
    let mut c = Cursor::new(text, item);
    let (name, _) = c.qualified_name()?;
    let called = c.is_text("(") && c.eat_group();
    (called && c.at == item.len()).then_some(name)
}

/// A constant, or operands with an operator between them.
fn nameless(text: &str, item: &[Token]) -> Option<String> {
    const CASTS: [&str; 4] = ["::", ":", ":=", "=>"];
    let top = item.first()?.depth;
    if let [only] = item {
        return is_constant(only).then(|| NAMELESS.to_owned());
    }
    let mut operators = 0;
    let mut after_operand = false;
    let mut called = false;
    for token in item.iter().filter(|t| t.depth == top) {
        let word = text.get(token.at.clone())?;
        match token.kind {
            Kind::Operator if CASTS.contains(&word) => return None,
            Kind::Operator => {
                operators += 1;
                (after_operand, called) = (false, false);
            }
            Kind::Dot => (after_operand, called) = (false, false),
            Kind::Open if word == "(" => {
                // Of a call, or around an expression; not of IN (…) or the like.
                if after_operand && !called {
                    return None;
                }
                after_operand = true;
            }
            Kind::Close if word == ")" => called = false,
            Kind::Word | Kind::Quoted if !after_operand => {
                let reserved = |words: &[&str]| words.iter().any(|w| is_keyword(text, token, w));
                if token.kind == Kind::Word && (reserved(&NO_COLUMN) || reserved(&NO_FUNCTION)) {
                    return None;
                }
                (after_operand, called) = (true, true);
            }
            Kind::Number | Kind::Text | Kind::Param if !after_operand => after_operand = true,
            _ => return None,
        }
    }
    (operators > 0 && after_operand).then(|| NAMELESS.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::lex::tokens;

    fn of(list: &str) -> Option<String> {
        let columns = [Ident::new("id"), Ident::new("Note")];
        let returned = Returned { refname: "o", columns: Some(&columns), is_alone: true };
        names(list, &tokens(list).unwrap(), &returned).ok().map(|names| names.join("|"))
    }

    #[test]
    fn names_are_those_that_the_server_gives() {
        for (list, names) in [
            ("id", "id"),
            ("*", "id|Note"),
            ("o.*, ID", "id|Note|id"),
            ("o.Id, public.orders.note, \"A b\"", "id|note|A b"),
            (
                "id AS x, id y, 'a' \"Z\", $1 AS \"null\", id + 1 AS sum, a = 1 eq",
                "x|y|Z|null|sum|eq",
            ),
            ("o, count(*), pg_catalog.upper(note), coalesce(a, b) c", "o|count|upper|c"),
            ("1, 'a', $1, -1, id + 1, a || b || 'c', (a + b) * 2", &["?column?"; 7].join("|")),
            ("f(a) + g(b, c), a.b - c.d, current_user", "?column?|?column?|current_user"),
        ] {
            assert_eq!(of(list).as_deref(), Some(names), "{list}");
        }
    }

    #[test]
    fn a_name_that_is_not_sure_is_none() {
        for list in [
            "x.*",
            "id::text",
            "'5'::int",
            "CASE WHEN a = 1 THEN 2 END",
            "a IS NULL",
            "a isnull",
            "not x",
            "date '2020-01-01'",
            "interval '1' day",
            "null",
            "(SELECT 1)",
            "(id)",
            "(o).note",
            "a IN (1)",
            "a + b c d",
            "a = 1 isnull",
            "a < ALL (b)",
            "extract(year FROM a)",
            "a AND b",
            "array[1]",
            "a[1]",
            "a COLLATE \"C\"",
            "a AT TIME ZONE 'x'",
            "cast(a AS int)",
            "exists (select 1)",
            "int '5'",
            "",
        ] {
            assert_eq!(of(list), None, "{list}");
        }
    }
}
