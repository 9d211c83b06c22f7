//! Reservations in memory: the model of the core, with a bound for its entries.

use std::sync::PoisonError;

use tollgate_core::{
    admission::{Outage, Settled, Settlement},
    limit::{
        Charge, Hold, Verdict,
        counters::{Client, Counters, HELD_RETRY},
        reservation::Reservation,
    },
    room::Group,
    time::Timestamp,
};

use super::{Buckets, is_admitted, peek_admitted};
use crate::store::{ReservationStatus, requester::Requester};

/// How many reservations may expire in one step.
const ADVANCE: usize = 64;

impl Buckets {
    /// The open and the expired reservations.
    pub(in crate::store) fn reservations(&self, now: Timestamp) -> ReservationStatus {
        let tables = &mut *self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables.counters.advance(now, ADVANCE);
        let (open, expired) = (tables.counters.open() as u64, tables.counters.expired());
        let was_used = expired > 0 || !tables.counters.is_empty();
        let expired_tokens = tables.counters.expired_tokens().clone();
        ReservationStatus { open: was_used.then_some(open), expired, expired_tokens }
    }

    /// Takes the charges of a request and holds its reservation, or neither.
    ///
    /// # Errors
    /// [`Outage::Full`] if a table has no room.
    pub(super) fn reserve(
        &self,
        charges: &[Charge],
        reservation: &Reservation,
        from: Requester<'_>,
        now: Timestamp,
    ) -> Result<Vec<Verdict>, Outage> {
        let tables = &mut *self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables.counters.advance(now, ADVANCE);
        tables.counters.forget_beyond(self.most);
        let owner = tables.owner(from);
        let mut verdicts = self.try_charges(tables, charges, owner, from, now.micros());
        let mut held = tables.counters.try_hold(reservation, now);
        let client = Client {
            principal: owner,
            holder: owner.and_then(|_| self.groups.of(from, true)),
            network: self.groups.of(from, false),
        };
        if reservation.holds.iter().any(|hold| hold.is_shadow)
            && !self.has_shadow_room(&tables.counters, reservation, client)
        {
            refuse(reservation, &mut held, |hold| hold.is_shadow);
        }
        let kept = reservation.held(&held);
        let new = tables.counters.new_entries(&kept);
        let is_full = self.is_full(&tables.counters, &kept, client);
        let is_beyond = |number| tables.counters.stored_by(number) + new > self.part();
        if owner.is_some_and(is_beyond)
            || !is_full && !self.has_part_of(&tables.counters, &kept, client)
        {
            // The denial is that of the limit, as for a bucket.
            refuse(reservation, &mut held, |_| true);
        }
        if is_admitted(charges, &verdicts) && reservation.is_admitted(&held) {
            let kept = reservation.held(&held);
            let holds = !kept.holds.is_empty();
            if is_full && holds {
                return Err(Outage::Full);
            }
            self.take_all(tables, charges, &verdicts, (owner, from), now.micros())?;
            if holds {
                tables.counters.hold(&kept, Some(client), now);
            }
        } else {
            peek_admitted(tables, charges, &mut verdicts, now.micros());
            tables.counters.peek_admitted(reservation, &mut held, now);
        }
        verdicts.extend(held);
        Ok(verdicts)
    }

    /// Whether half of the tables, and half of the part of a principal, have room for the entries of a
    /// reservation: what limits in shadow hold takes no more.
    fn has_shadow_room(
        &self,
        counters: &Counters,
        reservation: &Reservation,
        client: Client,
    ) -> bool {
        let new = counters.new_entries(reservation);
        let has_half = |is_owned| counters.room(is_owned).len() + new <= self.most / 2;
        let has_part = |number| counters.stored_by(number) + new <= self.part() / 2;
        let is_shared = |hold: &Hold| client.principal.is_none() || !hold.by_principal;
        client.principal.is_none_or(|number| has_half(true) && has_part(number))
            && (has_half(false) || !reservation.holds.iter().any(is_shared))
    }

    /// Whether the tables of a reservation's entries have no room for them.
    fn is_full(&self, counters: &Counters, reservation: &Reservation, client: Client) -> bool {
        self.lack_room(counters, reservation, client, |_| None)
    }

    /// Whether the groups of a client have room for the entries of a reservation.
    fn has_part_of(&self, counters: &Counters, reservation: &Reservation, client: Client) -> bool {
        !self.lack_room(counters, reservation, client, |is_owned| {
            if is_owned { client.holder } else { client.network }
        })
    }

    fn lack_room(
        &self,
        counters: &Counters,
        reservation: &Reservation,
        client: Client,
        group: impl Fn(bool) -> Option<Group>,
    ) -> bool {
        let new = counters.new_entries(reservation);
        let is_shared = |hold: &Hold| client.principal.is_none() || !hold.by_principal;
        let lacks = |is_owned| !counters.room(is_owned).has(self.most, group(is_owned), new);
        new > 0
            && (client.principal.is_some() && lacks(true)
                || reservation.holds.iter().any(is_shared) && lacks(false))
    }

