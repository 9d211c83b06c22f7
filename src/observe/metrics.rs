//! The counters. Counting a check looks up its route and its model, and adds to atomics;
//! [`super::exposition`] makes text on request.

use std::{
    array,
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use schemars::JsonSchema;
use serde::Deserialize;
use tollgate_core::{
    admission::Outage,
    config::{Errors, Path},
    credential::api_key::KeyState,
    denial::WouldDeny,
    identity::{CredentialKind, Principal},
    limit::LimitStatus,
    policy::Policy,
    route::OnOutage,
    time::Timestamp,
};

use super::{
    check_result::{AllowBasis, CheckResult, SLOTS},
    key_events::KeyEventKind,
    ledger::LedgerCounters,
    settlements::SettlementCounters,
    subjects::{SubjectRow, Subjects},
    trace::TracingConfig,
};
use crate::secrets::SecretStatus;

/// The section `observe`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ObserveConfig {
    /// Spans for an OpenTelemetry collector. Default: none.
    pub tracing: Option<TracingConfig>,
    /// How many subjects get their own series in `tollgate_subject_checks_total`, the busiest ones;
    /// the rest count as `other`. At most 1000. Default 0, none: a subject is often a person, and
    /// readers of metrics need not learn who sent requests.
    #[serde(default)]
    pub subjects: u32,
    /// How many actors get their own series in `tollgate_actor_checks_total`, the busiest ones; the
    /// rest count as `other`. At most 1000. Default 0, none.
    #[serde(default)]
    pub actors: u32,
}

impl ObserveConfig {
    /// Most subjects, and most actors, with series of their own: each has two series, and a new one
    /// costs one pass over all of them.
    const MOST_SUBJECTS: u32 = 1000;

    /// Adds the errors of the section.
    pub fn validate(&self, path: &Path, errors: &mut Errors) {
        for (key, count) in [("subjects", self.subjects), ("actors", self.actors)] {
            if count > Self::MOST_SUBJECTS {
                let most = Self::MOST_SUBJECTS;
                let message = format!("`{count}` is more than {most}, the most there may be");
                errors.push(&path.key(key), message);
            }
        }
        if let Some(tracing) = &self.tracing {
            tracing.validate(&path.key("tracing"), errors);
        }
    }
}

/// The route label of a check that ended before its route was known.
pub(super) const NO_ROUTE: &str = "none";

/// The model label of a check for a model that the configuration does not name.
pub(super) const OTHER_MODEL: &str = "other";

/// The labels of the kinds of credentials: none, and those of [`CredentialKind::ALL`].
const CREDENTIALS: [&str; 1 + CredentialKind::ALL.len()] = [
    "none",
    CredentialKind::Jwt.label(),
    CredentialKind::ApiKey.label(),
    CredentialKind::Certificate.label(),
    CredentialKind::Cookie.label(),
    CredentialKind::OpaqueToken.label(),
];

/// The label of members that no table lists.
const OTHER_MEMBER: &str = "other";

/// The label of rules in shadow without a series of their own.
const OTHER_RULE: &str = "other";

/// How many rules in shadow have series of their own, with their routes and reasons.
const SHADOW_SERIES: usize = 1024;

/// How many members have a label of their own; the names are those of tables and of the policy.
const MEMBERS: usize = 1024;

/// Upper bounds of the duration histogram, in microseconds: from the cost of a check in memory to
/// Envoy's timeout.
pub(super) const BUCKETS: [u64; 14] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000,
];

