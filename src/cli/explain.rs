//! `tollgate explain`: every step of one decision, offline.

mod cases;
mod facts;
mod keys;
mod record;
mod show;
mod steps;

use std::{
    io::Write,
    net::IpAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context as _, bail};
use clap::{ArgGroup, Args};
use tollgate_core::policy::Policy;

use self::steps::ExplainInput;
pub(super) use self::{
    cases::{CaseRun, read as read_cases},
    steps::Explanation,
};
use super::{
    Output, argument,
    config_file::{self, OptionalConfigFile},
    paint::Paint,
    printable,
};
use crate::{
    observe::now,
    policy_test::{Body, Ledger, Request},
    secrets,
};

const MORE: &str = "\
Examples:
  tollgate explain tollgate.yaml --path /v1/models --token @token.txt --jwks jwks.json
  tollgate explain --config tollgate.yaml --path /v1/chat/completions \\
    --header 'content-type: application/json' --body '{\"model\":\"Qwen/Qwen2-72B-Instruct\"}' \\
    --token @token.txt --jwks jwks.json
  tollgate explain --config tollgate.yaml --case cases.yaml
  tollgate explain --case cases.yaml --only expired --output json

Exit codes:
  0  allowed; of cases: all are as expected
  1  denied; of cases: some are not as expected
  2  unknown, because the keys of the token's issuer are missing (see --jwks), or wrong usage";

/// Show every step of one decision, offline.
///
/// Without network and store: the request, the route that covers it, what is wrong with the token,
/// what the store would be called with, and the answer. A file of cases (docs/cases.md) with the
/// expected answers is a test of a policy.
#[derive(Debug, Args)]
#[command(after_long_help = MORE)]
#[command(group(ArgGroup::new("explained").required(true).args(["path", "case"])))]
pub struct Explain {
    #[command(flatten)]
    config: OptionalConfigFile,
    /// A file of cases, in the format of `tests/cases`, instead of a request.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["method", "path", "host", "scheme", "header", "body", "token", "dpop", "address", "certificate"])]
    case: Option<PathBuf>,
    /// Only the cases of the file whose names contain this text.
    #[arg(long, value_name = "TEXT", requires = "case", conflicts_with = "path")]
    only: Option<String>,
    /// The method. Default: GET, or POST with a body.
    #[arg(long)]
    method: Option<String>,
    /// The path, with the query.
    #[arg(long)]
    path: Option<String>,
    /// The host. Default: localhost.
    #[arg(long)]
    host: Option<String>,
    /// The scheme, as the proxy would report it. Default: https.
    #[arg(long)]
    scheme: Option<String>,
    /// A header, as `name: value`. May be given more than once.
    #[arg(long, value_name = "NAME: VALUE", value_parser = header)]
    header: Vec<(String, String)>,
    /// The body: `-` reads it from standard input, `@FILE` from a file.
    #[arg(long, value_name = "TEXT|-|@FILE")]
    body: Option<String>,
    /// The token, sent as `Authorization: Bearer`: `-` reads it from standard input, `@FILE` from a
    /// file.
    #[arg(long, value_name = "TOKEN|-|@FILE")]
    token: Option<String>,
    /// The proof of a token that is bound to a key (DPoP): `-` reads it from standard input, `@FILE` from
    /// a file. The token is then sent as `Authorization: DPoP`.
    #[arg(long, value_name = "PROOF|-|@FILE", requires = "token")]
    dpop: Option<String>,
    /// A file with the certificate of the client, in PEM.
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// The client's address.
    #[arg(long)]
    address: Option<IpAddr>,
    /// A key set for an issuer whose keys are fetched; without `ISSUER=` where there is only one.
    /// May be given more than once.
    #[arg(long, value_name = "[ISSUER=]FILE")]
    jwks: Vec<String>,
    /// The form of the output. JSON is one object for each decision.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

fn header(text: &str) -> anyhow::Result<(String, String)> {
    let (name, value) = text.split_once(':').context("write `name: value`")?;
    let name = name.trim();
    if name.is_empty() {
        bail!("the header has no name");
    }
    Ok((name.to_owned(), value.trim().to_owned()))
}

impl Explain {
    /// Prints the steps to `out`.
    ///
    /// # Errors
    /// A file cannot be read or is wrong, or there is nothing to explain.
    pub fn run(&self, out: &mut dyn Write, paint: Paint) -> anyhow::Result<ExitCode> {
        self.explained(&mut Printer { out, paint, output: self.output })
            .map(|end| ExitCode::from(end as u8))
    }

