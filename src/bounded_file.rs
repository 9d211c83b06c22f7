//! The one reader of files: regular files of bounded size, each read on a thread of its own and
//! within a time.
//!
//! A path may lead to a pipe, a device or a network mount that hangs, where a read never ends. Such
//! a read must not hold a thread of the runtime, a blocking thread that the end of the process
//! waits for, or one more thread at each attempt.

mod outstanding;

use std::{
    fs::{File, FileType, Metadata},
    io::{self, Read as _},
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use thiserror::Error;

pub(crate) use self::outstanding::{Outstanding, Stalled};

/// The time in which a file must be read.
pub(crate) const WITHIN: Duration = Duration::from_secs(5);

/// The time between two reads of a file that has changed. Both must return the same.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The most reads of a file that changes each time.
const LOOKS: usize = 5;

/// The reads that have not ended. The threads of a process are counted here, because two parts of
/// the program may read the same file.
static READS: Outstanding<(PathBuf, usize), Result<Content, FileError>> = Outstanding::new();

/// The reason why a file is not read.
#[derive(Clone, Debug, Error)]
pub enum FileError {
    /// The file is missing, or the system refuses access.
    #[error("`{path}` cannot be read: {error}", path = path.display())]
    Unreadable {
        /// The file at fault.
        path: PathBuf,
        /// The system's error.
        error: Arc<io::Error>,
    },
    /// The path leads to a directory, a pipe or a device.
    #[error("`{path}` is not a regular file but {kind}", path = path.display())]
    Irregular {
        /// The path at fault.
        path: PathBuf,
        /// The kind of file, with its article.
        kind: &'static str,
    },
    /// The file is larger than the bound.
    #[error("`{path}` is larger than {max} bytes", path = path.display())]
    TooLarge {
        /// The file at fault.
        path: PathBuf,
        /// The bound, in bytes.
        max: usize,
    },
    /// The read has not ended in time.
    #[error(
        "`{path}` cannot be read: the read has not ended within {within} s; the file system may hang",
        path = path.display(), within = WITHIN.as_secs()
    )]
    Hangs {
        /// The file at fault.
        path: PathBuf,
    },
    /// The content differs at each read.
    #[error("`{path}` changes while it is read", path = path.display())]
    Unsettled {
        /// The file at fault.
        path: PathBuf,
    },
}

impl FileError {
    /// The system's error, where that is the cause.
    pub(crate) fn io_kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Unreadable { error, .. } => Some(error.kind()),
            _ => None,
        }
    }

    fn unreadable(path: &Path, error: io::Error) -> Self {
        Self::Unreadable { path: path.to_owned(), error: Arc::new(error) }
    }

    fn stalled(path: &Path, stalled: Stalled) -> Self {
        match stalled {
            Stalled::Hangs => Self::Hangs { path: path.to_owned() },
            Stalled::NoThread(error) => Self::unreadable(path, error),
        }
    }
}

/// The content of a file.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    /// All bytes of the file.
    pub(crate) bytes: Vec<u8>,
    /// The permissions, as in `st_mode`.
    pub(crate) mode: u32,
}

/// Reads a file of at most `max` bytes. Symbolic links are followed: a ConfigMap changes by one.
///
/// # Errors
/// See [`FileError`].
pub(crate) async fn read(path: &Path, max: usize) -> Result<Vec<u8>, FileError> {
    read_content(path, max).await.map(|content| content.bytes)
}

/// As [`read`], with the permissions of the file.
///
/// # Errors
/// See [`FileError`].
pub(crate) async fn read_content(path: &Path, max: usize) -> Result<Content, FileError> {
    let owned = path.to_owned();
    let reading = READS.run((path.to_owned(), max), WITHIN, move || read_here(&owned, max));
    reading.await.unwrap_or_else(|stalled| Err(FileError::stalled(path, stalled)))
}

/// As [`read`], for callers that may block: the start and the command line.
///
/// # Errors
/// See [`FileError`].
pub(crate) fn read_blocking(path: &Path, max: usize) -> Result<Vec<u8>, FileError> {
    let owned = path.to_owned();
    let read = READS.run_blocking((path.to_owned(), max), WITHIN, move || read_here(&owned, max));
    read.unwrap_or_else(|stalled| Err(FileError::stalled(path, stalled)))
        .map(|content| content.bytes)
}

/// As [`read_blocking`], for text.
///
/// # Errors
/// See [`FileError`].
pub(crate) fn read_text_blocking(path: &Path, max: usize) -> Result<String, FileError> {
    text(path, read_blocking(path, max)?)
}

/// Takes the content of a file for text.
///
/// # Errors
/// [`FileError::Unreadable`] where it is not UTF-8.
pub(crate) fn text(path: &Path, bytes: Vec<u8>) -> Result<String, FileError> {
    let not_text = || io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8");
    String::from_utf8(bytes).map_err(|_| FileError::unreadable(path, not_text()))
}

/// Reads a file until two reads, `apart` from each other, return the same bytes: a file may be read
/// while it is written. Content that `is_known` is in use already, and is returned at once.
///
/// # Errors
/// See [`FileError`].
pub(crate) async fn read_settled(
    path: &Path,
    max: usize,
    apart: Duration,
    is_known: impl Fn(&[u8]) -> bool,
) -> Result<Vec<u8>, FileError> {
    let mut before = read(path, max).await?;
    for _ in 1..LOOKS {
        if is_known(&before) {
            return Ok(before);
        }
        tokio::time::sleep(apart).await;
        let again = read(path, max).await?;
        if again == before {
            return Ok(again);
        }
        before = again;
    }
    Err(FileError::Unsettled { path: path.to_owned() })
}

/// Reads a file on this thread.
fn read_here(path: &Path, max: usize) -> Result<Content, FileError> {
    let unreadable = |error| FileError::unreadable(path, error);
    let regular = |metadata: Metadata| match kind(metadata.file_type()) {
        None => Ok(metadata),
        Some(kind) => Err(FileError::Irregular { path: path.to_owned(), kind }),
    };
    // Before it is opened: opening a pipe waits, and opening a device may have effects.
    regular(std::fs::metadata(path).map_err(unreadable)?)?;
    let file = File::open(path).map_err(unreadable)?;
    // And of the file that was opened: the path may lead elsewhere by now.
    let metadata = regular(file.metadata().map_err(unreadable)?)?;
    let mut bytes = Vec::new();
    file.take(max as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > max {
        Err(FileError::TooLarge { path: path.to_owned(), max })
    } else {
        Ok(Content { bytes, mode: metadata.permissions().mode() })
    }
}

/// The kind of a file that is not a regular one.
fn kind(file: FileType) -> Option<&'static str> {
    if file.is_file() {
        None
    } else if file.is_dir() {
        Some("a directory")
    } else if file.is_fifo() {
        Some("a pipe")
    } else if file.is_socket() {
        Some("a socket")
    } else {
        Some("a device")
    }
}

#[cfg(test)]
mod tests;
