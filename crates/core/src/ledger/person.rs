//! What the ledger has of a person, sealed with a key of that person.
//!
//! The store has a random part of the key for each person. Without it, or without the key of the
//! ledger, the box cannot be opened: to erase a person is to remove the random part, and the chain
//! stays as it is.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use super::keys::{LedgerKey, LedgerKeys};
use crate::{limit::request_facts::RequestFacts, text::hex};

/// The bytes of a nonce.
const NONCE: usize = 12;

/// The random part of a person's key, which the store has.
#[derive(Clone, Copy)]
pub struct PersonKey(pub [u8; 32]);

impl std::fmt::Debug for PersonKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[secret]")
    }
}

impl PersonKey {
    /// Reads the random part as the store has it; `None` where it is none.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

/// A person as the store knows it.
#[derive(Clone, Debug)]
pub struct KnownPerson {
    /// The name that records have. It is random: after an erasure nothing leads from the subject to it,
    /// not even the key of the ledger.
    pub name: String,
    /// The random part of its key.
    pub part: PersonKey,
}

impl KnownPerson {
    /// A person with random bytes: those of the name, and those of the key.
    pub fn of(name: [u8; 16], part: [u8; 32]) -> Self {
        Self { name: hex(&name), part: PersonKey(part) }
    }
}

/// What a record has of a person.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// The issuer of the credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The subject of the credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The client of the credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// The id of the API key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<String>,
    /// The actor for the subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
}

impl Person {
    /// The part of the facts of a request that concerns a person; `None` on a public route.
    pub fn of(facts: &RequestFacts) -> Option<Self> {
        facts.subject.as_ref()?;
        Some(Self {
            issuer: facts.issuer.clone(),
            subject: facts.subject.clone(),
            client: facts.client.clone(),
            api_key: facts.key.clone(),
            actor: facts.actor.clone(),
        })
    }

    /// The name of the person by the key that signs: under it a store has the name that records have.
    pub fn name(&self, key: &LedgerKey) -> String {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        name_of(key, &text(&self.issuer), &text(&self.subject))
    }

    /// Seals the person. A nonce is used once.
    pub fn seal(&self, key: &LedgerKey, person: PersonKey, nonce: [u8; NONCE]) -> Option<String> {
        let mut bytes = serde_json::to_vec(self).ok()?;
        let sealing = box_key(key, person)?;
        let used = Nonce::assume_unique_for_key(nonce);
        sealing.seal_in_place_append_tag(used, Aad::empty(), &mut bytes).ok()?;
        let sealed: Vec<u8> = nonce.into_iter().chain(bytes).collect();
        Some(BASE64_URL_SAFE_NO_PAD.encode(sealed))
    }

    /// Opens a box; `None` where the keys do not fit.
    pub fn open(sealed: &str, key: &LedgerKey, person: PersonKey) -> Option<Self> {
        let mut bytes = BASE64_URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (nonce, content) = bytes.split_at_mut_checked(NONCE)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let content = box_key(key, person)?.open_in_place(nonce, Aad::empty(), content).ok()?;
        serde_json::from_slice(content).ok()
    }
}

/// The names of a subject by the keys of the ledger, one for each of them.
pub fn names(keys: &LedgerKeys, issuer: &str, subject: &str) -> Vec<String> {
    keys.all().map(|key| name_of(key, issuer, subject)).collect()
}

fn name_of(key: &LedgerKey, issuer: &str, subject: &str) -> String {
    let name = key.person(issuer, subject);
    hex(name.first_chunk::<16>().unwrap_or(&[0; 16]))
}

fn box_key(key: &LedgerKey, PersonKey(random): PersonKey) -> Option<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, &key.box_key(&random)).ok().map(LessSafeKey::new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    #[test]
    fn a_box_opens_with_the_key_of_its_person_only() {
        let secret = |byte: u8| Secret::new(vec![byte; 32]);
        let keys = vec![("a".to_owned(), secret(1)), ("b".to_owned(), secret(2))];
        let keys = LedgerKeys::new(keys).unwrap();
        let alice = Person { subject: Some("alice".into()), ..Person::default() };
        let sealed = alice.seal(keys.first(), PersonKey([7; 32]), [3; 12]).unwrap();
        assert!(!sealed.contains("alice"));
        assert_eq!(Person::open(&sealed, keys.first(), PersonKey([7; 32])), Some(alice.clone()));
        assert_eq!(Person::open(&sealed, keys.first(), PersonKey([8; 32])), None);
        assert_eq!(Person::open(&sealed, keys.get("b").unwrap(), PersonKey([7; 32])), None);
        assert_eq!(Person::open("AAAA", keys.first(), PersonKey([7; 32])), None);
        assert_eq!(names(&keys, "", "alice")[0], alice.name(keys.first()));
        assert_eq!(names(&keys, "", "alice").len(), 2);
    }

    #[test]
    fn a_request_without_a_credential_has_no_person() {
        assert_eq!(Person::of(&RequestFacts::default()), None);
    }
}
