//! Who asks? A credential becomes a [`Principal`], or a denial.
//!
//! One kind of credential, one file; this one says where a credential is found and what a proven one looks like.

pub mod issuer;
pub mod jwks;
pub mod jwt;
mod strict_json;

use std::sync::Arc;

pub(crate) use self::strict_json::Json;
use crate::{
    decision::{Denial, Reason},
    request::Headers,
    revocation,
};

/// Longest credential that is looked at, in bytes: everything below is bounded by it.
pub const MAX_CREDENTIAL: usize = 16 * 1024;

/// A credential as the client sent it. It cannot print.
#[derive(Clone, Copy)]
pub struct Credential<'a>(&'a str);

impl std::fmt::Debug for Credential<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[credential]")
    }
}

/// Finds the one credential of a request: `Authorization: Bearer` (RFC 6750 section 2.1), and nowhere else.
///
/// # Errors
/// `missing_credential` where there is none or one of another scheme; `ambiguous_credential` where there are two, or where
/// a comma may mean two (CVE-2021-32777); `malformed_token` where it is too long or not in the alphabet of RFC 6750.
pub fn extract<'a>(headers: &Headers<'a>) -> Result<Credential<'a>, Denial> {
    let mut values = headers.all("authorization");
    let Some(value) = values.next() else {
        return Err(Denial::new(Reason::MissingCredential, "no Authorization header"));
    };
    if values.next().is_some() || value.contains(&b',') {
        return Err(Denial::new(Reason::AmbiguousCredential, "more than one Authorization header, or one with a comma"));
    }
    if value.len() > MAX_CREDENTIAL {
        return Err(Denial::new(Reason::MalformedToken, "the Authorization header is longer than 16 KiB"));
    }
    let text =
        std::str::from_utf8(value).map_err(|_| Denial::new(Reason::MalformedToken, "the Authorization header is not ASCII"))?;
    let Some((scheme, rest)) = text.split_once(' ') else {
        return Err(Denial::new(Reason::MissingCredential, "the Authorization header has no scheme and token"));
    };
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Denial::new(Reason::MissingCredential, "the Authorization scheme is not Bearer"));
    }
    let token = rest.trim_start_matches(' ');
    if token.is_empty() {
        return Err(Denial::new(Reason::MissingCredential, "the Authorization header has no token"));
    }
    if !token.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b'+' | b'/' | b'=')) {
        return Err(Denial::new(Reason::MalformedToken, "the token holds characters no token has"));
    }
    Ok(Credential(token))
}

/// Proof of who asks. Made by [`jwt::verify`] and nothing else.
#[derive(Clone, Debug)]
pub struct Principal {
    issuer: Arc<str>,
    subject: String,
    tenant: Option<String>,
    client: Option<String>,
    roles: Vec<String>,
    scopes: Vec<String>,
    /// The claims that some condition of the policy looks at, in no order.
    claims: Vec<(Arc<str>, Json)>,
    jti: Option<String>,
    issued_at: Option<u64>,
    expires_at: u64,
    revocation: revocation::Keys,
}

impl Principal {
    /// The `iss` of the credential; empty for tokens of an issuer configured as `absent`.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The subject.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The tenant, from the credential or fixed for its issuer.
    pub fn tenant(&self) -> Option<&str> {
        self.tenant.as_deref()
    }

    /// The client the credential was issued to.
    pub fn client(&self) -> Option<&str> {
        self.client.as_deref()
    }

    /// The roles.
    pub fn roles(&self) -> &[String] {
        &self.roles
    }

    /// The scopes, in the credential's order.
    pub fn scopes(&self) -> &[String] {
        &self.scopes
    }

    /// Whether it has exactly this scope (RFC 6749 section 3.3: case-sensitive, no prefixes).
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scopes.iter().any(|have| have == scope)
    }

    /// A claim that some condition of the policy looks at.
    pub(crate) fn claim(&self, name: &str) -> Option<&Json> {
        self.claims.iter().find(|(known, _)| **known == *name).map(|(_, value)| value)
    }

    /// The token id.
    pub fn jti(&self) -> Option<&str> {
        self.jti.as_deref()
    }

    /// `iat` in whole seconds.
    pub fn issued_at(&self) -> Option<u64> {
        self.issued_at
    }

    /// `exp` in whole seconds, rounded down.
    pub fn expires_at(&self) -> u64 {
        self.expires_at
    }

    /// The kind of credential, as `x-tollgate-credential` says it.
    pub fn kind(&self) -> &'static str {
        "jwt"
    }

    /// Where a store finds whether it was revoked.
    pub fn revocation(&self) -> &revocation::Keys {
        &self.revocation
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(values: &[&str]) -> Result<String, Reason> {
        let mut headers = Headers::default();
        for value in values {
            headers.push("authorization", value.as_bytes());
        }
        extract(&headers).map(|Credential(token)| token.to_owned()).map_err(|denial| denial.reason)
    }

    #[test]
    fn one_bearer_token_is_taken() {
        for value in ["Bearer a.b.c", "bearer a.b.c", "BEARER   a.b.c"] {
            assert_eq!(reason(&[value]).as_deref(), Ok("a.b.c"), "{value}");
        }
    }

    #[test]
    fn anything_else_is_named() {
        let long = format!("Bearer {}", "a".repeat(MAX_CREDENTIAL));
        for (values, expected) in [
            (&[][..], Reason::MissingCredential),
            (&[""], Reason::MissingCredential),
            (&["Bearer"], Reason::MissingCredential),
            (&["Bearer "], Reason::MissingCredential),
            (&["Basic dXNlcjpwYXNz"], Reason::MissingCredential),
            (&["a.b.c"], Reason::MissingCredential),
            (&["Bearer a.b.c", "Bearer d.e.f"], Reason::AmbiguousCredential),
            (&["Bearer a.b.c,Bearer d.e.f"], Reason::AmbiguousCredential),
            (&["Bearer a.b.c, d"], Reason::AmbiguousCredential),
            (&["Bearer a b"], Reason::MalformedToken),
            (&["Bearer a\tb"], Reason::MalformedToken),
            (&["Bearer \"a\""], Reason::MalformedToken),
            (&["Bearer \u{e9}"], Reason::MalformedToken),
            (&[long.as_str()], Reason::MalformedToken),
        ] {
            assert_eq!(reason(values), Err(expected), "{values:?}");
        }
    }

    #[test]
    fn a_credential_cannot_print() {
        assert_eq!(format!("{:?}", Credential("secret")), "[credential]");
    }
}
