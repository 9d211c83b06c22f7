//! Credentials as clients send them: one variant of [`Credential`] for each kind, one file for
//! each variant.

pub mod api_key;
pub mod certificate;
pub mod cookie;
pub mod dpop;
pub mod introspection;
pub mod jwt;
mod rejection;
#[cfg(test)]
pub mod test_kind;

pub use self::rejection::Rejection;
use self::{
    api_key::{ApiKey, ApiKeys},
    certificate::PeerCertificate,
    introspection::OpaqueToken,
};
use crate::{
    denial::{CredentialFailure, Denial, Reason},
    identity::CredentialKind,
    request::Headers,
};

/// The longest credential that is read, in bytes: all work on a credential is bounded by it.
pub const MAX_CREDENTIAL: usize = 16 * 1024;

/// A credential as the client sent it. It cannot be printed.
#[derive(Clone, Copy)]
pub enum Credential<'a> {
    /// A signed JWT.
    Jwt(jwt::Token<'a>),
    /// An API key.
    ApiKey(ApiKey<'a>),
    /// A client certificate.
    Certificate(PeerCertificate<'a>),
    /// A signed JWT in a cookie.
    Cookie(jwt::Token<'a>),
    /// A token whose issuer states what it is.
    Opaque(OpaqueToken<'a>),
    /// The kind that only unit tests have.
    #[cfg(test)]
    Test(test_kind::Key<'a>),
}

impl Credential<'_> {
    /// Whether the client sent a token with the scheme `DPoP`.
    pub const fn has_proof(&self) -> bool {
        match self {
            Self::Jwt(token) => token.has_proof(),
            Self::Opaque(token) => token.has_proof(),
            _ => false,
        }
    }

    /// Returns the kind of the credential.
    pub const fn kind(&self) -> CredentialKind {
        match self {
            Self::Jwt(_) => CredentialKind::Jwt,
            Self::ApiKey(_) => CredentialKind::ApiKey,
            Self::Certificate(_) => CredentialKind::Certificate,
            Self::Cookie(_) => CredentialKind::Cookie,
            Self::Opaque(_) => CredentialKind::OpaqueToken,
            #[cfg(test)]
            Self::Test(_) => CredentialKind::Test,
        }
    }
}

impl std::fmt::Debug for Credential<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[credential]")
    }
}

/// The scheme of an `Authorization` header with a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `Bearer`: the token alone is the credential.
    Bearer,
    /// `DPoP`: the token is bound to a key, which a header of its own proves (RFC 9449).
    Dpop,
}

/// The value and the scheme of `Authorization: Bearer` (RFC 6750 section 2.1) or `Authorization: DPoP`
/// (RFC 9449 section 7.1).
///
/// # Errors
/// `missing_credential` where there is none or one of another scheme; `ambiguous_credential` where
/// there are two, or where a comma may mean two (CVE-2021-32777); `malformed_token` where it is too
/// long. Verification checks its alphabet, so that a cached token is not read.
pub(crate) fn bearer<'a>(headers: &Headers<'a>) -> Result<(&'a [u8], Scheme), Denial> {
    let missing = |cause| Err(Denial::new(Reason::MissingCredential, cause));
    let mut values = headers.all("authorization");
    let Some(value) = values.next() else { return missing("no Authorization header") };
    if values.next().is_some() || memchr::memchr(b',', value).is_some() {
        return Err(Denial::new(
            Reason::AmbiguousCredential,
            "more than one Authorization header, or one with a comma",
        ));
    }
    if value.len() > MAX_CREDENTIAL {
        return Err(Denial::new(
            Reason::MalformedToken,
            "the Authorization header is longer than 16 KiB",
        ));
    }
    let Some((scheme, rest)) =
        value.iter().position(|byte| *byte == b' ').and_then(|space| value.split_at_checked(space))
    else {
        return missing(if value.is_ascii() {
            "the Authorization header has no scheme and token with a space between them"
        } else {
            "the Authorization header has no space after the scheme, but a character beyond ASCII"
        });
    };
    let scheme = if scheme.eq_ignore_ascii_case(b"bearer") {
        Scheme::Bearer
    } else if scheme.eq_ignore_ascii_case(b"dpop") {
        Scheme::Dpop
    } else {
        return missing(OTHER_SCHEME);
    };
    let spaces = rest.iter().take_while(|byte| **byte == b' ').count();
    let token = rest.get(spaces..).unwrap_or_default();
    if token.is_empty() {
        return missing("the Authorization header has no token");
    }
    Ok((token, scheme))
}

