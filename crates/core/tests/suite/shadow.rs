//! What is in shadow changes no decision: each request gets the same answer from a policy and from the
//! same policy without everything that is in shadow.

use std::sync::Arc;

use serde_json::{Value, json};
use tollgate_core::{
    admission::{AdmitResponse, Outage},
    check::{Pending, Prepared, prepare},
    credential::jwt::key_set::KeySet,
    decision::{Decision, Outcome, answer::denied},
    limit::{Verdict, reservation::ReservationKeys},
    request::{Headers, RawBody, RawRequest},
    secret::Secret,
    snapshot::Snapshot,
    time::Timestamp,
};

use crate::{
    harness::{FixedReservation, SECRET, compile},
    keys::Signer,
    token::{Members, NOW, signed},
};

/// A policy with everything that can be in shadow, beside what is enforced.
fn policy() -> Value {
    let post = |path: &str| json!({ "methods": ["POST"], "paths": [path] });
    let rules = ["actors", "caps", "categories", "raise", "tools"];
    let with_rules = |path: &str, more: Value| {
        let mut route = json!({
            "match": post(path), "scopes": [], "actors": { "allow": ["bot"] },
            "tools": "tool:{name}", "raise": { "multimodal": "infer:multimodal" },
            "caps": { "max_tokens": 10, "input_bytes": 200, "images": 0 },
            "categories": { "classify": true }, "shadow": rules,
            "conditions": [
                { "name": "never", "expression": "request.method == 'GET'", "mode": "shadow" },
                { "name": "claim", "expression": "principal.claims.team == 'red'", "mode": "shadow" },
                { "name": "enforced", "expression": "request.host != 'denied.example'" },
            ],
        });
        route.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        route
    };
    let shadow = ["s-rate", "s-day", "s-one", "s-estimate", "s-slots", "s-tenant", "s-client"];
    let both = [&shadow[..], &["e-rate", "e-day"]].concat();
    json!({
        "metering": { "secrets": ["m".repeat(32)] },
        "issuers": [{
            "issuer": "https://secret.example", "audiences": ["inference-api"],
            "algorithms": ["HS256"], "secret": std::str::from_utf8(SECRET).unwrap(),
            "claims": { "tenant": "tenant_id" },
        }],
        "models": [{ "name": "m", "context": 1000, "max_output": 100 }],
        "categories": [{ "name": "code", "scopes": ["category:code"], "patterns": ["hello"] }],
        "limits": [
            { "name": "s-rate", "mode": "shadow", "by": ["subject"], "rate": "1/1h" },
            { "name": "s-day", "mode": "shadow", "by": ["tenant"], "tokens": "100/day" },
            { "name": "s-one", "mode": "shadow", "by": ["subject"], "tokens_per_request": 10 },
            {
                "name": "s-estimate", "mode": "shadow", "by": ["subject"], "tokens": "100/1m",
                "hold": "estimate"
            },
            { "name": "s-slots", "mode": "shadow", "by": ["subject"], "concurrent": 0 },
            { "name": "s-tenant", "mode": "shadow", "by": ["tenant"], "requests": "1/day" },
            { "name": "s-client", "mode": "shadow", "by": ["client"], "rate": "1/1h" },
            { "name": "s-address", "mode": "shadow", "by": ["address"], "rate": "1/1h" },
            { "name": "e-rate", "by": ["subject"], "rate": "5/1h" },
            { "name": "e-day", "by": ["subject"], "tokens": "5000/day" },
        ],
        "routes": [
            with_rules("/rules", json!({})),
            with_rules("/model", json!({ "model": { "from": "body" } })),
            with_rules("/path/{model}", json!({ "model": { "from": "path:model" } })),
            with_rules("/fields", json!({ "fields": { "deny": ["seed"] } })),
            with_rules("/form", json!({
                "model": { "from": "form:model" }, "tools": null, "raise": null, "categories": null,
                "caps": { "max_tokens": 10, "input_bytes": 200 }, "shadow": ["actors", "caps"],
            })),
            with_rules("/both", json!({
                "model": { "from": "body" }, "limits": both,
            })),
            { "match": post("/limits"), "scopes": [], "limits": ["s-rate", "s-slots", "s-tenant", "e-rate"] },
            { "match": post("/tokens"), "scopes": [], "model": { "from": "body" }, "limits": shadow },
            { "match": post("/tokens/{model}"), "scopes": [], "model": { "from": "path:model" }, "limits": shadow },
            { "match": post("/mcp"), "scopes": [], "mcp": {}, "shadow": ["mcp"] },
            {
                "match": { "paths": ["/public"], "methods": ["POST"] }, "public": true,
                "conditions": [{ "expression": "request.method == 'GET'", "mode": "shadow" }],
                "limits": ["s-address"],
            },
        ],
    })
}

