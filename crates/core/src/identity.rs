//! The identity behind a proven credential, whatever its kind.

mod actor;
mod claim_path;
mod headers;
mod key_terms;
mod metadata;
mod packed;

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

pub(crate) use self::actor::Actors;
use self::packed::{PackedTexts, Texts};
pub use self::{
    actor::{Actor, MAX_ACTORS},
    claim_path::ClaimPath,
    headers::{IdentityHeader, IdentityHeaders, IdentityHeadersConfig},
    key_terms::{KeyId, KeyIdError, KeyTerms},
    metadata::{DynamicMetadata, DynamicMetadataConfig, MetadataFact},
    packed::IdentityError,
};
use crate::{json::Json, revocation, time::Timestamp};

/// A kind of credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CredentialKind {
    /// A signed JWT.
    Jwt,
    /// An API key.
    ApiKey,
    /// A client certificate.
    Certificate,
    /// A signed JWT in a cookie.
    Cookie,
    /// An opaque token, of which its issuer states what it is.
    OpaqueToken,
    /// The kind that only unit tests have.
    #[cfg(test)]
    #[serde(skip)]
    Test,
}

impl CredentialKind {
    /// Every kind that a policy can name, in the order of declaration.
    pub const ALL: [Self; 5] =
        [Self::Jwt, Self::ApiKey, Self::Certificate, Self::Cookie, Self::OpaqueToken];

    /// The label of the kind, as `x-tollgate-credential` has it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Jwt => "jwt",
            Self::ApiKey => "api_key",
            Self::Certificate => "certificate",
            Self::Cookie => "cookie",
            Self::OpaqueToken => "opaque_token",
            #[cfg(test)]
            Self::Test => "test",
        }
    }

    /// The label of the kind where the subject is the id of a client, which a user may have as a
    /// name: `x-tollgate-credential` tells the upstream.
    pub const fn label_of_client(self) -> &'static str {
        match self {
            Self::Jwt => "jwt; subject=client",
            Self::ApiKey => "api_key; subject=client",
            Self::Certificate => "certificate; subject=client",
            Self::Cookie => "cookie; subject=client",
            Self::OpaqueToken => "opaque_token; subject=client",
            #[cfg(test)]
            Self::Test => "test; subject=client",
        }
    }

    /// Whether a credential of the kind states the resources that it is for.
    pub(crate) const fn has_audience(self) -> bool {
        matches!(self, Self::Jwt | Self::Cookie | Self::OpaqueToken)
    }
}

/// A set of kinds of credentials: those that a route accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CredentialKinds(u8);

impl CredentialKinds {
    /// Whether the set has a kind.
    pub const fn contains(self, kind: CredentialKind) -> bool {
        self.0 >> kind as u8 & 1 == 1
    }

    /// Whether every kind of the set is sent in a header of its own, by the client itself.
    pub(crate) const fn are_sent_by_clients(self) -> bool {
        let others = 1 << CredentialKind::Certificate as u8 | 1 << CredentialKind::Cookie as u8;
        self.0 & others == 0
    }

    /// Returns the labels of the kinds, in the order of [`CredentialKind::ALL`].
    pub fn labels(self) -> impl Iterator<Item = &'static str> {
        let has = move |kind: &CredentialKind| self.contains(*kind);
        CredentialKind::ALL.into_iter().filter(has).map(CredentialKind::label)
    }
}

impl FromIterator<CredentialKind> for CredentialKinds {
    fn from_iter<T: IntoIterator<Item = CredentialKind>>(kinds: T) -> Self {
        Self(kinds.into_iter().fold(0, |set, kind| set | 1 << kind as u8))
    }
}

/// The kind of the holder of a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A user: the credential has a claim that issuers write for users only.
    User,
    /// A client that acts for itself, or a workload: the subject is not a person.
    Client,
    /// Nothing in the credential tells one from the other.
    Unknown,
}

impl Holder {
    /// The word of audit lines and of `explain`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Client => "client",
            Self::Unknown => "unknown",
        }
    }
}

