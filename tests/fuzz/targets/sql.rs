//! Texts of SQL: reading one never panics, positions are inside it, what is written is SQL again
//! with every byte of the client's in it, and no longer than it has to be.

use pgsegue::sql::ident::{Ident, QualifiedName};
use pgsegue::sql::lex::{first_word, tokens};
use pgsegue::sql::prefilter::{Prefilter, Verdict};
use pgsegue::sql::splice::Spliced;
use pgsegue::sql::statement::{Class, Effect, Statement, understand};
use pgsegue::sql::target::{Functions, OldColumn, Privileges, Reverse, SyncMode, Target};
use pgsegue::sql::ways::Ways;
use pgsegue::sql::write::Modes;
use std::sync::{Arc, LazyLock};

/// Bytes of ours per reference to a table, and per statement, at most.
const OURS_BYTES_MAX: usize = 2_000;

/// Words that mean something here: a byte is one of them, so that most texts are nearly SQL.
const WORDS: [&str; 128] = [
    "orders",
    "public.orders",
    "orders_v2",
    "public.orders_v2",
    "\"Or\"\"d\"",
    "public.\"Or\"\"d\"",
    "x",
    "o",
    "id",
    "a",
    "\"k 2\"",
    "o.id",
    "orders.id",
    "*",
    ",",
    ";",
    "(",
    ")",
    "[",
    "]",
    ".",
    "=",
    "<",
    ">=",
    "<>",
    "||",
    "::",
    ":=",
    "+",
    "-",
    "/",
    "--",
    "/*",
    "*/",
    "\n",
    "1",
    "2.5e3",
    "'t'",
    "'it''s'",
    "E'\\''",
    "U&'\\0061'",
    "$1",
    "$2",
    "$$",
    "$t$",
    "'",
    "\"",
    "U&\"o\"",
    "NULL",
    "SELECT",
    "INSERT",
    "INTO",
    "UPDATE",
    "DELETE",
    "FROM",
    "WHERE",
    "SET",
    "VALUES",
    "DEFAULT",
    "RETURNING",
    "WITH",
    "RECURSIVE",
    "AS",
    "MATERIALIZED",
    "USING",
    "ON",
    "CONFLICT",
    "DO",
    "NOTHING",
    "ONLY",
    "OVERRIDING",
    "SYSTEM",
    "VALUE",
    "CURRENT",
    "OF",
    "c",
    "AND",
    "OR",
    "NOT",
    "IN",
    "ANY",
    "BETWEEN",
    "IS",
    "DISTINCT",
    "LIKE",
    "CASE",
    "WHEN",
    "THEN",
    "ELSE",
    "END",
    "JOIN",
    "LEFT",
    "CROSS",
    "LATERAL",
    "NATURAL",
    "GROUP",
    "BY",
    "ORDER",
    "HAVING",
    "LIMIT",
    "OFFSET",
    "FOR",
    "SHARE",
    "UNION",
    "ALL",
    "EXCEPT",
    "EXISTS",
    "count",
    "lower",
    "random",
    "MERGE",
    "COPY",
    "TRUNCATE",
    "TABLE",
    "EXPLAIN",
    "ANALYZE",
    "PREPARE",
    "EXECUTE",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "TO",
    "CREATE",
    "DROP",
    "ALTER",
    "DISCARD",
    "ATOMIC",
    "é",
];

static TARGETS: LazyLock<Vec<Arc<Target>>> = LazyLock::new(targets);
static PREFILTER: LazyLock<Prefilter> =
    LazyLock::new(|| Prefilter::new(&TARGETS, &Ways::default()));
static FUNCTIONS: LazyLock<Functions> = LazyLock::new(|| Functions {
    non_volatile: ["count", "lower"].map(str::to_owned).into(),
    deterministic: ["count"].map(str::to_owned).into(),
    ..Functions::default()
});

