//! A query on a migrated source: whether the shadow can answer it, and the form that asks it.
//!
//! `sqlparser` finds the table references; the client's text is spliced at their spans, never
//! printed from the tree. Every mention of the table has to be explained by the tree, else the
//! read is unfit. Unfit is always safe: the source answers.

use super::ident::{Ident, literal};
use super::lex::{Kind, Token, identifier, is_keyword};
use super::mention::{Mention, Spelling, Table, mention_at, mentions};
use super::read_hidden::Edit;
use super::read_visit::{Factor, Found};
use super::splice::Spliced;
use super::target::{Functions, Reverse, Target};
use super::twin::Twin;
use parsable::Parsable;
use sqlparser::ast::{Statement as Ast, Visit};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::{Parser, ParserError, ParserOptions};
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
    /// What changes in the text, in its order.
    pieces: Vec<Piece>,
    /// Whether its rows, as a multiset, are one right answer; else why a dark read is no test.
    pub comparable: Result<(), &'static str>,
    /// What decides it further, once the catalog is asked.
    pub leans_on: LeansOn,
}

/// What a query counts on for its rows to be one right answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LeansOn {
    /// The tables that it names, as in SQL; one may be a view, which may hide anything.
    pub tables: Vec<String>,
    /// It adds up: of floating-point numbers the sum hangs on their order.
    pub sums: bool,
    /// It takes one of several equal values: of equal ones that look different it may take any.
    pub picks: bool,
}

/// A change of the text.
#[derive(Debug, Clone, PartialEq)]
enum Piece {
    Table(Replaced),
    Ours(Range<usize>, String),
}

impl Piece {
    fn at(&self) -> &Range<usize> {
        match self {
            Self::Table(replaced) => &replaced.at,
            Self::Ours(at, _) => at,
        }
    }
}

/// One reference to a source, to be replaced by a derived table of the old shape.
#[derive(Debug, Clone, PartialEq)]
struct Replaced {
    at: Range<usize>,
    /// Whether it is `TABLE t`, the keyword included.
    is_command: bool,
    target: usize,
    /// Whether the schema is spelled: the name alone may come to mean another table unseen.
    spelling: Spelling,
    /// The name to give the derived table, where the client gave no alias.
    alias: Option<Ident>,
    /// Conditions over the shadow's columns that follow from the client's own.
    twins: Vec<Twin>,
    /// Columns of the shadow that it has, too, under hidden names.
    hidden: Vec<(String, Ident)>,
}

impl Fit {
    /// The targets whose shadow it reads.
    pub fn targets(&self) -> impl Iterator<Item = usize> + '_ {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Table(replaced) => Some(replaced.target),
            Piece::Ours(..) => None,
        })
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
        for piece in &self.pieces {
            out.client(text, done..piece.at().start);
            done = piece.at().end;
            let replaced = match piece {
                Piece::Table(replaced) => replaced,
                Piece::Ours(_, sql) => {
                    out.ours(sql);
                    continue;
                }
            };
            let target = targets.get(replaced.target)?;
            let mut conditions =
                replaced.twins.iter().filter_map(|t| t.sql(&declared)).collect::<Vec<_>>();
            conditions.push(proof(target, replaced.spelling));
            if replaced.is_command {
                out.ours("SELECT * FROM ");
            }
            out.ours(&old_shape(target, &replaced.hidden, &conditions)?);
            if let Some(alias) = &replaced.alias {
                out.ours(" AS ").ours(&alias.quoted());
            }
        }
        out.client(text, done..at.end);
        Some(out)
    }
}

/// `(SELECT … FROM shadow)`: every column of the source, in its order, of its exact type.
fn old_shape(target: &Target, hidden: &[(String, Ident)], conditions: &[String]) -> Option<String> {
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
    let hidden = hidden.iter().map(|(own, name)| format!("{own} AS {}", name.quoted()));
    let columns = columns.chain(hidden).collect::<Vec<_>>().join(", ");
    let condition = match conditions {
        [] => String::new(),
        conditions => format!(" WHERE {}", conditions.join(" AND ")),
    };
    Some(format!("(SELECT {columns} FROM {}{condition})", target.shadow.quoted()))
}

/// What the server says when what a query was decided by does not hold any more.
pub const MOVED: &str =
    "pgsegue: what the name of a migrated table means, or who reads it, has changed unseen";

