//! What happens behind the proxy: the next server honours `Connection` and reads trailers, and a
//! check that is slow is sent once.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use super::{
    attacks::recorder,
    proxy_rig::{Kind, POLICY, ProxyRig},
};
use crate::rig::http::{Request, exchange};

/// The headers of a request that a server forwards which honours `Connection` (RFC 9110 section
/// 7.6.1), in lower case, without those that `Connection` lists.
fn forwarded(request: &str) -> Vec<(String, String)> {
    let head = request.split("\r\n\r\n").next().unwrap();
    let headers: Vec<(String, String)> = head
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
        .collect();
    let dropped: Vec<String> = headers
        .iter()
        .filter(|(name, _)| name == "connection")
        .flat_map(|(_, value)| value.split(','))
        .map(|option| option.trim().to_lowercase())
        .collect();
    headers.into_iter().filter(|(name, _)| !dropped.contains(name)).collect()
}

fn the_next_server_receives_identity_and_key(kind: Kind) {
    let (port, arrived) = recorder();
    let rig = ProxyRig::before(kind, port);
    let token = rig.token();
    arrived.try_iter().for_each(drop);
    for options in [
        vec!["X-Tollgate-Subject"],
        vec!["close, X-Tollgate-Subject"],
        vec!["keep-alive, x-tollgate-scopes, x-tollgate-decision-id"],
        vec!["Authorization"],
        vec!["close", "authorization, x-tollgate-subject"],
        vec!["authorization, x-tollgate-subject", "close"],
        vec!["close,\tAuthorization"],
        vec!["keep-alive"],
        vec![],
    ] {
        for (path, key) in [("/v1/models", None), ("/v1/keyed", Some("upstream-key-0123456789"))] {
            let lines: String =
                options.iter().map(|option| format!("Connection: {option}\r\n")).collect();
            let close = if options.is_empty() { "Connection: close\r\n" } else { "" };
            let text = format!(
                "GET {path} HTTP/1.1\r\nHost: api.example.com\r\n\
                 Authorization: Bearer {token}\r\n{lines}{close}\r\n"
            );
            let status = exchange(rig.port, text.as_bytes(), true).map_or(0, |reply| reply.status);
            // 401: the proxy dropped the client's own credential before the check.
            assert!([0, 200, 400, 401].contains(&status), "{options:?}: {status}");
            if options.len() < 2 && options.iter().all(|option| *option == "keep-alive") {
                assert_eq!(status, 200, "{options:?}");
            }
            let seen: Vec<String> = arrived.try_iter().collect();
            assert_eq!(seen.len(), usize::from(status == 200), "{options:?}: {seen:?}");
            for request in seen {
                let headers = forwarded(&request);
                let one = |name: &str| {
                    let mut values = headers.iter().filter(|(known, _)| known == name);
                    let value = values.next().map(|(_, value)| value.as_str());
                    assert!(values.next().is_none(), "{name} twice: {request}");
                    value
                };
                assert_eq!(one("x-tollgate-subject"), Some("alice"), "{options:?}: {request}");
                let key = key.map(|key| format!("Bearer {key}"));
                assert_eq!(one("authorization"), key.as_deref(), "{options:?}: {request}");
            }
        }
    }
}
through_every_proxy!(the_next_server_receives_identity_and_key);

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header field that is neither compressed nor indexed.
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        let length = u8::try_from(text.len()).unwrap();
        // A length from 127 on takes more bytes; the token is long.
        assert!(length < 127 || text.len() > 127);
        bytes.push(length.min(127));
        if length >= 127 {
            bytes.push(length - 127);
        }
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}

