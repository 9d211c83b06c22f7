//! `tollgate token mint`.

use std::{io::Write, process::ExitCode, str::FromStr};

use anyhow::{Context as _, anyhow};
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use clap::Args;
use serde_json::{Map, Value, json};
use tollgate_core::{
    credential::jwt::{algorithm::Algorithm as Accepted, key_set::KeySet},
    secret::Secret,
    text::hex,
    time::{Span, SpanError, Timestamp},
};
use tollgate_testkit::{Algorithm, signed};

use super::key_file;
use crate::{cli::argument, observe::now, secrets};

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

/// Sign a token with your own key, and print it.
///
/// Prints the token and nothing else. For trying policies, and for services that issue their own
/// tokens.
#[derive(Debug, Args)]
#[command(after_long_help = MORE)]
pub(super) struct Mint {
    /// The private key: PEM in PKCS#8 (RSA, P-256, P-384, P-521, Ed25519; RSA also in PKCS#1), or a file
    /// with a shared secret.
    #[arg(long, value_name = "FILE")]
    key: String,
    /// The algorithm. Default: RS256, ES256, ES384, ES512, EdDSA or HS256, by
    /// the key.
    #[arg(long, value_name = "ALG")]
    alg: Option<String>,
    /// The key's `kid` in the issuer's key set. Default: none.
    #[arg(long)]
    kid: Option<String>,
    /// The issuer. Default: none.
    #[arg(long)]
    iss: Option<String>,
    /// An audience; may be given more than once.
    #[arg(long)]
    aud: Vec<String>,
    /// The subject (`sub`).
    #[arg(long)]
    sub: Option<String>,
    /// The scopes, with spaces between them.
    #[arg(long)]
    scope: Option<String>,
    /// The lifetime from now; a negative one (`--ttl=-1m`) makes an expired token.
    #[arg(long, value_name = "DURATION", default_value = "5m", allow_hyphen_values = true)]
    ttl: Ttl,
    /// Another claim, its value as JSON: `--claim tenant_id='"acme"'`. May be given more than once,
    /// and overrides other options.
    #[arg(long, value_name = "NAME=JSON", value_parser = claim)]
    claim: Vec<(String, Value)>,
    /// The token's id. Default: random. An empty one is omitted.
    #[arg(long)]
    jti: Option<String>,
    /// The type in the header. An empty one is omitted.
    #[arg(long, default_value = "JWT")]
    typ: String,
}

/// A duration that may be negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ttl {
    past: bool,
    span: Span,
}

impl FromStr for Ttl {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, SpanError> {
        let (past, span) = text.strip_prefix('-').map_or((false, text), |span| (true, span));
        Ok(Self { past, span: span.parse()? })
    }
}

fn claim(text: &str) -> anyhow::Result<(String, Value)> {
    let (name, json) =
        text.split_once('=').filter(|(name, _)| !name.is_empty()).context("write NAME=JSON")?;
    let value = serde_json::from_str(json)
        .map_err(|_| anyhow!("`{json}` is not JSON; text needs quotes: {name}='\"{json}\"'"))?;
    Ok((name.to_owned(), value))
}

impl Mint {
    /// Makes the token and prints it to `out`.
    ///
    /// # Errors
    /// The key cannot be read, or does not fit the algorithm.
    pub(super) fn run(&self, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        let key = argument::file(&self.key, secrets::MAX)?;
        let token = self
            .token(&Secret::new(key), now())
            .with_context(|| format!("the key `{}`", self.key))?;
        writeln!(out, "{token}")?;
        Ok(ExitCode::SUCCESS)
    }

    fn token(&self, key: &Secret, now: Timestamp) -> anyhow::Result<String> {
        let pair = key_file::read(key.expose())?;
        let algorithm = match &self.alg {
            None => pair.key_type().usual_algorithm(),
            Some(name) => key_file::algorithm(name)?,
        };
        check_length(key.expose(), algorithm)?;
        let header = Value::Object(self.header(algorithm)).to_string();
        let claims = Value::Object(self.claims(now)?).to_string();
        Ok(signed(header, claims, |message| pair.sign(algorithm, message))?)
    }

    fn header(&self, algorithm: Algorithm) -> Map<String, Value> {
        let mut header = Map::from_iter([("alg".to_owned(), json!(algorithm.name()))]);
        header.extend(self.kid.as_ref().map(|kid| ("kid".to_owned(), json!(kid))));
        let typ = Some(&self.typ).filter(|typ| !typ.is_empty());
        header.extend(typ.map(|typ| ("typ".to_owned(), json!(typ))));
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
        // An expired token was issued before it expired.
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

/// Rejects a shared secret that is too short for any policy.
fn check_length(file: &[u8], algorithm: Algorithm) -> anyhow::Result<()> {
    let Some(name) = Accepted::parse(algorithm.name()) else { return Ok(()) };
    let secret = Secret::new(argument::trimmed(file));
    KeySet::from_secret(&secret, &[name]).map(drop).map_err(anyhow::Error::msg)
}

#[cfg(test)]
mod tests;
