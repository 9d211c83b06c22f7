//! What is counted. Counting one check is a look-up of its route and two additions to atomics; text is made when somebody asks
//! for it, in [`super::exposition`].

use std::{
    array,
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use schemars::JsonSchema;
use serde::Deserialize;
use tollgate_core::{
    authn::Principal,
    config::{Errors, Path},
    limit::Outage,
    time::Timestamp,
};

use super::{
    ending::{Ending, SLOTS},
    subjects::{Shown, Subjects},
    trace::TracingConfig,
};

/// The section `observe`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ObserveConfig {
    /// Spans for an OpenTelemetry collector. Default: none.
    pub tracing: Option<TracingConfig>,
    /// How many subjects get their own series in `tollgate_subject_checks_total`, the busiest ones; the rest count as `other`. At most
    /// 1000. Default 0, none: a subject is often a person, and whoever reads metrics need not know who asked.
    #[serde(default)]
    pub subjects: u32,
}

impl ObserveConfig {
    /// Most subjects that get their own series: two series each, and one look through all of them when a new one comes.
    const MOST_SUBJECTS: u32 = 1000;

    /// Notes what is wrong with the section.
    pub fn check(&self, path: &Path, errors: &mut Errors) {
        if self.subjects > Self::MOST_SUBJECTS {
            errors.push(
                &path.key("subjects"),
                format!("`{}` is more than {}, the most there may be", self.subjects, Self::MOST_SUBJECTS),
            );
        }
        if let Some(tracing) = &self.tracing {
            tracing.check(&path.key("tracing"), errors);
        }
    }
}

/// The route label of a check that ended before a route was known.
pub(super) const NO_ROUTE: &str = "none";

/// Upper bounds of the duration histogram, in microseconds: from the cost of a check in memory to Envoy's own patience.
pub(super) const BUCKETS: [u64; 14] =
    [50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000];

/// Every outage, for series that exist before they are counted.
pub(super) const OUTAGES: [Outage; 6] =
    [Outage::Deadline, Outage::Unreachable, Outage::Refused, Outage::CircuitOpen, Outage::Full, Outage::Stale];

/// The counters of one process.
#[derive(Debug)]
pub struct Metrics {
    routes: ArcSwap<BTreeMap<String, Arc<RouteCounters>>>,
    none: Arc<RouteCounters>,
    outages: [AtomicU64; OUTAGES.len()],
    reload: Reload,
    subjects: Option<Subjects>,
}

/// How the last reload of the configuration went.
#[derive(Debug, Default)]
pub(super) struct Reload {
    pub(super) failed: AtomicBool,
    /// Seconds since 1970 of the last attempt; 0 before there was one.
    pub(super) tried: AtomicU64,
    /// Seconds since 1970 of the last one that worked, the start among them.
    pub(super) worked: AtomicU64,
}

/// The counters of one route.
#[derive(Debug)]
pub(super) struct RouteCounters {
    pub(super) endings: [AtomicU64; SLOTS],
    pub(super) durations: Durations,
}

/// A histogram without a lock.
#[derive(Debug)]
pub(super) struct Durations {
    counts: [AtomicU64; BUCKETS.len() + 1],
    sum: AtomicU64,
}

impl Metrics {
    /// Counters at zero.
    pub fn new(config: &ObserveConfig) -> Self {
        let none = Arc::new(RouteCounters::new());
        Self {
            routes: ArcSwap::from_pointee(BTreeMap::from([(NO_ROUTE.to_owned(), Arc::clone(&none))])),
            none,
            outages: array::from_fn(|_| AtomicU64::new(0)),
            reload: Reload::default(),
            subjects: Subjects::new(usize::try_from(config.subjects).unwrap_or(0)),
        }
    }