/// A condition that holds while in the session the source's bare name means it, and the role may read it
/// and has no rows of it hidden that the shadow would show; it fails otherwise. A function that sets
/// search_path or the role, a temporary table made by one, another session's DDL or REVOKE are seen by
/// nobody else. Worked out once per execution; the cast fails with the text.
pub fn proof(target: &Target, spelling: Spelling) -> String {
    let (source, shadow) = (target.source_oid, target.shadow_oid);
    let name = match spelling {
        Spelling::Qualified => String::new(),
        Spelling::Unqualified => format!(
            "pg_catalog.to_regclass({})::pg_catalog.oid OPERATOR(pg_catalog.=) {source}::pg_catalog.oid AND ",
            literal(&target.source.name.quoted())
        ),
    };
    format!(
        "CASE WHEN {name}pg_catalog.has_table_privilege({source}::pg_catalog.oid, 'SELECT') \
         AND (pg_catalog.row_security_active({shadow}::pg_catalog.oid) \
         OR NOT pg_catalog.row_security_active({source}::pg_catalog.oid)) \
         AND pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.<>) 'serializable' \
         THEN true ELSE CAST(pg_catalog.concat({}) AS boolean) END",
        literal(MOVED),
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
    if tokens.iter().any(|t| t.kind == Kind::UnicodeQuoted) {
        // The parser takes `U&"x"` for an operator between two names.
        let fit = Err("an identifier with Unicode escapes".to_owned());
        return Read { fingerprint: fingerprint(text, tokens), fit };
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
    if let Some(why) = kept_on_source(text, tokens) {
        return Err(why.to_owned());
    }
    let parsable = Parsable::new(text, tokens);
    let options = ParserOptions::new().with_unescape(false);
    let mut statements = Parser::new(&PostgreSqlDialect {})
        .with_options(options)
        .try_with_sql(&parsable.sql)
        .and_then(|mut p| p.parse_statements())
        .map_err(|e| refused(text, tokens, &e))?;
    let (Some(Ast::Query(query)), true) = (statements.pop(), statements.is_empty()) else {
        return Err("not one query".to_owned());
    };
    let mut found = Found::new(targets, functions);
    if let std::ops::ControlFlow::Break(unfit) = query.visit(&mut found) {
        return Err(unfit);
    }
    let comparable = found.comparable(&query, targets);
    let leans_on = std::mem::take(&mut found.leans_on);
    let given = std::mem::take(&mut found.given);
    let (factors, edits) = found.into_edits();
    let found_mentions = mentions(text, tokens, targets);
    let mut replaced = Vec::with_capacity(factors.len());
    for factor in &factors {
        replaced.push(place(text, tokens, &parsable, &found_mentions, factor)?);
    }
    replaced.sort_by_key(|r| r.at.start);
    let mut given: Vec<_> = given.iter().filter_map(|at| parsable.token(*at)).collect();
    given.sort_unstable();
    audit(&found_mentions, &replaced, &given, tokens)?;
    for r in &replaced {
        if let Some(Err(why)) = targets.get(r.target).map(|t| &t.old_shape) {
            return Err(why.clone());
        }
    }
    let mut pieces: Vec<Piece> = replaced.into_iter().map(Piece::Table).collect();
    for edit in &edits {
        pieces.extend(edited(tokens, &parsable, edit).ok_or("a change that cannot be placed")?);
    }
    pieces.sort_by_key(|piece| piece.at().start);
    Ok(Fit { pieces, comparable, leans_on })
}

/// The places of a change in the text.
fn edited(tokens: &[Token], places: &Parsable, edit: &Edit) -> Option<Vec<Piece>> {
    match edit {
        Edit::Replace(first, last, sql) => {
            let first = tokens.get(places.token(*first)?)?;
            let last = tokens.get(places.token(*last)?)?;
            Some(vec![Piece::Ours(first.at.start..last.at.end, sql.clone())])
        }
        Edit::CastCall(name, type_sql) => {
            let index = places.token(*name)?;
            let name = tokens.get(index)?;
            let open = tokens.get(index + 1).filter(|t| t.kind == Kind::Open)?;
            let close = tokens
                .get(index + 2..)?
                .iter()
                .find(|t| t.kind == Kind::Close && t.depth == open.depth)?;
            let (start, end) = (name.at.start, close.at.end);
            Some(vec![
                Piece::Ours(start..start, "CAST(".to_owned()),
                Piece::Ours(end..end, format!(" AS {type_sql})")),
            ])
        }
    }
}

/// Why the source answers whatever the tree says, as far as tokens tell. Some of it the parser
/// reads as something else: of `SELECT INTO x FROM y` it makes a query of a column, of `FROM ONLY t`
/// one of a table ONLY.
fn kept_on_source(text: &str, tokens: &[Token]) -> Option<&'static str> {
    let is = |i: usize, words: &[&str]| {
        tokens.get(i).is_some_and(|t| words.iter().any(|w| is_keyword(text, t, w)))
    };
    for (i, token) in tokens.iter().enumerate().filter(|(_, t)| t.kind == Kind::Word) {
        if is_keyword(text, token, "into") {
            return Some("SELECT INTO");
        }
        if is_keyword(text, token, "for") && is(i + 1, &["update", "no", "share", "key"]) {
            return Some("a locking clause");
        }
        let name = tokens.get(i + 1).filter(|t| {
            matches!(t.kind, Kind::Word | Kind::Quoted) || text.get(t.at.clone()) == Some("(")
        });
        if is_keyword(text, token, "only") && name.is_some() {
            let fetch = i.checked_sub(1).is_some_and(|i| is(i, &["row", "rows"]));
            if !fetch {
                return Some("ONLY");
            }
        }
        if is_keyword(text, token, "tablesample") {
            return Some("TABLESAMPLE");
        }
    }
    tokens.windows(4).any(|w| is_row_value(text, w)).then_some("a whole-row reference")
}

const XML: [&str; 10] = [
    "xmlattributes",
    "xmlconcat",
    "xmlelement",
    "xmlexists",
    "xmlforest",
    "xmlparse",
    "xmlpi",
    "xmlroot",
    "xmlserialize",
    "xmltable",
];
const JSON: [&str; 10] = [
    "json_array",
    "json_arrayagg",
    "json_exists",
    "json_object",
    "json_objectagg",
    "json_query",
    "json_scalar",
    "json_serialize",
    "json_table",
    "json_value",
];
const XML_SYNTAX: &str = "an XML function with a syntax of its own";
const JSON_SYNTAX: &str = "an SQL/JSON function with a syntax of its own";

/// What is spelled as a function and is in no catalog: the grammar has it.
pub(super) fn own_syntax(name: &str) -> Option<&'static str> {
    let listed = |names: &[&str]| names.contains(&name);
    match (listed(&XML), listed(&JSON)) {
        (true, _) => Some(XML_SYNTAX),
        (_, true) => Some(JSON_SYNTAX),
        _ => None,
    }
}

