//! `tollgate token`: makes keys and tokens to try a policy with, and shows the contents of tokens.

mod inspect;
mod jwks;
mod key_file;
mod keygen;
mod mint;
mod unreadable;

use std::{io::Write, process::ExitCode};

use clap::{Args, Subcommand};

/// Make and read JSON Web Tokens, and keys for them.
#[derive(Debug, Args)]
pub struct TokenArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Keygen(keygen::Keygen),
    Jwks(jwks::Jwks),
    Mint(Box<mint::Mint>),
    Inspect(inspect::Inspect),
}

impl TokenArgs {
    /// Runs the subcommand and prints to `out`.
    ///
    /// # Errors
    /// A key or a token cannot be read, or the arguments make no token.
    pub fn run(self, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        match self.action {
            Action::Keygen(keygen) => keygen.run(out),
            Action::Jwks(jwks) => jwks.run(out),
            Action::Mint(mint) => mint.run(out),
            Action::Inspect(inspect) => inspect.run(out),
        }
    }
}
