//! Databases with a migration under way, reached through the real proxy, next to plain ones
//! without any: what the tests of statements, interleavings and the wire stand on.

mod pair;
pub mod raw;

pub use pair::{Pair, Table};
pub use raw::Raw;

use crate::support::{Proxy, TestDb, assert_same, connect, database, eventually, rows};
use std::process::Output;
use tokio_postgres::{Client, SimpleQueryMessage};

/// A table and its shadow of another shape, with ten rows.
pub const ORDERS: &str = "
    CREATE TABLE orders (
        id int PRIMARY KEY, user_id int NOT NULL, total int NOT NULL DEFAULT 7, note text,
        email text UNIQUE
    ) WITH (autovacuum_enabled = off);
    INSERT INTO orders SELECT i, i % 3, i * 10, 'note ' || i, 'e' || i
        FROM generate_series(1, 10) AS i;
    CREATE TABLE other (id int PRIMARY KEY, orders_id int, note text);
    INSERT INTO other SELECT i, i + 1, 'other ' || i FROM generate_series(1, 5) AS i;
    ANALYZE";

/// The shadow of [`ORDERS`].
pub const ORDERS_V2: &str = "
    CREATE TABLE orders_v2 (
        id bigint PRIMARY KEY, customer_id int NOT NULL, total_minor bigint NOT NULL,
        currency text NOT NULL, note text, email text)";

/// The migration of [`ORDERS`] to [`ORDERS_V2`]; further keys of [[migration]] and
/// [migration.routing] may follow in `migration`.
pub fn orders_toml(keys: &str, routing: &str) -> String {
    format!(
        r#"
[[migration]]
name = "orders_v2"
source = "public.orders"
shadow = "public.orders_v2"
key = ["id"]
{keys}
[migration.columns]
id = "id"
customer_id = "user_id"
total_minor = "total::bigint * 100"
currency = "'EUR'"
note = "note"
email = "email"
[migration.reverse]
user_id = "customer_id"
total = "(total_minor / 100)::int"
[migration.routing]
{routing}
"#
    )
}

/// [`ORDERS`] and its shadow, to be compared.
pub const ORDERS_TABLE: Table = Table {
    migration: "orders_v2",
    source: "TABLE orders ORDER BY id",
    mapped: "SELECT id::bigint, user_id, total::bigint * 100, 'EUR', note, email \
             FROM orders ORDER BY id",
    shadow: "SELECT id, customer_id, total_minor, currency, note, email \
             FROM orders_v2 ORDER BY id",
};

/// A database with its proxy.
pub struct Live {
    pub db: TestDb,
    pub proxy: Proxy,
}

impl Live {
    /// The proxy in front of a fresh database with this schema; nothing is started.
    pub async fn declared(ddl: &str, toml: &str) -> Self {
        let mut db = database().await;
        db.client.batch_execute(ddl).await.unwrap_or_else(|e| panic!("{e:?}"));
        let proxy = Proxy::start(&db, toml).await;
        // The barrier waits for busy connections that are older than the engine.
        db.client = connect(&db.conninfo).await;
        Self { db, proxy }
    }

    /// The same with the migrations of these names taken to ready.
    pub async fn ready(ddl: &str, toml: &str, names: &[&str]) -> Self {
        let live = Self::declared(ddl, toml).await;
        for name in names {
            live.start(name);
        }
        for name in names {
            live.until_phase(name, "ready").await;
        }
        live
    }

    /// Asks for the start of a migration.
    pub fn start(&self, name: &str) {
        self.cli(&["migration", "start", name, "--no-wait"]);
    }

    /// Fails unless source and shadow of [`ORDERS`] agree once everything is repaired.
    pub async fn orders_in_step(&self) {
        self.until_clean("orders_v2").await;
        assert_same(&self.db.client, ORDERS_TABLE.mapped, ORDERS_TABLE.shadow).await;
    }

    /// [`ORDERS`] and its shadow, ready.
    pub async fn orders(keys: &str, routing: &str) -> Self {
        let ddl = format!("{ORDERS};{ORDERS_V2}");
        Self::ready(&ddl, &orders_toml(keys, routing), &["orders_v2"]).await
    }

    /// Runs a command that must succeed.
    pub fn cli(&self, arguments: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.proxy.pgsegue(arguments);
        let said = String::from_utf8_lossy(&stderr);
        assert!(status.success(), "{arguments:?}: {said}");
        String::from_utf8_lossy(&stdout).into_owned()
    }

    /// Waits for a phase of the migration.
    pub async fn until_phase(&self, name: &str, phase: &str) {
        let status = format!("SELECT phase::text FROM pgsegue.migrations WHERE name = '{name}'");
        eventually(&format!("{name} is {phase}"), async || {
            let seen = text(&self.db.client, &status).await;
            assert!(phase == "blocked" || !seen.contains("\"blocked\""), "{seen}");
            let wanted = format!("\"phase\": \"{phase}\"");
            if seen.contains(&wanted) { Ok(()) } else { Err(seen) }
        })
        .await;
    }

