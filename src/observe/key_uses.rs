//! The uses of API keys, sampled: which key was used from which network. A check reads one cell, and
//! takes neither a lock nor memory, unless it is the first one of its key and network in a minute.
//! The engine collects what was noted, away from checks.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tollgate_core::{identity::KeyId, network::Network, time::Timestamp};

/// The cells, a power of two. Two keys that share a cell are noted more often than once a minute.
const CELLS: usize = 4096;

/// The most keys whose uses wait to be collected, and the most networks of all of them. Each key has
/// room for one.
const MOST: usize = 65_536;

/// The most networks of a key that wait to be collected: one key does not take the room of others.
const MOST_OF_KEY: usize = 32;

/// The bits of a cell that hold the minute; the others hold those of a hash.
const MINUTE: u64 = (1 << 24) - 1;

/// A use of a key that was noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotedUse {
    /// The id of the key.
    pub id: KeyId,
    /// The network of its client; `None` where the proxy reports no address.
    pub network: Option<Network>,
    /// The moment of the use.
    pub at: Timestamp,
}

/// The uses that wait, by key.
#[derive(Debug, Default)]
struct Noted {
    keys: HashMap<KeyId, Vec<(Option<Network>, Timestamp)>>,
    /// The number of all uses.
    len: usize,
}

impl Noted {
    /// Adds a use, once for each key and network. Returns whether it is there.
    fn add(&mut self, id: KeyId, network: Option<Network>, at: Timestamp) -> bool {
        let has_room = self.keys.len() < MOST;
        let uses = match self.keys.entry(id) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(_) if !has_room => return false,
            Entry::Vacant(place) => place.insert(Vec::with_capacity(1)),
        };
        if uses.iter().any(|(known, _)| *known == network) {
            return true;
        }
        if !uses.is_empty() && (uses.len() >= MOST_OF_KEY || self.len >= MOST) {
            return false;
        }
        uses.push((network, at));
        self.len += 1;
        true
    }
}

/// The uses of API keys that wait to be collected.
#[derive(Debug)]
pub struct KeyUses {
    /// For each hash of a key and its network, the minute in which it was noted.
    cells: Box<[AtomicU64]>,
    /// Random, so that a client cannot choose whom it shares a cell with.
    seed: [u64; 2],
    noted: Mutex<Noted>,
}

impl KeyUses {
    pub(super) fn new() -> Self {
        Self {
            cells: (0..CELLS).map(|_| AtomicU64::new(u64::MAX)).collect(),
            seed: rand::random(),
            noted: Mutex::default(),
        }
    }

    /// Notes that a key was used from an address.
    pub(super) fn note(&self, id: &KeyId, address: Option<IpAddr>, now: Timestamp) {
        let network = address.map(Network::of_client);
        let hash = self.hash(id, network);
        let mark = (hash & !MINUTE) | ((now.secs() / 60) & MINUTE);
        // The highest bits select the cell, and the rest of those above the minute are compared.
        let cell = usize::try_from(hash >> 52).ok().and_then(|at| self.cells.get(at % CELLS));
        let Some(cell) = cell.filter(|cell| cell.load(Relaxed) != mark) else { return };
        // A use that cannot be noted now is noted by the next check.
        let Ok(mut noted) = self.noted.try_lock() else { return };
        if noted.add(*id, network, now) {
            cell.store(mark, Relaxed);
        }
    }

    /// Removes and returns what was noted.
    pub fn collect(&self) -> Vec<NotedUse> {
        let noted = std::mem::take(&mut *self.noted.lock().unwrap_or_else(PoisonError::into_inner));
        let uses = noted.keys.into_iter().flat_map(|(id, uses)| {
            uses.into_iter().map(move |(network, at)| NotedUse { id, network, at })
        });
        uses.collect()
    }

