//! What the rows say: refused by the shadow, not restored, lost; and how much of them is looked at.

use super::{case, found, ids, remedy};
use crate::engine_support::*;
use pgsegue::engine::check::{Effort, Extent, Finding, Kind, check_with};
use pgsegue::manifest::Migration;
use pgsegue::sql::ident::Ident;
use std::sync::Mutex;

#[tokio::test]
async fn rows_that_a_constraint_of_the_shadow_refuses() {
    case(
        "ALTER TABLE orders_v2 ALTER note SET NOT NULL; UPDATE orders SET note = NULL WHERE id = 2",
        &["B rows public.orders_v2.NOT NULL note"],
        &[],
    )
    .await;
    case(
        "ALTER TABLE orders_v2 ADD CONSTRAINT small CHECK (total_minor < 250)",
        &["B rows public.orders_v2.small"],
        &[],
    )
    .await;
    let alone = ["B rows public.orders_v2.alone"];
    let twice = "UPDATE orders SET user_id = 7";
    for index in ["(customer_id, currency)", "((customer_id + 1))", "(customer_id) WHERE id < 3"] {
        case(
            &format!("CREATE UNIQUE INDEX alone ON orders_v2 {index}; {twice} WHERE id < 3"),
            &alone,
            &[],
        )
        .await;
    }
    for index in ["(customer_id) WHERE id > 2", "(customer_id, note)"] {
        case(
            &format!("CREATE UNIQUE INDEX alone ON orders_v2 {index}; {twice} WHERE id < 3"),
            &[],
            &[],
        )
        .await;
    }
    for constraint in ["(customer_id WITH =)", "(note WITH =, customer_id WITH =)"] {
        let add = format!("ALTER TABLE orders_v2 ADD CONSTRAINT alone EXCLUDE {constraint}");
        case(&format!("{add}; {twice}, note = 'n' WHERE id < 3"), &alone, &[]).await;
    }
    for constraint in [
        "(customer_id WITH =) WHERE (id > 2)",
        "(customer_id WITH =, note WITH =)",
        "USING gist (int8range(id, id + 1) WITH &&)",
    ] {
        let add = format!("ALTER TABLE orders_v2 ADD CONSTRAINT alone EXCLUDE {constraint}");
        case(&format!("{add}; {twice} WHERE id < 3"), &[], &[]).await;
    }
    let overlaps = "ALTER TABLE orders_v2 ADD CONSTRAINT alone \
                    EXCLUDE USING gist ((int8range(id, id + 2)) WITH &&)";
    case(overlaps, &alone, &[]).await;
    let loose = "CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false); \
                 ALTER TABLE orders_v2 ALTER note TYPE text COLLATE loose; \
                 ALTER TABLE orders_v2 ADD CONSTRAINT alone UNIQUE (note); \
                 UPDATE orders SET note = 'a' WHERE id = 1; UPDATE orders SET note = 'A' WHERE id = 2";
    case(loose, &alone, &[]).await;
    case(
        "CREATE TABLE users (id int4 PRIMARY KEY); INSERT INTO users VALUES (1), (2); \
         ALTER TABLE orders_v2 ADD CONSTRAINT to_user FOREIGN KEY (customer_id) REFERENCES users",
        &["B rows public.orders_v2.to_user"],
        &[],
    )
    .await;
    case(
        "ALTER TABLE orders_v2 ALTER note TYPE varchar(5)",
        &[
            "B rows public.orders_v2.length note",
            "W lossy public.orders_v2.note",
            "W way back public.orders.note",
        ],
        &[],
    )
    .await;
}

