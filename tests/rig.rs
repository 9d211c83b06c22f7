//! Real parts for the end-to-end tests: Tollgate's binary, Envoy with the shipped configuration,
//! Redis, an upstream and key servers.
//!
//! Every part listens on loopback or on a Unix socket in a temporary directory, writes its log
//! there, and is ended when its value is dropped. A test that fails prints the logs of its parts.

pub(crate) mod envoy;
pub(crate) mod grpc;
pub(crate) mod http;
pub(crate) mod http2_frames;
pub(crate) mod issuer;
pub(crate) mod model_server;
pub(crate) mod oidc;
pub(crate) mod process;
pub(crate) mod prometheus;
pub(crate) mod python;
pub(crate) mod redis;
pub(crate) mod schemathesis;
pub(crate) mod tollgate;
pub(crate) mod upstream;
pub(crate) mod websocket;

use std::{
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU16, Ordering},
};

use tempfile::TempDir;
use tollgate_core::{credential::api_key::GeneratedKey, time::rfc3339::Rfc3339};
pub(crate) use tollgate_testkit::wait::{SOON, until, within};

use self::{
    envoy::Envoy,
    http::{Reply, Request},
    issuer::Issuer,
    tollgate::Tollgate,
    upstream::Upstream,
};

/// A program that `tools/parts` sets up.
pub(crate) fn part(program: &str, part: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".parts/bin").join(program);
    assert!(path.exists(), "`{program}` is missing: run `tools/parts {part}`");
    path
}

/// Replaces a text that a shipped file contains exactly once outside of comments.
pub(crate) fn replace_once(config: String, old: &str, new: &str) -> String {
    let uncommented = |line: &&str| !line.trim_start().starts_with('#');
    let count =
        config.split_inclusive('\n').filter(uncommented).collect::<String>().matches(old).count();
    assert_eq!(count, 1, "the shipped file should have `{old}` exactly once");
    config.replace(old, new)
}

/// A free port, for a server that cannot report which port the system chose. It is below the range
/// of outgoing connections, so that none of them takes it before the server does.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let start = u16::try_from(std::process::id() % 9000).unwrap();
        let port = 18_000 + start.wrapping_add(step) % 12_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// The policy that most tests start from. `${DIR}` is the rig's directory.
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

/// The scopes that every route of [`POLICY`] needs, for the model `qwen`.
pub(crate) const SCOPES: &str = "infer:text model:qwen:inference";

/// A body whose model is that of [`SCOPES`].
pub(crate) const CHAT: &str = r#"{"model":"qwen","messages":[{"role":"user","content":"hi"}]}"#;

/// An upstream, Tollgate and Envoy, with one issuer whose keys are in a file.
pub(crate) struct Rig {
    // Dropped in this order: the proxy first, the directory with the logs last.
    pub(crate) envoy: Envoy,
    pub(crate) tollgate: Tollgate,
    pub(crate) upstream: Upstream,
    pub(crate) issuer: Issuer,
    pub(crate) dir: TempDir,
}

impl Rig {
    /// Starts them with the shipped Envoy configuration.
    pub(crate) fn start(config: &str) -> Self {
        Self::with(config, |envoy| envoy)
    }

    /// Starts them with an edited Envoy configuration.
    pub(crate) fn with(config: &str, edit: impl FnOnce(String) -> String) -> Self {
        Self::on(envoy::CURRENT, config, edit)
    }

    /// Starts them with a version of Envoy and an edited configuration.
    pub(crate) fn on(version: &str, config: &str, edit: impl FnOnce(String) -> String) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let issuer = Issuer::new("https://auth.example.com");
        issuer.publish(dir.path());
        let upstream = Upstream::start();
        if envoy::is_embedded(version) {
            Tollgate::write_embedded(dir.path(), config);
            let mut envoy = Envoy::start(dir.path(), upstream.port, version, edit);
            let tollgate = Tollgate::inside(dir.path(), &mut envoy.process);
            return Self { envoy, tollgate, upstream, issuer, dir };
        }
        let tollgate = Tollgate::start(dir.path(), config);
        let envoy = Envoy::start(dir.path(), upstream.port, version, edit);
        Self { envoy, tollgate, upstream, issuer, dir }
    }

    /// A token with [`SCOPES`] and these claims.
    pub(crate) fn token(&self, claims: serde_json::Value) -> String {
        self.issuer.token(claims)
    }

    /// A request for generated text, with `token`, through Envoy.
    pub(crate) fn chat(&self, token: &str) -> Reply {
        self.envoy.send(&chat(token))
    }
}

/// An API key with [`SCOPES`] of the subject `ci`, and the file of keys that has its record.
pub(crate) fn api_key_file(dir: &Path) -> (String, PathBuf) {
    let key = GeneratedKey::new(&[7; 16], &[9; 32]);
    let created = Rfc3339(::tollgate::observe::now());
    let record = serde_json::json!({
        "id": key.id(),
        "digest": key.digest(),
        "subject": "ci",
        "tenant": "acme",
        "scopes": SCOPES.split(' ').collect::<Vec<_>>(),
        "created": created,
    });
    let file = dir.join("keys.json");
    std::fs::write(&file, serde_json::json!({ "keys": [record] }).to_string()).unwrap();
    (key.expose().to_owned(), file)
}

/// A request for generated text.
pub(crate) fn chat(token: &str) -> Request {
    Request::post("/v1/chat/completions", CHAT).bearer(token)
}
