//! The leased units of a replica: no unit is spent twice and none is lost, whatever the order of
//! checks, of the answers of the shared bucket and of the sweep that returns units.

#[path = "../../../src/store/leases.rs"]
#[allow(dead_code, unreachable_pub, reason = "a model uses a part of the file")]
mod holder;

use std::{
    future::Future as _,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Instant,
};

use loom::{
    sync::{Arc, Mutex},
    thread,
};
use tollgate_core::limit::{
    BucketId, Charge, Verdict,
    lease::{LeaseGrant, LeaseTerms},
    shard::CountedWithin,
};

use self::holder::{ChargeStep, Leases, ReturnedUnits};
use crate::explore;

/// The units of the shared bucket. It does not refill in a model.
const UNITS: u64 = 5;

/// The bucket in Redis, and the units that checks spent.
struct Shared {
    units: Mutex<u64>,
    spent: Mutex<u64>,
}

/// A replica and the shared bucket.
struct World {
    leases: Leases,
    shared: Shared,
    charge: Charge,
}

/// What a check comes to, after its units were taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Every limit admits it.
    Spent,
    /// Another limit refuses it.
    Refused,
}

impl World {
    /// Units are leased for `life`: a lease of 0 microseconds is over at once, one of an hour never.
    fn new(life: u64) -> Arc<Self> {
        let charge = Charge {
            limit: "l".into(),
            bucket: BucketId::of("b"),
            interval: 1,
            burst: UNITS,
            cost: 1,
            by_principal: true,
            lease: Some(LeaseTerms { slice: 2, life }),
            within: CountedWithin::default(),
            is_shadow: false,
        };
        let shared = Shared { units: Mutex::new(UNITS), spent: Mutex::new(0) };
        Arc::new(Self { leases: Leases::default(), shared, charge })
    }

    fn spend(&self) {
        *self.shared.spent.lock().unwrap() += self.charge.cost;
    }

    /// The call of Redis: grants at most `want` units, of which the caller consumes `consumed`.
    fn call(&self, want: u64, consumed: u64) -> (Option<u64>, Verdict) {
        let mut units = self.shared.units.lock().unwrap();
        let admitted = *units >= consumed.max(1);
        let granted = if admitted { want.min(*units) } else { 0 };
        *units -= granted;
        let verdict = Verdict {
            admitted,
            remaining: *units,
            retry_after: if admitted { 0 } else { 3_600_000_000 },
            reset: 0,
        };
        (admitted.then_some(granted), verdict)
    }

    /// One check, with the calls that `store::redis::leasing` makes. Returns whether it passes.
    fn check(&self, end: End) -> bool {
        let steps = self.leases.take(std::slice::from_ref(&self.charge), None);
        let [step] = &*steps else { panic!("one charge has one step") };
        let bucket = self.charge.bucket;
        match *step {
            ChargeStep::Exact => {
                let (granted, _) = self.call(self.charge.cost, self.charge.cost);
                let passes = granted.is_some();
                if passes {
                    self.spend();
                }
                passes
            }
            ChargeStep::Requested(want) => {
                let called_at = Instant::now();
                let (granted, verdict) = self.call(want, self.charge.cost);
                if let Some(granted) = granted {
                    let consumed = self.charge.cost;
                    let grant = LeaseGrant { requested: want, granted, consumed };
                    self.spend();
                    self.leases.grant(bucket, called_at, grant, verdict);
                } else {
                    self.leases.refuse(bucket, want, verdict);
                }
                granted.is_some()
            }
            ChargeStep::Taken(_, ahead) => {
                if ahead > 0 {
                    let called_at = Instant::now();
                    let (granted, verdict) = self.call(ahead, 0);
                    match granted {
                        Some(granted) => {
                            let grant = LeaseGrant { requested: ahead, granted, consumed: 0 };
                            self.leases.grant(bucket, called_at, grant, verdict);
                        }
                        None => self.leases.refuse(bucket, ahead, verdict),
                    }
                }
                if end == End::Spent {
                    self.spend();
                }
                self.leases.settle(&self.charge, end == End::Spent);
                end == End::Spent
            }
            ChargeStep::Refused(_) => false,
        }
    }

    /// The sweep: expired units go back to the shared bucket; with `closing`, all.
    fn give_back(&self, closing: bool) {
        let mut sweep = pin!(self.leases.reclaim(closing));
        let mut context = Context::from_waker(Waker::noop());
        let returned = loop {
            if let Poll::Ready(returned) = sweep.as_mut().poll(&mut context) {
                break returned;
            }
        };
        for ReturnedUnits { micros, .. } in returned {
            *self.shared.units.lock().unwrap() += micros / self.charge.interval;
        }
    }

    /// Asserts that each unit is in the bucket, in the lease, or spent.
    fn assert_balanced(&self) {
        let (units, spent) =
            (*self.shared.units.lock().unwrap(), *self.shared.spent.lock().unwrap());
        let held = self.leases.status().units;
        assert_eq!(units + spent + held, UNITS, "{units} shared, {spent} spent, {held} held");
    }
}

/// An hour: no unit expires in a model.
const LONG: u64 = 3_600_000_000;

fn checks(life: u64, ends: [End; 2], sweep: Option<bool>) -> impl Fn() + Sync + Send + 'static {
    move || {
        let world = World::new(life);
        // The lease is warm: it holds units that the threads compete for.
        let first = world.check(End::Spent);
        assert!(first);
        let threads = ends.map(|end| {
            let world = Arc::clone(&world);
            thread::spawn(move || world.check(end))
        });
        if let Some(closing) = sweep {
            world.give_back(closing);
        }
        for thread in threads {
            thread.join().unwrap();
        }
        world.assert_balanced();
        world.give_back(true);
        assert_eq!(world.leases.status().units, 0, "units stay behind");
        world.assert_balanced();
    }
}

#[test]
fn two_checks_spend_units() {
    explore("leases, two checks", 3, 10, checks(LONG, [End::Spent, End::Spent], None));
}

#[test]
fn a_check_spends_and_another_returns_units() {
    explore("leases, one refused", 3, 10, checks(LONG, [End::Spent, End::Refused], None));
}

#[test]
fn checks_while_expired_units_are_returned() {
    explore("leases, expired meanwhile", 3, 10, checks(0, [End::Spent, End::Spent], Some(false)));
}

#[test]
fn checks_while_the_replica_closes() {
    explore(
        "leases, closed meanwhile",
        3,
        10,
        checks(LONG, [End::Spent, End::Refused], Some(true)),
    );
}
