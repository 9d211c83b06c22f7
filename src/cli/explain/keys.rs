//! The keys an explanation can use: what lies in files, what a case brings, what is given with
//! `--jwks`. Nothing is fetched.

use std::{path::Path, sync::Arc};

use anyhow::bail;
use tollgate_core::{
    credential::jwt::{
        issuer::{Issuer, JwksConfig, KeySource},
        key_set::{KeySet, SkippedKey},
    },
    policy::Policy,
    secret::Secret,
    snapshot::Snapshot,
};

use crate::{policy_test::CaseFile, secrets};

/// A policy with the keys that could be found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) snapshot: Snapshot,
    /// For each issuer.
    pub(super) sources: Vec<Source>,
}

/// Where the keys of an issuer are from, or why there are none.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) note: String,
    /// `serve` would fetch them: what a signature is worth cannot be told here.
    pub(super) elsewhere: bool,
}

/// Finds the keys of every issuer. A case with a policy of its own (`complete`) brings all the keys
/// there are.
///
/// # Errors
/// A file given with `--jwks` that cannot be used.
pub(super) fn find(
    policy: Arc<Policy>,
    case: Option<&CaseFile>,
    complete: bool,
    given: &[String],
) -> anyhow::Result<Found> {
    let mut snapshot = Snapshot::without_keys(Arc::clone(&policy));
    let given =
        given.iter().map(|given| whose(&policy, given)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut sources = Vec::new();
    for (index, (slot, issuer)) in snapshot.keys.iter_mut().zip(policy.issuers.list()).enumerate() {
        let file = given.iter().find(|(whose, _)| *whose == index).map(|(_, file)| *file);
        let (set, note) = match file {
            Some(file) => {
                let (set, note) = read(file, issuer).map_err(anyhow::Error::msg)?;
                (Some(set), note)
            }
            None => of(issuer, case),
        };
        *slot = set.map(Arc::new);
        let fetched = matches!(&issuer.source, KeySource::Jwks(JwksConfig { file: None, .. }));
        sources.push(Source { note, elsewhere: slot.is_none() && fetched && !complete });
    }
    for source in &policy.upstream_keys {
        // A key that cannot be read here keeps its place, so that the answer has its header. Its
        // value is not shown.
        let key = secrets::upstream_credentials(std::slice::from_ref(source))
            .ok()
            .and_then(|mut keys| keys.pop());
        snapshot.upstream_keys.push(key.unwrap_or_else(|| Secret::new("unread")));
    }
    Ok(Found { snapshot, sources })
}

/// `ISSUER=FILE`, or a file alone where there is one issuer with a key set.
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
    if let Some(Ok(Some(set))) = case.map(|case| case.key_set(issuer)) {
        return (Some(set), "keys of the case file".into());
    }
    let read = match &issuer.source {
        KeySource::Secret(source) => secrets::resolve(source)
            .map_err(|error| error.to_string())
            .and_then(|secret| {
                KeySet::from_secret(&secret, &issuer.algorithms).map_err(|error| error.to_string())
            })
            .map(|set| (set, "shared secret".to_owned())),
        KeySource::Jwks(JwksConfig { file: Some(file), .. }) => read(file, issuer),
        KeySource::Jwks(JwksConfig { url: Some(url), .. }) => Err(fetched(url)),
        KeySource::Jwks(_) => Err(fetched("an address that discovery finds")),
    };
    match read {
        Ok((set, note)) => (Some(set), note),
        Err(why) => (None, why),
    }
}

fn fetched(from: &str) -> String {
    format!(
        "not here: `serve` fetches them from {from}. The signature cannot be checked offline; give the key set with --jwks"
    )
}

fn read(file: &str, issuer: &Issuer) -> Result<(KeySet, String), String> {
    let document = std::fs::read(Path::new(file))
        .map_err(|error| format!("the key set `{file}` cannot be read: {error}"))?;
    let (set, skipped) = KeySet::parse(&document, &issuer.algorithms)
        .map_err(|error| format!("the key set `{file}`: {error}"))?;
    let left_out: Vec<String> = skipped.iter().map(told).collect();
    let note = if left_out.is_empty() {
        String::new()
    } else {
        format!("; left out: {}", left_out.join(", "))
    };
    Ok((set, format!("`{file}`{note}")))
}

fn told(SkippedKey { kid, reason }: &SkippedKey) -> String {
    match kid {
        Some(kid) => format!("`{kid}` ({reason})"),
        None => format!("a key without kid ({reason})"),
    }
}
