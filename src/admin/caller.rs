//! The callers of the API: the token of the file, which may do everything, and credentials with
//! fewer rights.
//!
//! Names are compared as they are written: no pattern, no folding of case, no normal form. What a
//! credential does not list, it may not do.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use tollgate_core::{
    config::{Errors, Path},
    credential::api_key::{KeyDigest, KeyRecord},
    network::Networks,
    policy::Policy,
    text::is_identifier,
    time::{Quota, Span},
};

use super::MIN_TOKEN;
use crate::json_api::Refusal;

/// The name of the caller with the token of the file.
const ROOT: &str = "admin";

/// The most credentials.
const MAX_CREDENTIALS: usize = 256;

/// The most elements of each list of a credential.
const MAX_ELEMENTS: usize = 256;

/// A credential of the admin API: an entry of `listen.admin.credentials`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdminCredentialConfig {
    /// The name, which audit lines have as `who`.
    pub name: String,
    /// SHA-256 of the token, as `sha256:<hex>`. The token has 32 bytes at least; make one with
    /// `openssl rand -hex 32`.
    #[schemars(with = "String")]
    pub digest: KeyDigest,
    /// The calls that the credential may make.
    pub actions: Vec<AdminAction>,
    /// The tenants whose keys, bans, revocations and usage the credential sees and changes. Those of other
    /// tenants, and those without one, do not exist for it.
    #[serde(default)]
    pub tenants: Vec<String>,
    /// Whether the credential sees and changes those of every tenant, and those without one, in
    /// place of `tenants`. Default false.
    #[serde(default)]
    pub every_tenant: bool,
    /// What a key may have at most that the credential creates, imports or rotates.
    #[serde(default)]
    pub may_grant: GrantConfig,
}

/// A call of the admin API that a credential may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AdminAction {
    /// List and show API keys.
    ReadKeys,
    /// Create API keys.
    CreateKeys,
    /// Import the digests of API keys.
    ImportKeys,
    /// Rotate API keys.
    RotateKeys,
    /// Revoke API keys.
    RevokeKeys,
    /// List and check bans, and list offenders.
    ReadBans,
    /// Ban, and lift bans.
    WriteBans,
    /// List the revocations in force.
    ReadRevocations,
    /// Revoke, and remove revocations.
    WriteRevocations,
    /// Read the sums of the ledger.
    ReadUsage,
}

/// What a key may have at most.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GrantConfig {
    /// The scopes, each of which is one scope and no pattern. Default: none.
    pub scopes: Vec<String>,
    /// The models, by their policy names. A key without `models` is then refused, because it may use
    /// every model. Default: every model that the policy allows.
    pub models: Option<Vec<String>>,
    /// The tiers. Default: none.
    pub tiers: Vec<String>,
    /// The largest size that a key may have for a limit of the policy, by the name of the limit, in
    /// the form of the limit: `60/1m`, `1000/day`. Default: none, so that a key has the sizes of the
    /// policy.
    pub limits: BTreeMap<String, Quota>,
    /// The networks that contain those of a key. A key without `networks` is then refused, because
    /// it may be used from every network. Default: every network.
    #[schemars(with = "Option<Vec<String>>")]
    pub networks: Option<Networks>,
    /// The longest life of a secret. Default: `api_keys.max_life`.
    pub max_life: Option<Span>,
    /// The most usable keys of a tenant, 1 at least: those of other callers count, those that have
    /// expired do not. Beyond it the credential creates and imports none. Calls at the same time at
    /// R replicas may make R - 1 more. Default: no bound.
    pub max_keys: Option<usize>,
}

impl AdminAction {
    /// The name in the file.
    const fn name(self) -> &'static str {
        match self {
            Self::ReadKeys => "read_keys",
            Self::CreateKeys => "create_keys",
            Self::ImportKeys => "import_keys",
            Self::RotateKeys => "rotate_keys",
            Self::RevokeKeys => "revoke_keys",
            Self::ReadBans => "read_bans",
            Self::WriteBans => "write_bans",
            Self::ReadRevocations => "read_revocations",
            Self::WriteRevocations => "write_revocations",
            Self::ReadUsage => "read_usage",
        }
    }
}

