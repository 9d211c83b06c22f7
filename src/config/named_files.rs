//! The files that a configuration names: secrets, key sets, certificates and authorities.

use std::{io, path::Path as FilePath};

use tollgate_core::{
    config::{Errors, Path},
    policy::PolicyConfig,
    route::RouteEntry,
    secret::SecretSource,
};

use super::{File, MAX_KEY_FILE, ServerConfig};
use crate::{
    bounded_file::{self, FileError},
    listener::TlsConfig,
    secrets,
    store::StoreConfig,
};

/// Most bytes of a file that is not a secret.
const MAX_FILE: usize = 4 << 20;

/// Reads every file that the sections name. Returns an error for each that cannot be read.
pub(super) fn unreadable(file: &File) -> Errors {
    let mut check = Check { errors: Errors::default() };
    check.server(&file.server);
    check.policy(&file.policy);
    check.errors
}

struct Check {
    errors: Errors,
}

impl Check {
    fn server(&mut self, server: &ServerConfig) {
        let listen = Path::root().key("listen");
        let grpc = server.listen.grpc.as_ref().and_then(|grpc| grpc.tls.as_ref());
        self.tls(grpc, &listen.key("grpc"));
        self.tls(server.listen.ops.tls.as_ref(), &listen.key("ops"));
        let access_log = server.listen.access_log.as_ref().and_then(|log| log.tls.as_ref());
        self.tls(access_log, &listen.key("access_log"));
        for (index, http) in server.listen.http.iter().enumerate() {
            self.tls(http.tls.as_ref(), &listen.key("http").index(index));
        }
        if let Some(admin) = &server.listen.admin {
            self.tls(admin.tls.as_ref(), &listen.key("admin"));
            self.secret(Some(&admin.token), &listen.key("admin").key("token"));
        }
        if let StoreConfig::Redis(redis) = &server.store {
            let path = Path::root().key("store").key("redis");
            self.secret(redis.password.as_ref(), &path.key("password"));
            self.file(redis.tls_ca.as_ref(), &path.key("tls_ca"));
            let sentinel = redis.sentinel.as_ref().and_then(|sentinel| sentinel.password.as_ref());
            self.secret(sentinel, &path.key("sentinel").key("password"));
        }
        if let Some(tracing) = &server.observe.tracing {
            let path = Path::root().key("observe").key("tracing");
            for (name, value) in &tracing.headers {
                self.secret(Some(value), &path.key("headers").key(name));
            }
            self.file(tracing.tls_ca.as_ref(), &path.key("tls_ca"));
        }
    }

