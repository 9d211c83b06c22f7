//! Keys made for one run: pairs that sign, and their public halves as JWKs and in the spellings that a confused server may
//! take for an HMAC secret.

use std::sync::LazyLock;

use aws_lc_rs::{
    encoding::AsDer,
    hmac,
    rand::SystemRandom,
    rsa::{KeyPair as RsaPair, KeySize},
    signature::{
        self, ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING,
        ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaEncoding,
    },
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};

/// Base64url without padding, as every part of a token is written.
pub fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// An RSA pair of 2048 bits.
pub struct Rsa {
    pair: RsaPair,
    /// The modulus, big-endian, without leading zeros.
    pub n: Vec<u8>,
    e: Vec<u8>,
}

impl Rsa {
    fn new() -> Self {
        let pair = RsaPair::generate(KeySize::Rsa2048).unwrap();
        let [n, e] = integers(pair.public_key().as_ref());
        Self { pair, n, e }
    }

    /// Signs with one of `aws_lc_rs::signature::RSA_*`.
    pub fn sign(&self, encoding: &'static dyn RsaEncoding, message: &[u8]) -> Vec<u8> {
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair.sign(encoding, &SystemRandom::new(), message, &mut signature).unwrap();
        signature
    }

    /// The members `kty`, `n` and `e` of its JWK.
    pub fn jwk(&self) -> String {
        rsa_jwk(&self.n, &self.e)
    }

    /// SubjectPublicKeyInfo (RFC 5280) in DER.
    pub fn spki(&self) -> Vec<u8> {
        self.pair.public_key().as_der().unwrap().as_ref().to_vec()
    }

    /// The public key as text and bytes that were taken for an HMAC secret somewhere.
    pub fn spellings(&self) -> Vec<(&'static str, Vec<u8>)> {
        let (spki, pkcs1) = (self.spki(), self.pair.public_key().as_ref().to_vec());
        let (spki_pem, pkcs1_pem) = (pem("PUBLIC KEY", &spki), pem("RSA PUBLIC KEY", &pkcs1));
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
            ("its JWK", format!("{{{}}}", self.jwk()).into_bytes()),
            ("the modulus", self.n.clone()),
            ("the modulus in base64url", b64(&self.n).into_bytes()),
            ("nothing", Vec::new()),
        ]
    }
}

/// The members of an RSA JWK.
pub fn rsa_jwk(n: &[u8], e: &[u8]) -> String {
    format!(r#""kty":"RSA","n":"{}","e":"{}""#, b64(n), b64(e))
}

/// The members of an EC JWK.
pub fn ec_jwk(curve: &str, x: &[u8], y: &[u8]) -> String {
    format!(r#""kty":"EC","crv":"{curve}","x":"{}","y":"{}""#, b64(x), b64(y))
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// The two integers of a DER `SEQUENCE { INTEGER, INTEGER }`: an RSA public key of PKCS#1, or an ECDSA signature.
pub fn integers(der: &[u8]) -> [Vec<u8>; 2] {
    fn value(der: &[u8], tag: u8) -> (&[u8], &[u8]) {
        assert_eq!(der[0], tag);
        let (length, header) = match der[1] {
            short @ 0..=0x7f => (usize::from(short), 2),
            0x81 => (usize::from(der[2]), 3),
            0x82 => (usize::from(der[2]) << 8 | usize::from(der[3]), 4),
            _ => panic!("longer than 64 KiB"),
        };
        (&der[header..header + length], &der[header + length..])
    }
    let (sequence, _) = value(der, 0x30);
    let (first, rest) = value(sequence, 2);
    let (second, _) = value(rest, 2);
    [first, second].map(|integer| integer.iter().copied().skip_while(|byte| *byte == 0).collect())
}

/// An ECDSA pair, with its point.
pub struct Ec {
    pair: EcdsaKeyPair,
    asn1: Option<EcdsaKeyPair>,
    curve: &'static str,
    /// The coordinates.
    pub x: Vec<u8>,
    /// The coordinates.
    pub y: Vec<u8>,
}

impl Ec {
    fn p256() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let pkcs8 = pair.to_pkcs8v1().unwrap();
        let asn1 =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref()).unwrap();
        Self::of(pair, Some(asn1), "P-256", 32)
    }

    fn p384() -> Self {
        Self::of(
            EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap(),
            None,
            "P-384",
            48,
        )
    }

    fn of(
        pair: EcdsaKeyPair,
        asn1: Option<EcdsaKeyPair>,
        curve: &'static str,
        length: usize,
    ) -> Self {
        let point = pair.public_key().as_ref().to_vec();
        assert_eq!((point[0], point.len()), (4, 1 + 2 * length), "an uncompressed point");
        Self { x: point[1..=length].to_vec(), y: point[1 + length..].to_vec(), pair, asn1, curve }
    }

    /// `r` and `s`, one after the other (RFC 7518 section 3.4).
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
    }

    /// The same in DER, as X.509 has it and JWS does not.
    pub fn sign_der(&self, message: &[u8]) -> Vec<u8> {
        self.asn1.as_ref().unwrap().sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
    }

    /// The members `kty`, `crv`, `x` and `y` of its JWK.
    pub fn jwk(&self) -> String {
        ec_jwk(self.curve, &self.x, &self.y)
    }
}

