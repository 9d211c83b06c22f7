//! Reservations, state by state, and random histories against sums over all reservations.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::limit::usage_report::{Basis, RequestEnding, UsageReport};

const SECOND: u64 = 1_000_000;
const NOW: u64 = 1_800_000_000 * SECOND;
const LIFE: u64 = 30 * SECOND;
const NO_REPORT: UsageReport = UsageReport::UNREPORTED;

fn at(micros: u64) -> Timestamp {
    Timestamp::from_micros(micros)
}

fn hold(limit: &str, counter: Counter, amount: u64, unreported: u64) -> Hold {
    Hold {
        limit: limit.into(),
        counter_id: limit.into(),
        counter,
        amount,
        unreported,
        by_principal: true,
        is_shadow: false,
    }
}

fn budget(limit: u64) -> Counter {
    Counter::Budget { limit, ends: at(NOW + 3600 * SECOND) }
}

fn reservation(id: u8, issued: u64, holds: &[Hold]) -> Reservation {
    Reservation {
        id: ReservationId([id; 16]),
        issued: at(issued),
        life: Span::from_micros(LIFE),
        holds: holds.to_vec(),
        histories: None,
        shard: None,
        route: None,
        facts: None,
        cost: None,
    }
}

fn settle(counters: &mut Counters, reservation: &Reservation, usage: Usage, now: u64) -> Settled {
    counters.settle(&Settlement { reservation: reservation.clone(), usage, report: None }, at(now))
}

fn count(counters: &Counters, hold: &Hold) -> (u64, u64) {
    let Count { spent, held } = counters.count(hold);
    (spent, held)
}

#[test]
fn neither_requests_nor_a_cost_are_among_the_tokens_of_a_settlement() {
    let mut counters = Counters::default();
    let ends = at(NOW + 3600 * SECOND);
    let holds = [
        hold("day", budget(100), 40, 20),
        hold("requests", Counter::Requests { limit: 9, ends }, 1, 1),
        hold("money", Counter::Cost { limit: 9000, ends }, 900, 500),
    ];
    let request = reservation(1, NOW, &holds);
    assert!(counters.admit(&request, None, at(NOW)).iter().all(|verdict| verdict.admitted));
    let settled = settle(&mut counters, &request, Usage::Unreported(0), NOW);
    assert_eq!(settled, Settled::Charged(20));
    assert_eq!(count(&counters, &holds[2]), (500, 0));
}

#[test]
fn a_budget_admits_what_is_neither_spent_nor_held() {
    let mut counters = Counters::default();
    let day = hold("day", budget(100), 40, 40);
    let requests = [1, 2, 3].map(|id| reservation(id, NOW, std::slice::from_ref(&day)));
    let first = counters.admit(&requests[0], None, at(NOW))[0];
    let hour = 3600 * SECOND;
    assert_eq!(first, Verdict { admitted: true, remaining: 60, retry_after: 0, reset: hour });
    assert_eq!(counters.admit(&requests[1], None, at(NOW))[0].remaining, 20);
    let refused = counters.admit(&requests[2], None, at(NOW))[0];
    assert_eq!((refused.admitted, refused.remaining, refused.retry_after), (false, 20, HELD_RETRY));
    assert_eq!(settle(&mut counters, &requests[0], Usage::Final(10), NOW), Settled::Charged(10));
    assert_eq!(count(&counters, &day), (10, 40));
    assert_eq!(counters.admit(&requests[2], None, at(NOW))[0].remaining, 10);
    // Spent units do not come back in this window.
    for (request, tokens) in requests[1..].iter().zip([40, 30]) {
        settle(&mut counters, request, Usage::Final(tokens), NOW);
    }
    let later = reservation(4, NOW, std::slice::from_ref(&day));
    let refused = counters.admit(&later, None, at(NOW + SECOND))[0];
    assert_eq!((refused.remaining, refused.retry_after), (20, hour - SECOND));
    let never = counters.try_hold(&reservation(5, NOW, &[hold("day", budget(9), 10, 0)]), at(NOW));
    assert_eq!(never[0].retry_after, u64::MAX);
}

