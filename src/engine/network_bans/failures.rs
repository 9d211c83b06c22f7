//! The failed credentials of networks, in a fixed amount of memory: 264 KiB.
//!
//! A table of sets of entries, of which the hash of a network selects one. A network without an entry
//! takes the place of one whose time is over, or weakens an entry with the fewest failures and takes
//! its place once that has none left, as HeavyKeeper does (Yang et al., "HeavyKeeper: An Accurate
//! Algorithm for Finding Top-k Elephant Flows", 2018). The more failures an entry has, the less likely
//! is it weakened: any number of networks with few failures each replace one another, and not one with
//! many. An entry never counts the failures of another network, so that no network is banned for
//! those: its count may be too low, and is never too high.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rand::seq::IteratorRandom as _;
use tollgate_core::{network::Network, time::Rate};

/// The number of sets, each with a lock.
const SETS: usize = 1024;
/// The entries of a set.
const WAYS: usize = 8;

/// The failed credentials of one network in the present time. A place that is free has a count of 0.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    /// The first address of the network, in two halves: 128 bits would be aligned to 16 bytes. Networks
    /// of one table have one length for IPv4 and one for IPv6.
    network: [u64; 2],
    /// The time of the first failure, in milliseconds since a fixed moment.
    began: u64,
    /// The failures since then.
    count: u32,
}

type Set = [Entry; WAYS];

/// Counts of failures that reached the threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reached {
    /// The number of failures.
    pub(crate) failures: u32,
    /// The time in which they were seen.
    pub(crate) within: Duration,
}

/// The counts of all networks.
#[derive(Debug)]
pub(super) struct FailureTable {
    sets: Box<[Mutex<Set>]>,
    /// A random seed, so that no client chooses the set of its network.
    hasher: RandomState,
    threshold: u32,
    /// The time in which failures are counted, in milliseconds.
    window: u64,
}

impl FailureTable {
    /// Creates an empty table. A network reaches the threshold with as many failures as `most` in its
    /// time.
    pub(super) fn new(most: Rate) -> Self {
        Self {
            sets: (0..SETS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            threshold: u32::try_from(most.count()).unwrap_or(u32::MAX),
            window: most.per().micros() / 1000,
        }
    }

    /// Counts a failure of a network, at `now` since a fixed moment. Returns the count where it reaches
    /// the threshold; it begins again then.
    pub(super) fn count(&self, network: Network, now: Duration) -> Option<Reached> {
        let (network, now) = (halves(network), millis(now));
        let place = self.hasher.hash_one(network) % SETS as u64;
        let mut set = lock(self.sets.get(usize::try_from(place).ok()?)?);
        let known = set.iter().position(|entry| entry.count > 0 && entry.network == network);
        let entry = match known {
            Some(place) => set.get_mut(place)?,
            None => self.place_for(&mut set, now)?,
        };
        if entry.network != network || !self.is_current(entry, now) {
            *entry = Entry { network, began: now, count: 0 };
        }
        entry.count = entry.count.saturating_add(1);
        if entry.count < self.threshold {
            return None;
        }
        let within = Duration::from_millis(now.saturating_sub(entry.began));
        let failures = std::mem::take(entry).count;
        Some(Reached { failures, within })
    }

    /// Returns the place for a network without an entry: one that is free, or that of one of the weakest
    /// entries, once it has no failure left. `None` where the entry keeps it.
    ///
    /// Any of the weakest may be chosen, and most attempts fail: a network that fails again soon has then
    /// kept its place, however many others failed in between.
    fn place_for<'s>(&self, set: &'s mut Set, now: u64) -> Option<&'s mut Entry> {
        let weight = |entry: &Entry| if self.is_current(entry, now) { entry.count } else { 0 };
        let count = set.iter().map(weight).min()?;
        let mut weakest = set.iter_mut().filter(|entry| weight(entry) == count);
        if count == 0 {
            return weakest.next();
        }
        let entry = weakest.choose(&mut rand::rng())?;
        // One attempt in four, and one in eight for each eight failures: an entry of 80 is weakened by
        // one network in four thousand.
        let chance = u32::MAX.checked_shr(2 + count / 8).unwrap_or(0);
        if rand::random::<u32>() > chance {
            return None;
        }
        if count > 1 {
            entry.count -= 1;
            return None;
        }
        Some(entry)
    }

    fn is_current(&self, entry: &Entry, now: u64) -> bool {
        now.saturating_sub(entry.began) < self.window
    }

    /// The number of networks with failures in the present time, and the most failures of one.
    pub(super) fn busiest(&self, now: Duration) -> (u64, u64) {
        let now = millis(now);
        self.sets.iter().fold((0, 0), |found, set| {
            let set = lock(set);
            let current = set.iter().filter(|entry| entry.count > 0 && self.is_current(entry, now));
            current.fold(found, |(networks, most), entry| {
                (networks + 1, most.max(u64::from(entry.count)))
            })
        })
    }
}

