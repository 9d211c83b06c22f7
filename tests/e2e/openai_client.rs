//! A real model server behind a real Envoy, called by the official `openai` client.

use std::{io::Write as _, process::Stdio};

use serde_json::{Value, json};

use crate::rig::{
    POLICY,
    envoy::{CURRENT, Envoy, OLDEST},
    http::Request,
    issuer::{Issuer, now},
    python::{command, llama_server},
    tollgate::Tollgate,
};

/// Makes the calls with the official client and returns their results by name.
pub(super) fn call(port: u16, calls: &Value) -> Value {
    let mut client = command("tests/openai_client.py")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let input = json!({ "base_url": format!("http://127.0.0.1:{port}/v1"), "calls": calls });
    client.stdin.take().unwrap().write_all(input.to_string().as_bytes()).unwrap();
    let output = client.wait_with_output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

fn the_client_understands_every_answer(version: &str) {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let model = llama_server(dir, &["--api-key", "sk-upstream"]);

    let issuer = Issuer::new("https://auth.example.com");
    issuer.publish(dir);
    let key = "    upstream_key: sk-upstream\n";
    let policy = POLICY
        .replace(
            "name: qwen, serves: [\"Qwen/Qwen2-72B-Instruct\", qwen]",
            "name: smollm2, serves: [smollm2]",
        )
        .replace(
            "    name: generate\n",
            &format!("    name: generate\n{key}    limits: [per-subject]\n"),
        )
        .replace("    name: models\n", &format!("    name: models\n{key}"))
        + "limits:\n  - { name: per-subject, by: [subject], rate: 1/5s, burst: 6, overrides: [{ role: slow, rate: 1/5s, burst: 1 }, { role: slower, rate: 1/1h, burst: 1 }] }\n";
    let tollgate = Tollgate::start(dir, &policy);
    let envoy = Envoy::start(dir, model.port, version, |config| config);

    let token = |claims: Value| {
        let mut all = json!({ "scope": "infer:text model:smollm2:inference" });
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        issuer.token(all)
    };
    let good = token(json!({}));
    let revoked = token(json!({ "jti": "gone" }));
    let entry = json!({ "issuer": "https://auth.example.com", "jti": "gone" });
    assert_eq!(tollgate.admin(Request::post("/v1/revocations", entry.to_string())).status, 200);
    let expired = token(json!({ "iat": now() - 7200, "exp": now() - 3600 }));
    let slow = token(json!({ "sub": "slow", "roles": ["slow"] }));
    let slower = token(json!({ "sub": "slower", "roles": ["slower"] }));
    let seen = call(
        envoy.port,
        &json!([
            { "name": "whole", "do": "chat", "token": good, "model": "smollm2" },
            { "name": "streamed", "do": "stream", "token": good, "model": "smollm2" },
            { "name": "list", "do": "models", "token": good },
            { "name": "none", "do": "chat", "model": "smollm2" },
            { "name": "expired", "do": "chat", "token": expired, "model": "smollm2" },
            { "name": "revoked", "do": "chat", "token": revoked, "model": "smollm2" },
            { "name": "scope", "do": "chat", "token": token(json!({ "scope": "models:read" })), "model": "smollm2" },
            { "name": "model", "do": "stream", "token": good, "model": "big-70b" },
            { "name": "empty model", "do": "chat", "token": good, "model": "" },
            { "name": "first of two", "do": "chat", "token": slow, "model": "smollm2" },
            { "name": "second of two", "do": "chat", "token": slow, "model": "smollm2", "max_retries": 2 },
            { "name": "first", "do": "chat", "token": slower, "model": "smollm2" },
            { "name": "limited", "do": "chat", "token": slower, "model": "smollm2" },
        ]),
    );

    for name in ["whole", "streamed", "first of two", "second of two"] {
        assert!(
            seen[name]["text"].as_str().is_some_and(|text| !text.is_empty()),
            "{name}: {}",
            seen[name]
        );
        assert!(
            seen[name]["usage"]["total_tokens"].as_u64().is_some_and(|tokens| tokens > 0),
            "{name}: {}",
            seen[name]
        );
    }
    assert!(seen["streamed"]["chunks"].as_u64().unwrap() > 2, "{}", seen["streamed"]);
    assert_eq!(seen["list"]["models"], json!(["smollm2"]));

    for (name, exception, status, kind, code, says) in [
        (
            "none",
            "AuthenticationError",
            401,
            "authentication_error",
            "missing_credential",
            "no credential was sent",
        ),
        (
            "expired",
            "AuthenticationError",
            401,
            "authentication_error",
            "expired",
            "the token has expired",
        ),
        (
            "revoked",
            "AuthenticationError",
            401,
            "authentication_error",
            "revoked",
            "has been revoked",
        ),
        (
            "scope",
            "PermissionDeniedError",
            403,
            "permission_error",
            "insufficient_scope",
            "needs the scope `infer:text`",
        ),
        (
            "model",
            "PermissionDeniedError",
            403,
            "permission_error",
            "model_forbidden",
            "needs the scope `model:big:inference`",
        ),
        (
            "empty model",
            "BadRequestError",
            400,
            "invalid_request_error",
            "malformed_request",
            "not 1 to 256",
        ),
        (
            "limited",
            "RateLimitError",
            429,
            "rate_limit_error",
            "rate_limited",
            "rate limit `per-subject` reached",
        ),
    ] {
        let error = &seen[name]["error"];
        let got = (&error["exception"], &error["status"], &error["type"], &error["code"]);
        assert_eq!(
            got,
            (&json!(exception), &json!(status), &json!(kind), &json!(code)),
            "{name}: {}",
            seen[name]
        );
        assert_eq!(seen[name]["statuses"], json!([status]), "{name}");
        // The message, which a traceback shows, has the remedy and not only a number.
        assert!(error["message"].as_str().unwrap().contains(says), "{name}: {error}");
        assert!(error["headers"]["x-tollgate-decision-id"].is_string(), "{name}");
    }
    assert_eq!(seen["model"]["error"]["param"], "model");
    assert!(seen["limited"]["error"]["headers"]["retry-after"].is_string());

    // The client waited as long as `retry-after` demands.
    let second = &seen["second of two"];
    assert_eq!(second["statuses"], json!([429, 200]), "{second}");
    let seconds = second["seconds"].as_f64().unwrap();
    assert!(seconds > 0.5 && seconds < 30.0, "{second}");
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn the_openai_client_understands_every_answer() {
    the_client_understands_every_answer(CURRENT);
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn the_openai_client_understands_every_answer_of_the_oldest_envoy() {
    the_client_understands_every_answer(OLDEST);
}
