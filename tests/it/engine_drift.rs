//! Definitions that are changed beside the proxy, while everybody writes.

use super::engine_support::*;
use pgsegue::engine::{Control, Phase};
use pgsegue::manifest::Migration;
use pgsegue::sql::ident::Ident;

async fn open(db: &Db) -> (Migration, Running, Control) {
    let mut migration = orders(db, 200).await;
    migration.reverse.push((Ident::new("note"), "note".to_owned()));
    let running = run(db, &migration, 100.0).await;
    let control = Control::connect(&db.config()).await.unwrap();
    control.start("orders_v2", "a test").await.unwrap();
    until_open(&running, &control).await;
    (migration, running, control)
}

/// One mirrored write; the client must never see an error.
async fn write_one(db: &Db) {
    let sql = mirrored("UPDATE orders SET total = total + 1 WHERE id = 5", 0);
    db.client.batch_execute(&sql).await.unwrap();
}

async fn until_closed(running: &Running) {
    until("no reads", async || !running.is_open() && running.reads() == 0.0).await;
}

/// Another process, once its gate has opened: not before one more verify has passed.
async fn opened_by_a_verify(
    db: &Db,
    migration: &Migration,
    (control, passes): (&Control, u64),
) -> Running {
    let running = run(db, migration, 100.0).await;
    until("the gate opens", async || {
        let open = running.is_open();
        assert!(!open || status(control).await.verify_passes > passes, "not verified");
        open
    })
    .await;
    running
}

