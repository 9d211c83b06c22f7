//! The fields of an audit line. Text in it may come from a client or a token, so it is truncated
//! and escaped. No token, key or cookie is a field, and the query, where clients put keys, is cut
//! off.

use std::{borrow::Cow, net::IpAddr};

use tollgate_core::{
    denial::{MAX_CAUSE, MAX_RULE, WouldDeny},
    identity::{CredentialKind, Principal},
    text::{hex_128, is_printable_without},
};

use super::json::{Object, name};
use crate::observe::rfc3339::Rfc3339;

/// The longest line in bytes, with escapes and the line break. The limits of all fields together
/// are smaller.
#[cfg(test)]
pub(crate) const MAX_LINE: usize = 5120;

/// Most bytes of a path, as escaped.
const PATH: usize = 1024;
/// Most bytes of a method, as escaped.
const METHOD: usize = 32;
/// Most bytes of a cause, as escaped: the core makes none that needs more.
const CAUSE: usize = MAX_CAUSE;
/// Most bytes of what rules in shadow would deny.
const WOULD_DENY: usize = 400;
/// Most bytes of a request id. The shortest signed token is longer.
const REQUEST_ID: usize = 128;
/// Most bytes of any other text, as escaped.
pub(crate) const TEXT: usize = 256;

/// The fields of a check's line.
pub(crate) struct CheckLine<'a> {
    pub(crate) time: Rfc3339,
    /// The decision id, in hex.
    pub(crate) decision_id: &'a [u8],
    /// The request id as the proxy sent it; one that is none is not written.
    pub(crate) request_id: Option<&'a [u8]>,
    pub(crate) client_ip: Option<IpAddr>,
    /// The kind of the credential, also of one that was refused.
    pub(crate) credential: Option<CredentialKind>,
    pub(crate) principal: Option<&'a Principal>,
    /// The issuer that a refused credential names.
    pub(crate) claimed_issuer: Option<&'a str>,
    pub(crate) method: &'a [u8],
    pub(crate) host: &'a [u8],
    /// The path with the query, which is cut off when the line is written.
    pub(crate) path: &'a [u8],
    pub(crate) model: Option<&'a str>,
    pub(crate) route: Option<&'a str>,
    pub(crate) decision: &'static str,
    pub(crate) reason: &'static str,
    /// The HTTP status of a denial.
    pub(crate) status: Option<u16>,
    pub(crate) cause: Option<&'a str>,
    /// What rules and limits in shadow would have denied.
    pub(crate) would_deny: Option<&'a WouldDeny>,
    pub(crate) microseconds: u64,
}

impl CheckLine<'_> {
    /// Writes the line. Fields without a value are omitted.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let mut line = Object::open(out);
        line.plain(name!("time"), &self.time.digits());
        line.plain(name!("event"), b"check");
        line.plain(name!("decision_id"), self.decision_id);
        if let Some(id) = self.request_id.filter(|id| is_request_id(id)) {
            line.plain(name!("request_id"), id);
        }
        if let Some(address) = self.client_ip {
            line.address(name!("client_ip"), address);
        }
        if let Some(kind) = self.credential {
            line.plain(name!("credential"), kind.label().as_bytes());
        }
        if let Some(principal) = self.principal {
            line.text(name!("sub"), principal.subject().as_bytes(), TEXT);
            line.plain(name!("holder"), principal.holder().label().as_bytes());
            line.text(name!("iss"), principal.issuer().as_bytes(), TEXT);
            if let Some(key) = principal.key() {
                line.plain(name!("key_id"), key.id.digits());
            }
            if let Some(digest) = principal.revocation().jti_digest() {
                let digits = digest.as_chunks().0.iter().map(|half| hex_128(*half));
                line.written(name!("jti_sha256"), |out| {
                    digits.for_each(|digits| out.extend_from_slice(&digits))
                });
            }
            if let Some(moment) = principal.issued_at() {
                line.number(name!("iat"), moment);
            }
            line.number(name!("exp"), principal.expires_at());
            if let Some(tenant) = principal.tenant() {
                line.text(name!("tenant"), tenant.as_bytes(), TEXT);
            }
            let mut actors = principal.actors();
            let depth = actors.len();
            if let Some(actor) = actors.next() {
                line.text(name!("actor"), actor.subject.as_bytes(), TEXT);
                if actor.issuer != principal.issuer() {
                    line.text(name!("actor_iss"), actor.issuer.as_bytes(), TEXT);
                }
                line.number(name!("actor_depth"), depth as u64);
            }
        } else if let Some(issuer) = self.claimed_issuer {
            line.text(name!("iss"), issuer.as_bytes(), TEXT);
        }
        line.text(name!("method"), self.method, METHOD);
        line.text(name!("host"), self.host, TEXT);
        line.text(name!("path"), without_query(self.path), PATH);
        if let Some(model) = self.model {
            line.text(name!("model"), model.as_bytes(), TEXT);
        }
        if let Some(route) = self.route {
            line.text(name!("route"), route.as_bytes(), TEXT);
        }
        line.plain(name!("decision"), self.decision.as_bytes());
        line.plain(name!("reason"), self.reason.as_bytes());
        if let Some(status) = self.status {
            line.number(name!("status"), status.into());
        }
        if let Some(cause) = self.cause {
            line.text(name!("cause"), cause.as_bytes(), CAUSE);
        }
        if let Some(would_deny) = self.would_deny.filter(|would_deny| !would_deny.is_empty()) {
            line.json(name!("would_deny"), |out| write_would_deny(would_deny, out));
        }
        line.number(name!("microseconds"), self.microseconds);
        line.close();
    }
}

