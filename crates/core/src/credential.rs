//! Who asks? A credential becomes a [`Principal`], or a denial.
//!
//! One kind of credential, one file; this one says where a credential is found and what a proven one looks like.

pub mod jwt;

use crate::{
    denial::{Denial, Reason},
    request::Headers,
};

/// Longest credential that is looked at, in bytes: everything below is bounded by it.
pub const MAX_CREDENTIAL: usize = 16 * 1024;

/// A credential as the client sent it. It cannot print.
#[derive(Clone, Copy)]
pub struct Credential<'a>(&'a [u8]);

impl Credential<'_> {
    /// Its bytes, to be hashed: whatever is kept of a credential is kept as a digest.
    pub fn expose(&self) -> &[u8] {
        self.0
    }
}

impl std::fmt::Debug for Credential<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[credential]")
    }
}

/// Finds the one credential of a request: `Authorization: Bearer` (RFC 6750 section 2.1), and nowhere else.
///
/// # Errors
/// `missing_credential` where there is none or one of another scheme; `ambiguous_credential` where there are two, or where
/// a comma may mean two (CVE-2021-32777); `malformed_token` where it is too long or not text. Its alphabet is the verification's
/// to check, so that a token that is known needs not be read.
pub fn extract<'a>(headers: &Headers<'a>) -> Result<Credential<'a>, Denial> {
    let mut values = headers.all("authorization");
    let Some(value) = values.next() else {
        return Err(Denial::new(Reason::MissingCredential, "no Authorization header"));
    };
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
        return Err(Denial::new(
            Reason::MissingCredential,
            "the Authorization header has no scheme and token",
        ));
    };
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return Err(Denial::new(
            Reason::MissingCredential,
            "the Authorization scheme is not Bearer",
        ));
    }
    let spaces = rest.iter().take_while(|byte| **byte == b' ').count();
    let token = rest.get(spaces..).unwrap_or_default();
    if token.is_empty() {
        return Err(Denial::new(
            Reason::MissingCredential,
            "the Authorization header has no token",
        ));
    }
    Ok(Credential(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(values: &[&str]) -> Result<String, Reason> {
        let mut headers = Headers::default();
        for value in values {
            headers.push("authorization", value.as_bytes());
        }
        extract(&headers)
            .map(|Credential(token)| String::from_utf8(token.to_vec()).unwrap())
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
        assert_eq!(format!("{:?}", Credential(b"secret")), "[credential]");
    }
}
