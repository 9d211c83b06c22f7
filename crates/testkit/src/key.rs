//! Key pairs that sign, and their public halves.

use aws_lc_rs::{
    encoding::{AsDer as _, Pkcs8V1Der, PublicKeyX509Der},
    hmac,
    rand::SystemRandom,
    rsa::{self, KeySize},
    signature::{
        self, ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING,
        ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair,
        EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RsaEncoding,
    },
};
use serde_json::{Map, Value, json};
use thiserror::Error;

use crate::{Algorithm, base64url, pem};

/// Why a key cannot be made, read or used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// The cryptography library refused to make the key.
    #[error("the key cannot be made")]
    NotMade,
    /// The text is not PEM.
    #[error("it is not PEM")]
    NotPem,
    /// The PEM block holds an EC key in SEC 1 form.
    #[error("it is not PKCS#8; convert it with `openssl pkcs8 -topk8 -nocrypt`")]
    NotPkcs8,
    /// The PEM block holds an encrypted key.
    #[error("it is encrypted; decrypt it with `openssl pkcs8`")]
    Encrypted,
    /// The PEM block holds a public key or a certificate.
    #[error("it is not a private key")]
    NotPrivate,
    /// The key has a type or curve that JWS has no algorithm for.
    #[error("its type or curve is not supported")]
    Unsupported,
    /// The key is damaged, or an RSA key is smaller than 2048 bits.
    #[error("it is damaged, or of a size that is not supported")]
    Damaged,
    /// The key cannot sign with the algorithm.
    #[error("it cannot sign with {}", .0.name())]
    WrongAlgorithm(Algorithm),
    /// A shared secret has no public half.
    #[error("a shared secret has no public half")]
    Secret,
    /// The token's header and claims must be objects.
    #[error("the header and the claims of a token are JSON objects")]
    NotAnObject,
}

/// The types of key that JWS uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyType {
    /// RSA with 2048 bits.
    Rsa,
    /// The curve P-256.
    P256,
    /// The curve P-384.
    P384,
    /// The curve P-521.
    P521,
    /// The curve Ed25519.
    Ed25519,
    /// A shared secret.
    Secret,
}

impl KeyType {
    /// The key type that an algorithm needs.
    pub fn of(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Hs256 | Algorithm::Hs384 | Algorithm::Hs512 => Self::Secret,
            Algorithm::Rs256
            | Algorithm::Rs384
            | Algorithm::Rs512
            | Algorithm::Ps256
            | Algorithm::Ps384
            | Algorithm::Ps512 => Self::Rsa,
            Algorithm::Es256 => Self::P256,
            Algorithm::Es384 => Self::P384,
            Algorithm::Es512 => Self::P521,
            Algorithm::EdDsa | Algorithm::Ed25519 => Self::Ed25519,
        }
    }

    /// The algorithm that identity providers use with such a key by default.
    pub fn usual_algorithm(self) -> Algorithm {
        match self {
            Self::Rsa => Algorithm::Rs256,
            Self::P256 => Algorithm::Es256,
            Self::P384 => Algorithm::Es384,
            Self::P521 => Algorithm::Es512,
            Self::Ed25519 => Algorithm::EdDsa,
            Self::Secret => Algorithm::Hs256,
        }
    }
}

/// A private key with its public half, or a shared secret. It cannot print.
pub struct KeyPair(Private);

