//! The section `listen.settle`.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};
use tollgate_core::{
    config::{Errors, Path, from_text},
    credential::api_key::KeyDigest,
    text::is_identifier,
};

use crate::listener::{Address, ListenerConfig, SocketMode, TlsConfig};

/// The shortest token of a reporter, in bytes. Attempts are not limited, so a token must not be a
/// word.
const MIN_TOKEN: usize = 32;

/// The most reporters.
const MAX_REPORTERS: usize = 256;

/// The most routes of a reporter.
const MAX_ROUTES: usize = 1024;

/// The listener for reports of usage over HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SettleListenConfig {
    /// The address: `host:port` or `unix:/path`.
    #[schemars(with = "String")]
    #[serde(deserialize_with = "address")]
    pub address: Address,
    /// Permissions of a Unix socket. Default `0660`.
    #[schemars(with = "Option<String>")]
    #[serde(default, deserialize_with = "mode")]
    pub mode: SocketMode,
    /// TLS, which protects the tokens of reporters on the network.
    pub tls: Option<TlsConfig>,
    /// Those that may report, each with a token of its own and the routes whose requests it settles.
    /// A change applies with the reload. Default: none, and every peer may report for every route:
    /// the listener is a Unix socket then, or has TLS with `client_ca`.
    #[serde(default)]
    pub reporters: Vec<ReporterConfig>,
}

/// A server or a gateway that reports the usage of its requests: an entry of
/// `listen.settle.reporters`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReporterConfig {
    /// The name, for the log.
    pub name: String,
    /// SHA-256 of the token, as `sha256:<hex>`. The token has 32 bytes at least; make one with
    /// `openssl rand -hex 32`.
    #[schemars(with = "String")]
    pub digest: KeyDigest,
    /// The names of the routes whose requests it settles.
    #[serde(default)]
    pub routes: Vec<String>,
    /// Whether it settles the requests of every route, in place of `routes`. Default false.
    #[serde(default)]
    pub every_route: bool,
}

fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Address, D::Error> {
    from_text(
        deserializer,
        "an address such as `127.0.0.1:9004` or `unix:/run/tollgate/settle.sock`",
    )
}

fn mode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketMode, D::Error> {
    from_text(deserializer, "four octal digits in quotes, such as \"0660\"")
}

impl SettleListenConfig {
    /// Returns the listener without its reporters.
    #[must_use]
    pub fn listener(&self) -> ListenerConfig {
        ListenerConfig {
            address: self.address.clone(),
            mode: self.mode,
            tls: self.tls.clone(),
            max_header_bytes: None,
            trusted_proxies: None,
        }
    }

    /// Adds the errors of the section. `routes` has the names of all routes; `None` where they are
    /// not known.
    pub fn validate(&self, routes: Option<&[String]>, path: &Path, errors: &mut Errors) {
        if self.reporters.is_empty() && !self.listener().authenticates_peers() {
            errors.push(
                path,
                "any peer could report the usage of requests: list `reporters`, use a Unix socket, or `tls` with `client_ca`",
            );
        }
        let list = path.key("reporters");
        if self.reporters.len() > MAX_REPORTERS {
            errors.push(&list, format!("there are at most {MAX_REPORTERS} reporters"));
        }
        for (index, reporter) in self.reporters.iter().enumerate() {
            let path = list.index(index);
            let earlier = self.reporters.get(..index).unwrap_or_default();
            if earlier.iter().any(|other| other.name == reporter.name) {
                errors.push(&path.key("name"), format!("`{}` is listed twice", reporter.name));
            }
            if earlier.iter().any(|other| other.digest == reporter.digest) {
                errors.push(&path.key("digest"), "another reporter has the same token");
            }
            reporter.validate(routes, &path, errors);
        }
    }
}

impl ReporterConfig {
    fn validate(&self, routes: Option<&[String]>, path: &Path, errors: &mut Errors) {
        if !is_identifier(&self.name) {
            errors.push(
                &path.key("name"),
                "a name is 1 to 256 characters without control characters",
            );
        }
        if self.digest == KeyDigest::of(b"") {
            errors.push(&path.key("digest"), "it is the digest of an empty token");
        }
        let list = path.key("routes");
        if self.routes.is_empty() != self.every_route {
            errors.push(
                &list,
                "list the routes of the reporter, or set `every_route: true` in their place",
            );
        }
        if self.routes.len() > MAX_ROUTES {
            errors.push(&list, format!("there are at most {MAX_ROUTES} of them"));
        }
        let Some(known) = routes else { return };
        for (index, route) in self.routes.iter().enumerate() {
            if !known.contains(route) {
                let message = format!("no route has the name `{route}`; set `name` of the route");
                errors.push(&list.index(index), message);
            }
        }
    }

