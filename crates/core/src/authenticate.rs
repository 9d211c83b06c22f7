//! The one place that knows every kind of credential: extraction, verification, caching.
//!
//! A new kind is one file in `credential/`, a variant of [`Credential`] and of [`CredentialKind`],
//! and one line in each function below. Everything else takes a [`Principal`] of any kind: its
//! label, its revocation keys, its scopes.

mod from_banned;

use std::sync::Arc;

pub use self::from_banned::FromBanned;
#[cfg(test)]
use crate::credential::test_kind;
use crate::{
    credential::{
        self, Credential, Rejection, Scheme,
        api_key::{self, ApiKeys, KeyContext, PolicyNames},
        certificate::{self, ClientCertificates, PeerCertificate},
        cookie::Cookies,
        introspection::{self, OpaqueToken},
        jwt,
    },
    denial::{Denial, Reason},
    identity::{CredentialKind, KeyVersion, Principal},
    request::{Headers, Request},
    snapshot::Snapshot,
    stage::Check,
    time::Timestamp,
};

/// The result of a verification.
pub type Verified = Result<Arc<Principal>, Rejection>;

/// Finds the one credential of a request. `keys` is the section `api_keys` of the policy: without it,
/// every credential is a token.
///
/// # Errors
/// `missing_credential`, `ambiguous_credential`, `malformed_token`, and `invalid_api_key` for a key
/// of which format or checksum is wrong.
pub fn extract<'a>(
    headers: &Headers<'a>,
    keys: Option<&ApiKeys>,
) -> Result<Credential<'a>, Denial> {
    #[cfg(test)]
    if let Some(key) = test_kind::Key::extract(headers) {
        return Ok(Credential::Test(key));
    }
    match keys {
        None => credential::bearer(headers).map(|(token, scheme)| {
            Credential::Jwt(match scheme {
                Scheme::Bearer => jwt::Token::new(token),
                Scheme::Dpop => jwt::Token::with_proof(token),
            })
        }),
        Some(keys) => credential::token_or_key(headers, keys),
    }
}

/// Takes a token that has not the form of a JWT for an opaque one, where some issuer of the policy has
/// such tokens. An API key of a foreign format is one only in a header of its own then.
///
/// INVARIANT: what begins like an API key of Tollgate is sent to no issuer, also with the scheme `DPoP`,
/// and where the policy reads no keys from `Authorization`.
pub(crate) fn or_opaque<'a>(
    found: Credential<'a>,
    headers: &Headers<'a>,
    keys: Option<&ApiKeys>,
) -> Credential<'a> {
    let mut names = keys.iter().flat_map(|keys| keys.headers.iter().copied());
    let is_opaque = |token: &[u8]| {
        introspection::is_opaque(token) && !token.starts_with(api_key::PREFIX.as_bytes())
    };
    match found {
        Credential::Jwt(token) if is_opaque(token.bytes()) => {
            Credential::Opaque(OpaqueToken::new(token.bytes()).with_proof(token.has_proof()))
        }
        Credential::ApiKey(key)
            if key.id().is_none() && !names.any(|name| headers.all(name).next().is_some()) =>
        {
            Credential::Opaque(OpaqueToken::new(key.bytes()))
        }
        other => other,
    }
}

/// Finds the certificate of the client of a request; `None` without one, and under a policy that
/// reads none.
///
/// # Errors
/// `ambiguous_credential`, and `invalid_certificate` for one that is too long.
pub(crate) fn peer_certificate<'a>(
    request: &Request<'a>,
    config: Option<&ClientCertificates>,
) -> Result<Option<PeerCertificate<'a>>, Denial> {
    config.map_or(Ok(None), |config| PeerCertificate::of(request, config))
}

/// Finds the token in the cookie of a request, on a route that reads it; `None` without one.
///
/// # Errors
/// `ambiguous_credential`, also beside a credential in a header, whatever that holds; and
/// `malformed_token` for one that is too long.
pub(crate) fn cookie<'a>(
    headers: &Headers<'a>,
    cookies: Option<&Cookies>,
    keys: Option<&ApiKeys>,
) -> Result<Option<Credential<'a>>, Denial> {
    let token = cookies.map_or(Ok(None), |cookies| cookies.token(headers))?;
    let Some(token) = token else { return Ok(None) };
    let mut others = keys.iter().flat_map(|keys| keys.headers.iter().copied());
    let has_other = headers.all("authorization").next().is_some()
        || others.any(|name| headers.all(name).next().is_some());
    if has_other {
        let cause = "a cookie with a token beside a credential in a header";
        return Err(Denial::new(Reason::AmbiguousCredential, cause));
    }
    Ok(Some(Credential::Cookie(jwt::Token::of_cookie(token))))
}

