//! `tollgate audit-upstream`: the operations of a live inference server, and the policy's answers
//! to requests without a credential.

mod fetch;
mod members;
mod report;
mod server;

use std::{io::Write, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use clap::{ArgGroup, Args};
use tollgate_core::{
    config::{Document, Errors},
    policy::{Policy, PolicyConfig},
    route::{RouteEntry, preset::Preset},
    snapshot::Snapshot,
};

use self::{report::Report, server::Offer};
use super::{
    Output,
    config_file::{self, OptionalConfigFile},
    paint::Paint,
    printable,
    progress::Progress,
};

const MORE: &str = "\
Examples:
  tollgate audit-upstream http://127.0.0.1:8000 --preset vllm
  tollgate audit-upstream http://127.0.0.1:8000 tollgate.yaml
  tollgate audit-upstream http://127.0.0.1:8000 --config tollgate.yaml --output json \\
    | jq '.operations[] | select(.dangerous)'

Exit codes:
  0  nothing dangerous is open
  1  something dangerous or unlisted is open
  2  the server has no such document, or wrong usage";

/// Report what an inference server offers, and what of it is open.
///
/// Reads the server's `/openapi.json` once, and requests nothing else. Reports which of its routes
/// are known, which are dangerous, and what the policy answers to each without a credential: the
/// policy of the configuration, or else that of the preset alone. What is open comes first.
#[derive(Debug, Args)]
#[command(after_long_help = MORE)]
#[command(group(
    ArgGroup::new("policy").required(true).multiple(true).args(["preset", "file", "config"])
))]
pub struct AuditUpstream {
    /// The server: `http://127.0.0.1:8000`, or the whole URL of its OpenAPI document.
    #[arg(value_name = "URL")]
    url: String,
    /// The preset of the server. Default: the presets that the configuration uses.
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    #[command(flatten)]
    config: OptionalConfigFile,
    /// The form of the output.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl AuditUpstream {
    /// Reads the server's document and prints the report to `out`.
    ///
    /// # Errors
    /// The server cannot be reached, its document is no OpenAPI document, or the configuration
    /// cannot be used.
    pub async fn run(self, out: &mut dyn Write, paint: Paint) -> anyhow::Result<ExitCode> {
        let mut progress = Progress::stderr();
        let (policy, entries) = self.policy()?;
        let names = match &self.preset {
            Some(name) => vec![name.clone()],
            None => entries
                .iter()
                .filter_map(|entry| match entry {
                    RouteEntry::Preset(preset) => Some(preset.preset.clone()),
                    RouteEntry::Explicit(_) => None,
                })
                .collect(),
        };
        let presets = names.iter().map(|name| Preset::load(name)).collect::<Result<Vec<_>, _>>()?;
        let url = fetch::Url::parse(&self.url)?;
        progress.now(&format!("reading {url}"));
        let document =
            fetch::get(&url).await.with_context(|| format!("no OpenAPI document from `{url}`"))?;
        let offer = Offer::read(&document)
            .with_context(|| format!("the answer of `{url}` is no OpenAPI document"))?;
        progress.now(&format!("checking {} operations", offer.operations.len()));
        let members = members::unknown(&offer.document, &presets)?;
        let report = Report::of(
            &offer,
            members,
            &presets,
            &Snapshot::without_keys(Arc::new(policy)),
            &hosts(&entries, url.authority()),
        );
        drop(progress);
        match self.output {
            Output::Text => report.text(&url.to_string(), paint, out)?,
            Output::Json => {
                writeln!(out, "{}", printable::json_lines(&report.json(&url.to_string()))?)?
            }
        }
        Ok(ExitCode::from(u8::from(report.is_dangerous())))
    }

    /// Returns the policy to audit, and its routes as written.
    fn policy(&self) -> anyhow::Result<(Policy, Vec<RouteEntry>)> {
        if let Some(file) = self.config.path() {
            let loaded = config_file::load(file)?;
            return Ok((loaded.policy, loaded.file.policy.routes));
        }
        let name = self.preset.as_deref().unwrap_or_default();
        // Checked first, because the name becomes a part of the text below.
        Preset::load(name)?;
        let text = format!(
            "issuers: [{{ issuer: 'https://auth.example.com', audiences: any, algorithms: [RS256], jwks: {{ url: 'https://auth.example.com/jwks.json' }} }}]\nroutes: [{{ preset: {name} }}]"
        );
        let wrong = |errors: Vec<tollgate_core::config::ConfigError>| {
            let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
            anyhow::anyhow!("{}", lines.join("\n"))
        };
        let document = Document::parse(&text, &|_| None).map_err(wrong)?;
        let config: PolicyConfig = document.read().map_err(wrong)?;
        let mut errors = Errors::default();
        let policy =
            Policy::compile(&config, &mut errors).ok_or_else(|| wrong(document.locate(errors)))?;
        Ok((policy, config.routes))
    }
}

/// Returns the hosts that can differ: the server's own, and one for each host of a route.
fn hosts(entries: &[RouteEntry], own: &str) -> Vec<String> {
    let mut hosts = vec![own.to_owned()];
    for host in entries.iter().flat_map(RouteEntry::hosts) {
        let host = host
            .strip_prefix("*.")
            .map_or_else(|| host.clone(), |suffix| format!("audit.{suffix}"));
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    hosts
}
