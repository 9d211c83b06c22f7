//! The keys of an explanation: from files, from a case file, or from `--jwks`. Nothing is fetched.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use tollgate_core::{
    credential::{
        api_key::KeyTable,
        certificate::Authorities,
        jwt::{
            issuer::{Issuer, JwksConfig, KeySource},
            key_set::{KeySet, MAX_BYTES, SkippedKey},
        },
    },
    policy::Policy,
    secret::{Secret, SecretSource},
    snapshot::Snapshot,
};

use crate::{
    cli::argument,
    config::{MAX_KEY_FILE, compile_keys},
    error_text::describe,
    policy_test::{CaseFile, stand_in_keys, stand_in_nonce_keys},
    secrets,
};

/// A policy with the keys that were found.
#[derive(Debug)]
pub(super) struct PolicyKeys {
    pub(super) snapshot: Snapshot,
    /// Whether what issuers state about opaque tokens is known: a case file has all of it.
    pub(super) knows_statements: bool,
    /// The origin of keys for each issuer.
    pub(super) sources: Vec<KeyOrigin>,
}

/// The origin of an issuer's keys, or the reason why there are none.
#[derive(Debug)]
pub(super) struct KeyOrigin {
    pub(super) note: String,
    /// Whether `serve` would fetch the keys: signatures cannot be verified here.
    pub(super) is_remote: bool,
}

/// Finds the keys of every issuer. A case file with a policy of its own (`complete`) contains all
/// keys.
///
/// # Errors
/// A file of `--jwks` cannot be used.
pub(super) fn find(
    policy: Arc<Policy>,
    case: Option<&CaseFile>,
    complete: bool,
    given: &[String],
) -> anyhow::Result<PolicyKeys> {
    let mut snapshot = Snapshot::without_keys(Arc::clone(&policy));
    let given =
        given.iter().map(|given| whose(&policy, given)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut sources = Vec::new();
    for (index, (slot, issuer)) in snapshot.keys.iter_mut().zip(policy.issuers.list()).enumerate() {
        let file = given.iter().find(|(whose, _)| *whose == index).map(|(_, file)| *file);
        let (set, note) = match file {
            Some(file) => {
                let (set, note) = read(file, issuer)?;
                (Some(set), note)
            }
            None => of(issuer, case),
        };
        *slot = set.map(Arc::new);
        let fetched = matches!(&issuer.source, KeySource::Jwks(JwksConfig { file: None, .. }));
        sources.push(KeyOrigin { note, is_remote: slot.is_none() && fetched && !complete });
    }
    snapshot.reservation_keys = stand_in_keys(&policy);
    snapshot.nonce_keys = stand_in_nonce_keys(&policy);
    if let Some(case) = case.filter(|_| complete) {
        snapshot.statements = Arc::new(case.statements(&policy)?);
    }
    snapshot.authorities = authorities(&policy)?;
    for source in &policy.upstream_keys {
        // A key that cannot be read is replaced, so that the answer has its header. Its value is
        // never printed.
        let key = secrets::resolve_blocking(source).ok();
        let key = key.filter(|key| secrets::check_upstream_key(key).is_ok());
        let credential =
            key.map_or_else(|| Secret::new("unread"), |key| secrets::upstream_credential(&key));
        snapshot.upstream_keys.push(Some(credential));
    }
    snapshot.api_keys = api_keys(&policy, case, complete)?;
    Ok(PolicyKeys { snapshot, knows_statements: complete, sources })
}

/// Returns the authorities of client certificates. Without their file, no chain can be verified here.
fn authorities(policy: &Policy) -> anyhow::Result<Option<Arc<Authorities>>> {
    let section = policy.client_certificates.as_ref();
    let Some(source) = section.and_then(|section| section.authorities.as_ref()) else {
        return Ok(None);
    };
    let Ok(text) = secrets::resolve_blocking(source) else { return Ok(None) };
    let authorities = Authorities::from_pem(text.expose());
    Ok(Some(Arc::new(authorities.context("the authorities of client certificates")?)))
}

/// Returns the tables of API keys: of the case file with a policy of its own, or of the file that
/// the policy names. Without the file, its keys cannot be verified here.
fn api_keys(
    policy: &Policy,
    case: Option<&CaseFile>,
    complete: bool,
) -> anyhow::Result<Vec<Option<Arc<KeyTable>>>> {
    let Some(keys) = &policy.api_keys else { return Ok(Vec::new()) };
    if let Some(case) = case.filter(|_| complete) {
        return Ok(vec![Some(Arc::new(case.api_keys().clone())); keys.sources()]);
    }
    // Redis is not read here.
    let redis = keys.redis.iter().map(|_| None);
    let Some(path) = &keys.file else { return Ok(redis.collect()) };
    if !path.exists() {
        return Ok(std::iter::once(None).chain(redis).collect());
    }
    let text = argument::file(path, MAX_KEY_FILE).context("the file of API keys")?;
    let text = String::from_utf8(text).context("the file of API keys")?;
    let table = Arc::new(compile_keys(path, &text, policy)?);
    Ok(std::iter::once(Some(table)).chain(redis).collect())
}

/// Reads `ISSUER=FILE`, or a file alone where there is one issuer with a key set.
fn whose<'a>(policy: &Policy, given: &'a str) -> anyhow::Result<(usize, &'a str)> {
    let issuers = policy.issuers.list();
    let named = issuers.iter().enumerate().find_map(|(index, issuer)| {
        let name = if issuer.name.is_empty() { "absent" } else { &issuer.name };
        Some((index, given.strip_prefix(name)?.strip_prefix('=')?))
    });
    if let Some(named) = named {
        return Ok(named);
    }
    let mut with_sets = issuers
        .iter()
        .enumerate()
        .filter(|(_, issuer)| matches!(issuer.source, KeySource::Jwks(_)));
    match (with_sets.next(), with_sets.next()) {
        (Some((index, _)), None) => Ok((index, given)),
        (None, _) => bail!("--jwks: no issuer of the configuration has a key set"),
        _ => bail!(
            "--jwks {given}: the configuration has several issuers with key sets; write ISSUER=FILE"
        ),
    }
}

