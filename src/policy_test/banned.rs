//! The bans of a case.

use tollgate_core::{
    ban::{Ban, Kind, Target, automatic_key, holder_entries, network_key, parse_network},
    network::Network,
    revocation,
    time::Timestamp,
};

use super::{CaseError, spec::BannedSpec};

/// A ban in a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Banned {
    /// What is banned.
    pub target: Target,
    /// Whether the ban is an automatic one of a network.
    pub is_automatic: bool,
    /// The moment when the ban ends; `None`: when it is lifted.
    pub until: Option<Timestamp>,
}

impl Banned {
    /// Reads a ban. `issuer` is that of the case's token.
    pub(super) fn of(spec: &BannedSpec, issuer: &str, now: Timestamp) -> Result<Self, CaseError> {
        let issuer = || spec.issuer.clone().unwrap_or_else(|| issuer.to_owned());
        let BannedSpec { subject, client, tenant, network, key, actor, .. } = spec;
        let mut targets = Vec::new();
        targets
            .extend(subject.clone().map(|subject| Target::Subject { issuer: issuer(), subject }));
        targets.extend(client.clone().map(|client| Target::Client { issuer: issuer(), client }));
        targets.extend(tenant.clone().map(|tenant| Target::Tenant { tenant }));
        targets.extend(actor.clone().map(|actor| Target::Actor { issuer: issuer(), actor }));
        if let Some(network) = network {
            targets.push(Target::Network(parse_network(network)?));
        }
        if let Some(id) = key {
            targets.push(Target::Key { id: id.parse()? });
        }
        let Ok([target]) = <[Target; 1]>::try_from(targets) else { return Err(CaseError::Ban) };
        if spec.automatic && target.kind() != Kind::Network {
            return Err(CaseError::Ban);
        }
        let until = spec.until.map(|offset| offset.from(now));
        Ok(Self { target, is_automatic: spec.automatic, until })
    }

    /// Returns the ban if it is in force at `now`, and its key is `key`.
    fn found(&self, key: &str, now: Timestamp) -> Option<Ban> {
        let in_force = self.until.is_none_or(|until| until > now);
        let (own, kind) = match &self.target {
            Target::Network(network) if self.is_automatic => {
                (automatic_key(*network), Kind::AutomaticNetwork)
            }
            target => (target.key(), target.kind()),
        };
        (in_force && own == key).then_some(Ban { kind, until: self.until })
    }
}

/// Returns the ban of the holder of a credential that ends last.
pub(super) fn of_holder(bans: &[Banned], keys: &revocation::Keys, now: Timestamp) -> Option<Ban> {
    let keys = holder_entries(keys).map(|(_, entry)| entry.key());
    longest(bans, keys, now)
}

/// Returns the ban of the networks of an address that ends last; an automatic one where there is no
/// other.
pub(super) fn of_address(
    bans: &[Banned],
    address: std::net::IpAddr,
    now: Timestamp,
) -> Option<Ban> {
    longest(bans, Network::around(address).map(network_key), now)
        .or_else(|| longest(bans, Network::around(address).map(automatic_key), now))
}

fn longest(bans: &[Banned], keys: impl Iterator<Item = String>, now: Timestamp) -> Option<Ban> {
    let found = |key: String| bans.iter().filter_map(move |ban| ban.found(&key, now));
    Ban::longest(keys.flat_map(found))
}
