//! The command `tollgate completions`.

use std::{io::Write, process::ExitCode};

use clap::Args;
use clap_complete::Shell;

const MORE: &str = "\
Examples:
  tollgate completions bash > ~/.local/share/bash-completion/completions/tollgate
  tollgate completions zsh > ~/.zfunc/_tollgate
  tollgate completions fish > ~/.config/fish/completions/tollgate.fish

Exit codes:
  0  printed
  2  no such shell";

/// Print a completion script for a shell.
///
/// Store it where the shell looks for such files, and open a new shell. For zsh, the directory has
/// to be in `fpath` before `compinit` runs.
#[derive(Debug, Args)]
#[command(after_long_help = MORE)]
pub struct Completions {
    /// The shell to complete for.
    shell: Shell,
}

impl Completions {
    /// Prints the script for `command` to `out`.
    ///
    /// # Errors
    /// A failed write to `out`.
    pub fn run(
        &self,
        command: &mut clap::Command,
        out: &mut dyn Write,
    ) -> anyhow::Result<ExitCode> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, command, "tollgate", &mut script);
        out.write_all(&script)?;
        Ok(ExitCode::SUCCESS)
    }
}
