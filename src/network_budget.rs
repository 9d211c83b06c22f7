//! The budget of each client network for lookups, in a fixed amount of memory.
//!
//! A network is counted in one cell of each of two rows, which its hash selects, and has the greater
//! budget of the two. The hash has a random seed, so that no client can choose whose cells it uses up.

use std::{
    hash::{BuildHasher as _, Hash, RandomState},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// The cells of a row, 256 KiB in all. A client with many networks would have to send 50 lookups a
/// second for each of as many cells to use up the budgets of others: 800 000.
pub(crate) const CELLS: usize = 16_384;

/// The budgets of all networks.
#[derive(Debug)]
pub(crate) struct NetworkBudget {
    /// The moments at which the networks of a cell have their whole budget again, in microseconds.
    rows: [Box<[AtomicU64]>; 2],
    seed: RandomState,
    /// The time after which a network may make another lookup, in microseconds.
    interval: u64,
    /// The lookups that a network may make at once.
    burst: u64,
}

impl NetworkBudget {
    /// Creates the budgets of networks that may make this number of lookups in a second, and at once.
    pub(crate) fn new(per_second: u64, burst: u64) -> Self {
        Self::with_interval(1_000_000 / per_second.max(1), burst, CELLS)
    }

    /// Creates the budgets of networks that may make one lookup in this time, in microseconds, and this
    /// number at once, in rows of `cells`.
    pub(crate) fn with_interval(interval: u64, burst: u64, cells: usize) -> Self {
        let row = || (0..cells).map(|_| AtomicU64::new(0)).collect();
        Self { rows: [row(), row()], seed: RandomState::new(), interval, burst }
    }

    /// Takes a lookup from the budget of the network of a client, at `now` since a fixed moment.
    /// Returns whether there was one. Clients whose address is not known are one network.
    pub(crate) fn take(&self, client: Option<IpAddr>, now: Duration) -> bool {
        self.take_for(client.map(network), now)
    }

    /// Takes a lookup from the budget of whatever `key` identifies, likewise.
    pub(crate) fn take_for(&self, key: impl Hash, now: Duration) -> bool {
        let Some(cells) = self.cells(key) else { return false };
        let Some(full_at) = self.after_one(cells, now) else { return false };
        for cell in cells {
            cell.fetch_max(full_at, Relaxed);
        }
        true
    }

    /// Whether the budget of whatever `key` identifies has a lookup left.
    pub(crate) fn has_for(&self, key: impl Hash, now: Duration) -> bool {
        self.cells(key).is_some_and(|cells| self.after_one(cells, now).is_some())
    }

    fn cells(&self, key: impl Hash) -> Option<[&AtomicU64; 2]> {
        let hash = self.seed.hash_one(key);
        let [first, second] = &self.rows;
        Some([cell(first, hash)?, cell(second, hash >> 32)?])
    }

    /// The moment at which the budget of two cells is whole again after one more lookup; `None` where none
    /// is left.
    fn after_one(&self, [first, second]: [&AtomicU64; 2], now: Duration) -> Option<u64> {
        let now = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        let full_at = first.load(Relaxed).min(second.load(Relaxed)).max(now) + self.interval;
        (full_at <= now + self.burst * self.interval).then_some(full_at)
    }
}

/// The network of a client: the first 24 bits of IPv4, and 56 of IPv6, which one client may have.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits() & !0xff).into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 72 << 72).into(),
    }
}

/// The cell that the lowest bits of a hash select.
fn cell(row: &[AtomicU64], hash: u64) -> Option<&AtomicU64> {
    row.get(usize::try_from(hash).unwrap_or(usize::MAX).checked_rem(row.len())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PER_SECOND: u64 = 500;
    const BURST: u64 = 1000;

    fn taken(budget: &NetworkBudget, client: Option<&str>, now: Duration) -> u64 {
        let client = client.map(|client| client.parse().unwrap());
        (0..2 * BURST).filter(|_| budget.take(client, now)).count() as u64
    }

    #[test]
    fn a_network_has_a_burst_and_then_its_rate() {
        let budget = NetworkBudget::new(PER_SECOND, BURST);
        let at = Duration::from_millis;
        for client in [Some("192.0.2.1"), Some("2001:db8::1"), None] {
            assert_eq!(taken(&budget, client, at(0)), BURST, "{client:?}");
        }
        // Other addresses of the same networks have no budget of their own.
        for client in ["192.0.2.200", "::ffff:192.0.2.9", "2001:db8:0:ff:1::1"] {
            assert_eq!(taken(&budget, Some(client), at(0)), 0, "{client}");
        }
        assert_eq!(taken(&budget, None, at(100)), PER_SECOND / 10);
        assert_eq!(taken(&budget, None, at(3_600_000)), BURST);
    }

    #[test]
    fn networks_that_use_up_their_budgets_leave_others_theirs() {
        let budget = NetworkBudget::new(PER_SECOND, BURST);
        let now = Duration::ZERO;
        for number in 0..900_u32 {
            let client = Ipv4Addr::from_bits(number << 8);
            while budget.take(Some(client.into()), now) {}
        }
        let others = (1000..2000_u32).map(|number| Ipv4Addr::from_bits(number << 8));
        let served = others.filter(|client| budget.take(Some((*client).into()), now)).count();
        assert!(served > 985, "{served}");
    }
}
