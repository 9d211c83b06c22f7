//! `on_outage: local`: bounded counts and known revocations while Redis does not answer.
//!
//! Each replica admits its share of every limit, and applies the revocations that it last read from
//! Redis, up to a configured age. Each replica begins with a full share, so that a client can get
//! its limit once more in an outage. Requests that hold tokens or slots are admitted from the
//! replica's escrow, which Redis holds for it.

use std::{sync::Arc, time::Duration};

use tollgate_core::{
    admission::{AdmitRequest, AdmitResponse, Outage, Settled, Settlement},
    limit::{
        Charge, Counter, Hold, Verdict,
        counters::{Count, HELD_RETRY},
        escrow::EscrowTerms,
        reservation::Reservation,
    },
    room::Group,
    time::Timestamp,
};

use super::{
    LocalConfig, Store,
    escrow::{EscrowStatus, EscrowTable},
    memory::{Buckets, Clock},
    replica::Replica,
    requester::Requester,
};

/// Counts and revocations for an outage of Redis.
pub struct LocalFallback {
    replicas: u64,
    max_staleness: Duration,
    buckets: Buckets,
    escrows: EscrowTable,
    clock: Clock,
    replica: Arc<Replica>,
}

/// The status of a [`LocalFallback`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalStatus {
    /// The age of the known revocations; `None` before they were first read.
    pub age: Option<Duration>,
    /// The number of known revocations.
    pub revocations: u64,
    /// The number of buckets.
    pub buckets: u64,
    /// The units of Redis' counters that this replica holds.
    pub escrow: EscrowStatus,
}

impl std::fmt::Debug for LocalFallback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalFallback").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl LocalFallback {
    /// Creates a fallback without counts. The caller keeps the replica up to date.
    pub(super) fn new(config: &LocalConfig, replica: Arc<Replica>) -> Self {
        let terms = EscrowTerms {
            share: config.escrow.share,
            replicas: config.replicas,
            life: config.escrow.life,
        };
        Self {
            replicas: config.replicas,
            max_staleness: config.max_staleness.std(),
            buckets: Buckets::new(config.max_buckets),
            escrows: EscrowTable::new(terms),
            clock: Clock::start(),
            replica,
        }
    }

    /// Decides a check in place of Redis.
    ///
    /// # Errors
    /// [`Outage::Stale`] for a credential if the known revocations are too old, or were never read;
    /// [`Outage::Full`] as in the memory store; [`Outage::Refused`] for an external denylist, which
    /// is not replicated, and for a proof, which only Redis knows; [`Outage::Escrow`] if the escrow has
    /// no room for a reservation.
    pub fn admit(&self, request: &AdmitRequest) -> Result<AdmitResponse, Outage> {
        let now = self.clock.now();
        // First: a known ban applies at any age.
        if let Some(ban) = self.replica.ban(request) {
            return Ok(AdmitResponse::Banned(ban));
        }
        if let Some(keys) = &request.revocation {
            let age = self.replica.age();
            // So does a known revocation.
            if let Some(kind) = self.replica.revoked_by(keys) {
                return Ok(AdmitResponse::Revoked(kind));
            }
            if !keys.foreign.is_empty() {
                return Err(Outage::Refused);
            }
            if age.is_none_or(|age| age > self.max_staleness) {
                return Err(Outage::Stale);
            }
        }
        if request.proof.is_some() {
            return Err(Outage::Refused);
        }
        match &request.reservation {
            Some(reservation) if reservation.holds.iter().any(is_uncounted) => {
                self.admit_without_shadow(request, reservation, now)
            }
            Some(reservation) if reservation.is_settled() => {
                self.admit_from_escrow(request, reservation, now)
            }
            _ => self.count(request, now),
        }
    }

    /// Decides a check without what it holds of limits in shadow: a replica has no escrow of them.
    fn admit_without_shadow(
        &self,
        request: &AdmitRequest,
        reservation: &Reservation,
        now: Timestamp,
    ) -> Result<AdmitResponse, Outage> {
        let holds = reservation.holds.iter().filter(|hold| !is_uncounted(hold)).cloned();
        let counted = Reservation { holds: holds.collect(), ..reservation.clone() };
        let is_settled = counted.is_settled();
        let counted = Some(Box::new(counted)).filter(|counted| !counted.holds.is_empty());
        let part = AdmitRequest { reservation: counted, ..request.clone() };
        let response = match &part.reservation {
            Some(counted) if is_settled => self.admit_from_escrow(&part, counted, now)?,
            _ => self.count(&part, now)?,
        };
        let AdmitResponse::Counted(verdicts) = response else { return Ok(response) };
        let mut verdicts = verdicts.into_iter();
        let mut all: Vec<Verdict> = verdicts.by_ref().take(request.charges.len()).collect();
        let of_holds = reservation.holds.iter().filter_map(|hold| {
            if is_uncounted(hold) { Some(Verdict::UNCOUNTED) } else { verdicts.next() }
        });
        all.extend(of_holds);
        Ok(AdmitResponse::Counted(all))
    }

    /// Decides a check that holds tokens or slots: Redis holds some for this replica.
    fn admit_from_escrow(
        &self,
        request: &AdmitRequest,
        reservation: &Reservation,
        now: Timestamp,
    ) -> Result<AdmitResponse, Outage> {
        let mut escrows = self.escrows.lock();
        let group = self.group(request);
        let covered = escrows.cover(reservation, group, now).ok_or(Outage::Escrow)?;
        let local = Some(Box::new(covered.local.clone()));
        let response = self.count(&AdmitRequest { reservation: local, ..request.clone() }, now)?;
        let AdmitResponse::Counted(verdicts) = &response else { return Ok(response) };
        let held = verdicts.iter().skip(request.charges.len()).zip(&reservation.holds);
        if held.clone().any(|(verdict, hold)| hold.is_settled() && !verdict.admitted) {
            return Err(Outage::Escrow);
        }
        if request.is_admitted_by(verdicts) {
            escrows.admitted(reservation, covered, now);
            self.escrows.count_admitted(&escrows);
        }
        Ok(response)
    }

    /// Notes what Redis answered to a check of a route with `on_outage: local`.
    pub fn note(&self, request: &AdmitRequest, response: &AdmitResponse) {
        let AdmitResponse::Counted(verdicts) = response else { return };
        let Some(reservation) = &request.reservation else { return };
        let of_holds = verdicts.get(request.charges.len()..).unwrap_or_default();
        self.escrows.note(reservation, of_holds, self.group(request), &self.clock);
    }

    /// The group whose room for escrows a request takes.
    fn group(&self, request: &AdmitRequest) -> Option<Group> {
        self.buckets.groups().of(Requester::of(request), true)
    }

    /// Takes a report of a request that was admitted from the escrow and that Redis does not have
    /// yet. Returns what it changed of the replica's own counters; `None` where it is another one.
    pub fn settle(&self, settlement: &Settlement) -> Option<Settled> {
        let own = self.escrows.settle(settlement)?;
        self.buckets.settle(&[own], self.clock.now()).pop()
    }

    /// Releases the escrow, when the process ends and checks are over.
    pub async fn close(&self, store: &dyn Store) {
        self.escrows.close(store, &self.clock).await;
    }

    pub(super) const fn escrows(&self) -> &EscrowTable {
        &self.escrows
    }

    pub(super) const fn clock(&self) -> &Clock {
        &self.clock
    }

    fn count(&self, request: &AdmitRequest, now: Timestamp) -> Result<AdmitResponse, Outage> {
        let charges: Vec<Charge> =
            request.charges.iter().map(|charge| share(charge, self.replicas)).collect();
        let reservation = request.reservation.as_ref().map(|reservation| {
            let holds = reservation.holds.iter().map(|hold| share_of_window(hold, self.replicas));
            Box::new(Reservation { holds: holds.collect(), ..(**reservation).clone() })
        });
        let revocation = request.revocation.clone();
        let address = request.address;
        let shares = AdmitRequest { revocation, address, proof: None, charges, reservation };
        let mut verdicts = self.buckets.admit(&shares, now)?;
        for ((verdict, share), charge) in
            verdicts.iter_mut().zip(&shares.charges).zip(&request.charges)
        {
            limit_retry_after(verdict, share, charge);
        }
        let holds = request.reservation.iter().flat_map(|reservation| &reservation.holds);
        for (verdict, hold) in verdicts.iter_mut().skip(request.charges.len()).zip(holds) {
            let is_possible = Count::default().try_hold(hold, now.micros()).admitted;
            if verdict.retry_after == u64::MAX && is_possible {
                verdict.retry_after = HELD_RETRY;
            }
        }
        Ok(AdmitResponse::Counted(verdicts))
    }

    /// The status for metrics.
    pub fn status(&self) -> LocalStatus {
        LocalStatus {
            age: self.replica.age(),
            revocations: self.replica.len(),
            buckets: self.buckets.len(),
            escrow: self.escrows.status(),
        }
    }
}