fn of(issuer: &Issuer, case: Option<&CaseFile>) -> (Option<KeySet>, String) {
    match case.map(|case| case.key_set(issuer)) {
        Some(Ok(Some(Ok((set, skipped))))) => {
            return (Some(set), format!("keys of the case file{}", left_out(&skipped)));
        }
        Some(Ok(Some(Err(error)))) => return (None, format!("keys of the case file: {error}")),
        _ => {}
    }
    let read = match &issuer.source {
        KeySource::Secret(source) => shared_secret(source, issuer),
        KeySource::Unsigned => return (None, "none: it has opaque tokens only".to_owned()),
        KeySource::Jwks(JwksConfig { file: Some(file), .. }) => read(file, issuer),
        KeySource::Jwks(JwksConfig { url: Some(url), .. }) => return (None, fetched(url)),
        KeySource::Jwks(_) => return (None, fetched("an address that discovery finds")),
    };
    match read {
        Ok((set, note)) => (Some(set), note),
        Err(error) => (None, describe(error.as_ref())),
    }
}

fn shared_secret(source: &SecretSource, issuer: &Issuer) -> anyhow::Result<(KeySet, String)> {
    let set = KeySet::from_secret(&secrets::resolve_blocking(source)?, &issuer.algorithms)?;
    Ok((set, "shared secret".to_owned()))
}

fn fetched(from: &str) -> String {
    format!(
        "not here: `serve` fetches them from {from}. The signature cannot be checked offline; give the key set with --jwks"
    )
}

fn read(file: &str, issuer: &Issuer) -> anyhow::Result<(KeySet, String)> {
    let document = argument::file(file, MAX_BYTES).context("the key set")?;
    let (set, skipped) = KeySet::of_issuer(&issuer.name, &document, &issuer.algorithms)
        .with_context(|| format!("the key set `{file}`"))?;
    Ok((set, format!("`{file}`{}", left_out(&skipped))))
}

fn left_out(skipped: &[SkippedKey]) -> String {
    let keys: Vec<String> = skipped.iter().map(skipped_key).collect();
    if keys.is_empty() { String::new() } else { format!("; left out: {}", keys.join(", ")) }
}

fn skipped_key(SkippedKey { kid, reason }: &SkippedKey) -> String {
    match kid {
        Some(kid) => format!("`{kid}` ({reason})"),
        None => format!("a key without kid ({reason})"),
    }
}
