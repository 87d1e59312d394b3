//! One finding of the preflight.

use serde::Serialize;
use std::fmt;

/// Something in the database that an SRE has to know before a start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stable: `kind object`, such as `trigger public.orders.audit`. Goes into `accepted`.
    pub id: String,
    /// How bad it is.
    pub severity: Severity,
    /// What is there and what it would do.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The migration is not started.
    Blocker,
    /// It works, less well.
    Warning,
    /// Worth knowing, or accepted by the SRE.
    Info,
}

impl Finding {
    /// A finding that keeps the migration from starting.
    pub(super) fn blocker(
        id: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            id: id.into(),
            severity: Severity::Blocker,
            message: message.into(),
            remedy: remedy.into(),
        }
    }

    /// A finding that does not.
    pub(super) fn warning(
        id: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { severity: Severity::Warning, ..Self::blocker(id, message, remedy) }
    }

    /// A finding that is only worth knowing.
    pub(super) fn info(
        id: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { severity: Severity::Info, ..Self::blocker(id, message, remedy) }
    }

    /// Whether it keeps the migration from starting.
    pub fn is_blocker(&self) -> bool {
        self.severity == Severity::Blocker
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.id, self.message, self.remedy)
    }
}
