//! `tollgate token mint`.

use std::{io::Write, process::ExitCode, str::FromStr};

use anyhow::{Context as _, bail};
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use clap::Args;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Map, Value, json};
use tollgate_core::{
    credential::jwt::issuer::{AlgorithmName, is_symmetric},
    revocation::hex,
    secret::Secret,
    time::{Span, Timestamp},
};

use crate::{cli::argument, observe::now};

const MORE: &str = "\
Examples:
  tollgate token mint --key key.pem --kid main --iss https://auth.example.com --aud inference-api \\
    --sub alice --scope 'infer:text models:read' --ttl 1h
  tollgate token mint --key key.pem --sub alice \\
    --claim tenant_id='\"acme\"' --claim roles='[\"premium\"]' > token.txt
  tollgate token mint --key key.pem --sub alice --ttl=-1m

Exit codes:
  0  printed
  2  the key cannot be read, or does not fit the algorithm";

/// Sign a token with a key of your own, and print it.
///
/// The token and nothing else. Meant for trying policies and for services that issue their own tokens; the key file stays where
/// it is.
#[derive(Debug, Args)]
#[command(after_long_help = MORE)]
pub(super) struct Mint {
    /// The private key: PEM in PKCS#8 (RSA, P-256, P-384, Ed25519; RSA also in PKCS#1), or a file with a shared secret.
    #[arg(long, value_name = "FILE")]
    key: String,
    /// The algorithm. Default: RS256, ES256, ES384, EdDSA or HS256, by the key.
    #[arg(long, value_name = "ALG")]
    alg: Option<String>,
    /// The key's name in the issuer's key set. Left out: the token names no key.
    #[arg(long)]
    kid: Option<String>,
    /// The issuer. Left out: the token has none.
    #[arg(long)]
    iss: Option<String>,
    /// An audience; may be given more than once.
    #[arg(long)]
    aud: Vec<String>,
    /// The subject.
    #[arg(long)]
    sub: Option<String>,
    /// The scopes, with spaces between them.
    #[arg(long)]
    scope: Option<String>,
    /// How long it is good, from now; below zero (`--ttl=-1m`) makes a token that has expired.
    #[arg(long, value_name = "DURATION", default_value = "5m", allow_hyphen_values = true)]
    ttl: Ttl,
    /// Another claim, its value as JSON: `--claim tenant_id='"acme"'`. May be given more than once, and replaces what other
    /// options say.
    #[arg(long, value_name = "NAME=JSON", value_parser = claim)]
    claim: Vec<(String, Value)>,
    /// The token's id. Default: random; an empty one leaves it out.
    #[arg(long)]
    jti: Option<String>,
    /// The type in the header. An empty one leaves it out.
    #[arg(long, default_value = "JWT")]
    typ: String,
}

/// A duration that may be below zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ttl {
    past: bool,
    span: Span,
}

impl FromStr for Ttl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (past, span) = text.strip_prefix('-').map_or((false, text), |span| (true, span));
        Ok(Self { past, span: span.parse()? })
    }
}

fn claim(text: &str) -> Result<(String, Value), String> {
    let (name, json) =
        text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or("write NAME=JSON")?;
    let value = serde_json::from_str(json)
        .map_err(|_| format!("`{json}` is not JSON; text needs quotes: {name}='\"{json}\"'"))?;
    Ok((name.to_owned(), value))
}

impl Mint {
    /// Makes the token and prints it.
    ///
    /// # Errors
    /// A key that cannot be read, or that does not fit the algorithm.
    pub(super) fn run(&self, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        let key =
            std::fs::read(&self.key).with_context(|| format!("cannot read `{}`", self.key))?;
        let token = self
            .token(&Secret::new(key), now())
            .with_context(|| format!("the key `{}`", self.key))?;
        writeln!(out, "{token}")?;
        Ok(ExitCode::SUCCESS)
    }

    fn token(&self, key: &Secret, now: Timestamp) -> anyhow::Result<String> {
        let kind = Kind::of(key.expose())?;
        let algorithm = match &self.alg {
            None => kind.usual(),
            Some(name) => AlgorithmName::parse(name).with_context(|| {
                let known: Vec<&str> = AlgorithmName::ALL.iter().map(|(name, _)| *name).collect();
                format!("unknown algorithm `{name}`; known: {}", known.join(", "))
            })?,
        };
        let private = kind.private(key.expose(), algorithm)?;
        let signed = format!("{}.{}", encoded(self.header(algorithm)), encoded(self.claims(now)?));
        let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &private, algorithm)
            .ok()
            .context("cannot sign: it is damaged, or of a size that is not supported")?;
        Ok(format!("{signed}.{signature}"))
    }

    fn header(&self, algorithm: Algorithm) -> Map<String, Value> {
        let mut header = Map::from_iter([("alg".to_owned(), json!(algorithm))]);
        header.extend(self.kid.as_ref().map(|kid| ("kid".to_owned(), json!(kid))));
        header.extend(
            Some(&self.typ).filter(|typ| !typ.is_empty()).map(|typ| ("typ".to_owned(), json!(typ))),
        );
        header
    }

    fn claims(&self, now: Timestamp) -> anyhow::Result<Map<String, Value>> {
        let secs = self.ttl.span.micros().div_ceil(1_000_000);
        let exp = if self.ttl.past {
            now.secs().saturating_sub(secs)
        } else {
            now.secs().saturating_add(secs)
        };
        let mut claims = Map::from_iter([("exp".to_owned(), json!(exp))]);
        // A token that has expired was issued before that.
        claims.insert("iat".into(), json!(now.secs().min(exp)));
        let mut add = |name: &str, value: Option<Value>| {
            claims.extend(value.map(|value| (name.to_owned(), value)))
        };
        add("iss", self.iss.as_ref().map(|iss| json!(iss)));
        add("sub", self.sub.as_ref().map(|sub| json!(sub)));
        add("scope", self.scope.as_ref().map(|scope| json!(scope)));
        add(
            "aud",
            match self.aud.as_slice() {
                [] => None,
                [one] => Some(json!(one)),
                many => Some(json!(many)),
            },
        );
        let jti = self.jti.clone().map_or_else(random, Ok)?;
        add("jti", Some(jti).filter(|jti| !jti.is_empty()).map(|jti| json!(jti)));
        claims.extend(self.claim.iter().cloned());
        Ok(claims)
    }
}

