//! Rows that do not come back from the shadow as they are in the source: in step, and yet no read
//! may be served.

use super::engine_support::*;
use pgsegue::engine::shape::Shape;
use pgsegue::engine::{Compared, Control, verify};
use pgsegue::manifest::Migration;
use pgsegue::sql::ident::Ident;

const FILL: &str = "SELECT pgsegue.sync_orders_v2(array_agg(id), 3) FROM orders";

/// Why a write of such a row marks.
const LOST: &str = "a row does not come back from the shadow as it is in the source";

/// One chunk over everything.
async fn compare(db: &Db, shape: &Shape) -> Compared {
    let client = db.engine_client().await;
    let (compared, next) = verify::chunk(&client, shape, None, 1_000).await.unwrap();
    assert_eq!(next, None);
    compared
}

/// `orders` with other mappings of some columns, and other ways back.
fn changed(base: &Migration, mapping: &[(&str, &str)], reverse: &[(&str, &str)]) -> Migration {
    let mut migration = base.clone();
    for (name, sql) in mapping {
        let at = migration.columns.iter().position(|(n, _)| n.as_str() == *name).unwrap();
        migration.columns[at].1 = (*sql).to_owned();
    }
    for (name, sql) in reverse {
        migration.reverse.retain(|(n, _)| n.as_str() != *name);
        migration.reverse.push((Ident::new(*name), (*sql).to_owned()));
    }
    migration
}

