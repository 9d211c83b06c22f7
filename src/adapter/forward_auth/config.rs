//! One entry of `listen.http`.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};
use tollgate_core::{
    config::{Errors, Path},
    network::Networks,
};

use super::dialect::Dialect;
use crate::{
    byte_size::ByteSize,
    listener::{Address, ListenerConfig, Peer, SocketMode, TlsConfig, header_bytes},
};

/// A listener for checks over HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ForwardAuthConfig {
    /// `host:port` with an IP address or `localhost`, or `unix:/absolute/path`.
    #[schemars(with = "String")]
    #[serde(deserialize_with = "parsed")]
    pub address: Address,
    /// The proxy that sends checks to this listener. Each describes the client's request in its own
    /// headers, so a listener has one dialect.
    pub dialect: Dialect,
    /// Addresses of the proxies, as `10.0.0.0/8` or `10.1.2.3`. A connection from any other address
    /// is closed, because the headers of its checks may be forged. The list is also used to read the
    /// client's address from a list of hops: these hops are skipped, from the right. Default:
    /// loopback. Peers on a Unix socket are trusted by its permissions.
    #[schemars(with = "Option<Vec<String>>")]
    #[serde(default)]
    pub trusted_proxies: Option<Networks>,
    /// The most bytes that the headers of one check may have, from 16KiB to 1MiB. Default 128KiB.
    #[serde(default, deserialize_with = "header_bytes")]
    pub max_header_bytes: Option<ByteSize>,
    /// Permissions of a Unix socket, in quotes: four octal digits. Default "0660".
    #[schemars(with = "Option<String>")]
    #[serde(default, deserialize_with = "some_parsed")]
    pub mode: Option<SocketMode>,
    /// TLS. Default: none, because a sidecar listens on loopback or on a Unix socket.
    pub tls: Option<TlsConfig>,
    /// Whether requests come with their bodies. Default `none`.
    #[serde(default)]
    pub body: BodyPolicy,
    /// How requests are settled that hold tokens or a place among the requests in flight. Default
    /// `none`.
    #[serde(default)]
    pub settlement: SettlementPolicy,
}

/// The key `listen.http[].settlement`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SettlementPolicy {
    /// They are not. A route whose limits are settled by reports is an error of the file.
    #[default]
    None,
    /// By reports to `listen.settle`: the answers of checks have the reservation of the request, and
    /// what the proxy writes into its body. Only nginx with njs can do both
    /// (deploy/nginx/njs-metered.conf), with `body: sent`.
    Reported,
    /// By expiry, and that is intended: what a request holds is charged as a whole when
    /// `metering.life` has passed, and its place is free then, whether it has ended or not.
    Expiry,
}

/// The routes that need something of a listener: for each, the place of its entry and its name.
#[derive(Clone, Copy, Debug, Default)]
pub struct RouteNeeds<'r> {
    /// Those that read the body.
    pub body: &'r [(Path, String)],
    /// Those whose requests hold what a report settles.
    pub settlement: &'r [(Path, String)],
}

/// The key `listen.http[].body`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BodyPolicy {
    /// They do not. A route that needs the body is an error of the file, because it cannot be used
    /// through this listener.
    #[default]
    None,
    /// They do: the proxy is configured to send them.
    Sent,
    /// They do not, and that is intended: routes that need the body are denied on this listener,
    /// with `body_unavailable`.
    Deny,
}

fn parsed<'de, D: Deserializer<'de>, T>(deserializer: D) -> Result<T, D::Error>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

fn some_parsed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketMode>, D::Error> {
    parsed(deserializer).map(Some)
}

impl ForwardAuthConfig {
    /// Returns the settings of the listener.
    #[must_use]
    pub fn listener(&self) -> ListenerConfig {
        ListenerConfig {
            address: self.address.clone(),
            mode: self.mode.unwrap_or_default(),
            tls: self.tls.clone(),
            max_header_bytes: self.max_header_bytes,
            trusted_proxies: Some(self.trusted_proxies.clone().unwrap_or_else(Networks::loopback)),
        }
    }

    /// Whether the proxy reports the usage of requests.
    #[must_use]
    pub fn reports(&self) -> bool {
        self.settlement == SettlementPolicy::Reported
    }

