//! Identifiers and their quoting. The only place that quotes.

use std::fmt;

/// One identifier as Postgres stores it: folded already, no quotes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ident(String);

/// A name that no server accepts as an identifier.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IdentError {
    /// Empty, or quotes that do not close.
    #[error("\"{0}\" is not an identifier")]
    Malformed(String),
    /// A relation without its schema.
    #[error("\"{0}\" names no schema; write it as schema.table, for example public.{0}")]
    Unqualified(String),
}

impl Ident {
    /// An identifier by its stored spelling (`Order` means `"Order"`).
    pub fn new(stored: impl Into<String>) -> Self {
        Self(stored.into())
    }

    /// The stored spelling, without quotes.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The identifier in double quotes, inner quotes doubled: safe at any place of a statement.
    pub fn quoted(&self) -> String {
        format!("\"{}\"", self.0.replace('"', "\"\""))
    }

    /// As somebody would write it in SQL: quoted where it has to be. For messages; keywords are
    /// not known here.
    pub fn spelled(&self) -> String {
        let plain = |c: char| c == '_' || c.is_ascii_lowercase();
        let first = self.0.starts_with(plain);
        let rest = self.0.chars().all(|c| plain(c) || c.is_ascii_digit() || c == '$');
        if first && rest { self.0.clone() } else { self.quoted() }
    }
}

impl fmt::Display for Ident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `schema.name`, both as stored.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct QualifiedName {
    /// The schema.
    pub schema: Ident,
    /// The relation in it.
    pub name: Ident,
}

impl QualifiedName {
    /// Reads `schema.name` as SQL would: unquoted parts fold to lower case, `"…"` parts stay.
    ///
    /// # Errors
    /// When a part is empty, its quotes do not close, or the schema is missing.
    pub fn parse(text: &str) -> Result<Self, IdentError> {
        let mut parts = split_name(text)?;
        match (parts.pop(), parts.pop(), parts.is_empty()) {
            (Some(name), Some(schema), true) => Ok(Self { schema, name }),
            (Some(name), None, true) => Err(IdentError::Unqualified(name.0)),
            _ => Err(IdentError::Malformed(text.to_owned())),
        }
    }

    /// `"schema"."name"`.
    pub fn quoted(&self) -> String {
        format!("{}.{}", self.schema.quoted(), self.name.quoted())
    }

    /// `schema.name`, each quoted where it has to be. For messages.
    pub fn spelled(&self) -> String {
        format!("{}.{}", self.schema.spelled(), self.name.spelled())
    }
}

impl fmt::Display for QualifiedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// A string constant in single quotes, right under `standard_conforming_strings` on or off.
pub fn literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') {
        format!("E'{}'", doubled.replace('\\', "\\\\"))
    } else {
        format!("'{doubled}'")
    }
}

fn split_name(text: &str) -> Result<Vec<Ident>, IdentError> {
    let malformed = || IdentError::Malformed(text.to_owned());
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        let (part, after) = if let Some(quoted) = rest.strip_prefix('"') {
            read_quoted(quoted).ok_or_else(malformed)?
        } else {
            let end = rest.find('.').unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            if word.contains('"') || word.chars().any(char::is_whitespace) {
                return Err(malformed());
            }
            (word.to_lowercase(), after)
        };
        if part.is_empty() {
            return Err(malformed());
        }
        parts.push(Ident(part));
        match after.strip_prefix('.') {
            Some(next) => rest = next,
            None if after.is_empty() => return Ok(parts),
            None => return Err(malformed()),
        }
    }
}

fn read_quoted(text: &str) -> Option<(String, &str)> {
    let mut out = String::new();
    let mut rest = text;
    loop {
        let end = rest.find('"')?;
        let (part, after) = rest.split_at(end);
        out.push_str(part);
        let after = after.strip_prefix('"')?;
        match after.strip_prefix('"') {
            Some(next) => {
                out.push('"');
                rest = next;
            }
            None => return Some((out, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qualified_names_fold_like_sql() {
        for (text, schema, name) in [
            ("public.Orders", "public", "orders"),
            ("\"My Schema\".\"T.a\"\"b\"", "My Schema", "T.a\"b"),
        ] {
            let parsed = QualifiedName::parse(text).unwrap();
            assert_eq!((parsed.schema.as_str(), parsed.name.as_str()), (schema, name));
        }
        assert_eq!(QualifiedName::parse("\"a\".\"b\"\"\"").unwrap().quoted(), "\"a\".\"b\"\"\"");
    }

    #[test]
    fn names_are_spelled_with_the_quotes_that_they_need() {
        for (text, spelled) in [
            ("public.orders", "public.orders"),
            ("public.\"Orders\"", "public.\"Orders\""),
            ("\"my.schema\".\"a\"\"b c\"", "\"my.schema\".\"a\"\"b c\""),
            ("public.\"1st\"", "public.\"1st\""),
            ("public.\"ü\"", "public.\"ü\""),
        ] {
            assert_eq!(QualifiedName::parse(text).unwrap().spelled(), spelled);
        }
    }

    #[test]
    fn refuses_what_is_not_schema_dot_table() {
        for bad in ["", ".", "a.", ".a", "a.b.c", "a.\"b", "a b.c", "a.\"b\"c"] {
            assert!(QualifiedName::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(QualifiedName::parse("orders"), Err(IdentError::Unqualified("orders".into())));
    }

    #[test]
    fn literals_survive_quotes_and_backslashes() {
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("a\\'b"), "E'a\\\\''b'");
    }
}
