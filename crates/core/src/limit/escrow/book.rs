//! All escrows of a replica.

use std::collections::{HashMap, HashSet, hash_map::Entry};

use super::{
    EscrowTerms,
    request::{Covered, LocalRequest},
};
use crate::{
    limit::{
        BucketId, Counter, Hold, Verdict,
        reservation::{Reservation, ReservationId},
        settlement::{Settlement, Usage},
        shard::Shard,
    },
    room::{Group, SharedRoom},
    time::{Span, Timestamp},
};

/// The most counters of which a replica holds units; further ones have no escrow. Their room is
/// shared among the tenants, and so is that of the requests: a stranger's demand leaves others theirs.
const MOST_COUNTERS: usize = 10_000;

/// The most requests that are admitted from escrows and not reported yet.
const MOST_REQUESTS: usize = 8192;

/// The most requests, and the most escrows, in the reports of one round.
const ROUND: usize = 512;

/// The age at which an escrow is replaced, and the age up to which requests are admitted from one.
/// A store remembers what was settled for 24 hours after its issue.
const REPLACED: Span = Span::from_secs(6 * 3600);
const OLDEST: Span = Span::from_secs(12 * 3600);

/// A counter with its size: a counter whose size differs for some principals has an escrow for each.
type Key = (BucketId, Counter);

/// The escrows of a replica, and the requests that were admitted from them. The moments are those
/// of one clock that never steps.
#[derive(Clone, Debug)]
pub struct Escrows {
    terms: EscrowTerms,
    counters: HashMap<Key, Tracked>,
    /// The room of the counters.
    tracked: SharedRoom,
    /// The escrows that are released as soon as the store has the requests admitted from them.
    leaving: HashMap<ReservationId, (Key, Reservation)>,
    requests: HashMap<ReservationId, LocalRequest>,
    /// The room of the requests.
    admitted: SharedRoom,
    is_closed: bool,
}

/// A counter that requests of this replica hold.
#[derive(Clone, Debug)]
struct Tracked {
    /// The smallest hold of a request in this period.
    hold: Hold,
    /// The shard of the counter.
    shard: Option<Shard>,
    /// The units that were left when the store last answered, beside the escrow.
    remaining: u64,
    /// The units that requests held in the last period, a life long, and in this one.
    held: [u64; 2],
    /// The beginning of this period.
    since: Timestamp,
    /// No escrow is taken before.
    retry_at: Timestamp,
    escrow: Option<Escrow>,
    /// The group whose room it takes.
    group: Option<Group>,
}

#[derive(Clone, Debug)]
struct Escrow {
    reservation: Reservation,
    /// When the last call began that took or renewed it; `None` before the store has answered.
    confirmed: Option<Timestamp>,
    /// Whether requests were admitted from it.
    is_used: bool,
}

/// Reports for the store, in their order.
#[derive(Clone, Debug, Default)]
pub struct Reports {
    /// The reports, the first one first.
    pub settlements: Vec<Settlement>,
    renewed: Vec<Key>,
}

impl Escrows {
    /// Creates a book without escrows.
    pub fn new(terms: EscrowTerms) -> Self {
        Self {
            terms,
            counters: HashMap::new(),
            tracked: SharedRoom::default(),
            leaving: HashMap::new(),
            requests: HashMap::new(),
            admitted: SharedRoom::default(),
            is_closed: false,
        }
    }

