//! J08 to J10 and J18: allowed and forbidden members of the header.

use tollgate_core::denial::Reason;
use tollgate_testkit::base64url;

use crate::{
    harness::{Answer, Harness, Row, Table, row},
    keys::{KEYS, Signer, jwk_members},
    token::{Members, signed},
};

const MALFORMED: Result<(), Reason> = Err(Reason::MalformedToken);
const UNKNOWN_KEY: Result<(), Reason> = Err(Reason::UnknownKey);
const BAD_SIGNATURE: Result<(), Reason> = Err(Reason::BadSignature);
const WRONG_TYPE: Result<(), Reason> = Err(Reason::WrongTokenType);

pub fn tables() -> Vec<Table> {
    let mut rows = crit();
    rows.extend(embedded_keys());
    rows.extend(kid());
    rows.extend(typ());
    vec![Table::standard(rows)]
}

fn header() -> Members {
    Members::header("EdDSA", "ed")
}

fn token(header: &Members) -> String {
    signed(Signer::Ed, header.json(), Members::claims("https://many.example").json())
}

/// J08: nothing that could be critical is implemented (RFC 7515 section 4.1.11).
fn crit() -> Vec<Row> {
    let mut rows = Vec::new();
    for (crit, says) in [
        ("[\"exp\"]", "a claim's name"),
        ("[\"alg\"]", "a name that the RFC itself defines"),
        ("[\"kid\",\"typ\"]", "names that are there and known"),
        ("[\"x-policy\"]", "a name that is absent from the header"),
        ("[\"http://example.com/UNDEFINED\"]", "the RFC's own example"),
        ("[]", "an empty list"),
        ("[\"x\",\"x\"]", "a name twice"),
        ("[\"\"]", "an empty name"),
        ("[5]", "a number in the list"),
        ("[[\"exp\"]]", "a list in the list"),
        ("\"exp\"", "a string"),
        ("null", "null"),
        ("{\"exp\":true}", "an object"),
        ("true", "a boolean"),
        ("0", "a number"),
    ] {
        rows.push(row(
            "J08",
            format!("crit is {says}"),
            token(&header().with("crit", crit).with("x", "1")),
            MALFORMED,
        ));
    }
    rows.push(row(
        "J08",
        "crit twice",
        token(&header().with("crit", "[]").twice("crit", "[\"exp\"]")),
        MALFORMED,
    ));
    // RFC 7797: with b64 false the payload is signed as it is; a server that ignores it verifies
    // other bytes than it reads.
    for (b64, crit) in [("false", "[\"b64\"]"), ("true", "[\"b64\"]"), ("\"false\"", "[\"b64\"]")] {
        let header = header().with("b64", b64).with("crit", crit);
        rows.push(row("J08", format!("b64 {b64}, critical"), token(&header), MALFORMED));
    }
    rows.push(row(
        "J08",
        "b64 false, not critical",
        token(&header().with("b64", "false")),
        MALFORMED,
    ));
    rows.push(row(
        "J08",
        "b64 true, not critical",
        token(&header().with("b64", "true")),
        MALFORMED,
    ));
    rows.push(row(
        "J08",
        "an unknown member, not critical",
        token(&header().with("x-policy", "{\"a\":[1]}")),
        Ok(()),
    ));
    rows
}

