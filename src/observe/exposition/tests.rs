use serde_json::json;
use tollgate_core::{
    admission::Outage,
    config::{Document, Errors},
    limit::model_tag::{ExpiredTokens, ModelTag},
    policy::Policy,
    time::Timestamp,
};

use super::*;
use crate::{
    observe::tests::{Bench, NO_ROOM, NOW, ROOM, answered, counted},
    store::{
        BanStatus, Circuit, EscrowStatus, LeaseStatus, NodeStatus, ReplicaStatus, ReservationStatus,
    },
};

/// A store on another side of a socket, which does not answer.
fn store(expired_tokens: ExpiredTokens) -> StoreStatus {
    StoreStatus {
        up: false,
        circuit: Circuit::Open,
        remote: true,
        connections: 3,
        buckets: Some(5),
        revocations: Some(6),
        last_error: None,
        nodes: vec![NodeStatus { shard: None, node: Some("10.0.0.1:6379".to_owned()), up: false }],
        replica: Some(ReplicaStatus {
            age: Some(Duration::from_millis(500)),
            revocations: 11,
            max_staleness: Duration::from_secs(5),
        }),
        bans: Some(BanStatus {
            counts: [14, 15, 16, 17, 18, 19, 20],
            age: Some(Duration::from_secs(2)),
        }),
        leases: Some(LeaseStatus { buckets: 4, units: 12 }),
        reservations: ReservationStatus { open: Some(21), expired: 22, expired_tokens },
    }
}

#[test]
fn everything_counted_as_text() {
    let bench = Bench::new(5);
    bench.check("POST", "/v1/chat/completions", &Bench::alice(), counted(&[ROOM]), answered);
    bench.check("POST", "/v1/chat/completions", &Bench::alice(), counted(&[NO_ROOM]), answered);
    bench.observer.metrics().reloaded(Timestamp::from_secs(1_795_318_999), false);
    let status = Status {
        jwks: vec![
            JwksStatus {
                issuer: "https://a.example.com".into(),
                keys: 2,
                age: Some(Duration::from_millis(12_500)),
                ok: 3,
                failed: 1,
            },
            JwksStatus { issuer: "quote\"d\\\n".into(), keys: 0, age: None, ok: 0, failed: 7 },
        ],
        store: Some(store(ExpiredTokens::default())),
        ready: true,
        local: Some(LocalStatus {
            age: Some(Duration::from_millis(1500)),
            revocations: 7,
            buckets: 8,
            escrow: EscrowStatus { counters: 3, unreported: 2, admitted: 5 },
        }),
        in_flight: Some(InFlightStatus { bytes: 9, limit: 10 }),
        api_keys: Some(ApiKeyStatus {
            replica: KeyReplicaStatus {
                keys: 28,
                cached: 2,
                uncopied: 3,
                broken: 2,
                age: Some(Duration::from_millis(250)),
                max_staleness: Duration::from_secs(4),
                lookups: [
                    ("found", 5),
                    ("missing", 4),
                    ("failed", 3),
                    ("no_budget", 2),
                    ("full", 1),
                ],
            },
            misfits: 1,
        }),
        refusals: 13,
        certificates: vec![CertificateStatus {
            listener: "listen.grpc".into(),
            not_before: 1_790_000_000,
            not_after: 1_800_000_000,
        }],
        network_bans: Some(NetworkBanStatus {
            failures: [("bad_signature", 31), ("unknown_key", 32), ("malformed", 33)],
            checks: [("known", 34), ("verified", 35), ("refused", 36)],
            results: [
                ("begun", 37),
                ("would_begin", 38),
                ("exempt", 39),
                ("dropped", 40),
                ("failed", 41),
            ],
            networks: 42,
            most: 43,
            threshold: 44,
        }),
        most_denials: 45,
        tokens: TokenStatus {
            lookups: [("hit", 5), ("negative", 1), ("miss", 2)],
            entries: 1,
            bytes: 700,
        },
    };
    assert!(bench.observer.audit().close(Duration::from_secs(10)));
    let text = bench.observer.exposition(status).unwrap();
    // Everything to the letter, without the times of buckets and the values of this process.
    let shown: Vec<&str> = text
        .lines()
        .filter(|line| !line.contains("_duration_seconds_") && !line.starts_with("process_"))
        .collect();
    let expected = include_str!("expected.txt").trim_end();
    assert_eq!(shown.join("\n"), expected);
    let buckets: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("duration_seconds_") && line.contains("\"chat\""))
        .collect();
    let bounds = [
        "0.00005", "0.0001", "0.00025", "0.0005", "0.001", "0.0025", "0.005", "0.01", "0.025",
        "0.05", "0.1", "0.25", "0.5", "1.0", "+Inf",
    ];
    let expected: Vec<String> =
        ["sum{route=\"chat\"}".to_owned(), "count{route=\"chat\"}".to_owned()]
            .into_iter()
            .chain(bounds.iter().map(|bound| format!("bucket{{le=\"{bound}\",route=\"chat\"}}")))
            .map(|line| format!("tollgate_check_duration_seconds_{line}"))
            .collect();
    let names = buckets.iter().map(|line| line.rsplit_once(' ').unwrap().0);
    assert_eq!(names.collect::<Vec<_>>(), expected);
    assert!(text.contains("tollgate_check_duration_seconds_count{route=\"chat\"} 2\n"), "{text}");
}

