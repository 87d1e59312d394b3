//! Roles, policies, settings, and the database around the two tables.

use super::{case, found, ids, remedy};
use crate::engine_support::*;
use pgsegue::engine::check::{Effort, Finding, Severity, check, check_with};
use pgsegue::throwaway::{Options, Postgres};
use std::time::Duration;

#[tokio::test]
async fn roles_that_write_blindly_or_read_the_source_only() {
    let db = database().await;
    let migration = orders(&db, 3).await;
    let [blind, reader] = ["blind %\"x", "Reader.é"].map(|role| format!("{role} "));
    let suffix = db.name().await;
    let quoted = |role: &str| format!("\"{}{suffix}\"", role.replace('"', "\"\""));
    let (blind, reader) = (quoted(&blind), quoted(&reader));
    db.client
        .batch_execute(&format!(
            "CREATE ROLE {blind}; GRANT UPDATE ON orders TO {blind}; CREATE ROLE {reader}; \
             GRANT SELECT ON orders TO {reader}"
        ))
        .await
        .unwrap();
    let findings = found(&db, &migration).await;
    assert_eq!(ids(&findings), ["W privileges public.orders", "W privileges public.orders_v2"]);
    assert!(findings[0].message.contains(&blind) && findings[1].message.contains(&reader));
    remedy(&db, &findings).await;
    assert_eq!(found(&db, &migration).await, []);
    let drop = format!("DROP OWNED BY {blind}, {reader}; DROP ROLE {blind}, {reader}");
    db.client.batch_execute(&drop).await.unwrap();
}

#[tokio::test]
async fn roles_that_write_a_partition_blindly() {
    let db = database().await;
    let migration = migration(&[("id", "id"), ("note", "note")]);
    let name = db.name().await;
    db.client
        .batch_execute(&format!(
            "CREATE TABLE orders (id int PRIMARY KEY, note text) PARTITION BY RANGE (id); \
             CREATE TABLE low PARTITION OF orders FOR VALUES FROM (0) TO (100) PARTITION BY RANGE (id); \
             CREATE TABLE \"Lowest 1\" PARTITION OF low FOR VALUES FROM (0) TO (10); \
             CREATE TABLE orders_v2 (id int8 PRIMARY KEY, note text); \
             CREATE ROLE {name}_of_leaf; GRANT DELETE ON \"Lowest 1\" TO {name}_of_leaf; \
             CREATE ROLE {name}_of_column; GRANT INSERT (note) ON low TO {name}_of_column; \
             CREATE ROLE {name}_sees; GRANT SELECT (id), UPDATE ON low TO {name}_sees"
        ))
        .await
        .unwrap();
    let findings = found(&db, &migration).await;
    let expected =
        ["W privileges public.\"Lowest 1\"", "W privileges public.low", "I child public.orders"];
    assert_eq!(ids(&findings), expected, "{findings:?}");
    assert!(findings[0].message.contains(&format!("{name}_of_leaf")), "{findings:?}");
    assert!(findings[1].message.ends_with(&format!(": {name}_of_column")), "{findings:?}");
    remedy(&db, &findings).await;
    assert_eq!(ids(&found(&db, &migration).await), ["I child public.orders"]);
    let roles = ["of_leaf", "of_column", "sees"].map(|role| format!("{name}_{role}")).join(", ");
    db.client.batch_execute(&format!("DROP OWNED BY {roles}; DROP ROLE {roles}")).await.unwrap();
}

#[tokio::test]
async fn a_reader_needs_the_schema_of_the_shadow_as_well() {
    let db = database().await;
    let mut migration = orders(&db, 3).await;
    migration.shadow = pgsegue::sql::ident::QualifiedName::parse("\"New One\".orders_v2").unwrap();
    let role = format!("{}_reader", db.name().await);
    db.client
        .batch_execute(&format!(
            "CREATE SCHEMA \"New One\"; ALTER TABLE orders_v2 SET SCHEMA \"New One\"; \
             CREATE ROLE {role}; GRANT SELECT ON orders, \"New One\".orders_v2 TO {role}"
        ))
        .await
        .unwrap();
    let findings = found(&db, &migration).await;
    assert_eq!(ids(&findings), ["W privileges \"New One\".orders_v2"]);
    remedy(&db, &findings).await;
    assert_eq!(found(&db, &migration).await, []);
    db.client.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await.unwrap();
}

