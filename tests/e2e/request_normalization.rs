//! Ambiguous paths, hosts, headers and bodies through a real Envoy: the upstream receives the
//! request that was checked, or none.
//!
//! The numbers are those of public advisories: a proxy, a policy engine and a server that read one
//! request differently.

use serde_json::json;

use crate::rig::{
    POLICY, Rig,
    envoy::CURRENT,
    http::{Request, exchange},
};

/// `/admin` and one host need a scope that no token has; `/public` needs nothing.
fn policy() -> String {
    POLICY.replace(
        "routes:\n",
        r#"routes:
  - match: { methods: [GET], paths: ["/admin/*"] }
    scopes: [admin]
  - match: { hosts: [admin.example.com], methods: [GET], paths: ["/*"] }
    scopes: [admin]
  - match: { methods: [GET], paths: ["/v1/models/{model*}"] }
    scopes: []
    model: { from: "path:model", scope: "model:{model}:inference" }
"#,
    )
}

/// The path that the upstream receives, or the status of the refusal.
pub(super) const PATHS: [(&str, &str, Result<&str, u16>); 38] = [
    ("plain", "/public/a", Ok("/public/a")),
    ("plain, forbidden", "/admin/people", Err(403)),
    ("R1, CVE-2026-26205: an authority to some parsers", "//admin/people", Err(403)),
    ("R1 the other way round", "//public/../admin/people", Err(403)),
    (
        "R2, CVE-2026-32811: the query is no part of the path",
        "/public/a?/../admin",
        Ok("/public/a?/../admin"),
    ),
    ("R2: an encoded question mark", "/public/a%3F/../../admin", Err(403)),
    ("R2: kept", "/public/a%3Fb", Err(400)),
    ("R3, CVE-2026-42274: dot segments", "/public/../admin/people", Err(403)),
    ("R3: encoded", "/public/%2e%2e/admin/people", Err(403)),
    ("R3: half encoded", "/public/.%2E/admin/people", Err(403)),
    ("R3: with the slash encoded", "/public/%2e%2e%2fadmin", Err(400)),
    ("R4, CVE-2026-42272: the other case", "/public/..%2Fadmin", Err(400)),
    ("R4: all of them", "/public%2F..%2Fadmin", Err(400)),
    ("R6: back and forth", "/admin/../public/../admin/people", Err(403)),
    ("R7, GHSA-7rh7: the open path in the query", "/admin/people?x=/public/a", Err(403)),
    ("R8, R9, CVE-2026-41059, CVE-2021-39156: a fragment", "/admin/people#/public/a", Err(400)),
    ("R8: encoded", "/public/a%23/../../admin", Err(403)),
    ("R10, CVE-2021-31920: an empty segment", "/public//a", Ok("/public/a")),
    (
        "R10: around dots, the upstream gets what was decided on",
        "/public//..//admin/people",
        Ok("/public/admin/people"),
    ),
    ("R10: encoded", "/public/%2Fadmin", Err(400)),
    ("R10: backslashes", "/public\\..\\admin\\people", Err(403)),
    ("R10: encoded backslashes", "/public/..%5cadmin", Err(400)),
    ("R12, CVE-2026-40912: a single dot", "/./admin/people", Err(403)),
    ("R12: encoded", "/%2e/admin/people", Err(403)),
    ("R13, CVE-2025-66490: a letter encoded", "/%61dmin/people", Err(403)),
    ("R13: in the open path", "/%70ublic/a", Ok("/public/a")),
    ("R13: twice", "/%2561dmin/people", Err(400)),
    ("R15, CVE-2026-33186: no leading slash", "admin/people", Err(400)),
    ("absolute form", "http://api.example.com/admin/people", Err(403)),
    ("absolute form, another host", "http://admin.example.com/public/a", Err(403)),
    ("asterisk form", "*", Err(400)),
    ("path parameters, as Tomcat cuts them", "/public/a;/admin", Err(400)),
    ("and with dots, which Envoy resolves", "/public/..;/admin", Err(403)),
    ("NUL", "/public/a%00b", Err(400)),
    ("overlong UTF-8", "/public/%c0%ae%c0%ae/admin", Err(400)),
    ("case is not folded", "/ADMIN/people", Err(403)),
    ("a trailing slash below the prefix", "/admin/", Err(403)),
    ("not listed", "/metrics", Err(403)),
];

#[test]
fn no_spelling_of_a_path_gets_around_its_rule() {
    paths(CURRENT);
}

