//! The check of requests whose credential a browser sends by itself: they have to come from a page of
//! this service (cross-site request forgery).
//!
//! A browser states in `Sec-Fetch-Site` where a request comes from, and in `Origin` which page sent
//! it. No page can set either.

use crate::{
    credential::cookie::Cookies,
    denial::{Denial, Reason, shown},
    identity::CredentialKind,
    request::{Headers, Request},
    route::Route,
};

/// Checks a request with a credential of a kind that its route accepts.
///
/// A cookie, and any credential of a route with `ambient`, is sent by browsers: both headers are
/// needed. A certificate is sent by browsers and by machines, which send neither header: a request
/// without both passes, because no browser leaves `Origin` out of a request that acts.
///
/// # Errors
/// `csrf_failed`.
pub(super) fn check(
    request: &Request<'_>,
    route: &Route,
    kind: CredentialKind,
    cookies: Option<&Cookies>,
) -> Result<(), Denial> {
    let is_of_browser = route.ambient || kind == CredentialKind::Cookie;
    if !is_of_browser && kind != CredentialKind::Certificate {
        return Ok(());
    }
    let headers = &request.headers;
    let is_handshake = is_handshake(request, route);
    if matches!(request.method, "GET" | "HEAD" | "OPTIONS") && !is_handshake {
        return Ok(());
    }
    let (site, origin) = (Sent::of(headers, "sec-fetch-site"), Sent::of(headers, "origin"));
    if !is_of_browser && site == Sent::Nothing && origin == Sent::Nothing {
        return Ok(());
    }
    match site {
        Sent::Once(b"same-origin") => {}
        // Not every browser sends it with a WebSocket; `Origin` all do (RFC 6455 section 4.1).
        Sent::Nothing if is_handshake => {}
        other => return refuse("Sec-Fetch-Site", other, "is not `same-origin`"),
    }
    let origins = cookies.map(|cookies| cookies.origins.as_slice()).unwrap_or_default();
    match origin {
        Sent::Once(text) if origins.iter().any(|origin| origin.as_bytes() == text) => Ok(()),
        other => refuse("Origin", other, "is not one of `cookies.origins`"),
    }
}

/// How often a request has a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent<'a> {
    Nothing,
    Once(&'a [u8]),
    Repeatedly,
}

impl<'a> Sent<'a> {
    fn of(headers: &Headers<'a>, name: &str) -> Self {
        let mut values = headers.all(name);
        match (values.next(), values.next()) {
            (None, _) => Self::Nothing,
            (Some(value), None) => Self::Once(value),
            (Some(_), Some(_)) => Self::Repeatedly,
        }
    }
}

/// Whether a request opens a WebSocket. It is a GET that acts.
fn is_handshake(request: &Request<'_>, route: &Route) -> bool {
    let has = |name: &str| request.headers.all(name).next().is_some();
    route.websocket.is_some()
        || has("upgrade")
        || has("sec-websocket-key")
        || has("sec-websocket-version")
}

fn refuse(name: &str, sent: Sent<'_>, what: &str) -> Result<(), Denial> {
    let cause = match sent {
        Sent::Nothing => format!("the browser sends the credential, and there is no `{name}`"),
        Sent::Repeatedly => format!("`{name}` is repeated"),
        Sent::Once(value) => {
            format!("`{name}` (`{}`) {what}", shown(&String::from_utf8_lossy(value)))
        }
    };
    Err(Denial::new(Reason::CsrfFailed, cause))
}
