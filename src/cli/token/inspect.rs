//! `tollgate token inspect`.

use std::{io::Write, process::ExitCode};

use anyhow::Context as _;
use clap::Args;
use serde_json::{Map, Value, json};
use tollgate_core::{revocation::token_digest, text::hex, time::Timestamp};

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
            match self.output {
                Output::Text => writeln!(
                    out,
                    "not a JWT: {}",
                    token_view::format_error(token, now()).unwrap_or_default()
                )?,
                Output::Json => writeln!(out, "{}", json!({ "jwt": false }))?,
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
    /// The defects that every policy rejects.
    defects: Vec<String>,
    /// The settings of a policy that accepts it.
    needs: Vec<String>,
}

impl TokenReport {
    fn of(token: &str, now: Timestamp) -> Option<Self> {
        let token_view::DecodedToken { header, claims } = token_view::decode(token)?;
        let mut defects: Vec<String> = token_view::format_error(token, now).into_iter().collect();
        let mut needs = Vec::new();
        times(&claims, now, &mut defects, &mut needs);
        names(&header, &claims, &mut defects, &mut needs);
        Some(Self {
            times: DATES
                .iter()
                .filter_map(|name| Some((*name, token_view::date(claims.get(*name)?, now)?)))
                .collect(),
            digest: hex(&token_digest(token)),
            header,
            claims,
            defects,
            needs,
        })
    }

