//! J22 and J24: a signature has exactly the required length and range, and is verified before any
//! claim.

use tollgate_core::denial::Reason;
use tollgate_testkit::{TokenParts, base64url, der_integers, hmac_sha256};

use crate::{
    harness::{Harness, Row, SECRET, Table, row},
    keys::{KEYS, Signer, modulus},
    token::{Members, NOW, parts, signed},
};

const BAD: Result<(), Reason> = Err(Reason::BadSignature);

/// The order of P-256's group (SEC 2, secp256r1), big end first.
const N: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xbc, 0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];

/// The order of Ed25519's group, 2^252 + 27742317777372353535851937790883648493 (RFC 8032 section
/// 5.1), little end first.
const L: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

pub fn tables() -> Vec<Table> {
    let mut rows = ecdsa();
    rows.extend(edwards());
    rows.extend(rsa());
    rows.extend(hmac_lengths());
    rows.extend(before_claims());
    vec![Table::standard(rows)]
}

fn message(alg: &str, kid: &str, iss: &str) -> String {
    format!(
        "{}.{}",
        base64url(Members::header(alg, kid).json()),
        base64url(Members::claims(iss).json())
    )
}

fn with_signature(message: &str, signature: &[u8]) -> String {
    format!("{message}.{}", base64url(signature))
}

/// `n - s`, big end first.
fn negated(s: &[u8]) -> Vec<u8> {
    let mut borrow = 0;
    let mut out = vec![0; N.len()];
    for at in (0..N.len()).rev() {
        let digit = i32::from(N[at]) - i32::from(s[at]) - borrow;
        borrow = i32::from(digit < 0);
        out[at] = u8::try_from(digit.rem_euclid(256)).unwrap();
    }
    assert_eq!(borrow, 0, "s is below n");
    out
}

/// `s + l`, little end first.
fn plus_order(s: &[u8]) -> Vec<u8> {
    let mut carry = 0;
    let sum = s.iter().zip(L).map(|(a, b)| {
        let digit = u16::from(*a) + u16::from(b) + carry;
        carry = digit >> 8;
        digit.to_le_bytes()[0]
    });
    sum.collect()
}

fn ecdsa() -> Vec<Row> {
    let message = message("ES256", "p256", "https://many.example");
    let good = Signer::Es256.sign(message.as_bytes());
    let (r, s) = good.split_at(32);
    let zero = [0; 32];
    let one = [&zero[..31], &[1]].concat();
    let der = KEYS.p256.sign_der(message.as_bytes()).unwrap();
    assert!(
        der_integers(&der).is_some_and(|(r, s)| r.len() <= 32 && s.len() <= 32),
        "the DER signature is one"
    );
    // A DER signature cut or filled to 64 bytes is none either.
    let mut der64 = der.clone();
    der64.resize(64, 0);
    let long = [good.as_slice(), &[0]].concat();
    let mut rows = vec![
        row("J22", "ES256: 64 bytes", with_signature(&message, &good), Ok(())),
        row(
            "J22",
            "ES256: the other half of the pair, which RFC 7518 allows",
            with_signature(&message, &[r, &negated(s)].concat()),
            Ok(()),
        ),
        row("J22", "ES256: 63 bytes", with_signature(&message, &good[..63]), BAD),
        row("J22", "ES256: 65 bytes", with_signature(&message, &long), BAD),
        row("J22", "ES256: 32 bytes", with_signature(&message, r), BAD),
        row(
            "J22",
            "ES256: 96 bytes, as ES384 has",
            with_signature(&message, &[&good, r].concat()),
            BAD,
        ),
        row(
            "J22",
            "ES256: twice",
            with_signature(&message, &[good.as_slice(), &good].concat()),
            BAD,
        ),
        row(
            "J22",
            "ES256: wider halves with zeros",
            with_signature(&message, &[&[0], r, &[0], s].concat()),
            BAD,
        ),
        row("J22", "ES256: DER", with_signature(&message, &der), BAD),
        row("J22", "ES256: DER in 64 bytes", with_signature(&message, &der64), BAD),
        row("J22", "ES256: no signature", with_signature(&message, b""), BAD),
        row("J22", "ES256: s and r", with_signature(&message, &[s, r].concat()), BAD),
    ];
    for (says, r, s) in [
        ("r and s are 0 (CVE-2022-21449)", &zero[..], &zero[..]),
        ("r is 0", &zero, s),
        ("s is 0", r, &zero),
        ("r and s are 1", &one, &one),
        ("r and s are n", &N, &N),
        ("r is n", &N, s),
        ("s is n", r, &N),
        ("r is 0 and s is 1", &zero, &one),
        ("r is 1 and s is 0", &one, &zero),
        ("r and s are all ones", &[0xff; 32], &[0xff; 32]),
        ("s is all ones", r, &[0xff; 32]),
    ] {
        rows.push(row(
            "J22",
            format!("ES256: {says}"),
            with_signature(&message, &[r, s].concat()),
            BAD,
        ));
    }
    let message = self::message("ES384", "p384", "https://many.example");
    let good = Signer::Es384.sign(message.as_bytes());
    for (says, signature, expected) in [
        ("96 bytes", &good[..], Ok(())),
        ("95 bytes", &good[..95], BAD),
        ("64 bytes", &good[..64], BAD),
        ("r and s are 0", &[0; 96], BAD),
        ("all ones", &[0xff; 96], BAD),
    ] {
        rows.push(row(
            "J22",
            format!("ES384: {says}"),
            with_signature(&message, signature),
            expected,
        ));
    }
    rows
}

