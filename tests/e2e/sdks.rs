//! API keys in the official clients of OpenAI and Anthropic, and in LangChain, behind a real Envoy
//! and a real nginx.

use std::{io::Write as _, path::Path, process::Stdio};

use serde_json::{Value, json};
use tollgate_core::{
    credential::api_key::GeneratedKey,
    time::{Timestamp, rfc3339::Rfc3339},
};

use crate::{
    proxies::proxy_rig::{Kind, ProxyRig},
    rig::{
        envoy::{CURRENT, Envoy},
        http::Request,
        model_server::{EMBEDDING, TEXT, model_server},
        python::with_clients,
        tollgate::Tollgate,
        until,
    },
};

/// Keys and no tokens, in front of vLLM's routes.
const WITH_BODIES: &str = r#"
models:
  - { name: qwen, serves: [qwen] }
  - { name: big, serves: [big-70b] }
routes:
  - preset: vllm
    limits: [per-subject]
  - match: { methods: [POST], paths: ["/openai/deployments/{model}/chat/completions"] }
    scopes: [infer:text]
    model: { from: "path:model" }
"#;

/// The same for a proxy that sends no bodies.
const WITHOUT_BODIES: &str = r#"
routes:
  - match: { methods: [POST], paths: [/v1/chat/completions, /v1/responses, /v1/messages, /v1/embeddings, "/openai/deployments/{model}/chat/completions"] }
    scopes: [infer:text]
    limits: [per-subject]
  - match: { paths: [/health] }
    public: true
"#;

const LIMITS: &str = r#"
api_keys: { file: "${DIR}/keys.json" }
limits:
  - { name: per-subject, by: [subject], rate: 1000/1s, overrides: [{ tier: slow, rate: 1/1h, burst: 1 }] }
"#;

/// The clients, and the header in which each sends a key.
const SDKS: [(&str, &str); 4] = [
    ("openai", "authorization"),
    ("anthropic", "authorization"),
    ("langchain-openai", "authorization"),
    ("langchain-anthropic", "authorization"),
];

/// The keys by name, and the file of their records.
struct Keys(Vec<(String, GeneratedKey)>);

impl Keys {
    fn write(dir: &Path) -> Self {
        let now = ::tollgate::observe::now();
        let ago = |hours: u64| Rfc3339(Timestamp::from_secs(now.secs() - hours * 3600));
        let mut terms = vec![
            ("good".to_owned(), json!({})),
            ("expired".to_owned(), json!({ "expires": ago(1) })),
            ("revoked".to_owned(), json!({})),
            ("banned".to_owned(), json!({})),
            ("elsewhere".to_owned(), json!({ "networks": ["192.0.2.0/24"] })),
            ("no scope".to_owned(), json!({ "scopes": [] })),
            ("one model".to_owned(), json!({ "models": ["qwen"] })),
        ];
        for (sdk, _) in SDKS {
            terms.push((format!("slow {sdk}"), json!({ "tier": "slow" })));
        }
        let mut records = Vec::new();
        let mut keys = Vec::new();
        for (number, (name, more)) in (1_u8..).zip(terms) {
            let key = GeneratedKey::new(&[number; 16], &[number; 32]);
            let mut record = json!({
                "id": key.id(), "digest": key.digest(), "subject": name, "created": ago(2),
                "scopes": ["infer:text", "infer:embeddings"],
            });
            record.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            records.push(record);
            keys.push((name, key));
        }
        std::fs::write(dir.join("keys.json"), json!({ "keys": records }).to_string()).unwrap();
        Self(keys)
    }

    fn named(&self, name: &str) -> &GeneratedKey {
        &self.0.iter().find(|(known, _)| known == name).unwrap().1
    }

    fn text(&self, name: &str) -> String {
        self.named(name).expose().to_owned()
    }
}

