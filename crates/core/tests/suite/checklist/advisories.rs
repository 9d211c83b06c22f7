//! The known bugs of JWT libraries and of software built on them, by number. Several numbers on one
//! test had one cause.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tollgate_core::denial::Reason;
use tollgate_testkit::{TokenParts, base64url, hmac_sha256};

use super::shape::encrypted;
use crate::{
    harness::{Harness, is_within},
    keys::{KEYS, Signer, jwk_members, spellings},
    token::{Members, NOW, parts, signed},
};

const MANY: &str = "https://many.example";
/// The checklist's bound (J21), which holds without optimisation as well.
const MOST: Duration = Duration::from_millis(50);

fn header(alg: &str, kid: &str) -> Members {
    Members::header(alg, kid)
}

fn claims() -> Members {
    Members::claims(MANY)
}

fn verdict(harness: &Harness, token: &str) -> Result<(), Reason> {
    harness.bearer("/v1/models", token).verdict()
}

/// The public key as the secret of an HMAC, in every spelling that a server might have loaded.
#[test]
fn cve_2015_9235_2022_29217_2023_48223_2026_34950_2026_39999_a_public_key_is_no_secret() {
    let harness = Harness::standard();
    let point = KEYS.ed.public();
    let ssh = [&[0, 0, 0, 11][..], b"ssh-ed25519", &[0, 0, 0, 32], point].concat();
    let mut secrets = spellings(&KEYS.rsa);
    secrets.push(("an OpenSSH key", format!("ssh-ed25519 {}", STANDARD.encode(ssh)).into_bytes()));
    secrets.push(("the point of an Ed25519 key", point.to_vec()));
    assert!(secrets.len() >= 10);
    for (says, secret) in &secrets {
        for (iss, kid) in [
            ("https://rsa.example", "rsa"),
            ("https://rsa.example", "noalg"),
            (MANY, "rsa"),
            (MANY, "noalg"),
            (MANY, "ed"),
        ] {
            for alg in ["HS256", "HS384", "HS512"] {
                let message = format!(
                    "{}.{}",
                    base64url(header(alg, kid).json()),
                    base64url(Members::claims(iss).json())
                );
                let token =
                    format!("{message}.{}", base64url(hmac_sha256(secret, message.as_bytes())));
                assert_eq!(
                    verdict(&harness, &token),
                    Err(Reason::AlgorithmNotAllowed),
                    "{says}, {alg}, {kid} of {iss}"
                );
            }
        }
        // Nor where a secret is configured: that is another one.
        let message = format!(
            "{}.{}",
            base64url(header("HS256", "rsa").json()),
            base64url(Members::claims("https://secret.example").json())
        );
        let token = format!("{message}.{}", base64url(hmac_sha256(secret, message.as_bytes())));
        assert_eq!(verdict(&harness, &token), Err(Reason::BadSignature), "{says}");
    }
}

/// A key without `alg` left the choice to the header; one library then took an HMAC key of no
/// bytes.
#[test]
fn cve_2026_22817_2026_44699_a_key_without_alg_does_not_leave_the_choice_to_the_token() {
    let harness = Harness::standard();
    for (alg, signer) in [
        ("HS256", Signer::Hs256(b"")),
        ("HS384", Signer::Hs256(b"")),
        ("PS384", Signer::Ps256),
        ("none", Signer::Unsigned),
    ] {
        let token = signed(signer, header(alg, "noalg").json(), claims().json());
        assert_eq!(verdict(&harness, &token), Err(Reason::AlgorithmNotAllowed), "{alg}");
    }
    // The issuer lists several algorithms for RSA keys: the key verifies with each of them.
    for (alg, signer) in [("RS256", Signer::Rs256), ("PS256", Signer::Ps256)] {
        let token = signed(signer, header(alg, "noalg").json(), claims().json());
        assert_eq!(verdict(&harness, &token), Ok(()), "{alg}");
    }
    // And with no other: the hash of the header is the hash of the signature.
    let token = signed(Signer::Rs384, header("RS256", "noalg").json(), claims().json());
    assert_eq!(verdict(&harness, &token), Err(Reason::BadSignature));
}