    /// Applies reports of usage, in order.
    pub(in crate::store) fn settle(
        &self,
        settlements: &[Settlement],
        now: Timestamp,
    ) -> Vec<Settled> {
        let tables = &mut *self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let settled = settlements.iter().map(|settlement| {
            tables.counters.advance(now, ADVANCE);
            let settled = tables.counters.settle(settlement, now);
            tables.counters.forget_beyond(self.most);
            settled
        });
        settled.collect()
    }
}

/// Refuses some of the holds of a reservation for now.
fn refuse(reservation: &Reservation, held: &mut [Verdict], is_refused: impl Fn(&Hold) -> bool) {
    let refused = reservation.holds.iter().zip(held).filter(|(hold, _)| is_refused(hold));
    for (_, verdict) in refused {
        let retry_after = verdict.retry_after.max(HELD_RETRY);
        *verdict = Verdict { admitted: false, remaining: 0, retry_after, ..*verdict };
    }
}

#[cfg(test)]
mod tests {
    use tollgate_core::{
        admission::{AdmitRequest, Usage},
        limit::{Counter, reservation::ReservationId},
        revocation::{Keys, Names, issuer_digest},
        time::Span,
    };

    use super::*;

    fn keys(tenant: &str, subject: u64) -> Keys {
        let names = Names {
            issuer: &issuer_digest("i"),
            token: [7; 32],
            jti: None,
            subject: &subject.to_string(),
            subject_is_client: false,
            client: None,
            tenant: Some(tenant),
        };
        Keys::new(names, 0, Vec::new())
    }

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn slots(name: &str, by_principal: bool) -> Hold {
        let counter = Counter::Slots { limit: 9 };
        let (limit, counter_id) = ("slots".into(), name.into());
        Hold {
            limit,
            counter_id,
            counter,
            amount: 1,
            unreported: 1,
            by_principal,
            is_shadow: false,
        }
    }

    fn reservation(id: u64, holds: &[Hold]) -> Reservation {
        Reservation {
            id: ReservationId((u128::from(id)).to_be_bytes()),
            issued: Timestamp::from_micros(NOW.micros() + id),
            life: Span::from_secs(30),
            holds: holds.to_vec(),
            histories: None,
            shard: None,
            route: None,
            facts: None,
            cost: None,
        }
    }

    fn hold(
        buckets: &Buckets,
        owner: Option<u64>,
        reservation: &Reservation,
    ) -> Result<Vec<Verdict>, Outage> {
        let keys = owner.map(|owner| keys("t", owner));
        buckets.reserve(&[], reservation, Requester { keys: keys.as_ref(), address: None }, NOW)
    }

    fn settle(buckets: &Buckets, reservation: &Reservation) -> Settled {
        let reservation = reservation.clone();
        buckets
            .settle(&[Settlement { reservation, usage: Usage::Final(1), report: None }], NOW)
            .remove(0)
    }

    #[test]
    fn a_full_table_denies_and_keeps_what_is_held() {
        let buckets = Buckets::new(4);
        let shared = [1, 2, 3].map(|id| reservation(id, &[slots("one", false)]));
        assert!(shared.iter().all(|one| hold(&buckets, None, one).is_ok()));
        let more = reservation(9, &[slots("one", false)]);
        assert_eq!(hold(&buckets, None, &more), Err(Outage::Full));
        assert!(hold(&buckets, None, &shared[2]).is_ok(), "it is held already");
        // Requests without a credential take no room of the others.
        let own = reservation(10, &[slots("own", true)]);
        assert!(hold(&buckets, Some(1), &own).unwrap()[0].admitted);
        assert_eq!(settle(&buckets, &shared[0]), Settled::Charged(1));
        assert!(hold(&buckets, None, &more).is_ok());
        assert_eq!(buckets.reservations(NOW).open, Some(4));
    }

    #[test]
    fn one_principal_takes_a_part_of_the_table() {
        let buckets = Buckets::new(64 * 16);
        let ask = |owner, id| {
            let own = slots(&format!("own{id}"), true);
            hold(&buckets, Some(owner), &reservation(id, &[own])).unwrap()[0]
        };
        let admitted = (0..100).filter(|id| ask(1, *id).admitted).count();
        assert_eq!(admitted, 32, "a counter and a reservation each");
        let refused = ask(1, 200);
        assert_eq!((refused.admitted, refused.retry_after), (false, HELD_RETRY));
        let others = (2..40).filter(|owner| ask(*owner, 1000 + owner).admitted).count();
        assert!(others > 35, "nearly all others have their room: {others}");
        let first = reservation(0, &[slots("own0", true)]);
        assert_eq!(settle(&buckets, &first), Settled::Charged(1));
        assert!(ask(1, 201).admitted);
    }

