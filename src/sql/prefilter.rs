//! The one pass over every text: can it name a migrated table, or change what names mean?

use super::lex::first_word;
use super::target::Target;
use aho_corasick::{AhoCorasick, MatchKind};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What a text may be, as far as one pass can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Names no migrated table, has no effect on the session: forward it.
    Plain,
    /// Has to be understood.
    Understand,
}

/// Names and words to look for. Built once per set of targets.
#[derive(Debug)]
pub struct Prefilter {
    names: Option<AhoCorasick>,
}

/// Texts with these first words have an effect on the session, or hide code.
const FIRST_WORDS: [&str; 19] = [
    "truncate",
    "begin",
    "start",
    "commit",
    "end",
    "rollback",
    "abort",
    "set",
    "reset",
    "discard",
    "deallocate",
    "create",
    "drop",
    "alter",
    "do",
    "call",
    "execute",
    "import",
    "load",
];

impl Prefilter {
    /// A filter for these targets; one without targets lets everything pass as plain.
    pub fn new(targets: &[Arc<Target>]) -> Self {
        if targets.is_empty() {
            return Self { names: None };
        }
        // In the text an inner quote of a name is doubled; the part before it is enough to look for.
        let mut words: BTreeSet<String> = targets
            .iter()
            .flat_map(|t| [&t.source.name, &t.shadow.name])
            .map(|n| n.as_str().split('"').max_by_key(|p| p.len()).unwrap_or_default().to_owned())
            .collect();
        words.insert("u&\"".to_owned());
        words.insert("set_config".to_owned());
        words.insert("pg_settings".to_owned());
        let names = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .match_kind(MatchKind::Standard)
            .build(words)
            .ok();
        Self { names }
    }

    /// Looks at one text.
    pub fn look(&self, text: &[u8]) -> Verdict {
        let mut buffer = [0; 16];
        let first = first_word(text, &mut buffer).unwrap_or_default();
        let Some(names) = &self.names else {
            // A write hidden behind a name now is hidden when a migration is declared, too.
            return if first == "prepare" { Verdict::Understand } else { Verdict::Plain };
        };
        if FIRST_WORDS.contains(&first) || names.is_match(text) || has_second_statement(text) {
            Verdict::Understand
        } else {
            Verdict::Plain
        }
    }
}

/// Whether anything but blanks follows a semicolon: the first word does not tell all then.
fn has_second_statement(text: &[u8]) -> bool {
    let Some(semicolon) = text.iter().position(|b| *b == b';') else { return false };
    text.get(semicolon + 1..).unwrap_or_default().iter().any(|b| !b.is_ascii_whitespace())
}
