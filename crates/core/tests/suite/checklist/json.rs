//! J19 and J20: header and claims are one JSON object each, in UTF-8, and all readers read the
//! same.

use tollgate_core::denial::Reason;

use crate::{
    harness::{Row, Table, row},
    keys::Signer,
    token::{Members, signed},
};

const MALFORMED: Result<(), Reason> = Err(Reason::MalformedToken);

pub fn tables() -> Vec<Table> {
    let mut rows = repeated();
    rows.extend(encoding());
    rows.extend(syntax());
    vec![Table::standard(rows)]
}

fn header() -> Members {
    Members::header("EdDSA", "ed")
}

fn claims() -> Members {
    Members::claims("https://many.example")
}

fn with_header(header: impl AsRef<[u8]>) -> String {
    signed(Signer::Ed, header, claims().json())
}

fn with_claims(payload: impl AsRef<[u8]>) -> String {
    signed(Signer::Ed, header().json(), payload)
}

/// J19. The RFCs let the last of two members win; some readers take the first.
fn repeated() -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, raw, says) in [
        ("alg", "\"EdDSA\"", "alg twice, the same"),
        ("alg", "\"none\"", "alg twice, the last none"),
        ("kid", "\"rsa\"", "kid twice"),
        ("\\u006bid", "\"rsa\"", "kid twice, once escaped"),
        ("al\\u0067", "\"none\"", "alg twice, once escaped"),
    ] {
        rows.push(row("J19", says, with_header(header().twice(name, raw).json()), MALFORMED));
    }
    let typ = header().text("typ", "JWT").twice("typ", "\"dpop+jwt\"");
    rows.push(row("J19", "typ twice", with_header(typ.json()), MALFORMED));
    let unknown = header().with("x", "1").twice("x", "1");
    rows.push(row("J19", "an unknown member, twice", with_header(unknown.json()), MALFORMED));
    rows.push(row(
        "J19",
        "twice inside jwk",
        with_header(header().with("jwk", "{\"kty\":1,\"kty\":2}").json()),
        MALFORMED,
    ));
    for (name, raw, says) in [
        ("iss", "\"https://many.example\"", "iss twice, the same"),
        ("iss", "\"https://rsa.example\"", "iss twice"),
        ("aud", "\"other\"", "aud twice"),
        ("exp", "4102444800", "exp twice"),
        ("sub", "\"admin\"", "sub twice"),
        ("su\\u0062", "\"admin\"", "sub twice, once escaped"),
        ("jti", "\"id-2\"", "jti twice"),
        ("iat", "1", "iat twice"),
    ] {
        rows.push(row("J19", says, with_claims(claims().twice(name, raw).json()), MALFORMED));
    }
    let scope = claims().text("scope", "a").twice("scope", "\"a b\"");
    rows.push(row("J19", "scope twice", with_claims(scope.json()), MALFORMED));
    for (value, says) in [
        ("{\"a\":1,\"a\":2}", "inside an object"),
        ("[{\"a\":1,\"a\":1}]", "inside an object in a list"),
        ("{\"roles\":[],\"b\":{\"roles\":[],\"roles\":[\"admin\"]}}", "two objects down"),
        ("{\"\":1,\"\":2}", "the empty name"),
    ] {
        rows.push(row(
            "J19",
            says,
            with_claims(claims().with("realm_access", value).json()),
            MALFORMED,
        ));
    }
    let cased = claims().text("Exp", "x").text("EXP", "y").text("Sub", "admin");
    rows.push(row(
        "J19",
        "names that differ in case are different names",
        with_claims(cased.json()),
        Ok(()),
    ));
    let levels = claims().with("a", "{\"exp\":1}").with("b", "{\"exp\":2}");
    rows.push(row("J19", "one name in two objects", with_claims(levels.json()), Ok(())));
    rows
}

fn utf16(text: &str, bytes: fn(u16) -> [u8; 2], mark: bool) -> Vec<u8> {
    mark.then_some(0xfeff).into_iter().chain(text.encode_utf16()).flat_map(bytes).collect()
}