    /// Adds an error for each contradiction, and for each route of `needs` that cannot be used
    /// through this listener.
    pub fn validate(&self, needs: RouteNeeds<'_>, path: &Path, errors: &mut Errors) {
        if self.mode.is_some() && matches!(self.address, Address::Tcp(_)) {
            errors.push(
                &path.key("mode"),
                "`mode` belongs to a Unix socket: leave it out for a TCP address",
            );
        }
        let body = path.key("body");
        if self.body == BodyPolicy::Sent && !self.dialect.can_send_bodies() {
            errors.push(
                &body,
                format!("`{}` cannot send bodies; write `deny`, or leave it out", self.dialect),
            );
        }
        if self.body == BodyPolicy::None {
            for (place, name) in needs.body {
                errors.push(
                    &body,
                    format!(
                        "the route `{name}` ({place}) reads the body, and {} ({}) gets no bodies: \
                         {}; or take the model from the path or a header; or write `body: deny` to \
                         deny the route on this listener",
                        self.address,
                        self.dialect,
                        self.dialect.spec().remedy
                    ),
                );
            }
        }
        self.validate_settlement(needs.settlement, &path.key("settlement"), errors);
        match (&self.address, &self.trusted_proxies) {
            (Address::Tcp(address), None) if !address.ip().is_loopback() => errors.push(
                &path.key("address"),
                format!(
                    "{address} can be reached from other machines, and only loopback is trusted; \
                     list the proxies in `trusted_proxies`"
                ),
            ),
            (Address::Unix(_), Some(_)) if !self.reads_a_list() => errors.push(
                &path.key("trusted_proxies"),
                "peers on a Unix socket are trusted by its permissions; leave `trusted_proxies` \
                 out",
            ),
            (_, Some(list)) if list.is_empty() => {
                errors.push(
                    &path.key("trusted_proxies"),
                    "the list is empty, so every check would be refused; list the proxies",
                );
            }
            _ => {}
        }
    }

    fn validate_settlement(&self, settled: &[(Path, String)], path: &Path, errors: &mut Errors) {
        let can_report = self.dialect.can_settle() && self.body == BodyPolicy::Sent;
        if self.reports() && !can_report {
            errors.push(
                path,
                "only nginx with njs reports usage and writes the bound of a request into its body: take `dialect: nginx`, `body: sent` and deploy/nginx/njs-metered.conf, or Envoy over `listen.grpc`",
            );
        }
        if self.settlement != SettlementPolicy::None {
            return;
        }
        let remedy = if self.dialect.can_settle() {
            "use deploy/nginx/njs-metered.conf with `listen.settle`, and write `body: sent` and `settlement: reported`"
        } else {
            "use Envoy over `listen.grpc`, or nginx with njs, for this route"
        };
        for (place, name) in settled {
            errors.push(
                path,
                format!(
                    "the limits of the route `{name}` ({place}) are settled by reports of usage, and \
                     {} ({}) sends none: {remedy}; or write `settlement: expiry` to charge what a \
                     request holds when it expires",
                    self.address, self.dialect
                ),
            );
        }
    }

    /// Returns whether the dialect sends the client's address as a list of hops, from which
    /// `trusted_proxies` are skipped.
    fn reads_a_list(&self) -> bool {
        self.dialect.spec().address == "x-forwarded-for"
    }

    /// Returns whether a check from `peer` is trusted.
    pub(super) fn trusts(&self, peer: Option<Peer>) -> bool {
        match peer {
            Some(Peer::Unix) => true,
            Some(Peer::Tcp(peer)) => self.is_proxy(peer.ip()),
            None => false,
        }
    }

