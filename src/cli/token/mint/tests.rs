use aws_lc_rs::{
    encoding::{AsDer as _, Pkcs8V1Der},
    rsa,
    signature::{self, EcdsaKeyPair, Ed25519KeyPair},
};
use clap::Parser;
use jsonwebtoken::DecodingKey;

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

fn pem(der: &[u8]) -> Secret {
    Secret::new(format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        STANDARD.encode(der)
    ))
}

fn part(token: &str, at: usize) -> Map<String, Value> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(at).unwrap()).unwrap())
        .unwrap()
}

fn secret() -> Secret {
    Secret::new([b"s".repeat(32), b"\n".to_vec()].concat())
}

#[test]
fn the_algorithm_is_told_by_the_key() {
    let random = SystemRandom::new();
    let rsa: Pkcs8V1Der<'_> =
        rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap().as_der().unwrap();
    let p256 =
        EcdsaKeyPair::generate_pkcs8(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    let p384 =
        EcdsaKeyPair::generate_pkcs8(&signature::ECDSA_P384_SHA384_FIXED_SIGNING, &random).unwrap();
    let ed = Ed25519KeyPair::generate_pkcs8v1(&random).unwrap();
    for (key, alg) in [
        (pem(rsa.as_ref()), "RS256"),
        (pem(p256.as_ref()), "ES256"),
        (pem(p384.as_ref()), "ES384"),
        (pem(ed.as_ref()), "EdDSA"),
        (secret(), "HS256"),
    ] {
        assert_eq!(part(&mint(&[]).token(&key, NOW).unwrap(), 0)["alg"], alg);
    }
    assert_eq!(
        part(&mint(&["--alg", "PS384"]).token(&pem(rsa.as_ref()), NOW).unwrap(), 0)["alg"],
        "PS384"
    );
    for (key, alg) in [
        (pem(p256.as_ref()), "ES384"),
        (pem(ed.as_ref()), "RS256"),
        (secret(), "RS256"),
        (pem(rsa.as_ref()), "HS256"),
    ] {
        assert!(mint(&["--alg", alg]).token(&key, NOW).is_err(), "{alg}");
    }
}

#[test]
fn the_token_says_what_the_options_say() {
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
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let key = DecodingKey::from_secret(&b"s".repeat(32));
    assert!(
        jsonwebtoken::crypto::verify(signature, signed.as_bytes(), &key, Algorithm::HS256).unwrap()
    );
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
    assert!(claim("a=text").unwrap_err().contains("quotes"));
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
