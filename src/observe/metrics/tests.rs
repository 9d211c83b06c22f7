use tollgate_core::{
    config::{Document, Errors},
    denial::Reason,
    limit::{LimitKind, Verdict},
    policy::PolicyConfig,
};

use super::*;

fn policy(sections: &str) -> Policy {
    let document = Document::parse(sections, &|_| None).unwrap();
    Policy::compile(&document.read::<PolicyConfig>().unwrap(), &mut Errors::default()).unwrap()
}

#[test]
fn only_routes_of_a_policy_become_labels() {
    let metrics = Metrics::new(&ObserveConfig::default());
    metrics.add_policy(&policy("routes: [{ match: { paths: [/v1/models] }, public: true }]"));
    let result = CheckResult::Deny(Reason::NoRoute);
    let check = CheckSample {
        route: None,
        credential: None,
        issuer: None,
        model: None,
        limits: &[],
        remembered: false,
        result,
        elapsed: Duration::ZERO,
        store: None,
        outage: None,
        member: None,
        would_deny: None,
    };
    for route in [None, Some("/v1/models"), Some("/made/up"), Some("none")] {
        metrics.count(&CheckSample { route, ..check });
    }
    metrics.add_policy(&policy(
        "routes: [{ match: { paths: [/v1/models] }, public: true }, { match: { paths: [/v1/other] }, public: true }]",
    ));
    let series = metrics.series();
    let counts: Vec<_> = series
        .routes
        .iter()
        .map(|(name, route)| (name.as_str(), route.results[result.slot()].load(Relaxed)))
        .collect();
    assert_eq!(counts, [("/v1/models", 1), ("/v1/other", 0), ("none", 3)]);
}

#[test]
fn only_models_and_limits_of_a_policy_become_labels() {
    let metrics = Metrics::new(&ObserveConfig::default());
    metrics.add_policy(&policy(
        "{ models: [{ name: qwen, serves: [Qwen/Qwen2] }], limits: [{ name: all, by: [address], rate: 1/1m }],
           routes: [{ match: { paths: [/health] }, public: true }] }",
    ));
    let verdict = Verdict { admitted: false, remaining: 0, retry_after: 1, reset: 1 };
    let limits = ["all", "made-up"].map(|name| LimitStatus {
        name: name.into(),
        kind: LimitKind::Rate,
        limit: 1,
        window: 1,
        verdict,
    });
    let check = CheckSample {
        route: None,
        credential: None,
        issuer: None,
        model: None,
        limits: &limits,
        remembered: false,
        result: CheckResult::Deny(Reason::RateLimited),
        elapsed: Duration::ZERO,
        store: None,
        outage: None,
        member: None,
        would_deny: None,
    };
    for model in [None, Some("qwen"), Some("Qwen/Qwen2"), Some("made/up"), Some("other")] {
        metrics.count(&CheckSample { model, ..check });
    }
    let series = metrics.series();
    let models: Vec<_> = series
        .models
        .iter()
        .map(|(name, model)| (name.as_str(), model.deny.load(Relaxed)))
        .collect();
    assert_eq!(models, [("other", 3), ("qwen", 1)]);
    let limits: Vec<_> =
        series.limits.iter().map(|(name, count)| (name.as_str(), count.load(Relaxed))).collect();
    assert_eq!(limits, [("all", 5)]);
}

#[test]
fn what_a_policy_no_longer_has_loses_its_series_and_the_rest_keeps_its_counts() {
    let metrics = Metrics::new(&ObserveConfig::default());
    let result = CheckResult::Deny(Reason::RateLimited);
    let load = |round: u32| {
        let policy = policy(&format!(
            "{{ models: [{{ name: qwen }}, {{ name: model-{round} }}],
                limits: [{{ name: all, by: [address], rate: 1/1m }}, {{ name: limit-{round}, by: [address], rate: 1/1m }}],
                routes: [{{ match: {{ paths: [/stays] }}, public: true }}, {{ match: {{ paths: [/route-{round}] }}, public: true }}] }}"
        ));
        metrics.add_policy(&policy);
        metrics.retain_policy(&policy);
    };
    let verdict = Verdict { admitted: false, remaining: 0, retry_after: 1, reset: 1 };
    for round in 0..1000 {
        load(round);
        let limits = ["all".to_owned(), format!("limit-{round}")].map(|name| LimitStatus {
            name: name.as_str().into(),
            kind: LimitKind::Rate,
            limit: 1,
            window: 1,
            verdict,
        });
        metrics.count(&CheckSample {
            route: Some("/stays"),
            credential: None,
            issuer: None,
            model: Some("qwen"),
            limits: &limits,
            remembered: false,
            result,
            elapsed: Duration::ZERO,
            store: None,
            outage: None,
            member: None,
            would_deny: None,
        });
    }
    let series = metrics.series();
    assert_eq!(series.routes.keys().collect::<Vec<_>>(), ["/route-999", "/stays", "none"]);
    assert_eq!(series.models.keys().collect::<Vec<_>>(), ["model-999", "other", "qwen"]);
    assert_eq!(series.limits.keys().collect::<Vec<_>>(), ["all", "limit-999"]);
    assert_eq!(series.routes["/stays"].results[result.slot()].load(Relaxed), 1000);
    assert_eq!(series.models["qwen"].deny.load(Relaxed), 1000);
    assert_eq!(series.limits["all"].load(Relaxed), 1000);
    assert_eq!(series.limits["limit-999"].load(Relaxed), 1);
}

#[test]
fn members_become_labels_up_to_a_bound() {
    let metrics = Metrics::new(&ObserveConfig::default());
    let check = CheckSample {
        route: None,
        credential: None,
        issuer: None,
        model: None,
        limits: &[],
        remembered: false,
        result: CheckResult::Deny(Reason::FieldForbidden),
        elapsed: Duration::ZERO,
        store: None,
        outage: None,
        member: None,
        would_deny: None,
    };
    for member in [None, Some("priority"), Some("priority"), Some("other")] {
        metrics.count(&CheckSample { member, ..check });
    }
    let count = |label: &str| metrics.series().members.get(label).map(|count| count.load(Relaxed));
    assert_eq!((count("priority"), count("other")), (Some(2), Some(1)));
    for index in 0..MEMBERS {
        metrics.count(&CheckSample { member: Some(&format!("m{index}")), ..check });
    }
    assert_eq!(metrics.series().members.len(), MEMBERS);
    assert_eq!(count("other"), Some(3), "the last two of them");
}
