//! The series of everything that the policy names.

use std::{
    array,
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tollgate_core::{policy::Policy, route::OnOutage};

use super::{
    durations::Durations,
    model_usage::{self, ModelTable},
};
use crate::observe::check_result::SLOTS;

/// The route label of a check that ended before its route was known.
pub(in crate::observe) const NO_ROUTE: &str = "none";

/// The model label of a check for a model that the configuration does not name.
pub(in crate::observe) const OTHER_MODEL: &str = "other";

/// The label of members that no table lists.
pub(super) const OTHER_MEMBER: &str = "other";

/// The series of everything that the policy names.
#[derive(Clone, Debug)]
pub(in crate::observe) struct Series {
    pub(in crate::observe) routes: BTreeMap<String, Arc<RouteCounters>>,
    /// How many routes that use the store have each `on_outage`.
    pub(in crate::observe) on_outage: [u64; OnOutage::ALL.len()],
    pub(in crate::observe) issuers: BTreeMap<String, Arc<DecisionCounters>>,
    pub(in crate::observe) models: BTreeMap<String, Arc<DecisionCounters>>,
    /// What settled requests used, by model.
    pub(in crate::observe) usage: ModelTable,
    /// Whether the models have prices.
    pub(in crate::observe) has_prices: bool,
    /// Denials, by limit.
    pub(in crate::observe) limits: BTreeMap<String, Arc<AtomicU64>>,
    /// Denials, by the member that was forbidden.
    pub(in crate::observe) members: BTreeMap<String, Arc<AtomicU64>>,
}

impl Series {
    /// Creates the series of checks that nothing of a policy names.
    pub(super) fn new(none: &Arc<RouteCounters>, other: &Arc<DecisionCounters>) -> Self {
        Self {
            routes: BTreeMap::from([(NO_ROUTE.to_owned(), Arc::clone(none))]),
            on_outage: [0; OnOutage::ALL.len()],
            issuers: BTreeMap::new(),
            models: BTreeMap::from([(OTHER_MODEL.to_owned(), Arc::clone(other))]),
            usage: model_usage::none(),
            has_prices: false,
            limits: BTreeMap::new(),
            members: BTreeMap::from([(OTHER_MEMBER.to_owned(), Arc::default())]),
        }
    }

    /// Returns these series with those that a policy adds.
    pub(super) fn with_policy(&self, policy: &Policy) -> Self {
        let mut series = self.clone();
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
        model_usage::add(&mut series.usage, policy);
        series.has_prices = policy.prices.is_some();
        for limit in policy.limit_names() {
            series.limits.entry(limit.to_owned()).or_default();
        }
        series
    }

    /// Returns these series without those of names that a policy does not have.
    pub(super) fn retaining(&self, policy: &Policy) -> Self {
        let routes: BTreeSet<&str> = policy.route_names.iter().map(String::as_str).collect();
        let issuers: BTreeSet<&str> =
            policy.issuers.list().iter().map(|issuer| &*issuer.name).collect();
        let models: BTreeSet<&str> = policy.models.names().collect();
        let limits: BTreeSet<&str> = policy.limit_names().collect();
        let mut series = self.clone();
        series.routes.retain(|name, _| name == NO_ROUTE || routes.contains(name.as_str()));
        series.issuers.retain(|name, _| issuers.contains(name.as_str()));
        series.models.retain(|name, _| name == OTHER_MODEL || models.contains(name.as_str()));
        model_usage::retain(&mut series.usage, policy);
        series.limits.retain(|name, _| limits.contains(name.as_str()));
        series
    }
}

/// The counters of one model, or of one issuer.
#[derive(Debug, Default)]
pub(in crate::observe) struct DecisionCounters {
    pub(in crate::observe) allow: AtomicU64,
    /// Checks that were not allowed.
    pub(in crate::observe) deny: AtomicU64,
}

impl DecisionCounters {
    pub(super) fn count(&self, allowed: bool) {
        let count = if allowed { &self.allow } else { &self.deny };
        count.fetch_add(1, Relaxed);
    }
}

/// The counters of one route.
#[derive(Debug)]
pub(in crate::observe) struct RouteCounters {
    pub(in crate::observe) results: [AtomicU64; SLOTS],
    pub(in crate::observe) durations: Durations,
}

impl RouteCounters {
    pub(super) fn new() -> Self {
        Self { results: array::from_fn(|_| AtomicU64::new(0)), durations: Durations::new() }
    }
}
