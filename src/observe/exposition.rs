//! The counters as OpenMetrics text, made when somebody asks for it. What other rooms know is an argument, [`Status`], so that
//! nothing is kept twice.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use super::{
    audit::Dropped,
    ending::Ending,
    metrics::{BUCKETS, Metrics, NO_ROUTE},
};

/// The content type of `exposition`.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the other rooms know at this moment.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Each issuer's keys.
    pub jwks: Vec<JwksStatus>,
    /// The store; `None` when nothing is asked of one.
    pub store: Option<StoreStatus>,
    /// The tokens that were verified before.
    pub tokens: TokenStatus,
}

/// The token cache.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenStatus {
    /// Look-ups by result.
    pub lookups: [(&'static str, u64); 3],
    /// Good tokens that are remembered.
    pub entries: u64,
    /// Bytes that all remembered tokens take, refused ones included.
    pub bytes: u64,
}

/// The keys of one issuer.
#[derive(Clone, Debug)]
pub struct JwksStatus {
    /// The issuer as the configuration writes it.
    pub issuer: String,
    /// How many keys may be used.
    pub keys: u64,
    /// Seconds since the last good fetch; `None` before there was one.
    pub age_seconds: Option<f64>,
    /// Fetches that brought a good set.
    pub ok: u64,
    /// Fetches that did not.
    pub failed: u64,
}

/// The store.
#[derive(Clone, Copy, Debug)]
pub struct StoreStatus {
    /// Whether the last question was answered. A store in memory is always up.
    pub up: bool,
    /// Its circuit breaker.
    pub circuit: Circuit,
}

/// A circuit breaker's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Circuit {
    /// Questions are asked.
    Closed,
    /// One question is asked, to see.
    HalfOpen,
    /// None is asked.
    Open,
}

impl Circuit {
    const ALL: [Self; 3] = [Self::Closed, Self::HalfOpen, Self::Open];

    const fn label(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        }
    }
}

/// Everything as OpenMetrics 1.0 text.
///
/// # Errors
/// None that occurs: it writes into memory.
pub(super) fn exposition(metrics: &Arc<Metrics>, status: Status, dropped: Dropped) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("tollgate");
    registry.register_collector(Box::new(Scrape { metrics: Arc::clone(metrics), status, dropped }));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Scrape {
    metrics: Arc<Metrics>,
    status: Status,
    dropped: Dropped,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        encoder
            .encode_descriptor("build", "The version that runs.", None, MetricType::Info)?
            .encode_info(&[("version", env!("CARGO_PKG_VERSION"))])?;
        self.checks(encoder)?;
        self.store(encoder)?;
        self.jwks(encoder)?;
        self.tokens(encoder)?;
        self.config(encoder)?;
        let mut family = Family::counter(encoder, "audit_dropped", "Audit lines that were not written, by cause.")?;
        for (cause, count) in self.dropped.by_cause() {
            family.count(&[("cause", cause)], count)?;
        }
        self.subjects(encoder)
    }
}

