//! Denied requests: the status, the body in the dialect of the endpoint, the headers, and nothing
//! at the upstream.

use serde_json::{Value, json};

use crate::rig::{
    CHAT, POLICY, Rig, SCOPES,
    envoy::CURRENT,
    http::{Reply, Request},
    issuer::{Issuer, Key, forged, now},
    replace_once, until,
};

/// Asserts a denial in the form that clients of the endpoint read.
fn denied(rig: &Rig, path: &str, reply: &Reply, status: u16, code: &str, about: &str) {
    assert_eq!((reply.status, reply.code().as_str()), (status, code), "{about}: {}", reply.text());
    assert!(rig.upstream.taken().is_empty(), "{about}: the upstream received a request");
    assert_eq!(reply.one("content-type"), Some("application/json"), "{about}");
    assert_eq!(reply.one("cache-control"), Some("no-store"), "{about}");
    assert_eq!(reply.one("x-tollgate-decision-id").map(str::len), Some(32), "{about}");
    let body = reply.json();
    let (kind, message) = (&body["error"]["type"], &body["error"]["message"]);
    assert!(message.as_str().is_some_and(|text| !text.is_empty()), "{about}");
    let common = match status {
        401 => "authentication_error",
        403 => "permission_error",
        429 => "rate_limit_error",
        503 => "",
        _ => "invalid_request_error",
    };
    if path == "/v1/messages" {
        let expected = match status {
            413 => "request_too_large",
            503 => "overloaded_error",
            _ => common,
        };
        assert_eq!((&body["type"], kind), (&json!("error"), &json!(expected)), "{about}");
    } else {
        let expected = if status == 503 { "server_error" } else { common };
        assert_eq!(kind, &json!(expected), "{about}");
        let members: Vec<_> = body["error"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(members.len(), 4, "{about}: message, type, param and code: {members:?}");
    }

    let challenge = reply.one("www-authenticate");
    match (code, status) {
        ("missing_credential", _) => {
            assert_eq!(challenge, Some("Bearer realm=\"tollgate\""), "{about}")
        }
        ("ambiguous_credential", _) => {
            assert!(
                challenge.unwrap().contains("error=\"invalid_request\""),
                "{about}: {challenge:?}"
            )
        }
        (_, 401) => assert!(
            challenge.unwrap().contains("error=\"invalid_token\""),
            "{about}: {challenge:?}"
        ),
        ("insufficient_scope", _) => {
            assert!(
                challenge.unwrap().contains("error=\"insufficient_scope\""),
                "{about}: {challenge:?}"
            )
        }
        _ => {}
    }
    match status {
        429 | 503 => {
            let seconds: u64 = reply.one("retry-after").unwrap().parse().unwrap();
            let millis: u64 = reply.one("retry-after-ms").unwrap().parse().unwrap();
            assert!(
                seconds >= 1 && millis > (seconds - 1) * 1000 && millis <= seconds * 1000,
                "{about}: {seconds} s, {millis} ms"
            );
        }
        _ => assert_eq!(reply.one("retry-after"), None, "{about}"),
    }
}

#[test]
fn every_reason_has_its_answer_in_both_dialects() {
    reasons(CURRENT);
}

pub(super) fn reasons(version: &str) {
    let rig = Rig::on(
        version,
        &(POLICY.replace("    model: {", "    limits: [per-tenant, per-subject]\n    model: {")
            + "limits:\n  - { name: per-tenant, by: [tenant], rate: 1000/1s }\n  - { name: per-subject, by: [subject], rate: 1/1h, burst: 2 }\n"),
        |envoy| envoy,
    );
    let base = json!({ "tenant_id": "acme" });
    let with = |changes: Value| {
        let (mut claims, Value::Object(changes)) = (base.clone(), changes) else { unreachable!() };
        claims.as_object_mut().unwrap().extend(changes);
        rig.token(claims)
    };
    let good = with(json!({ "sub": "carol" }));
    let stranger = Issuer::new("https://elsewhere.example.com");
    let other_key = Issuer::with("https://auth.example.com", Key::ec("never-published"));
    let now = now();

    for path in ["/v1/chat/completions", "/v1/messages"] {
        let post = |token: &str| Request::post(path, CHAT).bearer(token);
        let body = |text: &str| Request::post(path, text).bearer(&good);
        let revoked = with(json!({ "jti": format!("revoked{path}") }));
        let entry =
            json!({ "issuer": "https://auth.example.com", "jti": format!("revoked{path}") });
        revoke(&rig, &entry);
        let rows = [
            ("no Authorization header", Request::post(path, CHAT), 401, "missing_credential"),
            (
                "another scheme",
                Request::post(path, CHAT).header("Authorization", "Basic YTpi"),
                401,
                "missing_credential",
            ),
            (
                "R16, R17: two Authorization headers",
                post(&good).bearer(&good),
                401,
                "ambiguous_credential",
            ),
            (
                "R17: two tokens in one header",
                post(&format!("{good}, Bearer {good}")),
                401,
                "ambiguous_credential",
            ),
            ("no JWT", post("abc"), 401, "malformed_token"),
            (
                "`alg: none`",
                post(&rig.issuer.token_with(json!({ "alg": "none" }), base.clone())),
                401,
                "algorithm_not_allowed",
            ),
            (
                "the public key as an HMAC secret",
                post(&rig.issuer.token_with(json!({ "alg": "HS256" }), base.clone())),
                401,
                "algorithm_not_allowed",
            ),
            ("an unknown issuer", post(&stranger.token(base.clone())), 401, "unknown_issuer"),
            ("an unpublished key", post(&other_key.token(base.clone())), 401, "unknown_key"),
            ("one byte of the signature changed", post(&forged(&good)), 401, "bad_signature"),
            (
                "expired beyond the leeway",
                post(&with(json!({ "iat": now - 700, "exp": now - 100 }))),
                401,
                "expired",
            ),
            (
                "not valid before tomorrow",
                post(&with(json!({ "nbf": now + 86_400 }))),
                401,
                "not_yet_valid",
            ),
            (
                "the audience of another service",
                post(&with(json!({ "aud": "billing" }))),
                401,
                "wrong_audience",
            ),
            (
                "R35: no access token",
                post(&rig.issuer.token_with(json!({ "typ": "logout+jwt" }), base.clone())),
                401,
                "wrong_token_type",
            ),
            ("no subject", post(&rig.token(json!({ "sub": null }))), 401, "invalid_claim"),
            ("revoked", post(&revoked), 401, "revoked"),
            (
                "a scope is missing",
                post(&with(json!({ "scope": "model:qwen:inference" }))),
                403,
                "insufficient_scope",
            ),
            (
                "the model's scope is missing",
                Request::post(path, r#"{"model":"big-70b"}"#).bearer(&good),
                403,
                "model_forbidden",
            ),
            ("an unknown model", body(r#"{"model":"qwen:adapter"}"#), 403, "model_forbidden"),
            ("no tenant to count by", post(&rig.token(json!({}))), 403, "tenant_mismatch"),
            ("no JSON", body("model=qwen"), 400, "malformed_request"),
            ("no model", body(r#"{"messages":[]}"#), 400, "model_missing"),
            (
                "a form",
                body("model=qwen")
                    .without("Content-Type")
                    .header("Content-Type", "application/x-www-form-urlencoded"),
                415,
                "unsupported_media_type",
            ),
            (
                "a compressed body",
                body(CHAT).header("Content-Encoding", "gzip"),
                415,
                "unsupported_media_type",
            ),
        ];
        for (about, request, status, code) in rows {
            denied(
                &rig,
                path,
                &rig.envoy.send(&request),
                status,
                code,
                &format!("{about}, {path}"),
            );
        }

        let busy = with(json!({ "sub": format!("busy{path}") }));
        for _ in 0..2 {
            assert_eq!(rig.envoy.send(&post(&busy)).status, 200);
        }
        rig.upstream.taken();
        let reply = rig.envoy.send(&post(&busy));
        denied(&rig, path, &reply, 429, "rate_limited", path);
        assert_eq!(reply.one("x-ratelimit-remaining-requests"), Some("0"));
        assert!(
            (3590..=3600).contains(&reply.one("retry-after").unwrap().parse::<u32>().unwrap()),
            "{:?}",
            reply.one("retry-after")
        );
    }

    let rows = [
        ("a path that is not listed", Request::get("/metrics").bearer(&good), "no_route"),
        (
            "a method that is not listed",
            Request::new("DELETE", "/v1/models").bearer(&good),
            "no_route",
        ),
        (
            "OPTIONS belongs to the proxy's CORS filter",
            Request::new("OPTIONS", "/v1/models").bearer(&good),
            "no_route",
        ),
    ];
    for (about, request, code) in rows {
        denied(&rig, "", &rig.envoy.send(&request), 403, code, about);
    }

    let scope = rig.envoy.send(
        &Request::post("/v1/chat/completions", CHAT).bearer(&with(json!({ "scope": "none" }))),
    );
    assert!(scope.one("www-authenticate").unwrap().contains("scope=\"infer:text\""));
    let model = rig
        .envoy
        .send(&Request::post("/v1/chat/completions", r#"{"model":"big-70b"}"#).bearer(&good));
    assert_eq!(model.json()["error"]["param"], "model");

    // Each denial is counted under its reason, and its audit line has the cause.
    assert!(
        rig.tollgate.metric("tollgate_checks_total", &["reason=\"expired\""]) >= 2.0,
        "{}",
        rig.tollgate.metrics()
    );
    let line = until("audit line", || {
        rig.tollgate.audit().into_iter().find(|line| line["reason"] == "unknown_issuer")
    });
    assert!(
        line["cause"].is_string() && line["decision"] == "deny" && line["sub"].is_null(),
        "{line}"
    );
}

/// Revokes through the admin API.
fn revoke(rig: &Rig, entry: &Value) {
    let reply = rig.tollgate.admin(Request::post("/v1/revocations", entry.to_string()));
    assert!(reply.status < 300, "{} {}", reply.status, reply.text());
}

#[test]
fn plain_http_is_refused_where_https_is_required() {
    let rig = Rig::start(&format!("{POLICY}require_https: true\n"));
    let reply = rig.chat(&rig.token(json!({})));
    denied(&rig, "", &reply, 403, "insecure_transport", "http");
    // The scheme comes from the proxy, not from the client (R21).
    let reply = rig
        .envoy
        .send(&crate::rig::chat(&rig.token(json!({}))).header("X-Forwarded-Proto", "https"));
    denied(&rig, "", &reply, 403, "insecure_transport", "X-Forwarded-Proto");
}

#[test]
fn the_scheme_of_a_client_is_ignored_over_plain_http_2() {
    let rig = Rig::start(&format!("{POLICY}require_https: true\n"));
    let token = rig.token(json!({}));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", rig.envoy.port)).await.unwrap();
        let io = hyper_util::rt::TokioIo::new(stream);
        let executor = hyper_util::rt::TokioExecutor::new();
        let (mut client, connection) =
            hyper::client::conn::http2::handshake(executor, io).await.unwrap();
        tokio::spawn(connection);
        for scheme in ["http", "https"] {
            for forwarded in [None, Some("https"), Some("http, https")] {
                let mut request =
                    hyper::Request::get(format!("{scheme}://api.example.com/v1/models"))
                        .header("authorization", format!("Bearer {token}"));
                if let Some(forwarded) = forwarded {
                    request = request.header("x-forwarded-proto", forwarded);
                }
                let request = request.body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap();
                let reply = client.send_request(request).await.unwrap();
                assert_eq!(reply.status(), 403, "{scheme}, {forwarded:?}");
            }
        }
    });
    assert!(rig.upstream.taken().is_empty());
    until("six denials", || {
        (rig.tollgate.metric("tollgate_checks_total", &["reason=\"insecure_transport\""]) >= 6.0)
            .then_some(())
    });
}

#[test]
fn a_body_that_the_proxy_does_not_send_is_refused() {
    let rig = Rig::with(POLICY, |config| {
        let at = config.find("                      with_request_body:").unwrap();
        let end = config.find("                        pack_as_bytes: true\n").unwrap()
            + "                        pack_as_bytes: true\n".len();
        format!("{}{}", &config[..at], &config[end..])
    });
    denied(
        &rig,
        "",
        &rig.chat(&rig.token(json!({ "scope": SCOPES }))),
        403,
        "body_unavailable",
        "no with_request_body",
    );
    // A request that needs no body passes.
    assert_eq!(
        rig.envoy.send(&Request::get("/v1/models").bearer(&rig.token(json!({})))).status,
        200
    );
}

/// A POST over plain HTTP/2, whose body has no length.
fn post_without_length(port: u16, path: &str, token: &str, body: &'static str) -> (u16, Value) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let io = hyper_util::rt::TokioIo::new(stream);
        let executor = hyper_util::rt::TokioExecutor::new();
        let (mut client, connection) =
            hyper::client::conn::http2::handshake(executor, io).await.unwrap();
        tokio::spawn(connection);
        let frames = [Ok::<_, std::convert::Infallible>(http_body::Frame::data(
            bytes::Bytes::from_static(body.as_bytes()),
        ))];
        let request = hyper::Request::post(format!("http://api.example.com{path}"))
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json")
            .body(http_body_util::StreamBody::new(futures_util::stream::iter(frames)))
            .unwrap();
        let reply = client.send_request(request).await.unwrap();
        let status = reply.status().as_u16();
        let body = http_body_util::BodyExt::collect(reply.into_body()).await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    })
}

#[test]
fn a_body_without_a_length_is_not_taken_for_an_empty_one() {
    let policy = POLICY.replace(
        "  - match: { methods: [GET], paths: [/v1/models] }",
        "  - match: { methods: [POST], paths: [/v1/bytes] }
    scopes: []
    caps: { input_bytes: 10 }
  - match: { methods: [GET], paths: [/v1/models] }",
    );
    let without_bodies = |config: String| {
        let at = config.find("                      with_request_body:").unwrap();
        let end = config.find("                        pack_as_bytes: true\n").unwrap()
            + "                        pack_as_bytes: true\n".len();
        format!("{}{}", &config[..at], &config[end..])
    };
    let rig = Rig::with(&policy, without_bodies);
    let token = rig.token(json!({}));
    let long = "0123456789abcdef";
    let (status, body) = post_without_length(rig.envoy.port, "/v1/bytes", &token, long);
    assert_eq!((status, &body["error"]["code"]), (403, &json!("body_unavailable")));
    assert!(rig.upstream.taken().is_empty());
    assert_eq!(rig.envoy.send(&Request::get("/v1/models").bearer(&token)).status, 200);

    // With the shipped configuration the body is read, with its length or without.
    let rig = Rig::start(&policy);
    let token = rig.token(json!({}));
    rig.upstream.taken();
    let (status, body) = post_without_length(rig.envoy.port, "/v1/bytes", &token, long);
    assert_ne!(status, 200, "{body}");
    assert!(rig.upstream.taken().is_empty());
    assert_eq!(post_without_length(rig.envoy.port, "/v1/bytes", &token, "[1]").0, 200);
    assert_eq!(rig.upstream.only().body, b"[1]");
}

#[test]
fn address_limits_use_the_address_of_the_peer() {
    let policy = POLICY
        .replace("    public: true\n", "    public: true\n    limits: [per-address]\n")
        + "limits:\n  - { name: per-address, by: [address], rate: 1/1h, burst: 2 }\n";
    let rig = Rig::start(&policy);
    let health = || rig.envoy.send(&Request::get("/health"));
    assert_eq!([health().status, health().status], [200, 200]);
    rig.upstream.taken();
    denied(&rig, "", &health(), 429, "rate_limited", "the third from one address");
    // The address is that of the peer, not the one in the client's header.
    let forged = rig.envoy.send(&Request::get("/health").header("X-Forwarded-For", "203.0.113.9"));
    denied(&rig, "", &forged, 429, "rate_limited", "X-Forwarded-For");
}

#[test]
fn a_partial_body_is_refused() {
    // A partial body can hide the second `model`. Envoy as shipped sends none; where it is
    // configured to, Tollgate refuses it.
    let rig = Rig::with(POLICY, |config| {
        let config = replace_once(config, "max_request_bytes: 16777216", "max_request_bytes: 64");
        replace_once(config, "allow_partial_message: false", "allow_partial_message: true")
    });
    let body = format!(r#"{{"model":"qwen","padding":"{}","model":"big-70b"}}"#, "x".repeat(200));
    let reply =
        rig.envoy.send(&Request::post("/v1/chat/completions", body).bearer(&rig.token(json!({}))));
    denied(&rig, "", &reply, 413, "body_too_large", "a partial body");
}
