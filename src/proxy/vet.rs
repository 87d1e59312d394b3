//! Is a query's shadow form as good as the query? Asked once per text (constants aside), role and search_path, on a
//! control connection, before the shadow may answer: both forms are prepared and planned there.
//! Parameters, names and types have to agree, and the shadow must not be scanned where the source's rows
//! are looked up, unless the file asks for that. Until the answer is there, the source serves.

mod advice;
mod answers;
mod unfit;

pub use unfit::Unfit;

use super::Options;
use super::reach::{Relations, is_dearer};
use super::side;
use crate::pg::Database;
use crate::sql::qualify::bare_calls;
use crate::sql::read::LeansOn;
use crate::sql::target::{Reverse, Target};
use crate::wire::backend::{self, push_frame};
use crate::workload::Workload;
use quick_cache::sync::Cache;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_postgres::{Client, Statement, Transaction};

/// Queries that may wait to be vetted; further ones ask again at their next run.
const QUEUE: usize = 256;
/// Verdicts that are kept.
const CACHED: usize = 10_000;
/// A verdict older than this is looked at anew; the old one is good until then.
const FIT_FOR: Duration = Duration::from_secs(60);
/// Indexes and statistics may have come since.
const UNFIT_FOR: Duration = Duration::from_secs(5);

/// A query as it would be run.
pub(super) struct Query<'a> {
    pub(super) generation: u64,
    pub(super) database: &'a str,
    pub(super) user: &'a str,
    pub(super) search_path: &'a str,
    pub(super) text: &'a str,
    /// The text without its constants.
    pub(super) fingerprint: &'a str,
    /// Declared parameter types, as in a Parse.
    pub(super) types: &'a [u8],
    pub(super) leans_on: &'a LeansOn,
    /// The shadows that it may scan, by object id.
    pub(super) may_scan: Box<[u32]>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    generation: u64,
    user: Box<str>,
    search_path: Box<str>,
    fingerprint: Box<str>,
    types: Box<[u8]>,
    may_scan: Box<[u32]>,
}

impl Key {
    /// What is asked, whatever the tables and the levers are like at present.
    fn question(&self) -> u64 {
        let mut hash = DefaultHasher::new();
        (&self.user, &self.search_path, &self.fingerprint, &self.types).hash(&mut hash);
        hash.finish()
    }
}

/// What is known of a query.
#[derive(Debug, Clone)]
pub(super) enum Vetted {
    /// The shadow answers it the same; this is the source's description.
    Fit(Arc<Native>),
    /// It does not.
    Unfit,
    /// Not looked at yet.
    Unknown,
}

/// The description of a query as the source gives it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Native {
    columns: Vec<NativeColumn>,
    /// The shadows that it reads, by object id.
    pub(super) shadows: Vec<u32>,
    plan: Plan,
    /// Why its rows are no right answer, if so: then a dark read would be no test.
    pub(super) incomparable: Option<&'static str>,
    /// Resolved parameter types.
    pub(super) parameters: Vec<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct NativeColumn {
    table: u32,
    column: i16,
}

impl Native {
    /// Appends the source's RowDescription for a shadow's: what comes from a shadow, or is worked
    /// out from it, has the table and column of the source; all else is the same, and what comes
    /// from another table is that table's (it may be a temporary one of this session). `None`: it
    /// does not fit after all.
    pub(super) fn push_description(&self, out: &mut Vec<u8>, body: &[u8]) -> Option<()> {
        let fields = backend::row_description(body)?;
        if fields.len() != self.columns.len() {
            return None;
        }
        push_frame(out, b'T', |out| {
            let count = i16::try_from(fields.len()).unwrap_or(i16::MAX);
            out.extend_from_slice(&count.to_be_bytes());
            for ((name, field), native) in fields.iter().zip(&self.columns) {
                let seen =
                    NativeColumn { table: field.table.cast_unsigned(), column: field.column };
                let ours = seen.table == 0 || self.shadows.contains(&seen.table);
                let NativeColumn { table, column } = if ours { *native } else { seen };
                out.extend_from_slice(name);
                out.push(0);
                out.extend_from_slice(&table.to_be_bytes());
                out.extend_from_slice(&column.to_be_bytes());
                out.extend_from_slice(&field.type_oid.to_be_bytes());
                out.extend_from_slice(&field.size.to_be_bytes());
                out.extend_from_slice(&field.modifier.to_be_bytes());
                out.extend_from_slice(&field.format.to_be_bytes());
            }
        });
        Some(())
    }
}

