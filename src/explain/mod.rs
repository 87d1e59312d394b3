//! What the proxy would make of a text: for `pgsegue explain` and for the admin server, which
//! therefore say the same. Reads the catalog and the control schema, and prepares statements to
//! learn what they return; runs nothing of them.

mod known;
mod query;
mod said;
mod setting;

pub use said::Explained;

use crate::engine::{self, Control, Declared, Found, functions};
use crate::manifest::Percent;
use crate::pg::{self, Database};
use crate::sql::lex::{Kind, Token, tokens};
use crate::sql::statement::understand;
use known::{At, Known, Names};
use serde::{Deserialize, Serialize};
use setting::Setting;

/// Statements of one question. Each may be prepared and planned several times: an answer takes a
/// second at most, and nobody reads a longer one.
pub const STATEMENTS_MAX: usize = 100;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// The text; several statements are explained one by one, as they are when one text has them all.
    pub sql: String,
    /// As if the migrations were ready and so many percent of the reads allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reads: Option<f64>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The question.
    #[error("reads = {0} is no percentage: it is between 0 and 100")]
    Percent(f64),
    /// The question.
    #[error(
        "{0} statements are too many for one question: ask for at most {STATEMENTS_MAX} at a time"
    )]
    Statements(usize),
    /// The database.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// The database.
    #[error(transparent)]
    Database(#[from] tokio_postgres::Error),
}

impl Error {
    /// Whether another question would have an answer.
    pub fn is_of_the_question(&self) -> bool {
        match self {
            Self::Percent(_) | Self::Statements(_) => true,
            Self::Engine(_) | Self::Database(_) => false,
        }
    }
}

/// Explains every statement of a text.
///
/// # Errors
/// When the question makes no sense, or the database cannot be asked.
pub async fn explain(
    database: &Database,
    declared: &[Declared],
    question: &Question,
) -> Result<Vec<Explained>, Error> {
    let reads = match question.reads {
        None => None,
        Some(reads) => Some(Percent::new(reads).ok_or(Error::Percent(reads))?),
    };
    let statements = count(&question.sql);
    if statements > STATEMENTS_MAX {
        return Err(Error::Statements(statements));
    }
    let known = know(database, declared, reads).await?;
    // With the settings of the role: as an app sees names.
    let mut client = database.client("pgsegue explain").await.map_err(engine::Error::from)?;
    let understanding = understand(&question.sql, &known.targets, &known.functions);
    let mut explained = Vec::with_capacity(understanding.statements.len());
    let place = understanding.place();
    let mut names = Names::AsNow;
    for statement in &understanding.statements {
        let at = At { text: &question.sql, statement, place, names };
        explained.push(known.explain(&mut client, &at).await);
        names = names.behind(statement.effect);
    }
    Ok(explained)
}

/// How many statements a text has.
fn count(sql: &str) -> usize {
    let Ok(all) = tokens(sql) else { return 1 };
    let ends = |t: &Token| t.kind == Kind::Semicolon && t.depth == 0;
    all.split(ends).filter(|statement| !statement.is_empty()).count()
}

/// Looks at the declared migrations, with the settings by which the engine reads the catalog: how a
/// type is spelled hangs on them.
async fn know(
    database: &Database,
    declared: &[Declared],
    reads: Option<Percent>,
) -> Result<Known, Error> {
    let pinned = pg::connect(database, "pgsegue explain").await.map_err(engine::Error::from)?;
    let control = Control::connect(database).await?;
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for one in declared {
        let migration = &one.migration;
        let target = match engine::look(&pinned.client, migration).await? {
            Found::Fit(target) | Found::SourceOnly(target, _) => target,
            Found::Nothing(why) => {
                missing.push(format!("{}: {why}", migration.name));
                continue;
            }
        };
        let status = control.status(&migration.name).await?;
        found.push((target, Setting::of(one, status, reads)));
    }
    // As the routes are: a query goes by the first of its table.
    found.sort_by(|(a, _), (b, _)| a.migration.cmp(&b.migration));
    found.sort_by_key(|(target, setting)| {
        std::cmp::Reverse((target.old_shape.is_ok(), setting.reads, setting.dark_reads))
    });
    let (targets, settings): (Vec<_>, _) = found.into_iter().unzip();
    let functions = functions::load(&pinned.client, &targets).await?;
    Ok(Known { targets, settings, functions, missing })
}