    /// Whether the reporter settles requests of a route. A reservation without a route was made
    /// before there were reporters.
    pub(super) fn settles(&self, route: Option<&str>) -> bool {
        self.every_route || route.is_some_and(|route| self.routes.iter().any(|own| own == route))
    }
}

/// Returns the reporter of a token. All are compared, so that the time does not tell which one it
/// is.
pub(super) fn reporter_of<'r>(
    token: &[u8],
    reporters: &'r [ReporterConfig],
) -> Option<&'r ReporterConfig> {
    let digest = KeyDigest::of(token);
    let mut found = None;
    for reporter in reporters {
        if reporter.digest == digest {
            found = Some(reporter);
        }
    }
    found.filter(|_| token.len() >= MIN_TOKEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "a-token-of-a-reporter-0123456789";

    fn read(json: &str) -> SettleListenConfig {
        serde_json::from_str(&json.replace("DIGEST", &KeyDigest::of(TOKEN.as_bytes()).to_string()))
            .unwrap()
    }

    fn errors(json: &str) -> Vec<String> {
        let mut errors = Errors::default();
        read(json).validate(Some(&["chat".to_owned()]), &Path::root(), &mut errors);
        let document = tollgate_core::config::Document::parse("a: 1", &|_| None).unwrap();
        document.locate(errors).iter().map(|error| error.message()).collect()
    }

    #[test]
    fn a_listener_knows_who_reports() {
        let reporter = r#"{"name": "a", "digest": "DIGEST", "routes": ["chat"]}"#;
        let with = |address: &str, reporters: &str| {
            format!(r#"{{"address": "{address}", "reporters": [{reporters}]}}"#)
        };
        for (json, expected) in [
            (with("unix:/run/settle.sock", ""), ""),
            (with("127.0.0.1:9004", reporter), ""),
            (with("127.0.0.1:9004", ""), "any peer could report"),
            (
                r#"{"address": "10.0.0.1:9004", "tls": {"cert": "c", "key": "k", "client_ca": "a"}}"#
                    .to_owned(),
                "",
            ),
            (
                r#"{"address": "10.0.0.1:9004", "tls": {"cert": "c", "key": "k"}}"#.to_owned(),
                "any peer could report",
            ),
            (with("127.0.0.1:1", &reporter.replace("chat", "chta")), "no route has the name"),
            (with("127.0.0.1:1", &reporter.replace("\"chat\"", "")), "list the routes"),
            (
                with("127.0.0.1:1", &reporter.replace("]}", "], \"every_route\": true}")),
                "list the routes",
            ),
            (with("127.0.0.1:1", &format!("{reporter}, {reporter}")), "listed twice"),
        ] {
            let found = errors(&json).join("; ");
            assert_eq!(found.is_empty(), expected.is_empty(), "{json}: {found}");
            assert!(found.contains(expected), "{json}: {found}");
        }
    }

    #[test]
    fn a_reporter_is_bound_to_its_routes() {
        let config = read(
            r#"{"address": "127.0.0.1:1", "reporters": [{"name": "a", "digest": "DIGEST", "routes": ["chat"]}]}"#,
        );
        let reporter = reporter_of(TOKEN.as_bytes(), &config.reporters).unwrap();
        for (route, expected) in
            [(Some("chat"), true), (Some("chats"), false), (Some(""), false), (None, false)]
        {
            assert_eq!(reporter.settles(route), expected, "{route:?}");
        }
        let every = ReporterConfig { every_route: true, ..reporter.clone() };
        assert!(every.settles(None) && every.settles(Some("other")));
        for token in ["", "a-token-of-a-reporter-012345678", "b-token-of-a-reporter-0123456789"] {
            assert!(reporter_of(token.as_bytes(), &config.reporters).is_none(), "{token}");
        }
        let short = ReporterConfig { digest: KeyDigest::of(b"short"), ..reporter.clone() };
        assert!(reporter_of(b"short", &[short]).is_none(), "a word is no token");
    }
}