#[tokio::test]
async fn a_composite_of_nulls_is_not_null() {
    let db = database().await;
    let mut migration = orders(&db, 3).await;
    db.client
        .batch_execute(
            "CREATE TYPE pair AS (a int, b text); ALTER TABLE orders ADD p pair; \
             ALTER TABLE orders_v2 ADD q pair NOT NULL; UPDATE orders SET p = ROW(NULL, 'b')",
        )
        .await
        .unwrap();
    migration.columns.push((Ident::new("q"), "p".to_owned()));
    migration.reverse.push((Ident::new("p"), "q".to_owned()));
    assert_eq!(found(&db, &migration).await, []);
    db.client.batch_execute("UPDATE orders SET p = NULL WHERE id = 2").await.unwrap();
    assert_eq!(ids(&found(&db, &migration).await), ["B rows public.orders_v2.NOT NULL q"]);
}

#[tokio::test]
async fn the_offending_keys_are_named_a_few_of_them() {
    let db = database().await;
    let mut migration = orders(&db, 2_000).await;
    migration.columns[4].1 = "btrim(note)".to_owned();
    migration.reverse.push((Ident::new("note"), "note".to_owned()));
    db.client
        .batch_execute(
            "UPDATE orders SET note = ' x' WHERE id IN (7, 9); \
             CREATE UNIQUE INDEX alone ON orders_v2 (note); ALTER TABLE orders_v2 \
             ADD CONSTRAINT small CHECK (total_minor < 199900), \
             ADD CONSTRAINT more CHECK (currency = 'USD' OR note IS NULL), \
             ADD CONSTRAINT none CHECK (id < 0)",
        )
        .await
        .unwrap();
    let findings = found(&db, &migration).await;
    let expected = [
        "B rows public.orders_v2.\"none\"",
        "B rows public.orders_v2.small",
        "B rows public.orders_v2.alone",
        "W way back public.orders.note",
    ];
    assert_eq!(ids(&findings), expected, "{findings:?}");
    assert!(findings[0].message.ends_with("(1), (2), (3), (4), (5)"), "{findings:?}");
    assert!(findings[1].message.ends_with("(1999), (2000)"), "{findings:?}");
    assert!(findings[2].message.ends_with("(7) and (9)"), "{findings:?}");
    let rows = "(7): ' x' comes back as 'x', (9): ' x' comes back as 'x'";
    assert!(findings[3].message.ends_with(rows), "{findings:?}");
}

/// `orders(id, v)` of one type and its shadow of another, with these values.
async fn pair(
    db: &Db,
    types: [&str; 2],
    mapping: &str,
    reverse: Option<&str>,
    rows: &str,
) -> Migration {
    db.client
        .batch_execute(&format!(
            "CREATE TABLE orders (id int PRIMARY KEY, v {}); CREATE TABLE orders_v2 (id int PRIMARY KEY, v {}); \
             INSERT INTO orders SELECT i, v FROM unnest(ARRAY[{rows}]) WITH ORDINALITY AS t (v, i)",
            types[0], types[1]
        ))
        .await
        .unwrap();
    let mut migration = migration(&[("id", "id"), ("v", mapping)]);
    migration.reverse = reverse.map(|sql| (Ident::new("v"), sql.to_owned())).into_iter().collect();
    migration
}

#[tokio::test]
async fn casts_that_lose_something_show_rows() {
    let lossy = "W lossy public.orders_v2.v";
    let back = "W way back public.orders.v";
    for (types, mapping, rows, expected) in [
        (["numeric", "int"], "v::int", "1, 2.5::numeric", vec![lossy, back]),
        (["numeric", "numeric(10, 1)"], "v", "1.25, 1.5::numeric", vec![lossy, back]),
        (["float8", "numeric(10, 1)"], "v::numeric(10,1)", "1.25::float8", vec![lossy, back]),
        (["float8", "numeric"], "cast(v as numeric(10, 2))", "1.125::float8", vec![lossy, back]),
        (["timestamp", "date"], "v::date", "'2020-01-01 10:00'::timestamp", vec![lossy, back]),
        (["text", "varchar(3)"], "v::varchar(3)", "'abcd'", vec![lossy, back]),
        (["float8", "float4"], "v::float4", "0.1::float8", vec![lossy, back]),
        (["int", "bigint"], "v", "1, 2", vec![]),
        (["numeric", "int"], "v::int", "1, 2::numeric", vec![back]),
        (["text", "varchar(3)"], "v", "'abc'", vec![]),
    ] {
        let db = database().await;
        let migration = pair(&db, types, mapping, None, rows).await;
        let findings = found(&db, &migration).await;
        // A numeric with one decimal comes back as it is only where it has none.
        let seen = ids(&findings);
        if rows == "1, 2::numeric" {
            assert!(seen.is_empty() || seen == expected, "{seen:?}");
        } else {
            assert_eq!(seen, expected, "{types:?} {rows}: {findings:?}");
        }
        for finding in &findings {
            assert!(finding.message.contains(" comes back as "), "{finding:?}");
        }
    }
}

