//! Forged headers, methods, paths and credentials through every proxy. The assertions are on what
//! the upstream received.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener},
    sync::mpsc,
};

use super::{
    allow::identity,
    proxy_rig::{Kind, POLICY, ProxyRig},
};
use crate::rig::http::{Request, exchange};

/// Every spelling of an identity header that some server reads as one.
const SPELLINGS: [&str; 18] = [
    "X-Tollgate-Issuer",
    "X_Tollgate_Issuer",
    "X-Tollgate-Key-Id",
    "X_Tollgate_Key_Id",
    "X-Tollgate-Actor",
    "X_Tollgate_Actor",
    "X-Tollgate-Subject",
    "x-tollgate-subject",
    "X-TOLLGATE-TENANT",
    "X-Tollgate-Model",
    "X-Tollgate-Scopes",
    "X-Tollgate-Credential",
    "X_Tollgate_Subject",
    "x-tollgate_subject",
    "X_Tollgate-Tenant",
    "X.Tollgate.Subject",
    "X-Tollgate-Admin",
    "X-Tollgate-Status",
];

fn forged_identity_headers_never_reach_the_upstream(kind: Kind) {
    let rig = ProxyRig::start(kind);
    let honest = [
        ("x-tollgate-credential", "jwt"),
        ("x-tollgate-issuer", "https://auth.example.com"),
        ("x-tollgate-scopes", "s"),
        ("x-tollgate-subject", "alice"),
    ];
    let honest = honest.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let token = rig.issuer.token(serde_json::json!({ "scope": "s" }));
    for name in SPELLINGS {
        for path in ["/v1/models", "/public/x"] {
            // Once, twice, and beside the real header.
            for more in [None, Some(name), Some("X-Tollgate-Subject")] {
                let mut request = Request::get(path).bearer(&token).header(name, "forged");
                if let Some(more) = more {
                    request = request.header(more, "forged");
                }
                let reply = request.try_send(rig.port);
                let status = reply.as_ref().map_or(0, |reply| reply.status);
                assert!([0, 200, 400].contains(&status), "{name}: {reply:?}");
                for seen in rig.upstream.taken() {
                    assert_eq!(
                        identity(&seen),
                        if path == "/v1/models" { &honest[..] } else { &[] },
                        "{name} to {path}: {seen:?}"
                    );
                    assert!(
                        seen.headers.iter().all(|(_, value)| value != "forged"),
                        "{name}: {seen:?}"
                    );
                }
            }
        }
    }
    let decision = rig.send(
        &Request::get("/v1/models").bearer(&token).header("X-Tollgate-Decision-Id", "forged"),
    );
    assert_eq!(decision.status, 200);
    assert!(rig.upstream.only().all("x-tollgate-decision-id").iter().all(|id| id.len() == 32));
}
through_every_proxy!(forged_identity_headers_never_reach_the_upstream);

/// vLLM's `X-Amzn-SageMaker-Adapter-Identifier` replaces the model of the body. Its preset has it
/// removed; a proxy that cannot remove headers must not forward the request.
fn headers_that_choose_a_model_never_reach_the_upstream(kind: Kind) {
    let rig = ProxyRig::with(kind, &format!("{POLICY}  - preset: vllm\n"), |config| config);
    let token = rig.token();
    for name in [
        "X-Amzn-SageMaker-Adapter-Identifier",
        "x-amzn-sagemaker-adapter-identifier",
        "X_Amzn_SageMaker_Adapter_Identifier",
    ] {
        let reply =
            Request::get("/v1/models").bearer(&token).header(name, "forged").try_send(rig.port);
        let status = reply.as_ref().map_or(0, |reply| reply.status);
        assert!([0, 200, 400].contains(&status), "{name}: {reply:?}");
        for seen in rig.upstream.taken() {
            assert!(seen.headers.iter().all(|(_, value)| value != "forged"), "{name}: {seen:?}");
        }
    }
    assert_eq!(rig.send(&Request::get("/v1/models").bearer(&token)).status, 200);
}
through_every_proxy!(headers_that_choose_a_model_never_reach_the_upstream);

