//! The reader of checks over HTTP, in the dialect of each proxy. An input is a client's request: its method, target, host, scheme, the
//! addresses that it passed and its headers. Each proxy describes it in its own check, and every dialect reads the same request from it;
//! with a second description, which no proxy sends, none does.
#![no_main]

use std::{net::IpAddr, str, sync::LazyLock};

use http::{HeaderName, HeaderValue, Method, Request, Uri, Version, request::Parts};
use libfuzzer_sys::fuzz_target;
use tollgate::adapter::forward_auth::{ForwardAuthConfig, decode, has_body};
use tollgate_core::{
    config::Document,
    request::{RawBody, RawRequest, Request as Checked},
};

/// How a proxy describes a request.
struct Proxy {
    name: &'static str,
    /// The headers with method, path, host, scheme and addresses.
    headers: [Option<&'static str>; 5],
    config: ForwardAuthConfig,
}

const METHOD: usize = 0;
const PATH: usize = 1;
const HOST: usize = 2;

/// The headers of each proxy, as docs/proxies.md has them. Envoy's check repeats the request line.
static PROXIES: LazyLock<Vec<Proxy>> = LazyLock::new(|| {
    let original = [
        "x-original-method",
        "x-original-uri",
        "x-original-host",
        "x-original-scheme",
        "x-real-ip",
    ];
    let forwarded = [
        "x-forwarded-method",
        "x-forwarded-uri",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-forwarded-for",
    ];
    let envoy = [None, None, None, Some("x-forwarded-proto"), Some("x-forwarded-for")];
    [
        ("nginx", original.map(Some), "sent"),
        ("traefik", forwarded.map(Some), "sent"),
        ("caddy", forwarded.map(Some), "none"),
        ("haproxy", original.map(Some), "sent"),
        ("envoy_http", envoy, "sent"),
    ]
    .map(|(name, headers, body)| {
        let text = format!(
            "{{ address: '127.0.0.1:1', dialect: {name}, body: {body}, trusted_proxies: [10.0.0.0/8] }}"
        );
        let document = Document::parse(&text, &|_| None).expect("YAML");
        Proxy { name, headers, config: document.read().expect("a listener") }
    })
    .into()
});

/// Headers of the hop between the proxy and Tollgate, whatever the dialect.
const HOP: [&str; 11] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "keep-alive",
    "proxy-connection",
    "http2-settings",
];

/// A client's request.
struct Sent<'a> {
    parts: [&'a [u8]; 5],
    headers: Vec<(HeaderName, HeaderValue)>,
    body: &'a [u8],
}

/// Reads an input: five lines, then headers, then an empty line and the body.
fn sent(input: &[u8]) -> Option<Sent<'_>> {
    let end = input.windows(2).position(|pair| pair == b"\n\n").unwrap_or(input.len());
    let (head, body) = (&input[..end], input.get(end + 2..).unwrap_or_default());
    let mut lines = head.split(|byte| *byte == b'\n');
    let mut parts = [&b""[..]; 5];
    for part in &mut parts {
        *part = lines.next()?;
    }
    let mut headers = Vec::new();
    for line in lines {
        let at = line.iter().position(|byte| *byte == b':')?;
        let value = HeaderValue::from_bytes(line[at + 1..].trim_ascii()).ok()?;
        headers.push((HeaderName::from_bytes(&line[..at]).ok()?, value));
    }
    Some(Sent { parts, headers, body })
}

/// Returns the check that a proxy sends; `None` where it cannot send one.
fn check(proxy: &Proxy, sent: &Sent<'_>) -> Option<Parts> {
    let mut request = Request::new(());
    let repeats_request = proxy.headers[METHOD].is_none();
    if repeats_request {
        *request.method_mut() = Method::from_bytes(sent.parts[METHOD]).ok()?;
        *request.uri_mut() = Uri::try_from(sent.parts[PATH]).ok()?;
        *request.version_mut() = Version::HTTP_11;
        request.headers_mut().insert("host", HeaderValue::from_bytes(sent.parts[HOST]).ok()?);
    } else {
        // The proxy's own request line, which is not the client's.
        *request.method_mut() = Method::OPTIONS;
        *request.uri_mut() = Uri::from_static("/tollgate");
        request.headers_mut().insert("host", HeaderValue::from_static("tollgate.internal"));
    }
    for (name, value) in &sent.headers {
        let is_description = proxy.headers.contains(&Some(name.as_str()));
        // A proxy overwrites the headers that it describes the request with.
        if !is_description && name != "host" {
            request.headers_mut().append(name, value.clone());
        }
    }
    for (name, value) in proxy.headers.into_iter().zip(sent.parts) {
        if let Some(name) = name {
            request.headers_mut().insert(name, HeaderValue::from_bytes(value).ok()?);
        }
    }
    Some(request.into_parts().0)
}

