//! Whatever is reported of a request, and in which order: what its reporter is answered, what its
//! budgets are charged, what is counted, and what its records state are the same.

use std::sync::Arc;

use tollgate::{
    observe::{Observer, audit::Audit, exposition::Status},
    store::Store as _,
};
use tollgate_core::{
    admission::{Settled, Settlement, Usage},
    config::{Document, Errors},
    ledger::entry::UsageRecord,
    limit::{
        Counter, Hold,
        cost::{CostTerms, Price},
        reservation::Reservation,
        settled_cost::SettledCost,
        usage_report::{Basis, RequestEnding, UsageCounts, UsageReport},
    },
    policy::{Policy, PolicyConfig},
};

use super::{
    super::redis_server::{self, Server},
    rig::{Ledger, now, request},
};

/// 2.5 micro-units for a token of the input, ten for one of the output.
const PRICE: Price = Price {
    input: 2_500_000,
    cached_input: 2_500_000,
    output: 10_000_000,
    request: 0,
    image: 0,
    second: 0,
};

/// 630 tokens of input and 100 of output, and what they cost.
const HELD: (u64, u64) = (730, 2575);

/// What the limits of a route count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Both,
    Cost,
    Slots,
    /// 500 tokens are charged at admission.
    Fixed,
    /// The prices of the model are 0, and the limit counts cost.
    Free,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Report(Usage, Option<UsageReport>),
    Expire,
}

const fn running(tokens: u64) -> Step {
    Step::Report(Usage::Running(tokens), None)
}

const fn ended(usage: Usage, ending: RequestEnding, basis: Basis) -> Step {
    Step::Report(usage, Some(UsageReport { ending, basis, counts: UsageCounts::NONE }))
}

/// Ten tokens of input, and five of output.
const COMPLETE: Step = Step::Report(
    Usage::Final(15),
    Some(UsageReport {
        ending: RequestEnding::Complete,
        basis: Basis::Reported,
        counts: UsageCounts { input: Some(10), output: Some(5), ..UsageCounts::NONE },
    }),
);
const NOT_SENT: Step = Step::Report(Usage::Released, None);
const REJECTED: Step = ended(Usage::Released, RequestEnding::Rejected, Basis::Unused);
const CUT: Step = ended(Usage::Unreported(0), RequestEnding::Cut, Basis::Hold);
const EXPIRE: Step = Step::Expire;

/// The tokens and the cost of a request on routes with limits on both, on cost, and on requests at a
/// time.
type Expected = [(u64, u64); 3];

const NOTHING: Expected = [(0, 0); 3];
const REPORTED: Expected = [(15, 75); 3];
const WITHOUT_REPORT: Expected = [HELD, (0, HELD.1), (0, 0)];
/// 470 tokens beyond the hold, each at the dearer price.
const RAN_1200: Expected = [(1200, 7275), (1200, 7275), (1200, 12_000)];
const RAN_3000: Expected = [(3000, 25_275), (3000, 25_275), (3000, 30_000)];

const ROWS: [(&str, &[Step], Expected); 18] = [
    ("complete", &[COMPLETE], REPORTED),
    ("not sent", &[NOT_SENT], NOTHING),
    ("rejected", &[REJECTED], NOTHING),
    ("cut", &[CUT], WITHOUT_REPORT),
    ("expired", &[EXPIRE], WITHOUT_REPORT),
    ("late", &[EXPIRE, COMPLETE], REPORTED),
    ("late, not sent", &[EXPIRE, NOT_SENT], NOTHING),
    ("late, rejected", &[EXPIRE, REJECTED], NOTHING),
    ("late, cut", &[EXPIRE, CUT], WITHOUT_REPORT),
    ("running, less at its end", &[running(1200), COMPLETE], REPORTED),
    ("running, not sent", &[running(1200), NOT_SENT], RAN_1200),
    ("running, rejected", &[running(1200), REJECTED], RAN_1200),
    ("running, cut", &[running(1200), CUT], RAN_1200),
    ("running, expired", &[running(1200), EXPIRE], RAN_1200),
    ("running, late", &[running(3000), EXPIRE, COMPLETE], REPORTED),
    ("expired, running", &[EXPIRE, running(1200), COMPLETE], REPORTED),
    ("expired twice", &[EXPIRE, running(3000), EXPIRE], RAN_3000),
    ("expired twice, late", &[EXPIRE, running(3000), EXPIRE, COMPLETE], REPORTED),
];

