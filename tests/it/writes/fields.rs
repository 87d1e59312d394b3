//! Parts of values: subscripts of jsonb and arrays, fields of composites; what ON CONFLICT infers; and
//! two writes of one statement on one key while another session has it.

use crate::live::{Live, ORDERS, ORDERS_TABLE, Pair, Table, outcome};
use crate::support::{TestDb, connect, database, eventually, rows};
use tokio_postgres::Client;

const DOCS: &str = "
    CREATE TYPE spot AS (x int, y int);
    CREATE TABLE docs (
        id int PRIMARY KEY, doc jsonb NOT NULL DEFAULT '{}', tags text[], grid int[], at spot,
        spots spot[], name text, kind text, live bool NOT NULL DEFAULT true, number int,
        CONSTRAINT by_name UNIQUE (name)
    );
    CREATE UNIQUE INDEX by_kind ON docs (lower(kind), (number + 1));
    CREATE UNIQUE INDEX by_number ON docs (number) WHERE live;
    INSERT INTO docs SELECT i, jsonb_build_object('a', i), ARRAY['t' || i], ARRAY[[i, 1], [2, 3]],
        ROW(i, -i)::spot, ARRAY[ROW(i, 1)::spot], 'n' || i, 'K' || i, true, i FROM generate_series(1, 9) AS i";

const DOCS_V2: &str = "
    CREATE TABLE docs_v2 (
        id bigint PRIMARY KEY, doc jsonb, tags text[], grid int[], place spot, spots spot[],
        name text, kind text, live bool, number int
    )";

const TOML: &str = r#"
[[migration]]
name = "docs_v2"
source = "public.docs"
shadow = "public.docs_v2"
key = ["id"]
[migration.columns]
id = "id"
doc = "doc"
tags = "tags"
grid = "grid"
place = "at"
spots = "spots"
name = "name"
kind = "kind"
live = "live"
number = "number"
"#;

const DOCS_TABLE: Table = Table {
    migration: "docs_v2",
    source: "TABLE docs ORDER BY id",
    mapped: "TABLE docs ORDER BY id",
    shadow: "TABLE docs_v2 ORDER BY id",
};

const PARTS: &[&str] = &[
    "UPDATE docs SET doc['b'] = '1' WHERE id = 1 RETURNING doc",
    "UPDATE docs SET doc['b']['c'][2] = '\"x\"', doc['a'] = 'null' WHERE id < 3",
    "UPDATE docs SET doc['id'] = to_jsonb(id) WHERE doc['a'] = '3' RETURNING id, doc['id'] AS was",
    "UPDATE docs SET tags[2] = 'id', tags[4] = upper(tags[1]) WHERE id = 4",
    "UPDATE docs SET tags[2:3] = ARRAY['x', 'y'], tags[:1] = '{z}' WHERE id IN (4, 5) RETURNING tags, tags[2:]",
    "UPDATE docs SET grid[1][2] = 9, grid[2][1:2] = '{7,8}' WHERE id = 6",
    "UPDATE docs SET at.x = 1 WHERE id = 1 RETURNING (at).x, at",
    "UPDATE docs AS d SET at.x = (d.at).y, at.y = (d.at).x WHERE d.id < 4 RETURNING d.id, d.at, (d.at).*",
    "UPDATE docs SET (at.x, tags[1], doc['z']) = (5, 'five', '5') WHERE id = 5",
    "UPDATE docs SET (at.y, name) = (SELECT max((at).y), 'six' FROM docs) WHERE id = 6 RETURNING at",
    "UPDATE docs SET spots[1].x = 77, spots[2].y = 78 WHERE id = 7 RETURNING spots::text",
    "UPDATE docs SET at.z = 1 WHERE id = 1",
    "UPDATE docs SET docs.doc = '1' WHERE id = 1",
    "UPDATE docs SET tags[1] = DEFAULT WHERE id = 1",
    "INSERT INTO docs (id, at.x, doc['k'], tags[2]) VALUES (20, 1, '\"v\"', 'second') RETURNING *",
    "INSERT INTO docs (id, at.x, at.y, spots[1].x) VALUES (21, 1, 2, 3), (22, 4, 5, 6)",
    "INSERT INTO docs (id, doc['a'], doc['b']) SELECT id + 30, doc, '1' FROM docs WHERE id < 3",
    "INSERT INTO docs (id, grid[1:2]) VALUES (23, '{1,2}') ON CONFLICT (id) DO UPDATE SET grid[3] = 5, at.x = 6",
    "INSERT INTO docs (id) VALUES (1), (24) ON CONFLICT (id) DO UPDATE SET doc['seen'] = 'true', at.y = EXCLUDED.id",
    "DELETE FROM docs WHERE doc['a'] = '9' OR (at).x = 8 OR tags[1] = 't7' RETURNING id, (at).*",
];

