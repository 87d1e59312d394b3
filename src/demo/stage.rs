//! Where the demo is played: a throwaway Postgres, the tables, a config file, and the real proxy
//! in this process. All of it is gone when the stage is.

use super::error::Error;
use super::probe::Probe;
use super::tables::{self, Addresses, Shares};
use crate::app;
use crate::engine::{Control, Status};
use crate::throwaway::{self, Postgres};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::{Client, NoTls};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Ports are picked free and may be taken before the proxy binds them.
const PORT_TRIES: u32 = 5;
const READY: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);
/// Sessions and the engine end within milliseconds once no client is left.
const END: Duration = Duration::from_secs(10);

/// The server, the proxy, and the ways to look at them. The order of the fields is the order in
/// which they end.
#[derive(Debug)]
pub struct Stage {
    control: Control,
    direct: Client,
    proxy: Proxy,
    config: PathBuf,
    addresses: Addresses,
    /// Takes the folder with the config file along.
    postgres: Postgres,
}

#[derive(Debug)]
struct Proxy {
    running: JoinHandle<Result<(), app::Error>>,
    stop: DropGuard,
}

impl Stage {
    /// Starts the server: nothing is in it yet.
    pub(super) async fn server() -> Result<Postgres, Error> {
        let started = tokio::task::spawn_blocking(|| {
            // What 200,000 rows and a few minutes of traffic write, without a checkpoint.
            let settings = vec![("max_wal_size".to_owned(), "4GB".to_owned())];
            Postgres::start(&throwaway::Options { settings, auth: throwaway::Auth::Trust })
        });
        Ok(started.await??)
    }

    /// Creates the tables and starts the proxy.
    pub(super) async fn build(postgres: Postgres) -> Result<Self, Error> {
        postgres.create_database("demo").await?;
        let (direct, connection) =
            tokio_postgres::connect(&postgres.conninfo("demo"), NoTls).await?;
        // Ends with the client.
        drop(tokio::spawn(connection));
        direct.batch_execute(&tables::create()).await?;
        let config = folder(&postgres)?.join("pgsegue.toml");
        let (proxy, addresses) = proxy(&config, postgres.port()).await?;
        let database = postgres.conninfo("demo").parse::<tokio_postgres::Config>()?.into();
        let control = Control::connect(&database).await?;
        Ok(Self { control, direct, proxy, config, addresses, postgres })
    }

    /// For clients: through the proxy, as a role that may do no more than an app.
    pub(super) fn conninfo(&self) -> String {
        let port = self.addresses.proxy.port();
        format!("host=127.0.0.1 port={port} user=app dbname=demo application_name=demo")
    }

    pub(super) fn probe(&self) -> Probe {
        Probe::new(self.addresses.admin)
    }

    pub(super) fn control(&self) -> &Control {
        &self.control
    }

    /// Past the proxy, as the superuser.
    pub(super) fn direct(&self) -> &Client {
        &self.direct
    }

    pub(super) async fn status(&self) -> Result<Status, Error> {
        if self.proxy.running.is_finished() {
            return Err(Error::Proxy(None));
        }
        let status = self.control.status(tables::NAME).await?;
        status.ok_or_else(|| Error::Stopped("the proxy does not know it".to_owned()))
    }

    /// Replaces the config file as an editor does it. Returns when the rename began.
    pub(super) fn set_shares(&self, shares: Shares) -> Result<Instant, Error> {
        write(&self.config, &tables::config(&self.addresses, shares))
    }

    /// Connection strings and the like, for somebody who wants to look around.
    pub fn doors(&self) -> Vec<(&'static str, String)> {
        let Addresses { proxy, admin, .. } = self.addresses;
        let port = self.postgres.port();
        vec![
            ("through the proxy", format!("psql postgres://app@{proxy}/demo")),
            ("past the proxy", format!("psql postgres://postgres@127.0.0.1:{port}/demo")),
            ("metrics", format!("curl http://{admin}/metrics")),
            ("status", format!("pgsegue -c {} migration status orders_v2", self.config.display())),
            ("the config file", self.config.display().to_string()),
        ]
    }

    /// Ends the proxy in order, then the server.
    ///
    /// # Errors
    /// When the proxy ended with an error, or not in time.
    pub async fn close(self) -> Result<(), Error> {
        let Self { control, direct, proxy, postgres, .. } = self;
        drop((control, direct));
        drop(proxy.stop);
        let what = "the proxy ends".to_owned();
        let ended = timeout(END, proxy.running).await;
        drop(postgres);
        ended
            .map_err(|_elapsed| Error::Late { what, seconds: END.as_secs() })??
            .map_err(|error| Error::Proxy(Some(error)))
    }
}

/// A folder for the config file inside the server's, so that it goes with it, however this
/// process ends.
fn folder(postgres: &Postgres) -> Result<PathBuf, Error> {
    let folder = postgres.folder().join("pgsegue");
    let made = fs::create_dir(&folder).and_then(|()| {
        let owner = fs::metadata(postgres.folder())?;
        chown(&folder, Some(owner.uid()), Some(owner.gid()))
    });
    made.map_err(|source| Error::File { path: folder.clone(), source })?;
    Ok(folder)
}

fn write(path: &Path, text: &str) -> Result<Instant, Error> {
    let next = path.with_extension("next");
    let file = |source| Error::File { path: path.to_owned(), source };
    fs::write(&next, text).map_err(file)?;
    let began = Instant::now();
    fs::rename(&next, path).map_err(file)?;
    Ok(began)
}

/// Writes the config file and runs the proxy by it until it takes clients.
async fn proxy(config: &Path, postgres_port: u16) -> Result<(Proxy, Addresses), Error> {
    let mut tries = 0;
    loop {
        tries += 1;
        let addresses = Addresses { proxy: free()?, admin: free()?, postgres_port };
        write(config, &tables::config(&addresses, Shares::NONE))?;
        let stop = CancellationToken::new();
        let (path, token) = (config.to_owned(), stop.clone());
        // Its future stays on one thread; its sessions and its engine are tasks like any others.
        let runtime = Handle::current();
        let mut running =
            tokio::task::spawn_blocking(move || runtime.block_on(app::serve(&path, token)));
        let stop = stop.drop_guard();
        let probe = Probe::new(addresses.admin);
        tokio::select! {
            ended = &mut running => match ended? {
                Err(app::Error::Listen { .. }) if tries < PORT_TRIES => {}
                ended => return Err(Error::Proxy(ended.err())),
            },
            ready = until_ready(&probe) => {
                ready?;
                return Ok((Proxy { running, stop }, addresses));
            }
        }
    }
}

async fn until_ready(probe: &Probe) -> Result<(), Error> {
    let ready = async {
        while !probe.is_ready().await {
            sleep(POLL).await;
        }
    };
    let what = || "the proxy takes clients".to_owned();
    let late = |_| Error::Late { what: what(), seconds: READY.as_secs() };
    timeout(READY, ready).await.map_err(late)
}

fn free() -> Result<SocketAddr, Error> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map_err(Error::Admin)
}