#[test]
fn all_counters_have_room_or_nothing_is_held() {
    let mut counters = Counters::default();
    let holds = [
        hold("minute", Counter::Bucket { interval: SECOND, burst: 50 }, 40, 40),
        hold("day", budget(100), 40, 40),
        hold("requests", Counter::Requests { limit: 2, ends: at(NOW + SECOND) }, 1, 1),
        hold("slots", Counter::Slots { limit: 1 }, 1, 1),
    ];
    let [first, second] = [1, 2].map(|id| reservation(id, NOW, &holds));
    assert!(counters.admit(&first, None, at(NOW)).iter().all(|verdict| verdict.admitted));
    let verdicts = counters.admit(&second, None, at(NOW));
    assert_eq!(verdicts.iter().map(|v| v.admitted).collect::<Vec<_>>(), [false, true, true, false]);
    assert_eq!(verdicts.iter().map(|v| v.remaining).collect::<Vec<_>>(), [10, 60, 1, 0]);
    assert_eq!(
        holds.each_ref().map(|hold| count(&counters, hold)),
        [(0, 40), (0, 40), (1, 0), (0, 1)]
    );
    settle(&mut counters, &first, Usage::Final(7), NOW);
    let spent = [(NOW + 7 * SECOND, 0), (7, 0), (1, 0), (0, 0)];
    assert_eq!(holds.each_ref().map(|hold| count(&counters, hold)), spent);
    assert_eq!(counters.open(), 0);
    // A zero counter is not stored; windows are, for late reports.
    counters.advance(at(NOW + 7 * SECOND), 1);
    assert_eq!(counters.len(), 2);
    counters.advance(at(NOW + 26 * 3600 * SECOND), 1);
    assert_eq!(counters.len(), 0);
}

#[test]
fn a_bucket_refills_and_may_be_in_debt() {
    let mut counters = Counters::default();
    let minute = hold("minute", Counter::Bucket { interval: SECOND, burst: 60 }, 20, 20);
    let request = |id| reservation(id, NOW, std::slice::from_ref(&minute));
    counters.admit(&request(1), None, at(NOW));
    assert_eq!(settle(&mut counters, &request(1), Usage::Final(80), NOW), Settled::Charged(80));
    let refused = counters.admit(&request(2), None, at(NOW))[0];
    assert_eq!((refused.admitted, refused.remaining), (false, 0));
    assert_eq!((refused.retry_after, refused.reset), (40 * SECOND, 80 * SECOND));
    assert!(!counters.admit(&request(2), None, at(NOW + 40 * SECOND - 1))[0].admitted);
    assert!(counters.admit(&request(2), None, at(NOW + 40 * SECOND))[0].admitted);
    // Unused units were never spent, so that a release forgives nothing that others spent.
    settle(&mut counters, &request(2), Usage::Released, NOW + 41 * SECOND);
    assert_eq!(count(&counters, &minute), (NOW + 80 * SECOND, 0));
}

#[test]
fn a_fixed_charge_is_spent_at_admission_and_no_report_changes_it() {
    let mut counters = Counters::default();
    let ends = at(NOW + 3600 * SECOND);
    let holds = [
        hold("minute", Counter::Rate { interval: SECOND, burst: 60 }, 50, 0),
        hold("day", Counter::Requests { limit: 100, ends }, 50, 0),
        hold("slots", Counter::Slots { limit: 9 }, 1, 0),
    ];
    let request = reservation(1, NOW, &holds);
    let verdicts = counters.admit(&request, None, at(NOW));
    assert_eq!(verdicts.iter().map(|one| one.remaining).collect::<Vec<_>>(), [10, 50, 8]);
    let spent = [(NOW + 50 * SECOND, 0), (50, 0)];
    let counts = |counters: &Counters| [&holds[0], &holds[1]].map(|hold| count(counters, hold));
    assert_eq!(counts(&counters), spent);
    for usage in [Usage::Running(7), Usage::Final(99)] {
        settle(&mut counters, &request, usage, NOW);
        assert_eq!(counts(&counters), spent, "{usage:?}");
    }
    assert_eq!(counters.open(), 0);
    // Requests whose usage is reported share the counters, and the bucket refills.
    let metered = [
        hold("minute", Counter::Bucket { interval: SECOND, burst: 60 }, 20, 20),
        hold("day", budget(100), 20, 20),
    ];
    let other = reservation(2, NOW, &metered);
    assert_eq!(counters.admit(&other, None, at(NOW))[0].retry_after, 10 * SECOND);
    let verdicts = counters.admit(&other, None, at(NOW + 10 * SECOND));
    assert_eq!(verdicts.iter().map(|one| one.remaining).collect::<Vec<_>>(), [0, 30]);
    // Without slots there is nothing to settle.
    let alone = reservation(3, NOW, &holds[..2]);
    assert!(!alone.is_settled());
}

