//! What is said of one statement, as text and as JSON.

use crate::sql::reason::Reason;
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;
use tokio_postgres::Column;

/// What is said of one statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    /// The client's text.
    pub statement: String,
    /// passthrough, read, write, ddl, unclassified.
    pub class: String,
    /// The migrated tables that it names.
    pub tables: Vec<String>,
    /// Where it goes.
    pub route: String,
    /// Why there.
    pub why: String,
    /// What is not understood of it.
    pub not_understood: Option<String>,
    /// What to change so that it is understood.
    pub way_out: Option<String>,
    /// Whether the shadow's form is as good as the client's, by its plan and its types.
    pub vetting: Option<String>,
    /// What the client sees: tag, columns, errors.
    pub client: Vec<String>,
    /// What else to know.
    pub notes: Vec<String>,
    /// The form that is sent instead of the client's, to be run as it is.
    pub sql: Option<String>,
}

/// What is known of the shadow's form of a query.
pub(super) enum Vetting {
    /// It is as good.
    Fit,
    /// It is not.
    Unfit(String),
    /// Not asked, for this function's sake.
    NotAsked(String),
}

/// The same under way.
pub(super) struct Said(Explained);

impl Said {
    pub(super) fn new(statement: &str, tables: Vec<String>) -> Self {
        Self(Explained {
            statement: statement.to_owned(),
            class: String::new(),
            tables,
            route: String::new(),
            why: String::new(),
            not_understood: None,
            way_out: None,
            vetting: None,
            client: Vec::new(),
            notes: Vec::new(),
            sql: None,
        })
    }

    pub(super) fn route(&mut self, class: &str, route: &str, why: &str) {
        class.clone_into(&mut self.0.class);
        route.clone_into(&mut self.0.route);
        why.clone_into(&mut self.0.why);
    }

    pub(super) fn not_understood(&mut self, reason: Reason) {
        self.0.not_understood = Some(reason.text().to_owned());
        self.0.way_out = Some(reason.way_out().to_owned());
    }

    pub(super) fn vetted(&mut self, vetted: Vetting) {
        self.0.vetting = Some(match vetted {
            Vetting::Fit => {
                "same parameters, columns and types; no scan that the source spares".to_owned()
            }
            Vetting::Unfit(why) => why,
            Vetting::NotAsked(function) => {
                format!("not asked here: {function}() may look at data while it is planned")
            }
        });
    }

    pub(super) fn client(&mut self, sees: String) {
        self.0.client.push(sees);
    }

    /// The reply to what is sent as it is.
    pub(super) fn unchanged(&mut self) {
        self.client("what the server answers, unchanged".to_owned());
    }

    pub(super) fn note(&mut self, note: String) {
        self.0.notes.push(note);
    }

    /// A form that is sent; psql needs its end.
    pub(super) fn sql(&mut self, sql: String) {
        self.0.sql = Some(format!("{sql};"));
    }

    /// What the client's own statement returns: nothing of the rewriting is seen.
    pub(super) async fn describe(&mut self, client: &Client, sql: &str, tag: String) {
        let statement = match client.prepare(sql).await {
            Ok(statement) => statement,
            Err(error) => {
                let error = error.as_db_error().map_or_else(
                    || error.to_string(),
                    |e| format!("{} (SQLSTATE {})", e.message(), e.code().code()),
                );
                return self.client(format!("the server refuses it: {error}"));
            }
        };
        self.client(tag);
        if !statement.columns().is_empty() {
            let columns: Vec<String> = statement.columns().iter().map(column).collect();
            self.client(columns.join(", "));
        }
        let parameters: Vec<String> =
            statement.params().iter().enumerate().map(|(n, t)| format!("${} {t}", n + 1)).collect();
        if !parameters.is_empty() {
            self.note(format!(
                "parameters: {}; psql gives them with \\bind before \\g (16 or later)",
                parameters.join(", ")
            ));
        }
    }

    pub(super) fn done(self) -> Explained {
        self.0
    }
}

fn column(column: &Column) -> String {
    format!("{} {}", column.name(), column.type_())
}
