//! J13 to J16: `exp`, `nbf` and `iat`.

use tollgate_core::denial::Reason;

use crate::{
    harness::{Harness, Row, Table, compile, row},
    keys::{KEYS, Signer, jwk_members},
    token::{Members, NOW, signed},
};

const INVALID: Result<(), Reason> = Err(Reason::InvalidClaim);
const MALFORMED: Result<(), Reason> = Err(Reason::MalformedToken);
const EXPIRED: Result<(), Reason> = Err(Reason::Expired);
const NOT_YET: Result<(), Reason> = Err(Reason::NotYetValid);

pub fn tables() -> Vec<Table> {
    let mut rows = types();
    rows.extend(extremes());
    rows.extend(leeway());
    rows.extend(lifetime("https://many.example"));
    vec![Table::standard(rows), no_leeway(), short_life()]
}

fn token(claims: Members) -> String {
    signed(Signer::Ed, Members::header("EdDSA", "ed").json(), claims.json())
}

fn claims() -> Members {
    Members::claims("https://many.example")
}

/// Seconds around now, with a fraction where it is given.
fn at(offset: i64) -> String {
    (i64::try_from(NOW).unwrap() + offset).to_string()
}

/// J13 and J15: CVE-2026-25537 took a value of the wrong type for none.
fn types() -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, line) in [("exp", "J13"), ("nbf", "J15"), ("iat", "J15")] {
        let good = at(if name == "exp" { 60 } else { -60 });
        for raw in [
            &format!("\"{good}\""),
            "\"\"",
            "\"2030-01-01T00:00:00Z\"",
            "\"NaN\"",
            "true",
            "false",
            "null",
            "[]",
            "{}",
            &format!("[{good}]"),
            &format!("{{\"$date\":{good}}}"),
        ] {
            rows.push(row(line, format!("{name} {raw}"), token(claims().with(name, raw)), INVALID));
        }
        // No JSON, or no number that a double can hold (RFC 8259 section 6).
        for raw in [
            "NaN",
            "Infinity",
            "-Infinity",
            "1e999",
            "-1e999",
            "0x65",
            "+1",
            "01",
            "1.",
            ".5",
            "1e",
            "1_000",
            "\u{661}",
            "",
        ] {
            rows.push(row(
                line,
                format!("{name} {raw}"),
                token(claims().with(name, raw)),
                MALFORMED,
            ));
        }
    }
    rows.push(row("J13", "no exp", token(claims().without("exp")), INVALID));
    rows.push(row(
        "J13",
        "no exp, but Exp",
        token(claims().without("exp").with("Exp", &at(60))),
        INVALID,
    ));
    rows.push(row("J15", "no nbf", token(claims().without("nbf")), Ok(())));
    rows.push(row(
        "J15",
        "no iat, which is required by default",
        token(claims().without("iat")),
        INVALID,
    ));
    rows
}

/// J14: nothing overflows, whatever is added to it.
fn extremes() -> Vec<Row> {
    let mut rows = Vec::new();
    let wrapped = (u128::from(u64::MAX) + 1 + u128::from(NOW) + 60).to_string();
    let beyond = [
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        wrapped.as_str(),
        "-9223372036854775808",
        "-9223372036854775809",
        "1e300",
        "1e308",
        "1.7976931348623157e308",
        "-1e300",
        "-1",
        "-0.5",
        "-1e-9",
        "253402300800",
    ];
    for name in ["exp", "nbf", "iat"] {
        for raw in beyond {
            rows.push(row(
                "J14",
                format!("{name} {raw}"),
                token(claims().with(name, raw)),
                INVALID,
            ));
        }
    }
    for raw in ["0", "-0", "0.0", "1e-300", "1", "5e-324"] {
        rows.push(row("J14", format!("exp {raw}"), token(claims().with("exp", raw)), EXPIRED));
        rows.push(row("J14", format!("nbf {raw}"), token(claims().with("nbf", raw)), Ok(())));
    }
    rows.push(row(
        "J14",
        "exp in the year 9999: a life beyond every bound",
        token(claims().with("exp", "253402300799")),
        INVALID,
    ));
    rows.push(row(
        "J14",
        "nbf in the year 9999",
        token(claims().with("nbf", "253402300799")),
        NOT_YET,
    ));
    rows.push(row(
        "J14",
        "iat in the year 9999",
        token(claims().with("iat", "253402300799")),
        NOT_YET,
    ));
    rows.push(row(
        "J14",
        "iat 0: a life beyond every bound",
        token(claims().with("iat", "0")),
        INVALID,
    ));
    rows.push(row(
        "J14",
        "all three at the end",
        token(claims().with("exp", "1e300").with("nbf", "1e300").with("iat", "1e300")),
        INVALID,
    ));
    rows
}

