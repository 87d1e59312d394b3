//! The config file while the process runs: what is applied and what is rejected.

use crate::support::{Proxy, database, eventually};
use pgsegue::config::{Reloader, Settings};
use pgsegue::engine::Declared;
use pgsegue::telemetry::Metrics;
use std::convert::Infallible;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Far above what a reload takes, far below what a test may hang.
const PATIENCE: Duration = Duration::from_secs(60);

fn file(reads: &str) -> String {
    format!(
        "[server]\naddress = \"h:1\"\n[control]\nurl = \"host=h user=u dbname=d\"\n\
         [[migration]]\nname = \"m\"\nsource = \"a.b\"\nshadow = \"a.c\"\nkey = [\"id\"]\n\
         [migration.columns]\nid = \"id\"\n[migration.routing]\nreads = {reads}\n"
    )
}

/// A reloader on its own, with the reads of every set that it applied.
struct Watched {
    metrics: Metrics,
    applied: mpsc::Receiver<f64>,
    _stop: tokio_util::sync::DropGuard,
}

impl Watched {
    fn start(path: &Path) -> Self {
        let metrics = Metrics::new().unwrap();
        let (reloader, settings) = Reloader::load(path, metrics.clone()).unwrap();
        assert_eq!(reads(&settings.migrations), 0.0);
        let (sender, applied) = mpsc::channel(16);
        let stop = CancellationToken::new();
        let run = reloader.run(
            async move |settings: Settings| {
                sender.send(reads(&settings.migrations)).await.unwrap();
                Ok::<(), Infallible>(())
            },
            stop.clone(),
        );
        tokio::spawn(run);
        Self { metrics, applied, _stop: stop.drop_guard() }
    }

    async fn next(&mut self) -> f64 {
        timeout(PATIENCE, self.applied.recv()).await.unwrap().unwrap()
    }

    fn counts(&self) -> (u64, u64) {
        let count = |result| self.metrics.config_reloads.with_label_values(&[result]).get();
        (count("applied"), count("rejected"))
    }

    /// Waits until this many reloads were applied and rejected.
    async fn reach(&self, applied: u64, rejected: u64) {
        eventually("reloads are counted", async || match self.counts() {
            counts if counts == (applied, rejected) => Ok(()),
            counts => Err(counts),
        })
        .await;
    }
}

fn reads(declared: &[Declared]) -> f64 {
    declared[0].levers.reads.as_f64()
}

fn replace(path: &Path, text: &str) {
    let next = path.with_extension("next");
    fs::write(&next, text).unwrap();
    fs::rename(next, path).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_applied_however_the_file_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.toml");
    fs::write(&path, file("0")).unwrap();
    let mut watched = Watched::start(&path);
    for percent in 1..=20 {
        let text = file(&percent.to_string());
        if percent % 2 == 0 {
            fs::write(&path, text).unwrap()
        } else {
            replace(&path, &text)
        }
        assert_eq!(watched.next().await, f64::from(percent));
    }
    // Written in place it is empty first: whoever is held up there has it rejected in between.
    eventually("the last is applied", async || match watched.counts() {
        (20, _) => Ok(()),
        counts => Err(counts),
    })
    .await;
    assert_eq!(watched.metrics.config_rejected.get(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_file_changes_nothing_until_it_is_valid_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.toml");
    fs::write(&path, file("0")).unwrap();
    let mut watched = Watched::start(&path);
    replace(&path, &file("110"));
    watched.reach(0, 1).await;
    assert_eq!(watched.metrics.config_rejected.get(), 1);
    replace(&path, &file("5"));
    assert_eq!(watched.next().await, 5.0);
    watched.reach(1, 1).await;
    assert_eq!(watched.metrics.config_rejected.get(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubernetes_symlink_swap_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let version = |name: &str, reads: &str| -> PathBuf {
        let version = folder.path().join(name);
        fs::create_dir(&version).unwrap();
        fs::write(version.join("p.toml"), file(reads)).unwrap();
        version
    };
    let (data, next) = (folder.path().join("..data"), folder.path().join("..next"));
    symlink(version("..1", "0"), &data).unwrap();
    let path = folder.path().join("p.toml");
    symlink("..data/p.toml", &path).unwrap();
    let mut watched = Watched::start(&path);
    for percent in [7, 8] {
        symlink(version(&format!("..v{percent}"), &percent.to_string()), &next).unwrap();
        fs::rename(&next, &data).unwrap();
        assert_eq!(watched.next().await, f64::from(percent));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_save_without_a_change_is_no_reload() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.toml");
    fs::write(&path, file("0")).unwrap();
    let mut watched = Watched::start(&path);
    replace(&path, &file("0"));
    fs::write(folder.path().join("other"), "x").unwrap();
    replace(&path, &file("3"));
    assert_eq!(watched.next().await, 3.0);
    watched.reach(1, 0).await;
}

#[tokio::test]
async fn the_running_process_reloads_on_change_and_on_sighup_and_names_what_is_wrong() {
    let db = database().await;
    let proxy = Proxy::start(&db, "").await;
    let applied = "pgsegue_config_reloads_total{result=\"applied\"}";
    proxy.signal("HUP");
    eventually("SIGHUP reloads", async || match proxy.metric(applied) {
        Some(1.0) => Ok(()),
        other => Err(other),
    })
    .await;
    proxy.rewrite_config("[proxy]\nlisten = \"0.0.0.0:1\"");
    eventually("the change is applied", async || match proxy.metric(applied) {
        Some(2.0) => Ok(()),
        other => Err(other),
    })
    .await;
    let log = proxy.log();
    assert!(log.contains("take effect after a restart keys=\"proxy.listen\""), "{log}");
    proxy.write_config("[server]\naddress = 5\n");
    eventually("the mistake is reported", async || match proxy.metric("pgsegue_config_rejected") {
        Some(1.0) => Ok(()),
        other => Err(other),
    })
    .await;
    let log = proxy.log();
    assert!(log.contains("pgsegue.toml:2:11: invalid type: integer `5`"), "{log}");
}
