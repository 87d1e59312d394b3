//! What the catalog alone says.

use super::{case, found, ids};
use crate::engine_support::*;

#[tokio::test]
async fn tables_without_hazards_have_no_finding() {
    let db = database().await;
    let migration = orders(&db, 10).await;
    assert_eq!(found(&db, &migration).await, []);
}

#[tokio::test]
async fn tables_that_are_not_there_or_not_tables() {
    let gone = ["B table public.orders_v2"];
    case("DROP TABLE orders_v2", &gone, &gone).await;
    let view = ["B table public.orders"];
    case("DROP TABLE orders; CREATE VIEW orders AS SELECT 1 AS id", &view, &view).await;
    case(
        "DROP TABLE orders_v2; CREATE UNLOGGED TABLE orders_v2 (id int8 PRIMARY KEY, \
          customer_id int4 NOT NULL, total_minor int8 NOT NULL, currency text NOT NULL, note text)",
        &["B unlogged public.orders_v2"],
        &[],
    )
    .await;
}

#[tokio::test]
async fn keys_that_cannot_be_keys() {
    case("ALTER TABLE orders DROP CONSTRAINT orders_pkey", &["B unique public.orders"], &[]).await;
    case(
        "ALTER TABLE orders DROP CONSTRAINT orders_pkey; ALTER TABLE orders ALTER id DROP NOT NULL; \
         CREATE UNIQUE INDEX ON orders (id)",
        &["B key public.orders.id"],
        &[],
    )
    .await;
    let shadow = "ALTER TABLE orders_v2 DROP CONSTRAINT orders_v2_pkey";
    let without = ["B unique public.orders_v2"];
    case(shadow, &without, &[]).await;
    case(&format!("{shadow}; CREATE INDEX ON orders_v2 (id)"), &without, &[]).await;
    case(&format!("{shadow}; CREATE UNIQUE INDEX ON orders_v2 (id) WHERE id > 0"), &without, &[])
        .await;
    case(&format!("{shadow}; CREATE UNIQUE INDEX ON orders_v2 ((id + 0))"), &without, &[]).await;
    case(&format!("{shadow}; CREATE UNIQUE INDEX ON orders_v2 (id, note)"), &without, &[]).await;
    let invalid = "CREATE UNIQUE INDEX spoilt ON orders_v2 (id); \
                   UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'spoilt'::regclass";
    case(&format!("{shadow}; {invalid}"), &without, &[]).await;
    case(
        &format!("{shadow}; ALTER TABLE orders_v2 ADD CONSTRAINT late UNIQUE (id) DEFERRABLE"),
        &["B constraint public.orders_v2.late", "B unique public.orders_v2"],
        &[],
    )
    .await;
}

#[tokio::test]
async fn keys_that_several_rows_have_are_counted() {
    let db = database().await;
    let migration = orders(&db, 3).await;
    let several = "ALTER TABLE orders_v2 DROP CONSTRAINT orders_v2_pkey; \
                   INSERT INTO orders_v2 SELECT i % 4, 1, 1, 'USD' FROM generate_series(1, 10) i";
    db.client.batch_execute(several).await.unwrap();
    let findings = found(&db, &migration).await;
    assert_eq!(ids(&findings), ["B unique public.orders_v2"]);
    let message = "public.orders_v2 has no unique index over exactly (id); several rows have one key: 4 \
                   times, such as (0)";
    assert_eq!(findings[0].message, message);
    assert!(findings[0].remedy.starts_with("delete all but one of these rows"), "{findings:?}");
    super::remedy(&db, &findings).await;
    assert_eq!(found(&db, &migration).await, []);
    let several = "ALTER TABLE orders DROP CONSTRAINT orders_pkey; INSERT INTO orders TABLE orders";
    db.client.batch_execute(several).await.unwrap();
    let findings = found(&db, &migration).await;
    assert_eq!(findings[0].id, "unique public.orders");
    assert!(findings[0].message.ends_with(": 3 times, such as (1)"), "{findings:?}");
    // Which of them are wrong is not known.
    assert!(findings[0].sql.is_empty(), "{findings:?}");
    let remedy = "give these rows other keys or delete them, then create one: ";
    assert!(findings[0].remedy.starts_with(remedy), "{findings:?}");
}