    fn policy(&mut self, policy: &PolicyConfig) {
        for (index, issuer) in policy.issuers.iter().enumerate() {
            let path = Path::root().key("issuers").index(index);
            self.secret(issuer.secret.as_ref(), &path.key("secret"));
            if let Some(section) = &issuer.introspection {
                let path = path.key("introspection");
                self.file(section.ca.as_ref(), &path.key("ca"));
                self.secret(section.client_secret.as_ref(), &path.key("client_secret"));
                self.secret(section.bearer.as_ref(), &path.key("bearer"));
                self.secret(section.proxy.as_ref(), &path.key("proxy"));
            }
            if let Some(jwks) = &issuer.jwks {
                self.file(jwks.file.as_ref(), &path.key("jwks").key("file"));
                self.file(jwks.ca.as_ref(), &path.key("jwks").key("ca"));
                self.secret(jwks.proxy.as_ref(), &path.key("jwks").key("proxy"));
                self.secret(jwks.bearer.as_ref(), &path.key("jwks").key("bearer"));
                for (name, value) in &jwks.headers {
                    self.secret(Some(value), &path.key("jwks").key("headers").key(name));
                }
            }
        }
        if let Some(file) = policy.api_keys.as_ref().and_then(|keys| keys.file.as_ref()) {
            self.readable(file, MAX_KEY_FILE, &Path::root().key("api_keys").key("file"));
        }
        if let Some(section) = &policy.client_certificates {
            let path = Path::root().key("client_certificates").key("authorities");
            self.secret(section.authorities.as_ref(), &path);
        }
        let secrets = policy.metering.iter().flat_map(|metering| &metering.secrets);
        for (index, secret) in secrets.enumerate() {
            self.secret(Some(secret), &Path::root().key("metering").key("secrets").index(index));
        }
        let keys = policy.ledger.iter().flat_map(|ledger| &ledger.keys);
        for (index, key) in keys.enumerate() {
            let path = Path::root().key("ledger").key("keys").index(index).key("secret");
            self.secret(Some(&key.secret), &path);
        }
        let nonce = policy.dpop.iter().flat_map(|section| &section.nonce);
        for (index, secret) in nonce.flat_map(|nonce| &nonce.secrets).enumerate() {
            let path = Path::root().key("dpop").key("nonce").key("secrets");
            self.secret(Some(secret), &path.index(index));
        }
        for (index, route) in policy.routes.iter().enumerate() {
            let path = Path::root().key("routes").index(index).key("upstream_key");
            let key = match route {
                RouteEntry::Preset(preset) => &preset.upstream_key,
                RouteEntry::Explicit(route) => &route.upstream_key,
            };
            self.secret(key.as_ref(), &path);
        }
    }

    fn tls(&mut self, tls: Option<&TlsConfig>, listener: &Path) {
        let Some(tls) = tls else { return };
        let path = listener.key("tls");
        self.file(Some(&tls.cert), &path.key("cert"));
        self.file(Some(&tls.key), &path.key("key"));
        self.file(tls.client_ca.as_ref(), &path.key("client_ca"));
    }

    fn secret(&mut self, secret: Option<&SecretSource>, path: &Path) {
        if let Some(SecretSource::File(file)) = secret {
            self.readable(file.as_ref(), secrets::MAX, path);
        }
    }

    fn file(&mut self, file: Option<&impl AsRef<FilePath>>, path: &Path) {
        let Some(file) = file.map(AsRef::as_ref) else { return };
        self.readable(file, MAX_FILE, path);
    }

    fn readable(&mut self, file: &FilePath, max: usize, path: &Path) {
        if let Err(error) = bounded_file::read_blocking(file, max) {
            let why = Unreadable::from(error);
            self.errors.push(path, format!("the file `{}` {why}", file.display()));
        }
    }
}

/// The reason why a file cannot be read, as the end of a sentence about the file.
#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error("does not exist on this machine")]
    Missing,
    #[error("cannot be read by this user")]
    Forbidden,
    #[error("is {0}, not a regular file")]
    Irregular(&'static str),
    #[error("is larger than {0} bytes")]
    TooLarge(usize),
    #[error("cannot be read: {0}")]
    Other(FileError),
}

