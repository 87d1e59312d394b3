//! The engine of one process: its lock, its view of the journal, the routes it publishes, and one
//! worker per migration.

use super::entry::{self, Entry, Request};
use super::journal::{self, Journaled};
use super::leadership::{self, Role};
use super::levers::LeverChange;
use super::{Error, Phase, drift, functions, worker};
use crate::manifest::{Levers, Migration, Percent};
use crate::pg::{self, Connection};
use crate::routing::{self, Mirror, Routes};
use crate::sql::target::{Functions, Target};
use crate::telemetry::Metrics;
use crate::workload::Workload;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, RwLock};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The channel on which the control side says that something changed.
pub(crate) const CHANNEL: &str = "pgsegue";
/// Between polls of the dirty keys, while a gate that may open is closed, and otherwise.
pub(super) const POLL_CLOSED: Duration = Duration::from_millis(50);
pub(super) const POLL_OPEN: Duration = Duration::from_millis(200);

/// Between looks for tables that were missing.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Between looks at the control side though nothing was notified.
const PULL_ANYWAY: Duration = Duration::from_secs(5);

/// One migration as the config file has it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// The part that is fixed once started.
    pub migration: Migration,
    /// The hot part.
    pub levers: Levers,
}

/// The engine of one process.
#[derive(Debug)]
pub struct Engine {
    config: pg::Database,
    routes: Arc<routing::Handle>,
    /// Where the sessions count what they see of each route's table.
    workload: Arc<Workload>,
    metrics: Metrics,
    // Held for in-memory work and a publication, never over an await.
    state: Mutex<State>,
    /// The connection that holds the engine's locks; none while it is lost.
    control: tokio::sync::Mutex<Option<Arc<Connection>>>,
    /// Read by a worker's step, written by who must know that none is under way.
    steps: RwLock<()>,
    /// Declarations have changed.
    declared: Notify,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) entries: BTreeMap<String, Entry>,
    journal: BTreeMap<String, Journaled>,
    functions: Arc<Functions>,
    /// What they were read by: a fingerprint, and the migrations.
    ways: (String, BTreeSet<String>),
    last_request: i64,
    pub(super) role: Role,
    /// Since when no other process serves this database, as the server says it.
    started: String,
}

impl Engine {
    /// Connects, finds its place beside other processes, brings schema `pgsegue` up to date when it
    /// leads, reads the journal. Publishes nothing yet.
    ///
    /// # Errors
    /// When the database cannot be reached, a process of another version leads, or the schema
    /// cannot be installed.
    pub async fn connect(
        control: pg::Database,
        routes: Arc<routing::Handle>,
        workload: Arc<Workload>,
        metrics: Metrics,
    ) -> Result<Arc<Self>, Error> {
        let mut connection = pg::connect(&control, "pgsegue engine").await?;
        let role = leadership::join(&mut connection).await?;
        let journal = journal::load(&connection.client).await?;
        let journal = journal.into_iter().map(|j| (j.name.clone(), j)).collect();
        let functions = Arc::new(functions::load(&connection.client, &[]).await?);
        let state = State { journal, functions, role, ..State::default() };
        let engine = Arc::new(Self {
            config: control,
            routes,
            workload,
            metrics,
            state: Mutex::new(state),
            control: tokio::sync::Mutex::new(None),
            steps: RwLock::new(()),
            declared: Notify::new(),
        });
        engine.settle(&connection).await?;
        engine.put_control(connection).await;
        Ok(engine)
    }

    /// Puts a set of declarations in force as a whole: validates them against the journal, then
    /// publishes routes. Called before the first client is accepted and at every reload. A change
    /// of levers alone is published before any round trip to the database.
    ///
    /// # Errors
    /// When a started migration is no longer declared or declared differently; nothing changes.
    pub async fn apply(&self, declared: Vec<Declared>) -> Result<(), Error> {
        let changes = self.take_over(&declared)?;
        self.publish();
        if let Some(control) = self.control().await {
            if self.role() != Role::Following {
                self.record_declarations(&control).await?;
            }
            journal::save_gaps(&control.client, &self.gaps()).await?;
            for change in &changes {
                change.record(&control.client).await?;
            }
        }
        self.find_targets().await?;
        self.declared.notify_one();
        Ok(())
    }

