//! `tollgate token`: make tokens to try a policy with, and look into tokens.

mod inspect;
mod mint;

use std::{io::Write, process::ExitCode};

use clap::{Args, Subcommand};

/// Make and read JSON Web Tokens.
#[derive(Debug, Args)]
pub struct TokenArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Mint(Box<mint::Mint>),
    Inspect(inspect::Inspect),
}

impl TokenArgs {
    /// Carries the subcommand out and prints to `out`.
    ///
    /// # Errors
    /// A key or a token that cannot be read, or arguments that make no token.
    pub fn run(self, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        match self.action {
            Action::Mint(mint) => mint.run(out),
            Action::Inspect(inspect) => inspect.run(out),
        }
    }
}
