//! Who may do what: an app's role has DML on the source and nothing else, and stays so.

use crate::live::{Live, ORDERS, ORDERS_TABLE, ORDERS_V2, Pair, Raw, orders_toml, outcome, text};
use crate::support::{assert_same, connect, eventually};
use tokio_postgres::Client;

/// A role of its own for each test: roles are shared by all databases of the server.
async fn role(live: &Live, name: &str, grants: &str) -> Client {
    let sql = format!(
        "DROP ROLE IF EXISTS {name}; CREATE ROLE {name} LOGIN; {}",
        grants.replace("ROLE", name)
    );
    live.db.client.batch_execute(&sql).await.unwrap();
    connect(&format!("{} user={name}", live.proxy.conninfo())).await
}

const DML: &str = "GRANT SELECT, INSERT, UPDATE, DELETE ON orders, other TO ROLE";

#[tokio::test]
async fn a_role_with_plain_dml_writes_and_reads_as_before() {
    let live = Live::orders("", "reads = 100").await;
    let app = role(&live, "app_dml", DML).await;
    for sql in [
        "INSERT INTO orders VALUES (11, 1, 1) RETURNING id",
        "UPDATE orders SET total = total + 1 WHERE id = 11",
        "UPDATE orders SET id = 12 WHERE id = 11 RETURNING *",
        "DELETE FROM orders WHERE id = 10",
    ] {
        assert_eq!(outcome(&app, sql).await, Ok(vec![1]), "{sql}");
    }
    assert_eq!(live.dirty().await, []);
    live.orders_in_step().await;
    // No SELECT on the shadow: its reads stay on the source.
    let admin = live.client().await;
    live.until_shadow_serves(&admin, "SELECT total FROM orders WHERE id = 12").await;
    let before = live.shadow_reads();
    for _ in 0..5 {
        assert_eq!(text(&app, "SELECT total FROM orders WHERE id = 12").await, "2");
    }
    assert!((live.shadow_reads() - before).abs() < 0.5);
    let failed = outcome(&app, "SELECT * FROM orders_v2").await.unwrap_err();
    assert_eq!(failed, "42501 permission denied for table orders_v2");
    live.db.client.batch_execute("GRANT SELECT ON orders_v2 TO app_dml").await.unwrap();
    let app = connect(&format!("{} user=app_dml", live.proxy.conninfo())).await;
    live.until_shadow_serves(&app, "SELECT total FROM orders WHERE id = 12").await;
}

#[tokio::test]
async fn a_revoked_privilege_is_refused_with_postgress_own_words() {
    let live = Live::orders("", "reads = 100").await;
    let admin = live.client().await;
    live.until_shadow_serves(&admin, "SELECT total FROM orders WHERE id = 1").await;
    let app = role(&live, "app_revoked", "GRANT SELECT ON orders_v2 TO ROLE").await;
    for sql in [
        "SELECT total FROM orders WHERE id = 1",
        "SELECT count(*) FROM orders",
        "INSERT INTO orders VALUES (12, 1, 1)",
        "UPDATE orders SET total = 1",
        "DELETE FROM orders",
        "TRUNCATE orders",
    ] {
        for _ in 0..3 {
            let failed = outcome(&app, sql).await.unwrap_err();
            assert_eq!(failed, "42501 permission denied for table orders", "{sql}");
        }
    }
}

#[tokio::test]
async fn select_on_the_key_column_alone_is_enough_to_write() {
    let live = Live::orders("", "").await;
    let grants = "GRANT INSERT, UPDATE, DELETE, SELECT (id) ON orders TO ROLE";
    let app = role(&live, "app_key", grants).await;
    for sql in [
        "INSERT INTO orders VALUES (11, 1, 1)",
        "UPDATE orders SET total = 5 WHERE id = 11",
        "UPDATE orders SET id = 12 WHERE id = 11 RETURNING id",
        "DELETE FROM orders WHERE id = 1",
    ] {
        assert_eq!(outcome(&app, sql).await, Ok(vec![1]), "{sql}");
    }
    let failed = outcome(&app, "UPDATE orders SET total = 1 RETURNING total").await.unwrap_err();
    assert_eq!(failed, "42501 permission denied for table orders");
    assert_eq!(live.dirty().await, []);
    live.orders_in_step().await;
}

