//! The shape of an INSERT, UPDATE or DELETE on a migrated table, read from its tokens, and the
//! mirrored form built from it.
//!
//! ```sql
//! WITH "pgsegue w" AS (UPDATE orders AS o SET … RETURNING o."id" AS "pgsegue 1")
//! SELECT count(*), "pgsegue"."sync_x"(array_agg("pgsegue 1"), 0) FROM "pgsegue w"
//! ```
//!
//! An INSERT of one row and an UPDATE of one key need no array of keys: the function is called in
//! the RETURNING itself, for every row that there is, were it several after all.
//!
//! ```sql
//! UPDATE orders AS o SET … WHERE id = $1 RETURNING "pgsegue"."follow_x"(o."id", 0) AS "pgsegue d"
//! ```
//!
//! The keys come from RETURNING: what the statement really touched. The function call is evaluated
//! after the CTE has run to its end (an aggregate needs all its rows), and being VOLATILE it sees
//! the statement's own changes. With a RETURNING of the client's the call sits in a scalar
//! subquery, so that the rows come unjoined and in their order (hazard C11).

use super::cursor::Cursor;
use super::ident::Ident;
use super::lex::{Kind, Token};
use super::reason::Reason;
use super::splice::Spliced;
use super::target::{Functions, SyncMode, Target};
use std::fmt::Write as _;
use std::ops::Range;

/// Keys per call of the sync function, where a statement may touch many rows: bounds the array.
const BATCH_KEYS: u32 = 5_000;

/// Which verb; decides the command tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// `INSERT 0 n`
    Insert,
    /// `UPDATE n`
    Update,
    /// `DELETE n`
    Delete,
}

impl Verb {
    /// As the server spells it in tags and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "INSERT",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
        }
    }
}

/// How many rows the statement can touch, as far as its text says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// One row by its key, or of VALUES, as far as the text says; correct for more.
    One,
    /// Bounded by the text: a list of VALUES, or one row that is removed.
    Few,
    /// Any number.
    Many,
}

/// What the rows of a mirrored form are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `(rows int8, outcome int4)`, any number of them; the tag says nothing.
    Counted,
    /// `(outcome int4)` for each row that was touched; the tag is the client's.
    Outcome,
    /// The client's rows after this many columns of ours, the first of which is the outcome; the
    /// tag ends in their number.
    Leading(usize),
}

/// An understood write: byte positions in the statement's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Which verb.
    pub verb: Verb,
    /// Index of the token that names the table.
    pub table_token: usize,
    whole: Range<usize>,
    verb_at: usize,
    after_with: bool,
    refname: String,
    /// Byte after the keyword RETURNING, if the client has one.
    returning: Option<Range<usize>>,
    reach: Reach,
    vacates: Option<Vacates>,
}

/// A write that may change key columns: the old keys have to be captured too.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Vacates {
    table: Range<usize>,
    from: Option<Range<usize>>,
    /// The keyword WHERE and the condition after it.
    condition: Option<(Range<usize>, Range<usize>)>,
}

impl Write {
    /// Whether the client's statement returns rows.
    pub fn has_returning(&self) -> bool {
        self.returning.is_some()
    }

    /// Reads the shape. `tokens` is one statement without its semicolon; the cursor stands on the
    /// verb (after a WITH list, if there is one).
    ///
    /// # Errors
    /// Says what is not understood.
    pub(super) fn read(
        text: &str,
        tokens: &[Token],
        verb_token: usize,
        target: &Target,
        functions: &Functions,
    ) -> Result<Self, Reason> {
        let first = tokens.first().ok_or(Reason::WriteShape)?;
        let last = tokens.last().ok_or(Reason::WriteShape)?;
        let whole = first.at.start..last.at.end;
        // Of this statement alone: a text may have thousands.
        if text.get(whole.clone()).is_none_or(|sql| sql.contains("\"pgsegue ")) {
            return Err(Reason::OurNames);
        }
        let mut c = Cursor::new(text, tokens);
        c.at = verb_token;
        let verb_at = c.peek().ok_or(Reason::WriteShape)?.at.start;
        let head = Head::read(&mut c)?;
        let returning = returning(&c, tokens)?;
        let end = returning.as_ref().map_or(tokens.len(), |r| r.token);
        let shape = Shape { text, tokens, head: &head, end };
        Ok(Self {
            verb: head.verb,
            table_token: head.table_token,
            verb_at,
            after_with: verb_token > 0,
            refname: head.refname.clone(),
            reach: shape.reach(&c, target),
            vacates: shape.vacates(&c, target, functions)?,
            returning: returning.map(|r| r.at),
            whole,
        })
    }