fuzz_target!(|input: &[u8]| {
    let Some(sent) = sent(input) else { return };
    for proxy in PROXIES.iter() {
        let Some(parts) = check(proxy, &sent) else { continue };
        let has_body = has_body(&proxy.config, &parts.method);
        let body = has_body.then_some(sent.body);
        if let Ok(read) = decode(&proxy.config, &parts, body) {
            as_sent(proxy, &sent, &parts, &read);
            match (&read.body, body) {
                (RawBody::Unavailable, None) => {}
                (RawBody::None, Some([])) => {}
                (RawBody::Whole(read), Some(body)) => assert_eq!(*read, body),
                other => panic!("{other:?}"),
            }
            let (head, _) = read.split();
            // What is normalised is never more lenient for a proxy than for another: the request alone decides.
            let _checked = Checked::parse(head);
        }
        twice(proxy, &parts, body);
    }
});

/// Asserts that a check is read as the request that the client sent.
fn as_sent(proxy: &Proxy, sent: &Sent<'_>, parts: &Parts, read: &RawRequest<'_>) {
    let [method, path, host, scheme, addresses] = sent.parts;
    let name = proxy.name;
    assert_eq!((read.method, read.host), (method, host), "{name}");
    if proxy.headers[PATH].is_some() {
        assert_eq!(read.path, path, "{name}");
    } else {
        // The library removes a fragment, and writes `/` for no path.
        assert!(
            path.starts_with(read.path) || (read.path.starts_with(b"/") && !path.starts_with(b"/")),
            "{name}"
        );
    }
    assert!(!method.is_empty() && !read.path.is_empty() && !host.is_empty(), "{name}");
    assert_eq!(read.scheme, scheme, "{name}");
    assert_eq!(read.address, last_client(addresses), "{name}: {}", addresses.escape_ascii());
    let is_known = |header: &HeaderName| {
        !HOP.contains(&header.as_str()) && !proxy.headers.contains(&Some(header.as_str()))
    };
    for header in parts.headers.keys() {
        let expected: Vec<&[u8]> =
            parts.headers.get_all(header).iter().map(HeaderValue::as_bytes).collect();
        let read: Vec<&[u8]> = read.headers.all(header.as_str()).collect();
        if is_known(header) {
            assert_eq!(read, expected, "{name}: {header}");
        } else {
            assert!(read.is_empty(), "{name}: {header}");
        }
    }
}

/// The last address that is none of a proxy.
fn last_client(list: &[u8]) -> Option<IpAddr> {
    let mut client = None;
    for hop in list.split(|byte| *byte == b',').rev() {
        let hop = str::from_utf8(hop).ok()?.trim();
        let address = match hop.parse::<IpAddr>() {
            Ok(address) => address,
            Err(_) => match hop.parse::<std::net::SocketAddr>() {
                Ok(address) => address.ip(),
                Err(_) => IpAddr::V6(hop.strip_prefix('[')?.strip_suffix(']')?.parse().ok()?),
            },
        };
        let plain = address.to_canonical();
        client = Some(plain);
        let is_proxy = matches!(plain, IpAddr::V4(address) if address.octets()[0] == 10);
        if !is_proxy {
            break;
        }
    }
    client
}

/// Asserts that a check with a second description of the request is refused.
fn twice(proxy: &Proxy, parts: &Parts, body: Option<&[u8]>) {
    for name in proxy.headers.into_iter().flatten() {
        let mut parts = parts.clone();
        parts.headers.append(name, HeaderValue::from_static("/admin"));
        assert!(decode(&proxy.config, &parts, body).is_err(), "{}: {name} twice", proxy.name);
    }
    if proxy.headers[HOST].is_none() {
        let mut parts = parts.clone();
        parts.headers.append("host", HeaderValue::from_static("admin.example"));
        assert!(decode(&proxy.config, &parts, body).is_err(), "{}: two hosts", proxy.name);
    }
}