/// Two migrated tables: one with a widened key, one whose names have to be quoted.
pub fn targets() -> Vec<Arc<Target>> {
    let column = |name: &str, reverse: Reverse, widened: Option<&str>| OldColumn {
        name: Ident::new(name),
        type_sql: "integer".to_owned(),
        collation_sql: None,
        reverse,
        widened_as: widened.map(Ident::new),
    };
    let shape = vec![
        column("id", Reverse::Expression("id".to_owned()), Some("id")),
        column("a", Reverse::Bare(Ident::new("b")), None),
    ];
    let target = |migration: &str, source: &str, shadow: &str, key: &[&str]| Target {
        migration: migration.to_owned(),
        source: QualifiedName::parse(source).expect("a name"),
        shadow: QualifiedName::parse(shadow).expect("a name"),
        source_oid: 1,
        shadow_oid: 2,
        parts: Default::default(),
        key: key.iter().map(|k| Ident::new(*k)).collect(),
        columns: shape.iter().map(|c| c.name.clone()).collect(),
        old_shape: Ok(shape.clone()),
        sync_function: format!("\"pgsegue\".\"sync_{migration}\""),
        follow_function: Some(format!("\"pgsegue\".\"follow_{migration}\"")),
        truncate_function: Some(format!("\"pgsegue\".\"truncated_{migration}\"")),
        whole_function: None,
        hold: None,
        mark_function: format!("\"pgsegue\".\"mark_{migration}\""),
        server_version: 15,
        copy: Err(pgsegue::sql::reason::Reason::CopyOption),
        update_changes_key: false,
        runs_before_update: false,
        counted: None,
        privileges: Privileges::default(),
    };
    vec![
        Arc::new(target("m", "public.orders", "public.orders_v2", &["id"])),
        Arc::new(target("n", "public.\"Or\"\"d\"", "public.\"Or\"\"d 2\"", &["a", "k 2"])),
    ]
}

/// The data are a text.
pub fn run(data: &[u8]) {
    let mut buffer = [0; 16];
    let _first = first_word(data, &mut buffer);
    let verdict = PREFILTER.look(data);
    if let Ok(text) = std::str::from_utf8(data) {
        text_is_read(text, verdict);
    }
}

/// The data choose words.
pub fn run_words(data: &[u8]) {
    let mut text = String::new();
    for byte in data {
        text.push_str(WORDS[usize::from(byte & 0x7f)]);
        if *byte < 0x80 {
            text.push(' ');
        }
    }
    run(text.as_bytes());
}

fn text_is_read(text: &str, verdict: Verdict) {
    let lexed = tokens(text);
    let mut end = 0;
    for token in lexed.iter().flatten() {
        assert!(token.at.start >= end && token.at.end > token.at.start);
        assert!(text.get(token.at.clone()).is_some(), "a token in the middle of a character");
        end = token.at.end;
    }
    let understanding = understand(text, &TARGETS, &FUNCTIONS);
    let mut end = 0;
    for statement in &understanding.statements {
        assert!(statement.at.start >= end && text.get(statement.at.clone()).is_some());
        end = statement.at.end;
        if verdict == Verdict::Plain && lexed.is_ok() {
            assert_eq!(statement.class, Class::Passthrough, "the prefilter has missed it");
            // SELECT INTO matters only where it names a migrated table.
            let into = text.to_ascii_lowercase().contains("into");
            assert!(statement.effect == Effect::None || into, "the prefilter has missed it");
        }
        written(text, statement);
    }
}

fn written(text: &str, statement: &Statement) {
    match &statement.class {
        Class::Write(write) => {
            for mode in [SyncMode::Sync, SyncMode::SyncRecordDeletes, SyncMode::RecordOnly] {
                let form = write.mirrored(text, &TARGETS, Modes::all(mode));
                // A change of the key has its condition twice.
                let ours = OURS_BYTES_MAX * write.feeds().count();
                is_sql(text, statement, &form, 2 * statement.at.len() + ours);
            }
        }
        Class::Read(read) => {
            let Ok(fit) = &read.fit else { return };
            let references = fit.targets().count();
            for declared in [0, 23] {
                let at = statement.at.clone();
                let form = fit.on_shadow(text, at, &TARGETS, |_| declared).expect("a shape");
                // A reference has the conditions of its query.
                let most = references * (OURS_BYTES_MAX + 4 * statement.at.len());
                is_sql(text, statement, &form, statement.at.len() + most);
            }
        }
        Class::Prepare(_)
        | Class::Execute(_)
        | Class::Deallocate(_)
        | Class::Passthrough
        | Class::Truncate(_)
        | Class::Cascade
        | Class::CopyFrom(..)
        | Class::Ddl(_)
        | Class::Unclassified(_) => {}
    }
}

fn is_sql(text: &str, statement: &Statement, form: &Spliced, bytes_max: usize) {
    let sql = form.text();
    assert!(sql.len() <= bytes_max, "{} bytes for {}", sql.len(), statement.at.len());
    assert!(tokens(sql).is_ok(), "{sql}");
    let end = sql.chars().count() + 2;
    for position in [0, 1, end / 2, end - 2, end, usize::MAX] {
        if let Some(original) = form.original_position(text, position) {
            assert!(original <= text.len() + 1);
        }
    }
}
