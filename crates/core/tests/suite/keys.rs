//! The keys of one run, the signers of its tokens, and the public halves of keys as raw JSON text
//! and in the spellings that a server may take for an HMAC secret.

use std::{convert::Infallible, sync::LazyLock};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tollgate_testkit::{Algorithm, KeyPair, KeyType, base64url, hmac_sha256, pem};

/// Every key of a run.
pub struct Keys {
    /// Bound to RS256 at its issuers.
    pub rsa: KeyPair,
    /// Another issuer's RSA key, and bound to PS256 at a third.
    pub rsa_other: KeyPair,
    /// The key for ES256.
    pub p256: KeyPair,
    /// The key for ES384.
    pub p384: KeyPair,
    /// The key for EdDSA.
    pub ed: KeyPair,
    /// The attacker's key, which no issuer publishes.
    pub attacker: KeyPair,
}

/// The keys of this process: RSA keys take long to make.
pub static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let made = |key_type| KeyPair::generate(key_type).unwrap();
    Keys {
        rsa: made(KeyType::Rsa),
        rsa_other: made(KeyType::Rsa),
        p256: made(KeyType::P256),
        p384: made(KeyType::P384),
        ed: made(KeyType::Ed25519),
        attacker: made(KeyType::Ed25519),
    }
});

/// The signer of a token: a key and an algorithm.
#[derive(Clone, Copy, Debug)]
pub enum Signer {
    /// EdDSA with the issuer's key.
    Ed,
    /// EdDSA with the attacker's key.
    Attacker,
    /// ES256 with the issuer's key.
    Es256,
    /// ES384 with the issuer's key.
    Es384,
    /// RS256 with the issuer's key.
    Rs256,
    /// RS384 with the RS256 key.
    Rs384,
    /// RS512 with the RS256 key.
    Rs512,
    /// PS256 with the RS256 key.
    Ps256,
    /// RS256 with the other RSA key.
    OtherRs256,
    /// PS256 with the other RSA key.
    OtherPs256,
    /// HS256 with this secret.
    Hs256(&'static [u8]),
    /// Ed25519's R = neutral point and S = 0: valid for every message where the key is the neutral
    /// point.
    Neutral,
    /// An empty signature.
    Unsigned,
}

impl Signer {
    /// The signature's bytes.
    pub fn sign(self, message: &[u8]) -> Vec<u8> {
        let keys = &*KEYS;
        let (key, algorithm) = match self {
            Self::Ed => (&keys.ed, Algorithm::EdDsa),
            Self::Attacker => (&keys.attacker, Algorithm::EdDsa),
            Self::Es256 => (&keys.p256, Algorithm::Es256),
            Self::Es384 => (&keys.p384, Algorithm::Es384),
            Self::Rs256 => (&keys.rsa, Algorithm::Rs256),
            Self::Rs384 => (&keys.rsa, Algorithm::Rs384),
            Self::Rs512 => (&keys.rsa, Algorithm::Rs512),
            Self::Ps256 => (&keys.rsa, Algorithm::Ps256),
            Self::OtherRs256 => (&keys.rsa_other, Algorithm::Rs256),
            Self::OtherPs256 => (&keys.rsa_other, Algorithm::Ps256),
            Self::Hs256(secret) => return hmac_sha256(secret, message),
            Self::Neutral => return [&[1][..], &[0; 63]].concat(),
            Self::Unsigned => return Vec::new(),
        };
        key.sign(algorithm, message).unwrap()
    }

    /// The same, in the form that [`tollgate_testkit::signed`] takes.
    pub fn infallible(self, message: &[u8]) -> Result<Vec<u8>, Infallible> {
        Ok(self.sign(message))
    }
}

/// The members of a key's public JWK as raw JSON text, without `kid`, `use` and `alg`.
pub fn jwk_members(key: &KeyPair) -> String {
    let jwk = serde_json::Value::Object(key.bare_jwk().unwrap()).to_string();
    jwk[1..jwk.len() - 1].to_owned()
}

/// The members of an RSA JWK of these integers.
pub fn rsa_jwk(n: &[u8], e: &[u8]) -> String {
    format!(r#""kty":"RSA","n":"{}","e":"{}""#, base64url(n), base64url(e))
}

/// The members of an EC JWK of these coordinates.
pub fn ec_jwk(curve: &str, x: &[u8], y: &[u8]) -> String {
    format!(r#""kty":"EC","crv":"{curve}","x":"{}","y":"{}""#, base64url(x), base64url(y))
}

/// The modulus of an RSA key, big-endian, without leading zeros.
pub fn modulus(key: &KeyPair) -> Vec<u8> {
    key.rsa_integers().unwrap().0
}

/// The coordinates of an EC key.
pub fn coordinates(key: &KeyPair) -> (&[u8], &[u8]) {
    // An uncompressed point: the byte 4, then both coordinates.
    let point = &key.public()[1..];
    point.split_at(point.len() / 2)
}

/// An RSA public key as text and bytes that servers have taken for an HMAC secret.
pub fn spellings(key: &KeyPair) -> Vec<(&'static str, Vec<u8>)> {
    let (spki, pkcs1, n) = (key.to_spki().unwrap(), key.public().to_vec(), modulus(key));
    let spki_pem = pem::encode("PUBLIC KEY", &spki);
    let pkcs1_pem = pem::encode("RSA PUBLIC KEY", &pkcs1);
    vec![
        ("a PEM file", spki_pem.clone().into_bytes()),
        ("a PEM file without its last line feed", spki_pem.trim_end().as_bytes().to_vec()),
        ("a PEM file after a blank (CVE-2026-34950)", format!(" {spki_pem}").into_bytes()),
        ("a PEM file after an empty line", format!("\n{spki_pem}").into_bytes()),
        ("a PEM file with CRLF", spki_pem.replace('\n', "\r\n").into_bytes()),
        ("a PEM file of PKCS#1", pkcs1_pem.into_bytes()),
        ("the PEM file's base64 on one line", STANDARD.encode(&spki).into_bytes()),
        ("DER", spki),
        ("DER of PKCS#1", pkcs1),
        ("its JWK", format!("{{{}}}", jwk_members(key)).into_bytes()),
        ("the modulus in base64url", base64url(&n).into_bytes()),
        ("the modulus", n),
        ("nothing", Vec::new()),
    ]
}
