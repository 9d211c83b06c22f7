//! Key pairs as an identity provider has them, one of each kind, and the key set it publishes.

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
        RSA_PKCS1_SHA256, RsaKeyPair,
    },
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

/// Where keys are written.
#[derive(Debug, Args)]
pub(crate) struct Keys {
    /// The directory.
    directory: PathBuf,
}

/// The algorithms that are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Algorithm {
    #[value(name = "RS256")]
    Rs256,
    #[value(name = "ES256")]
    Es256,
    #[value(name = "EdDSA")]
    EdDsa,
}

impl Algorithm {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }

    /// The key's name in `jwks.json`.
    pub(crate) fn kid(self) -> &'static str {
        match self {
            Self::Rs256 => "rsa-2048-for-the-benchmarks",
            Self::Es256 => "p256-for-the-benchmarks",
            Self::EdDsa => "ed25519-for-the-benchmarks",
        }
    }

    pub(crate) fn file(self) -> String {
        format!("{}.der", self.name())
    }
}

/// A private key, parsed once.
pub(crate) enum Signer {
    Rsa(Box<RsaKeyPair>),
    Ecdsa(Box<EcdsaKeyPair>),
    Ed25519(Box<Ed25519KeyPair>),
}

impl Signer {
    pub(crate) fn read(directory: &std::path::Path, algorithm: Algorithm) -> anyhow::Result<Self> {
        let path = directory.join(algorithm.file());
        let der = fs::read(&path).with_context(|| format!("{}", path.display()))?;
        Ok(match algorithm {
            Algorithm::Rs256 => Self::Rsa(Box::new(RsaKeyPair::from_pkcs8(&der)?)),
            Algorithm::Es256 => Self::Ecdsa(Box::new(EcdsaKeyPair::from_pkcs8(
                &ECDSA_P256_SHA256_FIXED_SIGNING,
                &der,
            )?)),
            Algorithm::EdDsa => Self::Ed25519(Box::new(Ed25519KeyPair::from_pkcs8(&der)?)),
        })
    }

    pub(crate) fn sign(&self, message: &[u8]) -> anyhow::Result<Vec<u8>> {
        let random = SystemRandom::new();
        Ok(match self {
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)?;
                signature
            }
            Self::Ecdsa(pair) => pair.sign(&random, message)?.as_ref().to_vec(),
            Self::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
        })
    }

    /// The public key as aws-lc-rs takes it.
    pub(crate) fn public(&self) -> Vec<u8> {
        match self {
            Self::Rsa(pair) => pair.public_key().as_ref().to_vec(),
            Self::Ecdsa(pair) => pair.public_key().as_ref().to_vec(),
            Self::Ed25519(pair) => pair.public_key().as_ref().to_vec(),
        }
    }

    fn jwk(&self) -> anyhow::Result<Value> {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        Ok(match self {
            Self::Rsa(pair) => {
                // PKCS#1: a sequence of two integers. With 2048 bits the modulus is 256 bytes after 9 of headers and sign, and
                // aws-lc makes keys with the exponent 65537 only.
                let n = pair.public_key().as_ref().get(9..265).context("a modulus")?;
                json!({ "kty": "RSA", "n": text(n), "e": "AQAB" })
            }
            Self::Ecdsa(pair) => {
                // An uncompressed point: 4, x, y.
                let point = pair.public_key().as_ref();
                let (x, y) = point
                    .get(1..)
                    .and_then(|point| point.split_at_checked(32))
                    .context("a point")?;
                json!({ "kty": "EC", "crv": "P-256", "x": text(x), "y": text(y) })
            }
            Self::Ed25519(pair) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "x": text(pair.public_key().as_ref()) })
            }
        })
    }
}

impl Keys {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        fs::create_dir_all(&self.directory)?;
        let random = SystemRandom::new();
        let mut set = Vec::new();
        for algorithm in [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa] {
            let der = match algorithm {
                Algorithm::Rs256 => {
                    AsDer::<Pkcs8V1Der<'_>>::as_der(&RsaKeyPair::generate(KeySize::Rsa2048)?)?
                        .as_ref()
                        .to_vec()
                }
                Algorithm::Es256 => {
                    EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)?
                        .as_ref()
                        .to_vec()
                }
                Algorithm::EdDsa => Ed25519KeyPair::generate_pkcs8(&random)?.as_ref().to_vec(),
            };
            fs::write(self.directory.join(algorithm.file()), der)?;
            let mut jwk = Signer::read(&self.directory, algorithm)?.jwk()?;
            let known = jwk.as_object_mut().context("an object")?;
            known.insert("kid".into(), algorithm.kid().into());
            known.insert("alg".into(), algorithm.name().into());
            known.insert("use".into(), "sig".into());
            set.push(jwk);
        }
        fs::write(self.directory.join("jwks.json"), json!({ "keys": set }).to_string())?;
        Ok(())
    }
}
