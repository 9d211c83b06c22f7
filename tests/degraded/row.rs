//! The rows of the matrix as data, and the record of what a test has verified of them.

use std::{collections::BTreeSet, sync::Mutex};

use crate::rig::{http::Reply, tollgate::sum_of_series, until};

/// One row of the matrix: a condition, and what follows from it.
pub(crate) struct Row {
    /// The condition, as the page has it. It identifies the row.
    pub(crate) condition: &'static str,
    /// The answers to checks while the condition lasts.
    pub(crate) answers: &'static [Answer],
    /// The series of `/metrics` while the condition lasts.
    pub(crate) metrics: &'static [Metric],
    /// Lines of the log. `...` is any text.
    pub(crate) log: &'static [&'static str],
    /// Parts of audit lines. `...` is any text.
    pub(crate) audit: &'static [&'static str],
    /// The way back to normal, without a restart.
    pub(crate) recovery: &'static str,
    /// The series of `/metrics` after it.
    pub(crate) recovered: &'static [Metric],
}

/// The answer to one kind of request.
#[derive(PartialEq)]
pub(crate) struct Answer {
    /// The kind of request. It identifies the answer in its row.
    pub(crate) to: &'static str,
    pub(crate) status: u16,
    /// The code of the reason; empty for a request that is allowed, and for an answer without one.
    pub(crate) reason: &'static str,
    pub(crate) headers: &'static [(&'static str, &'static str)],
}

/// The sum of some series of a metric.
pub(crate) struct Metric {
    pub(crate) name: &'static str,
    /// Labels that the series have, as `name="value"`.
    pub(crate) labels: &'static [&'static str],
    pub(crate) value: Value,
}

/// The expected value of a metric.
pub(crate) enum Value {
    Is(f64),
    AtLeast(f64),
    AtMost(f64),
}

impl Metric {
    pub(crate) const fn is(
        name: &'static str,
        labels: &'static [&'static str],
        value: f64,
    ) -> Self {
        Self { name, labels, value: Value::Is(value) }
    }

    pub(crate) const fn at_least(
        name: &'static str,
        labels: &'static [&'static str],
        value: f64,
    ) -> Self {
        Self { name, labels, value: Value::AtLeast(value) }
    }

    pub(crate) const fn at_most(
        name: &'static str,
        labels: &'static [&'static str],
        value: f64,
    ) -> Self {
        Self { name, labels, value: Value::AtMost(value) }
    }

    /// The metric as the page has it.
    pub(crate) fn text(&self) -> String {
        let labels = match self.labels {
            [] => String::new(),
            labels => format!("{{{}}}", labels.join(",")),
        };
        match self.value {
            Value::Is(value) => format!("{}{labels} {value}", self.name),
            Value::AtLeast(1.0) => format!("{}{labels}", self.name),
            Value::AtLeast(value) => format!("{}{labels} >= {value}", self.name),
            Value::AtMost(value) => format!("{}{labels} <= {value}", self.name),
        }
    }

    fn holds(&self, exposition: &str, more: &[&str]) -> bool {
        let sum = sum_of_series(exposition, self.name, &[self.labels, more].concat());
        match self.value {
            Value::Is(value) => sum == value,
            Value::AtLeast(value) => sum >= value,
            Value::AtMost(value) => sum <= value,
        }
    }
}

/// What an operator sees of a Tollgate.
pub(crate) trait Observed {
    fn exposition(&self) -> String;
    fn log(&self) -> String;
    fn audit_log(&self) -> String;
}

/// What a test has verified. The end of the test verifies that this is everything.
#[derive(Default)]
pub(crate) struct Verified(Mutex<BTreeSet<(&'static str, String)>>);

impl Verified {
    fn note(&self, row: &Row, what: impl Into<String>) {
        self.0.lock().unwrap().insert((row.condition, what.into()));
    }

    /// Fails unless a check was answered as the row has it.
    pub(crate) fn answer(&self, row: &Row, to: &str, reply: &Reply) {
        let headers: Vec<(&str, &str)> =
            reply.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        self.answered(row, to, reply.status, &reply.code(), &headers);
    }

    /// As [`Self::answer`], of an answer in parts.
    pub(crate) fn answered(
        &self,
        row: &Row,
        to: &str,
        status: u16,
        reason: &str,
        headers: &[(&str, &str)],
    ) {
        let expected = row.answers.iter().find(|answer| answer.to == to);
        let Some(expected) = expected else { panic!("{}: no answer to {to}", row.condition) };
        assert_eq!((status, reason), (expected.status, expected.reason), "{}: {to}", row.condition);
        for (name, value) in expected.headers {
            let found: Vec<&str> = headers
                .iter()
                .filter(|(known, _)| known == name)
                .map(|(_, value)| *value)
                .collect();
            assert_eq!(found, [*value], "{}: {to}: `{name}`", row.condition);
        }
        self.note(row, to);
    }

    /// Waits for the metrics, the lines of the log and the audit lines of the row. The series of
    /// the metrics have the labels `more` as well, and the lines contain `of`.
    pub(crate) fn observed(&self, row: &Row, tollgate: &dyn Observed, more: &[&str], of: &str) {
        for metric in row.metrics {
            self.metric(row, metric, tollgate, more);
        }
        for (lines, what) in [(row.log, "log"), (row.audit, "audit")] {
            for line in lines {
                until(&format!("{}: {what}: {line}", row.condition), || {
                    let text = if what == "log" { tollgate.log() } else { tollgate.audit_log() };
                    has_line(&text, line, of).then_some(())
                });
                self.note(row, format!("{what} {line}"));
            }
        }
    }

    /// Waits for the condition that means that the row's condition is over, and for the metrics.
    pub(crate) fn recovered(
        &self,
        row: &Row,
        tollgate: &dyn Observed,
        more: &[&str],
        condition: impl FnMut() -> Option<()>,
    ) {
        until(&format!("{}: recovery", row.condition), condition);
        for metric in row.recovered {
            self.metric(row, metric, tollgate, more);
        }
        self.note(row, "recovery");
    }

    fn metric(&self, row: &Row, metric: &Metric, tollgate: &dyn Observed, more: &[&str]) {
        let text = metric.text();
        until(&format!("{}: {text}", row.condition), || {
            metric.holds(&tollgate.exposition(), more).then_some(())
        });
        self.note(row, text);
    }

    /// Fails unless everything that the rows state was verified.
    pub(crate) fn is_everything(&self, rows: &[&Row]) {
        let verified = self.0.lock().unwrap();
        for row in rows {
            let answers = row.answers.iter().map(|answer| answer.to.to_owned());
            let metrics = row.metrics.iter().chain(row.recovered).map(Metric::text);
            let log = row.log.iter().map(|line| format!("log {line}"));
            let audit = row.audit.iter().map(|line| format!("audit {line}"));
            let stated = answers.chain(metrics).chain(log).chain(audit);
            for what in stated.chain(["recovery".to_owned()]) {
                assert!(
                    verified.contains(&(row.condition, what.clone())),
                    "{}: not verified: {what}",
                    row.condition
                );
            }
        }
    }
}

/// Whether a line has the parts of `pattern` in their order, and `of`.
fn has_line(text: &str, pattern: &str, of: &str) -> bool {
    text.lines().any(|line| {
        let mut rest = line;
        line.contains(of)
            && pattern.split("...").all(|part| match rest.split_once(part) {
                Some((_, after)) => {
                    rest = after;
                    true
                }
                None => false,
            })
    })
}