#[test]
fn a_report_that_the_request_runs_renews_its_holds_and_spends_what_is_used() {
    let mut counters = Counters::default();
    let day = hold("day", budget(100), 40, 40);
    let request = reservation(1, NOW, std::slice::from_ref(&day));
    counters.admit(&request, None, at(NOW));
    for (now, tokens, expected) in [
        (NOW + LIFE - 1, 5, (5, 35)),
        (NOW + 2 * LIFE - 2, 3, (5, 35)),
        (NOW + 2 * LIFE, 50, (50, 0)),
    ] {
        assert_eq!(settle(&mut counters, &request, Usage::Running(tokens), now), Settled::Renewed);
        assert_eq!(count(&counters, &day), expected);
    }
    // The count of the end is the usage, and nothing else lowers what was counted.
    let estimate =
        Some(UsageReport { ending: RequestEnding::Cut, basis: Basis::Estimate, ..NO_REPORT });
    for (usage, report, tokens) in [
        (Usage::Final(7), None, 7),
        (Usage::Final(7), Some(NO_REPORT), 50),
        (Usage::Final(7), estimate, 50),
        (Usage::Unreported(7), None, 50),
        (Usage::Released, None, 50),
    ] {
        let mut counters = counters.clone();
        let settlement = Settlement { reservation: request.clone(), usage, report };
        let end = counters.settle(&settlement, at(NOW + 2 * LIFE));
        assert_eq!((end, count(&counters, &day)), (Settled::Charged(tokens), (tokens, 0)));
        assert_eq!(counters.expired(), 0);
    }
}

#[test]
fn a_lost_report_is_charged_at_expiry_and_corrected_once() {
    for (usage, expected) in [
        (Usage::Final(1), 1),
        (Usage::Final(70), 70),
        (Usage::Unreported(0), 30),
        (Usage::Released, 2),
    ] {
        let mut counters = Counters::default();
        let day = hold("day", budget(100), 40, 30);
        let request = reservation(1, NOW, std::slice::from_ref(&day));
        counters.admit(&request, None, at(NOW));
        settle(&mut counters, &request, Usage::Running(2), NOW);
        assert_eq!(counters.advance(at(NOW + LIFE - 1), 9), 0);
        assert_eq!(counters.advance(at(NOW + LIFE), 9), 1);
        assert_eq!((count(&counters, &day), counters.expired()), ((30, 0), 1));
        let (tokens, replaced) = (expected, Some(30));
        let late = Settled::Late { tokens, replaced };
        assert_eq!(settle(&mut counters, &request, usage, NOW + LIFE), late, "{usage:?}");
        assert_eq!(count(&counters, &day), (tokens, 0), "{usage:?}");
        for again in [usage, Usage::Running(99), Usage::Final(99)] {
            let settled = settle(&mut counters, &request, again, NOW + LIFE);
            assert_eq!((settled, count(&counters, &day)), (Settled::Repeated, (tokens, 0)));
        }
    }
}

