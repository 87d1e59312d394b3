//! One finding of the preflight: what, where, why it matters, and what to do about it.

use super::Kind;
use serde::{Serialize, Serializer};
use std::fmt;

/// Something in the database that an SRE has to know before a start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stable: `kind object`, such as `trigger public.orders.audit`. Goes into `accepted`.
    pub id: String,
    /// What sort of thing it is.
    #[serde(serialize_with = "word")]
    pub kind: Kind,
    /// Where: the table, column, constraint, function, role; empty where it is the database.
    pub object: String,
    /// How bad it is.
    pub severity: Severity,
    /// Whether `accepted` in the config file names it; it is then for information only.
    pub accepted: bool,
    /// What is there and what it would do.
    pub message: String,
    /// Why it matters, in one sentence.
    pub why: &'static str,
    /// What to do about it.
    pub remedy: String,
    /// The statements that do it, where SQL does; names are quoted as they need to be.
    pub sql: Vec<String>,
    /// The line of the config file that does it, where one does.
    pub config: Option<String>,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The migration is not started.
    Blocker,
    /// It works, less well.
    Warning,
    /// Worth knowing, or accepted by the SRE.
    Info,
}

fn word<S: Serializer>(kind: &Kind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(kind.word())
}

impl Finding {
    /// A finding that keeps the migration from starting.
    pub(super) fn blocker(
        kind: Kind,
        object: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let object = object.into();
        Self {
            id: format!("{} {object}", kind.word()).trim_end().to_owned(),
            kind,
            object,
            severity: Severity::Blocker,
            accepted: false,
            message: message.into(),
            why: kind.why(),
            remedy: remedy.into(),
            sql: Vec::new(),
            config: None,
        }
    }

    /// A finding that does not.
    pub(super) fn warning(
        kind: Kind,
        object: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { severity: Severity::Warning, ..Self::blocker(kind, object, message, remedy) }
    }

    /// A finding that is only worth knowing.
    pub(super) fn info(
        kind: Kind,
        object: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { severity: Severity::Info, ..Self::blocker(kind, object, message, remedy) }
    }

    /// With a statement that does what the remedy says.
    #[must_use]
    pub(super) fn run(mut self, statement: impl Into<String>) -> Self {
        self.sql.push(statement.into());
        self
    }

    /// With the line of the config file that does what the remedy says.
    #[must_use]
    pub(super) fn write(mut self, line: impl Into<String>) -> Self {
        self.config = Some(line.into());
        self
    }

    /// With the line of the config file that accepts it.
    #[must_use]
    pub(super) fn or_accept(self) -> Self {
        let line = accept_line(std::iter::once(&self));
        self.write(line)
    }

    /// Whether its line of the config file is the one that accepts it.
    pub fn may_be_accepted(&self) -> bool {
        self.config.as_ref().is_some_and(|line| *line == accept_line(std::iter::once(self)))
    }

    /// Whether it keeps the migration from starting.
    pub fn is_blocker(&self) -> bool {
        self.severity == Severity::Blocker
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.id, self.message, self.remedy)?;
        for statement in &self.sql {
            write!(f, "; {statement}")?;
        }
        Ok(())
    }
}

/// The one line of the config file that accepts all of these: a key may be there once.
pub fn accept_line<'a>(findings: impl Iterator<Item = &'a Finding>) -> String {
    let mut ids: Vec<String> = findings.map(|finding| toml_string(&finding.id)).collect();
    let mut seen = std::collections::BTreeSet::new();
    ids.retain(|id| seen.insert(id.clone()));
    format!("accepted = [{}]", ids.join(", "))
}

/// A string as TOML: in single quotes as it is, where it can be.
pub(super) fn toml_string(text: &str) -> String {
    if !text.chars().any(|c| c.is_control() || c == '"' || c == '\\') {
        return format!("\"{text}\"");
    }
    if !text.chars().any(|c| c.is_control() || c == '\'') {
        return format!("'{text}'");
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_of_the_config_file_are_read_back_as_they_were() {
        for text in ["plain", "with \"quotes\"", "it's", "'\"\\", "a\nb\u{1b}\"", "ü %s \\"] {
            let line = format!("a = {}", toml_string(text));
            let table: toml::Table = line.parse().unwrap();
            assert_eq!(table["a"].as_str(), Some(text), "{line}");
        }
    }
}
