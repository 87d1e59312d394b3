//! Writes that change keys, and keys of every kind: composite, text, uuid, identity, generated.

use crate::live::{Live, Pair, Table, text};

const DDL: &str = "
    CREATE TABLE parts (
        a int, b text, qty numeric(10,2) DEFAULT 1.50, at timestamptz DEFAULT '2020-01-01 00:00Z',
        PRIMARY KEY (a, b)
    ) WITH (autovacuum_enabled = off);
    INSERT INTO parts SELECT i, 'b' || i % 2, i FROM generate_series(1, 6) i;
    CREATE TABLE shift (id int PRIMARY KEY, v text) WITH (autovacuum_enabled = off);
    -- In descending order: adding 1 to all keys meets no duplicate on its way.
    INSERT INTO shift SELECT i, 'v' || i FROM generate_series(6, 1, -1) i;
    CREATE TABLE codes (code text PRIMARY KEY, v float8) WITH (autovacuum_enabled = off);
    INSERT INTO codes VALUES ('a', 0.1), ('O''Neil', 1e300), ('{x,\"y\"}', 'NaN'), ('', NULL);
    CREATE TABLE docs (id uuid PRIMARY KEY, body jsonb, raw bytea, tags text[])
        WITH (autovacuum_enabled = off);
    INSERT INTO docs SELECT ('00000000-0000-0000-0000-00000000000' || i)::uuid,
        jsonb_build_object('n', i), '\\x00ff', ARRAY['t' || i, NULL] FROM generate_series(1, 5) i;
    CREATE TABLE made (
        id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n serial, w int,
        twice int GENERATED ALWAYS AS (w * 2) STORED, at date DEFAULT '2024-02-29'
    ) WITH (autovacuum_enabled = off);
    INSERT INTO made (w) SELECT i FROM generate_series(1, 4) i;
    CREATE TABLE plain (id int, w int);
    INSERT INTO plain SELECT i, i * 10 FROM generate_series(1, 4) i;
    ANALYZE";

const SHADOWS: &str = "
    CREATE TABLE parts_v2 (b text, a bigint, qty numeric, at timestamptz, PRIMARY KEY (b, a));
    CREATE TABLE shift_v2 (id bigint PRIMARY KEY, v text);
    CREATE TABLE codes_v2 (code text PRIMARY KEY, v float8);
    CREATE TABLE docs_v2 (id uuid PRIMARY KEY, body jsonb, raw bytea, tags text[]);
    CREATE TABLE made_v2 (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int, w int, at date)";

const NAMES: [&str; 5] = ["parts_v2", "shift_v2", "codes_v2", "docs_v2", "made_v2"];

const TABLES: [Table; 5] = [
    Table {
        migration: "parts_v2",
        source: "TABLE parts ORDER BY a, b",
        mapped: "SELECT a::bigint, b, qty, at FROM parts ORDER BY a, b",
        shadow: "SELECT a, b, qty, at FROM parts_v2 ORDER BY a, b",
    },
    Table {
        migration: "shift_v2",
        source: "TABLE shift ORDER BY id",
        mapped: "TABLE shift ORDER BY id",
        shadow: "TABLE shift_v2 ORDER BY id",
    },
    Table {
        migration: "codes_v2",
        source: "TABLE codes ORDER BY code",
        mapped: "TABLE codes ORDER BY code",
        shadow: "TABLE codes_v2 ORDER BY code",
    },
    Table {
        migration: "docs_v2",
        source: "TABLE docs ORDER BY id",
        mapped: "TABLE docs ORDER BY id",
        shadow: "TABLE docs_v2 ORDER BY id",
    },
    Table {
        migration: "made_v2",
        source: "TABLE made ORDER BY id",
        mapped: "SELECT id, n, w, at FROM made ORDER BY id",
        shadow: "TABLE made_v2 ORDER BY id",
    },
];

/// A migration of each table to one of its name and `_v2`, with columns of the same names.
fn toml(tables: &[(&str, &[&str], &[&str])]) -> String {
    let migration = |(source, key, columns): &(&str, &[&str], &[&str])| {
        let columns: String = columns.iter().map(|c| format!("{c} = \"{c}\"\n")).collect();
        format!(
            "[[migration]]\nname = \"{source}_v2\"\nsource = \"public.{source}\"\n\
             shadow = \"public.{source}_v2\"\nkey = {key:?}\n[migration.columns]\n{columns}"
        )
    };
    tables.iter().map(migration).collect()
}

const MIGRATIONS: [(&str, &[&str], &[&str]); 5] = [
    ("parts", &["a", "b"], &["a", "b", "qty", "at"]),
    ("shift", &["id"], &["id", "v"]),
    ("codes", &["code"], &["code", "v"]),
    ("docs", &["id"], &["id", "body", "raw", "tags"]),
    ("made", &["id"], &["id", "n", "w", "at"]),
];

