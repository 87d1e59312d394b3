//! The throwaway Postgres: several at once, restarts, and nothing left behind.

use crate::support::{connect, eventually, rows};
use pgsegue::throwaway::{Auth, Options, Postgres};
use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Set for the copy of this test program that is killed.
const TO_BE_KILLED: &str = "PGSEGUE_TEST_TO_BE_KILLED";

#[tokio::test]
async fn several_run_at_once_and_leave_nothing() {
    let servers =
        [(), ()].map(|()| std::thread::spawn(|| Postgres::start(&Options::default()).unwrap()));
    let [one, two] = servers.map(|server| server.join().unwrap());
    assert_ne!(one.port(), two.port());
    for server in [&one, &two] {
        server.create_database("Odd \"name").await.unwrap();
        let client = connect(&server.conninfo("postgres")).await;
        let settings = "SELECT current_setting('fsync'), current_setting('max_connections'), \
                        current_setting('max_prepared_transactions'), getdatabaseencoding()";
        let expected = ["off", "200", "10", "UTF8"].map(|text| Some(text.to_owned()));
        assert_eq!(rows(&client, settings).await, [expected.to_vec()]);
    }
    let places = [&one, &two].map(|server| (server.folder().to_owned(), server.port()));
    drop((one, two));
    for (folder, port) in places {
        assert!(!folder.exists(), "{} is left", folder.display());
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "port {port} still listens");
    }
}

#[tokio::test]
async fn keeps_port_and_data_over_a_crash_and_a_restart() {
    // Whoever waits for a crash to be survived wants commits to be on disk.
    let settings = vec![("synchronous_commit".to_owned(), "on".to_owned())];
    let server = Postgres::start(&Options { settings, auth: Auth::Trust }).unwrap();
    let conninfo = server.conninfo("postgres");
    connect(&conninfo).await.batch_execute("CREATE TABLE t AS SELECT 1 AS a").await.unwrap();
    server.stop_immediate().unwrap();
    assert!(TcpStream::connect((server.host(), server.port())).is_err());
    server.start_again().unwrap();
    connect(&conninfo).await.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
    server.restart().unwrap();
    let found = rows(&connect(&conninfo).await, "SELECT a FROM t ORDER BY a").await;
    assert_eq!(found, [[Some("1".to_owned())], [Some("2".to_owned())]]);
}

#[tokio::test]
async fn scram_asks_for_the_password() {
    let password = "it's a \\ secret".to_owned();
    let server =
        Postgres::start(&Options { settings: vec![], auth: Auth::Scram { password } }).unwrap();
    let found = rows(&connect(&server.conninfo("postgres")).await, "SELECT 1").await;
    assert_eq!(found, [[Some("1".to_owned())]]);
    let wrong = format!("host=127.0.0.1 port={} user=postgres password=wrong", server.port());
    let error =
        tokio_postgres::connect(&wrong, tokio_postgres::NoTls).await.map(|_| ()).unwrap_err();
    assert_eq!(error.code().map(|code| code.code()), Some("28P01"));
}

#[tokio::test]
async fn a_killed_parent_leaves_nothing() {
    let note = tempfile::NamedTempFile::new().unwrap();
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "throwaway::parent_to_be_killed"])
        .env(TO_BE_KILLED, note.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let (folder, port) = eventually("the parent has started its Postgres", async || {
        read_note(note.path()).ok_or("nothing")
    })
    .await;
    assert!(folder.exists());
    assert!(TcpStream::connect(("127.0.0.1", port)).is_ok());
    parent.kill().unwrap();
    parent.wait().unwrap();
    eventually(
        "the folder is gone",
        async || {
            if folder.exists() { Err("it exists") } else { Ok(()) }
        },
    )
    .await;
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}

/// Not a test of its own: what `a_killed_parent_leaves_nothing` runs and kills.
#[test]
fn parent_to_be_killed() {
    let Some(note) = std::env::var_os(TO_BE_KILLED) else { return };
    let server = Postgres::start(&Options::default()).unwrap();
    fs::write(note, format!("{}\n{}\n", server.port(), server.folder().display())).unwrap();
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

fn read_note(path: &Path) -> Option<(PathBuf, u16)> {
    let text = fs::read_to_string(path).ok()?;
    let (port, folder) = text.strip_suffix('\n')?.split_once('\n')?;
    Some((PathBuf::from(folder), port.parse().ok()?))
}
