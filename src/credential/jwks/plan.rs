//! The plan of one source: the parts of an issuer's configuration that it depends on, comparable,
//! so that a reload that changes none of them changes nothing.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use tollgate_core::{
    credential::jwt::{
        algorithm::Algorithm,
        issuer::{Issuer, JwksConfig, KeySource},
    },
    secret::{Secret, SecretSource},
};

use super::Timing;

/// The configuration of one source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) trust: Trust,
    pub(super) pace: Pace,
    pub(super) cache_file: Option<PathBuf>,
}

/// The issuer and the origin of its keys. Sources that differ here never share keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trust {
    pub(super) issuer: Arc<str>,
    pub(super) algorithms: Vec<Algorithm>,
    pub(super) origin: Origin,
}

/// The origin of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Remote(Remote),
    File(PathBuf),
    SecretFile(PathBuf),
    Inline(Secret),
}

/// The configuration of a key server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::credential) struct Remote {
    /// The address of the key set, or of the discovery document.
    pub(in crate::credential) url: String,
    /// Whether `url` is a discovery document, which names the address of the key set.
    pub(in crate::credential) discovery: bool,
    pub(in crate::credential) allowed_hosts: Vec<String>,
    pub(in crate::credential) insecure_http: bool,
    pub(in crate::credential) ca: Option<PathBuf>,
    pub(in crate::credential) access: Access,
}

/// The way to a key server: a proxy, and the credentials that the server requires.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::credential) struct Access {
    pub(in crate::credential) proxy: Option<SecretSource>,
    pub(in crate::credential) bearer: Option<SecretSource>,
    pub(in crate::credential) headers: BTreeMap<String, SecretSource>,
}

/// The times of refreshes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    pub(super) refresh: Duration,
    /// `None` for a secret in the configuration, which has no age.
    pub(super) max_stale: Option<Duration>,
    pub(super) cool_down: Duration,
    pub(super) timeout: Duration,
}

impl Plan {
    pub(super) fn new(issuer: &Issuer, timing: &Timing, secret_max_stale: Duration) -> Self {
        let (origin, pace, cache_file) = match &issuer.source {
            KeySource::Jwks(config) => jwks(&issuer.name, config, timing),
            KeySource::Secret(secret) => {
                let (origin, max_stale) = match secret {
                    SecretSource::File(path) => {
                        (Origin::SecretFile(path.into()), Some(secret_max_stale))
                    }
                    SecretSource::Inline(secret) => (Origin::Inline(secret.clone()), None),
                };
                let poll = timing.file_poll;
                (origin, Pace { refresh: poll, max_stale, cool_down: poll, timeout: poll }, None)
            }
            // No algorithm is accepted, so that the set is empty, as one without keys.
            KeySource::Unsigned => {
                let poll = timing.file_poll;
                let pace = Pace { refresh: poll, max_stale: None, cool_down: poll, timeout: poll };
                (Origin::Inline(Secret::new("")), pace, None)
            }
        };
        let trust = Trust {
            issuer: Arc::clone(&issuer.name),
            algorithms: issuer.algorithms.clone(),
            origin,
        };
        Self { trust, pace, cache_file }
    }
}

fn jwks(issuer: &str, config: &JwksConfig, timing: &Timing) -> (Origin, Pace, Option<PathBuf>) {
    let remote = |url: String, discovery| {
        Origin::Remote(Remote {
            url,
            discovery,
            allowed_hosts: config.allowed_hosts.clone(),
            insecure_http: config.insecure_http,
            ca: config.ca.as_ref().map(PathBuf::from),
            access: Access {
                proxy: config.proxy.clone(),
                bearer: config.bearer.clone(),
                headers: config.headers.clone(),
            },
        })
    };
    let origin = match (&config.url, &config.file) {
        (Some(url), _) => remote(url.clone(), false),
        (None, Some(file)) => Origin::File(file.into()),
        // OpenID Connect Discovery 1.0 section 4.1: a final slash of the issuer is removed before
        // the path is added.
        (None, None) => remote(
            format!(
                "{}/.well-known/openid-configuration",
                issuer.strip_suffix('/').unwrap_or(issuer)
            ),
            true,
        ),
    };
    let is_file = matches!(origin, Origin::File(_));
    let pace = Pace {
        refresh: if is_file { timing.file_poll } else { config.refresh.std() },
        max_stale: Some(config.max_stale.std()),
        cool_down: config.cool_down.std(),
        timeout: config.timeout.std(),
    };
    // A key file needs no cache file.
    let cache_file = config.cache_file.as_ref().filter(|_| !is_file).map(PathBuf::from);
    (origin, pace, cache_file)
}
