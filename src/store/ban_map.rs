//! The bans that checks look up: those of holders as revocations are, those of networks by the
//! length of their prefix.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher as _,
    net::IpAddr,
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use tollgate_core::{
    ban::{Ban, Kind, holder_entries, network_of_key},
    network::Network,
    revocation::{self, Keys},
    time::Timestamp,
};

use super::{
    Entry,
    revocation_map::{PackedEntry, RevocationMap},
};

/// The number of shards of the networks. Each has a lock, which is held for one entry at a time, or
/// to sweep one shard.
const SHARDS: usize = 256;

/// All bans, by their target.
#[derive(Debug, Default)]
pub(super) struct BanMap {
    holders: RevocationMap,
    networks: NetworkMap,
}

impl BanMap {
    /// Returns the ban of a network that contains an address; of several the one that ends last.
    /// Without bans of networks it costs one load, and `now` is not read.
    pub(super) fn network_ban(
        &self,
        address: IpAddr,
        now: impl FnOnce() -> Timestamp,
    ) -> Option<Ban> {
        if self.networks.total.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.networks.longest(address, now())
    }

    /// Returns the ban of the holder of a credential; of several the one that ends last.
    pub(super) fn holder_ban(&self, keys: &Keys, now: impl FnOnce() -> Timestamp) -> Option<Ban> {
        if self.holders.len() == 0 {
            return None;
        }
        let now = now();
        Ban::longest(
            holder_entries(keys)
                .filter_map(|(kind, entry)| in_force(kind, self.holders.get(entry)?, now)),
        )
    }

    /// Adds a ban, or extends the one of the same target. The key of an unknown kind, which
    /// applies to no request of this version, is left out.
    pub(super) fn add(&self, entry: &Entry) {
        match network_of_key(&entry.key) {
            Some(network) => self.networks.add(network, PackedEntry::new(entry.at, entry.ends)),
            None => self.holders.add(&entry.key, entry.at, entry.ends),
        }
    }

    /// Removes the ban of a key.
    pub(super) fn remove(&self, key: &str) {
        match network_of_key(key) {
            Some(network) => self.networks.remove(network),
            None => self.holders.remove(key),
        }
    }

    /// Begins to read all bans again. Those that are not added before
    /// [`finish_reload`](Self::finish_reload) apply until then.
    pub(super) async fn begin_reload(&self) {
        self.holders.begin_reload().await;
        self.networks
            .each(|shard| {
                shard.values_mut().for_each(PackedEntry::mark_old);
            })
            .await;
    }

    /// Removes the bans that were not added since [`begin_reload`](Self::begin_reload), and those
    /// that have ended.
    pub(super) async fn finish_reload(&self, now: Timestamp) {
        self.holders.finish_reload(now).await;
        self.networks.retain(|entry| entry.is_current() && entry.ends() > now).await;
    }

    /// Removes the bans that have ended.
    pub(super) async fn prune(&self, now: Timestamp) {
        self.holders.prune(now).await;
        self.networks.retain(|entry| entry.ends() > now).await;
    }

    /// The number of bans of each kind, in the order of [`Kind::ALL`].
    pub(super) fn counts(&self) -> [u64; Kind::ALL.len()] {
        Kind::ALL.map(|kind| match kind {
            Kind::Network => self.networks.total.load(Ordering::Acquire),
            Kind::Subject => self.holders.count_of(revocation::Kind::Subject),
            Kind::Client => self.holders.count_of(revocation::Kind::Client),
            Kind::Tenant => self.holders.count_of(revocation::Kind::Tenant),
            Kind::Actor => self.holders.count_of(revocation::Kind::Actor),
            Kind::Key => self.holders.count_of(revocation::Kind::Jti),
        })
    }
}

fn in_force(kind: Kind, entry: PackedEntry, now: Timestamp) -> Option<Ban> {
    let until = (!entry.is_endless()).then_some(entry.ends());
    (entry.ends() > now).then_some(Ban { kind, until })
}

type Networks = HashMap<([u64; 2], u8), PackedEntry>;

/// The bans of networks. An address is looked up once for each length of a prefix that a ban has:
/// 32 times at most for IPv4, 128 times for IPv6.
#[derive(Debug)]
struct NetworkMap {
    shards: Box<[RwLock<Networks>]>,
    hasher: RandomState,
    /// The number of bans with each length of prefix. Never too low.
    lengths: Box<[AtomicU64]>,
    /// The number of all bans. Never too low.
    total: AtomicU64,
}

impl Default for NetworkMap {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            hasher: RandomState::new(),
            lengths: (0..=128).map(|_| AtomicU64::new(0)).collect(),
            total: AtomicU64::new(0),
        }
    }
}

fn key_of(network: Network) -> ([u64; 2], u8) {
    let first = network.first();
    #[expect(clippy::cast_possible_truncation, reason = "the halves of 128 bits")]
    let halves = [(first >> 64) as u64, first as u64];
    (halves, network.length())
}