enum Private {
    Rsa(rsa::KeyPair),
    Ec { curve: &'static Curve, pkcs8: Vec<u8>, pair: Box<EcdsaKeyPair> },
    Ed25519 { pkcs8: Vec<u8>, pair: Ed25519KeyPair },
    Secret(Vec<u8>),
}

/// A curve of NIST, as JWK and the library name it.
struct Curve {
    key_type: KeyType,
    name: &'static str,
    /// Bytes of one coordinate.
    length: usize,
    signing: &'static EcdsaSigningAlgorithm,
}

static CURVES: [Curve; 3] = [
    Curve {
        key_type: KeyType::P256,
        name: "P-256",
        length: 32,
        signing: &ECDSA_P256_SHA256_FIXED_SIGNING,
    },
    Curve {
        key_type: KeyType::P384,
        name: "P-384",
        length: 48,
        signing: &ECDSA_P384_SHA384_FIXED_SIGNING,
    },
    Curve {
        key_type: KeyType::P521,
        name: "P-521",
        length: 66,
        signing: &ECDSA_P521_SHA512_FIXED_SIGNING,
    },
];

impl std::fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyPair({:?})", self.key_type())
    }
}

impl KeyPair {
    /// Makes a new key. RSA keys take a noticeable time.
    ///
    /// # Errors
    /// The library refuses, or `key_type` is [`KeyType::Secret`], which [`KeyPair::secret`] makes.
    pub fn generate(key_type: KeyType) -> Result<Self, KeyError> {
        let random = SystemRandom::new();
        match key_type {
            KeyType::Rsa => rsa::KeyPair::generate(KeySize::Rsa2048)
                .map(|pair| Self(Private::Rsa(pair)))
                .map_err(|_| KeyError::NotMade),
            KeyType::Ed25519 => {
                let der =
                    Ed25519KeyPair::generate_pkcs8v1(&random).map_err(|_| KeyError::NotMade)?;
                Self::ed25519(der.as_ref())
            }
            KeyType::Secret => Err(KeyError::Secret),
            KeyType::P256 | KeyType::P384 | KeyType::P521 => {
                let curve = curve(key_type).ok_or(KeyError::Unsupported)?;
                let der = EcdsaKeyPair::generate_pkcs8(curve.signing, &random)
                    .map_err(|_| KeyError::NotMade)?;
                Self::ec(curve, der.as_ref())
            }
        }
    }

    /// A shared secret for the HMAC algorithms.
    pub fn secret(secret: impl Into<Vec<u8>>) -> Self {
        Self(Private::Secret(secret.into()))
    }

    /// Reads a private key in PKCS#8 DER.
    ///
    /// # Errors
    /// The key is of another type, or damaged.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        // PrivateKeyInfo begins with the version and the AlgorithmIdentifier (RFC 5208 section 5),
        // before the key's own bytes.
        let head = der.get(..40.min(der.len())).unwrap_or_default();
        let oids: [(&[u8], KeyType); 5] = [
            (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01", KeyType::Rsa),
            (b"\x2a\x86\x48\xce\x3d\x03\x01\x07", KeyType::P256),
            (b"\x2b\x81\x04\x00\x22", KeyType::P384),
            (b"\x2b\x81\x04\x00\x23", KeyType::P521),
            (b"\x06\x03\x2b\x65\x70", KeyType::Ed25519),
        ];
        let found = oids.iter().find(|(oid, _)| head.windows(oid.len()).any(|part| part == *oid));
        match found.map(|(_, key_type)| *key_type) {
            None | Some(KeyType::Secret) => Err(KeyError::Unsupported),
            Some(KeyType::Rsa) => rsa::KeyPair::from_pkcs8(der)
                .map(|pair| Self(Private::Rsa(pair)))
                .map_err(|_| KeyError::Damaged),
            Some(KeyType::Ed25519) => Self::ed25519(der),
            Some(key_type) => Self::ec(curve(key_type).ok_or(KeyError::Unsupported)?, der),
        }
    }

