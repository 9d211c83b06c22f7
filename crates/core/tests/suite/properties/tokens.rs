//! A changed token is refused: no change results in another principal, and no changed signature
//! verifies.

use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

use super::cases;
use crate::{
    harness::{Answer, Harness, SECRET},
    keys::Signer,
    token::{Members, parts, signed},
};
use tollgate_testkit::{TokenParts, base64url};

/// The shortest token of each kind.
fn tokens() -> Vec<(&'static str, String)> {
    let token = |iss: &str, alg: &str, kid: Option<&str>, signer| {
        let header = match kid {
            Some(kid) => Members::header(alg, kid),
            None => Members::header(alg, "").without("kid"),
        };
        signed(
            signer,
            header.json(),
            Members::claims(iss).without("jti").text("scope", "infer:text").json(),
        )
    };
    vec![
        ("EdDSA", token("https://many.example", "EdDSA", Some("ed"), Signer::Ed)),
        ("HS256", token("https://secret.example", "HS256", None, Signer::Hs256(SECRET))),
        ("ES256", token("https://many.example", "ES256", Some("p256"), Signer::Es256)),
        ("RS256", token("https://rsa.example", "RS256", Some("rsa"), Signer::Rs256)),
        ("PS256", token("https://many.example", "PS256", Some("pss"), Signer::OtherPs256)),
    ]
}

fn accepted(harness: &Harness, token: &str) -> bool {
    harness.bearer("/v1/models", token).verdict().is_ok()
}

const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.";

#[test]
fn every_changed_character_is_noticed() {
    let harness = Harness::standard();
    for (name, token) in tokens() {
        assert!(accepted(&harness, &token), "{name}");
        // All 64 characters at every position for fast algorithms, a few for the others.
        let step = if matches!(name, "EdDSA" | "HS256") { 1 } else { 13 };
        for at in 0..token.len() {
            for with in ALPHABET
                .iter()
                .skip(at % step)
                .step_by(step)
                .filter(|byte| **byte != token.as_bytes()[at])
            {
                let mut changed = token.clone().into_bytes();
                changed[at] = *with;
                let changed = String::from_utf8(changed).unwrap();
                assert!(!accepted(&harness, &changed), "{name}: {:?} at {at}", char::from(*with));
            }
        }
    }
}

#[test]
fn every_flipped_bit_of_a_signature_is_noticed() {
    use base64::Engine as _;
    let harness = Harness::standard();
    for (name, token) in tokens() {
        let TokenParts { header, payload, signature } = parts(&token);
        let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(signature).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let changed = format!("{header}.{payload}.{}", base64url(flipped));
            assert_eq!(
                harness.bearer("/v1/models", &changed).verdict(),
                Err(tollgate_core::denial::Reason::BadSignature),
                "{name}: bit {bit}"
            );
        }
    }
}

