//! The reader of proofs (DPoP). An input is the header, a line feed, and the claims; `"JWK"` in the header stands for the public key of the
//! client, and both are signed with it as they are. What is accepted is for this request, also for a reader that takes the last of
//! repeated members.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tollgate_core::{
    config::{Document, Errors, Path},
    credential::dpop::{Dpop, DpopConfig, Expected, verify},
    time::Timestamp,
};
use tollgate_testkit::{Algorithm, KeyPair, KeyType, signed};

const NOW: u64 = 1_800_000_000;
const TOKEN: &str = "eyJ.eyJ.c2ln";
/// The SHA-256 of the token in base64url.
const HASH: &str = "lgPxmyU-mVsOc8sHg1cqDzxutby4gro9WlEd4WpAEPE";

static CONFIG: LazyLock<Dpop> = LazyLock::new(|| {
    let text = "origins: ['https://api.example']\nalgorithms: [EdDSA]";
    let document = Document::parse(text, &|_| None).expect("YAML");
    let config: DpopConfig = document.read().expect("a section");
    config.compile(&Path::root(), &mut Errors::default())
});

/// The key of the client, and its thumbprint.
static KEY: LazyLock<(KeyPair, [u8; 32])> = LazyLock::new(|| {
    let key = KeyPair::generate(KeyType::Ed25519).expect("a key");
    let text = tollgate_testkit::thumbprint(&key).expect("a public key");
    let mut bytes = text.bytes().flat_map(|letter| {
        let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let value = alphabet.bytes().position(|known| known == letter).expect("base64url");
        (0..6).rev().map(move |bit| (value >> bit & 1) as u8)
    });
    let thumbprint = std::array::from_fn(|_| {
        (0..8).fold(0, |byte, _| byte << 1 | bytes.next().expect("256 bits"))
    });
    (key, thumbprint)
});

fuzz_target!(|input: &[u8]| {
    let (key, thumbprint) = &*KEY;
    let expected = Expected {
        method: "GET",
        path: "/v1/models",
        token: TOKEN.as_bytes(),
        thumbprint,
        nonces: None,
        now: Timestamp::from_secs(NOW),
    };
    // As it is: no input is a proof by itself.
    assert!(verify(input, &expected, &CONFIG).is_err());
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (header, claims) = text.split_once('\n').unwrap_or((text, ""));
    let jwk = Value::Object(key.bare_jwk().expect("a public key")).to_string();
    let header = header.replace("\"JWK\"", &jwk);
    let proof = signed(&header, claims, |message| key.sign(Algorithm::EdDsa, message));
    let proof = proof.expect("a key signs");
    if verify(proof.as_bytes(), &expected, &CONFIG).is_err() {
        return;
    }
    let read = |text: &str| serde_json::from_str::<Value>(text).expect("it was accepted");
    let (header, claims) = (read(&header), read(claims));
    assert!(header["typ"] == "dpop+jwt" && header.get("crit").is_none());
    assert_eq!(header["jwk"]["kty"], "OKP");
    assert!(header["jwk"].get("d").is_none());
    assert_eq!((&claims["htm"], &claims["ath"]), (&"GET".into(), &HASH.into()));
    let issued = claims["iat"].as_f64().expect("a number");
    assert!((issued - NOW as f64).abs() <= 60.0);
    assert!(claims["jti"].as_str().is_some_and(|jti| (1..=256).contains(&jti.len())));
    // A reader that does not normalise finds the same host.
    let uri = claims["htu"].as_str().expect("text").to_ascii_lowercase();
    let host = uri.strip_prefix("https://").expect("a scheme");
    let host = host.split(['/', '?', '#']).next().expect("a first part");
    assert!(
        ["api.example", "api.example:"]
            .contains(&host.trim_end_matches(|c: char| c.is_ascii_digit())),
        "{uri}"
    );
});