#[test]
fn a_route_has_no_series_before_its_first_check_and_then_a_bounded_number() {
    let bench = Bench::new(0);
    let text = bench.observer.exposition(Status::default()).unwrap();
    assert!(!text.contains("route=\""), "{text}");
    // What an alert watches from its first occurrence on exists from the start.
    for series in [
        "tollgate_panics_total 0\n",
        "tollgate_outage_allowed_total{on_outage=\"allow\"} 0\n",
        "tollgate_outage_allowed_total{on_outage=\"local\"} 0\n",
        "tollgate_audit_dropped_total{cause=\"full\"} 0\n",
        "tollgate_issuer_checks_total{issuer=\"\",decision=\"deny\"} 0\n",
    ] {
        assert!(text.contains(series), "{series}");
    }
    let before = text.lines().count();
    for number in 0..500 {
        let token = Bench::token(
            &json!({ "sub": format!("s-{number}"), "exp": NOW.secs() + 60, "scope": "infer:text" }),
        );
        bench.check("POST", &format!("/made/up/{number}"), &token, counted(&[]), answered);
        bench.check("POST", "/v1/chat/completions", &token, counted(&[ROOM]), answered);
    }
    // Two routes, `chat` and `none`: one result each, and a histogram of 15 buckets, sum, count; and
    // two results by kind of credential.
    let after = bench.observer.exposition(Status::default()).unwrap().lines().count();
    assert_eq!(after, before + 2 * (1 + 17) + 2);
}

#[test]
fn requests_that_pass_in_an_outage_are_counted_by_the_behaviour_of_their_route() {
    let bench = Bench::new(0);
    bench.check("GET", "/lenient", &Bench::alice(), Err(Outage::Unreachable), answered);
    bench.check("GET", "/strict", &Bench::alice(), Err(Outage::Unreachable), answered);
    let text = bench.observer.exposition(Status::default()).unwrap();
    for series in [
        "tollgate_outage_allowed_total{on_outage=\"allow\"} 1\n",
        "tollgate_outage_allowed_total{on_outage=\"local\"} 0\n",
        "tollgate_issuer_checks_total{issuer=\"\",decision=\"allow\"} 1\n",
        "tollgate_issuer_checks_total{issuer=\"\",decision=\"deny\"} 1\n",
    ] {
        assert!(text.contains(series), "{series}{text}");
    }
}

