//! The same bytes to an Envoy with a sidecar and to one with the module: the answers, and what reaches
//! the upstream, are the same.

use serde_json::json;

use crate::rig::{
    POLICY, Rig,
    envoy::{CURRENT, EMBEDDED_CURRENT},
    http::{Reply, exchange},
    until,
};

/// Headers that differ between two answers to the same request.
const OWN: [&str; 8] = [
    "date",
    "x-tollgate-decision-id",
    "x-request-id",
    "x-envoy-upstream-service-time",
    "x-envoy-expected-rq-timeout-ms",
    "x-forwarded-for",
    "x-envoy-external-address",
    "connection",
];

/// What is compared: status, headers and body of the answer; method, path, headers and body of the
/// request that the upstream got.
#[derive(Debug, PartialEq)]
struct Seen {
    status: Option<u16>,
    headers: Vec<(String, String)>,
    body: String,
    upstream: Vec<Forwarded>,
}

/// A request at the upstream.
#[derive(Debug, PartialEq)]
struct Forwarded {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: String,
}

fn plain(headers: &[(String, String)]) -> Vec<(String, String)> {
    let mut headers: Vec<(String, String)> = headers
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
        .filter(|(name, _)| !OWN.contains(&name.as_str()))
        .collect();
    headers.sort();
    headers
}

fn seen(rig: &Rig, reply: Option<&Reply>) -> Seen {
    let upstream = rig.upstream.taken();
    Seen {
        status: reply.map(|reply| reply.status),
        headers: reply.map(|reply| plain(&reply.headers)).unwrap_or_default(),
        body: reply.map(Reply::text).unwrap_or_default(),
        upstream: upstream
            .into_iter()
            .map(|request| Forwarded {
                headers: plain(&request.headers),
                body: String::from_utf8_lossy(&request.body).into_owned(),
                method: request.method,
                path: request.path,
            })
            .collect(),
    }
}

/// Requests in raw bytes, in which `TOKEN` is replaced.
fn requests() -> Vec<Vec<u8>> {
    let body = r#"{"model":"qwen","messages":[]}"#;
    let post = |headers: &str, body: &str| {
        format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: api\r\nConnection: close\r\n{headers}\r\n{body}"
        )
    };
    let authorized = "Authorization: Bearer TOKEN\r\nContent-Type: application/json\r\n";
    let length = format!("Content-Length: {}\r\n", body.len());
    let mut requests: Vec<String> = Vec::new();
    for path in [
        "/v1/models",
        "/v1/models?x=1&x=2",
        "/v1//models",
        "/v1/./models",
        "/v1/models/../chat/completions",
        "/v1/models%2f",
        "/v1/%6dodels",
        "/v1/models;x",
        "/health",
        "/public/a%20b",
        "/public/%2e%2e/v1/models",
        "/nope",
        "*",
        "http://api/v1/models",
    ] {
        for method in ["GET", "HEAD", "POST", "DELETE", "OPTIONS", "get"] {
            requests.push(format!(
                "{method} {path} HTTP/1.1\r\nHost: api\r\nConnection: close\r\nAuthorization: Bearer TOKEN\r\n\r\n"
            ));
        }
    }
    for headers in [
        "",
        "Authorization: Bearer\r\n",
        "Authorization: Basic YTpi\r\n",
        "Authorization: Bearer TOKEN\r\nAuthorization: Bearer TOKEN\r\n",
        "authorization: bearer TOKEN\r\n",
        "X-Api-Key: tgk_nothing\r\n",
        "Authorization: Bearer TOKENx\r\n",
        "Authorization: Bearer TOKEN\r\nX-Tollgate-Subject: admin\r\nx-tollgate-scopes: all\r\n",
        "Authorization: Bearer TOKEN\r\nx_tollgate_subject: admin\r\n",
        "Authorization: Bearer TOKEN\r\nX-Tollgate.Subject: admin\r\n",
        "Authorization: Bearer TOKEN\r\nConnection: x-tollgate-subject\r\n",
        "Authorization: Bearer TOKEN\r\nX-Forwarded-Proto: https\r\nX-Forwarded-For: 10.0.0.1\r\n",
        "Authorization: Bearer TOKEN\r\nX-A: caf\u{e9}\r\n",
        "Authorization: Bearer TOKEN\r\nX-Envoy-Original-Path: /admin\r\n",
        "Authorization: Bearer TOKEN\r\nTraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n",
        "Authorization: Bearer TOKEN\r\nUpgrade: websocket\r\n",
        "Authorization: Bearer TOKEN\r\nHost: other\r\n",
    ] {
        requests.push(format!("GET /v1/models HTTP/1.1\r\nHost: api\r\n{headers}\r\n"));
        requests.push(post(&format!("{headers}Content-Type: application/json\r\n{length}"), body));
    }
    for body in [
        body,
        r#"{"model":"big-70b"}"#,
        r#"{"model":"unknown"}"#,
        r#"{"model":7}"#,
        r#"{"model":"qwen","model":"big-70b"}"#,
        "not JSON",
        "[]",
    ] {
        requests.push(post(&format!("{authorized}Content-Length: {}\r\n", body.len()), body));
        // In chunks of three bytes, which end with trailers.
        let chunks: String = body
            .as_bytes()
            .chunks(3)
            .map(|chunk| format!("{:x}\r\n{}\r\n", chunk.len(), String::from_utf8_lossy(chunk)))
            .collect();
        for end in ["0\r\n\r\n", "0\r\nX-Trailer: a\r\n\r\n"] {
            let headers = format!("{authorized}Transfer-Encoding: chunked\r\n");
            requests.push(post(&headers, &format!("{chunks}{end}")));
        }
    }
    requests.push(post(&format!("{authorized}Content-Length: 0\r\n"), ""));
    requests.push(post(authorized, ""));
    let large = format!("{}{body}", " ".repeat(100_000));
    requests.push(post(&format!("{authorized}Content-Length: {}\r\n", large.len()), &large));
    let text = "Authorization: Bearer TOKEN\r\nContent-Type: text/plain\r\n";
    requests.push(post(&format!("{text}{length}"), body));
    for kind in
        ["application/grpc", "application/grpc+proto", "application/grpc-web", "Application/gRPC"]
    {
        let headers = |credential: &str| format!("{credential}Content-Type: {kind}\r\n{length}");
        requests.push(post(&headers("Authorization: Bearer TOKEN\r\n"), body));
        requests.push(post(&headers(""), body));
        requests.push(format!("GET /nope HTTP/1.1\r\nHost: api\r\nAuthorization: Bearer TOKEN\r\nContent-Type: {kind}\r\n\r\n"));
    }
    let headers: String = (0..80).map(|n| format!("X-H-{n}: {n}\r\n")).collect();
    requests.push(post(&format!("{authorized}{headers}{length}"), body));
    requests.into_iter().map(String::into_bytes).collect()
}

