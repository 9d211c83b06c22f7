//! Answers: the headers, status and body that a decision becomes, the same for every front-end.

mod body;
mod challenge;
mod limits;
mod list;

use std::{borrow::Cow, io::Write as _};

pub use self::list::{HeaderList, HeaderSink};
use self::{body::body, challenge::challenge, limits::rate_limit_headers};
use super::{Dialect, Evidence, Grant, Upgrade};
use crate::{
    credential::{
        api_key::KeyHeader,
        cookie::COOKIE,
        dpop::{HEADER as PROOF, NONCE_HEADER},
    },
    denial::{Denial, Reason},
    identity::IdentityHeader,
    limit::LimitStatus,
    request::HeaderNames,
    rule::websocket::PROTOCOLS,
    secret::Secret,
    snapshot::Snapshot,
    text::is_printable_without,
    time::Span,
};

/// The header with the decision id, part of every answer.
pub const DECISION_ID: &str = "x-tollgate-decision-id";

/// The identity headers, in a fixed order. Each is set or removed on every request that passes.
pub const IDENTITY: [&str; 8] = [
    IdentityHeader::Subject.name(),
    IdentityHeader::Tenant.name(),
    IdentityHeader::Scopes.name(),
    IdentityHeader::Credential.name(),
    IdentityHeader::Model.name(),
    IdentityHeader::Issuer.name(),
    IdentityHeader::KeyId.name(),
    IdentityHeader::Actor.name(),
];

/// The header in which Envoy's router finds the time that a stream may take.
pub const STREAM_DURATION: &str = "x-envoy-upstream-stream-duration-ms";

/// The most bytes of the headers of a denial: names, values, and four bytes for each header. With
/// the body as one more header in ASCII, as nginx gets it, they stay below the 4 KiB in which nginx
/// reads a response by default. Envoy reads 60 KiB.
pub const MAX_DENIED_BYTES: usize = 3840;

/// A denial as an HTTP response.
#[derive(Debug)]
pub struct DeniedAnswer {
    /// The reason, for the gRPC code.
    pub reason: Reason,
    /// The HTTP status.
    pub status: u16,
    /// The headers, including the content type.
    pub headers: HeaderList,
    /// The body, in JSON.
    pub body: String,
}

/// An allowed request, as changes to its headers and to those of its response. They are written to
/// the message directly, without a list in between: [`AllowedAnswer::set`],
/// [`AllowedAnswer::removed`], [`AllowedAnswer::response`].
#[derive(Clone, Copy, Debug)]
pub struct AllowedAnswer<'a> {
    /// The id of the decision.
    pub decision_id: &'a str,
    /// The values of [`IDENTITY`]; a header without a value is removed.
    pub identity: [Option<&'a str>; IDENTITY.len()],
    /// Whether the proxy has removed the identity headers of the client itself.
    pub removed_by_proxy: bool,
    /// The state of each limit of the route.
    pub limits: &'a [LimitStatus],
    /// The upstream's own credential, set as `Authorization` with OVERWRITE.
    pub upstream_credential: Option<&'a Secret>,
    /// Whether the client's credential is forwarded to an upstream without a credential of its own.
    pub forward_credential: bool,
    /// The headers that the policy removes from every request, in lower case.
    pub strip: &'a HeaderNames,
    /// Headers of the client that are other spellings of those.
    pub spoofed: &'a [String],
    /// The changes to the handshake of a WebSocket.
    pub upgrade: Option<&'a Upgrade>,
    /// The cookies that the upstream gets, empty for none; `None` where those of the client stay.
    pub cookies: Option<&'a str>,
    /// The nonce that the client has to use from now on, where the one that it sent is about to
    /// lapse.
    pub next_nonce: Option<&'a str>,
}

/// The longest wait after which a client should repeat a request by itself. The OpenAI SDK has the
/// same bound.
const LONGEST_WAIT: Span = Span::from_secs(120);

