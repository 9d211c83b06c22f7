//! The keys of a case file. They are made when the file is read, and never stored.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use serde_json::Value;
use tollgate_core::{
    config::{Errors, Path},
    secret::SecretSource,
};
use tollgate_testkit::{Algorithm, KeyError, KeyPair, KeyType, jwk_set, merged};

use super::{CaseError, spec::KeySpec};

/// The most different RSA keys of one file.
const MAX_RSA: usize = 8;

/// A signing key of a case file.
#[derive(Debug)]
pub(super) struct SigningKey {
    pub(super) algorithm: Algorithm,
    pub(super) kid: String,
    pub(super) pair: Arc<KeyPair>,
    issuer: Option<String>,
    publish: bool,
    /// The public JWK, as the issuer publishes it; `None` for a shared secret.
    pub(super) jwk: Option<Value>,
}

/// The keys of one file, by name.
#[derive(Debug, Default)]
pub(super) struct Keys(BTreeMap<String, SigningKey>);

impl Keys {
    /// Makes the keys, and adds every error.
    pub(super) fn make(
        specs: &BTreeMap<String, KeySpec>,
        path: &Path,
        errors: &mut Errors,
    ) -> Self {
        let mut pairs: BTreeMap<&str, Arc<KeyPair>> = BTreeMap::new();
        let mut rsa_keys = 0;
        // Keys that use the pair of another one come last.
        let (like, own): (Vec<_>, Vec<_>) = specs.iter().partition(|(_, spec)| spec.like.is_some());
        let mut keys = Self::default();
        for (name, spec) in own.into_iter().chain(like) {
            let path = path.key(name);
            let Some(algorithm) = Algorithm::parse(&spec.alg) else {
                errors.push(&path.key("alg"), format!("unknown algorithm `{}`", spec.alg));
                continue;
            };
            let pair = match &spec.like {
                Some(other) => pairs
                    .get(other.as_str())
                    .cloned()
                    .ok_or_else(|| CaseError::UnknownLike(other.clone())),
                None => pair(algorithm, spec, &mut rsa_keys),
            };
            let key = pair.and_then(|pair| key(name, spec, algorithm, pair));
            if let Some(key) = errors.take(&path, key) {
                pairs.insert(name, Arc::clone(&key.pair));
                keys.0.insert(name.clone(), key);
            }
        }
        keys
    }

    /// Returns the key of this name.
    pub(super) fn get(&self, name: &str) -> Result<&SigningKey, CaseError> {
        self.0.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.0.keys().map(String::as_str).collect();
            CaseError::UnknownKey { name: name.to_owned(), known: known.join(", ") }
        })
    }

    /// Returns the key set that an issuer publishes; `None` when no key names it.
    pub(super) fn jwks(&self, issuer: &str) -> Option<Value> {
        let of_issuer = || self.0.values().filter(|key| key.issuer.as_deref() == Some(issuer));
        let published = of_issuer().filter(|key| key.publish).filter_map(|key| key.jwk.clone());
        of_issuer().next().map(|_| jwk_set(published))
    }

    /// Returns the names of keys with their issuers.
    pub(super) fn issuers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().filter_map(|(name, key)| Some((name.as_str(), key.issuer.as_deref()?)))
    }
}

fn key(
    name: &str,
    spec: &KeySpec,
    algorithm: Algorithm,
    pair: Arc<KeyPair>,
) -> Result<SigningKey, CaseError> {
    let kid = spec.kid.clone().unwrap_or_else(|| name.to_owned());
    let jwk =
        if algorithm.is_symmetric() { None } else { Some(jwk(spec, &kid, algorithm, &pair)?) };
    let publish = spec.publish.unwrap_or(true);
    Ok(SigningKey { algorithm, kid, pair, issuer: spec.issuer.clone(), publish, jwk })
}

fn jwk(
    spec: &KeySpec,
    kid: &str,
    algorithm: Algorithm,
    pair: &KeyPair,
) -> Result<Value, CaseError> {
    let Ok(Value::Object(own)) = pair.jwk(kid, algorithm) else {
        return Err(CaseError::NoJwk);
    };
    let mut jwk = merged(&own, &spec.jwk);
    for member in &spec.jwk_without {
        jwk.remove(member);
    }
    Ok(Value::Object(jwk))
}

fn pair(
    algorithm: Algorithm,
    spec: &KeySpec,
    rsa_keys: &mut usize,
) -> Result<Arc<KeyPair>, CaseError> {
    match (algorithm.is_symmetric(), &spec.secret) {
        (true, Some(SecretSource::Inline(secret))) => {
            return Ok(Arc::new(KeyPair::secret(secret.expose())));
        }
        (true, _) => {
            return Err(CaseError::NoSecret);
        }
        (false, Some(_)) => return Err(CaseError::SecretForPair),
        (false, None) => {}
    }
    match KeyType::of(algorithm) {
        KeyType::Rsa => {
            let nth = *rsa_keys;
            *rsa_keys += 1;
            rsa_pair(nth)
        }
        key_type => Ok(Arc::new(KeyPair::generate(key_type)?)),
    }
}

/// RSA keys are slow to make: each is made once in a process, and all files share them.
fn rsa_pair(nth: usize) -> Result<Arc<KeyPair>, CaseError> {
    static MADE: [OnceLock<Option<Arc<KeyPair>>>; MAX_RSA] = [const { OnceLock::new() }; MAX_RSA];
    let made = MADE.get(nth).ok_or(CaseError::TooManyRsaKeys(MAX_RSA))?;
    made.get_or_init(|| KeyPair::generate(KeyType::Rsa).ok().map(Arc::new))
        .clone()
        .ok_or(CaseError::Key(KeyError::NotMade))
}
