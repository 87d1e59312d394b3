//! A statement over several lines, for people. Only the blanks between tokens change: every token
//! and every comment stays as it is, in its place, so the text means what it meant.

use super::lex::{Kind, Token, is_keyword, tokens};

/// From this column on a list goes on in the next line.
const WIDTH: usize = 80;
/// A clause of a query begins with one of these.
const CLAUSES: [&str; 20] = [
    "select",
    "from",
    "where",
    "group",
    "having",
    "window",
    "order",
    "limit",
    "offset",
    "fetch",
    "returning",
    "set",
    "values",
    "union",
    "except",
    "intersect",
    "insert",
    "update",
    "delete",
    "using",
];
const JOINS: [&str; 6] = ["left", "right", "full", "inner", "cross", "natural"];
/// A group of these is a query.
const QUERIES: [&str; 7] = ["select", "with", "insert", "update", "delete", "values", "table"];

/// The statement over several lines; as it is if it cannot be read.
pub fn pretty(sql: &str) -> String {
    let Ok(all) = tokens(sql) else { return sql.to_owned() };
    let mut layout =
        Layout { sql, all: &all, out: String::with_capacity(sql.len() * 2), nested: vec![] };
    let mut done = all.first().map_or(0, |t| t.at.start);
    for (index, token) in all.iter().enumerate() {
        layout.gap(index, sql.get(done..token.at.start).unwrap_or_default());
        layout.token(index, token);
        done = token.at.end;
    }
    layout.out
}

struct Layout<'a> {
    sql: &'a str,
    all: &'a [Token],
    out: String,
    /// Per open bracket: whether a query is in it.
    nested: Vec<bool>,
}

