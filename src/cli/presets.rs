//! `tollgate presets`: the presets of inference servers.

mod members;

use std::{io::Write, process::ExitCode};

use clap::{Args, Subcommand};
use serde_json::json;
use tollgate_core::route::preset::{Preset, PresetRoute, members::Catalog, names};

use super::Output;

const LIST: &str = "\
Examples:
  tollgate presets list
  tollgate presets list --output json | jq -r '.[] | \"\\(.name) \\(.port)\"'

Exit codes:
  0  printed";

const SHOW: &str = "\
Examples:
  tollgate presets show vllm
  tollgate presets show vllm --members | grep denied
  tollgate presets show sglang --output json | jq -r '.routes[] | select(.closed) | .paths[]'

Exit codes:
  0  printed
  2  there is no such preset";

/// List the inference servers whose routes are known, or show one.
#[derive(Debug, Args)]
pub struct PresetsArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List all presets.
    ///
    /// Each with the number of its paths, the server, and the version of the server they were read
    /// from.
    #[command(after_long_help = LIST)]
    List {
        /// The form of the output.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Show every route of a preset, with its scopes and its risk.
    ///
    /// Also what the server's own authentication covers, and which headers are removed. With
    /// `--members`: the class of each member of a request.
    #[command(after_long_help = SHOW)]
    Show {
        /// The name of the preset, one of those that `tollgate presets list` prints.
        name: String,
        /// Print each member that the server reads, with its class and the reason, in place of the
        /// routes.
        #[arg(long)]
        members: bool,
        /// The form of the output.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
}

impl PresetsArgs {
    /// Prints the presets to `out`.
    ///
    /// # Errors
    /// There is no preset of this name.
    pub fn run(self, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        match self.action {
            Action::List { output } => list(output, out)?,
            Action::Show { name, members: true, output } => members::show(&name, output, out)?,
            Action::Show { name, output: Output::Json, .. } => {
                writeln!(out, "{}", serde_json::to_string_pretty(&Preset::load(&name)?)?)?;
            }
            Action::Show { name, output: Output::Text, .. } => show(&Preset::load(&name)?, out)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn list(output: Output, out: &mut dyn Write) -> anyhow::Result<()> {
    let presets = names().map(Preset::load).collect::<Result<Vec<_>, _>>()?;
    match output {
        Output::Text => {
            for preset in &presets {
                writeln!(
                    out,
                    "{:<11} {:>3} routes  {} (read from {})",
                    preset.name,
                    count(preset),
                    preset.server,
                    preset.read_from
                )?;
            }
        }
        Output::Json => {
            let list: Vec<_> = presets
                .iter()
                .map(|preset| {
                    json!({
                        "name": preset.name,
                        "server": preset.server,
                        "read_from": preset.read_from,
                        "revision": preset.revision,
                        "port": preset.port,
                        "routes": count(preset),
                        "closed": preset.closed(),
                        "scopes": preset.scopes(),
                    })
                })
                .collect();
            writeln!(out, "{}", serde_json::to_string_pretty(&list)?)?;
        }
    }
    Ok(())
}

fn count(preset: &Preset) -> usize {
    preset.routes.iter().map(|route| route.paths.len()).sum()
}

fn show(preset: &Preset, out: &mut dyn Write) -> anyhow::Result<()> {
    writeln!(
        out,
        "{}, read from {}, revision {}, port {}",
        preset.server, preset.read_from, preset.revision, preset.port
    )?;
    writeln!(out, "Its own authentication: {}", preset.own_auth)?;
    let removed: Vec<&str> = Catalog::load()?.file(&preset.name)?.removed_headers().collect();
    if !removed.is_empty() {
        writeln!(out, "Headers removed from requests: {}", removed.join(", "))?;
    }
    for route in &preset.routes {
        writeln!(out)?;
        for path in &route.paths {
            writeln!(out, "{} {path}", route.methods.join("|"))?;
        }
        writeln!(out, "    needs {}; model: {}", needs(route), route.model)?;
        writeln!(out, "    {}", route.risk)?;
    }
    Ok(())
}

/// Returns what a request needs, in words.
fn needs(route: &PresetRoute) -> String {
    let needs =
        if route.public { "nothing (public)".to_owned() } else { route.scopes.join(" and ") };
    match &route.closed {
        Some(group) => format!("{needs}; denied unless `open: [{group}]`"),
        None => needs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(action: Action) -> String {
        let mut out = Vec::new();
        PresetsArgs { action }.run(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn all_are_listed() {
        assert_eq!(printed(Action::List { output: Output::Text }).lines().count(), names().count());
        let list: serde_json::Value =
            serde_json::from_str(&printed(Action::List { output: Output::Json })).unwrap();
        assert_eq!(list[0]["name"], "vllm");
        assert_eq!(list[0]["closed"], json!(["batch", "stored-responses", "realtime"]));
    }

    #[test]
    fn one_is_shown() {
        let show = |output| printed(Action::Show { name: "vllm".into(), members: false, output });
        let text = show(Output::Text);
        assert!(text.contains("GET|POST /ping\n    needs nothing (public); model: none"), "{text}");
        assert!(text.contains("denied unless `open: [stored-responses]`"), "{text}");
        let preset: serde_json::Value = serde_json::from_str(&show(Output::Json)).unwrap();
        let chat = preset["routes"]
            .as_array()
            .unwrap()
            .iter()
            .find(|route| route["paths"][0] == "/v1/chat/completions")
            .unwrap();
        assert_eq!((&chat["model"], &chat["scopes"]), (&json!("body"), &json!(["infer:text"])));
    }

    #[test]
    fn members_are_shown_with_their_class_and_the_reason() {
        let show = |output| printed(Action::Show { name: "vllm".into(), members: true, output });
        let text = show(Output::Text);
        assert!(
            text.contains("PATCH /v1/chat/completions: json vllm/chat, query openai/query"),
            "{text}"
        );
        assert!(
            text.lines().any(|line| line.contains("priority")
                && line.contains("denied")
                && line.contains("Goes before other clients' requests.")),
            "{text}"
        );
        let members: serde_json::Value = serde_json::from_str(&show(Output::Json)).unwrap();
        let chat = &members["tables"]["vllm/chat"]["members"];
        assert_eq!(chat["priority"]["class"], "denied");
        assert_eq!(chat["messages"]["of"], "vllm/message");
        assert_eq!(members["headers"][0]["removed"], false);
    }

    #[test]
    fn an_unknown_one_is_told_the_known() {
        let show = Action::Show { name: "vlm".into(), members: false, output: Output::Text };
        let error = PresetsArgs { action: show }.run(&mut Vec::new()).unwrap_err().to_string();
        assert!(error.contains("known: vllm"), "{error}");
    }
}
