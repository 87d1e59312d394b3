//! Writes by the name of a partition are writes on the source; partitions come and go.

use super::marked::OWN_MARKS;
use crate::live::raw::{bind, execute, parse, sync};
use crate::live::{Live, Pair, Table, outcome, text};
use crate::support::{assert_same, eventually};
use tokio_postgres::Client;

const DDL: &str = "
    CREATE SCHEMA parts;
    CREATE TABLE orders (id int PRIMARY KEY, total int NOT NULL DEFAULT 7, note text)
        PARTITION BY RANGE (id);
    CREATE TABLE orders_a PARTITION OF orders FOR VALUES FROM (0) TO (100);
    CREATE TABLE parts.orders_b (note text, gone int, total int NOT NULL, id int NOT NULL)
        PARTITION BY RANGE (id);
    ALTER TABLE parts.orders_b DROP COLUMN gone;
    CREATE TABLE parts.\"Orders b 1\" PARTITION OF parts.orders_b FOR VALUES FROM (100) TO (150);
    CREATE TABLE parts.b_rest PARTITION OF parts.orders_b DEFAULT;
    ALTER TABLE orders ATTACH PARTITION parts.orders_b FOR VALUES FROM (100) TO (200);
    CREATE TABLE parts.orders_rest PARTITION OF orders DEFAULT;
    CREATE TABLE other (id int PRIMARY KEY);
    INSERT INTO other VALUES (1), (2), (101);
    INSERT INTO orders SELECT i, i, 'note ' || i FROM generate_series(1, 200, 7) i;
    ANALYZE";

const SHADOW: &str = "CREATE TABLE orders_v2 (id bigint PRIMARY KEY, total bigint, note text)";

const TOML: &str = r#"
[[migration]]
name = "orders_v2"
source = "public.orders"
shadow = "public.orders_v2"
key = ["id"]
[migration.columns]
id = "id"
total = "total::bigint * 100"
note = "note"
[migration.reverse]
total = "(total / 100)::int"
[migration.routing]
reads = 100
"#;

const TABLE: Table = Table {
    migration: "orders_v2",
    source: "TABLE orders ORDER BY id",
    mapped: "SELECT id, total * 100, note FROM orders ORDER BY id",
    shadow: "TABLE orders_v2 ORDER BY id",
};

const FORMS: &[&str] = &[
    "INSERT INTO orders_a VALUES (11, 1, 'x') RETURNING *, tableoid::regclass::text",
    "INSERT INTO parts.orders_b (id, total) VALUES (111, 1), (151, 2) RETURNING *",
    "INSERT INTO parts.\"Orders b 1\" (id, total) VALUES (112, 3)",
    "INSERT INTO orders_a VALUES (120, 1, 'not mine')",
    "INSERT INTO orders_a VALUES (1, 5) ON CONFLICT (id) DO UPDATE SET total = excluded.total + 1",
    "UPDATE orders_a SET total = total + 1 RETURNING id, orders_a.total",
    "UPDATE parts.\"Orders b 1\" AS o SET note = upper(note) FROM other WHERE other.id < o.id",
    "UPDATE ONLY parts.b_rest SET total = 3 WHERE id > 150",
    "UPDATE orders_a SET id = id + 50 WHERE id = 8 RETURNING id",
    "UPDATE parts.orders_b SET id = id + 60 WHERE id = 106 RETURNING id",
    "UPDATE parts.orders_b SET id = 3 WHERE id = 113",
    "DELETE FROM parts.b_rest WHERE id > 160 RETURNING *",
    "DELETE FROM orders_a USING other WHERE other.id = orders_a.id",
    "WITH d AS (DELETE FROM orders_a WHERE id < 10 RETURNING id, total) \
     INSERT INTO parts.orders_b (id, total) SELECT id + 101, total FROM d RETURNING *",
    "WITH d AS (DELETE FROM parts.orders_b WHERE id = 106 RETURNING *) SELECT * FROM d",
    "COPY (UPDATE orders_a SET total = 4 WHERE id < 30 RETURNING orders_a.*) TO STDOUT",
    "SELECT * FROM orders_a ORDER BY id",
    "SELECT count(*) FROM orders JOIN parts.orders_b b USING (id)",
    "UPDATE orders SET id = id + 100 WHERE id = 15 RETURNING id",
];