async fn blocked_reason(control: &Control) -> String {
    until_phase(control, "blocked").await;
    match status(control).await.phase {
        Phase::Blocked { reason, .. } => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wider_column_on_both_sides_is_followed_and_verified_again() {
    let db = database().await;
    let (migration, running, control) = open(&db).await;
    let (passes, before) = (status(&control).await.verify_passes, running.routes.load());
    let sql = "ALTER TABLE orders ALTER note TYPE varchar(100); \
               ALTER TABLE orders_v2 ALTER note TYPE varchar(100)";
    db.client.batch_execute(sql).await.unwrap();
    until_closed(&running).await;
    until_open(&running, &control).await;
    until("reads", async || running.reads() == 100.0).await;
    assert!(status(&control).await.verify_passes > passes);
    let after = running.routes.load();
    assert!(after.generation > before.generation);
    let old_shape = after.routes[0].target.old_shape.as_ref().unwrap();
    assert_eq!(old_shape[3].type_sql, "character varying(100)");
    write_one(&db).await;
    assert_eq!(db.dirty().await, []);
    assert_in_step(&db, &migration).await;
    let events = control.events("orders_v2", 100).await.unwrap();
    let why = "a table's definition has changed; everything is verified again";
    assert!(events.iter().any(|e| e.what == "phase" && e.why == why));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_column_of_the_source_leaves_writes_alone_and_blocks_reads() {
    let db = database().await;
    let (migration, running, control) = open(&db).await;
    db.client.batch_execute("ALTER TABLE orders ADD extra text").await.unwrap();
    until_closed(&running).await;
    until("the reason", async || status(&control).await.reads_blocked.is_some()).await;
    let reason = status(&control).await.reads_blocked.unwrap();
    assert!(reason.contains("extra has no way back"), "{reason}");
    until_phase(&control, "ready").await;
    assert!(!running.is_open() && running.reads() == 0.0);
    write_one(&db).await;
    assert_eq!(db.dirty().await, []);
    assert_in_step(&db, &migration).await;
    db.client.batch_execute("ALTER TABLE orders DROP extra").await.unwrap();
    until("reads", async || running.is_open() && running.reads() == 100.0).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_shadow_blocks_and_a_new_one_is_filled_again() {
    let db = database().await;
    let (migration, running, control) = open(&db).await;
    let new = "CREATE TABLE orders_v2 (id int8 PRIMARY KEY, customer_id int4 NOT NULL, \
               total_minor int8 NOT NULL, currency text NOT NULL, note text)";
    db.client.batch_execute("DROP TABLE orders_v2").await.unwrap();
    write_one(&db).await;
    until_closed(&running).await;
    let reason = blocked_reason(&control).await;
    assert!(reason.contains("does not exist; create it, then resume"), "{reason}");
    assert_ne!(running.mirror(), pgsegue::routing::Mirror::Off);
    write_one(&db).await;
    assert!(!db.dirty().await.is_empty(), "recorded");
    db.client.batch_execute(new).await.unwrap();
    control.resume("orders_v2", "a test").await.unwrap();
    until_open(&running, &control).await;
    write_one(&db).await;
    until("nothing dirty", async || db.dirty().await.is_empty()).await;
    assert_in_step(&db, &migration).await;
    let copied =
        db.count("SELECT count(*) FROM pgsegue.events WHERE value_after = 'backfill'").await;
    assert_eq!(copied, 2);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_any_more_blocks_with_a_reason_and_resume_verifies_again() {
    let cases = [
        (
            "ALTER TABLE orders_v2 RENAME note TO remark",
            "ALTER TABLE orders_v2 RENAME remark TO note",
            "has no column note",
        ),
        (
            "ALTER TABLE orders_v2 ADD more text NOT NULL DEFAULT ''; \
             ALTER TABLE orders_v2 ALTER more DROP DEFAULT",
            "ALTER TABLE orders_v2 DROP more",
            "column public.orders_v2.more",
        ),
        (
            "ALTER TABLE orders_v2 DROP CONSTRAINT orders_v2_pkey",
            "ALTER TABLE orders_v2 ADD PRIMARY KEY (id)",
            "unique public.orders_v2",
        ),
        (
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN EXECUTE $$SELECT 1$$; RETURN NULL; END'; \
             CREATE TRIGGER audit AFTER UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION f()",
            "DROP TRIGGER audit ON orders",
            "trigger public.orders.audit",
        ),
        // Policies of one side: its reads would show other rows than the other's.
        (
            "ALTER TABLE orders ENABLE ROW LEVEL SECURITY; ALTER TABLE orders_v2 ENABLE ROW LEVEL SECURITY; \
             CREATE POLICY few ON orders FOR SELECT USING (user_id = 1)",
            "DROP POLICY few ON orders",
            "policies public.orders_v2",
        ),
        // Rows that refer to the shadow would go with its rows.
        (
            "CREATE TABLE child (id int8 REFERENCES orders_v2 ON DELETE CASCADE)",
            "DROP TABLE child",
            "foreign key public.child",
        ),
    ];
    let db = database().await;
    let (migration, running, control) = open(&db).await;
    for (change, undo, expected) in cases {
        let passes = status(&control).await.verify_passes;
        db.client.batch_execute(change).await.unwrap();
        until_closed(&running).await;
        let reason = blocked_reason(&control).await;
        assert!(reason.contains(expected), "{change}: {reason}");
        write_one(&db).await;
        db.client.batch_execute(undo).await.unwrap();
        control.resume("orders_v2", "a test").await.unwrap();
        until_open(&running, &control).await;
        assert!(status(&control).await.verify_passes > passes, "{change}");
        write_one(&db).await;
        until("nothing dirty", async || db.dirty().await.is_empty()).await;
        assert_in_step(&db, &migration).await;
    }
    running.stop().await;
}

/// What a partition of the shadow gets of its own is noticed as on the shadow itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_put_on_a_partition_of_the_shadow_blocks_until_it_is_gone() {
    let db = database().await;
    let mut migration = orders(&db, 200).await;
    migration.reverse.push((Ident::new("note"), "note".to_owned()));
    db.client
        .batch_execute(
            "ALTER TABLE orders_v2 RENAME TO part; \
             CREATE TABLE orders_v2 (LIKE part, PRIMARY KEY (id)) PARTITION BY RANGE (id); \
             ALTER TABLE orders_v2 ATTACH PARTITION part DEFAULT; \
             CREATE TABLE users (id int4 PRIMARY KEY); INSERT INTO users SELECT generate_series(0, 99)",
        )
        .await
        .unwrap();
    let running = run(&db, &migration, 100.0).await;
    let control = Control::connect(&db.config()).await.unwrap();
    control.start("orders_v2", "a test").await.unwrap();
    until_open(&running, &control).await;
    for (change, undo, expected) in [
        (
            "ALTER TABLE part ADD CONSTRAINT c FOREIGN KEY (customer_id) REFERENCES users \
             DEFERRABLE INITIALLY DEFERRED",
            "ALTER TABLE part DROP CONSTRAINT c",
            "constraint public.part.c",
        ),
        (
            "ALTER TABLE part ADD CONSTRAINT c UNIQUE (note) DEFERRABLE INITIALLY DEFERRED",
            "ALTER TABLE part DROP CONSTRAINT c",
            "constraint public.part.c",
        ),
        (
            "CREATE TABLE child (id int8 REFERENCES part (id) ON DELETE CASCADE)",
            "DROP TABLE child",
            "foreign key public.child",
        ),
        (
            "CREATE RULE r AS ON INSERT TO part DO INSTEAD NOTHING",
            "DROP RULE r ON part",
            "rule public.part.r",
        ),
    ] {
        db.client.batch_execute(change).await.unwrap();
        until_closed(&running).await;
        let reason = blocked_reason(&control).await;
        assert!(reason.contains(expected), "{change}: {reason}");
        db.client.batch_execute(undo).await.unwrap();
        control.resume("orders_v2", "a test").await.unwrap();
        until_open(&running, &control).await;
        write_one(&db).await;
        until("nothing dirty", async || db.dirty().await.is_empty()).await;
        assert_in_step(&db, &migration).await;
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_made_while_the_proxy_was_down_is_noticed_before_a_read() {
    let db = database().await;
    let (migration, running, control) = open(&db).await;
    running.stop().await;
    let passes = status(&control).await.verify_passes;
    let sql = "ALTER TABLE orders_v2 ALTER currency TYPE varchar(10)";
    db.client.batch_execute(sql).await.unwrap();
    let running = opened_by_a_verify(&db, &migration, (&control, passes)).await;
    running.stop().await;
}

/// What each function of the migration is, and what it runs, but for the numbers of the tables.
const FUNCTIONS: &str = "SELECT string_agg(proname || ' ' || \
     md5(regexp_replace(prosrc, ' IN .[0-9, ]+.', '', 'g')), ', ' ORDER BY proname) FROM pg_proc \
     WHERE pronamespace = 'pgsegue'::regnamespace AND proname LIKE '%orders_v2'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_functions_of_another_version_are_replaced_and_everything_is_verified_again() {
    let db = database().await;
    let (migration, running, control) = open(&db).await;
    running.stop().await;
    let passes = status(&control).await.verify_passes;
    let ours: String = db.client.query_one(FUNCTIONS, &[]).await.unwrap().get(0);
    // That version did something else, and had the tables' definition alone in the fingerprint.
    let older = "UPDATE pgsegue.migrations SET fingerprint = regexp_replace(fingerprint, '[.][0-9]+ ', ' '); \
                 DO $$ BEGIN EXECUTE replace(pg_get_functiondef('pgsegue.sync_orders_v2'::regproc), 'BEGIN', \
                     'BEGIN PERFORM 1;'); END $$";
    db.client.batch_execute(older).await.unwrap();
    assert_ne!(db.client.query_one(FUNCTIONS, &[]).await.unwrap().get::<_, String>(0), ours);
    let running = opened_by_a_verify(&db, &migration, (&control, passes)).await;
    assert_eq!(db.client.query_one(FUNCTIONS, &[]).await.unwrap().get::<_, String>(0), ours);
    running.stop().await;
}

/// Whoever changes what these functions do raises `install::FUNCTIONS`, and writes here what they are then:
/// else a migration that is under way keeps those of the version before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn functions_that_do_something_else_have_another_number() {
    let db = database().await;
    let (_, running, _) = open(&db).await;
    running.stop().await;
    let numbered = "SELECT substring(fingerprint FROM '[.]([0-9]+) ') FROM pgsegue.migrations";
    let number: String = db.client.query_one(numbered, &[]).await.unwrap().get(0);
    let ours: String = db.client.query_one(FUNCTIONS, &[]).await.unwrap().get(0);
    let of_each = "after_copy_orders_v2 9acdf5a05faa2af8a8398bd55acd9304, \
                   before_copy_orders_v2 fde871d55cd3eaf421b534533e91f1e8, \
                   follow_orders_v2 aa04d818bb936c1982de0eca4067316b, \
                   hold_orders_v2 cba9e5f5ec054eea95db97196c4ca8f1, \
                   mark_orders_v2 e24911876e13987858448af20e0e24fb, \
                   release_orders_v2 e76df58c28d4ca65d459acd32204529a, \
                   sync_orders_v2 210af7af511f4c6b579ca667dc3c7176, \
                   truncated_orders_v2 1f40237df6907ccd497467a9e49c5845, \
                   whole_orders_v2 127521704c4b3102eb8286bb71563903";
    assert_eq!((number.as_str(), ours.as_str()), ("5", of_each));
}

/// A policy that changes on one of two tables that had the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_altered_on_the_source_alone_blocks_before_the_shadow_shows_what_it_hides() {
    let db = database().await;
    let secured = |table: &str, column: &str| {
        format!(
            "ALTER TABLE {table} ENABLE ROW LEVEL SECURITY; \
             CREATE POLICY shown ON {table} FOR SELECT USING ({column} IS NOT NULL)"
        )
    };
    let (_, running, control) = open(&db).await;
    let both = [secured("orders", "note"), secured("orders_v2", "note")].join("; ");
    db.client.batch_execute(&both).await.unwrap();
    until_closed(&running).await;
    until_open(&running, &control).await;
    db.client.batch_execute("ALTER POLICY shown ON orders USING (note = 'x')").await.unwrap();
    until_closed(&running).await;
    let reason = blocked_reason(&control).await;
    assert!(reason.contains("policies public.orders_v2"), "{reason}");
    db.client.batch_execute("ALTER POLICY shown ON orders_v2 USING (note = 'x')").await.unwrap();
    control.resume("orders_v2", "a test").await.unwrap();
    until_open(&running, &control).await;
    running.stop().await;
}

/// What a prepared transaction has recorded is seen by nobody until it is committed, in whatever session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gate_stays_closed_while_a_prepared_transaction_has_dirty_keys() {
    let db = database().await;
    let (migration, running, control) = open(&db).await;
    let id = format!("dirty of {}", db.name().await);
    let write = mirrored("UPDATE orders SET total = total + 1 WHERE id = 5", 2);
    db.client.batch_execute(&format!("BEGIN; {write}; PREPARE TRANSACTION '{id}'")).await.unwrap();
    assert_eq!(db.dirty().await, [], "not committed");
    until("the gate closes", async || !running.is_open()).await;
    // A look at the privileges is followed by a poll of the gates: two of them, and one was whole.
    for grant in ["GRANT SELECT ON orders TO PUBLIC", "REVOKE SELECT ON orders FROM PUBLIC"] {
        let before = running.routes.load().generation;
        db.client.batch_execute(grant).await.unwrap();
        until("the look", async || running.routes.load().generation > before).await;
        assert!(!running.is_open(), "{grant}");
    }
    db.client.batch_execute(&format!("COMMIT PREPARED '{id}'")).await.unwrap();
    until_open(&running, &control).await;
    assert_eq!(db.dirty().await, []);
    assert_in_step(&db, &migration).await;
    running.stop().await;
}
