//! `tollgate check-config`.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use serde_json::json;

use crate::config::{self, LoadError};

/// Reads a configuration file and reports everything that is wrong with it at once: file, line, place, what to do.
/// Exits with 1 if there is anything. Secrets and key files are not read; `serve` does that at its start.
#[derive(Debug, Args)]
pub struct CheckConfig {
    /// The configuration file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// How to report.
    #[arg(long, value_enum, default_value_t)]
    output: super::Output,
}

impl CheckConfig {
    /// Checks the file.
    pub fn run(self) -> ExitCode {
        let (ok, errors) = match config::load(&self.file) {
            Ok(_) => (true, Vec::new()),
            Err(LoadError::Read { path, error }) => {
                eprintln!("`{path}` cannot be read: {error}");
                return ExitCode::from(2);
            }
            Err(error @ LoadError::Wrong { .. }) => (false, vec![error]),
        };
        match self.output {
            super::Output::Text if ok => println!("{}: ok", self.file.display()),
            super::Output::Text => errors.iter().for_each(|error| println!("{error}")),
            super::Output::Json => {
                let list: Vec<_> = errors
                    .iter()
                    .flat_map(|error| if let LoadError::Wrong { errors, .. } = error { errors.as_slice() } else { &[] })
                    .map(|error| json!({ "line": error.line, "path": error.path, "message": error.message }))
                    .collect();
                println!("{}", json!({ "file": self.file.display().to_string(), "ok": ok, "errors": list }));
            }
        }
        if ok { ExitCode::SUCCESS } else { ExitCode::from(1) }
    }
}