#[tokio::test]
async fn what_is_nearly_a_unique_index_is_named_and_so_is_another_key() {
    let db = database().await;
    let migration = orders(&db, 3).await;
    db.client
        .batch_execute(
            "ALTER TABLE orders DROP CONSTRAINT orders_pkey; CREATE UNIQUE INDEX part ON orders (id) \
             WHERE id > 0; CREATE UNIQUE INDEX other ON orders (user_id, total)",
        )
        .await
        .unwrap();
    let findings = found(&db, &migration).await;
    assert_eq!(ids(&findings), ["B unique public.orders"]);
    let message = "public.orders has no unique index over exactly (id) (public.part is partial)";
    assert_eq!(findings[0].message, message);
    assert_eq!(findings[0].config.as_deref(), Some("key = [\"user_id\", \"total\"]"));
}

#[tokio::test]
async fn a_composite_key_needs_an_index_in_its_order() {
    let db = database().await;
    let mut migration = migration(&[("a", "a"), ("b", "b")]);
    migration.key = ["a", "b"].map(pgsegue::sql::ident::Ident::new).to_vec();
    db.client
        .batch_execute(
            "CREATE TABLE orders (a int, b int, PRIMARY KEY (b, a)); \
             CREATE TABLE orders_v2 (a int, b int, PRIMARY KEY (a, b))",
        )
        .await
        .unwrap();
    let findings = found(&db, &migration).await;
    assert_eq!(ids(&findings), ["W key order public.orders"]);
    super::remedy(&db, &findings).await;
    assert_eq!(found(&db, &migration).await, []);
}

#[tokio::test]
async fn rows_without_a_key_are_counted() {
    let db = database().await;
    let migration = orders(&db, 5).await;
    db.client
        .batch_execute(
            "ALTER TABLE orders DROP CONSTRAINT orders_pkey; ALTER TABLE orders ALTER id DROP NOT NULL; \
             CREATE UNIQUE INDEX ON orders (id); UPDATE orders SET id = NULL WHERE id > 3",
        )
        .await
        .unwrap();
    let findings = found(&db, &migration).await;
    assert_eq!(ids(&findings)[0], "B key public.orders.id");
    let message = "the key column id of the source may be null; it is null in 2 rows";
    assert_eq!(findings[0].message, message);
    // SET NOT NULL would fail.
    assert!(findings[0].sql.is_empty() && findings[0].remedy.starts_with("give these rows a key"));
}

#[tokio::test]
async fn a_key_that_the_shadow_holds_otherwise_is_told_what_differs() {
    for (source, shadow, mapping, expected) in [
        (
            "text",
            "text COLLATE \"C\"",
            "id",
            "the shadow column id holds the key column id with another collation (pg_catalog.\"C\" instead \
             of pg_catalog.\"default\"), so its values are in another order; declare it text COLLATE \
             pg_catalog.\"default\"",
        ),
        (
            "char(5)",
            "text",
            "id",
            "the shadow column id holds the key column id as text, which tells values apart by trailing \
             blanks, as character(5) does not; give both the same type",
        ),
        (
            "int8",
            "int4",
            "id",
            "the mapping id of the shadow column id does not keep every value of the key column id (bigint \
             into integer) in its order; map it as it is or into a wider type (such as id or id::bigint)",
        ),
        (
            "numeric(10,2)",
            "numeric(10,2)",
            "id::numeric(10,1)",
            "the mapping id::numeric(10,1) of the shadow column id does not keep every value of the key \
             column id (numeric(10,2) into numeric(10,2)) in its order; map it as it is or into a wider \
             type (such as id or id::bigint)",
        ),
        (
            "int4",
            "int4",
            "id + 1",
            "no shadow column of orders_v2 holds the key column id as it is or in a wider type (such as id \
             or id::bigint); map one",
        ),
    ] {
        let db = database().await;
        let migration = migration(&[("id", mapping)]);
        db.client
            .batch_execute(&format!(
                "CREATE TABLE orders (id {source} PRIMARY KEY); CREATE TABLE orders_v2 (id {shadow} PRIMARY KEY)"
            ))
            .await
            .unwrap();
        let findings = found(&db, &migration).await;
        assert_eq!(ids(&findings), ["B declaration orders_v2"], "{findings:?}");
        assert_eq!(findings[0].message, expected);
    }
    let db = database().await;
    let migration = migration(&[("id", "id::numeric(10, 2)")]);
    let same = "CREATE TABLE orders (id numeric(10,2) PRIMARY KEY); \
                CREATE TABLE orders_v2 (id numeric(10,2) PRIMARY KEY)";
    db.client.batch_execute(same).await.unwrap();
    assert_eq!(found(&db, &migration).await, []);
}