#[derive(Debug, Clone)]
struct Verdict {
    vetted: Vetted,
    since: Instant,
}

struct Job {
    key: Key,
    source: String,
    shadow: String,
    targets: Vec<Arc<Target>>,
    leans_on: LeansOn,
}

/// The verdicts, and the way to get one.
#[derive(Debug)]
pub(super) struct Vetting {
    verdicts: Arc<Cache<Key, Verdict>>,
    jobs: Option<mpsc::Sender<Job>>,
    database: Option<String>,
}

impl Vetting {
    /// Starts the worker. Without a control connection every query is unfit.
    pub(super) fn start(options: &Options) -> Self {
        let verdicts = Arc::new(Cache::new(CACHED));
        let database = options.control.as_ref().and_then(super::database_of);
        let jobs = options.control.clone().map(|control| {
            let (send, receive) = mpsc::channel(QUEUE);
            let known = (Arc::clone(&verdicts), Arc::clone(&options.workload));
            tokio::spawn(work(control, known, receive));
            send
        });
        Self { verdicts, jobs, database }
    }

    /// What is known of a query; asks for it where nothing is.
    pub(super) fn look(
        &self,
        query: Query<'_>,
        shadow: impl FnOnce() -> Option<String>,
        targets: impl FnOnce() -> Vec<Arc<Target>>,
    ) -> Vetted {
        if self.database.as_deref() != Some(query.database) {
            return Vetted::Unfit;
        }
        let key = Key {
            generation: query.generation,
            user: query.user.into(),
            search_path: query.search_path.into(),
            fingerprint: query.fingerprint.into(),
            types: declared(query.types).into(),
            may_scan: query.may_scan,
        };
        let known = self.verdicts.get(&key);
        if let Some(verdict) = &known {
            let good_for = match verdict.vetted {
                Vetted::Fit(_) => FIT_FOR,
                Vetted::Unfit | Vetted::Unknown => UNFIT_FOR,
            };
            if verdict.since.elapsed() < good_for {
                return verdict.vetted.clone();
            }
        }
        let vetted = known.map_or(Vetted::Unknown, |v| v.vetted);
        if let (Some(jobs), Some(shadow)) = (&self.jobs, shadow()) {
            let verdict = Verdict { vetted: vetted.clone(), since: Instant::now() };
            let source = query.text.to_owned();
            let leans_on = query.leans_on.clone();
            let job = Job { key: key.clone(), source, shadow, targets: targets(), leans_on };
            if jobs.try_send(job).is_ok() {
                self.verdicts.insert(key, verdict);
            }
        }
        vetted
    }
}

/// Declared parameter types, where any is: a text by either protocol is vetted once.
fn declared(types: &[u8]) -> &[u8] {
    let any = types.iter().skip(2).any(|b| *b != 0);
    if any { types } else { &[] }
}

async fn work(
    control: Database,
    (verdicts, workload): (Arc<Cache<Key, Verdict>>, Arc<Workload>),
    mut jobs: mpsc::Receiver<Job>,
) {
    let mut client: Option<Client> = None;
    while let Some(job) = jobs.recv().await {
        if client.as_ref().is_none_or(Client::is_closed) {
            client = control.client("pgsegue vetting").await.ok();
        }
        let Some(client) = &mut client else { continue };
        let said = vet(client, &job).await;
        // Without their values: they are the apps' own.
        let query = crate::sql::normal::normal(&job.source);
        let why = said.as_ref().err().map(Unfit::without_values);
        for target in &job.targets {
            let verdict = why.as_deref().map_or(Ok(()), Err);
            workload.of(&target.migration).vetted(query.as_deref(), job.key.question(), verdict);
        }
        if let Some(why) = why {
            let query = query.unwrap_or_default();
            tracing::info!(query, %why, "this read stays on the source");
        }
        let vetted = said.map_or(Vetted::Unfit, |native| Vetted::Fit(Arc::new(native)));
        verdicts.insert(job.key, Verdict { vetted, since: Instant::now() });
    }
}

