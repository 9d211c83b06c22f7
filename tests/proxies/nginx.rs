//! Behaviour that only nginx has: connections to Tollgate, internal redirects, subrequests.

use std::{
    io,
    net::{Ipv4Addr, TcpListener},
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::proxy_rig::{Kind, POLICY, ProxyRig};
use crate::rig::http::Request;
use crate::rig::replace_once;
use crate::rig::websocket::{EchoServer, Upgraded, value};

/// A forwarder to a Unix socket that counts its connections.
fn relay(to: PathBuf) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            counted.fetch_add(1, Ordering::SeqCst);
            let server = UnixStream::connect(&to).unwrap();
            let (from, into) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || copy(from, into));
            std::thread::spawn(move || copy(server, client));
        }
    });
    (port, count)
}

fn copy(mut from: impl io::Read, mut to: impl io::Write) {
    let _ = io::copy(&mut from, &mut to);
}

fn connections_are_kept(kind: Kind) {
    let mut opened = None;
    let rig = ProxyRig::with(kind, POLICY, |config| {
        let socket =
            config.split_once("server unix:").unwrap().1.split_once(';').unwrap().0.to_owned();
        let (port, count) = relay(PathBuf::from(&socket));
        opened = Some(count);
        replace_once(config, &format!("server unix:{socket}"), &format!("server 127.0.0.1:{port}"))
    });
    let token = rig.token();
    let opened = opened.unwrap();
    for _ in 0..20 {
        assert_eq!(rig.send(&Request::get("/v1/models").bearer(&token)).status, 200);
        // A denial keeps the connection as well, and so does a request with a body.
        assert_eq!(rig.send(&Request::get("/nowhere").bearer(&token)).status, 403);
        assert_eq!(rig.send(&Request::post("/v1/upload", "{}").bearer(&token)).status, 200);
    }
    assert!(
        opened.load(Ordering::SeqCst) <= 2,
        "{} connections for 60 checks",
        opened.load(Ordering::SeqCst)
    );
}

#[test]
fn nginx_keeps_its_connections_to_tollgate() {
    connections_are_kept(Kind::Nginx);
}

#[test]
fn njs_keeps_its_connections_to_tollgate() {
    connections_are_kept(Kind::Njs);
}

/// The client's own path is checked, even where nginx redirects the request internally.
#[test]
fn an_internal_redirect_is_checked_with_the_client_s_path() {
    for kind in [Kind::Nginx, Kind::NewNginx, Kind::Njs] {
        let rig = ProxyRig::with(kind, POLICY, |config| {
            let more = "location /alias/ { rewrite ^/alias/(.*)$ /$1 last; }\n\
                        location /fallback/ { error_page 404 = /v1/models; return 404; }\n\
                        location /try/ { try_files /does-not-exist @moved; }\n\
                        location @moved { rewrite ^ /v1/models last; }\n        location / {";
            replace_once(config, "location / {", more)
        });
        let token = rig.token();
        for path in ["/alias/v1/models", "/fallback/x", "/try/x"] {
            assert_eq!(rig.send(&Request::get(path)).status, 403, "{kind:?} {path}");
            assert_eq!(rig.send(&Request::get(path).bearer(&token)).status, 403, "{kind:?} {path}");
        }
        assert_eq!(rig.upstream.taken().len(), 0, "{kind:?}");
    }
}

/// nginx makes no access checks for subrequests: a subrequest is allowed with its request.
#[test]
fn a_mirrored_request_is_sent_only_if_the_request_is_allowed() {
    for kind in [Kind::Nginx, Kind::Njs] {
        let rig = ProxyRig::with(kind, POLICY, |config| {
            let mirror = "location = /mirror { internal; proxy_pass http://inference/copy-of$request_uri; }\n\
                          location / {\n            mirror /mirror;";
            replace_once(config, "location / {", mirror)
        });
        let token = rig.token();
        assert_eq!(rig.send(&Request::get("/v1/models")).status, 401, "{kind:?}");
        assert_eq!(
            rig.send(&Request::get("/v1/models?allowed").bearer(&token)).status,
            200,
            "{kind:?}"
        );
        let mut seen = Vec::new();
        crate::rig::until("the copy of the allowed request", || {
            seen.extend(rig.upstream.taken().into_iter().map(|request| request.path));
            seen.iter().any(|path| path == "/copy-of/v1/models?allowed").then_some(())
        });
        assert!(!seen.iter().any(|path| path.ends_with("/v1/models")), "{kind:?}: {seen:?}");
    }
}