/// A marker that a set of keys owns, or one of its keys: equal to its clones and to nothing else.
///
/// Every result of a verification has a clone of the marker of what it used, so that the marker of
/// other keys is never equal to it.
#[derive(Clone, Debug, Default)]
pub struct Generation(Arc<()>);

impl Generation {
    /// A marker that differs from every other.
    pub fn new() -> Self {
        Self::default()
    }
}

impl PartialEq for Generation {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Generation {}

/// The keys that a verification used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyVersion {
    /// The source of the keys, by its index in the policy: for a JWT the issuer.
    pub source: usize,
    /// The generation of the keys.
    pub generation: Generation,
}

/// How long the result of a verification is valid, while the policy stays the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The moment of the verification.
    pub since: Timestamp,
    /// The moment from which the credential is not accepted any more, leeway included.
    pub until: Timestamp,
    /// The keys that were used. With other keys the result may be another.
    pub keys: KeyVersion,
}

impl Validity {
    /// Whether the result is valid at `now`, with the same keys.
    pub fn is_valid_at(&self, now: Timestamp) -> bool {
        (self.since..self.until).contains(&now)
    }
}

/// The claims of a credential that some condition of the policy reads.
#[derive(Clone, Debug, Default)]
pub struct Claims(Box<[(Arc<str>, Json)]>);

impl Claims {
    /// Keeps the claims `names` of an object.
    pub(crate) fn select(names: &[Arc<str>], object: &Json) -> Self {
        let kept = names.iter().filter_map(|name| {
            let value = object.get(name)?;
            Some((Arc::clone(name), value.clone()))
        });
        Self(kept.collect())
    }

    fn get(&self, name: &str) -> Option<&Json> {
        self.0.iter().find(|(known, _)| **known == *name).map(|(_, value)| value)
    }

    fn size(&self) -> usize {
        self.0.iter().map(|(name, value)| size_of_val(name) + value.size()).sum()
    }
}

/// An optional part of an identity, which only some routes use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The tenant of the subject.
    Tenant,
    /// The client of the credential.
    Client,
    /// The roles of the subject.
    Roles,
    /// The scopes of a whole claim.
    Scopes,
    /// The id of the credential, which only revocations use.
    Id,
}

/// What could not be read of a credential, where only some routes need it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Omitted {
    /// Why scopes were omitted, one sentence each.
    pub scopes: Vec<String>,
    /// The parts that were omitted, with the reason.
    pub parts: Vec<(Part, String)>,
}

impl Omitted {
    /// Whether nothing was omitted.
    pub fn is_empty(&self) -> bool {
        self.scopes.is_empty() && self.parts.is_empty()
    }

    /// Returns every reason.
    pub fn reasons(&self) -> impl Iterator<Item = &str> {
        self.scopes.iter().chain(self.parts.iter().map(|(_, why)| why)).map(String::as_str)
    }
}

/// The parts of a [`Principal`] that a credential states about its holder.
#[derive(Clone, Debug)]
pub struct Identity<'a> {
    /// The kind of the credential.
    pub kind: CredentialKind,
    /// The issuer; empty where the credential names none.
    pub issuer: Arc<str>,
    /// The subject of the credential.
    pub subject: &'a str,
    /// The kind of the subject.
    pub holder: Holder,
    /// The tenant of the subject.
    pub tenant: Option<&'a str>,
    /// Whether the tenant is fixed for the issuer, and not named by it.
    pub is_tenant_fixed: bool,
    /// The client that the credential was issued to.
    pub client: Option<&'a str>,
    /// The scopes that were granted.
    pub scopes: &'a [String],
    /// What could not be read, where only some routes need it.
    pub omitted: Omitted,
    /// The roles of the subject.
    pub roles: &'a [String],
    /// The claims that conditions read.
    pub claims: Claims,
    /// When the credential was issued, in whole seconds since 1970.
    pub issued_at: Option<u64>,
    /// When it expires, in whole seconds since 1970, rounded down.
    pub expires_at: u64,
}

