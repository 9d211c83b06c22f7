//! The addresses that a fetch may use. A redirect or a discovery document must not make Tollgate
//! call the cloud's metadata service (GHSA-fgw5-hp8f-xfhc).
//!
//! The configured address is trusted as written, private or not: identity providers run inside of
//! clusters. Any other address, from a discovery document or a redirect, must be on the same host
//! or on one of `allowed_hosts`. On another port of the same host it must also be public, because
//! the owner of a name can point it to any address.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use http::{Uri, uri::Authority};
use thiserror::Error;

use super::plan::Remote;

/// The reason why a fetch is forbidden.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(in crate::credential) enum GuardError {
    /// The address is invalid, or has user information.
    #[error("`{0}` is not an http or https address with a host and no user information")]
    NotAnAddress(String),
    /// The address is plain http.
    #[error(
        "`{0}` is plain http; use https, or write `insecure_http: true` if the network is trusted"
    )]
    Insecure(Target),
    /// The host is neither the configured one nor allowed.
    #[error("`{host}` is neither the host of the configured address nor in `allowed_hosts`", host = .0.authority())]
    HostNotAllowed(Target),
    /// An entry of `allowed_hosts` is not a host.
    #[error("`{0}` in `allowed_hosts` is neither `host` nor `host:port`")]
    BadEntry(String),
    /// The name leads to loopback, private, link-local or other special addresses only.
    #[error("`{0}` has no public address; add it to `allowed_hosts` if it is meant")]
    NotPublic(String),
}

/// An address for a fetch. It prints without path and query, which may hold secrets.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::credential) struct Target {
    pub(super) https: bool,
    /// The host in lower case; an IPv6 address without its brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// The path and the query, as sent.
    pub(super) path: String,
}

impl Target {
    /// Reads an absolute address.
    ///
    /// # Errors
    /// [`GuardError::NotAnAddress`].
    pub(super) fn parse(text: &str) -> Result<Self, GuardError> {
        let wrong = || GuardError::NotAnAddress(printable(text));
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong()),
        };
        let (host, port) = uri.authority().and_then(host_and_port).ok_or_else(wrong)?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { https, host, port: port.unwrap_or(default_port(https)), path })
    }

    /// Reads the `Location` of a redirect from here (RFC 9110 section 10.2.2).
    ///
    /// # Errors
    /// [`GuardError::NotAnAddress`].
    pub(super) fn join(&self, location: &str) -> Result<Self, GuardError> {
        let scheme = if self.https { "https" } else { "http" };
        if location.starts_with("//") {
            return Self::parse(&format!("{scheme}:{location}"));
        }
        if location.starts_with('/') {
            return Self::parse(&format!("{scheme}://{}{location}", self.authority()));
        }
        if location.split(['/', '?', '#']).next().is_some_and(|start| start.contains(':')) {
            return Self::parse(location);
        }
        let path = self.path.split(['?', '#']).next().unwrap_or_default();
        let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
        Self::parse(&format!("{scheme}://{}{directory}/{location}", self.authority()))
    }

    /// Returns `host:port`, without the scheme's default port: the `Host` header.
    pub(super) fn authority(&self) -> String {
        let host =
            if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == default_port(self.https) { host } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.https { "https" } else { "http" }, self.authority())
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The addresses that a name may resolve to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AddressRange {
    /// Any address: the operator has named the host.
    Any,
    /// Public addresses only.
    Public,
}

impl AddressRange {
    /// Whether a connection may go to this address.
    pub(super) fn covers(self, address: IpAddr) -> bool {
        self == Self::Any || is_public(address)
    }
}

/// The rules for one source.
#[derive(Clone, Debug)]
pub(in crate::credential) struct Guard {
    configured: Target,
    allowed: Vec<(String, Option<u16>)>,
    insecure_http: bool,
}

impl Guard {
    /// Returns the rules for a configured key server.
    ///
    /// # Errors
    /// Returns [`GuardError`] for an invalid address or entry of `allowed_hosts`.
    pub(in crate::credential) fn new(remote: &Remote) -> Result<Self, GuardError> {
        let configured = Target::parse(&remote.url)?;
        let entry = |text: &String| {
            let authority = text.parse::<Authority>().ok();
            authority
                .as_ref()
                .and_then(host_and_port)
                .ok_or_else(|| GuardError::BadEntry(printable(text)))
        };
        let allowed = remote.allowed_hosts.iter().map(entry).collect::<Result<_, _>>()?;
        Ok(Self { configured, allowed, insecure_http: remote.insecure_http })
    }

    /// The configured address.
    pub(super) fn configured(&self) -> &Target {
        &self.configured
    }