/// Why the parser refused a query: by what it is known not to read, or in its own words.
fn refused(text: &str, tokens: &[Token], error: &ParserError) -> String {
    let calls = |names: &[&str]| {
        tokens.windows(2).any(|pair| match pair {
            [name, open] => {
                open.kind == Kind::Open && names.iter().any(|n| is_keyword(text, name, n))
            }
            _ => false,
        })
    };
    let star = tokens.windows(3).any(|w| match w {
        [before, name, star] => {
            ["from", "join"].iter().any(|k| is_keyword(text, before, k))
                && matches!(name.kind, Kind::Word | Kind::Quoted)
                && text.get(star.at.clone()) == Some("*")
        }
        _ => false,
    });
    let sets = tokens.windows(3).any(|w| match w {
        [grouping, sets, _] => {
            grouping.depth > 0
                && is_keyword(text, grouping, "grouping")
                && is_keyword(text, sets, "sets")
        }
        _ => false,
    });
    if matches!(error, ParserError::RecursionLimitExceeded) {
        "it is nested too deeply".to_owned()
    } else if calls(&XML) {
        XML_SYNTAX.to_owned()
    } else if calls(&JSON) {
        JSON_SYNTAX.to_owned()
    } else if star {
        "a table with * behind its name".to_owned()
    } else if sets {
        "GROUPING SETS within GROUPING SETS".to_owned()
    } else {
        format!("not understood: {error}")
    }
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

/// Every mention of a table must be one of the references found, or a name given to something in
/// the query; what is called by that name is not looked at, bare it is taken for the whole row.
fn audit(
    mentions: &[Mention],
    replaced: &[Replaced],
    given: &[usize],
    tokens: &[Token],
) -> Result<(), String> {
    let explained = |m: &Mention| {
        given.binary_search(&m.token).is_ok()
            || tokens.get(m.token).is_some_and(|t| {
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
    parsable: &Parsable,
    mentions: &[Mention],
    factor: &Factor,
) -> Result<Replaced, String> {
    let lost = || "a table reference that cannot be placed".to_owned();
    let first = parsable.token(factor.start).ok_or_else(lost)?;
    let command = first
        .checked_sub(1)
        .filter(|i| tokens.get(*i).is_some_and(|t| is_keyword(text, t, "table")));
    let first = tokens.get(command.unwrap_or(first)).ok_or_else(lost)?;
    let index = parsable.token(factor.last_part).ok_or_else(lost)?;
    let token = tokens.get(index).ok_or_else(lost)?;
    let mention = mention_at(mentions, index).ok_or_else(lost)?;
    let name = identifier(text, token).ok_or_else(lost)?;
    let qualified = mention.spelling == Spelling::Qualified;
    if mention.target != factor.target || qualified != factor.qualified {
        return Err(lost());
    }
    Ok(Replaced {
        at: first.at.start..token.at.end,
        is_command: command.is_some(),
        target: mention.target,
        spelling: mention.spelling,
        alias: factor.alias.is_none().then(|| Ident::new(name)),
        twins: factor.twins.clone(),
        hidden: factor.hidden.clone(),
    })
}

mod parsable;
#[cfg(test)]
mod tests;
