//! Client certificates through the real Envoy: as credentials, over resumed sessions, as proof of
//! bound tokens, and forged in headers.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::Command,
    sync::Arc,
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType, string::Ia5String,
};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
};
use serde_json::json;
use tollgate_core::revocation::sha256;
use tollgate_testkit::base64url;

use crate::rig::{
    envoy::{CURRENT, EMBEDDED_CURRENT, Envoy, is_embedded},
    issuer::Issuer,
    replace_once,
    tollgate::Tollgate,
    until,
    upstream::Upstream,
};

const CONFIG: &str = r#"
listen: { grpc: "unix:${DIR}/authz.sock", ops: "127.0.0.1:0" }
issuers:
  - issuer: https://auth.example.com
    audiences: [inference-api]
    algorithms: [RS256, ES256, EdDSA]
    jwks: { file: "${DIR}/jwks.json" }
client_certificates:
  authorities: "file:${DIR}/clients.pem"
  max_life: 3653d
  identities:
    - { spiffe: "spiffe://prod.example.com/ns/{namespace}/sa/{account}", subject: "{namespace}/{account}", scopes: [infer:text] }
routes:
  - { match: { methods: [GET], paths: [/certificate] }, scopes: [infer:text], credentials: [certificate] }
  - { match: { methods: [GET], paths: [/token] }, scopes: [] }
"#;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.distinguished_name.push(DnType::CommonName, "authority");
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate of a client with its key.
struct Identity {
    der: CertificateDer<'static>,
    key: KeyPair,
    pem: String,
}

impl Identity {
    fn new(authority: &Authority, id: &str) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(id).unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2035, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, authority).unwrap();
        Self { der: certificate.der().clone(), pem: certificate.pem(), key }
    }

    fn thumbprint(&self) -> String {
        base64url(sha256(&self.der))
    }
}

/// Envoy with TLS that requests certificates and verifies none, and Tollgate behind it.
struct Chain {
    // Dropped in this order: the proxy first, the directory with the logs last.
    envoy: Envoy,
    tollgate: Tollgate,
    upstream: Upstream,
    ours: Authority,
    issuer: Issuer,
    server: CertificateDer<'static>,
    dir: tempfile::TempDir,
}

impl Chain {
    fn start() -> Self {
        Self::on(CURRENT, CONFIG, with_certificate_in_check)
    }

    /// Starts an Envoy of this version with TLS and what `edit` changes.
    fn on(version: &str, config: &str, edit: fn(String) -> String) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        let (ours, web) =
            (authority(), rcgen::generate_simple_self_signed(["api.test".to_owned()]).unwrap());
        std::fs::write(path.join("clients.pem"), ours.pem()).unwrap();
        std::fs::write(path.join("server.pem"), web.cert.pem()).unwrap();
        std::fs::write(path.join("server.key"), web.signing_key.serialize_pem()).unwrap();
        let issuer = Issuer::new("https://auth.example.com");
        issuer.publish(path);
        let upstream = Upstream::start();
        let envoy =
            || Envoy::start(path, upstream.port, version, |config| edit(with_tls(config, path)));
        let (tollgate, envoy) = if is_embedded(version) {
            Tollgate::write_embedded(path, config);
            let mut envoy = envoy();
            (Tollgate::inside(path, &mut envoy.process), envoy)
        } else {
            (Tollgate::start(path, config), envoy())
        };
        let server = web.cert.der().clone();
        Self { envoy, tollgate, upstream, ours, issuer, server, dir }
    }

    fn client(&self, identity: Option<&Identity>) -> Client {
        let mut roots = RootCertStore::empty();
        roots.add(self.server.clone()).unwrap();
        let config = ClientConfig::builder().with_root_certificates(roots);
        let config = match identity {
            None => config.with_no_client_auth(),
            Some(identity) => {
                let key = PrivateKeyDer::try_from(identity.key.serialize_der()).unwrap();
                config.with_client_auth_cert(vec![identity.der.clone()], key).unwrap()
            }
        };
        Client { config: Arc::new(config), port: self.envoy.port }
    }
}

/// The shipped configuration with TLS.
fn with_tls(config: String, dir: &Path) -> String {
    let socket = format!(
        r#"      filter_chains:
        - transport_socket:
            name: envoy.transport_sockets.tls
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
              require_client_certificate: false
              common_tls_context:
                tls_certificates: [{{ certificate_chain: {{ filename: "{0}/server.pem" }}, private_key: {{ filename: "{0}/server.key" }} }}]
                validation_context: {{ trust_chain_verification: ACCEPT_UNTRUSTED }}
          filters:
"#,
        dir.display()
    );
    replace_once(config, "      filter_chains:\n        - filters:\n", &socket)
}

