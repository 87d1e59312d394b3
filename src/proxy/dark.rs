//! Dark reads: a sample of the clients' queries is run on both tables in one snapshot and
//! compared, on a side connection; and so is a read that has failed on the shadow, for the source may answer
//! it: then a row there has no way back, and fails whoever reads it. Never delays a client: the queue is
//! bounded and drops.

use super::Options;
use super::side;
use super::vet::Native;
use crate::pg::Database;
use crate::routing::{GateTicket, Route};
use crate::sql::ident::literal;
use crate::telemetry::Metrics;
use bytes::BytesMut;
use futures_util::{StreamExt as _, pin_mut};
use quick_cache::sync::Cache;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{Format, FromSql, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, IsolationLevel, Transaction};

/// A result with more rows than this is not compared.
const ROWS_MAX: usize = 10_000;
/// A read that has failed is looked into again after this time at the earliest.
const FAILED_EVERY: Duration = Duration::from_secs(10);
/// The same where the shadow alone has failed. It may be no row's fault: the conditions of the shadow's form
/// are worked out in another order, and one of them may guard another.
const FOUND_EVERY: Duration = Duration::from_secs(3600);
/// Texts of such reads that are told apart.
const FAILED_KEPT: usize = 100;
/// Differing rows that are shown in the log.
const ROWS_SHOWN: usize = 3;

/// Settings of the client's session that change how results look.
#[derive(Debug, Clone, Default)]
pub(super) struct OutputSettings {
    pub(super) time_zone: String,
    pub(super) date_style: String,
    pub(super) interval_style: String,
}

/// What a comparison is to find out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    /// Whether both answers are the same.
    Same,
    /// Whether the shadow's form fails where the query itself does not.
    Fails,
}

/// One comparison to be made.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) question: Question,
    /// Those of all that it reads, the first of which it counts for; closing a gate makes it void.
    pub(super) routes: Vec<(Arc<Route>, GateTicket)>,
    pub(super) user: Arc<str>,
    pub(super) search_path: Arc<str>,
    pub(super) output: OutputSettings,
    pub(super) source_sql: String,
    pub(super) shadow_sql: String,
    pub(super) native: Arc<Native>,
    /// Format code and value of each parameter.
    pub(super) values: Vec<(i16, Option<Vec<u8>>)>,
}

impl Job {
    fn migration(&self) -> &str {
        self.routes.first().map_or("", |(route, _)| &route.target.migration)
    }

    /// A key that is on record since: whoever committed it has closed the gate before.
    fn is_void(&self) -> bool {
        self.routes.iter().any(|(r, ticket)| !r.gate.is_open() || r.gate.ticket() != *ticket)
    }
}

/// The way to offer a comparison.
#[derive(Debug)]
pub(super) struct DarkReads {
    jobs: Option<mpsc::Sender<Arc<Job>>>,
    metrics: Metrics,
    failed: Arc<Failed>,
}

impl DarkReads {
    /// Starts the worker. Without a control connection every dark read is dropped.
    pub(super) fn start(options: &Options, metrics: &Metrics) -> Self {
        let metrics = metrics.clone();
        let failed = Arc::new(Failed(Cache::new(FAILED_KEPT)));
        let jobs = options.control.clone().map(|control| {
            let (send, receive) = mpsc::channel(options.dark_reads_max.max(1));
            tokio::spawn(work(control, (metrics.clone(), Arc::clone(&failed)), receive));
            send
        });
        Self { jobs, metrics, failed }
    }

    /// Offers a comparison; it is dropped and counted when too many wait.
    pub(super) fn offer(&self, job: Arc<Job>) {
        let sent = self.jobs.as_ref().map(|jobs| jobs.try_send(Arc::clone(&job)));
        if !matches!(sent, Some(Ok(()))) {
            self.metrics.dark_reads.with_label_values(&[job.migration(), "dropped"]).inc();
        }
    }

    /// The same for a read that has failed. An app may have queries that fail whenever they are sent, on
    /// either table: each text is looked into now and then.
    pub(super) fn offer_failed(&self, text: &str, job: impl FnOnce() -> Option<Job>) {
        let Some(jobs) = &self.jobs else { return };
        if self.failed.is_due(text)
            && let Some(job) = job()
            && jobs.try_send(Arc::new(job)).is_ok()
        {
            self.failed.wait(text, FAILED_EVERY);
        }
    }
}

/// When reads that have failed may be looked into again, by the hashes of their texts.
#[derive(Debug)]
struct Failed(Cache<u64, Instant>);

impl Failed {
    fn key(text: &str) -> u64 {
        let mut hash = DefaultHasher::new();
        text.hash(&mut hash);
        hash.finish()
    }

