//! Buckets in memory: the reference model over a table.
//!
//! A bucket whose TAT has passed is full, which is the same as a missing one, so it may be removed.
//! A bucket that is not full is never removed: a client that could displace it would have refilled
//! it.

mod table;

use std::sync::{Mutex, PoisonError};

use tollgate_core::{
    admission::Outage,
    limit::{
        Charge, Verdict,
        reference::{peek, try_take},
    },
    time::Timestamp,
};

use self::table::BucketTable;

/// All buckets, behind one lock. A check with two charges holds it for a tenth of a microsecond and
/// takes a hundred times that in all, so that cores do not wait for the lock.
#[derive(Debug)]
pub(in crate::store) struct Buckets {
    most: usize,
    table: Mutex<BucketTable>,
}

impl Buckets {
    pub(in crate::store) fn new(most: u64) -> Self {
        Self {
            most: usize::try_from(most).unwrap_or(usize::MAX),
            table: Mutex::new(BucketTable::new()),
        }
    }

    /// The number of buckets.
    pub(in crate::store) fn len(&self) -> u64 {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).len() as u64
    }

    /// Takes all charges, or none. Their keys differ, as the core refuses a route that lists a
    /// limit twice.
    pub(in crate::store) fn charge(
        &self,
        charges: &[Charge],
        now: Timestamp,
    ) -> Result<Vec<Verdict>, Outage> {
        if charges.is_empty() {
            return Ok(Vec::new());
        }
        let now = now.micros();
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.sweep(now, charges.len());
        let verdict = |charge: &Charge| {
            try_take(table.get(charge.bucket), now, charge.interval, charge.burst, charge.cost)
                .verdict
        };
        let mut verdicts: Vec<Verdict> = charges.iter().map(verdict).collect();
        if verdicts.iter().any(|verdict| !verdict.admitted) {
            for (charge, verdict) in
                charges.iter().zip(&mut verdicts).filter(|(_, verdict)| verdict.admitted)
            {
                *verdict = peek(table.get(charge.bucket), now, charge.interval, charge.burst);
            }
            return Ok(verdicts);
        }
        if table.len() + charges.len() > self.most {
            // A stored bucket that is full may be removed to make room, and is then a new one.
            let is_new = |charge: &&Charge| table.get(charge.bucket).is_none_or(|tat| tat <= now);
            let new = charges.iter().filter(is_new).count();
            if !table.make_room(now, new, self.most) {
                return Err(Outage::Full);
            }
        }
        for (charge, verdict) in charges.iter().zip(&verdicts) {
            // The bucket is full again after `reset`: that moment is its TAT.
            table.set(charge.bucket, now + verdict.reset);
        }
        Ok(verdicts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn charge(key: &str, interval: u64, burst: u64) -> Charge {
        Charge { limit: "l".into(), bucket: key.into(), interval, burst, cost: 1, lease: None }
    }

    fn at(micros: u64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    #[test]
    fn all_or_none() {
        let buckets = Buckets::new(10);
        let both = [charge("wide", SECOND, 3), charge("narrow", SECOND, 1)];
        assert!(buckets.charge(&both, at(1)).unwrap().iter().all(|verdict| verdict.admitted));
        let verdicts = buckets.charge(&both, at(1)).unwrap();
        assert_eq!(
            (verdicts[0].admitted, verdicts[0].remaining),
            (true, 2),
            "not charged, as the other had no room"
        );
        assert!(!verdicts[1].admitted);
        let verdicts = buckets.charge(&both[..1], at(1)).unwrap();
        assert_eq!(verdicts[0].remaining, 1);
    }

    #[test]
    fn a_full_table_refuses_new_buckets_and_keeps_the_ones_it_has() {
        let buckets = Buckets::new(2);
        for key in ["a", "b"] {
            assert!(buckets.charge(&[charge(key, SECOND, 2)], at(1)).unwrap()[0].admitted);
        }
        assert_eq!(buckets.charge(&[charge("c", SECOND, 2)], at(2)), Err(Outage::Full));
        assert_eq!(
            buckets.charge(&[charge("a", SECOND, 2)], at(2)).unwrap()[0].remaining,
            0,
            "a live bucket stays as it was"
        );
        assert_eq!(
            buckets.charge(&[charge("b", SECOND, 2), charge("c", SECOND, 2)], at(2)),
            Err(Outage::Full)
        );
        assert_eq!(
            buckets.charge(&[charge("b", SECOND, 2)], at(2)).unwrap()[0].remaining,
            0,
            "nothing was taken"
        );
        // `a` and `b` are full again two seconds later.
        assert!(buckets.charge(&[charge("c", SECOND, 2)], at(2 * SECOND + 1)).unwrap()[0].admitted);
    }

    #[test]
    fn a_bucket_that_is_full_again_fits_into_a_full_table() {
        let buckets = Buckets::new(2);
        let both = [charge("a", SECOND, 2), charge("b", SECOND, 2)];
        for now in [1, 2, SECOND + 1, 9 * SECOND, 20 * SECOND] {
            assert!(buckets.charge(&both, at(now)).is_ok(), "{now}");
            assert_eq!(buckets.len(), 2);
        }
        // Only `b` is full: there is room for itself, or for one other.
        buckets.charge(&both[..1], at(21 * SECOND)).unwrap();
        for (key, expected) in [("b", true), ("c", false)] {
            let two = [charge("a", SECOND, 5), charge(key, SECOND, 2)];
            assert_eq!(buckets.charge(&two, at(21 * SECOND + 1)).is_ok(), expected, "{key}");
        }
        assert_eq!(buckets.len(), 2);
    }

    #[test]
    fn a_refusal_stores_no_bucket() {
        let buckets = Buckets::new(10);
        assert!(!buckets.charge(&[charge("a", SECOND, 0)], at(1)).unwrap()[0].admitted);
        assert_eq!(buckets.len(), 0);
    }

    #[test]
    fn full_buckets_are_removed_as_others_are_charged() {
        let buckets = Buckets::new(100_000);
        for n in 0..10_000 {
            buckets.charge(&[charge(&format!("k{n}"), SECOND, 5)], at(n)).unwrap();
        }
        // Half of them are charged again, so that they are full later.
        for n in 0..5_000 {
            buckets.charge(&[charge(&format!("k{n}"), SECOND, 5)], at(20_000)).unwrap();
        }
        assert_eq!(buckets.len(), 10_000);
        for n in 0..4_000 {
            buckets.charge(&[charge("other", 1, 5)], at(10 * SECOND + n)).unwrap();
        }
        assert_eq!(buckets.len(), 1);
    }
}
