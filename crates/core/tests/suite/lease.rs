//! A simulation of leased limits: many replicas with clocks of their own, skewed load, slow and
//! lost messages, partitions and crashes. In every run the two bounds of `limit::lease` hold: what
//! is admitted, and what is withheld.

use std::{cmp::Reverse, collections::BinaryHeap};

use tollgate_core::limit::{
    Verdict,
    lease::{Lease, LeaseGrant, LeaseOutcome, LeaseTerms},
    reference::{LeaseRequest, leasable, tat_after_return, try_take},
};

const RUNS: u64 = 400;
const SECOND: u64 = 1_000_000;
const TIMEOUT: u64 = 100_000;

/// A small random generator, so that runs are equal on all machines.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// A request of a replica. `spent` of the units are for a waiting check, the rest is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Question {
    replica: usize,
    life: u64,
    sent: u64,
    asked: u64,
    spent: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Request(usize),
    AtRedis(Question),
    /// The granted units and the rest of the verdict; `None` is a timeout.
    Answer(Question, Option<(u64, [u64; 3])>),
    /// A check that had taken a unit and waited for another limit.
    Decided {
        replica: usize,
        life: u64,
        spent: bool,
    },
    Sweep(usize),
    Back {
        micros: u64,
    },
    Crash(usize),
}

struct Replica {
    lease: Lease,
    /// The number of its crashes: messages to an earlier life do not reach it.
    life: u64,
    clock: u64,
    cut: (u64, u64),
}

