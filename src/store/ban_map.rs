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
    ban::{Ban, Kind, automatic_network_of_key, holder_entries, network_of_key},
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
    /// Returns the ban of a network that contains an address; of several the one that ends last, and
    /// an automatic one only where there is no other. Without bans of networks it costs one load, and
    /// `now` is not read.
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
        match BannedNetwork::of_key(&entry.key) {
            Some(network) => self.networks.add(network, PackedEntry::new(entry.at, entry.ends)),
            None => self.holders.add(&entry.key, entry.at, entry.ends),
        }
    }

    /// Removes the ban of a key.
    pub(super) fn remove(&self, key: &str) {
        match BannedNetwork::of_key(key) {
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
            Kind::Network => self.networks.number(false),
            Kind::AutomaticNetwork => self.networks.number(true),
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

type Networks = HashMap<BannedNetwork, PackedEntry>;

/// The lengths of prefixes: 0 to 128.
const LENGTHS: usize = 129;

/// A network that is banned: the key of its ban in the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct BannedNetwork {
    /// The first address. Two halves need less room than 128 bits with their alignment.
    first: [u64; 2],
    length: u8,
    is_automatic: bool,
}

impl BannedNetwork {
    fn new(network: Network, is_automatic: bool) -> Self {
        let first = network.first();
        #[expect(clippy::cast_possible_truncation, reason = "the halves of 128 bits")]
        let first = [(first >> 64) as u64, first as u64];
        Self { first, length: network.length(), is_automatic }
    }

    /// Reads the key of a ban; `None` where it is that of a holder.
    fn of_key(key: &str) -> Option<Self> {
        let of_operator = network_of_key(key).map(|network| Self::new(network, false));
        of_operator.or_else(|| Some(Self::new(automatic_network_of_key(key)?, true)))
    }

    /// The place of the number of bans with this length of prefix, and of the same kind.
    fn place(&self) -> usize {
        usize::from(self.length) + if self.is_automatic { LENGTHS } else { 0 }
    }

    const fn kind(&self) -> Kind {
        if self.is_automatic { Kind::AutomaticNetwork } else { Kind::Network }
    }
}

/// The bans of networks. An address is looked up once for each length of a prefix that a ban has:
/// 32 times at most for IPv4, 128 times for IPv6.
#[derive(Debug)]
struct NetworkMap {
    shards: Box<[RwLock<Networks>]>,
    hasher: RandomState,
    /// The number of bans with each length of prefix, those of operators before automatic ones. Never
    /// too low.
    lengths: Box<[AtomicU64]>,
    /// The number of bans of operators, and of automatic ones. Never too low.
    numbers: [AtomicU64; 2],
    /// The number of all bans. Never too low.
    total: AtomicU64,
}

impl Default for NetworkMap {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            hasher: RandomState::new(),
            lengths: (0..2 * LENGTHS).map(|_| AtomicU64::new(0)).collect(),
            numbers: [AtomicU64::new(0), AtomicU64::new(0)],
            total: AtomicU64::new(0),
        }
    }
}

impl NetworkMap {
    fn longest(&self, address: IpAddr, now: Timestamp) -> Option<Ban> {
        self.longest_of(address, false, now).or_else(|| self.longest_of(address, true, now))
    }

    fn longest_of(&self, address: IpAddr, is_automatic: bool, now: Timestamp) -> Option<Ban> {
        if self.number(is_automatic) == 0 {
            return None;
        }
        let around =
            Network::around(address).map(|network| BannedNetwork::new(network, is_automatic));
        let used = around.filter(|network| self.count(network) != Some(0));
        Ban::longest(used.filter_map(|network| {
            let shard = self.shard(&network)?.read().unwrap_or_else(PoisonError::into_inner);
            in_force(network.kind(), *shard.get(&network)?, now)
        }))
    }

    /// The number of bans of operators, or of automatic ones.
    fn number(&self, is_automatic: bool) -> u64 {
        let [operators, automatic] = &self.numbers;
        (if is_automatic { automatic } else { operators }).load(Ordering::Acquire)
    }

