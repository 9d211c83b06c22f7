//! Tokens as an identity provider makes them: one subject each, all of one length (803 bytes with
//! RS256).

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, ensure};
use clap::Args;
use serde_json::json;
use tollgate_testkit::{KeyPair, Token, base64url, pem, proof, thumbprint};

use crate::keys::{Algorithm, CLIENT};

/// The lifetime of the tokens: below Tollgate's `max_lifetime` of a day.
const HOURS: u64 = 20;

/// Signs tokens for a benchmark.
#[derive(Debug, Args)]
pub(crate) struct Mint {
    /// The directory of the keys.
    #[arg(long)]
    keys: PathBuf,
    #[arg(long, value_enum)]
    algorithm: Algorithm,
    #[arg(long)]
    count: usize,
    #[arg(long, default_value = "https://auth.example.com")]
    issuer: String,
    /// The file to which the tokens are written.
    #[arg(long)]
    to: PathBuf,
    /// Bind the tokens to the key of the client, and write proofs of it for `message::check_request` to
    /// this file: one a line, for the tokens in turn.
    #[arg(long)]
    proofs_to: Option<PathBuf>,
    /// The number of proofs.
    #[arg(long, default_value_t = 0)]
    proofs: usize,
    /// Bind the tokens to this certificate, in PEM.
    #[arg(long)]
    certificate: Option<PathBuf>,
}

impl Mint {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let key = self.algorithm.read_key(&self.keys)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let client = read_client(&self.keys)?;
        let bound = match (&self.proofs_to, &self.certificate) {
            (Some(_), _) => json!({ "cnf": { "jkt": thumbprint(&client)? } }),
            (None, Some(path)) => json!({ "cnf": { "x5t#S256": digest_of(path)? } }),
            (None, None) => json!({}),
        };
        let token = Token::new(self.algorithm.jws()).kid(self.algorithm.kid());
        let (mut text, mut tokens) = (Vec::new(), Vec::new());
        for number in 0..self.count {
            // The width keeps all of one length.
            let claims = json!({
                "iss": self.issuer,
                "aud": "inference-api",
                "sub": format!("user-{number:08}"),
                "iat": now,
                "exp": now + HOURS * 3600,
                "jti": format!("5f3a1c62-9d0e-4b7a-8c11-{number:012x}"),
                "tenant_id": format!("tenant-{:04}", number % 100),
                "scope": "infer:text model:qwen:inference",
                "azp": "web-console",
                "name": "Ada Lovelace", "locale": "en-GB",
            });
            let token = token.clone().claims(claims).claims(bound.clone()).sign(&key)?;
            writeln!(text, "{token}")?;
            tokens.push(token);
        }
        fs::write(&self.to, text)?;
        let Some(path) = &self.proofs_to else { return Ok(()) };
        let mut text = Vec::new();
        for number in 0..self.proofs {
            let token = tokens.get(number % tokens.len().max(1)).context("no tokens")?;
            let jti = format!("{number:032x}");
            writeln!(text, "{}", proof(&client, TARGET, token, now, &jti)?.sign(&client)?)?;
        }
        fs::write(path, text)?;
        Ok(())
    }
}

/// The method and the URI of `message::check_request`.
const TARGET: (&str, &str) = ("POST", "https://api.example.com/v1/chat/completions");

fn read_client(keys: &Path) -> anyhow::Result<KeyPair> {
    let path = keys.join(CLIENT);
    let der = fs::read(&path).with_context(|| format!("{}", path.display()))?;
    KeyPair::from_pkcs8(&der).with_context(|| format!("{}", path.display()))
}

/// The SHA-256 of a certificate in base64url.
fn digest_of(path: &Path) -> anyhow::Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
    let (_, der) = pem::decode(&text).context("the certificate is not PEM")?;
    Ok(base64url(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der)))
}

/// The tokens of a file, all of one length.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<String>> {
    let text = fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
    let tokens: Vec<String> = text.lines().map(str::to_owned).collect();
    let length = tokens.first().with_context(|| format!("{} has no token", path.display()))?.len();
    ensure!(tokens.iter().all(|token| token.len() == length), "the tokens differ in length");
    Ok(tokens)
}