#[tokio::test]
async fn a_write_by_a_partitions_name_is_followed() {
    let live = Live::ready(&format!("{DDL};{SHADOW}"), TOML, &["orders_v2"]).await;
    let mut pair = Pair::new(&live, DDL).await;
    for sql in FORMS {
        pair.every_way(sql).await;
    }
    let prepared = [
        parse("w", "UPDATE orders_a SET total = total + 1 WHERE id = $1 RETURNING total", &[]),
        bind("", "w", 0, &[Some(b"22")], 0),
        execute("", 0),
        sync(),
    ];
    pair.exchange("prepared", &prepared.concat(), 1).await;
    for sql in [
        "CREATE TEMP TABLE orders_a (id int PRIMARY KEY, total int, note text)",
        "INSERT INTO orders_a VALUES (1, 1, 'temporary'), (999, 1, 'temporary')",
        "UPDATE public.orders_a SET total = 99 WHERE id = 1",
        "DROP TABLE orders_a",
        "UPDATE orders_a SET total = 98 WHERE id = 1",
        "SET search_path = parts",
        "DELETE FROM b_rest WHERE id = 155",
        "UPDATE orders_a SET total = 1",
        "RESET search_path",
    ] {
        pair.simple(sql).await;
    }
    assert!(live.statements("recorded", "write") < 0.5);
    assert_eq!(live.dirty().await, []);
    pair.simple("BEGIN").await;
    pair.simple("TRUNCATE parts.orders_b").await;
    assert_eq!(pair.live.rows(OWN_MARKS).await.concat(), [Some("1".to_owned())]);
    pair.plain.run("SELECT 1").await;
    pair.simple("COMMIT").await;
    pair.simple("TRUNCATE orders").await;
    pair.finish(&live, &[TABLE]).await;
}

/// Runs a write that touches no row until it is seen to be one on the source.
async fn until_known(live: &Live, client: &Client, write: &str) {
    eventually("the name is known", async || {
        let mirrored = live.statements("mirrored", "write");
        client.batch_execute(write).await.unwrap();
        if live.statements("mirrored", "write") > mirrored { Ok(()) } else { Err("no") }
    })
    .await;
}

#[tokio::test]
async fn a_new_empty_partition_is_a_name_and_nothing_else() {
    let live = Live::ready(&format!("{DDL};{SHADOW}"), TOML, &["orders_v2"]).await;
    let client = live.client().await;
    // A verify for the sake of it would be one of them; the continuous one is not.
    let moves = "SELECT count(*) FROM pgsegue.events WHERE what = 'phase'";
    let before = text(&live.db.client, moves).await;
    let create = "CREATE TABLE orders_c PARTITION OF orders FOR VALUES FROM (300) TO (400)";
    client.batch_execute(create).await.unwrap();
    until_known(&live, &client, "DELETE FROM orders_c").await;
    client.batch_execute("INSERT INTO orders_c VALUES (301, 1, 'c')").await.unwrap();
    assert_eq!(text(&client, "SELECT note FROM orders_v2 WHERE id = 301").await, "c");
    assert_eq!(text(&live.db.client, moves).await, before);
    // It stays so for the next process.
    let known = "SELECT fingerprint LIKE '%orders_c%' FROM pgsegue.migrations";
    eventually("it is journaled", async || {
        let known = text(&live.db.client, known).await;
        if known == "t" { Ok(()) } else { Err(known) }
    })
    .await;
}

/// Nobody knows its name yet: what is written by it is not mirrored, and no read misses it.
#[tokio::test]
async fn rows_written_by_the_name_of_a_new_partition_at_once_are_read_and_found() {
    let live = Live::ready(&format!("{DDL};{SHADOW}"), TOML, &["orders_v2"]).await;
    let (client, other) = (live.client().await, live.client().await);
    let count = "SELECT count(*) FROM orders";
    let of = |n: u32| {
        format!("PARTITION OF orders FOR VALUES FROM ({}) TO ({})", n * 100, n * 100 + 100)
    };
    for (n, texts) in [
        (4, vec!["CREATE TABLE p4 OF", "INSERT INTO p4 VALUES (KEY, 1)"]),
        (
            5,
            vec!["BEGIN", "CREATE TABLE p5 OF", "INSERT INTO p5 VALUES (KEY, 1)", "READ", "COMMIT"],
        ),
        (6, vec!["CREATE TABLE p6 OF; INSERT INTO p6 VALUES (KEY, 1)"]),
        (7, vec!["BEGIN; CREATE TABLE p7 OF; INSERT INTO p7 VALUES (KEY, 1); COMMIT"]),
    ] {
        live.until_shadow_serves(&other, count).await;
        let before: u32 = text(&client, count).await.parse().unwrap();
        let now = (before + 1).to_string();
        for sql in texts {
            if sql == "READ" {
                assert_eq!(text(&client, count).await, now, "{n}");
                continue;
            }
            let key = (n * 100 + 1).to_string();
            client.batch_execute(&sql.replace("OF", &of(n)).replace("KEY", &key)).await.unwrap();
        }
        for _ in 0..3 {
            assert_eq!(text(&client, count).await, now, "{n}");
            assert_eq!(text(&other, count).await, now, "{n}");
        }
        live.until_shadow_serves(&other, count).await;
        assert_eq!(text(&other, count).await, now, "{n}");
    }
    live.until_clean("orders_v2").await;
    assert_same(&live.db.client, TABLE.mapped, TABLE.shadow).await;
}