/// Over HTTP/2 a request without a body can have trailers. A proxy that takes HTTP/2 on its port
/// must not forward them.
fn trailers_of_an_empty_body_carry_no_identity(kind: Kind) {
    let (port, arrived) = recorder();
    let rig = ProxyRig::before(kind, port);
    arrived.try_iter().for_each(drop);
    for method in ["GET", "POST"] {
        let head: Vec<u8> = [
            field(":method", method),
            field(":scheme", "http"),
            field(":path", "/public/x"),
            field(":authority", "api.example.com"),
            field("te", "trailers"),
        ]
        .concat();
        let trailers = [
            field("x-tollgate-subject", "forged"),
            field("x-tollgate-tenant", "forged"),
            field("x_tollgate_subject", "forged"),
        ]
        .concat();
        let bytes = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            frame(4, 0, 0, &[]),
            // END_HEADERS without END_STREAM, then END_HEADERS and END_STREAM.
            frame(1, 4, 1, &head),
            frame(1, 5, 1, &trailers),
        ]
        .concat();
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, rig.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let _ = stream.write_all(&bytes);
        // Until the end of the connection, or until nothing more arrives.
        let mut answer = [0; 4096];
        while matches!(stream.read(&mut answer), Ok(read) if read > 0) {}
        for request in arrived.try_iter() {
            assert!(!request.contains("forged"), "{method}: a trailer arrived: {request}");
        }
    }
}
through_every_proxy!(trailers_of_an_empty_body_carry_no_identity);

/// A check server that answers for `/health`, and never for anything else. Counts the other checks.
fn slow_check_server() -> (u16, Arc<AtomicU32>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let checks = Arc::new(AtomicU32::new(0));
    let count = checks.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let count = count.clone();
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut head = String::new();
                while reader.read_line(&mut head).is_ok_and(|read| read > 2) {}
                if head.contains("/health") {
                    let _ = (&stream).write_all(
                        b"HTTP/1.1 200 OK\r\nx-tollgate-decision-id: 0\r\ncontent-length: 0\r\n\
                          connection: close\r\n\r\n",
                    );
                } else if !head.is_empty() {
                    count.fetch_add(1, Ordering::Relaxed);
                    // Held until the proxy gives up.
                    let _ = reader.read_to_end(&mut Vec::new());
                }
            });
        }
    });
    (port, checks)
}

/// Each attempt could be charged. (Traefik waits 30 seconds and is not tested.)
fn a_slow_check_is_sent_once(kind: Kind) {
    if kind == Kind::Traefik {
        return;
    }
    let (port, checks) = slow_check_server();
    let rig = ProxyRig::with(kind, POLICY, |config| {
        let here = |line: &str| line.contains("/http.sock") || line.contains("/check)");
        config
            .lines()
            .map(|line| match kind {
                _ if line.trim_start().starts_with('#') || !here(line) => line.to_owned(),
                Kind::Nginx | Kind::NewNginx | Kind::Njs | Kind::NjsMetered => {
                    format!("server 127.0.0.1:{port} {}", options_after_address(line))
                }
                Kind::Caddy => format!("forward_auth 127.0.0.1:{port} {{"),
                Kind::Haproxy => format!(
                    "    http-request set-var(txn.tollgate_url) str(http://127.0.0.1:{port}/check)"
                ),
                Kind::EnvoyHttp => format!(
                    "{}- endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }}",
                    &line[..line.len() - line.trim_start().len()]
                ),
                Kind::Traefik => line.to_owned(),
            })
            .map(|line| line + "\n")
            .collect()
    });
    let reply = rig.send(&Request::get("/v1/models").bearer(&rig.token()));
    assert!([500, 502, 503, 504].contains(&reply.status), "{reply:?}");
    let most = if kind == Kind::EnvoyHttp { 15 } else { 5 };
    assert!(reply.took < Duration::from_secs(most), "{:?}", reply.took);
    assert_eq!(checks.load(Ordering::Relaxed), 1, "{kind:?}");
    assert_eq!(rig.upstream.taken().len(), 0);
}
through_every_proxy!(a_slow_check_is_sent_once);

/// What follows the address in a line `server ADDRESS options;` of nginx.
fn options_after_address(line: &str) -> &str {
    line.trim().splitn(3, ' ').nth(2).unwrap_or(";")
}
