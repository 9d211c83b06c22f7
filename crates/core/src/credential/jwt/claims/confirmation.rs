//! The claim `cnf`, which binds a token to a key of the client (RFC 7800).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{
    denial::{Denial, Reason, listed, shown},
    identity::Confirmation,
    json::Json,
};

/// The member with the SHA-256 of a certificate (RFC 8705 section 3.1).
const CERTIFICATE: &str = "x5t#S256";

/// Returns the key that a token is bound to; `None` for a bearer token.
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
    let [(name, value)] = members.as_slice() else {
        let names = listed(members.iter().map(|(name, _)| name.as_str()));
        let cause = format!("cnf has the members {names}; exactly `{CERTIFICATE}` is supported");
        return Err(Denial::new(Reason::UnsupportedConfirmation, cause));
    };
    if name != CERTIFICATE {
        let cause =
            format!("cnf has the member `{}`; only `{CERTIFICATE}` is supported", shown(name));
        return Err(Denial::new(Reason::UnsupportedConfirmation, cause));
    }
    let digest = value.text().and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
    match digest.and_then(|digest| digest.try_into().ok()) {
        Some(digest) => Ok(Some(Confirmation::Certificate(digest))),
        None => {
            let cause =
                format!("`{CERTIFICATE}` of cnf is not the SHA-256 of a certificate in base64url");
            Err(Denial::new(Reason::InvalidClaim, cause))
        }
    }
}