#[test]
fn the_costs_of_settled_requests_are_shown_where_models_have_prices() {
    let bench = Bench::new(0);
    let shown = || {
        let text = bench.observer.exposition(Status::default()).unwrap();
        let is_of_cost = |line: &&str| {
            ["tollgate_settled_cost_", "tollgate_replaced_cost_"]
                .iter()
                .any(|name| line.starts_with(name))
        };
        text.lines().filter(is_of_cost).map(str::to_owned).collect::<Vec<_>>()
    };
    let metrics = bench.observer.metrics();
    metrics.settlements().set_used();
    assert!(shown().is_empty(), "no model has a price");
    let text = "
models: [{ name: qwen }]
prices: { currency: EUR, models: [{ model: qwen, input: 1, output: 2 }] }
routes: [{ match: { paths: [/health] }, public: true }]
";
    let document = Document::parse(text, &|_| None).unwrap();
    let policy = Policy::compile(&document.read().unwrap(), &mut Errors::default()).unwrap();
    metrics.add_policy(&policy);
    metrics.count_expired_cost(Some("qwen"), 5);
    metrics.count_expired_cost(Some("made up"), 8);
    let expected = "\
tollgate_settled_cost_total{model=\"other\",basis=\"reported\"} 0
tollgate_settled_cost_total{model=\"other\",basis=\"estimated\"} 0
tollgate_settled_cost_total{model=\"other\",basis=\"expired\"} 8
tollgate_settled_cost_total{model=\"qwen\",basis=\"reported\"} 0
tollgate_settled_cost_total{model=\"qwen\",basis=\"estimated\"} 0
tollgate_settled_cost_total{model=\"qwen\",basis=\"expired\"} 5
tollgate_replaced_cost_total{model=\"other\"} 0
tollgate_replaced_cost_total{model=\"qwen\"} 0";
    assert_eq!(shown().join("\n"), expected);
}

#[test]
fn the_tokens_of_settled_requests_are_shown_by_model_from_the_start() {
    let bench = Bench::new(0);
    let shown = |expired_tokens| {
        let status = Status { store: Some(store(expired_tokens)), ..Status::default() };
        let text = bench.observer.exposition(status).unwrap();
        let is_of_tokens = |line: &&str| {
            ["tollgate_settled_tokens_", "tollgate_replaced_", "tollgate_model_info"]
                .iter()
                .any(|name| line.starts_with(name))
        };
        text.lines().filter(is_of_tokens).map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(shown(ExpiredTokens::default()).is_empty(), "no reports may arrive");
    bench.observer.metrics().settlements().set_used();
    let mut expired = ExpiredTokens::default();
    expired.add(ModelTag::of("qwen"), 7);
    expired.add(ModelTag::of("made up"), 8);
    expired.add(ModelTag::NONE, 9);
    let expected = "\
tollgate_settled_tokens_total{model=\"other\",kind=\"input\",basis=\"reported\"} 0
tollgate_settled_tokens_total{model=\"other\",kind=\"cached\",basis=\"reported\"} 0
tollgate_settled_tokens_total{model=\"other\",kind=\"output\",basis=\"reported\"} 0
tollgate_settled_tokens_total{model=\"other\",kind=\"unsplit\",basis=\"reported\"} 0
tollgate_settled_tokens_total{model=\"other\",kind=\"unsplit\",basis=\"estimated\"} 0
tollgate_settled_tokens_total{model=\"other\",kind=\"unsplit\",basis=\"expired\"} 17
tollgate_settled_tokens_total{model=\"qwen\",kind=\"input\",basis=\"reported\"} 0
tollgate_settled_tokens_total{model=\"qwen\",kind=\"cached\",basis=\"reported\"} 0
tollgate_settled_tokens_total{model=\"qwen\",kind=\"output\",basis=\"reported\"} 0
tollgate_settled_tokens_total{model=\"qwen\",kind=\"unsplit\",basis=\"reported\"} 0
tollgate_settled_tokens_total{model=\"qwen\",kind=\"unsplit\",basis=\"estimated\"} 0
tollgate_settled_tokens_total{model=\"qwen\",kind=\"unsplit\",basis=\"expired\"} 7
tollgate_replaced_tokens_total{model=\"other\"} 0
tollgate_replaced_tokens_total{model=\"qwen\"} 0
tollgate_model_info{model=\"qwen\",model_name=\"qwen\"} 1";
    assert_eq!(shown(expired).join("\n"), expected);
}
