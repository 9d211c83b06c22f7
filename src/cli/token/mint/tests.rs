use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use clap::Parser;
use tollgate_testkit::{KeyPair, KeyType, TokenParts};

use super::*;

const NOW: Timestamp = Timestamp::from_secs(1_767_225_600);

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    mint: Mint,
}

fn mint(arguments: &[&str]) -> Mint {
    Line::try_parse_from(["mint", "--key", "unused"].into_iter().chain(arguments.iter().copied()))
        .unwrap()
        .mint
}

fn key(key_type: KeyType) -> Secret {
    Secret::new(KeyPair::generate(key_type).unwrap().to_pem().unwrap())
}

fn part(token: &str, at: usize) -> Map<String, Value> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(at).unwrap()).unwrap())
        .unwrap()
}

fn secret() -> Secret {
    Secret::new([b"s".repeat(32), b"\n".to_vec()].concat())
}

#[test]
fn the_key_determines_the_algorithm() {
    let (rsa, p256, ed) = (key(KeyType::Rsa), key(KeyType::P256), key(KeyType::Ed25519));
    for (key, alg) in [
        (&rsa, "RS256"),
        (&p256, "ES256"),
        (&key(KeyType::P384), "ES384"),
        (&ed, "EdDSA"),
        (&secret(), "HS256"),
    ] {
        assert_eq!(part(&mint(&[]).token(key, NOW).unwrap(), 0)["alg"], alg);
    }
    assert_eq!(part(&mint(&["--alg", "PS384"]).token(&rsa, NOW).unwrap(), 0)["alg"], "PS384");
    for (key, alg) in
        [(&p256, "ES384"), (&ed, "RS256"), (&secret(), "RS256"), (&rsa, "HS256"), (&rsa, "none")]
    {
        assert!(mint(&["--alg", alg]).token(key, NOW).is_err(), "{alg}");
    }
}

#[test]
fn both_names_of_ed25519_and_the_largest_curve_are_known() {
    let p521 = key(KeyType::P521);
    assert_eq!(part(&mint(&[]).token(&p521, NOW).unwrap(), 0)["alg"], "ES512");
    let ed = key(KeyType::Ed25519);
    assert_eq!(part(&mint(&["--alg", "Ed25519"]).token(&ed, NOW).unwrap(), 0)["alg"], "Ed25519");
    for alg in ["Ed448", "ES256K"] {
        let error = mint(&["--alg", alg]).token(&ed, NOW).unwrap_err().to_string();
        assert!(error.contains("unknown algorithm"), "{error}");
    }
}

#[test]
fn the_options_set_header_and_claims() {
    let mint = mint(&[
        "--kid",
        "k1",
        "--iss",
        "https://a",
        "--aud",
        "b",
        "--sub",
        "alice",
        "--scope",
        "x y",
        "--ttl",
        "10m",
        "--jti",
        "j1",
        "--claim",
        "tenant_id=\"acme\"",
        "--claim",
        "roles=[\"premium\"]",
        "--typ",
        "at+jwt",
    ]);
    let token = mint.token(&secret(), NOW).unwrap();
    assert_eq!(
        Value::Object(part(&token, 0)),
        json!({ "alg": "HS256", "kid": "k1", "typ": "at+jwt" })
    );
    assert_eq!(
        Value::Object(part(&token, 1)),
        json!({
            "iss": "https://a", "aud": "b", "sub": "alice", "scope": "x y", "iat": 1_767_225_600, "exp": 1_767_226_200,
            "jti": "j1", "tenant_id": "acme", "roles": ["premium"],
        })
    );
    // RFC 7515 section 5.2: the signature covers the header and the payload as they are encoded.
    let (message, _) = token.rsplit_once('.').unwrap();
    let expected = tollgate_testkit::hmac_sha256(&b"s".repeat(32), message.as_bytes());
    assert_eq!(TokenParts::of(&token).unwrap().signature_bytes().unwrap(), expected);
}

#[test]
fn what_is_left_out_is_not_there() {
    let claims = part(&mint(&["--jti", "", "--typ", ""]).token(&secret(), NOW).unwrap(), 1);
    assert_eq!(claims.keys().collect::<Vec<_>>(), ["exp", "iat"]);
    let two = part(&mint(&["--aud", "a", "--aud", "b"]).token(&secret(), NOW).unwrap(), 1);
    assert_eq!((two["aud"].clone(), two["jti"].as_str().unwrap().len()), (json!(["a", "b"]), 32));
}

#[test]
fn a_life_below_zero_has_ended() {
    let claims = part(&mint(&["--ttl=-1m"]).token(&secret(), NOW).unwrap(), 1);
    assert_eq!(
        (claims["exp"].as_u64(), claims["iat"].as_u64()),
        (Some(1_767_225_540), Some(1_767_225_540))
    );
    assert!("5".parse::<Ttl>().is_err() && "--5m".parse::<Ttl>().is_err());
}

#[test]
fn claims_are_json() {
    assert_eq!(claim("a=1").unwrap(), ("a".into(), json!(1)));
    assert_eq!(claim("a={\"b\":[\"=\"]}").unwrap(), ("a".into(), json!({ "b": ["="] })));
    assert!(claim("a=text").unwrap_err().to_string().contains("quotes"));
    assert!(claim("a").is_err() && claim("=1").is_err());
}

#[test]
fn a_file_that_is_no_key_is_named_for_what_it_is() {
    for (file, word) in [
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "not a private key"),
        ("-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----", "pkcs8"),
        (
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----",
            "encrypted",
        ),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", "not supported"),
        ("-----BEGIN PRIVATE KEY-----\n*\n-----END PRIVATE KEY-----", "not PEM"),
        ("-----BEGIN ", "not PEM"),
        ("short", "bits"),
    ] {
        let error = mint(&[]).token(&Secret::new(file), NOW).unwrap_err().to_string();
        assert!(error.contains(word), "{file}: {error}");
        assert!(!error.contains("AAAA") && !error.contains("short\""), "{error}");
    }
}