#[test]
fn the_check_location_is_not_for_clients() {
    for kind in [Kind::Nginx, Kind::NewNginx, Kind::Njs] {
        let rig = ProxyRig::start(kind);
        for path in ["/_tollgate", "/_tollgate?x", "/%5ftollgate", "//_tollgate", "/x/../_tollgate"]
        {
            let request = Request::get(path)
                .header("X-Original-URI", "/health")
                .header("X-Original-Method", "GET")
                .bearer(&rig.token());
            let reply = rig.send(&request);
            assert!([400, 403, 404].contains(&reply.status), "{kind:?} {path}: {}", reply.status);
        }
        assert_eq!(rig.upstream.taken().len(), 0);
    }
}

/// Errors for denials would hide the real errors.
#[test]
fn denials_are_no_errors_in_nginx_s_log() {
    let rig = ProxyRig::start(Kind::Nginx);
    let token = rig.token();
    for path in ["/v1/limited", "/v1/limited", "/v1/limited", "/nowhere", "/v1/mod%2fels"] {
        rig.send(&Request::get(path).bearer(&token));
    }
    let log = rig.log();
    assert!(!log.contains("[error]"), "{log}");
}

/// Errors of the upstream reach the client unchanged.
#[test]
fn an_upstream_s_403_is_not_taken_for_tollgate_s() {
    for kind in [Kind::Nginx, Kind::NewNginx, Kind::Njs] {
        let upstream = crate::rig::http::Server::start(|request| {
            let status = if request.path == "/health" { 200 } else { 403 };
            crate::rig::http::Answer::Whole(
                crate::rig::http::Reply::new(status, "the upstream says no")
                    .header("content-type", "text/plain"),
            )
        });
        let rig = ProxyRig::before(kind, upstream.port);
        let reply = rig.send(&Request::get("/v1/models").bearer(&rig.token()));
        assert_eq!(
            (reply.status, reply.text()),
            (403, "the upstream says no".to_owned()),
            "{kind:?}"
        );
    }
}

/// A retry would not help: the fault is the client's.
#[test]
fn a_header_with_a_control_character_is_a_client_error() {
    for kind in [Kind::Nginx, Kind::NewNginx, Kind::Njs] {
        let rig = ProxyRig::start(kind);
        let token = rig.token();
        for value in ["a\u{1}b", "a\u{1f}", "a\u{7f}b"] {
            let request = Request::get("/v1/models").bearer(&token).header("X-Note", value);
            let reply = rig.send(&request);
            assert_eq!(reply.status, 400, "{kind:?} {value:?}: {}", reply.text());
            assert_eq!(reply.one("retry-after"), None, "{kind:?} {value:?}");
            // A newer nginx refuses some of them itself, with a page of its own.
            assert!(
                reply.text().contains("malformed_request") || reply.text().contains("400"),
                "{kind:?} {value:?}: {}",
                reply.text()
            );
        }
        let reply = rig.send(&Request::get("/v1/models").bearer(&token).header("X-Note", "a\tb"));
        assert_eq!(reply.status, 200, "{kind:?}: a tab is no control character of HTTP");
        assert_eq!(rig.upstream.taken().len(), 1, "{kind:?}");
    }
}

