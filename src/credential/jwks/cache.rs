//! The last good key set on disk, for a start while its server is down.
//!
//! A process that can write the file can sign tokens, so it is created with mode 0600 and rejected
//! when it is writable for others. Its age counts from the fetch, not from the start that read it.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tollgate_core::credential::jwt::key_set::MAX_BYTES;

use crate::bounded_file::{self, FileError};

/// Most bytes of a cache file: a document of the largest size with every character escaped, and the
/// other fields.
const MAX_FILE: usize = 2 * MAX_BYTES + 16 * 1024;
/// A backward step of the clock between two runs that is tolerated.
const CLOCK_STEP: Duration = Duration::from_secs(60);

/// The issuer and the address that a cached key set must come from.
#[derive(Clone, Copy, Debug)]
pub(super) struct CacheOrigin<'a> {
    pub(super) issuer: &'a str,
    /// The configured address.
    pub(super) url: &'a str,
}

/// The reason why a cache file is not used or not written.
#[derive(Debug, Error)]
pub(super) enum CacheError {
    /// The file cannot be read.
    #[error(transparent)]
    Unreadable(#[from] FileError),
    /// The file is writable for others.
    #[error("it is writable for others; remove the permission")]
    Writable,
    /// The file does not have the format of [`write`].
    #[error("it is damaged")]
    Damaged,
    /// The file holds the keys of another issuer or address.
    #[error("it holds the keys of another issuer or address")]
    OtherOrigin,
    /// The file is from the future.
    #[error("it is from the future; check the clock")]
    Future,
    /// The file is older than `max_stale`.
    #[error("it is older than `max_stale`")]
    TooOld,
    /// The file cannot be written.
    #[error("it cannot be written: {0}")]
    Unwritable(std::io::Error),
    /// The document is not text, so it is not JSON (RFC 8259 section 8.1).
    #[error("the document is not UTF-8")]
    NotText,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    issuer: String,
    url: String,
    /// Seconds since the Unix epoch.
    fetched_at: u64,
    /// The document as the server sent it.
    document: String,
}

/// Returns the document in the file and its age; `None` where there is no file.
///
/// # Errors
/// Returns [`CacheError`] for a file that cannot be used.
pub(super) async fn read(
    path: &Path,
    origin: CacheOrigin<'_>,
    max_age: Duration,
) -> Result<Option<(String, Duration)>, CacheError> {
    let content = match bounded_file::read_content(path, MAX_FILE).await {
        Err(error) if error.io_kind() == Some(std::io::ErrorKind::NotFound) => return Ok(None),
        content => content?,
    };
    if content.mode & 0o002 != 0 {
        return Err(CacheError::Writable);
    }
    let entry: Entry = serde_json::from_slice(&content.bytes).map_err(|_| CacheError::Damaged)?;
    if entry.issuer != origin.issuer || entry.url != origin.url {
        return Err(CacheError::OtherOrigin);
    }
    let fetched_at =
        UNIX_EPOCH.checked_add(Duration::from_secs(entry.fetched_at)).ok_or(CacheError::Damaged)?;
    let age = match SystemTime::now().duration_since(fetched_at) {
        Ok(age) => age,
        Err(ahead) if ahead.duration() <= CLOCK_STEP => Duration::ZERO,
        Err(_) => return Err(CacheError::Future),
    };
    if age >= max_age { Err(CacheError::TooOld) } else { Ok(Some((entry.document, age))) }
}

/// Writes the document as fetched now, to a temporary file that then replaces the previous one.
///
/// # Errors
/// [`CacheError::Unwritable`], [`CacheError::NotText`].
pub(super) async fn write(
    path: &Path,
    origin: CacheOrigin<'_>,
    document: &[u8],
) -> Result<(), CacheError> {
    let document = std::str::from_utf8(document).map_err(|_| CacheError::NotText)?.to_owned();
    let fetched_at =
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let entry = Entry {
        issuer: origin.issuer.to_owned(),
        url: origin.url.to_owned(),
        fetched_at,
        document,
    };
    let path = path.to_owned();
    let writing = tokio::task::spawn_blocking(move || {
        let content = serde_json::to_vec(&entry).map_err(std::io::Error::other)?;
        replace(&path, &content)
    });
    writing
        .await
        .unwrap_or_else(|join| Err(std::io::Error::other(join)))
        .map_err(CacheError::Unwritable)
}

fn replace(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let temporary = temporary(path);
    let written = (|| {
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        // The first error is the one to report.
        let _gone = fs::remove_file(&temporary);
    }
    written
}

/// Returns a random name for each write: in containers, process ids are all alike.
fn temporary(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{:016x}.tmp", rand::random::<u64>()));
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const ORIGIN: CacheOrigin<'_> =
        CacheOrigin { issuer: "https://idp.example", url: "https://idp.example/keys" };

    fn now() -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
    }

    #[tokio::test]
    async fn what_was_remembered_is_recalled_with_its_age() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cache.json");
        assert!(read(&path, ORIGIN, HOUR).await.unwrap().is_none(), "no file is no error");
        for document in ["{\"keys\":[]}", "{\"keys\":[1]}\n\u{e9}\\"] {
            write(&path, ORIGIN, document.as_bytes()).await.unwrap();
            let (recalled, age) = read(&path, ORIGIN, HOUR).await.unwrap().unwrap();
            assert_eq!(recalled, document);
            assert!(age < Duration::from_secs(60), "{age:?}");
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(
            fs::read_dir(directory.path()).unwrap().count(),
            1,
            "nothing is left temporary it"
        );
    }

    #[tokio::test]
    async fn a_file_that_is_not_ours_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cache.json");
        let entry = |issuer: &str, url: &str, fetched_at: u64| {
            format!(
                r#"{{"issuer":"{issuer}","url":"{url}","fetched_at":{fetched_at},"document":"{{}}"}}"#
            )
        };
        let (issuer, url) = (ORIGIN.issuer, ORIGIN.url);
        for (content, expected) in [
            (entry(issuer, url, now()), "Ok"),
            (entry(issuer, url, now() - 1800), "Ok"),
            (entry(issuer, url, now() + 20), "Ok"),
            (entry(issuer, url, now() - 3601), "TooOld"),
            (entry(issuer, url, now() + 600), "Future"),
            (entry(issuer, url, u64::MAX), "Damaged"),
            (entry("https://other.example", url, now()), "OtherOrigin"),
            (entry(issuer, "https://idp.example/old", now()), "OtherOrigin"),
            (entry(issuer, url, now()).replace("document", "documents"), "Damaged"),
            (entry(issuer, url, now())[..40].to_owned(), "Damaged"),
            (String::new(), "Damaged"),
            ("{\"keys\":[]}".to_owned(), "Damaged"),
            ("x".repeat(MAX_FILE + 1), "Unreadable"),
        ] {
            fs::write(&path, &content).unwrap();
            let found = match read(&path, ORIGIN, HOUR).await {
                Ok(_) => "Ok".to_owned(),
                Err(error) => format!("{error:?}").split(['(', ' ']).next().unwrap().to_owned(),
            };
            assert_eq!(found, expected, "{}", content.get(..100).unwrap_or(&content));
        }
        fs::write(&path, entry(issuer, url, now())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(matches!(read(&path, ORIGIN, HOUR).await, Err(CacheError::Writable)));
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_said_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cache.json");
        let nowhere = directory.path().join("nowhere/cache.json");
        assert!(matches!(write(&nowhere, ORIGIN, b"{}").await, Err(CacheError::Unwritable(_))));
        assert!(matches!(write(&path, ORIGIN, b"\xff").await, Err(CacheError::NotText)));
        fs::create_dir(&path).unwrap();
        assert!(matches!(write(&path, ORIGIN, b"{}").await, Err(CacheError::Unwritable(_))));
        assert_eq!(
            fs::read_dir(directory.path()).unwrap().count(),
            1,
            "only the directory in the way"
        );
    }
}
