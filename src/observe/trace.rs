//! Spans for an OpenTelemetry collector: one per sampled check, over OTLP.
//!
//! The check notes times in a record of its own and leaves it in a bounded queue; one task exports. What a collector does, or does
//! not, never reaches a check: a full queue and a dead collector drop spans, count them, and say so once.
//!
//! Off, which is the default, a check looks at one `Option`.
//!
//! The messages are generated from `proto/opentelemetry`. The SDK is not used: its batch processor (opentelemetry_sdk 0.32) gives a
//! batch up at its first failure, and tells the number of dropped spans to its log only.

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
        /// The cause.
        error: SecretError,
    },
    /// A header cannot be sent.
    #[error("observe.tracing.headers.{0}: the name or the value cannot be sent in a header")]
    InvalidHeader(String),
}

/// Decides which checks are traced, and sends their spans away.
#[derive(Debug)]
pub struct Tracer {
    /// Where no parent decides, 63 random bits below this are a yes.
    threshold: u64,
    identity: bool,
    spans: Sender<Span>,
    counters: Arc<Counters>,
    closing: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// What became of spans so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpanCounts {
    /// Taken by the collector.
    pub exported: u64,
    /// Those that found the queue full.
    pub full: u64,
    /// Given up because the collector could not be reached or refused.
    pub export: u64,
    /// Left out by the collector from a batch it took.
    pub rejected: u64,
}

impl Tracer {
    /// Starts to export. Waits for no collector. Call it inside a Tokio runtime.
    ///
    /// # Errors
    /// A file that the section names cannot be read or is not what it should be.
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

    /// Starts the span of a check, if it is sampled: as its parent says, or else by the ratio. `call` is the head of the proxy's own
    /// call, `headers` those of the checked request.
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

    /// Whether spans name subject and tenant.
    pub(crate) fn identity(&self) -> bool {
        self.identity
    }

    /// Sends the span of a check that has ended. Never waits.
    pub(crate) fn end(&self, trace: Trace, data: CheckData) {
        if let Err(TrySendError::Full(span) | TrySendError::Closed(span)) =
            self.spans.try_send(trace.end(data))
        {
            self.counters.full.fetch_add(span.count(), Relaxed);
        }
    }

    /// What became of spans so far.
    pub fn span_counts(&self) -> SpanCounts {
        let Counters { exported, full, export, rejected } = &*self.counters;
        SpanCounts {
            exported: exported.load(Relaxed),
            full: full.load(Relaxed),
            export: export.load(Relaxed),
            rejected: rejected.load(Relaxed),
        }
    }

    /// Exports what waits and ends the task; spans that come later are dropped. Waits no longer than `deadline`, and says whether that
    /// was long enough.
    pub async fn close(&self, deadline: Duration) -> bool {
        self.closing.cancel();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        match task {
            Some(task) => timeout(deadline, task).await.is_ok(),
            None => true,
        }
    }
}

/// The ratio as a bound for 63 random bits.
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