/// The counters of one process.
#[derive(Debug)]
pub struct Metrics {
    /// The start of the process, as near as it is known.
    started: Timestamp,
    series: ArcSwap<Series>,
    /// Checks by kind of credential, and by result.
    credentials: [[AtomicU64; SLOTS]; CREDENTIALS.len()],
    none: Arc<RouteCounters>,
    other: Arc<DecisionCounters>,
    store: Durations,
    /// Checks that a panic ended.
    panics: AtomicU64,
    outage_allowed: OutageAllowed,
    outages: [AtomicU64; Outage::ALL.len()],
    /// Denials by a refusal that was remembered.
    remembered: AtomicU64,
    reload: Reload,
    subjects: Option<Subjects>,
    /// Checks by actor, as those by subject.
    actors: Option<Subjects>,
    secrets: Mutex<BTreeMap<&'static str, Vec<SecretStatus>>>,
    /// The API keys of each source; empty without API keys.
    api_keys: Mutex<Vec<KeyCounts>>,
    /// Events of API keys, by kind.
    key_events: [AtomicU64; KeyEventKind::ALL.len()],
    settlements: SettlementCounters,
    ledger: LedgerCounters,
    /// Allowed checks that rules in shadow would have denied.
    would_deny: Mutex<BTreeMap<ShadowLabels, u64>>,
}

/// The route, the rule and the reason of a denial in shadow.
pub(super) type ShadowLabels = (String, String, &'static str);

/// The series of everything that the policy names.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) routes: BTreeMap<String, Arc<RouteCounters>>,
    /// How many routes that use the store have each `on_outage`.
    pub(super) on_outage: [u64; OnOutage::ALL.len()],
    pub(super) issuers: BTreeMap<String, Arc<DecisionCounters>>,
    pub(super) models: BTreeMap<String, Arc<DecisionCounters>>,
    /// Denials, by limit.
    pub(super) limits: BTreeMap<String, Arc<AtomicU64>>,
    /// Denials, by the member that was forbidden.
    pub(super) members: BTreeMap<String, Arc<AtomicU64>>,
}

/// The counters of one model, or of one issuer.
#[derive(Debug, Default)]
pub(super) struct DecisionCounters {
    pub(super) allow: AtomicU64,
    /// Checks that were not allowed.
    pub(super) deny: AtomicU64,
}

impl DecisionCounters {
    fn count(&self, allowed: bool) {
        let count = if allowed { &self.allow } else { &self.deny };
        count.fetch_add(1, Relaxed);
    }
}

/// Requests that were allowed although the store did not answer.
#[derive(Debug, Default)]
pub(super) struct OutageAllowed {
    /// By `on_outage: allow`.
    pub(super) allow: AtomicU64,
    /// By `on_outage: local`.
    pub(super) local: AtomicU64,
}

/// The API keys of one source.
#[derive(Clone, Copy, Debug)]
pub struct KeyCounts {
    /// The source: `file` or `redis`.
    pub source: &'static str,
    usable: u64,
    expiring: u64,
    weak: u64,
    rotating: u64,
    expired: u64,
    /// The usable keys that this process has seen in the last day.
    pub used: u64,
    /// The end of the usable key that ends first.
    pub next_end: Option<Timestamp>,
}

impl KeyCounts {
    /// Creates the counts of a source without keys.
    pub const fn new(source: &'static str) -> Self {
        Self {
            source,
            usable: 0,
            expiring: 0,
            weak: 0,
            rotating: 0,
            expired: 0,
            used: 0,
            next_end: None,
        }
    }

    /// Counts a key with its state and its end.
    pub fn add(&mut self, state: KeyState, is_weak: bool, is_expiring: bool, end: Timestamp) {
        if state == KeyState::Expired {
            self.expired += 1;
            return;
        }
        self.usable += 1;
        self.expiring += u64::from(is_expiring);
        self.weak += u64::from(is_weak);
        self.rotating += u64::from(state == KeyState::Rotating);
        self.next_end = Some(self.next_end.map_or(end, |next| next.min(end)));
    }

