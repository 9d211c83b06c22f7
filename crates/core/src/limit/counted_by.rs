//! The attributes of a request that limits count by, and the identity of what they count.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{bucket::BucketId, shard::CountedWithin};
use crate::{
    config::{Errors, Path},
    denial::{Denial, Reason},
    identity::{Actor, Part, Principal},
    network::Network,
    revocation::EntryKey,
};

/// An attribute of a request that a limit can count by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// Issuer and subject of the credential, or its client id where it has no subject of its own.
    Subject,
    /// Issuer and tenant of the credential. Issuers with the same fixed `tenant` share its bucket.
    Tenant,
    /// Issuer and client id of the credential.
    Client,
    /// The id of an API key. A request with another kind of credential is denied.
    Key,
    /// The credential itself: each token, and each secret of an API key.
    Token,
    /// The actor for the subject: issuer and `sub` of the outermost claim `act` (RFC 8693), within
    /// the issuer of the credential.
    /// A credential without this claim is counted by its subject, which acts for itself.
    Actor,
    /// The model, by its name in the policy. The names must be few: those of `models`, a fixed one,
    /// or those that `model.scope` binds to a scope of the credential.
    Model,
    /// The route of the request.
    Route,
    /// The client's address as reported by the proxy. IPv6 is counted by /64.
    Address,
}

impl By {
    const fn label(self) -> &'static str {
        match self {
            Self::Subject => "subject",
            Self::Tenant => "tenant",
            Self::Client => "client",
            Self::Key => "key",
            Self::Token => "token",
            Self::Actor => "actor",
            Self::Model => "model",
            Self::Route => "route",
            Self::Address => "address",
        }
    }
}

/// The attributes of one request that limits count by.
#[derive(Clone, Copy, Debug)]
pub struct ChargeSubject<'a> {
    /// The principal; `None` on a public route.
    pub principal: Option<&'a Principal>,
    /// The model's name in the policy.
    pub model: Option<&'a str>,
    /// The route's name.
    pub route: &'a str,
    /// The client's address.
    pub address: Option<IpAddr>,
}

/// What a limit counts by.
#[derive(Clone, Debug)]
pub(super) struct CountedBy {
    by: Vec<By>,
    /// The part of the identity that all its counters share.
    base_id: BucketId,
}

impl CountedBy {
    /// Compiles name and `by` of a limit and records every error. The counters of limits of two
    /// kinds differ.
    pub(super) fn compile(
        name: &str,
        kind: Option<&str>,
        by: &[By],
        path: &Path,
        errors: &mut Errors,
    ) -> Self {
        let is_named =
            name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if name.is_empty() || name.len() > 64 || !is_named {
            errors.push(
                &path.key("name"),
                "a limit's name is 1 to 64 letters, digits, `-`, `_` or `.`",
            );
        }
        let path = path.key("by");
        if by.is_empty() {
            errors.push(
                &path,
                "a limit counts by something; list at least one of subject, tenant, client, key, token, actor, model, route, address",
            );
        }
        for (index, one) in by.iter().enumerate() {
            if by.iter().take(index).any(|earlier| earlier == one) {
                errors.push(&path.index(index), format!("`{}` is listed twice", one.label()));
            }
        }
        let labels: Vec<&str> = by.iter().map(|by| by.label()).collect();
        let kind = kind.map(|kind| format!(" {kind}")).unwrap_or_default();
        let base_id = BucketId::of(format!("{name}{kind} by {}", labels.join(", ")));
        Self { by: by.to_vec(), base_id }
    }

    /// Whether an attribute is one of the credential.
    pub(super) fn needs_principal(&self) -> bool {
        use By::{Actor, Client, Key, Subject, Tenant, Token};
        let is_of_principal =
            |by: &By| matches!(by, Subject | Tenant | Client | Key | Token | Actor);
        self.by.iter().any(is_of_principal)
    }

    /// Whether the model is one of the attributes.
    pub(super) fn needs_model(&self) -> bool {
        self.by.contains(&By::Model)
    }

    /// What the requests that one counter counts have in common. A token, and a key by its record, is
    /// one of one subject and one tenant.
    pub(super) fn within(&self) -> CountedWithin {
        let is_one =
            |of: By| self.by.iter().any(|by| *by == of || matches!(by, By::Token | By::Key));
        CountedWithin { tenant: is_one(By::Tenant), subject: is_one(By::Subject) }
    }