    #[test]
    fn a_tenant_of_many_subjects_leaves_the_other_tenants_their_reservations() {
        let buckets = Buckets::new(64 * 16);
        let ask = |tenant: &str, id: u64| {
            let (keys, own) = (keys(tenant, id), slots(&format!("{tenant}{id}"), true));
            let from = Requester { keys: Some(&keys), address: None };
            buckets.reserve(&[], &reservation(id, &[own]), from, NOW).unwrap()[0]
        };
        let admitted = (0..1000).filter(|id| ask("hostile", *id).admitted).count();
        assert!((380..=392).contains(&admitted), "a counter and a reservation each: {admitted}");
        assert_eq!(ask("hostile", 2000).retry_after, HELD_RETRY);
        assert!((3000..3030).all(|id| ask("other", id).admitted));
    }

    #[test]
    fn limits_in_shadow_take_no_room_of_those_that_are_enforced() {
        let shadow =
            |name: String, by_principal| Hold { is_shadow: true, ..slots(&name, by_principal) };
        let states = |verdicts: Vec<Verdict>| {
            verdicts.iter().map(|verdict| verdict.admitted).collect::<Vec<_>>()
        };
        // A counter and a reservation each: half of the room.
        let buckets = Buckets::new(64);
        for id in 0..100 {
            let held = hold(&buckets, None, &reservation(id, &[shadow(format!("s{id}"), false)]));
            assert_eq!(states(held.unwrap()), [id < 16], "{id}");
        }
        for id in 100..116 {
            let holds = [shadow(format!("t{id}"), false), slots(&format!("e{id}"), false)];
            let held = hold(&buckets, None, &reservation(id, &holds));
            assert_eq!(states(held.unwrap()), [false, true], "{id}");
        }
        let more = reservation(200, &[shadow("t".into(), false), slots("e", false)]);
        assert_eq!(hold(&buckets, None, &more), Err(Outage::Full));
        let alone = reservation(201, &[shadow("t".into(), false)]);
        assert_eq!(states(hold(&buckets, None, &alone).unwrap()), [false]);

        // Half of the part of a principal, likewise.
        let buckets = Buckets::new(64 * 16);
        for id in 0..32 {
            let own = reservation(id, &[shadow(format!("s{id}"), true)]);
            assert_eq!(states(hold(&buckets, Some(1), &own).unwrap()), [id < 16], "{id}");
        }
        for id in 100..116 {
            let holds = [shadow(format!("t{id}"), true), slots(&format!("e{id}"), true)];
            let held = hold(&buckets, Some(1), &reservation(id, &holds));
            assert_eq!(states(held.unwrap()), [false, true], "{id}");
        }
        let more = reservation(200, &[slots("e", true)]);
        assert_eq!(states(hold(&buckets, Some(1), &more).unwrap()), [false]);
    }

    #[test]
    fn settled_reservations_are_remembered_within_the_bound() {
        let buckets = Buckets::new(8);
        let all: Vec<_> = (0..20).map(|id| reservation(id, &[slots("one", false)])).collect();
        for one in &all {
            assert!(hold(&buckets, None, one).is_ok());
            assert_eq!(settle(&buckets, one), Settled::Charged(1));
        }
        let again: Vec<_> = all.iter().map(|one| settle(&buckets, one)).collect();
        assert_eq!(again[..12], [Settled::Forgotten; 12]);
        assert_eq!(again[12..], [Settled::Repeated; 8]);
    }

    #[test]
    fn a_refused_hold_charges_nothing() {
        let buckets = Buckets::new(64);
        let charge = Charge {
            limit: "rate".into(),
            bucket: "rate".into(),
            interval: 1_000_000,
            burst: 5,
            cost: 1,
            by_principal: true,
            is_shadow: false,
            lease: None,
            within: tollgate_core::limit::shard::CountedWithin::default(),
        };
        let never = Hold { counter: Counter::Slots { limit: 0 }, ..slots("never", true) };
        let held = |holds: &[Hold]| Some(Box::new(reservation(1, holds)));
        let request = |holds: &[Hold]| AdmitRequest {
            charges: vec![charge.clone()],
            reservation: held(holds),
            ..AdmitRequest::default()
        };
        let refused = buckets.admit(&request(&[never]), NOW).unwrap();
        assert_eq!(refused.iter().map(|one| one.remaining).collect::<Vec<_>>(), [5, 0]);
        let admitted = buckets.admit(&request(&[slots("one", true)]), NOW).unwrap();
        assert_eq!(admitted.iter().map(|one| one.remaining).collect::<Vec<_>>(), [4, 8]);
    }
}
