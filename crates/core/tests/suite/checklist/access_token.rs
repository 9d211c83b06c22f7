//! A01 to A07: access tokens (RFC 9068) as bearer tokens (RFC 6750).

use tollgate_core::{denial::Reason, request::RawBody};

use super::shape::encrypted;
use crate::{
    harness::{Answer, Harness, Row, Table, raw, row},
    keys::{KEYS, Signer, jwk_members},
    token::{Members, NOW, signed},
};

const INSUFFICIENT: Result<(), Reason> = Err(Reason::InsufficientScope);
const INVALID: Result<(), Reason> = Err(Reason::InvalidClaim);
const MISSING: Result<(), Reason> = Err(Reason::MissingCredential);

pub fn tables() -> Vec<Table> {
    let mut rows = media_type();
    rows.extend(id_token());
    rows.extend(scope());
    rows.extend(challenge());
    rows.extend(encryption());
    rows.extend(place());
    vec![Table::standard(rows), strict_profile()]
}

fn header() -> Members {
    Members::header("EdDSA", "ed")
}

fn claims() -> Members {
    Members::claims("https://many.example")
}

fn token(claims: Members) -> String {
    signed(Signer::Ed, header().json(), claims.json())
}

fn media_type() -> Vec<Row> {
    let typed = |typ: &str| signed(Signer::Ed, header().text("typ", typ).json(), claims().json());
    vec![
        row("A01", "at+jwt", typed("at+jwt"), Ok(())),
        row("A01", "application/at+jwt", typed("application/at+jwt"), Ok(())),
        row(
            "A01",
            "at+jwt, and a parameter",
            typed("application/at+jwt; v=1"),
            Err(Reason::WrongTokenType),
        ),
        row("A01", "another subtype", typed("application/at"), Err(Reason::WrongTokenType)),
    ]
}

/// A02: an issuer of the strict profile, which RFC 9068 section 2.2 asks for.
fn strict_profile() -> Table {
    let issuer = "{ issuer: https://strict.example, audiences: [inference-api], algorithms: [EdDSA], jwks: { file: /k }, \
                  required_claims: [iat, jti, sub, client_id] }";
    let routes = "routes: [{ match: { paths: [/v1/models], methods: [GET] }, scopes: [] }]\n";
    let ed = [format!("{{\"kid\":\"ed\",{}}}", jwk_members(&KEYS.ed))];
    let harness = Harness::new(
        &format!("issuers: [{issuer}]\n{routes}"),
        &[("https://strict.example", &ed[..])],
    );
    let strict = || Members::claims("https://strict.example").text("client_id", "cli");
    let token =
        |claims: Members| signed(Signer::Ed, header().text("typ", "at+jwt").json(), claims.json());
    let mut rows = vec![row("A02", "all of them", token(strict()), Ok(()))];
    for (name, absent, null) in [
        ("iss", Reason::UnknownIssuer, Reason::UnknownIssuer),
        ("exp", Reason::InvalidClaim, Reason::InvalidClaim),
        ("aud", Reason::WrongAudience, Reason::WrongAudience),
        ("sub", Reason::InvalidClaim, Reason::InvalidClaim),
        ("client_id", Reason::InvalidClaim, Reason::InvalidClaim),
        ("iat", Reason::InvalidClaim, Reason::InvalidClaim),
        ("jti", Reason::InvalidClaim, Reason::InvalidClaim),
    ] {
        rows.push(row("A02", format!("no {name}"), token(strict().without(name)), Err(absent)));
        rows.push(row(
            "A02",
            format!("{name} null"),
            token(strict().with(name, "null")),
            Err(null),
        ));
    }
    for name in ["client_id", "jti", "sub"] {
        rows.push(row("A02", format!("{name} empty"), token(strict().text(name, "")), INVALID));
    }
    Table { harness, rows }
}

/// A03: an ID token is for the client (OpenID Connect Core section 2), not for this service.
fn id_token() -> Vec<Row> {
    let id = || {
        claims()
            .text("aud", "client-1")
            .text("azp", "client-1")
            .text("nonce", "n-0S6_WzA2Mj")
            .text("at_hash", "77QmUPtjPfzWtF2AnpK9RQ")
            .with("auth_time", &NOW.to_string())
            .with("email_verified", "true")
    };
    let wrong = Err(Reason::WrongAudience);
    vec![
        row("A03", "an ID token", token(id()), wrong),
        row(
            "A03",
            "an ID token with typ JWT",
            signed(Signer::Ed, header().text("typ", "JWT").json(), id().json()),
            wrong,
        ),
        row(
            "A03",
            "an ID token for two clients",
            token(id().with("aud", "[\"client-1\",\"client-2\"]")),
            wrong,
        ),
        row(
            "A03",
            "an ID token that names this service as azp",
            token(id().text("azp", "inference-api")),
            wrong,
        ),
    ]
}