    /// What the rows of the mirrored form are.
    pub fn layout(&self, target: &Target) -> Layout {
        match (self.follow(target), self.returning.is_some()) {
            (Some(_), true) => Layout::Leading(1),
            (Some(_), false) => Layout::Outcome,
            (None, true) => Layout::Leading(1 + target.key.len()),
            (None, false) => Layout::Counted,
        }
    }

    /// The function for one row, where the statement may use it.
    fn follow<'t>(&self, target: &'t Target) -> Option<&'t str> {
        let one = self.reach == Reach::One && self.vacates.is_none();
        target.follow_function.as_deref().filter(|_| one)
    }

    /// The statement that does the same and feeds the keys to the sync function. Its rows are as
    /// [`Self::layout`] says.
    pub fn mirrored(&self, text: &str, target: &Target, mode: SyncMode) -> Spliced {
        let mut out = Spliced::default();
        if let Some(follow) = self.follow(target) {
            return self.followed(text, target, follow, mode);
        }
        out.client(text, self.whole.start..self.verb_at);
        out.ours(if self.after_with { ", " } else { "WITH " });
        if let Some(vacates) = &self.vacates {
            self.old_keys(&mut out, text, target, vacates);
        }
        out.ours("\"pgsegue w\" AS (");
        self.body(&mut out, text, target);
        out.ours(") ");
        let call = self.call(target, mode);
        if self.returning.is_some() {
            out.ours(&format!(
                "SELECT (SELECT pg_catalog.max(d) FROM ({call}) AS c) AS \"pgsegue d\", w.* \
                 FROM \"pgsegue w\" AS w"
            ));
        } else {
            out.ours(&call);
        }
        out
    }

    fn followed(&self, text: &str, target: &Target, follow: &str, mode: SyncMode) -> Spliced {
        let mut out = Spliced::default();
        let refname = Ident::new(self.refname.clone()).quoted();
        let keys = target.key.iter().fold(String::new(), |mut keys, key| {
            let _infallible = write!(keys, "{refname}.{}, ", key.quoted());
            keys
        });
        let tail = self.returning.as_ref().map_or(self.whole.end, |r| r.start);
        out.client(text, self.whole.start..tail);
        out.ours(&format!(" RETURNING {follow}({keys}{}) AS \"pgsegue d\"", mode.as_sql()));
        if let Some(returning) = &self.returning {
            out.ours(", ").client(text, returning.end..self.whole.end);
        }
        out
    }

    fn body(&self, out: &mut Spliced, text: &str, target: &Target) {
        let keys = key_columns(&self.refname, target);
        let tail = self.returning.as_ref().map_or(self.whole.end, |r| r.start);
        match self.vacates.as_ref().map(|v| &v.condition) {
            None => out.client(text, self.verb_at..tail),
            Some(Some((keyword, condition))) => out
                .client(text, self.verb_at..keyword.end)
                .ours(" (")
                .client(text, condition.clone())
                .ours(") AND ")
                .ours(AFTER_OLD_KEYS),
            Some(None) => out.client(text, self.verb_at..tail).ours(" WHERE ").ours(AFTER_OLD_KEYS),
        };
        out.ours(" RETURNING ").ours(&keys);
        if let Some(returning) = &self.returning {
            out.ours(", ").client(text, returning.end..self.whole.end);
        }
    }

    /// The keys that the rows have now, locked as the update will lock them. It is read first
    /// because the update's condition asks for its count; a self-join instead would lose the
    /// client's update under concurrency (hazard A6).
    fn old_keys(&self, out: &mut Spliced, text: &str, target: &Target, vacates: &Vacates) {
        out.ours("\"pgsegue k\" AS MATERIALIZED (SELECT ")
            .ours(&key_columns(&self.refname, target))
            .ours(" FROM ")
            .client(text, vacates.table.clone());
        if let Some(from) = &vacates.from {
            out.ours(", ").client(text, from.clone());
        }
        if let Some((_, condition)) = &vacates.condition {
            out.ours(" WHERE ").client(text, condition.clone());
        }
        let refname = Ident::new(self.refname.clone()).quoted();
        out.ours(&format!(" FOR UPDATE OF {refname}), "));
    }

    /// `SELECT n, d FROM …`: rows touched and the sync function's outcome, a row per batch.
    fn call(&self, target: &Target, mode: SyncMode) -> String {
        let names = (1..=target.key.len()).map(|n| format!("\"pgsegue {n}\"")).collect::<Vec<_>>();
        let arrays = names.iter().fold(String::new(), |mut arrays, name| {
            let _infallible = write!(arrays, "pg_catalog.array_agg({name}), ");
            arrays
        });
        let columns = names.join(", ");
        let (count, keys) = if self.vacates.is_some() {
            (
                "pg_catalog.sum(n)::pg_catalog.int8",
                format!(
                    "(SELECT 1 AS n, {columns} FROM \"pgsegue w\" \
                     UNION ALL SELECT 0, {columns} FROM \"pgsegue k\") AS u"
                ),
            )
        } else {
            ("pg_catalog.count(*)", "\"pgsegue w\"".to_owned())
        };
        let function = &target.sync_function;
        let mode = mode.as_sql();
        let select = format!("SELECT {count} AS n, {function}({arrays}{mode}) AS d FROM ");
        match self.reach {
            Reach::One | Reach::Few => format!("{select}{keys}"),
            Reach::Many => {
                let n = if self.vacates.is_some() { "n, " } else { "" };
                format!(
                    "{select}(SELECT {n}{columns}, (pg_catalog.row_number() OVER () - 1) \
                     / {BATCH_KEYS} AS b FROM {keys}) AS x GROUP BY b"
                )
            }
        }
    }
}

