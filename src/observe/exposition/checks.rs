//! Checks by what decided them, and by who sent them.

use std::{fmt, sync::atomic::Ordering::Relaxed};

use prometheus_client::encoding::DescriptorEncoder;
use tollgate_core::route::OnOutage;

use super::{Scrape, family::Family};
use crate::observe::{check_result::CheckResult, metrics::OutageAllowed};

impl Scrape {
    pub(super) fn checks(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let series = self.metrics.series();
        // A series appears with its first count: all reasons of all routes would be thousands.
        let mut family =
            Family::counter(encoder, "checks", "Checks by decision, reason and route.")?;
        for (route, counters) in &series.routes {
            for result in CheckResult::all() {
                let count =
                    counters.results.get(result.slot()).map_or(0, |count| count.load(Relaxed));
                if count > 0 {
                    family.count(
                        &[
                            ("decision", result.decision()),
                            ("reason", result.reason()),
                            ("route", route),
                        ],
                        count,
                    )?;
                }
            }
        }
        let help = "Checks by kind of credential, decision and reason.";
        let mut family = Family::counter(encoder, "credential_checks", help)?;
        for (kind, results) in self.metrics.credentials() {
            for result in CheckResult::all() {
                let count = results.get(result.slot()).map_or(0, |count| count.load(Relaxed));
                if count > 0 {
                    let (decision, reason) = (result.decision(), result.reason());
                    let labels = [("credential", kind), ("decision", decision), ("reason", reason)];
                    family.count(&labels, count)?;
                }
            }
        }
        let help = "Time from the start of a check to the end of its answer.";
        let mut family = Family::histogram(encoder, "check_duration", help)?;
        for (route, counters) in &series.routes {
            if counters.durations.is_empty() {
                continue;
            }
            family.durations_of(&[("route", route.as_str())], &counters.durations)?;
        }
        let help = "Checks that asked for a model, by decision; models that the file does not name are other.";
        let mut family = Family::counter(encoder, "model_checks", help)?;
        for (model, counters) in &series.models {
            family.decisions("model", model, counters)?;
        }
        let mut family =
            Family::counter(encoder, "limit_denied", "Checks that a limit had no room for.")?;
        for (limit, count) in &series.limits {
            family.count(&[("limit", limit.as_str())], count.load(Relaxed))?;
        }
        let help = "Checks that were denied by a limit whose refusal of an earlier check was remembered, without a call to the store.";
        Family::counter(encoder, "remembered_denials", help)?.total(self.metrics.remembered())?;
        let help = "Allowed checks that a rule or a limit in shadow would have denied.";
        let mut family = Family::counter(encoder, "would_deny", help)?;
        for ((route, rule, reason), count) in self.metrics.would_deny() {
            let labels = [("route", route.as_str()), ("rule", rule.as_str()), ("reason", reason)];
            family.count(&labels, count)?;
        }
        let help = "Buckets of limits that are remembered to be used up.";
        Family::gauge(encoder, "remembered_refusals", help, None)?.alone(self.status.refusals)?;
        let help =
            "Checks that were denied for a member of the request, with reason field_forbidden.";
        let mut family = Family::counter(encoder, "forbidden_members", help)?;
        for (member, count) in &series.members {
            family.count(&[("member", member.as_str())], count.load(Relaxed))?;
        }
        let help = "Checks that a panic ended.";
        Family::counter(encoder, "panics", help)?.total(self.metrics.panics())
    }

    pub(super) fn issuers(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Checks whose credential names an issuer of the policy, by decision.";
        let mut family = Family::counter(encoder, "issuer_checks", help)?;
        for (issuer, counters) in &self.metrics.series().issuers {
            family.decisions("issuer", issuer, counters)?;
        }
        Ok(())
    }

    pub(super) fn subjects(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(subjects) = self.metrics.subjects() else { return Ok(()) };
        let help = "Checks of the busiest subjects since each became one of them, and of the rest as other.";
        let mut family = Family::counter(encoder, "subject_checks", help)?;
        family.count_holders("subject", &subjects)
    }

    pub(super) fn actors(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(actors) = self.metrics.actors() else { return Ok(()) };
        let help =
            "Checks of the busiest actors since each became one of them, and of the rest as other.";
        let mut family = Family::counter(encoder, "actor_checks", help)?;
        family.count_holders("actor", &actors)
    }

    pub(super) fn outages(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Routes that use the store, by their behaviour in its outage.";
        let mut family = Family::gauge(encoder, "routes", help, None)?;
        for (on_outage, count) in OnOutage::ALL.iter().zip(self.metrics.series().on_outage) {
            family.value(&[("on_outage", on_outage.label())], count)?;
        }
        let help = "Requests that were allowed although the store did not answer, by on_outage.";
        let mut family = Family::counter(encoder, "outage_allowed", help)?;
        let OutageAllowed { allow, local } = self.metrics.outage_allowed();
        for (on_outage, count) in [(OnOutage::Allow, allow), (OnOutage::Local, local)] {
            family.count(&[("on_outage", on_outage.label())], count.load(Relaxed))?;
        }
        Ok(())
    }
}
