//! The command `tollgate version`.

use std::{io::Write, process::ExitCode};

use clap::Args;
use serde_json::json;

use super::Output;

/// The version and the commit, as `--version` prints them.
pub(super) const TEXT: &str =
    concat!(env!("CARGO_PKG_VERSION"), " (", env!("TOLLGATE_COMMIT"), ")");

const MORE: &str = "\
Examples:
  tollgate version
  tollgate version --output json

Exit codes:
  0  printed";

/// Print the version and the commit that was built.
///
/// The commit is `unknown` where the program was built without a repository.
#[derive(Debug, Args)]
#[command(after_long_help = MORE)]
pub struct Version {
    /// The form of the output.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl Version {
    /// Prints the version to `out`.
    ///
    /// # Errors
    /// `out` cannot be written to.
    pub fn run(&self, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        match self.output {
            Output::Text => writeln!(out, "tollgate {TEXT}")?,
            Output::Json => writeln!(
                out,
                "{}",
                json!({ "version": env!("CARGO_PKG_VERSION"), "commit": env!("TOLLGATE_COMMIT") })
            )?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(output: Output) -> String {
        let mut out = Vec::new();
        Version { output }.run(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn version_and_commit_are_printed() {
        let text = printed(Output::Text);
        assert_eq!(text, format!("tollgate {TEXT}\n"));
        let json: serde_json::Value = serde_json::from_str(&printed(Output::Json)).unwrap();
        let [version, commit] = ["version", "commit"].map(|key| json[key].as_str().unwrap());
        assert_eq!(text, format!("tollgate {version} ({commit})\n"));
        let is_commit = commit.len() >= 7 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
        assert!(commit == "unknown" || is_commit, "{commit}");
    }
}
