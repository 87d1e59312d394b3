//! The drivers that apps use do the same work direct and through the proxy with migrations live:
//! everything they can see is equal. The steps are in `tests/drivers`.

use crate::steer;
use crate::support::{Proxy, TestDb, assert_same, connect, database, node, python};
use futures_util::TryStreamExt;
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::error::Error;
use std::process::Command;
use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{Format, FromSql, IsNull, ToSql, Type};
use tokio_postgres::{Client, Row, SimpleQueryMessage, Statement};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/drivers");
const SCHEMA: &str = include_str!("../drivers/schema.sql");
const MIGRATIONS: &str = include_str!("../drivers/migrations.toml");
const STEPS: &str = include_str!("../drivers/steps.json");
/// The rows of the schema again, with writes that are mirrored.
const RESET: &str = "
    DELETE FROM items; DELETE FROM pairs; DELETE FROM other;
    ALTER SEQUENCE items_id_seq RESTART;
    INSERT INTO other VALUES (1, 'one'), (2, 'two'), (3, 'three');
    INSERT INTO items (sku, qty, price, note)
        SELECT 'old-' || i, i, i + 0.25, CASE WHEN i % 3 = 0 THEN 'note ' || i END
        FROM generate_series(1, 50) AS i;
    INSERT INTO pairs SELECT i % 5, 'p' || i, i FROM generate_series(1, 20) AS i";
const NAMES: [&str; 2] = ["items", "pairs"];
const MAPPED: [[&str; 2]; 2] = [
    [
        "SELECT id, sku, qty, (price * 100)::bigint, tag, doc, at, raw, labels, nums, flag, note \
         FROM items ORDER BY id",
        "SELECT id, code, quantity, price_minor, tag, doc, at, raw, labels, nums, flag, note \
         FROM items_v2 ORDER BY id",
    ],
    [
        "SELECT a, b, v FROM pairs ORDER BY a, b",
        "SELECT first, second, v FROM pairs_v2 ORDER BY first, second",
    ],
];

async fn prepared_database() -> TestDb {
    let db = database().await;
    db.client.batch_execute(SCHEMA).await.unwrap();
    db
}

/// What a driver is pointed at.
#[derive(Clone)]
struct At {
    conninfo: String,
    port: u16,
    database: String,
}

/// The driver runs twice on equal tables. What the shadow may answer is found out beside the
/// sessions, so the shadow serves the second time what it did not yet the first time.
async fn twice<F: Future<Output = Vec<Value>>>(
    at: &At,
    driver: &impl Fn(At) -> F,
    between: impl AsyncFn(),
) -> Vec<Value> {
    let mut shown = driver(at.clone()).await;
    between().await;
    let client = connect(&at.conninfo).await;
    for statement in RESET.split(';') {
        client.batch_execute(statement).await.unwrap();
    }
    shown.extend(driver(at.clone()).await);
    shown
}

/// What a driver shows without a proxy.
async fn direct<F: Future<Output = Vec<Value>>>(driver: &impl Fn(At) -> F) -> Vec<Value> {
    let db = prepared_database().await;
    let at = At { conninfo: db.conninfo.clone(), port: db.port, database: db.name.clone() };
    twice(&at, driver, async || ()).await
}

/// What it shows through the proxy, with this share of reads from the shadow; afterwards source
/// and shadow are in step.
async fn proxied<F: Future<Output = Vec<Value>>>(
    reads: u32,
    driver: &impl Fn(At) -> F,
) -> Vec<Value> {
    let db = prepared_database().await;
    let mut toml: toml::Table = MIGRATIONS.parse().unwrap();
    for migration in toml["migration"].as_array_mut().unwrap() {
        let routing = toml::toml! { dark_reads = 0 };
        let mut routing = routing;
        routing.insert("reads".to_owned(), i64::from(reads).into());
        migration.as_table_mut().unwrap().insert("routing".to_owned(), routing.into());
    }
    let proxy = Proxy::start(&db, &toml.to_string()).await;
    for name in NAMES {
        steer::start(&proxy, name);
    }
    let at = At { conninfo: proxy.conninfo(), port: proxy.port, database: db.name.clone() };
    let in_step = async || {
        for (name, [source, shadow]) in NAMES.iter().zip(MAPPED) {
            steer::settled(&proxy, &db, name).await;
            assert_same(&db.client, source, shadow).await;
        }
        if reads > 0 {
            // A statement that was not understood needs a verify; then the shadow serves again.
            for probe in ["SELECT count(*) FROM items", "SELECT count(*) FROM pairs"] {
                steer::served_by_shadow(&proxy, &at.conninfo, probe).await;
            }
        }
    };
    in_step().await;
    let before = steer::count(&proxy, "shadow/read");
    let shown = twice(&at, driver, &in_step).await;
    let served = steer::count(&proxy, "shadow/read") - before;
    in_step().await;
    assert!(if reads == 0 { served == 0 } else { served > 20 }, "{served} shadow reads");
    shown
}

