//! Key sets (RFC 7517): the keys that verify tokens, each bound to one algorithm.
//!
//! An invalid key does not invalidate the set; it is skipped and reported. A shared secret (`oct`)
//! is never taken from a key set.

use std::{collections::HashMap, fmt};

use aws_lc_rs::signature;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse},
};
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use thiserror::Error;

use super::issuer::{AlgorithmName, is_symmetric};
use crate::{identity::Generation, secret::Secret};

/// The maximum size of a key set document in bytes.
pub const MAX_BYTES: usize = 1 << 20;
/// The maximum number of keys in a set.
pub const MAX_KEYS: usize = 256;
/// The maximum size of one key in bytes: its type keeps members that are not used, at many times
/// their size.
const MAX_KEY: usize = 64 * 1024;
/// The maximum length of a `kid` in bytes.
pub(super) const MAX_KID: usize = 256;

/// A key that verifies with exactly one algorithm.
pub struct Key {
    pub(super) algorithm: Algorithm,
    key: DecodingKey,
}

impl Key {
    /// Whether `signature` is a signature of this key over `message` by the key's own algorithm.
    /// The signature is in base64url, as in a token (RFC 7515 section 3.1).
    pub fn verifies(&self, message: &[u8], signature: &str) -> bool {
        // `Ok(false)` is a wrong signature, `Err` a malformed one.
        matches!(
            jsonwebtoken::crypto::verify(signature, message, &self.key, self.algorithm),
            Ok(true)
        )
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{:?} key]", self.algorithm)
    }
}

/// The keys of one issuer.
#[derive(Debug, Default)]
pub struct KeySet {
    generation: Generation,
    named: HashMap<String, Key>,
    unnamed: Vec<Key>,
}

/// A key that was skipped, for the log and the metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkippedKey {
    /// The `kid`, if it can be read.
    pub kid: Option<String>,
    /// The reason why the key cannot be used.
    pub reason: &'static str,
}

/// A document or a secret that provides no keys. The keys in use stay in use.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KeySetError {
    /// The document is not of the form `{"keys": [...]}`, but an HTML page, for example.
    #[error("not a JSON Web Key Set")]
    NotAKeySet,
    /// The document is larger than [`MAX_BYTES`].
    #[error("larger than 1 MiB")]
    TooLarge,
    /// The document has more than [`MAX_KEYS`] keys.
    #[error("more than {MAX_KEYS} keys")]
    TooManyKeys,
    /// The document has no key that this issuer may use. An empty set is more often a mistake of
    /// the server than the intention to refuse all tokens.
    #[error("no key that this issuer may use ({0} skipped)")]
    NoUsableKey(usize),
    /// A shared secret is shorter than the hash of an algorithm (RFC 7518 section 3.2).
    #[error(
        "the secret has {bits} bits, and {algorithm:?} needs {required} or more; make one with \
         `openssl rand -base64 48`"
    )]
    ShortSecret {
        /// The length of the secret in bits.
        bits: usize,
        /// The algorithm that requires a longer secret.
        algorithm: Algorithm,
        /// The minimum length in bits.
        required: usize,
    },
}

/// A key set whose keys are kept as text, because jsonwebtoken's type for a JWK loses members.
#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    keys: FirstKeys<'a>,
}

/// At most one key more than a set may have. A document of [`MAX_BYTES`] has room for half a
/// million empty ones.
struct FirstKeys<'a>(Vec<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for FirstKeys<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;

        impl<'de> Visitor<'de> for Keys {
            type Value = FirstKeys<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of keys")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut keys = Vec::new();
                while let Some(key) = list.next_element()? {
                    keys.push(key);
                    if keys.len() > MAX_KEYS {
                        while list.next_element::<IgnoredAny>()?.is_some() {}
                    }
                }
                Ok(FirstKeys(keys))
            }
        }

        deserializer.deserialize_seq(Keys)
    }
}

