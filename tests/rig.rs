//! Real parts for the end-to-end tests: Tollgate's binary, Envoy with the shipped config, Redis, an upstream and key servers.
//!
//! Everything listens on loopback or on Unix sockets in a temporary directory, keeps its log there, and ends with the value
//! that stands for it. A test that fails shows the logs of its parts.

pub(crate) mod envoy;
pub(crate) mod grpc;
pub(crate) mod http;
pub(crate) mod issuer;
pub(crate) mod process;
pub(crate) mod python;
pub(crate) mod redis;
pub(crate) mod tollgate;
pub(crate) mod upstream;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use self::{
    envoy::Envoy,
    http::{Reply, Request},
    issuer::Issuer,
    tollgate::Tollgate,
    upstream::Upstream,
};

/// How long a condition may take to come true on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Polls until `condition` gives something.
pub(crate) fn until<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    within(SOON, condition).unwrap_or_else(|| panic!("not within {} s: {what}", SOON.as_secs()))
}

/// Polls for this long at most.
pub(crate) fn within<T>(span: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + span;
    loop {
        if let Some(found) = condition() {
            return Some(found);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A program that `tools/parts` sets up.
pub(crate) fn part(program: &str, part: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".parts/bin").join(program);
    assert!(path.exists(), "`{program}` is missing: run `tools/parts {part}`");
    path
}

/// The policy most tests start from. `${DIR}` is the rig's directory.
pub(crate) const POLICY: &str = r#"
issuers:
  - issuer: https://auth.example.com
    audiences: [inference-api]
    algorithms: [RS256, ES256, EdDSA]
    jwks: { file: "${DIR}/jwks.json" }
models:
  - { name: qwen, serves: ["Qwen/Qwen2-72B-Instruct", qwen] }
  - { name: big, serves: [big-70b] }
routes:
  - match: { methods: [POST], paths: [/v1/chat/completions, /v1/messages] }
    name: generate
    scopes: [infer:text]
    model: { from: body, scope: "model:{model}:inference" }
  - match: { methods: [GET], paths: [/v1/models] }
    name: models
    scopes: []
  - match: { paths: [/health, "/public/*"] }
    name: public
    public: true
"#;

/// The scopes that open everything in [`POLICY`].
pub(crate) const SCOPES: &str = "infer:text model:qwen:inference";

/// A body that asks for the model of [`SCOPES`].
pub(crate) const CHAT: &str = r#"{"model":"qwen","messages":[{"role":"user","content":"hi"}]}"#;

/// Upstream, Tollgate and Envoy in front of them, with one issuer whose keys are in a file.
pub(crate) struct Rig {
    // Ended in this order: the proxy first, the directory with the logs last.
    pub(crate) envoy: Envoy,
    pub(crate) tollgate: Tollgate,
    pub(crate) upstream: Upstream,
    pub(crate) issuer: Issuer,
    pub(crate) dir: TempDir,
}

impl Rig {
    /// With the shipped Envoy configuration.
    pub(crate) fn start(config: &str) -> Self {
        Self::with(config, |envoy| envoy)
    }

    /// With an edited one.
    pub(crate) fn with(config: &str, edit: impl FnOnce(String) -> String) -> Self {
        Self::on(envoy::CURRENT, config, edit)
    }

    /// With a version of Envoy.
    pub(crate) fn on(version: &str, config: &str, edit: impl FnOnce(String) -> String) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let issuer = Issuer::new("https://auth.example.com");
        issuer.publish(dir.path());
        let upstream = Upstream::start();
        let tollgate = Tollgate::start(dir.path(), config);
        let envoy = Envoy::start(dir.path(), upstream.port, version, edit);
        Self { envoy, tollgate, upstream, issuer, dir }
    }

    /// A token with [`SCOPES`] and these claims besides.
    pub(crate) fn token(&self, claims: serde_json::Value) -> String {
        self.issuer.token(claims)
    }

    /// A request for generated text, with `token`, through Envoy.
    pub(crate) fn chat(&self, token: &str) -> Reply {
        self.envoy.send(&chat(token))
    }
}

/// A request for generated text.
pub(crate) fn chat(token: &str) -> Request {
    Request::post("/v1/chat/completions", CHAT).bearer(token)
}