impl AdminCredentialConfig {
    /// Adds the errors of a list of credentials.
    pub fn validate(list: &[Self], path: &Path, errors: &mut Errors) {
        if list.len() > MAX_CREDENTIALS {
            errors.push(path, format!("there are at most {MAX_CREDENTIALS} credentials"));
        }
        for (index, credential) in list.iter().enumerate() {
            let path = path.index(index);
            let earlier = list.get(..index).unwrap_or_default();
            if earlier.iter().any(|other| other.name == credential.name) {
                errors.push(&path.key("name"), format!("`{}` is listed twice", credential.name));
            }
            if earlier.iter().any(|other| other.digest == credential.digest) {
                errors.push(&path.key("digest"), "another credential has the same token");
            }
            credential.check(&path, errors);
        }
    }

    /// Adds the errors of sizes for limits that a policy does not have in this form: no key could have
    /// them.
    pub fn check_limits(&self, policy: &Policy, path: &Path, errors: &mut Errors) {
        let path = path.key("may_grant").key("limits");
        for (name, size) in &self.may_grant.limits {
            if !policy.has_limit(name, *size) {
                let message = format!(
                    "there is no limit `{name}` with sizes such as `{size}`: write the name of a \
                     limit, and a size in its form"
                );
                errors.push_presuming(&path.key(name), &[Path::root().key("limits")], message);
            }
        }
    }

    fn check(&self, path: &Path, errors: &mut Errors) {
        if !is_identifier(&self.name) || self.name == ROOT {
            errors.push(
                &path.key("name"),
                format!(
                    "a name is 1 to 256 characters without control characters, and not `{ROOT}`, \
                     which is the name of the caller with `token`"
                ),
            );
        }
        if self.digest == KeyDigest::of(b"") {
            errors.push(&path.key("digest"), "it is the digest of an empty token");
        }
        if self.actions.is_empty() {
            errors.push(&path.key("actions"), "list at least one action");
        }
        if self.tenants.is_empty() != self.every_tenant {
            errors.push(
                &path.key("tenants"),
                "list the tenants of the credential, or set `every_tenant: true` in their place",
            );
        }
        for (index, tenant) in self.tenants.iter().enumerate() {
            if !is_identifier(tenant) {
                errors.push(
                    &path.key("tenants").index(index),
                    "a tenant is 1 to 256 characters without control characters",
                );
            }
        }
        let grant = path.key("may_grant");
        for (index, scope) in self.may_grant.scopes.iter().enumerate() {
            if scope.contains('*') {
                errors.push(
                    &grant.key("scopes").index(index),
                    "a scope is compared as a whole, and `*` is no pattern; list each scope",
                );
            }
        }
        let lists = [
            (path.key("tenants"), self.tenants.len()),
            (grant.key("scopes"), self.may_grant.scopes.len()),
            (grant.key("models"), self.may_grant.models.as_ref().map_or(0, Vec::len)),
            (grant.key("tiers"), self.may_grant.tiers.len()),
            (grant.key("limits"), self.may_grant.limits.len()),
            (
                grant.key("networks"),
                self.may_grant.networks.iter().flat_map(Networks::iter).count(),
            ),
        ];
        for (path, length) in lists {
            if length > MAX_ELEMENTS {
                errors.push(&path, format!("there are at most {MAX_ELEMENTS} of them"));
            }
        }
        if self.may_grant.networks.as_ref().is_some_and(Networks::is_empty) {
            errors.push(&grant.key("networks"), "list the networks, or remove the list");
        }
        if self.may_grant.max_life.is_some_and(|life| life < Span::from_secs(1)) {
            errors.push(&grant.key("max_life"), "it must be 1s at least");
        }
        if self.may_grant.max_keys == Some(0) {
            errors.push(
                &grant.key("max_keys"),
                "it must be 1 at least; to create no keys, remove the actions",
            );
        }
    }
}

