//! The keys under which a credential can be revoked.

use std::sync::Arc;

use super::{Fingerprint, Kind, fingerprint::first_half, sha256};
use crate::text::{hex, hex_digits, push_hex};

/// The keys under which one credential can be revoked.
///
/// The digests are computed once, when the credential is verified. A store writes out the keys that
/// it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    issuer: Arc<IssuerDigest>,
    token: [u8; 32],
    jti: Option<[u8; 32]>,
    subject: [u8; 32],
    subject_is_client: bool,
    client: Option<[u8; 32]>,
    tenant: Option<[u8; 32]>,
    kid: Option<[u8; 32]>,
    further: Box<[FurtherEntry]>,
    /// The credential's `iat` in whole seconds. 0 if it has none, so that every revocation time
    /// revokes it.
    pub issued_at: u64,
    /// Complete keys of other services' denylists.
    pub foreign: Vec<String>,
}

/// An entry with a moment that few credentials have: of an actor, or of another name of the subject.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FurtherEntry {
    kind: Kind,
    issuer: Arc<IssuerDigest>,
    digest: [u8; 32],
}

/// SHA-256 of an `iss`, shared by all tokens of an issuer: in hex, and its first half.
#[derive(Debug, PartialEq, Eq)]
pub struct IssuerDigest {
    hex: String,
    half: [u64; 2],
}

/// Returns the digest of an `iss`.
pub fn issuer_digest(issuer: &str) -> Arc<IssuerDigest> {
    let digest = sha256(issuer.as_bytes());
    Arc::new(IssuerDigest { hex: hex(&digest), half: first_half(&digest) })
}

/// The names by which a credential can be revoked, before they are hashed.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    /// The [`issuer_digest`] of its issuer.
    pub issuer: &'a Arc<IssuerDigest>,
    /// The [`token_digest`](super::token_digest) of the token.
    pub token: [u8; 32],
    /// The token's `jti`.
    pub jti: Option<&'a str>,
    /// The subject's name.
    pub subject: &'a str,
    /// Whether the subject is the id of a client, whose entries apply to it in place of those of a
    /// subject with the same name.
    pub subject_is_client: bool,
    /// The client's id.
    pub client: Option<&'a str>,
    /// The tenant's name.
    pub tenant: Option<&'a str>,
}

impl Keys {
    /// Computes the keys of a credential issued at `issued_at` (seconds; 0 if unknown).
    pub fn new(names: Names<'_>, issued_at: u64, foreign: Vec<String>) -> Self {
        let digest = |text: &str| sha256(text.as_bytes());
        Self {
            issuer: Arc::clone(names.issuer),
            token: names.token,
            jti: names.jti.map(digest),
            subject: digest(names.subject),
            subject_is_client: names.subject_is_client,
            client: names.client.map(digest),
            tenant: names.tenant.map(digest),
            kid: None,
            further: Box::default(),
            issued_at,
            foreign,
        }
    }

    /// Adds the name of the key that signed the credential.
    #[must_use]
    pub fn with_kid(self, kid: &str) -> Self {
        Self { kid: Some(sha256(kid.as_bytes())), ..self }
    }

    /// Adds the actors of the credential: the issuer of each name, and the name.
    #[must_use]
    pub fn with_actors<'a>(
        self,
        actors: impl Iterator<Item = (Arc<IssuerDigest>, &'a str)>,
    ) -> Self {
        self.with_further(
            actors.map(|(issuer, name)| (Kind::Actor, issuer, sha256(name.as_bytes()))),
        )
    }

    /// Adds another name of the subject, within the same issuer: the SPIFFE ID of a workload whose
    /// subject is a part of it.
    #[must_use]
    pub fn with_subject_alias(self, name: &str) -> Self {
        let alias = (Kind::Subject, Arc::clone(&self.issuer), sha256(name.as_bytes()));
        self.with_further(std::iter::once(alias))
    }

    fn with_further(
        self,
        entries: impl Iterator<Item = (Kind, Arc<IssuerDigest>, [u8; 32])>,
    ) -> Self {
        let entries = entries.map(|(kind, issuer, digest)| FurtherEntry { kind, issuer, digest });
        Self { further: self.further.iter().cloned().chain(entries).collect(), ..self }
    }

    /// Returns the size of what the keys point to and do not share, in bytes.
    pub fn heap_size(&self) -> usize {
        let foreign = self.foreign.iter().map(|key| size_of::<String>() + key.len());
        size_of_val(&*self.further) + foreign.sum::<usize>()
    }

    /// Returns SHA-256 of the credential's `jti`.
    pub fn jti_digest(&self) -> Option<&[u8; 32]> {
        self.jti.as_ref()
    }

