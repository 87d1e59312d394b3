//! A statement without its values, so that it can be counted, shown and kept: constants become
//! `?`, lists of them one, comments go, unquoted words are folded. What is left is made of
//! keywords, names, operators and parameters; no value of a client's is in it.

use super::lex::{Kind, Token, tokens};
use std::borrow::Cow;

/// Words before a parenthesis that is no argument list.
const BEFORE_GROUP: [&str; 40] = [
    "all",
    "and",
    "any",
    "array",
    "as",
    "by",
    "case",
    "check",
    "conflict",
    "cube",
    "distinct",
    "else",
    "except",
    "exists",
    "explain",
    "filter",
    "from",
    "group",
    "having",
    "in",
    "intersect",
    "into",
    "join",
    "lateral",
    "limit",
    "materialized",
    "not",
    "on",
    "or",
    "over",
    "returning",
    "select",
    "set",
    "some",
    "then",
    "union",
    "using",
    "values",
    "when",
    "where",
];

/// The statement without its values; `None` if it cannot be read.
pub fn normal(sql: &str) -> Option<String> {
    let all = tokens(sql).ok()?;
    let mut list = List { pieces: Vec::with_capacity(all.len()), opened: Vec::new() };
    for token in &all {
        list.push(piece(sql, token)?);
    }
    let mut text = String::with_capacity(sql.len().min(1 << 12));
    let mut before: Option<&Piece<'_>> = None;
    for piece in &list.pieces {
        if before.is_some_and(|before| parts(before, piece)) {
            text.push(' ');
        }
        text.push_str(&piece.text);
        before = Some(piece);
    }
    Some(text)
}

/// One word of the result.
#[derive(Debug, Clone, PartialEq)]
struct Piece<'a> {
    what: What,
    text: Cow<'a, str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// A constant.
    Value,
    /// "And so on."
    More,
    Token(Kind),
}

fn piece<'a>(sql: &'a str, token: &Token) -> Option<Piece<'a>> {
    let spelled = sql.get(token.at.clone())?;
    Some(match token.kind {
        Kind::Text | Kind::Number => Piece { what: What::Value, text: Cow::Borrowed("?") },
        Kind::Word if spelled.bytes().any(|b| b.is_ascii_uppercase()) => {
            Piece { what: What::Token(Kind::Word), text: Cow::Owned(spelled.to_ascii_lowercase()) }
        }
        kind => Piece { what: What::Token(kind), text: Cow::Borrowed(spelled) },
    })
}

impl Piece<'_> {
    const MORE: Piece<'static> = Piece { what: What::More, text: Cow::Borrowed(", …") };

    fn is(&self, kind: Kind) -> bool {
        self.what == What::Token(kind)
    }

    fn is_value(&self) -> bool {
        self.what == What::Value || self.is(Kind::Param)
    }
}

/// The pieces so far.
struct List<'a> {
    pieces: Vec<Piece<'a>>,
    /// Where the open brackets are.
    opened: Vec<usize>,
}

impl<'a> List<'a> {
    fn push(&mut self, piece: Piece<'a>) {
        let value = piece.what == What::Value;
        if value && self.pieces.last().is_some_and(|p| p.what == What::Value) {
            // A string that goes on.
            return;
        }
        let (opens, closes) = (piece.is(Kind::Open), piece.is(Kind::Close));
        if opens {
            self.opened.push(self.pieces.len());
        }
        self.pieces.push(piece);
        if closes && let Some(open) = self.opened.pop() {
            self.fold_list(open);
            self.fold_row(open);
        }
    }

    /// `IN (?, ?, ?)` is `IN (?, …)`, and so is an array, however long.
    fn fold_list(&mut self, open: usize) {
        let before = open.checked_sub(1).and_then(|b| self.pieces.get(b));
        if !before.is_some_and(|p| p.text == "in" || p.text == "array") {
            return;
        }
        let last = self.pieces.len() - 1;
        let inside = self.pieces.get(open + 1..last).unwrap_or_default();
        let values_only = inside.iter().all(|p| p.is_value() || p.is(Kind::Comma));
        if inside.len() < 3 || !values_only {
            return;
        }
        let close = self.pieces.pop();
        self.pieces.truncate(open + 2);
        self.pieces.push(Piece::MORE);
        self.pieces.extend(close);
    }

