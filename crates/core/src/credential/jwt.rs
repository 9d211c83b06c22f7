//! Signed JWTs (RFC 7519, RFC 7515), verified after the best current practices of RFC 8725.
//!
//! The order matters: size and shape, header, issuer, algorithm, key, signature, and only then the
//! claims. Nothing in the token chooses an algorithm or a key beyond the `kid` of the issuer's own
//! set, and no claim has an effect before the signature is proven.

pub mod algorithm;
mod claims;
mod compact;
pub mod issuer;
pub mod key_set;

use std::sync::Arc;

use self::{
    claims::{ProvenToken, Wanted, token_kind},
    compact::{Header, Parts, decode, refuse},
    issuer::{Issuer, Issuers, KeySource, TokenProfile},
    key_set::{Candidates, Key, KeySet},
};
use super::rejection::Rejection;
use crate::{
    denial::{CredentialFailure, Denial, Reason, listed, shown},
    identity::{CredentialKind, KeyVersion, Principal, Validity},
    json::Json,
    revocation::ExternalDenylist,
    stage::Check,
    time::Timestamp,
};

/// A token as the client sent it. It cannot be printed.
#[derive(Clone, Copy)]
pub struct Token<'a> {
    bytes: &'a [u8],
    kind: CredentialKind,
    /// Whether it was sent with the scheme `DPoP`.
    has_proof: bool,
}

impl<'a> Token<'a> {
    /// The token in these bytes, not read yet.
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, kind: CredentialKind::Jwt, has_proof: false }
    }

    /// The token in a cookie, not read yet.
    pub(crate) const fn of_cookie(bytes: &'a [u8]) -> Self {
        Self { bytes, kind: CredentialKind::Cookie, has_proof: false }
    }

    /// The token in these bytes, sent with the scheme `DPoP`.
    pub(crate) const fn with_proof(bytes: &'a [u8]) -> Self {
        Self { bytes, kind: CredentialKind::Jwt, has_proof: true }
    }

    /// Whether the client sent the token with the scheme `DPoP`.
    pub(crate) const fn has_proof(self) -> bool {
        self.has_proof
    }

    /// All bytes of the token: never kept as they are.
    pub(crate) const fn bytes(self) -> &'a [u8] {
        self.bytes
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
    let (claims, audiences) = (issuers.retained_claims(), issuers.audiences());
    let wanted = Wanted { kind: token.kind, claims, audiences, denylists };
    let mut progress = Progress { check: Check::Shape, issuer: None, keys: None, refresh: None };
    checks(token, issuers, keys, wanted, now, &mut progress).map_err(|denial| {
        let Progress { check, issuer, keys, refresh } = progress;
        let denial = match issuer.and_then(|index| issuers.list().get(index)) {
            Some(issuer) => denial.with_issuer(&issuer.name),
            None => denial,
        };
        let is_final = matches!(check, Check::Signature | Check::Audience | Check::Claims)
            || denial.reason == Reason::Expired;
        Rejection {
            kind: token.kind,
            denial: Box::new(denial),
            check,
            refresh,
            record: None,
            introspect: None,
            settled: keys.filter(|_| is_final),
        }
    })
}

/// Verifies the claims that an issuer itself states about an opaque token, like those of a signed one.
///
/// # Errors
/// As [`verify`], from the check of the times on.
#[expect(clippy::too_many_arguments, reason = "what a verification reads, and its progress")]
pub(super) fn stated(
    token: &str,
    issuer: &Issuer,
    issuers: &Issuers,
    claims: &Json,
    denylists: &[ExternalDenylist],
    now: Timestamp,
    keys: KeyVersion,
    check: &mut Check,
) -> Result<Principal, Denial> {
    let kind = CredentialKind::OpaqueToken;
    let (retained, audiences) = (issuers.retained_claims(), issuers.audiences());
    let wanted = Wanted { kind, claims: retained, audiences, denylists };
    *check = Check::Times;
    let times = claims::check_times(issuer, claims, now)?;
    *check = Check::Audience;
    claims::check_audience(issuer, claims)?;
    *check = Check::Claims;
    // The answer names the type of the token, as the header of a JWT does.
    token_kind::check(claims, true, issuer.accepts_id_tokens)?;
    let validity = Validity { since: now, until: times.until, keys };
    let token = ProvenToken { text: token, kid: None, claims, times: &times };
    claims::principal(token, issuer, wanted, validity)
}

