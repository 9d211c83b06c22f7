//! The result of one answer, and the counts of all.

use std::{collections::BTreeMap, str::FromStr};

use serde_json::{Value, json};

use crate::histogram::Histogram;

/// The result of one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// Allowed, or HTTP 200.
    Ok,
    /// Denied with this HTTP status.
    Denied(u16),
    /// No result: a reset stream, a gRPC error, or a message that cannot be read.
    Failed,
}

/// Text that is not a verdict.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is neither `ok` nor a status")]
pub(crate) struct VerdictError(String);

impl FromStr for Verdict {
    type Err = VerdictError;

    fn from_str(text: &str) -> Result<Self, VerdictError> {
        match text {
            "ok" => Ok(Self::Ok),
            code => code.parse().map(Self::Denied).map_err(|_| VerdictError(code.to_owned())),
        }
    }
}

/// All answers of one measurement.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) latencies: Histogram,
    counts: BTreeMap<Verdict, u64>,
    /// Answers since the start, including those before recording started.
    pub(crate) all: u64,
    pub(crate) recording: bool,
    expected: Verdict,
    unexpected: Option<Verdict>,
}

impl Tally {
    pub(crate) fn new(expected: Verdict) -> Self {
        let (latencies, counts) = (Histogram::new(), BTreeMap::new());
        Self { latencies, counts, all: 0, recording: false, expected, unexpected: None }
    }

    pub(crate) fn answer(&mut self, verdict: Verdict, nanos: u64) {
        self.all += 1;
        if verdict != self.expected {
            self.unexpected = Some(verdict);
        }
        if self.recording {
            self.latencies.add(nanos);
            *self.counts.entry(verdict).or_default() += 1;
        }
    }

    /// Returns the number of recorded answers.
    pub(crate) fn recorded(&self) -> u64 {
        self.counts.values().sum()
    }

    /// Fails when an answer was not the expected one, before recording included: the measurement is
    /// then not about the expected path.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        match self.unexpected {
            Some(verdict) => anyhow::bail!(
                "an answer was {verdict:?} and not {:?}; counted: {:?}",
                self.expected,
                self.counts
            ),
            None => Ok(()),
        }
    }

    pub(crate) fn json(&self, seconds: f64) -> Value {
        let count = |wanted: fn(&Verdict) -> bool| -> u64 {
            self.counts.iter().filter(|(verdict, _)| wanted(verdict)).map(|(_, count)| count).sum()
        };
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let rate = self.recorded() as f64 / seconds;
        json!({
            "seconds": seconds,
            "requests": self.recorded(),
            "rps": rate,
            "p50_us": self.latencies.quantile(0.5),
            "p99_us": self.latencies.quantile(0.99),
            "p999_us": self.latencies.quantile(0.999),
            "max_us": self.latencies.max(),
            "ok": count(|verdict| *verdict == Verdict::Ok),
            "denied": count(|verdict| matches!(verdict, Verdict::Denied(_))),
            "failed": count(|verdict| *verdict == Verdict::Failed),
        })
    }
}