/// Checks that the client has the certificate that its credential is bound to (RFC 8705 section 3).
///
/// # Errors
/// `proof_required` without a certificate, `invalid_proof` with another one.
pub(crate) fn check_certificate(
    expected: &[u8; 32],
    request: &Request<'_>,
    config: Option<&ClientCertificates>,
) -> Result<(), Denial> {
    let Some(presented) = peer_certificate(request, config)? else {
        let cause = match config {
            Some(_) => "the token is bound to a certificate, and the proxy reports none",
            None => {
                "the token is bound to a certificate, and without the section \
                 `client_certificates` none is read"
            }
        };
        return Err(Denial::new(Reason::ProofRequired, cause).with_message(
            "the token is bound to a client certificate, and the connection has none",
        ));
    };
    // The digest of a certificate is no secret.
    if presented.thumbprint()? == *expected {
        Ok(())
    } else {
        let cause = "`cnf` of the token has another certificate than that of the client";
        Err(Denial::new(Reason::InvalidProof, cause)
            .with_message("the token is bound to another client certificate"))
    }
}

/// Returns the kind of a credential that [`extract`] refused for this reason; `None` where there is
/// no credential, or more than one.
pub(crate) const fn kind_of_malformed(reason: Reason) -> Option<CredentialKind> {
    match reason {
        Reason::InvalidApiKey => Some(CredentialKind::ApiKey),
        Reason::InvalidCertificate => Some(CredentialKind::Certificate),
        Reason::MalformedToken => Some(CredentialKind::Jwt),
        _ => None,
    }
}

/// Takes the credential of a WebSocket, found among the protocols that its client offers.
///
/// # Errors
/// As [`extract`].
pub(crate) fn offered<'a>(
    token: &'a [u8],
    headers: &Headers<'a>,
    keys: Option<&ApiKeys>,
) -> Result<Credential<'a>, Denial> {
    let token = credential::offered(token)?;
    let Some(keys) = keys else {
        return Ok(Credential::Jwt(jwt::Token::new(token)));
    };
    if credential::key_header(headers, keys)?.is_some() {
        return Err(Denial::new(
            Reason::AmbiguousCredential,
            "a token in `Sec-WebSocket-Protocol` beside a header with an API key",
        ));
    }
    credential::classify(token, keys)
}

/// Verifies a credential against the policy and the keys of `snapshot`, at `now`.
///
/// # Errors
/// A rejection by the first check that failed.
///
/// # Examples
/// ```
/// use std::sync::Arc;
///
/// use tollgate_core::{
///     authenticate::{extract, is_settled, verify},
///     config::{Document, Errors},
///     denial::Reason,
///     policy::{Policy, PolicyConfig},
///     request::Headers,
///     snapshot::Snapshot,
///     stage::Check,
///     time::Timestamp,
/// };
///
/// let file = "routes: [{ match: { paths: [/health] }, public: true }]";
/// let document = Document::parse(file, &|_| None).unwrap();
/// let config: PolicyConfig = document.read().unwrap();
/// let policy = Policy::compile(&config, &mut Errors::default()).unwrap();
/// let snapshot = Snapshot::without_keys(Arc::new(policy));
///
/// let mut headers = Headers::default();
/// headers.push("authorization", b"Bearer not.a.token");
/// let credential = extract(&headers, snapshot.policy.api_keys.as_ref()).unwrap();
/// let rejection = verify(&snapshot, credential, Timestamp::from_secs(1)).unwrap_err();
/// assert_eq!(rejection.denial.reason, Reason::MalformedToken);
/// assert_eq!(rejection.check, Check::Header);
/// // The rejection took no signature, so there is no need to remember it.
/// assert!(!is_settled(&snapshot, &rejection));
/// ```
pub fn verify(snapshot: &Snapshot, credential: Credential<'_>, now: Timestamp) -> Verified {
    let policy = &snapshot.policy;
    match credential {
        Credential::Jwt(token) | Credential::Cookie(token) => jwt::verify(
            token,
            &policy.issuers,
            |issuer| snapshot.key_set(issuer),
            &policy.denylists,
            now,
        ),
        Credential::Opaque(token) => introspected(snapshot, token, now),
        Credential::ApiKey(key) => match &policy.api_keys {
            Some(keys) => api_key::verify(
                key,
                KeyContext {
                    tables: &snapshot.api_keys,
                    keys,
                    names: PolicyNames {
                        has_limit: &|name, quota| policy.has_limit(name, quota),
                        has_tier: &|tier| policy.has_key_tier(tier),
                    },
                    denylists: &policy.denylists,
                },
                now,
            ),
            None => Err(without_section(
                CredentialKind::ApiKey,
                Reason::InvalidApiKey,
                "the policy has no section `api_keys`",
            )),
        },
        Credential::Certificate(presented) => match &policy.client_certificates {
            Some(config) => certificate::verify(
                presented,
                config,
                snapshot.authorities.as_deref(),
                &policy.denylists,
                now,
            ),
            None => Err(without_section(
                CredentialKind::Certificate,
                Reason::InvalidCertificate,
                "the policy has no section `client_certificates`",
            )),
        },
        #[cfg(test)]
        Credential::Test(key) => key.verify(now),
    }
}

