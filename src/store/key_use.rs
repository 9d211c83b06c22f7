//! The uses of API keys: what is merged into a store, and the rule for a new network.

use std::collections::HashMap;

use tollgate_core::{
    identity::KeyId,
    network::Network,
    time::{Span, Timestamp},
};

/// The most networks of a key that are known. A key that is used from more has no new ones.
pub const MOST_NETWORKS: usize = 32;

/// The most updates that are merged at once.
pub const MOST_UPDATES: usize = 256;

/// How long a network of a key is known after the last use from it.
pub(super) const NETWORK_LIFE: Span = Span::from_secs(90 * 86_400);

/// How long the uses of a key are known after the last change.
pub(super) const KEY_LIFE: Span = Span::from_secs(400 * 86_400);

/// Uses of a key, and notices about it, to merge into what is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyUpdate {
    /// The id of the key.
    pub id: KeyId,
    /// The last use.
    pub last: Option<Timestamp>,
    /// The networks of the uses, in the order in which they were first seen.
    pub networks: Vec<Network>,
    /// The kinds of notices about the end of the key, each with that end.
    pub notices: Vec<(&'static str, Timestamp)>,
}

/// The networks of keys that this process has seen, where no Redis has those of all replicas. It
/// follows the same rule as `use_keys.lua`.
#[derive(Debug, Default)]
pub struct SeenNetworks {
    keys: HashMap<KeyId, HashMap<Network, Timestamp>>,
}

impl SeenNetworks {
    /// Merges the networks of an update at `now`, and returns the new ones.
    pub fn merge(&mut self, update: &KeyUpdate, now: Timestamp) -> Vec<Network> {
        if update.networks.is_empty() {
            return Vec::new();
        }
        let known = self.keys.entry(update.id).or_default();
        known.retain(|_, seen| seen.secs().saturating_add(NETWORK_LIFE.secs()) > now.secs());
        let mut new = Vec::new();
        for network in &update.networks {
            let is_known = known.contains_key(network);
            if !is_known && known.len() >= MOST_NETWORKS {
                continue;
            }
            if !is_known && !known.is_empty() {
                new.push(*network);
            }
            known.insert(*network, now);
        }
        new
    }

    /// Removes the keys that do not exist any more.
    pub fn retain(&mut self, exists: impl Fn(&KeyId) -> bool) {
        self.keys.retain(|id, _| exists(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(networks: &[&str]) -> KeyUpdate {
        let networks = networks.iter().map(|text| Network::parse(text).unwrap());
        KeyUpdate {
            id: "7Jk2mN4pQ8rT".parse().unwrap(),
            last: None,
            networks: networks.collect(),
            notices: Vec::new(),
        }
    }

    #[test]
    fn a_network_is_new_where_others_of_the_key_are_known() {
        let mut seen = SeenNetworks::default();
        let day = |days: u64| Timestamp::from_secs(days * 86_400);
        for (at, networks, expected) in [
            (1, &["192.0.2.0/24"][..], &[][..]),
            (2, &["192.0.2.0/24"], &[]),
            (2, &["198.51.100.0/24", "192.0.2.0/24"], &["198.51.100.0/24"]),
            (3, &["198.51.100.0/24"], &[]),
            // 90 days after the last use from it a network is new again.
            (92, &["192.0.2.0/24"], &["192.0.2.0/24"]),
            (300, &["203.0.113.0/24", "192.0.2.0/24"], &["192.0.2.0/24"]),
        ] {
            let new = seen.merge(&update(networks), day(at));
            let new: Vec<String> = new.iter().map(ToString::to_string).collect();
            assert_eq!(new, expected, "day {at}, {networks:?}");
        }
    }

    #[test]
    fn a_key_that_is_used_from_everywhere_has_no_new_networks() {
        let mut seen = SeenNetworks::default();
        let networks: Vec<String> = (0..100).map(|number| format!("10.0.{number}.0/24")).collect();
        let networks: Vec<&str> = networks.iter().map(String::as_str).collect();
        let new = seen.merge(&update(&networks), Timestamp::from_secs(0));
        assert_eq!(new.len(), MOST_NETWORKS - 1);
        assert_eq!(seen.keys.values().next().unwrap().len(), MOST_NETWORKS);
        seen.retain(|_| false);
        assert!(seen.keys.is_empty());
    }
}
