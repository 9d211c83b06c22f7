//! Regular files of bounded size: reading a device or a pipe might never end.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use thiserror::Error;

/// The reason why a file is not read.
#[derive(Debug, Error)]
pub enum FileError {
    /// The file is missing, or the system refuses access.
    #[error("`{path}` cannot be read: {error}", path = path.display())]
    Unreadable {
        /// The file at fault.
        path: PathBuf,
        /// The system's error.
        error: std::io::Error,
    },
    /// The path leads to a directory, a pipe or a device.
    #[error("`{path}` is not a regular file", path = .0.display())]
    Irregular(PathBuf),
    /// The file is larger than the bound.
    #[error("`{path}` is larger than {max} bytes", path = path.display())]
    TooLarge {
        /// The file at fault.
        path: PathBuf,
        /// The bound, in bytes.
        max: usize,
    },
}

/// Reads a file of at most `max` bytes on a blocking thread. Symbolic links are followed: a
/// ConfigMap changes by one.
///
/// # Errors
/// See [`FileError`].
pub(crate) async fn read(path: &Path, max: usize) -> Result<Vec<u8>, FileError> {
    let owned = path.to_owned();
    let reading = tokio::task::spawn_blocking(move || read_blocking(&owned, max)).await;
    reading.unwrap_or_else(|join| {
        Err(FileError::Unreadable { path: path.to_owned(), error: std::io::Error::other(join) })
    })
}

/// Reads a file of at most `max` bytes on the calling thread.
///
/// # Errors
/// See [`FileError`].
pub(crate) fn read_blocking(path: &Path, max: usize) -> Result<Vec<u8>, FileError> {
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
