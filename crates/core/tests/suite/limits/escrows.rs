//! Escrows of a replica, moment by moment: how many units it takes, when it admits from them, and
//! when it replaces and releases them.

use tollgate_core::{
    limit::{
        BucketId, Counter, Hold, Verdict,
        escrow::{EscrowTerms, Escrows},
        reservation::{Reservation, ReservationId},
        settlement::{Settlement, Usage},
    },
    time::{Span, Timestamp},
};

const SECOND: u64 = 1_000_000;
const NOW: u64 = 1_800_000_000 * SECOND;
const LIFE: u64 = 40 * SECOND;
const HOUR: u64 = 3600 * SECOND;

/// Of a limit of 1000, a replica holds 50 in escrow at most.
const TERMS: EscrowTerms = EscrowTerms { share: 10, replicas: 2, life: Span::from_micros(LIFE) };

fn at(micros: u64) -> Timestamp {
    Timestamp::from_micros(micros)
}

fn budget() -> Counter {
    Counter::Budget { limit: 1000, ends: at(NOW + 24 * HOUR) }
}

fn bucket() -> Counter {
    Counter::Bucket { interval: SECOND, burst: 1000 }
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

fn request(number: u8, counter: Counter, amount: u64) -> Reservation {
    Reservation {
        id: ReservationId([number; 16]),
        issued: at(NOW),
        life: Span::from_secs(10),
        holds: vec![hold(counter, amount)],
        histories: None,
        shard: None,
        route: None,
        facts: None,
        cost: None,
    }
}

fn verdict(admitted: bool, remaining: u64) -> Verdict {
    Verdict { admitted, remaining, retry_after: 0, reset: 0 }
}

/// Notes that the store admitted a request.
fn note(escrows: &mut Escrows, counter: Counter, amount: u64, remaining: u64, now: u64) {
    escrows.note(&request(1, counter, amount), &[verdict(true, remaining)], None, at(now));
}

/// The escrows that are to be taken now.
fn takes(escrows: &mut Escrows, now: u64) -> Vec<Reservation> {
    let id = now.to_be_bytes();
    let id: [u8; 16] = [id, id].concat().try_into().unwrap();
    escrows.takes(at(now), || ReservationId(id))
}

/// The units of the escrow that is to be taken; 0 for none.
fn wanted(escrows: &Escrows, now: u64) -> u64 {
    takes(&mut escrows.clone(), now).first().map_or(0, |escrow| escrow.holds[0].amount)
}

/// A replica whose requests held 30 units of a counter, and that has them in escrow since `NOW`.
fn with_escrow(counter: Counter) -> (Escrows, Reservation) {
    let mut escrows = Escrows::new(TERMS);
    for _ in 0..3 {
        note(&mut escrows, counter, 10, 500, NOW);
    }
    let taken = takes(&mut escrows, NOW).pop().unwrap();
    assert_eq!((taken.holds[0].amount, taken.holds[0].unreported), (30, 30));
    escrows.taken(&taken, verdict(true, 470), at(NOW));
    (escrows, taken)
}

/// The reports that a replica makes now about one of its escrows.
fn reported_of(escrows: &mut Escrows, escrow: &Reservation, now: u64) -> Option<Usage> {
    let reports = escrows.reports(at(now)).settlements;
    reports.iter().find(|report| report.reservation.id == escrow.id).map(|report| report.usage)
}

/// Makes the reports of a moment, which the store applies at once.
fn report(escrows: &mut Escrows, now: u64) {
    let reports = escrows.reports(at(now));
    escrows.reported(&reports, at(now), at(now));
}

fn covers(escrows: &Escrows, counter: Counter, now: u64) -> bool {
    escrows.cover(&request(2, counter, 1), None, at(now)).is_some()
}

#[test]
fn an_escrow_has_what_requests_held_lately() {
    let mut escrows = Escrows::new(TERMS);
    assert_eq!(wanted(&escrows, NOW), 0);
    for amount in [7, 5, 9] {
        note(&mut escrows, budget(), amount, 900, NOW);
    }
    // In the period in which they came and in the next one.
    for (after, amount) in [(0, 21), (LIFE, 21), (2 * LIFE - 1, 21), (2 * LIFE, 0)] {
        assert_eq!(wanted(&escrows, NOW + after), amount, "{after}");
    }
    let before = escrows.clone();
    note(&mut escrows, budget(), 10, 900, NOW + LIFE - 1);
    assert_eq!(wanted(&escrows, NOW + LIFE - 1), 31, "of one period");
    for (later, amount) in [(LIFE, 31), (2 * LIFE - 1, 31), (2 * LIFE, 10)] {
        let mut escrows = before.clone();
        note(&mut escrows, budget(), 10, 900, NOW + later);
        assert_eq!(wanted(&escrows, NOW + later + LIFE - 1), amount, "{later}");
        assert_eq!(wanted(&escrows, NOW + later + LIFE), 10, "{later}");
    }
    // At most the part of the replica.
    note(&mut escrows, budget(), 60, 900, NOW + LIFE - 1);
    assert_eq!(wanted(&escrows, NOW + LIFE - 1), 50);
}

#[test]
fn an_escrow_leaves_half_of_what_is_left_to_others_and_has_room_for_a_request() {
    for (remaining, amount) in [(47, 21), (46, 20), (15, 5), (14, 0), (5, 0), (0, 0)] {
        let mut escrows = Escrows::new(TERMS);
        for held in [7, 5, 9] {
            note(&mut escrows, budget(), held, remaining, NOW);
        }
        assert_eq!(wanted(&escrows, NOW), amount, "{remaining}");
    }
    // A request that is larger than the part of the replica is not admitted from an escrow.
    for (held, amount) in [(50, 50), (51, 0)] {
        let mut escrows = Escrows::new(TERMS);
        note(&mut escrows, budget(), held, 900, NOW);
        assert_eq!(wanted(&escrows, NOW), amount, "{held}");
    }
    // What is refused is no demand, and what is in shadow has no escrow.
    let mut escrows = Escrows::new(TERMS);
    escrows.note(&request(1, budget(), 9), &[verdict(false, 900)], None, at(NOW));
    let mut shadow = request(1, bucket(), 9);
    shadow.holds[0].is_shadow = true;
    escrows.note(&shadow, &[verdict(true, 900)], None, at(NOW));
    assert_eq!(wanted(&escrows, NOW), 0);
}

#[test]
fn an_escrow_that_the_store_refuses_is_asked_for_again_after_a_quarter_of_its_life() {
    let mut escrows = Escrows::new(TERMS);
    note(&mut escrows, budget(), 10, 500, NOW);
    let refused = takes(&mut escrows, NOW).pop().unwrap();
    assert_eq!(wanted(&escrows, NOW), 0, "one at a time");
    escrows.taken(&refused, verdict(false, 500), at(NOW));
    assert_eq!(escrows.held(), 0);
    assert_eq!(wanted(&escrows, NOW + LIFE / 4 - 1), 0);
    assert_eq!(wanted(&escrows, NOW + LIFE / 4), 10);
    // An answer to another escrow changes nothing.
    let taken = takes(&mut escrows, NOW + LIFE / 4).pop().unwrap();
    escrows.taken(&refused, verdict(true, 500), at(NOW + LIFE / 4));
    assert_eq!(escrows.held(), 0);
    escrows.taken(&taken, verdict(true, 490), at(NOW + LIFE / 4));
    assert_eq!(escrows.held(), 1);
}

#[test]
fn requests_are_admitted_from_an_escrow_while_the_store_has_it() {
    let margin = LIFE / 8 * 7;
    let slots = Counter::Slots { limit: 1000 };
    let day = 24 * HOUR;
    for (counter, end) in [(budget(), 12 * HOUR), (bucket(), margin), (slots, margin)] {
        let (escrows, _) = with_escrow(counter);
        assert!(covers(&escrows, counter, NOW) && covers(&escrows, counter, NOW + end - 1));
        assert!(!covers(&escrows, counter, NOW + end), "{counter:?}");
    }
    let ends_soon = Counter::Budget { limit: 1000, ends: at(NOW + SECOND) };
    let (escrows, _) = with_escrow(ends_soon);
    assert!(covers(&escrows, ends_soon, NOW + SECOND - 1));
    assert!(!covers(&escrows, ends_soon, NOW + SECOND));
    assert!(!covers(&escrows, budget(), NOW), "another window");

    // Before the store has answered there is none.
    let mut escrows = Escrows::new(TERMS);
    note(&mut escrows, budget(), 10, 500, NOW);
    let asked = takes(&mut escrows, NOW).pop().unwrap();
    assert!(!covers(&escrows, budget(), NOW));
    escrows.lost(&asked, at(NOW));
    assert!(!covers(&escrows, budget(), NOW));
    assert_eq!(reported_of(&mut escrows, &asked, NOW), Some(Usage::Released));

    // The counter of the escrow is as large as the escrow.
    let (escrows, escrow) = with_escrow(budget());
    let covered = escrows.cover(&request(2, budget(), 3), None, at(NOW)).unwrap();
    let [own] = &*covered.local.holds else { panic!() };
    assert_eq!(own.counter, Counter::Budget { limit: 30, ends: at(NOW + day) });
    assert_eq!((own.amount, own.counter_id), (3, BucketId::of(escrow.id.0)));
    let (escrows, _) = with_escrow(bucket());
    let covered = escrows.cover(&request(2, bucket(), 3), None, at(NOW)).unwrap();
    let filled = Counter::Budget { limit: 30, ends: at(NOW + 12 * HOUR) };
    assert_eq!(covered.local.holds[0].counter, filled, "it is not refilled");
    let (escrows, _) = with_escrow(slots);
    let covered = escrows.cover(&request(2, slots, 3), None, at(NOW)).unwrap();
    assert_eq!(covered.local.holds[0].counter, Counter::Slots { limit: 30 });
}

#[test]
fn an_escrow_is_renewed_each_quarter_of_its_life_and_stays_while_it_fits() {
    let (mut escrows, escrow) = with_escrow(budget());
    assert_eq!(reported_of(&mut escrows, &escrow, NOW + LIFE / 4 - 1), None);
    assert_eq!(reported_of(&mut escrows, &escrow, NOW + LIFE / 4), Some(Usage::Running(0)));
    report(&mut escrows, NOW + LIFE / 4);
    assert!(covers(&escrows, budget(), NOW + LIFE / 4));
    assert_eq!(reported_of(&mut escrows, &escrow, NOW + LIFE / 2 - 1), None);
    assert_eq!(reported_of(&mut escrows, &escrow, NOW + LIFE / 2), Some(Usage::Running(0)));

    // The demand of half to twice its size fits; of 30 units that is 15 to 60.
    for (amount, requests, fits) in [(15, 1, true), (14, 1, false), (30, 2, true), (61, 1, true)] {
        let (mut escrows, _) = with_escrow(budget());
        let later = NOW + 3 * LIFE;
        for _ in 0..requests {
            note(&mut escrows, budget(), amount, 900, later);
        }
        let reports = escrows.reports(at(later));
        escrows.reported(&reports, at(NOW + LIFE / 2), at(later));
        assert_eq!(escrows.held(), usize::from(fits), "{requests} of {amount}");
    }
    let larger = EscrowTerms { replicas: 1, ..TERMS };
    for (amount, fits) in [(60, true), (61, false)] {
        let mut escrows = Escrows::new(larger);
        note(&mut escrows, budget(), 30, 900, NOW);
        let taken = takes(&mut escrows, NOW).pop().unwrap();
        escrows.taken(&taken, verdict(true, 900), at(NOW));
        let later = NOW + 3 * LIFE;
        note(&mut escrows, budget(), amount, 900, later);
        let reports = escrows.reports(at(later));
        escrows.reported(&reports, at(NOW + LIFE / 2), at(later));
        assert_eq!(escrows.held(), usize::from(fits), "{amount}");
    }
    // Without demand none is held.
    let (mut escrows, escrow) = with_escrow(budget());
    report(&mut escrows, NOW + 2 * LIFE);
    assert_eq!(escrows.held(), 0);
    assert_eq!(reported_of(&mut escrows, &escrow, NOW + 2 * LIFE), Some(Usage::Released));
}

#[test]
fn an_escrow_that_may_be_charged_or_is_old_is_replaced() {
    for (late, stays) in [(LIFE - 1, true), (LIFE, false)] {
        let (mut escrows, _) = with_escrow(budget());
        report(&mut escrows, NOW + late);
        assert_eq!(escrows.held(), usize::from(stays), "renewed {late} after it was taken");
    }
    for (age, stays) in [(6 * HOUR - 1, true), (6 * HOUR, false)] {
        let (mut escrows, _) = with_escrow(budget());
        note(&mut escrows, budget(), 30, 900, NOW + age);
        let reports = escrows.reports(at(NOW + age));
        escrows.reported(&reports, at(NOW + LIFE / 2), at(NOW + age));
        assert_eq!(escrows.held(), usize::from(stays), "{age}");
    }
}

#[test]
fn requests_are_reported_before_their_escrow_is_released() {
    let (mut escrows, escrow) = with_escrow(budget());
    let one = request(2, budget(), 3);
    let covered = escrows.cover(&one, None, at(NOW)).unwrap();
    escrows.admitted(&one, covered, at(NOW));
    assert_eq!(escrows.unreported(), 1);
    let used = Settlement { reservation: one.clone(), usage: Usage::Final(2), report: None };
    assert!(escrows.settle(&used).is_some());
    let unknown = Settlement { reservation: request(3, budget(), 3), ..used };
    assert!(escrows.settle(&unknown).is_none(), "the store has it");

    // At once: the request, and the escrow that it was admitted from.
    let reports = escrows.reports(at(NOW));
    let found: Vec<_> = reports.settlements.iter().map(|s| (s.reservation.id, s.usage)).collect();
    assert_eq!(found, [(one.id, Usage::Final(2)), (escrow.id, Usage::Running(0))]);
    let has_more = escrows.reported(&reports, at(NOW), at(NOW));
    assert!(has_more, "the escrow that was used is to be released");
    assert_eq!((escrows.unreported(), escrows.held()), (0, 0));
    let reports = escrows.reports(at(NOW));
    let found: Vec<_> = reports.settlements.iter().map(|s| (s.reservation.id, s.usage)).collect();
    assert_eq!(found, [(escrow.id, Usage::Released)]);
    assert!(!escrows.reported(&reports, at(NOW), at(NOW)));
    // Another one takes its place at once: the demand is the same.
    assert_eq!(wanted(&escrows, NOW), 33);
}

#[test]
fn a_request_that_changes_while_it_is_reported_is_reported_again() {
    let (mut escrows, escrow) = with_escrow(budget());
    let one = request(2, budget(), 3);
    let covered = escrows.cover(&one, None, at(NOW)).unwrap();
    escrows.admitted(&one, covered, at(NOW));
    let reports = escrows.reports(at(NOW));
    let used = Settlement { reservation: one.clone(), usage: Usage::Final(2), report: None };
    assert!(escrows.settle(&used).is_some());
    assert!(escrows.reported(&reports, at(NOW), at(NOW)));
    assert_eq!(escrows.unreported(), 1);
    // Its escrow waits for it.
    let reports = escrows.reports(at(NOW));
    let found: Vec<_> = reports.settlements.iter().map(|s| (s.reservation.id, s.usage)).collect();
    assert_eq!(found, [(one.id, Usage::Final(2))]);
    assert!(escrows.reported(&reports, at(NOW), at(NOW)));
    assert_eq!(reported_of(&mut escrows, &escrow, NOW), Some(Usage::Released));
}

#[test]
fn a_refusal_beside_an_escrow_releases_it_and_pauses() {
    let (mut escrows, escrow) = with_escrow(budget());
    let refused = |escrows: &mut Escrows, admitted, remaining| {
        escrows.note(&request(1, budget(), 10), &[verdict(admitted, remaining)], None, at(NOW))
    };
    assert!(!refused(&mut escrows.clone(), true, 0), "a request that was admitted");
    assert!(refused(&mut escrows, false, 3));
    assert_eq!(escrows.held(), 0);
    assert_eq!(reported_of(&mut escrows, &escrow, NOW), Some(Usage::Released));
    report(&mut escrows, NOW);
    note(&mut escrows, budget(), 10, 500, NOW);
    assert_eq!(wanted(&escrows, NOW + LIFE / 4 - 1), 0);
    assert_eq!(wanted(&escrows, NOW + LIFE / 4), 40);
    assert!(!refused(&mut escrows, false, 3), "there is none");
}

#[test]
fn the_escrow_of_a_window_that_has_ended_is_released() {
    let counter = Counter::Budget { limit: 1000, ends: at(NOW + SECOND) };
    let (mut escrows, escrow) = with_escrow(counter);
    takes(&mut escrows, NOW + SECOND - 1);
    assert_eq!(escrows.held(), 1);
    takes(&mut escrows, NOW + SECOND);
    assert_eq!(escrows.held(), 0);
    assert_eq!(reported_of(&mut escrows, &escrow, NOW + SECOND), Some(Usage::Released));
}

#[test]
fn a_replica_that_closes_takes_and_covers_nothing_and_releases_all() {
    let (mut escrows, escrow) = with_escrow(budget());
    note(&mut escrows, bucket(), 10, 500, NOW);
    let asked = takes(&mut escrows, NOW).pop().unwrap();
    escrows.close();
    assert!(!covers(&escrows, budget(), NOW));
    assert_eq!(reported_of(&mut escrows, &escrow, NOW), Some(Usage::Released));
    // The answer to what was on its way.
    escrows.taken(&asked, verdict(true, 400), at(NOW));
    assert_eq!(escrows.held(), 0);
    assert_eq!(reported_of(&mut escrows, &asked, NOW), Some(Usage::Released));
    report(&mut escrows, NOW);
    assert!(takes(&mut escrows, NOW + LIFE).is_empty());
    assert!(escrows.reports(at(NOW)).settlements.is_empty());
}