impl Route {
    fn request(self, decision: &str) -> Reservation {
        let mut one = request(decision, decision, HELD.0);
        let tokens = one.holds[0].clone();
        let Counter::Budget { limit, ends } = tokens.counter else { unreachable!() };
        let money =
            Hold { limit: "money".into(), amount: HELD.1, unreported: HELD.1, ..tokens.clone() };
        let cost = Hold { counter: Counter::Cost { limit, ends }, ..money.clone() };
        let at_once = |hold: &Hold, amount| {
            let counter = Counter::Requests { limit, ends };
            Hold { counter, amount, unreported: 0, ..hold.clone() }
        };
        let slots = Hold {
            limit: "slots".into(),
            counter: Counter::Slots { limit: 9 },
            amount: 1,
            unreported: 0,
            ..tokens.clone()
        };
        let (fixed, of_fixed) = (at_once(&tokens, 500), at_once(&money, 5000));
        one.holds = match self {
            Self::Both => vec![tokens, cost],
            Self::Cost => vec![cost],
            Self::Slots => vec![slots],
            Self::Fixed => vec![fixed, of_fixed],
            Self::Free => Vec::new(),
        };
        let (tokens, unreported) = HELD;
        let terms =
            CostTerms { price: PRICE, tokens, most: tokens, unreported, ..CostTerms::default() };
        let facts = one.facts.as_mut().unwrap();
        facts.cost = Some(match self {
            Self::Both | Self::Cost => terms,
            Self::Slots => CostTerms { tokens: 0, most: 0, unreported: 0, ..terms },
            Self::Fixed => {
                CostTerms { tokens: 500, most: 500, unreported: 5000, fixed: Some(5000), ..terms }
            }
            Self::Free => CostTerms::default(),
        });
        facts.fixed = (self == Self::Fixed).then_some(500);
        one
    }

    fn expected(self, [both, cost, slots]: Expected) -> (u64, u64) {
        match self {
            Self::Both => both,
            Self::Cost => cost,
            Self::Slots => slots,
            Self::Fixed => (500, 5000),
            Self::Free => (slots.0, 0),
        }
    }
}

/// What a counter of a request has: spent, and held.
fn count(server: &Server, one: &Reservation, limit: &str) -> Option<(u64, u64)> {
    let hold = one.holds.iter().find(|hold| &*hold.limit == limit)?;
    let key = format!("{{tollgate}}:{}", hold.key());
    let text: Option<String> = redis::cmd("GET").arg(key).query(&mut server.client()).unwrap();
    let Some(text) = text else { return Some((0, 0)) };
    let (spent, held) = text.split_once(' ').unwrap();
    Some((spent.parse().unwrap(), held.parse().unwrap()))
}

/// Sets the steady time ahead, by more than the life of a reservation.
async fn expire(server: &Server, ledger: &Ledger) {
    let mut client = server.client();
    let clock: String = redis::cmd("GET").arg("{tollgate}:clock").query(&mut client).unwrap();
    let (latest, ahead) = clock.split_once(' ').unwrap();
    let latest = latest.parse::<u64>().unwrap() + 62_000_000;
    redis::cmd("SET")
        .arg("{tollgate}:clock")
        .arg(format!("{latest} {ahead}"))
        .exec(&mut client)
        .unwrap();
    ledger.expire_due().await.unwrap();
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap()
}

/// A policy whose models have prices, so that costs are counted.
const POLICY: &str = "
models: [{ name: m }]
prices: { currency: EUR, models: [{ model: m, input: 1, output: 1 }] }
routes: [{ match: { paths: [/health] }, public: true }]
";

fn policy() -> Policy {
    let document = Document::parse(POLICY, &|_| None).unwrap();
    Policy::compile(&document.read::<PolicyConfig>().unwrap(), &mut Errors::default()).unwrap()
}