/// `orders(id, v)` of an enum and text, with rows that the shadow refuses in every way.
const REFUSING: &str = "CREATE TYPE mood AS ENUM ('sad', 'happy'); \
    CREATE TABLE orders (id int PRIMARY KEY, v mood, t text, n int); \
    CREATE TABLE orders_v2 (id int PRIMARY KEY, v text, t varchar(3), n smallint NOT NULL CHECK (n <> 2)); \
    CREATE UNIQUE INDEX alone ON orders_v2 (v); \
    INSERT INTO orders VALUES (1, 'sad', 'x', 1), (2, 'sad', 'x', 2), (3, NULL, 'long', 3), (4, NULL, 'x', NULL)";

#[tokio::test]
async fn rows_are_looked_at_whatever_is_found_of_a_mapping() {
    let rows = [
        "B rows public.orders_v2.NOT NULL n",
        "B rows public.orders_v2.length t",
        "B rows public.orders_v2.orders_v2_n_check",
        "B rows public.orders_v2.alone",
    ];
    let of_v = "mapping public.orders_v2.v";
    for (mapping, accepted, refused) in [
        ("v", false, &rows[..]),
        ("v::text", false, &rows),
        ("v::text", true, &rows),
        // Without a value of v, nothing is known of its index; the rest is.
        ("nothing", false, &rows[..3]),
        ("max(v)::text", false, &rows[..3]),
    ] {
        let db = database().await;
        db.client.batch_execute(REFUSING).await.unwrap();
        let mut migration = migration(&[("id", "id"), ("v", mapping), ("t", "t"), ("n", "n")]);
        migration.accepted = accepted.then(|| of_v.to_owned()).into_iter().collect();
        let findings = found(&db, &migration).await;
        let blockers = ids(&findings).into_iter().filter(|id| id.starts_with("B "));
        let of_rows: Vec<String> = blockers.filter(|id| !id.ends_with(of_v)).collect();
        assert_eq!(of_rows, refused, "{mapping}: {findings:?}");
        assert_eq!(findings.iter().any(|f| f.id == of_v), mapping != "v", "{findings:?}");
        let unseen = findings.iter().find(|f| f.kind == Kind::Sampled);
        let unseen = unseen.map_or("", |f| f.message.as_str());
        assert_eq!(unseen.contains("what needs v, whose mapping does not work"), refused.len() < 4);
        assert_eq!(unseen.contains("alone (42703 "), refused.len() < 4, "{unseen}");
    }
}

#[tokio::test]
async fn a_text_that_is_no_label_is_found_before_the_start() {
    for (mapping, proved) in [("v", true), ("v::public.mood", false)] {
        let db = database().await;
        db.client.batch_execute("CREATE TYPE mood AS ENUM ('sad', 'happy')").await.unwrap();
        let rows = "'sad', 'happy', 'sad', 'zz'";
        let migration = pair(&db, ["text", "mood"], mapping, Some("v::text"), rows).await;
        let findings = found(&db, &migration).await;
        let blockers: Vec<_> = findings.iter().filter(|f| f.is_blocker()).collect();
        let of_mapping = blockers.iter().find(|f| f.kind == Kind::Mapping);
        assert_eq!(of_mapping.is_none(), proved, "{findings:?}");
        // The cast that is added does the same.
        let line = of_mapping.map(|f| f.config.as_deref().unwrap());
        assert_eq!(line, (!proved).then_some("\"v\" = \"v\""));
        let of_rows = blockers.iter().find(|f| f.kind == Kind::Rows).unwrap();
        assert_eq!(of_rows.id, "rows public.orders_v2.v");
        assert!(of_rows.message.contains("fails for the row (4)"), "{of_rows:?}");
    }
}