fn assert_equal(direct: &[Value], proxied: &[Value]) {
    let differences: Vec<String> = direct
        .iter()
        .zip(proxied)
        .filter(|(direct, proxied)| direct != proxied)
        .map(|(direct, proxied)| format!("direct:  {direct}\nproxied: {proxied}"))
        .collect();
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
    assert_eq!(direct.len(), proxied.len());
}

/// The driver shows the same direct, under dual write, and with all reads from the shadow.
async fn sees_no_difference<F: Future<Output = Vec<Value>>>(driver: impl Fn(At) -> F) {
    let expected = direct(&driver).await;
    assert!(expected.len() > 100, "{expected:?}");
    assert_equal(&expected, &proxied(0, &driver).await);
    assert_equal(&expected, &proxied(100, &driver).await);
}

/// The lines of a script, each a JSON value.
fn lines(command: &mut Command) -> Vec<Value> {
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaints}\n{said}");
    said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn psycopg(at: At, threshold: &str) -> Vec<Value> {
    let mut command = python();
    command.arg(format!("{FOLDER}/crud.py")).arg(&at.conninfo);
    lines(command.arg(format!("{FOLDER}/steps.json")).arg(threshold))
}

async fn node_postgres(at: At, mode: &str) -> Vec<Value> {
    let mut command = node();
    command.arg(format!("{FOLDER}/crud.cjs")).args([&at.port.to_string(), &at.database]);
    lines(command.arg(format!("{FOLDER}/steps.json")).arg(mode))
}

