//! `tollgate token keygen`.

use std::{
    fs::OpenOptions,
    io::Write,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::Args;
use tollgate_testkit::{KeyPair, KeyType};

use super::key_file;

const MORE: &str = "\
Examples:
  tollgate token keygen --out signing.pem
  tollgate token keygen --alg RS256 --out rsa.pem
  tollgate token keygen --alg HS256 --out shared.txt

Exit codes:
  0  written
  2  the file exists, or cannot be written";

/// Make a key that signs tokens.
///
/// A private key in PEM (PKCS#8), or a shared secret for HS256, HS384 and HS512. `token jwks` prints
/// its public half for the policy, `token mint` signs tokens with it.
#[derive(Debug, Args)]
#[command(after_long_help = MORE)]
pub(super) struct Keygen {
    /// The algorithm that the key is for.
    #[arg(long, value_name = "ALG", default_value = "ES256")]
    alg: String,
    /// The file to write, readable by its owner only. It must not exist. Default: standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Keygen {
    /// Makes the key, and writes it to the file or to `out`.
    ///
    /// # Errors
    /// The algorithm is unknown, or the file exists or cannot be written.
    pub(super) fn run(&self, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        let text = generate(&self.alg)?;
        match &self.out {
            Some(path) => write_new(path, &text)?,
            None => out.write_all(text.as_bytes())?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Returns a new key as the text of its file.
fn generate(name: &str) -> anyhow::Result<String> {
    let algorithm = key_file::algorithm(name)?;
    if algorithm.is_symmetric() {
        // As long as the longest hash (RFC 7518 section 3.2).
        let mut secret = [0; 64];
        SystemRandom::new().fill(&mut secret).ok().context("the system has no randomness")?;
        return Ok(format!("{}\n", STANDARD.encode(secret)));
    }
    Ok(KeyPair::generate(KeyType::of(algorithm))?.to_pem()?)
}

fn write_new(path: &Path, text: &str) -> anyhow::Result<()> {
    let shown = path.display();
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.with_context(|| format!("cannot write `{shown}`"))?;
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write `{shown}`"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use tollgate_core::credential::jwt::algorithm::Algorithm as Accepted;
    use tollgate_testkit::Algorithm;

    use super::*;

    #[test]
    fn every_algorithm_has_a_key_that_is_read_again() {
        for (name, _) in Accepted::NAMES {
            let text = generate(name).unwrap();
            let algorithm = Algorithm::parse(name).unwrap();
            if algorithm.is_symmetric() {
                assert_eq!(text.trim_end().len(), 88, "{name}");
            } else {
                let pair = KeyPair::from_pem(&text).unwrap();
                assert_eq!(pair.key_type(), KeyType::of(algorithm), "{name}");
            }
        }
        let error = generate("none").unwrap_err().to_string();
        assert!(error.contains("unknown algorithm `none`; known: RS256"), "{error}");
    }

    #[test]
    fn a_key_file_is_its_owner_s_and_never_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key.pem");
        let keygen = || Keygen { alg: "ES256".into(), out: Some(path.clone()) };
        keygen().run(&mut Vec::new()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let first = std::fs::read(&path).unwrap();
        assert!(keygen().run(&mut Vec::new()).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), first);
    }
}
