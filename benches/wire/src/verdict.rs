//! What an answer says, and what all of them said.

use std::{collections::BTreeMap, str::FromStr};

use serde_json::{Value, json};

use crate::histogram::Histogram;

/// One answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// Allowed, or HTTP 200.
    Ok,
    /// Denied with this HTTP status.
    Denied(u16),
    /// No answer: a reset stream, a gRPC error, a message that cannot be read.
    Failed,
}

/// What every answer has to be.
impl FromStr for Verdict {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "ok" => Ok(Self::Ok),
            code => code
                .parse()
                .map(Self::Denied)
                .map_err(|_| format!("`{code}` is neither `ok` nor a status")),
        }
    }
}

/// All answers of one measurement.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) latencies: Histogram,
    counts: BTreeMap<Verdict, u64>,
    /// Answers since the start, also those before anything is recorded.
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

    /// How many were recorded.
    pub(crate) fn recorded(&self) -> u64 {
        self.counts.values().sum()
    }

    /// A measurement in which one answer was another than expected measured something else, warm-up included.
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
