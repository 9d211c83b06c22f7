//! The reader of key sets. A key that is accepted is in the document, published for signatures, without a private part, of the type of
//! each algorithm that it may verify, and the only one of its name for it; to a reader that takes the first of repeated members, and to
//! one that takes the last. No key verifies what was not signed.
#![no_main]

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use libfuzzer_sys::fuzz_target;
use tollgate_core::credential::jwt::{
    algorithm::Algorithm,
    key_set::{KeySet, MAX_KEYS},
};
use tollgate_fuzz::json::{Reading, Tree};

/// The algorithms of issuers with published keys, and the type and the curve of their keys.
const ALGORITHMS: [(&str, &str, Option<&str>); 10] = [
    ("RS256", "RSA", None),
    ("RS384", "RSA", None),
    ("RS512", "RSA", None),
    ("PS256", "RSA", None),
    ("PS384", "RSA", None),
    ("PS512", "RSA", None),
    ("ES256", "EC", Some("P-256")),
    ("ES384", "EC", Some("P-384")),
    ("ES512", "EC", Some("P-521")),
    ("EdDSA", "OKP", Some("Ed25519")),
];

const PRIVATE: [&str; 7] = ["d", "p", "q", "dp", "dq", "qi", "oth"];

fuzz_target!(|input: &[u8]| {
    let all = ALGORITHMS.map(|(name, ..)| Algorithm::parse(name).expect("a name of JOSE"));
    for (issuer, usage) in [("https://a.example", "sig"), ("spiffe://a.example", "jwt-svid")] {
        let Ok((set, _)) = KeySet::of_issuer(issuer, input, &all) else { continue };
        let document = input.strip_prefix("\u{feff}".as_bytes()).unwrap_or(input);
        let Some(document) = Tree::of_accepted(document) else { continue };
        let keys = document.get("keys", Reading::First).expect("a member of this name");
        assert_eq!(Some(keys), document.get("keys", Reading::Last));
        let keys = keys.elements();
        assert!((1..=MAX_KEYS).contains(&keys.len()) && set.len() <= keys.len());
        for kid in set.kids() {
            let named: Vec<&Tree> = keys.iter().filter(|key| is_named(key, kid)).collect();
            for algorithm in all {
                let mut verifying =
                    set.named(kid).filter(|key| key.algorithms().contains(&algorithm));
                let Some(key) = verifying.next() else { continue };
                assert!(verifying.next().is_none(), "two keys `{kid}` for {algorithm:?}");
                assert!(named.iter().any(|entry| fits(entry, algorithm, usage)), "{kid}");
                // The crypto library reads the key again.
                let signature = URL_SAFE_NO_PAD.encode(&input[..input.len().min(256)]);
                assert!(!key.verifies(algorithm, b"message", &signature));
            }
        }
    }
});

/// Whether an entry has this name: `kid` is text, or a number.
fn is_named(key: &Tree, kid: &str) -> bool {
    match key.get("kid", Reading::First) {
        Some(Tree::Text(text)) => text == kid,
        Some(Tree::Whole(number)) => number.to_string() == kid,
        // A negative number, or one with a fraction.
        Some(Tree::Number) => kid.starts_with('-'),
        _ => false,
    }
}

/// Whether an entry is a key for an algorithm.
fn fits(key: &Tree, algorithm: Algorithm, usage: &str) -> bool {
    let (name, kind, curve) = ALGORITHMS
        .into_iter()
        .find(|(name, ..)| Algorithm::parse(name) == Some(algorithm))
        .expect("one of the list");
    // An entry with a repeated member is skipped, and another of its name may be the key.
    let one = |member: &str| key.get(member, Reading::First);
    let text = |member: &str| one(member).and_then(Tree::text);
    let absent = |member: &str| matches!(one(member), None | Some(Tree::Word));
    let is_large = || {
        let modulus = text("n").and_then(|n| URL_SAFE_NO_PAD.decode(n).ok()).unwrap_or_default();
        modulus.iter().skip_while(|byte| **byte == 0).count() >= 256
    };
    key.is_unambiguous()
        && PRIVATE.into_iter().all(absent)
        && text("kty") == Some(kind)
        && curve.is_none_or(|curve| text("crv") == Some(curve))
        && (text("use") == Some(usage) || (absent("use") && usage == "sig"))
        && (absent("alg") || text("alg") == Some(name))
        && (kind != "RSA" || is_large())
}
