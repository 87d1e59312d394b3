//! Texts with a length, widened to text: lookups keep their index, order and groups their rows.

use crate::live::raw::{bind, describe, execute, parse, query, sync};
use crate::live::{Live, Raw};

const DDL: &str = "
    CREATE TABLE people (id int PRIMARY KEY, email varchar(40) UNIQUE, name varchar(20) COLLATE \"C\",
        code varchar);
    INSERT INTO people SELECT i, 'E' || i || '@x', CASE WHEN i % 7 > 0 THEN chr(64 + i % 50) || i END, i
        FROM generate_series(1, 3000) AS i;
    CREATE INDEX ON people (name);
    CREATE TABLE visits (n int PRIMARY KEY, email varchar(40));
    INSERT INTO visits SELECT i, 'E' || i * 3 || '@x' FROM generate_series(1, 20) AS i;
    CREATE TABLE people_v2 (id int PRIMARY KEY, email text UNIQUE, name text COLLATE \"C\", code text);
    CREATE INDEX ON people_v2 (name);
    ANALYZE";

const TOML: &str = r#"
[[migration]]
name = "people_v2"
source = "public.people"
shadow = "public.people_v2"
key = ["id"]
[migration.columns]
id = "id"
email = "email::text"
name = "name"
code = "code"
[migration.routing]
reads = 100
"#;

/// Queries, and the values of their parameters.
const LOOKUPS: &[(&str, &[&str])] = &[
    ("SELECT id, email FROM people WHERE email = 'E5@x'", &[]),
    ("SELECT id FROM people WHERE 'E5@x'::text = people.email", &[]),
    ("SELECT id FROM people p WHERE p.email IN ('E5@x', 'E9@x', 'it''s') ORDER BY id", &[]),
    ("SELECT * FROM people WHERE email = $1", &["E77@x"]),
    ("SELECT id FROM people WHERE email = ANY ($1) ORDER BY id", &["{E5@x,E6@x}"]),
    ("SELECT id FROM people WHERE email = $1 OR id = 0 AND email = $1", &["E7@x"]),
    (
        "SELECT id FROM people WHERE email = $1",
        &["0123456789012345678901234567890123456789 is too long"],
    ),
    (
        "SELECT id, name FROM people WHERE name >= 'B' AND name < 'Ba' ORDER BY name, id LIMIT 9",
        &[],
    ),
    ("SELECT name FROM people ORDER BY name NULLS FIRST LIMIT 3", &[]),
    ("SELECT min(name), max(name), max(email) FROM people", &[]),
    ("SELECT v.n, p.id FROM visits v JOIN people p ON p.email = v.email ORDER BY v.n", &[]),
    ("SELECT p.email || '!', length(p.email) FROM people p WHERE p.email = 'E12@x'", &[]),
    ("SELECT id FROM people WHERE code = '12'", &[]),
    ("SELECT id FROM people WHERE id = -5 OR id = 5", &[]),
    ("SELECT email FROM people WHERE email = 5", &[]),
];

#[tokio::test]
async fn a_lookup_by_a_text_without_its_length_keeps_its_index_and_says_the_same() {
    let live = Live::ready(DDL, TOML, &["people_v2"]).await;
    let mut session = live.raw().await;
    let mut direct = Raw::connect(live.db.port, "postgres", &live.db.name).await;
    let warm = live.client().await;
    for (sql, values) in LOOKUPS {
        if values.is_empty() && !sql.ends_with("= 5") {
            live.until_shadow_serves(&warm, sql).await;
        }
        let values: Vec<_> = values.iter().map(|v| Some(v.as_bytes())).collect();
        for types in [vec![], vec![25u32; values.len()], vec![1043; values.len()]] {
            let types = if sql.contains("ANY (") { vec![] } else { types };
            for format in [0, 1] {
                let frames = [
                    parse("", sql, &types),
                    describe(b'S', ""),
                    bind("", "", 0, &values, format),
                    describe(b'P', ""),
                    execute("", 0),
                    sync(),
                ];
                let expected = direct.exchange(&frames.concat(), 1).await;
                for _ in 0..3 {
                    assert_eq!(session.exchange(&frames.concat(), 1).await, expected, "{sql}");
                }
            }
        }
        if values.is_empty() {
            let expected = direct.exchange(&query(sql), 1).await;
            assert_eq!(session.exchange(&query(sql), 1).await, expected, "{sql}");
        }
    }
    // Those with parameters go there, too.
    let before = live.shadow_reads();
    let [point, any] = [LOOKUPS[3], LOOKUPS[4]];
    for (sql, values) in [point, any, point, any] {
        let values: Vec<_> = values.iter().map(|v| Some(v.as_bytes())).collect();
        let frames =
            [parse("", sql, &[]), bind("", "", 0, &values, 0), execute("", 0), sync()].concat();
        session.exchange(&frames, 1).await;
    }
    assert!(live.shadow_reads() > before + 3.5, "{before} {}", live.shadow_reads());
}

/// Beside a `char(n)`, blanks at the end of a `varchar` do not count, and those of a text do.
const PADDED: &str = "
    CREATE TABLE words (id int PRIMARY KEY, c char(5), v varchar(10));
    INSERT INTO words SELECT i, (ARRAY['a', 'b', 'ab'])[1 + i % 3], (ARRAY['a', 'a ', 'b  ', 'ab', 'c'])[1 + i % 5]
        FROM generate_series(1, 60) AS i;
    CREATE TABLE padded (k char(4));
    INSERT INTO padded VALUES ('a'), ('b');
    CREATE TABLE words_v2 (id bigint PRIMARY KEY, c text, v text);
    ANALYZE";

const PADDED_TOML: &str = r#"
[[migration]]
name = "words_v2"
source = "public.words"
shadow = "public.words_v2"
key = ["id"]
[migration.columns]
id = "id"
c = "c"
v = "v"
[migration.routing]
reads = 100
"#;

#[tokio::test]
async fn a_varchar_that_has_become_text_is_compared_with_a_char_as_before() {
    let live = Live::ready(PADDED, PADDED_TOML, &["words_v2"]).await;
    let mut session = live.raw().await;
    let mut direct = Raw::connect(live.db.port, "postgres", &live.db.name).await;
    let warm = live.client().await;
    for sql in [
        "SELECT a.id, b.id FROM words a JOIN words b ON a.c = b.v ORDER BY 1, 2",
        "SELECT a.id, b.id FROM words a LEFT JOIN words b ON b.v = a.c ORDER BY 1, 2",
        "SELECT id FROM words WHERE c = v ORDER BY id",
        "SELECT id FROM words WHERE v > c ORDER BY id",
        "SELECT count(*) FROM words JOIN padded ON v = k",
        "SELECT count(*) FROM words w WHERE w.v IN (SELECT k FROM padded)",
        "SELECT count(*) FROM words w WHERE w.c IN (SELECT v FROM words)",
        "SELECT count(*) FROM padded WHERE k IN (SELECT v FROM words)",
        "SELECT id FROM words JOIN (VALUES ('a'::char(4))) AS o(k) ON o.k = words.v ORDER BY id",
        "SELECT id FROM words WHERE v = 'a '::char(4) ORDER BY id",
        "SELECT max(v), min(v), max(c) FROM words",
        "SELECT v, c FROM words ORDER BY v, c, id",
    ] {
        live.until_shadow_serves(&warm, sql).await;
        let expected = direct.exchange(&query(sql), 1).await;
        assert_eq!(session.exchange(&query(sql), 1).await, expected, "{sql}");
    }
}
