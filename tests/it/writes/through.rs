//! Writes that name no migrated table: by way of views, functions, procedures and code. They run, and
//! mark the migrations behind them; what is known to be harmless marks nothing.

use crate::live::raw::{call, frame, query};
use crate::live::{Live, ORDERS, ORDERS_TABLE, ORDERS_V2, Pair, Table, orders_toml, outcome, text};
use crate::support::eventually;

const OTHER_TOML: &str = r#"
[[migration]]
name = "other_v2"
source = "public.other"
shadow = "public.other_v2"
key = ["id"]
[migration.columns]
id = "id"
orders_id = "orders_id"
note = "note"
"#;

const OTHER_TABLE: Table = Table {
    migration: "other_v2",
    source: "TABLE other ORDER BY id",
    mapped: "TABLE other ORDER BY id",
    shadow: "TABLE other_v2 ORDER BY id",
};

/// Made while the migrations are ready.
const WAYS: &str = r#"
    CREATE TABLE aside (id int);
    CREATE VIEW first_view AS SELECT id, user_id, total FROM orders;
    CREATE VIEW "Second %" AS SELECT id, total FROM first_view;
    CREATE TABLE ruled (id int);
    CREATE RULE r AS ON INSERT TO ruled DO ALSO UPDATE orders SET total = 1 WHERE id = NEW.id;
    CREATE FUNCTION add_total(int) RETURNS int LANGUAGE sql
        AS 'UPDATE orders SET total = total + $1 WHERE id = 1 RETURNING total';
    CREATE FUNCTION calls_it(int) RETURNS int STABLE LANGUAGE plpgsql
        AS 'BEGIN RETURN add_total($1); END';
    CREATE FUNCTION atomic_one() RETURNS void LANGUAGE sql
        BEGIN ATOMIC UPDATE "Second %" SET total = 5 WHERE id = 2; END;
    CREATE FUNCTION reads_it() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM orders';
    CREATE FUNCTION stable_one() RETURNS bigint STABLE LANGUAGE sql
        AS 'SELECT count(*) AS "update" FROM orders';
    CREATE PROCEDURE change_other(int) LANGUAGE sql
        AS 'UPDATE other SET orders_id = $1 WHERE id = 1';
    CREATE PROCEDURE runs(text) LANGUAGE plpgsql AS 'BEGIN EXECUTE $1; END';
    CREATE PROCEDURE harmless(int) LANGUAGE sql AS 'INSERT INTO aside VALUES ($1)';
    CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.orders (id int);
    CREATE FUNCTION mentions_it() RETURNS void LANGUAGE plpgsql AS $f$
        -- not of orders
        BEGIN INSERT INTO aside VALUES (length('orders')); UPDATE elsewhere.orders SET id = 1; END $f$;
    CREATE FUNCTION hands_on() RETURNS void LANGUAGE plpgsql
        AS 'BEGIN INSERT INTO aside VALUES (1); CALL runs(''TABLE orders''); END'"#;

const ORDERS_ONLY: &str = "orders_v2";
const OTHER_ONLY: &str = "other_v2";
const BOTH: &str = "orders_v2 other_v2";

