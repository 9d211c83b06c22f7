//! J01 to J04 and J23: the algorithm comes from the configuration and the key, never from the
//! token.

use tollgate_core::{
    credential::jwt::key_set::{KeySet, KeySetError},
    denial::Reason,
    secret::Secret,
};

use crate::{
    harness::{Row, SECRET, Table, compile, row},
    keys::{KEYS, Signer, jwk_members},
    token::{Members, signed},
};

const NOT_ALLOWED: Result<(), Reason> = Err(Reason::AlgorithmNotAllowed);
const BAD_SIGNATURE: Result<(), Reason> = Err(Reason::BadSignature);

pub fn tables() -> Vec<Table> {
    let mut rows = issuer_list();
    rows.extend(spelling());
    rows.extend(key_binding());
    rows.extend(symmetric());
    vec![Table::standard(rows)]
}

fn token(iss: &str, alg: &str, kid: &str, signer: Signer) -> String {
    signed(signer, Members::header(alg, kid).json(), Members::claims(iss).json())
}

/// J01: `https://rsa.example` lists RS256 only, and publishes keys of every kind.
fn issuer_list() -> Vec<Row> {
    let rsa = |says: &str, alg, kid, signer, expected| {
        row("J01", says, token("https://rsa.example", alg, kid, signer), expected)
    };
    vec![
        rsa("the listed algorithm", "RS256", "rsa", Signer::Rs256, Ok(())),
        rsa("ES256 by a published key", "ES256", "p256", Signer::Es256, NOT_ALLOWED),
        rsa("EdDSA by a published key", "EdDSA", "ed", Signer::Ed, NOT_ALLOWED),
        rsa("PS256 by a published key", "PS256", "pss", Signer::Ps256, NOT_ALLOWED),
        rsa("PS256 by the RS256 key", "PS256", "rsa", Signer::Ps256, NOT_ALLOWED),
        rsa("RS384 by the RS256 key", "RS384", "rsa", Signer::Rs384, NOT_ALLOWED),
        rsa("RS512 by the RS256 key", "RS512", "rsa", Signer::Rs512, NOT_ALLOWED),
        rsa(
            "ES384 under a name that is not published",
            "ES384",
            "p384",
            Signer::Es384,
            NOT_ALLOWED,
        ),
        rsa(
            "HS256 with the other issuer's secret",
            "HS256",
            "rsa",
            Signer::Hs256(SECRET),
            NOT_ALLOWED,
        ),
    ]
}

/// J02: byte for byte. Raw JSON, so that it can be something else than a string.
fn spelling() -> Vec<Row> {
    let mut rows = Vec::new();
    for alg in [
        "\"none\"",
        "\"None\"",
        "\"NONE\"",
        "\"noNE\"",
        "\"nOnE\"",
        "\"none \"",
        "\"\"",
        "\"rs256\"",
        "\"Rs256\"",
        "\"RS256 \"",
        "\" RS256\"",
        "\"RS256\\u0000\"",
        "\"RS256\\n\"",
        "\"RS-256\"",
        "\"RSA256\"",
        "\"SHA256withRSA\"",
        "\"\\uff32S256\"",
        "\"RS256,none\"",
        "[\"RS256\"]",
        "[\"none\",\"RS256\"]",
        "{\"RS256\":1}",
        "null",
        "true",
        "0",
        "256",
        // Known names that are not offered (RFC 9864's other curve, secp256k1, RSA1_5, direct
        // encryption), or not in the issuer's list.
        "\"Ed25519\"",
        "\"Ed448\"",
        "\"ES256K\"",
        "\"ES512\"",
        "\"RSA1_5\"",
        "\"RSA-OAEP\"",
        "\"dir\"",
        "\"RS1\"",
        "\"HS1\"",
        "\"XX999\"",
    ] {
        for (signer, how) in [(Signer::Unsigned, "unsigned"), (Signer::Rs256, "signed with RS256")]
        {
            let header = Members::header("", "rsa").with("alg", alg);
            let token =
                signed(signer, header.json(), Members::claims("https://rsa.example").json());
            rows.push(row("J02", format!("alg {alg}, {how}"), token, NOT_ALLOWED));
        }
    }
    let header = Members::header("", "rsa").without("alg");
    let token = signed(Signer::Rs256, header.json(), Members::claims("https://rsa.example").json());
    rows.push(row("J02", "no alg", token, NOT_ALLOWED));
    // A member's name is compared byte for byte as well.
    let header = Members::header("", "rsa").without("alg").text("Alg", "RS256");
    let token = signed(Signer::Rs256, header.json(), Members::claims("https://rsa.example").json());
    rows.push(row("J02", "Alg for alg", token, NOT_ALLOWED));
    // The same string with JSON escapes is the same string.
    let header = Members::header("", "rsa").with("alg", "\"\\u0052S256\"");
    let token = signed(Signer::Rs256, header.json(), Members::claims("https://rsa.example").json());
    rows.push(row("J02", "alg with an escaped letter", token, Ok(())));
    rows
}