#[tokio::test(flavor = "multi_thread")]
async fn psycopg_as_it_is_sees_no_difference() {
    sees_no_difference(|at| psycopg(at, "default")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn psycopg_that_prepares_everything_sees_no_difference() {
    sees_no_difference(|at| psycopg(at, "0")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_postgres_with_parameters_sees_no_difference() {
    sees_no_difference(|at| node_postgres(at, "parameters")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_postgres_with_named_statements_sees_no_difference() {
    sees_no_difference(|at| node_postgres(at, "named")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokio_postgres_sees_no_difference() {
    sees_no_difference(rust_postgres).await;
}

/// A parameter of any type, sent as text.
#[derive(Debug)]
struct Text(Option<String>);

impl Text {
    fn new(value: &Value) -> Self {
        match value {
            Value::Null => Self(None),
            Value::String(text) => Self(Some(text.clone())),
            other => Self(Some(other.to_string())),
        }
    }
}

impl ToSql for Text {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        let Some(text) = &self.0 else { return Ok(IsNull::Yes) };
        out.extend_from_slice(text.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    tokio_postgres::types::to_sql_checked!();
}

/// A value of any type, as the bytes it came in.
struct Raw(Vec<u8>);

impl FromSql<'_> for Raw {
    fn from_sql(_: &Type, raw: &[u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(raw.to_vec()))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

fn shown(row: &Row) -> Value {
    (0..row.len()).map(|i| json!(row.get::<_, Option<Raw>>(i).map(|raw| raw.0))).collect()
}

fn shown_error(error: &tokio_postgres::Error) -> Value {
    let Some(e) = error.as_db_error() else { panic!("{error:?}") };
    json!([
        e.code().code(),
        e.severity(),
        e.message(),
        e.detail(),
        e.hint(),
        e.position().map(|at| format!("{at:?}")),
        e.where_(),
        e.schema(),
        e.table(),
        e.column(),
        e.constraint()
    ])
}

/// A session that shows what it gets.
struct Session {
    client: Client,
    tables: HashMap<u32, String>,
    statements: HashMap<String, Statement>,
}

impl Session {
    async fn open(at: &At) -> Self {
        let client = connect(&at.conninfo).await;
        let sql = "SELECT oid, relname::text FROM pg_class \
                   WHERE relnamespace = 'public'::regnamespace";
        let tables = client.query(sql, &[]).await.unwrap();
        let tables = tables.iter().map(|row| (row.get(0), row.get(1))).collect();
        Self { client, tables, statements: HashMap::new() }
    }

    fn described(&self, statement: &Statement) -> Value {
        let columns: Vec<Value> = statement
            .columns()
            .iter()
            .map(|column| {
                let table = column.table_oid().map(|oid| self.tables.get(&oid));
                json!([
                    column.name(),
                    column.type_().name(),
                    column.type_modifier(),
                    table,
                    column.column_id()
                ])
            })
            .collect();
        let parameters: Vec<u32> = statement.params().iter().map(Type::oid).collect();
        json!([parameters, columns])
    }

    async fn simple(&self, sql: &str) -> Result<Value, tokio_postgres::Error> {
        let messages = self.client.simple_query(sql).await?;
        Ok(messages
            .iter()
            .map(|message| match message {
                SimpleQueryMessage::Row(row) => {
                    (0..row.len()).map(|i| json!(row.get(i))).collect::<Value>()
                }
                SimpleQueryMessage::RowDescription(columns) => {
                    columns.iter().map(|column| json!(column.name())).collect()
                }
                SimpleQueryMessage::CommandComplete(count) => json!(count),
                other => panic!("{other:?}"),
            })
            .collect())
    }

    /// Prepared at its first use and kept for the next.
    async fn extended(
        &mut self,
        sql: &str,
        params: &[Value],
    ) -> Result<Value, tokio_postgres::Error> {
        if !self.statements.contains_key(sql) {
            let statement = self.client.prepare(sql).await?;
            self.statements.insert(sql.to_owned(), statement);
        }
        let statement = &self.statements[sql];
        let params: Vec<Text> = params.iter().map(Text::new).collect();
        let rows = self.client.query_raw(statement, &params).await?;
        let mut rows = std::pin::pin!(rows);
        let mut found = Vec::new();
        while let Some(row) = rows.try_next().await? {
            found.push(shown(&row));
        }
        // Rows of a table come in the order of their places in it, which vacuum changes.
        if sql.starts_with("UPDATE") || sql.starts_with("DELETE") {
            found.sort_by_key(Value::to_string);
        }
        Ok(json!([self.described(statement), found, rows.rows_affected()]))
    }
}

async fn rust_postgres(at: At) -> Vec<Value> {
    let mut session = Session::open(&at).await;
    let steps: Vec<Value> = serde_json::from_str(STEPS).unwrap();
    let mut all = Vec::new();
    for step in &steps {
        let sql = step["sql"].as_str().unwrap();
        let params = step["params"].as_array().cloned().unwrap_or_default();
        for _ in 0..step["repeat"].as_u64().unwrap_or(1) {
            let result = if step["simple"] == true {
                session.simple(sql).await
            } else {
                session.extended(sql, &params).await
            };
            all.push(json!([sql, result.unwrap_or_else(|error| shown_error(&error))]));
        }
    }
    all.extend(portals(&mut session).await);
    all.push(many_at_once(&session).await);
    for sql in ["SELECT * FROM items ORDER BY id", "SELECT * FROM pairs ORDER BY a, b"] {
        all.push(session.extended(sql, &[]).await.unwrap());
    }
    // Nobody can say what this would do, so the proxy must expect that it writes: last.
    all.push(shown_error(&session.simple("SELEC * FROM items").await.unwrap_err()));
    all
}

/// Results fetched a few rows at a time, of a read and of a write.
async fn portals(session: &mut Session) -> Vec<Value> {
    let mut all = Vec::new();
    let transaction = session.client.transaction().await.unwrap();
    for sql in [
        "SELECT id, sku, qty FROM items ORDER BY id",
        "INSERT INTO items (sku, qty) SELECT 'portal-' || i, i FROM generate_series(1, 9) AS i \
         RETURNING id, sku, qty",
    ] {
        let portal = transaction.bind(sql, &[]).await.unwrap();
        for most in [3, 1, 0, 0] {
            let rows = transaction.query_portal_raw(&portal, most).await.unwrap();
            let mut rows = std::pin::pin!(rows);
            let mut found = Vec::new();
            while let Some(row) = rows.try_next().await.unwrap() {
                found.push(shown(&row));
            }
            all.push(json!([sql, most, found, rows.rows_affected()]));
        }
    }
    transaction.commit().await.unwrap();
    all
}

/// Statements that are sent before the answers to earlier ones have come.
async fn many_at_once(session: &Session) -> Value {
    let client = &session.client;
    let write = client.prepare("UPDATE items SET qty = qty + $1 WHERE id = 1 RETURNING qty");
    let read = client.prepare("SELECT qty, sku FROM items WHERE id = $1");
    let (write, read) = (write.await.unwrap(), read.await.unwrap());
    let (write, read) = (&write, &read);
    let both = (0..20_i32).map(async |n| {
        if n % 2 == 0 {
            client.query(write, &[&n]).await.unwrap()
        } else {
            client.query(read, &[&1]).await.unwrap()
        }
    });
    let answers = join_all(both).await;
    answers.iter().map(|rows| rows.iter().map(shown).collect::<Value>()).collect()
}