#[tokio::test]
async fn a_cast_of_an_enum_that_is_not_needed_is_to_be_left_out() {
    let db = database().await;
    db.client.batch_execute("CREATE TYPE mood AS ENUM ('sad', 'happy')").await.unwrap();
    let mut migration = pair(&db, ["mood", "text"], "v::text", Some("v"), "'sad'::mood").await;
    let findings = found(&db, &migration).await;
    assert_eq!(ids(&findings), ["B mapping public.orders_v2.v"]);
    let remedy = "leave out the cast, which is added as the shadow's column needs it";
    assert_eq!(findings[0].remedy, remedy);
    assert_eq!(findings[0].config.as_deref(), Some("\"v\" = \"v\""));
    migration.columns[1].1 = "v".to_owned();
    assert_eq!(found(&db, &migration).await, []);
    migration.reverse[0].1 = "v::mood".to_owned();
    let findings = found(&db, &migration).await;
    assert_eq!(findings[0].id, "reverse public.orders.v", "{findings:?}");
    let remedy = "it is SQL over the shadow's columns; write types and functions of other schemas with \
                  their schema: public.mood";
    assert_eq!(findings[0].remedy, remedy);
}

#[tokio::test]
async fn a_row_that_cannot_be_mapped_is_named_with_its_column() {
    for (types, mapping, rows, key) in [
        (["int8", "int4"], "v::int4", "1, 5, 9999999999, 6, 8888888888", "(3)"),
        (["int4", "int4"], "100 / v", "1, 2, 3, 0", "(4)"),
        (["text", "date"], "v::date", "'2020-01-01', 'never'", "(2)"),
    ] {
        // A cast of text to a date is no mapping at all: it depends on DateStyle.
        let expected = if types[0] == "text" { "mapping" } else { "rows" };
        let db = database().await;
        let migration = pair(&db, types, mapping, Some("v"), rows).await;
        let findings = found(&db, &migration).await;
        assert_eq!(findings[0].id, format!("{expected} public.orders_v2.v"), "{findings:?}");
        assert!(findings[0].is_blocker(), "{findings:?}");
        assert!(expected == "mapping" || findings[0].message.contains(key), "{findings:?}");
    }
}

#[tokio::test]
async fn values_that_a_cast_cuts_and_an_insert_refuses() {
    let db = database().await;
    let migration = pair(&db, ["text", "varchar(3)"], "v", None, "'abc', 'abc  ', 'abcd'").await;
    let findings = found(&db, &migration).await;
    assert_eq!(findings[0].id, "rows public.orders_v2.length v");
    assert!(findings[0].message.ends_with(": (3)"), "{findings:?}");
    remedy(&db, &findings).await;
    assert_eq!(found(&db, &migration).await, []);
}

