//! The claim `cnf`, which binds a token to keys of the client (RFC 7800).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{
    denial::{Denial, Reason, listed},
    identity::Confirmation,
    json::Json,
};

/// The member with the SHA-256 of a certificate (RFC 8705 section 3.1).
const CERTIFICATE: &str = "x5t#S256";

/// The member with the SHA-256 thumbprint of a public key (RFC 9449 section 6.1).
const KEY: &str = "jkt";

/// Returns the keys that a token is bound to; `None` for a bearer token.
///
/// # Errors
/// `unsupported_confirmation` for a member that is not known, as a token that is used without its
/// proof is a bearer token; `invalid_claim` for one that cannot be read.
pub(super) fn of(claims: &Json) -> Result<Option<Confirmation>, Denial> {
    let members = match claims.get("cnf") {
        None => return Ok(None),
        Some(Json::Map(members)) => members,
        Some(other) => {
            let cause = format!("cnf is {}, not an object", other.type_name());
            return Err(Denial::new(Reason::InvalidClaim, cause));
        }
    };
    if members.is_empty() {
        let cause = format!("cnf is empty; it has `{CERTIFICATE}`, `{KEY}` or both");
        return Err(Denial::new(Reason::UnsupportedConfirmation, cause));
    }
    let mut unknown = members.iter().map(|(name, _)| name.as_str());
    let unknown = listed(unknown.by_ref().filter(|name| ![CERTIFICATE, KEY].contains(name)));
    if !unknown.is_empty() {
        let cause = format!(
            "cnf has the members {unknown}; only `{CERTIFICATE}` and `{KEY}` are supported"
        );
        return Err(Denial::new(Reason::UnsupportedConfirmation, cause));
    }
    let mut confirmation = Confirmation::default();
    for (name, value) in members {
        let digest = value.text().and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
        let Some(digest) = digest.and_then(|digest| <[u8; 32]>::try_from(digest).ok()) else {
            let cause = format!("`{name}` of cnf is not a SHA-256 in base64url");
            return Err(Denial::new(Reason::InvalidClaim, cause));
        };
        if name == KEY {
            confirmation.key = Some(digest);
        } else {
            confirmation.certificate = Some(digest);
        }
    }
    Ok(Some(confirmation))
}
