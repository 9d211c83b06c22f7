//! Proofs of DPoP through every proxy: what the client gets, and what the upstream received.

use serde_json::json;
use tollgate_testkit::{KeyPair, KeyType, proof, thumbprint};

use super::proxy_rig::{Kind, POLICY, ProxyRig};
use crate::rig::{
    http::{Reply, Request},
    issuer::{Issuer, now},
};

/// The origin of the client, which no proxy of the tests has.
const ORIGIN: &str = "https://api.example.com";

/// The sections for proofs with nonces.
pub(crate) const SECTIONS: &str = "\
dpop:
  origins: [\"https://api.example.com\"]
  nonce: { secrets: [\"0123456789abcdef0123456789abcdef\"], life: 10m }
store: { memory: { single_replica: true } }
";

/// A client with a key, and a token that is bound to it.
pub(crate) struct BoundClient {
    key: KeyPair,
    token: String,
}

impl BoundClient {
    pub(crate) fn new(issuer: &Issuer) -> Self {
        let key = KeyPair::generate(KeyType::P256).unwrap();
        let token = issuer.token(json!({ "cnf": { "jkt": thumbprint(&key).unwrap() } }));
        Self { key, token }
    }

    /// The token, which is bound to the key.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// The key in PEM.
    pub(crate) fn key_pem(&self) -> String {
        self.key.to_pem().unwrap()
    }

    /// The value of the header `DPoP` for a path, with a nonce.
    pub(crate) fn proof(&self, path: &str, nonce: Option<&str>) -> String {
        let uri = format!("{ORIGIN}{path}");
        let jti = format!("{:032x}", rand::random::<u128>());
        let proof = proof(&self.key, ("GET", &uri), &self.token, now(), &jti).unwrap();
        proof.claims(json!({ "nonce": nonce })).sign(&self.key).unwrap()
    }

    /// A request with the token in this scheme.
    pub(crate) fn request(&self, scheme: &str, path: &str) -> Request {
        Request::get(path).header("Authorization", &format!("{scheme} {}", self.token))
    }

    /// A request with a proof.
    pub(crate) fn proved(&self, path: &str, proof: &str) -> Request {
        self.request("DPoP", path).header("DPoP", proof)
    }
}

/// The requests of a client from its first nonce to a proof that is sent again, with `send`. Returns
/// the answer that allowed one.
pub(crate) fn first_nonce_to_replay(
    client: &BoundClient,
    send: impl Fn(&Request) -> Reply,
    name: &str,
) -> Reply {
    let code = |reply: &Reply| (reply.status, reply.code());
    let challenge = |reply: &Reply| reply.one("WWW-Authenticate").unwrap_or_default().to_owned();
    let reply = send(&client.proved("/v1/models", &client.proof("/v1/models", None)));
    assert_eq!(code(&reply), (401, "invalid_proof".into()), "{name}");
    let expected = "DPoP realm=\"tollgate\", error=\"use_dpop_nonce\"";
    assert!(challenge(&reply).starts_with(expected), "{name}: {}", challenge(&reply));
    let nonce = reply.one("DPoP-Nonce").expect("a nonce").to_owned();

    let good = client.proof("/v1/models", Some(&nonce));
    let allowed = send(&client.proved("/v1/models", &good));
    assert_eq!(allowed.status, 200, "{name}: {}", allowed.text());
    let again = send(&client.proved("/v1/models", &good));
    assert_eq!(code(&again), (401, "invalid_proof".into()), "{name}");
    assert!(challenge(&again).contains("error=\"invalid_dpop_proof\""), "{name}");
    assert_eq!(again.one("DPoP-Nonce"), None, "{name}");

    let other = client.proof("/v1/forwarded", Some(&nonce));
    let reply = send(&client.proved("/v1/models", &other));
    assert_eq!(code(&reply), (401, "invalid_proof".into()), "{name}");
    let twice = client.proof("/v1/models", Some(&nonce));
    let reply = send(&client.proved("/v1/models", &twice).header("DPoP", &twice));
    assert_eq!(code(&reply), (401, "invalid_proof".into()), "{name}");
    let bearer = client.request("Bearer", "/v1/models");
    for request in [bearer.clone(), bearer.header("DPoP", &twice)] {
        let reply = send(&request);
        assert_eq!(code(&reply), (401, "proof_required".into()), "{name}");
        assert!(challenge(&reply).starts_with("DPoP "), "{name}: {}", challenge(&reply));
    }
    let reply = send(&Request::get("/v1/models"));
    assert_eq!(code(&reply), (401, "missing_credential".into()), "{name}");
    assert!(challenge(&reply).contains(", DPoP algs=\"ES256 EdDSA PS256 RS256\""), "{name}");
    allowed
}

fn a_proof_passes_once_and_does_not_reach_the_upstream(kind: Kind) {
    let rig = ProxyRig::with(kind, &format!("{POLICY}{SECTIONS}"), |config| config);
    let client = BoundClient::new(&rig.issuer);
    first_nonce_to_replay(&client, |request| rig.send(request), &format!("{kind:?}"));
    let received = |request: &Request, name: &str| {
        request.all(name).into_iter().filter(|value| !value.is_empty()).count()
    };
    let seen = rig.upstream.only();
    assert_eq!((received(&seen, "dpop"), received(&seen, "authorization")), (0, 0), "{kind:?}");

    // A route that forwards the credential forwards the proof.
    let reply = rig.send(&client.proved("/v1/forwarded", &client.proof("/v1/forwarded", None)));
    let nonce = reply.one("DPoP-Nonce").expect("a nonce").to_owned();
    let proof = client.proof("/v1/forwarded", Some(&nonce));
    assert_eq!(rig.send(&client.proved("/v1/forwarded", &proof)).status, 200, "{kind:?}");
    let seen = rig.upstream.only();
    assert_eq!((seen.all("dpop"), received(&seen, "authorization")), (vec![&*proof], 1));
}
through_every_proxy!(a_proof_passes_once_and_does_not_reach_the_upstream);
