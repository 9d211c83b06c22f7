//! Opaque tokens: their issuer states what they are (RFC 7662).
//!
//! An opaque token is a text without meaning. It is sent to the endpoint of the one issuer whose tokens
//! have its beginning, and the claims of the answer are checked like those of a signed token. The
//! call is made by the caller of the core: a token that is not known yet is rejected with
//! [`Rejection::introspect`], and verified again once there is an answer.

mod config;
mod unknown;

use std::{fmt, sync::Arc};

pub use self::{
    config::{IntrospectionConfig, TokenTypeRule},
    unknown::UnknownToken,
};
use super::{
    jwt::{
        self,
        issuer::{Issuer, Issuers},
    },
    rejection::Rejection,
};
use crate::{
    denial::{Denial, Reason, shown},
    identity::{CredentialKind, KeyVersion, Principal},
    json::Json,
    revocation::{ExternalDenylist, sha256},
    secret::Secret,
    stage::Check,
    time::{Span, Timestamp},
};

/// The longest opaque token, in bytes.
const MAX_TOKEN: usize = 4096;

/// The largest answer of an endpoint that is read, in bytes.
pub const MAX_RESPONSE: usize = 64 * 1024;

/// The digest that identifies a token at one endpoint of one issuer.
pub type TokenDigest = [u8; 32];

/// An opaque token as the client sent it. It cannot be printed.
#[derive(Clone, Copy)]
pub struct OpaqueToken<'a> {
    bytes: &'a [u8],
    /// Whether it was sent with the scheme `DPoP`.
    has_proof: bool,
}

impl<'a> OpaqueToken<'a> {
    /// The token in these bytes, not read yet.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, has_proof: false }
    }

    /// The same token, sent with the scheme `DPoP` or not.
    pub(crate) const fn with_proof(self, has_proof: bool) -> Self {
        Self { has_proof, ..self }
    }

    /// Whether the client sent the token with the scheme `DPoP`.
    pub(crate) const fn has_proof(self) -> bool {
        self.has_proof
    }

    /// All bytes of the token: never kept as they are.
    pub(crate) const fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// The issuer of the token and the digest that identifies it there; `None` where the token is
    /// malformed, or no issuer has such tokens.
    pub fn identify(self, issuers: &Issuers) -> Option<(&Arc<Issuer>, TokenDigest)> {
        self.text().ok()?;
        let issuer = issuers.of_opaque(self.bytes)?;
        Some((issuer, digest(issuer, self.bytes)))
    }

    fn text(self) -> Result<&'a str, Denial> {
        let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(byte);
        let text = std::str::from_utf8(self.bytes).ok();
        match text.filter(|text| text.len() <= MAX_TOKEN && text.as_bytes().iter().all(is_token)) {
            Some(text) => Ok(text),
            None => Err(Denial::new(
                Reason::MalformedToken,
                "the token is longer than 4 KiB, or has a character that no token has (RFC 6750 \
                 section 2.1)",
            )
            .with_message("the token is not well-formed")),
        }
    }
}

impl fmt::Debug for OpaqueToken<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[opaque token]")
    }
}

/// Whether a token has not the form of a JWT, which begins with `{"` in base64url or has three parts.
pub(crate) fn is_opaque(token: &[u8]) -> bool {
    !token.starts_with(b"eyJ") && memchr::memchr_iter(b'.', token).count() != 2
}

/// The digest of a token at the endpoint of an issuer. Parts are separated by their lengths.
fn digest(issuer: &Issuer, token: &[u8]) -> TokenDigest {
    let url = issuer.introspection.as_ref().map_or("", |section| section.url.as_str());
    let mut text = Vec::with_capacity(issuer.name.len() + url.len() + token.len() + 24);
    for part in [issuer.name.as_bytes(), url.as_bytes(), token] {
        text.extend_from_slice(&(part.len() as u64).to_be_bytes());
        text.extend_from_slice(part);
    }
    sha256(&text)
}

/// Verifies a token before its issuer has stated anything about it.
///
/// # Errors
/// `malformed_token`, `unknown_issuer`, and `not_ready` with [`Rejection::introspect`].
pub(crate) fn verify(token: OpaqueToken<'_>, issuers: &Issuers) -> Rejection {
    let reject = |check, denial, introspect| Rejection {
        kind: CredentialKind::OpaqueToken,
        denial: Box::new(denial),
        check,
        refresh: None,
        record: None,
        introspect,
        settled: None,
    };
    if let Err(denial) = token.text() {
        return reject(Check::Shape, denial, None);
    }
    let Some(issuer) = issuers.of_opaque(token.bytes()) else {
        let cause = "no issuer has opaque tokens with this beginning (`introspection.prefix`)";
        return reject(Check::Issuer, Denial::new(Reason::UnknownIssuer, cause), None);
    };
    let unknown = UnknownToken { issuer: issuer.index, token: Secret::new(token.bytes()) };
    let denial = unavailable("the endpoint of the issuer was not called for the token");
    reject(Check::Key, denial.with_issuer(&issuer.name), Some(Box::new(unknown)))
}