#[tokio::test]
async fn expressions_that_depend_on_the_session() {
    for (types, mapping, reverse, rows, expected, setting) in [
        (
            ["float8", "text"],
            "v::text",
            "v::float8",
            "0.1 + 0.2::float8",
            "I settings public.orders_v2.v",
            "extra_float_digits",
        ),
        (
            ["bytea", "text"],
            "v::text",
            "v::bytea",
            "'\\x00ff'::bytea",
            "I settings public.orders_v2.v",
            "bytea_output",
        ),
        (
            ["xml", "text"],
            "v::text",
            "v::xml",
            "'<a/>'::xml",
            "B mutable way back public.orders.v",
            "",
        ),
        (
            ["timestamptz", "timestamp"],
            "v AT TIME ZONE 'UTC'",
            "v::timestamptz",
            "'2020-01-01 10:00+00'::timestamptz",
            "B mutable way back public.orders.vW settings public.orders.v",
            "TimeZone",
        ),
        (
            ["timestamptz", "timestamp"],
            "v AT TIME ZONE 'UTC'",
            "v AT TIME ZONE 'UTC'",
            "'2020-01-01 10:00+00'::timestamptz",
            "",
            "",
        ),
    ] {
        let db = database().await;
        let migration = pair(&db, types, mapping, Some(reverse), rows).await;
        let findings = found(&db, &migration).await;
        let seen = ids(&findings);
        assert_eq!(seen.concat(), expected, "{types:?} {mapping}: {findings:?}");
        let mut of_settings = findings.iter().filter(|f| f.kind == Kind::Settings);
        assert!(of_settings.all(|f| f.message.contains(setting)), "{findings:?}");
    }
}

#[tokio::test]
async fn a_way_back_that_hangs_on_the_session_is_refused_unless_it_is_accepted() {
    let id = "mutable way back public.orders.v";
    let text = ["text", "text"];
    let feels = ["mood", "text"];
    let label = "public.label(v)";
    for (types, mapping, reverse, rows, steady) in [
        (["date", "timestamp"], "v::timestamp", "v::date", "'2020-01-01'::date", true),
        (
            ["date", "timestamptz"],
            "v::timestamp AT TIME ZONE 'UTC'",
            "v::date",
            "'2020-01-01'::date",
            false,
        ),
        (text, "v", "v || substr(current_setting('TimeZone'), 1, 0)", "'a'", false),
        (text, "v", "v || left(now()::text, 0)", "'a'", false),
        (text, "v", "v || left(random()::text, 0)", "'a'", false),
        (text, "v", "(SELECT v)", "'a'", false),
        (text, "v", "lower(v)", "'a'", true),
        (feels, label, "v", "'sad'::mood", true),
        (feels, label, "v::public.mood", "'sad'::mood", false),
    ] {
        let db = database().await;
        let mood = "CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE FUNCTION label(mood) RETURNS text \
                    IMMUTABLE LANGUAGE sql AS 'SELECT $1::text'";
        db.client.batch_execute(mood).await.unwrap();
        let mut migration = pair(&db, types, mapping, Some(reverse), rows).await;
        let findings = found(&db, &migration).await;
        let blockers: Vec<_> = findings.iter().filter(|f| f.is_blocker()).collect();
        let ids: Vec<_> = blockers.iter().map(|f| f.id.as_str()).collect();
        assert_eq!(ids, vec![id; usize::from(!steady)], "{reverse}: {findings:?}");
        if let [finding] = blockers.as_slice() {
            assert_eq!(finding.config.as_deref(), Some(format!("accepted = [\"{id}\"]").as_str()));
            migration.accepted.push(id.to_owned());
            let findings = found(&db, &migration).await;
            assert!(!findings.iter().any(Finding::is_blocker), "{findings:?}");
        }
    }
}

#[tokio::test]
async fn a_label_comes_back_as_the_text_that_it_was() {
    let text = ["text", "mood"];
    for (types, reverse, steady) in [
        (text, None, true),
        (text, Some("v"), true),
        (text, Some("v::text"), true),
        (["varchar(9)", "mood"], Some("CAST(v AS varchar)"), true),
        // Anything else that is done to it is asked of the server.
        (text, Some("v::text || left(now()::text, 0)"), false),
    ] {
        let db = database().await;
        db.client.batch_execute("CREATE TYPE mood AS ENUM ('sad', 'happy')").await.unwrap();
        let migration = pair(&db, types, "v", reverse, "'sad', 'happy', NULL").await;
        let back = ["B mutable way back public.orders.v"];
        let findings = found(&db, &migration).await;
        let seen = ids(&findings);
        assert_eq!(seen, back[..usize::from(!steady)], "{reverse:?}: {findings:?}");
        let cast = "CREATE FUNCTION spelled(mood) RETURNS text LANGUAGE sql AS $$SELECT now()::text$$; \
                    CREATE CAST (mood AS text) WITH FUNCTION spelled(mood) AS IMPLICIT";
        db.client.batch_execute(cast).await.unwrap();
        let findings = found(&db, &migration).await;
        assert!(ids(&findings).contains(&back[0].to_owned()), "{reverse:?}: {findings:?}");
    }
}

