//! Keys that other gateways have. An error about one of them names what takes its place.

use tollgate_core::config::{ConfigError, ConfigErrorKind};

/// Keys at the top of a file or of a route in other gateways, and what takes their place.
pub const FOREIGN_KEYS: [(&[&str], &str); 13] = [
    (&["jwt", "jwt_authn", "providers", "oidc"], "`issuers` lists who may issue tokens"),
    (
        &["oauth2", "login", "session", "basic_auth"],
        "there is no login; users get their tokens from the identity provider",
    ),
    (
        &["rate_limit", "rate_limits", "ratelimit", "quota", "quotas"],
        "`limits` defines rates, and each route names those that count it",
    ),
    (
        &["acl", "authorization", "policies", "rules"],
        "`routes` lists what is open, and the scopes for it",
    ),
    (
        &["backend", "backends", "cluster", "clusters", "upstream", "upstreams"],
        "the proxy forwards requests, Tollgate only decides",
    ),
    (&["retries", "timeout", "timeouts"], "the proxy has the timeouts and retries of requests"),
    (&["cors"], "the CORS filter of the proxy answers `OPTIONS` before Tollgate is called"),
    (&["bind", "host", "port", "server"], "`listen` has the addresses"),
    (&["certificates", "tls"], "each listener of `listen` has its own `tls`"),
    (&["redis"], "the Redis is `store.redis`"),
    (&["metrics", "prometheus"], "`listen.ops` serves `/metrics`"),
    (&["logging", "tracing"], "the log is `log`, spans are `observe.tracing`, audit lines `audit`"),
    (&["filters", "middlewares", "plugins"], "there are no plugins"),
];

/// The page that lists these keys.
const PAGE: &str = "docs/configuration.md, \"Keys of other gateways\"";

/// Replaces the remedy of an unknown key that another gateway has.
pub(super) fn explain(error: &mut ConfigError) {
    let ConfigErrorKind::UnknownKey(key) = &error.kind else { return };
    let parent = error.path.strip_suffix(key.as_str()).unwrap_or_default();
    let is_top = parent.is_empty() || (parent.starts_with("routes[") && parent.ends_with("]."));
    if !is_top {
        return;
    }
    let meaning = FOREIGN_KEYS.iter().find(|(keys, _)| keys.contains(&key.as_str()));
    if let Some((_, meaning)) = meaning {
        error.remedy = Some(format!("{meaning}: see {PAGE}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::compile;

    fn message(text: &str) -> String {
        compile(text, &|_| None).unwrap_err().iter().map(ConfigError::message).collect()
    }

    #[test]
    fn a_foreign_key_is_explained_at_the_top_and_in_a_route() {
        const ROUTES: &str = "routes: [{ match: { paths: [/a] }, public: true }]\n";
        let expected = "unknown key `cors`; the CORS filter of the proxy answers `OPTIONS` before Tollgate is called: \
                        see docs/configuration.md, \"Keys of other gateways\"";
        assert_eq!(message(&format!("{ROUTES}cors: {{}}")), expected);
        assert_eq!(
            message("routes: [{ match: { paths: [/a] }, public: true, cors: true }]"),
            expected
        );
        let elsewhere = message(&format!("{ROUTES}body: {{ cors: 1 }}"));
        assert_eq!(elsewhere, "unknown key `cors`; known here: max, max_in_flight");
    }

    #[test]
    fn no_key_of_this_gateway_is_a_foreign_one() {
        let keys = tollgate_core::config::keys_of::<tollgate_core::policy::PolicyConfig>();
        for (foreign, _) in FOREIGN_KEYS {
            assert!(foreign.iter().all(|key| !keys.contains(key)), "{foreign:?}");
        }
    }
}
