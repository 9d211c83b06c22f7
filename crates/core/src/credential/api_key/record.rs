//! The record of a key: whom it is for, and what it may be used for.

use std::collections::BTreeMap;

use super::{digest::KeyDigest, lifetimes::KeyLifetimes};
use crate::{
    identity::{Holder, KeyId, KeyTerms},
    network::Networks,
    time::{Quota, Span, Timestamp},
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
    /// The quotas for limits of the policy, by their names.
    pub limits: Box<[(Box<str>, Quota)]>,
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

/// The state of a key at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyState {
    /// The key is accepted.
    Active,
    /// The key is accepted, and its secret has a foreign format.
    Weak,
    /// The key is accepted with the secret in force, and with the one before it.
    Rotating,
    /// The key has ended.
    Expired,
}

impl KeyState {
    /// Returns the word for the state: `active`, `weak`, `rotating`, `expired`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Weak => "weak",
            Self::Rotating => "rotating",
            Self::Expired => "expired",
        }
    }
}

/// The time before its end in which a key is expiring.
pub const EXPIRING: Span = Span::from_secs(7 * 86_400);

impl KeyRecord {
    /// Returns the state of the key at `now`, under lifetimes that may end it before `expires`.
    pub fn state(&self, now: Timestamp, lifetimes: &KeyLifetimes) -> KeyState {
        if self.end(lifetimes) <= now {
            KeyState::Expired
        } else if self.previous.as_ref().is_some_and(|previous| previous.until > now) {
            KeyState::Rotating
        } else if self.current.weak {
            KeyState::Weak
        } else {
            KeyState::Active
        }
    }

    /// Returns the moment from which the secret in force is not accepted any more.
    pub fn end(&self, lifetimes: &KeyLifetimes) -> Timestamp {
        self.expires.min(lifetimes.latest(self.current.issued))
    }

    /// Puts another secret in force. The one before it is accepted until `grace_ends`, and never
    /// beyond its own end; one of an earlier rotation is not accepted any more, so that there are two
    /// at most.
    #[must_use]
    pub fn rotated(
        self,
        digest: KeyDigest,
        now: Timestamp,
        grace_ends: Timestamp,
        expires: Timestamp,
    ) -> Self {
        let until = grace_ends.min(self.expires);
        let previous = (until > now).then_some(PreviousSecret { secret: self.current, until });
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

#[cfg(test)]
mod tests {
    use super::*;

    fn record(members: &str) -> KeyRecord {
        let id: KeyId = "7Jk2mN4pQ8rT".parse().unwrap();
        let digests = ["a", "b"].map(|digit| digit.repeat(64));
        let text = format!(
            r#"{{"id":"{id}","digest":"sha256:{}","subject":"ci","created":"2026-01-01T00:00:00Z",
                "expires":"2026-03-01T00:00:00Z"{members}}}"#,
            digests[0]
        );
        KeyRecord::from_stored(id, &text.replace("OTHER", &digests[1])).unwrap()
    }

    #[test]
    fn the_state_is_that_of_the_moment() {
        let plain = record("");
        let weak = record(r#","weak":true"#);
        let previous = r#","issued":"2026-01-10T00:00:00Z",
            "previous":{"digest":"sha256:OTHER","weak":true,"until":"2026-01-12T00:00:00Z"}"#;
        let rotated = record(previous);
        let month = KeyLifetimes::new(Span::from_secs(30 * 86_400), Span::from_secs(0));
        for (record, at, lifetimes, expected) in [
            (&plain, "2026-01-15", KeyLifetimes::UNBOUNDED, KeyState::Active),
            (&plain, "2026-03-01", KeyLifetimes::UNBOUNDED, KeyState::Expired),
            (&plain, "2026-01-30", month, KeyState::Active),
            (&plain, "2026-01-31", month, KeyState::Expired),
            (&weak, "2026-01-15", KeyLifetimes::UNBOUNDED, KeyState::Weak),
            (&rotated, "2026-01-11", KeyLifetimes::UNBOUNDED, KeyState::Rotating),
            (&rotated, "2026-01-12", KeyLifetimes::UNBOUNDED, KeyState::Active),
        ] {
            let now = crate::time::rfc3339::parse(&format!("{at}T00:00:00Z")).unwrap();
            assert_eq!(record.state(now, &lifetimes), expected, "{at}");
        }
    }
}
