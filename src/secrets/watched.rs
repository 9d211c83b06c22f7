//! A secret in memory, and the look at its file that keeps it current.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use tollgate_core::secret::{Secret, SecretSource};

use super::{MAX, SecretError, of_file, resolve_blocking};
use crate::bounded_file::{self, LOOK_AGAIN};

/// A secret that is read again from its file, and stays in force for `max_stale` where that fails.
#[derive(Debug)]
pub struct WatchedSecret {
    source: SecretSource,
    check: fn(&Secret) -> Result<(), SecretError>,
    max_stale: Duration,
    in_force: Option<Secret>,
    /// The time of the last look that found the secret in force.
    found: Instant,
    /// The last error that was returned as a new one.
    reported: Option<String>,
}

/// The result of a look.
#[derive(Debug)]
pub enum Look {
    /// The secret in force is that of the file.
    Unchanged,
    /// Another secret is in force.
    Changed,
    /// The file cannot be used; the secret in force stays, if there is one.
    Failed {
        /// The cause of the error.
        error: SecretError,
        /// Whether the cause differs from that of the look before.
        is_new: bool,
    },
    /// The file cannot be used for longer than `max_stale`: from now on no secret is in force.
    Lapsed(SecretError),
}

/// The state of a secret for metrics and readiness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretStatus {
    /// The path of the file.
    pub file: String,
    /// Whether the secret is in force.
    pub usable: bool,
    /// The time of the last look that found the secret in force.
    pub found: Instant,
}

impl WatchedSecret {
    /// Reads the secret for the start, with one look. It blocks.
    ///
    /// # Errors
    /// The file cannot be read, or `check` refuses the secret.
    pub fn start(
        source: &SecretSource,
        max_stale: Duration,
        check: fn(&Secret) -> Result<(), SecretError>,
    ) -> Result<Self, SecretError> {
        let mut watched = Self::unread(source, max_stale, check);
        let secret = resolve_blocking(source)?;
        check(&secret)?;
        watched.in_force = Some(secret);
        watched.found = Instant::now();
        Ok(watched)
    }

    /// Starts without a secret; the first [`Self::look`] reads it.
    pub fn unread(
        source: &SecretSource,
        max_stale: Duration,
        check: fn(&Secret) -> Result<(), SecretError>,
    ) -> Self {
        let source = source.clone();
        Self { source, check, max_stale, in_force: None, found: Instant::now(), reported: None }
    }

    /// The source of the secret.
    pub fn source(&self) -> &SecretSource {
        &self.source
    }

    /// The secret in force.
    pub fn current(&self) -> Option<&Secret> {
        self.in_force.as_ref()
    }

    /// The state of the secret; `None` for one that has no file.
    pub fn status(&self) -> Option<SecretStatus> {
        let SecretSource::File(file) = &self.source else { return None };
        let usable = self.in_force.is_some();
        Some(SecretStatus { file: file.clone(), usable, found: self.found })
    }

    /// Reads the file again. A new secret is used when two looks, a second apart, find the same.
    pub async fn look(&mut self) -> Look {
        match self.read().await {
            Ok(secret) => {
                self.found = Instant::now();
                self.reported = None;
                if self.in_force.as_ref() == Some(&secret) {
                    return Look::Unchanged;
                }
                self.in_force = Some(secret);
                Look::Changed
            }
            Err(error) if self.in_force.is_some() && self.found.elapsed() >= self.max_stale => {
                self.in_force = None;
                self.reported = Some(error.to_string());
                Look::Lapsed(error)
            }
            Err(error) => {
                let text = error.to_string();
                let is_new = self.reported.as_ref() != Some(&text);
                self.reported = Some(text);
                Look::Failed { error, is_new }
            }
        }
    }

    async fn read(&self) -> Result<Secret, SecretError> {
        let path = match &self.source {
            SecretSource::Inline(secret) => return Ok(secret.clone()),
            SecretSource::File(path) => path,
        };
        let is_known = |bytes: &[u8]| {
            self.in_force
                .as_ref()
                .is_some_and(|known| of_file(path, bytes.to_vec()).is_ok_and(|it| it == *known))
        };
        let file = Path::new(path);
        let bytes = bounded_file::read_settled(file, MAX, LOOK_AGAIN, is_known).await?;
        let secret = of_file(path, bytes)?;
        (self.check)(&secret)?;
        Ok(secret)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::check_upstream_key;

    fn watched(path: &Path, max_stale: Duration) -> WatchedSecret {
        let source = SecretSource::File(path.display().to_string());
        WatchedSecret::start(&source, max_stale, check_upstream_key).unwrap()
    }

    #[tokio::test]
    async fn a_secret_whose_file_is_gone_is_kept_and_then_lapses() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        std::fs::write(&path, "one\n").unwrap();
        let mut secret = watched(&path, Duration::from_secs(3600));
        assert!(matches!(secret.look().await, Look::Unchanged));
        std::fs::remove_file(&path).unwrap();
        for is_new in [true, false, false] {
            let look = secret.look().await;
            assert!(matches!(look, Look::Failed { is_new: found, .. } if found == is_new));
            assert_eq!(secret.current().unwrap().expose(), b"one");
        }
        secret.max_stale = Duration::ZERO;
        assert!(matches!(secret.look().await, Look::Lapsed(SecretError::File(_))));
        assert!(secret.current().is_none() && !secret.status().unwrap().usable);
        assert!(matches!(secret.look().await, Look::Failed { is_new: false, .. }));
        std::fs::write(&path, "two").unwrap();
        assert!(matches!(secret.look().await, Look::Changed));
        assert_eq!(secret.current().unwrap().expose(), b"two");
    }

    #[tokio::test]
    async fn a_secret_that_is_half_written_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        std::fs::write(&path, "old").unwrap();
        let mut secret = watched(&path, Duration::from_secs(3600));
        // A rename, so that no read finds a part that is half written.
        let replace = |part: u32| {
            let next = directory.path().join("next");
            std::fs::write(&next, format!("part-{part}")).unwrap();
            std::fs::rename(&next, &path).unwrap();
        };
        // The first look does not find the old secret.
        replace(0);
        let mut parts = 0u32;
        let mut tick = tokio::time::interval(LOOK_AGAIN / 20);
        let write = async {
            loop {
                tick.tick().await;
                parts += 1;
                replace(parts);
            }
        };
        // The writer is polled first: after each pause it writes before the file is read again.
        let look = tokio::select! {
            biased;
            () = write => unreachable!(),
            look = secret.look() => look,
        };
        let error = SecretError::to_string;
        assert!(
            matches!(&look, Look::Failed { error: found, .. } if error(found).contains("changes")),
            "{look:?}"
        );
        assert_eq!(secret.current().unwrap().expose(), b"old");
        assert!(matches!(secret.look().await, Look::Changed));
        assert_eq!(secret.current().unwrap().expose(), format!("part-{parts}").as_bytes());
    }

    #[tokio::test]
    async fn a_secret_that_is_refused_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        std::fs::write(&path, "old").unwrap();
        let mut secret = watched(&path, Duration::from_secs(3600));
        std::fs::write(&path, "two words").unwrap();
        let look = secret.look().await;
        assert!(matches!(look, Look::Failed { error: SecretError::Unprintable, .. }), "{look:?}");
        assert_eq!(secret.current().unwrap().expose(), b"old");
    }
}