pub(super) fn paths(version: &str) {
    let rig = Rig::on(version, &policy(), |envoy| envoy);
    let token = rig.token(json!({}));
    for (about, path, fate) in PATHS {
        let reply = rig.envoy.send(&Request::get(path).bearer(&token));
        let seen: Vec<String> = rig.upstream.taken().into_iter().map(|seen| seen.path).collect();
        let expected =
            fate.map_or_else(|status| (status, Vec::new()), |to| (200, vec![to.to_owned()]));
        assert_eq!((reply.status, seen), expected, "{about}: {path}: {}", reply.text());
    }

    // A model's name may contain an encoded slash; the decoded name is checked.
    let reader = rig.token(json!({ "scope": "model:qwen:inference" }));
    for (path, status) in [
        ("/v1/models/Qwen%2FQwen2-72B-Instruct", 200),
        ("/v1/models/Qwen/Qwen2-72B-Instruct", 200),
        ("/v1/models/big-70b", 403),
    ] {
        let reply = rig.envoy.send(&Request::get(path).bearer(&reader));
        let seen: Vec<String> = rig.upstream.taken().into_iter().map(|seen| seen.path).collect();
        assert_eq!(reply.status, status, "{path}: {}", reply.text());
        assert_eq!(seen, if status == 200 { vec![path] } else { Vec::new() });
    }
}

#[test]
fn no_spelling_of_a_host_or_a_header_gets_around_a_rule() {
    hosts_and_headers(CURRENT);
}

pub(super) fn hosts_and_headers(version: &str) {
    let rig = Rig::on(version, &policy(), |envoy| envoy);
    let token = rig.token(json!({}));
    let to = |host: &str, path: &str| {
        Request::get(path).without("Host").header("Host", host).bearer(&token)
    };
    let rows = [
        ("the host itself", to("admin.example.com", "/public/a"), 403),
        (
            "R5, R11, CVE-2026-42273, CVE-2021-39155: its case",
            to("ADMIN.Example.COM", "/public/a"),
            403,
        ),
        ("R11: a port", to("admin.example.com:8443", "/public/a"), 403),
        ("a trailing dot", to("admin.example.com.", "/public/a"), 403),
        ("a user in front", to("public@admin.example.com", "/public/a"), 400),
        (
            "R14: Envoy's own header",
            to("api", "/admin/people").header("X-Envoy-Original-Path", "/public/a"),
            403,
        ),
        (
            "R19, CVE-2026-40575: the path in a header",
            to("api", "/admin/people").header("X-Forwarded-Uri", "/public/a"),
            403,
        ),
        ("R19: another one", to("api", "/admin/people").header("X-Original-Url", "/public/a"), 403),
        ("R20: a prefix", to("api", "/admin/people").header("X-Forwarded-Prefix", "/public"), 403),
        (
            "the host in a header",
            to("admin.example.com", "/public/a").header("X-Forwarded-Host", "api"),
            403,
        ),
        (
            "the method in a header",
            to("api", "/v1/chat/completions").header("X-HTTP-Method-Override", "POST"),
            403,
        ),
        (
            "R24, CVE-2026-34457: a health checker's name",
            to("api", "/admin/people").header("User-Agent", "kube-probe/1.31"),
            403,
        ),
    ];
    for (about, request, status) in rows {
        let reply = rig.envoy.send(&request);
        assert_eq!(
            (reply.status, rig.upstream.taken().len()),
            (status, 0),
            "{about}: {}",
            reply.text()
        );
    }

    // R22, CVE-2021-32813: a hop-by-hop header cannot remove the identity.
    let request = Request::get("/v1/models")
        .header("Connection", "x-tollgate-subject, x-tollgate-scopes")
        .bearer(&token);
    let reply = rig.envoy.send(&request);
    if reply.status == 200 {
        assert_eq!(rig.upstream.only().all("x-tollgate-subject"), ["alice"]);
    } else {
        assert!(rig.upstream.taken().is_empty());
    }

    // R23, CVE-2026-88004: nor can a trailer add one.
    let head = format!(
        "GET /v1/models HTTP/1.1\r\nHost: api\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n"
    );
    let trailers = "Transfer-Encoding: chunked\r\nTrailer: x-tollgate-tenant\r\n\r\n0\r\nx-tollgate-tenant: admin\r\n\r\n";
    let reply = exchange(rig.envoy.port, format!("{head}{trailers}").as_bytes(), true).unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    let seen = rig.upstream.only();
    assert!(seen.all("x-tollgate-tenant").is_empty());

    // R25, CVE-2023-27488: a header that is not UTF-8 does not break the check message; in a
    // credential it is refused.
    let raw = |value: &[u8]| {
        let bearer = format!("Authorization: Bearer {token}\r\n");
        let head = b"GET /v1/models HTTP/1.1\r\nHost: api\r\nConnection: close\r\n".as_slice();
        exchange(
            rig.envoy.port,
            &[head, bearer.as_bytes(), b"X-Name: ", value, b"\r\n\r\n"].concat(),
            true,
        )
        .unwrap()
    };
    assert_eq!(raw(b"caf\xe9 \xff\xfe").status, 200);
    let broken = b"GET /v1/models HTTP/1.1\r\nHost: api\r\nConnection: close\r\nAuthorization: Bearer \xff\xfe\r\n\r\n";
    assert_eq!(
        exchange(rig.envoy.port, broken, true).unwrap().verdict(),
        (401, "malformed_token".into())
    );
}

