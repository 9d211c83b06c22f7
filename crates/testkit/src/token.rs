//! Tokens in compact serialization (RFC 7515 section 7.1), good ones and broken ones.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use crate::{Algorithm, KeyError, KeyPair};

/// Base64url without padding, as every part of a token is written.
pub fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A token to be signed.
#[derive(Clone, Debug)]
pub struct Token {
    algorithm: Algorithm,
    header: Map<String, Value>,
    claims: Map<String, Value>,
}

impl Token {
    /// A token with `alg` and `typ: JWT` in its header and no claims.
    pub fn new(algorithm: Algorithm) -> Self {
        let mut header = Map::new();
        header.insert("alg".into(), algorithm.name().into());
        header.insert("typ".into(), "JWT".into());
        Self { algorithm, header, claims: Map::new() }
    }

    /// Sets the header's `kid`.
    #[must_use]
    pub fn kid(self, kid: &str) -> Self {
        self.header(serde_json::json!({ "kid": kid }))
    }

    /// Sets members of the header; `null` removes one.
    #[must_use]
    pub fn header(mut self, members: Value) -> Self {
        merge(&mut self.header, members);
        self
    }

    /// Sets claims; `null` removes one.
    #[must_use]
    pub fn claims(mut self, members: Value) -> Self {
        merge(&mut self.claims, members);
        self
    }

    /// Signs the token.
    ///
    /// # Errors
    /// The key cannot sign with the token's algorithm.
    pub fn sign(&self, key: &KeyPair) -> Result<String, KeyError> {
        let header = Value::Object(self.header.clone()).to_string();
        let claims = Value::Object(self.claims.clone()).to_string();
        signed(&header, &claims, |message| key.sign(self.algorithm, message))
    }
}

/// A token of these bytes, whatever they are, with the signature that `sign` returns.
///
/// # Errors
/// Those of `sign`.
pub fn signed<E>(
    header: impl AsRef<[u8]>,
    payload: impl AsRef<[u8]>,
    sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, E>,
) -> Result<String, E> {
    let message = format!("{}.{}", base64url(header), base64url(payload));
    let signature = base64url(sign(message.as_bytes())?);
    Ok(format!("{message}.{signature}"))
}

/// A token of these bytes whose signature was made with no key.
pub fn unsigned(header: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> String {
    format!("{}.{}.{}", base64url(header), base64url(payload), base64url("unsigned"))
}

/// The three parts of a token, each in base64url.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenParts<'a> {
    /// The encoded header.
    pub header: &'a str,
    /// The encoded claims.
    pub payload: &'a str,
    /// The encoded signature.
    pub signature: &'a str,
}

impl<'a> TokenParts<'a> {
    /// Splits a token; `None` where it does not have three parts.
    pub fn of(token: &'a str) -> Option<Self> {
        let mut parts = token.split('.');
        let found =
            Self { header: parts.next()?, payload: parts.next()?, signature: parts.next()? };
        parts.next().is_none().then_some(found)
    }

    /// The decoded bytes of the signature.
    pub fn signature_bytes(&self) -> Option<Vec<u8>> {
        URL_SAFE_NO_PAD.decode(self.signature).ok()
    }

    /// The token with another signature.
    pub fn with_signature(&self, signature: &[u8]) -> String {
        format!("{}.{}.{}", self.header, self.payload, base64url(signature))
    }

    /// The token with one bit of its signature changed; `None` where it has none.
    pub fn forged(&self) -> Option<String> {
        let mut signature = self.signature_bytes()?;
        *signature.first_mut()? ^= 1;
        Some(self.with_signature(&signature))
    }
}

/// `base` with the members of `changes` set.
pub fn merged(base: &Map<String, Value>, changes: &Map<String, Value>) -> Map<String, Value> {
    let mut merged = base.clone();
    merged.extend(changes.iter().map(|(name, value)| (name.clone(), value.clone())));
    merged
}

fn merge(members: &mut Map<String, Value>, changes: Value) {
    let Value::Object(changes) = changes else { return };
    for (name, value) in changes {
        if value.is_null() {
            members.remove(&name);
        } else {
            members.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn members_are_set_and_removed() {
        let key = KeyPair::secret("0123456789abcdef0123456789abcdef");
        let token = Token::new(Algorithm::Hs256)
            .kid("a")
            .header(json!({ "typ": null }))
            .claims(json!({ "sub": "ann", "aud": "x" }))
            .claims(json!({ "aud": null }))
            .sign(&key)
            .unwrap();
        let parts = TokenParts::of(&token).unwrap();
        let decoded = |part: &str| -> Value {
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
        };
        assert_eq!(decoded(parts.header), json!({ "alg": "HS256", "kid": "a" }));
        assert_eq!(decoded(parts.payload), json!({ "sub": "ann" }));
        assert_ne!(parts.forged().unwrap(), token);
        assert_eq!(unsigned("{}", "[]"), "e30.W10.dW5zaWduZWQ");
        assert_eq!(TokenParts::of("a.b"), None);
        assert_eq!(TokenParts::of("a.b.c.d"), None);
    }
}
