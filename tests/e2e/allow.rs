//! Allowed requests: identity headers, forwarded credentials, streams, and rate limit headers.

use serde_json::json;

use crate::rig::{
    CHAT, POLICY, Rig, SCOPES, chat,
    envoy::{CURRENT, careless},
    http::Request,
    issuer::{Issuer, Key},
    until, upstream,
};

#[test]
fn the_upstream_gets_identity_and_not_the_credential() {
    identity(CURRENT);
}

pub(super) fn identity(version: &str) {
    let rig = Rig::on(version, POLICY, |envoy| envoy);
    let token = rig.token(json!({ "sub": "alice", "tenant_id": "acme" }));

    let reply = rig.chat(&token);
    assert_eq!((reply.status, reply.text().as_str()), (200, r#"{"ok":true}"#));
    let decision = reply.one("x-tollgate-decision-id").unwrap().to_owned();
    let seen = rig.upstream.only();
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", "/v1/chat/completions"));
    assert_eq!(seen.body, CHAT.as_bytes());
    for (name, value) in [
        ("x-tollgate-subject", "alice"),
        ("x-tollgate-issuer", "https://auth.example.com"),
        ("x-tollgate-tenant", "acme"),
        ("x-tollgate-scopes", SCOPES),
        ("x-tollgate-credential", "jwt"),
        ("x-tollgate-model", "qwen"),
        ("x-tollgate-decision-id", &decision),
    ] {
        assert_eq!(seen.all(name), [value], "{name}");
    }
    assert!(seen.all("authorization").is_empty());

    // The proxy's access log and the audit line have the same decision id.
    let logged = until("access log", || {
        rig.envoy.access_log().into_iter().find(|line| line["decision_id"] == *decision)
    });
    assert_eq!(
        (&logged["subject"], &logged["tenant"], &logged["model"]),
        (&json!("alice"), &json!("acme"), &json!("qwen"))
    );
    let audited = until("audit line", || {
        rig.tollgate.audit().into_iter().find(|line| line["decision_id"] == *decision)
    });
    assert_eq!(
        (&audited["sub"], &audited["tenant"], &audited["model"]),
        (&json!("alice"), &json!("acme"), &json!("qwen"))
    );
    assert_eq!(
        (&audited["decision"], &audited["method"], &audited["path"]),
        (&json!("allow"), &json!("POST"), &json!("/v1/chat/completions"))
    );
}

#[test]
fn every_kind_of_key_is_accepted_and_a_stream_is_forwarded() {
    let rig = Rig::start(POLICY);
    let name = "https://auth.example.com";
    let issuers = [
        Issuer::with(name, Key::rsa("r")),
        Issuer::with(name, Key::ec("c")),
        Issuer::with(name, Key::ed("d")),
    ];
    let keys: Vec<&Key> = issuers.iter().map(|issuer| &issuer.key).collect();
    std::fs::write(rig.dir.path().join("jwks.json"), crate::rig::issuer::jwks(&keys)).unwrap();
    for issuer in &issuers {
        until("the new key set", || {
            (rig.chat(&issuer.token(json!({}))).status == 200).then_some(())
        });
    }
    rig.upstream.taken();

    let body = r#"{"model":"qwen","stream":true,"messages":[]}"#;
    let reply = rig
        .envoy
        .send(&Request::post("/v1/chat/completions", body).bearer(&issuers[1].token(json!({}))));
    assert_eq!((reply.status, reply.one("content-type")), (200, Some("text/event-stream")));
    assert_eq!(reply.text().matches("data: ").count(), upstream::EVENTS + 1);
    assert_eq!(rig.upstream.only().body, body.as_bytes());
}

/// R18, R26, R27: CVE-2025-64484, CVE-2026-39858, CVE-2026-49231.
const FORGERIES: [&str; 10] = [
    "x-tollgate-issuer",
    "x-tollgate-subject",
    "X-Tollgate-Tenant",
    "X-TOLLGATE-SCOPES",
    "x-tollgate-credential",
    "x-tollgate-model",
    "x-tollgate-decision-id",
    "x-tollgate-anything",
    "x.tollgate.subject",
    "x-tollgate.subject",
];

const UNDERSCORED: [&str; 5] = [
    "x_tollgate_issuer",
    "x_tollgate_subject",
    "x-tollgate_tenant",
    "X_Tollgate-Scopes",
    "X_TOLLGATE_MODEL",
];

/// Every header that some server could read as an identity header.
fn identity_headers(seen: &Request) -> Vec<(String, String)> {
    let plain =
        |name: &str| name.to_ascii_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    let mut headers: Vec<_> =
        seen.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    headers.retain(|(name, _)| plain(name).starts_with("x-tollgate"));
    headers.sort();
    headers
}

fn forged(request: Request, names: &[&str]) -> Request {
    // Each header is sent twice: overwriting must not leave a second value.
    names.iter().chain(names).fold(request, |request, name| request.header(name, "admin"))
}

fn forgeries_are_gone(rig: &Rig, names: &[&str]) {
    let token = rig.token(json!({ "sub": "alice" }));
    let reply = rig.envoy.send(&forged(chat(&token), names));
    assert_eq!(reply.status, 200, "{}", reply.text());
    let seen = rig.upstream.only();
    let decision = reply.one("x-tollgate-decision-id").unwrap();
    // No tenant: the token has none, and the client's header must not replace it.
    let expected = [
        ("x-tollgate-credential", "jwt"),
        ("x-tollgate-decision-id", decision),
        ("x-tollgate-issuer", "https://auth.example.com"),
        ("x-tollgate-model", "qwen"),
        ("x-tollgate-scopes", SCOPES),
        ("x-tollgate-subject", "alice"),
    ];
    assert_eq!(
        identity_headers(&seen),
        expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
    );

    // A public route has no identity.
    let reply = rig.envoy.send(&forged(Request::get("/health"), names));
    assert_eq!(reply.status, 200, "{}", reply.text());
    let seen = rig.upstream.only();
    let decision = reply.one("x-tollgate-decision-id").unwrap();
    assert_eq!(
        identity_headers(&seen),
        [("x-tollgate-decision-id".to_owned(), decision.to_owned())]
    );
}

#[test]
fn forged_identity_headers_do_not_get_through_the_shipped_envoy() {
    forgeries(CURRENT);
}

pub(super) fn forgeries(version: &str) {
    let rig = Rig::on(version, POLICY, |envoy| envoy);
    forgeries_are_gone(&rig, &FORGERIES);
    for name in UNDERSCORED {
        let reply = chat(&rig.token(json!({}))).header(name, "admin").try_send(rig.envoy.port);
        assert!(reply.is_none_or(|reply| reply.status == 400), "{name}");
    }
    assert!(rig.upstream.taken().is_empty());
}

#[test]
fn forged_identity_headers_do_not_get_through_a_careless_envoy_either() {
    forgeries_with_a_careless_envoy(CURRENT);
}

pub(super) fn forgeries_with_a_careless_envoy(version: &str) {
    let rig = Rig::on(version, POLICY, careless);
    forgeries_are_gone(&rig, &[&FORGERIES[..], &UNDERSCORED].concat());
}

#[test]
fn a_route_may_forward_the_credential_or_replace_it() {
    let policy = POLICY.replace(
        "  - match: { methods: [GET], paths: [/v1/models] }",
        r#"  - match: { methods: [GET], paths: [/forwarded] }
    scopes: []
    forward_credential: true
  - match: { methods: [GET], paths: [/replaced] }
    scopes: []
    upstream_key: "file:${DIR}/upstream.key"
  - match: { methods: [GET], paths: [/v1/models] }"#,
    );
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("upstream.key");
    std::fs::write(&key, "sk-first\n").unwrap();
    let rig = Rig::start(&policy.replace("${DIR}/upstream.key", &key.display().to_string()));
    let token = rig.token(json!({}));
    let sent = |path: &str, bearer: &str| {
        let reply = rig.envoy.send(&Request::get(path).bearer(bearer));
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        rig.upstream.only().all("authorization").into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(sent("/v1/models", &token), [""; 0]);
    assert_eq!(sent("/forwarded", &token), [format!("Bearer {token}")]);
    assert_eq!(sent("/replaced", &token), ["Bearer sk-first"]);
    // Public routes read no credential and forward none.
    assert_eq!(sent("/health", "whatever"), [""; 0]);

    std::fs::write(&key, "sk-second").unwrap();
    until("the new upstream key", || {
        (sent("/replaced", &token) == ["Bearer sk-second"]).then_some(())
    });
}

#[test]
fn allowed_answers_carry_rate_limit_headers() {
    let policy =
        POLICY.replace("    name: models\n", "    name: models\n    limits: [per-subject]\n");
    let rig = Rig::start(&format!(
        "{policy}limits:\n  - {{ name: per-subject, by: [subject], rate: 1/1h, burst: 3, overrides: [{{ role: premium, rate: 600/1m }}] }}\n"
    ));
    let models = |token: &str| rig.envoy.send(&Request::get("/v1/models").bearer(token));
    let alice = rig.token(json!({}));
    for left in ["2", "1", "0"] {
        let reply = models(&alice);
        assert_eq!(
            (
                reply.status,
                reply.one("x-ratelimit-limit-requests"),
                reply.one("x-ratelimit-remaining-requests")
            ),
            (200, Some("3"), Some(left))
        );
        assert!(
            reply.one("ratelimit").unwrap().starts_with(&format!("\"per-subject\";r={left};t="))
        );
        assert_eq!(reply.one("ratelimit-policy"), Some("\"per-subject\";q=3;w=10800"));
    }
    assert_eq!(models(&alice).verdict(), (429, "rate_limited".into()));
    assert_eq!(rig.upstream.taken().len(), 3);
    // Another subject has a bucket of its own, and a role has another rate.
    assert_eq!(
        models(&rig.token(json!({ "sub": "bob" }))).one("x-ratelimit-remaining-requests"),
        Some("2")
    );
    assert_eq!(
        models(&rig.token(json!({ "sub": "carol", "roles": ["premium"] })))
            .one("x-ratelimit-limit-requests"),
        Some("600")
    );
    // The upstream does not receive the rate limit headers.
    assert!(
        rig.upstream.taken().iter().all(|seen| seen.all("x-ratelimit-limit-requests").is_empty())
    );
}
