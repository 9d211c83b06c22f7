//! API keys: secrets of 256 random bits that Tollgate issues, and imported keys of other formats.
//!
//! A key is read ([`ApiKey::read`]), and its checksum compared, before anything is looked up. Its
//! record is found by its id, or by its digest where the key has a foreign format, and the digest of
//! the whole key is compared in constant time. A key without a record takes the same steps.

mod base62;
mod config;
mod digest;
mod file;
mod format;
mod lifetimes;
mod policy_names;
mod record;
mod redact;
mod shared_map;
mod spec;
mod stored;
mod table;
mod uncopied;

use std::{fmt, sync::Arc};

pub use self::{
    config::{
        ApiKeys, ApiKeysConfig, ISSUER, KeyHeader, LONGEST_GRACE, LONGEST_LIFE, ReplicateKeysConfig,
    },
    digest::{KeyDigest, KeyDigestError},
    file::{KeyFile, MAX_FILE_RECORDS},
    format::{GeneratedKey, IdEntropy, LENGTH, PREFIX, SCANNER, SecretEntropy},
    lifetimes::{DEFAULT_LIFE, KeyLifetimes},
    policy_names::PolicyNames,
    record::{EXPIRING, KeyRecord, KeySecret, KeyState, PreviousSecret},
    spec::{HolderSpec, KeySpec, PreviousSpec},
    stored::StoredKeyError,
    table::{KeyTable, KeyTableError},
};
use self::{format::Format, lifetimes::latest_issue, table::Entry};
use super::rejection::Rejection;
use crate::{
    denial::{CredentialFailure, Denial, Reason, shown},
    identity::{Claims, CredentialKind, Identity, KeyId, KeyVersion, Omitted, Principal, Validity},
    revocation::{self, ExternalDenylist, Names},
    stage::Check,
    time::{Timestamp, rfc3339::Rfc3339},
};

/// A key as the client sent it. It cannot be printed.
#[derive(Clone, Copy)]
pub struct ApiKey<'a> {
    bytes: &'a [u8],
    /// The id; `None` for a key of a foreign format.
    id: Option<KeyId>,
}

impl<'a> ApiKey<'a> {
    /// Reads a key, and compares its checksum.
    ///
    /// # Errors
    /// `invalid_api_key` for a key with the prefix `tgk_` whose format or checksum is wrong.
    pub fn read(bytes: &'a [u8]) -> Result<Self, Denial> {
        let refuse = |cause| {
            Err(Denial::new(Reason::InvalidApiKey, cause)
                .with_failure(CredentialFailure::Malformed))
        };
        match format::read(bytes) {
            Format::Key(id) => Ok(Self { bytes, id: Some(id) }),
            Format::Foreign => Ok(Self { bytes, id: None }),
            Format::Malformed => refuse("the key is not `tgk_`, an id, a secret and a checksum"),
            Format::BadChecksum => refuse("the checksum of the key is wrong: it was mistyped"),
        }
    }

    /// All bytes of the key: never kept as they are.
    pub(crate) const fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// The id, which is no secret; `None` for a key of a foreign format.
    pub const fn id(self) -> Option<KeyId> {
        self.id
    }
}

impl fmt::Debug for ApiKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[api key]")
    }
}

/// The tables and the parts of the policy that a verification reads.
#[derive(Clone, Copy)]
pub struct KeyContext<'a> {
    /// The tables of all sources; `None` while a source has none that may be used.
    pub tables: &'a [Option<Arc<KeyTable>>],
    /// The section `api_keys` of the policy.
    pub keys: &'a ApiKeys,
    /// The names of the policy that records refer to.
    pub names: PolicyNames<'a>,
    /// The denylists of other services.
    pub denylists: &'a [ExternalDenylist],
}

impl fmt::Debug for KeyContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyContext").field("keys", &self.keys).finish_non_exhaustive()
    }
}

impl KeyTable {
    /// Returns the record that a key names, by its id or its digest. Whether the secret is that of
    /// the record is not compared.
    pub fn find(&self, key: ApiKey<'_>) -> Option<&Arc<KeyRecord>> {
        let entry = match key.id {
            Some(id) => self.entry(&id),
            None => self.foreign_entry(&KeyDigest::of(key.bytes)),
        };
        entry.map(|entry| &entry.record)
    }
}

/// Verifies a key at `now`.
///
/// # Errors
/// `invalid_api_key` for a key that is unknown, wrong or expired, or whose record does not fit the
/// policy: the client gets one answer, the cause differs. `not_ready` while a source that may know
/// the key has no table, and for a key whose record is not in the table of its source.
pub fn verify(
    key: ApiKey<'_>,
    context: KeyContext<'_>,
    now: Timestamp,
) -> Result<Arc<Principal>, Rejection> {
    let mut check = Check::Key;
    checks(key, context, now, &mut check).map_err(|Unverified { denial, record }| Rejection {
        kind: CredentialKind::ApiKey,
        denial,
        check,
        refresh: None,
        record,
        // To verify a key again takes less than to remember that it was refused.
        introspect: None,
        settled: None,
    })
}

/// The reason why a key is not verified.
struct Unverified {
    denial: Box<Denial>,
    /// The id of the record that is missing.
    record: Option<KeyId>,
}

impl From<Denial> for Unverified {
    fn from(denial: Denial) -> Self {
        Self { denial: Box::new(denial), record: None }
    }
}