    fn json(&self) -> Value {
        let times: Map<String, Value> =
            self.times.iter().map(|(name, text)| ((*name).to_owned(), json!(text))).collect();
        json!({
            "jwt": true, "verified": false, "header": self.header, "claims": self.claims, "times": times,
            "revocation_digest": self.digest, "refused": self.defects, "needs": self.needs,
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
            ("no policy accepts it", &self.defects),
            ("a policy that accepts it needs", &self.needs),
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

fn times(
    claims: &Map<String, Value>,
    now: Timestamp,
    defects: &mut Vec<String>,
    needs: &mut Vec<String>,
) {
    /// The largest leeway of an issuer.
    const LEEWAY: f64 = 60.0;
    const DAY: f64 = 86_400.0;
    let now = now.numeric_date();
    let date = |name: &str| {
        claims
            .get(name)
            .map(|value| value.as_f64().filter(|secs| (0.0..=253_402_300_799.0).contains(secs)))
    };
    for name in ["exp", "nbf", "iat"] {
        if date(name) == Some(None) {
            defects.push(format!("{name} is not a number of seconds since 1970"));
        }
    }
    let (exp, nbf, iat) = (date("exp").flatten(), date("nbf").flatten(), date("iat").flatten());
    match exp {
        None if !claims.contains_key("exp") => defects.push("it has no exp".into()),
        Some(exp) if exp + LEEWAY <= now => defects.push("it has expired".into()),
        _ => {}
    }
    for (name, moment) in [("nbf", nbf), ("iat", iat)] {
        if moment.is_some_and(|moment| moment > now + LEEWAY) {
            defects.push(format!("{name} is in the future"));
        }
    }
    if !claims.contains_key("iat") {
        needs.push("`required_claims` without `iat`".into());
    }
    let life = exp.map_or(0.0, |exp| exp - iat.unwrap_or(now));
    if life > 31.0 * DAY {
        defects.push("it lives longer than 31 days, the largest `max_lifetime`".into());
    } else if life > DAY {
        needs.push(format!("`max_lifetime` of {:.0}h or more", (life / 3600.0).ceil()));
    }
}

fn names(
    header: &Map<String, Value>,
    claims: &Map<String, Value>,
    defects: &mut Vec<String>,
    needs: &mut Vec<String>,
) {
    let text = |object: &Map<String, Value>, name: &str| {
        object.get(name).and_then(Value::as_str).map(str::to_owned)
    };
    let algorithm = text(header, "alg").unwrap_or_default();
    let shared = algorithm.starts_with("HS");
    if shared {
        needs.push("`secret`, the one it was signed with".into());
    }
    if !shared && !header.contains_key("kid") {
        needs.push("`kid: optional`, as it does not name its key".into());
    }
    match text(claims, "iss") {
        Some(iss) => needs.push(format!("`issuer: {iss}`")),
        None if !claims.contains_key("iss") => {
            needs.push("`issuer: absent`, as it names none".into())
        }
        None => {}
    }
    match claims.get("aud") {
        Some(Value::String(one)) => needs.push(format!("`audiences` with `{one}`")),
        Some(Value::Array(many)) if many.iter().all(Value::is_string) && !many.is_empty() => {
            let list: Vec<String> =
                many.iter().filter_map(|aud| Some(format!("`{}`", aud.as_str()?))).collect();
            needs.push(format!("`audiences` with one of {}", list.join(", ")));
        }
        _ => needs.push(
            "`audiences: any`, or `audience_claim` with the claim that names the service".into(),
        ),
    }
    match claims.get("sub") {
        Some(Value::String(sub))
            if !sub.is_empty() && sub.len() <= 256 && !sub.chars().any(char::is_control) => {}
        Some(Value::String(_)) => defects.push("sub is not 1 to 256 printable characters".into()),
        Some(_) => defects.push("sub is not text".into()),
        None => needs.push("`claims: { subject: … }` with the claim that names the subject".into()),
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_767_225_600);

    fn report(header: Value, claims: Value) -> TokenReport {
        let part = |json: Value| URL_SAFE_NO_PAD.encode(json.to_string());
        TokenReport::of(&format!("{}.{}.c2ln", part(header), part(claims)), NOW).unwrap()
    }

    #[test]
    fn a_good_token_needs_only_its_issuer_and_audience() {
        let report = report(
            json!({ "alg": "RS256", "kid": "k" }),
            json!({ "iss": "https://a", "aud": "b", "sub": "c", "iat": 1_767_225_600, "exp": 1_767_225_900 }),
        );
        assert_eq!(report.defects, [""; 0]);
        assert_eq!(report.needs, ["`issuer: https://a`", "`audiences` with `b`"]);
        let mut text = Vec::new();
        report.print(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.starts_with("NOT VERIFIED"), "{text}");
        assert!(text.contains("1767225900  2026-01-01T00:05:00Z (in 5m)"), "{text}");
        assert!(text.contains(&report.digest) && report.digest.len() == 64);
    }

    #[test]
    fn a_tutorial_s_token_needs_what_the_tutorial_left_out() {
        let report = report(
            json!({ "alg": "HS256" }),
            json!({ "username": "alice", "exp": 1_767_225_600 + 3 * 86_400 }),
        );
        assert_eq!(report.defects, [""; 0]);
        let needs = report.needs.join("; ");
        for word in [
            "secret",
            "issuer: absent",
            "audiences: any",
            "without `iat`",
            "max_lifetime",
            "72h",
            "subject",
        ] {
            assert!(needs.contains(word), "{word}: {needs}");
        }
    }

    #[test]
    fn what_no_policy_accepts_is_told() {
        for (header, claims, word) in [
            (json!({ "alg": "none" }), json!({ "exp": 1_767_225_900 }), "algorithm"),
            (json!({ "alg": "RS256" }), json!({}), "no exp"),
            (json!({ "alg": "RS256" }), json!({ "exp": "1767225900" }), "exp is not a number"),
            (json!({ "alg": "RS256" }), json!({ "exp": 1_767_225_540 }), "expired"),
            (
                json!({ "alg": "RS256" }),
                json!({ "exp": 1_767_225_900, "nbf": 1_767_225_661 }),
                "nbf is in the future",
            ),
            (json!({ "alg": "RS256" }), json!({ "exp": 1_767_225_600 + 40 * 86_400 }), "31 days"),
            (
                json!({ "alg": "RS256" }),
                json!({ "exp": 1_767_225_900, "sub": 7 }),
                "sub is not text",
            ),
            (
                json!({ "alg": "RS256", "typ": "logout+jwt" }),
                json!({ "exp": 1_767_225_900 }),
                "typ",
            ),
        ] {
            let defects = report(header, claims).defects.join("; ");
            assert!(defects.contains(word), "{word}: {defects}");
        }
    }

    #[test]
    fn the_json_says_that_nothing_is_verified() {
        let json = report(json!({ "alg": "none" }), json!({ "exp": 5 })).json();
        assert_eq!(
            (json["verified"].as_bool(), json["header"]["alg"].as_str()),
            (Some(false), Some("none"))
        );
    }
}
