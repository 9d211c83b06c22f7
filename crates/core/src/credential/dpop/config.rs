//! The section `dpop` of the configuration.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    nonce::NonceKeys,
    uri::{HttpTarget, Origin},
    used::ProofUse,
};
use crate::{
    config::{Errors, Path},
    credential::jwt::{algorithm::Algorithm, issuer::AlgorithmName},
    revocation::Fingerprint,
    secret::SecretSource,
    time::Span,
};

/// The most secrets: the one in use, those before it, and the next one.
const MAX_SECRETS: usize = 4;

/// The ages that may be allowed for proofs, in seconds.
const AGES: std::ops::RangeInclusive<u64> = 5..=300;

/// The lives that a nonce may have, in seconds.
const LIVES: std::ops::RangeInclusive<u64> = 10..=3600;

/// The largest `leeway`.
const MAX_LEEWAY: Span = Span::from_secs(60);

/// The numbers of proofs that may be remembered for one subject.
const PROOFS: std::ops::RangeInclusive<u32> = 100..=1_000_000;

/// The difference between the clocks of two replicas that lets no proof pass twice.
const CLOCKS: Span = Span::from_secs(30);

/// The section `dpop`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DpopConfig {
    /// The origins that clients send requests to, such as `https://api.example.com`: scheme, host, and
    /// the port where it is not that of the scheme. The `htu` of a proof has to be one of them with the
    /// path of the request. `Host` and `X-Forwarded-*` are not read for it.
    pub origins: Vec<String>,
    /// The algorithms that proofs may be signed with. Default `[ES256, EdDSA, PS256, RS256]`. Keys of
    /// RSA have 2048 to 4096 bits.
    #[serde(default = "algorithms")]
    pub algorithms: Vec<AlgorithmName>,
    /// The age up to which a proof is accepted, from its `iat` on: 5s to 5m. Default 60s.
    #[serde(default = "max_age")]
    pub max_age: Span,
    /// By how much the `iat` of a proof may be in the future, at most 60s. Default 10s.
    #[serde(default = "leeway")]
    pub leeway: Span,
    /// The number of proofs that are remembered for one subject at a time, 100 to 1000000. Each is
    /// remembered for `max_age`, `leeway` and 30s together; a request beyond the number is denied with
    /// `rate_limited`. Default 20000, which take about 2.5 MB of the store.
    #[serde(default = "max_proofs")]
    pub max_proofs: u32,
    /// Nonces, which every proof then has to contain: a proof cannot be made before the nonce is
    /// known. Default: none are required.
    pub nonce: Option<DpopNonceConfig>,
}

/// The section `dpop.nonce`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DpopNonceConfig {
    /// Secrets that authenticate nonces, each of at least 32 bytes, the same for all replicas. The
    /// first one signs, all of them verify: for a new secret, add it as the last one everywhere, then
    /// move it to the front, then remove the old one.
    pub secrets: Vec<SecretSource>,
    /// The time for which a nonce is accepted: at least as long, and at most twice as long; 10s to 1h.
    /// Default 5m.
    #[serde(default = "nonce_life")]
    pub life: Span,
}

fn algorithms() -> Vec<AlgorithmName> {
    let names = [Algorithm::ES256, Algorithm::EdDSA, Algorithm::PS256, Algorithm::RS256];
    names.into_iter().map(AlgorithmName).collect()
}

fn max_age() -> Span {
    Span::from_secs(60)
}

fn leeway() -> Span {
    Span::from_secs(10)
}

fn max_proofs() -> u32 {
    20_000
}

fn nonce_life() -> Span {
    Span::from_secs(300)
}

/// The compiled section `dpop`.
#[derive(Debug)]
pub struct Dpop {
    pub(super) origins: Vec<Origin>,
    pub(super) algorithms: Vec<Algorithm>,
    pub(super) max_age: Span,
    pub(super) leeway: Span,
    pub(super) max_proofs: u32,
    /// The terms of nonces; `None` where none are required.
    pub nonce: Option<NonceTerms>,
    /// The attribute `algs` of challenges: the names of the algorithms.
    pub(crate) algs: Arc<str>,
}

/// The terms of nonces.
#[derive(Debug)]
pub struct NonceTerms {
    /// The sources of the secrets, in their order.
    pub secrets: Vec<SecretSource>,
    /// The shortest time for which a nonce is accepted.
    pub life: Span,
}

impl Dpop {
    /// Returns the use of a proof of a holder. It is remembered for as long as it could be accepted,
    /// by a replica whose clock differs as well.
    pub(crate) fn use_of(&self, id: [u8; 16], holder: Fingerprint) -> ProofUse {
        let micros = [self.max_age, self.leeway, CLOCKS].map(Span::micros);
        let life = Span::from_micros(micros.into_iter().fold(0, u64::saturating_add));
        ProofUse { id, holder, life, most: self.max_proofs }
    }
}

