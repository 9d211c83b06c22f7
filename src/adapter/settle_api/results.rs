//! The answer of a call: one result for each entry, in the order of the entries.

use std::collections::VecDeque;

use serde::Serialize;
use tollgate_core::{
    admission::{Settled, Settlement},
    limit::settled_cost::SettledCost,
};

/// What became of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub(super) enum EntryResult {
    /// The request is settled.
    Settled {
        /// The tokens that it is charged; those that are known of it where no limit counts tokens.
        tokens: u64,
        /// What it costs, in micro-units; `None` of a model without a price.
        #[serde(skip_serializing_if = "Option::is_none")]
        cost: Option<u64>,
        /// Whether its holds had expired, and it was charged otherwise before.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        late: bool,
    },
    /// The holds of the request are renewed.
    Renewed,
    /// The request was admitted in an outage of the store, which gets the report later.
    Accepted,
    /// The request was settled before.
    Duplicate,
    /// The reservation is older than the store remembers what was settled.
    Expired,
    /// The text is no reservation, or was made with another secret.
    Unknown,
    /// The reporter is not bound to the route of the request.
    Foreign,
    /// The entry cannot be read.
    Invalid {
        /// Why it cannot be read.
        message: String,
    },
}

impl EntryResult {
    /// The result of a report that was applied; `None` where this replica keeps it for the store.
    pub(super) fn of(settlement: &Settlement, settled: Option<Settled>) -> Self {
        let Some(settled) = settled else { return Self::Accepted };
        let late = match settled {
            Settled::Renewed | Settled::Reopened(_) => return Self::Renewed,
            Settled::Repeated => return Self::Duplicate,
            Settled::Forgotten => return Self::Expired,
            Settled::Charged(_) => false,
            Settled::Late { .. } => true,
        };
        // What was charged at admission stays charged, whatever the server counted.
        let fixed = settlement.reservation.fixed_tokens();
        let tokens = fixed.or(settled.tokens()).unwrap_or(0);
        let cost = SettledCost::of(settlement, settled).map(|settled| settled.cost);
        Self::Settled { tokens, cost, late }
    }
}

/// The results of a call.
#[derive(Debug, Serialize)]
pub(super) struct Results {
    results: Vec<EntryResult>,
    /// The places of the results that the store decides.
    #[serde(skip)]
    pending: VecDeque<usize>,
}

impl Results {
    pub(super) fn with_capacity(entries: usize) -> Self {
        Self { results: Vec::with_capacity(entries), pending: VecDeque::new() }
    }

    /// Adds the result of an entry.
    pub(super) fn push(&mut self, result: EntryResult) {
        self.results.push(result);
    }

    /// Adds the place of a result that the store decides.
    pub(super) fn push_pending(&mut self) {
        self.pending.push_back(self.results.len());
        self.results.push(EntryResult::Accepted);
    }

    /// Sets the first result that is pending.
    pub(super) fn fill(&mut self, result: EntryResult) {
        let place = self.pending.pop_front().and_then(|at| self.results.get_mut(at));
        if let Some(place) = place {
            *place = result;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn results_are_in_the_order_of_the_entries() {
        let mut results = Results::with_capacity(4);
        results.push(EntryResult::Unknown);
        results.push_pending();
        results.push(EntryResult::Invalid { message: "no".into() });
        results.push_pending();
        results.push_pending();
        results.fill(EntryResult::Settled { tokens: 7, cost: None, late: false });
        results.fill(EntryResult::Settled { tokens: 8, cost: Some(26), late: true });
        results.fill(EntryResult::Duplicate);
        let expected = json!({ "results": [
            { "result": "unknown" },
            { "result": "settled", "tokens": 7 },
            { "result": "invalid", "message": "no" },
            { "result": "settled", "tokens": 8, "cost": 26, "late": true },
            { "result": "duplicate" },
        ] });
        assert_eq!(serde_json::to_value(&results).unwrap(), expected);
    }
}
