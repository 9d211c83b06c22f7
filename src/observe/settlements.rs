//! The counters of settlements: what reports of usage changed, and which were not used.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use tollgate_core::admission::Settled;

/// The reason why a report is not used, or not as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportProblem {
    /// The message is not one of the protocol.
    Malformed,
    /// The message is too long, or compressed.
    TooLarge,
    /// The entry has no reservation.
    NoReservation,
    /// The entry is about another event than a request.
    OtherEvent,
    /// The reservation was not made with a secret in force.
    Forged,
    /// No secret of reservations can be used.
    NoSecret,
    /// A count is negative, not whole, or too large.
    Absurd,
    /// The count is above what the reservation holds.
    BeyondHold,
    /// A call of `listen.settle` has no token that is known.
    Unauthorized,
    /// The reporter is not bound to the route of the reservation.
    Foreign,
}

impl ReportProblem {
    /// Every problem, in the order of declaration.
    pub const ALL: [Self; 10] = [
        Self::Malformed,
        Self::TooLarge,
        Self::NoReservation,
        Self::OtherEvent,
        Self::Forged,
        Self::NoSecret,
        Self::Absurd,
        Self::BeyondHold,
        Self::Unauthorized,
        Self::Foreign,
    ];

    /// The label in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
            Self::NoReservation => "no_reservation",
            Self::OtherEvent => "other_event",
            Self::Forged => "forged",
            Self::NoSecret => "no_secret",
            Self::Absurd => "absurd",
            Self::BeyondHold => "beyond_hold",
            Self::Unauthorized => "unauthorized",
            Self::Foreign => "foreign",
        }
    }
}

/// The labels of what a report changed.
pub(super) const RESULTS: [&str; 5] = ["renewed", "charged", "late", "repeated", "forgotten"];

/// The counters of one process.
#[derive(Debug, Default)]
pub struct SettlementCounters {
    /// Whether reports may arrive.
    is_used: AtomicBool,
    results: [AtomicU64; RESULTS.len()],
    problems: [AtomicU64; ReportProblem::ALL.len()],
    /// Requests without a count of their tokens: complete responses, and cut ones.
    unmetered: [AtomicU64; 2],
    /// Settlements that never reached the store: the queue was full, or the store gave no answer.
    dropped: [AtomicU64; 2],
    failed_calls: AtomicU64,
    /// Requests that used more than they held, and the tokens above it: of an estimate, and of a
    /// bound.
    debts: [AtomicU64; 2],
    debt_tokens: [AtomicU64; 2],
}

/// What a request held that used more.
const HOLDS: [&str; 2] = ["estimate", "bound"];

impl SettlementCounters {
    /// Shows the counters in the metrics from now on.
    pub fn set_used(&self) {
        self.is_used.store(true, Relaxed);
    }

    /// Whether reports may arrive.
    pub(super) fn is_used(&self) -> bool {
        self.is_used.load(Relaxed)
    }

    /// Counts what a report changed.
    pub fn settled(&self, settled: Settled) {
        let at = match settled {
            Settled::Renewed | Settled::Reopened(_) => 0,
            Settled::Charged(_) => 1,
            Settled::Late { .. } => 2,
            Settled::Repeated => 3,
            Settled::Forgotten => 4,
        };
        add(&self.results, at, 1);
    }

    /// Counts a report that is not used, or not as it is.
    pub fn problem(&self, problem: ReportProblem) {
        add(&self.problems, problem as usize, 1);
    }

    /// Counts a request that reached an upstream and has no count of its tokens.
    pub fn unmetered(&self, is_complete: bool) {
        add(&self.unmetered, usize::from(!is_complete), 1);
    }

    /// Counts the tokens that a request used above its estimate, and above its bound.
    pub fn debt(&self, of_estimate: u64, of_bound: u64) {
        for (at, tokens) in [of_estimate, of_bound].into_iter().enumerate() {
            if tokens > 0 {
                add(&self.debts, at, 1);
                add(&self.debt_tokens, at, tokens);
            }
        }
    }

    /// Counts a settlement for which the queue had no room.
    pub fn dropped_by_queue(&self) {
        add(&self.dropped, 0, 1);
    }

    /// Counts settlements for which the store gave no answer in all attempts.
    pub fn dropped_by_store(&self, count: usize) {
        add(&self.dropped, 1, count as u64);
    }

    /// Counts a call of the store without an answer.
    pub fn call_failed(&self) {
        self.failed_calls.fetch_add(1, Relaxed);
    }

    /// The counts by result.
    pub(super) fn results(&self) -> impl Iterator<Item = (&'static str, u64)> {
        RESULTS.into_iter().zip(self.results.iter().map(|count| count.load(Relaxed)))
    }

    /// The counts by problem.
    pub(super) fn problems(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let labels = ReportProblem::ALL.into_iter().map(ReportProblem::label);
        labels.zip(self.problems.iter().map(|count| count.load(Relaxed)))
    }

    /// The counts of requests without a count of their tokens, by how they ended.
    pub(super) fn unmetered_requests(&self) -> impl Iterator<Item = (&'static str, u64)> {
        ["complete", "cut"].into_iter().zip(self.unmetered.iter().map(|count| count.load(Relaxed)))
    }

    /// The counts of requests that used more than they held, by what they held.
    pub(super) fn debts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        HOLDS.into_iter().zip(self.debts.iter().map(|count| count.load(Relaxed)))
    }

    /// The tokens that requests used above what they held.
    pub(super) fn debt_tokens(&self) -> impl Iterator<Item = (&'static str, u64)> {
        HOLDS.into_iter().zip(self.debt_tokens.iter().map(|count| count.load(Relaxed)))
    }

    /// The counts of settlements that were dropped, by cause.
    pub(super) fn dropped(&self) -> impl Iterator<Item = (&'static str, u64)> {
        ["queue", "store"].into_iter().zip(self.dropped.iter().map(|count| count.load(Relaxed)))
    }

    /// The calls of the store without an answer.
    pub(super) fn failed_calls(&self) -> u64 {
        self.failed_calls.load(Relaxed)
    }
}

fn add<const N: usize>(counters: &[AtomicU64; N], at: usize, count: u64) {
    if let Some(counter) = counters.get(at) {
        counter.fetch_add(count, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_counted_under_its_label() {
        let counters = SettlementCounters::default();
        for (at, problem) in ReportProblem::ALL.into_iter().enumerate() {
            assert_eq!(problem as usize, at, "{problem:?}");
            (0..=at).for_each(|_| counters.problem(problem));
        }
        let counts: Vec<_> = counters.problems().collect();
        assert_eq!(counts[0], ("malformed", 1));
        assert_eq!(counts[7], ("beyond_hold", 8));
    }

    #[test]
    fn every_result_is_counted_under_its_label() {
        let counters = SettlementCounters::default();
        let results = [
            Settled::Renewed,
            Settled::Charged(7),
            Settled::Late { tokens: 7, replaced: None },
            Settled::Repeated,
            Settled::Forgotten,
        ];
        for (at, result) in results.into_iter().enumerate() {
            (0..=at).for_each(|_| counters.settled(result));
        }
        let counts: Vec<_> = counters.results().collect();
        let expected =
            [("renewed", 1), ("charged", 2), ("late", 3), ("repeated", 4), ("forgotten", 5)];
        assert_eq!(counts, expected);
    }
}