impl KeySet {
    /// Parses a key set for an issuer that may use `algorithms`.
    ///
    /// # Errors
    /// The document is not a key set, or has no usable key. Single invalid keys are returned as
    /// [`SkippedKey`] instead.
    pub fn parse(
        document: &[u8],
        algorithms: &[Algorithm],
    ) -> Result<(Self, Vec<SkippedKey>), KeySetError> {
        if document.len() > MAX_BYTES {
            return Err(KeySetError::TooLarge);
        }
        let Document { keys: FirstKeys(keys) } =
            serde_json::from_slice(document).map_err(|_| KeySetError::NotAKeySet)?;
        if keys.len() > MAX_KEYS {
            return Err(KeySetError::TooManyKeys);
        }
        let mut set = Self::default();
        let mut skipped = Vec::new();
        let mut seen: HashMap<String, &str> = HashMap::new();
        for raw in keys {
            let (kid, key) = match read(raw.get(), algorithms) {
                Ok(read) => read,
                Err(skip) => {
                    skipped.push(skip);
                    continue;
                }
            };
            let Some(kid) = kid else {
                set.unnamed.push(key);
                continue;
            };
            match seen.insert(kid.clone(), raw.get()) {
                None => {
                    set.named.insert(kid, key);
                }
                Some(earlier) if earlier == raw.get() => {}
                Some(_) => {
                    // Two different keys have the same name, so it is unknown which one is meant.
                    set.named.remove(&kid);
                    skipped.push(SkippedKey { kid: Some(kid), reason: "its kid is used twice" });
                }
            }
        }
        if set.is_empty() {
            Err(KeySetError::NoUsableKey(skipped.len()))
        } else {
            Ok((set, skipped))
        }
    }

    /// Creates the set of an issuer with a shared secret: one unnamed key per algorithm.
    ///
    /// # Errors
    /// [`KeySetError::ShortSecret`].
    pub fn from_secret(secret: &Secret, algorithms: &[Algorithm]) -> Result<Self, KeySetError> {
        let mut set = Self::default();
        for algorithm in algorithms.iter().filter(|algorithm| is_symmetric(**algorithm)) {
            let required = match algorithm {
                Algorithm::HS384 => 384,
                Algorithm::HS512 => 512,
                _ => 256,
            };
            let bits = secret.expose().len() * 8;
            if bits < required {
                return Err(KeySetError::ShortSecret { bits, algorithm: *algorithm, required });
            }
            set.unnamed.push(Key {
                algorithm: *algorithm,
                key: DecodingKey::from_secret(secret.expose()),
            });
        }
        Ok(set)
    }

    /// Returns the marker of this set. Principals that it verified contain a clone.
    pub fn generation(&self) -> &Generation {
        &self.generation
    }

    /// Returns the number of keys.
    pub fn len(&self) -> usize {
        self.named.len() + self.unnamed.len()
    }

    /// Whether the set has no keys.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the names of the keys, sorted.
    pub fn kids(&self) -> Vec<&str> {
        let mut kids: Vec<&str> = self.named.keys().map(String::as_str).collect();
        kids.sort_unstable();
        kids
    }

    /// Returns the key named `kid`.
    pub fn named(&self, kid: &str) -> Option<&Key> {
        self.named.get(kid)
    }

    /// Returns the key that verifies with `algorithm`, if there is exactly one.
    pub(super) fn only(&self, algorithm: Algorithm) -> Option<&Key> {
        let mut fitting =
            self.named.values().chain(&self.unnamed).filter(|key| key.algorithm == algorithm);
        fitting.next().filter(|_| fitting.next().is_none())
    }
}

fn read(raw: &str, algorithms: &[Algorithm]) -> Result<(Option<String>, Key), SkippedKey> {
    if raw.len() > MAX_KEY {
        return Err(SkippedKey { kid: None, reason: "it is larger than 64 KiB" });
    }
    let jwk: Jwk = serde_json::from_str(raw)
        .map_err(|_| SkippedKey { kid: None, reason: "it is not a JWK" })?;
    let kid = jwk.common.key_id.clone();
    if kid.as_ref().is_some_and(|kid| {
        kid.is_empty() || kid.len() > MAX_KID || kid.chars().any(char::is_control)
    }) {
        return Err(SkippedKey {
            kid: None,
            reason: "its kid is empty, too long, or not printable",
        });
    }
    match usable(&jwk, raw, algorithms) {
        Ok(key) => Ok((kid, key)),
        Err(reason) => Err(SkippedKey { kid, reason }),
    }
}

