//! What a failed request is told: JSON with the error and what to do.

use crate::causes;
use crate::engine;
use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// A request that failed.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    body: Body,
}

#[derive(Debug, Serialize)]
struct Body {
    error: String,
    hint: &'static str,
}

impl Failure {
    fn not_found(error: String, hint: &'static str) -> Self {
        Self { status: StatusCode::NOT_FOUND, body: Body { error, hint } }
    }

    pub(super) fn no_such_path() -> Self {
        let hint = "GET /healthz, /readyz, /metrics, /migrations, /migrations/{name}/status, \
                    /migrations/{name}/workload or /migrations/{name}/events; POST /explain";
        Self::not_found("there is nothing at this path".to_owned(), hint)
    }

    pub(super) fn no_such_migration(name: &str) -> Self {
        let hint = "GET /migrations lists them";
        Self::not_found(format!("there is no migration \"{name}\""), hint)
    }

    pub(super) fn not_observed(name: &str) -> Self {
        let hint = "GET /migrations lists those declared; its source table has to exist";
        Self::not_found(format!("this process observes no migration \"{name}\""), hint)
    }

    pub(super) fn bad_question(rejected: &JsonRejection) -> Self {
        let hint = "send {\"sql\": \"…\"}, \"reads\": 10 if you like, as application/json";
        Self { status: rejected.status(), body: Body { error: rejected.body_text(), hint } }
    }

    pub(super) fn bad_request(error: &dyn std::error::Error) -> Self {
        let body = Body { error: causes::in_one_line(error), hint: "" };
        Self { status: StatusCode::BAD_REQUEST, body }
    }

    pub(super) fn no_control() -> Self {
        let hint = "add [control] to the config file and restart";
        Self::not_found("this process is a plain proxy without migrations".to_owned(), hint)
    }

    pub(super) fn internal(error: &dyn std::error::Error) -> Self {
        let error = causes::in_one_line(error);
        tracing::warn!("a request of the admin server failed: {error}");
        let body = Body { error, hint: "is the database reachable?" };
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, body }
    }
}

impl From<engine::Error> for Failure {
    fn from(error: engine::Error) -> Self {
        Self::internal(&error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}
