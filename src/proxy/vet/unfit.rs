//! Why a query stays on the source, with the constants of the query and without them.

use tokio_postgres::error::{DbError, SqlState};

/// Why a query stays on the source.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// What the server says of it.
    #[error("the shadow form fails: {0}")]
    Fails(String),
    /// The same where it may quote a constant of the query.
    #[error("the shadow form fails: {0}")]
    Quotes(String, SqlState),
    /// What the server says of the query itself.
    #[error("the server refuses the query itself: {0}")]
    Refused(String, SqlState),
    /// What differs.
    #[error("parameters or columns differ: {0}")]
    Differs(String),
    /// With the statements that make the indexes which would help.
    #[error(
        "the shadow would be scanned where the source's rows are looked up{}; \
         scans = \"shadow\" in [migration.routing] sends it all the same", helping(.0)
    )]
    Dearer(Vec<String>),
}

impl From<tokio_postgres::Error> for Unfit {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            None => Self::Fails(error.to_string()),
            Some(said) if says_no_value(said) => Self::Fails(said.message().to_owned()),
            Some(said) => Self::Quotes(said.message().to_owned(), said.code().clone()),
        }
    }
}

/// Whether a message about the shadow's form has no constant of the query in it. Of the form itself it
/// names types, functions and columns: those that the query's constants name, the source has taken.
fn says_no_value(said: &DbError) -> bool {
    match said.code().code().get(..2) {
        Some("42") => ![SqlState::SYNTAX_ERROR, SqlState::INVALID_NAME].contains(said.code()),
        // The server's own words about data; what it cites is in quotes.
        Some("22") => !said.message().contains('"'),
        _ => false,
    }
}

fn helping(indexes: &[String]) -> String {
    match indexes {
        [] => String::new(),
        all => format!("; an index like the source's helps: {}", all.join("; ")),
    }
}

impl Unfit {
    pub(super) fn of_the_query(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(said) => Self::Refused(said.message().to_owned(), said.code().clone()),
            None => error.into(),
        }
    }

    /// The same for logs and reports: no constant of the query is in it.
    pub(super) fn without_values(&self) -> String {
        match self {
            Self::Fails(_) | Self::Differs(_) | Self::Dearer(_) => self.to_string(),
            Self::Quotes(_, code) => {
                format!("the shadow form fails with SQLSTATE {}", code.code())
            }
            Self::Refused(_, code) => {
                format!("the server refuses the query itself with SQLSTATE {}", code.code())
            }
        }
    }
}
