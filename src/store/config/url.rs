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
    servers: Servers,
    db: i64,
    username: Option<String>,
    password: Option<Secret>,
}

/// The servers that a URL names, and how the one in use is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) enum Servers {
    /// There is one server.
    One(Address),
    /// Sentinels, which know the address of the primary of this name.
    Sentinel { sentinels: Vec<Address>, primary: String },
    /// Some nodes of a Redis Cluster, which know all of them.
    Cluster { seeds: Vec<Address> },
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
    /// Returns the servers.
    pub(in crate::store) fn servers(&self) -> &Servers {
        &self.servers
    }

    /// Whether the URL names a Redis Cluster.
    pub(in crate::store) fn is_cluster(&self) -> bool {
        matches!(self.servers, Servers::Cluster { .. })
    }

    /// Whether the URL names Sentinels.
    pub(in crate::store) fn is_sentinel(&self) -> bool {
        matches!(self.servers, Servers::Sentinel { .. })
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
        let address = match &self.servers {
            Servers::One(address) => Some(address),
            Servers::Sentinel { sentinels: addresses, .. }
            | Servers::Cluster { seeds: addresses } => addresses.first(),
        };
        matches!(address, Some(Address::Tcp { tls: true, .. }))
    }
}

impl fmt::Display for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listed = |addresses: &[Address]| {
            addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        };
        match self {
            Self::One(address) => address.fmt(f),
            Self::Sentinel { sentinels, primary } => {
                write!(f, "the primary `{primary}` of the sentinels {}", listed(sentinels))
            }
            Self::Cluster { seeds } => write!(f, "the cluster of {}", listed(seeds)),
        }
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
            .field("servers", &self.servers)
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
    /// The URL of Sentinels does not name a primary.
    #[error(
        "the URL of Sentinels ends with the name of the primary, such as \
         `redis+sentinel://host:26379,host:26379/mymaster`: 1 to 64 letters, digits, `.`, `-` or `_`"
    )]
    PrimaryName,
    /// The URL of a cluster names a database.
    #[error("a Redis Cluster has the database 0 only; remove the path of the URL")]
    ClusterDatabase,
    /// The URL of several servers has a query.
    #[error("the URL of Sentinels or of a cluster has no query; {FORM}")]
    ServersQuery,
    /// Several servers are listed in the URL of one.
    #[error(
        "several servers are those of Sentinels or of a cluster; write `redis+sentinel://` or \
         `redis+cluster://`"
    )]
    SeveralServers,
    /// The URL of several servers has a second `@`.
    #[error(
        "all servers have one login, which is written once, before the first of them; write `%40` for an \
         `@` in it, or move it from the URL into the key `password`"
    )]
    SeveralLogins,
    /// The URL has a user and no password.
    #[error("a user without a password cannot log in; {FORM}")]
    UserWithoutPassword,
}

const FORM: &str = "write `redis://host:port/db`, `rediss://host:port/db`, `unix:///path?db=0`, \
    `redis+sentinel://host:port,host:port/primary/db` or `redis+cluster://host:port,host:port`, where \
    `rediss+` is TLS";

/// The port of a Sentinel.
const SENTINEL_PORT: u16 = 26379;

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
        if let Some((scheme, rest)) = text.split_once("://") {
            match scheme {
                "redis+sentinel" | "valkey+sentinel" => return sentinels("redis", rest),
                "rediss+sentinel" | "valkeys+sentinel" => return sentinels("rediss", rest),
                "redis+cluster" | "valkey+cluster" => return cluster("redis", rest),
                "rediss+cluster" | "valkeys+cluster" => return cluster("rediss", rest),
                "redis" | "rediss" | "valkey" | "valkeys" if parts(rest).1.contains(',') => {
                    return Err(RedisUrlError::SeveralServers);
                }
                _ => {}
            }
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
        Ok(Self { servers: Servers::One(address), db, username, password })
    }
}

/// The login with its `@`, the hosts and the path of what follows a scheme.
fn parts(rest: &str) -> (&str, &str, &str) {
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (login, hosts) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
    (login, hosts, path)
}

/// Reads several hosts, and the login that is used on all servers.
fn several(
    scheme: &str,
    login: &str,
    hosts: &str,
    db: &str,
    port: Option<u16>,
) -> Result<(RedisUrl, Vec<Address>), RedisUrlError> {
    // Another `@` is one of the password, or the hosts have logins of their own.
    if login.strip_suffix('@').is_some_and(|login| login.contains('@')) {
        return Err(RedisUrlError::SeveralLogins);
    }
    let mut read = None;
    let mut addresses = Vec::new();
    for host in hosts.split(',') {
        let has_port = host.rsplit_once(':').is_some_and(|(_, after)| !after.contains(']'));
        let port = port.filter(|_| !has_port).map(|port| format!(":{port}")).unwrap_or_default();
        let url: RedisUrl = format!("{scheme}://{login}{host}{port}/{db}").parse()?;
        let Servers::One(address @ Address::Tcp { .. }) = url.servers.clone() else {
            return Err(RedisUrlError::Form);
        };
        addresses.push(address);
        read = Some(url);
    }
    Ok((read.ok_or(RedisUrlError::Form)?, addresses))
}