/// The policy without everything that is in shadow.
fn stripped(mut policy: Value) -> Value {
    let is_enforced = |one: &Value| one["mode"] != "shadow";
    let limits = policy["limits"].as_array_mut().unwrap();
    limits.retain(is_enforced);
    let names: Vec<Value> = limits.iter().map(|limit| limit["name"].clone()).collect();
    for route in policy["routes"].as_array_mut().unwrap() {
        if let Some(limits) = route.get_mut("limits").and_then(Value::as_array_mut) {
            limits.retain(|name| names.contains(name));
        }
        if let Some(conditions) = route.get_mut("conditions").and_then(Value::as_array_mut) {
            conditions.retain(is_enforced);
        }
        let route = route.as_object_mut().unwrap();
        for rule in route.remove("shadow").iter().flat_map(|rules| rules.as_array().unwrap()) {
            route.remove(rule.as_str().unwrap()).unwrap();
        }
    }
    policy
}

fn snapshot(policy: &Value) -> Snapshot {
    let without_nulls = |route: &mut Value| {
        route.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    };
    let mut policy = policy.clone();
    policy["routes"].as_array_mut().unwrap().iter_mut().for_each(without_nulls);
    let policy = Arc::new(compile(&policy.to_string()).unwrap());
    let keys = KeySet::from_secret(&Secret::new(SECRET), &policy.issuers.list()[0].algorithms);
    let reservations = ReservationKeys::new(vec![Secret::new("m".repeat(32))]).unwrap();
    Snapshot {
        keys: vec![Some(Arc::new(keys.unwrap()))],
        reservation_keys: Some(Arc::new(reservations)),
        ..Snapshot::without_keys(policy)
    }
}

/// A request with its body.
#[derive(Clone, Debug)]
struct Asked<'a> {
    path: &'a str,
    host: &'a str,
    token: Option<&'a str>,
    media_type: &'a str,
    body: RawBody<'a>,
}

fn prepared(snapshot: &Snapshot, asked: &Asked<'_>) -> Prepared {
    let mut headers = Headers::default();
    let authorization = asked.token.map(|token| format!("Bearer {token}"));
    if let Some(value) = &authorization {
        headers.push("authorization", value.as_bytes());
    }
    if !asked.media_type.is_empty() {
        headers.push("content-type", asked.media_type.as_bytes());
    }
    let raw = RawRequest {
        method: b"POST",
        scheme: b"https",
        host: asked.host.as_bytes(),
        path: asked.path.as_bytes(),
        headers,
        address: Some([192, 0, 2, 1].into()),
        peer_certificate: b"",
        body: asked.body,
    };
    prepare(snapshot, raw, Timestamp::from_secs(NOW), &mut FixedReservation)
}

/// The answer to a request for which the store has room in every limit that is enforced, and in none
/// that is in shadow.
fn concluded(pending: Pending) -> Outcome {
    let request = pending.admit_request();
    let holds = request.reservation.iter().flat_map(|reservation| &reservation.holds);
    let in_shadow = request.charges.iter().map(|charge| charge.is_shadow);
    let in_shadow = in_shadow.chain(holds.map(|hold| hold.is_shadow));
    let verdicts =
        in_shadow.map(|in_shadow| Verdict { admitted: !in_shadow, ..Verdict::UNCOUNTED });
    let verdicts = verdicts.collect();
    pending.conclude(Ok(AdmitResponse::Counted(verdicts)))
}

/// What the client and the store get, and nothing of what is in shadow.
fn shown(prepared: Prepared) -> String {
    let outcome = match prepared {
        Prepared::Pending(pending) => {
            let request = pending.admit_request();
            let charges: Vec<_> =
                request.charges.iter().filter(|charge| !charge.is_shadow).cloned().collect();
            let holds = request.reservation.iter().flat_map(|reservation| &reservation.holds);
            let holds: Vec<_> = holds.filter(|hold| !hold.is_shadow).cloned().collect();
            let changes = pending.principal().is_some();
            let outcome = concluded(pending);
            let Decision::Allow(grant) = &outcome.decision else {
                panic!("a limit in shadow denies: {:?}", outcome.decision)
            };
            let changes =
                (changes, grant.changes().filter(|changes| **changes != Default::default()));
            let limits = &outcome.evidence.limits;
            return format!(
                "{charges:?} {holds:?} {limits:?} {:?} {changes:?}",
                outcome.evidence.model
            );
        }
        Prepared::Decided(outcome) => outcome,
    };
    let Decision::Deny(denial) = &outcome.decision else { panic!("only denials are decided") };
    format!("{:?} {:?}", outcome.evidence.stage, denied(denial, &outcome.evidence, "id"))
}