impl From<FileError> for Unreadable {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Irregular { kind, .. } => Self::Irregular(kind),
            FileError::TooLarge { max, .. } => Self::TooLarge(max),
            error => match error.io_kind() {
                Some(io::ErrorKind::NotFound) => Self::Missing,
                Some(io::ErrorKind::PermissionDenied) => Self::Forbidden,
                _ => Self::Other(error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::compile;

    #[test]
    fn every_kind_of_file_is_read() {
        let text = r#"
listen:
  grpc: { address: "127.0.0.1:0", tls: { cert: /no/grpc.pem, key: /no/grpc.key, client_ca: /no/grpc-ca.pem } }
  ops: { address: "127.0.0.1:0", tls: { cert: /no/ops.pem, key: /no/ops.key } }
  access_log: { address: "127.0.0.1:0", tls: { cert: /no/log.pem, key: /no/log.key, client_ca: /no/log-ca.pem } }
  http: [{ address: "127.0.0.1:0", dialect: nginx, body: deny, tls: { cert: /no/http.pem, key: /no/http.key } }]
  admin: { address: "127.0.0.1:0", token: "file:/no/token", tls: { cert: /no/admin.pem, key: /no/admin.key } }
store: { redis: { url: "rediss://r", password: "file:/no/password", tls_ca: /no/redis-ca.pem } }
observe:
  tracing: { endpoint: "https://c:4317", tls_ca: /no/trace-ca.pem, headers: { authorization: "file:/no/trace" } }
issuers:
  - { issuer: "https://a", audiences: [x], algorithms: [RS256], jwks: { file: /no/jwks.json } }
  - { issuer: "https://b", audiences: [x], algorithms: [RS256], jwks: { url: "https://b/jwks", ca: /no/ca.pem, cache_file: /no/cache } }
  - { issuer: "https://c", audiences: [x], algorithms: [HS256], secret: "file:/no/secret" }
api_keys: { file: /no/keys.yaml }
metering: { secrets: ["file:/no/metering"] }
routes:
  - { match: { methods: [GET], paths: [/a] }, scopes: [], upstream_key: "file:/no/route" }
  - { preset: vllm, upstream_key: "file:/no/preset" }
audit: { to: "file:/no/audit" }
"#;
        let loaded = compile(text, &|_| None).unwrap();
        let document = tollgate_core::config::Document::parse(text, &|_| None).unwrap();
        let found: Vec<String> = document
            .locate(unreadable(&loaded.file))
            .iter()
            .map(|error| error.to_string().replace("the file `/no/", "`"))
            .collect();
        let is_missing = |line: &&str| format!("{line} does not exist on this machine");
        let expected = [
            "line 3: listen.grpc.tls.cert: `grpc.pem`",
            "line 3: listen.grpc.tls.key: `grpc.key`",
            "line 3: listen.grpc.tls.client_ca: `grpc-ca.pem`",
            "line 4: listen.ops.tls.cert: `ops.pem`",
            "line 4: listen.ops.tls.key: `ops.key`",
            "line 5: listen.access_log.tls.cert: `log.pem`",
            "line 5: listen.access_log.tls.key: `log.key`",
            "line 5: listen.access_log.tls.client_ca: `log-ca.pem`",
            "line 6: listen.http[0].tls.cert: `http.pem`",
            "line 6: listen.http[0].tls.key: `http.key`",
            "line 7: listen.admin.tls.cert: `admin.pem`",
            "line 7: listen.admin.tls.key: `admin.key`",
            "line 7: listen.admin.token: `token`",
            "line 8: store.redis.password: `password`",
            "line 8: store.redis.tls_ca: `redis-ca.pem`",
            "line 10: observe.tracing.headers.authorization: `trace`",
            "line 10: observe.tracing.tls_ca: `trace-ca.pem`",
            "line 12: issuers[0].jwks.file: `jwks.json`",
            "line 13: issuers[1].jwks.ca: `ca.pem`",
            "line 14: issuers[2].secret: `secret`",
            "line 15: api_keys.file: `keys.yaml`",
            "line 16: metering.secrets[0]: `metering`",
            "line 18: routes[0].upstream_key: `route`",
            "line 19: routes[1].upstream_key: `preset`",
        ];
        assert_eq!(found, expected.iter().map(is_missing).collect::<Vec<_>>());
    }

    #[test]
    fn a_directory_is_not_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let read = |file: &FilePath| {
            bounded_file::read_blocking(file, 4)
                .map_err(|error| Unreadable::from(error).to_string())
        };
        let file = directory.path().join("key");
        assert_eq!(read(&file).unwrap_err(), "does not exist on this machine");
        std::fs::write(&file, "x").unwrap();
        assert!(read(&file).is_ok());
        std::fs::write(&file, "too large").unwrap();
        assert_eq!(read(&file).unwrap_err(), "is larger than 4 bytes");
        assert_eq!(read(directory.path()).unwrap_err(), "is a directory, not a regular file");
    }
}
