//! What is said of one statement, as text and as JSON.

use crate::proxy::Plan;
use crate::sql::ident::Ident;
use crate::sql::reason::Reason;
use serde::{Deserialize, Serialize};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Column};

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
    /// What to change so that it is understood, or can be read of the shadow.
    pub way_out: Option<String>,
    /// Whether the shadow's form is as good as the client's, by its plan and its types.
    pub vetting: Option<String>,
    /// What the client sees: tag, columns, errors.
    pub client: Vec<String>,
    /// What else to know.
    pub notes: Vec<String>,
    /// The types of its parameters, as PREPARE takes them.
    pub parameters: Vec<String>,
    /// The form that is sent instead of the client's, to be run as it is, or with its parameters.
    pub sql: Option<String>,
}

/// What is known of the shadow's form of a query.
pub(super) enum Vetting {
    /// It is as good, and this is its plan.
    Fit(Plan),
    /// As good but for its plan, which will be another once the shadow is filled.
    NotFilled,
    /// It is not.
    Unfit(String),
    /// The server does not take the query itself.
    Refused(String),
    /// The server does not take the shadow's form.
    Fails(String),
    /// Not asked, for this function's sake.
    NotAsked(String),
}

impl Vetting {
    /// Whether the server takes the shadow's form, as far as is known.
    pub(super) fn runs(&self) -> bool {
        !matches!(self, Self::Refused(_) | Self::Fails(_))
    }
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
            parameters: Vec::new(),
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
        self.way_out(reason.way_out());
    }

    pub(super) fn way_out(&mut self, way_out: &str) {
        self.0.way_out = Some(way_out.to_owned());
    }

    pub(super) fn vetted(&mut self, vetted: Vetting) {
        self.0.vetting = Some(match vetted {
            Vetting::Fit(Plan::Scans) => {
                "same parameters, columns and types; the shadow is scanned \
                                          where the source's rows are looked up, as `scans` says"
                    .to_owned()
            }
            Vetting::Fit(Plan::AsCheap) => {
                "same parameters, columns and types; no scan that the source spares".to_owned()
            }
            Vetting::NotFilled => "same parameters, columns and types; how the shadow is reached \
                                   is seen once it is filled"
                .to_owned(),
            Vetting::Unfit(why) | Vetting::Refused(why) | Vetting::Fails(why) => why,
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
            Err(error) if self.0.class == "read" && self.0.vetting.is_none() => {
                return self.refused(&error);
            }
            Err(error) => return self.client(refusal(&error)),
        };
        self.client(tag);
        if !statement.columns().is_empty() {
            let columns: Vec<String> = statement.columns().iter().map(column).collect();
            self.client(columns.join(", "));
        }
        self.0.parameters = statement.params().iter().map(type_name).collect();
        let all = statement.params().iter().enumerate();
        let parameters: Vec<String> = all.map(|(n, t)| format!("${} {t}", n + 1)).collect();
        if !parameters.is_empty() {
            self.note(format!("parameters: {}", parameters.join(", ")));
        }
    }

    /// The server does not take what is sent as it is.
    pub(super) fn refused(&mut self, error: &tokio_postgres::Error) {
        "the server refuses it".clone_into(&mut self.0.why);
        self.0.client = vec![refusal(error)];
    }

    /// What EXECUTE of a statement sends that is prepared under this name, with these types.
    pub(super) fn prepared(&mut self, (name, types): (&str, &str), of: Explained) {
        let inner = match of.class.as_str() {
            "passthrough" => String::new(),
            class => format!(" ({class})"),
        };
        self.route("prepared", &format!("as it is; EXECUTE of it{inner}: {}", of.route), &of.why);
        self.0.not_understood = of.not_understood;
        self.0.way_out = of.way_out;
        self.0.notes.extend(of.notes);
        if let Some(sql) = of.sql.filter(|_| inner == " (write)") {
            self.note(
                "the form below is prepared, and executed, in the place of the client's".to_owned(),
            );
            self.0.sql = Some(format!("PREPARE {name}{types} AS\n{sql}"));
        }
    }

    pub(super) fn done(self) -> Explained {
        self.0
    }
}

/// What a client sees of a statement that the server does not take.
fn refusal(error: &tokio_postgres::Error) -> String {
    let error = error.as_db_error().map_or_else(
        || error.to_string(),
        |e| format!("{} (SQLSTATE {})", e.message(), e.code().code()),
    );
    format!("the server refuses it: {error}")
}

fn column(column: &Column) -> String {
    format!("{} {}", column.name(), column.type_())
}

/// A type as SQL, whatever the search_path.
fn type_name(of: &Type) -> String {
    let name = Ident::new(of.name());
    match of.schema() {
        "pg_catalog" => name.spelled(),
        schema => format!("{}.{}", Ident::new(schema).quoted(), name.quoted()),
    }
}