impl Scrape {
    fn checks(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let routes = self.metrics.routes();
        let mut family = Family::counter(encoder, "checks", "Checks by decision, reason and route.")?;
        for (route, counters) in routes.iter() {
            for ending in Ending::all() {
                let count = counters.endings.get(ending.slot()).map_or(0, |count| count.load(Relaxed));
                if count > 0 || ending.is_expected(route == NO_ROUTE) {
                    family.count(&[("decision", ending.decision()), ("reason", ending.reason()), ("route", route)], count)?;
                }
            }
        }
        let help = "Time from the start of a check to the end of its answer.";
        let mut family = Family::new(encoder, "check_duration", help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for (route, counters) in routes.iter() {
            let (sum, counts) = counters.durations.read();
            let bounds = BUCKETS.iter().map(|bound| seconds(*bound)).chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
            let labels = [("route", route.as_str())];
            family.0.encode_family(&labels)?.encode_histogram::<NoLabelSet>(seconds(sum), counts.iter().sum(), &buckets, None)?;
        }
        Ok(())
    }

    fn store(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut family = Family::counter(encoder, "store_errors", "Checks for which the store could not be asked, by outage.")?;
        for (outage, count) in self.metrics.outages() {
            family.count(&[("outage", outage)], count)?;
        }
        let Some(store) = self.status.store else { return Ok(()) };
        Family::gauge(encoder, "store_up", "Whether the last question to the store was answered.", None)?
            .alone(u64::from(store.up))?;
        let mut family =
            Family::gauge(encoder, "store_circuit", "The state of the store's circuit breaker: 1 for the one it is in.", None)?;
        for state in Circuit::ALL {
            family.value(&[("state", state.label())], u64::from(state == store.circuit))?;
        }
        Ok(())
    }

    fn jwks(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let jwks = &self.status.jwks;
        let mut family = Family::gauge(encoder, "jwks_keys", "Keys of an issuer that may be used.", None)?;
        for issuer in jwks {
            family.value(&[("issuer", issuer.issuer.as_str())], issuer.keys)?;
        }
        let help = "Time since an issuer's keys were last fetched; absent before they were.";
        let mut family = Family::gauge(encoder, "jwks_age", help, Some(&Unit::Seconds))?;
        for issuer in jwks {
            if let Some(age) = issuer.age_seconds {
                family.value(&[("issuer", issuer.issuer.as_str())], age)?;
            }
        }
        let mut family = Family::counter(encoder, "jwks_fetches", "Fetches of an issuer's keys, by result.")?;
        for issuer in jwks {
            for (result, count) in [("ok", issuer.ok), ("failed", issuer.failed)] {
                family.count(&[("issuer", issuer.issuer.as_str()), ("result", result)], count)?;
            }
        }
        Ok(())
    }

    fn tokens(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let TokenStatus { lookups, entries, bytes } = self.status.tokens;
        let help = "Tokens looked up, by result: known and good, known and bad, or verified.";
        let mut family = Family::counter(encoder, "token_cache_lookups", help)?;
        for (result, count) in lookups.iter().filter(|(result, _)| !result.is_empty()) {
            family.count(&[("result", *result)], *count)?;
        }
        Family::gauge(encoder, "token_cache_entries", "Good tokens that are remembered.", None)?.alone(entries)?;
        let help = "Bytes that remembered tokens take, refused ones included.";
        Family::gauge(encoder, "token_cache", help, Some(&Unit::Bytes))?.alone(bytes)
    }

    fn config(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let reload = self.metrics.reload();
        let help = "Whether the last reload of the configuration failed and the one before it still serves.";
        Family::gauge(encoder, "config_reload_failed", help, None)?.alone(u64::from(reload.failed.load(Relaxed)))?;
        let help = "When the configuration was last loaded, well or not, since 1970.";
        Family::gauge(encoder, "config_last_reload_timestamp", help, Some(&Unit::Seconds))?.alone(reload.tried.load(Relaxed))?;
        let help = "When the configuration that serves was loaded, since 1970.";
        Family::gauge(encoder, "config_last_success_timestamp", help, Some(&Unit::Seconds))?.alone(reload.worked.load(Relaxed))
    }

    fn subjects(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(subjects) = self.metrics.subjects() else { return Ok(()) };
        let help = "Checks of the busiest subjects since each became one of them, and of the rest as other.";
        let mut family = Family::counter(encoder, "subject_checks", help)?;
        for line in &subjects {
            for (decision, count) in [("allow", line.counts.allow), ("deny", line.counts.deny)] {
                let labels = [("issuer", line.issuer.as_str()), ("subject", line.subject.as_str()), ("decision", decision)];
                family.count(&labels, count)?;
            }
        }
        Ok(())
    }
}

/// One metric with its series.
struct Family<'e>(MetricEncoder<'e>);

impl<'e> Family<'e> {
    fn new(
        encoder: &'e mut DescriptorEncoder<'_>,
        name: &'e str,
        help: &str,
        unit: Option<&'e Unit>,
        kind: MetricType,
    ) -> Result<Self, fmt::Error> {
        encoder.encode_descriptor(name, help, unit, kind).map(Self)
    }

    fn counter(encoder: &'e mut DescriptorEncoder<'_>, name: &'e str, help: &str) -> Result<Self, fmt::Error> {
        Self::new(encoder, name, help, None, MetricType::Counter)
    }

    fn gauge(
        encoder: &'e mut DescriptorEncoder<'_>,
        name: &'e str,
        help: &str,
        unit: Option<&'e Unit>,
    ) -> Result<Self, fmt::Error> {
        Self::new(encoder, name, help, unit, MetricType::Gauge)
    }

    fn count(&mut self, labels: &impl EncodeLabelSet, count: impl EncodeCounterValue) -> fmt::Result {
        self.0.encode_family(labels)?.encode_counter::<NoLabelSet, _, f64>(&count, None)
    }

    fn value(&mut self, labels: &impl EncodeLabelSet, value: impl EncodeGaugeValue) -> fmt::Result {
        self.0.encode_family(labels)?.encode_gauge(&value)
    }

    fn alone(mut self, value: impl EncodeGaugeValue) -> fmt::Result {
        self.0.encode_gauge(&value)
    }
}

#[expect(clippy::cast_precision_loss, reason = "2^53 microseconds are 285 years")]
fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}