    fn hash(&self, id: &KeyId, network: Option<Network>) -> u64 {
        let [.., a, b, c, d] = *id.digits();
        let [first @ .., _, _, _, _] = *id.digits();
        let address = network.map_or(u128::MAX, Network::first).to_be_bytes();
        let (halves, _) = address.as_chunks();
        let length = network.map_or(u64::MAX, |network| network.length().into());
        let [seed, factor] = self.seed;
        let mut hash = mixed(seed ^ u64::from_be_bytes(first), factor);
        let words = [u64::from(u32::from_be_bytes([a, b, c, d])), length];
        for word in words.into_iter().chain(halves.iter().map(|half| u64::from_be_bytes(*half))) {
            hash = mixed(hash ^ word, factor);
        }
        hash
    }
}

/// Returns the halves of the product of two numbers, one over the other.
fn mixed(one: u64, other: u64) -> u64 {
    let product = (u128::from(one) * u128::from(other | 1)).to_be_bytes();
    let (halves, _) = product.as_chunks();
    halves.iter().fold(0, |mixed, half| mixed ^ u64::from_be_bytes(*half)).rotate_left(23)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u32) -> KeyId {
        format!("{number:012}").parse().unwrap()
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_secs(seconds)
    }

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn a_key_is_noted_once_a_minute_for_each_network() {
        let uses = KeyUses::new();
        uses.note(&id(1), address("192.0.2.1"), at(600));
        uses.note(&id(1), address("192.0.2.9"), at(601));
        uses.note(&id(1), address("2001:db8:1::1"), at(602));
        uses.note(&id(1), address("2001:db8:1:2::1"), at(603));
        uses.note(&id(1), None, at(604));
        uses.note(&id(2), address("192.0.2.1"), at(605));
        let mut noted: Vec<_> = uses
            .collect()
            .into_iter()
            .map(|NotedUse { id, network, at }| {
                (at.secs(), id.to_string(), network.map(|network| network.to_string()))
            })
            .collect();
        noted.sort();
        let network = |text: &str| Some(text.to_owned());
        assert_eq!(
            noted,
            [
                (600, id(1).to_string(), network("192.0.2.0/24")),
                (602, id(1).to_string(), network("2001:db8:1::/48")),
                (604, id(1).to_string(), None),
                (605, id(2).to_string(), network("192.0.2.0/24")),
            ]
        );
        uses.note(&id(2), address("192.0.2.1"), at(659));
        assert!(uses.collect().is_empty(), "the minute is the same");
        uses.note(&id(2), address("192.0.2.1"), at(660));
        assert_eq!(uses.collect().len(), 1);
    }

    #[test]
    fn what_waits_is_bounded_and_a_use_beyond_it_is_noted_later() {
        let uses = KeyUses::new();
        let most = u32::try_from(MOST).unwrap();
        for number in 0..most + 10 {
            uses.note(&id(number), None, at(0));
        }
        assert_eq!(uses.collect().len(), MOST);
        uses.note(&id(most + 5), None, at(0));
        assert_eq!(uses.collect().len(), 1);
    }

    #[test]
    fn a_key_that_is_used_from_everywhere_leaves_others_their_room() {
        let uses = KeyUses::new();
        for number in 0..100_000_u32 {
            let from = IpAddr::V4((0x0a00_0000 + (number << 8)).into());
            uses.note(&id(1), Some(from), at(0));
        }
        // Keys that take all the room for networks leave one to each key.
        for number in 0..3000 {
            for network in 0..40_u32 {
                let from = IpAddr::V4((0x0a00_0000 + (network << 8)).into());
                uses.note(&id(1000 + number), Some(from), at(0));
            }
        }
        uses.note(&id(2), address("192.0.2.1"), at(0));
        let noted = uses.collect();
        let of = |number| noted.iter().filter(|one| one.id == id(number)).count();
        assert_eq!([of(1), of(2), of(1000), of(3999)], [MOST_OF_KEY, 1, MOST_OF_KEY, 1]);
        assert!(noted.len() <= MOST + 3000, "{}", noted.len());
    }

    #[test]
    fn a_check_never_waits_for_the_collection() {
        let uses = KeyUses::new();
        let collecting = uses.noted.lock().unwrap();
        uses.note(&id(1), None, at(0));
        drop(collecting);
        assert!(uses.collect().is_empty());
        uses.note(&id(1), None, at(0));
        assert_eq!(uses.collect().len(), 1);
    }
}
