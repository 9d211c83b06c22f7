//! Paths and hosts through every proxy: no spelling of a path opens a route that its plain spelling
//! does not open.

use super::proxy_rig::{Kind, ProxyRig};
use crate::rig::http::{Request, exchange};

/// Whether some server reads this path as public: decoded never, once or twice, with dot segments
/// resolved or not.
fn is_public(path: &str) -> bool {
    let path = path.split(['?', '#']).next().unwrap();
    let once = decoded(path);
    let twice = decoded(&once);
    [path, &once, &twice].iter().all(|path| {
        let resolved = resolved(path);
        resolved == "/health" || resolved == "/public" || resolved.starts_with("/public/")
    })
}

fn decoded(path: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = tail
            .get(..2)
            .and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match (first, hex) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn resolved(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split(['/', '\\']) {
        match segment.split(';').next().unwrap() {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    format!("/{}", segments.join("/"))
}

/// R1 to R13: spellings from advisories of other products.
const TRICKS: [&str; 42] = [
    "/public/../v1/models",
    "/public/x/../../v1/models",
    "/public/./../v1/models",
    "/public/%2e%2e/v1/models",
    "/public/%2E%2E/v1/models",
    "/public/.%2e/v1/models",
    "/public/..%2fv1/models",
    "/public/..%2Fv1%2Fmodels",
    "/public%2f..%2fv1%2fmodels",
    "/public/%2e%2e%2fv1%2fmodels",
    "/public/%252e%252e/v1/models",
    "/public/..%252fv1/models",
    "/public/..%5cv1%5cmodels",
    "/public/..\\v1\\models",
    "/public\\..\\v1\\models",
    "/public/..;/v1/models",
    "/public/;/../v1/models",
    "/health/../v1/models",
    "/health/..%2fv1/models",
    "/health%2f..%2fv1%2fmodels",
    "/health;/../v1/models",
    "/health%00/../v1/models",
    "/v1/models%00/health",
    "/v1/models;/health",
    "/v1/models#/health",
    "/v1/models%23/../../health",
    "/v1/models?/../../health",
    "/v1/models%3f/../../health",
    "//v1/models",
    "///v1/models",
    "//public/../v1/models",
    "//health/../v1/models",
    "/v1//models",
    "/./v1/models",
    "/v1/./models",
    "/%76%31/models",
    "/v1/%6dodels",
    "/v1%2fmodels",
    "/V1/models",
    "/v1/models/",
    "/public/..%c0%afv1/models",
    "/public/..%ef%bc%8fv1/models",
];

fn no_spelling_opens_a_path(kind: Kind) {
    let rig = ProxyRig::start(kind);
    for path in TRICKS {
        for method in ["GET", "HEAD", "POST"] {
            let status =
                Request::new(method, path).try_send(rig.port).map_or(0, |reply| reply.status);
            for seen in rig.upstream.taken() {
                assert!(
                    is_public(&seen.path),
                    "{method} {path} arrived as {}, which some servers read as protected",
                    seen.path
                );
            }
            assert!(
                [0, 200, 301, 308, 400, 401, 403, 404].contains(&status),
                "{method} {path}: {status}"
            );
        }
    }
}
through_every_proxy!(no_spelling_opens_a_path);

/// The checked path is forwarded: a model's name in the path, encoded or not.
fn the_checked_path_is_the_forwarded_path(kind: Kind) {
    let rig = ProxyRig::start(kind);
    let token = rig.token();
    for (path, model) in [
        ("/v1/models/qwen", "qwen"),
        ("/v1/models/qwen?x=/../..", "qwen"),
        ("/v1/models/%71wen", "qwen"),
    ] {
        let reply = rig.send(&Request::get(path).bearer(&token));
        for seen in rig.upstream.taken() {
            assert_eq!(reply.status, 200, "{path}");
            assert_eq!(seen.all("x-tollgate-model"), [model], "{path}");
            assert_eq!(
                decoded(seen.path.split('?').next().unwrap()),
                format!("/v1/models/{model}"),
                "{path}"
            );
        }
    }
    let reply = rig.send(&Request::get("/v1/models/other").bearer(&token));
    assert_eq!(reply.verdict(), (403, "model_forbidden".into()));
}
through_every_proxy!(the_checked_path_is_the_forwarded_path);

/// The checked host is the host that the upstream receives. Compare CVE-2026-49468 of LiteLLM.
fn the_checked_host_is_the_forwarded_host(kind: Kind) {
    let rig = ProxyRig::start(kind);
    let public = "GET /v1/models HTTP/1.1\r\nHost: status.example.com\r\nConnection: close\r\n\r\n";
    assert_eq!(exchange(rig.port, public.as_bytes(), true).unwrap().status, 200);
    rig.upstream.taken();
    for text in [
        "GET http://status.example.com/v1/models HTTP/1.1\r\nHost: api.example.com\r\n",
        "GET http://api.example.com/v1/models HTTP/1.1\r\nHost: status.example.com\r\n",
        "GET /v1/models HTTP/1.1\r\nHost: api.example.com\r\nHost: status.example.com\r\n",
        "GET /v1/models HTTP/1.1\r\nHost: status.example.com\r\nHost: api.example.com\r\n",
        "GET /v1/models HTTP/1.1\r\nHost: status.example.com, api.example.com\r\n",
        "GET /v1/models HTTP/1.1\r\nHost: status.example.com@api.example.com\r\n",
        "GET /v1/models HTTP/1.1\r\nHost: status.example.com/\r\n",
        "GET /v1/models HTTP/1.1\r\nHost: STATUS.example.com.:80\r\n",
        "GET status.example.com/v1/models HTTP/1.1\r\nHost: api.example.com\r\n",
        "GET http://status.example.com@api.example.com/v1/models HTTP/1.1\r\nHost: api.example.com\r\n",
    ] {
        let reply = exchange(rig.port, format!("{text}Connection: close\r\n\r\n").as_bytes(), true);
        let status = reply.map_or(0, |reply| reply.status);
        for seen in rig.upstream.taken() {
            let hosts: Vec<String> =
                seen.all("host").iter().map(|host| host.to_ascii_lowercase()).collect();
            let plain =
                hosts.first().map_or("", |host| host.trim_end_matches(":80").trim_end_matches('.'));
            assert_eq!(
                (hosts.len(), plain, status),
                (1, "status.example.com", 200),
                "{text}: {seen:?}"
            );
        }
    }
}
through_every_proxy!(the_checked_host_is_the_forwarded_host);

/// A comma is data in a query, and no sign of a repeated header.
fn a_query_with_commas_is_forwarded(kind: Kind) {
    let rig = ProxyRig::start(kind);
    let token = rig.token();
    for path in ["/v1/models?next=/a,/b", "/v1/models?x=1,/public", "/v1/models?a=1,2&b=,"] {
        let reply = rig.send(&Request::get(path).bearer(&token));
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        let seen: Vec<String> =
            rig.upstream.taken().into_iter().map(|request| request.path).collect();
        assert_eq!(seen, [path]);
    }
    let denied = rig.send(&Request::get("/public/x,/v1/models").bearer(&token));
    assert_eq!(denied.status, 400, "{}", denied.text());
}
through_every_proxy!(a_query_with_commas_is_forwarded);