/// Verifies an opaque token with what its issuer is known to state.
fn introspected(snapshot: &Snapshot, token: OpaqueToken<'_>, now: Timestamp) -> Verified {
    let policy = &snapshot.policy;
    let known = token.identify(&policy.issuers).and_then(|(issuer, digest)| {
        let response = snapshot.statements.get(&digest)?;
        let (issuers, denylists) = (&policy.issuers, &policy.denylists);
        introspection::read(token, issuer, response.as_bytes(), issuers, denylists, now).ok()
    });
    known.unwrap_or_else(|| Err(introspection::verify(token, &policy.issuers)))
}

/// The rejection of a credential of which the policy has no section.
fn without_section(kind: CredentialKind, reason: Reason, cause: &'static str) -> Rejection {
    Rejection {
        kind,
        denial: Box::new(Denial::new(reason, cause)),
        check: Check::Issuer,
        refresh: None,
        record: None,
        introspect: None,
        settled: None,
    }
}

/// What identifies a credential in a cache of verified ones: two credentials of the same kind with
/// the same bytes have the same result. A cache keeps a keyed hash of them, never the bytes.
///
/// The same bytes may be credentials of two kinds: a token in the header of an API key, or an
/// imported key that looks like a token.
pub fn cache_key<'a>(credential: &Credential<'a>) -> (CredentialKind, &'a [u8]) {
    let bytes = match credential {
        Credential::Jwt(token) | Credential::Cookie(token) => token.bytes(),
        Credential::Opaque(token) => token.bytes(),
        Credential::ApiKey(key) => key.bytes(),
        Credential::Certificate(certificate) => certificate.bytes(),
        #[cfg(test)]
        Credential::Test(key) => key.bytes(),
    };
    (credential.kind(), bytes)
}

/// Whether [`verify`] would accept the credential of a principal at `now` with the same result, as
/// long as the policy is the one that it was verified under.
pub fn is_current(snapshot: &Snapshot, principal: &Principal, now: Timestamp) -> bool {
    let validity = principal.validity();
    let is_same = match principal.key() {
        // A change of one record ends the results of that record, and of no other.
        Some(key) => snapshot
            .api_key_table(validity.keys.source)
            .is_some_and(|table| table.is_current(&key.id, key.serial, &validity.keys.generation)),
        None => has_keys(snapshot, principal.kind(), &validity.keys),
    };
    validity.is_valid_at(now) && is_same
}

/// Returns the reason why a credential that was accepted is not accepted any more at `now`; `None`
/// while it may be. What is revoked or banned is known to the store.
pub fn ended(snapshot: &Snapshot, principal: &Principal, now: Timestamp) -> Option<Reason> {
    let validity = principal.validity();
    if now >= validity.until {
        return Some(Reason::Expired);
    }
    let key = principal.key()?;
    let table = snapshot.api_key_table(validity.keys.source)?;
    match table.get(&key.id) {
        Some(record) if now >= record.expires => Some(Reason::Expired),
        None if !table.is_uncopied(&key.id) => Some(Reason::InvalidApiKey),
        _ => None,
    }
}

/// Whether [`verify`] would reject the credential again for the same reason, at any later moment,
/// as long as the policy is the one that it was rejected under.
pub fn is_settled(snapshot: &Snapshot, rejection: &Rejection) -> bool {
    rejection.settled.as_ref().is_some_and(|keys| has_keys(snapshot, rejection.kind, keys))
}

/// Whether `snapshot` has the keys that a verification used, unchanged.
fn has_keys(snapshot: &Snapshot, kind: CredentialKind, keys: &KeyVersion) -> bool {
    let KeyVersion { source, generation } = keys;
    match kind {
        CredentialKind::Jwt | CredentialKind::Cookie => {
            snapshot.key_set(*source).is_some_and(|set| set.has(generation))
        }
        // A rejected key is never remembered, and an accepted one has its record.
        CredentialKind::ApiKey => false,
        CredentialKind::OpaqueToken => {
            let issuer = snapshot.policy.issuers.list().get(*source);
            issuer.is_some_and(|issuer| issuer.statements == *generation)
        }
        CredentialKind::Certificate => {
            let authorities = snapshot.authorities.as_deref();
            authorities.is_some_and(|authorities| authorities.generation() == generation)
        }
        #[cfg(test)]
        CredentialKind::Test => test_kind::generation() == generation,
    }
}

#[cfg(test)]
mod tests;
