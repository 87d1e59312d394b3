//! A Postgres of one's own for a test or the demo: found on this machine, started in a temporary
//! folder on a free port, and gone with the process that started it, however that ends.
//!
//! Invariant: the server lives under a supervising shell that holds the read end of a pipe; the
//! write end is held by this process alone, so the end of the process (return, panic, Ctrl-C,
//! `kill -9`) ends the server and removes its folder. Knows nothing of pgsegue.

mod error;
mod find;
mod supervisor;
mod user;

pub use error::Error;

use crate::sql::ident::Ident;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use supervisor::{Answer, Command, Supervisor};
use user::User;

/// Ports are picked free and may be taken before Postgres binds them.
const PORT_TRIES: u32 = 5;

/// How to set up the server.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Settings of `postgresql.conf`, after (so: over) the ones that every throwaway server has.
    pub settings: Vec<(String, String)>,
    /// How clients prove who they are.
    pub auth: Auth,
}

/// How clients prove who they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Auth {
    /// Not at all.
    #[default]
    Trust,
    /// By SCRAM-SHA-256; this is the password of `postgres`.
    Scram {
        /// The password.
        password: String,
    },
}

/// A running server; dropping it ends the server and removes its folder.
#[derive(Debug)]
pub struct Postgres {
    port: u16,
    bin: PathBuf,
    folder: PathBuf,
    auth: Auth,
    // A std mutex: held for one command to the supervisor, never over an await.
    supervisor: Mutex<Supervisor>,
}

impl Postgres {
    /// Finds the binaries, creates a cluster, starts it and waits until it accepts connections:
    /// one to two seconds, blocking.
    ///
    /// # Errors
    /// When no Postgres is installed (the message says how to install one), or it does not start.
    pub fn start(options: &Options) -> Result<Self, Error> {
        let user = User::for_postgres()?;
        let bin = find::binaries(user.as_ref())?;
        let mut log = String::new();
        for _ in 0..PORT_TRIES {
            match Self::try_start(options, &bin, user.as_ref()) {
                Err(Error::DidNotStart { log: reason }) if reason.contains("could not bind") => {
                    log = reason;
                }
                done => return done,
            }
        }
        Err(Error::DidNotStart { log })
    }

    fn try_start(options: &Options, bin: &Path, user: Option<&User>) -> Result<Self, Error> {
        let port = free_port()?;
        let folder = create_folder(user)?;
        let mut files = vec![("settings", settings(options, port)), ("log", String::new())];
        if let Auth::Scram { password } = &options.auth {
            files.push(("password", format!("{password}\n")));
        }
        for (name, text) in files {
            let path = folder.join(name);
            fs::write(&path, text).map_err(Error::io("cannot write", &path))?;
            user::give(&path, user)?;
        }
        let auth = match options.auth {
            Auth::Trust => "trust",
            Auth::Scram { .. } => "scram-sha-256",
        };
        let supervisor = Supervisor::spawn(bin, &folder, auth, user)?;
        let postgres = Self {
            port,
            bin: bin.to_owned(),
            folder,
            auth: options.auth.clone(),
            supervisor: Mutex::new(supervisor),
        };
        postgres.start_again()?;
        Ok(postgres)
    }

    /// The address it listens on: this machine only.
    pub fn host(&self) -> &'static str {
        "127.0.0.1"
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A connection string of the superuser `postgres` for one database.
    pub fn conninfo(&self, database: &str) -> String {
        let mut text =
            format!("host={} port={} user=postgres dbname={database}", self.host(), self.port);
        if let Auth::Scram { password } = &self.auth {
            let escaped = password.replace('\\', "\\\\").replace('\'', "\\'");
            text.push_str(&format!(" password='{escaped}'"));
        }
        text
    }

    /// A program of this Postgres, or else of the search path: `psql`, `pgbench`. Some builds
    /// have only the server.
    pub fn bin(&self, name: &str) -> Option<PathBuf> {
        std::iter::once(self.bin.clone())
            .chain(find::search_path())
            .map(|folder| folder.join(name))
            .find(|path| path.is_file())
    }

    /// The folder that holds everything of this server.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the server has logged so far.
    pub fn log(&self) -> String {
        fs::read(self.folder.join("log"))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Ends the server as a power cut would (SIGQUIT, crash recovery at the next start); the data
    /// stay.
    ///
    /// # Errors
    /// When the supervisor is gone.
    pub fn stop_immediate(&self) -> Result<(), Error> {
        self.command(Command::Crash, &Answer::Stopped)
    }

    /// Starts the server again after [`Postgres::stop_immediate`], on the same port.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_again(&self) -> Result<(), Error> {
        self.command(Command::Start, &Answer::Ready)
    }

    /// Ends the server's sessions in order (SIGINT) and starts it again on the same port.
    ///
    /// # Errors
    /// When it does not start again.
    pub fn restart(&self) -> Result<(), Error> {
        self.command(Command::Stop, &Answer::Stopped)?;
        self.start_again()
    }

    /// Creates an empty database.
    ///
    /// # Errors
    /// When the server refuses, for example because the database exists.
    pub async fn create_database(&self, name: &str) -> Result<(), Error> {
        let (client, connection) =
            tokio_postgres::connect(&self.conninfo("postgres"), tokio_postgres::NoTls).await?;
        let running = tokio::spawn(connection);
        let sql = format!("CREATE DATABASE {}", Ident::new(name).quoted());
        let created = client.batch_execute(&sql).await;
        running.abort();
        Ok(created?)
    }

    fn command(&self, command: Command, expected: &Answer) -> Result<(), Error> {
        let mut supervisor = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = supervisor.ask(command)?;
        if answer == *expected {
            return Ok(());
        }
        Err(Error::DidNotStart { log: self.log() })
    }
}

fn free_port() -> Result<u16, Error> {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(Error::io("cannot find a free port on", Path::new("127.0.0.1")))
}

/// An empty folder that only the server's user can enter.
fn create_folder(user: Option<&User>) -> Result<PathBuf, Error> {
    let parent = user::temporary_folder(user);
    let folder = tempfile::Builder::new()
        .prefix("pgsegue-postgres-")
        .tempdir_in(&parent)
        .map_err(Error::io("cannot create a folder in", &parent))?;
    user::give(folder.path(), user)?;
    Ok(folder.keep())
}

/// Durability is off: the data do not outlive the process. `max_prepared_transactions` is not 0
/// because prepared transactions are one of the things a migration must cope with.
fn settings(options: &Options, port: u16) -> String {
    let port = port.to_string();
    let own = [
        ("listen_addresses", "127.0.0.1"),
        ("port", port.as_str()),
        ("unix_socket_directories", ""),
        ("fsync", "off"),
        ("full_page_writes", "off"),
        ("synchronous_commit", "off"),
        ("shared_buffers", "128MB"),
        ("max_connections", "200"),
        ("max_prepared_transactions", "10"),
    ];
    let extra = options.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    own.into_iter()
        .chain(extra)
        .map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_settings_win_and_quotes_stay() {
        let options = Options {
            settings: vec![("log_line_prefix".into(), "it's ".into())],
            auth: Auth::Trust,
        };
        let text = settings(&options, 5433);
        assert!(text.contains("port = '5433'\n"), "{text}");
        assert!(text.ends_with("log_line_prefix = 'it''s '\n"), "{text}");
    }
}