impl Layout<'_> {
    fn is(&self, index: usize, keyword: &str) -> bool {
        self.all.get(index).is_some_and(|t| is_keyword(self.sql, t, keyword))
    }

    fn kind(&self, index: usize) -> Option<Kind> {
        self.all.get(index).map(|t| t.kind)
    }

    fn begins_query(&self, index: usize) -> bool {
        QUERIES.iter().any(|k| self.is(index, k))
    }

    fn token(&mut self, index: usize, token: &Token) {
        match token.kind {
            Kind::Open => self.nested.push(self.begins_query(index + 1)),
            Kind::Close => drop(self.nested.pop()),
            _ => {}
        }
        self.out.push_str(self.sql.get(token.at.clone()).unwrap_or_default());
    }

    /// What stands between the token before and this one.
    fn gap(&mut self, index: usize, gap: &str) {
        let is_comment = !gap.trim().is_empty();
        // A string that goes on in the next line is one only there.
        let continues = index > 0
            && self.kind(index - 1) == Some(Kind::Text)
            && self.kind(index) == Some(Kind::Text);
        if is_comment || continues {
            return self.out.push_str(gap);
        }
        match self.breaks(index) {
            Some(deep) if index > 0 => {
                self.out.push('\n');
                self.out.extend(std::iter::repeat_n("  ", deep));
            }
            _ if gap.is_empty() => {}
            _ => self.out.push(' '),
        }
    }

    /// How deep the next line begins, if one begins before this token.
    fn breaks(&self, index: usize) -> Option<usize> {
        let deep = self.nested.iter().filter(|query| **query).count();
        if self.kind(index) == Some(Kind::Close) {
            return (self.nested.last() == Some(&true)).then(|| deep.saturating_sub(1));
        }
        if self.nested.last() == Some(&false) {
            return None;
        }
        let before = index.checked_sub(1)?;
        let opened = self.kind(before) == Some(Kind::Open);
        let clause = CLAUSES.iter().any(|k| self.is(index, k)) && !self.is_within_clause(index);
        let join =
            self.begins_join(index) || (self.is(index, "on") && self.is(index + 1, "conflict"));
        if opened || clause || join {
            return Some(deep);
        }
        let line = self.out.rsplit('\n').next().unwrap_or_default();
        let list =
            self.kind(before) == Some(Kind::Comma) || self.is(index, "and") || self.is(index, "or");
        (list && line.len() > WIDTH).then_some(deep + 2)
    }

    /// A word of a clause's name that is not its first: DISTINCT FROM, DELETE FROM, DO UPDATE SET.
    fn is_within_clause(&self, index: usize) -> bool {
        let Some(before) = index.checked_sub(1) else { return false };
        let after = ["distinct", "delete", "do", "for", "key", "on", "no", "within", "character"];
        let column =
            self.kind(before) == Some(Kind::Dot) || self.kind(index + 1) == Some(Kind::Dot);
        column || after.iter().any(|k| self.is(before, k))
    }

    fn begins_join(&self, index: usize) -> bool {
        let outer = |i| JOINS.iter().any(|k| self.is(i, k));
        let next = self.is(index + 1, "join") || self.is(index + 1, "outer") || outer(index + 1);
        let first = outer(index) && next;
        let bare = self.is(index, "join");
        let inside = index.checked_sub(1).is_some_and(|b| outer(b) || self.is(b, "outer"));
        (first || bare) && !inside
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spelled(sql: &str) -> Vec<&str> {
        tokens(sql).unwrap().into_iter().map(|t| &sql[t.at]).collect()
    }

    #[test]
    fn clauses_and_queries_within_begin_lines() {
        let sql = "SELECT o.total,  o.id FROM (SELECT id, (total_minor / 100)::int AS total FROM orders_v2 \
                   WHERE id = 7) AS o LEFT JOIN users u ON u.id = o.id WHERE o.total IS DISTINCT FROM 5 \
                   ORDER BY 1";
        assert_eq!(
            pretty(sql),
            "SELECT o.total, o.id\nFROM (\n  SELECT id, (total_minor / 100)::int AS total\n  \
             FROM orders_v2\n  WHERE id = 7\n) AS o\nLEFT JOIN users u ON u.id = o.id\n\
             WHERE o.total IS DISTINCT FROM 5\nORDER BY 1"
        );
        assert_eq!(
            pretty(
                "INSERT INTO t (a) VALUES (1) ON CONFLICT (a) DO UPDATE SET a = 2 RETURNING f(a, 0)"
            ),
            "INSERT INTO t (a)\nVALUES (1)\nON CONFLICT (a) DO UPDATE\nSET a = 2\nRETURNING f(a, 0)"
        );
        assert_eq!(pretty("DELETE FROM t WHERE a IN (1,2)"), "DELETE FROM t\nWHERE a IN (1,2)");
    }

    #[test]
    fn tokens_comments_and_strings_stay_as_they_are() {
        let list = (0..40).map(|n| format!("column_{n}")).collect::<Vec<_>>().join(", ");
        for sql in [
            "SELECT 'a'\n   'b' , E'x\\'  y', $q$ a\n  FROM b $q$ FROM t -- all\n  WHERE a = 1",
            "SELECT a /* FROM  x */ FROM\tt WHERE -- no  \n b=-1 AND c = - -1",
            "select extract(year from d),substring(a from 2 for 3) from t where u&\"d\" = U&'\\0061' uescape '!'",
            "WITH a AS (SELECT 1), b AS MATERIALIZED (UPDATE t SET a=(SELECT 2) RETURNING *) SELECT * FROM a,b",
            "COPY t FROM STDIN",
            &format!("INSERT INTO t ({list}) SELECT {list} FROM u"),
            "SELECT left(a, 1), \"from\".\"where\", t.values FROM t WHERE (a, b) = (SELECT 1, 2)",
        ] {
            let pretty = pretty(sql);
            assert_eq!(spelled(&pretty), spelled(sql));
            let comments =
                |sql: &str| sql.matches("-- all\n").count() + sql.matches("/* FROM  x */").count();
            assert_eq!(comments(&pretty), comments(sql));
            assert!(!sql.contains("'a'\n   'b'") || pretty.contains("'a'\n   'b'"), "{pretty}");
        }
        assert_eq!(pretty("SELECT 'open"), "SELECT 'open");
    }
}
