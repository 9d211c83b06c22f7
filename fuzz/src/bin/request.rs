//! The normaliser and the way to a route. An input is the head of an HTTP/1 request. No credential in it is good, so whatever passes
//! has to be public in the eyes of the most lenient server; and what is normalised stays as it is when it is normalised again.
#![no_main]

use std::{str, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use tollgate_core::{
    check::{NoHooks, Prepared, prepare},
    request::{Headers, Host, RawBody, RawRequest, Request, RequestPath},
    snapshot::Snapshot,
    time::Timestamp,
};
use tollgate_fuzz::{
    path::{percent_decoded, resolved},
    snapshot,
};

static SNAPSHOT: LazyLock<Snapshot> = LazyLock::new(|| {
    snapshot(
        "
issuers:
  - { issuer: https://secret.example, audiences: [inference-api], algorithms: [HS256], secret: nobody-who-fuzzes-knows-this-secret }
routes:
  - { match: { paths: ['/public/*'], methods: [GET, POST] }, public: true }
  - { match: { paths: ['/public/private/*'], methods: [GET, POST] }, scopes: [admin] }
  - { match: { paths: ['/{x}/open'], methods: [GET] }, public: true }
  - { match: { paths: ['/admin/*'], methods: [GET, POST] }, scopes: [admin] }
  - { match: { paths: ['/v1/models/{model*}'], methods: [GET] }, scopes: [], model: { from: 'path:model' } }
  - { match: { paths: [/v1/chat/completions], methods: [POST] }, scopes: [], model: { from: body } }
  - { match: { hosts: [admin.example, '*.admin.example'], paths: ['/*'], methods: [GET, POST] }, scopes: [admin] }
",
    )
});

fuzz_target!(|head: &[u8]| {
    let Some(request) = parse(head) else { return };
    let Ok(read) = Request::parse(raw(&request).split().0) else {
        let Prepared::Decided(_) =
            prepare(&SNAPSHOT, raw(&request), Timestamp::from_secs(1), &mut NoHooks)
        else {
            panic!("unread, and yet allowed")
        };
        return;
    };
    path(&read.path);
    assert_eq!(Host::parse(read.host.as_str().as_bytes()).as_ref().ok(), Some(&read.host));
    assert!(
        !read
            .host
            .as_str()
            .bytes()
            .any(|byte| byte.is_ascii_uppercase() || byte == b'/' || byte == b'@')
    );
    headers(&request, &read);
    if let Prepared::Pending(pending) =
        prepare(&SNAPSHOT, raw(&request), Timestamp::from_secs(1), &mut NoHooks)
    {
        assert!(pending.route().public && pending.principal().is_none());
        let path = resolved(str::from_utf8(request.target).unwrap());
        let below = |root: &str| {
            path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let open = below("/public") || (path.ends_with("/open") && path.split('/').count() == 3);
        assert!(open && !below("/public/private") && !below("/admin"), "{path}");
        assert!(!read.host.as_str().ends_with("admin.example"));
    }
});

struct Head<'a> {
    method: &'a [u8],
    target: &'a [u8],
    host: &'a [u8],
    headers: Vec<(&'a str, &'a [u8])>,
}

fn parse(head: &[u8]) -> Option<Head<'_>> {
    let mut lines = head.split(|byte| *byte == b'\n');
    let mut words = lines.next()?.splitn(2, |byte| *byte == b' ');
    let (method, target) = (words.next()?, words.next()?);
    let mut host: &[u8] = b"api.example";
    let mut headers = Vec::new();
    for line in lines {
        let at = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = (str::from_utf8(&line[..at]).ok()?, line[at + 1..].trim_ascii());
        if name == "host" { host = value } else { headers.push((name, value)) }
    }
    Some(Head { method, target, host, headers })
}

fn raw<'a>(head: &Head<'a>) -> RawRequest<'a> {
    let mut headers = Headers::with_capacity(head.headers.len());
    for (name, value) in &head.headers {
        headers.push(name, value);
    }
    let (method, host, path) = (head.method, head.host, head.target);
    RawRequest {
        method,
        scheme: b"https",
        host,
        path,
        headers,
        address: None,
        peer_certificate: b"",
        body: RawBody::None,
    }
}

fn path(path: &RequestPath<'_>) {
    let decoded = path.decoded();
    assert_eq!(percent_decoded(path.raw()), decoded);
    assert_eq!(path.is_encoded(), path.raw().contains('%'));
    for text in [path.raw(), decoded] {
        assert!(
            text.starts_with('/')
                && !text.contains("//")
                && !text.contains(['\\', ';', '?', '#', '\0']),
            "{text}"
        );
        assert!(!text.split('/').any(|segment| segment == "." || segment == ".."), "{text}");
    }
    assert!(!decoded.contains('%') && !decoded.chars().any(char::is_control), "{decoded}");
    // Normalised again, nothing changes; and to the most lenient server it is the same path.
    if decoded.bytes().all(|byte| byte.is_ascii_graphic()) {
        let again = RequestPath::parse(decoded.as_bytes()).unwrap();
        assert_eq!((again.decoded(), again.is_encoded()), (decoded, false));
        assert_eq!(
            resolved(path.raw()),
            if decoded == "/" { "/" } else { decoded.trim_end_matches('/') }
        );
    }
}

fn headers(request: &Head<'_>, read: &Request<'_>) {
    let folded =
        |name: &str| name.to_ascii_lowercase().replace(|c: char| c.is_ascii_punctuation(), "-");
    let forged =
        request.headers.iter().filter(|(name, _)| folded(name).starts_with("x-tollgate-")).count();
    assert!(read.headers.spoofed().count() >= forged);
    for name in ["content-type", "content-length", "content-encoding", "transfer-encoding"] {
        let count =
            request.headers.iter().filter(|(header, _)| header.eq_ignore_ascii_case(name)).count();
        assert!(count <= 1, "{name}");
    }
    if let Ok(found) = read.path.query_value("model") {
        let query =
            str::from_utf8(request.target).unwrap().split_once('?').map_or("", |(_, query)| query);
        let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let decode = |text: &str| percent_decoded(&text.replace('+', " "));
        let values: Vec<String> = pairs
            .filter(|(key, _)| decode(key) == "model")
            .map(|(_, value)| decode(value))
            .collect();
        assert_eq!(values, Vec::from_iter(found));
    }
}