#[test]
fn no_spelling_of_a_body_gets_around_the_model_s_rule() {
    bodies(CURRENT);
}

pub(super) fn bodies(version: &str) {
    let rig = Rig::on(version, &policy(), |envoy| envoy);
    let token = rig.token(json!({}));
    let deep = format!(r#"{{"model":"qwen","x":{}1{}}}"#, "[".repeat(50_000), "]".repeat(50_000));
    let rows = [
        ("plain", r#"{"model":"qwen"}"#, 200),
        ("spaces", " { \"model\" : \"qwen\" } ", 200),
        ("an escape in the value", r#"{"model":"q\u0077en"}"#, 200),
        ("a nested object is not looked at", r#"{"model":"qwen","x":{"model":"big-70b"}}"#, 200),
        ("the last of two wins in most servers", r#"{"model":"qwen","model":"big-70b"}"#, 400),
        ("the first of two wins in some", r#"{"model":"big-70b","model":"qwen"}"#, 400),
        ("a second one in escapes", r#"{"model":"qwen","\u006dodel":"big-70b"}"#, 400),
        ("Go reads members without case", r#"{"model":"qwen","Model":"big-70b"}"#, 400),
        ("a second document", r#"{"model":"qwen"}{"model":"big-70b"}"#, 400),
        ("a list of requests", r#"[{"model":"qwen"},{"model":"big-70b"}]"#, 400),
        ("not a string", r#"{"model":["qwen"]}"#, 400),
        ("empty", "", 400),
        ("a comment", r#"{"model":"qwen"/*","model":"big-70b"*/}"#, 400),
        ("a NUL in the name", r#"{"model":"qwen\u0000"}"#, 400),
        ("half a surrogate pair", r#"{"model":"qwen\ud800"}"#, 400),
        ("no end", r#"{"model":"qwen""#, 400),
        ("too deep for most parsers (R44, CVE-2026-48042)", &deep, 400),
    ];
    for (about, body, status) in rows {
        let reply = rig.envoy.send(&Request::post("/v1/chat/completions", body).bearer(&token));
        let seen = rig.upstream.taken();
        assert_eq!(
            (reply.status, seen.len()),
            (status, usize::from(status == 200)),
            "{about}: {}",
            reply.text()
        );
        assert!(seen.iter().all(|seen| seen.body == body.as_bytes()), "{about}");
    }

    let utf16: Vec<u8> = r#"{"model":"qwen"}"#.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let chat = |body: &[u8]| {
        Request::post("/v1/chat/completions", body).bearer(&token).without("Content-Type")
    };
    let qwen = br#"{"model":"qwen"}"#;
    let rows = [
        ("no content type", chat(qwen), 415),
        (
            "another charset",
            chat(&utf16).header("Content-Type", "application/json; charset=utf-16"),
            415,
        ),
        ("UTF-16 in disguise", chat(&utf16).header("Content-Type", "application/json"), 400),
        (
            "a byte order mark",
            chat(b"\xef\xbb\xbf{\"model\":\"qwen\"}").header("Content-Type", "application/json"),
            400,
        ),
        ("a form", chat(qwen).header("Content-Type", "multipart/form-data; boundary=x"), 415),
        (
            "two content types, which Envoy joins",
            chat(qwen)
                .header("Content-Type", "application/json")
                .header("Content-Type", "text/plain"),
            415,
        ),
        (
            "compressed",
            chat(qwen)
                .header("Content-Type", "application/json")
                .header("Content-Encoding", "zstd"),
            415,
        ),
    ];
    for (about, request, status) in rows {
        let reply = rig.envoy.send(&request);
        assert_eq!(
            (reply.status, rig.upstream.taken().len()),
            (status, 0),
            "{about}: {}",
            reply.text()
        );
    }
}
