//! Checks whose limits are leased: leased units are spent here, and only the rest is sent to Redis.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use ::redis::Value;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tollgate_core::{
    admission::{AdmitRequest, AdmitResponse, Outage},
    limit::{Charge, Verdict, lease::LeaseGrant, reservation::Reservation},
};

use super::{
    Needs, Redis,
    admit_call::{ScriptRequest, ScriptResponse},
    link::Link,
    script::Scripts,
};
use crate::store::leases::{ChargeStep, Leases, ReturnedUnits};

/// The interval at which expired units are returned.
const SWEEP: Duration = Duration::from_millis(250);

/// The most buckets in one call that returns units.
const CHUNK: usize = 500;

impl Redis {
    /// Decides a check with leased limits, without a call if the leases suffice.
    pub(super) async fn decide_leased(
        &self,
        needs: Needs,
        request: AdmitRequest,
        shard: Option<usize>,
    ) -> Result<AdmitResponse, Outage> {
        let steps = self.leases.take(&request.charges, shard);
        for (charge, step) in request.charges.iter().zip(&steps) {
            if let ChargeStep::Taken(_, ahead @ 1..) = step {
                self.request_ahead(charge, shard, *ahead);
            }
        }
        let is_known =
            |step: &ChargeStep| matches!(step, ChargeStep::Taken(..) | ChargeStep::Refused(_));
        let known = request.revocation.is_none()
            && request.proof.is_none()
            && request.reservation.is_none()
            && steps.iter().all(is_known);
        let mut check = LeasedCheck { leases: &self.leases, charges: &request.charges, steps };
        if known {
            return Ok(check.decide_here());
        }
        check.request_refused();
        let script_request = check.script_request(&request);
        let can_do_without = needs.can_do_without(&script_request.request);
        match self.link(shard).send(script_request).await {
            Ok(response) => check.conclude(response, request.reservation.as_deref()),
            Err(_) if can_do_without => Ok(check.conclude_uncounted(&request)),
            Err(outage) => Err(outage),
        }
    }

    /// Requests units ahead of need, while the units of the lease are spent.
    fn request_ahead(&self, charge: &Charge, shard: Option<usize>, want: u64) {
        let Some(connection) = self.link(shard).connected() else {
            return self.leases.forget(charge.bucket, want);
        };
        let (leases, charge) = (Arc::clone(&self.leases), charge.clone());
        tokio::spawn(async move {
            let request = AdmitRequest { charges: vec![charge.clone()], ..AdmitRequest::default() };
            let request = ScriptRequest { request, wants: vec![want] };
            match connection.admit(request).await {
                Ok(ScriptResponse {
                    response: AdmitResponse::Counted(verdicts),
                    taken,
                    called_at,
                }) => match (&*verdicts, &*taken) {
                    ([verdict], [granted]) if verdict.admitted => {
                        let grant = LeaseGrant { requested: want, granted: *granted, consumed: 0 };
                        leases.grant(charge.bucket, called_at, grant, *verdict);
                    }
                    ([verdict], _) => leases.refuse(charge.bucket, want, *verdict),
                    _ => leases.forget(charge.bucket, want),
                },
                _ => leases.forget(charge.bucket, want),
            }
        });
    }

    /// Returns expired units to Redis; with `closing`, all of them.
    pub(super) async fn give_back(&self, closing: bool) {
        let mut returned = self.leases.reclaim(closing).await;
        returned.sort_by_key(|units| units.shard);
        for of_shard in returned.chunk_by(|one, next| one.shard == next.shard) {
            let link = self.link(of_shard.first().and_then(|units| units.shard));
            for chunk in of_shard.chunks(CHUNK) {
                // Units that cannot be returned come back with time, as the bucket fills.
                let _lost = give_back_chunk(link, &self.scripts, chunk).await;
            }
        }
    }
}

/// Returns units of buckets of one shard.
pub(super) async fn give_back_chunk(
    link: &Link,
    scripts: &Scripts,
    chunk: &[ReturnedUnits],
) -> Result<(), Outage> {
    let tag = link.tag();
    link.call(|mut connection| async move {
        let reply = scripts.give_back.run(&mut connection, chunk.len() + 1, |cmd| {
            for ReturnedUnits { key, .. } in chunk {
                cmd.arg(tag.bucket(key));
            }
            cmd.arg(tag.format());
            for ReturnedUnits { micros, .. } in chunk {
                cmd.arg(*micros);
            }
        });
        reply.await.map(|_: Value| ())
    })
    .await
}

/// Starts the task that returns expired units, until `stop` or until the store is dropped.
pub(in crate::store) fn spawn_give_back(store: Weak<Redis>, stop: CancellationToken) {
    tokio::spawn(async move {
        stop.run_until_cancelled(async {
            while let Some(store) = store.upgrade() {
                if !store.leases.is_empty() {
                    store.give_back(false).await;
                }
                drop(store);
                sleep(SWEEP).await;
            }
        })
        .await
    });
}

/// The charges of one check and their steps. If it is dropped undecided, its units are spent: Redis
/// may have charged what was requested.
struct LeasedCheck<'a> {
    leases: &'a Leases,
    charges: &'a [Charge],
    steps: Vec<ChargeStep>,
}

