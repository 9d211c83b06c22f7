//! The contents of a token, for display. Nothing here is verified, and nothing here decides.

use std::cmp::Ordering;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};
use tollgate_core::{
    authenticate,
    credential::{
        Credential,
        jwt::{self, issuer::Issuers},
    },
    denial::Reason,
    request::Headers,
    stage::Check,
    time::Timestamp,
};

use crate::observe::rfc3339::Rfc3339;

/// The header and the claims of a token.
#[derive(Debug)]
pub(super) struct DecodedToken {
    pub(super) header: Map<String, Value>,
    pub(super) claims: Map<String, Value>,
}

/// Decodes the header and the claims; `None` when they are not JSON objects in base64url. It is
/// more lenient than the core.
pub(super) fn decode(token: &str) -> Option<DecodedToken> {
    let mut parts = token.split('.');
    let mut object = || {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts.next()?.trim_end_matches('=')).ok()?)
            .ok()
    };
    Some(DecodedToken { header: object()?, claims: object()? })
}

/// Returns why the core rejects the token under any policy: its size, its form, its header, or
/// claims that are not one JSON object.
pub(super) fn format_error(token: &str, now: Timestamp) -> Option<String> {
    let value = format!("Bearer {token}");
    let mut headers = Headers::default();
    headers.push("authorization", value.as_bytes());
    let token_sent = match authenticate::extract(&headers, None) {
        Ok(Credential::Jwt(token)) => token,
        Ok(
            Credential::ApiKey(_)
            | Credential::Certificate(_)
            | Credential::Cookie(_)
            | Credential::Opaque(_),
        ) => {
            return None;
        }
        Err(denial) => return Some(denial.cause.into_owned()),
    };
    // No issuer is trusted here, so that a readable token gets as far as the check of its issuer.
    let rejection = jwt::verify(token_sent, &Issuers::default(), |_| None, &[], now).err()?;
    let readable =
        rejection.check == Check::Issuer && rejection.denial.reason == Reason::UnknownIssuer;
    let named =
        decode(token).is_some_and(|token| token.claims.get("iss").is_none_or(Value::is_string));
    (!readable || !named).then(|| rejection.denial.cause.into_owned())
}

/// Returns a NumericDate as text, with its distance from `now`.
pub(super) fn date(value: &Value, now: Timestamp) -> Option<String> {
    let secs = value.as_f64().filter(|secs| (0.0..253_402_300_800.0).contains(secs))?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and the year 9999"
    )]
    let secs = secs as u64;
    let text = whole_seconds(secs);
    let now = now.secs();
    Some(match secs.cmp(&now) {
        Ordering::Equal => format!("{text} (now)"),
        Ordering::Greater => format!("{text} (in {})", two_largest_units(secs - now)),
        Ordering::Less => format!("{text} ({} ago)", two_largest_units(now - secs)),
    })
}

/// Returns a time in whole seconds, `2026-01-01T00:00:00Z`.
pub(super) fn whole_seconds(secs: u64) -> String {
    Rfc3339(Timestamp::from_secs(secs)).to_string().replace(".000000", "")
}

/// Returns seconds in the two largest units that are not zero: `2h 5m`.
fn two_largest_units(secs: u64) -> String {
    let units =
        [(secs / 86_400, "d"), (secs / 3600 % 24, "h"), (secs / 60 % 60, "m"), (secs % 60, "s")];
    let shown: Vec<String> = units
        .iter()
        .skip_while(|(count, _)| *count == 0)
        .take(2)
        .filter(|(count, _)| *count > 0)
        .map(|(count, unit)| format!("{count}{unit}"))
        .collect();
    if shown.is_empty() { "0s".into() } else { shown.join(" ") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tollgate_testkit::unsigned as token;

    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_767_225_600);

    #[test]
    fn header_and_claims_are_decoded_and_nothing_else_is() {
        let decoded = decode(&token(r#"{"alg":"none"}"#, r#"{"sub":"alice"}"#)).unwrap();
        assert_eq!(
            (decoded.header["alg"].as_str(), decoded.claims["sub"].as_str()),
            (Some("none"), Some("alice"))
        );
        for text in ["", "a", "a.b.c", "e30", "e30.W10.x"] {
            assert!(decode(text).is_none(), "{text}");
        }
    }

    #[test]
    fn what_no_policy_accepts_is_told_in_the_core_s_own_words() {
        assert_eq!(format_error(&token(r#"{"alg":"RS256"}"#, r#"{"iss":"unknown"}"#), NOW), None);
        for (header, claims, word) in [
            (r#"{"alg":"none"}"#, "{}", "algorithm"),
            (r#"{"alg":"RS256","typ":"dpop+jwt"}"#, "{}", "typ"),
            (r#"{"alg":"RS256","crit":["exp"]}"#, "{}", "crit"),
            (r#"{"alg":"RS256"}"#, r#"{"sub":"a","sub":"b"}"#, "repeated"),
            (r#"{"alg":"RS256"}"#, r#"{"iss":7}"#, "iss"),
        ] {
            let cause = format_error(&token(header, claims), NOW).unwrap();
            assert!(cause.contains(word), "{header} {claims}: {cause}");
        }
    }

    #[test]
    fn moments_are_told_with_their_distance() {
        for (value, text) in [
            (json!(1_767_225_600), "2026-01-01T00:00:00Z (now)"),
            (json!(1_767_225_900), "2026-01-01T00:05:00Z (in 5m)"),
            (json!(1_767_217_890.5), "2025-12-31T21:51:30Z (2h 8m ago)"),
            (json!(1_767_139_199), "2025-12-30T23:59:59Z (1d ago)"),
        ] {
            assert_eq!(date(&value, NOW).as_deref(), Some(text));
        }
        for value in [json!("1767225600"), json!(-1), json!(1e300), json!(null)] {
            assert_eq!(date(&value, NOW), None, "{value}");
        }
    }
}
