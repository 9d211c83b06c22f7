//! Cookies and opaque tokens through the real Envoy, with Tollgate beside it and inside of it.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::rig::{
    Rig,
    envoy::{CURRENT, EMBEDDED_CURRENT},
    http::{Answer, Reply, Request, Server},
};

const CONFIG: &str = r#"
issuers:
  - issuer: https://auth.example.com
    audiences: [inference-api]
    algorithms: [RS256, ES256, EdDSA]
    jwks: { file: "${DIR}/jwks.json" }
    introspection: { url: "http://127.0.0.1:PORT/introspect", insecure_http: true, bearer: of-tollgate, prefix: at_ }
cookies: { name: __Host-tollgate, origins: ["https://app.example.com"] }
routes:
  - { match: { methods: [POST], paths: [/ask] }, scopes: ["infer:text"], credentials: [cookie] }
  - { match: { methods: [GET], paths: [/opaque] }, scopes: ["infer:text"], credentials: [opaque_token] }
  - { match: { methods: [GET], paths: [/open] }, public: true }
"#;

#[test]
fn cookies_are_taken_out_and_tokens_introspected_beside_envoy() {
    cookies_are_taken_out_and_tokens_introspected(CURRENT);
}

#[test]
fn cookies_are_taken_out_and_tokens_introspected_inside_of_envoy() {
    cookies_are_taken_out_and_tokens_introspected(EMBEDDED_CURRENT);
}

fn cookies_are_taken_out_and_tokens_introspected(version: &str) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let endpoint = Server::start(move |request| {
        let body = String::from_utf8(request.body).unwrap();
        let body = if body.ends_with("token=at_good") {
            json!({
                "active": true,
                "token_type": "Bearer",
                "sub": "bob",
                "aud": "inference-api",
                "scope": "infer:text",
                "iat": now - 60,
                "exp": now + 600,
            })
        } else {
            json!({ "active": false })
        };
        Answer::Whole(Reply::new(200, body.to_string()).header("connection", "close"))
    });
    let config = CONFIG.replace("PORT", &endpoint.port.to_string());
    let rig = Rig::on(version, &config, |envoy| envoy);
    let token = rig.token(json!({}));
    let ask = |cookies: &[&str], origin: &str| {
        let request = Request::post("/ask", "{}")
            .header("Origin", origin)
            .header("Sec-Fetch-Site", "same-origin");
        cookies.iter().fold(request, |request, value| request.header("Cookie", value))
    };
    let page = "https://app.example.com";
    let own = format!("__Host-tollgate={token}");
    let both = format!("{own}; c=d");

    let reply = rig.envoy.send(&ask(&["a=b", &both, "BearerToken=x; e=f"], page));
    assert_eq!(reply.status, 200, "{}", reply.text());
    let request = rig.upstream.only();
    assert_eq!(request.all("cookie"), ["a=b; c=d; e=f"]);
    assert_eq!(request.all("x-tollgate-credential"), ["cookie"]);
    assert_eq!(rig.envoy.send(&ask(&[&own], page)).status, 200);
    assert!(rig.upstream.only().all("cookie").is_empty());
    let open = Request::get("/open").header("Cookie", &own).header("Cookie", "OauthHMAC=h");
    assert_eq!(rig.envoy.send(&open).status, 200);
    assert!(rig.upstream.only().all("cookie").is_empty());
    let refused = [
        (ask(&[&own], "https://evil.example"), (403, "csrf_failed")),
        (ask(&[&own], page).without("sec-fetch-site"), (403, "csrf_failed")),
        (ask(&[&own, &own], page), (401, "ambiguous_credential")),
        (ask(&[&own], page).bearer(&token), (401, "ambiguous_credential")),
        (ask(&["a=b"], page), (401, "missing_credential")),
    ];
    for (request, (status, code)) in refused {
        assert_eq!(rig.envoy.send(&request).verdict(), (status, code.to_owned()));
    }
    assert!(rig.upstream.taken().is_empty());

    let opaque = |token: &str| rig.envoy.send(&Request::get("/opaque").bearer(token));
    assert_eq!(opaque("at_other").verdict(), (401, "inactive_token".to_owned()));
    assert_eq!(opaque("other").verdict(), (401, "unknown_issuer".to_owned()));
    assert!(rig.upstream.taken().is_empty());
    for _ in 0..2 {
        let reply = opaque("at_good");
        assert_eq!(reply.status, 200, "{}", reply.text());
        let request = rig.upstream.only();
        assert_eq!(request.all("x-tollgate-subject"), ["bob"]);
        assert_eq!(request.all("x-tollgate-credential"), ["opaque_token"]);
        assert!(request.all("authorization").is_empty());
    }
}
