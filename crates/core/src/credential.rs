//! Credentials as clients send them: one variant of [`Credential`] for each kind, one file for
//! each variant.

pub mod jwt;
mod rejection;
#[cfg(test)]
pub mod test_kind;

pub use self::rejection::Rejection;
use crate::{
    denial::{Denial, Reason},
    request::Headers,
};

/// The longest credential that is read, in bytes: all work on a credential is bounded by it.
pub const MAX_CREDENTIAL: usize = 16 * 1024;

/// A credential as the client sent it. It cannot be printed.
#[derive(Clone, Copy)]
pub enum Credential<'a> {
    /// A signed JWT.
    Jwt(jwt::Token<'a>),
    /// The kind that only unit tests have.
    #[cfg(test)]
    Test(test_kind::Key<'a>),
}

impl std::fmt::Debug for Credential<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[credential]")
    }
}

/// The value of `Authorization: Bearer` (RFC 6750 section 2.1).
///
/// # Errors
/// `missing_credential` where there is none or one of another scheme; `ambiguous_credential` where
/// there are two, or where a comma may mean two (CVE-2021-32777); `malformed_token` where it is too
/// long. Verification checks its alphabet, so that a cached token is not read.
pub(crate) fn bearer<'a>(headers: &Headers<'a>) -> Result<&'a [u8], Denial> {
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
        return missing("the Authorization header has no scheme and token");
    };
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return missing("the Authorization scheme is not Bearer");
    }
    let spaces = rest.iter().take_while(|byte| **byte == b' ').count();
    let token = rest.get(spaces..).unwrap_or_default();
    if token.is_empty() {
        return missing("the Authorization header has no token");
    }
    Ok(token)
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

    fn reason(values: &[&str]) -> Result<String, Reason> {
        let mut headers = Headers::default();
        for value in values {
            headers.push("authorization", value.as_bytes());
        }
        bearer(&headers)
            .map(|token| String::from_utf8(token.to_vec()).unwrap())
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
    fn a_credential_cannot_print() {
        assert_eq!(format!("{:?}", Credential::Jwt(jwt::Token::new(b"secret"))), "[credential]");
    }
}
