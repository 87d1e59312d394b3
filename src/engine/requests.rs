//! What an operator asked for, done by the worker between two steps.

use super::entry::Request;
use super::worker::Worker;
use super::{Error, Phase, install, journal};
use std::time::Duration;
use tokio::time::Instant;

/// How long an abort waits for statements in flight before it drops the functions they call.
const IN_FLIGHT: Duration = Duration::from_secs(30);

/// Carries out one request and removes it. A request that does not fit the phase any more is
/// removed, with an event that says so.
pub(super) async fn handle(
    worker: &mut Worker,
    phase: &Phase,
    request: &Request,
) -> Result<(), Error> {
    let to = match request.what.as_str() {
        "start" => started(phase),
        "pause" => paused(phase),
        "resume" => resumed(phase),
        "abort" => (*phase != Phase::Aborted).then_some(Phase::Aborted),
        "verify" => {
            if phase.serves_reads() {
                worker.verify_now(phase).await?;
            }
            return noted(worker, request).await;
        }
        "repair" => {
            let name = worker.name.clone();
            journal::retry_all(worker.client().await?, &name).await?;
            return noted(worker, request).await;
        }
        _ => None,
    };
    let Some(to) = to else { return noted(worker, request).await };
    change(worker, phase, to.clone(), request).await?;
    if to == Phase::Aborted {
        clean_up(worker).await?;
    }
    Ok(())
}

fn started(phase: &Phase) -> Option<Phase> {
    match phase {
        Phase::Observe | Phase::Aborted => Some(Phase::Prepare),
        Phase::Paused { from } | Phase::Blocked { from, .. } => Some((**from).clone()),
        Phase::Prepare
        | Phase::DualWrite
        | Phase::Backfill { .. }
        | Phase::Repair
        | Phase::Verify { .. }
        | Phase::Ready => None,
    }
}

fn paused(phase: &Phase) -> Option<Phase> {
    match phase {
        Phase::Observe | Phase::Aborted | Phase::Paused { .. } | Phase::Blocked { .. } => None,
        Phase::Prepare
        | Phase::DualWrite
        | Phase::Backfill { .. }
        | Phase::Repair
        | Phase::Verify { .. }
        | Phase::Ready => Some(Phase::Paused { from: Box::new(phase.clone()) }),
    }
}

fn resumed(phase: &Phase) -> Option<Phase> {
    match phase {
        Phase::Paused { from } | Phase::Blocked { from, .. } => Some((**from).clone()),
        Phase::Observe
        | Phase::Prepare
        | Phase::DualWrite
        | Phase::Backfill { .. }
        | Phase::Repair
        | Phase::Verify { .. }
        | Phase::Ready
        | Phase::Aborted => None,
    }
}

/// One transaction: the phase, its event, the request gone. After `resume` of a block, keys that
/// were put off are tried again at once.
async fn change(
    worker: &mut Worker,
    from: &Phase,
    to: Phase,
    request: &Request,
) -> Result<(), Error> {
    let name = worker.name.clone();
    let tx = worker.client().await?.transaction().await?;
    journal::advance(&tx, &name, (from, &to), &request.who, &request.why).await?;
    tx.execute("DELETE FROM pgsegue.requests WHERE id = $1", &[&request.id]).await?;
    journal::retry_all(&tx, &name).await?;
    if to == Phase::Aborted {
        tx.execute(
            "UPDATE pgsegue.migrations SET gap = false, verified_at = NULL, backfill_until = NULL, \
             reads_blocked = NULL \
             WHERE name = $1",
            &[&name],
        )
        .await?;
    }
    tx.commit().await?;
    tracing::info!(
        migration = name,
        from = from.name(),
        to = to.name(),
        who = request.who,
        "asked for"
    );
    worker.reset();
    if to == Phase::Aborted {
        worker.engine.with_entry(&name, |entry| {
            entry.verified = false;
            entry.gap = false;
            entry.reads_blocked = None;
        });
    }
    worker.engine.enter(&name, &to);
    Ok(())
}

async fn noted(worker: &mut Worker, request: &Request) -> Result<(), Error> {
    let name = worker.name.clone();
    let tx = worker.client().await?.transaction().await?;
    tx.execute("DELETE FROM pgsegue.requests WHERE id = $1", &[&request.id]).await?;
    let event = journal::NewEvent {
        migration: &name,
        who: &request.who,
        what: &request.what,
        from: "",
        to: "",
        why: &request.why,
    };
    journal::event(&tx, &event).await?;
    Ok(tx.commit().await?)
}

/// After an abort: nobody calls the functions once every statement decided under the old routes
/// has been answered. Killed before that, or aborted with no process there, they are dropped by the
/// one that finds them.
async fn clean_up(worker: &mut Worker) -> Result<(), Error> {
    let until = Instant::now() + IN_FLIGHT;
    while !clean_up_now(worker).await? {
        if Instant::now() > until {
            let migration = &worker.name;
            tracing::warn!(migration, "statements in flight; the functions are dropped later");
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Drops what is left of an aborted migration, unless statements are in flight that were decided
/// before; whether it is gone.
pub(super) async fn clean_up_now(worker: &mut Worker) -> Result<bool, Error> {
    let routes = worker.engine.routes();
    if !routes.all_reached(routes.load().epoch) {
        return Ok(false);
    }
    let name = worker.name.clone();
    let tx = worker.client().await?.transaction().await?;
    let dropped = install::drop_all(&tx, &name).await?;
    tx.execute("DELETE FROM pgsegue.dirty_keys WHERE migration = $1", &[&name]).await?;
    tx.commit().await?;
    if dropped > 0 {
        tracing::info!(migration = name, dropped, "the functions of an aborted migration are gone");
    }
    Ok(true)
}