#[tokio::test]
async fn a_key_of_a_domain_is_to_become_one_of_its_type() {
    for (types, table, said) in [
        (["number", "int"], "orders", "the key column id is of the domain public.number,"),
        (["number", "int8"], "orders", "the key column id is of the domain public.number,"),
        (["int", "number"], "orders_v2", "the shadow column id is of the domain public.number,"),
    ] {
        let db = database().await;
        let migration = migration(&[("id", "id")]);
        let tables = format!(
            "CREATE DOMAIN number AS int; CREATE TABLE orders (id {} PRIMARY KEY); \
             CREATE TABLE orders_v2 (id {} PRIMARY KEY)",
            types[0], types[1]
        );
        db.client.batch_execute(&tables).await.unwrap();
        let findings = found(&db, &migration).await;
        assert_eq!(ids(&findings), ["B declaration orders_v2"], "{findings:?}");
        let alter = format!("ALTER TABLE \"public\".\"{table}\" ALTER COLUMN \"id\" TYPE integer");
        let message = &findings[0].message;
        assert!(message.starts_with(said) && message.contains(&alter), "{message}");
        db.client.batch_execute(&alter).await.unwrap();
        assert_eq!(found(&db, &migration).await, []);
    }
}

#[tokio::test]
async fn key_types_that_are_compared_as_something_else() {
    let db = database().await;
    let migration = migration(&[("id", "id")]);
    db.client
        .batch_execute(
            "CREATE DOMAIN public.number AS int; CREATE TABLE orders (id public.number PRIMARY KEY); \
             CREATE TABLE orders_v2 (id public.number PRIMARY KEY)",
        )
        .await
        .unwrap();
    assert_eq!(ids(&found(&db, &migration).await), ["B key type public.number"]);
}

#[tokio::test]
async fn columns_that_nothing_fills_that_cannot_be_filled_or_that_nothing_decides() {
    let extra = ["I extra column public.orders_v2.x"];
    case("ALTER TABLE orders_v2 ADD x int NOT NULL", &["B column public.orders_v2.x"], &extra)
        .await;
    case("ALTER TABLE orders_v2 ADD x int DEFAULT 1", &extra, &extra).await;
    case("ALTER TABLE orders_v2 ADD x int GENERATED ALWAYS AS (1) STORED", &[], &[]).await;
    let missing = ["B column public.orders_v2.note"];
    case("ALTER TABLE orders_v2 DROP note", &missing, &missing).await;
    let missing = ["B column public.orders.id"];
    case("ALTER TABLE orders RENAME id TO number", &missing, &missing).await;
    case(
        "ALTER TABLE orders_v2 DROP note, ADD note text GENERATED ALWAYS AS ('x') STORED",
        &["B column public.orders_v2.note"],
        &["B column public.orders_v2.note"],
    )
    .await;
    case(
        "ALTER TABLE orders_v2 ALTER total_minor ADD GENERATED ALWAYS AS IDENTITY",
        &["B column public.orders_v2.total_minor"],
        &[],
    )
    .await;
    let none = ["W no way back public.orders.extra"];
    case("ALTER TABLE orders ADD extra int", &none, &none).await;
}

#[tokio::test]
async fn mappings_that_fail_or_give_another_result_each_time() {
    let db = database().await;
    let base = orders(&db, 3).await;
    for bad in
        ["nothing", "note || now()::text", "random()::text", "max(note)", "note +", "(SELECT 'x')"]
    {
        let mut migration = base.clone();
        migration.columns[4].1 = bad.to_owned();
        let findings: Vec<_> = found(&db, &migration).await;
        let blockers: Vec<_> =
            findings.iter().filter(|f| f.is_blocker()).map(|f| f.id.as_str()).collect();
        assert_eq!(blockers, ["mapping public.orders_v2.note"], "{bad}");
    }
    for bad in ["id % 10", "-id", "id::text::int", "total"] {
        let mut migration = base.clone();
        migration.columns[0].1 = bad.to_owned();
        assert_eq!(ids(&found(&db, &migration).await), ["B declaration orders_v2"], "{bad}");
    }
    for (column, bad) in [("total", "total_minor +"), ("total", "nothing"), ("nothing", "id")] {
        let mut migration = base.clone();
        migration.reverse = vec![(pgsegue::sql::ident::Ident::new(column), bad.to_owned())];
        let id = format!("reverse public.orders.{column}");
        assert!(found(&db, &migration).await.iter().any(|f| f.is_blocker() && f.id == id), "{bad}");
    }
}

