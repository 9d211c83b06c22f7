//! A simulation of escrows: several replicas and one store, outages, partitions, lost answers,
//! replicas that die, late and foreign reports. In every run the bounds of `limit::escrow` hold: what
//! is used, what is refused although it is not used, and what is charged in the end.

use std::collections::HashMap;

use tollgate_core::{
    limit::{
        BucketId, Counter, Hold, Verdict,
        cost::{CostTerms, MediaBound, Price},
        counters::Counters,
        escrow::{Covered, EscrowTerms, Escrows},
        reservation::{Reservation, ReservationId},
        settlement::{Settlement, Usage},
    },
    time::{Span, Timestamp},
};

const RUNS: u64 = 300;
const STEPS: usize = 600;
const SECOND: u64 = 1_000_000;
const START: u64 = 1_800_000_000 * SECOND;

/// The longest time that a request runs: shorter than the last eighth of an escrow's life.
const LONGEST: u64 = 4 * SECOND;
const LIFE: Span = Span::from_secs(40);
const REQUEST_LIFE: Span = Span::from_secs(10);

/// The longest outage, if no escrow may expire.
const BRIDGED: u64 = 24 * SECOND;

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

struct Replica {
    escrows: Escrows,
    local: Counters,
    /// Until when it does not reach the store.
    cut_until: u64,
    /// Reports for the store that it did not take yet.
    queue: Vec<Settlement>,
}

/// A request that was admitted.
struct Request {
    reservation: Reservation,
    replica: usize,
    uses: u64,
    ends: u64,
    /// Whether it has ended, and its report was given to a replica.
    has_ended: bool,
}

/// What may happen in a run.
#[derive(Clone, Copy)]
struct Faults {
    deaths: bool,
    long_outages: bool,
    lost_answers: bool,
    failovers: bool,
}

/// The store at an earlier moment.
struct Backup {
    store: Counters,
    /// The units that requests were admitted with since.
    admitted_since: u64,
    at: u64,
}

struct World {
    random: Random,
    faults: Faults,
    now: u64,
    store: Counters,
    replicas: Vec<Replica>,
    requests: Vec<Request>,
    counter: Counter,
    terms: EscrowTerms,
    next: u128,
    /// The level of a bucket that leaks at the rate, in microseconds, and when it was computed.
    level: (u64, u64),
    deaths: u64,
    backup: Backup,
    /// When the store last held, or held again, a request.
    held_at: HashMap<ReservationId, u64>,
    /// Units that the store held for requests whose answer was lost.
    unused: u64,
    /// Whether no more requests come.
    is_over: bool,
    /// What failovers may have lost.
    lost: u64,
    from_escrow: u64,
    refused: u64,
}

fn hold(counter: Counter, amount: u64) -> Hold {
    Hold {
        limit: "l".into(),
        counter_id: BucketId::of("counter"),
        counter,
        amount,
        unreported: amount,
        by_principal: true,
        is_shadow: false,
    }
}