fn checks(
    key: ApiKey<'_>,
    context: KeyContext<'_>,
    now: Timestamp,
    check: &mut Check,
) -> Result<Arc<Principal>, Unverified> {
    let digest = KeyDigest::of(key.bytes);
    let tables = context.tables.iter().enumerate();
    let mut found = tables.filter_map(|(source, table)| {
        let table = table.as_ref()?;
        let entry = match key.id {
            Some(id) => table.entry(&id),
            None => table.foreign_entry(&digest),
        };
        Some((source, table, entry?))
    });
    let Some((source, table, Entry { serial, record })) = found.next() else {
        let mut tables = context.tables.iter().flatten();
        return Err(match tables.find_map(|table| table.uncopied_id(key.id, &digest)) {
            Some(id) => uncopied(id),
            None => unknown(key, context.tables.iter().all(Option::is_some)).into(),
        });
    };
    *check = Check::Signature;
    // Both are compared, so that the time does not tell which one it is.
    let (mut matching, mut fits_kind) = (None, false);
    for (secret, until) in record.secrets() {
        if secret.digest == digest {
            matching = Some((secret, until));
            fits_kind = secret.weak == key.id.is_none();
        }
    }
    let Some((secret, until)) = matching.filter(|_| fits_kind) else {
        let refuse = |cause: String| Denial::new(Reason::InvalidApiKey, cause);
        return Err(match matching {
            // A foreign key without the mark is found by no digest, so that this is the one misfit.
            Some(_) => refuse(format!(
                "the record of the key `{}` marks its secret as one of a foreign format, which it is \
                 not; remove `weak`",
                record.id
            )),
            None => {
                let cause = format!("the secret of the key `{}` is wrong, or was rotated", record.id);
                refuse(cause).with_failure(CredentialFailure::UnknownKey)
            }
        }
        .into());
    };
    *check = Check::Times;
    if secret.issued > latest_issue(now) {
        let at = Rfc3339(secret.issued);
        let cause = format!("the key `{}` was issued in the future, at {at}", record.id);
        return Err(Denial::new(Reason::InvalidApiKey, cause).into());
    }
    let until = until.min(context.keys.lifetimes.latest(secret.issued));
    if now >= until {
        let cause = match &record.previous {
            Some(old) if std::ptr::eq(&raw const old.secret, secret) => format!(
                "the secret of the key `{}` was rotated, and its grace ended at {}",
                record.id,
                Rfc3339(until)
            ),
            _ => format!("the key `{}` expired at {}", record.id, Rfc3339(until)),
        };
        return Err(Denial::new(Reason::InvalidApiKey, cause).into());
    }
    *check = Check::Claims;
    fits_policy(record, &context)?;
    let keys = KeyVersion { source, generation: table.generation().clone() };
    let validity = Validity { since: now, until, keys };
    Ok(Arc::new(principal(record, secret, *serial, validity, &context)?))
}

fn uncopied(id: KeyId) -> Unverified {
    let cause = format!("the record of the key `{id}` is not in the copy of its source");
    let denial = Denial::new(Reason::NotReady, cause)
        .with_message("the record of the API key is not available yet; retry shortly");
    Unverified { denial: Box::new(denial), record: Some(id) }
}

fn unknown(key: ApiKey<'_>, is_complete: bool) -> Denial {
    let what = match key.id {
        Some(id) => format!("the id `{id}`"),
        None => "the digest of the key".to_owned(),
    };
    if is_complete {
        return Denial::new(Reason::InvalidApiKey, format!("no record has {what}"))
            .with_failure(CredentialFailure::UnknownKey);
    }
    let cause = format!("a source of API keys is not read yet, and no other has {what}");
    Denial::new(Reason::NotReady, cause)
        .with_message("the API keys are not available yet; retry shortly")
}

/// A limit or a tier that the policy does not have would leave the key without the restriction that
/// its record names.
fn fits_policy(record: &KeyRecord, context: &KeyContext<'_>) -> Result<(), Denial> {
    let cause = if let Some(limit) = context.names.unknown_limit(record) {
        format!("the limit `{}`, which the policy does not have", shown(limit))
    } else if let Some(tier) = context.names.unknown_tier(record) {
        format!("the tier `{}`, which no override of a limit selects", shown(tier))
    } else {
        return Ok(());
    };
    let cause = format!("the record of the key `{}` names {cause}", record.id);
    Err(Denial::new(Reason::InvalidApiKey, cause))
}

fn principal(
    record: &KeyRecord,
    secret: &KeySecret,
    serial: u64,
    validity: Validity,
    context: &KeyContext<'_>,
) -> Result<Principal, Denial> {
    let id = record.id.as_str();
    let digest = secret.digest.bytes();
    let foreign = context.denylists.iter().map(|list| list.key(Some(id), &record.subject, digest));
    let names = Names {
        issuer: &context.keys.issuer_digest,
        token: *digest,
        jti: Some(id),
        subject: &record.subject,
        subject_is_client: false,
        client: record.owner.as_deref(),
        tenant: record.tenant.as_deref(),
    };
    let issued_at = secret.issued.secs();
    let revocation = revocation::Keys::new(names, issued_at, foreign.flatten().collect());
    let identity = Identity {
        kind: CredentialKind::ApiKey,
        issuer: Arc::clone(&context.keys.issuer),
        subject: &record.subject,
        holder: record.holder,
        tenant: record.tenant.as_deref(),
        is_tenant_fixed: false,
        client: record.owner.as_deref(),
        scopes: &record.scopes,
        omitted: Omitted::default(),
        roles: &[],
        claims: Claims::default(),
        issued_at: Some(issued_at),
        expires_at: validity.until.secs(),
    };
    let principal = Principal::new(identity, validity, revocation)
        .map_err(|error| Denial::new(Reason::InvalidApiKey, format!("key `{id}`: {error}")))?;
    Ok(principal.with_key(record.terms(secret, serial)))
}

#[cfg(test)]
mod tests;
