//! Proofs of DPoP through the real Envoy: with a sidecar, and with the module.

use crate::{
    proxies::dpop::{BoundClient, SECTIONS, first_nonce_to_replay},
    rig::{
        envoy::{CURRENT, EMBEDDED_CURRENT, Envoy, is_embedded},
        issuer::Issuer,
        tollgate::Tollgate,
        upstream::Upstream,
    },
};

const CONFIG: &str = r#"
listen: { grpc: "unix:${DIR}/authz.sock", ops: "127.0.0.1:0" }
issuers:
  - issuer: https://auth.example.com
    audiences: [inference-api]
    algorithms: [RS256]
    jwks: { file: "${DIR}/jwks.json" }
routes:
  - { match: { methods: [GET], paths: [/v1/models, /v1/forwarded] }, scopes: [] }
"#;

#[test]
fn a_proof_passes_once_through_envoy_and_its_nonce_reaches_the_client() {
    for version in [CURRENT, EMBEDDED_CURRENT] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        let issuer = Issuer::new("https://auth.example.com");
        issuer.publish(path);
        let upstream = Upstream::start();
        let config = format!("{CONFIG}{SECTIONS}");
        let envoy = || Envoy::start(path, upstream.port, version, |config| config);
        let (_tollgate, envoy) = if is_embedded(version) {
            Tollgate::write_embedded(path, &config);
            let mut envoy = envoy();
            (Tollgate::inside(path, &mut envoy.process), envoy)
        } else {
            (Tollgate::start(path, &config), envoy())
        };
        upstream.taken();
        let client = BoundClient::new(&issuer);
        first_nonce_to_replay(&client, |request| envoy.send(request), version);
        let seen = upstream.only();
        assert_eq!((seen.all("dpop"), seen.all("authorization")), (vec![], vec![]), "{version}");
    }
}