    /// Returns the entries that revoke by their existence: kind and key below
    /// `{tollgate}:revoked:`, in the format of [`Target::key`](super::Target::key).
    pub fn exact(&self) -> impl Iterator<Item = (&'static str, String)> {
        self.exact_entries().chain(self.kid()).map(|mark| (mark.kind.label(), mark.key()))
    }

    /// Returns the entries that contain a time T in seconds and revoke credentials issued at or
    /// before T: kind and key, as for [`Keys::exact`].
    pub fn before(&self) -> impl Iterator<Item = (&'static str, String)> {
        let entries = self.before_entries().chain(self.agent_entries());
        entries.map(|mark| (mark.kind.label(), mark.key()))
    }

    /// Returns the entries of [`Keys::exact`] without writing out their keys, except
    /// [`kid`](Self::kid).
    pub fn exact_entries(&self) -> impl Iterator<Item = EntryKey<'_>> {
        std::iter::once(self.token()).chain(self.jti.as_ref().map(|jti| self.entry(Kind::Jti, jti)))
    }

    /// Returns the entries of [`Keys::before`] without writing out their keys, except
    /// [`agent_entries`](Self::agent_entries). That of the subject is the first.
    pub fn before_entries(&self) -> impl Iterator<Item = EntryKey<'_>> {
        let further = self.further.iter().map(FurtherEntry::key);
        std::iter::once(self.subject())
            .chain(self.other_client())
            .chain(self.tenant())
            .chain(further)
    }

    /// Returns the entries of the subject and the client as actors: an agent may hold a credential
    /// itself. A store looks them up only while some actor is revoked or banned.
    pub fn agent_entries(&self) -> impl Iterator<Item = EntryKey<'_>> {
        let is_holder = |entry: &EntryKey<'_>| matches!(entry.kind, Kind::Subject | Kind::Client);
        let holders = self.before_entries().filter(is_holder);
        holders.map(|entry| EntryKey { kind: Kind::Actor, ..entry })
    }

    /// Returns the entry of the key that signed the credential. A store looks it up only while some
    /// signing key is revoked.
    pub fn kid(&self) -> Option<EntryKey<'_>> {
        self.kid.as_ref().map(|kid| self.entry(Kind::Kid, kid))
    }

    /// Returns the entry of a client that is not the subject.
    fn other_client(&self) -> Option<EntryKey<'_>> {
        self.client().filter(|client| !self.is_subject(*client))
    }

    /// Returns the entry of the credential itself.
    pub fn token(&self) -> EntryKey<'_> {
        self.entry(Kind::Token, &self.token)
    }

    /// Returns the entry of the subject: that of a client where the subject is one.
    pub fn subject(&self) -> EntryKey<'_> {
        let kind = if self.subject_is_client { Kind::Client } else { Kind::Subject };
        self.entry(kind, &self.subject)
    }

    /// Whether the subject is the id of a client.
    pub fn is_subject_client(&self) -> bool {
        self.subject_is_client
    }

    /// Whether an entry of the client is that of the subject as well.
    fn is_subject(&self, client: EntryKey<'_>) -> bool {
        self.subject_is_client && *client.digest == self.subject
    }

    /// Returns the entry of the client.
    pub fn client(&self) -> Option<EntryKey<'_>> {
        self.client.as_ref().map(|client| self.entry(Kind::Client, client))
    }

    /// Returns the entry of the tenant.
    pub fn tenant(&self) -> Option<EntryKey<'_>> {
        self.tenant.as_ref().map(|tenant| self.entry(Kind::Tenant, tenant))
    }

    /// Returns the fingerprint of the issuer. No entry has it.
    pub fn issuer(&self) -> Fingerprint {
        Fingerprint::from_halves(self.issuer.half)
    }

    /// Returns the fingerprint of the tenant within its issuer, under which limits count it. No
    /// entry has it.
    pub fn tenant_of_issuer(&self) -> Option<Fingerprint> {
        let tenant = self.tenant.as_ref()?;
        Some(Fingerprint::new(Kind::Tenant, self.issuer.half, first_half(tenant)))
    }

    fn entry<'a>(&'a self, kind: Kind, digest: &'a [u8; 32]) -> EntryKey<'a> {
        EntryKey { kind, issuer: &self.issuer, digest }
    }
}

impl FurtherEntry {
    fn key(&self) -> EntryKey<'_> {
        EntryKey { kind: self.kind, issuer: &self.issuer, digest: &self.digest }
    }
}

/// The key of one entry that revokes a credential, not written out yet.
#[derive(Clone, Copy, Debug)]
pub struct EntryKey<'a> {
    kind: Kind,
    issuer: &'a IssuerDigest,
    digest: &'a [u8; 32],
}

