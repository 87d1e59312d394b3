//! What the clauses of a write say: how many rows it can touch, whether it may change their keys,
//! and how the old keys are learnt then.

use super::Verb;
use super::shape::{Before, Head, Reach, Returning, RowLock, Vacated, With};
use crate::sql::cursor::Cursor;
use crate::sql::lex::{Kind, Token, identifier};
use crate::sql::reason::Reason;
use crate::sql::target::{Functions, Target};
use std::ops::Range;

/// The first Postgres with RETURNING old.
const RETURNS_OLD: u32 = 18;

/// The clauses of one write; its tokens.
pub(super) struct Clauses<'a> {
    pub(super) text: &'a str,
    pub(super) tokens: &'a [Token],
    pub(super) head: &'a Head,
    /// Index of the token RETURNING, or behind the last.
    pub(super) end: usize,
}

impl Clauses<'_> {
    pub(super) fn span(&self, from: usize, to: usize) -> Option<Range<usize>> {
        let first = self.tokens.get(from)?;
        let last = to.checked_sub(1).and_then(|i| self.tokens.get(i))?;
        (from < to).then_some(first.at.start..last.at.end)
    }

    /// Index of the keyword of the FROM or USING clause; `IS [NOT] DISTINCT FROM` is none.
    fn clause(&self, c: &Cursor<'_>, keyword: &str) -> Option<usize> {
        let mut c = *c;
        loop {
            let found = c.find_top(keyword)?;
            c.at = found.saturating_sub(1);
            let distinct = c.is("distinct");
            c.at = found + 1;
            if !distinct {
                return Some(found);
            }
        }
    }

    pub(super) fn reach(&self, c: &Cursor<'_>, target: &Target) -> Reach {
        let few = |few: bool, of: Reach| if few { of } else { Reach::Many };
        match self.head.verb {
            Verb::Insert => {
                let mut c = *c;
                c.eat_group();
                if c.eat("overriding") {
                    c.skip();
                    c.skip();
                }
                if !c.eat("values") {
                    return few(c.is("default"), Reach::One);
                }
                c.eat_group();
                if c.is_kind(Kind::Comma) { Reach::Few } else { Reach::One }
            }
            Verb::Update => {
                few(self.clause(c, "from").is_none() && self.by_key(c, target), Reach::One)
            }
            Verb::Delete => {
                few(self.clause(c, "using").is_none() && self.by_key(c, target), Reach::Few)
            }
            Verb::Merge => Reach::Many,
        }
    }

    /// Whether there is no other table whose columns `*` in RETURNING would be, too.
    pub(super) fn is_alone(&self, c: &Cursor<'_>) -> bool {
        match self.head.verb {
            Verb::Insert => true,
            Verb::Update => self.clause(c, "from").is_none(),
            Verb::Delete => self.clause(c, "using").is_none(),
            Verb::Merge => false,
        }
    }

    /// Whether the condition fixes every key column: `k = constant [AND …]`, no OR at the top.
    fn by_key(&self, c: &Cursor<'_>, target: &Target) -> bool {
        let Some(found) = c.find_top("where") else { return false };
        let mut c = *c;
        c.at = found + 1;
        while let Some(inner) = c.within(c.len().min(self.end)) {
            c = inner;
        }
        if c.find_top("or").is_some() {
            return false;
        }
        let mut fixed = vec![false; target.key.len()];
        loop {
            if let Some(key) = self.fixes(c, target)
                && let Some(slot) = fixed.get_mut(key)
            {
                *slot = true;
            }
            match c.find_top("and") {
                Some(next) => c.at = next + 1,
                None => return fixed.iter().all(|f| *f),
            }
        }
    }

    fn fixes(&self, mut c: Cursor<'_>, target: &Target) -> Option<usize> {
        let (name, _) = c.qualified_name()?;
        if !c.is_text("=") {
            return None;
        }
        c.skip();
        let constant = c.peek().is_some_and(|t| {
            matches!(t.kind, Kind::Param | Kind::Number | Kind::Text) && c.is_top(t)
        });
        c.skip();
        let ends = c.peek().is_none() || c.is("and") || c.at >= self.end;
        (constant && ends).then(|| target.key.iter().position(|k| k.as_str() == name)).flatten()
    }

    /// Whether it may change key columns.
    pub(super) fn vacates(&self, c: &Cursor<'_>, target: &Target) -> Result<bool, Reason> {
        let is_key = |a: &Assigned| target.key.iter().any(|k| *k.as_str() == a.column);
        let mut c = *c;
        match self.head.verb {
            Verb::Delete => Ok(false),
            Verb::Insert => {
                let Some(set) = self.do_update(&c) else { return Ok(false) };
                let arbiter = self.arbiter(&c).unwrap_or_default();
                // The row in conflict has the key of the new one already.
                let same = |a: &Assigned| a.is_excluded && arbiter.contains(&a.column);
                let names_key = self.assigned(&set)?.iter().any(|a| is_key(a) && !same(a));
                Ok(target.update_changes_key || names_key)
            }
            Verb::Update => {
                if !c.eat("set") {
                    return Err(Reason::UpdateWithoutSet);
                }
                Ok(target.update_changes_key || self.assigned(&c)?.iter().any(is_key))
            }
            Verb::Merge => {
                while let Some(set) = self.do_update(&c) {
                    if target.update_changes_key || self.assigned(&set)?.iter().any(is_key) {
                        return Ok(true);
                    }
                    c.at = set.at;
                }
                Ok(false)
            }
        }
    }

    /// The columns of `ON CONFLICT (columns)`, if they are no expressions.
    fn arbiter(&self, c: &Cursor<'_>) -> Option<Vec<String>> {
        let mut c = *c;
        loop {
            c.at = c.find_top("on")? + 1;
            if c.eat("conflict") {
                break;
            }
        }
        let open = c.at;
        if !c.is_text("(") || !c.eat_group() {
            return None;
        }
        let mut inner = Cursor::new(self.text, self.tokens.get(open + 1..c.at - 1)?);
        let mut columns = vec![inner.name()?];
        while inner.eat_kind(Kind::Comma) {
            columns.push(inner.name()?);
        }
        inner.peek().is_none().then_some(columns)
    }

    /// The cursor behind `ON CONFLICT … DO UPDATE SET`, or the next `THEN UPDATE SET` of a MERGE.
    fn do_update<'c>(&self, c: &Cursor<'c>) -> Option<Cursor<'c>> {
        let before = if self.head.verb == Verb::Merge { "then" } else { "do" };
        let mut c = *c;
        loop {
            c.at = c.find_top(before)? + 1;
            if c.eat("update") && c.eat("set") {
                return Some(c);
            }
        }
    }

    /// How the old keys are learnt.
    pub(super) fn vacated(
        &self,
        c: &Cursor<'_>,
        returning: Option<&Returning>,
        (functions, target, in_own_with): (&Functions, &Target, bool),
    ) -> Result<Vacated, Reason> {
        let before = match self.head.verb {
            Verb::Insert | Verb::Delete => Err(Reason::ConflictChangesKey),
            Verb::Merge => Err(Reason::MergeChangesKey),
            Verb::Update if in_own_with => Err(Reason::KeyInOwnWith),
            Verb::Update => self.before(c, functions, target),
        };
        match (before, returning.map(|r| &r.with)) {
            (Ok(before), _) => Ok(Vacated::Before(before)),
            (Err(why), _) if target.server_version < RETURNS_OLD => Err(why),
            (Err(_), Some(With::Old(name))) => Ok(Vacated::Returned(name.clone())),
            (Err(_), None | Some(With::None)) => Ok(Vacated::Returnable),
            (Err(_), Some(With::Default | With::New)) => Err(Reason::OldUnnamed),
        }
    }

    /// What finds the rows of an UPDATE before it.
    fn before(
        &self,
        c: &Cursor<'_>,
        functions: &Functions,
        target: &Target,
    ) -> Result<Before, Reason> {
        let mut c = *c;
        c.eat("set");
        let lock = self.lock(&c, target)?;
        let from = self.clause(&c, "from");
        let condition = c.find_top("where");
        let mut after = c;
        if let Some(found) = condition {
            after.at = found + 1;
            if after.is("current") && after.then_is("of") {
                return Err(Reason::KeyAtCursor);
            }
        }
        let first = from.or(condition).unwrap_or(self.end);
        if !calls_only(self.text, self.tokens.get(first..self.end).unwrap_or_default(), functions) {
            return Err(Reason::KeyByVolatile);
        }
        let condition = match condition {
            None => None,
            Some(w) => Some((
                self.span(w, w + 1).ok_or(Reason::WriteShape)?,
                self.span(w + 1, self.end).ok_or(Reason::WriteShape)?,
            )),
        };
        let from_end = c.find_top("where").unwrap_or(self.end);
        let from = match from {
            None => None,
            Some(f) => Some(self.span(f + 1, from_end).ok_or(Reason::WriteShape)?),
        };
        Ok(Before { table: self.head.table.clone(), from, condition, lock })
    }

    /// The lock that the server will take for the UPDATE: the stronger one where a key does change, and before
    /// a row trigger already where the SET list names one. Who names the key to keep it (an app that saves
    /// all columns) sets it to a value; one that is worked out is another.
    fn lock(&self, c: &Cursor<'_>, target: &Target) -> Result<RowLock, Reason> {
        let is_key = |a: &Assigned| target.key.iter().any(|k| *k.as_str() == a.column);
        let changes = |a: &Assigned| is_key(a) && (target.runs_before_update || a.is_worked_out);
        Ok(if self.assigned(c)?.iter().any(changes) { RowLock::Key } else { RowLock::NoKey })
    }

    /// A SET list; the cursor stands on its first item.
    fn assigned(&self, c: &Cursor<'_>) -> Result<Vec<Assigned>, Reason> {
        let mut c = *c;
        let clauses = match self.head.verb {
            Verb::Merge => [None, None],
            _ => [self.clause(&c, "from"), c.find_top("where")],
        };
        let end = clauses.into_iter().flatten().min().unwrap_or(self.end).min(self.end);
        let mut assigned = Vec::new();
        while c.at < end {
            if c.is_kind(Kind::Open) {
                let group = c.at;
                c.eat_group();
                let inner = self.tokens.get(group..c.at).unwrap_or_default();
                let columns: Vec<_> =
                    inner.iter().filter_map(|t| identifier(self.text, t)).collect();
                let is_excluded = self.are_excluded(c, &columns, end);
                let each = columns.into_iter();
                let is_worked_out = false;
                assigned.extend(each.map(|column| Assigned { column, is_excluded, is_worked_out }));
            } else {
                let column = c.name().ok_or(Reason::WriteShape)?;
                let is_excluded = self.is_excluded(c, &column, end);
                let is_worked_out = self.is_worked_out(c, end);
                assigned.push(Assigned { column, is_excluded, is_worked_out });
            }
            // Over subscripts, the value, up to the comma of this level.
            while c.at < end && !c.peek().is_some_and(|t| t.kind == Kind::Comma && c.is_top(t)) {
                c.skip();
            }
            c.skip();
        }
        Ok(assigned)
    }

    /// Whether what comes is `=` and an expression that begins with a name.
    fn is_worked_out(&self, mut c: Cursor<'_>, end: usize) -> bool {
        if !c.is_text("=") {
            return false;
        }
        c.skip();
        let name = c.peek().and_then(|token| identifier(self.text, token));
        c.skip();
        name.is_some() && c.at < end && !c.is_kind(Kind::Comma)
    }

    /// Whether what comes is `= EXCLUDED.column` and no more.
    fn is_excluded(&self, mut c: Cursor<'_>, column: &str, end: usize) -> bool {
        if !c.is_text("=") {
            return false;
        }
        c.skip();
        eat_excluded(&mut c, column) && (c.at >= end || c.is_kind(Kind::Comma))
    }

    /// Whether what comes is `= (EXCLUDED.column, …)` of these columns in this order, and no more.
    fn are_excluded(&self, mut c: Cursor<'_>, columns: &[String], end: usize) -> bool {
        if !c.is_text("=") {
            return false;
        }
        c.skip();
        c.eat("row");
        let open = c.at;
        if !c.is_text("(") || !c.eat_group() || !(c.at >= end || c.is_kind(Kind::Comma)) {
            return false;
        }
        let values = self.tokens.get(open + 1..c.at - 1).unwrap_or_default();
        let mut values = Cursor::new(self.text, values);
        let mut rest = columns.iter();
        let all = rest.next().is_some_and(|first| eat_excluded(&mut values, first))
            && rest.all(|next| values.eat_kind(Kind::Comma) && eat_excluded(&mut values, next));
        all && values.peek().is_none()
    }
}

