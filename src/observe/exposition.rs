//! The metrics as OpenMetrics text, made on request. The state of other modules is an argument,
//! [`Status`], so that nothing is stored twice.

mod checks;
mod credentials;
mod family;
mod network_bans;
mod store;
mod usage;

use std::{
    fmt,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, text},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use self::family::Family;
pub use self::network_bans::NetworkBanStatus;
use super::{
    audit::{Dropped, QueueUsage},
    metrics::Metrics,
    process::{ProcessMetrics, ProcessStatus},
    trace::SpanCounts,
};
use crate::store::{KeyReplicaStatus, LocalStatus, StoreStatus};

/// The content type of the exposition.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The state of the other modules at the time of a request.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Whether `/readyz` reports ready.
    pub ready: bool,
    /// The keys of each issuer.
    pub jwks: Vec<JwksStatus>,
    /// The state of the store; `None` in an exposition without a store.
    pub store: Option<StoreStatus>,
    /// The state of the local fallback; `None` where no route uses it.
    pub local: Option<LocalStatus>,
    /// The budget for messages; `None` without listeners.
    pub in_flight: Option<InFlightStatus>,
    /// The copy of the API keys in Redis; `None` where Redis is no source.
    pub api_keys: Option<ApiKeyStatus>,
    /// The state of the token cache.
    pub tokens: TokenStatus,
    /// The refusals of limits that are remembered.
    pub refusals: u64,
    /// The certificates of the listeners with TLS.
    pub certificates: Vec<CertificateStatus>,
    /// The state of automatic bans; `None` where the policy has none.
    pub network_bans: Option<NetworkBanStatus>,
    /// The most denied requests of one holder of a credential in the latest minute.
    pub most_denials: u64,
}

/// The period in which the certificates of a listener are valid, in seconds since 1970.
#[derive(Clone, Debug)]
pub struct CertificateStatus {
    /// The key of the listener in the configuration.
    pub listener: String,
    /// The beginning of the period.
    pub not_before: u64,
    /// The end of the period.
    pub not_after: u64,
}

/// The copy of the API keys in Redis.
#[derive(Clone, Copy, Debug)]
pub struct ApiKeyStatus {
    /// The copy itself.
    pub replica: KeyReplicaStatus,
    /// The records that name a limit or a tier that the policy does not have.
    pub misfits: usize,
}

/// The token cache.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenStatus {
    /// Lookups by result.
    pub lookups: [(&'static str, u64); 3],
    /// Cached tokens that were verified.
    pub entries: u64,
    /// Bytes of all cached tokens, rejected ones included.
    pub bytes: u64,
}

/// The budget for messages, `body.max_in_flight`.
#[derive(Clone, Copy, Debug, Default)]
pub struct InFlightStatus {
    /// The bytes that messages hold.
    pub bytes: u64,
    /// The bytes that messages may hold together.
    pub limit: u64,
}

/// The queues of this module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queues {
    pub(super) dropped: Dropped,
    pub(super) audit: Option<QueueUsage>,
    /// The counts of spans; `None` where tracing is off.
    pub(super) spans: Option<SpanCounts>,
}

/// The keys of one issuer.
#[derive(Clone, Debug)]
pub struct JwksStatus {
    /// The issuer as configured.
    pub issuer: String,
    /// The number of keys that may be used.
    pub keys: u64,
    /// The time since the last good fetch; `None` before there was one.
    pub age: Option<Duration>,
    /// Fetches that brought usable keys.
    pub ok: u64,
    /// Fetches that failed.
    pub failed: u64,
}

/// Returns all metrics as OpenMetrics 1.0 text.
///
/// # Errors
/// None occurs: it writes into memory.
pub(super) fn exposition(
    metrics: &Arc<Metrics>,
    status: Status,
    queues: Queues,
) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("tollgate");
    registry.register_collector(Box::new(Scrape { metrics: Arc::clone(metrics), status, queues }));
    // These names have no prefix: dashboards and alerts for any program know them.
    let mut of_process = Registry::default();
    let status = ProcessStatus::read();
    let started = metrics.started();
    of_process.register_collector(Box::new(ProcessMetrics { started, status }));
    let mut text = String::new();
    text::encode_registry(&mut text, &registry)?;
    text::encode_registry(&mut text, &of_process)?;
    text::encode_eof(&mut text)?;
    Ok(text)
}

