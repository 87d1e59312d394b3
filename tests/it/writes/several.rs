//! Several migrations at a time: two shadows of one source with keys of their own, a third table
//! beside them, and tables of one name in two schemas. One statement feeds all that it writes.

use crate::live::raw::{bind, execute, parse, sync};
use crate::live::{Live, ORDERS, ORDERS_TABLE, ORDERS_V2, Pair, Table, orders_toml, outcome, text};

const SHADOWS: &str = "
    CREATE TABLE orders_by_user (
        user_id int, id int, label text, PRIMARY KEY (user_id, id), CHECK (label <> 'refused')
    );
    CREATE TABLE other_v2 (id bigint PRIMARY KEY, orders_id int, note text)";

const TOML: &str = r#"
[[migration]]
name = "by_user"
source = "public.orders"
shadow = "public.orders_by_user"
key = ["user_id", "id"]
[migration.columns]
user_id = "user_id"
id = "id"
label = "note"
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

const NAMES: [&str; 3] = ["orders_v2", "by_user", "other_v2"];

const TABLES: [Table; 3] = [
    ORDERS_TABLE,
    Table {
        migration: "by_user",
        source: "TABLE orders ORDER BY id",
        mapped: "SELECT user_id, id, note FROM orders ORDER BY 1, 2",
        shadow: "TABLE orders_by_user ORDER BY 1, 2",
    },
    Table {
        migration: "other_v2",
        source: "TABLE other ORDER BY id",
        mapped: "TABLE other ORDER BY id",
        shadow: "TABLE other_v2 ORDER BY id",
    },
];

const FORMS: &[&str] = &[
    "INSERT INTO orders VALUES (20, 5, 1, 'one')",
    "INSERT INTO orders VALUES (21, 5, 1, 'two'), (22, 6) RETURNING id, note",
    "UPDATE orders SET note = 'n' WHERE id = 1",
    "UPDATE orders SET note = 'n' WHERE id = 1 AND user_id = 1 RETURNING *",
    "UPDATE orders SET note = 'all'",
    "UPDATE orders SET user_id = user_id + 10 WHERE id = 2",
    "UPDATE orders SET user_id = user_id + 10 WHERE id < 6 RETURNING user_id, id",
    "UPDATE orders SET id = id + 100 WHERE id = 3",
    "UPDATE orders SET id = id + 100, user_id = 7 WHERE id > 8 RETURNING id",
    "DELETE FROM orders WHERE id = 4",
    "DELETE FROM orders WHERE id = 5 RETURNING *",
    "INSERT INTO orders VALUES (6, 8, 1) ON CONFLICT (id) DO UPDATE SET user_id = 9",
    "INSERT INTO orders VALUES (6, 8, 1) ON CONFLICT (id) DO NOTHING",
    "WITH d AS (DELETE FROM orders WHERE id = 7 RETURNING id, note), \
     o AS (UPDATE other SET note = d.note FROM d RETURNING other.id AS k, other.note) SELECT * FROM o ORDER BY 1",
    "WITH o AS (DELETE FROM other WHERE id = 5 RETURNING *) UPDATE orders SET note = o.note, user_id = 3 FROM o \
     WHERE orders.id = 8 RETURNING orders.id, o.id",
    "WITH a AS (UPDATE orders SET note = 'a' WHERE id = 8), b AS (INSERT INTO other VALUES (77, 8)) \
     INSERT INTO other VALUES (78, 8)",
    "COPY (UPDATE orders SET user_id = 1 WHERE id = 8 RETURNING id, user_id) TO STDOUT",
    "UPDATE orders SET note = 1 / (id - 8)",
    "DELETE FROM orders WHERE nowhere = 1",
];

/// What the second key needs.
const UNIQUE: &str = "CREATE UNIQUE INDEX ON orders (user_id, id)";

async fn live(routing: &str) -> Live {
    let ddl = format!("{ORDERS};{UNIQUE};{ORDERS_V2};{SHADOWS}");
    Live::ready(&ddl, &format!("{}{TOML}", orders_toml("", routing)), &NAMES).await
}

#[tokio::test]
async fn a_write_feeds_every_migration_of_its_tables() {
    let live = live("").await;
    let mut pair = Pair::new(&live, &format!("{ORDERS};{UNIQUE}")).await;
    for sql in FORMS {
        if sql.starts_with("COPY") {
            pair.simple(sql).await;
        } else {
            pair.every_way(sql).await;
        }
    }
    pair.simple("TRUNCATE other").await;
    pair.finish(&live, &TABLES).await;
}

#[tokio::test]
async fn what_one_shadow_refuses_is_recorded_for_it_alone() {
    let live = live("").await;
    let client = live.client().await;
    for sql in [
        "UPDATE orders SET note = 'refused' WHERE id = 1",
        "UPDATE orders SET note = 'refused' WHERE id < 3 RETURNING id",
        "WITH u AS (UPDATE orders SET note = 'refused' WHERE id < 4 RETURNING id) SELECT * FROM u",
    ] {
        client.batch_execute(&format!("BEGIN; {sql}")).await.unwrap();
        let recorded = "SELECT DISTINCT migration FROM pgsegue.dirty_keys";
        assert_eq!(text(&client, recorded).await, "by_user", "{sql}");
        client.batch_execute("ROLLBACK").await.unwrap();
    }
}

