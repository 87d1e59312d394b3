//! A statement without its values, so that it can be counted, shown and kept: constants become
//! `?`, their signs with them, lists of any length one, comments go, unquoted words are folded. What
//! is left is made of keywords, names, operators and parameters; no value of a client's is in it.
//!
//! It says what is alike to who reads it, and is no promise that two statements are planned alike:
//! what is known of a query's shadow form is kept by [`super::read::Read::fingerprint`].

use super::lex::{Kind, Token, tokens};
use std::borrow::Cow;

/// Words that no value ends with: a sign behind one belongs to what follows.
const BEFORE_SIGN: [&str; 31] = [
    "all",
    "and",
    "any",
    "between",
    "by",
    "case",
    "distinct",
    "else",
    "except",
    "for",
    "from",
    "having",
    "ilike",
    "in",
    "intersect",
    "like",
    "limit",
    "not",
    "offset",
    "on",
    "or",
    "returning",
    "select",
    "set",
    "some",
    "then",
    "to",
    "union",
    "when",
    "where",
    "with",
];
/// Constants that are words.
const CONSTANTS: [&str; 3] = ["null", "true", "false"];

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
    let mut list = List::default();
    for token in &all {
        list.push(piece(sql, token)?);
    }
    list.renumber();
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
    const VALUE: Piece<'static> = Piece { what: What::Value, text: Cow::Borrowed("?") };
    const MORE: Piece<'static> = Piece { what: What::More, text: Cow::Borrowed(", …") };

    fn is(&self, kind: Kind) -> bool {
        self.what == What::Token(kind)
    }

    fn is_value(&self) -> bool {
        self.what == What::Value || self.is(Kind::Param)
    }

    fn is_sign(&self) -> bool {
        self.is(Kind::Operator) && (self.text == "-" || self.text == "+")
    }

    /// Whether a value begins behind it.
    fn opens_value(&self) -> bool {
        match self.what {
            What::Token(Kind::Open | Kind::Comma | Kind::Operator | Kind::Semicolon) => true,
            What::Token(Kind::Word) => BEFORE_SIGN.contains(&self.text.as_ref()),
            What::Token(_) | What::Value | What::More => false,
        }
    }

    /// The number of a parameter.
    fn number(&self) -> Option<u32> {
        self.text.strip_prefix('$').filter(|_| self.is(Kind::Param))?.parse().ok()
    }
}

/// The pieces so far.
#[derive(Default)]
struct List<'a> {
    pieces: Vec<Piece<'a>>,
    /// Where the open brackets are.
    opened: Vec<usize>,
    /// Parameters were left out: the numbers behind them hang on how many.
    has_gaps: bool,
}