#[tokio::test]
async fn a_parameter_in_an_expression_is_no_failure_of_the_check() {
    let db = database().await;
    let base = orders(&db, 3).await;
    for bad in ["$1", "note || $1", "coalesce($1::text, note)"] {
        let mut migration = base.clone();
        migration.columns[4].1 = bad.to_owned();
        let findings = found(&db, &migration).await;
        assert_eq!(findings[0].id, "mapping public.orders_v2.note", "{bad}: {findings:?}");
        assert!(findings[0].is_blocker(), "{bad}: {findings:?}");
        assert_eq!(findings[0].message, "the mapping of note has a parameter, such as $1");
        let remedy = "a parameter is not SQL over the source's columns: write the value itself";
        assert_eq!(findings[0].remedy, remedy);
        let mut migration = base.clone();
        migration.reverse = vec![(pgsegue::sql::ident::Ident::new("note"), bad.to_owned())];
        let findings = found(&db, &migration).await;
        assert_eq!(ids(&findings)[0], "B reverse public.orders.note", "{bad}: {findings:?}");
        assert_eq!(findings[0].message, "the way back for note has a parameter, such as $1");
    }
    let mut migration = base;
    migration.columns[4].1 = "note || '$1' || $$2$$".to_owned();
    let way = (pgsegue::sql::ident::Ident::new("note"), "left(note, -3)".to_owned());
    migration.reverse.push(way);
    assert_eq!(found(&db, &migration).await, []);
}

#[tokio::test]
async fn triggers_by_what_their_functions_do() {
    let trigger = |when: &str, body: &str| {
        format!(
            "CREATE TABLE audit (at timestamptz); CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql \
             AS $f$BEGIN {body}; RETURN NEW; END$f$; \
             CREATE TRIGGER t {when} UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION f()"
        )
    };
    let (blocker, warning, info) = (
        ["B trigger public.orders.t"],
        ["W trigger public.orders.t"],
        ["I trigger public.orders.t"],
    );
    let writes = "UPDATE orders SET note = 'x' WHERE id = NEW.id + 1";
    for (when, body, expected, left) in [
        ("AFTER", writes, blocker.as_slice(), [].as_slice()),
        // It says NEW.id, so it may change it.
        ("BEFORE", writes, &["B trigger public.orders.t", "I trigger public.orders"], &[]),
        ("AFTER", "EXECUTE 'UP' || 'DATE ord' || 'ers'", &blocker, &[]),
        ("AFTER", "DELETE FROM orders_v2", &blocker, &[]),
        ("AFTER", "INSERT INTO audit VALUES (now())", &warning, &warning),
        ("BEFORE", "INSERT INTO audit VALUES (now())", &[], &[]),
        ("AFTER", "PERFORM 1", &info, &info),
        ("AFTER", "NULL", &[], &[]),
    ] {
        case(&trigger(when, body), expected, left).await;
    }
    let sync = "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'";
    let on_shadow = ["B trigger public.orders_v2.t"];
    let before = "CREATE TRIGGER t BEFORE INSERT ON orders_v2 FOR EACH ROW EXECUTE FUNCTION f()";
    case(&format!("{sync}; {before}"), &on_shadow, &[]).await;
    let late = "CREATE CONSTRAINT TRIGGER t AFTER INSERT ON orders_v2 DEFERRABLE INITIALLY DEFERRED \
                FOR EACH ROW EXECUTE FUNCTION f()";
    case(&format!("{sync}; {late}"), &on_shadow, &[]).await;
    let after = "CREATE TRIGGER t AFTER INSERT ON orders_v2 FOR EACH ROW EXECUTE FUNCTION f()";
    case(&format!("{sync}; {after}"), &["W trigger public.orders_v2.t"], &[]).await;
    // Clients' sessions are no replicas.
    let enabled = |how: &str| format!("{sync}; {before}; ALTER TABLE orders_v2 {how} TRIGGER t");
    let elsewhere = ["I trigger public.orders_v2.t"];
    case(&enabled("ENABLE REPLICA"), &elsewhere, &elsewhere).await;
    case(&enabled("ENABLE ALWAYS"), &on_shadow, &[]).await;
    case(&enabled("DISABLE"), &[], &[]).await;
}