/// A04, on a route that needs `infer:text` (RFC 6749 section 3.3: words between spaces,
/// case-sensitive).
fn scope() -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, raw) in [
        ("scope", "\"infer:text\""),
        ("scope", "\"infer:text other\""),
        ("scope", "\"other infer:text\""),
        ("scope", "\"a infer:text b\""),
        ("scope", "\"  infer:text  \""),
        ("scope", "\"infer:text infer:text\""),
        ("scope", "\"infer\\u003atext\""),
        ("scope", "[\"other\",\"infer:text\"]"),
        ("scopes", "[\"infer:text\"]"),
        ("scopes", "\"infer:text\""),
        ("scp", "[\"infer:text\"]"),
        ("scp", "\"a infer:text\""),
    ] {
        rows.push(
            row("A04", format!("{name} {raw}"), token(claims().with(name, raw)), Ok(()))
                .on("/v1/chat"),
        );
    }
    for raw in [
        "\"\"",
        "\" \"",
        "\"infer\"",
        "\"infer:\"",
        "\"infer:tex\"",
        "\"infer:text2\"",
        "\"infer:text:all\"",
        "\"my-infer:text\"",
        "\"Infer:text\"",
        "\"INFER:TEXT\"",
        "\"infer:*\"",
        "\"*\"",
        "\".*\"",
        "\"infer:text,other\"",
        "\"other,infer:text\"",
        "\"infer:text;other\"",
        "\"infer:text|other\"",
        "\"infer:text+other\"",
        "\"infer%3Atext\"",
        "\"infer:text%20x\"",
        "\"infer:text\u{a0}other\"",
        "\"other\u{a0}infer:text\"",
        "\"other\u{2003}infer:text\"",
        "\"other\u{3000}infer:text\"",
        "\"other\u{200b}infer:text\"",
        "\"infer\u{ff1a}text\"",
        "\"infer:te\u{445}t\"",
        "\"'infer:text'\"",
        "\"\\\"infer:text\\\"\"",
        "\"[infer:text]\"",
        "\"infer :text\"",
        "[]",
        "[\"\"]",
        "[\"infer:text,other\"]",
        "[\"infer\",\":text\"]",
        "null",
    ] {
        rows.push(
            row("A04", format!("scope {raw}"), token(claims().with("scope", raw)), INSUFFICIENT)
                .on("/v1/chat"),
        );
    }
    rows.push(row("A04", "no scope", token(claims()), INSUFFICIENT).on("/v1/chat"));
    rows.push(
        row("A04", "Scope", token(claims().text("Scope", "infer:text")), INSUFFICIENT)
            .on("/v1/chat"),
    );
    rows.push(
        row("A04", "a role is no scope", token(claims().text("roles", "infer:text")), INSUFFICIENT)
            .on("/v1/chat"),
    );
    // A control is in no scope and in no header (J17). A space is in no scope: of a list, one
    // reader sees one word in it and another two, so that the list loses it.
    for (raw, expected) in [
        ("\"other\\tinfer:text\"", INVALID),
        ("\"infer:text\\n\"", INVALID),
        ("\"other\\u000binfer:text\"", INVALID),
        ("\"other\\r\\ninfer:text\"", INVALID),
        ("[\"other infer:text\"]", INSUFFICIENT),
        ("[\"infer:text other\"]", INSUFFICIENT),
        ("[\"a\",\" infer:text\"]", INSUFFICIENT),
        ("[\"infer:text \"]", INSUFFICIENT),
        ("[\"infer:text \",\"infer:text\"]", Ok(())),
    ] {
        rows.push(
            row("A04", format!("scope {raw}"), token(claims().with("scope", raw)), expected)
                .on("/v1/chat"),
        );
    }
    rows
}

/// A05: the status and the error code; what the header says in full is tested below.
fn challenge() -> Vec<Row> {
    vec![
        row("A05", "a good token without the scope: 403", token(claims()), INSUFFICIENT)
            .on("/v1/chat"),
        row(
            "A05",
            "an expired token without the scope: 401",
            token(claims().with("exp", "1")),
            Err(Reason::Expired),
        )
        .on("/v1/chat"),
        raw("A05", "another scheme is no credential", "Basic dXNlcjpwYXNz", MISSING).on("/v1/chat"),
        raw("A05", "a scheme and no token", "Bearer ", MISSING).on("/v1/chat"),
        raw("A05", "a bare token", token(claims()), MISSING).on("/v1/chat"),
        raw("A05", "two tokens", "Bearer a.b.c, Bearer d.e.f", Err(Reason::AmbiguousCredential))
            .on("/v1/chat"),
    ]
}