    /// Returns the addresses that a fetch of `target` may connect to. A name in `allowed_hosts`
    /// without a port means the port of the scheme.
    ///
    /// # Errors
    /// [`GuardError::Insecure`], [`GuardError::HostNotAllowed`].
    pub(super) fn admit(&self, target: &Target) -> Result<AddressRange, GuardError> {
        if !target.https && !self.insecure_http {
            return Err(GuardError::Insecure(target.clone()));
        }
        let same_host = target.host == self.configured.host;
        let listed = |(host, port): &(String, Option<u16>)| {
            *host == target.host && port.unwrap_or(default_port(target.https)) == target.port
        };
        if (same_host && target.port == self.configured.port) || self.allowed.iter().any(listed) {
            Ok(AddressRange::Any)
        } else if same_host {
            Ok(AddressRange::Public)
        } else {
            Err(GuardError::HostNotAllowed(target.clone()))
        }
    }
}

fn default_port(https: bool) -> u16 {
    if https { 443 } else { 80 }
}

/// Returns the host in lower case and without brackets, and the port if there is one; `None` for
/// user information, an empty host, or an invalid port.
fn host_and_port(authority: &Authority) -> Option<(String, Option<u16>)> {
    let port = authority.port_u16();
    let host = authority.host();
    let whole = port.is_some() || authority.as_str() == host;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    (whole && !bare.is_empty() && !authority.as_str().contains('@'))
        .then(|| (bare.to_ascii_lowercase(), port))
}

/// Returns an address for an error message: bounded in length, without the query and the user
/// information, which may be secret.
fn printable(text: &str) -> String {
    let start = text.split(['?', '#']).next().unwrap_or_default();
    let bare = start.rsplit_once('@').map_or(start, |(_, rest)| rest);
    bare.chars().take(200).flat_map(char::escape_debug).collect()
}

/// Whether an address is public by the registries of special addresses (RFC 6890). An IPv6 address
/// that embeds an IPv4 address is judged by the latter.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => match address.segments() {
            // ::ffff:0:0/96 mapped and ::/96 compatible, which covers :: and ::1; 64:ff9b::/96
            // NAT64 (RFC 6052)
            [0, 0, 0, 0, 0, 0 | 0xffff, _, _] | [0x64, 0xff9b, 0, 0, 0, 0, _, _] => {
                is_public_v4(embedded(address, 12))
            }
            // 2002::/16 6to4 (RFC 3056)
            [0x2002, ..] => is_public_v4(embedded(address, 2)),
            // 2001:db8::/32 documentation, 2001::/23 protocol assignments with Teredo
            [0x2001, 0xdb8 | 0..0x200, ..] => false,
            // The only assigned unicast range (RFC 4291 section 2.4): no unique local, link-local,
            // site-local, multicast
            [first, ..] => (0x2000..0x4000).contains(&first),
        },
    }
}

fn embedded(address: Ipv6Addr, at: usize) -> Ipv4Addr {
    address
        .octets()
        .get(at..)
        .and_then(|rest| rest.first_chunk::<4>())
        .map_or(Ipv4Addr::UNSPECIFIED, |octets| (*octets).into())
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    !matches!(
        address.octets(),
        [0 | 10 | 127, ..]
            | [100, 64..128, ..] // RFC 6598, and a metadata service
            | [169, 254, ..]
            | [172, 16..32, ..]
            | [192, 168, ..]
            | [192, 0, 0 | 2, _] // RFC 6890 and documentation; a metadata service
            | [198, 18 | 19, ..]
            | [198, 51, 100, _]
            | [203, 0, 113, _]
            | [168, 63, 129, 16] // a cloud's host agent on a public address
            | [224..=255, ..] // multicast, reserved, broadcast
    )
}

#[cfg(test)]
mod tests {
    use super::{super::plan::Access, *};

    fn guard(url: &str, allowed: &[&str], insecure_http: bool) -> Guard {
        let allowed_hosts = allowed.iter().map(ToString::to_string).collect();
        Guard::new(&Remote {
            url: url.into(),
            discovery: false,
            allowed_hosts,
            insecure_http,
            ca: None,
            access: Access::default(),
        })
        .unwrap()
    }