/// Statements, and the migrations that they mark.
const FORMS: &[(&str, &str)] = &[
    ("SELECT add_total(1)", ORDERS_ONLY),
    ("SELECT public . \"add_total\" (1), id FROM other ORDER BY id LIMIT 2", ORDERS_ONLY),
    ("SELECT * FROM calls_it(2)", ORDERS_ONLY),
    ("SELECT atomic_one()", ORDERS_ONLY),
    ("VALUES (add_total(3))", ORDERS_ONLY),
    ("UPDATE first_view SET total = 8 WHERE id = 3", ORDERS_ONLY),
    ("INSERT INTO public.first_view VALUES (900, 1, 1) RETURNING id", ORDERS_ONLY),
    ("DELETE FROM ONLY \"Second %\" WHERE id = 900", ORDERS_ONLY),
    (
        "WITH w AS (UPDATE \"Second %\" SET total = 3 WHERE id = 4 RETURNING id) TABLE w",
        ORDERS_ONLY,
    ),
    ("INSERT INTO ruled VALUES (5)", ORDERS_ONLY),
    ("INSERT INTO aside SELECT add_total(1)", ORDERS_ONLY),
    ("UPDATE orders SET total = add_total(1) WHERE id = 7 RETURNING total", ORDERS_ONLY),
    ("UPDATE other SET orders_id = add_total(1) WHERE id = 2", BOTH),
    ("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) SELECT add_total(1)", ORDERS_ONLY),
    ("CREATE TABLE made AS SELECT add_total(1)", ORDERS_ONLY),
    ("CALL change_other(7)", OTHER_ONLY),
    ("CALL harmless(add_total(1))", ORDERS_ONLY),
    ("CALL runs('UPDATE o' || 'ther SET orders_id = 8 WHERE id = 3')", BOTH),
    ("DO $$ BEGIN UPDATE other SET orders_id = 9 WHERE id = 4; END $$", OTHER_ONLY),
    ("DO 'BEGIN CALL change_other(6); END'", OTHER_ONLY),
    ("DO $$ BEGIN PERFORM add_total(1); END $$ LANGUAGE plpgsql", ORDERS_ONLY),
    ("DO $$ BEGIN EXECUTE 'UPDATE oth' || 'er SET orders_id = 4 WHERE id = 5'; END $$", BOTH),
    ("DO $$ BEGIN EXECUTE 'UPDATE other SET orders_id = 4 WHERE id = 5'; END $$", OTHER_ONLY),
    ("SELECT reads_it(), stable_one()", ""),
    ("SELECT hands_on()", ORDERS_ONLY),
    ("SELECT mentions_it()", ""),
    ("SELECT count(*) FROM first_view", ""),
    ("INSERT INTO aside SELECT id FROM \"Second %\"", ""),
    ("EXPLAIN (COSTS OFF) SELECT add_total(1)", ""),
    ("CALL harmless(1)", ""),
    ("DO $$ BEGIN CALL harmless(1); PERFORM reads_it(); END $$", ""),
    ("DO $$ BEGIN EXECUTE 'INSERT INTO aside VALUES (1)'; END $$", ""),
];

const SEEN: &str = "SELECT coalesce(string_agg(DISTINCT migration, ' ' ORDER BY migration), '') \
                    FROM pgsegue.dirty_keys WHERE key IS NULL";

/// Both tables migrated and ready; then the ways to them are made past the proxy.
async fn pair(keys: &str) -> (Live, Pair) {
    let ddl = format!(
        "{ORDERS};{ORDERS_V2}; CREATE TABLE other_v2 (id bigint PRIMARY KEY, orders_id int, note text)"
    );
    let toml = format!("{}{OTHER_TOML}", orders_toml(keys, ""));
    let live = Live::ready(&ddl, &toml, &["orders_v2", "other_v2"]).await;
    let pair = Pair::new(&live, ORDERS).await;
    pair.elsewhere(&live, WAYS).await;
    (live, pair)
}

async fn until_known(live: &Live) {
    let client = live.client().await;
    eventually("the function is known", async || {
        client.batch_execute("BEGIN; SELECT add_total(0)").await.map_err(|e| e.to_string())?;
        let seen = text(&client, SEEN).await;
        client.batch_execute("ROLLBACK").await.map_err(|e| e.to_string())?;
        if seen == ORDERS_ONLY { Ok(()) } else { Err(seen) }
    })
    .await;
}

#[tokio::test]
async fn a_write_through_something_else_marks_the_migrations_behind_it() {
    let (live, mut pair) = pair("").await;
    until_known(&live).await;
    for (sql, marked) in FORMS {
        live.until_clean("orders_v2").await;
        live.until_clean("other_v2").await;
        pair.simple("BEGIN").await;
        pair.simple(sql).await;
        let seen = pair.live.rows(SEEN).await.concat();
        assert_eq!(seen, [Some((*marked).to_owned())], "{sql}");
        pair.simple("ROLLBACK").await;
        pair.extended(sql, &[], 0).await;
        pair.simple("DROP TABLE IF EXISTS made").await;
        pair.simple(sql).await;
    }
    pair.simple("PREPARE p AS SELECT add_total(1)").await;
    pair.simple("EXECUTE p").await;
    pair.finish(&live, &[ORDERS_TABLE, OTHER_TABLE]).await;
}