const CONFLICTS: &[&str] = &[
    "INSERT INTO docs (id, kind, number) VALUES (40, 'k1', 1) ON CONFLICT (lower(kind), (number + 1)) \
     DO UPDATE SET tags = '{again}' RETURNING id",
    "INSERT INTO docs (id, kind, number) VALUES (41, 'k2', 2), (42, 'new', 42) \
     ON CONFLICT ((number + 1), lower(kind)) DO NOTHING RETURNING id",
    "INSERT INTO docs AS d (id, number) VALUES (43, 3), (44, 44) ON CONFLICT (number) WHERE live \
     DO UPDATE SET number = d.number + 500, live = false WHERE d.id < 9 RETURNING d.id, d.number",
    "INSERT INTO docs (id, number) VALUES (45, 4) ON CONFLICT (number) WHERE live AND number > 0 DO NOTHING",
    "INSERT INTO docs (id, name) VALUES (46, 'n5'), (47, 'n47') ON CONFLICT ON CONSTRAINT by_name \
     DO UPDATE SET kind = EXCLUDED.id || ' was here'",
    "INSERT INTO docs (id, name) VALUES (6, 'x') ON CONFLICT ON CONSTRAINT docs_pkey \
     DO UPDATE SET (name, kind) = (EXCLUDED.name, docs.name) RETURNING name, kind",
    "INSERT INTO docs (id, name) VALUES (48, 'n7') ON CONFLICT (name COLLATE \"default\" text_ops) \
     DO UPDATE SET live = NOT docs.live",
    "INSERT INTO docs (id, name) VALUES (49, 'n8') ON CONFLICT (name) DO UPDATE SET at = NULL WHERE false",
    "INSERT INTO docs (id, name) SELECT id + 50, name FROM docs ON CONFLICT DO NOTHING",
    "INSERT INTO docs (id, name) SELECT id, name || '!' FROM docs WHERE id < 5 ON CONFLICT (id) \
     DO UPDATE SET name = EXCLUDED.name RETURNING id, name",
    "INSERT INTO docs (id, name) VALUES (60, 'twice'), (61, 'twice') ON CONFLICT (name) DO UPDATE SET kind = 'x'",
    "INSERT INTO docs (id, kind) VALUES (62, 'k') ON CONFLICT (kind) DO NOTHING",
    "INSERT INTO docs (id, kind) VALUES (63, 'k') ON CONFLICT ON CONSTRAINT nowhere DO NOTHING",
];

#[tokio::test]
async fn parts_of_values_and_every_kind_of_conflict_are_mirrored() {
    let live = Live::ready(&format!("{DOCS};{DOCS_V2}"), TOML, &["docs_v2"]).await;
    let mut pair = Pair::new(&live, DOCS).await;
    for sql in PARTS.iter().chain(CONFLICTS) {
        pair.every_way(sql).await;
    }
    assert!(live.statements("recorded", "write") < 0.5, "one was marked");
    pair.finish(&live, &[DOCS_TABLE]).await;
}