    /// `(?, ?), (?, ?)` is `(?, ?), …`: rows of VALUES that differ in values only.
    fn fold_row(&mut self, open: usize) {
        let (Some(before), Some(row)) = (self.pieces.get(..open), self.pieces.get(open..)) else {
            return;
        };
        let Some((_, before)) = before.split_last().filter(|(comma, _)| comma.is(Kind::Comma))
        else {
            return;
        };
        let before = match before.split_last() {
            Some((more, before)) if more.what == What::More => before,
            _ => before,
        };
        let Some(first) = before.len().checked_sub(row.len()) else { return };
        let alike = |(a, b): (&Piece<'_>, &Piece<'_>)| a == b || (a.is_value() && b.is_value());
        if !before.get(first..).unwrap_or_default().iter().zip(row).all(alike) {
            return;
        }
        self.pieces.truncate(before.len());
        self.pieces.push(Piece::MORE);
    }
}

/// Whether a blank stands between two pieces.
fn parts(before: &Piece<'_>, piece: &Piece<'_>) -> bool {
    let tight_before = before.is(Kind::Open) || before.is(Kind::Dot) || before.text == "::";
    let tight = match piece.what {
        What::More => true,
        What::Token(Kind::Close | Kind::Comma | Kind::Semicolon | Kind::Dot) => true,
        What::Token(Kind::Open) if piece.text == "[" => true,
        What::Token(Kind::Open) => {
            let name = before.is(Kind::Word) || before.is(Kind::Quoted);
            name && !BEFORE_GROUP.contains(&before.text.as_ref())
        }
        What::Token(_) | What::Value => piece.text == "::",
    };
    !tight && !tight_before
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_that_differ_in_values_blanks_and_case_are_one() {
        let texts = [
            "SELECT a.*, count(*) FROM t AS a WHERE id = 7 AND n='x'::text LIMIT 1",
            "select a.*,count ( * )\nfrom t as a -- note\nwhere id=1e5 and n = E'\\'y' :: text limit 99",
        ];
        let one = "select a.*, count(*) from t as a where id = ? and n = ?::text limit ?";
        assert_eq!(texts.map(|t| normal(t).unwrap()), [one, one]);
    }

    #[test]
    fn no_value_and_no_comment_is_left() {
        for value in [
            "'secret'",
            "'it''s secret'",
            "E'secret\\'secret'",
            "e'a'",
            "U&'\\0073ecret' UESCAPE 's'",
            "$$secret$$",
            "$s$ secret $$ secret $s$",
            "B'1001'",
            "X'5ec7e7'",
            "n'secret'",
            "5367",
            "53.67e-5",
            "0x5367",
            "5_367",
            "'secret'\n  'secret'",
            "/* secret */ 5 -- secret",
        ] {
            let text = normal(&format!("UPDATE t SET a = {value}\nWHERE id = $1")).unwrap();
            let text = text.replace(" uescape ?", "");
            assert_eq!(text, "update t set a = ? where id = $1", "{value}");
        }
        assert_eq!(normal("SELECT 'open"), None);
        assert_eq!(normal("DO $$ BEGIN secret; END $$").unwrap(), "do ?");
    }

    #[test]
    fn lists_and_rows_of_any_length_are_one() {
        for (list, one) in [
            ("SELECT 1 WHERE a IN (1, 2, 3, 4)", "select ? where a in (?, …)"),
            ("SELECT 1 WHERE a IN ($1,$2)", "select ? where a in ($1, …)"),
            ("SELECT ARRAY[1, 2, 3]", "select array[?, …]"),
            ("INSERT INTO t VALUES (1, 'a'), (2, 'b')", "insert into t values (?, ?), …"),
            (
                "INSERT INTO t VALUES ($1, f(1)),($2, f(2)),($3, f(3)) RETURNING a",
                "insert into t values ($1, f(?)), … returning a",
            ),
            (
                "INSERT INTO t VALUES (1, 'a'), (2, now())",
                "insert into t values (?, ?), (?, now())",
            ),
            ("SELECT f(1, 2, 3), f(1, 2, 3)", "select f(?, ?, ?), f(?, ?, ?)"),
        ] {
            assert_eq!(normal(list).unwrap(), one);
        }
    }

    #[test]
    fn quoted_names_stay_as_they_are() {
        let sql = "SELECT \"O\".\"Total %\" FROM \"S\".\"Or\"\"ders\" AS \"O\"";
        assert_eq!(
            normal(sql).unwrap(),
            sql.replace("SELECT", "select").replace("FROM", "from").replace("AS", "as")
        );
    }
}
