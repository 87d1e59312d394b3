//! The text that the parser is given for a query: the client's, without what `sqlparser` does not
//! read and what says nothing of tables, functions or columns. The client's own text is what is
//! spliced; here only the places have to be the same, token by token.
//!
//! A rule may lose what an expression means, but no name in it, and never makes a condition that
//! has a twin on the shadow of one that has none.

use super::super::lex::{Kind, Token, is_keyword};

/// More tokens than this are in no name of a type, `numeric(10, 2)[]` …
const TYPE_TOKENS_MAX: usize = 12;
/// … nor in the columns of a USING that are looked at.
const USING_TOKENS_MAX: usize = 100;

/// … nor in a SEARCH or CYCLE.
const CLAUSE_TOKENS_MAX: usize = 60;

/// What the parser reads, and which of the client's tokens begins where in it.
pub(super) struct Parsable {
    pub(super) sql: String,
    /// Line and column as `sqlparser` counts them, in characters from 1, in order.
    starts: Vec<((u64, u64), usize)>,
}

/// What becomes of the tokens from one on.
enum Rule {
    Keep,
    /// So many of them are left out.
    Drop(usize),
    /// So many of them are replaced.
    Say(usize, &'static str),
}

impl Parsable {
    /// `text` from the first to the last of `tokens`.
    pub(super) fn new(text: &str, tokens: &[Token]) -> Self {
        let reader = Tokens { text, tokens };
        let mut out = Self { sql: String::with_capacity(text.len()), starts: Vec::new() };
        let mut place = (1, 1);
        let mut push = |out: &mut String, piece: &str| {
            out.push_str(piece);
            for c in piece.chars() {
                place = if c == '\n' { (place.0 + 1, 1) } else { (place.0, place.1 + 1) };
            }
            place
        };
        let (mut at, mut end) = (0, tokens.first().map_or(0, |t| t.at.start));
        let mut here = (1, 1);
        while let Some(token) = tokens.get(at) {
            let blank = text.get(end..token.at.start).unwrap_or_default();
            if !blank.is_empty() {
                here = push(&mut out.sql, blank);
            }
            let (count, piece) = match reader.rule(at) {
                Rule::Keep => (1, text.get(token.at.clone()).unwrap_or_default()),
                Rule::Drop(count) => (count, " "),
                Rule::Say(count, words) => (count, words),
            };
            out.starts.push((here, at));
            here = push(&mut out.sql, piece);
            at += count;
            end = at.checked_sub(1).and_then(|i| tokens.get(i)).map_or(end, |t| t.at.end);
        }
        out
    }

    /// Index of the token that begins there.
    pub(super) fn token(&self, place: (u64, u64)) -> Option<usize> {
        let found = self.starts.binary_search_by_key(&place, |(start, _)| *start).ok()?;
        self.starts.get(found).map(|(_, token)| *token)
    }
}

struct Tokens<'a> {
    text: &'a str,
    tokens: &'a [Token],
}

