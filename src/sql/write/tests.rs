//! Mirrored forms as text; what they do is tested on a real server.

use super::*;
use crate::sql::ident::{Ident, QualifiedName};
use crate::sql::statement::{Class, understand};
use crate::sql::target::{Copyable, Functions, KeyType, Privileges};

pub(in crate::sql) fn target(key: &[&str]) -> Target {
    Target {
        migration: "m".into(),
        source: QualifiedName::parse("public.orders").unwrap(),
        shadow: QualifiedName::parse("public.orders_v2").unwrap(),
        source_oid: 1,
        shadow_oid: 2,
        parts: Default::default(),
        key: key.iter().map(|k| Ident::new(*k)).collect(),
        columns: ["id", "a", "b"].map(Ident::new).into(),
        old_shape: Err(String::new()),
        sync_function: "\"pgsegue\".\"sync_m\"".into(),
        follow_function: None,
        truncate_function: None,
        whole_function: None,
        hold: None,
        mark_function: "\"pgsegue\".\"mark_m\"".into(),
        server_version: 15,
        copy: Err(crate::sql::reason::Reason::CopyOption),
        update_changes_key: false,
        runs_before_update: false,
        counted: None,
        privileges: Privileges::default(),
    }
}

fn mirrored(sql: &str) -> Result<String, Reason> {
    mirrored_for(sql, &target(&["id"])).map(|(form, _)| form)
}

fn mirrored_for(sql: &str, target: &Target) -> Result<(String, Layout), Reason> {
    let targets = [Arc::new(target.clone())];
    let understood = understand(sql, &targets, &Functions::default());
    match &understood.statements[0].class {
        Class::Write(write) => {
            let modes = Modes::all(SyncMode::Sync);
            let form = write.mirrored(sql, &targets, modes).text().to_owned();
            Ok((form, write.layout(&targets, modes)))
        }
        Class::Unclassified(why) => Err(*why),
        other => panic!("{sql}: {other:?}"),
    }
}

#[test]
fn a_write_of_one_row_is_followed_in_its_returning() {
    let follow = "\"pgsegue\".\"follow_m\"";
    let target = |key| Target { follow_function: Some(follow.into()), ..target(key) };
    for (sql, name) in [
        ("UPDATE orders SET a = 1 WHERE id = $1", "orders"),
        ("UPDATE public.orders AS o SET a = 1 WHERE o.id = 5 AND a > 3", "o"),
        ("UPDATE public.orders SET a = 1 WHERE (public.orders.id = $1 AND 1=1)", "orders"),
        ("UPDATE orders SET a = 1 WHERE ((id = $1))", "orders"),
        ("INSERT INTO orders (id) VALUES ((1))", "orders"),
        ("INSERT INTO orders AS x DEFAULT VALUES", "x"),
        ("INSERT INTO orders VALUES (1) ON CONFLICT (id) DO UPDATE SET a = 2", "orders"),
        ("WITH y AS (SELECT 2) UPDATE orders SET a = 1 WHERE id = 1", "orders"),
    ] {
        let call = format!(" RETURNING {follow}(\"{name}\".\"id\", 0) AS \"pgsegue d\"");
        let expected = (format!("{sql}{call}"), Layout::Outcome);
        assert_eq!(mirrored_for(sql, &target(&["id"])).unwrap(), expected);
        let expected = (format!("{sql} {call},  *, a + 1"), Layout::Leading(1));
        let sql = format!("{sql} RETURNING *, a + 1");
        assert_eq!(mirrored_for(&sql, &target(&["id"])).unwrap(), expected);
    }
    for (sql, layout) in [
        ("INSERT INTO orders (id) VALUES (1), (2)", Layout::Counted),
        ("DELETE FROM orders WHERE id = 1", Layout::Counted),
        ("DELETE FROM orders WHERE id = 1 RETURNING a", Layout::Leading(2)),
        ("UPDATE orders SET id = 2 WHERE id = 1", Layout::Counted),
        ("UPDATE orders SET a = 2", Layout::Counted),
        ("UPDATE orders SET a = 2 WHERE (id = 1) OR (id = 2)", Layout::Counted),
        ("UPDATE orders SET a = 2 WHERE (id = 1 OR a = 2)", Layout::Counted),
        ("UPDATE orders SET a = 2 WHERE (id = 1) IS NULL", Layout::Counted),
        ("UPDATE orders SET a = 2 RETURNING b", Layout::Leading(2)),
    ] {
        let (form, found) = mirrored_for(sql, &target(&["id"])).unwrap();
        assert!(found == layout && !form.contains(follow), "{form}");
    }
    let (form, _) =
        mirrored_for("UPDATE orders SET a = 1 WHERE j = 1 AND i = 2", &target(&["i", "j"]))
            .unwrap();
    assert!(form.ends_with(&format!(
        "RETURNING {follow}(\"orders\".\"i\", \"orders\".\"j\", 0) AS \"pgsegue d\""
    )));
}