#[test]
fn an_expired_reservation_that_still_runs_is_open_again() {
    let mut counters = Counters::default();
    let holds =
        [hold("day", budget(100), 40, 30), hold("slots", Counter::Slots { limit: 2 }, 1, 1)];
    let request = reservation(1, NOW, &holds);
    counters.admit(&request, None, at(NOW));
    let late = NOW + 2 * LIFE;
    assert_eq!(settle(&mut counters, &request, Usage::Running(35), late), Settled::Reopened(30));
    assert_eq!(holds.each_ref().map(|hold| count(&counters, hold)), [(35, 5), (0, 1)]);
    let expired = |counters: &Counters| counters.expired_tokens().sums().collect::<Vec<_>>();
    assert_eq!(expired(&counters), [(request.id.model(), 30)]);
    // What was counted at its expiry was replaced by the report of its progress, and not again.
    let mut ended = counters.clone();
    let end = settle(&mut ended, &request, Usage::Final(4), late);
    assert_eq!(end, Settled::Late { tokens: 4, replaced: None });
    assert_eq!(holds.each_ref().map(|hold| count(&ended, hold)), [(4, 0), (0, 0)]);
    // It expires once more, and is counted once more.
    assert_eq!(counters.advance(at(late + LIFE), 9), 1);
    assert_eq!(expired(&counters), [(request.id.model(), 30 + 35)]);
    let end = settle(&mut counters, &request, Usage::Final(4), late + LIFE);
    assert_eq!(end, Settled::Late { tokens: 4, replaced: Some(35) });
}

#[test]
fn lost_reservations_are_counted_again() {
    let holds =
        [hold("day", budget(100), 40, 30), hold("slots", Counter::Slots { limit: 2 }, 1, 1)];
    let request = reservation(1, NOW, &holds);
    for (usage, expected, counts) in [
        (Usage::Running(3), Settled::Renewed, [(3, 37), (0, 1)]),
        (Usage::Final(9), Settled::Charged(9), [(9, 0), (0, 0)]),
        (Usage::Unreported(9), Settled::Charged(30), [(30, 0), (0, 0)]),
        (Usage::Released, Settled::Charged(0), [(0, 0), (0, 0)]),
    ] {
        let mut counters = Counters::default();
        let remembered = NOW + REMEMBERED.micros();
        let settled = settle(&mut counters, &request, usage, remembered);
        assert_eq!((settled, counters.len()), (Settled::Forgotten, 0), "{usage:?}");
        assert_eq!(settle(&mut counters, &request, usage, remembered - 1), expected);
        assert_eq!(holds.each_ref().map(|hold| count(&counters, hold)), counts, "{usage:?}");
    }
}

#[test]
fn a_long_response_is_settled_beyond_the_remembered_time() {
    let mut counters = Counters::default();
    let day = hold("day", budget(100), 40, 30);
    let request = reservation(1, NOW, std::slice::from_ref(&day));
    let late = NOW + REMEMBERED.micros();
    counters.admit(&request, None, at(NOW));
    for now in (NOW..late + LIFE).step_by(usize::try_from(LIFE / 2).unwrap()) {
        assert_eq!(settle(&mut counters, &request, Usage::Running(3), now), Settled::Renewed);
    }
    assert_eq!(settle(&mut counters, &request, Usage::Final(4), late), Settled::Charged(4));
    assert_eq!(settle(&mut counters, &request, Usage::Final(4), late), Settled::Forgotten);
}

#[test]
fn a_retried_check_holds_once() {
    let mut counters = Counters::default();
    let slot = hold("slots", Counter::Slots { limit: 1 }, 1, 1);
    let request = reservation(1, NOW, std::slice::from_ref(&slot));
    for now in [NOW, NOW + 1, NOW + LIFE - 1] {
        assert!(counters.admit(&request, None, at(now))[0].admitted);
        assert_eq!(count(&counters, &slot), (0, 1));
    }
    assert_eq!(counters.advance(at(NOW + 2 * LIFE - 2), 9), 0, "renewed by the last one");
    assert_eq!(settle(&mut counters, &request, Usage::Final(1), NOW + LIFE), Settled::Charged(1));
    assert_eq!(count(&counters, &slot), (0, 0));
}

