//! Prepared statements whose plan is older than what their names mean: a temporary table takes the
//! name of a migrated one, and the server goes on with the plan that it has, or looks again.

use crate::live::raw::{bind, describe, execute, parse, sync};
use crate::live::{Live, ORDERS, ORDERS_TABLE, ORDERS_V2, Pair, orders_toml, text};
use crate::support::eventually;

/// A temporary table of another name.
const KEPT: &str = "CREATE TEMP TABLE kept (x int)";

/// What takes the name, and what gives it back.
const TAKEN: &[(&str, &str)] = &[
    ("CREATE TEMP TABLE orders (LIKE public.orders INCLUDING ALL)", "DROP TABLE pg_temp.orders"),
    ("CREATE TEMP TABLE orders (total int, note text)", "DROP TABLE pg_temp.orders"),
    ("CREATE TEMP TABLE orders (x int)", "DROP TABLE pg_temp.orders"),
    ("BEGIN; CREATE TEMP TABLE orders (x int)", "ROLLBACK"),
    ("SET search_path = elsewhere, public", "RESET search_path"),
    ("BEGIN; SET LOCAL search_path = elsewhere, public", "ROLLBACK"),
    ("BEGIN; SAVEPOINT a; SET search_path = elsewhere", "ROLLBACK TO a; COMMIT"),
    ("SELECT set_config('search_path', 'elsewhere', false)", "SET search_path = public"),
    (
        "CREATE TEMP TABLE orders (id int, total int, note text)",
        "ALTER TABLE orders RENAME TO gone",
    ),
    ("DO $$ BEGIN CREATE TEMP TABLE orders (id int); END $$", "DISCARD TEMP"),
];

const ELSEWHERE: &str = "CREATE SCHEMA elsewhere; \
    CREATE TABLE elsewhere.orders (id int PRIMARY KEY, total int, note text); \
    INSERT INTO elsewhere.orders VALUES (1, 1, 'elsewhere'), (2, 1, 'elsewhere')";

const WRITES: &[(&str, &str)] = &[
    ("update", "UPDATE orders SET total = total + 1 RETURNING total"),
    ("append", "UPDATE orders SET note = note || '.'"),
    ("delete", "DELETE FROM orders WHERE note LIKE 'note 9%'"),
    (
        "within",
        "WITH w AS (UPDATE orders SET total = total + 1 RETURNING total) SELECT sum(total) FROM w",
    ),
];

/// What is not understood, and marked: the keys that it changes are not known before.
const MARKED: &[(&str, &str)] =
    &[("key", "UPDATE orders SET id = id + 100 WHERE note LIKE 'note 8%' AND random() < 2")];

/// When the statements are prepared.
#[derive(Clone, Copy, PartialEq)]
enum Prepared {
    BeforeTheMigration,
    DuringIt,
}

fn run(name: &str) -> Vec<u8> {
    [bind("", name, 0, &[], 0), describe(b'P', ""), execute("", 0), sync()].concat()
}

async fn every_write(pair: &mut Pair, writes: &[(&str, &str)], after: &str) {
    for (name, _) in writes {
        pair.exchange(&format!("{name} after {after}"), &run(name), 1).await;
        pair.simple(&format!("EXECUTE s_{name}")).await;
        pair.exchange(&format!("EXECUTE {name} after {after}"), &run(&format!("e_{name}")), 1)
            .await;
    }
}