const CALL: &str = "SELECT pg_catalog.count(*) AS n, \
                    \"pgsegue\".\"sync_m\"(pg_catalog.array_agg(\"pgsegue 1\"), 0) AS d FROM ";

#[test]
fn a_write_by_key_feeds_its_key() {
    for (sql, name) in [
        ("UPDATE orders SET a = 1 WHERE id = $1", "orders"),
        ("UPDATE public.orders AS o SET a = 1 WHERE o.id = 5 AND a > 3", "o"),
        ("update only Orders \"O\" set a = b is distinct from c where id = '5'", "O"),
        ("DELETE FROM orders o WHERE id = $1", "o"),
        ("INSERT INTO orders (id) VALUES (1), (2)", "orders"),
        ("INSERT INTO orders AS x DEFAULT VALUES", "x"),
        (
            "INSERT INTO orders OVERRIDING SYSTEM VALUE VALUES (1) ON CONFLICT (id) DO NOTHING",
            "orders",
        ),
    ] {
        let expected = format!(
            "WITH \"pgsegue w\" AS ({sql} RETURNING \"{name}\".\"id\" AS \"pgsegue 1\") \
             {CALL}\"pgsegue w\""
        );
        assert_eq!(mirrored(sql).unwrap(), expected);
    }
}

#[test]
fn a_write_of_any_number_of_rows_goes_in_batches() {
    for sql in [
        "UPDATE orders SET a = 1",
        "UPDATE orders SET a = 1 WHERE id = 1 OR id = 2",
        "UPDATE orders SET a = 1 WHERE id = 1 + x",
        "UPDATE orders SET a = x.a FROM x WHERE orders.id = 1",
        "DELETE FROM orders USING x WHERE orders.id = 1",
        "INSERT INTO orders SELECT * FROM x",
    ] {
        assert!(mirrored(sql).unwrap().ends_with(
            "(SELECT \"pgsegue 1\", (pg_catalog.row_number() OVER () - 1) / 5000 AS b \
             FROM \"pgsegue w\") AS x GROUP BY b"
        ));
    }
}

#[test]
fn the_clients_returning_comes_after_the_keys() {
    assert_eq!(
        mirrored("DELETE FROM orders WHERE id = 1 RETURNING *, a + 1").unwrap(),
        format!(
            "WITH \"pgsegue w\" AS (DELETE FROM orders WHERE id = 1  RETURNING \
             \"orders\".\"id\" AS \"pgsegue 1\",  *, a + 1) SELECT (SELECT pg_catalog.max(d) FROM \
             ({CALL}\"pgsegue w\") AS c) AS \"pgsegue d\", w.* FROM \"pgsegue w\" AS w"
        )
    );
}

