//! Key servers over TLS.

use std::{path::Path, sync::Arc};

use rcgen::{Certificate, CertificateParams, Issuer as Authority, KeyPair};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use serde_json::{Value, json};
use tokio_rustls::TlsAcceptor;

use super::{
    rig::{Rig, keys_become},
    server::{Answer, KeyServer, redirect},
};

/// A certificate authority of one test.
struct Ca {
    params: CertificateParams,
    key: KeyPair,
    pem: String,
}

impl Ca {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { params, key, pem }
    }

    /// Returns the server side of TLS for these names.
    fn acceptor(&self, names: &[&str]) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let authority = Authority::from_params(&self.params, &self.key);
        let certificate =
            CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
        acceptor(&certificate, &key)
    }
}

/// Returns the server side of TLS with one certificate.
pub(super) fn acceptor(certificate: &Certificate, key: &KeyPair) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

fn https(server: &KeyServer, host: &str, ca: Option<&Path>) -> Value {
    json!({ "url": format!("https://{host}:{}/keys", server.address.port()), "ca": ca })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_believed_by_its_authority_and_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let (ca, other) = (Ca::new(), Ca::new());
    let write = |name: &str, pem: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, pem).unwrap();
        path
    };
    let (good, wrong) = (write("ca.pem", &ca.pem), write("other.pem", &other.pem));
    let both = write("both.pem", &format!("{}\n{}", other.pem, ca.pem));
    let server = KeyServer::start_tls(ca.acceptor(&["localhost", "127.0.0.1"])).await;
    server.answer(Answer::Keys(&["a"]));
    let elsewhere = KeyServer::start_tls(ca.acceptor(&["idp.example"])).await;
    elsewhere.answer(Answer::Keys(&["evil"]));
    for (what, jwks, expected) in [
        ("by name", https(&server, "localhost", Some(&good)), Ok(())),
        ("by address", https(&server, "127.0.0.1", Some(&good)), Ok(())),
        ("one of two authorities", https(&server, "localhost", Some(&both)), Ok(())),
        (
            "another authority",
            https(&server, "localhost", Some(&wrong)),
            Err("not signed by the key of a trusted authority"),
        ),
        ("only the system's authorities", https(&server, "localhost", None), Err("")),
        (
            "another name",
            https(&elsewhere, "localhost", Some(&good)),
            Err("not valid for `localhost`, only for idp.example"),
        ),
        (
            "no file of authorities",
            https(&server, "localhost", Some(Path::new("/no/such/file"))),
            Err("cannot be read"),
        ),
    ] {
        let (rig, source) = Rig::one(&jwks);
        rig.sources.tried().await;
        let status = source.status();
        match expected {
            Ok(()) => assert_eq!(status.kids, ["a"], "{what}: {status:?}"),
            Err(told) => {
                assert!(source.current().is_none(), "{what}");
                assert!(
                    status.last_error.as_ref().is_some_and(|error| error.contains(told)),
                    "{what}: {status:?}"
                );
            }
        }
    }
    assert_eq!(elsewhere.hits(), 0);
}

/// Authorities are read for each attempt: a new bundle needs no restart.
#[tokio::test(flavor = "multi_thread")]
async fn authorities_change_without_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.pem");
    let (ca, other) = (Ca::new(), Ca::new());
    std::fs::write(&path, &other.pem).unwrap();
    let server = KeyServer::start_tls(ca.acceptor(&["localhost"])).await;
    server.answer(Answer::Keys(&["a"]));
    let (rig, source) = Rig::one(&https(&server, "localhost", Some(&path)));
    rig.sources.tried().await;
    assert!(source.current().is_none());
    std::fs::write(&path, &ca.pem).unwrap();
    keys_become(&source, &["a"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn https_does_not_lead_to_plain_http() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.pem");
    let ca = Ca::new();
    std::fs::write(&path, &ca.pem).unwrap();
    let (server, plain) =
        (KeyServer::start_tls(ca.acceptor(&["127.0.0.1"])).await, KeyServer::start().await);
    plain.answer(Answer::Keys(&["evil"]));
    server.answer(redirect(plain.url()));
    let mut jwks = https(&server, "127.0.0.1", Some(&path));
    jwks["allowed_hosts"] = json!([plain.address.to_string()]);
    let (rig, source) = Rig::one(&jwks);
    rig.sources.tried().await;
    let error = source.status().last_error.unwrap();
    assert!(error.contains("is plain http"), "{error}");
    assert_eq!(plain.hits(), 0);
}