    fn explained(&self, printer: &mut Printer<'_>) -> anyhow::Result<ExitStatus> {
        let loaded = self.config.path().map(config_file::load).transpose()?;
        let (policy, max_body) = match loaded {
            Some(loaded) => (Some(Arc::new(loaded.policy)), Some(loaded.file.server.body.max.0)),
            None => (None, None),
        };
        match &self.case {
            Some(path) => self.cases(path, policy, max_body, printer),
            None => self.request(
                policy.context(
                    "name the configuration: FILE, --config FILE, or `-` for standard input",
                )?,
                max_body,
                printer,
            ),
        }
    }

    fn request(
        &self,
        policy: Arc<Policy>,
        max_body: Option<usize>,
        printer: &mut Printer<'_>,
    ) -> anyhow::Result<ExitStatus> {
        let found = keys::find(policy, None, false, &self.jwks)?;
        let body = self.body.as_deref().map(argument::body).transpose()?;
        let mut headers: Vec<(String, Vec<u8>)> = self
            .header
            .iter()
            .map(|(name, value)| (name.clone(), value.clone().into_bytes()))
            .collect();
        if let Some(token) = &self.token {
            let scheme = if self.dpop.is_some() { "DPoP " } else { "Bearer " };
            let token = argument::token(token)?;
            let value = [scheme.as_bytes(), token.expose()].concat();
            headers.push(("authorization".into(), value));
        }
        if let Some(proof) = &self.dpop {
            headers.push(("dpop".into(), argument::token(proof)?.expose().to_vec()));
        }
        let certificate = self.certificate.as_deref();
        let certificate = certificate.map(|path| argument::file(path, secrets::MAX)).transpose()?;
        let certificate = String::from_utf8(certificate.unwrap_or_default())
            .context("the certificate is not text")?;
        let or = |text: &Option<String>, default: &str| {
            text.clone().unwrap_or_else(|| default.to_owned())
        };
        let request = Request {
            method: or(&self.method, if body.is_some() { "POST" } else { "GET" }),
            scheme: or(&self.scheme, "https"),
            host: or(&self.host, "localhost"),
            path: or(&self.path, "/"),
            headers,
            joined: false,
            address: self.address,
            certificate,
            body: body.map_or(Body::Absent, Body::Whole),
        };
        let input = ExplainInput {
            found: &found,
            request: &request,
            now: now(),
            max_body,
            outage: None,
            assumed: true,
        };
        let explanation = steps::explain(&input, Ledger::new(&[], &[]));
        printer.print(&explanation)?;
        Ok(exit_status(&explanation))
    }

    fn cases(
        &self,
        path: &Path,
        policy: Option<Arc<Policy>>,
        max_body: Option<usize>,
        printer: &mut Printer<'_>,
    ) -> anyhow::Result<ExitStatus> {
        let only = self.only.as_deref();
        let run = CaseRun { policy, max_body, jwks: &self.jwks, only };
        let mut worst = ExitStatus::Good;
        run.each(path, &read_cases(path)?, |_, explanation| {
            printer.print(&explanation)?;
            worst = worst.max(exit_status(&explanation));
            Ok(())
        })?;
        Ok(worst)
    }
}

/// The destination and the form of explanations.
struct Printer<'a> {
    out: &'a mut dyn Write,
    paint: Paint,
    output: Output,
}

impl Printer<'_> {
    fn print(&mut self, explanation: &Explanation) -> std::io::Result<()> {
        match self.output {
            Output::Text => show::text(explanation, self.paint, self.out),
            Output::Json => {
                writeln!(self.out, "{}", printable::json(&show::json(explanation))?)
            }
        }
    }
}

/// The exit code of the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum ExitStatus {
    Good = 0,
    Bad = 1,
    Unknown = 2,
}

fn exit_status(explanation: &Explanation) -> ExitStatus {
    match explanation.is_as_expected() {
        None if explanation.unknown => ExitStatus::Unknown,
        None if explanation.allows() => ExitStatus::Good,
        Some(true) => ExitStatus::Good,
        None | Some(false) => ExitStatus::Bad,
    }
}

#[cfg(test)]
mod tests;
