//! What can go wrong in the engine, and what to do about it.

use tokio_postgres::error::SqlState;

/// An error of the engine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server has refused a statement of the engine's, or a connection of it was lost.
    #[error("{}: {}", failed(.0), crate::pg::reason(.0))]
    Postgres(#[from] tokio_postgres::Error),
    /// Another process works on this database.
    #[error(
        "another pgsegue process runs the engine of this database ({holder}); stop it, or wait \
         until its connection has ended"
    )]
    Busy {
        /// Process id at the server, application name, client address.
        holder: String,
    },
    /// The control role cannot bring schema `pgsegue` up to date.
    #[error(
        "schema pgsegue cannot be installed ({reason}); run GRANT CREATE ON DATABASE to the \
         control role, or create the schema with that role as its owner"
    )]
    Install {
        /// What the server said.
        reason: String,
    },
    /// A started migration is missing in the declarations.
    #[error(
        "migration {name} has been started (phase {phase}) and is not declared any more; put it \
         back, or run: pgsegue migration abort {name}"
    )]
    Undeclared {
        /// The migration.
        name: String,
        /// Where it is.
        phase: &'static str,
    },
    /// A started migration is declared differently.
    #[error(
        "migration {name} has been started (phase {phase}) and its {changed} differs from what it \
         was started with; restore it, or run: pgsegue migration abort {name}"
    )]
    Redefined {
        /// The migration.
        name: String,
        /// Where it is.
        phase: &'static str,
        /// Which part differs.
        changed: String,
    },
    /// A migration that nobody knows.
    #[error("there is no migration {name}; it must be in the config file of a running proxy")]
    Unknown {
        /// The name asked for.
        name: String,
    },
    /// No running engine has the migration declared.
    #[error(
        "no running proxy has migration {name} declared; add it to the config file and start \
         pgsegue serve"
    )]
    NotDeclared {
        /// The name asked for.
        name: String,
    },
    /// The migration is not in a phase for this.
    #[error("migration {name} is in phase {phase}, so it cannot {asked}; {hint}")]
    NotNow {
        /// The migration.
        name: String,
        /// Where it is.
        phase: &'static str,
        /// What was asked for.
        asked: &'static str,
        /// What to do instead.
        hint: &'static str,
    },
    /// The tables do not have the shape that the declaration says.
    #[error("{0}")]
    Shape(String),
    /// Something in schema `pgsegue` is not as this version wrote it.
    #[error(
        "the journal of migration {name} cannot be read ({reason}); restore its row in pgsegue.migrations"
    )]
    Journal {
        /// The migration.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The journal moved on without this process: it has lost the engine's lock.
    #[error("the journal of migration {name} was changed by another process; reading it again")]
    Overtaken {
        /// The migration.
        name: String,
    },
}

/// What has failed of an engine's connection.
fn failed(error: &tokio_postgres::Error) -> &'static str {
    match error.as_db_error() {
        Some(_) => "a statement of the engine failed",
        None => "a connection of the engine failed",
    }
}

impl Error {
    /// Whether somebody else had what a statement needed for longer than that may wait.
    pub(crate) fn is_lock_timeout(&self) -> bool {
        match self {
            Self::Postgres(error) => error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE),
            _ => false,
        }
    }

    /// Whether the server said no for a reason that stays until somebody does something.
    pub(crate) fn is_verdict(&self) -> bool {
        match self {
            Self::Postgres(error) => crate::pg::is_about_data(error),
            Self::Busy { .. }
            | Self::Install { .. }
            | Self::Undeclared { .. }
            | Self::Redefined { .. }
            | Self::Unknown { .. }
            | Self::NotDeclared { .. }
            | Self::NotNow { .. }
            | Self::Shape(_)
            | Self::Journal { .. }
            | Self::Overtaken { .. } => false,
        }
    }
}
