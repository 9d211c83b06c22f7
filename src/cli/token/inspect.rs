//! `tollgate token inspect`.

mod findings;

use std::{io::Write, process::ExitCode};

use anyhow::Context as _;
use clap::Args;
use serde_json::{Map, Value, json};
use tollgate_core::{revocation::token_digest, text::hex, time::Timestamp};

use self::findings::Findings;
use super::unreadable;
use crate::{
    cli::{
        Output, argument,
        printable::{self, printable},
        token_view,
    },
    observe::now,
};

/// Claims whose values are times.
const DATES: [&str; 4] = ["exp", "nbf", "iat", "auth_time"];

const MORE: &str = "\
Examples:
  tollgate token inspect @token.txt
  pass show api-token | tollgate token inspect -
  tollgate token inspect @token.txt --output json | jq -r .claims.sub

Exit codes:
  0  the text is a JWT, acceptable or not
  1  the text is no JWT
  2  the token cannot be read";

/// Show the contents of a token.
///
/// Also what every policy would reject in it, and what a policy needs to accept it. The signature
/// is NOT verified. Every user of the machine can see a token on the command line: `-` reads it
/// from standard input, `@FILE` from a file.
#[derive(Debug, Args)]
#[command(after_long_help = MORE)]
pub(super) struct Inspect {
    /// The token: `-` reads it from standard input, `@FILE` from a file.
    #[arg(value_name = "TOKEN|-|@FILE")]
    token: String,
    /// The form of the output.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl Inspect {
    /// Prints the contents of the token to `out`.
    ///
    /// # Errors
    /// The token cannot be read.
    pub(super) fn run(&self, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        let secret = argument::token(&self.token)?;
        let token = std::str::from_utf8(secret.expose()).ok().context("the token is not text")?;
        let Some(report) = TokenReport::of(token, now()) else {
            let reason = unreadable::reason(token);
            let reason = reason.or_else(|| token_view::format_error(token, now()));
            let reason = reason.unwrap_or_default();
            match self.output {
                Output::Text => writeln!(out, "not a JWT: {}", printable(&reason))?,
                Output::Json => {
                    let report = json!({ "jwt": false, "reason": reason });
                    writeln!(out, "{}", printable::json(&report)?)?;
                }
            }
            return Ok(ExitCode::from(1));
        };
        match self.output {
            Output::Text => report.print(out)?,
            Output::Json => writeln!(out, "{}", printable::json(&report.json())?)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The report on one token.
struct TokenReport {
    header: Map<String, Value>,
    claims: Map<String, Value>,
    times: Vec<(&'static str, String)>,
    digest: String,
    findings: Findings,
}

impl TokenReport {
    fn of(token: &str, now: Timestamp) -> Option<Self> {
        let token_view::DecodedToken { header, claims } = token_view::decode(token)?;
        let findings = Findings::of(token, &header, &claims, now);
        Some(Self {
            times: DATES
                .iter()
                .filter_map(|name| Some((*name, token_view::date(claims.get(*name)?, now)?)))
                .collect(),
            digest: hex(&token_digest(token)),
            header,
            claims,
            findings,
        })
    }

    fn json(&self) -> Value {
        let times: Map<String, Value> =
            self.times.iter().map(|(name, text)| ((*name).to_owned(), json!(text))).collect();
        json!({
            "jwt": true, "verified": false, "header": self.header, "claims": self.claims, "times": times,
            "revocation_digest": self.digest, "refused": self.findings.defects, "needs": self.findings.needs,
            "may_use": self.findings.hints,
        })
    }

    fn print(&self, out: &mut dyn Write) -> std::io::Result<()> {
        writeln!(out, "NOT VERIFIED: anyone can write a token with this content.\n\nheader")?;
        for (name, value) in &self.header {
            writeln!(out, "  {:<12} {}", printable(name), printable(&value.to_string()))?;
        }
        writeln!(out, "\nclaims")?;
        for (name, value) in &self.claims {
            let time = self
                .times
                .iter()
                .find(|(known, _)| known == name)
                .map(|(_, text)| format!("  {text}"))
                .unwrap_or_default();
            writeln!(out, "  {:<12} {}{time}", printable(name), printable(&value.to_string()))?;
        }
        writeln!(out, "\nrevocation digest\n  {}", self.digest)?;
        for (title, list) in [
            ("no policy accepts it", &self.findings.defects),
            ("a policy that accepts it needs", &self.findings.needs),
            ("a policy may also use", &self.findings.hints),
        ] {
            if !list.is_empty() {
                writeln!(out, "\n{title}")?;
            }
            for line in list {
                writeln!(out, "  - {}", printable(line))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
