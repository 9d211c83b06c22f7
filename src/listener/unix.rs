//! Unix sockets: their file, its permissions and its removal.

use std::{
    fs::{self, Permissions},
    io::{self, ErrorKind},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::net::{UnixListener, UnixSocket, UnixStream};

use super::{config::SocketMode, error::SocketError};

/// Connections that the system queues until they are accepted.
const BACKLOG: u32 = 1024;

/// Listens on `path`. The stale socket of a process that ended is replaced.
pub(super) async fn bind(
    path: &Path,
    mode: SocketMode,
) -> Result<(UnixListener, SocketFile), SocketError> {
    remove_stale_socket(path).await?;
    create(path, mode).map_err(|error| {
        let directory = path.parent().unwrap_or(Path::new("/")).to_owned();
        match error.kind() {
            ErrorKind::NotFound => SocketError::NoDirectory { directory },
            ErrorKind::PermissionDenied => {
                SocketError::NotPermitted { path: path.to_owned(), directory }
            }
            ErrorKind::AddrInUse => SocketError::InUse { path: path.to_owned() },
            _ => SocketError::System { path: path.to_owned(), error },
        }
    })
}

/// Gives the socket that another process opened at `path` the permissions of this one's configuration.
pub(super) fn set_mode(path: &Path, mode: SocketMode) -> Result<(), SocketError> {
    fs::set_permissions(path, Permissions::from_mode(mode.0))
        .map_err(|error| SocketError::System { path: path.to_owned(), error })
}

fn create(path: &Path, mode: SocketMode) -> io::Result<(UnixListener, SocketFile)> {
    let socket = UnixSocket::new_stream()?;
    socket.bind(path)?;
    let file = SocketFile::new(path)?;
    // Before listen(), so that no client connects under the permissions of the umask.
    fs::set_permissions(path, Permissions::from_mode(mode.0))?;
    Ok((socket.listen(BACKLOG)?, file))
}

async fn remove_stale_socket(path: &Path) -> Result<(), SocketError> {
    let owned = || path.to_owned();
    let kind = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        // Creating the socket reports the precise cause.
        Err(_) => return Ok(()),
    };
    if !kind.is_socket() {
        return Err(SocketError::NotASocket { path: owned() });
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|error| SocketError::Stale { path: owned(), error })
        }
        // `WouldBlock` is the full backlog of a busy listener.
        Ok(_) => Err(SocketError::InUse { path: owned() }),
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            Err(SocketError::InUse { path: owned() })
        }
        Err(error) => Err(SocketError::System { path: owned(), error }),
    }
}

/// The file of a bound socket. Dropping it removes the file, unless another socket has replaced it, or
/// another process has taken the socket over.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
    owner: FileOwner,
}

/// Whether the file of a socket is this process's to remove.
#[derive(Clone, Debug, Default)]
pub(super) struct FileOwner {
    given_up: Arc<AtomicBool>,
}

impl FileOwner {
    /// Leaves the file to another process.
    pub(super) fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    /// Takes the file.
    pub(super) fn own(&self) {
        self.given_up.store(false, Ordering::Relaxed);
    }
}

impl SocketFile {
    /// The file at `path`, which has a socket of this process.
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), identity: identity(path)?, owner: FileOwner::default() })
    }

    /// The handle that leaves the file to another process.
    pub(super) fn owner(&self) -> FileOwner {
        self.owner.clone()
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = !self.owner.given_up.load(Ordering::Relaxed);
        if is_ours && identity(&self.path).is_ok_and(|now| now == self.identity) {
            // A failure leaves a stale socket, which the next start replaces.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The device and inode of a file.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn the_file_has_its_mode_and_is_removed_with_the_listener() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("authz.sock");
        for mode in [0o660, 0o600, 0o666] {
            let (_listener, file) = bind(&path, SocketMode(mode)).await.unwrap();
            assert_eq!(mode_of(&path), mode);
            UnixStream::connect(&path).await.unwrap();
            drop(file);
            assert!(!path.exists());
        }
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("authz.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a listener of std does not remove its file");

        let (_listener, _file) = bind(&path, SocketMode::default()).await.unwrap();
        let error = bind(&path, SocketMode::default()).await.unwrap_err();
        assert!(matches!(error, SocketError::InUse { .. }), "{error}");
        assert_eq!(
            error.to_string(),
            format!(
                "`{}` is already in use by another process; choose another path or stop that process",
                path.display()
            )
        );
        UnixStream::connect(&path).await.unwrap();
    }

    #[tokio::test]
    async fn a_path_that_is_not_a_socket_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes.txt");
        fs::write(&path, "mine").unwrap();
        let error = bind(&path, SocketMode::default()).await.unwrap_err();
        assert!(matches!(error, SocketError::NotASocket { .. }), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }

    #[tokio::test]
    async fn a_missing_directory_is_named_with_the_command_that_creates_it() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("run/tollgate");
        let error = bind(&missing.join("authz.sock"), SocketMode::default()).await.unwrap_err();
        let missing = missing.display();
        assert_eq!(
            error.to_string(),
            format!("the directory `{missing}` does not exist; create it: mkdir -p {missing}")
        );
    }

    #[tokio::test]
    async fn a_directory_in_which_nothing_can_be_created_is_named() {
        // Not even root creates a file there.
        let error = bind(Path::new("/proc/authz.sock"), SocketMode::default()).await.unwrap_err();
        assert!(error.to_string().contains("/proc"), "{error}");
    }

    #[tokio::test]
    async fn a_socket_that_replaced_ours_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("authz.sock");
        let (_ours, file) = bind(&path, SocketMode::default()).await.unwrap();
        fs::rename(&path, dir.path().join("moved")).unwrap();
        let _theirs = std::os::unix::net::UnixListener::bind(&path).unwrap();
        drop(file);
        assert!(path.exists());
    }
}
