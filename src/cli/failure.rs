//! The report of a failed command: a line on standard error, or one JSON object there with
//! `--output json`. Standard output holds answers only.

use std::{ffi::OsString, io, process::ExitCode};

use clap::{
    Arg, Command,
    error::{ContextKind, ContextValue, ErrorKind},
};
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
pub(super) fn usage(error: &clap::Error, root: &Command, json: bool) -> ExitCode {
    let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if asked || !json {
        // A closed pipe is no error.
        let _ = error.print();
        let mut root = root.clone();
        root.build();
        let missing = missing(error, &root, std::env::args());
        if !missing.is_empty() {
            eprintln!("\nWhat is missing:\n{}", missing.join("\n"));
        }
    } else {
        let text = error.render().to_string();
        let message =
            text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ").trim();
        print_shape(message, &[]);
    }
    if asked { ExitCode::SUCCESS } else { ExitCode::from(EXIT_CODE) }
}

/// Describes each option that is missing, and each one that may be given instead.
fn missing(
    error: &clap::Error,
    root: &Command,
    words: impl Iterator<Item = String>,
) -> Vec<String> {
    let Some(ContextValue::Strings(missing)) = error
        .get(ContextKind::InvalidArg)
        .filter(|_| error.kind() == ErrorKind::MissingRequiredArgument)
    else {
        return Vec::new();
    };
    let command =
        words.skip(1).fold(root, |command, word| command.find_subcommand(&word).unwrap_or(command));
    let named = |argument: &&Arg| {
        let own = argument.to_string();
        let own = own.trim_start_matches('[').trim_end_matches(['.', ']']);
        // A group is written `<--one <X>|--two <Y>|FILE>`.
        let alternatives = missing.iter().flat_map(|missing| alternatives(missing));
        alternatives.into_iter().any(|text| text == own || format!("<{text}>") == own)
    };
    command
        .get_arguments()
        .filter(named)
        .map(|argument| {
            let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
            let values: Vec<String> = argument
                .get_possible_values()
                .iter()
                .map(|value| value.get_name().to_owned())
                .collect();
            let values = if values.is_empty() {
                String::new()
            } else {
                format!(". One of: {}", values.join(", "))
            };
            format!("  {argument}  {help}{values}")
        })
        .collect()
}

/// Splits a group at the bars that are not inside of a value's name.
fn alternatives(missing: &str) -> Vec<&str> {
    let is_group = missing.starts_with("<-") || missing.contains("|--") || missing.contains("|<");
    if !is_group {
        return vec![missing];
    }
    let group = missing.strip_prefix('<').and_then(|text| text.strip_suffix('>'));
    let group = group.unwrap_or(missing);
    let (mut depth, mut start, mut parts) = (0u32, 0, Vec::new());
    for (at, character) in group.char_indices() {
        match character {
            '<' => depth += 1,
            '>' => depth = depth.saturating_sub(1),
            '|' if depth == 0 => {
                parts.extend(group.get(start..at));
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.extend(group.get(start..));
    parts
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

    #[derive(clap::Parser)]
    struct Program {
        #[command(subcommand)]
        command: Option<Sub>,
    }

    #[derive(clap::Subcommand)]
    enum Sub {
        Add(Add),
    }

    #[derive(clap::Args)]
    #[command(group(clap::ArgGroup::new("place").required(true).args(["file", "store"])))]
    struct Add {
        /// The file of the list.
        #[arg(value_name = "FILE")]
        file: Option<String>,
        /// The store of the list.
        #[arg(long, value_name = "URL|@FILE")]
        store: Option<String>,
        /// The name to add.
        #[arg(long, value_name = "NAME", value_parser = ["a", "b"])]
        name: String,
    }

    #[test]
    fn each_missing_option_is_described_with_its_alternatives() {
        let words = ["program", "add"];
        let Err(error) = <Program as clap::Parser>::try_parse_from(words) else { panic!() };
        let mut root = <Program as clap::CommandFactory>::command();
        root.build();
        let described = missing(&error, &root, words.into_iter().map(str::to_owned));
        assert_eq!(
            described,
            [
                "  [FILE]  The file of the list",
                "  --store <URL|@FILE>  The store of the list",
                "  --name <NAME>  The name to add. One of: a, b",
            ]
        );
    }

    #[test]
    fn json_is_found_in_the_words() {
        let json = |line: &str| wants_json(line.split(' ').map(OsString::from));
        assert!(json("tollgate doctor --output json x") && json("tollgate doctor --output=json"));
        assert!(
            !json("tollgate doctor --output text json") && !json("tollgate explain --body json")
        );
    }
}
