//! Who runs Postgres: it refuses to run as root, so root hands it to somebody else.

use super::error::Error;
use std::env;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// An unprivileged user that root can become.
#[derive(Debug)]
pub(super) struct User {
    name: &'static str,
    uid: u32,
    gid: u32,
}

impl User {
    /// Whom to become: nobody else unless this process is root.
    pub(super) fn for_postgres() -> Result<Option<Self>, Error> {
        if id("-u", None) != Some(0) {
            return Ok(None);
        }
        ["postgres", "nobody"].into_iter().find_map(Self::named).map(Some).ok_or(Error::NoUser)
    }

    fn named(name: &'static str) -> Option<Self> {
        Some(Self { name, uid: id("-u", Some(name))?, gid: id("-g", Some(name))? })
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Lets a command run as this user. The supplementary groups of root are dropped with it:
    /// the standard library does that when it changes the user id.
    pub(super) fn run(&self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid);
    }
}

/// Makes a file or folder the user's own.
pub(super) fn give(path: &Path, user: Option<&User>) -> Result<(), Error> {
    match user {
        Some(user) => chown(path, Some(user.uid), Some(user.gid))
            .map_err(Error::io("cannot change the owner of", path)),
        None => Ok(()),
    }
}

/// The folder for temporary files, or `/tmp` when the user cannot write there.
pub(super) fn temporary_folder(user: Option<&User>) -> PathBuf {
    let folder = env::temp_dir();
    match user {
        Some(user) if !user_can_write(&folder, user) => PathBuf::from("/tmp"),
        _ => folder,
    }
}

fn user_can_write(folder: &Path, user: &User) -> bool {
    let mut command = Command::new("test");
    command.arg("-w").arg(folder).current_dir("/");
    user.run(&mut command);
    command.status().is_ok_and(|status| status.success())
}

/// `id` knows users of every source (files, LDAP, macOS directory services).
fn id(what: &str, name: Option<&str>) -> Option<u32> {
    let output = Command::new("id").arg(what).args(name).stderr(Stdio::null()).output().ok()?;
    String::from_utf8_lossy(&output.stdout).trim().parse().ok()
}