/// J09: a key or the way to one, in the header: CVE-2018-0114 and CVE-2026-27962.
fn embedded_keys() -> Vec<Row> {
    let jwk = format!(
        "{{{},\"alg\":\"EdDSA\",\"use\":\"sig\",\"kid\":\"ed\"}}",
        jwk_members(&KEYS.attacker)
    );
    let certificate = format!("[\"{}\"]", "MIIB".repeat(40));
    let url = "\"https://attacker.example/jwks.json\"";
    let thumbprint = format!("\"{}\"", base64url([7; 32]));
    let members = [
        ("jwk", jwk.as_str()),
        ("jku", url),
        ("jku", "\"http://169.254.169.254/latest/meta-data\""),
        ("jku", "\"file:///etc/passwd\""),
        ("x5u", url),
        ("x5c", certificate.as_str()),
        ("x5t", "\"AAAAAAAAAAAAAAAAAAAAAAAAAAA\""),
        ("x5t#S256", thumbprint.as_str()),
        ("iss", "\"https://attacker.example\""),
    ];
    let mut rows = Vec::new();
    for (name, value) in members {
        let with = |header: Members| header.with(name, value);
        let attacked = |iss: &str, header: Members| {
            signed(Signer::Attacker, with(header).json(), Members::claims(iss).json())
        };
        let many = "https://many.example";
        rows.push(row(
            "J09",
            format!("{name} on a good token is not looked at"),
            token(&with(header())),
            Ok(()),
        ));
        rows.push(row(
            "J09",
            format!("{name} and a known kid"),
            attacked(many, header()),
            BAD_SIGNATURE,
        ));
        rows.push(row(
            "J09",
            format!("{name} and an unknown kid"),
            attacked(many, header().text("kid", "new")),
            UNKNOWN_KEY,
        ));
        rows.push(row(
            "J09",
            format!("{name} and no kid"),
            attacked(many, header().without("kid")),
            UNKNOWN_KEY,
        ));
        rows.push(row(
            "J09",
            format!("{name} and no kid, where kid is optional"),
            attacked("https://lone.example", header().without("kid")),
            BAD_SIGNATURE,
        ));
    }
    for (name, value) in
        [("jwk", "5"), ("jwk", "\"x\""), ("x5c", "{}"), ("jku", "null"), ("x5u", "[]")]
    {
        rows.push(row(
            "J09",
            format!("{name} {value} is not looked at"),
            token(&header().with(name, value)),
            Ok(()),
        ));
    }
    rows
}

/// J10: a key's name is only looked up.
fn kid() -> Vec<Row> {
    let mut rows = vec![
        row("J10", "the name of a key", token(&header()), Ok(())),
        row(
            "J10",
            "the same name in other JSON letters",
            token(&header().with("kid", "\"\\u0065d\"")),
            Ok(()),
        ),
        row("J10", "no name", token(&header().without("kid")), UNKNOWN_KEY),
    ];
    for kid in [
        "",
        "ED",
        " ed",
        "ed ",
        "ed\0",
        "ed\n",
        "ed\0x",
        "e",
        "edd",
        "e*",
        ".*",
        "ed|rsa",
        "%65d",
        "\u{435}d",
        "../../../../../../dev/null",
        "/proc/sys/kernel/randomize_va_space",
        "file:///etc/passwd",
        "https://attacker.example/jwks",
        "x' UNION SELECT 'AAAA' -- ",
        "ed' OR '1'='1",
        "ed\r\nGET x",
        "{tollgate}:revoked:*",
        "$(id)",
        "|id",
        "../ed",
        "0",
        "__proto__",
        "constructor",
    ] {
        rows.push(row(
            "J10",
            format!("kid {kid:?}"),
            token(&header().text("kid", kid)),
            UNKNOWN_KEY,
        ));
    }
    for kid in ["null", "0", "1.5", "true", "[\"ed\"]", "{\"kid\":\"ed\"}", "[]", "{}"] {
        rows.push(row("J10", format!("kid {kid}"), token(&header().with("kid", kid)), UNKNOWN_KEY));
    }
    for length in [257, 1_000, 9_216] {
        rows.push(row(
            "J10",
            format!("a kid of {length} bytes"),
            token(&header().text("kid", &"k".repeat(length))),
            UNKNOWN_KEY,
        ));
    }
    // Where kid is optional it may be left out, not be wrong; and one of another issuer is unknown
    // here.
    let lone = |header: Members| {
        signed(Signer::Ed, header.json(), Members::claims("https://lone.example").json())
    };
    rows.push(row("J10", "no kid, where it is optional", lone(header().without("kid")), Ok(())));
    rows.push(row("J10", "a kid where the only key has none", lone(header()), Ok(())));
    rows.push(row(
        "J10",
        "kid null, where it is optional",
        lone(header().with("kid", "null")),
        UNKNOWN_KEY,
    ));
    rows.push(row(
        "J10",
        "an empty kid, where it is optional",
        lone(header().text("kid", "")),
        Ok(()),
    ));
    rows
}