/// Returns why a token is refused for the kind that its claims tell; `None` where it is not, or
/// cannot be read. Nothing is verified.
pub fn kind_refusal(token: &str, accepts_id_tokens: bool) -> Option<Denial> {
    let parts = Parts::split(token).ok()?;
    let header = Header::parse(parts.header).ok()?;
    let claims = compact::object(parts.payload, "payload").ok()?;
    token_kind::check(&claims, header.is_access_token, accepts_id_tokens).err()
}

/// How far a verification came, so that the checks return plain denials.
struct Progress {
    /// The check in progress.
    check: Check,
    /// The index of the issuer that the token names, once it is known.
    issuer: Option<usize>,
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
    let claims = compact::object(parts.payload, "payload")?;
    let iss = match claims.get("iss") {
        None => None,
        Some(Json::Text(iss)) => Some(iss.as_str()),
        Some(_) => return refuse(Reason::UnknownIssuer, "iss is not a string"),
    };
    let sub = claims.get("sub").and_then(Json::text);
    let issuer = issuers.select(iss, sub).ok_or_else(|| {
        let cause = match iss {
            Some(iss) => format!("no issuer of the configuration has the iss `{}`", shown(iss)),
            None => "the token has no iss, and no issuer of the configuration is `absent`".into(),
        };
        Denial::new(Reason::UnknownIssuer, cause)
    })?;
    progress.issuer = Some(issuer.index);
    let is_workload = issuer.workloads.is_some();
    if header.is_jose && !is_workload {
        return refuse(Reason::WrongTokenType, "typ is neither JWT nor at+jwt");
    }
    if header.is_access_token && is_workload {
        return refuse(Reason::WrongTokenType, "typ of a JWT-SVID is neither JWT nor JOSE");
    }
    progress.check = Check::Algorithm;
    if !issuer.algorithms.contains(&header.algorithm) {
        let cause =
            format!("the algorithm `{}` is not in the issuer's list", header.algorithm_name);
        return Err(Denial::new(Reason::AlgorithmNotAllowed, cause));
    }
    progress.check = Check::Key;
    let Some(set) = keys(issuer.index) else {
        return refuse(
            Reason::NotReady,
            "the issuer has no keys: none are loaded, none of them can be used, or they are older \
             than max_stale",
        )
        .map_err(|denial| {
            denial.with_message("the keys of the token's issuer are not available; retry shortly")
        });
    };
    let version = KeyVersion { source: issuer.index, generation: set.generation().clone() };
    // Keys that were replaced may have kept their name, so a newer set may help in each of these
    // cases. It does not help a token that names no key where it must, nor where the key is a
    // secret, whose file is read at short intervals.
    let is_fetched = matches!(issuer.source, KeySource::Jwks(_));
    if is_fetched && (header.kid.is_some() || !issuer.kid_required) {
        progress.refresh = Some(issuer.index);
    }
    let candidates = find_keys(set, issuer, &header)?;
    progress.keys = Some(version.clone());
    progress.check = Check::Signature;
    let key = check_signature(&parts, &header, &candidates).inspect_err(|denial| {
        progress.refresh = progress.refresh.filter(|_| denial.reason == Reason::BadSignature);
    })?;
    progress.refresh = None;
    progress.check = Check::Times;
    let times = claims::check_times(issuer, &claims, now)?;
    progress.check = Check::Audience;
    claims::check_audience(issuer, &claims)?;
    progress.check = Check::Claims;
    token_kind::check(&claims, header.is_access_token, issuer.accepts_id_tokens)?;
    if issuer.profile == Some(TokenProfile::Rfc9068) && !header.is_access_token {
        return refuse(
            Reason::WrongTokenType,
            "typ is not at+jwt, which `profile: rfc9068` of the issuer requires",
        );
    }
    let generation = set.generation_of(key, header.kid.as_deref()).clone();
    let used = KeyVersion { source: issuer.index, generation };
    let validity = Validity { since: now, until: times.until, keys: used };
    // The key's own name: a token may name none, or one that the set does not have.
    let kid = set.kid_of(key);
    let token = ProvenToken { text, kid, claims: &claims, times: &times };
    claims::principal(token, issuer, wanted, validity).map(Arc::new)
}

