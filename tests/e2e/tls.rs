//! TLS between Envoy and Tollgate with certificates on both sides, which are reloaded.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::json;

use crate::rig::{
    POLICY,
    envoy::{CURRENT, Envoy},
    http::Request,
    issuer::Issuer,
    replace_once,
    tollgate::Tollgate,
    until,
    upstream::Upstream,
};

/// A certification authority.
pub(super) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // A name of its own: a certificate with the name of its issuer counts as self-signed.
        params.distinguished_name.push(DnType::CommonName, "authority");
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Writes a certificate for `name` to `<stem>.pem` and its key to `<stem>.key`.
    pub(super) fn issue(&self, dir: &Path, stem: &str, name: &str) {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &self.0).unwrap();
        std::fs::write(dir.join(format!("{stem}.pem")), certificate.pem()).unwrap();
        std::fs::write(dir.join(format!("{stem}.key")), key.serialize_pem()).unwrap();
    }

    pub(super) fn publish(&self, dir: &Path, stem: &str) {
        std::fs::write(dir.join(format!("{stem}.pem")), self.0.pem()).unwrap();
    }
}

/// Envoy's side: it trusts `ca`, and presents the certificate `client` if there is one. A handshake
/// may take longer than the shipped connect timeout when all cores are busy.
pub(super) fn tls(dir: &Path, ca: &str, client: Option<&str>) -> impl FnOnce(String) -> String {
    let file = |name: String| format!("{{ filename: \"{}/{name}\" }}", dir.display());
    let own = client.map_or_else(String::new, |stem| {
        let (certificate, key) = (file(format!("{stem}.pem")), file(format!("{stem}.key")));
        format!("tls_certificates: [{{ certificate_chain: {certificate}, private_key: {key} }}], ")
    });
    let trusted = file(format!("{ca}.pem"));
    let names = "[{ san_type: DNS, matcher: { exact: tollgate.test } }]";
    let socket = format!(
        r#"      connect_timeout: 10s
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
          sni: tollgate.test
          common_tls_context: {{ {own}validation_context: {{ trusted_ca: {trusted}, match_typed_subject_alt_names: {names} }} }}
"#
    );
    move |config| replace_once(config, "      connect_timeout: 10s\n", &socket)
}

#[test]
fn both_sides_authenticate_and_reload_their_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (ours, next, theirs) = (Authority::new(), Authority::new(), Authority::new());
    ours.publish(dir, "ours");
    next.publish(dir, "next");
    ours.publish(dir, "clients");
    ours.issue(dir, "server", "tollgate.test");
    ours.issue(dir, "proxy", "envoy.test");
    theirs.issue(dir, "stranger", "envoy.test");
    next.issue(dir, "successor", "envoy.test");

    let issuer = Issuer::new("https://auth.example.com");
    issuer.publish(dir);
    let upstream = Upstream::start();
    let listen = r#"listen:
  grpc: { address: "unix:${DIR}/authz.sock", tls: { cert: "${DIR}/server.pem", key: "${DIR}/server.key", client_ca: "${DIR}/clients.pem" } }
  ops: "127.0.0.1:0"
"#;
    let tollgate = Tollgate::start(dir, &format!("{listen}{POLICY}"));
    let ask = |envoy: &Envoy| {
        let status =
            envoy.send(&Request::get("/v1/models").bearer(&issuer.token(json!({})))).status;
        (status, upstream.taken().len())
    };
    let start = |ca: &str, client: Option<&str>| {
        Envoy::start(dir, upstream.port, CURRENT, tls(dir, ca, client))
    };

    let known = start("ours", Some("proxy"));
    assert_eq!(ask(&known), (200, 1), "a client of our authority");
    assert_eq!(ask(&start("ours", Some("stranger"))), (503, 0), "a client of another authority");
    assert_eq!(ask(&start("ours", None)), (503, 0), "a client without a certificate");
    assert_eq!(
        ask(&Envoy::start(dir, upstream.port, CURRENT, |config| config)),
        (503, 0),
        "a client without TLS"
    );
    assert_eq!(
        ask(&start("next", Some("proxy"))),
        (503, 0),
        "a proxy that does not trust our authority"
    );

    // A certificate without its key: the old pair stays in use.
    next.issue(dir, "new", "tollgate.test");
    std::fs::copy(dir.join("new.pem"), dir.join("server.pem")).unwrap();
    until("the reload that fails", || {
        tollgate.process.err().contains("certificate reload failed").then_some(())
    });
    assert_eq!(ask(&start("ours", Some("proxy"))), (200, 1), "the old pair");

    // A complete pair, and another authority for clients.
    std::fs::copy(dir.join("new.key"), dir.join("server.key")).unwrap();
    std::fs::copy(dir.join("next.pem"), dir.join("clients.pem")).unwrap();
    let successor = start("next", Some("successor"));
    until("the new pair", || (ask(&successor) == (200, 1)).then_some(()));
    assert_eq!(ask(&start("next", Some("proxy"))), (503, 0), "a client of the former authority");
    // Existing connections stay open.
    assert_eq!(ask(&known), (200, 1));
}