#[tokio::test]
async fn a_hostile_role_that_calls_the_functions_can_only_bring_the_shadow_in_step() {
    let live = Live::orders("", "").await;
    let app = role(&live, "app_hostile", "GRANT SELECT, UPDATE (note) ON orders TO ROLE").await;
    let direct = connect(&format!("{} user=app_hostile", live.db.conninfo)).await;
    for client in [&app, &direct] {
        for keys in ["'{1,2,3}'", "'{}'", "NULL", "'{99999,NULL,1,1}'", "'{{1,2},{3,4}}'"] {
            for mode in ["0", "1", "2", "3", "-1", "NULL", "2147483647"] {
                for timeout in ["", ", '0'", ", 'nonsense'", ", '1h'", ", NULL"] {
                    let call = format!("SELECT pgsegue.sync_orders_v2({keys}, {mode}{timeout})");
                    client.batch_execute(&call).await.ok();
                    let call = format!("BEGIN; SET LOCAL search_path = pg_temp; {call}; ROLLBACK");
                    if client.batch_execute(&call).await.is_err() {
                        client.batch_execute("ROLLBACK").await.unwrap();
                    }
                }
            }
        }
        for attack in [
            "CREATE TEMP TABLE orders AS SELECT 1 AS id, 666 AS user_id, 666 AS total, ''::text AS note, ''::text AS email",
            "CREATE TEMP TABLE orders_v2 AS SELECT 1 AS id",
            "CREATE TEMP TABLE dirty_keys AS SELECT 1 AS id",
            "SET search_path = pg_temp, public",
            "SELECT pgsegue.sync_orders_v2('{1}', 0)",
            "SELECT pgsegue.mark_orders_v2('x')",
            "SELECT pgsegue.mark_orders_v2(repeat('x', 100000))",
            "SELECT pgsegue.mark_orders_v2(NULL)",
        ] {
            client.batch_execute(attack).await.ok();
        }
        client
            .batch_execute(
                "RESET search_path; DROP TABLE IF EXISTS pg_temp.orders, pg_temp.orders_v2",
            )
            .await
            .ok();
        for refused in [
            "SELECT * FROM pgsegue.dirty_keys",
            "DELETE FROM pgsegue.dirty_keys",
            "INSERT INTO pgsegue.dirty_keys (migration, reason) VALUES ('orders_v2', 'x')",
            "INSERT INTO pgsegue.requests (migration, what, who, why) VALUES ('orders_v2', 'abort', 'x', 'x')",
            "UPDATE pgsegue.migrations SET reads = 100",
            "DELETE FROM pgsegue.events",
            "INSERT INTO orders_v2 VALUES (666, 6, 6, 'EUR')",
            "DELETE FROM orders_v2",
            "CREATE TABLE pgsegue.mine (x int)",
            "CREATE FUNCTION pgsegue.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        ] {
            let failed = outcome(client, refused).await.unwrap_err();
            assert!(failed.starts_with("42501"), "{refused}: {failed}");
        }
    }
    live.orders_in_step().await;
    assert_eq!(text(&live.db.client, "SELECT count(*), sum(total) FROM orders").await, "10 550");
    // A stale row is all that such a call changes: it gets right.
    live.db.client.batch_execute("UPDATE orders_v2 SET note = 'stale' WHERE id = 4").await.unwrap();
    assert_eq!(text(&direct, "SELECT pgsegue.sync_orders_v2('{4}', 0)").await, "0");
    assert_same(&live.db.client, ORDERS_TABLE.mapped, ORDERS_TABLE.shadow).await;
}