/// The list was compared with the header, and the signature verified with the algorithm of the JWK.
#[test]
fn cve_2026_48523_the_listed_algorithm_is_the_one_that_verifies() {
    let harness = Harness::standard();
    // The header names RS256, which is listed; the key names PS256, and so is the signature.
    let token = |iss: &str, signer| {
        signed(signer, header("RS256", "pss").json(), Members::claims(iss).json())
    };
    assert_eq!(
        verdict(&harness, &token(MANY, Signer::OtherPs256)),
        Err(Reason::AlgorithmNotAllowed)
    );
    // Where PS256 is not listed at all, its key is no key.
    assert_eq!(
        verdict(&harness, &token("https://rsa.example", Signer::Ps256)),
        Err(Reason::UnknownKey)
    );
}

#[test]
fn cve_2026_23993_an_unknown_algorithm_does_not_slip_through() {
    let harness = Harness::standard();
    for alg in ["", "none", "NONE", "nOnE", "XX999", "HS1", "unknown", "null", "undefined"] {
        for signer in [Signer::Unsigned, Signer::Ed] {
            let token = signed(signer, header(alg, "ed").json(), claims().json());
            assert_eq!(
                verdict(&harness, &token),
                Err(Reason::AlgorithmNotAllowed),
                "{alg} {signer:?}"
            );
        }
    }
}

/// r = s = 0 satisfied the equation of a verifier that did not look at their range.
#[test]
fn cve_2022_21449_zeros_are_no_signature() {
    let harness = Harness::standard();
    for (alg, kid, length) in [
        ("ES256", "p256", 64),
        ("ES384", "p384", 96),
        ("EdDSA", "ed", 64),
        ("RS256", "rsa", 256),
        ("PS256", "pss", 256),
    ] {
        let token = format!(
            "{}.{}.{}",
            base64url(header(alg, kid).json()),
            base64url(claims().json()),
            base64url(vec![0; length])
        );
        assert_eq!(verdict(&harness, &token), Err(Reason::BadSignature), "{alg}");
    }
}

/// The token brought its own key; one library took it where no other was found.
#[test]
fn cve_2018_0114_2026_27962_a_key_in_the_header_is_not_trusted() {
    let harness = Harness::standard();
    let jwk = format!("{{\"kid\":\"mine\",{}}}", jwk_members(&KEYS.attacker));
    for (kid, expected) in [
        (Some("ed"), Reason::BadSignature),
        (Some("mine"), Reason::UnknownKey),
        (None, Reason::UnknownKey),
    ] {
        let header = match kid {
            Some(kid) => header("EdDSA", kid),
            None => header("EdDSA", "").without("kid"),
        };
        let token = signed(Signer::Attacker, header.with("jwk", &jwk).json(), claims().json());
        assert_eq!(verdict(&harness, &token), Err(expected), "{kid:?}");
    }
}

/// The header as the way to a key: requests into the network, files, SQL.
#[test]
fn jku_x5u_and_kid_are_no_locators() {
    let harness = Harness::standard();
    for (name, value) in [
        ("jku", "http://127.0.0.1:1/jwks.json"),
        ("x5u", "http://[::1]:1/cert.pem"),
        ("kid", "http://169.254.169.254/"),
        ("kid", "../../../../dev/null"),
        ("kid", "x' UNION SELECT 'secret"),
        ("kid", "/dev/tcp/127.0.0.1/1"),
    ] {
        for signer in [Signer::Attacker, Signer::Hs256(b"")] {
            let alg = if matches!(signer, Signer::Attacker) { "EdDSA" } else { "HS256" };
            let token =
                signed(signer, header(alg, "new").text(name, value).json(), claims().json());
            let expected =
                if alg == "HS256" { Reason::AlgorithmNotAllowed } else { Reason::UnknownKey };
            assert_eq!(verdict(&harness, &token), Err(expected), "{name} {value}");
            assert!(is_within(MOST, || verdict(&harness, &token)), "{name} {value}");
        }
    }
}

