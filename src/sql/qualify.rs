//! Names in SQL that runs in the clients' sessions: types get the schema that they have in the
//! engine's, where search_path is pg_catalog alone; a temporary table has a type of its name, which
//! would come first. Of functions and operators the bare names are listed, for whoever can ask
//! whether the session has others of them.

use super::lex::{Kind, Token, identifier, is_keyword, tokens};

/// Types whose names are words of the grammar: they mean those of pg_catalog, wherever they stand,
/// and take no schema.
const WORDS: [&str; 18] = [
    "bigint",
    "bit",
    "boolean",
    "char",
    "character",
    "dec",
    "decimal",
    "double",
    "float",
    "int",
    "integer",
    "interval",
    "national",
    "nchar",
    "numeric",
    "real",
    "smallint",
    "varchar",
];
const TIMES: [&str; 2] = ["time", "timestamp"];

/// A type as `format_type` prints it where only pg_catalog is searched, for any search_path.
pub fn type_name(printed: &str) -> String {
    let found = tokens(printed).unwrap_or_default();
    if is_bare(printed, &found) { format!("pg_catalog.{printed}") } else { printed.to_owned() }
}

/// An expression with the types behind its `::` and `CAST (… AS` for any search_path.
pub fn casts(expression: &str) -> String {
    let Ok(found) = tokens(expression) else { return expression.to_owned() };
    let mut out = String::with_capacity(expression.len());
    let mut done = 0;
    for (index, token) in found.iter().enumerate() {
        let rest = found.get(index + 1..).unwrap_or_default();
        if !is_cast(expression, &found, index) || !is_bare(expression, rest) {
            continue;
        }
        let Some(name) = rest.first() else { continue };
        out.push_str(expression.get(done..token.at.end).unwrap_or_default());
        out.push_str(expression.get(token.at.end..name.at.start).unwrap_or_default());
        out.push_str("pg_catalog.");
        done = name.at.start;
    }
    out.push_str(expression.get(done..).unwrap_or_default());
    out
}

/// Whether a type is behind this token: `::`, or the AS of a CAST.
fn is_cast(text: &str, found: &[Token], index: usize) -> bool {
    let Some(token) = found.get(index) else { return false };
    if text.get(token.at.clone()) == Some("::") {
        return true;
    }
    let before = found.get(..index).unwrap_or_default();
    let open = before.iter().rposition(|t| t.kind == Kind::Open && t.depth + 1 == token.depth);
    let cast = open.and_then(|i| i.checked_sub(1)).and_then(|i| found.get(i));
    is_keyword(text, token, "as") && cast.is_some_and(|t| is_keyword(text, t, "cast"))
}

/// Whether what begins here is the name of a type without its schema.
fn is_bare(text: &str, found: &[Token]) -> bool {
    let Some(first) = found.first() else { return false };
    let word = || WORDS.iter().chain(&TIMES).any(|w| is_keyword(text, first, w));
    let named = match first.kind {
        Kind::Word => !word(),
        Kind::Quoted => true,
        _ => false,
    };
    named && found.get(1).is_none_or(|t| t.kind != Kind::Dot)
}

/// The functions and operators that an expression names without their schema; some of the names
/// may be words of the grammar.
pub fn bare_calls(expression: &str) -> (Vec<String>, Vec<String>) {
    let (mut functions, mut operators) = (Vec::new(), Vec::new());
    let Ok(found) = tokens(expression) else { return (functions, operators) };
    for (index, token) in found.iter().enumerate() {
        let is_behind = |kind| index.checked_sub(1).and_then(|i| found.get(i)).is_some_and(kind);
        let is_called = found
            .get(index + 1)
            .is_some_and(|t| t.kind == Kind::Open && expression.get(t.at.clone()) == Some("("));
        let spelled = expression.get(token.at.clone()).unwrap_or_default();
        match token.kind {
            Kind::Operator if !["::", ":", ":="].contains(&spelled) => {
                // What the grammar spells in another way, too.
                operators.push(if spelled == "!=" { "<>" } else { spelled }.to_owned());
            }
            Kind::Word | Kind::Quoted
                if is_called && !is_behind(|t: &Token| t.kind == Kind::Dot) =>
            {
                functions.extend(identifier(expression, token));
            }
            // LIKE and its like are operators of the grammar's own names.
            Kind::Word if is_keyword(expression, token, "like") => {
                operators.extend(["~~", "!~~"].map(str::to_owned));
            }
            Kind::Word if is_keyword(expression, token, "ilike") => {
                operators.extend(["~~*", "!~~*"].map(str::to_owned));
            }
            Kind::Word
                if ["in", "between", "nullif", "case", "distinct", "any", "all"]
                    .iter()
                    .any(|w| is_keyword(expression, token, w)) =>
            {
                operators.extend(["=", "<>", "<=", ">=", "<", ">"].map(str::to_owned));
            }
            _ => {}
        }
    }
    (functions, operators)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_gets_its_schema_unless_it_has_one_or_needs_none() {
        for (printed, qualified) in [
            ("text", "pg_catalog.text"),
            ("uuid[]", "pg_catalog.uuid[]"),
            ("\"char\"", "pg_catalog.\"char\""),
            ("integer", "integer"),
            ("character varying(10)", "character varying(10)"),
            ("timestamp(0) without time zone", "timestamp(0) without time zone"),
            ("interval day to second(0)", "interval day to second(0)"),
            ("public.citext", "public.citext"),
            ("\"My Types\".\"T\"[]", "\"My Types\".\"T\"[]"),
        ] {
            assert_eq!(type_name(printed), qualified);
        }
    }

    #[test]
    fn the_types_of_casts_get_their_schema() {
        for (expression, qualified) in [
            ("(a / 100)::int", "(a / 100)::int"),
            ("a :: text || 'b::text'", "a :: pg_catalog.text || 'b::text'"),
            ("CAST(f(a, b) AS uuid)", "CAST(f(a, b) AS pg_catalog.uuid)"),
            ("cast(a AS public.mood)::date", "cast(a AS public.mood)::pg_catalog.date"),
            ("a::\"text\"[]", "a::pg_catalog.\"text\"[]"),
            ("a AS text", "a AS text"),
        ] {
            assert_eq!(casts(expression), qualified);
        }
    }

    #[test]
    fn bare_functions_and_operators_are_listed() {
        let (functions, operators) = bare_calls(
            "round(a) + pg_catalog.abs(b) != \"F\"(c)::numeric LIKE 'x(' || public.g(1)",
        );
        assert_eq!(functions, ["round", "F"]);
        assert_eq!(operators, ["+", "<>", "~~", "!~~", "||"]);
        let (_, signed) = bare_calls("CASE WHEN a=-1 THEN b END");
        assert!(["=", "-"].iter().all(|o| signed.contains(&(*o).to_owned())), "{signed:?}");
    }
}
