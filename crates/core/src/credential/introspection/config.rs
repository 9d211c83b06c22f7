//! `introspection` of an issuer.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    config::{Errors, Path},
    secret::SecretSource,
    time::Span,
};

/// The longest `cache`.
const LONGEST_CACHE: Span = Span::from_secs(600);

/// The longest `timeout`: a check of a proxy that names no time has 1.5 s.
const LONGEST_TIMEOUT: Span = Span::from_secs(10);

/// The longest `prefix`.
const MAX_PREFIX: usize = 64;

/// The most calls at once.
const MOST_CALLS: u32 = 256;

/// `introspection` of an issuer: its opaque tokens are verified by a call of its endpoint (RFC 7662). A
/// token without the form of a JWT is opaque. It is accepted on routes whose `credentials` list
/// `opaque_token`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IntrospectionConfig {
    /// The address of the endpoint. Its host is trusted, even if its address is private; redirects
    /// are not followed.
    pub url: String,
    /// The beginning of the issuer's opaque tokens, such as `ory_at_`. Needed where several issuers
    /// have `introspection`: a token is sent to one endpoint only. Default: every opaque token.
    pub prefix: Option<String>,
    /// The id of Tollgate at the issuer, sent with `client_secret` (`client_secret_basic`).
    pub client_id: Option<String>,
    /// The secret that belongs to `client_id`. A file is read again for each call.
    pub client_secret: Option<SecretSource>,
    /// A token for the endpoint, sent as `Authorization: Bearer` in place of `client_id` and
    /// `client_secret`. A file is read again for each call.
    pub bearer: Option<SecretSource>,
    /// Whether the answer has to have `token_type`. Default `required`: without it, an answer about a
    /// refresh token may look like one about an access token.
    #[serde(default)]
    pub token_type: TokenTypeRule,
    /// How long an answer is used, at most until the token expires; 1s to 10m. A revocation at the
    /// issuer takes effect after this time. Default 30s.
    #[serde(default = "cache")]
    pub cache: Span,
    /// The timeout of one call with the wait for its turn; at most 10s. Default 1s.
    #[serde(default = "timeout")]
    pub timeout: Span,
    /// The most calls at once, 1 to 256, half of them for one client network. More tokens wait for
    /// their turn. Default 16.
    #[serde(default = "max_calls")]
    pub max_calls: u32,
    /// Allow plain http. Default false: the calls have tokens in them.
    #[serde(default)]
    pub insecure_http: bool,
    /// A PEM file with the certificate authorities for this server, in place of the system's.
    pub ca: Option<String>,
    /// A forward proxy, as `jwks.proxy`.
    pub proxy: Option<SecretSource>,
}

/// `token_type`: whether the answer has to state it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokenTypeRule {
    /// An answer without it is refused.
    #[default]
    Required,
    /// An answer without it is one about an access token.
    Optional,
}

fn cache() -> Span {
    Span::from_secs(30)
}

fn timeout() -> Span {
    Span::from_secs(1)
}

fn max_calls() -> u32 {
    16
}

impl IntrospectionConfig {
    /// Records every error. The address is checked by the caller.
    pub(crate) fn check(&self, path: &Path, errors: &mut Errors) {
        let is_basic = match (&self.client_id, &self.client_secret) {
            (Some(id), Some(_)) => {
                if id.is_empty() {
                    errors.push(&path.key("client_id"), "the id must not be empty");
                }
                true
            }
            (None, None) => false,
            _ => {
                errors.push(path, "`client_id` and `client_secret` belong together");
                return;
            }
        };
        if is_basic == self.bearer.is_some() {
            errors.push(
                path,
                "write either `client_id` and `client_secret`, or `bearer`: an endpoint without credentials is open to those who try tokens (RFC 7662 section 2.1)",
            );
        }
        if let Some(prefix) = &self.prefix {
            let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_~+/".contains(&byte);
            if prefix.is_empty() || prefix.len() > MAX_PREFIX || !prefix.bytes().all(is_token) {
                errors.push(
                    &path.key("prefix"),
                    format!("`{prefix}` is not 1 to {MAX_PREFIX} letters, digits and characters of `-_~+/`"),
                );
            } else if prefix.starts_with("eyJ") || prefix.starts_with("tgk_") {
                let what = format!("`{prefix}` is the beginning of JWTs, or of API keys");
                errors.push(&path.key("prefix"), what);
            }
        }
        if self.cache < Span::from_secs(1) || self.cache > LONGEST_CACHE {
            errors.push(&path.key("cache"), "must be 1s to 10m");
        }
        if self.timeout.micros() == 0 || self.timeout > LONGEST_TIMEOUT {
            errors.push(&path.key("timeout"), "must be more than 0 and at most 10s");
        }
        if self.max_calls == 0 || self.max_calls > MOST_CALLS {
            errors.push(&path.key("max_calls"), "must be 1 to 256");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = r#""url": "https://a.example/introspect""#;

    fn errors(members: &str) -> usize {
        let json = format!("{{ {URL}, {members} }}");
        let config: IntrospectionConfig = serde_json::from_str(&json).unwrap();
        let mut errors = Errors::default();
        config.check(&Path::root(), &mut errors);
        errors.len()
    }

    #[test]
    fn a_faulty_section_is_an_error() {
        let basic = r#""client_id": "a", "client_secret": "b""#;
        for (members, expected) in [
            (basic.to_owned(), 0),
            (r#""bearer": "b""#.to_owned(), 0),
            (format!(r#"{basic}, "bearer": "b""#), 1),
            (r#""cache": "30s""#.to_owned(), 1),
            (r#""client_id": "a""#.to_owned(), 1),
            (r#""client_id": "a", "bearer": "b""#.to_owned(), 1),
            (format!(r#"{basic}, "cache": "0s""#), 1),
            (format!(r#"{basic}, "cache": "11m""#), 1),
            (format!(r#"{basic}, "timeout": "0s""#), 1),
            (format!(r#"{basic}, "timeout": "11s""#), 1),
            (format!(r#"{basic}, "max_calls": 0"#), 1),
            (format!(r#"{basic}, "max_calls": 257"#), 1),
            (format!(r#"{basic}, "prefix": "ory_at_""#), 0),
            (format!(r#"{basic}, "prefix": """#), 1),
            (format!(r#"{basic}, "prefix": "a b""#), 1),
            (format!(r#"{basic}, "prefix": "eyJ""#), 1),
            (format!(r#"{basic}, "prefix": "tgk_""#), 1),
        ] {
            assert_eq!(errors(&members), expected, "{members}");
        }
    }
}
