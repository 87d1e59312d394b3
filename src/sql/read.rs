//! A query on a migrated source: whether the shadow can answer it, and the form that asks it.
//!
//! `sqlparser` finds the table references; the client's text is spliced at their spans, never
//! printed from the tree. Every mention of the table has to be explained by the tree, else the
//! read is unfit. Unfit is always safe: the source answers.

use super::ident::{Ident, literal};
use super::lex::{Kind, Token, identifier, is_keyword};
use super::mention::{Mention, Spelling, Table, mention_at, mentions};
use super::read_visit::{Factor, Found};
use super::splice::Spliced;
use super::target::{Functions, Reverse, Target};
use super::twin::Twin;
use sqlparser::ast::{Statement as Ast, Visit};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::{Parser, ParserOptions};
use std::ops::Range;
use std::sync::Arc;

/// More tokens than this are not parsed: the tree would be deep.
const TOKENS_MAX: usize = 20_000;
/// Parsing, walking and dropping a tree of up to `TOKENS_MAX` levels fits into this.
const STACK_BYTES: usize = 64 << 20;
/// Texts below this many tokens cannot nest deeper than a worker's stack bears.
const TOKENS_SHALLOW: usize = 300;

/// A query that names a migrated source.
#[derive(Debug, Clone, PartialEq)]
pub struct Read {
    /// The text with its constants left out: statements that differ in nothing else share a
    /// verdict on their shadow form. Constants of different types stay apart.
    pub fingerprint: Box<str>,
    /// How the shadow answers it, or why it cannot.
    pub fit: Result<Fit, String>,
}

/// A query that the shadow can answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    replaced: Vec<Replaced>,
    /// Whether its rows, as a multiset, are one right answer; else why a dark read is no test.
    pub comparable: Result<(), &'static str>,
}

/// One reference to a source, to be replaced by a derived table of the old shape.
#[derive(Debug, Clone, PartialEq)]
struct Replaced {
    at: Range<usize>,
    target: usize,
    /// Whether the schema is spelled: the name alone may come to mean another table unseen.
    spelling: Spelling,
    /// The name to give the derived table, where the client gave no alias.
    alias: Option<Ident>,
    /// Conditions over the shadow's columns that follow from the client's own.
    twins: Vec<Twin>,
}

impl Fit {
    /// The targets whose shadow it reads.
    pub fn targets(&self) -> impl Iterator<Item = usize> + '_ {
        self.replaced.iter().map(|r| r.target)
    }

    /// The query on the shadow, for parameters declared with these types (object ids by number
    /// from 1; 0: left to the server). `None` if a target has no old shape (then no read is fit).
    pub fn on_shadow(
        &self,
        text: &str,
        at: Range<usize>,
        targets: &[Arc<Target>],
        declared: impl Fn(u16) -> u32,
    ) -> Option<Spliced> {
        let mut out = Spliced::default();
        let mut done = at.start;
        for replaced in &self.replaced {
            let target = targets.get(replaced.target)?;
            out.client(text, done..replaced.at.start);
            let mut conditions =
                replaced.twins.iter().filter_map(|t| t.sql(&declared)).collect::<Vec<_>>();
            if replaced.spelling == Spelling::Unqualified {
                conditions.push(name_proof(target));
            }
            out.ours(&old_shape(target, &conditions)?);
            if let Some(alias) = &replaced.alias {
                out.ours(" AS ").ours(&alias.quoted());
            }
            done = replaced.at.end;
        }
        out.client(text, done..at.end);
        Some(out)
    }
}

/// `(SELECT … FROM shadow)`: every column of the source, in its order, of its exact type.
fn old_shape(target: &Target, conditions: &[String]) -> Option<String> {
    let columns = target.old_shape.as_ref().ok()?.iter().map(|c| match &c.reverse {
        Reverse::Bare(column) if *column == c.name => column.quoted(),
        Reverse::Bare(column) => format!("{} AS {}", column.quoted(), c.name.quoted()),
        Reverse::Expression(sql) => {
            // The shadow's collation would sort and compare in another way.
            let collate = c.collation_sql.iter().map(|name| format!(" COLLATE {name}"));
            let collate = collate.collect::<String>();
            format!("CAST(({sql}) AS {}){collate} AS {}", c.type_sql, c.name.quoted())
        }
    });
    let columns = columns.collect::<Vec<_>>().join(", ");
    let condition = match conditions {
        [] => String::new(),
        conditions => format!(" WHERE {}", conditions.join(" AND ")),
    };
    Some(format!("(SELECT {columns} FROM {}{condition})", target.shadow.quoted()))
}