const BODIES: &[&str] = &[
    "",
    "{",
    "no JSON",
    "[]",
    "{}",
    r#"{"model":"m"}"#,
    r#"{"model":"m","max_tokens":5}"#,
    r#"{"model":"m","max_tokens":50}"#,
    r#"{"model":"m","max_tokens":5000}"#,
    r#"{"model":"m","max_tokens":-1}"#,
    r#"{"model":"m","max_tokens":"5"}"#,
    r#"{"model":"m","max_tokens":1.5}"#,
    r#"{"model":"m","max_tokens":{}}"#,
    r#"{"model":"m","max_tokens":5,"max_tokens":50}"#,
    r#"{"model":"m","Max_Tokens":50}"#,
    r#"{"model":"other","max_tokens":5}"#,
    r#"{"model":"m","n":9,"seed":1}"#,
    r#"{"model":"m","prompt":"hello","stream":true}"#,
    r#"{"model":"m","prompt":7}"#,
    r#"{"model":"m","messages":[{"role":"user","content":"hello"}]}"#,
    r#"{"model":"m","messages":"hello"}"#,
    r#"{"model":"m","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:,"}}]}]}"#,
    r#"{"model":"m","messages":[{"role":"user","content":[{"type":"strange"}]}]}"#,
    r#"{"model":"m","tools":[{"type":"function","function":{"name":"rm"}}]}"#,
    r#"{"model":"m","tools":[{}]}"#,
    r#"{"model":"m","tools":"rm"}"#,
    r#"{"model":"m","background":true,"max_tokens":9007199254740993}"#,
    r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"rm"}}"#,
    r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#,
    r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#,
    "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n--b--\r\n",
    "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n--b\r\nContent-Disposition: form-data; name=\"max_tokens\"\r\n\r\nx\r\n--b--\r\n",
];

#[test]
fn what_is_in_shadow_changes_no_decision() {
    let whole = policy();
    let without = snapshot(&stripped(whole.clone()));
    let whole = snapshot(&whole);
    let token = |claims: Members| {
        signed(
            Signer::Hs256(SECRET),
            Members::header("HS256", "k").without("kid").json(),
            claims.json(),
        )
    };
    let claims = || Members::claims("https://secret.example").text("scope", "infer:text");
    let tokens = [
        token(claims().text("tenant_id", "acme")),
        token(claims()),
        token(claims().with("tenant_id", "7").with("act", r#"{"sub":"other"}"#)),
        token(claims().with("team", "{}").with("token_budget", "\"x\"").text("client_id", "c")),
        token(claims().with("exp", "1")),
    ];
    let mut tokens: Vec<Option<&str>> = tokens.iter().map(|token| Some(token.as_str())).collect();
    tokens.push(None);
    let paths = [
        "/rules",
        "/model",
        "/path/m",
        "/path/other",
        "/fields",
        "/form",
        "/both",
        "/limits",
        "/tokens",
        "/tokens/m",
        "/mcp",
        "/public",
        "/rules?max_tokens=99",
        "/model?n=9&n=9",
        "/tokens?max_tokens=9",
        "/fields?seed=1",
        "/tokens/m?%ff=1",
    ];
    let long = format!(r#"{{"model":"m","prompt":"{}"}}"#, "x".repeat(300));
    let bodies = BODIES.iter().map(|body| RawBody::Whole(body.as_bytes()));
    let bodies = bodies.chain([
        RawBody::Whole(long.as_bytes()),
        RawBody::None,
        RawBody::Partial,
        RawBody::Unavailable,
    ]);
    let (mut allowed, mut denials) = (0, 0);
    for body in bodies {
        for path in paths {
            for media_type in ["application/json", "multipart/form-data; boundary=b", ""] {
                // One token of all for most bodies: what a token decides does not depend on the body.
                let tokens =
                    if matches!(body, RawBody::Whole(b"{}")) { &tokens[..] } else { &tokens[..1] };
                for (token, host) in tokens
                    .iter()
                    .flat_map(|token| [(*token, "api.example"), (*token, "denied.example")])
                {
                    let asked = Asked { path, host, token, media_type, body };
                    let (one, other) = (prepared(&whole, &asked), prepared(&without, &asked));
                    if matches!(one, Prepared::Pending(_)) {
                        allowed += 1
                    } else {
                        denials += 1
                    }
                    assert_eq!(shown(one), shown(other), "{asked:?}");
                }
            }
        }
    }
    assert!(allowed > 1000 && denials > 1000, "{allowed} and {denials}");
}

#[test]
fn without_the_store_limits_in_shadow_deny_nothing_and_credentials_are_not_forgotten() {
    let snapshot = snapshot(&policy());
    let token = signed(
        Signer::Hs256(SECRET),
        Members::header("HS256", "k").without("kid").json(),
        Members::claims("https://secret.example").json(),
    );
    let ask = |path, outage: Outage| {
        let body = RawBody::Whole(b"{}");
        let token = (path != "/public").then_some(token.as_str());
        let media_type = "application/json";
        let asked = Asked { path, host: "api.example", token, media_type, body };
        let Prepared::Pending(pending) = prepared(&snapshot, &asked) else { panic!("{path}") };
        pending.conclude(Err(outage)).decision
    };
    for outage in Outage::ALL {
        assert!(matches!(ask("/public", outage), Decision::Allow(_)), "{outage:?}");
        assert!(matches!(ask("/limits", outage), Decision::Deny(_)), "{outage:?}");
    }
}
