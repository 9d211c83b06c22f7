//! Refusals outside of a decision: routes that a listener cannot serve, and checks from untrusted
//! peers.

use super::proxy_rig::POLICY;
use crate::rig::{
    free_port,
    http::Request,
    issuer::Issuer,
    tollgate::{Tollgate, run},
};

fn with(listener: &str) -> String {
    format!(
        "listen:\n  grpc: \"unix:${{DIR}}/authz.sock\"\n  ops: \"127.0.0.1:0\"\n  http: [ {listener} ]\n{POLICY}"
    )
}

#[test]
fn a_route_that_reads_the_body_is_refused_with_its_name_and_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    for (dialect, remedy) in [
        ("nginx", "njs"),
        ("traefik", "forwardBody: true"),
        ("caddy", "another proxy"),
        ("haproxy", "`body`"),
        ("envoy_http", "with_request_body"),
    ] {
        std::fs::write(
            dir.path().join("t.yaml"),
            with(&format!("{{ address: \"127.0.0.1:9001\", dialect: {dialect} }}")),
        )
        .unwrap();
        for command in [&["check-config", "t.yaml"][..], &["serve", "--config", "t.yaml"]] {
            let output = run(dir.path(), command);
            let text = format!(
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
            assert!(!output.status.success(), "{command:?} {dialect}: {text}");
            for part in [
                "t.yaml:4: listen.http[0]",
                "`generate`",
                "routes[0]",
                "127.0.0.1:9001",
                dialect,
                remedy,
                "body: deny",
            ] {
                assert!(
                    text.contains(part),
                    "{command:?} {dialect}: `{part}` is missing in\n{text}"
                );
            }
        }
        let known =
            with(&format!("{{ address: \"127.0.0.1:9001\", dialect: {dialect}, body: deny }}"));
        std::fs::write(dir.path().join("t.yaml"), known).unwrap();
        assert!(run(dir.path(), &["check-config", "t.yaml"]).status.success(), "{dialect}");
    }
}

#[test]
fn a_check_from_an_untrusted_peer_is_closed_without_an_answer() {
    let dir = tempfile::tempdir().unwrap();
    let issuer = Issuer::new("https://auth.example.com");
    issuer.publish(dir.path());
    let listener = "{ address: \"127.0.0.1:0\", dialect: nginx, trusted_proxies: [\"192.0.2.7\"], body: deny }";
    let tollgate = Tollgate::start(dir.path(), &with(listener));
    let check = Request::get("/check")
        .header("X-Original-Method", "GET")
        .header("X-Original-URI", "/health")
        .header("X-Original-Host", "api.example.com")
        // No header makes a peer trusted.
        .header("X-Real-IP", "192.0.2.7")
        .header("X-Forwarded-For", "192.0.2.7");
    assert!(check.try_send(tollgate.http_port()).is_none());
    assert!(tollgate.process.err().contains("not listed in `trusted_proxies`"));
}

#[test]
fn the_listener_speaks_http_1_and_2_and_answers_health_checkers_like_anyone() {
    let dir = tempfile::tempdir().unwrap();
    Issuer::new("https://auth.example.com").publish(dir.path());
    let tollgate = Tollgate::start(
        dir.path(),
        &with("{ address: \"127.0.0.1:0\", dialect: nginx, body: deny }"),
    );
    let port = tollgate.http_port();
    // R24, CVE-2026-34457: no path and no user agent is special.
    for path in ["/", "/healthz", "/ping", "/check"] {
        for agent in ["kube-probe/1.34", "GoogleHC/1.0", "ELB-HealthChecker/2.0"] {
            let reply = Request::get(path).header("User-Agent", agent).send(port);
            assert_eq!(
                (reply.status, reply.one("x-tollgate-status")),
                (403, Some("400")),
                "{path} {agent}"
            );
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let io = hyper_util::rt::TokioIo::new(stream);
        let executor = hyper_util::rt::TokioExecutor::new();
        let (mut client, connection) =
            hyper::client::conn::http2::handshake(executor, io).await.unwrap();
        tokio::spawn(connection);
        let check = hyper::Request::get("http://tollgate/check")
            .header("x-original-method", "GET")
            .header("x-original-uri", "/health")
            .header("x-original-host", "api.example.com")
            // The client's cookies are part of the check.
            .header("cookie", "x".repeat(40_000))
            .body(http_body_util::Empty::<bytes::Bytes>::new())
            .unwrap();
        assert_eq!(client.send_request(check).await.unwrap().status(), 200);
    });
}

#[test]
fn two_dialects_have_two_listeners() {
    let dir = tempfile::tempdir().unwrap();
    Issuer::new("https://auth.example.com").publish(dir.path());
    let (nginx, traefik) = (free_port(), free_port());
    let listeners = format!(
        "{{ address: \"127.0.0.1:{nginx}\", dialect: nginx, body: deny }}, {{ address: \"127.0.0.1:{traefik}\", dialect: traefik, body: sent }}"
    );
    let _tollgate = Tollgate::start(dir.path(), &with(&listeners));
    let ask = |port: u16, family: &str| {
        let name = |part: &str| format!("{family}-{part}");
        let check = Request::get("/check")
            .header(&name("Method"), "GET")
            .header(&name("Host"), "a.example.com")
            .header(&name("Uri"), "/health");
        check.send(port).status
    };
    assert_eq!(
        [
            ask(nginx, "X-Original"),
            ask(nginx, "X-Forwarded"),
            ask(traefik, "X-Forwarded"),
            ask(traefik, "X-Original")
        ],
        [200, 403, 200, 400]
    );
}
