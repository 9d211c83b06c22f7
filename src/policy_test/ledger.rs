//! The store of a case, in memory: the reference model of the limits, lists of revocations and bans,
//! and the refusals that a process remembers.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use tollgate_core::{
    admission::{AdmitRequest, AdmitResponse, Outage, Settlement, Usage},
    authenticate::Verified,
    ban::{Ban, Kind},
    check::{CheckHooks, Pending},
    credential::{Credential, dpop::UsedProofs},
    decision::Outcome,
    limit::{
        BucketId, Charge, Verdict,
        counters::Counters,
        reference,
        refusal::Refusal,
        reservation::{Reservation, ReservationId},
        usage_history::{HistoryIds, LearntUsage, ObservedUsage, UsageHistory},
    },
    revocation,
    snapshot::Snapshot,
    time::Timestamp,
};

use super::{Banned, Revoked, banned, known::KnownCredentials};

/// The state of the store.
#[derive(Debug, Default)]
pub struct Ledger {
    arrival: HashMap<BucketId, u64>,
    exact: HashMap<String, &'static str>,
    before: HashMap<String, (u64, &'static str)>,
    external: HashSet<String>,
    banned: Vec<Banned>,
    refusals: HashMap<BucketId, Refusal>,
    proofs: UsedProofs,
    counters: Counters,
    /// The number of reservations that were decided.
    reserved: u128,
    /// The last reservation that was admitted, if it is not settled yet.
    last: Option<Reservation>,
    /// What requests used, by the identity of their histories.
    histories: HashMap<BucketId, UsageHistory>,
    /// The credentials that were verified, which pass from a network that is banned automatically.
    known: KnownCredentials,
}

/// The hooks of a check that finds the refusals of a ledger.
#[derive(Clone, Copy, Debug)]
pub struct LedgerHooks<'a>(&'a Ledger);

impl CheckHooks for LedgerHooks<'_> {
    fn verify(
        &mut self,
        snapshot: &Snapshot,
        credential: Credential<'_>,
        now: Timestamp,
    ) -> Verified {
        self.0.known.verify(snapshot, credential, now)
    }

    fn verify_from_banned(
        &mut self,
        snapshot: &Snapshot,
        credential: Credential<'_>,
        address: IpAddr,
        now: Timestamp,
    ) -> Option<Verified> {
        self.0.known.verify_from_banned(snapshot, credential, address, now)
    }

    fn network_ban(&self, address: IpAddr, now: Timestamp) -> Option<Ban> {
        self.0.network_ban(address, now)
    }

    fn has_refusals(&self, _: Timestamp) -> bool {
        true
    }

    fn refusal(&self, charge: &Charge) -> Option<Refusal> {
        self.0.refusal(charge)
    }

    fn reservation_id(&mut self) -> Option<ReservationId> {
        Some(self.0.next_id())
    }

    fn learnt_usage(&self, history: BucketId) -> Option<LearntUsage> {
        self.0.learnt_usage(history)
    }
}

impl Ledger {
    /// Creates a store with these revocations and bans, in which nothing is counted.
    pub fn new(revoked: &[Revoked], banned: &[Banned]) -> Self {
        let mut ledger = Self { banned: banned.to_vec(), ..Self::default() };
        for revoked in revoked {
            match revoked {
                Revoked::Target { target, at } if target.is_before() => {
                    let moment = ledger.before.entry(target.key()).or_insert((0, target.kind()));
                    moment.0 = moment.0.max(at.secs());
                }
                Revoked::Target { target, .. } => {
                    ledger.exact.insert(target.key(), target.kind());
                }
                Revoked::ExternalDenylist(key) => {
                    ledger.external.insert(key.clone());
                }
            }
        }
        ledger
    }