    /// The numbers that a ban is one of.
    fn numbers(&self, network: &BannedNetwork) -> impl Iterator<Item = &AtomicU64> {
        let [operators, automatic] = &self.numbers;
        let own = if network.is_automatic { automatic } else { operators };
        self.lengths.get(network.place()).into_iter().chain([own, &self.total])
    }

    fn count(&self, network: &BannedNetwork) -> Option<u64> {
        Some(self.lengths.get(network.place())?.load(Ordering::Acquire))
    }

    fn shard(&self, network: &BannedNetwork) -> Option<&RwLock<Networks>> {
        let place = self.hasher.hash_one(network) % SHARDS as u64;
        self.shards.get(usize::try_from(place).ok()?)
    }

    fn add(&self, network: BannedNetwork, new: PackedEntry) {
        let Some(shard) = self.shard(&network) else { return };
        let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
        match shard.get_mut(&network) {
            // An entry from before the present reload counts for nothing.
            Some(known) => {
                *known = if known.is_current() { known.strengthened(new) } else { new };
            }
            None => {
                // Before the entry can be seen, so that the counts are never too low.
                for number in self.numbers(&network) {
                    number.fetch_add(1, Ordering::Release);
                }
                shard.insert(network, new);
            }
        }
    }

    fn remove(&self, network: BannedNetwork) {
        let Some(shard) = self.shard(&network) else { return };
        let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
        if shard.remove(&network).is_some() {
            self.removed(&network);
        }
    }

    fn removed(&self, network: &BannedNetwork) {
        for number in self.numbers(network) {
            number.fetch_sub(1, Ordering::Release);
        }
    }

    async fn retain(&self, keep: impl Fn(PackedEntry) -> bool) {
        self.each(|shard| {
            shard.retain(|network, entry| {
                let kept = keep(*entry);
                if !kept {
                    self.removed(network);
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
        ban::{Target, automatic_key, parse_network},
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
        assert_eq!(map.counts(), [3, 0, 0, 0, 0, 0, 0]);
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
        assert_eq!(map.counts(), [1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(banned(&map, "192.0.2.7", 50), Some(None));
    }

    #[tokio::test]
    async fn an_automatic_ban_decides_where_no_operator_has_banned() {
        let map = BanMap::default();
        let automatic = Entry {
            key: automatic_key(parse_network("192.0.2.0/24").unwrap()),
            at: at(0),
            ends: at(100),
            note: None,
        };
        map.add(&automatic);
        assert_eq!(map.counts(), [0, 0, 0, 0, 0, 0, 1]);
        let kind = |now| {
            let ban = map.network_ban("192.0.2.7".parse().unwrap(), || at(now));
            ban.map(|ban| (ban.kind, ban.until.map(|until| until.secs() - NOW)))
        };
        let of_map = Some((Kind::AutomaticNetwork, Some(100)));
        assert_eq!((kind(0), kind(100)), (of_map, None));
        map.add(&entry(&network("192.0.2.7"), at(10)));
        assert_eq!((kind(0), kind(10)), (Some((Kind::Network, Some(10))), of_map));
        assert_eq!(map.counts(), [1, 0, 0, 0, 0, 0, 1]);
        map.remove(&network("192.0.2.0/24").key());
        assert_eq!(kind(10), of_map, "another ban was removed");
        map.remove(&automatic.key);
        map.prune(at(10)).await;
        assert_eq!((kind(10), map.counts()), (None, [0; 7]));
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
        assert_eq!(map.counts(), [0, 1, 0, 1, 0, 0, 0]);

        // A reload that does not find the tenant any more.
        map.begin_reload().await;
        assert_eq!(ban("b", 0), tenant, "all bans hold meanwhile");
        map.add(&entry(&subject("a"), at(10)));
        map.finish_reload(at(0)).await;
        assert_eq!((ban("b", 0), map.counts()), (None, [0, 1, 0, 0, 0, 0, 0]));
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
        assert_eq!(map.counts(), [1, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_key_of_another_version_bans_no_request() {
        let map = BanMap::default();
        for key in ["key:0123", "network:zz/8", "network:10.0.0.0/8", ""] {
            map.add(&Entry { key: key.into(), at: at(0), ends: NEVER, note: None });
            map.remove(key);
        }
        assert_eq!(map.counts(), [0; 7]);
    }
}