#[test]
fn a_cut_filled_or_mixed_token_is_refused() {
    let harness = Harness::standard();
    let tokens = tokens();
    for (name, token) in &tokens {
        for at in 0..token.len() {
            assert!(!accepted(&harness, &token[..at]), "{name}: cut at {at}");
            assert!(!accepted(&harness, &token[at + 1..]), "{name}: without its first {at}");
            assert!(
                !accepted(&harness, &format!("{}{}", &token[..at], &token[at + 1..])),
                "{name}: without {at}"
            );
            for with in ["A", "_", ".", "="] {
                assert!(
                    !accepted(&harness, &format!("{}{with}{}", &token[..at], &token[at..])),
                    "{name}: `{with}` at {at}"
                );
            }
            if at > 0 && token.as_bytes()[at] != token.as_bytes()[at - 1] {
                let mut swapped = token.clone().into_bytes();
                swapped.swap(at, at - 1);
                assert!(
                    !accepted(&harness, std::str::from_utf8(&swapped).unwrap()),
                    "{name}: {at} and the one before"
                );
            }
        }
        assert!(!accepted(&harness, &format!("{token}A")), "{name}: one more");
    }
    // Header, payload and signature of different tokens: only matching ones are accepted.
    for (a, (_, header)) in tokens.iter().enumerate() {
        for (b, (_, payload)) in tokens.iter().enumerate() {
            for (c, (_, signature)) in tokens.iter().enumerate() {
                let mixed = format!(
                    "{}.{}.{}",
                    parts(header).header,
                    parts(payload).payload,
                    parts(signature).signature
                );
                // Two tokens of one issuer have the same claims, and with them the same payload.
                let whole = a == c && parts(header).payload == parts(payload).payload;
                assert_eq!(accepted(&harness, &mixed), whole, "{a} {b} {c}");
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(2000))]

    /// Any byte at any position of the header value: a token that is still accepted has the same
    /// principal.
    #[test]
    fn no_changed_byte_makes_another_principal(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..3),
    ) {
        let harness = &*GATE;
        let (token, principal) = &TOKENS[which.index(TOKENS.len())];
        let mut value = format!("Bearer {token}").into_bytes();
        for (at, byte) in changes {
            let at = at.index(value.len());
            value[at] = byte;
        }
        if let Answer::Accepted(changed) = harness.ask("/v1/models", &[("authorization", &value)]) {
            prop_assert_eq!(format!("{:?}", changed), principal.clone());
            prop_assert!(value.ends_with(token.as_bytes()), "only the scheme's case may have changed");
        }
    }

    #[test]
    fn any_bytes_are_no_credential(value in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(GATE.ask("/v1/models", &[("authorization", &value)]).verdict().is_err());
        let bearer = [b"Bearer ".as_slice(), &value].concat();
        prop_assert!(GATE.ask("/v1/models", &[("authorization", &bearer)]).verdict().is_err());
    }

    #[test]
    fn any_parts_are_no_token(
        header in prop::collection::vec(any::<u8>(), 0..64),
        payload in prop::collection::vec(any::<u8>(), 0..64),
        signature in prop::collection::vec(any::<u8>(), 0..80),
        known in any::<bool>(),
    ) {
        let header = if known { Members::header("EdDSA", "ed").json().into_bytes() } else { header };
        let token = format!("{}.{}.{}", base64url(header), base64url(payload), base64url(signature));
        prop_assert!(!accepted(&GATE, &token));
    }

    /// Signed claims of any shape: the check has a result, and the same one twice.
    #[test]
    fn any_claims_have_one_answer(
        name in prop::sample::select(vec![
            "iss", "aud", "exp", "nbf", "iat", "sub", "jti", "scope", "scp", "roles", "tenant_id", "client_id", "x",
        ]),
        raw in prop::sample::select(vec![
            "null", "true", "0", "-1", "1e300", "1e999", "\"\"", "\"x\"", "\"\\u0000\"", "[]", "[\"x\"]", "[null]", "[[[]]]",
            "{}", "{\"a\":1}", "1700000060", "1700000060.5", "\"1700000060\"", "18446744073709551615",
            "\"\u{1f600}\"", "\"\\ud83d\"",
        ]),
    ) {
        let claims = Members::claims("https://many.example").with(name, raw);
        let token = signed(Signer::Ed, Members::header("EdDSA", "ed").json(), claims.json());
        let verdict = GATE.bearer("/v1/models", &token).verdict();
        prop_assert_eq!(verdict, GATE.bearer("/v1/models", &token).verdict());
        if let Err(reason) = verdict {
            prop_assert_eq!(reason.http(), 401);
        }
    }
}

static GATE: std::sync::LazyLock<Harness> = std::sync::LazyLock::new(Harness::standard);

/// Each token with its principal.
static TOKENS: std::sync::LazyLock<Vec<(String, String)>> = std::sync::LazyLock::new(|| {
    tokens()
        .into_iter()
        .map(|(_, token)| (token.clone(), format!("{:?}", GATE.principal(&token))))
        .collect()
});