/// Writes a list of the rules with their reasons, as many as have room.
#[cold]
fn write_would_deny(would_deny: &WouldDeny, out: &mut Vec<u8>) {
    let start = out.len();
    out.push(b'[');
    for denial in would_deny.iter() {
        let end = out.len();
        if end > start + 1 {
            out.push(b',');
        }
        let mut entry = Object::open(&mut *out);
        entry.text(name!("rule"), denial.rule.as_bytes(), MAX_RULE);
        entry.plain(name!("reason"), denial.reason.code().as_bytes());
        entry.close();
        if out.len() >= start + WOULD_DENY {
            out.truncate(end);
            break;
        }
    }
    out.push(b']');
}

/// Whether bytes are the id of a request: one printable word that needs no escapes.
fn is_request_id(id: &[u8]) -> bool {
    (1..=REQUEST_ID).contains(&id.len())
        && is_printable_without(id, [b'"', b'\\'])
        && is_printable_without(id, [b' ', b','])
}

/// Returns the path without the query and the fragment, which may hold a key.
fn without_query(path: &[u8]) -> &[u8] {
    path.split(|byte| matches!(byte, b'?' | b'#')).next().unwrap_or_default()
}

/// Returns text of at most `most` bytes as JSON escapes it. Invalid UTF-8 and control characters
/// that JSON does not escape (a terminal would obey them) become U+FFFD. Truncated text ends in
/// `…`.
pub(crate) fn truncated(bytes: &[u8], most: usize) -> Cow<'_, str> {
    if bytes.len() <= most && is_printable_without(bytes, [b'"', b'\\']) {
        return String::from_utf8_lossy(bytes);
    }
    const MARK: char = '…';
    let mut text = String::new();
    let mut size = 0;
    // The last position that leaves room for the mark.
    let mut cut = 0;
    // Lossy decoding turns a byte into at most three, so bytes beyond `most` cannot matter.
    for char in String::from_utf8_lossy(bytes.get(..=most).unwrap_or(bytes)).chars() {
        let char =
            if char.is_control() && char >= '\u{7f}' { char::REPLACEMENT_CHARACTER } else { char };
        size += match char {
            '"' | '\\' | '\u{8}' | '\t' | '\n' | '\u{c}' | '\r' => 2,
            '\0'..='\u{1f}' => 6,
            _ => char.len_utf8(),
        };
        if size > most {
            text.truncate(cut);
            text.push(MARK);
            break;
        }
        text.push(char);
        if size + MARK.len_utf8() <= most {
            cut = text.len();
        }
    }
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use tollgate_core::denial::{Denial, Reason};

    use super::*;

    #[test]
    fn text_is_cut_by_its_size_in_json() {
        for (bytes, most, expected) in [
            (&b"plain"[..], 5, "plain"),
            (b"plain!", 5, "pl…"),
            (b"a\"b", 4, "a\"b"),
            (b"a\"b", 3, "…"),
            (b"\x00\x00", 12, "\0\0"),
            (b"\x00\x00", 11, "\0…"),
            (b"\xff", 3, "\u{fffd}"),
            ("\u{9b}31m\u{7f}".as_bytes(), 20, "\u{fffd}31m\u{fffd}"),
            ("ééé".as_bytes(), 6, "ééé"),
            ("éééé".as_bytes(), 6, "é…"),
        ] {
            let text = truncated(bytes, most);
            assert_eq!(text, expected, "{bytes:?} in {most}");
            assert!(serde_json::to_string(&text).unwrap().len() - 2 <= most, "{bytes:?} in {most}");
        }
    }

    #[test]
    fn a_query_and_a_fragment_are_cut_off() {
        for (path, expected) in
            [("/a?key=s", "/a"), ("/a#key=s", "/a"), ("/a", "/a"), ("?x", ""), ("", "")]
        {
            assert_eq!(without_query(path.as_bytes()), expected.as_bytes());
        }
    }

    #[test]
    fn a_request_id_is_one_short_word() {
        for (id, expected) in [
            (&b"5f0c9a1b-7e4b-0fa0-f6c1-a5d2e39b7704"[..], true),
            (b"Root=1-67891233-abcdef012345678912345678", true),
            (&[b'a'; REQUEST_ID], true),
            (&[b'a'; REQUEST_ID + 1], false),
            (b"", false),
            (b"a b", false),
            (b"a,b", false),
            (b"a\"b", false),
            (b"a\\b", false),
            (b"a\nb", false),
            ("\u{e9}".as_bytes(), false),
        ] {
            assert_eq!(is_request_id(id), expected, "{id:?}");
        }
    }

    #[test]
    fn what_rules_in_shadow_would_deny_is_a_list() {
        let mut would_deny = WouldDeny::default();
        would_deny.record("limits", Some("a"), Denial::new(Reason::RateLimited, "full"));
        would_deny.record("tools", None, Denial::new(Reason::ToolForbidden, "no scope"));
        let mut line = Vec::new();
        write_would_deny(&would_deny, &mut line);
        assert_eq!(
            String::from_utf8(line).unwrap(),
            r#"[{"rule":"limits.a","reason":"rate_limited"},{"rule":"tools","reason":"tool_forbidden"}]"#
        );
    }

    #[test]
    fn the_longest_line_has_room() {
        let hostile = "\u{1}".repeat(20_000);
        let mut many = WouldDeny::default();
        for n in 0..20 {
            let denial = Denial::new(Reason::BudgetExhausted, "cause");
            many.record("limits", Some(&format!("{n}{}", "x".repeat(64))), denial);
        }
        let mut line = Vec::new();
        CheckLine {
            time: Rfc3339(tollgate_core::time::Timestamp::from_secs(0)),
            decision_id: b"0123456789abcdef0123456789abcdef",
            request_id: Some(&[b'x'; REQUEST_ID]),
            client_ip: Some(IpAddr::from([0xffff; 8])),
            credential: Some(CredentialKind::ApiKey),
            principal: None,
            claimed_issuer: None,
            method: hostile.as_bytes(),
            host: hostile.as_bytes(),
            path: hostile.as_bytes(),
            model: Some(&hostile),
            route: Some(&hostile),
            decision: "cancelled",
            reason: "unsupported_media_type",
            status: Some(u16::MAX),
            cause: Some(&hostile),
            would_deny: Some(&many),
            microseconds: u64::MAX,
        }
        .write(&mut line);
        let size = line.len() + 1;
        // A principal adds five texts, a digest, the id of a key, three numbers and their names.
        let who = 5 * TEXT
            + 64
            + 12
            + 2 * 20
            + 1
            + r#""actor":"","actor_iss":"","actor_depth":,"#.len()
            + r#""sub":"","holder":"client","iss":"","key_id":"","jti_sha256":"","iat":,"exp":,"tenant":"","#
                .len();
        assert!(size + who <= MAX_LINE, "{size} and {who}");
    }
}
