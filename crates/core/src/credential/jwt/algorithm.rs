//! The signature algorithms that an issuer may use.

use std::fmt;

use serde::{Serialize, Serializer};

/// A signature algorithm (RFC 7518 section 3.1, RFC 8037).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RS256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    RS384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    RS512,
    /// RSASSA-PSS with SHA-256.
    PS256,
    /// RSASSA-PSS with SHA-384.
    PS384,
    /// RSASSA-PSS with SHA-512.
    PS512,
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// ECDSA on P-384 with SHA-384.
    ES384,
    /// ECDSA on P-521 with SHA-512.
    ES512,
    /// Ed25519, which RFC 8037 calls `EdDSA` and RFC 9864 `Ed25519`.
    EdDSA,
    /// HMAC with SHA-256.
    HS256,
    /// HMAC with SHA-384.
    HS384,
    /// HMAC with SHA-512.
    HS512,
}

impl Algorithm {
    /// Every JOSE name with its algorithm. The first name of an algorithm is the one that messages
    /// use.
    pub const NAMES: [(&'static str, Self); 14] = [
        ("RS256", Self::RS256),
        ("RS384", Self::RS384),
        ("RS512", Self::RS512),
        ("PS256", Self::PS256),
        ("PS384", Self::PS384),
        ("PS512", Self::PS512),
        ("ES256", Self::ES256),
        ("ES384", Self::ES384),
        ("ES512", Self::ES512),
        ("EdDSA", Self::EdDSA),
        ("Ed25519", Self::EdDSA),
        ("HS256", Self::HS256),
        ("HS384", Self::HS384),
        ("HS512", Self::HS512),
    ];

    /// Returns the algorithm with exactly this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::find(name).map(|(_, algorithm)| algorithm)
    }

    /// Returns the algorithm with exactly this name, and the name.
    pub(super) fn find(name: &str) -> Option<(&'static str, Self)> {
        Self::NAMES.iter().find(|(known, _)| *known == name).copied()
    }

    /// Returns the name of the algorithm.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, known)| *known == self).map_or("", |(name, _)| name)
    }

    /// Whether the algorithm uses a shared secret.
    pub const fn is_symmetric(self) -> bool {
        matches!(self, Self::HS256 | Self::HS384 | Self::HS512)
    }

    /// Returns the names of a list, separated by commas.
    pub(super) fn list(algorithms: &[Self]) -> String {
        let names: Vec<&str> = algorithms.iter().map(|algorithm| algorithm.name()).collect();
        names.join(", ")
    }
}

impl fmt::Debug for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Algorithm {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_names_of_ed25519_are_one_algorithm() {
        for (name, algorithm) in Algorithm::NAMES {
            assert_eq!(Algorithm::parse(name), Some(algorithm));
            let expected = if name == "Ed25519" { "EdDSA" } else { name };
            assert_eq!(algorithm.name(), expected);
        }
        for name in ["none", "rs256", "ES256K", "Ed448", "ESP256", "ed25519", ""] {
            assert_eq!(Algorithm::parse(name), None, "{name}");
        }
    }
}