/// The response of a denial.
pub fn denied(denial: &Denial, evidence: &Evidence, decision_id: &str) -> DeniedAnswer {
    let reason = denial.reason;
    let body = body(denial, evidence.dialect);
    let mut headers = HeaderList::with_capacity(9);
    headers.text("content-type", "application/json");
    headers.text("cache-control", "no-store");
    if let Some(value) = challenge(denial, evidence.route.as_deref(), evidence.proof.as_deref()) {
        headers.text("www-authenticate", &value);
    }
    if let Some(nonce) = next_nonce(evidence) {
        headers.text(NONCE_HEADER, nonce);
    }
    // A 503 is temporary, so that it always has a time to retry, also where the denial has none.
    let shortly = (denial.http() == 503).then_some(Span::from_secs(1));
    if let Some(span) = denial.retry_after.or(shortly) {
        headers.number("retry-after", span.micros().div_ceil(1_000_000));
        headers.number("retry-after-ms", span.micros().div_ceil(1000));
    }
    let is_long = match denial.retry_after {
        Some(wait) => wait > LONGEST_WAIT,
        // A budget that does not cover the request never will.
        None => denial.reason == Reason::BudgetExhausted,
    };
    if denial.is_network_banned || is_long {
        // The SDKs repeat a 429 by themselves: a ban outlasts that, and some wait for as long as
        // `retry-after` says, up to 49 days.
        headers.text("x-should-retry", "false");
    }
    rate_limit_headers(&evidence.limits, &mut headers);
    headers.text(DECISION_ID, decision_id);
    DeniedAnswer { reason, status: denial.http(), headers, body }
}

/// Returns the event of a stream that ends for this reason. SDKs raise the error that it has.
pub fn error_event(reason: Reason, dialect: Dialect) -> String {
    let body = body(&Denial::new(reason, reason.text()), dialect);
    match dialect {
        Dialect::OpenAi => format!("data: {body}\n\n"),
        Dialect::Anthropic => format!("event: error\ndata: {body}\n\n"),
    }
}

/// The nonce that the client has to use from now on.
fn next_nonce(evidence: &Evidence) -> Option<&str> {
    evidence.proof.as_ref()?.nonce.as_deref()
}

/// The changes of a grant.
pub fn allowed<'a>(
    grant: &'a Grant,
    evidence: &'a Evidence,
    snapshot: &'a Snapshot,
    decision_id: &'a str,
) -> AllowedAnswer<'a> {
    let permit = grant.permit();
    let route = permit.route();
    let (subject, tenant, scopes, kind, issuer, key, actor) = match permit.principal() {
        Some(principal) => {
            // Without scopes the header is removed, not set: a proxy that drops an empty value would
            // let the client's own header through.
            let scopes = Some(principal.scope_list()).filter(|scopes| !scopes.is_empty());
            let kind = principal.kind();
            let kind = Some(if principal.is_subject_client() {
                kind.label_of_client()
            } else {
                kind.label()
            });
            // A subject is one of its issuer. Tokens without `iss` name none.
            let issuer = Some(principal.issuer()).filter(|issuer| !issuer.is_empty());
            let key = principal.key().map(|key| key.id.as_str());
            let actor = principal.actor_text();
            (Some(principal.subject()), principal.tenant(), scopes, kind, issuer, key, actor)
        }
        None => (None, None, None, None, None, None, None),
    };
    let headers = &snapshot.policy.identity_headers;
    AllowedAnswer {
        decision_id,
        identity: headers.select([
            subject,
            tenant,
            scopes,
            kind,
            permit.model(),
            issuer,
            key,
            actor,
        ]),
        removed_by_proxy: headers.removed_by_proxy,
        limits: &evidence.limits,
        upstream_credential: route.upstream_key.and_then(|index| snapshot.upstream_key(index)),
        forward_credential: route.forward_credential,
        strip: &snapshot.policy.strip_headers,
        spoofed: &evidence.spoofed,
        upgrade: evidence.upgrade.as_deref(),
        cookies: evidence.cookies.as_ref().map(|cookies| cookies.0.as_str()),
        next_nonce: next_nonce(evidence),
    }
}

impl<'a> AllowedAnswer<'a> {
    /// Writes the headers for the upstream, which are set with OVERWRITE. The upstream's own
    /// credential is not among them.
    pub fn set(&self, to: &mut impl HeaderSink) {
        to.text(DECISION_ID, self.decision_id);
        for (name, value) in IDENTITY.into_iter().zip(self.identity) {
            if let Some(value) = value {
                to.header(name, |text| header_value(value, text));
            }
        }
        if let Some(cookies) = self.cookies.filter(|cookies| !cookies.is_empty()) {
            to.text(COOKIE, cookies);
        }
        if let Some(upgrade) = self.upgrade {
            if let Some(protocols) = &upgrade.protocols {
                to.text(PROTOCOLS, protocols);
            }
            // Envoy ends the stream after it; 0 would be no limit.
            to.number(STREAM_DURATION, (upgrade.left.micros() / 1000).max(1));
        }
    }

