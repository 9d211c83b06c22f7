//! Reservations and reports of usage in every store, and what Redis loses.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;
use tollgate::store::{self, ACL_RULE, Memory, MemoryConfig, Redis, Store, StoreConfig};
use tollgate_core::{
    admission::{AdmitRequest, AdmitResponse, Outage, Settled, Settlement, Usage},
    limit::{
        Charge, Counter, Hold, Verdict,
        cost::{CostTerms, Price},
        lease::LeaseTerms,
        reservation::{Reservation, ReservationId},
        usage_report::{Basis, RequestEnding, UsageReport},
    },
    time::{Span, Timestamp},
};

use super::{
    redis_server::{self, section},
    requests::{charge, charging, until},
};

fn now() -> Timestamp {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Timestamp::from_micros(u64::try_from(now.as_micros()).unwrap())
}

pub(super) fn hold(limit: &str, counter: Counter, amount: u64, unreported: u64) -> Hold {
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

/// A budget whose window ends in an hour. The moment is the same in all holds of a test.
pub(super) fn budget(limit: u64) -> Counter {
    let hour = 3600;
    Counter::Budget { limit, ends: Timestamp::from_secs((now().secs() / hour + 24) * hour) }
}

/// A reservation with an id of its own.
fn reservation(life: Span, holds: &[Hold]) -> Reservation {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let next = u128::from(NEXT.fetch_add(1, Ordering::Relaxed));
    let id = ReservationId((next << 64 | next).to_be_bytes());
    Reservation {
        id,
        issued: now(),
        life,
        holds: holds.to_vec(),
        histories: None,
        shard: None,
        route: None,
        facts: None,
        cost: None,
    }
}

pub(super) fn minute(holds: &[Hold]) -> Reservation {
    reservation(Span::from_secs(60), holds)
}

async fn admit(store: &dyn Store, charges: &[Charge], held: &Reservation) -> Vec<Verdict> {
    let reservation = Some(Box::new(held.clone()));
    let request = AdmitRequest { charges: charges.to_vec(), reservation, ..Default::default() };
    match store.admit(&request).await {
        Ok(AdmitResponse::Counted(verdicts)) => verdicts,
        other => panic!("{other:?}"),
    }
}

/// Whether everything is admitted, and what is left of each.
pub(super) async fn outcome(
    store: &dyn Store,
    charges: &[Charge],
    held: &Reservation,
) -> (bool, Vec<u64>) {
    let verdicts = admit(store, charges, held).await;
    let left = verdicts.iter().map(|verdict| verdict.remaining).collect();
    (verdicts.iter().all(|verdict| verdict.admitted), left)
}

pub(super) async fn settle(store: &dyn Store, reservation: &Reservation, usage: Usage) -> Settled {
    let settlement = Settlement { reservation: reservation.clone(), usage, report: None };
    store.settle(&[settlement]).await.unwrap()[0]
}

/// What is left of a budget of 1000: a probe asks for too much, and changes nothing.
async fn left(store: &dyn Store, budget: &Hold) -> u64 {
    let probe = Hold { amount: 1001, ..budget.clone() };
    let verdicts = admit(store, &[], &minute(&[probe])).await;
    assert!(!verdicts[0].admitted);
    verdicts[0].remaining
}

/// The suite. `store` has no reservation before.
pub(super) async fn holds(store: &dyn Store) {
    everything_is_held_or_nothing(store).await;
    a_report_counts_once(store).await;
    limits_in_shadow(store).await;
    costs(store).await;
    a_cost_is_charged_at_expiry(store).await;
    many_reports_in_one_call(store).await;
    a_lost_report_is_charged_at_expiry(store).await;
    assert_eq!(store.settle(&[]).await, Ok(Vec::new()));
}

/// Of a limit in shadow without room nothing is held, whatever is reported.
async fn limits_in_shadow(store: &dyn Store) {
    let shadow = |name: &str, counter| Hold { is_shadow: true, ..hold(name, counter, 40, 40) };
    let narrow = shadow("shadow-narrow", budget(50));
    let wide = hold("shadow-wide", budget(1000), 40, 40);
    let holds = [narrow.clone(), wide.clone()];
    let [first, second] = [(); 2].map(|()| minute(&holds));
    let states = |verdicts: Vec<Verdict>| {
        verdicts.iter().map(|v| (v.admitted, v.remaining)).collect::<Vec<_>>()
    };
    assert_eq!(states(admit(store, &[], &first).await), [(true, 10), (true, 960)]);
    assert_eq!(states(admit(store, &[], &second).await), [(false, 10), (true, 920)]);
    // A retry of the check finds what it holds.
    assert_eq!(states(admit(store, &[], &second).await), [(false, 10), (true, 920)]);
    assert_eq!(settle(store, &second, Usage::Final(30)).await, Settled::Charged(30));
    assert_eq!(settle(store, &first, Usage::Final(5)).await, Settled::Charged(5));
    let third = minute(&holds);
    assert_eq!(states(admit(store, &[], &third).await), [(true, 5), (true, 925)]);
    assert_eq!(settle(store, &third, Usage::Released).await, Settled::Charged(0));
    // An enforced limit refuses, so that nothing is held.
    let never = hold("shadow-never", Counter::Slots { limit: 0 }, 1, 1);
    let refused = admit(store, &[], &minute(&[narrow.clone(), never])).await;
    assert_eq!(states(refused), [(true, 45), (false, 0)]);
    assert_eq!(
        states(admit(store, &[], &minute(std::slice::from_ref(&narrow))).await),
        [(true, 5)]
    );
    // Reports that name more than is held change nothing of it, however many there are.
    let held = minute(&[wide]);
    assert!(admit(store, &[], &held).await[0].admitted);
    let more = Reservation { holds: vec![narrow.clone(), held.holds[0].clone()], ..held };
    assert_eq!(settle(store, &more, Usage::Running(3)).await, Settled::Renewed);
    assert_eq!(settle(store, &more, Usage::Running(4)).await, Settled::Renewed);
    assert_eq!(settle(store, &more, Usage::Final(6)).await, Settled::Charged(6));
    assert_eq!(states(admit(store, &[], &minute(&[narrow])).await), [(false, 5)]);
}

/// Two micro-units for a token of the output, and 300 where no usage is reported.
fn terms() -> CostTerms {
    let price = Price {
        input: 1_000_000,
        cached_input: 500_000,
        output: 2_000_000,
        request: 0,
        ..Price::default()
    };
    CostTerms { price, tokens: 150, most: 150, unreported: 300, ..CostTerms::default() }
}

/// A budget of a cost.
fn cost_budget(limit: u64) -> Counter {
    let Counter::Budget { limit, ends } = budget(limit) else { unreachable!() };
    Counter::Cost { limit, ends }
}

/// What is held of a cost is charged in its own unit, by the terms of the reservation, beside tokens.
async fn costs(store: &dyn Store) {
    let tokens = hold("cost-tokens", budget(1000), 150, 150);
    let cost = hold("cost-money", cost_budget(1000), 300, 300);
    let priced = |holds: &[Hold]| Reservation { cost: Some(Box::new(terms())), ..minute(holds) };
    let both = [tokens.clone(), cost.clone()];
    for (usage, settled, spent) in [
        (Usage::Final(40), Settled::Charged(40), (40, 80)),
        (Usage::Unreported(40), Settled::Charged(150), (150, 300)),
        (Usage::Unreported(160), Settled::Charged(160), (160, 320)),
        (Usage::Released, Settled::Charged(0), (0, 0)),
    ] {
        let before = (left(store, &tokens).await, left(store, &cost).await);
        let request = priced(&both);
        assert_eq!(
            outcome(store, &[], &request).await,
            (true, vec![before.0 - 150, before.1 - 300]),
            "{usage:?}"
        );
        // A retry of the check holds nothing more, and a report that is repeated changes nothing.
        assert!(outcome(store, &[], &request).await.0);
        assert_eq!(settle(store, &request, Usage::Running(20)).await, Settled::Renewed);
        let settled_now = settle(store, &request, usage).await;
        let expected = if usage == Usage::Released { Settled::Charged(20) } else { settled };
        assert_eq!(settled_now, expected, "{usage:?}");
        assert_eq!(settle(store, &request, Usage::Final(90)).await, Settled::Repeated);
        let now = (left(store, &tokens).await, left(store, &cost).await);
        // Tokens that were reported while it ran stay charged, and their cost is within the hold.
        let tokens_spent = if usage == Usage::Released { 20 } else { spent.0 };
        assert_eq!((before.0 - now.0, before.1 - now.1), (tokens_spent, spent.1), "{usage:?}");
    }
    // Tokens beyond those of the hold cost the most they may while the request runs, and what its end says
    // when it has ended.
    let long = hold("cost-long", cost_budget(1000), 300, 300);
    let request = priced(std::slice::from_ref(&long));
    assert!(outcome(store, &[], &request).await.0);
    assert_eq!(settle(store, &request, Usage::Running(200)).await, Settled::Renewed);
    assert_eq!(left(store, &long).await, 600);
    assert_eq!(settle(store, &request, Usage::Final(160)).await, Settled::Charged(160));
    assert_eq!(left(store, &long).await, 680);
    // Nothing is held where one of them has no room; a limit on cost alone is settled, too.
    let large = hold("cost-money", cost_budget(1000), 999, 999);
    let verdicts = admit(store, &[], &priced(&[tokens, large])).await;
    assert_eq!(verdicts.iter().map(|v| v.admitted).collect::<Vec<_>>(), [true, false]);
    let alone = hold("cost-alone", cost_budget(1000), 300, 300);
    let request = priced(std::slice::from_ref(&alone));
    assert_eq!(outcome(store, &[], &request).await, (true, vec![700]));
    assert_eq!(settle(store, &request, Usage::Final(11)).await, Settled::Charged(11));
    assert_eq!(left(store, &alone).await, 978);
}

async fn a_cost_is_charged_at_expiry(store: &dyn Store) {
    let tokens = hold("cost-lost-tokens", budget(1000), 150, 100);
    let cost = hold("cost-lost", cost_budget(1000), 300, 200);
    let request = reservation(Span::from_millis(1), &[tokens.clone(), cost.clone()]);
    let request = Reservation { cost: Some(Box::new(terms())), ..request };
    admit(store, &[], &request).await;
    until("it expires", async || left(store, &cost).await == 800).await;
    until("its tokens expire", async || left(store, &tokens).await == 900).await;
    let late = |tokens, tokens_before| Settled::Late { tokens, replaced: Some(tokens_before) };
    assert_eq!(settle(store, &request, Usage::Final(30)).await, late(30, 100));
    assert_eq!(settle(store, &request, Usage::Final(90)).await, Settled::Repeated);
    assert_eq!((left(store, &tokens).await, left(store, &cost).await), (970, 940));
}

/// A replica of the previous version reads the text of a reservation without what is held of its
/// cost. It settles the tokens; the cost is charged as a whole when it expires.
#[tokio::test]
async fn a_replica_of_the_previous_version_leaves_a_cost_to_its_expiry() {
    let server = redis_server::start(&[]);
    let store = redis_server::open(&server.unix());
    let tokens = hold("old-tokens", budget(1000), 150, 150);
    let cost = hold("old-money", cost_budget(1000), 300, 300);
    let request = reservation(Span::from_millis(1500), &[tokens.clone(), cost.clone()]);
    let request = Reservation { cost: Some(Box::new(terms())), ..request };
    assert!(outcome(&store, &[], &request).await.0);
    let as_read = Reservation { holds: vec![tokens.clone()], cost: None, ..request.clone() };
    assert_eq!(settle(&store, &as_read, Usage::Final(40)).await, Settled::Charged(40));
    assert_eq!(left(&store, &tokens).await, 960);
    until("the cost expires", async || left(&store, &cost).await == 700).await;
    // The report that reaches a new replica later corrects the cost, and not the tokens.
    assert_eq!(settle(&store, &request, Usage::Final(40)).await, Settled::Repeated);
    assert_eq!((left(&store, &tokens).await, left(&store, &cost).await), (960, 920));
}

async fn everything_is_held_or_nothing(store: &dyn Store) {
    let holds = [
        hold("all-day", budget(100), 40, 40),
        hold("all-minute", Counter::Bucket { interval: 3_600_000_000, burst: 90 }, 40, 40),
        hold("all-slots", Counter::Slots { limit: 1 }, 1, 1),
    ];
    let rate = [charge("all-rate", 3_600_000, 5)];
    let [first, second] = [(); 2].map(|()| minute(&holds));
    assert_eq!(outcome(store, &rate, &first).await, (true, vec![4, 60, 50, 0]));
    let refused = admit(store, &rate, &second).await;
    assert_eq!(refused.iter().map(|v| v.admitted).collect::<Vec<_>>(), [true, true, true, false]);
    assert_eq!(refused.iter().map(|v| v.remaining).collect::<Vec<_>>(), [4, 60, 50, 0]);
    assert_eq!(settle(store, &first, Usage::Final(10)).await, Settled::Charged(10));
    assert_eq!(outcome(store, &rate, &second).await, (true, vec![3, 50, 40, 0]));
    // A retry of the check holds nothing more.
    assert_eq!(outcome(store, &[], &second).await, (true, vec![50, 40, 0]));
    assert_eq!(settle(store, &second, Usage::Released).await, Settled::Charged(0));
    // The rate refuses, so that nothing is held.
    let empty = [charge("all-none", 1000, 0)];
    assert!(!outcome(store, &empty, &minute(&holds)).await.0);
    assert_eq!(outcome(store, &[], &minute(&holds[2..])).await, (true, vec![0]));
}

async fn a_report_counts_once(store: &dyn Store) {
    let day = hold("once", budget(1000), 100, 100);
    let request = minute(std::slice::from_ref(&day));
    admit(store, &[], &request).await;
    for (usage, settled, rest) in [
        (Usage::Running(20), Settled::Renewed, 900),
        (Usage::Running(10), Settled::Renewed, 900),
        (Usage::Final(5), Settled::Charged(5), 995),
        (Usage::Final(90), Settled::Repeated, 995),
        (Usage::Running(90), Settled::Repeated, 995),
        (Usage::Unreported(90), Settled::Repeated, 995),
    ] {
        assert_eq!(settle(store, &request, usage).await, settled, "{usage:?}");
        assert_eq!(left(store, &day).await, rest, "{usage:?}");
    }
    // An estimate lowers nothing that was counted.
    let cut = minute(std::slice::from_ref(&day));
    admit(store, &[], &cut).await;
    assert_eq!(settle(store, &cut, Usage::Running(20)).await, Settled::Renewed);
    let basis = Basis::Estimate;
    let report = Some(UsageReport { ending: RequestEnding::Cut, basis, ..UsageReport::UNREPORTED });
    let estimated = Settlement { reservation: cut, usage: Usage::Final(5), report };
    assert_eq!(store.settle(&[estimated]).await, Ok(vec![Settled::Charged(20)]));
    assert_eq!(left(store, &day).await, 975);
    let old = Reservation { issued: Timestamp::from_secs(now().secs() - 25 * 3600), ..request };
    let old = Reservation { id: ReservationId([7; 16]), ..old };
    assert_eq!(settle(store, &old, Usage::Final(5)).await, Settled::Forgotten);
    // An absurd report spends the budget, and nothing overflows.
    let absurd = minute(std::slice::from_ref(&day));
    admit(store, &[], &absurd).await;
    let most = (1 << 53) - 1;
    assert_eq!(settle(store, &absurd, Usage::Final(u64::MAX)).await, Settled::Charged(most));
    assert_eq!(left(store, &day).await, 0);
}

async fn many_reports_in_one_call(store: &dyn Store) {
    let day = hold("many", budget(1000), 1, 1);
    let requests: Vec<_> = (0..150).map(|_| minute(std::slice::from_ref(&day))).collect();
    for request in &requests {
        admit(store, &[], request).await;
    }
    let reports: Vec<Settlement> = requests
        .iter()
        .chain(&requests[..10])
        .map(|reservation| Settlement {
            reservation: reservation.clone(),
            usage: Usage::Final(2),
            report: None,
        })
        .collect();
    let settled = store.settle(&reports).await.unwrap();
    assert_eq!(settled[..150], [Settled::Charged(2); 150]);
    assert_eq!(settled[150..], [Settled::Repeated; 10]);
    assert_eq!(left(store, &day).await, 700);
}

async fn a_lost_report_is_charged_at_expiry(store: &dyn Store) {
    let before = store.status().reservations.expired;
    let day = hold("lost", budget(1000), 100, 70);
    let request = reservation(Span::from_millis(1), std::slice::from_ref(&day));
    admit(store, &[], &request).await;
    until("it expires", async || left(store, &day).await == 930).await;
    until("it is counted", async || store.status().reservations.expired == before + 1).await;
    // Under the tag of its model.
    let expired = store.status().reservations.expired_tokens;
    assert!(expired.sums().any(|sum| sum == (request.id.model(), 70)), "{expired:?}");
    let late = Settled::Late { tokens: 80, replaced: Some(70) };
    assert_eq!(settle(store, &request, Usage::Final(80)).await, late);
    assert_eq!(settle(store, &request, Usage::Final(90)).await, Settled::Repeated);
    assert_eq!(left(store, &day).await, 920);
}

#[tokio::test]
async fn memory() {
    holds(&Memory::new(&MemoryConfig::default())).await;
}

#[tokio::test]
async fn redis_with_the_documented_permissions() {
    let user = format!("--user tollgate on >s3cret {ACL_RULE}");
    let server = redis_server::start(&user.split_whitespace().collect::<Vec<_>>());
    let url = format!("redis://tollgate:s3cret@127.0.0.1:{}", server.port());
    let store = Redis::open(&section(&url), CancellationToken::new()).unwrap();
    holds(&store).await;
    // Each set of settled reservations is removed after the time for which they are remembered.
    let mut client = server.client();
    let sets: Vec<String> = redis::cmd("KEYS").arg("*:settled:*").query(&mut client).unwrap();
    assert!(!sets.is_empty());
    for set in sets {
        let left: i64 = redis::cmd("PTTL").arg(&set).query(&mut client).unwrap();
        assert!((25 * 3_600_000..=26 * 3_600_000).contains(&left), "{set}: {left} ms");
    }
}

#[tokio::test]
async fn a_leased_rate_beside_a_hold_is_charged() {
    let server = redis_server::start(&[]);
    let store = redis_server::open(&server.unix());
    let terms = LeaseTerms { slice: 4, life: 60_000_000 };
    let leased = [Charge { lease: Some(terms), ..charge("leased", 3_600_000, 100) }];
    let day = hold("leased-day", budget(1000), 10, 10);
    for held in 1..=5 {
        let verdicts = admit(&store, &leased, &minute(std::slice::from_ref(&day))).await;
        assert!(verdicts.iter().all(|verdict| verdict.admitted));
        assert_eq!((verdicts.len(), verdicts[1].remaining), (2, 1000 - 10 * held));
    }
}

/// The reservations of a process that was killed are charged by the others.
#[tokio::test]
async fn another_process_charges_what_expired() {
    let server = redis_server::start(&[]);
    let slots = hold("slots", Counter::Slots { limit: 2 }, 1, 1);
    let killed = redis_server::open(&server.unix());
    for _ in 0..2 {
        let short = reservation(Span::from_millis(1), std::slice::from_ref(&slots));
        assert!(admit(&killed, &[], &short).await[0].admitted);
    }
    // The second check may have found the first reservation expired.
    let before = killed.status().reservations.expired;
    drop(killed);
    let config = StoreConfig::Redis(Box::new(section(&server.unix())));
    let other = store::open(&config, CancellationToken::new()).unwrap().store;
    let request = minute(std::slice::from_ref(&slots));
    until("a slot is free", async || admit(&*other, &[], &request).await[0].admitted).await;
    until("both are counted", async || other.status().reservations.expired + before == 2).await;
    until("one is open", async || other.status().reservations.open == Some(1)).await;
}

/// Concurrent checks and reports at two replicas: the limit is neither exceeded nor left unused,
/// and one report of several counts.
#[tokio::test]
async fn concurrent_checks_and_reports_are_exact() {
    let server = redis_server::start(&[]);
    let replicas = [(); 2].map(|()| redis_server::open(&server.unix()));
    let holds =
        [hold("day", budget(1000), 10, 10), hold("slots", Counter::Slots { limit: 70 }, 1, 1)];
    let requests: Vec<_> = (0..150).map(|_| minute(&holds)).collect();
    let checks = requests.iter().enumerate().map(|(n, one)| admit(&replicas[n % 2], &[], one));
    let verdicts = join_all(checks).await;
    let is_admitted = |verdicts: &Vec<Verdict>| verdicts.iter().all(|verdict| verdict.admitted);
    let admitted: Vec<&Reservation> = requests
        .iter()
        .zip(&verdicts)
        .filter(|(_, v)| is_admitted(v))
        .map(|(one, _)| one)
        .collect();
    assert_eq!(admitted.len(), 70);
    // Each report is sent three times, to both replicas, and each claims another usage.
    let reports = admitted.iter().flat_map(|one| {
        [4, 5, 6].map(|tokens| {
            let replica = &replicas[usize::try_from(tokens % 2).unwrap()];
            async move { settle(replica, one, Usage::Final(tokens)).await }
        })
    });
    let settled = join_all(reports).await;
    let charged = settled.iter().filter_map(|settled| match settled {
        Settled::Charged(tokens) => Some(*tokens),
        other => {
            assert_eq!(*other, Settled::Repeated);
            None
        }
    });
    let charged: Vec<u64> = charged.collect();
    assert_eq!(charged.len(), 70);
    assert_eq!(left(&replicas[0], &holds[0]).await, 1000 - charged.iter().sum::<u64>());
    assert_eq!(outcome(&replicas[0], &[], &minute(&holds[1..])).await, (true, vec![69]));
}

/// A failover loses the last writes. Heartbeats hold again what was held, and final reports are
/// charged; a report that was charged and lost is not.
#[tokio::test]
async fn reports_restore_what_a_failover_loses() {
    let mut server = redis_server::start(&[]);
    let store = redis_server::open(&server.unix());
    let day = hold("day", budget(1000), 10, 10);
    let requests: Vec<_> = (0..40).map(|_| minute(std::slice::from_ref(&day))).collect();
    for request in &requests[..20] {
        admit(&store, &[], request).await;
    }
    redis::cmd("SAVE").exec(&mut server.client()).unwrap();
    // These writes are lost: 20 holds, and the charges of 5 reports.
    for request in &requests[20..] {
        admit(&store, &[], request).await;
    }
    for request in requests[..5].iter().chain(&requests[20..25]) {
        assert_eq!(settle(&store, request, Usage::Final(4)).await, Settled::Charged(4));
    }
    assert_eq!(left(&store, &day).await, 1000 - 30 * 10 - 10 * 4);
    server.kill();
    server.restart();
    let probe = charging(&[charge("probe", 1000, 0)]);
    until("it answers again", async || store.admit(&probe).await.is_ok()).await;
    assert_eq!(left(&store, &day).await, 1000 - 20 * 10, "as it was when it was saved");
    // The requests that still run are reported again.
    for request in requests[5..20].iter().chain(&requests[25..]) {
        assert_eq!(settle(&store, request, Usage::Running(3)).await, Settled::Renewed);
    }
    // What is left unknown: 5 reports of holds that were lost with them, 4 tokens each. The holds
    // of the 5 others are there, and expire.
    assert_eq!(left(&store, &day).await, 1000 - 35 * 10);
    for request in requests[5..20].iter().chain(&requests[25..]) {
        assert_eq!(settle(&store, request, Usage::Final(6)).await, Settled::Charged(6));
    }
    assert_eq!(left(&store, &day).await, 1000 - 30 * 6 - 5 * 10);
}

#[tokio::test]
async fn data_of_a_newer_format_are_refused() {
    let server = redis_server::start(&[]);
    let store = redis_server::open(&server.unix());
    let request = minute(&[hold("day", budget(1000), 10, 10)]);
    admit(&store, &[], &request).await;
    redis::cmd("SET").arg("{tollgate}:format").arg("2").exec(&mut server.client()).unwrap();
    let report = [Settlement { reservation: request, usage: Usage::Final(1), report: None }];
    assert_eq!(store.settle(&report).await, Err(Outage::Refused));
}

/// A counter that is not readable denies, and stops no other report.
#[tokio::test]
async fn a_malformed_counter_denies() {
    let server = redis_server::start(&[]);
    let store = redis_server::open(&server.unix());
    let [bad, good] = ["bad", "good"].map(|name| hold(name, budget(1000), 10, 10));
    let key = format!("{{tollgate}}:{}", bad.key());
    redis::cmd("SET").arg(&key).arg("1 x").exec(&mut server.client()).unwrap();
    let both = minute(&[bad, good.clone()]);
    let request =
        AdmitRequest { reservation: Some(Box::new(both.clone())), ..AdmitRequest::default() };
    assert_eq!(store.admit(&request).await, Err(Outage::Refused));
    assert_eq!(left(&store, &good).await, 1000);
    assert_eq!(settle(&store, &both, Usage::Final(5)).await, Settled::Charged(5));
    assert_eq!(left(&store, &good).await, 995);
    let text: String = redis::cmd("GET").arg(&key).query(&mut server.client()).unwrap();
    assert_eq!(text, "1 x");
}
