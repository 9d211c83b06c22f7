//! The keys of a case file. They are made when the file is read: no key material is kept anywhere.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use aws_lc_rs::{
    encoding::{AsDer as _, Pkcs8V1Der, PublicKeyX509Der},
    rand::SystemRandom,
    rsa,
    signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use jsonwebtoken::{Algorithm, EncodingKey, jwk::Jwk};
use serde_json::{Map, Value, json};
use tollgate_core::{
    config::{Errors, Path},
    credential::jwt::issuer::{AlgorithmName, is_symmetric},
    secret::SecretSource,
};

use super::spec::{KeySpec, merged};

/// How many different RSA keys one file may have.
const MOST_RSA: usize = 8;

/// A key to sign with.
#[derive(Debug)]
pub(super) struct SigningKey {
    pub(super) algorithm: Algorithm,
    pub(super) kid: String,
    pub(super) pair: Arc<Pair>,
    issuer: Option<String>,
    publish: bool,
    /// The public JWK, as the issuer publishes it; none for a shared secret.
    pub(super) jwk: Option<Value>,
}

/// A private key and the encoding of its public half.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) private: EncodingKey,
    /// SubjectPublicKeyInfo for RSA, the bare point for the curves, nothing for a secret.
    pub(super) public: Vec<u8>,
}

/// The keys of one file, by their names there.
#[derive(Debug, Default)]
pub(super) struct Keys(BTreeMap<String, SigningKey>);

impl Keys {
    /// Makes the keys, noting every error.
    pub(super) fn make(
        specs: &BTreeMap<String, KeySpec>,
        path: &Path,
        errors: &mut Errors,
    ) -> Self {
        let mut pairs: BTreeMap<&str, Arc<Pair>> = BTreeMap::new();
        let mut rsa_keys = 0;
        // Those that use the pair of another come last.
        let (like, own): (Vec<_>, Vec<_>) = specs.iter().partition(|(_, spec)| spec.like.is_some());
        let mut keys = Self::default();
        for (name, spec) in own.into_iter().chain(like) {
            let path = path.key(name);
            let Some(algorithm) = AlgorithmName::parse(&spec.alg) else {
                errors.push(&path.key("alg"), format!("unknown algorithm `{}`", spec.alg));
                continue;
            };
            let pair = match &spec.like {
                Some(other) => pairs
                    .get(other.as_str())
                    .cloned()
                    .ok_or_else(|| format!("there is no key `{other}` to be like")),
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

    /// The key of this name.
    pub(super) fn get(&self, name: &str) -> Result<&SigningKey, String> {
        self.0.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.0.keys().map(String::as_str).collect();
            format!("there is no key `{name}`; known: {}", known.join(", "))
        })
    }

    /// The key set that an issuer publishes; `None` when no key names it.
    pub(super) fn jwks(&self, issuer: &str) -> Option<Value> {
        let of_issuer = || self.0.values().filter(|key| key.issuer.as_deref() == Some(issuer));
        let published: Vec<&Value> =
            of_issuer().filter(|key| key.publish).filter_map(|key| key.jwk.as_ref()).collect();
        of_issuer().next().map(|_| json!({ "keys": published }))
    }

    /// The issuers that keys name.
    pub(super) fn issuers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().filter_map(|(name, key)| Some((name.as_str(), key.issuer.as_deref()?)))
    }
}

fn key(
    name: &str,
    spec: &KeySpec,
    algorithm: Algorithm,
    pair: Arc<Pair>,
) -> Result<SigningKey, String> {
    let kid = spec.kid.clone().unwrap_or_else(|| name.to_owned());
    let jwk = if is_symmetric(algorithm) { None } else { Some(jwk(spec, &kid, algorithm, &pair)?) };
    let publish = spec.publish.unwrap_or(true);
    Ok(SigningKey { algorithm, kid, pair, issuer: spec.issuer.clone(), publish, jwk })
}

fn jwk(spec: &KeySpec, kid: &str, algorithm: Algorithm, pair: &Pair) -> Result<Value, String> {
    let bare = Jwk::from_encoding_key(&pair.private, algorithm)
        .and_then(|jwk| Ok(serde_json::to_value(jwk)?));
    let Ok(Value::Object(bare)) = bare else {
        return Err("its public half cannot be written as a JWK".into());
    };
    let named: Map<String, Value> = [
        ("kid".to_owned(), json!(kid)),
        ("use".to_owned(), json!("sig")),
        ("alg".to_owned(), json!(spec.alg)),
    ]
    .into_iter()
    .collect();
    let mut jwk = merged(&merged(&bare, &named), &spec.jwk);
    for member in &spec.jwk_without {
        jwk.remove(member);
    }
    Ok(Value::Object(jwk))
}

fn pair(algorithm: Algorithm, spec: &KeySpec, rsa_keys: &mut usize) -> Result<Arc<Pair>, String> {
    match (is_symmetric(algorithm), &spec.secret) {
        (true, Some(SecretSource::Inline(secret))) => {
            return Ok(Arc::new(Pair {
                private: EncodingKey::from_secret(secret.expose()),
                public: Vec::new(),
            }));
        }
        (true, _) => {
            return Err("a shared secret is written as `secret: \"${NAME_SECRET}\"`".into());
        }
        (false, Some(_)) => return Err("only HS256, HS384 and HS512 have a `secret`".into()),
        (false, None) => {}
    }
    let made = match algorithm {
        Algorithm::ES256 => curve(&signature::ECDSA_P256_SHA256_FIXED_SIGNING),
        Algorithm::ES384 => curve(&signature::ECDSA_P384_SHA384_FIXED_SIGNING),
        Algorithm::EdDSA => edwards(),
        _ => {
            let nth = *rsa_keys;
            *rsa_keys += 1;
            return rsa_pair(nth);
        }
    };
    made.map(Arc::new).ok_or_else(|| "the key could not be made".into())
}

fn curve(algorithm: &'static signature::EcdsaSigningAlgorithm) -> Option<Pair> {
    let der = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).ok()?;
    let public =
        EcdsaKeyPair::from_pkcs8(algorithm, der.as_ref()).ok()?.public_key().as_ref().to_vec();
    Some(Pair { private: EncodingKey::from_ec_der(der.as_ref()), public })
}

fn edwards() -> Option<Pair> {
    let der = Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new()).ok()?;
    let public = Ed25519KeyPair::from_pkcs8(der.as_ref()).ok()?.public_key().as_ref().to_vec();
    Some(Pair { private: EncodingKey::from_ed_der(der.as_ref()), public })
}

/// RSA keys take long to make: each is made once in a process, and every file uses the same ones.
fn rsa_pair(nth: usize) -> Result<Arc<Pair>, String> {
    static MADE: [OnceLock<Option<Arc<Pair>>>; MOST_RSA] = [const { OnceLock::new() }; MOST_RSA];
    let made = MADE.get(nth).ok_or_else(|| format!("a file has at most {MOST_RSA} RSA keys"))?;
    let make = || {
        let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).ok()?;
        let private: Pkcs8V1Der<'_> = pair.as_der().ok()?;
        let public: PublicKeyX509Der<'_> = pair.public_key().as_der().ok()?;
        let private =
            EncodingKey::from_rsa_pem(pem("PRIVATE KEY", private.as_ref()).as_bytes()).ok()?;
        Some(Arc::new(Pair { private, public: public.as_ref().to_vec() }))
    };
    made.get_or_init(make).clone().ok_or_else(|| "the key could not be made".into())
}

/// PEM (RFC 7468).
pub(super) fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}