/// A06: no key to decrypt with is configured anywhere.
fn encryption() -> Vec<Row> {
    let header =
        |typ: &str| format!(r#"{{"alg":"RSA-OAEP","enc":"A256GCM","typ":"{typ}","kid":"rsa"}}"#);
    let malformed = Err(Reason::MalformedToken);
    vec![
        row(
            "A06",
            "an encrypted access token",
            encrypted(&KEYS.rsa, &header("at+jwt"), &claims().json()),
            malformed,
        ),
        row(
            "A06",
            "one around a signed one",
            encrypted(&KEYS.rsa, &header("at+jwt"), &token(claims())),
            malformed,
        ),
        row(
            "A06",
            "one without typ",
            encrypted(&KEYS.rsa, r#"{"alg":"RSA-OAEP","enc":"A256GCM"}"#, &claims().json()),
            malformed,
        ),
    ]
}

/// A07: rows without a bearer token in `Authorization`, and a good one elsewhere.
fn place() -> Vec<Row> {
    let token = token(claims());
    let mut rows = vec![
        row("A07", "in the header, whatever the query says", &token, Ok(()))
            .on("/v1/models?access_token=x"),
        row(
            "A07",
            "a bad one in the header and a good one in the query",
            "a.b.c",
            Err(Reason::MalformedToken),
        )
        .on(format!("/v1/models?access_token={token}")),
    ];
    for name in [
        "access_token",
        "token",
        "key",
        "api_key",
        "bearer",
        "authorization",
        "Authorization",
        "id_token",
        "jwt",
    ] {
        let path = format!("/v1/models?{name}={token}");
        rows.push(raw("A07", format!("in the query as {name}"), "", MISSING).on(path));
    }
    rows
}

#[test]
fn the_lines_hold() {
    tables().iter().for_each(Table::hold);
}

#[test]
fn a05_the_challenge_in_full() {
    let harness = Harness::standard();
    let challenge = |headers: &[(&str, &[u8])]| {
        let answer = harness.ask("/v1/chat", headers);
        let Answer::Refused { answer: denied, .. } = &answer else { panic!("accepted") };
        let all: Vec<_> =
            denied.headers.iter().filter(|(name, _)| *name == "www-authenticate").collect();
        assert_eq!(all.len(), 1, "one challenge");
        (denied.status, answer.header("www-authenticate").unwrap().to_owned())
    };
    let bearer = |claims: Members| format!("Bearer {}", token(claims)).into_bytes();
    // RFC 6750 section 3.1: no error code where the request lacks any authentication information.
    assert_eq!(challenge(&[]), (401, "Bearer realm=\"tollgate\"".into()));
    assert_eq!(
        challenge(&[("authorization", b"Basic dXNlcjpwYXNz")]),
        (401, "Bearer realm=\"tollgate\"".into())
    );
    assert_eq!(
        challenge(&[("authorization", &bearer(claims().with("exp", "1")))]),
        (
            401,
            "Bearer realm=\"tollgate\", error=\"invalid_token\", error_description=\"the token has expired; get a new one\""
                .into()
        )
    );
    let (status, scoped) = challenge(&[("authorization", &bearer(claims()))]);
    assert_eq!(status, 403);
    assert!(
        scoped.starts_with(
            "Bearer realm=\"tollgate\", error=\"insufficient_scope\", error_description=\""
        ),
        "{scoped}"
    );
    assert!(scoped.ends_with(", scope=\"infer:text\""), "{scoped}");
    let two = bearer(claims());
    let (status, twice) = challenge(&[("authorization", &two), ("authorization", &two)]);
    assert_eq!(status, 401);
    assert!(twice.contains("error=\"invalid_request\""), "{twice}");
}

#[test]
fn a07_a_token_in_another_header_or_in_the_body_is_none() {
    let harness = Harness::standard();
    let token = token(claims().text("scope", "infer:text"));
    let value = format!("Bearer {token}").into_bytes();
    assert_eq!(harness.ask("/v1/chat", &[("authorization", &value)]).verdict(), Ok(()));
    for name in [
        "cookie",
        "proxy-authorization",
        "x-authorization",
        "x-auth-token",
        "x-api-key",
        "api-key",
        "x-access-token",
        "x-forwarded-access-token",
        "x-original-authorization",
        "authorization2",
        "authorization ",
        "http_authorization",
        "sec-websocket-protocol",
        "x-amzn-oidc-data",
        "x-goog-iap-jwt-assertion",
        "cf-access-jwt-assertion",
    ] {
        for value in [
            value.clone(),
            token.clone().into_bytes(),
            format!("access_token={token}").into_bytes(),
        ] {
            assert_eq!(harness.ask("/v1/chat", &[(name, &value)]).verdict(), MISSING, "{name}");
        }
    }
    for (content_type, body) in [
        ("application/x-www-form-urlencoded", format!("access_token={token}")),
        ("application/json", format!("{{\"access_token\":\"{token}\"}}")),
    ] {
        let headers = [("content-type", content_type.as_bytes())];
        let answer =
            harness.ask_with_body("POST", "/v1/chat", &headers, RawBody::Whole(body.as_bytes()));
        assert_eq!(answer.verdict(), MISSING, "{content_type}");
    }
    // The name is compared without case, the scheme as well (RFC 9110 sections 5.1 and 11.1).
    for (name, scheme) in
        [("Authorization", "Bearer"), ("AUTHORIZATION", "bearer"), ("authorization", "BEARER")]
    {
        assert_eq!(
            harness.ask("/v1/chat", &[(name, format!("{scheme} {token}").as_bytes())]).verdict(),
            Ok(()),
            "{name} {scheme}"
        );
    }
}
