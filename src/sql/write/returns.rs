//! Whether a RETURNING says something of the rows: then the server asks for the right to read them, and
//! policies hide what they hide; with constants alone it does neither.
//!
//! A name is a column where nothing else can be meant: a word may also be a type, a function, a label, or
//! a column of another table.

use super::Returns;
use crate::sql::lex::{Kind, Token, identifier, is_keyword};
use crate::sql::mention::is_reserved;
use crate::sql::target::Target;

/// The table whose rows they are.
pub(super) struct Of<'a> {
    /// What it is called in the statement.
    pub(super) refname: &'a str,
    /// Whether a bare column can be of no other table.
    pub(super) is_alone: bool,
    pub(super) target: &'a Target,
}

/// What a list of RETURNING says.
pub(super) fn returns(text: &str, list: &[Token], of: &Of<'_>) -> Returns {
    let top = list.first().map_or(0, |t| t.depth);
    let says =
        |at: usize| list.get(at).is_some_and(|t| t.depth == top) && of.is_said(text, list, at);
    match (0..list.len()).any(says) {
        true => Returns::Rows,
        false => Returns::Nothing,
    }
}

impl Of<'_> {
    /// Whether the tokens from one on are a column, a row or all of it, as an operand or an item.
    fn is_said(&self, text: &str, list: &[Token], at: usize) -> bool {
        let spelled = |t: &Token| text.get(t.at.clone()).unwrap_or_default();
        let begins =
            at.checked_sub(1).and_then(|before| list.get(before)).is_none_or(|t| match t.kind {
                Kind::Comma => true,
                Kind::Operator => !spelled(t).contains(':'),
                _ => false,
            });
        let Some(first) = list.get(at).filter(|_| begins) else { return false };
        let is_star = |t: &Token| spelled(t) == "*";
        if is_star(first) {
            let before = at.checked_sub(1).and_then(|before| list.get(before));
            return self.is_alone && before.is_none_or(|t| t.kind == Kind::Comma);
        }
        let Some(name) = identifier(text, first) else { return false };
        if first.kind == Kind::Word && is_reserved(&name) {
            return false;
        }
        let ends = |next: Option<&Token>| {
            next.is_none_or(|t| {
                matches!(t.kind, Kind::Comma | Kind::Operator) || is_keyword(text, t, "as")
            })
        };
        match list.get(at + 1) {
            Some(dot) if dot.kind == Kind::Dot => {
                let column = list.get(at + 2);
                let is_column = column.is_some_and(|t| is_star(t) || identifier(text, t).is_some());
                name == self.refname && is_column && ends(list.get(at + 3))
            }
            next => {
                let of_table = self.target.columns.iter().any(|c| *c.as_str() == *name);
                ends(next) && (name == self.refname || self.is_alone && of_table)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::target;
    use super::*;
    use crate::sql::ident::Ident;
    use crate::sql::lex::tokens;

    fn said(list: &str, is_alone: bool) -> Returns {
        let names = ["id", "a", "date", "name", "user", "timestamp", "double"];
        let target = Target { columns: names.map(Ident::new).into(), ..target(&["id"]) };
        returns(list, &tokens(list).unwrap(), &Of { refname: "o", is_alone, target: &target })
    }

    #[test]
    fn what_is_a_column_for_certain_says_something_of_the_row() {
        for list in [
            "*",
            "id",
            "1, id",
            "id AS x, 2",
            "a + 1",
            "1 + a",
            "\"user\"",
            "a::text",
            "o",
            "o.*",
            "o.id",
            "date",
            "name, 1",
            "-a",
        ] {
            assert_eq!(said(list, true), Returns::Rows, "{list}");
        }
        for list in ["o.*", "o", "o.id", "1, o.id AS x"] {
            assert_eq!(said(list, false), Returns::Rows, "{list}");
        }
    }

    #[test]
    fn what_may_be_anything_else_says_nothing_for_certain() {
        for list in [
            "1",
            "1 AS a",
            "1 a",
            "1::int a",
            "$1 id",
            "null id",
            "true a",
            "current_date date",
            "user",
            "case when true then 1 end a",
            "date '2020-01-01'",
            "now()::date = current_date",
            "'x'::name",
            "timestamp with time zone '2020-01-01'",
            "double precision '1'",
            "(SELECT a FROM p WHERE id = 1)",
            "(SELECT count(*) FROM p o)",
            "2 * 3",
            "date(now())",
            "x.id",
            "x.o.id",
            "1, 2",
            "id x",
        ] {
            assert_eq!(said(list, true), Returns::Nothing, "{list}");
        }
        for list in ["id", "*", "x.*"] {
            assert_eq!(said(list, false), Returns::Nothing, "{list}");
        }
    }
}
