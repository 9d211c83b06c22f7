//! Allowed requests: what the upstream receives, and what the client receives.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    sync::{Mutex, mpsc},
    time::Duration,
};

use super::proxy_rig::{Kind, ProxyRig};
use crate::rig::http::{Answer, Reply, Request, Server};

/// The identity headers of a request that reached the upstream, without those that are empty.
pub(crate) fn identity(request: &Request) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = request
        .headers
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
        .filter(|(name, value)| {
            name.replace(['_', '.'], "-").starts_with("x-tollgate-")
                && name != "x-tollgate-decision-id"
                && !value.is_empty()
        })
        .collect();
    found.sort();
    found
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn the_upstream_receives_the_identity(kind: Kind) {
    let rig = ProxyRig::start(kind);
    let token = rig.issuer.token(serde_json::json!({ "sub": "auth0|caf\u{e9}", "scope": "a b" }));
    let reply = rig.send(&Request::get("/v1/models").bearer(&token));
    assert_eq!(reply.status, 200, "{}", reply.text());
    let seen = rig.upstream.only();
    let expected = [
        ("x-tollgate-credential", "jwt"),
        ("x-tollgate-issuer", "https://auth.example.com"),
        ("x-tollgate-scopes", "a b"),
        ("x-tollgate-subject", "auth0|caf%C3%A9"),
    ];
    assert_eq!(identity(&seen), pairs(&expected));
    assert_eq!(seen.all("x-tollgate-decision-id").len(), 1);
    assert!(
        seen.all("authorization").iter().all(|value| value.is_empty()),
        "the credential is not forwarded: {seen:?}"
    );

    // The same request on a public route has no identity.
    assert_eq!(rig.send(&Request::get("/public/x").bearer(&token)).status, 200);
    assert_eq!(identity(&rig.upstream.only()), []);
}
through_every_proxy!(the_upstream_receives_the_identity);

fn credentials_are_forwarded_as_the_route_specifies(kind: Kind) {
    let rig = ProxyRig::start(kind);
    let token = rig.token();
    for (path, expected) in [
        ("/v1/forwarded", format!("Bearer {token}")),
        ("/v1/keyed", "Bearer upstream-key-0123456789".into()),
    ] {
        assert_eq!(rig.send(&Request::get(path).bearer(&token)).status, 200, "{path}");
        assert_eq!(rig.upstream.only().all("authorization"), [expected.as_str()], "{path}");
    }
    // Tollgate's answer, which has the credential, does not reach the client.
    let reply = rig.send(&Request::get("/v1/keyed").bearer(&token));
    assert!(
        reply.headers.iter().all(|(_, value)| !value.contains("upstream-key")),
        "{:?}",
        reply.headers
    );
}
through_every_proxy!(credentials_are_forwarded_as_the_route_specifies);

fn the_client_s_address_is_the_address_of_the_peer(kind: Kind) {
    let rig = ProxyRig::start(kind);
    // The client's own headers do not count.
    let request = Request::get("/v1/addressed")
        .bearer(&rig.token())
        .header("X-Real-IP", "nonsense")
        .header("X-Forwarded-For", "nonsense");
    let reply = rig.send(&request);
    assert_eq!(reply.status, 200, "{}", reply.text());
}
through_every_proxy!(the_client_s_address_is_the_address_of_the_peer);

fn streams_are_not_held_back(kind: Kind) {
    let (events, stream) = mpsc::channel();
    let stream = Mutex::new(Some(stream));
    let upstream = Server::start(move |request| match request.path.as_str() {
        "/health" => Answer::Whole(Reply::new(200, "")),
        _ => Answer::Events(stream.lock().unwrap().take().unwrap()),
    });
    let rig = ProxyRig::before(kind, upstream.port);
    let text = format!(
        "POST /v1/upload HTTP/1.1\r\nHost: api.example.com\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}",
        rig.token()
    );
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, rig.port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    // The last event is sent only after the first one has arrived through the proxy.
    events.send("first".to_owned()).unwrap();
    let (mut arrived, mut piece) = (String::new(), [0; 4096]);
    while !arrived.contains("data: first") {
        let read = stream.read(&mut piece).unwrap();
        assert_ne!(read, 0, "{arrived}");
        arrived.push_str(&String::from_utf8_lossy(&piece[..read]));
    }
    events.send("last".to_owned()).unwrap();
    drop(events);
    stream.read_to_string(&mut arrived).unwrap();
    assert!(arrived.contains("data: last"), "{arrived}");
}
through_every_proxy!(streams_are_not_held_back);
