//! What the upstream gets when a request is allowed, and what the client gets back.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    time::Duration,
};

use super::gate::{Gate, Kind};
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

fn the_upstream_learns_who_asks(kind: Kind) {
    let gate = Gate::start(kind);
    let token = gate.issuer.token(serde_json::json!({ "sub": "auth0|caf\u{e9}", "scope": "a b" }));
    let reply = gate.send(&Request::get("/v1/models").bearer(&token));
    assert_eq!(reply.status, 200, "{}", reply.text());
    let seen = gate.upstream.only();
    let expected = [
        ("x-tollgate-credential", "jwt"),
        ("x-tollgate-scopes", "a b"),
        ("x-tollgate-subject", "auth0|caf%C3%A9"),
    ];
    assert_eq!(identity(&seen), pairs(&expected));
    assert_eq!(seen.all("x-tollgate-decision-id").len(), 1);
    assert!(
        seen.all("authorization").iter().all(|value| value.is_empty()),
        "the credential is not forwarded: {seen:?}"
    );

    // The same request on a public route: nobody asks.
    assert_eq!(gate.send(&Request::get("/public/x").bearer(&token)).status, 200);
    assert_eq!(identity(&gate.upstream.only()), []);
}
through_every_proxy!(the_upstream_learns_who_asks);

fn credentials_go_where_the_route_says(kind: Kind) {
    let gate = Gate::start(kind);
    let token = gate.token();
    for (path, expected) in [
        ("/v1/forwarded", format!("Bearer {token}")),
        ("/v1/keyed", "Bearer upstream-key-0123456789".into()),
    ] {
        assert_eq!(gate.send(&Request::get(path).bearer(&token)).status, 200, "{path}");
        assert_eq!(gate.upstream.only().all("authorization"), [expected.as_str()], "{path}");
    }
    // The answer of Tollgate's that carries them is not the client's.
    let reply = gate.send(&Request::get("/v1/keyed").bearer(&token));
    assert!(
        reply.headers.iter().all(|(_, value)| !value.contains("upstream-key")),
        "{:?}",
        reply.headers
    );
}
through_every_proxy!(credentials_go_where_the_route_says);

fn the_client_s_address_is_known(kind: Kind) {
    let gate = Gate::start(kind);
    // Whatever it says itself.
    let request = Request::get("/v1/addressed")
        .bearer(&gate.token())
        .header("X-Real-IP", "nonsense")
        .header("X-Forwarded-For", "nonsense");
    let reply = gate.send(&request);
    assert_eq!(reply.status, 200, "{}", reply.text());
}
through_every_proxy!(the_client_s_address_is_known);

fn streams_are_not_held_back(kind: Kind) {
    // Six tenths of a second from the first event to the last.
    let upstream = Server::start(|request| match request.path.as_str() {
        "/health" => Answer::Whole(Reply::new(200, "")),
        _ => Answer::Events(
            ["first", "second", "third", "last"].map(str::to_owned).to_vec(),
            Duration::from_millis(200),
        ),
    });
    let gate = Gate::before(kind, upstream.port);
    let text = format!(
        "POST /v1/upload HTTP/1.1\r\nHost: api.example.com\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}",
        gate.token()
    );
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, gate.port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    let (mut arrived, mut piece) = (String::new(), [0; 4096]);
    while !arrived.contains("data: first") {
        let read = stream.read(&mut piece).unwrap();
        assert_ne!(read, 0, "{arrived}");
        arrived.push_str(&String::from_utf8_lossy(&piece[..read]));
    }
    assert!(!arrived.contains("data: last"), "everything came at once:\n{arrived}");
    stream.read_to_string(&mut arrived).unwrap();
    assert!(arrived.contains("data: last"), "{arrived}");
}
through_every_proxy!(streams_are_not_held_back);