fn a_client_cannot_forge_the_request_that_is_checked(kind: Kind) {
    let rig = ProxyRig::start(kind);
    let parts = [
        ("Method", "GET"),
        ("Uri", "/health"),
        ("URI", "/health"),
        ("URL", "https://api.example.com/health"),
        ("Host", "status.example.com"),
        ("Path", "/health"),
        ("Prefix", "/public"),
        ("Scheme", "https"),
        ("Proto", "https"),
    ];
    let mut names = vec![
        ("X-Envoy-Original-Path".to_owned(), "/health"),
        ("X-Rewrite-URL".to_owned(), "/health"),
        ("X-HTTP-Method-Override".to_owned(), "GET"),
    ];
    for (part, value) in parts {
        for family in ["X-Original-", "X-Forwarded-", "X_Original_", "X_Forwarded_", "X-Original_"]
        {
            names.push((format!("{family}{part}"), value));
        }
    }
    let refused = |request: &Request, what: &str| {
        let reply = request.try_send(rig.port);
        let status = reply.as_ref().map_or(0, |reply| reply.status);
        assert!([0, 400, 401, 403].contains(&status), "{what}: {reply:?}");
        assert_eq!(rig.upstream.taken().len(), 0, "{what}");
    };
    for (name, value) in &names {
        refused(&Request::get("/v1/models").header(name, value), name);
        // Without a credential too, so that only the forged headers could open the route.
        refused(&Request::get("/v1/models").header(name, value).header(name, value), name);
        refused(
            &Request::get("/v1/models")
                .header("Connection", &format!("close, {name}"))
                .header(name, value),
            name,
        );
    }
    // All of them together.
    let everything = names
        .iter()
        .fold(Request::get("/v1/models"), |request, (name, value)| request.header(name, value));
    refused(&everything, "everything");
}
through_every_proxy!(a_client_cannot_forge_the_request_that_is_checked);

/// R22: CVE-2021-32813, CVE-2024-45410, CVE-2025-48865.
fn a_connection_header_removes_no_identity_header(kind: Kind) {
    let rig = ProxyRig::start(kind);
    let token = rig.token();
    for option in [
        "X-Tollgate-Subject",
        "x-tollgate-subject, X-Tollgate-Tenant",
        "keep-alive, x-tollgate-subject",
        "X-Forwarded-Uri",
        "X-Forwarded-Method, X-Forwarded-Host",
        "X-Original-URI, X-Original-Method",
        "X-Real-IP, X-Forwarded-For",
        "Authorization",
        "Host",
        "Content-Length",
    ] {
        let text = format!(
            "GET /v1/models HTTP/1.1\r\nHost: api.example.com\r\nAuthorization: Bearer {token}\r\nConnection: close, {option}\r\n\r\n"
        );
        let reply = exchange(rig.port, text.as_bytes(), true);
        for seen in rig.upstream.taken() {
            assert_eq!(seen.all("x-tollgate-subject"), ["alice"], "{option}: {seen:?}");
        }
        let status = reply.map_or(0, |reply| reply.status);
        assert!([0, 200, 400, 401].contains(&status), "{option}: {status}");
    }
}
through_every_proxy!(a_connection_header_removes_no_identity_header);

fn two_credentials_are_refused(kind: Kind) {
    let rig = ProxyRig::start(kind);
    let (good, other) = (rig.token(), rig.issuer.token(serde_json::json!({ "sub": "mallory" })));
    for (first, second) in [(&good, &other), (&other, &good), (&good, &good)] {
        let reply = Request::get("/v1/models").bearer(first).bearer(second).try_send(rig.port);
        let status = reply.as_ref().map_or(0, |reply| reply.status);
        assert!([0, 400, 401].contains(&status), "{reply:?}");
        let joined = Request::get("/v1/models")
            .header("Authorization", &format!("Bearer {first}, Bearer {second}"));
        assert_eq!(rig.send(&joined).verdict().0, 401);
        assert_eq!(rig.upstream.taken().len(), 0);
    }
}
through_every_proxy!(two_credentials_are_refused);

/// R23, CVE-2026-88004: names that were removed from the headers came back as trailers.
fn trailers_carry_no_identity(kind: Kind) {
    let (port, arrived) = recorder();
    let rig = ProxyRig::before(kind, port);
    let text = format!(
        "POST /v1/upload HTTP/1.1\r\nHost: api.example.com\r\nAuthorization: Bearer {}\r\nTE: trailers\r\n\
         Trailer: X-Tollgate-Tenant, X-Forwarded-Uri\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
         5\r\nhello\r\n0\r\nX-Tollgate-Tenant: forged\r\nX-Tollgate-Subject: forged\r\nX_Tollgate_Subject: forged\r\n\r\n",
        rig.token()
    );
    let reply = exchange(rig.port, text.as_bytes(), true);
    let status = reply.as_ref().map_or(0, |reply| reply.status);
    assert!([0, 200, 400, 411].contains(&status), "{reply:?}");
    let upload = arrived.try_iter().find(|bytes| bytes.starts_with("POST /v1/upload"));
    assert_eq!(upload.is_some(), status == 200);
    assert!(!upload.unwrap_or_default().contains("forged"), "a trailer arrived");
}
through_every_proxy!(trailers_carry_no_identity);