#[derive(Debug)]
struct Scrape {
    metrics: Arc<Metrics>,
    status: Status,
    queues: Queues,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        encoder
            .encode_descriptor("build", "The version that runs.", None, MetricType::Info)?
            .encode_info(&[("version", env!("CARGO_PKG_VERSION"))])?;
        let help = "Whether requests may be sent here, as /readyz says.";
        Family::gauge(encoder, "ready", help, None)?.alone(u64::from(self.status.ready))?;
        self.checks(encoder)?;
        self.issuers(encoder)?;
        self.subjects(encoder)?;
        self.actors(encoder)?;
        self.outages(encoder)?;
        self.in_flight(encoder)?;
        self.store(encoder)?;
        self.network_bans(encoder)?;
        self.local(encoder)?;
        self.settlements(encoder)?;
        self.ledger(encoder)?;
        self.redis_keys(encoder)?;
        self.jwks(encoder)?;
        self.secrets(encoder)?;
        self.api_keys(encoder)?;
        self.tokens(encoder)?;
        self.config(encoder)?;
        self.certificates(encoder)?;
        self.audit(encoder)?;
        self.spans(encoder)
    }
}

impl Scrape {
    fn in_flight(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(InFlightStatus { bytes, limit }) = self.status.in_flight else { return Ok(()) };
        let help = "What the messages of checks in flight hold.";
        Family::gauge(encoder, "in_flight", help, Some(&Unit::Bytes))?.alone(bytes)?;
        let help = "What they may hold together, body.max_in_flight; beyond it checks are refused as overloaded.";
        Family::gauge(encoder, "in_flight_limit", help, Some(&Unit::Bytes))?.alone(limit)
    }

    fn config(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let reload = self.metrics.reload();
        let help = "Whether the last reload of the configuration failed and the one before it still serves.";
        Family::gauge(encoder, "config_reload_failed", help, None)?
            .alone(u64::from(reload.failed.load(Relaxed)))?;
        let help = "When the configuration was last loaded, well or not, since 1970.";
        Family::gauge(encoder, "config_last_reload_timestamp", help, Some(&Unit::Seconds))?
            .alone(reload.tried.load(Relaxed))?;
        let help = "When the configuration that serves was loaded, since 1970.";
        Family::gauge(encoder, "config_last_success_timestamp", help, Some(&Unit::Seconds))?
            .alone(reload.worked.load(Relaxed))
    }

    fn audit(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut family = Family::counter(
            encoder,
            "audit_dropped",
            "Audit lines that were not written, by cause.",
        )?;
        for (cause, count) in self.queues.dropped.by_cause() {
            family.count(&[("cause", cause)], count)?;
        }
        let Some(usage) = self.queues.audit else { return Ok(()) };
        let help = "Audit lines that wait to be written, and places taken for lines to come.";
        Family::gauge(encoder, "audit_queue", help, None)?.alone(usage.used as u64)?;
        Family::gauge(
            encoder,
            "audit_queue_limit",
            "Audit lines that may wait, audit.queue.",
            None,
        )?
        .alone(usage.slots as u64)
    }

    fn spans(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(SpanCounts { exported, full, export, rejected }) = self.queues.spans else {
            return Ok(());
        };
        let help = "Spans that the collector took.";
        Family::counter(encoder, "trace_spans_exported", help)?.total(exported)?;
        let mut family = Family::counter(
            encoder,
            "trace_spans_dropped",
            "Spans that the collector did not get or take, by cause.",
        )?;
        for (cause, count) in [("full", full), ("export", export), ("rejected", rejected)] {
            family.count(&[("cause", cause)], count)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
