//! Secrets that are read from files.

mod watched;

use std::path::Path;

use schemars::JsonSchema;
use serde::Deserialize;
use thiserror::Error;
use tollgate_core::{
    config::{Errors, Path as Place},
    secret::{Secret, SecretSource},
    time::Span,
};

pub use self::watched::{Look, SecretStatus, WatchedSecret};
use crate::bounded_file::{self, FileError};

/// The largest secret that is read from a file, in bytes.
pub(crate) const MAX: usize = 64 * 1024;

/// The section `secrets`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SecretsConfig {
    /// How long a shared secret, an upstream key or the admin token stays in force after its file
    /// was last read. What needs it is refused from then on. Default 24h, at least 1s.
    pub max_stale: Span,
}

impl Default for SecretsConfig {
    fn default() -> Self {
        Self { max_stale: Span::from_secs(24 * 60 * 60) }
    }
}

impl SecretsConfig {
    /// Adds the errors of the section.
    pub fn validate(self, path: &Place, errors: &mut Errors) {
        if self.max_stale < Span::from_secs(1) {
            errors.push(&path.key("max_stale"), "it must be 1s at least".to_owned());
        }
    }
}

/// The reason why a secret cannot be used.
#[derive(Debug, Error)]
pub enum SecretError {
    /// The file cannot be read, or is too large.
    #[error("the secret file {0}")]
    File(#[from] FileError),
    /// The file contains nothing, or only a line break.
    #[error("the secret file `{0}` is empty")]
    Empty(String),
    /// The secret contains a character that a header cannot carry.
    #[error("an `upstream_key` contains a character that a header cannot carry")]
    Unprintable,
    /// The secret is not good enough for its use.
    #[error(transparent)]
    Unusable(Box<dyn std::error::Error + Send + Sync>),
}

/// Returns the current secret of a source. One trailing line break of a file is not part of it.
///
/// # Errors
/// The file cannot be read, is empty, or is larger than 64 KiB.
pub async fn resolve(source: &SecretSource) -> Result<Secret, SecretError> {
    match source {
        SecretSource::Inline(secret) => Ok(secret.clone()),
        SecretSource::File(path) => of_file(path, bounded_file::read(Path::new(path), MAX).await?),
    }
}

/// As [`resolve`], for callers that may block: the start and the command line.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_blocking(source: &SecretSource) -> Result<Secret, SecretError> {
    match source {
        SecretSource::Inline(secret) => Ok(secret.clone()),
        SecretSource::File(path) => {
            of_file(path, bounded_file::read_blocking(Path::new(path), MAX)?)
        }
    }
}

/// Returns the secret in the content of a file.
fn of_file(path: &str, mut bytes: Vec<u8>) -> Result<Secret, SecretError> {
    trim_line_break(&mut bytes);
    if bytes.is_empty() { Err(SecretError::Empty(path.to_owned())) } else { Ok(Secret::new(bytes)) }
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

/// Checks that a header can carry an upstream key.
///
/// # Errors
/// [`SecretError::Unprintable`].
pub fn check_upstream_key(secret: &Secret) -> Result<(), SecretError> {
    if secret.expose().iter().all(u8::is_ascii_graphic) {
        Ok(())
    } else {
        Err(SecretError::Unprintable)
    }
}

/// Returns the `Authorization` value of an upstream key.
pub fn upstream_credential(secret: &Secret) -> Secret {
    Secret::new([b"Bearer ".as_slice(), secret.expose()].concat())
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
            let secret = resolve_blocking(&SecretSource::File(path.display().to_string())).unwrap();
            assert_eq!(secret.expose(), expected.as_bytes(), "{content:?}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_or_empty_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key").display().to_string();
        assert!(
            resolve_blocking(&SecretSource::File(path.clone()))
                .unwrap_err()
                .to_string()
                .contains(&path)
        );
        std::fs::write(&path, "\n").unwrap();
        assert!(
            resolve_blocking(&SecretSource::File(path.clone()))
                .unwrap_err()
                .to_string()
                .contains("empty")
        );
    }

    #[test]
    fn an_upstream_key_becomes_a_bearer_credential() {
        let key = Secret::new("sk-1");
        assert!(check_upstream_key(&key).is_ok());
        assert_eq!(upstream_credential(&key).expose(), b"Bearer sk-1");
        assert!(check_upstream_key(&Secret::new("a\nb")).is_err());
    }
}
