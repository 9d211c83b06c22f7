//! Automatic bans as they are begun, and how often each network was banned before.

use std::collections::{BTreeSet, HashMap};

use tollgate_core::{
    ban::{BanDurations, automatic_key},
    network::Network,
    time::Timestamp,
};

use crate::store::Entry;

/// The most networks of which earlier automatic bans are remembered. In Redis each takes some 200
/// bytes, so that all of them take 2 MB.
pub(in crate::store) const MOST_REPEATS: usize = 10_000;

/// An automatic ban to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AutomaticBan {
    /// The network to ban.
    pub network: Network,
    /// The duration of the first ban of the network, and of further ones.
    pub durations: BanDurations,
    /// The reason, one line, shown in the list.
    pub reason: String,
}

impl AutomaticBan {
    /// The key of the ban.
    pub(in crate::store) fn key(&self) -> String {
        automatic_key(self.network)
    }
}

/// The automatic ban of a network that is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BegunBan {
    /// The moment when the ban ends.
    pub until: Timestamp,
    /// How many bans of the network are remembered, this one included.
    pub number: u32,
    /// Whether it began now: another replica may have begun it.
    pub is_new: bool,
}

/// The numbers of earlier automatic bans, by the key of the ban.
#[derive(Debug, Default)]
pub(in crate::store) struct Repeats {
    numbers: HashMap<String, Repeat>,
    /// The keys by the moment when their bans are forgotten.
    ends: BTreeSet<(Timestamp, String)>,
}

#[derive(Clone, Copy, Debug)]
struct Repeat {
    number: u32,
    forgotten_at: Timestamp,
}

impl Repeats {
    /// Counts one more ban of a network, and returns its number and its entry of the list.
    pub(in crate::store) fn begin(&mut self, ban: &AutomaticBan, now: Timestamp) -> (u32, Entry) {
        let key = ban.key();
        self.prune(now);
        let number = self.number(&key).saturating_add(1);
        let since = Timestamp::from_secs(now.secs());
        let BanDurations { remember, .. } = ban.durations;
        let ends = Timestamp::from_secs(since.secs() + ban.durations.of(number).secs());
        let forgotten_at = Timestamp::from_secs(ends.secs() + remember.secs());
        self.forget(&key);
        while self.numbers.len() >= MOST_REPEATS
            && let Some((_, soonest)) = self.ends.pop_first()
        {
            self.numbers.remove(&soonest);
        }
        self.ends.insert((forgotten_at, key.clone()));
        self.numbers.insert(key.clone(), Repeat { number, forgotten_at });
        (number, Entry { key, at: since, ends, note: Some(ban.reason.clone()) })
    }

    /// Returns how many bans of a key are remembered.
    pub(in crate::store) fn number(&self, key: &str) -> u32 {
        self.numbers.get(key).map_or(0, |repeat| repeat.number)
    }

    /// Forgets the earlier bans of a network.
    pub(in crate::store) fn forget(&mut self, key: &str) {
        if let Some((key, repeat)) = self.numbers.remove_entry(key) {
            self.ends.remove(&(repeat.forgotten_at, key));
        }
    }

    fn prune(&mut self, now: Timestamp) {
        while let Some((forgotten_at, _)) = self.ends.first()
            && *forgotten_at <= now
            && let Some((_, key)) = self.ends.pop_first()
        {
            self.numbers.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use tollgate_core::time::Span;

    use super::*;

    const DURATIONS: BanDurations = BanDurations {
        first: Span::from_secs(10),
        longest: Span::from_secs(35),
        remember: Span::from_secs(100),
    };

    fn ban(address: u32) -> AutomaticBan {
        let network = Network::host(std::net::Ipv4Addr::from_bits(address).into());
        AutomaticBan { network, durations: DURATIONS, reason: "automatic".into() }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_secs(seconds)
    }

    #[test]
    fn bans_of_one_network_grow_until_they_are_forgotten() {
        let mut repeats = Repeats::default();
        let begin = |repeats: &mut Repeats, now| {
            let (number, entry) = repeats.begin(&ban(1), at(now));
            assert_eq!(entry.at, at(now));
            (number, entry.ends.secs() - now)
        };
        assert_eq!(begin(&mut repeats, 1000), (1, 10));
        assert_eq!(begin(&mut repeats, 1010), (2, 20));
        assert_eq!(begin(&mut repeats, 1030), (3, 35));
        assert_eq!(begin(&mut repeats, 1065 + 99), (4, 35));
        repeats.forget(&ban(1).key());
        assert_eq!(begin(&mut repeats, 1300), (1, 10), "it was lifted");
        assert_eq!(begin(&mut repeats, 1310 + 100), (1, 10), "it was forgotten");
        assert_eq!((repeats.numbers.len(), repeats.ends.len()), (1, 1));
    }

    #[test]
    fn the_networks_that_are_remembered_have_a_bound() {
        let mut repeats = Repeats::default();
        let most = u32::try_from(MOST_REPEATS).unwrap();
        for address in 0..most + 5 {
            repeats.begin(&ban(address), at(1000 + u64::from(address / 1000)));
        }
        assert_eq!((repeats.numbers.len(), repeats.ends.len()), (MOST_REPEATS, MOST_REPEATS));
        assert_eq!(repeats.number(&ban(most + 4).key()), 1, "the last one is remembered");
        assert_eq!(repeats.number(&ban(0).key()), 0, "the first one is forgotten");
    }
}
