//! TLS and mTLS on a listener.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, crypto};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tollgate::listener::{
    Address, BindError, Limits, Listener, ListenerConfig, Protocol, TlsConfig,
};

use super::clients::{CHECK, call, http2, message};
use super::servers::{Checks, Running, SOON, Wanted, budget};

/// A certificate authority.
struct Authority(CertifiedIssuer<'static, KeyPair>);

struct Pair {
    cert: String,
    key: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn issue(&self, name: &str) -> Pair {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        Pair { cert: params.signed_by(&key, &self.0).unwrap().pem(), key: key.serialize_pem() }
    }
}

/// The files of a listener.
struct Files(TempDir);

impl Files {
    fn new(pair: &Pair) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.replace(pair);
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn replace(&self, pair: &Pair) {
        fs::write(self.path("cert.pem"), &pair.cert).unwrap();
        fs::write(self.path("key.pem"), &pair.key).unwrap();
    }

    fn trust(&self, authority: &Authority) {
        fs::write(self.path("ca.pem"), authority.0.pem()).unwrap();
    }

    fn config(&self) -> TlsConfig {
        let ca = self.path("ca.pem");
        TlsConfig {
            cert: self.path("cert.pem"),
            key: self.path("key.pem"),
            client_ca: ca.exists().then_some(ca),
        }
    }

    fn wanted(&self) -> Wanted {
        Wanted { tls: Some(self.config()), ..Default::default() }
    }
}

/// Connects as a client that trusts `authority`. Only the first byte shows whether the server
/// accepted the client: in TLS 1.3 a client is done before its certificate is verified.
async fn connect(
    server: &Running,
    authority: &Authority,
    own: Option<&Pair>,
    alpn: &[&[u8]],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.0.der().clone()).unwrap();
    let provider = Arc::new(crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let chain = vec![CertificateDer::from_pem_slice(pair.cert.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let Address::Tcp(address) = server.address else {
        panic!("a TCP listener");
    };
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("tollgate.test").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// The first line of the answer to a request over HTTP/1.1.
async fn ask(
    server: &Running,
    authority: &Authority,
    own: Option<&Pair>,
) -> std::io::Result<String> {
    let mut stream = connect(server, authority, own, &[b"http/1.1"]).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await?;
    let mut line = [0; 15];
    stream.read_exact(&mut line).await?;
    Ok(String::from_utf8_lossy(&line).into_owned())
}

const OK: &str = "HTTP/1.1 200 OK";

#[tokio::test]
async fn the_protocol_is_negotiated_in_the_handshake() {
    let authority = Authority::new();
    let files = Files::new(&authority.issue("tollgate.test"));
    let http = files.wanted().http().await;
    let grpc = files.wanted().grpc(Checks::default(), budget(1 << 20, 4 << 20)).await;
    let rows = [
        (&http, "http/1.1", Some("http/1.1")),
        (&http, "http/1.1 h2", Some("h2")),
        (&http, "", None),
        (&grpc, "h2", Some("h2")),
        (&grpc, "", None),
    ];
    for (server, offered, expected) in rows {
        let alpn: Vec<_> = offered.split_whitespace().map(str::as_bytes).collect();
        let stream = connect(server, &authority, None, &alpn).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), expected.map(str::as_bytes), "`{offered}`");
    }
    assert!(connect(&grpc, &authority, None, &[b"http/1.1"]).await.is_err());

    let mut client = http2(connect(&grpc, &authority, None, &[b"h2"]).await.unwrap()).await;
    let answer = call(&mut client, CHECK, message(100_000)).await.unwrap();
    assert!(matches!(answer, super::clients::Answer::Verdict(0, _)), "{answer:?}");
}

#[tokio::test]
async fn with_client_ca_only_clients_of_that_authority_are_served() {
    let (authority, other) = (Authority::new(), Authority::new());
    let files = Files::new(&authority.issue("tollgate.test"));
    files.trust(&authority);
    let server = files.wanted().http().await;
    let (client, stranger) = (authority.issue("proxy"), other.issue("proxy"));
    assert_eq!(ask(&server, &authority, Some(&client)).await.unwrap(), OK);
    assert!(ask(&server, &authority, None).await.is_err(), "no certificate");
    assert!(
        ask(&server, &authority, Some(&stranger)).await.is_err(),
        "a certificate of another authority"
    );
}

#[tokio::test]
async fn a_reload_changes_new_connections_and_a_bad_one_changes_nothing() {
    let (old, new) = (Authority::new(), Authority::new());
    let files = Files::new(&old.issue("tollgate.test"));
    files.trust(&old);
    let server = files.wanted().http().await;
    let tls = server.tls.as_ref().unwrap();
    let (old_client, new_client) = (old.issue("proxy"), new.issue("proxy"));
    assert_eq!(ask(&server, &old, Some(&old_client)).await.unwrap(), OK);

    let next = new.issue("tollgate.test");
    let bad: [(&str, &str, &str); 6] = [
        (
            "cert.pem",
            next.cert.as_str(),
            "key: the private key in `KEY` does not belong to the certificate in `CERT`; replace both \
             files together",
        ),
        (
            "cert.pem",
            "",
            "cert: `CERT` contains no certificate in PEM, which begins with a line such as \
             -----BEGIN CERTIFICATE-----",
        ),
        (
            "key.pem",
            "not PEM",
            "key: `KEY` contains no private key in PEM, which begins with a line such as \
             -----BEGIN PRIVATE KEY-----",
        ),
        (
            "cert.pem",
            "-----BEGIN CERTIFICATE-----\nMA==\n",
            "cert: the PEM in `CERT` is damaged: a section has no -----END line",
        ),
        ("ca.pem", "", "client_ca: `CA` holds no certificate in PEM"),
        (
            "ca.pem",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "client_ca: `CA` holds a certificate that cannot be used as an authority: ",
        ),
    ];
    for (file, content, expected) in bad {
        let path = files.path(file);
        let good = fs::read(&path).unwrap();
        fs::write(&path, content).unwrap();
        let error = tls.reload().unwrap_err().to_string();
        let shown = [("CERT", "cert.pem"), ("KEY", "key.pem"), ("CA", "ca.pem")];
        let expected = shown.iter().fold(expected.to_owned(), |text, (name, file)| {
            text.replace(&format!("`{name}`"), &format!("`{}`", files.path(file).display()))
        });
        assert!(error.starts_with(&format!("listen.test.tls.{expected}")), "{error}");
        assert_eq!(ask(&server, &old, Some(&old_client)).await.unwrap(), OK, "after {error}");
        fs::write(&path, good).unwrap();
    }

    files.replace(&next);
    files.trust(&new);
    assert_eq!(ask(&server, &old, Some(&old_client)).await.unwrap(), OK, "not reloaded yet");
    // A part of the files is not used: two looks must find the same.
    tls.reload_if_settled().unwrap();
    let written = fs::read(files.path("ca.pem")).unwrap();
    fs::write(files.path("ca.pem"), [&written[..], b"\n"].concat()).unwrap();
    tls.reload_if_settled().unwrap();
    assert_eq!(ask(&server, &old, Some(&old_client)).await.unwrap(), OK, "it has changed again");
    tls.reload_if_settled().unwrap();
    assert_eq!(ask(&server, &new, Some(&new_client)).await.unwrap(), OK);
    assert!(
        ask(&server, &new, Some(&old_client)).await.is_err(),
        "the old authority is not trusted any more"
    );
}

#[tokio::test]
async fn a_stalled_handshake_ends_and_delays_no_other() {
    let authority = Authority::new();
    let files = Files::new(&authority.issue("tollgate.test"));
    let limits = Limits {
        max_handshakes: 1,
        handshake_timeout: Duration::from_millis(300),
        ..Default::default()
    };
    let server = Wanted { limits, ..files.wanted() }.http().await;
    let Address::Tcp(address) = server.address else {
        panic!("a TCP listener");
    };
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut rest = Vec::new();
    timeout(SOON, silent.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert_eq!(rest, b"");
    assert_eq!(timeout(SOON, ask(&server, &authority, None)).await.unwrap().unwrap(), OK);
}

#[tokio::test]
async fn files_that_cannot_be_used_stop_the_start() {
    let authority = Authority::new();
    let files = Files::new(&authority.issue("tollgate.test"));
    let mut config = ListenerConfig::new("127.0.0.1:0".parse().unwrap());
    config.tls = Some(TlsConfig { key: Path::new("/does/not/exist.pem").into(), ..files.config() });
    let error = Listener::bind("listen.grpc", &config, Protocol::Grpc).await.unwrap_err();
    assert!(matches!(error, BindError::Tls(_)));
    assert_eq!(
        error.to_string(),
        "listen.grpc.tls.key: the file `/does/not/exist.pem` does not exist"
    );
}
