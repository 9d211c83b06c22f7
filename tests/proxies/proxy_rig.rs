//! Tollgate and one proxy with the configuration from `deploy/`, in which only addresses and paths
//! are replaced.

use std::{path::Path, process::Command};

use tempfile::TempDir;

use crate::rig::{
    free_port,
    http::{Reply, Request},
    issuer::Issuer,
    part,
    process::Process,
    replace_once,
    tollgate::{ADMIN_TOKEN, Tollgate},
    upstream::Upstream,
};

/// The policy of the tests. `${DIR}` is the rig's directory.
pub(crate) const POLICY: &str = r#"
issuers:
  - issuer: https://auth.example.com
    audiences: [inference-api]
    algorithms: [RS256]
    jwks: { file: "${DIR}/jwks.json" }
body: { max: 256KiB, max_in_flight: 8MiB }
models:
  - { name: qwen, serves: [qwen] }
  - { name: big, serves: [big-70b] }
limits:
  - { name: tight, by: [subject], rate: 1/1h, burst: 1 }
  - { name: by-address, by: [address], rate: 1000/1s }
routes:
  - match: { methods: [POST], paths: [/v1/chat/completions] }
    name: generate
    scopes: [infer:text]
    model: { from: body, scope: "model:{model}:inference" }
  - match: { methods: [GET], paths: [/v1/models] }
    name: models
    scopes: []
  - match: { methods: [POST], paths: [/v1/upload] }
    name: upload
    scopes: []
  - match: { methods: [GET], paths: ["/v1/models/{model*}"] }
    name: model
    scopes: []
    model: { from: "path:model" }
  - match: { methods: [GET], paths: [/v1/admin] }
    name: admin
    scopes: [admin]
  - match: { methods: [GET], paths: [/v1/limited] }
    name: limited
    scopes: []
    limits: [tight]
  - match: { methods: [GET], paths: [/v1/addressed] }
    name: addressed
    scopes: []
    limits: [by-address]
  - match: { methods: [GET], paths: [/v1/forwarded] }
    name: forwarded
    scopes: []
    forward_credential: true
  - match: { methods: [GET], paths: [/v1/keyed] }
    name: keyed
    scopes: []
    upstream_key: upstream-key-0123456789
  - match: { hosts: [status.example.com], paths: [/v1/models] }
    name: status
    public: true
  - match: { paths: [/health, "/public/*"] }
    name: public
    public: true
"#;

/// The proxies, and the ways in which they call Tollgate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `auth_request`, with the system's nginx.
    Nginx,
    /// `auth_request`, with a newer nginx.
    NewNginx,
    /// njs in nginx.
    Njs,
    /// The same with reports of usage.
    NjsMetered,
    Traefik,
    Caddy,
    Haproxy,
    EnvoyHttp,
}

impl Kind {
    fn dialect(self) -> &'static str {
        match self {
            Self::Nginx | Self::NewNginx | Self::Njs | Self::NjsMetered => "nginx",
            Self::Traefik => "traefik",
            Self::Caddy => "caddy",
            Self::Haproxy => "haproxy",
            Self::EnvoyHttp => "envoy_http",
        }
    }

    /// Whether the shipped configuration sends bodies.
    pub(crate) fn sends_bodies(self) -> bool {
        !matches!(self, Self::Nginx | Self::NewNginx | Self::Caddy)
    }

    /// Whether it calls Tollgate over TCP, and not over a Unix socket.
    fn calls_over_tcp(self) -> bool {
        matches!(self, Self::Traefik | Self::Haproxy)
    }
}

/// A proxy, its Tollgate, an issuer and an upstream.
pub(crate) struct ProxyRig {
    // Dropped in this order: the proxy first, the directory with the logs last.
    pub(crate) proxy: Process,
    pub(crate) port: u16,
    pub(crate) tollgate: Tollgate,
    pub(crate) upstream: Upstream,
    pub(crate) issuer: Issuer,
    pub(crate) dir: TempDir,
}

impl ProxyRig {
    pub(crate) fn start(kind: Kind) -> Self {
        Self::with(kind, POLICY, |config| config)
    }

    /// Starts them with another policy and an edited configuration of the proxy.
    pub(crate) fn with(kind: Kind, policy: &str, edit: impl FnOnce(String) -> String) -> Self {
        Self::build(kind, policy, None, edit)
    }

    /// Starts them in front of another upstream.
    pub(crate) fn before(kind: Kind, upstream: u16) -> Self {
        Self::build(kind, POLICY, Some(upstream), |config| config)
    }

