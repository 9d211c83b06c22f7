use std::path::Path;

use clap::Parser;
use serde_json::Value;

use super::*;
use crate::policy_test::CaseFile;

const POLICY: &str = r#"
issuers:
  - issuer: https://auth.example.com
    audiences: [inference-api]
    algorithms: [ES256]
    jwks: { url: "https://auth.example.com/jwks.json" }
  - { issuer: absent, audiences: any, algorithms: [HS256], secret: "SECRET", required_claims: [] }
routes:
  - match: { methods: [POST], paths: [/v1/chat/completions] }
    scopes: ["infer:text"]
    model: { from: body, scope: "model:{model}:inference" }
    limits: [per-subject]
    upstream_key: sk-upstream
limits: [{ name: per-subject, by: [subject], rate: 60/1m, burst: 20 }]
body: { max: 1KiB, max_in_flight: 1MiB }
"#;

/// Tokens and keys for the policy, made by a case file.
const KEYS: &str = r#"
keys:
  main: { alg: ES256, issuer: "https://auth.example.com" }
  shared: { alg: HS256, secret: "${SHARED_SECRET}" }
cases:
  - name: by key
    token:
      key: main
      claims: { iss: "https://auth.example.com", aud: inference-api, sub: alice, iat: -1m, exp: +5m, scope: "infer:text model:m:inference" }
  - name: by secret
    token: { key: shared, header_without: [kid], claims: { sub: bob, exp: +5m, scope: "infer:text" } }
"#;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    explain: Explain,
}

struct Fixture {
    directory: tempfile::TempDir,
    by_key: String,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let keys = CaseFile::parse(KEYS).unwrap();
        let tokens: Vec<String> =
            keys.cases(Some(now())).unwrap().into_iter().map(|case| case.token.unwrap()).collect();
        std::fs::write(
            directory.path().join("policy.yaml"),
            POLICY.replace("SECRET", &"s".repeat(32)),
        )
        .unwrap();
        std::fs::write(
            directory.path().join("jwks.json"),
            keys.jwks("https://auth.example.com").unwrap(),
        )
        .unwrap();
        std::fs::write(directory.path().join("token"), format!("{}\n", tokens[0])).unwrap();
        Self { directory, by_key: tokens[0].clone() }
    }

    fn file(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    /// Explains a request to the chat route, with more arguments.
    fn explain(&self, arguments: &[&str]) -> (ExitStatus, String) {
        let config = self.file("policy.yaml");
        let common = [
            "explain",
            "--config",
            &config,
            "--path",
            "/v1/chat/completions",
            "--header",
            "content-type: application/json",
        ];
        explained(&common.iter().chain(arguments).copied().collect::<Vec<_>>())
    }
}

fn explained(arguments: &[&str]) -> (ExitStatus, String) {
    let mut out = Vec::new();
    let explain = Line::try_parse_from(arguments).unwrap().explain;
    let end = explain
        .explained(&mut Printer { out: &mut out, paint: Paint::default(), output: explain.output })
        .unwrap();
    (end, String::from_utf8(out).unwrap())
}

fn states(json: &Value) -> Vec<(&str, &str)> {
    let steps = json["steps"].as_array().unwrap();
    steps
        .iter()
        .map(|step| (step["step"].as_str().unwrap(), step["state"].as_str().unwrap()))
        .collect()
}

#[test]
fn an_allowed_request_is_told_step_by_step() {
    let fixture = Fixture::new();
    let (token, jwks) = (format!("@{}", fixture.file("token")), fixture.file("jwks.json"));
    let arguments = ["--token", &token, "--jwks", &jwks, "--body", r#"{"model":"m"}"#];
    let (end, text) = fixture.explain(&arguments);
    assert_eq!(end, ExitStatus::Good, "{text}");
    for line in [
        "  path: /v1/chat/completions",
        "  claimed kid: main",
        "    signature  passed",
        "  subject: alice",
        "  charge: `per-subject`: 1 of 20, one more every 1s, in bucket rate:per-subject:",
        "  answer: `per-subject`: room, 19 of 20 left",
        "  would be revoked by: ",
        "  assumed: nothing is revoked or banned, and every bucket is full",
        "answer       allow",
        "  to the upstream: x-tollgate-model: m",
        "  to the upstream: authorization: [secret]",
        "  to the client: x-ratelimit-remaining-requests: 19",
    ] {
        assert!(text.lines().any(|found| found.starts_with(line)), "{line}\n{text}");
    }
    let (_, json) = fixture.explain(&[&arguments[..], &["--output", "json"]].concat());
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["answer"]["decision"], "allow");
    assert!(
        states(&json).iter().all(|(_, state)| ["passed", "not needed"].contains(state)),
        "{json}"
    );
    for secret in ["sk-upstream", fixture.by_key.as_str(), "ssssssss"] {
        assert!(!text.contains(secret) && !json.to_string().contains(secret), "{secret}");
    }
}

