//! Revocation behind a real Envoy, through the admin API, the command line and Redis.

use serde_json::{Value, json};

use crate::rig::{
    POLICY, Rig,
    http::{Reply, Request},
    issuer::now,
    redis::{PASSWORD, Redis},
    tollgate::{ADMIN_TOKEN, run},
    until,
};

const ISS: &str = "https://auth.example.com";

fn models(rig: &Rig, token: &str) -> (u16, String) {
    rig.envoy.send(&Request::get("/v1/models").bearer(token)).verdict()
}

fn ok() -> (u16, String) {
    (200, String::new())
}

fn revoked() -> (u16, String) {
    (401, "revoked".into())
}

/// A call of the admin API with a JSON body.
fn call(rig: &Rig, method: &str, body: &Value) -> Reply {
    let request = Request::new(method, "/v1/revocations")
        .header("Content-Type", "application/json")
        .body(body.to_string());
    rig.tollgate.admin(request)
}

#[test]
fn the_admin_api_revokes_the_target_and_nothing_else() {
    let other = "issuers:
  - issuer: https://other.example.com
    audiences: [inference-api]
    algorithms: [RS256]
    jwks: { file: \"${DIR}/jwks.json\" }";
    let rig = Rig::start(&POLICY.replacen("issuers:", other, 1));
    let token = |claims: Value| rig.token(claims);
    let alice = token(json!({ "sub": "alice", "jti": "a1" }));
    let bob = token(json!({ "sub": "bob", "tenant_id": "acme", "client_id": "app", "jti": "b1" }));
    let rows = [
        ("one token", json!({ "issuer": ISS, "jti": "a1" }), &alice, &bob),
        ("a subject's tokens", json!({ "issuer": ISS, "subject": "bob" }), &bob, &alice),
        ("a client's tokens", json!({ "issuer": ISS, "client": "app" }), &bob, &alice),
        ("a tenant's tokens", json!({ "tenant": "acme" }), &bob, &alice),
    ];
    for (about, target, gone, stays) in rows {
        assert_eq!((models(&rig, gone), models(&rig, stays)), (ok(), ok()), "{about}");
        assert_eq!(call(&rig, "POST", &target).status, 200, "{about}");
        rig.upstream.taken();
        assert_eq!((models(&rig, gone), models(&rig, stays)), (revoked(), ok()), "{about}");
        assert_eq!(rig.upstream.taken().len(), 1, "{about}");
        // The list contains hashes, and no token id or name.
        let list = rig.tollgate.admin(Request::get("/v1/revocations"));
        assert!(
            list.json()["revocations"].as_array().unwrap().len() == 1
                && !list.text().contains("bob"),
            "{}",
            list.text()
        );
        assert_eq!(call(&rig, "DELETE", &target).status, 200, "{about}");
        assert_eq!(models(&rig, gone), ok(), "{about}, reinstated");
    }

    // A token issued after the revocation of its subject is accepted.
    assert_eq!(call(&rig, "POST", &json!({ "issuer": ISS, "subject": "bob" })).status, 200);
    assert_eq!(models(&rig, &bob), revoked());
    assert_eq!(models(&rig, &token(json!({ "sub": "bob", "iat": now() + 10 }))), ok());
    // The same name at another issuer is another subject.
    assert_eq!(
        call(&rig, "POST", &json!({ "issuer": "https://other.example.com", "subject": "alice" }))
            .status,
        200
    );
    assert_eq!(models(&rig, &alice), ok());
}

#[test]
fn the_admin_api_requires_its_token_and_has_a_listener_of_its_own() {
    let rig = Rig::start(POLICY);
    let body = json!({ "issuer": ISS, "jti": "a1" }).to_string();
    let post = || Request::post("/v1/revocations", body.clone());
    for (about, request) in [
        ("none", post()),
        ("a wrong one", post().bearer("wrong")),
        ("a part of it", post().bearer(&ADMIN_TOKEN[..ADMIN_TOKEN.len() - 1])),
        ("more than it", post().bearer(&format!("{ADMIN_TOKEN}x"))),
        ("a user's", post().bearer(&rig.token(json!({})))),
        ("two", post().bearer("wrong").bearer(ADMIN_TOKEN)),
    ] {
        assert_eq!(request.send(rig.tollgate.admin).status, 401, "{about}");
    }
    assert_eq!(
        post().bearer(ADMIN_TOKEN).send(rig.tollgate.ops).status,
        404,
        "the ops listener has no admin API"
    );
    assert_eq!(models(&rig, &rig.token(json!({ "jti": "a1" }))), ok());
    let lines = || rig.tollgate.audit().into_iter().filter(|line| line["event"] == "admin").count();
    until("a line for each call", || (lines() >= 6).then_some(()));
}

#[test]
fn the_command_line_revokes_through_the_admin_api() {
    let rig = Rig::start(POLICY);
    let dir = rig.dir.path();
    std::fs::write(dir.join("admin.token"), ADMIN_TOKEN).unwrap();
    let admin = format!("http://127.0.0.1:{}", rig.tollgate.admin);
    let revoke = |arguments: &[&str]| {
        let (verb, rest) = arguments.split_first().unwrap();
        let output = run(
            dir,
            &[&["revoke", verb, "--admin", &admin, "--token-file", "admin.token"], rest].concat(),
        );
        assert!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    let token = rig.token(json!({ "jti": "a1" }));
    assert_eq!(models(&rig, &token), ok());
    revoke(&["add", "--issuer", ISS, "--jti", "a1", "--ttl", "1h", "--note", "lost laptop"]);
    assert_eq!(models(&rig, &token), revoked());
    assert!(revoke(&["list"]).contains("lost laptop"));
    revoke(&["remove", "--issuer", ISS, "--jti", "a1"]);
    assert_eq!(models(&rig, &token), ok());

    // A token without an id is revoked by its digest.
    let nameless = rig.token(json!({ "jti": null }));
    std::fs::write(dir.join("leaked.token"), &nameless).unwrap();
    assert_eq!(models(&rig, &nameless), ok());
    revoke(&["add", "--token", "@leaked.token"]);
    assert_eq!((models(&rig, &nameless), models(&rig, &token)), (revoked(), ok()));
}

#[test]
fn the_command_line_revokes_in_redis_and_an_external_denylist_applies() {
    let dir = tempfile::tempdir().unwrap();
    let redis = Redis::start(dir.path());
    let place = dir.path().display().to_string();
    let store = redis.store().replace("${DIR}", &place);
    let policy =
        POLICY.replace("    algorithms:", "    required_claims: [iat, jti]\n    algorithms:");
    let rig =
        Rig::start(&format!("{policy}{store}revocation: {{ foreign: [\"blacklist:{{jti}}\"] }}\n"));
    // The URL is in a file: on the command line the list of processes would show the password.
    std::fs::write(
        dir.path().join("redis.url"),
        format!("unix://{place}/redis.sock?pass={PASSWORD}"),
    )
    .unwrap();
    let revoke = |arguments: &[&str]| {
        let (verb, rest) = arguments.split_first().unwrap();
        let output = run(dir.path(), &[&["revoke", verb, "--redis", "@redis.url"], rest].concat());
        assert!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    };

    let token = rig.token(json!({ "jti": "a1" }));
    assert_eq!(models(&rig, &token), ok());
    revoke(&["add", "--issuer", ISS, "--jti", "a1"]);
    assert_eq!(models(&rig, &token), revoked());
    revoke(&["remove", "--issuer", ISS, "--jti", "a1"]);
    assert_eq!(models(&rig, &token), ok());

    assert_eq!(redis.command(&["SET", "blacklist:a1", "1"]), "+OK");
    assert_eq!(models(&rig, &token), revoked());
    assert_eq!(models(&rig, &rig.token(json!({ "jti": "a2" }))), ok());
    redis.command(&["DEL", "blacklist:a1"]);
    assert_eq!(models(&rig, &token), ok());
}
