//! The real binary as a child process, in front of one test's database.

use super::{TestDb, eventually};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_pgsegue");

/// A running `pgsegue serve`; ends with the test, and shows its log when the test fails.
pub struct Proxy {
    /// Where clients connect.
    pub port: u16,
    /// Where the admin server listens.
    pub admin_port: u16,
    base: toml::Table,
    database: String,
    folder: TempDir,
    child: Option<Child>,
}

impl Proxy {
    /// Starts it with the given TOML merged over the addresses, and waits until it is ready.
    pub async fn start(db: &TestDb, overrides: &str) -> Self {
        let mut proxy = Self::prepare(db, overrides);
        proxy.start_again().await;
        proxy
    }

    /// The config file alone: for commands that need no running proxy, and for failing starts.
    pub fn prepare(db: &TestDb, overrides: &str) -> Self {
        let (port, admin_port) = (free_port(), free_port());
        let conninfo = toml::Table::from_iter([("url".to_owned(), db.conninfo.clone().into())]);
        let base = format!(
            "proxy.listen = \"127.0.0.1:{port}\"\nserver.address = \"127.0.0.1:{}\"\n\
             admin.listen = \"127.0.0.1:{admin_port}\"\n\n[control]\n{conninfo}",
            db.port
        );
        let proxy = Self {
            port,
            admin_port,
            base: base.parse().unwrap(),
            database: db.name.clone(),
            folder: tempfile::tempdir().unwrap(),
            child: None,
        };
        proxy.rewrite_config(overrides);
        proxy
    }

    /// Another process for the same ports, with the same config file; not started.
    pub fn successor(&self) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::copy(self.config_path(), folder.path().join("pgsegue.toml")).unwrap();
        Self {
            port: self.port,
            admin_port: self.admin_port,
            base: self.base.clone(),
            database: self.database.clone(),
            folder,
            child: None,
        }
    }

    /// Waits until it takes clients, by its log: another process may have the admin port.
    pub async fn until_it_says_ready(&mut self) {
        eventually("the proxy says that it is ready", async || {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "pgsegue serve ended: {ended:?}\n{}", self.log());
            let log = self.log();
            if log.contains("INFO ready listen") { Ok(()) } else { Err(log) }
        })
        .await;
    }

    /// How to connect through it to the test's database.
    pub fn conninfo(&self) -> String {
        format!("host=127.0.0.1 port={} user=postgres dbname={}", self.port, self.database)
    }

    /// Spawns the process on the same ports and waits until it is ready.
    pub async fn start_again(&mut self) {
        self.spawn();
        eventually("the proxy is ready", async || {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "pgsegue serve ended: {ended:?}\n{}", self.log());
            match self.try_get("/readyz") {
                Some((200, _)) => Ok(()),
                other => Err(other),
            }
        })
        .await;
    }

    /// Spawns the process and waits for nothing.
    pub fn spawn(&mut self) {
        self.spawn_by(Command::new(BINARY));
    }

    /// The same with a listening socket that it inherits, as systemd does it.
    pub fn spawn_with_socket(&mut self, listener: &TcpListener) {
        socket2::SockRef::from(listener).set_cloexec(false).unwrap();
        let mut shell = Command::new("bash");
        let script = "exec 3<&\"$1\"; shift; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"";
        let socket = listener.as_raw_fd().to_string();
        shell.args(["-c", script, "bash", &socket, BINARY]);
        self.spawn_by(shell);
    }

    fn spawn_by(&mut self, mut command: Command) {
        assert!(self.child.is_none(), "it runs already");
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let child = command
            .args(["serve", "--config"])
            .arg(self.config_path())
            .env("PGSEGUE_LOG", "info,pgsegue=debug")
            .env_remove("PGPASSWORD")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// Ends it as a crash would.
    pub fn kill_9(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Sends a signal (`TERM`, `HUP`, `INT`).
    pub fn signal(&self, name: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits until the process has ended by itself; its exit code.
    pub async fn ended(&mut self) -> Option<i32> {
        let mut child = self.child.take().unwrap();
        let status =
            eventually("the proxy has ended", async || child.try_wait().unwrap().ok_or("it runs"))
                .await;
        status.code()
    }

    /// SIGTERM, the end, and a new process on the same ports.
    pub async fn restart(&mut self) {
        self.signal("TERM");
        assert_eq!(self.ended().await, Some(0), "{}", self.log());
        self.start_again().await;
    }

    /// Replaces the config file, as an editor does it: addresses as before, the rest as given.
    pub fn rewrite_config(&self, overrides: &str) {
        let mut merged = self.base.clone();
        merge(&mut merged, overrides.parse().unwrap());
        self.write_config(&toml::to_string(&merged).unwrap());
    }

    /// Replaces the config file with exactly this text.
    pub fn write_config(&self, text: &str) {
        let next = self.folder.path().join("next.toml");
        fs::write(&next, text).unwrap();
        fs::rename(&next, self.config_path()).unwrap();
    }

    /// The config file.
    pub fn config_path(&self) -> PathBuf {
        self.folder.path().join("pgsegue.toml")
    }

    /// Runs a command of the CLI with this proxy's config file.
    pub fn pgsegue(&self, arguments: &[&str]) -> Output {
        pgsegue(&self.config_path(), arguments)
    }

    /// GET on the admin server: status and body.
    pub fn get(&self, path: &str) -> (u16, String) {
        self.try_get(path).expect("the admin server answers")
    }

    /// The value of one line of `/metrics`, named with its labels as they are printed there.
    pub fn metric(&self, line: &str) -> Option<f64> {
        let (_, text) = self.get("/metrics");
        let value = text.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' '))?;
        value.parse().ok()
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// GET on the admin server, if it is there.
    pub fn try_get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.admin_port)).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, body.to_owned()))
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("log")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
        if std::thread::panicking() {
            eprintln!("--- log of pgsegue serve\n{}---", self.log());
        }
    }
}

/// Runs a command of the CLI with a config file.
pub fn pgsegue(config: &Path, arguments: &[&str]) -> Output {
    Command::new(BINARY)
        .arg("--config")
        .arg(config)
        .args(arguments)
        .env("USER", "tester")
        .env_remove("PGPASSWORD")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// A port below those that systems give to outgoing connections, so that it stays free while the
/// proxy is down.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % 9_000).unwrap();
    loop {
        let port = 20_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn merge(base: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => merge(old, new),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}
