//! The record of a key: whom it is for, and what it may be used for.

use std::collections::BTreeMap;

use super::digest::KeyDigest;
use crate::{
    identity::{Holder, KeyId, KeyTerms},
    network::Networks,
    time::{Rate, Timestamp},
};

/// The record of a key, as a source stores it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// The id, which survives rotation.
    pub id: KeyId,
    /// The secret in force.
    pub current: KeySecret,
    /// The secret before the last rotation, for as long as it has grace.
    pub previous: Option<PreviousSecret>,
    /// The subject that requests with the key have.
    pub subject: Box<str>,
    /// The kind of the subject.
    pub holder: Holder,
    /// The tenant of the subject.
    pub tenant: Option<Box<str>>,
    /// The person or team that is responsible for the key. Limits and revocations know it as the
    /// client of the credential.
    pub owner: Option<Box<str>>,
    /// The scopes that are granted.
    pub scopes: Box<[String]>,
    /// The models that the key may be used for, by their policy names. `None`: those that the
    /// policy allows.
    pub models: Option<Box<[Box<str>]>>,
    /// The tier, which overrides of limits select by.
    pub tier: Option<Box<str>>,
    /// The rates for limits of the policy, by their names.
    pub limits: Box<[(Box<str>, Rate)]>,
    /// The networks from which the key may be used. `None`: every network.
    pub networks: Option<Networks>,
    /// Labels for people and tools; no decision reads them.
    pub labels: BTreeMap<String, String>,
    /// When the key was created.
    pub created: Timestamp,
    /// When the key ends.
    pub expires: Timestamp,
}

/// One secret of a key, by its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySecret {
    /// The digest of the whole key.
    pub digest: KeyDigest,
    /// When the secret was issued.
    pub issued: Timestamp,
    /// Whether the secret was imported in a foreign format. It is found by its digest then, and its
    /// strength is unknown.
    pub weak: bool,
}

/// The secret before a rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreviousSecret {
    /// The secret itself.
    pub secret: KeySecret,
    /// The end of its grace.
    pub until: Timestamp,
}

impl KeyRecord {
    /// Puts another secret in force. The one before it is accepted until `grace_ends`; one of an
    /// earlier rotation is not accepted any more, so that there are two at most.
    #[must_use]
    pub fn rotated(
        self,
        digest: KeyDigest,
        now: Timestamp,
        grace_ends: Timestamp,
        expires: Timestamp,
    ) -> Self {
        let previous = (grace_ends > now)
            .then_some(PreviousSecret { secret: self.current, until: grace_ends });
        let current = KeySecret { digest, issued: now, weak: false };
        Self { current, previous, expires, ..self }
    }

    /// Returns the secrets, with the time from which each is not accepted any more.
    pub fn secrets(&self) -> impl Iterator<Item = (&KeySecret, Timestamp)> {
        let previous = self.previous.as_ref();
        let previous = previous.map(|old| (&old.secret, old.until.min(self.expires)));
        std::iter::once((&self.current, self.expires)).chain(previous)
    }

    /// Returns the terms of the key for a principal whose credential is `secret`.
    pub(super) fn terms(&self, secret: &KeySecret, serial: u64) -> KeyTerms {
        KeyTerms {
            id: self.id,
            serial,
            models: self.models.clone(),
            networks: self.networks.clone(),
            tier: self.tier.clone(),
            limits: self.limits.clone(),
            weak: secret.weak,
        }
    }
}
