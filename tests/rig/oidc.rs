//! A real OpenID Connect server: npm's `oidc-provider`, with the configuration of `tests/oidc`.

use std::{
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tollgate_testkit::{KeyPair, proof};

use super::{
    http::{Reply, Request},
    issuer::now,
    part,
    process::Process,
};

/// The secret of every client.
pub(crate) const SECRET: &str = "a-secret-of-the-tests";

/// Puts a script of `tests/oidc` into a directory, from which it finds the modules of a part.
pub(crate) fn script(dir: &Path, name: &str, text: &str, part: &str) -> PathBuf {
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join(".parts").join(part);
    let modules = modules.join("node_modules");
    assert!(modules.exists(), "`{part}` is missing: run `tools/parts {part}`");
    let place = dir.join(part);
    std::fs::create_dir_all(&place).unwrap();
    symlink(modules, place.join("node_modules")).unwrap();
    let path = place.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// A running provider.
pub(crate) struct Provider {
    _process: Process,
    pub(crate) port: u16,
}

impl Provider {
    /// Starts it. `redirect` is the address that the client `web` is sent back to.
    pub(crate) fn start(dir: &Path, redirect: Option<&str>) -> Self {
        let text = include_str!("../oidc/provider.mjs");
        let path = script(dir, "provider.mjs", text, "oidc");
        let mut command = Command::new(part("node", "oidc"));
        command.arg(path).arg(redirect.unwrap_or("-"));
        let mut process = Process::start(dir, "oidc", &mut command);
        let port = process.until("its port", |process| process.out().trim().parse().ok());
        Self { _process: process, port }
    }

    pub(crate) fn issuer(&self) -> String {
        format!("http://localhost:{}", self.port)
    }

    /// Posts a form as a client.
    pub(crate) fn post(&self, path: &str, client: &str, form: &str) -> Reply {
        self.request(path, client, form).send(self.port)
    }

    /// The request that posts a form as a client.
    fn request(&self, path: &str, client: &str, form: &str) -> Request {
        let basic = STANDARD.encode(format!("{client}:{SECRET}"));
        Request::new("POST", path)
            .without("host")
            .header("Host", &format!("localhost:{}", self.port))
            .header("Authorization", &format!("Basic {basic}"))
            .header("Content-Type", "application/x-www-form-urlencoded")
            .body(form)
    }

    /// A token of the client `machine` for a resource, which is bound to a key.
    pub(crate) fn bound_token(&self, resource: &str, key: &KeyPair) -> String {
        let uri = format!("{}/token", self.issuer());
        let jti = format!("{:032x}", rand::random::<u128>());
        let proof = proof(key, ("POST", &uri), "", now(), &jti).unwrap();
        let proof = proof.claims(json!({ "ath": null })).sign(key).unwrap();
        let form = format!("grant_type=client_credentials&scope=infer:text&resource={resource}");
        let request = self.request("/token", "machine", &form).header("DPoP", &proof);
        let reply = request.send(self.port);
        assert_eq!(reply.status, 200, "{}", reply.text());
        let answer = reply.json();
        assert_eq!(answer["token_type"], "DPoP", "{answer}");
        answer["access_token"].as_str().unwrap().to_owned()
    }

    /// A token of the client `machine` for a resource, and what the provider answers beside it.
    pub(crate) fn token(&self, resource: &str) -> (String, Value) {
        let form = format!("grant_type=client_credentials&scope=infer:text&resource={resource}");
        let reply = self.post("/token", "machine", &form);
        assert_eq!(reply.status, 200, "{}", reply.text());
        let answer = reply.json();
        (answer["access_token"].as_str().unwrap().to_owned(), answer)
    }

    /// Replaces the keys.
    pub(crate) fn rotate(&self) {
        assert_eq!(Request::new("POST", "/test/rotate").send(self.port).status, 200);
    }
}
