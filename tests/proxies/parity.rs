//! The decision corpus through every dialect: each row as the proxy would send it, through the real
//! decoder, the core and the real encoder. A row that a dialect cannot express is counted with the
//! reason; every other row must have its expected result.

use std::collections::BTreeMap;

use http::{HeaderName, HeaderValue, Method, Request, Uri, request::Parts};
use http_body_util::BodyExt as _;
use tollgate::{
    adapter::forward_auth::{ForwardAuthConfig, ProxyResponse, decode, encode, has_body},
    engine::check::Answer,
    policy_test::{Body, Case, Expectation, Observed, Verdict, compare},
};
use tollgate_core::{
    check::{Prepared, prepare},
    decision::{
        Decision, Outcome,
        answer::{DECISION_ID, IDENTITY, STREAM_DURATION, allowed, denied},
    },
    rule::websocket::PROTOCOLS,
    snapshot::Snapshot,
};

use crate::corpus::{files, rows};

/// A dialect and the `body` setting of its listener.
const DIALECTS: [(&str, &str); 7] = [
    ("nginx", "sent"),
    ("nginx", "deny"),
    ("traefik", "sent"),
    ("caddy", "deny"),
    ("haproxy", "sent"),
    ("envoy_http", "sent"),
    ("envoy_http", "deny"),
];

/// The headers in which a dialect has method, path, host, scheme and address. They are repeated
/// here, so that a mistake in the table of the dialects is found.
fn places(dialect: &str) -> [&'static str; 5] {
    match dialect {
        "nginx" | "haproxy" => [
            "x-original-method",
            "x-original-uri",
            "x-original-host",
            "x-original-scheme",
            "x-real-ip",
        ],
        "traefik" | "caddy" => [
            "x-forwarded-method",
            "x-forwarded-uri",
            "x-forwarded-host",
            "x-forwarded-proto",
            "x-forwarded-for",
        ],
        _ => ["", "", "host", "x-forwarded-proto", "x-forwarded-for"],
    }
}

const FRAMING: [&str; 6] =
    ["content-length", "transfer-encoding", "connection", "host", "te", "trailer"];

/// The headers, besides `Authorization`, that may hold an API key or a proof: proxies copy them from the
/// answer.
const CREDENTIAL_HEADERS: [&str; 3] = ["x-api-key", "api-key", "dpop"];

struct ProxyCheck {
    config: ForwardAuthConfig,
    parts: Parts,
    body: Vec<u8>,
}

/// The check that the proxy would send for the request of `case`, or why it cannot.
fn proxy_check(dialect: &str, bodies: &str, case: &Case) -> Result<ProxyCheck, &'static str> {
    let request = &case.request;
    let json =
        format!(r#"{{"address": "127.0.0.1:0", "dialect": "{dialect}", "body": "{bodies}"}}"#);
    let config: ForwardAuthConfig = serde_json::from_str(&json).unwrap();
    let envoy = dialect == "envoy_http";
    if !request.certificate.is_empty() {
        return Err("the proxy reports a certificate only in a header that the policy names");
    }
    if request.joined && !envoy {
        return Err("the proxy does not join repeated headers");
    }
    if !request.joined && envoy && (repeats(request) || commas(request)) {
        return Err(
            "Envoy's HTTP service joins repeated headers, so a comma is taken for a repetition",
        );
    }
    let body = match &request.body {
        Body::Absent => Vec::new(),
        Body::Whole(bytes) => bytes.clone(),
        Body::Cut => return Err("the proxy refuses a body instead of cutting it"),
    };
    let [method, path, host, scheme, address] = places(dialect);
    let mut parts = Request::new(()).into_parts().0;
    let mut put = |name: &str, value: &[u8]| {
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| "no HTTP header can have this name")?;
        let value =
            HeaderValue::from_bytes(value).map_err(|_| "no HTTP header can have this value")?;
        parts.headers.append(name, value);
        Ok::<(), &'static str>(())
    };
    for (name, value) in &request.headers {
        let name = name.to_ascii_lowercase();
        if FRAMING.contains(&&*name) {
            return Err("the proxy alone reads the framing of the client's request");
        }
        if places(dialect).contains(&&*name) {
            return Err("the proxy replaces this header");
        }
        put(&name, value)?;
    }
    put(host, request.host.as_bytes())?;
    if !request.scheme.is_empty() {
        put(scheme, request.scheme.as_bytes())?;
    }
    if let Some(ip) = request.address {
        put(address, ip.to_string().as_bytes())?;
    }
    if envoy {
        parts.method = Method::from_bytes(request.method.as_bytes())
            .map_err(|_| "no HTTP request line can have this method")?;
        let target: Uri =
            request.path.parse().map_err(|_| "no HTTP request line can have this target")?;
        if target.path_and_query().is_none_or(|target| target.as_str() != request.path) {
            return Err("Envoy refuses this target itself");
        }
        parts.uri = target;
    } else {
        put(method, request.method.as_bytes())?;
        put(path, request.path.as_bytes())?;
        parts.uri = Uri::from_static("/check");
        // nginx's njs and HAProxy's Lua use POST for a check with a body.
        parts.method = if matches!(dialect, "nginx" | "haproxy") && bodies == "sent" {
            Method::POST
        } else {
            Method::GET
        };
    }
    Ok(ProxyCheck { config, parts, body })
}