fn random() -> anyhow::Result<String> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).ok().context("the system has no randomness")?;
    Ok(hex(&bytes))
}

fn encoded(object: Map<String, Value>) -> String {
    URL_SAFE_NO_PAD.encode(Value::Object(object).to_string())
}

/// What a key file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Rsa,
    P256,
    P384,
    Ed25519,
    Secret,
}

impl Kind {
    fn of(file: &[u8]) -> anyhow::Result<Self> {
        let Some(text) = std::str::from_utf8(file)
            .ok()
            .filter(|text| text.trim_start().starts_with("-----BEGIN "))
        else {
            return Ok(Self::Secret);
        };
        let inner =
            text.trim().strip_prefix("-----BEGIN ").and_then(|rest| rest.split_once("-----"));
        let (label, rest) = inner.context("is not PEM")?;
        match label {
            "PRIVATE KEY" => {}
            "RSA PRIVATE KEY" => return Ok(Self::Rsa),
            "EC PRIVATE KEY" => {
                bail!("is not PKCS#8; convert it with `openssl pkcs8 -topk8 -nocrypt`")
            }
            "ENCRYPTED PRIVATE KEY" => bail!("is encrypted; decrypt it with `openssl pkcs8`"),
            "PUBLIC KEY" | "RSA PUBLIC KEY" | "CERTIFICATE" => bail!("is not a private key"),
            _ => bail!("holds `{label}`, which is not a private key that can sign tokens"),
        }
        let base64: String =
            rest.split("-----").next().unwrap_or_default().split_whitespace().collect();
        let der = STANDARD.decode(base64).ok().context("is not PEM")?;
        // PrivateKeyInfo begins with the version and the AlgorithmIdentifier (RFC 5208 section 5), long before the key's own bytes.
        let head = der.get(..40.min(der.len())).unwrap_or_default();
        let kinds: [(&[u8], Self); 4] = [
            (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01", Self::Rsa),
            (b"\x2a\x86\x48\xce\x3d\x03\x01\x07", Self::P256),
            (b"\x2b\x81\x04\x00\x22", Self::P384),
            (b"\x06\x03\x2b\x65\x70", Self::Ed25519),
        ];
        let found =
            kinds.into_iter().find(|(oid, _)| head.windows(oid.len()).any(|window| window == *oid));
        found.map(|(_, kind)| kind).context("is of a type or curve that is not supported")
    }

    const fn usual(self) -> Algorithm {
        match self {
            Self::Rsa => Algorithm::RS256,
            Self::P256 => Algorithm::ES256,
            Self::P384 => Algorithm::ES384,
            Self::Ed25519 => Algorithm::EdDSA,
            Self::Secret => Algorithm::HS256,
        }
    }

    fn private(self, file: &[u8], algorithm: Algorithm) -> anyhow::Result<EncodingKey> {
        let fits = match self {
            Self::Rsa => format!("{algorithm:?}").starts_with(['R', 'P']),
            Self::Secret => is_symmetric(algorithm),
            _ => algorithm == self.usual(),
        };
        if !fits {
            bail!("cannot sign with {algorithm:?}");
        }
        let key = match self {
            Self::Rsa => EncodingKey::from_rsa_pem(file),
            Self::P256 | Self::P384 => EncodingKey::from_ec_pem(file),
            Self::Ed25519 => EncodingKey::from_ed_pem(file),
            Self::Secret => {
                let secret = argument::trimmed(file);
                // The same bound that the gate holds its issuers to: a shorter secret would make tokens nobody accepts.
                tollgate_core::credential::jwt::key_set::KeySet::from_secret(
                    &Secret::new(secret),
                    &[algorithm],
                )
                .map_err(anyhow::Error::msg)?;
                return Ok(EncodingKey::from_secret(secret));
            }
        };
        key.ok().context("is damaged")
    }
}

#[cfg(test)]
mod tests;
