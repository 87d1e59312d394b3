//! What the text of a function lets fear: whether it names a table, writes, or builds statements.
//! Words are looked for, nothing is understood; what is not certain counts as feared.

use crate::sql::ident::QualifiedName;
use crate::sql::lex::{self, Kind};

/// What a body may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Does {
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
pub(super) fn does(language: &str, body: &str) -> Does {
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
pub(super) fn names(body: &str, table: &QualifiedName) -> bool {
    let name = table.name.as_str();
    let folded = name.to_lowercase();
    spells(&body.to_lowercase(), &folded) || spells(&body.to_lowercase(), &doubled(&folded))
}

fn doubled(name: &str) -> String {
    name.replace('"', "\"\"")
}

/// `name` in `text`, not as a part of a longer word.
fn spells(text: &str, name: &str) -> bool {
    let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
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
