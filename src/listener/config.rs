//! A listener in the configuration file: an address, or a table with more settings.

use std::{borrow::Cow, fmt, ops::RangeInclusive, path::PathBuf, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor, value::MapAccessDeserializer},
};

use tollgate_core::network::Networks;

use super::address::Address;
use crate::byte_size::ByteSize;

/// The settings of a listener. In a file either an address alone or `{ address, mode, tls }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerConfig {
    /// TCP or Unix socket.
    pub address: Address,
    /// Permissions of the Unix socket.
    pub mode: SocketMode,
    /// TLS, or none.
    pub tls: Option<TlsConfig>,
    /// Bytes of the headers of one request or call, `None` for the default.
    pub max_header_bytes: Option<ByteSize>,
    /// The peers whose connections are accepted, `None` for all.
    pub trusted_proxies: Option<Networks>,
}

/// TLS on a listener. The files are read again when they change; files that cannot be used leave
/// the previous certificates in use.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM file with the server's certificate, followed by its intermediates.
    pub cert: PathBuf,
    /// PEM file with the private key of that certificate (PKCS#8, PKCS#1 or SEC1).
    pub key: PathBuf,
    /// PEM file with the authorities whose client certificates are accepted. With it, a client
    /// without such a certificate is not served. Default: none, clients need no certificate.
    #[serde(default)]
    pub client_ca: Option<PathBuf>,
}

/// Permissions of a Unix socket, such as `0660`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketMode(pub u32);

impl Default for SocketMode {
    /// Returns `0660`: owner and group may connect. A proxy that runs as another user needs the
    /// group (in a pod: `fsGroup`).
    fn default() -> Self {
        Self(0o660)
    }
}

/// Text that is not the permissions of a file.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a permission: write three octal digits after a zero, such as \"0660\"")]
pub struct ModeError(String);

impl FromStr for SocketMode {
    type Err = ModeError;

    fn from_str(text: &str) -> Result<Self, ModeError> {
        match text.strip_prefix('0') {
            Some(digits)
                if digits.len() == 3 && digits.bytes().all(|digit| digit.is_ascii_digit()) =>
            {
                u32::from_str_radix(digits, 8).map(Self).map_err(|_| ModeError(text.to_owned()))
            }
            _ => Err(ModeError(text.to_owned())),
        }
    }
}

impl ListenerConfig {
    /// A listener on `address`, with every other setting at its default.
    #[must_use]
    pub fn new(address: Address) -> Self {
        Self {
            address,
            mode: SocketMode::default(),
            tls: None,
            max_header_bytes: None,
            trusted_proxies: None,
        }
    }
}

impl ListenerConfig {
    /// Whether only peers that the permissions of a socket or a certificate admit can connect.
    pub fn authenticates_peers(&self) -> bool {
        let has_authority = self.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        has_authority || matches!(self.address, Address::Unix(_))
    }
}

/// The two forms in a file.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "only its schema is used: see the visitor below")]
enum ListenerForm {
    /// `host:port` with an IP address or `localhost`, or `unix:/absolute/path`.
    Address(String),
    ListenerTable(ListenerTable),
}

/// A listener with more settings than an address.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListenerTable {
    /// `host:port` with an IP address or `localhost`, or `unix:/absolute/path`.
    address: String,
    /// Permissions of a Unix socket, in quotes: four octal digits. Default "0660", owner and group:
    /// a proxy that runs as another user needs the group.
    #[serde(default)]
    mode: Option<String>,
    /// TLS. Default: none, because a sidecar listens on loopback or on a Unix socket.
    #[serde(default)]
    tls: Option<TlsConfig>,
    /// The most bytes that the headers of one request or call may have, from 16KiB to 1MiB. A proxy
    /// can copy headers of its clients (`tracestate`, `baggage`, initial metadata) into its own
    /// call, and a call beyond this limit fails before Tollgate can deny it. Keep it above twice the
    /// header limit of the proxy. Default 128KiB, for Envoy's default of 60 KiB; 32KiB on
    /// `listen.ops`.
    #[serde(default, deserialize_with = "header_bytes")]
    max_header_bytes: Option<ByteSize>,
    /// Addresses of the proxies, or of those that read `listen.ops`, as `10.0.0.0/8` or `10.1.2.3`.
    /// A connection from any other address is closed. Default: every address may connect, and when
    /// all places are taken (512, and 64 on `listen.ops`), idle connections of the address that has
    /// most are closed for new ones. Peers on a Unix socket are admitted by its permissions.
    #[schemars(with = "Option<Vec<String>>")]
    #[serde(default)]
    trusted_proxies: Option<Networks>,
}

impl JsonSchema for ListenerConfig {
    fn schema_name() -> Cow<'static, str> {
        "Listener".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        ListenerForm::json_schema(generator)
    }
}

// By hand rather than as an untagged enum, whose only message is that nothing matched.
impl<'de> Deserialize<'de> for ListenerConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListenerVisitor)
    }
}

/// The sizes that `max_header_bytes` accepts: h2 rejects calls of ordinary proxies below, and one
/// connection could hold too much above.
const HEADER_BYTES: RangeInclusive<usize> = 16 << 10..=1 << 20;