struct World {
    random: Random,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    number: u64,
    now: u64,
    end: u64,
    interval: u64,
    burst: u64,
    terms: LeaseTerms,
    replicas: Vec<Replica>,
    tat: Option<u64>,
    /// The TAT of an exact bucket that counts admitted requests and cannot refuse.
    exact: u64,
    /// The level of a bucket that leaks at the rate, in microseconds: the worst of all spans of
    /// time that end now.
    level: u64,
    lost: u64,
    admitted: u64,
    refused: u64,
    local: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let count = 1 + random.below(20);
        let interval =
            [1000, 20_000, SECOND, 60 * SECOND][random.below(4) as usize] + random.below(1000);
        let burst = 2 + random.below(300);
        let slice = 2 + random.below(burst - 1);
        let terms = LeaseTerms { slice, life: 100_000 + random.below(5 * SECOND) };
        let replicas = (0..count).map(|_| {
            let from = random.below(20 * SECOND);
            let cut =
                if random.one_in(3) { (from, from + random.below(10 * SECOND)) } else { (0, 0) };
            Replica { lease: Lease::default(), life: 0, clock: random.below(1 << 40), cut }
        });
        let replicas = replicas.collect();
        let mut world = Self {
            random,
            events: BinaryHeap::new(),
            number: 0,
            now: 0,
            end: 20 * SECOND,
            interval,
            burst,
            terms,
            replicas,
            tat: None,
            exact: 0,
            level: 0,
            lost: 0,
            admitted: 0,
            refused: 0,
            local: 0,
        };
        world.load(count);
        world
    }

    /// Requests, a few thousand: bursts and pauses, most of them to the first replicas.
    fn load(&mut self, count: u64) {
        let mut at = 0;
        for _ in 0..3000 {
            at += match self.random.below(4) {
                0 => 0,
                1 => self.random.below(2000),
                2 => self.random.below(2 * self.interval.min(20_000)),
                _ if self.random.one_in(50) => self.random.below(2 * SECOND),
                _ => self.random.below(5000),
            };
            let skewed = self
                .random
                .below(count)
                .min(self.random.below(count))
                .min(self.random.below(count));
            self.at(at, Event::Request(skewed as usize));
        }
        self.end = at;
        for replica in 0..count as usize {
            for n in 0..at / 250_000 {
                self.at(n * 250_000 + self.random.0 % 250_000, Event::Sweep(replica));
            }
            if self.random.one_in(4) {
                let when = self.random.below(at);
                self.at(when, Event::Crash(replica));
            }
        }
    }

    fn at(&mut self, when: u64, event: Event) {
        self.number += 1;
        self.events.push(Reverse((when, self.number, event)));
    }

    fn run(mut self, seed: u64) -> Self {
        while let Some(Reverse((now, _, event))) = self.events.pop() {
            self.exact = self.exact.max(now);
            self.level = self.level.saturating_sub(now - self.now);
            self.now = now;
            self.happen(event, seed);
        }
        self
    }

    fn happen(&mut self, event: Event, seed: u64) {
        match event {
            Event::Request(replica) => self.request(replica, seed),
            Event::AtRedis(question) => self.at_redis(question, seed),
            Event::Answer(question, answer) => self.answer(question, answer, seed),
            Event::Decided { replica, life, spent } => {
                if self.replicas[replica].life == life {
                    self.replicas[replica].lease.settle(1, spent);
                    if spent {
                        self.spend(seed);
                    }
                }
            }
            Event::Sweep(replica) => {
                let now = self.local_now(replica);
                let units = self.replicas[replica].lease.reclaim(now, false);
                if units > 0 {
                    if self.arrives(replica) {
                        let delay = self.random.below(20_000);
                        self.at(self.now + delay, Event::Back { micros: units * self.interval });
                    } else {
                        self.lost += units;
                    }
                }
            }
            Event::Back { micros } => self.tat = tat_after_return(self.tat, self.now, micros),
            Event::Crash(replica) => {
                let crashed = &mut self.replicas[replica];
                self.lost += crashed.lease.held();
                crashed.lease = Lease::default();
                crashed.life += 1;
            }
        }
    }

    fn local_now(&self, replica: usize) -> u64 {
        self.now + self.replicas[replica].clock
    }

    fn arrives(&mut self, replica: usize) -> bool {
        let (from, to) = self.replicas[replica].cut;
        !(from..to).contains(&self.now) && !self.random.one_in(100)
    }

    fn request(&mut self, replica: usize, seed: u64) {
        let (now, life) = (self.local_now(replica), self.replicas[replica].life);
        match self.replicas[replica].lease.take(now, 1, self.terms) {
            LeaseOutcome::Taken(verdict, ahead) => {
                assert!(verdict.admitted, "{seed}");
                self.local += 1;
                if self.random.one_in(5) {
                    let (delay, spent) = (self.random.below(TIMEOUT), !self.random.one_in(3));
                    self.at(self.now + delay, Event::Decided { replica, life, spent });
                } else {
                    self.replicas[replica].lease.settle(1, true);
                    self.spend(seed);
                }
                if ahead > 0 {
                    self.send(replica, ahead, 0);
                }
            }
            LeaseOutcome::Refused(verdict) => {
                assert!(!verdict.admitted && verdict.retry_after > 0, "{seed}");
                self.refuse(seed);
            }
            LeaseOutcome::Request(want) => self.send(replica, want, 1),
        }
        let held = self.replicas[replica].lease.held();
        assert!(held <= self.terms.slice, "seed {seed}: replica {replica} holds {held}");
    }

    fn send(&mut self, replica: usize, asked: u64, spent: u64) {
        let question = Question {
            replica,
            life: self.replicas[replica].life,
            sent: self.local_now(replica),
            asked,
            spent,
        };
        let delay = self.random.below(10_000);
        if self.arrives(replica) {
            self.at(self.now + delay, Event::AtRedis(question));
        } else {
            self.at(self.now + TIMEOUT, Event::Answer(question, None));
        }
    }

    fn at_redis(&mut self, question: Question, seed: u64) {
        let step = try_take(self.tat, self.now, self.interval, self.burst, 1);
        let mut answer = (0, step.verdict);
        if step.verdict.admitted {
            let units = leasable(
                self.tat,
                self.now,
                self.interval,
                self.burst,
                LeaseRequest { cost: 1, want: question.asked },
            );
            let step = try_take(self.tat, self.now, self.interval, self.burst, units);
            assert!(step.verdict.admitted, "what is there can be taken");
            self.tat = Some(step.tat);
            answer = (units, step.verdict);
        }
        let (units, Verdict { remaining, retry_after, reset, .. }) = answer;
        if self.arrives(question.replica) {
            let delay = self.random.below(10_000);
            self.at(
                self.now + delay,
                Event::Answer(question, Some((units, [remaining, retry_after, reset]))),
            );
            // The unit of the requesting check counts from now on, as with exact limits.
            if units > 0 && question.spent > 0 {
                self.spend(seed);
            }
        } else {
            self.lost += units;
            self.at(self.now + TIMEOUT, Event::Answer(question, None));
        }
    }

    fn answer(&mut self, question: Question, answer: Option<(u64, [u64; 3])>, seed: u64) {
        let Question { replica, life, sent, asked, spent } = question;
        let now = self.local_now(replica);
        if self.replicas[replica].life != life {
            self.lost += answer.map_or(0, |(units, _)| units.saturating_sub(spent));
            return;
        }
        let lease = &mut self.replicas[replica].lease;
        match answer {
            None => lease.forget(asked),
            Some((0, [remaining, retry_after, reset])) => {
                lease.refuse(
                    now,
                    asked,
                    Verdict { admitted: false, remaining, retry_after, reset },
                );
                if spent > 0 {
                    self.refuse(seed);
                }
            }
            Some((units, [remaining, retry_after, reset])) => {
                let verdict = Verdict { admitted: true, remaining, retry_after, reset };
                lease.grant(
                    sent,
                    LeaseGrant { requested: asked, granted: units, consumed: spent },
                    verdict,
                    self.terms,
                );
            }
        }
    }

    /// Records that a request is admitted.
    fn spend(&mut self, seed: u64) {
        self.admitted += 1;
        self.exact += self.interval;
        self.level += self.interval;
        let most = self.burst + self.replicas.len() as u64 * self.terms.slice;
        assert!(
            self.level <= most * self.interval,
            "seed {seed}: {} where {most} may pass",
            self.level / self.interval
        );
    }

    /// Records that a request is refused although an exact bucket might have admitted it.
    fn refuse(&mut self, seed: u64) {
        self.refused += 1;
        let there =
            (self.now + self.burst * self.interval).saturating_sub(self.exact) / self.interval;
        let withheld = self.replicas.len() as u64 * self.terms.slice + self.lost;
        // Units in transit, at most as many again as were held.
        let most = 2 + withheld + self.replicas.len() as u64 * self.terms.slice;
        assert!(
            there < most,
            "seed {seed}: refused where {there} were left, {most} at most can be withheld"
        );
    }
}

