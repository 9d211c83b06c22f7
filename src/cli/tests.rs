//! Tests of the help texts: each command has examples, and the examples are valid.

use clap::Command as Clap;

use super::*;

/// Returns every command without subcommands, with the words that call it.
fn leaves(command: &Clap, words: &str) -> Vec<(String, Clap)> {
    let below: Vec<_> =
        command.get_subcommands().filter(|below| below.get_name() != "help").collect();
    if below.is_empty() {
        return vec![(words.to_owned(), command.clone())];
    }
    below
        .into_iter()
        .flat_map(|below| leaves(below, &format!("{words} {}", below.get_name())))
        .collect()
}

/// Splits a line into words like a shell, as far as the examples need it.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            (None, ' ') => words.push(String::new()),
            (_, c) => words.last_mut().unwrap().push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// The commands in a help text, without comments, pipes and redirections.
fn examples(help: &str) -> Vec<String> {
    let help = help.replace("\\\n", " ");
    let lines = help.lines().map(str::trim).filter(|line| line.starts_with("tollgate "));
    lines
        .map(|line| {
            [" # ", " | ", " > ", " < "]
                .iter()
                .fold(line, |line, end| line.split(end).next().unwrap())
                .to_owned()
        })
        .collect()
}

#[test]
fn every_command_teaches() {
    let leaves = leaves(&Cli::command(), "tollgate");
    assert!(leaves.len() >= 15, "{}", leaves.len());
    for (words, mut command) in leaves {
        let purpose = command.get_about().map(ToString::to_string).unwrap_or_default();
        assert!(
            !purpose.is_empty() && purpose.len() < 100,
            "{words}: one line for the list of commands: `{purpose}`"
        );
        let help = command.render_long_help().to_string();
        assert!(help.contains("Examples:\n") && help.contains("Exit codes:\n"), "{words}:\n{help}");
        let own = examples(&help).into_iter().filter(|line| line.starts_with(&words)).count();
        assert!(own >= 1, "{words} has no example of its own:\n{help}");
        for line in help.lines().filter(|line| !line.starts_with("Usage: ")) {
            assert!(line.chars().count() <= 100, "{words}: too wide: {line}");
        }
    }
}

#[test]
fn every_example_is_a_command() {
    let mut helps = vec![Cli::command().render_long_help().to_string()];
    helps.extend(
        leaves(&Cli::command(), "tollgate")
            .into_iter()
            .map(|(_, mut command)| command.render_long_help().to_string()),
    );
    let examples: Vec<String> = helps.iter().flat_map(|help| examples(help)).collect();
    assert!(examples.len() >= 30, "{examples:?}");
    for example in examples {
        if let Err(error) = Cli::try_parse_from(words(&example)) {
            panic!("`{example}`: {error}");
        }
    }
}

/// Commands on pages that need what not every machine has are not run, and must still parse.
#[test]
fn commands_that_pages_only_show_exist() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut waiting = vec![root.join("README.md"), root.join("docs")];
    let mut commands = Vec::new();
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if let Ok(text) = std::fs::read_to_string(&path) {
            let blocks =
                text.split("```sh elsewhere\n").skip(1).filter_map(|rest| rest.split("```").next());
            commands.extend(blocks.flat_map(examples));
        }
    }
    assert!(commands.len() >= 5, "{commands:?}");
    for command in commands {
        if let Err(error) = Cli::try_parse_from(words(&command)) {
            panic!("`{command}`: {error}");
        }
    }
}

#[test]
fn the_definition_has_no_contradictions() {
    Cli::command().debug_assert();
}