#[tokio::test]
async fn a_mark_and_ddl_concern_every_migration_of_the_table() {
    let live = live("").await;
    let client = live.client().await;
    let unnamed = "WITH d AS (DELETE FROM orders WHERE id = 8 RETURNING id::text) SELECT * FROM d";
    client.batch_execute(&format!("BEGIN; {unnamed}")).await.unwrap();
    let marked = "SELECT DISTINCT migration FROM pgsegue.dirty_keys WHERE key IS NULL ORDER BY 1";
    assert_eq!(text(&client, marked).await, "by_user orders_v2");
    client.batch_execute("COMMIT").await.unwrap();
    let refused = outcome(&client, "ALTER TABLE orders ADD x int").await.unwrap_err();
    assert!(refused.starts_with("55006"), "{refused}");
    for table in &TABLES {
        live.until_clean(table.migration).await;
    }
    live.cli(&["migration", "abort", "by_user", "--why", "a test"]);
    live.until_phase("by_user", "aborted").await;
    let refused = outcome(&client, "ALTER TABLE orders ADD x int").await.unwrap_err();
    assert!(refused.starts_with("55006") && refused.contains("orders"), "{refused}");
    client.batch_execute("UPDATE orders SET total = 6, user_id = 4").await.unwrap();
    live.orders_in_step().await;
}

#[tokio::test]
async fn the_shadow_with_the_larger_share_answers_reads() {
    let live = live("reads = 100").await;
    let client = live.client().await;
    let read = "SELECT note FROM orders WHERE id = 5";
    live.until_shadow_serves(&client, read).await;
    // The other one has no way back for `total`: it could not answer.
    live.until_shadow_serves(&client, "SELECT total FROM orders WHERE id = 5").await;
    assert_eq!(text(&client, "SELECT total FROM orders WHERE id = 5").await, "50");
}

#[tokio::test]
async fn tables_of_one_name_are_told_apart_by_the_search_path() {
    let ddl = "CREATE SCHEMA s; CREATE TABLE s.orders (n int PRIMARY KEY, note text); \
               CREATE TABLE s.shadow (n int PRIMARY KEY, note text); INSERT INTO s.orders VALUES (1, 'one')";
    let toml = "[[migration]]\nname = \"in_s\"\nsource = \"s.orders\"\nshadow = \"s.shadow\"\nkey = [\"n\"]\n\
                [migration.columns]\nn = \"n\"\nnote = \"note\"\n";
    let both = format!("{ORDERS};{ORDERS_V2};{ddl}");
    let live =
        Live::ready(&both, &format!("{}{toml}", orders_toml("", "")), &["orders_v2", "in_s"]).await;
    let mut pair = Pair::new(&live, &format!("{ORDERS};{ddl}")).await;
    for sql in [
        "UPDATE orders SET note = 'public' WHERE id = 1",
        "SET search_path = s, public",
        "UPDATE orders SET note = 'in s' WHERE n = 1 RETURNING n",
        "WITH a AS (UPDATE orders SET note = 'a' RETURNING n), b AS (UPDATE public.orders SET note = 'b' \
         WHERE id < 3 RETURNING id, total) SELECT * FROM a, b ORDER BY 1, 2",
        "INSERT INTO orders VALUES (2, 'two')",
        "DELETE FROM public.orders WHERE id = 4",
    ] {
        pair.simple(sql).await;
    }
    let in_s = Table {
        migration: "in_s",
        source: "TABLE s.orders ORDER BY n",
        mapped: "TABLE s.orders ORDER BY n",
        shadow: "TABLE s.shadow ORDER BY n",
    };
    pair.finish(&live, &[ORDERS_TABLE, in_s]).await;
}

#[tokio::test]
async fn a_statement_of_two_tables_of_which_a_temporary_one_hides_one_since_its_parse_is_run_as_parsed()
 {
    let live = live("").await;
    let mut pair = Pair::new(&live, &format!("{ORDERS};{UNIQUE}")).await;
    let both = "WITH u AS (UPDATE orders SET total = $2 WHERE id = $1 RETURNING id) \
                UPDATE other SET note = 'both' WHERE orders_id = $1";
    let bound = [bind("", "s", 0, &[Some(b"2"), Some(b"77")], 0), execute("", 0), sync()].concat();
    pair.simple("CREATE TEMP TABLE kept (x int)").await;
    pair.exchange(both, &[parse("s", both, &[23, 23]), sync()].concat(), 1).await;
    pair.simple("CREATE TEMP TABLE orders AS SELECT * FROM public.orders WHERE id < 3").await;
    for _ in 0..3 {
        pair.exchange("bound", &bound, 1).await;
        pair.simple("SELECT id, total FROM public.orders ORDER BY id").await;
        live.until_clean("orders_v2").await;
    }
    pair.simple("DROP TABLE pg_temp.orders").await;
    pair.exchange("bound", &bound, 1).await;
    pair.finish(&live, &TABLES).await;
}
