//! Cookies (RFC 6265): a JWT in a cookie whose name begins with `__Host-`, and the cookies that no
//! upstream may get.
//!
//! A cookie is found by the rules of browsers: pairs are separated by `;`, a name ends at the first
//! `=`, and nothing is decoded. What another server could read as the same cookie is never read, and
//! does not reach the upstream either.

mod config;

pub use self::config::{Cookies, CookiesConfig};
use crate::{
    denial::{Denial, Reason, malformed},
    request::{Headers, plain},
};

/// The header with the cookies of a request.
pub const COOKIE: &str = "cookie";

/// The longest token that is read, in bytes.
const MAX_TOKEN: usize = 16 * 1024;

/// The cookies that Envoy's filter `oauth2` keeps tokens and its own state in.
const ENVOY_OAUTH2: [&str; 7] = [
    "BearerToken",
    "RefreshToken",
    "IdToken",
    "OauthHMAC",
    "OauthExpires",
    "OauthNonce",
    "CodeVerifier",
];

/// The cookies that an upstream gets in place of those of the client; empty for none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamCookies(pub String);

/// The pairs of all `Cookie` headers, in their order.
fn pairs<'a>(headers: &Headers<'a>) -> impl Iterator<Item = &'a [u8]> {
    headers
        .all(COOKIE)
        .flat_map(|value| value.split(|byte| *byte == b';'))
        .map(<[u8]>::trim_ascii)
        .filter(|pair| !pair.is_empty())
}

/// The names that some server may find in a pair: servers after RFC 2109 separate pairs by `,` as
/// well, and so do proxies that join headers.
fn names(pair: &[u8]) -> impl Iterator<Item = &[u8]> {
    pair.split(|byte| *byte == b',')
        .map(|part| part.split(|byte| *byte == b'=').next().unwrap_or_default())
}

/// A name as the most lenient servers read it: percent-decoded, without white space and quotes around
/// it, in any case, and with all punctuation alike (CVE-2020-7070, CVE-2022-31629).
fn read_leniently(name: &[u8]) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut decoded = Vec::with_capacity(name.len());
    let mut rest = name;
    while let [byte, tail @ ..] = rest {
        let escaped = match tail {
            [high, low, ..] if *byte == b'%' => digit(*high).zip(digit(*low)),
            _ => None,
        };
        let (byte, used) = escaped.map_or((*byte, 0), |(high, low)| (high << 4 | low, 2));
        decoded.push(byte);
        rest = tail.get(used..).unwrap_or_default();
    }
    let is_around = |byte: &u8| *byte <= b' ' || matches!(byte, b'"' | 0x7f);
    let start = decoded.iter().take_while(|byte| is_around(byte)).count();
    let end = decoded.iter().rev().take_while(|byte| is_around(byte)).count();
    decoded.truncate(decoded.len() - end);
    decoded.into_iter().skip(start).map(plain).collect()
}

/// What follows a name at the begin of another, both read leniently; `None` where it does not begin
/// so.
fn after<'n>(found: &'n [u8], name: &str) -> Option<&'n [u8]> {
    let (start, rest) = found.split_at_checked(name.len())?;
    start.iter().copied().eq(name.bytes().map(plain)).then_some(rest)
}