    /// Returns the numbers of keys by the label of a state. `expiring`, `weak` and `rotating` are
    /// parts of `usable`.
    pub const fn by_state(&self) -> [(&'static str, u64); 5] {
        [
            ("usable", self.usable),
            ("expiring", self.expiring),
            ("weak", self.weak),
            ("rotating", self.rotating),
            ("expired", self.expired),
        ]
    }
}

/// The facts of a finished check that are counted.
pub(super) struct CheckSample<'a> {
    pub(super) route: Option<&'a str>,
    /// The kind of the credential, also of one that was refused.
    pub(super) credential: Option<CredentialKind>,
    /// The issuer of the credential, or the issuer of the policy that a refused one names.
    pub(super) issuer: Option<&'a str>,
    pub(super) model: Option<&'a str>,
    /// The state of each limit.
    pub(super) limits: &'a [LimitStatus],
    /// Whether a refusal of an earlier check was remembered.
    pub(super) remembered: bool,
    pub(super) result: CheckResult,
    pub(super) elapsed: Duration,
    /// The time that a remote store took to answer, if it did.
    pub(super) store: Option<Duration>,
    pub(super) outage: Option<Outage>,
    /// The member that was forbidden, as a label.
    pub(super) member: Option<&'a str>,
    /// What rules and limits in shadow would have denied.
    pub(super) would_deny: Option<&'a WouldDeny>,
}

/// The result of the last load of the configuration.
#[derive(Debug, Default)]
pub(super) struct Reload {
    pub(super) failed: AtomicBool,
    /// The time of the last attempt, in seconds since 1970; 0 before the first.
    pub(super) tried: AtomicU64,
    /// The time of the last success, in seconds since 1970.
    pub(super) worked: AtomicU64,
}

/// The counters of one route.
#[derive(Debug)]
pub(super) struct RouteCounters {
    pub(super) results: [AtomicU64; SLOTS],
    pub(super) durations: Durations,
}

/// A histogram without a lock.
#[derive(Debug)]
pub(super) struct Durations {
    counts: [AtomicU64; BUCKETS.len() + 1],
    sum: AtomicU64,
}

impl Metrics {
    /// Creates counters at zero.
    pub fn new(config: &ObserveConfig) -> Self {
        let (none, other) = (Arc::new(RouteCounters::new()), Arc::<DecisionCounters>::default());
        let series = Series {
            routes: BTreeMap::from([(NO_ROUTE.to_owned(), Arc::clone(&none))]),
            on_outage: [0; OnOutage::ALL.len()],
            issuers: BTreeMap::new(),
            models: BTreeMap::from([(OTHER_MODEL.to_owned(), Arc::clone(&other))]),
            limits: BTreeMap::new(),
            members: BTreeMap::from([(OTHER_MEMBER.to_owned(), Arc::default())]),
        };
        Self {
            started: super::now(),
            series: ArcSwap::from_pointee(series),
            credentials: array::from_fn(|_| array::from_fn(|_| AtomicU64::new(0))),
            none,
            other,
            store: Durations::new(),
            panics: AtomicU64::new(0),
            outage_allowed: OutageAllowed::default(),
            outages: array::from_fn(|_| AtomicU64::new(0)),
            remembered: AtomicU64::new(0),
            reload: Reload::default(),
            subjects: Subjects::new(usize::try_from(config.subjects).unwrap_or(0)),
            actors: Subjects::new(usize::try_from(config.actors).unwrap_or(0)),
            secrets: Mutex::default(),
            api_keys: Mutex::default(),
            key_events: array::from_fn(|_| AtomicU64::new(0)),
            settlements: SettlementCounters::default(),
            ledger: LedgerCounters::default(),
            would_deny: Mutex::default(),
        }
    }

    /// Adds counters for the routes, issuers, models and limits of a policy. It is called before the policy
    /// is in force: a check of a route without counters counts as `none`, of a model without them
    /// as `other`.
    pub fn add_policy(&self, policy: &Policy) {
        self.series.rcu(|series| {
            let mut series = Series::clone(series);
            for name in &policy.route_names {
                series.routes.entry(name.clone()).or_insert_with(|| Arc::new(RouteCounters::new()));
            }
            series.on_outage = OnOutage::ALL.map(|on_outage| {
                policy.on_outage.iter().filter(|route| **route == on_outage).count() as u64
            });
            for issuer in policy.issuers.list() {
                series.issuers.entry(issuer.name.to_string()).or_default();
            }
            for name in policy.models.names() {
                series.models.entry(name.to_owned()).or_default();
            }
            for limit in policy.limit_names() {
                series.limits.entry(limit.to_owned()).or_default();
            }
            series
        });
    }