/// A configuration with the certificate of the client in the check.
fn with_certificate_in_check(config: String) -> String {
    replace_once(
        config,
        "                      failure_mode_allow: false\n",
        "                      failure_mode_allow: false\n                      include_peer_certificate: true\n",
    )
}

/// A configuration with the certificate of the client in `x-forwarded-client-cert`, with all else that
/// Envoy writes there.
fn with_certificate_in_header(config: String) -> String {
    let name = "                stat_prefix: ingress\n";
    let details = "forward_client_cert_details: SANITIZE_SET
                set_current_client_cert_details: { subject: true, cert: true, chain: true, dns: true, uri: true }
";
    replace_once(config, name, &format!("{name}                {details}"))
}

/// A client with a cache of sessions.
struct Client {
    config: Arc<ClientConfig>,
    port: u16,
}

/// The status of an answer, its text, and how its session began.
#[derive(Debug)]
struct Reply {
    status: u16,
    text: String,
    handshake: Option<HandshakeKind>,
}

impl Reply {
    fn verdict(&self) -> (u16, String) {
        let code = self.text.split("\"code\":\"").nth(1).and_then(|rest| rest.split('"').next());
        (self.status, code.unwrap_or_default().to_owned())
    }
}

impl Client {
    fn get(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        let name = ServerName::try_from("api.test").unwrap();
        let connection = ClientConnection::new(Arc::clone(&self.config), name).unwrap();
        let socket = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let mut stream = StreamOwned::new(connection, socket);
        let mut text = format!("GET {path} HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n");
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        stream.write_all(text.as_bytes()).unwrap();
        let mut answer = Vec::new();
        // The end of the connection without a notice of TLS is an error after the answer.
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).unwrap_or_else(|| panic!("no answer: {answer:?}"));
        let status = status.parse().unwrap();
        Reply { status, text: answer, handshake: stream.conn.handshake_kind() }
    }
}

const ID: &str = "spiffe://prod.example.com/ns/batch/sa/nightly";

#[test]
fn a_certificate_opens_its_routes_over_full_and_resumed_sessions() {
    let chain = Chain::start();
    let nightly = Identity::new(&chain.ours, ID);
    let client = chain.client(Some(&nightly));
    // A session is resumed once its ticket has arrived, which no answer waits for.
    let mut kinds = Vec::new();
    until("a resumed session", || {
        let reply = client.get("/certificate", &[]);
        assert_eq!(reply.status, 200, "{}", reply.text);
        let seen = chain.upstream.only();
        assert_eq!(seen.all("x-tollgate-subject"), ["batch/nightly"]);
        assert_eq!(seen.all("x-tollgate-credential"), ["certificate"]);
        assert_eq!(seen.all("x-tollgate-issuer"), ["spiffe://prod.example.com"]);
        kinds.push(reply.handshake);
        kinds.contains(&Some(HandshakeKind::Resumed)).then_some(())
    });
    assert_ne!(kinds[0], Some(HandshakeKind::Resumed), "{kinds:?}");

    let theirs = Identity::new(&authority(), ID);
    let found = chain.client(Some(&theirs)).get("/certificate", &[]).verdict();
    assert_eq!(found, (401, "bad_signature".into()));
    let found = chain.client(None).get("/certificate", &[]).verdict();
    assert_eq!(found, (401, "missing_credential".into()));
    let found = client.get("/token", &[]).verdict();
    assert_eq!(found, (401, "missing_credential".into()));

    // A removed authority stops at once, also for sessions that are resumed.
    let path = chain.dir.path();
    std::fs::write(path.join("next.pem"), authority().pem()).unwrap();
    std::fs::rename(path.join("next.pem"), path.join("clients.pem")).unwrap();
    until("the other authority", || {
        let reply = client.get("/certificate", &[]);
        (reply.verdict() == (401, "bad_signature".into())).then_some(())
    });
    drop(chain.tollgate);
}

#[test]
fn a_bound_token_needs_the_certificate_of_the_connection() {
    let chain = Chain::start();
    let (own, other) = (Identity::new(&chain.ours, ID), Identity::new(&authority(), ID));
    let token = chain.issuer.token(json!({ "cnf": { "x5t#S256": own.thumbprint() } }));
    let bearer = format!("Bearer {token}");
    let authorization = [("Authorization", bearer.as_str())];
    let verdict = |identity| chain.client(identity).get("/token", &authorization).verdict();
    assert_eq!(verdict(Some(&own)), (200, String::new()));
    assert_eq!(verdict(Some(&other)), (401, "invalid_proof".into()));
    assert_eq!(verdict(None), (401, "proof_required".into()));
}

