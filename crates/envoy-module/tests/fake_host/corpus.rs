//! The decision corpus through the hooks: every row of `tests/cases` as Envoy would send it, its body
//! in random frames, with a store that answers at once and one that answers later.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tollgate::{
    engine::{
        check::{CheckBounds, Checker},
        live::Live,
    },
    observe::{
        Observer,
        audit::Audit,
        metrics::{Metrics, ObserveConfig},
    },
    policy_test::{
        self, Body, Case, CaseFile, Expectation, Ledger, Observed, Verdict, compare, reason_of,
    },
};
use tollgate_core::{limit::usage_history::ObservedUsage, route::OnOutage, snapshot::Snapshot};
use tollgate_envoy::shell::Shell;

use crate::{
    envoy::{Change, Config, Outcome, Running, Sent},
    stored::{Moment, Stored},
};

const MAX_BODY: usize = 16 << 20;

/// The variable with a number: of the rows every so many are sent.
pub(crate) const STEP: &str = "CORPUS_STEP";

fn files() -> Vec<(String, CaseFile)> {
    files_with(|_| true)
}

/// The case files whose name is wanted. To read one makes its keys.
pub(crate) fn files_with(is_wanted: impl Fn(&str) -> bool) -> Vec<(String, CaseFile)> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/cases");
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let file = |path: PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let file = CaseFile::parse(&std::fs::read_to_string(&path).unwrap());
        (name.clone(), file.unwrap_or_else(|errors| panic!("{name}: {errors:?}")))
    };
    let named = |path: &PathBuf| is_wanted(&path.file_name().unwrap().to_string_lossy());
    paths.into_iter().filter(named).map(file).collect()
}

/// Why Envoy cannot send a row to the module, and where the row is tested instead.
fn cannot_be_sent(case: &Case, snapshot: &Snapshot) -> Option<&'static str> {
    let outcome = case.decide(snapshot);
    let on_outage = outcome.evidence.route.as_ref().map(|route| route.on_outage);
    if case.outage.is_some() && on_outage == Some(OnOutage::Local) {
        return Some("the local count is the store's own: tests/store/local_fallback.rs");
    }
    if case.request.joined {
        return Some("the module gets repeated headers as they came");
    }
    if matches!(case.request.body, Body::Cut) {
        return Some("the module has the whole body, or answers 413 itself: embedded.rs");
    }
    if !case.request.certificate.is_empty() {
        return Some("Envoy's interface for modules has no certificate of the client");
    }
    if case.request.headers.iter().any(|(name, _)| name == "x-envoy-auth-partial-body") {
        return Some("only the filter that calls a sidecar reports by this header");
    }
    None
}

/// A request as Envoy has it, with its body in random frames.
pub(crate) fn sent(request: &policy_test::Request, random: &mut StdRng) -> Sent {
    let mut headers: Vec<(Vec<u8>, Vec<u8>)> = [
        (":method", &request.method),
        (":authority", &request.host),
        (":path", &request.path),
        // The client's own, which decides nothing.
        (":scheme", &"https".to_owned()),
        ("x-forwarded-proto", &request.scheme),
    ]
    .map(|(name, value)| (name.into(), value.clone().into_bytes()))
    .into();
    let own = request.headers.iter().map(|(name, value)| (name.to_lowercase(), value));
    // Envoy overwrites the client's, and a header of the row may be a pseudo header already.
    let own = own.filter(|(name, _)| name != "x-forwarded-proto");
    headers.extend(own.map(|(name, value)| (name.into_bytes(), value.clone())));
    let mut frames = Vec::new();
    if let Body::Whole(bytes) = &request.body {
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let most = if random.random_bool(0.5) { 8 } else { rest.len() };
            let (frame, after) = rest.split_at(random.random_range(1..=most.min(rest.len())));
            frames.push(frame.to_vec());
            rest = after;
        }
        if frames.is_empty() || random.random_bool(0.2) {
            frames.push(Vec::new());
        }
    }
    let has_trailers = !frames.is_empty() && random.random_bool(0.2);
    Sent { headers, frames, has_trailers, address: request.address }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn with_fixed_id((name, value): (&[u8], &[u8])) -> (String, String) {
    let name = text(name);
    let value =
        if name == "x-tollgate-decision-id" { "decision-1".to_owned() } else { text(value) };
    (name, value)
}

fn pairs(changes: &[Change]) -> Vec<(String, String)> {
    let set = changes.iter().filter_map(|change| match change {
        Change::Set(name, value) => Some(with_fixed_id((name, value))),
        Change::Removed(_) => None,
    });
    set.collect()
}

