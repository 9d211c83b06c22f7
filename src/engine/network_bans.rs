//! Automatic bans: the failed credentials of each network are counted beside the checks, a background
//! task bans the networks with too many of them, and checks from a banned network verify few
//! credentials that are new here.
//!
//! A check that is allowed takes no part in it, unless its network is banned.

mod activity;
mod allowance;
mod failures;

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tollgate_core::{
    authenticate::FromBanned, ban::AutomaticBans, denial::CredentialFailure, network::Network,
    policy::Policy,
};

pub(super) use self::activity::{BanActivity, BanResult, Offender};
use self::{
    activity::BannedCheck,
    allowance::Allowance,
    failures::{Failure, FailureTable, NetworkFailures},
};
use crate::observe::{exposition::NetworkBanStatus, offenders::FailingNetwork};

/// The sets of eight networks that are counted: 328 KiB.
const NETWORKS: usize = 1024;

/// The sets of eight IPv6 sites that are counted: 82 KiB.
const SITES: usize = 256;

/// The networks of one site whose failures ban the site: with as many, it is a client that changes its
/// network.
const NETWORKS_OF_A_SITE: u64 = 8;

/// The state of a policy with automatic bans.
#[derive(Debug)]
pub(super) struct NetworkBans {
    terms: AutomaticBans,
    failures: FailureTable,
    /// The failures of the sites of IPv6 networks, each of which one client may have as a whole.
    sites: FailureTable,
    allowance: Allowance,
    activity: Arc<BanActivity>,
    started: Instant,
}

impl NetworkBans {
    /// Returns the state of a policy; `None` where it has no automatic bans. A policy with the same
    /// section as the one before goes on with its counts.
    pub(super) fn of(
        policy: &Policy,
        before: Option<&Arc<Self>>,
        activity: &Arc<BanActivity>,
    ) -> Option<Arc<Self>> {
        let terms = policy.automatic_bans.as_ref()?;
        if let Some(before) = before.filter(|before| before.terms == *terms) {
            return Some(Arc::clone(before));
        }
        let (most, window) = (terms.failures.count(), terms.failures.per().std());
        let of_site = most.saturating_mul(NETWORKS_OF_A_SITE);
        Some(Arc::new(Self {
            terms: terms.clone(),
            failures: FailureTable::new(NETWORKS, most, window),
            sites: FailureTable::new(SITES, of_site, window),
            allowance: Allowance::new(terms),
            activity: Arc::clone(activity),
            started: Instant::now(),
        }))
    }

    /// The section of the policy.
    pub(super) const fn terms(&self) -> &AutomaticBans {
        &self.terms
    }

    /// Counts a failed credential of a client. `is_banned` is whether its network is.
    pub(super) fn count(&self, failure: CredentialFailure, address: IpAddr, is_banned: bool) {
        let network = self.terms.network_of(address);
        if self.terms.is_exempt(network) {
            return;
        }
        self.activity.count_failure(failure);
        let counted = if is_banned { Failure::OfBanned } else { Failure::Counts };
        self.count_of(network, counted);
    }

    fn count_of(&self, network: Network, failure: Failure) {
        let now = self.started.elapsed();
        if let Some(reached) = self.failures.count(network, failure, now) {
            self.activity.report(Offender { network, reached });
        }
        let Some(site) = self.terms.site_of(network).filter(|site| !self.terms.is_exempt(*site))
        else {
            return;
        };
        // The networks of a site that are banned say nothing about its others.
        if failure == Failure::Counts
            && let Some(reached) = self.sites.count(site, failure, now)
        {
            self.activity.report(Offender { network: site, reached });
        }
    }

    /// Takes a verification of a credential that is new here, for a client of a banned network. Returns
    /// whether there was one. The networks of a site have one rate.
    pub(super) fn may_verify(&self, address: IpAddr) -> bool {
        let network = self.terms.network_of(address);
        let network = self.terms.site_of(network).unwrap_or(network);
        self.allowance.take(network, self.started.elapsed())
    }

    /// Whether a proof of possession with a key is verified for a client of a banned network: as long as
    /// fewer with that key were forged there than new credentials are verified.
    pub(super) fn may_verify_proof(&self, address: IpAddr, key: &[u8; 32]) -> bool {
        self.allowance.has_proof(self.terms.network_of(address), key, self.started.elapsed())
    }

    /// Counts a forged proof of a key, from a client of a banned network.
    pub(super) fn note_forged_proof(&self, address: IpAddr, key: &[u8; 32]) {
        self.allowance.take_proof(self.terms.network_of(address), key, self.started.elapsed());
    }

    /// Counts a check from a banned network that has a credential.
    pub(super) fn count_check(&self, address: IpAddr, result: &FromBanned) {
        self.activity.count_check(match result {
            FromBanned::Known(_) => BannedCheck::Known,
            FromBanned::New(_) => BannedCheck::Verified,
            FromBanned::Refused => {
                self.count_of(self.terms.network_of(address), Failure::Refused);
                BannedCheck::Refused
            }
        });
    }

    /// The networks with the most failed credentials in the latest time of `failures`, `most` at most.
    pub(super) fn offenders(&self, most: usize) -> Vec<FailingNetwork> {
        let found = self.failures.top(most, self.started.elapsed());
        let network = |found: NetworkFailures| {
            let address = Network::from_bits(found.first, 128)?.first_address();
            let NetworkFailures { failures, refused, .. } = found;
            let network = self.terms.network_of(address);
            Some(FailingNetwork { network, failures, refused, ban: None })
        };
        found.into_iter().filter_map(network).collect()
    }

    /// The time in which failures are counted.
    pub(super) fn window(&self) -> Duration {
        self.terms.failures.per().std()
    }

    /// The status for metrics.
    pub(super) fn status(&self) -> NetworkBanStatus {
        let (networks, most) = self.failures.busiest(self.started.elapsed());
        NetworkBanStatus {
            networks,
            most,
            threshold: self.terms.failures.count(),
            ..self.activity.status()
        }
    }
}

#[cfg(test)]
mod tests;