    fn is_due(&self, text: &str) -> bool {
        self.0.get(&Self::key(text)).is_none_or(|next| next <= Instant::now())
    }

    fn wait(&self, text: &str, time: Duration) {
        self.0.insert(Self::key(text), Instant::now() + time);
    }
}

async fn work(
    control: Database,
    (metrics, failed): (Metrics, Arc<Failed>),
    mut jobs: mpsc::Receiver<Arc<Job>>,
) {
    let mut client: Option<Client> = None;
    let mut source_first = true;
    while let Some(job) = jobs.recv().await {
        if client.as_ref().is_none_or(Client::is_closed) {
            client = control.client("pgsegue dark reads").await.ok();
        }
        let migration = job.migration();
        let outcome = match &mut client {
            None => None,
            Some(client) => match compare(client, &job, source_first).await {
                Ok(compared) => compared,
                Err(error) => {
                    tracing::debug!(migration, %error, "a dark read was dropped");
                    None
                }
            },
        };
        source_first = !source_first;
        let count = |outcome: &str| {
            metrics.dark_reads.with_label_values(&[migration, outcome]).inc();
        };
        match (job.question, &outcome) {
            (Question::Same, None) => count("dropped"),
            (Question::Same, Some(compared)) => {
                count("compared");
                for (route, time) in compared.times() {
                    let histogram =
                        metrics.dark_read_seconds.with_label_values(&[migration, route]);
                    histogram.observe(time.as_secs_f64());
                }
            }
            (Question::Fails, _) => {}
        }
        if let Some(difference) = outcome.and_then(|compared| compared.difference(job.question))
            && !job.is_void()
        {
            count("mismatched");
            if job.question == Question::Fails {
                failed.wait(&job.source_sql, FOUND_EVERY);
            }
            mismatched(&mut client, &job, &difference).await;
        }
    }
}

/// The answers differ in one snapshot: a shadow is wrong, of several any. Its reads stop at once, and the
/// mark has a full verify find and repair the keys.
async fn mismatched(client: &mut Option<Client>, job: &Job, difference: &str) {
    job.routes.iter().for_each(|(route, _)| route.gate.close());
    let (migration, query) = (job.migration(), &job.source_sql);
    match job.question {
        Question::Same => {
            tracing::warn!(migration, query, difference, "a dark read gave different answers");
        }
        Question::Fails => {
            tracing::warn!(migration, query, difference, "a read fails on the shadow alone");
        }
    }
    let Some(client) = client else { return };
    for (route, _) in &job.routes {
        let mark = &route.target.mark_function;
        let reason = literal(match job.question {
            Question::Same => "dark read mismatch",
            Question::Fails => "a read that fails on the shadow alone",
        });
        if let Err(error) = client.batch_execute(&format!("SELECT {mark}({reason})")).await {
            tracing::error!(%error, "a dark-read mismatch could not be recorded");
        }
    }
}

struct Compared {
    source: Ran,
    shadow: Result<Ran, String>,
}

impl Compared {
    fn times(&self) -> Vec<(&'static str, Duration)> {
        let shadow = self.shadow.as_ref().ok().map(|ran| ("shadow", ran.took));
        std::iter::once(("source", self.source.took)).chain(shadow).collect()
    }

    /// What is wrong about the shadow's answer.
    fn difference(&self, question: Question) -> Option<String> {
        match (&self.shadow, question) {
            (Err(said), _) => Some(format!("the shadow's form fails: {said}")),
            (Ok(shadow), Question::Same) => difference(&self.source.rows, &shadow.rows),
            (Ok(_), Question::Fails) => None,
        }
    }
}

