//! Buckets in memory: the reference model over a table that holds no bucket longer than it means something.
//!
//! A bucket whose TAT has passed is full, and a full bucket is the same as none, so it may be dropped. One that is still
//! draining is never dropped: whoever could push it out would have refilled it.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use tollgate_core::{
    limit::{
        Charge, Outage, Verdict,
        reference::{ask, untouched},
    },
    time::Timestamp,
};

/// How many buckets are looked at for dropping on each charge: more than one charge can add, so that the table shrinks.
const SWEEP: usize = 4;

/// All buckets, behind one lock: a check of two charges holds it for a third of a microsecond, for one and a half where half a
/// million buckets make the cache miss. The rest of a check costs ten times that, so the lock is not what cores wait for.
#[derive(Debug)]
pub(in crate::store) struct Buckets {
    most: usize,
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    tats: HashMap<Arc<str>, u64>,
    /// Every bucket once, by a moment not after its TAT. A bucket that was charged since goes back in when it comes up, so a
    /// charge costs nothing here, and the first one not yet due means that none is.
    due: BinaryHeap<Reverse<(u64, Arc<str>)>>,
}

impl Buckets {
    pub(in crate::store) fn new(most: u64) -> Self {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        // Room from the start, which costs address space only: a table of a million that grows stalls every check meanwhile.
        let room = most.min(1 << 20);
        let table = Table { tats: HashMap::with_capacity(room), due: BinaryHeap::with_capacity(room) };
        Self { most, table: Mutex::new(table) }
    }

    pub(in crate::store) fn len(&self) -> u64 {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).tats.len() as u64
    }

    /// Takes all charges, or none. Their keys differ: the core refuses a route that lists a limit twice.
    pub(in crate::store) fn charge(&self, charges: &[Charge], now: Timestamp) -> Result<Vec<Verdict>, Outage> {
        if charges.is_empty() {
            return Ok(Vec::new());
        }
        let now = now.micros();
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.drop_full(now, SWEEP);
        let tats: Vec<Option<u64>> = charges.iter().map(|charge| table.tats.get(charge.key.as_str()).copied()).collect();
        let steps = charges.iter().zip(&tats).map(|(charge, tat)| ask(*tat, now, charge.interval, charge.burst, charge.cost));
        let steps: Vec<_> = steps.collect();
        if steps.iter().any(|step| !step.verdict.admitted) {
            let verdicts = charges.iter().zip(&tats).zip(&steps).map(|((charge, tat), step)| match step.verdict.admitted {
                true => untouched(*tat, now, charge.interval, charge.burst),
                false => step.verdict,
            });
            return Ok(verdicts.collect());
        }
        while !table.has_room(charges, self.most) {
            if table.drop_full(now, SWEEP) == 0 {
                return Err(Outage::Full);
            }
        }
        for (charge, step) in charges.iter().zip(&steps) {
            table.set(&charge.key, step.tat);
        }
        Ok(steps.into_iter().map(|step| step.verdict).collect())
    }
}

impl Table {
    fn has_room(&self, charges: &[Charge], most: usize) -> bool {
        let held = self.tats.len();
        held + charges.len() <= most
            || held + charges.iter().filter(|charge| !self.tats.contains_key(charge.key.as_str())).count() <= most
    }

    fn set(&mut self, key: &str, tat: u64) {
        if let Some(known) = self.tats.get_mut(key) {
            *known = tat;
            return;
        }
        let key: Arc<str> = key.into();
        self.due.push(Reverse((tat, Arc::clone(&key))));
        self.tats.insert(key, tat);
    }

    /// Looks at no more than `most` buckets that may have become full. Answers how many it looked at.
    fn drop_full(&mut self, now: u64, most: usize) -> usize {
        let mut looked = 0;
        while looked < most
            && self.due.peek().is_some_and(|Reverse((due, _))| *due <= now)
            && let Some(Reverse((_, key))) = self.due.pop()
        {
            looked += 1;
            match self.tats.get(&key) {
                Some(tat) if *tat > now => self.due.push(Reverse((*tat, key))),
                _ => {
                    self.tats.remove(&key);
                }
            }
        }
        looked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn charge(key: &str, interval: u64, burst: u64) -> Charge {
        Charge { limit: "l".into(), key: key.into(), interval, burst, cost: 1, lease: None }
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
        assert_eq!((verdicts[0].admitted, verdicts[0].remaining), (true, 2), "not charged, as the other had no room");
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
        assert_eq!(buckets.charge(&[charge("a", SECOND, 2)], at(2)).unwrap()[0].remaining, 0, "a live bucket stays as it was");
        assert_eq!(buckets.charge(&[charge("b", SECOND, 2), charge("c", SECOND, 2)], at(2)), Err(Outage::Full));
        assert_eq!(buckets.charge(&[charge("b", SECOND, 2)], at(2)).unwrap()[0].remaining, 0, "nothing was taken");
        // `a` and `b` are full again two seconds later.
        assert!(buckets.charge(&[charge("c", SECOND, 2)], at(2 * SECOND + 1)).unwrap()[0].admitted);
    }

    #[test]
    fn a_refusal_holds_no_bucket() {
        let buckets = Buckets::new(10);
        assert!(!buckets.charge(&[charge("a", SECOND, 0)], at(1)).unwrap()[0].admitted);
        assert_eq!(buckets.len(), 0);
    }

    #[test]
    fn full_buckets_are_dropped_as_others_are_charged() {
        let buckets = Buckets::new(100_000);
        for n in 0..10_000 {
            buckets.charge(&[charge(&format!("k{n}"), SECOND, 5)], at(n)).unwrap();
        }
        // Half of them are charged again, so that their place in the queue is out of date.
        for n in 0..5_000 {
            buckets.charge(&[charge(&format!("k{n}"), SECOND, 5)], at(20_000)).unwrap();
        }
        assert_eq!(buckets.len(), 10_000);
        for n in 0..4_000 {
            buckets.charge(&[charge("other", 1, 5)], at(10 * SECOND + n)).unwrap();
        }
        assert_eq!(buckets.len(), 1);
        assert_eq!(buckets.table.lock().unwrap().due.len(), 1);
    }
}