#[tokio::test]
async fn rows_that_come_and_go_with_their_partition_are_noticed() {
    let live = Live::ready(&format!("{DDL};{SHADOW}"), TOML, &["orders_v2"]).await;
    let (client, direct) = (live.client().await, live.direct().await);
    let in_step = async |what: &str| {
        let differ = "SELECT count(*) FROM ((SELECT id, total * 100, note FROM orders EXCEPT TABLE \
                      orders_v2) UNION ALL (TABLE orders_v2 EXCEPT SELECT id, total * 100, note FROM \
                      orders)) AS d";
        eventually(what, async || {
            let differ = text(&direct, differ).await;
            if differ == "0" { Ok(()) } else { Err(differ) }
        })
        .await;
        live.until_clean("orders_v2").await;
    };
    let filled = "CREATE TABLE more AS SELECT i AS id, 1 AS total, 'more' AS note FROM \
                  generate_series(400, 410) i; ALTER TABLE more ALTER id SET NOT NULL, \
                  ALTER total SET NOT NULL";
    direct.batch_execute(filled).await.unwrap();
    let attach = "ALTER TABLE orders ATTACH PARTITION more FOR VALUES FROM (400) TO (500)";
    direct.batch_execute(attach).await.unwrap();
    in_step("an attached table is copied").await;
    until_known(&live, &client, "DELETE FROM more WHERE id = 0").await;
    client.batch_execute("UPDATE more SET total = 2 WHERE id = 401").await.unwrap();
    assert_eq!(text(&client, "SELECT total FROM orders_v2 WHERE id = 401").await, "200");
    direct.batch_execute("ALTER TABLE orders DETACH PARTITION more").await.unwrap();
    in_step("a detached table's rows are gone").await;

    // Through the proxy in the same transaction, and for all to see.
    client.batch_execute("BEGIN").await.unwrap();
    client.batch_execute(attach).await.unwrap();
    assert_eq!(text(&client, OWN_MARKS).await, "1");
    client.batch_execute("COMMIT").await.unwrap();
    in_step("attached through the proxy").await;
    until_known(&live, &client, "DELETE FROM more WHERE id = 0").await;
    client.batch_execute("ALTER TABLE more RENAME TO most").await.unwrap_err();
    let refused = "ALTER TABLE orders DETACH PARTITION more CONCURRENTLY";
    assert!(outcome(&client, refused).await.unwrap_err().starts_with("55006"));
    client.batch_execute("DROP TABLE more").await.unwrap();
    in_step("dropped through the proxy").await;
    direct.batch_execute("DROP TABLE parts.orders_b").await.unwrap();
    in_step("dropped elsewhere").await;
}

/// It is not named, and its rows go with it.
#[tokio::test]
async fn a_partition_that_goes_with_its_owner_is_on_record_and_no_read_shows_its_rows() {
    let live = Live::ready(&format!("{DDL};{SHADOW}"), TOML, &["orders_v2"]).await;
    let (client, other) = (live.client().await, live.client().await);
    let direct = live.direct().await;
    let role = "DO $$ BEGIN CREATE ROLE owner_of_part; \
                EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$; \
                ALTER TABLE parts.\"Orders b 1\" OWNER TO owner_of_part";
    direct.batch_execute(role).await.unwrap();
    let count = "SELECT count(*) FROM orders WHERE id BETWEEN 100 AND 150";
    live.until_shadow_serves(&client, count).await;
    client.batch_execute("BEGIN").await.unwrap();
    client.batch_execute("DROP OWNED BY owner_of_part").await.unwrap();
    let recorded = "SELECT reason FROM pgsegue.dirty_keys WHERE key IS NULL";
    assert_eq!(text(&client, recorded).await, "a partition may have been dropped");
    assert_eq!(text(&client, count).await, "0");
    client.batch_execute("COMMIT").await.unwrap();
    for one in [&client, &other] {
        assert_eq!(text(one, count).await, "0");
    }
    // What takes another table only, with the source locked for another reason, is let be.
    client.batch_execute("CREATE TABLE aside (id int)").await.unwrap();
    client.batch_execute("DROP TABLE aside CASCADE").await.unwrap();
}
