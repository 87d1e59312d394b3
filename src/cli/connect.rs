//! What the commands of an operator stand on: the config file and the control schema.

use super::failure::Failure;
use crate::config::{self, Settings};
use crate::engine::{Control, Status};
use crate::pg::Database;
use std::path::Path;

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
