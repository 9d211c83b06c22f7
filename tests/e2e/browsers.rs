//! Pages of another origin, through deploy/envoy/envoy-browsers.yaml: the CORS filter answers what a
//! browser asks first, and the page can read a denial.

use crate::rig::{POLICY, Rig, free_port, http::Request, replace_once};

const BROWSERS: &str = include_str!("../../deploy/envoy/envoy-browsers.yaml");
const ORIGIN: &str = "https://app.example.com";

#[test]
fn a_page_of_an_open_origin_can_ask_and_read() {
    let redirect = free_port();
    let rig = Rig::with(POLICY, |_| {
        replace_once(
            BROWSERS.to_owned(),
            "address: 0.0.0.0, port_value: 8081",
            &format!("address: 127.0.0.1, port_value: {redirect}"),
        )
    });
    let preflight = |origin: &str| {
        Request::new("OPTIONS", "/v1/chat/completions")
            .header("Origin", origin)
            .header("Access-Control-Request-Method", "POST")
            .header("Access-Control-Request-Headers", "authorization,content-type")
    };
    // The question before the request has no token and is not a check.
    let reply = rig.envoy.send(&preflight(ORIGIN));
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.one("access-control-allow-origin"), Some(ORIGIN));
    assert_eq!(
        reply.one("access-control-allow-headers"),
        Some("authorization, content-type, dpop")
    );
    assert_eq!(reply.one("x-tollgate-decision-id"), None);
    assert!(rig.upstream.taken().is_empty());

    // The request: allowed and denied, the page reads status, headers and body.
    let readable = |request: Request, status: u16| {
        let reply = rig.envoy.send(&request.header("Origin", ORIGIN));
        assert_eq!(reply.status, status, "{}", reply.text());
        assert_eq!(reply.one("access-control-allow-origin"), Some(ORIGIN), "{status}");
        let exposed = reply.one("access-control-expose-headers").unwrap_or_default();
        for name in ["www-authenticate", "retry-after", "x-tollgate-decision-id", "ratelimit"] {
            assert!(exposed.contains(name), "{status}: {exposed}");
        }
        reply
    };
    let token = rig.token(serde_json::json!({}));
    readable(Request::get("/v1/models").bearer(&token), 200);
    let denied = readable(Request::get("/v1/models"), 401);
    assert_eq!(denied.code(), "missing_credential");
    assert!(denied.one("www-authenticate").is_some());
    assert_eq!(readable(Request::get("/nowhere").bearer(&token), 403).code(), "no_route");

    // A page of another origin gets no permission, and its question is denied.
    let reply = rig.envoy.send(&preflight("https://evil.example"));
    assert_eq!((reply.status, reply.one("access-control-allow-origin")), (403, None));

    let reply = Request::get("/v1/models?x=1").send(redirect);
    assert_eq!(reply.status, 308);
    assert_eq!(reply.one("location"), Some("https://api.example.com/v1/models?x=1"));
}
