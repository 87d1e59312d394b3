//! The one pass over every text: can it name a migrated table, or change what names mean?

use super::lex::{first_word, spells};
use super::target::Target;
use super::ways::Ways;
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
    /// The first of the patterns: each spells a name, or a part of one. Behind them is what begins an
    /// identifier in Unicode escapes, then what changes what names mean.
    words: Vec<String>,
    /// Some name is not ASCII: other encodings spell it with other bytes.
    has_letters_of_encodings: bool,
}

/// Texts with these first words have an effect on the session, or hide code.
const FIRST_WORDS: [&str; 20] = [
    "truncate",
    "prepare",
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

/// The longest part of a name that is spelled the same in every text: an inner quote is doubled, and
/// in code within a string so are apostrophes and backslashes.
pub fn part_as_spelled(name: &str) -> &str {
    name.split(['"', '\'', '\\']).max_by_key(|part| part.len()).unwrap_or_default()
}

/// Every name by which a statement may write a table of the targets.
fn names_of<'a>(targets: &'a [Arc<Target>], ways: &'a Ways) -> impl Iterator<Item = &'a str> {
    targets.iter().flat_map(|t| t.names()).chain(ways.names())
}

impl Prefilter {
    /// A filter for these targets; one without targets lets everything pass as plain.
    pub fn new(targets: &[Arc<Target>], ways: &Ways) -> Self {
        if targets.is_empty() {
            return Self { names: None, words: Vec::new(), has_letters_of_encodings: false };
        }
        let words: BTreeSet<String> =
            names_of(targets, ways).map(|n| part_as_spelled(n).to_owned()).collect();
        let has_letters_of_encodings = words.iter().any(|w| !w.is_ascii());
        let words: Vec<String> = words.into_iter().collect();
        let others = ["u&\"", "set_config", "pg_settings"];
        let patterns = words.iter().map(String::as_str).chain(others);
        let names = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .match_kind(MatchKind::Standard)
            .build(patterns)
            .ok();
        Self { names, words, has_letters_of_encodings }
    }

    /// Whether a name may stand anywhere in the text, strings included.
    pub fn spells_a_name(&self, text: &[u8]) -> bool {
        let Some(names) = &self.names else { return false };
        let mut found = names.find_overlapping_iter(text);
        found.any(|found| found.pattern().as_usize() <= self.words.len())
    }

    /// Whether a text may spell one of these names, each as a word of its own. For what is too long to be
    /// read: letters behind a backslash may end a word.
    pub fn spells_one(&self, text: &[u8], mut these: impl FnMut(&str) -> bool) -> bool {
        let Some(names) = &self.names else { return false };
        let escapes = text.contains(&b'\\');
        let is_part = |b: Option<&u8>| {
            b.is_some_and(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$' | 0x80..))
        };
        let mut words = self.words.iter().map(|word| these(word)).collect::<Vec<_>>();
        // Identifiers in Unicode escapes may spell any.
        words.push(true);
        names.find_overlapping_iter(text).any(|found| {
            let before = found.start().checked_sub(1).and_then(|at| text.get(at));
            let whole = !is_part(before) && !is_part(text.get(found.end()));
            let any = found.pattern().as_usize() == self.words.len();
            (whole || escapes || any) && words.get(found.pattern().as_usize()) == Some(&true)
        })
    }

    /// Whether a text in an encoding that is not UTF-8 can spell a name in bytes that are not those
    /// looked for.
    pub fn is_blind_to(&self, text: &[u8]) -> bool {
        self.has_letters_of_encodings && !text.is_ascii()
    }

    /// Looks at one text.
    pub fn look(&self, text: &[u8]) -> Verdict {
        let mut buffer = [0; 16];
        let first = first_word(text, &mut buffer).unwrap_or_default();
        let Some(names) = &self.names else {
            // What a name stands for now, it stands for when a migration is declared, too.
            let several = has_second_statement(text) && NAMING.iter().any(|w| spells(text, w));
            return match several || NAMING.contains(&first) {
                true => Verdict::Understand,
                false => Verdict::Plain,
            };
        };
        let begins = FIRST_WORDS.contains(&first) || first == "explain" && spells(text, "execute");
        if begins || names.is_match(text) || has_second_statement(text) {
            Verdict::Understand
        } else {
            Verdict::Plain
        }
    }
}

/// Statements that change what the names of prepared statements stand for.
const NAMING: [&str; 3] = ["prepare", "deallocate", "discard"];

/// Whether anything but blanks follows a semicolon: the first word does not tell all then.
pub fn has_second_statement(text: &[u8]) -> bool {
    let Some(semicolon) = text.iter().position(|b| *b == b';') else { return false };
    text.get(semicolon + 1..).unwrap_or_default().iter().any(|b| !b.is_ascii_whitespace())
}
