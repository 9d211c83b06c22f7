//! The share of one client of a resource that checks hold while they wait.
//!
//! Each check that waits for the store counts itself here, so there is neither a lock nor an
//! allocation: a client is counted in one cell of each of two rows, which its hash selects, and
//! holds no more than the smaller of the two. Two clients share a limit only if they meet in both
//! rows, one pair in a million; the hash has a random seed, so that no client can choose whom it
//! meets.

use std::{
    hash::{BuildHasher as _, Hash, RandomState},
    net::{IpAddr, Ipv6Addr},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use tollgate_core::revocation::Fingerprint;

/// The cells of a row, a power of two.
const CELLS: usize = 1024;

/// The client that a check belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// The subject of a verified credential.
    Subject(Fingerprint),
    /// The address of a client without a credential; of IPv6, the first 64 bits.
    Address(IpAddr),
    /// A client without a credential whose address the proxy does not send.
    Unknown,
}

impl Owner {
    /// The owner for an address.
    pub(super) fn of_address(address: Option<IpAddr>) -> Self {
        match address.map(|address| address.to_canonical()) {
            Some(IpAddr::V6(address)) => {
                let network = Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX));
                Self::Address(IpAddr::V6(network))
            }
            Some(address) => Self::Address(address),
            None => Self::Unknown,
        }
    }
}

impl Hash for Owner {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        match self {
            Self::Subject(fingerprint) => fingerprint.halves().hash(state),
            Self::Address(address) => address.hash(state),
            Self::Unknown => {}
        }
    }
}

/// What each client holds of a resource.
#[derive(Debug)]
pub(super) struct Shares {
    rows: [Box<[AtomicU32]>; 2],
    seed: RandomState,
    most: u32,
}

/// A part that a client holds until this is dropped.
#[derive(Debug)]
#[must_use = "the part is returned when this is dropped"]
pub(super) struct Share<'s> {
    cells: [&'s AtomicU32; 2],
    units: u32,
}

impl Shares {
    /// Lets each client hold `most` units.
    pub(super) fn new(most: u32) -> Self {
        let row = || (0..CELLS).map(|_| AtomicU32::new(0)).collect();
        Self { rows: [row(), row()], seed: RandomState::new(), most }
    }

    /// Takes units for a client. Returns `None` if it would hold more than its share. A client that
    /// holds nothing gets what it takes.
    pub(super) fn take(&self, owner: Owner, units: u32) -> Option<Share<'_>> {
        let hash = self.seed.hash_one(owner);
        let [first, second] = &self.rows;
        let cells = [cell(first, hash)?, cell(second, hash >> 32)?];
        let share = Share { cells, units };
        let [one, other] = cells.map(|cell| cell.fetch_add(units, Relaxed));
        let held = one.min(other);
        // The share that is dropped returns the units.
        (held == 0 || held.saturating_add(units) <= self.most).then_some(share)
    }
}

/// The cell that the lowest bits of a hash select.
fn cell(row: &[AtomicU32], hash: u64) -> Option<&AtomicU32> {
    row.get(usize::try_from(hash).unwrap_or(usize::MAX) % CELLS)
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        for cell in self.cells {
            cell.fetch_sub(self.units, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(number: u64) -> Owner {
        Owner::Subject(Fingerprint::from_halves([number, number]))
    }

    #[test]
    fn a_client_holds_its_share_and_others_hold_theirs() {
        let shares = Shares::new(3);
        let held: Vec<_> = std::iter::from_fn(|| shares.take(subject(1), 1)).collect();
        assert_eq!(held.len(), 3);
        assert!(shares.take(subject(2), 3).is_some());
        drop(held);
        assert!(shares.take(subject(1), 3).is_some(), "all of it was returned");
    }

    #[test]
    fn the_first_part_may_be_larger_than_the_share() {
        let shares = Shares::new(3);
        let first = shares.take(subject(1), 10);
        assert!(first.is_some() && shares.take(subject(1), 1).is_none());
        drop(first);
        assert!(shares.take(subject(1), 1).is_some());
    }

    /// Clients that use up their shares do not use up that of another one.
    #[test]
    fn clients_with_a_cell_in_common_are_told_apart_by_the_other() {
        let shares = Shares::new(2);
        let others: Vec<_> = (2..100).map(|number| shares.take(subject(number), 2)).collect();
        assert!(others.iter().filter(|share| share.is_some()).count() > 90);
        let served = (1000..2000).filter(|number| shares.take(subject(*number), 1).is_some());
        assert!(served.count() > 900);
    }

    #[test]
    fn addresses_of_one_network_are_one_client() {
        for (one, other, same) in [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("2001:db8::1", "2001:db8::2:1", true),
            ("2001:db8:0:1::1", "2001:db8:0:2::1", false),
        ] {
            let owner = |address: &str| Owner::of_address(Some(address.parse().unwrap()));
            assert_eq!(owner(one) == owner(other), same, "{one} {other}");
        }
        assert_eq!(Owner::of_address(None), Owner::Unknown);
    }
}
