//! A Tollgate that is checked over HTTP, with or without a Redis.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use super::row::Observed;
use crate::rig::{
    http::{Reply, Request},
    issuer::Issuer,
    tollgate::{ADMIN_TOKEN, Tollgate},
};

/// The issuer of the tokens.
pub(super) const ISSUER: &str = "https://auth.example.com";

/// The listeners: checks over HTTP and over gRPC.
const LISTEN: &str = r#"listen:
  grpc: "127.0.0.1:0"
  http: [{ address: "127.0.0.1:0", dialect: traefik }]
  ops: "127.0.0.1:0"
  admin: { address: "127.0.0.1:0", token: TOKEN }
"#;

/// One issuer, and a route without limits.
pub(super) const POLICY: &str = r#"issuers:
  - { issuer: "https://auth.example.com", audiences: [inference-api], algorithms: [RS256], jwks: { file: "${DIR}/jwks.json" } }
routes:
  - { match: { methods: [GET], paths: [/free] }, scopes: [] }
"#;

/// A Tollgate with the issuer of [`POLICY`].
pub(super) struct Rig {
    // Dropped in this order: the directory with the logs last.
    pub(super) tollgate: Tollgate,
    pub(super) issuer: Issuer,
    pub(super) dir: TempDir,
    http: u16,
}

impl Rig {
    /// Starts a Tollgate in an empty directory. `${DIR}` in `config` is that directory.
    pub(super) fn start(config: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), config)
    }

    /// As [`Self::start`], in a directory with files of the test.
    pub(super) fn start_in(dir: TempDir, config: &str) -> Self {
        let issuer = Issuer::new(ISSUER);
        issuer.publish(dir.path());
        let tollgate = Tollgate::start(dir.path(), &with_listeners(config));
        Self::of(tollgate, issuer, dir)
    }

    /// A Tollgate that the test has started.
    pub(super) fn of(tollgate: Tollgate, issuer: Issuer, dir: TempDir) -> Self {
        Self { http: tollgate.http_port(), tollgate, issuer, dir }
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Sends the check of a GET request with this token.
    pub(super) fn get(&self, path: &str, token: &str) -> Reply {
        check(path, token).send(self.http)
    }

    /// A token of a subject.
    pub(super) fn token(&self, subject: &str) -> String {
        self.issuer.token(serde_json::json!({ "sub": subject, "jti": subject }))
    }

    /// Whether the check of a GET request is answered with 200.
    pub(super) fn allows(&self, path: &str, token: &str) -> Option<()> {
        (self.get(path, token).status == 200).then_some(())
    }

    /// The port for checks over HTTP.
    pub(super) fn http(&self) -> u16 {
        self.http
    }
}

/// A configuration with the listeners of the rig.
pub(super) fn with_listeners(config: &str) -> String {
    format!("{}{config}", LISTEN.replace("TOKEN", ADMIN_TOKEN))
}

/// A program in `dir` that runs this line of bash, in which `$TOLLGATE` is the binary.
pub(super) fn script(dir: &Path, line: &str) -> PathBuf {
    let path = dir.join("program");
    let binary = env!("CARGO_BIN_EXE_tollgate");
    std::fs::write(&path, format!("#!/bin/bash\nTOLLGATE={binary}\n{line}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// The check of a GET request, as Traefik sends it.
pub(super) fn check(path: &str, token: &str) -> Request {
    Request::get("/check")
        .header("X-Forwarded-Method", "GET")
        .header("X-Forwarded-Uri", path)
        .header("X-Forwarded-Host", "api.example.com")
        .header("X-Forwarded-Proto", "https")
        .header("X-Forwarded-For", "192.0.2.1")
        .bearer(token)
}

impl Observed for Tollgate {
    fn exposition(&self) -> String {
        self.metrics()
    }

    fn log(&self) -> String {
        self.process.err()
    }

    fn audit_log(&self) -> String {
        self.process.out()
    }
}
