//! What happens around automatic bans: counts for metrics, and the networks that wait to be banned.

use std::{
    array,
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tokio::sync::Notify;
use tollgate_core::{denial::CredentialFailure, network::Network};

use super::failures::Reached;
use crate::observe::exposition::NetworkBanStatus;

/// The most networks that wait to be banned. One that finds no place is counted again.
const MOST_WAITING: usize = 1024;

/// A network with too many failed credentials.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offender {
    pub(crate) network: Network,
    /// The failures of its clients.
    pub(crate) reached: Reached,
}

/// What became of an offender.
#[derive(Clone, Copy, Debug)]
pub(crate) enum BanResult {
    /// The network is banned.
    Begun,
    /// It would be banned, and `mode` is `shadow`.
    WouldBegin,
    /// It contains an address that is never banned.
    Exempt,
    /// There was no room for it, here or among the bans.
    Dropped,
    /// The store did not answer; it is tried again.
    Failed,
}

impl BanResult {
    const ALL: [Self; 5] =
        [Self::Begun, Self::WouldBegin, Self::Exempt, Self::Dropped, Self::Failed];

    const fn label(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::WouldBegin => "would_begin",
            Self::Exempt => "exempt",
            Self::Dropped => "dropped",
            Self::Failed => "failed",
        }
    }
}

/// A check with a credential from a network that is banned automatically.
#[derive(Clone, Copy, Debug)]
pub(super) enum BannedCheck {
    /// The credential is known.
    Known,
    /// It is new, and was verified.
    Verified,
    /// It was refused unverified, or is an API key that does not exist.
    Refused,
}

impl BannedCheck {
    const ALL: [Self; 3] = [Self::Known, Self::Verified, Self::Refused];

    const fn label(self) -> &'static str {
        match self {
            Self::Known => "known",
            Self::Verified => "verified",
            Self::Refused => "refused",
        }
    }
}

/// The counts since the start of the process, and the offenders that wait. Another policy goes on with
/// them.
#[derive(Debug)]
pub(crate) struct BanActivity {
    failures: [AtomicU64; CredentialFailure::ALL.len()],
    checks: [AtomicU64; BannedCheck::ALL.len()],
    results: [AtomicU64; BanResult::ALL.len()],
    waiting: Mutex<VecDeque<Offender>>,
    arrived: Notify,
}

impl Default for BanActivity {
    fn default() -> Self {
        Self {
            failures: array::from_fn(|_| AtomicU64::new(0)),
            checks: array::from_fn(|_| AtomicU64::new(0)),
            results: array::from_fn(|_| AtomicU64::new(0)),
            waiting: Mutex::default(),
            arrived: Notify::new(),
        }
    }
}

impl BanActivity {
    pub(super) fn count_failure(&self, failure: CredentialFailure) {
        add(&self.failures, failure as usize);
    }

    pub(super) fn count_check(&self, check: BannedCheck) {
        add(&self.checks, check as usize);
    }

    pub(crate) fn count_result(&self, result: BanResult) {
        add(&self.results, result as usize);
    }

    /// Adds a network to those that wait, once: one that goes on failing meanwhile takes no place of
    /// another. It never blocks.
    pub(crate) fn report(&self, offender: Offender) {
        let mut waiting = self.waiting();
        if waiting.iter().any(|other| other.network == offender.network) {
            return;
        }
        if waiting.len() < MOST_WAITING {
            waiting.push_back(offender);
            drop(waiting);
            self.arrived.notify_one();
        } else {
            drop(waiting);
            self.count_result(BanResult::Dropped);
        }
    }

    /// Waits until some network may wait.
    pub(crate) async fn arrived(&self) {
        while self.waiting().is_empty() {
            self.arrived.notified().await;
        }
    }

    /// Takes the networks that have waited longest, `most` at most.
    pub(crate) fn take(&self, most: usize) -> Vec<Offender> {
        let mut waiting = self.waiting();
        let count = waiting.len().min(most);
        waiting.drain(..count).collect()
    }

    /// The counts for metrics.
    pub(super) fn status(&self) -> NetworkBanStatus {
        let of = |counts: &[AtomicU64], place: usize| {
            counts.get(place).map_or(0, |count| count.load(Relaxed))
        };
        let failures = CredentialFailure::ALL;
        NetworkBanStatus {
            failures: failures.map(|kind| (kind.label(), of(&self.failures, kind as usize))),
            checks: BannedCheck::ALL.map(|check| (check.label(), of(&self.checks, check as usize))),
            results: BanResult::ALL
                .map(|result| (result.label(), of(&self.results, result as usize))),
            networks: 0,
            most: 0,
            threshold: 0,
        }
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Offender>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn add(counts: &[AtomicU64], place: usize) {
    if let Some(count) = counts.get(place) {
        count.fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_network_waits_once_whatever_it_sends() {
        let activity = BanActivity::default();
        let offender = |number: u32| Offender {
            network: Network::host(std::net::Ipv4Addr::from_bits(number).into()),
            reached: Reached { failures: 10, within: Duration::ZERO },
        };
        for number in 0..1000 {
            activity.report(offender(1));
            activity.report(offender(1_000_000 + number / 100));
        }
        assert_eq!(activity.take(5).len(), 5);
        assert_eq!(activity.take(100).len(), 6);
        for number in 0..2000 {
            activity.report(offender(number));
        }
        assert_eq!(activity.take(usize::MAX).len(), MOST_WAITING);
        assert_eq!(activity.status().results[3], ("dropped", 2000 - 1024));
    }
}