/// The cause of the denial of another scheme.
pub(crate) const OTHER_SCHEME: &str = "the Authorization scheme is not Bearer";

/// The one credential of a request, where the policy accepts API keys: the header that holds it
/// decides, and no second one may be beside it, whatever it holds.
///
/// # Errors
/// As [`bearer`], and `invalid_api_key` for a key of which format or checksum is wrong.
pub(crate) fn token_or_key<'a>(
    headers: &Headers<'a>,
    keys: &ApiKeys,
) -> Result<Credential<'a>, Denial> {
    let Some(key) = key_header(headers, keys)? else {
        return match bearer(headers)? {
            (token, Scheme::Bearer) => classify(token, keys),
            // A key is bound to nothing.
            (token, Scheme::Dpop) => Ok(Credential::Jwt(jwt::Token::with_proof(token))),
        };
    };
    if headers.all("authorization").next().is_some() {
        return Err(Denial::new(
            Reason::AmbiguousCredential,
            "a header with an API key beside Authorization",
        ));
    }
    ApiKey::read(key).map(Credential::ApiKey)
}

/// A token that comes without a header of its own kind: a JWT, or a key where keys may be sent as
/// `Bearer`.
///
/// A JWT begins with `eyJ`, which is `{"` in base64url, or has three parts; a key of Tollgate has
/// neither.
///
/// # Errors
/// `invalid_api_key` for a key of which format or checksum is wrong.
pub(crate) fn classify<'a>(token: &'a [u8], keys: &ApiKeys) -> Result<Credential<'a>, Denial> {
    let is_jwt = || token.starts_with(b"eyJ") || memchr::memchr_iter(b'.', token).count() == 2;
    if keys.is_bearer && !is_jwt() {
        ApiKey::read(token).map(Credential::ApiKey)
    } else {
        Ok(Credential::Jwt(jwt::Token::new(token)))
    }
}

/// The value of the one header, other than `Authorization`, that holds an API key.
///
/// # Errors
/// `ambiguous_credential` where there are two, or where a comma may mean two; `missing_credential`
/// where the header is empty; `invalid_api_key` where it is too long.
pub(crate) fn key_header<'a>(
    headers: &Headers<'a>,
    keys: &ApiKeys,
) -> Result<Option<&'a [u8]>, Denial> {
    let refuse = |reason, cause| Err(Denial::new(reason, cause));
    let mut values = keys.headers.iter().flat_map(|name| headers.all(name));
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() || memchr::memchr(b',', value).is_some() {
        return refuse(
            Reason::AmbiguousCredential,
            "more than one header with an API key, or one with a comma",
        );
    }
    match value.len() {
        0 => refuse(Reason::MissingCredential, "the header for an API key is empty"),
        1..=MAX_CREDENTIAL => Ok(Some(value)),
        _ => Err(Denial::new(
            Reason::InvalidApiKey,
            "the header with the API key is longer than 16 KiB",
        )
        .with_failure(CredentialFailure::Malformed)),
    }
}