/// The answer as Envoy carries it out. A check that fails is a denial here.
fn observed(outcome: &Outcome, fails: bool) -> Observed {
    let removed = outcome.request.iter().filter_map(|change| match change {
        Change::Removed(name) => Some(text(name)),
        Change::Set(..) => None,
    });
    let removed: Vec<String> = removed.collect();
    let Some(reply) = &outcome.reply else {
        let set = pairs(&outcome.request);
        let both: Vec<_> = set.iter().filter(|(name, _)| removed.contains(name)).collect();
        assert!(both.is_empty(), "set and removed: {both:?}");
        return Observed {
            decision: Verdict::Allow,
            status: None,
            reason: None,
            body: None,
            set,
            removed,
            response: pairs(&outcome.response),
            internal: None,
        };
    };
    let body: Option<serde_json::Value> = serde_json::from_slice(&reply.body).ok();
    let status = u16::try_from(reply.status).unwrap();
    assert!(!fails || status == 503, "a failed check is answered with 503");
    Observed {
        decision: if fails { Verdict::Fail } else { Verdict::Deny },
        status: (!fails).then_some(status),
        reason: body.as_ref().and_then(reason_of).map(str::to_owned),
        body: body.filter(|_| !fails),
        set: Vec::new(),
        removed: Vec::new(),
        response: reply.headers.iter().map(|(name, value)| with_fixed_id((name, value))).collect(),
        internal: None,
    }
}

/// The expectation of a row: a header that was not sent needs no removal.
fn expected(case: &Case, expect: &Expectation) -> Expectation {
    let mut expect = expect.clone();
    expect.removed.retain(|name| {
        case.request.headers.iter().any(|(sent, _)| sent.eq_ignore_ascii_case(name))
    });
    expect
}

#[test]
fn every_row_has_its_result_with_a_store_that_answers_at_once() {
    every_row_has_its_result(false, 1);
}

#[test]
fn every_row_has_its_result_with_a_store_that_answers_later() {
    every_row_has_its_result(true, 2);
}

fn every_row_has_its_result(is_late: bool, seed: u64) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut random = StdRng::seed_from_u64(seed);
    let step = std::env::var(STEP).map_or(1, |step| step.parse().unwrap());
    let (mut failures, mut checked, mut elsewhere) = (Vec::new(), 0, BTreeMap::new());
    let mut number = 0;
    for (name, file) in files() {
        let snapshot = file.snapshot().unwrap();
        for case in file.cases(None).unwrap() {
            let Some(expect) = &case.expect else { continue };
            number += 1;
            if number % step != 0 {
                continue;
            }
            let place = format!("{name}:{}: {}", case.line.unwrap_or(0), case.name);
            if let Some(why) = cannot_be_sent(&case, &snapshot) {
                *elsewhere.entry(why).or_insert(0) += 1;
                continue;
            }
            let moment = Arc::<Moment>::default();
            let ledger = Arc::new(Mutex::new(Ledger::new(&case.revoked, &case.banned)));
            let store = Stored::new(&ledger, &moment);
            let store = if is_late { store.late() } else { store };
            let observer = Arc::new(Observer::new(
                Arc::new(Metrics::new(&ObserveConfig::default())),
                Arc::new(Audit::off()),
            ));
            let clock = Arc::clone(&moment);
            let live = Arc::new(Live::fixed(snapshot.clone()));
            let checker = Checker::new(
                Arc::clone(&live),
                Arc::new(store),
                None,
                observer,
                Arc::new(move || clock.now()),
                CheckBounds { max_body: MAX_BODY, max_in_flight: 128 << 20 },
            );
            let handle = runtime.handle().clone();
            let shell = Shell::of_checker(Arc::new(checker), handle, MAX_BODY, 128 << 20);
            let config = Config::of(shell);
            for earlier in &case.earlier {
                moment.set(earlier.at, None);
                let sent = sent(&earlier.request, &mut random);
                for _ in 0..earlier.times {
                    Running::start(&config, &sent).run(&sent);
                    let histories = ledger.lock().unwrap().settle_last(earlier.used, earlier.at);
                    if let (Some(histories), Some(tokens)) = (histories, earlier.used) {
                        live.histories().record(histories, ObservedUsage { tokens, answer: None });
                    }
                }
            }
            moment.set(case.now, case.outage);
            let sent = sent(&case.request, &mut random);
            let outcome = Running::start(&config, &sent).run(&sent);
            checked += 1;
            let fails = expect.decision == Verdict::Fail;
            if let Err(difference) = compare(&expected(&case, expect), &observed(&outcome, fails)) {
                failures.push(format!("{place}\n    {difference}"));
            }
            if outcome.reply.is_none() {
                let body: Vec<u8> = sent.frames.concat();
                let has_changes = outcome.body != body;
                // The usage of a compressed response could not be read.
                let is_metered =
                    outcome.request.contains(&Change::Removed(b"accept-encoding".to_vec()));
                assert!(!outcome.metadata.iter().any(|(name, _)| name == b"reservation"));
                if has_changes && !is_metered {
                    failures.push(format!("{place}\n    another body was forwarded"));
                }
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {checked} rows fail:\n{}",
        failures.len(),
        failures.join("\n")
    );
    assert!(checked * step >= 1000, "only {checked} rows ran");
    let left: usize = elsewhere.values().sum();
    assert!(left * 20 <= checked, "too many rows are left to other tests: {elsewhere:#?}");
}