#[test]
fn a_certificate_in_a_header_is_not_that_of_the_connection() {
    let chain = Chain::start();
    let nightly = Identity::new(&chain.ours, ID);
    let escaped = nightly.pem.replace('\n', "%0A").replace(' ', "%20").replace('+', "%2B");
    let element = format!("Cert=\"{escaped}\"");
    for (name, value) in [("x-forwarded-client-cert", &element), ("x-client-cert", &escaped)] {
        let found = chain.client(None).get("/certificate", &[(name, value)]).verdict();
        assert_eq!(found, (401, "missing_credential".into()), "{name}");
    }
}

/// Envoy replaces the header of the client, for a sidecar and for the module.
#[test]
fn the_header_that_envoy_writes_has_the_certificate_of_the_connection() {
    let header =
        "client_certificates:\n  header: { name: x-forwarded-client-cert, format: xfcc }\n";
    let config = replace_once(CONFIG.to_owned(), "client_certificates:\n", header);
    for version in [CURRENT, EMBEDDED_CURRENT] {
        let chain = Chain::on(version, &config, with_certificate_in_header);
        let nightly = Identity::new(&chain.ours, ID);
        let daily = Identity::new(&chain.ours, "spiffe://prod.example.com/ns/batch/sa/daily");
        let escaped = daily.pem.replace('\n', "%0A").replace(' ', "%20").replace('+', "%2B");
        let element = format!("Cert=\"{escaped}\"");
        let forged = [("x-forwarded-client-cert", element.as_str())];
        for headers in [&[][..], &forged] {
            let reply = chain.client(Some(&nightly)).get("/certificate", headers);
            assert_eq!(reply.status, 200, "{version}: {}", reply.text);
            assert_eq!(chain.upstream.only().all("x-tollgate-subject"), ["batch/nightly"]);
            let found = chain.client(None).get("/certificate", headers).verdict();
            assert_eq!(found, (401, "missing_credential".into()), "{version}");
        }
        let theirs = Identity::new(&authority(), ID);
        let found = chain.client(Some(&theirs)).get("/certificate", &forged).verdict();
        assert_eq!(found, (401, "bad_signature".into()), "{version}");

        let token = chain.issuer.token(json!({ "cnf": { "x5t#S256": daily.thumbprint() } }));
        let bearer = format!("Bearer {token}");
        let stolen = [("Authorization", bearer.as_str()), forged[0]];
        let verdict = |identity| chain.client(identity).get("/token", &stolen).verdict();
        assert_eq!(verdict(Some(&daily)), (200, String::new()), "{version}");
        assert_eq!(verdict(Some(&nightly)), (401, "invalid_proof".into()), "{version}");
        assert_eq!(verdict(None), (401, "proof_required".into()), "{version}");
    }
}

/// A policy that reads a header, behind a proxy that lets the client set it: the doctor finds it.
#[test]
fn the_doctor_finds_a_header_that_clients_can_set() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let ours = authority();
    std::fs::write(path.join("clients.pem"), ours.pem()).unwrap();
    std::fs::write(path.join("client.crt"), Identity::new(&ours, ID).pem).unwrap();
    Issuer::new("https://auth.example.com").publish(path);
    let upstream = Upstream::start();
    let header = "client_certificates:\n  header: { name: x-client-cert, format: pem }\n";
    let config = replace_once(CONFIG.to_owned(), "client_certificates:\n", header);
    let _tollgate = Tollgate::start(path, &config);
    let report = |edit: fn(String) -> String| {
        let envoy = Envoy::start(path, upstream.port, CURRENT, edit);
        let output = Command::new(env!("CARGO_BIN_EXE_tollgate"))
            .args(["doctor", &format!("http://127.0.0.1:{}", envoy.port), "--burst", "0"])
            .args(["--protected", "/certificate", "--output", "json", "--certificate"])
            .arg(path.join("client.crt"))
            .output()
            .unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let probes = report["probes"].as_array().unwrap().clone();
        let probe = probes.into_iter().find(|it| it["name"] == "forged_certificate_is_not_read");
        let probe = probe.unwrap();
        (
            probe["verdict"].as_str().unwrap().to_owned(),
            probe["detail"].as_str().unwrap().to_owned(),
        )
    };
    let (verdict, detail) = report(|config| config);
    assert_eq!(verdict, "leak", "{detail}");
    assert!(detail.contains("`X-Client-Cert` opens /certificate"), "{detail}");
    let (verdict, detail) = report(|config| {
        let shipped =
            "- remove_on_match: { key_matcher: { prefix: \"x-tollgate-\", ignore_case: true } }";
        let more = format!("{shipped}\n                        - remove: x-client-cert");
        replace_once(config, shipped, &more)
    });
    assert_eq!(verdict, "ok", "{detail}");
}