#[test]
fn a_change_of_the_key_captures_the_old_keys_first() {
    assert_eq!(
        mirrored("UPDATE orders o SET (a, id) = (1, x.n) FROM x WHERE o.id = x.o -- c").unwrap(),
        "WITH \"pgsegue k\" AS MATERIALIZED (SELECT \"o\".\"id\" AS \"pgsegue 1\" FROM orders o, x \
         WHERE o.id = x.o FOR NO KEY UPDATE OF \"o\"), \"pgsegue w\" AS (UPDATE orders o SET (a, id) = \
         (1, x.n) FROM x WHERE (o.id = x.o) AND (SELECT pg_catalog.count(*) FROM \"pgsegue k\") \
         >= 0 RETURNING \"o\".\"id\" AS \"pgsegue 1\") SELECT pg_catalog.sum(n)::pg_catalog.int8 AS n, \
         \"pgsegue\".\"sync_m\"(pg_catalog.array_agg(\"pgsegue 1\"), 0) AS d FROM (SELECT n, \
         \"pgsegue 1\", (pg_catalog.row_number() OVER () - 1) / 5000 AS b FROM (SELECT 1 AS n, \
         \"pgsegue 1\" FROM \"pgsegue w\" UNION ALL SELECT 0, \"pgsegue 1\" FROM \"pgsegue k\") AS u) \
         AS x GROUP BY b"
    );
    assert!(mirrored("UPDATE orders SET id = id + 1").unwrap().contains(
        "SET id = id + 1 WHERE (SELECT pg_catalog.count(*) FROM \"pgsegue k\") >= 0 RETURNING"
    ));
}

#[test]
fn a_with_list_is_extended() {
    let sql = "WITH RECURSIVE update (a) AS NOT MATERIALIZED (SELECT 1), y AS (SELECT 2) \
               UPDATE orders SET a = 1 WHERE id = 1";
    assert!(
        mirrored(sql).unwrap().contains(
            "y AS (SELECT 2) , \"pgsegue w\" AS (UPDATE orders SET a = 1 WHERE id = 1 RET"
        )
    );
}

#[test]
fn a_write_within_with_is_split_and_its_call_is_an_insert_of_nothing() {
    let call = |from: &str| {
        format!(
            "INSERT INTO \"pgsegue\".\"sink\" SELECT 1 FROM (SELECT pg_catalog.count(*) AS n, \
             \"pgsegue\".\"sync_m\"(pg_catalog.array_agg(\"pgsegue 1\"), 0) AS d FROM {from}) AS c \
             WHERE CASE WHEN d OPERATOR(pg_catalog.=) 0 THEN false ELSE \"pgsegue\".\"tell\"('m', d) END"
        )
    };
    assert_eq!(
        mirrored(
            "WITH w (x) AS MATERIALIZED (DELETE FROM orders o WHERE id = 1 RETURNING o.A, b + 1 c), \
             v AS (SELECT 1) SELECT * FROM w"
        )
        .unwrap(),
        format!(
            "WITH \"pgsegue w0\" (\"pgsegue 1\", \"pgsegue c1\", \"pgsegue c2\") AS (DELETE FROM \
             orders o WHERE id = 1  RETURNING \"o\".\"id\" AS \"pgsegue 1\",  o.A, b + 1 c), w (x) AS \
             MATERIALIZED (SELECT \"pgsegue c1\" AS \"a\", \"pgsegue c2\" AS \"c\" FROM \"pgsegue w0\"), \
             \"pgsegue d0\" AS ({}), v AS (SELECT 1) SELECT * FROM w",
            call("\"pgsegue w0\"")
        )
    );
    assert_eq!(
        mirrored("WITH w AS (DELETE FROM orders WHERE id = 1), v AS (SELECT 1) TABLE v").unwrap(),
        format!(
            "WITH w AS (DELETE FROM orders WHERE id = 1 RETURNING \"orders\".\"id\" AS \"pgsegue 1\"), \
             \"pgsegue d0\" AS ({}), v AS (SELECT 1) TABLE v",
            call("\"w\"")
        )
    );
    assert_eq!(
        mirrored("COPY (DELETE FROM orders WHERE id = 1 RETURNING *) TO STDOUT").unwrap(),
        format!(
            "COPY (WITH \"pgsegue w\" (\"pgsegue 1\", \"pgsegue c1\", \"pgsegue c2\", \"pgsegue c3\") AS \
             (DELETE FROM orders WHERE id = 1  RETURNING \"orders\".\"id\" AS \"pgsegue 1\",  *) , \
             \"pgsegue d0\" AS ({}) SELECT \"pgsegue c1\" AS \"id\", \"pgsegue c2\" AS \"a\", \
             \"pgsegue c3\" AS \"b\" FROM \"pgsegue w\") TO STDOUT",
            call("\"pgsegue w\"")
        )
    );
}

