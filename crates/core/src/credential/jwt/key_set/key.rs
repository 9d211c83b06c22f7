//! A key that verifies, and one that was skipped.

use std::{borrow::Cow, fmt};

use aws_lc_rs::signature::ParsedPublicKey;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::DecodingKey;

use crate::credential::jwt::algorithm::Algorithm;

/// The maximum length of a `kid` in bytes.
pub(in crate::credential::jwt) const MAX_KID: usize = 256;

/// A key that verifies with exactly one algorithm.
pub struct Key {
    pub(in crate::credential::jwt) algorithm: Algorithm,
    verifier: Verifier,
}

/// The key itself, with the library that verifies.
enum Verifier {
    Jose(jsonwebtoken::Algorithm, DecodingKey),
    /// P-521, which jsonwebtoken has no algorithm for.
    P521(ParsedPublicKey),
}

/// The key of a JWK before it is bound to an algorithm.
pub(super) enum Material {
    Jose(DecodingKey),
    P521(ParsedPublicKey),
}

impl Key {
    /// Binds a key to an algorithm; `None` where the library cannot verify the algorithm with it.
    pub(super) fn new(algorithm: Algorithm, key: Material) -> Option<Self> {
        let verifier = match key {
            Material::P521(key) if algorithm == Algorithm::ES512 => Verifier::P521(key),
            Material::P521(_) => return None,
            Material::Jose(key) => Verifier::Jose(of_library(algorithm)?, key),
        };
        Some(Self { algorithm, verifier })
    }

    /// Whether `signature` is a signature of this key over `message` by the key's own algorithm.
    /// The signature is in base64url, as in a token (RFC 7515 section 3.1).
    pub fn verifies(&self, message: &[u8], signature: &str) -> bool {
        match &self.verifier {
            // `Ok(false)` is a wrong signature, `Err` a malformed one.
            Verifier::Jose(algorithm, key) => matches!(
                jsonwebtoken::crypto::verify(signature, message, key, *algorithm),
                Ok(true)
            ),
            Verifier::P521(key) => URL_SAFE_NO_PAD
                .decode(signature)
                .is_ok_and(|signature| key.verify_sig(message, &signature).is_ok()),
        }
    }
}

/// Returns the algorithm of jsonwebtoken, which has none for P-521.
const fn of_library(algorithm: Algorithm) -> Option<jsonwebtoken::Algorithm> {
    Some(match algorithm {
        Algorithm::RS256 => jsonwebtoken::Algorithm::RS256,
        Algorithm::RS384 => jsonwebtoken::Algorithm::RS384,
        Algorithm::RS512 => jsonwebtoken::Algorithm::RS512,
        Algorithm::PS256 => jsonwebtoken::Algorithm::PS256,
        Algorithm::PS384 => jsonwebtoken::Algorithm::PS384,
        Algorithm::PS512 => jsonwebtoken::Algorithm::PS512,
        Algorithm::ES256 => jsonwebtoken::Algorithm::ES256,
        Algorithm::ES384 => jsonwebtoken::Algorithm::ES384,
        Algorithm::ES512 => return None,
        Algorithm::EdDSA => jsonwebtoken::Algorithm::EdDSA,
        Algorithm::HS256 => jsonwebtoken::Algorithm::HS256,
        Algorithm::HS384 => jsonwebtoken::Algorithm::HS384,
        Algorithm::HS512 => jsonwebtoken::Algorithm::HS512,
    })
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:?} key]", self.algorithm)
    }
}

/// A key that was skipped, for the log and the metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkippedKey {
    /// The `kid`, if it can be read.
    pub kid: Option<String>,
    /// The reason why the key cannot be used.
    pub reason: Cow<'static, str>,
}
