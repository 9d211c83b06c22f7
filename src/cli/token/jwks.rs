//! `tollgate token jwks`.

use std::{io::Write, process::ExitCode};

use anyhow::Context as _;
use aws_lc_rs::digest::{SHA256, digest};
use clap::Args;
use serde_json::Value;
use tollgate_core::{
    credential::jwt::{algorithm::Algorithm as Accepted, key_set::KeySet},
    secret::Secret,
};
use tollgate_testkit::{KeyPair, base64url, jwk_set};

use super::key_file;
use crate::{cli::argument, secrets};

const MORE: &str = "\
Examples:
  tollgate token jwks --key main=key.pem > own-keys.json
  tollgate token jwks --key key.pem --alg RS256

Exit codes:
  0  printed
  2  a key cannot be read, or does not fit the algorithm";

/// Print the key set of your own keys, for `jwks: { file: … }` or a web server.
///
/// It has the public half of each key: nothing in it is secret.
#[derive(Debug, Args)]
#[command(after_long_help = MORE)]
pub(super) struct Jwks {
    /// A private key in PEM, as `token mint` takes it, and its `kid`. Default for the `kid`: the
    /// thumbprint of the key (RFC 7638). May be given more than once.
    #[arg(long, value_name = "[KID=]FILE", required = true)]
    key: Vec<String>,
    /// The algorithm of all keys. Default: RS256, ES256, ES384, ES512 or EdDSA, by the key.
    #[arg(long, value_name = "ALG")]
    alg: Option<String>,
}

impl Jwks {
    /// Prints the key set to `out`.
    ///
    /// # Errors
    /// A key cannot be read, is a shared secret, or does not fit the algorithm.
    pub(super) fn run(&self, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        let mut jwks = Vec::new();
        for given in &self.key {
            let (kid, file) = match given.split_once('=') {
                Some((kid, file)) if !kid.is_empty() => (Some(kid), file),
                _ => (None, given.as_str()),
            };
            let content = Secret::new(argument::file(file, secrets::MAX)?);
            let jwk = self.jwk(kid, content.expose()).with_context(|| format!("the key `{file}`"));
            jwks.push(jwk?);
        }
        writeln!(out, "{:#}", jwk_set(jwks))?;
        Ok(ExitCode::SUCCESS)
    }

    fn jwk(&self, kid: Option<&str>, file: &[u8]) -> anyhow::Result<Value> {
        let pair = key_file::read(file)?;
        let algorithm = match &self.alg {
            None => pair.key_type().usual_algorithm(),
            Some(name) => key_file::algorithm(name)?,
        };
        let thumbprint = thumbprint(&pair)?;
        let jwk = pair.jwk(kid.unwrap_or(&thumbprint), algorithm)?;
        // What no policy could use is not published.
        let accepted: Vec<Accepted> = Accepted::parse(algorithm.name()).into_iter().collect();
        KeySet::parse(jwk_set([jwk.clone()]).to_string().as_bytes(), &accepted)?;
        Ok(jwk)
    }
}

/// Returns the thumbprint of a public key: the hash of its members in the order of their names,
/// without white space (RFC 7638 section 3).
fn thumbprint(pair: &KeyPair) -> anyhow::Result<String> {
    let members = pair.bare_jwk().map_err(|_| {
        anyhow::Error::msg("a shared secret is never published; name it in `secret`")
    })?;
    let mut members: Vec<(String, Value)> = members.into_iter().collect();
    members.sort_by(|(one, _), (other, _)| one.cmp(other));
    let text: Vec<String> =
        members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    Ok(base64url(digest(&SHA256, format!("{{{}}}", text.join(",")).as_bytes())))
}

#[cfg(test)]
mod tests {
    use tollgate_testkit::KeyType;

    use super::*;

    fn printed(keys: &[String], alg: Option<&str>) -> anyhow::Result<Value> {
        let mut out = Vec::new();
        let jwks = Jwks { key: keys.to_vec(), alg: alg.map(str::to_owned) };
        jwks.run(&mut out)?;
        Ok(serde_json::from_slice(&out).unwrap())
    }

    #[test]
    fn the_set_has_the_public_halves_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let ec = KeyPair::generate(KeyType::P256).unwrap();
        let ed = KeyPair::generate(KeyType::Ed25519).unwrap();
        std::fs::write(path("ec.pem"), ec.to_pem().unwrap()).unwrap();
        std::fs::write(path("ed.pem"), ed.to_pem().unwrap()).unwrap();
        let keys = [format!("main={}", path("ec.pem")), path("ed.pem")];
        let set = printed(&keys, None).unwrap();
        assert_eq!(set["keys"][0]["kid"], "main");
        assert_eq!(
            (&set["keys"][0]["alg"], &set["keys"][1]["alg"]),
            (&"ES256".into(), &"EdDSA".into())
        );
        assert_eq!(set["keys"][1]["kid"].as_str().unwrap().len(), 43);
        assert!(!set.to_string().contains("\"d\""), "{set}");
        let error = format!("{:#}", printed(&keys, Some("RS256")).unwrap_err());
        assert!(error.contains("ec.pem") && !error.contains("BEGIN"), "{error}");
        std::fs::write(path("secret"), "s".repeat(40)).unwrap();
        let error = format!("{:#}", printed(&[path("secret")], None).unwrap_err());
        assert!(error.contains("never published"), "{error}");
    }

    /// RFC 8037 appendix A.3.
    #[test]
    fn a_thumbprint_is_that_of_the_rfc() {
        let pem = "-----BEGIN PRIVATE KEY-----\n\
                   MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
                   -----END PRIVATE KEY-----\n";
        let pair = KeyPair::from_pem(pem).unwrap();
        assert_eq!(thumbprint(&pair).unwrap(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }
}