    /// Reads a private key in PEM: PKCS#8, or PKCS#1 for RSA.
    ///
    /// # Errors
    /// The text is not PEM, holds another kind of object, or the key is damaged.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let (label, der) = pem::decode(text).ok_or(KeyError::NotPem)?;
        match label {
            "PRIVATE KEY" => Self::from_pkcs8(&der),
            "RSA PRIVATE KEY" => rsa::KeyPair::from_der(&der)
                .map(|pair| Self(Private::Rsa(pair)))
                .map_err(|_| KeyError::Damaged),
            "EC PRIVATE KEY" => Err(KeyError::NotPkcs8),
            "ENCRYPTED PRIVATE KEY" => Err(KeyError::Encrypted),
            "PUBLIC KEY" | "RSA PUBLIC KEY" | "CERTIFICATE" => Err(KeyError::NotPrivate),
            _ => Err(KeyError::Unsupported),
        }
    }

    fn ec(curve: &'static Curve, der: &[u8]) -> Result<Self, KeyError> {
        let pair = EcdsaKeyPair::from_pkcs8(curve.signing, der).map_err(|_| KeyError::Damaged)?;
        Ok(Self(Private::Ec { curve, pkcs8: der.to_vec(), pair: Box::new(pair) }))
    }

    fn ed25519(der: &[u8]) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_pkcs8(der).map_err(|_| KeyError::Damaged)?;
        Ok(Self(Private::Ed25519 { pkcs8: der.to_vec(), pair }))
    }

    /// The type of the key.
    pub fn key_type(&self) -> KeyType {
        match &self.0 {
            Private::Rsa(_) => KeyType::Rsa,
            Private::Ec { curve, .. } => curve.key_type,
            Private::Ed25519 { .. } => KeyType::Ed25519,
            Private::Secret(_) => KeyType::Secret,
        }
    }

    /// The private key in PKCS#8 DER.
    ///
    /// # Errors
    /// A shared secret has no such form.
    pub fn to_pkcs8(&self) -> Result<Vec<u8>, KeyError> {
        match &self.0 {
            Private::Rsa(pair) => {
                let der: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| KeyError::NotMade)?;
                Ok(der.as_ref().to_vec())
            }
            Private::Ec { pkcs8, .. } | Private::Ed25519 { pkcs8, .. } => Ok(pkcs8.clone()),
            Private::Secret(_) => Err(KeyError::Secret),
        }
    }

    /// The private key in PEM (PKCS#8).
    ///
    /// # Errors
    /// A shared secret has no such form.
    pub fn to_pem(&self) -> Result<String, KeyError> {
        Ok(pem::encode("PRIVATE KEY", &self.to_pkcs8()?))
    }

    /// The public key: PKCS#1 for RSA, the uncompressed point or the 32 bytes for the curves,
    /// nothing for a secret.
    pub fn public(&self) -> &[u8] {
        match &self.0 {
            Private::Rsa(pair) => pair.public_key().as_ref(),
            Private::Ec { pair, .. } => pair.public_key().as_ref(),
            Private::Ed25519 { pair, .. } => pair.public_key().as_ref(),
            Private::Secret(_) => &[],
        }
    }

    /// The public key as SubjectPublicKeyInfo (RFC 5280 section 4.1) in DER.
    ///
    /// # Errors
    /// A shared secret has no public half.
    pub fn to_spki(&self) -> Result<Vec<u8>, KeyError> {
        let der: PublicKeyX509Der<'_> = match &self.0 {
            Private::Rsa(pair) => pair.public_key().as_der(),
            Private::Ec { pair, .. } => pair.public_key().as_der(),
            Private::Ed25519 { pair, .. } => pair.public_key().as_der(),
            Private::Secret(_) => return Err(KeyError::Secret),
        }
        .map_err(|_| KeyError::NotMade)?;
        Ok(der.as_ref().to_vec())
    }

    /// The modulus and the exponent of an RSA key, big-endian, without leading zeros.
    pub fn rsa_integers(&self) -> Option<(Vec<u8>, Vec<u8>)> {
        let Private::Rsa(pair) = &self.0 else { return None };
        der_integers(pair.public_key().as_ref())
    }

    /// The members of the JWK that the key type defines (RFC 7518 section 6, RFC 8037): no `kid`,
    /// `use` or `alg`.
    ///
    /// # Errors
    /// A shared secret is not published.
    pub fn bare_jwk(&self) -> Result<Map<String, Value>, KeyError> {
        let value = match &self.0 {
            Private::Rsa(_) => {
                let (n, e) = self.rsa_integers().ok_or(KeyError::Unsupported)?;
                json!({ "kty": "RSA", "n": base64url(n), "e": base64url(e) })
            }
            Private::Ec { curve, pair, .. } => {
                // An uncompressed point: the byte 4, then both coordinates.
                let point = pair.public_key().as_ref().get(1..).ok_or(KeyError::Damaged)?;
                let (x, y) = point.split_at_checked(curve.length).ok_or(KeyError::Damaged)?;
                json!({ "kty": "EC", "crv": curve.name, "x": base64url(x), "y": base64url(y) })
            }
            Private::Ed25519 { pair, .. } => {
                json!({ "kty": "OKP", "crv": "Ed25519", "x": base64url(pair.public_key()) })
            }
            Private::Secret(_) => return Err(KeyError::Secret),
        };
        match value {
            Value::Object(members) => Ok(members),
            _ => Err(KeyError::NotAnObject),
        }
    }

    /// The public JWK as an issuer publishes it.
    ///
    /// # Errors
    /// A shared secret is not published.
    pub fn jwk(&self, kid: &str, algorithm: Algorithm) -> Result<Value, KeyError> {
        let mut jwk = self.bare_jwk()?;
        jwk.insert("kid".into(), kid.into());
        jwk.insert("use".into(), "sig".into());
        jwk.insert("alg".into(), algorithm.name().into());
        Ok(Value::Object(jwk))
    }

    /// Signs `message`. An RSA key signs with every RSA algorithm, a secret with every HMAC.
    ///
    /// # Errors
    /// The algorithm does not fit the key.
    pub fn sign(&self, algorithm: Algorithm, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        if KeyType::of(algorithm) != self.key_type() {
            return Err(KeyError::WrongAlgorithm(algorithm));
        }
        let random = SystemRandom::new();
        match &self.0 {
            Private::Rsa(pair) => {
                let encoding =
                    rsa_encoding(algorithm).ok_or(KeyError::WrongAlgorithm(algorithm))?;
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &random, message, &mut signature)
                    .map_err(|_| KeyError::Damaged)?;
                Ok(signature)
            }
            Private::Ec { pair, .. } => pair
                .sign(&random, message)
                .map(|signature| signature.as_ref().to_vec())
                .map_err(|_| KeyError::Damaged),
            Private::Ed25519 { pair, .. } => Ok(pair.sign(message).as_ref().to_vec()),
            Private::Secret(secret) => {
                let hash = match algorithm {
                    Algorithm::Hs384 => hmac::HMAC_SHA384,
                    Algorithm::Hs512 => hmac::HMAC_SHA512,
                    _ => hmac::HMAC_SHA256,
                };
                Ok(hmac::sign(&hmac::Key::new(hash, secret), message).as_ref().to_vec())
            }
        }
    }

    /// A P-256 signature in DER, as X.509 has it and JWS does not.
    ///
    /// # Errors
    /// The key is not a P-256 key.
    pub fn sign_der(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        match &self.0 {
            Private::Ec { curve, pkcs8, .. } if curve.key_type == KeyType::P256 => {
                EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8)
                    .ok()
                    .and_then(|pair| pair.sign(&SystemRandom::new(), message).ok())
                    .map(|signature| signature.as_ref().to_vec())
                    .ok_or(KeyError::Damaged)
            }
            _ => Err(KeyError::WrongAlgorithm(Algorithm::Es256)),
        }
    }
}