#[test]
fn no_more_is_admitted_and_no_more_withheld_than_the_bounds_say() {
    let (mut admitted, mut refused, mut local, mut lost) = (0, 0, 0, 0);
    for seed in 0..RUNS {
        let world = World::new(seed).run(seed);
        admitted += world.admitted;
        refused += world.refused;
        local += world.local;
        lost += world.lost;
    }
    // The runs are effective: each of these events is frequent.
    assert!(
        admitted > 100_000 && refused > 50_000 && local > 50_000 && lost > 1000,
        "{admitted} {refused} {local} {lost}"
    );
}

#[test]
fn a_busy_replica_asks_once_in_a_slice() {
    let terms = LeaseTerms { slice: 100, life: 2 * SECOND };
    let (mut lease, mut tat, mut asked) = (Lease::default(), None, 0);
    for n in 0..10_000 {
        let now = SECOND + n * 1000;
        let mut redis = |want: u64| {
            asked += 1;
            let units = leasable(tat, now, 100, 10_000, LeaseRequest { cost: 1, want });
            let step = try_take(tat, now, 100, 10_000, units);
            tat = Some(step.tat);
            (units, step.verdict)
        };
        match lease.take(now, 1, terms) {
            LeaseOutcome::Taken(_, ahead) => {
                lease.settle(1, true);
                if ahead > 0 {
                    let (units, verdict) = redis(ahead);
                    lease.grant(
                        now,
                        LeaseGrant { requested: ahead, granted: units, consumed: 0 },
                        verdict,
                        terms,
                    );
                }
            }
            LeaseOutcome::Request(want) => {
                let (units, verdict) = redis(want);
                lease.grant(
                    now,
                    LeaseGrant { requested: want, granted: units, consumed: 1 },
                    verdict,
                    terms,
                );
            }
            LeaseOutcome::Refused(_) => panic!("there is room"),
        }
    }
    assert!(asked <= 10_000 / 70, "{asked} questions for 10000 requests");
}

