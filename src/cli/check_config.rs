//! `tollgate check-config`.

use std::{io::Write, path::PathBuf, process::ExitCode};

use clap::Args;
use serde_json::json;

use super::{Output, failure, paint::Paint};
use crate::config::{self, LoadError};

const MORE: &str = "\
Examples:
  tollgate check-config tollgate.yaml
  tollgate check-config tollgate.yaml --output json | jq -r '.errors[] | \"\\(.line) \\(.message)\"'

Exit codes:
  0  nothing is wrong
  1  something is, and is listed
  2  the file cannot be read";

/// Report everything that is wrong with a configuration file.
///
/// Everything at once: file, line, place, and what to do. What hangs on a part that cannot be read is looked at when it can be.
/// Names such as `${NAME}` are taken from the environment; secrets and key files are not read, `serve` does that at its start.
#[derive(Debug, Args)]
#[command(after_long_help = MORE)]
pub struct CheckConfig {
    /// The configuration file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// How to report.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl CheckConfig {
    /// Checks the file and prints to `out`.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn run(self, out: &mut dyn Write, paint: Paint) -> anyhow::Result<ExitCode> {
        let shown = self.file.display();
        let wrong = match config::load(&self.file) {
            Ok(_) => None,
            Err(error @ LoadError::Read { .. }) => return Err(error.into()),
            Err(error @ LoadError::Wrong { .. }) => Some(error),
        };
        match (self.output, &wrong) {
            (Output::Text, None) => writeln!(out, "{shown}: {}", paint.good("ok"))?,
            (Output::Text, Some(error)) => {
                for line in error.to_string().lines() {
                    // The place first, as compilers write it, so that editors find it.
                    let (place, rest) = line.split_once(": ").unwrap_or((line, ""));
                    writeln!(out, "{}: {rest}", paint.bad(place))?;
                }
            }
            (Output::Json, _) => {
                let errors = wrong.as_ref().map(failure::places).unwrap_or_default();
                writeln!(
                    out,
                    "{}",
                    json!({ "file": shown.to_string(), "ok": wrong.is_none(), "errors": errors })
                )?;
            }
        }
        Ok(if wrong.is_none() { ExitCode::SUCCESS } else { ExitCode::from(1) })
    }
}