#[tokio::test]
async fn foreign_keys_that_cascade_on_either_side() {
    for action in
        ["ON DELETE CASCADE", "ON DELETE SET NULL", "ON UPDATE CASCADE", "ON DELETE SET DEFAULT"]
    {
        let sql = format!(
            "CREATE TABLE users (id int4 PRIMARY KEY); INSERT INTO users SELECT generate_series(0, 9); \
             ALTER TABLE orders ADD CONSTRAINT fk FOREIGN KEY (user_id) REFERENCES users {action}"
        );
        case(&sql, &["B foreign key public.orders.fk"], &[]).await;
    }
    let itself = "ADD CONSTRAINT fk FOREIGN KEY";
    let source = format!("ALTER TABLE orders {itself} (user_id) REFERENCES orders");
    case(&source, &[], &[]).await;
    case(&format!("{source} ON DELETE CASCADE"), &["B foreign key public.orders.fk"], &[]).await;
    let shadow = format!("ALTER TABLE orders_v2 {itself} (customer_id) REFERENCES orders_v2");
    case(&shadow, &["W foreign key public.orders_v2.fk"], &[]).await;
    let items = "CREATE TABLE items (o int8 REFERENCES orders_v2";
    let id = "foreign key public.items.items_o_fkey";
    case(&format!("{items} ON DELETE CASCADE)"), &[&format!("B {id}")], &[]).await;
    case(&format!("{items})"), &[&format!("W {id}")], &[]).await;
    let late = ["B constraint public.items.items_o_fkey", &format!("W {id}")];
    case(&format!("{items} DEFERRABLE)"), &late, &[]).await;
}

#[tokio::test]
async fn rows_that_would_refer_to_no_row_of_the_shadow_itself() {
    let db = database().await;
    let migration = orders(&db, 3).await;
    db.client
        .batch_execute(
            "ALTER TABLE orders_v2 ADD CONSTRAINT fk FOREIGN KEY (customer_id) REFERENCES orders_v2; \
             UPDATE orders SET user_id = 77 WHERE id = 2",
        )
        .await
        .unwrap();
    let findings = found(&db, &migration).await;
    let expected = ["B rows public.orders_v2.fk", "W foreign key public.orders_v2.fk"];
    assert_eq!(ids(&findings), expected, "{findings:?}");
    assert!(findings[0].message.ends_with("refuses rows of the source: (2)"), "{findings:?}");
    // One statement for both: the second would fail.
    assert!(findings[0].sql.len() == 1 && findings[1].sql.is_empty(), "{findings:?}");
    let remedy = "; the statement is that of: rows public.orders_v2.fk";
    assert!(findings[1].remedy.ends_with(remedy), "{findings:?}");
    super::remedy(&db, &findings).await;
    assert_eq!(found(&db, &migration).await, []);
}

#[tokio::test]
async fn a_mapping_over_many_rows_is_told_from_one_that_changes() {
    let db = database().await;
    let mut migration = orders(&db, 3).await;
    for (mapping, expected) in [
        (
            "max(note)",
            "is not worked out from one row: 42803 aggregate functions are not allowed in WHERE",
        ),
        (
            "lag(note) OVER ()",
            "is not worked out from one row: 42P20 window functions are not allowed in WHERE",
        ),
        (
            "note || random()",
            "may give another result each time: 42P17 generation expression is not immutable",
        ),
        ("note::mood", "does not work: 42704 type \"mood\" does not exist"),
    ] {
        migration.columns[4].1 = mapping.to_owned();
        let findings = found(&db, &migration).await;
        assert_eq!(findings[0].message, format!("the mapping of note {expected}"), "{findings:?}");
    }
}

