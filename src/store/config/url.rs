//! Where Redis is. A URL may hold a password, so its text is read once and never shown.

use std::{fmt, path::PathBuf, str::FromStr};

use ::redis::{ConnectionAddr, IntoConnectionInfo as _, parse_redis_url};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use tollgate_core::secret::Secret;

/// A Redis URL, taken apart.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    place: Place,
    db: i64,
    username: Option<String>,
    password: Option<Secret>,
}

/// What to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) enum Place {
    /// A host, by name or address, and a port.
    Tcp { host: String, port: u16, tls: bool },
    /// A socket of this machine.
    Unix(PathBuf),
}

impl RedisUrl {
    /// What to connect to.
    pub(in crate::store) fn place(&self) -> &Place {
        &self.place
    }

    /// The number of the database.
    pub(in crate::store) fn db(&self) -> i64 {
        self.db
    }

    /// The user it names.
    pub(in crate::store) fn username(&self) -> Option<&str> {
        self.username.as_deref()
    }

    /// The password it holds.
    pub(in crate::store) fn password(&self) -> Option<&Secret> {
        self.password.as_ref()
    }

    /// Whether it asks for TLS.
    pub(in crate::store) fn tls(&self) -> bool {
        matches!(self.place, Place::Tcp { tls: true, .. })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port, .. } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port, .. } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

impl fmt::Debug for RedisUrl {
    /// Without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisUrl")
            .field("place", &self.place)
            .field("db", &self.db)
            .finish_non_exhaustive()
    }
}

impl FromStr for RedisUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const HELP: &str =
            "write `redis://host:port/db`, `rediss://host:port/db` or `unix:///path?db=0`";
        let not = |why: &str| format!("{why}; {HELP}");
        let url = parse_redis_url(text).ok_or_else(|| not("this is not the URL of a Redis"))?;
        if url.fragment().is_some() {
            return Err(not("nothing is known that follows a `#`, and TLS is never unverified"));
        }
        let unix = url.scheme().ends_with("unix");
        let mut known = if unix { vec!["db", "user", "pass"] } else { Vec::new() };
        for (key, _) in url.query_pairs() {
            let Some(at) = known.iter().position(|known| *known == key) else {
                return Err(not(
                    "the query of the URL holds something that is not known, or twice",
                ));
            };
            known.swap_remove(at);
        }
        // The library's message could hold a part of the URL.
        let info = url.into_connection_info().map_err(|_| not("this is not the URL of a Redis"))?;
        let place = match info.addr().clone() {
            ConnectionAddr::Tcp(host, port) => Place::Tcp { host, port, tls: false },
            ConnectionAddr::TcpTls { host, port, .. } => Place::Tcp { host, port, tls: true },
            ConnectionAddr::Unix(path) => Place::Unix(path),
            _ => return Err(not("this is not the URL of a Redis")),
        };
        let settings = info.redis_settings();
        let db = settings.db();
        if !(0..=1_000_000).contains(&db) {
            return Err(not("the number of the database is not 0 or more"));
        }
        let username = settings.username().map(str::to_owned);
        let password = settings.password().map(Secret::new);
        if username.is_some() && password.is_none() {
            return Err(not("a user without a password cannot log in"));
        }
        Ok(Self { place, db, username, password })
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
                (url.place().to_string().as_str(), url.tls(), url.db(), url.username()),
                (shown, tls, db, user),
                "{text}"
            );
            assert_eq!(url.password().map(Secret::expose), password.map(str::as_bytes), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_refused_without_showing_it() {
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
                error.contains("redis://host:port") && !error.contains("hunter2"),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn a_url_shows_neither_user_nor_password() {
        let url: RedisUrl = "redis://user:hunter2@redis/1".parse().unwrap();
        assert_eq!(
            format!("{url:?}"),
            r#"RedisUrl { place: Tcp { host: "redis", port: 6379, tls: false }, db: 1, .. }"#
        );
    }
}