/// What the server says when a bare name has come to mean another table than the source.
pub const NAME_MOVED: &str = "pgsegue: the name of a migrated table means another one by now";

/// A condition that holds while the source's bare name means it in the session, and fails
/// otherwise: a function that sets search_path, a temporary table made by one, another session's
/// DDL are seen by nobody else. Worked out once per execution; the cast fails with the text.
fn name_proof(target: &Target) -> String {
    format!(
        "CASE WHEN pg_catalog.to_regclass({})::pg_catalog.oid OPERATOR(pg_catalog.=) {}::pg_catalog.oid \
         THEN true ELSE CAST(pg_catalog.concat({}) AS boolean) END",
        literal(&target.source.name.quoted()),
        target.source_oid,
        literal(NAME_MOVED),
    )
}

/// Understands one query (its tokens, without the semicolon).
pub(super) fn read(
    text: &str,
    tokens: &[Token],
    targets: &[Arc<Target>],
    functions: &Functions,
) -> Read {
    if tokens.len() > TOKENS_MAX {
        let fit = Err(format!("longer than {TOKENS_MAX} tokens"));
        return Read { fingerprint: Box::default(), fit };
    }
    let work = || fit(text, tokens, targets, functions);
    let fit = if tokens.len() < TOKENS_SHALLOW { work() } else { stacker::grow(STACK_BYTES, work) };
    Read { fingerprint: fingerprint(text, tokens), fit }
}

fn fingerprint(text: &str, tokens: &[Token]) -> Box<str> {
    let mut out = String::with_capacity(text.len());
    // GROUP BY 1: there a number names a column.
    let grouped = tokens.iter().any(|t| is_keyword(text, t, "group"));
    let mut before = "";
    for token in tokens {
        let spelled = text.get(token.at.clone()).unwrap_or_default();
        match token.kind {
            // A column by its number.
            Kind::Number if grouped || before.eq_ignore_ascii_case("by") => out.push_str(spelled),
            Kind::Number => out.push_str(number_class(spelled)),
            // What a pattern begins with decides whether an index serves it.
            Kind::Text if spelled.starts_with("'%") || spelled.starts_with("'_") => {
                out.push_str("?p");
            }
            Kind::Text if spelled.starts_with('\'') => out.push_str("?s"),
            _ => out.push_str(spelled),
        }
        out.push(' ');
        before = spelled;
    }
    out.into_boxed_str()
}

/// The type that a numeric constant has.
fn number_class(spelled: &str) -> &'static str {
    match (spelled.bytes().all(|b| b.is_ascii_digit()), spelled.len()) {
        (true, 0..=9) => "?4",
        (true, 10..=18) => "?8",
        _ => "?n",
    }
}

fn fit(
    text: &str,
    tokens: &[Token],
    targets: &[Arc<Target>],
    functions: &Functions,
) -> Result<Fit, String> {
    let at = tokens.first().map_or(0, |t| t.at.start)..tokens.last().map_or(0, |t| t.at.end);
    let sql = text.get(at.clone()).ok_or("not a statement")?;
    // Of `SELECT INTO x FROM y` the parser makes a query of a column.
    if tokens.iter().any(|t| is_keyword(text, t, "into")) {
        return Err("SELECT INTO".to_owned());
    }
    let options = ParserOptions::new().with_unescape(false);
    let mut statements = Parser::new(&PostgreSqlDialect {})
        .with_options(options)
        .try_with_sql(sql)
        .and_then(|mut p| p.parse_statements())
        .map_err(|e| format!("not understood: {e}"))?;
    let (Some(Ast::Query(query)), true) = (statements.pop(), statements.is_empty()) else {
        return Err("not one query".to_owned());
    };
    let mut found = Found::new(targets, functions);
    if let std::ops::ControlFlow::Break(unfit) = query.visit(&mut found) {
        return Err(unfit);
    }
    if tokens.windows(4).any(|w| is_row_value(text, w)) {
        return Err("a whole-row reference".to_owned());
    }
    let places = Places::new(sql, at.start, tokens);
    let found_mentions = mentions(text, tokens, targets);
    let mut replaced = Vec::with_capacity(found.factors.len());
    for factor in &found.factors {
        replaced.push(place(text, tokens, &places, &found_mentions, factor)?);
    }
    replaced.sort_by_key(|r| r.at.start);
    audit(&found_mentions, &replaced, tokens)?;
    for r in &replaced {
        if let Some(Err(why)) = targets.get(r.target).map(|t| &t.old_shape) {
            return Err(why.clone());
        }
    }
    Ok(Fit { replaced, comparable: found.comparable(&query, targets) })
}

