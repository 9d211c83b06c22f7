//! The keys of the ledger: MACs of entries, names of persons, and the keys that seal them.

use std::fmt;

use aws_lc_rs::hmac;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

use crate::secret::Secret;

/// The shortest key, in bytes: the strength of the MAC.
pub const MIN_KEY: usize = 32;

/// The MAC of an entry: HMAC-SHA-256 (RFC 2104).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Mac([u8; 32]);

impl Mac {
    /// The bytes of the MAC.
    pub(super) const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads the text of a MAC, in base64url; `None` where it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
        Some(Self(bytes.try_into().ok()?))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| de::Error::custom("it is no MAC"))
    }
}

/// The reason why there are no [`LedgerKeys`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LedgerKeyError {
    /// There is no key.
    #[error("the ledger has no key")]
    Missing,
    /// A key is too short.
    #[error("a key of the ledger has fewer than {MIN_KEY} bytes")]
    Short,
}

/// The keys of the ledger with their names. The first one signs, all of them verify.
#[derive(Clone, Debug)]
pub struct LedgerKeys {
    first: LedgerKey,
    others: Vec<LedgerKey>,
}

/// One key, and the keys that are derived from it, each for one use.
#[derive(Clone, Debug)]
pub struct LedgerKey {
    id: String,
    entries: hmac::Key,
    persons: hmac::Key,
    boxes: hmac::Key,
}

impl LedgerKeys {
    /// Takes keys with their names.
    ///
    /// # Errors
    /// There is none, or one is too short.
    pub fn new(keys: Vec<(String, Secret)>) -> Result<Self, LedgerKeyError> {
        keys.iter().try_for_each(|(_, secret)| Self::check(secret))?;
        let mut keys = keys.into_iter().map(|(id, secret)| LedgerKey::new(id, &secret));
        let first = keys.next().ok_or(LedgerKeyError::Missing)?;
        Ok(Self { first, others: keys.collect() })
    }

    /// Checks the length of a key.
    ///
    /// # Errors
    /// [`LedgerKeyError::Short`].
    pub fn check(secret: &Secret) -> Result<(), LedgerKeyError> {
        if secret.expose().len() < MIN_KEY { Err(LedgerKeyError::Short) } else { Ok(()) }
    }

    /// The key that signs.
    pub fn first(&self) -> &LedgerKey {
        &self.first
    }

    /// All keys, the first one first.
    pub fn all(&self) -> impl Iterator<Item = &LedgerKey> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// The key with a name.
    pub fn get(&self, id: &str) -> Option<&LedgerKey> {
        self.all().find(|key| key.id == id)
    }
}

impl LedgerKey {
    fn new(id: String, secret: &Secret) -> Self {
        let root = hmac::Key::new(hmac::HMAC_SHA256, secret.expose());
        let derived = |use_of_key: &str| {
            let bytes = hmac::sign(&root, use_of_key.as_bytes());
            hmac::Key::new(hmac::HMAC_SHA256, bytes.as_ref())
        };
        Self {
            id,
            entries: derived("tollgate ledger entries"),
            persons: derived("tollgate ledger persons"),
            boxes: derived("tollgate ledger boxes"),
        }
    }

    /// The name of the key.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The MAC of the text of an entry.
    pub fn mac(&self, text: &str) -> Mac {
        Mac(bytes(hmac::sign(&self.entries, text.as_bytes()).as_ref()))
    }

    /// Whether a MAC is that of the text of an entry.
    pub fn has_signed(&self, text: &str, Mac(mac): Mac) -> bool {
        hmac::verify(&self.entries, text.as_bytes(), &mac).is_ok()
    }

    /// The name of a person in the ledger: without the key, it leads to no subject.
    pub(super) fn person(&self, issuer: &str, subject: &str) -> [u8; 32] {
        let name = format!("{}:{issuer}{subject}", issuer.len());
        bytes(hmac::sign(&self.persons, name.as_bytes()).as_ref())
    }

    /// The key that seals what the ledger has of a person whose random part this is.
    pub(super) fn box_key(&self, random: &[u8; 32]) -> [u8; 32] {
        bytes(hmac::sign(&self.boxes, random).as_ref())
    }
}

fn bytes(from: &[u8]) -> [u8; 32] {
    std::array::from_fn(|at| from.get(at).copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(names: &[&str]) -> LedgerKeys {
        let key = |name: &&str| ((*name).to_owned(), Secret::new(name.repeat(MIN_KEY)));
        LedgerKeys::new(names.iter().map(key).collect()).unwrap()
    }

    #[test]
    fn the_first_key_signs_and_each_verifies_its_own() {
        let (before, after) = (keys(&["a"]), keys(&["b", "a"]));
        let mac = before.first().mac("text");
        assert_eq!(Mac::parse(&mac.to_string()), Some(mac));
        assert!(after.get("a").unwrap().has_signed("text", mac));
        assert!(!after.get("a").unwrap().has_signed("texts", mac));
        assert!(!after.first().has_signed("text", mac));
        assert!(after.get("c").is_none());
    }

    #[test]
    fn keys_have_a_length() {
        let short = ("a".to_owned(), Secret::new(vec![1; MIN_KEY - 1]));
        assert_eq!(LedgerKeys::new(vec![short]).unwrap_err(), LedgerKeyError::Short);
        assert_eq!(LedgerKeys::new(Vec::new()).unwrap_err(), LedgerKeyError::Missing);
    }

    #[test]
    fn two_persons_have_two_names() {
        let keys = keys(&["a"]);
        let names = [("ab", "c"), ("a", "bc"), ("", "abc"), ("1:a", "b")];
        let mut found: Vec<_> =
            names.iter().map(|(issuer, subject)| keys.first().person(issuer, subject)).collect();
        found.sort_unstable();
        found.dedup();
        assert_eq!(found.len(), names.len());
    }
}
