//! Key sets behind a real Envoy: rotation, failing key servers, and missing keys.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener},
};

use serde_json::json;

use crate::rig::{
    POLICY, Rig,
    http::{Reply, Request},
    issuer::{Issuer, Key, KeyServer, Mood, jwks},
    tollgate::Tollgate,
    until,
};

const NAME: &str = "https://auth.example.com";

/// A policy whose issuer's keys come from `server`.
fn with_keys_from(server: &KeyServer) -> String {
    POLICY.replace("{ file: \"${DIR}/jwks.json\" }", &server.section())
}

fn models(rig: &Rig, token: &str) -> Reply {
    rig.envoy.send(&Request::get("/v1/models").bearer(token))
}

#[test]
fn a_new_key_is_found_and_a_removed_one_is_refused() {
    let (old, new) = (Key::ec("2025"), Key::ed("2026"));
    let server = KeyServer::start(Mood::Serves(jwks(&[&old])));
    let rig = Rig::start(&with_keys_from(&server));
    let (before, after) = (Issuer::with(NAME, old.clone()), Issuer::with(NAME, new.clone()));
    let old_token = before.token(json!({}));
    assert_eq!(models(&rig, &old_token).status, 200);
    assert_eq!(server.hits(), 1);

    // Rotation: the first request with the new key is refused and causes a fetch; no request waits
    // for a key server.
    server.now(Mood::Serves(jwks(&[&old, &new])));
    let token = after.token(json!({}));
    assert_eq!(models(&rig, &token).verdict(), (401, "unknown_key".into()));
    until("the new key", || (models(&rig, &token).status == 200).then_some(()));
    assert_eq!(models(&rig, &old_token).status, 200);

    // Many unknown key ids cause one fetch per cool-down.
    let (hits, started) = (server.hits(), std::time::Instant::now());
    for n in 0..100 {
        let made_up = after.token_with(json!({ "kid": format!("made-up-{n}") }), json!({}));
        assert_eq!(models(&rig, &made_up).verdict(), (401, "unknown_key".into()));
    }
    let most = 2 + usize::try_from(started.elapsed().as_secs()).unwrap();
    assert!(server.hits() - hits <= most, "{} fetches", server.hits() - hits);

    // The last good keys stay when the server sends anything but keys.
    let nonsense = [
        Mood::Serves("<html>maintenance</html>".into()),
        Mood::Serves(r#"{"keys":[]}"#.into()),
        Mood::Fails,
        Mood::Hangs,
    ];
    for mood in nonsense {
        server.now(mood);
        let hits = server.hits();
        let made_up = after.token_with(json!({ "kid": "made-up" }), json!({}));
        until("another fetch", || {
            models(&rig, &made_up);
            (server.hits() > hits).then_some(())
        });
        assert_eq!(models(&rig, &token).status, 200);
    }

    server.now(Mood::Serves(jwks(&[&new])));
    let made_up = after.token_with(json!({ "kid": "made-up" }), json!({}));
    until("the removal of the old key", || {
        models(&rig, &made_up);
        (models(&rig, &old_token).verdict() == (401, "unknown_key".into())).then_some(())
    });
    assert_eq!(models(&rig, &token).status, 200);
}

#[test]
fn without_keys_it_is_not_ready_and_names_the_issuer() {
    let key = Key::ec("k");
    let server = KeyServer::start(Mood::Fails);
    let dir = tempfile::tempdir().unwrap();
    let issuer = Issuer::with(NAME, key.clone());
    let upstream = crate::rig::upstream::Upstream::start();
    let tollgate = crate::rig::tollgate::Tollgate::unready(dir.path(), &with_keys_from(&server));
    let envoy = crate::rig::envoy::Envoy::start(
        dir.path(),
        upstream.port,
        crate::rig::envoy::CURRENT,
        |config| config,
    );

    until("the first attempt", || (server.hits() > 0).then_some(()));
    let reply = until("an answer about the attempt", || {
        Some(tollgate.ready()).filter(|reply| reply.text().contains("no issuer"))
    });
    assert_eq!(reply.status, 503);
    assert!(reply.text().contains(NAME), "{}", reply.text());
    assert_eq!(Request::get("/healthz").send(tollgate.ops).status, 200);
    let reply = envoy.send(&Request::get("/v1/models").bearer(&issuer.token(json!({}))));
    assert_eq!((reply.verdict(), upstream.taken().len()), ((503, "not_ready".into()), 0));
    assert_eq!(envoy.send(&Request::get("/health")).status, 200, "a public route needs no keys");

    server.now(Mood::Serves(jwks(&[&key])));
    until("readiness", || (tollgate.ready().status == 200).then_some(()));
    assert_eq!(
        envoy.send(&Request::get("/v1/models").bearer(&issuer.token(json!({})))).status,
        200
    );
}

#[test]
fn a_dead_key_server_affects_only_its_issuer() {
    let server = KeyServer::start(Mood::Hangs);
    let section = server.section();
    let second = format!(
        "issuers:\n  - issuer: https://dead.example.com\n    audiences: [inference-api]\n    algorithms: [ES256]\n    jwks: {section}\n"
    );
    let rig = Rig::start(&POLICY.replace("issuers:\n", &second));
    let dead = Issuer::with("https://dead.example.com", Key::ec("k"));
    assert_eq!(models(&rig, &rig.token(json!({}))).status, 200);
    let reply = models(&rig, &dead.token(json!({})));
    assert_eq!(reply.verdict(), (503, "not_ready".into()));
    assert!(reply.took.as_millis() < 1000, "no request waits for a key server: {:?}", reply.took);
    assert_eq!(models(&rig, &rig.token(json!({}))).status, 200);
    server.now(Mood::Serves(dead.jwks()));
    until("the keys of the recovered server", || {
        (models(&rig, &dead.token(json!({}))).status == 200).then_some(())
    });
}

/// A list of chunks has tens of bytes for each chunk: a key set of a MiB took 70 MiB.
#[test]
fn a_key_set_in_single_bytes_takes_about_its_size_in_memory() {
    const MIB: usize = 1 << 20;
    // White space after the set makes it as large as a set may be.
    let keys = jwks(&[&Key::ec("main")]);
    let keys = format!("{keys}{}", " ".repeat(MIB - keys.len()));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut body = Vec::with_capacity(6 * MIB + 64);
        for byte in keys.bytes() {
            body.extend_from_slice(&[b'1', b'\r', b'\n', byte, b'\r', b'\n']);
        }
        body.extend_from_slice(b"0\r\n\r\n");
        let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        // The first fetch fails, so that the memory before is known.
        for (fetch, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let _request = stream.read(&mut [0; 4096]);
            if fetch > 0 {
                let _sent = stream.write_all(head).and_then(|()| stream.write_all(&body));
            }
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let section = format!(
        "{{ url: \"http://127.0.0.1:{port}/\", insecure_http: true, cool_down: 1s, timeout: 60s }}"
    );
    let policy = POLICY.replace("{ file: \"${DIR}/jwks.json\" }", &section);
    let tollgate = Tollgate::unready(dir.path(), &policy);
    tollgate.until_metric("tollgate_jwks_fetches_total", &["failed"], 1.0);
    let before = tollgate.peak();
    tollgate.until_metric("tollgate_jwks_keys", &[], 1.0);
    let grown = tollgate.peak() - before;
    assert!(grown < 12 * MIB as u64, "{} KiB for a set of 1 MiB", grown / 1024);
}
