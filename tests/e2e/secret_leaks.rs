//! A run with a secret of every kind, and a search for each of them in every output.

use serde_json::json;

use crate::rig::{
    POLICY, Rig, chat,
    http::Request,
    issuer::{Issuer, Key, forged, now},
    redis::{PASSWORD, Redis},
    tollgate::{ADMIN_TOKEN, run},
    until,
};

const SHARED: &str = "shared-secret-of-an-issuer-with-hs256-4242424242";
const UPSTREAM: &str = "sk-upstream-key-31415926535897932384";
const IN_URL: &str = "password-in-a-url-2718281828459045";

/// The length of a part of a secret that counts as a leak.
const PART: usize = 16;

#[test]
fn no_secret_is_in_any_output() {
    let dir = tempfile::tempdir().unwrap();
    let mut redis = Redis::start(dir.path());
    let place = dir.path().display().to_string();
    for (file, secret) in [("shared", SHARED), ("upstream", UPSTREAM), ("admin", ADMIN_TOKEN)] {
        std::fs::write(dir.path().join(file), secret).unwrap();
    }
    let policy = POLICY
        .replace(
            "issuers:\n",
            &format!(
                "issuers:\n  - issuer: absent\n    audiences: any\n    algorithms: [HS256]\n    secret: \"file:{place}/shared\"\n"
            ),
        )
        .replace("    name: models\n", &format!("    name: models\n    upstream_key: \"file:{place}/upstream\"\n"));
    let store = redis.store().replace("${DIR}", &place);
    let config = format!(
        "log: {{ level: debug, format: json }}\nobserve: {{ subjects: 10 }}\n{policy}{store}"
    );
    let rig = Rig::start(&config);

    // Tokens with every result, and every output that could contain one.
    let own = Issuer::with("", Key::secret(SHARED));
    let shared = own.token_with(json!({ "kid": null }), json!({ "iss": null, "aud": null }));
    let good = rig.token(json!({ "jti": "good" }));
    let revoked = rig.token(json!({ "jti": "taken-back" }));
    let unknown = Issuer::with("https://auth.example.com", Key::ec("unpublished")).token(json!({}));
    let stranger = Issuer::with("https://elsewhere.example.com", Key::ed("k")).token(json!({}));
    let expired = rig.token(json!({ "iat": now() - 7200, "exp": now() - 3600 }));
    let bad = forged(&rig.token(json!({})));
    let tokens = [&shared, &good, &revoked, &unknown, &stranger, &expired, &bad];

    let mut outputs: Vec<(String, String)> = Vec::new();
    let mut keep = |what: &str, text: String| outputs.push((what.to_owned(), text));
    let entry = json!({ "issuer": "https://auth.example.com", "jti": "taken-back" }).to_string();
    for (what, request) in [
        ("revocation", Request::post("/v1/revocations", entry.clone()).bearer(ADMIN_TOKEN)),
        ("list", Request::get("/v1/revocations").bearer(ADMIN_TOKEN)),
        ("refused admin call", Request::post("/v1/revocations", entry).bearer(&good)),
        (
            "admin call with the token in its query",
            Request::get(&format!("/v1/revocations?token={ADMIN_TOKEN}")),
        ),
        (
            "admin call with a token for a name",
            Request::post("/v1/revocations", format!("{{\"{good}\": 1}}")).bearer(ADMIN_TOKEN),
        ),
    ] {
        // The last answer quotes its request. It goes only to a client with the admin token.
        let reply = request.send(rig.tollgate.admin);
        if what != "admin call with a token for a name" {
            keep(what, format!("{:?} {}", reply.headers, reply.text()));
        }
    }
    for token in tokens {
        for request in [
            chat(token),
            Request::get("/v1/models").bearer(token),
            Request::get("/v1/models").bearer(token).bearer(token),
            Request::get("/v1/models").header("Authorization", &format!("Bearer {token}, {token}")),
            Request::get("/v1/models").header("Authorization", &format!("Basic {token}")),
            Request::get("/v1/models").header("Authorization", token),
            Request::get("/v1/models")
                .header("Cookie", &format!("session={token}"))
                .header("X-Api-Key", token),
            Request::get(&format!("/v1/models?access_token={token}")),
            Request::get(&format!("/nowhere?key={token}")),
            Request::post("/v1/chat/completions", format!(r#"{{"key":"{token}"}}"#)).bearer(&good),
        ] {
            let reply = rig.envoy.send(&request);
            keep("answer", format!("{:?} {}", reply.headers, reply.text()));
        }
    }
    assert_eq!(rig.envoy.send(&Request::get("/v1/models").bearer(&shared)).status, 200);
    assert_eq!(rig.chat(&revoked).verdict(), (401, "revoked".into()));

    // An outage, with the errors of the store's client.
    redis.kill();
    until("the outage", || (rig.chat(&good).status == 503).then_some(()));
    keep("answer in an outage", rig.chat(&good).text());
    redis.restart();
    until("the end of the outage", || (rig.chat(&good).status == 200).then_some(()));

    // Invalid files with secrets in the wrong places.
    for (at, (from, to)) in [
        ("audiences: any", format!("audiences: \"{IN_URL}\"")),
        ("algorithms: [HS256]", "algorithms: [RS256]".to_owned()),
        ("secret:", format!("jwks: {{ url: \"http://user:{IN_URL}@127.0.0.1:1/\" }}\n    secret:")),
        ("redis: {", format!("redis: {{ username: u, password: \"{IN_URL}\", uri: x,")),
        ("unix:", format!("http://user:{IN_URL}@")),
        ("unix:", format!("redis://user:{IN_URL}@127.0.0.1:99999/")),
        ("unix:", format!("redis://user:{IN_URL}@ /")),
        (&format!("\"file:{place}/upstream\""), format!("{{ key: \"{IN_URL}\" }}")),
        (&format!("\"file:{place}/upstream\""), format!("[\"{IN_URL}\"]")),
    ]
    .into_iter()
    .enumerate()
    {
        // The value of `audiences` is a name, which may be shown.
        if at == 0 {
            continue;
        }
        let wrong = config.replace(from, &to);
        assert_ne!(wrong, config, "`{from}` is gone from the file");
        let path = dir.path().join(format!("wrong{at}.yaml"));
        std::fs::write(&path, &wrong).unwrap();
        let output = run(dir.path(), &["check-config", path.to_str().unwrap()]);
        keep(
            &format!("check-config {to}"),
            format!(
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            ),
        );
        assert!(!output.status.success(), "{to}");
        rig.tollgate.rewrite(rig.dir.path(), &wrong);
        rig.tollgate.process.signal(nix::sys::signal::Signal::SIGHUP);
        rig.tollgate.until_metric("tollgate_config_reload_failed", &[], 1.0);
        rig.tollgate.rewrite(rig.dir.path(), &config);
        rig.tollgate.process.signal(nix::sys::signal::Signal::SIGHUP);
        rig.tollgate.until_metric("tollgate_config_reload_failed", &[], 0.0);
    }

    // What the command line prints about a token is all but its signature.
    std::fs::write(dir.path().join("token"), &good).unwrap();
    for arguments in [
        &["token", "inspect", "@token"][..],
        &[
            "explain",
            "--config",
            &format!("{}/tollgate.yaml", rig.dir.path().display()),
            "--method",
            "GET",
            "--path",
            "/v1/models",
            "--token",
            "@token",
        ],
        &[
            "revoke",
            "list",
            "--admin",
            &format!("http://127.0.0.1:{}", rig.tollgate.admin),
            "--token-file",
            "admin",
        ],
        &[
            "revoke",
            "list",
            "--admin",
            &format!("http://127.0.0.1:{}", rig.tollgate.admin),
            "--token-file",
            "upstream",
        ],
        &["revoke", "list", "--redis", &format!("redis://user:{IN_URL}@127.0.0.1:1/")],
    ] {
        let output = run(dir.path(), arguments);
        keep(
            &format!("{arguments:?}").replace(IN_URL, ""),
            format!(
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            ),
        );
    }

    keep("readyz", rig.tollgate.ready().text());
    keep("metrics", rig.tollgate.metrics());
    until("audit", || (rig.tollgate.audit().len() > 50).then_some(()));
    keep("log", rig.tollgate.process.err());
    keep("audit", rig.tollgate.process.out());
    keep("proxy", rig.envoy.process.out());

    // The search itself finds what is there.
    assert!(outputs.iter().any(|(_, text)| text.contains("alice")));
    for secret in [SHARED, UPSTREAM, ADMIN_TOKEN, PASSWORD, IN_URL] {
        absent(&outputs, secret);
    }
    for token in tokens {
        let (signed, signature) = token.rsplit_once('.').unwrap();
        absent(&outputs, signature);
        assert!(
            outputs.iter().all(|(_, text)| !text.contains(signed)),
            "a token without its signature"
        );
    }
}

/// No part of `secret` is in any output.
fn absent(outputs: &[(String, String)], secret: &str) {
    for at in 0..=secret.len() - PART {
        let part = &secret[at..at + PART];
        for (what, text) in outputs {
            assert!(
                !text.contains(part),
                "`{part}` is in: {what}: {}",
                text.lines().find(|line| line.contains(part)).unwrap_or_default()
            );
        }
    }
}