/// In an encoding that is not read, one statement concerns the tables alone that it spells.
#[tokio::test]
async fn a_text_in_another_encoding_is_not_refused_for_a_table_that_it_does_not_name() {
    let (live, mut pair) = pair("unclassified = \"refuse\"").await;
    for (encoding, letter) in [("LATIN1", &b"\xe9"[..]), ("SJIS", b"\x95\x5c")] {
        pair.simple(&format!("SET client_encoding = {encoding}")).await;
        let text = [b"UPDATE other SET note = '", letter, b"' WHERE id = 1\0"].concat();
        pair.exchange(encoding, &frame(b'Q', &text), 1).await;
        let named = [b"UPDATE orders SET note = '", letter, b"' WHERE id = 1\0"].concat();
        let said = pair.live.exchange(&frame(b'Q', &named), 1).await.concat();
        assert!(said.contains("C0A000") && said.contains("What helps: "), "{said}");
    }
    pair.simple("RESET client_encoding").await;
    pair.finish(&live, &[ORDERS_TABLE, OTHER_TABLE]).await;
}

/// Functions, their arguments, and the migrations that a FunctionCall of them marks.
const CALLS: &[(&str, &[&str], &str)] = &[
    ("add_total(int)", &["3"], ORDERS_ONLY),
    ("calls_it(int)", &["2"], ORDERS_ONLY),
    ("atomic_one()", &[], ORDERS_ONLY),
    ("add_total(int)", &["three"], ORDERS_ONLY),
    ("add_total(int)", &[], ORDERS_ONLY),
    ("reads_it()", &[], ""),
    ("upper(text)", &["abc"], ""),
];

#[tokio::test]
async fn a_function_that_the_protocol_calls_marks_as_one_in_a_query() {
    let (live, mut pair) = pair("").await;
    until_known(&live).await;
    for (function, arguments, marked) in CALLS {
        let oids = pair.oids(&format!("'{function}'::regprocedure")).await;
        let alone = |oid| call(oid, arguments);
        live.until_clean("orders_v2").await;
        pair.simple("BEGIN; SAVEPOINT a").await;
        pair.with_oids(oids, alone, 1).await;
        let failed = pair.live.query("SELECT 1").await.iter().any(|line| line.starts_with('E'));
        if !failed {
            let seen = pair.live.rows(SEEN).await.concat();
            assert_eq!(seen, [Some((*marked).to_owned())], "{function}");
        }
        pair.with_oids(oids, alone, 1).await;
        pair.simple("ROLLBACK TO a; COMMIT").await;
        pair.with_oids(oids, alone, 1).await;
        let several = |oid| {
            let select = query("SELECT total FROM orders WHERE id < 3 ORDER BY id");
            [select.clone(), alone(oid), select.clone(), alone(oid), alone(oid), select].concat()
        };
        pair.with_oids(oids, several, 6).await;
        pair.simple("SELECT id, total FROM orders ORDER BY id").await;
    }
    pair.finish(&live, &[ORDERS_TABLE, OTHER_TABLE]).await;
}

#[tokio::test]
async fn what_is_written_through_a_function_before_it_is_known_is_found() {
    let (live, mut pair) = pair("").await;
    // Whether it is known here or not: nothing may be left behind.
    pair.simple("SELECT add_total(100)").await;
    until_known(&live).await;
    pair.simple(
        "CREATE PROCEDURE just_now() LANGUAGE plpgsql \
         AS 'BEGIN EXECUTE ''UPDATE or'' || ''ders SET total = 77 WHERE id = 6''; END'",
    )
    .await;
    pair.simple("CALL just_now()").await;
    pair.finish(&live, &[ORDERS_TABLE, OTHER_TABLE]).await;
}