#[test]
fn the_step_that_denies_is_named_with_its_cause() {
    let fixture = Fixture::new();
    let jwks = format!("https://auth.example.com={}", fixture.file("jwks.json"));
    let good = ["--token", &fixture.by_key, "--jwks", &jwks];
    let long = format!("{{\"model\":\"{}\"}}", "m".repeat(1024));
    for (arguments, step, cause) in [
        (&["--method", "GET"][..], "route", "does not list this method"),
        (&["--body", "{}"], "credential", "no Authorization header"),
        (&["--body", "{}", "--token", "a.b.c"], "token", "base64url"),
        (&[&good[..], &["--body", "{}"]].concat(), "model", "nothing at the model's place"),
        (
            &[&good[..], &["--body", r#"{"model":"n"}"#]].concat(),
            "model",
            "the scope `model:n:inference` of the model `n` is missing",
        ),
        (&["--body", &long], "request", "body.max"),
        (&["--method", "get"], "request", "upper-case"),
    ] {
        let (end, json) = fixture.explain(&[arguments, &["--output", "json"]].concat());
        let json: Value = serde_json::from_str(&json).unwrap();
        let failed: Vec<&str> = states(&json)
            .iter()
            .filter(|(_, state)| *state == "failed")
            .map(|(step, _)| *step)
            .collect();
        assert_eq!((end, failed), (ExitStatus::Bad, vec![step]), "{arguments:?} {json}");
        assert!(json["answer"]["cause"].as_str().unwrap().contains(cause), "{arguments:?} {json}");
    }
}

#[test]
fn every_condition_is_told_with_what_it_comes_to() {
    let fixture = Fixture::new();
    let conditions = r#"
    conditions:
      - { name: not large, expression: model != "large" }
      - principal.claims.absent == "a"
      - principal.subject == "alice"
    limits: [per-subject]"#;
    let policy = std::fs::read_to_string(fixture.file("policy.yaml")).unwrap();
    std::fs::write(
        fixture.file("policy.yaml"),
        policy.replacen("\n    limits: [per-subject]", conditions, 1),
    )
    .unwrap();
    let (token, jwks) = (format!("@{}", fixture.file("token")), fixture.file("jwks.json"));
    let arguments = ["--token", &token, "--jwks", &jwks, "--body", r#"{"model":"m"}"#];
    let (end, text) = fixture.explain(&arguments);
    assert_eq!(end, ExitStatus::Bad, "{text}");
    for line in [
        "conditions   failed",
        "  because: the condition `principal.claims.absent == \"a\"` has no value: `principal.claims.absent` is missing",
        "  condition: `not large`: true",
        "  condition: `principal.claims.absent == \"a\"`: no value: `principal.claims.absent` is missing",
        "  condition: `principal.subject == \"alice\"`: true",
        "answer       deny: HTTP 403, condition_failed, gRPC 7",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    let (_, json) = fixture.explain(&[&arguments[..], &["--output", "json"]].concat());
    let json: Value = serde_json::from_str(&json).unwrap();
    let step =
        json["steps"].as_array().unwrap().iter().find(|step| step["step"] == "conditions").unwrap();
    assert_eq!(step["facts"]["condition"].as_array().unwrap().len(), 3, "{step}");
}

#[test]
fn without_the_keys_nothing_is_told_that_is_not_known() {
    let fixture = Fixture::new();
    let arguments = ["--token", &fixture.by_key, "--body", r#"{"model":"m"}"#];
    let (end, text) = fixture.explain(&arguments);
    assert_eq!(end, ExitStatus::Unknown);
    assert!(
        text.contains("cannot be checked offline") && text.contains("answer       unknown"),
        "{text}"
    );
    assert!(!text.contains("not_ready"), "{text}");
    let (_, json) = fixture.explain(&[&arguments[..], &["--output", "json"]].concat());
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["answer"]["decision"], "unknown");
}

#[test]
fn a_configuration_is_tried_with_the_cases_of_a_file() {
    let fixture = Fixture::new();
    std::fs::write(
        fixture.file("cases.yaml"),
        KEYS.replace("name: by key", "name: by key\n    request: { path: /nowhere }"),
    )
    .unwrap();
    let (config, cases) = (fixture.file("policy.yaml"), fixture.file("cases.yaml"));
    let (end, json) = explained(&[
        "explain", "--config", &config, "--case", &cases, "--only", "by key", "--output", "json",
    ]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (end, json["answer"]["reason"].as_str(), json["case"].as_str()),
        (ExitStatus::Bad, Some("no_route"), Some("by key"))
    );
}

#[test]
fn every_row_of_the_corpus_has_one_step_that_decides() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path().display().to_string();
        let (end, lines) = explained(&["explain", "--case", &path, "--output", "json"]);
        assert_eq!(end, ExitStatus::Good, "{path}");
        for line in lines.lines() {
            let json: Value = serde_json::from_str(line).unwrap();
            let states = states(&json);
            let failed = states.iter().position(|(_, state)| *state == "failed");
            assert_eq!(failed.is_none(), json["answer"]["decision"] == "allow", "{path}: {line}");
            let after = failed.map_or(states.len(), |at| at + 1);
            assert!(
                states[after..].iter().all(|(_, state)| *state == "not reached"),
                "{path}: {line}"
            );
            assert!(
                states[..after].iter().all(|(_, state)| *state != "not reached"),
                "{path}: {line}"
            );
            let reason = json["answer"]["reason"].as_str().unwrap_or_default();
            let place = failed.map_or("", |at| states[at].0);
            let right = match reason {
                "" => place.is_empty(),
                "insecure_transport" => place == "transport",
                "no_route" => place == "route",
                "missing_credential" | "ambiguous_credential" => place == "credential",
                "unknown_issuer"
                | "unknown_key"
                | "bad_signature"
                | "expired"
                | "not_yet_valid"
                | "wrong_audience"
                | "not_ready"
                | "algorithm_not_allowed"
                | "wrong_token_type" => place == "token",
                // A token that is too long is refused before it is read.
                "malformed_token" => matches!(place, "credential" | "token"),
                // A route with conditions needs all scopes of a list.
                "invalid_claim" => matches!(place, "token" | "scopes" | "limits"),
                // The content of the body may need another scope.
                "insufficient_scope" => matches!(place, "scopes" | "model" | "content"),
                "condition_failed" => place == "conditions",
                "field_forbidden" | "tool_forbidden" | "category_forbidden" => place == "content",
                "unsupported_media_type" | "body_unavailable" => place == "body",
                "model_forbidden" | "model_missing" => place == "model",
                "rate_limited" => matches!(place, "refusals" | "store"),
                "revoked" | "store_unavailable" => place == "store",
                // An automatic ban refuses a credential that is not verified.
                "banned" => matches!(place, "network" | "credential" | "store"),
                "tenant_mismatch" => matches!(place, "scopes" | "body" | "limits"),
                "actor_forbidden" => place == "scopes",
                "address_forbidden" => matches!(place, "scopes" | "limits"),
                "credential_not_accepted" => place == "credential",
                "invalid_api_key" => matches!(place, "credential" | "token"),
                _ => true,
            };
            assert!(right, "{path}: {reason} in {place}: {line}");
            // What is not revoked is not reported as revoked.
            let steps = json["steps"].as_array().unwrap();
            let facts = &steps.iter().find(|step| step["step"] == "store").unwrap()["facts"];
            let is_revoked = reason == "revoked";
            assert_eq!(facts.get("revoked_by_one_of").is_some(), is_revoked, "{path}: {line}");
            assert!(facts.get("revoked_by").is_none(), "{path}: {line}");
            assert!(!is_revoked || facts.get("would_be_revoked_by").is_none(), "{path}: {line}");
        }
    }
}

#[test]
fn arguments_that_say_too_little_or_too_much_are_refused() {
    for arguments in [
        &["explain"][..],
        &["explain", "--config", "f"],
        &["explain", "f", "--config", "f", "--path", "/"],
        &["explain", "--case", "f", "--path", "/"],
        &["explain", "--config", "f", "--path", "/", "--only", "x"],
        &["explain", "--config", "f", "--path", "/", "--header", "no colon"],
        &["explain", "--config", "f", "--path", "/", "--header", ": x"],
    ] {
        assert!(Line::try_parse_from(arguments).is_err(), "{arguments:?}");
    }
    let line = Line::try_parse_from(["explain", "--path", "/"]).unwrap();
    let error = line.explain.run(&mut Vec::new(), Paint::default()).unwrap_err();
    let ways = "name the configuration: FILE, --config FILE, or `-` for standard input";
    assert_eq!(error.to_string(), ways);
}

/// A policy with API keys in a file, and the key of each record by its name.
fn api_keys(fixture: &Fixture, sources: &str) -> impl Fn(&str) -> String {
    use tollgate_core::{credential::api_key::GeneratedKey, time::rfc3339::Rfc3339};

    let make = |seed: u8| GeneratedKey::new(&[seed; 16], &[seed; 32]);
    let moment = |seconds: i64| {
        let secs = now().secs().saturating_add_signed(seconds);
        Rfc3339(tollgate_core::time::Timestamp::from_secs(secs)).to_string()
    };
    let record = |seed: u8, members: &str| {
        let key = make(seed);
        format!(
            r#"{{"id":"{}","digest":"{}","subject":"ci","tenant":"acme","owner":"ann",
                "labels":{{"team":"search"}},"created":"{}"{members}}}"#,
            key.id(),
            key.digest(),
            moment(-86_400)
        )
    };
    let expired = format!(r#","expires":"{}""#, moment(-3600));
    let narrow = r#","networks":["10.0.0.0/8"]"#;
    let records = [record(1, ""), record(2, &expired), record(3, narrow)].join(",");
    let path = fixture.file("keys.json");
    std::fs::write(&path, format!("{{\"keys\":[{records}]}}")).unwrap();
    let policy = format!(
        "api_keys: {{ {} }}\nroutes: [{{ match: {{ methods: [GET], paths: [/v1/chat/completions] }}, scopes: [] }}]",
        sources.replace("FILE", &path)
    );
    std::fs::write(fixture.file("policy.yaml"), policy).unwrap();
    move |name| {
        let seed = match name {
            "good" => 1,
            "expired" => 2,
            "narrow" => 3,
            _ => 9,
        };
        format!("x-api-key: {}", make(seed).expose())
    }
}

#[test]
fn the_record_of_a_key_is_shown_also_where_the_key_is_refused() {
    let fixture = Fixture::new();
    let header = api_keys(&fixture, "file: 'FILE'");
    for (name, end, lines) in [
        (
            "good",
            ExitStatus::Good,
            &["  kind: api_key", "  state: active", "  owner: ann", "  labels: team=search"][..],
        ),
        (
            "expired",
            ExitStatus::Bad,
            &[
                "  because: the key `",
                "  state: expired",
                "  subject of the record: ci",
                "  tenant of the record: acme",
                "  expires: ",
            ],
        ),
        (
            "narrow",
            ExitStatus::Bad,
            &["  state: active", "  networks of the key: 10.0.0.0/8", "  because: "],
        ),
        ("unknown", ExitStatus::Bad, &["  keys of the file: 3 records", "  record: none"]),
    ] {
        let (found, text) = fixture.explain(&["--header", &header(name), "--address", "192.0.2.1"]);
        assert_eq!(found, end, "{name}\n{text}");
        for line in lines {
            assert!(text.lines().any(|found| found.starts_with(line)), "{name}: {line}\n{text}");
        }
    }
}

#[test]
fn the_answer_to_a_key_that_redis_may_know_is_unknown() {
    let fixture = Fixture::new();
    let store = "file: 'FILE', redis: true";
    let header = api_keys(&fixture, store);
    let policy = std::fs::read_to_string(fixture.file("policy.yaml")).unwrap();
    let policy = format!("store: {{ redis: {{ url: 'redis://127.0.0.1:1' }} }}\n{policy}");
    std::fs::write(fixture.file("policy.yaml"), policy).unwrap();
    let (end, text) = fixture.explain(&["--header", &header("unknown")]);
    assert_eq!(end, ExitStatus::Unknown, "{text}");
    assert!(text.contains("  keys in Redis: not here"), "{text}");
    assert!(text.contains("beyond 100000 records"), "{text}");
    let (end, text) = fixture.explain(&["--header", &header("good")]);
    assert_eq!(end, ExitStatus::Good, "{text}");
}