#[test]
fn few_settled_reservations_are_remembered() {
    let mut counters = Counters::default();
    let day = hold("day", budget(1000), 1, 1);
    let requests =
        [1, 2, 3].map(|id| reservation(id, NOW + u64::from(id), std::slice::from_ref(&day)));
    for request in &requests {
        counters.admit(request, None, at(NOW));
        settle(&mut counters, request, Usage::Final(1), NOW);
        counters.forget_beyond(2);
    }
    let again = requests.each_ref().map(|r| settle(&mut counters, r, Usage::Final(1), NOW));
    assert_eq!(again, [Settled::Forgotten, Settled::Repeated, Settled::Repeated]);
    assert_eq!(count(&counters, &day), (3, 0));
}

#[test]
fn entries_are_counted_by_their_owner() {
    let mut counters = Counters::default();
    let shared = Hold { by_principal: false, ..hold("model", budget(100), 1, 1) };
    let own = hold("day", budget(100), 1, 1);
    let request = reservation(1, NOW, &[shared, own]);
    assert_eq!(counters.new_entries(&request), 3);
    let group = |n| Some(Group { outer: n, inner: n + 1 });
    let client = Client { principal: Some(7), holder: group(1), network: group(3) };
    counters.admit(&request, Some(client), at(NOW));
    assert_eq!(counters.new_entries(&request), 0);
    let stored = |counters: &Counters| (counters.stored_by(7), counters.room(false).len());
    assert_eq!(stored(&counters), (2, 1));
    assert_eq!(counters.room(true).len(), 2);
    settle(&mut counters, &request, Usage::Running(1), NOW + 1);
    assert_eq!(stored(&counters), (2, 1));
    settle(&mut counters, &request, Usage::Final(1), NOW + 1);
    assert_eq!(stored(&counters), (1, 1));
    counters.advance(at(NOW + 30 * 3600 * SECOND), 9);
    assert_eq!((stored(&counters), counters.len()), ((0, 0), 0));
    assert!(counters.room(true).is_empty());
}

/// One step of a history.
#[derive(Clone, Debug)]
enum Step {
    Admit { id: u8, amount: u64 },
    Report { id: u8, usage: Usage },
    Wait(u64),
}

fn usage() -> impl Strategy<Value = Usage> {
    prop_oneof![
        (0u64..40).prop_map(Usage::Running),
        (0u64..40).prop_map(Usage::Final),
        (0u64..40).prop_map(Usage::Unreported),
        Just(Usage::Released),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u8..12, 1u64..40).prop_map(|(id, amount)| Step::Admit { id, amount }),
        (0u8..12, usage()).prop_map(|(id, usage)| Step::Report { id, usage }),
        prop_oneof![0u64..SECOND, Just(LIFE / 2), Just(LIFE)].prop_map(Step::Wait),
    ]
}

/// What is known of one reservation, written down without the counters.
#[derive(Clone, Copy, Debug)]
struct Known {
    amount: u64,
    used: u64,
    expires: u64,
    /// The charge at the expiry, and the final charge.
    lapsed: bool,
    charged: Option<u64>,
    open: bool,
    /// The tokens of all expiries, and those that reports replaced.
    expired: u64,
    replaced: u64,
}