#[tokio::test]
async fn a_mapping_that_reads_a_setting_that_nobody_pins_is_refused() {
    let db = database().await;
    let mapping = "xmlelement(name a, v)::text";
    let migration = pair(&db, ["bytea", "text"], mapping, Some("'x'"), "'x'::bytea").await;
    let findings = found(&db, &migration).await;
    assert_eq!(findings[0].id, "settings public.orders_v2.v", "{findings:?}");
    assert!(findings[0].is_blocker() && findings[0].message.ends_with("xmlbinary"), "{findings:?}");
}

/// A check with little patience: everything is a big table.
async fn sampled(db: &Db, migration: &Migration, extent: Extent) -> Vec<Finding> {
    let effort = Effort {
        extent,
        whole_rows: 100,
        sample_rows: 50,
        step_rows: 300,
        big_rows: 100,
        ..Effort::default()
    };
    let seen = Mutex::new(Vec::new());
    let progress = |at: pgsegue::engine::check::Progress<'_>| {
        seen.lock().unwrap().push((at.what.to_owned(), at.rows, at.of));
    };
    let client = db.engine_client().await;
    let findings = check_with(&client, migration, &effort, &progress).await.unwrap();
    let seen = seen.into_inner().unwrap();
    match extent {
        Extent::Sampled => assert_eq!(seen, []),
        Extent::Full => {
            let last = seen.iter().rfind(|(what, ..)| what == "small").unwrap();
            assert_eq!((last.1, last.2), (1_000, 1_000), "{seen:?}");
            assert!(seen.iter().any(|(what, rows, _)| what == "small" && *rows == 600), "{seen:?}");
        }
    }
    findings
}

#[tokio::test]
async fn big_tables_are_sampled_and_looked_at_whole_when_asked() {
    let db = database().await;
    let mut migration = orders(&db, 1_000).await;
    migration.backfill_rows_per_second = Some(1);
    db.client
        .batch_execute(
            "ANALYZE orders; ALTER TABLE orders_v2 ADD CONSTRAINT small CHECK (total_minor < 99950); \
             CREATE UNIQUE INDEX alone ON orders_v2 (note); \
             UPDATE orders SET note = 'twice' WHERE id IN (1, 1000)",
        )
        .await
        .unwrap();
    let findings = sampled(&db, &migration, Extent::Sampled).await;
    let size = ["I size public.orders", "I disk"];
    assert_eq!(ids(&findings), [size[0], size[1], "I sampled public.orders"], "{findings:?}");
    let said = &findings[2].message;
    assert!(said.starts_with("sampled 50 of about 1000 rows only: "), "{said}");
    for what in ["mappings", "small", "alone"] {
        assert!(said.contains(what), "{said}");
    }
    assert!(findings[0].message.contains("takes 16 min or more, at 1 rows/s"), "{findings:?}");
    let findings = sampled(&db, &migration, Extent::Full).await;
    let rows = ["B rows public.orders_v2.small", "B rows public.orders_v2.alone"];
    assert_eq!(ids(&findings), [rows[0], rows[1], size[0], size[1]], "{findings:?}");
    assert!(findings[0].message.ends_with("of the source: (1000)"), "{findings:?}");
    assert!(findings[1].message.ends_with("(1) and (1000)"), "{findings:?}");
}

