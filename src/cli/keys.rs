//! `tollgate keys`: makes, rotates and lists API keys.

mod action;
mod admin_store;
mod change;
mod file_store;
mod records;
mod redis_store;
mod show;

use std::{io::Write, process::ExitCode};

use clap::{Args, Subcommand};

use self::action::{Create, Hash, Import, List, Revoke, Rotate, Show};

/// Make, rotate, import and list API keys.
///
/// The file is the one that `api_keys.file` of the configuration names. It contains digests, and no
/// key: a key is printed once, when it is made. The file is replaced whole, as JSON, which is YAML
/// too; comments are not kept. A running Tollgate reads it again within seconds.
///
/// With --config in place of --file the records are in the Redis of the configuration
/// (`api_keys.redis`), and a change applies to every replica at once. With --admin and --token-file
/// a running Tollgate does the same through its admin API, within the rights of the token.
#[derive(Debug, Args)]
pub(super) struct KeysArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Create(Box<Create>),
    List(List),
    Show(Show),
    Rotate(Rotate),
    Revoke(Revoke),
    Import(Box<Import>),
    Hash(Hash),
}

impl KeysArgs {
    /// Runs the subcommand and prints to `out`.
    ///
    /// # Errors
    /// The file cannot be read or written, or the arguments make no key.
    pub(super) fn run(self, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        match self.action {
            Action::Create(create) => create.run(out),
            Action::List(list) => list.run(out),
            Action::Show(show) => show.run(out),
            Action::Rotate(rotate) => rotate.run(out),
            Action::Revoke(revoke) => revoke.run(out),
            Action::Import(import) => import.run(out),
            Action::Hash(hash) => hash.run(out),
        }
    }
}

#[cfg(test)]
mod tests;
