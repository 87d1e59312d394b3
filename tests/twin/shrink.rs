//! Makes a failing case small: drops steps while it fails in the same way.

use crate::case::{Case, Step};
use crate::run::{Failure, run};

/// Runs that a failure is worth.
const RUNS_MAX: usize = 60;

pub async fn shrink(case: &Case, failure: Failure) -> (Case, Failure) {
    let mut best = (case.clone(), failure);
    if let Some(step) = best.1.step {
        best.0.steps.truncate(step + 1);
    }
    let mut runs = 0;
    let mut size = best.0.steps.len() / 2;
    while size > 0 && runs < RUNS_MAX {
        let mut at = 0;
        while at < best.0.steps.len() && runs < RUNS_MAX {
            let end = (at + size).min(best.0.steps.len());
            let mut smaller = best.0.clone();
            let dropped: Vec<Step> = smaller.steps.drain(at..end).collect();
            runs += 1;
            match run(&smaller).await {
                Err(failure) if failure.kind == best.1.kind => best = (smaller, failure),
                _ => at += dropped.len(),
            }
        }
        size /= 2;
    }
    best
}
