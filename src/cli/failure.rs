//! How a command that failed says so: one line with every cause, and a hint.

use super::output;
use crate::{app, causes, config, engine};
use std::error::Error;
use std::process::ExitCode;

/// The command could not do what it was asked.
#[derive(Debug)]
pub(super) struct Failure {
    message: String,
    hint: String,
    code: u8,
}

impl Failure {
    pub(super) fn new(message: impl AsRef<str>, hint: impl Into<String>) -> Self {
        Self::in_lines(output::safe(message.as_ref()), hint)
    }

    /// With a message that we have laid out in lines.
    pub(super) fn in_lines(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into(), code: 2 }
    }

    pub(super) fn from_error(error: &dyn Error) -> Self {
        Self::new(causes::in_one_line(error), "")
    }

    pub(super) fn says(&self, text: &str) -> bool {
        self.message.contains(text)
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    pub(super) fn code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// Prints it; the exit code is 2 (could not be done) unless said otherwise.
    pub(super) fn report(self) -> ExitCode {
        output::error(&self.message, &self.hint);
        ExitCode::from(self.code)
    }
}

impl From<config::Error> for Failure {
    fn from(error: config::Error) -> Self {
        Self::in_lines(causes::in_one_line(&error), "")
    }
}

impl From<engine::Error> for Failure {
    fn from(error: engine::Error) -> Self {
        Self::from_error(&error)
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::from_error(&error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::from_error(&error)
    }
}

impl From<app::Error> for Failure {
    fn from(error: app::Error) -> Self {
        if let app::Error::Config(error) = error {
            return error.into();
        }
        let hint = match &error {
            app::Error::Listen { .. } => {
                "another process has the address; change `listen` in the config file"
            }
            app::Error::ListenLocal { .. } => {
                "the folder of `listen_unix` must be there, and ours to write"
            }
            app::Error::Engine(_) => "`pgsegue check` looks for what is in the way",
            app::Error::Config(_) | app::Error::Io(_) | app::Error::Metrics(_) => "",
        };
        Self::from_error(&error).hint(hint)
    }
}