/// Reads `max_header_bytes`.
///
/// # Errors
/// A size that is out of bounds.
pub fn header_bytes<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<ByteSize>, D::Error> {
    let size = ByteSize::deserialize(deserializer)?;
    if !HEADER_BYTES.contains(&size.0) {
        return Err(D::Error::custom("`max_header_bytes` is from 16KiB to 1MiB"));
    }
    Ok(Some(size))
}

struct ListenerVisitor;

impl<'de> Visitor<'de> for ListenerVisitor {
    type Value = ListenerConfig;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an address, or a table with `address`, `mode`, `tls`, `max_header_bytes` and `trusted_proxies`")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<ListenerConfig, E> {
        text.parse().map(ListenerConfig::new).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ListenerConfig, A::Error> {
        let ListenerTable { address, mode, tls, max_header_bytes, trusted_proxies } =
            ListenerTable::deserialize(MapAccessDeserializer::new(map))?;
        let address = address.parse().map_err(A::Error::custom)?;
        let mode = match (mode, &address) {
            (None, _) => SocketMode::default(),
            (Some(mode), Address::Unix(_)) => mode.parse().map_err(A::Error::custom)?,
            (Some(_), Address::Tcp(_)) => {
                return Err(A::Error::custom(
                    "`mode` belongs to a Unix socket: leave it out for a TCP address",
                ));
            }
        };
        match (&trusted_proxies, &address) {
            (Some(_), Address::Unix(_)) => {
                return Err(A::Error::custom(
                    "peers on a Unix socket are admitted by its permissions: leave \
                     `trusted_proxies` out",
                ));
            }
            (Some(list), Address::Tcp(_)) if list.is_empty() => {
                return Err(A::Error::custom(
                    "`trusted_proxies` is empty, so every connection would be closed: list the \
                     proxies",
                ));
            }
            _ => {}
        }
        Ok(ListenerConfig { address, mode, tls, max_header_bytes, trusted_proxies })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<ListenerConfig, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn a_string_and_a_table_mean_the_same() {
        let plain = read(r#""unix:/run/authz.sock""#).unwrap();
        assert_eq!(plain, read(r#"{"address": "unix:/run/authz.sock"}"#).unwrap());
        assert_eq!(plain.mode, SocketMode(0o660));
    }

    #[test]
    fn a_table_has_more_settings() {
        let full =
            read(r#"{"address": "unix:/x", "mode": "0600", "tls": {"cert": "c.pem", "key": "k.pem", "client_ca": "ca.pem"}}"#)
                .unwrap();
        assert_eq!(full.mode, SocketMode(0o600));
        assert_eq!(full.tls.unwrap().client_ca, Some("ca.pem".into()));
    }

    #[test]
    fn mistakes_are_named() {
        let rows = [
            (r#""9000""#, "`9000` is not an address"),
            (r#"9000"#, "expected an address, or a table"),
            (r#"{"addres": "unix:/x"}"#, "unknown field `addres`"),
            (r#"{"mode": "0600"}"#, "missing field `address`"),
            (r#"{"address": "127.0.0.1:0", "mode": "0600"}"#, "`mode` belongs to a Unix socket"),
            (r#"{"address": "unix:/x", "mode": "rw"}"#, "`rw` is not a permission"),
            (
                r#"{"address": "unix:/x", "max_header_bytes": "1KiB"}"#,
                "`max_header_bytes` is from 16KiB to 1MiB",
            ),
            (
                r#"{"address": "unix:/x", "max_header_bytes": "2MiB"}"#,
                "`max_header_bytes` is from 16KiB to 1MiB",
            ),
            (
                r#"{"address": "unix:/x", "trusted_proxies": ["10.0.0.1"]}"#,
                "admitted by its permissions",
            ),
            (r#"{"address": "0.0.0.0:1", "trusted_proxies": []}"#, "`trusted_proxies` is empty"),
            (
                r#"{"address": "0.0.0.0:1", "trusted_proxies": ["10.0.0.1/8"]}"#,
                "bits beyond its prefix",
            ),
            (r#"{"address": "unix:/x", "mode": "0888"}"#, "`0888` is not a permission"),
            (r#"{"address": "unix:/x", "mode": "0+66"}"#, "`0+66` is not a permission"),
            (r#"{"address": "unix:/x", "mode": "4755"}"#, "`4755` is not a permission"),
            (r#"{"address": "unix:/x", "tls": {"cert": "c.pem"}}"#, "missing field `key`"),
            (
                r#"{"address": "unix:/x", "tls": {"cert": "c", "key": "k", "ca": "a"}}"#,
                "unknown field `ca`",
            ),
        ];
        for (json, expected) in rows {
            let error = read(json).unwrap_err();
            assert!(error.contains(expected), "`{json}` gave `{error}`");
        }
    }

    #[test]
    fn the_schema_contains_both_forms() {
        let schema = serde_json::to_string(&schemars::schema_for!(ListenerConfig)).unwrap();
        for part in ["anyOf", "\"type\":\"string\"", "client_ca", "additionalProperties\":false"] {
            assert!(schema.contains(part), "`{part}` is missing in {schema}");
        }
    }
}