const FORMS: &[&str] = &[
    "UPDATE parts SET a = 100 WHERE a = 1 AND b = 'b1'",
    "UPDATE parts SET b = b || '!' WHERE a > 2 RETURNING *",
    "UPDATE parts SET (a, b) = (a + 10, 'moved') WHERE a = 2 RETURNING a, b",
    "UPDATE parts SET a = plain.w FROM plain WHERE plain.id = parts.a RETURNING parts.a, plain.id",
    "UPDATE parts SET qty = qty + 0.005 WHERE (a, b) = (3, 'b1') RETURNING qty",
    "UPDATE parts SET a = a",
    "UPDATE parts SET a = 1, b = 'b1' WHERE a = 2",
    "UPDATE parts SET a = NULL WHERE a = 2",
    "UPDATE parts SET b = 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxx' WHERE a = 4",
    "INSERT INTO parts VALUES (7, 'b7', 1.5, '1999-12-31 23:59:59.999999+05:30') RETURNING at",
    "INSERT INTO parts (b, a) VALUES ('z', 9), ('y', 9) ON CONFLICT (a, b) DO UPDATE SET qty = 0",
    "INSERT INTO parts VALUES (2, 'b0', 5), (60, 'z', 6) ON CONFLICT (a, b) DO UPDATE SET (b, qty, a) = \
     (EXCLUDED.b, EXCLUDED.qty, EXCLUDED.a) RETURNING *",
    "DELETE FROM parts WHERE a IN (5, 6) RETURNING b, a",
    "UPDATE shift SET id = id + 1",
    "UPDATE shift SET id = id + 1 RETURNING id, v",
    "UPDATE shift SET id = -id",
    "UPDATE shift SET id = CASE id WHEN 3 THEN 4 ELSE 3 END WHERE id IN (3, 4)",
    "UPDATE shift SET id = 7 - id WHERE id BETWEEN 1 AND 6",
    "UPDATE shift AS s SET id = p.w FROM plain p WHERE p.id = s.id AND p.w > 10",
    "UPDATE shift s SET id = t.id + 50 FROM shift t WHERE t.id = s.id + 1 RETURNING s.id, t.v",
    "UPDATE shift SET id = id + 1 WHERE v = 'v5' RETURNING id",
    "UPDATE shift SET id = id WHERE id = 5",
    "UPDATE shift SET id = 1 WHERE id = 5 AND false RETURNING *",
    "UPDATE shift SET id = id + 1000 WHERE id IN (SELECT id FROM plain) OR v = 'v6'",
    "WITH m AS (SELECT min(id) AS id FROM shift) UPDATE shift SET id = 777 FROM m WHERE m.id = shift.id",
    "UPDATE shift SET \"id\" = shift.id + 5 -- comment\n WHERE v = 'v6' -- the end",
    "UPDATE shift SET id = 5 WHERE id = 'x'",
    "UPDATE shift SET id = 5 WHERE nowhere = 1",
    "UPDATE shift SET id = id / (id - 3)",
    "BEGIN; DELETE FROM shift WHERE id = 6; INSERT INTO shift VALUES (6, 'again'); COMMIT",
    "DELETE FROM shift WHERE id = 6; INSERT INTO shift VALUES (6, 'again')",
    "UPDATE codes SET code = code || 'x'",
    "UPDATE codes SET code = upper(code), v = v / 3 WHERE code LIKE 'a%' RETURNING code, v",
    "INSERT INTO codes VALUES ('ü''\"{},\\', 0.1), (E'tab\\t', -0.0), ('NULL', 'Infinity') RETURNING *",
    "DELETE FROM codes WHERE code IN ('NULL', '')",
    "UPDATE docs SET body = body || '{\"x\": 1.0}' RETURNING body",
    "UPDATE docs SET id = 'ffffffff-0000-0000-0000-000000000001' WHERE body @> '{\"n\": 1}' RETURNING id",
    "INSERT INTO docs (id, raw) VALUES ('aaaaaaaa-0000-0000-0000-000000000001', '\\xdead') RETURNING *",
    "UPDATE docs SET tags[2] = 'two' WHERE tags[1] = 't2' RETURNING tags",
    "UPDATE docs SET body = jsonb_set(body, '{n}', '9') WHERE body ? 'n'",
    "DELETE FROM docs WHERE raw = '\\x00ff'",
    "INSERT INTO made (w) VALUES (5), (6)",
    "INSERT INTO made (w) VALUES (7) RETURNING *",
    "INSERT INTO made DEFAULT VALUES RETURNING id, n",
    "INSERT INTO made (id, w) VALUES (50, 1)",
    "INSERT INTO made (id, w) OVERRIDING SYSTEM VALUE VALUES (50, 1), (51, 1) RETURNING id",
    "INSERT INTO made (id, w) OVERRIDING USER VALUE VALUES (1, 1) RETURNING id",
    "INSERT INTO made (w) OVERRIDING SYSTEM VALUE SELECT w FROM plain RETURNING id, twice",
    "UPDATE made SET w = w + 1 RETURNING twice",
    "UPDATE made SET twice = 1",
    "UPDATE made SET id = DEFAULT WHERE w = 2",
    "UPDATE made SET id = 99 WHERE w = 2",
    "DELETE FROM made WHERE id = 1 RETURNING twice, at",
];

