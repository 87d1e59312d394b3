//! When a session has to end though its client has not asked for it: a shutdown, or too long idle.
//! Looked at whenever the session has nothing else to do.

use super::limits::SharedLimits;
use crate::wire::build::{Report, Severity};
use std::future::Future as _;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::{
    CancellationToken, WaitForCancellationFuture, WaitForCancellationFutureOwned,
};

/// A session that began as the shutdown was asked for may send its first statement: who has just
/// connected is about to.
const FIRST_STATEMENT: Duration = Duration::from_secs(1);

/// What all sessions go by.
#[derive(Debug, Clone)]
pub(super) struct Ends {
    /// Idle sessions end, others when their transaction has.
    pub(super) drain: CancellationToken,
    /// Every session ends.
    pub(super) deadline: CancellationToken,
    pub(super) limits: SharedLimits,
}

/// How a session is, as far as its end is concerned.
#[derive(Debug, Clone, Copy)]
pub(super) struct State {
    /// Outside a transaction, everything answered.
    pub(super) is_idle: bool,
    /// Reads of the client so far, from the first statement on.
    pub(super) statements: u64,
}

/// What has become due.
#[derive(Debug)]
pub(super) enum Due {
    /// The client is told, and left.
    Leave(Report),
    /// The client is told, and nothing is waited for.
    Drop(Report),
}

/// Watches over one session.
pub(super) struct Watch<'p, 'e> {
    ends: &'e Ends,
    drain: Pin<&'p mut WaitForCancellationFuture<'e>>,
    /// Looked at only once sessions drain: it costs the others nothing.
    deadline: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    began: Instant,
    draining: bool,
    idle_since: Option<(u64, Instant)>,
    // Most sessions need none.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<'p, 'e> Watch<'p, 'e> {
    pub(super) fn new(ends: &'e Ends, drain: Pin<&'p mut WaitForCancellationFuture<'e>>) -> Self {
        let began = Instant::now();
        let (deadline, draining, idle_since, timer) = (None, false, None, None);
        Self { ends, drain, deadline, began, draining, idle_since, timer }
    }

    /// What is due now; otherwise the task is woken when something may be.
    pub(super) fn poll(&mut self, state: State, cx: &mut Context<'_>) -> Option<Due> {
        self.draining = self.draining || self.drain.as_mut().poll(cx).is_ready();
        if self.draining {
            let ends = self.ends;
            let deadline = self
                .deadline
                .get_or_insert_with(|| Box::pin(ends.deadline.clone().cancelled_owned()));
            if deadline.as_mut().poll(cx).is_ready() {
                return Some(Due::Drop(going_down()));
            }
            if state.is_idle
                && (state.statements > 0 || self.passed(self.began + FIRST_STATEMENT, cx))
            {
                return Some(Due::Leave(going_down()));
            }
        }
        let timeout = self.ends.limits.load().idle_timeout;
        match timeout.filter(|_| state.is_idle) {
            None => self.idle_since = None,
            Some(timeout) => {
                let since = match self.idle_since {
                    Some((statements, since)) if statements == state.statements => since,
                    _ => Instant::now(),
                };
                self.idle_since = Some((state.statements, since));
                if self.passed(since + timeout, cx) {
                    return Some(Due::Leave(too_long_idle()));
                }
            }
        }
        None
    }

    /// Whether it is that late; if not, the task is woken then.
    fn passed(&mut self, when: Instant, cx: &mut Context<'_>) -> bool {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(when)));
        if timer.deadline() != when {
            timer.as_mut().reset(when);
        }
        timer.as_mut().poll(cx).is_ready()
    }
}

fn going_down() -> Report {
    Report {
        severity: Severity::Fatal,
        code: "57P01",
        message: "terminating connection because the proxy is shutting down".to_owned(),
        hint: "Connect again.".to_owned(),
    }
}

fn too_long_idle() -> Report {
    Report {
        severity: Severity::Fatal,
        code: "57P05",
        message: "terminating connection due to idle-session timeout".to_owned(),
        hint: "The proxy's limit is [proxy] idle_timeout_ms.".to_owned(),
    }
}
