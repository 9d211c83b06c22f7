//! Changes of records: values in, values out.

use anyhow::{Context as _, bail};
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use tollgate_core::{
    credential::api_key::{DEFAULT_LIFE, GeneratedKey, KeyDigest, KeySpec, PreviousSpec},
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

/// Puts another secret into a record. The one before is accepted until `grace` has passed; one of an
/// earlier rotation is not accepted any more.
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
    let previous = (grace.micros() > 0).then(|| PreviousSpec {
        digest: record.digest,
        weak: record.weak,
        issued: record.issued,
        until: end(now, Some(grace)),
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
