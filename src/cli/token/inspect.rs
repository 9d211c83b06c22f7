//! `tollgate token inspect`.

use std::{io::Write, process::ExitCode};

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use clap::Args;
use serde_json::{Map, Value, json};
use tollgate_core::{
    credential::jwt::{self, algorithm::Algorithm},
    revocation::token_digest,
    text::{hex, is_identifier},
    time::Timestamp,
};

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
    /// The defects that every policy rejects.
    defects: Vec<String>,
    /// The settings of a policy that accepts it.
    needs: Vec<String>,
    /// What a policy may take from it besides.
    hints: Vec<String>,
}

impl TokenReport {
    fn of(token: &str, now: Timestamp) -> Option<Self> {
        let token_view::DecodedToken { header, claims } = token_view::decode(token)?;
        let form = unreadable::reason(token).or_else(|| token_view::format_error(token, now));
        let mut defects: Vec<String> = form.into_iter().collect();
        let mut needs = Vec::new();
        let mut hints = Vec::new();
        signature(token, &header, &claims, &mut defects);
        if let Some(denial) = jwt::kind_refusal(token, true) {
            defects.push(denial.cause.into_owned());
        } else if jwt::kind_refusal(token, false).is_some() {
            needs.push(
                "`id_tokens: accepted`, as it is an ID token; access tokens need none".into(),
            );
        }
        names(&header, &claims, &mut needs);
        times(&claims, now, &mut defects, &mut needs);
        identity(&claims, &mut defects, &mut needs, &mut hints);
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
            hints,
        })
    }

    fn json(&self) -> Value {
        let times: Map<String, Value> =
            self.times.iter().map(|(name, text)| ((*name).to_owned(), json!(text))).collect();
        json!({
            "jwt": true, "verified": false, "header": self.header, "claims": self.claims, "times": times,
            "revocation_digest": self.digest, "refused": self.defects, "needs": self.needs,
            "may_use": self.hints,
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
            ("a policy may also use", &self.hints),
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

/// What a policy must name: the issuer, the audience, the algorithm and the key.
fn names(header: &Map<String, Value>, claims: &Map<String, Value>, needs: &mut Vec<String>) {
    let algorithm = text(header, "alg").unwrap_or_default();
    let is_known = Algorithm::parse(algorithm).is_some();
    if !is_known {
        // A defect: no policy can list it.
    } else if algorithm.starts_with("HS") {
        needs.push("`secret`, the one it was signed with".into());
    } else if text(header, "kid").is_none_or(str::is_empty) {
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
        None | Some(Value::Null) => needs.push(
            "`audience_claim` with the claim that names the service, or `audiences: any`, as it has \
             no aud"
                .into(),
        ),
        Some(other) => needs.push(format!(
            "`audience_claim` with another claim, as aud {}; the issuer has to correct it",
            audience_problem(other)
        )),
    }
    if is_known {
        needs.push(format!("`algorithms: [{algorithm}]`"));
    }
}

/// Returns why a claim `aud` is neither text nor a list of texts.
fn audience_problem(aud: &Value) -> String {
    let type_name = |value: &Value| match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    match aud {
        Value::Array(items) => match items.iter().find(|item| !item.is_string()) {
            Some(item) => format!("has an element that is {}, not text", type_name(item)),
            None => "is an empty list".into(),
        },
        other => format!("is {}, not text or a list of texts", type_name(other)),
    }
}

/// What makes every verification of the signature fail.
fn signature(
    token: &str,
    header: &Map<String, Value>,
    claims: &Map<String, Value>,
    defects: &mut Vec<String>,
) {
    const ENTRA: [&str; 2] = ["https://sts.windows.net/", "https://login.microsoftonline.com/"];
    /// Microsoft Graph, by its id and its address.
    const GRAPH: [&str; 2] =
        ["00000003-0000-0000-c000-000000000000", "https://graph.microsoft.com"];
    let is_graph = text(claims, "iss")
        .is_some_and(|iss| ENTRA.iter().any(|at| iss.starts_with(at)))
        || text(claims, "aud").is_some_and(|aud| GRAPH.contains(&aud.trim_end_matches('/')));
    if header.contains_key("nonce") && is_graph {
        defects.push(
            "its header has `nonce`: a token of Entra ID for Microsoft Graph, which only Graph can \
             verify; request one whose scope is of this service (`api://…/.default`)"
                .into(),
        );
    }
    let Some(algorithm) = text(header, "alg") else { return };
    let length = match algorithm {
        "ES256" => 64,
        "ES384" => 96,
        "ES512" => 132,
        _ => return,
    };
    let encoded = token.rsplit('.').next().unwrap_or_default();
    let Ok(bytes) = URL_SAFE_NO_PAD.decode(encoded) else { return };
    // SEQUENCE of two INTEGERs, whose length fills the signature (RFC 3279 section 2.2.3).
    let is_der = match bytes.as_slice() {
        [0x30, 0x81, size, 0x02, rest @ ..] => rest.len() + 1 == usize::from(*size),
        [0x30, size, 0x02, rest @ ..] => rest.len() + 1 == usize::from(*size),
        _ => false,
    };
    if bytes.len() == length {
    } else if is_der {
        defects.push(format!(
            "its signature is in DER, as in certificates; {algorithm} has R and S side by side, \
             {length} bytes (RFC 7518 section 3.4)"
        ));
    } else {
        defects
            .push(format!("its signature has {} bytes, and {algorithm} has {length}", bytes.len()));
    }
}

/// What a policy takes from the claims: the subject, the tenant, the client, roles and scopes.
fn identity(
    claims: &Map<String, Value>,
    defects: &mut Vec<String>,
    needs: &mut Vec<String>,
    hints: &mut Vec<String>,
) {
    let present = |name: &str| claims.get(name).filter(|value| !value.is_null());
    match (present("sub"), present("client_id")) {
        (Some(Value::String(sub)), _) | (None, Some(Value::String(sub)))
            if is_identifier(sub) && !sub.trim().is_empty() => {}
        (None, None) => {
            needs.push("`claims: { subject: … }` with the claim that names the subject".into());
        }
        (Some(Value::Number(number)), _) if number.is_i64() => {
            needs.push("`claims: { subject: sub }`, as sub is a number".into());
        }
        (found, _) => {
            let claim = if found.is_some() { "sub" } else { "client_id" };
            needs.push(format!(
                "`claims: {{ subject: … }}` with another claim, as {claim} is not text of 1 to 256 \
                 printable characters"
            ));
        }
    }
    match present("jti") {
        Some(Value::String(jti)) if !is_identifier(jti) => {
            defects.push("jti is not text of 1 to 256 printable characters".into());
        }
        None | Some(Value::String(_)) => {}
        Some(_) => needs.push("`required_claims` without `jti`, as jti is not text".into()),
    }
    for (name, part) in [("tenant_id", "tenant"), ("client_id", "client")] {
        match present(name) {
            Some(Value::String(value)) if !is_identifier(value) => needs.push(format!(
                "`claims: {{ {part}: … }}` with another claim, as {name} is not 1 to 256 printable \
                 characters"
            )),
            Some(Value::Number(_)) => needs.push(format!(
                "`claims: {{ {part}: {name} }}` where the {part} is used, as it is a number"
            )),
            Some(value) if !value.is_string() => needs.push(format!(
                "`claims: {{ {part}: … }}` with another claim where the {part} is used, as {name} \
                 is not text"
            )),
            _ => {}
        }
    }
    if let Some(problem) = present("roles").and_then(|roles| list_problem(roles, false)) {
        needs.push(format!("`claims: {{ roles: … }}` with another claim, as roles {problem}"));
    }
    let mut has_scopes = false;
    for name in ["scope", "scopes", "scp"] {
        let Some(value) = present(name) else { continue };
        has_scopes = true;
        if let Some(problem) = list_problem(value, true) {
            needs.push(format!("`claims: {{ scopes: [ … ] }}` without {name}, as it {problem}"));
        } else if value.as_str().is_some_and(|text| text.contains(',')) {
            hints.push(format!("{name} has a comma, which separates nothing: only a space does"));
        } else if has_unusable(value) {
            hints.push(format!(
                "{name} has an element that is no scope (a space, a control character or another \
                 type) and is left out; routes with conditions refuse the token"
            ));
        }
    }
    if !has_scopes {
        hints.push(
            "it has none of scope, scopes and scp: `claims: { scopes: [ … ] }` names other claims, \
             and routes with `scopes: []` need none"
                .into(),
        );
    }
    // The claims of well-known issuers, and the parts of an identity that they are.
    for (path, part) in CANDIDATES {
        let found = path.split('/').try_fold(None, |at: Option<&Value>, name| match at {
            None => claims.get(name).map(Some),
            Some(value) => value.get(name).map(Some),
        });
        if let Some(Some(value)) = found
            && !value.is_null()
        {
            let names: Vec<&str> = path.split('/').collect();
            let shown = match names.as_slice() {
                [one] => format!("\"{one}\""),
                many => format!("[{}]", many.join(", ")),
            };
            hints.push(format!("`claims: {{ {part}: {shown} }}`: {value}"));
        }
    }
}

/// Claims of well-known issuers that no default reads, with the part of an identity that they are.
const CANDIDATES: [(&str, &str); 11] = [
    ("azp", "client"),
    ("cid", "client"),
    ("appid", "client"),
    ("tid", "tenant"),
    ("org_id", "tenant"),
    ("realm_access/roles", "roles"),
    ("groups", "roles"),
    ("cognito:groups", "roles"),
    ("permissions", "scopes"),
    ("kubernetes.io/namespace", "tenant"),
    ("email", "subject"),
];

fn text<'v>(object: &'v Map<String, Value>, name: &str) -> Option<&'v str> {
    object.get(name).and_then(Value::as_str)
}

/// Why words cannot be read from a claim, if they cannot.
fn list_problem(value: &Value, is_split: bool) -> Option<&'static str> {
    let has_control = |text: &str| text.chars().any(char::is_control);
    match value {
        Value::String(text) if has_control(text) && is_split => Some("has a control character"),
        Value::String(text) if has_control(text) => Some("have a control character"),
        Value::String(_) => None,
        // A list of scopes loses them.
        Value::Array(_) if is_split => None,
        Value::Array(items) => items.iter().find_map(|item| match item {
            Value::String(text) if has_control(text) => {
                Some("has an element with a control character")
            }
            Value::String(_) => None,
            _ => Some("has an element that is not text"),
        }),
        Value::Object(members) if !members.is_empty() && members.values().all(Value::is_object) => {
            None
        }
        _ => Some("is not text or a list of texts"),
    }
}

