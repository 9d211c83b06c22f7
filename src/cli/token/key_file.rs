//! The key files that `token mint` and `token jwks` read.

use anyhow::Context as _;
use tollgate_core::credential::jwt::algorithm::Algorithm as Accepted;
use tollgate_testkit::{Algorithm, KeyPair};

use crate::cli::argument;

/// Reads a key file: PEM, or a shared secret.
pub(super) fn read(file: &[u8]) -> anyhow::Result<KeyPair> {
    match std::str::from_utf8(file) {
        Ok(text) if text.trim_start().starts_with("-----BEGIN ") => Ok(KeyPair::from_pem(text)?),
        _ => Ok(KeyPair::secret(argument::trimmed(file))),
    }
}

/// Returns the algorithm of this name, if an issuer can be configured with it.
pub(super) fn algorithm(name: &str) -> anyhow::Result<Algorithm> {
    let known = Accepted::parse(name).and_then(|_| Algorithm::parse(name));
    known.with_context(|| {
        let known: Vec<&str> = Accepted::NAMES.iter().map(|(name, _)| *name).collect();
        format!("unknown algorithm `{name}`; known: {}", known.join(", "))
    })
}
