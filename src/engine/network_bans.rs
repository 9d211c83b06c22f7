//! Automatic bans: the failed credentials of each network are counted beside the checks, a background
//! task bans the networks with too many of them, and checks from a banned network verify few
//! credentials that are new here.
//!
//! A check that is allowed takes no part in it, unless its network is banned.

mod activity;
mod allowance;
mod failures;

use std::{net::IpAddr, sync::Arc, time::Instant};

use tollgate_core::{
    authenticate::FromBanned, ban::AutomaticBans, denial::CredentialFailure, policy::Policy,
};

pub(super) use self::activity::{BanActivity, BanResult, Offender};
use self::{activity::BannedCheck, allowance::Allowance, failures::FailureTable};
use crate::observe::exposition::NetworkBanStatus;

/// The state of a policy with automatic bans.
#[derive(Debug)]
pub(super) struct NetworkBans {
    terms: AutomaticBans,
    failures: FailureTable,
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
        Some(Arc::new(Self {
            terms: terms.clone(),
            failures: FailureTable::new(terms.failures),
            allowance: Allowance::new(terms),
            activity: Arc::clone(activity),
            started: Instant::now(),
        }))
    }

    /// The section of the policy.
    pub(super) const fn terms(&self) -> &AutomaticBans {
        &self.terms
    }

    /// Counts a failed credential of a client.
    pub(super) fn count(&self, failure: CredentialFailure, address: IpAddr) {
        let network = self.terms.network_of(address);
        if self.terms.is_exempt(network) {
            return;
        }
        self.activity.count_failure(failure);
        if let Some(reached) = self.failures.count(network, self.started.elapsed()) {
            self.activity.report(Offender { network, reached });
        }
    }

    /// Takes a verification of a credential that is new here, for a client of a banned network. Returns
    /// whether there was one.
    pub(super) fn may_verify(&self, address: IpAddr) -> bool {
        self.allowance.take(self.terms.network_of(address), self.started.elapsed())
    }

    /// Counts a check from a banned network that has a credential.
    pub(super) fn count_check(&self, result: &FromBanned) {
        self.activity.count_check(match result {
            FromBanned::Known(_) => BannedCheck::Known,
            FromBanned::New(_) => BannedCheck::Verified,
            FromBanned::Refused => BannedCheck::Refused,
        });
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
