//! Following the config file while the process runs.
//!
//! The folder is watched, not the file: editors replace the file, and Kubernetes replaces a
//! symlink beside it. The same goes for the certificates that the file names. SIGHUP does the same as
//! a change, for file systems that tell nothing.

use super::error::Error;
use super::settings::{Process, Settings};
use super::{parse, read};
use crate::causes;
use crate::telemetry::Metrics;
use crate::tls::Acceptor;
use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use std::collections::BTreeSet;
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
    tried: Tried,
    changed: Arc<Notify>,
    // From the start: without a handler SIGHUP ends the process.
    hangup: Signal,
    watcher: Watcher,
}

/// What one reading has found: the same again is no change.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tried {
    text: Option<String>,
    clients: Option<Acceptor>,
    mistake: Option<String>,
}

impl Tried {
    fn new(text: Option<String>, parsed: &Result<Settings, Error>) -> Self {
        match parsed {
            Ok(settings) => Self { text, clients: settings.clients.clone(), mistake: None },
            Err(error) => Self { text, clients: None, mistake: Some(causes::in_one_line(error)) },
        }
    }
}

impl Reloader {
    /// Starts to watch, then reads: a change in between is not lost.
    ///
    /// # Errors
    /// When the file is missing or invalid, or its folder cannot be watched.
    pub fn load(path: &Path, metrics: Metrics) -> Result<(Self, Settings), Error> {
        let hangup = signal(SignalKind::hangup()).map_err(Error::Signal)?;
        let changed = Arc::new(Notify::new());
        let mut watcher = Watcher::new(path, &changed)?;
        match watcher.add(path) {
            Err(_) if !path.exists() => return Err(Error::Missing { path: path.to_owned() }),
            watched => _ = watched?,
        }
        let text = read(path)?;
        let mut parsed = parse(path, &text);
        if let Ok(settings) = &parsed {
            settings.files.iter().try_for_each(|file| watcher.add(file).map(drop))?;
            parsed = parse(path, &text); // as they are since they are watched
        }
        let tried = Tried::new(Some(text), &parsed);
        let settings = parsed?;
        let in_force = settings.process.clone();
        let path = path.to_owned();
        Ok((Self { path, metrics, in_force, tried, changed, hangup, watcher }, settings))
    }

    /// Works until `shutdown`. `apply` puts what is hot in force or says why not.
    pub async fn run<E: std::error::Error>(
        mut self,
        apply: impl AsyncFn(Settings) -> Result<(), E>,
        shutdown: CancellationToken,
    ) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(()) = self.hangup.recv() => self.tried = Tried::default(),
                () = self.changed.notified() => sleep(DEBOUNCE).await,
            }
            self.reload(&apply).await;
        }
    }

    async fn reload<E: std::error::Error>(
        &mut self,
        apply: &impl AsyncFn(Settings) -> Result<(), E>,
    ) {
        let (tried, parsed) = self.try_read();
        if tried == self.tried {
            return;
        }
        let settings = match parsed {
            Ok(settings) => settings,
            Err(error) => {
                sleep(SETTLE).await;
                if self.try_read().0 == tried {
                    self.tried = tried;
                    self.rejected(&error);
                } else {
                    self.changed.notify_one();
                }
                return;
            }
        };
        self.tried = tried;
        self.warn_of_restart(&settings.process);
        self.follow(&settings.files);
        match apply(settings).await {
            Ok(()) => {
                self.metrics.config_rejected.set(0);
                self.metrics.config_reloads.with_label_values(&["applied"]).inc();
                tracing::info!(path = %self.path.display(), "config file applied");
            }
            Err(error) => self.rejected(&error),
        }
    }

    fn try_read(&self) -> (Tried, Result<Settings, Error>) {
        match read(&self.path) {
            Ok(text) => {
                let parsed = parse(&self.path, &text);
                (Tried::new(Some(text), &parsed), parsed)
            }
            Err(error) => {
                let failed = Err(error);
                (Tried::new(None, &failed), failed)
            }
        }
    }

    /// Watches files that are new here; a change between the reading and now is one to look at.
    fn follow(&mut self, files: &[PathBuf]) {
        for file in files {
            match self.watcher.add(file) {
                Ok(Watched::Already) => {}
                Ok(Watched::Now) => self.changed.notify_one(),
                Err(error) => {
                    let error = causes::in_one_line(&error);
                    tracing::warn!(%error, "its changes are seen only after SIGHUP");
                }
            }
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
        ("proxy.listen_unix", old.local == new.local),
        ("server.address", old.server.address == new.server.address),
        ("server.tls", old.server.tls == new.server.tls),
        ("proxy.reuse_port", old.reuse_port == new.reuse_port),
        ("control", old.control == new.control),
        ("control.verifier_query", old.verifier_query == new.verifier_query),
        ("admin.listen", old.admin == new.admin),
        ("proxy.workers", old.workers == new.workers),
        ("proxy.sql_bytes_max", old.sql_bytes_max == new.sql_bytes_max),
        ("proxy.sql_buffer_bytes_max", old.sql_buffer_bytes_max == new.sql_buffer_bytes_max),
        ("proxy.dark_reads_max", old.dark_reads_max == new.dark_reads_max),
    ]
    .into_iter()
    .filter_map(|(key, same)| (!same).then_some(key))
    .collect()
}

/// The folders of the files that are followed.
struct Watcher {
    watcher: RecommendedWatcher,
    folders: BTreeSet<PathBuf>,
}

/// Whether a folder was watched before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watched {
    Already,
    Now,
}

impl Watcher {
    fn new(path: &Path, changed: &Arc<Notify>) -> Result<Self, Error> {
        let changed = Arc::clone(changed);
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if event.is_ok_and(|event| may_change_a_file(event.kind)) {
                changed.notify_one();
            }
        })
        .map_err(|source| Error::Unwatchable { path: path.to_owned(), source })?;
        Ok(Self { watcher, folders: BTreeSet::new() })
    }

    /// Watches the folder of a file, and of what it links to: that is changed in a folder of its
    /// own.
    fn add(&mut self, path: &Path) -> Result<Watched, Error> {
        let mut watched = Watched::Already;
        let target = path.canonicalize().ok().map(|real| folder_of(&real));
        for folder in [Some(folder_of(path)), target].into_iter().flatten() {
            let real = folder.canonicalize().unwrap_or_else(|_| folder.clone());
            if self.folders.contains(&real) {
                continue;
            }
            self.watcher
                .watch(&folder, RecursiveMode::NonRecursive)
                .map_err(|source| Error::Unwatchable { path: path.to_owned(), source })?;
            self.folders.insert(real);
            watched = Watched::Now;
        }
        Ok(watched)
    }
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
