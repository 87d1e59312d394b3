//! A pgbouncer of one test, in front of a port on this machine.

use super::eventually;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::{env, fs};
use tempfile::TempDir;

/// A running pgbouncer; ends with the test.
pub struct Pgbouncer {
    pub port: u16,
    folder: TempDir,
    child: Child,
}

impl Pgbouncer {
    /// Starts it: `mode` is `session` or `transaction`, everybody is let in.
    pub async fn start(server_port: u16, mode: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let path = |name: &str| folder.path().join(name).display().to_string();
        fs::write(path("users"), "\"postgres\" \"\"\n").unwrap();
        let config = format!(
            "[databases]\n* = host=127.0.0.1 port={server_port}\n[pgbouncer]\n\
             listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = trust\nauth_file = {}\npool_mode = {mode}\nlogfile = {}\n\
             default_pool_size = 4\nmax_client_conn = 100\n",
            path("users"),
            path("log")
        );
        fs::write(path("pgbouncer.ini"), config).unwrap();
        let mut command = Command::new(binary());
        command.arg(path("pgbouncer.ini")).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        drop_privileges(&mut command, folder.path());
        let child = command.spawn().unwrap_or_else(|error| {
            panic!(
                "{error}: pgbouncer is needed: apt-get install pgbouncer, or brew install pgbouncer"
            )
        });
        let bouncer = Self { port, folder, child };
        eventually("pgbouncer listens", async || {
            let connected = TcpStream::connect(("127.0.0.1", port));
            connected
                .map(drop)
                .map_err(|_refused| fs::read_to_string(bouncer.folder.path().join("log")))
        })
        .await;
        bouncer
    }
}

impl Drop for Pgbouncer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Debian has it where only root's PATH looks.
fn binary() -> String {
    let places = env::var("PATH").unwrap_or_default() + ":/usr/sbin:/usr/local/sbin";
    let found = places.split(':').map(|p| format!("{p}/pgbouncer")).find(|p| Path::new(p).exists());
    found.unwrap_or_else(|| "pgbouncer".to_owned())
}

/// It refuses to run as root.
fn drop_privileges(command: &mut Command, folder: &Path) {
    let id = |what: &str, user: &[&str]| -> Option<u32> {
        let output = Command::new("id").arg(what).args(user).output().ok()?;
        String::from_utf8_lossy(&output.stdout).trim().parse().ok()
    };
    if id("-u", &[]) != Some(0) {
        return;
    }
    let user = ["postgres", "nobody"].into_iter().find(|user| id("-u", &[user]).is_some()).unwrap();
    let (uid, gid) = (id("-u", &[user]).unwrap(), id("-g", &[user]).unwrap());
    std::os::unix::fs::chown(folder, Some(uid), Some(gid)).unwrap();
    for file in fs::read_dir(folder).unwrap() {
        std::os::unix::fs::chown(file.unwrap().path(), Some(uid), Some(gid)).unwrap();
    }
    command.uid(uid).gid(gid);
}
