//! The one pass over every text: can it name a migrated table, or change what names mean?

use super::lex::first_word;
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
    /// How many of the patterns spell a name; those after them change what names mean.
    spelling: usize,
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
pub(super) fn part_as_spelled(name: &str) -> &str {
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
            return Self { names: None, spelling: 0, has_letters_of_encodings: false };
        }
        let words: BTreeSet<String> =
            names_of(targets, ways).map(|n| part_as_spelled(n).to_owned()).collect();
        let has_letters_of_encodings = words.iter().any(|w| !w.is_ascii());
        let mut words: Vec<String> = words.into_iter().collect();
        words.push("u&\"".to_owned());
        let spelling = words.len();
        words.extend(["set_config".to_owned(), "pg_settings".to_owned()]);
        let names = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .match_kind(MatchKind::Standard)
            .build(words)
            .ok();
        Self { names, spelling, has_letters_of_encodings }
    }

    /// Whether a name may stand anywhere in the text, strings included.
    pub fn spells_a_name(&self, text: &[u8]) -> bool {
        let Some(names) = &self.names else { return false };
        names.find_overlapping_iter(text).any(|found| found.pattern().as_usize() < self.spelling)
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
            let several = has_second_statement(text) && NAMING.iter().any(|w| says(text, w));
            return match several || NAMING.contains(&first) {
                true => Verdict::Understand,
                false => Verdict::Plain,
            };
        };
        if FIRST_WORDS.contains(&first) || names.is_match(text) || has_second_statement(text) {
            Verdict::Understand
        } else {
            Verdict::Plain
        }
    }
}

/// Statements that change what the names of prepared statements stand for.
const NAMING: [&str; 3] = ["prepare", "deallocate", "discard"];

fn says(text: &[u8], word: &str) -> bool {
    text.windows(word.len()).any(|w| w.eq_ignore_ascii_case(word.as_bytes()))
}

/// Whether anything but blanks follows a semicolon: the first word does not tell all then.
pub fn has_second_statement(text: &[u8]) -> bool {
    let Some(semicolon) = text.iter().position(|b| *b == b';') else { return false };
    text.get(semicolon + 1..).unwrap_or_default().iter().any(|b| !b.is_ascii_whitespace())
}