#[tokio::test]
async fn every_privilege_that_the_control_role_lacks_has_its_grant() {
    let db = database().await;
    let migration = orders(&db, 3).await;
    let name = db.name().await;
    let role = format!("\"{name} control %\"");
    db.client
        .batch_execute(&format!(
            "CREATE SEQUENCE counted; ALTER TABLE orders ALTER id SET DEFAULT nextval('counted'); \
             CREATE ROLE {role} LOGIN; REVOKE USAGE ON SCHEMA public FROM PUBLIC; \
             REVOKE TEMPORARY ON DATABASE {name} FROM PUBLIC"
        ))
        .await
        .unwrap();
    let client = db.engine_client().await;
    client.batch_execute(&format!("SET ROLE {role}")).await.unwrap();
    let findings = check(&client, &migration).await.unwrap();
    let lacking: Vec<String> = [
        "source USAGE",
        "shadow USAGE",
        "source SELECT",
        "source UPDATE",
        "shadow SELECT",
        "shadow INSERT",
        "shadow UPDATE",
        "shadow DELETE",
        "schema",
        "statistics",
    ]
    .iter()
    .map(|what| format!("B control role {what}"))
    .chain(
        ["shadow TRUNCATE", "sequence SELECT", "TEMPORARY"]
            .map(|what| format!("W control role {what}")),
    )
    .chain(["I sampled public.orders".to_owned()])
    .collect();
    assert_eq!(ids(&findings), lacking, "{findings:?}");
    // One after the other: each is found until it is there.
    let (unseen, lacking) = findings.split_last().unwrap();
    assert!(unseen.message.starts_with("neither the mappings nor the rows were looked at"));
    for (done, finding) in lacking.iter().enumerate() {
        db.client.batch_execute(&finding.sql[0]).await.unwrap();
        let found = check(&client, &migration).await.unwrap();
        assert!(found.iter().all(|f| f.id != finding.id), "{done}: {found:?}");
    }
    assert_eq!(check(&client, &migration).await.unwrap(), []);
    let drop = format!("RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}");
    client.batch_execute(&drop).await.unwrap();
}

#[tokio::test]
async fn acceptance_and_the_lock_budget() {
    let db = database().await;
    let mut migration = orders(&db, 3).await;
    migration.lock_budget = Duration::from_secs(1);
    db.client.batch_execute("CREATE VIEW ov AS TABLE orders").await.unwrap();
    let findings = found(&db, &migration).await;
    assert_eq!(ids(&findings), ["B view public.ov", "B lock budget", "I reads public.orders"]);
    assert_eq!(findings[0].config.as_deref(), Some("accepted = [\"view public.ov\"]"));
    assert_eq!(findings[1].config.as_deref(), Some("lock_budget_ms = 100"));
    migration.lock_budget = Duration::from_millis(100);
    migration.accepted = vec!["view public.ov".to_owned(), "view public.gone".to_owned()];
    migration.reverse.clear();
    let findings = found(&db, &migration).await;
    let expected = [
        "W no way back public.orders.total",
        "I view public.ov",
        "I reads public.orders",
        "I accepted view public.gone",
    ];
    assert_eq!(ids(&findings), expected);
    assert!(findings[1].accepted && !findings[2].accepted);
}