    pub(crate) fn build(
        kind: Kind,
        policy: &str,
        other: Option<u16>,
        edit: impl FnOnce(String) -> String,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let issuer = Issuer::new("https://auth.example.com");
        issuer.publish(dir.path());
        let upstream = Upstream::start();
        let tollgate = Tollgate::start(dir.path(), &format!("{}{policy}", listen(kind)));
        let check_port = if kind.calls_over_tcp() { tollgate.http_port() } else { 0 };
        let port = free_port();
        let parts =
            Parts { dir: dir.path(), port, check_port, upstream: other.unwrap_or(upstream.port) };
        let mut proxy = parts.start(kind, edit);
        // Traefik answers 404 until it has read its routes.
        let ready = |reply: &Reply| reply.status < 500 && reply.status != 404;
        proxy
            .until("an answer", |_| Request::get("/health").try_send(port).filter(ready).map(drop));
        upstream.taken();
        Self { proxy, port, tollgate, upstream, issuer, dir }
    }

    pub(crate) fn send(&self, request: &Request) -> Reply {
        request.send(self.port)
    }

    /// A token with the scopes of the route `generate` and the model `qwen`.
    pub(crate) fn token(&self) -> String {
        self.issuer.token(serde_json::json!({}))
    }

    /// The log of the proxy.
    pub(crate) fn log(&self) -> String {
        format!("{}{}", self.proxy.err(), self.proxy.out())
    }
}

/// The section `listen` of Tollgate.
fn listen(kind: Kind) -> String {
    let address = if kind.calls_over_tcp() { "127.0.0.1:0" } else { "unix:${DIR}/http.sock" };
    let body = if kind.sends_bodies() { "sent" } else { "deny" };
    let (settlement, settle) = match kind {
        Kind::NjsMetered => ("reported", "  settle: { address: \"unix:${DIR}/settle.sock\" }\n"),
        _ => ("expiry", ""),
    };
    format!(
        "listen:\n  grpc: \"unix:${{DIR}}/authz.sock\"\n  ops: \"127.0.0.1:0\"\n  admin: {{ address: \"127.0.0.1:0\", token: {ADMIN_TOKEN} }}\n  http: [ {{ address: \"{address}\", dialect: {}, body: {body}, settlement: {settlement} }} ]\n{settle}",
        kind.dialect()
    )
}

struct Parts<'a> {
    dir: &'a Path,
    port: u16,
    check_port: u16,
    upstream: u16,
}

