//! The compact serialisation of a JWS (RFC 7515 section 7.1) and its header.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{algorithm::Algorithm, key_set::MAX_KID};
use crate::{
    denial::{Denial, Reason},
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

/// The header of a token, as far as it is used.
pub(super) struct Header {
    pub(super) algorithm: Algorithm,
    /// The name of the key; `None` where it is absent or empty.
    pub(super) kid: Option<String>,
}

impl Header {
    /// Reads a header.
    pub(super) fn parse(part: &str) -> Result<Self, Denial> {
        let Some(json) = Json::object(&decode(part)?) else {
            return refuse(
                Reason::MalformedToken,
                "the header is not one JSON object without repeated members",
            );
        };
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
        let algorithm = match json.get("alg") {
            Some(Json::Text(name)) => Algorithm::parse(name).ok_or_else(|| {
                Denial::new(Reason::AlgorithmNotAllowed, "the algorithm is not known")
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
                return refuse(Reason::UnknownKey, "kid is not a string of at most 256 bytes");
            }
        };
        match json.get("typ") {
            None => {}
            Some(Json::Text(typ))
                if ["jwt", "at+jwt", "application/at+jwt", "application/jwt"]
                    .contains(&typ.to_ascii_lowercase().as_str()) => {}
            Some(_) => return refuse(Reason::WrongTokenType, "typ is neither JWT nor at+jwt"),
        }
        if json.get("cty").is_some() {
            return refuse(Reason::WrongTokenType, "the token holds another token (cty)");
        }
        Ok(Self { algorithm, kid })
    }
}