impl Tokens<'_> {
    fn rule(&self, at: usize) -> Rule {
        let Some(token) = self.tokens.get(at) else { return Rule::Keep };
        match token.kind {
            Kind::Word => self.word(at),
            // `(composite).*`: what it is taken from is read all the same.
            Kind::Dot
                if self.is_kind(at.wrapping_sub(1), Kind::Close) && self.is_text(at + 1, "*") =>
            {
                Rule::Drop(2)
            }
            // Any operator may stand before ANY; the parser knows those of comparison. No twin
            // follows from this one.
            Kind::Operator
                if self.is_any_of(at + 1, &["any", "all", "some"])
                    && !self.is_text(at, "=")
                    && self.is_kind(at + 2, Kind::Open) =>
            {
                Rule::Say(1, "<>")
            }
            Kind::Operator if self.is_text(at, "::") && self.is_bound(at) => {
                Rule::Drop(self.type_name(at + 1) - at)
            }
            _ => Rule::Keep,
        }
    }

    fn word(&self, at: usize) -> Rule {
        if self.is(at, "table") && self.begins_a_query(at) {
            return Rule::Say(1, "SELECT FROM");
        }
        if self.is(at, "exclude") {
            let count =
                1 + self.count_of(at + 1, &["no", "others", "current", "row", "group", "ties"]);
            let ends = count > 1 && self.is_kind(at + count, Kind::Close);
            return if ends { Rule::Drop(count) } else { Rule::Keep };
        }
        if self.is(at, "collate") && self.is_after_cast(at) {
            return Rule::Drop(self.name(at + 1) - at);
        }
        if at > 0 && self.is_kind(at - 1, Kind::Close) && self.is_any_of(at, &["search", "cycle"]) {
            let count = self.search_or_cycle(at);
            return if count > 0 { Rule::Drop(count) } else { Rule::Keep };
        }
        if self.is(at, "as") && self.is_after_using(at) {
            return Rule::Drop(2);
        }
        if self.is(at, "between") && self.is(at + 1, "symmetric") {
            // Its bounds may be the other way round: no twins.
            let negated = at.checked_sub(1).is_some_and(|i| self.is(i, "not"));
            return Rule::Say(2, if negated { "BETWEEN" } else { "NOT BETWEEN" });
        }
        if self.is(at, "between") && self.is(at + 1, "asymmetric") {
            return Rule::Say(2, "BETWEEN");
        }
        if self.is(at, "variadic") {
            return Rule::Drop(1);
        }
        if self.is(at, "collation") && self.is(at + 1, "for") {
            return Rule::Say(2, "coalesce");
        }
        if self.is(at, "from")
            && at
                .checked_sub(1)
                .is_some_and(|i| self.is_any_of(i, &["leading", "trailing", "both"]))
        {
            return Rule::Drop(1);
        }
        if self.is(at, "isnull") && !self.is_kind(at + 1, Kind::Open) {
            return Rule::Say(1, "IS NULL");
        }
        if self.is(at, "notnull") && !self.is_kind(at + 1, Kind::Open) {
            return Rule::Say(1, "IS NOT NULL");
        }
        Rule::Keep
    }

    fn is(&self, at: usize, keyword: &str) -> bool {
        self.tokens.get(at).is_some_and(|t| is_keyword(self.text, t, keyword))
    }

    fn is_any_of(&self, at: usize, keywords: &[&str]) -> bool {
        keywords.iter().any(|k| self.is(at, k))
    }

    fn is_kind(&self, at: usize, kind: Kind) -> bool {
        self.tokens.get(at).is_some_and(|t| t.kind == kind)
    }

    fn is_text(&self, at: usize, spelling: &str) -> bool {
        self.tokens.get(at).is_some_and(|t| self.text.get(t.at.clone()) == Some(spelling))
    }

    fn is_name(&self, at: usize) -> bool {
        self.is_kind(at, Kind::Word) || self.is_kind(at, Kind::Quoted)
    }

    fn count_of(&self, at: usize, keywords: &[&str]) -> usize {
        (at..self.tokens.len()).take_while(|i| self.is_any_of(*i, keywords)).count()
    }

    /// `TABLE t` as a query: it begins one, or stands where the next one of a set does.
    fn begins_a_query(&self, at: usize) -> bool {
        let Some(before) = at.checked_sub(1) else { return true };
        self.is_kind(before, Kind::Open)
            || self.is_any_of(before, &["union", "intersect", "except", "all", "distinct"])
            || (self.is_kind(before, Kind::Close) && self.is(0, "with"))
    }

    /// Tokens of `SEARCH DEPTH FIRST BY columns SET column`, or of `CYCLE columns SET column [TO value
    /// DEFAULT value] USING column`, behind an item of a WITH list; they name columns only. 0 if
    /// it is neither.
    fn search_or_cycle(&self, at: usize) -> usize {
        let end = at + CLAUSE_TOKENS_MAX;
        let Some(set) = (at + 1..end).find(|i| self.is(*i, "set")) else { return 0 };
        if self.is(at, "search") {
            let is_search =
                self.is_any_of(at + 1, &["depth", "breadth"]) && self.is(at + 2, "first");
            let end = set + 2;
            let cycle = if self.is(end, "cycle") { self.search_or_cycle(end) } else { 0 };
            return if is_search && self.is_name(set + 1) { end + cycle - at } else { 0 };
        }
        let using = (set..end).find(|i| self.is(*i, "using"));
        using.filter(|i| self.is_name(i + 1)).map_or(0, |i| i + 2 - at)
    }

    /// Index of the token behind a name of any number of parts.
    fn name(&self, at: usize) -> usize {
        let mut end = at + 1;
        while self.is_kind(end, Kind::Dot) && self.is_name(end + 1) {
            end += 2;
        }
        end
    }

    /// Index of the token behind a type, as it is written behind `::`.
    fn type_name(&self, at: usize) -> usize {
        const MORE: [&str; 6] = ["varying", "precision", "with", "without", "time", "zone"];
        let mut end = self.name(at);
        loop {
            let before = end;
            end += self.count_of(end, &MORE);
            if self.is_kind(end, Kind::Open) {
                end = self.behind_group(end);
            }
            if end == before {
                return end;
            }
        }
    }

    fn behind_group(&self, open: usize) -> usize {
        let Some(depth) = self.tokens.get(open).map(|t| t.depth) else { return open };
        let inside = (open + 1..open + TYPE_TOKENS_MAX).find(|i| {
            self.tokens.get(*i).is_some_and(|t| t.kind == Kind::Close && t.depth == depth)
        });
        inside.map_or(open, |close| close + 1)
    }

    /// Whether the cast at `::` is one of a window frame's bound: `'1 day'::interval PRECEDING`.
    fn is_bound(&self, cast: usize) -> bool {
        self.is_any_of(self.type_name(cast + 1), &["preceding", "following"])
    }

    /// Whether a type stands before, behind `::`.
    fn is_after_cast(&self, at: usize) -> bool {
        let first = at.saturating_sub(TYPE_TOKENS_MAX);
        (first..at).rev().any(|i| self.is_text(i, "::") && self.type_name(i + 1) == at)
    }

    /// Whether the columns of JOIN … USING (…) stand before.
    fn is_after_using(&self, at: usize) -> bool {
        let Some(close) = at.checked_sub(1).filter(|i| self.is_kind(*i, Kind::Close)) else {
            return false;
        };
        let depth = self.tokens.get(close).map(|t| t.depth);
        let open = (close.saturating_sub(USING_TOKENS_MAX)..close).rev().find(|i| {
            self.is_kind(*i, Kind::Open) && self.tokens.get(*i).map(|t| t.depth) == depth
        });
        open.and_then(|i| i.checked_sub(1)).is_some_and(|i| self.is(i, "using"))
    }
}
