//! The drivers that apps use, installed once under `target/tmp`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Python with psycopg 3: add a script and its arguments.
pub fn python() -> Command {
    let folder = installed("python", |folder| {
        let venv = folder.join("venv");
        run(
            Command::new("python3").args(["-m", "venv"]).arg(&venv),
            "python3 with venv is needed: apt-get install python3-venv, or brew install python",
        );
        run(
            Command::new(venv.join("bin/pip")).args(["install", "-q", "psycopg[binary]>=3.2,<4"]),
            "pip must reach a package index to install psycopg",
        );
    });
    let mut command = Command::new(folder.join("venv/bin/python"));
    command.env("PYTHONUNBUFFERED", "1");
    command
}

/// Node with `pg`: add a script and its arguments.
pub fn node() -> Command {
    let folder = installed("node", |folder| {
        run(
            Command::new("npm").args(["install", "--silent", "--prefix"]).arg(folder).arg("pg@8"),
            "node and npm are needed: apt-get install nodejs npm, or brew install node",
        );
    });
    let mut command = Command::new("node");
    command.env("NODE_PATH", folder.join("node_modules"));
    command
}

/// A folder that `install` has filled completely, now or in an earlier run. Test processes that
/// run at the same time wait for each other.
fn installed(name: &str, install: impl FnOnce(&Path)) -> PathBuf {
    let drivers = Path::new(env!("CARGO_TARGET_TMPDIR")).join("drivers");
    let folder = drivers.join(name);
    fs::create_dir_all(&drivers).unwrap();
    let lock = File::create(drivers.join(format!("{name}.lock"))).unwrap();
    lock.lock().unwrap();
    let complete = folder.join("complete");
    if !complete.exists() {
        fs::remove_dir_all(&folder).ok();
        fs::create_dir_all(&folder).unwrap();
        install(&folder);
        fs::write(complete, "").unwrap();
    }
    folder
}

fn run(command: &mut Command, needed: &str) {
    let output = command.output().unwrap_or_else(|error| panic!("{error}\n{needed}"));
    assert!(
        output.status.success(),
        "{command:?} failed\n{}{}\n{needed}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
