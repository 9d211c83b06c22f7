//! Shards: the counters of a cluster, spread over its nodes by an attribute of the credential.
//!
//! What a check counts within its tenant, or within its subject, is in one shard, and is one script
//! call on one node. Everything else is at home, in the slot of `{tollgate}`: revocations, bans and API
//! keys, which are copied, and limits that count for several tenants, whose units are leased. Home is
//! queried before the shard, and only where the copy is too old or a lease is used up.

use std::sync::Arc;

use tollgate_core::{
    admission::{AdmitRequest, AdmitResponse, Outage},
    limit::{
        Charge, Verdict,
        shard::{Shard, ShardBy},
    },
};

use super::{Lookup, Needs, Redis, keys::Tag, link::Link};
use crate::store::leases::ReturnedUnits;

/// The links to all shards.
pub(super) struct Shards {
    by: ShardBy,
    links: Vec<Arc<Link>>,
}

impl Shards {
    /// Starts a link to each shard.
    pub(super) fn start(by: ShardBy, count: usize, start: impl Fn(Tag) -> Arc<Link>) -> Self {
        Self { by, links: (0..count).map(|index| start(Tag::shard(index, count))).collect() }
    }

    /// The number of the shard of a request: that of its reservation, or of its credential.
    fn of(&self, request: &AdmitRequest) -> Option<usize> {
        let held = request.reservation.as_ref().and_then(|reservation| reservation.shard);
        let of_credential = || request.revocation.as_ref().map(|keys| self.by.shard(keys));
        Some(held.or_else(of_credential)?.index(self.links.len()))
    }

    /// The verdicts in the order of the request: those of the charges, then those of the holds.
    fn merged(
        &self,
        request: &AdmitRequest,
        others: Vec<Verdict>,
        owns: Vec<Verdict>,
    ) -> AdmitResponse {
        let (mut others, mut owns) = (others.into_iter(), owns.into_iter());
        let of_charges = request.charges.iter().filter_map(|charge| {
            if self.by.has(charge.within) { owns.next() } else { others.next() }
        });
        let mut verdicts: Vec<Verdict> = of_charges.collect();
        verdicts.extend(owns);
        AdmitResponse::Counted(verdicts)
    }
}

impl Redis {
    /// Whether the counters are spread over shards.
    pub(super) fn has_shards(&self) -> bool {
        self.shards.is_some()
    }

    /// The number of a shard; `None` is home.
    pub(super) fn index_of(&self, shard: Option<Shard>) -> Option<usize> {
        Some(shard?.index(self.shards.as_ref()?.links.len()))
    }

    /// The link to a shard, or home.
    pub(super) fn link(&self, shard: Option<usize>) -> &Arc<Link> {
        let links = self.shards.as_ref().map(|shards| &shards.links);
        links.zip(shard).and_then(|(links, shard)| links.get(shard)).unwrap_or(&self.home)
    }

    /// Home, and every shard.
    pub(super) fn places(&self) -> impl Iterator<Item = Option<usize>> {
        let count = self.shards.as_ref().map_or(0, |shards| shards.links.len());
        std::iter::once(None).chain((0..count).map(Some))
    }

    /// Decides a check: at home what cannot be decided here, and then in the shard of the request.
    pub(super) async fn decide_in_shards(
        &self,
        shards: &Shards,
        request: &AdmitRequest,
    ) -> Result<AdmitResponse, Outage> {
        let (is_known, once_denied) = match self.look_up(request) {
            Lookup::Denied(response) => return Ok(response),
            Lookup::NotRevoked => (true, None),
            // The bans of a network are known from the copy, as for a public route without limits.
            Lookup::Unknown => (request.revocation.is_none(), None),
            Lookup::OnceDenied(response) => (false, Some(response)),
        };
        let (own, other): (Vec<Charge>, Vec<Charge>) =
            request.charges.iter().cloned().partition(|charge| shards.by.has(charge.within));
        let at_home = AdmitRequest {
            revocation: request.revocation.clone().filter(|_| !is_known),
            address: request.address.filter(|_| !is_known),
            proof: None,
            charges: other,
            reservation: None,
        };
        let needs = if once_denied.is_some() { Needs::Answer } else { Needs::AnswerIfEnforced };
        let others = match self.query_for(needs, at_home, None).await {
            Ok(AdmitResponse::Counted(verdicts)) => verdicts,
            Ok(denied) => return Ok(denied),
            // INVARIANT: an outage never forgets a revocation or a ban that is known.
            Err(outage) => return once_denied.ok_or(outage),
        };
        let reservation = request.reservation.clone();
        let holds = reservation.as_ref().map_or(0, |reservation| reservation.holds.len());
        let shard = shards.of(request);
        let at_home = request.charges.iter().filter(|charge| !shards.by.has(charge.within));
        if at_home.zip(&others).any(|(charge, verdict)| !verdict.admitted && !charge.is_shadow) {
            // A proof is used up, whatever the limits decide.
            let proof = AdmitRequest { proof: request.proof.clone(), ..AdmitRequest::default() };
            if let denied @ AdmitResponse::Proof(_) = self.query(proof, shard).await? {
                return Ok(denied);
            }
            // What is left of the limits of the shard is not known.
            let unqueried = vec![Verdict::UNCOUNTED; own.len() + holds];
            return Ok(shards.merged(request, others, unqueried));
        }
        // Every field by name: a new one does not compile until it is sent.
        let in_shard = AdmitRequest {
            revocation: None,
            address: None,
            proof: request.proof.clone(),
            charges: own,
            reservation,
        };
        let owns = match self.query(in_shard, shard).await {
            Ok(AdmitResponse::Counted(verdicts)) => verdicts,
            // A shard that is lost does not use up what all have in common.
            denied => {
                self.put_back(shards, request, &others);
                return denied;
            }
        };
        let in_shard = request.charges.iter().filter(|charge| shards.by.has(charge.within));
        let holds = request.reservation.iter().flat_map(|reservation| &reservation.holds);
        let in_shadow = in_shard.map(|charge| charge.is_shadow);
        let in_shadow = in_shadow.chain(holds.map(|hold| hold.is_shadow));
        if in_shadow.zip(&owns).any(|(is_shadow, verdict)| !verdict.admitted && !is_shadow) {
            self.put_back(shards, request, &others);
        }
        Ok(shards.merged(request, others, owns))
    }

    /// Puts units back that a check took at home, and that its shard refused: they are leased again.
    fn put_back(&self, shards: &Shards, request: &AdmitRequest, others: &[Verdict]) {
        let at_home = request.charges.iter().filter(|charge| !shards.by.has(charge.within));
        let taken = at_home.zip(others).filter(|(_, verdict)| verdict.admitted);
        let mut exact = Vec::new();
        for (charge, _) in taken {
            if charge.lease.is_some() {
                self.leases.put_back(charge);
            } else {
                let micros = charge.cost.saturating_mul(charge.interval);
                exact.push(ReturnedUnits { key: charge.key(), shard: None, micros });
            }
        }
        if !exact.is_empty() {
            let (home, scripts) = (Arc::clone(&self.home), Arc::clone(&self.scripts));
            tokio::spawn(async move {
                // Units that cannot be returned come back with time, as the bucket fills.
                let _lost = super::leasing::give_back_chunk(&home, &scripts, &exact).await;
            });
        }
    }
}
