//! Counters and reservations, as an executable specification. The memory store runs it, and the
//! scripts in Redis are tested against it.
//!
//! A counter has two numbers: what is *spent* and what is *held*. A request is admitted if spent,
//! held and its own amount are within the limit of every counter. What one reservation adds to a
//! counter is its [`Share`], which depends on the reservation's state:
//!
//! | State | Spent | Held |
//! |---|---|---|
//! | open | what is used so far | the rest of the hold |
//! | expired | the unreported charge, or what was used if it is more | nothing |
//! | settled | the charge of the final report | nothing |
//!
//! What is used is tokens, and beside them the cost that the terms of the reservation give them. A
//! count of the end takes the place of what was counted while the request ran; an end without one
//! lowers nothing.
//!
//! A step from one state to another replaces the share. A reservation is *open* until a report of
//! its end, or until its life has passed without a report: then it has *expired*. A report of its
//! end replaces the charge of an expired reservation once, and a report that it still runs opens it
//! again. A *settled* reservation changes no more.
//!
//! A reservation that is not stored was never admitted here, or the store has lost its data: a
//! report stores it. It could also have been settled so long ago that it is not remembered.
//! Therefore a report on one that was issued [`REMEMBERED`] ago or earlier changes nothing.

mod count;

use std::collections::{BTreeSet, HashMap};

pub use self::count::{Count, HELD_RETRY, MOST, Share};
use super::{
    BucketId, Counter, Hold, Verdict,
    model_tag::ExpiredTokens,
    reservation::{Reservation, ReservationId},
    settlement::{Settled, Settlement, Usage},
};
use crate::{
    room::{Group, SharedRoom},
    time::{Span, Timestamp},
};

/// The time after its issue for which a reservation is remembered when it is settled.
pub const REMEMBERED: Span = Span::from_secs(24 * 3600);

/// The time after its end for which the counter of a window is stored: late reports change it.
pub const WINDOW_KEPT: Span = Span::from_secs(25 * 3600);

/// The client that adds entries, and the groups whose room they take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// The number of the principal; `None` without a credential.
    pub principal: Option<u16>,
    /// The group of the principal.
    pub holder: Option<Group>,
    /// The group of the client's address, for what requests without a credential may add as well.
    pub network: Option<Group>,
}

/// The owner of a stored entry. Without a principal it is one that requests without a credential may
/// add.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    principal: Option<u16>,
    group: Option<Group>,
}

impl Owner {
    /// The owner of what a client adds. `by_principal` is that of a hold.
    fn of(client: Option<Client>, by_principal: bool) -> Self {
        match client {
            Some(Client { principal: Some(number), holder, .. }) if by_principal => {
                Self { principal: Some(number), group: holder }
            }
            Some(Client { network, .. }) => Self { principal: None, group: network },
            None => Self::default(),
        }
    }
}

/// All counters and reservations.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    counts: HashMap<BucketId, StoredCount>,
    /// The counters that hold nothing, by the moment from which they are zero.
    idle: BTreeSet<(u64, BucketId)>,
    open: HashMap<ReservationId, OpenReservation>,
    /// The open reservations, by their expiry.
    due: BTreeSet<(u64, ReservationId)>,
    /// The closed reservations, with their issue.
    closed: HashMap<ReservationId, (u64, Closed)>,
    /// The closed reservations, by their issue.
    by_issue: BTreeSet<(u64, ReservationId)>,
    /// No reservation that was issued until then is remembered.
    forgotten_until: u64,
    /// The number of counters and open reservations of each principal.
    principals: HashMap<u16, usize>,
    /// The counters and open reservations of principals, and the others.
    owned: SharedRoom,
    shared: SharedRoom,
    expired: u64,
    expired_tokens: ExpiredTokens,
}

#[derive(Clone, Copy, Debug)]
struct StoredCount {
    count: Count,
    /// The moment from which the counter is zero, if it holds nothing.
    ends: u64,
    owner: Owner,
}

#[derive(Clone, Debug)]
struct OpenReservation {
    reservation: Reservation,
    used: Used,
    /// Whether it had expired: what was charged then is spent.
    had_expired: bool,
    expires: u64,
    owner: Owner,
}

impl OpenReservation {
    /// Whether units of the counter of a hold are held: those of a limit in shadow without room are not.
    fn has(&self, hold: &Hold) -> bool {
        self.reservation.holds.iter().any(|held| held.counter_id == hold.counter_id)
    }
}

/// What a request has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Used {
    tokens: u64,
    /// The cost, in micro-units.
    cost: u64,
}