#[tokio::test]
async fn writes_through_something_else_are_refused_where_they_are_not_to_be_recorded() {
    let (live, _pair) = pair("unclassified = \"refuse\"").await;
    let client = live.client().await;
    eventually("the function is refused", async || {
        client.batch_execute("BEGIN").await.unwrap();
        let said = outcome(&client, "SELECT add_total(0)").await;
        client.batch_execute("ROLLBACK").await.unwrap();
        if said.is_err() { Ok(()) } else { Err(said) }
    })
    .await;
    for (sql, marked) in FORMS {
        let said = outcome(&client, sql).await;
        match marked.contains(ORDERS_ONLY) {
            true => {
                let said = said.unwrap_err();
                assert!(said.starts_with("0A000 this statement on \"public.orders\""), "{said}");
            }
            false => assert!(said.is_ok(), "{sql}: {said:?}"),
        }
    }
    let mut raw = live.raw().await;
    let oid = text(&client, "SELECT 'add_total(int)'::regprocedure::oid").await.parse().unwrap();
    let said = raw.exchange(&[call(oid, &["1"]), query("SELECT 1")].concat(), 2).await;
    assert!(said[0].starts_with("E C0A000 / "), "{said:?}");
    assert_eq!(said[1], "Z I");
    assert_eq!(said.last().unwrap(), "Z I");
    live.orders_in_step().await;
}

/// Texts that define something by which the table is written, write by it, and leave nothing of it; the last
/// write is of row 5.
const AT_ONCE: &[&[&str]] = &[
    &["CREATE FUNCTION pg_temp.fe() RETURNS void LANGUAGE sql \
       AS $$ UPDATE orders SET total = TOTAL WHERE id = 5 $$; \
       SELECT pg_temp.fe(); DROP FUNCTION pg_temp.fe()"],
    &[
        "CREATE FUNCTION fe() RETURNS void LANGUAGE plpgsql \
         AS 'BEGIN UPDATE orders SET total = TOTAL WHERE id = 5; END'",
        "SELECT fe()",
        "DROP FUNCTION fe()",
    ],
    &[
        "CREATE TEMP VIEW seen AS SELECT * FROM public.orders",
        "UPDATE seen SET total = TOTAL WHERE id = 5",
        "DROP VIEW seen",
    ],
    &[
        "CREATE RULE r AS ON INSERT TO other DO ALSO UPDATE orders SET total = TOTAL WHERE id = 5",
        "INSERT INTO other VALUES (TOTAL)",
        "DROP RULE r ON other",
    ],
    &[
        "BEGIN",
        "CREATE FUNCTION fe() RETURNS int LANGUAGE sql \
         AS 'UPDATE orders SET total = TOTAL WHERE id = 5 RETURNING id'",
        "SELECT fe()",
        "READ",
        "DROP FUNCTION fe()",
        "COMMIT",
    ],
];

#[tokio::test]
async fn what_is_written_by_something_made_and_dropped_at_once_is_read_and_found() {
    const READ: &str = "SELECT total FROM orders WHERE id = 5";
    let live = Live::orders("", "reads = 100").await;
    let (client, other) = (live.client().await, live.client().await);
    for (n, texts) in AT_ONCE.iter().enumerate() {
        live.until_shadow_serves(&other, READ).await;
        let total = (600 + n).to_string();
        for sql in *texts {
            if *sql == "READ" {
                assert_eq!(text(&client, READ).await, total, "{texts:?}");
                continue;
            }
            client.batch_execute(&sql.replace("TOTAL", &total)).await.unwrap();
        }
        for _ in 0..3 {
            assert_eq!(text(&client, READ).await, total, "{texts:?}");
            assert_eq!(text(&other, READ).await, total, "{texts:?}");
        }
        live.until_shadow_serves(&other, READ).await;
        assert_eq!(text(&other, READ).await, total, "{texts:?}");
        live.orders_in_step().await;
    }
    // It is on record in the transaction that defines it, whatever becomes of the proxy.
    let marked = "SELECT count(*) FROM pgsegue.dirty_keys WHERE key IS NULL";
    for define in [AT_ONCE[1][0], AT_ONCE[2][0], AT_ONCE[3][0]] {
        live.until_shadow_serves(&other, READ).await;
        client.batch_execute(&format!("BEGIN; {}", define.replace("TOTAL", "1"))).await.unwrap();
        assert_eq!(text(&client, marked).await, "1", "{define}");
        client.batch_execute("ROLLBACK").await.unwrap();
    }
    live.until_shadow_serves(&other, READ).await;
    // A view that is there to stay costs one verify, and its reads none.
    client.batch_execute("CREATE VIEW kept AS SELECT count(*) FROM orders").await.unwrap();
    live.until_shadow_serves(&other, READ).await;
    assert_eq!(text(&client, "TABLE kept").await, "10");
}