/// A token that a client sent as a protocol of a WebSocket.
///
/// # Errors
/// `missing_credential` where it is empty, `malformed_token` where it is too long.
pub(crate) fn offered(token: &[u8]) -> Result<&[u8], Denial> {
    match token.len() {
        0 => Err(Denial::new(
            Reason::MissingCredential,
            "an element of `Sec-WebSocket-Protocol` has the prefix of a token, and no token",
        )),
        1..=MAX_CREDENTIAL => Ok(token),
        _ => Err(Denial::new(
            Reason::MalformedToken,
            "the token in `Sec-WebSocket-Protocol` is longer than 16 KiB",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Errors, Path};

    fn reason(values: &[&str]) -> Result<String, Reason> {
        let mut headers = Headers::default();
        for value in values {
            headers.push("authorization", value.as_bytes());
        }
        bearer(&headers)
            .map(|(token, _)| String::from_utf8(token.to_vec()).unwrap())
            .map_err(|denial| denial.reason)
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
            (&[long.as_str()], Reason::MalformedToken),
        ] {
            assert_eq!(reason(values), Err(expected), "{values:?}");
        }
    }

    #[test]
    fn a_scheme_is_read_in_any_case() {
        for (value, expected) in [
            ("Bearer a.b.c", Scheme::Bearer),
            ("DPoP a.b.c", Scheme::Dpop),
            ("dpop a.b.c", Scheme::Dpop),
            ("DPOP  a.b.c", Scheme::Dpop),
        ] {
            let mut headers = Headers::default();
            headers.push("authorization", value.as_bytes());
            assert_eq!(bearer(&headers).unwrap(), (&b"a.b.c"[..], expected), "{value}");
        }
    }

    fn found(section: &str, list: &[(&str, &str)]) -> Result<&'static str, Reason> {
        let mut headers = Headers::default();
        for (name, value) in list {
            headers.push(name, value.as_bytes());
        }
        let config: api_key::ApiKeysConfig = serde_json::from_str(section).unwrap();
        let keys = config.compile(&Path::root(), &mut Errors::default());
        let credential = token_or_key(&headers, &keys).map_err(|denial| denial.reason)?;
        Ok(credential.kind().label())
    }

    #[test]
    fn the_header_and_the_form_decide_whether_it_is_a_key() {
        const KEY: &str = "tgk_7Jk2mN4pQ8rT_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA2fQEWa";
        let (bearer, wrong) = (format!("Bearer {KEY}"), KEY.replace("2fQ", "2fR"));
        let wrong_bearer = format!("Bearer {wrong}");
        let long = "k".repeat(MAX_CREDENTIAL + 1);
        let every = r#"{ "file": "/k" }"#;
        for (list, expected) in [
            (&[("authorization", &*bearer)][..], Ok("api_key")),
            (&[("Authorization", "bearer sk-1")], Ok("api_key")),
            (&[("x-api-key", KEY)], Ok("api_key")),
            (&[("X-API-Key", "sk-1")], Ok("api_key")),
            (&[("api-key", KEY)], Ok("api_key")),
            // A key of its own header is never read as a token.
            (&[("x-api-key", "eyJ.b.c")], Ok("api_key")),
            (&[("authorization", "Bearer eyJhbGciOiJub25lIn0")], Ok("jwt")),
            (&[("authorization", "Bearer a.b.c")], Ok("jwt")),
            // A key of Tollgate is never a token with a proof.
            (&[("authorization", &*bearer.replace("Bearer", "DPoP"))], Ok("jwt")),
            (&[("authorization", "Bearer a.b.c.d.e")], Ok("api_key")),
            (&[], Err(Reason::MissingCredential)),
            (&[("authorization", "Basic a")], Err(Reason::MissingCredential)),
            (&[("x-api-key", "")], Err(Reason::MissingCredential)),
            (&[("x-api-key", &long)], Err(Reason::InvalidApiKey)),
            (&[("x-api-key", &wrong)], Err(Reason::InvalidApiKey)),
            (&[("authorization", &wrong_bearer)], Err(Reason::InvalidApiKey)),
            (&[("authorization", "Bearer tgk_")], Err(Reason::InvalidApiKey)),
            // Two credentials, equal or not.
            (&[("authorization", &bearer), ("x-api-key", KEY)], Err(Reason::AmbiguousCredential)),
            (
                &[("authorization", "Bearer a.b.c"), ("api-key", KEY)],
                Err(Reason::AmbiguousCredential),
            ),
            (&[("authorization", ""), ("x-api-key", KEY)], Err(Reason::AmbiguousCredential)),
            (&[("authorization", "Basic a"), ("x-api-key", KEY)], Err(Reason::AmbiguousCredential)),
            (&[("x-api-key", KEY), ("x-api-key", KEY)], Err(Reason::AmbiguousCredential)),
            (&[("x-api-key", KEY), ("api-key", KEY)], Err(Reason::AmbiguousCredential)),
            (&[("x-api-key", "sk-1,sk-2")], Err(Reason::AmbiguousCredential)),
            (
                &[("authorization", &bearer), ("authorization", &bearer)],
                Err(Reason::AmbiguousCredential),
            ),
        ] {
            assert_eq!(found(every, list), expected, "{list:?}");
        }
        // Headers that are not listed hold no key.
        let only_bearer = r#"{ "file": "/k", "header": ["authorization"] }"#;
        assert_eq!(found(only_bearer, &[("x-api-key", KEY)]), Err(Reason::MissingCredential));
        let both = [("authorization", "Bearer a.b.c"), ("x-api-key", KEY)];
        assert_eq!(found(only_bearer, &both), Ok("jwt"));
        let only_header = r#"{ "file": "/k", "header": ["x-api-key"] }"#;
        assert_eq!(found(only_header, &[("authorization", &bearer)]), Ok("jwt"));
    }

    #[test]
    fn a_credential_cannot_print() {
        assert_eq!(format!("{:?}", Credential::Jwt(jwt::Token::new(b"secret"))), "[credential]");
    }
}
