//! Two servers, one per model; Envoy routes by the model of Tollgate's decision
//! (`deploy/envoy/models.yaml`). The assertions are on what each server received.

use serde_json::{Value, json};
use tempfile::TempDir;

use super::openai_client;
use crate::rig::{
    envoy::{Envoy, failure_mode_allow},
    http::{Reply, Request},
    issuer::Issuer,
    python::{PythonServer, llama_server},
    tollgate::Tollgate,
    upstream::Upstream,
};

const POLICY: &str = r#"
issuers:
  - { issuer: https://auth.example.com, audiences: [inference-api], algorithms: [RS256], jwks: { file: "${DIR}/jwks.json" } }
models:
  - { name: small, aliases: [gpt-small] }
  - { name: large, serves: [org/large], aliases: [gpt-large] }
  - { name: homeless }
routes:
  - match: { methods: [POST], paths: [/v1/chat/completions] }
    scopes: [infer:text]
    model: { from: body, scope: "model:{model}:inference" }
  - match: { paths: [/health] }
    public: true
"#;

struct Rig {
    envoy: Envoy,
    tollgate: Tollgate,
    small: Upstream,
    large: Upstream,
    issuer: Issuer,
    dir: TempDir,
}

impl Rig {
    fn start(dir: TempDir, small: Upstream, large: Upstream) -> Self {
        let issuer = Issuer::new("https://auth.example.com");
        issuer.publish(dir.path());
        let tollgate = Tollgate::start(dir.path(), POLICY);
        let envoy = Envoy::of_models(dir.path(), small.port, large.port, |config| config);
        Self { envoy, tollgate, small, large, issuer, dir }
    }

    fn token(&self, models: &[&str]) -> String {
        let scopes = models.iter().map(|model| format!(" model:{model}:inference"));
        self.issuer.token(json!({ "scope": format!("infer:text{}", scopes.collect::<String>()) }))
    }

    fn chat(&self, token: &str, model: &str) -> Request {
        let message = json!({ "role": "user", "content": "Say hello." });
        let body =
            json!({ "model": model, "messages": [message], "max_tokens": 4, "temperature": 0 });
        Request::post("/v1/chat/completions", body.to_string()).bearer(token)
    }

    /// Sends a request; returns the answer, and for each server the model in the body and the one
    /// in the header.
    fn ask(&self, request: &Request) -> (Reply, [Vec<(String, String)>; 2]) {
        let reply = self.envoy.send(request);
        let seen = |upstream: &Upstream| upstream.taken().iter().map(models).collect();
        (reply, [seen(&self.small), seen(&self.large)])
    }

    /// Sends every request of the tests and asserts which server receives it.
    fn hold(&self) {
        let (small, both, none) =
            (self.token(&["small"]), self.token(&["small", "large", "homeless"]), self.token(&[]));
        let forged = |request: Request| request.header("X-Tollgate-Model", "large");
        let at_small = |model: &str| Some((0, model.to_owned(), "small"));
        let at_large = |model: &str| Some((1, model.to_owned(), "large"));
        for (about, request, status, arrives) in [
            ("his model", self.chat(&small, "small"), 200, at_small("small")),
            (
                "an alias goes to the target's server",
                self.chat(&small, "gpt-small"),
                200,
                at_small("gpt-small"),
            ),
            ("another's model", self.chat(&small, "org/large"), 403, None),
            ("an alias of another's model", self.chat(&small, "gpt-large"), 403, None),
            ("the policy's name is no name of the server's", self.chat(&both, "large"), 403, None),
            ("both", self.chat(&both, "org/large"), 200, at_large("org/large")),
            ("both, by alias", self.chat(&both, "gpt-large"), 200, at_large("gpt-large")),
            (
                "a forged header does not choose",
                forged(self.chat(&small, "small")),
                200,
                at_small("small"),
            ),
            (
                "not even for who may use both",
                forged(self.chat(&both, "small")),
                200,
                at_small("small"),
            ),
            ("nor does it open", forged(self.chat(&none, "small")), 403, None),
            (
                "in another case",
                self.chat(&both, "small").header("x-ToLLgate-model", "large"),
                200,
                at_small("small"),
            ),
            (
                "with underscores",
                self.chat(&both, "small").header("x_tollgate_model", "large"),
                400,
                None,
            ),
            ("a model without a server", self.chat(&both, "homeless"), 404, None),
            ("no model", Request::get("/health"), 404, None),
            ("no model, and a forged header", forged(Request::get("/health")), 404, None),
            (
                "no credential",
                Request::post("/v1/chat/completions", r#"{"model":"small"}"#),
                401,
                None,
            ),
        ] {
            let (reply, seen) = self.ask(&request);
            let expected = [0, 1].map(|server| {
                let here = arrives.iter().filter(|(at, ..)| *at == server);
                here.map(|(_, sent, header)| (sent.clone(), (*header).to_owned()))
                    .collect::<Vec<_>>()
            });
            assert_eq!((reply.status, seen), (status, expected), "{about}: {}", reply.text());
            if status == 404 {
                assert_eq!(reply.code(), "model_not_found", "{about}");
            }
        }
    }
}

fn models(seen: &Request) -> (String, String) {
    let body: Value = serde_json::from_slice(&seen.body).unwrap();
    (body["model"].as_str().unwrap().to_owned(), seen.all("x-tollgate-model").join("; "))
}

#[test]
fn envoy_routes_by_the_model_of_the_decision() {
    let mut rig = Rig::start(tempfile::tempdir().unwrap(), Upstream::start(), Upstream::start());
    rig.hold();

    // Without a decision there is no model, and without a model no server, with each failure policy
    // of the proxy.
    let careless =
        Envoy::of_models(rig.dir.path(), rig.small.port, rig.large.port, failure_mode_allow);
    rig.tollgate.process.kill();
    let request = rig.chat(&rig.token(&["small"]), "small").header("X-Tollgate-Model", "small");
    assert_eq!((rig.envoy.send(&request).status, careless.send(&request).status), (503, 404));
    assert!(rig.small.taken().is_empty() && rig.large.taken().is_empty());
}

/// `deploy/envoy/models.yaml` is `envoy.yaml` with other routes and clusters.
#[test]
fn the_configuration_for_models_has_every_setting_of_the_reference() {
    let settings = |config: &str| {
        let lines = config
            .lines()
            .map(str::trim_end)
            .filter(|line| !line.trim().is_empty() && !line.trim().starts_with('#'));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    // The servers of `models.yaml` have no gRPC port, whose cluster is the last of the reference.
    let reference = include_str!("../../deploy/envoy/envoy.yaml");
    let (reference, _) = reference.split_once("    - name: inference-grpc\n").unwrap();
    let reference = settings(reference);
    let models = settings(include_str!("../../deploy/envoy/models.yaml"));
    let missing: Vec<_> = reference.iter().filter(|line| !models.contains(line)).collect();
    // The reference has routes for streams, which name no model that could be matched.
    let own = [
        "inference",
        "match: { prefix: / }",
        "port_value: 8000",
        "/v1/realtime",
        "upgrade_configs",
        "max_stream_duration",
        "grpc",
        "without_body",
        "envoy.filters.http.ext_authz:",
        "ExtAuthzPerRoute",
        "disable_request_body_buffering",
    ];
    assert!(missing.iter().all(|line| own.iter().any(|own| line.contains(own))), "{missing:#?}");
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn two_real_servers_are_chosen_by_the_model_of_the_decision() {
    let dir = tempfile::tempdir().unwrap();
    let server = |name: &str| -> PythonServer { llama_server(dir.path(), &["--name", name]) };
    let (small, large) = (server("small"), server("org-large"));
    let rig = Rig::start(
        tempfile::tempdir().unwrap(),
        Upstream::before(small.port),
        Upstream::before(large.port),
    );
    rig.hold();

    // The official client receives text from the one server, streamed and whole, and nothing from
    // the other.
    let token = rig.token(&["small"]);
    let calls = json!([
        { "name": "whole", "do": "chat", "token": token, "model": "gpt-small" },
        { "name": "streamed", "do": "stream", "token": token, "model": "small" },
        { "name": "other", "do": "chat", "token": token, "model": "org/large" },
    ]);
    let seen = openai_client::call(rig.envoy.port, &calls);
    for name in ["whole", "streamed"] {
        assert!(seen[name]["text"].as_str().is_some_and(|text| !text.is_empty()), "{name}: {seen}");
    }
    assert_eq!(seen["other"]["error"]["code"], "model_forbidden", "{seen}");
    assert_eq!((rig.small.taken().len(), rig.large.taken().len()), (2, 0));

    // The two servers are different: each reports its own model.
    for (upstream, name) in [(&rig.small, "small"), (&rig.large, "org-large")] {
        assert_eq!(Request::get("/v1/models").send(upstream.port).json()["data"][0]["id"], name);
    }
}