    /// Notes what the store answered to a reservation of a group: one verdict for each hold. Returns
    /// whether an escrow has to be released now, because the store had no room beside it.
    pub fn note(
        &mut self,
        Reservation { holds, shard, .. }: &Reservation,
        verdicts: &[Verdict],
        group: Option<Group>,
        now: Timestamp,
    ) -> bool {
        let is_admitted = Verdict::all_admit(verdicts, holds.iter().map(|hold| hold.is_shadow));
        let mut leaves = false;
        for (hold, verdict) in holds.iter().zip(verdicts) {
            if hold.is_shadow || self.terms.most(hold.counter) == 0 {
                continue;
            }
            let key = (hold.counter_id, hold.counter);
            let is_full = self.is_closed || !self.tracked.has(MOST_COUNTERS, group, 1);
            let tracked = match self.counters.entry(key) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(_) if is_full => continue,
                Entry::Vacant(place) => {
                    self.tracked.add(group);
                    place.insert(Tracked { group, ..Tracked::new(hold, *shard, now) })
                }
            };
            tracked.remaining = verdict.remaining;
            if is_admitted {
                tracked.count(hold.amount, self.terms.life, now);
            } else if !verdict.admitted && tracked.is_confirmed() {
                self.leave(key, now);
                leaves = true;
            }
        }
        leaves
    }

    /// Returns the reservation of a group in the replica's own counters; `None` if no escrow covers
    /// one of its holds, or too many requests are not reported yet.
    pub fn cover(
        &self,
        reservation: &Reservation,
        group: Option<Group>,
        now: Timestamp,
    ) -> Option<Covered> {
        if self.is_closed || !self.admitted.has(MOST_REQUESTS, group, 1) {
            return None;
        }
        let mut escrows = Vec::with_capacity(reservation.holds.len());
        let mut holds = Vec::with_capacity(reservation.holds.len());
        for hold in &reservation.holds {
            if !hold.is_settled() {
                holds.push(hold.clone());
                continue;
            }
            let tracked = self.counters.get(&(hold.counter_id, hold.counter))?;
            let escrow = tracked.escrow.as_ref()?;
            if !escrow.can_admit(hold.counter, self.terms.life, now) {
                return None;
            }
            escrows.push(escrow.reservation.id);
            holds.push(escrow.hold(hold));
        }
        Some(Covered { local: Reservation { holds, ..reservation.clone() }, escrows, group })
    }

    /// Notes that a covered reservation is held in the replica's own counters.
    pub fn admitted(&mut self, reservation: &Reservation, covered: Covered, now: Timestamp) {
        for hold in reservation.holds.iter().filter(|hold| hold.is_settled()) {
            let Some(tracked) = self.counters.get_mut(&(hold.counter_id, hold.counter)) else {
                continue;
            };
            tracked.count(hold.amount, self.terms.life, now);
            if let Some(escrow) = &mut tracked.escrow {
                escrow.is_used = true;
            }
        }
        self.admitted.add(covered.group);
        let request = LocalRequest::new(reservation.clone(), covered);
        if let Some(before) = self.requests.insert(reservation.id, request) {
            self.admitted.remove(before.group());
        }
    }

    /// Takes a report of a request that the store does not have yet. Returns the report for the
    /// replica's own counters; `None` for a request of the store.
    pub fn settle(&mut self, settlement: &Settlement) -> Option<Settlement> {
        let request = self.requests.get_mut(&settlement.reservation.id)?;
        Some(request.settle(settlement.usage, settlement.report))
    }

    /// Returns what is to be reported now: requests, renewals and releases. Only one list at a time
    /// may be on its way.
    pub fn reports(&mut self, now: Timestamp) -> Reports {
        let mut reports = Reports::default();
        for request in self.requests.values_mut().take(ROUND) {
            reports.settlements.push(request.report());
        }
        let used: HashSet<ReservationId> =
            self.requests.values().flat_map(LocalRequest::escrows).copied().collect();
        let free = self.leaving.iter().filter(|(id, _)| !used.contains(id)).take(ROUND);
        reports.settlements.extend(free.map(|(_, (_, reservation))| Settlement {
            reservation: reservation.clone(),
            usage: Usage::Released,
            report: None,
        }));
        let pause = Span::from_micros(self.terms.life.micros() / 4);
        for (key, tracked) in &self.counters {
            let Some(escrow) = &tracked.escrow else { continue };
            let Some(confirmed) = escrow.confirmed else { continue };
            if reports.renewed.len() < ROUND && (escrow.is_used || after(confirmed, pause) <= now) {
                let reservation = escrow.reservation.clone();
                reports.settlements.push(Settlement {
                    reservation,
                    usage: Usage::Running(0),
                    report: None,
                });
                reports.renewed.push(*key);
            }
        }
        reports
    }

    /// Notes that the store has applied reports, in a call that began at `called`. Returns whether
    /// there is more to report now.
    pub fn reported(&mut self, reports: &Reports, called: Timestamp, now: Timestamp) -> bool {
        for Settlement { reservation, usage, .. } in &reports.settlements {
            if *usage == Usage::Released {
                self.leaving.remove(&reservation.id);
            }
            if self.requests.get(&reservation.id).is_some_and(LocalRequest::is_reported)
                && let Some(request) = self.requests.remove(&reservation.id)
            {
                self.admitted.remove(request.group());
            }
        }
        for key in &reports.renewed {
            let Some(tracked) = self.counters.get_mut(key) else { continue };
            let wanted = self.terms.most(key.1).min(tracked.wanted(self.terms.life, now));
            let Some(escrow) = &mut tracked.escrow else { continue };
            // The store may have charged an escrow that was confirmed too long ago.
            let is_late = escrow.confirmed.is_none_or(|at| after(at, self.terms.life) <= called);
            escrow.confirmed = Some(called);
            let amount = escrow.amount();
            let is_old = after(escrow.reservation.issued, REPLACED) <= now;
            let fits = wanted > 0 && wanted <= amount.saturating_mul(2) && amount <= 2 * wanted;
            if escrow.is_used || is_late || is_old || !fits {
                self.leave(*key, now);
            }
        }
        !self.requests.is_empty() || !self.leaving.is_empty()
    }

    /// Returns the escrows to take now. Each needs [`taken`](Self::taken) or [`lost`](Self::lost).
    pub fn takes(
        &mut self,
        now: Timestamp,
        mut id: impl FnMut() -> ReservationId,
    ) -> Vec<Reservation> {
        self.drop_unused(now);
        let leaving: HashSet<Key> = self.leaving.values().map(|(key, _)| *key).collect();
        let mut takes = Vec::new();
        for (key, tracked) in &mut self.counters {
            if self.is_closed || takes.len() >= ROUND {
                break;
            }
            if tracked.escrow.is_some() || tracked.retry_at > now || leaving.contains(key) {
                continue;
            }
            let amount = self.terms.most(key.1).min(tracked.wanted(self.terms.life, now));
            if amount < tracked.hold.amount {
                continue;
            }
            let hold = Hold { amount, unreported: amount, ..tracked.hold.clone() };
            let life = self.terms.life;
            let (holds, shard) = (vec![hold], tracked.shard);
            let reservation = Reservation {
                id: id(),
                issued: now,
                life,
                holds,
                histories: None,
                shard,
                route: None,
                facts: None,
                cost: None,
            };
            takes.push(reservation.clone());
            tracked.escrow = Some(Escrow { reservation, confirmed: None, is_used: false });
        }
        takes
    }

    /// Notes the verdict of the store on an escrow, of a call that began at `called`.
    pub fn taken(&mut self, taken: &Reservation, verdict: Verdict, called: Timestamp) {
        let pause = after(called, Span::from_micros(self.terms.life.micros() / 4));
        let Some(tracked) = self.tracked(taken) else { return };
        tracked.remaining = verdict.remaining;
        match &mut tracked.escrow {
            Some(escrow) if verdict.admitted => escrow.confirmed = Some(called),
            _ => {
                tracked.escrow = None;
                tracked.retry_at = pause;
            }
        }
        if self.is_closed {
            self.close();
        }
    }

    /// Notes that the store did not answer whether an escrow is taken.
    pub fn lost(&mut self, taken: &Reservation, now: Timestamp) {
        if let Some(key) = key_of(taken) {
            self.leave(key, now);
        }
    }

    /// Ends all escrows: what is left to report has to be reported, and no more is taken.
    pub fn close(&mut self) {
        self.is_closed = true;
        let keys: Vec<Key> = self.counters.keys().copied().collect();
        for key in keys {
            if self.counters.get(&key).is_some_and(Tracked::is_confirmed) {
                self.leave(key, Timestamp::from_micros(0));
            }
        }
    }

    /// The number of counters of which this replica holds units.
    pub fn held(&self) -> usize {
        self.counters.values().filter(|tracked| tracked.is_confirmed()).count()
    }

    /// The number of requests that were admitted from escrows and are not reported yet.
    pub fn unreported(&self) -> usize {
        self.requests.len()
    }

    fn tracked(&mut self, taken: &Reservation) -> Option<&mut Tracked> {
        let tracked = self.counters.get_mut(&key_of(taken)?)?;
        let is_same = tracked.escrow.as_ref().is_some_and(|one| one.reservation.id == taken.id);
        is_same.then_some(tracked)
    }

    /// Admits no more from an escrow, which is released soon.
    fn leave(&mut self, key: Key, now: Timestamp) {
        let Some(tracked) = self.counters.get_mut(&key) else { return };
        if let Some(escrow) = tracked.escrow.take() {
            self.leaving.insert(escrow.reservation.id, (key, escrow.reservation));
        }
        // An escrow that was used, or whose size has changed, is replaced at once.
        if tracked.remaining < tracked.hold.amount {
            tracked.retry_at = after(now, Span::from_micros(self.terms.life.micros() / 4));
        }
    }

    /// Removes the counters without an escrow that requests do not hold any more, and releases the
    /// escrows of windows that have ended.
    fn drop_unused(&mut self, now: Timestamp) {
        let has_ended = |counter: Counter| match counter {
            Counter::Budget { ends, .. } | Counter::Cost { ends, .. } => ends <= now,
            _ => false,
        };
        let ended: Vec<Key> =
            self.counters.keys().filter(|key| has_ended(key.1)).copied().collect();
        for key in ended {
            if self.counters.get(&key).is_some_and(Tracked::is_confirmed) {
                self.leave(key, now);
            }
        }
        let life = self.terms.life;
        self.counters.retain(|key, tracked| {
            let stays =
                tracked.escrow.is_some() || !has_ended(key.1) && tracked.demand(life, now) > 0;
            if !stays {
                self.tracked.remove(tracked.group);
            }
            stays
        });
    }
}