fn has_unusable(value: &Value) -> bool {
    let is_unusable = |item: &Value| {
        let bad = |c: char| c.is_whitespace() || c.is_control();
        item.as_str().is_none_or(|text| text.contains(bad))
    };
    value.as_array().is_some_and(|items| items.iter().any(is_unusable))
}

#[cfg(test)]
mod tests {
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
            json!({ "iss": "https://a", "aud": "b", "sub": "c", "iat": 1_767_225_600, "exp": 1_767_225_900, "scope": "s" }),
        );
        assert_eq!((report.defects.as_slice(), report.hints.as_slice()), (&[][..], &[][..]));
        let expected = ["`issuer: https://a`", "`audiences` with `b`", "`algorithms: [RS256]`"];
        assert_eq!(report.needs, expected);
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
                json!({ "exp": 1_767_225_900, "sub": "a", "jti": "" }),
                "jti is not text",
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

    /// Each of these claims made a token unusable that `inspect` had nothing to say about.
    #[test]
    fn every_claim_that_a_policy_must_settle_is_named() {
        for (claims, word) in [
            (json!({ "sub": 7 }), "`claims: { subject: sub }`, as sub is a number"),
            (json!({ "sub": 1.5 }), "`claims: { subject: … }` with another claim, as sub"),
            (json!({ "sub": " " }), "`claims: { subject: … }` with another claim, as sub"),
            (json!({ "jti": 7 }), "`required_claims` without `jti`"),
            (json!({ "sub": "" }), "with another claim, as sub"),
            (json!({ "sub": null, "client_id": "c\n" }), "with another claim, as client_id"),
            (json!({ "sub": null }), "`claims: { subject: … }` with the claim that names"),
            (json!({ "tenant_id": 7 }), "`claims: { tenant: tenant_id }`"),
            (json!({ "tenant_id": "a\nb" }), "tenant_id is not 1 to 256 printable"),
            (json!({ "tenant_id": { "id": 7 } }), "as tenant_id is not text"),
            (json!({ "client_id": ["c"] }), "as client_id is not text"),
            (json!({ "roles": { "admin": true } }), "as roles is not text or a list of texts"),
            (json!({ "roles": ["a", 7] }), "as roles has an element that is not text"),
            (json!({ "scope": 7 }), "without scope, as it is not text"),
        ] {
            let mut all = json!({ "sub": "c", "iat": 1_767_225_600, "exp": 1_767_225_900 });
            for (name, value) in claims.as_object().unwrap() {
                all[name] = value.clone();
            }
            let report = report(json!({ "alg": "RS256", "kid": "k" }), all);
            let needs = report.needs.join("; ");
            assert!(needs.contains(word), "{claims}: {needs}");
        }
        let empty_kid = report(json!({ "alg": "RS256", "kid": "" }), json!({ "exp": 5 }));
        assert!(empty_kid.needs.join("; ").contains("kid: optional"), "{:?}", empty_kid.needs);
    }

    #[test]
    fn an_id_token_needs_a_policy_that_accepts_it() {
        let of = |claims: Value| report(json!({ "alg": "RS256" }), claims);
        for claims in [json!({ "typ": "ID" }), json!({ "at_hash": "x" })] {
            let report = of(claims);
            assert!(
                report.needs.join("; ").contains("`id_tokens: accepted`"),
                "{:?}",
                report.needs
            );
        }
        let refresh = of(json!({ "typ": "Refresh" })).defects.join("; ");
        assert!(refresh.contains("a token for the issuer itself"), "{refresh}");
        assert!(!of(json!({ "scope": "a" })).needs.join("; ").contains("id_tokens"));
    }

    #[test]
    fn an_audience_of_another_type_is_named() {
        for (aud, word) in [
            (json!(["a", 7]), "aud has an element that is a number, not text"),
            (json!([]), "aud is an empty list"),
            (json!({ "a": 1 }), "aud is an object, not text or a list of texts"),
            (json!(true), "aud is a boolean"),
        ] {
            let needs = report(json!({ "alg": "ES256" }), json!({ "aud": aud })).needs.join("; ");
            assert!(needs.contains(word) && !needs.contains("audiences: any"), "{aud}: {needs}");
        }
        let needs = report(json!({ "alg": "ES256" }), json!({})).needs.join("; ");
        assert!(needs.contains("as it has no aud"), "{needs}");
    }

    #[test]
    fn an_algorithm_that_no_policy_can_list_is_named_and_not_recommended() {
        for (alg, word) in [
            ("none", "the algorithm `none` is no signature"),
            ("ES256K", "the algorithm `ES256K` is not supported"),
            ("HS1", "the algorithm `HS1` is not supported"),
        ] {
            let report = report(json!({ "alg": alg }), json!({ "sub": "c" }));
            let (defects, needs) = (report.defects.join("; "), report.needs.join("; "));
            assert!(defects.contains(word), "{defects}");
            assert!(!needs.contains("algorithms") && !needs.contains("secret"), "{needs}");
        }
        let needs = report(json!({ "alg": "Ed25519" }), json!({})).needs.join("; ");
        assert!(needs.contains("`algorithms: [Ed25519]`"), "{needs}");
    }

    #[test]
    fn a_signature_that_never_verifies_is_named() {
        let part = |json: Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let defects = |header: Value, claims: Value, signature: &[u8]| {
            let signature = URL_SAFE_NO_PAD.encode(signature);
            let token = format!("{}.{}.{signature}", part(header), part(claims));
            TokenReport::of(&token, NOW).unwrap().defects.join("; ")
        };
        let der = |integer: u8| {
            let one = [&[0x02, integer][..], &vec![1; usize::from(integer)]].concat();
            let body = [one.clone(), one].concat();
            let size = u8::try_from(body.len()).unwrap();
            let head = if size < 128 { vec![0x30, size] } else { vec![0x30, 0x81, size] };
            [head, body].concat()
        };
        for (alg, signature, expected) in [
            ("ES256", der(32), Some("in DER")),
            ("ES384", der(48), Some("in DER")),
            ("ES512", der(66), Some("in DER")),
            ("ES256", vec![1; 63], Some("its signature has 63 bytes, and ES256 has 64")),
            ("ES256", vec![0x30; 64], None),
            ("RS256", der(32), None),
        ] {
            let found = defects(json!({ "alg": alg }), json!({}), &signature);
            match expected {
                Some(word) => assert!(found.contains(word), "{alg}: {found}"),
                None => assert!(!found.contains("signature"), "{alg}: {found}"),
            }
        }
        let header = json!({ "alg": "RS256", "nonce": "x" });
        for graph in [
            json!({ "iss": "https://sts.windows.net/72f988bf/" }),
            json!({ "aud": "00000003-0000-0000-c000-000000000000" }),
            json!({ "aud": "https://graph.microsoft.com/" }),
        ] {
            assert!(defects(header.clone(), graph, b"x").contains("only Graph can verify"));
        }
        assert!(!defects(header, json!({ "iss": "https://a.example" }), b"x").contains("Graph"));
    }

    #[test]
    fn the_claims_of_well_known_issuers_are_suggested() {
        let report = report(
            json!({ "alg": "RS256", "kid": "k" }),
            json!({
                "sub": "c", "exp": 1_767_225_900, "azp": "chat-ui", "tid": "t",
                "realm_access": { "roles": ["premium", "GPU Team Leads"] },
            }),
        );
        let hints = report.hints.join("\n");
        for expected in [
            "it has none of scope, scopes and scp",
            "`claims: { client: \"azp\" }`: \"chat-ui\"",
            "`claims: { tenant: \"tid\" }`: \"t\"",
            "`claims: { roles: [realm_access, roles] }`: [\"premium\",\"GPU Team Leads\"]",
        ] {
            assert!(hints.contains(expected), "{expected}: {hints}");
        }
    }

    #[test]
    fn scopes_with_a_comma_or_a_space_are_named() {
        for (claims, word) in [
            (json!({ "sub": "c", "scope": "a,b" }), "scope has a comma"),
            (json!({ "sub": "c", "scp": ["a", "b c"] }), "scp has an element that is no scope"),
            (json!({ "sub": "c", "scp": ["a", "b\t"] }), "scp has an element that is no scope"),
            (json!({ "sub": "c", "scp": ["a", 7] }), "scp has an element that is no scope"),
        ] {
            let hints = report(json!({ "alg": "RS256" }), claims).hints.join("; ");
            assert!(hints.contains(word), "{hints}");
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