#[tokio::test]
async fn every_index_of_the_shadow_makes_the_backfill_longer() {
    let db = database().await;
    let migration = orders(&db, 1_000).await;
    db.client.batch_execute("ANALYZE orders").await.unwrap();
    for (more, expected) in [
        ("SELECT 1", " (1/4 of what 1000 rows took to be mapped, "),
        ("CREATE INDEX ON orders_v2 (note)", " (1/9 of what 1000 rows took to be mapped, "),
        ("CREATE INDEX ON orders_v2 (customer_id)", " (1/14 of what 1000 rows took to be mapped, "),
    ] {
        db.client.batch_execute(more).await.unwrap();
        let effort = Effort { big_rows: 100, ..Effort::default() };
        let client = db.engine_client().await;
        let findings = check_with(&client, &migration, &effort, &|_| ()).await.unwrap();
        assert_eq!(ids(&findings), ["I size public.orders", "I disk"]);
        assert!(findings[0].message.contains(expected), "{findings:?}");
    }
}

#[tokio::test]
async fn a_row_that_fails_is_found_in_a_sample_and_in_a_full_look() {
    let db = database().await;
    let mut migration = orders(&db, 1_000).await;
    migration.columns[2].1 = "(100 / (total - 777))::bigint".to_owned();
    migration.reverse = vec![(Ident::new("total"), "total_minor::int".to_owned())];
    db.client.batch_execute("ANALYZE orders").await.unwrap();
    db.client
        .batch_execute("ALTER TABLE orders_v2 ADD CONSTRAINT small CHECK (id < 999999)")
        .await
        .unwrap();
    let findings = sampled_without_progress(&db, &migration, Extent::Full).await;
    let failing = findings.iter().find(|f| f.is_blocker()).unwrap();
    assert_eq!(failing.id, "rows public.orders_v2.total_minor");
    assert!(failing.message.contains("(777)"), "{findings:?}");
    assert!(failing.message.ends_with("22012 division by zero"), "{findings:?}");
}

async fn sampled_without_progress(db: &Db, migration: &Migration, extent: Extent) -> Vec<Finding> {
    let effort = Effort { extent, step_rows: 300, ..Effort::default() };
    check_with(&db.engine_client().await, migration, &effort, &|_| ()).await.unwrap()
}

#[tokio::test]
async fn a_look_that_takes_longer_than_three_seconds_is_given_up_and_said() {
    let db = database().await;
    let migration = orders(&db, 3).await;
    db.client
        .batch_execute(
            "CREATE FUNCTION slow(int8) RETURNS bool IMMUTABLE LANGUAGE plpgsql \
                 AS 'BEGIN PERFORM pg_sleep(60); RETURN true; END'; \
             ALTER TABLE orders_v2 ADD CONSTRAINT never CHECK (slow(id)), \
                 ADD CONSTRAINT small CHECK (id < 3)",
        )
        .await
        .unwrap();
    let findings = found(&db, &migration).await;
    assert_eq!(ids(&findings), ["B rows public.orders_v2.small", "I sampled public.orders"]);
    assert_eq!(findings[1].message, "not looked at: never (too slow)");
}

/// The disk has to have room all the same.
#[tokio::test]
async fn the_size_is_said_though_some_row_cannot_be_mapped() {
    let db = database().await;
    let tables = "CREATE TABLE orders (id int PRIMARY KEY, a int); \
                  CREATE TABLE orders_v2 (id int8 PRIMARY KEY, a int); \
                  INSERT INTO orders SELECT i, i FROM generate_series(1, 1000) AS i; ANALYZE";
    db.client.batch_execute(tables).await.unwrap();
    let migration = migration(&[("id", "id"), ("a", "100 / (a - 7)")]);
    let effort = Effort { big_rows: 100, ..Effort::default() };
    let client = db.engine_client().await;
    let findings = check_with(&client, &migration, &effort, &|_| ()).await.unwrap();
    assert!(ids(&findings).contains(&"I disk".to_owned()), "{findings:?}");
    assert!(findings.iter().any(|f| f.is_blocker()), "{findings:?}");
    let size = findings.iter().find(|f| f.message.starts_with("about 1000 rows, ")).unwrap();
    assert!(size.message.ends_with("is seen once the mappings work"), "{size:?}");
}
