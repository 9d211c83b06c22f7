//! The upstream key of a route: while none may be used, the route is denied, after the scopes.

use tollgate_core::{denial::Reason, secret::Secret};

use crate::{
    harness::{Harness, SECRET},
    keys::Signer,
    token::{Members, signed},
};

const POLICY: &str = "
issuers:
  - issuer: https://secret.example
    audiences: [inference-api]
    algorithms: [HS256]
    secret: 0123456789abcdef0123456789abcdef
routes:
  - match: { methods: [GET], paths: [/v1/models] }
    scopes: [infer]
    upstream_key: 'file:/run/secrets/upstream'
";

#[test]
fn a_route_without_its_key_is_not_ready() {
    let harness = Harness::new(POLICY, &[]);
    let token = |scope: &str| {
        let claims = Members::claims("https://secret.example")
            .text("sub", "alice")
            .text("scope", scope)
            .json();
        signed(Signer::Hs256(SECRET), Members::header("HS256", "k").json(), claims)
    };
    let key = || Some(Secret::new("Bearer sk-1"));
    for (keys, scope, expected, why) in [
        (vec![key()], "infer", Ok(()), "the key is in force"),
        (vec![None], "infer", Err(Reason::NotReady), "the key has lapsed"),
        (vec![], "infer", Err(Reason::NotReady), "the key was never read"),
        (vec![None], "other", Err(Reason::InsufficientScope), "the scopes come first"),
    ] {
        let with_keys = harness.with_upstream_keys(keys);
        assert_eq!(with_keys.bearer("/v1/models", &token(scope)).verdict(), expected, "{why}");
    }
}
