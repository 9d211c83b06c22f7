//! Maps a check over HTTP to the core's [`RawRequest`]: the proxy's description of the client's
//! request, without the headers of the hop between the proxy and Tollgate.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::{
    HeaderMap, Method, Version,
    header::{CONNECTION, HOST},
    request::Parts,
};
use tollgate_core::{
    denial::{Denial, Reason},
    request::{Headers, ProxyBehavior, RawBody, RawRequest, headers::lists_only_options},
};

use super::{
    config::{BodyPolicy, ForwardAuthConfig},
    dialect::{AbsentHeader, BodyForwarding, DialectSpec, RequestPart},
};

/// Headers about the connection and the framing of the check itself (RFC 9110 section 7.6.1). The
/// client's headers of these names are not known.
const HOP_BY_HOP: [&str; 11] = [
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

fn malformed(cause: &'static str) -> Denial {
    Denial::new(Reason::MalformedRequest, cause)
}

/// Returns whether the body of a check with this method is the client's.
pub fn has_body(config: &ForwardAuthConfig, method: &Method) -> bool {
    config.body == BodyPolicy::Sent
        && match config.dialect.spec().bodies {
            BodyForwarding::Never => false,
            BodyForwarding::Always => true,
            BodyForwarding::PostOnly => *method == Method::POST,
        }
}

/// Reads a check. `body` is the client's, or `None` where [`has_body`] returns false.
///
/// # Errors
/// `malformed_request` when method, path or host is missing, repeated or contradictory, or when
/// `Connection` lists headers.
pub fn decode<'a>(
    config: &ForwardAuthConfig,
    parts: &'a Parts,
    body: Option<&'a [u8]>,
) -> Result<RawRequest<'a>, Denial> {
    let spec = config.dialect.spec();
    let (method, path, host) = target(&spec, parts)?;
    let scheme = at_most_one(&parts.headers, spec.scheme)?.unwrap_or_default();
    let address = at_most_one(&parts.headers, spec.address)?.and_then(|list| client(config, list));
    if parts.headers.get_all(CONNECTION).iter().any(|value| !lists_only_options(value.as_bytes())) {
        return Err(malformed("the `Connection` header lists headers to drop"));
    }
    Ok(RawRequest {
        method,
        scheme,
        host,
        path,
        headers: headers(&spec, &parts.headers),
        address,
        peer_certificate: b"",
        body: match body {
            Some([]) => RawBody::None,
            Some(body) => RawBody::Whole(body),
            None => RawBody::Unavailable,
        },
    })
}

/// Method, path and host.
type Target<'a> = (&'a [u8], &'a [u8], &'a [u8]);

/// Returns the target of the client's request.
fn target<'a>(spec: &DialectSpec, parts: &'a Parts) -> Result<Target<'a>, Denial> {
    let method = match spec.method {
        RequestPart::Header(name) => exactly_one(&parts.headers, name)?,
        RequestPart::RequestLine => parts.method.as_str().as_bytes(),
    };
    let path = match spec.path {
        RequestPart::Header(name) => exactly_one(&parts.headers, name)?,
        RequestPart::RequestLine => request_path(parts)?,
    };
    let host = match spec.host {
        RequestPart::Header(name) => exactly_one(&parts.headers, name)?,
        RequestPart::RequestLine => request_host(parts)?,
    };
    // A proxy that merges repeated headers joins them with a comma. In a query, `,/` and `, ` are
    // data of clients, and the path before it decides.
    let before_query = path.split(|byte| *byte == b'?').next().unwrap_or_default();
    if before_query.windows(2).any(|pair| matches!(pair, b",/" | b", ")) {
        return Err(malformed("the header with the path is repeated"));
    }
    Ok((method, path, host))
}

fn request_path(parts: &Parts) -> Result<&[u8], Denial> {
    // The absolute form of HTTP/1 contains a second host. HTTP/2 always has scheme and authority.
    if parts.version < Version::HTTP_2 && parts.uri.authority().is_some() {
        return Err(malformed("the request target has the absolute form"));
    }
    parts
        .uri
        .path_and_query()
        .map(|path| path.as_str().as_bytes())
        .ok_or_else(|| malformed("the request has no path"))
}

fn request_host(parts: &Parts) -> Result<&[u8], Denial> {
    let authority = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
    match (authority, at_most_one(&parts.headers, HOST.as_str())?) {
        (Some(authority), Some(host)) if authority != host => {
            Err(malformed("`:authority` and `Host` differ"))
        }
        (Some(host), _) | (None, Some(host)) => Ok(host),
        (None, None) => Err(malformed("the request has no host")),
    }
}

fn exactly_one<'a>(headers: &'a HeaderMap, name: &str) -> Result<&'a [u8], Denial> {
    match at_most_one(headers, name)? {
        Some(value) if !value.is_empty() => Ok(value),
        _ => Err(malformed(
            "the proxy did not send the method, path or host of the client's request; \
             docs/proxies.md lists the headers that it has to send",
        )),
    }
}

fn at_most_one<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a [u8]>, Denial> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(malformed("a header that describes the client's request is repeated"));
    }
    Ok(first.map(http::HeaderValue::as_bytes))
}

/// Returns the client's address from a list to which each hop appended its peer: the last address
/// that is not a trusted proxy. The entries before it were sent by that client and may be forged:
/// they are not read, so that bytes that are no text do not hide the address.
fn client(config: &ForwardAuthConfig, list: &[u8]) -> Option<IpAddr> {
    let mut client = None;
    for hop in list.rsplit(|byte| *byte == b',') {
        let address = hop_address(std::str::from_utf8(hop).ok()?.trim())?;
        client = Some(address.to_canonical());
        if !config.is_proxy(address) {
            break;
        }
    }
    client
}

/// Reads one entry of the list: an address, alone or with a port (`192.0.2.1:4711`,
/// `[2001:db8::1]:4711`), as Azure's gateways and IIS write it, or in brackets.
fn hop_address(hop: &str) -> Option<IpAddr> {
    let address = hop.parse().or_else(|_| hop.parse().map(|with_port: SocketAddr| with_port.ip()));
    address.ok().or_else(|| {
        let inner = hop.strip_prefix('[')?.strip_suffix(']')?;
        inner.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
    })
}

/// Returns the client's headers.
fn headers<'a>(spec: &DialectSpec, all: &'a HeaderMap) -> Headers<'a> {
    let parts_in_headers = [
        spec.method,
        spec.path,
        spec.host,
        RequestPart::Header(spec.scheme),
        RequestPart::Header(spec.address),
    ];
    let proxy = ProxyBehavior {
        joins_repeats: spec.joined,
        can_remove: matches!(spec.absent, AbsentHeader::Listed(_)),
        rewrites_protocols: spec.protocols,
        rewrites_cookies: false,
    };
    let mut headers = Headers::with_capacity(all.len()).with_proxy(proxy);
    for (name, value) in all {
        let name = name.as_str();
        let is_part = parts_in_headers
            .iter()
            .any(|part| matches!(part, RequestPart::Header(header) if *header == name));
        if !HOP_BY_HOP.contains(&name) && !is_part {
            headers.push(name, value.as_bytes());
        }
    }
    headers
}
