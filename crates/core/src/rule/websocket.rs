//! WebSockets: tokens in `Sec-WebSocket-Protocol`, as browsers have to send them, and how long a
//! connection may live.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    config::{Errors, Path},
    denial::{Denial, Reason, malformed, shown},
    request::{Headers, origin::is_origin},
    time::Span,
};

/// The header with the protocols that a client offers (RFC 6455 section 11.3.4).
pub const PROTOCOLS: &str = "sec-websocket-protocol";

/// The longest beginning of the element with the token.
const MAX_PREFIX: usize = 128;

/// The most elements of the header.
const MAX_PROTOCOLS: usize = 32;

/// `websocket` of a route whose requests are upgraded. Messages after the handshake are not checked,
/// so a connection has a maximum duration and ends when its credential does. Envoy ends it
/// (`deploy/envoy/envoy.yaml`); nginx cannot.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WebSocketConfig {
    /// The beginning of the element of `Sec-WebSocket-Protocol` that holds a token, such as
    /// `openai-insecure-api-key.`: browsers cannot send `Authorization` with a WebSocket. The
    /// element is removed from the header that the upstream gets. Default: no token is read there.
    pub token_prefix: Option<String>,
    /// The origins of pages that may send such a token, such as `https://app.example.com`.
    /// Required with `token_prefix`.
    #[serde(default)]
    pub origins: Vec<String>,
    /// The maximum duration of a connection. Default `1h`.
    pub max_duration: Option<Span>,
}

/// The compiled `websocket` of a route.
#[derive(Clone, Debug)]
pub struct WebSocketRule {
    token: Option<TokenProtocol>,
    /// The maximum duration of a connection.
    pub max_duration: Span,
}

/// The element that holds a token, and the pages that may send one.
#[derive(Clone, Debug)]
struct TokenProtocol {
    prefix: String,
    origins: Vec<String>,
}

/// The element with a token, found among the protocols that a client offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offered<'a> {
    /// The bytes after the prefix.
    pub token: &'a [u8],
}

impl WebSocketRule {
    /// Compiles the section and records every error.
    pub(crate) fn compile(config: &WebSocketConfig, path: &Path, errors: &mut Errors) -> Self {
        let one_hour = Span::from_secs(3600);
        let max_duration = config.max_duration.unwrap_or(one_hour);
        if max_duration < Span::from_secs(1) {
            errors.push(&path.key("max_duration"), "a connection lasts at least 1s");
        }
        for (index, origin) in config.origins.iter().enumerate() {
            if !is_origin(origin) {
                let message = format!(
                    "`{origin}` is not an origin; write scheme and host in lower case, such as `https://app.example.com`"
                );
                errors.push(&path.key("origins").index(index), message);
            }
        }
        let token = config.token_prefix.as_ref().map(|prefix| {
            if prefix.is_empty() || prefix.len() > MAX_PREFIX || !prefix.bytes().all(is_token) {
                let message = format!(
                    "`{prefix}` is not the beginning of a WebSocket protocol: 1 to {MAX_PREFIX} letters, digits and characters of `!#$%&'*+-.^_|~`"
                );
                errors.push(&path.key("token_prefix"), message);
            }
            if config.origins.is_empty() {
                errors.push(
                    &path.key("origins"),
                    "list the origins of the pages that may send a token, or any page could use one that it got hold of",
                );
            }
            TokenProtocol { prefix: prefix.clone(), origins: config.origins.clone() }
        });
        if token.is_none() && !config.origins.is_empty() {
            errors.push(
                &path.key("origins"),
                "origins are compared for tokens in `Sec-WebSocket-Protocol`; set `token_prefix`, or remove them",
            );
        }
        Self { token, max_duration }
    }

    /// Finds the token among the offered protocols; `None` where there is none.
    ///
    /// # Errors
    /// `ambiguous_credential` for two tokens, or one beside `Authorization`; `origin_forbidden`;
    /// `malformed_request` where the proxy cannot take the token out of the header.
    pub(crate) fn token<'a>(&self, headers: &Headers<'a>) -> Result<Option<Offered<'a>>, Denial> {
        let Some(TokenProtocol { prefix, origins }) = &self.token else { return Ok(None) };
        let mut found = None;
        for (index, element) in protocols(headers).enumerate() {
            if index >= MAX_PROTOCOLS {
                return Err(malformed("`Sec-WebSocket-Protocol` has more than 32 elements"));
            }
            let Some(token) = after_prefix(element, prefix) else { continue };
            if found.replace(Offered { token }).is_some() {
                return Err(ambiguous("two elements of `Sec-WebSocket-Protocol` hold a token"));
            }
        }
        if found.is_none() {
            return Ok(None);
        }
        if headers.all("authorization").next().is_some() {
            return Err(ambiguous("a token in `Sec-WebSocket-Protocol` beside `Authorization`"));
        }
        if !headers.proxy().rewrites_protocols {
            return Err(malformed(
                "the proxy cannot take a token out of `Sec-WebSocket-Protocol` (docs/proxies.md)",
            ));
        }
        let mut sent = headers.all("origin");
        let origin = sent.next().filter(|_| sent.next().is_none());
        if !origin.is_some_and(|sent| origins.iter().any(|known| known.as_bytes() == sent)) {
            let sent = origin.map(|sent| shown(&String::from_utf8_lossy(sent)));
            let cause = match sent {
                Some(sent) => {
                    format!("`Origin` (`{sent}`) is not one of the route's `websocket.origins`")
                }
                None => "the request has no `Origin`, or several".to_owned(),
            };
            return Err(Denial::new(Reason::OriginForbidden, cause));
        }
        Ok(found)
    }

    /// The offered protocols without the token, in their order; `None` if there is no header to set.
    pub(crate) fn for_upstream(&self, headers: &Headers<'_>) -> Option<String> {
        let prefix = self.token.as_ref().map(|token| token.prefix.as_str());
        let mut list = String::new();
        for element in protocols(headers) {
            if prefix.is_some_and(|prefix| after_prefix(element, prefix).is_some()) {
                continue;
            }
            if !list.is_empty() {
                list.push_str(", ");
            }
            // Elements that are no tokens of HTTP have no meaning to any server.
            list.extend(
                element.iter().filter(|byte| is_token(**byte)).map(|byte| char::from(*byte)),
            );
        }
        (!list.is_empty()).then_some(list)
    }
}