impl LeasedCheck<'_> {
    /// Decides the check without Redis: all of its units are spent, or none.
    fn decide_here(mut self) -> AdmitResponse {
        let steps = std::mem::take(&mut self.steps);
        let all = steps.iter().all(|step| matches!(step, ChargeStep::Taken(..)));
        let verdicts = self.charges.iter().zip(steps).filter_map(|(charge, step)| match step {
            ChargeStep::Taken(verdict, _) => Some(self.settle(charge, verdict, all)),
            ChargeStep::Refused(verdict) => Some(verdict),
            ChargeStep::Exact | ChargeStep::Requested(_) => None,
        });
        AdmitResponse::Counted(verdicts.collect())
    }

    /// Settles units that were taken: they are spent, or available again.
    fn settle(&self, charge: &Charge, verdict: Verdict, spent: bool) -> Verdict {
        self.leases.settle(charge, spent);
        let returned = if spent { 0 } else { charge.cost };
        Verdict { remaining: (verdict.remaining + returned).min(charge.burst), ..verdict }
    }

    /// As Redis is called anyway, it decides on the buckets that had no room a short time ago, too.
    fn request_refused(&mut self) {
        for (charge, step) in self.charges.iter().zip(&mut self.steps) {
            if let ChargeStep::Refused(_) = step {
                *step = self.leases.request_anyway(charge);
            }
        }
    }

    /// The part of the check that Redis decides.
    fn script_request(&self, request: &AdmitRequest) -> ScriptRequest {
        let parts = self.charges.iter().zip(&self.steps).filter_map(|(charge, step)| match step {
            ChargeStep::Exact => Some((Charge { lease: None, ..charge.clone() }, charge.cost)),
            ChargeStep::Requested(want) => Some((charge.clone(), *want)),
            ChargeStep::Taken(..) | ChargeStep::Refused(_) => None,
        });
        let (charges, wants) = parts.unzip();
        // Every field by name: a new one does not compile until it is sent.
        let AdmitRequest { revocation, address, proof, charges: _, reservation } = request;
        let (revocation, reservation) = (revocation.clone(), reservation.clone());
        let (address, proof) = (*address, proof.clone());
        let request = AdmitRequest { revocation, address, proof, charges, reservation };
        ScriptRequest { request, wants }
    }

    /// Decides the check without an answer of Redis, from which only limits in shadow were requested: the
    /// units that were taken here are spent.
    fn conclude_uncounted(mut self, request: &AdmitRequest) -> AdmitResponse {
        let steps = std::mem::take(&mut self.steps);
        let mut verdicts = request.uncounted();
        for ((charge, step), uncounted) in self.charges.iter().zip(steps).zip(&mut verdicts) {
            if let ChargeStep::Taken(verdict, _) = step {
                *uncounted = self.settle(charge, verdict, true);
            }
        }
        AdmitResponse::Counted(verdicts)
    }

    /// Settles the check with the answer of Redis.
    fn conclude(
        mut self,
        ScriptResponse { response, taken, called_at }: ScriptResponse,
        reservation: Option<&Reservation>,
    ) -> Result<AdmitResponse, Outage> {
        let steps = std::mem::take(&mut self.steps);
        let AdmitResponse::Counted(counted) = response else {
            // The credential is revoked, or its proof used before, and nothing was charged.
            for (charge, step) in self.charges.iter().zip(steps) {
                match step {
                    ChargeStep::Requested(want) => self.leases.forget(charge.bucket, want),
                    ChargeStep::Taken(..) => self.leases.settle(charge, false),
                    ChargeStep::Exact | ChargeStep::Refused(_) => {}
                }
            }
            return Ok(response);
        };
        let sent = self.charges.iter().zip(&steps);
        let sent = sent.filter(|(_, step)| !matches!(step, ChargeStep::Taken(..)));
        let holds = reservation.iter().flat_map(|reservation| &reservation.holds);
        let in_shadow = sent.map(|(charge, _)| charge.is_shadow);
        let in_shadow = in_shadow.chain(holds.map(|hold| hold.is_shadow));
        let mut each = counted.iter().zip(in_shadow);
        let all = each.all(|(verdict, is_shadow)| verdict.admitted || is_shadow);
        let mut counted = counted.into_iter().zip(taken.into_iter().chain(std::iter::repeat(0)));
        let verdicts = self.charges.iter().zip(steps).map(|(charge, step)| {
            Some(match step {
                ChargeStep::Taken(verdict, _) => self.settle(charge, verdict, all),
                ChargeStep::Exact | ChargeStep::Refused(_) => counted.next()?.0,
                ChargeStep::Requested(requested) => {
                    let (verdict, granted) = counted.next()?;
                    let grant = LeaseGrant { requested, granted, consumed: charge.cost };
                    match (all, verdict.admitted) {
                        (true, _) => self.leases.grant(charge.bucket, called_at, grant, verdict),
                        (false, true) => self.leases.forget(charge.bucket, requested),
                        (false, false) => self.leases.refuse(charge.bucket, requested, verdict),
                    }
                    let leased = if all { granted.saturating_sub(charge.cost) } else { 0 };
                    Verdict { remaining: verdict.remaining.saturating_add(leased), ..verdict }
                }
            })
        });
        let mut verdicts: Vec<Verdict> = verdicts.collect::<Option<_>>().ok_or(Outage::Refused)?;
        // The rest are those of the holds.
        verdicts.extend(counted.map(|(verdict, _)| verdict));
        Ok(AdmitResponse::Counted(verdicts))
    }
}

impl Drop for LeasedCheck<'_> {
    fn drop(&mut self) {
        for (charge, step) in self.charges.iter().zip(&self.steps) {
            match step {
                ChargeStep::Requested(want) => self.leases.forget(charge.bucket, *want),
                ChargeStep::Taken(..) => self.leases.settle(charge, true),
                ChargeStep::Exact | ChargeStep::Refused(_) => {}
            }
        }
    }
}
