//! What is found in the contents of a token: defects, and the settings of a policy that accepts it.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};
use tollgate_core::{
    credential::jwt::{self, algorithm::Algorithm},
    text::is_identifier,
    time::Timestamp,
};

use crate::cli::{token::unreadable, token_view};

/// What is found in one token.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// The defects that every policy rejects.
    pub(super) defects: Vec<String>,
    /// The settings of a policy that accepts it.
    pub(super) needs: Vec<String>,
    /// What a policy may take from it besides.
    pub(super) hints: Vec<String>,
}

impl Findings {
    /// Returns what is found in a token with this header and these claims.
    pub(super) fn of(
        token: &str,
        header: &Map<String, Value>,
        claims: &Map<String, Value>,
        now: Timestamp,
    ) -> Self {
        let mut found = Self::default();
        let form = unreadable::reason(token).or_else(|| token_view::format_error(token, now));
        found.defects.extend(form);
        found.signature(token, header, claims);
        if let Some(denial) = jwt::kind_refusal(token, true) {
            found.defects.push(denial.cause.into_owned());
        } else if jwt::kind_refusal(token, false).is_some() {
            found.needs.push(
                "`id_tokens: accepted`, as it is an ID token; access tokens need none".into(),
            );
        }
        found.names(header, claims);
        found.times(claims, now);
        found.identity(claims);
        found
    }

