//! Bans through every proxy: the client gets the status of the ban, with the header that ends retries.

use serde_json::json;

use super::proxy_rig::{Kind, ProxyRig};
use crate::rig::{
    http::{Reply, Request},
    until,
};

fn call(rig: &ProxyRig, method: &str, body: &serde_json::Value) {
    let request = Request::new(method, "/v1/bans")
        .header("Content-Type", "application/json")
        .body(body.to_string());
    let reply = rig.tollgate.admin(request);
    assert_eq!(reply.status, 200, "{}", reply.text());
}

fn a_ban_reaches_the_client(kind: Kind) {
    let rig = ProxyRig::start(kind);
    let token = rig.token();
    let models = || rig.send(&Request::get("/v1/models").bearer(&token));
    assert_eq!(models().status, 200);

    // The address as the proxy reports it: Envoy reports its own for a client on loopback.
    let line = until("the line of the check", || {
        rig.tollgate.audit().into_iter().find(|line| line["path"] == "/v1/models")
    });
    let address = line["client_ip"].as_str().unwrap().to_owned();
    let network = json!({ "network": address, "for": "1h", "reason": "test" });
    call(&rig, "POST", &network);
    rig.upstream.taken();
    let is_banned = |reply: &Reply| {
        assert_eq!(reply.verdict(), (429, "banned".into()), "{:?}", reply.headers);
        assert_eq!(reply.one("x-should-retry"), Some("false"), "{:?}", reply.headers);
        let seconds: u64 = reply.one("retry-after").unwrap().parse().unwrap();
        assert!((3500..=3601).contains(&seconds), "{seconds}");
        assert_eq!(reply.json()["error"]["type"], "rate_limit_error");
    };
    is_banned(&models());
    is_banned(&rig.send(&Request::get("/health")));
    is_banned(&rig.send(&Request::get("/nowhere")));
    let forged = Request::get("/v1/models").bearer(&token).header("X-Forwarded-For", "192.0.2.1");
    is_banned(&rig.send(&forged.header("X-Real-IP", "192.0.2.1")));
    assert_eq!(rig.upstream.taken().len(), 0);
    call(&rig, "DELETE", &json!({ "network": address }));
    assert_eq!(models().status, 200, "a lifted ban ends at once");

    let subject = json!({ "issuer": "https://auth.example.com", "subject": "alice" });
    call(&rig, "POST", &subject);
    let reply =
        rig.send(&Request::get("/v1/models").bearer(&rig.issuer.token(json!({ "sub": "alice" }))));
    assert_eq!(reply.verdict(), (403, "banned".into()), "{:?}", reply.headers);
    assert_eq!(reply.one("retry-after"), None);
    assert_eq!(reply.json()["error"]["type"], "permission_error");
    let other = rig.issuer.token(json!({ "sub": "bob" }));
    assert_eq!(rig.send(&Request::get("/v1/models").bearer(&other)).status, 200);
}
through_every_proxy!(a_ban_reaches_the_client);