    /// The headers to remove from the request, present or not: a proxy may be configured to send only
    /// some of its headers here. Where the proxy removes identity headers itself, they are listed if
    /// they are present. No header that is set is among them.
    pub fn removed(&self) -> impl Iterator<Item = Cow<'a, str>> {
        let unset = IDENTITY
            .into_iter()
            .zip(self.identity)
            .filter(|(name, value)| value.is_none() && self.is_possible(name))
            .map(|(name, _)| name);
        let credential = (self.upstream_credential.is_none() && !self.forward_credential)
            .then_some("authorization");
        let forwards = self.forward_credential;
        let strip = self.strip.iter().map(String::as_str);
        let strip = strip.filter(move |name| !(forwards && is_credential_header(name)));
        let known = unset.chain(strip).map(Cow::Borrowed);
        let protocols = self.upgrade.is_some_and(|upgrade| upgrade.protocols.is_none());
        known
            .chain(protocols.then_some(Cow::Borrowed(PROTOCOLS)))
            .chain((self.cookies == Some("")).then_some(Cow::Borrowed(COOKIE)))
            .chain(self.respelled().into_iter().map(Cow::Owned))
            .chain(credential.map(Cow::Borrowed))
    }

    /// Whether the client's request may have an identity header.
    fn is_possible(&self, name: &str) -> bool {
        !self.removed_by_proxy
            || self.spoofed.iter().any(|header| header.eq_ignore_ascii_case(name))
    }

    /// The client's other spellings of headers that are set or removed, in lower case.
    fn respelled(&self) -> Vec<String> {
        let mut names = Vec::new();
        for name in self.spoofed {
            let name = name.to_ascii_lowercase();
            // INVARIANT: Envoy removes after it sets, so a name that is set is never removed.
            let known = name == DECISION_ID
                || IDENTITY.contains(&name.as_str())
                || self.strip.contains(&name);
            if !known && !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// Writes the headers for the client's response.
    pub fn response(&self, to: &mut impl HeaderSink) {
        to.text(DECISION_ID, self.decision_id);
        if let Some(nonce) = self.next_nonce {
            to.text(NONCE_HEADER, nonce);
        }
        rate_limit_headers(self.limits, to);
    }
}

/// Whether a header may hold an API key or a proof, besides `Authorization`.
fn is_credential_header(name: &str) -> bool {
    name == PROOF || KeyHeader::ALL.iter().any(|header| header.name() == name)
}

/// Appends a header value: printable ASCII as it is, everything else (and `%` itself)
/// percent-encoded. So is a space at either end, which HTTP does not count as part of a value
/// (RFC 9110 section 5.5): ` alice` must not become `alice` on the way.
fn header_value(text: &str, value: &mut Vec<u8>) {
    let has_outer_space = matches!(text.as_bytes(), [b' ', ..] | [.., b' ']);
    if is_printable_without(text.as_bytes(), [b'%', b'%']) && !has_outer_space {
        return value.extend_from_slice(text.as_bytes());
    }
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b' ' if at == 0 || at + 1 == text.len() => value.extend_from_slice(b"%20"),
            b' '..=b'~' if byte != b'%' => value.push(byte),
            // Writing into memory does not fail.
            _ => {
                let _ = write!(value, "%{byte:02X}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_values_are_printable_ascii() {
        for (text, value) in [
            ("auth0|123", "auth0|123"),
            ("a b@c", "a b@c"),
            (" alice ", "%20alice%20"),
            (" ", "%20"),
            ("100%", "100%25"),
            ("caf\u{e9}", "caf%C3%A9"),
            ("x\r\ny", "x%0D%0Ay"),
        ] {
            let mut written = Vec::new();
            header_value(text, &mut written);
            assert_eq!(String::from_utf8(written).unwrap(), value);
        }
    }

    #[test]
    fn names_that_the_proxy_removes_are_listed_where_they_arrive() {
        let (strip, spoofed) = (HeaderNames::default(), ["X-Tollgate-Model".to_owned()]);
        let answer = |removed_by_proxy, spoofed| AllowedAnswer {
            decision_id: "d",
            identity: [Some("s"), None, None, None, None, None, None, None],
            removed_by_proxy,
            limits: &[],
            upstream_credential: None,
            forward_credential: true,
            strip: &strip,
            spoofed,
            upgrade: None,
            cookies: None,
            next_nonce: None,
        };
        let removed = |removed_by_proxy, spoofed| -> Vec<String> {
            answer(removed_by_proxy, spoofed).removed().map(Cow::into_owned).collect()
        };
        assert_eq!(removed(false, &[]), IDENTITY[1..]);
        assert!(removed(true, &[]).is_empty());
        assert_eq!(removed(true, &spoofed), ["x-tollgate-model"]);
    }
}