#[tokio::test]
async fn row_level_security_of_the_source_holds_and_hides_nothing_from_the_mirror() {
    let policies = "ALTER TABLE orders ENABLE ROW LEVEL SECURITY; \
                    CREATE POLICY mine ON orders USING (user_id = 1)";
    let toml = orders_toml("accepted = [\"policies public.orders_v2\"]", "reads = 100");
    let live = Live::declared(&format!("{ORDERS};{ORDERS_V2};{policies}"), &toml).await;
    live.start("orders_v2");
    let phase = eventually("checked", async || {
        let sql = "SELECT phase ->> 'phase' FROM pgsegue.migrations";
        let phase = text(&live.db.client, sql).await;
        if ["ready", "blocked"].contains(&phase.as_str()) { Ok(phase) } else { Err(phase) }
    })
    .await;
    let app = role(&live, "app_rls", DML).await;
    assert_eq!(text(&app, "SELECT count(*) FROM orders").await, "4");
    assert_eq!(outcome(&app, "UPDATE orders SET total = 1").await, Ok(vec![4]));
    assert_eq!(outcome(&app, "DELETE FROM orders WHERE id < 3 RETURNING id").await, Ok(vec![1]));
    let failed = outcome(&app, "INSERT INTO orders VALUES (50, 2, 1)").await.unwrap_err();
    assert_eq!(failed, "42501 new row violates row-level security policy for table \"orders\"");
    app.batch_execute("GRANT SELECT ON orders TO PUBLIC").await.ok();
    assert_eq!(phase, "ready");
    assert_eq!(live.dirty().await, []);
    live.orders_in_step().await;
    // A shadow without the policies never answers for the source.
    live.db.client.batch_execute("GRANT SELECT ON orders_v2 TO app_rls").await.unwrap();
    let app = connect(&format!("{} user=app_rls", live.proxy.conninfo())).await;
    let admin = live.client().await;
    live.until_shadow_serves(&admin, "SELECT count(*) FROM orders").await;
    for _ in 0..20 {
        assert_eq!(text(&app, "SELECT count(*) FROM orders").await, "3");
    }
}

#[tokio::test]
async fn set_role_and_session_authorization_are_followed() {
    let live = Live::orders("", "reads = 100").await;
    drop(role(&live, "app_setrole", DML).await);
    let mut raw: Raw = live.raw().await;
    let sql = "SELECT total FROM orders WHERE id = 1";
    eventually("the shadow serves", async || {
        let before = live.shadow_reads();
        raw.rows(sql).await;
        if live.shadow_reads() > before { Ok(()) } else { Err(()) }
    })
    .await;
    for (set, reset) in [
        ("SET ROLE app_setrole", "RESET ROLE"),
        ("SET SESSION AUTHORIZATION app_setrole", "RESET SESSION AUTHORIZATION"),
        ("BEGIN; SET LOCAL ROLE app_setrole", "COMMIT"),
        ("SELECT set_config('role', 'app_setrole', false)", "SET ROLE NONE"),
    ] {
        raw.query(set).await;
        let before = live.shadow_reads();
        assert_eq!(raw.rows(sql).await.concat(), [Some("10".to_owned())], "{set}");
        assert_eq!(raw.query("UPDATE orders SET note = 'x' WHERE id = 2").await[0], "C UPDATE 1");
        assert!((live.shadow_reads() - before).abs() < 0.5, "{set}");
        raw.query(reset).await;
    }
    live.orders_in_step().await;
}

/// What a role may write without reading it.
const BLIND: [&str; 12] = [
    "INSERT INTO orders VALUES (11, 1, 1)",
    "INSERT INTO orders (id, user_id) VALUES (12, 1), (13, 1) ON CONFLICT DO NOTHING",
    "INSERT INTO public.orders VALUES (11, 1, 1)",
    "UPDATE orders SET total = 7",
    "UPDATE public.orders SET note = 'all'",
    "UPDATE orders SET total = 1 WHERE id = 3",
    "UPDATE orders SET total = 1 RETURNING id",
    "WITH i AS (INSERT INTO orders VALUES (14, 1, 1)) SELECT 1 AS one",
    "WITH i AS (INSERT INTO orders VALUES (15, 1, 1) RETURNING 1) SELECT * FROM i",
    "INSERT INTO orders VALUES (16, 1, 1) RETURNING 1 AS one",
    "DELETE FROM orders",
    "INSERT INTO orders VALUES (17, 1, 1)",
];

