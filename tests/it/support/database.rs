//! The shared server and a fresh database per test.

use pgsegue::throwaway::{Options, Postgres};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio_postgres::Client;

// Never dropped; the server's own supervisor ends it with this process.
static SERVER: LazyLock<Postgres> = LazyLock::new(|| {
    Postgres::start(&Options::default()).unwrap_or_else(|error| panic!("{error}"))
});

static NEXT: AtomicU32 = AtomicU32::new(1);

/// The server that all tests of this run share; for tests that do not stop it.
pub fn server() -> &'static Postgres {
    &SERVER
}

/// A database of one test.
pub struct TestDb {
    /// Its name.
    pub name: String,
    /// How to connect to it directly, past any proxy.
    pub conninfo: String,
    /// The port of the server.
    pub port: u16,
    /// A direct connection.
    pub client: Client,
}

/// A fresh, empty database on the shared server.
pub async fn database() -> TestDb {
    database_on(server()).await
}

/// A fresh, empty database on a server of one's own.
pub async fn database_on(postgres: &Postgres) -> TestDb {
    let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
    postgres.create_database(&name).await.unwrap();
    let conninfo = postgres.conninfo(&name);
    let client = super::connect(&conninfo).await;
    TestDb { name, conninfo, port: postgres.port(), client }
}