#[tokio::test]
async fn a_control_role_that_policies_hide_rows_from_is_refused() {
    let db = database().await;
    let migration = orders(&db, 3).await;
    let database = db.name().await;
    db.client
        .batch_execute(&format!(
            "CREATE ROLE {database}_control LOGIN; \
             GRANT ALL ON orders, orders_v2 TO {database}_control; \
             GRANT pg_read_all_stats TO {database}_control; \
             GRANT CREATE ON DATABASE {database} TO {database}_control; \
             ALTER TABLE orders ENABLE ROW LEVEL SECURITY; \
             ALTER TABLE orders_v2 ENABLE ROW LEVEL SECURITY"
        ))
        .await
        .unwrap();
    let client = db.engine_client().await;
    client.batch_execute(&format!("SET ROLE {database}_control")).await.unwrap();
    let findings = check(&client, &migration).await.unwrap();
    let expected = ["B row security public.orders", "B row security public.orders_v2"];
    assert_eq!(ids(&findings), expected, "{findings:?}");
    db.client.batch_execute(&findings[0].sql[0]).await.unwrap();
    let findings = check(&client, &migration).await.unwrap();
    assert_eq!(findings, [], "{findings:?}");
    let drop =
        format!("RESET ROLE; DROP OWNED BY {database}_control; DROP ROLE {database}_control");
    client.batch_execute(&drop).await.unwrap();
}

#[tokio::test]
async fn policies_that_differ_between_the_two_tables() {
    let source = "ALTER TABLE orders ENABLE ROW LEVEL SECURITY; \
                  CREATE POLICY \"p 1\" ON orders FOR SELECT USING (note IS NOT NULL)";
    // The remedy makes the same policies.
    case(source, &["B policies public.orders_v2"], &[]).await;
    let shadow = "ALTER TABLE orders_v2 ENABLE ROW LEVEL SECURITY";
    case(shadow, &["W policies public.orders_v2"], &[]).await;
    let both = format!("{source}; {shadow}; CREATE POLICY a ON orders_v2 FOR SELECT USING (true)");
    let differ = ["B policies public.orders_v2"];
    case(&both, &differ, &differ).await;
    // A name that is taken is free before it is given.
    for other in [
        "FOR SELECT USING (true)",
        "FOR SELECT USING (note IS NULL)",
        "USING (true)",
        "FOR DELETE USING (true)",
    ] {
        let taken = format!("CREATE POLICY \"p 1\" ON orders_v2 {other}");
        case(&format!("{source}; {shadow}; {taken}"), &differ, &[]).await;
        case(&format!("{source}; {taken}"), &differ, &[]).await;
    }
}

/// Whether a row that policies let a role write may be one that they hide from it.
#[tokio::test]
async fn policies_that_hide_what_they_let_write() {
    let select = "CREATE POLICY s ON orders FOR SELECT USING (note IS NOT NULL)";
    let all = "CREATE POLICY a ON orders USING (note IS NOT NULL)";
    let only = "AS RESTRICTIVE FOR SELECT USING (id > 0)";
    for (hides, policies) in [
        (false, all.to_owned()),
        (
            false,
            format!("{select}; CREATE POLICY i ON orders FOR INSERT WITH CHECK (note IS NOT NULL)"),
        ),
        (false, format!("{select}; CREATE POLICY i ON orders FOR UPDATE USING (note IS NOT NULL)")),
        (false, format!("{all}; CREATE POLICY r ON orders AS RESTRICTIVE USING (id > 0)")),
        (
            false,
            format!("{all}; CREATE POLICY r ON orders AS RESTRICTIVE FOR DELETE USING (id > 0)"),
        ),
        (true, format!("{all}; CREATE POLICY r ON orders {only}")),
        (true, format!("{select}; CREATE POLICY i ON orders FOR INSERT WITH CHECK (true)")),
        (true, format!("{select}; CREATE POLICY d ON orders FOR DELETE USING (true)")),
        (true, "CREATE POLICY a ON orders USING (id > 1) WITH CHECK (id > 0)".to_owned()),
        (
            true,
            format!(
                "{select}; CREATE POLICY u ON orders FOR UPDATE USING (note IS NOT NULL) WITH CHECK (true)"
            ),
        ),
    ] {
        let db = database().await;
        let migration = orders(&db, 3).await;
        let enable = "ALTER TABLE orders ENABLE ROW LEVEL SECURITY";
        db.client.batch_execute(&format!("{enable}; {policies}")).await.unwrap();
        let findings = found(&db, &migration).await;
        let found = ids(&findings).contains(&"W row security public.orders".to_owned());
        assert_eq!(found, hides, "{policies}: {findings:?}");
    }
}