impl Tracked {
    fn new(hold: &Hold, shard: Option<Shard>, now: Timestamp) -> Self {
        let start = Timestamp::from_micros(0);
        let hold = hold.clone();
        Self {
            hold,
            shard,
            remaining: 0,
            held: [0, 0],
            since: now,
            retry_at: start,
            escrow: None,
            group: None,
        }
    }

    fn is_confirmed(&self) -> bool {
        self.escrow.as_ref().is_some_and(|escrow| escrow.confirmed.is_some())
    }

    /// Counts the units of a request.
    fn count(&mut self, amount: u64, life: Span, now: Timestamp) {
        if after(self.since, life) <= now {
            let [_, last] = self.held;
            let is_next = after(after(self.since, life), life) > now;
            self.held = [if is_next { last } else { 0 }, 0];
            self.since = now;
            self.hold.amount = amount;
        }
        let [_, last] = &mut self.held;
        *last = last.saturating_add(amount);
        self.hold.amount = self.hold.amount.min(amount);
    }

    /// The units that requests held lately: in this period and in the last one.
    fn demand(&self, life: Span, now: Timestamp) -> u64 {
        let [before, last] = self.held;
        if after(after(self.since, life), life) <= now {
            0
        } else if after(self.since, life) <= now {
            last
        } else {
            before.saturating_add(last)
        }
    }