/// Checks use, operations, curve and the key itself, which jsonwebtoken's `from_jwk` does not.
fn usable(jwk: &Jwk, raw: &str, algorithms: &[Algorithm]) -> Result<Key, &'static str> {
    if matches!(jwk.common.public_key_use, Some(ref usage) if *usage != PublicKeyUse::Signature) {
        return Err("its use is not sig");
    }
    if matches!(jwk.common.key_operations, Some(ref operations) if !operations.contains(&KeyOperations::Verify))
    {
        return Err("its key_ops do not hold verify");
    }
    let decoded = || DecodingKey::from_jwk(jwk).map_err(|_| "its members cannot be decoded");
    let (fitting, key): (&[Algorithm], DecodingKey) = match &jwk.algorithm {
        AlgorithmParameters::RSA(parameters) => (
            &[
                Algorithm::RS256,
                Algorithm::RS384,
                Algorithm::RS512,
                Algorithm::PS256,
                Algorithm::PS384,
                Algorithm::PS512,
            ],
            rsa(&parameters.n, &parameters.e)?,
        ),
        AlgorithmParameters::EllipticCurve(parameters)
            if parameters.curve == EllipticCurve::P256 =>
        {
            point(&signature::ECDSA_P256_SHA256_FIXED, &parameters.x, &parameters.y, 32)?;
            (&[Algorithm::ES256], decoded()?)
        }
        AlgorithmParameters::EllipticCurve(parameters)
            if parameters.curve == EllipticCurve::P384 =>
        {
            point(&signature::ECDSA_P384_SHA384_FIXED, &parameters.x, &parameters.y, 48)?;
            (&[Algorithm::ES384], decoded()?)
        }
        AlgorithmParameters::OctetKeyPair(parameters)
            if parameters.curve == EllipticCurve::Ed25519 =>
        {
            edwards_point(&parameters.x)?;
            (&[Algorithm::EdDSA], decoded()?)
        }
        AlgorithmParameters::OctetKey(_) => {
            return Err("it is a shared secret, which no key set may publish");
        }
        _ => return Err("its type or curve is not supported"),
    };
    // The key is bound to its own `alg`, or else to the issuer's first algorithm that fits its
    // type.
    let algorithm = match alg_member(raw)? {
        Some(named) => AlgorithmName::parse(&named)
            .filter(|algorithm| fitting.contains(algorithm))
            .ok_or("its alg does not fit its type")?,
        None => algorithms
            .iter()
            .copied()
            .find(|algorithm| fitting.contains(algorithm))
            .ok_or("its type fits none of the issuer's algorithms")?,
    };
    if !algorithms.contains(&algorithm) {
        return Err("its alg is not one of the issuer's algorithms");
    }
    Ok(Key { algorithm, key })
}

/// Returns the member `alg` as written, so that a name unknown to jsonwebtoken is not read as "no
/// alg".
fn alg_member(raw: &str) -> Result<Option<String>, &'static str> {
    #[derive(Deserialize)]
    struct Alg {
        alg: Option<String>,
    }
    serde_json::from_str::<Alg>(raw).map(|Alg { alg }| alg).map_err(|_| "its alg is not a string")
}

fn decode(text: &str) -> Result<Vec<u8>, &'static str> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| "a member is not base64url")
}

/// Reads an RSA key.
///
/// Leading zeros, which some servers write although RFC 7518 section 6.3.1.1 forbids them, are
/// removed: the crypto library refuses them, and only when a signature is verified.
fn rsa(n: &str, e: &str) -> Result<DecodingKey, &'static str> {
    let (n, e) = (decode(n)?, decode(e)?);
    let (n, e) = (without_zeros(&n), without_zeros(&e));
    let bits = n.len() * 8 - n.first().map_or(0, |byte| byte.leading_zeros() as usize);
    if !(2048..=8192).contains(&bits) {
        return Err("its modulus has fewer than 2048 or more than 8192 bits");
    }
    if n.last().is_none_or(|byte| byte % 2 == 0) {
        return Err("its modulus is even");
    }
    let exponent =
        e.iter().try_fold(0u64, |sum, byte| sum.checked_mul(256).map(|sum| sum + u64::from(*byte)));
    if !exponent.is_some_and(|exponent| exponent >= 3 && exponent % 2 == 1 && exponent < 1 << 33) {
        return Err("its exponent is even, below 3 or above 2^33");
    }
    Ok(DecodingKey::from_rsa_raw_components(n, e))
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let start = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
    number.get(start..).unwrap_or_default()
}