proptest! {
    /// In hard mode (usage stays within the hold, and a lost report charges all of it) what is
    /// spent and held is within the limit at every moment, each reservation is charged once, and
    /// a request is denied exactly if there is no room.
    #[test]
    fn hard_budgets_are_exact(steps in proptest::collection::vec(step(), 1..150), limit in 20u64..150) {
        let ends = at(NOW + 365 * 86_400 * SECOND);
        let counter = Counter::Budget { limit, ends };
        let (mut counters, mut known, mut now) = (Counters::default(), BTreeMap::<u8, Known>::new(), NOW);
        let mut expired = 0;
        for step in steps {
            match step {
                Step::Wait(micros) => now += micros,
                Step::Admit { id, amount } => {
                    expired += expire(&mut known, now);
                    let (spent, held) = sums(&known);
                    // An id is not used again after its end.
                    if known.get(&id).is_some_and(|known| !known.open) {
                        continue;
                    }
                    // A retry has the holds of the first attempt.
                    let amount = known.get(&id).map_or(amount, |known| known.amount);
                    let request = reservation(id, NOW, &[hold("day", counter, amount, amount)]);
                    let admitted = counters.admit(&request, None, at(now))[0].admitted;
                    match known.get_mut(&id) {
                        Some(retried) => {
                            prop_assert!(admitted);
                            retried.expires = now + LIFE;
                        }
                        None => {
                            prop_assert_eq!(admitted, spent + held + amount <= limit);
                            if admitted {
                                let new = Known { amount, used: 0, expires: now + LIFE, lapsed: false, charged: None, open: true, expired: 0, replaced: 0 };
                                known.insert(id, new);
                            }
                        }
                    }
                }
                Step::Report { id, usage } => {
                    expired += expire(&mut known, now);
                    let Some(one) = known.get_mut(&id) else { continue };
                    let usage = match usage {
                        Usage::Running(tokens) => Usage::Running(tokens.min(one.amount)),
                        Usage::Final(tokens) => Usage::Final(tokens.min(one.amount)),
                        Usage::Unreported(tokens) => Usage::Unreported(tokens.min(one.amount)),
                        Usage::Released => Usage::Released,
                    };
                    let request = reservation(id, NOW, &[hold("day", counter, one.amount, one.amount)]);
                    let settled = settle(&mut counters, &request, usage, now);
                    if one.charged.is_some() {
                        prop_assert_eq!(settled, Settled::Repeated);
                        continue;
                    }
                    let replaced = (!one.open).then_some(one.amount);
                    one.replaced += replaced.unwrap_or(0);
                    let end = match usage {
                        Usage::Running(tokens) => {
                            one.used = one.used.max(tokens);
                            (one.open, one.expires) = (true, now + LIFE);
                            prop_assert_eq!(settled, replaced.map_or(Settled::Renewed, Settled::Reopened));
                            continue;
                        }
                        Usage::Final(tokens) => tokens,
                        Usage::Unreported(_) => one.amount,
                        Usage::Released => one.used,
                    };
                    let expected = match one.lapsed {
                        true => Settled::Late { tokens: end, replaced },
                        false => Settled::Charged(end),
                    };
                    prop_assert_eq!(settled, expected);
                    (one.charged, one.open) = (Some(end), false);
                }
            }
            expired += expire(&mut known, now);
            counters.advance(at(now), usize::MAX);
            let (spent, held) = sums(&known);
            prop_assert_eq!(count(&counters, &hold("day", counter, 1, 1)), (spent, held));
            prop_assert!(spent + held <= limit);
            prop_assert_eq!(counters.expired(), expired);
            // Each expiry counts, and what is replaced of it is no more than that.
            let lapsed = known.values().map(|one| one.expired).sum::<u64>();
            let tokens = counters.expired_tokens().sums().map(|(_, tokens)| tokens).sum::<u64>();
            prop_assert_eq!(tokens, lapsed);
            prop_assert!(known.values().all(|one| one.replaced <= one.expired));
            prop_assert_eq!(counters.open(), known.values().filter(|one| one.open).count());
        }
    }
}

/// One step of a history of a limit that holds estimates.
#[derive(Clone, Debug)]
enum SoftStep {
    /// A request with an estimate and a bound.
    Admit {
        estimate: u64,
        more: u64,
    },
    /// A report on one of the last requests, with a part of its bound in percent.
    Report {
        back: usize,
        percent: u64,
        end: u8,
    },
    Wait(u64),
}

fn soft_step() -> impl Strategy<Value = SoftStep> {
    prop_oneof![
        4 => (1u64..30, 0u64..60).prop_map(|(estimate, more)| SoftStep::Admit { estimate, more }),
        3 => (0usize..6, 0u64..=100, 0u8..4)
            .prop_map(|(back, percent, end)| SoftStep::Report { back, percent, end }),
        1 => prop_oneof![0u64..SECOND, Just(LIFE / 2), Just(LIFE)].prop_map(SoftStep::Wait),
    ]
}

