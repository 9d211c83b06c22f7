//! The command `tollgate doctor`.

mod probes;
mod wire;

use std::{io::Write, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, bail};
use clap::Args;
use serde::Serialize;
use serde_json::json;

use self::{
    probes::{BoundClient, Probes, Protected},
    wire::Target,
};
use super::{
    Output, argument,
    paint::{Paint, Painted},
    printable,
    progress::Progress,
};
use crate::{config::ByteSize, secrets};

const MORE: &str = "\
Examples:
  tollgate doctor http://127.0.0.1:8080
  tollgate doctor https://api.example.com --token @token.txt \\
    --echo /debug/headers --body-limit 16MiB
  tollgate doctor https://api.example.com --output json \\
    | jq -r '.probes[] | select(.verdict == \"leak\") | .name'

Exit codes:
  0  no leak and no fault was found
  1  something leaks, or the proxy changes an answer
  2  the proxy cannot be reached, or wrong usage";

/// Test a live proxy in front of Tollgate.
///
/// Sends somewhat more than a hundred requests that must not pass, or must be answered in one way,
/// then a burst of two thousand, and examines what reaches the client and the upstream. Reports leaks, answers that the proxy
/// replaces, and remedies. Nothing is changed; the log and the metrics will show denials.
#[derive(Debug, Args)]
#[command(after_long_help = MORE)]
pub struct Doctor {
    /// The proxy: `https://host` or `http://host:port`.
    #[arg(value_name = "URL")]
    url: String,
    /// A path that needs a credential, for GET or else for POST. Default: `/v1/models`, or the path
    /// of --post where no route has that.
    #[arg(long, value_name = "PATH")]
    protected: Option<String>,
    /// A path that needs no credential for GET.
    #[arg(long, value_name = "PATH", default_value = "/health")]
    public: String,
    /// A path whose upstream answers GET with the headers it received. Identity headers are tested
    /// only with it.
    #[arg(long, value_name = "PATH")]
    echo: Option<String>,
    /// A path that takes a JSON body.
    #[arg(long, value_name = "PATH", default_value = "/v1/chat/completions")]
    post: String,
    /// The largest body that must pass, such as `16MiB`; one byte more must be refused.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    body_limit: Option<ByteSize>,
    /// A path whose clients wait for an answer before they end their request, such as a gRPC
    /// stream: `/inference.GRPCInferenceService/ModelStreamInfer`. May be repeated.
    #[arg(long, value_name = "PATH")]
    stream: Vec<String>,
    /// The number of requests that are sent at once, over HTTP/2 if the proxy speaks it; 128 at most
    /// over HTTP/1. 0 sends none.
    #[arg(long, value_name = "REQUESTS", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(..=10_000))]
    burst: u32,
    /// The `Host` header. Default: the host of the URL.
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// A token that opens the protected and the echo path: the token, `@FILE`, or `-` for standard
    /// input.
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// A file with the certificate of a client, in PEM, which is public: it is sent in the headers in
    /// which proxies report certificates, and must not be accepted.
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// A file with the private key that the token is bound to (DPoP), in PEM: proofs that are wrong in
    /// one way, or are sent again, must not be accepted.
    #[arg(long, value_name = "FILE", requires = "token")]
    dpop_key: Option<String>,
    /// The origin in those proofs, as in `dpop.origins`. Default: that of the URL, with --host.
    #[arg(long, value_name = "ORIGIN", requires = "dpop_key")]
    dpop_origin: Option<String>,
    /// The form of the output.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

fn size(text: &str) -> anyhow::Result<ByteSize> {
    Ok(serde_json::from_value(json!(text))?)
}

/// The result of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// The answer is right.
    Ok,
    /// A request passed that must not, or client input reached the upstream.
    Leak,
    /// A denial did not reach the client unchanged.
    Fault,
    /// The probe was not sent.
    Skipped,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Leak => "LEAK",
            Self::Fault => "FAULT",
            Self::Skipped => "skipped",
        }
    }

    fn painted(self, paint: Paint) -> Painted<&'static str> {
        match self {
            Self::Ok => paint.good(self.word()),
            Self::Leak | Self::Fault => paint.bad(self.word()),
            Self::Skipped => paint.warn(self.word()),
        }
    }
}

/// The result of one probe, or of a group of similar ones.
#[derive(Debug, Serialize)]
struct Finding {
    name: &'static str,
    verdict: Verdict,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<&'static str>,
}

impl Doctor {
    /// Sends the probes and prints the results to `out`.
    ///
    /// # Errors
    /// The URL or the token cannot be used, or the proxy cannot be reached.
    pub async fn run(self, out: &mut impl Write, paint: Paint) -> anyhow::Result<ExitCode> {
        let target = Target::parse(&self.url)?;
        for path in
            [self.protected.as_ref(), Some(&self.public), self.echo.as_ref(), Some(&self.post)]
                .into_iter()
                .flatten()
                .chain(&self.stream)
        {
            if !path.starts_with('/') || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
                bail!("`{path}` is not a path");
            }
        }
        let token = self.token.as_deref().map(argument::token).transpose()?;
        let token = token.map(|token| String::from_utf8_lossy(token.expose()).into_owned());
        if token.is_some() && target.is_clear() {
            bail!("the token would cross the network in clear; use https");
        }
        if token.as_ref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            bail!("the token has characters that no token may have");
        }
        let certificate = self.certificate.as_ref();
        let certificate = certificate.map(|path| argument::file(path, secrets::MAX)).transpose()?;
        let certificate = certificate.map(String::from_utf8).transpose();
        let certificate = certificate.context("the certificate is not text")?;
        let key = self.dpop_key.as_deref();
        let bound = key.map(|path| BoundClient::read(path, token.as_deref())).transpose()?;
        let marker = format!("doctor-{:016x}", rand::random::<u64>());
        let mut probes = Probes {
            target: &target,
            doctor: &self,
            protected: Protected::default(),
            marker,
            token,
            certificate,
            bound,
            findings: Vec::new(),
            progress: Progress::stderr(),
        };
        probes.all().await?;
        let findings = probes.into_findings();
        let count =
            |verdict: Verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
        let sound = count(Verdict::Leak) + count(Verdict::Fault) == 0;
        match self.output {
            Output::Json => {
                let report = json!({ "url": self.url, "ok": sound, "probes": findings });
                writeln!(out, "{}", printable::json(&report)?)?
            }
            Output::Text => {
                for Finding { name, verdict, detail, remedy } in &findings {
                    let (verdict, detail) = (verdict.painted(paint), printable::printable(detail));
                    writeln!(out, "{verdict:<8} {name}: {detail}")?;
                    if let Some(remedy) = remedy {
                        writeln!(out, "         remedy: {remedy}")?;
                    }
                }
                let [ok, leaks, faults, skipped] =
                    [Verdict::Ok, Verdict::Leak, Verdict::Fault, Verdict::Skipped].map(count);
                writeln!(out, "{ok} ok, {leaks} leaks, {faults} faults, {skipped} skipped")?;
            }
        }
        Ok(if sound { ExitCode::SUCCESS } else { ExitCode::from(1) })
    }
}
