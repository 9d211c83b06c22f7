//! Denials through every proxy: status, headers and body reach the client unchanged.

use serde_json::json;

use super::proxy_rig::{Kind, POLICY, ProxyRig};
use crate::rig::{
    http::{Reply, Request},
    replace_once,
};

/// Asserts that the client received Tollgate's own answer.
fn is_whole(reply: &Reply, status: u16, code: &str) {
    assert_eq!(reply.verdict(), (status, code.to_owned()), "{:?}\n{}", reply.headers, reply.text());
    assert!(
        reply.one("content-type").unwrap().starts_with("application/json"),
        "{:?}",
        reply.headers
    );
    assert_eq!(reply.one("x-tollgate-decision-id").map(str::len), Some(32), "{:?}", reply.headers);
    let error = &reply.json()["error"];
    assert!(error["message"].is_string() && error["type"].is_string(), "{error}");
    for leaked in [
        "x-tollgate-status",
        "x-tollgate-body",
        "x-tollgate-subject",
        "x-envoy-auth-headers-to-remove",
    ] {
        assert_eq!(reply.one(leaked), None, "{leaked}");
    }
}

fn denials_reach_the_client_unchanged(kind: Kind) {
    let rig = ProxyRig::start(kind);
    let token = rig.token();

    let reply = rig.send(&Request::get("/v1/models"));
    is_whole(&reply, 401, "missing_credential");
    assert_eq!(reply.one("www-authenticate"), Some("Bearer realm=\"tollgate\""));

    let reply = rig.send(&Request::get("/v1/models").bearer(&crate::rig::issuer::forged(&token)));
    is_whole(&reply, 401, "bad_signature");
    assert!(reply.one("www-authenticate").unwrap().contains("error=\"invalid_token\""));

    let reply = rig.send(&Request::get("/v1/admin").bearer(&token));
    is_whole(&reply, 403, "insufficient_scope");
    assert!(
        reply.one("www-authenticate").unwrap().contains("scope=\"admin\""),
        "{:?}",
        reply.headers
    );

    is_whole(&rig.send(&Request::get("/nowhere").bearer(&token)), 403, "no_route");

    // The decoded path has a route, the path as sent has none.
    is_whole(&rig.send(&Request::get("/v1%2fmodels").bearer(&token)), 400, "malformed_request");

    assert_eq!(rig.upstream.taken().len(), 0);
}
through_every_proxy!(denials_reach_the_client_unchanged);

fn rate_limit_headers_reach_the_client(kind: Kind) {
    let rig = ProxyRig::start(kind);
    let token = rig.token();
    let first = rig.send(&Request::get("/v1/limited").bearer(&token));
    assert_eq!(first.status, 200);
    let reply = rig.send(&Request::get("/v1/limited").bearer(&token));
    is_whole(&reply, 429, "rate_limited");
    let seconds: u64 = reply.one("retry-after").unwrap().parse().unwrap();
    assert!((3500..=3600).contains(&seconds), "{seconds}");
    assert!(reply.one("retry-after-ms").is_some());
    assert_eq!(reply.one("x-ratelimit-limit-requests"), Some("1"));
    assert_eq!(reply.one("x-ratelimit-remaining-requests"), Some("0"));
    assert!(reply.one("ratelimit-policy").unwrap().starts_with("\"tight\""));
    // Traefik, Caddy and HAProxy, as shipped, add nothing to the upstream's answer.
    if matches!(kind, Kind::Nginx | Kind::NewNginx | Kind::Njs | Kind::EnvoyHttp) {
        assert_eq!(first.one("x-ratelimit-remaining-requests"), Some("0"), "{:?}", first.headers);
        assert_eq!(first.one("x-tollgate-decision-id").map(str::len), Some(32));
    }
}
through_every_proxy!(rate_limit_headers_reach_the_client);

/// The section `listen` of the rig has the first line in addition.
const TOKENS: &str = r#"  access_log: "unix:${DIR}/access-log.sock"
metering: { secrets: [0123456789abcdef0123456789abcdef] }
"#;

