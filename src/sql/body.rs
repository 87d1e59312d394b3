//! What the text of a function or DO block lets fear: whether it names a table, writes, or builds
//! statements.
//! Words are looked for, nothing is understood; what is not certain counts as feared.

use super::ident::QualifiedName;
use super::lex::{self, Kind, is_keyword};
use super::prefilter::part_as_spelled;
use std::collections::HashSet;

/// What a body may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Does {
    /// It has no word that reads, writes or calls.
    Nothing,
    /// It reads or calls something.
    Reads,
    /// It has a verb that writes.
    Writes,
    /// It builds statements, or is written in another language: anything.
    Anything,
}

const WRITES: [&str; 6] = ["insert", "update", "delete", "merge", "truncate", "copy"];
const READS: [&str; 5] = ["select", "perform", "call", "table", "with"];

/// Reads a body in a language of Postgres's name.
pub fn does(language: &str, body: &str) -> Does {
    if !matches!(language, "sql" | "plpgsql") {
        return Does::Anything;
    }
    let words = words(body);
    let has = |of: &[&str]| words.iter().any(|word| of.contains(&word.as_str()));
    if has(&["execute"]) {
        Does::Anything
    } else if has(&WRITES) {
        Does::Writes
    } else if has(&READS) || body.contains('(') {
        Does::Reads
    } else {
        Does::Nothing
    }
}

/// Whether a body in PL/pgSQL or SQL runs statements that cannot be read in it: EXECUTE of anything
/// but a constant.
pub fn builds(body: &str) -> bool {
    let Ok(tokens) = lex::tokens(body) else { return true };
    tokens.iter().enumerate().any(|(at, token)| {
        // GRANT EXECUTE ON, of a privilege.
        let next = tokens.get(at + 1).filter(|next| !is_keyword(body, next, "on"));
        let constant = next.is_some_and(|next| {
            let plain = body.get(next.at.clone()).is_some_and(|t| t.starts_with(['\'', '$']));
            let ends = tokens.get(at + 2).is_none_or(|after| {
                after.kind == Kind::Semicolon
                    || ["into", "using", "loop"].iter().any(|word| is_keyword(body, after, word))
            });
            next.kind == Kind::Text && plain && ends
        });
        is_keyword(body, token, "execute") && next.is_some() && !constant
    })
}

/// Everything that a text spells, in strings and comments, too.
#[derive(Debug)]
pub struct Spelled {
    text: String,
    words: HashSet<String>,
    /// The words with an opening bracket behind them.
    called: HashSet<String>,
}

impl Spelled {
    /// Takes a text apart.
    pub fn of(text: &str) -> Self {
        let text = text.to_lowercase();
        let (mut words, mut called) = (HashSet::new(), HashSet::new());
        let mut rest = text.as_str();
        while let Some(start) = rest.find(is_part) {
            let from = rest.get(start..).unwrap_or_default();
            let end = from.find(|c| !is_part(c)).unwrap_or(from.len());
            let (word, behind) = from.split_at(end);
            words.insert(word.to_owned());
            if behind.trim_start_matches(|c: char| c == '"' || c.is_whitespace()).starts_with('(') {
                called.insert(word.to_owned());
            }
            rest = behind;
        }
        Self { text, words, called }
    }

    /// Whether it spells a name.
    pub fn has(&self, name: &str) -> bool {
        self.finds(&self.words, name)
    }

    /// Whether it spells the name of a function before a bracket.
    pub fn calls(&self, name: &str) -> bool {
        self.finds(&self.called, name)
    }

    /// The words before a bracket, folded.
    pub fn called(&self) -> impl Iterator<Item = &str> {
        self.called.iter().map(String::as_str)
    }

    /// Whether a name is a word, so that it is found among words.
    pub fn is_word(name: &str) -> bool {
        name.chars().all(is_part)
    }

    fn finds(&self, words: &HashSet<String>, name: &str) -> bool {
        let name = name.to_lowercase();
        match Self::is_word(&name) {
            true => words.contains(&name),
            false => self.text.contains(part_as_spelled(&name)),
        }
    }
}