    /// Returns whether `address` is one of the proxies.
    pub(super) fn is_proxy(&self, address: IpAddr) -> bool {
        match &self.trusted_proxies {
            Some(list) => list.contains(address),
            None => address.to_canonical().is_loopback(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<ForwardAuthConfig, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    fn errors(json: &str, body: &[(Path, String)]) -> usize {
        let mut errors = Errors::default();
        let needs = RouteNeeds { body, settlement: &[] };
        read(json).unwrap().validate(needs, &Path::root(), &mut errors);
        errors.len()
    }

    #[test]
    fn proxies_are_loopback_by_default() {
        let plain = read(r#"{"address": "127.0.0.1:9001", "dialect": "nginx"}"#).unwrap();
        let named =
            read(r#"{"address": "0.0.0.0:9001", "dialect": "traefik", "trusted_proxies": ["10.0.0.0/8", "fd00::1"]}"#).unwrap();
        let peer = |text: &str| Some(Peer::Tcp(text.parse().unwrap()));
        for (text, by_default, by_name) in [
            ("127.0.0.1:1", true, false),
            ("[::1]:1", true, false),
            ("[::ffff:127.0.0.1]:1", true, false),
            ("10.2.3.4:1", false, true),
            ("[::ffff:10.2.3.4]:1", false, true),
            ("[fd00::1]:1", false, true),
            ("[fd00::2]:1", false, false),
            ("11.0.0.1:1", false, false),
        ] {
            assert_eq!(
                (plain.trusts(peer(text)), named.trusts(peer(text))),
                (by_default, by_name),
                "{text}"
            );
        }
        assert!(plain.trusts(Some(Peer::Unix)));
        assert!(!plain.trusts(None), "a peer that is not known is not trusted");
    }

    #[test]
    fn mistakes_are_named() {
        for (json, expected) in [
            (r#"{"address": "127.0.0.1:1", "dialect": "apache"}"#, "unknown variant `apache`"),
            (r#"{"address": "nowhere", "dialect": "nginx"}"#, "`nowhere` is not an address"),
            (
                r#"{"address": "127.0.0.1:1", "dialect": "nginx", "trusted_proxies": ["10.1.2.3/8"]}"#,
                "bits beyond its prefix; write `10.0.0.0/8`",
            ),
            (
                r#"{"address": "127.0.0.1:1", "dialect": "nginx", "trusted_proxies": ["nginx"]}"#,
                "`nginx` is neither an address nor a network",
            ),
            (
                r#"{"address": "127.0.0.1:1", "dialect": "nginx", "trusted": []}"#,
                "unknown field `trusted`",
            ),
            (
                r#"{"address": "127.0.0.1:1", "dialect": "nginx", "max_header_bytes": "1KiB"}"#,
                "`max_header_bytes` is from 16KiB to 1MiB",
            ),
            (r#"{"address": "127.0.0.1:1"}"#, "missing field `dialect`"),
        ] {
            let error = read(json).unwrap_err();
            assert!(error.contains(expected), "{json}: {error}");
        }
        for (json, count) in [
            (r#"{"address": "127.0.0.1:1", "dialect": "nginx"}"#, 0),
            (r#"{"address": "0.0.0.0:1", "dialect": "nginx"}"#, 1),
            (
                r#"{"address": "0.0.0.0:1", "dialect": "nginx", "trusted_proxies": ["10.0.0.0/8"]}"#,
                0,
            ),
            (r#"{"address": "127.0.0.1:1", "dialect": "nginx", "trusted_proxies": []}"#, 1),
            (r#"{"address": "127.0.0.1:1", "dialect": "nginx", "mode": "0600"}"#, 1),
            (r#"{"address": "unix:/x", "dialect": "nginx", "trusted_proxies": ["10.0.0.0/8"]}"#, 1),
            (r#"{"address": "unix:/x", "dialect": "caddy", "trusted_proxies": ["10.0.0.0/8"]}"#, 0),
            (r#"{"address": "127.0.0.1:1", "dialect": "caddy", "body": "sent"}"#, 1),
        ] {
            assert_eq!(errors(json, &[]), count, "{json}");
        }
    }

    #[test]
    fn a_route_that_reads_the_body_needs_a_listener_with_bodies() {
        let needing = [(Path::root().key("routes").index(0), "chat".to_owned())];
        for dialect in ["nginx", "traefik", "caddy", "haproxy", "envoy_http"] {
            let with = |body: &str| {
                format!(r#"{{"address": "127.0.0.1:1", "dialect": "{dialect}"{body}}}"#)
            };
            assert_eq!(errors(&with(""), &needing), 1, "{dialect}");
            assert_eq!(errors(&with(r#", "body": "deny""#), &needing), 0, "{dialect}");
            assert_eq!(
                errors(&with(r#", "body": "sent""#), &needing),
                usize::from(dialect == "caddy"),
                "{dialect}"
            );
        }
    }
    #[test]
    fn a_route_that_is_settled_by_reports_needs_a_listener_that_gets_them() {
        let needing = [(Path::root().key("routes").index(0), "chat".to_owned())];
        let errors = |json: &str| {
            let mut errors = Errors::default();
            let needs = RouteNeeds { body: &[], settlement: &needing };
            read(json).unwrap().validate(needs, &Path::root(), &mut errors);
            errors.len()
        };
        for dialect in ["nginx", "traefik", "caddy", "haproxy", "envoy_http"] {
            let with = |more: &str| {
                format!(r#"{{"address": "127.0.0.1:1", "dialect": "{dialect}"{more}}}"#)
            };
            assert_eq!(errors(&with("")), 1, "{dialect}");
            assert_eq!(errors(&with(r#", "settlement": "expiry""#)), 0, "{dialect}");
            let reported = with(r#", "settlement": "reported", "body": "deny""#);
            assert_eq!(errors(&reported), 1, "{dialect}: no bodies");
            if dialect != "caddy" {
                let reported = with(r#", "settlement": "reported", "body": "sent""#);
                assert_eq!(errors(&reported), usize::from(dialect != "nginx"), "{dialect}");
            }
        }
    }
}
