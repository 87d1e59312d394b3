//! Where a statement spells the name of a migrated table.

use super::lex::{Kind, Token, identifier};
use super::target::Target;
use std::sync::Arc;

/// Words that are no name of a table or column where they stand alone and without quotes, in every version of the
/// server: the reserved ones, sorted (<https://www.postgresql.org/docs/current/sql-keywords-appendix.html>).
const RESERVED: [&str; 100] = [
    "all",
    "analyse",
    "analyze",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "asymmetric",
    "authorization",
    "binary",
    "both",
    "case",
    "cast",
    "check",
    "collate",
    "collation",
    "column",
    "concurrently",
    "constraint",
    "create",
    "cross",
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "default",
    "deferrable",
    "desc",
    "distinct",
    "do",
    "else",
    "end",
    "except",
    "false",
    "fetch",
    "for",
    "foreign",
    "freeze",
    "from",
    "full",
    "grant",
    "group",
    "having",
    "ilike",
    "in",
    "initially",
    "inner",
    "intersect",
    "into",
    "is",
    "isnull",
    "join",
    "lateral",
    "leading",
    "left",
    "like",
    "limit",
    "localtime",
    "localtimestamp",
    "natural",
    "not",
    "notnull",
    "null",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "outer",
    "overlaps",
    "placing",
    "primary",
    "references",
    "returning",
    "right",
    "select",
    "session_user",
    "similar",
    "some",
    "symmetric",
    "table",
    "tablesample",
    "then",
    "to",
    "trailing",
    "true",
    "union",
    "unique",
    "user",
    "using",
    "variadic",
    "verbose",
    "when",
    "where",
    "window",
    "with",
];

/// Which table of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Table {
    /// The table that the apps name.
    Source,
    /// The table of the new shape.
    Shadow,
    /// A partition of the source, or what inherits from it, by its object id.
    Part(u32),
    /// The source, by way of a view or a function that may write it.
    Through,
}

/// Whether the schema is spelled as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Spelling {
    /// `schema.table`: means the migrated table whatever the session's search_path is.
    Qualified,
    /// `table`: means what search_path and temporary tables make of it.
    Unqualified,
}

/// A place where a migrated table may be named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mention {
    /// Index of the token that spells the table's name.
    pub token: usize,
    /// Index of the target.
    pub target: usize,
    /// Source or shadow.
    pub table: Table,
    /// With or without the schema.
    pub spelling: Spelling,
}

/// All places in `tokens` that may name a table of `targets`: `x.orders` with a foreign `x` and
/// `orders.x` are none.
pub fn mentions(text: &str, tokens: &[Token], targets: &[Arc<Target>]) -> Vec<Mention> {
    let mut found = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        if !matches!(token.kind, Kind::Word | Kind::Quoted | Kind::UnicodeQuoted)
            || is_dot(tokens, index + 1)
        {
            continue;
        }
        let Some(name) = identifier(text, token) else { continue };
        let qualifier = qualifier(text, tokens, index);
        let alone = token.kind == Kind::Word && qualifier.is_none();
        if alone && is_reserved(&name) {
            continue;
        }
        for (target, t) in targets.iter().enumerate() {
            let parts = t.parts.get(&name).into_iter().flatten();
            let parts = parts.map(|p| (Table::Part(p.oid), &p.name));
            let tables = [(Table::Source, &t.source), (Table::Shadow, &t.shadow)];
            for (table, full) in tables.into_iter().chain(parts) {
                if full.name.as_str() != name {
                    continue;
                }
                let spelling = match &qualifier {
                    None => Spelling::Unqualified,
                    Some(q) if q == full.schema.as_str() => Spelling::Qualified,
                    Some(_) => continue,
                };
                found.push(Mention { token: index, target, table, spelling });
            }
        }
    }
    found
}

/// Whether a word without quotes is no name.
pub fn is_reserved(word: &str) -> bool {
    RESERVED.binary_search(&word).is_ok()
}

/// The first mention at a token; `found` is in the order of tokens, as [`mentions`] gives it.
pub fn mention_at(found: &[Mention], token: usize) -> Option<&Mention> {
    let first = found.partition_point(|m| m.token < token);
    found.get(first).filter(|m| m.token == token)
}

/// All mentions at a token: tables of one name in several schemas, or of several migrations.
pub fn mentions_at(found: &[Mention], token: usize) -> &[Mention] {
    let first = found.partition_point(|m| m.token < token);
    let end = found.partition_point(|m| m.token <= token);
    found.get(first..end).unwrap_or_default()
}

/// Whether an identifier has Unicode escapes that cannot be read: it may mean any table.
pub fn has_unreadable_identifier(text: &str, tokens: &[Token]) -> bool {
    tokens.iter().any(|t| t.kind == Kind::UnicodeQuoted && identifier(text, t).is_none())
}

fn is_dot(tokens: &[Token], index: usize) -> bool {
    tokens.get(index).is_some_and(|t| t.kind == Kind::Dot)
}

fn qualifier(text: &str, tokens: &[Token], index: usize) -> Option<String> {
    let dot = index.checked_sub(1).filter(|i| is_dot(tokens, *i))?;
    let name = dot.checked_sub(1).and_then(|i| tokens.get(i))?;
    Some(identifier(text, name).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::super::ident::QualifiedName;
    use super::super::lex::tokens;
    use super::super::write::tests::target;
    use super::*;

    #[test]
    fn a_reserved_word_names_a_table_only_in_quotes_or_behind_a_schema() {
        let source = QualifiedName::parse("public.\"order\"").unwrap();
        let targets = [Arc::new(Target { source, ..target(&["id"]) })];
        for (text, named) in [
            ("select a from b order by c", 0),
            ("select a from \"order\" order by c", 1),
            ("delete from public.order", 1),
            ("delete from other.order", 0),
            ("select \"order\".a, public.\"order\".b from public.\"order\"", 1),
        ] {
            let found = mentions(text, &tokens(text).unwrap(), &targets);
            assert_eq!(found.len(), named, "{text}");
        }
    }

    #[test]
    fn reserved_words_are_sorted() {
        assert!(RESERVED.is_sorted());
    }
}
