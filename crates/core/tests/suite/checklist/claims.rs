//! J17: a claim that becomes a header, a log field or a part of a key is printable and bounded.

use tollgate_core::denial::Reason;

use crate::{
    harness::{Harness, Row, Table, row},
    keys::Signer,
    token::{Members, signed},
};

const INVALID: Result<(), Reason> = Err(Reason::InvalidClaim);

pub fn tables() -> Vec<Table> {
    let mut rows = controls();
    rows.extend(types());
    rows.extend(bounds());
    vec![Table::standard(rows)]
}

fn token(claims: Members) -> String {
    signed(Signer::Ed, Members::header("EdDSA", "ed").json(), claims.json())
}

fn claims() -> Members {
    Members::claims("https://many.example")
}

/// The claims that are copied. `scope` and `roles` hold several words, the others one.
const COPIED: [&str; 8] =
    ["sub", "tenant_id", "client_id", "jti", "scope", "scopes", "scp", "roles"];

fn controls() -> Vec<Row> {
    let mut rows = Vec::new();
    for name in COPIED {
        for (bad, says) in [
            ("a\\r\\nx-tollgate-subject: admin", "CR LF"),
            ("a\\nb", "a line feed"),
            ("a\\rb", "a carriage return"),
            ("a\\u0000b", "NUL"),
            ("a\\tb", "a tab"),
            ("\\u001b[31m", "an escape sequence"),
            ("a\\u007f", "DEL"),
            ("a\\u0085b", "C1: next line"),
            ("\\u0001", "C0"),
        ] {
            rows.push(row(
                "J17",
                format!("{name} with {says}"),
                token(claims().with(name, &format!("\"{bad}\""))),
                INVALID,
            ));
            if matches!(name, "scope" | "scopes" | "scp" | "roles") {
                let list = format!("[\"ok\",\"{bad}\"]");
                // Scopes only give rights, so that the list loses the element.
                let expected = if name == "roles" { INVALID } else { Ok(()) };
                rows.push(row(
                    "J17",
                    format!("a list in {name} with {says}"),
                    token(claims().with(name, &list)),
                    expected,
                ));
            }
        }
        for good in [
            "user-1",
            "auth0|5f7c8ec7c33c6c004bbafe82",
            "a@b.example",
            "{\\\"$gt\\\":\\\"\\\"}",
            "x' OR '1'='1",
            "caf\u{e9}",
            "\u{4e2d}\u{6587}",
            "a:b*?[c]",
        ] {
            // What is no control stays as it is: it is hashed into keys, escaped in logs and
            // percent-encoded in headers.
            rows.push(row(
                "J17",
                format!("{name} {good}"),
                token(claims().with(name, &format!("\"{good}\""))),
                Ok(()),
            ));
        }
    }
    rows
}

fn types() -> Vec<Row> {
    let mut rows = Vec::new();
    for name in ["sub", "tenant_id", "client_id", "jti"] {
        for raw in ["0", "true", "[]", "[\"a\"]", "{}", "{\"a\":\"b\"}", "\"\""] {
            // The route uses neither tenant nor client, the policy names no claim for them and does
            // not require jti, so that another type is none of them. An empty text is a name that
            // cannot be one.
            let is_ignored = name != "sub" && raw != "\"\"";
            let expected = if is_ignored { Ok(()) } else { INVALID };
            let token = token(claims().with(name, raw));
            rows.push(row("J17", format!("{name} {raw}"), token, expected));
        }
        // Null is the same as absent: sub must be there, the others need not.
        let expected = if name == "sub" { INVALID } else { Ok(()) };
        rows.push(row("J17", format!("{name} null"), token(claims().with(name, "null")), expected));
        rows.push(row("J17", format!("no {name}"), token(claims().without(name)), expected));
    }
    for name in ["scope", "scopes", "scp", "roles"] {
        for raw in [
            "0",
            "true",
            "{}",
            "{\"a\":\"b\"}",
            "[5]",
            "[null]",
            "[[\"a\"]]",
            "[\"a\",{}]",
            "[\"a\",true]",
        ] {
            // The route uses neither roles nor scopes, and the policy names no claim for them.
            let token = token(claims().with(name, raw));
            rows.push(row("J17", format!("{name} {raw}"), token, Ok(())));
        }
        for raw in ["null", "[]", "\"\"", "\"a\"", "[\"a\",\"b\"]"] {
            rows.push(row("J17", format!("{name} {raw}"), token(claims().with(name, raw)), Ok(())));
        }
    }
    rows
}

fn bounds() -> Vec<Row> {
    let mut rows = Vec::new();
    for name in ["sub", "tenant_id", "client_id", "jti"] {
        for (length, expected) in [(1, Ok(())), (256, Ok(())), (257, INVALID), (8_000, INVALID)] {
            rows.push(row(
                "J17",
                format!("{name} of {length} bytes"),
                token(claims().text(name, &"x".repeat(length))),
                expected,
            ));
        }
    }
    rows
}

#[test]
fn the_lines_hold() {
    tables().iter().for_each(Table::hold);
}

#[test]
fn what_is_accepted_is_what_the_token_says() {
    let principal = Harness::standard().principal(&token(
        claims()
            .text("sub", "auth0|1")
            .text("tenant_id", "acme")
            .text("client_id", "cli")
            .with("roles", "[\"Premium User\",\"b\"]")
            .text("scope", "s1 s2")
            .with("scp", "[\"s3\"]")
            .text("scopes", "s4"),
    ));
    assert_eq!(principal.issuer(), "https://many.example");
    assert_eq!(principal.subject(), "auth0|1");
    assert_eq!(principal.tenant(), Some("acme"));
    assert_eq!(principal.client(), Some("cli"));
    assert_eq!(principal.roles().collect::<Vec<_>>(), ["Premium User", "b"]);
    assert_eq!(
        principal.scopes().collect::<Vec<_>>(),
        ["s1", "s2", "s4", "s3"],
        "in the order of the configuration: scope, scopes, scp"
    );
    assert_eq!(
        principal.revocation().jti_digest(),
        Some(&tollgate_core::revocation::sha256(b"id-1"))
    );
}
