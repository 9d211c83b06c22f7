//! Key sets (RFC 7517): the keys that verify tokens, each bound to the algorithms it may verify.
//!
//! An invalid key does not invalidate the set; it is skipped and reported. A shared secret (`oct`)
//! is never taken from a key set, and neither is a key whose private part is published.

mod document;
mod jwk;
mod key;
mod misfit;

use jsonwebtoken::DecodingKey;
use thiserror::Error;

pub(in crate::credential) use self::jwk::{client_key, private_member, thumbprint_of};
pub(super) use self::key::MAX_KID;
pub use self::{
    document::{MAX_BYTES, MAX_KEYS},
    key::{Key, SkippedKey},
};
use self::{
    jwk::{Entry, Purpose},
    key::Material,
};
use super::algorithm::Algorithm;
use crate::{identity::Generation, secret::Secret};

/// The maximum number of keys that one token is verified with.
pub(super) const MAX_CANDIDATES: usize = 4;
/// The maximum number of key ids in the text of one reason.
const MAX_NAMED: usize = 8;
/// The reason why a key is not used that shares its name and an algorithm with another.
const TWICE: &str = "its kid is used twice, for two different keys";

/// The keys of one issuer, in the order of the document.
#[derive(Debug, Default)]
pub struct KeySet {
    generation: Generation,
    keys: Vec<NamedKey>,
    skipped: Vec<SkippedKey>,
}

#[derive(Debug)]
struct NamedKey {
    kid: Option<String>,
    key: Key,
}

/// The keys that may have signed a token, at most [`MAX_CANDIDATES`].
#[derive(Debug)]
pub(super) struct Candidates<'k> {
    pub(super) keys: Vec<&'k Key>,
    /// The number of keys that fit, those that are not tried included.
    pub(super) fitting: usize,
}