fn repeats(request: &tollgate::policy_test::Request) -> bool {
    let names: Vec<String> =
        request.headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    names.iter().enumerate().any(|(at, name)| names.iter().take(at).any(|other| other == name))
}

fn commas(request: &tollgate::policy_test::Request) -> bool {
    request.headers.iter().any(|(_, value)| value.contains(&b','))
}

/// Runs a check through decoder, core and encoder.
fn answer_of(sent: &ProxyCheck, case: &Case, snapshot: &Snapshot) -> ProxyResponse {
    let body = has_body(&sent.config, &sent.parts.method).then_some(&*sent.body);
    let outcome = match decode(&sent.config, &sent.parts, body) {
        Err(denial) => Outcome::refused(denial),
        Ok(raw) => {
            let mut store = case.store(snapshot);
            match prepare(snapshot, raw, case.now, &mut store.hooks()) {
                Prepared::Decided(outcome) => outcome,
                Prepared::Pending(pending) => store.conclude(pending, case.now, case.outage),
            }
        }
    };
    let id = "decision-1";
    let answer = match &outcome.decision {
        Decision::Allow(grant) => Answer::Allow(allowed(grant, &outcome.evidence, snapshot, id)),
        Decision::Deny(denial) => Answer::Deny(denied(denial, &outcome.evidence, id)),
        Decision::Fail(failure) => Answer::Fail(failure),
    };
    encode(sent.config.dialect, answer, &sent.parts.headers)
}

/// The answer as a proxy with the shipped configuration reads it.
fn observed_by_the_proxy(sent: &ProxyCheck, reply: ProxyResponse) -> Observed {
    let (parts, body) = reply.into_parts();
    let text = |name: &str| parts.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    let body = futures_util::FutureExt::now_or_never(body.collect()).unwrap().unwrap().to_bytes();
    let body = text("x-tollgate-body").map_or_else(|| body.to_vec(), String::into_bytes);
    let status =
        text("x-tollgate-status").map_or(parts.status.as_u16(), |status| status.parse().unwrap());
    let body: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
    let headers: Vec<(String, String)> = parts
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    let decision = match parts.status.as_u16() {
        200 => Verdict::Allow,
        500.. if text(DECISION_ID).is_none() => Verdict::Fail,
        _ => Verdict::Deny,
    };
    let mut set: Vec<(String, String)> = headers
        .iter()
        .filter(|(name, value)| {
            let copied = name.starts_with("x-tollgate-")
                || name == "authorization"
                || CREDENTIAL_HEADERS.contains(&&**name)
                || name == PROTOCOLS
                || name == STREAM_DURATION;
            copied && !value.is_empty()
        })
        .cloned()
        .collect();
    let mut removed: Vec<String> = Vec::new();
    if decision == Verdict::Allow {
        match text("x-envoy-auth-headers-to-remove") {
            Some(list) => removed.extend(list.split(',').map(str::to_owned)),
            // Every name that the proxy copies and that is missing or empty.
            None => {
                let known = IDENTITY.into_iter().chain(["authorization"]);
                let protocols = sent.parts.headers.contains_key(PROTOCOLS).then_some(PROTOCOLS);
                let keys = CREDENTIAL_HEADERS.into_iter();
                let keys = keys.filter(|name| sent.parts.headers.contains_key(*name));
                let known = known.chain(protocols).chain(keys);
                removed.extend(
                    known.filter(|name| !set.iter().any(|(set, _)| set == name)).map(str::to_owned),
                );
            }
        }
    }
    // A credential that is set to its own value is forwarded unchanged.
    set.retain(|(name, value)| {
        let is_credential = name == "authorization" || CREDENTIAL_HEADERS.contains(&&**name);
        let own = sent.parts.headers.get(name).and_then(|value| value.to_str().ok());
        !is_credential || Some(value.as_str()) != own
    });
    Observed {
        decision,
        status: (decision == Verdict::Deny).then_some(status),
        reason: body
            .as_ref()
            .and_then(|body| Some(body.pointer("/error/code")?.as_str()?.to_owned())),
        body: body.filter(|_| decision == Verdict::Deny),
        set,
        removed,
        response: headers,
        internal: None,
    }
}

