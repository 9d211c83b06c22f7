//! The failed credentials of networks, in a fixed amount of memory.

use std::time::Duration;

use tollgate_core::network::Network;

use crate::engine::frequency::{EventKey, FrequencyTable};

/// The failures of all networks.
#[derive(Debug)]
pub(super) struct FailureTable {
    table: FrequencyTable<Failures>,
    threshold: u32,
}

/// What the table knows of a network beside the number of its failed credentials.
#[derive(Clone, Copy, Debug, Default)]
struct Failures {
    /// The failures since the network reached the threshold, or was banned.
    toward: u32,
    /// The credentials that were refused unverified, of those that are counted.
    refused: u32,
}

/// A failed credential of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It counts toward a ban.
    Counts,
    /// The network is banned: it counts toward no further ban, so that one that is lifted does not
    /// begin again for what was sent before.
    OfBanned,
    /// It was refused unverified, because the network is banned.
    Refused,
}

/// Counts of failures that reached the threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reached {
    /// The number of failures.
    pub(crate) failures: u32,
    /// The time in which they were seen.
    pub(crate) within: Duration,
}

/// The failures of one network in the latest window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NetworkFailures {
    /// The first address, in 128 bits.
    pub(super) first: u128,
    /// The failed credentials.
    pub(super) failures: u32,
    /// Those of them that were refused unverified.
    pub(super) refused: u32,
}

impl FailureTable {
    /// Creates an empty table of `sets` sets of eight networks, in 328 bytes each. A network reaches the
    /// threshold with so many failures in a window.
    pub(super) fn new(sets: usize, threshold: u64, window: Duration) -> Self {
        Self {
            table: FrequencyTable::new(sets, window),
            threshold: u32::try_from(threshold).unwrap_or(u32::MAX),
        }
    }

    /// Counts a failure of a network, at `now` since a fixed moment. Returns the count where it reaches
    /// the threshold; it begins again then.
    ///
    /// Networks of one table have one length for IPv4 and one for IPv6, so that their first addresses
    /// differ.
    pub(super) fn count(
        &self,
        network: Network,
        failure: Failure,
        now: Duration,
    ) -> Option<Reached> {
        let reached = self.table.count(key(network), now, |counted| {
            if counted.begins {
                *counted.note = Failures::default();
            }
            let Failures { toward, refused } = counted.note;
            match failure {
                Failure::Counts => *toward = toward.saturating_add(1),
                Failure::OfBanned => *toward = 0,
                Failure::Refused => {
                    *toward = 0;
                    *refused = refused.saturating_add(1);
                }
            }
            (*toward >= self.threshold)
                .then(|| Reached { failures: std::mem::take(toward), within: counted.within })
        });
        reached.flatten()
    }

    /// The number of networks with failures in the latest window, and the most failures of one.
    pub(super) fn busiest(&self, now: Duration) -> (u64, u64) {
        self.table.busiest(now)
    }

    /// The networks with the most failures in the latest window, `most` at most.
    pub(super) fn top(&self, most: usize, now: Duration) -> Vec<NetworkFailures> {
        self.table.top(most, now, |found| {
            let [high, low] = found.key;
            Some(NetworkFailures {
                first: u128::from(high) << 64 | u128::from(low),
                failures: found.count,
                refused: found.note.refused.min(found.count),
            })
        })
    }
}

fn key(network: Network) -> EventKey {
    let first = network.first();
    #[expect(clippy::cast_possible_truncation, reason = "the halves of 128 bits")]
    let halves = [(first >> 64) as u64, first as u64];
    halves
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn table(threshold: u64) -> FailureTable {
        FailureTable::new(1024, threshold, Duration::from_secs(60))
    }

    fn network(number: u32) -> Network {
        Network::host(Ipv4Addr::from_bits(number).into())
    }

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn fail(table: &FailureTable, number: u32, millis: u64) -> Option<Reached> {
        table.count(network(number), Failure::Counts, at(millis))
    }

    #[test]
    fn a_network_reaches_the_threshold_within_its_time() {
        let table = table(10);
        for second in 0..9 {
            assert_eq!(fail(&table, 1, second * 1000), None);
        }
        assert_eq!(table.busiest(at(9000)), (1, 9));
        let reached = Reached { failures: 10, within: Duration::from_secs(9) };
        assert_eq!(fail(&table, 1, 9000), Some(reached));
        assert_eq!(table.busiest(at(9000)), (1, 10), "it is listed further");
        for second in 0..9 {
            assert_eq!(fail(&table, 1, 20_000 + second), None, "the count begins again");
        }
        assert_eq!(fail(&table, 1, 80_000), None, "the time is over");
        assert_eq!(table.busiest(at(400_000)), (0, 0));
    }

    #[test]
    fn a_clock_that_goes_back_loses_no_failures() {
        let table = table(10);
        for _ in 0..9 {
            assert_eq!(fail(&table, 1, 50_000), None);
        }
        let reached = Reached { failures: 10, within: Duration::ZERO };
        assert_eq!(fail(&table, 1, 0), Some(reached));
    }

    /// A ban that is lifted, or has ended, begins again after as many failures as the first one.
    #[test]
    fn what_a_banned_network_sends_counts_toward_no_further_ban() {
        let table = table(10);
        for failure in [Failure::OfBanned, Failure::Refused] {
            for _ in 0..9 {
                assert_eq!(fail(&table, 1, 0), None);
            }
            for _ in 0..100 {
                assert_eq!(table.count(network(1), failure, at(1)), None, "{failure:?}");
            }
        }
        for _ in 0..9 {
            assert_eq!(fail(&table, 1, 2), None);
        }
        assert!(fail(&table, 1, 2).is_some());
        let expected = NetworkFailures { first: network(1).first(), failures: 228, refused: 100 };
        assert_eq!(table.top(10, at(2)), [expected]);
    }

    #[test]
    fn a_million_networks_hide_no_offender_and_are_no_offenders() {
        let table = table(120);
        // A million networks fail once each within a minute. After ten seconds, when every set is full,
        // one begins that fails five times in a second.
        let mut found = Vec::new();
        for number in 0..1_000_000_u32 {
            let now = u64::from(number) * 60 / 1000;
            let other = Ipv6Addr::from_bits(u128::from(number) << 64 | 0x2001 << 112);
            let other = Network::of_prefix(other.into(), 32, 64);
            let counted = table.count(other, Failure::Counts, at(now));
            assert_eq!(counted, None, "one failure is no threshold");
            if number > 166_667 && number % 3333 == 0 {
                found.extend(fail(&table, 0x0a00_0001, now));
            }
        }
        assert!(!found.is_empty(), "the offender is found");
        assert_eq!(table.top(1, at(60_000))[0].first, network(0x0a00_0001).first());
    }
}
