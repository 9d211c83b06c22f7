//! The way to a key server as enterprises have it: a forward proxy, credentials, and a certificate that
//! is its own authority.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};
use tokio_rustls::TlsAcceptor;
use tollgate_testkit::wait::until_async;

use super::{
    rig::{Rig, error_becomes, jwks, keys_become},
    server::{Answer, KeyServer, key_set, redirect},
    tls::acceptor,
};
use crate::rig::process::Process;

/// A forward proxy that requires a user and a password, and records what it is asked for.
struct ForwardProxy {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    task: AbortHandle,
}

impl Drop for ForwardProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ForwardProxy {
    async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let recorded = Arc::clone(&heads);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, Arc::clone(&recorded)));
            }
        });
        Self { address, heads, task: task.abort_handle() }
    }

    fn url(&self, user: &str) -> String {
        format!("http://{user}@{}", self.address)
    }

    fn first(&self) -> String {
        self.heads.lock().unwrap().first().cloned().unwrap_or_default()
    }
}

async fn serve(mut stream: TcpStream, heads: Arc<Mutex<Vec<String>>>) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head).unwrap();
    heads.lock().unwrap().push(head.clone());
    // printf bob:hunter2 | base64
    if !head.contains("proxy-authorization: Basic Ym9iOmh1bnRlcjI=\r\n") {
        let refusal = "HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n";
        return stream.write_all(refusal.as_bytes()).await;
    }
    if head.contains("/moved ") {
        let moved = "HTTP/1.1 302 Found\r\nlocation: https://idp.example:8443/keys\r\n\
                     content-length: 0\r\n\r\n";
        return stream.write_all(moved.as_bytes()).await;
    }
    let Some(target) = head.strip_prefix("CONNECT ") else {
        let keys = key_set(&["forwarded"]);
        let length = keys.len();
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{keys}");
        return stream.write_all(answer.as_bytes()).await;
    };
    let target = target.split(' ').next().unwrap();
    let mut upstream = TcpStream::connect(target).await?;
    stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
    copy_bidirectional(&mut stream, &mut upstream).await.map(drop)
}

/// Makes a self-signed certificate as `openssl req -x509` does: it is marked as an authority's.
fn self_signed(names: &[&str], last_year: i32) -> (String, TlsAcceptor) {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(last_year, 1, 1);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    (certificate.pem(), acceptor(&certificate, &key))
}

fn write(directory: &Path, name: &str, content: &str) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, content).unwrap();
    path
}