/// The two integers of a DER `SEQUENCE { INTEGER, INTEGER }` without leading zeros: an RSA public
/// key in PKCS#1 (RFC 8017 appendix A.1.1), or an ECDSA signature (RFC 3279 section 2.2.3).
pub fn der_integers(der: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    fn value(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
        let (found, rest) = der.split_first()?;
        let (short, rest) = rest.split_first()?;
        let (length, rest) = match short {
            0..=0x7f => (usize::from(*short), rest),
            0x81 => rest.split_first().map(|(length, rest)| (usize::from(*length), rest))?,
            0x82 => {
                let (length, rest) = rest.split_first_chunk::<2>()?;
                (usize::from(u16::from_be_bytes(*length)), rest)
            }
            _ => return None,
        };
        (*found == tag).then(|| rest.split_at_checked(length))?
    }
    let trimmed = |integer: &[u8]| integer.iter().copied().skip_while(|byte| *byte == 0).collect();
    let (sequence, _) = value(der, 0x30)?;
    let (first, rest) = value(sequence, 2)?;
    let (second, _) = value(rest, 2)?;
    Some((trimmed(first), trimmed(second)))
}

/// HMAC with SHA-256.
pub fn hmac_sha256(secret: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message).as_ref().to_vec()
}

/// A key set (RFC 7517 section 5) of these keys.
pub fn jwk_set(keys: impl IntoIterator<Item = Value>) -> Value {
    json!({ "keys": keys.into_iter().collect::<Vec<_>>() })
}