#[tokio::test]
async fn writes_that_change_keys_and_keys_of_every_kind_look_the_same_and_are_followed() {
    let live = Live::ready(&format!("{DDL};{SHADOWS}"), &toml(&MIGRATIONS), &NAMES).await;
    let mut pair = Pair::new(&live, DDL).await;
    for sql in FORMS {
        if sql.contains("; ") {
            pair.simple(sql).await;
        } else {
            pair.every_way(sql).await;
        }
    }
    pair.finish(&live, &TABLES).await;
}

#[tokio::test]
async fn a_statement_over_many_rows_feeds_every_key() {
    let ddl = "CREATE TABLE many (id int PRIMARY KEY, n int)";
    let toml = "[[migration]]\nname = \"many_v2\"\nsource = \"public.many\"\n\
                shadow = \"public.many_v2\"\nkey = [\"id\"]\n[migration.columns]\n\
                id = \"id\"\nn = \"n\"";
    let shadow = "CREATE TABLE many_v2 (id bigint PRIMARY KEY, n bigint)";
    let live = Live::ready(&format!("{ddl};{shadow}"), toml, &["many_v2"]).await;
    let mut pair = Pair::new(&live, ddl).await;
    for sql in [
        "INSERT INTO many SELECT i, i FROM generate_series(1, 20000) i",
        "UPDATE many SET n = n + 1",
        "UPDATE many SET n = n + 1 WHERE id > 4000 RETURNING id, n",
        "UPDATE many SET id = id + 70000",
        "INSERT INTO many SELECT i, 0 FROM generate_series(15000, 25000) i ON CONFLICT DO NOTHING",
        "DELETE FROM many WHERE id % 2 = 0",
    ] {
        pair.extended(sql, &[], 0).await;
    }
    let table = Table {
        migration: "many_v2",
        source: "TABLE many ORDER BY id",
        mapped: "TABLE many ORDER BY id",
        shadow: "TABLE many_v2 ORDER BY id",
    };
    pair.finish(&live, &[table]).await;
}

#[tokio::test]
async fn a_row_that_cannot_be_had_is_refused_in_the_clients_words() {
    let live = Live::ready(&format!("{DDL};{SHADOWS}"), &toml(&MIGRATIONS), &NAMES).await;
    let mut pair = Pair::new(&live, DDL).await;
    let writes = [
        "UPDATE shift SET v = 'x' WHERE id = 3",
        "UPDATE shift SET id = id + 100 WHERE id = 3",
        "UPDATE shift SET v = 'y' WHERE id = 3 RETURNING id, v",
        "COPY (UPDATE shift SET v = 'z' WHERE id = 3 RETURNING v) TO STDOUT",
        "COPY (DELETE FROM shift WHERE id = 3 RETURNING v, id) TO STDOUT",
        "COPY (WITH d AS (DELETE FROM shift WHERE id = 4 RETURNING v) SELECT * FROM d) TO STDOUT",
        "DELETE FROM shift WHERE id = 5 RETURNING v",
        "DELETE FROM shift WHERE id = 3",
    ];
    for sql in writes {
        pair.simple("BEGIN READ ONLY").await;
        pair.simple(sql).await;
        pair.simple("ROLLBACK").await;
    }
    pair.simple("SET lock_timeout = '10ms'").await;
    pair.elsewhere(&live, "BEGIN; SELECT FROM shift WHERE id BETWEEN 3 AND 5 FOR UPDATE").await;
    for sql in writes {
        pair.simple(sql).await;
        pair.extended(sql, &[], 1).await;
    }
    pair.elsewhere(&live, "ROLLBACK").await;
    for sql in writes {
        pair.simple(sql).await;
    }
    pair.finish(&live, &TABLES[1..2]).await;
}

