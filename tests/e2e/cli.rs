//! The commands of the command line, run as an operator runs them.

use std::process::Output;

use serde_json::Value;

use crate::rig::{
    CHAT, POLICY, Rig, SCOPES,
    issuer::{Issuer, Key},
    tollgate::run,
};

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", text(output)))
}

const WRONG: &str = r#"listen: { grpc: "9000" }
isuers: []
issuers:
  - issuer: https://auth.example.com
    audiences: inference-api
    algorithms: [RS257]
    jwks: { url: "http://auth.example.com/jwks.json" }
    leeway: 5m
routes:
  - match: { methods: [POST], paths: [v1/chat] }
    scopes: [infer:text]
    limits: [per-subject]
"#;

#[test]
fn check_config_reports_every_error_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    std::fs::write(dir.join("wrong.yaml"), WRONG).unwrap();
    let output = run(dir, &["check-config", "wrong.yaml"]);
    let lines = text(&output);
    assert_eq!(output.status.code(), Some(1), "{lines}");
    // Values that cannot be read, and the other values of the same issuer. What needs the whole
    // issuer is not compared.
    for (line, part) in [
        (1, "9000"),
        (2, "isuers"),
        (5, "inference-api"),
        (6, "RS257"),
        (8, "5m"),
        (10, "v1/chat"),
        (12, "per-subject"),
    ] {
        let found = lines
            .lines()
            .any(|text| text.starts_with(&format!("wrong.yaml:{line}:")) && text.contains(part));
        assert!(found, "line {line}, `{part}`:\n{lines}");
    }

    // One mistake is one error: the unreadable issuer causes no error about the route.
    assert_eq!(lines.lines().count(), 7, "{lines}");

    // Once the issuer can be read, its values are compared.
    let readable = WRONG
        .replace("\"9000\"", "\"127.0.0.1:0\"")
        .replace("isuers: []\n", "")
        .replace("audiences: inference-api", "audiences: [inference-api]")
        .replace("RS257", "RS256");
    std::fs::write(dir.join("wrong.yaml"), &readable).unwrap();
    let output = run(dir, &["check-config", "wrong.yaml"]);
    let lines = text(&output);
    assert_eq!(output.status.code(), Some(1), "{lines}");
    for (line, part) in [(6, "insecure_http"), (7, "60s"), (9, "v1/chat"), (11, "per-subject")] {
        let found = lines
            .lines()
            .any(|text| text.starts_with(&format!("wrong.yaml:{line}:")) && text.contains(part));
        assert!(found, "line {line}, `{part}`:\n{lines}");
    }
    let report = json(&run(dir, &["check-config", "wrong.yaml", "--output", "json"]));
    assert_eq!(report["ok"], false);
    assert!(
        report["errors"]
            .as_array()
            .unwrap()
            .iter()
            .any(|error| error["line"] == 11 && error["path"] == "routes[0].limits[0]"),
        "{report}"
    );
    // `serve` does not start with such a file.
    let output = run(dir, &["serve", "--config", "wrong.yaml"]);
    assert!(
        !output.status.success() && text(&output).contains("wrong.yaml:11:"),
        "{}",
        text(&output)
    );

    std::fs::write(dir.join("good.yaml"), POLICY).unwrap();
    // A file that is missing here is a warning.
    std::fs::write(dir.join("jwks.json"), r#"{"keys":[]}"#).unwrap();
    let output = run(dir, &["check-config", "good.yaml"]);
    assert_eq!((output.status.code(), text(&output).trim()), (Some(0), "good.yaml: ok"));
    assert_eq!(json(&run(dir, &["check-config", "good.yaml", "--output", "json"]))["ok"], true);

    let output = run(dir, &["check-config", "missing.yaml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("`missing.yaml` cannot be read"), "{}", text(&output));
    assert_eq!(run(dir, &["check-config"]).status.code(), Some(2));
    assert_eq!(run(dir, &["no-such-command"]).status.code(), Some(2));
}

#[test]
fn the_schema_describes_every_section() {
    let dir = tempfile::tempdir().unwrap();
    let schema = json(&run(dir.path(), &["schema"]));
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    for section in [
        "listen",
        "body",
        "issuers",
        "api_keys",
        "models",
        "routes",
        "limits",
        "store",
        "revocation",
        "require_https",
        "audit",
        "log",
    ] {
        assert!(schema["properties"][section]["description"].is_string(), "{section}");
    }
    assert_eq!(schema["additionalProperties"], false);
}

#[test]
fn a_minted_token_passes_and_can_be_explained() {
    let rig = Rig::start(POLICY);
    let dir = rig.dir.path();
    let key = Key::ec("minted");
    std::fs::write(dir.join("key.pem"), key.pem()).unwrap();
    std::fs::write(dir.join("jwks.json"), crate::rig::issuer::jwks(&[&key, &rig.issuer.key]))
        .unwrap();
    let mint = |more: &[&str]| {
        let common = [
            "token",
            "mint",
            "--key",
            "key.pem",
            "--kid",
            "minted",
            "--alg",
            "ES256",
            "--iss",
            "https://auth.example.com",
            "--aud",
            "inference-api",
        ];
        let output = run(dir, &[&common, more].concat());
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let token = mint(&[
        "--sub",
        "alice",
        "--scope",
        SCOPES,
        "--ttl",
        "1h",
        "--claim",
        "tenant_id=\"acme\"",
    ]);
    crate::rig::until("the new key", || (rig.chat(&token).status == 200).then_some(()));
    assert_eq!(rig.upstream.taken().last().unwrap().all("x-tollgate-tenant"), ["acme"]);

    std::fs::write(dir.join("good.token"), &token).unwrap();
    std::fs::write(
        dir.join("late.token"),
        mint(&["--sub", "carol", "--scope", SCOPES, "--ttl=-1h"]),
    )
    .unwrap();
    let inspected = run(dir, &["token", "inspect", "@good.token"]);
    assert!(
        inspected.status.success() && text(&inspected).contains("alice"),
        "{}",
        text(&inspected)
    );

    // `explain` decides the same offline.
    let explain = |token: &str, body: &str| {
        let command = [
            "explain",
            "--config",
            "tollgate.yaml",
            "--method",
            "POST",
            "--path",
            "/v1/chat/completions",
            "--host",
            "api.example.com",
        ];
        let output = run(
            dir,
            &[
                &command[..],
                &["--header", "content-type: application/json", "--body", body, "--token", token],
            ]
            .concat(),
        );
        (output.status.code(), text(&output))
    };
    for (token, body, code, part) in [
        ("@good.token", CHAT, 0, "allow"),
        ("@late.token", CHAT, 1, "expired"),
        ("@good.token", r#"{"model":"big-70b"}"#, 1, "model_forbidden"),
        ("@good.token", r#"{"model":"qwen","model":"big-70b"}"#, 1, "malformed_request"),
    ] {
        let (status, text) = explain(token, body);
        assert_eq!(status, Some(code), "{part}: {text}");
        assert!(text.contains(part), "{part}: {text}");
    }
}

/// `serve` names what is missing, and does not start.
#[test]
fn serve_does_not_start_without_what_it_needs() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    Issuer::new("https://auth.example.com").publish(dir);
    let listen = "listen: { grpc: \"unix:${DIR}/authz.sock\", ops: \"127.0.0.1:0\"";
    let rows = [
        (
            "a missing secret file",
            format!(
                "{listen} }}\n{}",
                POLICY.replace(
                    "    scopes: []\n",
                    "    scopes: []\n    upstream_key: \"file:${DIR}/none\"\n"
                )
            ),
            "none",
        ),
        (
            "a shared secret that is too short",
            format!(
                "{listen} }}\n{}",
                POLICY.replace(
                    "algorithms: [RS256, ES256, EdDSA]\n    jwks: { file: \"${DIR}/jwks.json\" }",
                    "algorithms: [HS256]\n    secret: short"
                )
            ),
            "256",
        ),
        (
            "an admin token that could be guessed",
            format!("{listen}, admin: {{ address: \"127.0.0.1:0\", token: x }} }}\n{POLICY}"),
            "token",
        ),
        (
            "a missing certificate",
            format!(
                "listen: {{ grpc: {{ address: \"unix:${{DIR}}/a.sock\", tls: {{ cert: \"${{DIR}}/c.pem\", key: \"${{DIR}}/k.pem\" }} }}, ops: \"127.0.0.1:0\" }}\n{POLICY}"
            ),
            "c.pem",
        ),
        (
            "a missing directory",
            format!(
                "listen: {{ grpc: \"unix:${{DIR}}/nowhere/authz.sock\", ops: \"127.0.0.1:0\" }}\n{POLICY}"
            ),
            "nowhere",
        ),
        (
            "an unset environment variable",
            format!(
                "{listen} }}\n{}",
                POLICY.replace("https://auth.example.com", "${UNSET_VARIABLE}")
            ),
            "UNSET_VARIABLE",
        ),
    ];
    for (about, config, part) in rows {
        std::fs::write(dir.join("tollgate.yaml"), config).unwrap();
        let output = run(dir, &["serve", "--config", "tollgate.yaml"]);
        let text = text(&output);
        assert!(!output.status.success() && text.contains(part), "{about}: {text}");
        assert!(!text.contains("panicked"), "{about}: {text}");
    }
}

/// Runs a command with a text as standard input.
fn run_with(dir: &std::path::Path, arguments: &[&str], input: &str) -> Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.args(arguments).current_dir(dir).env("DIR", dir);
    command.stdin(std::process::Stdio::piped());
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A command that fails early does not read it.
    let _ = std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes());
    child.wait_with_output().unwrap()
}

#[test]
fn every_command_takes_the_configuration_in_the_same_ways() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    Issuer::new("https://auth.example.com").publish(dir);
    let cases = "cases:\n  - { name: a, request: { method: GET, path: /health }, expect: { decision: allow } }\n";
    std::fs::write(dir.join("cases.yaml"), cases).unwrap();
    std::fs::write(dir.join("t.yaml"), POLICY).unwrap();
    let broken = "routes: 5\n";
    std::fs::write(dir.join("broken.yaml"), broken).unwrap();
    // `serve` runs until it is ended, so it is tested with the file that it refuses.
    for (before, after, serves) in [
        (&["check-config"][..], &[][..], false),
        (&["explain"], &["--path", "/health"], false),
        (&["test"], &["cases.yaml"], false),
        (&["jwks"], &[], false),
        (&["serve"], &[], true),
    ] {
        let (file, input) = if serves { ("broken.yaml", broken) } else { ("t.yaml", POLICY) };
        let mut printed = Vec::new();
        for named in [&[file][..], &["--config", file], &["-"], &["--config", "-"]] {
            if before == ["test"] && named == ["-"] {
                // The case file may be on standard input as well.
                continue;
            }
            let arguments = [before, named, after].concat();
            let output = run_with(dir, &arguments, input);
            let expected = if serves { Some(2) } else { Some(0) };
            assert_eq!(output.status.code(), expected, "{arguments:?}: {}", text(&output));
            printed.push(text(&output).replace("<stdin>", file));
        }
        assert!(printed.iter().all(|other| *other == printed[0]), "{before:?}: {printed:#?}");
        // Two names are one too many, and none names the ways.
        let both = [before, &[file, "--config", file], after].concat();
        if before != ["test"] {
            assert_eq!(run_with(dir, &both, "").status.code(), Some(2), "{both:?}");
        }
        let none = [before, after].concat();
        let output = run_with(dir, &none, "");
        if before != ["test"] {
            let text = text(&output);
            assert_eq!(output.status.code(), Some(2), "{none:?}");
            assert!(text.contains("FILE") && text.contains("--config"), "{none:?}: {text}");
        }
    }
}

#[test]
fn the_keys_of_every_issuer_are_fetched_as_serve_does() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let issuer = Issuer::new("https://auth.example.com");
    issuer.publish(dir);
    // A key that no issuer of the policy may use.
    let published = std::fs::read_to_string(dir.join("jwks.json")).unwrap();
    let mut set: Value = serde_json::from_str(&published).unwrap();
    let weak = serde_json::json!({ "kty": "RSA", "kid": "weak", "n": "AQAB", "e": "AQAB" });
    set["keys"].as_array_mut().unwrap().push(weak);
    std::fs::write(dir.join("jwks.json"), set.to_string()).unwrap();
    let port = crate::rig::free_port();
    let config = format!(
        "{}  - issuer: https://other.example.com
    audiences: any
    algorithms: [RS256]
    jwks: {{ url: \"http://127.0.0.1:{port}/jwks.json\", insecure_http: true, cache_file: \"${{DIR}}/cache.json\" }}
{}",
        POLICY.split_once("models:").unwrap().0,
        POLICY.split_once("models:").map(|(_, rest)| format!("models:{rest}")).unwrap(),
    );
    std::fs::write(dir.join("t.yaml"), config).unwrap();
    let output = run(dir, &["jwks", "t.yaml"]);
    let printed = text(&output);
    assert_eq!(output.status.code(), Some(1), "{printed}");
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines[0], "https://auth.example.com", "{printed}");
    assert_eq!(lines[1], "  1 key: `main`", "{printed}");
    assert!(lines[2].starts_with("  skipped `weak`: "), "{printed}");
    assert_eq!(lines[3], "https://other.example.com", "{printed}");
    assert!(lines[4].contains("no keys: no connection to `http://127.0.0.1:"), "{printed}");
    assert!(!dir.join("cache.json").exists(), "no cache file is written");
    let one = ["jwks", "t.yaml", "--issuer", "https://auth.example.com", "--output", "json"];
    let output = run(dir, &one);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(json(&output)["issuers"][0]["kids"], serde_json::json!(["main"]));
    let output = run(dir, &["jwks", "t.yaml", "--issuer", "https://auth.example.org"]);
    let expected = "the configuration has no issuer `https://auth.example.org`; it has \
                    `https://auth.example.com`, `https://other.example.com`";
    assert!(text(&output).contains(expected), "{}", text(&output));
}

#[test]
fn the_grpc_listener_opens_where_it_is_configured_or_nothing_else_is() {
    let http = "http: [{ address: \"127.0.0.1:0\", dialect: caddy, body: deny }]";
    for (listen, grpc) in [
        (format!("ops: \"127.0.0.1:0\", {http}"), false),
        (format!("ops: \"127.0.0.1:0\", grpc: \"127.0.0.1:0\", {http}"), true),
    ] {
        let dir = tempfile::tempdir().unwrap();
        Issuer::new("https://auth.example.com").publish(dir.path());
        let config = format!("listen: {{ {listen} }}\n{POLICY}");
        let tollgate = crate::rig::tollgate::Tollgate::start(dir.path(), &config);
        let log = tollgate.process.err();
        assert_eq!(log.contains("listening grpc="), grpc, "{log}");
    }
}