fn point(
    algorithm: &'static signature::EcdsaVerificationAlgorithm,
    x: &str,
    y: &str,
    length: usize,
) -> Result<(), &'static str> {
    let (x, y) = (decode(x)?, decode(y)?);
    if x.len() != length || y.len() != length {
        return Err("its point has the wrong length");
    }
    let uncompressed = [&[4], x.as_slice(), y.as_slice()].concat();
    signature::ParsedPublicKey::new(algorithm, uncompressed)
        .map(drop)
        .map_err(|_| "its point is not on the curve")
}

/// The points of Ed25519 whose order divides 8, without the sign of x: 0, 1 and -1, two of order 8,
/// and the encodings of 0 and 1 that are not reduced.
///
/// With such a key a signature hardly depends on the message: for the neutral point, S = 0 and the
/// neutral point as R verify every message (RFC 8032 section 5.1.7).
const SMALL_ORDER: [[u8; 32]; 7] = {
    const fn ends(first: u8, between: u8, last: u8) -> [u8; 32] {
        let mut bytes = [between; 32];
        bytes[0] = first;
        bytes[31] = last;
        bytes
    }
    [
        ends(0, 0, 0),
        ends(1, 0, 0),
        ends(0xec, 0xff, 0x7f),
        ends(0xed, 0xff, 0x7f),
        ends(0xee, 0xff, 0x7f),
        *b"\x26\xe8\x95\x8f\xc2\xb2\x27\xb0\x45\xc3\xf4\x89\xf2\xef\x98\xf0\xd5\xdf\xac\x05\xd3\xc6\x33\x39\xb1\x38\x02\x88\x6d\x53\xfc\x05",
        *b"\xc7\x17\x6a\x70\x3d\x4d\xd8\x4f\xba\x3c\x0b\x76\x0d\x10\x67\x0f\x2a\x20\x53\xfa\x2c\x39\xcc\xc6\x4e\xc7\xfd\x77\x92\xac\x03\x7a",
    ]
};