#[test]
fn a_sidecar_and_the_module_answer_alike() {
    // The clock of the two rigs may pass a second between two answers: no limit is shown.
    let rigs = [CURRENT, EMBEDDED_CURRENT].map(|version| {
        let rig = Rig::on(version, POLICY, |config| config);
        let token = rig.token(json!({ "sub": "alice", "tenant_id": "acme" }));
        (rig, token)
    });
    let mut different = Vec::new();
    let requests = requests();
    for request in &requests {
        let [sidecar, module] = rigs.each_ref().map(|(rig, token)| {
            let text = String::from_utf8_lossy(request).replace("TOKEN", token);
            let is_head = text.starts_with("HEAD");
            let reply = exchange(rig.envoy.port, text.as_bytes(), !is_head);
            let mut seen = seen(rig, reply.as_ref());
            // Two tokens differ, where a test forwards one.
            let hide = |text: &mut String| *text = text.replace(token.as_str(), "TOKEN");
            hide(&mut seen.body);
            seen.headers.iter_mut().for_each(|(_, value)| hide(value));
            seen
        });
        if sidecar != module {
            let text = String::from_utf8_lossy(request);
            let text: String = text.chars().take(300).collect();
            different.push(format!("{text}\n  sidecar {sidecar:?}\n  module  {module:?}"));
        }
    }
    assert!(
        different.is_empty(),
        "{} of {} differ:\n{}",
        different.len(),
        requests.len(),
        different.join("\n")
    );
    assert!(requests.len() >= 130, "{}", requests.len());
    // The audit lines are the same as well, but for times and ids.
    let [sidecar, module] = until("as many audit lines of both", || {
        let [sidecar, module] = rigs.each_ref().map(|(rig, _)| lines(rig));
        (sidecar.len() == module.len() && sidecar.len() > 100).then_some([sidecar, module])
    });
    assert_eq!(sidecar, module);
}

/// The audit lines without what differs between two checks of the same request.
fn lines(rig: &Rig) -> Vec<String> {
    const OWN: [&str; 8] = [
        "time",
        "decision_id",
        "microseconds",
        "request_id",
        "jti_sha256",
        "iat",
        "exp",
        "trace_id",
    ];
    let line = |mut line: serde_json::Value| {
        line.as_object_mut().unwrap().retain(|name, _| !OWN.contains(&name.as_str()));
        line.to_string()
    };
    rig.tollgate.audit().into_iter().map(line).collect()
}
