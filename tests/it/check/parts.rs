//! Partitions and inheritance children of either table: what is found on a table is found on them.

use super::{found, ids, remedy};
use crate::engine_support::*;
use pgsegue::manifest::Migration;

/// `orders(id, a, b)` with twenty rows, and a shadow with two partitions: `low` has the first ten.
async fn partitioned_shadow(db: &Db) -> Migration {
    db.client
        .batch_execute(
            "CREATE TABLE orders (id int PRIMARY KEY, a int, b text); \
             CREATE TABLE orders_v2 (id int8 PRIMARY KEY, a int, b text) PARTITION BY RANGE (id); \
             CREATE TABLE low PARTITION OF orders_v2 FOR VALUES FROM (0) TO (11); \
             CREATE TABLE high PARTITION OF orders_v2 FOR VALUES FROM (11) TO (1000); \
             CREATE TABLE p (id int PRIMARY KEY); INSERT INTO p SELECT generate_series(0, 10); \
             INSERT INTO orders SELECT i, i % 10, 'b' || i FROM generate_series(1, 20) i",
        )
        .await
        .unwrap();
    migration(&[("id", "id"), ("a", "a"), ("b", "b")])
}

/// The same with a source in partitions and a shadow in one piece.
async fn partitioned_source(db: &Db) -> Migration {
    db.client
        .batch_execute(
            "CREATE TABLE orders (id int PRIMARY KEY, a int, b text) PARTITION BY RANGE (id); \
             CREATE TABLE low PARTITION OF orders FOR VALUES FROM (0) TO (11); \
             CREATE TABLE high PARTITION OF orders FOR VALUES FROM (11) TO (1000); \
             CREATE TABLE orders_v2 (id int8 PRIMARY KEY, a int, b text); \
             CREATE TABLE log (at timestamptz); \
             INSERT INTO orders SELECT i, i % 10, 'b' || i FROM generate_series(1, 20) i",
        )
        .await
        .unwrap();
    migration(&[("id", "id"), ("a", "a"), ("b", "b")])
}

/// With this done, exactly `expected` is found beside `always`; with all remedies run, `left`.
async fn case(db: &Db, migration: &Migration, sql: &str, (expected, left): (&[&str], &[&str])) {
    db.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let findings = found(db, migration).await;
    assert_eq!(ids(&findings), expected, "{sql}: {findings:?}");
    remedy(db, &findings).await;
    let findings = found(db, migration).await;
    assert_eq!(ids(&findings), left, "after the remedies of {sql}: {findings:?}");
}

#[tokio::test]
async fn deferrable_constraints_of_a_partition_of_the_shadow_are_blockers() {
    for (sql, expected) in [
        (
            "ALTER TABLE low ADD CONSTRAINT c FOREIGN KEY (a) REFERENCES p DEFERRABLE INITIALLY DEFERRED",
            &["B constraint public.low.c"][..],
        ),
        (
            "ALTER TABLE low ADD CONSTRAINT c UNIQUE (b) DEFERRABLE INITIALLY DEFERRED",
            &["B constraint public.low.c"],
        ),
        (
            "CREATE TABLE other (o int8, CONSTRAINT c FOREIGN KEY (o) REFERENCES low (id) DEFERRABLE)",
            &["B constraint public.other.c", "W foreign key public.other.c"],
        ),
        // Of the whole: found once.
        (
            "ALTER TABLE orders_v2 ADD CONSTRAINT c FOREIGN KEY (a) REFERENCES p DEFERRABLE",
            &["B constraint public.orders_v2.c"],
        ),
    ] {
        let db = database().await;
        let migration = partitioned_shadow(&db).await;
        assert_eq!(found(&db, &migration).await, []);
        case(&db, &migration, sql, (expected, &[])).await;
    }
}

#[tokio::test]
async fn rows_that_a_partition_of_the_shadow_refuses() {
    for (sql, expected, keys) in [
        ("ALTER TABLE low ADD CONSTRAINT c CHECK (a < 9)", "c", ": (9)"),
        (
            "ALTER TABLE low ALTER b SET NOT NULL; UPDATE orders SET b = NULL",
            "NOT NULL b",
            "(1), (2), (3), (4), (5)",
        ),
        (
            "CREATE UNIQUE INDEX c ON high (b); UPDATE orders SET b = 'x' WHERE id IN (1, 12, 13)",
            "c",
            ": (12) and (13)",
        ),
        (
            "ALTER TABLE low ADD CONSTRAINT c UNIQUE (a); UPDATE orders SET a = 1 WHERE id IN (1, 2)",
            "c",
            "(1) and (2)",
        ),
        (
            "DELETE FROM p WHERE id = 3; ALTER TABLE high ADD CONSTRAINT c FOREIGN KEY (a) REFERENCES p",
            "c",
            ": (13)",
        ),
        (
            "ALTER TABLE low ADD CONSTRAINT c EXCLUDE (a WITH =); UPDATE orders SET a = 1 WHERE id IN (1, 2, 11)",
            "c",
            "(1) and (2)",
        ),
    ] {
        let db = database().await;
        let migration = partitioned_shadow(&db).await;
        db.client.batch_execute(sql).await.unwrap();
        let findings = found(&db, &migration).await;
        let leaf = if sql.contains(" high ") { "high" } else { "low" };
        assert_eq!(ids(&findings), [format!("B rows public.{leaf}.{expected}")], "{findings:?}");
        let refuses = format!("the shadow's {expected} of public.{leaf} refuses");
        let message = &findings[0].message;
        assert!(message.starts_with(&refuses) && message.ends_with(keys), "{message}");
        remedy(&db, &findings).await;
        assert_eq!(found(&db, &migration).await, []);
    }
}