    /// Makes counters for the routes of a policy. To be called before the policy serves: a check of a route without counters counts
    /// as `none`. Routes of earlier policies keep theirs, because checks may still be running on them and a counter must not
    /// fall; the labels are bounded by what the operator has written since the start.
    pub fn add_routes<'n>(&self, names: impl IntoIterator<Item = &'n str>) {
        let names: Vec<&str> = names.into_iter().collect();
        self.routes.rcu(|routes| {
            let mut routes = BTreeMap::clone(routes);
            for name in &names {
                routes.entry((*name).to_owned()).or_insert_with(|| Arc::new(RouteCounters::new()));
            }
            routes
        });
    }

    /// Notes that the configuration was loaded, at the start or again, or that it could not be and the last good one stays.
    pub fn reloaded(&self, now: Timestamp, worked: bool) {
        self.reload.tried.store(now.secs(), Relaxed);
        if worked {
            self.reload.worked.store(now.secs(), Relaxed);
        }
        self.reload.failed.store(!worked, Relaxed);
    }

    /// Counts one check.
    pub(super) fn count(&self, route: Option<&str>, ending: Ending, took: Duration, outage: Option<Outage>) {
        let routes = self.routes.load();
        let counters = route.and_then(|name| routes.get(name)).unwrap_or(&self.none);
        if let Some(count) = counters.endings.get(ending.slot()) {
            count.fetch_add(1, Relaxed);
        }
        counters.durations.observe(took);
        if let Some(outage) = outage
            && let Some(count) = OUTAGES.iter().position(|known| *known == outage).and_then(|at| self.outages.get(at))
        {
            count.fetch_add(1, Relaxed);
        }
    }

    /// Counts one check of somebody known.
    pub(super) fn count_subject(&self, principal: &Principal, allowed: bool) {
        if let Some(subjects) = &self.subjects {
            subjects.count(principal, allowed);
        }
    }

    /// Every route with its counters, by name.
    pub(super) fn routes(&self) -> Arc<BTreeMap<String, Arc<RouteCounters>>> {
        self.routes.load_full()
    }

    /// Outages with their counts.
    pub(super) fn outages(&self) -> impl Iterator<Item = (&'static str, u64)> {
        OUTAGES.iter().zip(&self.outages).map(|(outage, count)| (outage.label(), count.load(Relaxed)))
    }

    /// How the last reload went.
    pub(super) fn reload(&self) -> &Reload {
        &self.reload
    }

    /// The busiest subjects; `None` when they are not counted.
    pub(super) fn subjects(&self) -> Option<Vec<Shown>> {
        self.subjects.as_ref().map(Subjects::shown)
    }
}

impl RouteCounters {
    fn new() -> Self {
        Self {
            endings: array::from_fn(|_| AtomicU64::new(0)),
            durations: Durations { counts: array::from_fn(|_| AtomicU64::new(0)), sum: AtomicU64::new(0) },
        }
    }
}

impl Durations {
    fn observe(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS.partition_point(|bound| *bound < micros);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Relaxed);
        }
        self.sum.fetch_add(micros, Relaxed);
    }

    /// The sum in microseconds, and the count of each bucket alone, the one without an upper bound last.
    pub(super) fn read(&self) -> (u64, [u64; BUCKETS.len() + 1]) {
        (self.sum.load(Relaxed), array::from_fn(|at| self.counts.get(at).map_or(0, |count| count.load(Relaxed))))
    }
}

#[cfg(test)]
mod tests {
    use tollgate_core::decision::Reason;

    use super::*;

    #[test]
    fn a_duration_falls_into_the_first_bucket_that_holds_it() {
        for (micros, bucket) in
            [(0, 0), (50, 0), (51, 1), (1_000, 4), (1_001, 5), (1_000_000, 13), (1_000_001, 14), (u64::MAX, 14)]
        {
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
        metrics.add_routes(["/v1/models"]);
        for route in [None, Some("/v1/models"), Some("/made/up"), Some("none")] {
            metrics.count(route, Ending::Deny(Reason::NoRoute), Duration::ZERO, None);
        }
        metrics.add_routes(["/v1/models", "/v1/chat/completions"]);
        let routes = metrics.routes();
        let slot = Ending::Deny(Reason::NoRoute).slot();
        let counts: Vec<_> = routes.iter().map(|(name, route)| (name.as_str(), route.endings[slot].load(Relaxed))).collect();
        assert_eq!(counts, [("/v1/chat/completions", 0), ("/v1/models", 1), ("none", 3)]);
    }

    #[test]
    fn too_many_subjects_are_refused() {
        for (subjects, good) in [(0, true), (1000, true), (1001, false)] {
            let mut errors = Errors::default();
            ObserveConfig { subjects, ..ObserveConfig::default() }.check(&Path::root().key("observe"), &mut errors);
            assert_eq!(errors.is_empty(), good, "{subjects}");
        }
    }
}