fn curve(key_type: KeyType) -> Option<&'static Curve> {
    CURVES.iter().find(|curve| curve.key_type == key_type)
}

fn rsa_encoding(algorithm: Algorithm) -> Option<&'static dyn RsaEncoding> {
    Some(match algorithm {
        Algorithm::Rs256 => &signature::RSA_PKCS1_SHA256,
        Algorithm::Rs384 => &signature::RSA_PKCS1_SHA384,
        Algorithm::Rs512 => &signature::RSA_PKCS1_SHA512,
        Algorithm::Ps256 => &signature::RSA_PSS_SHA256,
        Algorithm::Ps384 => &signature::RSA_PSS_SHA384,
        Algorithm::Ps512 => &signature::RSA_PSS_SHA512,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPES: [KeyType; 5] =
        [KeyType::Rsa, KeyType::P256, KeyType::P384, KeyType::P521, KeyType::Ed25519];

    #[test]
    fn every_type_is_read_back_from_its_pem() {
        for key_type in TYPES {
            let key = KeyPair::generate(key_type).unwrap();
            let again = KeyPair::from_pem(&key.to_pem().unwrap()).unwrap();
            assert_eq!(again.key_type(), key_type);
            assert_eq!(again.public(), key.public(), "{key_type:?}");
            let algorithm = key_type.usual_algorithm();
            assert!(!key.sign(algorithm, b"message").unwrap().is_empty());
            assert_eq!(key.jwk("a", algorithm).unwrap()["alg"], algorithm.name());
        }
    }

    #[test]
    fn a_key_refuses_the_algorithms_of_other_types() {
        let key = KeyPair::generate(KeyType::P256).unwrap();
        for algorithm in [Algorithm::Rs256, Algorithm::Es384, Algorithm::EdDsa, Algorithm::Hs256] {
            let refused = key.sign(algorithm, b"");
            assert_eq!(refused, Err(KeyError::WrongAlgorithm(algorithm)));
        }
        let secret = KeyPair::secret("s");
        assert_eq!(secret.bare_jwk(), Err(KeyError::Secret));
        assert!(secret.sign(Algorithm::Hs512, b"message").is_ok());
        assert_eq!(format!("{secret:?}"), "KeyPair(Secret)");
    }

    #[test]
    fn what_is_not_a_private_key_is_named() {
        for (text, error) in [
            ("hello", KeyError::NotPem),
            (
                "-----BEGIN EC PRIVATE KEY-----\nAA==\n-----END EC PRIVATE KEY-----\n",
                KeyError::NotPkcs8,
            ),
            ("-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----\n", KeyError::NotPrivate),
            (
                "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n",
                KeyError::Unsupported,
            ),
        ] {
            assert_eq!(KeyPair::from_pem(text).unwrap_err(), error, "{text}");
        }
    }
}
