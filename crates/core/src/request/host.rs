//! The host, compared in lower case, without port and trailing dot.
//!
//! CVE-2021-39155 and CVE-2026-42273: case and port differed between the rule and the route.

use crate::denial::{Denial, malformed};

/// A normalised host name or address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host(String);

impl Host {
    /// Parses the value of `:authority` or `Host`.
    ///
    /// # Errors
    /// `malformed_request` for an empty host, user information, characters other than letters,
    /// digits, `-`, `_` and `.` (or a bracketed IPv6 address), empty labels, and a port that is not
    /// a number.
    pub fn parse(raw: &[u8]) -> Result<Self, Denial> {
        let text = std::str::from_utf8(raw).map_err(|_| malformed("the host is not ASCII"))?;
        if text.len() > 255 {
            return Err(malformed("the host is longer than 255 bytes"));
        }
        let (name, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest
                    .split_once(']')
                    .ok_or_else(|| malformed("the host's `[` is not closed"))?;
                let address: std::net::Ipv6Addr = address
                    .parse()
                    .map_err(|_| malformed("the host's brackets hold no IPv6 address"))?;
                (format!("[{address}]"), port)
            }
            None => {
                let (name, port) = text.split_at_checked(name_length(raw)).unwrap_or((text, ""));
                let name = name.strip_suffix('.').unwrap_or(name);
                if name.is_empty() || !(port.is_empty() || port.starts_with(':')) {
                    return Err(malformed("the host is not a host name"));
                }
                (name.to_ascii_lowercase(), port)
            }
        };
        match port.strip_prefix(':') {
            None if port.is_empty() => {}
            Some(digits)
                if !digits.is_empty()
                    && digits.bytes().all(|b| b.is_ascii_digit())
                    && digits.parse::<u16>().is_ok() => {}
            _ => return Err(malformed("the host's port is not a number")),
        }
        Ok(Self(name))
    }

    /// Returns the normalised text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Returns the length of the longest prefix of `text` that consists of labels separated by dots.
fn name_length(text: &[u8]) -> usize {
    let mut after_dot = true;
    let ends = |byte: &u8| match byte {
        b'.' => std::mem::replace(&mut after_dot, true),
        byte => {
            after_dot = false;
            !(byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        }
    };
    text.iter().position(ends).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_normalised() {
        for (raw, expected) in [
            ("API.Example.com", "api.example.com"),
            ("api.example.com:8443", "api.example.com"),
            ("api.example.com.", "api.example.com"),
            ("api.example.com.:443", "api.example.com"),
            ("127.0.0.1:8080", "127.0.0.1"),
            ("[::1]:8080", "[::1]"),
            ("[0:0:0:0:0:0:0:1]", "[::1]"),
            ("my_host", "my_host"),
        ] {
            assert_eq!(Host::parse(raw.as_bytes()).unwrap().as_str(), expected, "{raw}");
        }
    }

    #[test]
    fn ambiguous_hosts_are_refused() {
        for raw in [
            "",
            ".",
            "a..b",
            "user@host",
            "host/path",
            "host?x",
            "host#x",
            "a b",
            "a,b",
            "host:80:81",
            "host:",
            "host:x",
            "host:99999",
            "[::1",
            "[zz]",
            "[::1]x",
            "h\u{f6}st",
            "a%2eb",
            "a\\b",
        ] {
            assert!(Host::parse(raw.as_bytes()).is_err(), "{raw}");
        }
    }
}
