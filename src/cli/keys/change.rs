//! Changes of records: values in, values out.

use anyhow::{Context as _, bail};
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use tollgate_core::{
    credential::api_key::{
        DEFAULT_LIFE, GeneratedKey, KeyDigest, KeyLifetimes, KeySpec, PreviousSpec,
    },
    identity::KeyId,
    time::{Span, Timestamp, rfc3339::Rfc3339},
};

/// Makes a key of a new id.
///
/// # Errors
/// The system has no randomness.
pub(super) fn new_key() -> anyhow::Result<GeneratedKey> {
    Ok(GeneratedKey::new(&random()?, &random()?))
}

/// Makes another key of an id.
///
/// # Errors
/// The system has no randomness.
pub(super) fn key_of(id: KeyId) -> anyhow::Result<GeneratedKey> {
    Ok(GeneratedKey::with_id(id, &random()?))
}

fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).ok().context("the system has no randomness")?;
    Ok(bytes)
}

/// Returns the end of a life that begins now, in whole seconds.
pub(super) fn end(now: Timestamp, life: Option<Span>) -> Rfc3339 {
    let life = life.unwrap_or(DEFAULT_LIFE);
    Rfc3339(Timestamp::from_secs(now.secs().saturating_add(life.secs())))
}

/// Puts another secret into a record. The one before is accepted until `grace` has passed, and never
/// beyond its own end; one of an earlier rotation is not accepted any more.
///
/// # Errors
/// The new secret would end before it begins.
pub(super) fn rotated(
    record: &KeySpec,
    digest: KeyDigest,
    now: Timestamp,
    grace: Span,
    expires: Rfc3339,
) -> anyhow::Result<KeySpec> {
    if expires.0 <= now {
        bail!("a key lives at least one second");
    }
    let now = Timestamp::from_secs(now.secs());
    let issued = record.issued.unwrap_or(record.created).0;
    let own_end =
        record.expires.map_or_else(|| KeyLifetimes::UNBOUNDED.default_end(issued), |end| end.0);
    let until = end(now, Some(grace)).0.min(own_end);
    let previous = (until > now).then_some(PreviousSpec {
        digest: record.digest,
        weak: record.weak,
        issued: record.issued,
        until: Rfc3339(until),
    });
    Ok(KeySpec {
        digest,
        weak: false,
        issued: Some(Rfc3339(now)),
        expires: Some(expires),
        previous,
        ..record.clone()
    })
}

/// Returns a note on a record of a file that the default `api_keys.max_life` does not allow: a policy
/// with it refuses the whole file, and a key that was removed from the file stays accepted then.
pub(super) fn note_on_life(record: &KeySpec) -> Option<&'static str> {
    let issued = record.issued.unwrap_or(record.created).0;
    let latest = KeyLifetimes::default().latest(issued);
    record.expires.is_some_and(|end| end.0 > latest).then_some(
        "It lives longer than 90d: Tollgate refuses the whole file, and uses the one before, unless \
         `api_keys.max_life` of its configuration is as long.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_beyond_the_default_of_the_policy_has_a_note() {
        let record = |members: &str| -> KeySpec {
            let text = format!(
                r#"{{"id":"7Jk2mN4pQ8rT","digest":"{}","subject":"ci",
                    "created":"2026-01-01T00:00:00Z"{members}}}"#,
                KeyDigest::of(b"key")
            );
            serde_json::from_str(&text).unwrap()
        };
        for (members, expected) in [
            ("", false),
            (r#","expires":"2026-04-01T00:00:00Z""#, false),
            (r#","expires":"2026-04-01T00:00:01Z""#, true),
            (r#","issued":"2026-03-01T00:00:00Z","expires":"2026-05-01T00:00:00Z""#, false),
        ] {
            assert_eq!(note_on_life(&record(members)).is_some(), expected, "{members}");
        }
    }

    #[test]
    fn a_rotation_does_not_extend_the_secret_before() {
        let at = |text: &str| Rfc3339(tollgate_core::time::rfc3339::parse(text).unwrap());
        let now = at("2026-03-10T00:00:00Z").0;
        for (expires, grace, expected) in [
            (Some("2026-05-01T00:00:00Z"), "1h", Some("2026-03-10T01:00:00Z")),
            (Some("2026-05-01T00:00:00Z"), "0s", None),
            (Some("2026-03-10T00:20:00Z"), "1h", Some("2026-03-10T00:20:00Z")),
            (Some("2026-03-10T00:00:00Z"), "1h", None),
            (Some("2026-03-09T00:00:00Z"), "1h", None),
            // Without an end a key lives 90 days: until 2026-04-01.
            (None, "30d", Some("2026-04-01T00:00:00Z")),
        ] {
            let mut record: KeySpec = serde_json::from_value(serde_json::json!({
                "id": "7Jk2mN4pQ8rT",
                "digest": KeyDigest::of(b"first"),
                "subject": "ci",
                "created": "2026-01-01T00:00:00Z",
            }))
            .unwrap();
            record.expires = expires.map(at);
            let digest = KeyDigest::of(b"second");
            let end = at("2026-06-01T00:00:00Z");
            let rotated = rotated(&record, digest, now, grace.parse().unwrap(), end).unwrap();
            let until = rotated.previous.map(|old| old.until);
            assert_eq!(until, expected.map(at), "{expires:?} {grace}");
        }
    }
}
