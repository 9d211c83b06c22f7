//! The admin API of the binary against its document, and what its credentials may do.

use std::{
    path::Path,
    sync::{Arc, Barrier},
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tollgate_core::credential::api_key::KeyDigest;

use crate::rig::{
    http::{Reply, Request},
    redis::Redis,
    schemathesis,
    tollgate::{ADMIN_TOKEN, Tollgate, run},
    until,
};

/// A policy with keys in Redis, one limit and one tier.
const POLICY: &str = r#"
api_keys: { redis: true, max_life: 3653d }
limits:
  - name: per-key
    by: [key]
    rate: 10/1m
    overrides: [{ tier: gold, rate: 20/1m }]
routes:
  - match: { methods: [GET], paths: [/v1/models] }
    scopes: []
    limits: [per-key]
"#;

/// The section of the store. On a busy machine a call may take longer than a tenth of a second, and is answered
/// with 503 then.
fn store(redis: &Redis) -> String {
    redis.store().replace("redis: {", "redis: { deadline: 1s,")
}

/// The token of a credential of the tenant `acme`.
const OF_ACME: &str = "acme-token-of-the-end-to-end-tests-0123456789";

fn call(tollgate: &Tollgate, token: &str, method: &str, path: &str, body: &Value) -> Reply {
    let request = Request::new(method, path).header("Content-Type", "application/json");
    request.body(body.to_string()).bearer(token).send(tollgate.admin)
}

/// Runs all checks of schemathesis against the document that the API serves, for the operations and
/// the phases that `options` select.
fn conforms(dir: &Path, tollgate: &Tollgate, options: &[&str]) {
    let document = tollgate.admin(Request::get("/v1/openapi.json"));
    assert_eq!(document.status, 200);
    let printed = run(dir, &["schema", "--admin-api"]);
    assert!(printed.status.success() && printed.stdout == document.body);
    schemathesis::conforms(dir, &document.body, (tollgate.admin, ADMIN_TOKEN), options);
    assert!(tollgate.ready().status == 200);
}

#[test]
fn the_api_does_what_its_document_states_with_redis() {
    let dir = tempfile::tempdir().unwrap();
    let redis = Redis::start(dir.path());
    let config = format!("audit: {{ to: none }}\n{}{POLICY}", store(&redis));
    let tollgate = Tollgate::start(dir.path(), &config);
    // The other half of the cases that follow from the document alone is tested in memory.
    let keys = ["--include-path-regex", "^/v1/keys", "--phases", "coverage"];
    conforms(dir.path(), &tollgate, &keys);
    conforms(dir.path(), &tollgate, &["--phases", "fuzzing,stateful"]);
}

#[test]
fn the_api_does_what_its_document_states_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let config = "audit: { to: none }\n\
        routes: [{ match: { methods: [GET], paths: [/v1/models] }, public: true }]\n";
    let tollgate = Tollgate::start(dir.path(), config);
    conforms(dir.path(), &tollgate, &["--exclude-path-regex", "^/v1/keys"]);
}

/// The configuration with these credentials.
fn config(redis: &Redis, credentials: &Value) -> String {
    let admin = json!({
        "address": "127.0.0.1:0", "token": ADMIN_TOKEN, "credentials": credentials,
    });
    format!(
        "listen: {{ grpc: \"unix:${{DIR}}/authz.sock\", ops: \"127.0.0.1:0\", admin: {admin} }}\n{}{POLICY}",
        store(redis)
    )
}

fn of_acme() -> Value {
    json!({
        "name": "acme-ci",
        "digest": KeyDigest::of(OF_ACME.as_bytes()),
        "tenants": ["acme"],
        "actions": ["read_keys", "create_keys", "import_keys", "rotate_keys", "revoke_keys"],
        "may_grant": {
            "scopes": ["infer:text"],
            "models": ["qwen"],
            "tiers": ["gold"],
            "limits": { "per-key": "5/1m" },
            "networks": ["10.0.0.0/8"],
            "max_life": "30d",
        },
    })
}

fn terms(other: &Value) -> Value {
    let mut terms = json!({
        "subject": "ci", "tenant": "acme", "scopes": ["infer:text"], "models": ["qwen"],
        "tier": "gold", "limits": { "per-key": "5/1m" }, "networks": ["10.1.0.0/16"],
        "expires_in": "30d",
    });
    for (name, value) in other.as_object().unwrap() {
        terms[name] = value.clone();
    }
    terms
}

