//! The URL of a Redis. It may contain a password, so its text is never shown.

use std::{fmt, path::PathBuf, str::FromStr};

use ::redis::{ConnectionAddr, IntoConnectionInfo as _, parse_redis_url};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use thiserror::Error;
use tollgate_core::{config::from_text, secret::Secret};

/// The parts of a Redis URL.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    address: Address,
    db: i64,
    username: Option<String>,
    password: Option<Secret>,
}

/// The address of a Redis server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) enum Address {
    /// A host, by name or address, and a port.
    Tcp { host: String, port: u16, tls: bool },
    /// A socket of this machine.
    Unix(PathBuf),
}

impl RedisUrl {
    /// Returns the address of the server.
    pub(in crate::store) fn address(&self) -> &Address {
        &self.address
    }

    /// Returns the number of the database.
    pub(in crate::store) fn db(&self) -> i64 {
        self.db
    }

    /// Returns the user in the URL.
    pub(in crate::store) fn username(&self) -> Option<&str> {
        self.username.as_deref()
    }

    /// Returns the password in the URL.
    pub(in crate::store) fn password(&self) -> Option<&Secret> {
        self.password.as_ref()
    }

    /// Whether the connection uses TLS.
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
    /// Without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisUrl")
            .field("address", &self.address)
            .field("db", &self.db)
            .finish_non_exhaustive()
    }
}

/// A text that is not a [`RedisUrl`]. No variant contains the text, which may contain a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RedisUrlError {
    /// The text has another form.
    #[error("this is not the URL of a Redis; {FORM}")]
    Form,
    /// The user or the password contains a character that ends the part of the URL.
    #[error(
        "the user or password in the URL contains a special character; write `%2F` for `/`, `%3F` for `?`, `%23` for `#` and \
         `%40` for `@`, or move it from the URL into the key `password`"
    )]
    SpecialCharacter,
    /// The URL has a fragment: libraries use one to turn the verification of certificates off.
    #[error("the URL must not have a `#` part, and certificates are always verified; {FORM}")]
    Fragment,
    /// The query contains an unknown parameter, or one twice.
    #[error("the query of the URL contains an unknown or a repeated parameter; {FORM}")]
    Query,
    /// The database is not a number from 0 to 1000000.
    #[error("the database of the URL is not a number from 0 to 1000000; {FORM}")]
    Database,
    /// The URL has a user and no password.
    #[error("a user without a password cannot log in; {FORM}")]
    UserWithoutPassword,
}

const FORM: &str = "write `redis://host:port/db`, `rediss://host:port/db` or `unix:///path?db=0`";

/// Whether an `@` follows the end of the authority, which means that a user or a password contains
/// the character that ends it.
fn ends_inside_of_password(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    !scheme.ends_with("unix") && rest.split_at(end).1.contains('@')
}

impl FromStr for RedisUrl {
    type Err = RedisUrlError;

    fn from_str(text: &str) -> Result<Self, RedisUrlError> {
        if ends_inside_of_password(text) {
            return Err(RedisUrlError::SpecialCharacter);
        }
        let url = parse_redis_url(text).ok_or(RedisUrlError::Form)?;
        if url.fragment().is_some() {
            return Err(RedisUrlError::Fragment);
        }
        let unix = url.scheme().ends_with("unix");
        let mut known = if unix { vec!["db", "user", "pass"] } else { Vec::new() };
        for (key, _) in url.query_pairs() {
            let at = known.iter().position(|known| *known == key).ok_or(RedisUrlError::Query)?;
            known.swap_remove(at);
        }
        // The library's message may contain a part of the URL.
        let info = url.into_connection_info().map_err(|_| RedisUrlError::Form)?;
        let address = match info.addr().clone() {
            ConnectionAddr::Tcp(host, port) => Address::Tcp { host, port, tls: false },
            ConnectionAddr::TcpTls { host, port, .. } => Address::Tcp { host, port, tls: true },
            ConnectionAddr::Unix(path) => Address::Unix(path),
            _ => return Err(RedisUrlError::Form),
        };
        let settings = info.redis_settings();
        let db = settings.db();
        if !(0..=1_000_000).contains(&db) {
            return Err(RedisUrlError::Database);
        }
        let username = settings.username().map(str::to_owned);
        let password = settings.password().map(Secret::new);
        if username.is_some() && password.is_none() {
            return Err(RedisUrlError::UserWithoutPassword);
        }
        Ok(Self { address, db, username, password })
    }
}

impl<'de> Deserialize<'de> for RedisUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "the URL of a Redis such as `redis://host:port/db`")
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
    fn an_error_does_not_show_the_url() {
        use RedisUrlError::{
            Database, Form, Fragment, Query, SpecialCharacter, UserWithoutPassword,
        };
        for (text, expected) in [
            ("hunter2", Form),
            ("http://:hunter2@redis", Form),
            ("redis://:hunter2@", Form),
            ("redis://:hunter2@redis/x", Form),
            ("redis://:hunter2@redis/-1", Database),
            ("redis://:hunter2@redis?timeout=hunter2", Query),
            ("redis://:hunter2@redis?protocol=resp3", Query),
            ("rediss://:hunter2@redis/#insecure", Fragment),
            ("redis://:hunter2@redis#x", Fragment),
            ("redis://hunter2@redis", UserWithoutPassword),
            ("unix://run/redis.sock?pass=hunter2", Form),
            ("unix:///run/redis.sock?pass=hunter2&pass=hunter2", Query),
            ("redis://:hunter2/x@redis", SpecialCharacter),
            ("redis://:hunter2#x@redis:6379/1", SpecialCharacter),
            ("redis://user:hunter2?@redis", SpecialCharacter),
        ] {
            let error = text.parse::<RedisUrl>().unwrap_err();
            assert_eq!(error, expected, "{text}");
            assert!(!error.to_string().contains("hunter2"), "{text}: {error}");
        }
        let other = "redis://:p@ss@redis".parse::<RedisUrl>().unwrap();
        assert_eq!(other.password().map(Secret::expose), Some(&b"p@ss"[..]));
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