fn token_limit_headers_reach_the_client(kind: Kind) {
    let policy = replace_once(POLICY.to_owned(), "name: qwen,", "name: qwen, context: 4096,");
    let policy = replace_once(policy, "name: big,", "name: big, context: 4096,");
    let day = "limits:\n  - { name: day, by: [subject], tokens: 6000/day }\n";
    let policy = replace_once(policy, "limits:\n", day);
    let route = "  - match: { methods: [GET], paths: [/v1/tokens] }\n    model: { from: \"fixed:qwen\" }\n    scopes: []\n    limits: [day]\n";
    let rig = ProxyRig::with(kind, &format!("{TOKENS}{policy}{route}"), |config| config);
    let token = rig.token();
    let allowed = rig.send(&Request::get("/v1/tokens").bearer(&token));
    if matches!(kind, Kind::Nginx | Kind::NewNginx | Kind::Caddy) {
        // Their checks have no body, and its size is not known.
        return is_whole(&allowed, 403, "body_unavailable");
    }
    assert_eq!(allowed.status, 200, "{}", allowed.text());
    // Nothing reports the usage of this proxy's responses: the request holds its tokens.
    let denied = rig.send(&Request::get("/v1/tokens").bearer(&token));
    is_whole(&denied, 429, "budget_exhausted");
    let adds = matches!(kind, Kind::Njs | Kind::EnvoyHttp);
    for reply in [&allowed, &denied].into_iter().skip(usize::from(!adds)) {
        assert_eq!(reply.one("x-ratelimit-limit-tokens"), Some("6000"), "{:?}", reply.headers);
        let left = reply.one("x-ratelimit-remaining-tokens").unwrap();
        assert!(left.parse::<u64>().unwrap() < 6000, "{left}");
        assert!(reply.one("x-ratelimit-reset-tokens").is_some());
    }
}
through_every_proxy!(token_limit_headers_reach_the_client);

fn an_outage_reaches_the_client_as_an_error(kind: Kind) {
    let policy = POLICY
        .replace("    limits: [tight]\n", "    limits: [tight]\n    on_outage: deny\n")
        + "  - match: { methods: [GET], paths: [/v1/failing] }\n    scopes: []\n    limits: [tight]\n    on_outage: error\n"
        + "store: { redis: { url: \"redis://127.0.0.1:1\" } }\n";
    let rig = ProxyRig::with(kind, &policy, |config| config);
    let token = rig.token();
    let reply = rig.send(&Request::get("/v1/limited").bearer(&token));
    // Envoy treats a 5xx as a failed check, so that its clients receive the nearest other status.
    is_whole(&reply, if kind == Kind::EnvoyHttp { 429 } else { 503 }, "store_unavailable");
    assert_eq!(reply.one("retry-after"), Some("1"));
    let reply = rig.send(&Request::get("/v1/failing").bearer(&token));
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert_eq!(rig.upstream.taken().len(), 0);
}
through_every_proxy!(an_outage_reaches_the_client_as_an_error);

fn without_tollgate_nothing_passes(kind: Kind) {
    let mut rig = ProxyRig::start(kind);
    rig.tollgate.process.kill();
    let token = rig.token();
    for path in ["/v1/models", "/health", "/public/x"] {
        let reply =
            rig.send(&Request::get(path).bearer(&token).header("X-Tollgate-Subject", "forged"));
        assert!([500, 502, 503].contains(&reply.status), "{path}: {}", reply.status);
        // Proxies that can be configured to send `retry-after` do.
        if matches!(kind, Kind::Nginx | Kind::NewNginx | Kind::Njs | Kind::Haproxy) {
            assert_eq!((reply.status, reply.one("retry-after")), (503, Some("1")), "{path}");
            assert_eq!(reply.json()["error"]["code"], json!("unavailable"));
        }
    }
    assert_eq!(rig.upstream.taken().len(), 0);
}
through_every_proxy!(without_tollgate_nothing_passes);
