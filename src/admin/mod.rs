//! HTTP for operators and their tools: health, metrics, status, workload, explain. It changes
//! nothing; it listens on loopback because it asks for no password.
//!
//! Invariant: nothing here can hold up a client session; a slow database makes a slow answer.

mod answer;

use crate::engine::{Control, Declared};
use crate::explain::{self, Question};
use crate::pg::Database;
use crate::telemetry::Metrics;
use crate::workload::{Report, Workload};
use answer::Failure;
use arc_swap::ArcSwap;
use axum::Json;
use axum::Router;
use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Events of one answer; the newest.
const EVENTS_MAX: u32 = 1_000;
/// Of a text to be explained, with what is around it.
const EXPLAIN_BYTES_MAX: usize = 1 << 20;
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the admin server shows.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The metrics.
    pub metrics: Metrics,
    /// Where the migrations are; none without `[control]`.
    pub control: Option<Database>,
    /// What statements this process has seen.
    pub workload: Arc<Workload>,
    /// The migrations of the config file in force.
    pub declared: Arc<ArcSwap<Vec<Declared>>>,
}

/// The admin server.
#[derive(Debug, Clone)]
pub struct Admin {
    shown: Shown,
    ready: Arc<AtomicBool>,
}

impl Admin {
    /// Not ready yet.
    pub fn new(shown: Shown) -> Self {
        Self { shown, ready: Arc::default() }
    }

    /// Whether the process takes clients, as `/readyz` says it.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::SeqCst);
    }

    /// Serves until `shutdown`.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: CancellationToken,
    ) -> std::io::Result<()> {
        let router = Router::new()
            .route("/healthz", get(async || "ok\n"))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .route("/migrations", get(migrations))
            .route("/migrations/", get(migrations))
            .route("/migrations/{name}/status", get(status))
            .route("/migrations/{name}/events", get(events))
            .route("/migrations/{name}/workload", get(workload))
            .route("/explain", post(explained).layer(DefaultBodyLimit::max(EXPLAIN_BYTES_MAX)))
            .fallback(async || Failure::no_such_path())
            .with_state(self);
        axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await
    }

    /// A connection per request: rare requests, and none of them meets a dead connection.
    async fn control(&self) -> Result<Control, Failure> {
        let Some(control) = &self.shown.control else { return Err(Failure::no_control()) };
        Ok(Control::connect(control).await?)
    }
}

async fn readyz(State(admin): State<Admin>) -> (StatusCode, &'static str) {
    if admin.ready.load(Ordering::SeqCst) {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    }
}

async fn metrics(State(admin): State<Admin>) -> Result<Response, Failure> {
    let Shown { metrics, workload, .. } = &admin.shown;
    workload.reports().iter().for_each(|report| export(metrics, report));
    let text = metrics.encode().map_err(|error| Failure::internal(&error))?;
    Ok(([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response())
}

async fn migrations(State(admin): State<Admin>) -> Result<Response, Failure> {
    if admin.shown.control.is_none() {
        return Ok(Json(Vec::<()>::new()).into_response());
    }
    Ok(Json(admin.control().await?.list().await?).into_response())
}

async fn status(State(admin): State<Admin>, Path(name): Path<String>) -> Result<Response, Failure> {
    let status = admin.control().await?.status(&name).await?;
    Ok(Json(status.ok_or_else(|| Failure::no_such_migration(&name))?).into_response())
}

/// JSON only, so that no form of a web page can ask.
async fn explained(
    State(admin): State<Admin>,
    question: Result<Json<Question>, JsonRejection>,
) -> Result<Response, Failure> {
    let Some(database) = &admin.shown.control else { return Err(Failure::no_control()) };
    let Json(question) = question.map_err(|rejected| Failure::bad_question(&rejected))?;
    let declared = admin.shown.declared.load_full();
    match explain::explain(database, &declared, &question).await {
        Ok(explained) => Ok(Json(explained).into_response()),
        Err(error) if error.is_of_the_question() => Err(Failure::bad_request(&error)),
        Err(error) => Err(Failure::internal(&error)),
    }
}

/// What this process has seen; others have seen what they have.
async fn workload(
    State(admin): State<Admin>,
    Path(name): Path<String>,
) -> Result<Response, Failure> {
    if admin.shown.control.is_none() {
        return Err(Failure::no_control());
    }
    let report = admin.shown.workload.report(&name);
    Ok(Json(report.ok_or_else(|| Failure::not_observed(&name))?).into_response())
}

/// The sums of the workload, as metrics.
fn export(metrics: &Metrics, report: &Report) {
    let migration = report.migration.as_str();
    for (class, part) in [
        ("write", report.writes),
        ("read", report.reads),
        ("unfit_read", report.unfit_reads),
        ("other", report.other),
        ("ddl", report.ddl),
        ("unclassified", report.not_understood),
    ] {
        let calls = i64::try_from(part.calls).unwrap_or(i64::MAX);
        metrics.workload_calls.with_label_values(&[migration, class]).set(calls);
    }
    let coverage = report.coverage.map_or(1.0, |percent| percent / 100.0);
    metrics.workload_coverage.with_label_values(&[migration]).set(coverage);
}

async fn events(State(admin): State<Admin>, Path(name): Path<String>) -> Result<Response, Failure> {
    let control = admin.control().await?;
    let status = control.status(&name).await?;
    status.ok_or_else(|| Failure::no_such_migration(&name))?;
    Ok(Json(control.events(&name, EVENTS_MAX).await?).into_response())
}
