//! The key pairs of an identity provider, one of each kind, and the key set that it publishes.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use tollgate_testkit::{KeyPair, KeyType, jwk_set};

/// The file with the key of a client, to which tokens may be bound.
pub(crate) const CLIENT: &str = "client.der";

/// Makes the keys.
#[derive(Debug, Args)]
pub(crate) struct Keys {
    /// The directory to which the keys are written.
    directory: PathBuf,
}

/// An algorithm that is measured.
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
    const ALL: [Self; 3] = [Self::Rs256, Self::Es256, Self::EdDsa];

    /// The algorithm, as the test kit has it.
    pub(crate) fn jws(self) -> tollgate_testkit::Algorithm {
        match self {
            Self::Rs256 => tollgate_testkit::Algorithm::Rs256,
            Self::Es256 => tollgate_testkit::Algorithm::Es256,
            Self::EdDsa => tollgate_testkit::Algorithm::EdDsa,
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

    /// Reads the private key from the directory of the keys.
    pub(crate) fn read_key(self, directory: &Path) -> anyhow::Result<KeyPair> {
        let path = directory.join(self.file());
        let der = fs::read(&path).with_context(|| format!("{}", path.display()))?;
        KeyPair::from_pkcs8(&der).with_context(|| format!("{}", path.display()))
    }

    fn file(self) -> String {
        format!("{}.der", self.jws().name())
    }
}

impl Keys {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        fs::create_dir_all(&self.directory)?;
        let mut published = Vec::new();
        for algorithm in Algorithm::ALL {
            let key = KeyPair::generate(KeyType::of(algorithm.jws()))?;
            fs::write(self.directory.join(algorithm.file()), key.to_pkcs8()?)?;
            published.push(key.jwk(algorithm.kid(), algorithm.jws())?);
        }
        fs::write(self.directory.join("jwks.json"), jwk_set(published).to_string())?;
        let client = KeyPair::generate(KeyType::P256)?;
        fs::write(self.directory.join(CLIENT), client.to_pkcs8()?)?;
        Ok(())
    }
}