impl EntryKey<'_> {
    /// Returns the kind of the entry.
    pub const fn kind(self) -> Kind {
        self.kind
    }

    /// Returns the key in the format of [`Target::key`](super::Target::key).
    pub fn key(self) -> String {
        let mut key = String::with_capacity(8 + 2 * 65);
        key.push_str(self.kind.label());
        key.push(':');
        if self.kind.is_issuer_scoped() {
            key.push_str(&self.issuer.hex);
            key.push(':');
        }
        push_hex(&mut key, self.digest);
        key
    }

    /// Appends the [`key`](Self::key) to a buffer.
    pub fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.kind.label().as_bytes());
        out.push(b':');
        if self.kind.is_issuer_scoped() {
            out.extend_from_slice(self.issuer.hex.as_bytes());
            out.push(b':');
        }
        out.extend_from_slice(hex_digits(self.digest).as_flattened());
    }

    /// Returns the last part of the key: the digest of the name, in hex.
    pub fn digits(self) -> [u8; 64] {
        let mut digits = [0; 64];
        digits.copy_from_slice(hex_digits(self.digest).as_flattened());
        digits
    }

    /// Returns the fingerprint of the key.
    pub fn fingerprint(self) -> Fingerprint {
        let issuer = if self.kind.is_issuer_scoped() { self.issuer.half } else { [0; 2] };
        Fingerprint::new(self.kind, issuer, first_half(self.digest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revocation::Target;

    #[test]
    fn a_credential_and_a_target_have_the_same_keys() {
        let names = Names {
            issuer: &issuer_digest("i"),
            token: [7; 32],
            jti: Some("j"),
            subject: "s",
            subject_is_client: false,
            client: Some("c"),
            tenant: Some("t"),
        };
        let actors = [(issuer_digest("i"), "a"), (issuer_digest("other"), "b")];
        let keys = Keys::new(names, 0, Vec::new())
            .with_kid("k")
            .with_actors(actors.into_iter())
            .with_subject_alias("spiffe://d/s");
        let listed: Vec<_> = keys.exact().chain(keys.before()).collect();
        let issuer = || "i".to_owned();
        let actor = |issuer: &str, actor: &str| Target::Actor {
            issuer: issuer.into(),
            actor: actor.into(),
        };
        let targets = [
            Target::Token { sha256: [7; 32] },
            Target::Jti { issuer: issuer(), jti: "j".into() },
            Target::Kid { issuer: issuer(), kid: "k".into() },
            Target::Subject { issuer: issuer(), subject: "s".into() },
            Target::Client { issuer: issuer(), client: "c".into() },
            Target::Tenant { tenant: "t".into() },
            actor("i", "a"),
            actor("other", "b"),
            Target::Subject { issuer: issuer(), subject: "spiffe://d/s".into() },
            actor("i", "s"),
            actor("i", "c"),
            actor("i", "spiffe://d/s"),
        ];
        assert_eq!(listed, targets.map(|target| (target.kind(), target.key())));
        let bare =
            Keys::new(Names { jti: None, client: None, tenant: None, ..names }, 0, Vec::new());
        assert_eq!((bare.exact_entries().count(), bare.before_entries().count()), (1, 1));
        assert_eq!((bare.kid().is_none(), bare.agent_entries().count()), (true, 1));
        let of_keys: Vec<_> = listed.iter().map(|(_, key)| Fingerprint::of(key)).collect();
        assert!(of_keys.iter().all(Option::is_some));
        let exact = keys.exact_entries().chain(keys.kid());
        let before = keys.before_entries().chain(keys.agent_entries());
        let entries: Vec<_> = exact.chain(before).collect();
        let fingerprints: Vec<_> = entries.iter().map(|entry| Some(entry.fingerprint())).collect();
        assert_eq!(fingerprints, of_keys);
        for entry in entries {
            let mut written = Vec::new();
            entry.write(&mut written);
            assert_eq!(entry.key().as_bytes(), written, "both forms of a key are equal");
            assert!(written.ends_with(&entry.digits()));
        }
    }

    #[test]
    fn a_client_without_a_subject_has_the_entries_of_the_client_only() {
        let issuer = issuer_digest("i");
        let user = Names {
            issuer: &issuer,
            token: [7; 32],
            jti: None,
            subject: "alice",
            subject_is_client: false,
            client: Some("chat-ui"),
            tenant: None,
        };
        let entries = |names: Names<'_>| {
            let keys = Keys::new(names, 0, Vec::new());
            keys.before_entries().map(EntryKey::key).collect::<Vec<_>>()
        };
        let issuer = || "i".to_owned();
        let subject = |name: &str| Target::Subject { issuer: issuer(), subject: name.into() }.key();
        let client = |name: &str| Target::Client { issuer: issuer(), client: name.into() }.key();
        assert_eq!(entries(user), [subject("alice"), client("chat-ui")]);
        let own = Names { subject_is_client: true, client: Some("alice"), ..user };
        assert_eq!(entries(own), [client("alice")]);
        let other = Names { subject_is_client: true, ..user };
        assert_eq!(entries(other), [client("alice"), client("chat-ui")]);
    }
}
