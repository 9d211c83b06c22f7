//! The URL of Redis. It may contain a password, so its text is parsed once and never shown.

use std::{fmt, path::PathBuf, str::FromStr};

use ::redis::{ConnectionAddr, IntoConnectionInfo as _, parse_redis_url};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use thiserror::Error;
use tollgate_core::secret::Secret;

/// A parsed Redis URL.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    address: Address,
    db: i64,
    username: Option<String>,
    password: Option<Secret>,
}

/// The address of a Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) enum Address {
    /// A host, by name or IP address, and a port.
    Tcp { host: String, port: u16, tls: bool },
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl RedisUrl {
    /// The address.
    pub(in crate::store) fn address(&self) -> &Address {
        &self.address
    }

    /// The number of the database.
    pub(in crate::store) fn db(&self) -> i64 {
        self.db
    }

    /// The user name in the URL.
    pub(in crate::store) fn username(&self) -> Option<&str> {
        self.username.as_deref()
    }

    /// The password in the URL.
    pub(in crate::store) fn password(&self) -> Option<&Secret> {
        self.password.as_ref()
    }

    /// Whether the URL requires TLS.
    pub(in crate::store) fn tls(&self) -> bool {
        matches!(self.address, Address::Tcp { tls: true, .. })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port, .. } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port, .. } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

impl fmt::Debug for RedisUrl {
    /// Shows neither user nor password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisUrl")
            .field("address", &self.address)
            .field("db", &self.db)
            .finish_non_exhaustive()
    }
}

/// The reason why a text is not the URL of a Redis. It does not contain the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{0}; write `redis://host:port/db`, `rediss://host:port/db` or `unix:///path?db=0`")]
pub struct InvalidUrl(&'static str);

impl FromStr for RedisUrl {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        const OTHER: InvalidUrl = InvalidUrl("this is not the URL of a Redis");
        let url = parse_redis_url(text).ok_or(OTHER)?;
        if url.fragment().is_some() {
            return Err(InvalidUrl("the URL has a part after `#`, and TLS is always verified"));
        }
        let unix = url.scheme().ends_with("unix");
        let mut known = if unix { vec!["db", "user", "pass"] } else { Vec::new() };
        for (key, _) in url.query_pairs() {
            let Some(at) = known.iter().position(|known| *known == key) else {
                return Err(InvalidUrl("the query of the URL has an unknown or repeated key"));
            };
            known.swap_remove(at);
        }
        // The library's message could contain a part of the URL.
        let info = url.into_connection_info().map_err(|_| OTHER)?;
        let address = match info.addr().clone() {
            ConnectionAddr::Tcp(host, port) => Address::Tcp { host, port, tls: false },
            ConnectionAddr::TcpTls { host, port, .. } => Address::Tcp { host, port, tls: true },
            ConnectionAddr::Unix(path) => Address::Unix(path),
            _ => return Err(OTHER),
        };
        let settings = info.redis_settings();
        let db = settings.db();
        if !(0..=1_000_000).contains(&db) {
            return Err(InvalidUrl("the number of the database must be 0 to 1000000"));
        }
        let username = settings.username().map(str::to_owned);
        let password = settings.password().map(Secret::new);
        if username.is_some() && password.is_none() {
            return Err(InvalidUrl("a user without a password cannot log in"));
        }
        Ok(Self { address, db, username, password })
    }
}

impl<'de> Deserialize<'de> for RedisUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for RedisUrl {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "RedisUrl".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^(redis|rediss|valkey|valkeys|unix|redis\\+unix|valkey\\+unix):", "description": "`redis://host:port/db`, `rediss://host:port/db` (TLS) or `unix:///path?db=0`." })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read() {
        for (text, shown, tls, db, user, password) in [
            ("redis://redis", "redis:6379", false, 0, None, None),
            ("redis://redis:7000/3", "redis:7000", false, 3, None, None),
            ("rediss://[::1]:7000", "[::1]:7000", true, 0, None, None),
            ("redis://user:p%40ss@redis", "redis:6379", false, 0, Some("user"), Some("p@ss")),
            ("redis://:pass@redis", "redis:6379", false, 0, None, Some("pass")),
            ("unix:///run/redis.sock", "/run/redis.sock", false, 0, None, None),
            (
                "redis+unix:///run/redis.sock?db=2&user=u&pass=p",
                "/run/redis.sock",
                false,
                2,
                Some("u"),
                Some("p"),
            ),
            ("unix:/run/redis.sock", "/run/redis.sock", false, 0, None, None),
        ] {
            let url: RedisUrl = text.parse().unwrap();
            assert_eq!(
                (url.address().to_string().as_str(), url.tls(), url.db(), url.username()),
                (shown, tls, db, user),
                "{text}"
            );
            assert_eq!(url.password().map(Secret::expose), password.map(str::as_bytes), "{text}");
        }
    }

    #[test]
    fn an_invalid_url_is_refused_without_showing_it() {
        for text in [
            "hunter2",
            "http://:hunter2@redis",
            "redis://:hunter2@",
            "redis://:hunter2@redis/x",
            "redis://:hunter2@redis/-1",
            "redis://:hunter2@redis?timeout=hunter2",
            "redis://:hunter2@redis?protocol=resp3",
            "rediss://:hunter2@redis/#insecure",
            "redis://:hunter2@redis#x",
            "redis://hunter2@redis",
            "unix://run/redis.sock?pass=hunter2",
            "unix:///run/redis.sock?pass=hunter2&pass=hunter2",
        ] {
            let error = text.parse::<RedisUrl>().unwrap_err();
            assert!(
                error.to_string().contains("redis://host:port")
                    && !error.to_string().contains("hunter2"),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn a_url_shows_neither_user_nor_password() {
        let url: RedisUrl = "redis://user:hunter2@redis/1".parse().unwrap();
        assert_eq!(
            format!("{url:?}"),
            r#"RedisUrl { address: Tcp { host: "redis", port: 6379, tls: false }, db: 1, .. }"#
        );
    }
}