    /// Removes the counters of what a policy does not have. It is called when the policy is in
    /// force. A check that still runs under the previous one counts as `none` and `other`.
    pub fn retain_policy(&self, policy: &Policy) {
        let routes: BTreeSet<&str> = policy.route_names.iter().map(String::as_str).collect();
        let issuers: BTreeSet<&str> =
            policy.issuers.list().iter().map(|issuer| &*issuer.name).collect();
        let models: BTreeSet<&str> = policy.models.names().collect();
        let limits: BTreeSet<&str> = policy.limit_names().collect();
        self.series.rcu(|series| {
            let mut series = Series::clone(series);
            series.routes.retain(|name, _| name == NO_ROUTE || routes.contains(name.as_str()));
            series.issuers.retain(|name, _| issuers.contains(name.as_str()));
            series.models.retain(|name, _| name == OTHER_MODEL || models.contains(name.as_str()));
            series.limits.retain(|name, _| limits.contains(name.as_str()));
            series
        });
        let mut would_deny = self.would_deny.lock().unwrap_or_else(PoisonError::into_inner);
        would_deny.retain(|(route, _, _), _| routes.contains(route.as_str()));
    }

    /// The counters of the ledger.
    pub fn ledger(&self) -> &LedgerCounters {
        &self.ledger
    }

    /// The counters of settlements.
    pub fn settlements(&self) -> &SettlementCounters {
        &self.settlements
    }

    /// Records the API keys of each source; none without API keys.
    pub fn set_api_keys(&self, counts: Vec<KeyCounts>) {
        *self.api_keys.lock().unwrap_or_else(PoisonError::into_inner) = counts;
    }

