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
    /// The credential's `iat` in whole seconds. 0 if it has none, so that every revocation time
    /// revokes it.
    pub issued_at: u64,
    /// Complete keys of other services' denylists.
    pub foreign: Vec<String>,
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
            issued_at,
            foreign,
        }
    }

    /// Returns SHA-256 of the credential's `jti`.
    pub fn jti_digest(&self) -> Option<&[u8; 32]> {
        self.jti.as_ref()
    }

    /// Returns the entries that revoke by their existence: kind and key below
    /// `{tollgate}:revoked:`, in the format of [`Target::key`](super::Target::key).
    pub fn exact(&self) -> impl Iterator<Item = (&'static str, String)> {
        self.exact_entries().map(|mark| (mark.kind.label(), mark.key()))
    }

    /// Returns the entries that contain a time T in seconds and revoke credentials issued at or
    /// before T: kind and key, as for [`Keys::exact`].
    pub fn before(&self) -> impl Iterator<Item = (&'static str, String)> {
        self.before_entries().map(|mark| (mark.kind.label(), mark.key()))
    }

    /// Returns the entries of [`Keys::exact`] without writing out their keys.
    pub fn exact_entries(&self) -> impl Iterator<Item = EntryKey<'_>> {
        std::iter::once(self.token()).chain(self.jti.as_ref().map(|jti| self.entry(Kind::Jti, jti)))
    }

    /// Returns the entries of [`Keys::before`] without writing out their keys.
    pub fn before_entries(&self) -> impl Iterator<Item = EntryKey<'_>> {
        let client = self.client().filter(|client| !self.is_subject(*client));
        std::iter::once(self.subject()).chain(client).chain(self.tenant())
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
        let keys = Keys::new(names, 0, Vec::new());
        let listed: Vec<_> = keys.exact().chain(keys.before()).collect();
        let issuer = || "i".to_owned();
        let targets = [
            Target::Token { sha256: [7; 32] },
            Target::Jti { issuer: issuer(), jti: "j".into() },
            Target::Subject { issuer: issuer(), subject: "s".into() },
            Target::Client { issuer: issuer(), client: "c".into() },
            Target::Tenant { tenant: "t".into() },
        ];
        assert_eq!(listed, targets.map(|target| (target.kind(), target.key())));
        assert_eq!(keys.before().count(), 3);
        let bare =
            Keys::new(Names { jti: None, client: None, tenant: None, ..names }, 0, Vec::new());
        assert_eq!((bare.exact().count(), bare.before().count()), (1, 1));
        let fingerprints = |marks: Vec<EntryKey<'_>>| {
            marks.into_iter().map(|mark| Some(mark.fingerprint())).collect::<Vec<_>>()
        };
        let of_keys: Vec<_> = listed.iter().map(|(_, key)| Fingerprint::of(key)).collect();
        assert_eq!(
            fingerprints(keys.exact_entries().chain(keys.before_entries()).collect()),
            of_keys
        );
        assert!(of_keys.iter().all(Option::is_some));
        for entry in keys.exact_entries().chain(keys.before_entries()) {
            let mut written = Vec::new();
            entry.write(&mut written);
            assert_eq!(entry.key().as_bytes(), written, "both forms of a key are equal");
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
            keys.before().map(|(_, key)| key).collect::<Vec<_>>()
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
