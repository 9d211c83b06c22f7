//! The report of a failed command: a line on standard error, or one JSON object there with
//! `--output json`. Standard output holds answers only.

use std::{ffi::OsString, io, process::ExitCode};

use clap::error::ErrorKind;
use serde_json::{Value, json};
use tollgate_core::config::ConfigError;

use super::{paint::Paint, printable};
use crate::{config::LoadError, error_text::describe};

/// The exit code for wrong usage and for missing things.
const EXIT_CODE: u8 = 2;

/// Whether the command line requests JSON. It searches the words themselves, because they may not
/// parse.
pub(super) fn wants_json(words: impl Iterator<Item = OsString>) -> bool {
    let words: Vec<OsString> = words.collect();
    words.iter().any(|word| word == "--output=json")
        || words
            .iter()
            .zip(words.iter().skip(1))
            .any(|(name, value)| name == "--output" && value == "json")
}

/// Reports a command line that does not parse, or prints the requested help.
pub(super) fn usage(error: &clap::Error, json: bool) -> ExitCode {
    let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if asked || !json {
        // A closed pipe is no error.
        let _ = error.print();
    } else {
        let text = error.render().to_string();
        let message =
            text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ").trim();
        print_shape(message, &[]);
    }
    if asked { ExitCode::SUCCESS } else { ExitCode::from(EXIT_CODE) }
}

/// Reports why a command failed.
pub(super) fn report(error: &anyhow::Error, json: bool) -> ExitCode {
    let closed = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    if error.downcast_ref::<io::Error>().is_some_and(closed) {
        // The reader of a pipe has closed it: `| head`.
    } else if json {
        let locations = match error.downcast_ref::<LoadError>() {
            Some(LoadError::Invalid { path, errors }) => locations(path, errors),
            _ => Vec::new(),
        };
        print_shape(&describe(error.as_ref()), &locations);
    } else {
        let text = printable::printable_lines(&describe(error.as_ref()));
        eprintln!("{} {text}", Paint::stderr().bad("error:"));
    }
    ExitCode::from(EXIT_CODE)
}

fn print_shape(message: &str, locations: &[Value]) {
    // A value of JSON can always be written as text.
    if let Ok(text) = printable::json(&shape(message, locations)) {
        eprintln!("{text}");
    }
}

fn shape(message: &str, locations: &[Value]) -> Value {
    if locations.is_empty() {
        json!({ "error": { "message": message } })
    } else {
        json!({ "error": { "message": message, "errors": locations } })
    }
}

/// Returns the errors of a configuration file, one object each.
pub(super) fn locations(file: &str, errors: &[ConfigError]) -> Vec<Value> {
    let location = |error: &ConfigError| json!({ "file": file, "line": error.line, "path": error.path, "message": error.message() });
    errors.iter().map(location).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_found_in_the_words() {
        let json = |line: &str| wants_json(line.split(' ').map(OsString::from));
        assert!(json("tollgate doctor --output json x") && json("tollgate doctor --output=json"));
        assert!(
            !json("tollgate doctor --output text json") && !json("tollgate explain --body json")
        );
    }
}