/// `(t.*` or `t.*)` or `t.*::`: the row as one value, which on a derived table has another type.
fn is_row_value(text: &str, window: &[Token]) -> bool {
    let star = |t: &Token| t.kind == Kind::Operator && text.get(t.at.clone()) == Some("*");
    match window {
        [open, name, dot, all] if open.kind == Kind::Open && dot.kind == Kind::Dot && star(all) => {
            matches!(name.kind, Kind::Word | Kind::Quoted)
        }
        [_, dot, all, after] if dot.kind == Kind::Dot && star(all) => {
            matches!(after.kind, Kind::Close | Kind::Operator | Kind::Dot)
        }
        _ => false,
    }
}

/// Every mention of a table must be one of the references found, or an alias given to one.
fn audit(mentions: &[Mention], replaced: &[Replaced], tokens: &[Token]) -> Result<(), String> {
    let explained = |m: &Mention| {
        tokens.get(m.token).is_some_and(|t| {
            // In order, and none within another: their ends are in order, too.
            replaced.binary_search_by_key(&t.at.end, |r| r.at.end).is_ok()
        })
    };
    if mentions.iter().any(|m| m.table == Table::Shadow) {
        return Err("it names the shadow itself".to_owned());
    }
    if replaced.is_empty() || !mentions.iter().all(explained) {
        return Err("a name of the table that is not understood".to_owned());
    }
    Ok(())
}

fn place(
    text: &str,
    tokens: &[Token],
    places: &Places,
    mentions: &[Mention],
    factor: &Factor,
) -> Result<Replaced, String> {
    let lost = || "a table reference that cannot be placed".to_owned();
    let first = places.token(factor.start).and_then(|i| tokens.get(i)).ok_or_else(lost)?;
    let index = places.token(factor.last_part).ok_or_else(lost)?;
    let token = tokens.get(index).ok_or_else(lost)?;
    let mention = mention_at(mentions, index).ok_or_else(lost)?;
    let name = identifier(text, token).ok_or_else(lost)?;
    let qualified = mention.spelling == Spelling::Qualified;
    if mention.target != factor.target || qualified != factor.qualified {
        return Err(lost());
    }
    Ok(Replaced {
        at: first.at.start..token.at.end,
        target: mention.target,
        spelling: mention.spelling,
        alias: factor.alias.is_none().then(|| Ident::new(name)),
        twins: factor.twins.clone(),
    })
}

/// Where the tokens begin as `sqlparser` counts it, in lines and characters, both from 1; splicing
/// needs bytes.
struct Places(Vec<(u64, u64)>);

impl Places {
    /// The places of `tokens` in `sql`, which begins at byte `base` of their text. One pass: a text
    /// may be one line with thousands of references.
    fn new(sql: &str, base: usize, tokens: &[Token]) -> Self {
        let (mut line, mut column, mut done) = (1, 1, 0);
        let place = |token: &Token| {
            let start = token.at.start.saturating_sub(base);
            for c in sql.get(done..start).unwrap_or_default().chars() {
                (line, column) = if c == '\n' { (line + 1, 1) } else { (line, column + 1) };
            }
            done = start;
            (line, column)
        };
        Self(tokens.iter().map(place).collect())
    }

    /// Index of the token that begins there.
    fn token(&self, place: (u64, u64)) -> Option<usize> {
        self.0.binary_search(&place).ok()
    }
}

#[cfg(test)]
mod tests;
