//! The counters. Counting a check looks up its route and its model, and adds to atomics;
//! [`super::exposition`] makes text on request.

mod config;
mod durations;
mod key_counts;
mod model_usage;
mod series;

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
use tollgate_core::{
    admission::{Outage, Settled, Settlement},
    denial::WouldDeny,
    identity::{CredentialKind, Principal},
    limit::{
        LimitStatus, model_tag::ModelTag, settled_cost::SettledCost, settled_tokens::SettledTokens,
    },
    policy::Policy,
    time::Timestamp,
};

use self::series::{OTHER_MEMBER, RouteCounters, Series};
pub use self::{config::ObserveConfig, key_counts::KeyCounts};
pub(super) use self::{
    durations::{BUCKETS, Durations},
    model_usage::{ModelUsage, UNSPLIT},
    series::{DecisionCounters, NO_ROUTE},
};
use super::{
    check_result::{AllowBasis, CheckResult, SLOTS},
    key_events::KeyEventKind,
    ledger::LedgerCounters,
    settlements::SettlementCounters,
    subjects::{SubjectRow, Subjects},
};
use crate::secrets::SecretStatus;

/// The labels of the kinds of credentials: none, and those of [`CredentialKind::ALL`].
const CREDENTIALS: [&str; 1 + CredentialKind::ALL.len()] = [
    "none",
    CredentialKind::Jwt.label(),
    CredentialKind::ApiKey.label(),
    CredentialKind::Certificate.label(),
    CredentialKind::Cookie.label(),
    CredentialKind::OpaqueToken.label(),
];

/// The label of rules in shadow without a series of their own.
const OTHER_RULE: &str = "other";

/// How many rules in shadow have series of their own, with their routes and reasons.
const SHADOW_SERIES: usize = 1024;

/// How many members have a label of their own; the names are those of tables and of the policy.
const MEMBERS: usize = 1024;

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

/// Requests that were allowed although the store did not answer.
#[derive(Debug, Default)]
pub(super) struct OutageAllowed {
    /// By `on_outage: allow`.
    pub(super) allow: AtomicU64,
    /// By `on_outage: local`.
    pub(super) local: AtomicU64,
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

impl Metrics {
    /// Creates counters at zero.
    pub fn new(config: &ObserveConfig) -> Self {
        let (none, other) = (Arc::new(RouteCounters::new()), Arc::<DecisionCounters>::default());
        let series = Series::new(&none, &other);
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
        self.series.rcu(|series| series.with_policy(policy));
    }

    /// Removes the counters of what a policy does not have. It is called when the policy is in
    /// force. A check that still runs under the previous one counts as `none` and `other`.
    pub fn retain_policy(&self, policy: &Policy) {
        self.series.rcu(|series| series.retaining(policy));
        let routes: BTreeSet<&str> = policy.route_names.iter().map(String::as_str).collect();
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

    /// Counts the tokens and the cost of a settled request, if the store has settled it.
    pub fn count_settled(&self, settlement: &Settlement, settled: Settled) {
        let Some(tokens) = SettledTokens::of(settlement, settled) else { return };
        let series = self.series.load();
        let model = model_usage::of_tag(&series.usage, settlement.reservation.id.model());
        if let Some(model) = model {
            model.count(&tokens);
            if let Some(cost) = SettledCost::of(settlement, settled) {
                model.count_cost(cost);
            }
        }
    }

    /// Counts the cost of an expired request of which the ledger makes a record.
    pub fn count_expired_cost(&self, model: Option<&str>, cost: u64) {
        let tag = model.map_or(ModelTag::NONE, ModelTag::of);
        if let Some(model) = model_usage::of_tag(&self.series.load().usage, tag) {
            model.count_expired_cost(cost);
        }
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

#[cfg(test)]
mod tests;