#[test]
fn a_credential_grants_no_more_than_it_lists_and_ends_with_its_line_in_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let redis = Redis::start(dir.path());
    let tollgate = Tollgate::start(dir.path(), &config(&redis, &json!([])));
    let as_acme = |method: &str, path: &str, body: &Value| {
        call(&tollgate, OF_ACME, method, path, body).verdict()
    };
    let ok = (200, String::new());
    let beyond = (403, "beyond_grant".to_owned());
    assert_eq!(as_acme("GET", "/v1/keys", &json!({})), (401, "unauthorized".into()));

    // A credential that is added to the file is accepted without a restart.
    tollgate.rewrite(dir.path(), &config(&redis, &json!([of_acme()])));
    until("the credential", || (as_acme("GET", "/v1/keys", &json!({})) == ok).then_some(()));
    assert_eq!(tollgate.metric("tollgate_config_reload_failed", &[]), 0.0);
    assert_eq!(as_acme("GET", "/v1/bans", &json!({})), (403, "forbidden".into()));
    assert_eq!(as_acme("POST", "/v1/keys", &terms(&json!({}))), ok);

    let other = [
        json!({ "scopes": ["admin"] }),
        json!({ "models": null }),
        json!({ "models": ["big"] }),
        json!({ "limits": { "per-key": "6/1m" } }),
        json!({ "limits": { "per-key": "5/1s" } }),
        json!({ "tenant": "other" }),
        json!({ "tenant": null }),
        json!({ "networks": null }),
        json!({ "networks": ["10.0.0.0/7"] }),
        json!({ "expires_in": "31d" }),
        json!({ "expires_in": null }),
    ];
    let root = |path: &str, body: &Value| {
        let reply = call(&tollgate, ADMIN_TOKEN, "POST", path, body);
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()["record"]["id"].as_str().unwrap().to_owned()
    };
    for (index, other) in other.iter().enumerate() {
        let terms = terms(other);
        assert_eq!(as_acme("POST", "/v1/keys", &terms), beyond, "{other}");
        let mut import = terms.clone();
        import["digest"] = json!(KeyDigest::of(format!("sk-{index}").as_bytes()));
        assert_eq!(as_acme("POST", "/v1/keys/import", &import), beyond, "{other}");
        // A key of root with more rights gets no secret from the credential.
        let id = root("/v1/keys/import", &import);
        let rotation = json!({ "expires_in": "30d" });
        let answer = as_acme("POST", &format!("/v1/keys/{id}/rotate"), &rotation);
        let expected = match terms["tenant"].as_str() {
            Some("acme") if other.get("expires_in").is_some() => ok.clone(),
            Some("acme") => beyond.clone(),
            _ => (404, "not_found".to_owned()),
        };
        assert_eq!(answer, expected, "{other}");
        let long = as_acme("POST", &format!("/v1/keys/{id}/rotate"), &json!({}));
        assert_ne!(long.0, 200, "{other}: a rotation without a life is beyond 30 days");
    }
    let lines = until("the lines", || {
        let lines = tollgate.audit();
        let of_acme = lines.iter().filter(|line| line["who"] == "acme-ci");
        (of_acme.count() >= other.len() * 4).then_some(lines)
    });
    let refused = lines.iter().filter(|line| line["result"] == "beyond_grant");
    assert!(refused.clone().count() >= other.len() * 3);
    assert!(refused.clone().all(|line| line["who"] == "acme-ci" && line["key_id"].is_string()));

    // A file with an error changes nothing.
    let mut more = of_acme();
    more["may_grant"]["scopes"] = json!(["infer:text", "admin"]);
    let text = config(&redis, &json!([more]));
    tollgate.rewrite(dir.path(), &text.replace("\"admin\"]", "\"adm*\"]"));
    tollgate.until_metric("tollgate_config_reload_failed", &[], 1.0);
    assert_eq!(as_acme("POST", "/v1/keys", &terms(&other[0])), beyond);
    tollgate.rewrite(dir.path(), &text);
    let admin = terms(&json!({ "scopes": ["admin"] }));
    until("the new rights", || (as_acme("POST", "/v1/keys", &admin) == ok).then_some(()));

    // A credential that is removed from the file ends, also where a restart is needed for the rest.
    let moved = config(&redis, &json!([])).replace("authz.sock", "elsewhere.sock");
    tollgate.rewrite(dir.path(), &moved);
    tollgate.process.signal(Signal::SIGHUP);
    let ended = (401, "unauthorized".to_owned());
    until("the end", || (as_acme("GET", "/v1/keys", &json!({})) == ended).then_some(()));
    tollgate.until_metric("tollgate_config_reload_failed", &[], 1.0);
    assert_eq!(tollgate.admin(Request::get("/v1/keys")).status, 200);
}

#[test]
fn of_two_rotations_at_once_each_answer_is_a_secret_that_was_in_force() {
    let dir = tempfile::tempdir().unwrap();
    let redis = Redis::start(dir.path());
    let tollgate = Arc::new(Tollgate::start(dir.path(), &config(&redis, &json!([]))));
    let made = call(&tollgate, ADMIN_TOKEN, "POST", "/v1/keys", &json!({ "subject": "ci" })).json();
    let path = format!("/v1/keys/{}/rotate", made["record"]["id"].as_str().unwrap());
    let start = Arc::new(Barrier::new(8));
    let calls: Vec<_> = (0..8)
        .map(|_| {
            let (tollgate, path, start) = (Arc::clone(&tollgate), path.clone(), Arc::clone(&start));
            std::thread::spawn(move || {
                start.wait();
                call(&tollgate, ADMIN_TOKEN, "POST", &path, &json!({ "grace": "1h" }))
            })
        })
        .collect();
    let answers: Vec<Reply> = calls.into_iter().map(|call| call.join().unwrap()).collect();
    let keys: Vec<String> = answers
        .iter()
        .filter(|reply| reply.status == 200)
        .map(|reply| reply.json()["key"].as_str().unwrap().to_owned())
        .collect();
    assert!(!keys.is_empty());
    assert!(answers.iter().all(|reply| matches!(reply.status, 200 | 409)), "changed: retry");
    let id = made["record"]["id"].as_str().unwrap();
    let record = redis.command(&["GET", &format!("{{tollgate}}:key:{id}")]);
    let record: Value = serde_json::from_str(&record).unwrap();
    let digests: Vec<String> =
        keys.iter().map(|key| KeyDigest::of(key.as_bytes()).to_string()).collect();
    assert!(digests.iter().any(|digest| record["digest"] == digest.as_str()), "{record}");
    if keys.len() > 1 {
        let previous = &record["previous"]["digest"];
        assert!(digests.iter().any(|digest| previous == digest.as_str()), "{record}");
    }
}
