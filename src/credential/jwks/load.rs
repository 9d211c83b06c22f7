//! One attempt to load an issuer's keys from their origin.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use serde::Deserialize;
use thiserror::Error;
use tollgate_core::{
    credential::jwt::key_set::{KeySet, KeySetError, MAX_BYTES, SkippedKey},
    secret::Secret,
};

use crate::{
    background,
    bounded_file::{self, FileError},
    secrets::{self, trim_line_break},
};

use super::{
    cache::{self, CacheError},
    fetch::{Client, FetchError, Fetched, Validator},
    guard::{Guard, GuardError, Target},
    plan::{Origin, Plan, Remote},
};

/// The reason why an attempt brought no keys. The keys in use stay in use, unless
/// [`LoadError::withdraws_keys`].
#[derive(Debug, Error)]
pub(super) enum LoadError {
    /// The fetch failed.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The fetch took longer than its timeout.
    #[error("no whole answer within {0:?}")]
    Timeout(Duration),
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The document holds no usable keys.
    #[error(transparent)]
    Document(#[from] KeySetError),
    /// The document is not a discovery document.
    #[error("not an OpenID Connect discovery document with `issuer` and `jwks_uri`")]
    NotDiscovery,
    /// The discovery document is of another issuer (OpenID Connect Discovery 1.0 section 4.3).
    #[error("the discovery document is of issuer `{0}`, not exactly the configured one")]
    WrongIssuer(String),
    /// The secret cannot be used.
    #[error("{0}")]
    Secret(KeySetError),
    /// The parser panicked, which must not end the source.
    #[error("the document could not be examined")]
    ParserPanicked,
}

impl LoadError {
    /// Whether the attempt ends the previous keys: the operator's file is a valid set without a
    /// usable key, or the private part of a key is published.
    pub(super) fn withdraws_keys(&self, origin: &Origin) -> bool {
        match self {
            Self::Document(KeySetError::NoUsableKey { is_exposed, .. }) => {
                *is_exposed || matches!(origin, Origin::File(_))
            }
            _ => false,
        }
    }
}

impl From<GuardError> for LoadError {
    fn from(error: GuardError) -> Self {
        Self::Fetch(error.into())
    }
}

/// The keys that an attempt found.
#[derive(Clone, Debug)]
pub(super) struct Loaded {
    /// The same `Arc` while the document is the same.
    pub(super) keys: Arc<KeySet>,
    pub(super) skipped: Arc<[SkippedKey]>,
    /// The time that the server declares the keys fresh for.
    pub(super) fresh_for: Option<Duration>,
}

/// The last good document.
#[derive(Debug)]
struct LastDocument {
    digest: Vec<u8>,
    keys: Arc<KeySet>,
    skipped: Arc<[SkippedKey]>,
    validator: Option<Validator>,
    /// Kept only where there is a cache file.
    document: Option<Bytes>,
}

/// Loads the keys of one issuer.
#[derive(Debug)]
pub(super) struct Loader {
    plan: Arc<Plan>,
    last: Option<LastDocument>,
    /// The time between two looks at a secret.
    look_again: Duration,
    /// The looks of the next attempt.
    looks: Looks,
}

/// How often a secret is read before it is used: a file may be read while it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Looks {
    One,
    /// Both looks must find the same.
    Two,
}