    /// The units that an escrow should have: those that requests held lately, and not more than half
    /// of what is left after one more request.
    fn wanted(&self, life: Span, now: Timestamp) -> u64 {
        let own = self.escrow.as_ref().map_or(0, Escrow::amount);
        let room = self.remaining.saturating_add(own).saturating_sub(self.hold.amount) / 2;
        let wanted = self.demand(life, now).min(room);
        if wanted < self.hold.amount { 0 } else { wanted }
    }
}

impl Escrow {
    fn amount(&self) -> u64 {
        self.reservation.holds.iter().map(|hold| hold.amount).sum()
    }

    /// Whether requests may be admitted from it. A window stays charged what has expired, so that it
    /// may be used up to its end. Slots that have expired are free, and a bucket is refilled.
    fn can_admit(&self, counter: Counter, life: Span, now: Timestamp) -> bool {
        let Some(confirmed) = self.confirmed else { return false };
        match counter {
            Counter::Budget { ends, .. } | Counter::Cost { ends, .. } => {
                now < ends && now < after(self.reservation.issued, OLDEST)
            }
            Counter::Bucket { .. } | Counter::Slots { .. } => {
                let margin = Span::from_micros(life.micros() / 8 * 7);
                now < after(confirmed, margin)
            }
            Counter::Requests { .. } | Counter::Rate { .. } => false,
        }
    }