    #[test]
    fn the_configured_host_is_trusted_and_others_need_a_reason() {
        let guard = guard(
            "https://idp.example:8443/keys",
            &["cdn.example", "keys.example:9443", "[fd00::1]:8443"],
            false,
        );
        for (what, url, expected) in [
            ("the address itself", "https://idp.example:8443/keys", Ok(AddressRange::Any)),
            ("another path", "https://idp.example:8443/other?x", Ok(AddressRange::Any)),
            ("the name in capitals", "https://IDP.example:8443/", Ok(AddressRange::Any)),
            ("another port of the host", "https://idp.example/keys", Ok(AddressRange::Public)),
            ("listed", "https://cdn.example/keys", Ok(AddressRange::Any)),
            ("listed, other port", "https://cdn.example:444/keys", Err("foreign")),
            ("listed with port", "https://keys.example:9443/keys", Ok(AddressRange::Any)),
            ("listed with another port", "https://keys.example/keys", Err("foreign")),
            ("listed IPv6 address", "https://[FD00::1]:8443/", Ok(AddressRange::Any)),
            ("plain http", "http://idp.example:8443/keys", Err("insecure")),
            ("a longer name", "https://idp.example.evil.example:8443/", Err("foreign")),
            ("a shorter name", "https://example:8443/", Err("foreign")),
            ("a final dot", "https://idp.example.:8443/", Err("foreign")),
            (
                "user information that looks like the host",
                "https://idp.example:8443@evil.example/",
                Err("address"),
            ),
            ("metadata", "https://169.254.169.254/latest/meta-data", Err("foreign")),
            ("another scheme", "ftp://idp.example/", Err("address")),
            ("a file", "file:///etc/passwd", Err("address")),
            ("no host", "https:///keys", Err("address")),
            ("a path", "/keys", Err("address")),
            ("a port that is none", "https://idp.example:99999/", Err("address")),
            ("nothing", "", Err("address")),
        ] {
            let found =
                Target::parse(url).and_then(|target| guard.admit(&target)).map_err(|error| {
                    match error {
                        GuardError::NotAnAddress(_) => "address",
                        GuardError::Insecure(_) => "insecure",
                        GuardError::HostNotAllowed(_) => "foreign",
                        GuardError::BadEntry(_) | GuardError::NotPublic(_) => "other",
                    }
                });
            assert_eq!(found, expected, "{what}: {url}");
        }
    }

    #[test]
    fn plain_http_is_taken_where_the_operator_says_so() {
        let guard = guard("http://idp.internal/keys", &[], true);
        assert_eq!(
            guard.admit(&Target::parse("http://idp.internal/keys").unwrap()),
            Ok(AddressRange::Any)
        );
        assert_eq!(
            guard.admit(&Target::parse("https://idp.internal/keys").unwrap()),
            Ok(AddressRange::Public)
        );
    }

    #[test]
    fn a_bad_entry_of_allowed_hosts_is_named() {
        for entry in
            ["", "https://a.example", "a.example/keys", "user@a.example", "a b", "a.example:x"]
        {
            let remote = Remote {
                url: "https://idp.example".into(),
                discovery: false,
                allowed_hosts: vec![entry.into()],
                insecure_http: false,
                ca: None,
                access: Access::default(),
            };
            assert!(matches!(Guard::new(&remote), Err(GuardError::BadEntry(_))), "{entry}");
        }
    }

    #[test]
    fn redirects_are_read_as_the_rfc_says() {
        let base = Target::parse("https://idp.example:8443/a/keys?x=/y").unwrap();
        for (location, expected) in [
            ("https://b.example/k", Ok(("https://b.example", "/k"))),
            ("HTTPS://b.example", Ok(("https://b.example", "/"))),
            ("http://b.example/k", Ok(("http://b.example", "/k"))),
            ("//b.example/k", Ok(("https://b.example", "/k"))),
            ("/k?y", Ok(("https://idp.example:8443", "/k?y"))),
            ("k", Ok(("https://idp.example:8443", "/a/k"))),
            ("k?u=https://x", Ok(("https://idp.example:8443", "/a/k?u=https://x"))),
            ("k#f", Ok(("https://idp.example:8443", "/a/k"))),
            ("https://[::1]:8443/k", Ok(("https://[::1]:8443", "/k"))),
            ("javascript:alert(1)", Err(())),
            ("https:/idp.example", Err(())),
            ("file:///etc/passwd", Err(())),
        ] {
            let found =
                base.join(location).map(|target| (target.to_string(), target.path)).map_err(drop);
            assert_eq!(
                found,
                expected.map(|(origin, path)| (origin.to_owned(), path.to_owned())),
                "{location}"
            );
        }
    }

    #[test]
    fn addresses_show_without_what_may_be_secret() {
        let target = Target::parse("https://idp.example/keys?apikey=hunter2").unwrap();
        assert_eq!(format!("{target} {target:?}"), "https://idp.example https://idp.example");
        for url in ["https://bob:hunter2@idp.example/keys", "ftp://idp.example/?key=hunter2"] {
            let error = Target::parse(url).unwrap_err().to_string();
            assert!(error.contains("idp.example") && !error.contains("hunter2"), "{error}");
        }
        assert!(Target::parse(&"x".repeat(5000)).unwrap_err().to_string().len() < 400);
    }

    #[test]
    fn special_addresses_are_not_public_however_they_are_written() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.1.2.3",
            "168.63.129.16",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2002:a00:1::1",
            "2001::1",
            "2001:db8::1",
            "100::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert!(!AddressRange::Public.covers(address), "{address}");
            assert!(AddressRange::Any.covers(address), "{address}");
        }
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "192.169.0.1",
            "198.17.0.1",
            "223.255.255.255",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2002:808:808::1",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2606:4700:4700::1111",
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert!(AddressRange::Public.covers(address), "{address}");
        }
    }
}
