//! Reports of usage, and the ledger.

use std::fmt;

use prometheus_client::encoding::DescriptorEncoder;

use super::{Scrape, family::Family};

impl Scrape {
    pub(super) fn settlements(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let counters = self.metrics.settlements();
        if !counters.is_used() {
            return Ok(());
        }
        let help = "Reports of usage that the store took, by what they changed.";
        let mut family = Family::counter(encoder, "settlements", help)?;
        for (result, count) in counters.results() {
            family.count(&[("result", result)], count)?;
        }
        let help = "Entries of the proxy's access log that were not used, or not as they were.";
        let mut family = Family::counter(encoder, "report_problems", help)?;
        for (problem, count) in counters.problems() {
            family.count(&[("problem", problem)], count)?;
        }
        let help =
            "Requests that reached an upstream and whose tokens are not known, by their end.";
        let mut family = Family::counter(encoder, "unmetered", help)?;
        for (ending, count) in counters.unmetered_requests() {
            family.count(&[("ending", ending)], count)?;
        }
        let help = "Requests that used more tokens than they held, by what they held.";
        let mut family = Family::counter(encoder, "debts", help)?;
        for (hold, count) in counters.debts() {
            family.count(&[("hold", hold)], count)?;
        }
        let help = "Tokens that requests used above what they held.";
        let mut family = Family::counter(encoder, "debt_tokens", help)?;
        for (hold, count) in counters.debt_tokens() {
            family.count(&[("hold", hold)], count)?;
        }
        let help = "Settlements that never reached the store: their holds expire.";
        let mut family = Family::counter(encoder, "settlements_dropped", help)?;
        for (cause, count) in counters.dropped() {
            family.count(&[("cause", cause)], count)?;
        }
        let help = "Calls with settlements that the store did not answer; they are repeated.";
        Family::counter(encoder, "settlement_failures", help)?.total(counters.failed_calls())
    }

    pub(super) fn ledger(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let counters = self.metrics.ledger();
        // Without a ledger there is nothing to count.
        let Some(status) = counters.status() else { return Ok(()) };
        let help = "Entries of all chains of the ledger.";
        Family::gauge(encoder, "ledger_entries", help, None)?.alone(status.entries)?;
        let help = "Settled requests that have no record in the ledger yet, of all replicas.";
        Family::gauge(encoder, "ledger_pending", help, None)?.alone(status.pending)?;
        let help = "Entries of the ledger that were not exported.";
        Family::gauge(encoder, "ledger_unexported", help, None)?.alone(status.unexported)?;
        let help = "Entries of the ledger that were removed, by whether they had been exported.";
        let mut family = Family::counter(encoder, "ledger_trimmed", help)?;
        for (exported, count) in counters.trimmed_entries() {
            family.count(&[("exported", exported)], count)?;
        }
        for (name, help, total) in counters.totals() {
            Family::counter(encoder, name, help)?.total(total)?;
        }
        Ok(())
    }
}
