//! The command `tollgate jwks`: fetches the keys of every issuer as `serve` does.

use std::{io::Write, process::ExitCode, sync::Arc};

use anyhow::bail;
use clap::Args;
use serde_json::{Value, json};
use tollgate_core::credential::jwt::{issuer::Issuer, key_set::SkippedKey};

use super::{
    Output,
    config_file::{self, ConfigFile},
    paint::Paint,
    printable,
    progress::Progress,
};
use crate::credential::jwks::{KeySources, SourceStatus, Timing};

const MORE: &str = "\
Examples:
  tollgate jwks tollgate.yaml
  tollgate jwks --config tollgate.yaml --issuer https://auth.example.com
  kubectl exec deploy/gate-tollgate -c tollgate -- tollgate jwks --config /etc/tollgate/tollgate.yaml

Exit codes:
  0  every issuer has keys
  1  an issuer has none: the reason is printed
  2  the configuration cannot be used, or wrong usage";

/// Fetch the keys of every issuer as `serve` does, and print the result.
///
/// It takes the addresses, the proxy, the authorities and the credentials from the configuration
/// and the environment, so run it where Tollgate runs. It prints the keys, the keys that are
/// skipped with the reasons, and the errors of the network, of TLS and of the proxy. A cache file
/// is neither read nor written.
#[derive(Debug, Args)]
#[command(after_long_help = MORE)]
pub struct Jwks {
    #[command(flatten)]
    config: ConfigFile,
    /// Only this issuer; `absent` for tokens without `iss`.
    #[arg(long, visible_alias = "iss", value_name = "ISS")]
    issuer: Option<String>,
    /// The form of the output.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl Jwks {
    /// Fetches the keys once and prints to `out`.
    ///
    /// # Errors
    /// The configuration cannot be used, or has no such issuer.
    pub async fn run(self, out: &mut dyn Write, paint: Paint) -> anyhow::Result<ExitCode> {
        let policy = config_file::load(self.config.path())?.policy;
        let issuers: Vec<Arc<Issuer>> = policy
            .issuers
            .list()
            .iter()
            .filter(|issuer| self.issuer.as_ref().is_none_or(|only| shown(issuer) == only))
            .cloned()
            .collect();
        if issuers.is_empty() {
            let known: Vec<&str> =
                policy.issuers.list().iter().map(|issuer| shown(issuer)).collect();
            match &self.issuer {
                Some(only) => bail!(
                    "the configuration has no issuer `{only}`; it has {}",
                    super::listed(&known)
                ),
                None => bail!("the configuration has no `issuers`"),
            }
        }
        let mut progress = Progress::stderr();
        progress.now("fetching keys");
        let sources = KeySources::with_timing(Timing::default()).without_cache_files();
        let sources_of = sources.apply(&issuers);
        sources.tried().await;
        drop(progress);
        let statuses: Vec<SourceStatus> = sources_of.iter().map(|source| source.status()).collect();
        match self.output {
            Output::Json => {
                let issuers: Vec<Value> = statuses.iter().map(json_of).collect();
                writeln!(out, "{}", printable::json(&json!({ "issuers": issuers }))?)?;
            }
            Output::Text => {
                for status in &statuses {
                    print(status, paint, out)?;
                }
            }
        }
        let missing = statuses.iter().any(|status| status.keys == 0);
        Ok(ExitCode::from(u8::from(missing)))
    }
}

/// The name of an issuer in the configuration.
fn shown(issuer: &Issuer) -> &str {
    if issuer.name.is_empty() { "absent" } else { &issuer.name }
}

fn print(status: &SourceStatus, paint: Paint, out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(out, "{}", printable::printable(&status.issuer))?;
    if status.keys == 0 {
        let error = status.last_error.as_deref().unwrap_or("no key can be used");
        writeln!(out, "  {}: {}", paint.bad("no keys"), printable::printable(error))?;
    } else {
        let keys = if status.keys == 1 { "key" } else { "keys" };
        let kids: Vec<&str> = status.kids.iter().map(String::as_str).collect();
        let kids = if kids.is_empty() { "without `kid`".into() } else { super::listed(&kids) };
        let count = paint.good(format!("{} {keys}", status.keys));
        writeln!(out, "  {count}: {}", printable::printable(&kids))?;
    }
    for SkippedKey { kid, reason } in &status.skipped {
        let kid = kid.as_ref().map_or("without `kid`".to_owned(), |kid| format!("`{kid}`"));
        let line = printable::printable(&format!("{kid}: {reason}"));
        writeln!(out, "  {} {line}", paint.warn("skipped"))?;
    }
    Ok(())
}

fn json_of(status: &SourceStatus) -> Value {
    let skipped: Vec<Value> = status
        .skipped
        .iter()
        .map(|SkippedKey { kid, reason }| json!({ "kid": kid, "reason": reason }))
        .collect();
    json!({
        "issuer": &*status.issuer,
        "keys": status.keys,
        "kids": status.kids,
        "skipped": skipped,
        "error": status.last_error,
    })
}