    /// Says in the journal what this process has declared: who leads does.
    pub(super) async fn record_declarations(&self, control: &Connection) -> Result<(), Error> {
        let declared: Vec<Declared> =
            self.state().entries.values().map(|entry| entry.declared.clone()).collect();
        let names: Vec<String> = declared.iter().map(|d| d.migration.name.clone()).collect();
        journal::undeclare_others(&control.client, &names).await?;
        for one in &declared {
            journal::declare(&control.client, one).await?;
        }
        Ok(())
    }

    /// The migrations that are not mirrored though they were.
    pub(super) fn gaps(&self) -> Vec<String> {
        let state = self.state();
        let interrupted = state.entries.iter().filter(|(_, entry)| entry.gap && !entry.is_dual());
        interrupted.map(|(name, _)| name.clone()).collect()
    }

    /// Validates, then replaces the entries in memory. Returns the lever changes.
    fn take_over(&self, declared: &[Declared]) -> Result<Vec<LeverChange>, Error> {
        let mut state = self.state();
        validate(&state, declared)?;
        let mut changes = Vec::new();
        let mut before = std::mem::take(&mut state.entries);
        for one in declared {
            let name = one.migration.name.clone();
            let entry = match before.remove(&name) {
                Some(mut entry) => {
                    changes.extend(LeverChange::between(
                        &name,
                        &entry.declared.levers,
                        &one.levers,
                    ));
                    if journal::definition(&entry.declared.migration)
                        != journal::definition(&one.migration)
                    {
                        entry.target = None;
                        entry.observed = None;
                    }
                    entry.declared = one.clone();
                    entry.note_gap();
                    entry.wake.notify_one();
                    entry
                }
                None => Entry::new(one.clone(), state.journal.get(&name)),
            };
            state.entries.insert(name, entry);
        }
        for entry in before.values() {
            entry.gate.close();
            entry.wake.notify_one();
        }
        for change in &changes {
            self.metrics.route_changes.with_label_values(&[&change.migration]).inc();
        }
        Ok(changes)
    }

    /// The migrations whose tables are to be looked at.
    pub(super) fn without_target(&self) -> Vec<Migration> {
        let state = self.state();
        let wanted = |e: &&Entry| e.target.is_none() || !e.phase.is_bound();
        state.entries.values().filter(wanted).map(|e| e.declared.migration.clone()).collect()
    }

    /// A migration without a target is not mirrored: after its start that is a gap.
    pub(super) fn not_routed(&self, name: &str, reason: &str) {
        tracing::debug!(migration = name, reason, "not routed");
        self.with_entry(name, |entry| {
            if entry.phase.mirror() != Mirror::Off {
                entry.gap = true;
                entry.gate.close();
            }
        });
    }

    /// The tables that statements are understood by.
    pub(super) fn targets(&self) -> Vec<Arc<Target>> {
        let state = self.state();
        state
            .entries
            .values()
            .filter_map(|e| e.target.clone().or_else(|| e.observed.clone()))
            .collect()
    }

    /// Whether what the catalog says about functions was read by this fingerprint.
    pub(super) fn has_ways(&self, fingerprint: &str) -> bool {
        self.state().ways.0 == fingerprint
    }

    /// Reads again what the catalog says about functions. Returns the mirrored migrations that may
    /// be written by something that was not known of.
    pub(super) async fn refresh_functions(
        &self,
        control: &Connection,
        targets: &[Arc<Target>],
        fingerprint: String,
    ) -> Result<BTreeSet<String>, Error> {
        let functions = functions::load(&control.client, targets).await?;
        let migrations = targets.iter().map(|t| t.migration.clone()).collect();
        let grown = {
            let mut state = self.state();
            let (now, before) = (&functions.ways, &state.functions.ways);
            let is_new = |name: &str| {
                state.ways.1.contains(name)
                    && state.entries.get(name).is_some_and(|e| e.phase.mirror() != Mirror::Off)
                    && now.has_grown(before, name)
            };
            let names = targets.iter().map(|t| &t.migration).filter(|name| is_new(name));
            let grown = names.cloned().collect();
            state.functions = Arc::new(functions);
            state.ways = (fingerprint, migrations);
            grown
        };
        self.publish();
        Ok(grown)
    }