impl DpopConfig {
    /// Compiles the section and records every error.
    pub fn compile(&self, path: &Path, errors: &mut Errors) -> Dpop {
        let origins = path.key("origins");
        if self.origins.is_empty() {
            errors.push(&origins, "list at least one origin, such as `https://api.example.com`");
        }
        let parsed = self.origins.iter().enumerate().filter_map(|(index, text)| {
            let origin = HttpTarget::parse(text).filter(|_| is_bare(text)).map(|it| it.origin);
            if origin.is_none() {
                let message = format!(
                    "`{text}` is no origin: write scheme, host and port, such as \
                     `https://api.example.com`"
                );
                errors.push(&origins.index(index), message);
            }
            origin
        });
        let parsed = parsed.collect();
        let algorithms: Vec<Algorithm> =
            self.algorithms.iter().map(|AlgorithmName(algorithm)| *algorithm).collect();
        let at = path.key("algorithms");
        if algorithms.is_empty() {
            errors.push(&at, "list at least one algorithm, such as `[ES256]`");
        }
        for (index, algorithm) in algorithms.iter().enumerate() {
            if algorithm.is_symmetric() {
                let message = "a proof is signed with a key of the client, and this algorithm has a shared secret; remove it";
                errors.push(&at.index(index), message);
            }
        }
        if !AGES.contains(&self.max_age.secs()) {
            errors.push(&path.key("max_age"), "it is from 5s to 5m");
        }
        if self.leeway > MAX_LEEWAY {
            let message = format!("`{}` is more than 60s; fix the clock skew instead", self.leeway);
            errors.push(&path.key("leeway"), message);
        }
        if !PROOFS.contains(&self.max_proofs) {
            errors.push(&path.key("max_proofs"), "it is from 100 to 1000000");
        }
        if let Some(nonce) = &self.nonce {
            nonce.validate(&path.key("nonce"), errors);
        }
        let names: Vec<&str> = algorithms.iter().map(|algorithm| algorithm.name()).collect();
        let algs = names.join(" ").into();
        let nonce = self.nonce.as_ref();
        let nonce =
            nonce.map(|nonce| NonceTerms { secrets: nonce.secrets.clone(), life: nonce.life });
        Dpop {
            origins: parsed,
            algorithms,
            max_age: self.max_age,
            leeway: self.leeway,
            max_proofs: self.max_proofs,
            nonce,
            algs,
        }
    }
}

impl DpopNonceConfig {
    fn validate(&self, path: &Path, errors: &mut Errors) {
        let secrets = path.key("secrets");
        if self.secrets.is_empty() || self.secrets.len() > MAX_SECRETS {
            errors.push(&secrets, format!("list 1 to {MAX_SECRETS} secrets"));
        }
        for (index, source) in self.secrets.iter().enumerate() {
            let SecretSource::Inline(secret) = source else { continue };
            if let Err(error) = NonceKeys::check(secret) {
                errors.push(&secrets.index(index), error.to_string());
            }
        }
        if !LIVES.contains(&self.life.secs()) {
            errors.push(&path.key("life"), "it is from 10s to 1h");
        }
    }
}

/// Whether a URI has nothing after its host and port.
fn is_bare(uri: &str) -> bool {
    uri.split_once("://").is_some_and(|(_, rest)| !rest.contains(['/', '?', '#']))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Document;

    fn errors(text: &str) -> Vec<String> {
        let document = Document::parse(text, &|_| None).unwrap();
        let config: DpopConfig = document.read().unwrap();
        let mut errors = Errors::default();
        config.compile(&Path::root().key("dpop"), &mut errors);
        document.locate(errors).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_section_has_origins_and_bounds() {
        let origins = "origins: ['https://api.example.com', 'http://127.0.0.1:8080']";
        let secret = "s".repeat(32);
        for (text, expected) in [
            (origins.to_owned(), ""),
            (format!("{origins}\nalgorithms: [ES256]\nmax_age: 5m\nleeway: 0s"), ""),
            (format!("{origins}\nnonce: {{ secrets: ['file:/a', {secret}], life: 1m }}"), ""),
            ("origins: []".to_owned(), "dpop.origins: list at least one origin"),
            ("origins: [api.example.com]".to_owned(), "dpop.origins[0]: `api.example.com` is no"),
            ("origins: ['https://a/']".to_owned(), "dpop.origins[0]: `https://a/` is no origin"),
            ("origins: ['https://a@b']".to_owned(), "dpop.origins[0]: `https://a@b` is no origin"),
            ("origins: ['ftp://a']".to_owned(), "dpop.origins[0]: `ftp://a` is no origin"),
            (format!("{origins}\nalgorithms: []"), "dpop.algorithms: list at least one"),
            (format!("{origins}\nalgorithms: [ES256, HS256]"), "dpop.algorithms[1]: a proof is"),
            (format!("{origins}\nmax_age: 4s"), "dpop.max_age: it is from 5s to 5m"),
            (format!("{origins}\nmax_age: 6m"), "dpop.max_age: it is from 5s to 5m"),
            (format!("{origins}\nleeway: 61s"), "dpop.leeway: `61s` is more than 60s"),
            (format!("{origins}\nmax_proofs: 99"), "dpop.max_proofs: it is from 100 to 1000000"),
            (format!("{origins}\nnonce: {{ secrets: [] }}"), "dpop.nonce.secrets: list 1 to 4"),
            (
                format!("{origins}\nnonce: {{ secrets: [short] }}"),
                "dpop.nonce.secrets[0]: a secret has fewer than 32 bytes",
            ),
            (
                format!("{origins}\nnonce: {{ secrets: [{secret}], life: 9s }}"),
                "dpop.nonce.life: it is from 10s to 1h",
            ),
        ] {
            let found = errors(&text);
            assert_eq!(found.is_empty(), expected.is_empty(), "{text}: {found:?}");
            assert!(found.iter().all(|error| error.contains(expected)), "{text}: {found:?}");
        }
    }
}
