//! `on_outage: local`: a bounded count while Redis cannot be asked.
//!
//! Each replica admits its share of each limit, and knows the revocations as they last were in Redis, up to a stated age. A
//! client can so get, in an outage, no more than its limit again: each replica starts with a full share.

use std::{sync::Arc, time::Duration};

use tollgate_core::{
    admission::{AdmitRequest, AdmitResponse, Outage},
    limit::{Charge, Verdict},
    time::Timestamp,
};

use super::{
    LocalConfig,
    memory::{Buckets, Clock},
    replica::Replica,
};

/// Counts and revocations for an outage of Redis.
pub struct LocalFallback {
    replicas: u64,
    max_staleness: Duration,
    buckets: Buckets,
    clock: Clock,
    replica: Arc<Replica>,
}

/// What a [`LocalFallback`] says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalStatus {
    /// How old the known revocations are; `None` before they were first read.
    pub age: Option<Duration>,
    /// How many are known.
    pub revocations: u64,
    /// How many buckets are held.
    pub buckets: u64,
}

impl std::fmt::Debug for LocalFallback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalFallback").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl LocalFallback {
    /// Counts by itself, and relies on a replica that somebody keeps in step.
    pub(super) fn new(config: &LocalConfig, replica: Arc<Replica>) -> Self {
        Self {
            replicas: config.replicas,
            max_staleness: config.max_staleness.std(),
            buckets: Buckets::new(config.max_buckets),
            clock: Clock::start(),
            replica,
        }
    }

    /// Answers in place of Redis.
    ///
    /// # Errors
    /// [`Outage::Stale`] for a credential when the known revocations are too old, or were never read; [`Outage::Full`] as in the
    /// memory store; [`Outage::Refused`] where a blacklist of another service is asked for, which is not replicated.
    pub fn admit(&self, demands: &AdmitRequest) -> Result<AdmitResponse, Outage> {
        let now = self.clock.now();
        if let Some(keys) = &demands.revocation {
            if !keys.foreign.is_empty() {
                return Err(Outage::Refused);
            }
            let age = self.replica.age();
            // Before the age: a revocation that is known holds, however old the rest is.
            if let Some(kind) = self.replica.revokes(keys) {
                return Ok(AdmitResponse::Revoked(kind));
            }
            if age.is_none_or(|age| age > self.max_staleness) {
                return Err(Outage::Stale);
            }
        }
        self.count(&demands.charges, now)
    }

    fn count(&self, charges: &[Charge], now: Timestamp) -> Result<AdmitResponse, Outage> {
        let shares: Vec<Charge> =
            charges.iter().map(|charge| share(charge, self.replicas)).collect();
        let mut verdicts = self.buckets.charge(&shares, now)?;
        for ((verdict, share), charge) in verdicts.iter_mut().zip(&shares).zip(charges) {
            patient(verdict, share, charge);
        }
        Ok(AdmitResponse::Counted(verdicts))
    }

    /// How it does, for metrics.
    pub fn status(&self) -> LocalStatus {
        LocalStatus {
            age: self.replica.age(),
            revocations: self.replica.len(),
            buckets: self.buckets.len(),
        }
    }
}

/// The part of a charge's bucket that is this replica's: it fills so many times slower, and holds so many times less.
fn share(charge: &Charge, replicas: u64) -> Charge {
    Charge {
        interval: charge.interval.saturating_mul(replicas),
        burst: charge.burst / replicas.max(1),
        ..charge.clone()
    }
}

/// A share too small for the charge never has room, but the limit itself does, once Redis is back: not "never".
fn patient(verdict: &mut Verdict, share: &Charge, charge: &Charge) {
    if verdict.retry_after == u64::MAX && charge.cost <= charge.burst {
        verdict.retry_after = share.interval;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn charge(interval: u64, burst: u64) -> Charge {
        Charge { limit: "l".into(), bucket: "k".into(), interval, burst, cost: 1, lease: None }
    }

    #[test]
    fn shares_add_up_to_no_more_than_the_limit() {
        for (burst, replicas, expected) in
            [(20, 1, 20), (20, 4, 5), (20, 3, 6), (20, 20, 1), (20, 21, 0), (0, 4, 0)]
        {
            let share = share(&charge(1000, burst), replicas);
            assert_eq!(
                (share.burst, share.interval),
                (expected, 1000 * replicas),
                "{burst} by {replicas}"
            );
            assert!(share.burst * replicas <= burst);
        }
    }

    #[test]
    fn a_share_of_nothing_is_refused_for_now_and_a_limit_of_nothing_for_good() {
        let refused = Verdict { admitted: false, remaining: 0, retry_after: u64::MAX, reset: 0 };
        for (burst, expected) in [(3, 4000), (0, u64::MAX)] {
            let (whole, mut verdict) = (charge(1000, burst), refused);
            patient(&mut verdict, &share(&whole, 4), &whole);
            assert_eq!(verdict.retry_after, expected);
        }
    }
}