const MOVING: &str = "
    CREATE TABLE moving (id int PRIMARY KEY, v text, at int DEFAULT 0)
        WITH (autovacuum_enabled = off);
    INSERT INTO moving SELECT i, 'v' || i FROM generate_series(1, 9) i;
    CREATE FUNCTION moves() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF NEW.v = 'gone' THEN RETURN NULL; END IF;
        NEW.id := NEW.id + 1000; RETURN NEW; END $$;
    CREATE TRIGGER moves BEFORE UPDATE ON moving FOR EACH ROW EXECUTE FUNCTION moves();
    CREATE TABLE touched (id int PRIMARY KEY, v text, at int DEFAULT 0)
        WITH (autovacuum_enabled = off);
    INSERT INTO touched SELECT i, 'v' || i FROM generate_series(1, 9) i;
    CREATE FUNCTION touches() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        NEW.at := NEW.at + 1; RETURN NEW; END $$;
    CREATE TRIGGER touches BEFORE INSERT OR UPDATE ON touched FOR EACH ROW
        EXECUTE FUNCTION touches();
    CREATE TABLE made_of (n int, v text, id int GENERATED ALWAYS AS (n * 2) STORED PRIMARY KEY)
        WITH (autovacuum_enabled = off);
    INSERT INTO made_of SELECT i, 'v' || i FROM generate_series(1, 9) i";

const MOVING_SHADOWS: &str = "
    CREATE TABLE moving_v2 (id bigint PRIMARY KEY, v text, at int);
    CREATE TABLE touched_v2 (id bigint PRIMARY KEY, v text, at int);
    CREATE TABLE made_of_v2 (id bigint PRIMARY KEY, n int, v text)";

const MOVING_TABLES: [Table; 3] = [
    Table {
        migration: "moving_v2",
        source: "TABLE moving ORDER BY id",
        mapped: "TABLE moving ORDER BY id",
        shadow: "TABLE moving_v2 ORDER BY id",
    },
    Table {
        migration: "touched_v2",
        source: "TABLE touched ORDER BY id",
        mapped: "TABLE touched ORDER BY id",
        shadow: "TABLE touched_v2 ORDER BY id",
    },
    Table {
        migration: "made_of_v2",
        source: "TABLE made_of ORDER BY id",
        mapped: "SELECT id, n, v FROM made_of ORDER BY id",
        shadow: "TABLE made_of_v2 ORDER BY id",
    },
];

/// The text names no key column; the key changes all the same, and the rows that it leaves have to
/// go from the shadow.
#[tokio::test]
async fn keys_that_a_trigger_or_a_generated_column_changes_are_followed() {
    let toml = toml(&[
        ("moving", &["id"], &["id", "v", "at"]),
        ("touched", &["id"], &["id", "v", "at"]),
        ("made_of", &["id"], &["id", "n", "v"]),
    ]);
    let names = ["moving_v2", "touched_v2", "made_of_v2"];
    let live = Live::ready(&format!("{MOVING};{MOVING_SHADOWS}"), &toml, &names).await;
    let mut pair = Pair::new(&live, MOVING).await;
    let marks = live.statements("recorded", "write");
    for (table, column) in [("moving", "at"), ("touched", "at"), ("made_of", "n")] {
        for sql in [
            format!("UPDATE {table} SET v = 'x' WHERE id = 4"),
            format!("UPDATE {table} SET v = 'y' WHERE v = 'v7' RETURNING *"),
            format!("UPDATE {table} SET v = 'gone' WHERE id = 2"),
            format!("UPDATE {table} SET {column} = 400 WHERE id = 6 RETURNING id"),
            format!("UPDATE {table} SET {column} = {column} + 1000"),
        ] {
            pair.every_way(&sql).await;
        }
        pair.simple(&format!(
            "WITH u AS (UPDATE {table} SET v = 'w' RETURNING id) SELECT count(*) FROM u"
        ))
        .await;
    }
    assert_eq!(live.statements("recorded", "write"), marks);
    let upsert = "VALUES (1, 'again') ON CONFLICT (id) DO UPDATE SET v = EXCLUDED.v RETURNING *";
    pair.simple(&format!("INSERT INTO touched (id, v) {upsert}")).await;
    assert_eq!(live.statements("recorded", "write"), marks);
    pair.simple("INSERT INTO moving (id, v) SELECT min(id), 'z' FROM moving ON CONFLICT (id) DO UPDATE SET v = EXCLUDED.v").await;
    let version =
        text(&live.db.client, "SELECT current_setting('server_version_num')::int / 10000").await;
    let marked = if version.parse::<u32>().unwrap() < 18 { 1.0 } else { 0.0 };
    assert_eq!(live.statements("recorded", "write"), marks + marked);
    // The server itself locks a row before it asks a trigger.
    pair.simple("SET lock_timeout = '10ms'").await;
    pair.elsewhere(&live, "BEGIN; SELECT FROM moving FOR UPDATE; SELECT FROM touched FOR UPDATE")
        .await;
    for table in ["moving", "touched"] {
        pair.simple(&format!("UPDATE {table} SET v = 'held'")).await;
    }
    pair.elsewhere(&live, "ROLLBACK").await;
    pair.finish(&live, &MOVING_TABLES).await;
}