/// J03 and J04, at an issuer that lists seven algorithms: a key still verifies with its own one
/// only, or without `alg` with those of its type.
fn key_binding() -> Vec<Row> {
    let many = |line, says: &str, alg, kid, signer, expected| {
        row(line, says, token("https://many.example", alg, kid, signer), expected)
    };
    vec![
        many("J03", "RS256 by its key", "RS256", "rsa", Signer::Rs256, Ok(())),
        many("J03", "PS256 by its key", "PS256", "pss", Signer::OtherPs256, Ok(())),
        many("J03", "ES256 by its key", "ES256", "p256", Signer::Es256, Ok(())),
        many("J03", "ES384 by its key", "ES384", "p384", Signer::Es384, Ok(())),
        many("J03", "EdDSA by its key", "EdDSA", "ed", Signer::Ed, Ok(())),
        many(
            "J03",
            "a key without alg verifies with each of the list that fits",
            "RS256",
            "noalg",
            Signer::Rs256,
            Ok(()),
        ),
        many("J03", "another of the list", "PS256", "noalg", Signer::Ps256, Ok(())),
        many("J03", "a longer hash of the list", "RS384", "noalg", Signer::Rs384, Ok(())),
        many(
            "J03",
            "the hash that the header names",
            "RS256",
            "noalg",
            Signer::Rs384,
            BAD_SIGNATURE,
        ),
        many("J03", "ES256 on an RSA key", "ES256", "noalg", Signer::Es256, NOT_ALLOWED),
        row(
            "J03",
            "an algorithm that is not listed",
            token("https://rsa.example", "PS256", "noalg", Signer::Ps256),
            NOT_ALLOWED,
        ),
        many("J03", "RS384 on a key of RS256", "RS384", "rsa", Signer::Rs384, NOT_ALLOWED),
        many("J03", "RS512 on a key of RS256", "RS512", "rsa", Signer::Rs512, NOT_ALLOWED),
        many(
            "J03",
            "ES256 with the name of an RSA key",
            "ES256",
            "rsa",
            Signer::Es256,
            NOT_ALLOWED,
        ),
        many(
            "J03",
            "ES384 with the name of a P-256 key",
            "ES384",
            "p256",
            Signer::Es384,
            NOT_ALLOWED,
        ),
        many("J03", "EdDSA with the name of an EC key", "EdDSA", "p256", Signer::Ed, NOT_ALLOWED),
        many(
            "J03",
            "ES256 with the name of an Ed25519 key",
            "ES256",
            "ed",
            Signer::Es256,
            NOT_ALLOWED,
        ),
        many(
            "J04",
            "a PS256 signature on a key of RS256, said to be PS256",
            "PS256",
            "rsa",
            Signer::Ps256,
            NOT_ALLOWED,
        ),
        many(
            "J04",
            "a PS256 signature on a key of RS256, said to be RS256",
            "RS256",
            "rsa",
            Signer::Ps256,
            BAD_SIGNATURE,
        ),
        many(
            "J04",
            "an RS256 signature on a key of PS256, said to be RS256",
            "RS256",
            "pss",
            Signer::OtherRs256,
            NOT_ALLOWED,
        ),
        many(
            "J04",
            "an RS256 signature on a key of PS256, said to be PS256",
            "PS256",
            "pss",
            Signer::OtherRs256,
            BAD_SIGNATURE,
        ),
        many(
            "J04",
            "an RS384 signature said to be RS256",
            "RS256",
            "rsa",
            Signer::Rs384,
            BAD_SIGNATURE,
        ),
        many(
            "J04",
            "an RS512 signature said to be RS256",
            "RS256",
            "rsa",
            Signer::Rs512,
            BAD_SIGNATURE,
        ),
        many(
            "J04",
            "an ES384 signature said to be ES256",
            "ES256",
            "p256",
            Signer::Es384,
            BAD_SIGNATURE,
        ),
        many(
            "J04",
            "an EdDSA signature said to be ES256, of the same length",
            "ES256",
            "p256",
            Signer::Ed,
            BAD_SIGNATURE,
        ),
        many(
            "J04",
            "an ES256 signature said to be EdDSA, of the same length",
            "EdDSA",
            "ed",
            Signer::Es256,
            BAD_SIGNATURE,
        ),
    ]
}