/// How the shadow's form of a fit query reaches its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// As cheaply as the query.
    AsCheap,
    /// It scans where the source's rows are looked up, as it may.
    Scans,
}

/// Vets a query once, for who is connected. It may scan these shadows.
///
/// # Errors
/// Says why the shadow's form is not as good.
pub async fn vet_once(
    client: &mut Client,
    source: &str,
    shadow: &str,
    targets: Vec<Arc<Target>>,
    may_scan: Box<[u32]>,
) -> Result<Plan, Unfit> {
    let sql = "SELECT current_user::text, pg_catalog.current_setting('search_path')";
    let session = client.query_one(sql, &[]).await?;
    let text = |index| session.try_get::<_, &str>(index).unwrap_or_default().into();
    let key = Key {
        generation: 0,
        user: text(0),
        search_path: text(1),
        fingerprint: Box::default(),
        types: Box::default(),
        may_scan,
    };
    let leans_on = LeansOn::default();
    let job = Job { key, source: source.to_owned(), shadow: shadow.to_owned(), targets, leans_on };
    vet(client, &job).await.map(|native| native.plan)
}

async fn vet(client: &mut Client, job: &Job) -> Result<Native, Unfit> {
    // Types and operators of the shadow's form are named without their schema.
    if job.key.search_path.find("pg_catalog").is_some_and(|at| at > 1) {
        return Err(Unfit::Fails("search_path has other schemas before pg_catalog".to_owned()));
    }
    let transaction = client.transaction().await?;
    transaction.batch_execute(&side::as_session(&job.key.user, &job.key.search_path)).await?;
    proves_names(&transaction, &job.targets).await?;
    let declared = crate::wire::frontend::Parse { name: b"", sql: b"", types: &job.key.types };
    let count = job.key.types.len().saturating_sub(2) / 4;
    let types: Vec<_> = (1..=u16::try_from(count).unwrap_or(0))
        .map(|n| side::type_of(declared.type_of(n)))
        .collect();
    let source = transaction.prepare_typed(&job.source, &types).await;
    let source = source.map_err(Unfit::of_the_query)?;
    let shadow = transaction.prepare_typed(&job.shadow, &types).await?;
    let mut native = compare(&source, &shadow, &job.targets)?;
    let on_source = explain(&transaction, &job.source, &source).await?;
    let on_shadow = explain(&transaction, &job.shadow, &shadow).await?;
    for target in &job.targets {
        let source = relations(&transaction, target.source_oid).await?;
        let shadow = relations(&transaction, target.shadow_oid).await?;
        if !is_dearer((&on_shadow, &shadow), (&on_source, &source)) {
            continue;
        }
        if !job.key.may_scan.contains(&target.shadow_oid) {
            return Err(Unfit::Dearer(advice::indexes(&transaction, &on_source, target).await?));
        }
        native.plan = Plan::Scans;
    }
    native.incomparable = match answers::unsure_outputs(&source, &job.leans_on, &job.source) {
        None => answers::incomparable(&transaction, &job.leans_on).await?,
        unsure => unsure,
    };
    transaction.rollback().await?;
    Ok(native)
}

