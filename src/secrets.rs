//! Secrets that are read from files.

use std::{io, path::Path};

use thiserror::Error;
use tollgate_core::secret::{Secret, SecretSource};

/// The largest secret that is read from a file, in bytes.
const MAX: u64 = 64 * 1024;

/// The reason why a secret cannot be used.
#[derive(Debug, Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("the secret file `{path}` cannot be read: {cause}")]
    Unreadable {
        /// The path of the file.
        path: String,
        /// The cause of the error.
        cause: io::Error,
    },
    /// The file is too large for a secret.
    #[error("the secret file `{0}` is larger than 64 KiB")]
    TooLarge(String),
    /// The file contains nothing, or only a line break.
    #[error("the secret file `{0}` is empty")]
    Empty(String),
    /// The secret contains a character that a header cannot carry.
    #[error("an `upstream_key` contains a character that a header cannot carry")]
    Unprintable,
}

/// Returns the current secret of a source. One trailing line break of a file is not part of it.
///
/// # Errors
/// The file cannot be read, is empty, or is larger than 64 KiB.
pub fn resolve(source: &SecretSource) -> Result<Secret, SecretError> {
    let path = match source {
        SecretSource::Inline(secret) => return Ok(secret.clone()),
        SecretSource::File(path) => Path::new(path),
    };
    let shown = || path.display().to_string();
    let unreadable = |cause| SecretError::Unreadable { path: shown(), cause };
    if std::fs::metadata(path).map_err(unreadable)?.len() > MAX {
        return Err(SecretError::TooLarge(shown()));
    }
    let mut bytes = std::fs::read(path).map_err(unreadable)?;
    trim_line_break(&mut bytes);
    if bytes.is_empty() { Err(SecretError::Empty(shown())) } else { Ok(Secret::new(bytes)) }
}

/// Removes one line break from the end, which editors and `echo` add.
pub fn trim_line_break(bytes: &mut Vec<u8>) {
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
}

/// Returns the `Authorization` values of upstream keys.
///
/// # Errors
/// A key cannot be read, or a header cannot carry it.
pub fn upstream_credentials(sources: &[SecretSource]) -> Result<Vec<Secret>, SecretError> {
    let credential = |source| {
        let secret = resolve(source)?;
        if !secret.expose().iter().all(u8::is_ascii_graphic) {
            return Err(SecretError::Unprintable);
        }
        Ok(Secret::new([b"Bearer ".as_slice(), secret.expose()].concat()))
    };
    sources.iter().map(credential).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_break_is_not_part_of_the_secret() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        for (content, expected) in
            [("abc", "abc"), ("abc\n", "abc"), ("abc\r\n", "abc"), ("abc\n\n", "abc\n")]
        {
            std::fs::write(&path, content).unwrap();
            let secret = resolve(&SecretSource::File(path.display().to_string())).unwrap();
            assert_eq!(secret.expose(), expected.as_bytes(), "{content:?}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_or_empty_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key").display().to_string();
        assert!(
            resolve(&SecretSource::File(path.clone())).unwrap_err().to_string().contains(&path)
        );
        std::fs::write(&path, "\n").unwrap();
        assert!(
            resolve(&SecretSource::File(path.clone())).unwrap_err().to_string().contains("empty")
        );
    }

    #[test]
    fn an_upstream_key_becomes_a_bearer_credential() {
        let key = SecretSource::Inline(Secret::new("sk-1"));
        assert_eq!(upstream_credentials(&[key]).unwrap()[0].expose(), b"Bearer sk-1");
        assert!(upstream_credentials(&[SecretSource::Inline(Secret::new("a\nb"))]).is_err());
    }
}
