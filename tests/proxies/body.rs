//! Rules that read the body, through proxies that send it and through those that do not.

use super::proxy_rig::{Kind, ProxyRig};
use crate::rig::http::Request;

const PATH: &str = "/v1/chat/completions";

fn the_model_is_read_from_the_body(kind: Kind) {
    let rig = ProxyRig::start(kind);
    let token = rig.token();
    let ask = |body: &[u8]| rig.send(&Request::post(PATH, body).bearer(&token));
    let good = br#"{"model":"qwen","messages":[]}"#;
    if !kind.sends_bodies() {
        assert_eq!(ask(good).verdict(), (403, "body_unavailable".into()));
        assert_eq!(rig.upstream.taken().len(), 0);
        return;
    }
    let reply = ask(good);
    assert_eq!(reply.status, 200, "{}", reply.text());
    let seen = rig.upstream.only();
    assert_eq!((seen.all("x-tollgate-model"), &*seen.body), (vec!["qwen"], &good[..]));
    for (body, status, code) in [
        (&br#"{"model":"big-70b"}"#[..], 403, "model_forbidden"),
        (br#"{"model":"qwen","model":"big-70b"}"#, 400, "malformed_request"),
        (br#"{"model":"qwen","x":"\xff"}"#, 400, "malformed_request"),
        (b"{\"model\":\"qwen\",\"x\":\"\xff\"}", 400, "malformed_request"),
        (b"\xef\xbb\xbf{\"model\":\"qwen\"}", 400, "malformed_request"),
        (b"{\"model\":\"qwen\"", 400, "malformed_request"),
        (b"{}", 400, "model_missing"),
        (b"", 400, "malformed_request"),
    ] {
        assert_eq!(
            ask(body).verdict(),
            (status, code.to_owned()),
            "{}",
            String::from_utf8_lossy(body)
        );
    }
    let typed = |content_type: &str| {
        rig.send(
            &Request::new("POST", PATH)
                .header("Content-Type", content_type)
                .bearer(&token)
                .body(&good[..]),
        )
    };
    for content_type in [
        "text/plain",
        "application/json; charset=utf-16",
        "application/jsonp",
        "multipart/form-data; boundary=x",
    ] {
        assert_eq!(
            typed(content_type).verdict(),
            (415, "unsupported_media_type".into()),
            "{content_type}"
        );
    }
    let zipped = Request::post(PATH, &good[..]).bearer(&token).header("Content-Encoding", "gzip");
    assert_eq!(rig.send(&zipped).verdict(), (415, "unsupported_media_type".into()));
    assert_eq!(rig.upstream.taken().len(), 0);
}
through_every_proxy!(the_model_is_read_from_the_body);

fn chunked_bodies_are_checked_whole_or_refused(kind: Kind) {
    let rig = ProxyRig::start(kind);
    let send = |chunks: &[&str]| {
        let mut text = format!(
            "POST {PATH} HTTP/1.1\r\nHost: api.example.com\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
            rig.token()
        );
        for chunk in chunks {
            text.push_str(&format!("{:x}\r\n{chunk}\r\n", chunk.len()));
        }
        text.push_str("0\r\n\r\n");
        crate::rig::http::exchange(rig.port, text.as_bytes(), true).unwrap()
    };
    let reply = send(&["{\"model\":", "\"qwen\"}"]);
    let expected = match kind {
        _ if !kind.sends_bodies() => (403, "body_unavailable"),
        Kind::Haproxy => (411, "length_required"),
        _ => (200, ""),
    };
    assert_eq!(reply.verdict(), (expected.0, expected.1.to_owned()), "{}", reply.text());
    if kind.sends_bodies() && kind != Kind::Haproxy {
        assert_eq!(
            send(&["{\"model\":\"qwen\"", ",\"model\":\"big-70b\"}"]).verdict(),
            (400, "malformed_request".into())
        );
    }
}
through_every_proxy!(chunked_bodies_are_checked_whole_or_refused);

fn bodies_have_a_limit(kind: Kind) {
    let rig = ProxyRig::start(kind);
    let token = rig.token();
    let body = |size: usize| format!("{{\"model\":\"qwen\",\"x\":\"{}\"}}", "x".repeat(size));
    if kind.sends_bodies() {
        // `body.max` is 256 KiB here.
        assert_eq!(rig.send(&Request::post(PATH, body(200 << 10)).bearer(&token)).status, 200);
        assert_eq!(rig.upstream.only().body.len(), body(200 << 10).len());
        assert_eq!(
            rig.send(&Request::post(PATH, body(300 << 10)).bearer(&token)).verdict(),
            (413, "body_too_large".into())
        );
    }
    // The limit of the proxy.
    let reply = rig.send(&Request::post(PATH, body(17 << 20)).bearer(&token));
    match kind {
        Kind::Nginx | Kind::NewNginx | Kind::Njs | Kind::NjsMetered => {
            assert_eq!(reply.verdict(), (413, "body_too_large".into()))
        }
        Kind::EnvoyHttp | Kind::Haproxy => assert_eq!(reply.status, 413),
        // Traefik answers 401 to a body beyond `maxBodySize`, which cannot be configured.
        Kind::Traefik => assert_eq!(reply.status, 401),
        Kind::Caddy => assert_eq!(reply.verdict(), (403, "body_unavailable".into())),
    }
    assert_eq!(rig.upstream.taken().len(), 0);
}
through_every_proxy!(bodies_have_a_limit);

fn uploads_pass_where_no_rule_reads_them(kind: Kind) {
    let rig = ProxyRig::start(kind);
    let upload: Vec<u8> = (0..200_000u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let request = Request::new("POST", "/v1/upload")
        .header("Content-Type", "multipart/form-data; boundary=x")
        .bearer(&rig.token());
    let reply = rig.send(&request.body(upload.clone()));
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(rig.upstream.only().body == upload, "the upload did not arrive as it was sent");
}
through_every_proxy!(uploads_pass_where_no_rule_reads_them);