/// Proof of identity: the holder of a credential that was verified.
#[derive(Clone, Debug)]
pub struct Principal {
    kind: CredentialKind,
    issuer: Arc<str>,
    texts: PackedTexts,
    holder: Holder,
    is_tenant_fixed: bool,
    /// `None` where nothing was omitted, which is the usual case.
    omitted: Option<Box<Omitted>>,
    claims: Claims,
    issued_at: Option<u64>,
    expires_at: u64,
    revocation: Arc<revocation::Keys>,
    validity: Validity,
    key: Option<Box<KeyTerms>>,
    confirmation: Option<Box<Confirmation>>,
    /// The audiences that routes require and the token has, by their places in the policy.
    audiences: Box<[usize]>,
    actors: Actors,
}

/// The keys that the client has to prove, where a credential is bound to some (RFC 7800): all of
/// them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Confirmation {
    /// The SHA-256 of the client's certificate: `x5t#S256` (RFC 8705 section 3.1).
    pub certificate: Option<[u8; 32]>,
    /// The SHA-256 thumbprint of the client's public key: `jkt` (RFC 9449 section 6.1).
    pub key: Option<[u8; 32]>,
}

impl Principal {
    /// The principal of a verified credential. Only the code that verifies credentials calls it.
    ///
    /// # Errors
    /// A text that cannot be kept.
    ///
    /// # Examples
    /// ```
    /// use tollgate_core::{
    ///     identity::{
    ///         Claims, CredentialKind, Generation, Holder, Identity, KeyVersion, Omitted,
    ///         Principal, Validity,
    ///     },
    ///     revocation::{Keys, Names, issuer_digest, sha256},
    ///     time::Timestamp,
    /// };
    ///
    /// let identity = Identity {
    ///     kind: CredentialKind::Jwt,
    ///     issuer: "https://auth.example.com".into(),
    ///     subject: "alice",
    ///     holder: Holder::User,
    ///     tenant: Some("acme"),
    ///     is_tenant_fixed: false,
    ///     client: None,
    ///     scopes: &["infer:text".to_owned()],
    ///     omitted: Omitted::default(),
    ///     roles: &[],
    ///     claims: Claims::default(),
    ///     issued_at: Some(1_800_000_000),
    ///     expires_at: 1_800_000_600,
    /// };
    /// let validity = Validity {
    ///     since: Timestamp::from_secs(1_800_000_000),
    ///     until: Timestamp::from_secs(1_800_000_600),
    ///     keys: KeyVersion { source: 0, generation: Generation::new() },
    /// };
    /// let names = Names {
    ///     issuer: &issuer_digest("https://auth.example.com"),
    ///     token: sha256(b"the signed part of the token"),
    ///     jti: None,
    ///     subject: "alice",
    ///     subject_is_client: false,
    ///     client: None,
    ///     tenant: Some("acme"),
    /// };
    /// let keys = Keys::new(names, 1_800_000_000, Vec::new());
    /// let alice = Principal::new(identity, validity, keys)?;
    /// assert_eq!((alice.subject(), alice.tenant()), ("alice", Some("acme")));
    /// assert!(alice.has_scope("infer:text"));
    /// assert!(!alice.validity().is_valid_at(Timestamp::from_secs(1_800_000_600)));
    /// # Ok::<(), tollgate_core::identity::IdentityError>(())
    /// ```
    pub fn new(
        identity: Identity<'_>,
        validity: Validity,
        revocation: revocation::Keys,
    ) -> Result<Self, IdentityError> {
        let Identity { kind, issuer, subject, tenant, client, scopes, roles, .. } = identity;
        let texts = PackedTexts::pack(Texts { subject, tenant, client, scopes, roles })?;
        Ok(Self {
            kind,
            issuer,
            texts,
            holder: identity.holder,
            is_tenant_fixed: identity.is_tenant_fixed,
            omitted: Some(identity.omitted).filter(|omitted| !omitted.is_empty()).map(Box::new),
            claims: identity.claims,
            issued_at: identity.issued_at,
            expires_at: identity.expires_at,
            revocation: Arc::new(revocation),
            validity,
            key: None,
            confirmation: None,
            audiences: Box::default(),
            actors: Actors::default(),
        })
    }