impl Used {
    /// The units of the counter of a hold.
    const fn of(self, hold: &Hold) -> u64 {
        if hold.is_cost() { self.cost } else { self.tokens }
    }

    fn max(self, other: Self) -> Self {
        Self { tokens: self.tokens.max(other.tokens), cost: self.cost.max(other.cost) }
    }
}

#[derive(Clone, Copy, Debug)]
enum Closed {
    /// No report arrived in time; this was used by then.
    Expired(Used),
    Settled,
}

impl Counters {
    /// Decides a reservation: all of it is held, or nothing. There is one verdict for each hold.
    pub fn admit(
        &mut self,
        reservation: &Reservation,
        client: Option<Client>,
        now: Timestamp,
    ) -> Vec<Verdict> {
        self.advance(now, usize::MAX);
        let mut verdicts = self.try_hold(reservation, now);
        if reservation.is_admitted(&verdicts) {
            self.hold(&reservation.held(&verdicts), client, now);
        } else {
            self.peek_admitted(reservation, &mut verdicts, now);
        }
        verdicts
    }

    /// Returns the verdict on each hold, as if all of them are admitted. A reservation that is held
    /// already is held once.
    pub fn try_hold(&self, reservation: &Reservation, now: Timestamp) -> Vec<Verdict> {
        let open = self.open.get(&reservation.id);
        let verdict = |hold: &Hold| match (self.count(hold), open) {
            (count, None) => count.try_hold(hold, now.micros()),
            (count, Some(open)) if !hold.is_shadow || open.has(hold) => {
                count.peek(hold, now.micros())
            }
            // A limit in shadow had no room when the request was held: it has none of it.
            (count, Some(_)) => Verdict { admitted: false, ..count.peek(hold, now.micros()) },
        };
        reservation.holds.iter().map(verdict).collect()
    }

    /// Replaces the verdicts that admit, after another one refused.
    pub fn peek_admitted(
        &self,
        reservation: &Reservation,
        verdicts: &mut [Verdict],
        now: Timestamp,
    ) {
        let admitted = verdicts.iter_mut().zip(&reservation.holds).filter(|(v, _)| v.admitted);
        for (verdict, hold) in admitted {
            *verdict = self.count(hold).peek(hold, now.micros());
        }
    }

    /// Holds all of a reservation that [`try_hold`](Self::try_hold) admitted. What needs no
    /// settlement is spent, and not stored as a reservation.
    pub fn hold(&mut self, reservation: &Reservation, client: Option<Client>, now: Timestamp) {
        if let Some(open) = self.open.get_mut(&reservation.id) {
            let expires = expiry(reservation, now).max(open.expires);
            self.due.remove(&(open.expires, reservation.id));
            self.due.insert((expires, reservation.id));
            open.expires = expires;
            return;
        }
        for hold in &reservation.holds {
            let owner = Owner::of(client, hold.by_principal);
            self.replace(hold, Share::default(), Share::running(hold, 0), owner, now);
        }
        if reservation.is_settled() {
            self.forget(reservation.id);
            self.store_open(
                reservation.clone(),
                Used::default(),
                false,
                Owner::of(client, true),
                now,
            );
        }
    }

    /// Applies a report of usage.
    pub fn settle(&mut self, settlement: &Settlement, now: Timestamp) -> Settled {
        let Settlement { reservation, usage, report: _ } = settlement;
        let holds_tokens = reservation.unreported_tokens().unwrap_or(0);
        self.expire_due(reservation.id, now);
        let open = self.take_open(reservation.id);
        let closed = self.closed.get(&reservation.id).map(|(_, closed)| *closed);
        let owner = open.as_ref().map(|open| open.owner).unwrap_or_default();
        let (used, had_expired) = match (&open, closed) {
            (Some(open), _) => (open.used, open.had_expired),
            _ if self.is_forgotten(reservation, now) => return Settled::Forgotten,
            (None, Some(Closed::Expired(used))) => (used, true),
            (None, Some(Closed::Settled)) => return Settled::Repeated,
            (None, None) => (Used::default(), false),
        };
        let replaced = closed.filter(|_| open.is_none()).map(|_| holds_tokens.max(used.tokens));
        let share = |hold: &Hold| match (&open, closed) {
            (Some(_), _) => Share::running(hold, spent_so_far(hold, used, had_expired)),
            (None, Some(_)) => Share::ended(hold, hold.unreported.max(used.of(hold))),
            (None, None) => Share::default(),
        };
        let tokens = match *usage {
            Usage::Running(tokens) | Usage::Final(tokens) | Usage::Unreported(tokens) => {
                tokens.min(MOST)
            }
            Usage::Released => 0,
        };
        let reported = Used { tokens, cost: settlement.cost().min(MOST) };
        let most = if settlement.is_counted() { reported } else { used.max(reported) };
        let mut total = most.tokens;
        for hold in &reservation.holds {
            if open.as_ref().is_some_and(|open| !open.has(hold)) {
                continue;
            }
            let new = match *usage {
                Usage::Running(_) => Share::running(hold, spent_so_far(hold, most, had_expired)),
                Usage::Final(_) | Usage::Released => Share::ended(hold, most.of(hold)),
                Usage::Unreported(_) => Share::ended(hold, hold.unreported.max(most.of(hold))),
            };
            if hold.is_settled() && !hold.is_cost() {
                total = new.spent.max(total);
            }
            self.replace(hold, share(hold), new, owner, now);
        }
        self.forget(reservation.id);
        if matches!(usage, Usage::Running(_)) {
            let mut running = reservation.clone();
            if let Some(open) = &open {
                running.holds.retain(|hold| open.has(hold));
            }
            self.store_open(running, most, had_expired, owner, now);
            return replaced.map_or(Settled::Renewed, Settled::Reopened);
        }
        self.remember(reservation, Closed::Settled, now);
        match had_expired {
            true => Settled::Late { tokens: total, replaced },
            false => Settled::Charged(total),
        }
    }

