//! J05, J06, J21 and J25: the form of a token, and its maximum size.

use std::time::Duration;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, RandomizedNonceKey},
    rsa::{OAEP_SHA1_MGF1SHA1, OaepPublicEncryptingKey, PublicEncryptingKey},
};
use tollgate_core::denial::Reason;
use tollgate_testkit::{KeyPair, TokenParts, base64url};

use crate::{
    harness::{Row, Table, raw, row},
    keys::{KEYS, Signer},
    token::{Members, parts, signed, with_stray_bit},
};

const MALFORMED: Result<(), Reason> = Err(Reason::MalformedToken);
const MOST: Duration = Duration::from_millis(50);

pub fn tables() -> Vec<Table> {
    let mut rows = segments();
    rows.extend(alphabet());
    rows.extend(bounds());
    rows.extend(encryption_members());
    vec![Table::standard(rows)]
}

fn header() -> Members {
    Members::header("EdDSA", "ed")
}

fn claims() -> Members {
    Members::claims("https://many.example")
}

fn good() -> String {
    signed(Signer::Ed, header().json(), claims().json())
}

/// A token encrypted to an RSA key (RFC 7516), whose plain text is `inner`: one that decrypts, if
/// anything here decrypted.
pub fn encrypted(to: &KeyPair, header: &str, inner: &str) -> String {
    let content_key = [7; 32];
    let public = OaepPublicEncryptingKey::new(
        PublicEncryptingKey::from_der(&to.to_spki().unwrap()).unwrap(),
    )
    .unwrap();
    let mut wrapped = vec![0; public.ciphertext_size()];
    let wrapped = public.encrypt(&OAEP_SHA1_MGF1SHA1, &content_key, &mut wrapped, None).unwrap();
    let protected = base64url(header);
    let mut text = inner.as_bytes().to_vec();
    let key = RandomizedNonceKey::new(&AES_256_GCM, &content_key).unwrap();
    let nonce = key.seal_in_place_append_tag(Aad::from(protected.as_bytes()), &mut text).unwrap();
    let (text, tag) = text.split_at(text.len() - 16);
    [protected, base64url(wrapped), base64url(nonce.as_ref()), base64url(text), base64url(tag)]
        .join(".")
}