    /// Adds the terms of an API key.
    pub(crate) fn with_key(self, key: KeyTerms) -> Self {
        Self { key: Some(Box::new(key)), ..self }
    }

    /// Binds the credential to a key.
    pub(crate) fn with_confirmation(self, confirmation: Confirmation) -> Self {
        Self { confirmation: Some(Box::new(confirmation)), ..self }
    }

    /// The key that the credential is bound to; `None` for one that every client that
    /// has it may use.
    pub fn confirmation(&self) -> Option<&Confirmation> {
        self.confirmation.as_deref()
    }

    /// Adds the audiences of the policy's routes that the token has.
    pub(crate) fn with_audiences(self, audiences: Box<[usize]>) -> Self {
        Self { audiences, ..self }
    }

    /// Whether the token is for a resource of the policy.
    pub(crate) fn has_audience(&self, place: usize) -> bool {
        self.audiences.contains(&place)
    }

    /// The terms of the API key; `None` for credentials of other kinds.
    pub fn key(&self) -> Option<&KeyTerms> {
        self.key.as_deref()
    }

    /// The kind of the credential.
    pub fn kind(&self) -> CredentialKind {
        self.kind
    }

    /// The issuer of the credential; empty where it names none.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The subject of the credential.
    pub fn subject(&self) -> &str {
        self.texts.subject()
    }

    /// Whether the subject is the id of a client, because the credential has no subject of its own.
    ///
    /// Ids of clients and subjects are two name spaces: a client may have the name of a user.
    pub fn is_subject_client(&self) -> bool {
        self.revocation.is_subject_client()
    }

    /// The kind of the subject.
    pub fn holder(&self) -> Holder {
        self.holder
    }

    /// The tenant, from the credential or fixed for its issuer.
    pub fn tenant(&self) -> Option<&str> {
        self.texts.tenant()
    }

    /// Whether the tenant is fixed for the issuer. Issuers with the same fixed tenant share it.
    pub fn is_tenant_fixed(&self) -> bool {
        self.is_tenant_fixed
    }

    /// The client that the credential was issued to.
    pub fn client(&self) -> Option<&str> {
        self.texts.client()
    }

    /// The roles of the subject.
    pub fn roles(&self) -> impl Iterator<Item = &str> {
        self.texts.roles()
    }

    /// Whether the principal has exactly this role.
    pub fn has_role(&self, role: &str) -> bool {
        self.roles().any(|held| held == role)
    }