    /// The API keys of each source.
    pub(super) fn api_keys(&self) -> Vec<KeyCounts> {
        self.api_keys.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts one event of an API key.
    pub(super) fn count_key_event(&self, kind: KeyEventKind) {
        if let Some(count) = self.key_events.get(kind as usize) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// The labels of the events of API keys with their counts.
    pub(super) fn key_events(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = KeyEventKind::ALL.iter().zip(&self.key_events);
        counts.map(|(kind, count)| (kind.label(), count.load(Relaxed)))
    }

    /// Records the state of the secrets with files that have this purpose.
    pub fn set_secrets(&self, purpose: &'static str, secrets: Vec<SecretStatus>) {
        let mut all = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(purpose, secrets);
    }

    /// The secrets with files, by purpose.
    pub(super) fn secrets(&self) -> BTreeMap<&'static str, Vec<SecretStatus>> {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records the result of a load of the configuration, at the start or later.
    pub fn reloaded(&self, now: Timestamp, worked: bool) {
        self.reload.tried.store(now.secs(), Relaxed);
        if worked {
            self.reload.worked.store(now.secs(), Relaxed);
        }
        self.reload.failed.store(!worked, Relaxed);
    }

    /// Counts one check.
    pub(super) fn count(&self, check: &CheckSample<'_>) {
        let series = self.series.load();
        let allowed = matches!(check.result, CheckResult::Allow(_));
        let counters = check.route.and_then(|name| series.routes.get(name)).unwrap_or(&self.none);
        if let Some(count) = counters.results.get(check.result.slot()) {
            count.fetch_add(1, Relaxed);
        }
        counters.durations.observe(check.elapsed);
        let kind = check.credential.map_or(0, |kind| 1 + kind as usize);
        if let Some(count) =
            self.credentials.get(kind).and_then(|results| results.get(check.result.slot()))
        {
            count.fetch_add(1, Relaxed);
        }
        if let Some(issuer) = check.issuer.and_then(|issuer| series.issuers.get(issuer)) {
            issuer.count(allowed);
        }
        if let Some(model) = check.model {
            series.models.get(model).unwrap_or(&self.other).count(allowed);
        }
        self.count_rare(check.result);
        if !allowed {
            for limit in check.limits.iter().filter(|limit| !limit.verdict.admitted) {
                if let Some(count) = series.limits.get(&*limit.name) {
                    count.fetch_add(1, Relaxed);
                }
            }
            if check.remembered {
                self.remembered.fetch_add(1, Relaxed);
            }
        }
        if allowed && let Some(would_deny) = check.would_deny.filter(|list| !list.is_empty()) {
            self.count_would_deny(check.route.unwrap_or(NO_ROUTE), would_deny);
        }
        if let Some(member) = check.member {
            self.count_member(&series, member);
        }
        if let Some(elapsed) = check.store {
            self.store.observe(elapsed);
        }
        if let Some(outage) = check.outage
            && let Some(count) = Outage::ALL
                .iter()
                .position(|series| *series == outage)
                .and_then(|at| self.outages.get(at))
        {
            count.fetch_add(1, Relaxed);
        }
    }

    /// Counts a result that an alert watches from its first occurrence on.
    fn count_rare(&self, result: CheckResult) {
        let count = match result {
            CheckResult::Panic => &self.panics,
            CheckResult::Allow(AllowBasis::OutageAllow) => &self.outage_allowed.allow,
            CheckResult::Allow(AllowBasis::OutageLocal) => &self.outage_allowed.local,
            _ => return,
        };
        count.fetch_add(1, Relaxed);
    }

    /// Counts an allowed check that rules in shadow would have denied. The names are those of the
    /// policy; a policy that was replaced leaves the series of its rules.
    #[cold]
    fn count_would_deny(&self, route: &str, would_deny: &WouldDeny) {
        let mut counts = self.would_deny.lock().unwrap_or_else(PoisonError::into_inner);
        for denial in would_deny.iter() {
            let labels = (route.to_owned(), denial.rule.clone(), denial.reason.code());
            let labels = if counts.len() < SHADOW_SERIES || counts.contains_key(&labels) {
                labels
            } else {
                (NO_ROUTE.to_owned(), OTHER_RULE.to_owned(), denial.reason.code())
            };
            *counts.entry(labels).or_default() += 1;
        }
    }

    /// The allowed checks that rules in shadow would have denied.
    pub(super) fn would_deny(&self) -> BTreeMap<ShadowLabels, u64> {
        self.would_deny.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts one denial of a member, which has a counter from its first denial on.
    fn count_member(&self, series: &Series, member: &str) {
        let label = if series.members.contains_key(member) || series.members.len() < MEMBERS {
            member
        } else {
            OTHER_MEMBER
        };
        if let Some(count) = series.members.get(label) {
            count.fetch_add(1, Relaxed);
            return;
        }
        self.series.rcu(|series| {
            let mut series = Series::clone(series);
            series.members.entry(label.to_owned()).or_default();
            series
        });
        if let Some(count) = self.series.load().members.get(label) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// Counts one check of a subject, and of the actor that acts for it.
    pub(super) fn count_subject(&self, principal: &Principal, allowed: bool) {
        if let Some(subjects) = &self.subjects {
            subjects.count(principal, allowed);
        }
        if let Some(actors) = &self.actors
            && let Some(actor) = principal.actor()
        {
            actors.count_actor(actor, allowed);
        }
    }

    /// The number of checks by the label of the kind of their credential, and by result.
    pub(super) fn credentials(&self) -> impl Iterator<Item = (&'static str, &[AtomicU64; SLOTS])> {
        CREDENTIALS.into_iter().zip(&self.credentials)
    }

    /// The series of everything that the policy names.
    pub(super) fn series(&self) -> Arc<Series> {
        self.series.load_full()
    }

    /// The start of the process.
    pub(super) fn started(&self) -> Timestamp {
        self.started
    }

    /// Checks that a panic ended.
    pub(super) fn panics(&self) -> u64 {
        self.panics.load(Relaxed)
    }

    /// Requests that were allowed although the store did not answer.
    pub(super) fn outage_allowed(&self) -> &OutageAllowed {
        &self.outage_allowed
    }

    /// The time that a remote store took to answer.
    pub(super) fn store(&self) -> &Durations {
        &self.store
    }

    /// The labels of all outages with their counts.
    pub(super) fn outages(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Outage::ALL
            .iter()
            .zip(&self.outages)
            .map(|(outage, count)| (outage.label(), count.load(Relaxed)))
    }

    /// Denials by a refusal that was remembered.
    pub(super) fn remembered(&self) -> u64 {
        self.remembered.load(Relaxed)
    }

    /// The result of the last load of the configuration.
    pub(super) fn reload(&self) -> &Reload {
        &self.reload
    }

    /// The busiest subjects; `None` when they are not counted.
    pub(super) fn subjects(&self) -> Option<Vec<SubjectRow>> {
        self.subjects.as_ref().map(Subjects::rows)
    }

    /// The busiest actors; `None` when they are not counted.
    pub(super) fn actors(&self) -> Option<Vec<SubjectRow>> {
        self.actors.as_ref().map(Subjects::rows)
    }
}

impl RouteCounters {
    fn new() -> Self {
        Self { results: array::from_fn(|_| AtomicU64::new(0)), durations: Durations::new() }
    }
}

impl Durations {
    fn new() -> Self {
        Self { counts: array::from_fn(|_| AtomicU64::new(0)), sum: AtomicU64::new(0) }
    }

    fn observe(&self, elapsed: Duration) {
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS.partition_point(|bound| *bound < micros);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Relaxed);
        }
        self.sum.fetch_add(micros, Relaxed);
    }

    /// Whether nothing was counted.
    pub(super) fn is_empty(&self) -> bool {
        self.counts.iter().all(|count| count.load(Relaxed) == 0)
    }

    /// Returns the sum in microseconds and the count of each bucket, that without an upper bound
    /// last.
    pub(super) fn read(&self) -> (u64, [u64; BUCKETS.len() + 1]) {
        (
            self.sum.load(Relaxed),
            array::from_fn(|at| self.counts.get(at).map_or(0, |count| count.load(Relaxed))),
        )
    }
}

#[cfg(test)]
mod tests {
    use tollgate_core::{
        config::Document,
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
    fn a_duration_falls_into_the_first_bucket_that_holds_it() {
        for (micros, bucket) in [
            (0, 0),
            (50, 0),
            (51, 1),
            (1_000, 4),
            (1_001, 5),
            (1_000_000, 13),
            (1_000_001, 14),
            (u64::MAX, 14),
        ] {
            let counters = RouteCounters::new();
            counters.durations.observe(Duration::from_micros(micros));
            let (sum, counts) = counters.durations.read();
            assert_eq!(sum, micros);
            assert_eq!(counts.iter().position(|count| *count == 1), Some(bucket), "{micros}");
        }
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
        let limits: Vec<_> = series
            .limits
            .iter()
            .map(|(name, count)| (name.as_str(), count.load(Relaxed)))
            .collect();
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
        let count =
            |label: &str| metrics.series().members.get(label).map(|count| count.load(Relaxed));
        assert_eq!((count("priority"), count("other")), (Some(2), Some(1)));
        for index in 0..MEMBERS {
            metrics.count(&CheckSample { member: Some(&format!("m{index}")), ..check });
        }
        assert_eq!(metrics.series().members.len(), MEMBERS);
        assert_eq!(count("other"), Some(3), "the last two of them");
    }

    #[test]
    fn too_many_subjects_are_refused() {
        for (subjects, good) in [(0, true), (1000, true), (1001, false)] {
            let mut errors = Errors::default();
            ObserveConfig { subjects, ..ObserveConfig::default() }
                .validate(&Path::root().key("observe"), &mut errors);
            assert_eq!(errors.is_empty(), good, "{subjects}");
            let mut errors = Errors::default();
            ObserveConfig { actors: subjects, ..ObserveConfig::default() }
                .validate(&Path::root().key("observe"), &mut errors);
            assert_eq!(errors.is_empty(), good, "{subjects} actors");
        }
    }
}