impl Parts<'_> {
    fn start(&self, kind: Kind, edit: impl FnOnce(String) -> String) -> Process {
        let Self { dir, port, check_port, upstream } = *self;
        let here = dir.display();
        let (listen, upstream) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{upstream}"));
        let (socket, url) =
            (format!("unix:{here}/http.sock"), format!("http://127.0.0.1:{check_port}/check"));
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
        let read = |path: &str| std::fs::read_to_string(shipped.join(path)).unwrap();
        let write = |name: &str, text: String| {
            let path = dir.join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let mut command;
        match kind {
            Kind::Nginx | Kind::NewNginx | Kind::Njs | Kind::NjsMetered => {
                let name = match kind {
                    Kind::Njs => "nginx/njs.conf",
                    Kind::NjsMetered => "nginx/njs-metered.conf",
                    _ => "nginx/auth_request.conf",
                };
                let mut config = replace_once(read(name), "0.0.0.0:8080;", &format!("{listen};"));
                config = replace_once(
                    config,
                    "server unix:/run/tollgate/nginx.sock",
                    &format!("server {socket}"),
                );
                config =
                    replace_once(config, "server 127.0.0.1:8000", &format!("server {upstream}"));
                config = replace_once(
                    config,
                    "pid /run/nginx-tollgate.pid",
                    &format!("pid {here}/nginx.pid"),
                );
                config = replace_once(
                    config,
                    "worker_processes auto;",
                    "worker_processes 1; master_process off;",
                );
                if kind == Kind::NjsMetered {
                    config = replace_once(
                        config,
                        "http://unix:/run/tollgate/settle.sock:",
                        &format!("http://unix:{here}/settle.sock:"),
                    );
                    config = replace_once(config, "settle interval=1s", "settle interval=100ms");
                    config = replace_once(config, "renew interval=10s", "renew interval=300ms");
                }
                if matches!(kind, Kind::Njs | Kind::NjsMetered) {
                    config = replace_once(
                        config,
                        "js_path /etc/nginx/tollgate",
                        &format!("js_path {}/nginx", shipped.display()),
                    );
                }
                // nginx's own directories are not writable for every user.
                let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                    .map(|of| format!("{of}_temp_path {here}/{of};"));
                let http = format!("http {{\n    {}", temporary.join(" "));
                config = replace_once(
                    config,
                    "access_log /var/log/nginx/access.log tollgate",
                    &format!("access_log {here}/access.log tollgate"),
                );
                let path = write(
                    "nginx.conf",
                    edit(replace_once(config, "\nhttp {", &format!("\n{http}"))),
                );
                command = Command::new(if kind == Kind::Nginx {
                    part("nginx", "nginx")
                } else {
                    part("nginx-njs", "nginx-njs")
                });
                command
                    .args(["-e", "stderr", "-g", "daemon off;", "-p"])
                    .arg(dir)
                    .arg("-c")
                    .arg(path);
            }
            Kind::Traefik => {
                let config = replace_once(
                    read("traefik/tollgate.yaml"),
                    "\"http://127.0.0.1:9001/check\"",
                    &format!("\"{url}\""),
                );
                let config = replace_once(
                    config,
                    "{ url: \"http://127.0.0.1:8000\" }",
                    &format!("{{ url: \"http://{upstream}\" }}"),
                );
                let routes = write("traefik-routes.yaml", edit(config));
                let config = replace_once(
                    read("traefik/traefik.yaml"),
                    "\"0.0.0.0:8080\"",
                    &format!("\"{listen}\""),
                );
                let config = replace_once(
                    config,
                    "filename: /etc/traefik/tollgate.yaml",
                    &format!("filename: {}", routes.display()),
                );
                command = Command::new(part("traefik", "traefik"));
                command.arg(format!("--configfile={}", write("traefik.yaml", config).display()));
            }
            Kind::Caddy => {
                let config = replace_once(
                    read("caddy/Caddyfile"),
                    "http://:8080 {",
                    &format!("http://:{port} {{\n\tbind 127.0.0.1"),
                );
                let config = replace_once(
                    config,
                    "forward_auth unix//run/tollgate/caddy.sock",
                    &format!("forward_auth unix/{here}/http.sock"),
                );
                let config = replace_once(
                    config,
                    "reverse_proxy 127.0.0.1:8000",
                    &format!("reverse_proxy {upstream}"),
                );
                command = Command::new(part("caddy", "caddy"));
                command
                    .args(["run", "--adapter", "caddyfile", "--config"])
                    .arg(write("Caddyfile", edit(config)));
                command.env("HOME", dir).env("XDG_DATA_HOME", dir).env("XDG_CONFIG_HOME", dir);
            }
            Kind::Haproxy => {
                let config = replace_once(
                    read("haproxy/haproxy.cfg"),
                    "bind 0.0.0.0:8080",
                    &format!("bind {listen}"),
                );
                let config = replace_once(
                    config,
                    "str(http://127.0.0.1:9001/check)",
                    &format!("str({url})"),
                );
                let config = replace_once(
                    config,
                    "server inference 127.0.0.1:8000",
                    &format!("server inference {upstream}"),
                );
                let lua = shipped.join("haproxy/tollgate.lua");
                let config = replace_once(
                    config,
                    "lua-load /etc/haproxy/tollgate.lua",
                    &format!("lua-load {}", lua.display()),
                );
                command = Command::new(part("haproxy", "haproxy"));
                command.arg("-db").arg("-f").arg(write("haproxy.cfg", edit(config)));
            }
            Kind::EnvoyHttp => {
                let address = |port: u16| format!("address: 127.0.0.1, port_value: {port}");
                let config = replace_once(
                    read("envoy/envoy-http.yaml"),
                    "address: 0.0.0.0, port_value: 8080",
                    &address(port),
                );
                let config = replace_once(
                    config,
                    "path: /run/tollgate/envoy-admin.sock",
                    &format!("path: \"{here}/admin.sock\""),
                );
                let config = replace_once(
                    config,
                    "address: 127.0.0.1, port_value: 8000",
                    &address(self.upstream),
                );
                let config = replace_once(
                    config,
                    "path: /run/tollgate/envoy.sock",
                    &format!("path: \"{here}/http.sock\""),
                );
                command = Command::new(part("envoy-1.40.0", "envoy"));
                command.arg("-c").arg(write("envoy-http.yaml", edit(config)));
                command.args([
                    "--disable-hot-restart",
                    "--concurrency",
                    "1",
                    "--log-level",
                    "warning",
                ]);
            }
        }
        Process::start(dir, "proxy", &mut command)
    }
}