/// The expectation of the row in terms of the dialect.
fn expected(dialect: &str, case: &Case) -> Expectation {
    let mut expect = case.expect.clone().unwrap();
    if dialect == "envoy_http" && expect.status == Some(503) {
        // Envoy treats a 5xx as a failed check.
        expect.status = Some(429);
    }
    if dialect != "nginx" {
        // The proxy forwards the client's own.
        expect.upstream.remove(PROTOCOLS);
    }
    if dialect != "envoy_http" {
        // A header that was not sent needs no removal; one that was sent and cannot be overwritten
        // is refused.
        let sent = |name: &String| {
            case.request.headers.iter().any(|(sent, _)| sent.eq_ignore_ascii_case(name))
        };
        expect.removed.retain(|name| {
            sent(name) || name == "authorization" || IDENTITY.contains(&name.as_str())
        });
    }
    expect
}

#[test]
fn every_row_has_its_expected_result_or_a_reason_why_it_cannot() {
    let files = files();
    let rows = rows(&files);
    let mut failures = Vec::new();
    let mut left_out: BTreeMap<(&str, &str), BTreeMap<&str, usize>> = BTreeMap::new();
    for (dialect, bodies) in DIALECTS {
        let mut checked = 0;
        for (row, snapshot) in &rows {
            let why = match proxy_check(dialect, bodies, &row.case) {
                Err(why) => Some(why),
                Ok(_) if snapshot.policy.cookies.is_some() => {
                    Some("`cookies` is an error of the file beside `listen.http`")
                }
                Ok(sent) => {
                    let observed =
                        observed_by_the_proxy(&sent, answer_of(&sent, &row.case, snapshot));
                    let expect = expected(dialect, &row.case);
                    let spoofed =
                        row.case.request.headers.iter().any(|(name, _)| has_to_go(name, snapshot));
                    if spoofed
                        && dialect != "envoy_http"
                        && observed.reason.as_deref() == Some("malformed_request")
                    {
                        Some("the proxy could not remove this header, so the request is refused")
                    } else if dialect != "nginx"
                        && row.file == "websocket.yaml"
                        && observed.reason.as_deref() == Some("malformed_request")
                    {
                        Some("the proxy could not take the token out of the protocols")
                    } else if bodies == "deny"
                        && observed.reason.as_deref() == Some("body_unavailable")
                    {
                        Some("no body comes, so the route that reads it is denied")
                    } else {
                        if let Err(difference) = compare(&expect, &observed) {
                            failures.push(format!(
                                "{dialect} ({bodies}) {}\n    {difference}",
                                row.place()
                            ));
                        }
                        checked += 1;
                        None
                    }
                }
            };
            if let Some(why) = why {
                *left_out.entry((dialect, bodies)).or_default().entry(why).or_default() += 1;
            }
        }
        assert!(
            checked * 5 >= rows.len() * 3,
            "{dialect} ({bodies}): only {checked} of {} rows ran: {left_out:#?}",
            rows.len()
        );
    }
    println!("{left_out:#?}");
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

/// A client's header that no upstream may receive, in a spelling that is not overwritten.
fn has_to_go(name: &str, snapshot: &Snapshot) -> bool {
    let plain = |name: &str| -> String {
        name.chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
            .collect()
    };
    let lower = name.to_ascii_lowercase();
    let identity = plain(name).starts_with("x-tollgate-")
        && lower != DECISION_ID
        && !IDENTITY.contains(&&*lower);
    identity || snapshot.policy.strip_headers.iter().any(|stripped| plain(stripped) == plain(name))
}
