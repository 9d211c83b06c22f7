//! The section `cookies`.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    config::{Errors, Path},
    request::origin::{OriginError, check_page_origin},
};

/// The prefix with which browsers bind a cookie to one host, over https (RFC 6265bis section 4.1.3).
const PREFIX: &str = "__Host-";

/// The longest name of a cookie.
const MAX_NAME: usize = 128;

/// The most entries of a list.
const MAX_ENTRIES: usize = 64;

/// The section `cookies`: the cookie with a token, the pages that may use what browsers send by
/// themselves, and the cookies that no upstream gets.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CookiesConfig {
    /// The name of the cookie that holds a JWT, such as `__Host-tollgate`. It begins with `__Host-`,
    /// so that no other host can set it. It is read on routes whose `credentials` list `cookie`.
    /// Default: no cookie is read.
    pub name: Option<String>,
    /// The origins of the pages of this service, such as `https://app.example.com`. A request other
    /// than GET, HEAD and OPTIONS, and a WebSocket, needs one of them in `Origin`, and
    /// `Sec-Fetch-Site: same-origin`, where its credential is a cookie or its route says `ambient`.
    pub origins: Vec<String>,
    /// The names of further cookies that are removed from every request, such as those of a filter
    /// in front: a name covers its parts with a suffix (`session-1`, `session.2`). That of `name` and those of
    /// Envoy's filter `oauth2` are always removed.
    #[serde(default)]
    pub remove: Vec<String>,
}

/// The compiled section.
#[derive(Clone, Debug)]
pub struct Cookies {
    /// The name of the cookie with a token.
    pub name: Option<String>,
    /// The origins of the service's own pages.
    pub(crate) origins: Vec<String>,
    pub(super) remove: Vec<String>,
}

impl CookiesConfig {
    /// Compiles the section and records every error.
    pub(crate) fn compile(&self, path: &Path, errors: &mut Errors) -> Cookies {
        if let Some(name) = &self.name {
            let at = path.key("name");
            if name.strip_prefix(PREFIX).is_none_or(str::is_empty) {
                let message = format!(
                    "`{name}` does not begin with `{PREFIX}`, so that other hosts of the domain could set it"
                );
                errors.push(&at, message);
            }
            check_name(name, &at, errors);
        }
        let origins = path.key("origins");
        if self.origins.is_empty() || self.origins.len() > MAX_ENTRIES {
            errors.push(&origins, "list 1 to 64 origins, such as `https://app.example.com`");
        }
        for (index, origin) in self.origins.iter().enumerate() {
            if let Err(error) = check_page_origin(origin) {
                let message = match error {
                    OriginError::Form => format!(
                        "`{origin}` is not an origin; write scheme and host in lower case, such as `https://app.example.com`"
                    ),
                    OriginError::DefaultPort => {
                        format!("browsers leave the default port out of `{origin}`; remove it")
                    }
                    OriginError::Insecure => format!(
                        "`{origin}` is not https: others on the way could change its pages (only `localhost` may be http)"
                    ),
                };
                errors.push(&origins.index(index), message);
            }
        }
        let remove = path.key("remove");
        if self.remove.len() > MAX_ENTRIES {
            errors.push(&remove, "list at most 64 names");
        }
        for (index, name) in self.remove.iter().enumerate() {
            check_name(name, &remove.index(index), errors);
        }
        Cookies {
            name: self.name.clone(),
            origins: self.origins.clone(),
            remove: self.remove.clone(),
        }
    }
}

/// Checks that a text is the name of a cookie: a token of HTTP (RFC 6265 section 4.1.1).
fn check_name(name: &str, path: &Path, errors: &mut Errors) {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(is_token) {
        let message = format!(
            "`{name}` is not the name of a cookie: 1 to {MAX_NAME} letters, digits and characters of `!#$&'*+-.^_|~`"
        );
        errors.push(path, message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_faulty_section_is_an_error() {
        for (json, expected) in [
            (r#"{ "origins": ["https://a.example"] }"#, 0),
            (r#"{ "name": "__Host-t", "origins": ["https://a.example:8443"] }"#, 0),
            (r#"{ "origins": ["http://localhost:8080", "http://127.0.0.1:1"] }"#, 0),
            (r#"{ "origins": [] }"#, 1),
            (r#"{ "name": "t", "origins": ["https://a"] }"#, 1),
            (r#"{ "name": "__host-t", "origins": ["https://a"] }"#, 1),
            (r#"{ "name": "__Secure-t", "origins": ["https://a"] }"#, 1),
            (r#"{ "name": "__Host-", "origins": ["https://a"] }"#, 1),
            (r#"{ "name": "__Host-a b", "origins": ["https://a"] }"#, 1),
            (r#"{ "name": "__Host-a=b", "origins": ["https://a"] }"#, 1),
            (r#"{ "origins": ["http://a.example"] }"#, 1),
            (r#"{ "origins": ["https://a.example/", "https://A.example", "*", "null"] }"#, 4),
            (r#"{ "origins": ["https://a:443"] }"#, 1),
            (r#"{ "origins": ["https://a"], "remove": ["", "a;b"] }"#, 2),
        ] {
            let config: CookiesConfig = serde_json::from_str(json).unwrap();
            let mut errors = Errors::default();
            config.compile(&Path::root(), &mut errors);
            assert_eq!(errors.len(), expected, "{json}");
        }
    }
}
