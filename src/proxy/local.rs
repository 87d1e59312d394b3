//! The Unix socket where clients on this machine connect: in a folder, named by the port, as libpq
//! looks for it.
//!
//! Invariant: the name always leads to a listener. It is taken over in one step, from a process that
//! has crashed or is about to end, and removed only by its last owner.

use super::dial::socket_in;
use std::fs::{self, Permissions};
use std::future::poll_fn;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::task::Poll;
use tokio::net::{UnixListener, UnixStream};

/// Where a process listens for clients on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// The folder.
    pub folder: PathBuf,
    /// Who may connect, as the permission bits of the socket.
    pub mode: u32,
}

/// The listener.
#[derive(Debug)]
pub struct LocalListener {
    socket: UnixListener,
    path: PathBuf,
    /// Device and inode: whether the name is still ours.
    identity: (u64, u64),
}

impl LocalListener {
    /// Listens as the server of this port.
    ///
    /// # Errors
    /// When the folder is not there or not ours to write, the path is too long for a socket, or a
    /// Postgres listens there.
    pub fn bind(local: &Local, port: u16) -> io::Result<Self> {
        let path = socket_in(&local.folder, port);
        if is_postgres(&path) {
            let message = format!("a Postgres listens on {}", path.display());
            return Err(io::Error::new(io::ErrorKind::AddrInUse, message));
        }
        let own = path.with_file_name(format!(".s.PGSQL.{port}.{}", std::process::id()));
        remove(&own)?;
        let socket = UnixListener::bind(&own)?;
        let named = fs::set_permissions(&own, Permissions::from_mode(local.mode))
            .and_then(|()| fs::rename(&own, &path))
            .and_then(|()| identity(&path));
        match named {
            Ok(identity) => Ok(Self { socket, path, identity }),
            Err(error) => {
                remove(&own)?;
                Err(error)
            }
        }
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) async fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.socket.accept().await?.0)
    }

    /// The next connection that waits already.
    pub(super) async fn waiting(&self) -> Option<UnixStream> {
        poll_fn(|cx| match self.socket.poll_accept(cx) {
            Poll::Ready(Ok((stream, _))) => Poll::Ready(Some(stream)),
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    /// Takes the name away, unless it leads to a successor by now.
    pub(super) fn withdraw(&self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            fs::remove_file(&self.path).ok();
        }
    }
}

impl Drop for LocalListener {
    fn drop(&mut self) {
        self.withdraw();
    }
}

/// Postgres keeps a lock beside its socket; one that has crashed leaves both.
fn is_postgres(path: &Path) -> bool {
    let mut lock = path.as_os_str().to_owned();
    lock.push(".lock");
    Path::new(&lock).exists() && StdUnixStream::connect(path).is_ok()
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