/// Steps over `EXCLUDED.column`.
fn eat_excluded(c: &mut Cursor<'_>, column: &str) -> bool {
    c.name().is_some_and(|n| n == "excluded")
        && c.eat_kind(Kind::Dot)
        && c.name().is_some_and(|n| n == column)
}

/// A column that is set.
struct Assigned {
    column: String,
    /// To the value that was to be inserted.
    is_excluded: bool,
    is_worked_out: bool,
}

/// Whether every `name(` in these tokens is a keyword or a function no overload of which is
/// volatile.
pub(super) fn calls_only(text: &str, tokens: &[Token], functions: &Functions) -> bool {
    const NOT_CALLS: [&str; 30] = [
        "in", "and", "or", "not", "exists", "any", "all", "some", "values", "select", "from",
        "where", "as", "on", "using", "is", "like", "ilike", "between", "then", "else", "when",
        "case", "coalesce", "nullif", "greatest", "least", "cast", "row", "array",
    ];
    tokens.windows(2).all(|pair| match pair {
        [name, open] if open.kind == Kind::Open && text.get(open.at.clone()) == Some("(") => {
            identifier(text, name).is_none_or(|n| {
                NOT_CALLS.contains(&n.as_str()) || functions.non_volatile.contains(&n)
            })
        }
        _ => true,
    })
}
