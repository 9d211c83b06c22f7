//! URIs of `http` and `https`, normalised as RFC 3986 section 6.2 describes, so that two spellings
//! of one resource are equal.

use std::net::Ipv6Addr;

/// The scheme, the host and the port of a URI, normalised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin(String);

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A URI without its query and its fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HttpTarget {
    pub(super) origin: Origin,
    /// The path, never empty.
    pub(super) path: String,
}

impl HttpTarget {
    /// Reads an absolute URI; `None` for anything else. Query and fragment are left out.
    pub(super) fn parse(uri: &str) -> Option<Self> {
        if !uri.bytes().all(|byte| byte.is_ascii_graphic()) {
            return None;
        }
        let uri = uri.split(['?', '#']).next()?;
        let (scheme, rest) = uri.split_once("://")?;
        let scheme = scheme.to_ascii_lowercase();
        let default = match scheme.as_str() {
            "https" => 443,
            "http" => 80,
            _ => return None,
        };
        let at = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(at)?;
        let (host, port) = host_and_port(authority)?;
        let port = port.filter(|port| *port != default);
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        let path = if path.is_empty() { "/".to_owned() } else { normalized_path(path)? };
        Some(Self { origin: Origin(format!("{scheme}://{host}{port}")), path })
    }
}

/// Splits an authority. A user in it is refused.
fn host_and_port(authority: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, rest) = rest.split_once(']')?;
            let address: Ipv6Addr = address.parse().ok()?;
            let port = if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) };
            (format!("[{address}]"), port)
        }
        None => {
            let (host, port) = match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            };
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            if host.is_empty() || !host.bytes().all(is_name) {
                return None;
            }
            (host.to_ascii_lowercase(), port)
        }
    };
    match port {
        None | Some("") => Some((host, None)),
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some((host, Some(port.parse().ok()?)))
        }
        Some(_) => None,
    }
}

/// Normalises an absolute path: encoded characters that need no encoding are decoded, the digits of
/// the others are in upper case, and dot segments are removed. `None` for a broken encoding.
pub(super) fn normalized_path(path: &str) -> Option<String> {
    let decoded = with_equal_encodings(path)?;
    let mut segments: Vec<&str> = Vec::new();
    let mut rest = decoded.split('/').skip(1).peekable();
    while let Some(segment) = rest.next() {
        let is_last = rest.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    segments.pop();
                }
                if is_last {
                    segments.push("");
                }
            }
            segment => segments.push(segment),
        }
    }
    Some(format!("/{}", segments.join("/")))
}

fn with_equal_encodings(path: &str) -> Option<String> {
    let mut text = String::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            text.push(char::from(byte));
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let byte = u8::try_from(digit()? << 4 | digit()?).ok()?;
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_uri_are_equal() {
        let expected = ("https://api.example.com".to_owned(), "/v1/models".to_owned());
        for uri in [
            "https://api.example.com/v1/models",
            "HTTPS://API.Example.COM/v1/models",
            "https://api.example.com:443/v1/models",
            "https://api.example.com:/v1/models",
            "https://api.example.com:0443/v1/models",
            "https://api.example.com/v1/models?a=/../b",
            "https://api.example.com/v1/models#x",
            "https://api.example.com/v1/models#x?y",
            "https://api.example.com/v1/./models",
            "https://api.example.com/v2/../v1/models",
            "https://api.example.com/../v1/models",
            "https://api.example.com/v2/%2e%2E/v1/models",
            "https://api.example.com/%76%31/model%73",
        ] {
            let target = HttpTarget::parse(uri).unwrap();
            assert_eq!((target.origin.to_string(), target.path), expected, "{uri}");
        }
    }

    #[test]
    fn what_differs_stays_different() {
        for (uri, origin, path) in [
            ("http://a", "http://a", "/"),
            ("http://a/", "http://a", "/"),
            ("http://a:80/x", "http://a", "/x"),
            ("https://a:80/x", "https://a:80", "/x"),
            ("https://a./x", "https://a.", "/x"),
            ("https://[2001:DB8::0:1]:8443/x", "https://[2001:db8::1]:8443", "/x"),
            ("https://a/x/", "https://a", "/x/"),
            ("https://a//x", "https://a", "//x"),
            ("https://a/x/.", "https://a", "/x/"),
            ("https://a/x/..", "https://a", "/"),
            ("https://a/X", "https://a", "/X"),
            ("https://a/x%2fy", "https://a", "/x%2Fy"),
            ("https://a/x%252ey", "https://a", "/x%252ey"),
            ("https://a/%c3%a9", "https://a", "/%C3%A9"),
            ("https://a/x;y", "https://a", "/x;y"),
        ] {
            let target = HttpTarget::parse(uri).unwrap();
            assert_eq!((&*target.origin.0, &*target.path), (origin, path), "{uri}");
        }
    }

    #[test]
    fn anything_else_is_no_uri() {
        for uri in [
            "",
            "/v1/models",
            "//a/x",
            "a",
            "https:/a/x",
            "https:///x",
            "https://",
            "https://user@a/x",
            "https://a:b/x",
            "https://a:+443/x",
            "https://a:65536/x",
            "https://a:1:2/x",
            "https://[::1/x",
            "https://[::1]x/y",
            "https://[a]/x",
            "https://a%2e/x",
            "https://a\\b/x",
            "https://a/x%",
            "https://a/x%2",
            "https://a/x%zz",
            "https://a/\u{e9}",
            "https://a /x",
            "wss://a/x",
            "urn:a",
        ] {
            assert_eq!(HttpTarget::parse(uri), None, "{uri}");
        }
    }
}