fn https(server: &KeyServer, ca: &Path) -> Value {
    json!({ "url": format!("https://localhost:{}/keys", server.address.port()), "ca": ca })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_its_own_authority_is_accepted_by_its_name_and_its_times() {
    let directory = tempfile::tempdir().unwrap();
    for (what, names, last_year, expected) in [
        ("good", "localhost", 2200, Ok(())),
        ("of another name", "idp.example", 2200, Err("only for idp.example")),
        ("expired", "localhost", 2021, Err("the certificate has expired")),
    ] {
        let (pem, acceptor) = self_signed(&[names], last_year);
        let server = KeyServer::start_tls(acceptor).await;
        server.answer(Answer::Keys(&["a"]));
        let (rig, source) = Rig::one(&https(&server, &write(directory.path(), "own.pem", &pem)));
        rig.sources.tried().await;
        let status = source.status();
        match expected {
            Ok(()) => assert_eq!(status.kids, ["a"], "{what}: {status:?}"),
            Err(words) => {
                let error = status.last_error.unwrap();
                assert!(error.contains(words), "{what}: {error}");
            }
        }
    }
    // Another certificate of the same name is not trusted.
    let (pem, _) = self_signed(&["localhost"], 2200);
    let (_, acceptor) = self_signed(&["localhost"], 2200);
    let server = KeyServer::start_tls(acceptor).await;
    let (rig, source) = Rig::one(&https(&server, &write(directory.path(), "other.pem", &pem)));
    rig.sources.tried().await;
    let error = source.status().last_error.unwrap();
    assert!(error.contains("the certificate") && !error.contains("Other("), "{error}");
    assert!(source.current().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn https_goes_through_a_tunnel_of_the_proxy() {
    let directory = tempfile::tempdir().unwrap();
    let proxy = ForwardProxy::start().await;
    let (pem, acceptor) = self_signed(&["localhost"], 2200);
    let server = KeyServer::start_tls(acceptor).await;
    server.answer(Answer::Keys(&["a"]));
    let mut jwks = https(&server, &write(directory.path(), "own.pem", &pem));
    jwks["proxy"] = json!(proxy.url("bob:hunter2"));
    let (_rig, source) = Rig::one(&jwks);
    keys_become(&source, &["a"]).await;
    let head = proxy.first();
    let to = format!("localhost:{}", server.address.port());
    assert!(head.starts_with(&format!("CONNECT {to} HTTP/1.1\r\n")), "{head}");
    let request = &server.requests()[0].head;
    assert!(request.starts_with("GET /keys HTTP/1.1\r\n"), "{request}");
    assert!(!request.contains("proxy-authorization"), "{request}");
}

/// The environment is that of a process, which a test cannot change for itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_takes_the_proxy_of_its_environment_and_no_proxy_for_the_named_hosts() {
    let directory = tempfile::tempdir().unwrap();
    let proxy = ForwardProxy::start().await;
    let (pem, acceptor) = self_signed(&["localhost"], 2200);
    let server = KeyServer::start_tls(acceptor).await;
    server.answer(Answer::Keys(&["a"]));
    let to = format!("localhost:{}", server.address.port());
    let ca = write(directory.path(), "own.pem", &pem);
    let config = format!(
        "listen: {{ http: [{{ address: \"127.0.0.1:0\", dialect: caddy, body: deny }}], ops: \"127.0.0.1:0\" }}\n\
         issuers:\n  \
         - issuer: https://idp.example\n    \
           audiences: any\n    \
           algorithms: [ES256]\n    \
           jwks: {{ url: \"https://{to}/keys\", ca: \"{}\" }}\n\
         routes: [{{ match: {{ methods: [GET], paths: [/a] }}, scopes: [] }}]\n",
        ca.display()
    );
    let config = write(directory.path(), "tollgate.yaml", &config);
    let start = |name: &str, variables: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
        command.args(["serve", "--config"]).arg(&config);
        for name in ["HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"] {
            command.env_remove(name);
        }
        command.envs(variables.iter().copied());
        Process::start(directory.path(), name, &mut command)
    };
    let url = proxy.url("bob:hunter2");
    for (name, variables) in [
        ("upper", vec![("HTTPS_PROXY", url.as_str())]),
        ("lower", vec![("https_proxy", url.as_str()), ("no_proxy", "other.example")]),
    ] {
        let before = (proxy.heads.lock().unwrap().len(), server.requests().len());
        let process = start(name, &variables);
        let fetched = async || (server.requests().len() > before.1).then_some(());
        until_async("the fetch through the proxy", fetched).await;
        let heads = proxy.heads.lock().unwrap().clone();
        assert_eq!(heads.len(), before.0 + 1, "{name}: {heads:?}");
        assert!(heads[before.0].starts_with(&format!("CONNECT {to} HTTP/1.1\r\n")), "{heads:?}");
        assert!(!process.err().contains("hunter2"), "{}", process.err());
    }
    let before = (proxy.heads.lock().unwrap().len(), server.requests().len());
    let _process = start("direct", &[("HTTPS_PROXY", &url), ("NO_PROXY", "x.example, localhost")]);
    let fetched = async || (server.requests().len() > before.1).then_some(());
    until_async("the fetch without the proxy", fetched).await;
    assert_eq!(proxy.heads.lock().unwrap().len(), before.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_is_forwarded_by_the_proxy() {
    let proxy = ForwardProxy::start().await;
    let secret = tempfile::tempdir().unwrap();
    let file = write(secret.path(), "proxy", &format!("{}\n", proxy.url("bob:hunter2")));
    let more = json!({ "proxy": format!("file:{}", file.display()) });
    let (_rig, source) = Rig::one(&jwks("http://idp.example/keys?x=1", more));
    keys_become(&source, &["forwarded"]).await;
    let head = proxy.first();
    assert!(head.starts_with("GET http://idp.example/keys?x=1 HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("host: idp.example\r\n"), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_proxy_is_told_without_its_password() {
    let proxy = ForwardProxy::start().await;
    let closed = ForwardProxy::start().await;
    let nowhere = closed.url("bob:hunter2");
    drop(closed);
    for (address, words) in [
        (proxy.url("bob:hunter3"), "answered 407 Proxy Authentication Required to CONNECT"),
        (nowhere, "no connection to the proxy `127.0.0.1:"),
        ("https://bob:hunter2@proxy.example".to_owned(), "is not an http:// address"),
        ("::::hunter2".to_owned(), "`proxy` is not an address"),
    ] {
        let (_rig, source) = Rig::one(&json!({ "url": "https://idp.example/k", "proxy": address }));
        error_becomes(&source, words).await;
        assert!(!format!("{:?}", source.status()).contains("hunter"), "{words}");
    }
}

/// A proxy resolves names, so that the rule for addresses of other ports cannot be applied.
#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_through_a_proxy_leads_to_named_addresses_only() {
    let proxy = ForwardProxy::start().await;
    let more = json!({ "proxy": proxy.url("bob:hunter2") });
    let (_rig, source) = Rig::one(&jwks("http://idp.example/moved", more));
    error_becomes(&source, "`https://idp.example:8443` is not the configured address").await;
    let more = json!({
        "proxy": proxy.url("bob:hunter2"), "allowed_hosts": ["idp.example:8443"],
    });
    let (_rig, source) = Rig::one(&jwks("http://idp.example/moved", more));
    // It is fetched through the proxy, which cannot resolve the name.
    error_becomes(&source, "no whole answer from the proxy").await;
    let heads = proxy.heads.lock().unwrap().clone();
    assert!(heads.iter().any(|head| head.starts_with("CONNECT idp.example:8443 ")), "{heads:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_read_again_and_sent_to_the_configured_host_only() {
    let directory = tempfile::tempdir().unwrap();
    let token = write(directory.path(), "token", "first\n");
    let (server, other) = (KeyServer::start().await, KeyServer::start().await);
    server.answer(Answer::Keys(&["a"]));
    other.answer(Answer::Keys(&["b"]));
    let more = json!({
        "refresh": "50ms",
        "bearer": format!("file:{}", token.display()),
        "headers": { "X-Api-Key": "hunter2" },
        "allowed_hosts": [other.address.to_string()],
    });
    let (rig, source) = Rig::one(&jwks(&server.url(), more));
    keys_become(&source, &["a"]).await;
    let head = server.requests()[0].head.to_ascii_lowercase();
    assert!(head.contains("authorization: bearer first\r\n"), "{head}");
    assert!(head.contains("x-api-key: hunter2\r\n"), "{head}");
    std::fs::write(&token, "second\n").unwrap();
    super::rig::eventually(
        || server.requests().last().unwrap().head.contains("Bearer second\r\n"),
        || "the new token".into(),
    )
    .await;
    server.answer(redirect(other.url()));
    keys_become(&source, &["b"]).await;
    let head = other.requests()[0].head.to_ascii_lowercase();
    assert!(!head.contains("authorization") && !head.contains("x-api-key"), "{head}");
    std::fs::remove_file(&token).unwrap();
    error_becomes(&source, "`jwks.bearer`: the secret file").await;
    assert!(!format!("{:?} {:?}", rig.sources, source.status()).contains("hunter2"));
}