#[tokio::test]
async fn transactions_that_a_start_would_wait_for() {
    let db = database().await;
    let migration = orders(&db, 3).await;
    let (writer, idle) = (db.another().await, db.another().await);
    writer.batch_execute("BEGIN; UPDATE orders SET total = 0 WHERE id = 1").await.unwrap();
    idle.batch_execute("BEGIN; SELECT 1").await.unwrap();
    let prepared = db.another().await;
    let prepare =
        "BEGIN; UPDATE orders SET total = 0 WHERE id = 2; PREPARE TRANSACTION 'it''s \\ %'";
    prepared.batch_execute(prepare).await.unwrap();
    let at_once = Effort { long_transaction: Duration::ZERO, ..Effort::default() };
    let client = db.engine_client().await;
    let findings = check_with(&client, &migration, &at_once, &|_| ()).await.unwrap();
    let seen: Vec<(Severity, &str)> =
        findings.iter().map(|f| (f.severity, f.id.split_once(' ').unwrap().0)).collect();
    let transactions = |severity| (severity, "transactions");
    let expected = [
        transactions(Severity::Warning),
        transactions(Severity::Warning),
        transactions(Severity::Info),
    ];
    assert_eq!(seen, expected, "{findings:?}");
    assert!(findings[0].message.contains("has written the source"), "{findings:?}");
    assert_eq!(findings[1].id, "transactions prepared it's \\ %");
    // None of them is long by the usual measure but the prepared one, whose client may be gone.
    assert_eq!(ids(&found(&db, &migration).await), ["W transactions prepared it's \\ %"]);
    remedy(&db, &findings).await;
    eventually_none(&db, &migration).await;
}

async fn eventually_none(db: &Db, migration: &pgsegue::manifest::Migration) {
    let at_once = Effort { long_transaction: Duration::ZERO, ..Effort::default() };
    let client = db.engine_client().await;
    until("no transaction is open", async || {
        check_with(&client, migration, &at_once, &|_| ()).await.unwrap().is_empty()
    })
    .await;
}

#[tokio::test]
async fn publications_slots_and_subscriptions() {
    let options =
        Options { settings: vec![("wal_level".into(), "logical".into())], ..Options::default() };
    let server = Postgres::start(&options).unwrap();
    let test_db = crate::support::database_on(&server).await;
    let db = Db { conninfo: test_db.conninfo, client: test_db.client };
    let migration = orders(&db, 3).await;
    db.client.batch_execute("CREATE PUBLICATION \"p 1\" FOR TABLE orders").await.unwrap();
    let findings = found(&db, &migration).await;
    assert_eq!(ids(&findings), ["I publication \"p 1\""]);
    assert!(findings[0].message.contains("but not"), "{findings:?}");
    assert!(findings[0].remedy.contains("they get every write twice until"), "{findings:?}");
    remedy(&db, &findings).await;
    let findings = found(&db, &migration).await;
    // What has just been chosen is not found fault with.
    assert!(findings[0].message.contains("twice, once in each"), "{findings:?}");
    assert!(findings[0].remedy.starts_with("nothing, if they have both tables"), "{findings:?}");
    assert!(findings[0].sql.is_empty(), "{findings:?}");
    // Published, and without an identity.
    let change = "ALTER TABLE orders_v2 DROP CONSTRAINT orders_v2_pkey, ADD UNIQUE (id)";
    db.client.batch_execute(change).await.unwrap();
    let findings = found(&db, &migration).await;
    let expected = ["B replica identity public.orders_v2", "I publication \"p 1\""];
    assert_eq!(ids(&findings), expected);
    remedy(&db, &findings[..1]).await;
    assert_eq!(ids(&found(&db, &migration).await), ["I publication \"p 1\""]);
    db.client.batch_execute("DROP PUBLICATION \"p 1\"").await.unwrap();
    let slot = "SELECT pg_create_logical_replication_slot('left_over', 'pgoutput')";
    db.client.execute(slot, &[]).await.unwrap();
    let findings = found(&db, &migration).await;
    assert_eq!(ids(&findings), ["W slot left_over"]);
    remedy(&db, &findings).await;
    assert_eq!(found(&db, &migration).await, []);
    db.client
        .batch_execute(
            "CREATE SUBSCRIPTION sub CONNECTION 'dbname=nowhere' PUBLICATION p WITH (connect = false); \
             INSERT INTO pg_subscription_rel SELECT oid, 'orders'::regclass, 'r' FROM pg_subscription",
        )
        .await
        .unwrap();
    assert_eq!(ids(&found(&db, &migration).await), ["B subscription public.orders"]);
}