fn edwards_point(x: &str) -> Result<(), &'static str> {
    let mut point =
        <[u8; 32]>::try_from(decode(x)?).map_err(|_| "its point has the wrong length")?;
    point[31] &= 0x7f;
    if SMALL_ORDER.contains(&point) { Err("its point has a small order") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P256: &str = r#""kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0""#;
    const ED: &str =
        r#""kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo""#;

    fn rsa_jwk(bytes: usize, e: &str) -> String {
        let mut modulus = vec![0xffu8; bytes];
        modulus[0] = 0x80;
        format!(r#""kty":"RSA","n":"{}","e":"{e}""#, URL_SAFE_NO_PAD.encode(modulus))
    }

    fn parse(
        keys: &[String],
        algorithms: &[Algorithm],
    ) -> Result<(KeySet, Vec<&'static str>), KeySetError> {
        let document = format!("{{\"keys\":[{}]}}", keys.join(","));
        KeySet::parse(document.as_bytes(), algorithms)
            .map(|(set, skipped)| (set, skipped.into_iter().map(|skip| skip.reason).collect()))
    }

    fn jwk(kid: &str, members: &str) -> String {
        format!(r#"{{"kid":"{kid}",{members}}}"#)
    }

    #[test]
    fn keys_are_bound_to_one_algorithm() {
        let keys = [
            jwk("r", &rsa_jwk(256, "AQAB")),
            jwk("e", P256),
            jwk("d", ED),
            jwk("p", &format!("{},\"alg\":\"PS256\"", rsa_jwk(256, "AQAB"))),
        ];
        let (set, skipped) =
            parse(&keys, &[Algorithm::RS256, Algorithm::PS256, Algorithm::ES256, Algorithm::EdDSA])
                .unwrap();
        assert_eq!(skipped, [""; 0]);
        for (kid, algorithm) in [
            ("r", Algorithm::RS256),
            ("e", Algorithm::ES256),
            ("d", Algorithm::EdDSA),
            ("p", Algorithm::PS256),
        ] {
            assert_eq!(set.named(kid).unwrap().algorithm, algorithm, "{kid}");
        }
    }

    #[test]
    fn an_invalid_key_is_skipped_and_the_others_are_kept() {
        // J07, J23, K05, K06 and CVE-2026-22817's class.
        let all = [Algorithm::RS256, Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA];
        let off_curve = P256.replace("x_FEz", "x_FEy");
        let cases = [
            (
                jwk("b", r#""kty":"oct","k":"AAAA""#),
                "it is a shared secret, which no key set may publish",
            ),
            (
                jwk("b", &rsa_jwk(128, "AQAB")),
                "its modulus has fewer than 2048 or more than 8192 bits",
            ),
            (jwk("b", &rsa_jwk(256, "AQAC")), "its exponent is even, below 3 or above 2^33"),
            (jwk("b", &rsa_jwk(256, "AQ")), "its exponent is even, below 3 or above 2^33"),
            (jwk("b", &off_curve), "its point is not on the curve"),
            (jwk("b", &format!("{P256},\"use\":\"enc\"")), "its use is not sig"),
            (
                jwk("b", &format!("{P256},\"key_ops\":[\"encrypt\"]")),
                "its key_ops do not hold verify",
            ),
            (jwk("b", &format!("{P256},\"alg\":\"RS256\"")), "its alg does not fit its type"),
            (jwk("b", &format!("{P256},\"alg\":\"none\"")), "its alg does not fit its type"),
            (
                jwk("b", &format!("{},\"alg\":\"HS256\"", rsa_jwk(256, "AQAB"))),
                "its alg does not fit its type",
            ),
            (
                jwk("b", &format!("{},\"alg\":\"PS256\"", rsa_jwk(256, "AQAB"))),
                "its alg is not one of the issuer's algorithms",
            ),
            (jwk("b", r#""kty":"nonsense""#), "its type or curve is not supported"),
            ("17".into(), "it is not a JWK"),
            (jwk(&"k".repeat(257), ED), "its kid is empty, too long, or not printable"),
        ];
        for (bad, why) in cases {
            let (set, skipped) = parse(&[jwk("good", ED), bad.clone()], &all).unwrap();
            assert_eq!((set.kids(), skipped), (vec!["good"], vec![why]), "{bad}");
        }
    }

    #[test]
    fn a_kid_used_twice_names_no_key() {
        let (set, skipped) = parse(
            &[jwk("a", ED), jwk("a", P256), jwk("c", ED), jwk("c", ED)],
            &[Algorithm::ES256, Algorithm::EdDSA],
        )
        .unwrap();
        assert_eq!((set.kids(), skipped), (vec!["c"], vec!["its kid is used twice"]));
    }

    #[test]
    fn invalid_key_sets_are_refused() {
        let error = |document: &str| {
            KeySet::parse(document.as_bytes(), &[Algorithm::EdDSA]).map(drop).unwrap_err()
        };
        assert_eq!(error("<html></html>"), KeySetError::NotAKeySet);
        assert_eq!(error("{}"), KeySetError::NotAKeySet);
        assert_eq!(error("{\"keys\":[]}"), KeySetError::NoUsableKey(0));
        assert_eq!(
            error(&format!("{{\"keys\":[{}]}}", jwk("a", P256))),
            KeySetError::NoUsableKey(1)
        );
        assert_eq!(
            error(&format!("{{\"keys\":[{}]}}", vec!["{}"; 257].join(","))),
            KeySetError::TooManyKeys
        );
        assert_eq!(
            error(&format!("{{\"keys\":[{}]}}", vec!["0"; MAX_BYTES / 2 - 8].join(","))),
            KeySetError::TooManyKeys
        );
        let large = format!(r#"{{"kid":"a","x5c":["{}"],{ED}}}"#, "x".repeat(MAX_KEY));
        assert_eq!(error(&format!("{{\"keys\":[{large}]}}")), KeySetError::NoUsableKey(1));
        assert_eq!(
            error(&format!("{{\"keys\":[],\"x\":\"{}\"}}", "x".repeat(MAX_BYTES))),
            KeySetError::TooLarge
        );
    }

    #[test]
    fn secrets_shorter_than_the_hash_are_refused() {
        assert!(KeySet::from_secret(&Secret::new([7; 31]), &[Algorithm::HS256]).is_err());
        assert_eq!(
            KeySet::from_secret(&Secret::new([7; 32]), &[Algorithm::HS256]).unwrap().len(),
            1
        );
        assert!(
            KeySet::from_secret(&Secret::new([7; 32]), &[Algorithm::HS256, Algorithm::HS512])
                .is_err()
        );
    }
}
