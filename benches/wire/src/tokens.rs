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
use tollgate_testkit::Token;

use crate::keys::Algorithm;

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
}

impl Mint {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let key = self.algorithm.read_key(&self.keys)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let token = Token::new(self.algorithm.jws()).kid(self.algorithm.kid());
        let mut text = Vec::new();
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
            writeln!(text, "{}", token.clone().claims(claims).sign(&key)?)?;
        }
        fs::write(&self.to, text)?;
        Ok(())
    }
}

/// The tokens of a file, all of one length.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<String>> {
    let text = fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
    let tokens: Vec<String> = text.lines().map(str::to_owned).collect();
    let length = tokens.first().with_context(|| format!("{} has no token", path.display()))?.len();
    ensure!(tokens.iter().all(|token| token.len() == length), "the tokens differ in length");
    Ok(tokens)
}
