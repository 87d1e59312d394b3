//! What is open while the routing changes under it: transactions with writes that were not
//! mirrored, and prepared statements that are older than every flip.

use crate::steer;
use crate::support::{Proxy, TestDb, assert_same, connect, database, eventually, python, rows};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Stdio};
use tokio_postgres::{Client, Statement};

const MIGRATION: &str = r#"
[[migration]]
name = "orders_v2"
source = "public.orders"
shadow = "public.orders_v2"
key = ["id"]
[migration.columns]
id = "id"
customer_id = "user_id"
total_minor = "total::bigint * 100"
note = "note"
[migration.reverse]
user_id = "customer_id"
total = "(total_minor / 100)::int"
[migration.routing]
reads = 0
"#;
const TABLES: &str = "
    CREATE TABLE orders (id int PRIMARY KEY, user_id int NOT NULL, total int NOT NULL, note text);
    CREATE TABLE orders_v2 (id bigint PRIMARY KEY, customer_id int NOT NULL, \
        total_minor bigint NOT NULL, note text);
    INSERT INTO orders SELECT i, i % 7, i, 'note ' || i FROM generate_series(1, 3000) AS i;
    ANALYZE orders;";

async fn orders() -> TestDb {
    let db = database().await;
    db.client.batch_execute(TABLES).await.unwrap();
    db
}

async fn assert_in_step(proxy: &Proxy, db: &TestDb) {
    steer::settled(proxy, db, "orders_v2").await;
    let source = "SELECT id, user_id, total::bigint * 100, note FROM orders ORDER BY id";
    let shadow = "SELECT id, customer_id, total_minor, note FROM orders_v2 ORDER BY id";
    assert_same(&db.client, source, shadow).await;
}

/// Starts the migration and waits until its barrier has seen something to wait for.
async fn start_into_the_barrier(proxy: &Proxy) {
    steer::run(proxy, &["migration", "start", "orders_v2", "--no-wait"]);
    eventually("the barrier waits for the writer", async || {
        let log = proxy.log();
        if log.contains("the barrier waits obstacle=Writer") { Ok(()) } else { Err(log) }
    })
    .await;
    assert_eq!(steer::status(proxy, "orders_v2")["phase"], "dual_write");
}

