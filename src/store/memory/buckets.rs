//! Buckets in memory: the reference model over a table. Beside them the counters of holds and the
//! reservations, as the core has them.
//!
//! A bucket whose TAT has passed is full, which is the same as a missing one, so it may be removed.
//! A bucket that is not full is never removed: a client that could displace it would have refilled
//! it.
//!
//! Room is shared fairly. Limits that do not count by the credential have a table of their own, as
//! clients without a credential choose its keys (addresses). In the other table one principal has a
//! sixteenth of the room at most. Counters of holds and open reservations are bounded likewise, and
//! as many settled reservations are remembered.

mod reserve;
mod table;

use std::sync::{Mutex, PoisonError};

use tollgate_core::{
    admission::{AdmitRequest, Outage},
    limit::{
        Charge, Verdict,
        counters::Counters,
        reference::{peek, try_take},
    },
    revocation::Fingerprint,
    time::Timestamp,
};

use self::table::BucketTable;

/// The number of principals who fill a table.
const PARTS: usize = 16;

/// The number of buckets that a principal may have in a table of any size: its limits, models and
/// routes.
const LEAST_PART: usize = 64;

/// All buckets, behind one lock. A check with two charges holds it for a tenth of a microsecond and
/// takes a hundred times that in all, so that cores do not wait for the lock.
#[derive(Debug)]
pub(in crate::store) struct Buckets {
    /// The most buckets in each table.
    most: usize,
    tables: Mutex<Tables>,
}

#[derive(Debug)]
struct Tables {
    /// The buckets of limits that count by the credential.
    owned: BucketTable,
    /// The buckets of the other limits.
    open: BucketTable,
    /// The counters of holds, and the reservations.
    counters: Counters,
}

impl Tables {
    fn of(&self, charge: &Charge) -> &BucketTable {
        if charge.by_principal { &self.owned } else { &self.open }
    }

    fn of_mut(&mut self, charge: &Charge) -> &mut BucketTable {
        if charge.by_principal { &mut self.owned } else { &mut self.open }
    }
}

/// Returns the principal who takes room for the buckets of a request, if there is one.
fn owner(request: &AdmitRequest) -> Option<Fingerprint> {
    request.revocation.as_ref().map(|keys| keys.subject().fingerprint())
}

impl Buckets {
    pub(in crate::store) fn new(most: u64) -> Self {
        Self {
            most: usize::try_from(most).unwrap_or(usize::MAX),
            tables: Mutex::new(Tables {
                owned: BucketTable::new(),
                open: BucketTable::new(),
                counters: Counters::default(),
            }),
        }
    }

    /// The number of buckets.
    pub(in crate::store) fn len(&self) -> u64 {
        let tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        (tables.owned.len() + tables.open.len()) as u64
    }

    /// Decides the charges and the reservation of a request: all of it is taken, or nothing.
    ///
    /// # Errors
    /// [`Outage::Full`] if a table has no room.
    pub(in crate::store) fn admit(
        &self,
        request: &AdmitRequest,
        now: Timestamp,
    ) -> Result<Vec<Verdict>, Outage> {
        let (charges, owner) = (&request.charges, owner(request));
        match &request.reservation {
            Some(reservation) => self.reserve(charges, reservation, owner, now),
            None => self.charge(charges, owner, now),
        }
    }

    /// Takes all charges of a request of `owner`, or none. Their keys differ, as the core refuses a
    /// route that lists a limit twice.
    ///
    /// # Errors
    /// [`Outage::Full`] if a table has no room.
    pub(in crate::store) fn charge(
        &self,
        charges: &[Charge],
        owner: Option<Fingerprint>,
        now: Timestamp,
    ) -> Result<Vec<Verdict>, Outage> {
        if charges.is_empty() {
            return Ok(Vec::new());
        }
        let now = now.micros();
        let tables = &mut *self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let owner = owner.map(|owner| tables.owned.owner(owner));
        let mut verdicts = self.try_charges(tables, charges, owner, now);
        if is_admitted(charges, &verdicts) {
            self.take_all(tables, charges, &verdicts, owner, now)?;
        } else {
            peek_admitted(tables, charges, &mut verdicts, now);
        }
        Ok(verdicts)
    }