proptest! {
    /// Requests hold an estimate of a budget, and their bound of a counter that is larger by the
    /// debt. Whatever they use within their bounds, with lost, late and repeated reports, the budget
    /// is never exceeded by more than the debt.
    #[test]
    fn soft_budgets_are_exceeded_by_their_debt_at_most(
        steps in proptest::collection::vec(soft_step(), 1..150),
        limit in 20u64..150,
        debt in 0u64..150,
    ) {
        let ends = at(NOW + 365 * 86_400 * SECOND);
        let (own, with_debt) = (
            Counter::Budget { limit, ends },
            Counter::Budget { limit: limit + debt, ends },
        );
        let (mut counters, mut now, mut admitted) = (Counters::default(), NOW, Vec::new());
        let mut count_of = 0;
        for step in steps {
            match step {
                SoftStep::Wait(micros) => now += micros,
                SoftStep::Admit { estimate, more } => {
                    let prompt = estimate / 2;
                    let request = reservation(count_of, now, &[
                        hold("day", own, estimate, prompt),
                        hold("day:debt", with_debt, estimate + more, estimate + more),
                    ]);
                    count_of += 1;
                    if counters.admit(&request, None, at(now)).iter().all(|one| one.admitted) {
                        admitted.push(request);
                    }
                }
                SoftStep::Report { back, percent, end } => {
                    let Some(request) = admitted.iter().rev().nth(back).cloned() else { continue };
                    let tokens = request.holds[1].amount * percent / 100;
                    let usage = match end {
                        0 => Usage::Running(tokens),
                        1 => Usage::Final(tokens),
                        2 => Usage::Unreported(tokens),
                        _ => Usage::Released,
                    };
                    settle(&mut counters, &request, usage, now);
                }
            }
            counters.advance(at(now), usize::MAX);
            let (spent, _) = count(&counters, &hold("day", own, 1, 0));
            let (all, held) = count(&counters, &hold("day:debt", with_debt, 1, 0));
            prop_assert!(spent <= all);
            prop_assert!(all + held <= limit + debt);
        }
    }
}

fn expire(known: &mut BTreeMap<u8, Known>, now: u64) -> u64 {
    let due = known.values_mut().filter(|one| one.open && one.expires <= now);
    due.map(|one| {
        (one.open, one.lapsed) = (false, true);
        one.expired += one.amount;
    })
    .count() as u64
}

/// What all reservations spend and hold.
fn sums(known: &BTreeMap<u8, Known>) -> (u64, u64) {
    let share = |one: &Known| match one.charged {
        Some(charged) => (charged, 0),
        None if one.lapsed => (one.amount, 0),
        None => (one.used, one.amount - one.used),
    };
    known.values().map(share).fold((0, 0), |(spent, held), (s, h)| (spent + s, held + h))
}

#[test]
fn a_reservation_that_is_sent_again_has_the_verdicts_of_the_first_time() {
    let mut counters = Counters::default();
    let enforced = hold("day", budget(100), 40, 40);
    let full = Hold { is_shadow: true, ..hold("none", budget(10), 40, 40) };
    let roomy = Hold { is_shadow: true, ..hold("room", budget(50), 40, 40) };
    let one = reservation(1, NOW, &[enforced.clone(), full.clone(), roomy.clone()]);
    let admitted = |verdicts: &[Verdict]| verdicts.iter().map(|v| v.admitted).collect::<Vec<_>>();
    for _ in 0..2 {
        assert_eq!(admitted(&counters.admit(&one, None, at(NOW))), [true, false, true]);
        assert_eq!(count(&counters, &enforced), (0, 40));
        assert_eq!(count(&counters, &full), (0, 0));
        assert_eq!(count(&counters, &roomy), (0, 40));
    }
    // Room that appears later is not for a request that was decided before.
    let larger = Hold { counter: budget(1000), ..full };
    let again = reservation(1, NOW, &[enforced, larger, roomy]);
    assert_eq!(admitted(&counters.try_hold(&again, at(NOW))), [true, false, true]);
}