/// Makes the calls with the official clients and returns their results by name. `packages` are
/// directories of `.parts`, the first before the others.
fn call(port: u16, packages: &[&str], calls: &[Value]) -> Value {
    let mut client = with_clients(packages)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk_client.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let input = json!({ "url": format!("http://127.0.0.1:{port}"), "calls": calls });
    client.stdin.take().unwrap().write_all(input.to_string().as_bytes()).unwrap();
    let output = client.wait_with_output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What a client raises for a refused key: the class, the status, and a part of the message.
struct Refusal {
    key: &'static str,
    model: &'static str,
    class: &'static str,
    status: u16,
    says: &'static str,
}

const fn refusal(
    key: &'static str,
    class: &'static str,
    status: u16,
    says: &'static str,
) -> Refusal {
    Refusal { key, model: "qwen", class, status, says }
}

const REFUSALS: [Refusal; 9] = [
    refusal("unknown", "AuthenticationError", 401, "the API key is not valid; get a new one"),
    refusal("foreign", "AuthenticationError", 401, "the API key is not valid; get a new one"),
    refusal("wrong secret", "AuthenticationError", 401, "the API key is not valid; get a new one"),
    refusal("expired", "AuthenticationError", 401, "the API key is not valid; get a new one"),
    refusal("revoked", "AuthenticationError", 401, "the credential has been revoked"),
    refusal("banned", "PermissionDeniedError", 403, "the holder of this credential is banned"),
    refusal("elsewhere", "PermissionDeniedError", 403, "may not be used from this network"),
    refusal("no scope", "PermissionDeniedError", 403, "needs the scope `infer:text`"),
    Refusal {
        key: "one model",
        model: "big-70b",
        class: "PermissionDeniedError",
        status: 403,
        says: "model",
    },
];

/// The calls that a good key is allowed, and the answer to each.
const ALLOWED: [(&str, &str, &str); 11] = [
    ("openai", "chat", TEXT),
    ("openai", "stream", TEXT),
    ("openai", "responses", TEXT),
    ("openai", "responses stream", TEXT),
    ("openai", "embeddings", EMBEDDING),
    ("anthropic", "chat", TEXT),
    ("anthropic", "stream", TEXT),
    ("langchain-openai", "chat", TEXT),
    ("langchain-openai", "stream", TEXT),
    ("langchain-openai", "embeddings", EMBEDDING),
    ("langchain-anthropic", "chat", TEXT),
];

/// Calls through the proxy at `port` with every kind of key.
fn every_client_understands_every_answer(
    port: u16,
    tollgate: &Tollgate,
    keys: &Keys,
    seen: &dyn Fn() -> Vec<Request>,
) {
    let admin = |path: &str, body: Value| {
        let reply = tollgate.admin(Request::post(path, body.to_string()));
        assert_eq!(reply.status, 200, "{}", reply.text());
    };
    let id = |name: &str| keys.named(name).id();
    let revoked = json!({ "issuer": "tollgate:api-keys", "jti": id("revoked") });
    admin("/v1/revocations", revoked);
    admin("/v1/bans", json!({ "key": id("banned"), "for": "1h", "reason": "test" }));
    let key = |name: &str| match name {
        "unknown" => GeneratedKey::new(&[77; 16], &[77; 32]).expose().to_owned(),
        "foreign" => "sk-0123456789abcdef".to_owned(),
        "wrong secret" => GeneratedKey::with_id(id("good"), &[78; 32]).expose().to_owned(),
        name => keys.text(name),
    };

    let mut calls = Vec::new();
    for (sdk, what, _) in ALLOWED {
        let name = format!("{sdk} {what}");
        calls.push(
            json!({ "name": name, "sdk": sdk, "do": what, "key": key("good"), "model": "qwen" }),
        );
    }
    let azure = json!({ "name": "azure", "sdk": "azure", "do": "chat", "key": key("good"), "model": "qwen" });
    calls.push(azure);
    seen();
    let results = call(port, &["sdks"], &calls);
    for (sdk, what, text) in ALLOWED {
        let result = &results[format!("{sdk} {what}")];
        let header = SDKS.iter().find(|(name, _)| *name == sdk).unwrap().1;
        assert_eq!(result["text"], text, "{sdk} {what}: {result}");
        assert_eq!(result["credentials"], json!([header]), "{sdk} {what}");
        assert_eq!(result["attempts"], 1, "{sdk} {what}");
    }
    assert_eq!(results["azure"]["text"], TEXT, "{}", results["azure"]);
    assert_eq!(results["azure"]["credentials"], json!(["api-key"]));
    let arrived = seen();
    assert_eq!(arrived.len(), calls.len());
    for request in arrived {
        assert_eq!(request.all("x-tollgate-subject"), ["good"]);
        for header in ["authorization", "x-api-key", "api-key"] {
            assert!(request.all(header).iter().all(|value| value.is_empty()), "{request:?}");
        }
    }

    let mut calls = Vec::new();
    for (sdk, _) in SDKS {
        for row in &REFUSALS {
            let name = format!("{sdk} {}", row.key);
            calls.push(json!({ "name": name, "sdk": sdk, "do": "chat", "key": key(row.key), "model": row.model }));
        }
        // One request an hour: the second is refused, and no client waits for the hour to pass.
        for name in ["first", "limited"] {
            let slow = key(&format!("slow {sdk}"));
            let name = format!("{sdk} {name}");
            calls.push(
                json!({ "name": name, "sdk": sdk, "do": "stream", "key": slow, "model": "qwen" }),
            );
        }
    }
    let limited = refusal("limited", "RateLimitError", 429, "rate limit `per-subject` reached");
    let results = call(port, &["sdks"], &calls);
    for (sdk, _) in SDKS {
        assert_eq!(results[format!("{sdk} first")]["text"], TEXT, "{sdk}");
        for row in REFUSALS.iter().chain([&limited]) {
            raises(&format!("{sdk} {}", row.key), &results, row);
        }
    }

    // A ban of the network: no client repeats the request.
    let line = until("the line of a check", || tollgate.audit().into_iter().next_back());
    let address = line["client_ip"].as_str().unwrap().to_owned();
    admin("/v1/bans", json!({ "network": address, "for": "1m", "reason": "test" }));
    let calls = SDKS.map(|(sdk, _)| {
        json!({ "name": sdk, "sdk": sdk, "do": "chat", "key": key("good"), "model": "qwen" })
    });
    let banned = refusal("good", "RateLimitError", 429, "requests from this network are banned");
    let results = call(port, &["sdks"], &calls);
    for (sdk, _) in SDKS {
        raises(sdk, &results, &banned);
    }
}

/// Asserts that a call raised the exception of a refusal after one request.
fn raises(name: &str, results: &Value, row: &Refusal) {
    let result = &results[name];
    let error = &result["error"];
    assert_eq!(error["status"], row.status, "{name}: {result}");
    assert!(error["classes"].as_array().unwrap().contains(&json!(row.class)), "{name}: {result}");
    assert!(error["message"].as_str().unwrap().contains(row.says), "{name}: {result}");
    assert_eq!(result["attempts"], 1, "{name}: the request is not repeated: {result}");
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn every_client_understands_every_answer_behind_envoy() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let keys = Keys::write(dir);
    let model = model_server();
    let tollgate = Tollgate::start(dir, &format!("{WITH_BODIES}{LIMITS}"));
    let envoy = Envoy::start(dir, model.port, CURRENT, |config| config);
    every_client_understands_every_answer(envoy.port, &tollgate, &keys, &|| model.taken());
}

/// Calls through nginx in one of the ways in which it calls Tollgate.
fn every_client_understands_every_answer_of(kind: Kind) {
    let dir = tempfile::tempdir().unwrap();
    let keys = Keys::write(dir.path());
    let model = model_server();
    let policy = if kind.sends_bodies() { WITH_BODIES } else { WITHOUT_BODIES };
    let limits = LIMITS.replace("${DIR}", &dir.path().display().to_string());
    let policy = format!("{policy}{limits}");
    let rig = ProxyRig::build(kind, &policy, Some(model.port), |config| config);
    every_client_understands_every_answer(rig.port, &rig.tollgate, &keys, &|| model.taken());
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn every_client_understands_every_answer_behind_nginx_with_auth_request() {
    every_client_understands_every_answer_of(Kind::Nginx);
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn every_client_understands_every_answer_behind_nginx_with_njs() {
    every_client_understands_every_answer_of(Kind::Njs);
}

/// Version 1 of Anthropic's client sends a key as `X-Api-Key`, and a second credential beside it
/// where the environment has one of each kind.
#[test]
#[ignore = "needs a large download: make test-all"]
fn an_older_anthropic_client_sends_the_key_in_its_own_header_or_in_both() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let keys = Keys::write(dir);
    let model = model_server();
    let tollgate = Tollgate::start(dir, &format!("{WITH_BODIES}{LIMITS}"));
    let envoy = Envoy::start(dir, model.port, CURRENT, |config| config);
    let good = keys.text("good");
    let both = json!({ "ANTHROPIC_API_KEY": good, "ANTHROPIC_AUTH_TOKEN": good });
    let calls = [
        json!({ "name": "anthropic", "sdk": "anthropic", "do": "stream", "key": good, "model": "qwen" }),
        json!({ "name": "langchain", "sdk": "langchain-anthropic", "do": "chat", "key": good, "model": "qwen" }),
        json!({ "name": "both", "sdk": "anthropic", "do": "chat", "environment": both, "model": "qwen" }),
        json!({ "name": "argument", "sdk": "anthropic", "do": "chat", "key": good, "environment": both, "model": "qwen" }),
    ];
    let results = call(envoy.port, &["anthropic-1.17.0", "sdks"], &calls);
    for name in ["anthropic", "langchain", "argument"] {
        assert_eq!(results[name]["text"], TEXT, "{name}: {}", results[name]);
        assert_eq!(results[name]["credentials"], json!(["x-api-key"]), "{name}");
    }
    assert_eq!(results["both"]["credentials"], json!(["authorization", "x-api-key"]));
    let says = "more than one credential was sent; send exactly one";
    raises("both", &results, &refusal("both", "AuthenticationError", 401, says));
    let line = until("the line of the refusal", || {
        tollgate.audit().into_iter().find(|line| line["reason"] == "ambiguous_credential")
    });
    assert_eq!(line["decision"], "deny");
}