/// An Ed25519 pair.
pub struct Ed(Ed25519KeyPair);

impl Ed {
    fn new() -> Self {
        Self(Ed25519KeyPair::generate().unwrap())
    }

    /// Signs.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(message).as_ref().to_vec()
    }

    /// The public key.
    pub fn point(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    /// The members `kty`, `crv` and `x` of its JWK (RFC 8037).
    pub fn jwk(&self) -> String {
        format!(r#""kty":"OKP","crv":"Ed25519","x":"{}""#, b64(self.point()))
    }
}

/// Every key of a run.
pub struct Keys {
    /// Bound to RS256 at its issuers.
    pub rsa: Rsa,
    /// Another issuer's RSA key, and bound to PS256 at a third.
    pub rsa_other: Rsa,
    /// For ES256.
    pub p256: Ec,
    /// For ES384.
    pub p384: Ec,
    /// For EdDSA.
    pub ed: Ed,
    /// Nobody's: the attacker made it.
    pub attacker: Ed,
}

/// The keys of this process: RSA pairs take long to make.
pub static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys {
    rsa: Rsa::new(),
    rsa_other: Rsa::new(),
    p256: Ec::p256(),
    p384: Ec::p384(),
    ed: Ed::new(),
    attacker: Ed::new(),
});

/// HMAC with SHA-256.
pub fn hmac(secret: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message).as_ref().to_vec()
}

/// Who signs, and by which algorithm: what an `alg` would say of it.
#[derive(Clone, Copy, Debug)]
pub enum Signer {
    /// EdDSA with the issuer's key.
    Ed,
    /// EdDSA with the attacker's key.
    Attacker,
    /// ES256.
    Es256,
    /// ES384.
    Es384,
    /// RS256.
    Rs256,
    /// RS384.
    Rs384,
    /// RS512.
    Rs512,
    /// PS256, with the RS256 key.
    Ps256,
    /// RS256 with the other RSA key.
    OtherRs256,
    /// PS256 with the other RSA key.
    OtherPs256,
    /// HS256 with this secret.
    Hs256(&'static [u8]),
    /// Ed25519's R = neutral point and S = 0: valid for every message where the key is the neutral point.
    Neutral,
    /// An empty signature.
    Nobody,
}

impl Signer {
    /// The signature's bytes.
    pub fn sign(self, message: &[u8]) -> Vec<u8> {
        let keys = &*KEYS;
        match self {
            Self::Ed => keys.ed.sign(message),
            Self::Attacker => keys.attacker.sign(message),
            Self::Es256 => keys.p256.sign(message),
            Self::Es384 => keys.p384.sign(message),
            Self::Rs256 => keys.rsa.sign(&signature::RSA_PKCS1_SHA256, message),
            Self::Rs384 => keys.rsa.sign(&signature::RSA_PKCS1_SHA384, message),
            Self::Rs512 => keys.rsa.sign(&signature::RSA_PKCS1_SHA512, message),
            Self::Ps256 => keys.rsa.sign(&signature::RSA_PSS_SHA256, message),
            Self::OtherRs256 => keys.rsa_other.sign(&signature::RSA_PKCS1_SHA256, message),
            Self::OtherPs256 => keys.rsa_other.sign(&signature::RSA_PSS_SHA256, message),
            Self::Hs256(secret) => hmac(secret, message),
            Self::Neutral => [&[1][..], &[0; 63]].concat(),
            Self::Nobody => Vec::new(),
        }
    }
}