    /// Asks for a full verify and waits for its end.
    pub async fn verified(&self, name: &str) {
        let passes = format!("SELECT verify_passes FROM pgsegue.migrations WHERE name = '{name}'");
        // While a repair runs the engine takes no request: it verifies by itself afterwards.
        let mut before = String::new();
        eventually("a verify is asked for", async || {
            before = text(&self.db.client, &passes).await;
            let Output { status, stderr, .. } = self.proxy.pgsegue(&["migration", "verify", name]);
            let said = String::from_utf8_lossy(&stderr).into_owned();
            if status.success() { Ok(()) } else { Err(said) }
        })
        .await;
        eventually("a verify pass is over", async || {
            let now = text(&self.db.client, &passes).await;
            if now == before { Err(now) } else { Ok(()) }
        })
        .await;
    }

    /// Waits until no key is dirty and the verify that a mark asks for is over.
    pub async fn until_clean(&self, name: &str) {
        let status = format!(
            "SELECT (SELECT count(*) FROM pgsegue.dirty_keys WHERE migration = '{name}') || ' ' || \
             (phase ->> 'phase') FROM pgsegue.migrations WHERE name = '{name}'"
        );
        eventually(&format!("{name} is ready and clean"), async || {
            let seen = text(&self.db.client, &status).await;
            if seen == "0 ready" { Ok(()) } else { Err(seen) }
        })
        .await;
    }

    /// Waits until the engine lets the shadow serve reads again: a read of a text that it has
    /// vetted goes there.
    pub async fn until_shadow_serves(&self, client: &Client, sql: &str) {
        eventually(&format!("the shadow serves {sql}"), async || {
            let before = self.shadow_reads();
            rows(client, sql).await;
            if self.shadow_reads() > before { Ok(()) } else { Err(before) }
        })
        .await;
    }

    /// Runs a query until the source answers it again: a lever reaches the proxy by a notice.
    pub async fn until_source_serves(&self, client: &Client, sql: &str) {
        eventually("the source serves", async || {
            let before = self.shadow_reads();
            client.simple_query(sql).await.map_err(|e| e.to_string())?;
            if self.shadow_reads() - before < 0.5 { Ok(()) } else { Err("the shadow".to_owned()) }
        })
        .await;
    }

    /// Statements so far that the shadow answered.
    pub fn shadow_reads(&self) -> f64 {
        self.statements("shadow", "read")
    }

    /// Statements so far by route and kind.
    pub fn statements(&self, route: &str, kind: &str) -> f64 {
        let line = format!("pgsegue_statements_total{{kind=\"{kind}\",route=\"{route}\"}}");
        self.proxy.metric(&line).unwrap_or(0.0)
    }

    /// A client through the proxy.
    pub async fn client(&self) -> Client {
        connect(&self.proxy.conninfo()).await
    }

    /// A raw client through the proxy.
    pub async fn raw(&self) -> Raw {
        Raw::connect(self.proxy.port, "postgres", &self.db.name).await
    }

    /// A direct connection.
    pub async fn direct(&self) -> Client {
        connect(&self.db.conninfo).await
    }

    /// Dirty keys as a direct session sees them, with their reasons.
    pub async fn dirty(&self) -> Vec<(String, String)> {
        let sql = "SELECT key::text, reason FROM pgsegue.dirty_keys ORDER BY at, ctid";
        let text = |v: &Option<String>| v.clone().unwrap_or_else(|| "all".to_owned());
        rows(&self.db.client, sql).await.iter().map(|r| (text(&r[0]), text(&r[1]))).collect()
    }

    /// Waits until some backend waits for a lock with a query like this.
    pub async fn until_blocked(&self, like: &str) {
        let sql = "SELECT query FROM pg_stat_activity WHERE datname = current_database() \
                   AND wait_event_type = 'Lock' AND pid <> pg_backend_pid()";
        eventually(&format!("a backend waits with {like}"), async || {
            let seen = rows(&self.db.client, sql).await.concat();
            let found = seen.iter().flatten().any(|q| q.contains(like));
            if found { Ok(()) } else { Err(seen) }
        })
        .await;
    }
}

/// The values of a query, one after the other.
pub async fn text(client: &Client, sql: &str) -> String {
    let values = rows(client, sql).await.concat();
    values.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// The command tags' row counts and the rows of a simple query, or its SQLSTATE and message.
pub async fn outcome(client: &Client, sql: &str) -> Result<Vec<u64>, String> {
    match client.simple_query(sql).await {
        Ok(messages) => Ok(messages
            .iter()
            .filter_map(|m| match m {
                SimpleQueryMessage::CommandComplete(n) => Some(*n),
                _ => None,
            })
            .collect()),
        Err(error) => {
            let error = error.as_db_error().expect("an error of the server");
            Err(format!("{} {}", error.code().code(), error.message()))
        }
    }
}