/// J20: bytes that are not JSON.
fn encoding() -> Vec<Row> {
    let mut rows = Vec::new();
    let (head, body) = (header().json(), claims().json());
    let insert = |bytes: &[u8]| {
        let (before, after) = body.split_at(body.len() - 1);
        [before.as_bytes(), b",\"x\":\"", bytes, b"\"", after.as_bytes()].concat()
    };
    for (says, change) in [
        (
            "a byte order mark",
            (|text| [b"\xef\xbb\xbf", text.as_bytes()].concat()) as fn(&str) -> Vec<u8>,
        ),
        ("UTF-16, little end first", |text| utf16(text, u16::to_le_bytes, false)),
        ("UTF-16, big end first", |text| utf16(text, u16::to_be_bytes, false)),
        ("UTF-16 with a mark, little end first", |text| utf16(text, u16::to_le_bytes, true)),
        ("UTF-16 with a mark, big end first", |text| utf16(text, u16::to_be_bytes, true)),
        ("UTF-32", |text| text.chars().flat_map(|c| u32::from(c).to_be_bytes()).collect()),
        ("NUL behind", |text| [text.as_bytes(), b"\0"].concat()),
        ("NUL before", |text| [b"\0", text.as_bytes()].concat()),
    ] {
        rows.push(row("J20", format!("header: {says}"), with_header(change(&head)), MALFORMED));
        rows.push(row("J20", format!("claims: {says}"), with_claims(change(&body)), MALFORMED));
    }
    for (says, bytes) in [
        ("Latin-1", &b"\xe9"[..]),
        ("a lone continuation byte", b"\x80"),
        ("a byte that is never UTF-8", b"\xff"),
        ("an overlong slash", b"\xc0\xaf"),
        ("an overlong NUL", b"\xc0\x80"),
        ("a surrogate half in bytes (CESU-8)", b"\xed\xa0\x80"),
        ("a surrogate pair in bytes (CESU-8)", b"\xed\xa0\xbd\xed\xb8\x80"),
        ("a cut sequence", b"\xe2\x82"),
        ("beyond U+10FFFF", b"\xf4\x90\x80\x80"),
        ("a lone high surrogate", b"\\ud800"),
        ("a lone low surrogate", b"\\udc00"),
        ("surrogates the wrong way round", b"\\udc00\\ud800"),
        ("a high surrogate before a letter", b"\\ud800x"),
        ("a raw line feed in a string", b"\n"),
        ("a raw NUL in a string", b"\0"),
        ("an unknown escape", b"\\x41"),
        ("a short escape", b"\\u12"),
        ("an open escape", b"\\"),
    ] {
        rows.push(row("J20", says, with_claims(insert(bytes)), MALFORMED));
    }
    rows.push(row(
        "J20",
        "a lone surrogate in a name",
        with_claims(claims().with("\\ud800", "1").json()),
        MALFORMED,
    ));
    rows.push(row(
        "J20",
        "a lone surrogate in kid",
        with_header(header().with("kid", "\"\\ud800\"").json()),
        MALFORMED,
    ));
    rows.push(row("J20", "a surrogate pair", with_claims(insert(b"\\ud83d\\ude00")), Ok(())));
    rows.push(row(
        "J20",
        "UTF-8 beyond ASCII",
        with_claims(insert("\u{e9}\u{4e2d}\u{1f600}".as_bytes())),
        Ok(()),
    ));
    rows
}

/// J20: errors in the syntax.
fn syntax() -> Vec<Row> {
    let mut rows = Vec::new();
    let (head, body) = (header().json(), claims().json());
    for text in ["", " ", "null", "true", "0", "\"\"", "[]", "{", "}", "<html>", "undefined"] {
        rows.push(row("J20", format!("the header is `{text}`"), with_header(text), MALFORMED));
        rows.push(row("J20", format!("the payload is `{text}`"), with_claims(text), MALFORMED));
    }
    for (says, change) in [
        ("a second object behind", (|text| format!("{text}{{}}")) as fn(&str) -> String),
        ("letters behind", |text| format!("{text}x")),
        ("a comma behind", |text| format!("{text},")),
        ("in a list", |text| format!("[{text}]")),
        ("in a string", |text| serde_json::to_string(text).unwrap()),
        ("a comma before the last brace", |text| text.replacen("}", ",}", 1)),
        ("single quotes", |text| text.replace('"', "'")),
        ("no quotes", |text| text.replace('"', "")),
        ("a comment", |text| format!("/* */{text}")),
        ("a guard against inclusion", |text| format!(")]}}',\n{text}")),
        ("a no-break space before", |text| format!("\u{a0}{text}")),
        ("a form feed before", |text| format!("\u{c}{text}")),
    ] {
        rows.push(row("J20", format!("header: {says}"), with_header(change(&head)), MALFORMED));
        rows.push(row("J20", format!("claims: {says}"), with_claims(change(&body)), MALFORMED));
    }
    let spaced =
        |text: &str| format!(" \t\r\n{}\n ", text.replace(',', " ,\n\t").replace("\":", "\" : "));
    rows.push(row("J20", "white space of JSON in the header", with_header(spaced(&head)), Ok(())));
    rows.push(row("J20", "white space of JSON in the claims", with_claims(spaced(&body)), Ok(())));
    rows
}

#[test]
fn the_lines_hold() {
    tables().iter().for_each(Table::hold);
}