impl NetworkMap {
    fn longest(&self, address: IpAddr, now: Timestamp) -> Option<Ban> {
        let used = Network::around(address).filter(|network| self.count(*network) != Some(0));
        Ban::longest(used.filter_map(|network| {
            let shard = self.shard(network)?.read().unwrap_or_else(PoisonError::into_inner);
            in_force(Kind::Network, *shard.get(&key_of(network))?, now)
        }))
    }

    fn count(&self, network: Network) -> Option<u64> {
        Some(self.lengths.get(usize::from(network.length()))?.load(Ordering::Acquire))
    }

    fn shard(&self, network: Network) -> Option<&RwLock<Networks>> {
        let place = self.hasher.hash_one(key_of(network)) % SHARDS as u64;
        self.shards.get(usize::try_from(place).ok()?)
    }

    fn add(&self, network: Network, new: PackedEntry) {
        let Some(shard) = self.shard(network) else { return };
        let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
        let key = key_of(network);
        match shard.get_mut(&key) {
            // An entry from before the present reload counts for nothing.
            Some(known) => {
                *known = if known.is_current() { known.strengthened(new) } else { new };
            }
            None => {
                // Before the entry can be seen, so that the counts are never too low.
                if let Some(count) = self.lengths.get(usize::from(network.length())) {
                    count.fetch_add(1, Ordering::Release);
                }
                self.total.fetch_add(1, Ordering::Release);
                shard.insert(key, new);
            }
        }
    }

    fn remove(&self, network: Network) {
        let Some(shard) = self.shard(network) else { return };
        let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
        if shard.remove(&key_of(network)).is_some() {
            self.removed(network.length());
        }
    }

    fn removed(&self, length: u8) {
        if let Some(count) = self.lengths.get(usize::from(length)) {
            count.fetch_sub(1, Ordering::Release);
        }
        self.total.fetch_sub(1, Ordering::Release);
    }

    async fn retain(&self, keep: impl Fn(PackedEntry) -> bool) {
        self.each(|shard| {
            shard.retain(|(_, length), entry| {
                let kept = keep(*entry);
                if !kept {
                    self.removed(*length);
                }
                kept
            });
            // As much room as is used: a flood of bans that ended leaves nothing behind.
            shard.shrink_to(shard.len() * 2);
        })
        .await;
    }