#[tokio::test]
async fn rules_and_deferrable_constraints() {
    let source = "CREATE RULE r AS ON DELETE TO orders DO INSTEAD NOTHING";
    case(source, &["B rule public.orders.r"], &[]).await;
    let elsewhere =
        "CREATE RULE r AS ON DELETE TO other DO ALSO DELETE FROM orders WHERE id = old.id";
    case(&format!("CREATE TABLE other (id int); {elsewhere}"), &["W rule public.other.r"], &[])
        .await;
    let shadow = "CREATE RULE r AS ON INSERT TO orders_v2 DO INSTEAD NOTHING";
    case(shadow, &["B rule public.orders_v2.r"], &[]).await;
    for when in ["DEFERRABLE", "DEFERRABLE INITIALLY DEFERRED"] {
        let sql = format!("ALTER TABLE orders_v2 ADD CONSTRAINT u UNIQUE (note) {when}");
        case(&sql, &["B constraint public.orders_v2.u"], &[]).await;
    }
}

#[tokio::test]
async fn views_and_functions_that_write_and_those_that_read() {
    let reads = "I reads public.orders";
    let view = ["B view public.ov", reads];
    case("CREATE VIEW ov AS SELECT * FROM orders", &view, &view).await;
    let two = ["B view public.ov", "B view public.ow", reads];
    case("CREATE VIEW ov AS SELECT * FROM orders; CREATE VIEW ow AS TABLE ov", &two, &two).await;
    case("CREATE VIEW ov AS SELECT count(*) FROM orders", &[reads], &[reads]).await;
    case("CREATE MATERIALIZED VIEW ov AS SELECT count(*) FROM orders", &[reads], &[reads]).await;
    let function = |kind: &str, body: &str| {
        format!("CREATE FUNCTION touch() RETURNS bigint {kind} LANGUAGE sql AS '{body}'")
    };
    let write = function("", "UPDATE orders SET total = 0; SELECT 1::bigint");
    let writes = ["B function public.touch()"];
    case(&write, &writes, &writes).await;
    let shadow = function("", "UPDATE orders_v2 SET note = NULL; SELECT 1::bigint");
    let only = ["W function public.touch()"];
    case(&shadow, &only, &only).await;
    case(&function("", "SELECT count(*) FROM orders"), &[reads], &[reads]).await;
    case(&function("STABLE", "SELECT count(*) FROM orders"), &[reads], &[reads]).await;
    case(&function("", "SELECT count(*) AS my_orders FROM pg_class"), &[], &[]).await;
    let atomic = "CREATE FUNCTION touch(i int) RETURNS void LANGUAGE sql \
                  BEGIN ATOMIC UPDATE orders SET total = 0 WHERE id = i; END";
    let writes = ["B function public.touch(integer)"];
    case(atomic, &writes, &writes).await;
    let procedure =
        "CREATE PROCEDURE touch() LANGUAGE plpgsql AS 'BEGIN EXECUTE $$x orders$$; END'";
    let writes = ["B function public.touch()"];
    case(procedure, &writes, &writes).await;
}

#[tokio::test]
async fn a_function_that_only_mentions_the_table_is_no_finding() {
    let function = |body: &str| {
        format!(
            "CREATE SCHEMA other; CREATE TABLE other.orders (id int); CREATE TABLE log (t text); \
             CREATE FUNCTION touch() RETURNS void LANGUAGE plpgsql AS $f$BEGIN {body}; END$f$"
        )
    };
    for body in [
        "-- no orders here\n INSERT INTO log VALUES ('x')",
        "/* nor orders */ DELETE FROM log",
        "INSERT INTO log VALUES ('orders')",
        "RAISE NOTICE 'update of orders'; DELETE FROM log",
        "UPDATE other.orders SET id = 1",
        "UPDATE \"other\" . \"orders\" SET id = 1",
    ] {
        case(&function(body), &[], &[]).await;
    }
    let writes = ["B function public.touch()"];
    for body in [
        "UPDATE public.orders SET total = 0",
        "SET LOCAL search_path = other; UPDATE orders SET id = 1",
        "EXECUTE 'UPDATE ord' || 'ers SET total = 0 -- orders'",
        "INSERT INTO log VALUES ('x'); PERFORM query_to_xml('DELETE FROM orders', true, true, '')",
        "UPDATE other.orders SET id = 1; DELETE FROM orders",
    ] {
        case(&function(body), &writes, &writes).await;
    }
}