/// The totals of some rows, as the source has them.
async fn totals(db: &TestDb, ids: &str) -> Vec<String> {
    let sql = format!("SELECT total FROM orders WHERE id IN ({ids}) ORDER BY id");
    rows(&db.client, &sql).await.into_iter().map(|mut row| row.remove(0).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_transaction_with_an_unmirrored_write_holds_the_barrier_until_it_commits() {
    let db = orders().await;
    let proxy = Proxy::start(&db, MIGRATION).await;
    let (open, other) = (connect(&proxy.conninfo()).await, connect(&proxy.conninfo()).await);
    open.batch_execute("BEGIN; UPDATE orders SET total = -1 WHERE id = 1").await.unwrap();
    start_into_the_barrier(&proxy).await;
    // Everybody else writes on, mirrored; so does the open transaction.
    other.batch_execute("UPDATE orders SET total = -2 WHERE id = 2").await.unwrap();
    open.batch_execute("UPDATE orders SET total = -3 WHERE id = 3").await.unwrap();
    assert_eq!(steer::status(&proxy, "orders_v2")["phase"], "dual_write");
    assert_eq!(steer::count(&proxy, "mirrored/write"), 2);
    open.batch_execute("COMMIT").await.unwrap();
    assert_in_step(&proxy, &db).await;
    assert_eq!(totals(&db, "1, 2, 3").await, ["-1", "-2", "-3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unmirrored_write_that_is_rolled_back_frees_the_barrier() {
    let db = orders().await;
    let proxy = Proxy::start(&db, MIGRATION).await;
    let open = connect(&proxy.conninfo()).await;
    let begin = "BEGIN; SAVEPOINT s; DELETE FROM orders WHERE id = 1";
    open.batch_execute(begin).await.unwrap();
    start_into_the_barrier(&proxy).await;
    open.batch_execute("ROLLBACK TO s").await.unwrap();
    steer::phase(&proxy, "orders_v2", "ready").await;
    open.batch_execute("UPDATE orders SET total = -1 WHERE id = 1; COMMIT").await.unwrap();
    assert_in_step(&proxy, &db).await;
    assert_eq!(totals(&db, "1").await, ["-1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_transaction_with_an_unmirrored_write_holds_the_barrier() {
    let db = orders().await;
    let proxy = Proxy::start(&db, MIGRATION).await;
    let client = connect(&proxy.conninfo()).await;
    let write = "BEGIN; UPDATE orders SET id = 9001 WHERE id = 1; DELETE FROM orders WHERE id = 2";
    client.batch_execute(write).await.unwrap();
    client.batch_execute("PREPARE TRANSACTION 'flips'").await.unwrap();
    drop(client);
    start_into_the_barrier(&proxy).await;
    db.client.batch_execute("COMMIT PREPARED 'flips'").await.unwrap();
    assert_in_step(&proxy, &db).await;
    assert_eq!(totals(&db, "1, 2, 9001").await, ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_from_before_the_migration_writes_after_it_is_ready() {
    let db = orders().await;
    let proxy = Proxy::start(&db, MIGRATION).await;
    let old = connect(&proxy.conninfo()).await;
    old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await.unwrap();
    let before = rows(&old, "SELECT count(*) FROM orders").await;
    steer::run(&proxy, &["migration", "start", "orders_v2", "--no-wait"]);
    steer::phase(&proxy, "orders_v2", "ready").await;
    let write = "UPDATE orders SET total = -5 WHERE id = 5; DELETE FROM orders WHERE id = 6; \
                 INSERT INTO orders VALUES (9000, 1, -9, NULL)";
    old.batch_execute(write).await.unwrap();
    assert_eq!(rows(&old, "SELECT count(*) FROM orders").await, before);
    old.batch_execute("COMMIT").await.unwrap();
    assert_in_step(&proxy, &db).await;
    assert_eq!(totals(&db, "5, 6, 9000").await, ["-5", "-9"]);
}

/// A connection with prepared statements that it never prepares again.
trait Held {
    /// Reads and writes; what it saw. `new` is the key of a new row, one more than in the last
    /// round; the row of the last round is deleted.
    async fn round(&mut self, new: i32) -> Value;
}

struct Tokio {
    client: Client,
    read: Statement,
    update: Statement,
    insert: Statement,
    delete: Statement,
    count: Statement,
}

impl Tokio {
    async fn open(proxy: &Proxy) -> Self {
        let client = connect(&proxy.conninfo()).await;
        let prepare = async |sql: &str| client.prepare(sql).await.unwrap();
        let update = "UPDATE orders SET total = total + $1 WHERE id = $2 RETURNING total";
        let insert = "INSERT INTO orders VALUES ($1, 7, $1, NULL) RETURNING id, note";
        Self {
            read: prepare("SELECT id, user_id, total, note FROM orders WHERE id = $1").await,
            update: prepare(update).await,
            insert: prepare(insert).await,
            delete: prepare("DELETE FROM orders WHERE id = $1 RETURNING total").await,
            count: prepare("SELECT count(*) FROM orders WHERE id = ANY($1)").await,
            client,
        }
    }

    async fn read(&self, id: i32) -> Value {
        let found = self.client.query(&self.read, &[&id]).await.unwrap();
        let shown = found.iter().map(|row| {
            let numbers: [i32; 3] = [0, 1, 2].map(|i| row.get(i));
            json!([numbers[0], numbers[1], numbers[2], row.get::<_, Option<String>>(3)])
        });
        shown.collect()
    }
}

impl Held for Tokio {
    async fn round(&mut self, new: i32) -> Value {
        let client = &self.client;
        let before = self.read(1).await;
        let updated = client.query_one(&self.update, &[&3, &1]).await.unwrap();
        let after = self.read(1).await;
        let inserted = client.query_one(&self.insert, &[&new]).await.unwrap();
        let read = self.read(new).await;
        let deleted = client.query(&self.delete, &[&(new - 1)]).await.unwrap();
        let deleted: Vec<[i32; 1]> = deleted.iter().map(|row| [row.get(0)]).collect();
        let gone = self.read(new - 1).await;
        let counted = client.query_one(&self.count, &[&vec![1, new, new - 1]]).await.unwrap();
        json!([
            before,
            [[updated.get::<_, i32>(0)]],
            after,
            [json!([inserted.get::<_, i32>(0), inserted.get::<_, Option<String>>(1)])],
            read,
            deleted,
            gone,
            [[counted.get::<_, i64>(0)]],
        ])
    }
}

struct Psycopg {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Psycopg {
    fn open(proxy: &Proxy) -> Self {
        let mut child = python()
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/drivers/held.py"))
            .arg(proxy.conninfo())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Self { child, answers }
    }
}

impl Held for Psycopg {
    async fn round(&mut self, new: i32) -> Value {
        writeln!(self.child.stdin.as_ref().unwrap(), "{new}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).expect("a round that fails says why on standard error")
    }
}

impl Drop for Psycopg {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Rounds with the results that they must have, whatever the routes are.
struct Rounds<H> {
    held: H,
    done: i32,
}

impl<H: Held> Rounds<H> {
    async fn one(&mut self) {
        self.done += 1;
        let (new, total) = (10_000 + self.done, 1 + 3 * (self.done - 1));
        let deleted = if self.done == 1 { json!([]) } else { json!([[new - 1]]) };
        let expected = json!([
            [[1, 1, total, "note 1"]],
            [[total + 3]],
            [[1, 1, total + 3, "note 1"]],
            [[new, null]],
            [[new, 7, new, null]],
            deleted,
            [],
            [[2]],
        ]);
        assert_eq!(self.held.round(new).await, expected, "round {}", self.done);
    }

    /// Rounds until the shadow serves them, or (`Shadow::Serves`) until it does not any more.
    async fn until(&mut self, proxy: &Proxy, wanted: Shadow) {
        eventually(&format!("the shadow {wanted:?}"), async || {
            let before = steer::count(proxy, "shadow/read");
            self.one().await;
            let served = steer::count(proxy, "shadow/read") - before;
            // Four reads by key, and the count.
            match wanted {
                Shadow::Serves if served == 5 => Ok(()),
                Shadow::Rests if served == 0 => Ok(()),
                Shadow::Serves | Shadow::Rests => Err(served),
            }
        })
        .await;
    }
}

#[derive(Debug, Clone, Copy)]
enum Shadow {
    Serves,
    Rests,
}

async fn held_across_every_flip<H: Held>(proxy: Proxy, db: TestDb, held: H) {
    let mut rounds = Rounds { held, done: 0 };
    rounds.one().await;
    rounds.one().await;
    assert_eq!(steer::count(&proxy, "mirrored/write"), 0);
    // Dual write on.
    steer::start(&proxy, "orders_v2");
    rounds.one().await;
    assert_eq!(steer::count(&proxy, "mirrored/write"), 3);
    assert_in_step(&proxy, &db).await;
    // Reads up and down: by the file, then by the command.
    let all = MIGRATION.replace("reads = 0", "reads = 100");
    proxy.rewrite_config(&all);
    rounds.until(&proxy, Shadow::Serves).await;
    proxy.rewrite_config(MIGRATION);
    rounds.until(&proxy, Shadow::Rests).await;
    steer::reads(&proxy, "orders_v2", 0);
    proxy.rewrite_config(&all);
    steer::reads(&proxy, "orders_v2", 100);
    rounds.until(&proxy, Shadow::Serves).await;
    steer::reads(&proxy, "orders_v2", 0);
    rounds.until(&proxy, Shadow::Rests).await;
    steer::reads(&proxy, "orders_v2", 100);
    assert_in_step(&proxy, &db).await;
    // Dual write off, so that the shadow falls behind, and on again.
    rounds.until(&proxy, Shadow::Serves).await;
    let dual_write = |lever| ["route", "orders_v2", "--dual-write", lever, "--why", "a test"];
    steer::run(&proxy, &dual_write("off"));
    eventually("writes are not mirrored", async || {
        let before = steer::count(&proxy, "mirrored/write");
        rounds.one().await;
        let mirrored = steer::count(&proxy, "mirrored/write") - before;
        if mirrored == 0 { Ok(()) } else { Err(mirrored) }
    })
    .await;
    rounds.until(&proxy, Shadow::Rests).await;
    steer::run(&proxy, &dual_write("on"));
    rounds.until(&proxy, Shadow::Serves).await;
    assert_in_step(&proxy, &db).await;
    // The end, and all over again.
    steer::run(&proxy, &["migration", "abort", "orders_v2", "--why", "a test"]);
    steer::phase(&proxy, "orders_v2", "aborted").await;
    let mirrored = steer::count(&proxy, "mirrored/write");
    rounds.until(&proxy, Shadow::Rests).await;
    rounds.one().await;
    assert_eq!(steer::count(&proxy, "mirrored/write"), mirrored);
    steer::start(&proxy, "orders_v2");
    rounds.until(&proxy, Shadow::Serves).await;
    assert_in_step(&proxy, &db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_that_tokio_postgres_prepared_follow_every_flip() {
    let db = orders().await;
    let proxy = Proxy::start(&db, MIGRATION).await;
    let held = Tokio::open(&proxy).await;
    held_across_every_flip(proxy, db, held).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_that_psycopg_prepared_follow_every_flip() {
    let db = orders().await;
    let proxy = Proxy::start(&db, MIGRATION).await;
    let held = Psycopg::open(&proxy);
    held_across_every_flip(proxy, db, held).await;
}
