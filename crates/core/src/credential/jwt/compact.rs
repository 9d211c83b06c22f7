//! The compact serialisation of a JWS (RFC 7515 section 7.1) and its header.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{algorithm::Algorithm, key_set::MAX_KID};
use crate::{
    denial::{CredentialFailure, Denial, Reason, shown},
    json::Json,
};

/// A refusal as a result.
pub(super) fn refuse<T>(reason: Reason, cause: &'static str) -> Result<T, Denial> {
    Err(Denial::new(reason, cause))
}

/// The token as text: `b64token` of RFC 6750 section 2.1.
pub(super) fn token_text(token: &[u8]) -> Result<&str, Denial> {
    let is_token = |b: &u8| {
        b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b'+' | b'/' | b'=')
    };
    let Some(at) = token.iter().position(|byte| !is_token(byte)) else {
        return std::str::from_utf8(token)
            .map_err(|_| Denial::new(Reason::MalformedToken, "the token is not text"));
    };
    let rest = token.get(at..).unwrap_or_default();
    let first = rest.utf8_chunks().next().and_then(|chunk| chunk.valid().chars().next());
    let what = match first {
        Some(character) => format!("U+{:04X}", u32::from(character)),
        None => "bytes that are not UTF-8".to_owned(),
    };
    let cause = format!("the token holds characters no token has: {what} at byte {at}");
    Err(Denial::new(Reason::MalformedToken, cause))
}

/// The parts of a token.
pub(super) struct Parts<'a> {
    pub(super) header: &'a str,
    pub(super) payload: &'a str,
    pub(super) signature: &'a str,
    /// Header and payload with the dot between them: what the signature is over.
    pub(super) signed: &'a str,
}

impl<'a> Parts<'a> {
    /// Splits a token into its three parts. Five would be an encrypted token.
    pub(super) fn split(token: &'a str) -> Result<Self, Denial> {
        let dots = token.bytes().filter(|b| *b == b'.').count();
        let (Some((signed, signature)), 2) = (token.rsplit_once('.'), dots) else {
            return refuse(
                Reason::MalformedToken,
                if dots == 4 {
                    "the token is encrypted"
                } else {
                    "the token does not have three parts"
                },
            );
        };
        match signed.split_once('.') {
            Some((header, payload)) => Ok(Self { header, payload, signature, signed }),
            None => refuse(Reason::MalformedToken, "the token does not have three parts"),
        }
    }
}

/// Decodes base64url without padding and without stray bits (RFC 7515 section 2).
pub(super) fn decode(part: &str) -> Result<Vec<u8>, Denial> {
    URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| Denial::new(Reason::MalformedToken, "a part of the token is not base64url"))
}

/// Decodes a part that is one JSON object.
pub(super) fn object(part: &str, name: &str) -> Result<Json, Denial> {
    let bytes = decode(part)?;
    Json::object(&bytes).ok_or_else(|| {
        let cause = if bytes.starts_with("\u{feff}".as_bytes()) {
            format!("the {name} begins with a byte order mark (U+FEFF), which JSON has not")
        } else {
            format!("the {name} is not one JSON object without repeated members")
        };
        Denial::new(Reason::MalformedToken, cause)
    })
}

/// The header of a token, as far as it is used.
pub(super) struct Header {
    pub(super) algorithm: Algorithm,
    /// The name of the algorithm in the token: one has two.
    pub(super) algorithm_name: &'static str,
    /// Whether it has the `nonce` of Entra ID, with which only Microsoft's own APIs verify.
    pub(super) has_nonce: bool,
    /// The name of the key; `None` where it is absent or empty.
    pub(super) kid: Option<String>,
    /// Whether `typ` is that of an access token (RFC 9068 section 2.1).
    pub(super) is_access_token: bool,
    /// Whether `typ` is JOSE, which a JWT-SVID may have (JWT-SVID section 2.3).
    pub(super) is_jose: bool,
}

impl Header {
    /// Reads a header.
    pub(super) fn parse(part: &str) -> Result<Self, Denial> {
        let json = object(part, "header")?;
        // None of them is implemented, so none of them may be present (RFC 7515 section 4.1.11).
        // jwk, jku, x5u and x5c are never read; they are not refused, as some issuers send them.
        for member in ["crit", "b64", "zip", "enc", "p2c", "p2s", "epk"] {
            if json.get(member).is_some() {
                return refuse(
                    Reason::MalformedToken,
                    "the header asks for something that is not supported (crit, b64, zip or encryption)",
                );
            }
        }
        let (algorithm_name, algorithm) = match json.get("alg") {
            Some(Json::Text(name)) => Algorithm::find(name).ok_or_else(|| {
                let cause = if name.eq_ignore_ascii_case("none") {
                    format!("the algorithm `{}` is no signature, and never accepted", shown(name))
                } else {
                    format!("the algorithm `{}` is not supported", shown(name))
                };
                Denial::new(Reason::AlgorithmNotAllowed, cause)
            })?,
            Some(_) | None => {
                return refuse(Reason::AlgorithmNotAllowed, "alg is missing or not a string");
            }
        };
        let kid = match json.get("kid") {
            None => None,
            Some(Json::Text(kid)) if kid.is_empty() => None,
            Some(Json::Text(kid)) if kid.len() <= MAX_KID => Some(kid.clone()),
            Some(_) => {
                let cause = "kid is not a string of at most 256 bytes";
                return Err(Denial::new(Reason::UnknownKey, cause)
                    .with_failure(CredentialFailure::Malformed));
            }
        };
        let typ = match json.get("typ") {
            None => String::new(),
            Some(Json::Text(typ)) => typ.to_ascii_lowercase(),
            Some(_) => return refuse(Reason::WrongTokenType, "typ is not a string"),
        };
        let is_access_token = matches!(typ.as_str(), "at+jwt" | "application/at+jwt");
        let is_jose = typ == "jose";
        if json.get("typ").is_some()
            && !is_access_token
            && !is_jose
            && !matches!(typ.as_str(), "jwt" | "application/jwt")
        {
            return refuse(Reason::WrongTokenType, "typ is neither JWT nor at+jwt");
        }
        if json.get("cty").is_some() {
            return refuse(Reason::WrongTokenType, "the token holds another token (cty)");
        }
        let has_nonce = json.get("nonce").is_some();
        Ok(Self { algorithm, algorithm_name, has_nonce, kid, is_access_token, is_jose })
    }
}