#[tokio::test]
async fn a_trigger_function_counts_where_a_trigger_calls_it() {
    let function = "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql \
                    AS 'BEGIN UPDATE orders SET total = 0; RETURN NULL; END'; CREATE TABLE log (id int)";
    case(function, &[], &[]).await;
    let on_log = format!(
        "{function}; CREATE TRIGGER t AFTER INSERT ON log FOR EACH ROW EXECUTE FUNCTION f()"
    );
    let writes = ["B function public.f()"];
    case(&on_log, &writes, &writes).await;
    case(&format!("{on_log}; ALTER TABLE log DISABLE TRIGGER t"), &[], &[]).await;
}

#[tokio::test]
async fn partitions_children_and_parents() {
    let child = "CREATE TABLE old () INHERITS (orders)";
    case(child, &["W child public.old"], &[]).await;
    let parent = "CREATE TABLE base (id int4 NOT NULL); ALTER TABLE orders INHERIT base";
    case(parent, &["B parent public.base"], &["B parent public.base"]).await;
}

#[tokio::test]
async fn a_partitioned_source_is_looked_at_with_its_partitions() {
    let db = database().await;
    let migration = migration(&[("id", "id"), ("note", "note")]);
    let role = format!("{}_writer", db.name().await);
    db.client
        .batch_execute(
            "CREATE TABLE orders (id int PRIMARY KEY, note text) PARTITION BY RANGE (id); \
             CREATE TABLE low PARTITION OF orders FOR VALUES FROM (0) TO (100); \
             CREATE TABLE high PARTITION OF orders FOR VALUES FROM (100) TO (200); \
             INSERT INTO orders SELECT i, 'x' FROM generate_series(0, 199) i; \
             CREATE TABLE orders_v2 (id int8 PRIMARY KEY, note text) PARTITION BY RANGE (id); \
             CREATE TABLE v2_low PARTITION OF orders_v2 FOR VALUES FROM (0) TO (150)",
        )
        .await
        .unwrap();
    let findings = found(&db, &migration).await;
    assert_eq!(ids(&findings), ["B rows public.orders_v2.partitions", "I child public.orders"]);
    assert!(findings[0].message.contains("(150), (151)"), "{findings:?}");
    super::remedy(&db, &findings).await;
    assert_eq!(ids(&found(&db, &migration).await), ["I child public.orders"]);
    // Hazards on a partition alone.
    db.client
        .batch_execute(&format!(
            "CREATE ROLE {role}; GRANT SELECT, UPDATE ON low, orders TO {role}; \
             GRANT SELECT ON orders_v2 TO {role}; \
             CREATE RULE r AS ON DELETE TO high DO INSTEAD NOTHING; \
             CREATE TABLE users (id int PRIMARY KEY); INSERT INTO users SELECT generate_series(0, 99); \
             ALTER TABLE low ADD CONSTRAINT fk FOREIGN KEY (id) REFERENCES users ON DELETE CASCADE"
        ))
        .await
        .unwrap();
    let findings = found(&db, &migration).await;
    let expected = ["B foreign key public.low.fk", "B rule public.high.r", "I child public.orders"];
    assert_eq!(ids(&findings), expected, "{findings:?}");
    super::remedy(&db, &findings).await;
    assert_eq!(ids(&found(&db, &migration).await), ["I child public.orders"]);
    db.client.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await.unwrap();
}

#[tokio::test]
async fn two_migrations_of_one_source_are_looked_at_each_by_itself() {
    let db = database().await;
    let first = orders(&db, 10).await;
    install(&db, &first).await;
    let second = pgsegue::manifest::Migration {
        name: "orders_v3".to_owned(),
        shadow: pgsegue::sql::ident::QualifiedName::parse("public.orders_v3").unwrap(),
        ..first.clone()
    };
    let like =
        "CREATE TABLE orders_v3 (LIKE orders_v2 INCLUDING ALL); ALTER TABLE orders_v3 ADD x int";
    db.client.batch_execute(like).await.unwrap();
    assert_eq!(found(&db, &first).await, []);
    assert_eq!(ids(&found(&db, &second).await), ["I extra column public.orders_v3.x"]);
}