    /// Returns the hooks of a check that comes after those that were concluded here.
    pub fn hooks(&self) -> LedgerHooks<'_> {
        LedgerHooks(self)
    }

    /// Returns the ban of the networks of an address that ends last.
    pub fn network_ban(&self, address: IpAddr, now: Timestamp) -> Option<Ban> {
        banned::of_address(&self.banned, address, now)
    }

    /// Returns the last refusal by the bucket of a charge, if it refused one.
    pub fn refusal(&self, charge: &Charge) -> Option<Refusal> {
        self.refusals.get(&charge.bucket).copied()
    }

    fn remember(&mut self, pending: &Pending, answers: &AdmitResponse, now: Timestamp) {
        let AdmitResponse::Counted(verdicts) = answers else { return };
        let refusals = pending.refusals(verdicts, now);
        self.refusals.extend(refusals.map(|(charge, refusal)| (charge.bucket, refusal)));
    }

    /// Concludes a check. In an outage a route with `on_outage: local` is counted here as its own
    /// process would count it, unless the outage is of that local count.
    pub fn conclude(
        &mut self,
        pending: Pending,
        now: Timestamp,
        outage: Option<Outage>,
    ) -> Outcome {
        let outage = outage.filter(|_| !pending.admit_request().is_empty());
        match outage {
            None => {
                let answers = self.admit(pending.admit_request(), now);
                self.remember(&pending, &answers, now);
                pending.conclude(Ok(answers))
            }
            Some(outage @ (Outage::Full | Outage::Stale)) => pending.conclude(Err(outage)),
            Some(outage) if pending.counts_locally(outage) => {
                let answers = self.admit(pending.admit_request(), now);
                self.remember(&pending, &answers, now);
                pending.conclude_locally(outage, Ok(answers))
            }
            Some(outage) => pending.conclude(Err(outage)),
        }
    }

    /// Answers and counts one request.
    pub fn admit(&mut self, demands: &AdmitRequest, now: Timestamp) -> AdmitResponse {
        let network = demands.address.and_then(|address| self.network_ban(address, now));
        let network = network.filter(|ban| ban.kind == Kind::Network);
        let holder = || banned::of_holder(&self.banned, demands.revocation.as_deref()?, now);
        if let Some(ban) = network.or_else(holder) {
            return AdmitResponse::Banned(ban);
        }
        if let Some(by) = demands.revocation.as_deref().and_then(|keys| self.revoked(keys)) {
            return AdmitResponse::Revoked(by);
        }
        if let Some(proof) = &demands.proof
            && let Err(refusal) = self.proofs.use_once(proof, now)
        {
            return AdmitResponse::Proof(refusal);
        }
        let asked: Vec<_> =
            demands.charges.iter().map(|charge| (charge, self.ask(charge, now))).collect();
        self.counters.advance(now, usize::MAX);
        let reservation = demands.reservation.as_deref();
        self.reserved += u128::from(reservation.is_some());
        let mut held =
            reservation.map(|held| self.counters.try_hold(held, now)).unwrap_or_default();
        let is_admitted =
            asked.iter().all(|(charge, step)| step.verdict.admitted || charge.is_shadow)
                && reservation.is_none_or(|reservation| reservation.is_admitted(&held));
        if is_admitted {
            let taken = asked.iter().filter(|(_, step)| step.verdict.admitted);
            self.arrival.extend(taken.map(|(charge, step)| (charge.bucket, step.tat)));
            if let Some(reservation) = reservation {
                let held = reservation.held(&held);
                self.counters.hold(&held, None, now);
                self.last = Some(held.into_owned()).filter(Reservation::is_settled);
            }
            let charged = asked.into_iter().map(|(_, step)| step.verdict);
            return AdmitResponse::Counted(charged.chain(held).collect());
        }
        if let Some(reservation) = reservation {
            self.counters.peek_admitted(reservation, &mut held, now);
        }
        let charged = asked.into_iter().map(|(charge, step)| {
            if step.verdict.admitted { self.untouched(charge, now) } else { step.verdict }
        });
        AdmitResponse::Counted(charged.chain(held).collect())
    }

    /// Returns what a history of usage predicts.
    pub fn learnt_usage(&self, history: BucketId) -> Option<LearntUsage> {
        self.histories.get(&history)?.learnt()
    }

    /// Ends the response of the request that was admitted last, with the tokens that it used; `None`:
    /// it still arrives. Returns the histories that its usage belongs to.
    pub fn settle_last(&mut self, used: Option<u64>, now: Timestamp) -> Option<HistoryIds> {
        let reservation = self.last.take()?;
        let tokens = used?;
        let histories = reservation.histories;
        for id in histories.iter().flat_map(|HistoryIds { own, shared }| [*own, *shared]) {
            let usage = ObservedUsage { tokens, answer: None };
            self.histories.entry(id).or_default().record(usage);
        }
        self.counters
            .settle(&Settlement { reservation, usage: Usage::Final(tokens), report: None }, now);
        histories
    }

    /// The id of the next reservation: no two checks of a case have one id.
    fn next_id(&self) -> ReservationId {
        ReservationId(self.reserved.to_be_bytes())
    }

    fn ask(&self, charge: &Charge, now: Timestamp) -> reference::Step {
        reference::try_take(
            self.arrival.get(&charge.bucket).copied(),
            now.micros(),
            charge.interval,
            charge.burst,
            charge.cost,
        )
    }

    fn untouched(&self, charge: &Charge, now: Timestamp) -> Verdict {
        reference::peek(
            self.arrival.get(&charge.bucket).copied(),
            now.micros(),
            charge.interval,
            charge.burst,
        )
    }

    fn revoked(&self, keys: &revocation::Keys) -> Option<&'static str> {
        let exact = keys.exact().find_map(|(_, key)| self.exact.get(&key).copied());
        let before = || {
            let revoked = |(_, key): (&str, String)| {
                self.before.get(&key).filter(|(moment, _)| keys.issued_at <= *moment)
            };
            keys.before().find_map(revoked).map(|(_, kind)| *kind)
        };
        let foreign =
            || keys.foreign.iter().any(|key| self.external.contains(key)).then_some("foreign");
        exact.or_else(before).or_else(foreign)
    }
}
