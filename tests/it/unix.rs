//! Unix sockets on either side of the proxy.

use crate::live::{ORDERS, ORDERS_TABLE, ORDERS_V2, orders_toml};
use crate::steer;
use crate::support::{
    Authority, Proxy, assert_same, connect, database, database_on, eventually, rows, server,
};
use pgsegue::throwaway::{Options, Postgres};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

/// A path short enough for a socket.
fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("pgsegue").tempdir_in("/tmp").unwrap()
}

fn listen_unix(folder: &Path) -> String {
    format!("[proxy]\nlisten_unix = \"{}\"\n", folder.display())
}

/// How to connect to a socket in this folder.
fn conninfo(folder: &Path, port: u16, database: &str) -> String {
    format!("host={} port={port} user=postgres dbname={database}", folder.display())
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_find_the_socket_as_libpq_looks_for_it() {
    let folder = folder();
    let authority = Authority::new("ours");
    let signed = authority.sign("proxy", &[]);
    let db = database().await;
    // A socket is not encrypted, and not refused for it.
    let tls = format!("[proxy.tls]\nmode = \"require\"\n{}", signed.toml());
    let proxy = Proxy::start(&db, &format!("{}{tls}", listen_unix(folder.path()))).await;
    let socket = folder.path().join(format!(".s.PGSQL.{}", proxy.port));
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o7777, 0o777);
    let local = conninfo(folder.path(), proxy.port, &db.name);
    for sslmode in ["prefer", "require"] {
        let output = Command::new(server().bin("psql").expect("psql is needed"))
            .args(["-XAtw", "-c", "SELECT 41 + 1", &format!("{local} sslmode={sslmode}")])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "42\n", "{output:?}");
    }
    let client = std::sync::Arc::new(connect(&local).await);
    let running = tokio::spawn({
        let client = std::sync::Arc::clone(&client);
        async move { client.batch_execute("SELECT pg_sleep(600)").await }
    });
    eventually("it sleeps", async || {
        let asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' \
                      AND datname = current_database()";
        let count = rows(&db.client, asleep).await;
        if count == [[Some("1".to_owned())]] { Ok(()) } else { Err(count) }
    })
    .await;
    client.cancel_token().cancel_query(tokio_postgres::NoTls).await.unwrap();
    assert_eq!(running.await.unwrap().unwrap_err().code().unwrap().code(), "57014");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_is_taken_from_the_dead_and_left_to_the_living() {
    let folder = folder();
    let db = database().await;
    let overrides = format!("{}listen_unix_mode = \"0700\"\n", listen_unix(folder.path()));
    let mut proxy = Proxy::start(&db, &overrides).await;
    let local = conninfo(folder.path(), proxy.port, &db.name);
    let socket = folder.path().join(format!(".s.PGSQL.{}", proxy.port));
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o7777, 0o700);
    proxy.kill_9();
    assert!(socket.exists());
    proxy.start_again().await;
    connect(&local).await;
    // In order: nothing is left behind.
    proxy.signal("TERM");
    assert_eq!(proxy.ended().await, Some(0));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    // What has taken the name since is not removed with the process.
    proxy.start_again().await;
    fs::remove_file(&socket).unwrap();
    let heir = UnixListener::bind(&socket).unwrap();
    proxy.signal("TERM");
    assert_eq!(proxy.ended().await, Some(0));
    assert!(socket.exists());
    // A Postgres has a lock beside its socket.
    fs::write(folder.path().join(format!(".s.PGSQL.{}.lock", proxy.port)), "1\n").unwrap();
    proxy.spawn();
    assert_eq!(proxy.ended().await, Some(2));
    assert!(proxy.log().contains("a Postgres listens on"), "{}", proxy.log());
    drop(heir);
    proxy.start_again().await;
    connect(&local).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_moves_on_a_server_that_is_reached_by_its_socket() {
    // Relative to the server's data folder.
    let settings = vec![("unix_socket_directories".to_owned(), "..".to_owned())];
    let postgres = Postgres::start(&Options { settings, ..Options::default() }).unwrap();
    let db = database_on(&postgres).await;
    db.client.batch_execute(&format!("{ORDERS};{ORDERS_V2}")).await.unwrap();
    let folder = folder();
    let at = postgres.folder();
    let local = conninfo(at, postgres.port(), &db.name);
    let overrides = format!(
        "{}[server]\naddress = \"{}:{}\"\ntls.mode = \"require\"\n[control]\nurl = \"{local}\"\n{}",
        listen_unix(folder.path()),
        at.display(),
        postgres.port(),
        orders_toml("", "reads = 100")
    );
    let proxy = Proxy::start(&db, &overrides).await;
    steer::start(&proxy, "orders_v2");
    let client = connect(&conninfo(folder.path(), proxy.port, &db.name)).await;
    client.batch_execute("UPDATE orders SET total = total + 1").await.unwrap();
    let from = rows(&client, "SELECT inet_client_addr()::text").await;
    assert_eq!(from, [[None]], "the server sees a socket");
    steer::settled(&proxy, &db, "orders_v2").await;
    assert_same(&db.client, ORDERS_TABLE.mapped, ORDERS_TABLE.shadow).await;
    postgres.stop_immediate().unwrap();
    let conninfo = conninfo(folder.path(), proxy.port, &db.name);
    let gone = eventually("it is told", async || {
        match tokio_postgres::connect(&conninfo, tokio_postgres::NoTls).await {
            Err(error) => error.as_db_error().map(|e| e.message().to_owned()).ok_or("closed"),
            Ok(_) => Err("open"),
        }
    })
    .await;
    assert!(gone.contains("cannot reach the server") && gone.contains(".s.PGSQL."), "{gone}");
}
