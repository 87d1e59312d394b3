//! What the text of a function or DO block lets fear: whether it names a table, writes, or builds
//! statements.
//! Words and names are looked for, nothing is understood; what is not certain counts as feared.

use super::ident::QualifiedName;
use super::lex::{self, Kind, Token, is_keyword};
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

fn is_readable(language: &str) -> bool {
    matches!(language, "sql" | "plpgsql")
}

/// The tokens of a body, unless one of its strings ends elsewhere where standard_conforming_strings is
/// off: what is code and what is a string is not certain then.
fn certain_tokens(body: &str) -> Option<Vec<Token>> {
    let tokens = lex::tokens(body).ok()?;
    let uncertain = |token: &Token| {
        let text = body.get(token.at.clone()).unwrap_or_default();
        token.kind == Kind::Text && !text.starts_with(['e', 'E', '$']) && text.contains("\\'")
    };
    (!tokens.iter().any(uncertain)).then_some(tokens)
}

/// Reads a body in a language of Postgres's name.
pub fn does(language: &str, body: &str) -> Does {
    if !is_readable(language) {
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

/// What a text spells that may come to be a name in a statement. Comments never do.
#[derive(Debug, Default)]
pub struct Spelled {
    /// The names, each behind the schema that stands before it; folded.
    names: HashSet<(Option<String>, String)>,
    /// The names with an opening bracket behind them.
    called: HashSet<String>,
    /// What could not be read as names, or may be run as a statement.
    unread: Words,
    /// The strings that are run only if something that is called does so.
    strings: Words,
}

/// The words of a text of which no more is known.
#[derive(Debug, Default)]
struct Words {
    text: String,
    all: HashSet<String>,
    /// Those with an opening bracket behind them.
    called: HashSet<String>,
}

impl Spelled {
    /// A text of which everything counts, strings and comments included.
    pub fn of(text: &str) -> Self {
        let mut spelled = Self::default();
        spelled.unread.add(text);
        spelled
    }

    /// The body of a function in a language of Postgres's name. Its strings count where it runs
    /// strings, or they read as a statement.
    pub fn by(language: &str, body: &str) -> Self {
        let Some(tokens) = is_readable(language).then(|| certain_tokens(body)).flatten() else {
            return Self::of(body);
        };
        let executes = tokens.iter().any(|token| is_keyword(body, token, "execute"));
        let mut spelled = Self::default();
        for (at, token) in tokens.iter().enumerate() {
            let text = body.get(token.at.clone()).unwrap_or_default();
            match token.kind {
                Kind::Text if executes || is_statement(text) => spelled.unread.add(text),
                Kind::Text => spelled.strings.add(text),
                Kind::Word | Kind::Quoted | Kind::UnicodeQuoted => {
                    let Some(name) = folded(body, token) else { return Self::of(body) };
                    let next = tokens.get(at + 1).and_then(|next| body.get(next.at.clone()));
                    if next == Some("(") {
                        spelled.called.insert(name.clone());
                    }
                    spelled.names.insert((schema_before(body, &tokens, at), name));
                }
                _ => {}
            }
        }
        spelled
    }

    /// Whether it spells a name, in whatever schema.
    pub fn has(&self, name: &str) -> bool {
        let folded = name.to_lowercase();
        self.names.iter().any(|(_, name)| *name == folded) || self.unread.has(name)
    }

    /// Whether it spells the name of a table: alone, or with its own schema.
    pub fn names(&self, table: &QualifiedName) -> bool {
        let [schema, name] = [&table.schema, &table.name].map(|part| part.as_str().to_lowercase());
        let bare = (None, name);
        if self.names.contains(&bare) || self.unread.has(table.name.as_str()) {
            return true;
        }
        self.names.contains(&(Some(schema), bare.1))
    }

    /// Whether it spells the name of a table in a string that it does not run itself.
    pub fn hands_on(&self, table: &QualifiedName) -> bool {
        self.strings.has(table.name.as_str())
    }

    /// Whether it spells the name of a function before a bracket.
    pub fn calls(&self, name: &str) -> bool {
        self.called.contains(&name.to_lowercase()) || self.unread.finds(&self.unread.called, name)
    }

    /// The names before a bracket, folded.
    pub fn called(&self) -> impl Iterator<Item = &str> {
        self.called.iter().chain(&self.unread.called).map(String::as_str)
    }

    /// Whether a name is a word, so that it is found among words.
    pub fn is_word(name: &str) -> bool {
        name.chars().all(is_part)
    }
}

impl Words {
    fn add(&mut self, text: &str) {
        let text = text.to_lowercase();
        let mut rest = text.as_str();
        while let Some(start) = rest.find(is_part) {
            let from = rest.get(start..).unwrap_or_default();
            let end = from.find(|c| !is_part(c)).unwrap_or(from.len());
            let (word, behind) = from.split_at(end);
            self.all.insert(word.to_owned());
            if behind.trim_start_matches(|c: char| c == '"' || c.is_whitespace()).starts_with('(') {
                self.called.insert(word.to_owned());
            }
            rest = behind;
        }
        self.text.push_str(&text);
        self.text.push('\n');
    }

    fn has(&self, name: &str) -> bool {
        self.finds(&self.all, name)
    }

    fn finds(&self, words: &HashSet<String>, name: &str) -> bool {
        let name = name.to_lowercase();
        match Spelled::is_word(&name) {
            true => words.contains(&name),
            false => self.text.contains(part_as_spelled(&name)),
        }
    }
}

fn folded(body: &str, token: &Token) -> Option<String> {
    lex::identifier(body, token).map(|name| name.to_lowercase())
}

/// The name and the dot before a name. Another dot than one behind a name says nothing of a schema.
fn schema_before(body: &str, tokens: &[Token], at: usize) -> Option<String> {
    tokens.get(at.checked_sub(1)?).filter(|before| before.kind == Kind::Dot)?;
    folded(body, tokens.get(at.checked_sub(2)?)?)
}

/// Whether a string reads as a statement that writes: somebody may run it.
fn is_statement(string: &str) -> bool {
    let words = words_of(string);
    let Some(verb) = words.iter().position(|word| WRITES.contains(&word.as_str())) else {
        return false;
    };
    let next = match words.get(verb).map_or("", String::as_str) {
        "insert" | "merge" => "into",
        "update" => "set",
        "delete" | "copy" => "from",
        _ => return true,
    };
    words.iter().skip(verb).any(|word| word == next)
}

fn is_part(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The words outside of strings and comments, folded; all words of a text that is not certain.
fn words(body: &str) -> Vec<String> {
    let Some(tokens) = certain_tokens(body) else { return words_of(body) };
    tokens
        .iter()
        .filter(|token| token.kind == Kind::Word)
        .filter_map(|token| body.get(token.at.clone()))
        .map(str::to_lowercase)
        .collect()
}

fn words_of(text: &str) -> Vec<String> {
    text.split(|c| !is_part(c)).filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
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
            ("plpgsql", "BEGIN x := 'it\\'; DELETE FROM y; -- '; END", Does::Writes),
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
        let text = "SELECT total, Add_One (1), s.\"Sel %\"(2), \"x\" ( FROM t$1";
        for spelled in [Spelled::of(text), Spelled::by("sql", &format!("{text})"))] {
            for name in ["add_one", "Sel %", "x"] {
                assert!(spelled.calls(name), "{name}");
            }
            assert!(spelled.has("total") && !spelled.calls("total") && !spelled.has("add"));
        }
        let spelled = Spelled::by("plpgsql", "BEGIN -- one()\n PERFORM two(); /* three() */ END");
        assert!(spelled.calls("two") && !spelled.calls("one") && !spelled.calls("three"));
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
            ("UPDATE U&\"o\\0072ders\" SET x = 1", "public.orders", true),
        ] {
            assert_eq!(Spelled::by("sql", body).names(&table(name)), expected, "{body}");
        }
    }

    #[test]
    fn a_name_in_a_comment_or_in_a_string_that_nobody_runs_is_no_name() {
        let orders = QualifiedName::parse("public.orders").unwrap();
        for (body, expected) in [
            ("BEGIN -- orders\n INSERT INTO log VALUES (1); END", false),
            ("BEGIN /* orders /* orders */ orders */ INSERT INTO log VALUES (1); END", false),
            ("BEGIN INSERT INTO log VALUES ('orders', $$orders$$, 'x'); END", false),
            (
                "BEGIN RAISE NOTICE 'an update of orders is done'; INSERT INTO log VALUES (1); END",
                false,
            ),
            ("BEGIN INSERT INTO log VALUES (1); -- orders", false),
            // Whoever runs strings may run any of them.
            ("DECLARE t text := 'orders'; BEGIN EXECUTE 'DELETE FROM ' || t; END", true),
            ("BEGIN EXECUTE $$DELETE FROM other.orders$$; END", true),
            // Somebody else may run what reads as a statement.
            ("BEGIN PERFORM run('UPDATE orders SET x = 1'); END", true),
            ("BEGIN PERFORM run('WITH a AS (SELECT 1) DELETE FROM orders'); END", true),
            ("BEGIN PERFORM run('TRUNCATE orders'); END", true),
            // What is not certain counts.
            ("BEGIN -- orders\n INSERT INTO log VALUES ('x); END", true),
            ("BEGIN INSERT INTO log VALUES ('it\\'s', 'orders'); END", true),
            ("BEGIN INSERT INTO log VALUES (E'it\\'s', 'orders'); END", false),
        ] {
            assert_eq!(Spelled::by("plpgsql", body).names(&orders), expected, "{body}");
        }
        let python = "plpy.execute(\"UPDATE orders\")";
        assert!(Spelled::by("plpython3u", python).names(&orders));
        let handed = Spelled::by("plpgsql", "BEGIN PERFORM f('orders'); END");
        assert!(handed.hands_on(&orders) && !handed.names(&orders));
    }

    #[test]
    fn a_table_of_another_schema_is_another_table() {
        let orders = QualifiedName::parse("public.orders").unwrap();
        for (body, expected) in [
            ("UPDATE other.orders SET x = 1", false),
            ("UPDATE other . \"orders\" SET x = 1", false),
            ("UPDATE \"Public\" /* x */ . \"Orders\" SET x = 1", true),
            ("UPDATE here.public.orders SET x = 1", true),
            ("UPDATE here.other.orders SET x = 1", false),
            ("UPDATE log SET x = NEW.orders", false),
            ("UPDATE other.log SET x = orders.x", true),
            ("UPDATE other.orders SET x = (SELECT max(x) FROM orders)", true),
            ("UPDATE log SET x = (SELECT l FROM l).orders", true),
            ("FOR i IN 1..orders LOOP", true),
        ] {
            assert_eq!(Spelled::by("plpgsql", body).names(&orders), expected, "{body}");
        }
    }
}