#[test]
fn from_18_on_the_old_keys_are_returned_where_they_cannot_be_read_before() {
    let target = Target { server_version: 18, ..target(&["id"]) };
    let sql = "MERGE INTO orders o USING x ON o.id = x.id WHEN MATCHED THEN UPDATE SET id = 2";
    let (form, layout) = mirrored_for(sql, &target).unwrap();
    let expected = format!(
        "WITH \"pgsegue w\" AS ({sql} RETURNING WITH (OLD AS \"pgsegue o\") \"o\".\"id\" AS \
         \"pgsegue 1\", \"pgsegue o\".\"id\" AS \"pgsegue o1\") "
    );
    assert!(form.starts_with(&expected), "{form}");
    assert!(form.contains(
        "UNION ALL SELECT 0, \"pgsegue o1\" FROM \"pgsegue w\" WHERE \"pgsegue o1\" IS NOT NULL"
    ));
    assert_eq!(layout, Layout::Counted);
    let (form, layout) =
        mirrored_for(&format!("{sql} RETURNING with (new as n, old AS b) b.id, *"), &target)
            .unwrap();
    assert!(form.contains(
        " RETURNING with (new as n, old AS b) \"o\".\"id\" AS \"pgsegue 1\", \"b\".\"id\" AS \
         \"pgsegue o1\",  b.id, *"
    ));
    assert_eq!(layout, Layout::Leading(3));
    let why = mirrored_for(&format!("{sql} RETURNING old.id"), &target).unwrap_err();
    assert_eq!(why, Reason::OldUnnamed);
}

#[test]
fn a_key_that_a_conflict_sets_to_what_it_is_does_not_change() {
    let insert = |set: &str| {
        let sql = format!("INSERT INTO orders VALUES (1) ON CONFLICT {set}");
        mirrored(&sql).is_ok()
    };
    assert!(insert("(id) DO UPDATE SET a = 1, ID = Excluded.id, b = 2"));
    assert!(insert("(id) WHERE a > 1 DO UPDATE SET id = EXCLUDED.id WHERE orders.a = 1"));
    assert!(!insert("(id) DO UPDATE SET id = EXCLUDED.id + 1"));
    assert!(!insert("(id) DO UPDATE SET id = EXCLUDED.a"));
    for set in ["(id, a) = (EXCLUDED.id, EXCLUDED.a)", "(a, ID) = ROW (excluded.a, EXCLUDED.id)"] {
        assert!(insert(&format!("(id) DO UPDATE SET b = 1, {set}, c = 1")), "{set}");
    }
    assert!(insert("(id) DO UPDATE SET (id) = ROW (EXCLUDED.id) WHERE true"));
    for set in [
        "(id, a) = (EXCLUDED.a, EXCLUDED.id)",
        "(id, a) = (EXCLUDED.id, 1)",
        "(id, a) = (EXCLUDED.id)",
        "(id, a) = (EXCLUDED.id, EXCLUDED.a, 1)",
        "(id, a) = (SELECT EXCLUDED.id, EXCLUDED.a)",
        "(id, a) = ROW (EXCLUDED.id, EXCLUDED.a) || 1",
    ] {
        assert!(!insert(&format!("(id) DO UPDATE SET {set}")), "{set}");
    }
    assert!(!insert("(email) DO UPDATE SET id = EXCLUDED.id"));
    assert!(!insert("((id)) DO UPDATE SET id = EXCLUDED.id"));
    assert!(!insert("ON CONSTRAINT orders_pkey DO UPDATE SET id = EXCLUDED.id"));
}

#[test]
fn refuses_what_it_cannot_capture() {
    for sql in [
        "INSERT INTO orders VALUES (1) ON CONFLICT (id) DO UPDATE SET id = 2",
        "UPDATE orders SET id = 2 WHERE CURRENT OF c",
        "UPDATE orders SET id = 2 WHERE random() < 0.5",
        "MERGE INTO orders USING x ON true WHEN MATCHED THEN DELETE",
        "DELETE FROM orders RETURNING a RETURNING b",
        "WITH x AS (WITH y AS (SELECT 1) UPDATE orders SET id = 2) SELECT 1",
    ] {
        assert!(mirrored(sql).is_err(), "{sql}");
    }
}