/// J16, with the default leeway of 30 s: the current time must be before `exp` (RFC 7519 section
/// 4.1.4), leeway added.
fn leeway() -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, raw, expected) in [
        ("exp", at(600), Ok(())),
        ("exp", at(1), Ok(())),
        ("exp", at(0), Ok(())),
        ("exp", at(-29), Ok(())),
        ("exp", format!("{}.001", NOW - 30), Ok(())),
        ("exp", at(-30), EXPIRED),
        ("exp", format!("{}.999", NOW - 31), EXPIRED),
        ("exp", at(-31), EXPIRED),
        ("exp", at(-3600), EXPIRED),
        ("nbf", at(-3600), Ok(())),
        ("nbf", at(0), Ok(())),
        ("nbf", at(29), Ok(())),
        ("nbf", at(30), Ok(())),
        ("nbf", format!("{}.001", NOW + 30), NOT_YET),
        ("nbf", at(31), NOT_YET),
        ("nbf", at(300), NOT_YET),
        ("iat", at(0), Ok(())),
        ("iat", at(30), Ok(())),
        ("iat", format!("{}.001", NOW + 30), NOT_YET),
        ("iat", at(31), NOT_YET),
        ("iat", at(300), NOT_YET),
        ("exp", format!("{}.5", NOW + 60), Ok(())),
        ("exp", format!("{NOW}.000001"), Ok(())),
        ("exp", "1.70000006e9".into(), Ok(())),
        ("exp", "17000000600e-1".into(), Ok(())),
        ("iat", format!("{}.123456789", NOW - 60), Ok(())),
        ("nbf", "1.7E+9".into(), Ok(())),
    ] {
        rows.push(row(
            "J16",
            format!("{name} {raw}, now {NOW}"),
            token(claims().with(name, &raw)),
            expected,
        ));
    }
    rows
}

/// The default `max_lifetime` of 24 h, which bounds `exp` from above.
fn lifetime(iss: &str) -> Vec<Row> {
    let day = 86_400;
    let life = |iat: i64, exp: i64| {
        token(Members::claims(iss).with("iat", &at(iat)).with("exp", &at(exp)))
    };
    vec![
        row("J16", "a life of 24 h", life(-60, day - 60), Ok(())),
        row("J16", "a life of 24 h and 1 s", life(-60, day - 59), INVALID),
        row("J16", "a life of 25 h, nearly over", life(-day, 3600), INVALID),
        row("J16", "a life of ten years", life(0, 3650 * day), INVALID),
    ]
}

fn harness(options: &str) -> Harness {
    let ed = [format!("{{\"kid\":\"ed\",{}}}", jwk_members(&KEYS.ed))];
    let issuer = format!(
        "{{ issuer: https://a.example, audiences: [inference-api], algorithms: [EdDSA], jwks: {{ file: /k }}, {options} }}"
    );
    let routes = "routes: [{ match: { paths: [/v1/models], methods: [GET] }, scopes: [] }]\n";
    Harness::new(&format!("issuers: [{issuer}]\n{routes}"), &[("https://a.example", &ed[..])])
}

fn no_leeway() -> Table {
    let with =
        |name: &str, raw: String| token(Members::claims("https://a.example").with(name, &raw));
    let rows = vec![
        row("J16", "leeway 0: exp is now", with("exp", at(0)), EXPIRED),
        row("J16", "leeway 0: exp was a second ago", with("exp", at(-1)), EXPIRED),
        row(
            "J16",
            "leeway 0: exp is a microsecond from now",
            with("exp", format!("{NOW}.000001")),
            Ok(()),
        ),
        row("J16", "leeway 0: nbf is now", with("nbf", at(0)), Ok(())),
        row(
            "J16",
            "leeway 0: nbf is a microsecond from now",
            with("nbf", format!("{NOW}.000001")),
            NOT_YET,
        ),
        row("J16", "leeway 0: iat is now", with("iat", at(0)), Ok(())),
        row("J16", "leeway 0: iat is a second from now", with("iat", at(1)), NOT_YET),
    ];
    Table { harness: harness("leeway: 0s"), rows }
}

/// A maximum of ten minutes, and tokens without `iat`: their life counts from now.
fn short_life() -> Table {
    let bare =
        |exp: i64| token(Members::claims("https://a.example").without("iat").with("exp", &at(exp)));
    let rows = vec![
        row("J16", "no iat, ten minutes to go", bare(600), Ok(())),
        row("J16", "no iat, ten minutes and a second to go", bare(601), INVALID),
        row("J16", "no iat, expired", bare(-30), EXPIRED),
        row(
            "J13",
            "no iat, no exp",
            token(Members::claims("https://a.example").without("iat").without("exp")),
            INVALID,
        ),
        row(
            "J15",
            "no iat is asked for, and one of the wrong type is refused",
            token(Members::claims("https://a.example").with("iat", "\"1\"")),
            INVALID,
        ),
    ];
    Table { harness: harness("max_lifetime: 10m, required_claims: []"), rows }
}

#[test]
fn the_lines_hold() {
    tables().iter().for_each(Table::hold);
}

#[test]
fn j16_the_leeway_is_bounded_by_the_configuration() {
    let policy = |leeway: &str| {
        let issuer = format!(
            "{{ issuer: https://a.example, audiences: [x], algorithms: [EdDSA], jwks: {{ file: /k }}, {leeway} }}"
        );
        compile(&format!("issuers: [{issuer}]\nroutes: [{{ match: {{ paths: [/x], methods: [GET] }}, scopes: [] }}]\n")).map(drop)
    };
    for good in
        ["leeway: 0s", "leeway: 60s", "leeway: 1m", "max_lifetime: 1ms", "max_lifetime: 31d"]
    {
        assert_eq!(policy(good), Ok(()), "{good}");
    }
    for bad in [
        "leeway: 61s",
        "leeway: 60001ms",
        "leeway: 24h",
        "leeway: -1s",
        "leeway: 1.5s",
        "leeway: 30",
        "max_lifetime: 0s",
        "max_lifetime: 32d",
        "leeway: 18446744073709551615s",
    ] {
        assert!(policy(bad).is_err(), "{bad}");
    }
}