/// A document or a secret that provides no keys. The keys in use stay in use.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KeySetError {
    /// The document is not of the form `{"keys": [...]}`, but an HTML page, for example.
    #[error("not a JSON Web Key Set: {0}")]
    NotAKeySet(&'static str),
    /// The document is larger than [`MAX_BYTES`].
    #[error("larger than 1 MiB")]
    TooLarge,
    /// The document has more than [`MAX_KEYS`] keys.
    #[error("more than {MAX_KEYS} keys")]
    TooManyKeys,
    /// The document has no key that this issuer may use. An empty set is more often a mistake of
    /// the server than the intention to refuse all tokens.
    #[error("no key that this issuer may use: {}", reasons(.skipped))]
    NoUsableKey {
        /// The keys of the document.
        skipped: Vec<SkippedKey>,
        /// Whether the private part of a key is published, which ends the previous keys too.
        is_exposed: bool,
    },
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

/// Returns every reason once, with the keys that it is true of.
fn reasons(skipped: &[SkippedKey]) -> String {
    let mut by_reason: Vec<(&str, Vec<String>)> = Vec::new();
    for SkippedKey { kid, reason } in skipped {
        let key = kid.as_ref().map_or("a key without kid".to_owned(), |kid| format!("`{kid}`"));
        match by_reason.iter_mut().find(|(known, _)| known == reason) {
            Some((_, keys)) => keys.push(key),
            None => by_reason.push((reason, vec![key])),
        }
    }
    let shown = by_reason.iter().map(|(reason, keys)| {
        let named = keys.get(..MAX_NAMED).unwrap_or(keys).join(", ");
        let more = keys.len().saturating_sub(MAX_NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("{named}{more}: {reason}")
    });
    let shown: Vec<String> = shown.collect();
    if shown.is_empty() { "the set is empty".into() } else { shown.join("; ") }
}

impl KeySet {
    /// Parses a key set for an issuer that may use `algorithms`.
    ///
    /// Keys of one name for different algorithms are distinguished by the algorithm of the token. Two
    /// different keys of one name verify nothing by an algorithm that both are bound to. A key that
    /// is listed twice is one key, whichever members the entries have besides it.
    ///
    /// # Errors
    /// The document is not a key set, or has no usable key. Single invalid keys are returned as
    /// [`SkippedKey`] instead.
    pub fn parse(
        document: &[u8],
        algorithms: &[Algorithm],
    ) -> Result<(Self, Vec<SkippedKey>), KeySetError> {
        Self::read(document, algorithms, Purpose::Signature)
    }

    /// Parses the key set of an issuer: as [`parse`](Self::parse), or for a trust domain of SPIFFE
    /// its bundle, of which the keys for JWT-SVIDs are used.
    ///
    /// # Errors
    /// As for [`parse`](Self::parse).
    pub fn of_issuer(
        issuer: &str,
        document: &[u8],
        algorithms: &[Algorithm],
    ) -> Result<(Self, Vec<SkippedKey>), KeySetError> {
        let is_domain = issuer.starts_with("spiffe://");
        let purpose = if is_domain { Purpose::JwtSvid } else { Purpose::Signature };
        Self::read(document, algorithms, purpose)
    }

    fn read(
        document: &[u8],
        algorithms: &[Algorithm],
        purpose: Purpose,
    ) -> Result<(Self, Vec<SkippedKey>), KeySetError> {
        if document.len() > MAX_BYTES {
            return Err(KeySetError::TooLarge);
        }
        // RFC 8259 section 8.1 permits to ignore it.
        let document = document.strip_prefix("\u{feff}".as_bytes()).unwrap_or(document);
        let keys = document::keys(document)
            .ok_or_else(|| KeySetError::NotAKeySet(misfit::document(document)))?;
        if keys.len() > MAX_KEYS {
            return Err(KeySetError::TooManyKeys);
        }
        let mut set = Self::default();
        let (mut is_exposed, mut exposed) = (false, Vec::new());
        for raw in keys {
            match jwk::read(raw.get(), algorithms, purpose) {
                Entry::Foreign => {}
                Entry::Usable(kid, key) => set.add(kid, key),
                Entry::Skipped(skip) => set.skipped.push(skip),
                Entry::Exposed(skip, digest) => {
                    is_exposed = true;
                    exposed.extend(digest);
                    set.skipped.push(skip);
                }
            }
        }
        set.drop_exposed(&exposed);
        set.drop_ambiguous();
        if set.is_empty() {
            return Err(KeySetError::NoUsableKey { skipped: set.skipped, is_exposed });
        }
        let skipped = set.skipped.clone();
        Ok((set, skipped))
    }

    /// Adds a key, or what its entry adds to one of the same name that is the same key.
    fn add(&mut self, kid: Option<String>, key: Key) {
        let same =
            |known: &&mut NamedKey| known.kid == kid && known.key.thumbprint == key.thumbprint;
        match self.keys.iter_mut().find(same) {
            Some(known) => known.key.merge(&key),
            None => self.keys.push(NamedKey { kid, key }),
        }
    }

    /// Removes the keys whose private part another entry publishes.
    fn drop_exposed(&mut self, exposed: &[[u8; 32]]) {
        let Self { keys, skipped, .. } = self;
        keys.retain(|NamedKey { kid, key }| {
            let is_exposed = exposed.contains(&key.thumbprint);
            if is_exposed {
                let reason = "another entry publishes its private part; replace the key";
                skipped.push(SkippedKey { kid: kid.clone(), reason: reason.into() });
            }
            !is_exposed
        });
    }

    /// Unbinds different keys of one name from the algorithms that they share: it is unknown which of
    /// them is meant.
    fn drop_ambiguous(&mut self) {
        let shared = |of: &NamedKey, algorithm: Algorithm| {
            let has = |it: &NamedKey| it.key.algorithms.contains(&algorithm);
            of.kid.is_some()
                && self.keys.iter().filter(|it| it.kid == of.kid && has(it)).count() > 1
        };
        let kept: Vec<Vec<Algorithm>> = self
            .keys
            .iter()
            .map(|it| {
                let algorithms = it.key.algorithms.iter().copied();
                algorithms.filter(|algorithm| !shared(it, *algorithm)).collect()
            })
            .collect();
        for (named, algorithms) in self.keys.iter_mut().zip(kept) {
            if named.key.algorithms.len() == algorithms.len() {
                continue;
            }
            named.key.algorithms = algorithms;
            let is_known = |skip: &SkippedKey| skip.kid == named.kid && skip.reason == TWICE;
            if !self.skipped.iter().any(is_known) {
                let kid = named.kid.clone();
                self.skipped.push(SkippedKey { kid, reason: TWICE.into() });
            }
        }
        self.keys.retain(|named| !named.key.algorithms.is_empty());
    }

    /// Creates the set of an issuer with a shared secret: one unnamed key per algorithm.
    ///
    /// # Errors
    /// [`KeySetError::ShortSecret`].
    pub fn from_secret(secret: &Secret, algorithms: &[Algorithm]) -> Result<Self, KeySetError> {
        let mut set = Self::default();
        for algorithm in algorithms.iter().copied().filter(|algorithm| algorithm.is_symmetric()) {
            let required = match algorithm {
                Algorithm::HS384 => 384,
                Algorithm::HS512 => 512,
                _ => 256,
            };
            let bits = secret.expose().len() * 8;
            if bits < required {
                return Err(KeySetError::ShortSecret { bits, algorithm, required });
            }
            let key = Material::Jose(DecodingKey::from_secret(secret.expose()));
            // One key of each algorithm, so that each is counted.
            let key = Key::new(vec![algorithm], true, [0; 32], key);
            set.keys.push(NamedKey { kid: None, key });
        }
        Ok(set)
    }

    /// Gives each named key the marker that it has in `previous`, if it is bound to the same algorithms
    /// there: tokens that name such a key stay verified when their issuer adds or removes others.
    #[must_use]
    pub fn succeeding(mut self, previous: &Self) -> Self {
        for named in self.keys.iter_mut().filter(|named| named.kid.is_some()) {
            let is_same = |known: &&NamedKey| {
                known.kid == named.kid
                    && known.key.thumbprint == named.key.thumbprint
                    && known.key.algorithms == named.key.algorithms
            };
            if let Some(known) = previous.keys.iter().find(is_same) {
                named.key.generation = known.key.generation.clone();
            }
        }
        self
    }

    /// Returns the marker of this set.
    pub(super) fn generation(&self) -> &Generation {
        &self.generation
    }

    /// Returns the marker of what a verification used: of `key` alone if the token names it, as no
    /// other key of the set can change the result then; of the set otherwise.
    pub(super) fn generation_of<'a>(&'a self, key: &'a Key, kid: Option<&str>) -> &'a Generation {
        let is_named = kid.is_some() && self.kid_of(key) == kid;
        if is_named { &key.generation } else { &self.generation }
    }

    /// Whether what a verification used is still in this set, unchanged.
    pub fn has(&self, generation: &Generation) -> bool {
        self.keys.iter().any(|named| named.key.generation == *generation)
            || self.generation == *generation
    }

    /// Returns the number of keys.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether the set has no keys.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Returns the name of a key of this set.
    pub(super) fn kid_of(&self, key: &Key) -> Option<&str> {
        let named = self.keys.iter().find(|named| std::ptr::eq(&named.key, key));
        named.and_then(|named| named.kid.as_deref())
    }

    /// Returns the names of the keys, sorted, each once.
    pub fn kids(&self) -> Vec<&str> {
        let mut kids: Vec<&str> = self.keys.iter().filter_map(|key| key.kid.as_deref()).collect();
        kids.sort_unstable();
        kids.dedup();
        kids
    }

    /// Returns the names of all entries, sorted, each once: those that cannot be used too.
    pub(super) fn published_kids(&self) -> Vec<&str> {
        let skipped = self.skipped.iter().filter_map(|key| key.kid.as_deref());
        let mut kids: Vec<&str> = self.kids().into_iter().chain(skipped).collect();
        kids.sort_unstable();
        kids.dedup();
        kids
    }

    /// Returns why entries cannot be used; `None` where all can.
    pub(super) fn skipped_reasons(&self) -> Option<String> {
        (!self.skipped.is_empty()).then(|| reasons(&self.skipped))
    }

    /// Returns the algorithms that the keys are for, each once.
    pub(super) fn algorithms<'k>(keys: impl Iterator<Item = &'k Key>) -> String {
        let mut all: Vec<Algorithm> = Vec::new();
        for algorithm in keys.flat_map(|key| &key.algorithms) {
            if !all.contains(algorithm) {
                all.push(*algorithm);
            }
        }
        Algorithm::list(&all)
    }

    /// Returns the keys named `kid`, which differ in their algorithms.
    pub fn named(&self, kid: &str) -> impl Iterator<Item = &Key> {
        let is_named = move |key: &&NamedKey| key.kid.as_deref() == Some(kid);
        self.keys.iter().filter(is_named).map(|key| &key.key)
    }

    /// Returns the keys without a name.
    pub(super) fn unnamed(&self) -> impl Iterator<Item = &Key> {
        self.keys.iter().filter(|key| key.kid.is_none()).map(|key| &key.key)
    }

    /// Returns all keys.
    pub(super) fn all(&self) -> impl Iterator<Item = &Key> {
        self.keys.iter().map(|key| &key.key)
    }

    /// Returns the reason why the first entry without a name was skipped.
    pub(super) fn why_unnamed_skipped(&self) -> Option<&str> {
        self.skipped.iter().find(|key| key.kid.is_none()).map(|key| &*key.reason)
    }

    /// Returns the reason why the key named `kid` was skipped.
    pub(super) fn why_skipped(&self, kid: &str) -> Option<&str> {
        let skipped = self.skipped.iter().find(|key| key.kid.as_deref() == Some(kid));
        skipped.map(|key| &*key.reason)
    }
}

impl<'k> Candidates<'k> {
    /// Takes the keys for `algorithm`: no other key ever verifies a token of that algorithm.
    pub(super) fn of(keys: impl Iterator<Item = &'k Key>, algorithm: Algorithm) -> Self {
        let (mut candidates, mut fitting): (Vec<&Key>, usize) = (Vec::new(), 0);
        for key in keys.filter(|key| key.algorithms.contains(&algorithm)) {
            // A key that is listed under two names is tried once.
            if candidates.iter().any(|known| known.thumbprint == key.thumbprint) {
                continue;
            }
            fitting += 1;
            if candidates.len() < MAX_CANDIDATES {
                candidates.push(key);
            }
        }
        Self { keys: candidates, fitting }
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

    use super::*;

    const P256: &str = r#""kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0""#;
    /// The generator of P-256 (FIPS 186-4 section D.1.2.3).
    const P256_OTHER: &str = r#""x":"axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY","y":"T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU""#;
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
    ) -> Result<(KeySet, Vec<String>), KeySetError> {
        let document = format!("{{\"keys\":[{}]}}", keys.join(","));
        KeySet::parse(document.as_bytes(), algorithms).map(|(set, skipped)| {
            (set, skipped.into_iter().map(|skip| skip.reason.into_owned()).collect())
        })
    }

    fn jwk(kid: &str, members: &str) -> String {
        format!(r#"{{"kid":"{kid}",{members}}}"#)
    }

    #[test]
    fn a_named_key_succeeds_the_same_one_alone() {
        let of = |keys: &[String]| {
            parse(keys, &[Algorithm::RS256, Algorithm::PS256, Algorithm::ES256]).unwrap().0
        };
        let rsa = rsa_jwk(256, "AQAB");
        let before = of(&[jwk("a", P256), jwk("b", &rsa)]);
        let marker = |set: &KeySet, kid: &str| set.named(kid).next().unwrap().generation.clone();
        for (keys, kept) in [
            ([jwk("a", P256), jwk("b", &rsa)], [true, true]),
            (
                [
                    jwk("a", &format!("{P256_OTHER},\"kty\":\"EC\",\"crv\":\"P-256\"")),
                    jwk("b", &rsa),
                ],
                [false, true],
            ),
            ([jwk("a", P256), jwk("b", &format!("{rsa},\"alg\":\"RS256\""))], [true, false]),
            ([jwk("b", P256), jwk("a", &rsa)], [false, false]),
        ] {
            let after = of(&keys).succeeding(&before);
            let found = ["a", "b"].map(|kid| marker(&after, kid) == marker(&before, kid));
            assert_eq!(found, kept, "{keys:?}");
        }
    }

    #[test]
    fn keys_are_bound_to_their_alg_or_to_the_listed_algorithms_that_fit() {
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
        for (kid, algorithms) in [
            ("r", &[Algorithm::RS256, Algorithm::PS256][..]),
            ("e", &[Algorithm::ES256]),
            ("d", &[Algorithm::EdDSA]),
            ("p", &[Algorithm::PS256]),
        ] {
            let keys: Vec<_> = set.named(kid).map(|key| key.algorithms.as_slice()).collect();
            assert_eq!(keys, [algorithms], "{kid}");
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
                "its alg is PS256, and the issuer's `algorithms` are RS256, ES256, ES384, EdDSA",
            ),
            (jwk("b", r#""kty":"nonsense""#), "its type or curve is not supported"),
            ("17".into(), "it is not a JWK: not one JSON object without repeated members"),
            (jwk(&"k".repeat(257), ED), "its kid is too long, or not printable"),
        ];
        for (bad, why) in cases {
            let (set, skipped) = parse(&[jwk("good", ED), bad.clone()], &all).unwrap();
            assert_eq!((set.kids(), skipped), (vec!["good"], vec![why.to_owned()]), "{bad}");
        }
    }

    #[test]
    fn a_key_whose_private_part_is_published_verifies_nothing() {
        let rsa = rsa_jwk(256, "AQAB");
        let all = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];
        for (key, member) in [
            (format!("{rsa},\"d\":\"AQAB\""), "d"),
            (format!("{rsa},\"p\":\"AQAB\""), "p"),
            (format!("{rsa},\"q\":\"AQAB\",\"use\":\"sig\""), "q"),
            (format!("{rsa},\"dp\":\"AQAB\""), "dp"),
            (format!("{rsa},\"dq\":\"AQAB\""), "dq"),
            (format!("{rsa},\"qi\":\"AQAB\""), "qi"),
            (format!("{rsa},\"oth\":[{{\"r\":\"AQ\",\"d\":\"AQ\",\"t\":\"AQ\"}}]"), "oth"),
            (format!("{P256},\"d\":\"AQAB\""), "d"),
            (format!("{ED},\"d\":\"AQAB\""), "d"),
            (format!("{ED},\"d\":7"), "d"),
            (format!("{rsa},\"d\":\"AQAB\",\"use\":\"enc\""), "d"),
        ] {
            let other = format!(r#""kty":"EC","crv":"P-256",{P256_OTHER}"#);
            let (set, skipped) = parse(&[jwk("good", &other), jwk("b", &key)], &all).unwrap();
            let expected = format!("its private part (`{member}`) is published");
            assert_eq!((set.kids(), skipped.len()), (vec!["good"], 1), "{key}");
            assert!(skipped[0].contains(&expected), "{key}: {skipped:?}");
            let error = parse(&[jwk("b", &key)], &all).unwrap_err();
            assert!(
                matches!(&error, KeySetError::NoUsableKey { is_exposed: true, .. })
                    && error.to_string().contains("`b`: its private part"),
                "{error}"
            );
        }
        let nulls = format!("{ED},\"d\":null");
        assert_eq!(parse(&[jwk("n", &nulls)], &all).unwrap().0.len(), 1);
    }

    #[test]
    fn the_public_entry_of_an_exposed_key_verifies_nothing() {
        for more in
            ["\"kid\":\"b\",\"use\":\"enc\"", "\"kid\":7", "\"alg\":\"ES256K\"", "\"use\":7"]
        {
            let private = format!("{{{ED},\"d\":\"AQAB\",{more}}}");
            for entries in [[jwk("a", ED), private.clone()], [private.clone(), jwk("a", ED)]] {
                let error = parse(&entries, &[Algorithm::EdDSA]).unwrap_err().to_string();
                assert!(error.contains("`a`: another entry publishes its private"), "{error}");
            }
        }
    }

    #[test]
    fn a_byte_order_mark_before_a_set_is_left_out() {
        let document = format!("\u{feff}{{\"keys\":[{}]}}", jwk("a", ED));
        let (set, _) = KeySet::parse(document.as_bytes(), &[Algorithm::EdDSA]).unwrap();
        assert_eq!(set.kids(), ["a"]);
    }

    #[test]
    fn a_kid_that_is_a_number_is_named() {
        let keys = [jwk("a", ED), format!("{{\"kid\":7,{P256}}}")];
        let (set, skipped) = parse(&keys, &[Algorithm::EdDSA, Algorithm::ES256]).unwrap();
        assert_eq!(skipped, ["it is not a JWK: its kid is a number, not text"]);
        assert!(set.why_skipped("7").is_some());
    }

    #[test]
    fn a_kid_of_two_keys_for_one_algorithm_names_no_key() {
        let other = ED.replace("11qY", "12qY");
        let (set, skipped) = parse(
            &[jwk("a", ED), jwk("a", &other), jwk("c", ED), jwk("c", ED)],
            &[Algorithm::ES256, Algorithm::EdDSA],
        )
        .unwrap();
        assert_eq!((set.kids(), set.len()), (vec!["c"], 1));
        assert_eq!(skipped, ["its kid is used twice, for two different keys"]);
    }

    #[test]
    fn one_key_under_one_kid_is_one_key_whatever_its_entries_have_besides() {
        let rsa = rsa_jwk(256, "AQAB");
        let zero = format!(r#""kty":"RSA","e":"AAEAAQ",{}"#, rsa.split(',').nth(1).unwrap());
        let algorithms = [Algorithm::RS256, Algorithm::PS256, Algorithm::EdDSA];
        for (first, second, bound) in [
            (rsa.clone(), format!("{rsa},\"use\":\"sig\""), &algorithms[..2]),
            (format!("{rsa},\"x5c\":[\"MIIC\"]"), rsa.clone(), &algorithms[..2]),
            (rsa.clone(), format!("{rsa},\"alg\":\"PS256\""), &algorithms[1..2]),
            (format!("{rsa},\"alg\":\"PS256\""), rsa.clone(), &algorithms[1..2]),
            (rsa.clone(), format!("{rsa},\"key_ops\":[\"verify\"]"), &algorithms[..2]),
            (rsa.clone(), zero, &algorithms[..2]),
            (
                format!("{rsa},\"alg\":\"RS256\""),
                format!("{rsa},\"alg\":\"PS256\""),
                &algorithms[..2],
            ),
            (ED.to_owned(), format!("{ED},\"alg\":\"EdDSA\",\"use\":\"sig\""), &algorithms[2..]),
        ] {
            let (set, skipped) =
                parse(&[jwk("a", &first), jwk("a", &second)], &algorithms).unwrap();
            assert_eq!((set.len(), skipped), (1, vec![]), "{second}");
            let found: Vec<_> = set.named("a").map(|key| key.algorithms.as_slice()).collect();
            assert_eq!(found, [bound], "{second}");
        }
        let unnamed = [format!("{{{ED}}}"), format!("{{{ED},\"use\":\"sig\"}}")];
        assert_eq!(parse(&unnamed, &algorithms).unwrap().0.len(), 1);
    }

    #[test]
    fn two_keys_of_a_kid_lose_the_algorithms_that_they_share() {
        let (one, other) = (rsa_jwk(256, "AQAB"), rsa_jwk(257, "AQAB"));
        let algorithms = [Algorithm::RS256, Algorithm::PS256];
        let keys = [jwk("a", &one), jwk("a", &format!("{other},\"alg\":\"PS256\""))];
        let (set, skipped) = parse(&keys, &algorithms).unwrap();
        assert_eq!(skipped, ["its kid is used twice, for two different keys"]);
        let found: Vec<_> = set.named("a").map(|key| key.algorithms.as_slice()).collect();
        assert_eq!(found, [&[Algorithm::RS256]]);
        assert!(parse(&[jwk("a", &one), jwk("a", &other)], &algorithms).is_err());
    }

    #[test]
    fn a_key_that_is_listed_under_two_names_is_tried_once() {
        let (set, _) = parse(&[jwk("a", ED), jwk("b", ED)], &[Algorithm::EdDSA]).unwrap();
        let found = Candidates::of(set.all(), Algorithm::EdDSA);
        assert_eq!((set.len(), found.keys.len(), found.fitting), (2, 1, 1));
    }

    #[test]
    fn a_kid_of_keys_for_two_algorithms_names_both() {
        let rsa = rsa_jwk(256, "AQAB");
        let keys = [
            jwk("a", ED),
            jwk("a", P256),
            jwk("a", &format!("{rsa},\"alg\":\"RS256\"")),
            jwk("a", &format!("{rsa},\"alg\":\"PS256\"")),
        ];
        let algorithms = [Algorithm::ES256, Algorithm::EdDSA, Algorithm::RS256, Algorithm::PS256];
        let (set, skipped) = parse(&keys, &algorithms).unwrap();
        // The RSA key is one.
        assert_eq!((set.kids(), set.len(), skipped), (vec!["a"], 3, vec![]));
        for algorithm in algorithms {
            let found = Candidates::of(set.named("a"), algorithm);
            assert_eq!((found.keys.len(), found.fitting), (1, 1), "{algorithm:?}");
            assert!(found.keys[0].algorithms.contains(&algorithm));
        }
    }

    #[test]
    fn no_more_than_four_keys_are_candidates() {
        let keys: Vec<String> =
            (0..6).map(|more| format!("{{{}}}", rsa_jwk(256 + more, "AQAB"))).collect();
        let (set, _) = parse(&keys, &[Algorithm::RS256, Algorithm::ES256]).unwrap();
        let found = Candidates::of(set.all(), Algorithm::RS256);
        assert_eq!((found.keys.len(), found.fitting), (4, 6));
        assert!(Candidates::of(set.all(), Algorithm::ES256).keys.is_empty());
    }

    #[test]
    fn an_empty_kid_is_none() {
        let (set, skipped) = parse(&[jwk("", ED)], &[Algorithm::EdDSA]).unwrap();
        assert_eq!((set.kids().len(), set.unnamed().count(), skipped.len()), (0, 1, 0));
    }

    #[test]
    fn every_reason_is_named_where_no_key_is_usable() {
        let rsa = rsa_jwk(256, "AQAB");
        let keys = [
            jwk("r1", &format!("{rsa},\"alg\":\"RS256\"")),
            jwk("r2", &format!("{rsa},\"alg\":\"RS256\"")),
            format!("{{{rsa}}}"),
            jwk("e", &format!("{P256},\"use\":\"enc\"")),
        ];
        let error = parse(&keys, &[Algorithm::ES256]).map(drop).unwrap_err().to_string();
        assert_eq!(
            error,
            "no key that this issuer may use: `r1`, `r2`: its alg is RS256, and the issuer's \
             `algorithms` are ES256; a key without kid: it is for RS256, RS384, RS512, PS256, PS384, \
             PS512, and the issuer's `algorithms` are ES256; `e`: its use is not sig"
        );
        let many: Vec<String> = (0..20).map(|n| jwk(&format!("k{n}"), P256)).collect();
        let error = parse(&many, &[Algorithm::EdDSA]).map(drop).unwrap_err().to_string();
        assert!(
            error.contains("`k0`") && error.contains("`k7` and 12 more: it is for ES256"),
            "{error}"
        );
    }

    #[test]
    fn invalid_key_sets_are_refused() {
        let error = |document: &str| {
            KeySet::parse(document.as_bytes(), &[Algorithm::EdDSA]).map(drop).unwrap_err()
        };
        assert_eq!(error("<html></html>"), KeySetError::NotAKeySet("it is a page of HTML or XML"));
        assert_eq!(error("{}"), KeySetError::NotAKeySet("it has no `keys`"));
        assert_eq!(
            error("{\"keys\":[]}"),
            KeySetError::NoUsableKey { skipped: Vec::new(), is_exposed: false }
        );
        assert_eq!(
            error(&format!("{{\"keys\":[{}]}}", vec!["{}"; 257].join(","))),
            KeySetError::TooManyKeys
        );
        assert_eq!(
            error(&format!("{{\"keys\":[{}]}}", vec!["0"; MAX_BYTES / 2 - 8].join(","))),
            KeySetError::TooManyKeys
        );
        let large = format!(r#"{{"kid":"a","x5c":["{}"],{ED}}}"#, "x".repeat(jwk::MAX_KEY));
        let error_text = error(&format!("{{\"keys\":[{large}]}}")).to_string();
        assert!(
            error_text.ends_with("a key without kid: it is larger than 64 KiB"),
            "{error_text}"
        );
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