#[tokio::test]
async fn rows_that_every_partition_takes_are_no_finding() {
    let db = database().await;
    let migration = partitioned_shadow(&db).await;
    db.client
        .batch_execute(
            "ALTER TABLE low ADD CHECK (id < 11); ALTER TABLE orders_v2 ADD CHECK (a < 10); \
             CREATE UNIQUE INDEX ON orders_v2 (b, id); CREATE UNIQUE INDEX ON low (a); \
             CREATE UNIQUE INDEX ON high (a); ALTER TABLE high ALTER b SET NOT NULL; \
             UPDATE orders SET b = NULL WHERE id < 11; \
             ALTER TABLE low ADD FOREIGN KEY (a) REFERENCES p",
        )
        .await
        .unwrap();
    assert_eq!(found(&db, &migration).await, []);
}

#[tokio::test]
async fn a_column_that_only_a_partition_of_the_shadow_forbids_to_be_null() {
    let db = database().await;
    let migration = partitioned_shadow(&db).await;
    let sql = "ALTER TABLE orders_v2 ADD x int; ALTER TABLE low ALTER x SET NOT NULL";
    let extra = "I extra column public.orders_v2.x";
    case(&db, &migration, sql, (&["B column public.low.x", extra], &[extra])).await;
}

#[tokio::test]
async fn tables_that_follow_the_deletes_of_a_partition_of_the_shadow() {
    let db = database().await;
    let migration = partitioned_shadow(&db).await;
    let follows = "CREATE TABLE other (o int8 REFERENCES low (id) ON DELETE CASCADE)";
    let expected = ["B foreign key public.other.other_o_fkey"];
    case(&db, &migration, follows, (&expected, &[])).await;
}

#[tokio::test]
async fn rules_and_triggers_of_a_partition_of_the_shadow() {
    let db = database().await;
    let migration = partitioned_shadow(&db).await;
    let rule = "CREATE RULE r AS ON INSERT TO low DO INSTEAD NOTHING";
    case(&db, &migration, rule, (&["B rule public.low.r"], &[])).await;
    let trigger = "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; \
                   CREATE TRIGGER t BEFORE INSERT ON low FOR EACH ROW EXECUTE FUNCTION f()";
    case(&db, &migration, trigger, (&["B trigger public.low.t"], &[])).await;
}

#[tokio::test]
async fn what_writes_a_partition_of_the_source_by_its_own_name() {
    let child = "I child public.orders";
    let reads = "I reads public.orders";
    for (sql, expected, left) in [
        (
            "CREATE VIEW v AS SELECT * FROM low",
            &["B view public.v", reads, child][..],
            &["B view public.v", reads, child][..],
        ),
        (
            "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'UPDATE low SET a = 1'",
            &["B function public.f()", child],
            &["B function public.f()", child],
        ),
        (
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN UPDATE low SET a = 1; RETURN NULL; END'; \
             CREATE TRIGGER t AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION f()",
            &["B trigger public.orders.t", child],
            &[child],
        ),
        (
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN DELETE FROM low; RETURN NULL; END'; \
             CREATE TRIGGER t AFTER INSERT ON log FOR EACH ROW EXECUTE FUNCTION f()",
            &["B function public.f()", child],
            &["B function public.f()", child],
        ),
        ("ALTER TABLE low SET UNLOGGED", &["B unlogged public.low", child], &[child]),
    ] {
        let db = database().await;
        let migration = partitioned_source(&db).await;
        assert_eq!(ids(&found(&db, &migration).await), [child]);
        case(&db, &migration, sql, (expected, left)).await;
    }
}

#[tokio::test]
async fn row_security_of_a_partition_of_the_source_is_said() {
    let db = database().await;
    let migration = partitioned_source(&db).await;
    db.client
        .batch_execute(
            "ALTER TABLE low ENABLE ROW LEVEL SECURITY; \
             CREATE POLICY few ON low FOR SELECT USING (a = 1)",
        )
        .await
        .unwrap();
    let findings = found(&db, &migration).await;
    assert_eq!(ids(&findings), ["W policies public.low", "I child public.orders"], "{findings:?}");
}

#[tokio::test]
async fn an_unlogged_source_is_a_blocker() {
    let db = database().await;
    let migration = orders(&db, 3).await;
    let sql = "ALTER TABLE orders SET UNLOGGED";
    case(&db, &migration, sql, (&["B unlogged public.orders"], &[])).await;
}

#[tokio::test]
async fn what_inherits_from_the_shadow_and_what_it_is_a_part_of() {
    let db = database().await;
    let migration = orders(&db, 3).await;
    let child = "CREATE TABLE old () INHERITS (orders_v2); CREATE TABLE older () INHERITS (old)";
    let expected = ["B child public.old", "B child public.older"];
    case(&db, &migration, child, (&expected, &[])).await;
    let parent = "CREATE TABLE base (id int8 NOT NULL); ALTER TABLE orders_v2 INHERIT base";
    case(&db, &migration, parent, (&["B parent public.base"], &[])).await;
    let partition = "CREATE TABLE whole (LIKE orders_v2) PARTITION BY RANGE (id); \
                     ALTER TABLE whole ATTACH PARTITION orders_v2 FOR VALUES FROM (0) TO (3)";
    let expected = ["B parent public.whole", "B rows public.orders_v2.partitions"];
    case(&db, &migration, partition, (&expected, &[])).await;
}