/// A busy replica showed up to `slice` units too many: the answer to an exact charge, decided
/// before the lease's own request, was taken for the later one.
#[test]
fn answers_of_one_moment_never_overstate_what_remains() {
    let terms = LeaseTerms { slice: 10, life: SECOND };
    let room = |remaining| Verdict { admitted: true, remaining, retry_after: 0, reset: 7 };
    let exact = (LeaseGrant { requested: 1, granted: 1, consumed: 1 }, room(49));
    let ahead = (LeaseGrant { requested: 10, granted: 10, consumed: 0 }, room(39));
    for answers in [[exact, ahead], [ahead, exact]] {
        let mut lease = Lease::default();
        for (grant, verdict) in answers {
            lease.grant(3, grant, verdict, terms);
        }
        let LeaseOutcome::Taken(verdict, _) = lease.take(4, 1, terms) else {
            panic!("there are units")
        };
        assert_eq!(verdict.remaining, 9 + 39);
        // A later observation replaces both.
        lease.grant(5, LeaseGrant { requested: 1, granted: 1, consumed: 1 }, room(80), terms);
        let LeaseOutcome::Taken(verdict, _) = lease.take(6, 1, terms) else {
            panic!("there are units")
        };
        assert_eq!(verdict.remaining, 8 + 80);
    }
}

#[test]
fn what_is_held_is_given_back_when_nobody_asks_for_it() {
    let terms = LeaseTerms { slice: 10, life: SECOND };
    let room = Verdict { admitted: true, remaining: 50, retry_after: 0, reset: 7 };
    let mut lease = Lease::default();
    assert_eq!(
        lease.take(0, 1, terms),
        LeaseOutcome::Request(1),
        "the first question is for one request"
    );
    lease.grant(0, LeaseGrant { requested: 1, granted: 1, consumed: 1 }, room, terms);
    assert_eq!(lease.take(1, 1, terms), LeaseOutcome::Request(10));
    lease.grant(1, LeaseGrant { requested: 10, granted: 8, consumed: 1 }, room, terms);
    assert_eq!(lease.held(), 7);
    let LeaseOutcome::Taken(verdict, 0) = lease.take(2, 1, terms) else {
        panic!("there are units")
    };
    assert_eq!(verdict, Verdict { admitted: true, remaining: 56, retry_after: 0, reset: 6 });
    lease.settle(1, false);
    assert_eq!(
        (lease.reclaim(SECOND, false), lease.held()),
        (0, 7),
        "a refused check spent nothing"
    );
    assert_eq!(lease.take(SECOND + 1, 1, terms), LeaseOutcome::Request(1), "too old to be spent");
    assert_eq!((lease.reclaim(SECOND + 1, false), lease.held()), (7, 0));
    lease.refuse(
        SECOND + 2,
        1,
        Verdict { admitted: false, remaining: 0, retry_after: 500, reset: 900 },
    );
    let refused = Verdict { admitted: false, remaining: 0, retry_after: 499, reset: 899 };
    assert_eq!(lease.take(SECOND + 3, 1, terms), LeaseOutcome::Refused(refused));
    assert!(!lease.is_idle(SECOND + 3) && lease.is_idle(SECOND + 502));
}
