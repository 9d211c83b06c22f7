//! A key that verifies, and one that was skipped.

use std::{borrow::Cow, fmt};

use aws_lc_rs::signature::ParsedPublicKey;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::DecodingKey;

use crate::{credential::jwt::algorithm::Algorithm, identity::Generation};

/// The maximum length of a `kid` in bytes.
pub(in crate::credential::jwt) const MAX_KID: usize = 256;

/// A key that verifies with the algorithms it is bound to: the `alg` of its JWK, or those of the
/// issuer that fit its type.
pub struct Key {
    pub(super) algorithms: Vec<Algorithm>,
    /// Whether the JWK names its algorithm.
    pub(super) is_named: bool,
    /// The digest of the members that make the key, which is the same for the same key.
    pub(super) thumbprint: [u8; 32],
    /// The marker of the key, which it keeps in a later set.
    pub(super) generation: Generation,
    material: Material,
}

/// The key itself, with the library that verifies.
pub(super) enum Material {
    Jose(DecodingKey),
    /// P-521, which jsonwebtoken has no algorithm for.
    P521(ParsedPublicKey),
}

impl Key {
    /// Binds a key to algorithms that fit its type.
    pub(super) fn new(
        algorithms: Vec<Algorithm>,
        is_named: bool,
        thumbprint: [u8; 32],
        material: Material,
    ) -> Self {
        Self { algorithms, is_named, thumbprint, generation: Generation::new(), material }
    }

    /// Adds what another entry with the same key has. An `alg` that one of them names binds both.
    pub(super) fn merge(&mut self, other: &Self) {
        match (self.is_named, other.is_named) {
            (true, true) => {
                let more = other.algorithms.iter().filter(|it| !self.algorithms.contains(it));
                let more: Vec<Algorithm> = more.copied().collect();
                self.algorithms.extend(more);
            }
            (false, true) => {
                self.algorithms.clone_from(&other.algorithms);
                self.is_named = true;
            }
            (_, false) => {}
        }
    }

    /// Returns the algorithms that the key may verify, in the order of the issuer's list.
    pub fn algorithms(&self) -> &[Algorithm] {
        &self.algorithms
    }

    /// Whether `signature` is a signature of this key over `message` by `algorithm`, which is one of
    /// the key's. The signature is in base64url, as in a token (RFC 7515 section 3.1).
    pub fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &str) -> bool {
        if !self.algorithms.contains(&algorithm) {
            return false;
        }
        match &self.material {
            // `Ok(false)` is a wrong signature, `Err` a malformed one.
            Material::Jose(key) => of_library(algorithm).is_some_and(|algorithm| {
                matches!(jsonwebtoken::crypto::verify(signature, message, key, algorithm), Ok(true))
            }),
            Material::P521(key) => URL_SAFE_NO_PAD
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
        write!(f, "[{} key]", Algorithm::list(&self.algorithms))
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