#[test]
fn a_token_of_sixteen_kib_passes() {
    for kind in [Kind::Nginx, Kind::NewNginx, Kind::Njs] {
        let rig = ProxyRig::start(kind);
        // The claims are written in base64: 4 characters for 3 bytes.
        for filler in [6_000, 8_000, 11_500] {
            let token = rig.issuer.token(serde_json::json!({ "groups": "g".repeat(filler) }));
            assert!((8_000..16_384).contains(&token.len()), "{}", token.len());
            for path in ["/v1/models", "/v1/forwarded"] {
                let reply = rig.send(&Request::get(path).bearer(&token));
                assert_eq!(reply.status, 200, "{kind:?} {path} {}", token.len());
            }
            let forwarded = rig.upstream.taken().pop().unwrap();
            assert_eq!(forwarded.all("authorization"), [format!("Bearer {token}")], "{kind:?}");
        }
        let token = rig.issuer.token(serde_json::json!({ "groups": "g".repeat(14_000) }));
        let reply = rig.send(&Request::get("/v1/models").bearer(&token));
        assert_eq!(reply.status, 401, "{kind:?}: {}", reply.text());
    }
}

#[test]
fn a_websocket_passes_on_its_path_only() {
    let policy = format!(
        "{POLICY}  - match: {{ methods: [GET], paths: [/v1/realtime] }}\n    name: realtime\n    scopes: []\n"
    );
    for kind in [Kind::Nginx, Kind::NewNginx, Kind::Njs] {
        let server = EchoServer::start();
        let rig = ProxyRig::build(kind, &policy, Some(server.port), |config| config);
        let token = rig.token();
        let mut socket = Upgraded::open(rig.port, &Request::get("/v1/realtime").bearer(&token));
        assert_eq!(socket.status(), 101, "{kind:?}: {}", socket.head);
        assert!(socket.echoes(), "{kind:?}");
        assert_eq!(server.taken().len(), 1, "{kind:?}");
        let refused = Upgraded::open(rig.port, &Request::get("/v1/realtime"));
        assert_eq!(refused.status(), 401, "{kind:?}");
        // Any other path is a plain request to the upstream.
        let plain = Upgraded::open(rig.port, &Request::get("/v1/models").bearer(&token));
        assert_eq!(plain.status(), 200, "{kind:?}");
        assert!(server.taken().is_empty(), "{kind:?}");
    }
}

#[test]
fn a_token_among_the_protocols_of_a_websocket_is_taken_out() {
    let policy = format!(
        "{POLICY}  - match: {{ methods: [GET], paths: [/v1/realtime] }}\n    name: realtime\n    scopes: []\n    websocket: {{ token_prefix: key., origins: [\"https://app.example.com\"] }}\n"
    );
    for kind in [Kind::Nginx, Kind::NewNginx, Kind::Njs] {
        let server = EchoServer::start();
        let rig = ProxyRig::build(kind, &policy, Some(server.port), |config| config);
        let token = rig.token();
        let offer = |protocols: &str| {
            Request::get("/v1/realtime")
                .header("Origin", "https://app.example.com")
                .header("Sec-WebSocket-Protocol", protocols)
        };
        let socket = Upgraded::open(rig.port, &offer(&format!("realtime, key.{token}, beta")));
        assert_eq!(socket.status(), 101, "{kind:?}: {}", socket.head);
        let seen = server.taken().concat();
        assert_eq!(
            value(&seen, "sec-websocket-protocol").as_deref(),
            Some("realtime, beta"),
            "{kind:?}: {seen}"
        );
        assert!(!seen.contains(&token) && !socket.head.contains(&token), "{kind:?}");
        let alone = Upgraded::open(rig.port, &offer(&format!("key.{token}")));
        assert_eq!(alone.status(), 101, "{kind:?}");
        assert!(!server.taken().concat().to_lowercase().contains("protocol"), "{kind:?}");
        let plain = Upgraded::open(rig.port, &offer("a, b").bearer(&token));
        assert_eq!(plain.status(), 101, "{kind:?}");
        let seen = server.taken().concat();
        assert_eq!(value(&seen, "sec-websocket-protocol").as_deref(), Some("a, b"), "{kind:?}");
    }
}