fn edwards() -> Vec<Row> {
    let message = message("EdDSA", "ed", "https://many.example");
    let good = Signer::Ed.sign(message.as_bytes());
    let (r, s) = good.split_at(32);
    let identity = [&[1][..], &[0; 31]].concat();
    let twice = plus_order(&plus_order(s));
    let bad = |says: &str, signature: &[u8]| {
        row("J22", format!("EdDSA: {says}"), with_signature(&message, signature), BAD)
    };
    vec![
        row("J22", "EdDSA: 64 bytes", with_signature(&message, &good), Ok(())),
        bad("S + L, the same point (RFC 8032 section 5.1.7)", &[r, &plus_order(s)].concat()),
        bad("S + 2 L", &[r, &twice].concat()),
        bad("S is L", &[r, &L].concat()),
        bad("S is all ones", &[r, &[0xff; 32]].concat()),
        bad("S is 0", &[r, &[0; 32]].concat()),
        bad("R is 0", &[&[0; 32], s].concat()),
        bad("R is the neutral point and S is 0", &[&identity[..], &[0; 32]].concat()),
        bad("R is no point", &[&[0xff; 32], s].concat()),
        bad("S and R", &[s, r].concat()),
        bad("63 bytes", &good[..63]),
        bad("65 bytes", &[good.as_slice(), &[0]].concat()),
        bad("32 bytes", r),
        bad("96 bytes", &[good.as_slice(), r].concat()),
        bad("no signature", b""),
        bad("zeros", &[0; 64]),
        bad("of another key", &Signer::Attacker.sign(message.as_bytes())),
        bad("of another message", &Signer::Ed.sign(b"x")),
    ]
}