fn segments() -> Vec<Row> {
    let good = good();
    let TokenParts { header: header_part, payload, signature } = parts(&good);
    let jwe = r#"{"alg":"RSA-OAEP","enc":"A256GCM","cty":"JWT","kid":"rsa"}"#;
    let unsigned = format!("{}.{}.", base64url(r#"{"alg":"none"}"#), base64url(claims().json()));
    let mut rows = vec![
        row("J05", "three parts", &good, Ok(())),
        row("J05", "one part", header_part, MALFORMED),
        row("J05", "two parts", format!("{header_part}.{payload}"), MALFORMED),
        row("J05", "four parts", format!("{good}.{signature}"), MALFORMED),
        row("J05", "six parts", format!("{good}.{good}"), MALFORMED),
        row("J05", "a dot behind", format!("{good}."), MALFORMED),
        row("J05", "a dot before", format!(".{good}"), MALFORMED),
        row("J05", "only dots", "..", MALFORMED),
        row("J05", "four dots", "....", MALFORMED),
        row("J05", "no header", format!(".{payload}.{signature}"), MALFORMED),
        row(
            "J05",
            "no payload (RFC 7797's detached content)",
            format!("{header_part}..{signature}"),
            MALFORMED,
        ),
        row("J05", "no signature", format!("{header_part}.{payload}."), Err(Reason::BadSignature)),
        row(
            "J05",
            "encrypted to the signing key, around a good token",
            encrypted(&KEYS.rsa, jwe, &good),
            MALFORMED,
        ),
        row(
            "J05",
            "encrypted, around an unsigned token",
            encrypted(&KEYS.rsa, jwe, &unsigned),
            MALFORMED,
        ),
        row(
            "J05",
            "encrypted, around bare claims",
            encrypted(&KEYS.rsa, jwe, &claims().json()),
            MALFORMED,
        ),
        row("J05", "encrypted to another key", encrypted(&KEYS.rsa_other, jwe, &good), MALFORMED),
        row(
            "J05",
            "five parts of a direct key",
            "eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIn0..AAAA.AAAA.AAAA",
            MALFORMED,
        ),
        row(
            "J05",
            "a signed token in a signed token, declared",
            signed(Signer::Ed, header().text("cty", "JWT").json(), &good),
            Err(Reason::WrongTokenType),
        ),
        row(
            "J05",
            "a signed token in a signed token",
            signed(Signer::Ed, header().json(), &good),
            MALFORMED,
        ),
        row(
            "J05",
            "a token in a JSON string in a signed token",
            signed(Signer::Ed, header().json(), format!("\"{good}\"")),
            MALFORMED,
        ),
    ];
    // A comma in the header may separate two credentials, so it is refused before anything else.
    let protected = format!("\"protected\":\"{header_part}\"");
    let signature = format!("\"signature\":\"{signature}\"");
    for (says, json) in [
        (
            "flattened JSON serialization",
            format!("{{{protected},\"payload\":\"{payload}\",{signature}}}"),
        ),
        (
            "general JSON serialization",
            format!("{{\"payload\":\"{payload}\",\"signatures\":[{{{protected},{signature}}}]}}"),
        ),
    ] {
        rows.push(row("J05", says, &json, Err(Reason::AmbiguousCredential)));
        rows.push(row("J05", format!("{says}, in base64url"), base64url(&json), MALFORMED));
    }
    rows.push(row("J05", "JSON without a comma", format!("{{{protected}}}"), MALFORMED));
    rows
}

fn alphabet() -> Vec<Row> {
    // Spaces behind the object make every part end inside a group, so that it has stray bits.
    let pad = |json: String| if json.len().is_multiple_of(3) { format!("{json} ") } else { json };
    let token = signed(Signer::Ed, pad(header().json()), pad(claims().json()));
    let TokenParts { header: header_part, payload, signature } = parts(&token);
    let join =
        |header: &str, payload: &str, signature: &str| format!("{header}.{payload}.{signature}");
    let rsa = signed(
        Signer::Rs256,
        Members::header("RS256", "rsa").json(),
        Members::claims("https://rsa.example").json(),
    );
    let TokenParts { header: rsa_header, payload: rsa_payload, signature: rsa_signature } =
        parts(&rsa);
    let mut rows = vec![
        row("J06", "as it is", &token, Ok(())),
        row(
            "J06",
            "stray bits in the header",
            join(&with_stray_bit(header_part), payload, signature),
            MALFORMED,
        ),
        row(
            "J06",
            "stray bits in the payload",
            join(header_part, &with_stray_bit(payload), signature),
            MALFORMED,
        ),
        row(
            "J06",
            "stray bits in the signature",
            join(header_part, payload, &with_stray_bit(signature)),
            MALFORMED,
        ),
        row(
            "J06",
            "stray bits in an RSA signature",
            join(rsa_header, rsa_payload, &with_stray_bit(rsa_signature)),
            MALFORMED,
        ),
        row(
            "J06",
            "a lone character behind whole groups",
            join(header_part, payload, "AAAAA"),
            MALFORMED,
        ),
        row(
            "J06",
            "the header in two lines",
            format!("{}\r\n{}", &token[..10], &token[10..]),
            MALFORMED,
        ),
        row("J06", "a blank behind", format!("{token} "), MALFORMED),
        row("J06", "a blank inside", token.replacen('.', ". ", 1), MALFORMED),
        row("J06", "a tab behind", format!("{token}\t"), MALFORMED),
        row("J06", "NUL behind", format!("{token}\0"), MALFORMED),
        row("J06", "a line feed behind", format!("{token}\n"), MALFORMED),
        row("J06", "quotes around", format!("\"{token}\""), MALFORMED),
        row("J06", "brackets around", format!("<{token}>"), MALFORMED),
        row("J06", "a percent-encoded dot", token.replacen('.', "%2E", 1), MALFORMED),
        row(
            "J06",
            "a fullwidth full stop for a dot",
            token.replacen('.', "\u{ff0e}", 1),
            MALFORMED,
        ),
        row("J06", "a Cyrillic letter", format!("{token}\u{430}"), MALFORMED),
        row("J06", "a soft hyphen", format!("{token}\u{ad}"), MALFORMED),
        row("J06", "a byte order mark before", format!("\u{feff}{token}"), MALFORMED),
        raw(
            "J06",
            "a byte that is no UTF-8",
            [b"Bearer ", token.as_bytes(), b"\xff"].concat(),
            MALFORMED,
        ),
        raw(
            "J06",
            "a tab for the blank",
            format!("Bearer\t{token}"),
            Err(Reason::MissingCredential),
        ),
        raw("J06", "no blank", format!("Bearer{token}"), Err(Reason::MissingCredential)),
    ];
    let spoiled = |part: usize, with: &str| {
        let mut list = token.split('.').map(str::to_owned).collect::<Vec<_>>();
        list[part].push_str(with);
        list.join(".")
    };
    for (part, name) in ["header", "payload", "signature"].into_iter().enumerate() {
        for with in ["=", "==", "+", "/", "~"] {
            rows.push(row(
                "J06",
                format!("`{with}` behind the {name}"),
                spoiled(part, with),
                MALFORMED,
            ));
        }
    }
    // The other alphabet for the same bytes: `-` and `_` as `+` and `/`.
    let both = (0..1000)
        .map(|n| signed(Signer::Ed, header().json(), claims().text("n", &n.to_string()).json()))
        .find(|token| parts(token).signature.contains(['-', '_']))
        .unwrap();
    let TokenParts { header: header_part, payload, signature } = parts(&both);
    let standard = join(header_part, payload, &signature.replace('-', "+").replace('_', "/"));
    rows.push(row(
        "J06",
        "the signature in the alphabet of RFC 4648 section 4",
        standard,
        MALFORMED,
    ));
    rows
}

fn bounds() -> Vec<Row> {
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let with = |name: &str, value: &str| claims().with(name, value).json();
    let deep = |json: String| signed(Signer::Ed, header().json(), json);
    let deep_header =
        |value: &str| signed(Signer::Ed, header().with("x", value).json(), claims().json());
    let good = good();
    let largest =
        |length: usize| format!("Bearer{}{good}", " ".repeat(length - "Bearer".len() - good.len()));
    let fill = |length: usize| {
        let empty = deep(claims().text("fill", "").json()).len();
        deep(claims().text("fill", &"x".repeat((length - empty) * 3 / 4)).json())
    };
    let members = |count: usize| {
        let list: Vec<String> = (0..count).map(|n| format!("\"m{n}\":{n}")).collect();
        format!("{{{}}}", list.join(","))
    };
    let big = |levels: usize| format!("{{\"a\":{}", "[".repeat(levels));
    vec![
        row("J21", "a payload 64 levels deep", deep(with("deep", &nested(64))), Ok(())),
        row("J21", "a payload 200 levels deep", deep(with("deep", &nested(200))), MALFORMED)
            .within(MOST),
        row("J21", "a payload 4 000 levels deep", deep(with("deep", &nested(4_000))), MALFORMED)
            .within(MOST),
        row("J21", "a payload 9 000 levels deep, never closed", deep(big(9_000)), MALFORMED)
            .within(MOST),
        row(
            "J21",
            "objects 1 500 levels deep, never closed",
            deep("{\"a\":".repeat(1_500)),
            MALFORMED,
        )
        .within(MOST),
        row(
            "J21",
            "a payload 9 000 levels deep, closed: over 16 KiB",
            deep(with("deep", &nested(9_000))),
            MALFORMED,
        )
        .within(MOST),
        row(
            "J21",
            "a header 9 000 levels deep, never closed",
            signed(Signer::Ed, big(9_000), "{}"),
            MALFORMED,
        )
        .within(MOST),
        row("J21", "a header 4 000 levels deep", deep_header(&nested(4_000)), MALFORMED)
            .within(MOST),
        row("J21", "8 000 dots", ".".repeat(8_000), MALFORMED).within(MOST),
        row("J21", "16 000 dots", ".".repeat(16_000), MALFORMED).within(MOST),
        row(
            "J21",
            "a good token and 8 000 dots",
            format!("{good}{}", ".".repeat(8_000)),
            MALFORMED,
        )
        .within(MOST),
        row("J21", "8 000 dots with letters between", "a.".repeat(4_000), MALFORMED).within(MOST),
        row("J21", "100 000 dots", ".".repeat(100_000), MALFORMED).within(MOST),
        row("J21", "1 MiB of letters", "a".repeat(1 << 20), MALFORMED).within(MOST),
        row(
            "J21",
            "12 KiB of spaces in the payload",
            deep(format!("{}{}", claims().json(), " ".repeat(10_000))),
            Ok(()),
        )
        .within(MOST),
        row("J21", "a claim of 10 KiB of digits", deep(with("n", &"9".repeat(10_000))), MALFORMED)
            .within(MOST),
        row(
            "J21",
            "a claim of 10 KiB of escapes",
            deep(with("n", &format!("\"{}\"", "\\u0041".repeat(1_700)))),
            Ok(()),
        )
        .within(MOST),
        row(
            "J21",
            "a list of 5 000 numbers",
            deep(with("n", &format!("[0{}]", ",0".repeat(4_999)))),
            Ok(()),
        )
        .within(MOST),
        row("J21", "an object of 200 members", deep(with("n", &members(200))), Ok(())),
        row("J21", "an object of 257 members", deep(with("n", &members(257))), MALFORMED)
            .within(MOST),
        row("J21", "an object of 900 members", deep(with("n", &members(900))), MALFORMED)
            .within(MOST),
        row("J21", "a large token", fill(16_000), Ok(())).within(MOST),
        row("J21", "a token over 16 KiB", fill(17_000), MALFORMED).within(MOST),
        raw("J21", "a header value of 16 KiB", largest(16_384), Ok(())),
        raw("J21", "one byte more", largest(16_385), MALFORMED),
    ]
}

/// J25, and other members that only encrypted tokens have.
fn encryption_members() -> Vec<Row> {
    let with = |name: &str, raw: &str| {
        signed(Signer::Ed, header().with(name, raw).json(), claims().json())
    };
    let mut rows = Vec::new();
    for (name, value) in [
        ("p2c", "1"),
        ("p2c", "1000"),
        ("p2c", "2147483647"),
        ("p2c", "1e9"),
        ("p2c", "null"),
        ("p2s", "\"2WCTcJZ1Rvd_CJuJripQ1w\""),
        ("zip", "\"DEF\""),
        ("zip", "\"none\""),
        ("zip", "null"),
        ("enc", "\"A256GCM\""),
        ("epk", "{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"AAAA\",\"y\":\"AAAA\"}"),
    ] {
        rows.push(
            row(
                "J25",
                format!("{name} {value} on a well signed token"),
                with(name, value),
                MALFORMED,
            )
            .within(MOST),
        );
    }
    for (says, header) in [
        (
            "PBES2 with two thousand million rounds",
            r#"{"alg":"PBES2-HS256+A128KW","enc":"A128GCM","p2s":"AAAA","p2c":2147483647}"#,
        ),
        ("a deflated payload", r#"{"alg":"dir","enc":"A128GCM","zip":"DEF"}"#),
    ] {
        let five = format!("{}.AAAA.AAAA.AAAA.AAAA", base64url(header));
        rows.push(row("J25", format!("{says}, encrypted"), five, MALFORMED).within(MOST));
        let three = signed(Signer::Ed, header, claims().json());
        rows.push(row("J25", format!("{says}, in three parts"), three, MALFORMED).within(MOST));
    }
    rows
}

#[test]
fn the_lines_hold() {
    tables().iter().for_each(Table::hold);
}