/// An upstream that returns the bytes it received, with those after the last chunk.
pub(super) fn recorder() -> (u16, mpsc::Receiver<String>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let send = send.clone();
            std::thread::spawn(move || {
                let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
                loop {
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    let chunked = text.to_ascii_lowercase().contains("transfer-encoding: chunked");
                    let length = text.to_ascii_lowercase().split_once("content-length: ").map(
                        |(_, rest)| {
                            rest.chars()
                                .take_while(char::is_ascii_digit)
                                .collect::<String>()
                                .parse::<usize>()
                                .unwrap()
                        },
                    );
                    let body = text.split_once("\r\n\r\n").map(|(_, body)| body);
                    let done = body.is_some_and(|body| match length {
                        Some(length) => body.len() >= length,
                        None => !chunked || (body.ends_with("\r\n\r\n") && body.contains("0\r\n")),
                    });
                    if done {
                        send.send(text).unwrap();
                        let _ = stream.write_all(
                            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok",
                        );
                        return;
                    }
                    match stream.read(&mut piece) {
                        Ok(0) | Err(_) => return,
                        Ok(read) => bytes.extend_from_slice(&piece[..read]),
                    }
                }
            });
        }
    });
    (port, receive)
}

/// A policy in which a tool needs a scope of its own.
fn with_tools() -> String {
    POLICY.replace(
        "  - match: { methods: [POST], paths: [/v1/upload] }",
        "  - match: { methods: [POST], paths: [/v1/tools] }
    name: tools
    scopes: []
    tools: \"tool:{name}\"
  - match: { methods: [POST], paths: [/v1/upload] }",
    )
}

/// What a proxy forwards if it cannot read the answer of a check.
fn careless(kind: Kind) -> impl FnOnce(String) -> String {
    move |config| match kind {
        Kind::EnvoyHttp => crate::rig::envoy::failure_mode_allow(config),
        _ => config,
    }
}

fn a_denial_that_names_much_of_the_request_is_a_denial(kind: Kind) {
    if !kind.sends_bodies() {
        return;
    }
    let rig = ProxyRig::with(kind, &with_tools(), careless(kind));
    for (count, length) in [(200, 1000), (120, 1), (1, 1000), (200, 255)] {
        let tools: Vec<_> = (0..count)
            .map(|n| {
                let name = format!("{n}{}", "x".repeat(length));
                serde_json::json!({ "type": "function", "function": { "name": name } })
            })
            .collect();
        let body = serde_json::json!({ "model": "qwen", "messages": [], "tools": tools });
        let request = Request::post("/v1/tools", body.to_string()).bearer(&rig.token());
        let reply = rig.send(&request);
        assert_eq!(reply.verdict(), (403, "tool_forbidden".to_owned()), "{count} of {length}");
        assert!(reply.one("www-authenticate").unwrap().contains("insufficient_scope"));
        assert!(rig.upstream.taken().is_empty(), "{count} of {length}");
    }
}

through_every_proxy!(a_denial_that_names_much_of_the_request_is_a_denial);

#[test]
fn names_to_remove_do_not_make_an_answer_unreadable() {
    let rig = ProxyRig::with(Kind::EnvoyHttp, POLICY, careless(Kind::EnvoyHttp));
    let token = rig.token();
    let request = |count: usize, length: usize| {
        let forged = |n: usize| format!("x.tollgate.{n}.{}", "s".repeat(length));
        (0..count).fold(Request::get("/v1/models").bearer(&token), |request, n| {
            request.header(&forged(n), "forged")
        })
    };
    for (count, length, status) in [(3, 10, 200), (50, 900, 400), (80, 600, 400)] {
        let reply = rig.send(&request(count, length));
        assert_eq!(reply.status, status, "{count} of {length}: {}", reply.text());
        for seen in rig.upstream.taken() {
            assert!(seen.headers.iter().all(|(_, value)| value != "forged"), "{seen:?}");
        }
    }
}