    /// Whether a part of the identity is one of the attributes.
    pub(super) fn uses(&self, part: Part) -> bool {
        match part {
            Part::Tenant => self.by.contains(&By::Tenant),
            Part::Client => self.by.contains(&By::Client),
            Part::Roles | Part::Scopes | Part::Id => false,
        }
    }

    /// Returns the identity of what a request is counted in.
    ///
    /// # Errors
    /// A denial if the request lacks an attribute.
    pub(super) fn id(&self, facts: &ChargeSubject<'_>) -> Result<BucketId, Denial> {
        Ok(self.base_id.with(self.attributes(facts)?))
    }

    /// Returns the identity within the limit: that of the one attribute, or the digest of several,
    /// because a client may choose two of them.
    fn attributes(&self, facts: &ChargeSubject<'_>) -> Result<BucketId, Denial> {
        if let [by] = *self.by {
            return part(facts, by);
        }
        let mut parts = Vec::with_capacity(self.by.len() * 16);
        for by in &self.by {
            parts.extend(part(facts, *by)?.bytes());
        }
        Ok(BucketId::of(parts))
    }
}

/// Returns the identity of one attribute of the request.
fn part(facts: &ChargeSubject<'_>, by: By) -> Result<BucketId, Denial> {
    let keys = || facts.principal.map(Principal::revocation).ok_or_else(|| missing(by));
    Ok(match by {
        By::Subject => keys()?.subject().fingerprint().into(),
        By::Client => keys()?.client().ok_or_else(|| missing(by))?.fingerprint().into(),
        By::Key => {
            let key = facts.principal.and_then(Principal::key).ok_or_else(|| missing(by))?;
            BucketId::of(key.id.digits())
        }
        By::Token => keys()?.token().fingerprint().into(),
        By::Actor => actor(facts.principal.ok_or_else(|| missing(by))?),
        // Two issuers may use one name for two tenants.
        By::Tenant => {
            let keys = keys()?;
            let shared = facts.principal.is_some_and(Principal::is_tenant_fixed);
            let tenant = if shared {
                keys.tenant().map(EntryKey::fingerprint)
            } else {
                keys.tenant_of_issuer()
            };
            tenant.ok_or_else(|| missing(by))?.into()
        }
        By::Model => BucketId::of(facts.model.ok_or_else(|| missing(by))?),
        By::Route => BucketId::of(facts.route),
        By::Address => BucketId::of(network(facts.address.ok_or_else(|| missing(by))?)),
    })
}

/// Returns the identity of the actor of a credential.
fn actor(principal: &Principal) -> BucketId {
    match principal.actor() {
        // What one issuer says of an actor counts for the tokens of no other one.
        Some(Actor { issuer, subject }) => {
            BucketId::of([principal.issuer(), issuer, subject].join("\n"))
        }
        None => {
            let subject = BucketId::from(principal.revocation().subject().fingerprint());
            BucketId::of([b"subject\n", &subject.bytes()[..]].concat())
        }
    }
}

fn missing(by: By) -> Denial {
    let reason = match by {
        By::Tenant => Reason::TenantMismatch,
        By::Address => Reason::AddressForbidden,
        By::Model => Reason::ModelMissing,
        By::Subject | By::Client | By::Key | By::Token | By::Actor | By::Route => {
            Reason::InvalidClaim
        }
    };
    let denial =
        Denial::new(reason, format!("a limit counts by {}, and the request has none", by.label()));
    match by {
        By::Tenant => denial
            .with_message("the credential names no tenant, and this endpoint is counted by tenant"),
        By::Client => {
            denial.with_message("the token names no client, and this endpoint is counted by client")
        }
        By::Key => denial
            .with_message("the credential is no API key, and this endpoint is counted by API key"),
        _ => denial,
    }
}

/// Returns the network that a bucket is counted by: the IPv4 address, also where it is translated
/// (RFC 6052), or the /64 of an IPv6 address, within which one client can choose its address.
fn network(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V6(v6) if Network::of_prefix(address, 32, 64).is_ipv4() => v6.to_string(),
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
    }
}