/// Terms that make the cost of a request the number of its tokens, reported or not.
const A_UNIT_FOR_EACH_TOKEN: CostTerms = CostTerms {
    price: Price {
        input: 1_000_000,
        cached_input: 1_000_000,
        output: 1_000_000,
        request: 0,
        image: 0,
        second: 0,
    },
    tokens: 0,
    most: 0,
    unreported: 0,
    fixed: None,
    media: MediaBound { images: 0, seconds: 0, are_images_known: false },
};

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let replicas = 1 + random.below(4);
        let faults = Faults {
            deaths: random.one_in(3),
            long_outages: random.one_in(3),
            lost_answers: random.one_in(2),
            failovers: random.one_in(4),
        };
        let size = 20 + random.below(400);
        let counter = match random.below(3) {
            0 => {
                let (limit, ends) = (5 * size, Timestamp::from_micros(2 * START));
                let is_cost = seed % 2 == 1;
                if is_cost {
                    Counter::Cost { limit, ends }
                } else {
                    Counter::Budget { limit, ends }
                }
            }
            1 => Counter::Bucket { interval: 20_000 + random.below(SECOND), burst: size },
            _ => Counter::Slots { limit: 1 + random.below(10) },
        };
        let terms = EscrowTerms { share: 5 + random.below(45), replicas, life: LIFE };
        let replicas = (0..replicas).map(|_| Replica {
            escrows: Escrows::new(terms),
            local: Counters::default(),
            cut_until: 0,
            queue: Vec::new(),
        });
        let replicas = replicas.collect();
        Self {
            random,
            faults,
            now: START,
            store: Counters::default(),
            replicas,
            requests: Vec::new(),
            counter,
            terms,
            next: 1,
            level: (0, START),
            deaths: 0,
            backup: Backup { store: Counters::default(), admitted_since: 0, at: START },
            held_at: HashMap::new(),
            unused: 0,
            is_over: false,
            lost: 0,
            from_escrow: 0,
            refused: 0,
        }
    }

    fn time(&self) -> Timestamp {
        Timestamp::from_micros(self.now)
    }

    fn random_replica(&mut self) -> usize {
        self.random.below(self.replicas.len() as u64) as usize
    }

    fn id(&mut self) -> ReservationId {
        self.next += 1;
        ReservationId(self.next.to_be_bytes())
    }

    fn is_cut(&self, replica: usize) -> bool {
        self.replicas[replica].cut_until > self.now
    }

    fn loses_answer(&mut self) -> bool {
        self.faults.lost_answers && self.random.one_in(12)
    }

    fn slots(&self) -> bool {
        matches!(self.counter, Counter::Slots { .. })
    }

    fn check(&mut self, replica: usize) {
        let amount = if self.slots() { 1 } else { 1 + self.random.below(12) };
        let id = self.id();
        let reservation = Reservation {
            id,
            issued: self.time(),
            life: REQUEST_LIFE,
            holds: vec![hold(self.counter, amount)],
            histories: None,
            shard: None,
            route: None,
            facts: None,
            cost: Some(Box::new(A_UNIT_FOR_EACH_TOKEN)),
        };
        let answer = if self.is_cut(replica) {
            None
        } else {
            let verdicts = self.store.admit(&reservation, None, self.time());
            if verdicts[0].admitted {
                self.backup.admitted_since += amount;
                self.held_at.insert(reservation.id, self.now);
            }
            if self.loses_answer() { None } else { Some(verdicts) }
        };
        let now = self.time();
        let admitted = match answer {
            Some(verdicts) => {
                self.replicas[replica].escrows.note(&reservation, &verdicts, None, now);
                if !verdicts[0].admitted {
                    self.check_refusal(amount);
                }
                verdicts[0].admitted
            }
            None => self.admit_locally(replica, &reservation),
        };
        if admitted {
            let uses = if self.slots() { 0 } else { self.random.below(amount + 1) };
            let ends = self.now + self.random.below(LONGEST);
            self.requests.push(Request { reservation, replica, uses, ends, has_ended: false });
        } else {
            // The store may hold it: it is released, as its answer was not used.
            self.unused += amount;
            let settlement = Settlement { reservation, usage: Usage::Released, report: None };
            self.replicas[replica].queue.push(settlement);
        }
        self.check_use();
    }

    fn admit_locally(&mut self, replica: usize, reservation: &Reservation) -> bool {
        let now = self.time();
        let Replica { escrows, local, .. } = &mut self.replicas[replica];
        let Some(covered) = escrows.cover(reservation, None, now) else { return false };
        let Covered { local: own, .. } = &covered;
        if !local.admit(own, None, now).iter().all(|verdict| verdict.admitted) {
            return false;
        }
        escrows.admitted(reservation, covered, now);
        self.from_escrow += 1;
        true
    }

    /// The store refused a request: what is held in escrow is within the bound.
    fn check_refusal(&mut self, amount: u64) {
        self.refused += 1;
        // After a long outage an escrow may be charged, and the bucket keeps that. A request whose
        // report was lost is charged its hold.
        if self.faults.long_outages || self.faults.failovers {
            return;
        }
        let most = self.terms.most(self.counter);
        let parked = most * (self.terms.replicas + self.deaths);
        let held = self.unused
            + self.requests.iter().map(|one| one.reservation.holds[0].amount).sum::<u64>();
        match self.counter {
            Counter::Budget { limit, .. } | Counter::Cost { limit, .. } => {
                assert!(held + amount + parked > limit, "{held} + {amount} + {parked}");
            }
            Counter::Slots { limit } => {
                let life = REQUEST_LIFE.micros();
                let held = self.held_at.values().filter(|at| *at + life > self.now).count();
                assert!(held as u64 + amount + parked > limit, "{held} + {parked} of {limit}");
            }
            _ => {}
        }
    }

    /// No more is used than the limit, whatever was lost.
    fn check_use(&mut self) {
        let running: u64 = self
            .requests
            .iter()
            .filter(|one| !one.has_ended)
            .map(|one| one.reservation.holds[0].amount)
            .sum();
        match self.counter {
            Counter::Budget { limit, .. } | Counter::Cost { limit, .. } => {
                let ended = self.requests.iter().filter(|one| one.has_ended);
                let used: u64 = ended.map(|one| one.uses).sum();
                let most = limit + self.lost;
                assert!(used + running <= most, "{used} and {running} of {most}");
            }
            Counter::Slots { limit } => {
                assert!(running <= limit + self.lost, "{running} of {limit}, and {}", self.lost);
            }
            Counter::Bucket { interval, burst } => {
                let (level, most) = (self.leaked() + running * interval, burst + self.lost);
                assert!(level <= most * interval, "{level} of {}", most * interval);
            }
            Counter::Requests { .. } | Counter::Rate { .. } => unreachable!(),
        }
    }

    fn leaked(&self) -> u64 {
        let (level, at) = self.level;
        level.saturating_sub(self.now - at)
    }

    /// Ends requests whose time has come, and reports them to their replica or to another one.
    fn end_requests(&mut self) {
        for at in 0..self.requests.len() {
            let request = &self.requests[at];
            if request.has_ended || request.ends > self.now {
                continue;
            }
            let (mut replica, uses) = (request.replica, request.uses);
            let settlement = Settlement {
                reservation: request.reservation.clone(),
                usage: if uses == 0 { Usage::Released } else { Usage::Final(uses) },
                report: None,
            };
            if let Counter::Bucket { interval, .. } = self.counter {
                self.level = (self.leaked() + uses * interval, self.now);
            }
            self.requests[at].has_ended = true;
            if self.random.one_in(8) {
                replica = self.random_replica();
            }
            self.report(replica, settlement);
        }
    }

    fn report(&mut self, replica: usize, settlement: Settlement) {
        let now = self.time();
        let Replica { escrows, local, queue, .. } = &mut self.replicas[replica];
        match escrows.settle(&settlement) {
            Some(own) => drop(local.settle(&own, now)),
            None => queue.push(settlement),
        }
    }

    /// Applies a report in the store.
    fn apply(&mut self, settlement: &Settlement) {
        let id = settlement.reservation.id;
        let is_request = settlement.reservation.life == REQUEST_LIFE;
        if is_request && matches!(settlement.usage, Usage::Running(_)) {
            self.held_at.insert(id, self.now);
        }
        self.store.settle(settlement, self.time());
    }

    /// A running request is reported, as by a proxy.
    fn heartbeat(&mut self) {
        let running: Vec<usize> =
            (0..self.requests.len()).filter(|at| !self.requests[*at].has_ended).collect();
        if running.is_empty() {
            return;
        }
        let request = &self.requests[running[self.random.below(running.len() as u64) as usize]];
        // The world counts what is used at the end, and a bucket refills what is reported before.
        let is_bucket = matches!(self.counter, Counter::Bucket { .. });
        let used = if is_bucket { 0 } else { request.uses.min(1) };
        let settlement = Settlement {
            reservation: request.reservation.clone(),
            usage: Usage::Running(used),
            report: None,
        };
        self.report(request.replica, settlement);
    }

    /// The background of a replica: its queue, and its escrows.
    fn work(&mut self, replica: usize) {
        if !self.is_cut(replica) {
            let queue = std::mem::take(&mut self.replicas[replica].queue);
            queue.iter().for_each(|settlement| self.apply(settlement));
            if self.loses_answer() {
                self.replicas[replica].queue = queue;
            }
        }
        for _ in 0..4 {
            let now = self.time();
            let reports = self.replicas[replica].escrows.reports(now);
            if self.is_cut(replica) {
                break;
            }
            for settlement in &reports.settlements {
                self.apply(settlement);
                if !self.is_over && self.random.one_in(4) {
                    let other = self.random_replica();
                    self.check(other);
                }
            }
            if self.loses_answer() || !self.replicas[replica].escrows.reported(&reports, now, now) {
                break;
            }
        }
        let (now, mut next) = (self.time(), self.next);
        let takes = self.replicas[replica].escrows.takes(now, || {
            next += 1;
            ReservationId(next.to_be_bytes())
        });
        self.next = next;
        for take in takes {
            let verdict: Option<Verdict> =
                (!self.is_cut(replica)).then(|| self.store.admit(&take, None, now)[0]);
            match verdict.filter(|_| !self.loses_answer()) {
                Some(verdict) => self.replicas[replica].escrows.taken(&take, verdict, now),
                None => self.replicas[replica].escrows.lost(&take, now),
            }
        }
    }

    fn break_something(&mut self) {
        let longest = if self.faults.long_outages { 90 * SECOND } else { BRIDGED };
        let until = self.now + self.random.below(longest);
        let one = self.random_replica();
        match self.random.below(5) {
            4 if self.faults.failovers => {
                self.fail_over();
                for replica in &mut self.replicas {
                    replica.cut_until = until;
                }
            }
            0 => {
                for replica in &mut self.replicas {
                    replica.cut_until = until;
                }
            }
            1 if self.faults.deaths => {
                // Another one takes its place. What was reported to it and not sent is lost.
                self.deaths += 1;
                self.replicas[one] = Replica {
                    escrows: Escrows::new(self.terms),
                    local: Counters::default(),
                    cut_until: 0,
                    queue: Vec::new(),
                };
            }
            _ => self.replicas[one].cut_until = until,
        }
    }

    /// The store has what it had at the backup. The requests that it admitted since may be lost, and
    /// the escrows that it gave since.
    fn fail_over(&mut self) {
        self.store = self.backup.store.clone();
        let escrows = self.terms.most(self.counter) * self.terms.replicas;
        self.lost += self.backup.admitted_since + escrows;
        self.backup = Backup { store: self.store.clone(), admitted_since: 0, at: self.now };
    }

    fn step(&mut self) {
        if self.faults.failovers && self.now > self.backup.at + 2 * SECOND {
            self.backup = Backup { store: self.store.clone(), admitted_since: 0, at: self.now };
        }
        let replica = self.random_replica();
        match self.random.below(40) {
            0 if !self.replicas.iter().any(|one| one.cut_until + 10 * SECOND > self.now) => {
                self.break_something();
            }
            0..8 => self.heartbeat(),
            8..30 => (0..=self.random.below(3)).for_each(|_| self.check(replica)),
            _ => {}
        }
        self.now += self.random.below(SECOND / 2);
        self.end_requests();
        self.check_use();
        // Each replica works every second or so.
        for replica in 0..self.replicas.len() {
            if self.random.one_in(3) {
                self.work(replica);
            }
        }
    }

    /// Everything is back, all requests end, and the replicas are closed.
    fn finish(&mut self) {
        self.is_over = true;
        self.faults.lost_answers = false;
        for replica in &mut self.replicas {
            replica.cut_until = 0;
        }
        self.now += LONGEST;
        self.end_requests();
        self.check_use();
        for replica in 0..self.replicas.len() {
            self.work(replica);
            self.replicas[replica].escrows.close();
            self.work(replica);
            self.work(replica);
            assert_eq!(self.replicas[replica].escrows.held(), 0);
            assert_eq!(self.replicas[replica].escrows.unreported(), 0);
        }
        self.now += LIFE.micros() + SECOND;
        self.store.advance(self.time(), usize::MAX);
        assert_eq!(self.store.open(), 0);
        let count = self.store.count(&hold(self.counter, 1));
        assert_eq!(count.held, 0);
        let used: u64 = self.requests.iter().map(|one| one.uses).sum();
        if let Counter::Budget { .. } | Counter::Cost { .. } = self.counter {
            assert!(count.spent + self.lost >= used, "{} of {used}", count.spent);
            if self.deaths == 0 && self.lost == 0 {
                assert_eq!(count.spent, used);
            }
            let parked = self.deaths * self.terms.most(self.counter);
            let lost: u64 = self.unreported_by_deaths();
            // Releases and reports that a failover has lost are charged, and not counted here.
            let is_bounded = count.spent <= used + parked + lost || self.lost > 0;
            assert!(is_bounded, "{} of {used}", count.spent);
        }
    }

    /// The most that requests are charged too much whose reports died with a replica.
    fn unreported_by_deaths(&self) -> u64 {
        if self.deaths == 0 {
            return 0;
        }
        self.requests.iter().map(|one| one.reservation.holds[0].amount - one.uses).sum()
    }
}

#[test]
fn nothing_is_overspent_and_little_is_withheld() {
    let mut seen = HashMap::<&str, u64>::new();
    for seed in 0..RUNS {
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step();
        }
        world.finish();
        *seen.entry("escrow").or_default() += world.from_escrow;
        *seen.entry("refused").or_default() += world.refused;
        *seen.entry("deaths").or_default() += world.deaths;
        *seen.entry("failovers").or_default() += u64::from(world.lost > 0);
    }
    let enough = [("escrow", 2000), ("refused", 2000), ("deaths", 50), ("failovers", 20)];
    assert!(enough.iter().all(|(what, least)| seen[what] > *least), "{seen:?}");
}