/// The same by something that leads to what is known to lead to the table: what defines it, what writes by
/// it, and what takes it away.
const OVER: &[[&str; 3]] = &[
    [
        "CREATE VIEW over AS SELECT * FROM seen",
        "UPDATE over SET total = TOTAL WHERE id = 5",
        "DROP VIEW over",
    ],
    [
        "CREATE FUNCTION over() RETURNS int LANGUAGE plpgsql AS 'BEGIN PERFORM adds(TOTAL); RETURN 1; END'",
        "SELECT over()",
        "DROP FUNCTION over()",
    ],
    [
        "CREATE RULE over AS ON INSERT TO other DO ALSO UPDATE seen SET total = TOTAL WHERE id = 5",
        "INSERT INTO other VALUES (TOTAL)",
        "DROP RULE over ON other",
    ],
    [
        "ALTER VIEW seen RENAME TO renamed",
        "UPDATE renamed SET total = TOTAL WHERE id = 5",
        "ALTER TABLE renamed RENAME TO seen",
    ],
    [
        "ALTER FUNCTION adds(int) RENAME TO renamed",
        "SELECT renamed(TOTAL)",
        "ALTER ROUTINE renamed(int) RENAME TO adds",
    ],
    [
        "CREATE TRIGGER over BEFORE INSERT ON other FOR EACH ROW EXECUTE FUNCTION follows()",
        "INSERT INTO other VALUES (TOTAL)",
        "DROP TRIGGER over ON other",
    ],
];

#[tokio::test]
async fn what_is_defined_over_or_renamed_from_a_known_way_is_on_record_in_its_transaction() {
    const READ: &str = "SELECT total FROM orders WHERE id = 5";
    let live = Live::orders("", "reads = 100").await;
    let (client, other) = (live.client().await, live.client().await);
    let ways = "CREATE VIEW seen AS SELECT * FROM orders; \
                CREATE FUNCTION adds(int) RETURNS void LANGUAGE sql \
                    AS 'UPDATE orders SET total = $1 WHERE id = 5'; \
                CREATE FUNCTION follows() RETURNS trigger LANGUAGE plpgsql \
                    AS $$ BEGIN PERFORM adds(NEW.id); RETURN NEW; END $$";
    client.batch_execute(ways).await.unwrap();
    let marked = "SELECT (count(*) > 0)::text FROM pgsegue.dirty_keys WHERE key IS NULL";
    for (n, [define, write, drop]) in OVER.iter().enumerate() {
        live.until_shadow_serves(&other, READ).await;
        let total = (700 + n).to_string();
        client.batch_execute("BEGIN").await.unwrap();
        client.batch_execute(&define.replace("TOTAL", &total)).await.unwrap();
        assert_eq!(text(&client, marked).await, "true", "{define}");
        client.batch_execute(&write.replace("TOTAL", &total)).await.unwrap();
        assert_eq!(text(&client, READ).await, total, "{define}");
        client.batch_execute(&format!("{drop}; COMMIT")).await.unwrap();
        for _ in 0..3 {
            assert_eq!(text(&other, READ).await, total, "{define}");
        }
        live.until_shadow_serves(&other, READ).await;
        assert_eq!(text(&other, READ).await, total, "{define}");
        live.orders_in_step().await;
    }
}