/// Two parts that write one row, or one key: which of them does is Postgres's affair.
const TWICE: &[&str] = &[
    "WITH a AS (UPDATE orders SET total = total + 1 WHERE id = 3 RETURNING id), \
     b AS (UPDATE orders SET note = 'b' WHERE id = 3 RETURNING id) \
     SELECT (SELECT count(*) FROM a), (SELECT count(*) FROM b)",
    "WITH a AS (UPDATE orders SET total = total + 1 WHERE id IN (3, 4)) \
     DELETE FROM orders WHERE id = 3 RETURNING id, total",
    "WITH d AS (DELETE FROM orders WHERE id = 3 RETURNING *) \
     INSERT INTO orders SELECT id, user_id, total + 100, 'again', email FROM d RETURNING total, note",
    "WITH u AS (UPDATE orders SET id = 300 WHERE id = 3 RETURNING id), \
     d AS (DELETE FROM orders WHERE id = 3 RETURNING id) SELECT * FROM u UNION ALL SELECT * FROM d",
    "WITH i AS (INSERT INTO orders VALUES (3, 1, 1) ON CONFLICT (id) DO UPDATE SET total = orders.total + 5 \
     RETURNING id, total) UPDATE orders SET note = 'main' FROM i WHERE orders.id = i.id RETURNING i.total, note",
];

/// The same of a MERGE, which looks at its conditions again; there is none before Postgres 15.
const MERGES: &[&str] = &[
    "MERGE INTO orders o USING (VALUES (3), (300)) AS v (k) ON o.id = v.k \
     WHEN MATCHED AND o.total < 500 THEN DELETE WHEN MATCHED THEN UPDATE SET total = o.total + 1 \
     WHEN NOT MATCHED THEN INSERT VALUES (v.k, 1, 1)",
    "MERGE INTO orders o USING orders s ON o.id = s.id AND s.id = 3 WHEN MATCHED AND o.note = 'held' THEN DELETE \
     WHEN MATCHED AND o.note = 'note 3' THEN UPDATE SET note = 'not held'",
];

/// One session has the row and commits; the other, at this level, has waited with this statement.
async fn waited(
    conninfo: &str,
    direct: &Client,
    (level, sql): (&str, &str),
) -> Result<Vec<u64>, String> {
    let (holder, waiter) = (connect(conninfo).await, connect(conninfo).await);
    let begin = format!("BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM orders");
    waiter.batch_execute(&begin).await.unwrap();
    let hold = "BEGIN; UPDATE orders SET total = total + 1000, note = 'held' WHERE id = 3";
    holder.batch_execute(hold).await.unwrap();
    let release = async {
        eventually("the other session waits", async || {
            let sql = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() \
                       AND wait_event_type = 'Lock'";
            if rows(direct, sql).await.is_empty() { Err("it does not") } else { Ok(()) }
        })
        .await;
        holder.batch_execute("COMMIT").await.unwrap();
    };
    let (said, ()) = tokio::join!(outcome(&waiter, sql), release);
    waiter.batch_execute("COMMIT").await.unwrap();
    said
}

#[tokio::test]
async fn two_writes_of_one_statement_on_a_key_that_another_session_has() {
    let live = Live::orders("", "").await;
    let plain: TestDb = database().await;
    plain.client.batch_execute(ORDERS).await.unwrap();
    let merges = "SELECT current_setting('server_version_num')::int >= 150000";
    let merges = plain.client.query_one(merges, &[]).await.unwrap().get(0);
    let forms: Vec<_> = TWICE.iter().chain(MERGES.iter().filter(|_| merges)).collect();
    let again = "DELETE FROM orders WHERE id IN (3, 300); INSERT INTO orders VALUES (3, 0, 30, 'note 3', 'e3')";
    for level in ["READ COMMITTED", "REPEATABLE READ"] {
        for sql in &forms {
            let case = (level, **sql);
            let expected = waited(&plain.conninfo, &plain.client, case).await;
            let got = waited(&live.proxy.conninfo(), &live.db.client, case).await;
            assert_eq!(got, expected, "{case:?}");
            let all = ORDERS_TABLE.source;
            assert_eq!(
                rows(&live.db.client, all).await,
                rows(&plain.client, all).await,
                "{case:?}"
            );
            live.orders_in_step().await;
            plain.client.batch_execute(again).await.unwrap();
            live.client().await.batch_execute(again).await.unwrap();
        }
    }
    assert!(live.statements("recorded", "write") < 0.5, "one was marked");
}
