//! The task that exports spans: one batch at a time, retried for a while where a retry may help.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::mpsc::Receiver,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    client::{Client, ExportError},
    span::{self, Span},
};
use crate::proto::opentelemetry::proto::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{InstrumentationScope, KeyValue},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans},
};

/// Most checks in one export.
const BATCH: usize = 512;
/// How long the first check of a batch waits for others.
const GATHER: Duration = Duration::from_secs(1);
/// The pause before a failed export is retried, doubled each time, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long one batch is retried. Spans that arrive in the meantime wait in the queue, or are
/// dropped where it is full.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);

/// Spans by what happened to them.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) exported: AtomicU64,
    /// Spans that found the queue full.
    pub(super) full: AtomicU64,
    /// Spans of batches that were discarded.
    pub(super) export: AtomicU64,
    /// Spans that the collector rejected from an accepted batch.
    pub(super) rejected: AtomicU64,
}

pub(super) struct Exporter {
    client: Client,
    queue: Receiver<Span>,
    counters: Arc<Counters>,
    resource: Resource,
    timeout: Duration,
    closing: CancellationToken,
    /// Whether the last export failed, so that a failure is logged once.
    failing: bool,
}

impl Exporter {
    pub(super) fn new(
        client: Client,
        queue: Receiver<Span>,
        counters: Arc<Counters>,
        attributes: Vec<KeyValue>,
        timeout: Duration,
        closing: CancellationToken,
    ) -> Self {
        Self {
            client,
            queue,
            counters,
            resource: Resource { attributes },
            timeout,
            closing,
            failing: false,
        }
    }

    /// Exports until `closing` is cancelled, and then what waits.
    pub(super) async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            self.gather(&mut batch).await;
            if batch.is_empty() {
                return;
            }
            self.export_batch(&batch).await;
            batch.clear();
        }
    }

    /// Fills the batch, or leaves it empty at the end.
    async fn gather(&mut self, batch: &mut Vec<Span>) {
        let closing = self.closing.clone();
        if closing.run_until_cancelled(self.queue.recv_many(batch, 1)).await.is_some() {
            let until = Instant::now() + GATHER;
            while batch.len() < BATCH && !self.queue.is_closed() {
                let more = timeout_at(until, self.queue.recv_many(batch, BATCH - batch.len()));
                match closing.run_until_cancelled(more).await {
                    Some(Ok(count)) if count > 0 => {}
                    _ => break,
                }
            }
        }
        if closing.is_cancelled() {
            self.queue.close();
            while batch.len() < BATCH {
                match self.queue.try_recv() {
                    Ok(span) => batch.push(span),
                    Err(_) => break,
                }
            }
        }
    }

    /// Exports one batch, or discards it.
    async fn export_batch(&mut self, batch: &[Span]) {
        let mut spans = Vec::with_capacity(2 * batch.len());
        batch.iter().for_each(|span| span.write(&mut spans));
        let count = spans.len() as u64;
        let scope = InstrumentationScope {
            name: "tollgate".into(),
            version: env!("CARGO_PKG_VERSION").into(),
        };
        let scope_spans = vec![ScopeSpans { scope: Some(scope), spans }];
        let resource_spans =
            vec![ResourceSpans { resource: Some(self.resource.clone()), scope_spans }];
        let request = ExportTraceServiceRequest { resource_spans };

        let until = Instant::now() + GIVE_UP_AFTER;
        let mut pause = FIRST_PAUSE;
        loop {
            let exported = timeout(self.timeout, self.client.export(&request)).await;
            let late = |_| ExportError {
                cause: "the collector did not answer in time".into(),
                retry: Some(None),
            };
            match exported.map_err(late).flatten() {
                Ok(taken) => {
                    let rejected = taken.rejected.min(count);
                    self.counters.exported.fetch_add(count - rejected, Relaxed);
                    self.counters.rejected.fetch_add(rejected, Relaxed);
                    if rejected > 0 {
                        self.report_failure(&format!(
                            "the collector left out {rejected} of {count}: {}",
                            taken.message
                        ));
                    } else {
                        self.report_success();
                    }
                    return;
                }
                Err(ExportError { cause, retry }) => {
                    self.report_failure(&cause);
                    let wait = retry
                        .map(|at_least| at_least.unwrap_or_default().max(pause).min(LONGEST_PAUSE));
                    match wait {
                        Some(wait)
                            if !self.closing.is_cancelled() && Instant::now() + wait < until =>
                        {
                            let wait = wait.mul_f64(rand::random_range(0.8..=1.0));
                            // At the end, one more attempt without a pause.
                            self.closing.clone().run_until_cancelled(sleep(wait)).await;
                            pause *= 2;
                        }
                        _ => {
                            self.counters.export.fetch_add(count, Relaxed);
                            return;
                        }
                    }
                }
            }
        }
    }

    fn report_failure(&mut self, cause: &str) {
        if !self.failing {
            self.failing = true;
            tracing::warn!("span export failed, spans are dropped once the queue is full: {cause}");
        }
    }

    fn report_success(&mut self) {
        if self.failing {
            self.failing = false;
            tracing::info!("span export works again");
        }
    }
}

/// Returns the resource attributes of the process.
pub(super) fn resource<'a>(
    service: &'a str,
    more: impl Iterator<Item = (&'a str, &'a str)>,
) -> Vec<KeyValue> {
    [("service.name", service), ("service.version", env!("CARGO_PKG_VERSION"))]
        .into_iter()
        .chain(more)
        .map(|(name, value)| span::text(name, value))
        .collect()
}
