//! The locations that the controller of ingress-nginx makes of the shipped annotations, in a real
//! nginx. The controller itself does not run here.

use std::{fmt::Write as _, process::Command};

use serde_json::Value;

use super::{documents, only, read};
use crate::rig::{
    free_port, http::Request, issuer::Issuer, part, process::Process, tollgate::Tollgate,
    upstream::Upstream,
};

const POLICY: &str = r#"
listen:
  ops: "127.0.0.1:0"
  grpc: "unix:${DIR}/authz.sock"
  http: [{ address: "127.0.0.1:0", dialect: nginx, body: none }]
issuers:
  - issuer: https://auth.example.com
    audiences: [inference-api]
    algorithms: [RS256]
    jwks: { file: "${DIR}/jwks.json" }
routes:
  - match: { hosts: [api.example.com], methods: [POST], paths: [/v1/chat/completions] }
    scopes: [infer:text]
  - match: { paths: [/health] }
    public: true
"#;

/// The part of the controller's template that concerns authorization.
fn controller(ingress: &Value, headers: &Value, port: u16, tollgate: u16, upstream: u16) -> String {
    let annotation = |name: &str| {
        ingress["metadata"]["annotations"][format!("nginx.ingress.kubernetes.io/{name}")]
            .as_str()
            .unwrap()
    };
    let url = annotation("auth-url")
        .replace("tollgate.tollgate.svc.cluster.local:9001", &format!("127.0.0.1:{tollgate}"));
    let mut check = String::new();
    for (name, value) in headers["data"].as_object().unwrap() {
        writeln!(check, "proxy_set_header '{name}' '{}';", value.as_str().unwrap()).unwrap();
    }
    let mut copied = String::new();
    for (n, name) in annotation("auth-response-headers").split(',').enumerate() {
        let variable = name.to_lowercase().replace('-', "_");
        writeln!(copied, "auth_request_set $authHeader{n} $upstream_http_{variable};\nproxy_set_header '{name}' $authHeader{n};")
            .unwrap();
    }
    format!(
        r#"
server {{
    listen 127.0.0.1:{port};
    client_max_body_size {};
    location = /_external-auth {{
        internal;
        proxy_pass_request_body off;
        proxy_set_header Content-Length "";
        proxy_set_header X-Forwarded-Proto "";
        proxy_set_header X-Request-ID $request_id;
        proxy_set_header Host tollgate.tollgate.svc.cluster.local;
        proxy_set_header X-Original-URL $scheme://$http_host$request_uri;
        proxy_set_header X-Original-Method $request_method;
        proxy_set_header X-Sent-From "nginx-ingress-controller";
        proxy_set_header X-Real-IP $remote_addr;
        proxy_set_header X-Forwarded-For $remote_addr;
        proxy_set_header X-Auth-Request-Redirect $request_uri;
        proxy_http_version 1.1;
        {check}
        set $target {url};
        proxy_pass $target;
    }}
    location / {{
        auth_request /_external-auth;
        {copied}
        proxy_set_header Host $http_host;
        proxy_set_header X-Real-IP $remote_addr;
        proxy_set_header X-Forwarded-For $remote_addr;
        proxy_buffering {};
        proxy_pass http://127.0.0.1:{upstream};
    }}
}}
"#,
        annotation("proxy-body-size"),
        annotation("proxy-buffering"),
    )
}

#[test]
fn the_annotations_make_nginx_send_checks_that_tollgate_reads() {
    let dir = tempfile::tempdir().unwrap();
    let issuer = Issuer::new("https://auth.example.com");
    issuer.publish(dir.path());
    let upstream = Upstream::start();
    let tollgate = Tollgate::start(dir.path(), POLICY);
    let (port, here) = (free_port(), dir.path().display().to_string());

    let shipped = documents(&read("deploy/ingress-nginx/ingress.yaml"));
    let ingress = only(&shipped, "Ingress");
    let map = only(&shipped, "ConfigMap");
    let named = format!(
        "{}/{}",
        map["metadata"]["namespace"].as_str().unwrap(),
        map["metadata"]["name"].as_str().unwrap()
    );
    assert_eq!(
        ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/auth-proxy-set-headers"],
        named
    );

    let server = controller(ingress, map, port, tollgate.http_port(), upstream.port);
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|of| format!("{of}_temp_path {here}/{of};"))
        .join(" ");
    let config = format!(
        "pid {here}/nginx.pid; events {{}} http {{ access_log off; {temporary} {server} }}"
    );
    let path = dir.path().join("nginx.conf");
    std::fs::write(&path, config).unwrap();
    let mut command = Command::new(part("nginx", "nginx"));
    command
        .args(["-e", "stderr", "-g", "daemon off; master_process off;", "-p"])
        .arg(dir.path())
        .arg("-c")
        .arg(path);
    let mut nginx = Process::start(dir.path(), "nginx", &mut command);
    nginx.until("an answer", |_| {
        Request::get("/health").try_send(port).filter(|reply| reply.status == 200).map(drop)
    });
    upstream.taken();

    let chat = Request::post("/v1/chat/completions?n=1", "{}").header("X-Tollgate-Subject", "root");
    let token = issuer.token(serde_json::json!({ "sub": "alice" }));
    assert_eq!(chat.clone().bearer(&token).send(port).status, 200);
    let seen = upstream.only();
    assert_eq!(seen.all("x-tollgate-subject"), ["alice"], "the forged one is replaced");
    assert!(seen.all("authorization").is_empty(), "the token stays here");
    assert!(seen.all("x-tollgate-tenant").is_empty());

    assert_eq!(chat.send(port).status, 401);
    assert_eq!(Request::get("/slots").bearer(&token).send(port).status, 403);
    let elsewhere = chat.without("host").header("Host", "other.example.com").bearer(&token);
    assert_eq!(elsewhere.send(port).status, 403, "the host is the client's");
    assert!(upstream.taken().is_empty());
}
