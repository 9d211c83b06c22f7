//! J07: an invalid key verifies nothing, and the other keys of the set stay usable.

use tollgate_core::denial::Reason;
use tollgate_testkit::base64url;

use crate::{
    harness::{Harness, Table, row},
    keys::{KEYS, Signer, coordinates, ec_jwk, jwk_members, modulus, rsa_jwk},
    token::{Members, signed},
};

const POLICY: &str = "
issuers:
  - issuer: https://a.example
    audiences: [inference-api]
    algorithms: [RS256, ES256, ES384, EdDSA]
    jwks: { file: /jwks }
routes:
  - { match: { paths: [/v1/models], methods: [GET] }, scopes: [] }
";

/// One set per invalid key. The token is signed by the private half of the invalid key if that
/// exists.
pub fn tables() -> Vec<Table> {
    let mut tables = Vec::new();
    for (says, signer, alg, jwk) in bad_keys() {
        let rows = vec![
            row(
                "J07",
                format!("{says}: {jwk}"),
                token(signer, alg, "bad"),
                Err(Reason::UnknownKey),
            ),
            row(
                "J07",
                format!("{says}: the key beside it"),
                token(Signer::Ed, "EdDSA", "good"),
                Ok(()),
            ),
        ];
        tables.push(Table { harness: harness(&[jwk, good()]), rows });
    }
    for (says, signer, alg, jwk) in good_keys() {
        let rows = vec![row("J07", format!("{says}: {jwk}"), token(signer, alg, "key"), Ok(()))];
        tables.push(Table { harness: harness(&[jwk]), rows });
    }
    tables
}

fn harness(keys: &[String]) -> Harness {
    Harness::new(POLICY, &[("https://a.example", keys)])
}