/// J18: `typ` is compared without case (RFC 7515 section 4.1.9: a media type, `application/` may be
/// left out).
fn typ() -> Vec<Row> {
    let mut rows = vec![row("J18", "no typ", token(&header().without("typ")), Ok(()))];
    for typ in [
        "JWT",
        "jwt",
        "Jwt",
        "at+jwt",
        "AT+JWT",
        "application/at+jwt",
        "Application/AT+JWT",
        "application/jwt",
    ] {
        rows.push(row("J18", format!("typ {typ}"), token(&header().text("typ", typ)), Ok(())));
    }
    for typ in [
        "dpop+jwt",
        "secevent+jwt",
        "logout+jwt",
        "application/logout+jwt",
        "token-introspection+jwt",
        "oauth-authz-req+jwt",
        "entity-statement+jwt",
        "kb+jwt",
        "vc+sd-jwt",
        "dc+sd-jwt",
        "id+jwt",
        "rt+jwt",
        "client-authentication+jwt",
        "JWS",
        "JWE",
        "JOSE",
        "JOSE+JSON",
        "",
        " ",
        "JWT ",
        " JWT",
        "JWT\0",
        "at+jwt;v=1",
        "at-jwt",
        "at jwt",
        "xat+jwt",
        "at+jwtx",
        "application/",
        "application/application/at+jwt",
        "text/at+jwt",
        "*",
        "J\u{17f}T",
    ] {
        rows.push(row(
            "J18",
            format!("typ {typ:?}"),
            token(&header().text("typ", typ)),
            WRONG_TYPE,
        ));
    }
    for typ in ["null", "true", "0", "[\"JWT\"]", "[]", "{\"JWT\":1}"] {
        rows.push(row("J18", format!("typ {typ}"), token(&header().with("typ", typ)), WRONG_TYPE));
    }
    for cty in ["\"JWT\"", "\"json\"", "null"] {
        rows.push(row(
            "J18",
            format!("cty {cty}: there is another token inside"),
            token(&header().with("cty", cty)),
            WRONG_TYPE,
        ));
    }
    rows
}

#[test]
fn the_lines_hold() {
    tables().iter().for_each(Table::hold);
}

#[test]
fn j09_and_j10_a_key_that_does_not_verify_refreshes_its_own_issuer_and_nothing_else() {
    let harness = Harness::standard();
    let refresh = |header: Members, iss: &str| {
        let header = header.with("jku", "\"https://attacker.example/jwks.json\"");
        let token = signed(Signer::Attacker, header.json(), Members::claims(iss).json());
        match harness.bearer("/v1/models", &token) {
            Answer::Accepted(_) => panic!("accepted"),
            Answer::Refused { refresh, .. } => refresh,
        }
    };
    let unknown = || header().text("kid", "new");
    assert_eq!(refresh(unknown(), "https://many.example"), Some(1));
    assert_eq!(refresh(unknown(), "https://lone.example"), Some(4));
    assert_eq!(refresh(unknown(), "https://attacker.example"), None, "no such issuer");
    assert_eq!(
        refresh(header(), "https://many.example"),
        Some(1),
        "a known key and a wrong signature: the key may have been replaced under its name"
    );
    assert_eq!(
        refresh(header().text("kid", "p256"), "https://many.example"),
        Some(1),
        "a known key of another algorithm"
    );
    assert_eq!(
        refresh(header().without("kid"), "https://many.example"),
        None,
        "no name where one is required"
    );
    assert_eq!(
        refresh(unknown().text("alg", "none"), "https://many.example"),
        None,
        "no algorithm of the issuer"
    );
    assert_eq!(refresh(unknown().with("kid", "7"), "https://many.example"), None, "no name at all");
    assert_eq!(
        refresh(unknown().text("kid", &"k".repeat(257)), "https://many.example"),
        None,
        "longer than any name"
    );
}
