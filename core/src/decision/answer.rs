//! Answers: what a decision looks like to the client and to the upstream, the same through every front-end.

mod list;

use std::{borrow::Cow, fmt::Write as _};

use serde_json::json;

pub use self::list::HeaderList;
use self::list::push_number;
use super::{Denial, Dialect, Evidence, Grant, Reason};
use crate::{authz::scope::ScopeRule, limit::LimitStatus, route::Route, secret::Secret, snapshot::Snapshot, time::Span};

/// The header every answer carries that Tollgate shapes.
pub const DECISION_ID: &str = "x-tollgate-decision-id";

/// Identity headers, in a fixed order. Each is set, or removed, on every request that passes.
pub const IDENTITY: [&str; 5] =
    ["x-tollgate-subject", "x-tollgate-tenant", "x-tollgate-scopes", "x-tollgate-credential", "x-tollgate-model"];

/// A denial as an HTTP response.
#[derive(Debug)]
pub struct DeniedAnswer {
    /// The reason, for the gRPC code.
    pub reason: Reason,
    /// HTTP status.
    pub status: u16,
    /// Headers, the content type among them.
    pub headers: HeaderList,
    /// The body: JSON.
    pub body: String,
}

/// An allowed request, as changes to its headers and to its response's.
#[derive(Debug)]
pub struct AllowedAnswer<'a> {
    /// Headers for the upstream, to be set with OVERWRITE.
    pub set: HeaderList,
    /// The upstream's own credential, to be set as `Authorization` with OVERWRITE.
    pub upstream_credential: Option<&'a Secret>,
    /// Headers to take from the request. No name that is set is among them.
    pub remove: Vec<Cow<'a, str>>,
    /// Headers for the client's response.
    pub response: HeaderList,
}

/// Shapes a denial.
pub fn denied(denial: &Denial, evidence: &Evidence, decision_id: &str) -> DeniedAnswer {
    let reason = denial.reason;
    let message = denial.message.as_deref().unwrap_or_else(|| reason.text());
    let body = match evidence.dialect {
        Dialect::OpenAi => {
            json!({ "error": { "message": message, "type": reason.openai_type(), "param": denial.param, "code": reason.code() } })
        }
        Dialect::Anthropic => {
            json!({ "type": "error", "error": { "type": reason.anthropic_type(), "message": message, "code": reason.code() } })
        }
    };
    let mut headers = HeaderList::with_capacity(8);
    headers.push("content-type", "application/json");
    headers.push("cache-control", "no-store");
    if let Some(value) = challenge(denial, evidence.route.as_deref()) {
        headers.push("www-authenticate", &value);
    }
    // What is our fault passes: whoever gets a 503 is told to come back, also where the denial could not say when.
    let shortly = (reason.http() == 503).then_some(Span::from_secs(1));
    if let Some(span) = denial.retry_after.or(shortly) {
        headers.number("retry-after", span.micros().div_ceil(1_000_000));
        headers.number("retry-after-ms", span.micros().div_ceil(1000));
    }
    rate_limit_headers(&evidence.limits, &mut headers);
    headers.push(DECISION_ID, decision_id);
    DeniedAnswer { reason, status: reason.http(), headers, body: body.to_string() }
}

/// `WWW-Authenticate` after RFC 6750 section 3 (no error code when no credential was sent) and RFC 9728 section 5.1: where a
/// route has metadata, a client without a credential is told which scopes to ask for.
fn challenge(denial: &Denial, route: Option<&Route>) -> Option<String> {
    let url = route.and_then(|route| route.resource_metadata.as_deref());
    let metadata = url.map(|url| format!(", resource_metadata=\"{url}\"")).unwrap_or_default();
    let scope = match route.map(|route| &route.scopes) {
        Some(ScopeRule::All(scopes)) if url.is_some() && denial.reason == Reason::MissingCredential => scope(scopes),
        _ => scope(&denial.needed),
    };
    let error = match (denial.reason, denial.reason.http()) {
        (Reason::MissingCredential, _) => return Some(format!("Bearer realm=\"tollgate\"{metadata}{scope}")),
        (Reason::AmbiguousCredential, _) => "invalid_request",
        (_, 401) => "invalid_token",
        (Reason::InsufficientScope | Reason::ModelForbidden | Reason::ToolForbidden | Reason::CategoryForbidden, _)
            if !denial.needed.is_empty() =>
        {
            "insufficient_scope"
        }
        _ => return None,
    };
    let description = denial.reason.text().replace(['"', '\\', '`'], "'");
    Some(format!("Bearer realm=\"tollgate\"{metadata}, error=\"{error}\", error_description=\"{description}\"{scope}"))
}