/// Whether the bare names in the ways back mean in this session what they mean in the engine's: a
/// function or operator of a schema in search_path may fit their arguments better.
async fn proves_names(transaction: &Transaction<'_>, targets: &[Arc<Target>]) -> Result<(), Unfit> {
    let (mut functions, mut operators) = (Vec::new(), Vec::new());
    let columns = targets.iter().filter_map(|t| t.old_shape.as_ref().ok()).flatten();
    for column in columns {
        if let Reverse::Expression(sql) = &column.reverse {
            let (called, used) = bare_calls(sql);
            functions.extend(called);
            operators.extend(used);
        }
    }
    if functions.is_empty() && operators.is_empty() {
        return Ok(());
    }
    let other = transaction
        .query_opt(
            "SELECT n.nspname::text || '.' || name FROM (SELECT proname::text AS name, pronamespace AS schema \
                 FROM pg_catalog.pg_proc WHERE proname = ANY ($1::text[]) UNION ALL \
                 SELECT o.oprname::text, o.oprnamespace FROM pg_catalog.pg_operator o \
                 WHERE o.oprname = ANY ($2::text[]) AND NOT EXISTS (SELECT FROM pg_catalog.pg_type t \
                     WHERE t.oid IN (o.oprleft, o.oprright) \
                     AND t.typnamespace <> 'pg_catalog'::pg_catalog.regnamespace)) AS named \
             JOIN pg_catalog.pg_namespace n ON n.oid = schema WHERE n.nspname <> 'pg_catalog' \
             AND n.nspname = ANY (pg_catalog.current_schemas(false)) LIMIT 1",
            &[&functions, &operators],
        )
        .await?;
    match other {
        None => Ok(()),
        Some(row) => Err(Unfit::Fails(format!(
            "search_path has {}, which a way back may mean by its bare name",
            row.try_get::<_, &str>(0)?
        ))),
    }
}

/// A table and its partitions.
async fn relations(transaction: &Transaction<'_>, oid: u32) -> Result<Relations, Unfit> {
    let rows = transaction
        .query(
            "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1 \
             OR c.oid IN (SELECT relid FROM pg_catalog.pg_partition_tree($1))",
            &[&oid],
        )
        .await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

fn compare(
    source: &Statement,
    shadow: &Statement,
    targets: &[Arc<Target>],
) -> Result<Native, Unfit> {
    if source.params() != shadow.params() {
        let differs = format!("parameters {:?} and {:?}", source.params(), shadow.params());
        return Err(Unfit::Differs(differs));
    }
    if source.columns().len() != shadow.columns().len() {
        return Err(Unfit::Differs("another number of columns".to_owned()));
    }
    let mut columns = Vec::with_capacity(source.columns().len());
    for (a, b) in source.columns().iter().zip(shadow.columns()) {
        let same = a.name() == b.name()
            && a.type_().oid() == b.type_().oid()
            && a.type_modifier() == b.type_modifier();
        if !same {
            return Err(Unfit::Differs(format!("column {:?}", a.name())));
        }
        columns.push(NativeColumn {
            table: a.table_oid().unwrap_or(0),
            column: a.column_id().unwrap_or(0),
        });
    }
    let parameters = source.params().iter().map(tokio_postgres::types::Type::oid).collect();
    let shadows = targets.iter().map(|t| t.shadow_oid).collect();
    Ok(Native { columns, shadows, plan: Plan::AsCheap, incomparable: None, parameters })
}

/// The generic plan: what a prepared statement gets, whatever its parameters are.
async fn explain(
    transaction: &Transaction<'_>,
    sql: &str,
    statement: &Statement,
) -> Result<serde_json::Value, Unfit> {
    let types: Vec<_> =
        statement.params().iter().map(|t| format!("{}::pg_catalog.regtype", t.oid())).collect();
    let (names, nulls) = if types.is_empty() {
        (String::new(), String::new())
    } else {
        let row = transaction
            .query_one(&format!("SELECT pg_catalog.concat_ws(', ', {})", types.join(", ")), &[])
            .await?;
        let names: String = row.try_get(0)?;
        (format!("({names})"), format!("({})", vec!["NULL"; types.len()].join(", ")))
    };
    // A prepared statement outlives the rollback of its transaction: planning that fails, as that
    // of 1/0 does, must not leave it behind, or every later vetting would meet it.
    transaction
        .batch_execute(&format!(
            "SET LOCAL plan_cache_mode = force_generic_plan; PREPARE pgsegue_vet{names} AS {sql}; \
             SAVEPOINT pgsegue_vet"
        ))
        .await?;
    let planned = transaction
        .query_one(&format!("EXPLAIN (FORMAT JSON, VERBOSE) EXECUTE pgsegue_vet{nulls}"), &[])
        .await;
    transaction.batch_execute("ROLLBACK TO SAVEPOINT pgsegue_vet; DEALLOCATE pgsegue_vet").await?;
    Ok(planned?.try_get(0)?)
}