#[tokio::test]
async fn a_way_back_that_loses_something_is_found_and_no_key_is_dirty() {
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a [(&'a str, &'a str)], &'a str, &'a [&'a str]);
    let cases: &[Case<'_>] = &[
        (&[], &[], "UPDATE orders SET note = ' x ' WHERE id = 3", &[]),
        (&[("note", "btrim(note)")], &[], "", &[]),
        (
            &[("note", "btrim(note)")],
            &[("note", "note")],
            "UPDATE orders SET note = ' x ' WHERE id = 3",
            &["(3) in note"],
        ),
        (
            &[("note", "coalesce(note, '')")],
            &[("note", "note")],
            "UPDATE orders SET note = NULL WHERE id IN (3, 4)",
            &["(3) in note", "(4) in note"],
        ),
        (
            &[("total_minor", "total / 10 * 1000")],
            &[],
            "UPDATE orders SET total = id * 10 WHERE id <> 7",
            &["(7) in total"],
        ),
        (
            &[("total_minor", "total::bigint * 1000000000")],
            &[("total", "total_minor")],
            "UPDATE orders SET total = 0; UPDATE orders SET total = 5 WHERE id = 6",
            &["(6) in total: 22003 integer out of range"],
        ),
        (
            &[],
            &[("total", "1 / (total_minor - 800)")],
            "",
            &["(8) in total: 22012 division by zero"],
        ),
        (
            &[],
            &[("total", "nothing")],
            "",
            &["(1) in total: 42703 column \"nothing\" does not exist"],
        ),
    ];
    for (mapping, reverse, sql, expected) in cases {
        let db = database().await;
        let migration = changed(&orders(&db, 10).await, mapping, reverse);
        db.client.batch_execute(sql).await.unwrap();
        let shape = install(&db, &migration).await;
        db.client.batch_execute(FILL).await.unwrap();
        let mut found = compare(&db, &shape).await;
        found.irreversible_sample.sort_unstable();
        assert_eq!(found.irreversible_sample, *expected, "{mapping:?} {reverse:?} {sql}");
        assert_eq!((found.rows, found.differences()), (10, 0), "{mapping:?}");
        assert_eq!(found.irreversible > 0, !expected.is_empty());
        let marks = match expected {
            [] => Vec::new(),
            _ => vec![(None, LOST.to_owned())],
        };
        assert_eq!(db.dirty().await, marks, "whoever has written them has said so");
    }
}

#[tokio::test]
async fn a_divergence_is_found_though_the_way_back_fails_beside_it() {
    let db = database().await;
    let migration = changed(&orders(&db, 10).await, &[], &[("total", "1 / (total_minor - 800)")]);
    let shape = install(&db, &migration).await;
    db.client.batch_execute(FILL).await.unwrap();
    let sql = "UPDATE orders_v2 SET note = 'other' WHERE id = 2";
    db.client.batch_execute(sql).await.unwrap();
    let found = compare(&db, &shape).await;
    assert_eq!((found.different, found.irreversible), (1, 1), "{found:?}");
    assert_eq!(db.dirty().await.len(), 2, "the mark of the way back, and the key");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lossy_mapping_reaches_ready_and_serves_no_read() {
    let db = database().await;
    let migration =
        changed(&orders(&db, 50).await, &[("note", "upper(note)")], &[("note", "lower(note)")]);
    db.client.batch_execute("UPDATE orders SET note = 'Abc' WHERE id = 31").await.unwrap();
    let running = run(&db, &migration, 100.0).await;
    let control = Control::connect(&db.config()).await.unwrap();
    control.start("orders_v2", "a test").await.unwrap();
    until_phase(&control, "ready").await;
    let seen = status(&control).await;
    let reason = seen.reads_blocked.clone().unwrap();
    assert!(reason.contains("(31) in note") && !reason.contains("30"), "{reason}");
    assert!(seen.dual_write && seen.reads == 0.0 && seen.dark_reads == 0.0, "{seen:?}");
    assert_eq!((seen.dirty_keys, seen.differences_found), (0, 0));
    assert!(!running.is_open() && running.reads() == 0.0);
    assert_in_step(&db, &migration).await;
    let passes = seen.verify_passes;
    until("two more passes", async || status(&control).await.verify_passes > passes + 1).await;
    assert!(!running.is_open(), "a green verify does not open it");
    let fix = mirrored("UPDATE orders SET note = 'abc' WHERE id = 31", 0);
    db.client.batch_execute(&fix).await.unwrap();
    until_open(&running, &control).await;
    until("reads", async || running.reads() == 100.0).await;
    assert_eq!(status(&control).await.reads_blocked, None);
    let events = control.events("orders_v2", 100).await.unwrap();
    let steps: Vec<&str> =
        events.iter().filter(|e| e.what == "reads_blocked").map(|e| e.to.as_str()).collect();
    assert_eq!(steps, ["yes", "no"]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_becomes_irreversible_stops_the_reads_and_the_journal_remembers() {
    let db = database().await;
    let base = orders(&db, 50).await;
    let migration = changed(&base, &[("note", "btrim(note)")], &[("note", "note")]);
    let running = run(&db, &migration, 100.0).await;
    let control = Control::connect(&db.config()).await.unwrap();
    control.start("orders_v2", "a test").await.unwrap();
    until_open(&running, &control).await;
    let spoil = mirrored("UPDATE orders SET note = note || ' ' WHERE id = 17", 0);
    db.client.batch_execute(&spoil).await.unwrap();
    until("closed", async || !running.is_open() && running.reads() == 0.0).await;
    until("on record", async || status(&control).await.reads_blocked.is_some()).await;
    let seen = status(&control).await;
    assert!(seen.reads_blocked.unwrap().contains("(17) in note"));
    assert_eq!(seen.phase.name(), "ready");
    running.stop().await;
    let running = run(&db, &migration, 100.0).await;
    assert!(running.reads() == 0.0);
    let passes = status(&control).await.verify_passes;
    until("another pass", async || status(&control).await.verify_passes > passes).await;
    assert!(!running.is_open() && running.reads() == 0.0);
    let delete = mirrored("DELETE FROM orders WHERE id = 17", 0);
    db.client.batch_execute(&delete).await.unwrap();
    until_open(&running, &control).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_without_a_way_back_says_so() {
    let db = database().await;
    let mut migration = orders(&db, 20).await;
    migration.reverse.clear();
    let running = run(&db, &migration, 100.0).await;
    let control = Control::connect(&db.config()).await.unwrap();
    control.start("orders_v2", "a test").await.unwrap();
    until_phase(&control, "ready").await;
    let reason = status(&control).await.reads_blocked.unwrap();
    assert!(reason.contains("total has no way back"), "{reason}");
    assert!(!running.is_open() && running.reads() == 0.0);
    running.stop().await;
}