const AFTER_OLD_KEYS: &str = "(SELECT pg_catalog.count(*) FROM \"pgsegue k\") >= 0";

fn key_columns(refname: &str, target: &Target) -> String {
    let refname = Ident::new(refname).quoted();
    let columns = target.key.iter().enumerate();
    let columns =
        columns.map(|(i, k)| format!("{refname}.{} AS \"pgsegue {}\"", k.quoted(), i + 1));
    columns.collect::<Vec<_>>().join(", ")
}

struct Returning {
    token: usize,
    at: Range<usize>,
}

fn returning(c: &Cursor<'_>, tokens: &[Token]) -> Result<Option<Returning>, Reason> {
    let Some(token) = c.find_top("returning") else { return Ok(None) };
    let mut after = *c;
    after.at = token + 1;
    if after.is("with") {
        return Err(Reason::ReturningWith);
    }
    if after.find_top("returning").is_some() {
        return Err(Reason::TwoReturning);
    }
    let at = tokens.get(token).ok_or(Reason::WriteShape)?.at.clone();
    Ok(Some(Returning { token, at }))
}

/// `INSERT INTO t [AS a]`, `UPDATE [ONLY] t [*] [[AS] a]`, `DELETE FROM [ONLY] t [*] [[AS] a]`.
struct Head {
    verb: Verb,
    table_token: usize,
    table: Range<usize>,
    refname: String,
}

impl Head {
    fn read(c: &mut Cursor<'_>) -> Result<Self, Reason> {
        let verb = if c.eat("insert") {
            c.eat("into").then_some(Verb::Insert).ok_or(Reason::WriteShape)?
        } else if c.eat("update") {
            Verb::Update
        } else if c.eat("delete") {
            c.eat("from").then_some(Verb::Delete).ok_or(Reason::WriteShape)?
        } else {
            return Err(Reason::WriteShape);
        };
        let start = c.peek().ok_or(Reason::WriteShape)?.at.start;
        if verb != Verb::Insert {
            c.eat("only");
        }
        let (mut refname, table_token) = c.qualified_name().ok_or(Reason::TableInParentheses)?;
        if verb != Verb::Insert && c.is_text("*") {
            c.skip();
        }
        let bare_alias = verb != Verb::Insert && !Self::ends_head(c);
        if c.eat("as") || bare_alias {
            refname = c.name().ok_or(Reason::WriteShape)?;
        }
        let end = c.at.checked_sub(1).and_then(|i| {
            let mut last = *c;
            last.at = i;
            last.peek().map(|t| t.at.end)
        });
        let table = start..end.ok_or(Reason::WriteShape)?;
        Ok(Self { verb, table_token, table, refname })
    }

    fn ends_head(c: &Cursor<'_>) -> bool {
        c.peek().is_none_or(|t| !matches!(t.kind, Kind::Word | Kind::Quoted))
            || ["as", "set", "using", "where", "returning"].iter().any(|k| c.is(k))
    }
}