/// The denial of a token that its issuer states nothing about at the moment.
pub fn unavailable(cause: impl Into<std::borrow::Cow<'static, str>>) -> Denial {
    Denial::new(Reason::NotReady, cause)
        .with_message("the token cannot be checked with its issuer at the moment; retry shortly")
        .with_retry_after(Span::from_secs(1))
}

/// Why an answer of an endpoint is no statement about a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// The answer is not one JSON object without repeated members.
    #[error("the answer of the introspection endpoint is not one JSON object")]
    NotAnObject,
    /// The answer has no `active`, or one that is neither `true` nor `false`.
    #[error("the answer of the introspection endpoint has no `active` that is true or false")]
    NoState,
}

/// Reads the answer of an issuer's endpoint about a token, and verifies what it states at `now`.
///
/// # Errors
/// A [`ResponseError`] where the answer states nothing.
pub fn read(
    token: OpaqueToken<'_>,
    issuer: &Issuer,
    response: &[u8],
    issuers: &Issuers,
    denylists: &[ExternalDenylist],
    now: Timestamp,
) -> Result<Result<Arc<Principal>, Rejection>, ResponseError> {
    let claims = Json::object(response).ok_or(ResponseError::NotAnObject)?;
    let is_active = match claims.get("active") {
        Some(Json::Bool(active)) => *active,
        _ => return Err(ResponseError::NoState),
    };
    let mut check = Check::Signature;
    let stated = checks(token, (issuer, issuers), &claims, is_active, denylists, now, &mut check);
    Ok(stated.map(Arc::new).map_err(|denial| Rejection {
        kind: CredentialKind::OpaqueToken,
        denial: Box::new(denial.with_issuer(&issuer.name)),
        check,
        refresh: None,
        record: None,
        introspect: None,
        settled: None,
    }))
}

fn checks(
    token: OpaqueToken<'_>,
    (issuer, issuers): (&Issuer, &Issuers),
    claims: &Json,
    is_active: bool,
    denylists: &[ExternalDenylist],
    now: Timestamp,
    check: &mut Check,
) -> Result<Principal, Denial> {
    let text = token.text()?;
    if !is_active {
        return Err(Denial::new(Reason::InactiveToken, "the issuer states that it is not active"));
    }
    check_type(issuer, claims)?;
    *check = Check::Issuer;
    match claims.get("iss") {
        None | Some(Json::Null) => {}
        Some(Json::Text(name)) if *name == *issuer.name => {}
        Some(other) => {
            let name = other.text().map_or_else(|| other.type_name().to_owned(), shown);
            let cause = format!("the endpoint of `{}` states the iss `{name}`", issuer.name);
            return Err(Denial::new(Reason::UnknownIssuer, cause));
        }
    }
    let keys = KeyVersion { source: issuer.index, generation: issuer.statements.clone() };
    jwt::stated(text, issuer, issuers, claims, denylists, now, keys, check)
}

/// Checks that the token is an access token, and not one for the issuer itself.
fn check_type(issuer: &Issuer, claims: &Json) -> Result<(), Denial> {
    let refuse = |cause: String| Err(Denial::new(Reason::WrongTokenType, cause));
    let rule = issuer.introspection.as_ref().map(|section| section.token_type);
    match claims.get("token_type") {
        Some(Json::Text(kind)) if kind.eq_ignore_ascii_case("bearer") => {}
        Some(Json::Text(kind)) if kind.eq_ignore_ascii_case("dpop") => {
            if claims.get("cnf").is_none_or(|cnf| matches!(cnf, Json::Null)) {
                return refuse("`token_type` is `DPoP`, and there is no `cnf`".to_owned());
            }
        }
        None if rule == Some(TokenTypeRule::Optional) => {}
        None => {
            return refuse(
                "the issuer states no `token_type`: it may be a refresh token; write \
                 `introspection.token_type: optional` if its access tokens have none"
                    .to_owned(),
            );
        }
        Some(other) => {
            let kind = other.text().map_or_else(|| other.type_name().to_owned(), shown);
            return refuse(format!("`token_type` is `{kind}`, not `Bearer` or `DPoP`"));
        }
    }
    // Hydra.
    match claims.get("token_use").and_then(Json::text) {
        None | Some("access_token" | "access") => Ok(()),
        Some(other) => refuse(format!("`token_use` is `{}`", shown(other))),
    }
}
