//! What the commands of an operator stand on: the config file and the control schema.

use super::failure::Failure;
use crate::config::{self, Settings};
use crate::engine::{Control, Status};
use crate::pg::Database;
use crate::proxy::{Address, Server};
use std::path::Path;
use std::time::Duration;

pub(super) async fn control(config: &Path) -> Result<Control, Failure> {
    let settings = config::load(config)?;
    let database = database(&settings)?;
    Control::connect(database).await.map_err(|error| unreachable(error, database))
}

/// The database of `[control]`.
pub(super) fn database(settings: &Settings) -> Result<&Database, Failure> {
    settings.process.control.as_ref().ok_or_else(|| {
        Failure::new(
            "the config file has no [control]",
            "add [control] with url = \"postgres://pgsegue@127.0.0.1:5432/app\"",
        )
    })
}

/// The same database by the address that clients are sent to.
pub(super) fn server(control: &Database, server: &Server) -> Database {
    /// An address that does not answer is to be known before somebody gives up.
    const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
    let said = control.config();
    let mut config = tokio_postgres::Config::new();
    match &server.address {
        Address::Tcp { host, port } => config.host(host).port(*port),
        Address::Unix(socket) => {
            // The driver takes the folder and makes the socket's name of the port.
            let port = socket.extension().and_then(|port| port.to_str()?.parse().ok());
            config.host_path(socket.parent().unwrap_or(socket)).port(port.unwrap_or_default())
        }
    };
    config.connect_timeout(CONNECT_TIMEOUT);
    config.user(said.get_user().unwrap_or_default());
    config.dbname(said.get_dbname().unwrap_or_default());
    if let Some(password) = said.get_password() {
        config.password(password);
    }
    Database::new(config, server.tls.clone())
}

/// The status of a migration that must be there.
pub(super) async fn status(control: &Control, name: &str) -> Result<Status, Failure> {
    match control.status(name).await? {
        Some(status) => Ok(status),
        None => Err(unknown(control, name).await),
    }
}

/// Who is asking, for the audit trail.
pub(super) fn who(command: &str) -> String {
    let user = ["USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok());
    format!("{} via pgsegue {command}", user.as_deref().unwrap_or("an unknown user"))
}

pub(super) fn unreachable(error: impl std::error::Error, database: &Database) -> Failure {
    let database = database.config();
    let failure = Failure::from_error(&error);
    // What the driver says when the server asks for a password and there is none.
    if database.get_password().is_none() && failure.says("password missing") {
        let hint = "set PGPASSWORD, or password_file in [control] of the config file";
        return failure.hint(hint);
    }
    let hosts: Vec<String> = database
        .get_hosts()
        .iter()
        .zip(database.get_ports().iter().chain(std::iter::repeat(&5432)))
        .map(|(host, port)| match host {
            tokio_postgres::config::Host::Tcp(host) => format!("{host}:{port}"),
            tokio_postgres::config::Host::Unix(path) => path.display().to_string(),
        })
        .collect();
    let user = database.get_user().unwrap_or("?");
    let hint = format!("[control] in the config file names {} as user {user}", hosts.join(", "));
    failure.hint(hint)
}

async fn unknown(control: &Control, name: &str) -> Failure {
    let known: Vec<String> =
        control.list().await.unwrap_or_default().into_iter().map(|status| status.name).collect();
    let hint = if known.is_empty() {
        "no proxy has declared a migration yet: add it to the config file and run `pgsegue serve`"
            .to_owned()
    } else {
        format!("there are: {}", known.join(", "))
    };
    Failure::new(format!("there is no migration \"{name}\""), hint)
}
