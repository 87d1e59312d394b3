//! The differential twin: schemas, mappings and statements out of a seed, run direct on a plain
//! database and through the proxy on one that is migrated. Every reply has to be the same, message
//! by message, and in the end every shadow what its mapping says.
//!
//! `cargo test` runs a fixed set of seeds. `PGSEGUE_TWIN_SECONDS=3600` goes on for an hour from
//! `PGSEGUE_TWIN_FIRST` on (or from a number of its own); `PGSEGUE_TWIN_SEED=n` runs one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test fails by panicking with the cause"
)]
#![allow(
    unreachable_pub,
    dead_code,
    missing_docs,
    reason = "the modules are this binary's own, or shared with other tests"
)]

mod case;
mod compare;
mod copy;
mod forms;
mod frames;
mod mapping;
mod packets;
mod pen;
mod random;
#[path = "../it/live/raw.rs"]
mod raw;
mod reads;
mod run;
mod schema;
mod sessions;
mod shrink;
mod sql;
mod stand;
mod values;
mod writes;

use case::Case;
use run::{Counts, Failure};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::Mutex;

/// The seeds that every `cargo test` runs.
const SEEDS: u64 = 24;
/// Cases at once: while one waits for the engine another one works.
const AT_ONCE: usize = 4;
/// Failures after which a long run ends.
const FAILURES_MAX: usize = 20;

#[derive(Default)]
struct Totals {
    cases: u64,
    counts: Counts,
    failures: Vec<String>,
    seeds: Vec<u64>,
    /// Exchanges by what they are.
    forms: BTreeMap<String, u64>,
}

impl Totals {
    fn add(&mut self, case: &Case, counts: &Counts) {
        self.cases += 1;
        for form in case.forms() {
            *self.forms.entry(form).or_default() += 1;
        }
        let sum = &mut self.counts;
        sum.statements += counts.statements;
        sum.errors += counts.errors;
        sum.shadow_reads += counts.shadow_reads;
        sum.source_reads += counts.source_reads;
        sum.mirrored += counts.mirrored;
        sum.recorded += counts.recorded;
        sum.parted += counts.parted;
        sum.spent.databases += counts.spent.databases;
        sum.spent.engine += counts.spent.engine;
        sum.spent.ready += counts.spent.ready;
        sum.spent.statements += counts.spent.statements;
        sum.spent.settling += counts.spent.settling;
        sum.spent.unsettled += counts.spent.unsettled;
        sum.spent.ending += counts.spent.ending;
    }

    fn show(&self) -> String {
        let c = &self.counts;
        format!(
            "{} cases, {} failed, {} exchanges ({} with errors), {} writes mirrored, {} marked, \
             {} reads by shadows, {} by sources, {} ended by serialization",
            self.cases,
            self.seeds.len(),
            c.statements,
            c.errors,
            c.mirrored,
            c.recorded,
            c.shadow_reads,
            c.source_reads,
            c.parted
        )
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

/// What `more` allows of the seeds from `first` on.
async fn run_seeds(first: u64, more: impl Fn(u64) -> bool + Send + Sync + 'static) -> Totals {
    let next = Arc::new(AtomicU64::new(first));
    let totals = Arc::new(Mutex::new(Totals::default()));
    let more = Arc::new(more);
    let mut tasks = Vec::new();
    for _ in 0..AT_ONCE {
        let (next, totals, more) = (Arc::clone(&next), Arc::clone(&totals), Arc::clone(&more));
        tasks.push(tokio::spawn(async move {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if !more(seed) || totals.lock().await.seeds.len() >= FAILURES_MAX {
                    return;
                }
                let case = Case::of(seed);
                match run::run(&case).await {
                    Ok(counts) => totals.lock().await.add(&case, &counts),
                    Err(failure) => {
                        totals.lock().await.seeds.push(seed);
                        let shown = explain(&case, failure).await;
                        eprintln!("{shown}");
                        totals.lock().await.failures.push(shown);
                    }
                }
            }
        }));
    }
    let beat = tokio::spawn(beat(Arc::clone(&totals)));
    for task in tasks {
        task.await.unwrap();
    }
    beat.abort();
    let _ended = beat.await;
    Arc::into_inner(totals).unwrap().into_inner()
}

/// A line each minute.
async fn beat(totals: Arc<Mutex<Totals>>) {
    let began = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_secs(60)).await;
        let totals = totals.lock().await;
        eprintln!("{:?}: {}", began.elapsed(), totals.show());
    }
}

async fn explain(case: &Case, failure: Failure) -> String {
    let first = format!("{:?} at step {:?}", failure.kind, failure.step);
    eprintln!("seed {}: {first}\n{}", case.seed, failure.text);
    let (case, failure) = shrink::shrink(case, failure).await;
    format!(
        "=== PGSEGUE_TWIN_SEED={} ({first})\n{}\n{:?} at step {:?}\n{}\n",
        case.seed,
        case.show(),
        failure.kind,
        failure.step,
        failure.text
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn direct_and_through_the_proxy_are_the_same() {
    let began = Instant::now();
    if let Ok(filter) = std::env::var("PGSEGUE_LOG") {
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
    let totals = match (number("PGSEGUE_TWIN_SEED"), number("PGSEGUE_TWIN_SECONDS")) {
        (Some(seed), _) => run_seeds(seed, move |s| s == seed).await,
        (None, Some(seconds)) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
            let first = number("PGSEGUE_TWIN_FIRST").unwrap_or(now * 100_000);
            let end = began + Duration::from_secs(seconds);
            eprintln!("seeds from {first}");
            run_seeds(first, move |_| Instant::now() < end).await
        }
        (None, None) => run_seeds(1, |seed| seed <= SEEDS).await,
    };
    let c = &totals.counts;
    eprintln!("{:?}: {}\n{:?}\n{:?}", began.elapsed(), totals.show(), c.spent, totals.forms);
    if !totals.seeds.is_empty() {
        eprintln!("seeds that failed: {:?}", totals.seeds);
    }
    assert!(totals.failures.is_empty(), "{} cases failed", totals.failures.len());
    // One in seven, as it is: fewer, and what is compared is not the shadow.
    let few = c.shadow_reads * 20 < c.shadow_reads + c.source_reads;
    assert!(totals.cases < 10 || !few, "the shadows have served too few reads");
    assert!(c.parted * 50 <= totals.cases.max(50), "too many cases ended by serialization");
}