fn rsa() -> Vec<Row> {
    let message = message("RS256", "rsa", "https://rsa.example");
    let good = Signer::Rs256.sign(message.as_bytes());
    let n = modulus(&KEYS.rsa);
    let n = n.as_slice();
    let mut one = vec![0; 256];
    one[255] = 1;
    // n is odd, so that one less changes its last bit only, and one more carries.
    let mut below = n.to_vec();
    below[255] &= 0xfe;
    let mut above = n.to_vec();
    for byte in above.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            break;
        }
    }
    let mut flipped = good.clone();
    flipped[0] ^= 0x80;
    let bad = |says: &str, signature: &[u8]| {
        row("J22", format!("RS256: {says}"), with_signature(&message, signature), BAD)
    };
    vec![
        row("J22", "RS256: 256 bytes", with_signature(&message, &good), Ok(())),
        bad("255 bytes", &good[..255]),
        bad("255 bytes without the first", &good[1..]),
        bad("257 bytes, a zero behind", &[good.as_slice(), &[0]].concat()),
        bad("257 bytes, a zero before", &[&[0], good.as_slice()].concat()),
        bad("512 bytes", &[good.as_slice(), &good].concat()),
        bad("no signature", b""),
        bad("0", &[0; 256]),
        bad("1", &one),
        bad("n", n),
        bad("n - 1", &below),
        bad("n + 1", &above),
        bad("all ones", &[0xff; 256]),
        bad("the highest bit changed", &flipped),
        bad("an ECDSA signature", &Signer::Es256.sign(message.as_bytes())),
        bad("of another key", &Signer::OtherRs256.sign(message.as_bytes())),
        bad("of another message", &Signer::Rs256.sign(b"x")),
        bad(
            "of the message's digest",
            &Signer::Rs256.sign(&tollgate_core::revocation::sha256(message.as_bytes())),
        ),
    ]
}

fn hmac_lengths() -> Vec<Row> {
    let header = Members::header("HS256", "").without("kid");
    let message = format!(
        "{}.{}",
        base64url(header.json()),
        base64url(Members::claims("https://secret.example").json())
    );
    let good = hmac_sha256(SECRET, message.as_bytes());
    let mut rows = vec![row("J22", "HS256: 32 bytes", with_signature(&message, &good), Ok(()))];
    for length in [0, 1, 10, 16, 31] {
        rows.push(row(
            "J22",
            format!("HS256: the first {length} bytes"),
            with_signature(&message, &good[..length]),
            BAD,
        ));
    }
    rows.push(row(
        "J22",
        "HS256: 33 bytes",
        with_signature(&message, &[good.as_slice(), &[0]].concat()),
        BAD,
    ));
    rows.push(row(
        "J22",
        "HS256: in hex",
        with_signature(&message, tollgate_core::text::hex(&good).as_bytes()),
        BAD,
    ));
    rows
}

/// J24 and GHSA-869p-cjfg-cm3x: a wrong signature is reported regardless of the claims.
fn before_claims() -> Vec<Row> {
    let claims = || Members::claims("https://many.example");
    let mut rows = Vec::new();
    for (says, claims) in [
        ("good claims", claims()),
        ("expired", claims().with("exp", &(NOW - 3600).to_string())),
        ("no exp", claims().without("exp")),
        ("exp is a string", claims().text("exp", "1")),
        ("not yet valid", claims().with("nbf", &(NOW + 3600).to_string())),
        ("for another service", claims().text("aud", "other")),
        ("no subject", claims().without("sub")),
        ("a subject with a line feed", claims().text("sub", "a\nb")),
        ("a subject of 300 bytes", claims().text("sub", &"x".repeat(300))),
        ("a scope that is a number", claims().with("scope", "5")),
        ("a life of ten years", claims().with("exp", &(NOW + 315_360_000).to_string())),
    ] {
        let token = signed(Signer::Attacker, Members::header("EdDSA", "ed").json(), claims.json());
        rows.push(row("J24", format!("{says}, signed by another key"), token, BAD));
        let token = signed(Signer::Unsigned, Members::header("EdDSA", "ed").json(), claims.json());
        rows.push(row("J24", format!("{says}, not signed"), token, BAD));
    }
    rows
}

#[test]
fn the_lines_hold() {
    tables().iter().for_each(Table::hold);
}

#[test]
fn j22_a_rewritten_signature_is_the_same_token_to_a_revocation() {
    let harness = Harness::standard();
    let token = signed(
        Signer::Es256,
        Members::header("ES256", "p256").json(),
        Members::claims("https://many.example").json(),
    );
    let TokenParts { header, payload, signature } = parts(&token);
    let bytes =
        base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, signature)
            .unwrap();
    let (r, s) = bytes.split_at(32);
    let rewritten = format!("{header}.{payload}.{}", base64url([r, &negated(s)].concat()));
    assert_ne!(token, rewritten);
    let (first, second) = (harness.principal(&token), harness.principal(&rewritten));
    assert_eq!(first.revocation(), second.revocation());
}
