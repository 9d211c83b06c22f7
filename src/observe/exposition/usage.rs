//! Reports of usage, and the ledger.

use std::{collections::BTreeMap, fmt};

use prometheus_client::encoding::DescriptorEncoder;
use tollgate_core::limit::model_tag::ModelTag;

use super::{Scrape, family::Family};
use crate::observe::metrics::{ModelUsage, UNSPLIT};

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
        Family::counter(encoder, "settlement_failures", help)?.total(counters.failed_calls())?;
        self.model_usage(encoder)?;
        self.model_costs(encoder)
    }

    /// The tokens by model. All series exist from the start: the increase of one that begins with a
    /// number is less than that number.
    fn model_usage(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let series = self.metrics.series();
        let expired = self.expired_tokens(&series.usage);
        let mut models: Vec<_> = series.usage.iter().collect();
        models.sort_by_key(|(_, model)| &model.name);
        let help = "Tokens of settled requests, by model, kind, and where their number comes from.";
        let mut family = Family::counter(encoder, "settled_tokens", help)?;
        for (tag, model) in &models {
            let labels =
                |kind, basis| [("model", model.name.as_str()), ("kind", kind), ("basis", basis)];
            for (kind, tokens) in model.reported() {
                family.count(&labels(kind, "reported"), tokens)?;
            }
            family.count(&labels(UNSPLIT, "estimated"), model.estimated())?;
            let expired = expired.get(tag).copied().unwrap_or(0);
            family.count(&labels(UNSPLIT, "expired"), expired)?;
        }
        let help =
            "Tokens that were charged for expired reservations, and that a late report replaced.";
        let mut family = Family::counter(encoder, "replaced_tokens", help)?;
        for (_, model) in &models {
            family.count(&[("model", model.name.as_str())], model.replaced())?;
        }
        let help = "The names under which a model is served, and its aliases.";
        let mut family = Family::info(encoder, "model", help)?;
        for (_, ModelUsage { name, served_names, .. }) in models {
            for served in served_names {
                family.labels(&[("model", name.as_str()), ("model_name", served.as_str())])?;
            }
        }
        Ok(())
    }

    /// The costs by model, where models have prices.
    fn model_costs(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let series = self.metrics.series();
        if !series.has_prices {
            return Ok(());
        }
        let mut models: Vec<_> = series.usage.iter().collect();
        models.sort_by_key(|(_, model)| &model.name);
        let help =
            "Cost of settled requests in micro-units, by model, and where their usage comes from.";
        let mut family = Family::counter(encoder, "settled_cost", help)?;
        for (_, model) in &models {
            let [reported, estimated, expired] = model.costs();
            for (basis, cost) in
                [("reported", reported), ("estimated", estimated), ("expired", expired)]
            {
                family.count(&[("model", model.name.as_str()), ("basis", basis)], cost)?;
            }
        }
        let help = "Cost in micro-units that was charged for expired reservations, and that a late report replaced.";
        let mut family = Family::counter(encoder, "replaced_cost", help)?;
        for (_, model) in models {
            family.count(&[("model", model.name.as_str())], model.replaced_cost())?;
        }
        Ok(())
    }

    /// The tokens of expired reservations, by the tags that have series.
    fn expired_tokens(&self, models: &BTreeMap<ModelTag, ModelUsage>) -> BTreeMap<ModelTag, u64> {
        let mut sums = BTreeMap::new();
        let expired = self.status.store.iter().flat_map(|it| it.reservations.expired_tokens.sums());
        for (tag, tokens) in expired {
            let tag = if models.contains_key(&tag) { tag } else { ModelTag::NONE };
            *sums.entry(tag).or_default() += tokens;
        }
        sums
    }

    pub(super) fn ledger(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let counters = self.metrics.ledger();
        if !counters.is_kept() {
            return Ok(());
        }
        // What could not be read has no value: an earlier one would hide it.
        if let Some(status) = counters.status() {
            let help = "Entries of all chains of the ledger.";
            Family::gauge(encoder, "ledger_entries", help, None)?.alone(status.entries)?;
            let help = "Settled requests that have no record in the ledger yet, of all replicas.";
            Family::gauge(encoder, "ledger_pending", help, None)?.alone(status.pending)?;
            let help = "Entries of the ledger that were not exported.";
            Family::gauge(encoder, "ledger_unexported", help, None)?.alone(status.unexported)?;
        }
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