/// The scopes that would do.
fn scope(scopes: &[String]) -> String {
    if scopes.is_empty() { String::new() } else { format!(", scope=\"{}\"", scopes.join(" ")) }
}

/// `x-ratelimit-*` for the limit with least room (OpenAI's names, its durations), and `RateLimit`/`RateLimit-Policy`
/// (draft-ietf-httpapi-ratelimit-headers) for all of them.
fn rate_limit_headers(limits: &[LimitStatus], headers: &mut HeaderList) {
    // The one that runs out first: least left, as a part of what there is.
    let tightest = limits.iter().min_by(|a, b| {
        let left =
            |status: &LimitStatus, other: &LimitStatus| u128::from(status.verdict.remaining) * u128::from(other.limit.max(1));
        left(a, b).cmp(&left(b, a)).then(b.verdict.retry_after.cmp(&a.verdict.retry_after))
    });
    let Some(tightest) = tightest else { return };
    headers.number("x-ratelimit-limit-requests", tightest.limit);
    headers.number("x-ratelimit-remaining-requests", tightest.verdict.remaining);
    headers.with("x-ratelimit-reset-requests", |text| go_duration(text, Span::from_micros(tightest.verdict.reset)));
    let seconds = |micros: u64| micros.div_ceil(1_000_000);
    // To the nearest second: `7/1m` has an interval that is rounded up, and its window is a minute all the same.
    let window = |micros: u64| (micros.saturating_add(500_000) / 1_000_000).max(1);
    let list = |text: &mut String, first: &str, second: &str, numbers: &dyn Fn(&LimitStatus) -> (u64, u64)| {
        for (index, status) in limits.iter().enumerate() {
            text.push_str(if index == 0 { "\"" } else { ", \"" });
            text.push_str(&status.name);
            let (one, two) = numbers(status);
            text.push_str(first);
            push_number(text, one);
            text.push_str(second);
            push_number(text, two);
        }
    };
    headers.with("ratelimit-policy", |text| list(text, "\";q=", ";w=", &|status| (status.limit, window(status.window))));
    headers.with("ratelimit", |text| {
        list(text, "\";r=", ";t=", &|status| (status.verdict.remaining, seconds(status.verdict.reset)));
    });
}

/// A duration as Go prints it, which is what OpenAI sends: `6m0s`, `1.5s`, `20ms`.
fn go_duration(text: &mut String, span: Span) {
    let millis = span.micros().div_ceil(1000);
    if (1..1000).contains(&millis) {
        push_number(text, millis);
        return text.push_str("ms");
    }
    let (hours, minutes, rest) = (millis / 3_600_000, millis / 60_000 % 60, millis % 60_000);
    if hours > 0 {
        push_number(text, hours);
        text.push('h');
    }
    if hours > 0 || minutes > 0 {
        push_number(text, minutes);
        text.push('m');
    }
    push_number(text, rest / 1000);
    let fraction = rest % 1000;
    if fraction > 0 {
        text.push('.');
        // Without the zeros at the end, with those in front.
        text.push_str(if fraction < 10 {
            "00"
        } else if fraction < 100 {
            "0"
        } else {
            ""
        });
        let shortest = if fraction % 100 == 0 {
            fraction / 100
        } else if fraction % 10 == 0 {
            fraction / 10
        } else {
            fraction
        };
        push_number(text, shortest);
    }
    text.push('s');
}