/// Whether a hold is not counted in an outage: that of a limit in shadow which is settled.
fn is_uncounted(hold: &Hold) -> bool {
    hold.is_shadow && hold.is_settled()
}

/// The share of one replica in a charge's bucket, which fills more slowly and is smaller by the
/// number of replicas.
fn share(charge: &Charge, replicas: u64) -> Charge {
    Charge {
        interval: charge.interval.saturating_mul(replicas),
        burst: charge.burst / replicas.max(1),
        ..charge.clone()
    }
}

/// The share of one replica in the requests of a window.
fn share_of_window(hold: &Hold, replicas: u64) -> Hold {
    let counter = match hold.counter {
        Counter::Requests { limit, ends } => {
            Counter::Requests { limit: limit / replicas.max(1), ends }
        }
        Counter::Rate { interval, burst } => Counter::Rate {
            interval: interval.saturating_mul(replicas),
            burst: burst / replicas.max(1),
        },
        settled => settled,
    };
    Hold { counter, ..hold.clone() }
}

/// A share that is too small for the charge never has room, but the limit has, once Redis is back:
/// the client may retry.
fn limit_retry_after(verdict: &mut Verdict, share: &Charge, charge: &Charge) {
    if verdict.retry_after == u64::MAX && charge.cost <= charge.burst {
        verdict.retry_after = share.interval;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn charge(interval: u64, burst: u64) -> Charge {
        Charge {
            limit: "l".into(),
            bucket: "k".into(),
            interval,
            burst,
            cost: 1,
            by_principal: true,
            is_shadow: false,
            lease: None,
            within: tollgate_core::limit::shard::CountedWithin::default(),
        }
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
    fn an_empty_share_is_refused_for_now_and_an_empty_limit_for_ever() {
        let refused = Verdict { admitted: false, remaining: 0, retry_after: u64::MAX, reset: 0 };
        for (burst, expected) in [(3, 4000), (0, u64::MAX)] {
            let (whole, mut verdict) = (charge(1000, burst), refused);
            limit_retry_after(&mut verdict, &share(&whole, 4), &whole);
            assert_eq!(verdict.retry_after, expected);
        }
    }
}
