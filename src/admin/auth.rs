//! The bearer token of the admin API.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use http::HeaderMap;
use thiserror::Error;
use tollgate_core::{revocation::sha256, secret::Secret};

use super::caller::{AdminCredentialConfig, Caller, credential_of};
use crate::json_api::{self, Refusal};

/// The shortest accepted token, in bytes: 128 bits in hex. Attempts are not limited, so a token
/// must not be a word.
pub const MIN_TOKEN: usize = 32;

/// The reason why a token is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WeakToken {
    /// The token is too short to resist guessing.
    #[error(
        "the admin token has {0} bytes and needs {MIN_TOKEN}; make one with `openssl rand -hex 32`"
    )]
    Short(usize),
    /// The token contains a character that a header cannot carry.
    #[error(
        "the admin token contains a space or a character outside of ASCII; make one with `openssl rand -hex 32`"
    )]
    Unprintable,
}

/// Checks the configured token.
///
/// # Errors
/// The token is too short, or a header cannot carry it.
pub fn check_token(token: &Secret) -> Result<(), WeakToken> {
    let token = token.expose();
    if token.len() < MIN_TOKEN {
        return Err(WeakToken::Short(token.len()));
    }
    if !token.iter().all(u8::is_ascii_graphic) {
        return Err(WeakToken::Unprintable);
    }
    Ok(())
}

/// Returns the caller if the request has exactly one `Authorization` header, `Bearer` and the token,
/// or that of a credential. The digests are compared, in constant time: the duration reveals neither
/// a token nor its length.
pub(super) fn caller<'a>(
    headers: &HeaderMap,
    token: Option<&Secret>,
    credentials: &'a [AdminCredentialConfig],
) -> Option<Caller<'a>> {
    let sent = json_api::bearer(headers)?;
    let credential = credential_of(sent, credentials);
    let is_root = token.is_some_and(|token| {
        check_token(token).is_ok()
            && verify_slices_are_equal(&sha256(sent), &sha256(token.expose())).is_ok()
    });
    if is_root { Some(Caller::Root) } else { credential.map(Caller::Credential) }
}

/// The refusal of a call without a token that is known.
pub(super) fn unauthorized() -> Refusal {
    let remedy = "send the admin token as `Authorization: Bearer <token>`";
    Refusal::unauthorized(remedy, "Bearer realm=\"tollgate-admin\"")
}

#[cfg(test)]
mod tests {
    use http::header::AUTHORIZATION;

    use super::*;

    fn is_authorized(headers: &HeaderMap, token: Option<&Secret>) -> bool {
        caller(headers, token, &[]).is_some()
    }

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn exactly_one_header_with_exactly_the_token() {
        let good = format!("Bearer {TOKEN}");
        for (values, expected, why) in [
            (vec![good.clone()], true, "the token"),
            (vec![format!("bearer {TOKEN}")], true, "the scheme has no case"),
            (vec![], false, "no header"),
            (vec![good.clone(), good.clone()], false, "two headers"),
            (vec![TOKEN.to_owned()], false, "no scheme"),
            (vec![format!("Basic {TOKEN}")], false, "another scheme"),
            (vec![format!("Bearer  {TOKEN}")], false, "two spaces"),
            (vec![format!("{good} ")], false, "a space at the end"),
            (vec![format!("{good}0")], false, "longer"),
            (vec![good[..good.len() - 1].to_owned()], false, "shorter"),
            (vec![good.to_uppercase()], false, "upper case"),
            (vec!["Bearer ".to_owned()], false, "empty"),
            (vec![format!("{good}, {good}")], false, "a list"),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, value.parse().unwrap());
            }
            assert_eq!(is_authorized(&headers, Some(&Secret::new(TOKEN))), expected, "{why}");
        }
    }

    #[test]
    fn a_token_that_is_no_secret_opens_nothing() {
        for token in ["", "short", "0123456789abcdef 123456789abcdef"] {
            let mut headers = HeaderMap::new();
            headers.append(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
            assert!(check_token(&Secret::new(token)).is_err());
            assert!(!is_authorized(&headers, Some(&Secret::new(token))), "{token}");
            assert!(!is_authorized(&headers, None));
        }
    }
}