/// A session of each side in this role, which lives in the whole server.
async fn pair_in_role(live: &Live, role: &str, grants: &str) -> Pair {
    let mut pair = Pair::new(live, ORDERS).await;
    live.db
        .client
        .batch_execute(&format!("DROP ROLE IF EXISTS {role}; CREATE ROLE {role}"))
        .await
        .unwrap();
    pair.elsewhere(live, &grants.replace("ROLE", role)).await;
    pair.simple(&format!("SET ROLE {role}")).await;
    pair
}

/// Waits until the engine knows that the role does not see what it writes here.
async fn until_taken(pair: &mut Pair) {
    eventually("the role is known", async || {
        pair.live.query("BEGIN").await;
        let said = pair.live.query("INSERT INTO orders VALUES (90, 2, 1)").await;
        pair.live.query("ROLLBACK").await;
        if said[0] == "C INSERT 0 1" { Ok(()) } else { Err(said) }
    })
    .await;
}

#[tokio::test]
async fn a_role_that_may_not_read_the_key_writes_as_without_the_proxy_and_is_marked() {
    let live = Live::orders("", "").await;
    let grants = "GRANT INSERT, UPDATE, DELETE ON orders TO ROLE";
    let mut pair = pair_in_role(&live, "app_blind", grants).await;
    let marked = || live.statements("recorded", "write");
    // Until the engine has seen the GRANT the server refuses what returns the key.
    until_taken(&mut pair).await;
    let before = marked();
    for sql in BLIND {
        pair.every_way(sql).await;
    }
    assert!(marked() >= before + 40.0, "{before} {}", marked());
    pair.elsewhere(&live, "GRANT SELECT (id) ON orders TO app_blind").await;
    eventually("the grant is known", async || {
        let before = live.statements("mirrored", "write");
        pair.simple("INSERT INTO orders VALUES (18, 1, 1) ON CONFLICT DO NOTHING").await;
        if live.statements("mirrored", "write") > before { Ok(()) } else { Err(()) }
    })
    .await;
    let before = marked();
    for sql in BLIND {
        pair.every_way(sql).await;
    }
    assert!(marked() < before + 0.5);
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn a_row_that_policies_hide_from_its_writer_is_written_as_without_the_proxy() {
    let live = Live::orders("accepted = [\"policies public.orders_v2\"]", "").await;
    let policies = "ALTER TABLE orders ENABLE ROW LEVEL SECURITY; \
                    CREATE POLICY sees ON orders FOR SELECT USING (user_id = 1); \
                    CREATE POLICY adds ON orders FOR INSERT WITH CHECK (true); \
                    CREATE POLICY changes ON orders FOR UPDATE USING (true); \
                    CREATE POLICY removes ON orders FOR DELETE USING (id > 3); \
                    GRANT SELECT, INSERT, UPDATE, DELETE ON orders TO ROLE";
    let mut pair = pair_in_role(&live, "app_hidden", policies).await;
    live.until_clean("orders_v2").await;
    let marked = || live.statements("recorded", "write");
    until_taken(&mut pair).await;
    let before = marked();
    for sql in [
        "INSERT INTO orders VALUES (21, 2, 1)",
        "INSERT INTO orders VALUES (22, 1, 1)",
        "INSERT INTO public.orders VALUES (23, 2, 1) RETURNING id",
        "INSERT INTO orders VALUES (24, 1, 1) RETURNING id",
        "UPDATE orders SET total = total + 1",
        "UPDATE orders SET total = 5",
        "UPDATE orders SET user_id = 2 WHERE id = 22",
        "UPDATE orders SET total = 6 RETURNING id",
        // With a constant alone the server asks for no right to see the rows.
        "UPDATE orders SET total = 7 RETURNING 1 AS total",
        "WITH u AS (UPDATE orders SET total = 8 RETURNING 'x', 2 * 3) SELECT count(*) FROM u",
        "UPDATE orders SET total = 7 RETURNING 1::int id",
        "UPDATE orders SET total = 7 RETURNING null note, (SELECT note FROM other LIMIT 1)",
        "INSERT INTO orders VALUES (26, 2, 1) RETURNING 'x'::text note",
        "UPDATE orders AS o SET total = 9 RETURNING o.note",
        "UPDATE orders AS o SET total = 10 RETURNING o",
        "UPDATE orders SET total = 11 FROM (VALUES (1)) AS v (note) RETURNING v.note",
        "DELETE FROM orders WHERE id = 5",
        "DELETE FROM orders",
    ] {
        pair.every_way(sql).await;
    }
    assert!(marked() >= before + 20.0, "{before} {}", marked());
    pair.simple("RESET ROLE").await;
    let before = marked();
    pair.every_way("INSERT INTO orders VALUES (25, 2, 1) ON CONFLICT DO NOTHING").await;
    assert!(marked() < before + 0.5);
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

/// What the engine's look at privileges has to be there for: until it has, sessions go by what they know.
#[tokio::test]
async fn reads_follow_what_is_granted_and_revoked_on_either_table() {
    let live = Live::orders("", "reads = 100").await;
    let app =
        role(&live, "app_regrant", &format!("{DML}; GRANT SELECT ON orders_v2 TO ROLE")).await;
    let sql = "SELECT total FROM orders WHERE id = 2";
    live.until_shadow_serves(&app, sql).await;
    let until_denied = async || {
        eventually("the privileges are known", async || match outcome(&app, sql).await {
            Err(said) if said == "42501 permission denied for table orders" => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    };
    let change = async |sql: &str| live.db.client.batch_execute(sql).await.unwrap();
    change("REVOKE SELECT ON orders FROM app_regrant").await;
    until_denied().await;
    // The other columns are not to be had from the shadow, either.
    change("GRANT SELECT (id) ON orders TO app_regrant").await;
    until_denied().await;
    assert_eq!(outcome(&app, "SELECT id FROM orders WHERE id = 2").await, Ok(vec![1]));
    change("GRANT SELECT ON orders TO app_regrant").await;
    live.until_shadow_serves(&app, sql).await;
    change("REVOKE SELECT ON orders_v2 FROM app_regrant").await;
    live.until_source_serves(&app, sql).await;
    for _ in 0..5 {
        app.batch_execute("BEGIN").await.unwrap();
        assert_eq!(outcome(&app, sql).await, Ok(vec![1]));
        app.batch_execute("COMMIT").await.unwrap();
    }
    change("GRANT SELECT ON orders_v2 TO app_regrant; ALTER ROLE app_regrant SUPERUSER").await;
    live.until_shadow_serves(&app, sql).await;
}

/// The form on the shadow fails where the source's does, and is not what the client sees of it: by whichever
/// frame it comes, whatever the share.
#[tokio::test]
async fn a_read_that_policies_refuse_says_so_of_the_source() {
    use crate::live::raw::{bind, describe, execute, parse, query, sync};
    let secured = |table: &str, column: &str| {
        format!(
            "ALTER TABLE {table} ENABLE ROW LEVEL SECURITY; \
             CREATE POLICY mine ON {table} USING ({column} = 1)"
        )
    };
    let ddl = [secured("orders", "user_id"), secured("orders_v2", "customer_id")].join("; ");
    let toml = orders_toml(
        "accepted = [\"policies public.orders_v2\"]",
        "reads = 50\nsticky = \"statement\"",
    );
    let live = Live::ready(&format!("{ORDERS};{ORDERS_V2};{ddl}"), &toml, &["orders_v2"]).await;
    drop(role(&live, "app_refused", &format!("{DML}; GRANT SELECT ON orders_v2 TO ROLE")).await);
    let mut session = Raw::connect(live.proxy.port, "app_refused", &live.db.name).await;
    let mut direct = Raw::connect(live.db.port, "app_refused", &live.db.name).await;
    let sql = "SELECT total FROM orders WHERE id = 4";
    let warm = connect(&format!("{} user=app_refused", live.proxy.conninfo())).await;
    live.until_shadow_serves(&warm, sql).await;
    for raw in [&mut session, &mut direct] {
        raw.query("SET row_security = off").await;
    }
    let forms = [
        query(sql),
        [parse("", sql, &[]), sync()].concat(),
        [
            parse("", sql, &[]),
            describe(b'S', ""),
            bind("", "", 0, &[], 1),
            describe(b'P', ""),
            execute("", 0),
            sync(),
        ]
        .concat(),
    ];
    for _ in 0..12 {
        for form in &forms {
            assert_eq!(session.exchange(form, 1).await, direct.exchange(form, 1).await);
        }
    }
}