/// J23: a shared secret is used where it is configured, and nowhere else.
fn symmetric() -> Vec<Row> {
    let secret = |says: &str, alg, signer, expected| {
        let header = Members::header(alg, "any").without("kid");
        row(
            "J23",
            says,
            signed(signer, header.json(), Members::claims("https://secret.example").json()),
            expected,
        )
    };
    let mut rows = vec![
        secret("HS256 where a secret is configured", "HS256", Signer::Hs256(SECRET), Ok(())),
        secret(
            "another secret",
            "HS256",
            Signer::Hs256(b"0123456789abcdef0123456789abcdeF"),
            BAD_SIGNATURE,
        ),
        secret("the empty secret", "HS256", Signer::Hs256(b""), BAD_SIGNATURE),
        secret("a longer HMAC than listed", "HS384", Signer::Hs256(SECRET), NOT_ALLOWED),
        secret("RS256 at an issuer with a secret", "RS256", Signer::Rs256, NOT_ALLOWED),
        secret("EdDSA at an issuer with a secret", "EdDSA", Signer::Ed, NOT_ALLOWED),
    ];
    for (iss, kid) in [
        ("https://rsa.example", "rsa"),
        ("https://many.example", "ed"),
        ("https://lone.example", "ed"),
    ] {
        let token = token(iss, "HS256", kid, Signer::Hs256(SECRET));
        rows.push(row(
            "J23",
            format!("HS256 at {iss}, with the secret of another issuer"),
            token,
            NOT_ALLOWED,
        ));
    }
    rows
}

#[test]
fn the_lines_hold() {
    tables().iter().for_each(Table::hold);
}

#[test]
fn j23_a_shared_secret_is_never_loaded_from_a_key_set() {
    use tollgate_core::credential::jwt::algorithm::Algorithm;
    let oct = format!(
        r#"{{"keys":[{{"kty":"oct","alg":"HS256","kid":"hs","k":"{}"}}]}}"#,
        tollgate_testkit::base64url(SECRET)
    );
    for algorithms in
        [&[Algorithm::RS256][..], &[Algorithm::HS256], &[Algorithm::RS256, Algorithm::HS256]]
    {
        let error = KeySet::parse(oct.as_bytes(), algorithms).map(drop).unwrap_err();
        assert!(
            matches!(&error, KeySetError::NoUsableKey { skipped, .. } if skipped.len() == 1),
            "{algorithms:?}: {error}"
        );
    }
    // Nor does a public key become one: its JWK has no algorithm of a secret.
    let rsa = format!(r#"{{"keys":[{{"kid":"rsa","alg":"HS256",{}}}]}}"#, jwk_members(&KEYS.rsa));
    let error = KeySet::parse(rsa.as_bytes(), &[Algorithm::HS256]).map(drop).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no key that this issuer may use: `rsa`: its alg does not fit its type"
    );
}

#[test]
fn j23_symmetric_algorithms_are_refused_by_configuration() {
    let policy = |issuer: &str| {
        let issuer = format!("{{ issuer: https://a.example, audiences: [x], {issuer} }}");
        compile(&format!("issuers: [{issuer}]\nroutes: [{{ match: {{ paths: [/x], methods: [GET] }}, scopes: [] }}]\n")).map(drop)
    };
    let long = "0123456789abcdef0123456789abcdef";
    for (issuer, complaint) in [
        ("algorithms: [HS256], jwks: { file: /k }", "HS256, HS384 and HS512 need `secret`"),
        ("algorithms: [RS256, HS256], jwks: { file: /k }", "HS256, HS384 and HS512 need `secret`"),
        (&format!("algorithms: [RS256], secret: {long}"), "with `secret`, only HS256"),
        (&format!("algorithms: [HS256, RS256], secret: {long}"), "with `secret`, only HS256"),
        (
            &format!("algorithms: [HS256], secret: {long}, jwks: {{ file: /k }}"),
            "either `jwks` or `secret`",
        ),
        ("algorithms: [none], jwks: { file: /k }", "unknown algorithm `none`"),
        ("algorithms: [], jwks: { file: /k }", "at least one algorithm"),
        ("algorithms: [RS256]", "the issuer has no keys"),
    ] {
        let errors = policy(issuer).unwrap_err();
        assert!(errors.contains(complaint), "{issuer}: {errors}");
    }
    assert_eq!(policy(&format!("algorithms: [HS256], secret: {long}")), Ok(()));
    // RFC 7518 section 3.2: at least as long as the hash; CVE-2026-44699: above all not empty.
    use tollgate_core::credential::jwt::algorithm::Algorithm::{HS256, HS384, HS512};
    for (algorithm, bytes) in [(HS256, 32), (HS384, 48), (HS512, 64)] {
        assert!(KeySet::from_secret(&Secret::new(vec![7; bytes]), &[algorithm]).is_ok());
        for short in [0, 1, bytes - 1] {
            assert!(
                KeySet::from_secret(&Secret::new(vec![7; short]), &[algorithm]).is_err(),
                "{algorithm:?} {short}"
            );
        }
    }
}