    /// Works until `shutdown`: listens for requests, polls dirty keys, runs the migrations.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let mut workers = JoinSet::new();
        let mut running: BTreeMap<String, CancellationToken> = BTreeMap::new();
        workers.spawn(Arc::clone(&self).poll(shutdown.clone()));
        let mut pulled = false;
        while !shutdown.is_cancelled() {
            let Some(control) = self.keep_control(&shutdown).await else { break };
            self.reconcile(&mut workers, &mut running, &shutdown);
            if !pulled {
                pulled = self.succeeded(self.pull(&control).await);
            }
            pulled &= self.succeeded(self.settle(&control).await);
            let settled = pulled && self.role() == Role::Alone;
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = control.closed.cancelled() => pulled = false,
                () = control.notified.notified() => pulled = false,
                () = self.declared.notified() => {}
                () = tokio::time::sleep(if settled { PULL_ANYWAY } else { POLL_OPEN }) => pulled = false,
            }
        }
        self.close_gates();
        for stop in running.values() {
            stop.cancel();
        }
        while workers.join_next().await.is_some() {}
        self.resign().await;
    }

    /// Polls the dirty keys, and now and then the catalog: apart from `run`, so that a lever never
    /// waits for it.
    async fn poll(self: Arc<Self>, shutdown: CancellationToken) {
        let mut looked = Instant::now();
        let mut compared: Option<Instant> = None;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(self.poll_interval()) => {}
            }
            let Some(control) = self.control().await else { continue };
            // Before any gate opens: the tables may have changed while this process was down.
            if compared.is_none_or(|at| at.elapsed() > drift::LOOK) || self.is_unlooked() {
                compared = self.look(&control).await.then(Instant::now);
            }
            if compared.is_some() {
                self.succeeded(self.poll_gates(&control).await);
            }
            if looked.elapsed() > LOOK_AGAIN {
                looked = Instant::now();
                self.succeeded(self.find_targets().await);
            }
        }
    }

    pub(super) fn succeeded(&self, result: Result<(), Error>) -> bool {
        if let Err(error) = &result {
            tracing::warn!(%error, "the control connection had an error; trying again");
            self.close_gates();
        }
        result.is_ok()
    }

    fn reconcile(
        self: &Arc<Self>,
        workers: &mut JoinSet<()>,
        running: &mut BTreeMap<String, CancellationToken>,
        shutdown: &CancellationToken,
    ) {
        let names: Vec<String> = self.state().entries.keys().cloned().collect();
        running.retain(|name, stop| {
            let keep = names.contains(name);
            if !keep {
                stop.cancel();
            }
            keep
        });
        for name in names {
            running.entry(name.clone()).or_insert_with(|| {
                let stop = shutdown.child_token();
                workers.spawn(worker::run(Arc::clone(self), name, stop.clone()));
                stop
            });
        }
    }

    /// The control connection while it lives.
    pub(super) async fn control(&self) -> Option<Arc<Connection>> {
        let mut control = self.control.lock().await;
        match control.as_ref() {
            Some(connection) if !connection.client.is_closed() => Some(Arc::clone(connection)),
            Some(_) => {
                *control = None;
                self.set_role(Role::Lost);
                None
            }
            None => None,
        }
    }

    pub(super) async fn put_control(&self, connection: Connection) {
        *self.control.lock().await = Some(Arc::new(connection));
    }

    pub(super) async fn drop_control(&self) {
        drop(self.control.lock().await.take());
    }

    /// Reads what the control side changed: levers first, published at once, then requests.
    async fn pull(&self, control: &Connection) -> Result<(), Error> {
        let journal = journal::load(&control.client).await?;
        {
            let mut state = self.state();
            for journaled in journal {
                if let Some(entry) = state.entries.get_mut(&journaled.name) {
                    entry.control = journaled.control;
                    entry.gap |= journaled.gap;
                    entry.note_gap();
                    entry.wake.notify_one();
                }
            }
        }
        self.publish();
        if self.role() == Role::Following {
            return Ok(());
        }
        let last = self.state().last_request;
        let rows = control
            .client
            .query(
                "SELECT id, migration, what, who, why FROM pgsegue.requests WHERE id > $1 \
                 ORDER BY id",
                &[&last],
            )
            .await?;
        for row in rows {
            let request = Request {
                id: row.try_get(0)?,
                what: row.try_get(2)?,
                who: row.try_get(3)?,
                why: row.try_get(4)?,
            };
            let mut state = self.state();
            state.last_request = request.id;
            if let Some(entry) = state.entries.get_mut(&row.try_get::<_, String>(1)?) {
                entry.requests.push_back(request);
                entry.wake.notify_one();
            }
        }
        Ok(())
    }

    /// Publishes the routes that follow from the entries.
    pub(super) fn publish(&self) {
        let state = self.state();
        // Under the lock: two publications cannot overtake each other.
        self.routes
            .publish(|now, epoch| entry::routes(&state.entries, &state.functions, now, epoch));
        self.observe();
    }

    /// What is published is observed from here on, though no statement has come yet. Under the lock,
    /// as the publication.
    fn observe(&self) {
        for route in &self.routes.load().routes {
            let why = route.target.old_shape.as_ref().err();
            self.workload.of(&route.target.migration).set_no_reads(why.map(String::as_str));
        }
    }

    /// Publishes routes under which every statement is understood anew.
    pub(super) fn publish_anew(&self) {
        let state = self.state();
        self.routes.publish(|now, epoch| Routes {
            generation: now.generation + 1,
            ..entry::routes(&state.entries, &state.functions, now, epoch)
        });
        self.observe();
    }

    /// The declarations whose writes are mirrored.
    pub(super) fn mirrored(&self) -> Vec<Migration> {
        let state = self.state();
        let mirrored = |e: &&Entry| e.phase.mirror() != Mirror::Off;
        state.entries.values().filter(mirrored).map(|e| e.declared.migration.clone()).collect()
    }

    /// Whether a route still allows reads of tables that have changed.
    pub(super) fn is_behind_drift(&self) -> bool {
        let state = self.state();
        let drifted =
            |name: &str| state.entries.get(name).is_some_and(|e| e.definition.has_changed());
        let routes = self.routes.load();
        routes.routes.iter().any(|r| {
            drifted(&r.target.migration)
                && (r.reads > Percent::ZERO || r.dark_reads > Percent::ZERO)
        })
    }

    /// Does something with one entry; none when the migration is not declared any more.
    pub(super) fn with_entry<T>(&self, name: &str, f: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        self.state().entries.get_mut(name).map(f)
    }

    /// Puts a phase that the journal has in force.
    pub(super) fn enter(&self, name: &str, phase: &Phase) {
        let changed = {
            let mut state = self.state();
            if let Some(journaled) = state.journal.get_mut(name) {
                journaled.phase = phase.clone();
            }
            state.entries.get_mut(name).is_some_and(|entry| {
                let changed = entry.phase.name() != phase.name();
                entry.enter(phase.clone());
                changed
            })
        };
        if changed {
            self.publish();
        }
    }

    pub(super) fn role(&self) -> Role {
        self.state().role
    }

    /// Gates open only for who is alone: under the lock under which they are opened.
    pub(super) fn set_role(&self, role: Role) {
        let mut state = self.state();
        state.role = role;
        for entry in state.entries.values() {
            if role != Role::Alone {
                entry.gate.close();
            }
            entry.wake.notify_one();
        }
    }

    /// Whether this process may move phases and work on the shadow. To be asked under
    /// [`Self::steps`].
    pub(super) fn may_work(&self) -> bool {
        self.role() == Role::Alone
    }

    pub(super) fn steps(&self) -> &RwLock<()> {
        &self.steps
    }

    pub(super) fn remember(&self, journaled: Journaled) {
        self.state().journal.insert(journaled.name.clone(), journaled);
    }

    pub(super) fn started_now(&self, when: String) {
        self.state().started = when;
    }

    pub(super) fn config(&self) -> &pg::Database {
        &self.config
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(super) fn routes(&self) -> &routing::Handle {
        &self.routes
    }

    pub(super) fn started(&self) -> String {
        self.state().started.clone()
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A started migration must be declared, and as it was started.
fn validate(state: &State, declared: &[Declared]) -> Result<(), Error> {
    let phases = state.journal.values().map(|j| {
        let phase = state.entries.get(&j.name).map_or(&j.phase, |entry| &entry.phase);
        let definition = match state.entries.get(&j.name) {
            Some(entry) => journal::definition(&entry.declared.migration),
            None => j.definition.clone(),
        };
        (j.name.clone(), phase, definition)
    });
    let running = state.entries.values().map(|entry| {
        let migration = &entry.declared.migration;
        (migration.name.clone(), &entry.phase, journal::definition(migration))
    });
    for (name, phase, definition) in phases.chain(running).filter(|(_, phase, _)| phase.is_bound())
    {
        let Some(now) = declared.iter().find(|d| d.migration.name == name) else {
            return Err(Error::Undeclared { name, phase: phase.name() });
        };
        let now = journal::definition(&now.migration);
        if let Some(changed) = journal::difference(&definition, &now) {
            return Err(Error::Redefined { name, phase: phase.name(), changed });
        }
    }
    Ok(())
}