/// Finds the keys that may have signed the token, within the issuer's own set only. Their algorithm
/// is that of the header.
///
/// Where `kid` is optional, a token without one may be signed with any key of its algorithm, and a
/// token with an unknown one with any such key that has no name.
fn find_keys<'k>(
    set: &'k KeySet,
    issuer: &Issuer,
    header: &Header,
) -> Result<Candidates<'k>, Denial> {
    let algorithm = header.algorithm;
    let name = header.algorithm_name;
    let no_key = |kid: &str| {
        let kids = listed(set.published_kids());
        let known = if kids.is_empty() { String::new() } else { format!("; it has {kids}") };
        let why = set.why_unnamed_skipped();
        let unnamed = why.map(|why| format!("; an entry without kid cannot be used: {why}"));
        let unnamed = unnamed.unwrap_or_default();
        format!("no key of the issuer has the kid `{}`{known}{unnamed}", shown(kid))
    };
    let candidates = match (&header.kid, &issuer.source) {
        (_, KeySource::Secret(_)) => Candidates::of(set.unnamed(), algorithm),
        (None, _) if issuer.kid_required => {
            return refuse(Reason::UnknownKey, "the token names no key (kid)")
                .map_err(|denial| denial.with_message("the token names no key (`kid`)"));
        }
        (None, _) => Candidates::of(set.all(), algorithm),
        (Some(kid), _) if set.named(kid).next().is_some() => {
            let candidates = Candidates::of(set.named(kid), algorithm);
            if candidates.keys.is_empty() {
                let skipped = set.why_skipped(kid).map(|why| format!("; another entry: {why}"));
                let cause = format!(
                    "the key of the kid `{}` is for {}, not for the token's algorithm `{name}`{}",
                    shown(kid),
                    KeySet::algorithms(set.named(kid)),
                    skipped.unwrap_or_default()
                );
                return Err(Denial::new(Reason::AlgorithmNotAllowed, cause)
                    .with_message("the token's key is for another algorithm"));
            }
            return Ok(candidates);
        }
        (Some(kid), _) => {
            if let Some(why) = set.why_skipped(kid) {
                let cause =
                    format!("the issuer's key of the kid `{}` cannot be used: {why}", shown(kid));
                return Err(Denial::new(Reason::UnknownKey, cause));
            }
            let unnamed = Candidates::of(set.unnamed(), algorithm);
            match (issuer.kid_required, unnamed.keys.is_empty()) {
                (true, false) => {
                    let cause =
                        format!("{}; keys without kid are used with `kid: optional`", no_key(kid));
                    return Err(Denial::new(Reason::UnknownKey, cause));
                }
                _ if unnamed.keys.is_empty() => {
                    return Err(Denial::new(Reason::UnknownKey, no_key(kid))
                        .with_failure(CredentialFailure::UnknownKey));
                }
                _ => return Ok(unnamed),
            }
        }
    };
    if !candidates.keys.is_empty() {
        return Ok(candidates);
    }
    let cause = match &issuer.source {
        KeySource::Secret(_) => "the secret is not for this algorithm".to_owned(),
        KeySource::Unsigned => "the issuer has opaque tokens only".to_owned(),
        KeySource::Jwks(_) => format!(
            "no usable key of the issuer is for the token's algorithm `{name}`; those that are \
             usable are for {}{}",
            KeySet::algorithms(set.all()),
            set.skipped_reasons().map(|why| format!("; not usable: {why}")).unwrap_or_default()
        ),
    };
    Err(Denial::new(Reason::UnknownKey, cause))
}

/// Returns the key that the signature verifies with.
fn check_signature<'k>(
    parts: &Parts<'_>,
    header: &Header,
    candidates: &Candidates<'k>,
) -> Result<&'k Key, Denial> {
    // Decoded here first, so that the crypto library only gets base64url without stray bits.
    decode(parts.signature)?;
    let Candidates { keys, fitting } = candidates;
    let message = parts.signed.as_bytes();
    let mut keys_tried = keys.iter().copied();
    if let Some(key) =
        keys_tried.find(|key| key.verifies(header.algorithm, message, parts.signature))
    {
        return Ok(key);
    }
    if header.has_nonce {
        return refuse(
            Reason::BadSignature,
            "the signature does not verify; the header has `nonce`, as a token of Entra ID for \
             Microsoft Graph, which only Graph can verify; request a token for this service",
        );
    }
    let tried = keys.len();
    if *fitting > tried {
        let cause = format!(
            "the signature verifies with none of the first {tried} of {fitting} keys that fit, and \
             no other is tried"
        );
        return Err(Denial::new(Reason::BadSignature, cause)
            .with_message("the token's signature does not verify with the keys that were tried"));
    }
    refuse(
        Reason::BadSignature,
        if tried == 1 {
            "the signature does not verify"
        } else {
            "the signature verifies with none of the keys that fit"
        },
    )
}