/// The members of a discovery document that are used (OpenID Connect Discovery 1.0 section 3).
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl Loader {
    /// Creates a loader whose first attempt takes `looks` at a secret, and every other one two.
    pub(super) fn new(plan: Arc<Plan>, look_again: Duration, looks: Looks) -> Self {
        Self { plan, last: None, look_again, looks }
    }

    /// Makes one attempt. It may be dropped at any time.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub(super) async fn load(&mut self) -> Result<Loaded, LoadError> {
        let plan = Arc::clone(&self.plan);
        match &plan.trust.origin {
            Origin::Remote(remote) => {
                let within = plan.pace.timeout;
                tokio::time::timeout(within, self.fetch(remote))
                    .await
                    .map_err(|_| LoadError::Timeout(within))?
            }
            Origin::File(path) => {
                let content = bounded_file::read(path, MAX_BYTES).await?;
                self.accept_document(content.into(), None, None).await
            }
            Origin::SecretFile(path) => {
                let once = std::mem::replace(&mut self.looks, Looks::Two) == Looks::One;
                let last = self.last.as_ref();
                let is_known = |content: &[u8]| {
                    once || last.is_some_and(|last| last.digest == secret_digest(&trimmed(content)))
                };
                let content =
                    bounded_file::read_settled(path, secrets::MAX, self.look_again, is_known)
                        .await?;
                self.accept_secret(&trimmed(&content))
            }
            Origin::Inline(secret) => self.accept_secret(secret),
        }
    }

    /// Fetches the document, at each refresh together with the discovery document: that one is
    /// small, and a key set that moves is followed as fast as one that changes.
    async fn fetch(&mut self, remote: &Remote) -> Result<Loaded, LoadError> {
        let guard = Guard::new(remote)?;
        let client =
            Client::new(&guard, remote.ca.as_deref(), &remote.access, self.plan.pace.timeout)
                .await?;
        let target = if remote.discovery {
            self.discover(&client, guard.configured()).await?
        } else {
            guard.configured().clone()
        };
        let validator = self.last.as_ref().and_then(|last| last.validator.as_ref());
        match client.get(target, validator).await? {
            Fetched::Document { content, validator, fresh_for } => {
                self.accept_document(content, validator, fresh_for).await
            }
            Fetched::NotModified { fresh_for } => {
                // A validator is sent only while there is a last document.
                self.last
                    .as_ref()
                    .map(|last| last.loaded(fresh_for))
                    .ok_or(LoadError::ParserPanicked)
            }
        }
    }

    async fn discover(&self, client: &Client<'_>, home: &Target) -> Result<Target, LoadError> {
        let Fetched::Document { content, .. } = client.get(home.clone(), None).await? else {
            return Err(LoadError::NotDiscovery);
        };
        let found: Discovery =
            serde_json::from_slice(&content).map_err(|_| LoadError::NotDiscovery)?;
        if *found.issuer != *self.plan.trust.issuer {
            return Err(LoadError::WrongIssuer(
                found.issuer.chars().take(200).flat_map(char::escape_debug).collect(),
            ));
        }
        Ok(Target::parse(&found.jwks_uri)?)
    }

    /// Returns the last good key set on disk and its age, if it is of the same origin and not too
    /// old.
    ///
    /// # Errors
    /// See [`CacheError`] and [`LoadError::Document`].
    pub(super) async fn read_cache(
        &mut self,
    ) -> Result<Option<(Loaded, Duration)>, CacheReadError> {
        let (Some(path), Origin::Remote(remote)) = (&self.plan.cache_file, &self.plan.trust.origin)
        else {
            return Ok(None);
        };
        let max_age = self.plan.pace.max_stale.unwrap_or_default();
        let source = cache::CacheOrigin { issuer: &self.plan.trust.issuer, url: &remote.url };
        let Some((document, age)) = cache::read(path, source, max_age).await? else {
            return Ok(None);
        };
        let loaded = self
            .accept_document(document.into(), None, None)
            .await
            .map_err(CacheReadError::Document)?;
        Ok(Some((loaded, age)))
    }

    /// Writes the last good key set to disk, as fetched now. `None` where there is nothing to
    /// write, or no cache file.
    pub(super) fn write_cache(
        &self,
    ) -> Option<impl Future<Output = Result<(), CacheError>> + Send + use<>> {
        let path = self.plan.cache_file.clone()?;
        let document = self.last.as_ref()?.document.clone()?;
        let plan = Arc::clone(&self.plan);
        Some(async move {
            let Origin::Remote(remote) = &plan.trust.origin else { return Ok(()) };
            cache::write(
                &path,
                cache::CacheOrigin { issuer: &plan.trust.issuer, url: &remote.url },
                &document,
            )
            .await
        })
    }

    async fn accept_document(
        &mut self,
        content: Bytes,
        validator: Option<Validator>,
        fresh_for: Option<Duration>,
    ) -> Result<Loaded, LoadError> {
        let digest = digest(&SHA256, &content).as_ref().to_vec();
        if let Some(last) = self.last.as_mut().filter(|last| last.digest == digest) {
            last.validator = validator;
            return Ok(last.loaded(fresh_for));
        }
        // Not on this thread: a full set of bad keys takes tens of milliseconds to reject. Checks wait
        // for the first keys, and are not delayed by later ones.
        let plan = Arc::clone(&self.plan);
        let examined = content.clone();
        let examine =
            move || KeySet::of_issuer(&plan.trust.issuer, &examined, &plan.trust.algorithms);
        let examining = match &self.last {
            None => tokio::task::spawn_blocking(examine).await.ok(),
            Some(_) => background::run(examine).await,
        };
        let (keys, skipped) = examining.ok_or(LoadError::ParserPanicked)??;
        let keys = match &self.last {
            Some(last) => keys.succeeding(&last.keys),
            None => keys,
        };
        let document = self.plan.cache_file.is_some().then_some(content);
        let last = LastDocument {
            digest,
            keys: Arc::new(keys),
            skipped: skipped.into(),
            validator,
            document,
        };
        Ok(self.last.insert(last).loaded(fresh_for))
    }

    fn accept_secret(&mut self, secret: &Secret) -> Result<Loaded, LoadError> {
        let digest = secret_digest(secret);
        if let Some(last) = self.last.as_ref().filter(|last| last.digest == digest) {
            return Ok(last.loaded(None));
        }
        let keys =
            KeySet::from_secret(secret, &self.plan.trust.algorithms).map_err(LoadError::Secret)?;
        let last = LastDocument {
            digest,
            keys: Arc::new(keys),
            skipped: Arc::new([]),
            validator: None,
            document: None,
        };
        Ok(self.last.insert(last).loaded(None))
    }
}

/// Returns the secret in the content of a file.
fn trimmed(content: &[u8]) -> Secret {
    let mut content = content.to_vec();
    trim_line_break(&mut content);
    Secret::new(content)
}

fn secret_digest(secret: &Secret) -> Vec<u8> {
    digest(&SHA256, secret.expose()).as_ref().to_vec()
}

impl LastDocument {
    fn loaded(&self, fresh_for: Option<Duration>) -> Loaded {
        Loaded { keys: Arc::clone(&self.keys), skipped: Arc::clone(&self.skipped), fresh_for }
    }
}

/// The reason why the cached key set is not used.
#[derive(Debug, Error)]
pub(super) enum CacheReadError {
    /// The cache file cannot be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The cached document holds no usable keys for this issuer.
    #[error("the document in it: {0}")]
    Document(LoadError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_break_is_not_part_of_a_secret() {
        for (content, expected) in [
            ("abc", "abc"),
            ("abc\n", "abc"),
            ("abc\r\n", "abc"),
            ("abc\n\n", "abc\n"),
            ("abc\r", "abc\r"),
            ("\n", ""),
            ("", ""),
        ] {
            let mut bytes = content.as_bytes().to_vec();
            trim_line_break(&mut bytes);
            assert_eq!(bytes, expected.as_bytes(), "{content:?}");
        }
    }
}