    /// Charges up to `most` reservations whose life has passed, and removes counters that are zero
    /// and reservations that need not be remembered. Returns how many reservations have expired.
    pub fn advance(&mut self, now: Timestamp, most: usize) -> usize {
        let mut expired = 0;
        while expired < most
            && let Some((_, id)) = self.due.first().copied().filter(|(at, _)| *at <= now.micros())
        {
            self.expire_due(id, now);
            expired += 1;
        }
        for _ in 0..most.saturating_mul(4) {
            let is_zero = |(at, _): &(u64, BucketId)| *at <= now.micros();
            let Some((_, id)) = self.idle.first().copied().filter(is_zero) else { break };
            self.remove_count(id);
        }
        for _ in 0..most.saturating_mul(4) {
            let is_old = |(issued, _): &(u64, ReservationId)| is_forgotten_at(*issued, now);
            let Some((_, id)) = self.by_issue.first().copied().filter(is_old) else { break };
            self.forget(id);
        }
        expired
    }

    /// Forgets the settled reservations that were issued first, until at most `most` are
    /// remembered. No report on one that was issued as early changes anything from then on.
    pub fn forget_beyond(&mut self, most: usize) {
        while self.closed.len() > most
            && let Some((issued, id)) = self.by_issue.first().copied()
        {
            self.forgotten_until = self.forgotten_until.max(issued);
            self.forget(id);
        }
    }

    /// The state of a hold's counter.
    pub fn count(&self, hold: &Hold) -> Count {
        self.counts.get(&hold.counter_id).map(|stored| stored.count).unwrap_or_default()
    }

    /// The number of counters and open reservations that [`hold`](Self::hold) would add.
    pub fn new_entries(&self, reservation: &Reservation) -> usize {
        let is_new = |hold: &&Hold| !self.counts.contains_key(&hold.counter_id);
        let is_held = self.open.contains_key(&reservation.id);
        reservation.holds.iter().filter(is_new).count() + usize::from(!is_held)
    }

    /// The number of counters and open reservations of a principal.
    pub fn stored_by(&self, principal: u16) -> usize {
        self.principals.get(&principal).copied().unwrap_or_default()
    }

    /// The room that what a client adds takes: that of principals, or that of the others.
    pub const fn room(&self, is_owned: bool) -> &SharedRoom {
        if is_owned { &self.owned } else { &self.shared }
    }

    /// The number of counters and open reservations.
    pub fn len(&self) -> usize {
        self.counts.len() + self.open.len()
    }

    /// Whether there is no counter and no open reservation.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of open reservations.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// Whether a reservation is open.
    pub fn is_open(&self, id: ReservationId) -> bool {
        self.open.contains_key(&id)
    }

    /// The number of reservations that have expired since the start.
    pub const fn expired(&self) -> u64 {
        self.expired
    }

    /// The tokens of these reservations. What a report opened again counts once more.
    pub const fn expired_tokens(&self) -> &ExpiredTokens {
        &self.expired_tokens
    }

