//! Dark reads: a sample of the clients' queries is run on both tables in one snapshot and
//! compared, on side connections. Never delays a client: the queue is bounded and drops.

use super::Options;
use super::side;
use super::vet::Native;
use crate::pg::Database;
use crate::routing::{Gate, GateTicket, Route};
use crate::sql::ident::literal;
use crate::telemetry::Metrics;
use bytes::BytesMut;
use futures_util::{StreamExt as _, pin_mut};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_postgres::types::{Format, FromSql, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, IsolationLevel, Transaction};

/// A result with more rows than this is not compared.
const ROWS_MAX: usize = 10_000;
/// Differing rows that are shown in the log.
const ROWS_SHOWN: usize = 3;

/// Settings of the client's session that change how results look.
#[derive(Debug, Clone, Default)]
pub(super) struct OutputSettings {
    pub(super) time_zone: String,
    pub(super) date_style: String,
    pub(super) interval_style: String,
}

/// One comparison to be made.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) route: Arc<Route>,
    /// Those of all that it reads; what closing them makes void.
    pub(super) gates: Vec<(Arc<Gate>, GateTicket)>,
    pub(super) user: Arc<str>,
    pub(super) search_path: Arc<str>,
    pub(super) output: OutputSettings,
    pub(super) source_sql: String,
    pub(super) shadow_sql: String,
    pub(super) native: Arc<Native>,
    /// Format code and value of each parameter.
    pub(super) values: Vec<(i16, Option<Vec<u8>>)>,
}

/// The way to offer a comparison.
#[derive(Debug)]
pub(super) struct DarkReads {
    jobs: Option<mpsc::Sender<Arc<Job>>>,
    metrics: Metrics,
}

impl DarkReads {
    /// Starts the worker. Without a control connection every dark read is dropped.
    pub(super) fn start(options: &Options, metrics: &Metrics) -> Self {
        let metrics = metrics.clone();
        let jobs = options.control.clone().map(|control| {
            let (send, receive) = mpsc::channel(options.dark_reads_max.max(1));
            tokio::spawn(work(control, metrics.clone(), receive));
            send
        });
        Self { jobs, metrics }
    }

    /// Offers a comparison; it is dropped and counted when too many wait.
    pub(super) fn offer(&self, job: Arc<Job>) {
        let migration = job.route.target.migration.clone();
        let taken = self.jobs.as_ref().is_some_and(|jobs| jobs.try_send(job).is_ok());
        if !taken {
            self.metrics.dark_reads.with_label_values(&[migration.as_str(), "dropped"]).inc();
        }
    }
}

async fn work(control: Database, metrics: Metrics, mut jobs: mpsc::Receiver<Arc<Job>>) {
    let mut client: Option<Client> = None;
    let mut source_first = true;
    while let Some(job) = jobs.recv().await {
        if client.as_ref().is_none_or(Client::is_closed) {
            client = control.client("pgsegue dark reads").await.ok();
        }
        let migration = job.route.target.migration.as_str();
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
        let Some(compared) = outcome else {
            count("dropped");
            continue;
        };
        count("compared");
        for (route, time) in [("source", compared.source), ("shadow", compared.shadow)] {
            let histogram = metrics.dark_read_seconds.with_label_values(&[migration, route]);
            histogram.observe(time.as_secs_f64());
        }
        if let Some(difference) = compared.difference {
            // A key that is on record since: whoever committed it has closed the gate before.
            if job.gates.iter().any(|(gate, ticket)| !gate.is_open() || gate.ticket() != *ticket) {
                continue;
            }
            count("mismatched");
            mismatched(&mut client, &job, &difference).await;
        }
    }
}

/// The answers differ in one snapshot: the shadow is wrong. Its reads stop at once, and the mark
/// has a full verify find and repair the keys.
async fn mismatched(client: &mut Option<Client>, job: &Job, difference: &str) {
    job.route.gate.close();
    tracing::warn!(
        migration = job.route.target.migration,
        query = job.source_sql,
        difference,
        "a dark read gave different answers"
    );
    if let Some(client) = client {
        let mark = &job.route.target.mark_function;
        let reason = literal("dark read mismatch");
        if let Err(error) = client.batch_execute(&format!("SELECT {mark}({reason})")).await {
            tracing::error!(%error, "a dark-read mismatch could not be recorded");
        }
    }
}

struct Compared {
    source: Duration,
    shadow: Duration,
    difference: Option<String>,
}

/// Both forms in one snapshot. `None`: too many rows.
async fn compare(
    client: &mut Client,
    job: &Job,
    source_first: bool,
) -> Result<Option<Compared>, tokio_postgres::Error> {
    let transaction = client
        .build_transaction()
        .isolation_level(IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()
        .await?;
    transaction.batch_execute(&settings(job)).await?;
    let mut source = None;
    let mut shadow = None;
    for on_source in [source_first, !source_first] {
        let (sql, slot) = match on_source {
            true => (&job.source_sql, &mut source),
            false => (&job.shadow_sql, &mut shadow),
        };
        match run(&transaction, sql, job).await? {
            Some(ran) => *slot = Some(ran),
            None => return Ok(None),
        }
    }
    transaction.rollback().await?;
    let (Some(source), Some(shadow)) = (source, shadow) else { return Ok(None) };
    Ok(Some(Compared {
        difference: difference(&source.rows, &shadow.rows),
        source: source.took,
        shadow: shadow.took,
    }))
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