/// Shapes a grant.
pub fn allowed<'a>(grant: &'a Grant, evidence: &'a Evidence, snapshot: &'a Snapshot, decision_id: &str) -> AllowedAnswer<'a> {
    let permit = grant.permit();
    let route = permit.route();
    let mut set = HeaderList::with_capacity(1 + IDENTITY.len());
    set.push(DECISION_ID, decision_id);
    let (subject, tenant, scopes, kind) = match permit.principal() {
        Some(principal) => {
            // Without scopes the header is removed, not set: not every proxy hands an empty value on, and one that drops
            // the setting would let the client's own through.
            let scopes = Some(principal.scope_list()).filter(|scopes| !scopes.is_empty());
            (Some(principal.subject()), principal.tenant(), scopes, Some(principal.kind()))
        }
        None => (None, None, None, None),
    };
    let values = [subject, tenant, scopes, kind, permit.model()];
    let mut remove = Vec::with_capacity(IDENTITY.len() + 1 + snapshot.policy.strip_headers.len());
    for (name, value) in IDENTITY.into_iter().zip(values) {
        match value {
            Some(value) => set.with(name, |text| header_value(value, text)),
            None => remove.push(Cow::Borrowed(name)),
        }
    }
    // Removed whether seen or not: a proxy may be told to send us only some of the headers.
    remove.extend(snapshot.policy.strip_headers.iter().map(|name| Cow::Borrowed(name.as_str())));
    // INVARIANT: Envoy removes after it sets, so a name that is set is never removed.
    for name in &evidence.spoofed {
        let name = name.to_ascii_lowercase();
        if !set.has(&name) && !remove.iter().any(|known| *known == name) {
            remove.push(Cow::Owned(name));
        }
    }
    let upstream_credential = route.upstream_key.and_then(|index| snapshot.upstream_keys.get(index));
    if upstream_credential.is_none() && !route.forward_credential {
        remove.push(Cow::Borrowed("authorization"));
    }
    let mut response = HeaderList::with_capacity(6);
    response.push(DECISION_ID, decision_id);
    rate_limit_headers(&evidence.limits, &mut response);
    AllowedAnswer { set, upstream_credential, remove, response }
}

/// A header value: printable ASCII as it is, everything else (and `%` itself) percent-encoded. So is a space at either end,
/// which HTTP does not count as part of a value (RFC 9110 section 5.5): ` alice` must not become `alice` on the way.
fn header_value(text: &str, value: &mut String) {
    let plain = |byte: u8| !matches!(byte, b'%' | 0..=0x1f | 0x7f..);
    if text.bytes().all(plain) && !text.starts_with(' ') && !text.ends_with(' ') {
        return value.push_str(text);
    }
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b' ' if at == 0 || at + 1 == text.len() => value.push_str("%20"),
            _ if plain(byte) => value.push(char::from(byte)),
            // Writing into a string cannot fail.
            _ => {
                let _ = write!(value, "%{byte:02X}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::Verdict;

    fn status(name: &str, limit: u64, remaining: u64, reset: u64) -> LimitStatus {
        LimitStatus {
            name: name.into(),
            limit,
            window: limit * 1_000_000,
            verdict: Verdict { admitted: remaining > 0, remaining, retry_after: 0, reset },
        }
    }

    #[test]
    fn durations_are_go_s() {
        for (micros, text) in [
            (0, "0s"),
            (20_000, "20ms"),
            (1_000_000, "1s"),
            (1_500_000, "1.5s"),
            (1_050_000, "1.05s"),
            (1_005_000, "1.005s"),
            (61_120_000, "1m1.12s"),
            (360_000_000, "6m0s"),
            (3_661_000_000, "1h1m1s"),
            (500, "1ms"),
        ] {
            let mut written = String::new();
            go_duration(&mut written, Span::from_micros(micros));
            assert_eq!(written, text);
        }
    }

    #[test]
    fn the_tightest_limit_is_shown_and_all_are_listed() {
        let mut headers = HeaderList::default();
        rate_limit_headers(&[status("a", 60, 30, 30_000_000), status("b", 100, 10, 90_000_000)], &mut headers);
        assert_eq!(
            headers.iter().collect::<Vec<_>>(),
            [
                ("x-ratelimit-limit-requests", "100"),
                ("x-ratelimit-remaining-requests", "10"),
                ("x-ratelimit-reset-requests", "1m30s"),
                ("ratelimit-policy", "\"a\";q=60;w=60, \"b\";q=100;w=100"),
                ("ratelimit", "\"a\";r=30;t=30, \"b\";r=10;t=90"),
            ]
        );
    }

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
            let mut written = String::new();
            header_value(text, &mut written);
            assert_eq!(written, value);
        }
    }

    #[test]
    fn challenges_follow_rfc_6750() {
        let challenge = |denial: Denial| challenge(&denial, None);
        assert_eq!(challenge(Denial::new(Reason::MissingCredential, "")).unwrap(), "Bearer realm=\"tollgate\"");
        assert!(challenge(Denial::new(Reason::Expired, "")).unwrap().contains("error=\"invalid_token\""));
        let scoped = challenge(Denial::new(Reason::InsufficientScope, "").needing(["a".to_owned(), "b".to_owned()])).unwrap();
        assert!(scoped.ends_with("scope=\"a b\"") && scoped.contains("insufficient_scope"));
        assert_eq!(challenge(Denial::new(Reason::NoRoute, "")), None);
    }
}
