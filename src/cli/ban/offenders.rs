//! `tollgate ban offenders`: those whose requests were refused most in the latest time.

use std::{io::Write, process::ExitCode};

use clap::Args;
use tollgate_core::time::Timestamp;

use super::help;
use crate::{
    admin::offenders::{ListedNetwork, ListedOffenders, ListedSubject},
    cli::{Output, admin_client::AdminClient, argument, printable},
    observe::rfc3339::Rfc3339,
};

/// List the networks with the most failed credentials, and the subjects with the most denied requests.
///
/// Each replica counts what it sees, in the latest window: call the admin API of each one.
#[derive(Debug, Args)]
#[command(after_long_help = help::OFFENDERS)]
pub(super) struct OffendersArgs {
    /// The admin API of a replica: `https://host:port`, `unix:/path`, or `http://` on this machine.
    #[arg(long, value_name = "URL")]
    admin: String,
    /// The file with the admin API's bearer token; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    token_file: String,
    /// The most entries of each list.
    #[arg(long, value_name = "NUMBER", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl OffendersArgs {
    /// Calls the admin API and prints to `out`.
    ///
    /// # Errors
    /// The admin API does not answer or refuses, or the file of the token cannot be read.
    pub(super) async fn run(&self, out: &mut (dyn Write + Send)) -> anyhow::Result<ExitCode> {
        let client = AdminClient::new(&self.admin, argument::secret_file(&self.token_file)?)?;
        let found = client.offenders(self.limit).await?;
        match self.output {
            Output::Json => writeln!(out, "{}", printable::json(&found)?)?,
            Output::Text => print(&found, out)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn print(found: &ListedOffenders, out: &mut dyn Write) -> anyhow::Result<()> {
    match &found.networks {
        None if found.are_networks_hidden => {
            let message =
                "not shown to this credential, which is bound to tenants: a network has none";
            writeln!(out, "networks: {message}")?;
        }
        None => writeln!(out, "networks: none are counted without the section `automatic_bans`")?,
        Some(networks) if networks.list.is_empty() => {
            writeln!(out, "networks: no failed credential in {} s", networks.window_seconds)?;
        }
        Some(networks) => {
            let (window, limit) = (networks.window_seconds, networks.limit);
            writeln!(out, "networks, by failed credentials in {window} s ({limit} ban one):")?;
            for network in &networks.list {
                print_network(network, out)?;
            }
        }
    }
    let subjects = &found.subjects;
    if subjects.list.is_empty() {
        writeln!(out, "subjects: no denied request in {} s", subjects.window_seconds)?;
    } else {
        writeln!(out, "subjects, by denied requests in {} s:", subjects.window_seconds)?;
        for subject in &subjects.list {
            print_subject(subject, out)?;
        }
    }
    Ok(())
}

fn print_network(network: &ListedNetwork, out: &mut dyn Write) -> anyhow::Result<()> {
    let ListedNetwork { network, failures, refused, ban } = network;
    let mut line = format!("  {failures:>8}  {network}");
    if *refused > 0 {
        line.push_str(&format!(", {refused} of them refused unverified"));
    }
    if let Some(ban) = ban {
        let end = match ban.until {
            Some(end) => format!("until {}", Rfc3339(Timestamp::from_secs(end))),
            None => "until the ban is lifted".to_owned(),
        };
        let kind = if ban.kind == "automatic_network" { " (automatic)" } else { "" };
        line.push_str(&format!(", banned {end}{kind}"));
    }
    Ok(writeln!(out, "{}", printable::printable(&line))?)
}

fn print_subject(found: &ListedSubject, out: &mut dyn Write) -> anyhow::Result<()> {
    let ListedSubject { issuer, subject, client, key, tenant, denials, reason } = found;
    let mut names = Vec::new();
    let members = [("subject", subject), ("client", client), ("key", key), ("issuer", issuer)];
    for (member, name) in members.into_iter().chain([("tenant", tenant)]) {
        if let Some(name) = name {
            names.push(format!("{member} {}", printable::json(name)?));
        }
    }
    let reason = printable::printable(reason);
    Ok(writeln!(out, "  {denials:>8}  {}, last {reason}", names.join(", "))?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_reason_why_no_network_is_listed_is_that_of_the_answer() {
        for (is_hidden, expected) in [
            (json!(true), "bound to tenants"),
            (json!(false), "without the section `automatic_bans`"),
        ] {
            let subjects = json!({ "window_seconds": 60, "list": [] });
            let found =
                json!({ "networks": null, "are_networks_hidden": is_hidden, "subjects": subjects });
            let mut out = Vec::new();
            print(&serde_json::from_value(found).unwrap(), &mut out).unwrap();
            let text = String::from_utf8(out).unwrap();
            let line = text.lines().next().unwrap();
            assert!(line.starts_with("networks: ") && line.contains(expected), "{text}");
        }
    }
}