/// The tokens and the cost in the metrics of a process, without what was replaced.
fn counted(ledger: &Ledger, observer: &Observer) -> (i64, i64) {
    let status = Status { store: Some(ledger.store.status()), ..Status::default() };
    let text = observer.exposition(status).unwrap();
    let sum = |family: &str| -> i64 {
        let lines =
            text.lines().filter(|line| line.starts_with(&format!("tollgate_{family}_total{{")));
        lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<i64>().unwrap()).sum()
    };
    (sum("settled_tokens") - sum("replaced_tokens"), sum("settled_cost") - sum("replaced_cost"))
}

#[tokio::test]
async fn the_answer_the_budgets_the_metrics_and_the_records_are_the_same() {
    let server = redis_server::start(&[]);
    let mut ledger = Ledger::start(&server);
    ledger.writer.round(now()).await.unwrap();
    ledger.metrics.add_policy(&policy());
    ledger.metrics.settlements().set_used();
    let observer = Observer::new(Arc::clone(&ledger.metrics), Arc::new(Audit::off()));
    for route in [Route::Both, Route::Cost, Route::Slots, Route::Fixed, Route::Free] {
        for (name, steps, expected) in ROWS {
            let what = format!("{route:?}: {name}");
            let expected = route.expected(expected);
            let signed_expected = (signed(expected.0), signed(expected.1));
            let one = route.request(&what);
            let before = counted(&ledger, &observer);
            ledger.admit(&one).await;
            for step in steps {
                let Step::Report(usage, report) = *step else {
                    expire(&server, &ledger).await;
                    continue;
                };
                let settlement = Settlement { reservation: one.clone(), usage, report };
                let settled = ledger.settle(&settlement).await;
                ledger.metrics.count_settled(&settlement, settled);
                if let Some(tokens) = settled.tokens() {
                    let cost = SettledCost::of(&settlement, settled).unwrap().cost;
                    let answer = (one.fixed_tokens().unwrap_or(tokens), cost);
                    assert_eq!(answer, expected, "{what}: answered");
                    assert_eq!(ledger.settle(&settlement).await, Settled::Repeated, "{what}");
                }
            }
            ledger.write_all().await;
            let records = ledger.records().await;
            let records: Vec<&UsageRecord> =
                records.iter().filter(|record| record.decision == what).collect();
            let now_counted = counted(&ledger, &observer);
            // Of a fixed charge those tokens are counted that its server reports.
            let tokens = if route == Route::Fixed { 0 } else { now_counted.0 - before.0 };
            let of_metrics =
                if route == Route::Fixed { (0, signed_expected.1) } else { signed_expected };
            assert_eq!((tokens, now_counted.1 - before.1), of_metrics, "{what}: counted");
            let sum =
                |of: fn(&UsageRecord) -> i64| records.iter().map(|record| of(record)).sum::<i64>();
            let recorded = (
                sum(|record| signed(record.tokens) - signed(record.corrects.unwrap_or(0))),
                sum(|record| {
                    signed(record.cost.unwrap()) - signed(record.corrects_cost.unwrap_or(0))
                }),
            );
            assert_eq!(recorded, signed_expected, "{what}: {records:#?}");
            let of_day = count(&server, &one, "day").unwrap_or((expected.0, 0));
            let of_money = count(&server, &one, "money").unwrap_or((expected.1, 0));
            assert_eq!((of_day, of_money), ((expected.0, 0), (expected.1, 0)), "{what}: budgets");
            if let Some(last) = records.last() {
                let is_unsent = matches!(steps, [.., Step::Report(Usage::Released, None)]);
                assert_eq!(last.ending == RequestEnding::NotSent, is_unsent, "{what}: {last:?}");
                let is_unused =
                    matches!(steps, [.., Step::Report(Usage::Released, _)]) && expected.0 == 0;
                assert_eq!(last.basis == Basis::Unused, is_unused, "{what}: {last:?}");
            }
        }
    }
    assert_eq!(ledger.verify().await, []);
}