impl Cookies {
    /// Finds the token of a request; `None` without the cookie.
    ///
    /// # Errors
    /// `ambiguous_credential` for two cookies of the name, or one that some server reads as it;
    /// `malformed_token` for one that is too long.
    pub fn token<'a>(&self, headers: &Headers<'a>) -> Result<Option<&'a [u8]>, Denial> {
        let Some(name) = self.name.as_deref() else { return Ok(None) };
        let mut found = None;
        for pair in pairs(headers) {
            let value = pair.strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b"="));
            let is_like = |text: &&[u8]| {
                text.len() >= name.len() && after(&read_leniently(text), name) == Some(&[])
            };
            let like = names(pair).filter(is_like).count();
            match (value, like) {
                (_, 0) => {}
                (Some(value), 1) if found.is_none() => found = Some(value),
                _ => {
                    return Err(Denial::new(
                        Reason::AmbiguousCredential,
                        format!("more than one cookie `{name}`, or one in another spelling"),
                    ));
                }
            }
        }
        match found.map_or(0, <[u8]>::len) {
            0..=MAX_TOKEN => Ok(found.filter(|value| !value.is_empty())),
            _ => Err(Denial::new(
                Reason::MalformedToken,
                format!("the cookie `{name}` is longer than 16 KiB"),
            )),
        }
    }

    /// Returns the cookies that the upstream gets, empty for none; `None` where the request may stay
    /// as it is.
    ///
    /// # Errors
    /// `malformed_request` where the proxy cannot take a cookie out of the header.
    pub fn for_upstream(
        &self,
        headers: &Headers<'_>,
    ) -> Result<Option<Box<UpstreamCookies>>, Denial> {
        let mut list = String::new();
        let (mut has_cookies, mut has_removed) = (false, false);
        for pair in pairs(headers) {
            has_cookies = true;
            if names(pair).any(|name| self.is_removed(name)) {
                has_removed = true;
                continue;
            }
            // A message to the proxy is text.
            let Ok(pair) = std::str::from_utf8(pair) else { continue };
            if pair.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
                list.push_str(if list.is_empty() { "" } else { "; " });
                list.push_str(pair);
            }
        }
        if has_removed && !headers.proxy().rewrites_cookies {
            return Err(malformed(
                "the proxy cannot take a cookie out of `Cookie`: only Envoy over gRPC and the module \
                 can (docs/browsers.md)",
            ));
        }
        // A proxy that does not report the header may still forward it.
        let is_unreported = !has_cookies && headers.proxy().rewrites_cookies;
        Ok((has_removed || is_unreported).then(|| Box::new(UpstreamCookies(list))))
    }

    /// Whether no upstream may get the cookie of this name: the one with the token, those of the
    /// filter and those of the list. A number or another suffix after punctuation belongs to the
    /// name: long values are split over several cookies.
    fn is_removed(&self, name: &[u8]) -> bool {
        // No reading makes a name longer: a header full of short ones costs little.
        if !self.removed().any(|removed| removed.len() <= name.len()) {
            return false;
        }
        let name = read_leniently(name);
        let is_covered = |rest: &[u8]| !rest.first().is_some_and(u8::is_ascii_alphabetic);
        self.removed().any(|removed| after(&name, removed).is_some_and(is_covered))
    }

    fn removed(&self) -> impl Iterator<Item = &str> {
        let listed = self.remove.iter().map(String::as_str);
        self.name.as_deref().into_iter().chain(ENVOY_OAUTH2).chain(listed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Errors, Path},
        request::ProxyBehavior,
    };

    fn cookies() -> Cookies {
        let json = r#"{ "name": "__Host-t", "origins": ["https://a.example"], "remove": ["sid"] }"#;
        let config: CookiesConfig = serde_json::from_str(json).unwrap();
        let mut errors = Errors::default();
        let cookies = config.compile(&Path::root(), &mut errors);
        assert!(errors.is_empty());
        cookies
    }

    fn headers<'a>(values: &[&'a str]) -> Headers<'a> {
        let mut headers = Headers::default();
        for value in values {
            headers.push("Cookie", value.as_bytes());
        }
        headers
    }

    fn token(values: &[&str]) -> Result<Option<String>, Reason> {
        let found = cookies().token(&headers(values)).map_err(|denial| denial.reason)?;
        Ok(found.map(|value| String::from_utf8(value.to_vec()).unwrap()))
    }

    #[test]
    fn the_cookie_is_found_as_browsers_send_it() {
        for (values, expected) in [
            (&[][..], None),
            (&[""], None),
            (&["a=b"], None),
            (&["__Host-t="], None),
            (&["__Host-t=x.y.z"], Some("x.y.z")),
            (&["a=b; __Host-t=x.y.z; c=d"], Some("x.y.z")),
            (&["a=b;__Host-t=x.y.z;c=d"], Some("x.y.z")),
            (&["a=b", "__Host-t=x.y.z", "c=d"], Some("x.y.z")),
            // The value is everything after the first `=`, quotes included.
            (&["__Host-t=x=y"], Some("x=y")),
            (&["__Host-t=\"x.y.z\""], Some("\"x.y.z\"")),
            (&["a=__Host-t=x"], None),
            (&["a=\"; __Host-t=x; b=\""], Some("x")),
            (&["__Host-t2=x"], None),
            (&["x__Host-t=x"], None),
            (&["=__Host-t=x"], None),
        ] {
            assert_eq!(token(values), Ok(expected.map(str::to_owned)), "{values:?}");
        }
    }

    #[test]
    fn a_cookie_that_servers_read_in_two_ways_is_refused() {
        for values in [
            &["__Host-t=x; __Host-t=x"][..],
            &["__Host-t=x", "__Host-t=y"],
            &["__Host-t=x; __host-t=y"],
            &["__host-t=x"],
            &["__HOST-T=x"],
            &["..Host-t=x"],
            &["%5F%5FHost-t=x"],
            &["%5f_Host%2Dt=x"],
            &["__Host-t =x"],
            &["\"__Host-t\"=x"],
            &["__Host-t"],
            &["a=b,__Host-t=x"],
            &["a=b, __Host-t=x"],
            &["__Host-t=x,__Host-t=y"],
            &["__Host-t=x, __host-t=y"],
        ] {
            assert_eq!(token(values), Err(Reason::AmbiguousCredential), "{values:?}");
        }
        let long = format!("__Host-t={}", "x".repeat(MAX_TOKEN + 1));
        assert_eq!(token(&[&long]), Err(Reason::MalformedToken));
    }

    #[test]
    fn cookies_with_tokens_do_not_reach_the_upstream() {
        for (values, expected) in [
            (&["a=b"][..], None),
            (&["a=b; c=d"], None),
            (&["__Host-t=x"], Some("")),
            (&["a=b; __Host-t=x; c=d"], Some("a=b; c=d")),
            (&["a=b", "__host-t=x; c=d"], Some("a=b; c=d")),
            (&["BearerToken=x; IdToken=y; RefreshToken=z"], Some("")),
            (&["OauthHMAC=x; a=b; OauthExpires=1; OauthNonce.12=n"], Some("a=b")),
            (&["CodeVerifier-1=x; BearerToken_2=y; a=b"], Some("a=b")),
            (&["bearertoken=x; Bearer-Token=y; a=b"], Some("Bearer-Token=y; a=b")),
            (&["BearerTokens=x; sid=1; side=2"], Some("BearerTokens=x; side=2")),
            (&["%42earerToken_2=x; \"sid\"=1; sid =2; a=b"], Some("a=b")),
            (&["a=b, __Host-t=x; c=d"], Some("c=d")),
            (&["sid=1; a=\u{e9}; b=c"], Some("b=c")),
            // A proxy that reports no cookies may still have some.
            (&[], Some("")),
        ] {
            let left = cookies().for_upstream(&headers(values)).unwrap();
            let left = left.map(|left| left.0);
            assert_eq!(left.as_deref(), expected, "{values:?}");
        }
    }

    #[test]
    fn a_proxy_that_cannot_change_the_header_gets_no_cookie_through() {
        let proxy = ProxyBehavior { rewrites_cookies: false, ..ProxyBehavior::default() };
        let left = |value| cookies().for_upstream(&headers(value).with_proxy(proxy));
        assert_eq!(left(&["sid=1"]).unwrap_err().reason, Reason::MalformedRequest);
        assert_eq!(left(&["a=b"]).unwrap(), None);
        assert_eq!(left(&[]).unwrap(), None);
    }
}