fn is_part(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The words outside of strings and comments, folded; all words of a text that has no end.
fn words(body: &str) -> Vec<String> {
    let Ok(tokens) = lex::tokens(body) else {
        let words = body.split(|c: char| !c.is_alphanumeric() && c != '_');
        return words.map(str::to_lowercase).collect();
    };
    tokens
        .iter()
        .filter(|token| token.kind == Kind::Word)
        .filter_map(|token| body.get(token.at.clone()))
        .map(str::to_lowercase)
        .collect()
}

/// Whether a body spells the name of a table anywhere, strings and comments included.
pub fn names(body: &str, table: &QualifiedName) -> bool {
    let name = table.name.as_str();
    let folded = name.to_lowercase();
    spells(&body.to_lowercase(), &folded) || spells(&body.to_lowercase(), &doubled(&folded))
}

fn doubled(name: &str) -> String {
    name.replace('"', "\"\"")
}

/// `name` in `text`, not as a part of a longer word.
fn spells(text: &str, name: &str) -> bool {
    let part = |c: Option<char>| c.is_some_and(is_part);
    text.match_indices(name).any(|(at, found)| {
        let before = text.get(..at).and_then(|t| t.chars().next_back());
        let after = text.get(at + found.len()..).and_then(|t| t.chars().next());
        !part(before) && !part(after)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_feared_for_its_words_only() {
        for (language, body, expected) in [
            ("plpgsql", "BEGIN RETURN NULL; END", Does::Nothing),
            ("plpgsql", "BEGIN NEW.at = now(); RETURN NEW; END", Does::Reads),
            ("plpgsql", "BEGIN PERFORM f(); RETURN NULL; END", Does::Reads),
            ("plpgsql", "BEGIN IF TG_OP = 'UPDATE' THEN RETURN NULL; END IF; END", Does::Nothing),
            ("plpgsql", "BEGIN insert INTO log VALUES (1); RETURN NULL; END", Does::Writes),
            ("plpgsql", "BEGIN -- update\n RETURN NULL; END", Does::Nothing),
            ("plpgsql", "BEGIN EXECUTE 'DEL' || 'ETE FROM x'; END", Does::Anything),
            ("plpgsql", "BEGIN RAISE NOTICE 'x; UPDATE y", Does::Writes),
            ("sql", "SELECT 1", Does::Reads),
            ("sql", "UPDATE orders SET total = 0", Does::Writes),
            ("c", "f", Does::Anything),
            ("plpython3u", "pass", Does::Anything),
        ] {
            assert_eq!(does(language, body), expected, "{body}");
        }
    }

    #[test]
    fn execute_of_anything_but_a_constant_builds_statements() {
        for (body, expected) in [
            ("BEGIN EXECUTE 'DELETE FROM t'; END", false),
            ("BEGIN EXECUTE $q$DELETE FROM t WHERE id = $1$q$ USING 1; END", false),
            ("BEGIN FOR r IN EXECUTE 'SELECT 1' LOOP NULL; END LOOP; END", false),
            ("BEGIN GRANT EXECUTE ON FUNCTION f TO r; END", false),
            ("BEGIN -- EXECUTE s\n NULL; END", false),
            ("BEGIN EXECUTE 'DELETE FROM t' || 'wo'; END", true),
            ("BEGIN EXECUTE E'DELETE FROM t\\x77o'; END", true),
            ("BEGIN EXECUTE format('DELETE FROM %I', n); END", true),
            ("BEGIN execute s; END", true),
            ("BEGIN 'EXECUTE", true),
        ] {
            assert_eq!(builds(body), expected, "{body}");
        }
    }

    #[test]
    fn a_function_is_called_by_its_name_before_a_bracket() {
        let spelled = Spelled::of("SELECT total, Add_One (1), s.\"Sel %\"(2), \"x\" ( FROM t$1");
        for name in ["add_one", "Sel %", "x"] {
            assert!(spelled.calls(name), "{name}");
        }
        assert!(spelled.has("total") && !spelled.calls("total") && !spelled.has("add"));
    }

    #[test]
    fn a_name_is_found_as_it_is_spelled_in_sql() {
        let table = |text| QualifiedName::parse(text).unwrap();
        for (body, name, expected) in [
            ("UPDATE Orders SET x = 1", "public.orders", true),
            ("UPDATE public.orders SET x = 1", "public.orders", true),
            ("UPDATE my_orders SET x = 1", "public.orders", false),
            ("UPDATE orders_v2 SET x = 1", "public.orders", false),
            ("EXECUTE 'UPDATE orders'", "public.orders", true),
            ("UPDATE \"Sel \"\"q\"\" %\" SET x = 1", "public.\"Sel \"\"q\"\" %\"", true),
            ("UPDATE größe SET x = 1", "public.\"größe\"", true),
            ("UPDATE vergrößeng SET x = 1", "public.\"größe\"", false),
        ] {
            assert_eq!(names(body, &table(name)), expected, "{body}");
        }
    }
}