/// Reads the URL of Sentinels after its scheme.
fn sentinels(scheme: &str, rest: &str) -> Result<RedisUrl, RedisUrlError> {
    let (login, hosts, path) = parts(rest);
    if path.contains(['?', '#']) {
        return Err(RedisUrlError::ServersQuery);
    }
    let path = path.strip_prefix('/').ok_or(RedisUrlError::PrimaryName)?;
    let (primary, db) = path.split_once('/').unwrap_or((path, ""));
    let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if primary.is_empty() || primary.len() > 64 || !primary.bytes().all(is_name) {
        return Err(RedisUrlError::PrimaryName);
    }
    let (url, sentinels) = several(scheme, login, hosts, db, Some(SENTINEL_PORT))?;
    Ok(RedisUrl { servers: Servers::Sentinel { sentinels, primary: primary.to_owned() }, ..url })
}

/// Reads the URL of a cluster after its scheme.
fn cluster(scheme: &str, rest: &str) -> Result<RedisUrl, RedisUrlError> {
    let (login, hosts, path) = parts(rest);
    if path.contains(['?', '#']) {
        return Err(RedisUrlError::ServersQuery);
    }
    if !matches!(path, "" | "/" | "/0") {
        return Err(RedisUrlError::ClusterDatabase);
    }
    let (url, seeds) = several(scheme, login, hosts, "", None)?;
    Ok(RedisUrl { servers: Servers::Cluster { seeds }, ..url })
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
        json_schema!({ "type": "string", "pattern": "^((redis|rediss|valkey|valkeys)(\\+(sentinel|cluster))?|unix|redis\\+unix|valkey\\+unix):", "description": "`redis://host:port/db`, `unix:///path?db=0`, `redis+sentinel://host:port,host:port/primary/db` or `redis+cluster://host:port,host:port`; `rediss` for TLS." })
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
            (
                "redis+sentinel://a,b:7,[::1]/mymaster",
                "the primary `mymaster` of the sentinels a:26379, b:7, [::1]:26379",
                false,
                0,
                None,
                None,
            ),
            (
                "rediss+sentinel://u:p%2C%40@a:1/x.y_z-1/3",
                "the primary `x.y_z-1` of the sentinels a:1",
                true,
                3,
                Some("u"),
                Some("p,@"),
            ),
            ("redis+cluster://a", "the cluster of a:6379", false, 0, None, None),
            (
                "valkeys+cluster://:p@a:7000,10.0.0.1,[::1]:7001/0",
                "the cluster of a:7000, 10.0.0.1:6379, [::1]:7001",
                true,
                0,
                None,
                Some("p"),
            ),
        ] {
            let url: RedisUrl = text.parse().unwrap();
            assert_eq!(
                (url.servers().to_string().as_str(), url.tls(), url.db(), url.username()),
                (shown, tls, db, user),
                "{text}"
            );
            assert_eq!(url.password().map(Secret::expose), password.map(str::as_bytes), "{text}");
        }
    }

    #[test]
    fn an_error_does_not_show_the_url() {
        use RedisUrlError::{
            ClusterDatabase, Database, Form, Fragment, PrimaryName, Query, ServersQuery,
            SeveralLogins, SeveralServers, SpecialCharacter, UserWithoutPassword,
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
            ("redis+cluster://:hunter2@a,:hunter2@b", SeveralLogins),
            ("redis+sentinel://u:hunter2@x@a,b/m", SeveralLogins),
            ("unix://run/redis.sock?pass=hunter2", Form),
            ("unix:///run/redis.sock?pass=hunter2&pass=hunter2", Query),
            ("redis://:hunter2/x@redis", SpecialCharacter),
            ("redis://:hunter2#x@redis:6379/1", SpecialCharacter),
            ("redis://user:hunter2?@redis", SpecialCharacter),
            ("redis+sentinel://:hunter2@a:1,b:2", PrimaryName),
            ("redis+sentinel://:hunter2@a:1/", PrimaryName),
            ("redis+sentinel://:hunter2@a:1/my master", PrimaryName),
            ("redis+sentinel://:hunter2@a:1/m/x", Form),
            ("redis+sentinel://:hunter2@a:1,/m", Form),
            ("redis+sentinel://hunter2@a:1/m", UserWithoutPassword),
            ("redis+sentinel://:hunter2@a:1/m?db=2", ServersQuery),
            ("redis+cluster://:hunter2@a/2", ClusterDatabase),
            ("redis+cluster://:hunter2@a,b?protocol=resp3", ServersQuery),
            ("redis+cluster://:hunter2@", Form),
            ("redis://:hunter2@a:1,b:2", SeveralServers),
            ("redis-sentinel://:hunter2@a:1/m", Form),
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
            r#"RedisUrl { servers: One(Tcp { host: "redis", port: 6379, tls: false }), db: 1, .. }"#
        );
    }
}