    /// Changes every shard; other tasks of this thread run between two shards.
    async fn each(&self, change: impl Fn(&mut Networks)) {
        for shard in &self.shards {
            change(&mut shard.write().unwrap_or_else(PoisonError::into_inner));
            tokio::task::yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
    use tollgate_core::{
        ban::{Target, parse_network},
        revocation::{Names, issuer_digest},
    };

    use super::*;
    use crate::store::ban::NEVER;

    const NOW: u64 = 1_800_000_000;

    fn at(after: u64) -> Timestamp {
        Timestamp::from_secs(NOW + after)
    }

    fn entry(target: &Target, ends: Timestamp) -> Entry {
        Entry { key: target.key(), at: at(0), ends, note: None }
    }

    fn network(text: &str) -> Target {
        Target::Network(parse_network(text).unwrap())
    }

    fn banned(map: &BanMap, address: &str, now: u64) -> Option<Option<u64>> {
        let ban = map.network_ban(address.parse().unwrap(), || at(now))?;
        assert_eq!(ban.kind, Kind::Network);
        Some(ban.until.map(|until| until.secs() - NOW))
    }

    #[tokio::test]
    async fn of_overlapping_networks_the_last_ban_to_end_holds() {
        let map = BanMap::default();
        assert_eq!(banned(&map, "192.0.2.7", 0), None);
        for (text, ends) in [("192.0.2.0/24", 20), ("192.0.2.7", 10), ("192.0.0.0/16", 30)] {
            map.add(&entry(&network(text), at(ends)));
        }
        assert_eq!(map.counts(), [3, 0, 0, 0, 0, 0]);
        for (address, now, expected) in [
            ("192.0.2.7", 0, Some(Some(30))),
            ("::ffff:192.0.2.7", 0, Some(Some(30))),
            ("192.0.2.7", 29, Some(Some(30))),
            ("192.0.2.7", 30, None),
            ("192.0.3.7", 29, Some(Some(30))),
            ("192.1.2.7", 0, None),
            ("2001:db8::1", 0, None),
        ] {
            assert_eq!(banned(&map, address, now), expected, "{address} at {now}");
        }
        map.remove(&network("192.0.0.0/16").key());
        assert_eq!(banned(&map, "192.0.2.7", 0), Some(Some(20)));
        map.add(&entry(&network("192.0.2.7/32"), NEVER));
        assert_eq!(banned(&map, "192.0.2.7", 40), Some(None));
        map.prune(at(50)).await;
        assert_eq!(map.counts(), [1, 0, 0, 0, 0, 0]);
        assert_eq!(banned(&map, "192.0.2.7", 50), Some(None));
    }

    #[test]
    fn every_length_of_a_prefix_is_found() {
        for (address, widest) in [("203.0.113.77", 97), ("2001:db8:1:2:3:4:5:6", 1)] {
            let address = address.parse().unwrap();
            for banned in Network::around(address).filter(|network| network.length() >= widest) {
                let map = BanMap::default();
                map.add(&entry(&Target::Network(banned), at(9)));
                assert!(map.network_ban(address, || at(0)).is_some(), "{banned}");
                map.remove(&Target::Network(banned).key());
                assert!(map.network_ban(address, || at(0)).is_none(), "{banned}");
                assert!(map.networks.shards.iter().all(|shard| shard.read().unwrap().is_empty()));
            }
        }
    }

    #[test]
    fn the_map_answers_as_a_list_of_all_networks() {
        let mut random = StdRng::seed_from_u64(7);
        let addresses = ["10.0.0.1", "10.0.0.2", "10.1.0.1", "2001:db8::1", "2001:db8:8000::1"];
        let addresses: Vec<IpAddr> =
            addresses.iter().map(|address| address.parse().unwrap()).collect();
        for _ in 0..200 {
            let (map, mut list) = (BanMap::default(), HashMap::<String, (Network, u64)>::new());
            for _ in 0..60 {
                let around: Vec<_> = Network::around(*addresses.choose(&mut random).unwrap())
                    .filter(|network| !network.contains_all_ipv4())
                    .collect();
                let network = *around.choose(&mut random).unwrap();
                let target = Target::Network(network);
                if random.random_ratio(1, 3) {
                    map.remove(&target.key());
                    list.remove(&target.key());
                } else {
                    let ends = random.random_range(1..20);
                    map.add(&entry(&target, at(ends)));
                    let known = list.entry(target.key()).or_insert((network, 0));
                    known.1 = known.1.max(ends);
                }
                let now = random.random_range(0..20);
                for address in &addresses {
                    let expected = list
                        .values()
                        .filter(|(network, ends)| network.contains(*address) && *ends > now)
                        .map(|(_, ends)| *ends)
                        .max();
                    let found = map.network_ban(*address, || at(now));
                    let found = found.map(|ban| ban.until.unwrap().secs() - NOW);
                    assert_eq!(found, expected, "{address} in {list:?}");
                }
            }
        }
    }

    #[tokio::test]
    async fn a_holder_is_banned_whenever_the_credential_was_issued() {
        let map = BanMap::default();
        let subject = |name: &str| Target::Subject { issuer: "i".into(), subject: name.into() };
        let keys = |name: &str| {
            let issuer = &issuer_digest("i");
            let names = Names {
                issuer,
                token: [0; 32],
                jti: Some("j"),
                subject: name,
                subject_is_client: false,
                client: None,
                tenant: Some("t"),
            };
            Keys::new(names, NOW + 1_000_000, Vec::new())
        };
        let ban = |name: &str, now: u64| map.holder_ban(&keys(name), || at(now));
        assert_eq!(ban("a", 0), None);
        map.add(&entry(&subject("a"), at(10)));
        assert_eq!(ban("a", 9), Some(Ban { kind: Kind::Subject, until: Some(at(10)) }));
        assert_eq!((ban("a", 10), ban("b", 0)), (None, None));
        map.add(&entry(&Target::Tenant { tenant: "t".into() }, NEVER));
        let tenant = Some(Ban { kind: Kind::Tenant, until: None });
        assert_eq!((ban("a", 0), ban("b", 0)), (tenant, tenant));
        assert_eq!(map.counts(), [0, 1, 0, 1, 0, 0]);

        // A reload that does not find the tenant any more.
        map.begin_reload().await;
        assert_eq!(ban("b", 0), tenant, "all bans hold meanwhile");
        map.add(&entry(&subject("a"), at(10)));
        map.finish_reload(at(0)).await;
        assert_eq!((ban("b", 0), map.counts()), (None, [0, 1, 0, 0, 0, 0]));
    }

    #[tokio::test]
    async fn a_reload_forgets_networks_that_were_lifted() {
        let map = BanMap::default();
        for text in ["192.0.2.0/24", "2001:db8::/32"] {
            map.add(&entry(&network(text), at(9)));
        }
        map.begin_reload().await;
        assert!(banned(&map, "192.0.2.1", 0).is_some());
        map.add(&entry(&network("2001:db8::/32"), at(5)));
        map.finish_reload(at(0)).await;
        assert_eq!(banned(&map, "192.0.2.1", 0), None);
        assert_eq!(banned(&map, "2001:db8::1", 0), Some(Some(5)), "as it was read again");
        assert_eq!(map.counts(), [1, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_key_of_another_version_bans_no_request() {
        let map = BanMap::default();
        for key in ["key:0123", "network:zz/8", "network:10.0.0.0/8", ""] {
            map.add(&Entry { key: key.into(), at: at(0), ends: NEVER, note: None });
            map.remove(key);
        }
        assert_eq!(map.counts(), [0; 6]);
    }
}