/// A server whose MERGE does not return.
fn of_key(key: &[&str]) -> Target {
    let types = ["integer", "character varying(5)"];
    let key_types = types.iter().take(key.len()).map(|sql| KeyType { sql: (*sql).into(), oid: 0 });
    let columns = ["id", "a", "b"].map(Ident::new).into();
    Target { copy: Ok(Copyable { columns, key_types: key_types.collect() }), ..target(key) }
}

#[test]
fn a_merge_that_cannot_return_notes_its_keys_where_it_acts() {
    let note = |keys: &str| {
        format!("\"pgsegue\".\"tell\"('m', \"pgsegue\".\"sync_m\"({keys}, 2)) IS NOT NULL")
    };
    let (old, new) = (note("ARRAY[\"o\".\"id\"]"), note("ARRAY[CAST(x.k + 1 AS integer)]"));
    let head = "MERGE INTO orders AS o USING x ON CASE WHEN x.y THEN o.id = x.id END";
    let sql = format!(
        "{head} WHEN MATCHED AND x.a = 1 OR CASE WHEN x.b THEN true END THEN DELETE \
         WHEN MATCHED THEN UPDATE SET a = CASE WHEN b THEN 1 END, b = x.end \
         WHEN NOT MATCHED AND x.z -- no\n THEN DO NOTHING \
         WHEN NOT MATCHED /* y */ THEN INSERT (a, id) VALUES (f(1, 2), x.k + 1) -- end"
    );
    let form = format!(
        "{head} WHEN MATCHED AND CASE WHEN x.a = 1 OR CASE WHEN x.b THEN true END THEN {old} \
         ELSE false END THEN DELETE \
         WHEN MATCHED AND {old} THEN UPDATE SET a = CASE WHEN b THEN 1 END, b = x.end \
         WHEN NOT MATCHED AND x.z -- no\n THEN DO NOTHING \
         WHEN NOT MATCHED AND {new} THEN INSERT (a, id) VALUES (f(1, 2), x.k + 1)"
    );
    assert_eq!(mirrored_for(&sql, &of_key(&["id"])).unwrap(), (form, Layout::Own));
    let two = mirrored_for(
        "MERGE INTO orders USING x ON true WHEN NOT MATCHED THEN INSERT VALUES (1, 'a', $1)",
        &of_key(&["b", "id"]),
    );
    let keys = note("ARRAY[CAST($1 AS integer)], ARRAY[CAST(1 AS character varying(5))]");
    assert!(two.unwrap().0.contains(&keys));
}

#[test]
fn a_merge_whose_keys_cannot_be_noted_is_not_understood() {
    let insert = "MERGE INTO orders USING x ON true WHEN NOT MATCHED THEN INSERT";
    for sql in [
        format!("{insert} DEFAULT VALUES"),
        format!("{insert} (a) VALUES (1)"),
        format!("{insert} (id) VALUES (DEFAULT)"),
        format!("{insert} (id) VALUES (nextval('s'))"),
        format!("{insert} (id) OVERRIDING USER VALUE VALUES (1)"),
        "MERGE INTO orders USING x ON true WHEN NOT MATCHED BY SOURCE THEN DELETE".to_owned(),
        "MERGE INTO orders USING x ON true WHEN MATCHED THEN DO NOTHING WHEN MATCHED AND a THEN DELETE".to_owned(),
        format!("{insert} (id) VALUES (1) WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN DO NOTHING"),
        "MERGE INTO orders USING x ON true WHEN MATCHED THEN DELETE RETURNING 1".to_owned(),
        "WITH m AS (MERGE INTO orders USING x ON true WHEN MATCHED THEN DELETE) SELECT 1"
            .to_owned(),
    ] {
        assert_eq!(mirrored_for(&sql, &of_key(&["id"])), Err(Reason::MergeBefore17), "{sql}");
    }
    let changes = "MERGE INTO orders USING x ON true WHEN MATCHED THEN UPDATE SET id = 1";
    assert_eq!(mirrored_for(changes, &of_key(&["id"])), Err(Reason::MergeChangesKey));
}