#[tokio::test]
async fn the_settings_of_the_connection_are_the_engines_again() {
    let db = database().await;
    let migration = orders(&db, 3).await;
    let client = db.engine_client().await;
    let settings = "SELECT string_agg(name || '=' || setting, ' ' ORDER BY name) FROM pg_settings \
                    WHERE source = 'session' AND name <> 'application_name'";
    let before: String = client.query_one(settings, &[]).await.unwrap().get(0);
    let findings: Vec<Finding> = check(&client, &migration).await.unwrap();
    assert_eq!(findings, []);
    let after: String = client.query_one(settings, &[]).await.unwrap().get(0);
    assert_eq!(after, before);
}

/// A server of its own: what is replicated is seen by everybody on it.
async fn own_server() -> (Postgres, Db) {
    let server = Postgres::start(&Options::default()).unwrap();
    let test_db = crate::support::database_on(&server).await;
    (server, Db { conninfo: test_db.conninfo, client: test_db.client })
}

#[tokio::test]
async fn a_standby_is_refused_and_nothing_else_is_said_of_it() {
    let (server, db) = own_server().await;
    let migration = orders(&db, 3).await;
    assert_eq!(found(&db, &migration).await, []);
    std::fs::write(server.folder().join("data/standby.signal"), "").unwrap();
    server.restart().unwrap();
    let findings = found(&db, &migration).await;
    assert_eq!(ids(&findings), ["B standby"]);
    assert_eq!(findings[0].remedy, "name the primary in [control] and in [server]");
}

#[tokio::test]
async fn who_receives_wal_is_counted() {
    let (server, db) = own_server().await;
    let mut migration = orders(&db, 3).await;
    // As a standby connects; it asks for nothing.
    let mut receiver = std::process::Command::new(server.bin("psql").expect("psql is needed"))
        .args(["-X", "-d", &format!("{} replication=true", server.conninfo("postgres"))])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    db.until("SELECT count(*) = 1 FROM pg_stat_replication").await;
    let findings = found(&db, &migration).await;
    assert_eq!(ids(&findings), ["I replicas"]);
    let said = "1 receivers of WAL are connected, 0 of them decode this database";
    assert_eq!(findings[0].message, said);
    assert_eq!(findings[0].config.as_deref(), Some("backfill_rows_per_second = 20000"));
    migration.backfill_rows_per_second = Some(10);
    db.client.batch_execute("ALTER SYSTEM SET synchronous_standby_names = '*'").await.unwrap();
    db.client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    db.until("SELECT current_setting('synchronous_standby_names') = '*'").await;
    let findings = found(&db, &migration).await;
    let waits = format!("{said}; commits of clients wait for a synchronous one");
    assert_eq!((findings[0].message.as_str(), &findings[0].config), (waits.as_str(), &None));
    receiver.kill().unwrap();
    receiver.wait().unwrap();
}