    /// The scopes, in the order of the credential.
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        self.scope_list().split_ascii_whitespace()
    }

    /// The scopes as one string with a space between them (RFC 6749 section 3.3).
    pub fn scope_list(&self) -> &str {
        self.texts.scope_list()
    }

    /// What could not be read of the credential, where only some routes need it.
    pub fn omitted(&self) -> Option<&Omitted> {
        self.omitted.as_deref()
    }

    /// Whether the principal has exactly this scope (RFC 6749 section 3.3: case-sensitive, no
    /// prefixes).
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scopes().any(|held| held == scope)
    }

    /// A claim that some condition or limit of the policy reads.
    pub(crate) fn claim(&self, name: &str) -> Option<&Json> {
        self.claims.get(name)
    }

    /// Adds the chain of actors.
    pub(crate) fn with_actors(self, actors: Actors) -> Self {
        Self { actors, ..self }
    }

    /// The actors for the subject, the current one first; none where it acts for itself.
    pub fn actors(&self) -> impl ExactSizeIterator<Item = Actor<'_>> {
        self.actors.iter(&self.issuer)
    }

    /// The current actor as one text: its name, or its issuer, U+001F and its name where the issuer
    /// is not that of the credential.
    pub fn actor_text(&self) -> Option<&str> {
        self.actors.current_text()
    }

    /// The current actor for the subject; `None` where it acts for itself.
    pub fn actor(&self) -> Option<Actor<'_>> {
        self.actors().next()
    }

    /// When the credential was issued, in whole seconds.
    pub fn issued_at(&self) -> Option<u64> {
        self.issued_at
    }

    /// When the credential expires, in whole seconds, rounded down.
    pub fn expires_at(&self) -> u64 {
        self.expires_at
    }

    /// How long the verification is valid, and with which keys.
    pub fn validity(&self) -> &Validity {
        &self.validity
    }

    /// The keys under which the credential could be revoked.
    pub fn revocation(&self) -> &Arc<revocation::Keys> {
        &self.revocation
    }

    /// The bytes it takes, what it points to included and what it shares left out.
    pub fn size(&self) -> usize {
        /// The revocation keys with their two reference counts.
        const KEYS: usize = size_of::<revocation::Keys>() + 2 * size_of::<usize>();
        let omitted = self.omitted().into_iter().flat_map(Omitted::reasons);
        let omitted = omitted.map(|text| size_of::<(Part, String)>() + text.len());
        size_of::<Self>()
            + KEYS
            + self.texts.len()
            + self.revocation.heap_size()
            + self.actors.heap_size()
            + omitted.sum::<usize>()
            + self.claims.size()
            + self.key.as_ref().map_or(0, |key| key.size())
            + size_of_val(&*self.audiences)
            + self.confirmation.as_ref().map_or(0, |_| size_of::<Confirmation>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revocation::{Keys, Names, issuer_digest};

    fn principal(tenant: Option<&str>, scopes: &[&str], roles: &[&str]) -> Principal {
        let owned = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let issuer = issuer_digest("i");
        let names = Names {
            issuer: &issuer,
            token: [0; 32],
            jti: None,
            subject: "ann",
            subject_is_client: false,
            client: None,
            tenant,
        };
        let identity = Identity {
            kind: CredentialKind::Jwt,
            issuer: "i".into(),
            subject: "ann",
            holder: Holder::User,
            tenant,
            is_tenant_fixed: false,
            client: None,
            scopes: &owned(scopes),
            omitted: Omitted::default(),
            roles: &owned(roles),
            claims: Claims::default(),
            issued_at: None,
            expires_at: 9,
        };
        let validity = Validity {
            since: Timestamp::from_secs(1),
            until: Timestamp::from_secs(9),
            keys: KeyVersion { source: 0, generation: Generation::new() },
        };
        Principal::new(identity, validity, Keys::new(names, 0, Vec::new())).unwrap()
    }

    #[test]
    fn every_part_comes_back_as_it_was() {
        let full = principal(Some("acme"), &["a:b", "c"], &["Premium User", "", "x"]);
        assert_eq!(
            (full.issuer(), full.subject(), full.tenant(), full.client(), full.issued_at()),
            ("i", "ann", Some("acme"), None, None)
        );
        assert_eq!(
            (full.scope_list(), full.scopes().collect::<Vec<_>>()),
            ("a:b c", vec!["a:b", "c"])
        );
        assert_eq!(full.roles().collect::<Vec<_>>(), ["Premium User", "", "x"]);
        assert!(
            full.has_role("Premium User")
                && !full.has_role("Premium")
                && full.has_scope("c")
                && !full.has_scope("a")
        );
        let bare = principal(None, &[], &[]);
        assert_eq!(
            (bare.tenant(), bare.scope_list(), bare.scopes().count(), bare.roles().count()),
            (None, "", 0, 0)
        );
        assert!(!bare.has_scope("") && !bare.has_role(""));
    }

    #[test]
    fn a_verification_is_valid_from_its_moment_to_its_end() {
        let principal = principal(None, &[], &[]);
        for (now, valid) in [(0, false), (1, true), (8, true), (9, false)] {
            let now = Timestamp::from_secs(now);
            assert_eq!(principal.validity().is_valid_at(now), valid, "{now:?}");
        }
    }

    #[test]
    fn a_generation_is_equal_to_its_clones_only() {
        let one = Generation::new();
        assert_eq!(one, one.clone());
        assert_ne!(one, Generation::new());
    }
}