    /// What makes every verification of the signature fail.
    fn signature(&mut self, token: &str, header: &Map<String, Value>, claims: &Map<String, Value>) {
        const ENTRA: [&str; 2] = ["https://sts.windows.net/", "https://login.microsoftonline.com/"];
        /// Microsoft Graph, by its id and its address.
        const GRAPH: [&str; 2] =
            ["00000003-0000-0000-c000-000000000000", "https://graph.microsoft.com"];
        let is_graph = text(claims, "iss")
            .is_some_and(|iss| ENTRA.iter().any(|at| iss.starts_with(at)))
            || text(claims, "aud").is_some_and(|aud| GRAPH.contains(&aud.trim_end_matches('/')));
        if header.contains_key("nonce") && is_graph {
            self.defects.push(
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
            self.defects.push(format!(
            "its signature is in DER, as in certificates; {algorithm} has R and S side by side, \
             {length} bytes (RFC 7518 section 3.4)"
        ));
        } else {
            self.defects.push(format!(
                "its signature has {} bytes, and {algorithm} has {length}",
                bytes.len()
            ));
        }
    }

    /// What a policy must name: the issuer, the audience, the algorithm and the key.
    fn names(&mut self, header: &Map<String, Value>, claims: &Map<String, Value>) {
        let algorithm = text(header, "alg").unwrap_or_default();
        let is_known = Algorithm::parse(algorithm).is_some();
        if !is_known {
            // A defect: no policy can list it.
        } else if algorithm.starts_with("HS") {
            self.needs.push("`secret`, the one it was signed with".into());
        } else if text(header, "kid").is_none_or(str::is_empty) {
            self.needs.push("`kid: optional`, as it does not name its key".into());
        }
        match text(claims, "iss") {
            Some(iss) => self.needs.push(format!("`issuer: {iss}`")),
            None if !claims.contains_key("iss") => {
                self.needs.push("`issuer: absent`, as it names none".into())
            }
            None => {}
        }
        match claims.get("aud") {
        Some(Value::String(one)) => self.needs.push(format!("`audiences` with `{one}`")),
        Some(Value::Array(many)) if many.iter().all(Value::is_string) && !many.is_empty() => {
            let list: Vec<String> =
                many.iter().filter_map(|aud| Some(format!("`{}`", aud.as_str()?))).collect();
            self.needs.push(format!("`audiences` with one of {}", list.join(", ")));
        }
        None | Some(Value::Null) => self.needs.push(
            "`audience_claim` with the claim that names the service, or `audiences: any`, as it has \
             no aud"
                .into(),
        ),
        Some(other) => self.needs.push(format!(
            "`audience_claim` with another claim, as aud {}; the issuer has to correct it",
            audience_problem(other)
        )),
    }
        if is_known {
            self.needs.push(format!("`algorithms: [{algorithm}]`"));
        }
    }

    fn times(&mut self, claims: &Map<String, Value>, now: Timestamp) {
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
                self.defects.push(format!("{name} is not a number of seconds since 1970"));
            }
        }
        let (exp, nbf, iat) = (date("exp").flatten(), date("nbf").flatten(), date("iat").flatten());
        match exp {
            None if !claims.contains_key("exp") => self.defects.push("it has no exp".into()),
            Some(exp) if exp + LEEWAY <= now => self.defects.push("it has expired".into()),
            _ => {}
        }
        for (name, moment) in [("nbf", nbf), ("iat", iat)] {
            if moment.is_some_and(|moment| moment > now + LEEWAY) {
                self.defects.push(format!("{name} is in the future"));
            }
        }
        if !claims.contains_key("iat") {
            self.needs.push("`required_claims` without `iat`".into());
        }
        let life = exp.map_or(0.0, |exp| exp - iat.unwrap_or(now));
        if life > 31.0 * DAY {
            self.defects.push("it lives longer than 31 days, the largest `max_lifetime`".into());
        } else if life > DAY {
            self.needs.push(format!("`max_lifetime` of {:.0}h or more", (life / 3600.0).ceil()));
        }
    }

    /// What a policy takes from the claims: the subject, the tenant, the client, roles and scopes.
    fn identity(&mut self, claims: &Map<String, Value>) {
        let present = |name: &str| claims.get(name).filter(|value| !value.is_null());
        match (present("sub"), present("client_id")) {
            (Some(Value::String(sub)), _) | (None, Some(Value::String(sub)))
                if is_identifier(sub) && !sub.trim().is_empty() => {}
            (None, None) => {
                self.needs
                    .push("`claims: { subject: … }` with the claim that names the subject".into());
            }
            (Some(Value::Number(number)), _) if number.is_i64() => {
                self.needs.push("`claims: { subject: sub }`, as sub is a number".into());
            }
            (found, _) => {
                let claim = if found.is_some() { "sub" } else { "client_id" };
                self.needs.push(format!(
                "`claims: {{ subject: … }}` with another claim, as {claim} is not text of 1 to 256 \
                 printable characters"
            ));
            }
        }
        match present("jti") {
            Some(Value::String(jti)) if !is_identifier(jti) => {
                self.defects.push("jti is not text of 1 to 256 printable characters".into());
            }
            None | Some(Value::String(_)) => {}
            Some(_) => {
                self.needs.push("`required_claims` without `jti`, as jti is not text".into())
            }
        }
        for (name, part) in [("tenant_id", "tenant"), ("client_id", "client")] {
            match present(name) {
            Some(Value::String(value)) if !is_identifier(value) => self.needs.push(format!(
                "`claims: {{ {part}: … }}` with another claim, as {name} is not 1 to 256 printable \
                 characters"
            )),
            Some(Value::Number(_)) => self.needs.push(format!(
                "`claims: {{ {part}: {name} }}` where the {part} is used, as it is a number"
            )),
            Some(value) if !value.is_string() => self.needs.push(format!(
                "`claims: {{ {part}: … }}` with another claim where the {part} is used, as {name} \
                 is not text"
            )),
            _ => {}
        }
        }
        if let Some(problem) = present("roles").and_then(|roles| list_problem(roles, false)) {
            self.needs
                .push(format!("`claims: {{ roles: … }}` with another claim, as roles {problem}"));
        }
        let mut has_scopes = false;
        for name in ["scope", "scopes", "scp"] {
            let Some(value) = present(name) else { continue };
            has_scopes = true;
            if let Some(problem) = list_problem(value, true) {
                self.needs
                    .push(format!("`claims: {{ scopes: [ … ] }}` without {name}, as it {problem}"));
            } else if value.as_str().is_some_and(|text| text.contains(',')) {
                self.hints.push(format!(
                    "{name} has a comma, which separates nothing: only a space does"
                ));
            } else if has_unusable(value) {
                self.hints.push(format!(
                "{name} has an element that is no scope (a space, a control character or another \
                 type) and is left out; routes with conditions refuse the token"
            ));
            }
        }
        if !has_scopes {
            self.hints.push(
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
                self.hints.push(format!("`claims: {{ {part}: {shown} }}`: {value}"));
            }
        }
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