/// Both forms in one snapshot. `None`: too many rows.
async fn compare(
    client: &mut Client,
    job: &Job,
    source_first: bool,
) -> Result<Option<Compared>, tokio_postgres::Error> {
    let mut transaction = client
        .build_transaction()
        .isolation_level(IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()
        .await?;
    transaction.batch_execute(&settings(job)).await?;
    let mut source = None;
    let mut shadow = None;
    for on_source in [source_first, !source_first] {
        if on_source {
            source = run(&transaction, &job.source_sql, job).await?;
        } else {
            let within = transaction.savepoint("pgsegue_dark").await?;
            shadow = match run(&within, &job.shadow_sql, job).await {
                Ok(ran) => ran.map(Ok),
                Err(error) => Some(Err(of_its_rows(error)?)),
            };
            within.rollback().await?;
        }
    }
    transaction.rollback().await?;
    Ok(source.zip(shadow).map(|(source, shadow)| Compared { source, shadow }))
}

/// What the server says of the shadow's form, if that is about what it has read: not that it was
/// cancelled, found no room, or was in somebody's way.
fn of_its_rows(error: tokio_postgres::Error) -> Result<String, tokio_postgres::Error> {
    match error.as_db_error() {
        Some(said)
            if is_of_rows(said.code().code().as_bytes())
                && said.code() != &SqlState::INSUFFICIENT_PRIVILEGE =>
        {
            Ok(format!("{} (SQLSTATE {})", said.message(), said.code().code()))
        }
        _ => Err(error),
    }
}

/// Whether an error of this SQLSTATE may be about the rows or the definition of what was read.
pub(super) fn is_of_rows(sqlstate: &[u8]) -> bool {
    const OTHER: [&[u8]; 7] = [b"08", b"25", b"40", b"53", b"55", b"57", b"58"];
    sqlstate.get(..2).is_some_and(|class| !OTHER.contains(&class))
}

fn settings(job: &Job) -> String {
    let mut sql = side::as_session(&job.user, &job.search_path);
    let output = &job.output;
    for (name, value) in [
        ("TimeZone", &output.time_zone),
        ("DateStyle", &output.date_style),
        ("IntervalStyle", &output.interval_style),
    ] {
        if !value.is_empty() {
            sql.push_str(&format!(", pg_catalog.set_config('{name}', {}, true)", literal(value)));
        }
    }
    sql
}

type Row = Vec<Option<Vec<u8>>>;
type Rows = Vec<Row>;

struct Ran {
    rows: Rows,
    took: Duration,
}

async fn run(
    transaction: &Transaction<'_>,
    sql: &str,
    job: &Job,
) -> Result<Option<Ran>, tokio_postgres::Error> {
    let types: Vec<_> = job.native.parameters.iter().map(|oid| side::type_of(*oid)).collect();
    if types.len() != job.values.len() {
        return Ok(None);
    }
    let statement = transaction.prepare_typed(sql, &types).await?;
    let values: Vec<_> = job.values.iter().map(|(f, v)| Raw(*f, v.as_deref())).collect();
    let began = Instant::now();
    let stream = transaction.query_raw(&statement, values).await?;
    pin_mut!(stream);
    let mut rows = Vec::new();
    while let Some(row) = stream.next().await {
        let row = row?;
        let values = (0..row.len()).map(|i| row.try_get::<_, Option<Bytes>>(i));
        let values = values.map(|v| v.map(|v| v.map(|b| b.0))).collect::<Result<Vec<_>, _>>()?;
        rows.push(values);
        if rows.len() > ROWS_MAX {
            return Ok(None);
        }
    }
    let took = began.elapsed();
    rows.sort_unstable();
    Ok(Some(Ran { rows, took }))
}

/// What the two sorted multisets do not share, for the log.
fn difference(source: &Rows, shadow: &Rows) -> Option<String> {
    if source == shadow {
        return None;
    }
    let only = |a: &Rows, b: &Rows| {
        let rows = a.iter().filter(|r| b.binary_search(r).is_err()).take(ROWS_SHOWN).map(shown);
        rows.collect::<Vec<_>>().join(" ")
    };
    Some(format!(
        "{} rows on the source, {} on the shadow; only on the source: [{}]; only on the shadow: [{}]",
        source.len(),
        shadow.len(),
        only(source, shadow),
        only(shadow, source)
    ))
}

/// A row in binary: texts and integers as such, anything else in hex.
fn shown(row: &Row) -> String {
    let value = |v: &Option<Vec<u8>>| match v.as_deref() {
        None => "NULL".to_owned(),
        Some(&[a, b, c, d]) => i32::from_be_bytes([a, b, c, d]).to_string(),
        Some(&[a, b, c, d, e, f, g, h]) => i64::from_be_bytes([a, b, c, d, e, f, g, h]).to_string(),
        Some(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) if !text.contains('\0') => text.chars().take(80).collect(),
            _ => bytes.iter().take(40).map(|b| format!("{b:02x}")).collect(),
        },
    };
    format!("({})", row.iter().map(value).collect::<Vec<_>>().join(", "))
}

/// A parameter as the client bound it.
#[derive(Debug)]
struct Raw<'a>(i16, Option<&'a [u8]>);

impl ToSql for Raw<'_> {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self.1 {
            None => Ok(IsNull::Yes),
            Some(bytes) => {
                out.extend_from_slice(bytes);
                Ok(IsNull::No)
            }
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        if self.0 == 0 { Format::Text } else { Format::Binary }
    }

    to_sql_checked!();
}

/// A result value's bytes.
struct Bytes(Vec<u8>);

impl<'a> FromSql<'a> for Bytes {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(raw.to_vec()))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}