    /// Returns a hold of a request in the counter of the escrow.
    fn hold(&self, hold: &Hold) -> Hold {
        let limit = self.amount();
        let counter = match hold.counter {
            Counter::Budget { ends, .. } => Counter::Budget { limit, ends },
            Counter::Cost { ends, .. } => Counter::Cost { limit, ends },
            Counter::Bucket { .. } => {
                Counter::Budget { limit, ends: after(self.reservation.issued, OLDEST) }
            }
            Counter::Slots { .. } => Counter::Slots { limit },
            spent @ (Counter::Requests { .. } | Counter::Rate { .. }) => spent,
        };
        Hold { counter_id: BucketId::of(self.reservation.id.0), counter, ..hold.clone() }
    }
}

fn key_of(escrow: &Reservation) -> Option<Key> {
    escrow.holds.first().map(|hold| (hold.counter_id, hold.counter))
}

fn after(moment: Timestamp, span: Span) -> Timestamp {
    Timestamp::from_micros(moment.micros().saturating_add(span.micros()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn reservation(number: u64) -> Reservation {
        let hold = Hold {
            limit: "slots".into(),
            counter_id: BucketId::of(number.to_be_bytes()),
            counter: Counter::Slots { limit: 100 },
            amount: 1,
            unreported: 0,
            by_principal: true,
            is_shadow: false,
        };
        Reservation {
            id: ReservationId(u128::from(number).to_be_bytes()),
            issued: NOW,
            life: Span::from_secs(30),
            holds: vec![hold],
            histories: None,
            shard: None,
            route: None,
            facts: None,
            cost: None,
        }
    }

    #[test]
    fn a_tenant_of_many_subjects_leaves_the_counters_of_others_their_escrow() {
        let terms = EscrowTerms { share: 10, replicas: 1, life: Span::from_secs(60) };
        let mut escrows = Escrows::new(terms);
        let admitted = Verdict { admitted: true, remaining: 99, retry_after: 0, reset: 0 };
        let note = |escrows: &mut Escrows, number, outer| {
            let group = Some(Group { outer, inner: outer });
            escrows.note(&reservation(number), &[admitted], group, NOW);
            escrows
                .counters
                .contains_key(&(BucketId::of(number.to_be_bytes()), Counter::Slots { limit: 100 }))
        };
        let taken = (0..20_000).filter(|number| note(&mut escrows, *number, 1)).count();
        assert!(taken < MOST_COUNTERS, "{taken}");
        let others = (30_000..30_100).filter(|number| note(&mut escrows, *number, 2)).count();
        assert_eq!(others, 100);
        // What is not used any more makes room.
        escrows.drop_unused(after(NOW, Span::from_secs(600)));
        assert!(escrows.counters.is_empty() && escrows.tracked.is_empty());
    }
}
