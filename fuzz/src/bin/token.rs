//! The readers of a token's header and claims. An input is the header, a line feed, and the claims; both are signed as they are. What is
//! accepted has one reading: no member twice in any object, and the values that were checked are those that every reader finds.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tollgate_core::{
    check::{NoHooks, Prepared, prepare},
    request::{Headers, RawBody, RawRequest},
    snapshot::Snapshot,
    time::Timestamp,
};
use tollgate_fuzz::{
    json::{Reading, Tree},
    snapshot,
};
use tollgate_testkit::{Algorithm, KeyPair, signed};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const NOW: u64 = 1_800_000_000;

static SNAPSHOT: LazyLock<Snapshot> = LazyLock::new(|| {
    snapshot(&format!(
        "
issuers:
  - {{ issuer: https://a.example, audiences: [inference-api], algorithms: [HS256], secret: {SECRET} }}
  - {{ issuer: absent, audiences: any, algorithms: [HS512], secret: {SECRET}{SECRET} }}
routes:
  - {{ match: {{ paths: [/x], methods: [GET] }}, scopes: [infer:text] }}
"
    ))
});

fuzz_target!(|input: &[u8]| {
    let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let (header, claims) = (&input[..end], input.get(end + 1..).unwrap_or_default());
    for (algorithm, secret) in
        [(Algorithm::Hs256, SECRET.to_owned()), (Algorithm::Hs512, SECRET.repeat(2))]
    {
        let (name, key) = (algorithm.name(), KeyPair::secret(secret));
        let token = signed(header, claims, |message| key.sign(algorithm, message));
        let token = format!("Bearer {}", token.expect("a secret signs with HMAC"));
        let mut headers = Headers::default();
        headers.push("authorization", token.as_bytes());
        let raw = RawRequest {
            method: b"GET",
            scheme: b"https",
            host: b"api.example",
            path: b"/x",
            headers,
            address: None,
            peer_certificate: b"",
            body: RawBody::None,
        };
        let Prepared::Pending(pending) =
            prepare(&SNAPSHOT, raw, Timestamp::from_secs(NOW), &mut NoHooks)
        else {
            continue;
        };
        let principal = pending.principal().cloned().expect("a route that needs a token");
        let header = Tree::of_accepted(header).expect("numbers in range");
        let claims = Tree::of_accepted(claims).expect("numbers in range");
        assert!(header.is_unambiguous() && claims.is_unambiguous());
        for reading in [Reading::First, Reading::Last] {
            let text = |tree: &Tree, key: &str| {
                tree.get(key, reading).and_then(Tree::text).map(str::to_owned)
            };
            assert_eq!(text(&header, "alg").as_deref(), Some(name));
            for member in ["crit", "b64", "zip", "enc", "cty"] {
                assert!(header.get(member, reading).is_none(), "{member}");
            }
            assert_eq!(text(&claims, "sub").as_deref(), Some(principal.subject()));
            assert_eq!(text(&claims, "iss").unwrap_or_default(), principal.issuer());
            assert_eq!(principal.issuer().is_empty(), name == "HS512");
            match claims.get("exp", reading) {
                Some(Tree::Whole(expiry)) => {
                    assert_eq!((*expiry, true), (principal.expires_at(), *expiry + 60 > NOW))
                }
                Some(Tree::Number) => {}
                other => panic!("{other:?}"),
            }
            if name == "HS256" {
                let audience = claims.get("aud", reading).expect("an audience");
                let all = audience.elements().iter().chain([audience]);
                assert!(all.filter_map(Tree::text).any(|one| one == "inference-api"));
            }
            let mut scopes: Vec<String> = Vec::new();
            for key in ["scope", "scopes", "scp"] {
                let Some(value) = claims.get(key, reading) else { continue };
                let all = value.elements().iter().chain([value]).filter_map(Tree::text);
                scopes.extend(all.flat_map(|text| text.split(' ')).map(str::to_owned));
            }
            for scope in principal.scopes() {
                assert!(scopes.iter().any(|known| known == scope), "{scope} of {scopes:?}");
            }
            assert!(scopes.iter().any(|scope| scope == "infer:text"));
        }
    }
});