fn good() -> String {
    format!(r#"{{"kid":"good",{}}}"#, jwk_members(&KEYS.ed))
}

fn token(signer: Signer, alg: &str, kid: &str) -> String {
    signed(signer, Members::header(alg, kid).json(), Members::claims("https://a.example").json())
}

type Case = (&'static str, Signer, &'static str, String);

fn bad_keys() -> Vec<Case> {
    let mut cases = elliptic();
    cases.extend(rsa());
    cases.extend(purpose());
    cases.extend(small_order());
    cases
}

/// Every point of Ed25519 whose order divides 8, in each encoding (RFC 7748 section 7 on such
/// points): the signature of such a key does not depend on the message, or on little of it.
/// [`Signer::Neutral`] is the forgery for the neutral point.
fn small_order() -> Vec<Case> {
    const OF_ORDER_8: [u8; 32] = [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98,
        0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53,
        0xfc, 0x05,
    ];
    // The field's prime is 2^255 - 19; an encoding may hold up to 18 more.
    let near_prime = |last: u8| [&[last][..], &[0xff; 30], &[0x7f]].concat();
    // The other points of order 8 have p - y.
    let negated: Vec<u8> = near_prime(0xed)
        .iter()
        .zip(OF_ORDER_8)
        .scan(0u8, |borrow, (a, b)| {
            let (digit, first) = a.overflowing_sub(b);
            let (digit, second) = digit.overflowing_sub(*borrow);
            *borrow = u8::from(first || second);
            Some(digit)
        })
        .collect();
    let points = [
        ("the neutral point", [&[1][..], &[0; 31]].concat()),
        ("the neutral point, not reduced", near_prime(0xee)),
        ("the point of order 2", near_prime(0xec)),
        ("a point of order 4", vec![0; 32]),
        ("a point of order 4, not reduced", near_prime(0xed)),
        ("a point of order 8", OF_ORDER_8.to_vec()),
        ("another point of order 8", negated),
    ];
    let mut cases = Vec::new();
    for (says, mut point) in points {
        for sign in [0, 0x80] {
            point[31] = point[31] & 0x7f | sign;
            let jwk = format!(r#""kty":"OKP","crv":"Ed25519","x":"{}""#, base64url(&point));
            cases.push((says, Signer::Neutral, "EdDSA", bad(jwk)));
        }
    }
    cases
}

fn bad(members: impl AsRef<str>) -> String {
    format!(r#"{{"kid":"bad",{}}}"#, members.as_ref())
}

fn elliptic() -> Vec<Case> {
    let keys = &*KEYS;
    let (x, y) = coordinates(&keys.p256);
    let (x384, y384) = coordinates(&keys.p384);
    let mut flipped = y.to_vec();
    flipped[31] ^= 1;
    let es = |says, jwk: String| (says, Signer::Es256, "ES256", bad(jwk));
    let ed = |says, jwk: String| (says, Signer::Ed, "EdDSA", bad(jwk));
    let okp =
        |curve: &str, x: &[u8]| format!(r#""kty":"OKP","crv":"{curve}","x":"{}""#, base64url(x));
    let point = keys.ed.public();
    vec![
        es("off the curve", ec_jwk("P-256", x, &flipped)),
        es("the coordinates the wrong way round", ec_jwk("P-256", y, x)),
        es("the point at infinity", ec_jwk("P-256", &[0; 32], &[0; 32])),
        es("the field's prime for x", ec_jwk("P-256", &[0xff; 32], y)),
        es("a coordinate without its first byte", ec_jwk("P-256", &x[1..], y)),
        es("a coordinate with a zero before it", ec_jwk("P-256", &[&[0], x].concat(), y)),
        es("no coordinates", ec_jwk("P-256", b"", b"")),
        es("a compressed point for x", ec_jwk("P-256", &[&[2], x].concat(), b"")),
        es("no y", format!(r#""kty":"EC","crv":"P-256","x":"{}""#, base64url(x))),
        es("a number for x", format!(r#""kty":"EC","crv":"P-256","x":7,"y":"{}""#, base64url(y))),
        es("padding", ec_jwk("P-256", x, y).replacen("\",\"y\"", "=\",\"y\"", 1)),
        es("a P-256 point said to be on P-384", ec_jwk("P-384", x, y)),
        es("another curve", ec_jwk("secp256k1", x, y)),
        es("the curve's name in small letters", ec_jwk("p-256", x, y)),
        es("a P-256 point said to be on P-521", ec_jwk("P-521", x, y)),
        es("the curve of another type", ec_jwk("Ed25519", x, y)),
        es("the type in small letters", ec_jwk("P-256", x, y).replace("\"EC\"", "\"ec\"")),
        es("the type of a key pair of octets", ec_jwk("P-256", x, y).replace("\"EC\"", "\"OKP\"")),
        es("no type", ec_jwk("P-256", x, y).replace("\"kty\":\"EC\",", "")),
        (
            "a P-384 point said to be on P-256",
            Signer::Es384,
            "ES384",
            bad(ec_jwk("P-256", x384, y384)),
        ),
        (
            "a P-384 point cut to 32 bytes",
            Signer::Es384,
            "ES384",
            bad(ec_jwk("P-256", &x384[..32], &y384[..32])),
        ),
        ed("an Ed25519 point of 31 bytes", okp("Ed25519", &point[..31])),
        ed("an Ed25519 point of 33 bytes", okp("Ed25519", &[point, &[0]].concat())),
        ed("no Ed25519 point", okp("Ed25519", b"")),
        ed("a key for key agreement", okp("X25519", point)),
        ed("Ed448", okp("Ed448", point)),
        ed("the type of EC", okp("Ed25519", point).replace("\"OKP\"", "\"EC\"")),
    ]
}

fn rsa() -> Vec<Case> {
    let n = modulus(&KEYS.rsa);
    let n = n.as_slice();
    let three = [1, 0, 1];
    let mut even = n.to_vec();
    even[255] &= 0xfe;
    let case = |says, n: &[u8], e: &[u8]| (says, Signer::Rs256, "RS256", bad(rsa_jwk(n, e)));
    let sized = |bits: usize| {
        // An odd modulus of exactly so many bits.
        let mut bytes = vec![0xff; bits.div_ceil(8)];
        bytes[0] = 0xff >> ((8 - bits % 8) % 8);
        bytes
    };
    vec![
        case("512 bits", &sized(512), &three),
        case("1024 bits", &sized(1024), &three),
        case("2047 bits", &sized(2047), &three),
        case("1024 bits with 1024 zeros before", &[vec![0; 128], sized(1024)].concat(), &three),
        case("8193 bits", &sized(8193), &three),
        case("no modulus", b"", &three),
        case("an even modulus", &even, &three),
        case("a modulus of zeros", &[0; 256], &three),
        case("exponent 0", n, &[0]),
        case("no exponent", n, b""),
        case("exponent 1: every signature is its own message", n, &[1]),
        case("exponent 1 with zeros before", n, &[0, 0, 0, 1]),
        case("exponent 2", n, &[2]),
        case("exponent 65536", n, &[1, 0, 0]),
        case("an exponent of 34 bits", n, &[2, 0, 0, 0, 1]),
        case("an exponent of 256 bytes", n, &[0xff; 256]),
        ("no e", Signer::Rs256, "RS256", bad(format!(r#""kty":"RSA","n":"{}""#, base64url(n)))),
        ("no n", Signer::Rs256, "RS256", bad(r#""kty":"RSA","e":"AQAB""#)),
        (
            "padding",
            Signer::Rs256,
            "RS256",
            bad(format!(r#""kty":"RSA","n":"{}==","e":"AQAB""#, base64url(n))),
        ),
    ]
}

/// Keys that could verify, but declare another purpose.
fn purpose() -> Vec<Case> {
    let keys = &*KEYS;
    let rsa = |says, members: &str| {
        (says, Signer::Rs256, "RS256", bad(format!("{},{members}", jwk_members(&keys.rsa))))
    };
    let es = |says, members: &str| {
        (says, Signer::Es256, "ES256", bad(format!("{},{members}", jwk_members(&keys.p256))))
    };
    vec![
        rsa("use is encryption", r#""use":"enc""#),
        rsa("use is something else", r#""use":"tls""#),
        rsa("use is written otherwise", r#""use":"SIG""#),
        rsa("use is empty", r#""use":"""#),
        rsa("use is a list", r#""use":["sig"]"#),
        rsa("for signing only", r#""key_ops":["sign"]"#),
        rsa("for encryption only", r#""key_ops":["encrypt","wrapKey"]"#),
        rsa("for nothing", r#""key_ops":[]"#),
        rsa("operations as a string", r#""key_ops":"verify""#),
        rsa("use is right and the operations are not", r#""use":"sig","key_ops":["decrypt"]"#),
        rsa("alg of encryption", r#""alg":"RSA-OAEP""#),
        rsa("alg of encryption, RSA1_5", r#""alg":"RSA1_5""#),
        rsa("alg of another type", r#""alg":"ES256""#),
        rsa("alg of a secret", r#""alg":"HS256""#),
        rsa("alg none", r#""alg":"none""#),
        rsa("alg empty", r#""alg":"""#),
        rsa("alg in small letters", r#""alg":"rs256""#),
        rsa("alg a list", r#""alg":["RS256"]"#),
        rsa("alg that the issuer does not use", r#""alg":"PS256""#),
        rsa("an unknown alg", r#""alg":"XX999""#),
        rsa("a member twice", r#""alg":"RS256","alg":"RS256""#),
        rsa("a modulus twice", r#""n":"AAAA""#),
        es("alg of the other curve", r#""alg":"ES384""#),
        es("alg of Edwards curves", r#""alg":"EdDSA""#),
        es("alg of RSA", r#""alg":"RS256""#),
        (
            "a shared secret",
            Signer::Ed,
            "EdDSA",
            bad(format!(r#""kty":"oct","alg":"HS256","k":"{}""#, base64url([7; 32]))),
        ),
        (
            "a shared secret for EdDSA",
            Signer::Ed,
            "EdDSA",
            bad(format!(r#""kty":"oct","alg":"EdDSA","k":"{}""#, base64url([7; 32]))),
        ),
        ("no object: a number", Signer::Ed, "EdDSA", "7".into()),
        ("no object: null", Signer::Ed, "EdDSA", "null".into()),
        ("no object: a list", Signer::Ed, "EdDSA", format!("[{}]", bad(jwk_members(&keys.ed)))),
        (
            "a number for kid",
            Signer::Ed,
            "EdDSA",
            format!("{{\"kid\":7,{}}}", jwk_members(&keys.ed)),
        ),
    ]
}

/// Members that change nothing.
fn good_keys() -> Vec<Case> {
    let keys = &*KEYS;
    let n = modulus(&keys.rsa);
    let n = n.as_slice();
    let zeros = |says, n: &[u8], e: &[u8]| {
        (says, Signer::Rs256, "RS256", format!("{{\"kid\":\"key\",{}}}", rsa_jwk(n, e)))
    };
    let rsa = |says, members: &str| {
        (
            says,
            Signer::Rs256,
            "RS256",
            format!("{{\"kid\":\"key\",{},{members}}}", jwk_members(&keys.rsa)),
        )
    };
    vec![
        rsa("for signatures", r#""use":"sig""#),
        rsa("for verifying", r#""key_ops":["verify"]"#),
        rsa("for both", r#""key_ops":["sign","verify"]"#),
        rsa("with its alg", r#""alg":"RS256""#),
        rsa(
            "with a certificate and its thumbprint, which are not read",
            r#""x5c":["MIIB"],"x5t":"AAAA""#,
        ),
        rsa("with unknown members", r#""issuer":"x","ext":true,"nbf":0"#),
        // RFC 7518 section 6.3.1.1 forbids it and notes that it occurs.
        zeros("a zero before the modulus", &[&[0], n].concat(), &[1, 0, 1]),
        zeros("zeros before the exponent", n, &[0, 0, 1, 0, 1]),
    ]
}

#[test]
fn the_lines_hold() {
    tables().iter().for_each(Table::hold);
}