    /// Returns the verdict on each charge, as if all of them are admitted.
    fn try_charges(
        &self,
        tables: &mut Tables,
        charges: &[Charge],
        owner: Option<u16>,
        now: u64,
    ) -> Vec<Verdict> {
        let owned = charges.iter().filter(|charge| charge.by_principal).count();
        tables.owned.sweep(now, owned);
        tables.open.sweep(now, charges.len() - owned);
        let has_part = self.has_part(tables, charges, owner);
        let verdict = |charge: &Charge| {
            let tat = tables.of(charge).get(charge.bucket);
            if !has_part && charge.by_principal && tat.is_none() {
                // The denial is that of the limit, so that no `on_outage` lets it pass.
                let [interval, reset] = [charge.interval, charge.interval];
                return Verdict { admitted: false, remaining: 0, retry_after: interval, reset };
            }
            try_take(tat, now, charge.interval, charge.burst, charge.cost).verdict
        };
        charges.iter().map(verdict).collect()
    }

    /// Takes the charges that are admitted. Those of limits in shadow are left out where a table has
    /// no room for them.
    fn take_all(
        &self,
        tables: &mut Tables,
        charges: &[Charge],
        verdicts: &[Verdict],
        owner: Option<u16>,
        now: u64,
    ) -> Result<(), Outage> {
        self.take(tables, charges, verdicts, false, owner, now)?;
        if charges.iter().any(|charge| charge.is_shadow) {
            let _full = self.take(tables, charges, verdicts, true, owner, now);
        }
        Ok(())
    }

    /// Takes the admitted charges of limits that are in shadow, or of those that are not.
    fn take(
        &self,
        tables: &mut Tables,
        charges: &[Charge],
        verdicts: &[Verdict],
        is_shadow: bool,
        owner: Option<u16>,
        now: u64,
    ) -> Result<(), Outage> {
        let taken = || {
            charges
                .iter()
                .zip(verdicts)
                .filter(|(charge, verdict)| charge.is_shadow == is_shadow && verdict.admitted)
        };
        for by_principal in [true, false] {
            let mine =
                || taken().map(|(charge, _)| charge).filter(|one| one.by_principal == by_principal);
            let Some(first) = mine().next() else { continue };
            let table = tables.of_mut(first);
            if table.len() + mine().count() > self.most {
                // A stored bucket that is full may be removed to make room, and is then a new one.
                let new = mine()
                    .filter(|charge| table.get(charge.bucket).is_none_or(|tat| tat <= now))
                    .count();
                if !table.make_room(now, new, self.most) {
                    return Err(Outage::Full);
                }
            }
        }
        for (charge, verdict) in taken() {
            // The bucket is full again after `reset`: that moment is its TAT.
            let tat = now + verdict.reset;
            tables.of_mut(charge).set(charge.bucket, tat, owner.unwrap_or_default());
        }
        Ok(())
    }

    /// The number of entries that one principal may have.
    fn part(&self) -> usize {
        (self.most / PARTS).max(LEAST_PART)
    }

    /// Whether the owner's part of the table has room for the buckets that are not stored. Those of
    /// its buckets that are full again count until they are swept.
    fn has_part(&self, tables: &Tables, charges: &[Charge], owner: Option<u16>) -> bool {
        let Some(owner) = owner else { return true };
        let part = self.part();
        let stored = tables.owned.stored_by(owner);
        // Nearly always true, without a look into the table.
        stored + charges.len() <= part || {
            let new = charges
                .iter()
                .filter(|charge| charge.by_principal && tables.owned.get(charge.bucket).is_none());
            stored + new.count() <= part
        }
    }
}

