//! The config file: its TOML form, its validation, its reload. The only place that knows TOML.
//!
//! Invariant: a file is in force as a whole or not at all. Passwords are never shown: not in
//! errors, not in `Debug`; nor are private keys.

mod error;
mod file;
mod limits;
mod migration;
mod reload;
mod settings;
#[cfg(test)]
mod tests;
mod tls;

pub use error::{Error, Problem};
pub use reload::Reloader;
pub use settings::{Process, Settings};

use error::Source;
use std::path::Path;

/// Reads and validates a config file. The password of the control connection may also come from
/// the environment variable `PGPASSWORD`.
///
/// # Errors
/// When there is no such file, or it is not valid; the message names the place, what is wrong
/// there and what to write instead.
pub fn load(path: &Path) -> Result<Settings, Error> {
    parse(path, &read(path)?)
}

fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => Error::Missing { path: path.to_owned() },
        _ => Error::Unreadable { path: path.to_owned(), source },
    })
}

fn parse(path: &Path, text: &str) -> Result<Settings, Error> {
    let source = Source { path, text };
    let raw: file::File = toml::from_str(text).map_err(|error| {
        let span = error.span().unwrap_or_default();
        let message = error
            .message()
            .replace("expected f64", "expected a number")
            .replace("expected u64", "expected a whole number, 0 or more");
        Error::Invalid(vec![source.problem(&span, &message, "")])
    })?;
    settings::validate(&source, raw, std::env::var("PGPASSWORD").ok())
}
