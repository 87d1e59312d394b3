//! Following the config file while the process runs.
//!
//! The folder is watched, not the file: editors replace the file, and Kubernetes replaces a
//! symlink beside it. SIGHUP does the same as a change, for file systems that tell nothing.

use super::error::Error;
use super::settings::{Process, Settings};
use super::{parse, read};
use crate::causes;
use crate::engine::Declared;
use crate::telemetry::Metrics;
use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// One save is several events; a flip may take 10 ms in all.
const DEBOUNCE: Duration = Duration::from_millis(2);
/// How long an invalid file may stay invalid before that is reported: some editors empty a file
/// before they write it.
const SETTLE: Duration = Duration::from_millis(25);

/// Puts every valid change of the config file in force, as a whole.
pub struct Reloader {
    path: PathBuf,
    metrics: Metrics,
    in_force: Process,
    /// What was tried last, with success or not.
    tried: String,
    changed: Arc<Notify>,
    // From the start: without a handler SIGHUP ends the process.
    hangup: Signal,
    _watcher: RecommendedWatcher,
}

impl Reloader {
    /// Starts to watch, then reads: a change in between is not lost.
    ///
    /// # Errors
    /// When the file is missing or invalid, or its folder cannot be watched.
    pub fn load(path: &Path, metrics: Metrics) -> Result<(Self, Settings), Error> {
        let hangup = signal(SignalKind::hangup()).map_err(Error::Signal)?;
        let changed = Arc::new(Notify::new());
        let watcher = match watch(path, &changed) {
            Err(_) if !path.exists() => return Err(Error::Missing { path: path.to_owned() }),
            watcher => watcher?,
        };
        let tried = read(path)?;
        let settings = parse(path, &tried)?;
        let in_force = settings.process.clone();
        let path = path.to_owned();
        Ok((Self { path, metrics, in_force, tried, changed, hangup, _watcher: watcher }, settings))
    }

    /// Works until `shutdown`. `apply` puts a set of migrations in force or says why not.
    pub async fn run<E: std::error::Error>(
        mut self,
        apply: impl AsyncFn(Vec<Declared>) -> Result<(), E>,
        shutdown: CancellationToken,
    ) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(()) = self.hangup.recv() => self.tried.clear(),
                () = self.changed.notified() => sleep(DEBOUNCE).await,
            }
            self.reload(&apply).await;
        }
    }

    async fn reload<E: std::error::Error>(
        &mut self,
        apply: &impl AsyncFn(Vec<Declared>) -> Result<(), E>,
    ) {
        let (text, parsed) = self.try_read();
        if text.as_ref() == Some(&self.tried) {
            return;
        }
        let settings = match parsed {
            Ok(settings) => settings,
            Err(error) => {
                sleep(SETTLE).await;
                if self.try_read().0 == text {
                    self.tried = text.unwrap_or_default();
                    self.rejected(&error);
                } else {
                    self.changed.notify_one();
                }
                return;
            }
        };
        self.tried = text.unwrap_or_default();
        self.warn_of_restart(&settings.process);
        match apply(settings.migrations).await {
            Ok(()) => {
                self.metrics.config_rejected.set(0);
                self.metrics.config_reloads.with_label_values(&["applied"]).inc();
                tracing::info!(path = %self.path.display(), "config file applied");
            }
            Err(error) => self.rejected(&error),
        }
    }

    fn try_read(&self) -> (Option<String>, Result<Settings, Error>) {
        match read(&self.path) {
            Ok(text) => {
                let parsed = parse(&self.path, &text);
                (Some(text), parsed)
            }
            Err(error) => (None, Err(error)),
        }
    }

    fn rejected(&self, error: &dyn std::error::Error) {
        self.metrics.config_rejected.set(1);
        self.metrics.config_reloads.with_label_values(&["rejected"]).inc();
        tracing::error!("config file rejected, nothing changed: {}", causes::in_one_line(error));
    }

    fn warn_of_restart(&self, new: &Process) {
        let keys = needs_restart(&self.in_force, new);
        if !keys.is_empty() {
            tracing::warn!(keys = keys.join(", "), "these changes take effect after a restart");
        }
    }
}

/// The keys that differ and are not hot.
fn needs_restart(old: &Process, new: &Process) -> Vec<&'static str> {
    [
        ("proxy.listen", old.listen == new.listen),
        ("server.address", old.server == new.server),
        ("control", old.control == new.control),
        ("admin.listen", old.admin == new.admin),
        ("proxy.sql_bytes_max", old.sql_bytes_max == new.sql_bytes_max),
        ("proxy.dark_reads_max", old.dark_reads_max == new.dark_reads_max),
    ]
    .into_iter()
    .filter_map(|(key, same)| (!same).then_some(key))
    .collect()
}

fn watch(path: &Path, changed: &Arc<Notify>) -> Result<RecommendedWatcher, Error> {
    let unwatchable = |source| Error::Unwatchable { path: path.to_owned(), source };
    let changed = Arc::clone(changed);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        if event.is_ok_and(|event| may_change_a_file(event.kind)) {
            changed.notify_one();
        }
    })
    .map_err(unwatchable)?;
    let folder = folder_of(path);
    watcher.watch(&folder, RecursiveMode::NonRecursive).map_err(unwatchable)?;
    // A symlink's target is changed in a folder of its own.
    let target = path.canonicalize().map(|real| folder_of(&real)).unwrap_or_default();
    if !target.as_os_str().is_empty() && folder.canonicalize().is_ok_and(|real| real != target) {
        watcher.watch(&target, RecursiveMode::NonRecursive).map_err(unwatchable)?;
    }
    Ok(watcher)
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Reading the file is an event as well, and must not lead to the next reading.
fn may_change_a_file(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        EventKind::Any
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Other => true,
    }
}
