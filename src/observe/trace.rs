//! Spans for an OpenTelemetry collector: one for each sampled check, sent over OTLP.
//!
//! A check records times in its own span and puts the span into a bounded queue; one task exports.
//! A collector never delays a check: when the queue is full or the collector is away, spans are
//! dropped and counted, and the failure is logged once.
//!
//! When tracing is off, which is the default, a check reads one `Option`.
//!
//! The messages are generated from `proto/opentelemetry`. The SDK is not used: its batch processor
//! (opentelemetry_sdk 0.32) discards a batch at its first failure, and reports the number of
//! dropped spans in its log only.

mod client;
mod config;
mod context;
mod export;
mod span;

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use http::HeaderMap;
use thiserror::Error;
use tokio::{
    sync::mpsc::{self, Sender, error::TrySendError},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tollgate_core::request::Headers;

pub use self::config::{EndpointError, OtlpProtocol, TracingConfig};
pub(crate) use self::span::{CheckData, Trace};
use self::{
    client::Client,
    context::Parent,
    export::{Counters, Exporter},
    span::Span,
};
use crate::{secrets::SecretError, tls_roots::RootsError};

/// The reason why tracing does not start.
#[derive(Debug, Error)]
pub enum TraceError {
    /// The endpoint cannot be used.
    #[error("observe.tracing.endpoint: {0}")]
    Endpoint(#[from] EndpointError),
    /// The host of the endpoint cannot be verified with TLS.
    #[error("observe.tracing.endpoint: `{0}` cannot be the name in a certificate")]
    ServerName(String),
    /// The certificate authorities cannot be read.
    #[error("observe.tracing.tls_ca: {0}")]
    Roots(#[from] RootsError),
    /// The value of a header cannot be read.
    #[error("observe.tracing.headers.{name}: {error}")]
    Header {
        /// The name of the header.
        name: String,
        /// The cause of the error.
        error: SecretError,
    },
    /// A header cannot be sent.
    #[error("observe.tracing.headers.{0}: the name or the value cannot be sent in a header")]
    InvalidHeader(String),
}

/// Samples checks and exports their spans.
#[derive(Debug)]
pub struct Tracer {
    /// A check without a parent is sampled where 63 random bits are below this value.
    threshold: u64,
    identity: bool,
    spans: Sender<Span>,
    counters: Arc<Counters>,
    closing: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// The number of spans by what happened to them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpanCounts {
    /// Spans that the collector accepted.
    pub exported: u64,
    /// Spans that found the queue full.
    pub full: u64,
    /// Spans that were discarded because the collector was unreachable or refused.
    pub export: u64,
    /// Spans that the collector rejected from a batch that it accepted.
    pub rejected: u64,
}

impl Tracer {
    /// Starts the exporter. It connects to the collector with the first span. Call it inside a
    /// Tokio runtime.
    ///
    /// # Errors
    /// Returns [`TraceError`] for a file or a header of the section that cannot be used.
    pub fn start(config: &TracingConfig) -> Result<Self, TraceError> {
        let client = Client::new(config)?;
        let (spans, queue) =
            mpsc::channel(usize::try_from(config.queue).unwrap_or(usize::MAX).max(1));
        let (counters, closing) = (Arc::<Counters>::default(), CancellationToken::new());
        let more = config.resource.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let resource = export::resource(&config.service_name, more);
        let exporter = Exporter::new(
            client,
            queue,
            Arc::clone(&counters),
            resource,
            config.timeout.std(),
            closing.clone(),
        );
        Ok(Self {
            threshold: threshold(config.sample_ratio),
            identity: config.identity,
            spans,
            counters,
            closing,
            task: Mutex::new(Some(tokio::spawn(exporter.run()))),
        })
    }

    /// Starts the span of a check, if it is sampled: the parent decides, or else the ratio. `call`
    /// holds the headers of the proxy's own call, `headers` those of the checked request.
    pub(crate) fn begin(
        &self,
        call: Option<&HeaderMap>,
        headers: &Headers<'_>,
    ) -> Option<Box<Trace>> {
        let parent = Parent::find(call, headers);
        let sampled = parent
            .as_ref()
            .map_or_else(|| rand::random::<u64>() >> 1 < self.threshold, |parent| parent.sampled);
        sampled.then(|| Box::new(Trace::new(parent)))
    }

    /// Whether spans contain subject and tenant.
    pub(crate) fn identity(&self) -> bool {
        self.identity
    }

    /// Queues the span of a finished check, without waiting.
    pub(crate) fn end(&self, trace: Trace, data: CheckData) {
        if let Err(TrySendError::Full(span) | TrySendError::Closed(span)) =
            self.spans.try_send(trace.end(data))
        {
            self.counters.full.fetch_add(span.count(), Relaxed);
        }
    }

    /// The number of spans so far.
    pub fn span_counts(&self) -> SpanCounts {
        let Counters { exported, full, export, rejected } = &*self.counters;
        SpanCounts {
            exported: exported.load(Relaxed),
            full: full.load(Relaxed),
            export: export.load(Relaxed),
            rejected: rejected.load(Relaxed),
        }
    }

    /// Exports the waiting spans and ends the task; later spans are dropped. Returns whether that
    /// was done within `deadline`.
    pub async fn close(&self, deadline: Duration) -> bool {
        self.closing.cancel();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        match task {
            Some(task) => timeout(deadline, task).await.is_ok(),
            None => true,
        }
    }
}

/// Returns the ratio as a bound for 63 random bits.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "between 0 and 2^63; the cast saturates"
)]
fn threshold(ratio: f64) -> u64 {
    (ratio * (1_u64 << 63) as f64) as u64
}

#[cfg(test)]
mod tests;