/// Returns the credential of a token. All are compared, so that the time does not tell which one it
/// is.
pub(super) fn credential_of<'a>(
    token: &[u8],
    credentials: &'a [AdminCredentialConfig],
) -> Option<&'a AdminCredentialConfig> {
    let digest = KeyDigest::of(token);
    let mut found = None;
    for credential in credentials {
        if credential.digest == digest {
            found = Some(credential);
        }
    }
    found.filter(|_| token.len() >= MIN_TOKEN)
}

/// The caller of an authorized call.
#[derive(Clone, Copy, Debug)]
pub(super) enum Caller<'a> {
    /// The caller has the token of the file, and may do everything.
    Root,
    /// The caller has a credential.
    Credential(&'a AdminCredentialConfig),
}

impl<'a> Caller<'a> {
    /// The name in audit lines.
    pub(super) fn name(self) -> &'a str {
        match self {
            Self::Root => ROOT,
            Self::Credential(credential) => &credential.name,
        }
    }

    /// Refuses a call that the credential does not list.
    pub(super) fn require(self, action: AdminAction) -> Result<(), Refusal> {
        match self {
            Self::Credential(credential) if !credential.actions.contains(&action) => {
                let message =
                    format!("the credential has no action `{}`; ask its owner", action.name());
                Err(Refusal::new(403, "forbidden", message))
            }
            _ => Ok(()),
        }
    }

    /// The tenants that the caller is bound to; `None`: to none.
    pub(super) fn tenants(self) -> Option<&'a [String]> {
        match self {
            Self::Credential(credential) if !credential.every_tenant => Some(&credential.tenants),
            _ => None,
        }
    }

    /// The most usable keys that a tenant may have for the caller to add one.
    pub(super) fn max_keys(self) -> Option<usize> {
        match self {
            Self::Root => None,
            Self::Credential(credential) => credential.may_grant.max_keys,
        }
    }

    /// Whether the caller sees and changes what belongs to a tenant, or to none.
    pub(super) fn sees(self, tenant: Option<&str>) -> bool {
        let Some(tenants) = self.tenants() else { return true };
        tenant.is_some_and(|tenant| tenants.iter().any(|own| own == tenant))
    }

    /// Refuses a record that has more than the caller may grant.
    pub(super) fn check_grant(self, record: &KeyRecord) -> Result<(), Refusal> {
        let Self::Credential(credential) = self else { return Ok(()) };
        let beyond = |what: String| {
            let message = format!("the credential may not grant {what}");
            Err(Refusal::new(403, "beyond_grant", message))
        };
        if !self.sees(record.tenant.as_deref()) {
            return beyond("this tenant, or no tenant; name one of its own in `tenant`".to_owned());
        }
        let grant = &credential.may_grant;
        let has = |list: &[String], name: &str| list.iter().any(|known| known == name);
        if let Some(scope) = record.scopes.iter().find(|scope| !has(&grant.scopes, scope)) {
            return beyond(format!("the scope `{scope}`"));
        }
        if let Some(models) = &grant.models {
            let Some(of_key) = &record.models else {
                return beyond("every model; name some in `models`".to_owned());
            };
            if let Some(model) = of_key.iter().find(|model| !has(models, model)) {
                return beyond(format!("the model `{model}`"));
            }
        }
        if let Some(tier) = record.tier.as_deref().filter(|tier| !has(&grant.tiers, tier)) {
            return beyond(format!("the tier `{tier}`"));
        }
        for (name, quota) in &record.limits {
            let Some(most) = grant.limits.get(&**name) else {
                return beyond(format!("a size for the limit `{name}`"));
            };
            if !quota.is_within(*most) {
                return beyond(format!("more than `{most}` for the limit `{name}`"));
            }
        }
        if let Some(networks) = &grant.networks {
            let Some(of_key) = &record.networks else {
                return beyond("every network; list some in `networks`".to_owned());
            };
            if let Some(network) = of_key.iter().find(|network| !networks.contains_all_of(network))
            {
                return beyond(format!("the network `{network}`"));
            }
        }
        if let Some(most) = grant.max_life
            && record.expires.micros().saturating_sub(record.current.issued.micros())
                > most.micros()
        {
            return beyond(format!("a life beyond {most}; state it in `expires_in`"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
