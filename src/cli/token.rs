//! `tollgate token`: makes tokens to try a policy with, and shows the contents of tokens.

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
    /// Runs the subcommand and prints to `out`.
    ///
    /// # Errors
    /// A key or a token cannot be read, or the arguments make no token.
    pub fn run(self, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        match self.action {
            Action::Mint(mint) => mint.run(out),
            Action::Inspect(inspect) => inspect.run(out),
        }
    }
}