fn halves(network: Network) -> [u64; 2] {
    let first = network.first();
    #[expect(clippy::cast_possible_truncation, reason = "the halves of 128 bits")]
    let halves = [(first >> 64) as u64, first as u64];
    halves
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn lock(set: &Mutex<Set>) -> MutexGuard<'_, Set> {
    set.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn table(rate: &str) -> FailureTable {
        FailureTable::new(rate.parse().unwrap())
    }

    fn network(number: u32) -> Network {
        Network::host(Ipv4Addr::from_bits(number).into())
    }

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_network_reaches_the_threshold_within_its_time() {
        let table = table("10/1m");
        for second in 0..9 {
            assert_eq!(table.count(network(1), at(second * 1000)), None);
        }
        assert_eq!(table.busiest(at(9000)), (1, 9));
        let reached = Reached { failures: 10, within: Duration::from_secs(9) };
        assert_eq!(table.count(network(1), at(9000)), Some(reached));
        assert_eq!(table.busiest(at(9000)), (0, 0), "it begins again");
        for second in 0..9 {
            assert_eq!(table.count(network(1), at(20_000 + second)), None);
        }
        assert_eq!(table.count(network(1), at(80_000)), None, "the time is over");
        assert_eq!(table.busiest(at(80_000)), (1, 1));
        assert_eq!(table.busiest(at(200_000)), (0, 0));
    }

    #[test]
    fn a_clock_that_goes_back_loses_no_failures() {
        let table = table("10/1m");
        for _ in 0..9 {
            assert_eq!(table.count(network(1), at(50_000)), None);
        }
        let reached = Reached { failures: 10, within: Duration::ZERO };
        assert_eq!(table.count(network(1), at(0)), Some(reached));
    }

    #[test]
    fn a_million_networks_hide_no_offender_and_are_no_offenders() {
        let table = table("120/1m");
        // A million networks fail once each within a minute. After ten seconds, when every set is full,
        // one begins that fails five times in a second.
        let (offender, mut found) = (network(0x0a00_0001), Vec::new());
        for number in 0..1_000_000_u32 {
            let now = at(u64::from(number) * 60 / 1000);
            let other = Ipv6Addr::from_bits(u128::from(number) << 64 | 0x2001 << 112);
            let other = Network::of_prefix(other.into(), 32, 64);
            assert_eq!(table.count(other, now), None, "one failure is no threshold");
            if number > 166_667 && number % 3333 == 0 {
                found.extend(table.count(offender, now));
            }
        }
        assert!(!found.is_empty(), "the offender is found");
        assert_eq!(size_of_val(&*table.sets), 264 << 10);
    }

    #[test]
    fn one_that_failed_often_keeps_its_place() {
        let table = table("1000/1m");
        for _ in 0..100 {
            assert_eq!(table.count(network(1), at(0)), None);
        }
        // Others fail ten times each: some entry of the set is always weaker.
        for number in 2..40_000 {
            for _ in 0..10 {
                table.count(network(number), at(1));
            }
        }
        assert_eq!(table.busiest(at(2)).1, 100);
    }
}
