//! One metric and its series, as the encoder takes them.

use std::{fmt, sync::atomic::Ordering::Relaxed};

use prometheus_client::{
    encoding::{
        DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, MetricEncoder,
        NoLabelSet,
    },
    metrics::MetricType,
    registry::Unit,
};

use crate::observe::{
    metrics::{BUCKETS, DecisionCounters, Durations},
    subjects::SubjectRow,
};

/// One metric and its series.
pub(super) struct Family<'e>(MetricEncoder<'e>);

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

    /// The family of facts: each series has the value 1, and the name ends with `_info`.
    pub(super) fn info(
        encoder: &'e mut DescriptorEncoder<'_>,
        name: &'e str,
        help: &str,
    ) -> Result<Self, fmt::Error> {
        Self::new(encoder, name, help, None, MetricType::Info)
    }

    /// Writes the labels of a fact.
    pub(super) fn labels(&mut self, labels: &impl EncodeLabelSet) -> fmt::Result {
        self.0.encode_info(labels)
    }

    /// Writes checks by subject or actor.
    pub(super) fn count_holders(
        &mut self,
        label: &'static str,
        rows: &[SubjectRow],
    ) -> fmt::Result {
        for SubjectRow { issuer, subject, counts } in rows {
            for (decision, count) in [("allow", counts.allow), ("deny", counts.deny)] {
                let issuer = ("issuer", issuer.as_str());
                self.count(&[issuer, (label, subject.as_str()), ("decision", decision)], count)?;
            }
        }
        Ok(())
    }

    pub(super) fn counter(
        encoder: &'e mut DescriptorEncoder<'_>,
        name: &'e str,
        help: &str,
    ) -> Result<Self, fmt::Error> {
        Self::new(encoder, name, help, None, MetricType::Counter)
    }

    pub(super) fn gauge(
        encoder: &'e mut DescriptorEncoder<'_>,
        name: &'e str,
        help: &str,
        unit: Option<&'e Unit>,
    ) -> Result<Self, fmt::Error> {
        Self::new(encoder, name, help, unit, MetricType::Gauge)
    }

    /// The family of a histogram, in seconds.
    pub(super) fn histogram(
        encoder: &'e mut DescriptorEncoder<'_>,
        name: &'e str,
        help: &str,
    ) -> Result<Self, fmt::Error> {
        Self::new(encoder, name, help, Some(&Unit::Seconds), MetricType::Histogram)
    }

    /// Writes the only histogram of the family.
    pub(super) fn durations(mut self, durations: &Durations) -> fmt::Result {
        write_histogram(&mut self.0, durations)
    }

    /// Writes the histogram of a series.
    pub(super) fn durations_of(
        &mut self,
        labels: &impl EncodeLabelSet,
        durations: &Durations,
    ) -> fmt::Result {
        write_histogram(&mut self.0.encode_family(labels)?, durations)
    }

    pub(super) fn count(
        &mut self,
        labels: &impl EncodeLabelSet,
        count: impl EncodeCounterValue,
    ) -> fmt::Result {
        self.0.encode_family(labels)?.encode_counter::<NoLabelSet, _, f64>(&count, None)
    }

    /// Writes the two series of a name.
    pub(super) fn decisions(
        &mut self,
        label: &str,
        name: &str,
        counters: &DecisionCounters,
    ) -> fmt::Result {
        for (decision, count) in [("allow", &counters.allow), ("deny", &counters.deny)] {
            self.count(&[(label, name), ("decision", decision)], count.load(Relaxed))?;
        }
        Ok(())
    }

    pub(super) fn total(mut self, count: u64) -> fmt::Result {
        self.0.encode_counter::<NoLabelSet, _, f64>(&count, None)
    }

    pub(super) fn value(
        &mut self,
        labels: &impl EncodeLabelSet,
        value: impl EncodeGaugeValue,
    ) -> fmt::Result {
        self.0.encode_family(labels)?.encode_gauge(&value)
    }

    pub(super) fn alone(mut self, value: impl EncodeGaugeValue) -> fmt::Result {
        self.0.encode_gauge(&value)
    }
}

fn write_histogram(series: &mut MetricEncoder<'_>, durations: &Durations) -> fmt::Result {
    let (sum, counts) = durations.read();
    let bounds = BUCKETS.iter().map(|bound| seconds(*bound)).chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
    series.encode_histogram::<NoLabelSet>(seconds(sum), counts.iter().sum(), &buckets, None)
}

#[expect(clippy::cast_precision_loss, reason = "2^53 microseconds are 285 years")]
fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}