/// Prepares the writes, then runs them before, while and after something else has the name; `first`
/// is run before they are prepared.
async fn plans_are_followed(prepared: Prepared, first: &str, writes: &[(&str, &str)]) {
    let ddl = format!("{ORDERS};{ELSEWHERE}");
    let live = Live::declared(&format!("{ddl};{ORDERS_V2}"), &orders_toml("", "")).await;
    let mut pair = Pair::new(&live, &ddl).await;
    if prepared == Prepared::DuringIt {
        live.start("orders_v2");
        live.until_phase("orders_v2", "ready").await;
    }
    pair.simple(first).await;
    for (name, sql) in writes {
        let execute = parse(&format!("e_{name}"), &format!("EXECUTE s_{name}"), &[]);
        pair.exchange(sql, &[parse(name, sql, &[]), execute, sync()].concat(), 1).await;
        pair.simple(&format!("PREPARE s_{name} AS {sql}")).await;
    }
    if prepared == Prepared::BeforeTheMigration {
        live.start("orders_v2");
        live.until_phase("orders_v2", "ready").await;
    }
    for (take, give) in TAKEN {
        pair.simple(take).await;
        every_write(&mut pair, writes, take).await;
        live.orders_in_step().await;
        every_write(&mut pair, writes, take).await;
        pair.simple(give).await;
        every_write(&mut pair, writes, give).await;
        live.orders_in_step().await;
        pair.simple("TABLE orders ORDER BY id").await;
        pair.simple("TABLE elsewhere.orders ORDER BY id").await;
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn a_session_without_temporary_tables_looks_again_when_it_makes_one() {
    plans_are_followed(Prepared::DuringIt, "SELECT 1", WRITES).await;
}

#[tokio::test]
async fn a_session_with_temporary_tables_keeps_its_plans_when_one_takes_the_name() {
    plans_are_followed(Prepared::DuringIt, KEPT, WRITES).await;
}

#[tokio::test]
async fn plans_of_before_the_migration_are_not_missed() {
    plans_are_followed(Prepared::BeforeTheMigration, "SELECT 1", WRITES).await;
}

#[tokio::test]
async fn plans_of_before_the_migration_are_not_missed_where_a_temporary_table_takes_the_name() {
    plans_are_followed(Prepared::BeforeTheMigration, KEPT, WRITES).await;
}

#[tokio::test]
async fn marked_writes_are_marked_by_older_plans_too() {
    for prepared in [Prepared::BeforeTheMigration, Prepared::DuringIt] {
        for first in ["SELECT 1", KEPT] {
            plans_are_followed(prepared, first, MARKED).await;
        }
    }
}

/// What a migration is blocked by may be a column: `*` is of what the table has.
#[tokio::test]
async fn a_star_of_a_write_is_of_the_columns_that_the_source_has_though_the_migration_is_blocked() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    let written = [
        "WITH u AS (UPDATE orders SET total = total + 1 WHERE id = 5 RETURNING *) SELECT * FROM u",
        "COPY (UPDATE orders SET total = total + 1 WHERE id = 6 RETURNING *) TO STDOUT",
        "WITH d AS (DELETE FROM orders WHERE id = 7 RETURNING *) INSERT INTO orders SELECT * FROM d",
        "UPDATE orders SET total = 1 WHERE id = 4 RETURNING *",
    ];
    for ddl in [
        "ALTER TABLE orders ADD COLUMN added int DEFAULT 7",
        "ALTER TABLE orders RENAME COLUMN note TO remark",
        "ALTER TABLE orders DROP COLUMN remark",
        "ALTER TABLE orders DROP COLUMN added",
    ] {
        pair.elsewhere(&live, ddl).await;
        let columns = "SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = \
                       'orders'::regclass AND attnum > 0 AND NOT attisdropped";
        let expected = text(&live.db.client, columns).await;
        let client = live.client().await;
        eventually("the columns are known", async || {
            let rows = client.simple_query(written[0]).await.map_err(|error| error.to_string())?;
            let seen = rows.iter().find_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => Some(
                    row.columns().iter().map(|c| c.name().to_owned()).collect::<Vec<_>>().join(" "),
                ),
                _ => None,
            });
            if seen.as_deref() == Some(&expected) { Ok(()) } else { Err(format!("{seen:?}")) }
        })
        .await;
        pair.elsewhere(&live, "UPDATE orders SET total = 5 WHERE id = 5").await;
        for sql in written {
            pair.simple(sql).await;
        }
    }
    pair.same();
}