/// Decrypting was taken for verifying, and the token inside was not signed at all.
#[test]
fn cve_2023_51774_2026_29000_2026_49230_encryption_proves_nothing() {
    let harness = Harness::standard();
    let inner = |header: &str| format!("{}.{}.", base64url(header), base64url(claims().json()));
    for to in [&KEYS.rsa, &KEYS.rsa_other] {
        for header in [
            r#"{"alg":"RSA-OAEP","enc":"A256GCM"}"#,
            r#"{"alg":"RSA-OAEP","enc":"A256GCM","cty":"JWT","kid":"rsa"}"#,
            r#"{"alg":"RS256","enc":"A256GCM","kid":"rsa"}"#,
        ] {
            for inner in [
                inner(r#"{"alg":"none"}"#),
                inner("{}"),
                inner(r#"{"alg":"RS256","kid":"rsa"}"#),
                claims().json(),
            ] {
                assert_eq!(
                    verdict(&harness, &encrypted(to, header, &inner)),
                    Err(Reason::MalformedToken),
                    "{header} {inner}"
                );
            }
        }
    }
}

/// `exp` and `nbf` of the wrong type did not parse, and were taken for absent.
#[test]
fn cve_2026_25537_a_time_of_the_wrong_type_is_not_absent() {
    let harness = Harness::standard();
    for (name, moment) in [("exp", NOW - 3600), ("nbf", NOW + 3600), ("iat", NOW + 3600)] {
        for raw in [
            format!("\"{moment}\""),
            format!("[{moment}]"),
            "null".into(),
            "\"\"".into(),
            "true".into(),
            "{}".into(),
        ] {
            let token =
                signed(Signer::Ed, header("EdDSA", "ed").json(), claims().with(name, &raw).json());
            assert_eq!(verdict(&harness, &token), Err(Reason::InvalidClaim), "{name} {raw}");
        }
    }
}

/// Unknown critical members were ignored. The last one is python-jose's issue 413.
#[test]
fn cve_2025_59420_2026_32597_2026_35042_what_is_critical_is_not_ignored() {
    let harness = Harness::standard();
    for (name, value, crit) in [
        ("x-bind", "true", "[\"x-bind\"]"),
        ("b64", "false", "[\"b64\"]"),
        ("cnf", "{\"jkt\":\"x\"}", "[\"cnf\"]"),
        ("exp", "1", "[\"exp\"]"),
        ("x", "1", "[]"),
    ] {
        let token = signed(
            Signer::Ed,
            header("EdDSA", "ed").with(name, value).with("crit", crit).json(),
            claims().json(),
        );
        assert_eq!(verdict(&harness, &token), Err(Reason::MalformedToken), "{crit}");
    }
}

/// `"https://a" in "https://ab"` is true.
#[test]
fn cve_2024_53861_a_part_of_an_issuer_is_no_issuer() {
    let harness = Harness::standard();
    for end in 0..MANY.len() {
        let token =
            signed(Signer::Ed, header("EdDSA", "ed").json(), Members::claims(&MANY[..end]).json());
        assert_eq!(verdict(&harness, &token), Err(Reason::UnknownIssuer), "{}", &MANY[..end]);
        let token = signed(
            Signer::Ed,
            header("EdDSA", "ed").json(),
            Members::claims(&MANY[end + 1..]).json(),
        );
        assert_eq!(verdict(&harness, &token), Err(Reason::UnknownIssuer), "{}", &MANY[end + 1..]);
    }
    let token = signed(Signer::Ed, header("EdDSA", "ed").json(), claims().json());
    assert_eq!(verdict(&harness, &token), Ok(()));
}

#[test]
fn cve_2025_62610_a_token_for_another_service_is_refused() {
    let harness = Harness::standard();
    for aud in ["\"billing\"", "[\"billing\"]", "[]", "null"] {
        let token =
            signed(Signer::Ed, header("EdDSA", "ed").json(), claims().with("aud", aud).json());
        assert_eq!(verdict(&harness, &token), Err(Reason::WrongAudience), "{aud}");
    }
}

/// Splitting at every dot took memory and time in proportion to them.
#[test]
fn cve_2025_22868_2025_27144_2025_30204_dots_cost_nothing() {
    let harness = Harness::standard();
    let good = signed(Signer::Ed, header("EdDSA", "ed").json(), claims().json());
    for token in [
        ".".repeat(8_000),
        format!("{good}{}", ".".repeat(8_000)),
        ".a".repeat(8_000),
        ".".repeat(1 << 20),
    ] {
        assert_eq!(verdict(&harness, &token), Err(Reason::MalformedToken));
        assert!(is_within(MOST, || verdict(&harness, &token)), "{} bytes", token.len());
    }
}

/// A few bytes that inflate to gigabytes, and numbers of rounds that take hours: nothing here
/// inflates or derives.
#[test]
fn cve_2024_28176_2024_28180_2026_34986_2026_39373_nothing_is_inflated() {
    let harness = Harness::standard();
    for header in [
        r#"{"alg":"RSA-OAEP","enc":"A256GCM","zip":"DEF"}"#,
        r#"{"alg":"PBES2-HS512+A256KW","enc":"A256GCM","p2s":"AAAA","p2c":4294967295}"#,
        r#"{"alg":"dir","enc":"A256GCM","zip":"DEF"}"#,
    ] {
        let five = encrypted(&KEYS.rsa, header, &"\0".repeat(9_000));
        let three = signed(Signer::Ed, header, claims().json());
        for token in [five, three] {
            assert_eq!(verdict(&harness, &token), Err(Reason::MalformedToken), "{header}");
            assert!(is_within(MOST, || verdict(&harness, &token)), "{header}");
        }
    }
}

/// Caches that used a part of a token as the key, or did not evaluate the rule again. A check in
/// the core has no cache.
#[test]
fn cve_2021_32701_2026_35030_2026_35039_ghsa_4mq7_pvjg_xp2r_heimdall_3452_one_check_says_nothing_of_the_next()
 {
    let harness = Harness::standard();
    let token = |subject: &str| {
        signed(Signer::Ed, header("EdDSA", "ed").json(), claims().text("sub", subject).json())
    };
    let (first, second) = (token("user-1"), token("user-2"));
    assert_eq!(first[..40], second[..40], "the tokens start alike");
    assert_eq!(harness.principal(&first).subject(), "user-1");
    assert_eq!(harness.principal(&second).subject(), "user-2");
    // The same header and payload with another signature, the same signature with another payload.
    let TokenParts { header: head, payload, signature } = parts(&first);
    let TokenParts { payload: other_payload, signature: other_signature, .. } = parts(&second);
    assert_eq!(
        verdict(&harness, &format!("{head}.{payload}.{other_signature}")),
        Err(Reason::BadSignature)
    );
    assert_eq!(
        verdict(&harness, &format!("{head}.{other_payload}.{signature}")),
        Err(Reason::BadSignature)
    );
    assert_eq!(verdict(&harness, &format!("{head}.{payload}.")), Err(Reason::BadSignature));
    // The same token under another rule, under another issuer's configuration, and later.
    assert_eq!(harness.bearer("/v1/chat", &first).verdict(), Err(Reason::InsufficientScope));
    let elsewhere = format!(
        "issuers: [{{ issuer: {MANY}, audiences: [other-api], algorithms: [EdDSA], jwks: {{ file: /k }} }}]\n\
         routes: [{{ match: {{ paths: [/v1/models], methods: [GET] }}, scopes: [] }}]\n"
    );
    let elsewhere = Harness::new(
        &elsewhere,
        &[(MANY, &[format!("{{\"kid\":\"ed\",{}}}", jwk_members(&KEYS.ed))])],
    );
    assert_eq!(verdict(&elsewhere, &first), Err(Reason::WrongAudience));
    assert_eq!(verdict(&harness.later(629), &first), Ok(()), "exp is 600 s away, leeway 30 s");
    assert_eq!(verdict(&harness.later(630), &first), Err(Reason::Expired));
    assert_eq!(verdict(&harness, &first), Ok(()));
}

/// The secret was looked up by claims of the token before it was verified.
#[test]
fn ghsa_869p_cjfg_cm3x_nothing_of_the_claims_is_used_before_the_signature_holds() {
    let harness = Harness::standard();
    for claims in [
        claims().text("sub", "admin").text("jti", "x"),
        claims().text("kid", "ed").with("jwk", &format!("{{{}}}", jwk_members(&KEYS.attacker))),
        claims().text("secret", "x").text("tenant_id", "other"),
    ] {
        // The harness itself asserts that no such principal reaches the evidence.
        let token = signed(Signer::Attacker, header("EdDSA", "ed").json(), claims.json());
        assert_eq!(verdict(&harness, &token), Err(Reason::BadSignature));
    }
}