struct Shape<'a> {
    text: &'a str,
    tokens: &'a [Token],
    head: &'a Head,
    /// Index of the token RETURNING, or behind the last.
    end: usize,
}

impl Shape<'_> {
    fn span(&self, from: usize, to: usize) -> Option<Range<usize>> {
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

    fn reach(&self, c: &Cursor<'_>, target: &Target) -> Reach {
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
        }
    }

    /// Whether the condition fixes every key column: `k = constant [AND …]`, no OR at the top.
    fn by_key(&self, c: &Cursor<'_>, target: &Target) -> bool {
        let Some(found) = c.find_top("where") else { return false };
        let mut c = *c;
        c.at = found + 1;
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
            matches!(t.kind, Kind::Param | Kind::Number | Kind::Text) && t.depth == 0
        });
        c.skip();
        let ends = c.peek().is_none() || c.is("and") || c.at >= self.end;
        (constant && ends).then(|| target.key.iter().position(|k| k.as_str() == name)).flatten()
    }

    fn vacates(
        &self,
        c: &Cursor<'_>,
        target: &Target,
        functions: &Functions,
    ) -> Result<Option<Vacates>, Reason> {
        let assigns_key = |c: &Cursor<'_>| -> Result<bool, Reason> {
            let assigned = self.assigned(c)?;
            Ok(assigned.iter().any(|a| target.key.iter().any(|k| k.as_str() == a)))
        };
        match self.head.verb {
            Verb::Delete => Ok(None),
            Verb::Insert => match self.do_update(c) {
                Some(c) if assigns_key(&c)? => Err(Reason::ConflictChangesKey),
                Some(_) | None => Ok(None),
            },
            Verb::Update => {
                let mut c = *c;
                if !c.eat("set") {
                    return Err(Reason::UpdateWithoutSet);
                }
                if !assigns_key(&c)? {
                    return Ok(None);
                }
                self.vacated(&c, functions).map(Some)
            }
        }
    }

    /// The cursor behind `ON CONFLICT … DO UPDATE SET`.
    fn do_update<'c>(&self, c: &Cursor<'c>) -> Option<Cursor<'c>> {
        let mut c = *c;
        loop {
            c.at = c.find_top("do")? + 1;
            if c.eat("update") && c.eat("set") {
                return Some(c);
            }
        }
    }

    fn vacated(&self, c: &Cursor<'_>, functions: &Functions) -> Result<Vacates, Reason> {
        let from = self.clause(c, "from");
        let condition = c.find_top("where");
        let mut after = *c;
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
        Ok(Vacates { table: self.head.table.clone(), from, condition })
    }

    /// The columns of a SET list; the cursor stands on its first item.
    fn assigned(&self, c: &Cursor<'_>) -> Result<Vec<String>, Reason> {
        let mut c = *c;
        let end = [self.clause(&c, "from"), c.find_top("where"), Some(self.end)]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(self.end);
        let mut columns = Vec::new();
        while c.at < end {
            if c.is_kind(Kind::Open) {
                let group = c.at;
                c.eat_group();
                let inner = self.tokens.get(group..c.at).unwrap_or_default();
                columns.extend(inner.iter().filter_map(|t| super::lex::identifier(self.text, t)));
            } else {
                columns.push(c.name().ok_or(Reason::WriteShape)?);
            }
            // Over subscripts, the value, up to the comma of this level.
            while c.at < end && !c.peek().is_some_and(|t| t.kind == Kind::Comma && t.depth == 0) {
                c.skip();
            }
            c.skip();
        }
        Ok(columns)
    }
}

/// Whether every `name(` in these tokens is a keyword or a function no overload of which is
/// volatile.
fn calls_only(text: &str, tokens: &[Token], functions: &Functions) -> bool {
    const NOT_CALLS: [&str; 30] = [
        "in", "and", "or", "not", "exists", "any", "all", "some", "values", "select", "from",
        "where", "as", "on", "using", "is", "like", "ilike", "between", "then", "else", "when",
        "case", "coalesce", "nullif", "greatest", "least", "cast", "row", "array",
    ];
    tokens.windows(2).all(|pair| match pair {
        [name, open] if open.kind == Kind::Open && text.get(open.at.clone()) == Some("(") => {
            super::lex::identifier(text, name).is_none_or(|n| {
                NOT_CALLS.contains(&n.as_str()) || functions.non_volatile.contains(&n)
            })
        }
        _ => true,
    })
}

#[cfg(test)]
mod tests;