impl<'a> List<'a> {
    fn push(&mut self, mut piece: Piece<'a>) {
        if self.is_constant(&piece) {
            piece = Piece::VALUE;
        }
        if piece.what == What::Value {
            self.drop_signs();
            if self.pieces.last().is_some_and(|p| p.what == What::Value) {
                // A string that goes on.
                return;
            }
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

    /// NULL and the like, where a value stands by itself: `IS NULL` is another question than `IS TRUE`.
    fn is_constant(&self, piece: &Piece<'_>) -> bool {
        let kinds = [Kind::Open, Kind::Comma, Kind::Operator];
        let alone = self.pieces.last().is_some_and(|last| kinds.iter().any(|kind| last.is(*kind)));
        alone && piece.is(Kind::Word) && CONSTANTS.contains(&piece.text.as_ref())
    }

    /// `- ?` is `?` where the sign is the value's own.
    fn drop_signs(&mut self) {
        while let [before @ .., sign] = self.pieces.as_slice()
            && sign.is_sign()
            && before.last().is_none_or(Piece::opens_value)
        {
            self.pieces.pop();
        }
    }

    /// `IN (?)` and `IN (?, ?, ?)` are `IN (?, …)`, and so is an array, however long.
    fn fold_list(&mut self, open: usize) {
        let before = open.checked_sub(1).and_then(|b| self.pieces.get(b));
        if !before.is_some_and(|p| p.text == "in" || p.text == "array") {
            return;
        }
        let last = self.pieces.len() - 1;
        let inside = self.pieces.get(open + 1..last).unwrap_or_default();
        let values_only = inside.iter().all(|p| p.is_value() || p.is(Kind::Comma));
        if inside.is_empty() || !values_only {
            return;
        }
        self.has_gaps |= inside.iter().skip(1).any(|p| p.is(Kind::Param));
        let close = self.pieces.pop();
        self.pieces.truncate(open + 2);
        self.pieces.push(Piece::MORE);
        self.pieces.extend(close);
    }

    /// `(?, ?), (?, ?)` is `(?, ?)`: rows of VALUES that differ in values only.
    fn fold_row(&mut self, open: usize) {
        let (Some(before), Some(row)) = (self.pieces.get(..open), self.pieces.get(open..)) else {
            return;
        };
        let Some((_, before)) = before.split_last().filter(|(comma, _)| comma.is(Kind::Comma))
        else {
            return;
        };
        let Some(first) = before.len().checked_sub(row.len()) else { return };
        let alike = |(a, b): (&Piece<'_>, &Piece<'_>)| a == b || (a.is_value() && b.is_value());
        if !before.get(first..).unwrap_or_default().iter().zip(row).all(alike) {
            return;
        }
        self.has_gaps |= row.iter().any(|p| p.is(Kind::Param));
        self.pieces.truncate(before.len());
    }

    /// Counts the parameters that are left from 1 on, in the order of their numbers.
    fn renumber(&mut self) {
        if !self.has_gaps {
            return;
        }
        let mut left: Vec<u32> = self.pieces.iter().filter_map(Piece::number).collect();
        left.sort_unstable();
        left.dedup();
        for piece in &mut self.pieces {
            if let Some(at) = piece.number().and_then(|number| left.binary_search(&number).ok()) {
                piece.text = Cow::Owned(format!("${}", at + 1));
            }
        }
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
            ("SELECT 1 WHERE a IN (1)", "select ? where a in (?, …)"),
            ("SELECT 1 WHERE a IN ($1,$2)", "select ? where a in ($1, …)"),
            ("SELECT 1 WHERE a IN ($1)", "select ? where a in ($1, …)"),
            ("SELECT 1 WHERE a IN (b)", "select ? where a in (b)"),
            ("SELECT ARRAY[1, 2, 3]", "select array[?, …]"),
            ("INSERT INTO t VALUES (1, 'a'), (2, 'b')", "insert into t values (?, ?)"),
            ("INSERT INTO t VALUES (1, 'a'), (2, NULL)", "insert into t values (?, ?)"),
            (
                "INSERT INTO t VALUES ($1, f(1)),($2, f(2)),($3, f(3)) RETURNING a",
                "insert into t values ($1, f(?)) returning a",
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
    fn a_sign_is_part_of_its_value_and_an_operator_is_not() {
        for (text, one) in [
            (
                "INSERT INTO t VALUES (1, -2, +3.5), (-1, - 2, - -3)",
                "insert into t values (?, ?, ?)",
            ),
            ("SELECT -1 WHERE a IN (-1, 2, -3)", "select ? where a in (?, …)"),
            ("SELECT a WHERE a=-1 AND b>-'2'::int", "select a where a = ? and b > ?::int"),
            ("SELECT ARRAY[-1], f(-1, +2), x[-1]", "select array[?, …], f(?, ?), x[?]"),
            ("SELECT a WHERE a BETWEEN -5 AND -3", "select a where a between ? and ?"),
            (
                "SELECT CASE WHEN b THEN -1 ELSE -2 END - 3",
                "select case when b then ? else ? end - ?",
            ),
            ("SELECT a - 1, 2 - 1, (a) + 1, a - -1", "select a - ?, ? - ?, (a) + ?, a - ?"),
            ("SELECT -a, - $1", "select - a, - $1"),
        ] {
            assert_eq!(normal(text).unwrap(), one);
        }
    }

    #[test]
    fn parameters_behind_a_list_do_not_hang_on_its_length() {
        for texts in [
            [
                "SELECT a FROM t WHERE a IN ($1) AND b = $2",
                "SELECT a FROM t WHERE a IN ($1, $2, $3) AND b = $4",
            ],
            [
                "SELECT a FROM t WHERE a IN ($2) AND b = $1",
                "SELECT a FROM t WHERE a IN ($2, $3) AND b = $1",
            ],
            [
                "INSERT INTO t VALUES ($1, $2) ON CONFLICT (a) DO UPDATE SET b = $3",
                "INSERT INTO t VALUES ($1, $2), ($3, $4) ON CONFLICT (a) DO UPDATE SET b = $5",
            ],
        ] {
            assert_eq!(normal(texts[0]), normal(texts[1]));
        }
        let apart = ["SELECT a = $1 AND b = $2", "SELECT a = $2 AND b = $1"];
        assert_ne!(normal(apart[0]), normal(apart[1]));
    }

    #[test]
    fn constants_that_are_words_are_values_and_tests_for_them_are_not() {
        for (text, one) in [
            ("INSERT INTO t VALUES (NULL, true)", "insert into t values (?, ?)"),
            ("UPDATE t SET a = NULL, b = false", "update t set a = ?, b = ?"),
            ("SELECT a WHERE b IS NOT NULL", "select a where b is not null"),
        ] {
            assert_eq!(normal(text).unwrap(), one);
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