    /// Charges an open reservation whose life has passed.
    fn expire_due(&mut self, id: ReservationId, now: Timestamp) {
        if self.open.get(&id).is_none_or(|open| open.expires > now.micros()) {
            return;
        }
        let Some(open) = self.take_open(id) else { return };
        for hold in &open.reservation.holds {
            let spent = spent_so_far(hold, open.used, open.had_expired);
            let ended = Share::ended(hold, hold.unreported.max(open.used.of(hold)));
            self.replace(hold, Share::running(hold, spent), ended, open.owner, now);
        }
        self.expired += 1;
        let unreported = open.reservation.unreported_tokens().unwrap_or(0);
        self.expired_tokens.add(id.model(), unreported.max(open.used.tokens));
        self.remember(&open.reservation, Closed::Expired(open.used), now);
    }

    fn replace(&mut self, hold: &Hold, old: Share, new: Share, owner: Owner, now: Timestamp) {
        let known = self.counts.get(&hold.counter_id).copied();
        let given = if hold.by_principal { owner } else { Owner { principal: None, ..owner } };
        let owner = known.map_or(given, |known| known.owner);
        let mut count = known.map(|known| known.count).unwrap_or_default();
        if let Some(known) = known {
            self.idle.remove(&(known.ends, hold.counter_id));
        } else {
            self.own(owner);
        }
        count.replace(hold, old, new, now.micros());
        let ends = match hold.counter {
            Counter::Bucket { .. } | Counter::Rate { .. } => count.spent,
            Counter::Budget { ends, .. }
            | Counter::Cost { ends, .. }
            | Counter::Requests { ends, .. } => ends.micros().saturating_add(WINDOW_KEPT.micros()),
            Counter::Slots { .. } => 0,
        };
        self.counts.insert(hold.counter_id, StoredCount { count, ends, owner });
        let is_window = matches!(
            hold.counter,
            Counter::Budget { .. } | Counter::Cost { .. } | Counter::Requests { .. }
        );
        if is_window || count.held == 0 {
            self.idle.insert((ends, hold.counter_id));
            if ends <= now.micros() {
                self.remove_count(hold.counter_id);
            }
        }
    }

    fn remove_count(&mut self, id: BucketId) {
        if let Some(stored) = self.counts.remove(&id) {
            self.idle.remove(&(stored.ends, id));
            self.disown(stored.owner);
        }
    }

    fn store_open(
        &mut self,
        reservation: Reservation,
        used: Used,
        had_expired: bool,
        owner: Owner,
        now: Timestamp,
    ) {
        let (id, expires) = (reservation.id, expiry(&reservation, now));
        self.due.insert((expires, id));
        self.own(owner);
        self.open.insert(id, OpenReservation { reservation, used, had_expired, expires, owner });
    }

    fn take_open(&mut self, id: ReservationId) -> Option<OpenReservation> {
        let open = self.open.remove(&id)?;
        self.due.remove(&(open.expires, id));
        self.disown(open.owner);
        Some(open)
    }

    fn own(&mut self, Owner { principal, group }: Owner) {
        let Some(number) = principal else { return self.shared.add(group) };
        self.owned.add(group);
        *self.principals.entry(number).or_default() += 1;
    }

    fn disown(&mut self, Owner { principal, group }: Owner) {
        let Some(number) = principal else { return self.shared.remove(group) };
        self.owned.remove(group);
        if let Some(count) = self.principals.get_mut(&number) {
            *count -= 1;
            if *count == 0 {
                self.principals.remove(&number);
            }
        }
    }

    fn remember(&mut self, reservation: &Reservation, closed: Closed, now: Timestamp) {
        if !self.is_forgotten(reservation, now) {
            let issued = reservation.issued.micros();
            self.by_issue.insert((issued, reservation.id));
            self.closed.insert(reservation.id, (issued, closed));
        }
    }

    fn forget(&mut self, id: ReservationId) {
        if let Some((issued, _)) = self.closed.remove(&id) {
            self.by_issue.remove(&(issued, id));
        }
    }

    fn is_forgotten(&self, reservation: &Reservation, now: Timestamp) -> bool {
        let issued = reservation.issued.micros();
        issued <= self.forgotten_until || is_forgotten_at(issued, now)
    }
}

/// The units of a hold that are spent while its request runs.
fn spent_so_far(hold: &Hold, used: Used, had_expired: bool) -> u64 {
    let used = used.of(hold);
    if had_expired { hold.unreported.max(used) } else { used }
}

fn expiry(reservation: &Reservation, now: Timestamp) -> u64 {
    now.micros().saturating_add(reservation.life.micros())
}

fn is_forgotten_at(issued: u64, now: Timestamp) -> bool {
    issued.saturating_add(REMEMBERED.micros()) <= now.micros()
}

#[cfg(test)]
mod tests;
