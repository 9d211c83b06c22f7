//! Signed JWTs (RFC 7519, RFC 7515), verified after the best current practices of RFC 8725.
//!
//! The order matters: size and shape, header, issuer, algorithm, key, signature, and only then the
//! claims. Nothing in the token chooses an algorithm or a key beyond the `kid` of the issuer's own
//! set, and no claim has an effect before the signature is proven.

mod claims;
mod compact;
pub mod issuer;
pub mod key_set;

use std::sync::Arc;

use self::{
    claims::Wanted,
    compact::{Header, Parts, decode, refuse},
    issuer::{Issuer, Issuers, KeySource},
    key_set::{Key, KeySet},
};
use super::rejection::Rejection;
use crate::{
    denial::{Denial, Reason},
    identity::{CredentialKind, KeyVersion, Principal, Validity},
    json::Json,
    revocation::ExternalDenylist,
    stage::Check,
    time::Timestamp,
};

/// A token as the client sent it. It cannot be printed.
#[derive(Clone, Copy)]
pub struct Token<'a>(&'a [u8]);

impl<'a> Token<'a> {
    /// The token in these bytes, not read yet.
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// All bytes of the token: never kept as they are.
    pub(crate) const fn bytes(self) -> &'a [u8] {
        self.0
    }
}

impl std::fmt::Debug for Token<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[token]")
    }
}

/// Verifies a token at `now`. `keys` returns the key set of an issuer, by its index in the policy.
/// The result is valid as long as [`Principal::validity`] states.
///
/// # Errors
/// A rejection by the first check that failed, in the order of [`Check`].
pub fn verify<'k>(
    token: Token<'_>,
    issuers: &Issuers,
    keys: impl Fn(usize) -> Option<&'k Arc<KeySet>>,
    denylists: &[ExternalDenylist],
    now: Timestamp,
) -> Result<Arc<Principal>, Rejection> {
    let wanted = Wanted { claims: issuers.retained_claims(), denylists };
    let mut progress = Progress { check: Check::Shape, keys: None, refresh: None };
    checks(token, issuers, keys, wanted, now, &mut progress).map_err(|denial| {
        let Progress { check, keys, refresh } = progress;
        let is_final = matches!(check, Check::Signature | Check::Audience | Check::Claims)
            || denial.reason == Reason::Expired;
        Rejection {
            kind: CredentialKind::Jwt,
            denial: Box::new(denial),
            check,
            refresh,
            settled: keys.filter(|_| is_final),
        }
    })
}

/// How far a verification came, so that the checks return plain denials.
struct Progress {
    /// The check in progress.
    check: Check,
    /// The keys of the issuer, once they are known.
    keys: Option<KeyVersion>,
    /// The issuer whose keys may be out of date.
    refresh: Option<usize>,
}

fn checks<'k>(
    token: Token<'_>,
    issuers: &Issuers,
    keys: impl Fn(usize) -> Option<&'k Arc<KeySet>>,
    wanted: Wanted<'_>,
    now: Timestamp,
    progress: &mut Progress,
) -> Result<Arc<Principal>, Denial> {
    let text = compact::token_text(token.bytes())?;
    let parts = Parts::split(text)?;
    progress.check = Check::Header;
    let header = Header::parse(parts.header)?;
    progress.check = Check::Issuer;
    let claims = Json::object(&decode(parts.payload)?).ok_or_else(|| {
        Denial::new(
            Reason::MalformedToken,
            "the claims are not one JSON object without repeated members",
        )
    })?;
    let iss = match claims.get("iss") {
        None => None,
        Some(Json::Text(iss)) => Some(iss.as_str()),
        Some(_) => return refuse(Reason::UnknownIssuer, "iss is not a string"),
    };
    let issuer = issuers.find(iss).ok_or_else(|| {
        Denial::new(Reason::UnknownIssuer, "no issuer of the configuration has this iss")
    })?;
    progress.check = Check::Algorithm;
    if !issuer.algorithms.contains(&header.algorithm) {
        return refuse(Reason::AlgorithmNotAllowed, "the algorithm is not in the issuer's list");
    }
    progress.check = Check::Key;
    let Some(set) = keys(issuer.index) else {
        return refuse(
            Reason::NotReady,
            "the issuer's keys have not been loaded, or are older than max_stale",
        );
    };
    let version = KeyVersion { source: issuer.index, generation: set.generation().clone() };
    let key = find_key(set, issuer, &header).inspect_err(|denial| {
        // A newer set does not help a token that names no key where it must.
        let named = header.kid.is_some() || !issuer.kid_required;
        progress.refresh = (denial.reason == Reason::UnknownKey && named).then_some(issuer.index);
    })?;
    progress.keys = Some(version.clone());
    progress.check = Check::Signature;
    check_signature(&parts, key)?;
    progress.check = Check::Times;
    let times = claims::check_times(issuer, &claims, now)?;
    progress.check = Check::Audience;
    claims::check_audience(issuer, &claims)?;
    progress.check = Check::Claims;
    let validity = Validity { since: now, until: times.until, keys: version };
    claims::principal(text, issuer, &claims, &times, wanted, validity).map(Arc::new)
}

/// Finds the key by name, within the issuer's own set only. Its algorithm must be that of the
/// header.
fn find_key<'k>(set: &'k KeySet, issuer: &Issuer, header: &Header) -> Result<&'k Key, Denial> {
    let key = match (&header.kid, &issuer.source) {
        (_, KeySource::Secret(_)) => set.only(header.algorithm),
        (Some(kid), _) => set.named(kid),
        (None, _) if issuer.kid_required => {
            return refuse(Reason::UnknownKey, "the token names no key (kid)");
        }
        (None, _) => set.only(header.algorithm),
    };
    match key {
        None => refuse(Reason::UnknownKey, "no key of the issuer fits"),
        Some(key) if key.algorithm != header.algorithm => {
            refuse(Reason::AlgorithmNotAllowed, "the key is bound to another algorithm")
        }
        Some(key) => Ok(key),
    }
}

fn check_signature(parts: &Parts<'_>, key: &Key) -> Result<(), Denial> {
    // Decoded here first, so that the crypto library only gets base64url without stray bits.
    decode(parts.signature)?;
    if key.verifies(parts.signed.as_bytes(), parts.signature) {
        Ok(())
    } else {
        refuse(Reason::BadSignature, "the signature does not verify")
    }
}