/// Whether the request may pass: every charge of a limit that is enforced is admitted.
fn is_admitted(charges: &[Charge], verdicts: &[Verdict]) -> bool {
    verdicts.iter().zip(charges).all(|(verdict, charge)| verdict.admitted || charge.is_shadow)
}

/// Replaces the verdicts that admit, after another one refused.
fn peek_admitted(tables: &Tables, charges: &[Charge], verdicts: &mut [Verdict], now: u64) {
    let admitted = charges.iter().zip(verdicts).filter(|(_, verdict)| verdict.admitted);
    for (charge, verdict) in admitted {
        let tat = tables.of(charge).get(charge.bucket);
        *verdict = peek(tat, now, charge.interval, charge.burst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn charge(key: &str, interval: u64, burst: u64) -> Charge {
        Charge {
            limit: "l".into(),
            bucket: key.into(),
            interval,
            burst,
            cost: 1,
            by_principal: true,
            is_shadow: false,
            lease: None,
            within: tollgate_core::limit::shard::CountedWithin::default(),
        }
    }

    fn at(micros: u64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    #[test]
    fn all_or_none() {
        let buckets = Buckets::new(10);
        let both = [charge("wide", SECOND, 3), charge("narrow", SECOND, 1)];
        assert!(buckets.charge(&both, None, at(1)).unwrap().iter().all(|verdict| verdict.admitted));
        let verdicts = buckets.charge(&both, None, at(1)).unwrap();
        assert_eq!(
            (verdicts[0].admitted, verdicts[0].remaining),
            (true, 2),
            "not charged, as the other had no room"
        );
        assert!(!verdicts[1].admitted);
        let verdicts = buckets.charge(&both[..1], None, at(1)).unwrap();
        assert_eq!(verdicts[0].remaining, 1);
    }

    #[test]
    fn a_full_table_refuses_new_buckets_and_keeps_the_ones_it_has() {
        let buckets = Buckets::new(2);
        for key in ["a", "b"] {
            assert!(buckets.charge(&[charge(key, SECOND, 2)], None, at(1)).unwrap()[0].admitted);
        }
        assert_eq!(buckets.charge(&[charge("c", SECOND, 2)], None, at(2)), Err(Outage::Full));
        assert_eq!(
            buckets.charge(&[charge("a", SECOND, 2)], None, at(2)).unwrap()[0].remaining,
            0,
            "a live bucket stays as it was"
        );
        assert_eq!(
            buckets.charge(&[charge("b", SECOND, 2), charge("c", SECOND, 2)], None, at(2)),
            Err(Outage::Full)
        );
        assert_eq!(
            buckets.charge(&[charge("b", SECOND, 2)], None, at(2)).unwrap()[0].remaining,
            0,
            "nothing was taken"
        );
        // `a` and `b` are full again two seconds later.
        assert!(
            buckets.charge(&[charge("c", SECOND, 2)], None, at(2 * SECOND + 1)).unwrap()[0]
                .admitted
        );
    }

    #[test]
    fn a_bucket_that_is_full_again_fits_into_a_full_table() {
        let buckets = Buckets::new(2);
        let both = [charge("a", SECOND, 2), charge("b", SECOND, 2)];
        for now in [1, 2, SECOND + 1, 9 * SECOND, 20 * SECOND] {
            assert!(buckets.charge(&both, None, at(now)).is_ok(), "{now}");
            assert_eq!(buckets.len(), 2);
        }
        // Only `b` is full: there is room for itself, or for one other.
        buckets.charge(&both[..1], None, at(21 * SECOND)).unwrap();
        for (key, expected) in [("b", true), ("c", false)] {
            let two = [charge("a", SECOND, 5), charge(key, SECOND, 2)];
            assert_eq!(buckets.charge(&two, None, at(21 * SECOND + 1)).is_ok(), expected, "{key}");
        }
        assert_eq!(buckets.len(), 2);
    }

    #[test]
    fn a_refusal_stores_no_bucket() {
        let buckets = Buckets::new(10);
        assert!(!buckets.charge(&[charge("a", SECOND, 0)], None, at(1)).unwrap()[0].admitted);
        assert_eq!(buckets.len(), 0);
    }

    #[test]
    fn full_buckets_are_removed_as_others_are_charged() {
        let buckets = Buckets::new(100_000);
        for n in 0..10_000 {
            buckets.charge(&[charge(&format!("k{n}"), SECOND, 5)], None, at(n)).unwrap();
        }
        // Half of them are charged again, so that they are full later.
        for n in 0..5_000 {
            buckets.charge(&[charge(&format!("k{n}"), SECOND, 5)], None, at(20_000)).unwrap();
        }
        assert_eq!(buckets.len(), 10_000);
        for n in 0..4_000 {
            buckets.charge(&[charge("other", 1, 5)], None, at(10 * SECOND + n)).unwrap();
        }
        assert_eq!(buckets.len(), 1);
    }

    fn principal(n: u64) -> Option<Fingerprint> {
        Some(Fingerprint::from_halves([n.wrapping_mul(0x9e37_79b9_7f4a_7c15), n << 3]))
    }

    #[test]
    fn one_principal_takes_a_part_of_the_table() {
        let buckets = Buckets::new(3200);
        let ask = |owner: u64, key: String, now| {
            buckets.charge(&[charge(&key, SECOND, 5)], principal(owner), at(now)).unwrap().remove(0)
        };
        let admitted = (0..5000).filter(|n| ask(1, format!("a{n}"), 1).admitted).count();
        assert_eq!(admitted, 200, "a sixteenth");
        let refused = ask(1, "a-new".into(), 2);
        assert!(!refused.admitted && refused.retry_after == SECOND, "{refused:?}");
        assert_eq!(ask(1, "a7".into(), 2).remaining, 3, "its own buckets work");
        // Nearly all others have their room. One in 4096 shares the part.
        let others = (2..102).filter(|n| ask(*n, format!("b{n}"), 3).admitted).count();
        assert!(others > 97, "{others}");
        // All are full later, and are swept as others are charged.
        for n in 0..5000 {
            ask(200, "c".into(), 60 * SECOND + n);
        }
        assert!(ask(1, "a-new".into(), 61 * SECOND).admitted);
    }

    #[test]
    fn a_charge_beyond_the_part_takes_nothing() {
        let buckets = Buckets::new(64);
        let one = |key: &str| charge(key, SECOND, 5);
        for n in 0..63 {
            buckets.charge(&[one(&format!("k{n}"))], principal(1), at(1)).unwrap();
        }
        let two = [one("x"), one("y"), one("k1")];
        let verdicts = buckets.charge(&two, principal(1), at(1)).unwrap();
        assert_eq!(verdicts.iter().map(|v| v.admitted).collect::<Vec<_>>(), [false, false, true]);
        assert_eq!((verdicts[2].remaining, buckets.len()), (4, 63));
        assert!(buckets.charge(&two[1..], principal(1), at(1)).unwrap()[0].admitted);
    }

    #[test]
    fn strangers_fill_a_table_of_their_own() {
        let buckets = Buckets::new(100);
        let open = |n: u64| Charge { by_principal: false, ..charge(&format!("ip{n}"), SECOND, 5) };
        for n in 0..100 {
            assert!(buckets.charge(&[open(n)], None, at(1)).is_ok());
        }
        assert_eq!(buckets.charge(&[open(100)], None, at(1)), Err(Outage::Full));
        let own = charge("alice", SECOND, 5);
        assert!(
            buckets.charge(std::slice::from_ref(&own), principal(1), at(1)).unwrap()[0].admitted
        );
        // Both kinds: all or none.
        assert_eq!(
            buckets.charge(&[own.clone(), open(100)], principal(1), at(1)),
            Err(Outage::Full)
        );
        assert_eq!(buckets.charge(&[own], principal(1), at(1)).unwrap()[0].remaining, 3);
    }
}