fn ambiguous(cause: &'static str) -> Denial {
    Denial::new(Reason::AmbiguousCredential, cause)
}

/// The elements of the header, whether it comes once or several times.
fn protocols<'a>(headers: &Headers<'a>) -> impl Iterator<Item = &'a [u8]> {
    let values: Vec<&'a [u8]> = headers.all(PROTOCOLS).collect();
    values
        .into_iter()
        .flat_map(|value| value.split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
}

/// What follows the prefix, whose case is ignored: a token is never forwarded for its spelling.
fn after_prefix<'a>(element: &'a [u8], prefix: &str) -> Option<&'a [u8]> {
    let (start, rest) = element.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix.as_bytes()).then_some(rest)
}

/// Whether a byte may be in a token of HTTP (RFC 9110 section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rule, if it has no error, and the number of errors.
    fn rule(json: &str) -> (Option<WebSocketRule>, usize) {
        let config: WebSocketConfig = serde_json::from_str(json).unwrap();
        let mut errors = Errors::default();
        let rule = WebSocketRule::compile(&config, &Path::default(), &mut errors);
        let count = errors.len();
        ((count == 0).then_some(rule), count)
    }

    const RULE: &str = r#"{ "token_prefix": "key.", "origins": ["https://app.example.com"] }"#;

    fn headers<'a>(list: &[(&'a str, &'a str)]) -> Headers<'a> {
        let mut headers = Headers::default();
        for (name, value) in list {
            headers.push(name, value.as_bytes());
        }
        headers
    }

    type Found = (Result<Option<String>, Reason>, Option<String>);

    fn read(list: &[(&str, &str)]) -> Found {
        let rule = rule(RULE).0.unwrap();
        let headers = headers(list);
        let token = rule
            .token(&headers)
            .map_err(|denial| denial.reason)
            .map(|found| found.map(|offered| String::from_utf8(offered.token.to_vec()).unwrap()));
        (token, rule.for_upstream(&headers))
    }

    #[test]
    fn the_token_is_taken_out_and_the_order_is_kept() {
        let origin = ("origin", "https://app.example.com");
        let text = |text: &str| Some(text.to_owned());
        for (offered, token, upstream) in [
            ("realtime, key.a.b.c, beta.v1", text("a.b.c"), text("realtime, beta.v1")),
            ("key.a.b.c", text("a.b.c"), None),
            ("KEY.a,realtime", text("a"), text("realtime")),
            ("realtime,beta", None, text("realtime, beta")),
            ("", None, None),
        ] {
            let found = read(&[(PROTOCOLS, offered), origin]);
            assert_eq!(found, (Ok(token), upstream), "{offered}");
        }
        let twice = [(PROTOCOLS, "realtime"), (PROTOCOLS, "key.a, beta"), origin];
        assert_eq!(read(&twice), (Ok(text("a")), text("realtime, beta")));
        assert_eq!(read(&[]), (Ok(None), None));
    }

    #[test]
    fn two_tokens_and_foreign_pages_are_refused() {
        let origin = ("origin", "https://app.example.com");
        for (list, reason) in [
            (&[(PROTOCOLS, "key.a, key.b"), origin][..], Reason::AmbiguousCredential),
            (&[(PROTOCOLS, "key.a"), (PROTOCOLS, "Key.a"), origin], Reason::AmbiguousCredential),
            (
                &[(PROTOCOLS, "key.a"), ("authorization", "Bearer x"), origin],
                Reason::AmbiguousCredential,
            ),
            (&[(PROTOCOLS, "key.a")], Reason::OriginForbidden),
            (&[(PROTOCOLS, "key.a"), ("origin", "https://evil.example")], Reason::OriginForbidden),
            (&[(PROTOCOLS, "key.a"), ("origin", "null")], Reason::OriginForbidden),
            (&[(PROTOCOLS, "key.a"), origin, origin], Reason::OriginForbidden),
        ] {
            assert_eq!(read(list).0, Err(reason), "{list:?}");
        }
        let many = "a,".repeat(MAX_PROTOCOLS + 1);
        assert_eq!(read(&[(PROTOCOLS, &many), origin]).0, Err(Reason::MalformedRequest));
    }

    #[test]
    fn a_faulty_section_is_an_error() {
        for (json, errors) in [
            ("{}", 0),
            (r#"{ "max_duration": "10m" }"#, 0),
            (r#"{ "max_duration": "0s" }"#, 1),
            (r#"{ "token_prefix": "key." }"#, 1),
            (r#"{ "token_prefix": "", "origins": ["https://a"] }"#, 1),
            (r#"{ "token_prefix": "a b", "origins": ["https://a"] }"#, 1),
            (r#"{ "origins": ["https://a"] }"#, 1),
            (r#"{ "token_prefix": "key.", "origins": ["*"] }"#, 1),
            (r#"{ "token_prefix": "key.", "origins": ["https://a/", "https://A"] }"#, 2),
        ] {
            assert_eq!(rule(json).1, errors, "{json}");
        }
    }
}
