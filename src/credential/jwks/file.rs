//! Files of bounded size, read off the request path.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use thiserror::Error;

/// Why a file was not read.
#[derive(Debug, Error)]
pub(super) enum FileError {
    /// Not there, or not ours to read.
    #[error("`{path}` cannot be read: {error}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// A directory, a pipe or a device: reading it might never end.
    #[error("`{path}` is not a regular file", path = .0.display())]
    Irregular(PathBuf),
    /// More than the bound.
    #[error("`{path}` is larger than {max} bytes", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The bound, in bytes.
        max: usize,
    },
}

/// The content of a file of at most `max` bytes. Symbolic links are followed: that is how a ConfigMap changes.
///
/// # Errors
/// See [`FileError`].
pub(super) async fn read(path: &Path, max: usize) -> Result<Vec<u8>, FileError> {
    let owned = path.to_owned();
    let reading = tokio::task::spawn_blocking(move || read_now(&owned, max)).await;
    reading.unwrap_or_else(|join| {
        Err(FileError::Unreadable { path: path.to_owned(), error: std::io::Error::other(join) })
    })
}

/// The same, for callers that may block.
///
/// # Errors
/// See [`FileError`].
pub(super) fn read_now(path: &Path, max: usize) -> Result<Vec<u8>, FileError> {
    let unreadable = |error| FileError::Unreadable { path: path.to_owned(), error };
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(FileError::Irregular(path.to_owned()));
    }
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut content = Vec::new();
    file.take(max as u64 + 1).read_to_end(&mut content).map_err(unreadable)?;
    if content.len() > max {
        Err(FileError::TooLarge { path: path.to_owned(), max })
    } else {
        Ok(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_regular_files_of_bounded_size_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        assert!(matches!(read(&path, 4).await, Err(FileError::Unreadable { .. })));
        std::fs::write(&path, "1234").unwrap();
        assert_eq!(read(&path, 4).await.unwrap(), b"1234");
        assert!(matches!(read(&path, 3).await, Err(FileError::TooLarge { max: 3, .. })));
        assert!(matches!(read(directory.path(), 4).await, Err(FileError::Irregular(_))));
        assert!(matches!(read(Path::new("/dev/zero"), 4).await, Err(FileError::Irregular(_))));
    }
}
